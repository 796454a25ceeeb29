"""A server in a process of its own, as an operator runs it."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from serving import Stubs


@dataclass
class ServerProcess:
    """A server process that listens."""

    process: subprocess.Popen[str]
    """The process."""

    address: str
    """HOST:PORT."""

    stderr: list[str] = field(default_factory=list)
    """The lines that it wrote, as far as they came."""

    def stubs(self) -> Stubs:
        """Stubs on a channel of their own."""
        return Stubs(grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]))

    def workers(self) -> list[int]:
        """The worker processes that it has at present, by their numbers."""
        return [pid for pid in _children(self.process.pid) if b"ortoscope_service.jobs.worker" in _command(pid)]

    def wait(self, timeout: float = 60) -> int:
        """The exit status."""
        return self.process.wait(timeout)


@contextmanager
def server_process(
    models: Path,
    datasets: Path,
    store: Path,
    *,
    grace_seconds: float = 10,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[ServerProcess]:
    """Starts a server and waits until it listens; kills it in the end if it still runs.

    Args:
        models: Folder of model packages.
        datasets: Folder of datasets.
        store: Folder of the store.
        grace_seconds: How long calls may go on after SIGTERM.
        environment: Its environment; None for that of this process.
        arguments: More of its command line.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ortoscope_service", "serve", "--listen", "127.0.0.1:0"),
            *("--models", str(models), "--datasets", str(datasets), "--store", str(store)),
            *("--grace", str(grace_seconds)),
            *arguments,
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ if environment is None else environment),
    )
    running = ServerProcess(process, "")
    assert process.stderr is not None
    stderr = process.stderr
    reader = threading.Thread(target=lambda: running.stderr.extend(iter(stderr.readline, "")))
    reader.start()
    try:
        running.address = _address_of(running)
        yield running
    finally:
        process.kill()
        process.wait()
        reader.join()
        stderr.close()


def _children(parent: int) -> list[int]:
    """The processes whose parent a process is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything; state and parent follow.
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return sorted(found)


def _command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _address_of(running: ServerProcess) -> str:
    deadline = time.monotonic() + 60
    while True:
        for line in list(running.stderr):
            found = re.fullmatch(r"listening on (\S+:\d+)\n", line)
            if found:
                return found[1]
        assert running.process.poll() is None, "".join(running.stderr)
        assert time.monotonic() < deadline, "".join(running.stderr)
        time.sleep(0.02)
