"""Which sites of an image an atlas takes: a few at random, decided by the seed and the image alone.

Carter et al. 2019 take one activation of each image "from a random spatial position", and leave the edges of the map
out, since what is seen there is half padding. Their published code leaves out the first row and column only; here both
sides go.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.axes import captured_values, dependent_values, extents, normalized
from ortoscope_service.graph.constants import int_attribute
from ortoscope_service.graph.taps import Layout, Tap
from ortoscope_service.models.repository import ModelVersion

_SEEDS = 2**64


def choose_sites(
    image: int,
    site_shape: tuple[int, ...],
    count: int,
    seed: int,
    *,
    edge: int = 1,
    first: int = 0,
    last: int = 0,
) -> NDArray[np.int32]:
    """Chooses sites of an image without repetition.

    Points of the unit square are drawn for the seed and the image, and each is carried to the map: so a tap of another
    size gets the same places, as nearly as its sites allow, and the first sites are the same however many are asked
    for. A point whose site is taken gets the free site closest to it. The site of the first point is uniform over all
    that may be chosen.

    Args:
        image: Index of the image in its dataset.
        site_shape: Extent of each site axis; none for a tap without sites, which has one sample of no coordinates.
        count: How many.
        seed: Where randomness comes from; any integer.
        edge: Sites that are left out at both ends of each axis, where that leaves at least one; not where there is one
            axis alone: tokens have no padding.
        first: For tokens: how many at the front are none of the image's (class tokens, registers).
        last: For tokens: how many at the end are none of the image's.

    Returns:
        (count, axes) int32, in the order drawn.

    Raises:
        OrtoscopeError: `TOO_MANY_SITES` (FAILED_PRECONDITION): fewer sites may be chosen.
    """
    field = _field(site_shape, edge, first, last)
    if count > field.size:
        raise _too_many(count, field.size, site_shape)
    if not site_shape:
        return np.empty((count, 0), np.int32)
    # A row for each site, and always two numbers or more: a row of tokens lies in the plane as a map does.
    points = np.random.default_rng([seed % _SEEDS, image]).random((count, max(2, len(site_shape))))
    extent = np.array(field.extent)
    taken: dict[tuple[int, ...], None] = {}
    for point in points[:, : len(extent)] * extent:
        place = tuple(np.minimum(point.astype(np.int64), extent - 1).tolist())
        taken[place if place not in taken else _closest(point, field.extent, taken)] = None
    return field.sites(np.array(list(taken), np.int32))


def sites_available(site_shape: tuple[int, ...], *, edge: int = 1, first: int = 0, last: int = 0) -> int:
    """How many sites of a map `choose_sites` can choose from, with the arguments that it takes."""
    return _field(site_shape, edge, first, last).size


def token_grid(tokens: int) -> tuple[int, int] | None:
    """Rows and columns of the patches that so many tokens stand for, row by row; None if they are no square."""
    side = math.isqrt(tokens)
    return (side, side) if side and side * side == tokens else None


def leading_tokens(version: ModelVersion, tap: Tap) -> int:
    """How many tokens at the front of a tap are none of the image's: class tokens and registers.

    They are found where the model joins them to the tokens of the image: in a concatenation along the tokens, to as
    many as the tap has, what comes first and does not depend on the image.

    Returns:
        0 for a tap that has no tokens, and where no such concatenation is found.
    """
    if tap.layout is not Layout.TOKENS:
        return 0
    graph = version.load().graph
    axis, dependent = tap.site_axes[0], dependent_values(graph)
    above = {tap.tensor}
    for node in reversed(list(graph)):
        if not any(value.name in above for value in node.outputs):
            continue
        above.update(value.name for value in captured_values(node) if value.name)
        shape = extents(node.outputs[0])
        if node.op_type != "Concat" or node.domain or shape is None or len(shape) != len(tap.shape):
            continue
        if normalized(int_attribute(node, "axis", 0), len(shape)) != axis or shape[axis] != tap.shape[axis]:
            continue
        leading = 0
        for value in node.inputs:
            size = extents(value) if value is not None else None
            if value in dependent or size is None or not isinstance(size[axis], int):
                break
            leading += int(size[axis] or 0)
        if 0 < leading < tap.shape[axis]:
            return leading
    return 0


@dataclass(frozen=True)
class _Field:
    """The sites that may be chosen, as a box."""

    low: tuple[int, ...]
    """Its first site along each axis."""

    extent: tuple[int, ...]
    """Its extent along each axis."""

    tokens: bool = False
    """Whether a site is a token, and the box has the shape of the patches; `low` is then the first token."""

    @property
    def size(self) -> int:
        return math.prod(self.extent)

    def sites(self, places: NDArray[np.int32]) -> NDArray[np.int32]:
        """(n, site axes) int32: the sites at (n, box axes) int32 places of the box."""
        if self.tokens:
            places = np.ravel_multi_index(tuple(places.T), self.extent).astype(np.int32)[:, None]
        return places + np.array(self.low, np.int32)


@lru_cache(maxsize=64)
def _field(site_shape: tuple[int, ...], edge: int, first: int, last: int) -> _Field:
    if len(site_shape) == 1:
        tokens = max(0, site_shape[0] - first - last)
        return _Field((first,), token_grid(tokens) or (tokens,), tokens=True)
    margins = [edge if extent > 2 * edge else 0 for extent in site_shape]
    return _Field(
        tuple(margins), tuple(extent - 2 * margin for extent, margin in zip(site_shape, margins, strict=True))
    )


def _closest(
    point: NDArray[np.float64], extent: tuple[int, ...], taken: dict[tuple[int, ...], None]
) -> tuple[int, ...]:
    """The place that is not taken whose centre is closest to a point; the first row by row at a tie."""
    centres = np.indices(extent).reshape(len(extent), -1).T + 0.5
    distance = ((centres - point) ** 2).sum(axis=1)
    distance[np.ravel_multi_index(tuple(np.array(list(taken)).T), extent)] = np.inf
    return tuple(int(index) for index in np.unravel_index(distance.argmin(), extent))


def _too_many(count: int, available: int, site_shape: tuple[int, ...]) -> OrtoscopeError:
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "TOO_MANY_SITES",
        f"{count} sites of each image were asked for, but of the tap's sites {list(site_shape)} only {available} can "
        "be chosen, edges and class tokens left out; ask for fewer, or for a tap with a larger map.",
        field="sites_per_image",
        metadata={"sites_per_image": str(count), "available": str(available), "sites": str(list(site_shape))},
    )
