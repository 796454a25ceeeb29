"""ONNX Runtime sessions: strict about what goes in, typed about what goes wrong, stoppable, and sparing with memory."""

import importlib.metadata
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.plugins import is_plugin, plugin_device, plugin_options
from ortoscope_service.runtime.threads import available_threads
from ortoscope_service.runtime.verdicts import ParityReport

_log = logging.getLogger(__name__)

_LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_DATA_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}

_DISTRIBUTIONS = frozenset(
    {
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime-directml",
        "onnxruntime-openvino",
        "onnxruntime-qnn",
        "onnxruntime-training",
    }
)
"""Distributions that all install the one import name `onnxruntime`, each over the other."""

_ORT_ERRORS = (
    ort_state.DeviceReset,
    ort_state.EPFail,
    ort_state.EngineError,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.ModelLoadCanceled,
    ort_state.ModelLoaded,
    ort_state.ModelRequiresCompilation,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotFound,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)

_OUT_OF_MEMORY = re.compile(r"bad_alloc|[Ff]ailed to allocate|[Oo]ut of memory|Available memory of")
_FAILING_NODE = re.compile(r"while running (\S+) node\. Name:'([^']*)'")
_FATAL = 4
"""ORT's severity above everything that it also raises as an exception, which we log ourselves."""


@dataclass(frozen=True)
class SessionConfig:
    """How a model is run. Two sessions of one model with equal configs give identical bytes on one CPU type."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """Execution providers in order of preference. One that is not installed is refused, never silently replaced."""

    intra_op_threads: int = 0
    """Threads within an operator; 0 = `available_threads()`. Part of a result's provenance: it changes sums' order."""

    optimization_level: str = "all"
    """Graph optimizations: "disabled" (the reference: values do not depend on which taps are outputs), "basic",
    "extended" or "all"."""

    allow_spinning: bool = False
    """Whether idle pool threads spin. Off, because several sessions and their clients share the cores: a spinning pool
    slowed other work in the process 2.6 times, for a few per cent of its own latency."""

    shrink_memory: bool = True
    """Whether working memory goes back to the system after a run, all but the arena's first block (one tensor of the
    first run), unless that run asks to keep it. On, because the arena otherwise keeps its peak for good."""

    arena: bool = True
    """Whether ONNX Runtime keeps an arena of its own for working memory, rather than to ask the C library. An arena is
    never smaller than the largest tensor of its first run; without one, batches that run back to back take a third
    longer unless the C library is told to keep what was freed."""

    verdicts: Path | None = None
    """Folder in which `parity.open_session` keeps what it found out about providers other than the CPU's. None: it
    finds out anew for every session."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a session."""

    name: str
    """Name in the model."""

    data_type: str
    """NumPy name of the element type: "float32", "int64", …; "object" for strings."""

    shape: tuple[int, ...]
    """Extent of every axis; -1 where it is free. Empty for a scalar."""


class RunnableSession(Protocol):
    """What is used of a `Session`, wherever it lives; `Session` tells more."""

    @property
    def config(self) -> SessionConfig:
        """The configuration, its threads resolved."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What `run` must be fed."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What `run` returns."""

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that the session registered."""

    @property
    def parity(self) -> ParityReport | None:
        """How the provider that was asked for compared with the CPU provider."""

    def run(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        cancellation: Cancellation | None = None,
        *,
        keep_memory: bool = False,
    ) -> dict[str, npt.NDArray[Any]]:
        """Computes all outputs."""


class Session:
    """A loaded model. `run` may be called from several threads at once.

    Args:
        model: The ONNX file.
        config: How to run it.
        cancellation: Stops the loading when raised, between two steps of it.

    Raises:
        OrtoscopeError: `UNKNOWN_PROVIDER`, `UNKNOWN_OPTIMIZATION_LEVEL`, `INVALID_THREADS`; `NOT_ONNX`,
            `OPERATOR_NOT_IMPLEMENTED` or `MODEL_NOT_LOADABLE` when ONNX Runtime refuses the model;
            `OUT_OF_MEMORY` (RESOURCE_EXHAUSTED); `CANCELLED` or `DEADLINE_EXCEEDED`.

    Attributes:
        config: The configuration, its threads resolved.
        inputs: What `run` must be fed.
        outputs: What `run` returns.
        providers: The execution providers that the session registered, in order of preference.
        parity: How the provider that was asked for compared with the CPU provider; None unless `parity.open_session`
            made the session on another one.
    """

    def __init__(
        self, model: bytes, config: SessionConfig = SessionConfig(), cancellation: Cancellation | None = None
    ) -> None:
        cancellation = cancellation or Cancellation()
        cancellation.raise_if_cancelled()
        self.config = _resolve(config)
        self.parity: ParityReport | None = None
        options = _session_options(self.config)
        # A session that is given the name of a plugin computes on the CPU and says nothing; one that is given a device
        # takes no names, and has the CPU provider last.
        plugins = [name for name in self.config.providers if is_plugin(name)]
        names = None if plugins else list(self.config.providers)
        try:
            for name in plugins:
                device = plugin_device(name)
                options.add_provider_for_devices([device], plugin_options(name, self.config.intra_op_threads))
            with cancellation.on_cancel(lambda: options.set_load_cancellation_flag(True)):
                self._session = onnxruntime.InferenceSession(model, sess_options=options, providers=names)
        except _ORT_ERRORS as error:
            cancellation.raise_if_cancelled()
            raise _load_error(error) from error
        # ORT's Python layer would otherwise answer a provider's failure with a second attempt on the CPU.
        self._session.disable_fallback()
        self.inputs = tuple(_tensor_info(value) for value in self._session.get_inputs())
        self.outputs = tuple(_tensor_info(value) for value in self._session.get_outputs())
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        missing = [name for name in self.config.providers if name not in self.providers]
        if missing:
            raise _provider_error(missing[0], self.providers)

    def run(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        cancellation: Cancellation | None = None,
        *,
        keep_memory: bool = False,
    ) -> dict[str, npt.NDArray[Any]]:
        """Computes all outputs.

        Args:
            feeds: An array for every input: of its type, its rank, and its extent wherever that is not free.
            cancellation: Stops the run between two operators when raised.
            keep_memory: Keep the working memory for the next run. For loops over batches of one shape: fetching the
                memory anew costs about a quarter of a run. The last run of the loop should give it back.

        Returns:
            Every output by name, in the model's order.

        Raises:
            OrtoscopeError: `UNKNOWN_INPUT`, `MISSING_INPUT`, `INVALID_TENSOR` (INVALID_ARGUMENT); `OUT_OF_MEMORY`
                (RESOURCE_EXHAUSTED); `MODEL_RUN_FAILED` (FAILED_PRECONDITION: this model cannot compute this input);
                `CANCELLED` or `DEADLINE_EXCEEDED`.
        """
        checked = check_feeds(feeds, self.inputs)
        cancellation = cancellation or Cancellation()
        cancellation.raise_if_cancelled()
        options = self._run_options(keep_memory=keep_memory)

        def terminate() -> None:
            options.terminate = True

        with cancellation.on_cancel(terminate):
            try:
                values = self._session.run(None, checked, options)
            except _ORT_ERRORS as error:
                cancellation.raise_if_cancelled()
                raise _run_error(error) from error
        cancellation.raise_if_cancelled()
        results = dict(zip((output.name for output in self.outputs), values, strict=True))
        for name, value in results.items():
            if not isinstance(value, np.ndarray):
                raise OrtoscopeError(
                    Code.INTERNAL,
                    "OUTPUT_MISSING",
                    f"The model did not give its output {name!r}.",
                    metadata={"output": name},
                )
        return results

    def _run_options(self, *, keep_memory: bool) -> onnxruntime.RunOptions:
        """Fresh for every run: the terminate flag stays up once raised."""
        options = onnxruntime.RunOptions()
        options.log_severity_level = _FATAL
        if self.config.arena and self.config.shrink_memory and not keep_memory:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options


def onnxruntime_version() -> str:
    """Version of the installed ONNX Runtime."""
    return str(onnxruntime.__version__)


def check_installation(search_path: Sequence[str] | None = None) -> None:
    """Refuses an environment in which two distributions of ONNX Runtime lie over each other.

    They share one import name, the last one installed wins, and the metadata of both stay: a GPU installation that
    silently computes on the CPU is the usual result.

    Args:
        search_path: Folders to look for installed distributions in; by default those of this interpreter.

    Raises:
        OrtoscopeError: `CONFLICTING_ONNXRUNTIME` (FAILED_PRECONDITION).
    """
    found = (
        importlib.metadata.distributions()
        if search_path is None
        else importlib.metadata.distributions(path=list(search_path))
    )
    names = {str(distribution.metadata["Name"]).lower().replace("_", "-") for distribution in found}
    conflicting = sorted(names & _DISTRIBUTIONS)
    if len(conflicting) > 1:
        listing = ", ".join(conflicting)
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "CONFLICTING_ONNXRUNTIME",
            f"{listing} are installed together, but they overwrite each other's files. Uninstall all of them, then "
            "install ortoscope[server] or ortoscope[server-gpu].",
            metadata={"distributions": listing},
        )


def check_providers(providers: Sequence[str]) -> None:
    """Refuses execution providers that this installation does not have, rather than to compute elsewhere in silence.

    Raises:
        OrtoscopeError: `UNKNOWN_PROVIDER` (FAILED_PRECONDITION); as `plugin_device` raises.
    """
    available = onnxruntime.get_available_providers()
    for name in providers:
        if is_plugin(name):
            plugin_device(name)
        elif name not in available:
            raise _provider_error(name, available)
    if not providers:
        raise _provider_error("", available)
    if "CUDAExecutionProvider" in providers:
        # CUDA's own libraries come as Python packages, where no loader looks for them.
        onnxruntime.preload_dlls()


def _resolve(config: SessionConfig) -> SessionConfig:
    if config.intra_op_threads < 0:
        raise invalid(
            "INVALID_THREADS",
            f"intra_op_threads is {config.intra_op_threads}; give a positive number, or 0 for all available threads.",
            threads=config.intra_op_threads,
        )
    if config.optimization_level not in _LEVELS:
        raise invalid(
            "UNKNOWN_OPTIMIZATION_LEVEL",
            f"There is no optimization level {config.optimization_level!r}; choose one of {', '.join(_LEVELS)}.",
            level=config.optimization_level,
        )
    check_providers(config.providers)
    return replace(config, intra_op_threads=config.intra_op_threads or available_threads())


def _provider_error(name: str, available: Sequence[str]) -> OrtoscopeError:
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "UNKNOWN_PROVIDER",
        f"The execution provider {name!r} is not available here; there are {', '.join(available)}.",
        metadata={"provider": name, "available": ", ".join(available)},
    )


def _session_options(config: SessionConfig) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS[config.optimization_level]
    options.intra_op_num_threads = config.intra_op_threads
    options.inter_op_num_threads = 1
    # Its one block for all intermediates lies beside the arena: it doubled what stays after a run, and saved no time.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = config.arena
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if config.allow_spinning else "0")
    if "CPUExecutionProvider" not in config.providers:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _tensor_info(value: onnxruntime.NodeArg) -> TensorInfo:
    data_type = _DATA_TYPES.get(value.type)
    if data_type is None:
        raise invalid(
            "UNSUPPORTED_TYPE",
            f"{value.name!r} is of type {value.type}; inputs and outputs must be dense tensors of a NumPy type.",
            tensor=value.name,
            type=value.type,
        )
    return TensorInfo(value.name, data_type, tuple(size if isinstance(size, int) else -1 for size in value.shape))


def check_feeds(feeds: Mapping[str, npt.NDArray[Any]], inputs: Sequence[TensorInfo]) -> dict[str, npt.NDArray[Any]]:
    """The feeds of a run as ONNX Runtime takes them: contiguous, in the byte order of this machine.

    Raises:
        OrtoscopeError: `UNKNOWN_INPUT`, `MISSING_INPUT`, `INVALID_TENSOR` (INVALID_ARGUMENT).
    """
    names = ", ".join(repr(info.name) for info in inputs) or "none"
    for name in feeds:
        if all(name != info.name for info in inputs):
            raise invalid(
                "UNKNOWN_INPUT", f"The model has no input {name!r}; its inputs: {names}.", input=name, inputs=names
            )
    checked = {}
    for info in inputs:
        if info.name not in feeds:
            raise invalid(
                "MISSING_INPUT",
                f"The input {info.name!r} is missing; the model's inputs: {names}.",
                input=info.name,
                inputs=names,
            )
        checked[info.name] = _check_tensor(np.asarray(feeds[info.name]), info)
    return checked


def _check_tensor(array: npt.NDArray[Any], info: TensorInfo) -> npt.NDArray[Any]:
    expected = np.dtype(info.data_type)
    fits = (
        array.dtype.newbyteorder("=") == expected
        and array.ndim == len(info.shape)
        and all(wanted in {-1, size} for wanted, size in zip(info.shape, array.shape, strict=True))
    )
    if not fits:
        wanted = "(" + ", ".join("any" if size < 0 else str(size) for size in info.shape) + ")"
        given = "(" + ", ".join(str(size) for size in array.shape) + ")"
        raise invalid(
            "INVALID_TENSOR",
            f"The input {info.name!r} takes {info.data_type} of shape {wanted}; it was given {array.dtype} of shape "
            f"{given}.",
            input=info.name,
            expected_type=info.data_type,
            expected_shape=wanted,
            given_type=array.dtype,
            given_shape=given,
        )
    return np.ascontiguousarray(array, dtype=expected).reshape(array.shape)


def _load_error(error: BaseException) -> OrtoscopeError:
    """The typed error for what ONNX Runtime raised at load; its text goes to the log only."""
    if _is_out_of_memory(error):
        return _out_of_memory()
    _log.warning("ONNX Runtime refused a model: %s: %s", type(error).__name__, error)
    if isinstance(error, ort_state.InvalidProtobuf):
        return invalid("NOT_ONNX", "The bytes are not an ONNX model; give the complete file of an ONNX export.")
    if isinstance(error, ort_state.NotImplemented):
        return OrtoscopeError(
            Code.UNIMPLEMENTED,
            "OPERATOR_NOT_IMPLEMENTED",
            f"ONNX Runtime {onnxruntime_version()} has no kernel for an operator of this model on its data types; "
            "export the model in float32 or at another opset.",
            metadata={"onnxruntime": onnxruntime_version()},
        )
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "MODEL_NOT_LOADABLE",
        f"ONNX Runtime {onnxruntime_version()} cannot load this model; the server's log says why. "
        "`python -m onnx.checker` or an export at another opset may help.",
        metadata={"onnxruntime": onnxruntime_version()},
    )


def _run_error(error: BaseException) -> OrtoscopeError:
    """The typed error for what ONNX Runtime raised in a run; its text goes to the log only."""
    if _is_out_of_memory(error):
        return _out_of_memory()
    _log.warning("a run of ONNX Runtime failed: %s: %s", type(error).__name__, error)
    if isinstance(error, ort_state.InvalidArgument) and _FAILING_NODE.search(str(error)) is None:
        return invalid("INVALID_TENSOR", "ONNX Runtime refused the inputs; see the model's inputs for what it takes.")
    node = _FAILING_NODE.search(str(error))
    operator, name = (node[1], node[2]) if node else ("", "")
    where = f" at the {operator} node {name!r}" if node else ""
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "MODEL_RUN_FAILED",
        f"The model cannot compute this input: it failed{where}. Check the input's extents; the server's log has "
        "the details.",
        metadata={"operator": operator, "node": name},
    )


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def _out_of_memory() -> OrtoscopeError:
    return OrtoscopeError(
        Code.RESOURCE_EXHAUSTED,
        "OUT_OF_MEMORY",
        "The server's memory does not suffice for this run; use a smaller batch or fewer taps at once.",
    )
