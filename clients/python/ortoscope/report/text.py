"""The page of a text: each character coloured by the activation of a unit."""

import base64
import shlex
from typing import Any

import numpy as np
import numpy.typing as npt

from ortoscope import resource_names
from ortoscope.messages import lasting
from ortoscope.report.page import render, significant
from ortoscope.text import Extract, TextActivations

MAXIMUM_VALUES = 4_000_000
"""Activations that a page holds: about eleven megabytes."""

_LEVELS = 32767
"""The largest level of a 16-bit number; -32768 stands for what is no number."""

_EXTRACTS = 5
"""Windows of the text shown at either end."""


def render_text(found: TextActivations, unit: int | None = None, *, mark: str = "") -> str:
    """The page as one HTML file.

    All units are on the page, or those that vary most where that would be too much.

    Args:
        found: The activations.
        unit: The unit to begin with; if None the one that tells the marked places best, or varies most without any.
        mark: A regular expression whose matches are marked to begin with.

    Raises:
        InvalidArgument: UNIT_UNKNOWN.
    """
    if unit is not None:
        found.unit(unit)
    units = shown_units(found, unit)
    first = int(by_spread(found)[0]) if unit is None else unit
    context: dict[str, Any] = {
        "tap": found.display_name,
        "model": found.model,
        "positions": len(found.pieces),
        "units": len(units),
        "all_units": found.unit_count,
        "first": first,
        "mark": mark,
        "by_mark": bool(mark) and unit is None,
        "provenance": lasting(found.provenance),
        "command": command(found, first),
    }
    return render("text.html.j2", "text.js", text_data(found, units), context)


def command(found: TextActivations, unit: int, file: str = "text.txt") -> str:
    """The command that computes it again."""
    words = ["ortoscope", "text", found.model, file, "--tap", resource_names.short_tap(found.tap), "--unit", str(unit)]
    return shlex.join([*words, "-o", "text.html"])


def by_spread(found: TextActivations) -> npt.NDArray[np.int64]:
    """All units by falling standard deviation over the text."""
    spread = np.nan_to_num(found.values.astype(np.float64).std(axis=0))
    return np.argsort(-spread, kind="stable")


def shown_units(found: TextActivations, unit: int | None) -> list[int]:
    """The units that a page holds, ascending; among them the one that is asked for."""
    room = max(1, MAXIMUM_VALUES // max(1, len(found.pieces)))
    chosen = [] if unit is None else [unit]
    chosen += [int(other) for other in by_spread(found) if other != unit]
    return sorted(chosen[:room])


def text_data(found: TextActivations, units: list[int]) -> dict[str, Any]:
    """What the page's script draws from.

    Unit: `u` number, `scale` the largest absolute value, `values` 16-bit numbers in base64 of which 32767 stands for
    the scale, `low`, `high` and `spread` (least, largest, standard deviation), `most` and `least` as lists of
    [position, value, start, stop].
    """
    return {"pieces": list(found.pieces), "units": [_packed(found, unit) for unit in units]}


def _packed(found: TextActivations, unit: int) -> dict[str, Any]:
    values = found.unit(unit).astype(np.float64)
    finite = values[np.isfinite(values)]
    scale = float(np.abs(finite).max(initial=0))
    levels = np.where(np.isfinite(values), np.rint(np.nan_to_num(values) / (scale or 1) * _LEVELS), -_LEVELS - 1)
    ends = {
        name: [_extract(extract) for extract in found.extracts(unit, count=_EXTRACTS, least=name == "least")]
        for name in ("most", "least")
    }
    return {
        "u": unit,
        "scale": significant(scale),
        "low": significant(float(finite.min(initial=np.inf))) if finite.size else 0,
        "high": significant(float(finite.max(initial=-np.inf))) if finite.size else 0,
        "spread": significant(float(finite.std())) if finite.size else 0,
        "values": base64.b64encode(levels.astype("<i2").tobytes()).decode(),
        **ends,
    }


def _extract(extract: Extract) -> list[object]:
    return [extract.position, significant(extract.value), extract.start, extract.stop]
