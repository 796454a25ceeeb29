"""A visualization as data: everything that decides it besides the model and the input that it starts from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.visualization.objective_json import objective_from_data, objective_to_data
from ortoscope_service.analysis.visualization.objectives import Objective
from ortoscope_service.analysis.visualization.presets import Preset
from ortoscope_service.analysis.visualization.settings import preset_from_data, preset_to_data
from ortoscope_service.errors import OrtoscopeError, invalid

Array = NDArray[Any]


@dataclass(frozen=True)
class VisualizationSpec:
    """Everything that decides a visualization besides the model and the input that it starts from."""

    objective: Objective
    """What is climbed."""

    preset: Preset
    """How, with every setting filled in."""

    seed: int = 0
    """Where randomness comes from."""

    items: int = 1
    """Pictures that are made side by side."""

    start_digest: str = ""
    """`digest_of_start` of the input that the climb starts from; empty for a random start."""

    def to_data(self) -> dict[str, Any]:
        """The specification as JSON data: equal ones give equal data."""
        return {
            "objective": objective_to_data(self.objective),
            "preset": preset_to_data(self.preset),
            "seed": self.seed,
            "items": self.items,
            "start": self.start_digest,
        }

    @classmethod
    def from_data(cls, data: object, *, field: str = "spec") -> "VisualizationSpec":
        """The specification that `to_data` gave; further entries of the data are not looked at.

        Raises:
            OrtoscopeError: `INVALID_SPEC`; as `objective_from_data` and `preset_from_data` raise.
        """
        if not isinstance(data, Mapping):
            raise _invalid_spec(field, "it is no object")
        numbers = {name: data.get(name) for name in ("seed", "items")}
        for name, number in numbers.items():
            if not isinstance(number, int) or isinstance(number, bool):
                raise _invalid_spec(f"{field}.{name}", "it is no whole number")
        digest = data.get("start")
        if not isinstance(digest, str):
            raise _invalid_spec(f"{field}.start", "it is no text")
        return cls(
            objective_from_data(data.get("objective"), field=f"{field}.objective"),
            preset_from_data(data.get("preset"), field=f"{field}.preset"),
            start_digest=digest,
            **numbers,  # type: ignore[arg-type] # checked above
        )


def digest_of_start(start: Array) -> str:
    """SHA-256, in hexadecimal, of the float32 numbers of a start and their shape."""
    values = np.ascontiguousarray(start, "<f4")
    return hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()


def _invalid_spec(field: str, why: str) -> OrtoscopeError:
    return invalid("INVALID_SPEC", f"The field '{field}' cannot be read: {why}.", field=field, problem=why)
