"""The largest values of a stream, and where a quantile lies among them.

A quantile near 1 depends on the few largest values alone. With the number of values known in advance, keeping that many
of the largest per unit gives the quantile of the whole stream exactly, where a sketch (Network Dissection's and its
successors') gives it with an error in rank. `selection` finds it, in however many parts the stream came.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class QuantilePosition:
    """Where a quantile lies among sorted values (definition 7 of Hyndman and Fan 1996, NumPy's "linear")."""

    count: int
    """Number of values."""

    lower: int
    """Index, from 0 in ascending order, of the order statistic at or below the quantile."""

    weight: float
    """Position between that order statistic and the next, in [0, 1)."""

    @classmethod
    def of(cls, fraction: float, count: int) -> "QuantilePosition":
        """The position of the `fraction` quantile of `count` values.

        Raises:
            ValueError: `count` is not positive or `fraction` lies outside [0, 1].
        """
        if count < 1 or not 0 <= fraction <= 1:
            raise ValueError(f"no quantile {fraction} of {count} values")
        position = fraction * (count - 1)
        lower = min(math.floor(position), count - 1)
        return cls(count, lower, position - lower)

    @property
    def depth(self) -> int:
        """How many of the largest values decide the quantile."""
        return self.count - self.lower

    def between(self, lower: Float64Array, upper: Float64Array) -> Float64Array:
        """The quantile between two neighbouring order statistics, as NumPy computes it: from the nearer end.

        Equal ends give just that value.
        """
        difference = upper - lower
        if self.weight >= 0.5:
            return upper - difference * (1 - self.weight)
        return lower + difference * self.weight


@dataclass(frozen=True)
class KeptValues:
    """The largest values of each of U units in a part of a stream.

    Together with the values that equal the floor they are all values of the part that lie at or above the floor.
    """

    value: Float32Array
    """(n,) float32: the values, unit after unit; none lies below its unit's floor."""

    start: Int64Array
    """(U + 1,) int64: those of unit u are value[start[u]] to value[start[u + 1]]."""

    floor: Float32Array
    """(U,) float32: what is not kept lies at or below it."""

    equal: Int64Array
    """(U,) int64: how many values equal the floor and are not kept."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """It as arrays, for `from_arrays`."""
        return {"value": self.value, "start": self.start, "floor": self.floor, "equal": self.equal}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "KeptValues":
        """What `to_arrays` was called on."""
        return cls(arrays["value"], arrays["start"], arrays["floor"], arrays["equal"])


class NotFiniteError(ValueError):
    """A value is infinite or not a number.

    Attributes:
        image: Index of the image within the update.
        unit: The unit.
    """

    def __init__(self, image: int, unit: int) -> None:
        super().__init__(f"value of unit {unit} in image {image} of the update is not finite")
        self.image = image
        self.unit = unit


class LargestValues:
    """The `depth` largest values of each unit that lie above a bound, with the smallest and largest of all.

    Args:
        units: Number of units.
        depth: How many of the largest values to keep, at least 1.
        bound: (units,) float32: values that are not above it are not kept, but those equal to it counted; None: any
            value may be kept.

    Attributes:
        floor: (units,) float32: the bound, or what `depth` values so far do not lie below if larger; it only rises.
        minimum: (units,) float32: smallest value so far.
        maximum: (units,) float32: largest value so far.
    """

    def __init__(self, units: int, depth: int, bound: Float32Array | None = None) -> None:
        self.depth = depth
        self.floor: Float32Array = np.full(units, -np.inf, np.float32) if bound is None else bound.astype(np.float32)
        self.minimum: Float32Array = np.full(units, np.inf, np.float32)
        self.maximum: Float32Array = np.full(units, -np.inf, np.float32)
        self._kept: Float32Array = np.empty((units, 0), np.float32)
        self._fill: Int64Array = np.zeros(units, np.int64)
        self._equal: Int64Array = np.zeros(units, np.int64)

    @staticmethod
    def bytes_needed(units: int, depth: int, values: int) -> int:
        """Bytes that the accumulator takes at most.

        Args:
            units: Number of units.
            depth: How many of the largest values are kept.
            values: How many values of each unit come in.
        """
        return units * min(_capacity(depth), values + 1) * 4

    def update(self, values: Float32Array) -> Float32Array:
        """Takes in maps (images, units, sites) float32.

        Returns:
            The largest value of each map, (images, units) float32.

        Raises:
            NotFiniteError: A value is infinite or not a number.
        """
        images, units, sites = values.shape
        self._make_room(images * sites)
        peak = np.empty((images, units), np.float32)
        image, unit = _take(
            np.ascontiguousarray(values),
            self._kept,
            self._fill,
            self.floor,
            self._equal,
            self.depth,
            self.minimum,
            self.maximum,
            peak,
        )
        if image >= 0:
            raise NotFiniteError(image, unit)
        return peak

    def kept(self) -> KeptValues:
        """The values."""
        _trim(self._kept, self._fill, self.floor, self._equal, self.depth)
        start = np.concatenate((np.zeros(1, np.int64), np.cumsum(self._fill)))
        taken = np.arange(self._kept.shape[1]) < self._fill[:, None]
        return KeptValues(self._kept[taken], start, self.floor.copy(), self._equal.copy())

    def _make_room(self, values: int) -> None:
        """Sees to it that so many more values fit in, or that what overflows is more than the depth."""
        needed = min(_capacity(self.depth), int(self._fill.max(initial=0)) + values + 1)
        if needed <= self._kept.shape[1]:
            return
        # Room grows with what is kept, because above a bound that is little; by half, so that copying is rare.
        roomy = np.empty((len(self._fill), min(_capacity(self.depth), needed + needed // 2)), np.float32)
        roomy[:, : self._kept.shape[1]] = self._kept
        self._kept = roomy


def _capacity(depth: int) -> int:
    """Values that are held for each unit to keep `depth` of them.

    Twice as many and a little more: sorting out the smaller half then costs O(1) for each value that comes in.
    """
    return 2 * depth + 256


@numba.njit(nogil=True, cache=True)
def _sort_out(kept: Any, fill: int, depth: int, former_floor: float, equal: int) -> tuple[float, int]:
    """Moves the `depth` largest of kept[:fill] to its front.

    Returns:
        The smallest of them, the new floor; and how many values that equal it were left out, given that there were
        `equal` of the former floor.
    """
    ordered = np.partition(kept[:fill], fill - depth)
    floor = ordered[fill - depth]
    left_out = equal if floor == former_floor else 0
    for index in range(fill - depth):
        if ordered[index] == floor:
            left_out += 1
    kept[:depth] = ordered[fill - depth :]
    return floor, left_out


@numba.njit(nogil=True, cache=True)
def _trim(kept: Any, fill: Any, floor: Any, equal: Any, depth: int) -> None:
    """Leaves no more than `depth` values of each unit."""
    for unit in range(len(fill)):
        if fill[unit] > depth:
            floor[unit], equal[unit] = _sort_out(kept[unit], fill[unit], depth, floor[unit], equal[unit])
            fill[unit] = depth


@numba.njit(nogil=True, cache=True)
def _take(
    values: Any, kept: Any, fill: Any, floor: Any, equal: Any, depth: int, minimum: Any, maximum: Any, peak: Any
) -> tuple[int, int]:
    """Adds maps (images, units, sites) to the largest values kept of each unit, and finds each map's peak.

    Updates `kept` (units, capacity), and `fill`, `floor`, `equal`, `minimum` and `maximum`, all (units,), in place, and
    writes `peak` (images, units).

    Returns:
        Image and unit of the first value that is not finite; (-1, -1) if all are.
    """
    images, units, sites = values.shape
    capacity = kept.shape[1]
    for image in range(images):
        for unit in range(units):
            highest = -np.inf
            lowest = np.inf
            bar = floor[unit]
            for site in range(sites):
                value = values[image, unit, site]
                if not np.isfinite(value):
                    return image, unit
                highest = max(highest, value)
                lowest = min(lowest, value)
                if value > bar:
                    kept[unit, fill[unit]] = value
                    fill[unit] += 1
                    if fill[unit] == capacity:
                        bar, equal[unit] = _sort_out(kept[unit], capacity, depth, bar, equal[unit])
                        floor[unit] = bar
                        fill[unit] = depth
                elif value == bar:
                    equal[unit] += 1
            peak[image, unit] = highest
            minimum[unit] = min(minimum[unit], lowest)
            maximum[unit] = max(maximum[unit], highest)
    return -1, -1
