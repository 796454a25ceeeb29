"""Whether a model gives each item of a batch the values that it gives the item alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.onboarding.inputs import batched_inputs
from ortoscope_service.models.onboarding.running import Arrays, Part, groups, outputs_and_taps

ITEMS = 3
"""Items of the batch that is compared: the smallest number that is neither 1 nor likely to stand in a file."""

TOLERANCE = 1e-3
"""Largest difference that is taken for rounding, relative to the tensor's largest value. ONNX Runtime sums in another
order for another batch, which deep networks amplify; items that are mixed up differ by as much as the values."""


@dataclass(frozen=True)
class BatchCheck:
    """What came out of the comparison."""

    passed: bool
    """Whether every tensor agrees."""

    tensors: int
    """How many tensors were compared."""

    largest_difference: float
    """Largest difference found, relative to the largest value of its tensor; infinite where shapes differ."""

    detail: str
    """What is wrong, in words; empty if nothing is."""


def check_batch(
    model: ir.Model,
    taps: Sequence[Tap],
    feeds: Mapping[str, npt.NDArray[np.generic]],
    *,
    reference: ir.Model | None = None,
    reference_batch: int = 1,
) -> BatchCheck:
    """Runs a batch of `ITEMS` items at once and one by one, and compares all outputs and taps per item.

    Args:
        model: The model with a free batch.
        taps: Its taps.
        feeds: A batch of `ITEMS` items.
        reference: The model that `model` was rewritten from, bound to `reference_batch`: its values must agree, too.
        reference_batch: That batch size; the last item is repeated to fill it.

    Returns:
        The outcome. A model that does not run has not passed.
    """
    tensors = outputs_and_taps(model, taps)
    batched = batched_inputs(model)
    largest = 0.0
    for group in groups(tensors, taps, 2 * ITEMS):
        try:
            part = Part(model, group)
            together = part.run(feeds)
            apart = list(_runs_of(part, feeds, batched, 1))
            if reference is not None:
                apart += _runs_of(Part(reference, group), feeds, batched, reference_batch)
        except OrtoscopeError as error:
            return BatchCheck(False, len(tensors), math.inf, f"a run failed: {error.message}")
        for start, size, values in apart:
            for name in group:
                difference = _difference(together[name], values[name], start, size)
                largest = max(largest, difference)
                if not difference <= TOLERANCE:
                    what = "has another shape" if math.isinf(difference) else f"differs by {difference:.1g} (relative)"
                    return BatchCheck(
                        False, len(tensors), difference, f"tensor '{name}' {what} when items are run apart"
                    )
    return BatchCheck(True, len(tensors), largest, "")


def _runs_of(
    part: Part, feeds: Mapping[str, npt.NDArray[np.generic]], batched: frozenset[str], size: int
) -> Iterator[tuple[int, int, Arrays]]:
    """Runs all items in batches of `size`; yields the first item of each batch, the size, and the values."""
    for start in range(0, ITEMS, size):
        items = [min(start + offset, ITEMS - 1) for offset in range(size)]
        yield start, size, part.run({name: a[items] if name in batched else a for name, a in feeds.items()})


def _difference(together: npt.NDArray[np.generic], apart: npt.NDArray[np.generic], start: int, size: int) -> float:
    """Largest difference between the items of a batch run apart and the same items of the whole, relative."""
    if together.shape == apart.shape and len(together) != ITEMS:  # does not hold the batch
        expected, actual = together, apart
    elif together.shape[:1] == (ITEMS,) and apart.shape == (size, *together.shape[1:]):
        count = min(size, ITEMS - start)
        expected, actual = together[start : start + count], apart[:count]
    else:
        return math.inf
    if expected.dtype == object:
        return 0.0 if np.array_equal(expected, actual) else math.inf
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    if not (np.isfinite(a[~same]).all() and np.isfinite(b[~same]).all()):
        return math.inf
    return float(np.abs(a[~same] - b[~same]).max() / np.abs(a[np.isfinite(a)]).max())
