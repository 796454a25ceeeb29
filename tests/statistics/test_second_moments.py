"""Second moments against the same sums in float64 or exact integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.statistics.second_moments import SecondMoments


@given(seed=st.integers(0, 1000), rows=st.integers(0, 60), units=st.integers(1, 9), cut=st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_moments_of_whole_numbers_are_exact_however_the_stream_is_cut(
    seed: int, rows: int, units: int, cut: int
) -> None:
    values = np.random.default_rng(seed).integers(-30, 30, (rows, units))
    left, right = SecondMoments(units), SecondMoments(units)
    left.update(values[:cut].astype(np.float16))
    right.update(values[cut:].astype(np.float32))
    left.merge(right)
    assert left.count == rows
    assert np.array_equal(left.total, values.sum(axis=0))
    assert np.array_equal(left.products, values.T @ values)


def test_mean_and_covariance_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(3, 2, (5000, 7))
    moments = SecondMoments(7)
    moments.update(values)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(values.T, bias=True), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(moments.second, values.T @ values / 5000, rtol=1e-12)


def test_the_blocks_a_caller_gives_do_not_change_a_bit() -> None:
    values = np.random.default_rng(1).normal(size=(6144, 5)).astype(np.float32)
    whole, parts = SecondMoments(5), SecondMoments(5)
    whole.update(values)
    for start in range(0, len(values), 2048):
        parts.update(values[start : start + 2048])
    assert np.array_equal(whole.products, parts.products)


def test_moments_survive_a_file() -> None:
    moments = SecondMoments(3)
    moments.update(np.arange(12.0).reshape(4, 3))
    again = SecondMoments.from_arrays(moments.to_arrays())
    again.update(np.ones((1, 3)))
    assert (again.count, moments.count) == (5, 4)
    assert np.array_equal(again.products, moments.products + 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    moments = SecondMoments(2)
    with pytest.raises(OrtoscopeError) as error:
        moments.update(np.array([[1.0, value]]))
    assert error.value.reason == "ACTIVATIONS_NOT_FINITE"
    assert moments.count == 0


def test_other_numbers_of_units_are_refused() -> None:
    with pytest.raises(OrtoscopeError) as error:
        SecondMoments(2).update(np.ones((1, 3)))
    assert error.value.reason == "SHAPE_MISMATCH"
    with pytest.raises(OrtoscopeError) as error:
        SecondMoments(2).merge(SecondMoments(3))
    assert error.value.reason == "SHAPE_MISMATCH"
