"use strict";
/* What the page holds: its manifest, and texts by key that are unpacked when they are needed. */
const Atlas = (() => {
  const manifest = JSON.parse(document.getElementById("manifest").textContent);
  const TYPES = { u1: Uint8Array, i1: Int8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array };
  const byId = (id) => document.getElementById(id);

  /** An element with properties and children; text is only ever set as text. */
  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  /** A number with three significant digits, without an exponent where that stays readable. */
  function shown(value) {
    if (!Number.isFinite(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
  }

  function bytes(text) {
    const raw = atob(text);
    const made = new Uint8Array(raw.length);
    for (let at = 0; at < raw.length; at++) made[at] = raw.charCodeAt(at);
    return made;
  }
  const unpack = (packed) => (packed ? new TYPES[packed.t](bytes(packed.d).buffer) : null);

  const parsed = new Promise((resolve) => {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", resolve, { once: true });
    else resolve();
  });
  const waiting = new Map();
  /** Called by the files of a folder. */
  function put(key, text) {
    if (waiting.has(key)) waiting.get(key).resolve(text);
  }
  /** The text of a resource: in the page itself, or of a file beside it. */
  async function resource(key) {
    const inPage = () => byId(`r-${key}`);
    if (inPage() && inPage().nextSibling) return inPage().textContent;  // without a sibling it may be half read
    if (!manifest.folder) {
      await parsed;
      return inPage().textContent;
    }
    if (!waiting.has(key)) {
      const entry = {};
      entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
      waiting.set(key, entry);
      const script = element("script", { src: `data/${key}.js` });
      const done = () => { waiting.delete(key); script.remove(); };
      script.onload = done;
      script.onerror = () => { done(); entry.reject(new Error(`data/${key}.js is missing`)); };
      document.head.append(script);
    }
    return waiting.get(key).promise;
  }

  /** A promise that is made once; a failed one is made anew. */
  function once(make) {
    let kept = null;
    return () => (kept ||= make().catch((error) => { kept = null; throw error; }));
  }

  class Level {
    constructor(layer, about) {
      Object.assign(this, about, { layer, ready: false, cache: new Map(), blocks: new Map() });
      this.load = once(async () => this.unpack(JSON.parse(await resource(this.key))));
    }
    unpack(packed) {
      for (const name of ["row", "column", "count", "dispersion", "score", "represents", "shared", "crop", "near",
        "top", "topValue", "low", "lowValue", "step"]) this[name] = unpack(packed[name]);
      this.paths = packed.paths || {};
      this.values = packed.overlays.map(unpack);
      [this.tops, this.lows] = packed.perCell || [0, 0];
      this.nearest = this.crop ? this.crop.length / this.cells : this.near ? this.near.length / this.cells : 0;
      this.map = new Int32Array(this.grid * this.grid).fill(-1);
      for (let cell = 0; cell < this.cells; cell++) this.map[this.row[cell] * this.grid + this.column[cell]] = cell;
      this.total = this.count.reduce((sum, count) => sum + count, 0);
      this.ready = true;
      return this;
    }
    /** The cell at a place of the map in [0, 1], -1 for none. */
    at(x, y) {
      const column = Math.floor(x * this.grid);
      const row = Math.floor(y * this.grid);
      return column < 0 || row < 0 || column >= this.grid || row >= this.grid ? -1 : this.map[row * this.grid + column];
    }
    /** A derived array, made once for a key; few are kept. */
    derived(key, make) {
      if (!this.cache.has(key)) {
        if (this.cache.size > 24) this.cache.delete(this.cache.keys().next().value);
        this.cache.set(key, make());
      }
      return this.cache.get(key);
    }
    /** The attribution of every cell to a class, or null while its block is on its way (then `arrived` is called). */
    attribution(index, arrived) {
      if (!this.columns) return this.derived(`listed ${index}`, () => this.listed(index));
      const block = Math.floor(index / this.columns);
      const found = this.blocks.get(block);
      if (found instanceof Int8Array) {
        const first = (index - block * this.columns) * this.cells;
        return this.derived(`class ${index}`, () =>
          Float32Array.from(found.subarray(first, first + this.cells), (number) => number * this.step[index]));
      }
      if (found) {
        found.add(arrived);
        return null;
      }
      const waiting = new Set([arrived]);
      this.blocks.set(block, waiting);
      resource(`${this.key}-a${block}`).then((text) => {
        this.blocks.set(block, new Int8Array(bytes(text).buffer));
        for (const call of waiting) call();
      }, () => this.blocks.delete(block));
      return null;
    }
    /** The attribution to a class of the cells that name it among their strongest, 0 of the others. */
    listed(index) {
      const values = new Float32Array(this.cells);
      for (const [names, numbers, each] of [[this.top, this.topValue, this.tops], [this.low, this.lowValue, this.lows]]) {
        for (let at = 0; names && at < names.length; at++) if (names[at] === index) values[Math.floor(at / each)] = numbers[at];
      }
      return values;
    }
    /** The largest attribution of each class that some cell names among its strongest. */
    strongest() {
      return this.derived("strongest", () => {
        const found = new Float32Array(this.layer.classes.length);
        for (let at = 0; this.top && at < this.top.length; at++) found[this.top[at]] = Math.max(found[this.top[at]], this.topValue[at]);
        return found;
      });
    }
  }

  class Layer {
    constructor(about, number) {
      Object.assign(this, about, { number });
      this.levels = about.levels.map((level) => new Level(this, level));
    }
    level(grid) { return this.levels.find((level) => level.grid === grid); }
  }

  /*
   * Sheets of pictures, decoded: whole, or at a quarter of their size for a map seen from afar. Those used last are
   * kept, within a number and an area.
   */
  const Sheets = (() => {
    const QUARTER = 4;
    const shelves = { whole: new Map(), small: new Map() };
    const LIMITS = { whole: { sheets: 32, area: 64e6 }, small: { sheets: 160, area: 48e6 } };
    const wanted = new Map();
    const failed = new Set();
    const pinned = new Set();
    let active = 0;
    let arrived = () => {};
    let settled = () => {};

    async function decode(key, kind) {
      const blob = new Blob([bytes(await resource(key))]);
      const whole = await createImageBitmap(blob);
      if (kind === "whole") return { bitmap: whole, ratio: 1, area: whole.width * whole.height };
      const size = { resizeWidth: Math.ceil(whole.width / QUARTER), resizeHeight: Math.ceil(whole.height / QUARTER), resizeQuality: "high" };
      const bitmap = await createImageBitmap(whole, size).catch(() => null);
      if (!bitmap) return { bitmap: whole, ratio: 1, area: whole.width * whole.height };
      const ratio = bitmap.width / whole.width;
      whole.close();
      return { bitmap, ratio, area: bitmap.width * bitmap.height };
    }
    const decoding = new Map();
    /** A promise of a sheet that is on its shelf; one that many wait for is decoded once. */
    function load(key, kind) {
      const name = `${kind} ${key}`;
      const found = touch(shelves[kind], key);
      if (found) return Promise.resolve(found);
      if (!decoding.has(name)) {
        decoding.set(name, decode(key, kind).then((sheet) => {
          store(key, kind, sheet);
          return sheet;
        }).finally(() => decoding.delete(name)));
      }
      return decoding.get(name);
    }
    function store(key, kind, sheet) {
      const shelf = shelves[kind];
      shelf.set(key, sheet);
      let area = 0;
      for (const kept of shelf.values()) area += kept.area;
      for (const [old, kept] of shelf) {
        if (shelf.size <= LIMITS[kind].sheets && area <= LIMITS[kind].area) break;
        if (old === key || (kind === "small" && pinned.has(old))) continue;
        shelf.delete(old);
        area -= kept.area;
        kept.bitmap.close();
      }
    }
    function touch(shelf, key) {
      const sheet = shelf.get(key);
      if (sheet) { shelf.delete(key); shelf.set(key, sheet); }
      return sheet;
    }
    /** Decodes what was asked for last first. */
    function pump() {
      while (active < 3 && wanted.size) {
        const [name, [key, kind]] = [...wanted].pop();
        wanted.delete(name);
        active++;
        load(key, kind).then(() => arrived(), () => failed.add(name)).finally(() => { active--; pump(); });
      }
    }
    /** A sheet in the wanted size, or in the other one while that is being decoded, or null. */
    function get(key, kind) {
      const found = touch(shelves[kind], key);
      if (found) return found;
      const name = `${kind} ${key}`;
      if (!failed.has(name)) {
        wanted.delete(name);
        wanted.set(name, [key, kind]);
        while (wanted.size > 48) wanted.delete(wanted.keys().next().value);
        queueMicrotask(pump);
      }
      return shelves[kind === "small" ? "whole" : "small"].get(key) || null;
    }
    /** Draws a picture of a sheet as soon as it is there; `still` tells whether it is wanted by then. */
    async function drawOn(canvas, sprites, place, still) {
      const key = sprites.keys[Math.floor(place / sprites.perSheet)];
      const sheet = await load(key, "whole");
      settled();
      if (!still()) return;
      const [x, y] = cut(sprites, place);
      canvas.width = canvas.height = sprites.size;
      canvas.getContext("2d").drawImage(sheet.bitmap, x, y, sprites.size, sprites.size, 0, 0, sprites.size, sprites.size);
      canvas.dataset.drawn = "yes";
    }
    /** Where a picture lies on its sheet. */
    function cut(sprites, place) {
      const on = place % sprites.perSheet;
      return [(on % sprites.perRow) * sprites.size, Math.floor(on / sprites.perRow) * sprites.size];
    }
    /** What to do when a sheet of the map, and when one of a card, is there. */
    function onArrival(map, card) {
      arrived = map;
      settled = card;
    }
    return {
      get, cut, drawOn, load, onArrival, pin: (keys) => keys.forEach((key) => pinned.add(key)),
      idle: () => active === 0 && wanted.size === 0 && decoding.size === 0, room: LIMITS.whole.area,
    };
  })();

  const layers = manifest.layers.map((about, number) => new Layer(about, number));
  return { manifest, layers, put, resource, byId, element, shown, Sheets };
})();
