"""What an image is to maximise, as data that compiles to ONNX: an algebra and its leaves."""

from ortoscope_service.analysis.visualization.objectives.algebra import (
    MAXIMUM_DEPTH,
    MAXIMUM_SIZE,
    Constant,
    ForItem,
    Objective,
    Product,
    Scaled,
    Sum,
    check,
    packed_feeds,
    taps,
    walk,
)
from ortoscope_service.analysis.visualization.objectives.arrays import Numbers
from ortoscope_service.analysis.visualization.objectives.batches import Alignment, Diversity
from ortoscope_service.analysis.visualization.objectives.directions import (
    Caricature,
    Direction,
    DirectionNeuron,
    Inversion,
    RandomDirection,
    TensorDirection,
    WeightedChannels,
)
from ortoscope_service.analysis.visualization.objectives.regularizers import (
    L1,
    L2,
    Blur,
    BoundaryComplexity,
    Difference,
    Norm,
    TotalVariation,
)
from ortoscope_service.analysis.visualization.objectives.setting import Canvas, Picture, Setting, Source
from ortoscope_service.analysis.visualization.objectives.units import (
    Channel,
    ChannelInterpolation,
    ClassLogit,
    ClassProbability,
    Layer,
    Neuron,
)
from ortoscope_service.analysis.visualization.objectives.whitened import (
    DirectionCosine,
    LucidDirectionNeuron,
    WhitenedDirectionNeuron,
)

LEAVES: tuple[type[Objective], ...] = (
    Neuron,
    Channel,
    Layer,
    ChannelInterpolation,
    ClassLogit,
    ClassProbability,
    Direction,
    WeightedChannels,
    RandomDirection,
    DirectionNeuron,
    TensorDirection,
    Caricature,
    Inversion,
    Diversity,
    Alignment,
    L1,
    L2,
    TotalVariation,
    Blur,
    BoundaryComplexity,
    Difference,
)
"""Every kind of objective that is not made of others and can be asked for, but `Constant`."""

ICON_LEAVES: tuple[type[Objective], ...] = (WhitenedDirectionNeuron, DirectionCosine, LucidDirectionNeuron)
"""What icons of activation atlases are made and judged with; they come from an atlas's settings, not from requests."""

__all__ = [
    "ICON_LEAVES",
    "L1",
    "L2",
    "LEAVES",
    "MAXIMUM_DEPTH",
    "MAXIMUM_SIZE",
    "Alignment",
    "Blur",
    "BoundaryComplexity",
    "Canvas",
    "Caricature",
    "Channel",
    "ChannelInterpolation",
    "ClassLogit",
    "ClassProbability",
    "Constant",
    "Difference",
    "Direction",
    "DirectionCosine",
    "DirectionNeuron",
    "Diversity",
    "ForItem",
    "Inversion",
    "Layer",
    "LucidDirectionNeuron",
    "Neuron",
    "Norm",
    "Numbers",
    "Objective",
    "Picture",
    "Product",
    "RandomDirection",
    "Scaled",
    "Setting",
    "Source",
    "Sum",
    "TensorDirection",
    "TotalVariation",
    "WeightedChannels",
    "WhitenedDirectionNeuron",
    "check",
    "packed_feeds",
    "taps",
    "walk",
]
