"""Specifications: what is prepared of them, what is refused before any work, and what comes out."""

import dataclasses
import json
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from ortoscope_service.analysis.visualization import program as programs
from ortoscope_service.analysis.visualization.loop import Progress, Seed
from ortoscope_service.analysis.visualization.objectives import (
    Channel,
    ClassLogit,
    Constant,
    Direction,
    Diversity,
    ForItem,
    Layer,
    Neuron,
    Numbers,
    Objective,
    Picture,
    Scaled,
    Sum,
    TotalVariation,
)
from ortoscope_service.analysis.visualization.octaves import resized
from ortoscope_service.analysis.visualization.presets import PRESETS, Preset
from ortoscope_service.analysis.visualization.program import own_sessions
from ortoscope_service.analysis.visualization.settings import resolve_preset
from ortoscope_service.analysis.visualization.spec import (
    Prepared,
    VisualizationSpec,
    digest_of_start,
    prepare,
    prepare_units,
    takes_pictures,
)
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import RunnableSession, SessionConfig
from serving import PREPROCESSING, add_model, two_inputs
from tiny_models import GraphBuilder, float_value, tiny_cnn, tiny_mlp, tiny_transformer

Array = NDArray[Any]
LABELS = tuple(f"class {number}" for number in range(10))
UNIT = Channel("conv2", 3)
RNG = np.random.default_rng(0)
PHOTO = RNG.uniform(0, 1, (3, 30, 20)).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    add_model(repository, "tiny", tiny_cnn(), preprocessing=PREPROCESSING, class_labels=LABELS)
    for batch in (1, 3):
        add_model(repository, f"fixed{batch}", tiny_cnn(batch), preprocessing=PREPROCESSING, fixed_batch=batch)
    add_model(repository, "table", tiny_mlp())
    add_model(repository, "text", tiny_transformer())
    add_model(repository, "two", two_inputs())
    add_model(repository, "steps", with_steps(), preprocessing=PREPROCESSING)
    add_model(repository, "scenes", generator(3))
    add_model(repository, "gray", generator(1))
    add_model(repository, "half", halving())
    return repository


def with_steps() -> onnx.ModelProto:
    """`steps`: the image rounded down."""
    g = GraphBuilder(0)
    g.node("Floor", ["image"], "steps")
    values = [float_value(name, ["n", 3, 16, 16]) for name in ("image", "steps")]
    return g.model(values[:1], values[1:], opset=17)


def generator(channels: int) -> onnx.ModelProto:
    """`code` (n, 4) to pictures (n, channels, 12, 8) in [-1, 1]."""
    g = GraphBuilder(1)
    g.node("MatMul", ["code", g.weight("w", (4, channels * 96), 4)], "flat")
    g.node("Reshape", ["flat", g.constant("shape", np.array([-1, channels, 12, 8], np.int64))], "maps")
    g.node("Tanh", ["maps"], "pictures")
    return g.model([float_value("code", ["n", 4])], [float_value("pictures", ["n", channels, 12, 8])], opset=17)


def halving() -> onnx.ModelProto:
    """Codes (n, 4) times one half."""
    g = GraphBuilder(0)
    g.node("Mul", ["code", g.constant("half", np.float32(0.5))], "halved")
    return g.model([float_value("code", ["n", 4])], [float_value("halved", ["n", 4])], opset=17)


def preset_of(name: str = "lucid", **settings: Any) -> Preset:
    """A small preset; underscores stand for dots."""
    small = {"size": 16, "recipe.steps": 8, **{key.replace("__", "."): value for key, value in settings.items()}}
    return resolve_preset(name, {key: json.dumps(value) for key, value in small.items()})


def prepared(
    models: ModelRepository,
    objective: Objective = UNIT,
    preset: Preset | None = None,
    *,
    model: str = "tiny",
    seed: int = 1,
    items: int = 1,
    **options: Any,
) -> Prepared:
    spec = VisualizationSpec(objective, preset or preset_of(), seed, items)
    return prepare(models.get(model), spec, models=models, **options)


def refusal(make: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(OrtoscopeError) as caught:
        make()
    return caught.value.reason, caught.value.field


# Specifications


def test_a_specification_goes_to_json_and_back(models: ModelRepository) -> None:
    objective = UNIT - 0.5 * Direction("conv2", Numbers(np.arange(12)), power=2.0)
    spec = VisualizationSpec(objective, preset_of("maco", chain__views=2), 7, 3, "abc")
    text = json.dumps(spec.to_data(), allow_nan=False)
    assert VisualizationSpec.from_data({**json.loads(text), "model": "models/x"}) == spec


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"seed": 1.5}, "INVALID_SPEC", "spec.seed"),
        ({"items": True}, "INVALID_SPEC", "spec.items"),
        ({"start": None}, "INVALID_SPEC", "spec.start"),
        ({"objective": 3}, "INVALID_OBJECTIVE", "spec.objective"),
        ({"preset": "lucid"}, "INVALID_SETTING", "spec.preset"),
    ],
)
def test_data_that_are_no_specification_are_refused(change: dict[str, Any], reason: str, field: str) -> None:
    data = {**VisualizationSpec(UNIT, PRESETS["lucid"]).to_data(), **change}
    assert refusal(lambda: VisualizationSpec.from_data(data)) == (reason, field)
    assert refusal(lambda: VisualizationSpec.from_data([]))[0] == "INVALID_SPEC"


def test_a_specification_made_again_from_its_json_gives_the_same_bytes(models: ModelRepository) -> None:
    first = prepared(models, UNIT, preset_of("lucid", chain__noise__normal=0.1), items=2)
    again = VisualizationSpec.from_data(json.loads(json.dumps(first.spec.to_data())))
    assert prepare(models.get("tiny"), again).run().pictures.tobytes() == first.run().pictures.tobytes()


# What presets declare


def test_the_cosine_of_a_preset_goes_into_directions_that_have_none(models: ModelRepository) -> None:
    vector = Numbers(np.arange(12) - 4.0)
    bare, own = Direction("conv2", vector), Direction("conv2", vector, power=1.0)
    made = prepared(models, bare - 0.5 * own + UNIT, preset_of(cosine_power=3.0))
    assert made.program.objective == Direction("conv2", vector, power=3.0) - 0.5 * own + UNIT
    assert made.spec.objective == bare - 0.5 * own + UNIT


def test_the_total_variation_of_a_preset_is_taken_off(models: ModelRepository) -> None:
    made = prepared(models, UNIT, preset_of(total_variation=0.25))
    assert made.program.objective == Sum((UNIT, Scaled(-0.25, TotalVariation(Picture.IMAGE))))
    plain = prepared(models, UNIT, preset_of())
    picture = RNG.uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)
    variation = sum(np.abs(np.diff(picture, axis=axis)).sum() for axis in (2, 3))
    np.testing.assert_allclose(
        plain.evaluate(picture) - made.evaluate(picture), 0.25 * variation, rtol=1e-4
    )  # fmt: skip


@pytest.mark.parametrize("name", ["deepdream", "accentuate", "adversarial"])
def test_a_preset_that_needs_a_start_begins_with_it(models: ModelRepository, name: str) -> None:
    preset = dataclasses.replace(preset_of(name), octaves=1)
    assert refusal(lambda: prepared(models, UNIT, preset)) == ("START_MISSING", "start")
    still = dataclasses.replace(preset, recipe=dataclasses.replace(preset.recipe, steps=0))
    made = prepared(models, UNIT, still, items=2, start=PHOTO)
    expected = resized(PHOTO, (16, 16))
    np.testing.assert_allclose(made.run().pictures, np.stack([expected] * 2), atol=1 / 400)
    assert made.spec.start_digest == digest_of_start(PHOTO)


def test_a_start_must_be_the_one_of_the_specification(models: ModelRepository) -> None:
    spec = VisualizationSpec(UNIT, preset_of(), start_digest=digest_of_start(PHOTO))
    prepare(models.get("tiny"), spec, start=PHOTO)
    assert refusal(lambda: prepare(models.get("tiny"), spec, start=1 - PHOTO)) == ("START_MISMATCH", "start")
    assert refusal(lambda: prepare(models.get("tiny"), spec)) == ("START_MISSING", "start")


def test_octaves_grow_with_and_without_a_start(models: ModelRepository) -> None:
    for start in (PHOTO, None):
        told: list[tuple[int, int]] = []

        def tell(octave: int, progress: Progress) -> None:
            told.append((octave, progress.step))  # noqa: B023 - used within the turn

        made = prepared(models, UNIT, preset_of(octaves=3, size=[20, 24]), start=start)
        sizes = [program.item_shape[1:] for program in made.octaves]
        assert sizes == [(10, 12), (14, 17), (20, 24)]
        result = made.run(progress=tell)
        assert told == [(octave, step) for octave in range(3) for step in range(1, 9)]
        assert result.pictures.shape == (1, 3, 20, 24)
        assert result.outcomes[0].objective == made.evaluate(result.pictures)[0]


# Bounds


def test_a_bounded_picture_stays_within_every_pixels_reach_and_gets_there(models: ModelRepository) -> None:
    made = prepared(models, ClassLogit(3), preset_of("adversarial", recipe__steps=40), start=PHOTO)
    result = made.run()
    assert made.start is not None
    change = np.abs(result.pictures[0].astype(np.float64) - made.start)
    assert change.max() <= 8 / 255
    assert (change > 7.9 / 255).mean() > 0.5
    assert 0 <= result.pictures.min() <= result.pictures.max() <= 1
    assert result.outcomes[0].objective > made.evaluate(made.start[None])[0] + 0.1


def test_a_picture_bounded_in_length_stays_in_the_ball_and_reaches_its_border(models: ModelRepository) -> None:
    preset = preset_of("adversarial", bound={"norm": "l2", "radius": 0.4}, recipe__steps=40)
    made = prepared(models, ClassLogit(3), preset, start=PHOTO)
    result = made.run()
    assert made.start is not None
    length = np.linalg.norm((result.pictures[0].astype(np.float64) - made.start).ravel())
    assert 0.39 < length <= 0.4
    assert 0 <= result.pictures.min() <= result.pictures.max() <= 1


def test_a_bound_holds_for_a_line_search_too(models: ModelRepository) -> None:
    made = prepared(models, ClassLogit(3), preset_of("adversarial", recipe__optimizer="lbfgs"), start=PHOTO)
    result = made.run()
    assert made.start is not None
    assert np.abs(result.pictures[0].astype(np.float64) - made.start).max() <= 8 / 255


def test_a_bound_needs_a_start_and_pixels(models: ModelRepository) -> None:
    preset = preset_of("lucid", bound__radius=0.1)
    assert refusal(lambda: prepared(models, UNIT, preset)) == ("START_MISSING", "start")
    assert refusal(lambda: prepared(models, UNIT, preset, start=PHOTO)) == (
        "BOUND_NOT_AVAILABLE",
        "recipe.settings.bound",
    )


# Parameterizations by setting


@pytest.mark.parametrize(
    "choice",
    [
        "pixel",
        {"pixel": {"squash": "clip", "blur_sigma": 0.5}},
        {"fourier": {"decorrelate": False}},
        "laplacian",
        {"lowres": {"rows": 8, "columns": 4}},
        {"lowres": {"sets": 1}},
        "aligned",
        {"cppn": {"layers": 2}},
        "maco",
        {"maco": {"decay_power": 1.0}},
        {"maco": {"magnitude": RNG.uniform(1, 2, (3, 24, 13)).tolist()}},
    ],
)
def test_every_parameterization_of_pictures_can_be_set(models: ModelRepository, choice: Any) -> None:
    made = prepared(models, UNIT, preset_of(parameterization=choice, recipe__steps=2), items=2)
    result = made.run()
    assert result.pictures.shape == (2, 3, 16, 16)
    assert 0 <= result.pictures.min() <= result.pictures.max() <= 1
    np.testing.assert_array_equal(made.evaluate(result.pictures), [one.objective for one in result.outcomes])


def test_opacity_lies_on_gray_where_it_is_clean(models: ModelRepository) -> None:
    objective = UNIT * (1 - Channel(Picture.ALPHA, 0))
    made = prepared(models, objective, preset_of(parameterization__alpha=True))
    result = made.run()
    assert result.pictures.shape == (1, 4, 16, 16)
    colours, opacity = np.split(result.pictures, [3], axis=1)
    shown = prepared(models, UNIT).evaluate(0.5 + opacity * (colours - 0.5))
    np.testing.assert_allclose(result.outcomes[0].objective, shown * (1 - opacity.mean()), rtol=1e-4)
    np.testing.assert_allclose(made.evaluate(result.pictures), result.outcomes[0].objective, rtol=1e-5)
    assert made.evaluate(colours)[0] == 0


def test_a_generator_of_the_repository_makes_the_picture_at_its_size(models: ModelRepository) -> None:
    choice = {"generator": {"model": "scenes", "code_low": -1, "code_high": [1, 1, 1, 0]}}
    made = prepared(models, UNIT, preset_of(parameterization=choice, recipe__steps=60))
    assert made.spec.preset.parameterization.model == "scenes/1"  # type: ignore[attr-defined]
    result = made.run()
    (code,) = result.parameters.values()
    assert result.pictures.shape == (1, 3, 12, 8)
    assert (code >= -1).all()
    assert (code <= [1, 1, 1, 0]).all()
    assert result.outcomes[0].objective > result.history[0, 0]


def test_a_denoiser_of_the_repository_pulls_at_the_code(models: ModelRepository) -> None:
    choice = {"model": "scenes", "denoiser": "half", "denoiser_share": 1.0}
    free, pulled = (
        prepared(models, UNIT, preset_of(parameterization={"generator": chosen}, recipe__steps=30))
        for chosen in ({"model": "scenes"}, choice)
    )
    longer, shorter = (np.linalg.norm(one.run().parameters["parameter.code"]) for one in (free, pulled))
    assert shorter < longer / 4
    assert pulled.spec.preset.parameterization.denoiser == "half/1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("choice", "reason", "code"),
    [
        ({"model": "gray"}, "GENERATOR_MISMATCH", Code.FAILED_PRECONDITION),
        ({"model": "tiny"}, "GENERATOR_MISMATCH", Code.FAILED_PRECONDITION),
        ({"model": "nothing"}, "UNKNOWN_MODEL", Code.NOT_FOUND),
        ({"model": "scenes/9"}, "UNKNOWN_VERSION", Code.NOT_FOUND),
        ({"model": ""}, "GENERATOR_MISSING", Code.INVALID_ARGUMENT),
        ({"model": "scenes", "code_low": [1, 2, 3]}, "INVALID_BOUNDS", Code.INVALID_ARGUMENT),
        ({"model": "scenes", "low": 2}, "INVALID_RANGE", Code.INVALID_ARGUMENT),
    ],
)
def test_a_generator_that_does_not_fit_is_refused(
    models: ModelRepository, choice: dict[str, Any], reason: str, code: Code
) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        prepared(models, UNIT, preset_of(parameterization={"generator": choice}))
    assert (caught.value.reason, caught.value.code) == (reason, code)


def test_a_row_of_a_table_goes_to_the_bounds_that_its_weights_point_to(models: ModelRepository) -> None:
    preset = resolve_preset(
        "", {"parameterization.low": "-2", "parameterization.high": json.dumps([1] * 9 + [3])}, pictures=False
    )
    made = prepared(models, Channel("fc1", 5), preset, model="table", items=2)
    result = made.run()
    model = onnx.load_from_string(models.get("table").model_bytes())
    weights = onnx.numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == "w1"))[:, 5]
    best = np.where(weights > 0, np.array([1] * 9 + [3]), -2)
    np.testing.assert_allclose(result.pictures, np.stack([best] * 2), atol=1e-5)
    np.testing.assert_array_equal(made.evaluate(result.pictures), [one.objective for one in result.outcomes])
    start = prepared(models, Channel("fc1", 5), preset, model="table", start=np.full(10, 0.25, np.float32))
    assert start.run().outcomes[0].objective == pytest.approx(result.outcomes[0].objective, rel=1e-5)


# Given pictures


def test_pictures_are_evaluated_as_another_runtime_has_it(models: ModelRepository) -> None:
    pictures = RNG.uniform(0, 1, (37, 3, 16, 16)).astype(np.float32)
    made = prepared(models)
    model = onnx.load_from_string(models.get("tiny").trunk_bytes(("conv2",)))
    (maps,) = ReferenceEvaluator(model).run(None, {"image": (255 * pictures - 127) / 128})
    means = maps.mean(axis=(2, 3))
    np.testing.assert_allclose(made.evaluate(pictures), means[:, 3], rtol=1e-3, atol=1e-4)
    (found,) = made.activations(pictures).values()
    np.testing.assert_allclose(found, means, rtol=1e-3, atol=1e-4)


def test_pictures_of_other_sizes_are_shown_at_the_clean_size(models: ModelRepository) -> None:
    made = prepared(models, UNIT, preset_of(size=12))
    assert made.clean_size == (12, 12)
    np.testing.assert_array_equal(made.evaluate(PHOTO[None]), made.evaluate(resized(PHOTO, (12, 12))[None]))
    assert refusal(lambda: made.evaluate(PHOTO)) == ("INVALID_PICTURE", "pictures")


def test_an_objective_over_a_batch_has_values_for_that_batch_alone(models: ModelRepository) -> None:
    made = prepared(models, Layer("conv2") - Diversity("conv2"), preset_of(), items=2)
    result = made.run()
    np.testing.assert_array_equal(made.evaluate(result.pictures), [one.objective for one in result.outcomes])
    assert refusal(lambda: made.evaluate(result.pictures[:1])) == ("COUPLED_OBJECTIVE", "objective")


# Batches


@pytest.mark.parametrize("model", ["fixed1", "fixed3"])
@pytest.mark.parametrize(("items", "views"), [(1, 1), (2, 1), (2, 4)])
def test_a_model_of_a_fixed_batch_makes_the_pictures_of_a_free_one(
    models: ModelRepository, model: str, items: int, views: int
) -> None:
    preset = preset_of(chain__views=views, chain__noise__normal=0.1, chain__fill="uniform", recipe__steps=3)
    free, bound = (prepared(models, UNIT, preset, model=name, items=items) for name in ("tiny", model))
    expected, found = free.run(), bound.run()
    np.testing.assert_allclose(found.pictures, expected.pictures, atol=1e-5)
    np.testing.assert_allclose(found.history, expected.history, atol=1e-4)
    np.testing.assert_allclose(bound.evaluate(PHOTO[None]), free.evaluate(PHOTO[None]), atol=1e-5)
    means = [one.activations(PHOTO[None])["conv2"] for one in (free, bound)]
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)


def test_items_that_depend_on_each_other_must_fill_a_fixed_batch(models: ModelRepository) -> None:
    objective = UNIT - Diversity("conv2")
    assert prepared(models, objective, preset_of(), model="fixed3", items=3).run().pictures.shape[0] == 3
    assert refusal(lambda: prepared(models, objective, preset_of(), model="fixed3", items=2))[0] == (
        "BATCH_NOT_SUPPORTED"
    )


def test_an_item_has_the_same_bytes_however_many_runs_a_step_takes(
    models: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = preset_of(chain__views=2, chain__noise__normal=0.1, parameterization__alpha=True)
    whole = prepared(models, UNIT, preset, items=5, session=SessionConfig(intra_op_threads=1)).run()
    monkeypatch.setattr(programs, "_PIXELS_OF_A_RUN", 2000)
    parts = prepared(models, UNIT, preset, items=5, session=SessionConfig(intra_op_threads=1)).run()
    assert parts.pictures.tobytes() == whole.pictures.tobytes()
    assert parts.history.tobytes() == whole.history.tobytes()


@pytest.mark.parametrize("kind", ["channel", "neuron"])
def test_a_unit_has_the_same_bytes_whatever_shares_its_batch(models: ModelRepository, kind: Any) -> None:
    def of(units: list[int]) -> dict[int, bytes]:
        session = SessionConfig(intra_op_threads=1)
        made = prepare_units(
            models.get("tiny"), "conv2", units, preset_of(), 5, kind=kind, negative=True, session=session
        )
        return dict(zip(units, (picture.tobytes() for picture in made.run().pictures), strict=True))

    alone, together, turned = of([3]), of([1, 3, 5]), of([5, 3, 1])
    assert together == turned
    assert alone[3] == together[3]
    assert len(set(together.values())) == 3


def test_units_are_climbed_as_their_objective_is(models: ModelRepository) -> None:
    made = prepare_units(models.get("tiny"), "conv2", [7], preset_of(), 5, kind="neuron", negative=True)
    same = prepared(models, -Neuron("conv2", 7), preset_of(), seed=5)
    assert made.run().pictures.tobytes() == same.run(seeds=[Seed(5, 7)]).pictures.tobytes()


# Sessions


def test_every_session_comes_from_the_opener(models: ModelRepository) -> None:
    asked: list[Hashable] = []
    own = own_sessions(SessionConfig())

    def opener(key: Hashable, make: Callable[[], bytes], cancellation: Cancellation | None) -> RunnableSession:
        asked.append(key)
        return own(key, make, cancellation)

    made = prepared(models, 1.0 * UNIT, preset_of(), open=opener)
    made.activations(made.run().pictures)
    made.evaluate(PHOTO[None])
    words = {key[0][0] for key in asked}  # type: ignore[index]
    assert words == {"step", "clean", "observing"}
    broken = prepared(models, (3e38 * UNIT) * (3e38 * UNIT), preset_of(), open=opener)
    assert refusal(broken.run)[0] == "OBJECTIVE_NOT_FINITE"
    assert "diagnosis" in {key[0][0] for key in asked}  # type: ignore[index]


# Refusals


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"items": 0}, "ITEMS_OUT_OF_RANGE"),
        ({"items": 65}, "ITEMS_OUT_OF_RANGE"),
        ({"seed": -1}, "INVALID_SEED"),
        ({"objective": Channel("conv2", 12)}, "INVALID_UNIT"),
        ({"objective": Channel("conv9", 1)}, "UNKNOWN_TAP"),
        ({"objective": ClassLogit(10)}, "INVALID_CLASS"),
        ({"objective": Constant(1.0)}, "ITEM_WITHOUT_OBJECTIVE"),
        ({"objective": UNIT * 0.0}, "ITEM_WITHOUT_OBJECTIVE"),
        ({"objective": ForItem(0, UNIT), "items": 2}, "ITEM_WITHOUT_OBJECTIVE"),
        ({"objective": UNIT * Channel(Picture.ALPHA, 0)}, "NO_ALPHA"),
        ({"model": "table", "objective": Channel("fc1", 0)}, "PRESET_NEEDS_PICTURES"),
        ({"preset": PRESETS["vector"]}, "PRESET_NEEDS_VECTORS"),
        ({"model": "text", "objective": Channel("embedded", 0), "preset": PRESETS["vector"]}, "INPUT_NOT_CONTINUOUS"),
        ({"model": "two", "objective": Channel("sum", 0), "preset": PRESETS["vector"]}, "SEVERAL_INPUTS"),
        ({"model": "steps", "objective": Channel("steps", 0)}, "TAP_UNREACHABLE"),
        ({"preset": preset_of(size=2048), "items": 5}, "VISUALIZATION_TOO_LARGE"),
        ({"preset": preset_of(size=1024, chain__views=32)}, "VISUALIZATION_TOO_LARGE"),
        ({"preset": preset_of(size=1024, parameterization="cppn")}, "VISUALIZATION_TOO_LARGE"),
        ({"preset": preset_of("maco", octaves=2)}, "NO_INVERSE"),
        ({"preset": preset_of("maco"), "start": PHOTO}, "NO_INVERSE"),
        ({"start": PHOTO[0]}, "INVALID_PICTURE"),
        ({"start": PHOTO * 2}, "INVALID_PICTURE"),
        ({"start": PHOTO[:2]}, "INVALID_PICTURE"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(
    models: ModelRepository, options: dict[str, Any], reason: str
) -> None:
    def refuse(*_: object) -> RunnableSession:
        raise AssertionError("a session was opened")

    assert refusal(lambda: prepared(models, **options, open=refuse))[0] == reason


def test_a_start_of_a_table_must_have_its_shape(models: ModelRepository) -> None:
    start = np.zeros(9, np.float32)
    make = lambda: prepared(models, Channel("fc1", 0), PRESETS["vector"], model="table", start=start)  # noqa: E731
    assert refusal(make) == ("INVALID_START", "start")


def test_a_model_of_pictures_is_known(models: ModelRepository) -> None:
    assert takes_pictures(models.get("tiny"))
    assert not takes_pictures(models.get("table"))
