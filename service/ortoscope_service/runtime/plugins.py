"""Execution providers that are plugins: libraries in Python packages of their own, loaded at run time.

ONNX Runtime ignores the name of a plugin where it takes those of its own providers. A session gets it by the devices
that the library offers once it is registered.
"""

import importlib.util
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

import onnxruntime

from ortoscope_service.errors import Code, OrtoscopeError

OPENVINO = "OpenVINOExecutionProvider"

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_registered: set[str] = set()


def is_plugin(provider: str) -> bool:
    """Whether a provider comes as a plugin that is known here, installed or not."""
    return provider == OPENVINO


def plugin_device(provider: str) -> Any:
    """The device that a plugin computes on: a processor if it offers one, else the first device (an `OrtEpDevice`).

    Raises:
        OrtoscopeError: FAILED_PRECONDITION: `UNKNOWN_PROVIDER`: it is not installed; `PROVIDER_NOT_LOADABLE`;
            `NO_PROVIDER_DEVICE`: it does not take the hardware of this machine.
    """
    _register(provider)
    offered = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    if not offered:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "NO_PROVIDER_DEVICE",
            f"The execution provider '{provider}' is installed but offers no device here: it supports Intel's hardware "
            "alone. Choose CPUExecutionProvider.",
            metadata={"provider": provider},
        )
    processors = [d for d in offered if d.device.type == onnxruntime.OrtHardwareDeviceType.CPU]
    return (processors or offered)[0]


def describe_device(device: Any) -> str:
    """A plugin's device and the version of the plugin, in words."""
    hardware = device.device
    name = device.ep_metadata.get("FULL_DEVICE_NAME", hardware.vendor)
    return f"{name} ({hardware.type.name} {hardware.vendor_id:x}:{hardware.device_id:x}), plugin {_version(device)}"


def plugin_options(provider: str, threads: int) -> dict[str, str]:
    """What a session tells a plugin.

    OpenVINO would otherwise compute in bfloat16 where the processor has it, which is off by a per cent after one
    convolution.
    """
    assert provider == OPENVINO
    return {"load_config": json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}})}


def _register(provider: str) -> None:
    with _lock:
        if provider in _registered:
            return
        if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "UNKNOWN_PROVIDER",
                f"The execution provider '{provider}' is not installed; install it with "
                "pip install 'ortoscope[openvino]'.",
                metadata={"provider": provider},
            )
        import onnxruntime_ep_openvino  # noqa: PLC0415 - an extra that few installations have

        try:
            onnxruntime.register_execution_provider_library(provider, onnxruntime_ep_openvino.get_library_path())
        except Exception as error:
            _log.exception("the library of %s cannot be loaded", provider)
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "PROVIDER_NOT_LOADABLE",
                f"The library of the execution provider '{provider}' cannot be loaded; the server's log says why. "
                "Install versions of it and of ONNX Runtime that belong together.",
                metadata={"provider": provider},
            ) from error
        _registered.add(provider)


def _version(device: Any) -> str:
    metadata: Mapping[str, str] = device.ep_metadata
    return metadata.get("version", "unknown")
