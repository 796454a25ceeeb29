"""Watching all operations that wait or run."""

import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Group
from rich.live import Live
from rich.text import Text

from ortoscope.cli.operations_view import drawn
from ortoscope.cli.session import Output, Session
from ortoscope.client import Ortoscope
from ortoscope.errors import NotFound
from ortoscope.operations import Operation, seconds_left, subject
from ortoscope.patience import Patience
from ortoscope.progress import text_of

_ASK_SECONDS = 1.0
"""How often the server is asked: what a person who looks on notices, and a server does not."""

_LINE_SECONDS = 10.0
"""How often a line tells that an operation goes on as before."""

_ENDED_SHOWN = 5
"""Operations that ended while they were watched and are still shown."""


def watch(session: Session, patience: Patience) -> None:
    """Shows all operations that wait or run until it is interrupted: a table on a terminal, lines or JSON elsewhere.

    Raises:
        KeyboardInterrupt: Somebody has seen enough; no operation is cancelled.
        OrtoscopeError: As Operations.ListOperations.
    """
    watched = Watched(session.scope)
    output = session.output
    if output.as_json:
        _repeat(watched, patience, _JsonLines(output), output.outage)
    elif output.is_terminal:
        with _Screen(output) as screen:
            _repeat(watched, patience, screen, screen.lost)
    else:
        _repeat(watched, patience, _Lines(), output.outage)


class Watched:
    """The operations that wait or run, and those that ended while they were watched."""

    def __init__(self, scope: Ortoscope) -> None:
        self._scope = scope
        self._pending: dict[str, Operation[Any]] = {}
        self._ended: list[Operation[Any]] = []

    def ask(self) -> list[Operation[Any]]:
        """Asks the server; gives what runs and waits, oldest first, and then what ended last."""
        before = self._pending
        pending = {operation.name: operation for operation in reversed(self._scope.operations(done=False))}
        ended = [found for name in before if name not in pending and (found := self._find(name)) is not None]
        self._pending, self._ended = pending, [*ended, *self._ended][:_ENDED_SHOWN]
        running = [operation for operation in pending.values() if operation.state == "running"]
        waiting = [operation for operation in pending.values() if operation.state != "running"]
        return [*running, *waiting, *self._ended]

    def _find(self, name: str) -> Operation[Any] | None:
        try:
            return self._scope.operations.get(name)
        except NotFound:  # deleted since
            return None


class _Show(Protocol):
    def __call__(self, operations: list[Operation[Any]]) -> None: ...


def _repeat(watched: Watched, patience: Patience, show: _Show, lost: Any) -> None:
    while True:
        show(patience.ask(watched.ask, lost))
        time.sleep(_ASK_SECONDS)


class _Screen:
    """A table that changes in place."""

    def __init__(self, output: Output) -> None:
        self._live = Live(console=output.console, auto_refresh=False)
        self._operations: list[Operation[Any]] = []

    def __enter__(self) -> "_Screen":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def __call__(self, operations: list[Operation[Any]]) -> None:
        self._operations = operations
        pending = sum(not operation.done for operation in operations)
        self._draw(f"{pending or 'No'} operation{'' if pending == 1 else 's'} under way; Ctrl-C ends this view only")

    def lost(self, what: str) -> None:
        """Says above the table, which stays as it was, that there is no answer."""
        self._draw(f"{what} …", "yellow")

    def _draw(self, title: str, style: str = "dim") -> None:
        parts: list[Any] = [Text(title, style)]
        if self._operations:
            parts.append(drawn(self._operations))
        self._live.update(Group(*parts), refresh=True)


class _Lines:
    """A line when an operation begins, changes what it does, or ends, and every ten seconds while it moves."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[tuple[str, str], int, float]] = {}

    def __call__(self, operations: Iterable[Operation[Any]]) -> None:
        now = time.monotonic()
        for operation in operations:
            metadata = operation.metadata
            doing, done = (operation.state, metadata.stage), metadata.done_items
            told = self._told.get(operation.name)
            if told is not None and told[0] == doing and (told[1] == done or now - told[2] < _LINE_SECONDS):
                continue
            self._told[operation.name] = doing, done, now
            sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {_line(operation)}\n")
        sys.stdout.flush()


class _JsonLines:
    """A JSON object on a line of its own whenever an operation changes."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._told: dict[str, bytes] = {}

    def __call__(self, operations: Iterable[Operation[Any]]) -> None:
        for operation in operations:
            state = operation.proto.SerializeToString(deterministic=True)
            if self._told.get(operation.name) != state:
                self._told[operation.name] = state
                self._output.json(operation.proto)
        sys.stdout.flush()


def _line(operation: Operation[Any]) -> str:
    metadata = operation.metadata
    parts = [operation.state]
    if not operation.done:
        amount = text_of(metadata.stage, metadata.done_items, metadata.total_items, seconds_left(operation))
        parts.append(amount if amount != "waiting" else "")
    elif operation.error is not None:
        parts.append(operation.error.message)
    what = ", ".join(filter(None, parts))
    return f"{operation.name} {metadata.verb} {subject(operation)}: {what}"
