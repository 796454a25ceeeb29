"use strict";
/* What is shown: every control, held in the address so that a link shows the same. */
Atlas.State = (() => {
  const { layers } = Atlas;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const number = (low, high) => (text) => {
    const value = Number(text);
    return text !== "" && Number.isFinite(value) ? clamp(value, low, high) : undefined;
  };
  const oneOf = (...values) => (text) => (values.includes(text) ? text : undefined);
  const classes = Math.max(...layers.map((layer) => layer.classes.length));
  const round = (value, digits) => String(Number(value.toFixed(digits)));

  const LARGEST_ZOOM = 48;
  const MARGIN = 0.3;  // the middle of the view may lie so far outside of the map: cells at its rim can be seen beside a card
  /** By name in the address: where it starts, how text becomes a value (undefined if it is none), and how it is written. */
  const FIELDS = {
    layer: {
      start: [0], write: (value) => value.join("."),
      read(text) {
        const chosen = [...new Set(text.split(".").map(Number))].filter((index) => layers[index]);
        return chosen.length ? chosen.slice(0, 4) : undefined;
      },
    },
    x: { start: 0.5, read: number(-MARGIN, 1 + MARGIN), write: (value) => round(value, 5) },
    y: { start: 0.5, read: number(-MARGIN, 1 + MARGIN), write: (value) => round(value, 5) },
    zoom: { start: 1, read: number(1, LARGEST_ZOOM), write: (value) => round(value, 3) },
    grid: { start: 0, read: number(0, 320), write: String },
    class: { start: -1, read: (text) => (/^\d+$/.test(text) && Number(text) < classes ? Number(text) : undefined), write: String },
    sign: { start: "+", read: oneOf("+", "-"), write: String },
    norm: { start: "class", read: oneOf("class", "all"), write: String },
    gain: { start: 0, read: number(-1, 2), write: (value) => round(value, 2) },
    show: { start: "icons", read: oneOf("icons", "photos"), write: String },
    // A page that was made to show how something differs begins with that.
    colour: { start: Atlas.manifest.colour ? `o:${Atlas.manifest.colour}` : "", read: (text) => text.slice(0, 200), write: String },
    density: { start: 2, read: number(-3, 7), write: (value) => round(value, 2) },
    detail: { start: 24, read: number(12, 72), write: String },
    labels: { start: 1, read: (text) => (text === "0" ? 0 : 1), write: String },
    cell: {
      start: null, write: (cell) => [cell.layer, cell.grid, cell.row, cell.column].join("."),
      read(text) {
        const [layer, grid, row, column] = text.split(".").map(Number);
        return layers[layer] && layers[layer].level(grid) && row >= 0 && row < grid && column >= 0 && column < grid
          ? { layer, grid, row, column } : undefined;
      },
    },
    card: { start: 0, read: (text) => (text === "1" ? 1 : 0), write: String },
  };

  const state = {};
  const listeners = [];
  let timer = 0;

  function reset() {
    for (const [name, field] of Object.entries(FIELDS)) state[name] = field.start;
  }
  function readAddress() {
    reset();
    const given = new URLSearchParams(location.hash.slice(1));
    for (const [name, field] of Object.entries(FIELDS)) {
      const value = given.has(name) ? field.read(given.get(name)) : undefined;
      if (value !== undefined) state[name] = value;
    }
  }
  function address() {
    const given = new URLSearchParams();
    for (const [name, field] of Object.entries(FIELDS)) {
      const written = state[name] === null ? "" : field.write(state[name]);
      const start = field.start === null ? "" : field.write(field.start);
      if (written !== start) given.set(name, written);
    }
    const text = given.toString();
    return text ? `#${text}` : "";
  }
  function writeAddress() {
    clearTimeout(timer);
    const wanted = address();
    if (wanted !== location.hash) history.replaceState(null, "", location.pathname + location.search + wanted);
  }
  /** Changes some of the state, tells everybody, and writes the address when it has come to rest. */
  function set(changes) {
    Object.assign(state, changes);
    if ("x" in changes || "y" in changes || "zoom" in changes) {
      state.x = clamp(state.x, -MARGIN, 1 + MARGIN);
      state.y = clamp(state.y, -MARGIN, 1 + MARGIN);
      state.zoom = clamp(state.zoom, 1, LARGEST_ZOOM);
    }
    for (const listener of listeners) listener(changes);
    clearTimeout(timer);
    timer = setTimeout(writeAddress, 150);
  }
  window.addEventListener("hashchange", () => {
    readAddress();
    for (const listener of listeners) listener(state);
  });
  readAddress();
  return { state, set, onChange: (listener) => listeners.push(listener), writeAddress, clamp };
})();
