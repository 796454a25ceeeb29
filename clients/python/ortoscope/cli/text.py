"""The command `ortoscope text`: what a unit does at each position of a text."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from ortoscope.cli.activation_table import npz_bytes
from ortoscope.cli.arguments import ModelArgument, TapOption
from ortoscope.cli.session import JsonOption, TargetOption, session
from ortoscope.files import write_file
from ortoscope.report.text import by_spread
from ortoscope.tables import Column, Table
from ortoscope.text import CONTEXT, LENGTH, Extract, TextActivations, Vocabulary, activations_of_text

_ENDINGS = {".html", ".npz"}


@dataclass(frozen=True)
class UnitRow:
    """A unit over a whole text."""

    unit: int
    """The unit."""

    low: float
    """Its smallest activation."""

    high: float
    """Its largest."""

    spread: float
    """Standard deviation over the positions."""

    follows: float
    """Correlation with the marked places; 0 without any."""


def text(
    context: typer.Context,
    model: ModelArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.txt", help="The text, in UTF-8.")],
    tap: TapOption,
    unit: Annotated[
        int | None,
        typer.Option("--unit", min=0, help="The unit, from 0; otherwise those are listed that vary most."),
    ] = None,
    mark: Annotated[
        str,
        typer.Option("--mark", metavar="REGEX", help="Find the units that tell what matches REGEX from the rest."),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="FILE.html: a page to look at; FILE.npz: the arrays."),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--vocabulary",
            metavar="FILE.json",
            help="The character of each token; otherwise the model's class labels.",
        ),
    ] = None,
    replace: Annotated[
        str, typer.Option("--replace", metavar="C", help="The character that stands in for unknown ones.")
    ] = "",
    length: Annotated[
        int, typer.Option("--length", min=1, help="Tokens at a time, for a model that takes any number.")
    ] = LENGTH,
    before: Annotated[
        int, typer.Option("--context", min=0, help="How many of them are there for context only.")
    ] = CONTEXT,
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="Units, or windows of the text, to show.")] = 10,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the units of a sequence model do while it reads a text.

    ortoscope text character-lstm FILE.txt --tap lstm.cell -o text.html
    ortoscope text character-lstm FILE.txt --tap lstm.cell --mark '"[^"]*"' -o text.html
    ortoscope text character-lstm FILE.txt --tap lstm.cell --unit 12 --json

    Without --unit the units are listed: by how much they vary, with --mark by how well
    they tell the marked places from the rest. With --unit: the windows of the text in
    which it is largest. The page shows the text coloured by the activation of a unit,
    which can be changed on it.
    """
    if output is not None and output.suffix.lower() not in _ENDINGS:
        raise typer.BadParameter(f"{str(output)!r} ends neither in .html nor in .npz.", param_hint="--output")
    pattern = _pattern(mark)
    with session(context, target, as_json) as run:
        version = run.scope.model(model)
        found = activations_of_text(
            run.scope.rpcs,
            version.proto,
            version.tap(tap).proto,
            _read(file),
            vocabulary=None if vocabulary is None else Vocabulary.read(vocabulary),
            replace=replace,
            length=length,
            context=before,
        )
        follows = found.following(marked(found, pattern)) if pattern else np.zeros(found.unit_count)
        order = np.argsort(-np.abs(follows), kind="stable") if pattern else by_spread(found)
        chosen = int(order[0]) if unit is None else unit
        found.unit(chosen)
        if output is not None:
            _write(output, found, chosen, mark)
        if run.output.as_json:
            run.output.json(_data(found, unit, order[:top], follows, top))
            return
        if unit is None:
            run.output.table(_units(found, order[:top], follows, marked_=pattern is not None))
        else:
            run.output.table(_windows(found, unit, top))
        if output is not None:
            run.output.text(f"Saved {output}")


def marked(found: TextActivations, pattern: re.Pattern[str]) -> npt.NDArray[np.bool_]:
    """For each position whether a match of the pattern covers part of its piece."""
    ends = np.cumsum([len(piece) for piece in found.pieces])
    starts = ends - [len(piece) for piece in found.pieces]
    covered = np.zeros(len(ends), bool)
    for match in pattern.finditer(found.text):
        covered |= (starts < match.end()) & (ends > match.start())
    return covered


def _pattern(text_: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text_, re.MULTILINE) if text_ else None
    except re.error as error:
        raise typer.BadParameter(f"{text_!r} is no regular expression: {error}.", param_hint="--mark") from None


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{str(file)!r} is no UTF-8 text.", param_hint="FILE.txt") from None


def _write(output: Path, found: TextActivations, unit: int, mark: str) -> None:
    if output.suffix.lower() == ".html":
        found.save(output, unit, mark=mark)
    else:
        write_file(output, npz_bytes({"values": found.values, "pieces": np.array(found.pieces)}))


def _units(
    found: TextActivations, units: npt.NDArray[np.int64], follows: npt.NDArray[np.float64], *, marked_: bool
) -> Table[UnitRow]:
    columns: list[Column[UnitRow]] = [
        Column("unit", lambda row: row.unit, numeric=True),
        Column("least", lambda row: row.low, numeric=True),
        Column("largest", lambda row: row.high, numeric=True),
        Column("deviation", lambda row: row.spread, numeric=True),
    ]
    if marked_:
        columns.append(Column("correlation", lambda row: row.follows, numeric=True))
    return Table((_row(found, int(unit), follows) for unit in units), columns, title="units")


def _row(found: TextActivations, unit: int, follows: npt.NDArray[np.float64]) -> UnitRow:
    values = found.unit(unit)
    return UnitRow(unit, float(values.min()), float(values.max()), float(values.std()), float(follows[unit]))


def _windows(found: TextActivations, unit: int, count: int) -> Table[Extract]:
    columns: tuple[Column[Extract], ...] = (
        Column("position", lambda extract: extract.position, numeric=True),
        Column("value", lambda extract: extract.value, numeric=True),
        Column("text", lambda extract: extract.text.replace("\n", "↵")),
    )
    return Table(found.extracts(unit, count=count), columns, title="windows")


def _data(
    found: TextActivations,
    unit: int | None,
    units: npt.NDArray[np.int64],
    follows: npt.NDArray[np.float64],
    count: int,
) -> dict[str, object]:
    data: dict[str, object] = {"model": found.model, "tap": found.tap, "positions": len(found.pieces)}
    if unit is None:
        return {**data, "units": [vars(_row(found, int(each), follows)) for each in units]}
    ends = {
        name: [vars(e) for e in found.extracts(unit, count=count, least=name == "least")] for name in ("most", "least")
    }
    return {**data, "unit": unit, "values": found.unit(unit).tolist(), **ends}
