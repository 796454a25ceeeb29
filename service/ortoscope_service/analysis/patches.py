"""What a patch does to the answers of a classifier when it is pasted over pictures, beside noise of the same colours.

Carter et al. 2019, "Activation Atlas": a baseball in a corner makes a grey whale a great white shark. That alone says
little, since anything in a corner changes some answers; so each patch is compared with itself, its pixels shuffled.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ortoscope_service.analysis.activations import units_first
from ortoscope_service.analysis.classes import Classes
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import normalize
from ortoscope_service.runtime.cancellation import Cancellation

Array = NDArray[Any]
Size = tuple[int, int]
"""Height and width in pixels."""

Window = tuple[slice, ...]
"""A part of one input of a model."""

Classify = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""From a batch of a model's inputs to the probability of every class, (items, classes)."""

DEFAULT_SIZES = (0.1, 0.2, 0.3, 0.4)
DEFAULT_CONTROLS = 4

MOST_CONTROLS = 64
MOST_RUNS = 20_000
"""Pictures that a classifier is shown at most: a few minutes of a small network on two cores."""


class Place(enum.Enum):
    """Where on a picture a patch is pasted: flush with two edges, or in the middle."""

    TOP_LEFT = "top_left"
    TOP_RIGHT = "top_right"
    BOTTOM_LEFT = "bottom_left"
    BOTTOM_RIGHT = "bottom_right"
    CENTRE = "centre"

    def corner(self, picture: Size, patch: Size) -> tuple[int, int]:
        """The row and column of the patch's first pixel; in the middle, rounded towards the top left."""
        rows, columns = picture[0] - patch[0], picture[1] - patch[1]
        match self:
            case Place.TOP_LEFT:
                return 0, 0
            case Place.TOP_RIGHT:
                return 0, columns
            case Place.BOTTOM_LEFT:
                return rows, 0
            case Place.BOTTOM_RIGHT:
                return rows, columns
            case Place.CENTRE:
                return rows // 2, columns // 2


CORNERS = (Place.TOP_LEFT, Place.TOP_RIGHT, Place.BOTTOM_LEFT, Place.BOTTOM_RIGHT)


@dataclass(frozen=True)
class PatchSpec:
    """What is tried: a trial for each size and place.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: `NO_TRIALS`, `INVALID_SIZE`, `INVALID_CONTROLS`, `INVALID_SEED`.
    """

    sizes: tuple[float, ...] = DEFAULT_SIZES
    """Widths of the patch as shares of the picture's shorter side, in (0, 1]. Its proportions are kept."""

    places: tuple[Place, ...] = CORNERS
    """Where it is pasted."""

    target: int | None = None
    """The class that it shall bring about; None: any change of class counts."""

    controls: int = DEFAULT_CONTROLS
    """Draws of noise for each trial."""

    seed: int = 0
    """Where the draws come from."""

    def __post_init__(self) -> None:
        if not self.sizes or not self.places:
            raise invalid("NO_TRIALS", "There is no size or no place to try; give at least one of each.", field="sizes")
        for number, size in enumerate(self.sizes):
            if not 0 < size <= 1:
                raise invalid(
                    "INVALID_SIZE",
                    f"The size {size:g} is no share of the picture's shorter side; give a number above 0, at most 1.",
                    field=f"sizes[{number}]",
                    size=size,
                )
        if not 1 <= self.controls <= MOST_CONTROLS:
            raise invalid(
                "INVALID_CONTROLS",
                f"{self.controls} controls were asked for; ask for 1 to {MOST_CONTROLS}.",
                field="controls",
                controls=self.controls,
            )
        if self.seed < 0:
            raise invalid(
                "INVALID_SEED", f"The seed {self.seed} is negative; give 0 or more.", field="seed", seed=self.seed
            )

    def check(self, pictures: int, picture: Size, patch: Size) -> None:
        """Refuses what cannot be pasted, or would take too long.

        Args:
            pictures: How many pictures there are.
            picture: Their size.
            patch: The patch's own size.

        Raises:
            OrtoscopeError: INVALID_ARGUMENT: `TOO_MANY_TRIALS`, `PATCH_TOO_TALL`.
        """
        runs = pictures * len(self.sizes) * len(self.places) * (1 + self.controls)
        if runs > MOST_RUNS:
            raise invalid(
                "TOO_MANY_TRIALS",
                f"{pictures} pictures, {len(self.sizes)} sizes, {len(self.places)} places and {self.controls} controls "
                f"make {runs} pictures to classify; at most {MOST_RUNS} are. Give fewer of any.",
                field="sizes",
                runs=runs,
                max_runs=MOST_RUNS,
            )
        for number, size in enumerate(self.sizes):
            height, width = pasted_size(size, picture, patch)
            if height > picture[0]:
                raise invalid(
                    "PATCH_TOO_TALL",
                    f"At the size {size:g} the patch is {width} pixels wide and {height} high, but the pictures are "
                    f"{picture[0]} high. Give a smaller size, or crop the patch.",
                    field=f"sizes[{number}]",
                    size=size,
                    height=height,
                    picture_height=picture[0],
                )


@dataclass(frozen=True)
class PatchTrial:
    """What a patch of one size at one place does."""

    size: float
    """Its width as a share of the picture's shorter side."""

    place: Place
    """Where it is."""

    pictures: int
    """Pictures that count: all; for a target, those that were not of that class without the patch."""

    flips: int
    """Of these, those whose class the patch changed: to the target; without one, to any other than before."""

    control_flip_rate: float
    """Of all pairs of these pictures and a control, the share whose class the control changed likewise; 0 if no picture
    counts."""

    mean_probability: float
    """The mean over these pictures of the probability, with the patch, of the target; without one, of the class that
    the picture had; 0 if no picture counts."""

    control_mean_probability: float
    """The same with the controls."""

    top: NDArray[np.int64]
    """(all pictures,): the class with the patch."""

    top_probability: NDArray[np.float64]
    """(all pictures,): its probability."""


@dataclass(frozen=True)
class PatchEffect:
    """What a patch does to pictures."""

    clean: NDArray[np.int64]
    """(pictures,): the class without any patch; of several with the same probability, the first."""

    clean_probability: NDArray[np.float64]
    """(pictures,): its probability."""

    trials: tuple[PatchTrial, ...]
    """For each size, each place."""


def pasted_size(size: float, picture: Size, patch: Size) -> Size:
    """Height and width in pixels at which a patch is pasted, its proportions kept; a pixel at least."""
    width = max(1, round(size * min(picture)))
    return max(1, round(width * patch[0] / patch[1])), width


def patch_pixels(patch: Image.Image, size: Size) -> NDArray[np.uint8]:
    """A patch at a size: bilinear, averaging where it gets smaller; (height, width, 3) uint8."""
    height, width = size
    resized = patch.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def shuffled(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same pixels in another order, each of any as likely: noise of exactly the same size and colours."""
    flat = pixels.reshape(-1, pixels.shape[-1])
    return flat[rng.permutation(len(flat))].reshape(pixels.shape)


def class_probabilities(scores: Array, classes: Classes) -> NDArray[np.float64]:
    """The probability of every class, (items, classes), in float64.

    Args:
        scores: The tensor `probabilities` of the classes where the model computes one, else their `logits`, of which
            the softmax is taken.
        classes: The classes.

    Raises:
        OrtoscopeError: `SCORES_NOT_FINITE` (FAILED_PRECONDITION).
    """
    tap = classes.probabilities or classes.logits
    rows: NDArray[np.float64] = units_first(scores, tap).reshape(len(scores), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        index = int(np.argwhere(~np.isfinite(rows))[0, 1])
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "SCORES_NOT_FINITE",
            f"The score of class {index} is infinite or not a number on one of the pictures. Look at the "
            "model's input range.",
            metadata={"class": str(index)},
        )
    if classes.probabilities is not None:
        return rows
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def measure_patch(
    classify: Classify,
    pictures: NDArray[np.float32],
    patch: Image.Image,
    preprocessing: Preprocessing,
    spec: PatchSpec,
    *,
    batch_size: int = 16,
    cancellation: Cancellation | None = None,
) -> PatchEffect:
    """Pastes a patch over pictures, at every size and place, and counts whose class changes.

    Each trial has controls of its own, the same for all pictures, whose draws depend on the seed, the width in pixels
    and the place alone: a trial gives the same numbers whatever else is tried.

    Args:
        classify: The model.
        pictures: (pictures, ...) inputs of the model, preprocessed, in its layout; at least one.
        patch: What is pasted, of any size; it goes through the same colours and range as pictures do.
        preprocessing: What the model expects of pictures.
        spec: What is tried.
        batch_size: Pictures that are classified at once.
        cancellation: Stops the work, between batches.

    Raises:
        OrtoscopeError: As `PatchSpec.check` and `classify` raise; `INVALID_CLASS`; `CANCELLED`, `DEADLINE_EXCEEDED`.
    """
    return _Paster(classify, pictures, patch, preprocessing, spec, batch_size, cancellation or Cancellation()).effect()


@dataclass(frozen=True)
class _Answers:
    """What the model says of some pictures, each field (pictures,)."""

    top: NDArray[np.int64]
    top_probability: NDArray[np.float64]
    watched: NDArray[np.float64]


@dataclass(frozen=True)
class _Paster:
    classify: Classify
    pictures: NDArray[np.float32]
    patch: Image.Image
    preprocessing: Preprocessing
    spec: PatchSpec
    batch_size: int
    cancellation: Cancellation

    def effect(self) -> PatchEffect:
        """The answers without any patch, and those of every trial."""
        spec = self.spec
        spec.check(len(self.pictures), self._picture_size, self._patch_size)
        clean = self._answers([], None)
        watched = clean.top if spec.target is None else np.full(len(self.pictures), spec.target)
        trials = tuple(self._trial(size, place, clean.top, watched) for size in spec.sizes for place in spec.places)
        return PatchEffect(clean.top, clean.top_probability, trials)

    def _trial(self, size: float, place: Place, clean: NDArray[np.int64], watched: NDArray[np.int64]) -> PatchTrial:
        spec, count = self.spec, len(self.pictures)
        pixels = patch_pixels(self.patch, pasted_size(size, self._picture_size, self._patch_size))
        controls = [shuffled(pixels, self._generator(pixels.shape[1], place, draw)) for draw in range(spec.controls)]
        window = self._window(place, (pixels.shape[0], pixels.shape[1]))
        answers = self._answers([(window, variant) for variant in (pixels, *controls)], watched)
        tops = answers.top.reshape(-1, count)  # a row for the patch, then one for each control
        counts = np.ones(count, np.bool_) if spec.target is None else clean != spec.target
        changed = (tops != clean if spec.target is None else tops == spec.target)[:, counts]
        probabilities = answers.watched.reshape(-1, count)[:, counts]
        return PatchTrial(
            size,
            place,
            pictures=int(counts.sum()),
            flips=int(changed[0].sum()),
            control_flip_rate=_mean(changed[1:]),
            mean_probability=_mean(probabilities[0]),
            control_mean_probability=_mean(probabilities[1:]),
            top=tops[0],
            top_probability=answers.top_probability[:count],
        )

    def _answers(
        self, variants: Sequence[tuple[Window, NDArray[np.uint8]]], watched: NDArray[np.int64] | None
    ) -> _Answers:
        """The answers on all pictures with each variant pasted in turn; without variants, on the pictures as they are.

        Args:
            variants: Where what is pasted.
            watched: (pictures,) the class of each picture whose probability is wanted; None: the one that it has.
        """
        count = len(self.pictures)
        insets = [(window, normalize(pixels, self.preprocessing)) for window, pixels in variants]
        parts: list[_Answers] = []
        pairs = np.arange(count * max(1, len(insets)))
        for start in range(0, len(pairs), self.batch_size):
            self.cancellation.raise_if_cancelled()
            variant, item = np.divmod(pairs[start : start + self.batch_size], count)
            shown = self.pictures[item]
            for picture, number in zip(shown, variant.tolist() if insets else (), strict=False):
                window, inset = insets[number]
                picture[window] = inset
            found = self.classify(shown)
            self._check_target(found.shape[1])
            rows, top = np.arange(len(item)), found.argmax(axis=1)
            wanted = top if watched is None else watched[item]
            parts.append(_Answers(top, found[rows, top], found[rows, wanted]))
        return _Answers(
            np.concatenate([part.top for part in parts]),
            np.concatenate([part.top_probability for part in parts]),
            np.concatenate([part.watched for part in parts]),
        )

    def _check_target(self, classes: int) -> None:
        """Refuses a target that there is not; how many classes there are may show only when the model runs."""
        if self.spec.target is not None and not 0 <= self.spec.target < classes:
            raise invalid(
                "INVALID_CLASS",
                f"The model has no class {self.spec.target}; its {classes} classes are counted from 0.",
                field="target",
                class_index=self.spec.target,
                classes=classes,
            )

    def _window(self, place: Place, size: Size) -> Window:
        """Where in one input a patch of this size goes."""
        row, column = place.corner(self._picture_size, size)
        window = slice(row, row + size[0]), slice(column, column + size[1])
        return window if self.preprocessing.layout == "nhwc" else (slice(None), *window)

    def _generator(self, width: int, place: Place, draw: int) -> np.random.Generator:
        key = (width, list(Place).index(place), draw)
        return np.random.default_rng(np.random.SeedSequence(self.spec.seed, spawn_key=key))

    @property
    def _picture_size(self) -> Size:
        shape = self.pictures.shape
        return (shape[1], shape[2]) if self.preprocessing.layout == "nhwc" else (shape[2], shape[3])

    @property
    def _patch_size(self) -> Size:
        return self.patch.height, self.patch.width


def _mean(numbers: Array) -> float:
    """The mean; 0 of nothing."""
    return float(numbers.mean()) if numbers.size else 0.0
