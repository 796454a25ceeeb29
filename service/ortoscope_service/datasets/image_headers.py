"""What an encoded picture says about itself, read from its header alone: no pixel is decoded and nothing allocated.

JPEG: ITU-T T.81, annex B. PNG: W3C recommendation, third edition (with APNG's acTL and the eXIf chunk). WebP: RFC 9649.
EXIF: CIPA DC-008 (only the orientation tag, 0x0112, of IFD 0).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: "gray", 2: "rgb", 3: "palette", 4: "gray+alpha", 6: "rgb+alpha"}
_JPEG_CHANNELS = {1: "gray", 3: "rgb", 4: "cmyk"}
_ORIENTATION_TAG = 0x0112

# First bytes of picture formats that are refused by name rather than as garbage.
_OTHER_FORMATS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "PSD"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"PF\n", "PFM"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
)


class BadHeaderError(ValueError):
    """The bytes do not begin with a complete header of the format that their signature names."""


@dataclass(frozen=True)
class ImageHeader:
    """The header of an encoded picture."""

    format: str
    """"JPEG", "PNG" or "WebP"."""

    width: int
    """Width in pixels as stored, that is before any orientation is applied."""

    height: int
    """Height in pixels as stored."""

    bits: int
    """Bits per channel (per palette index for a palette picture)."""

    channels: str
    """"gray", "gray+alpha", "rgb", "rgb+alpha", "palette" or "cmyk"."""

    animated: bool
    """Whether it holds more than one frame."""

    orientation: int
    """EXIF orientation, 1 (upright) to 8; 1 if there is none or it is damaged."""


def other_format(data: bytes) -> str:
    """The name of a well-known picture format that is not JPEG, PNG or WebP; empty if none is recognised."""
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"):
        return "AVIF or HEIC"
    return next((name for signature, name in _OTHER_FORMATS if data.startswith(signature)), "")


def read_header(data: bytes) -> ImageHeader | None:
    """Reads the header of a JPEG, PNG or WebP picture.

    Args:
        data: The encoded picture.

    Returns:
        The header; None if the bytes carry the signature of none of the three formats.

    Raises:
        BadHeaderError: The signature is right and what follows is damaged or ends too early.
    """
    try:
        if data.startswith(_PNG_SIGNATURE):
            return _read_png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _read_webp(data)
    except (struct.error, IndexError) as error:
        raise BadHeaderError("the header ends too early") from error
    return None


def without_metadata(data: bytes) -> bytes:
    """A JPEG without the application segments that do not bear on its pixels; other formats unchanged.

    Pillow interprets EXIF, MPF and Photoshop segments when it opens a file and warns or fails where these are
    damaged. Kept are JFIF (APP0) and Adobe (APP14), which decide the colour transform.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return data
    kept = bytearray(data[:2])
    end = 2
    for marker, start, end in _jpeg_segments(data):
        if not 0xE1 <= marker <= 0xEF or marker == 0xEE:
            kept += data[start:end]
    return bytes(kept) + data[end:]


def _read_png(data: bytes) -> ImageHeader:
    if data[12:16] != b"IHDR":
        raise BadHeaderError("its first chunk is not IHDR")
    width, height, bits, color_type = struct.unpack_from(">IIBB", data, 16)
    if color_type not in _PNG_CHANNELS:
        raise BadHeaderError(f"colour type {color_type} does not exist")
    frames, exif, before_pixels = 1, b"", True
    for kind, start, length in _png_chunks(data):
        before_pixels &= kind != b"IDAT"
        if kind == b"acTL" and before_pixels:
            (frames,) = struct.unpack_from(">I", data, start)
        elif kind == b"eXIf":
            exif = data[start : start + length]
    return ImageHeader("PNG", width, height, bits, _PNG_CHANNELS[color_type], frames != 1, _orientation(exif))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and length of the contents of every chunk whose head is there."""
    position = len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, position + 8, length
        position += length + 12


def _read_jpeg(data: bytes) -> ImageHeader:
    frame: tuple[int, int, int, int] | None = None
    exif = b""
    for marker, start, end in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack_from(">BHHB", data, start + 4)
            # A decoder may believe a second frame header rather than the first: the larger one counts.
            if frame is None or width * height > frame[0] * frame[1]:
                frame = width, height, bits, components
        elif marker == 0xE1 and not exif and data[start + 4 : start + 10] == b"Exif\0\0":
            exif = data[start + 10 : end]
    if frame is None:
        raise BadHeaderError("it has no frame header before its pixels")
    width, height, bits, components = frame
    channels = _JPEG_CHANNELS.get(components, f"{components} components")
    return ImageHeader("JPEG", width, height, bits, channels, False, _orientation(exif))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start (of the marker) and end of every segment before the scan."""
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            return
        marker = data[position + 1]
        if marker in (0xDA, 0xD9):
            return
        if marker in (0x00, 0xFF):
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            end = position + 2 + length
            yield marker, position, end
            position = end


def _read_webp(data: bytes) -> ImageHeader:
    exif = b""
    for kind, start, length in _riff_chunks(data):
        if kind == b"EXIF":
            exif = data[start : start + length].removeprefix(b"Exif\0\0")
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        animated, alpha = bool(body[0] & 0x02), bool(body[0] & 0x10)
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        animated, alpha = False, bool(bits >> 28 & 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        animated, alpha = False, False
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", body, 6))
    else:
        raise BadHeaderError("its first chunk holds no picture")
    if len(body) < 10:
        raise BadHeaderError("the header ends too early")
    channels = "rgb+alpha" if alpha else "rgb"
    return ImageHeader("WebP", width, height, 8, channels, animated, _orientation(exif))


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and length of the contents of every RIFF chunk whose head is there."""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        yield kind, position + 8, length
        position += 8 + length + length % 2


def _orientation(exif: bytes) -> int:
    """The orientation tag of a TIFF-structured EXIF block; 1 wherever it does not hold a value from 1 to 8."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for i in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, directory + 2 + 12 * i)
            if (tag, kind, count) == (_ORIENTATION_TAG, 3, 1):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
