"""The command `ortoscope optimal-input`: the row of features that a model of tables looks for."""

from pathlib import Path
from typing import Annotated

import typer

from ortoscope.cli.arguments import ModelArgument
from ortoscope.cli.session import JsonOption, TargetOption, session
from ortoscope.gradients import Objective
from ortoscope.models import Model
from ortoscope.tables import Column, Table
from ortoscope.tabular import STARTS, STEPS, FeatureTable, FeatureValue, OptimalInput
from ortoscope.tabular import optimal_input as find_optimal_input


def optimal_input(
    context: typer.Context,
    model: ModelArgument,
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE.csv", help="Rows of data, a column for each feature in order.")
    ],
    class_: Annotated[
        str, typer.Option("--class", metavar="NAME", help="Make the logit of this class large, by name or index.")
    ] = "",
    probability: Annotated[bool, typer.Option("--probability", help="The probability of the class instead.")] = False,
    tap: Annotated[str, typer.Option("--tap", help="Instead of a class: any name of a tap.")] = "",
    unit: Annotated[int | None, typer.Option("--unit", min=0, help="The unit of the tap, from 0.")] = None,
    negative: Annotated[bool, typer.Option("--negative", help="Make it as small as can be.")] = False,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", metavar="COLUMN", help="A column that is no feature; may be given several times."),
    ] = None,
    within: Annotated[
        str, typer.Option("--within", metavar="LOW,HIGH", help="Quantiles of the data that are the bounds.")
    ] = "0,1",
    bound: Annotated[
        list[str] | None,
        typer.Option("--bound", metavar="COLUMN=LOW,HIGH", help="Other bounds; may be given several times."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the climb.")] = STEPS,
    starts: Annotated[int, typer.Option("--starts", min=1, help="Starts around the medians.")] = STARTS,
    seed: Annotated[int, typer.Option("--seed", help="Where the starts come from.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="A page with a chart.")
    ] = None,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the row of features, between bounds, that makes a class or unit largest.

    ortoscope optimal-input credit --class default --data train.csv --drop label -o out.html
    ortoscope optimal-input credit --class default --data train.csv --within 0.05,0.95
    ortoscope optimal-input credit --tap hidden --unit 3 --data train.csv --bound age=18,70

    Bounds are the extremes of the data, or the quantiles that --within names. Each
    feature is told beside the data's median, with the share of the data below it and
    what is lost if it alone goes back to the median.
    """
    if bool(tap) == bool(class_):
        raise typer.BadParameter("Say what is made large: either --class, or --tap and --unit.")
    if tap and unit is None:
        raise typer.BadParameter("Say which unit of the tap: --unit 3.", param_hint="--unit")
    if output is not None and output.suffix.lower() != ".html":
        raise typer.BadParameter(f"{str(output)!r} does not end in .html.", param_hint="--output")
    quantiles = _pair(within, "--within")
    bounds = dict(_bound(text) for text in bound or ())
    with session(context, target, as_json) as run:
        version = run.scope.model(model)
        found = find_optimal_input(
            run.scope.rpcs,
            version.proto,
            _objective(version, class_, tap, unit, probability=probability),
            FeatureTable.read(data, drop=drop or ()),
            negative=negative,
            within=quantiles,
            bounds=bounds,
            steps=steps,
            starts=starts,
            seed=seed,
        )
        if output is not None:
            found.save(output)
        if run.output.as_json:
            run.output.json(_data(found))
            return
        run.output.text(f"{found.goal}: {found.objective:.4g}, at the medians {found.at_median:.4g}")
        run.output.table(_table(found))
        if output is not None:
            run.output.text(f"Saved {output}")


def _objective(model: Model, class_: str, tap: str, unit: int | None, *, probability: bool) -> Objective:
    if tap:
        return Objective.channel_mean(tap, unit or 0)
    wanted = int(class_) if class_.isdecimal() and class_ not in model.class_labels else class_
    return Objective.class_probability(wanted) if probability else Objective.class_logit(wanted)


def _pair(text: str, option: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not two numbers, such as 0.05,0.95.", param_hint=option) from None
    return low, high


def _bound(text: str) -> tuple[str, tuple[float, float]]:
    name, equals, numbers = text.rpartition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is no bound; write it as age=18,70.", param_hint="--bound")
    return name, _pair(numbers, "--bound")


def _table(found: OptimalInput) -> Table[FeatureValue]:
    columns: tuple[Column[FeatureValue], ...] = (
        Column("feature", lambda feature: feature.name),
        Column("optimum", lambda feature: feature.value, numeric=True),
        Column("median", lambda feature: feature.median, numeric=True),
        Column("percentile", lambda feature: feature.percentile, numeric=True),
        Column("at bound", lambda feature: feature.at),
        Column("lost", lambda feature: feature.effect, numeric=True),
    )
    return Table(sorted(found.features, key=lambda feature: -feature.effect), columns, title="features")


def _data(found: OptimalInput) -> dict[str, object]:
    return {
        "model": found.model,
        "goal": found.goal,
        "objective": found.objective,
        "at_median": found.at_median,
        "starts": list(found.starts),
        "features": [
            {**vars(feature), "quantiles": list(feature.quantiles), "at": feature.at} for feature in found.features
        ],
    }
