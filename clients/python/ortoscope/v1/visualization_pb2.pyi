import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import resource_pb2 as _resource_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from ortoscope.v1 import activations_pb2 as _activations_pb2
from ortoscope.v1 import gradients_pb2 as _gradients_pb2
from ortoscope.v1 import provenance_pb2 as _provenance_pb2
from ortoscope.v1 import tensors_pb2 as _tensors_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VisualizationObjective(_message.Message):
    __slots__ = ("constant", "sum", "product", "scaled", "for_item", "neuron", "channel", "layer", "channel_interpolation", "class_logit", "class_probability", "direction", "direction_neuron", "weighted_channels", "random_direction", "tensor_direction", "caricature", "inversion", "diversity", "alignment", "l1", "l2", "total_variation", "blur", "boundary_complexity", "difference")
    class Sum(_message.Message):
        __slots__ = ("terms",)
        TERMS_FIELD_NUMBER: _ClassVar[int]
        terms: _containers.RepeatedCompositeFieldContainer[VisualizationObjective]
        def __init__(self, terms: _Optional[_Iterable[_Union[VisualizationObjective, _Mapping]]] = ...) -> None: ...
    class Product(_message.Message):
        __slots__ = ("factors",)
        FACTORS_FIELD_NUMBER: _ClassVar[int]
        factors: _containers.RepeatedCompositeFieldContainer[VisualizationObjective]
        def __init__(self, factors: _Optional[_Iterable[_Union[VisualizationObjective, _Mapping]]] = ...) -> None: ...
    class Scaled(_message.Message):
        __slots__ = ("weight", "objective")
        WEIGHT_FIELD_NUMBER: _ClassVar[int]
        OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
        weight: float
        objective: VisualizationObjective
        def __init__(self, weight: _Optional[float] = ..., objective: _Optional[_Union[VisualizationObjective, _Mapping]] = ...) -> None: ...
    class ForItem(_message.Message):
        __slots__ = ("item", "objective")
        ITEM_FIELD_NUMBER: _ClassVar[int]
        OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
        item: int
        objective: VisualizationObjective
        def __init__(self, item: _Optional[int] = ..., objective: _Optional[_Union[VisualizationObjective, _Mapping]] = ...) -> None: ...
    class Source(_message.Message):
        __slots__ = ("tap", "picture")
        class Picture(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            PICTURE_UNSPECIFIED: _ClassVar[VisualizationObjective.Source.Picture]
            PICTURE_IMAGE: _ClassVar[VisualizationObjective.Source.Picture]
            PICTURE_ALPHA: _ClassVar[VisualizationObjective.Source.Picture]
        PICTURE_UNSPECIFIED: VisualizationObjective.Source.Picture
        PICTURE_IMAGE: VisualizationObjective.Source.Picture
        PICTURE_ALPHA: VisualizationObjective.Source.Picture
        TAP_FIELD_NUMBER: _ClassVar[int]
        PICTURE_FIELD_NUMBER: _ClassVar[int]
        tap: str
        picture: VisualizationObjective.Source.Picture
        def __init__(self, tap: _Optional[str] = ..., picture: _Optional[_Union[VisualizationObjective.Source.Picture, str]] = ...) -> None: ...
    class SiteIndex(_message.Message):
        __slots__ = ("index",)
        INDEX_FIELD_NUMBER: _ClassVar[int]
        index: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, index: _Optional[_Iterable[int]] = ...) -> None: ...
    class Neuron(_message.Message):
        __slots__ = ("of", "unit", "site")
        OF_FIELD_NUMBER: _ClassVar[int]
        UNIT_FIELD_NUMBER: _ClassVar[int]
        SITE_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        unit: int
        site: VisualizationObjective.SiteIndex
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., unit: _Optional[int] = ..., site: _Optional[_Union[VisualizationObjective.SiteIndex, _Mapping]] = ...) -> None: ...
    class Channel(_message.Message):
        __slots__ = ("of", "unit")
        OF_FIELD_NUMBER: _ClassVar[int]
        UNIT_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        unit: int
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., unit: _Optional[int] = ...) -> None: ...
    class Layer(_message.Message):
        __slots__ = ("of",)
        OF_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ...) -> None: ...
    class ChannelInterpolation(_message.Message):
        __slots__ = ("of", "unit", "to", "to_unit")
        OF_FIELD_NUMBER: _ClassVar[int]
        UNIT_FIELD_NUMBER: _ClassVar[int]
        TO_FIELD_NUMBER: _ClassVar[int]
        TO_UNIT_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        unit: int
        to: VisualizationObjective.Source
        to_unit: int
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., unit: _Optional[int] = ..., to: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., to_unit: _Optional[int] = ...) -> None: ...
    class Direction(_message.Message):
        __slots__ = ("of", "vector", "power")
        OF_FIELD_NUMBER: _ClassVar[int]
        VECTOR_FIELD_NUMBER: _ClassVar[int]
        POWER_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        vector: _tensors_pb2.Tensor
        power: float
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., vector: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., power: _Optional[float] = ...) -> None: ...
    class DirectionNeuron(_message.Message):
        __slots__ = ("of", "vector", "site", "power")
        OF_FIELD_NUMBER: _ClassVar[int]
        VECTOR_FIELD_NUMBER: _ClassVar[int]
        SITE_FIELD_NUMBER: _ClassVar[int]
        POWER_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        vector: _tensors_pb2.Tensor
        site: VisualizationObjective.SiteIndex
        power: float
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., vector: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., site: _Optional[_Union[VisualizationObjective.SiteIndex, _Mapping]] = ..., power: _Optional[float] = ...) -> None: ...
    class WeightedChannels(_message.Message):
        __slots__ = ("of", "units", "weights")
        OF_FIELD_NUMBER: _ClassVar[int]
        UNITS_FIELD_NUMBER: _ClassVar[int]
        WEIGHTS_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        units: _containers.RepeatedScalarFieldContainer[int]
        weights: _containers.RepeatedScalarFieldContainer[float]
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., units: _Optional[_Iterable[int]] = ..., weights: _Optional[_Iterable[float]] = ...) -> None: ...
    class RandomDirection(_message.Message):
        __slots__ = ("of", "seed", "power")
        OF_FIELD_NUMBER: _ClassVar[int]
        SEED_FIELD_NUMBER: _ClassVar[int]
        POWER_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        seed: int
        power: float
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., seed: _Optional[int] = ..., power: _Optional[float] = ...) -> None: ...
    class TensorDirection(_message.Message):
        __slots__ = ("of", "tensor", "power")
        OF_FIELD_NUMBER: _ClassVar[int]
        TENSOR_FIELD_NUMBER: _ClassVar[int]
        POWER_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        tensor: _tensors_pb2.Tensor
        power: float
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., tensor: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., power: _Optional[float] = ...) -> None: ...
    class Caricature(_message.Message):
        __slots__ = ("of", "activation", "power")
        OF_FIELD_NUMBER: _ClassVar[int]
        ACTIVATION_FIELD_NUMBER: _ClassVar[int]
        POWER_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        activation: _tensors_pb2.Tensor
        power: float
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., activation: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., power: _Optional[float] = ...) -> None: ...
    class Inversion(_message.Message):
        __slots__ = ("of", "activation")
        OF_FIELD_NUMBER: _ClassVar[int]
        ACTIVATION_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        activation: _tensors_pb2.Tensor
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., activation: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ...) -> None: ...
    class Diversity(_message.Message):
        __slots__ = ("of",)
        OF_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ...) -> None: ...
    class Alignment(_message.Message):
        __slots__ = ("of", "decay")
        OF_FIELD_NUMBER: _ClassVar[int]
        DECAY_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        decay: float
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., decay: _Optional[float] = ...) -> None: ...
    class L1(_message.Message):
        __slots__ = ("of", "constant")
        OF_FIELD_NUMBER: _ClassVar[int]
        CONSTANT_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        constant: float
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., constant: _Optional[float] = ...) -> None: ...
    class L2(_message.Message):
        __slots__ = ("of", "constant", "epsilon")
        OF_FIELD_NUMBER: _ClassVar[int]
        CONSTANT_FIELD_NUMBER: _ClassVar[int]
        EPSILON_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        constant: float
        epsilon: float
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., constant: _Optional[float] = ..., epsilon: _Optional[float] = ...) -> None: ...
    class TotalVariation(_message.Message):
        __slots__ = ("of",)
        OF_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ...) -> None: ...
    class Blur(_message.Message):
        __slots__ = ("of",)
        OF_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ...) -> None: ...
    class BoundaryComplexity(_message.Message):
        __slots__ = ("of", "width", "constant")
        OF_FIELD_NUMBER: _ClassVar[int]
        WIDTH_FIELD_NUMBER: _ClassVar[int]
        CONSTANT_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        width: int
        constant: float
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., width: _Optional[int] = ..., constant: _Optional[float] = ...) -> None: ...
    class Difference(_message.Message):
        __slots__ = ("of", "reference", "norm")
        class Norm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            NORM_UNSPECIFIED: _ClassVar[VisualizationObjective.Difference.Norm]
            NORM_RMS: _ClassVar[VisualizationObjective.Difference.Norm]
            NORM_MEAN_L1: _ClassVar[VisualizationObjective.Difference.Norm]
            NORM_L2: _ClassVar[VisualizationObjective.Difference.Norm]
            NORM_MAX: _ClassVar[VisualizationObjective.Difference.Norm]
        NORM_UNSPECIFIED: VisualizationObjective.Difference.Norm
        NORM_RMS: VisualizationObjective.Difference.Norm
        NORM_MEAN_L1: VisualizationObjective.Difference.Norm
        NORM_L2: VisualizationObjective.Difference.Norm
        NORM_MAX: VisualizationObjective.Difference.Norm
        OF_FIELD_NUMBER: _ClassVar[int]
        REFERENCE_FIELD_NUMBER: _ClassVar[int]
        NORM_FIELD_NUMBER: _ClassVar[int]
        of: VisualizationObjective.Source
        reference: _tensors_pb2.Tensor
        norm: VisualizationObjective.Difference.Norm
        def __init__(self, of: _Optional[_Union[VisualizationObjective.Source, _Mapping]] = ..., reference: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., norm: _Optional[_Union[VisualizationObjective.Difference.Norm, str]] = ...) -> None: ...
    CONSTANT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    SCALED_FIELD_NUMBER: _ClassVar[int]
    FOR_ITEM_FIELD_NUMBER: _ClassVar[int]
    NEURON_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    CLASS_LOGIT_FIELD_NUMBER: _ClassVar[int]
    CLASS_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_NEURON_FIELD_NUMBER: _ClassVar[int]
    WEIGHTED_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    RANDOM_DIRECTION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_DIRECTION_FIELD_NUMBER: _ClassVar[int]
    CARICATURE_FIELD_NUMBER: _ClassVar[int]
    INVERSION_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    ALIGNMENT_FIELD_NUMBER: _ClassVar[int]
    L1_FIELD_NUMBER: _ClassVar[int]
    L2_FIELD_NUMBER: _ClassVar[int]
    TOTAL_VARIATION_FIELD_NUMBER: _ClassVar[int]
    BLUR_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_COMPLEXITY_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    constant: float
    sum: VisualizationObjective.Sum
    product: VisualizationObjective.Product
    scaled: VisualizationObjective.Scaled
    for_item: VisualizationObjective.ForItem
    neuron: VisualizationObjective.Neuron
    channel: VisualizationObjective.Channel
    layer: VisualizationObjective.Layer
    channel_interpolation: VisualizationObjective.ChannelInterpolation
    class_logit: _gradients_pb2.ClassReference
    class_probability: _gradients_pb2.ClassReference
    direction: VisualizationObjective.Direction
    direction_neuron: VisualizationObjective.DirectionNeuron
    weighted_channels: VisualizationObjective.WeightedChannels
    random_direction: VisualizationObjective.RandomDirection
    tensor_direction: VisualizationObjective.TensorDirection
    caricature: VisualizationObjective.Caricature
    inversion: VisualizationObjective.Inversion
    diversity: VisualizationObjective.Diversity
    alignment: VisualizationObjective.Alignment
    l1: VisualizationObjective.L1
    l2: VisualizationObjective.L2
    total_variation: VisualizationObjective.TotalVariation
    blur: VisualizationObjective.Blur
    boundary_complexity: VisualizationObjective.BoundaryComplexity
    difference: VisualizationObjective.Difference
    def __init__(self, constant: _Optional[float] = ..., sum: _Optional[_Union[VisualizationObjective.Sum, _Mapping]] = ..., product: _Optional[_Union[VisualizationObjective.Product, _Mapping]] = ..., scaled: _Optional[_Union[VisualizationObjective.Scaled, _Mapping]] = ..., for_item: _Optional[_Union[VisualizationObjective.ForItem, _Mapping]] = ..., neuron: _Optional[_Union[VisualizationObjective.Neuron, _Mapping]] = ..., channel: _Optional[_Union[VisualizationObjective.Channel, _Mapping]] = ..., layer: _Optional[_Union[VisualizationObjective.Layer, _Mapping]] = ..., channel_interpolation: _Optional[_Union[VisualizationObjective.ChannelInterpolation, _Mapping]] = ..., class_logit: _Optional[_Union[_gradients_pb2.ClassReference, _Mapping]] = ..., class_probability: _Optional[_Union[_gradients_pb2.ClassReference, _Mapping]] = ..., direction: _Optional[_Union[VisualizationObjective.Direction, _Mapping]] = ..., direction_neuron: _Optional[_Union[VisualizationObjective.DirectionNeuron, _Mapping]] = ..., weighted_channels: _Optional[_Union[VisualizationObjective.WeightedChannels, _Mapping]] = ..., random_direction: _Optional[_Union[VisualizationObjective.RandomDirection, _Mapping]] = ..., tensor_direction: _Optional[_Union[VisualizationObjective.TensorDirection, _Mapping]] = ..., caricature: _Optional[_Union[VisualizationObjective.Caricature, _Mapping]] = ..., inversion: _Optional[_Union[VisualizationObjective.Inversion, _Mapping]] = ..., diversity: _Optional[_Union[VisualizationObjective.Diversity, _Mapping]] = ..., alignment: _Optional[_Union[VisualizationObjective.Alignment, _Mapping]] = ..., l1: _Optional[_Union[VisualizationObjective.L1, _Mapping]] = ..., l2: _Optional[_Union[VisualizationObjective.L2, _Mapping]] = ..., total_variation: _Optional[_Union[VisualizationObjective.TotalVariation, _Mapping]] = ..., blur: _Optional[_Union[VisualizationObjective.Blur, _Mapping]] = ..., boundary_complexity: _Optional[_Union[VisualizationObjective.BoundaryComplexity, _Mapping]] = ..., difference: _Optional[_Union[VisualizationObjective.Difference, _Mapping]] = ...) -> None: ...

class VisualizationRecipe(_message.Message):
    __slots__ = ("preset", "settings", "seed", "time_budget")
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PRESET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIME_BUDGET_FIELD_NUMBER: _ClassVar[int]
    preset: str
    settings: _containers.ScalarMap[str, str]
    seed: int
    time_budget: _duration_pb2.Duration
    def __init__(self, preset: _Optional[str] = ..., settings: _Optional[_Mapping[str, str]] = ..., seed: _Optional[int] = ..., time_budget: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class VisualizeRequest(_message.Message):
    __slots__ = ("model", "objective", "recipe", "items", "start", "preview_every", "comparison")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_EVERY_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    model: str
    objective: VisualizationObjective
    recipe: VisualizationRecipe
    items: int
    start: _activations_pb2.ActivationInput
    preview_every: int
    comparison: Comparison
    def __init__(self, model: _Optional[str] = ..., objective: _Optional[_Union[VisualizationObjective, _Mapping]] = ..., recipe: _Optional[_Union[VisualizationRecipe, _Mapping]] = ..., items: _Optional[int] = ..., start: _Optional[_Union[_activations_pb2.ActivationInput, _Mapping]] = ..., preview_every: _Optional[int] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("dataset", "images", "examples", "seeds")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    images: int
    examples: int
    seeds: int
    def __init__(self, dataset: _Optional[str] = ..., images: _Optional[int] = ..., examples: _Optional[int] = ..., seeds: _Optional[int] = ...) -> None: ...

class VisualizeResponse(_message.Message):
    __slots__ = ("queued", "progress", "result")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    queued: VisualizationQueued
    progress: VisualizationProgress
    result: VisualizationResult
    def __init__(self, queued: _Optional[_Union[VisualizationQueued, _Mapping]] = ..., progress: _Optional[_Union[VisualizationProgress, _Mapping]] = ..., result: _Optional[_Union[VisualizationResult, _Mapping]] = ...) -> None: ...

class VisualizationQueued(_message.Message):
    __slots__ = ("ahead",)
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    ahead: int
    def __init__(self, ahead: _Optional[int] = ...) -> None: ...

class VisualizationProgress(_message.Message):
    __slots__ = ("attempt", "attempts", "octave", "octaves", "step", "steps", "objective", "clean_objective", "previews")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    OCTAVE_FIELD_NUMBER: _ClassVar[int]
    OCTAVES_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    CLEAN_OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    attempts: int
    octave: int
    octaves: int
    step: int
    steps: int
    objective: _containers.RepeatedScalarFieldContainer[float]
    clean_objective: _containers.RepeatedScalarFieldContainer[float]
    previews: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, attempt: _Optional[int] = ..., attempts: _Optional[int] = ..., octave: _Optional[int] = ..., octaves: _Optional[int] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., objective: _Optional[_Iterable[float]] = ..., clean_objective: _Optional[_Iterable[float]] = ..., previews: _Optional[_Iterable[bytes]] = ...) -> None: ...

class VisualizationResult(_message.Message):
    __slots__ = ("items", "history", "spec_json", "cached", "provenance")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[VisualizedItem]
    history: _tensors_pb2.Tensor
    spec_json: str
    cached: bool
    provenance: _provenance_pb2.Provenance
    def __init__(self, items: _Optional[_Iterable[_Union[VisualizedItem, _Mapping]]] = ..., history: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., spec_json: _Optional[str] = ..., cached: _Optional[bool] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ...) -> None: ...

class VisualizedItem(_message.Message):
    __slots__ = ("png", "values", "objective", "end", "steps", "attempt", "redirected_steps", "attempts", "verdict")
    class End(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        END_UNSPECIFIED: _ClassVar[VisualizedItem.End]
        END_STEPS: _ClassVar[VisualizedItem.End]
        END_CONVERGED: _ClassVar[VisualizedItem.End]
        END_PLATEAU: _ClassVar[VisualizedItem.End]
        END_BUDGET: _ClassVar[VisualizedItem.End]
        END_DEAD: _ClassVar[VisualizedItem.End]
        END_NOT_FINITE: _ClassVar[VisualizedItem.End]
    END_UNSPECIFIED: VisualizedItem.End
    END_STEPS: VisualizedItem.End
    END_CONVERGED: VisualizedItem.End
    END_PLATEAU: VisualizedItem.End
    END_BUDGET: VisualizedItem.End
    END_DEAD: VisualizedItem.End
    END_NOT_FINITE: VisualizedItem.End
    PNG_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REDIRECTED_STEPS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    png: bytes
    values: _tensors_pb2.Tensor
    objective: float
    end: VisualizedItem.End
    steps: int
    attempt: int
    redirected_steps: int
    attempts: _containers.RepeatedScalarFieldContainer[float]
    verdict: Verdict
    def __init__(self, png: _Optional[bytes] = ..., values: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., objective: _Optional[float] = ..., end: _Optional[_Union[VisualizedItem.End, str]] = ..., steps: _Optional[int] = ..., attempt: _Optional[int] = ..., redirected_steps: _Optional[int] = ..., attempts: _Optional[_Iterable[float]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("images", "percentile", "quantiles", "most", "least", "seed_objectives", "seed_agreement")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PERCENTILE_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    LEAST_FIELD_NUMBER: _ClassVar[int]
    SEED_OBJECTIVES_FIELD_NUMBER: _ClassVar[int]
    SEED_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    images: int
    percentile: float
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    most: _containers.RepeatedCompositeFieldContainer[ScoredImage]
    least: _containers.RepeatedCompositeFieldContainer[ScoredImage]
    seed_objectives: _containers.RepeatedScalarFieldContainer[float]
    seed_agreement: float
    def __init__(self, images: _Optional[int] = ..., percentile: _Optional[float] = ..., quantiles: _Optional[_Iterable[float]] = ..., most: _Optional[_Iterable[_Union[ScoredImage, _Mapping]]] = ..., least: _Optional[_Iterable[_Union[ScoredImage, _Mapping]]] = ..., seed_objectives: _Optional[_Iterable[float]] = ..., seed_agreement: _Optional[float] = ...) -> None: ...

class ScoredImage(_message.Message):
    __slots__ = ("image", "path", "objective")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    image: str
    path: str
    objective: float
    def __init__(self, image: _Optional[str] = ..., path: _Optional[str] = ..., objective: _Optional[float] = ...) -> None: ...

class UnitSheetSpec(_message.Message):
    __slots__ = ("tap", "units", "kind", "negative", "recipe")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[UnitSheetSpec.Kind]
        KIND_CHANNEL: _ClassVar[UnitSheetSpec.Kind]
        KIND_NEURON: _ClassVar[UnitSheetSpec.Kind]
    KIND_UNSPECIFIED: UnitSheetSpec.Kind
    KIND_CHANNEL: UnitSheetSpec.Kind
    KIND_NEURON: UnitSheetSpec.Kind
    TAP_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    tap: str
    units: _containers.RepeatedScalarFieldContainer[int]
    kind: UnitSheetSpec.Kind
    negative: bool
    recipe: VisualizationRecipe
    def __init__(self, tap: _Optional[str] = ..., units: _Optional[_Iterable[int]] = ..., kind: _Optional[_Union[UnitSheetSpec.Kind, str]] = ..., negative: _Optional[bool] = ..., recipe: _Optional[_Union[VisualizationRecipe, _Mapping]] = ...) -> None: ...

class VisualizeUnitsRequest(_message.Message):
    __slots__ = ("spec", "request_id", "time_limit")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    spec: UnitSheetSpec
    request_id: str
    time_limit: _duration_pb2.Duration
    def __init__(self, spec: _Optional[_Union[UnitSheetSpec, _Mapping]] = ..., request_id: _Optional[str] = ..., time_limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class UnitSheet(_message.Message):
    __slots__ = ("name", "spec", "height", "width", "dead_units", "spec_json", "arrays", "sheet", "columns", "provenance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    DEAD_UNITS_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    SHEET_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: UnitSheetSpec
    height: int
    width: int
    dead_units: int
    spec_json: str
    arrays: str
    sheet: str
    columns: int
    provenance: _provenance_pb2.Provenance
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[UnitSheetSpec, _Mapping]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., dead_units: _Optional[int] = ..., spec_json: _Optional[str] = ..., arrays: _Optional[str] = ..., sheet: _Optional[str] = ..., columns: _Optional[int] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ...) -> None: ...

class GetUnitSheetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListUnitSheetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListUnitSheetsResponse(_message.Message):
    __slots__ = ("unit_sheets", "next_page_token")
    UNIT_SHEETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    unit_sheets: _containers.RepeatedCompositeFieldContainer[UnitSheet]
    next_page_token: str
    def __init__(self, unit_sheets: _Optional[_Iterable[_Union[UnitSheet, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteUnitSheetRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListPresetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPresetsResponse(_message.Message):
    __slots__ = ("presets", "next_page_token")
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    presets: _containers.RepeatedCompositeFieldContainer[Preset]
    next_page_token: str
    def __init__(self, presets: _Optional[_Iterable[_Union[Preset, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Preset(_message.Message):
    __slots__ = ("name", "summary", "source", "needs_start", "settings")
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    NEEDS_START_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    summary: str
    source: str
    needs_start: bool
    settings: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., summary: _Optional[str] = ..., source: _Optional[str] = ..., needs_start: _Optional[bool] = ..., settings: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TestPatchRequest(_message.Message):
    __slots__ = ("model", "patch", "inputs", "sizes", "places", "target", "controls", "seed")
    class Place(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PLACE_UNSPECIFIED: _ClassVar[TestPatchRequest.Place]
        PLACE_TOP_LEFT: _ClassVar[TestPatchRequest.Place]
        PLACE_TOP_RIGHT: _ClassVar[TestPatchRequest.Place]
        PLACE_BOTTOM_LEFT: _ClassVar[TestPatchRequest.Place]
        PLACE_BOTTOM_RIGHT: _ClassVar[TestPatchRequest.Place]
        PLACE_CENTRE: _ClassVar[TestPatchRequest.Place]
    PLACE_UNSPECIFIED: TestPatchRequest.Place
    PLACE_TOP_LEFT: TestPatchRequest.Place
    PLACE_TOP_RIGHT: TestPatchRequest.Place
    PLACE_BOTTOM_LEFT: TestPatchRequest.Place
    PLACE_BOTTOM_RIGHT: TestPatchRequest.Place
    PLACE_CENTRE: TestPatchRequest.Place
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CONTROLS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: str
    patch: _activations_pb2.ActivationInput
    inputs: _containers.RepeatedCompositeFieldContainer[_activations_pb2.ActivationInput]
    sizes: _containers.RepeatedScalarFieldContainer[float]
    places: _containers.RepeatedScalarFieldContainer[TestPatchRequest.Place]
    target: _gradients_pb2.ClassReference
    controls: int
    seed: int
    def __init__(self, model: _Optional[str] = ..., patch: _Optional[_Union[_activations_pb2.ActivationInput, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[_activations_pb2.ActivationInput, _Mapping]]] = ..., sizes: _Optional[_Iterable[float]] = ..., places: _Optional[_Iterable[_Union[TestPatchRequest.Place, str]]] = ..., target: _Optional[_Union[_gradients_pb2.ClassReference, _Mapping]] = ..., controls: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class TestPatchResponse(_message.Message):
    __slots__ = ("clean", "trials", "target", "provenance")
    CLEAN_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    clean: _containers.RepeatedCompositeFieldContainer[_gradients_pb2.ClassScore]
    trials: _containers.RepeatedCompositeFieldContainer[PatchTrial]
    target: _gradients_pb2.ClassScore
    provenance: _provenance_pb2.Provenance
    def __init__(self, clean: _Optional[_Iterable[_Union[_gradients_pb2.ClassScore, _Mapping]]] = ..., trials: _Optional[_Iterable[_Union[PatchTrial, _Mapping]]] = ..., target: _Optional[_Union[_gradients_pb2.ClassScore, _Mapping]] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ...) -> None: ...

class PatchTrial(_message.Message):
    __slots__ = ("size", "place", "pictures", "flips", "control_flip_rate", "mean_probability", "control_mean_probability", "top")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FLIP_RATE_FIELD_NUMBER: _ClassVar[int]
    MEAN_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    CONTROL_MEAN_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    size: float
    place: TestPatchRequest.Place
    pictures: int
    flips: int
    control_flip_rate: float
    mean_probability: float
    control_mean_probability: float
    top: _containers.RepeatedCompositeFieldContainer[_gradients_pb2.ClassScore]
    def __init__(self, size: _Optional[float] = ..., place: _Optional[_Union[TestPatchRequest.Place, str]] = ..., pictures: _Optional[int] = ..., flips: _Optional[int] = ..., control_flip_rate: _Optional[float] = ..., mean_probability: _Optional[float] = ..., control_mean_probability: _Optional[float] = ..., top: _Optional[_Iterable[_Union[_gradients_pb2.ClassScore, _Mapping]]] = ...) -> None: ...
