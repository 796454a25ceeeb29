"""The command `test-patch`: how often a patch over pictures changes their class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ortoscope.cli.arguments import ModelArgument
from ortoscope.cli.climb_options import MOST_ITEMS, MOST_SEEDS, PICTURES
from ortoscope.cli.session import JsonOption, TargetOption, session
from ortoscope.patches import PLACES


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
        typer.Option("--controls", metavar="N", min=0, max=MOST_ITEMS, help="Controls of noise for each trial."),
    ] = 4,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=MOST_SEEDS, help="Where the draws of noise come from.")
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
    pictures = pictures_of(over)
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


def pictures_of(over: Sequence[str]) -> list[str]:
    """The pictures of folders, and everything else as it is named."""
    found: list[str] = []
    for name in over:
        folder = Path(name)
        if not folder.is_dir():
            found.append(name)
            continue
        inside = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
        if not inside:
            raise typer.BadParameter(f"{name!r} holds no pictures.", param_hint="--over")
        found += inside
    return found
