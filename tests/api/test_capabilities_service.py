import importlib.metadata

import onnxruntime
from ortoscope.v1 import capabilities_pb2
from ortoscope_service.config import ServerConfig
from ortoscope_service.runtime.threads import available_threads
from serving import Stubs


def test_versions_and_limits_are_published(stubs: Stubs, config: ServerConfig) -> None:
    capabilities = stubs.capabilities.GetCapabilities(capabilities_pb2.GetCapabilitiesRequest())
    assert capabilities.ortoscope_version == importlib.metadata.version("ortoscope")
    assert capabilities.onnxruntime_version == onnxruntime.__version__
    assert list(capabilities.execution_providers) == ["CPUExecutionProvider"]
    assert capabilities.threads == available_threads()
    limits = capabilities.limits
    for name in (
        "max_message_bytes",
        "max_items_per_request",
        "max_page_size",
        "max_blob_bytes",
        "max_concurrent_rpcs",
        "default_deadline_seconds",
        "max_pending_operations",
        "max_attributions_per_request",
    ):
        assert getattr(limits, name) == getattr(config.limits, name) > 0
    assert limits.max_image_pixels == 64_000_000
    assert limits.max_image_bytes == 64 * 1024**2
