"""Two workers against one on a dissection: `python benchmarks/workers_scaling.py`; see --help for its options.

The whole operation through a server, from the request until the result is recorded, by one and by two workers with one
thread each, in alternation, on fresh stores, the workers' processes started before. All processes have as many cores
as there are workers: otherwise a single one would read and decode on a second core, and two would not. In the same
rounds the *ceiling*: two processes with nothing but ONNX Runtime on the same trunk against one, each with as many
batches. Prints the ratio of the medians, the ceiling, and what share of it is reached.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from job_rig import BATCH_SIZE, Rig, bare_seconds, dissect_by_server, make_rig, server
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.repository import ModelRepository


def operation_seconds(rig: Rig, tap: str, workers: int) -> float:
    """Seconds of a dissection by workers that have done another one before."""
    with (
        tempfile.TemporaryDirectory() as store,
        server(rig, Path(store), "--workers", str(workers), "--batch-size", str(BATCH_SIZE)) as running,
    ):
        other = next(name for name in rig.taps if name != tap)
        dissect_by_server(running.address, rig, other)
        return dissect_by_server(running.address, rig, tap)


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Gives this process, and those that it starts, so many cores."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--taps", nargs="*", help="only these; both by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rig = make_rig(folder / "rig", options.images)
        version = ModelRepository(rig.models).get(rig.model)
        print(f"{rig.images} images, {options.rounds} rounds")
        for tap in options.taps or rig.taps:
            trunk = folder / "trunk.onnx"
            trunk.write_bytes(version.trunk_bytes((resolve_tap(version.manifest.taps, tap).tensor,)))
            operations: dict[int, list[float]] = {1: [], 2: []}
            bare: dict[int, list[float]] = {1: [], 2: []}
            for number in range(options.rounds):
                for workers in (1, 2) if number % 2 == 0 else (2, 1):
                    with cores(workers):
                        operations[workers].append(operation_seconds(rig, tap, workers))
                        bare[workers].append(bare_seconds(trunk, workers, rig.images // BATCH_SIZE))
            one, two = (statistics.median(operations[workers]) for workers in (1, 2))
            # Two bare processes do twice the work of one.
            ceiling = 2 * statistics.median(bare[1]) / statistics.median(bare[2])
            print(
                f"{tap}: 1 worker {one:.2f} s, 2 workers {two:.2f} s | ratio {one / two:.2f} x"
                f" | ceiling {ceiling:.2f} x (bare: {statistics.median(bare[1]):.2f} s,"
                f" two at once {statistics.median(bare[2]):.2f} s) | {one / two / ceiling:.2f} of the ceiling"
            )


if __name__ == "__main__":
    main()
