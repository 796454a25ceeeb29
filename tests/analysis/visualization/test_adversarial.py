"""Adversarial pictures: closed forms on a linear classifier, the ball to the last bit, and a real network."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from ortoscope_service.analysis.classes import Classes, find_classes
from ortoscope_service.analysis.visualization.objectives import ClassLogit, Objective
from ortoscope_service.analysis.visualization.settings import resolve_preset
from ortoscope_service.analysis.visualization.spec import VisualizationSpec, prepare
from ortoscope_service.analysis.visualization.verdict import shown_at
from ortoscope_service.datasets.folders import FolderDataset
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.sessions import SessionConfig
from serving import add_model
from tiny_models import GraphBuilder, float_value

SIZE, CLASSES = 6, 3
PLAIN = Preprocessing("nchw", "rgb", (0.0,) * 3, (255.0,) * 3, "squash", SIZE, SIZE, SIZE, "not verified: a test")
"""Pictures in [0, 1]."""

RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((3 * SIZE * SIZE, CLASSES)).astype(np.float32)
RADIUS = 8 / 255

START = RNG.uniform(0.2, 0.8, (3, SIZE, SIZE)).astype(np.float32)
START[0, 0] = (0.0, 1.0, 0.01, 0.99, 0.02, 0.98)
"""A picture that reaches black and white."""


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    """`logits` = W x."""
    g = GraphBuilder(0)
    g.node("Flatten", ["image"], "flat", axis=1)
    g.node("MatMul", ["flat", g.constant("w", WEIGHTS)], "logits")
    model = g.model([float_value("image", ["n", 3, SIZE, SIZE])], [float_value("logits", ["n", CLASSES])], opset=20)
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    return add_model(repository, "linear", model, preprocessing=PLAIN, class_labels=("a", "b", "c"))


def attacked(
    version: ModelVersion, classes: Classes, objective: Objective, start: NDArray[np.float32], **settings: str
) -> NDArray[np.float32]:
    """The picture that the preset makes of a start, (channels, height, width)."""
    preset = resolve_preset("adversarial", {"size": str(start.shape[-1]), **settings})
    spec = VisualizationSpec(objective, preset, seed=0, items=1)
    prepared = prepare(version, spec, models=None, classes=classes, start=start, session=SessionConfig(), open=None)
    picture: NDArray[np.float32] = prepared.run().pictures[0]
    return picture


def change(picture: NDArray[np.float32], start: NDArray[np.float32]) -> NDArray[np.float64]:
    return picture.astype(np.float64) - start.astype(np.float64)


@pytest.mark.parametrize("targeted", [True, False])
def test_in_the_cube_the_best_picture_is_at_its_corner(linear, targeted):
    objective = ClassLogit(1) if targeted else -ClassLogit(1)
    picture = attacked(linear, find_classes(linear), objective, START)
    uphill = np.sign(WEIGHTS[:, 1]).reshape(3, SIZE, SIZE) * (1 if targeted else -1)
    np.testing.assert_allclose(picture, np.clip(START + RADIUS * uphill, 0, 1), atol=2e-6)
    assert np.abs(change(picture, START)).max() <= RADIUS
    assert 0 <= picture.min() <= picture.max() <= 1


def test_in_the_ball_the_best_picture_is_along_the_gradient(linear):
    start = np.full((3, SIZE, SIZE), 0.5, np.float32)  # so far from black and white that the ball is whole
    # Not with Adam, whose steps are as long in every direction.
    settings = {"bound": '{"norm": "l2", "radius": 0.25}', "recipe.optimizer": '"sgd"'}
    picture = attacked(linear, find_classes(linear), ClassLogit(2), start, **settings)
    moved = change(picture, start).ravel()
    uphill = WEIGHTS[:, 2] / np.linalg.norm(WEIGHTS[:, 2])
    assert 0.249 < np.linalg.norm(moved) <= 0.25
    assert moved @ uphill / np.linalg.norm(moved) > 0.99


@pytest.mark.parametrize("radius", [0.0, 1 / 255, 0.3, 2.0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_any_radius_the_picture_is_in_the_ball_and_a_picture(linear, norm, radius):
    settings = {"bound.norm": f'"{norm}"', "bound.radius": repr(radius), "recipe.steps": "60"}
    picture = attacked(
        linear, find_classes(linear), ClassLogit(0), START, **settings, **{"recipe.optimizer.learning_rate": "0.1"}
    )
    moved = change(picture, START)
    reached = np.abs(moved).max() if norm == "linf" else np.linalg.norm(moved)
    assert reached <= radius
    assert 0 <= picture.min() <= picture.max() <= 1
    if radius == 0:
        np.testing.assert_array_equal(picture, START)


# A real network

PHOTOS = ("n02128757_snow_leopard", "n04409515_tennis_ball", "n02071294_killer_whale")
LITE0 = Preprocessing("nchw", "rgb", (127.0,) * 3, (128.0,) * 3, "squash", 224, 224, 224, "its own documentation")


@pytest.fixture(scope="module")
def lite0(reference_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    repository = ModelRepository(tmp_path_factory.mktemp("lite0"))
    model = onnx.load(reference_data / "models" / "efficientnet_lite0.onnx")
    return add_model(repository, "lite0", model, preprocessing=LITE0, class_labels=())


@pytest.mark.parametrize(
    ("norm", "radius", "targeted", "optimizer"), [("linf", RADIUS, True, "adam"), ("l2", 3.0, False, "sgd")]
)
def test_a_change_that_nobody_sees_changes_a_real_networks_answer(
    lite0, reference_data, norm, radius, targeted, optimizer
):
    dataset = FolderDataset(reference_data / "photos")
    paths = [dataset.path(index) for index in range(len(dataset))]
    classes = find_classes(lite0)
    bound = {"bound.norm": f'"{norm}"', "bound.radius": repr(radius)}
    climb = {"recipe.steps": "10", "recipe.optimizer": f'"{optimizer}"'}
    flips = 0
    for name in PHOTOS:
        start = shown_at(dataset.read_image(paths.index(f"{name}.jpg")), LITE0, (224, 224))
        present = top_class(lite0, classes, start)
        target = (present + 500) % 1000
        objective = ClassLogit(target) if targeted else -ClassLogit(present)
        picture = attacked(lite0, classes, objective, start, **bound, **climb)
        moved = change(picture, start)
        assert (np.abs(moved).max() if norm == "linf" else np.linalg.norm(moved)) <= radius
        assert 0 <= picture.min() <= picture.max() <= 1
        found = top_class(lite0, classes, picture)
        flips += found == target if targeted else found != present
    assert flips >= 2


def top_class(version: ModelVersion, classes: Classes, picture: NDArray[np.float32]) -> int:
    """The class that a model gives a picture."""
    spec = VisualizationSpec(
        ClassLogit(0), dataclasses.replace(resolve_preset("lucid", {}), size=(224, 224)), seed=0, items=1
    )
    prepared = prepare(version, spec, models=None, classes=classes, start=None, session=SessionConfig(), open=None)
    (scores,) = prepared.activations(picture[None], None).values()
    return int(scores[0].argmax())
