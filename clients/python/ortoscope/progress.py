"""How far an operation is, for people who wait: on stderr, or in the notebook."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from ortoscope.durations import left_in_words

_LINE_SECONDS = 10.0
"""How often a line is written where nothing can be drawn: seldom enough for a log."""


class Progress(Protocol):
    """Is told how far the work is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Takes note of the present stage, items done, and items in all (0: not known)."""


class Display(Protocol):
    """Shows how far the work is."""

    def __call__(self, stage: str, done: int, total: int, left: float | None = None) -> None:
        """Shows the stage, items done, items in all (0: not known) and the seconds left, where somebody knows."""


def silent(stage: str, done: int, total: int, left: float | None = None) -> None:
    """Shows nothing."""
    del stage, done, total, left


@contextmanager
def shown(progress: bool | Progress, title: str) -> Iterator[Display]:
    """What to tell progress to while the block runs.

    Args:
        progress: True displays it, False does not; a function is told of it.
        title: What is under way.
    """
    if progress is True:
        with display(title) as show:
            yield show
    elif progress is False:
        yield silent
    else:
        yield _telling(progress)


@contextmanager
def display(title: str, *, stream: TextIO | None = None) -> Iterator[Display]:
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


def _telling(progress: Progress) -> Display:
    def tell(stage: str, done: int, total: int, left: float | None = None) -> None:
        del left
        progress(stage, done, total)

    return tell


class _TimeLeft(ProgressColumn):
    """The time left as the server estimates it; where it does not, as the bar's own pace tells."""

    def render(self, task: Task) -> Text:
        """The cell of a task."""
        left = task.fields["left"]
        return Text(left_in_words(task.time_remaining if left is None else left))


@contextmanager
def _bar(title: str, console: Console) -> Iterator[Display]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[amount]}", markup=False),
        _TimeLeft(),
    )
    with RichProgress(*columns, console=console, transient=True, expand=True) as bars:
        task: TaskID | None = None
        current = ""

        def show(stage: str, done: int, total: int, left: float | None = None) -> None:
            nonlocal task, current
            if task is None or stage != current:  # a new task, so that the bar's own pace is that of this stage
                if task is not None:
                    bars.remove_task(task)
                description = f"{title}: {stage}" if stage else title
                task, current = bars.add_task(description, total=None, amount="", left=None), stage
            amount = f"{done}/{total}" if total else (str(done) if done else "")
            bars.update(task, completed=done, total=total or None, amount=amount, left=left)

        show("", 0, 0)
        yield show


class _Lines:
    """A line at every new stage, and every ten seconds."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self._title = title
        self._stream = stream
        self._shown_at = 0.0
        self._shown: tuple[str, int, int] | None = None

    def __call__(self, stage: str, done: int, total: int, left: float | None = None) -> None:
        now = time.monotonic()
        new_stage = self._shown is None or self._shown[0] != stage
        finished = total > 0 and done == total
        if (stage, done, total) == self._shown or not (new_stage or finished or now - self._shown_at >= _LINE_SECONDS):
            return
        self._shown_at, self._shown = now, (stage, done, total)
        self._stream.write(f"{self._title}: {text_of(stage, done, total, left)}\n")
        self._stream.flush()


def text_of(stage: str, done: int, total: int, left: float | None = None) -> str:
    """Progress in words, such as "activating, 32 of 220 (15 %), about 40 s left"."""
    amount = f"{done} of {total} ({100 * done // total} %)" if total else (str(done) if done else "")
    return ", ".join(part for part in (stage, amount, left_in_words(left)) if part) or "waiting"


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this; that somebody imported its module is not enough."""
    return "ipykernel" in sys.modules and import_module("IPython").get_ipython() is not None


def _notebook(title: str) -> Display | None:
    """A line in a notebook's cell that changes in place; None outside of a notebook."""
    if not in_notebook():
        return None
    show = import_module("IPython.display").display
    handle = show({"text/plain": f"{title} …"}, raw=True, display_id=True)

    def update(stage: str, done: int, total: int, left: float | None = None) -> None:
        handle.update({"text/plain": f"{title}: {text_of(stage, done, total, left)}"}, raw=True)

    return update
