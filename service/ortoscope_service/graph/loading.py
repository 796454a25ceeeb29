"""From bytes or a file to a model that the rest of the package can rely on, and back to bytes."""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import (
    CheckerPass,
    InlinePass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedOpsetsPass,
    ShapeInferencePass,
)

from ortoscope_service.errors import Code, OrtoscopeError, invalid, not_found
from ortoscope_service.graph import validation

_log = logging.getLogger(__name__)

_PROTOBUF_LIMIT = 2 * 1024**3 - 1
"""protobuf's limit on the size of a message."""

_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive, such as a PyTorch or Keras checkpoint: export the model to ONNX first"),
    (b"\x80\x02", "a Python pickle, such as an old PyTorch checkpoint: export the model to ONNX first"),
    (b"\x89HDF", "an HDF5 file, such as a Keras checkpoint: export the model to ONNX first"),
    (b"<", "markup, such as a web page saved instead of the file: download the file itself"),
)

_SHAPED_LIKE_INPUT = frozenset({"GroupNormalization", "MeanVarianceNormalization"})
"""Operators whose output has the input's shape, which ONNX's inference loses on the way through their functions."""


def load_model(source: bytes | Path, *, max_bytes: int = 2 * 1024**3) -> ir.Model:
    """Reads and validates an ONNX model.

    What is left undone in many files is repaired: nodes are put in topological order, initializers taken off the list
    of inputs (IR version 3 lists them, which keeps them from being folded), local functions inlined, data types and
    shapes of all intermediates inferred.

    Args:
        source: The file's content, or its path. External data is read only for a path, only from files beside it or
            below, and becomes part of the model.
        max_bytes: The largest size of the model with its external data.

    Returns:
        A valid model in the operators of the ONNX standard, with its weights in memory.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT unless said otherwise. `MODEL_FILE_NOT_FOUND` (NOT_FOUND),
            `MODEL_TOO_LARGE` (RESOURCE_EXHAUSTED); `NOT_ONNX`: garbage, truncated or empty;
            `UNSUPPORTED_IR_VERSION`, `UNSUPPORTED_OPSET`; `CUSTOM_OPERATOR`, `UNKNOWN_OPERATOR`;
            `EXTERNAL_DATA_MISSING`, `EXTERNAL_DATA_UNSAFE`; `INVALID_WEIGHTS`, `SPARSE_INITIALIZER`;
            `DUPLICATE_TENSOR`, `UNDEFINED_TENSOR`, `CYCLE`; `MISSING_OUTPUT`, `DUPLICATE_OUTPUT`,
            `UNTYPED_OUTPUT`, `UNTYPED_INPUT`, `UNSUPPORTED_TYPE`; `INVALID_MODEL`: anything else that the ONNX
            standard forbids.
    """
    try:
        return _load(source, max_bytes)
    except OrtoscopeError:
        raise
    except Exception as error:  # the parsers raise whatever broken input leads them to
        _log.warning("a model was refused: %s: %s", type(error).__name__, error)
        raise _invalid_model("") from error


def serialize(model: ir.Model) -> bytes:
    """The bytes of the model's ONNX file; equal models give equal bytes.

    Raises:
        OrtoscopeError: `MODEL_TOO_LARGE` (RESOURCE_EXHAUSTED): it exceeds the 2 GiB of an ONNX file.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size > _PROTOBUF_LIMIT:
        raise _too_large(size, _PROTOBUF_LIMIT)
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def infer_shapes(model: ir.Model) -> None:
    """Fills in data types and shapes of intermediates, in place, as far as ONNX's inference knows them."""
    shapeless = {
        node: node.op_type
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if not node.domain and node.op_type in _SHAPED_LIKE_INPUT
    }
    for node in shapeless:
        node.op_type = "Identity"
    try:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    finally:
        for node, op_type in shapeless.items():
            node.op_type = op_type


def _load(source: bytes | Path, max_bytes: int) -> ir.Model:
    data = source if isinstance(source, bytes) else _read_file(source, max_bytes)
    if len(data) > max_bytes:
        raise _too_large(len(data), max_bytes)
    proto = _parse(data)
    validation.check_versions(proto)
    _embed_external_data(proto, source.parent if isinstance(source, Path) else None, max_bytes)
    validation.check_tensors(proto)
    validation.check_names(proto.graph)

    model = ir.from_proto(proto)
    if model.functions:
        InlinePass()(model)
        model.functions.clear()
    validation.check_operators(model)
    RemoveUnusedOpsetsPass()(model)
    RemoveInitializersFromInputsPass()(model)
    # Before version 4 initializers had to be inputs.
    model.ir_version = max(model.ir_version, 4)
    model.graph.name = model.graph.name or "model"
    validation.sort(model.graph)
    infer_shapes(model)
    validation.check_types(model.graph)
    _check(model)
    return model


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise _too_large(size, max_bytes)
        return path.read_bytes()
    except OSError as error:
        raise not_found(
            "MODEL_FILE_NOT_FOUND", f"There is no readable file {path.name!r}; check its path.", file=path.name
        ) from error


def _parse(data: bytes) -> onnx.ModelProto:
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise _not_onnx(data) from error
    # A truncated or foreign file may parse by chance; no real model lacks any of these.
    if not proto.ir_version or not proto.HasField("graph") or not proto.opset_import:
        raise _not_onnx(data)
    return proto


def _embed_external_data(proto: onnx.ModelProto, folder: Path | None, max_bytes: int) -> None:
    budget = max_bytes - proto.ByteSize()
    for tensor in validation.tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if folder is None:
            raise invalid(
                "EXTERNAL_DATA_MISSING",
                f"The weights of {tensor.name!r} lie in another file. Save the model as one file: "
                'onnx.save(onnx.load("model.onnx"), "one-file.onnx").',
                tensor=tensor.name,
            )
        data = _read_external(tensor, folder, budget)
        budget -= len(data)
        tensor.raw_data = data
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _read_external(tensor: onnx.TensorProto, folder: Path, budget: int) -> bytes:
    """The bytes of an external tensor, from a regular, unlinked file in or below the model's own folder.

    A model is untrusted: without these checks it could make the server read, and hand out as weights, any file.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(entries.get("location", ""))
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else validation.byte_count(tensor)
    except ValueError:
        offset, length = -1, -1
    unsafe = invalid(
        "EXTERNAL_DATA_UNSAFE",
        f"The weights of {tensor.name!r} refer to {str(location)!r}, which is not a plain file beside the model. "
        "Keep the data file in the model's folder, as itself and not as a link.",
        tensor=tensor.name,
        location=location,
    )
    parts = location.parts
    if (
        not parts
        or location.is_absolute()
        or "\\" in str(location)
        or {"..", "."} & set(parts)
        or offset < 0
        or length < 0
    ):
        raise unsafe
    if length > budget:
        raise _too_large(length, budget)
    missing = invalid(
        "EXTERNAL_DATA_MISSING",
        f"The weights of {tensor.name!r} should be {length} bytes at offset {offset} of {str(location)!r}, which are "
        "not there. Put the complete data file beside the model.",
        tensor=tensor.name,
        location=location,
        offset=offset,
        length=length,
    )
    path = folder
    for part in parts:
        path /= part
        if path.is_symlink():
            raise unsafe
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise missing from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise unsafe
        if offset + length > status.st_size:
            raise missing
        file.seek(offset)
        return file.read(length)


def _check(model: ir.Model) -> None:
    """ONNX's own checker, without weights. Its text names the node at fault but is for the log."""
    try:
        CheckerPass()(model)
    except Exception as error:
        _log.warning("the ONNX checker refused a model: %s", error)
        text = str(error)
        at_fault = next((node for node in _named_nodes(model.graph) if f"Name: {node.name} " in text), None)
        raise _invalid_model(f" at the {at_fault.op_type} node {at_fault.name!r}" if at_fault else "") from error


def _named_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in ir.traversal.RecursiveGraphIterator(graph) if node.name)


def _not_onnx(data: bytes) -> OrtoscopeError:
    what = next((what for signature, what in _SIGNATURES if data.startswith(signature)), "")
    if not data:
        what = "empty"
    explanation = f"It is {what}." if what else "It is truncated, damaged or of another format."
    return invalid("NOT_ONNX", f"This is not an ONNX model. {explanation}", size_bytes=len(data))


def _too_large(size: int, limit: int) -> OrtoscopeError:
    return OrtoscopeError(
        Code.RESOURCE_EXHAUSTED,
        "MODEL_TOO_LARGE",
        f"The model takes {size} bytes; at most {limit} are allowed.",
        metadata={"size_bytes": str(size), "limit": str(limit)},
    )


def _invalid_model(where: str) -> OrtoscopeError:
    return invalid(
        "INVALID_MODEL",
        f"The model breaks the rules of ONNX{where}. onnx.checker.check_model says how; export it again.",
        where=where.strip(),
    )
