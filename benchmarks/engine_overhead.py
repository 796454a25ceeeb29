"""A dissection through the engine against the same in one process: `python benchmarks/engine_overhead.py`.

1,000 images, one worker, one thread. *In process*: `analysis.dissection.pipeline.dissect` in a process of its own,
whose libraries are loaded. *Warm*: the operation through a server, from the request until the result is recorded, by a
worker that has just done another one, the dataset's digest known. *Cold*: the first operation of a fresh server on a
fresh store: the worker's process is started, the dataset is read once more for its digest. The first two take turns;
the figures are medians. At last one warm job is taken apart by its tasks.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections import defaultdict
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from job_rig import BATCH_SIZE, DATASET, Rig, dissect_by_server, dissect_in_process, make_rig, server
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.jobs import dissections
from ortoscope_service.jobs.engine import Crew, Job, run_job
from ortoscope_service.jobs.kinds import software
from ortoscope_service.jobs.operations import NewOperation
from ortoscope_service.jobs.pool import WorkerPool
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.surveys import survey_spec
from ortoscope_service.jobs.tasks import Environment
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import SessionConfig
from server_process import ServerProcess


class ObservedPool(WorkerPool):
    """A pool that takes down what its tasks came to: their names, seconds in the worker, and seconds from here."""

    def __init__(self) -> None:
        super().__init__(1)
        self.seen: list[tuple[str, float, float]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `WorkerPool`."""
        name = json.loads(args[0])["task"]["name"]
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(
            lambda done: self.seen.append((name, json.loads(done.result())["seconds"], time.perf_counter()))
        )
        return future


def first_on_a_fresh_server(rig: Rig, tap: str) -> float:
    """Seconds of the first dissection of a fresh server on a fresh store."""
    with tempfile.TemporaryDirectory() as store, one_worker_server(rig, Path(store)) as running:
        return dissect_by_server(running.address, rig, tap)


def one_worker_server(rig: Rig, store: Path) -> contextlib.AbstractContextManager[ServerProcess]:
    """A server with one worker."""
    return server(rig, store, "--workers", "1", "--batch-size", str(BATCH_SIZE))


def in_alternation(rig: Rig, tap: str, rounds: int, workspace: Path) -> tuple[list[float], list[float]]:
    """Seconds of dissections in one process, and of the same through a server: two of each in turns.

    A worker that had nothing to do for five seconds gave its session back, and so the first one after a pause, which
    makes it again, does not count.
    """
    arguments = (str(rig.models), str(rig.datasets), rig.model, tap, str(workspace))
    alone, through = [], []
    with WorkerPool(1) as process, one_worker_server(rig, workspace / f"served-{tap}") as running:
        process.submit(dissect_in_process, *arguments).result()  # loads the libraries
        for _ in range(rounds):
            alone += [process.submit(dissect_in_process, *arguments).result() for _ in range(2)]
            through += [dissect_by_server(running.address, rig, tap) for _ in range(3)][1:]
    return alone, through


def take_apart(rig: Rig, tap: str, folder: Path) -> None:
    """Prints where the time of a warm job goes."""
    version = ModelRepository(rig.models).get(rig.model)
    execution = ExecutionConfig(BATCH_SIZE, SessionConfig(intra_op_threads=1))
    spec = survey_spec(version, resolve_tap(version.manifest.taps, tap), DATASET, (), execution)
    spec |= {"thresholds": None, "top_fraction": 0.005, "iou_threshold": 0.04, "examples_per_unit": 5}
    store, pool = Store(folder), ObservedPool()
    environment = Environment(str(folder), str(rig.models), str(rig.datasets), software(), read_ahead=1)

    def run(name: str) -> float:
        operation, _ = store.operations.create(NewOperation(name, "dissect", f"models/{rig.model}", spec=spec))
        job = Job(
            operation,
            Crew(pool, lambda: 1),
            store.shards,
            store.artifacts,
            environment,
            lambda *_: None,
            Cancellation(),
            lambda: False,
        )
        pool.seen.clear()
        began = time.perf_counter()
        run_job(job, dissections.drive)
        return time.perf_counter() - began

    try:
        run("cold")
        store.operations.succeed("cold", lambda: "")
        store.shards.collect()
        whole = run("warm")
        seconds: dict[str, list[float]] = defaultdict(list)
        for name, inside, _ in pool.seen:
            seconds[name].append(inside)
        inside = sum(sum(values) for values in seconds.values())
        print(f"  taken apart: {whole:.2f} s, {len(pool.seen)} tasks")
        for name, values in seconds.items():
            print(f"    {name:<12} {len(values):>4} x, {sum(values):.2f} s, median {statistics.median(values):.3f} s")
        print(
            f"    {'engine':<12} {len(pool.seen):>4} x, {whole - inside:.2f} s: what the tasks themselves do not take"
        )
    finally:
        pool.shutdown(cancel_futures=True)
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with two runs in process and two warm")
    parser.add_argument("--cold", type=int, default=2, help="cold runs")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rig = make_rig(folder / "rig", options.images)
        print(f"{rig.images} images, {options.rounds} rounds")
        for tap in rig.taps:
            alone, through = in_alternation(rig, tap, options.rounds, folder)
            cold = [first_on_a_fresh_server(rig, tap) for _ in range(options.cold)]
            baseline, warm, first = (statistics.median(values) for values in (alone, through, cold))
            print(
                f"{tap}: in process {baseline:.2f} s ({min(alone):.2f} to {max(alone):.2f})"
                f" | warm {warm:.2f} s ({min(through):.2f} to {max(through):.2f}) = {warm / baseline - 1:+.1%}"
                f" | cold {first:.2f} s = {first / baseline - 1:+.1%}"
            )
            take_apart(rig, tap, folder / f"store-{rig.taps.index(tap)}")


if __name__ == "__main__":
    main()
