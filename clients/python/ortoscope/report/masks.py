"""Masks in a form that a page can carry by the thousand: run lengths take a tenth of the bits."""

import base64

import numpy as np
import numpy.typing as npt


def encode_runs(bits: npt.NDArray[np.uint8], pixels: int) -> str:
    """A packed mask as base64 of its run lengths.

    The pixels are read in row-major order; runs of pixels outside and inside take turns, beginning with outside (whose
    first run may be 0 long). Each length is a little-endian base-128 number: seven bits to a byte, the highest bit set
    in all but the last. The last run is left out: it reaches to the end.

    Args:
        bits: (bytes,) uint8, eight pixels to a byte, highest bit first.
        pixels: Number of pixels.

    Returns:
        Text; empty for a mask without any pixel inside.
    """
    mask = np.unpackbits(bits, count=pixels)
    ends = np.flatnonzero(np.diff(mask, prepend=0))
    lengths = np.diff(ends, prepend=0)
    encoded = bytearray()
    for length in lengths.tolist():
        rest = length
        while rest >= 0x80:
            encoded.append(rest & 0x7F | 0x80)
            rest >>= 7
        encoded.append(rest)
    return base64.b64encode(encoded).decode()
