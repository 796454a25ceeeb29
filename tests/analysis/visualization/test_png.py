"""Pictures as files that tell how they were made, read back by another library and by hand."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from ortoscope_service.analysis.visualization.png import KEYWORD, encode_png, read_spec
from ortoscope_service.errors import OrtoscopeError
from PIL import Image

RNG = np.random.default_rng(5)
SPEC = {"preset": "lucid", "seed": 3, "nested": {"größe": [1, 2.5, None, True]}, "a": "b"}


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG file by the specification (ISO/IEC 15948): length, type, data, CRC."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length]) == (zlib.crc32(kind + data),)
        found.append((kind, data))
        place += 12 + length
    return found


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pixels_are_the_picture_rounded_to_eight_bits(channels: int, mode: str) -> None:
    picture = RNG.random((channels, 5, 7), np.float32)
    image = Image.open(io.BytesIO(encode_png(picture, SPEC)))
    assert (image.mode, image.size) == (mode, (7, 5))
    pixels = np.asarray(image).reshape(5, 7, channels).astype(np.float64)
    assert np.abs(pixels - np.moveaxis(picture, 0, -1) * 255).max() <= 0.5


def test_every_eighth_bit_comes_back() -> None:
    levels = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 16, 16)
    image = Image.open(io.BytesIO(encode_png(levels, {})))
    assert np.asarray(image).reshape(-1).tolist() == list(range(256))


def test_what_is_no_colour_is_clipped() -> None:
    picture = np.array([[[np.nan, np.inf, -np.inf, 1.5, -0.5, 0.5]]], np.float32)
    assert np.asarray(Image.open(io.BytesIO(encode_png(picture, {})))).tolist() == [[0, 255, 0, 255, 0, 128]]


def test_the_specification_comes_back() -> None:
    assert read_spec(encode_png(np.zeros((3, 2, 2), np.float32), SPEC)) == SPEC


def test_the_specification_is_an_international_text_of_canonical_json_before_the_pixels() -> None:
    found = chunks(encode_png(np.zeros((3, 2, 2), np.float32), SPEC))
    kinds = [kind for kind, _ in found]
    assert kinds.index(b"iTXt") < kinds.index(b"IDAT")
    keyword, _, rest = dict(found)[b"iTXt"].partition(b"\0")
    assert keyword.decode("latin-1") == KEYWORD
    text = rest[4:].decode("utf-8")  # not compressed, by no method, of no language, not translated
    assert rest[:4] == b"\0\0\0\0"
    assert text == json.dumps(SPEC, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_equal_pictures_give_equal_bytes() -> None:
    picture = RNG.random((3, 9, 9), np.float32)
    turned = dict(reversed(SPEC.items()))
    assert encode_png(picture, SPEC) == encode_png(picture.copy(), turned)


def test_a_specification_of_megabytes_comes_back() -> None:
    large = {"numbers": "7" * 3_000_000}
    assert read_spec(encode_png(np.zeros((1, 1, 1), np.float32), large)) == large


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a" + bytes(100),
        encode_png(np.zeros((1, 1, 1), np.float32)),
        encode_png(np.zeros((1, 1, 1), np.float32), {})[:40],
    ],
)
def test_a_file_without_a_specification_is_refused(file: bytes) -> None:
    with pytest.raises(OrtoscopeError, match="does not tell how it was made") as caught:
        read_spec(file, field="picture")
    assert (caught.value.reason, caught.value.field) == ("NO_SPECIFICATION", "picture")


@pytest.mark.parametrize("channels", [0, 2, 5])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"not {channels}"):
        encode_png(np.zeros((channels, 1, 1), np.float32), {})
