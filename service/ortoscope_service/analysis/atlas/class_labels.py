"""What the attributions of samples and cells say of classes: the largest ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMBERS_AT_ONCE = 2**22
"""Numbers of a block, as many as 32 MB hold in float64."""


def largest_classes(attribution: NDArray[Any], count: int) -> NDArray[np.int32]:
    """The classes with the largest attributions of each row, descending; the lower index first at a tie.

    Args:
        attribution: (n, K), any floating-point type; read in blocks of rows.
        count: How many; all K if there are fewer.

    Returns:
        (n, min(count, K)) int32.
    """
    rows, classes = attribution.shape
    count = min(count, classes)
    found = np.empty((rows, count), np.int32)
    if not count:
        return found
    block = max(1, _NUMBERS_AT_ONCE // classes)
    for start in range(0, rows, block):
        values = np.asarray(attribution[start : start + block], np.float32)
        if count == 1:
            found[start : start + block, 0] = values.argmax(axis=1)
            continue
        chosen = _chosen(values, count)
        order = np.argsort(-np.take_along_axis(values, chosen, axis=1), axis=1, kind="stable")
        found[start : start + block] = np.take_along_axis(chosen, order, axis=1)
    return found


def _chosen(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """(n, count), ascending: the indices of the largest values of each row, without sorting all of them."""
    last = np.partition(values, values.shape[1] - count, axis=1)[:, -count][:, np.newaxis]
    larger, equal = values > last, values == last
    equal &= np.cumsum(equal, axis=1) <= count - larger.sum(axis=1, keepdims=True)
    return np.nonzero(larger | equal)[1].reshape(len(values), count)
