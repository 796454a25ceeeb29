"""Runs of a graph over a batch: one for all items where they fit, else several.

A model that is bound to a batch of its own is shown rows: every view of every item as if it were an item, in order, as
many at once as the model takes, the last one again where they do not fill a run. The objective and the gradient of an
item are then the means of its rows'. Any other model is shown whole items, so that an item's numbers do not depend on
how many share a run with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.visualization.parameterizations.alpha import BACKGROUND
from ortoscope_service.analysis.visualization.transforms import COLUMNS, PER_VIEW, ROWS, each_view_alone
from ortoscope_service.analysis.visualization.windows import FIRST
from ortoscope_service.graph.backward import COTANGENT

Array = NDArray[Any]
Items = NDArray[np.int64]


@dataclass(frozen=True)
class Batching:
    """How the items of a batch are spread over runs."""

    fixed: int
    """Rows that a run must have; 0 if it may have any."""

    most: int
    """The most items of a run that may have any rows."""

    views: int
    """Views of each item."""

    per_view: str
    """How the names of feeds begin that hold one thing for each view of each item, besides those of transforms."""

    def in_one(self, batch: int) -> bool:
        """Whether one run takes all items as they are."""
        return not self.fixed and batch <= self.most

    def runs(
        self, names: Sequence[str], batch: int, feeds: Mapping[str, Array], parameters: Mapping[str, Array]
    ) -> Iterator[tuple[Items, dict[str, Array]]]:
        """The feeds of each run.

        Args:
            names: The inputs of the graph. The cotangent among them is one.
            batch: Items.
            feeds: What it is given besides the parameters and the cotangent.
            parameters: (items, ...) each.

        Yields:
            The item of each row that counts, and the feeds.
        """
        everything = {**feeds, **parameters}
        if self.in_one(batch):
            everything[COTANGENT] = np.ones(batch, np.float32)
            yield np.arange(batch), {name: everything[name] for name in names}
            return
        # What holds something for each item or view, by how many rows there are of an item; the rest is common to all.
        counts = dict.fromkeys([*parameters, BACKGROUND, ROWS, COLUMNS, FIRST], 1)
        for name in feeds:
            if name not in counts and (name in PER_VIEW or name.startswith(self.per_view)):
                counts[name] = self.views
        if self.fixed:
            yield from self._rows(names, batch, everything, counts)
            return
        for start in range(0, batch, self.most):
            items = np.arange(start, min(start + self.most, batch))
            given = {
                name: array[start * counts[name] : (start + len(items)) * counts[name]] if name in counts else array
                for name, array in everything.items()
            }
            given[COTANGENT] = np.ones(len(items), np.float32)
            yield items, {name: given[name] for name in names}

    def _rows(
        self, names: Sequence[str], batch: int, everything: Mapping[str, Array], counts: Mapping[str, int]
    ) -> Iterator[tuple[Items, dict[str, Array]]]:
        alone = {
            name: each_view_alone(name, array, self.views)
            if name in PER_VIEW
            else np.repeat(array, self.views // counts[name], axis=0)
            for name, array in everything.items()
            if name in counts
        }
        alone[COTANGENT] = np.ones(batch * self.views, np.float32)
        count = batch * self.views
        for start in range(0, count, self.fixed):
            chosen = np.arange(start, start + self.fixed)
            rows = np.minimum(chosen, count - 1)
            given = {name: alone[name][rows] if name in alone else everything[name] for name in names}
            yield chosen[chosen < count] // self.views, given

    def gather(self, items: Items, part: Array, total: Array) -> None:
        """Puts what a run gave for its rows, (rows, ...), where it belongs of (items, ...) zeros, in place."""
        share = part[: len(items)] / np.asarray(self.views, part.dtype) if self.fixed else part
        np.add.at(total, items, share)
