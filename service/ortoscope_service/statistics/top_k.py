"""The images with the largest value for each unit of a stream."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TopK:
    """For each unit the `k` items with the largest value; of equal values the lower item comes first.

    Args:
        units: Number of units.
        k: How many items to keep.

    Attributes:
        value: (units, k) float32, descending; -inf where there are fewer than k items.
        item: (units, k) int64; -1 where there are fewer.
        site: (units, k) int64, whatever was given with the item; -1 where there are fewer.
    """

    def __init__(self, units: int, k: int) -> None:
        self.value: NDArray[np.float32] = np.full((units, k), -np.inf, np.float32)
        self.item: NDArray[np.int64] = np.full((units, k), -1, np.int64)
        self.site: NDArray[np.int64] = np.full((units, k), -1, np.int64)

    def update(
        self, value: NDArray[np.float32], item: NDArray[np.int64], site: NDArray[np.int64] | None = None
    ) -> None:
        """Takes in `value` (n, units) float32 of the items `item` (n,) int64, with `site` (n, units) int64 if any.

        No item may come in twice.
        """
        sites = np.zeros(value.shape, np.int64) if site is None else site
        self._take(value.T, np.broadcast_to(item, value.T.shape), sites.T)

    def merge(self, other: "TopK") -> None:
        """Takes in everything that `other` (same units and k) has taken in."""
        self._take(other.value, other.item, other.site)

    def _take(self, value: NDArray[np.float32], item: NDArray[np.int64], site: NDArray[np.int64]) -> None:
        k = self.value.shape[1]
        values = np.concatenate((self.value, value), axis=1)
        items = np.concatenate((self.item, item), axis=1)
        sites = np.concatenate((self.site, site), axis=1)
        # An empty place (-1) would win a tie with a real item of value -inf.
        ranks = np.where(items < 0, np.iinfo(np.int64).max, items)
        best = np.lexsort((ranks, -values), axis=1)[:, :k]
        self.value = np.take_along_axis(values, best, axis=1)
        self.item = np.take_along_axis(items, best, axis=1)
        self.site = np.take_along_axis(sites, best, axis=1)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The state as arrays, for `from_arrays`."""
        return {"value": self.value, "item": self.item, "site": self.site}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "TopK":
        """An accumulator with the state that `to_arrays` gave."""
        result = cls(*arrays["value"].shape)
        result.value = arrays["value"].copy()
        result.item = arrays["item"].copy()
        result.site = arrays["site"].copy()
        return result
