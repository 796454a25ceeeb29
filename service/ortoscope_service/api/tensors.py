"""Tensors between messages and arrays. Every size is computed in Python integers before anything is allocated."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortoscope.v1 import tensors_pb2

from ortoscope_service.errors import Code, OrtoscopeError, invalid

_MAX_RANK = 32  # what every version of NumPy can hold

_DATA_TYPES = {
    "float32": tensors_pb2.DATA_TYPE_FLOAT32,
    "float64": tensors_pb2.DATA_TYPE_FLOAT64,
    "float16": tensors_pb2.DATA_TYPE_FLOAT16,
    "int8": tensors_pb2.DATA_TYPE_INT8,
    "int16": tensors_pb2.DATA_TYPE_INT16,
    "int32": tensors_pb2.DATA_TYPE_INT32,
    "int64": tensors_pb2.DATA_TYPE_INT64,
    "uint8": tensors_pb2.DATA_TYPE_UINT8,
    "uint16": tensors_pb2.DATA_TYPE_UINT16,
    "uint32": tensors_pb2.DATA_TYPE_UINT32,
    "uint64": tensors_pb2.DATA_TYPE_UINT64,
    "bool": tensors_pb2.DATA_TYPE_BOOL,
}
_NAMES = {number: name for name, number in _DATA_TYPES.items()}


def data_type(name: str) -> tensors_pb2.DataType:
    """The data type of a NumPy type name; unspecified for one that tensors cannot have (strings)."""
    return _DATA_TYPES.get(name, tensors_pb2.DATA_TYPE_UNSPECIFIED)


def to_tensor(array: NDArray[Any]) -> tensors_pb2.Tensor:
    """An array as a message.

    Raises:
        OrtoscopeError: UNIMPLEMENTED, UNSUPPORTED_TYPE.
    """
    name = array.dtype.name
    if name not in _DATA_TYPES:
        raise OrtoscopeError(
            Code.UNIMPLEMENTED,
            "UNSUPPORTED_TYPE",
            f"A tensor of type {name} cannot be sent.",
            metadata={"data_type": name},
        )
    return tensors_pb2.Tensor(data_type=_DATA_TYPES[name], shape=array.shape, data=little_endian(array))


def from_tensor(tensor: tensors_pb2.Tensor, name: str, shape: Sequence[int], *, field: str) -> NDArray[Any]:
    """A message as an array.

    Args:
        tensor: The message.
        name: NumPy name of the type that it must have.
        shape: The shape that it must have; -1 where any extent will do.
        field: The field that holds it.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: TENSOR_TYPE, TENSOR_SHAPE, TENSOR_SIZE.
    """
    if tensor.data_type != data_type(name) or tensor.data_type == tensors_pb2.DATA_TYPE_UNSPECIFIED:
        given = _NAMES.get(tensor.data_type, f"of unknown type {tensor.data_type}")
        raise invalid(
            "TENSOR_TYPE",
            f"The tensor is {given}; the model takes {name} here.",
            field=f"{field}.data_type",
            data_type=given,
            expected=name,
        )
    given_shape = tuple(tensor.shape)
    check_shape(given_shape, shape, field=f"{field}.shape")
    expected = byte_size(given_shape, np.dtype(name).itemsize)
    if len(tensor.data) != expected:
        raise invalid(
            "TENSOR_SIZE",
            f"The tensor has {len(tensor.data)} bytes; {name} of shape {list(given_shape)} takes {expected}.",
            field=f"{field}.data",
            bytes=len(tensor.data),
            expected=expected,
        )
    return from_little_endian(tensor.data, name, given_shape)


def check_shape(given: Sequence[int], expected: Sequence[int], *, field: str) -> None:
    """Refuses a shape that does not fit.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, TENSOR_SHAPE.
    """
    fits = len(given) == len(expected) <= _MAX_RANK and all(
        extent >= 0 and wanted in {-1, extent} for extent, wanted in zip(given, expected, strict=True)
    )
    if not fits:
        raise invalid(
            "TENSOR_SHAPE",
            f"The tensor has the shape {shown(given)}; {shown(expected)} is expected (-1: any extent).",
            field=field,
            shape=shown(given),
            expected=shown(expected),
        )


def shown(shape: Sequence[int]) -> str:
    """A shape as text, cut off where it becomes absurd."""
    head = ",".join(str(extent) for extent in shape[:_MAX_RANK])
    return f"[{head}{',…' if len(shape) > _MAX_RANK else ''}]"


def byte_size(shape: Sequence[int], item_size: int) -> int:
    """Bytes of a dense tensor."""
    return math.prod(shape) * item_size


def little_endian(array: NDArray[Any]) -> bytes:
    """The elements of an array, row-major, little-endian."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def from_little_endian(data: bytes, name: str, shape: Sequence[int]) -> NDArray[Any]:
    """The array of this type and shape whose elements are `data`, which must have the right length."""
    if name == "bool":
        # Any byte but 0 is true; NumPy would keep others as they are.
        truth: NDArray[Any] = np.frombuffer(data, np.uint8).reshape(shape) != 0
        return truth
    values: NDArray[Any] = np.frombuffer(data, np.dtype(name).newbyteorder("<")).reshape(shape)
    return values.astype(name, copy=False)
