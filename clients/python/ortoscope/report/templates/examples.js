"use strict";
(() => {
  const { data, byId, element, shown, facts, shot, fillShots, draw, frameOf } = Report;
  const { units } = data;
  const all = (unit) => [...unit.most, ...unit.least];

  /** Marks the centre of the site with a ring, and dims what the model does not see. */
  function drawMarked(canvas, image, unit, number, marked, width, height) {
    const place = draw(canvas, image, width, height);
    const [index, , , position] = all(unit)[number];
    if (!marked) return;
    const [left, top, across, down] = frameOf(index);
    dimOutside(canvas, place, left, top, across, down);
    if (position.length !== 2) return;
    const x = place.left + place.width * (left + across * position[1]);
    const y = place.top + place.height * (top + down * position[0]);
    const radius = Math.max(5, width / 26) * place.scale;
    const context = canvas.getContext("2d");
    for (const [style, weight] of [["rgb(10 14 15 / .7)", 4], ["#ffd84d", 2]]) {
      context.strokeStyle = style;
      context.lineWidth = Math.max(1, weight * (width < 240 ? 0.7 : 1)) * place.scale;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  function dimOutside(canvas, place, left, top, across, down) {
    if (across >= 1 && down >= 1) return;
    const context = canvas.getContext("2d");
    const outside = new Path2D();
    outside.rect(place.left, place.top, place.width, place.height);
    outside.rect(place.left + left * place.width, place.top + top * place.height, across * place.width, down * place.height);
    context.fillStyle = "rgb(10 14 15 / .55)";
    context.fill(outside, "evenodd");
  }

  function end(unit, title, examples, first) {
    const values = examples.map((example) => example[1]);
    const range = values.length ? `${shown(values[0])} … ${shown(values[values.length - 1])}` : "none";
    const shots = element("div", { className: "shots even", "aria-hidden": "true" });
    examples.forEach(([index], number) => shots.append(shot(index, () => box.open(unit, first + number))));
    return element("div", { className: "end" },
      element("h4", {}, element("span", {}, title), element("span", {}, range)), shots);
  }

  function card(unit) {
    const extremes = unit.most.length ? `from ${shown(unit.least[0][1])} to ${shown(unit.most[0][1])}` : "no examples";
    const head = element("button", { type: "button", className: "card-head", "aria-label": `Unit ${unit.u}, ${extremes}` },
      element("span", { className: "card-title" }, `Unit ${unit.u}`), element("span", { className: "card-note" }, extremes));
    head.addEventListener("click", () => box.open(unit));
    return element("article", { className: "card", role: "listitem", id: `unit-${unit.u}` }, head,
      end(unit, "most", unit.most, 0), end(unit, "least", unit.least, unit.most.length));
  }

  function details(unit, number) {
    const part = element("div");
    const example = all(unit)[number];
    if (!example) return part;
    const [index, value, site, position] = example;
    const most = number < unit.most.length;
    const rank = most ? number + 1 : number - unit.most.length + 1;
    const pairs = [
      ["rank", `${rank} of the ${most ? "most" : "least"} activating`],
      ["value", shown(value)],
      ["file", data.paths[index] || `image ${index}`],
    ];
    if (site.length) pairs.push(["site", site.join(", ")]);
    if (position.length === 2) {
      pairs.push(["position", `${(100 * position[0]).toFixed(0)} % down, ${(100 * position[1]).toFixed(0)} % across the model's input`]);
    }
    part.append(facts(pairs));
    return part;
  }

  const box = Report.lightbox({
    images: (unit) => all(unit).map(([index, value]) => ({ index, label: `${data.paths[index] || `Image ${index}`}, value ${shown(value)}` })),
    draw: drawMarked,
    title: (unit) => [`Unit ${unit.u}`],
    details,
    order: () => cards.order(),
    closed: (unit) => { if (cards.order().includes(unit)) cards.focus(unit); },
  });
  const cards = Report.grid(units, {
    card,
    fill: (made, unit) => fillShots(made, all(unit).map(([index]) => index), (canvas, image, number, width, height) =>
      drawMarked(canvas, image, unit, number, true, width, height)),
    describe: (some, every) => (some === every ? `${every} units` : `${some} of ${every} units`),
  });

  const largest = (unit) => (unit.most.length ? unit.most[0][1] : -Infinity);
  const smallest = (unit) => (unit.least.length ? unit.least[0][1] : Infinity);
  const sorts = {
    unit: (a, b) => a.u - b.u,
    largest: (a, b) => largest(b) - largest(a) || a.u - b.u,
    smallest: (a, b) => smallest(a) - smallest(b) || a.u - b.u,
  };
  function update() {
    const text = byId("search").value.trim().toLowerCase();
    const fits = (unit) => (/^\d+$/.test(text)
      ? String(unit.u) === text
      : all(unit).some(([index]) => (data.paths[index] || "").toLowerCase().includes(text)));
    cards.show(units.filter((unit) => !text || fits(unit)).sort(sorts[byId("sort").value]));
  }
  function reset() {
    byId("search").value = "";
    update();
  }
  function follow() {
    const found = location.hash.match(/^#unit-(\d+)$/);
    const unit = found && units.find((each) => each.u === Number(found[1]));
    if (!unit) return;
    if (!cards.order().includes(unit)) reset();
    box.open(unit);
  }

  byId("sort").addEventListener("change", update);
  byId("reset").addEventListener("click", reset);
  Report.searchKeys(update);
  window.addEventListener("hashchange", follow);
  update();
  follow();
})();
