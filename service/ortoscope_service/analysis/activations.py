"""Activations of taps on given inputs, and what is commonly wanted of them instead of the whole map."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.errors import invalid
from ortoscope_service.graph.taps import Tap
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import RunnableSession

Array = NDArray[Any]


class Reduction(enum.Enum):
    """What is computed from a tap's map."""

    NONE = "none"
    MEAN = "mean"
    MAX = "max"
    SITE = "site"
    TOP_UNITS = "top_units"


@dataclass(frozen=True)
class Selection:
    """A tap and what is wanted of it."""

    tap: Tap
    """The tap."""

    reduction: Reduction = Reduction.NONE
    """What is computed from its map."""

    site: tuple[int, ...] = ()
    """For SITE: the index along each site axis; negative counts from the end."""

    top_units: int = 10
    """For TOP_UNITS: how many units."""


@dataclass(frozen=True)
class Reduced:
    """What was wanted of a tap."""

    values: Array
    """The activation itself for NONE, else (items, units) or (items, top units), in the tap's own dtype."""

    units: NDArray[np.int64] | None
    """For TOP_UNITS: the unit of each value."""

    sites: NDArray[np.int64] | None
    """For MAX and TOP_UNITS on a tap with sites: the site of each value, one index per site axis on a last axis."""

    unit_axis: int
    """Axis of `values` along which the units lie."""


def units_first(activation: Array, tap: Tap) -> Array:
    """The activation as (items, units, site axes...)."""
    return np.moveaxis(activation, tap.unit_axis, 1)


def reduce_activation(activation: Array, selection: Selection, *, field: str = "") -> Reduced:
    """Computes what is wanted of an activation.

    Args:
        activation: The tap's value, batch axis first, in the tap's own layout.
        selection: What is wanted of it.
        field: The request field to blame for a selection that does not fit.

    Raises:
        OrtoscopeError: INVALID_SITE if the site lies outside the map; INVALID_TOP_UNITS if fewer than one is asked.
    """
    tap = selection.tap
    if selection.reduction is Reduction.NONE:
        return Reduced(activation, None, None, tap.unit_axis)
    maps = units_first(activation, tap)
    site_shape = maps.shape[2:]
    if selection.reduction is Reduction.SITE:
        site = checked_site(selection.site, site_shape, tap, field)
        by_site = np.moveaxis(maps, (0, 1), (-2, -1))
        return Reduced(by_site[site], None, None, 1)
    flat = maps.reshape(*maps.shape[:2], -1)
    if selection.reduction is Reduction.MEAN:
        # Sums of half-precision maps overflow and lose digits; accumulate wider, answer in the tap's dtype.
        return Reduced(flat.mean(axis=2, dtype=np.float64).astype(flat.dtype), None, None, 1)
    where = flat.argmax(axis=2)
    values = np.take_along_axis(flat, where[..., None], axis=2)[..., 0]
    sites = np.stack(np.unravel_index(where, site_shape), axis=-1).astype(np.int64) if site_shape else None
    if selection.reduction is Reduction.MAX:
        return Reduced(values, None, sites, 1)
    if selection.top_units < 1:
        raise invalid(
            "INVALID_TOP_UNITS",
            f"{selection.top_units} units were asked for; ask for at least 1.",
            field=f"{field}.top_units",
            top_units=selection.top_units,
        )
    order = np.argsort(-values, axis=1, kind="stable")[:, : selection.top_units]
    top_sites = None if sites is None else np.take_along_axis(sites, order[..., None], axis=1)
    return Reduced(np.take_along_axis(values, order, axis=1), order.astype(np.int64), top_sites, 1)


def checked_site(site: tuple[int, ...], shape: tuple[int, ...], tap: Tap, field: str) -> tuple[int, ...]:
    """The site as it is, if it lies in the map.

    Args:
        site: The index along each site axis; negative counts from the end.
        shape: The extent of each site axis.
        tap: The tap, for the error.
        field: The request field that holds the selection; its field `site` is blamed.

    Raises:
        OrtoscopeError: INVALID_SITE.
    """
    fits = len(site) == len(shape) and all(-extent <= index < extent for index, extent in zip(site, shape, strict=True))
    if not fits:
        raise invalid(
            "INVALID_SITE",
            f"Site {list(site)} is not in the map of tap '{tap.display_name}', whose sites are {list(shape)}; "
            "give one index per site axis, each from 0 and below its extent (negative counts from the end).",
            field=f"{field}.site",
            site=list(site),
            sites=list(shape),
        )
    return site


def run_taps(
    session: RunnableSession,
    feeds: Mapping[str, Array],
    fixed_batch: int = 0,
    cancellation: Cancellation | None = None,
    *,
    keep_memory: bool = False,
) -> dict[str, Array]:
    """Runs a model on any number of items, even if its file is bound to a batch size.

    Args:
        session: The model, usually a trunk.
        feeds: Every input with the items along its first axis.
        fixed_batch: The batch size that the file is bound to; 0 if any can be run. The last batch is then filled up
            with copies of the last item, whose results are dropped.
        cancellation: Stops the run.
        keep_memory: As `Session.run` takes it.

    Returns:
        Every output with the items along its first axis.

    Raises:
        OrtoscopeError: As `Session.run` raises.
    """
    if not fixed_batch:
        return session.run(feeds, cancellation, keep_memory=keep_memory)
    items = len(next(iter(feeds.values())))
    parts: list[dict[str, Array]] = []
    for start in range(0, items, fixed_batch):
        index = np.minimum(np.arange(start, start + fixed_batch), items - 1)
        part = {name: value[index] for name, value in feeds.items()}
        outputs = session.run(part, cancellation, keep_memory=keep_memory)
        parts.append({name: value[: items - start] for name, value in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
