"""The loop and its graphs on small networks: derivatives, independence of items, seeds, ends, and bad input."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from ortoscope_service.analysis.classes import find_classes
from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.loop import (
    End,
    Plateau,
    Progress,
    Recipe,
    Seed,
    visualize,
)
from ortoscope_service.analysis.visualization.model_input import in_range
from ortoscope_service.analysis.visualization.objectives import (
    Channel,
    ClassLogit,
    Diversity,
    Layer,
    Objective,
    Picture,
    TotalVariation,
)
from ortoscope_service.analysis.visualization.optimizers import Adam, Lbfgs
from ortoscope_service.analysis.visualization.parameterizations.fourier import FourierImage
from ortoscope_service.analysis.visualization.parameterizations.pixel import PixelImage
from ortoscope_service.analysis.visualization.parameterizations.vectors import VectorParameterization
from ortoscope_service.analysis.visualization.presets import PRESETS, find_preset
from ortoscope_service.analysis.visualization.program import OBJECTIVE, Program
from ortoscope_service.analysis.visualization.transforms import Chain, CropBoxes, Jitter, Noise, Pad, Rotate, Scale
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.loading import serialize
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import normalize
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import Session
from reference_operators import CORRECTED
from serving import PREPROCESSING, add_model
from tiny_models import GraphBuilder, float_value, tiny_cnn, tiny_mlp

Array = NDArray[Any]
CHAIN = Chain((Pad(3), Jitter(2), Scale((0.9, 1.0, 1.1)), Rotate((-8.0, 0.0, 8.0)), Jitter(2)))
SEEDS = [Seed(7, item) for item in range(3)]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    return add_model(
        repository,
        "tiny",
        tiny_cnn(),
        preprocessing=PREPROCESSING,
        class_labels=tuple(f"class {number}" for number in range(10)),
    )


def program_of(version: ModelVersion, *objectives: Objective, size: int = 16, **options: Any) -> Program:
    chosen = objectives or (Channel("conv2", 3),)
    return Program(version, FourierImage(height=size, width=size), chosen, **options)


def chain_of(nodes: Callable[[GraphBuilder], str], path: Path, units: int, *sites: int, size: int = 8) -> ModelVersion:
    """A network of one output `tap` (n, units, *sites) on pictures in [-1, 1]."""
    g = GraphBuilder(0)
    output = nodes(g)
    model = g.model([float_value("image", ["n", 3, size, size])], [float_value(output, ["n", units, *sites])], opset=20)
    preprocessing = dataclasses.replace(
        PREPROCESSING, mean=(127.5,) * 3, std=(127.5,) * 3, height=size, width=size, resize_short_side=size
    )
    return add_model(ModelRepository(path), "chain", model, preprocessing=preprocessing)


def in_double(model: ir.Model) -> Callable[[Mapping[str, Array]], Array]:
    """A float32 graph in float64, as ONNX's reference evaluator has it."""
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del proto.graph.value_info[:]
    evaluator = ReferenceEvaluator(proto, new_ops=CORRECTED)

    def compute(feeds: Mapping[str, Array]) -> Array:
        wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in feeds.items()}
        result: Array = evaluator.run(None, wide)[0]
        return result

    return compute


# Graphs


@pytest.mark.parametrize(
    ("chain", "objectives", "alpha"),
    [
        (CHAIN, (Channel("conv2", 3),), False),
        (CHAIN, (ClassLogit(1), ClassLogit(4)), False),
        (dataclasses.replace(CHAIN, views=2, noise=Noise(0.1)), (Channel("conv2", 3) - 0.1 * Layer("conv1"),), False),
        (Chain((CropBoxes(0.7, 0.5),), views=3), (Channel("relu6", 2) - 0.01 * TotalVariation(Picture.IMAGE),), False),
        (CHAIN, (Channel("conv2", 3) * (1 - Channel(Picture.ALPHA, 0)),), True),
        (CHAIN, (Layer("conv2") - 10 * Diversity("conv2"),), False),
    ],
)
def test_the_gradient_of_a_whole_step_is_that_of_central_differences(
    version: ModelVersion, chain: Chain, objectives: tuple[Objective, ...], alpha: bool
) -> None:
    parameterization = FourierImage(height=12, width=10, alpha=alpha, sd=0.1)
    program = Program(version, parameterization, objectives, chain, classes=find_classes(version))
    program.check(2)
    rngs = [np.random.default_rng(item) for item in range(2)]
    parameters = parameterization.initial(rngs, 2)
    feeds = {**program.feeds(2, program.transforms), **program.draw(rngs, 0.3)}
    values, gradients = program.run_step(2, feeds, parameters)
    forward = program.forward(program.transforms, picture=False)
    compute = in_double(forward)
    names = {value.name for value in forward.graph.inputs}
    given = {name: array for name, array in feeds.items() if name in names}
    np.testing.assert_allclose(values, compute({**given, **parameters}), rtol=1e-3, atol=1e-4)
    ((name, gradient),) = gradients.items()
    for seed in range(4):
        direction = np.random.default_rng(seed).standard_normal(gradient.shape)
        ends = [
            compute({**given, name: parameters[name].astype(np.float64) + sign * 1e-6 * direction}).sum()
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / 2e-6
        scale = np.linalg.norm(gradient)
        assert abs((gradient * direction).sum() - expected) < 2e-4 * scale * np.sqrt(gradient.size) / 10


def test_another_unit_needs_no_other_graph(version: ModelVersion) -> None:
    one, other = (program_of(version, Channel("conv2", unit), chain=CHAIN) for unit in (1, 5))
    assert one.structure == other.structure
    assert one.structure != program_of(version, Channel("conv1", 1), chain=CHAIN).structure
    assert one.structure != program_of(version, Channel("conv2", 1)).structure


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("order", ["rgb", "bgr", "gray"])
def test_the_model_sees_what_it_would_see_of_a_file(layout: Any, order: Any) -> None:
    mean = (100.0,) * 3 if order == "gray" else (123.0, 117.0, 104.0)
    std = (50.0,) * 3 if order == "gray" else (58.0, 57.0, 1.0)
    preprocessing = Preprocessing(layout, order, mean, std, "squash", 4, 5, 4, "a test")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    g = GraphWriter()
    x = g.input("x", [BATCH, 3, 4, 5])
    session = Session(serialize(g.model({"y": in_range(g, x, preprocessing, 3)})))
    found = session.run({"x": np.moveaxis(pixels, -1, 1).astype(np.float32) / 255})["y"]
    tolerance = 0.6 / min(std) if order == "gray" else 1e-3
    np.testing.assert_allclose(found, normalize(pixels, preprocessing), atol=tolerance)


def test_a_network_without_fixed_sizes_is_shown_the_picture_at_its_own(version: ModelVersion) -> None:
    program = program_of(version, size=40, chain=CHAIN)
    assert program.transforms is not None
    assert program.transforms.size == (42, 42)
    assert program.clean_transforms is not None
    assert program.clean_transforms.size == (40, 40)


def test_a_network_of_one_size_is_shown_the_picture_at_that(tmp_path: Path) -> None:
    def flattened(g: GraphBuilder) -> str:
        g.node("Flatten", ["image"], "flat", axis=1)
        return g.node("Gemm", ["flat", g.weight("w", (3 * 64, 4), 192)], "tap")

    program = program_of(chain_of(flattened, tmp_path, 4), Channel("tap", 1), size=20, chain=CHAIN)
    assert program.transforms is not None
    assert program.transforms.size == (8, 8)
    result = visualize(program, Recipe(5), SEEDS[:1])
    assert result.pictures.shape == (1, 3, 20, 20)
    with pytest.raises(OrtoscopeError, match="9 x 9") as caught:
        program_of(program.version, Channel("tap", 1), view=(9, 9))
    assert caught.value.reason == "SIZE_NOT_SUPPORTED"


# Results


def test_an_items_picture_does_not_depend_on_its_neighbours(version: ModelVersion) -> None:
    objectives = tuple(Channel("conv2", unit) for unit in (1, 3, 5))
    chain = dataclasses.replace(CHAIN, noise=Noise(0.05))
    together = visualize(program_of(version, *objectives, chain=chain), Recipe(12), SEEDS)
    for item, objective in enumerate(objectives):
        alone = visualize(program_of(version, objective, chain=chain), Recipe(12), [SEEDS[item]])
        assert alone.pictures[0].tobytes() == together.pictures[item].tobytes()
        assert alone.history[:, 0].tobytes() == together.history[:, item].tobytes()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(version: ModelVersion) -> None:
    program = program_of(version, chain=CHAIN)
    first, again, other = (visualize(program, Recipe(8), [Seed(seed)]) for seed in (1, 1, 2))
    assert first.pictures.tobytes() == again.pictures.tobytes()
    assert first.pictures.tobytes() != other.pictures.tobytes()


def test_the_objective_reported_is_that_of_the_picture_on_another_runtime(version: ModelVersion) -> None:
    result = visualize(program_of(version, chain=CHAIN), Recipe(40), SEEDS)
    pixels = (255 * result.pictures.astype(np.float64) - 127) / 128
    model = onnx.load_from_string(version.trunk_bytes(("conv2",)))
    (maps,) = ReferenceEvaluator(model).run(None, {"image": pixels.astype(np.float32)})
    reported = [outcome.objective for outcome in result.outcomes]
    np.testing.assert_allclose(reported, maps[:, 3].mean(axis=(1, 2)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", [Channel("conv2", 3), -Channel("conv2", 3), Layer("bn1"), ClassLogit(2)])
def test_the_objective_rises(version: ModelVersion, objective: Objective) -> None:
    program = program_of(version, objective, chain=CHAIN, classes=find_classes(version))
    start = visualize(program, Recipe(0), SEEDS[:1]).outcomes[0].objective
    assert visualize(program, Recipe(60), SEEDS[:1]).outcomes[0].objective > start


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.is_for_pictures])
def test_every_preset_makes_a_picture_that_the_unit_likes_better(version: ModelVersion, name: str) -> None:
    preset = PRESETS[name]
    parameterization = preset.picture(64, 64)
    recipe = dataclasses.replace(preset.recipe, steps=min(preset.recipe.steps, 12), attempts=1)
    program = Program(version, parameterization, (Channel("conv2", 3),), preset.chain)
    gray = np.full((1, 3, 64, 64), 0.5) + np.random.default_rng(0).uniform(-0.1, 0.1, (1, 3, 64, 64))
    start = parameterization.inverse(gray) if preset.needs_start else None
    before = visualize(program, Recipe(0), SEEDS[:1], start=start).outcomes[0].objective
    result = visualize(program, recipe, SEEDS[:1], start=start)
    assert result.outcomes[0].objective > before
    assert result.pictures.shape == (1, 3, 64, 64)
    assert result.pictures.min() >= 0
    assert result.pictures.max() <= 1


def test_a_line_search_sees_one_draw_of_transforms(version: ModelVersion) -> None:
    program = program_of(version, chain=CHAIN)
    history = visualize(program, Recipe(40, Lbfgs()), SEEDS[:2]).history
    best = np.maximum.accumulate(history, axis=0)
    assert (best[-1] > best[0] + 0.3).all()


def test_vectors_are_optimised_without_transforms(tmp_path: Path) -> None:
    version = add_model(ModelRepository(tmp_path), "mlp", tiny_mlp())
    features = version.manifest.inputs[0].shape[1]
    tap = version.manifest.taps[0]
    vector = VectorParameterization(shape_of_item=(features,), low=-1.0, high=1.0)
    program = Program(version, vector, (Channel(tap.tensor, 0),))
    result = visualize(program, Recipe(300, Adam(0.05)), SEEDS[:1])
    weights = np.sign(result.pictures[0])
    assert np.abs(result.pictures[0]).max() <= 1
    np.testing.assert_allclose(np.abs(weights * result.pictures[0]), 1, atol=1e-3)
    with pytest.raises(OrtoscopeError) as caught:
        Program(version, vector, (Channel(tap.tensor, 0),), CHAIN)
    assert caught.value.reason == "NOT_A_PICTURE"


def test_a_start_is_where_it_begins_and_is_not_changed(version: ModelVersion) -> None:
    parameterization = PixelImage(height=16, width=16)
    photo = np.random.default_rng(3).uniform(0.1, 0.9, (1, 3, 16, 16))
    start = parameterization.inverse(photo)
    kept = {name: tensor.copy() for name, tensor in start.items()}
    program = Program(version, parameterization, (Channel("conv2", 3),))
    np.testing.assert_allclose(visualize(program, Recipe(0), SEEDS[:1], start=start).pictures, photo, atol=1e-4)
    visualize(program, Recipe(3), SEEDS[:1], start=start)
    assert all(np.array_equal(start[name], tensor) for name, tensor in kept.items())


# Starts and ends


def dead_unit(g: GraphBuilder) -> str:
    """A unit that is positive for white pictures alone, behind a rectifier."""
    g.node(
        "Conv", ["image", g.constant("k", np.ones((1, 3, 1, 1), np.float32)), g.constant("c", np.float32([-2]))], "far"
    )
    return g.node("Relu", ["far"], "tap")


def test_a_unit_that_nothing_excites_yet_gets_moving(tmp_path: Path) -> None:
    program = program_of(chain_of(dead_unit, tmp_path, 1, 8, 8), Channel("tap", 0), size=8)
    helped = visualize(program, Recipe(200), SEEDS[:1])
    assert helped.outcomes[0].end is End.STEPS
    assert helped.outcomes[0].redirected > 0
    assert helped.outcomes[0].objective > 0.1


def test_a_unit_that_stays_dead_is_said_to_be_and_ends_early(tmp_path: Path) -> None:
    program = program_of(chain_of(dead_unit, tmp_path, 1, 8, 8), Channel("tap", 0), size=8)
    (outcome,) = visualize(program, Recipe(500, redirect_steps=0), SEEDS[:1]).outcomes
    assert outcome.end is End.DEAD
    assert outcome.steps < 17
    assert outcome.objective == 0


def test_redirecting_one_item_leaves_the_others_bytes_alone(tmp_path: Path) -> None:
    def both(g: GraphBuilder) -> str:
        kernel = np.array([[1, 1, 1], [1, -1, 0]], np.float32).reshape(2, 3, 1, 1)
        g.node("Conv", ["image", g.constant("k", kernel), g.constant("c", np.float32([-2, 1]))], "far")
        return g.node("Relu", ["far"], "tap")

    version = chain_of(both, tmp_path, 2, 8, 8)
    together = visualize(program_of(version, Channel("tap", 0), Channel("tap", 1), size=8), Recipe(10), SEEDS[:2])
    alone = visualize(program_of(version, Channel("tap", 1), size=8), Recipe(10), [SEEDS[1]])
    assert together.outcomes[0].redirected > 0
    assert together.outcomes[1].redirected == 0
    assert together.pictures[1].tobytes() == alone.pictures[0].tobytes()


def rooted(g: GraphBuilder) -> str:
    """Roots of a sum that is positive and of one that is negative."""
    kernel = np.array([[1, 1, 1], [-1, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    g.node("Conv", ["image", g.constant("k", kernel), g.constant("c", np.float32([9, -2]))], "sum")
    return g.node("Sqrt", ["sum"], "tap", name="the_root")


def test_what_is_not_a_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        visualize(program_of(chain_of(rooted, tmp_path, 2, 8, 8), Channel("tap", 1), size=8), Recipe(6), SEEDS[:1])
    assert caught.value.reason == "OBJECTIVE_NOT_FINITE"
    assert (caught.value.metadata["node"], caught.value.metadata["operator"]) == ("the_root", "Sqrt")
    assert "the result of the model's Sqrt node 'the_root'" in caught.value.message


def test_an_item_that_overflows_spares_the_others_bytes(tmp_path: Path) -> None:
    version = chain_of(lambda g: g.node("Add", ["image", g.constant("c", np.float32(3))], "tap"), tmp_path, 3, 8, 8)
    objectives = (1.0 * Channel("tap", 0), 3e38 * Channel("tap", 0))
    result = visualize(program_of(version, *objectives, size=8), Recipe(6), SEEDS[:2])
    assert [outcome.end for outcome in result.outcomes] == [End.STEPS, End.NOT_FINITE]
    assert result.outcomes[1].error is not None
    assert "the visualization's own Mul node" in result.outcomes[1].error.message
    alone = visualize(program_of(version, objectives[0], size=8), Recipe(6), SEEDS[:1])
    assert alone.pictures[0].tobytes() == result.pictures[0].tobytes()


def test_a_gradient_that_is_not_finite_is_traced_to_its_node(tmp_path: Path) -> None:
    def root_of_nothing(g: GraphBuilder) -> str:
        g.node("Relu", ["image"], "positive")
        g.node("Mul", ["positive", g.constant("none", np.float32(0))], "nothing")
        g.node("Sqrt", ["nothing"], "root", name="the_root")
        return g.node("Add", ["root", "image"], "tap")

    with pytest.raises(OrtoscopeError) as caught:
        visualize(
            program_of(chain_of(root_of_nothing, tmp_path, 3, 8, 8), Channel("tap", 0), size=8), Recipe(3), SEEDS[:1]
        )
    assert caught.value.metadata["node"] == "the_root"
    assert "the gradient of the model's Sqrt node" in caught.value.message


def test_a_plateau_ends_an_item_and_leaves_the_others_bytes_alone(tmp_path: Path) -> None:
    def bounded(g: GraphBuilder) -> str:
        kernel = np.array([[1, 1, 1], [20, 20, 20]], np.float32).reshape(2, 3, 1, 1)
        g.node("Conv", ["image", g.constant("k", kernel)], "sum")
        return g.node("Sigmoid", ["sum"], "tap")

    version = chain_of(bounded, tmp_path, 2, 8, 8)
    recipe = Recipe(60, plateau=Plateau(10, 0.01))
    together = visualize(program_of(version, Channel("tap", 0), Channel("tap", 1), size=8), recipe, SEEDS[:2])
    first, second = together.outcomes
    assert second.end is End.PLATEAU
    assert second.steps < first.steps
    assert np.isnan(together.history[second.steps :, 1]).all()
    for item, unit in enumerate((0, 1)):
        alone = visualize(program_of(version, Channel("tap", unit), size=8), recipe, [SEEDS[item]])
        assert alone.pictures[0].tobytes() == together.pictures[item].tobytes()


def test_the_best_of_several_starts_is_kept_by_its_clean_picture(version: ModelVersion) -> None:
    program = program_of(version, Channel("conv2", 1), Channel("conv2", 3), chain=CHAIN)
    result = visualize(program, Recipe(6, attempts=4), SEEDS[:2])
    for item, outcome in enumerate(result.outcomes):
        assert len(outcome.attempts) == 4
        assert len(set(outcome.attempts)) == 4
        assert outcome.objective == max(outcome.attempts)
        assert outcome.attempts[outcome.attempt] == outcome.objective
        score, pictures = program.run_clean(2, program.feeds(2, program.clean_transforms), result.parameters)
        assert score[item] == np.float32(outcome.objective)
        assert pictures[item].tobytes() == result.pictures[item].tobytes()


def test_time_that_is_over_ends_all_items(version: ModelVersion) -> None:
    program = program_of(version, chain=CHAIN)
    visualize(program, Recipe(1), SEEDS)
    began = time.monotonic()
    result = visualize(program, Recipe(20_000, attempts=5), SEEDS, budget_seconds=0.3)
    assert time.monotonic() - began < 3
    assert {outcome.end for outcome in result.outcomes} == {End.BUDGET}
    assert 0 < result.outcomes[0].steps < 20_000
    assert len(result.history) == result.outcomes[0].steps


def test_a_raised_flag_stops_the_loop_within_a_step(version: ModelVersion) -> None:
    cancellation = Cancellation()
    steps: list[int] = []

    def stop(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 3:
            cancellation.cancel()

    with pytest.raises(OrtoscopeError) as caught:
        visualize(program_of(version), Recipe(1000), SEEDS, progress=stop, cancellation=cancellation)
    assert caught.value.code is Code.CANCELLED
    assert steps == [1, 2, 3]


def test_progress_comes_with_every_step_and_pictures_when_asked_for(version: ModelVersion) -> None:
    told: list[Progress] = []
    result = visualize(program_of(version), Recipe(6), SEEDS, progress=told.append, picture_every=3)
    assert [progress.step for progress in told] == [1, 2, 3, 4, 5, 6]
    assert [progress.picture is not None for progress in told] == [False, False, True] * 2
    np.testing.assert_array_equal([progress.objective for progress in told], result.history)
    assert told[-1].picture is not None
    assert told[-1].picture.tobytes() == result.pictures.tobytes()


# Bad input


def refusal(action: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(OrtoscopeError) as caught:
        action()
    return caught.value.reason, caught.value.field


def test_what_does_not_fit_is_refused_before_any_work(version: ModelVersion, tmp_path: Path) -> None:
    def run(*objectives: Objective, seeds: int = 1, **options: Any) -> Callable[[], object]:
        return lambda: visualize(program_of(version, *objectives, **options), Recipe(1), [Seed(0)] * seeds)

    assert refusal(run(Channel("conv2", 12))) == ("INVALID_UNIT", "objective.channel.unit")
    assert refusal(run(Channel("conv2", 1), Channel("conv2", 12), seeds=2))[1] == "objective[1].channel.unit"
    assert refusal(run(Channel("nothing", 1)))[0] == "UNKNOWN_TAP"
    assert refusal(run(Channel("conv2", 1), Channel("conv1", 1), seeds=2)) == ("MIXED_OBJECTIVES", OBJECTIVE)
    assert refusal(run(Channel("conv2", 1), Channel("conv2", 2), seeds=3)) == ("ITEMS_MISMATCH", OBJECTIVE)
    views = Chain(views=2)
    assert refusal(run(Layer("conv2") - Diversity("conv2"), seeds=2, chain=views))[0] == "COUPLED_VIEWS"
    gray = FourierImage(height=8, width=8, channels=1)
    assert refusal(lambda: Program(version, gray, (Channel("conv2", 1),)))[0] == "CHANNELS_MISMATCH"
    bound = add_model(ModelRepository(tmp_path), "bound", tiny_cnn(batch=2), preprocessing=PREPROCESSING, fixed_batch=2)
    together = program_of(bound, Layer("conv2") - Diversity("conv2"))
    assert refusal(lambda: visualize(together, Recipe(1), SEEDS))[0] == "BATCH_NOT_SUPPORTED"
    assert refusal(lambda: find_preset("lucide"))[0] == "UNKNOWN_PRESET"
    for field, value in (("steps", -1), ("steps", 10**6), ("attempts", 0), ("redirect_steps", -1)):
        assert refusal(lambda f=field, v=value: Recipe(**{f: v})) == ("INVALID_RECIPE", f"recipe.{field}")  # type: ignore[misc]
    assert refusal(lambda: Recipe(plateau=Plateau(0)))[1] == "recipe.plateau"
