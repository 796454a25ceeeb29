"""What a preset adds to an objective: powers of cosines, and total variation."""

import dataclasses

from ortoscope_service.analysis.visualization.objectives import (
    ClassLogit,
    ClassProbability,
    ForItem,
    Objective,
    Picture,
    Product,
    Scaled,
    Sum,
    TotalVariation,
)
from ortoscope_service.analysis.visualization.objectives.directions import (
    Direction,
    DirectionNeuron,
    RandomDirection,
    TensorDirection,
)
from ortoscope_service.analysis.visualization.presets import Preset

_DIRECTIONS = (Direction, DirectionNeuron, RandomDirection, TensorDirection)


def completed(objective: Objective, preset: Preset) -> Objective:
    """The objective with what the preset adds to it: powers of cosines, and total variation."""
    complete = _with_power(objective, preset.cosine_power) if preset.cosine_power else objective
    if preset.total_variation:
        complete = complete - preset.total_variation * TotalVariation(Picture.IMAGE)
    return complete


def _with_power(objective: Objective, power: float) -> Objective:
    """The objective with a power in those directions that have none."""
    match objective:
        case Sum(parts):
            return Sum(tuple(_with_power(part, power) for part in parts))
        case Product(parts):
            return Product(tuple(_with_power(part, power) for part in parts))
        case Scaled(weight, inner):
            return Scaled(weight, _with_power(inner, power))
        case ForItem(item, inner):
            return ForItem(item, _with_power(inner, power))
    if isinstance(objective, _DIRECTIONS) and not objective.power:
        return dataclasses.replace(objective, power=power)
    return objective


def names_class(objective: Objective) -> bool:
    """Whether an objective is about a class."""
    return isinstance(objective, ClassLogit | ClassProbability) or any(map(names_class, objective.children))
