"""Decoding pictures, against Pillow's own answers and against arithmetic."""

import io
import struct
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.datasets import images
from ortoscope_service.datasets.image_headers import read_header
from ortoscope_service.datasets.images import decode_image
from ortoscope_service.errors import Code, OrtoscopeError
from pictures import encode, photo, png_chunk, png_of_size, refused_pictures
from PIL import Image, ImageOps

REFUSED = refused_pictures()
FORMATS = ("JPEG", "PNG", "WEBP")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_picture_has_the_pixels_that_pillow_decodes(file_format: str) -> None:
    data = encode(photo(), file_format)
    decoded = decode_image(data)
    assert (decoded.mode, decoded.size) == ("RGB", (60, 40))
    assert np.array_equal(np.asarray(decoded), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_decoded_is_refused_with_a_typed_error(kind: str) -> None:
    data, reason = REFUSED[kind]
    with pytest.raises(OrtoscopeError) as refused:
        decode_image(data, field="inputs[0].image")
    assert refused.value.reason == reason
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.field == "inputs[0].image"


def test_a_picture_of_20000_by_20000_is_refused_in_milliseconds() -> None:
    data = png_of_size(20_000, 20_000)
    start = time.perf_counter()
    with pytest.raises(OrtoscopeError, match=r"20,000 . 20,000"):
        decode_image(data)
    assert time.perf_counter() - start < 0.05


def test_more_bytes_than_the_limit_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo(), "PNG")
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", len(data))
    decode_image(data)
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", len(data) - 1)
    with pytest.raises(OrtoscopeError) as refused:
        decode_image(data)
    assert refused.value.reason == "IMAGE_TOO_LARGE"


def test_the_limit_of_pixels_is_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 60 * 40)
    assert decode_image(encode(photo(60, 40), "PNG")).size == (60, 40)
    with pytest.raises(OrtoscopeError) as refused:
        decode_image(encode(photo(61, 40), "PNG"))
    assert refused.value.reason == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_picture_is_turned_upright_by_its_exif_orientation(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), file_format, exif=exif)
    stored = Image.open(io.BytesIO(data))
    upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert np.array_equal(np.asarray(decode_image(data)), upright)
    assert np.array_equal(np.asarray(decode_image(data, orient=False)), np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"garbage that is no TIFF",
        b"MM\0*" + struct.pack(">I", 8),
        b"MM\0*" + struct.pack(">I", 4_000_000_000),
        b"MM\0*" + struct.pack(">IH", 8, 60_000) + b"\x01\x12\0\x03",
        b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 99, 0, 0),
        b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 2, 4, 4_000_000_000) + bytes(4),
    ],
)
def test_damaged_exif_neither_turns_a_picture_nor_warns(exif: bytes) -> None:
    jpeg, png = encode(photo(), "JPEG"), encode(photo(), "PNG")
    block = b"Exif\0\0" + exif
    jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]
    png = png[:33] + png_chunk(b"eXIf", exif) + png[33:]
    for data in (jpeg, png):
        assert decode_image(data).size == (60, 40)


def test_a_jpeg_with_further_pictures_inside_is_its_first_picture() -> None:
    phone = encode(photo(), "MPO", save_all=True, append_images=[photo(seed=1)])
    assert np.array_equal(np.asarray(decode_image(phone)), np.asarray(decode_image(encode(photo(), "JPEG"))))


def test_gray_palette_and_bilevel_pictures_become_rgb() -> None:
    gray = photo().convert("L")
    assert np.array_equal(np.asarray(decode_image(encode(gray, "PNG"))), np.asarray(gray.convert("RGB")))
    palette = photo().quantize(16)
    assert np.array_equal(np.asarray(decode_image(encode(palette, "PNG"))), np.asarray(palette.convert("RGB")))
    bilevel = photo().convert("1")
    assert np.array_equal(np.asarray(decode_image(encode(bilevel, "PNG"))), np.asarray(bilevel.convert("RGB")))
    jpeg = np.asarray(decode_image(encode(gray, "JPEG")))
    assert (jpeg[..., 0] == jpeg[..., 1]).all()
    assert (jpeg[..., 0] == jpeg[..., 2]).all()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_what_is_transparent_is_laid_over_white(file_format: str) -> None:
    rgb = np.asarray(photo()).astype(float)
    alpha = np.linspace(0, 255, 60).round()[None, :, None] * np.ones((40, 1, 1))
    rgba = np.concatenate((rgb, alpha), axis=2).astype(np.uint8)
    data = encode(Image.fromarray(rgba), file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    expected = rgb * alpha / 255 + 255 * (1 - alpha / 255)
    decoded = np.asarray(decode_image(data)).astype(float)
    assert np.abs(decoded - expected).max() <= 1
    assert (decoded[:, 0] == 255).all()


def test_transparent_palette_entries_and_gray_levels_are_laid_over_white() -> None:
    palette = photo().quantize(4)
    indices = np.asarray(palette)
    decoded = np.asarray(decode_image(encode(palette, "PNG", transparency=bytes([0, 255, 255, 255]))))
    assert (decoded[indices == 0] == 255).all()
    assert np.array_equal(decoded[indices != 0], np.asarray(palette.convert("RGB"))[indices != 0])
    gray = Image.fromarray(np.array([[10, 200]], np.uint8))
    assert np.asarray(decode_image(encode(gray, "PNG", transparency=10))).tolist() == [[[255] * 3, [200] * 3]]
    alpha = gray.convert("LA")
    alpha.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
    assert np.asarray(decode_image(encode(alpha, "PNG"))).tolist() == [[[255] * 3, [200] * 3]]


@given(width=st.integers(1, 300), height=st.integers(1, 300), file_format=st.sampled_from(FORMATS), alpha=st.booleans())
def test_a_header_tells_the_size_without_decoding(width: int, height: int, file_format: str, alpha: bool) -> None:
    mode = "RGBA" if alpha and file_format != "JPEG" else "RGB"
    lossless = {"lossless": bool(width % 2)} if file_format == "WEBP" else {}
    header = read_header(encode(Image.new(mode, (width, height)), file_format, **lossless))
    assert header is not None
    assert (header.width, header.height, header.bits, header.orientation) == (width, height, 8, 1)


@given(
    file_format=st.sampled_from([*FORMATS, "MPO"]),
    end=st.integers(0, 4000),
    changes=st.lists(st.tuples(st.integers(0, 3999), st.integers(0, 255)), max_size=20),
)
def test_whatever_happens_to_the_bytes_the_answer_is_a_picture_or_a_typed_error(
    file_format: str, end: int, changes: list[tuple[int, int]]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encode(photo(), file_format, exif=exif)[:end])
    for position, value in changes:
        if position < len(data):
            data[position] = value
    reason = ""
    try:
        assert decode_image(bytes(data)).mode == "RGB"
    except OrtoscopeError as refused:
        reason = refused.reason
    assert reason in {"", "IMAGE_UNREADABLE", "IMAGE_TOO_LARGE", "IMAGE_MODE", "IMAGE_ANIMATED"}


def test_a_second_header_of_another_size_is_refused() -> None:
    png = encode(photo(), "PNG")
    second = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    with pytest.raises(OrtoscopeError):
        decode_image(png[:33] + second + png[33:])
    jpeg = encode(photo(), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    larger = jpeg[frame : frame + 5] + struct.pack(">HH", 30_000, 30_000) + jpeg[frame + 9 : frame + 19]
    with pytest.raises(OrtoscopeError) as refused:
        decode_image(jpeg[: frame + 19] + larger + jpeg[frame + 19 :])
    assert refused.value.reason == "IMAGE_TOO_LARGE"
