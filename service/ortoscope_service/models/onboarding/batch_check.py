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
    largest = 0.0
    for group in groups(tensors, taps, ITEMS + 1):
        models = [(model, 1)] if reference is None else [(model, 1), (reference, reference_batch)]
        try:
            for name, difference in _differences(models, group, feeds, batched_inputs(model)):
                largest = max(largest, difference)
                if not difference <= TOLERANCE:
                    what = "has another shape" if math.isinf(difference) else f"differs by {difference:.1g} (relative)"
                    detail = f"tensor '{name}' {what} when items are run apart"
                    return BatchCheck(False, len(tensors), difference, detail)
        except OrtoscopeError as error:
            return BatchCheck(False, len(tensors), math.inf, f"a run failed: {error.message}")
    return BatchCheck(True, len(tensors), largest, "")


def _differences(
    models: Sequence[tuple[ir.Model, int]],
    tensors: Sequence[str],
    feeds: Mapping[str, npt.NDArray[np.generic]],
    batched: frozenset[str],
) -> Iterator[tuple[str, float]]:
    """How far tensors of the first model, run on all items at once, are from those of each model run on fewer."""
    first = Part(models[0][0], tensors)
    together = first.run(feeds)
    for number, (model, size) in enumerate(models):
        part = Part(model, tensors) if number else first
        for start, values in _runs_of(part, feeds, batched, size):
            for name in tensors:
                yield name, _difference(together[name], values[name], start, size)


def _runs_of(
    part: Part, feeds: Mapping[str, npt.NDArray[np.generic]], batched: frozenset[str], size: int
) -> Iterator[tuple[int, Arrays]]:
    """Runs all items in batches of `size`; yields the first item of each batch, and the values."""
    for start in range(0, ITEMS, size):
        items = [min(start + offset, ITEMS - 1) for offset in range(size)]
        yield start, part.run({name: a[items] if name in batched else a for name, a in feeds.items()})


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
