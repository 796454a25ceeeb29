"""The steps that move pixels: each makes other frames of the frames before it (conventions: `transforms`)."""

import abc
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.visualization.resampling import Float, Size
from ortoscope_service.errors import invalid

Random = np.random.Generator

_LARGEST = 4096


def require(condition: bool, what: str, remedy: str, field: str) -> None:
    """Refuses a number of no use; raises `INVALID_TRANSFORM`."""
    if not condition:
        raise invalid(
            "INVALID_TRANSFORM", f"The transform {what}; give {remedy}.", field=field, what=what, remedy=remedy
        )


@dataclass(frozen=True)
class Frames:
    """What each view of an item shows: the picture's point at p in a frame is shift + scale · flip · R(angle) p.

    Flip negates the horizontal coordinate where `flipped`; R turns by the angle; scale is in picture pixels per frame
    pixel.
    """

    size: Float
    """(views, 2): height and width of the frame in pixels; need not be whole."""

    shift: Float
    """(views, 2): y and x."""

    scale: Float
    """(views, 2): along y and x."""

    flipped: NDArray[np.bool_]
    """(views,)."""

    degrees: Float
    """(views,)."""

    @classmethod
    def whole(cls, image: Size, count: int) -> "Frames":
        """So many frames that show all of the picture as it is."""
        size = np.tile(np.array(image, np.float64), (count, 1))
        return cls(size, np.zeros((count, 2)), np.ones((count, 2)), np.zeros(count, np.bool_), np.zeros(count))

    def moved(self, by: Float) -> "Frames":
        """The frames moved by (views, 2) of their own pixels, y and x."""
        if not (self.degrees.any() or self.flipped.any()):
            return replace(self, shift=self.shift + self.scale * by)
        radians = np.deg2rad(self.degrees)
        sine, cosine = np.sin(radians), np.cos(radians)
        y, x = by[:, 0], by[:, 1]
        turned = np.stack([sine * x + cosine * y, cosine * x - sine * y], axis=1)
        turned[:, 1] *= np.where(self.flipped, -1.0, 1.0)
        return replace(self, shift=self.shift + self.scale * turned)


class Step(abc.ABC):
    """One step of a chain."""

    @property
    def degrees(self) -> float:
        """The largest angle, to either side, by which it turns."""
        return 0.0

    @abc.abstractmethod
    def check(self, size: Size, *, field: str) -> Size:
        """The size of the frame after this step, without random scale, from that before it.

        Raises:
            OrtoscopeError: `INVALID_TRANSFORM`: a number is of no use, or nothing is left of the frame.
        """

    def sample(self, rng: Random, views: int, progress: float) -> Float:  # noqa: ARG002 - for those that are random
        """What is random about this step for the views of an item, (views, numbers); none here.

        Args:
            rng: Where an item's draws come from.
            views: How many.
            progress: From 0 at the first step of an optimization to 1 at the last.
        """
        return np.empty((views, 0))

    @abc.abstractmethod
    def apply(self, frames: Frames, drawn: Float) -> Frames:
        """The frames after this step.

        Args:
            frames: Those before it, of any number of items.
            drawn: From `sample`, a row for each.
        """

    def draw(self, frames: Frames, rng: Random, progress: float) -> Frames:
        """The frames of one item after this step, drawn at once."""
        return self.apply(frames, self.sample(rng, len(frames.size), progress))


@dataclass(frozen=True)
class Pad(Step):
    """Enlarges the frame on every side (Lucid's `pad`)."""

    pixels: int
    """On each side."""

    def check(self, size: Size, *, field: str) -> Size:
        """Larger by twice the pixels."""
        require(0 <= self.pixels <= _LARGEST, f"pads by {self.pixels} pixels", f"0 to {_LARGEST}", field)
        return size[0] + 2 * self.pixels, size[1] + 2 * self.pixels

    def apply(self, frames: Frames, drawn: Float) -> Frames:  # noqa: ARG002 - not random
        """The larger frames."""
        return replace(frames, size=frames.size + 2 * self.pixels)


@dataclass(frozen=True)
class Jitter(Step):
    """Cuts a frame out at a random place (Lucid's `jitter`): it is smaller by so many pixels.

    Its corner lies 0 to `pixels` pixels from the old one along each axis, uniformly, whole pixels. With `keep_size` the
    frame moves by -`pixels` to `pixels` and stays as large, which with the edge "wrap" is the roll of DeepDream.
    """

    pixels: int
    """How far."""

    keep_size: bool = False
    """Whether the frame stays as large."""

    def check(self, size: Size, *, field: str) -> Size:
        """Smaller by the pixels."""
        require(0 <= self.pixels <= _LARGEST, f"jitters by {self.pixels} pixels", f"0 to {_LARGEST}", field)
        if self.keep_size:
            return size
        require(
            self.pixels < min(size),
            f"jitters by {self.pixels} pixels, but the frame is {size[0]} x {size[1]} by then",
            "less, or pad before it",
            field,
        )
        return size[0] - self.pixels, size[1] - self.pixels

    def sample(self, rng: Random, views: int, progress: float) -> Float:  # noqa: ARG002 - the same at all times
        """The corner, y and x, or how far it moves."""
        if self.keep_size:
            return rng.integers(-self.pixels, self.pixels + 1, (views, 2)).astype(np.float64)
        return rng.integers(0, self.pixels + 1, (views, 2)).astype(np.float64) - self.pixels / 2

    def apply(self, frames: Frames, drawn: Float) -> Frames:
        """The moved frames."""
        moved = frames.moved(drawn)
        return moved if self.keep_size else replace(moved, size=frames.size - self.pixels)


@dataclass(frozen=True)
class Scale(Step):
    """Zooms by a factor chosen from a list (Lucid's `random_scale`); one that is listed twice comes twice as often.

    The frame gets the rounded size, and the zoom is by the factor itself.
    """

    factors: tuple[float, ...]
    """Above 1 enlarges."""

    def check(self, size: Size, *, field: str) -> Size:
        """The same."""
        require(bool(self.factors), "chooses from no factors", "one or more", field)
        for factor in self.factors:
            require(0.01 <= factor <= 100, f"scales by {factor:g}", "0.01 to 100", field)
        return size

    def sample(self, rng: Random, views: int, progress: float) -> Float:  # noqa: ARG002 - the same at all times
        """The factor."""
        return np.array(self.factors, np.float64)[rng.integers(0, len(self.factors), views)][:, None]

    def apply(self, frames: Frames, drawn: Float) -> Frames:
        """The zoomed frames."""
        return replace(frames, size=np.round(frames.size * drawn), scale=frames.scale / drawn)


@dataclass(frozen=True)
class Rotate(Step):
    """Turns by an angle chosen from a list (Lucid's `random_rotate`)."""

    angles: tuple[float, ...]
    """Degrees; positive ones turn the picture counterclockwise."""

    @property
    def degrees(self) -> float:
        """The largest angle."""
        return max(map(abs, self.angles), default=0.0)

    def check(self, size: Size, *, field: str) -> Size:
        """The same."""
        require(bool(self.angles), "chooses from no angles", "one or more", field)
        for angle in self.angles:
            require(abs(angle) <= 180, f"turns by {angle:g} degrees", "-180 to 180", field)
        return size

    def sample(self, rng: Random, views: int, progress: float) -> Float:  # noqa: ARG002 - the same at all times
        """The angle."""
        return np.array(self.angles, np.float64)[rng.integers(0, len(self.angles), views)][:, None]

    def apply(self, frames: Frames, drawn: Float) -> Frames:
        """The turned frames."""
        return replace(frames, degrees=frames.degrees + drawn[:, 0])


@dataclass(frozen=True)
class Flip(Step):
    """Mirrors left and right."""

    probability: float = 0.5
    """How often."""

    def check(self, size: Size, *, field: str) -> Size:
        """The same."""
        require(0 <= self.probability <= 1, f"flips with probability {self.probability:g}", "0 to 1", field)
        return size

    def sample(self, rng: Random, views: int, progress: float) -> Float:  # noqa: ARG002 - the same at all times
        """1 where it mirrors, else 0."""
        return (rng.random(views) < self.probability)[:, None].astype(np.float64)

    def apply(self, frames: Frames, drawn: Float) -> Frames:
        """The mirrored frames: mirroring first turns the other way round."""
        flips = drawn[:, 0] > 0
        degrees = np.where(flips, -frames.degrees, frames.degrees)
        return replace(frames, flipped=frames.flipped ^ flips, degrees=degrees)


@dataclass(frozen=True)
class CropBoxes(Step):
    """Square crops about the centre, of sides that change over time (MACO, Fel et al. 2023).

    Along each axis the crop's centre is 0.5 + N(0, spread) of the frame, and its side is N(side, deviation) of the
    frame's shorter side, clipped to [smallest, 1]; `side` goes from `first_side` to `last_side` linearly over the
    optimization. With `uniform` the side is drawn evenly between the two instead (Horama, as it is documented). The
    crop is zoomed to the network's input, with a kernel that averages where that reduces it.
    """

    first_side: float = 0.5
    """Mean side at the beginning."""

    last_side: float = 0.05
    """Mean side at the end."""

    deviation: float = 0.05
    """Standard deviation of the side."""

    spread: float = 0.15
    """Standard deviation of the centre."""

    smallest: float = 0.05
    """The least side."""

    uniform: bool = False
    """Whether sides are drawn evenly between the two."""

    def check(self, size: Size, *, field: str) -> Size:
        """The same; the crop's own size is drawn."""
        for side in (self.first_side, self.last_side, self.smallest):
            require(0 < side <= 1, f"crops a side of {side:g}", "above 0, up to 1", field)
        for deviation in (self.deviation, self.spread):
            require(0 <= deviation <= 1, f"varies crops by {deviation:g}", "0 to 1", field)
        return size

    def sample(self, rng: Random, views: int, progress: float) -> Float:
        """The centre, y and x, and the side, as shares of the frame."""
        centres = rng.normal(0.0, self.spread, (views, 2))
        if self.uniform:
            least, greatest = sorted((self.last_side, self.first_side))
            sides = rng.uniform(least, greatest, views)
        else:
            mean = self.first_side + (self.last_side - self.first_side) * progress
            sides = np.clip(rng.normal(mean, self.deviation, views), self.smallest, 1.0)
        return np.concatenate([centres, sides[:, None]], axis=1)

    def apply(self, frames: Frames, drawn: Float) -> Frames:
        """The crops."""
        moved = frames.moved(drawn[:, :2] * frames.size)
        side = drawn[:, 2:] * frames.size.min(axis=1, keepdims=True)
        return replace(moved, size=np.repeat(side, 2, axis=1))


@dataclass(frozen=True)
class Tiles(Step):
    """Cuts the picture into square tiles, a view each, at places that change: for large pictures.

    The grid of tiles is as small as covers the picture, and they overlap alike where they have to. Each step the whole
    grid moves by a distance that is even over the picture, so that no seams stay (DeepDream, Mordvintsev et al. 2015).
    It belongs first in a chain, with the edge "wrap" and `count` views.
    """

    pixels: int
    """Side of a tile."""

    def grid(self, size: Size) -> tuple[int, int]:
        """Rows and columns of tiles that a picture of a size is cut into."""
        return math.ceil(size[0] / self.pixels), math.ceil(size[1] / self.pixels)

    def check(self, size: Size, *, field: str) -> Size:
        """A tile."""
        require(
            1 <= self.pixels <= min(size),
            f"cuts tiles of {self.pixels} pixels out of {size[0]} x {size[1]}",
            "1 to the picture's shorter side",
            field,
        )
        return self.pixels, self.pixels

    def sample(self, rng: Random, views: int, progress: float) -> Float:  # noqa: ARG002 - the same at all times
        """How far the grid moves, y and x, as shares of the picture, and which tile a view shows."""
        return np.concatenate([np.tile(rng.random(2), (views, 1)), np.arange(views)[:, None]], axis=1)

    def apply(self, frames: Frames, drawn: Float) -> Frames:
        """The tiles, row by row."""
        height, width = (int(extent) for extent in frames.size[0])
        rows, columns = self.grid((height, width))
        row, column = np.divmod(drawn[:, 2], columns)
        corners = np.stack([np.floor(row * height / rows), np.floor(column * width / columns)], axis=1)
        centred = corners + np.floor(drawn[:, :2] * frames.size) - (frames.size - self.pixels) / 2
        return replace(frames.moved(centred), size=np.full_like(frames.size, self.pixels))
