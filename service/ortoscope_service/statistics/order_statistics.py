"""Exact upper quantiles of a stream, in memory proportional to the share of values above them.

A quantile near 1 depends on the few largest values alone. With the number of values known in advance, keeping that many
of the largest per unit gives the quantile of the whole stream exactly, where a sketch (Network Dissection's and its
successors') gives it with an error in rank.
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


@numba.njit(nogil=True, cache=True)
def survey(
    values: Any, kept: Any, fill: Any, floor: Any, depth: int, minimum: Any, maximum: Any, peak: Any
) -> tuple[int, int]:
    """Adds maps (images, units, sites) to the largest values kept of each unit, and finds each map's peak.

    Updates `kept` (units, capacity), `fill` (units,), `floor` (units,), `minimum` (units,) and `maximum` (units,) in
    place, and writes `peak` (images, units).

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
                        ordered = np.partition(kept[unit], capacity - depth)
                        kept[unit, :depth] = ordered[capacity - depth :]
                        fill[unit] = depth
                        bar = ordered[capacity - depth]
                        floor[unit] = bar
            peak[image, unit] = highest
            minimum[unit] = min(minimum[unit], lowest)
            maximum[unit] = max(maximum[unit], highest)
    return -1, -1


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
    """The `depth` largest values of each unit, with their smallest and largest.

    Args:
        units: Number of units.
        depth: How many of the largest values to keep.
    """

    def __init__(self, units: int, depth: int) -> None:
        self.units = units
        self.depth = depth
        # Twice the depth and a little more: sorting out the smaller half then costs O(1) for each value that comes in.
        self._kept: Float32Array = np.empty((units, self.capacity(depth)), np.float32)
        self._fill = np.zeros(units, np.int64)
        self.floor: Float32Array = np.full(units, -np.inf, np.float32)
        """(units,) float32: `depth` values so far are at or above it; it only rises, and no quantile ends below it."""
        self.minimum: Float32Array = np.full(units, np.inf, np.float32)
        """(units,) float32: smallest value so far."""
        self.maximum: Float32Array = np.full(units, -np.inf, np.float32)
        """(units,) float32: largest value so far."""

    @staticmethod
    def capacity(depth: int) -> int:
        """Values that are held for each unit to keep `depth` of them."""
        return 2 * depth + 256

    @classmethod
    def bytes_needed(cls, units: int, depth: int) -> int:
        """Bytes that the accumulator takes."""
        return units * cls.capacity(depth) * 4

    def update(self, values: Float32Array) -> Float32Array:
        """Takes in maps (images, units, sites) float32.

        Returns:
            The largest value of each map, (images, units) float32.

        Raises:
            NotFiniteError: A value is infinite or not a number.
        """
        peak = np.empty(values.shape[:2], np.float32)
        image, unit = survey(
            np.ascontiguousarray(values),
            self._kept,
            self._fill,
            self.floor,
            self.depth,
            self.minimum,
            self.maximum,
            peak,
        )
        if image >= 0:
            raise NotFiniteError(image, unit)
        return peak

    def merge(self, other: "LargestValues") -> None:
        """Takes in everything that `other` (same units and depth) has taken in."""
        for unit in range(self.units):
            values = np.concatenate((self._kept[unit, : self._fill[unit]], other._kept[unit, : other._fill[unit]]))
            if len(values) > self.depth:
                values = np.partition(values, len(values) - self.depth)[len(values) - self.depth :]
            if len(values) == self.depth:
                self.floor[unit] = values.min()
            self._kept[unit, : len(values)] = values
            self._fill[unit] = len(values)
        np.minimum(self.minimum, other.minimum, out=self.minimum)
        np.maximum(self.maximum, other.maximum, out=self.maximum)

    def quantile(self, position: QuantilePosition) -> Float64Array:
        """The quantile of each unit, (units,) float64, equal to `numpy.quantile(..., method="linear")` in float64.

        Raises:
            ValueError: fewer values came in than `position` counts on, or it needs more of them than were kept.
        """
        if position.depth > self.depth or (self._fill < position.depth).any():
            raise ValueError("the quantile lies below the values that were kept")
        result = np.empty(self.units, np.float64)
        for unit in range(self.units):
            kept = np.sort(self._kept[unit, : self._fill[unit]]).astype(np.float64)
            lower = kept[-position.depth]
            upper = kept[-position.depth + 1] if position.depth > 1 else lower
            result[unit] = _lerp(lower, upper, position.weight)
        return result

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The state as arrays, for `from_arrays`."""
        return {
            "depth": np.array(self.depth, np.int64),
            "kept": self._kept[:, : int(self._fill.max(initial=0))].copy(),
            "fill": self._fill.copy(),
            "floor": self.floor.copy(),
            "minimum": self.minimum.copy(),
            "maximum": self.maximum.copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "LargestValues":
        """An accumulator with the state that `to_arrays` gave."""
        result = cls(len(arrays["fill"]), int(arrays["depth"]))
        result._kept[:, : arrays["kept"].shape[1]] = arrays["kept"]
        result._fill[:] = arrays["fill"]
        result.floor[:] = arrays["floor"]
        result.minimum[:] = arrays["minimum"]
        result.maximum[:] = arrays["maximum"]
        return result


def _lerp(lower: float, upper: float, weight: float) -> float:
    """The point between two values as NumPy computes it, from the nearer end; equal ends give just that value."""
    difference = upper - lower
    if weight >= 0.5:
        return upper - difference * (1 - weight)
    return lower + difference * weight
