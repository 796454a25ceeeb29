"""Lucent's side: `render_vis` as it comes, on a model that `torch_side.py` exported."""

import argparse
import functools
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import kornia
import torch
from sides import serve

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch_side
from lucent.optvis import objectives, param, render, transform

LOGITS = {"googlenet": "fc", "resnet50": "fc", "mobilenet_v2": "classifier_1"}
"""The module that makes the logits, as Lucent calls it."""


# Lucent looks for two functions where Kornia had them in 2021.
for function in ("get_rotation_matrix2d", "warp_affine"):
    setattr(kornia, function, getattr(kornia.geometry.transform, function))


def time_steps(model: torch.nn.Module, layer: str, request: dict[str, Any]) -> list[float]:
    """Seconds of each step: from one application of the transforms to the next.

    Args:
        model: What is looked into.
        layer: The module with the logits.
        request: `batch`, `steps`, and `view`: the size that pictures are enlarged to; 0: Lucent's own choice.
    """
    began: list[float] = []

    def note(picture: torch.Tensor) -> torch.Tensor:
        began.append(time.perf_counter())
        return picture

    render.render_vis(
        model,
        objectives.channel(layer, 7),
        param_f=lambda: param.image(128, batch=request["batch"]),
        transforms=[note, *transform.standard_transforms],
        thresholds=(request["steps"] + 2,),
        fixed_image_size=request["view"] or None,
        progress=False,
        show_image=False,
    )
    return [after - before for before, after in itertools.pairwise(began[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=LOGITS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = torch_side.load(options.name, options.folder)
    serve(functools.partial(time_steps, model, LOGITS[options.name]))


if __name__ == "__main__":
    main()
