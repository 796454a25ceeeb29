"""Pictures for tests: good ones, and every kind that must be refused."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth RGB picture, different in every corner."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    """A picture as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds a few bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header), png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    )


def frames() -> dict[str, object]:
    """Options that make `encode` write an animation."""
    return {"save_all": True, "append_images": [photo(seed=1), photo(seed=2)], "duration": 100}


def refused_pictures() -> dict[str, tuple[bytes, str]]:
    """Pictures that must be refused and the reason, by what is wrong with them."""
    gray16 = Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60))
    float32 = Image.fromarray(np.zeros((4, 4), np.float32))
    jpeg, png, webp = (encode(photo(), file_format) for file_format in ("JPEG", "PNG", "WEBP"))
    rgb16 = png_of_size(4, 4).replace(struct.pack(">IIBB", 4, 4, 8, 2), struct.pack(">IIBB", 4, 4, 16, 2))
    return {
        "empty": (b"", "IMAGE_UNREADABLE"),
        "text": (b"not a picture at all", "IMAGE_UNREADABLE"),
        "zeros": (bytes(1000), "IMAGE_UNREADABLE"),
        "signature of a JPEG": (jpeg[:3], "IMAGE_UNREADABLE"),
        "signature of a PNG": (png[:8], "IMAGE_UNREADABLE"),
        "signature of a WebP": (webp[:12], "IMAGE_UNREADABLE"),
        "header of a JPEG": (jpeg[:200], "IMAGE_UNREADABLE"),
        "header of a PNG": (png[:33], "IMAGE_UNREADABLE"),
        "header of a WebP": (webp[:30], "IMAGE_UNREADABLE"),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], "IMAGE_UNREADABLE"),
        "truncated PNG": (png[: len(png) // 2], "IMAGE_UNREADABLE"),
        "truncated WebP": (webp[: len(webp) // 2], "IMAGE_UNREADABLE"),
        "PNG without pixels": (png_of_size(0, 5), "IMAGE_UNREADABLE"),
        "20,000 x 20,000 PNG": (png_of_size(20_000, 20_000), "IMAGE_TOO_LARGE"),
        "PNG of the largest size there is": (png_of_size(2**31 - 1, 2**31 - 1), "IMAGE_TOO_LARGE"),
        "GIF": (encode(photo(), "GIF"), "IMAGE_FORMAT"),
        "animated GIF": (encode(photo(), "GIF", **frames()), "IMAGE_FORMAT"),
        "BMP": (encode(photo(), "BMP"), "IMAGE_FORMAT"),
        "TIFF": (encode(photo(), "TIFF"), "IMAGE_FORMAT"),
        "float TIFF": (encode(float32, "TIFF"), "IMAGE_FORMAT"),
        "AVIF": (encode(photo(), "AVIF"), "IMAGE_FORMAT"),
        "CMYK JPEG": (encode(photo().convert("CMYK"), "JPEG"), "IMAGE_MODE"),
        "16-bit gray PNG": (encode(gray16, "PNG"), "IMAGE_MODE"),
        "16-bit RGB PNG": (rgb16, "IMAGE_MODE"),
        "animated PNG": (encode(photo(), "PNG", **frames()), "IMAGE_ANIMATED"),
        "animated WebP": (encode(photo(), "WEBP", **frames()), "IMAGE_ANIMATED"),
    }
