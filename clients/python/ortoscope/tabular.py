"""What a model of tables looks for: the row of features, within bounds, that makes a class or unit as large as can be.

The row is found by gradient ascent between the bounds (the preset `vector`) from several starts, and told beside the
data's own distribution: a value that no row has is no evidence of what the model does with real ones.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ortoscope import gradients, objectives, resource_names, visualizing
from ortoscope.errors import FailedPrecondition, InvalidArgument
from ortoscope.files import write_file
from ortoscope.gradients import Objective
from ortoscope.objectives import VisualizationObjective
from ortoscope.rpcs import Rpcs
from ortoscope.tensors import dtype_of
from ortoscope.v1 import gradients_pb2, models_pb2, provenance_pb2

Array = npt.NDArray[np.float64]

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The quantiles of the data that are told of each feature."""

STARTS = 8
"""Starts of the climb, of which the best end is kept."""

STEPS = 256
"""Steps of the climb."""

_SPREAD = 0.5
"""Standard deviation of the starts around the median, in halves of the distance between the bounds."""

_IDLE = 1e-4
"""Part of what the climb gained that a feature must be worth to leave its median."""

_AT_BOUND = 1e-5
"""Part of the distance between the bounds within which a value counts as being at one."""


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Rows of data, to know what values the features take.

    Raises:
        InvalidArgument: TABLE_UNFIT: no rows, another number of names than columns, or a column without any number.
    """

    names: tuple[str, ...]
    """Name of each feature, in the model's order."""

    values: Array
    """(rows, features) float64; NaN where a value is missing."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not self.values.size or self.values.shape[1] != len(self.names):
            raise _unfit(f"{len(self.names)} names do not go with an array of shape {self.values.shape}")
        if np.isinf(self.values).any():
            raise _unfit("it holds infinite values")
        empty = np.flatnonzero(np.isnan(self.values).all(axis=0))
        if empty.size:
            raise _unfit(f"the column {self.names[int(empty[0])]!r} holds no number")

    @classmethod
    def read(cls, path: str | Path, *, drop: Sequence[str] = ()) -> "FeatureTable":
        """A CSV file with one row of names, or none; its columns are the features in the model's order.

        Args:
            path: The file.
            drop: Names of columns that are no features, such as the one that is predicted.

        Raises:
            InvalidArgument: TABLE_UNREADABLE, COLUMN_UNKNOWN, TABLE_UNFIT.
            OSError: The file cannot be read.
        """
        try:
            with Path(path).open(newline="", encoding="utf-8-sig") as file:
                rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
        except (UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(path, str(error)) from None
        if not rows:
            raise _unreadable(path, "it is empty")
        named = any(_number(cell) is None for cell in rows[0])
        names = [cell.strip() for cell in rows[0]] if named else [str(column) for column in range(len(rows[0]))]
        for name in drop:
            if name not in names:
                raise InvalidArgument(
                    f"{str(path)!r} has no column {name!r}; it has {', '.join(names)}.",
                    reason="COLUMN_UNKNOWN",
                    field="drop",
                    metadata={"column": name, "columns": ", ".join(names)},
                )
        kept = [column for column, name in enumerate(names) if name not in drop]
        values = np.full((len(rows) - named, len(kept)), np.nan)
        for line, row in enumerate(rows[named:]):
            if len(row) != len(names):
                raise _unreadable(path, f"row {line + 1 + named} has {len(row)} cells, not {len(names)}")
            for position, column in enumerate(kept):
                number = _number(row[column])
                if number is None:
                    raise _unreadable(
                        path,
                        f"{row[column]!r} in the column {names[column]!r}, row {line + 1 + named}, is no number; leave "
                        "the column out if it is no feature",
                    )
                values[line, position] = number
        return cls(tuple(names[column] for column in kept), values)

    def quantiles(self, shares: Sequence[float]) -> Array:
        """(shares, features): the values below which these shares of the rows lie."""
        found: Array = np.nanquantile(self.values, shares, axis=0)
        return found

    def percentiles(self, row: npt.ArrayLike) -> Array:
        """For each feature of a row the share in percent of the data below it, those equal counted half."""
        given = np.asarray(row, np.float64)
        present = (~np.isnan(self.values)).sum(axis=0)
        below, equal = (self.values < given).sum(axis=0), (self.values == given).sum(axis=0)
        shares: Array = 100 * (below + equal / 2) / present
        return shares


@dataclass(frozen=True)
class FeatureValue:
    """One feature of the optimal input."""

    name: str
    """Its name."""

    value: float
    """The optimal value."""

    low: float
    """The least value that was allowed."""

    high: float
    """The greatest value that was allowed."""

    quantiles: tuple[float, ...]
    """The data's quantiles at `SHARES`."""

    percentile: float
    """Share of the data below the value, in percent."""

    effect: float
    """How much of the objective is lost if this feature alone goes back to the data's median."""

    slope: float
    """The derivative of the objective by this feature at the optimum."""

    @property
    def median(self) -> float:
        """The data's median."""
        return self.quantiles[SHARES.index(0.5)]

    @property
    def at(self) -> str:
        """Which bound it lies at: "low" or "high"; "fixed" where both are the same, empty between them."""
        room = _AT_BOUND * (self.high - self.low)
        if self.high <= self.low:
            return "fixed"
        return "low" if self.value <= self.low + room else "high" if self.value >= self.high - room else ""


@dataclass(frozen=True, eq=False)
class OptimalInput:
    """The row that makes an objective as large as was found; `numpy.asarray` of it is the row."""

    features: tuple[FeatureValue, ...]
    """The features, in the model's order."""

    objective: float
    """The objective on the row."""

    at_median: float
    """The objective on the row of all medians, from around which the climb started."""

    starts: tuple[float, ...]
    """What each start of the climb came to, descending; unequal numbers tell of several summits."""

    goal: str
    """What was climbed, in words."""

    rows: int
    """Rows of the data."""

    model: str
    """The model version as people write it, `name/version`."""

    provenance: provenance_pb2.Provenance
    """What it was computed from."""

    spec: Mapping[str, Any]
    """The request in full, every default filled in."""

    options: tuple[str, ...]
    """How the command line says what was asked, but for the data."""

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """The row, (features,)."""
        return np.array([feature.value for feature in self.features], np.float32)

    def page(self) -> str:
        """A self-contained page: a bar for each feature beside the data's quantiles."""
        from ortoscope.report.tabular import render_optimal_input  # noqa: PLC0415 - templates, only where needed

        return render_optimal_input(self)

    def save(self, path: str | Path) -> None:
        """Writes the page.

        Raises:
            OSError: The file cannot be written.
        """
        write_file(Path(path), self.page().encode())

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<OptimalInput of {self.goal}: {self.objective:.4g}, at the median {self.at_median:.4g}>"


def optimal_input(
    rpcs: Rpcs,
    model: models_pb2.ModelVersion,
    objective: Objective,
    data: FeatureTable,
    *,
    negative: bool = False,
    within: tuple[float, float] = (0.0, 1.0),
    bounds: Mapping[str, tuple[float, float]] | None = None,
    steps: int = STEPS,
    starts: int = STARTS,
    seed: int = 0,
) -> OptimalInput:
    """Finds the row of features that makes an objective large, each feature between bounds.

    Steps are measured in halves of the distance between a feature's bounds, so that features of different units are
    treated alike. A feature whose bounds are the same stays where it is, and one that changes nothing is left at its
    median.

    Args:
        rpcs: The calls.
        model: The model version; its only input takes rows, (batch, features).
        objective: The class or unit.
        data: Rows of data: bounds are quantiles of them, and the result is told beside their distribution.
        negative: Whether the objective is made as small as it can be instead.
        within: The quantiles of the data that are the bounds; (0, 1) are its extremes.
        bounds: Other bounds for some features, by name.
        steps: Steps of the climb.
        starts: Starts around the medians.
        seed: Where the starts come from.

    Raises:
        OrtoscopeError: As Visualization.Visualize and Gradients.ComputeGradient; FailedPrecondition:
            INPUT_NOT_FEATURES; InvalidArgument: FEATURES_MISMATCH, BOUNDS_UNFIT, FEATURE_UNKNOWN,
            OBJECTIVE_UNSUPPORTED.
    """
    _check_input(model, data)
    low, high, median = _limits(data, within, bounds or {})
    climbed = _climbed(objective, negative=negative)
    request = visualizing.Request(
        climbed,
        preset="vector",
        settings={
            "parameterization.low": low.tolist(),
            "parameterization.high": high.tolist(),
            "parameterization.centre": median.tolist(),
            "parameterization.scale": ((high - low) / 2).tolist(),
            "parameterization.sd": _SPREAD,
            "recipe.steps": steps,
        },
        seed=seed,
        items=starts,
    )
    found = visualizing.visualize(rpcs, visualizing.to_message(rpcs, model, request))
    ends = np.where(np.isfinite(found.objective), found.objective, -np.inf)
    row = np.asarray(found.items[int(ends.argmax())].values, np.float32)
    answers = _Answers.ask(rpcs, model, objective, row, median, negative=negative)
    idle = np.abs(answers.effects) <= _IDLE * abs(answers.objective - answers.at_median)
    if idle.any():
        answers = _Answers.ask(rpcs, model, objective, np.where(idle, median, row), median, negative=negative)
    return OptimalInput(
        features=_features(data, answers, low, high),
        objective=answers.objective,
        at_median=answers.at_median,
        starts=tuple(sorted(map(float, found.objective), reverse=True)),
        goal=_goal(objective, answers.asked, negative=negative),
        rows=len(data.values),
        model=resource_names.short_model(model.name),
        provenance=found.provenance,
        spec=found.spec,
        options=_options(
            objective, negative=negative, within=within, bounds=bounds or {}, steps=steps, starts=starts, seed=seed
        ),
    )


@dataclass(frozen=True, eq=False)
class _Answers:
    """What the model makes of a row, of the medians, and of the row with each feature put back to its median."""

    row: npt.NDArray[np.float32]
    objective: float
    at_median: float
    effects: Array
    slopes: Array
    asked: gradients.Gradients

    @classmethod
    def ask(
        cls,
        rpcs: Rpcs,
        model: models_pb2.ModelVersion,
        objective: Objective,
        row: npt.NDArray[np.float32],
        median: npt.NDArray[np.float32],
        *,
        negative: bool,
    ) -> "_Answers":
        put_back = np.where(np.eye(len(row), dtype=bool), median, row)
        asked = gradients.compute(rpcs, model, np.concatenate([[median], [row], put_back]), objective)
        sign = -1.0 if negative else 1.0
        numbers = sign * asked.objective.astype(np.float64)
        slopes = sign * asked.only[1].astype(np.float64)
        return cls(row, float(numbers[1]), float(numbers[0]), numbers[1] - numbers[2:], slopes, asked)


def _features(
    data: FeatureTable, answers: _Answers, low: npt.NDArray[np.float32], high: npt.NDArray[np.float32]
) -> tuple[FeatureValue, ...]:
    percentiles, quantiles = data.percentiles(answers.row), data.quantiles(SHARES)
    return tuple(
        FeatureValue(
            name=name,
            value=float(answers.row[number]),
            low=float(low[number]),
            high=float(high[number]),
            quantiles=tuple(quantiles[:, number].tolist()),
            percentile=float(percentiles[number]),
            effect=float(answers.effects[number]),
            slope=float(answers.slopes[number]),
        )
        for number, name in enumerate(data.names)
    )


def _options(
    objective: Objective,
    *,
    negative: bool,
    within: tuple[float, float],
    bounds: Mapping[str, tuple[float, float]],
    steps: int,
    starts: int,
    seed: int,
) -> tuple[str, ...]:
    given = objective.proto
    match given.WhichOneof("kind"):
        case "class_logit":
            words = ["--class", str(_class(given.class_logit))]
        case "class_probability":
            words = ["--class", str(_class(given.class_probability)), "--probability"]
        case "unit":
            words = ["--tap", given.unit.tap, "--unit", str(given.unit.unit)]
        case _:
            words = ["--tap", given.channel_mean.tap, "--unit", str(given.channel_mean.unit)]
    words += ["--negative"] if negative else []
    words += ["--within", f"{within[0]:g},{within[1]:g}"] if within != (0.0, 1.0) else []
    for name, (least, greatest) in bounds.items():
        words += ["--bound", f"{name}={least:g},{greatest:g}"]
    defaults = (("steps", steps, STEPS), ("starts", starts, STARTS), ("seed", seed, 0))
    for name, number, default in defaults:
        words += [f"--{name}", str(number)] if number != default else []
    return tuple(words)


def _climbed(objective: Objective, *, negative: bool) -> VisualizationObjective:
    """The same number as an objective of a visualization."""
    given = objective.proto
    match given.WhichOneof("kind"):
        case "class_logit":
            found = objectives.class_logit(_class(given.class_logit))
        case "class_probability":
            found = objectives.class_probability(_class(given.class_probability))
        case "channel_mean":
            found = objectives.channel(given.channel_mean.tap, given.channel_mean.unit)
        case "unit":
            found = objectives.neuron(given.unit.tap, given.unit.unit, tuple(given.unit.site) or None)
        case kind:
            raise InvalidArgument(
                f"An objective of the kind {kind} cannot be climbed here; choose a class or a unit.",
                reason="OBJECTIVE_UNSUPPORTED",
                field="objective",
                metadata={"kind": str(kind)},
            )
    return -found if negative else found


def _class(reference: gradients_pb2.ClassReference) -> int | str:
    return reference.label if reference.WhichOneof("reference") == "label" else int(reference.index)


def _goal(objective: Objective, asked: gradients.Gradients, *, negative: bool) -> str:
    given = objective.proto
    kind = given.WhichOneof("kind")
    if kind in {"class_logit", "class_probability"}:
        label = f" ({asked.class_label})" if asked.class_label else ""
        what = f"the {'logit' if kind == 'class_logit' else 'probability'} of class {asked.class_index}{label}"
    else:
        chosen = given.unit if kind == "unit" else given.channel_mean
        what = f"unit {chosen.unit} of {chosen.tap}"
    return f"minus {what}" if negative else what


def _check_input(model: models_pb2.ModelVersion, data: FeatureTable) -> None:
    shapes = [list(entry.shape) for entry in model.inputs]
    dtype = dtype_of(model.inputs[0].data_type) if len(shapes) == 1 else None
    if len(shapes) != 1 or len(shapes[0]) != 2 or dtype is None or dtype.kind != "f":
        inputs = ", ".join(f"{entry.name} {list(entry.shape)}" for entry in model.inputs)
        raise FailedPrecondition(
            f"{resource_names.short_model(model.name)} does not take rows of features alone: its inputs are {inputs}. "
            "An optimal row needs a model with one input of floating-point numbers, (batch, features).",
            reason="INPUT_NOT_FEATURES",
            field="model",
            metadata={"inputs": inputs},
        )
    if shapes[0][1] not in {-1, len(data.names)}:
        raise InvalidArgument(
            f"The model takes {shapes[0][1]} features, and the data have {len(data.names)}: {', '.join(data.names)}. "
            "Give one column for each feature, in the model's order, and drop the others.",
            reason="FEATURES_MISMATCH",
            field="data",
            metadata={"features": str(shapes[0][1]), "columns": str(len(data.names))},
        )


def _limits(
    data: FeatureTable, within: tuple[float, float], bounds: Mapping[str, tuple[float, float]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Low, high, and the median brought between them, in the type that the model is given."""
    if not 0 <= within[0] <= within[1] <= 1:
        raise _bounds_unfit(f"the quantiles {within[0]:g} and {within[1]:g} are not in order between 0 and 1")
    low, high = data.quantiles(within)
    for name, (least, greatest) in bounds.items():
        if name not in data.names:
            raise InvalidArgument(
                f"There is no feature {name!r}; there are {', '.join(data.names)}.",
                reason="FEATURE_UNKNOWN",
                field="bounds",
                metadata={"feature": name},
            )
        if not (math.isfinite(least) and math.isfinite(greatest) and least <= greatest):
            raise _bounds_unfit(f"{name!r} cannot run from {least:g} to {greatest:g}")
        low[data.names.index(name)], high[data.names.index(name)] = least, greatest
    least32, greatest32 = low.astype(np.float32), high.astype(np.float32)
    return least32, greatest32, np.clip(data.quantiles([0.5])[0].astype(np.float32), least32, greatest32)


def _number(cell: str) -> float | None:
    """A cell's number, NaN for a missing one; None for anything else."""
    text = cell.strip()
    if text.lower() in {"", "na", "nan", "null"}:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _unreadable(path: str | Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"No features can be read from {str(path)!r}: {why}.",
        reason="TABLE_UNREADABLE",
        field="data",
        metadata={"path": str(path)},
    )


def _unfit(why: str) -> InvalidArgument:
    return InvalidArgument(f"The data do not tell how the features lie: {why}.", reason="TABLE_UNFIT", field="data")


def _bounds_unfit(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"The bounds do not fit: {why}. Give finite numbers, the smaller one first.",
        reason="BOUNDS_UNFIT",
        field="bounds",
    )
