"""Objectives of atlas icons: values against closed forms in float64, gradients against finite differences."""

from collections.abc import Callable

import numpy as np
import pytest
from analysis.visualization.objective_cases import Array, Compiled, network, numbers, pictures, setting_of
from onnx.reference import ReferenceEvaluator
from ortoscope_service.analysis.visualization.objectives import (
    ICON_LEAVES,
    LEAVES,
    DirectionCosine,
    DirectionNeuron,
    LucidDirectionNeuron,
    Numbers,
    Objective,
    WhitenedDirectionNeuron,
    check,
)
from ortoscope_service.errors import OrtoscopeError

V = numbers(4)
F = Numbers(np.random.default_rng(4).normal(size=(4, 4)))
ROW, COLUMN = 2, 4
EPSILON = 1e-4


def floored(cosine: Array, power: float) -> Array:
    return np.maximum(0.1, cosine) ** power


def cosine(x: Array, y: Array) -> Array:
    return np.asarray(x @ y / (EPSILON + np.linalg.norm(x, axis=-1)) / (EPSILON + np.linalg.norm(y)))


def whitened(a: Array, power: float) -> Array:
    """The definition, from the precision S = F Fᵀ instead of its factor; ε left out."""
    v, root = V.array.astype(np.float64), F.array.astype(np.float64)
    precision = root @ root.T
    dot = a @ precision @ v
    cos = dot / np.sqrt(np.sum(a @ precision * a, axis=1) * (v @ precision @ v))
    return np.asarray(dot * floored(cos, power))


def released(a: Array, power: float) -> Array:
    """`direction_neuron_cossim_S` of tensorflow/lucid, line by line."""
    dot = (a * V.array).mean(axis=1)
    mag = np.sqrt((a**2).sum(axis=1))
    cossims = dot / (1e-4 + mag)
    return np.asarray(dot * np.maximum(0.1, cossims) ** power)


CASES: dict[str, tuple[Objective, Callable[[Array], Array], float]] = {
    "whitened": (WhitenedDirectionNeuron("first", V, None, 2.0, F), lambda a: whitened(a, 2), 1e-3),
    "whitened, without the angle": (WhitenedDirectionNeuron("first", V, None, 0.0, F), lambda a: whitened(a, 0), 1e-6),
    "as it is": (
        WhitenedDirectionNeuron("first", V, None, 3.0),
        lambda a: a @ V.array * floored(cosine(a, V.array), 3),
        1e-6,
    ),
    "cosine": (DirectionCosine("first", V, None, 0.0, F), lambda a: cosine(a @ F.array, V.array @ F.array), 1e-6),
    "cosine of channels last": (DirectionCosine("last", V), lambda a: cosine(a, V.array), 1e-6),
    "released": (LucidDirectionNeuron("first", V, None, 4.0), lambda a: released(a, 4), 1e-6),
    "released, without the angle": (LucidDirectionNeuron("first", V), lambda a: released(a, 0), 1e-6),
}


@pytest.mark.parametrize("name", list(CASES))
def test_value_is_the_formula_at_the_middle_site(name: str) -> None:
    objective, truth, tolerance = CASES[name]
    model, parts = network(), pictures(3)
    model.graph.output.add().name = "first"
    (first,) = ReferenceEvaluator(model).run(["first"], {"x": parts["image"]})
    setting = setting_of(network(), 3)
    found = Compiled(network(), objective, setting).value({**parts, **objective.feeds(setting, "objective")})
    np.testing.assert_allclose(found, truth(first[:, :, ROW, COLUMN]), rtol=tolerance)


@pytest.mark.parametrize("name", list(CASES))
def test_gradient_is_that_of_the_value(name: str) -> None:
    objective = CASES[name][0]
    setting = setting_of(network(), 2)
    compiled = Compiled(network(), objective, setting)
    feeds = {**pictures(2), **objective.feeds(setting, "objective")}
    gradient = compiled.gradients(feeds)["image"]
    along = np.random.default_rng(5).standard_normal(gradient.shape)
    step = 1e-6
    up, down = (compiled.value({**feeds, "image": feeds["image"] + sign * step * along}).sum() for sign in (1.0, -1.0))
    assert (up - down) / (2 * step) == pytest.approx(float((gradient * along).sum()), rel=1e-5)


def test_gradient_at_an_activation_of_zero_is_finite() -> None:
    objective = WhitenedDirectionNeuron("first", V, None, 2.0, F)
    setting = setting_of(network(), 1)
    model = network()
    for constant in model.graph.initializer:
        if constant.name == "bias":
            constant.raw_data = np.zeros(4).tobytes()
    feeds = {**pictures(1), **objective.feeds(setting, "objective")}
    feeds["image"] = np.zeros_like(feeds["image"])
    assert np.isfinite(Compiled(model, objective, setting).gradients(feeds)["image"]).all()


def test_without_a_factor_it_is_the_direction_neuron() -> None:
    setting, parts = setting_of(network(), 3), pictures(3)
    values = [
        Compiled(network(), objective, setting).value({**parts, **objective.feeds(setting, "objective")})
        for objective in (WhitenedDirectionNeuron("first", V, (1, 2), 2.0), DirectionNeuron("first", V, (1, 2), 2.0))
    ]
    assert np.array_equal(*values)


def test_another_factor_is_another_graph_and_another_direction_is_not() -> None:
    one = WhitenedDirectionNeuron("first", V, None, 2.0, F)
    assert one.structure == WhitenedDirectionNeuron("first", numbers(4, seed=9), None, 1.0, F).structure
    other = Numbers(F.array * 2)
    assert one.structure != WhitenedDirectionNeuron("first", V, None, 2.0, other).structure
    assert one.structure != WhitenedDirectionNeuron("first", V, None, 2.0).structure
    assert one.structure != DirectionCosine("first", V, None, 2.0, F).structure


def test_a_factor_that_does_not_fit_is_refused() -> None:
    setting = setting_of(network(), 1)
    for objective, reason, field in (
        (WhitenedDirectionNeuron("first", V, factor=numbers(3, 4)), "INVALID_SHAPE", "factor"),
        (WhitenedDirectionNeuron("first", V, factor=Numbers(np.zeros((4, 4)))), "ZERO_DIRECTION", "vector"),
        (LucidDirectionNeuron("first", Numbers(np.zeros(4))), "ZERO_DIRECTION", "vector"),
        (LucidDirectionNeuron("first", numbers(5)), "INVALID_SHAPE", "vector"),
    ):
        with pytest.raises(OrtoscopeError) as caught:
            check(objective, setting)
        assert caught.value.reason == reason
        assert caught.value.field == f"objective.{objective.kind}.{field}"


def test_they_are_not_among_what_requests_can_name() -> None:
    assert not set(ICON_LEAVES) & set(LEAVES)
    assert {type(case[0]) for case in CASES.values()} == set(ICON_LEAVES)
