"""The report of an example set."""

import shlex
from collections.abc import Sequence
from typing import Any

from ortoscope import resource_names
from ortoscope.examples import RANKS, Example, UnitExamples
from ortoscope.messages import lasting
from ortoscope.report.page import embedded_pictures, render, significant
from ortoscope.report.sources import Sources
from ortoscope.v1 import activations_pb2

_RANKED_BY = {
    "max": "the unit's largest value over all sites",
    "mean": "the unit's mean over all sites",
    "min": "the unit's smallest value over all sites",
}


def render_examples(example_set: activations_pb2.ExampleSet, units: Sequence[UnitExamples], sources: Sources) -> str:
    """The report as one HTML file.

    Args:
        example_set: What was asked, provenance.
        units: The examples of each unit.
        sources: The images' pictures and paths, and the tap's names.
    """
    spec = example_set.spec
    context: dict[str, Any] = {
        "example_set": example_set,
        "spec": spec,
        "tap": sources.tap,
        "model": resource_names.short_model(resource_names.version_of_tap(spec.tap)),
        "dataset": resource_names.short_dataset(spec.dataset),
        "units": len(units),
        "ranked_by": _RANKED_BY[_rank(example_set)],
        "provenance": lasting(example_set.provenance),
        "command": command(example_set),
        "without_picture": any(unit.most for unit in units) and not sources.pictures,
    }
    return render("examples.html.j2", "examples.js", examples_data(units, sources), context)


def command(example_set: activations_pb2.ExampleSet, folder: str = "report") -> str:
    """The command that computes an example set again."""
    spec = example_set.spec
    words = ["ortoscope", "examples", resource_names.short_model(resource_names.version_of_tap(spec.tap))]
    words += ["--tap", resource_names.short_tap(spec.tap), "--dataset", resource_names.short_dataset(spec.dataset)]
    for split in spec.splits:
        words += ["--split", split]
    words += ["--count", str(spec.count), "--rank", _rank(example_set), "-o", folder]
    return shlex.join(words)


def examples_data(units: Sequence[UnitExamples], sources: Sources) -> dict[str, Any]:
    """What the report's script draws from.

    Unit: `u` number, `most` and `least` as lists of [image, value, site, position].
    """
    return {
        "units": [
            {"u": unit.unit, "most": [_packed(e) for e in unit.most], "least": [_packed(e) for e in unit.least]}
            for unit in units
        ],
        "paths": {str(index): path for index, path in sources.paths.items()},
        "pictures": embedded_pictures(sources.pictures),
    }


def _packed(example: Example) -> list[object]:
    position = [round(fraction, 4) for fraction in example.position]
    return [example.index, significant(example.value), list(example.site), position]


def _rank(example_set: activations_pb2.ExampleSet) -> str:
    return next((name for name, number in RANKS.items() if number == example_set.spec.reduction), "max")
