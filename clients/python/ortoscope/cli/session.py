"""What every command has in common: options, the connection, the two forms of output, and errors."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.message import Message
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ortoscope.channel import DEFAULT_TARGET, TLS
from ortoscope.client import Ortoscope, connect
from ortoscope.errors import OrtoscopeError
from ortoscope.messages import to_json
from ortoscope.patience import Patience
from ortoscope.tables import Table

TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="HOST:PORT",
        help=f"The server; otherwise ORTOSCOPE_TARGET, otherwise {DEFAULT_TARGET}. https://HOST for TLS.",
        show_default=False,
        rich_help_panel="Connection and output",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print exactly one JSON object on stdout; progress goes to stderr.",
        rich_help_panel="Connection and output",
    ),
]

FAILED = 1
INTERRUPTED = 130
BROKEN_PIPE = 141
"""Exit codes; 130 and 141 are what a shell reports of a program that SIGINT or SIGPIPE ended. 2 is wrong usage."""

_NEXT_STEPS = {
    "CONCEPTS_MISSING": "`ortoscope datasets` shows which datasets have pixel labels.",
    "DATASET_NOT_LABELLED": "`ortoscope datasets` shows which datasets have pixel labels.",
    "DATASET_UNREADABLE": "`ortoscope validate DATASET` tells what is wrong with it.",
    "OPERATION_AMBIGUOUS": "`ortoscope operations list` lists them.",
    "TAP_NOT_A_MAP": "`ortoscope taps MODEL` shows the shape of every tap.",
    "UNKNOWN_DATASET": "`ortoscope datasets` lists them.",
    "UNKNOWN_MODEL": "`ortoscope models` lists them.",
    "SPEC_MISSING": "Only a PNG that a server made can be made again: what -o wrote, not what another program saved.",
    "START_MISSING": "Give a picture with --start.",
    "UNKNOWN_OPERATION": "`ortoscope operations list` lists them.",
    "UNKNOWN_PRESET": "`ortoscope presets` lists them.",
    "UNKNOWN_SETTING": "`ortoscope presets NAME` shows every setting of a preset of pictures; an atlas page, under "
    "About, those of atlases.",
    "UNKNOWN_TAP": "`ortoscope taps MODEL --find TEXT` looks in all names of all taps.",
    "UNKNOWN_VERSION": "`ortoscope models` tells the newest version.",
}
"""What to do next, by the reason of an error."""


@dataclass(frozen=True)
class Options:
    """The options that stand before or after a command."""

    target: str | None = None
    """The server, if one is named."""

    as_json: bool = False
    """Whether output is JSON."""

    def over(self, other: "Options") -> "Options":
        """These options where they are given, the others elsewhere."""
        return Options(self.target or other.target, self.as_json or other.as_json)


class Output:
    """Where results go: readable text or one JSON object on stdout; notes and errors on stderr.

    Attributes:
        as_json: Whether output is JSON.
        console: What draws on stdout.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._notes = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks at stdout, rather than a program."""
        return self.console.is_terminal

    def json(self, message: Message | dict[str, Any]) -> None:
        """Prints the one JSON object of a command."""
        data = message if isinstance(message, dict) else to_json(message)
        sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")

    def text(self, text: str) -> None:
        """Prints text, unless output is JSON."""
        if not self.as_json:
            self.console.print(text, markup=False)

    def table(self, table: Table[Any]) -> None:
        """Prints a table: drawn on a terminal, plain aligned columns with nothing shortened elsewhere."""
        if self.as_json:
            return
        if not self.is_terminal:
            sys.stdout.write(table.text() + "\n")
            return
        drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False)
        for column in table.columns:
            drawn.add_column(column.title, justify="right" if column.numeric else "left", overflow="fold")
        for cells in table.cells():
            drawn.add_row(*map(Text, cells))
        self.draw(drawn)

    def draw(self, table: RichTable) -> None:
        """Prints a table as it was drawn, unless output is JSON."""
        if not self.as_json:
            self.console.print(table, soft_wrap=False)

    def note(self, text: str) -> None:
        """Says something on stderr that is no result."""
        self._notes.print(text, markup=False)

    def outage(self, what: str) -> None:
        """Says that there is no answer and that it is waited for."""
        self.note(f"{what} …")

    def error(self, error: OrtoscopeError | OSError) -> None:
        """Says what went wrong and what to do next; as a JSON object, too, if output is JSON."""
        if isinstance(error, OrtoscopeError):
            data = error.to_dict()
        else:
            path = f" {str(error.filename)!r}:" if error.filename else ""
            message = f"File error:{path} {error.strerror or error}"
            data = {"code": "FAILED_PRECONDITION", "reason": "FILE_ERROR", "message": message}
        if self.as_json:
            self.json({"error": data})
        self._notes.print(Text.assemble(("ortoscope: ", "bold red"), str(data["message"])))
        about = ", ".join(f"{name} {data[name]}" for name in ("reason", "field") if data.get(name))
        if about:
            self._notes.print(Text(f"({about})", "dim"))
        if step := _NEXT_STEPS.get(str(data["reason"])):
            self._notes.print(Text(step))


@dataclass(frozen=True)
class Session:
    """A command under way."""

    scope: Ortoscope
    """The connection."""

    output: Output
    """Where results go."""


@contextmanager
def session(
    context: typer.Context, target: str | None, as_json: bool, *, give_up_after: float = 0.0
) -> Iterator[Session]:
    """Connects for the time of a command and turns everything that can go wrong into a message and an exit code.

    Args:
        context: The command's context; options that stood before the command are found in it.
        target: The command's own `--target`.
        as_json: The command's own `--json`.
        give_up_after: Seconds for which a server that does not answer is asked again; 0: not at all.
    """
    given = Options(target, as_json)
    above: Any = context.parent
    while above is not None:
        given = given.over(above.obj)
        above = above.parent
    output = Output(as_json=given.as_json)
    try:
        server = given.target or os.environ.get("ORTOSCOPE_TARGET") or DEFAULT_TARGET
        patience = Patience(server, give_up_after)
        with patience.ask(lambda: connect(server, tls=_tls()), output.outage) as scope:
            yield Session(scope, output)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough. What is still buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
    except (OrtoscopeError, OSError) as error:
        output.error(error)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _tls() -> TLS | None:
    """TLS by environment variables; None leaves it to the target's scheme."""
    ca, certificate, key = (os.environ.get(f"ORTOSCOPE_TLS_{name}") for name in ("CA", "CERTIFICATE", "KEY"))
    if not (ca or certificate or key):
        return None
    return TLS(ca and Path(ca), certificate and Path(certificate), key and Path(key))
