"""Transforms: how a picture is moved and disturbed, anew at every step, before the network sees it.

A unit that a picture excites only as long as no pixel moves is excited by noise. So Lucid (Olah et al. 2017) shows the
network a picture that was padded, jittered, scaled and turned. Here every item of a batch, and every view of an item,
draws for itself; Lucid draws once for the whole batch.

Whatever moves pixels is drawn as one similarity for each view and carried out as two products with interpolation
matrices (`resampling`), rows then columns, and, where something turns, one move of pixels. The matrices are data:
another draw needs no other graph. Derivatives are exact.

Conventions. Coordinates have their origin in the picture's centre, y down. A step changes a *frame*, the rectangle
that is shown: `Pad` enlarges it, `Jitter` reduces and moves it, and so on, in the order given. What is inside of the
frame but outside of the picture is `fill`, or as `edge` says. Positive angles turn the picture counterclockwise, as in
TensorFlow and Kornia. The network's input has one size for all draws: that of the frame without any random scale, about
whose centre scales zoom.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.movements import (
    CropBoxes,
    Flip,
    Frames,
    Jitter,
    Pad,
    Random,
    Rotate,
    Scale,
    Step,
    Tiles,
    require,
)
from ortoscope_service.analysis.visualization.resampling import (
    Edge,
    Size,
    Span,
    canvas_for,
    interpolation_matrices,
    turn,
)
from ortoscope_service.analysis.visualization.windows import (
    FIRST,
    WINDOW_COLUMNS,
    WINDOW_ROWS,
    block_of,
    cut_windows,
    spans,
    window_feeds,
)

Array = NDArray[Any]

__all__ = [
    "Chain",
    "ColourJitter",
    "CropBoxes",
    "Flip",
    "Frames",
    "Jitter",
    "Noise",
    "Pad",
    "Rotate",
    "Scale",
    "Step",
    "Tiles",
    "Transforms",
]

ROWS, COLUMNS = "transform.rows", "transform.columns"
TURNS, RETURNS = "transform.turns", "transform.returns"
GAIN, SHIFT, NOISE = "transform.gain", "transform.shift", "transform.noise"
BACKDROP = "transform.backdrop"


@dataclass(frozen=True)
class Noise:
    """Adds normal and uniform noise to what the network sees: N(0, normal) + U(-uniform, uniform), on pixels 0..1.

    Both go linearly to `last` times themselves over the optimization.
    """

    normal: float = 0.0
    """Standard deviation."""

    uniform: float = 0.0
    """Half the width."""

    last: float = 1.0
    """The factor at the end."""


@dataclass(frozen=True)
class ColourJitter:
    """Changes each channel of each view: 0.5 + (x - 0.5) exp(U(-log_gain, log_gain)) + U(-shift, shift)."""

    log_gain: float = 0.0
    """Largest logarithm of the factor."""

    shift: float = 0.0
    """Largest amount added."""


@dataclass(frozen=True)
class Chain:
    """A chain of transforms, whatever the size of the picture."""

    steps: tuple[Step, ...] = ()
    """What moves pixels, in order."""

    views: int = 1
    """How many differently transformed copies of a picture the network sees at a step; the objective is their mean."""

    edge: Edge = "constant"
    """What lies beyond the picture."""

    fill: float | Literal["uniform"] = 0.5
    """The constant, for the edge "constant"; also what `Pad` pads with. "uniform" is another colour for each view, each
    channel evenly from [0, 1]. (Lucid's has one gray for the batch.)"""

    noise: Noise | None = None
    """Added at the end."""

    colours: ColourJitter | None = None
    """Applied before the noise."""

    @property
    def crops(self) -> bool:
        """Whether the frame at the end is a crop, which is zoomed to the network's input."""
        return any(isinstance(step, CropBoxes) for step in self.steps)

    def check(self, image: Size, *, field: str = "transforms") -> Size:
        """The size of the frame at the end, without random scale.

        Raises:
            OrtoscopeError: `INVALID_TRANSFORM`: a number is of no use, or nothing is left of the frame.
        """
        require(1 <= self.views <= _MOST_VIEWS, f"has {self.views} views", f"1 to {_MOST_VIEWS}", f"{field}.views")
        require(
            self.fill == "uniform" or math.isfinite(self.fill),
            f"fills with {self.fill}",
            'a finite number or "uniform"',
            f"{field}.fill",
        )
        for numbers in (self.noise, self.colours):
            for value in vars(numbers).values() if numbers is not None else ():
                require(0 <= value <= _LOUDEST, f"disturbs by {value:g}", f"0 to {_LOUDEST}", field)
        size = image
        for number, step in enumerate(self.steps):
            if isinstance(step, Tiles):
                self._check_tiles(step, size, number, field)
            size = step.check(size, field=f"{field}.steps[{number}]")
        return size

    def _check_tiles(self, step: Tiles, size: Size, number: int, field: str) -> None:
        at = f"{field}.steps[{number}]"
        require(number == 0, "cuts tiles of what was moved before", "tiles as the first step", at)
        require(self.edge == "wrap", f"moves tiles over the edge '{self.edge}'", "the edge 'wrap'", f"{field}.edge")
        step.check(size, field=at)
        count = math.prod(step.grid(size))
        require(
            self.views == count,
            f"cuts {count} tiles but has {self.views} views",
            f"{count} views, or tiles of another size",
            f"{field}.views",
        )


_MOST_VIEWS = 256
_LOUDEST = 10


@dataclass(frozen=True)
class Transforms:
    """A chain of transforms on pictures of one size.

    Raises:
        OrtoscopeError: As `Chain.check` raises.
    """

    chain: Chain
    """What is done."""

    image: Size
    """Size of the picture."""

    view: Size | None = None
    """Size of what the network sees; by default that of the frame at the end (of the picture, for crops). Any other is
    reached by a zoom, before which nothing is cut off. A turn is about the centre of the view."""

    frame: Size = field(init=False)
    """The size of the frame at the end, without random scale."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", self.chain.check(self.image))

    @property
    def size(self) -> Size:
        """Size of what the network sees."""
        return self.view or self.frame

    @property
    def items(self) -> str:
        """The name of the first axis of what the network sees."""
        return BATCH if self.chain.views == 1 else VIEWS

    @cached_property
    def canvas(self) -> Size:
        """Size of what is cut out before it is turned."""
        return canvas_for(self.size, min(180.0, sum(step.degrees for step in self.chain.steps)))

    @property
    def turns(self) -> bool:
        """Whether any view is turned."""
        return self.canvas != self.size

    @property
    def windowed(self) -> bool:
        """Whether views are made of windows: they are crops, and what lies beyond the picture is not of it."""
        return self.chain.crops and self.chain.edge == "constant"

    @property
    def structure(self) -> Hashable:
        """What decides the nodes."""
        chain = self.chain
        return (
            self.windowed,
            self.image,
            self.canvas,
            self.size,
            chain.views,
            chain.edge == "constant" and chain.fill,
            self._moves,
            chain.colours is not None,
            chain.noise is not None,
        )

    @property
    def _coloured(self) -> bool:
        return self._moves and self.chain.edge == "constant" and self.chain.fill == "uniform"

    @property
    def _moves(self) -> bool:
        return bool(self.chain.steps) or self.size != self.image

    def build(self, g: GraphWriter, image: ir.Value, channels: int) -> ir.Value:
        """What the network sees of pictures.

        Args:
            g: The graph.
            image: (batch, channels, height, width).
            channels: How many.

        Returns:
            (batch · views, channels, height, width), the views of an item one after the other.
        """
        seen, missing = self.build_but_constant(g, image, channels)
        return g.add(seen, g.constant(missing)) if missing else seen

    def build_but_constant(self, g: GraphWriter, image: ir.Value, channels: int) -> tuple[ir.Value, float]:
        """The same but for a constant that is left to add, which a network's input range can take in."""
        chain, (height, width) = self.chain, self.size
        seen = image
        constant = float(chain.fill) if self._moves and chain.edge == "constant" and chain.fill != "uniform" else 0.0
        if constant:
            seen = g.subtract(seen, g.constant(constant))
        if self._moves:
            seen = self._moved(g, seen, channels)
            if self.turns:
                turns = g.input(TURNS, [self.items, height * width], np.int32)
                flat = g.reshape(seen, [0, channels, self.canvas[0] * self.canvas[1]])
                index = g.op("Expand", [g.unsqueeze(turns, [1]), g.constant([1, channels, 1])])
                seen = g.reshape(g.op("GatherElements", [flat, index], axis=2), [0, channels, height, width])
        elif chain.views > 1:
            copies = g.op("Expand", [g.unsqueeze(seen, [1]), g.constant([1, chain.views, 1, 1, 1])])
            seen = g.reshape(copies, [-1, channels, height, width])
        if self._coloured:
            seen = g.add(seen, g.input(BACKDROP, [self.items, channels, height, width]))
        if chain.colours is not None:
            seen, constant = (g.add(seen, g.constant(constant)) if constant else seen), 0.0
            gain, shift = (g.input(name, [self.items, channels, 1, 1]) for name in (GAIN, SHIFT))
            seen = g.add(g.multiply(seen, gain), shift)
        if chain.noise is not None:
            seen = g.add(seen, g.input(NOISE, [self.items, channels, height, width]))
        return seen, constant

    def _moved(self, g: GraphWriter, image: ir.Value, channels: int) -> ir.Value:
        """Rows, then columns.

        The rows of all views are one matrix, so that the adjoint's product sums over views. The rows of all channels
        are one when columns are moved, so that each matrix of columns is read once.
        """
        if self.windowed:
            return self._moved_windows(g, image, channels)
        (height, width), views = self.image, self.chain.views
        rows, columns = self.canvas
        row_matrix = g.input(ROWS, [BATCH, views * rows, height])
        column_matrix = g.transpose(g.input(COLUMNS, [BATCH, views, columns, width]), [0, 1, 3, 2])
        part = g.matmul(g.unsqueeze(row_matrix, [1]), image)
        if views > 1:
            part = g.transpose(g.reshape(part, [0, channels, views, rows, width]), [0, 2, 1, 3, 4])
        part = g.matmul(g.reshape(part, [0, views, channels * rows, width]), column_matrix)
        return g.reshape(part, [-1, channels, rows, columns])

    def _moved_windows(self, g: GraphWriter, image: ir.Value, channels: int) -> ir.Value:
        """The same of windows: rows, then columns, of each view by itself."""
        views, (rows, columns) = self.chain.views, self.canvas
        windows = cut_windows(g, image, self.image, channels, views)
        row_matrix = g.reshape(g.input(ROWS, [BATCH, views * rows, WINDOW_ROWS]), [0, views, 1, rows, -1])
        column_matrix = g.transpose(g.input(COLUMNS, [BATCH, views, columns, WINDOW_COLUMNS]), [0, 1, 3, 2])
        part = g.reshape(g.matmul(row_matrix, windows), [0, views, channels * rows, -1])
        return g.reshape(g.matmul(part, column_matrix), [-1, channels, rows, columns])

    def feeds(self, rngs: Sequence[Random], progress: float, channels: int) -> Mapping[str, Array]:
        """Draws the transforms of one step.

        Args:
            rngs: Where the draws come from, for each item.
            progress: From 0 at the first step of an optimization to 1 at the last.
            channels: Of the picture.
        """
        chain = self.chain
        feeds: dict[str, Array] = {}
        if self._moves:
            feeds.update(self._movement(self.draw(rngs, progress), channels))
        shape: tuple[int, ...] = (chain.views, channels, 1, 1)
        if self._coloured:
            colours = np.concatenate([rng.random(shape, dtype=np.float32) for rng in rngs])
            feeds[BACKDROP] = colours * (1 - self._coverage(feeds))[:, None]
        if chain.colours is not None:
            gains = [np.exp(rng.uniform(-chain.colours.log_gain, chain.colours.log_gain, shape)) for rng in rngs]
            shifts = [rng.uniform(-chain.colours.shift, chain.colours.shift, shape) for rng in rngs]
            gain = np.concatenate(gains)
            feeds[GAIN] = gain.astype(np.float32)
            feeds[SHIFT] = (0.5 - 0.5 * gain + np.concatenate(shifts)).astype(np.float32)
        if chain.noise is not None:
            loudness = 1 + (chain.noise.last - 1) * progress
            shape = (chain.views, channels, *self.size)
            feeds[NOISE] = np.concatenate([_noise(rng, shape, chain.noise, loudness) for rng in rngs])
        return feeds

    def draw(self, rngs: Sequence[Random], progress: float) -> Frames:
        """The frames of all views of the items, one item after the other; pixels are those of what the network sees."""
        views = self.chain.views
        frames = Frames.whole(self.image, views * len(rngs))
        for step in self.chain.steps:
            drawn = np.concatenate([step.sample(rng, views, progress) for rng in rngs])
            frames = step.apply(frames, drawn)
        size = np.array(self.size, np.float64)
        if self.chain.crops:
            return replace(frames, scale=frames.scale * frames.size / size)
        zoom = np.array(self.frame, np.float64) / size
        if np.all(zoom == 1):
            # The centre, on whole pixels: corner to corner.
            spare = frames.size - size
            frames = frames.moved(np.floor(spare / 2) - spare / 2)
        return replace(frames, scale=frames.scale * zoom)

    def _movement(self, frames: Frames, channels: int) -> Mapping[str, Array]:
        shift, scale = frames.shift, frames.scale
        matrices, windows = [], []
        for axis, (size, canvas) in enumerate(zip(self.image, self.canvas, strict=True)):
            step = scale[:, axis] * np.where(frames.flipped, -1.0, 1.0) if axis else scale[:, axis]
            offsets = np.arange(canvas) - (canvas - 1) / 2
            positions = shift[:, axis, None] + step[:, None] * offsets + (size - 1) / 2
            reach = np.maximum(scale[:, axis], 1.0) if self.chain.crops else np.ones(len(shift))
            whole = Span(np.zeros(len(shift), np.int64), size)
            window = spans(positions, reach, size, aligned_to=block_of(size) if axis else 1) if self.windowed else whole
            matrices.append(
                interpolation_matrices(positions, size, edge=self.chain.edge, pad=self._padding, reach=reach, of=window)
            )
            windows.append(window)
        views = self.chain.views
        count = len(shift) // views
        rows, columns = self.canvas
        feeds: dict[str, Array] = {
            ROWS: matrices[0].reshape(count, views * rows, windows[0].extent),
            COLUMNS: matrices[1].reshape(count, views, columns, windows[1].extent),
        }
        if self.windowed:
            feeds.update(window_feeds(windows[0], windows[1], self.image, channels, views))
        if self.turns:
            turns = [turn(self.size, self.canvas, float(angle)) for angle in frames.degrees]
            feeds[TURNS] = np.stack([one.taken for one in turns])
            feeds[RETURNS] = np.stack([one.returned for one in turns])
        return feeds

    def _coverage(self, feeds: Mapping[str, Array]) -> NDArray[np.float32]:
        """(views of all items, height, width): how much of each pixel that the network sees is of the picture."""
        count = len(feeds[ROWS]) * self.chain.views
        down = feeds[ROWS].sum(axis=-1).reshape(count, self.canvas[0], 1)
        across = feeds[COLUMNS].sum(axis=-1).reshape(count, 1, self.canvas[1])
        covered: NDArray[np.float32] = down * across
        if self.turns:
            covered = np.take_along_axis(covered.reshape(count, -1), feeds[TURNS], axis=1)
        return covered.reshape(count, *self.size)

    @property
    def _padding(self) -> int:
        return sum(step.pixels for step in self.chain.steps if isinstance(step, Pad))


VIEWS = "views"
"""The name of the first axis of what there is one of for each view of each item."""

PER_VIEW = frozenset({ROWS, COLUMNS, FIRST, TURNS, RETURNS, GAIN, SHIFT, NOISE, BACKDROP})
"""The inputs of which there is one thing for each view of each item, in whatever axes."""


def each_view_alone(name: str, array: Array, views: int) -> Array:
    """A feed of transforms as if every view were an item of one view."""
    if name == ROWS:
        return array.reshape(len(array) * views, -1, array.shape[2])
    return array.reshape(len(array) * views, 1, *array.shape[2:]) if name in {COLUMNS, FIRST} else array


def _noise(rng: Random, shape: tuple[int, ...], noise: Noise, loudness: float) -> NDArray[np.float32]:
    drawn = np.zeros(shape, np.float32)
    if noise.normal:
        drawn += rng.standard_normal(shape, dtype=np.float32) * np.float32(noise.normal * loudness)
    if noise.uniform:
        drawn += (rng.random(shape, dtype=np.float32) * 2 - 1) * np.float32(noise.uniform * loudness)
    return drawn
