"""The service `inference.GRPCInferenceService`: the Open Inference Protocol, with every tap as an output by name.

Clients of the protocol drop the details of an error, so every message says all of it; the texts are close to those
that users know from other servers.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from ortoscope_service.api import resources
from ortoscope_service.api.capabilities import ortoscope_version
from ortoscope_service.api.components import Components
from ortoscope_service.api.interceptor import response_too_large
from ortoscope_service.api.open_inference import open_inference_pb2, open_inference_pb2_grpc
from ortoscope_service.api.tensors import byte_size, from_little_endian, little_endian, shown
from ortoscope_service.errors import Code, OrtoscopeError, invalid, not_found
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.manifest import InputSpec
from ortoscope_service.models.repository import ModelVersion, is_model_id

PLATFORM = "onnx_onnxv1"
"""The protocol's name for ONNX files."""

EXTENSIONS = ("binary_tensor_data",)
"""Extensions of the protocol that the server has."""

MAX_NAMES_SHOWN = 20
"""Most names of outputs in a message."""

_DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
# FP16 has no field of its own: the protocol carries it raw only.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_NOT_IMPLEMENTED = frozenset(
    {"classification", "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"}
)
_TensorMetadata = open_inference_pb2.ModelMetadataResponse.TensorMetadata
_InferInput = open_inference_pb2.ModelInferRequest.InferInputTensor


class OpenInferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Speaks the Open Inference Protocol."""

    def __init__(self, components: Components) -> None:
        self._components = components

    def ServerLive(
        self, request: open_inference_pb2.ServerLiveRequest, context: grpc.ServicerContext
    ) -> open_inference_pb2.ServerLiveResponse:
        """Whether the server runs."""
        return open_inference_pb2.ServerLiveResponse(live=True)

    def ServerReady(
        self, request: open_inference_pb2.ServerReadyRequest, context: grpc.ServicerContext
    ) -> open_inference_pb2.ServerReadyResponse:
        """Whether the server takes requests."""
        return open_inference_pb2.ServerReadyResponse(ready=True)

    def ModelReady(
        self, request: open_inference_pb2.ModelReadyRequest, context: grpc.ServicerContext
    ) -> open_inference_pb2.ModelReadyResponse:
        """Whether a model can be asked; an unknown one cannot, which is no error."""
        try:
            self._version(request.name, request.version)
        except OrtoscopeError:
            return open_inference_pb2.ModelReadyResponse(ready=False)
        return open_inference_pb2.ModelReadyResponse(ready=True)

    def ServerMetadata(
        self, request: open_inference_pb2.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> open_inference_pb2.ServerMetadataResponse:
        """Name, version and extensions of the server."""
        return open_inference_pb2.ServerMetadataResponse(
            name="ortoscope", version=ortoscope_version(), extensions=EXTENSIONS
        )

    def ModelMetadata(
        self, request: open_inference_pb2.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> open_inference_pb2.ModelMetadataResponse:
        """Inputs and outputs of a model: its own outputs first, then every tap."""
        version = self._version(request.name, request.version)
        manifest = version.manifest
        own = {output.name for output in manifest.outputs}
        taps = [tap for tap in manifest.taps if tap.tensor not in own]
        return open_inference_pb2.ModelMetadataResponse(
            name=version.model,
            versions=[str(number) for number in self._components.models.versions(version.model)],
            platform=PLATFORM,
            inputs=[_metadata(spec.name, spec.data_type, spec.shape) for spec in manifest.inputs],
            outputs=[_metadata(spec.name, spec.data_type, spec.shape) for spec in manifest.outputs]
            + [_metadata(tap.tensor, tap.data_type, tap.shape) for tap in taps],
        )

    def ModelInfer(
        self, request: open_inference_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> open_inference_pb2.ModelInferResponse:
        """Runs a model on tensors as the ONNX file takes them."""
        cancellation = self._components.cancellation(context)
        _refuse_parameters(request.parameters, "the request", "parameters")
        version = self._version(request.model_name, request.model_version, prefix="model_")
        outputs = _Outputs(version)
        wanted = outputs.resolve(request.outputs)
        feeds = _read_inputs(version.manifest.inputs, request)
        session = self._components.session(version, [output.tensor for output in wanted], cancellation)
        values = session.run({info.name: feeds[info.name] for info in session.inputs}, cancellation)
        size = sum(values[output.tensor].nbytes for output in wanted)
        limit = self._components.limits.max_message_bytes
        if size > limit:
            raise response_too_large(size, limit)
        response = open_inference_pb2.ModelInferResponse(
            model_name=version.model, model_version=str(version.version), id=request.id
        )
        for output in wanted:
            value = values[output.tensor]
            datatype = _datatype_of(value, output.name)
            response.outputs.add(name=output.name, datatype=datatype, shape=value.shape)
            response.raw_output_contents.append(little_endian(value))
        return response

    def _version(self, model: str, version: str, *, prefix: str = "") -> ModelVersion:
        """The model version of a request: messages as other servers of the protocol word them."""
        models = self._components.models
        if not is_model_id(model) or model not in models.names():
            near = ", ".join(f"'{name}'" for name in _closest(model, models.names(), 5)) or "none"
            raise not_found(
                "UNKNOWN_MODEL",
                f"Request for unknown model: '{model}' is not found; there are: {near}.",
                field=f"{prefix}name",
                model=model,
            )
        number = resources.parse_version(version) if version else None
        known = models.versions(model)
        if version and number not in known:
            raise not_found(
                "UNKNOWN_VERSION",
                f"Request for unknown model: '{model}' version {version} is not at ready state; its versions are: "
                f"{', '.join(map(str, known[:MAX_NAMES_SHOWN]))}.",
                field=f"{prefix}version",
                model=model,
                version=version,
            )
        return models.get(model, number)


@dataclass(frozen=True)
class _WantedOutput:
    """An output that is asked for."""

    name: str
    """The name that it was asked by, which the response repeats."""

    tensor: str
    """The tensor."""


class _Outputs:
    """The names by which the tensors of a model can be asked for."""

    def __init__(self, version: ModelVersion) -> None:
        self._version = version
        self._own = [output.name for output in version.manifest.outputs]
        taps = version.manifest.taps
        # Where names collide, the model's outputs come first, then tensors, then what people call them.
        self._tensors: dict[str, str] = {name: name for name in self._own}
        for names in (_tensor_names, _display_names, _aliases):
            for tap in taps:
                for name in names(tap):
                    self._tensors.setdefault(name, tap.tensor)

    def resolve(
        self, requested: Sequence[open_inference_pb2.ModelInferRequest.InferRequestedOutputTensor]
    ) -> list[_WantedOutput]:
        """The outputs of a request; the model's own if it names none."""
        if not requested:
            return [_WantedOutput(name, name) for name in self._own]
        wanted: dict[str, _WantedOutput] = {}
        for number, output in enumerate(requested):
            field = f"outputs[{number}]"
            _refuse_parameters(output.parameters, f"output '{output.name}'", f"{field}.parameters")
            if output.name in wanted:
                raise invalid(
                    "DUPLICATE_OUTPUT",
                    f"output '{output.name}' is requested twice.",
                    field=f"{field}.name",
                    output=output.name,
                )
            if output.name not in self._tensors:
                raise self._unknown(output.name, f"{field}.name")
            wanted[output.name] = _WantedOutput(output.name, self._tensors[output.name])
        return list(wanted.values())

    def _unknown(self, name: str, field: str) -> OrtoscopeError:
        names = self._own[:MAX_NAMES_SHOWN]
        others = [known for known in self._tensors if known not in set(names)]
        names += _closest(name, others, MAX_NAMES_SHOWN - len(names))
        left_out = len({*self._own, *(tap.tensor for tap in self._version.manifest.taps)} - set(names))
        more = f" and {left_out} more, which ModelMetadata lists" if left_out else ""
        listed = ", ".join(f"'{known}'" for known in names)
        return invalid(
            "UNKNOWN_OUTPUT",
            f"unexpected inference output '{name}' for model '{self._version.model}'; valid names are {listed}{more}.",
            field=field,
            output=name,
            model=self._version.model,
        )


def _tensor_names(tap: Tap) -> tuple[str, ...]:
    return (tap.tensor,)


def _display_names(tap: Tap) -> tuple[str, ...]:
    return (tap.display_name,)


def _aliases(tap: Tap) -> tuple[str, ...]:
    return tap.aliases


def _read_inputs(
    specifications: Sequence[InputSpec], request: open_inference_pb2.ModelInferRequest
) -> dict[str, NDArray[Any]]:
    """Checks the inputs of a request against the model's and reads them."""
    known = {specification.name: specification for specification in specifications}
    _check_input_names(known, [tensor.name for tensor in request.inputs])
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise invalid(
            "RAW_CONTENTS_COUNT",
            f"expected {len(request.inputs)} raw_input_contents, one for each input, but got {len(raw)}.",
            field="raw_input_contents",
            expected=len(request.inputs),
            given=len(raw),
        )
    feeds = {}
    for number, tensor in enumerate(request.inputs):
        field = f"inputs[{number}]"
        specification = known[tensor.name]
        _refuse_parameters(tensor.parameters, f"input '{tensor.name}'", f"{field}.parameters")
        _check_datatype(tensor, specification, field)
        _check_shape(tensor, specification, field)
        if raw:
            if tensor.HasField("contents"):
                raise invalid(
                    "CONTENTS_WITH_RAW",
                    f"contents field must not be specified when using raw_input_contents for input '{tensor.name}'.",
                    field=f"{field}.contents",
                    input=tensor.name,
                )
            feeds[tensor.name] = _read_raw(raw[number], tensor, specification, f"raw_input_contents[{number}]")
        else:
            feeds[tensor.name] = _read_contents(tensor, specification, f"{field}.contents")
    return feeds


def _check_input_names(known: Mapping[str, InputSpec], given: Sequence[str]) -> None:
    names = ", ".join(f"'{name}'" for name in known)
    for number, name in enumerate(given):
        if name not in known:
            raise invalid(
                "UNKNOWN_INPUT",
                f"unexpected inference input '{name}'; the model's inputs are {names}.",
                field=f"inputs[{number}].name",
                input=name,
                inputs=names,
            )
        if name in given[:number]:
            raise invalid(
                "DUPLICATE_INPUT", f"input '{name}' is given twice.", field=f"inputs[{number}].name", input=name
            )
    missing = ", ".join(f"'{name}'" for name in known if name not in given)
    if missing:
        raise invalid(
            "MISSING_INPUT",
            f"expected {len(known)} inputs but got {len(given)} inputs; missing required input(s) [{missing}].",
            field="inputs",
            missing=missing,
        )


def _check_datatype(tensor: _InferInput, specification: InputSpec, field: str) -> None:
    expected = _DATATYPES[specification.data_type]
    if expected == "BYTES":
        raise OrtoscopeError(
            Code.UNIMPLEMENTED,
            "UNSUPPORTED_DATATYPE",
            f"input '{tensor.name}' is of type BYTES, which this server does not take.",
            field=f"{field}.datatype",
            metadata={"input": tensor.name},
        )
    if tensor.datatype != expected:
        raise invalid(
            "INPUT_DATATYPE",
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', but model expects '{expected}'.",
            field=f"{field}.datatype",
            input=tensor.name,
            datatype=tensor.datatype,
            expected=expected,
        )


def _check_shape(tensor: _InferInput, specification: InputSpec, field: str) -> None:
    given, expected = tuple(tensor.shape), specification.shape
    fits = len(given) == len(expected) and all(
        extent >= 0 and wanted in {-1, extent} for extent, wanted in zip(given, expected, strict=True)
    )
    if not fits:
        raise invalid(
            "INPUT_SHAPE",
            f"unexpected shape for input '{tensor.name}'. Expected {shown(expected)}, got {shown(given)}.",
            field=f"{field}.shape",
            input=tensor.name,
            shape=shown(given),
            expected=shown(expected),
        )


def _read_raw(data: bytes, tensor: _InferInput, specification: InputSpec, field: str) -> NDArray[Any]:
    expected = byte_size(tuple(tensor.shape), np.dtype(specification.data_type).itemsize)
    if len(data) != expected:
        raise invalid(
            "INPUT_SIZE",
            f"input byte size mismatch for input '{tensor.name}'. Expected {expected}, got {len(data)}.",
            field=field,
            input=tensor.name,
            bytes=len(data),
            expected=expected,
        )
    return from_little_endian(data, specification.data_type, tuple(tensor.shape))


def _read_contents(tensor: _InferInput, specification: InputSpec, field: str) -> NDArray[Any]:
    if not tensor.HasField("contents"):
        raise invalid(
            "NO_DATA",
            f"unable to find data for input tensor '{tensor.name}'; send raw_input_contents or contents.",
            field=field,
            input=tensor.name,
        )
    wanted = _CONTENTS.get(tensor.datatype)
    if wanted is None:
        raise invalid(
            "RAW_ONLY",
            f"input '{tensor.name}' of type {tensor.datatype} must be sent in raw_input_contents.",
            field=field,
            input=tensor.name,
            datatype=tensor.datatype,
        )
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != wanted:
            raise invalid(
                "CONTENTS_FIELD",
                f"input '{tensor.name}' of type {tensor.datatype} must be sent in {wanted}, not in {descriptor.name}.",
                field=f"{field}.{descriptor.name}",
                input=tensor.name,
                expected=wanted,
            )
    elements = getattr(tensor.contents, wanted)
    expected = byte_size(tuple(tensor.shape), 1)
    if len(elements) != expected:
        raise invalid(
            "INPUT_SIZE",
            f"input element count mismatch for input '{tensor.name}'. Expected {expected}, got {len(elements)}.",
            field=f"{field}.{wanted}",
            input=tensor.name,
            elements=len(elements),
            expected=expected,
        )
    dtype = np.dtype(specification.data_type)
    try:
        return np.array(elements, dtype).reshape(tuple(tensor.shape))
    except OverflowError:
        raise invalid(
            "INPUT_RANGE",
            f"input '{tensor.name}' has elements that {tensor.datatype} cannot hold.",
            field=f"{field}.{wanted}",
            input=tensor.name,
            datatype=tensor.datatype,
        ) from None


def _refuse_parameters(parameters: Mapping[str, Any], where: str, field: str) -> None:
    """Refuses parameters: to ignore one would be to promise what it asks for."""
    for name in parameters:
        if name in _NOT_IMPLEMENTED:
            raise OrtoscopeError(
                Code.UNIMPLEMENTED,
                "UNSUPPORTED_PARAMETER",
                f"parameter '{name}' of {where} asks for something that this server does not have (shared memory or "
                "classification).",
                field=field,
                metadata={"parameter": name},
            )
        raise invalid(
            "UNSUPPORTED_PARAMETER",
            f"parameter '{name}' of {where} is not supported by this server; leave it out.",
            field=field,
            parameter=name,
        )


def _metadata(name: str, data_type: str, shape: Iterable[int]) -> _TensorMetadata:
    return _TensorMetadata(name=name, datatype=_DATATYPES.get(data_type, data_type.upper()), shape=shape)


def _datatype_of(value: NDArray[Any], name: str) -> str:
    datatype = _DATATYPES.get(value.dtype.name)
    if datatype is None or datatype == "BYTES":
        raise OrtoscopeError(
            Code.UNIMPLEMENTED,
            "UNSUPPORTED_DATATYPE",
            f"output '{name}' is of a type that this server does not send; request other outputs.",
            metadata={"output": name},
        )
    return datatype


def _closest(name: str, known: Sequence[str], count: int) -> list[str]:
    """The names that look most like `name`, then others, `count` in all."""
    if count <= 0:
        return []
    near = difflib.get_close_matches(name[:200], known, n=count, cutoff=0.4)
    rest = [other for other in known if other not in set(near)]
    return (near + rest)[:count]
