"""A dissection through the engine against the same in one process: `python benchmarks/engine_overhead.py`.

1,000 images, one worker, one thread. *In process*: `analysis.dissection.pipeline.dissect` in a process of its own,
whose libraries are loaded. *Warm*: the operation through a server, from the request until the result is recorded, by a
worker that has done another one before, the dataset's digest known. *Cold*: the first operation of a fresh server on a
fresh store: the worker's process is started, the dataset is read once more for its digest. All in alternation; the
figures are medians. At last one warm job is taken apart by its tasks.
"""

import argparse
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


def warm_and_cold(rig: Rig, tap: str, warm_runs: int) -> tuple[float, list[float]]:
    """Seconds of the first dissection of a fresh server, and of further ones."""
    with (
        tempfile.TemporaryDirectory() as store,
        server(rig, Path(store), "--workers", "1", "--batch-size", str(BATCH_SIZE)) as running,
    ):
        cold = dissect_by_server(running.address, rig, tap)
        return cold, [dissect_by_server(running.address, rig, tap) for _ in range(warm_runs)]


def take_apart(rig: Rig, tap: str, folder: Path) -> None:
    """Prints where the time of a warm job goes."""
    version = ModelRepository(rig.models).get(rig.model)
    execution = ExecutionConfig(BATCH_SIZE, SessionConfig(intra_op_threads=1))
    spec = survey_spec(version, resolve_tap(version.manifest.taps, tap), DATASET, (), execution)
    spec |= {"thresholds": None, "top_fraction": 0.005, "iou_threshold": 0.04, "examples_per_unit": 5}
    store, pool = Store(folder), ObservedPool()
    environment = Environment(str(folder), str(rig.models), str(rig.datasets), software())

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
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with two runs in process, two warm, a cold")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rig = make_rig(folder / "rig", options.images)
        print(f"{rig.images} images, {options.rounds} rounds")
        for tap in rig.taps:
            arguments = (str(rig.models), str(rig.datasets), rig.model, tap, temporary)
            alone, warm, cold = [], [], []
            for _ in range(options.rounds):
                with WorkerPool(1) as process:
                    process.submit(dissect_in_process, *arguments).result()  # loads the libraries
                    alone += [process.submit(dissect_in_process, *arguments).result() for _ in range(2)]
                first, further = warm_and_cold(rig, tap, 2)
                cold.append(first)
                warm += further
            baseline, through, first = (statistics.median(values) for values in (alone, warm, cold))
            print(
                f"{tap}: in process {baseline:.2f} s | warm {through:.2f} s = {through / baseline - 1:+.1%}"
                f" | cold {first:.2f} s = {first / baseline - 1:+.1%}"
            )
            take_apart(rig, tap, folder / f"store-{rig.taps.index(tap)}")


if __name__ == "__main__":
    main()
