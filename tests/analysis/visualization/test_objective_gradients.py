"""Gradients of objectives against finite differences of ONNX's reference evaluator in float64."""

from collections.abc import Mapping

import numpy as np
import pytest
from analysis.visualization.objective_cases import (
    ALONE,
    COUPLED,
    EVERY,
    IMAGE,
    Array,
    Compiled,
    network,
    numbers,
    pictures,
    setting_of,
)
from ortoscope_service.analysis.visualization.objectives import (
    L1,
    Blur,
    Caricature,
    Channel,
    Difference,
    Direction,
    DirectionNeuron,
    Norm,
    Numbers,
    Objective,
    Picture,
)


def moved(feeds: Mapping[str, Array], along: Mapping[str, Array], step: float) -> dict[str, Array]:
    return {name: value + step * along[name] if name in along else value for name, value in feeds.items()}


@pytest.mark.parametrize("name", [*ALONE, *COUPLED])
def test_gradient_is_that_of_the_value_summed_over_the_batch(name: str) -> None:
    setting = setting_of(network(), 3)
    compiled = Compiled(network(), EVERY[name], setting)
    feeds = {**pictures(3), **EVERY[name].feeds(setting, "objective")}
    gradients = compiled.gradients(feeds)
    rng = np.random.default_rng(5)
    for _ in range(2):
        along = {part: rng.standard_normal(feeds[part].shape) for part in gradients}
        step = 1e-6
        up, down = (compiled.value(moved(feeds, along, sign * step)).sum() for sign in (1, -1))
        truth = (up - down) / (2 * step)
        terms = [gradient * along[part] for part, gradient in gradients.items()]
        found = sum(float(term.sum()) for term in terms)
        scale = max(sum(float(np.abs(term).sum()) for term in terms), 1e-3)
        assert abs(truth - found) <= 1e-6 * scale
        assert max(float(np.abs(term).max()) for term in terms) > 1e-9


def test_class_probability_is_differentiated_where_the_model_computes_none() -> None:
    own, without = (setting_of(network(), 2, own_probabilities=own) for own in (True, False))
    feeds = pictures(2)
    results = []
    for setting in (own, without):
        objective = EVERY["class probability"]
        compiled = Compiled(network(), objective, setting)
        everything = {**feeds, **objective.feeds(setting, "objective")}
        results.append((compiled.value(everything), compiled.gradients(everything)["image"]))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-12)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-9)


@pytest.mark.parametrize("name", ["blur", "blur of alpha"])
def test_step_down_the_blur_objective_blurs_the_picture(name: str) -> None:
    setting = setting_of(network(), 2)
    objective = EVERY[name]
    assert isinstance(objective, Blur)
    part = "image" if objective.of is Picture.IMAGE else "alpha"
    feeds = pictures(2)
    gradient = Compiled(network(), objective, setting).gradients(feeds)[part]
    blurred = np.zeros_like(feeds[part])
    rows, columns = IMAGE[1:]
    for row in range(rows):
        for column in range(columns):
            total = 0.0
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < rows and 0 <= column + right < columns:
                        weight = 1.0 if down == right == 0 else 0.5
                        blurred[:, :, row, column] += weight * feeds[part][:, :, row + down, column + right]
                        total += weight
            blurred[:, :, row, column] /= total
    np.testing.assert_allclose(feeds[part] - gradient, blurred, atol=2.0**-24)


def test_gradient_of_a_difference_is_linear_in_its_terms() -> None:
    setting = setting_of(network(), 2)
    one, other = Channel("first", 1), Direction("tokens", numbers(4), 2.0)

    def gradient(objective: Objective) -> Array:
        compiled = Compiled(network(), objective, setting)
        return compiled.gradients({**pictures(2), **objective.feeds(setting, "objective")})["image"]

    np.testing.assert_allclose(gradient(2 * one - other), 2 * gradient(one) - gradient(other), rtol=1e-9, atol=1e-12)


def test_gradient_of_a_product_follows_the_product_rule() -> None:
    setting = setting_of(network(), 2)
    one, other = Channel("first", 1), Channel("tokens", 2)
    results = []
    for objective in (one, other, one * other):
        compiled = Compiled(network(), objective, setting)
        feeds = {**pictures(2), **objective.feeds(setting, "objective")}
        results.append((compiled.value(feeds)[:, None, None, None], compiled.gradients(feeds)["image"]))
    (a, by_a), (b, by_b), (_, found) = results
    np.testing.assert_allclose(found, a * by_b + b * by_a, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "objective",
    [
        Direction(Picture.IMAGE, numbers(3), 2.0),
        DirectionNeuron(Picture.IMAGE, numbers(3), None, 2.0),
        Caricature(Picture.IMAGE, numbers(*IMAGE), 2.0),
        L1(Picture.IMAGE),
        *(Difference(Picture.IMAGE, Numbers(np.zeros(IMAGE)), norm) for norm in Norm),
    ],
)
def test_gradient_at_nothing_at_all_is_finite(objective: Objective) -> None:
    setting = setting_of(network(), 1)
    black = {"image": np.zeros((1, *IMAGE)), "alpha": np.zeros((1, 1, *IMAGE[1:]))}
    compiled = Compiled(network(), objective, setting)
    gradient = compiled.gradients({**black, **objective.feeds(setting, "objective")})["image"]
    assert np.isfinite(gradient).all()
    if isinstance(objective, Difference):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", list(EVERY))
def test_onnxruntime_computes_in_single_precision_what_the_reference_does_in_double(name: str) -> None:
    double, single = (setting_of(network(kind), 3) for kind in ("float64", "float32"))
    pixels = pictures(3, "float32")
    feeds = {**pixels, **EVERY[name].feeds(single, "objective")}
    found = Compiled(network("float32"), EVERY[name], single).in_onnxruntime(feeds)
    exact = {part: value.astype(np.float64) for part, value in pixels.items()}
    exact.update(EVERY[name].feeds(double, "objective"))
    compiled = Compiled(network(), EVERY[name], double)
    truth = {"activation": compiled.value(exact)}
    truth.update({f"gradient.{part}": value for part, value in compiled.gradients(exact).items()})
    assert set(found) == set(truth)
    for part, value in truth.items():
        assert found[part].dtype == np.float32
        np.testing.assert_allclose(found[part], value, rtol=0, atol=2e-5 * max(float(np.abs(value).max()), 0.01))
