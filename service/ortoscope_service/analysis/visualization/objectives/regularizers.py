"""Objectives of the picture itself, most of them for a negative weight. They read taps, too, where that makes sense.

The picture is the one that the parameterization gives, before transforms. Each item is summed up on its own; Lucid sums
over the batch.
"""

import enum
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.gradients import site_shape
from ortoscope_service.analysis.visualization.objectives.algebra import check_finite
from ortoscope_service.analysis.visualization.objectives.arrays import Numbers
from ortoscope_service.analysis.visualization.objectives.reading import Reading, check_numbers, source_key
from ortoscope_service.analysis.visualization.objectives.setting import Array, Canvas, Picture, Setting
from ortoscope_service.errors import invalid
from ortoscope_service.graph.taps import Tap

_END = int(np.iinfo(np.int64).max)
_FIXED_POINT = 2.0**24
_BOUNDARY_BLUR = 5
_BOUNDARY_COLOUR_WEIGHT = 0.8


@dataclass(frozen=True)
class L1(Reading):
    """Σ |x - c| over all elements."""

    kind = "l1"

    constant: float = 0.0
    """c: 0.5 is grey."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses a constant that is not finite."""
        check_finite(self.constant, f"{at}.constant")

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Adds up."""
        value, _ = canvas.read(self.of, name)
        centred = canvas.g.subtract(canvas.flat(value), canvas.feed(f"{name}.{self.kind}.constant", 1))
        return canvas.total(canvas.g.op("Abs", [centred]))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The constant."""
        return {f"{name}.{self.kind}.constant": setting.repeated([float(self.constant)])}


@dataclass(frozen=True)
class L2(Reading):
    """√(ε + Σ (x - c)²) over all elements."""

    kind = "l2"

    constant: float = 0.0
    """c: 0.5 is grey."""

    epsilon: float = 1e-6
    """ε: keeps the gradient finite at x = c."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses constants that are not finite, and an ε that is not positive: `INVALID_CONSTANT`."""
        check_finite(self.constant, f"{at}.constant")
        check_finite(self.epsilon, f"{at}.epsilon")
        if not np.float32(self.epsilon) > 0:
            raise invalid(
                "INVALID_CONSTANT",
                f"The epsilon {self.epsilon} is not positive, so the gradient of the root could be infinite; give one "
                "such as 1e-6.",
                field=f"{at}.epsilon",
                epsilon=self.epsilon,
            )

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The root of the sum."""
        g, at = canvas.g, f"{name}.{self.kind}"
        value, _ = canvas.read(self.of, name)
        centred = g.subtract(canvas.flat(value), canvas.feed(f"{at}.constant", 1))
        return g.op("Sqrt", [g.add(canvas.feed(f"{at}.epsilon"), canvas.total(g.multiply(centred, centred)))])

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The constants."""
        at = f"{name}.{self.kind}"
        return {
            f"{at}.constant": setting.repeated([float(self.constant)]),
            f"{at}.epsilon": setting.repeated(float(self.epsilon)),
        }


@dataclass(frozen=True)
class TotalVariation(Reading):
    """Σ |x[s] - x[s']| over neighbours s, s' along each site axis, and over units (`tf.image.total_variation`)."""

    kind = "total_variation"

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses what has no neighbours: `NO_SITES`."""
        if all(size == 1 for size in site_shape(shape, tap)):
            raise invalid(
                "NO_SITES",
                f"'{tap.display_name}' has no neighbouring sites that could differ; its sites are "
                f"{list(site_shape(shape, tap))}. Choose another tap.",
                field=f"{at}.{source_key(self.of)}",
                tap=tap.display_name,
                sites=list(site_shape(shape, tap)),
            )

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Adds up what neighbours differ by."""
        g = canvas.g
        value, tap = canvas.read(self.of, name)
        _, shape = self.shape(canvas.setting, name)
        sums = []
        for axis in tap.site_axes:
            if shape[axis - 1] > 1:
                difference = g.subtract(g.slice(value, axis, 1, _END), g.slice(value, axis, 0, -1))
                sums.append(canvas.total(g.op("Abs", [difference])))
        return g.add(*sums)

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:  # noqa: ARG002
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Blur(Reading):
    """½ Σ (x - b)², b = the picture blurred by a 3 by 3 kernel, taken as a constant: Lucid's `blur_input_each_step`.

    Its gradient is x - b, so that a step of gradient descent with rate k is x ← (1 - k) x + k b (Nguyen et al. 2015).
    The kernel is 1 in the middle and ½ around it, and normalised to 1, at the border over what lies within.

    ONNX has no operator that stops a gradient; rounding to multiples of 2⁻²⁴, the resolution of float32 just below 1,
    does.
    """

    kind = "blur"

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses what is no picture: `NOT_A_PICTURE`."""
        _require_picture(self, tap, shape, at)

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Half the square of the distance."""
        g = canvas.g
        value, _ = canvas.read(self.of, name)
        blurred = _blurred(canvas, value, self.shape(canvas.setting, name)[1], 3)
        scale = canvas.constant(_FIXED_POINT)
        still = g.divide(g.op("Round", [g.multiply(blurred, scale)]), scale)
        difference = g.subtract(value, still)
        return g.multiply(canvas.total(g.multiply(difference, difference)), canvas.constant(0.5))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:  # noqa: ARG002
        """Nothing."""
        return {}


@dataclass(frozen=True)
class BoundaryComplexity(Reading):
    """Σ (b - x)² + 0.8 (x - c)² over a frame, b = the picture blurred by a 5 by 5 kernel: busy, colourful borders.

    Minus Lucid's `penalize_boundary_complexity`: as for the other regularisers here, give it a negative weight. The
    kernel is 1 within and ½ at its own border, and normalised like that of `Blur`; here its gradient counts.
    """

    kind = "boundary_complexity"

    width: int = 20
    """How wide the frame is, in pixels."""

    constant: float = 0.5
    """c: 0.5 is grey."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses what is no picture, and a frame that is not there: `NOT_A_PICTURE`, `INVALID_CONSTANT`."""
        _require_picture(self, tap, shape, at)
        check_finite(self.constant, f"{at}.constant")
        if self.width < 1:
            raise invalid(
                "INVALID_CONSTANT",
                f"A frame {self.width} pixels wide has no pixel; give 1 or more.",
                field=f"{at}.width",
                width=self.width,
            )

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Adds up over the frame."""
        g, at = canvas.g, f"{name}.{self.kind}"
        value, _ = canvas.read(self.of, name)
        _, shape = self.shape(canvas.setting, name)
        rough = g.subtract(_blurred(canvas, value, shape, _BOUNDARY_BLUR), value)
        far = g.subtract(value, canvas.feed(f"{at}.constant", 1, 1, 1))
        colour = g.multiply(g.multiply(far, far), canvas.constant(_BOUNDARY_COLOUR_WEIGHT))
        frame = canvas.feed(f"{at}.frame", 1, *shape[1:])
        return canvas.total(g.multiply(g.add(g.multiply(rough, rough), colour), frame))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The frame and the constant."""
        at = f"{name}.{self.kind}"
        _, shape = self.shape(setting, name)
        frame = np.ones((1, *shape[1:]), np.float32)
        frame[:, self.width : -self.width, self.width : -self.width] = 0
        constant = setting.repeated(np.full((1, 1, 1), float(self.constant)))
        return {f"{at}.frame": setting.repeated(frame), f"{at}.constant": constant}


class Norm(enum.Enum):
    """How large a difference d is."""

    MEAN_L1 = "mean_l1"
    """mean |d|: what Lucid's style transfer compares activations by."""

    RMS = "rms"
    """√ mean d²: Lucid's `input_diff`."""

    L2 = "l2"
    """√ Σ d²."""

    MAX = "max"
    """max |d|, L∞; elements that tie share the gradient."""


@dataclass(frozen=True)
class Difference(Reading):
    """How far the picture is from a start image, or an activation from that on another image.

    With a negative weight it keeps them close; the gradient where they are equal is 0.
    """

    kind = "difference"

    reference: Numbers
    """The other image or activation, in the tap's own layout without the batch."""

    norm: Norm = Norm.RMS
    """How the difference is measured."""

    @property
    def structure(self) -> Hashable:
        """What is read, and the norm."""
        return (self.kind, self.of, self.norm.value)

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses a reference that does not fit."""
        check_numbers(self.reference, shape, tap, f"{at}.reference")

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The norm of the difference."""
        g, size = canvas.g, self.reference.array.size
        value, _ = canvas.read(self.of, name)
        difference = g.subtract(canvas.flat(value), canvas.feed(f"{name}.{self.kind}.reference", size))
        if self.norm is Norm.MEAN_L1:
            return canvas.mean(g.op("Abs", [difference]))
        if self.norm is Norm.MAX:
            return g.op("ReduceMax", [g.op("Abs", [difference]), g.constant([1])], keepdims=0)
        length = canvas.norm(difference, 1)
        return length if self.norm is Norm.L2 else g.multiply(length, canvas.constant(1 / math.sqrt(size)))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The reference."""
        return {f"{name}.{self.kind}.reference": setting.repeated(self.reference.array.reshape(-1))}


def blur_kernel(width: int) -> Array:
    """Lucid's kernel, (width, width): ½ at its border, 1 within; not normalised."""
    kernel = np.full((width, width), 0.5)
    kernel[1:-1, 1:-1] = 1
    return kernel


def _blurred(canvas: Canvas, value: ir.Value, shape: Sequence[int], width: int) -> ir.Value:
    """The blurred picture: a weighted mean over what of the kernel lies within it."""
    channels, rows, columns = shape
    kernel, half = blur_kernel(width), width // 2
    inside = np.pad(np.ones((rows, columns)), half)
    windows = np.lib.stride_tricks.sliding_window_view(inside, (width, width))
    weights = np.einsum("rcij,ij->rc", windows, kernel)
    each = np.broadcast_to(kernel, (channels, 1, width, width))
    sums = canvas.g.op("Conv", [value, canvas.constant(each)], group=channels, pads=[half] * 4)
    return canvas.g.multiply(sums, canvas.constant(1 / weights))


def _require_picture(objective: Reading, tap: Tap, shape: Sequence[int], at: str) -> None:
    if not isinstance(objective.of, Picture) or len(shape) != 3:
        raise invalid(
            "NOT_A_PICTURE",
            f"'{objective.kind}' is defined for pictures of rows and columns, but '{tap.display_name}' is none; read "
            "the picture, or choose another objective.",
            field=f"{at}.{source_key(objective.of)}",
            kind=objective.kind,
            tap=tap.display_name,
        )
