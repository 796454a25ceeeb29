"""Arguments and options that several commands have, and how their texts are read."""

from pathlib import Path
from typing import Annotated

import typer

from ortoscope.durations import seconds_of
from ortoscope.errors import InvalidArgument
from ortoscope.patience import GIVE_UP_AFTER

GIVE_UP = f"{GIVE_UP_AFTER / 60:g}m"
"""Default of --give-up-after."""

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="NAME (its newest version) or NAME/VERSION.")]
TapOption = Annotated[str, typer.Option("--tap", help="Any name of the tap, as `ortoscope taps MODEL` lists them.")]
ImagesArgument = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE…", help="Pictures, .npy arrays, or images of a dataset (datasets/D/images/3)."),
]
DatasetOption = Annotated[str, typer.Option("--dataset", help="Name of the dataset.")]
FolderOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Folder for the result; new, empty, or an older result's."),
]
SplitOption = Annotated[
    list[str] | None, typer.Option("--split", help="Only images of this split; may be given several times.")
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Print the operation's name and do not wait for it.")]
OperationArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The operation: operations/ID, ID, or the beginning of its ID.")
]
TimeLimitOption = Annotated[
    str,
    typer.Option(
        "--time-limit",
        metavar="TIME",
        help="Let the server end it with an error if it is not done after TIME, waiting included: 90s, 30m, 2h, 1d.",
        show_default=False,
    ),
]
GiveUpOption = Annotated[
    str,
    typer.Option(
        "--give-up-after",
        metavar="TIME",
        help="How long to keep asking a server that does not answer, because it restarts, for example; 0s: not at all.",
    ),
]


def read_duration(text: str, option: str) -> float:
    """`1h30m` → 5400 seconds.

    Raises:
        typer.BadParameter: It is no length of time.
    """
    try:
        return seconds_of(text, option)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message) from None


def read_time_limit(text: str) -> float | None:
    """`2h` → 7200 seconds; empty: no limit.

    Raises:
        typer.BadParameter: It is no length of time, or no time at all.
    """
    if not text:
        return None
    seconds = read_duration(text, "--time-limit")
    if not seconds:
        raise typer.BadParameter("--time-limit must be longer than nothing.")
    return seconds


def read_site(text: str) -> tuple[int, ...]:
    """`3,-1` → (3, -1).

    Raises:
        typer.BadParameter: It is no site.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no site: write its index along each site axis, such as 3,4.") from None
