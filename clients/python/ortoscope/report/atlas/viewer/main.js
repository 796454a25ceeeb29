"use strict";
/* Pointers, keys, and what is drawn when. */
Atlas.Main = (() => {
  const { layers, byId, Sheets, Colours, Card, Pane, Panels } = Atlas;
  const { state, set, onChange, clamp } = Atlas.State;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let panes = [];
  let current = 0;
  let frame = 0;
  let motion = 0;

  const pane = () => panes[Math.min(current, panes.length - 1)];
  const level = () => (pane() ? pane().level : null);
  const wanted = () => pane().wanted || pane().layer.levels[0];

  /* --- drawing --- */
  function redraw() {
    document.body.removeAttribute("data-still");
    if (!frame) frame = requestAnimationFrame(draw);
  }
  let shownLevel = null;
  function draw() {
    frame = 0;
    for (const each of panes) each.draw();
    Panels.drawMinimap(pane());
    updateCard();
    if (level() !== shownLevel) {
      shownLevel = level();
      Panels.update();
    }
    const heat = pane().how && level() ? Colours.heat(level(), pane().arrived) : null;
    const key = heat ? `${level().key} ${state.colour} ${state.class} ${heat.ramp}` : "";
    if (key !== byId("legend").dataset.key) {
      byId("legend").dataset.key = key;
      Panels.updateLegend(heat);
    }
    const still = Sheets.idle() && panes.every((each) => each.level && each.level === each.wanted);
    document.body.toggleAttribute("data-still", still);  // all that belongs here is drawn
  }
  function repaint() {
    for (const each of panes) each.stale = true;
    redraw();
  }

  function build() {
    const root = byId("panes");
    root.classList.toggle("four", state.layer.length === 4);
    panes = state.layer.map((index) => new Pane(layers[index], index, redraw));
    root.replaceChildren(...panes.map((each) => each.root));
    for (const each of panes) {
      each.name.hidden = layers.length < 2;
      listen(each);
      each.resize();
    }
    current = 0;
    for (const each of panes) {
      const first = each.layer.levels[0];
      Sheets.pin((first.icons || first.crops || { keys: [] }).keys);
      if (!first.ready) first.load().then(each.arrived, () => Panels.say("The map could not be read."));
    }
    redraw();
  }

  let built = "";
  onChange((changes) => {
    if (String(state.layer) !== built) {
      built = String(state.layer);
      build();
      Panels.update();
      return;
    }
    const names = Object.keys(changes);
    const place = names.every((name) => ["x", "y", "zoom", "cell", "card"].includes(name));
    if (place) redraw();
    else {
      repaint();
      Panels.update();
    }
  });

  /* --- the place of the map --- */
  /** The state that has the zoom, and a place of the map where it was in the pane. */
  function zoomed(each, zoom, x, y) {
    const to = clamp(zoom, 1, 48);
    const [mapX, mapY] = each.toMap(x, y);
    const side = each.side(to);
    return { zoom: to, x: mapX - (x - each.width / 2) / side, y: mapY - (y - each.height / 2) / side };
  }
  function moveTo(target) {
    cancelAnimationFrame(motion);
    if (calm.matches) return set(target);
    const from = { x: state.x, y: state.y, zoom: state.zoom };
    const to = { ...from, ...target };
    const begin = performance.now();
    const advance = (now) => {
      const part = clamp((now - begin) / 180, 0, 1);
      const eased = part * (2 - part);
      const zoom = from.zoom * (to.zoom / from.zoom) ** eased;
      // The place moves as 1 / zoom does, so that the point that stays in place does so all the way.
      const share = from.zoom === to.zoom ? eased : (1 / from.zoom - 1 / zoom) / (1 / from.zoom - 1 / to.zoom);
      set(part >= 1 ? to : { zoom, x: from.x + (to.x - from.x) * share, y: from.y + (to.y - from.y) * share });
      if (part < 1) motion = requestAnimationFrame(advance);
    };
    motion = requestAnimationFrame(advance);
  }
  function zoomBy(factor, each = pane(), x = each.width / 2, y = each.height / 2, smooth = true) {
    const target = zoomed(each, state.zoom * factor, x, y);
    if (smooth) moveTo(target);
    else { cancelAnimationFrame(motion); set(target); }
  }
  const home = () => moveTo({ x: 0.5, y: 0.5, zoom: 1 });

  /* --- cells --- */
  const cellAt = (each, x, y) => {
    if (!each.level) return null;
    const index = each.level.at(...each.toMap(x, y));
    return index < 0 ? null : { layer: each.layer.number, grid: each.level.grid, row: each.level.row[index], column: each.level.column[index] };
  };
  const same = (left, right) => (!left && !right) || (left && right && left.grid === right.grid && left.row === right.row && left.column === right.column && left.layer === right.layer);
  function updateCard() {
    const open = state.card && state.cell ? panes.find((each) => each.layer.number === state.cell.layer) : null;
    const hovered = open ? null : panes.find((each) => each.hover);
    const each = open || hovered;
    const cell = open ? state.cell : hovered && hovered.hover;
    if (!each) return Card.hide();
    const of = each.layer.level(cell.grid);
    if (!of.ready) return void of.load().then(redraw, () => {});
    const index = of.map[cell.row * cell.grid + cell.column];
    if (index < 0) return Card.hide();
    const [x, y] = each.toPane(cell.column / cell.grid, cell.row / cell.grid);
    const side = each.side() / cell.grid;
    const beside = { x: x + each.root.offsetLeft, y, side };
    Card.show(of, index, { beside: { ...beside, y: y + each.root.offsetTop }, pinned: Boolean(open), chosen: state.class, close });
  }
  function close() {
    set({ card: 0 });
    focus();
  }
  function say(cell) {
    const of = layers[cell.layer].level(cell.grid);
    if (of.ready) Panels.say(Card.describe(of, of.map[cell.row * cell.grid + cell.column]));
  }
  /** Chooses a cell and brings it into view. */
  function select(each, cell, changes = {}) {
    const [x, y] = [(cell.column + 0.5) / cell.grid, (cell.row + 0.5) / cell.grid];
    const [left, top] = each.toPane(x, y);
    const edge = Math.min(70, each.width / 5);
    const inView = left > edge && top > edge && left < each.width - edge && top < each.height - edge;
    set({ cell, ...changes, ...(inView ? {} : { x, y }), ...(state.card || changes.card ? aboveCard(each, cell) : {}) });
    say(cell);
  }
  /** On a narrow screen the card lies over the lower part of the map: the change that shows the cell above it. */
  function aboveCard(each, cell) {
    return byId("stage").clientWidth < 600 ? { y: (cell.row + 0.5) / cell.grid + (0.3 * each.height) / each.side() } : {};
  }
  function goTo(of, index, open) {
    const cell = { layer: of.layer.number, grid: of.grid, row: of.row[index], column: of.column[index] };
    const each = panes.find((other) => other.layer === of.layer) || pane();
    const zoom = Math.max(state.zoom, (64 * of.grid) / each.side(1));
    set({ cell, card: open ? 1 : 0, x: (cell.column + 0.5) / of.grid, y: (cell.row + 0.5) / of.grid, zoom });
    say(cell);
  }
  /** The next cell in a direction: the one that lies closest, what is off to the side counting twice. */
  function neighbour(each, dx, dy) {
    const of = each.level;
    if (!of) return null;
    const from = state.cell && state.cell.layer === each.layer.number
      ? [((state.cell.column + 0.5) / state.cell.grid) * of.grid - 0.5, ((state.cell.row + 0.5) / state.cell.grid) * of.grid - 0.5] : null;
    let best = -1;
    let least = Infinity;
    const [middleX, middleY] = [state.x * of.grid - 0.5, state.y * of.grid - 0.5];
    for (let index = 0; index < of.cells; index++) {
      const [x, y] = [of.column[index], of.row[index]];
      let cost;
      if (!from) cost = Math.hypot(x - middleX, y - middleY);
      else {
        const along = (x - from[0]) * dx + (y - from[1]) * dy;
        if (along < 0.5) continue;
        cost = along + 2 * Math.abs((x - from[0]) * dy + (y - from[1]) * dx);
      }
      if (cost < least) { least = cost; best = index; }
    }
    return best < 0 ? null : { layer: each.layer.number, grid: of.grid, row: of.row[best], column: of.column[best] };
  }

  /* --- pointers --- */
  function listen(each) {
    const { over } = each;
    const pointers = new Map();
    let moved = 0;
    let lastTap = { time: -1e9, x: 0, y: 0 };
    const at = (event) => {
      const box = over.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    function hover(event) {
      const [x, y] = at(event);
      const cell = event.pointerType === "touch" ? null : cellAt(each, x, y);
      for (const other of panes) {
        other.cross = other === each || panes.length === 1 ? null : each.toMap(x, y);
        if (other !== each) other.hover = null;
      }
      if (!same(cell, each.hover) || panes.length > 1) {
        each.hover = cell;
        redraw();
      }
    }
    over.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      cancelAnimationFrame(motion);
      over.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, at(event));
      current = panes.indexOf(each);
      if (pointers.size === 1) moved = 0;
    });
    over.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId)) return hover(event);
      const [x, y] = at(event);
      const [oldX, oldY] = pointers.get(event.pointerId);
      moved += Math.hypot(x - oldX, y - oldY);
      if (pointers.size === 1) {
        pointers.set(event.pointerId, [x, y]);
        if (moved < 4) return;
        over.classList.add("held");
        each.hover = null;
        const side = each.side();
        set({ x: state.x - (x - oldX) / side, y: state.y - (y - oldY) / side });
      } else {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const before = Math.hypot(oldX - other[0], oldY - other[1]);
        const after = Math.hypot(x - other[0], y - other[1]);
        const side = each.side();
        set({ x: state.x - (x - oldX) / 2 / side, y: state.y - (y - oldY) / 2 / side });
        pointers.set(event.pointerId, [x, y]);
        if (before > 0) zoomBy(after / before, each, (x + other[0]) / 2, (y + other[1]) / 2, false);
      }
    });
    function release(event) {
      if (!pointers.delete(event.pointerId)) return;
      over.classList.remove("held");
      if (moved >= 8 || pointers.size || event.type === "pointercancel") return;
      const [x, y] = at(event);
      const near = Math.hypot(x - lastTap.x, y - lastTap.y) < 30;
      if (event.timeStamp - lastTap.time < 320 && near) {
        lastTap.time = -1e9;
        zoomBy(event.shiftKey ? 0.5 : 2, each, x, y);
        return;
      }
      lastTap = { time: event.timeStamp, x, y };
      const cell = cellAt(each, x, y);
      const open = cell && !(state.card && same(cell, state.cell));
      set({ cell, card: open ? 1 : 0, ...(open ? aboveCard(each, cell) : {}) });
    }
    over.addEventListener("pointerup", release);
    over.addEventListener("pointercancel", release);
    over.addEventListener("pointerleave", () => {
      for (const other of panes) other.cross = null;
      each.hover = null;
      redraw();
    });
    over.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      zoomBy(2 ** clamp((-event.deltaY * lines) / (event.ctrlKey ? 100 : 280), -1, 1), each, ...at(event), false);
    }, { passive: false });
    over.addEventListener("focus", () => { current = panes.indexOf(each); });
    over.addEventListener("keydown", (event) => keys(event, each));
  }

  /* --- keys --- */
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function keys(event, each) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in ARROWS) {
      event.preventDefault();
      const [dx, dy] = ARROWS[event.key];
      if (event.shiftKey) {
        const step = 80 / each.side();
        return set({ x: state.x + dx * step, y: state.y + dy * step });
      }
      const cell = neighbour(each, dx, dy);
      if (cell) select(each, cell);
      return;
    }
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      const cell = state.cell && state.cell.layer === each.layer.number ? state.cell : neighbour(each, 0, 0);
      if (cell) select(each, cell, { card: state.card && state.cell ? 0 : 1 });
    }
  }
  function levelBy(step) {
    const { levels } = pane().layer;
    pane().chooseLevel();
    const at = levels.indexOf(wanted()) + step;
    if (levels[at]) set({ grid: levels[at].grid });
  }
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.altKey || event.ctrlKey || event.metaKey || Panels.dialogOpen()) return;
    if (event.key === "Escape" && !typing) {
      if (state.card) close();
      else if (state.cell) set({ cell: null });
      else if (state.class >= 0) set({ class: -1 });
      return;
    }
    if (typing) return;
    const acts = {
      "/": () => { const search = byId("class-search"); if (search.offsetParent) { search.focus(); search.select(); } },
      "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), "_": () => zoomBy(1 / 1.5), "0": home, Home: home,
      "[": () => levelBy(-1), "]": () => levelBy(1), t: Panels.openTable, "?": () => byId("about-dialog").showModal(),
    };
    if (!(event.key in acts)) return;
    event.preventDefault();
    acts[event.key]();
  });
  byId("zoom-in").addEventListener("click", () => zoomBy(1.8));
  byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.8));
  byId("zoom-home").addEventListener("click", home);
  function focus() { pane().over.focus({ preventScroll: true }); }

  /* --- beginning --- */
  Sheets.onArrival(repaint, redraw);
  Colours.onTheme(() => { byId("legend").dataset.key = "?"; repaint(); Panels.update(); });
  new ResizeObserver(() => {
    for (const each of panes) each.resize();
    redraw();
  }).observe(byId("panes"));
  function start() {
    built = String(state.layer);
    build();
    Panels.build();
    Panels.update();
    // The map is there at once, whatever else is still being read.
    const first = pane().layer.levels[0];
    first.load().then(() => { pane().draw(); redraw(); }, () => {});
  }
  return { start, pane, level, wanted, goTo, focus };
})();
Atlas.Main.start();
