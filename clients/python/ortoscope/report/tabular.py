"""The page of an optimal input: a bar for each feature beside the quantiles of the data."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ortoscope.messages import lasting
from ortoscope.report.page import render, significant
from ortoscope.tabular import SHARES, FeatureValue, OptimalInput

_MARGIN = 2.0
"""Percent of a chart's width that is left free at either side."""


@dataclass(frozen=True)
class Bar:
    """A feature as it is drawn; positions are percent of the chart's width."""

    feature: FeatureValue
    """The feature."""

    quantiles: Mapping[float, float]
    """Positions of the data's quantiles, by their share."""

    low: float
    """Position of the lower bound."""

    high: float
    """Position of the upper bound."""

    value: float
    """Position of the optimal value."""

    @property
    def start(self) -> float:
        """Where the bar from the median to the optimal value begins."""
        return min(self.value, self.quantiles[0.5])

    @property
    def length(self) -> float:
        """Its length."""
        return abs(self.value - self.quantiles[0.5])

    @property
    def above(self) -> bool:
        """Whether the optimal value is above the median."""
        return self.value >= self.quantiles[0.5]


def render_optimal_input(found: OptimalInput) -> str:
    """The page as one HTML file."""
    context: dict[str, Any] = {
        "found": found,
        "bars": [bar_of(feature) for feature in found.features],
        "agreeing": agreeing_starts(found),
        "provenance": lasting(found.provenance),
        "command": command(found),
        "shown": lambda number: f"{significant(number, 4):g}",
    }
    data = {
        "features": [
            {"name": feature.name, "effect": feature.effect, "shift": abs(feature.percentile - 50)}
            for feature in found.features
        ]
    }
    return render("tabular.html.j2", "tabular.js", data, context)


def bar_of(feature: FeatureValue) -> Bar:
    """Where things lie on a feature's own scale, from the least of bound and data to the greatest."""
    least, greatest = min(feature.low, feature.quantiles[0]), max(feature.high, feature.quantiles[-1])

    def place(number: float) -> float:
        if greatest <= least:
            return 50.0
        share = (number - least) / (greatest - least)
        return round(_MARGIN + (100 - 2 * _MARGIN) * min(1.0, max(0.0, share)), 3)

    return Bar(
        feature,
        {share: place(number) for share, number in zip(SHARES, feature.quantiles, strict=True)},
        place(feature.low),
        place(feature.high),
        place(feature.value),
    )


def agreeing_starts(found: OptimalInput) -> int:
    """How many starts came as high as the best, to a hundredth of what the climb gained."""
    best = found.starts[0]
    room = 0.01 * abs(best - found.at_median)
    return sum(end >= best - room for end in found.starts)


def command(found: OptimalInput) -> str:
    """The command that computes it again, but for the file of the data."""
    words = ["ortoscope", "optimal-input", found.model, *found.options, "--data", "data.csv", "-o", "optimal.html"]
    return shlex.join(words)
