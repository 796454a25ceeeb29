import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import resource_pb2 as _resource_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from ortoscope.v1 import provenance_pb2 as _provenance_pb2
from ortoscope.v1 import tensors_pb2 as _tensors_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ActivationInput(_message.Message):
    __slots__ = ("image", "tensor", "blob", "dataset_image", "tensors")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    DATASET_IMAGE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    tensor: _tensors_pb2.Tensor
    blob: str
    dataset_image: str
    tensors: NamedTensors
    def __init__(self, image: _Optional[bytes] = ..., tensor: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., blob: _Optional[str] = ..., dataset_image: _Optional[str] = ..., tensors: _Optional[_Union[NamedTensors, _Mapping]] = ...) -> None: ...

class NamedTensors(_message.Message):
    __slots__ = ("tensors",)
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensors_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ...) -> None: ...
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.MessageMap[str, _tensors_pb2.Tensor]
    def __init__(self, tensors: _Optional[_Mapping[str, _tensors_pb2.Tensor]] = ...) -> None: ...

class TapSelection(_message.Message):
    __slots__ = ("tap", "reduction", "site", "top_units")
    class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REDUCTION_UNSPECIFIED: _ClassVar[TapSelection.Reduction]
        REDUCTION_NONE: _ClassVar[TapSelection.Reduction]
        REDUCTION_MEAN: _ClassVar[TapSelection.Reduction]
        REDUCTION_MAX: _ClassVar[TapSelection.Reduction]
        REDUCTION_SITE: _ClassVar[TapSelection.Reduction]
        REDUCTION_TOP_UNITS: _ClassVar[TapSelection.Reduction]
    REDUCTION_UNSPECIFIED: TapSelection.Reduction
    REDUCTION_NONE: TapSelection.Reduction
    REDUCTION_MEAN: TapSelection.Reduction
    REDUCTION_MAX: TapSelection.Reduction
    REDUCTION_SITE: TapSelection.Reduction
    REDUCTION_TOP_UNITS: TapSelection.Reduction
    TAP_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    TOP_UNITS_FIELD_NUMBER: _ClassVar[int]
    tap: str
    reduction: TapSelection.Reduction
    site: _containers.RepeatedScalarFieldContainer[int]
    top_units: int
    def __init__(self, tap: _Optional[str] = ..., reduction: _Optional[_Union[TapSelection.Reduction, str]] = ..., site: _Optional[_Iterable[int]] = ..., top_units: _Optional[int] = ...) -> None: ...

class ActivateRequest(_message.Message):
    __slots__ = ("model", "taps", "inputs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    taps: _containers.RepeatedCompositeFieldContainer[TapSelection]
    inputs: _containers.RepeatedCompositeFieldContainer[ActivationInput]
    def __init__(self, model: _Optional[str] = ..., taps: _Optional[_Iterable[_Union[TapSelection, _Mapping]]] = ..., inputs: _Optional[_Iterable[_Union[ActivationInput, _Mapping]]] = ...) -> None: ...

class ActivateResponse(_message.Message):
    __slots__ = ("taps", "provenance")
    TAPS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    taps: _containers.RepeatedCompositeFieldContainer[TapActivations]
    provenance: _provenance_pb2.Provenance
    def __init__(self, taps: _Optional[_Iterable[_Union[TapActivations, _Mapping]]] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ...) -> None: ...

class TapActivations(_message.Message):
    __slots__ = ("tap", "display_name", "reduction", "values", "units", "sites", "unit_axis")
    TAP_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    UNIT_AXIS_FIELD_NUMBER: _ClassVar[int]
    tap: str
    display_name: str
    reduction: TapSelection.Reduction
    values: _tensors_pb2.Tensor
    units: _tensors_pb2.Tensor
    sites: _tensors_pb2.Tensor
    unit_axis: int
    def __init__(self, tap: _Optional[str] = ..., display_name: _Optional[str] = ..., reduction: _Optional[_Union[TapSelection.Reduction, str]] = ..., values: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., units: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., sites: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., unit_axis: _Optional[int] = ...) -> None: ...

class StreamActivationsRequest(_message.Message):
    __slots__ = ("config", "batch")
    class Config(_message.Message):
        __slots__ = ("model", "taps")
        MODEL_FIELD_NUMBER: _ClassVar[int]
        TAPS_FIELD_NUMBER: _ClassVar[int]
        model: str
        taps: _containers.RepeatedCompositeFieldContainer[TapSelection]
        def __init__(self, model: _Optional[str] = ..., taps: _Optional[_Iterable[_Union[TapSelection, _Mapping]]] = ...) -> None: ...
    class Batch(_message.Message):
        __slots__ = ("inputs", "tag")
        INPUTS_FIELD_NUMBER: _ClassVar[int]
        TAG_FIELD_NUMBER: _ClassVar[int]
        inputs: _containers.RepeatedCompositeFieldContainer[ActivationInput]
        tag: str
        def __init__(self, inputs: _Optional[_Iterable[_Union[ActivationInput, _Mapping]]] = ..., tag: _Optional[str] = ...) -> None: ...
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    config: StreamActivationsRequest.Config
    batch: StreamActivationsRequest.Batch
    def __init__(self, config: _Optional[_Union[StreamActivationsRequest.Config, _Mapping]] = ..., batch: _Optional[_Union[StreamActivationsRequest.Batch, _Mapping]] = ...) -> None: ...

class StreamActivationsResponse(_message.Message):
    __slots__ = ("tag", "taps", "provenance")
    TAG_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    tag: str
    taps: _containers.RepeatedCompositeFieldContainer[TapActivations]
    provenance: _provenance_pb2.Provenance
    def __init__(self, tag: _Optional[str] = ..., taps: _Optional[_Iterable[_Union[TapActivations, _Mapping]]] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ...) -> None: ...

class ExamplesSpec(_message.Message):
    __slots__ = ("tap", "dataset", "count", "reduction", "splits")
    class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REDUCTION_UNSPECIFIED: _ClassVar[ExamplesSpec.Reduction]
        REDUCTION_MAX: _ClassVar[ExamplesSpec.Reduction]
        REDUCTION_MEAN: _ClassVar[ExamplesSpec.Reduction]
        REDUCTION_MIN: _ClassVar[ExamplesSpec.Reduction]
    REDUCTION_UNSPECIFIED: ExamplesSpec.Reduction
    REDUCTION_MAX: ExamplesSpec.Reduction
    REDUCTION_MEAN: ExamplesSpec.Reduction
    REDUCTION_MIN: ExamplesSpec.Reduction
    TAP_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    tap: str
    dataset: str
    count: int
    reduction: ExamplesSpec.Reduction
    splits: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tap: _Optional[str] = ..., dataset: _Optional[str] = ..., count: _Optional[int] = ..., reduction: _Optional[_Union[ExamplesSpec.Reduction, str]] = ..., splits: _Optional[_Iterable[str]] = ...) -> None: ...

class FindExamplesRequest(_message.Message):
    __slots__ = ("spec", "request_id", "time_limit")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    spec: ExamplesSpec
    request_id: str
    time_limit: _duration_pb2.Duration
    def __init__(self, spec: _Optional[_Union[ExamplesSpec, _Mapping]] = ..., request_id: _Optional[str] = ..., time_limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ExampleSet(_message.Message):
    __slots__ = ("name", "spec", "unit_count", "provenance", "arrays")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    UNIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: ExamplesSpec
    unit_count: int
    provenance: _provenance_pb2.Provenance
    arrays: str
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[ExamplesSpec, _Mapping]] = ..., unit_count: _Optional[int] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ..., arrays: _Optional[str] = ...) -> None: ...

class Example(_message.Message):
    __slots__ = ("image", "path", "value", "site", "position")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    image: str
    path: str
    value: float
    site: _containers.RepeatedScalarFieldContainer[int]
    position: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, image: _Optional[str] = ..., path: _Optional[str] = ..., value: _Optional[float] = ..., site: _Optional[_Iterable[int]] = ..., position: _Optional[_Iterable[float]] = ...) -> None: ...

class UnitExamples(_message.Message):
    __slots__ = ("unit", "most", "least")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    LEAST_FIELD_NUMBER: _ClassVar[int]
    unit: int
    most: _containers.RepeatedCompositeFieldContainer[Example]
    least: _containers.RepeatedCompositeFieldContainer[Example]
    def __init__(self, unit: _Optional[int] = ..., most: _Optional[_Iterable[_Union[Example, _Mapping]]] = ..., least: _Optional[_Iterable[_Union[Example, _Mapping]]] = ...) -> None: ...

class GetExampleSetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListExampleSetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListExampleSetsResponse(_message.Message):
    __slots__ = ("example_sets", "next_page_token")
    EXAMPLE_SETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    example_sets: _containers.RepeatedCompositeFieldContainer[ExampleSet]
    next_page_token: str
    def __init__(self, example_sets: _Optional[_Iterable[_Union[ExampleSet, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteExampleSetRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListUnitExamplesRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListUnitExamplesResponse(_message.Message):
    __slots__ = ("unit_examples", "next_page_token")
    UNIT_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    unit_examples: _containers.RepeatedCompositeFieldContainer[UnitExamples]
    next_page_token: str
    def __init__(self, unit_examples: _Optional[_Iterable[_Union[UnitExamples, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
