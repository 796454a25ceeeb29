"""The command `ortoscope` as tests run it."""

import contextlib
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ortoscope.cli.app import app


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORTOSCOPE_T")}
    return {**kept, "COLUMNS": "100", **more}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from ortoscope.cli import main; main()", *map(str, arguments)]


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


def run(*arguments: str | Path, code: int = 0, **environ: str) -> Done:
    """Runs the command in this process, which costs less than a new one; it must end with `code`."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(**environ), clear=True),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as ended,
    ):
        app(list(map(str, arguments)), prog_name="ortoscope")
    assert ended.value.code == code, stderr.getvalue() + stdout.getvalue()
    return Done(stdout.getvalue(), stderr.getvalue())


def run_json(*arguments: str | Path, code: int = 0, **environ: str) -> dict[str, Any]:
    """Runs the command; stdout must be exactly one JSON object on one line."""
    done = run(*arguments, code=code, **environ)
    assert done.stdout.count("\n") == 1
    data = json.loads(done.stdout)
    assert isinstance(data, dict)
    return data
