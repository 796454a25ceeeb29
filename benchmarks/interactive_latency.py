"""How long a call takes while a job runs: `python benchmarks/interactive_latency.py [--calls N] [--images N]`.

A server by its defaults. One client asks for the activations of the last tap on one picture, again and again with a
pause after each answer, as someone does who moves a slider; first alone, then beside a dissection on all workers.
Prints percentiles of the latency, and what the calls cost the dissection.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import ortoscope
from job_rig import DATASET, Rig, dissect_by_server, make_rig, server


def latencies(address: str, rig: Rig, calls: int, pause: float, stop: threading.Event) -> list[float]:
    """Seconds of each of so many calls, or of fewer if `stop` is set before."""
    picture = next((rig.datasets / DATASET / "images").rglob("*.jpg")).read_bytes()
    seconds: list[float] = []
    with ortoscope.connect(address) as scope:
        tap = scope.model(rig.model).tap(rig.taps[-1])
        while len(seconds) < calls and not stop.wait(pause):
            began = time.perf_counter()
            tap.activate(picture, reduce="max")
            seconds.append(time.perf_counter() - began)
    return seconds


def told(name: str, seconds: list[float]) -> np.ndarray:
    """Prints percentiles, and returns them."""
    percentiles = np.percentile(seconds, [50, 95, 99]) * 1e3
    p50, p95, p99 = percentiles
    print(f"{name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms ({len(seconds)} calls)")
    return percentiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500, help="calls without a dissection")
    parser.add_argument("--images", type=int, default=4000, help="images of the dissection beside the calls")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between an answer and the next call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rig = make_rig(folder / "rig", options.images)
        never = threading.Event()
        with server(rig, folder / "store") as running:
            latencies(running.address, rig, 20, 0.0, never)
            dissect_by_server(running.address, rig, rig.taps[0])  # starts the workers, and finds the dataset's digest
            idle = latencies(running.address, rig, options.calls, options.pause, never)
            alone = dissect_by_server(running.address, rig, rig.taps[0])
            done, beside = threading.Event(), 0.0
            busy: list[float] = []

            def call() -> None:
                busy.extend(latencies(running.address, rig, 10**9, options.pause, done))

            caller = threading.Thread(target=call)
            caller.start()
            beside = dissect_by_server(running.address, rig, rig.taps[0])
            done.set()
            caller.join()
        ratio = told("beside a dissection", busy) / told("alone", idle)
        print(f"ratio: p50 {ratio[0]:.2f} x, p95 {ratio[1]:.2f} x, p99 {ratio[2]:.2f} x")
        print(
            f"dissection of {rig.images} images: alone {rig.images / alone:.1f} images/s,"
            f" with the calls {rig.images / beside:.1f} images/s = {alone / beside:.2f} x"
        )


if __name__ == "__main__":
    main()
