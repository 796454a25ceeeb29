"""The commands."""

from pathlib import Path
from typing import Annotated

import typer

from ortoscope import __version__, models
from ortoscope.activations import Reduce
from ortoscope.cli.activation_table import npz_bytes, standing_out
from ortoscope.cli.arguments import (
    GIVE_UP,
    DatasetOption,
    FolderOption,
    GiveUpOption,
    ImagesArgument,
    ModelArgument,
    NoWaitOption,
    SplitOption,
    TapOption,
    TimeLimitOption,
    read_duration,
    read_site,
    read_time_limit,
)
from ortoscope.cli.atlas import atlas_app
from ortoscope.cli.gradients import attribute, gradient
from ortoscope.cli.help_text import flowing
from ortoscope.cli.operations import operations_app
from ortoscope.cli.patches import patch_test
from ortoscope.cli.presets import presets
from ortoscope.cli.results import check_output, finish
from ortoscope.cli.session import FAILED, JsonOption, Options, TargetOption, session
from ortoscope.cli.tabular import optimal_input
from ortoscope.cli.text import text
from ortoscope.cli.thresholds import read_thresholds
from ortoscope.cli.visualize import visualize
from ortoscope.datasets import DatasetTable
from ortoscope.dissections import Dissection
from ortoscope.examples import ExampleSet, Rank
from ortoscope.files import write_file
from ortoscope.models import Tap, tap_table
from ortoscope.resource_names import short_tap
from ortoscope.rpcs import all_pages
from ortoscope.v1 import capabilities_pb2, datasets_pb2, models_pb2

app = typer.Typer(
    name="ortoscope",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",  # which keeps the line breaks of the examples
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(operations_app, name="operations")
app.add_typer(atlas_app, name="atlas")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ortoscope {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    target: TargetOption = None,
    as_json: JsonOption = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Look inside the neural networks that an Ortoscope server holds.

    ortoscope-server serve --models DIR --datasets DIR --store DIR   # the server
    ortoscope models
    ortoscope taps efficientnet-lite0 --find blocks
    ortoscope activate efficientnet-lite0 cat.jpg --tap blocks.10
    ortoscope gradient efficientnet-lite0 cat.jpg --class 281 -o saliency.png
    ortoscope dissect efficientnet-lite0 --tap blocks.10 --dataset broden -o out
    ortoscope visualize efficientnet-lite0 --tap blocks.10 --unit 3 -o unit3.png
    ortoscope atlas efficientnet-lite0 --tap blocks.10 --dataset photos -o atlas

    --target and --json may stand before or after the command.

    For TLS write https://HOST:PORT; ORTOSCOPE_TLS_CA names a certificate to
    trust, ORTOSCOPE_TLS_CERTIFICATE and ORTOSCOPE_TLS_KEY your own.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    del version
    context.obj = Options(target, as_json)


@app.command()
def capabilities(context: typer.Context, target: TargetOption = None, as_json: JsonOption = False) -> None:
    """Show the server's versions and limits."""
    with session(context, target, as_json) as run:
        if run.output.as_json:
            run.output.json(run.scope.rpcs.get_capabilities(capabilities_pb2.GetCapabilitiesRequest()))
            return
        found = run.scope.capabilities()
        facts = {
            "Ortoscope": found.ortoscope_version,
            "ONNX Runtime": found.onnxruntime_version,
            "providers": ", ".join(found.execution_providers),
            "threads": found.threads,
            **{name.replace("_", " "): value for name, value in vars(found.limits).items()},
        }
        width = max(map(len, facts))
        for name, value in facts.items():
            run.output.text(f"{name:<{width}}  {value}")


@app.command("models")
def list_models(context: typer.Context, target: TargetOption = None, as_json: JsonOption = False) -> None:
    """List the models."""
    with session(context, target, as_json) as run:
        response = all_pages(run.scope.rpcs.list_models, models_pb2.ListModelsRequest())
        if run.output.as_json:
            run.output.json(response)
            return
        run.output.table(models.model_table(response))
        if not response.models:
            run.output.note("There are none. Add one with `ortoscope-server prepare MODEL.onnx --models DIR`.")


@app.command()
def taps(
    context: typer.Context,
    model: ModelArgument,
    find: Annotated[
        str, typer.Option("--find", metavar="TEXT", help="Only taps with TEXT in one of their names.")
    ] = "",
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the taps of a model: what can be looked at.

    ortoscope taps efficientnet-lite0
    ortoscope taps efficientnet-lite0/1 --find blocks.10
    """
    with session(context, target, as_json) as run:
        version = run.scope.model(model)
        response = all_pages(run.scope.rpcs.list_taps, models_pb2.ListTapsRequest(parent=version.name))
        table = tap_table((Tap(run.scope.rpcs, entry, version.proto) for entry in response.taps), version.id)
        if find:
            table = table.find(find)
        if run.output.as_json:
            run.output.json(models_pb2.ListTapsResponse(taps=[tap.proto for tap in table]))
            return
        run.output.table(table)
        if find and not table:
            run.output.note(f"None of the {len(response.taps)} taps of {version.id} has {find!r} in a name.")


@app.command()
def activate(
    context: typer.Context,
    model: ModelArgument,
    images: ImagesArgument,
    tap: Annotated[list[str], typer.Option("--tap", help="Any name of a tap; may be given several times.")],
    reduce: Annotated[
        Reduce, typer.Option("--reduce", help="What to compute from a map; `none` gives all of it.")
    ] = "top",
    site: Annotated[
        str, typer.Option("--site", metavar="ROW,COLUMN", help="For `--reduce site`; negative counts from the end.")
    ] = "",
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="How many units to show.")] = 10,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.npz", help="Save the arrays, by the taps' names.")
    ] = None,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which units an image activates most.

    ortoscope activate efficientnet-lite0 cat.jpg --tap blocks.10
    ortoscope activate efficientnet-lite0 *.jpg --tap blocks.10 --reduce none -o maps.npz
    ortoscope activate efficientnet-lite0 cat.jpg --tap blocks.10 --reduce site --site 7,-1 --json
    """
    with session(context, target, as_json) as run:
        version = run.scope.model(model)
        found = version.activate(images, tap, reduce=reduce, site=read_site(site), top=top)
        if output is not None:
            write_file(output, npz_bytes(found.arrays()))
        if run.output.as_json:
            run.output.json(found.to_proto())
            return
        outputs = {entry.name for entry in version.outputs}
        for item, image in enumerate(images):
            for activations in found.values():
                is_class = short_tap(activations.tap) in outputs
                labels = version.class_labels if is_class else ()
                table = standing_out(activations, item, top, labels, f"{image} · {activations.display_name}")
                run.output.text(table.title)
                run.output.table(table)
        if output is not None:
            run.output.text(f"Saved {', '.join(found.arrays())} to {output}")


app.command()(gradient)
app.command()(attribute)
app.command()(visualize)
app.command()(presets)
app.command("test-patch")(patch_test)
app.command()(text)
app.command("optimal-input")(optimal_input)


@app.command()
def examples(
    context: typer.Context,
    model: ModelArgument,
    tap: TapOption,
    dataset: DatasetOption,
    output: FolderOption = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Images per unit at either end.")] = 10,
    rank: Annotated[Rank, typer.Option("--rank", help="The number of an image that counts, over all sites.")] = "max",
    split: SplitOption = None,
    time_limit: TimeLimitOption = "",
    give_up_after: GiveUpOption = GIVE_UP,
    no_wait: NoWaitOption = False,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find, for each unit of a tap, the images that activate it most and least.

    Writes examples.npz, provenance.json and the report index.html. Ctrl-C cancels
    the work on the server. A server that restarts goes on with it, and is waited
    for.

    ortoscope examples resnet50 --tap layer4 --dataset broden -o out
    ortoscope examples resnet50 --tap layer4 --dataset broden --no-wait
    """
    limit, patience = read_time_limit(time_limit), read_duration(give_up_after, "--give-up-after")
    with session(context, target, as_json) as run:
        if not no_wait:
            check_output(output, ExampleSet)
        found = run.scope.model(model).tap(tap)
        operation = found.examples(dataset, count=count, rank=rank, splits=split or (), time_limit=limit)
        finish(run, operation, output, wait=not no_wait, own=True, give_up_after=patience)


@app.command()
def dissect(
    context: typer.Context,
    model: ModelArgument,
    tap: TapOption,
    dataset: DatasetOption,
    output: FolderOption = None,
    thresholds: Annotated[
        Path | None,
        typer.Option("--thresholds", metavar="FILE", help="Thresholds to use, one per unit: .npz, .npy or .csv."),
    ] = None,
    top_fraction: Annotated[
        float, typer.Option("--top-fraction", help="Share of a unit's activations above its threshold.")
    ] = 0.005,
    iou_threshold: Annotated[
        float, typer.Option("--iou-threshold", help="The IoU above which a unit is a detector.")
    ] = 0.04,
    images_per_unit: Annotated[
        int, typer.Option("--images-per-unit", min=1, help="Top images of each unit in the report.")
    ] = 5,
    split: SplitOption = None,
    time_limit: TimeLimitOption = "",
    give_up_after: GiveUpOption = GIVE_UP,
    no_wait: NoWaitOption = False,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Dissect a tap: which labelled concept does each unit detect?

    Writes tally.csv, dissection.npz, provenance.json and the report index.html.
    Ctrl-C cancels the work on the server. A server that restarts goes on with it,
    and is waited for.

    ortoscope dissect resnet50 --tap layer4 --dataset broden -o out
    ortoscope dissect resnet50 --tap layer4 --dataset broden --time-limit 2h
    ortoscope dissect resnet50 --tap layer4 --dataset broden --no-wait
    ortoscope operations wait OPERATION -o out
    """
    limit, patience = read_time_limit(time_limit), read_duration(give_up_after, "--give-up-after")
    with session(context, target, as_json) as run:
        if not no_wait:
            check_output(output, Dissection)
        given = None if thresholds is None else read_thresholds(thresholds)
        found = run.scope.model(model).tap(tap)
        operation = found.dissect(
            dataset,
            top_fraction=top_fraction,
            thresholds=given,
            iou_threshold=iou_threshold,
            splits=split or (),
            examples_per_unit=images_per_unit,
            time_limit=limit,
        )
        finish(run, operation, output, wait=not no_wait, own=True, give_up_after=patience)


@app.command()
def datasets(context: typer.Context, target: TargetOption = None, as_json: JsonOption = False) -> None:
    """List the datasets."""
    with session(context, target, as_json) as run:
        response = all_pages(run.scope.rpcs.list_datasets, datasets_pb2.ListDatasetsRequest())
        if run.output.as_json:
            run.output.json(response)
            return
        table = DatasetTable(run.scope.rpcs, response)
        run.output.table(table)
        for name in table.unreadable:
            run.output.note(f"{name} cannot be read as a dataset; `ortoscope validate {name}` tells why.")


@app.command()
def validate(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")],
    max_findings: Annotated[int, typer.Option("--max-findings", min=1, help="Most findings to show.")] = 1000,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every file of a dataset and tell what is wrong with it; exit code 1 if there are errors."""
    with session(context, target, as_json) as run:
        report = run.scope.validate(dataset, max_findings=max_findings)
        if run.output.as_json:
            run.output.json(report.proto)
        run.output.text(report.title)
        if report:
            run.output.table(report)
        valid = report.valid
    if not valid:
        raise typer.Exit(FAILED)


for _command in (*app.registered_commands, *operations_app.registered_commands, *atlas_app.registered_commands):
    assert _command.callback is not None
    _command.help = flowing(_command.callback.__doc__ or "")
