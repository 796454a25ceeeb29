"""What a step of a visualization costs beside the network in it: `python benchmarks/visualization_step.py`.

A step of the preset `lucid` as the loop makes it (draws, parameterization, transforms, network, objective, gradients,
optimizer, bookkeeping) against forward and backward of the bare network up to the same tap, for the same batch at the
size that the network is shown in the step, with the same session options. Both in one process, in alternation: turns of
some steps and some runs; the time of a step is that from one call of the loop's `progress` to the next. Figures are
medians over all turns.

Subject: EfficientNet-Lite0; that of ORTOSCOPE_REFERENCE_DATA if that is set, otherwise the zoo's.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.loop import Progress, Recipe, Seed, visualize
from ortoscope_service.analysis.visualization.objectives import Channel
from ortoscope_service.analysis.visualization.presets import find_preset
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.onboarding import prepare, prepare_zoo
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.sessions import Session, SessionConfig

GOAL = 1.15
QUIET = 1.15
"""Medians of turns that differ by more than this factor say that something else ran on the machine."""

UNIT = 7


def subject(folder: Path) -> tuple[ModelVersion, tuple[str, ...]]:
    """The model, and its taps: one in the middle and one at the end, before its ReLU6: a cap ends climbs."""
    repository = ModelRepository(folder)
    reference = os.environ.get("ORTOSCOPE_REFERENCE_DATA")
    if not reference:
        return prepare_zoo("efficientnet-lite0", repository).version, ("blocks.10", "head.conv")
    source = Path(reference) / "models" / "efficientnet_lite0.onnx"
    return prepare(source, repository, mean=(127.0,) * 3, std=(128.0,) * 3).version, ("add_530", "getitem_144")


class Bare:
    """Forward and backward of the network up to a tap, and nothing else.

    Args:
        version: The model.
        tensor: The tap's tensor.
        size: Height and width of the input.
        batch: Items.
        config: How it is run.
    """

    def __init__(
        self, version: ModelVersion, tensor: str, size: tuple[int, int], batch: int, config: SessionConfig
    ) -> None:
        g = GraphWriter()
        part = trunk(version.load(), [tensor])
        image = g.input("image", [BATCH, 3, *size])
        (value,) = g.inline(part, {part.graph.inputs[0].name or "": image}).values()
        self._session = Session(serialize(build_backward(g.model({"tap": value}), "tap")), config)
        rng = np.random.default_rng(0)
        self._feeds = {"image": rng.standard_normal((batch, 3, *size), dtype=np.float32)}
        shape = next(info.shape for info in self._session.inputs if info.name == "cotangent")
        cotangent = np.zeros((batch, *(int(extent) for extent in shape[1:])), np.float32)
        cotangent[:, UNIT] = 1 / cotangent[0, 0].size
        self._feeds["cotangent"] = cotangent

    def time(self, runs: int) -> list[float]:
        """Seconds of each run, after one that does not count."""
        seconds = []
        for _ in range(runs + 1):
            began = time.perf_counter()
            self._session.run(self._feeds, keep_memory=True)
            seconds.append(time.perf_counter() - began)
        return seconds[1:]


def time_steps(program: Program, recipe: Recipe, batch: int, steps: int) -> list[float]:
    """Seconds of each step of a short climb, without the first, before which nothing was drawn ahead."""
    ends: list[float] = []

    def note(_: Progress) -> None:
        ends.append(time.perf_counter())

    visualize(program, replace(recipe, steps=steps + 1), [Seed(0, item) for item in range(batch)], progress=note)
    return np.diff(ends).tolist()


def spread(turns: Sequence[Sequence[float]]) -> float:
    """The largest median of a turn, relative to the smallest."""
    medians = [statistics.median(turn) for turn in turns]
    return max(medians) / min(medians)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--preset", default="lucid")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--steps", type=int, default=16, help="steps, and runs, of a turn; half as many at batch 16")
    options = parser.parse_args()
    config = SessionConfig(intra_op_threads=options.threads)
    preset = find_preset(options.preset)
    print(f"| tap | batch | network's input | bare forward + backward | step of `{preset.name}` | step / bare |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        version, taps = subject(Path(temporary))
        for tap in taps:
            tensor = resolve_tap(version.manifest.taps, tap).tensor
            objective = Channel(tensor, UNIT)
            program = Program(version, preset.picture(), (objective,), preset.chain, session=config)
            assert program.transforms is not None
            size = program.transforms.size
            for batch in options.batches:
                steps = max(4, options.steps // (2 if batch >= 16 else 1))
                bare = Bare(version, tensor, size, batch * preset.chain.views, config)
                time_steps(program, preset.recipe, batch, 2)
                step_turns, bare_turns = [], []
                for _ in range(options.turns):
                    step_turns.append(time_steps(program, preset.recipe, batch, steps))
                    bare_turns.append(bare.time(steps))
                step, alone = (statistics.median(itertools.chain(*turns)) for turns in (step_turns, bare_turns))
                print(
                    f"| {tap} | {batch} | {size[0]} x {size[1]} | {alone * 1e3:.1f} ms | {step * 1e3:.1f} ms "
                    f"| **{step / alone:.2f} x** |",
                    flush=True,
                )
                if max(spread(step_turns), spread(bare_turns)) > QUIET:
                    print(
                        f"warning: turns differ by {spread(step_turns):.2f} x and {spread(bare_turns):.2f} x; the "
                        "machine is busy"
                    )
    print(f"\ngoal: at most {GOAL} x")


if __name__ == "__main__":
    main()
