"""How far an operation is, for people who wait: on stderr, or in the notebook."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_LINE_SECONDS = 10.0
"""How often a line is written where nothing can be drawn: seldom enough for a log."""


class Progress(Protocol):
    """Is told how far the work is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Takes note of the present stage, items done, and items in all (0: not known)."""


def silent(stage: str, done: int, total: int) -> None:
    """Shows nothing."""
    del stage, done, total


@contextmanager
def shown(progress: bool | Progress, title: str) -> Iterator[Progress]:
    """What to tell progress to while the block runs.

    Args:
        progress: True displays it, False does not; a function is told of it.
        title: What is under way.
    """
    if progress is True:
        with display(title) as show:
            yield show
    else:
        yield progress or silent


@contextmanager
def display(title: str, *, stream: TextIO | None = None) -> Iterator[Progress]:
    """Shows progress while the block runs: a bar on a terminal, a cell's output in a notebook, plain lines elsewhere.

    Args:
        title: What is under way.
        stream: Where to write; stderr if None.
    """
    target = stream or sys.stderr
    console = Console(file=target)
    if console.is_terminal:
        with _bar(title, console) as progress:
            yield progress
    elif stream is None and (notebook := _notebook(title)) is not None:
        yield notebook
    else:
        yield _Lines(title, target)


@contextmanager
def _bar(title: str, console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, transient=True, expand=True) as bars:
        task: TaskID | None = None
        current = ""

        def show(stage: str, done: int, total: int) -> None:
            nonlocal task, current
            if task is None or stage != current:  # a new task, so that the time left is that of this stage
                if task is not None:
                    bars.remove_task(task)
                task, current = bars.add_task(f"{title}: {stage}" if stage else title, total=None), stage
            bars.update(task, completed=done, total=total or None)

        show("", 0, 0)
        yield show


class _Lines:
    """A line at every new stage, and every ten seconds."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self._title = title
        self._stream = stream
        self._shown_at = 0.0
        self._shown: tuple[str, int, int] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        new_stage = self._shown is None or self._shown[0] != stage
        finished = total > 0 and done == total
        if (stage, done, total) == self._shown or not (new_stage or finished or now - self._shown_at >= _LINE_SECONDS):
            return
        self._shown_at, self._shown = now, (stage, done, total)
        self._stream.write(f"{self._title}: {text_of(stage, done, total)}\n")
        self._stream.flush()


def text_of(stage: str, done: int, total: int) -> str:
    """Progress in words, such as "activating, 32 of 220 (15 %)"."""
    amount = f"{done} of {total} ({100 * done // total} %)" if total else (str(done) if done else "")
    return ", ".join(part for part in (stage, amount) if part) or "waiting"


def _notebook(title: str) -> Progress | None:
    """A line in a notebook's cell that changes in place; None outside of a notebook."""
    if "ipykernel" not in sys.modules:
        return None
    show = import_module("IPython.display").display  # there is one, since its kernel runs
    handle = show({"text/plain": f"{title} …"}, raw=True, display_id=True)

    def update(stage: str, done: int, total: int) -> None:
        handle.update({"text/plain": f"{title}: {text_of(stage, done, total)}"}, raw=True)

    return update
