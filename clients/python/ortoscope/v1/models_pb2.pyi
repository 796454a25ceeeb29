import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import resource_pb2 as _resource_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ortoscope.v1 import tensors_pb2 as _tensors_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("name", "latest_version", "version_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    latest_version: str
    version_count: int
    def __init__(self, name: _Optional[str] = ..., latest_version: _Optional[str] = ..., version_count: _Optional[int] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "digest", "create_time", "size_bytes", "opset", "inputs", "outputs", "fixed_batch", "tap_count", "class_labels", "notes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPSET_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    FIXED_BATCH_FIELD_NUMBER: _ClassVar[int]
    TAP_COUNT_FIELD_NUMBER: _ClassVar[int]
    CLASS_LABELS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    create_time: _timestamp_pb2.Timestamp
    size_bytes: int
    opset: int
    inputs: _containers.RepeatedCompositeFieldContainer[ModelInput]
    outputs: _containers.RepeatedCompositeFieldContainer[ModelOutput]
    fixed_batch: int
    tap_count: int
    class_labels: _containers.RepeatedScalarFieldContainer[str]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., size_bytes: _Optional[int] = ..., opset: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[ModelInput, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[ModelOutput, _Mapping]]] = ..., fixed_batch: _Optional[int] = ..., tap_count: _Optional[int] = ..., class_labels: _Optional[_Iterable[str]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelInput(_message.Message):
    __slots__ = ("name", "kind", "data_type", "shape", "preprocessing")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[ModelInput.Kind]
        KIND_TENSOR: _ClassVar[ModelInput.Kind]
        KIND_IMAGE: _ClassVar[ModelInput.Kind]
    KIND_UNSPECIFIED: ModelInput.Kind
    KIND_TENSOR: ModelInput.Kind
    KIND_IMAGE: ModelInput.Kind
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: ModelInput.Kind
    data_type: _tensors_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    preprocessing: Preprocessing
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[ModelInput.Kind, str]] = ..., data_type: _Optional[_Union[_tensors_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., preprocessing: _Optional[_Union[Preprocessing, _Mapping]] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("layout", "color_order", "mean", "std", "size_policy", "height", "width", "resize_short_side", "verification")
    class SizePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SIZE_POLICY_UNSPECIFIED: _ClassVar[Preprocessing.SizePolicy]
        SIZE_POLICY_SQUASH: _ClassVar[Preprocessing.SizePolicy]
        SIZE_POLICY_CROP: _ClassVar[Preprocessing.SizePolicy]
    SIZE_POLICY_UNSPECIFIED: Preprocessing.SizePolicy
    SIZE_POLICY_SQUASH: Preprocessing.SizePolicy
    SIZE_POLICY_CROP: Preprocessing.SizePolicy
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    COLOR_ORDER_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    SIZE_POLICY_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    RESIZE_SHORT_SIDE_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    layout: str
    color_order: str
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    size_policy: Preprocessing.SizePolicy
    height: int
    width: int
    resize_short_side: int
    verification: str
    def __init__(self, layout: _Optional[str] = ..., color_order: _Optional[str] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., size_policy: _Optional[_Union[Preprocessing.SizePolicy, str]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., resize_short_side: _Optional[int] = ..., verification: _Optional[str] = ...) -> None: ...

class ModelOutput(_message.Message):
    __slots__ = ("name", "data_type", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    data_type: _tensors_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., data_type: _Optional[_Union[_tensors_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Tap(_message.Message):
    __slots__ = ("name", "tensor", "display_name", "aliases", "operator", "node", "data_type", "shape", "layout", "unit_axis", "site_axes", "unit_count", "pre_activation", "post_activation", "upper_limit")
    class Layout(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LAYOUT_UNSPECIFIED: _ClassVar[Tap.Layout]
        LAYOUT_VECTOR: _ClassVar[Tap.Layout]
        LAYOUT_CHANNELS_FIRST: _ClassVar[Tap.Layout]
        LAYOUT_CHANNELS_LAST: _ClassVar[Tap.Layout]
        LAYOUT_TOKENS: _ClassVar[Tap.Layout]
    LAYOUT_UNSPECIFIED: Tap.Layout
    LAYOUT_VECTOR: Tap.Layout
    LAYOUT_CHANNELS_FIRST: Tap.Layout
    LAYOUT_CHANNELS_LAST: Tap.Layout
    LAYOUT_TOKENS: Tap.Layout
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    UNIT_AXIS_FIELD_NUMBER: _ClassVar[int]
    SITE_AXES_FIELD_NUMBER: _ClassVar[int]
    UNIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    PRE_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    POST_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    UPPER_LIMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensor: str
    display_name: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    operator: str
    node: str
    data_type: _tensors_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    layout: Tap.Layout
    unit_axis: int
    site_axes: _containers.RepeatedScalarFieldContainer[int]
    unit_count: int
    pre_activation: str
    post_activation: str
    upper_limit: float
    def __init__(self, name: _Optional[str] = ..., tensor: _Optional[str] = ..., display_name: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., operator: _Optional[str] = ..., node: _Optional[str] = ..., data_type: _Optional[_Union[_tensors_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., layout: _Optional[_Union[Tap.Layout, str]] = ..., unit_axis: _Optional[int] = ..., site_axes: _Optional[_Iterable[int]] = ..., unit_count: _Optional[int] = ..., pre_activation: _Optional[str] = ..., post_activation: _Optional[str] = ..., upper_limit: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListModelVersionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelVersionsResponse(_message.Message):
    __slots__ = ("model_versions", "next_page_token")
    MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model_versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    next_page_token: str
    def __init__(self, model_versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelVersionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListTapsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTapsResponse(_message.Message):
    __slots__ = ("taps", "next_page_token")
    TAPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    taps: _containers.RepeatedCompositeFieldContainer[Tap]
    next_page_token: str
    def __init__(self, taps: _Optional[_Iterable[_Union[Tap, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetTapRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...
