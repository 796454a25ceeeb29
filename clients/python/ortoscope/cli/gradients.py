"""The commands about gradients: what a unit or a class depends on, and what of a layer speaks for each class."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageOps, UnidentifiedImageError

from ortoscope import resource_names
from ortoscope.attributions import Per
from ortoscope.cli.activation_table import npz_bytes
from ortoscope.cli.arguments import ImagesArgument, ModelArgument, TapOption, read_site
from ortoscope.cli.session import JsonOption, Session, TargetOption, session
from ortoscope.files import write_file
from ortoscope.gradients import GradientReduce, Gradients, Objective
from ortoscope.models import Model
from ortoscope.report.saliency import Style, heat_map, saliency_picture
from ortoscope.tables import Column, Table
from ortoscope.v1 import datasets_pb2

_PICTURE = ".png"
_ARRAYS = ".npz"


@dataclass(frozen=True)
class GradientRow:
    """The gradient at one tensor for one image."""

    image: str
    """The image as it was named."""

    value: float
    """The objective."""

    at: str
    """The tensor."""

    norm: float
    """The gradient's length."""

    largest: float
    """The largest absolute value in it."""


def gradient(
    context: typer.Context,
    model: ModelArgument,
    images: ImagesArgument,
    tap: Annotated[str, typer.Option("--tap", help="Any name of the tap whose unit is differentiated.")] = "",
    unit: Annotated[
        int | None, typer.Option("--unit", min=0, help="The unit, from 0; its mean over all sites.")
    ] = None,
    site: Annotated[
        str, typer.Option("--site", metavar="ROW,COLUMN", help="The unit at this site instead; negative: from the end.")
    ] = "",
    class_: Annotated[
        str, typer.Option("--class", metavar="NAME", help="Instead of a unit: the logit of a class, by name or index.")
    ] = "",
    probability: Annotated[bool, typer.Option("--probability", help="The probability of the class instead.")] = False,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="TAP", help="Take it at this tap, not at the input; may be given several times."),
    ] = None,
    times_input: Annotated[
        bool, typer.Option("--times-input", help="The gradient times the value where it is taken, element by element.")
    ] = False,
    relax: Annotated[
        list[str] | None,
        typer.Option(
            "--relax",
            metavar="NAME",
            help="Depart from the true gradient: redirected_relu, guided, deconvolution, averaged_max_pool or "
            "l2_max_pool; may be given several times.",
        ),
    ] = None,
    signed: Annotated[
        bool,
        typer.Option("--signed", help="In a picture: red where more would raise it, blue where it would lower it."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="FILE.png: a picture of it; FILE.npz: the arrays."),
    ] = None,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a unit or a class depends on: its gradient at the image.

    ortoscope gradient efficientnet-lite0 cat.jpg --class tabby -o saliency.png
    ortoscope gradient efficientnet-lite0 cat.jpg --tap blocks.10 --unit 3 --signed -o saliency.png
    ortoscope gradient efficientnet-lite0 cat.jpg --tap blocks.10 --unit 3 --site 7,7 -o gradient.npz
    ortoscope gradient efficientnet-lite0 cat.jpg --class 281 --probability --at blocks.10 --json

    A picture shows on the left what the model sees of the image. On the right each
    place is coloured by the largest absolute value over the colours (over the units,
    at a tap), from black to yellow; with --signed by their sum, from blue over white
    to red. The full colour stands for the 99th percentile of each image, so that
    colours can be compared within one image only.

    At the input, gradients are by what the model takes, after preprocessing.
    """
    _check_usage(tap=tap, unit=unit, site=site, class_=class_, probability=probability)
    if output is not None and output.suffix.lower() not in {_PICTURE, _ARRAYS}:
        raise typer.BadParameter(f"{str(output)!r} ends neither in .png nor in .npz.", param_hint="--output")
    as_picture = output is not None and output.suffix.lower() == _PICTURE
    if as_picture and at is not None and len(at) > 1:
        raise typer.BadParameter("A picture shows one gradient: give --at once, or save as .npz.", param_hint="--at")
    with session(context, target, as_json) as run:
        version = run.scope.model(model)
        if class_:
            wanted = _class_of(class_, version)
            objective = Objective.class_probability(wanted) if probability else Objective.class_logit(wanted)
        elif site:
            objective = Objective.unit(tap, unit or 0, read_site(site))
        else:
            objective = Objective.channel_mean(tap, unit or 0)
        reduce: GradientReduce = "times_value" if times_input else "none"
        found = version.gradient(images, objective, at=at or (), reduce=reduce, relax=relax or ())
        if output is not None:
            style: Style = "signed" if signed else "magnitude"
            write_file(output, _drawn(run, version, images, found, style) if as_picture else npz_bytes(found.arrays()))
        if run.output.as_json:
            run.output.json(found.to_proto())
            return
        run.output.text(_title(found, tap, unit, probability=probability))
        run.output.table(_table(images, found))
        if output is not None:
            what = "the picture" if as_picture else ", ".join(found.arrays())
            run.output.text(f"Saved {what} to {output}")


def attribute(
    context: typer.Context,
    model: ModelArgument,
    images: ImagesArgument,
    tap: TapOption,
    per: Annotated[
        Per, typer.Option("--per", help="Attribute to the whole tap, to each unit, or to each site.")
    ] = "whole",
    top: Annotated[
        int,
        typer.Option("--top", metavar="K", min=1, help="How many classes to show; with --per: units or sites of each."),
    ] = 5,
    classes: Annotated[
        int, typer.Option("--classes", metavar="N", min=1, help="With --per unit or site: for the best N classes.")
    ] = 1,
    probability: Annotated[
        bool, typer.Option("--probability", help="Attribute probabilities rather than logits.")
    ] = False,
    relax: Annotated[
        list[str] | None,
        typer.Option("--relax", metavar="NAME", help="Depart from the true gradient: averaged_max_pool, l2_max_pool."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.npz", help="Save all arrays: every part, every class."),
    ] = None,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which classes a layer speaks for: activation times gradient, summed over its parts.

    ortoscope attribute efficientnet-lite0 cat.jpg --tap blocks.10
    ortoscope attribute efficientnet-lite0 cat.jpg --tap blocks.10 --per unit --top 10
    ortoscope attribute efficientnet-lite0 cat.jpg --tap blocks.10 --per site -o attributions.npz

    A positive number says that the class would lose about so much of its score if
    these activations were taken away. Attributions to all units, or to all sites, add
    up to that to the whole tap.
    """
    with session(context, target, as_json) as run:
        version = run.scope.model(model)
        found = version.attribute(images, tap, per=per, probability=probability, relax=relax or ())
        if output is not None:
            write_file(output, npz_bytes(found.arrays()))
        if run.output.as_json:
            run.output.json(found.to_proto(top))
            return
        for item, image in enumerate(images):
            chosen = () if per == "whole" else found.best_classes(item, classes)
            run.output.text(f"{image} · {found.display_name}")
            run.output.table(found.top(item, top, chosen))
        if output is not None:
            run.output.text(f"Saved {', '.join(found.arrays())} to {output}")


def _check_usage(*, tap: str, unit: int | None, site: str, class_: str, probability: bool) -> None:
    if bool(tap) == bool(class_):
        raise typer.BadParameter("Say what is differentiated: either --tap and --unit, or --class.")
    if tap and unit is None:
        raise typer.BadParameter("Say which unit of the tap: --unit 3.", param_hint="--unit")
    if class_ and (unit is not None or site):
        raise typer.BadParameter("--unit and --site go with --tap, not with --class.")
    if probability and not class_:
        raise typer.BadParameter("--probability goes with --class.", param_hint="--probability")
    read_site(site)


def _class_of(text: str, model: Model) -> int | str:
    """An index, unless the digits are the name of a class."""
    return int(text) if text.isdecimal() and text not in model.class_labels else text


def _title(found: Gradients, tap: str, unit: int | None, *, probability: bool) -> str:
    if found.class_index is None:
        what = f"unit {unit} of {tap}"
    else:
        label = f" ({found.class_label})" if found.class_label else ""
        what = f"the {'probability' if probability else 'logit'} of class {found.class_index}{label}"
    relaxed = f", with {', '.join(found.relaxations)}" if found.relaxations else ""
    return f"Gradient of {what}{relaxed}"


def _table(images: Sequence[str], found: Gradients) -> Table[GradientRow]:
    rows = [
        GradientRow(
            image,
            float(found.objective[item]),
            entry.display_name,
            float(np.linalg.norm(entry.values[item].astype(np.float64))),
            float(np.abs(entry.values[item]).max(initial=0)),
        )
        for item, image in enumerate(images)
        for entry in found.values()
    ]
    columns: tuple[Column[GradientRow], ...] = (
        Column("image", lambda row: row.image),
        Column("value", lambda row: row.value, numeric=True),
        Column("gradient at", lambda row: row.at),
        Column("length", lambda row: row.norm, numeric=True),
        Column("largest", lambda row: row.largest, numeric=True),
    )
    return Table(rows, columns, title="gradients")


def _drawn(run: Session, model: Model, images: Sequence[str], found: Gradients, style: Style) -> bytes:
    """The picture of the gradients as PNG."""
    gradients = found.only
    (entry,) = found.values()
    maps = [heat_map(values, entry.unit_axis - 1, style) for values in gradients]
    inputs = [spec for spec in model.inputs if spec.HasField("preprocessing")]
    preprocessing = inputs[0].preprocessing if len(model.inputs) == 1 and inputs else None
    picture = saliency_picture(maps, style, [_picture(run, image) for image in images], preprocessing)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _picture(run: Session, image: str) -> Image.Image | None:
    """What was given as an image, upright; None if it is an array."""
    if resource_names.is_image(image):
        content = run.scope.rpcs.get_image(datasets_pb2.GetImageRequest(name=image))
        source = io.BytesIO(content.data)
    elif resource_names.is_blob(image):
        source = io.BytesIO(run.scope.download(image))
    elif Path(image).suffix == ".npy":
        return None
    else:
        source = io.BytesIO(Path(image).read_bytes())
    try:
        with Image.open(source) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError:  # the server could read it; the numbers are more than the picture
        return None
