"""What is to be thought of a picture: how it compares with real images, and with pictures from other seeds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ortoscope_service.analysis.visualization import loop
from ortoscope_service.analysis.visualization.loop import Seed
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.analysis.visualization.resampling import Size
from ortoscope_service.analysis.visualization.spec import Prepared
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import fit, normalize
from ortoscope_service.runtime.cancellation import Cancellation

Progress = Callable[[str, int, int], None]
"""Called with the stage in words, what is done of it and what there is of it in all."""

Steps = Callable[[int, int, loop.Progress], None]
"""Called after a step of a climb from another seed with the climb, from 1, its octave, from 0, and the step."""

DEFAULT_IMAGES = 256
DEFAULT_EXAMPLES = 4

MOST_IMAGES = 4096
MOST_EXAMPLES = 100
MOST_SEEDS = 16

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Where the distribution over the images is told."""

_BATCH = 16
"""Images that are decoded and evaluated together."""


@dataclass(frozen=True)
class ScoredImage:
    """An image and the objective on it."""

    image: int
    """Its index in the dataset."""

    path: str
    """Its path in the dataset."""

    objective: float
    """The objective."""


@dataclass(frozen=True)
class Verdict:
    """How a picture compares with real ones, and with pictures from other seeds."""

    images: int
    """Images that the objective was evaluated on."""

    percentile: float
    """Share of them, in percent, whose objective is below the picture's; those that equal it count half."""

    quantiles: tuple[float, ...]
    """The objective on the images at `QUANTILES`, interpolated linearly between images."""

    most: tuple[ScoredImage, ...]
    """The images with the largest objective, descending; the lower index first at a tie."""

    least: tuple[ScoredImage, ...]
    """Those with the smallest, ascending; the lower index first at a tie."""

    seed_objectives: tuple[float, ...]
    """The objective on the clean picture that the climb from each other seed came to; minus infinity where that is not
    a number. Fewer than were asked for if the time was over before."""

    seed_agreement: float
    """How alike the pictures of all seeds are to the model: the mean over pairs of the cosine between activations,
    averaged over sites, of the tap that the objective reads; of several, the mean over taps. 0 without other seeds,
    or if the objective reads no tap."""


def check_comparison(
    program: Program, dataset: Dataset, *, images: int, examples: int, seeds: int, field: str = "comparison"
) -> None:
    """Refuses a comparison that cannot be made, before any work.

    Args:
        program: What is optimised.
        dataset: What it is to be compared with.
        images: As `judge` takes it.
        examples: As `judge` takes it.
        seeds: As `judge` takes it.
        field: The field of the request that holds the comparison.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: `INVALID_COMPARISON`: a number beyond its limit; `COUPLED_COMPARISON`: the
            objective is defined over the batch. FAILED_PRECONDITION: `MODEL_INPUT_NOT_IMAGE`; `EMPTY_DATASET`.
    """
    for name, value, least, most in (
        ("images", images, 1, MOST_IMAGES),
        ("examples", examples, 0, MOST_EXAMPLES),
        ("seeds", seeds, 0, MOST_SEEDS),
    ):
        if not least <= value <= most:
            raise invalid(
                "INVALID_COMPARISON",
                f"{value} {name} cannot be compared with; ask for {least} to {most}.",
                field=f"{field}.{name}",
                **{name: value},
            )
    if program.objective.couples_batch:
        raise invalid(
            "COUPLED_COMPARISON",
            "The objective is defined over the batch of pictures as a whole, so that a single image has none to be "
            "compared by; leave the comparison out.",
            field=field,
        )
    _preprocessing(program, field)
    if not len(dataset):
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "EMPTY_DATASET",
            f"Dataset '{dataset.name}' has no images to compare with; choose another.",
            field=f"{field}.dataset",
            metadata={"dataset": dataset.name},
        )


def judge(
    prepared: Prepared,
    pictures: NDArray[np.float32],
    dataset: Dataset,
    *,
    images: int = DEFAULT_IMAGES,
    examples: int = DEFAULT_EXAMPLES,
    seeds: int = 0,
    budget_seconds: float | None = None,
    cancellation: Cancellation | None = None,
    progress: Progress | None = None,
    on_step: Steps | None = None,
) -> tuple[Verdict, ...]:
    """Compares each picture with the images of a dataset, and with pictures from other seeds.

    1. The objective on pictures and images comes from one graph, the clean one: no transforms, items by themselves.
       Images are fitted as the model's manifest says, to the size that the graph shows the model.
    2. The n-th climb from another seed starts all items from the picture's own seed plus n. One that the end of the
       time cuts short says nothing of how alike the pictures of seeds are: it is left out, with all after it.

    Args:
        prepared: What the pictures came from.
        pictures: (items, channels, height, width) in [0, 1]; a channel more is opacity, shown on gray.
        dataset: The images.
        images: How many of them at most, spread evenly over the dataset.
        examples: How many are told of either end.
        seeds: Climbs from other seeds.
        budget_seconds: When to leave out the climbs that are not at their end. Images are compared with in any case.
        cancellation: Stops the work, between batches of images or within a step.
        progress: Told after every batch of images and every climb.
        on_step: Told after every step of those climbs.

    Returns:
        A verdict for each picture.

    Raises:
        OrtoscopeError: As `check_comparison`, `Prepared.run` and the reading of images raise; `OBJECTIVE_NOT_FINITE`
            (FAILED_PRECONDITION): on an image it is infinite or not a number.
    """
    check_comparison(prepared.program, dataset, images=images, examples=examples, seeds=seeds)
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    cancellation = cancellation or Cancellation()
    tell = progress or (lambda _stage, _done, _total: None)
    chosen = evenly(len(dataset), images)
    real = _on_images(prepared, dataset, chosen, cancellation, tell)
    reached = prepared.evaluate(pictures, cancellation)
    order = np.argsort(real, kind="stable")
    descending = np.argsort(-real, kind="stable")
    least, most = (
        tuple(ScoredImage(int(chosen[row]), dataset.path(int(chosen[row])), float(real[row])) for row in rows)
        for rows in (order[:examples], descending[:examples])
    )
    quantiles = tuple(np.quantile(real.astype(np.float64), QUANTILES).tolist())
    others = _climb_again(prepared, seeds, deadline, cancellation, tell, on_step)
    alike = _agreement(prepared, [pictures, *(other.pictures for other in others)], cancellation)
    return tuple(
        Verdict(
            images=len(chosen),
            percentile=percentile(float(reached[item]), real),
            quantiles=quantiles,
            most=most,
            least=least,
            seed_objectives=tuple(other.outcomes[item].objective for other in others),
            seed_agreement=alike[item],
        )
        for item in range(len(pictures))
    )


def percentile(value: float, sample: NDArray[np.float32]) -> float:
    """The share of a sample, in percent, below a value; what equals it counts half. 0 for a value that is no number."""
    below = np.count_nonzero(sample < value) + np.count_nonzero(sample == value) / 2
    return 100.0 * below / len(sample)


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of `count` indices, spread evenly: the middle of each of as many equal stretches."""
    chosen = min(count, most)
    return (2 * np.arange(chosen, dtype=np.int64) + 1) * count // (2 * chosen)


def agreement(activations: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """How alike vectors are, item by item: the mean of the cosine over all pairs.

    Args:
        activations: At least two arrays (items, units), of which each is one end of a pair.

    Returns:
        (items,); the cosine with a vector of zeros, or of what are no numbers, is 0.
    """
    unit = [_normed(array.astype(np.float64)) for array in activations]
    cosines = np.array([(one * other).sum(axis=1) for one, other in combinations(unit, 2)])
    mean: NDArray[np.float64] = cosines.mean(axis=0)
    return mean


def shown_at(image: Image.Image, preprocessing: Preprocessing, size: Size) -> NDArray[np.float32]:
    """An image as what is optimised is: (channels, height, width) in [0, 1], fitted as the model's manifest says.

    Args:
        image: The image.
        preprocessing: What the model expects; a crop keeps its share of the image at any size.
        size: Height and width wanted.

    Returns:
        Three channels, or one if the model sees gray.
    """
    height, width = size
    share = min(size) / min(preprocessing.height, preprocessing.width)
    plain = replace(
        preprocessing,
        layout="nchw",
        color_order="gray" if preprocessing.color_order == "gray" else "rgb",
        mean=(0.0,) * 3,
        std=(255.0,) * 3,
        height=height,
        width=width,
        resize_short_side=max(min(size), round(preprocessing.resize_short_side * share)),
    )
    return normalize(np.asarray(fit(image, plain).convert("RGB")), plain)


def _on_images(
    prepared: Prepared, dataset: Dataset, chosen: NDArray[np.int64], cancellation: Cancellation, tell: Progress
) -> NDArray[np.float32]:
    """The objective on each of the images."""
    preprocessing = _preprocessing(prepared.program)
    size, channels = prepared.clean_size, prepared.program.item_shape[0]
    assert size is not None  # what a model of pictures is shown is a picture
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(chosen), _BATCH):
        cancellation.raise_if_cancelled()
        batch = chosen[start : start + _BATCH]
        shown = np.stack([shown_at(dataset.read_image(int(index)), preprocessing, size) for index in batch])
        if shown.shape[1] != channels:  # gray, of a picture that is optimised in colours
            shown = np.repeat(shown, channels, axis=1)
        values = prepared.evaluate(shown, cancellation)
        for index in batch[~np.isfinite(values)].tolist():
            raise _not_finite(dataset, index)
        found.append(values)
        tell("comparing with images", start + len(batch), len(chosen))
    return np.concatenate(found)


def _climb_again(
    prepared: Prepared,
    seeds: int,
    deadline: float | None,
    cancellation: Cancellation,
    tell: Progress,
    on_step: Steps | None,
) -> list[loop.Visualization]:
    """The climbs from other seeds, as many as come to their end in time."""
    found: list[loop.Visualization] = []
    for number in range(1, seeds + 1):
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        climb = prepared.run(
            seeds=[Seed(seed.seed + number, seed.item) for seed in prepared.seeds],
            budget_seconds=left,
            progress=None if on_step is None else partial(on_step, number),
            cancellation=cancellation,
        )
        if deadline is not None and time.monotonic() >= deadline:
            break
        found.append(climb)
        tell("climbing from other seeds", number, seeds)
    return found


def _agreement(prepared: Prepared, pictures: Sequence[NDArray[np.float32]], cancellation: Cancellation) -> list[float]:
    """How alike the pictures of all seeds are to the model, item by item; 0 for one seed, and for no tap."""
    alone = [0.0] * len(pictures[0])
    if len(pictures) == 1:
        return alone
    seen = [prepared.activations(each, cancellation) for each in pictures]
    taps = [agreement([activations[tap] for activations in seen]) for tap in seen[0]]
    return np.mean(taps, axis=0).tolist() if taps else alone


def _preprocessing(program: Program, field: str = "") -> Preprocessing:
    """How images become the model's input."""
    preprocessing = program.model_input.preprocessing
    if preprocessing is None:
        name = program.model_input.spec.name
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "MODEL_INPUT_NOT_IMAGE",
            f"The objective cannot be evaluated on images: it is not known how the input '{name}' takes them. Leave "
            "the comparison out, or prepare the model with the range of its pictures.",
            field=field,
            metadata={"input": name},
        )
    return preprocessing


def _normed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1; those that have no direction, or are no numbers, become zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    result: NDArray[np.float64] = np.divide(
        rows, lengths, out=np.zeros_like(rows), where=np.isfinite(lengths) & (lengths > 0)
    )
    return result


def _not_finite(dataset: Dataset, index: int) -> OrtoscopeError:
    path = dataset.path(index)
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "OBJECTIVE_NOT_FINITE",
        f"The objective is infinite or not a number on image '{path}' of the dataset. Look at the model's input range, "
        "or leave the image out.",
        metadata={"image": path},
    )
