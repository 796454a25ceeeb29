"""Our side: presets as they come, on a model that `torch_side.py` exported."""

import argparse
import functools
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ortoscope_service.analysis.visualization.loop import Progress, Seed, visualize
from ortoscope_service.analysis.visualization.objectives import Channel
from ortoscope_service.analysis.visualization.presets import find_preset
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.models.onboarding import prepare
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.sessions import SessionConfig
from sides import serve

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def time_steps(version: ModelVersion, threads: int, request: dict[str, Any]) -> list[float]:
    """Seconds of each step, but the first, which draws for itself.

    Args:
        version: What is looked into.
        threads: Of ONNX Runtime.
        request: `preset`, `batch`, `steps`; `view`: the size that the network is shown, 0: our own choice; `crops`, 0:
            the preset's.
    """
    preset = find_preset(request["preset"])
    chain = replace(preset.chain, views=request.get("crops") or preset.chain.views)
    program = Program(
        version,
        preset.picture(),
        (Channel("logits", 7),),
        chain,
        view=(request["view"],) * 2 if request.get("view") else None,
        session=SessionConfig(intra_op_threads=threads),
    )
    ends: list[float] = []

    def note(_: Progress) -> None:
        ends.append(time.perf_counter())

    recipe = replace(preset.recipe, steps=request["steps"] + 1)
    visualize(program, recipe, [Seed(0, item) for item in range(request["batch"])], progress=note)
    return [after - before for before, after in itertools.pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        repository = ModelRepository(Path(temporary))
        version = prepare(options.folder / f"{options.name}.onnx", repository, mean=MEAN, std=STD).version
        serve(functools.partial(time_steps, version, options.threads))


if __name__ == "__main__":
    main()
