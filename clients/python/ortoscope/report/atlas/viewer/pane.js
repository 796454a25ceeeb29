"use strict";
/*
 * A layer on a canvas. The cells are on the lower canvas; when only the place of the map changed, what is there is moved
 * by whole pixels and the strips that came into view are drawn. Labels and outlines are on the upper one, drawn anew.
 */
Atlas.Pane = (() => {
  const { element, Sheets, Colours } = Atlas;
  const { state } = Atlas.State;
  const MARGIN = 0.97;
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let theme = {};
  function readTheme() {
    theme = { well: style("--well"), mute: style("--mute"), ink: style("--ink"), card: style("--card"), accent: style("--accent"), notice: style("--notice") };
  }
  readTheme();

  class Pane {
    constructor(layer, number, redraw) {
      Object.assign(this, { layer, number, redraw, painted: null, stale: true, hover: null, level: null });
      this.root = element("div", { className: "pane" });
      this.under = element("canvas", { "aria-hidden": "true" });
      this.over = element("canvas", { className: "over", tabIndex: 0, role: "application", "aria-roledescription": "map" });
      this.name = element("p", { className: "pane-name" }, layer.name);
      this.over.setAttribute("aria-label", `Map of ${layer.name}. Arrow keys go from cell to cell, Enter opens a cell, plus and minus zoom.`);
      this.root.append(this.under, this.over, this.name);
      this.context = this.under.getContext("2d", { alpha: false });
      this.marks = this.over.getContext("2d");
      this.sheetOf = Sheets.get;
      this.arrived = () => { this.stale = true; redraw(); };
    }

    resize() {
      this.dpr = Math.min(2, window.devicePixelRatio || 1);
      this.width = this.root.clientWidth;
      this.height = this.root.clientHeight;
      for (const canvas of [this.under, this.over]) {
        canvas.width = Math.max(1, Math.round(this.width * this.dpr));
        canvas.height = Math.max(1, Math.round(this.height * this.dpr));
      }
      this.painted = null;
    }
    /** Side of the whole map in CSS pixels. */
    side(zoom = state.zoom) { return Math.min(this.width, this.height) * MARGIN * zoom; }
    /** From CSS pixels in the pane to a place of the map. */
    toMap(x, y) {
      const side = this.side();
      return [state.x + (x - this.width / 2) / side, state.y + (y - this.height / 2) / side];
    }
    toPane(x, y) {
      const side = this.side();
      return [this.width / 2 + (x - state.x) * side, this.height / 2 + (y - state.y) * side];
    }

    /** The level to show: the chosen one, or the finest whose cells are large enough; a coarser one while it loads. */
    chooseLevel() {
      const { levels } = this.layer;
      let wanted = state.grid && this.layer.level(state.grid);
      if (!wanted) {
        wanted = levels[0];
        for (const level of levels) if (this.side() / level.grid >= state.detail) wanted = level;
      }
      this.wanted = wanted;
      if (wanted.ready) return wanted;
      wanted.load().then(this.arrived, () => {});
      return [...levels].reverse().find((level) => level.ready && level.grid < wanted.grid) || levels.find((level) => level.ready) || null;
    }

    draw() {
      const level = this.chooseLevel();
      this.level = level;
      const { context, under } = this;
      if (!level) {
        context.fillStyle = theme.well;
        context.fillRect(0, 0, under.width, under.height);
        return;
      }
      const side = this.side() * this.dpr;
      const view = { level, side, left: Math.round(under.width / 2 - state.x * side), top: Math.round(under.height / 2 - state.y * side) };
      const before = this.painted;
      const whole = { x: 0, y: 0, width: under.width, height: under.height };
      const dx = before ? view.left - before.left : 0;
      const dy = before ? view.top - before.top : 0;
      const moved = before && !this.stale && before.level === level && before.side === side
        && Math.abs(dx) < under.width && Math.abs(dy) < under.height;
      this.view = view;
      if (!moved) {
        this.prepare(whole);
        this.paint(whole);
      } else if (dx || dy) {
        context.globalCompositeOperation = "copy";
        context.drawImage(under, dx, dy);
        context.globalCompositeOperation = "source-over";
        if (dx) this.paint({ x: dx > 0 ? 0 : under.width + dx, y: 0, width: Math.abs(dx), height: under.height });
        if (dy) this.paint({ x: 0, y: dy > 0 ? 0 : under.height + dy, width: under.width, height: Math.abs(dy) });
      }
      this.painted = view;
      this.stale = false;
      under.dataset.grid = String(level.grid);
      this.drawMarks();
    }

    range(rect) {
      const { level: { grid }, side, left, top } = this.view;
      const cell = side / grid;
      const within = (value) => Math.max(0, Math.min(grid, value));
      return [
        within(Math.floor((rect.x - left) / cell)), within(Math.ceil((rect.x + rect.width - left) / cell)),
        within(Math.floor((rect.y - top) / cell)), within(Math.ceil((rect.y + rect.height - top) / cell)),
      ];
    }

    /** Decides how cells are drawn until something else than the place of the map changes. */
    prepare(rect) {
      const { level, side } = this.view;
      const cell = side / level.grid;
      const photos = state.show === "photos" && level.crops && level.crop;
      const sprites = photos ? level.crops : level.icons || (level.crop ? level.crops : null);
      const byCrop = sprites && sprites === level.crops;
      let kind = "whole";
      if (sprites) {
        if (cell < sprites.size / 3) kind = "small";
        else if (this.sheetsIn(rect, sprites, byCrop) * (sprites.perRow * sprites.size) ** 2 > Sheets.room) kind = "small";
      }
      this.how = {
        cell, sprites, byCrop, kind, sizes: Colours.sizes(level), alphas: Colours.alphas(level, this.arrived),
        heat: Colours.heat(level, this.arrived),
        flags: cell >= 34 * this.dpr && !photos && level.icons && level.represents,
      };
      this.context.imageSmoothingQuality = "medium";
    }
    sheetsIn(rect, sprites, byCrop) {
      const { level } = this.view;
      const [c0, c1, r0, r1] = this.range(rect);
      const found = new Set();
      for (let row = r0; row < r1; row++) {
        for (let column = c0; column < c1; column++) {
          const cell = level.map[row * level.grid + column];
          if (cell >= 0) found.add(Math.floor((byCrop ? level.crop[cell * level.nearest] : cell) / sprites.perSheet));
        }
      }
      return found.size;
    }

    /** Draws the cells in a rectangle of the lower canvas. */
    paint(rect) {
      const { context } = this;
      const { level } = this.view;
      context.save();
      context.beginPath();
      context.rect(rect.x, rect.y, rect.width, rect.height);
      context.clip();
      context.fillStyle = theme.well;
      context.fillRect(rect.x, rect.y, rect.width, rect.height);
      const [c0, c1, r0, r1] = this.range(rect);
      for (let row = r0; row < r1; row++) {
        for (let column = c0; column < c1; column++) {
          const cell = level.map[row * level.grid + column];
          if (cell >= 0) this.paintAt(cell);
        }
      }
      context.restore();
      context.globalAlpha = 1;
    }
    /** Draws a cell in its place, as large and opaque as it is to be. */
    paintAt(cell) {
      const { how } = this;
      const { level, left, top } = this.view;
      const [row, column] = [level.row[cell], level.column[cell]];
      const size = how.sizes ? how.sizes[cell] : 1;
      const x0 = Math.round(left + (column + (1 - size) / 2) * how.cell);
      const y0 = Math.round(top + (row + (1 - size) / 2) * how.cell);
      const width = Math.max(1, Math.round(left + (column + (1 + size) / 2) * how.cell) - x0);
      const height = Math.max(1, Math.round(top + (row + (1 + size) / 2) * how.cell) - y0);
      this.context.globalAlpha = how.alphas ? how.alphas[cell] : 1;
      this.paintCell(cell, row, column, x0, y0, width, height);
    }
    paintCell(cell, row, column, x0, y0, width, height) {
      const { context, how } = this;
      const { level } = this.view;
      if (how.heat) {
        context.fillStyle = how.heat.colours[cell] || theme.mute;
        context.fillRect(x0, y0, width, height);
        if (width < 36 * this.dpr || !how.sprites) return;
        const inset = Math.round(width * 0.12);
        [x0, y0, width, height] = [x0 + inset, y0 + inset, width - 2 * inset, height - 2 * inset];
      }
      const place = how.sprites ? (how.byCrop ? level.crop[cell * level.nearest] : cell) : -1;
      if (place < 0) {
        if (!how.heat) {
          context.fillStyle = theme.mute;
          context.fillRect(x0, y0, width, height);
        }
        return;
      }
      const { sprites } = how;
      const sheet = this.sheetOf(sprites.keys[Math.floor(place / sprites.perSheet)], how.kind);
      if (sheet) {
        const [x, y] = Sheets.cut(sprites, place);
        const side = sprites.size * sheet.ratio;
        context.drawImage(sheet.bitmap, x * sheet.ratio, y * sheet.ratio, side, side, x0, y0, width, height);
      } else {
        this.paintCoarser(row, column, x0, y0, width, height);
      }
      if (how.flags && !level.represents[cell]) {
        const leg = Math.round(width * 0.24);
        context.fillStyle = theme.notice;
        context.beginPath();
        context.moveTo(x0 + width - leg, y0);
        context.lineTo(x0 + width, y0);
        context.lineTo(x0 + width, y0 + leg);
        context.fill();
      }
    }
    /** The part of the coarsest level's picture that lies there, until the cell's own is decoded. */
    paintCoarser(row, column, x0, y0, width, height) {
      const { context } = this;
      const coarse = this.layer.levels[0];
      const sprites = coarse.ready && (coarse.icons || coarse.crops);
      const { grid } = this.view.level;
      const cell = sprites ? coarse.at((column + 0.5) / grid, (row + 0.5) / grid) : -1;
      const place = cell < 0 ? -1 : coarse.icons ? cell : coarse.crop[cell * coarse.nearest];
      const sheet = place < 0 ? null : Sheets.get(sprites.keys[Math.floor(place / sprites.perSheet)], "small");
      if (!sheet) {
        context.fillStyle = theme.mute;
        context.fillRect(x0, y0, width, height);
        return;
      }
      const [x, y] = Sheets.cut(sprites, place);
      const part = sprites.size * Math.min(1, coarse.grid / grid);
      const inside = (at) => sprites.size * Math.min(1 - part / sprites.size, ((at / grid) * coarse.grid) % 1);
      context.drawImage(sheet.bitmap, (x + inside(column)) * sheet.ratio, (y + inside(row)) * sheet.ratio,
        part * sheet.ratio, part * sheet.ratio, x0, y0, width, height);
    }

    /** Labels, and outlines of the cells that are pointed at or chosen. */
    drawMarks() {
      const { marks, over } = this;
      marks.setTransform(1, 0, 0, 1, 0, 0);
      marks.clearRect(0, 0, over.width, over.height);
      marks.scale(this.dpr, this.dpr);
      if (state.labels) this.drawLabels();
      const { cell } = state;
      if (this.hover) this.outline(this.hover, 1.5, theme.ink);
      if (cell && cell.layer === this.layer.number) this.outline(cell, 2.5, theme.accent);
      if (this.cross) {
        const [x, y] = this.toPane(...this.cross);
        marks.strokeStyle = theme.ink;
        marks.lineWidth = 1;
        marks.beginPath();
        marks.moveTo(x - 9, y); marks.lineTo(x + 9, y);
        marks.moveTo(x, y - 9); marks.lineTo(x, y + 9);
        marks.stroke();
      }
    }
    outline({ grid, row, column }, width, colour) {
      const { marks } = this;
      const [x, y] = this.toPane(column / grid, row / grid);
      const side = this.side() / grid;
      marks.lineWidth = width + 2;
      marks.strokeStyle = theme.card;
      marks.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
      marks.lineWidth = width;
      marks.strokeStyle = colour;
      marks.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
    }
    /** Labels that do not run into each other, of the cells that have most samples; which ones does not depend on the view. */
    drawLabels() {
      const { marks } = this;
      const { level } = this;
      if (!level.top || !level.layer.classes.length) return;
      const cell = this.side() / level.grid;
      const wide = Math.max(1, 2 ** Math.ceil(Math.log2(116 / cell)));
      const high = Math.max(1, 2 ** Math.ceil(Math.log2(58 / cell)));
      const anchors = level.derived(`labels ${wide} ${high}`, () => spread(level, wide, high));
      const alphas = this.how && this.how.alphas;
      marks.font = "600 11.5px system-ui, sans-serif";
      marks.textAlign = "center";
      marks.textBaseline = "bottom";
      marks.lineJoin = "round";
      marks.lineWidth = 3;
      marks.strokeStyle = theme.card;
      marks.fillStyle = theme.ink;
      for (const index of anchors) {
        const [x, y] = this.toPane((level.column[index] + 0.5) / level.grid, (level.row[index] + 1) / level.grid);
        if (x < -60 || y < 0 || x > this.width + 60 || y > this.height + 20) continue;
        if (alphas && alphas[index] < 0.25) continue;
        const text = shorten(marks, level.layer.classes[level.top[index * level.tops]] || "", Math.max(cell * wide - 10, 70));
        marks.strokeText(text, x, y - 3);
        marks.fillText(text, x, y - 3);
      }
    }
  }

  /** Cells by falling number of samples, each at least so many columns or rows away from all before it. */
  function spread(level, wide, high) {
    const order = Array.from({ length: level.cells }, (_, cell) => cell).sort((left, right) => level.count[right] - level.count[left] || left - right);
    const taken = new Map();
    const block = (row, column) => Math.floor(row / high) * 1000 + Math.floor(column / wide);
    return order.filter((cell) => {
      const [row, column] = [level.row[cell], level.column[cell]];
      for (const down of [-high, 0, high]) {
        for (const right of [-wide, 0, wide]) {
          const other = taken.get(block(row + down, column + right));
          if (other && Math.abs(other[0] - row) < high && Math.abs(other[1] - column) < wide) return false;
        }
      }
      taken.set(block(row, column), [row, column]);
      return true;
    });
  }

  const widths = new Map();
  /** A label up to its first comma, cut where it would run into the next one. */
  function shorten(context, label, room) {
    const key = `${Math.round(room / 8)} ${label}`;
    if (!widths.has(key)) {
      if (widths.size > 4000) widths.clear();
      let text = label.split(",")[0];
      while (text.length > 3 && context.measureText(text).width > room) text = `${text.slice(0, -2).trimEnd()}…`;
      widths.set(key, text);
    }
    return widths.get(key);
  }

  Colours.onTheme(readTheme);
  return Object.assign(Pane, { readTheme });
})();
