"use strict";
(() => {
  const { data, byId, element, shown, facts, shot, fillShots, draw } = Report;
  const { rows, columns, concepts, categories, units } = data;

  /** A mask from its run lengths; see ortoscope.report.masks. */
  function decode(runs) {
    const mask = new Uint8Array(rows * columns);
    const bytes = atob(runs);
    let at = 0, inside = 0, length = 0, shift = 0;
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes.charCodeAt(i);
      length += (byte & 0x7f) * 2 ** shift;
      shift += 7;
      if (byte < 0x80) {
        if (inside) mask.fill(1, at, at + length);
        at += length;
        inside ^= 1;
        length = shift = 0;
      }
    }
    if (inside) mask.fill(1, at);
    return mask;
  }

  /** Dims what lies outside the mask and draws its outline. */
  function drawMasked(canvas, image, unit, number, marked, width, height) {
    const place = draw(canvas, image, width, height);
    if (!marked) return;
    if (!unit.m[number]) return;
    const mask = decode(unit.m[number]);
    const context = canvas.getContext("2d");
    const veil = element("canvas", { width: columns, height: rows });
    const pixels = new ImageData(columns, rows);
    for (let i = 0; i < mask.length; i++) {
      pixels.data.set([10, 14, 15, mask[i] ? 0 : 158], 4 * i);
    }
    veil.getContext("2d").putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(veil, place.left, place.top, place.width, place.height);

    const across = place.width / columns, down = place.height / rows;
    const outline = new Path2D();
    const inside = (row, column) => row >= 0 && row < rows && column >= 0 && column < columns && mask[row * columns + column];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (!mask[row * columns + column]) continue;
        const left = place.left + column * across, top = place.top + row * down;
        const edge = (x, y, toX, toY) => { outline.moveTo(x, y); outline.lineTo(toX, toY); };
        if (!inside(row - 1, column)) edge(left, top, left + across, top);
        if (!inside(row + 1, column)) edge(left, top + down, left + across, top + down);
        if (!inside(row, column - 1)) edge(left, top, left, top + down);
        if (!inside(row, column + 1)) edge(left + across, top, left + across, top + down);
      }
    }
    const fine = width < 240;
    context.lineCap = "square";
    context.strokeStyle = "rgb(10 14 15 / .55)";
    context.lineWidth = (fine ? 2.2 : 4) * place.scale;
    context.stroke(outline);
    context.strokeStyle = "#ffd84d";
    context.lineWidth = (fine ? 1 : 1.8) * place.scale;
    context.stroke(outline);
  }

  const nameOf = (unit) => (unit.c < 0 ? "no label" : concepts[unit.c][0]);
  const categoryOf = (unit) => (unit.c < 0 ? -1 : concepts[unit.c][1]);
  const colour = (unit) => (unit.c < 0 ? "" : ` k${categoryOf(unit) % 8}`);
  const note = (unit) => (unit.x ? "saturated" : unit.k ? "constant" : unit.c < 0 ? "" : categories[categoryOf(unit)]);
  const described = (unit) => `Unit ${unit.u}: ${nameOf(unit)}${note(unit) ? `, ${note(unit)}` : ""}, IoU ${unit.s.toFixed(3)}`
    + (unit.d ? ", detector" : "");

  function card(unit) {
    const head = element("button", { type: "button", className: "card-head", "aria-label": described(unit) },
      element("span", { className: "card-title" }, element("i", { className: "dot" }), nameOf(unit)),
      element("span", { className: "card-score" }, unit.s.toFixed(3)),
      element("span", { className: "card-note" }, [`unit ${unit.u}`, note(unit)].filter(Boolean).join(" · ")),
      element("span", { className: "card-note" }, `threshold ${shown(unit.t)}`));
    head.addEventListener("click", () => box.open(unit));
    const shots = element("div", { className: "shots", "aria-hidden": "true" });
    unit.i.forEach((index, number) => shots.append(shot(index, () => box.open(unit, number))));
    return element("article", { className: `card${unit.d ? "" : " below"}${colour(unit)}`, role: "listitem", id: `unit-${unit.u}` },
      head, shots);
  }

  function details(unit, number) {
    const part = element("div");
    const best = unit.b[0];
    const pairs = [
      ["IoU", unit.s.toFixed(4) + (unit.d ? " (detector)" : "")],
      ["threshold", shown(unit.t) + (unit.x ? ", the largest value that it takes (saturated)" : "")],
    ];
    if (best) {
      pairs.push(["pixels shared", best[2].toLocaleString("en")],
        ["pixels of the unit", best[3].toLocaleString("en")],
        ["pixels of the concept", concepts[best[0]][2].toLocaleString("en")]);
    }
    part.append(facts(pairs));
    if (unit.i.length) {
      const mask = decode(unit.m[number]);
      const share = mask.reduce((sum, bit) => sum + bit, 0) / mask.length;
      part.append(element("h3", {}, "This image"), facts([
        ["file", data.paths[unit.i[number]] || `image ${unit.i[number]}`],
        ["largest value", shown(unit.v[number])],
        ["mask", share ? `${(100 * share).toFixed(1)} % of the image` : "empty: nothing lies above the threshold"],
      ]));
    }
    if (unit.b.length) {
      const table = element("table", {}, element("thead", {}, element("tr", {},
        element("th", { scope: "col" }, "concept"), element("th", { scope: "col" }, "category"), element("th", { scope: "col" }, "IoU"))));
      const body = element("tbody");
      for (const [concept, iou] of unit.b) {
        body.append(element("tr", { className: `k${concepts[concept][1] % 8}` },
          element("td", {}, element("i", { className: "dot" }), concepts[concept][0]),
          element("td", {}, categories[concepts[concept][1]]), element("td", {}, iou.toFixed(4))));
      }
      table.append(body);
      part.append(element("h3", {}, "Closest concepts"), table);
    }
    return part;
  }

  const box = Report.lightbox({
    images: (unit) => unit.i.map((index, number) => ({
      index, label: `${data.paths[index] || `Image ${index}`}, largest value ${shown(unit.v[number])}`,
    })),
    draw: drawMasked,
    title: (unit) => [`Unit ${unit.u}: ${nameOf(unit)}`],
    details,
    order: () => cards.order(),
    closed: (unit) => { if (cards.order().includes(unit)) cards.focus(unit); },
  });
  const cards = Report.grid(units, {
    card,
    fill: (made, unit) => fillShots(made, unit.i, (canvas, image, number, width, height) =>
      drawMasked(canvas, image, unit, number, true, width, height)),
    describe: (some, all) => (some === all ? `${all} units` : `${some} of ${all} units`),
  });

  let concept = null;
  const sorts = {
    unit: (a, b) => a.u - b.u,
    iou: (a, b) => b.s - a.s || a.u - b.u,
    label: (a, b) => (a.c < 0) - (b.c < 0) || nameOf(a).localeCompare(nameOf(b), "en") || b.s - a.s || a.u - b.u,
  };
  const shows = {
    all: () => true, detectors: (unit) => unit.d, saturated: (unit) => unit.x, unlabelled: (unit) => unit.c < 0,
  };
  function update() {
    const text = byId("search").value.trim().toLowerCase();
    const category = byId("category").value;
    const kept = units.filter((unit) =>
      (concept === null || (unit.c === concept && unit.d))
      && (category === "" || categoryOf(unit) === Number(category))
      && shows[byId("show").value](unit)
      && (!text || (/^\d+$/.test(text) ? String(unit.u) === text : nameOf(unit).toLowerCase().includes(text))));
    byId("clear-concept").hidden = concept === null;
    if (concept !== null) byId("clear-concept").textContent = concepts[concept][0];
    for (const bar of document.querySelectorAll(".bar")) {
      bar.classList.toggle("chosen", Number(bar.dataset.concept) === concept);
    }
    cards.show(kept.sort(sorts[byId("sort").value]));
  }
  function reset() {
    concept = null;
    byId("search").value = byId("category").value = "";
    byId("show").value = "all";
    update();
  }
  function toUnits() { byId("units").scrollIntoView(); }
  function follow() {
    const [, kind, number] = location.hash.match(/^#(unit|concept)-(\d+)$/) || [];
    if (kind === "unit" && units[number]) {
      if (!cards.order().includes(units[number])) reset();
      box.open(units[Number(number)]);
    } else if (kind === "concept" && concepts[number]) {
      reset();
      concept = Number(number);
      update();
      toUnits();
    } else if (location.hash === "#saturated") {
      reset();
      byId("show").value = "saturated";
      update();
      toUnits();
    }
  }

  for (const id of ["category", "show", "sort"]) byId(id).addEventListener("change", update);
  byId("clear-concept").addEventListener("click", () => { concept = null; history.replaceState(null, "", "#"); update(); });
  byId("reset").addEventListener("click", reset);
  Report.searchKeys(update);
  window.addEventListener("hashchange", follow);
  update();
  follow();
})();
