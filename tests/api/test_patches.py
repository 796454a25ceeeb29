"""TestPatch over gRPC: a classifier that goes by the mean of a picture, and every refusal by name."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ortoscope.v1 import blobs_pb2
from ortoscope.v1.activations_pb2 import ActivationInput, NamedTensors
from ortoscope.v1.gradients_pb2 import ClassReference
from ortoscope.v1.visualization_pb2 import TestPatchRequest as PatchRequest
from ortoscope.v1.visualization_pb2 import TestPatchResponse as PatchResponse
from ortoscope_service.config import Limits, ServerConfig
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository
from pictures import encode, photo
from PIL import Image
from serving import Failure, Stubs, add_model, serving, to_tensor
from tiny_models import GraphBuilder, float_value, tiny_mlp

Refused = Callable[..., Failure]

SIZE = 16
STEEPNESS = 8.0
PLAIN = Preprocessing("nchw", "rgb", (0.0,) * 3, (255.0,) * 3, "squash", SIZE, SIZE, SIZE, "not verified: a test")
"""Pictures in [0, 1]."""

LABELS = ("night, dark", "day")
CORNERS = [
    PatchRequest.PLACE_TOP_LEFT,
    PatchRequest.PLACE_TOP_RIGHT,
    PatchRequest.PLACE_BOTTOM_LEFT,
    PatchRequest.PLACE_BOTTOM_RIGHT,
]


def by_mean(end: str = "Softmax", batch: int | str = "n") -> onnx.ModelProto:
    """`image` (n, 3, 16, 16) → its mean → `logits` (n, 2), whose difference is 8 (mean - 1/2) → `probabilities`."""
    g = GraphBuilder(0)
    g.node("ReduceMean", ["image", g.constant("axes", np.array([1, 2, 3], np.int64))], "mean", keepdims=0)
    g.node("Unsqueeze", ["mean", g.constant("last", np.array([1], np.int64))], "column")
    weight = g.constant("w", np.array([[0.0, STEEPNESS]], np.float32))
    output = g.node("Gemm", ["column", weight, g.constant("b", np.array([0, -STEEPNESS / 2], np.float32))], "logits")
    if end:
        output = g.node(end, ["logits"], "probabilities")
    image, scores = float_value("image", [batch, 3, SIZE, SIZE]), float_value(output, [batch, 2])
    return g.model([image], [scores], opset=20)


@pytest.fixture(scope="module")
def config(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    root = tmp_path_factory.mktemp("patches")
    repository = ModelRepository(root / "models")
    add_model(repository, "mean", by_mean(), preprocessing=PLAIN, class_labels=LABELS)
    add_model(repository, "bare", by_mean(""), preprocessing=PLAIN, class_labels=())
    add_model(repository, "fixed", by_mean(batch=3), preprocessing=PLAIN, class_labels=LABELS, fixed_batch=3)
    add_model(repository, "vectors", tiny_mlp())
    g = GraphBuilder(0)
    g.node("Relu", ["image"], "map")
    shape: list[int | str] = ["n", 3, SIZE, SIZE]
    maps = g.model([float_value("image", shape)], [float_value("map", shape)], opset=20)
    add_model(repository, "maps", maps, preprocessing=PLAIN)
    return ServerConfig(
        models=root / "models",
        datasets=datasets,
        store=root / "store",
        listen="127.0.0.1:0",
        batch_size=4,
        limits=Limits(max_items_per_request=10),
    )


@pytest.fixture(scope="module")
def stubs(config: ServerConfig) -> Iterator[Stubs]:
    with serving(config) as (_, stubs):
        yield stubs


@pytest.fixture(scope="module")
def rpc(stubs: Stubs) -> Callable[..., PatchResponse]:
    method: Callable[..., PatchResponse] = stubs.visualization.TestPatch
    return method


def gray(level: int, size: int = SIZE) -> ActivationInput:
    return ActivationInput(image=encode(Image.new("RGB", (size, size), (level,) * 3), "PNG"))


def request(**changes: Any) -> PatchRequest:
    """A white patch over four grays, in the middle, half as wide."""
    levels = (26, 87, 102, 204)
    fields = {
        "model": "models/mean",
        "patch": gray(255, 9),
        "inputs": [gray(level) for level in levels],
        "sizes": [0.5],
        "places": [PatchRequest.PLACE_CENTRE],
    }
    return PatchRequest(**{**fields, **changes})


LEVELS = np.array([26, 87, 102, 204]) / 255
PASTED = 0.75 * LEVELS + 0.25


def day(mean: Any) -> Any:
    """The probability of "day"."""
    return 1 / (1 + np.exp(-STEEPNESS * (mean - 0.5)))


@pytest.mark.parametrize("model", ["mean", "bare", "fixed"])
def test_classes_flips_and_probabilities_are_those_of_the_closed_form(rpc, model):
    response = rpc(request(model=f"models/{model}"))
    assert [score.index for score in response.clean] == [0, 0, 0, 1]
    np.testing.assert_allclose([s.score for s in response.clean], np.maximum(day(LEVELS), 1 - day(LEVELS)), rtol=1e-5)
    (trial,) = response.trials
    assert [score.index for score in trial.top] == [0, 1, 1, 1]
    np.testing.assert_allclose([s.score for s in trial.top], np.maximum(day(PASTED), 1 - day(PASTED)), rtol=1e-5)
    assert (trial.size, trial.place, trial.pictures, trial.flips) == (0.5, PatchRequest.PLACE_CENTRE, 4, 2)
    kept = np.where(LEVELS < 0.5, 1 - day(PASTED), day(PASTED))
    assert trial.mean_probability == pytest.approx(kept.mean(), rel=1e-5)
    # A patch of one colour is its own control.
    assert trial.control_flip_rate == 0.5
    assert trial.control_mean_probability == pytest.approx(trial.mean_probability, rel=1e-6)
    assert not response.HasField("target")
    labels = LABELS if model != "bare" else ("", "")
    assert [score.label for score in trial.top] == [labels[score.index] for score in trial.top]


@pytest.mark.parametrize("target", [ClassReference(index=1), ClassReference(label="DAY")])
def test_a_target_is_named_by_index_or_label_and_pictures_of_it_do_not_count(rpc, target):
    response = rpc(request(target=target))
    (trial,) = response.trials
    assert (response.target.index, response.target.label) == (1, "day")
    assert (trial.pictures, trial.flips, len(trial.top)) == (3, 2, 4)
    assert trial.control_flip_rate == pytest.approx(2 / 3)
    assert trial.mean_probability == pytest.approx(day(PASTED[:3]).mean(), rel=1e-5)


def test_without_sizes_and_places_it_is_four_sizes_at_four_corners(rpc):
    response = rpc(request(sizes=[], places=[]))
    tried = [(trial.size, trial.place) for trial in response.trials]
    assert tried == [(size, place) for size in (0.1, 0.2, 0.3, 0.4) for place in CORNERS]


def test_the_same_request_has_the_same_answer_and_another_seed_other_controls(rpc):
    model = {"inputs": [gray(120), gray(124)], "sizes": [0.9]}
    patch = ActivationInput(image=encode(photo(16, 16), "PNG"))
    one, same, other = (rpc(request(**model, patch=patch, seed=seed)) for seed in (1, 1, 2))
    assert one.trials == same.trials
    assert one.provenance.spec_digest == same.provenance.spec_digest != other.provenance.spec_digest
    assert one.trials[0].mean_probability == other.trials[0].mean_probability


def test_patches_and_pictures_come_from_blobs_and_datasets_too(rpc, stubs):
    data = encode(photo(40, 30, seed=2), "PNG")  # what the dataset holds
    name = f"blobs/{hashlib.sha256(data).hexdigest()}"
    stubs.blobs.WriteBlob(iter([blobs_pb2.WriteBlobRequest(name=name, size_bytes=len(data), data=data)]))
    same = [
        ActivationInput(image=data),
        ActivationInput(blob=name),
        ActivationInput(dataset_image="datasets/photos/images/2"),
    ]
    direct, by_blob, by_dataset = (rpc(request(patch=item, inputs=[item], sizes=[0.7])) for item in same)
    assert direct.trials == by_blob.trials == by_dataset.trials
    assert direct.clean == by_blob.clean == by_dataset.clean


def test_inputs_may_be_tensors_that_are_preprocessed_already(rpc):
    tensors = [ActivationInput(tensor=to_tensor(np.full((3, SIZE, SIZE), level, np.float32))) for level in LEVELS]
    as_tensors, as_pictures = rpc(request(inputs=tensors)), rpc(request())
    assert [(s.index, s.score) for s in as_tensors.clean] == [
        (s.index, pytest.approx(s.score, rel=1e-5)) for s in as_pictures.clean
    ]
    assert as_tensors.trials[0].flips == as_pictures.trials[0].flips


def test_the_answer_says_what_it_was_computed_from(rpc):
    provenance = rpc(request()).provenance
    assert provenance.model == "models/mean/versions/1"
    assert provenance.items == 4
    assert provenance.spec_digest.startswith("sha256:")
    assert "16 x 16" in provenance.preprocessing
    assert provenance.execution_provider == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("changes", "code", "reason", "field"),
    [
        ({"inputs": []}, "INVALID_ARGUMENT", "NO_INPUTS", "inputs"),
        ({"inputs": [gray(0)] * 11}, "RESOURCE_EXHAUSTED", "TOO_MANY_ITEMS", "inputs"),
        ({"inputs": [gray(0), ActivationInput()]}, "INVALID_ARGUMENT", "EMPTY_INPUT", "inputs[1]"),
        ({"inputs": [ActivationInput(image=b"no")]}, "INVALID_ARGUMENT", "IMAGE_UNREADABLE", "inputs[0].image"),
        ({"patch": None}, "INVALID_ARGUMENT", "NO_PATCH", "patch"),
        ({"patch": ActivationInput(image=b"no")}, "INVALID_ARGUMENT", "IMAGE_UNREADABLE", "patch.image"),
        (
            {"patch": ActivationInput(tensor=to_tensor(np.zeros((3, 4, 4), np.float32)))},
            "INVALID_ARGUMENT",
            "PATCH_NOT_PICTURE",
            "patch.tensor",
        ),
        (
            {"patch": ActivationInput(tensors=NamedTensors())},
            "INVALID_ARGUMENT",
            "PATCH_NOT_PICTURE",
            "patch.tensors",
        ),
        ({"patch": ActivationInput(blob="blobs/" + "0" * 64)}, "NOT_FOUND", "UNKNOWN_BLOB", "patch.blob"),
        (
            {"patch": ActivationInput(image=encode(Image.new("RGB", (2, 9)), "PNG"))},
            "INVALID_ARGUMENT",
            "PATCH_TOO_TALL",
            "sizes[0]",
        ),
        ({"sizes": [0.5, 1.5]}, "INVALID_ARGUMENT", "INVALID_SIZE", "sizes[1]"),
        ({"sizes": [float("nan")]}, "INVALID_ARGUMENT", "INVALID_SIZE", "sizes[0]"),
        ({"sizes": [0.1] * 2000}, "INVALID_ARGUMENT", "TOO_MANY_TRIALS", "sizes"),
        ({"places": [PatchRequest.PLACE_CENTRE, 0]}, "INVALID_ARGUMENT", "INVALID_PLACE", "places[1]"),
        ({"places": [77]}, "INVALID_ARGUMENT", "INVALID_PLACE", "places[0]"),
        ({"controls": -1}, "INVALID_ARGUMENT", "INVALID_CONTROLS", "controls"),
        ({"controls": 65}, "INVALID_ARGUMENT", "INVALID_CONTROLS", "controls"),
        ({"seed": -1}, "INVALID_ARGUMENT", "INVALID_SEED", "seed"),
        ({"target": ClassReference()}, "INVALID_ARGUMENT", "NO_CLASS", "target"),
        ({"target": ClassReference(index=2)}, "INVALID_ARGUMENT", "INVALID_CLASS", "target.index"),
        ({"target": ClassReference(index=-1)}, "INVALID_ARGUMENT", "INVALID_CLASS", "target.index"),
        ({"target": ClassReference(label="dusk")}, "NOT_FOUND", "UNKNOWN_CLASS", "target.label"),
        ({"model": "mean"}, "INVALID_ARGUMENT", "INVALID_NAME", "model"),
        ({"model": "models/none"}, "NOT_FOUND", "UNKNOWN_MODEL", "model"),
        ({"model": "models/vectors"}, "FAILED_PRECONDITION", "MODEL_INPUT_NOT_IMAGE", "model"),
        ({"model": "models/maps"}, "FAILED_PRECONDITION", "NO_CLASSES", "model"),
    ],
)
def test_what_cannot_be_tried_is_refused_by_name(rpc, refused: Refused, changes, code, reason, field):
    failure = refused(rpc, request(**changes))
    assert (failure.code, failure.reason, failure.field) == (code, reason, field), failure.message
