from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerCapabilities(_message.Message):
    __slots__ = ("ortoscope_version", "onnxruntime_version", "execution_providers", "threads", "limits")
    ORTOSCOPE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ONNXRUNTIME_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ortoscope_version: str
    onnxruntime_version: str
    execution_providers: _containers.RepeatedScalarFieldContainer[str]
    threads: int
    limits: Limits
    def __init__(self, ortoscope_version: _Optional[str] = ..., onnxruntime_version: _Optional[str] = ..., execution_providers: _Optional[_Iterable[str]] = ..., threads: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_items_per_request", "max_image_pixels", "max_image_bytes", "max_page_size", "max_blob_bytes", "max_concurrent_rpcs", "default_deadline_seconds", "max_pending_operations", "max_attributions_per_request", "operation_retention_seconds", "max_visualization_items", "max_visualization_pixels", "max_visualization_steps", "max_waiting_visualizations", "visualization_deadline_seconds")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEMS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_BLOB_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_RPCS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTRIBUTIONS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    OPERATION_RETENTION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_VISUALIZATION_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_VISUALIZATION_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_VISUALIZATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_VISUALIZATIONS_FIELD_NUMBER: _ClassVar[int]
    VISUALIZATION_DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_items_per_request: int
    max_image_pixels: int
    max_image_bytes: int
    max_page_size: int
    max_blob_bytes: int
    max_concurrent_rpcs: int
    default_deadline_seconds: int
    max_pending_operations: int
    max_attributions_per_request: int
    operation_retention_seconds: int
    max_visualization_items: int
    max_visualization_pixels: int
    max_visualization_steps: int
    max_waiting_visualizations: int
    visualization_deadline_seconds: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_items_per_request: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_image_bytes: _Optional[int] = ..., max_page_size: _Optional[int] = ..., max_blob_bytes: _Optional[int] = ..., max_concurrent_rpcs: _Optional[int] = ..., default_deadline_seconds: _Optional[int] = ..., max_pending_operations: _Optional[int] = ..., max_attributions_per_request: _Optional[int] = ..., operation_retention_seconds: _Optional[int] = ..., max_visualization_items: _Optional[int] = ..., max_visualization_pixels: _Optional[int] = ..., max_visualization_steps: _Optional[int] = ..., max_waiting_visualizations: _Optional[int] = ..., visualization_deadline_seconds: _Optional[int] = ...) -> None: ...
