"""Colours: the natural correlation of channels, and the way between the whole real line and [0, 1].

An optimizer moves red, green and blue independently, but in photographs they rise and fall together. So what is
optimised are decorrelated colours t, and the picture is sigmoid(M t), with M a square root of the channels' covariance.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations.base import Array
from ortoscope_service.errors import invalid

Matrix = tuple[tuple[float, ...], ...]

_IMAGENET_ROOT = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
"""Square root of the covariance of ImageNet's colours, from its singular value decomposition (Lucid, color.py)."""

_CLEARANCE = 1 / 512
"""How far from 0 and 1 pictures are kept before the logit, which is infinite there: half a step of 8 bits."""


def as_matrix(root: Array) -> Matrix:
    """A correlation matrix of parameterizations: divided by the length of its longest column, as Lucid does."""
    scaled = np.asarray(root, np.float64) / np.linalg.norm(root, axis=0).max()
    return tuple(tuple(float(number) for number in row) for row in scaled)


IMAGENET: Matrix = as_matrix(_IMAGENET_ROOT)
"""M for red, green and blue."""


def measure(pictures: Iterable[Array]) -> Matrix:
    """M for the channels of a dataset: the symmetric square root of their covariance over all pixels.

    Args:
        pictures: (channels, ...) each, with the same channels.

    Raises:
        OrtoscopeError: `NO_PICTURES`; `DEGENERATE_COLOURS`: a channel is constant or follows from others.
    """
    count, total, squares = 0, np.zeros(0), np.zeros(0)
    for picture in pictures:
        pixels = np.asarray(picture, np.float64).reshape(len(picture), -1)
        total = pixels.sum(axis=1) + (total if count else 0)
        squares = pixels @ pixels.T + (squares if count else 0)
        count += pixels.shape[1]
    if not count:
        raise invalid("NO_PICTURES", "The correlation of colours needs at least one picture.")
    mean = total / count
    values, vectors = np.linalg.eigh(squares / count - np.outer(mean, mean))
    if values.min() <= 1e-9 * max(values.max(), 1e-9):
        raise invalid(
            "DEGENERATE_COLOURS",
            "One channel of the pictures is constant or a combination of others, so that channels cannot be "
            "decorrelated. Give pictures in colour, or switch decorrelation off.",
        )
    return as_matrix((vectors * np.sqrt(values)) @ vectors.T)


def correlated(g: GraphWriter, raw: ir.Value, matrix: Matrix, height: int, width: int) -> ir.Value:
    """Appends M t at every pixel of (batch, channels, height, width)."""
    channels = len(matrix)
    pixels = g.reshape(raw, [0, channels, height * width])
    product = g.matmul(g.constant(np.array(matrix, np.float32)), pixels)
    return g.reshape(product, [0, channels, height, width])


def recorrelate(raw: Array, matrix: Matrix) -> Array:
    """M t at every pixel of (..., channels, height, width)."""
    found: Array = np.einsum("oc,...chw->...ohw", np.array(matrix), raw)
    return found


def decorrelate(colours: Array, matrix: Matrix) -> Array:
    """Undoes `recorrelate`."""
    return recorrelate(colours, as_rows(np.linalg.inv(np.array(matrix))))


def as_rows(matrix: Array) -> Matrix:
    """An array as nested tuples."""
    return tuple(tuple(float(number) for number in row) for row in matrix)


def logit(pictures: Array) -> npt.NDArray[np.float64]:
    """Undoes the sigmoid, of numbers in [0, 1] that are first moved 1/512 away from its ends."""
    inside = np.clip(np.asarray(pictures, np.float64), _CLEARANCE, 1 - _CLEARANCE)
    found: npt.NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return found
