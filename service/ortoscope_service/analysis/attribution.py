"""Class attribution: how much of each class's score the parts of a layer account for, all classes at once.

The attribution of class c to a selection S of a tap's elements is the sum over S of activation times d score_c by d
activation: the linear approximation of Olah et al. 2018 ("The Building Blocks of Interpretability"). It is the
derivative of the scores along the activation with everything outside S set to zero, so one run of the tangent graph
gives all classes.
"""

import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.activations import checked_site, run_taps, units_first
from ortoscope_service.analysis.gradients import Target, check_unit, site_shape
from ortoscope_service.errors import invalid
from ortoscope_service.graph.backward import TANGENT, Relaxations, build_tangent, tangent_name
from ortoscope_service.graph.loading import serialize
from ortoscope_service.graph.slicing import head
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import RunnableSession

Array = NDArray[Any]
Index = tuple[int | slice, ...]


class Granularity(enum.Enum):
    """Which parts of a tap have attributions of their own."""

    WHOLE = "whole"
    UNITS = "units"
    SITES = "sites"


@dataclass(frozen=True)
class Parts:
    """The parts of a tap that scores are attributed to."""

    tap: Tap
    """The tap."""

    granularity: Granularity
    """What a part is."""

    units: tuple[int, ...] = ()
    """For UNITS: which; all if empty."""

    sites: tuple[tuple[int, ...], ...] = ()
    """For SITES: which, negative counting from the end; all if empty."""

    def chosen(self, shape: Sequence[int]) -> "Parts":
        """The same with every part named, from 0.

        Args:
            shape: The shape of one item of the tap.

        Raises:
            OrtoscopeError: `INVALID_UNIT`, `INVALID_SITE`.
        """
        tap, extents = self.tap, site_shape(shape, self.tap)
        if self.granularity is Granularity.UNITS:
            for number, unit in enumerate(self.units):
                check_unit(unit, shape, tap, field=f"units[{number}]")
            return Parts(tap, self.granularity, self.units or tuple(range(shape[tap.unit_axis - 1])))
        if self.granularity is Granularity.SITES:
            given = [checked_site(site, extents, tap, f"sites[{number}]") for number, site in enumerate(self.sites)]
            positive = (tuple(i % extent for i, extent in zip(site, extents, strict=True)) for site in given)
            return Parts(tap, self.granularity, sites=tuple(positive) if given else tuple(np.ndindex(extents)))
        return self

    def count(self, shape: Sequence[int]) -> int:
        """How many parts there are, without making them."""
        if self.granularity is Granularity.UNITS:
            return len(self.units) or shape[self.tap.unit_axis - 1]
        if self.granularity is Granularity.SITES:
            return len(self.sites) or math.prod(site_shape(shape, self.tap))
        return 1

    def indices(self) -> list[Index]:
        """For each part that was chosen, the index of its elements in one item as (units, site axes...)."""
        if self.granularity is Granularity.UNITS:
            return [(unit,) for unit in self.units]
        if self.granularity is Granularity.SITES:
            return [(slice(None), *site) for site in self.sites]
        return [(slice(None),)]


@dataclass(frozen=True)
class Attributions:
    """The attributions of all classes to the parts of a tap."""

    attributions: Array
    """(items, parts, classes), in the scores' type."""

    totals: Array
    """(items, classes): to the whole tap."""

    scores: Array
    """(items, classes)."""

    @classmethod
    def joined(cls, some: Sequence["Attributions"]) -> "Attributions":
        """Those of several batches of items as one."""
        return cls(
            np.concatenate([part.attributions for part in some]),
            np.concatenate([part.totals for part in some]),
            np.concatenate([part.scores for part in some]),
        )


def tangent_graph(version: ModelVersion, target: Target, tap: Tap, relaxations: Relaxations) -> bytes:
    """The tangent graph from a tap to class scores, cut off before the tap, as an ONNX file.

    Its inputs are the tap's value, the tangent, and those inputs of the model that reach the scores past the tap.

    Args:
        version: The model.
        target: The scores.
        tap: The tap.
        relaxations: Departures from the true derivative.

    Raises:
        OrtoscopeError: `NO_HEAD`: the scores do not vary with the tap; as `build_tangent` raises.
    """
    model, scores = target.model(version)
    if tap.tensor == scores or not any(value.name == tap.tensor for node in model.graph for value in node.outputs):
        raise invalid(
            "NO_HEAD",
            f"The scores of the classes are not computed from tap '{tap.display_name}'; choose a tap on the way to "
            f"'{target.tap.display_name}', which holds them.",
            tap=tap.tensor,
            scores=target.tap.tensor,
        )
    return serialize(build_tangent(head(model, tap.tensor), tap.tensor, relaxations=relaxations))


def attribute_classes(
    session: RunnableSession,
    parts: Parts,
    classes_axis: int,
    activation: Array,
    feeds: Mapping[str, Array],
    batch_size: int,
    fixed_batch: int = 0,
    cancellation: Cancellation | None = None,
) -> Attributions:
    """Attributes the scores of all classes to parts of a tap.

    Every item is repeated for each part, and once for the whole, with the tangent that is the activation there and
    zero elsewhere; as many as fit into a batch run at once.

    Args:
        session: The tangent graph of `tangent_graph`.
        parts: What `Parts.chosen` gave.
        classes_axis: The axis of the scores along which the classes lie.
        activation: The tap's value, items along the first axis.
        feeds: The inputs of the model.
        batch_size: How many repetitions run at once.
        fixed_batch: The batch size that the model is bound to; 0 if any can be run.
        cancellation: Stops the runs.

    Raises:
        OrtoscopeError: As `Session.run` raises.
    """
    tap, items = parts.tap, len(activation)
    indices: list[Index] = [(slice(None),)]
    if parts.granularity is not Granularity.WHOLE:
        indices += parts.indices()
    derivative = next(info.name for info in session.outputs if info.name.startswith(tangent_name("")))
    name = derivative.removeprefix(tangent_name(""))
    derivatives, scores = [], []
    for which, part in _batches(items, len(indices), batch_size):
        tangent = _tangent(activation, tap, which, [indices[number] for number in part])
        given = {TANGENT: tangent, tap.tensor: activation[which]}
        further = {info.name: feeds[info.name][which] for info in session.inputs if info.name not in given}
        outputs = run_taps(session, {**given, **further}, fixed_batch, cancellation)
        derivatives.append(_by_class(outputs[derivative], classes_axis))
        scores.append(_by_class(outputs[name], classes_axis)[part == 0])
    found = np.concatenate(derivatives)
    found = found.reshape(items, len(indices), found.shape[1])
    own = found[:, 1:] if parts.granularity is not Granularity.WHOLE else found
    return Attributions(own, found[:, 0], np.concatenate(scores))


def _batches(items: int, parts: int, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The items and parts of all pairs, in order, a batch at a time."""
    for start in range(0, items * parts, size):
        pairs = np.arange(start, min(start + size, items * parts))
        yield pairs // parts, pairs % parts


def _tangent(activation: Array, tap: Tap, items: NDArray[np.int64], indices: Sequence[Index]) -> Array:
    """The activation of each item at the elements of an index, zero elsewhere."""
    tangent = np.zeros((len(items), *activation.shape[1:]), activation.dtype)
    to, values = units_first(tangent, tap), units_first(activation, tap)
    for number, (item, index) in enumerate(zip(items, indices, strict=True)):
        to[(number, *index)] = values[(item, *index)]
    return tangent


def _by_class(values: Array, axis: int) -> Array:
    """(items, classes) of scores with the classes along an axis and nothing else."""
    moved = np.moveaxis(values, axis, 1)
    return moved.reshape(len(moved), moved.shape[1])
