"use strict";
(() => {
  const { data, byId, element, shown } = Report;
  const { pieces, units } = data;
  const NEGATIVE = [67, 147, 229];
  const POSITIVE = [242, 142, 43];
  const LEVELS = 32767;

  /** The activations of a unit, unpacked once; NaN where there is no number. */
  function valuesOf(unit) {
    if (!unit.unpacked) {
      const bytes = Uint8Array.from(atob(unit.values), (character) => character.charCodeAt(0));
      const view = new DataView(bytes.buffer);
      unit.unpacked = Float64Array.from(pieces, (_, position) => {
        const level = view.getInt16(2 * position, true);
        return level < -LEVELS ? NaN : (level / LEVELS) * unit.scale;
      });
    }
    return unit.unpacked;
  }

  /** From -1 to 1: how strong the colour is, and which. */
  function strength(value, unit) {
    if (byId("colour").value === "tanh") return Math.tanh(value);
    return unit.scale ? value / unit.scale : 0;
  }

  function colour(value, unit) {
    if (Number.isNaN(value)) return "rgb(200 200 200)";
    const share = strength(value, unit);
    const full = share < 0 ? NEGATIVE : POSITIVE;
    return `rgb(${full.map((part) => Math.round(255 + (part - 255) * Math.abs(share))).join(" ")})`;
  }

  /** What stands for a piece: line feeds and tabs are shown and still break. */
  function visible(piece) {
    if (piece === "\n") return "↵\n";
    return piece === "\t" ? "→\t" : piece;
  }

  function spanOf(position) {
    const span = element("span", {}, visible(pieces[position]));
    if (/^\s$/.test(pieces[position]) && pieces[position] !== " ") span.className = "feed";
    span.dataset.at = position;
    return span;
  }

  const spans = pieces.map((_, position) => spanOf(position));
  byId("text").append(...spans);

  let unit = units[0];
  let at = 0;
  let marked = new Uint8Array(pieces.length);

  function paint() {
    const values = valuesOf(unit);
    spans.forEach((span, position) => { span.style.backgroundColor = colour(values[position], unit); });
    const tanh = byId("colour").value === "tanh";
    byId("scale-low").textContent = tanh ? "−2" : shown(-unit.scale);
    byId("scale-high").textContent = tanh ? "2" : shown(unit.scale);
    for (const end of ["most", "least"]) {
      byId(end).replaceChildren(...unit[end].map((extract) => element("li", {}, windowOf(extract))));
    }
  }

  /** A window of the text as a button that leads there. */
  function windowOf([position, value, start, stop]) {
    const values = valuesOf(unit);
    const sheet = element("span", { className: "sheet name" });
    for (let each = start; each < stop; each += 1) {
      const span = spanOf(each);
      span.textContent = visible(pieces[each]).replace("\n", "");
      span.style.backgroundColor = colour(values[each], unit);
      if (each === position) span.classList.add("at");
      sheet.append(span);
    }
    const button = element("button", { type: "button" }, element("span", {}, shown(value)), sheet);
    button.addEventListener("click", () => { move(position); byId("text").focus(); });
    return button;
  }

  function tell() {
    const value = valuesOf(unit)[at];
    const piece = pieces[at] === "\n" ? "line feed" : pieces[at] === " " ? "blank" : pieces[at];
    byId("now").replaceChildren(
      element("b", {}, Number.isNaN(value) ? "not a number" : shown(value)),
      element("br"), `at ${piece}, position ${at} of ${pieces.length}, unit ${unit.u}`);
  }

  function move(position) {
    spans[at].classList.remove("at");
    at = Math.max(0, Math.min(pieces.length - 1, position));
    spans[at].classList.add("at");
    spans[at].scrollIntoView({ block: "nearest" });
    tell();
  }

  function choose(chosen) {
    unit = chosen;
    byId("title-unit").textContent = unit.u;
    byId("unit").value = String(unit.u);
    history.replaceState(null, "", `#unit-${unit.u}`);
    paint();
    tell();
  }

  /** Pearson's correlation of a unit with the marked places; 0 where either is constant. */
  function correlation(each) {
    const values = valuesOf(each);
    let count = 0, sum = 0, squares = 0, inside = 0, product = 0;
    for (let position = 0; position < values.length; position += 1) {
      const value = values[position];
      if (Number.isNaN(value)) continue;
      count += 1;
      sum += value;
      squares += value * value;
      inside += marked[position];
      product += value * marked[position];
    }
    const spread = Math.sqrt(Math.max(0, squares / count - (sum / count) ** 2) * (inside / count) * (1 - inside / count));
    return spread > 0 ? (product / count - (sum / count) * (inside / count)) / spread : 0;
  }

  const sorts = {
    unit: () => (a, b) => a.u - b.u,
    spread: () => (a, b) => b.spread - a.spread || a.u - b.u,
    largest: () => (a, b) => b.high - a.high || a.u - b.u,
    smallest: () => (a, b) => a.low - b.low || a.u - b.u,
    mark: () => {
      for (const each of units) each.follows = correlation(each);
      return (a, b) => Math.abs(b.follows) - Math.abs(a.follows) || a.u - b.u;
    },
  };

  /** Lists the units in the order that is asked for. */
  function list() {
    const sort = byId("sort").value;
    const order = [...units].sort(sorts[sort]());
    byId("unit").replaceChildren(...order.map((each) => element("option", { value: String(each.u) },
      `${each.u}: ${shown(each.low)} … ${shown(each.high)}${sort === "mark" ? `  r = ${each.follows.toFixed(2)}` : ""}`)));
    byId("unit").value = String(unit.u);
    return order;
  }

  function mark() {
    const text = byId("mark").value;
    marked = new Uint8Array(pieces.length);
    let found = 0;
    let wrong = "";
    if (text) {
      try {
        const starts = [];
        let whole = "";
        pieces.forEach((piece, position) => { for (let i = 0; i < piece.length; i += 1) starts.push(position); whole += piece; });
        for (const match of whole.matchAll(new RegExp(text, "gm"))) {
          if (!match[0]) continue;
          found += 1;
          for (let i = match.index; i < match.index + match[0].length; i += 1) marked[starts[i]] = 1;
        }
      } catch (error) {
        wrong = error.message;
      }
    }
    spans.forEach((span, position) => span.classList.toggle("marked", marked[position] === 1));
    byId("status").textContent = wrong || (text ? `${found} places marked` : "");
    byId("mark").setAttribute("aria-invalid", String(Boolean(wrong)));
    list();
  }

  /** Where a character begins; a line feed also has a box in the next line. */
  const boxOf = (position) => spans[position].getClientRects()[0];

  /** The position in the line above or below that is nearest to the same column. */
  function line(step) {
    const here = boxOf(at);
    const apart = here.height / 2; // signs from another font begin a little higher or lower
    let best = at;
    let distance = Infinity;
    let row = null;
    for (let position = at + step; position >= 0 && position < spans.length; position += step) {
      const box = boxOf(position);
      if (Math.abs(box.top - here.top) < apart) continue;
      if (row === null) row = box.top;
      if (Math.abs(box.top - row) >= apart) break;
      const away = Math.abs(box.left - here.left);
      if (away < distance) { distance = away; best = position; }
    }
    return best;
  }

  byId("text").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const acts = {
      ArrowLeft: () => at - 1, ArrowRight: () => at + 1, ArrowUp: () => line(-1), ArrowDown: () => line(1),
      Home: () => 0, End: () => pieces.length - 1,
    };
    if (!(event.key in acts)) return;
    event.preventDefault();
    move(acts[event.key]());
  });
  for (const kind of ["click", "mouseover"]) {
    byId("text").addEventListener(kind, (event) => {
      const span = event.target.closest("[data-at]");
      if (!span) return;
      spans[at].classList.remove("at");
      at = Number(span.dataset.at);
      span.classList.add("at");
      tell();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "/") {
      event.preventDefault();
      byId("mark").focus();
      byId("mark").select();
    } else if (event.key === "m") {
      const next = marked.indexOf(1, marked[at] ? marked.indexOf(0, at) : at);
      if (next >= 0) move(next);
    } else if (event.key === "[" || event.key === "]") {
      const order = [...byId("unit").options].map((option) => Number(option.value));
      const to = order[order.indexOf(unit.u) + (event.key === "]" ? 1 : -1)];
      if (to !== undefined) choose(units.find((each) => each.u === to));
    }
  });
  byId("mark").form.addEventListener("submit", (event) => event.preventDefault());
  byId("mark").addEventListener("input", mark);
  byId("sort").addEventListener("change", () => { choose(byId("sort").value === "unit" ? (list(), unit) : list()[0]); });
  byId("colour").addEventListener("change", paint);
  byId("unit").addEventListener("change", () => choose(units.find((each) => String(each.u) === byId("unit").value)));

  function follow() {
    const asked = location.hash.match(/^#unit-(\d+)$/);
    const first = byId("unit").dataset.first;
    const wanted = asked ? asked[1] : first;
    choose(units.find((each) => String(each.u) === wanted) || list()[0]);
  }
  window.addEventListener("hashchange", follow);
  if (byId("mark").value) byId("sort").value = "mark";
  mark();
  follow();
})();
