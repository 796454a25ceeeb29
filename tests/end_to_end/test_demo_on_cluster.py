"""The whole demo on a cluster whose parts are killed meanwhile: every file as without a cluster."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import HAS_OPENSSL
from dask_cluster import free_port, make_certificates

ROOT = Path(__file__).resolve().parents[2]
SERVER_LOG = ROOT / ".cache" / "demo" / "server.log"


class Members:
    """A scheduler and two workers, each started by the command that compose uses, with mutual TLS.

    Args:
        certificates: What `make_certificates` made.
        folder: Where their logs go.

    Attributes:
        options: How one belongs to the cluster, on the command line.
    """

    def __init__(self, certificates: Path, folder: Path) -> None:
        self.options = [
            *("--cluster", f"tls://127.0.0.1:{free_port()}"),
            *("--cluster-certificate", str(certificates / "member.crt")),
            *("--cluster-key", str(certificates / "member.key")),
            *("--cluster-authority", str(certificates / "member-authority.crt")),
        ]
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts all of them."""
        self.start_scheduler()
        self._supervisor = self._start("cluster-worker", "--workers", "2")

    def start_scheduler(self) -> None:
        """Starts the scheduler, on the same port each time."""
        self._scheduler = self._start("cluster-scheduler")

    def kill_scheduler(self) -> None:
        """Kills the scheduler and starts it again, as a restart policy does."""
        self._scheduler.kill()
        self._scheduler.wait()
        self.start_scheduler()

    def kill_worker(self) -> None:
        """Kills one of the workers."""
        os.kill(children(self._supervisor.pid)[0], signal.SIGKILL)

    def stop(self) -> None:
        """Ends what still runs."""
        for process in reversed(self._started):
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        """What the processes of a command wrote."""
        return (self._folder / f"{name}.log").read_text()

    def _start(self, command: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self._folder / f"{command}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ortoscope_service", command, *self.options, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._started.append(process)
        return process


@contextmanager
def members(certificates: Path, folder: Path) -> Iterator[Members]:
    started = Members(certificates, folder)
    try:
        started.start()
        yield started
    finally:
        started.stop()


def children(parent: int) -> list[int]:
    """The processes that the main thread of a process started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def run_demo(output: Path, *options: str, on_line: Callable[[str], None] = lambda _: None) -> str:
    """Runs the demo, with a store of its own; calls `on_line` with each line as it comes; returns all of them."""
    command = [sys.executable, str(ROOT / "demo" / "run.py"), str(output), f"--store={output}-store", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        try:
            assert demo.stdout is not None
            lines = []
            for line in demo.stdout:
                lines.append(line)
                on_line(line)
        except BaseException:
            demo.terminate()
            raise
    said = "".join(lines)
    assert demo.returncode == 0, said
    return said


def contents(output: Path) -> Mapping[str, Any]:
    """Everything that a demo wrote, but for what its provenance says of when it ran."""
    found: dict[str, Any] = {}
    for path in sorted(file for file in output.rglob("*") if file.is_file()):
        name = str(path.relative_to(output))
        found[name] = path.read_bytes()
        if path.name == "provenance.json":
            found[name] = {key: value for key, value in json.loads(found[name]).items() if key != "run"}
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(not HAS_OPENSSL, reason="openssl is not installed")
def test_the_demo_on_a_cluster_whose_parts_are_killed_writes_the_same_files(tmp_path: Path) -> None:
    run_demo(tmp_path / "alone", "--workers", "2")
    with members(make_certificates(tmp_path), tmp_path) as cluster:
        # Struck in this order, each when the demo begins to say so.
        blows = [
            ("dissect: activating", cluster.kill_worker),
            ("find-examples: ", lambda: None),
            ("dissect: activating", cluster.kill_scheduler),
        ]

        def strike(line: str) -> None:
            if blows and line.startswith(blows[0][0]):
                blows.pop(0)[1]()

        run_demo(tmp_path / "cluster", *cluster.options, on_line=strike)
        assert not blows
        assert "a worker ended with exit code -9" in cluster.log("cluster-worker")
        assert "lost the cluster" in SERVER_LOG.read_text()
    alone, clustered = contents(tmp_path / "alone"), contents(tmp_path / "cluster")
    assert {"tally.csv", "dissection.npz", "provenance.json"} <= {Path(name).name for name in alone}
    assert clustered.keys() == alone.keys()
    assert [name for name, content in alone.items() if clustered[name] != content] == []
