"""How long a call takes while a visualization climbs: `python benchmarks/visualization_latency.py [--calls N]`.

A server by its defaults. One client asks for the activations of the last tap on one picture, again and again with a
pause after each answer, as someone does who moves a slider; first alone, then beside a climb of the preset `lucid` on a
channel of the first tap, then beside a climb with nineteen others that wait. Prints percentiles of the latency, the
climb's steps per second, and how long a cancelled climb holds the next one up.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from interactive_latency import latencies, told
from job_rig import Rig, make_rig, server
from ortoscope.v1 import visualization_pb2, visualization_pb2_grpc

STEPS = 20_000
"""More than any of these climbs makes."""


def asked(rig: Rig, seed: int, steps: int = STEPS) -> visualization_pb2.VisualizeRequest:
    """A climb of the first channel of the rig's first tap."""
    objective = visualization_pb2.VisualizationObjective
    source = objective.Source(tap=rig.taps[0])
    return visualization_pb2.VisualizeRequest(
        model=f"models/{rig.model}",
        objective=objective(channel=objective.Channel(of=source)),
        recipe=visualization_pb2.VisualizationRecipe(settings={"recipe.steps": str(steps)}, seed=seed),
    )


class Climb:
    """A climb that goes on until it is stopped, and counts its steps."""

    def __init__(self, stub: Any, rig: Rig, seed: int) -> None:
        self.steps = 0
        self.began = 0.0
        self.call = stub.Visualize(asked(rig, seed))
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def stop(self) -> float:
        """Stops it; its steps per second."""
        seconds = time.perf_counter() - self.began if self.steps else 1.0
        self.call.cancel()
        self._thread.join()
        return self.steps / seconds

    def _follow(self) -> None:
        try:
            for event in self.call:
                if event.WhichOneof("event") == "progress":
                    self.began = self.began or time.perf_counter()
                    self.steps = event.progress.step
        except grpc.RpcError:
            pass  # it was stopped


@contextmanager
def climbing(stub: Any, rig: Rig, count: int, report: Callable[[float], None]) -> Iterator[None]:
    """So many visualizations, the first of which climbs."""
    climbs = [Climb(stub, rig, 0)]
    while climbs[0].steps < 3:
        time.sleep(0.05)
    climbs += [Climb(stub, rig, seed) for seed in range(1, count)]
    try:
        yield
    finally:
        for climb in reversed(climbs[1:]):
            climb.stop()
        report(climbs[0].stop())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="calls of each part")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between an answer and the next call")
    options = parser.parse_args()
    never = threading.Event()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rig = make_rig(folder / "rig", 10)
        with server(rig, folder / "store") as running, grpc.insecure_channel(running.address) as channel:
            stub: Any = visualization_pb2_grpc.VisualizationStub(channel)  # type: ignore[no-untyped-call]
            latencies(running.address, rig, 20, 0.0, never)
            idle = told("alone", latencies(running.address, rig, options.calls, options.pause, never))
            for name, count in (("beside a climb", 1), ("beside a climb and 19 that wait", 20)):
                with climbing(stub, rig, count, lambda rate: print(f"  the climb made {rate:.1f} steps/s")):
                    busy = told(name, latencies(running.address, rig, options.calls, options.pause, never))
                ratio = busy / idle
                print(f"  ratio: p50 {ratio[0]:.2f} x, p95 {ratio[1]:.2f} x, p99 {ratio[2]:.2f} x")
            with climbing(stub, rig, 1, lambda _: None):
                pass
            began = time.perf_counter()
            next(stub.Visualize(asked(rig, 100, steps=1)))
            print(
                f"from the cancellation of a climb to the first step of the next: {time.perf_counter() - began:.2f} s"
            )


if __name__ == "__main__":
    main()
