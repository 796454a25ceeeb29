"""The command `visualize`: what a network looks for, as a picture or as a sheet of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ortoscope.cli.animations import animation
from ortoscope.cli.arguments import (
    GIVE_UP,
    GiveUpOption,
    NoWaitOption,
    TimeLimitOption,
    read_duration,
    read_site,
    read_time_limit,
)
from ortoscope.cli.climb_options import (
    MOST_ITEMS,
    MOST_SEEDS,
    MOST_UNITS,
    PICTURES,
    Asked,
    How,
    read_asked,
    read_settings,
)
from ortoscope.cli.results import check_output, finish, interrupted
from ortoscope.cli.session import FAILED, JsonOption, Session, TargetOption, session
from ortoscope.climbing import climb_display
from ortoscope.errors import Cancelled
from ortoscope.examples import ExampleSet
from ortoscope.files import write_file
from ortoscope.models import Model, Tap
from ortoscope.operations import Operation
from ortoscope.picture_specs import read_spec, request_of
from ortoscope.tables import Column, Table
from ortoscope.unit_sheets import VERB as SHEET_VERB
from ortoscope.unit_sheets import UnitSheet, start_again
from ortoscope.visualization import Comparison, ScoredImage, Visualization
from ortoscope.visualizing import Request, frame_interval, stream, to_message

_PICTURE = ".png"
_ARRAYS = ".npz"
_FRAMES = ".webp"

_COMPARED = 32
"""Most activating images of each unit that a sheet is compared with: the picture's place among them is told exactly."""


def visualize(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME (its newest version) or NAME/VERSION; none with --again.")
    ] = "",
    tap: Annotated[str, typer.Option("--tap", help="Any name of the tap whose unit is climbed.")] = "",
    unit: Annotated[
        list[int] | None,
        typer.Option(
            "--unit", min=0, max=MOST_UNITS, help="The unit, from 0; several times: a sheet with a picture of each."
        ),
    ] = None,
    units: Annotated[
        str, typer.Option("--units", metavar="RANGE", help="A sheet of these units: 0-63, 3,5,9-12 or all.")
    ] = "",
    negative: Annotated[bool, typer.Option("--negative", help="What makes it small instead of large.")] = False,
    neuron: Annotated[bool, typer.Option("--neuron", help="The unit at its middle site, not its mean.")] = False,
    site: Annotated[
        str, typer.Option("--site", metavar="ROW,COLUMN", help="With --neuron: at this site; negative: from the end.")
    ] = "",
    class_: Annotated[
        str, typer.Option("--class", metavar="NAME", help="Instead of a unit: the logit of a class, by name or index.")
    ] = "",
    objective: Annotated[
        Path | None,
        typer.Option("--objective", metavar="FILE.json", help="Instead of a unit: an objective written as JSON."),
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", help="The recipe; `ortoscope presets` lists them.", show_default="lucid")
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the preset; may be given several times."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=MOST_SEEDS, help="Where randomness comes from.")
    ] = 0,
    items: Annotated[
        int,
        typer.Option(
            "--items", metavar="N", min=1, max=MOST_ITEMS, help="Pictures made at once, each from another start."
        ),
    ] = 1,
    start: Annotated[
        str, typer.Option("--start", metavar="IMAGE", help="A picture to start from, also datasets/D/images/3.")
    ] = "",
    compare: Annotated[
        str, typer.Option("--compare", metavar="DATASET", help="Tell how it compares with the images of a dataset.")
    ] = "",
    compare_seeds: Annotated[
        int,
        typer.Option("--compare-seeds", min=0, max=MOST_ITEMS, help="With --compare: and with so many other seeds."),
    ] = 0,
    frames: Annotated[
        Path | None,
        typer.Option("--frames", metavar="FILE.webp", help="Save an animation of the climb (of the first item)."),
    ] = None,
    time_budget: Annotated[
        str, typer.Option("--time-budget", metavar="TIME", help="Stop the climb after TIME and keep what there is.")
    ] = "",
    again: Annotated[
        Path | None,
        typer.Option("--again", metavar="FILE.png", help="Make this picture again from its own metadata."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help="OUT.png: the picture; OUT.npz: the arrays; of a sheet: a folder."
        ),
    ] = None,
    time_limit: TimeLimitOption = "",
    give_up_after: GiveUpOption = GIVE_UP,
    no_wait: NoWaitOption = False,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a unit, a class or any objective looks for: a picture that makes it large.

    ortoscope visualize efficientnet-lite0 --tap blocks.10 --unit 3 -o unit3.png
    ortoscope visualize efficientnet-lite0 --tap blocks.10 --unit 3 --negative --seed 1 -o unit3-negative.png
    ortoscope visualize efficientnet-lite0 --class tabby --preset robust --set recipe.steps=1024 -o tabby.png
    ortoscope visualize efficientnet-lite0 --tap blocks.10 --units 0-63 --preset lucid-fast -o sheet/
    ortoscope visualize efficientnet-lite0 --objective objective.json --items 4 -o out.png
    ortoscope visualize efficientnet-lite0 --tap blocks.4 --unit 9 --preset deepdream --start cat.jpg -o dream.png
    ortoscope visualize --again unit3.png

    objective.json, for what would be channel("blocks.10", 3) - 0.5 * channel("blocks.10", 7) in Python:

    {"sum": [{"channel": {"tap": "blocks.10", "unit": 3}},
             {"scaled": {"weight": -0.5,
                         "channel": {"tap": "blocks.10", "unit": 7}}}]}

    One picture goes to -o OUT.png; with --items they are OUT-1.png and so on. A PNG
    holds all that it was made from: --again makes it anew, and exits with 1 unless
    every byte is the same.

    Several units go to a folder, -o DIR: sheet.png, pictures.npz, provenance.json and
    the page gallery.html, with --compare beside real examples. Such work goes on in
    the server: see --no-wait.

    Ctrl-C stops the work.
    """
    limit, patience = read_time_limit(time_limit), read_duration(give_up_after, "--give-up-after")
    budget = read_duration(time_budget, "--time-budget") if time_budget else None
    how = How(preset, read_settings(settings or ()), seed)
    if frames is not None and frames.suffix.lower() != _FRAMES:
        raise typer.BadParameter(f"{str(frames)!r} does not end in .webp.", param_hint="--frames")
    if again is not None:
        others = (model, tap, unit, units, class_, objective, preset, settings, compare)
        if any(others) or negative or neuron or no_wait or items > 1:
            raise typer.BadParameter("A picture that is made again says all else itself.", param_hint="--again")
        _check_file(output)
        with session(context, target, as_json) as run:
            same = _make_again(run, again, start, frames, output)
        if not same:
            raise typer.Exit(FAILED)
        return
    if not model:
        raise typer.BadParameter("Name a model.", param_hint="MODEL")
    asked = read_asked(
        tap, unit or (), units, class_, objective, negative=negative, neuron=neuron, site=read_site(site)
    )
    if asked.sheet:
        alone = {"--items": items > 1, "--start": start, "--frames": frames, "--site": site, "--time-budget": budget}
        if wrong := [name for name, given in alone.items() if given]:
            raise typer.BadParameter(f"{wrong[0]} goes with one objective, not with several units.")
        if output is not None and output.suffix.lower() in {*PICTURES, _ARRAYS}:
            raise typer.BadParameter(f"{str(output)!r}: several units go into a folder.", param_hint="--output")
        with session(context, target, as_json) as run:
            _make_sheet(run, model, asked, how, compare, output, wait=not no_wait, limit=limit, patience=patience)
        return
    if no_wait or limit is not None:
        raise typer.BadParameter("--no-wait and --time-limit go with several units; see --time-budget.")
    _check_file(output)
    with session(context, target, as_json) as run:
        version = run.scope.model(model)
        wanted = Request(
            objective=asked.objective_for(version),
            preset=how.preset,
            settings=how.settings,
            seed=how.seed,
            items=items,
            start=start or None,
            comparison=Comparison(compare, seeds=compare_seeds) if compare else None,
            time_budget=budget,
        )
        result = _climb(run, version, wanted, frames)
        files = [] if output is None else result.save(output)
        if run.output.as_json:
            run.output.json(result.proto)
            return
        _tell(run, result, wanted, files, frames)


def _check_file(output: Path | None) -> None:
    if output is not None and output.suffix.lower() not in {_PICTURE, _ARRAYS}:
        raise typer.BadParameter(f"{str(output)!r} ends neither in .png nor in .npz.", param_hint="--output")


def _climb(run: Session, model: Model, wanted: Request, frames: Path | None) -> Visualization:
    """Climbs with progress on stderr; writes the frames, if they are asked for."""
    every = _frame_interval(run, wanted) if frames is not None else 0
    kept: list[bytes] = []
    message = to_message(run.scope.rpcs, model.proto, wanted)
    message.preview_every = every
    try:
        with climb_display(shown=True) as show:
            for event in stream(run.scope.rpcs, message):
                if isinstance(event, Visualization):
                    if frames is not None:
                        write_file(frames, animation([*kept, event[0].png]))
                    return event
                show(event)
                kept += event.previews[:1]
    except KeyboardInterrupt:
        error = Cancelled("Interrupted; the server stops.", reason="INTERRUPTED")
        if run.output.as_json:
            run.output.json({"error": error.to_dict()})
        run.output.note(error.message)
        raise
    raise AssertionError("a stream ends with a result or raises")


def _make_sheet(
    run: Session,
    model: str,
    asked: Asked,
    how: How,
    compare: str,
    folder: Path | None,
    *,
    wait: bool,
    limit: float | None,
    patience: float,
) -> None:
    """Makes a sheet of units, with real images beside the pictures if a dataset is named."""
    if wait:
        check_output(folder, UnitSheet)
    tap = run.scope.model(model).tap(asked.tap)
    operation = tap.visualize_units(
        asked.units,
        kind="neuron" if asked.neuron else "channel",
        negative=asked.negative,
        preset=how.preset,
        settings=how.settings,
        seed=how.seed,
        time_limit=limit,
    )
    examples = _examples(run, tap, compare, operation, patience) if compare and wait else None
    finish(run, operation, folder, wait=wait, own=True, give_up_after=patience, examples=examples)


def _examples(run: Session, tap: Tap, dataset: str, sheet: Operation[UnitSheet], give_up_after: float) -> ExampleSet:
    """The real images beside a sheet; an interrupt meanwhile ends the work on both."""
    search = tap.examples(dataset, count=_COMPARED, rank="mean")
    try:
        return search.result(progress=True, give_up_after=give_up_after)
    except KeyboardInterrupt:
        search.cancel()
        interrupted(run.output, sheet, own=True)
        raise


def _frame_interval(run: Session, wanted: Request) -> int:
    steps = (wanted.settings or {}).get("recipe.steps")
    if not isinstance(steps, int):
        known = {preset.name: preset.steps for preset in run.scope.presets()}
        steps = known.get(wanted.preset or "lucid", 0)
    return frame_interval(steps)


def _make_again(run: Session, path: Path, start: str, frames: Path | None, output: Path | None) -> bool:
    """Makes a picture again, says how the two compare, and whether they are the same."""
    data = path.read_bytes()
    spec = read_spec(data)
    if spec.get("verb") == SHEET_VERB:
        return _make_sheet_again(run, path, spec, output)
    wanted = request_of(spec, start or None)
    version = run.scope.model(str(spec.get("model", "")))
    result = _climb(run, version, wanted, frames)
    same = any(item.png == data for item in result)
    files = [] if output is None else result.save(output)
    if run.output.as_json:
        run.output.json(result.proto)
        return same
    _tell(run, result, wanted, files, frames)
    run.output.text(
        f"The same bytes as {path}" if same else f"Not the same bytes as {path}{_changed(spec, result.spec)}"
    )
    return same


def _make_sheet_again(run: Session, path: Path, spec: dict[str, Any], output: Path | None) -> bool:
    """The same for a sheet."""
    sheet = start_again(run.scope.rpcs, spec).result(progress=True)
    same = sheet.png == path.read_bytes()
    if output is not None:
        write_file(output, sheet.png)
    if run.output.as_json:
        run.output.json(sheet.proto)
        return same
    now = read_spec(sheet.png)
    run.output.text(f"The same bytes as {path}" if same else f"Not the same bytes as {path}{_changed(spec, now)}")
    return same


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What the specifications do not have in common, in words."""
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    told = [name for name in names if name != "item"]
    return f": it was made with another {', '.join(told)}" if told else ""


def _tell(
    run: Session,
    result: Visualization,
    wanted: Request,
    files: Sequence[Path],
    frames: Path | None,
) -> None:
    output = run.output
    output.text(f"{wanted.objective!r}{' (computed before)' if result.cached else ''}")
    output.text(result.describe())
    for item in result:
        if item.verdict is not None and item.verdict.most:
            output.table(_examples_table(item.verdict.most, item.verdict.least))
    if left_out := _seeds_left_out(wanted, result):
        output.note(f"The time was over before {left_out} of the climbs from other seeds came to their end.")
    if any(item.end == "dead" for item in result):
        output.note(
            "No gradient reaches the input, from any start: this picture shows nothing that the unit looks for."
        )
    for file in files:
        output.text(f"Saved {file}")
    if frames is not None:
        output.text(f"Saved {frames}")
    if not files:
        output.text("Save it with -o OUT.png")


def _seeds_left_out(wanted: Request, result: Visualization) -> int:
    """How many of the climbs from other seeds that were asked for are not in the verdicts."""
    asked = wanted.comparison.seeds if isinstance(wanted.comparison, Comparison) else 0
    told = [len(item.verdict.seed_objectives) for item in result if item.verdict is not None]
    return asked - min(told) if told else 0


@dataclass(frozen=True)
class _Example:
    """An image at either end."""

    end: str
    """Which end."""

    image: ScoredImage
    """The image."""


def _examples_table(most: Sequence[ScoredImage], least: Sequence[ScoredImage]) -> Table[_Example]:
    rows = [*(_Example("most", image) for image in most), *(_Example("least", image) for image in least)]
    return Table(
        rows,
        (
            Column("images", lambda row: row.end),
            Column("objective", lambda row: row.image.objective, numeric=True),
            Column("path", lambda row: row.image.path),
        ),
        title="real images",
    )
