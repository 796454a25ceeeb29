"""Arguments and options that several commands have, and how their texts are read."""

from pathlib import Path
from typing import Annotated

import typer

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
OperationArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the operation: operations/ID or ID.")]


def read_site(text: str) -> tuple[int, ...]:
    """`3,-1` → (3, -1).

    Raises:
        typer.BadParameter: It is no site.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no site: write its index along each site axis, such as 3,4.") from None
