"""What ten million images cost the engine of jobs: `python benchmarks/scale_simulation.py [--images N]`.

10,000 shards, the most that a job has, stand for 10,000,000 images. Everything is real but the model: the driver of a
dissection, the engine, the database, the store. In place of workers there is an executor that answers at once, so that
what is measured is the server alone; tasks that read the artifacts of all shards are measured on artifacts as large as
real ones, of fewer shards; datasets on fewer images. What was extrapolated is marked so. `docs/scale.md` interprets it.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from job_rig import DATASET, make_rig
from ortoscope_service.analysis.dissection.counting import ShardCounts, merge_counts
from ortoscope_service.analysis.dissection.kernels import compile_all
from ortoscope_service.analysis.dissection.pipeline import dissect
from ortoscope_service.analysis.dissection.spec import DissectionSpec
from ortoscope_service.analysis.dissection.survey import ShardSurvey
from ortoscope_service.analysis.dissection.thresholds import Thresholds, bound_from, thresholds_from, vanguard_of
from ortoscope_service.analysis.execution import ExecutionConfig, stream_maps, tap_session
from ortoscope_service.analysis.shards import shards_of
from ortoscope_service.datasets.broden import BrodenDataset
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.jobs import dissections
from ortoscope_service.jobs.artifacts import ArtifactStore, pack_arrays, unpack_arrays
from ortoscope_service.jobs.engine import Crew, Interrupted, Job, run_job
from ortoscope_service.jobs.kinds import software
from ortoscope_service.jobs.operations import NewOperation
from ortoscope_service.jobs.pool import WorkerPool
from ortoscope_service.jobs.provenance import execution_spec
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.surveys import survey_spec
from ortoscope_service.jobs.tasks import ARTIFACTS, Environment, Outcome, Task
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.memory import give_back, resident_bytes
from ortoscope_service.runtime.sessions import SessionConfig
from ortoscope_service.statistics.order_statistics import KeptValues
from ortoscope_service.statistics.top_k import TopK

UNITS, SITES = 1280, (7, 7)
"""The tap that the figures are for: the head of EfficientNet-Lite0 at 224 pixels."""

CONCEPTS, CATEGORIES, MASK_BYTES = 1200, 6, 112 * 112 // 8
"""Broden's concepts and categories, and the bytes of a mask."""

IMAGES_PER_SHARD = 1000
LABELLED_PAIRS = 0.2
"""Share of (unit, concept) pairs that occur in a shard."""

MIB = 1024**2


def say(what: str, value: str) -> None:
    print(f"{what:<78} {value}", flush=True)


@dataclass
class Measured:
    """What a piece of work took of this process."""

    seconds: float = 0.0
    resident: int = 0
    """Bytes that stayed."""
    peak: int = 0
    """Most bytes that were held at once, beyond those at the beginning."""


@contextlib.contextmanager
def measuring() -> Iterator[Measured]:
    """Measures its body."""
    give_back()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, measured, began = resident_bytes(), Measured(), time.perf_counter()
    yield measured
    measured.seconds = time.perf_counter() - began
    give_back()
    measured.resident = resident_bytes() - before
    status = Path("/proc/self/status").read_text(encoding="ascii")
    measured.peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before


class Crowd(Executor):
    """Workers, each of which is done as soon as another one is given something to do.

    Args:
        workers: How many.
        artifacts: Receives a small file for each artifact.
        images: Images of the dataset.
        merges: Whether they do the last task; otherwise the server is stopped when it comes.
    """

    def __init__(self, workers: int, artifacts: ArtifactStore, images: int, *, merges: bool) -> None:
        self.stopping = False
        self.requests = 0
        self.largest_request = 0
        self._workers = workers
        self._artifacts = artifacts
        self._images = images
        self._merges = merges
        self._held: list[tuple[Future[str], str]] = []

    def submit(self, _fn: Callable[..., Any], /, *args: Any, **_kwargs: Any) -> Future[Any]:
        """Takes a request to `run_task`."""
        self.requests += 1
        self.largest_request = max(self.largest_request, len(args[0]))
        request = json.loads(args[0])
        future: Future[str] = Future()
        if request["task"]["name"] == "merge" and not self._merges:
            self.stopping = True
            future.cancel()
            future.set_running_or_notify_cancel()
            return future
        self._held.append((future, json.dumps(self._outcome(request).to_json())))
        while self._held and (self._is_last(request["task"]["arguments"]) or len(self._held) > self._workers):
            finished, answer = self._held.pop(0)
            finished.set_result(answer)
        return future

    def _is_last(self, arguments: Mapping[str, Any]) -> bool:
        """Whether nothing more comes before this task is done."""
        if "shard" not in arguments:
            return True
        shards = arguments["shards"]
        return arguments["shard"] + 1 in {shards, vanguard_of(self._images, shards)}

    def _outcome(self, request: Mapping[str, Any]) -> Outcome:
        roles: dict[str, tuple[str, ...]] = {
            "survey": ("survey", "maps"),
            "bound": ("bound",),
            "thresholds": ("thresholds", "relaxed"),
            "count": ("counts",),
            "merge": ("arrays", "examples"),
        }
        values: dict[str, dict[str, Any]] = {
            "scan": {"images": self._images, "signature": "s"},
            "identify": {"digest": f"sha256:{0:064}"},
            "admit": {"execution": request["spec"]["execution"]},
            "thresholds": {"incomplete": 0},
        }
        name = request["task"]["name"]
        artifacts = {role: self._write(f"{request['key']} {role}".encode()) for role in roles.get(name, ())}
        return Outcome(artifacts, values.get(name, {}), 10.0, "x86_64 some processor")

    def _write(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self._artifacts.path(digest)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return digest


def job_of(store: Store, crew: Crew, environment: Environment, spec: Mapping[str, Any], stopping: Crowd | None) -> Job:
    """A job of the store's one operation, made if it is not there."""
    pending = store.operations.pending()
    new = NewOperation("a", "dissect", "models/m/versions/1/taps/t", spec=spec)
    operation = pending[0] if pending else store.operations.create(new)[0]
    return Job(
        operation,
        crew,
        store.shards,
        store.artifacts,
        environment,
        lambda stage, done, total, left: (
            store.operations.progress(operation.id, stage, done, total, left) if done in {0, total} else None
        ),
        Cancellation(),
        lambda: stopping is not None and stopping.stopping,
    )


def engine(root: Path, images: int, workers: int) -> None:
    """The server's part of a dissection, interrupted before its last merge and resumed."""
    spec: dict[str, Any] = {
        "model": "m",
        "version": "1",
        "model_digest": f"sha256:{0:064}",
        "tap": "t",
        "dataset": "d",
        "splits": [],
        "execution": execution_spec(ExecutionConfig()),
        "thresholds": None,
        "top_fraction": 0.005,
        "iou_threshold": 0.04,
        "examples_per_unit": 5,
    }
    shards = shards_of(images, ExecutionConfig().batch_size)
    environment = Environment(str(root), "models", "datasets", software())
    say(f"-- the server, {workers} workers, {shards:,} shards for {images:,} images", "")
    store = Store(root)
    crowd = Crowd(workers, store.artifacts, images, merges=False)
    with measuring() as first, contextlib.suppress(Interrupted):
        run_job(job_of(store, Crew(crowd, lambda: workers), environment, spec, crowd), dissections.drive)
    size = sum((root / name).stat().st_size for name in ("operations.db", "operations.db-wal"))
    say("time per shard task", f"{first.seconds / crowd.requests * 1e3:.2f} ms ({crowd.requests:,} tasks)")
    say("memory of the server that it adds at most", f"{first.peak / MIB:.0f} MiB")
    say("database with its log", f"{size / MIB:.1f} MiB")
    say("largest request to a worker", f"{crowd.largest_request / MIB:.2f} MiB")
    with measuring() as closing:
        store.close()
    with measuring() as opening:
        store = Store(root)
    say("opening the store again, with its artifacts looked through", f"{opening.seconds:.2f} s")
    say("closing it", f"{closing.seconds:.2f} s")
    crowd = Crowd(workers, store.artifacts, images, merges=True)
    with measuring() as resumed:
        run_job(job_of(store, Crew(crowd, lambda: workers), environment, spec, crowd), dissections.drive)
    say("resuming: every task looked up, the last ones done", f"{resumed.seconds:.2f} s ({crowd.requests} tasks)")
    store.operations.succeed("a", lambda: "dissections/a")
    with measuring() as collecting:
        store.shards.collect()
    say("forgetting outcomes and deleting artifacts (small files)", f"{collecting.seconds:.2f} s")
    store.close()


def images(root: Path) -> None:
    """What an image costs a worker in processor time, and what share of its maps is set aside."""
    rig = make_rig(root / "rig", 220)
    version = ModelRepository(rig.models).get(rig.model)
    data = BrodenDataset(rig.datasets / DATASET)
    execution = ExecutionConfig(session=SessionConfig(intra_op_threads=1))
    everything = data.select(())
    say(f"-- an image, of {rig.images}, by one thread", "")
    for name in rig.taps:
        tap = resolve_tap(version.manifest.taps, name)
        quiet: dict[str, Any] = {"progress": lambda *_: None, "cancellation": Cancellation()}
        tap_session(version, tap, execution)  # made once, and kept for what follows
        began = time.process_time()
        batches = list(stream_maps(version, tap, data, everything, execution, Cancellation()))
        passed = time.process_time() - began
        began = time.process_time()
        dissect(version, tap, data, everything, DissectionSpec(), execution, workspace=root, **quiet)
        whole = time.process_time() - began
        say(f"{name}: model and decoding", f"{passed / rig.images * 1e3:.1f} ms of processor time")
        say(f"{name}: whole dissection", f"{whole / rig.images * 1e3:.1f} ms")
        maps = np.concatenate([batch.maps for batch in batches])
        peaks, values = maps.max(axis=2), np.moveaxis(maps, 1, 0).reshape(maps.shape[1], -1)
        for ratio in (1.0, 1.63, 4.0):
            share = (peaks > np.quantile(values, 1 - ratio * 0.005, axis=1)).mean()
            size = share * maps[0].nbytes / 1e3
            say(f"{name}: maps above a bound that {ratio} x 0.5 % exceed", f"{share:.1%}, {size:.1f} KB an image")


def engines(root: Path, images: int, workers: Sequence[int]) -> None:
    """The server's part for several numbers of workers."""
    for number in workers:
        engine(root / f"store-{number}", images, number)


def pool(root: Path, tasks: int) -> None:
    """What a task costs that does nothing: from the engine to a worker process and back, recorded."""
    rig = make_rig(root / "rig", 220)
    version = ModelRepository(rig.models).get(rig.model)
    tap = resolve_tap(version.manifest.taps, rig.taps[-1])
    spec = survey_spec(version, tap, DATASET, (), ExecutionConfig())
    store = Store(root / "store")
    executor = WorkerPool(1)
    environment = Environment(str(root / "store"), str(rig.models), str(rig.datasets), software(), read_ahead=1)
    say(f"-- a worker process, tasks that do nothing, {rig.images} images", "")

    def drive(job: Job) -> None:
        def ask(first: int, count: int) -> float:
            began = time.perf_counter()
            job.map("doing nothing", [Task("admit", {"shard": first + number}) for number in range(count)])
            return time.perf_counter() - began

        say("first task, with the start of the process", f"{ask(0, 1):.2f} s")
        ask(1, 20)
        say("each further task", f"{ask(21, tasks) / tasks * 1e3:.2f} ms")

    try:
        run_job(job_of(store, Crew(executor, lambda: 1), environment, spec, None), drive)
    finally:
        executor.shutdown(cancel_futures=True)
        store.close()


def artifacts(root: Path) -> None:
    """Artifacts, written with two syncs each, read with their digest checked, and deleted."""
    store = ArtifactStore(root)
    store.make()
    say("-- artifacts", "")
    for size, count in ((1024, 200), (MIB, 50), (64 * MIB, 5)):
        contents = [np.random.default_rng(number).bytes(size) for number in range(count)]
        with measuring() as writing:
            digests = [store.put_bytes(content) for content in contents]
        with measuring() as reading:
            for digest in digests:
                store.load(digest)
        with measuring() as deleting:
            for digest in digests:
                store.delete(digest)
        steps = (writing, reading, deleting)
        say(
            f"{size / 1024:,.0f} KiB: written, read (from the page cache), deleted",
            ", ".join(f"{step.seconds / count * 1e3:.1f} ms" for step in steps),
        )


def dataset(root: Path, images: int) -> None:
    """A dataset of rows as Broden has them: opened, looked at, and read."""
    planes = ("color", "object")
    (root / "images" / "x").mkdir(parents=True)
    (root / "category.csv").write_text(
        "name,first,last,count,frequency\n" + "".join(f"{name},1,1,1,1\n" for name in planes)
    )
    (root / "label.csv").write_text("number,name,category,frequency,coverage\n1,thing,color(1);object(1),1,1.0\n")
    for name in planes:
        (root / f"c_{name}.csv").write_text("code,number,name,frequency,coverage\n1,1,thing,1,1.0\n")
    with (root / "index.csv").open("w") as index:
        index.write("image,split,ih,iw,sh,sw,color,object\n")
        for number in range(images):
            stem = f"x/scene_{number:08}"
            index.write(f"{stem}.jpg,train,224,224,112,112,{stem}_color.png,{stem}_object.png\n")
            for ending in (".jpg", "_color.png", "_object.png"):
                (root / "images" / f"{stem}{ending}").write_bytes(b"%d%b" % (number, ending.encode()) * 100)
    say(f"-- a dataset, {images:,} images with {len(planes)} label planes each", "")
    with measuring() as opening:
        opened = BrodenDataset(root)
    bytes_per_row = (root / "index.csv").stat().st_size / images
    with measuring() as scanning:
        opened.signature()
    with measuring() as digesting:
        opened.digest()
    with measuring() as again:
        opened.digest()
    for what, per_image, unit in (
        ("index.csv", bytes_per_row, "B"),
        ("memory of an opened dataset, in every worker", opening.resident / images, "B"),
        ("memory while it is opened", opening.peak / images, "B"),
        ("opening", opening.seconds / images * 1e6, "µs"),
        ("looking for changes (the scan)", scanning.seconds / images * 1e6, "µs"),
        ("memory while looking for changes", scanning.peak / images, "B"),
        ("digest, without the time for the bytes", digesting.seconds / images * 1e6, "µs"),
        ("memory that the digest adds at most", digesting.peak / images, "B"),
        ("digest that is known", again.seconds / images * 1e6, "µs"),
    ):
        at_scale = f"{per_image * 10:.0f} s" if unit == "µs" else f"{per_image * 1e7 / 1e9:.1f} GB"
        say(what, f"{per_image:.0f} {unit} an image; at 10,000,000 (extrapolated): {at_scale}")
    data = np.random.default_rng(0).bytes(256 * MIB)
    with measuring() as hashing:
        hashlib.sha256(data).digest()
    say("SHA-256", f"{len(data) / hashing.seconds / 1e9:.2f} GB/s")


def survey_of(shard: int, shards: int, floor: float) -> ShardSurvey:
    """A survey as large as a real one: of values that are distributed exponentially, those above the floor."""
    rng = np.random.default_rng(shard)
    values = IMAGES_PER_SHARD * SITES[0] * SITES[1]
    fill = rng.binomial(values, np.exp(-floor), UNITS)
    kept = rng.exponential(size=int(fill.sum())).astype(np.float32) + np.float32(floor)
    top = TopK(UNITS, 5)
    peaks = rng.gumbel(np.log(SITES[0] * SITES[1]), size=(IMAGES_PER_SHARD, UNITS)).astype(np.float32)
    top.update(peaks, np.arange(shard, shards * IMAGES_PER_SHARD, shards))
    above = peaks > floor
    return ShardSurvey(
        kept=KeptValues(
            kept, np.concatenate(([0], np.cumsum(fill))), np.full(UNITS, floor, np.float32), np.zeros(UNITS, np.int64)
        ),
        minimum=np.zeros(UNITS, np.float32),
        maximum=np.full(UNITS, 20.0, np.float32),
        top=top,
        site_shape=SITES,
        map_start=np.concatenate(([0], np.cumsum(above.sum(axis=1)))),
        map_unit=np.nonzero(above)[1].astype(np.int32),
        map_peak=peaks[above],
    )


def counts_of(shard: int, shards: int, thresholds: Thresholds) -> ShardCounts:
    """Counts as large as real ones."""
    rng = np.random.default_rng(shard)
    place = np.flatnonzero(rng.random(UNITS * CONCEPTS) < LABELLED_PAIRS)
    examples = np.flatnonzero(thresholds.example_image % shards == shard)
    return ShardCounts(
        shape=np.array([UNITS, CONCEPTS]),
        intersection_place=place.astype(np.uint32),
        intersection=rng.integers(1, 60_000, len(place)).astype(np.uint16),
        activation_pixels=rng.integers(0, 100_000, (UNITS, CATEGORIES)),
        concept_pixels=rng.integers(0, 100_000, CONCEPTS),
        example_place=examples,
        example_mask=np.zeros((len(examples), MASK_BYTES), np.uint8),
    )


def merging(root: Path, shards: int) -> None:
    """The tasks that read the artifacts of all shards, on some of them, extrapolated to 10,000."""
    compile_all()
    store = ArtifactStore(root)
    store.make()
    spec, images = DissectionSpec(), shards * IMAGES_PER_SHARD
    say(f"-- merging {UNITS} units x {SITES} sites x {CONCEPTS} concepts, {shards} shards", "")

    def load(digest: str) -> ShardSurvey:
        return ShardSurvey.from_arrays(unpack_arrays(store.load(digest)))

    def load_counts(digest: str) -> ShardCounts:
        return ShardCounts.from_arrays(unpack_arrays(store.load(digest)))

    def surveys(count: int, floor: float) -> list[Callable[[], ShardSurvey]]:
        digests = [store.put_bytes(pack_arrays(survey_of(shard, count, floor).to_arrays())) for shard in range(count)]
        say("survey of a shard", f"{store.path(digests[0]).stat().st_size / MIB:.2f} MiB")
        return [functools.partial(load, digest) for digest in digests]

    vanguard = vanguard_of(10_000_000, 10_000)
    loaders = surveys(min(vanguard, shards), -np.log(0.16))
    with measuring() as bounding:
        bound = bound_from(loaders, spec, 10_000_000)
    at_scale = f"{vanguard} shards (extrapolated): {bounding.seconds / len(loaders) * vanguard:.0f} s"
    say("bound", f"{bounding.seconds / len(loaders) * 1e3:.1f} ms a shard, {at_scale}, {bounding.peak / MIB:.0f} MiB")
    loaders = surveys(shards, float(bound.max()))
    with measuring() as finding:
        thresholds = thresholds_from(loaders, spec, images)
    assert not thresholds.incomplete.any()
    say("thresholds", _at_scale(finding, shards))
    digests = [
        store.put_bytes(pack_arrays(counts_of(shard, shards, thresholds).to_arrays())) for shard in range(shards)
    ]
    say("counts of a shard", f"{store.path(digests[0]).stat().st_size / MIB:.2f} MiB")
    with measuring() as adding:
        merge_counts([functools.partial(load_counts, digest) for digest in digests], thresholds)
    say("merge of the counts", _at_scale(adding, shards))


def _at_scale(measured: Measured, shards: int) -> str:
    return (
        f"{measured.seconds / shards * 1e3:.1f} ms a shard, 10,000 shards (extrapolated): "
        f"{measured.seconds / shards * 10_000:.0f} s, {measured.peak / MIB:.0f} MiB"
    )


def main() -> None:
    """Measures the parts asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000, help="images of the simulated job")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 1000], help="workers of the simulated crew")
    parser.add_argument("--pool-tasks", type=int, default=1000, help="tasks for the real worker")
    parser.add_argument("--rows", type=int, default=100_000, help="images of the dataset that is opened and digested")
    parser.add_argument("--merged-shards", type=int, default=50, help="shards whose artifacts are merged")
    parser.add_argument("--folder", type=Path, help="where to work, on the kind of disk of a real store")
    parts = ("images", "engine", "pool", "artifacts", "dataset", "merging")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts, help="what to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        root = Path(temporary)
        steps: dict[str, Callable[[], None]] = {
            "images": lambda: images(root / "images"),
            "engine": lambda: engines(root, options.images, options.workers),
            "pool": lambda: pool(root / "pool", options.pool_tasks),
            "artifacts": lambda: artifacts(root / ARTIFACTS),
            "dataset": lambda: dataset(root / "dataset", options.rows),
            "merging": lambda: merging(root / "merging", options.merged_shards),
        }
        for part in options.only:
            steps[part]()


if __name__ == "__main__":
    main()
