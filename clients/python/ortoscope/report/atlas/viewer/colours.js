"use strict";
/* How large, how opaque and in which colour a cell is drawn. The scales are those that colour-blind people can read. */
Atlas.Colours = (() => {
  const { state } = Atlas.State;
  const STEPS = 64;
  const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
  const BLUE_ORANGE = {
    light: ["#0b4f8a", "#3f83b9", "#8db9da", "#d3e0e8", "#f4f3ee", "#f2dcc4", "#e8a868", "#cd6f23", "#8a3d05"],
    dark: ["#7cc0f5", "#4b93cb", "#2d6491", "#233b4d", "#232829", "#4d3825", "#95602b", "#d88f46", "#ffc48a"],
  };
  const OKABE_ITO = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#7f7f7f"];
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  function ramp(stops) {
    return Array.from({ length: STEPS }, (_, step) => {
      const at = (step / (STEPS - 1)) * (stops.length - 1);
      const low = Math.min(stops.length - 2, Math.floor(at));
      const [from, to] = [channels(stops[low]), channels(stops[low + 1])];
      return `rgb(${from.map((value, index) => Math.round(value + (to[index] - value) * (at - low))).join(" ")})`;
    });
  }
  const SEQUENTIAL = ramp(CIVIDIS);
  const DIVERGING = { light: ramp(BLUE_ORANGE.light), dark: ramp(BLUE_ORANGE.dark) };
  const diverging = () => DIVERGING[dark.matches ? "dark" : "light"];
  const step = (fraction) => Math.max(0, Math.min(STEPS - 1, Math.round(fraction * (STEPS - 1))));

  /** The side of each cell's picture, in parts of the cell: its area follows the number of samples up to a limit. */
  function sizes(level) {
    if (state.density >= 7) return null;
    return level.derived(`size ${state.density}`, () => {
      const mean = level.total / level.cells;
      return Float32Array.from(level.count, (count) => Math.max(0.14, Math.min(1, Math.sqrt((2 ** state.density * count) / mean))));
    });
  }

  /** What 1 stands for when attributions to a class are shown: the largest on the level of the class, or of any. */
  function scale(level, values) {
    const sign = state.sign === "-" ? -1 : 1;
    const classWide = level.derived(`scale ${state.class}${state.sign}`, () => values.reduce((most, value) => Math.max(most, sign * value), 0));
    if (state.norm === "class") return classWide;
    return level.derived(`scale all${state.sign}`, () => {
      const listed = sign > 0 ? level.topValue : level.lowValue;
      return listed ? listed.reduce((most, value) => Math.max(most, sign * value), 0) : classWide;
    });
  }

  /** How opaque each cell is under the chosen class; null if all are. `arrived` is called when it can be told. */
  function alphas(level, arrived) {
    if (state.class < 0 || state.colour === "class" || !level.layer.classes.length) return null;
    const values = level.attribution(state.class, arrived);
    if (!values) return null;
    return level.derived(`alpha ${state.class}${state.sign}${state.norm}${state.gain}`, () => {
      const sign = state.sign === "-" ? -1 : 1;
      const most = scale(level, values);
      return Float32Array.from(values, (value) => (most > 0 ? Math.max(0.04, Math.min(1, (sign * value * 2 ** state.gain) / most)) : 0.04));
    });
  }

  /** The choices of colour for a level: key and name. */
  function choices(level) {
    const given = [["", "nothing"], ["count", "samples"]];
    if (level.dispersion || !level.ready) given.push(["dispersion", "dispersion"]);
    if (level.score || (!level.ready && level.icons)) given.push(["score", "icon score"]);
    if (level.layer.classes.length) {
      given.push(["top", "top class"]);
      if (state.class >= 0) given.push(["class", "chosen class, both ways"]);
    }
    level.overlays.forEach((overlay) => given.push([`o:${overlay.name}`, overlay.name]));
    return given;
  }

  /** Values, the scale they are on, and how to name its ends. */
  function quantity(level, arrived) {
    const key = state.colour;
    if (key === "count") return { name: "samples (log scale)", values: level.count, log: true };
    if (key === "dispersion" && level.dispersion) return { name: "dispersion: 1 − mean cosine with the cell’s mean", values: level.dispersion };
    if (key === "score" && level.score) return { name: "score: cosine that the clean icon reaches", values: level.score };
    if (key === "class" && state.class >= 0 && level.layer.classes.length) {
      const values = level.attribution(state.class, arrived);
      return values && { name: `attribution to ${level.layer.classes[state.class]}`, values, diverging: true };
    }
    if (key.startsWith("o:")) {
      const index = level.overlays.findIndex((overlay) => `o:${overlay.name}` === key);
      const overlay = level.overlays[index];
      if (overlay) return { name: overlay.description || overlay.name, values: level.values[index], diverging: overlay.diverging, categories: overlay.categories };
    }
    return null;
  }

  /** The largest groups of cells by their top class: [class, cells]. */
  function groups(level) {
    return level.derived("groups", () => {
      const counts = new Map();
      for (let cell = 0; cell < level.cells; cell++) {
        const index = level.top[cell * level.tops];
        counts.set(index, (counts.get(index) || 0) + 1);
      }
      return [...counts].sort((left, right) => right[1] - left[1] || left[0] - right[0]).slice(0, OKABE_ITO.length - 1);
    });
  }

  /** The colours of the cells and what they mean: {colours, name, low, high, ramp} or {colours, name, kinds}; or null. */
  function heat(level, arrived) {
    if (!state.colour) return null;
    const theme = dark.matches ? "dark" : "light";
    if (state.colour === "top" && level.top) {
      return level.derived("heat top", () => {
        const rank = new Map(groups(level).map(([index], at) => [index, at]));
        const other = OKABE_ITO[OKABE_ITO.length - 1];
        const colours = Array.from({ length: level.cells }, (_, cell) => {
          const at = rank.get(level.top[cell * level.tops]);
          return at === undefined ? other : OKABE_ITO[at];
        });
        const kinds = groups(level).map(([index], at) => [OKABE_ITO[at], level.layer.classes[index]]);
        return { colours, name: "class with the largest attribution", kinds: [...kinds, [other, "others"]] };
      });
    }
    const found = quantity(level, arrived);
    if (!found) return null;
    return level.derived(`heat ${state.colour} ${state.colour === "class" ? state.class : ""} ${theme}`, () => {
      const { values, log, categories } = found;
      if (categories && categories.length) {
        const colours = Array.from(values, (value) => OKABE_ITO[value % OKABE_ITO.length]);
        return { colours, name: found.name, kinds: categories.map((name, at) => [OKABE_ITO[at % OKABE_ITO.length], name]) };
      }
      let low = Infinity;
      let high = -Infinity;
      for (const value of values) if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); }
      if (found.diverging) { high = Math.max(Math.abs(low), Math.abs(high), 1e-12); low = -high; }
      const to = (value) => (log ? Math.log(Math.max(value, 1e-12)) : value);
      const span = to(high) - to(low);
      const used = found.diverging ? diverging() : SEQUENTIAL;
      const colours = Array.from(values, (value) => (Number.isFinite(value) ? used[step(span > 0 ? (to(value) - to(low)) / span : 0.5)] : null));
      return { colours, name: found.name, low, high, ramp: used };
    });
  }

  return { sizes, alphas, heat, choices, onTheme: (call) => dark.addEventListener("change", call) };
})();
