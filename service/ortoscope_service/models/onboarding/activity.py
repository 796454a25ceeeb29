"""How alive the units of a model are on real pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.onboarding.running import Part, groups


@dataclass(frozen=True)
class Activity:
    """Counts over all units of all taps."""

    units: int
    """Units, in all."""

    constant: int
    """Units with one and the same value at every site of every picture."""

    not_finite: tuple[str, ...]
    """Names of the taps with a value that is infinite or not a number."""


def measure_activity(
    model: ir.Model, taps: Sequence[Tap], feeds: Mapping[str, npt.NDArray[np.generic]], items: int
) -> Activity:
    """Runs the model once and looks at all taps.

    Raises:
        OrtoscopeError: If it does not run.
    """
    by_name = {tap.tensor: tap for tap in taps}
    units, constant, not_finite = 0, 0, []
    for group in groups(list(by_name), taps, items):
        for name, values in Part(model, group).run(feeds).items():
            by_unit = np.moveaxis(values, by_name[name].unit_axis, 0).reshape(values.shape[by_name[name].unit_axis], -1)
            units += len(by_unit)
            constant += int(np.count_nonzero((by_unit == by_unit[:, :1]).all(axis=1)))
            if not np.isfinite(values).all():
                not_finite.append(by_name[name].display_name)
    return Activity(units, constant, tuple(not_finite))
