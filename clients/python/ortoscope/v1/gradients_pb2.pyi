from google.api import field_behavior_pb2 as _field_behavior_pb2
from ortoscope.v1 import activations_pb2 as _activations_pb2
from ortoscope.v1 import provenance_pb2 as _provenance_pb2
from ortoscope.v1 import tensors_pb2 as _tensors_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Objective(_message.Message):
    __slots__ = ("unit", "channel_mean", "class_logit", "class_probability", "cotangent")
    class Unit(_message.Message):
        __slots__ = ("tap", "unit", "site")
        TAP_FIELD_NUMBER: _ClassVar[int]
        UNIT_FIELD_NUMBER: _ClassVar[int]
        SITE_FIELD_NUMBER: _ClassVar[int]
        tap: str
        unit: int
        site: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, tap: _Optional[str] = ..., unit: _Optional[int] = ..., site: _Optional[_Iterable[int]] = ...) -> None: ...
    class ChannelMean(_message.Message):
        __slots__ = ("tap", "unit")
        TAP_FIELD_NUMBER: _ClassVar[int]
        UNIT_FIELD_NUMBER: _ClassVar[int]
        tap: str
        unit: int
        def __init__(self, tap: _Optional[str] = ..., unit: _Optional[int] = ...) -> None: ...
    class Cotangent(_message.Message):
        __slots__ = ("tap", "tensor")
        TAP_FIELD_NUMBER: _ClassVar[int]
        TENSOR_FIELD_NUMBER: _ClassVar[int]
        tap: str
        tensor: _tensors_pb2.Tensor
        def __init__(self, tap: _Optional[str] = ..., tensor: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ...) -> None: ...
    UNIT_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_MEAN_FIELD_NUMBER: _ClassVar[int]
    CLASS_LOGIT_FIELD_NUMBER: _ClassVar[int]
    CLASS_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    COTANGENT_FIELD_NUMBER: _ClassVar[int]
    unit: Objective.Unit
    channel_mean: Objective.ChannelMean
    class_logit: ClassReference
    class_probability: ClassReference
    cotangent: Objective.Cotangent
    def __init__(self, unit: _Optional[_Union[Objective.Unit, _Mapping]] = ..., channel_mean: _Optional[_Union[Objective.ChannelMean, _Mapping]] = ..., class_logit: _Optional[_Union[ClassReference, _Mapping]] = ..., class_probability: _Optional[_Union[ClassReference, _Mapping]] = ..., cotangent: _Optional[_Union[Objective.Cotangent, _Mapping]] = ...) -> None: ...

class ClassReference(_message.Message):
    __slots__ = ("index", "label")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class ComputeGradientRequest(_message.Message):
    __slots__ = ("model", "inputs", "objective", "with_respect_to", "relaxations", "reduction")
    class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REDUCTION_UNSPECIFIED: _ClassVar[ComputeGradientRequest.Reduction]
        REDUCTION_NONE: _ClassVar[ComputeGradientRequest.Reduction]
        REDUCTION_TIMES_VALUE: _ClassVar[ComputeGradientRequest.Reduction]
        REDUCTION_UNIT_SUMS: _ClassVar[ComputeGradientRequest.Reduction]
    REDUCTION_UNSPECIFIED: ComputeGradientRequest.Reduction
    REDUCTION_NONE: ComputeGradientRequest.Reduction
    REDUCTION_TIMES_VALUE: ComputeGradientRequest.Reduction
    REDUCTION_UNIT_SUMS: ComputeGradientRequest.Reduction
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    WITH_RESPECT_TO_FIELD_NUMBER: _ClassVar[int]
    RELAXATIONS_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    model: str
    inputs: _containers.RepeatedCompositeFieldContainer[_activations_pb2.ActivationInput]
    objective: Objective
    with_respect_to: _containers.RepeatedScalarFieldContainer[str]
    relaxations: _containers.RepeatedScalarFieldContainer[str]
    reduction: ComputeGradientRequest.Reduction
    def __init__(self, model: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_activations_pb2.ActivationInput, _Mapping]]] = ..., objective: _Optional[_Union[Objective, _Mapping]] = ..., with_respect_to: _Optional[_Iterable[str]] = ..., relaxations: _Optional[_Iterable[str]] = ..., reduction: _Optional[_Union[ComputeGradientRequest.Reduction, str]] = ...) -> None: ...

class ComputeGradientResponse(_message.Message):
    __slots__ = ("values", "gradients", "tap", "class_index", "class_label", "relaxations", "provenance")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    TAP_FIELD_NUMBER: _ClassVar[int]
    CLASS_INDEX_FIELD_NUMBER: _ClassVar[int]
    CLASS_LABEL_FIELD_NUMBER: _ClassVar[int]
    RELAXATIONS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    values: _tensors_pb2.Tensor
    gradients: _containers.RepeatedCompositeFieldContainer[TensorGradient]
    tap: str
    class_index: int
    class_label: str
    relaxations: _containers.RepeatedScalarFieldContainer[str]
    provenance: _provenance_pb2.Provenance
    def __init__(self, values: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., gradients: _Optional[_Iterable[_Union[TensorGradient, _Mapping]]] = ..., tap: _Optional[str] = ..., class_index: _Optional[int] = ..., class_label: _Optional[str] = ..., relaxations: _Optional[_Iterable[str]] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ...) -> None: ...

class TensorGradient(_message.Message):
    __slots__ = ("tensor", "tap", "display_name", "reduction", "gradient", "unit_axis")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    TAP_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    UNIT_AXIS_FIELD_NUMBER: _ClassVar[int]
    tensor: str
    tap: str
    display_name: str
    reduction: ComputeGradientRequest.Reduction
    gradient: _tensors_pb2.Tensor
    unit_axis: int
    def __init__(self, tensor: _Optional[str] = ..., tap: _Optional[str] = ..., display_name: _Optional[str] = ..., reduction: _Optional[_Union[ComputeGradientRequest.Reduction, str]] = ..., gradient: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., unit_axis: _Optional[int] = ...) -> None: ...

class Site(_message.Message):
    __slots__ = ("index",)
    INDEX_FIELD_NUMBER: _ClassVar[int]
    index: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[_Iterable[int]] = ...) -> None: ...

class AttributeClassesRequest(_message.Message):
    __slots__ = ("model", "tap", "inputs", "granularity", "units", "sites", "score", "relaxations", "top_classes")
    class Granularity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        GRANULARITY_UNSPECIFIED: _ClassVar[AttributeClassesRequest.Granularity]
        GRANULARITY_WHOLE: _ClassVar[AttributeClassesRequest.Granularity]
        GRANULARITY_UNITS: _ClassVar[AttributeClassesRequest.Granularity]
        GRANULARITY_SITES: _ClassVar[AttributeClassesRequest.Granularity]
    GRANULARITY_UNSPECIFIED: AttributeClassesRequest.Granularity
    GRANULARITY_WHOLE: AttributeClassesRequest.Granularity
    GRANULARITY_UNITS: AttributeClassesRequest.Granularity
    GRANULARITY_SITES: AttributeClassesRequest.Granularity
    class Score(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCORE_UNSPECIFIED: _ClassVar[AttributeClassesRequest.Score]
        SCORE_LOGIT: _ClassVar[AttributeClassesRequest.Score]
        SCORE_PROBABILITY: _ClassVar[AttributeClassesRequest.Score]
    SCORE_UNSPECIFIED: AttributeClassesRequest.Score
    SCORE_LOGIT: AttributeClassesRequest.Score
    SCORE_PROBABILITY: AttributeClassesRequest.Score
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TAP_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RELAXATIONS_FIELD_NUMBER: _ClassVar[int]
    TOP_CLASSES_FIELD_NUMBER: _ClassVar[int]
    model: str
    tap: str
    inputs: _containers.RepeatedCompositeFieldContainer[_activations_pb2.ActivationInput]
    granularity: AttributeClassesRequest.Granularity
    units: _containers.RepeatedScalarFieldContainer[int]
    sites: _containers.RepeatedCompositeFieldContainer[Site]
    score: AttributeClassesRequest.Score
    relaxations: _containers.RepeatedScalarFieldContainer[str]
    top_classes: int
    def __init__(self, model: _Optional[str] = ..., tap: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_activations_pb2.ActivationInput, _Mapping]]] = ..., granularity: _Optional[_Union[AttributeClassesRequest.Granularity, str]] = ..., units: _Optional[_Iterable[int]] = ..., sites: _Optional[_Iterable[_Union[Site, _Mapping]]] = ..., score: _Optional[_Union[AttributeClassesRequest.Score, str]] = ..., relaxations: _Optional[_Iterable[str]] = ..., top_classes: _Optional[int] = ...) -> None: ...

class AttributeClassesResponse(_message.Message):
    __slots__ = ("tap", "display_name", "granularity", "attributions", "units", "sites", "totals", "scores", "score", "top_classes", "relaxations", "provenance")
    TAP_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TOP_CLASSES_FIELD_NUMBER: _ClassVar[int]
    RELAXATIONS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    tap: str
    display_name: str
    granularity: AttributeClassesRequest.Granularity
    attributions: _tensors_pb2.Tensor
    units: _tensors_pb2.Tensor
    sites: _tensors_pb2.Tensor
    totals: _tensors_pb2.Tensor
    scores: _tensors_pb2.Tensor
    score: AttributeClassesRequest.Score
    top_classes: _containers.RepeatedCompositeFieldContainer[TopClasses]
    relaxations: _containers.RepeatedScalarFieldContainer[str]
    provenance: _provenance_pb2.Provenance
    def __init__(self, tap: _Optional[str] = ..., display_name: _Optional[str] = ..., granularity: _Optional[_Union[AttributeClassesRequest.Granularity, str]] = ..., attributions: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., units: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., sites: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., totals: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., scores: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., score: _Optional[_Union[AttributeClassesRequest.Score, str]] = ..., top_classes: _Optional[_Iterable[_Union[TopClasses, _Mapping]]] = ..., relaxations: _Optional[_Iterable[str]] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ...) -> None: ...

class TopClasses(_message.Message):
    __slots__ = ("classes",)
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[ClassScore]
    def __init__(self, classes: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ...) -> None: ...

class ClassScore(_message.Message):
    __slots__ = ("index", "label", "score", "attribution")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    score: float
    attribution: float
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., attribution: _Optional[float] = ...) -> None: ...
