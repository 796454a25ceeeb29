"""The samples of an atlas: what a tap holds at a few sites of every image, collected shard by shard."""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.activations import units_first
from ortoscope_service.analysis.atlas.site_attribution import SiteAttribution
from ortoscope_service.analysis.atlas.sites import choose_sites, leading_tokens
from ortoscope_service.analysis.execution import ExecutionConfig, Progress, Timings, not_finite, stream_tap
from ortoscope_service.analysis.reading import Series
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.statistics.second_moments import SecondMoments

Rows = NDArray[np.float16] | NDArray[np.float32]

FROM_THE_GRAPH = -1
"""The setting `class_tokens` that has them found in the graph."""

_LARGEST_LOSS = 2.0**-10
"""A row is rounded to half precision if it moves by no more than this share of its length: twice what rounding costs
where no number is too small for all its digits."""

_BLOCK_ROWS = 4096
"""Rows that are summed up at once, so that the last bits of the sums do not depend on how samples are cut into
shards."""


@dataclass(frozen=True)
class CollectionSettings:
    """How samples are taken of an image.

    Raises:
        OrtoscopeError: `INVALID_SETTING`: a setting out of range.
    """

    edge: int = 1
    """Sites that are left out at both ends of each axis of a map, 0 or more: what they see is half padding. Not on an
    axis too short to leave one, and not for tokens."""

    class_tokens: int = FROM_THE_GRAPH
    """For tokens: how many at the front are none of the image's (class tokens, registers); -1 finds them in the
    graph."""

    outlier_norm: float = 0.0
    """Leaves out samples whose length is more than so many times the median over the sites of their image, such as the
    tokens that vision transformers use as scratch space (Darcet et al. 2024). More than 1; 0 leaves none out."""

    def __post_init__(self) -> None:
        for name, valid, takes in (
            ("edge", self.edge >= 0, "0 or more"),
            ("class_tokens", self.class_tokens >= FROM_THE_GRAPH, "0 or more, or -1 to have them found"),
            (
                "outlier_norm",
                self.outlier_norm == 0 or (self.outlier_norm > 1 and math.isfinite(self.outlier_norm)),
                "a number above 1, or 0 to leave none out",
            ),
        ):
            if not valid:
                value = getattr(self, name)
                raise invalid(
                    "INVALID_SETTING",
                    f"The setting 'collection.{name}' is {value}; it takes {takes}.",
                    field=f"settings.collection.{name}",
                    setting=f"collection.{name}",
                    value=value,
                )


@dataclass(frozen=True)
class ShardSamples:
    """The samples of some images, n of them; C units, K classes."""

    activation: Rows
    """(n, C) float16 or float32: what the tap holds at the site. Every row that half precision can hold is rounded to
    it: one without a number beyond 65,504 that moves by at most 2^-10 of its length. The array is float32 if there is
    any other row."""

    image: NDArray[np.int64]
    """(n,) int64: the image's index in the dataset."""

    site: NDArray[np.int32]
    """(n, site axes) int32: the index along each site axis."""

    site_shape: tuple[int, ...]
    """Extent of each site axis."""

    attribution: Rows | None
    """(n, K) float16 or float32, rounded as activations are: to every class; None if there is none."""

    outliers: int = 0
    """How many samples were left out for their length."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """It as arrays, for `from_arrays`."""
        arrays: dict[str, NDArray[Any]] = {
            "activation": self.activation,
            "image": self.image,
            "site": self.site,
            "site_shape": np.array(self.site_shape, np.int64),
            "outliers": np.array(self.outliers, np.int64),
        }
        return arrays if self.attribution is None else {**arrays, "attribution": self.attribution}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "ShardSamples":
        """What `to_arrays` was called on."""
        return cls(
            arrays["activation"],
            arrays["image"],
            arrays["site"],
            tuple(arrays["site_shape"].tolist()),
            arrays.get("attribution"),
            int(arrays["outliers"]),
        )


@dataclass(frozen=True)
class Samples:
    """The samples of all images, N of them, by image and then as drawn; C units, K classes."""

    activation: Rows
    """(N, C) float16, or float32 if any row needs it; see `ShardSamples`."""

    image: NDArray[np.int64]
    """(N,) int64, ascending: the image's index in the dataset."""

    site: NDArray[np.int32]
    """(N, site axes) int32."""

    site_shape: tuple[int, ...]
    """Extent of each site axis."""

    attribution: Rows | None
    """(N, K) float16 or float32; None if there is none."""

    zero: NDArray[np.bool_]
    """(N,) bool: all its units are 0, so that it has no direction."""

    duplicate_of: NDArray[np.int64]
    """(N,) int64: the first sample with the same activation; -1 if it is that itself, and for those that are zero."""

    moments: SecondMoments
    """Sums over all samples, whether zero or repeated."""

    outliers: int = 0
    """How many samples were left out for their length."""

    @property
    def distinct(self) -> NDArray[np.int64]:
        """(n,) int64, ascending: the samples that are neither zero nor equal to one before: those to lay out."""
        return np.flatnonzero(~self.zero & (self.duplicate_of < 0))


def collect_shard(
    version: ModelVersion,
    tap: Tap,
    dataset: Dataset,
    indices: NDArray[np.int64],
    sites_per_image: int,
    settings: CollectionSettings,
    seed: int,
    execution: ExecutionConfig,
    *,
    attribution: SiteAttribution | None = None,
    progress: Progress,
    cancellation: Cancellation,
    series: Series | None = None,
    timings: Timings | None = None,
) -> ShardSamples:
    """Takes samples of the images of a shard.

    Args:
        version: The model.
        tap: Where to look.
        dataset: The images.
        indices: Which of them, (images,) int64; at least one.
        sites_per_image: Samples of each image, at least 1.
        settings: How they are taken.
        seed: Which sites are drawn; together with an image's index it decides them.
        execution: How the model is run.
        attribution: Attributes classes to samples; they have no attribution without.
        progress: Told after every batch.
        cancellation: Stops the pass.
        series: What this process will likely be asked for next.
        timings: Receives where the time went.

    Returns:
        The samples by image in the order of `indices`, and then as drawn. 1,000,000 samples of 512 units are 1 GB, and
        their attributions to 1,000 classes 2 GB: a shard holds both in memory.

    Raises:
        OrtoscopeError: `TOO_MANY_SITES`, `ACTIVATION_NOT_FINITE`, `ATTRIBUTION_NOT_FINITE` (FAILED_PRECONDITION);
            CANCELLED; as `stream_maps` raises, of an image that cannot be read.
    """
    timings = timings or Timings()
    first = _leading(version, tap, settings)
    parts: list[ShardSamples] = []
    done = 0
    progress("collecting", 0, len(indices))
    batches = stream_tap(version, tap, dataset, indices, execution, cancellation, timings, series=series)
    with contextlib.closing(batches):
        for batch in batches:
            began = time.perf_counter()
            maps = units_first(batch.activation, tap)
            chosen = [
                choose_sites(int(image), maps.shape[2:], sites_per_image, seed, edge=settings.edge, first=first)
                for image in batch.indices
            ]
            item = np.repeat(np.arange(len(chosen)), sites_per_image)
            site = np.concatenate(chosen)
            # With the units last, the other indices stand together: only the chosen rows are copied.
            rows = np.moveaxis(maps, 1, -1)[(item, *site.T)].astype(np.float32)
            _require_finite(rows, batch.indices[item], dataset, tap)
            kept = np.ones(len(rows), np.bool_)
            if settings.outlier_norm and maps.ndim > 2:
                kept = _ordinary(rows, item, maps[:, :, first:] if first else maps, settings.outlier_norm)
            item, site = item[kept], site[kept]
            found = None
            if attribution is not None:
                found = attribution.attribute(batch.activation, item, site, batch.feeds, cancellation)
                _require_finite_attribution(found, batch.indices[item], dataset, tap)
            parts.append(
                ShardSamples(
                    _halved(rows[kept]),
                    batch.indices[item],
                    site,
                    maps.shape[2:],
                    None if found is None else _halved(found.astype(np.float32)),
                    int((~kept).sum()),
                )
            )
            timings.own += time.perf_counter() - began
            done += len(batch.indices)
            progress("collecting", done, len(indices))
    return ShardSamples(
        np.concatenate([part.activation for part in parts]),
        np.concatenate([part.image for part in parts]),
        np.concatenate([part.site for part in parts]),
        parts[0].site_shape,
        None if attribution is None else np.concatenate([part.attribution for part in parts]),
        sum(part.outliers for part in parts),
    )


def merge_samples(
    loaders: Sequence[Callable[[], ShardSamples]],
    *,
    with_attribution: bool = True,
    cancellation: Cancellation | None = None,
) -> Samples:
    """The samples of all shards, by image: so the same ones in the same order, whatever the shards.

    Every loader is called twice, first for what there is and then for the samples, and what it gave is let go before
    the next: at its peak this takes the memory of the result and of one shard. 1,000,000 samples of 512 units take 1
    GB, attributions to 1,000 classes 2 GB more. Sums over units are made in blocks.

    Args:
        loaders: Load the samples of the shards, of different images of one tap.
        with_attribution: Whether attributions are wanted too, if there are any.
        cancellation: Stops the work.

    Raises:
        OrtoscopeError: CANCELLED.
    """
    cancellation = cancellation or Cancellation()
    images, outliers = [], 0
    activation_types, attribution_types = set(), set()
    for load in loaders:
        cancellation.raise_if_cancelled()
        shard = load()
        images.append(shard.image)
        outliers += shard.outliers
        activation_types.add(shard.activation.dtype)
        if with_attribution and shard.attribution is not None:
            attribution_types.add(shard.attribution.dtype)
    image = np.concatenate(images)
    order = np.argsort(image, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))

    count, start = len(image), 0
    activation = np.empty((count, shard.activation.shape[1]), np.result_type(*activation_types))
    site = np.empty((count, shard.site.shape[1]), np.int32)
    attribution: Rows | None = None
    if attribution_types:
        assert shard.attribution is not None  # all shards of a job have attributions, or none
        attribution = np.empty((count, shard.attribution.shape[1]), np.result_type(*attribution_types))
    site_shape = shard.site_shape
    for load in loaders:
        cancellation.raise_if_cancelled()
        shard = load()
        rows = place[start : start + len(shard.image)]
        start += len(rows)
        activation[rows] = shard.activation
        site[rows] = shard.site
        if attribution is not None:
            assert shard.attribution is not None
            attribution[rows] = shard.attribution
        del shard
    zero, moments = _zero_rows_and_moments(activation, cancellation)
    duplicate_of = duplicates(activation, cancellation)
    duplicate_of[zero] = -1
    return Samples(activation, image[order], site, site_shape, attribution, zero, duplicate_of, moments, outliers)


def duplicates(rows: NDArray[Any], cancellation: Cancellation | None = None) -> NDArray[np.int64]:
    """(N,) int64: for each row of (N, C) the first one that has the same bytes; -1 if it is that itself.

    Rows are told apart by a hash, and those that share one are compared.
    """
    digest = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _BLOCK_ROWS):
        if cancellation is not None:
            cancellation.raise_if_cancelled()
        for place, row in enumerate(np.ascontiguousarray(rows[start : start + _BLOCK_ROWS]), start):
            digest[place] = int.from_bytes(hashlib.blake2b(row.data, digest_size=8).digest(), "little")
    _, first, group = np.unique(digest, return_index=True, return_inverse=True)
    found = np.full(len(rows), -1, np.int64)
    others: dict[bytes, int] = {}
    for number in np.flatnonzero(first[group] != np.arange(len(rows))).tolist():
        leader = int(first[group[number]])
        if rows[number].tobytes() == rows[leader].tobytes():
            found[number] = leader
        else:  # another row of the same hash
            found[number] = others.get(rows[number].tobytes(), -1)
            others.setdefault(rows[number].tobytes(), number)
    return found


def _zero_rows_and_moments(activation: Rows, cancellation: Cancellation) -> tuple[NDArray[np.bool_], SecondMoments]:
    """Which rows hold nothing but 0, and the sums over all rows."""
    zero = np.empty(len(activation), np.bool_)
    moments = SecondMoments(activation.shape[1])
    for start in range(0, len(activation), _BLOCK_ROWS):
        cancellation.raise_if_cancelled()
        block = activation[start : start + _BLOCK_ROWS]
        zero[start : start + len(block)] = ~block.any(axis=1)
        moments.update(block)
    return zero, moments


def _halved(rows: NDArray[np.float32]) -> Rows:
    """Finite rows (n, C), rounded to half precision where that can hold them; float16 if it can hold all.

    What becomes of a row depends on that row alone. There is no negative zero afterwards, so that equal rows have equal
    bytes.
    """
    with np.errstate(over="ignore"):
        half = rows.astype(np.float16)
    rounded = half.astype(np.float32)
    with np.errstate(invalid="ignore"):
        loss = np.linalg.norm(rows.astype(np.float64) - rounded, axis=1)
    fits = loss <= _LARGEST_LOSS * np.linalg.norm(rows.astype(np.float64), axis=1)
    if fits.all():
        return half + np.float16(0)
    return np.where(fits[:, None], rounded, rows) + np.float32(0)


def _leading(version: ModelVersion, tap: Tap, settings: CollectionSettings) -> int:
    """How many tokens at the front are left out; 0 for a map."""
    if len(tap.site_axes) != 1:
        return 0
    return settings.class_tokens if settings.class_tokens >= 0 else leading_tokens(version, tap)


def _ordinary(
    rows: NDArray[np.float32], item: NDArray[np.int64], maps: NDArray[Any], factor: float
) -> NDArray[np.bool_]:
    """(n,) bool: whether a row is not longer than `factor` times the median over the sites of its item's map."""
    lengths = np.linalg.norm(maps.astype(np.float64), axis=1)
    median = np.median(lengths.reshape(len(lengths), -1), axis=1)
    within: NDArray[np.bool_] = np.linalg.norm(rows.astype(np.float64), axis=1) <= factor * median[item]
    return within


def _require_finite(rows: NDArray[np.float32], image: NDArray[np.int64], dataset: Dataset, tap: Tap) -> None:
    if not np.isfinite(rows).all():
        number, unit = np.argwhere(~np.isfinite(rows))[0]
        raise not_finite(dataset, int(image[number]), int(unit), tap)


def _require_finite_attribution(found: NDArray[Any], image: NDArray[np.int64], dataset: Dataset, tap: Tap) -> None:
    if not np.isfinite(found.astype(np.float32)).all():
        number, index = np.argwhere(~np.isfinite(found.astype(np.float32)))[0]
        path = dataset.path(int(image[number]))
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "ATTRIBUTION_NOT_FINITE",
            f"The attribution of tap '{tap.display_name}' to class {index} is infinite or not a number on image "
            f"'{path}'. Build the atlas without attribution, or leave the image out.",
            metadata={"class": str(index), "tap": tap.tensor, "image": path},
        )
