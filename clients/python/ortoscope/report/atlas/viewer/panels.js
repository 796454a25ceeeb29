"use strict";
/* Everything around the map: layers, classes, choices, legend, overview, table, and the picture for print. */
Atlas.Panels = (() => {
  const { layers, byId, element, shown, Sheets, Colours, Card } = Atlas;
  const { state, set, clamp } = Atlas.State;
  const layer = () => layers[state.layer[0]];
  const dialogOpen = () => [...document.querySelectorAll("dialog")].some((dialog) => dialog.open);

  /* --- layers --- */
  const thumbnails = new Map();
  function buildLayers() {
    if (layers.length < 2) return;
    byId("layer-part").hidden = false;
    for (const each of layers) {
      const canvas = element("canvas", { width: 88, height: 88, "aria-hidden": "true" });
      const pick = element("button", { type: "button", className: "layer-pick" }, canvas,
        element("span", {}, each.name, element("small", {}, each.samples ? `${each.samples.toLocaleString("en")} samples` : "")));
      pick.addEventListener("click", () => set({ layer: [each.number], cell: null, card: 0 }));
      const beside = element("button", { type: "button", className: "beside", title: "Show beside the others" }, "beside");
      beside.setAttribute("aria-label", `Show ${each.name} beside the others`);
      beside.addEventListener("click", () => {
        const kept = state.layer.filter((index) => index !== each.number);
        const next = kept.length < state.layer.length ? kept : [...kept, each.number].slice(-4);
        if (next.length) set({ layer: next });
      });
      byId("layers").append(element("div", { className: "layer" }, pick, beside));
      thumbnails.set(each, { canvas, pick, beside });
    }
  }
  /** The density of each layer, lit up by the chosen class. */
  function drawThumbnail(each, canvas, redraw) {
    const level = each.levels[0];
    if (!level.ready) return void level.load().then(redraw, () => {});
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    const alphas = Colours.alphas(level, redraw);
    const cell = canvas.width / level.grid;
    const most = level.derived("most", () => level.count.reduce((found, count) => Math.max(found, count), 0));
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
    for (let index = 0; index < level.cells; index++) {
      context.globalAlpha = alphas ? alphas[index] : 0.25 + 0.75 * Math.sqrt(level.count[index] / most);
      context.fillRect(level.column[index] * cell, level.row[index] * cell, Math.ceil(cell), Math.ceil(cell));
    }
  }
  function updateLayers() {
    for (const [each, { canvas, pick, beside }] of thumbnails) {
      const on = state.layer.includes(each.number);
      pick.setAttribute("aria-pressed", String(on));
      beside.setAttribute("aria-pressed", String(on && state.layer.length > 1));
      beside.disabled = on && state.layer.length === 1;
      drawThumbnail(each, canvas, updateLayers);
    }
  }

  /* --- classes --- */
  const search = byId("class-search");
  const list = byId("class-list");
  const LISTED = 200;
  let options = [];
  let active = -1;
  function updateClasses() {
    const { classes, levels } = layer();
    byId("class-part").hidden = !classes.length;
    if (!classes.length) return;
    const level = levels[0];
    const strength = level.ready && level.top ? level.strongest() : new Float32Array(classes.length);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    classes.forEach((label, index) => {
      const text = label.toLowerCase();
      if (words.every((word) => text.includes(word))) found.push(index);
    });
    found.sort((left, right) => strength[right] - strength[left] || left - right);
    const most = strength.reduce((kept, value) => Math.max(kept, value), 1e-12);
    options = found.slice(0, LISTED);
    active = Math.min(active, options.length - 1);
    list.replaceChildren(...options.map((index, at) => {
      const meter = element("i", { className: "meter" });
      meter.style.width = `${(100 * strength[index]) / most}%`;
      const option = element("div", { className: "option", role: "option", id: `class-${index}`, title: classes[index] },
        element("span", {}, classes[index]), element("small", {}, strength[index] > 0 ? shown(strength[index]) : ""), meter);
      option.setAttribute("aria-selected", String(index === state.class));
      option.addEventListener("click", () => choose(index));
      option.classList.toggle("active", at === active);
      return option;
    }));
    if (!options.length) list.append(element("p", {}, "No class fits."));
    else if (found.length > LISTED) list.append(element("p", {}, `${found.length - LISTED} more; search to see them.`));
    if (active >= 0) search.setAttribute("aria-activedescendant", `class-${options[active]}`);
    else search.removeAttribute("aria-activedescendant");
    byId("class-chosen").hidden = state.class < 0;
    if (state.class >= 0) {
      byId("class-name").textContent = classes[state.class] || `class ${state.class}`;
      const here = Atlas.Main.level();
      byId("class-note").textContent = here && !here.columns && here.top
        ? `At this grid only cells that name the class among their ${here.tops} strongest${state.sign === "-" ? ` (or ${here.lows} weakest)` : ""} are known.` : "";
    }
  }
  function choose(index) {
    set({ class: index === state.class ? -1 : index, ...(state.colour === "class" && index === state.class ? { colour: "" } : {}) });
  }
  search.addEventListener("input", () => { active = search.value ? 0 : -1; updateClasses(); });
  search.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves && options.length) {
      event.preventDefault();
      active = clamp(active + moves[event.key], 0, options.length - 1);
      updateClasses();
      byId(`class-${options[active]}`).scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter" && active >= 0) {
      event.preventDefault();
      choose(options[active]);
    } else if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      if (search.value) { search.value = ""; active = -1; updateClasses(); } else if (state.class >= 0) set({ class: -1 });
      else Atlas.Main.focus();
    }
  });
  byId("class-clear").addEventListener("click", () => set({ class: -1, ...(state.colour === "class" ? { colour: "" } : {}) }));

  /* --- choices --- */
  for (const name of ["sign", "show"]) {
    byId(name).addEventListener("change", (event) => set({ [name]: event.target.value }));
  }
  byId("norm").addEventListener("change", (event) => set({ norm: event.target.value }));
  byId("colour").addEventListener("change", (event) => set({ colour: event.target.value }));
  byId("level").addEventListener("change", (event) => set({ grid: Number(event.target.value) }));
  byId("labels").addEventListener("change", (event) => set({ labels: event.target.checked ? 1 : 0 }));
  for (const name of ["gain", "density", "detail"]) {
    byId(name).addEventListener("input", (event) => set({ [name]: Number(event.target.value) }));
  }
  function fill(select, choices, value) {
    const wanted = JSON.stringify(choices);
    if (select.dataset.choices !== wanted) {
      select.dataset.choices = wanted;
      select.replaceChildren(...choices.map(([key, name]) => element("option", { value: key }, name)));
    }
    select.value = value;
  }
  function updateChoices() {
    const level = Atlas.Main.level();
    const photos = layer().levels.some((each) => each.crops);
    const icons = layer().levels.some((each) => each.icons);
    const shown = !photos ? "icons" : !icons ? "photos" : state.show;
    for (const input of byId("show").querySelectorAll("input")) {
      input.checked = input.value === shown;
      input.disabled = input.value === "photos" ? !photos : !icons;
    }
    for (const input of byId("sign").querySelectorAll("input")) input.checked = input.value === state.sign;
    const grids = layer().levels.map((each) => [String(each.grid), `${each.grid} × ${each.grid}`]);
    const now = level ? ` (${level.grid})` : "";
    fill(byId("level"), [["0", `auto${state.grid ? "" : now}`], ...grids], String(layer().level(state.grid) ? state.grid : 0));
    fill(byId("colour"), Colours.choices(level || layer().levels[0]), state.colour);
    byId("norm").value = state.norm;
    byId("labels").checked = Boolean(state.labels);
    byId("labels").closest("label").hidden = !layer().classes.length;
    for (const name of ["gain", "density", "detail"]) byId(name).value = state[name];
    byId("density").setAttribute("aria-valuetext", state.density >= 7 ? "off" : `${shown2(2 ** state.density)} times`);
    updateFacts();
  }
  const shown2 = (value) => String(Number(value.toPrecision(2)));
  function updateFacts() {
    const { tap, model, dataset, samples, images, quality, partial } = layer();
    const parts = [[tap, model].filter(Boolean).join(" of ")];
    if (samples) parts.push(`${samples.toLocaleString("en")} samples${images ? ` of ${images.toLocaleString("en")} images` : ""}${dataset ? ` (${dataset})` : ""}`);
    if (quality[2]) parts.push(`trustworthiness ${quality[0]}`);
    if (partial) parts.push("unfinished");
    byId("facts").textContent = parts.filter(Boolean).join(" · ");
  }

  /* --- legend --- */
  function updateLegend(heat) {
    byId("legend").hidden = !heat;
    if (!heat) return;
    byId("legend-title").textContent = heat.name;
    const part = byId("legend-scale");
    if (heat.kinds) {
      part.replaceChildren(...heat.kinds.map(([colour, name]) => {
        const patch = element("canvas", { width: 1, height: 1 });
        const context = patch.getContext("2d");
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return element("div", { className: "kind" }, patch, element("span", {}, name));
      }));
      return;
    }
    const strip = element("canvas", { width: heat.ramp.length, height: 1, "aria-hidden": "true" });
    const context = strip.getContext("2d");
    heat.ramp.forEach((colour, at) => { context.fillStyle = colour; context.fillRect(at, 0, 1, 1); });
    part.replaceChildren(strip, element("div", { className: "ends" }, element("span", {}, shown(heat.low)), element("span", {}, shown(heat.high))));
  }

  /* --- overview --- */
  const minimap = byId("minimap");
  let backdrop = null;
  let backdropOf = "";
  function drawMinimap(pane) {
    const level = pane.layer.levels[0];
    if (!level.ready || !minimap.clientWidth) return;
    const side = Math.round(minimap.clientWidth * pane.dpr);
    const key = `${level.key} ${side} ${state.class}${state.sign}${state.norm}${state.gain} ${pane.generation || 0}`;
    if (key !== backdropOf) {
      backdropOf = key;
      backdrop = element("canvas", { width: side, height: side });
      drawThumbnail(pane.layer, backdrop, () => { backdropOf = ""; pane.redraw(); });
    }
    if (minimap.width !== side) minimap.width = minimap.height = side;
    const context = minimap.getContext("2d");
    context.clearRect(0, 0, side, side);
    context.drawImage(backdrop, 0, 0);
    const [left, top] = pane.toMap(0, 0);
    const [right, bottom] = pane.toMap(pane.width, pane.height);
    context.lineWidth = 2 * pane.dpr;
    context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
    context.strokeRect(left * side, top * side, (right - left) * side, (bottom - top) * side);
  }
  function dragMinimap(event) {
    const box = minimap.getBoundingClientRect();
    set({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
  }
  minimap.addEventListener("pointerdown", (event) => { minimap.setPointerCapture(event.pointerId); dragMinimap(event); });
  minimap.addEventListener("pointermove", (event) => { if (minimap.hasPointerCapture(event.pointerId)) dragMinimap(event); });

  /* --- table --- */
  const PAGE = 50;
  const table = { at: 0, order: "position" };
  async function openTable() {
    table.at = 0;
    const dialog = byId("table-dialog");
    if (!dialog.open) dialog.showModal();
    await updateTable();
  }
  async function updateTable() {
    const level = await Atlas.Main.wanted().load();
    const classes = level.layer.classes;
    const values = state.class >= 0 && classes.length ? level.attribution(state.class, updateTable) : null;
    const orders = [["position", "row by row"], ["count", "most samples first"]];
    if (values) orders.push(["class", `by ${classes[state.class]}`]);
    if (level.dispersion) orders.push(["dispersion", "most dispersed first"]);
    if (!orders.some(([key]) => key === table.order)) table.order = "position";
    fill(byId("table-order"), orders, table.order);
    const sign = state.sign === "-" ? -1 : 1;
    let cells = Array.from({ length: level.cells }, (_, cell) => cell);
    if (table.order === "count") cells.sort((left, right) => level.count[right] - level.count[left]);
    if (table.order === "dispersion") cells.sort((left, right) => level.dispersion[right] - level.dispersion[left]);
    if (table.order === "class") cells = cells.filter((cell) => sign * values[cell] > 0).sort((left, right) => sign * (values[right] - values[left]));
    table.at = clamp(table.at, 0, Math.max(0, Math.ceil(cells.length / PAGE) - 1));
    const page = cells.slice(table.at * PAGE, (table.at + 1) * PAGE);
    byId("table-title").textContent = `Cells of ${level.layer.name}, ${level.grid} × ${level.grid}`;
    byId("table-range").textContent = cells.length ? `${table.at * PAGE + 1}-${table.at * PAGE + page.length} of ${cells.length}` : "no cell";
    byId("table-previous").disabled = table.at === 0;
    byId("table-next").disabled = (table.at + 1) * PAGE >= cells.length;
    const heads = ["cell", "samples"];
    if (level.dispersion) heads.push("dispersion");
    if (level.score && level.icons) heads.push("icon score");
    if (values) heads.push("chosen class");
    if (level.top) heads.push("strongest classes");
    byId("table-head").replaceChildren(element("tr", {}, ...heads.map((name) => element("th", { scope: "col", className: name.startsWith("strong") ? "text" : "" }, name))));
    byId("table-body").replaceChildren(...page.map((cell) => {
      const go = element("button", { type: "button" }, `${level.row[cell] + 1}, ${level.column[cell] + 1}`);
      go.setAttribute("aria-label", `Go to row ${level.row[cell] + 1}, column ${level.column[cell] + 1}`);
      go.addEventListener("click", () => { byId("table-dialog").close(); Atlas.Main.goTo(level, cell, true); });
      const parts = [element("td", {}, go), element("td", {}, String(level.count[cell]))];
      if (level.dispersion) parts.push(element("td", {}, shown(level.dispersion[cell])));
      if (level.score && level.icons) parts.push(element("td", {}, shown(level.score[cell]) + (level.represents && !level.represents[cell] ? " (not representative)" : "")));
      if (values) parts.push(element("td", {}, shown(values[cell])));
      if (level.top) parts.push(element("td", { className: "text" }, Array.from({ length: Math.min(3, level.tops) }, (_, at) => classes[level.top[cell * level.tops + at]].split(",")[0]).join(", ")));
      return element("tr", {}, ...parts);
    }));
  }
  byId("table-order").addEventListener("change", (event) => { table.order = event.target.value; table.at = 0; updateTable(); });
  byId("table-previous").addEventListener("click", () => { table.at--; updateTable(); });
  byId("table-next").addEventListener("click", () => { table.at++; updateTable(); });
  byId("open-table").addEventListener("click", openTable);

  /* --- about --- */
  function buildAbout() {
    for (const each of layers) {
      const facts = element("dl", { className: "facts" });
      const add = (name, value) => facts.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
      if (each.tap) add("tap", `${each.tap} of ${each.model}`);
      add("samples", `${each.samples} of ${each.images} images; ${each.zero} all zero and ${each.duplicates} equal to another one set aside`);
      if (each.quality[2]) add("layout", `trustworthiness ${each.quality[0]}, neighbourhood recall ${each.quality[1]} (15 neighbours, ${each.quality[2]} samples)`);
      add("levels", each.levels.map((level) => `${level.grid} × ${level.grid}: ${level.cells} cells`).join("; "));
      each.remarks.forEach((remark) => add("note", remark));
      byId("about-layers").append(element("h3", {}, each.name), facts);
    }
  }
  byId("open-about").addEventListener("click", () => byId("about-dialog").showModal());
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => Atlas.Main.focus());
  }

  /* --- link and print --- */
  function say(text) { byId("status").textContent = text; }
  function flash(button, text) {
    const before = button.dataset.text || button.textContent;
    button.dataset.text = before;
    button.textContent = text;
    say(text);
    setTimeout(() => { button.textContent = before; }, 1600);
  }
  byId("copy-link").addEventListener("click", async (event) => {
    Atlas.State.writeAddress();
    const button = event.currentTarget;
    try {
      await navigator.clipboard.writeText(location.href);
      flash(button, "Copied");
    } catch {
      prompt("Link to this view", location.href);
    }
  });

  const LONGEST = 8000;
  const FOOT = 64;
  /** The whole level as it is shown, with every picture whole, and what it is beneath. */
  async function printed(level, pane) {
    const longest = level.icons || level.crops ? Math.min(LONGEST, level.grid * Math.max(24, (level.icons || level.crops).size)) : 2400;
    const cell = Math.max(4, Math.floor(longest / level.grid));
    const side = cell * level.grid;
    const copy = new Atlas.Pane(pane.layer, pane.number, () => {});
    copy.dpr = 1;
    copy.under.width = side;
    copy.under.height = side + FOOT;
    copy.view = { level, side, left: 0, top: 0 };
    const { context } = copy;
    const whole = { x: 0, y: 0, width: side, height: side };
    copy.prepare(whole);
    const { sprites, byCrop } = copy.how;
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--card");
    context.fillRect(0, 0, side, side + FOOT);
    const bySheet = new Map();
    for (let index = 0; index < level.cells; index++) {
      const place = sprites ? (byCrop ? level.crop[index * level.nearest] : index) : -1;
      const sheet = place < 0 ? -1 : Math.floor(place / sprites.perSheet);
      if (!bySheet.has(sheet)) bySheet.set(sheet, []);
      bySheet.get(sheet).push(index);
    }
    for (const [number, cells] of bySheet) {
      const sheet = number < 0 ? null : await Sheets.load(sprites.keys[number], "whole");
      copy.sheetOf = () => sheet;
      for (const index of cells) copy.paintAt(index);
    }
    context.globalAlpha = 1;
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
    context.font = `${Math.round(FOOT * 0.34)}px system-ui, sans-serif`;
    const caption = [Atlas.manifest.title, pane.layer.name, byId("facts").textContent];
    if (state.class >= 0) caption.push(`${state.sign === "-" ? "against" : "for"} ${pane.layer.classes[state.class] || state.class}`);
    if (copy.how.heat) caption.push(copy.how.heat.name);
    context.fillText(caption.join(" · "), 12, side + FOOT * 0.62, side - 24);
    return copy.under;
  }
  byId("save-png").addEventListener("click", async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    try {
      const pane = Atlas.Main.pane();
      const level = await Atlas.Main.wanted().load();
      const canvas = await printed(level, pane);
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
      if (!blob) throw new Error("too large");
      const link = element("a", { href: URL.createObjectURL(blob), download: `atlas-${level.grid}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      flash(button, "Saved");
    } catch {
      flash(button, "Too large for this browser");
    } finally {
      button.disabled = false;
    }
  });

  function update() {
    updateChoices();
    updateClasses();
    updateLayers();
  }
  return { build() { buildLayers(); buildAbout(); }, update, updateChoices, updateLegend, drawMinimap, openTable, dialogOpen, say, describe: Card.describe };
})();
