"""What the benchmarks of jobs have in common: a subject, a server in a process of its own, and bare processes.

The subject is EfficientNet-Lite0: where ORTOSCOPE_REFERENCE_DATA is set, the shared model and its photographs, named as
often as it takes in a dataset of the wanted size; otherwise the zoo's on rendered scenes.
"""

import contextlib
import csv
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ortoscope
from ortoscope_service.analysis.dissection.kernels import compile_all
from ortoscope_service.analysis.dissection.pipeline import dissect
from ortoscope_service.analysis.dissection.spec import DissectionSpec
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.datasets.catalog import DatasetCatalog
from ortoscope_service.datasets.dataset import LabelledDataset
from ortoscope_service.datasets.rendered_scenes import render_scenes
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.onboarding import prepare, prepare_zoo
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import SessionConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from server_process import ServerProcess, server_process

DATASET = "images"
BATCH_SIZE = 16
SIZE = 224

_numbers = itertools.count()


@dataclass(frozen=True)
class Rig:
    """What is worked on."""

    models: Path
    """Folder of model packages."""

    datasets: Path
    """Folder of datasets; `DATASET` is the one."""

    model: str
    """The model's name."""

    taps: tuple[str, ...]
    """Names of a tap in the middle and of one at the end."""

    images: int
    """Images of the dataset."""


def make_rig(folder: Path, images: int) -> Rig:
    """The subject with at least so many images."""
    compile_all()
    repository = ModelRepository(folder / "models")
    reference = os.environ.get("ORTOSCOPE_REFERENCE_DATA")
    if not reference:
        model, taps = prepare_zoo("efficientnet-lite0", repository).version.model, ("blocks.10", "head")
        render_scenes(folder / "datasets" / DATASET, count=images)
    else:
        source = Path(reference) / "models" / "efficientnet_lite0.onnx"
        model = prepare(source, repository, mean=(127.0,) * 3, std=(128.0,) * 3).version.model
        taps = ("add_530", "hardtanh_32")
        images = _repeat(Path(reference) / "minibroden224", folder / "datasets" / DATASET, images)
    return Rig(folder / "models", folder / "datasets", model, taps, images)


def _repeat(source: Path, target: Path, images: int) -> int:
    """Copies a dataset as often as it takes to have so many images, each a file of its own; returns how many it has."""
    target.mkdir(parents=True)
    for table in source.glob("*.csv"):
        shutil.copy(table, target)
    with (source / "index.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    times = -(-images // len(rows))
    with (target / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for copy in range(times):
            for row in rows:
                writer.writerow([f"{copy}/{row[0]}", *row[1:6], *(_renamed(field, copy) for field in row[6:])])
    for copy in range(times):
        shutil.copytree(source / "images", target / "images" / str(copy))
    return times * len(rows)


def _renamed(field: str, copy: int) -> str:
    """A category's field of index.csv, its label planes below the folder of a copy."""
    return ";".join(item if item.isdecimal() or not item else f"{copy}/{item}" for item in field.split(";"))


@contextlib.contextmanager
def server(rig: Rig, store: Path, *arguments: str) -> Iterator[ServerProcess]:
    """A server on a store, as an operator starts it."""
    with server_process(rig.models, rig.datasets, store, arguments=arguments) as running:
        yield running


def dissect_by_server(address: str, rig: Rig, tap: str) -> float:
    """Has a server dissect a tap; returns the seconds from the request until it is done."""
    # A threshold of its own makes it a job of its own, which is not answered from what an earlier one did.
    threshold = 0.04 + next(_numbers) * 1e-6
    with ortoscope.connect(address) as scope:
        subject = scope.model(rig.model).tap(tap)
        began = time.perf_counter()
        subject.dissect(DATASET, iou_threshold=threshold).wait()
        return time.perf_counter() - began


def dissect_in_process(models: str, datasets: str, model: str, tap: str, workspace: str) -> float:
    """Dissects a tap in this process with one thread; returns the seconds that it takes, opening the dataset included.

    For `WorkerPool.submit`.
    """
    version = ModelRepository(Path(models)).get(model)
    execution = ExecutionConfig(BATCH_SIZE, SessionConfig(intra_op_threads=1))
    began = time.perf_counter()
    dataset = DatasetCatalog(Path(datasets)).get(DATASET)
    assert isinstance(dataset, LabelledDataset)
    dissect(
        version,
        resolve_tap(version.manifest.taps, tap),
        dataset,
        dataset.select(()),
        DissectionSpec(),
        execution,
        workspace=Path(workspace),
        progress=lambda *_: None,
        cancellation=Cancellation(),
    )
    return time.perf_counter() - began


def bare_seconds(trunk: Path, processes: int, batches: int) -> float:
    """Runs a trunk in processes that do nothing else, all at once, each by one thread.

    Args:
        trunk: The ONNX file.
        processes: How many processes.
        batches: Batches that each of them runs.

    Returns:
        Seconds from the moment at which all are ready until the last one is done.
    """
    command = [sys.executable, str(Path(__file__).resolve()), str(trunk), str(batches)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    seconds = time.perf_counter() - began
    for process in running:
        assert process.stdout is not None
        process.stdout.close()
        if process.wait():
            raise SystemExit("a bare process failed")
    return seconds


def _run_bare(arguments: Sequence[str]) -> None:
    """Is a bare process: says that it is ready, waits for the end of its input, runs, and says that it is done."""
    import onnxruntime  # noqa: PLC0415 - after the package that keeps it from sending usage data

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(arguments[0], options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    pixels = np.random.default_rng(0).standard_normal((BATCH_SIZE, 3, SIZE, SIZE)).astype(np.float32)
    session.run(None, {given.name: pixels})
    print("ready", flush=True)
    sys.stdin.read()
    for _ in range(int(arguments[1])):
        session.run(None, {given.name: pixels})
    print("done", flush=True)


if __name__ == "__main__":
    _run_bare(sys.argv[1:])
