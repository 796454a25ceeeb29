"""NumPy arrays to and from the API's tensors."""

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ortoscope.errors import DataLoss, InvalidArgument
from ortoscope.v1 import tensors_pb2

_DTYPES: dict[int, np.dtype[Any]] = {
    tensors_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensors_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    tensors_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensors_pb2.DATA_TYPE_INT8: np.dtype("<i1"),
    tensors_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    tensors_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensors_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensors_pb2.DATA_TYPE_UINT8: np.dtype("<u1"),
    tensors_pb2.DATA_TYPE_UINT16: np.dtype("<u2"),
    tensors_pb2.DATA_TYPE_UINT32: np.dtype("<u4"),
    tensors_pb2.DATA_TYPE_UINT64: np.dtype("<u8"),
    tensors_pb2.DATA_TYPE_BOOL: np.dtype(np.bool_),
}
_TYPES = {dtype: number for number, dtype in _DTYPES.items()}


def dtype_of(data_type: int) -> np.dtype[Any] | None:
    """The NumPy type of an element type; None if it is not stated."""
    return _DTYPES.get(data_type)


def to_tensor(array: npt.NDArray[Any], *, field: str = "") -> tensors_pb2.Tensor:
    """An array as a tensor: same shape, same elements, little-endian.

    Args:
        array: Any shape; bool, an integer of 8 to 64 bits or a float of 16 to 64.
        field: What to call it in an error.

    Raises:
        InvalidArgument: DATA_TYPE_UNSUPPORTED.
    """
    little = array.dtype.newbyteorder("<")
    data_type = _TYPES.get(little)
    if data_type is None:
        raise InvalidArgument(
            f"An array of type {array.dtype} cannot be sent; convert it, for example with .astype('float32').",
            reason="DATA_TYPE_UNSUPPORTED",
            field=field,
            metadata={"data_type": str(array.dtype)},
        )
    return tensors_pb2.Tensor(
        data_type=cast("tensors_pb2.DataType", data_type),
        shape=array.shape,
        data=array.astype(little, copy=False).tobytes(),
    )


def to_array(tensor: tensors_pb2.Tensor) -> npt.NDArray[Any]:
    """A tensor as an array of its shape and type, read-only.

    Raises:
        DataLoss: TENSOR_DAMAGED: its length does not fit its shape and type.
    """
    dtype = _DTYPES.get(tensor.data_type)
    shape = tuple(tensor.shape)
    if dtype is None or len(tensor.data) != math.prod(shape) * dtype.itemsize:
        raise DataLoss(
            f"The server sent a tensor of {len(tensor.data)} bytes that does not fit its shape {shape} and type "
            f"{tensor.data_type}.",
            reason="TENSOR_DAMAGED",
        )
    array: npt.NDArray[Any] = np.frombuffer(tensor.data, dtype).reshape(shape)
    return array
