"""What a dissection is asked for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DissectionSpec:
    """What to compute."""

    top_fraction: float = 0.005
    """Share of a unit's activations that lies above its threshold (the paper's choice)."""

    thresholds: NDArray[np.float64] | None = None
    """(U,) float64, thresholds to use instead."""

    examples_per_unit: int = 5
    """Top images kept for each unit, with their masks."""
