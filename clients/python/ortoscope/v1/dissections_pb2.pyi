import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import resource_pb2 as _resource_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from ortoscope.v1 import provenance_pb2 as _provenance_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DissectionSpec(_message.Message):
    __slots__ = ("tap", "dataset", "mode", "top_fraction", "thresholds", "iou_threshold", "splits", "examples_per_unit")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODE_UNSPECIFIED: _ClassVar[DissectionSpec.Mode]
        MODE_EXACT: _ClassVar[DissectionSpec.Mode]
    MODE_UNSPECIFIED: DissectionSpec.Mode
    MODE_EXACT: DissectionSpec.Mode
    TAP_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TOP_FRACTION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    IOU_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_PER_UNIT_FIELD_NUMBER: _ClassVar[int]
    tap: str
    dataset: str
    mode: DissectionSpec.Mode
    top_fraction: float
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    iou_threshold: float
    splits: _containers.RepeatedScalarFieldContainer[str]
    examples_per_unit: int
    def __init__(self, tap: _Optional[str] = ..., dataset: _Optional[str] = ..., mode: _Optional[_Union[DissectionSpec.Mode, str]] = ..., top_fraction: _Optional[float] = ..., thresholds: _Optional[_Iterable[float]] = ..., iou_threshold: _Optional[float] = ..., splits: _Optional[_Iterable[str]] = ..., examples_per_unit: _Optional[int] = ...) -> None: ...

class CreateDissectionRequest(_message.Message):
    __slots__ = ("spec", "request_id", "time_limit")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    spec: DissectionSpec
    request_id: str
    time_limit: _duration_pb2.Duration
    def __init__(self, spec: _Optional[_Union[DissectionSpec, _Mapping]] = ..., request_id: _Optional[str] = ..., time_limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Dissection(_message.Message):
    __slots__ = ("name", "spec", "unit_count", "concept_count", "best_label", "per_category", "saturated", "constant_units", "provenance", "arrays", "examples", "given_thresholds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    UNIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONCEPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    BEST_LABEL_FIELD_NUMBER: _ClassVar[int]
    PER_CATEGORY_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FIELD_NUMBER: _ClassVar[int]
    CONSTANT_UNITS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    GIVEN_THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: DissectionSpec
    unit_count: int
    concept_count: int
    best_label: DetectorCount
    per_category: DetectorCount
    saturated: SaturatedUnits
    constant_units: int
    provenance: _provenance_pb2.Provenance
    arrays: str
    examples: str
    given_thresholds: bool
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[DissectionSpec, _Mapping]] = ..., unit_count: _Optional[int] = ..., concept_count: _Optional[int] = ..., best_label: _Optional[_Union[DetectorCount, _Mapping]] = ..., per_category: _Optional[_Union[DetectorCount, _Mapping]] = ..., saturated: _Optional[_Union[SaturatedUnits, _Mapping]] = ..., constant_units: _Optional[int] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ..., arrays: _Optional[str] = ..., examples: _Optional[str] = ..., given_thresholds: _Optional[bool] = ...) -> None: ...

class DetectorCount(_message.Message):
    __slots__ = ("detectors", "unique_detectors", "categories")
    DETECTORS_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_DETECTORS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    detectors: int
    unique_detectors: int
    categories: _containers.RepeatedCompositeFieldContainer[CategoryDetectorCount]
    def __init__(self, detectors: _Optional[int] = ..., unique_detectors: _Optional[int] = ..., categories: _Optional[_Iterable[_Union[CategoryDetectorCount, _Mapping]]] = ...) -> None: ...

class CategoryDetectorCount(_message.Message):
    __slots__ = ("category", "detectors", "unique_detectors")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    DETECTORS_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_DETECTORS_FIELD_NUMBER: _ClassVar[int]
    category: str
    detectors: int
    unique_detectors: int
    def __init__(self, category: _Optional[str] = ..., detectors: _Optional[int] = ..., unique_detectors: _Optional[int] = ...) -> None: ...

class SaturatedUnits(_message.Message):
    __slots__ = ("count", "use_tap")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    USE_TAP_FIELD_NUMBER: _ClassVar[int]
    count: int
    use_tap: str
    def __init__(self, count: _Optional[int] = ..., use_tap: _Optional[str] = ...) -> None: ...

class UnitLabel(_message.Message):
    __slots__ = ("unit", "concept", "concept_number", "category", "iou", "threshold", "detector", "saturated")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    CONCEPT_FIELD_NUMBER: _ClassVar[int]
    CONCEPT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    IOU_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FIELD_NUMBER: _ClassVar[int]
    unit: int
    concept: str
    concept_number: int
    category: str
    iou: float
    threshold: float
    detector: bool
    saturated: bool
    def __init__(self, unit: _Optional[int] = ..., concept: _Optional[str] = ..., concept_number: _Optional[int] = ..., category: _Optional[str] = ..., iou: _Optional[float] = ..., threshold: _Optional[float] = ..., detector: _Optional[bool] = ..., saturated: _Optional[bool] = ...) -> None: ...

class GetDissectionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListDissectionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDissectionsResponse(_message.Message):
    __slots__ = ("dissections", "next_page_token")
    DISSECTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dissections: _containers.RepeatedCompositeFieldContainer[Dissection]
    next_page_token: str
    def __init__(self, dissections: _Optional[_Iterable[_Union[Dissection, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteDissectionRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListUnitLabelsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "order")
    class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ORDER_UNSPECIFIED: _ClassVar[ListUnitLabelsRequest.Order]
        ORDER_UNIT: _ClassVar[ListUnitLabelsRequest.Order]
        ORDER_IOU: _ClassVar[ListUnitLabelsRequest.Order]
    ORDER_UNSPECIFIED: ListUnitLabelsRequest.Order
    ORDER_UNIT: ListUnitLabelsRequest.Order
    ORDER_IOU: ListUnitLabelsRequest.Order
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    order: ListUnitLabelsRequest.Order
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., order: _Optional[_Union[ListUnitLabelsRequest.Order, str]] = ...) -> None: ...

class ListUnitLabelsResponse(_message.Message):
    __slots__ = ("unit_labels", "next_page_token")
    UNIT_LABELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    unit_labels: _containers.RepeatedCompositeFieldContainer[UnitLabel]
    next_page_token: str
    def __init__(self, unit_labels: _Optional[_Iterable[_Union[UnitLabel, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
