"""Codes of a generator network: pictures that a learned prior allows.

DGN-AM (Nguyen et al. 2016, arXiv 1605.09304) climbs the code of a generator within bounds. PPGN (Nguyen et al. 2017,
arXiv 1612.00005) adds a prior on codes: after each step a code goes a part of the way to what a denoiser makes of it,
as D(code) - code lies along the gradient of the logarithm of the density of codes. Its third term, noise of 1e-17, is
left out.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations.base import Bounds, Parameterization, Parameters, normal
from ortoscope_service.errors import OrtoscopeError, invalid
from ortoscope_service.graph.loading import serialize
from ortoscope_service.runtime.parity import open_session
from ortoscope_service.runtime.sessions import RunnableSession, SessionConfig


def _open(graph: bytes) -> RunnableSession:
    # One item at a time through a small network: threads would cost more than they save.
    return open_session(graph, SessionConfig(intra_op_threads=1))


@dataclass(frozen=True)
class Denoiser:
    """A network that says what a code would be if it were more like those that it was trained on.

    Raises:
        OrtoscopeError: `DENOISER_UNFIT`: there are not one input and one output of float32, or their batch is not free.
    """

    model: ir.Model = field(compare=False)
    """From `loading.load_model`: codes (batch, ...) in, codes of the same shape out."""

    share: float = 0.01
    """What part of the way to the denoised code is gone after each step, 0 to 1. PPGN's 1e-5 is of steps that change
    codes by their bare gradient; those of Adam are larger by orders."""

    open: Callable[[bytes], RunnableSession] = field(default=_open, compare=False)
    """Opens the network, when it is first needed; by default in this process."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise invalid(
                "INVALID_DENOISER",
                f"share is {self.share:g}; give a part of the way, 0 to 1.",
                field="parameterization.denoiser.share",
                share=self.share,
            )
        graph = self.model.graph
        for kind, values in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            if len(values) != 1 or values[0].dtype != ir.DataType.FLOAT:
                raise _no_denoiser(f"it has {len(values)} {kind}; it must have one, of type float32")
            shape = values[0].shape
            if shape is None or len(shape) < 2 or isinstance(shape[0], int):
                raise _no_denoiser(f"its tensor {values[0].name!r} of shape {shape} has no free batch")

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses codes of another shape than the network takes and gives: `DENOISER_UNFIT`."""
        for value in (*self.model.graph.inputs, *self.model.graph.outputs):
            if _extents(value) != shape:
                raise _no_denoiser(f"its tensor {value.name!r} is {_extents(value)}, but the generator's code {shape}")

    @cached_property
    def _session(self) -> RunnableSession:
        return self.open(serialize(self.model))

    def apply(self, codes: npt.NDArray[Any]) -> None:
        """Brings codes (items, ...) that part of the way, in place, each by itself: neighbours do not matter."""
        ((given,), (made,)) = self._session.inputs, self._session.outputs
        for item in range(len(codes)):
            cleaner = self._session.run({given.name: codes[item : item + 1]})[made.name]
            codes[item : item + 1] += np.float32(self.share) * (cleaner - codes[item : item + 1])


@dataclass(frozen=True, kw_only=True)
class GeneratorImage(Parameterization):
    """The input of any ONNX model that makes pictures.

    picture = clip((generator(code) - low) / (high - low), 0, 1).
    """

    generator: ir.Model = field(compare=False)
    """From `loading.load_model`: one floating-point input (batch, ...), one output with the pictures, its batch free
    and all other extents known."""

    output_range: tuple[float, float] = (-1.0, 1.0)
    """What the generator gives for black and for white."""

    layout: Literal["nchw", "nhwc"] = "nchw"
    """Where the output has its channels."""

    sd: float = 1.0
    """Standard deviation of the code at the start."""

    code_bounds: tuple[npt.NDArray[Any] | float, npt.NDArray[Any] | float] | None = field(default=None, compare=False)
    """Least and greatest code, each one number or one for every element; after each step the code is brought back
    between them. (DGN-AM: 0 and the mean of real codes plus three standard deviations.)"""

    denoiser: Denoiser | None = None
    """The prior on codes; None: the bounds alone."""

    prefix: str = "parameter."
    """How the names of the parameters begin."""

    def __post_init__(self) -> None:
        self._check_interface()
        if self.denoiser is not None:
            self.denoiser.check(_extents(self.generator.graph.inputs[0]))
        low, high = self.output_range
        if not low < high:
            raise invalid(
                "INVALID_RANGE",
                f"output_range is {low} to {high}; black must lie below white.",
                field="parameterization.output_range",
                low=low,
                high=high,
            )
        if self.code_bounds is not None and not np.all(np.less_equal(*self.code_bounds)):
            raise invalid(
                "INVALID_BOUNDS",
                "A lower bound of the code lies above its upper bound.",
                field="parameterization.code_bounds",
            )

    def _check_interface(self) -> None:
        graph = self.generator.graph
        if len(graph.inputs) != 1 or graph.inputs[0].dtype != ir.DataType.FLOAT:
            raise _unfit(
                f"it has {len(graph.inputs)} inputs; it must have one, of type float32. Fix the others as constants"
            )
        if len(graph.outputs) != 1 or graph.outputs[0].dtype != ir.DataType.FLOAT:
            raise _unfit(
                f"it has {len(graph.outputs)} outputs; it must have one, of type float32. Cut it at the pictures"
            )
        for value, axes in ((graph.inputs[0], 2), (graph.outputs[0], 4)):
            shape = value.shape
            if shape is None or len(shape) < axes or (axes == 4 and len(shape) != 4):
                raise _unfit(f"its tensor {value.name!r} of shape {shape} does not have {axes} axes")
            if isinstance(shape[0], int):
                raise _unfit(f"its tensor {value.name!r} has a fixed batch of {shape[0]}. Make the first axis free")
            if not all(isinstance(size, int) for size in shape[1:]):
                raise _unfit(
                    f"its tensor {value.name!r} has free axes besides the batch: {shape}. Export it at one size"
                )

    @cached_property
    def digest(self) -> str:
        """What identifies the generator."""
        return sha256(serialize(self.generator)).hexdigest()

    @property
    def structure(self) -> Hashable:
        """The generator, and how its output is read."""
        return "GeneratorImage", self.digest, self.output_range, self.layout, self.prefix

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        first, second, third = _extents(self.generator.graph.outputs[0])
        return (first, second, third) if self.layout == "nchw" else (third, first, second)

    @property
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """`code`."""
        return {f"{self.prefix}code": _extents(self.generator.graph.inputs[0])}

    def build(self, g: GraphWriter) -> ir.Value:
        """The generator's nodes, and the way from its range to [0, 1]."""
        (code,) = self._inputs(g).values()
        (picture,) = g.inline(self.generator, {self.generator.graph.inputs[0].name or "": code}).values()
        if self.layout == "nhwc":
            picture = g.transpose(picture, [0, 3, 1, 2])
        low, high = self.output_range
        if low:
            picture = g.subtract(picture, g.constant(float(low)))
        picture = g.multiply(picture, g.constant(1 / (high - low)))
        return g.op("Clip", [picture, g.constant(0.0), g.constant(1.0)])

    def draw(self, rng: np.random.Generator) -> Parameters:
        """A code from N(0, sd²), within its bounds."""
        found = {name: normal(rng, shape, self.sd) for name, shape in self.parameter_shapes.items()}
        super().project(found, 0)
        return found

    def project(self, parameters: Parameters, step: int) -> None:
        """Denoises codes if that is wanted, then brings them back between their bounds."""
        if self.denoiser is not None and self.denoiser.share:
            for name in self.parameter_shapes:
                self.denoiser.apply(parameters[name])
        super().project(parameters, step)

    @property
    def bounds(self) -> Mapping[str, Bounds]:
        """Those of the code."""
        if self.code_bounds is None:
            return {}
        low, high = self.code_bounds
        return {name: (np.asarray(low, np.float32), np.asarray(high, np.float32)) for name in self.parameter_shapes}


def _extents(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(size for size in value.shape[1:] if isinstance(size, int))


def _unfit(why: str) -> OrtoscopeError:
    return invalid(
        "GENERATOR_UNFIT", f"The model cannot generate pictures: {why}.", field="parameterization.generator", why=why
    )


def _no_denoiser(why: str) -> OrtoscopeError:
    return invalid(
        "DENOISER_UNFIT", f"The model cannot denoise codes: {why}.", field="parameterization.denoiser", why=why
    )
