"""Model packages for the tests: the content of one version of a repository."""

import dataclasses
import datetime
from pathlib import Path
from threading import Barrier

from ortoscope_service.graph.loading import load_model
from ortoscope_service.graph.taps import find_taps
from ortoscope_service.models.manifest import InputSpec, Manifest, OutputSpec, Preprocessing
from ortoscope_service.models.repository import ModelRepository, digest_of
from tiny_models import tiny_cnn

PREPROCESSING = Preprocessing("nchw", "rgb", (0.0,) * 3, (255.0,) * 3, "squash", 16, 16, 18, "given")


def package(seed: int = 0, **changes: object) -> tuple[bytes, Manifest]:
    """The ONNX file of `tiny_cnn` and a manifest for it; `changes` replace fields of the manifest."""
    content = tiny_cnn(seed=seed).SerializeToString()
    manifest = Manifest(
        digest=digest_of(content),
        create_time=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        size_bytes=len(content),
        opset=17,
        inputs=(InputSpec("image", "image", "float32", (-1, 3, 16, 16), PREPROCESSING),),
        outputs=(OutputSpec("logits", "float32", (-1, 10)),),
        fixed_batch=0,
        taps=find_taps(load_model(content)),
        class_labels=(),
        notes=(),
    )
    return content, dataclasses.replace(manifest, **changes)  # type: ignore[arg-type]


def add_many(root: Path, seeds: range, start: Barrier) -> None:
    """Waits for the other process, then adds a version for every seed. Importable by name: it can be spawned."""
    repository = ModelRepository(root)
    packages = [package(seed) for seed in seeds]
    start.wait()
    for content, manifest in packages:
        repository.add("tiny", content, manifest)
