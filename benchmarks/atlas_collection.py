"""What collecting the samples of an atlas adds to the forward pass it needs: `python benchmarks/atlas_collection.py`.

Subject: EfficientNet-Lite0 and the photographs of the folder that ORTOSCOPE_REFERENCE_DATA names, all of them again and
again. Baseline: the same trunk run by ONNX Runtime over the same decoded batches, and nothing else. Both are timed in
the same process, in alternation; the figures are medians over rounds.
"""

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from ortoscope_service.analysis.atlas.collection import CollectionSettings, ShardSamples, collect_shard, merge_samples
from ortoscope_service.analysis.atlas.site_attribution import SiteAttribution
from ortoscope_service.analysis.execution import ExecutionConfig, Timings, tap_session
from ortoscope_service.datasets.folders import FolderDataset
from ortoscope_service.graph.taps import Tap, resolve_tap
from ortoscope_service.models.onboarding import prepare
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation

TAPS = ("add_530", "hardtanh_32")


def forward_seconds(version: ModelVersion, tap: Tap, batches: list[np.ndarray], execution: ExecutionConfig) -> float:
    """Seconds of the trunk alone over decoded batches."""
    session = tap_session(version, tap, execution)
    name = version.image_input.name
    session.run({name: batches[0]}, keep_memory=True)
    began = time.perf_counter()
    for batch in batches:
        session.run({name: batch}, keep_memory=True)
    return time.perf_counter() - began


def collect_seconds(
    version: ModelVersion,
    tap: Tap,
    dataset: FolderDataset,
    indices: np.ndarray,
    sites: int,
    attribution: SiteAttribution | None,
    execution: ExecutionConfig,
) -> tuple[float, Timings]:
    """Seconds of a collection, and where they went."""
    timings = Timings()
    began = time.perf_counter()
    collect_shard(
        version,
        tap,
        dataset,
        indices,
        sites,
        CollectionSettings(),
        0,
        execution,
        attribution=attribution,
        progress=lambda *_: None,
        cancellation=Cancellation(),
        timings=timings,
    )
    return time.perf_counter() - began, timings


def time_taps(folder: Path, rounds: int, repeats: int) -> None:
    """Prints what collection costs at each tap, with and without attribution."""
    reference = Path(os.environ["ORTOSCOPE_REFERENCE_DATA"])
    execution = ExecutionConfig()
    dataset = FolderDataset(reference / "photos")
    indices = np.tile(np.arange(len(dataset)), repeats)
    source = reference / "models" / "efficientnet_lite0.onnx"
    version = prepare(source, ModelRepository(folder), mean=(127.0,) * 3, std=(128.0,) * 3).version
    preprocessing = version.image_input.preprocessing
    assert preprocessing is not None
    pixels = [preprocess(dataset.read_image(i), preprocessing) for i in range(len(dataset))]
    size = execution.batch_size
    batches = [
        np.stack([pixels[index] for index in indices[start : start + size]]) for start in range(0, len(indices), size)
    ]
    print(f"{len(indices)} images, batches of {size}, {rounds} rounds")
    for name in TAPS:
        tap = resolve_tap(version.manifest.taps, name)
        attribution = SiteAttribution.of(version, tap, execution)
        assert attribution is not None
        for sites, attributed in ((1, None), (4, None), (1, attribution), (4, attribution)):
            collect_seconds(version, tap, dataset, indices[:size], sites, attributed, execution)
            forward, wall, own, decode = [], [], [], []
            for _ in range(rounds):
                forward.append(forward_seconds(version, tap, batches, execution))
                seconds, timings = collect_seconds(version, tap, dataset, indices, sites, attributed, execution)
                wall.append(seconds)
                own.append(timings.own)
                decode.append(timings.decode)
            bare = statistics.median(forward)
            print(
                f"{tap.display_name} {tap.shape[1:]}, {sites} site(s), "
                f"{'with' if attributed else 'without'} attribution: bare {bare:.2f} s"
                f" | own work {statistics.median(own):.3f} s = {statistics.median(own) / bare:.3f} x"
                f" | decoding, beside it {statistics.median(decode):.2f} s"
                f" | all {statistics.median(wall):.2f} s = {statistics.median(wall) / bare:.2f} x"
            )


def time_merge(samples: int, units: int) -> None:
    """Prints what merging shards costs."""
    shards = 64
    generator = np.random.default_rng(0)

    def shard(number: int) -> ShardSamples:
        image = np.arange(number, samples, shards)
        activation = np.maximum(generator.standard_normal((len(image), units), np.float32), 0).astype(np.float16)
        return ShardSamples(activation, image, np.zeros((len(image), 2), np.int32), (14, 14), None)

    stored = [shard(number) for number in range(shards)]
    began = time.perf_counter()
    merge_samples([partial(stored.__getitem__, number) for number in range(shards)])
    print(f"merging {samples:,} samples of {units} units from {shards} shards: {time.perf_counter() - began:.1f} s")


def main() -> None:
    """Times everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=4)
    arguments = parser.parse_args()
    if "ORTOSCOPE_REFERENCE_DATA" not in os.environ:
        print("left out: ORTOSCOPE_REFERENCE_DATA names no folder of reference data")
        return
    with tempfile.TemporaryDirectory() as folder:
        time_taps(Path(folder), arguments.rounds, arguments.repeats)
    time_merge(200_000, 512)


if __name__ == "__main__":
    main()
