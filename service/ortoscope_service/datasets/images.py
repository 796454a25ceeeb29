"""From the bytes of a picture to 8-bit RGB pixels, with every limit checked before a pixel is decoded."""

import io

from PIL import Image

from ortoscope_service.datasets.image_headers import (
    BadHeaderError,
    ImageHeader,
    other_format,
    read_header,
    without_metadata,
)
from ortoscope_service.errors import OrtoscopeError, invalid

MAX_IMAGE_PIXELS = 64_000_000
"""Most pixels (width times height) of a picture that is decoded: 192 MB as RGB."""

MAX_IMAGE_BYTES = 64 * 1024**2
"""Most bytes of an encoded picture."""

# EXIF orientation → what brings the stored pixels upright (CIPA DC-008, 4.6.4 A).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, *, orient: bool = True, field: str = "") -> Image.Image:
    """Decodes a JPEG, PNG or WebP picture to RGB, 8 bits per channel.

    Gray and palette pictures become RGB; what is transparent is laid over white. Colour profiles and gamma are not
    applied: the numbers are those of the file, as in every ImageNet pipeline.

    Args:
        data: The encoded picture.
        orient: Whether to turn it upright by its EXIF orientation. Off for pictures whose labels are aligned with
            the stored pixels.
        field: The request field that the picture came in, for the error.

    Returns:
        An image of mode "RGB", detached from `data`.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, before any pixel is decoded: IMAGE_TOO_LARGE (more than MAX_IMAGE_BYTES or
            MAX_IMAGE_PIXELS), IMAGE_FORMAT (a picture, but not JPEG, PNG or WebP), IMAGE_MODE (CMYK, or more than 8
            bits per channel), IMAGE_ANIMATED (more than one frame). IMAGE_UNREADABLE: empty, truncated or damaged, or
            not a picture at all.
    """
    header = _admitted_header(data, field)
    try:
        image = _decode(data)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _contradiction(header, field) from error
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(
            f"The {header.format} picture is truncated or damaged. Send the whole file.", field
        ) from error
    if image.size != (header.width, header.height):
        raise _contradiction(header, field)
    rgb = _to_rgb(image)
    if orient and header.orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[header.orientation])
    return rgb


def _admitted_header(data: bytes, field: str) -> ImageHeader:
    """The header of a picture that may be decoded; raises the errors of `decode_image` that need no pixel."""
    if not data:
        raise _unreadable("The picture is empty (0 bytes). Send the bytes of a JPEG, PNG or WebP file.", field)
    if len(data) > MAX_IMAGE_BYTES:
        raise invalid(
            "IMAGE_TOO_LARGE",
            f"The picture has {len(data):,} bytes; at most {MAX_IMAGE_BYTES:,} are read. Make it smaller.",
            field=field,
            bytes=len(data),
            max_bytes=MAX_IMAGE_BYTES,
        )
    try:
        header = read_header(data)
    except BadHeaderError as error:
        raise _unreadable(f"The picture is truncated or damaged: {error}. Send the whole file.", field) from error
    if header is None:
        name = other_format(data)
        if name:
            raise invalid(
                "IMAGE_FORMAT",
                f"The picture is in the format {name}; JPEG, PNG and WebP are accepted. Convert it.",
                field=field,
                format=name,
            )
        raise _unreadable(
            "The bytes are no picture that could be recognised. Send the bytes of a JPEG, PNG or WebP file.", field
        )
    if header.width == 0 or header.height == 0:
        raise _unreadable(f"The {header.format} picture has no pixels ({_size(header)}).", field)
    if header.width * header.height > MAX_IMAGE_PIXELS:
        raise invalid(
            "IMAGE_TOO_LARGE",
            f"The picture has {_size(header)} pixels; at most {MAX_IMAGE_PIXELS:,} are decoded. Make it smaller.",
            field=field,
            width=header.width,
            height=header.height,
            max_pixels=MAX_IMAGE_PIXELS,
        )
    if header.bits > 8 or header.channels == "cmyk":
        what = "CMYK colours" if header.channels == "cmyk" else f"{header.bits} bits per channel"
        raise invalid(
            "IMAGE_MODE",
            f"The {header.format} picture has {what}; 8 bits of gray, palette or RGB are accepted. Convert it.",
            field=field,
            format=header.format,
            bits=header.bits,
            channels=header.channels,
        )
    if header.animated:
        raise _animated(header, field)
    return header


def _decode(data: bytes) -> Image.Image:
    """The decoded picture as Pillow holds it; raises what Pillow raises."""
    image = Image.open(io.BytesIO(without_metadata(data)), formats=("JPEG", "PNG", "WEBP"))
    if getattr(image, "n_frames", 1) != 1:
        raise ValueError("more frames than the header announces")
    image.load()
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _size(header: ImageHeader) -> str:
    return f"{header.width:,} × {header.height:,}"  # noqa: RUF001 - the multiplication sign is meant


def _unreadable(message: str, field: str) -> OrtoscopeError:
    return invalid("IMAGE_UNREADABLE", message, field=field)


def _contradiction(header: ImageHeader, field: str) -> OrtoscopeError:
    return _unreadable(f"The {header.format} picture contradicts itself about its size. Save it anew.", field)


def _animated(header: ImageHeader, field: str) -> OrtoscopeError:
    return invalid(
        "IMAGE_ANIMATED",
        f"The {header.format} picture is animated; a single picture is needed. Extract the frame that you mean.",
        field=field,
        format=header.format,
    )
