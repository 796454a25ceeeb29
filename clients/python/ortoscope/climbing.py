"""How far a visualization is: what the server tells, and how it is shown to people who wait."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TextIO, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ortoscope.progress import in_notebook
from ortoscope.v1 import visualization_pb2

_LINE_SECONDS = 10.0
"""How often a line is written where nothing can be drawn."""

_SHOWN = 3
"""The most items whose objective a line tells."""


@dataclass(frozen=True)
class Climb:
    """How far a visualization is."""

    ahead: int = 0
    """Others that are before it, while it waits for its turn; 0 once it climbs."""

    attempt: int = 0
    """The attempt, from 1; 0 while it waits."""

    attempts: int = 0
    """Attempts in all."""

    octave: int = 0
    """The octave, from 1."""

    octaves: int = 0
    """Octaves in all."""

    step: int = 0
    """Steps made in this attempt and octave."""

    steps: int = 0
    """Steps in all of an attempt and octave."""

    objective: tuple[float, ...] = ()
    """The objective of each item, with the transforms of the step."""

    clean_objective: tuple[float, ...] = ()
    """The objective of each item on the clean picture; only with previews."""

    previews: tuple[bytes, ...] = ()
    """A PNG of each item, every so many steps."""

    @classmethod
    def from_proto(cls, proto: visualization_pb2.VisualizationProgress) -> "Climb":
        """Reads the server's message about a step."""
        return cls(
            attempt=proto.attempt,
            attempts=proto.attempts,
            octave=proto.octave,
            octaves=proto.octaves,
            step=proto.step,
            steps=proto.steps,
            objective=tuple(proto.objective),
            clean_objective=tuple(proto.clean_objective),
            previews=tuple(proto.previews),
        )

    @classmethod
    def waiting(cls, proto: visualization_pb2.VisualizationQueued) -> "Climb":
        """Reads the server's message that it waits."""
        return cls(ahead=proto.ahead)

    @property
    def done_steps(self) -> int:
        """Steps made in all octaves, each with all its attempts."""
        if not self.attempt:
            return 0
        rounds = (max(self.octave, 1) - 1) * max(self.attempts, 1) + self.attempt - 1
        return rounds * self.steps + self.step

    @property
    def total_steps(self) -> int:
        """Steps of all attempts and octaves; 0 if that is not known."""
        return max(self.attempts, 1) * max(self.octaves, 1) * self.steps

    def describe(self) -> str:
        """How far it is, in words."""
        if not self.attempt:
            return f"waiting for {self.ahead} other{'' if self.ahead == 1 else 's'}" if self.ahead else "waiting"
        words = f"step {self.step} of {self.steps}"
        if self.attempts > 1:
            words = f"attempt {self.attempt} of {self.attempts}, {words}"
        if self.octaves > 1:
            words = f"octave {self.octave} of {self.octaves}, {words}"
        numbers = self.clean_objective or self.objective
        if numbers:
            shown = ", ".join(f"{value:.4g}" for value in numbers[:_SHOWN])
            more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
            kind = "objective on the clean picture" if self.clean_objective else "objective"
            words += f", {kind} {shown}{more}"
        return words


Show: TypeAlias = Callable[[Climb], None]
"""Shows how far it is."""


@contextmanager
def climb_display(*, shown: bool, stream: TextIO | None = None) -> Iterator[Show]:
    """Shows how far a visualization is while the block runs.

    On a terminal a bar with the objective; in a notebook a line with the last previews; elsewhere a line now and then.

    Args:
        shown: Whether anything is shown.
        stream: Where to write; stderr if None.
    """
    target = stream or sys.stderr
    console = Console(file=target)
    if not shown:
        yield lambda _: None
    elif console.is_terminal:
        with _bar(console) as show:
            yield show
    elif stream is None and in_notebook():
        with _cell() as show:
            yield show
    else:
        yield _Lines(target)


@contextmanager
def _bar(console: Console) -> Iterator[Show]:
    columns = (
        TextColumn("visualize"),
        BarColumn(bar_width=30),
        TextColumn("{task.description}", markup=False),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)

        def show(climb: Climb) -> None:
            bars.update(task, description=climb.describe(), completed=climb.done_steps, total=climb.total_steps or None)

        yield show


@contextmanager
def _cell() -> Iterator[Show]:
    """A line and the last previews in a notebook's cell, which change in place and go at the end."""
    display = import_module("IPython.display")
    handle = display.display({"text/plain": "visualize …"}, raw=True, display_id=True)

    def show(climb: Climb) -> None:
        bundle: dict[str, object] = {"text/plain": f"visualize: {climb.describe()}"}
        if climb.previews:
            bundle["image/png"] = climb.previews[0]
        handle.update(bundle, raw=True)

    yield show


class _Lines:
    """A line when it begins to wait or to climb, and every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told: tuple[int, int, int] | None = None
        self._told_at = 0.0

    def __call__(self, climb: Climb) -> None:
        now = time.monotonic()
        where = climb.ahead, climb.attempt, climb.octave
        if where == self._told and now - self._told_at < _LINE_SECONDS:
            return
        self._told, self._told_at = where, now
        self._stream.write(f"visualize: {climb.describe()}\n")
        self._stream.flush()
