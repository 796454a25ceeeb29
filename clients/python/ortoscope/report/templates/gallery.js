"use strict";
(() => {
  const { data, byId, element, shown, facts, shot, fillShots, draw } = Report;
  const { units } = data;
  const ENDS = {
    steps: "all steps made", converged: "at a maximum", plateau: "on a plateau", budget: "the time was over",
    dead: "no gradient", not_finite: "not finite",
  };
  const ended = (unit) => ENDS[unit.e] || unit.e;
  /** The keys of all pictures of a unit: what was found, then real images. */
  const all = (unit) => [`u${unit.u}`, ...[...unit.most, ...unit.least].map(([index]) => index)];
  const isAbove = (unit) => unit.p === 100;
  const below = (unit) => (unit.p === null ? -1 : unit.p);

  function standing(unit) {
    if (unit.x === null) return "";
    if (unit.p === null) return `below the best ${unit.k} images`;
    return isAbove(unit) ? `above all ${data.images} images` : `above ${shown(unit.p)} % of images`;
  }

  function end(unit, title, examples, first) {
    const values = examples.map((example) => example[1]);
    const range = `${shown(values[0])} … ${shown(values[values.length - 1])}`;
    const shots = element("div", { className: examples.length === 4 ? "shots even four" : "shots even", "aria-hidden": "true" });
    examples.forEach(([index], number) => shots.append(shot(index, () => box.open(unit, first + number))));
    return element("div", { className: "end" },
      element("h4", {}, element("span", {}, title), element("span", {}, range)), shots);
  }

  function card(unit) {
    const compared = standing(unit);
    const label = [`Unit ${unit.u}, objective ${shown(unit.o)}`, ended(unit), compared].filter(Boolean).join(", ");
    const head = element("button", { type: "button", className: "card-head", "aria-label": label },
      element("span", { className: "card-title" }, `Unit ${unit.u}`),
      element("span", { className: "card-score" }, shown(unit.o)),
      element("span", { className: "card-note" }, compared),
      element("span", { className: "card-note" }, ended(unit)));
    head.addEventListener("click", () => box.open(unit));
    const found = element("div", { className: "found", "aria-hidden": "true" });
    found.append(shot(`u${unit.u}`, () => box.open(unit)));
    const made = element("article", {
      className: unit.e === "dead" ? "card below" : "card", role: "listitem", id: `unit-${unit.u}`,
    }, head, found);
    if (unit.most.length) made.append(end(unit, "most", unit.most, 1));
    if (unit.least.length) made.append(end(unit, "least", unit.least, 1 + unit.most.length));
    return made;
  }

  function details(unit, number) {
    const part = element("div");
    if (number === 0) {
      const pairs = [["picture", "what the climb found"], ["objective", shown(unit.o)], ["end", ended(unit)],
        ["steps", String(unit.s)], ["attempt kept", String(unit.t)]];
      if (unit.r) pairs.push(["redirected steps", String(unit.r)]);
      if (unit.x !== null) pairs.push(["standing", standing(unit)], ["best real image", shown(unit.x)]);
      part.append(facts(pairs));
      return part;
    }
    const most = number <= unit.most.length;
    const [index, value] = [...unit.most, ...unit.least][number - 1];
    const rank = most ? number : number - unit.most.length;
    part.append(facts([
      ["picture", "a real image"],
      ["rank", `${rank} of the ${most ? "most" : "least"} activating`],
      ["value", shown(value)],
      ["file", data.paths[index] || `image ${index}`],
    ]));
    return part;
  }

  function label(unit, number) {
    if (number === 0) return `What unit ${unit.u} looks for`;
    const [index, value] = [...unit.most, ...unit.least][number - 1];
    return `${data.paths[index] || `Image ${index}`}, value ${shown(value)}`;
  }

  const box = Report.lightbox({
    images: (unit) => all(unit).map((index, number) => ({ index, label: label(unit, number) })),
    draw: (canvas, image, unit, number, marked, width, height) => draw(canvas, image, width, height),
    title: (unit) => [`Unit ${unit.u}`],
    details,
    order: () => cards.order(),
    closed: (unit) => { if (cards.order().includes(unit)) cards.focus(unit); },
  });
  byId("toggle-mark").hidden = true; // there is nothing to mark
  const cards = Report.grid(units, {
    card,
    fill: (made, unit) => fillShots(made, all(unit), (canvas, image, number, width, height) => draw(canvas, image, width, height)),
    describe: (some, every) => (some === every ? `${every} units` : `${some} of ${every} units`),
  });

  const gain = (unit) => (unit.x === null ? -Infinity : unit.o - unit.x);
  const sorts = {
    unit: (a, b) => a.u - b.u,
    objective: (a, b) => b.o - a.o || a.u - b.u,
    standing: (a, b) => below(b) - below(a) || gain(b) - gain(a) || a.u - b.u,
  };
  const shows = {
    "": () => true,
    above: isAbove,
    below: (unit) => !isAbove(unit),
    dead: (unit) => unit.e === "dead",
    redirected: (unit) => unit.r > 0,
  };
  function update() {
    const text = byId("search").value.trim().toLowerCase();
    const fits = (unit) => (/^\d+$/.test(text)
      ? String(unit.u) === text
      : all(unit).some((index) => (data.paths[index] || "").toLowerCase().includes(text)));
    const wanted = shows[byId("show").value];
    cards.show(units.filter((unit) => wanted(unit) && (!text || fits(unit))).sort(sorts[byId("sort").value]));
  }
  function reset() {
    byId("search").value = "";
    byId("show").value = "";
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
  byId("show").addEventListener("change", update);
  byId("reset").addEventListener("click", reset);
  Report.searchKeys(update);
  window.addEventListener("hashchange", follow);
  update();
  follow();
})();
