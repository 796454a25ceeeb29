"""Layouts of an activation atlas against umap-learn: `python benchmarks/atlas_layout.py [--samples N] [--million]`.

Subjects: a seeded synthetic mixture of 512 rectified units, and, where ORTOSCOPE_REFERENCE_DATA is set, every site of a
middle layer of EfficientNet-Lite0 over the shared images and their mirror images. Baseline:
`umap.UMAP(metric="cosine", n_neighbors=50, min_dist=0.05).fit`, with all cores and no seed, which is its fastest way.
Both ran once on 5,000 samples before, so that nothing is compiled while the time is taken. Both layouts are measured by
the same 5,000 samples against all others over all units, k = 15.

`--million` lays out 1,000,000 x 512 synthetic activations and tells the most memory that the process ever had.
"""

import argparse
import importlib
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ortoscope_service.analysis.activations import units_first
from ortoscope_service.analysis.atlas.layout import Layout, LayoutSettings, lay_out
from ortoscope_service.analysis.atlas.quality import layout_quality
from ortoscope_service.analysis.execution import ExecutionConfig, tap_session
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.onboarding import prepare
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.repository import ModelRepository
from PIL import Image

SEED = 0
WARM_UP = 5000
SETTINGS = LayoutSettings(n_neighbors=50, min_dist=0.05, metric="cosine")
TAP = "hardtanh_19"

T = TypeVar("T")


def mixture(samples: int, units: int = 512, clusters: int = 60, rank: int = 16) -> np.ndarray:
    """Rectified sums of a centre, a place on a sheet of `rank` dimensions about it and noise; (N, C) float16."""
    rng = np.random.default_rng(SEED)
    centre = 0.7 * rng.standard_normal((clusters, units))
    sheet = rng.standard_normal((clusters, rank, units)) / np.sqrt(rank)
    values = np.empty((samples, units), np.float16)
    for start in range(0, samples, 10_000):
        part = values[start : start + 10_000]
        owner = rng.integers(clusters, size=len(part))
        place = rng.standard_normal((len(part), rank))
        own = centre[owner] + 0.3 * rng.standard_normal(part.shape)
        for cluster in range(clusters):
            own[owner == cluster] += place[owner == cluster] @ sheet[cluster]
        part[:] = np.maximum(own, 0)
    return values


def real(reference: Path, samples: int) -> np.ndarray:
    """Up to so many sites of the shared images, drawn at random, zero vectors left out; (N, C) float16."""
    with tempfile.TemporaryDirectory() as folder:
        source = reference / "models" / "efficientnet_lite0.onnx"
        version = prepare(source, ModelRepository(Path(folder)), mean=(127.0,) * 3, std=(128.0,) * 3).version
        tap = resolve_tap(version.manifest.taps, TAP)
        session = tap_session(version, tap, ExecutionConfig())
        preprocessing = version.image_input.preprocessing
        assert preprocessing is not None
        rows = []
        for file in sorted(reference.rglob("*.jpg")):
            with Image.open(file) as image:
                picture = image.convert("RGB")
            mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            batch = np.stack([preprocess(seen, preprocessing) for seen in (picture, mirrored)])
            activation = units_first(session.run({version.image_input.name: batch})[tap.tensor], tap)
            rows.append(
                activation.reshape(*activation.shape[:2], -1).transpose(0, 2, 1).reshape(-1, activation.shape[1])
            )
    values = np.concatenate(rows).astype(np.float16)
    values = values[values.any(axis=1)]
    return values[np.sort(np.random.default_rng(SEED).permutation(len(values))[:samples])]


def timed(task: Callable[[], T]) -> tuple[T, float, float]:
    """What a task gives, the seconds it took, and the seconds of all processors together, which other work spares."""
    began, began_work = time.perf_counter(), time.process_time()
    result = task()
    return result, time.perf_counter() - began, time.process_time() - began_work


def compare(name: str, values: np.ndarray, threads: int) -> None:
    """Lays out once with each, and tells the times and how faithful both are."""
    UMAP = importlib.import_module("umap").UMAP  # noqa: N806 - a class

    def baseline(rows: np.ndarray) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return UMAP(metric="cosine", n_neighbors=50, min_dist=0.05).fit(rows).embedding_

    def own(rows: np.ndarray) -> Layout:
        return lay_out(rows, SETTINGS, SEED, threads=threads)

    wide = values.astype(np.float32)
    baseline(wide[:WARM_UP])
    own(values[:WARM_UP])
    ours, own_seconds, own_work = timed(lambda: own(values))
    theirs, baseline_seconds, baseline_work = timed(lambda: baseline(wide))
    print(f"{name}: {len(values):,} x {values.shape[1]}, {threads} threads, seed {SEED}")
    for who, seconds, work, position in (
        ("umap-learn", baseline_seconds, baseline_work, theirs),
        ("ortoscope", own_seconds, own_work, ours.position),
    ):
        quality = layout_quality(values, position, SEED, threads=threads)
        print(
            f"  {who}: {seconds:.1f} s, {work:.1f} s of processor time, trustworthiness {quality.trustworthiness:.4f},"
            f" neighbourhood recall {quality.neighbourhood_recall:.4f}"
        )
    print(
        f"  {baseline_seconds / own_seconds:.2f} x as fast, {baseline_work / own_work:.2f} x by processor time;"
        f" recall of our graph {ours.graph_recall:.3f}",
        flush=True,
    )


def million(threads: int) -> None:
    """Lays out a million samples, and tells the time and the most memory."""
    values = mixture(1_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    began = time.perf_counter()
    layout = lay_out(values, SETTINGS, SEED, threads=threads)
    seconds = time.perf_counter() - began
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(
        f"1,000,000 x 512 synthetic, {len(layout.landmark):,} landmarks: {seconds:.0f} s,"
        f" at most {most:.2f} GiB of memory, {before:.2f} GiB of it before the layout"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--million", action="store_true")
    given = parser.parse_args()
    if given.million:
        million(given.threads)
        return
    compare("synthetic mixture", mixture(given.samples), given.threads)
    reference = os.environ.get("ORTOSCOPE_REFERENCE_DATA")
    if reference:
        compare(f"EfficientNet-Lite0, {TAP}", real(Path(reference), given.samples), given.threads)


if __name__ == "__main__":
    main()
