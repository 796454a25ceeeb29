"""Exact order statistics of a stream that was kept in parts, in memory that does not grow with the stream.

The values of each unit are counted by the highest eight bits of their place in the order of all floating-point numbers.
That tells which of those bits the wanted value has, and how many values are larger. Three further passes over the parts
find the rest of its bits.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ortoscope_service.statistics.order_statistics import Float32Array, Int64Array, KeptValues

_KEY_BITS = 32
_DIGIT_BITS = 8


class RankSelection:
    """Finds the value of a rank, and its larger neighbour, among the values of all parts.

    Args:
        units: Number of units.
        rank: Which value, counted from 1, the largest.

    Attributes:
        value: (units,) float32, the value once `done`; -inf where there are fewer than `rank` values.
        larger: (units,) float32, the value of the rank before it; `value` itself for rank 1.
    """

    def __init__(self, units: int, rank: int) -> None:
        self.value: Float32Array = np.full(units, -np.inf, np.float32)
        self.larger: Float32Array = np.full(units, -np.inf, np.float32)
        self._rank = rank
        self._bits = _KEY_BITS
        self._prefix: Int64Array = np.zeros(units, np.int64)
        self._before: Int64Array = np.zeros(units, np.int64)
        self._next: Int64Array = np.zeros(units, np.int64)
        self._histogram: Int64Array = np.zeros((units, 1 << _DIGIT_BITS), np.int64)
        self._begin_pass()

    @property
    def done(self) -> bool:
        """Whether the values are found."""
        return self._bits == 0

    def add(self, part: KeptValues) -> None:
        """Counts a part of the stream: each part once, in any order, before each `narrow`."""
        shift = self._bits - _DIGIT_BITS
        values, floor = part.value.view(np.int32), part.floor.view(np.int32)
        _count(values, part.start, floor, part.equal, shift, self._prefix, self._histogram, self._next)

    def narrow(self) -> None:
        """Ends a pass over the parts: finds the next bits of the values."""
        _narrow(self._histogram, self._rank, self._prefix, self._before, self._next)
        self._bits -= _DIGIT_BITS
        if not self.done:
            self._begin_pass()
            return
        found = self._before >= 0
        self.value[found] = _values(self._prefix[found])
        # Where all before it are larger, and not equal, its neighbour is the next larger one.
        differs = found & (self._before == self._rank - 1) & (self._rank > 1)
        self.larger[:] = self.value
        self.larger[differs] = _values(self._next[differs])

    def _begin_pass(self) -> None:
        self._histogram[:] = 0
        self._next[:] = 1 << _KEY_BITS


def _values(keys: Int64Array) -> Float32Array:
    """The float32 numbers at these places in the order of all."""
    half = 1 << (_KEY_BITS - 1)
    bits: NDArray[np.int32] = np.where(keys >= half, keys - half, -1 - keys).astype(np.int32)
    return bits.view(np.float32)


@numba.njit(nogil=True, cache=True)
def _key(bits: int) -> int:
    """The place of a float32, given by its bits as int32, in the order of all; from 0, equal for both zeros."""
    half = 1 << 31
    if bits in (0, -half):
        return half
    return bits + half if bits > 0 else -1 - bits


@numba.njit(nogil=True, cache=True)
def _count(
    values: Any, start: Any, floor: Any, equal: Any, shift: int, prefix: Any, histogram: Any, larger: Any
) -> None:
    """Adds the values of a part to the histograms of their next digit, if the digits before it are those of `prefix`.

    Args:
        values: (n,) int32, the bits of `KeptValues.value`.
        start: (units + 1,) int64, as `KeptValues.start`.
        floor: (units,) int32, the bits of `KeptValues.floor`.
        equal: (units,) int64, as `KeptValues.equal`.
        shift: Bits of a key after the digit that is counted.
        prefix: (units,) int64, the bits before that digit.
        histogram: (units, digits) int64, is added to.
        larger: (units,) int64, is lowered to the smallest key whose prefix is larger.
    """
    for unit in range(len(floor)):
        for index in range(start[unit], start[unit + 1] + 1):
            if index < start[unit + 1]:
                key = _key(values[index])
                times = 1
            else:
                key = _key(floor[unit])
                times = equal[unit]
                if times == 0:
                    continue
            digits = key >> shift
            above = digits >> 8
            if above == prefix[unit]:
                histogram[unit, digits & 255] += times
            elif above > prefix[unit]:
                larger[unit] = min(larger[unit], key)


@numba.njit(nogil=True, cache=True)
def _narrow(histogram: Any, rank: int, prefix: Any, before: Any, larger: Any) -> None:
    """Appends the digit of the rank's value to `prefix`, and finds what is larger.

    Args:
        histogram: (units, digits) int64, how many values have the prefix and then each digit.
        rank: The rank.
        prefix: (units,) int64, is extended.
        before: (units,) int64, how many values are larger by the digits known; becomes -1 where the values are fewer
            than the rank.
        larger: (units,) int64, the smallest key with a larger prefix; is lowered to that with the prefix and the next
            larger digit, if there is one.
    """
    for unit in range(len(prefix)):
        if before[unit] < 0:
            continue
        digit = histogram.shape[1] - 1
        last = -1
        while digit >= 0 and before[unit] + histogram[unit, digit] < rank:
            before[unit] += histogram[unit, digit]
            if histogram[unit, digit] > 0:
                last = digit
            digit -= 1
        if digit < 0:
            before[unit] = -1
            continue
        # Only in the last pass are a prefix and a digit a whole key; before that, `larger` is of no use.
        if last >= 0:
            larger[unit] = (prefix[unit] << 8) | last
        prefix[unit] = (prefix[unit] << 8) | digit
