"""A server in a process of its own, as an operator runs it."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
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
) -> Iterator[ServerProcess]:
    """Starts a server and waits until it listens; kills it in the end if it still runs."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ortoscope_service", "serve", "--listen", "127.0.0.1:0"),
            *("--models", str(models), "--datasets", str(datasets), "--store", str(store)),
            *("--grace", str(grace_seconds)),
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
