"""Waiting for an atlas: what is there of it is told as it comes, and stays after an interrupt."""

import sys
import time
from pathlib import Path

import typer

from ortoscope.atlases import Atlas, atlas_of
from ortoscope.cli.results import finish, interrupted
from ortoscope.cli.session import INTERRUPTED, Session
from ortoscope.errors import OrtoscopeError, Unavailable
from ortoscope.operations import Operation, seconds_left
from ortoscope.progress import Display, display
from ortoscope.rpcs import Rpcs

_ASK_SECONDS = 5.0
"""How often the atlas is asked for while the stage stays the same."""


def finish_atlas(session: Session, operation: Operation[Atlas], path: Path | None, *, give_up_after: float) -> None:
    """Waits for an atlas that this command asked for, tells of levels as they come, and writes its page.

    Args:
        session: The command under way.
        operation: The operation that builds it.
        path: Where the page goes; None: the atlas is only summed up.
        give_up_after: Seconds for which a server that does not answer is asked again.
    """
    rpcs = session.scope.rpcs
    try:
        with display(operation.metadata.verb) as show:
            operation.wait(progress=_Levels(rpcs, operation, show), give_up_after=give_up_after)
    except KeyboardInterrupt:
        interrupted(session.output, operation, own=True)
        _say_what_stays(session, operation, path)
        raise typer.Exit(INTERRUPTED) from None
    except Unavailable:
        session.output.note(f"The operation goes on: ortoscope operations wait {operation.name} -o DIR")
        raise
    if operation.error is not None:
        _say_what_stays(session, operation, path)
    finish(session, operation, path, wait=True, own=True, give_up_after=give_up_after)


class _Levels:
    """Passes progress on, and writes a line when a level or its icons are there.

    The atlas is asked for when the stage changes, which is when something may have been added, and now and then.
    """

    def __init__(self, rpcs: Rpcs, operation: Operation[Atlas], show: Display) -> None:
        self._rpcs = rpcs
        self._operation = operation
        self._show = show
        self._stage = ""
        self._asked_at = time.monotonic()
        self._told: set[tuple[int, bool]] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._show(stage, done, total, seconds_left(self._operation))
        now = time.monotonic()
        if stage == self._stage and now - self._asked_at < _ASK_SECONDS:
            return
        self._stage, self._asked_at = stage, now
        try:
            atlas = atlas_of(self._rpcs, self._operation)
        except OrtoscopeError:
            return  # the wait says what is wrong with the server, and whether that matters
        for level in atlas.levels if atlas is not None else ():
            state = (level.grid, level.has_icons)
            if state in self._told:
                continue
            self._told |= {state, (level.grid, False)}
            what = "with its icons" if level.has_icons else "with real crops"
            # By sys.stderr as it is now, which a bar under way replaces so that lines come above it.
            sys.stderr.write(f"Level {level.grid} x {level.grid}: {level.cell_count} cells are there {what}.\n")
            sys.stderr.flush()


def _say_what_stays(session: Session, operation: Operation[Atlas], path: Path | None) -> None:
    try:
        atlas = atlas_of(session.scope.rpcs, operation)
    except (OrtoscopeError, KeyboardInterrupt):
        return
    # Of what was cancelled on purpose the server keeps only what was published.
    again = "" if operation.error is None else "\nThe same command again goes on from what was computed."
    if atlas is None:
        session.output.note(f"No level was finished yet.{again}")
        return
    levels = ", ".join(f"{level.grid}{'' if level.has_icons else ' (crops only)'}" for level in atlas.levels)
    session.output.note(
        f"What is finished stays: levels {levels} of {atlas.name}. Look at it with\n"
        f"  ortoscope atlas save {atlas.name} -o {path or 'DIR'}{again}"
    )
