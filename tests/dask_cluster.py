"""A Dask cluster of processes on loopback, as an operator runs it, whose parts can be killed; and tasks for it.

Workers import this module for the tasks, so that it needs nothing but the standard library and the service.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from certificates import make_authority, make_certificate
from ortoscope_service.config import ClusterConfig
from ortoscope_service.jobs import worker

TESTS = Path(__file__).parent


def make_certificates(folder: Path) -> Path:
    """Makes an authority and a certificate of it, and a certificate of a stranger's authority.

    Returns:
        The folder: {member,stranger}.{crt,key} and {member,stranger}-authority.{crt,key}.
    """
    for name in ("member", "stranger"):
        make_authority(folder, f"{name}-authority")
        make_certificate(folder, name, f"{name}-authority")
    return folder


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class DaskCluster:
    """A scheduler and workers, each a process of its own.

    Args:
        certificates: What `make_certificates` made, for TLS; None for plain text.
        log: A file that takes what all processes write.

    Attributes:
        config: How one belongs to the cluster.
    """

    def __init__(self, certificates: Path | None, log: Path) -> None:
        address = f"{'tcp' if certificates is None else 'tls'}://127.0.0.1:{free_port()}"
        self.config = ClusterConfig(address) if certificates is None else member(address, certificates)
        self._log = log
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: subprocess.Popen[bytes] | None = None

    def start_scheduler(self) -> None:
        """Starts the scheduler, on the same port each time."""
        self._scheduler = self._run("run_cluster_scheduler(config, health='127.0.0.1:0')")

    def start_workers(self, workers: int) -> None:
        """Starts workers, and what restarts them when they end."""
        self._workers = self._run(f"sys.exit(run_cluster_worker(config, workers={workers}))")

    def kill_scheduler(self) -> None:
        """Kills the scheduler, as `kill -9` does."""
        assert self._scheduler is not None
        self._scheduler.kill()
        self._scheduler.wait()

    def pause_scheduler(self) -> None:
        """Stops the scheduler without closing its connections, as a machine does that hangs."""
        assert self._scheduler is not None
        self._scheduler.send_signal(signal.SIGSTOP)

    def resume_scheduler(self) -> None:
        """Lets the scheduler go on."""
        assert self._scheduler is not None
        self._scheduler.send_signal(signal.SIGCONT)

    def kill_workers_supervisor(self) -> None:
        """Kills what restarts the workers."""
        assert self._workers is not None
        self._workers.kill()
        self._workers.wait()

    def stop_workers(self) -> int:
        """Stops the workers in order; returns the exit code of what restarts them."""
        assert self._workers is not None
        self._workers.terminate()
        return self._workers.wait(30)

    def stop(self) -> None:
        """Kills what still runs."""
        for process in (self._workers, self._scheduler):
            if process is not None:
                process.kill()
                process.wait()

    def log(self) -> str:
        """What the processes wrote so far."""
        return self._log.read_text()

    def _run(self, call: str) -> "subprocess.Popen[bytes]":
        program = (
            "import sys\n"
            "from pathlib import PosixPath\n"
            "from ortoscope_service.config import ClusterConfig\n"
            "from ortoscope_service.jobs.cluster_members import run_cluster_scheduler, run_cluster_worker\n"
            f"config = {self.config!r}\n{call}\n"
        )
        search_path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": search_path},
            )  # fmt: skip


def member(address: str, certificates: Path) -> ClusterConfig:
    """The configuration of who has a certificate of the cluster's authority."""
    certificate, key, authority = (certificates / f"member{end}" for end in (".crt", ".key", "-authority.crt"))
    return ClusterConfig(address, certificate, key, authority)


@contextmanager
def dask_cluster(workers: int, certificates: Path | None, log: Path) -> Iterator[DaskCluster]:
    """A cluster that is being started; killed in the end."""
    cluster = DaskCluster(certificates, log)
    try:
        cluster.start_scheduler()
        cluster.start_workers(workers)
        yield cluster
    finally:
        cluster.stop()


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until something holds.

    Raises:
        AssertionError: It does not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)


def echo(value: object) -> object:
    """Returns what it is given."""
    return value


def pid() -> int:
    """The process that does it."""
    return os.getpid()


def environment(name: str) -> str | None:
    """A variable of the worker's environment."""
    return os.environ.get(name)


def niceness_and_threads() -> list[int]:
    """How low the priority of the worker is, and how many threads it has for tasks."""
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("Dask-Default")]
    return [os.nice(0), len(workers)]


def square_slowly(number: int) -> list[int]:
    """The square of a number, a little later, and the process that computed it."""
    time.sleep(0.3)
    return [number * number, os.getpid()]


def fail(text: str) -> None:
    """Raises a ValueError."""
    raise ValueError(text)


def die(sign: str) -> None:
    """Leaves a line in a file and ends its process."""
    with Path(sign).open("a") as file:
        file.write(f"{os.getpid()}\n")
    os._exit(1)


def die_once(sign: str) -> str:
    """Ends its process if no other did so before."""
    try:
        Path(sign).touch(exist_ok=False)
    except FileExistsError:
        return "done"
    os._exit(1)


def done_and_gone(text: str) -> list[object]:
    """Asks for the end of its process; the text that it is given, and the process."""
    worker.retire()
    return [text, os.getpid()]


def wait_for_flag(sign: str, flag: str) -> str:
    """Says that it runs, and runs until a flag is there."""
    Path(sign).write_text(str(os.getpid()))
    deadline = time.monotonic() + 120
    while not Path(flag).exists():
        if time.monotonic() > deadline:
            return "nobody set the flag"
        time.sleep(0.02)
    return "stopped"
