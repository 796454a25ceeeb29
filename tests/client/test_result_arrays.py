import io

import numpy as np
import pytest
from ortoscope.arrays import ExampleArrays, TopImages, load_npz
from ortoscope.errors import DataLoss


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # numpy's own annotation takes any name for its flag
    return buffer.getvalue()


TOP = {
    "image": np.array([[3, -1]]),
    "value": np.array([[1.5, -np.inf]], np.float32),
    "mask": np.packbits(np.eye(3, 5, dtype=np.uint8).ravel())[None, None].repeat(2, axis=1),
    "mask_shape": np.array([3, 5]),
}


def test_masks_are_unpacked_row_by_row_highest_bit_first() -> None:
    top = load_npz(TopImages, npz(**TOP))
    assert top.masks(0).shape == (2, 3, 5)
    assert np.array_equal(top.masks(0)[1], np.eye(3, 5, dtype=bool))


def test_arrays_that_this_client_does_not_know_are_left_out() -> None:
    assert load_npz(TopImages, npz(**TOP, novelty=np.zeros(3))).image.tolist() == [[3, -1]]


def test_sites_may_be_absent() -> None:
    arrays = {f"{end}_{what}": np.zeros((2, 3)) for end in ("most", "least") for what in ("image", "value")}
    assert load_npz(ExampleArrays, npz(**arrays)).most_site is None


@pytest.mark.parametrize("data", [b"", b"nonsense", npz(image=TOP["image"]), npz(**TOP)[:-200]])
def test_damaged_arrays_are_refused(data: bytes) -> None:
    with pytest.raises(DataLoss, match="cannot be read as TopImages"):
        load_npz(TopImages, data)


def test_arrays_of_python_objects_are_refused() -> None:
    with pytest.raises(DataLoss):
        load_npz(TopImages, npz(**{**TOP, "image": np.array([{}], object)}))
