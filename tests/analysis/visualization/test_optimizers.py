"""Optimizers against the published rules, written out number by number, and against SciPy's own search."""

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ortoscope_service.analysis.visualization.optimizers import Adam, Lbfgs, Nadam, Optimizer, Schedule, Sgd
from ortoscope_service.errors import OrtoscopeError
from scipy import optimize

Array = npt.NDArray[Any]
Parameters = dict[str, Array]


def slopes(steps: int, items: int = 3) -> list[Parameters]:
    """Gradients of two parameters that are anything but smooth, some of them zero."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(steps):
        sizes = 10.0 ** rng.integers(-3, 3, (items, 1, 1))
        a, b = rng.standard_normal((items, 2, 3)) * sizes, rng.standard_normal((items, 4)) * sizes[:, 0]
        b[:, 0] = 0
        found.append({"a": a.astype(np.float32), "b": b.astype(np.float32)})
    return found


def zeros(items: int = 3) -> Parameters:
    return {"a": np.zeros((items, 2, 3), np.float32), "b": np.zeros((items, 4), np.float32)}


def run(optimizer: Optimizer, gradients: list[Parameters], start: Parameters | None = None) -> Parameters:
    state = optimizer.start(start if start is not None else zeros())
    for given in gradients:
        state.step(np.zeros(len(given["a"])), given)
    return state.parameters


def number_by_number(rule: Callable[[list[float]], float], gradients: list[Parameters]) -> Parameters:
    """What a rule for a single number makes of each one's gradients."""
    found = {}
    for name in gradients[0]:
        stacked = np.stack([given[name] for given in gradients]).astype(np.float64)
        flat = stacked.reshape(len(gradients), -1)
        moved = [rule([float(number) for number in flat[:, column]]) for column in range(flat.shape[1])]
        found[name] = np.array(moved).reshape(stacked.shape[1:])
    return found


def adam_of_the_paper(gradients: list[float], rate: float = 0.05) -> float:
    theta = m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        theta += rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta


def nadam_of_pytorchs_documentation(gradients: list[float], psi: float = 0.004) -> float:
    theta = m = v = 0.0
    product = 1.0
    for t, g in enumerate(gradients, 1):
        mu = 0.9 * (1 - 0.5 * 0.96 ** (t * psi))
        following = 0.9 * (1 - 0.5 * 0.96 ** ((t + 1) * psi))
        product *= mu
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        nesterov = following * m / (1 - product * following) + (1 - mu) * g / (1 - product)
        theta += 1.0 * nesterov / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        (Adam(), adam_of_the_paper),
        (Nadam(), nadam_of_pytorchs_documentation),
        (Nadam(momentum_decay=1.0), partial(nadam_of_pytorchs_documentation, psi=1.0)),
    ],
)
def test_steps_are_those_of_the_published_rule(optimizer: Optimizer, rule: Callable[[list[float]], float]) -> None:
    gradients = slopes(25)
    expected = number_by_number(rule, gradients)
    for name, value in run(optimizer, gradients).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-4, atol=1e-6)


def test_the_first_step_of_adam_is_the_learning_rate_uphill() -> None:
    gradients = slopes(1)
    for name, value in run(Adam(0.25), gradients).items():
        np.testing.assert_allclose(value, 0.25 * np.sign(gradients[0][name]), rtol=1e-3)


@pytest.mark.parametrize(
    ("norm", "length"),
    [
        ("mean_abs", lambda g: np.abs(g).mean()),
        ("rms", lambda g: math.sqrt((g * g).mean())),
        ("l2", lambda g: math.sqrt((g * g).sum())),
        ("none", lambda g: 1.0),
    ],
)
def test_the_gradient_of_an_item_is_divided_by_its_norm_over_all_parameters(
    norm: Any, length: Callable[[Array], float]
) -> None:
    (given,) = slopes(1)
    moved = run(Sgd(0.5, norm), [given])
    for item in range(3):
        own = length(np.concatenate([given["a"][item].ravel(), given["b"][item]]).astype(np.float64))
        for name, value in moved.items():
            np.testing.assert_allclose(value[item], 0.5 * given[name][item] / own, rtol=1e-5)


def test_momentum_and_decay_are_those_of_their_formula() -> None:
    start = {"a": np.full((1, 1, 1), 2, np.float32)}
    gradient = {"a": np.ones((1, 1, 1), np.float32)}
    state = Sgd(1.0, "none", momentum=0.5, decay=0.25).start(start)
    for expected in (2 * 0.75 + 1, 2.5 * 0.75 + 1.5, 3.375 * 0.75 + 1.75):
        state.step(np.zeros(1), gradient)
        assert state.parameters["a"].item() == pytest.approx(expected)


def test_an_item_without_gradient_stays_where_it_is() -> None:
    given = {"a": np.zeros((2, 3), np.float32)}
    given["a"][1] = 1
    for optimizer in (Adam(), Nadam(), Sgd()):
        state = optimizer.start({"a": np.ones((2, 3), np.float32)})
        for _ in range(3):
            state.step(np.zeros(2), given)
        assert (state.parameters["a"][0] == 1).all()
        assert (state.parameters["a"][1] > 1).all()


@pytest.mark.parametrize("optimizer", [Adam(), Nadam(), Sgd(), Sgd(momentum=0.9, norm="l2")])
def test_an_item_moves_as_if_it_were_alone(optimizer: Optimizer) -> None:
    gradients = slopes(10)
    together = run(optimizer, gradients)
    for item in range(3):
        alone = [{name: value[item : item + 1] for name, value in given.items()} for given in gradients]
        for name, value in run(optimizer, alone, zeros(1)).items():
            assert value.tobytes() == together[name][item : item + 1].tobytes()


@pytest.mark.parametrize("optimizer", [Adam(beta_2=0.9), Nadam(beta_2=0.9)], ids=["adam", "nadam"])
def test_a_gradient_whose_square_is_beyond_float32_is_one_step_and_is_forgotten(optimizer: Adam | Nadam) -> None:
    huge, ordinary = np.full((1, 2, 3), 1e30, np.float32), np.ones((1, 2, 3), np.float32)
    nothing = np.zeros((1, 4), np.float32)
    parameters = zeros(1)
    state = optimizer.start(parameters)
    state.step(np.zeros(1), {"a": huge, "b": nothing})
    assert ((state.parameters["a"] > 0) & (state.parameters["a"] < 2 * optimizer.learning_rate)).all()
    for _ in range(1000):  # of the mean square, which begins at 1e35, 0.9^1000 = 2e-46 is left
        state.step(np.zeros(1), {"a": ordinary, "b": nothing})
    before = state.parameters["a"].copy()
    state.step(np.zeros(1), {"a": ordinary, "b": nothing})
    np.testing.assert_allclose(state.parameters["a"] - before, optimizer.learning_rate, rtol=0.1)


def test_shared_parameters_are_one_item() -> None:
    given = {"own": np.ones((4, 2), np.float32), "shared": np.full((1, 8), 3, np.float32)}
    state = Sgd(1.0).start({name: np.zeros_like(value) for name, value in given.items()})
    assert len(state.finished) == 1
    state.step(np.zeros(4), given)
    np.testing.assert_allclose(state.parameters["own"], 1 / 2)
    np.testing.assert_allclose(state.parameters["shared"], 3 / 2)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), [1, 1, 1, 1, 1, 1]),
        (Schedule("linear", 4), [1, 0.75, 0.5, 0.25, 0, 0]),
        (Schedule("linear", 4, 0.2), [1, 0.8, 0.6, 0.4, 0.2, 0.2]),
        (Schedule("cosine", 2), [1, 0.5, 0, 0, 0, 0]),
    ],
)
def test_learning_rates_follow_their_schedule(schedule: Schedule, expected: list[float]) -> None:
    np.testing.assert_allclose([schedule.factor(step) for step in range(1, 7)], expected, atol=1e-12)
    state = Sgd(1.0, "none", schedule=schedule).start({"a": np.zeros((1, 1), np.float32)})
    for number in range(1, 7):
        state.step(np.zeros(1), {"a": np.ones((1, 1), np.float32)})
        assert state.parameters["a"].item() == pytest.approx(sum(expected[:number]), abs=1e-6)


# L-BFGS


def rosenbrock(parameters: Parameters) -> tuple[Array, Parameters]:
    """Minus Rosenbrock's function and its slope, item by item, by SciPy."""
    points = np.concatenate([parameters["x"], parameters["y"].reshape(len(parameters["y"]), -1)], axis=1)
    values = np.array([-optimize.rosen(point) for point in points.astype(np.float64)])
    slope = np.stack([-optimize.rosen_der(point) for point in points.astype(np.float64)])
    return values, {"x": slope[:, :1], "y": slope[:, 1:].reshape(parameters["y"].shape)}


def hills(items: int) -> Parameters:
    rng = np.random.default_rng(2)
    return {
        "x": rng.uniform(-1, 1, (items, 1)).astype(np.float32),
        "y": rng.uniform(-1, 1, (items, 1, 2)).astype(np.float32),
    }


def search(start: Parameters, evaluate: Callable[[Parameters], tuple[Array, Parameters]], limit: int = 300) -> int:
    with Lbfgs().start(start) as state:
        for step in range(limit):
            if state.finished.all():
                return step
            state.step(*evaluate(state.parameters))
    return limit


def test_lbfgs_finds_the_top_of_every_items_hill() -> None:
    start = hills(4)
    assert search(start, rosenbrock) < 150
    np.testing.assert_allclose(start["x"], 1, atol=2e-2)
    np.testing.assert_allclose(start["y"], 1, atol=2e-2)


def test_lbfgs_searches_an_item_as_if_it_were_alone() -> None:
    together = hills(3)
    search(together, rosenbrock)
    for item in range(3):
        alone = {name: value[item : item + 1].copy() for name, value in hills(3).items()}
        search(alone, rosenbrock)
        for name, value in alone.items():
            assert value.tobytes() == together[name][item : item + 1].tobytes()


def test_lbfgs_takes_the_points_that_scipy_takes() -> None:
    visited: list[Array] = []

    def bowl(point: Array) -> tuple[float, Array]:
        visited.append(point.astype(np.float32))
        exact = point.astype(np.float32).astype(np.float64)
        return float(((exact - 3) ** 2 * [1, 10]).sum()), 2 * (exact - 3) * [1, 10]

    optimize.minimize(bowl, np.zeros(2), jac=True, method="L-BFGS-B", options={"maxcor": 10, "ftol": 1e-8})
    with Lbfgs().start({"a": np.zeros((1, 2), np.float32)}) as state:
        for point in visited:
            np.testing.assert_array_equal(state.parameters["a"][0], point)
            value, slope = bowl(state.parameters["a"][0].astype(np.float64))
            visited.pop()
            state.step(np.array([-value]), {"a": -slope[None]})


def test_lbfgs_leaves_no_threads() -> None:
    before = threading.active_count()
    state = Lbfgs().start(hills(3))
    state.step(*rosenbrock(state.parameters))
    assert threading.active_count() == before + 3
    state.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() == before


def test_lbfgs_keeps_bounds() -> None:
    start = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 1), np.float32)}
    bounds = {"a": (np.array([-1.0, -np.inf, -1.0]), np.array([1.0, np.inf, 5.0]))}
    tops = {"a": np.array([[2.0, 9, 3], [-2, -9, -3]]), "b": np.array([[7.0], [8.0]])}
    with Lbfgs().start(start, bounds) as state:
        while not state.finished.all():
            away = {name: value - tops[name] for name, value in state.parameters.items()}
            assert np.abs(state.parameters["a"][:, 0]).max() <= 1
            state.step(
                -sum((value**2).sum(axis=1) for value in away.values()),
                {name: -2 * value for name, value in away.items()},
            )
    np.testing.assert_allclose(start["a"], [[1, 9, 3], [-1, -9, -1]], atol=1e-3)
    np.testing.assert_allclose(start["b"], tops["b"], atol=1e-3)


def test_what_scipy_raises_is_raised_where_the_loop_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no search today")

    monkeypatch.setattr(optimize, "minimize", refuse)
    with pytest.raises(ValueError, match="no search today"):
        Lbfgs().start(hills(2))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Adam(0.0), "learning_rate"),
        (lambda: Adam(math.inf), "learning_rate"),
        (lambda: Adam(beta_2=1.0), "beta_2"),
        (lambda: Nadam(beta_1=-0.1), "beta_1"),
        (lambda: Sgd(-1.0), "learning_rate"),
        (lambda: Sgd(momentum=1.0), "momentum"),
        (lambda: Sgd(decay=2.0), "decay"),
        (lambda: Lbfgs(history=0), "history"),
        (lambda: Schedule("cosine"), "schedule.steps"),
    ],
)
def test_senseless_settings_are_refused(make: Callable[[], object], field: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        make()
    assert caught.value.field == f"optimizer.{field}"
