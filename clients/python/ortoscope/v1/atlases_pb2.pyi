import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import resource_pb2 as _resource_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from ortoscope.v1 import provenance_pb2 as _provenance_pb2
from ortoscope.v1 import visualization_pb2 as _visualization_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AtlasSpec(_message.Message):
    __slots__ = ("tap", "dataset", "splits", "sites_per_image", "grids", "preset", "settings", "icons", "without_icons", "without_attribution", "class_filter", "class_gradient", "base_atlas", "seed")
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TAP_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    SITES_PER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    GRIDS_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ICONS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_ICONS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_ATTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    CLASS_FILTER_FIELD_NUMBER: _ClassVar[int]
    CLASS_GRADIENT_FIELD_NUMBER: _ClassVar[int]
    BASE_ATLAS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    tap: str
    dataset: str
    splits: _containers.RepeatedScalarFieldContainer[str]
    sites_per_image: int
    grids: _containers.RepeatedScalarFieldContainer[int]
    preset: str
    settings: _containers.ScalarMap[str, str]
    icons: _visualization_pb2.VisualizationRecipe
    without_icons: bool
    without_attribution: bool
    class_filter: ClassFilter
    class_gradient: ClassGradient
    base_atlas: str
    seed: int
    def __init__(self, tap: _Optional[str] = ..., dataset: _Optional[str] = ..., splits: _Optional[_Iterable[str]] = ..., sites_per_image: _Optional[int] = ..., grids: _Optional[_Iterable[int]] = ..., preset: _Optional[str] = ..., settings: _Optional[_Mapping[str, str]] = ..., icons: _Optional[_Union[_visualization_pb2.VisualizationRecipe, _Mapping]] = ..., without_icons: _Optional[bool] = ..., without_attribution: _Optional[bool] = ..., class_filter: _Optional[_Union[ClassFilter, _Mapping]] = ..., class_gradient: _Optional[_Union[ClassGradient, _Mapping]] = ..., base_atlas: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class ClassFilter(_message.Message):
    __slots__ = ("classes", "mode", "top")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODE_UNSPECIFIED: _ClassVar[ClassFilter.Mode]
        MODE_WINNER: _ClassVar[ClassFilter.Mode]
        MODE_TOP: _ClassVar[ClassFilter.Mode]
        MODE_BOTH: _ClassVar[ClassFilter.Mode]
    MODE_UNSPECIFIED: ClassFilter.Mode
    MODE_WINNER: ClassFilter.Mode
    MODE_TOP: ClassFilter.Mode
    MODE_BOTH: ClassFilter.Mode
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedScalarFieldContainer[str]
    mode: ClassFilter.Mode
    top: int
    def __init__(self, classes: _Optional[_Iterable[str]] = ..., mode: _Optional[_Union[ClassFilter.Mode, str]] = ..., top: _Optional[int] = ...) -> None: ...

class ClassGradient(_message.Message):
    __slots__ = ("left", "right")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    left: str
    right: str
    def __init__(self, left: _Optional[str] = ..., right: _Optional[str] = ...) -> None: ...

class BuildAtlasRequest(_message.Message):
    __slots__ = ("spec", "request_id", "time_limit")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    spec: AtlasSpec
    request_id: str
    time_limit: _duration_pb2.Duration
    def __init__(self, spec: _Optional[_Union[AtlasSpec, _Mapping]] = ..., request_id: _Optional[str] = ..., time_limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Atlas(_message.Message):
    __slots__ = ("name", "spec", "state", "sample_count", "zero_samples", "duplicate_samples", "unit_count", "class_labels", "settings", "quality", "levels", "samples", "frame", "provenance", "image_count", "remarks")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Atlas.State]
        STATE_PARTIAL: _ClassVar[Atlas.State]
        STATE_COMPLETE: _ClassVar[Atlas.State]
    STATE_UNSPECIFIED: Atlas.State
    STATE_PARTIAL: Atlas.State
    STATE_COMPLETE: Atlas.State
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ZERO_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    UNIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    CLASS_LABELS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    REMARKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: AtlasSpec
    state: Atlas.State
    sample_count: int
    zero_samples: int
    duplicate_samples: int
    unit_count: int
    class_labels: _containers.RepeatedScalarFieldContainer[str]
    settings: _containers.ScalarMap[str, str]
    quality: LayoutQuality
    levels: _containers.RepeatedCompositeFieldContainer[AtlasLevel]
    samples: str
    frame: str
    provenance: _provenance_pb2.Provenance
    image_count: int
    remarks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[AtlasSpec, _Mapping]] = ..., state: _Optional[_Union[Atlas.State, str]] = ..., sample_count: _Optional[int] = ..., zero_samples: _Optional[int] = ..., duplicate_samples: _Optional[int] = ..., unit_count: _Optional[int] = ..., class_labels: _Optional[_Iterable[str]] = ..., settings: _Optional[_Mapping[str, str]] = ..., quality: _Optional[_Union[LayoutQuality, _Mapping]] = ..., levels: _Optional[_Iterable[_Union[AtlasLevel, _Mapping]]] = ..., samples: _Optional[str] = ..., frame: _Optional[str] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ..., image_count: _Optional[int] = ..., remarks: _Optional[_Iterable[str]] = ...) -> None: ...

class LayoutQuality(_message.Message):
    __slots__ = ("trustworthiness", "neighbourhood_recall", "queries")
    TRUSTWORTHINESS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURHOOD_RECALL_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    trustworthiness: float
    neighbourhood_recall: float
    queries: int
    def __init__(self, trustworthiness: _Optional[float] = ..., neighbourhood_recall: _Optional[float] = ..., queries: _Optional[int] = ...) -> None: ...

class AtlasLevel(_message.Message):
    __slots__ = ("grid", "cell_count", "largest_count", "icon_size", "cells", "icons", "icons_per_row", "icons_per_sheet", "crops", "crop_size", "crops_per_row", "crops_per_sheet")
    GRID_FIELD_NUMBER: _ClassVar[int]
    CELL_COUNT_FIELD_NUMBER: _ClassVar[int]
    LARGEST_COUNT_FIELD_NUMBER: _ClassVar[int]
    ICON_SIZE_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    ICONS_FIELD_NUMBER: _ClassVar[int]
    ICONS_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    ICONS_PER_SHEET_FIELD_NUMBER: _ClassVar[int]
    CROPS_FIELD_NUMBER: _ClassVar[int]
    CROP_SIZE_FIELD_NUMBER: _ClassVar[int]
    CROPS_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    CROPS_PER_SHEET_FIELD_NUMBER: _ClassVar[int]
    grid: int
    cell_count: int
    largest_count: int
    icon_size: int
    cells: str
    icons: _containers.RepeatedScalarFieldContainer[str]
    icons_per_row: int
    icons_per_sheet: int
    crops: _containers.RepeatedScalarFieldContainer[str]
    crop_size: int
    crops_per_row: int
    crops_per_sheet: int
    def __init__(self, grid: _Optional[int] = ..., cell_count: _Optional[int] = ..., largest_count: _Optional[int] = ..., icon_size: _Optional[int] = ..., cells: _Optional[str] = ..., icons: _Optional[_Iterable[str]] = ..., icons_per_row: _Optional[int] = ..., icons_per_sheet: _Optional[int] = ..., crops: _Optional[_Iterable[str]] = ..., crop_size: _Optional[int] = ..., crops_per_row: _Optional[int] = ..., crops_per_sheet: _Optional[int] = ...) -> None: ...

class CellClass(_message.Message):
    __slots__ = ("index", "label", "attribution")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    attribution: float
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., attribution: _Optional[float] = ...) -> None: ...

class Cell(_message.Message):
    __slots__ = ("row", "column", "count", "dispersion", "classes", "nearest", "score", "represents", "mean", "index")
    ROW_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DISPERSION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    NEAREST_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REPRESENTS_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    row: int
    column: int
    count: int
    dispersion: float
    classes: _containers.RepeatedCompositeFieldContainer[CellClass]
    nearest: _containers.RepeatedCompositeFieldContainer[CellSample]
    score: float
    represents: bool
    mean: _containers.RepeatedScalarFieldContainer[float]
    index: int
    def __init__(self, row: _Optional[int] = ..., column: _Optional[int] = ..., count: _Optional[int] = ..., dispersion: _Optional[float] = ..., classes: _Optional[_Iterable[_Union[CellClass, _Mapping]]] = ..., nearest: _Optional[_Iterable[_Union[CellSample, _Mapping]]] = ..., score: _Optional[float] = ..., represents: _Optional[bool] = ..., mean: _Optional[_Iterable[float]] = ..., index: _Optional[int] = ...) -> None: ...

class CellSample(_message.Message):
    __slots__ = ("image", "site", "position")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    image: str
    site: _containers.RepeatedScalarFieldContainer[int]
    position: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, image: _Optional[str] = ..., site: _Optional[_Iterable[int]] = ..., position: _Optional[_Iterable[float]] = ...) -> None: ...

class GetAtlasRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListAtlasesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAtlasesResponse(_message.Message):
    __slots__ = ("atlases", "next_page_token")
    ATLASES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    atlases: _containers.RepeatedCompositeFieldContainer[Atlas]
    next_page_token: str
    def __init__(self, atlases: _Optional[_Iterable[_Union[Atlas, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteAtlasRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("left", "top", "right", "bottom")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    left: float
    top: float
    right: float
    bottom: float
    def __init__(self, left: _Optional[float] = ..., top: _Optional[float] = ..., right: _Optional[float] = ..., bottom: _Optional[float] = ...) -> None: ...

class ListCellsRequest(_message.Message):
    __slots__ = ("parent", "grid", "region", "text", "order", "top_classes", "with_means", "page_size", "page_token")
    class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ORDER_UNSPECIFIED: _ClassVar[ListCellsRequest.Order]
        ORDER_POSITION: _ClassVar[ListCellsRequest.Order]
        ORDER_ATTRIBUTION: _ClassVar[ListCellsRequest.Order]
        ORDER_COUNT: _ClassVar[ListCellsRequest.Order]
    ORDER_UNSPECIFIED: ListCellsRequest.Order
    ORDER_POSITION: ListCellsRequest.Order
    ORDER_ATTRIBUTION: ListCellsRequest.Order
    ORDER_COUNT: ListCellsRequest.Order
    PARENT_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TOP_CLASSES_FIELD_NUMBER: _ClassVar[int]
    WITH_MEANS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    grid: int
    region: Region
    text: str
    order: ListCellsRequest.Order
    top_classes: int
    with_means: bool
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., grid: _Optional[int] = ..., region: _Optional[_Union[Region, _Mapping]] = ..., text: _Optional[str] = ..., order: _Optional[_Union[ListCellsRequest.Order, str]] = ..., top_classes: _Optional[int] = ..., with_means: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., **kwargs) -> None: ...

class ListCellsResponse(_message.Message):
    __slots__ = ("cells", "next_page_token")
    CELLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    next_page_token: str
    def __init__(self, cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetTileRequest(_message.Message):
    __slots__ = ("name", "grid", "cells", "row", "column")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    name: str
    grid: int
    cells: int
    row: int
    column: int
    def __init__(self, name: _Optional[str] = ..., grid: _Optional[int] = ..., cells: _Optional[int] = ..., row: _Optional[int] = ..., column: _Optional[int] = ...) -> None: ...

class Tile(_message.Message):
    __slots__ = ("png", "tiles")
    PNG_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    png: bytes
    tiles: int
    def __init__(self, png: _Optional[bytes] = ..., tiles: _Optional[int] = ...) -> None: ...

class ProjectSamplesRequest(_message.Message):
    __slots__ = ("atlas", "dataset", "splits", "sites_per_image", "seed", "request_id", "time_limit")
    ATLAS_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    SITES_PER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    atlas: str
    dataset: str
    splits: _containers.RepeatedScalarFieldContainer[str]
    sites_per_image: int
    seed: int
    request_id: str
    time_limit: _duration_pb2.Duration
    def __init__(self, atlas: _Optional[str] = ..., dataset: _Optional[str] = ..., splits: _Optional[_Iterable[str]] = ..., sites_per_image: _Optional[int] = ..., seed: _Optional[int] = ..., request_id: _Optional[str] = ..., time_limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AtlasProjection(_message.Message):
    __slots__ = ("name", "request", "sample_count", "off_map_rate", "off_map_low", "off_map_high", "changed_cells", "arrays", "provenance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    OFF_MAP_RATE_FIELD_NUMBER: _ClassVar[int]
    OFF_MAP_LOW_FIELD_NUMBER: _ClassVar[int]
    OFF_MAP_HIGH_FIELD_NUMBER: _ClassVar[int]
    CHANGED_CELLS_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    request: ProjectSamplesRequest
    sample_count: int
    off_map_rate: float
    off_map_low: float
    off_map_high: float
    changed_cells: int
    arrays: str
    provenance: _provenance_pb2.Provenance
    def __init__(self, name: _Optional[str] = ..., request: _Optional[_Union[ProjectSamplesRequest, _Mapping]] = ..., sample_count: _Optional[int] = ..., off_map_rate: _Optional[float] = ..., off_map_low: _Optional[float] = ..., off_map_high: _Optional[float] = ..., changed_cells: _Optional[int] = ..., arrays: _Optional[str] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ...) -> None: ...

class GetAtlasProjectionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CompareAtlasesRequest(_message.Message):
    __slots__ = ("left", "right", "grid", "seed", "request_id", "time_limit")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    left: str
    right: str
    grid: int
    seed: int
    request_id: str
    time_limit: _duration_pb2.Duration
    def __init__(self, left: _Optional[str] = ..., right: _Optional[str] = ..., grid: _Optional[int] = ..., seed: _Optional[int] = ..., request_id: _Optional[str] = ..., time_limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AtlasComparison(_message.Message):
    __slots__ = ("name", "request", "sample_count", "neighbourhood_agreement", "procrustes_distance", "arrays", "provenance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURHOOD_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    PROCRUSTES_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    request: CompareAtlasesRequest
    sample_count: int
    neighbourhood_agreement: float
    procrustes_distance: float
    arrays: str
    provenance: _provenance_pb2.Provenance
    def __init__(self, name: _Optional[str] = ..., request: _Optional[_Union[CompareAtlasesRequest, _Mapping]] = ..., sample_count: _Optional[int] = ..., neighbourhood_agreement: _Optional[float] = ..., procrustes_distance: _Optional[float] = ..., arrays: _Optional[str] = ..., provenance: _Optional[_Union[_provenance_pb2.Provenance, _Mapping]] = ...) -> None: ...

class GetAtlasComparisonRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ProposePatchesRequest(_message.Message):
    __slots__ = ("atlas", "grid", "source", "target", "count")
    ATLAS_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    atlas: str
    grid: int
    source: str
    target: str
    count: int
    def __init__(self, atlas: _Optional[str] = ..., grid: _Optional[int] = ..., source: _Optional[str] = ..., target: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class PatchProposal(_message.Message):
    __slots__ = ("cell", "image", "crop", "png", "push")
    CELL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    cell: Cell
    image: str
    crop: Region
    png: bytes
    push: float
    def __init__(self, cell: _Optional[_Union[Cell, _Mapping]] = ..., image: _Optional[str] = ..., crop: _Optional[_Union[Region, _Mapping]] = ..., png: _Optional[bytes] = ..., push: _Optional[float] = ...) -> None: ...

class ProposePatchesResponse(_message.Message):
    __slots__ = ("proposals",)
    PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    proposals: _containers.RepeatedCompositeFieldContainer[PatchProposal]
    def __init__(self, proposals: _Optional[_Iterable[_Union[PatchProposal, _Mapping]]] = ...) -> None: ...
