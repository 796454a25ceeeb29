"""Operations whose server, workers and cluster are killed while they run, and started again as an operator would.

A *deployment* is a server with its workers, here or on a cluster, and a store of its own. A *run* has a deployment do a
dissection and a search for examples, strikes *blows* at it meanwhile, and compares all that `-o` writes with what a
deployment of one worker wrote undisturbed.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import ortoscope
from dask_cluster import DaskCluster, eventually, free_port
from ortoscope.patience import Patience
from ortoscope.v1.activations_pb2 import ExamplesSpec, FindExamplesRequest
from ortoscope.v1.dissections_pb2 import CreateDissectionRequest, DissectionSpec
from ortoscope_service.analysis.dissection.kernels import compile_all
from ortoscope_service.datasets.rendered_scenes import render_scenes
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository
from serving import add_model
from tiny_models import GraphBuilder, float_value

IMAGES = 320
SIZE = 48
BATCH_SIZE = 4
"""Number of pictures, their width and height, and pictures per run of the model: twenty shards, the first few of which
bound what the others keep, in seconds."""

MODEL = "conv"
TAP = "relu2"
DATASET = "scenes"

_PATIENCE_SECONDS = 120.0
_MARK = "ORTOSCOPE_DEPLOYMENT"


class Victim(Enum):
    """What is killed."""

    SERVER = "server"
    WORKER = "worker"
    SCHEDULER = "scheduler"
    SUPERVISOR = "supervisor"


class Moment(Enum):
    """When it is killed."""

    SUBMITTED = "submitted"
    UNDER_WAY = "under way"
    MERGING = "merging"
    PUBLISHING = "publishing"


@dataclass(frozen=True)
class Formation:
    """Who does the work."""

    name: str
    """What it is called."""

    workers: int
    """Number of worker processes."""

    cluster: bool = False
    """Whether they are a cluster's."""

    @property
    def victims(self) -> tuple[Victim, ...]:
        """What there is to kill."""
        return tuple(Victim) if self.cluster else (Victim.SERVER, Victim.WORKER)


FORMATIONS = (
    Formation("1 worker", 1),
    Formation("2 workers", 2),
    Formation("4 workers", 4),
    Formation("cluster of 2", 2, cluster=True),
)


@dataclass(frozen=True)
class Blow:
    """One kill."""

    victim: Victim
    """What is killed."""

    moment: Moment
    """When."""

    seconds: float = 0.0
    """For `UNDER_WAY`: how long after the operations were submitted."""


def blows_of(formation: Formation, seed: int, seconds: float) -> tuple[Blow, ...]:
    """What is struck in a run: consecutive seeds go through all victims and moments, and add more at random.

    Args:
        formation: Who does the work.
        seed: Decides everything.
        seconds: How long an undisturbed run takes.
    """
    rng = random.Random(f"{formation.name} {seed}")
    victims, moments = formation.victims, tuple(Moment)
    first = Blow(victims[seed % len(victims)], moments[seed // len(victims) % len(moments)], rng.random() * seconds)
    blows = [first]
    while rng.random() < 0.5:
        blows.append(Blow(rng.choice(victims), Moment.UNDER_WAY, rng.random() * seconds))
    # What kills the same task twice is rightly taken for the task's own fault. So no more than one of these.
    deadly = [blow for blow in blows if blow.victim in {Victim.WORKER, Victim.SUPERVISOR}]
    kept = [blow for blow in blows if blow not in deadly[1:]]
    return tuple(sorted(kept, key=lambda blow: (moments.index(blow.moment), blow.seconds)))


@dataclass(frozen=True)
class Rig:
    """What deployments work on."""

    models: Path
    """Folder of model packages."""

    datasets: Path
    """Folder of datasets."""


def make_rig(folder: Path) -> Rig:
    """A convolutional network, and labelled pictures."""
    compile_all()  # or the first run would be much slower than the others
    rig = Rig(folder / "models", folder / "datasets")
    pixels = Preprocessing("nchw", "rgb", (127.0,) * 3, (64.0,) * 3, "squash", SIZE, SIZE, SIZE, "not verified: a test")
    add_model(ModelRepository(rig.models), MODEL, _network(), preprocessing=pixels)
    render_scenes(rig.datasets / DATASET, count=IMAGES, size=SIZE)
    return rig


def _network() -> onnx.ModelProto:
    """`image` (n, 3, 48, 48) → `relu1` (n, 32, 48, 48) → `relu2` (n, 24, 24, 24)."""
    g = GraphBuilder(0)
    value, channels = "image", 3
    for number, (units, stride) in enumerate([(32, 1), (24, 2)], start=1):
        weight = g.weight(f"weight{number}", (units, channels, 5, 5), 25 * channels)
        convolved = g.node("Conv", [value, weight], f"conv{number}", pads=[2] * 4, strides=[stride] * 2)
        value, channels = g.node("Relu", [convolved], f"relu{number}"), units
    inputs = [float_value("image", ["n", 3, SIZE, SIZE])]
    return g.model(inputs, [float_value(value, ["n", channels, SIZE // 2, SIZE // 2])], opset=17)


@dataclass(frozen=True)
class Run:
    """What came of a run."""

    blows: tuple[str, ...]
    """What was struck when, in words."""

    seconds: float
    """From the submission until both results were written."""

    faults: tuple[str, ...]
    """What is not as it must be."""


def run(rig: Rig, formation: Formation, folder: Path, blows: Sequence[Blow] = (), reference: Path | None = None) -> Run:
    """Has a deployment do the work.

    Args:
        rig: What to work on.
        formation: Who does the work.
        folder: Where the store, the logs and, under `results`, the results go; made.
        blows: What is struck meanwhile.
        reference: Results that these must be equal to; None: nothing is compared.
    """
    folder.mkdir(parents=True)
    results = folder / "results"
    with deployment(rig, formation, folder) as deployed:
        began = time.monotonic()
        names = submit(deployed.address)
        striker = _Striker(deployed, names[0], blows, random.Random(repr(blows)))
        with striker:
            faults = fetch(deployed.address, names, results)
        seconds = time.monotonic() - began
        faults += striker.faults
        faults += [] if faults else deployed.leftovers()
        faults += deployed.stop()
    if reference is not None and not faults:
        faults = differences(reference, results)
    return Run(tuple(striker.struck), seconds, tuple(faults))


def submit(address: str) -> list[str]:
    """Asks a server for both operations, by requests that may be repeated; returns their names."""
    tap = f"models/{MODEL}/versions/1/taps/{TAP}"
    dissection = DissectionSpec(tap=tap, dataset=f"datasets/{DATASET}")
    examples = ExamplesSpec(tap=tap, dataset=f"datasets/{DATASET}", count=3)
    with _connected(address) as scope:
        calls: list[Callable[[], Any]] = [
            partial(
                scope.rpcs.create_dissection,
                CreateDissectionRequest(spec=dissection, request_id=str(uuid.uuid4())),
            ),
            partial(
                scope.rpcs.find_examples,
                FindExamplesRequest(spec=examples, request_id=str(uuid.uuid4())),
            ),
        ]
        return [str(Patience(address, _PATIENCE_SECONDS).ask(call, lambda _: None).name) for call in calls]


def fetch(address: str, names: Sequence[str], results: Path) -> list[str]:
    """Waits for operations by name, from another connection, and writes their results as `-o` does.

    Returns:
        How they failed, if they did.
    """
    faults = []
    patience = Patience(address, _PATIENCE_SECONDS)
    with _connected(address) as scope:
        for number, name in enumerate(names):
            try:
                operation = patience.ask(partial(scope.operations.get, name), lambda _: None)
                result: Any = operation.result(timeout=_PATIENCE_SECONDS, give_up_after=_PATIENCE_SECONDS)
                patience.ask(partial(result.save, results / str(number)), lambda _: None)
            except ortoscope.OrtoscopeError as error:
                faults.append(f"{operation.metadata.verb}: {error.reason}: {error.message}")
    return faults


@contextlib.contextmanager
def _connected(address: str) -> Iterator[ortoscope.Ortoscope]:
    """A connection with a server that may be away at the moment."""
    with Patience(address, _PATIENCE_SECONDS).ask(partial(ortoscope.connect, address), lambda _: None) as scope:
        yield scope


def differences(reference: Path, results: Path) -> list[str]:
    """How two folders of results differ, byte by byte; what is particular to a run in provenance.json left aside."""
    files = {
        path.relative_to(folder) for folder in (reference, results) for path in folder.rglob("*") if path.is_file()
    }
    return [f"{file} differs" for file in sorted(files) if _content(reference / file) != _content(results / file)]


def _content(file: Path) -> object:
    if not file.exists():
        return None
    if file.name != "provenance.json":
        return file.read_bytes()
    provenance = json.loads(file.read_text(encoding="utf-8"))
    return {**provenance, "run": sorted(provenance["run"])}


class Deployment:
    """A server with its workers, whose parts can be killed; made by `deployment`.

    Args:
        rig: What it works on.
        formation: Who does the work.
        folder: Where the logs and the store, as `store`, go.
        environment: What the server has in its environment besides what this process has.

    Attributes:
        address: HOST:PORT of the server, the same after every restart.
        store: The store.
    """

    def __init__(
        self, rig: Rig, formation: Formation, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.store = folder / "store"
        self._formation = formation
        self._log = folder / "server.log"
        self._cluster = DaskCluster(None, folder / "cluster.log") if formation.cluster else None
        self._token = uuid.uuid4().hex
        self._environment = {**os.environ, **(environment or {}), _MARK: self._token}
        self._command = [
            *(sys.executable, "-m", "ortoscope_service", "serve", "--listen", self.address),
            *("--models", str(rig.models), "--datasets", str(rig.datasets), "--store", str(self.store)),
            *("--batch-size", str(BATCH_SIZE), "--threads", "1", "--workers", str(formation.workers)),
            *(() if self._cluster is None else ("--cluster", self._cluster.config.address)),
        ]
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts everything, and waits until the server listens."""
        if self._cluster is not None:
            with mock.patch.dict(os.environ, {_MARK: self._token}):
                self._cluster.start_scheduler()
                self._cluster.start_workers(self._formation.workers)
        self._start_server()

    def strike(self, victim: Victim, rng: random.Random) -> None:
        """Kills something, and starts again what an operator's restart policy would.

        Raises:
            AssertionError: What must end with it does not, or what was started does not live.
        """
        match victim:
            case Victim.SERVER:
                self._kill_server()
                self._start_server()
            case Victim.WORKER:
                self._kill_worker(rng)
            case Victim.SCHEDULER:
                assert self._cluster is not None
                self._cluster.kill_scheduler()
                with mock.patch.dict(os.environ, {_MARK: self._token}):
                    self._cluster.start_scheduler()
            case Victim.SUPERVISOR:
                assert self._cluster is not None
                self._cluster.kill_workers_supervisor()
                with mock.patch.dict(os.environ, {_MARK: self._token}):
                    self._cluster.start_workers(self._formation.workers)

    def is_publishing(self) -> bool:
        """Whether anything was written for a result."""
        return any(path.is_file() for path in (self.store / "blobs").rglob("*"))

    def workers(self) -> list[int]:
        """The worker processes."""
        return [pid for pid in self._processes() if _is_worker(_words(f"/proc/{pid}/cmdline"))]

    def leftovers(self) -> list[str]:
        """What operations that are done must not leave in the store, and did."""

        def left() -> list[Path]:
            return [file for name in ("shards", "permits") for file in _files(self.store / name)]

        with contextlib.suppress(AssertionError):
            eventually(lambda: not left(), seconds=2)
        return [f"{file.relative_to(self.store)} is left" for file in left()]

    def stop(self) -> list[str]:
        """Stops everything in order; returns what did not go as it must."""
        faults = []
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            code = self._server.wait(60)
            if code:
                faults.append(f"the server ended with {code}")
        if self._cluster is not None:
            self._cluster.stop_workers()
            self._cluster.stop()
        with contextlib.suppress(AssertionError):
            eventually(lambda: not self._processes(), seconds=10)
        return faults + [f"process {' '.join(_words(f'/proc/{pid}/cmdline'))} is left" for pid in self._processes()]

    def kill(self) -> None:
        """Kills what still runs."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        if self._cluster is not None:
            self._cluster.stop()

    def log(self) -> str:
        """What the server and its workers wrote."""
        return self._log.read_text(encoding="utf-8")

    def _start_server(self) -> None:
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        eventually(lambda: self._listens() or self._has_ended())
        assert not self._has_ended(), self.log()

    def _kill_server(self) -> None:
        assert self._server is not None
        local = [] if self._formation.cluster else self.workers()
        self._server.kill()
        self._server.wait()
        eventually(lambda: not set(local) & set(self._processes()), seconds=10)

    def _kill_worker(self, rng: random.Random) -> None:
        eventually(lambda: bool(self.workers()))
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(self.workers()), signal.SIGKILL)

    def _listens(self) -> bool:
        host, port = self.address.split(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def _has_ended(self) -> bool:
        return self._server is not None and self._server.poll() is not None

    def _processes(self) -> list[int]:
        """The processes that belong to this deployment and have not ended."""
        mark = f"{_MARK}={self._token}"
        processes = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
        return sorted(pid for pid in processes if mark in _words(f"/proc/{pid}/environ"))


@contextlib.contextmanager
def deployment(
    rig: Rig, formation: Formation, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Deployment]:
    """A deployment that was started; killed in the end if it still runs. Arguments as `Deployment` takes them."""
    deployed = Deployment(rig, formation, folder, environment)
    try:
        deployed.start()
        yield deployed
    finally:
        deployed.kill()


class _Striker:
    """A thread that strikes blows as long as its context is not left.

    Attributes:
        struck: What was struck when, in words.
        faults: What did not go as it must.
    """

    def __init__(self, deployed: Deployment, operation: str, blows: Sequence[Blow], rng: random.Random) -> None:
        self.struck: list[str] = []
        self.faults: list[str] = []
        self._deployed = deployed
        self._operation = operation
        self._blows = blows
        self._rng = rng
        self._over = threading.Event()
        self._counted = False
        self._thread = threading.Thread(target=self._strike_all, name="striker")

    def __enter__(self) -> "_Striker":
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _strike_all(self) -> None:
        for blow in self._blows:
            self._wait_for(blow)
            if self._over.is_set():
                return
            seconds = time.monotonic() - self._began
            self.struck.append(f"{blow.victim.value} {blow.moment.value} at {seconds:.1f} s")
            try:
                self._deployed.strike(blow.victim, self._rng)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run has a fault
                self.faults.append(f"after {self.struck[-1]}: {error}")

    def _wait_for(self, blow: Blow) -> None:
        match blow.moment:
            case Moment.SUBMITTED:
                pass
            case Moment.UNDER_WAY:
                self._over.wait(max(0.0, self._began + blow.seconds - time.monotonic()))
            case Moment.MERGING:
                with _connected(self._deployed.address) as scope:
                    self._poll(lambda: self._is_merging(scope))
            case Moment.PUBLISHING:
                self._poll(self._deployed.is_publishing)

    def _poll(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self._over.wait(0.003):
            pass

    def _is_merging(self, scope: ortoscope.Ortoscope) -> bool:
        """Whether the dissection has all its counts, which it merges next."""
        try:
            metadata = scope.operations.get(self._operation).metadata
        except ortoscope.OrtoscopeError:
            return False
        self._counted |= metadata.stage == "counting"
        return self._counted and (metadata.stage != "counting" or metadata.done_items == metadata.total_items)


def _is_worker(command: Sequence[str]) -> bool:
    return "ortoscope_service.jobs.worker" in command or command[1:4] == ["-m", "dask", "worker"]


def _words(file: str) -> list[str]:
    """The words of a file of /proc that ends each by a zero byte; none of a process that ended."""
    try:
        return Path(file).read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
