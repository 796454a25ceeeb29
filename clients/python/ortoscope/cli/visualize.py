"""The commands about what a network looks for: `visualize`, `presets` and `test-patch`."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from ortoscope import objectives, visualization
from ortoscope.cli.arguments import (
    GIVE_UP,
    GiveUpOption,
    ModelArgument,
    NoWaitOption,
    TimeLimitOption,
    read_duration,
    read_site,
    read_time_limit,
)
from ortoscope.cli.results import check_output, finish, interrupted
from ortoscope.cli.session import FAILED, JsonOption, Session, TargetOption, session
from ortoscope.climbing import Climb, climb_display
from ortoscope.errors import Cancelled, InvalidArgument
from ortoscope.examples import ExampleSet
from ortoscope.files import write_file
from ortoscope.models import Model, Tap
from ortoscope.objectives import VisualizationObjective
from ortoscope.operations import Operation
from ortoscope.patches import PLACES
from ortoscope.presets import preset_table
from ortoscope.rpcs import all_pages
from ortoscope.tables import Column, Table
from ortoscope.unit_sheets import VERB as SHEET_VERB
from ortoscope.unit_sheets import UnitSheet, start_again
from ortoscope.v1 import visualization_pb2
from ortoscope.visualization import Comparison, Request, ScoredImage, Visualization

_PICTURE = ".png"
_ARRAYS = ".npz"
_FRAMES = ".webp"
_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}

_FRAME_MILLISECONDS = 80
_LAST_FRAME_MILLISECONDS = 1500
"""How long frames of an animation are shown: quick enough to move, and the end long enough to be looked at."""

_COMPARED = 32
"""Most activating images of each unit that a sheet is compared with: the picture's place among them is told exactly."""

_MOST_UNITS, _MOST_SEEDS, _MOST_ITEMS = 1_000_000, 1_000_000_000, 10_000
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


def visualize(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME (its newest version) or NAME/VERSION; none with --again.")
    ] = "",
    tap: Annotated[str, typer.Option("--tap", help="Any name of the tap whose unit is climbed.")] = "",
    unit: Annotated[
        list[int] | None,
        typer.Option(
            "--unit", min=0, max=_MOST_UNITS, help="The unit, from 0; several times: a sheet with a picture of each."
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
        int, typer.Option("--seed", metavar="N", min=0, max=_MOST_SEEDS, help="Where randomness comes from.")
    ] = 0,
    items: Annotated[
        int,
        typer.Option(
            "--items", metavar="N", min=1, max=_MOST_ITEMS, help="Pictures made at once, each from another start."
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
        typer.Option("--compare-seeds", min=0, max=_MOST_ITEMS, help="With --compare: and with so many other seeds."),
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
             {"scaled": {"weight": -0.5, "channel": {"tap": "blocks.10", "unit": 7}}}]}

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
    asked = _asked(tap, unit or (), units, class_, objective, negative=negative, neuron=neuron, site=read_site(site))
    if asked.sheet:
        alone = {"--items": items > 1, "--start": start, "--frames": frames, "--site": site, "--time-budget": budget}
        if wrong := [name for name, given in alone.items() if given]:
            raise typer.BadParameter(f"{wrong[0]} goes with one objective, not with several units.")
        if output is not None and output.suffix.lower() in {*_PICTURES, _ARRAYS}:
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
        _tell(run, result, wanted.objective, files, frames)


def presets(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Show this preset with every setting.")] = "",
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the presets for visualizations, or every setting of one.

    ortoscope presets
    ortoscope presets maco

    A setting is changed with `ortoscope visualize … --set NAME=VALUE`; values are
    JSON, and a word stands for itself.
    """
    with session(context, target, as_json) as run:
        response = all_pages(run.scope.rpcs.list_presets, visualization_pb2.ListPresetsRequest())
        table = preset_table(response)
        if name:
            chosen = [preset for preset in table if preset.name == name]
            if not chosen:
                known = ", ".join(preset.name for preset in table)
                raise InvalidArgument(
                    f"There is no preset {name!r}; there are {known}.",
                    reason="UNKNOWN_PRESET",
                    metadata={"preset": name},
                )
            kept = [entry for entry in response.presets if entry.name == name]
            response = visualization_pb2.ListPresetsResponse(presets=kept)
            run.output.text(chosen[0].describe())
        elif not run.output.as_json:
            run.output.table(table)
        if run.output.as_json:
            run.output.json(response)


def patch_test(
    context: typer.Context,
    model: ModelArgument,
    patch: Annotated[str, typer.Option("--patch", metavar="PATCH.png", help="The patch, a picture.")],
    over: Annotated[
        list[str],
        typer.Option("--over", metavar="DIR", help="The pictures: a folder, or files; may be given several times."),
    ],
    aim: Annotated[
        str,
        typer.Option(
            "--class", metavar="NAME", help="The class that it shall bring about; otherwise any change counts."
        ),
    ] = "",
    size: Annotated[
        list[float] | None,
        typer.Option("--size", help="Width as a share of the shorter side; several times.", show_default="0.1 to 0.4"),
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option("--place", help=f"{', '.join(PLACES)}; several times.", show_default="the corners"),
    ] = None,
    controls: Annotated[
        int,
        typer.Option("--controls", metavar="N", min=0, max=_MOST_ITEMS, help="Controls of noise for each trial."),
    ] = 4,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=_MOST_SEEDS, help="Where the draws of noise come from.")
    ] = 0,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Paste a patch over pictures and count whose class changes, beside noise of the same size and colours.

    ortoscope visualize efficientnet-lite0 --class baseball --set size=64 -o patch.png
    ortoscope test-patch efficientnet-lite0 --patch patch.png --over whales/ --class baseball
    ortoscope test-patch efficientnet-lite0 --patch patch.png --over whales/ --size 0.3 --place top_left

    `pictures` were of another class before; `flips` are those that the patch
    changed; `with noise` is the share that the patch's own pixels, shuffled, changed.
    Only what the patch does beyond noise tells something.
    """
    pictures = _pictures(over)
    if unknown := [name for name in place or () if name not in PLACES]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(PLACES)}.", param_hint="--place")
    with session(context, target, as_json) as run:
        version = run.scope.model(model)
        wanted: int | str | None = aim or None
        if aim.isdecimal() and aim not in version.class_labels:
            wanted = int(aim)
        found = version.test_patch(
            patch,
            pictures,
            sizes=size or (),
            places=place or (),  # type: ignore[arg-type] # checked above
            target=wanted,
            controls=controls,
            seed=seed,
        )
        if run.output.as_json:
            run.output.json(found.proto)
            return
        run.output.text(found.title)
        run.output.table(found)


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
        if not first <= last < _MOST_UNITS:
            raise typer.BadParameter(f"{text!r} is no range: write 0-63, 3,5,9-12 or all.", param_hint="--units")
        found += range(first, last + 1)
    if len(set(found)) != len(found):
        raise typer.BadParameter(f"{text!r} names a unit twice.", param_hint="--units")
    return tuple(found)


def _refuse_constant(name: str) -> object:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _asked(
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


def _check_file(output: Path | None) -> None:
    if output is not None and output.suffix.lower() not in {_PICTURE, _ARRAYS}:
        raise typer.BadParameter(f"{str(output)!r} ends neither in .png nor in .npz.", param_hint="--output")


def _climb(run: Session, model: Model, wanted: Request, frames: Path | None) -> Visualization:
    """Climbs with progress on stderr; writes the frames, if they are asked for."""
    every = _frame_interval(run, wanted) if frames is not None else 0
    kept: list[bytes] = []

    def keep(climb: Climb) -> None:
        if climb.previews:
            kept.append(climb.previews[0])

    message = visualization.to_message(run.scope.rpcs, model.proto, wanted)
    message.preview_every = every
    try:
        with climb_display(shown=True) as show:
            for event in visualization.stream(run.scope.rpcs, message):
                if isinstance(event, Visualization):
                    if frames is not None:
                        write_file(frames, animation([*kept, event[0].png]))
                    return event
                show(event)
                keep(event)
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
    return visualization.frame_interval(steps)


def animation(pictures: Sequence[bytes]) -> bytes:
    """An animated WebP of PNGs, all brought to the size of the last.

    Raises:
        InvalidArgument: NOT_A_PICTURE.
    """
    if not pictures[-1]:
        raise InvalidArgument("What was found is no picture, so that it has no frames.", reason="NOT_A_PICTURE")
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
    size = opened[-1].size
    resized = [picture.resize(size, Image.Resampling.BICUBIC) for picture in opened]
    buffer = io.BytesIO()
    times = [_FRAME_MILLISECONDS] * (len(resized) - 1) + [_LAST_FRAME_MILLISECONDS]
    resized[0].save(
        buffer, "WEBP", save_all=True, append_images=resized[1:], duration=times, loop=0, quality=85, method=4
    )
    return buffer.getvalue()


def _make_again(run: Session, path: Path, start: str, frames: Path | None, output: Path | None) -> bool:
    """Makes a picture again, says how the two compare, and whether they are the same."""
    data = path.read_bytes()
    spec = visualization.read_spec(data)
    if spec.get("verb") == SHEET_VERB:
        return _make_sheet_again(run, path, spec, output)
    wanted = visualization.request_of(spec, start or None)
    version = run.scope.model(str(spec.get("model", "")))
    result = _climb(run, version, wanted, frames)
    same = any(item.png == data for item in result)
    files = [] if output is None else result.save(output)
    if run.output.as_json:
        run.output.json(result.proto)
        return same
    _tell(run, result, wanted.objective, files, frames)
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
    now = visualization.read_spec(sheet.png)
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
    objective: VisualizationObjective,
    files: Sequence[Path],
    frames: Path | None,
) -> None:
    output = run.output
    output.text(f"{objective!r}{' (computed before)' if result.cached else ''}")
    output.text(result.describe())
    for item in result:
        if item.verdict is not None and item.verdict.most:
            output.table(_examples_table(item.verdict.most, item.verdict.least))
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


def _pictures(over: Sequence[str]) -> list[str]:
    """The pictures of folders, and everything else as it is named."""
    found: list[str] = []
    for name in over:
        folder = Path(name)
        if not folder.is_dir():
            found.append(name)
            continue
        inside = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
        if not inside:
            raise typer.BadParameter(f"{name!r} holds no pictures.", param_hint="--over")
        found += inside
    return found
