"""Feature visualization: this repository against Lucent, and MACO against Xplique's.

    python benchmarks/peers/visualization/compare.py [--lucent PYTHON] [--xplique PYTHON]

See README.md beside this file. Prints Markdown; a side whose interpreter is not there is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / ".cache" / "peers"
MODELS = ("googlenet", "mobilenet_v2", "resnet50")
USUAL = MODELS[:2]
"""Those that are compared if none is named."""
MACO_MODEL = "mobilenet_v2"
STEPS = 512
"""Of a picture, of Lucent's default and of `lucid`."""

PASSES = 8192
"""Of Xplique's default: 256 steps of 32 crops."""

QUIET = 1.15
"""Medians of a side's turns that differ by more than this factor say that something else ran on the machine."""

PAUSE = 0.3
"""Seconds before a request: idle threads of the side that ran last may still spin."""

Turns = list[list[float]]


class Side:
    """A process of one side."""

    def __init__(self, python: str, script: str, *arguments: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "ORT_DISABLE_TELEMETRY": "1"}
        self._log = CACHE / f"visualization-{script}.log"
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, str(HERE / script), *arguments, f"--threads={threads}"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self, **request: Any) -> list[float]:
        """Seconds of each step of a run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        time.sleep(PAUSE)
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            raise SystemExit(f"a side ended:\n{self._log.read_text()[-2000:]}")
        seconds: list[float] = json.loads(answer)
        return seconds

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def median(turns: Turns) -> float:
    return statistics.median(second for turn in turns for second in turn)


def warn(name: str, turns: Turns) -> None:
    """Says so if a side's turns differ."""
    medians = [statistics.median(turn) for turn in turns]
    if max(medians) > QUIET * min(medians):
        print(f"warning: turns of {name} differ by {max(medians) / min(medians):.2f} x", file=sys.stderr)


def against_lucent(options: argparse.Namespace, models: Sequence[str]) -> Iterator[str]:
    """Pictures per second at a batch: each side as it comes, and both with one size of what the network is shown."""
    yield (
        f"| model, batch {options.batch} | Lucent, network at 224 | ours, at 140 | ours / Lucent | Lucent at 140 "
        "| ours / Lucent, both at 140 | ours at 224 | ours / Lucent, both at 224 |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name in models:
        folder = str(CACHE)
        sides = {
            "ours": Side(sys.executable, "ortoscope_side.py", name, folder, threads=options.threads),
            "lucent": Side(options.lucent, "lucent_side.py", name, folder, threads=options.threads),
        }
        turns: dict[tuple[str, int], Turns] = {}
        try:
            for turn in range(options.turns + 1):
                for side, view in (("lucent", 224), ("ours", 140), ("lucent", 140), ("ours", 224)):
                    request = {"preset": "lucid", "batch": options.batch, "steps": 2 if turn == 0 else options.steps}
                    seconds = sides[side].ask(**request, view=view)
                    if turn:
                        turns.setdefault((side, view), []).append(seconds)
        finally:
            for side_process in sides.values():
                side_process.close()
        rates = {key: options.batch / (STEPS * median(own)) for key, own in turns.items()}
        for key, own in turns.items():
            warn(f"{key} on {name}", own)
        cells = [
            name,
            told(rates["lucent", 224]),
            told(rates["ours", 140]),
            f"**{rates['ours', 140] / rates['lucent', 224]:.2f} x**",
            told(rates["lucent", 140]),
            f"{rates['ours', 140] / rates['lucent', 140]:.2f} x",
            told(rates["ours", 224]),
            f"{rates['ours', 224] / rates['lucent', 224]:.2f} x",
        ]
        yield "| " + " | ".join(cells) + " |"


def told(rate: float) -> str:
    return f"{rate:.3f} pictures/s"


def against_xplique(options: argparse.Namespace) -> Iterator[str]:
    """Milliseconds of a pass of MACO: a step by its crops."""
    sides = {
        "ours": Side(sys.executable, "ortoscope_side.py", MACO_MODEL, str(CACHE), threads=options.threads),
        "xplique": Side(options.xplique, "xplique_side.py", threads=options.threads),
    }
    turns: dict[tuple[str, int], Turns] = {}
    counts = {"ours": (32, 16, 8), "xplique": (32,)}
    try:
        for turn in range(options.turns + 1):
            for side, process in sides.items():
                for crops in counts[side]:
                    request = {"preset": "maco", "batch": 1, "size": 512, "crops": crops}
                    seconds = process.ask(**request, steps=2 if turn == 0 else options.maco_steps)
                    if turn:
                        turns.setdefault((side, crops), []).append(seconds)
    finally:
        for process in sides.values():
            process.close()
    yield f"| MACO, {MACO_MODEL}, 512 pixels | crops | a step | a pass | a picture of 256 steps |"
    yield "|---|---|---|---|---|"
    for (side, crops), own in turns.items():
        warn(f"{side} with {crops} crops", own)
        step = median(own)
        yield f"| {side} | {crops} | {step * 1e3:.0f} ms | **{step / crops * 1e3:.1f} ms** | {256 * step:.0f} s |"
    per_pass = {side: median(turns[side, 32]) / 32 for side in sides}
    yield (
        f"\n{PASSES} passes: ours {PASSES * per_pass['ours']:.0f} s, Xplique {PASSES * per_pass['xplique']:.0f} s; "
        f"a pass of Xplique / ours: **{per_pass['xplique'] / per_pass['ours']:.2f} x**"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"some of {', '.join(MODELS)}; {' and '.join(USUAL)} if none is named",
    )
    parser.add_argument("--lucent", default=str(CACHE / "lucent/bin/python"), help="has requirements-lucent.txt")
    parser.add_argument("--xplique", default=str(CACHE / "xplique/bin/python"), help="has requirements-xplique.txt")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3, help="how often each side has its turn")
    parser.add_argument("--steps", type=int, default=3, help="timed steps in a turn")
    parser.add_argument("--maco-steps", type=int, default=3, help="timed steps of MACO in a turn")
    options = parser.parse_args()
    if Path(options.lucent).exists():
        for line in against_lucent(options, options.models or USUAL):
            print(line, flush=True)
    else:
        print(f"left out: Lucent; there is no {options.lucent}", file=sys.stderr)
    print()
    if Path(options.xplique).exists():
        for line in against_xplique(options):
            print(line, flush=True)
    else:
        print(f"left out: Xplique; there is no {options.xplique}", file=sys.stderr)


if __name__ == "__main__":
    main()
