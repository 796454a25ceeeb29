"use strict";
/* What is known of a cell: its icon, classes, numbers, and real images. */
Atlas.Card = (() => {
  const { byId, element, shown, Sheets } = Atlas;
  const card = byId("card");
  let showing = "";

  /** The cell in words, for the card's heading and those who listen. */
  function describe(level, index) {
    const { classes } = level.layer;
    const parts = [`Row ${level.row[index] + 1}, column ${level.column[index] + 1} of ${level.grid}`, `${level.count[index]} samples`];
    if (level.top) parts.push(`top class ${classes[level.top[index * level.tops]]}`);
    if (level.represents && !level.represents[index]) parts.push("the icon does not represent the cell");
    return parts.join(", ");
  }

  function bars(level, index, chosen) {
    const { classes } = level.layer;
    const rows = [];
    for (let at = 0; at < level.tops; at++) rows.push([level.top[index * level.tops + at], level.topValue[index * level.tops + at]]);
    if (chosen >= 0 && level.top && chosen < classes.length && !rows.some(([name]) => name === chosen)) {
      const values = level.attribution(chosen, () => {});
      if (values && (level.columns || values[index])) rows.push([chosen, values[index]]);
    }
    if (!rows.length) return null;
    const most = Math.max(...rows.map(([, value]) => Math.abs(value)), 1e-12);
    const list = element("div", { className: "bars", role: "list", "aria-label": "Mean attribution to classes" });
    for (const [name, value] of rows) {
      const bar = element("div", { className: value < 0 ? "bar against" : "bar", "aria-hidden": "true" });
      bar.style.width = `${Math.max(1, (100 * Math.abs(value)) / most)}%`;
      list.append(element("div", { className: "label", role: "listitem" }, classes[name] || `class ${name}`), bar, element("div", { className: "value" }, shown(value)));
    }
    return list;
  }

  function crops(level, index, still) {
    if (!level.crop || !level.crops) return null;
    const row = element("div", { className: "crops" });
    for (let at = 0; at < level.nearest; at++) {
      const place = level.crop[index * level.nearest + at];
      if (place < 0) continue;
      const image = level.near ? level.near[index * level.nearest + at] : -1;
      const path = level.paths[image] || (image >= 0 ? `image ${image}` : "real image");
      const canvas = element("canvas", { width: 1, height: 1, role: "img" });
      canvas.setAttribute("aria-label", `Part of ${path}`);
      row.append(element("figure", { title: path }, canvas, element("figcaption", {}, path.split("/").pop())));
      Sheets.drawOn(canvas, level.crops, place, still).catch(() => {});
    }
    return row.children.length ? row : null;
  }

  function numbers(level, index) {
    const parts = [`${level.count[index].toLocaleString("en")} samples`];
    if (level.dispersion) parts.push(`dispersion ${shown(level.dispersion[index])}`);
    if (level.score && level.icons) parts.push(`icon score ${shown(level.score[index])}`);
    if (level.shared && level.icons && level.shared[index] >= 0 && level.shared[index] !== index) parts.push("shares a neighbour’s icon");
    return parts.join(" · ");
  }

  /**
   * Shows a cell.
   *
   * beside: its rectangle in the stage {x, y, side}; pinned: it stays, and can be pointed at; close: called by its button.
   */
  function show(level, index, { beside, pinned, chosen, close }) {
    const key = `${level.key} ${index} ${pinned} ${chosen}`;
    if (key !== showing) {
      showing = key;
      const still = () => showing === key;
      const head = element("div", { className: "card-head" });
      if (level.icons) {
        const icon = element("canvas", { width: 1, height: 1, role: "img" });
        icon.setAttribute("aria-label", "What the average of the cell looks for");
        head.append(icon);
        Sheets.drawOn(icon, level.icons, index, still).catch(() => {});
      } else {
        head.append(element("span"));
      }
      const { classes } = level.layer;
      const title = level.top ? classes[level.top[index * level.tops]] : `Cell ${level.row[index] + 1}, ${level.column[index] + 1}`;
      const words = element("div", {}, element("h2", {}, title), element("p", { className: "facts-line" }, numbers(level, index)));
      if (level.represents && level.icons && !level.represents[index]) words.append(element("p", { className: "facts-line flag" }, "does not represent its cell"));
      level.overlays.forEach((overlay, at) => {
        const value = level.values[at][index];
        const text = overlay.categories.length ? overlay.categories[value] : shown(value);
        words.append(element("p", { className: "facts-line" }, `${overlay.name}: ${text}`));
      });
      const button = element("button", { type: "button", className: "close" }, "×");
      button.setAttribute("aria-label", "Close");
      button.addEventListener("click", close);
      head.append(words, button);
      card.replaceChildren(...[head, bars(level, index, chosen), crops(level, index, still)].filter(Boolean));
      if (pinned) {
        const { grid } = level;
        card.append(element("p", { className: "note" }, `Row ${level.row[index] + 1}, column ${level.column[index] + 1} of ${grid} × ${grid}`));
      }
      card.classList.toggle("pinned", pinned);
      card.hidden = false;
    }
    place(beside);
  }
  /** Beside the cell where there is room, inside of the stage. */
  function place({ x, y, side }) {
    const stage = card.parentElement;
    const gap = 10;
    let left = x + side + gap;
    if (left + card.offsetWidth > stage.clientWidth - 8) left = x - gap - card.offsetWidth;
    if (left < 8) left = Math.max(8, stage.clientWidth - card.offsetWidth - 8);
    const top = Math.max(8, Math.min(y + side / 2 - card.offsetHeight / 2, stage.clientHeight - card.offsetHeight - 8));
    card.style.left = `${left}px`;
    card.style.top = `${top}px`;
  }
  function hide() {
    showing = "";
    card.hidden = true;
  }
  return { show, hide, describe };
})();
