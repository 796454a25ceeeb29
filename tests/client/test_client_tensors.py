import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope.errors import DataLoss, InvalidArgument
from ortoscope.tensors import dtype_of, to_array, to_tensor
from ortoscope.v1 import tensors_pb2

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@given(dtype=st.sampled_from(DTYPES), shape=st.lists(st.integers(0, 4), max_size=4), seed=st.integers(0, 99))
def test_an_array_comes_back_as_it_was(dtype: str, shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    read = to_array(tensors_pb2.Tensor.FromString(to_tensor(array).SerializeToString()))
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert np.array_equal(read, array)


def test_the_bytes_are_little_endian_and_row_major() -> None:
    array = np.asfortranarray(np.array([[1, 2], [3, 4]], ">i2"))
    tensor = to_tensor(array)
    assert tensor.data == b"\1\0\2\0\3\0\4\0"
    assert tensor.data_type == tensors_pb2.DATA_TYPE_INT16
    assert list(tensor.shape) == [2, 2]


def test_every_element_type_of_the_api_has_a_numpy_type() -> None:
    for number in tensors_pb2.DataType.values():
        assert (dtype_of(number) is None) == (number == tensors_pb2.DATA_TYPE_UNSPECIFIED)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([object()])])
def test_what_has_no_element_type_is_refused(array: np.ndarray) -> None:
    with pytest.raises(InvalidArgument, match="astype"):
        to_tensor(array)


@pytest.mark.parametrize(
    "tensor",
    [
        tensors_pb2.Tensor(data_type=tensors_pb2.DATA_TYPE_FLOAT32, shape=[2], data=b"1234"),
        tensors_pb2.Tensor(shape=[1], data=b"1234"),
        tensors_pb2.Tensor(data_type=tensors_pb2.DATA_TYPE_UINT8, shape=[-1], data=b"1"),
    ],
)
def test_a_tensor_that_does_not_fit_itself_is_damaged(tensor: tensors_pb2.Tensor) -> None:
    with pytest.raises(DataLoss):
        to_array(tensor)
