"""The units that stand out in the activations of one input, as a table, whatever reduction was asked for."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ortoscope.activations import TapActivations
from ortoscope.tables import Column, Table


@dataclass(frozen=True)
class StandingOut:
    """A unit and its value."""

    unit: int
    """The unit."""

    label: str
    """The class that it stands for, if it is an output."""

    value: float
    """Its value: what the reduction gave, or the largest of its map."""

    site: tuple[int, ...]
    """Where in the map; empty where there is no site."""


def standing_out(
    activations: TapActivations, item: int, top: int, class_labels: Sequence[str], title: str
) -> Table[StandingOut]:
    """The `top` units with the largest values on one input, descending; the lowest unit first at a tie.

    Args:
        activations: The activations of a tap.
        item: The input, from 0.
        top: How many units.
        class_labels: Names of the units, if they are the model's classes; otherwise empty.
        title: The table's title.
    """
    units, values, sites = _ranked(activations, item, top)
    rows = [
        StandingOut(unit, class_labels[unit] if unit < len(class_labels) else "", float(value), site)
        for unit, value, site in zip(units, values, sites, strict=True)
    ]
    columns: list[Column[StandingOut]] = [
        Column("unit", lambda row: row.unit, numeric=True),
        Column("value", lambda row: row.value, numeric=True),
    ]
    if class_labels:
        columns.insert(1, Column("class", lambda row: row.label))
    if any(row.site for row in rows):
        columns.append(Column("site", lambda row: row.site))
    return Table(rows, columns, title=title)


def npz_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Arrays as an .npz file; unlike `numpy.savez` for names of any kind, since a tap may be called `file`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _ranked(activations: TapActivations, item: int, top: int) -> tuple[list[int], list[float], list[tuple[int, ...]]]:
    values, sites = activations.values[item], None if activations.sites is None else activations.sites[item]
    if activations.units is not None:
        order = np.arange(len(values))[:top]
        units = activations.units[item][order]
    else:
        if activations.reduce == "none":
            values, sites = _largest(np.moveaxis(values, activations.unit_axis - 1, 0))
        order = np.argsort(-values, kind="stable")[:top]
        units = order
    found = [() if sites is None else tuple(sites[at].tolist()) for at in order]
    return units.tolist(), values[order].tolist(), found


def _largest(maps: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None]:
    """The largest value of each unit's map, and its site: the first in row-major order."""
    if maps.ndim == 1:
        return maps, None
    flat = maps.reshape(len(maps), -1)
    at = flat.argmax(axis=1)
    sites = np.stack(np.unravel_index(at, maps.shape[1:]), axis=-1).astype(np.int64)
    return np.take_along_axis(flat, at[:, None], axis=1)[:, 0], sites
