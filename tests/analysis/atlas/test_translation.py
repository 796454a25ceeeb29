"""Carrying samples between spaces, against regressions that leave each sample out in turn."""

import numpy as np
import pytest
from numpy.typing import NDArray
from ortoscope_service.analysis.atlas.translation import carry


def _pair(count: int, noise: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(count, 6)) + 3
    target = source @ rng.normal(size=(6, 4)) - 2 + noise * rng.normal(size=(count, 4))
    return source.astype(np.float32), target.astype(np.float32)


def test_samples_are_carried_as_by_ridge_regression_without_them() -> None:
    source, target = _pair(40, noise=1.0)
    found = carry(source, target).carried
    scale = np.square(source - source.mean(axis=0, dtype=np.float64)).sum() / source.shape[1]

    def left_out(strength: float) -> NDArray[np.float64]:
        predicted = np.empty(target.shape)
        # The mean is that of all samples in the penalty alone: an unpenalised column stands for the intercept.
        design = np.concatenate([np.ones((40, 1)), source - source.mean(axis=0, dtype=np.float64)], axis=1)
        penalty = np.diag([0.0] + [strength * scale] * source.shape[1])
        for sample in range(40):
            others = np.arange(40) != sample
            x, y = design[others], target[others].astype(np.float64)
            predicted[sample] = design[sample] @ np.linalg.solve(x.T @ x + penalty, x.T @ y)
        return predicted

    tried = [left_out(10.0**exponent) for exponent in range(-6, 2)]
    best = min(tried, key=lambda predicted: np.square(predicted - target).sum())
    assert found == pytest.approx(best, abs=1e-4)


def test_linear_relation_is_found_whole() -> None:
    found = carry(*_pair(60, noise=0.0))
    assert found.explained > 0.9999
    assert found.carried == pytest.approx(_pair(60, noise=0.0)[1], abs=1e-2)


def test_spaces_without_relation_explain_nothing_even_with_more_units_than_samples() -> None:
    rng = np.random.default_rng(1)
    source, target = (rng.normal(size=(50, 200)).astype(np.float32) for _ in range(2))
    found = carry(source, target)
    assert found.explained < 0.02
    assert np.square(found.carried).mean() < 0.1 * np.square(target).mean()


def test_space_without_variance_explains_nothing() -> None:
    source, target = np.ones((20, 3), np.float32), _pair(20, 1.0)[1]
    assert carry(source, target).explained == pytest.approx(1 - (20 / 19) ** 2)
    assert carry(target, source).carried == pytest.approx(source)
