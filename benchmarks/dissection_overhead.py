"""What a dissection adds to the forward pass it needs: `python benchmarks/dissection_overhead.py [--rounds N]`.

Subject: EfficientNet-Lite0 of the zoo on rendered scenes, or, where ORTOSCOPE_REFERENCE_DATA is set, the shared model
on its photographs. Baseline: the same trunk run by ONNX Runtime over the same decoded batches, and nothing else. Both
are timed in the same process, in alternation; the figures are medians over rounds.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from ortoscope_service.analysis.dissection.kernels import compile_all
from ortoscope_service.analysis.dissection.pipeline import dissect
from ortoscope_service.analysis.dissection.spec import DissectionSpec
from ortoscope_service.analysis.execution import ExecutionConfig, Timings, tap_session
from ortoscope_service.datasets.broden import BrodenDataset
from ortoscope_service.datasets.catalog import DatasetCatalog
from ortoscope_service.datasets.dataset import LabelledDataset
from ortoscope_service.datasets.rendered_scenes import render_scenes
from ortoscope_service.graph.taps import Tap, resolve_tap
from ortoscope_service.models.onboarding import prepare, prepare_zoo
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation


def subject(folder: Path) -> tuple[ModelVersion, LabelledDataset, tuple[str, ...]]:
    """The model, the dataset and the taps to time."""
    repository = ModelRepository(folder / "models")
    reference = os.environ.get("ORTOSCOPE_REFERENCE_DATA")
    if reference:
        source = Path(reference) / "models" / "efficientnet_lite0.onnx"
        version = prepare(source, repository, mean=(127.0,) * 3, std=(128.0,) * 3).version
        dataset = DatasetCatalog(Path(reference)).get("minibroden224")
        assert isinstance(dataset, LabelledDataset)
        return version, dataset, ("add_530", "hardtanh_32")
    version = prepare_zoo("efficientnet-lite0", repository).version
    render_scenes(folder / "scenes")
    return version, BrodenDataset(folder / "scenes"), ("blocks.10", "head")


def forward_seconds(version: ModelVersion, tap: Tap, batches: list[np.ndarray], execution: ExecutionConfig) -> float:
    """Seconds of the trunk alone over decoded batches."""
    session = tap_session(version, tap, execution)
    name = version.image_input.name
    session.run({name: batches[0]}, keep_memory=True)
    began = time.perf_counter()
    for batch in batches:
        session.run({name: batch}, keep_memory=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    execution = ExecutionConfig()
    compile_all()
    with tempfile.TemporaryDirectory() as temporary:
        version, dataset, taps = subject(Path(temporary))
        preprocessing = version.image_input.preprocessing
        assert preprocessing is not None
        pixels = [preprocess(dataset.read_image(i), preprocessing) for i in range(len(dataset))]
        batches = [
            np.stack(pixels[start : start + execution.batch_size])
            for start in range(0, len(pixels), execution.batch_size)
        ]
        print(f"{len(dataset)} images of {dataset.name}, batches of {execution.batch_size}, {rounds} rounds")
        for name in taps:
            tap = resolve_tap(version.manifest.taps, name)
            forward, wall = [], []
            timings: list[Timings] = []
            for _ in range(rounds):
                forward.append(forward_seconds(version, tap, batches, execution))
                began = time.perf_counter()
                result = dissect(
                    version,
                    tap,
                    dataset,
                    dataset.select(()),
                    DissectionSpec(),
                    execution,
                    workspace=Path(temporary),
                    progress=lambda *_: None,
                    cancellation=Cancellation(),
                )
                wall.append(time.perf_counter() - began)
                timings.append(result.timings)
            baseline = statistics.median(forward)
            own = statistics.median(t.own for t in timings)
            decode = statistics.median(t.decode for t in timings)
            total = statistics.median(wall)
            print(
                f"{tap.display_name} {tap.shape[1:]}: forward pass {baseline:.2f} s"
                f" | dissection's own work {own:.2f} s = {own / baseline:.3f} x"
                f" | decoding, beside it {decode:.2f} s = {decode / baseline:.2f} x"
                f" | whole dissection {total:.2f} s = {total / baseline:.2f} x"
            )


if __name__ == "__main__":
    main()
