"""The processes that a cluster consists of: a scheduler of Dask's, and workers that are kept running."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import NoReturn

from ortoscope_service.config import ClusterConfig
from ortoscope_service.jobs import cluster_worker
from ortoscope_service.jobs.cluster_reach import TroubleLog, trouble_with
from ortoscope_service.jobs.cluster_security import security_of

_LONGEST_PAUSE_SECONDS = 10.0
"""Most time between the end of a worker and the start of the next."""

_POLL_SECONDS = 0.1
"""How often the workers are looked after."""

_RETRY_SECONDS = 2.0
"""Time between two attempts to reach the scheduler."""

_QUICK_DEATH_SECONDS = 10.0
"""A worker that ends sooner after its start is started again more slowly each time."""

_QUIET: Mapping[str, str] = {
    # Would look at every thread's stack a hundred times a second, and at graphics cards.
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "False",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
}

_log = logging.getLogger(__name__)


def run_cluster_scheduler(config: ClusterConfig, *, health: str = "127.0.0.1:8787") -> NoReturn:
    """Becomes the scheduler of a cluster; this process goes on as Dask's.

    Args:
        config: The cluster; `address` is where to listen.
        health: HOST:PORT of an HTTP server that answers GET /health, and nothing else.

    Raises:
        OrtoscopeError: As `cluster.ClusterExecutor` raises.
    """
    security_of(config)
    host, _, port = config.address.rpartition(":")
    environment = {
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        # A worker that is stopped, or whose machine is gone without a word, is given up after this.
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60s",
        "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": '["distributed.http.health"]',
        **_QUIET,
    }
    command = _dask(
        "scheduler", config, "--host", host, "--port", port, "--no-dashboard", "--dashboard-address", health
    )
    os.execve(sys.executable, command, {**os.environ, **environment})  # noqa: S606 - there is no shell to want


def run_cluster_worker(config: ClusterConfig, *, workers: int = 1, niceness: int = 10) -> int:
    """Keeps workers of a cluster running, each a process with one thread, until SIGTERM or SIGINT.

    A worker that ends is replaced: one that died, and one that lost its scheduler. None starts as long as the scheduler
    cannot be reached; the log says why. They end with this process, even if that is killed.

    Args:
        config: The cluster.
        workers: How many; as many as there are cores is sensible, for each uses one.
        niceness: How much lower than now their priority is.

    Returns:
        The exit code of the process: 0.

    Raises:
        OrtoscopeError: As `cluster.ClusterExecutor` raises.
    """
    security = security_of(config)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    os.nice(niceness)
    command = _dask(
        *("worker", config, config.address, "--nthreads", "1", "--no-nanny", "--memory-limit", "0"),
        *("--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--preload", cluster_worker.__name__),
    )
    environment = {"ORT_DISABLE_TELEMETRY": "1", cluster_worker.PARENT_VARIABLE: str(os.getpid()), **_QUIET}
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    slots = [_Slot(command, {**os.environ, **environment}) for _ in range(workers)]
    log = TroubleLog(config.address)
    pause = _POLL_SECONDS
    while not over.wait(pause):
        pause = _POLL_SECONDS
        empty = [slot for slot in slots if slot.is_empty()]
        if empty:
            trouble = asyncio.run(trouble_with(config, security))
            log.tell(trouble)
            if trouble:
                pause = _RETRY_SECONDS
                continue
        for slot in empty:
            slot.fill()
    for slot in slots:
        slot.end()
    return 0


class _Slot:
    """A place for a worker process, which is filled again when it becomes empty."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = 0.0
        self._started_at = 0.0
        self._start_at = 0.0

    def is_empty(self) -> bool:
        """Whether a process should be started: there is none. Not at once after others that ended quickly."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            quick = now - self._started_at < _QUICK_DEATH_SECONDS
            self._pause = min(max(0.5, 2 * self._pause), _LONGEST_PAUSE_SECONDS) if quick else 0.0
            _log.warning("a worker ended with exit code %d", self._process.returncode)
            self._process = None
            self._start_at = now + self._pause
        return self._process is None and now >= self._start_at

    def fill(self) -> None:
        """Starts a process."""
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.DEVNULL)  # noqa: S603

    def end(self) -> None:
        """Ends the process. What it does is lost anyway: nobody waits for a worker that leaves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _dask(program: str, config: ClusterConfig, *arguments: str) -> list[str]:
    """The command line of one of Dask's programs."""
    files = {"--tls-cert": config.certificate, "--tls-key": config.private_key, "--tls-ca-file": config.authority}
    tls = [word for option, file in files.items() if file is not None for word in (option, str(file))]
    return [sys.executable, "-m", "dask", program, *arguments, *tls]
