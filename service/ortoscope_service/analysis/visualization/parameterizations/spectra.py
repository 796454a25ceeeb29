"""Spectra of pictures: frequencies, and the inverse discrete Fourier transform as nodes.

ONNX has a DFT operator, but ONNX Runtime's takes 20 times as long as plain products with the matrices of the transform
at 160 pixels (162 against 7.6 ms for 8 pictures in colour, 2 cores), and 4 times at 512. Two stages save half of the
products' time again, forward and backward.
"""

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter

WIDE = 1024
"""From which width on rows are transformed in two stages, too. They have to be turned into columns for that, which
costs as much as it saves at 768 pixels, and half of that at 1280."""

Floats = npt.NDArray[np.float64]


def frequencies(height: int, width: int) -> Floats:
    """Cycles per pixel at each coefficient of a real transform, (height, width // 2 + 1)."""
    found: Floats = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    return found


def scale(height: int, width: int, decay_power: float) -> Floats:
    """sqrt(w h) / max(f, 1 / max(w, h))^decay: the amplitudes of a picture with a natural spectrum (Lucid)."""
    found: Floats = math.sqrt(width * height) / np.maximum(frequencies(height, width), 1 / max(width, height)) ** (
        decay_power
    )
    return found


def inverse_transform(g: GraphWriter, spectrum: ir.Value, planes: int, height: int, width: int) -> ir.Value:
    """Appends the inverse real transform: numpy.fft.irfft2 with s = (height, width).

    x[n, m] = 1/(h w) sum_u a_u Re(e^(2 pi i u m / w) sum_k e^(2 pi i k n / h) X[k, u]), with a_u = 2 for the columns
    that a real transform leaves out the mirror image of, else 1: first a transform of every column, then one of every
    row. Columns, and the rows of wide pictures, are transformed in two stages where that saves work (`_staged`).

    Args:
        g: The graph.
        spectrum: (batch, planes, 2, height, width // 2 + 1): real, then imaginary parts.
        planes: Channels.
        height: Of the picture, any number.
        width: Of the picture, any number.

    Returns:
        (batch, planes, height, width).
    """
    columns = width // 2 + 1
    p, q = factors(height)
    s, t = factors(width)
    if width < WIDE or s == 1:
        turned = _staged(g, spectrum, planes, height, (p, q), columns)
        rows = g.constant(_row_matrix(width))
        pixels = g.matmul(g.reshape(turned, [0, planes, p, q, 2 * columns]), rows)
        ordered = g.transpose(pixels, [0, 1, 3, 2, 4]) if p > 1 else pixels
        return g.reshape(ordered, [0, planes, height, width])
    weighted = g.multiply(spectrum, g.constant(_weights(width).astype(np.float32)))
    turned = _staged(g, weighted, planes, height, (p, q), columns)
    across = g.transpose(g.reshape(turned, [0, planes, height, 2 * columns]), [0, 1, 3, 2])
    across = g.reshape(across, [0, planes, 2, columns, height])
    missing = -columns % t
    if missing:
        across = g.op("Pad", [across, g.constant([0, 0, 0, 0, 0, 0, 0, 0, missing, 0])])
    pixels = _staged(g, across, planes, columns + missing, (s, t), height, real=True)
    ordered = g.transpose(g.reshape(pixels, [0, planes, s, t, p, q]), [0, 1, 5, 4, 3, 2])
    return g.reshape(ordered, [0, planes, height, width])


def _staged(
    g: GraphWriter,
    value: ir.Value,
    planes: int,
    inputs: int,
    stages: tuple[int, int],
    columns: int,
    *,
    real: bool = False,
) -> ir.Value:
    """Appends y[n] = 1/(p q) sum_k e^(2 pi i k n / (p q)) x[k] for every column (Cooley and Tukey 1965).

    With k = q k1 + k2 and n = n1 + p n2 it is sum_k2 e^(2 pi i (k2 n1 / (p q) + k2 n2 / q)) z, z = sum_k1
    e^(2 pi i k1 n1 / p) x: one product with a small matrix, and one with a small matrix for every n1. Real and
    imaginary parts lie side by side in the matrices, in such an order that each product reads the one before without a
    copy.

    Args:
        g: The graph.
        value: (batch, planes, 2, inputs, columns).
        planes: Channels.
        inputs: Coefficients that there are, a multiple of q; those after them are zero.
        stages: p and q.
        columns: How many transforms there are.
        real: Whether the real part of y is wanted alone.

    Returns:
        (batch, planes, p, q parts, columns): ordered by n1, n2, part, column.
    """
    p, q = stages
    if p > 1:
        first = g.constant(_complex(_phases(p, inputs // q, p)))
        value = g.matmul(first, g.reshape(value, [0, planes, 2 * (inputs // q), q * columns]))
    twiddles = _phases(p, q, p * q)[:, None, :] * _phases(q, q, q) / (p * q)
    second = np.stack([_complex(matrix)[:: 2 if real else 1] for matrix in twiddles])
    return g.matmul(g.constant(second), g.reshape(value, [0, planes, p, 2 * q, columns]))


def factors(size: int) -> tuple[int, int]:
    """The factors p and q of a size with the least sum; p is 1 where two stages would not save work."""
    p = next(number for number in range(math.isqrt(size), 0, -1) if size % number == 0)
    return (p, size // p) if p > 1 and 2 * (p + size // p) < size else (1, size)


def _phases(outputs: int, inputs: int, period: int) -> npt.NDArray[np.complex128]:
    """e^(2 pi i k n / period), (outputs n, inputs k)."""
    # The remainder is exact, the sine of a large angle is not.
    found: npt.NDArray[np.complex128] = np.exp(
        2j * np.pi * (np.outer(np.arange(outputs), np.arange(inputs)) % period) / period
    )
    return found


def _complex(matrix: npt.NDArray[np.complex128]) -> npt.NDArray[np.float32]:
    """A complex matrix as a real one: from columns (part, k) to rows (n, part)."""
    outputs, inputs = matrix.shape
    parts = np.empty((outputs, 2, 2, inputs), np.float32)
    parts[:, 0, 0], parts[:, 0, 1] = matrix.real, -matrix.imag
    parts[:, 1, 0], parts[:, 1, 1] = matrix.imag, matrix.real
    return parts.reshape(2 * outputs, 2 * inputs)


def _weights(width: int) -> Floats:
    """How often each column of a spectrum counts: twice where its mirror image is left out."""
    weights = np.full(width // 2 + 1, 2.0)
    weights[0] = 1
    if width % 2 == 0:
        weights[-1] = 1
    return weights


def _row_matrix(width: int) -> npt.NDArray[np.float32]:
    """From (part, u) to the pixels of a row."""
    phases = _phases(width // 2 + 1, width, width)
    weights = _weights(width)[:, None] / width
    matrix: npt.NDArray[np.float32] = np.concatenate([weights * phases.real, -weights * phases.imag]).astype(np.float32)
    return matrix
