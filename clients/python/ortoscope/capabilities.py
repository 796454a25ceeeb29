"""What a server is and how much it takes at a time."""

from dataclasses import dataclass

from ortoscope.v1 import capabilities_pb2


@dataclass(frozen=True)
class Limits:
    """The server's limits; whoever exceeds one gets an error that names it."""

    max_message_bytes: int
    """Largest request or response message."""

    max_items_per_request: int
    """Most items in one request, or one message of a stream."""

    max_image_pixels: int
    """Most pixels of an encoded image."""

    max_image_bytes: int
    """Largest encoded image."""

    max_page_size: int
    """Most results on a page of a list."""

    max_blob_bytes: int
    """Largest blob that can be written."""

    max_concurrent_rpcs: int
    """Most calls worked on at once."""

    default_deadline_seconds: int
    """Deadline of a call that came without one."""

    max_pending_operations: int
    """Most operations that wait or run at once."""

    max_attributions_per_request: int
    """Most items times selections in one AttributeClasses request."""

    operation_retention_seconds: int
    """How long the record of an operation is kept after it ended, in seconds that the server runs."""

    max_visualization_items: int
    """Most items of one visualization."""

    max_visualization_pixels: int
    """Most pixels of all its items; of what is no picture, most elements."""

    max_visualization_steps: int
    """Most steps of one visualization, over all of its attempts and octaves."""

    max_waiting_visualizations: int
    """Most visualizations that wait for their turn."""

    visualization_deadline_seconds: int
    """Deadline of a visualization that came without one."""


@dataclass(frozen=True)
class Capabilities:
    """What a server is."""

    ortoscope_version: str
    """Version of the service."""

    onnxruntime_version: str
    """Version of ONNX Runtime."""

    execution_providers: tuple[str, ...]
    """Execution providers in the order of preference."""

    threads: int
    """Threads available to computation."""

    limits: Limits
    """The limits in force."""

    @classmethod
    def from_proto(cls, proto: capabilities_pb2.ServerCapabilities) -> "Capabilities":
        """Reads the server's message."""
        limits = proto.limits
        return cls(
            ortoscope_version=proto.ortoscope_version,
            onnxruntime_version=proto.onnxruntime_version,
            execution_providers=tuple(proto.execution_providers),
            threads=proto.threads,
            limits=Limits(
                max_message_bytes=limits.max_message_bytes,
                max_items_per_request=limits.max_items_per_request,
                max_image_pixels=limits.max_image_pixels,
                max_image_bytes=limits.max_image_bytes,
                max_page_size=limits.max_page_size,
                max_blob_bytes=limits.max_blob_bytes,
                max_concurrent_rpcs=limits.max_concurrent_rpcs,
                default_deadline_seconds=limits.default_deadline_seconds,
                max_pending_operations=limits.max_pending_operations,
                max_attributions_per_request=limits.max_attributions_per_request,
                operation_retention_seconds=limits.operation_retention_seconds,
                max_visualization_items=limits.max_visualization_items,
                max_visualization_pixels=limits.max_visualization_pixels,
                max_visualization_steps=limits.max_visualization_steps,
                max_waiting_visualizations=limits.max_waiting_visualizations,
                visualization_deadline_seconds=limits.visualization_deadline_seconds,
            ),
        )
