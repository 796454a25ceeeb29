"""Whitening against inverses in closed form, principal axes against a singular value decomposition."""

import numpy as np
import pytest
from ortoscope_service.analysis.atlas.whitening import LEAST_SHRINKAGE, principal_axes, whitening_of
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.statistics.second_moments import SecondMoments


def moments_of(values: np.ndarray) -> SecondMoments:
    moments = SecondMoments(values.shape[1])
    moments.update(values)
    return moments


def test_without_shrinkage_it_is_the_inverse_of_the_uncentred_second_moment() -> None:
    values = np.random.default_rng(0).normal(1, 1, (400, 6)) @ np.diag([1, 2, 3, 4, 5, 0.01])
    whitening = whitening_of(moments_of(values), 0)
    np.testing.assert_allclose(whitening.precision, np.linalg.inv(values.T @ values / 400), rtol=1e-9)
    assert whitening.precision.dtype == np.float64
    assert np.array_equal(whitening.precision, whitening.precision.T)


def test_directions_decorrelate_a_known_second_moment() -> None:
    # Rows whose second moment is exactly [[2, 1], [1, 2]], whose inverse is [[2, -1], [-1, 2]] / 3.
    values = np.array([[1.0, 2.0], [np.sqrt(3), 0.0]])
    found = whitening_of(moments_of(values), 0).directions(np.array([[3.0, 0.0], [0.0, 3.0], [3.0, 3.0]], np.float16))
    np.testing.assert_allclose(found, [[2, -1], [-1, 2], [1, 1]], atol=1e-6)
    assert found.dtype == np.float32


def test_full_shrinkage_only_scales_each_unit() -> None:
    values = np.random.default_rng(0).normal(2, 1, (50, 3)) * [1, 10, 100]
    precision = whitening_of(moments_of(values), 1).precision
    np.testing.assert_allclose(precision, np.diag(1 / np.mean(values**2, axis=0)), rtol=1e-12)


def test_scaling_a_unit_scales_its_directions_the_other_way() -> None:
    values = np.random.default_rng(0).normal(2, 1, (50, 4))
    scale = np.array([1, 1e-3, 1e3, 7])
    plain, scaled = whitening_of(moments_of(values)), whitening_of(moments_of(values * scale))
    assert plain.shrinkage == pytest.approx(scaled.shrinkage, rel=1e-9)
    np.testing.assert_allclose(scaled.precision * scale[:, None] * scale, plain.precision, rtol=1e-7)


def test_dead_units_get_nothing_and_change_nothing() -> None:
    values = np.random.default_rng(0).normal(2, 1, (50, 3))
    alive = whitening_of(moments_of(values))
    whitening = whitening_of(moments_of(np.insert(values, 1, 0, axis=1)))
    assert whitening.dead.tolist() == [False, True, False, False]
    assert not whitening.precision[1].any()
    assert not whitening.precision[:, 1].any()
    np.testing.assert_allclose(np.delete(np.delete(whitening.precision, 1, 0), 1, 1), alive.precision, rtol=1e-10)


def test_fewer_samples_than_units_still_give_a_bounded_inverse() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=(20, 100)), 0)
    whitening = whitening_of(moments_of(values))
    assert 0.05 < whitening.shrinkage <= 1
    live = ~whitening.dead
    scale = np.sqrt(np.mean(values**2, axis=0))[live]
    largest = np.linalg.eigvalsh(whitening.precision[np.ix_(live, live)] * scale[:, None] * scale)[-1]
    assert largest <= 1 / whitening.shrinkage * (1 + 1e-9)


def test_shrinkage_falls_with_the_samples_down_to_its_least() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(5, 5))
    chosen = [whitening_of(moments_of(rng.normal(size=(n, 5)) @ mixing)).shrinkage for n in (10, 1000, 200_000)]
    assert chosen[0] > chosen[1] > chosen[2] == LEAST_SHRINKAGE


def test_a_collinear_unit_without_shrinkage_gives_the_pseudo_inverse() -> None:
    values = np.random.default_rng(0).normal(1, 1, (40, 3))
    values = np.concatenate([values, values[:, :1]], axis=1)
    precision = whitening_of(moments_of(values), 0).precision
    second = values.T @ values / 40
    np.testing.assert_allclose(second @ precision @ second, second, rtol=1e-8)


def test_nothing_to_whiten_and_a_share_out_of_range_are_refused() -> None:
    with pytest.raises(OrtoscopeError) as error:
        whitening_of(moments_of(np.zeros((5, 3))))
    assert error.value.reason == "ACTIVATIONS_EQUAL"
    with pytest.raises(OrtoscopeError) as error:
        whitening_of(moments_of(np.eye(3)), 1.5)
    assert error.value.reason == "INVALID_SETTING"


def test_principal_axes_are_the_singular_vectors_of_the_centred_samples() -> None:
    values = np.random.default_rng(0).normal(5, 1, (300, 6)) @ np.diag([6, 5, 4, 3, 2, 1.0])
    axes = principal_axes(moments_of(values), 4)
    _, singular, right = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(axes.variance, (singular**2 / 300)[:4], rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.sum(axes.axes * right[:4].T, axis=0)), 1, rtol=1e-9)
    np.testing.assert_allclose(axes.mean, values.mean(axis=0), rtol=1e-12)
    assert axes.total == pytest.approx(float(np.sum(singular**2 / 300)), rel=1e-9)
    assert (axes.axes[np.abs(axes.axes).argmax(axis=0), np.arange(4)] > 0).all()
