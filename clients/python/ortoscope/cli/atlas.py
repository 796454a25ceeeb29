"""The commands `ortoscope atlas …`: a whole layer as a map."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer
from typer.core import TyperGroup

from ortoscope.atlas_cells import Cell
from ortoscope.atlas_changes import AtlasComparison, AtlasProjection
from ortoscope.atlas_patches import class_index
from ortoscope.atlas_requests import MODES
from ortoscope.atlases import Atlas, atlas_table
from ortoscope.cli.arguments import (
    GIVE_UP,
    DatasetOption,
    GiveUpOption,
    ModelArgument,
    NoWaitOption,
    SplitOption,
    TapOption,
    TimeLimitOption,
    read_duration,
    read_time_limit,
)
from ortoscope.cli.atlas_waiting import finish_atlas
from ortoscope.cli.climb_options import MOST_ITEMS, MOST_SEEDS, read_settings
from ortoscope.cli.patches import pictures_of
from ortoscope.cli.results import check_output, finish
from ortoscope.cli.session import JsonOption, Options, TargetOption, session
from ortoscope.files import write_file
from ortoscope.messages import to_json
from ortoscope.patches import PLACES
from ortoscope.rpcs import all_pages
from ortoscope.tables import Column, Table
from ortoscope.v1 import atlases_pb2

_BUILD = "build"


class _Commands(TyperGroup):
    """Commands of which `build` may be left out: `ortoscope atlas MODEL …` means `ortoscope atlas build MODEL …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts `build` before what begins with neither a command nor an option of the group itself."""
        own = {name for param in self.get_params(ctx) for name in param.opts}
        if args and args[0] not in self.commands and args[0].partition("=")[0] not in own:
            args = [_BUILD, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Takes what follows the group's options for arguments of `build`, if it is no command."""
        if args and args[0] not in self.commands:
            args = [_BUILD, *args]
        return super().resolve_command(ctx, args)


atlas_app = typer.Typer(cls=_Commands, no_args_is_help=True)

AtlasArgument = Annotated[
    str, typer.Argument(metavar="ATLAS", help="Name of the atlas, as `ortoscope atlas list` tells it.")
]
PageOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="DIR|FILE.html",
        help="Where the page goes: a folder, new, empty or an older page's, or one file.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=MOST_SEEDS, help="Where randomness comes from.")
]
SitesOption = Annotated[
    int,
    typer.Option(
        "--sites",
        metavar="N",
        min=0,
        max=MOST_ITEMS,
        help="Sites taken of each image, at random. More than 1 suits small sets of images.",
        show_default="1",
    ),
]
LevelOption = Annotated[
    int,
    typer.Option(
        "--grid", metavar="N", min=0, help="The level, by its cells along each side.", show_default="the finest"
    ),
]


@atlas_app.callback()
def atlas_root(context: typer.Context, target: TargetOption = None, as_json: JsonOption = False) -> None:
    """See a whole layer as a map: an activation atlas (Carter et al. 2019).

    Activations of many images are laid out so that similar ones lie together,
    averaged over the cells of a grid, and each cell gets a picture of what its
    average looks for.

    ortoscope atlas MODEL --tap TAP --dataset DATASET -o atlas
    ortoscope atlas save ATLAS -o atlas.html
    ortoscope atlas project ATLAS --dataset NEW -o drift
    ortoscope atlas compare ATLAS OTHER -o compared

    `build` may be left out; its --help tells how to read an atlas, and how not to.
    """
    context.obj = Options(target, as_json)


@atlas_app.command(_BUILD)
def build(
    context: typer.Context,
    model: ModelArgument,
    tap: TapOption,
    dataset: DatasetOption,
    output: PageOption = None,
    grid: Annotated[
        str,
        typer.Option(
            "--grid",
            metavar="N,…",
            help="Cells along each side, a number for each level, from coarse to fine: 20,40,80.",
            show_default="20",
        ),
    ] = "",
    sites: SitesOption = 0,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="Published parameters to start from: ortoscope, distill, notebook or recipe.",
            show_default="ortoscope",
        ),
    ] = "",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as layout.n_neighbors=30; several times."),
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Only samples that speak for this class; several times."),
    ] = None,
    class_samples: Annotated[
        str,
        typer.Option(
            "--class-samples",
            metavar="WHICH",
            help="For --class: winner (their largest attribution is to it), top (the largest to it) or both.",
        ),
    ] = "winner",
    class_top: Annotated[
        int,
        typer.Option(
            "--class-top", metavar="N", min=0, help="For top and both: most samples of a class.", show_default="2000"
        ),
    ] = 0,
    gradient: Annotated[
        list[str] | None,
        typer.Option("--gradient", metavar="A,B", help="From class A at the left to B at the right; or give it twice."),
    ] = None,
    no_icons: Annotated[
        bool, typer.Option("--no-icons", help="Show real crops only; the atlas is there much sooner.")
    ] = False,
    no_attribution: Annotated[
        bool, typer.Option("--no-attribution", help="Leave out what cells say of classes.")
    ] = False,
    icon_preset: Annotated[
        str,
        typer.Option("--icon-preset", metavar="NAME", help="How icons are climbed.", show_default="atlas-icon"),
    ] = "",
    icon_setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set-icon", metavar="KEY=VALUE", help="A setting of the climb, such as recipe.steps=256; several times."
        ),
    ] = None,
    base: Annotated[
        str, typer.Option("--base", metavar="ATLAS", help="Add the images to this atlas, in its frame.")
    ] = "",
    seed: SeedOption = 0,
    split: SplitOption = None,
    time_limit: TimeLimitOption = "",
    give_up_after: GiveUpOption = GIVE_UP,
    no_wait: NoWaitOption = False,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build an activation atlas and write it as a page to explore, which opens from the disk.

    ortoscope atlas efficientnet-lite0 --tap blocks.10 --dataset photos --sites 16 -o atlas
    ortoscope atlas resnet50 --tap layer4 --dataset imagenet --grid 20,40,80 -o atlas
    ortoscope atlas resnet50 --tap layer4 --dataset imagenet --class 'grey whale' -o whales
    ortoscope atlas resnet50 --tap layer4 --dataset imagenet --gradient 'wok,frying pan' -o g.html

    To read: a cell's picture is what the *mean* of its samples looks for, not an
    image; real crops beside it tell what the samples were. What the model attributes
    to a class is linear and of this layer alone. A picture marked as not
    representing its cell must not be read at all.

    Not to over-read: only near means something, not the direction on the map and not
    the size of a blank. Look at trustworthiness and recall, and whether what
    you see survives another --seed.

    The first level is there before its pictures are, and finer levels follow. Ctrl-C
    cancels the work on the server; the levels that are finished stay (`ortoscope atlas
    save`). A server that restarts goes on by itself, and is waited for; after a
    failure, the same command goes on from what was computed.
    """
    grids = _read_grids(grid)
    sides = _read_sides(gradient or ())
    settings, icon_settings = read_settings(setting or ()), read_settings(icon_setting or ())
    if class_samples not in MODES:
        raise typer.BadParameter(f"{class_samples!r} is none of {', '.join(MODES)}.", param_hint="--class-samples")
    limit, patience = read_time_limit(time_limit), read_duration(give_up_after, "--give-up-after")
    with session(context, target, as_json) as run:
        if not no_wait:
            check_output(output, Atlas)
        operation = (
            run.scope.model(model)
            .tap(tap)
            .atlas(
                dataset,
                grids=grids,
                sites_per_image=sites,
                preset=preset,
                settings=settings,
                icons=not no_icons,
                icon_preset=icon_preset,
                icon_settings=icon_settings,
                attribution=not no_attribution,
                classes=class_ or (),
                class_mode=class_samples,  # type: ignore[arg-type] # checked above
                class_top=class_top,
                gradient=sides,
                base=base,
                splits=split or (),
                seed=seed,
                time_limit=limit,
                request_id=str(uuid4()),
            )
        )
        if no_wait:
            finish(run, operation, output, wait=False, own=True)
        else:
            finish_atlas(run, operation, output, give_up_after=patience)


@atlas_app.command("list")
def list_atlases(context: typer.Context, target: TargetOption = None, as_json: JsonOption = False) -> None:
    """List the atlases that the server keeps, newest first; also those that are still being built."""
    with session(context, target, as_json) as run:
        response = all_pages(run.scope.rpcs.list_atlases, atlases_pb2.ListAtlasesRequest())
        if run.output.as_json:
            run.output.json(response)
            return
        run.output.table(atlas_table(run.scope.rpcs, response))


@atlas_app.command()
def save(
    context: typer.Context,
    atlas: Annotated[list[str], typer.Argument(metavar="ATLAS…", help="An atlas, or several as layers of one page.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR|FILE",
            help="A folder or FILE.html for the page; FILE.parquet for embedding-atlas, FILE.dzi for deep zoom.",
        ),
    ],
    grid: LevelOption = 0,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an atlas that is there, finished or not, as a page to explore or for another viewer.

    ortoscope atlas save 3f2a9c1d -o atlas
    ortoscope atlas save FIRST SECOND THIRD -o layers
    ortoscope atlas save 3f2a9c1d -o samples.parquet
    ortoscope atlas save 3f2a9c1d --grid 40 -o icons.dzi

    Several atlases become layers of one page, to be looked at side by side. --grid
    chooses the level of a FILE.dzi.
    """
    # Only who writes a page waits for what draws it.
    from ortoscope.atlas_pages import export_dzi, export_parquet, save_atlases  # noqa: PLC0415

    with session(context, target, as_json) as run:
        found = [run.scope.atlas(name) for name in atlas]
        suffix = output.suffix.lower()
        if suffix in {".parquet", ".dzi"} and len(found) > 1:
            raise typer.BadParameter("One atlas goes into such a file.", param_hint="ATLAS…")
        if suffix == ".parquet":
            page = export_parquet(run.scope.rpcs, found[0], output, progress=True)
        elif suffix == ".dzi":
            page = export_dzi(found[0], output, grid=grid, progress=True)
        else:
            page = save_atlases(run.scope.rpcs, found, output, progress=True)
        if run.output.as_json:
            run.output.json({"atlases": [to_json(entry.proto) for entry in found], "written": str(page)})
        run.output.text(f"Written: {page}")


@atlas_app.command()
def cells(
    context: typer.Context,
    atlas: AtlasArgument,
    grid: LevelOption = 0,
    class_: Annotated[
        str, typer.Option("--class", metavar="NAME", help="Only cells that speak for this class, strongest first.")
    ] = "",
    text: Annotated[
        str, typer.Option("--text", metavar="TEXT", help="Only cells with TEXT in the label of a class that they name.")
    ] = "",
    region: Annotated[
        str, typer.Option("--region", metavar="L,T,R,B", help="Only cells in this rectangle of the map, 0 to 1.")
    ] = "",
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many cells to show.")] = 20,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the cells of an atlas: how many samples, how alike, and what they say of classes.

    ortoscope atlas cells 3f2a9c1d --grid 20
    ortoscope atlas cells 3f2a9c1d --class 'tabby cat' --top 5
    ortoscope atlas cells 3f2a9c1d --text dog --region 0,0,0.5,0.5
    """
    corners = _read_region(region)
    with session(context, target, as_json) as run:
        whole = run.scope.atlas(atlas)
        found = whole.cells(
            grid, region=corners, class_=class_ or None, text=text, order="attribution" if class_ else "count"
        )
        if run.output.as_json:
            run.output.json(
                {
                    "cells": [
                        {
                            "index": cell.index,
                            "row": cell.row,
                            "column": cell.column,
                            "count": cell.count,
                            "dispersion": cell.dispersion,
                            "score": cell.score,
                            "represents": cell.represents,
                            "classes": [vars(entry) for entry in cell.classes],
                            "nearest": [entry.image for entry in cell.nearest],
                        }
                        for cell in found[:top]
                    ]
                }
            )
            return
        run.output.text(found.title)
        run.output.table(_with_attribution(found[:top], whole, grid, class_))


@atlas_app.command()
def project(
    context: typer.Context,
    atlas: AtlasArgument,
    dataset: DatasetOption,
    output: PageOption = None,
    sites: Annotated[
        int,
        typer.Option("--sites", metavar="N", min=0, help="Sites of each image.", show_default="as many as the atlas"),
    ] = 0,
    split: SplitOption = None,
    seed: SeedOption = 0,
    time_limit: TimeLimitOption = "",
    give_up_after: GiveUpOption = GIVE_UP,
    no_wait: NoWaitOption = False,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Place other images in an atlas: is there something new, and where do they lie more or less densely?

    ortoscope atlas project 3f2a9c1d --dataset this-week -o drift

    About 1 % of images like the atlas's own lie off the map; more is drift. The page
    is coloured by density against the atlas; cells whose interval excludes 1 differ.
    """
    limit, patience = read_time_limit(time_limit), read_duration(give_up_after, "--give-up-after")
    with session(context, target, as_json) as run:
        if not no_wait:
            check_output(output, AtlasProjection)
        operation = run.scope.atlas(atlas).project(
            dataset, splits=split or (), sites_per_image=sites, seed=seed, time_limit=limit
        )
        finish(run, operation, output, wait=not no_wait, own=True, give_up_after=patience)


@atlas_app.command()
def compare(
    context: typer.Context,
    left: AtlasArgument,
    right: Annotated[str, typer.Argument(metavar="OTHER", help="Another over the same images, sites and seed.")],
    output: PageOption = None,
    grid: Annotated[
        int, typer.Option("--grid", metavar="N", min=0, help="Cells along each side.", show_default="20")
    ] = 0,
    seed: SeedOption = 0,
    time_limit: TimeLimitOption = "",
    give_up_after: GiveUpOption = GIVE_UP,
    no_wait: NoWaitOption = False,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two atlases over the same images: of two taps, checkpoints or models, in one frame.

    ortoscope atlas compare 3f2a9c1d 77b01e2f -o compared

    It tells how far their neighbourhoods agree, and colours cells that appear, vanish
    or change their share of the samples.
    """
    limit, patience = read_time_limit(time_limit), read_duration(give_up_after, "--give-up-after")
    with session(context, target, as_json) as run:
        if not no_wait:
            check_output(output, AtlasComparison)
        operation = run.scope.atlas(left).compare(run.scope.atlas(right), grid=grid, seed=seed, time_limit=limit)
        finish(run, operation, output, wait=not no_wait, own=True, give_up_after=patience)


@atlas_app.command()
def patches(
    context: typer.Context,
    atlas: AtlasArgument,
    source: Annotated[
        str, typer.Option("--source", metavar="NAME", help="The class of the pictures that patches are pasted on.")
    ],
    aim: Annotated[str, typer.Option("--class", metavar="NAME", help="The class that they shall be taken for.")],
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="DIR",
            help="The pictures: a folder, or files; several times.",
            show_default="images of the class in the atlas's dataset",
        ),
    ] = None,
    grid: LevelOption = 0,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="Most proposals.")] = 10,
    size: Annotated[
        list[float] | None,
        typer.Option("--size", help="Width as a share of the shorter side; several times.", show_default="0.1 to 0.4"),
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option("--place", help=f"{', '.join(PLACES)}; several times.", show_default="the corners"),
    ] = None,
    controls: Annotated[
        int, typer.Option("--controls", metavar="N", min=1, max=MOST_ITEMS, help="Controls of noise for each trial.")
    ] = 4,
    seed: SeedOption = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for the patches as PNGs.")
    ] = None,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for features with several uses: crops that turn one class into another when pasted.

    ortoscope atlas patches 3f2a9c1d --source 'grey whale' --class 'great white shark' -o patches
    ortoscope atlas patches 3f2a9c1d --source 147 --class 2 --over whales/ --size 0.3

    The atlas proposes cells that are labelled neither of the two classes but push the
    second; every proposal is then pasted on the pictures, beside noise of its own
    pixels. `beyond noise` holds for all trials together (95 %).
    """
    if unknown := [name for name in place or () if name not in PLACES]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(PLACES)}.", param_hint="--place")
    with session(context, target, as_json) as run:
        found = run.scope.atlas(atlas).search_patches(
            source,
            aim,
            pictures_of(over or ()),
            grid=grid,
            count=count,
            sizes=size or (),
            places=place or (),
            controls=controls,
            seed=seed,
            progress=True,
        )
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            for number, row in enumerate(found, 1):
                write_file(output / f"patch-{number:02d}.png", row.proposal.png)
        if run.output.as_json:
            run.output.json(_search_json(found))
            return
        if not found:
            run.output.text(f"No cell labelled neither {source} nor {aim} pushes {aim} more than {source}.")
            return
        run.output.text(found.title)
        run.output.table(found)
        if output is not None:
            run.output.text(f"Patches in this order: {output}")


@atlas_app.command()
def delete(
    context: typer.Context, atlas: AtlasArgument, target: TargetOption = None, as_json: JsonOption = False
) -> None:
    """Delete an atlas on the server; one that is being built must be cancelled first."""
    with session(context, target, as_json) as run:
        found = run.scope.atlas(atlas)
        found.delete()
        if run.output.as_json:
            run.output.json({})
        run.output.text(f"{found.name}: deleted")


def _with_attribution(found: Table[Cell], atlas: Atlas, grid: int, class_: str) -> Table[Cell]:
    """The cells with a column for what they say of a class, if it is given by its index or whole label."""
    number = class_index(atlas, class_)
    if isinstance(number, str):
        number = atlas.class_labels.index(number) if number in atlas.class_labels else -1
    attribution = atlas.level(grid).arrays.attribution if found and number >= 0 else None
    if attribution is None or number >= attribution.shape[1]:
        return found
    column: Column[Cell] = Column(class_, lambda cell: float(attribution[cell.index, number]), numeric=True)
    return Table(found, (*found.columns[:-1], column, found.columns[-1]), title=found.title)


def _search_json(found: Any) -> dict[str, Any]:
    return {
        "trials": found.trials,
        "confidence": found.confidence,
        "findings": [
            {
                "row": row.proposal.cell.row,
                "column": row.proposal.cell.column,
                "label": row.proposal.label,
                "image": row.proposal.image,
                "push": row.proposal.push,
                "size": row.best.size,
                "place": row.best.place,
                "pictures": row.best.pictures,
                "flips": row.best.flips,
                "interval": list(row.interval),
                "control_flip_rate": row.best.control_flip_rate,
                "noise_interval": list(row.noise_interval),
                "beyond_noise": row.beyond_noise,
                "trials": to_json(row.test.proto).get("trials", []),
            }
            for row in found
        ],
    }


def _read_grids(text: str) -> tuple[int, ...]:
    """`20,40` → (20, 40).

    Raises:
        typer.BadParameter: It is no list of numbers.
    """
    if not re.fullmatch(r"\s*(\d{1,9}\s*(,\s*\d{1,9}\s*)*)?", text, re.ASCII):
        raise typer.BadParameter(f"{text!r} is no list of levels: write 20 or 20,40,80.", param_hint="--grid")
    return tuple(int(part) for part in text.split(",") if part.strip())


def _read_sides(words: Sequence[str]) -> tuple[str, ...]:
    """`['A,B']` or `['A', 'B']` → ('A', 'B').

    Raises:
        typer.BadParameter: It is not two classes.
    """
    parts = tuple(part.strip() for part in words[0].split(",")) if len(words) == 1 else tuple(words)
    if words and (len(parts) != len(("left", "right")) or not all(parts)):
        raise typer.BadParameter(
            "Name two classes, the left one first: A,B, or --gradient A --gradient B where a name has a comma.",
            param_hint="--gradient",
        )
    return parts if words else ()


def _read_region(text: str) -> tuple[float, ...] | None:
    """`0,0,0.5,0.5` → (0, 0, 0.5, 0.5); empty: None.

    Raises:
        typer.BadParameter: It is not four numbers.
    """
    if not text:
        return None
    try:
        corners = tuple(float(part) for part in text.split(","))
    except ValueError:
        corners = ()
    if len(corners) != len(("left", "top", "right", "bottom")):
        raise typer.BadParameter(
            f"{text!r} is no rectangle: write left,top,right,bottom, such as 0,0,0.5,0.5.", param_hint="--region"
        )
    return corners
