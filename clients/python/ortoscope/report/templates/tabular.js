"use strict";
(() => {
  const { data, byId } = Report;
  const { features } = data;
  const rows = [...byId("features").children];
  const of = (row) => features[Number(row.dataset.feature)];
  const sorts = {
    effect: (a, b) => of(b).effect - of(a).effect,
    shift: (a, b) => of(b).shift - of(a).shift,
    name: (a, b) => of(a).name.localeCompare(of(b).name),
    order: () => 0,
  };
  function sort() {
    // The rows stand in the model's order, which a stable sort keeps among equals.
    byId("features").append(...[...rows].sort(sorts[byId("sort").value]));
  }
  byId("sort").addEventListener("change", sort);
  sort();
})();
