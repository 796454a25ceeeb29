"""A virtual environment as a user of the client has it: the base installation, and a stock tritonclient beside it.

It is made once and kept in `.cache/` until pyproject.toml or the Python version changes. The project is installed
editable, so that what runs there is the present source.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("tritonclient[grpc]",)


@dataclass(frozen=True)
class ClientEnvironment:
    """A virtual environment with the client."""

    python: Path
    """Its interpreter."""

    def run(self, script: str, *arguments: str, timeout: float = 120) -> str:
        """Runs a script in it and returns what it prints; fails with what it says if it fails."""
        unset = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        finished = subprocess.run(
            [str(self.python), "-c", script, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.python.parent,
            env={name: value for name, value in os.environ.items() if name not in unset},
        )
        assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
        return finished.stdout


def client_environment() -> ClientEnvironment:
    """The environment, made if it is not there; skips the test if packages cannot be had."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(f"{version} {REQUIREMENTS}".encode() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()[:12]
    folder = ROOT / ".cache" / f"client-environment-{key}"
    environment = ClientEnvironment(folder / "bin" / "python")
    folder.parent.mkdir(exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        if not (folder / "complete").exists():
            _make(folder, environment.python)
    return environment


def _make(folder: Path, python: Path) -> None:
    for outdated in folder.parent.glob("client-environment-*"):
        if outdated.is_dir():
            shutil.rmtree(outdated)
    venv.create(folder, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    finished = _run([*install, "--editable", str(ROOT), *REQUIREMENTS])
    if finished.returncode:
        reason = finished.stderr.strip().splitlines()[-1:] or ["no reason given"]
        pytest.skip(f"the client's environment cannot be made: pip says: {reason[0]}")
    (folder / "complete").touch()


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, check=False, capture_output=True, text=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other test processes out meanwhile."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
