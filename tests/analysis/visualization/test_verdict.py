"""Verdicts where the objective on every image is known: a network whose units are the mean colours of a picture."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ortoscope_service.analysis.visualization.loop import Seed
from ortoscope_service.analysis.visualization.objectives import (
    Channel,
    ChannelInterpolation,
    Diversity,
    Objective,
    Picture,
)
from ortoscope_service.analysis.visualization.presets import Preset
from ortoscope_service.analysis.visualization.settings import resolve_preset
from ortoscope_service.analysis.visualization.spec import Prepared, VisualizationSpec, prepare
from ortoscope_service.analysis.visualization.verdict import (
    MOST_IMAGES,
    QUANTILES,
    agreement,
    check_comparison,
    evenly,
    judge,
    percentile,
    shown_at,
)
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.datasets.folders import FolderDataset
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import SessionConfig
from pictures import photo
from PIL import Image
from serving import add_model
from tiny_models import GraphBuilder, float_value, tiny_mlp

SIZE = 12
PLAIN = Preprocessing("nchw", "rgb", (0.0,) * 3, (255.0,) * 3, "squash", SIZE, SIZE, SIZE, "not verified: a test")
"""Pictures in [0, 1]."""

REDS = (40, 200, 120, 120, 255, 0, 90)
"""The images of the dataset, in the order of their names: each of one colour."""


def mean_colours(path: Path, preprocessing: Preprocessing = PLAIN) -> ModelVersion:
    """`image` → `means` (n, 3, 1, 1), the mean of each colour of the picture."""
    g = GraphBuilder(0)
    g.node("GlobalAveragePool", ["image"], "means")
    sizes: list[int | str] = ["n", 3, "height", "width"]
    model = g.model([float_value("image", sizes)], [float_value("means", ["n", 3, 1, 1])], opset=20)
    return add_model(ModelRepository(path), "means", model, preprocessing=preprocessing)


def solid(folder: Path, reds: Sequence[int]) -> Dataset:
    folder.mkdir()
    for number, red in enumerate(reds):
        Image.new("RGB", (30, 20), (red, 255 - red, 30)).save(folder / f"{number}.png")
    return FolderDataset(folder)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return mean_colours(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return solid(tmp_path_factory.mktemp("datasets") / "solid", REDS)


def preset(**settings: str) -> Preset:
    few = {"size": "12", "recipe.steps": "3", "chain.steps": "[]", "parameterization": '"pixel"'}
    return resolve_preset("lucid", {**few, **settings})


def prepared_for(
    version: ModelVersion, objective: Objective | None = None, items: int = 1, **settings: str
) -> Prepared:
    spec = VisualizationSpec(objective or Channel("means", 0), preset(**settings), seed=5, items=items)
    return prepare(version, spec, models=None, classes=None, start=None, session=SessionConfig(), open=None)


def reds(*levels: float, size: int = SIZE) -> NDArray[np.float32]:
    """Pictures whose red is of a level each."""
    pictures = np.zeros((len(levels), 3, size, size), np.float32)
    pictures[:, 0] = np.reshape(np.array(levels, np.float32), (-1, 1, 1))
    return pictures


# Against images


def test_a_picture_is_compared_with_every_image_by_the_clean_objective(version, dataset):
    low, high, tie = judge(prepared_for(version, items=3), reds(0.1, 0.9, 120 / 255), dataset, examples=3)
    assert low.images == high.images == len(REDS)
    assert low.percentile == pytest.approx(100 * 1 / 7)  # above 0
    assert high.percentile == pytest.approx(100 * 6 / 7)  # below 255
    assert tie.percentile == pytest.approx(100 * (3 + 2 / 2) / 7)  # above 0, 40 and 90; two are equal
    levels = np.array(REDS) / 255
    np.testing.assert_allclose(low.quantiles, np.quantile(levels, [0, 0.25, 0.5, 0.75, 0.95, 1]), rtol=1e-6)
    assert [(image.image, image.path) for image in low.most] == [(4, "4.png"), (1, "1.png"), (2, "2.png")]
    assert [(image.image, image.path) for image in low.least] == [(5, "5.png"), (0, "0.png"), (6, "6.png")]
    np.testing.assert_allclose([i.objective for i in low.most], [1, 200 / 255, 120 / 255], rtol=1e-6)
    np.testing.assert_allclose([i.objective for i in low.least], [0, 40 / 255, 90 / 255], rtol=1e-6, atol=1e-7)
    assert (low.seed_objectives, low.seed_agreement) == ((), 0.0)
    assert (low.quantiles, low.most, low.least) == (high.quantiles, high.most, high.least)


def test_the_negative_turns_the_order_around(version, dataset):
    (verdict,) = judge(prepared_for(version, -Channel("means", 0)), reds(0.1), dataset, examples=2)
    assert verdict.percentile == pytest.approx(100 * 6 / 7)
    assert [image.image for image in verdict.most] == [5, 0]
    assert [image.image for image in verdict.least] == [4, 1]


def test_some_images_are_spread_evenly_and_fewer_examples_than_asked_are_told(version, dataset):
    (verdict,) = judge(prepared_for(version), reds(0.5), dataset, images=3, examples=9)
    assert verdict.images == 3
    assert sorted(image.image for image in verdict.most) == [1, 3, 5]
    assert len(verdict.least) == 3
    (none,) = judge(prepared_for(version), reds(0.5), dataset, examples=0)
    assert (none.most, none.least) == ((), ())


def test_a_verdict_depends_neither_on_the_order_of_the_pictures_nor_on_their_neighbours(version, dataset):
    levels = (0.3, 0.05, 0.8, 0.47)
    together = judge(prepared_for(version, items=4), reds(*levels), dataset)
    backwards = judge(prepared_for(version, items=4), reds(*levels[::-1]), dataset)
    alone = [judge(prepared_for(version), reds(level), dataset)[0] for level in levels]
    assert list(together) == list(backwards[::-1]) == alone


def test_the_order_of_the_images_matters_to_ties_alone(version, dataset, tmp_path):
    other = solid(tmp_path / "other", REDS[::-1])
    (one,), (same,) = (judge(prepared_for(version), reds(0.4), data, images=7) for data in (dataset, other))
    assert (one.percentile, one.quantiles) == (same.percentile, same.quantiles)
    assert [i.objective for i in one.most] == [i.objective for i in same.most]


def test_opacity_counts_as_the_clean_graph_shows_it(version, dataset):
    picture = np.concatenate([reds(1.0), np.full((1, 1, SIZE, SIZE), 0.25, np.float32)], axis=1)
    prepared = prepared_for(version, **{"parameterization.alpha": "true"})
    (verdict,) = judge(prepared, picture, dataset)
    # 1/4 of red over 3/4 of gray is 0.625: above all but 200 and 255.
    assert verdict.percentile == pytest.approx(100 * 5 / 7)


def test_a_picture_of_another_size_than_the_model_takes_is_compared_alike(dataset, tmp_path):
    g = GraphBuilder(0)
    g.node("Flatten", ["image"], "flat", axis=1)
    means = np.kron(np.eye(3), np.full((SIZE * SIZE, 1), 1 / SIZE**2)).astype(np.float32)
    g.node("MatMul", ["flat", g.constant("w", means)], "means")
    model = g.model([float_value("image", ["n", 3, SIZE, SIZE])], [float_value("means", ["n", 3])], opset=20)
    version = add_model(ModelRepository(tmp_path), "dense", model, preprocessing=PLAIN)
    prepared = prepared_for(version, size="7")
    assert prepared.clean_size == (SIZE, SIZE)
    (verdict,) = judge(prepared, reds(0.4, size=7), dataset)
    assert verdict.percentile == pytest.approx(100 * 3 / 7)
    np.testing.assert_allclose(verdict.quantiles[-1], 1, rtol=1e-5)


def test_it_tells_how_far_it_is_and_stops_between_batches(version, tmp_path):
    dataset = solid(tmp_path / "many", range(40))
    told: list[tuple[str, int, int]] = []
    judge(prepared_for(version), reds(0.5), dataset, seeds=2, progress=lambda *now: told.append(now))
    assert told == [
        ("comparing with images", 16, 40),
        ("comparing with images", 32, 40),
        ("comparing with images", 40, 40),
        ("climbing from other seeds", 1, 2),
        ("climbing from other seeds", 2, 2),
    ]
    cancellation = Cancellation()
    with pytest.raises(OrtoscopeError) as caught:
        judge(
            prepared_for(version),
            reds(0.5),
            dataset,
            cancellation=cancellation,
            progress=lambda *_: cancellation.cancel(),
        )
    assert caught.value.code is Code.CANCELLED


# Images as pictures


@pytest.mark.parametrize("policy", ["squash", "crop"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_at_the_models_size_an_image_is_what_the_model_sees(tmp_path, policy, order):
    preprocessing = dataclasses.replace(PLAIN, size_policy=policy, color_order=order, resize_short_side=15, width=10)
    photo(50, 40).save(tmp_path / "a.png")
    dataset = FolderDataset(tmp_path)
    found = shown_at(dataset.read_image(0), preprocessing, (12, 10))
    seen = preprocess(dataset.read_image(0), preprocessing)
    np.testing.assert_allclose(found, seen[::-1] if order == "bgr" else seen, atol=1e-6)
    assert (found.dtype, found.min() >= 0, found.max() <= 1) == (np.float32, True, True)


def test_at_another_size_a_crop_keeps_its_share_of_the_image(tmp_path):
    # A white frame that the crop of 12 of 16 cuts away, at any size.
    image = Image.new("RGB", (160, 160), (255,) * 3)
    image.paste((0, 0, 0), (15, 15, 145, 145))
    image.save(tmp_path / "a.png")
    preprocessing = dataclasses.replace(PLAIN, size_policy="crop", resize_short_side=16)
    for size in (12, 24, 36):
        found = shown_at(FolderDataset(tmp_path).read_image(0), preprocessing, (size, size))
        assert found.shape == (3, size, size)
        np.testing.assert_allclose(found[:, 2:-2, 2:-2], 0, atol=0.01)
    squashed = shown_at(FolderDataset(tmp_path).read_image(0), PLAIN, (24, 24))
    np.testing.assert_allclose(squashed[:, 0], 1, atol=0.01)


def test_gray_is_one_channel(tmp_path):
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "a.png")
    found = shown_at(FolderDataset(tmp_path).read_image(0), dataclasses.replace(PLAIN, color_order="gray"), (6, 6))
    np.testing.assert_allclose(found, np.full((1, 6, 6), 76 / 255), atol=1e-6)


# Other seeds


class Scripted:
    """Stands for `Prepared`: climbs end where the test says."""

    def __init__(self, prepared: Prepared, vectors: dict[int, NDArray[np.float64]]) -> None:
        self.program, self.spec, self.seeds = prepared.program, prepared.spec, prepared.seeds
        self.evaluate = prepared.evaluate
        self.clean_size = prepared.clean_size
        self.climbed: list[Sequence[Seed]] = []
        self._vectors = vectors

    def run(self, *, seeds: Sequence[Seed], **_: Any) -> Any:
        self.climbed.append(seeds)
        number = seeds[0].seed - self.spec.seed
        outcomes = [dataclasses.make_dataclass("Outcome", ["objective"])(10.0 * number + seed.item) for seed in seeds]
        result = dataclasses.make_dataclass("Result", ["outcomes", "pictures"])
        return result(outcomes, reds(*[number / 10] * len(seeds)))

    def activations(self, pictures: NDArray[np.float32], *_: Any) -> dict[str, NDArray[np.float64]]:
        return {"means": self._vectors[round(float(pictures[0, 0, 0, 0]) * 10)]}


def test_other_seeds_are_the_next_ones_and_agree_by_the_mean_cosine_of_all_pairs(version, dataset):
    # Item 0: e1, e2 and e1 + e2; item 1: three times the same direction.
    vectors = {
        0: np.array([[2.0, 0, 0], [1, 2, 3]]),
        1: np.array([[0, 5.0, 0], [2, 4, 6]]),
        2: np.array([[3.0, 3, 0], [0.5, 1, 1.5]]),
    }
    scripted: Any = Scripted(prepared_for(version, items=2), vectors)
    first, second = judge(scripted, reds(0, 0), dataset, seeds=2)
    assert scripted.climbed == [[Seed(6, 0), Seed(6, 1)], [Seed(7, 0), Seed(7, 1)]]
    assert (first.seed_objectives, second.seed_objectives) == ((10.0, 20.0), (11.0, 21.0))
    assert first.seed_agreement == pytest.approx((0 + np.sqrt(0.5) + np.sqrt(0.5)) / 3)
    assert second.seed_agreement == pytest.approx(1)


def test_climbs_from_other_seeds_come_to_what_they_come_to_alone(version, dataset):
    prepared = prepared_for(version, items=2, **{"parameterization.sd": "0.5"})
    verdicts = judge(prepared, prepared.run().pictures, dataset, seeds=2)
    for number in (1, 2):
        other = prepared.run(seeds=[Seed(5 + number, item) for item in range(2)])
        assert [v.seed_objectives[number - 1] for v in verdicts] == [o.objective for o in other.outcomes]
    assert all(0.5 < verdict.seed_agreement <= 1 for verdict in verdicts)


def test_every_step_of_the_climbs_from_other_seeds_is_told(version, dataset):
    told: list[tuple[int, int, int, int]] = []
    judge(
        prepared_for(version),
        reds(0.5),
        dataset,
        seeds=2,
        on_step=lambda climb, octave, step: told.append((climb, octave, step.step, step.steps)),
    )
    assert told == [(climb, 0, step, 3) for climb in (1, 2) for step in (1, 2, 3)]


def test_a_climb_that_the_end_of_the_time_cuts_short_is_left_out_with_all_after_it(version, dataset):
    prepared = prepared_for(version, **{"recipe.steps": "20000"})
    reached: list[int] = []
    (verdict,) = judge(
        prepared,
        reds(0.5),
        dataset,
        seeds=3,
        budget_seconds=0.4,
        on_step=lambda climb, _octave, _step: reached.append(climb),
    )
    assert (verdict.seed_objectives, verdict.seed_agreement) == ((), 0.0)
    assert set(reached) == {1}
    assert len(reached) < 20000
    assert verdict.images == len(REDS)  # which are compared with in any case
    (whole,) = judge(prepared_for(version), reds(0.5), dataset, seeds=3, budget_seconds=60)
    assert whole == judge(prepared_for(version), reds(0.5), dataset, seeds=3)[0]


def test_climbs_that_came_to_their_end_before_count(version, dataset):
    class Slow(Scripted):
        def run(self, *, seeds: Sequence[Seed], **others: Any) -> Any:
            result = super().run(seeds=seeds, **others)
            if seeds[0].seed - self.spec.seed == 2:
                time.sleep(others["budget_seconds"])
            return result

    direction = np.array([[1.0, 2, 3]])
    slow: Any = Slow(prepared_for(version), dict.fromkeys(range(4), direction))
    (verdict,) = judge(slow, reds(0), dataset, seeds=3, budget_seconds=0.5)
    assert len(slow.climbed) == 2
    assert verdict.seed_objectives == (10.0,)
    assert verdict.seed_agreement == pytest.approx(1)


def test_an_objective_that_reads_no_tap_has_no_agreement(version, dataset):
    prepared = prepared_for(version, Channel(Picture.IMAGE, 0))
    (verdict,) = judge(prepared, reds(0.5), dataset, seeds=1)
    assert (verdict.seed_agreement, len(verdict.seed_objectives)) == (0.0, 1)
    assert verdict.percentile == pytest.approx(100 * 5 / 7)


def test_agreement_with_what_has_no_direction_is_nothing():
    nothing, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    broken = np.array([[np.nan, 1, 1]], np.float32)
    for other in (nothing, broken):
        np.testing.assert_array_equal(agreement([one, other]), [0])
    np.testing.assert_allclose(agreement([one, one, nothing]), [1 / 3])
    np.testing.assert_allclose(agreement([one, -one]), [-1])


# Arithmetic


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, 0.0), (1.0, 12.5), (1.5, 25.0), (2.0, 50.0), (9.0, 100.0), (float("nan"), 0.0)]
)
def test_a_percentile_is_the_share_below_and_half_of_the_equal(value, expected):
    assert percentile(value, np.array([1, 2, 3, 2], np.float32)) == expected


@pytest.mark.parametrize(("count", "most"), [(7, 3), (10, 4), (5, 5), (3, 9), (1, 1), (1000, 256)])
def test_indices_that_are_spread_evenly_are_distinct_and_as_far_from_each_other_as_can_be(count, most):
    found = evenly(count, most)
    steps = np.diff(found)
    assert len(found) == min(count, most)
    assert found.min() >= 0
    assert found.max() < count
    assert steps.size == 0 or steps.max() - steps.min() <= 1
    assert abs((found[0]) - (count - 1 - found[-1])) <= 1


def test_quantiles_are_told_from_the_least_to_the_greatest():
    assert QUANTILES == (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


# Refusals


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"images": 0}, "comparison.images"),
        ({"images": MOST_IMAGES + 1}, "comparison.images"),
        ({"examples": -1}, "comparison.examples"),
        ({"examples": 101}, "comparison.examples"),
        ({"seeds": -1}, "comparison.seeds"),
        ({"seeds": 17}, "comparison.seeds"),
    ],
)
def test_numbers_of_no_use_are_refused(version, dataset, changed, field):
    asked = {"images": 10, "examples": 2, "seeds": 0, **changed}
    with pytest.raises(OrtoscopeError) as caught:
        check_comparison(prepared_for(version).program, dataset, **asked)
    assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, "INVALID_COMPARISON")
    assert caught.value.field == field


@pytest.mark.parametrize(
    "objective", [Channel("means", 0) - Diversity("means"), ChannelInterpolation("means", 0, "means", 1)]
)
def test_an_objective_over_the_batch_has_no_value_on_one_image(version, dataset, objective):
    prepared = prepared_for(version, objective, items=2)
    with pytest.raises(OrtoscopeError) as caught:
        judge(prepared, reds(0, 1), dataset)
    assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, "COUPLED_COMPARISON")


def test_a_model_of_no_pictures_is_refused(dataset, tmp_path):
    version = add_model(ModelRepository(tmp_path), "vectors", tiny_mlp())
    tap = version.manifest.taps[0].tensor
    spec = VisualizationSpec(Channel(tap, 0), resolve_preset("", {}, pictures=False))
    prepared = prepare(version, spec, models=None, classes=None, start=None, session=SessionConfig(), open=None)
    with pytest.raises(OrtoscopeError) as caught:
        check_comparison(prepared.program, dataset, images=1, examples=1, seeds=0)
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "MODEL_INPUT_NOT_IMAGE")
    assert caught.value.field == "comparison"


def test_an_image_on_which_the_objective_is_no_number_is_named(tmp_path):
    g = GraphBuilder(0)
    g.node("GlobalAveragePool", ["image"], "means")
    g.node("Log", ["means"], "logs")
    shape: list[int | str] = ["n", 3, SIZE, SIZE]
    model = g.model([float_value("image", shape)], [float_value("logs", ["n", 3, 1, 1])], opset=20)
    version = add_model(ModelRepository(tmp_path / "models"), "logs", model, preprocessing=PLAIN)
    dataset = solid(tmp_path / "solid", (200, 0, 100))
    with pytest.raises(OrtoscopeError) as caught:
        judge(prepared_for(version, Channel("logs", 0)), reds(0.5), dataset)
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "OBJECTIVE_NOT_FINITE")
    assert caught.value.metadata == {"image": "1.png"}
