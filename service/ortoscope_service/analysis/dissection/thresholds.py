"""From the surveys of the shards to the exact thresholds.

The threshold of a unit is decided by the few largest of its values in all images. A shard does not know which of its
values are among them, and would have to keep nearly all of a small shard. So a few shards, the *vanguard*, are surveyed
first, and their images give a *bound* that the thresholds will hardly lie below. Of the other shards only what exceeds
it is kept, and what equals it is counted (units that are dead in most places have bound and threshold 0). If enough
values lie at or above the bound, they are all that matters, and the threshold is exact. Where the vanguard was not like
the rest they are too few, which shows; then the other shards are surveyed once more with no bound for that unit.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.dissection.spec import DissectionSpec
from ortoscope_service.analysis.dissection.survey import ShardSurvey
from ortoscope_service.statistics.order_statistics import Float32Array, KeptValues, QuantilePosition
from ortoscope_service.statistics.selection import RankSelection
from ortoscope_service.statistics.top_k import TopK

SurveyLoader = Callable[[], ShardSurvey]
"""Reads the survey of a shard. It may be called several times, and what it returns is let go before the next."""

_VANGUARD_IMAGES = 64
_VANGUARD_SHARE = 64
_MOST_VANGUARD_IMAGES = 16_384
"""The vanguard has at least so many images; of large sets one in so many, up to what gives a close bound. Of the maps
of EfficientNet-Lite0's last convolution 45 % exceed the bound of 32 images, 25 % that of 64, and 21 % that of 96."""

_BOUND_RATIO = 4.0
_BOUND_ERRORS = 6.0
"""So many times the share of values that shall lie above the threshold lies above the bound in the vanguard; or where
that is less, the share and so many of its standard errors, as if the values of an image were all above it or none."""

_BOUND_IMAGES = 16
"""The bound is exceeded in so many images of the vanguard at least: the values of an image rise and fall together, and
units that respond to few images would be misled by the number of values alone."""

_HELD_BYTES = 256 * 1024**2
"""Kept values that are held between passes over the surveys; those of other shards are read again."""


@dataclass(frozen=True)
class Thresholds:
    """The threshold of each of U units, and what else the surveys say about all images together."""

    value: NDArray[np.float64]
    """(U,) float64; of no meaning where incomplete."""

    incomplete: NDArray[np.bool_]
    """(U,) bool: the shards were surveyed with a bound above the threshold, which is therefore not known. All but the
    vanguard must be surveyed again with the bound `relaxed`: that leaves no unit incomplete."""

    relaxed: NDArray[np.float32]
    """(U,) float32: the bound to use instead; -inf where incomplete."""

    minimum: NDArray[np.float32]
    """(U,) float32: smallest value of each unit."""

    maximum: NDArray[np.float32]
    """(U,) float32: largest value of each unit."""

    example_image: NDArray[np.int64]
    """(U, E) int64: the images with the unit's largest values, descending; -1 where there are fewer."""

    example_value: NDArray[np.float32]
    """(U, E) float32: those values."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """It as arrays, for `from_arrays`."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Thresholds":
        """What `to_arrays` was called on."""
        return cls(**arrays)


def vanguard_of(images: int, shards: int) -> int:
    """How many shards, the first ones, are surveyed without a bound to find one for the others; 0 if all are.

    Args:
        images: Number of images.
        shards: Number of shards.
    """
    wanted = max(_VANGUARD_IMAGES, min(images // _VANGUARD_SHARE, _MOST_VANGUARD_IMAGES))
    vanguard = -(-wanted * shards // images)
    vanguard += vanguard % 2  # so that the second of two workers has something to do
    return vanguard if vanguard * 4 <= shards else 0


def bound_from(vanguard: Sequence[SurveyLoader], spec: DissectionSpec, total_images: int) -> Float32Array:
    """What the thresholds will hardly lie below.

    Args:
        vanguard: Read the surveys of the vanguard; up to six times each.
        spec: What to compute.
        total_images: Images of all shards together.

    Returns:
        (U,) float32.
    """
    summary = _Summary.of(vanguard)
    highest: Float32Array | None = None
    for load in vanguard:
        peaks = _peaks(load())
        highest = _largest_rows(peaks if highest is None else np.concatenate((highest, peaks)), _BOUND_IMAGES)
    assert highest is not None  # there is a shard in the vanguard
    position = QuantilePosition.of(1 - spec.top_fraction, total_images * summary.sites)
    # The number of images that would lie above the threshold if each did so with all its values or none.
    expected = summary.images * position.depth / position.count
    ratio = min(_BOUND_RATIO, 1 + _BOUND_ERRORS / math.sqrt(expected))
    values = summary.images * summary.sites
    exceeded, _ = _select(
        _KeptParts(vanguard), len(summary.floor), min(math.ceil(ratio * expected * summary.sites), values)
    )
    in_enough_images = highest.min(axis=0) if len(highest) == _BOUND_IMAGES else np.float32(-np.inf)
    # Where the vanguard alone has enough values to lift its floor, nothing below that matters.
    return np.maximum(np.minimum(exceeded, in_enough_images), summary.floor)


def thresholds_from(surveys: Sequence[SurveyLoader], spec: DissectionSpec, total_images: int) -> Thresholds:
    """The exact thresholds.

    Args:
        surveys: Read the surveys of all shards; up to five times each.
        spec: What to compute.
        total_images: Images of all shards together.
    """
    summary = _Summary.of(surveys)
    units = len(summary.floor)
    if spec.thresholds is not None:
        complete = np.zeros(units, np.bool_)
        return summary.thresholds(spec.thresholds, complete)
    position = QuantilePosition.of(1 - spec.top_fraction, total_images * summary.sites)
    lower, upper = _select(_KeptParts(surveys), units, position.depth)
    # All values at or above the largest floor of any shard are known. If the wanted one is among them, so are all that
    # are larger, and its rank is right.
    incomplete = ~((lower >= summary.floor) & np.isfinite(lower))
    known = np.where(incomplete, np.float32(0), lower), np.where(incomplete, np.float32(0), upper)
    return summary.thresholds(position.between(*(value.astype(np.float64) for value in known)), incomplete)


@dataclass
class _Summary:
    """What the surveys say about all images, beside the values that they kept."""

    floor: Float32Array
    minimum: Float32Array
    maximum: Float32Array
    top: TopK
    sites: int
    images: int

    @classmethod
    def of(cls, surveys: Sequence[SurveyLoader]) -> "_Summary":
        first = surveys[0]()
        result = cls(
            first.kept.floor,
            first.minimum,
            first.maximum,
            TopK.from_arrays(first.top.to_arrays()),
            math.prod(first.site_shape),
            first.images,
        )
        for load in surveys[1:]:
            survey = load()
            result.floor = np.maximum(result.floor, survey.kept.floor)
            result.minimum = np.minimum(result.minimum, survey.minimum)
            result.maximum = np.maximum(result.maximum, survey.maximum)
            result.top.merge(survey.top)
            result.images += survey.images
        return result

    def thresholds(self, value: NDArray[np.float64], incomplete: NDArray[np.bool_]) -> Thresholds:
        return Thresholds(
            value,
            incomplete,
            np.where(incomplete, np.float32(-np.inf), self.floor),
            self.minimum,
            self.maximum,
            self.top.item,
            self.top.value,
        )


class _KeptParts:
    """The kept values of all shards, for several passes: read again each time, but for those that fit into memory."""

    def __init__(self, surveys: Sequence[SurveyLoader]) -> None:
        self._surveys = surveys
        self._held: dict[int, KeptValues] = {}
        self._room = _HELD_BYTES

    def __iter__(self) -> Iterator[KeptValues]:
        for shard, load in enumerate(self._surveys):
            kept = self._held.get(shard)
            if kept is None:
                kept = load().kept
                if kept.value.nbytes <= self._room:
                    self._held[shard] = kept
                    self._room -= kept.value.nbytes
            yield kept


def _select(parts: _KeptParts, units: int, rank: int) -> tuple[Float32Array, Float32Array]:
    """The value of a rank, and the next larger one, among the values that the shards kept and counted."""
    selection = RankSelection(units, rank)
    while not selection.done:
        for kept in parts:
            selection.add(kept)
        selection.narrow()
    return selection.value, selection.larger


def _peaks(survey: ShardSurvey) -> Float32Array:
    """(images, units) float32: the largest value of each map; -inf for those that were not set aside."""
    peaks = np.full((survey.images, len(survey.minimum)), -np.inf, np.float32)
    image = np.repeat(np.arange(survey.images), np.diff(survey.map_start))
    peaks[image, survey.map_unit] = survey.map_peak
    return peaks


def _largest_rows(values: Float32Array, count: int) -> Float32Array:
    """The `count` largest values of each column, in any order; all if there are not more."""
    if len(values) <= count:
        return values
    return np.partition(values, len(values) - count, axis=0)[len(values) - count :]
