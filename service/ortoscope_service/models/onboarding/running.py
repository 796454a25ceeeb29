"""Running parts of a model, many tensors at a time but never all at once."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.graph.loading import serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.graph.taps import Tap
from ortoscope_service.runtime.sessions import Session

Arrays = dict[str, npt.NDArray[np.generic]]

_ELEMENTS_AT_ONCE = 128 * 1024**2
_UNKNOWN_EXTENT = 64


class Part:
    """The part of a model that computes some tensors, ready to run."""

    def __init__(self, model: ir.Model, tensors: Sequence[str]) -> None:
        self._session = Session(serialize(trunk(model, tensors)))

    def run(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> Arrays:
        """The tensors by name; `feeds` may hold inputs that this part does not take."""
        return self._session.run({info.name: feeds[info.name] for info in self._session.inputs})


def outputs_and_taps(model: ir.Model, taps: Sequence[Tap]) -> tuple[str, ...]:
    """Names of all outputs and of all taps, each once."""
    return tuple(dict.fromkeys([*(value.name or "" for value in model.graph.outputs), *(tap.tensor for tap in taps)]))


def groups(tensors: Sequence[str], taps: Sequence[Tap], items: int) -> Iterator[tuple[str, ...]]:
    """Splits tensors, in their order, into groups whose values take about 512 MB for a batch of `items`."""
    shapes = {tap.tensor: tap.shape[1:] for tap in taps}
    group: list[str] = []
    elements = 0
    for tensor in tensors:
        size = items * math.prod(extent if extent > 0 else _UNKNOWN_EXTENT for extent in shapes.get(tensor, ()))
        if group and elements + size > _ELEMENTS_AT_ONCE:
            yield tuple(group)
            group, elements = [], 0
        group.append(tensor)
        elements += size
    if group:
        yield tuple(group)
