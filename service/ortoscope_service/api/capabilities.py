"""The service `ortoscope.v1.Capabilities`."""

import importlib.metadata

import grpc
from ortoscope.v1 import capabilities_pb2, capabilities_pb2_grpc

from ortoscope_service.api.components import Components
from ortoscope_service.datasets.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from ortoscope_service.runtime.sessions import onnxruntime_version


def ortoscope_version() -> str:
    """Version of the installed distribution."""
    return importlib.metadata.version("ortoscope")


class CapabilitiesServicer(capabilities_pb2_grpc.CapabilitiesServicer):
    """Tells what the server is and how much it takes at a time."""

    def __init__(self, components: Components) -> None:
        limits, session = components.limits, components.execution.session
        self._capabilities = capabilities_pb2.ServerCapabilities(
            ortoscope_version=ortoscope_version(),
            onnxruntime_version=onnxruntime_version(),
            execution_providers=session.providers,
            threads=session.intra_op_threads,
            limits=capabilities_pb2.Limits(
                max_message_bytes=limits.max_message_bytes,
                max_items_per_request=limits.max_items_per_request,
                max_image_pixels=MAX_IMAGE_PIXELS,
                max_image_bytes=min(MAX_IMAGE_BYTES, limits.max_message_bytes),
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
                max_waiting_visualizations=components.config.waiting_visualizations,
                visualization_deadline_seconds=limits.visualization_deadline_seconds,
            ),
        )

    def GetCapabilities(
        self, request: capabilities_pb2.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> capabilities_pb2.ServerCapabilities:
        """Gets versions, execution providers and limits."""
        return self._capabilities
