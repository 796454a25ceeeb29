"""What a user may put into a model, and what is sent for it."""

import io
from pathlib import Path

import numpy as np
import pytest
from ortoscope.datasets import ImageEntry, Picture
from ortoscope.errors import InvalidArgument
from ortoscope.inputs import encode_picture, items_of, to_item
from ortoscope.tensors import to_array
from ortoscope.v1 import activations_pb2, models_pb2, tensors_pb2
from PIL import Image

FLOAT32, INT64 = tensors_pb2.DATA_TYPE_FLOAT32, tensors_pb2.DATA_TYPE_INT64
IMAGE, TENSOR = models_pb2.ModelInput.KIND_IMAGE, models_pb2.ModelInput.KIND_TENSOR
PICTURES = models_pb2.ModelVersion(
    name="models/pictures/versions/1",
    inputs=[models_pb2.ModelInput(name="image", kind=IMAGE, data_type=FLOAT32, shape=[-1, 3, 6, 8])],
)
VECTORS = models_pb2.ModelVersion(
    inputs=[models_pb2.ModelInput(name="x", kind=TENSOR, data_type=FLOAT32, shape=[-1, 5])]
)
TOKENS = models_pb2.ModelVersion(
    inputs=[models_pb2.ModelInput(name="ids", kind=TENSOR, data_type=INT64, shape=[-1, -1])]
)
TWO = models_pb2.ModelVersion(
    name="models/two/versions/1",
    inputs=[
        models_pb2.ModelInput(name="left", kind=TENSOR, data_type=FLOAT32, shape=[-1, 2]),
        models_pb2.ModelInput(name="right", kind=TENSOR, data_type=INT64, shape=[-1, 2]),
    ],
)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def item(value: object, model: models_pb2.ModelVersion = PICTURES) -> activations_pb2.ActivationInput:
    return to_item(value, model, field="inputs[0]")  # type: ignore[arg-type]


def pixels_of(sent: activations_pb2.ActivationInput) -> np.ndarray:
    with Image.open(io.BytesIO(sent.image)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def test_bytes_and_files_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "datasets.jpg"
    path.write_bytes(b"\xff\xd8 whatever")
    assert item(path.read_bytes()).image == path.read_bytes()
    assert item(path).image == path.read_bytes()
    assert item(str(path)).image == path.read_bytes()


def test_a_missing_file_is_an_oserror_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        item(tmp_path / "cat.jpg")
    assert caught.value.filename == str(tmp_path / "cat.jpg") or caught.value.filename == tmp_path / "cat.jpg"


def test_resource_names_and_pictures_refer_to_what_the_server_has() -> None:
    name = "datasets/d/images/3"
    assert item(name).dataset_image == name
    assert item(ImageEntry(name, 3, "a.jpg", "", "")).dataset_image == name
    assert item(Picture(name, b"", "image/png", 1, 1)).dataset_image == name
    blob = "blobs/" + "0" * 64
    assert item(blob).blob == blob


def test_a_uint8_array_is_a_picture_with_exactly_its_pixels() -> None:
    assert np.array_equal(pixels_of(item(PIXELS)), PIXELS)
    assert np.array_equal(pixels_of(item(PIXELS[..., 0])), PIXELS[..., 0])
    assert np.array_equal(pixels_of(item(PIXELS[..., :1])), PIXELS[..., 0])
    rgba = np.concatenate([PIXELS, PIXELS[..., :1]], axis=-1)
    assert np.array_equal(pixels_of(item(rgba)), rgba)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_a_pil_image_is_sent_without_loss(mode: str) -> None:
    picture = Image.fromarray(PIXELS).convert(mode)
    assert np.array_equal(pixels_of(item(picture)), np.asarray(picture))


def test_a_palette_and_a_bitmap_become_plain_colours() -> None:
    palette = Image.fromarray(PIXELS).quantize(4)
    assert np.array_equal(pixels_of(item(palette)), np.asarray(palette.convert("RGB")))
    bitmap = Image.fromarray(PIXELS).convert("1")
    assert np.array_equal(pixels_of(item(bitmap)), np.asarray(bitmap.convert("L")))


def test_a_rotated_photograph_is_sent_upright() -> None:
    picture = Image.fromarray(PIXELS)
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as turned:
        assert np.array_equal(pixels_of(item(turned)), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("mode", ["CMYK", "I", "F", "YCbCr", "I;16"])
def test_colours_without_one_meaning_are_refused(mode: str) -> None:
    with pytest.raises(InvalidArgument, match="convert it to 8-bit RGB") as caught:
        encode_picture(Image.new(mode, (2, 2)))
    assert caught.value.reason == "IMAGE_MODE"


def test_a_float_array_is_the_input_as_it_stands() -> None:
    array = RNG.standard_normal((3, 6, 8))
    sent = to_array(item(array).tensor)
    assert sent.dtype == np.float32
    assert np.array_equal(sent, array.astype(np.float32))


def test_a_conversion_never_changes_the_kind_of_number() -> None:
    assert to_array(item(np.arange(5, dtype=np.int32), TOKENS).tensor).dtype == np.int64
    assert to_array(item(np.arange(5.0), TOKENS).tensor).dtype == np.float64
    assert to_array(item(np.arange(5, dtype=np.uint8), VECTORS).tensor).dtype == np.float32


def test_an_array_file_is_read(tmp_path: Path) -> None:
    array = RNG.standard_normal(5).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    assert np.array_equal(to_array(item(tmp_path / "x.npy", VECTORS).tensor), array)
    (tmp_path / "y.npy").write_bytes(b"nonsense")
    with pytest.raises(InvalidArgument, match="no NumPy array"):
        item(tmp_path / "y.npy", VECTORS)


def test_several_inputs_are_given_by_name() -> None:
    sent = item({"left": np.ones(2), "right": np.arange(2, dtype=np.int32)}, TWO).tensors.tensors
    assert to_array(sent["left"]).dtype == np.float32
    assert to_array(sent["right"]).dtype == np.int64
    with pytest.raises(InvalidArgument, match="'middle', but the inputs of models/two/versions/1 are left, right"):
        item({"middle": np.ones(2)}, TWO)


def test_anything_else_is_refused_with_what_may_be_given() -> None:
    with pytest.raises(InvalidArgument, match=r"inputs\[0\] is a float; give a path"):
        item(1.5)


def count(inputs: object, model: models_pb2.ModelVersion = PICTURES) -> int:
    return len(list(items_of(inputs, model)))  # type: ignore[arg-type]


def test_an_array_with_a_batch_axis_is_many_items() -> None:
    assert count(PIXELS) == 1
    assert count(PIXELS[..., 0]) == 1
    assert count(np.stack([PIXELS] * 4)) == 4
    assert count(RNG.standard_normal((3, 6, 8))) == 1
    assert count(RNG.standard_normal((2, 3, 6, 8))) == 2
    assert count(np.zeros(5), VECTORS) == 1
    assert count(np.zeros((7, 5)), VECTORS) == 7


def test_lists_generators_and_folders_of_paths_are_many_items() -> None:
    assert count(["a.jpg", b"", PIXELS]) == 3
    assert count(iter(["a.jpg", "b.jpg"])) == 2
    assert count("a.jpg") == count(Path("a.jpg")) == count(b"") == count({"left": np.zeros(2)}) == 1
    assert count([]) == 0
