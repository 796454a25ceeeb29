"""What both sides of the comparison share: the example, the clock, the memory, and how a side is asked.

A side is a process that answers commands, one JSON object a line on its standard input, with one JSON line each. It
waits in a read while others run. Imported by two interpreters; needs NumPy alone.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

SIZE = 224
CLASSES = 1000

Step = Callable[[], Any]


class Side(Protocol):
    """A model of one of the sides, in memory."""

    def prepare(self) -> None:
        """Loads what the first run of `backward` needs, but runs nothing."""

    def forward(self) -> Any:
        """Computes the logits alone."""

    def backward(self) -> tuple[Any, Any]:
        """Computes the logits, and the gradient of sum(logits * cotangent) at the image."""


def example(batch: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """An image batch (batch, 3, 224, 224) and a cotangent of the logits (batch, 1000), both of normal values."""
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32),
        rng.standard_normal((batch, CLASSES), dtype=np.float32),
    )


def timed(step: Step, runs: int, *, warm: bool = True) -> list[float]:
    """Seconds of each run. If `warm`, after one that does not count: the caches are another process's by now."""
    if warm:
        step()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return seconds


def memory(step: Step, runs: int = 3) -> dict[str, int]:
    """Bytes that the first runs of a step add to the memory of this process.

    Returns:
        `baseline`, resident before the first run (code, weights, session); `peak`, the most that was resident during
        the runs; `process`, the most since the process began (`ru_maxrss`), loading included.
    """
    baseline = _status("VmRSS")
    # Loading may have taken more than running does; this makes the kernel forget that peak.
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(runs):
        step()
    return {
        "baseline": baseline,
        "peak": _status("VmHWM"),
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def serve(side: Side) -> None:
    """Answers commands until the standard input ends; what libraries print goes to the standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    steps = {"forward": side.forward, "backward": side.backward}
    for line in sys.stdin:
        match json.loads(line):
            case {"command": "start"}:
                answer: Any = timed(side.backward, 1, warm=False)[0]
            case {"command": "time", "step": step, "runs": runs}:
                answer = timed(steps[step], runs)
            case {"command": "memory"}:
                side.prepare()
                answer = memory(side.backward)
            case {"command": "save", "path": path}:
                logits, gradient = side.backward()
                np.savez(path, logits=np.asarray(logits), gradient=np.asarray(gradient))
                answer = path
            case unknown:
                raise ValueError(f"not a command: {unknown}")
        replies.write(json.dumps(answer) + "\n")
        replies.flush()
