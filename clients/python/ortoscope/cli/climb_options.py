"""What the options of `visualize` say: what is climbed, and how."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from ortoscope import objectives
from ortoscope.errors import InvalidArgument
from ortoscope.models import Model
from ortoscope.objectives import VisualizationObjective

PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
"""How names of pictures end."""

MOST_UNITS, MOST_SEEDS, MOST_ITEMS = 1_000_000, 1_000_000_000, 10_000
"""More than anybody asks for, and few enough for any message: further limits are the server's."""


@dataclass(frozen=True)
class Asked:
    """What is climbed, as the options say it."""

    tap: str
    """The tap of the units; empty for a class or an objective from a file."""

    units: tuple[int, ...]
    """The units; empty for all of them."""

    sheet: bool
    """Whether there is a picture for each of several units."""

    negative: bool
    """Whether it is made small."""

    neuron: bool
    """Whether a site is climbed rather than the mean."""

    site: tuple[int, ...]
    """The site; the middle one if empty."""

    class_: str
    """The class."""

    objective: VisualizationObjective | None
    """The objective from a file."""

    def objective_for(self, model: Model) -> VisualizationObjective:
        """The one objective."""
        if self.objective is not None:
            found = self.objective
        elif self.class_:
            is_index = self.class_.isdecimal() and self.class_ not in model.class_labels
            found = objectives.class_logit(int(self.class_) if is_index else self.class_)
        elif self.neuron:
            found = objectives.neuron(self.tap, self.units[0], self.site or None)
        else:
            found = objectives.channel(self.tap, self.units[0])
        return -found if self.negative else found


@dataclass(frozen=True)
class How:
    """How it is climbed, as the options say it."""

    preset: str
    """The preset; empty: the server's choice."""

    settings: dict[str, object]
    """Settings that are changed."""

    seed: int
    """Where randomness comes from."""


def read_settings(words: Sequence[str]) -> dict[str, object]:
    """`recipe.steps=64` → {"recipe.steps": 64}; what is no JSON stands for itself, as text.

    Raises:
        typer.BadParameter: There is no `=`, or a setting is given twice.
    """
    found: dict[str, object] = {}
    for word in words:
        name, separator, text = word.partition("=")
        if not separator or not name.strip():
            raise typer.BadParameter(f"{word!r}: write KEY=VALUE, such as recipe.steps=64.", param_hint="--set")
        if name.strip() in found:
            raise typer.BadParameter(f"{name.strip()!r} is given twice.", param_hint="--set")
        try:
            found[name.strip()] = json.loads(text, parse_constant=_refuse_constant)
        except ValueError:
            found[name.strip()] = text.strip()
    return found


def read_units(text: str) -> tuple[int, ...]:
    """`0-2,7` → (0, 1, 2, 7); `all` → ().

    Raises:
        typer.BadParameter: It is no range of units.
    """
    if text.strip() == "all":
        return ()
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part, re.ASCII)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else -1
        if not first <= last < MOST_UNITS:
            raise typer.BadParameter(f"{text!r} is no range: write 0-63, 3,5,9-12 or all.", param_hint="--units")
        found += range(first, last + 1)
    if len(set(found)) != len(found):
        raise typer.BadParameter(f"{text!r} names a unit twice.", param_hint="--units")
    return tuple(found)


def read_asked(
    tap: str,
    unit: Sequence[int],
    units: str,
    class_: str,
    objective: Path | None,
    *,
    negative: bool,
    neuron: bool,
    site: tuple[int, ...],
) -> Asked:
    """What the options ask for.

    Raises:
        typer.BadParameter: They contradict each other, or ask for nothing.
    """
    if sum(map(bool, (tap, class_, objective))) != 1:
        raise typer.BadParameter("Say what is climbed: --tap and --unit, or --class, or --objective.")
    if not tap and (unit or units or neuron or site):
        raise typer.BadParameter("--unit, --units, --neuron and --site go with --tap.")
    if tap and bool(unit) == bool(units):
        raise typer.BadParameter("Say which units of the tap: either --unit 3 or --units 0-63.", param_hint="--unit")
    if site and not neuron:
        raise typer.BadParameter("--site goes with --neuron.", param_hint="--site")
    if len(set(unit)) != len(unit):
        raise typer.BadParameter("A unit is given twice.", param_hint="--unit")
    chosen = read_units(units) if units else tuple(unit)
    written = None if objective is None else _read_objective(objective)
    return Asked(
        tap=tap,
        units=chosen,
        sheet=bool(units) or len(unit) > 1,
        negative=negative,
        neuron=neuron,
        site=site,
        class_=class_,
        objective=written,
    )


def _read_objective(path: Path) -> VisualizationObjective:
    try:
        return VisualizationObjective.from_data(json.loads(path.read_bytes(), parse_constant=_refuse_constant))
    except OSError as error:
        raise typer.BadParameter(f"{str(path)!r}: {error.strerror}.", param_hint="--objective") from None
    except (ValueError, RecursionError):
        raise typer.BadParameter(f"{str(path)!r} is no JSON.", param_hint="--objective") from None
    except InvalidArgument as error:
        raise typer.BadParameter(f"{str(path)!r}: {error.message}", param_hint="--objective") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(name)  # NaN and Infinity are no JSON
