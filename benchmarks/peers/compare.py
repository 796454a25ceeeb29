"""Forward and backward with respect to the input: PyTorch against the backward graph on ONNX Runtime.

    python benchmarks/peers/compare.py --torch-python .cache/peers/venv/bin/python [MODEL ...]

See README.md beside this file. Prints Markdown; writes all figures as JSON.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "peers"

CONVOLUTIONAL = (
    "googlenet",
    "resnet50",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_lite0",
)
"""Models whose geometric mean is a goal."""

BOUND = ("alexnet", "vgg16", "vit_b_16")
"""Models bound by matrix products, which are held against the bound torch(f + b) / (2 x ours(f)): a backward pass has
as many products as the forward pass."""

OURS, EAGER, COMPILE, CHANNELS_LAST = "ours", "eager", "compile", "channels_last"
MEMORY_MODEL, MEMORY_BATCH = "resnet50", 8
QUIET = 1.15
"""Medians of a side's turns that differ by more than this factor say that something else ran on the machine."""

PAUSE = 0.3
"""Seconds between two commands: idle threads of the side that ran last may still spin."""

Figures = dict[str, Any]


class SideError(Exception):
    """A process ended with an error; the message is the last line that it wrote."""


class Peers:
    """How the processes of both sides are started.

    Args:
        arguments: Of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._torch = arguments.torch_python
        self._threads = arguments.threads
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self._threads),
            "ORT_DISABLE_TELEMETRY": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor"),
        }

    def command(self, kind: str, name: str, *options: str) -> list[str]:
        """The command line of a side."""
        script = [sys.executable, str(HERE / "ortoscope_side.py")]
        if kind != OURS:
            script = [self._torch, str(HERE / "torch_side.py"), f"--kind={kind}"]
        return [*script, name, str(CACHE), f"--threads={self._threads}", *options]

    def make(self, name: str, *, fresh: bool) -> None:
        """Exports a model, unless that is done already, and builds its backward graph."""
        if fresh or not (CACHE / f"{name}.onnx").exists():
            self._run(self.command(EAGER, name, "--export"))
        self._run(self.command(OURS, name, "--build"))

    def start(self, kind: str, name: str, batch: int) -> "Side":
        """Starts a side."""
        return Side(self.command(kind, name, f"--batch={batch}"), self._environment, CACHE / f"{name}.{kind}.log")

    def _run(self, command: Sequence[str]) -> None:
        result = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SideError(_last_line(result.stderr))


class Side:
    """A process of one side.

    Args:
        command: Its command line.
        environment: Its environment.
        log: Where its standard error goes.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def ask(self, command: str, **arguments: Any) -> Any:
        """Sends a command and waits for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        time.sleep(PAUSE)
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            raise SideError(_last_line(self._log.read_text()))
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


def compare(peers: Peers, name: str, kinds: Sequence[str], arguments: argparse.Namespace) -> Figures:
    """All figures of one model."""
    peers.make(name, fresh=arguments.fresh)
    times: dict[str, dict[str, list[float]]] = {kind: {"forward": [], "backward": []} for kind in kinds}
    figures: Figures = {"first_run": {}, "blocks": arguments.blocks, "runs": arguments.runs, "seconds": times}
    sides = {kind: peers.start(kind, name, arguments.batch) for kind in kinds}
    try:
        for kind, side in sides.items():
            figures["first_run"][kind] = side.ask("start")
        for _ in range(arguments.blocks):
            for step in ("forward", "backward"):
                for kind, side in sides.items():
                    times[kind][step] += side.ask("time", step=step, runs=arguments.runs)
        results = {kind: results_of(side, name, kind) for kind, side in sides.items()}
    finally:
        for side in sides.values():
            side.close()
    double = peers.start("double", name, arguments.batch)
    try:
        truth = results_of(double, name, "double")
    finally:
        double.close()
    figures["medians"] = {
        kind: {step: statistics.median(seconds) for step, seconds in steps.items()} for kind, steps in times.items()
    }
    figures["spread"] = {
        kind: {step: spread(seconds, arguments.runs) for step, seconds in steps.items()}
        for kind, steps in times.items()
    }
    figures["error_against_eager"] = relative_error(results[OURS], results[EAGER])
    figures["error_against_double"] = {kind: relative_error(result, truth) for kind, result in results.items()}
    return figures


def spread(seconds: Sequence[float], runs: int) -> float:
    """The largest median of a turn, relative to the smallest."""
    turns = [statistics.median(seconds[start : start + runs]) for start in range(0, len(seconds), runs)]
    return max(turns) / min(turns)


def results_of(side: Side, name: str, kind: str) -> np.ndarray:
    """The gradient that a side computes."""
    path = CACHE / f"{name}.{kind}.npz"
    side.ask("save", path=str(path))
    with np.load(path) as results:
        gradient: np.ndarray = results["gradient"]
    return gradient


def relative_error(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The largest difference, relative to the truth's largest element; and the norm of all, relative to the truth's."""
    difference = found - truth
    return {
        "largest": float(np.abs(difference).max() / np.abs(truth).max()),
        "norm": float(np.linalg.norm(difference) / np.linalg.norm(truth)),
    }


def memory(peers: Peers) -> Figures:
    """Bytes of forward and backward of `MEMORY_MODEL`, each side in a process that does nothing else."""
    peers.make(MEMORY_MODEL, fresh=False)
    figures = {}
    for kind in (EAGER, OURS):
        side = peers.start(kind, MEMORY_MODEL, MEMORY_BATCH)
        try:
            figures[kind] = side.ask("memory")
        finally:
            side.close()
    return figures


def table(models: Mapping[str, Figures], kinds: Sequence[str]) -> Iterator[str]:
    """The figures of all models as Markdown."""
    peers = [kind for kind in kinds if kind != OURS]
    titles = {EAGER: "eager", COMPILE: "torch.compile", CHANNELS_LAST: "eager, channels last"}
    header = [
        "model",
        *(titles[kind] for kind in peers),
        "ours",
        *(f"{titles[kind]} / ours" for kind in peers),
        "our forward",
        "bound",
        "of the bound",
        "largest error (norm of the error): ours to eager",
        "ours to float64",
        "eager to float64",
    ]
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for name, figures in models.items():
        if "skipped" in figures:
            yield f"| {name} | skipped: {figures['skipped']} |" + " |" * (len(header) - 2)
            continue
        medians, errors = figures["medians"], figures["error_against_double"]
        ours = medians[OURS]["backward"]
        bound = medians[EAGER]["backward"] / (2 * medians[OURS]["forward"])
        bounded = name in BOUND
        cells = [
            name,
            *(f"{medians[kind]['backward'] * 1e3:.0f} ms" for kind in peers),
            f"{ours * 1e3:.0f} ms",
            *(f"**{medians[kind]['backward'] / ours:.2f} x**" for kind in peers),
            f"{medians[OURS]['forward'] * 1e3:.0f} ms",
            f"{bound:.2f} x" if bounded else "",
            f"{medians[EAGER]['backward'] / ours / bound:.2f}" if bounded else "",
            *(
                f"{error['largest']:.0e} ({error['norm']:.0e})"
                for error in (figures["error_against_eager"], errors[OURS], errors[EAGER])
            ),
        ]
        yield "| " + " | ".join(cells) + " |"


def means(models: Mapping[str, Figures], kinds: Sequence[str]) -> dict[str, float]:
    """Geometric means of peer / ours over the convolutional models that were measured."""
    measured = [models[name]["medians"] for name in CONVOLUTIONAL if "medians" in models.get(name, {})]
    if not measured:
        return {}
    return {
        kind: math.exp(statistics.fmean(math.log(m[kind]["backward"] / m[OURS]["backward"]) for m in measured))
        for kind in kinds
        if kind != OURS
    }


def memory_lines(figures: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """The memory of both sides as Markdown."""
    yield f"| {MEMORY_MODEL}, batch {MEMORY_BATCH} | resident before the first run | added by the runs | process |"
    yield "|---|---|---|---|"
    for kind, own in figures.items():
        cells = (own["baseline"], own["peak"] - own["baseline"], own["process"])
        yield f"| {kind} | " + " | ".join(f"{size / 2**20:.0f} MiB" for size in cells) + " |"
    added = {kind: own["peak"] - own["baseline"] for kind, own in figures.items()}
    yield f"\nours / eager: {added[OURS] / added[EAGER]:.2f} x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"some of {', '.join((*CONVOLUTIONAL, *BOUND))}")
    parser.add_argument("--torch-python", default=str(CACHE / "venv/bin/python"), help="has requirements.txt installed")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=5, help="how often each side has its turn")
    parser.add_argument("--runs", type=int, default=5, help="timed runs in a turn")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out, which takes minutes a model"
    )
    parser.add_argument("--channels-last", action="store_true", help="also measure eager with channels last in memory")
    parser.add_argument("--no-memory", action="store_true", help="leave the measurement of memory out")
    parser.add_argument("--fresh", action="store_true", help="export again what lies in the cache")
    parser.add_argument("--json", type=Path, default=CACHE / "results.json", metavar="FILE")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - {*CONVOLUTIONAL, *BOUND})
    if unknown:
        parser.error(f"there is no model {unknown[0]!r}")
    kinds = [EAGER, *([CHANNELS_LAST] if arguments.channels_last else [])]
    kinds += [*([] if arguments.no_compile else [COMPILE]), OURS]
    CACHE.mkdir(parents=True, exist_ok=True)
    peers = Peers(arguments)
    models: dict[str, Figures] = {}
    for name in arguments.models or (*CONVOLUTIONAL, *BOUND):
        try:
            models[name] = compare(peers, name, kinds, arguments)
        except SideError as error:
            models[name] = {"skipped": str(error)}
        print(f"{name} done", file=sys.stderr)
    results: Figures = {"batch": arguments.batch, "threads": arguments.threads, "models": models}
    results["geometric_means"] = means(models, kinds)
    if not arguments.no_memory:
        results["memory"] = memory(peers)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(table(models, kinds)))
    for name, figures in models.items():
        for kind, steps in figures.get("spread", {}).items():
            if max(steps.values()) > QUIET:
                print(f"warning: the turns of {kind} on {name} differ by {max(steps.values()):.2f} x", file=sys.stderr)
    for kind, mean in results["geometric_means"].items():
        print(f"\ngeometric mean of {kind} / ours over the convolutional models: **{mean:.2f} x**")
    if "memory" in results:
        print("\n" + "\n".join(memory_lines(results["memory"])))


if __name__ == "__main__":
    main()
