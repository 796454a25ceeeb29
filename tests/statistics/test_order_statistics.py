"""Exact quantiles against numpy.quantile over the whole stream at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.statistics.order_statistics import LargestValues, NotFiniteError, QuantilePosition


def _stream(seed: int, images: int, units: int, sites: int, plateau: bool) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((images, units, sites)).astype(np.float32)
    if plateau:  # as ReLU6 does: many equal values at both ends
        values = np.clip(values * 4, 0, 6)
    return values


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 40),
    sites=st.integers(1, 60),
    fraction=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 0.995, 0.9999, 1.0]),
    plateau=st.booleans(),
    batch=st.integers(1, 9),
)
def test_quantile_equals_numpy_to_the_last_bit_however_the_stream_is_cut(seed, images, sites, fraction, plateau, batch):
    values = _stream(seed, images, 3, sites, plateau)
    position = QuantilePosition.of(fraction, images * sites)
    largest = LargestValues(3, position.depth)
    for start in range(0, images, batch):
        largest.update(values[start : start + batch])
    expected = np.quantile(values.transpose(1, 0, 2).reshape(3, -1).astype(np.float64), fraction, axis=1)
    np.testing.assert_array_equal(largest.quantile(position), expected)


@given(seed=st.integers(0, 10_000), depth=st.integers(1, 40), plateau=st.booleans())
def test_with_a_bound_what_is_above_it_is_kept_and_what_is_equal_to_it_is_counted(seed, depth, plateau):
    values = _stream(seed, 20, 3, 30, plateau)
    bound = values[0, :, 0].copy()
    largest = LargestValues(3, depth, bound)
    for start in range(0, 20, 7):
        largest.update(values[start : start + 7])
    for unit in range(3):
        everything = np.sort(values[:, unit].ravel())
        above = everything[everything > bound[unit]]
        np.testing.assert_array_equal(np.sort(largest.kept(unit)), above[-depth:])
        assert largest.at_bound[unit] == (everything == bound[unit]).sum()


def test_floor_never_exceeds_the_final_quantile_and_lets_maps_be_dropped():
    values = _stream(1, 2000, 4, 50, plateau=False)
    position = QuantilePosition.of(0.995, 2000 * 50)
    largest = LargestValues(4, position.depth)
    floors, dropped = [], 0
    for start in range(0, 2000, 10):
        peak = largest.update(values[start : start + 10])
        np.testing.assert_array_equal(peak, values[start : start + 10].max(axis=2))
        floors.append(largest.floor.copy())
        dropped += int((peak <= largest.floor).sum())
    assert (np.array(floors) <= largest.quantile(position)).all()
    assert dropped > 0.35 * 2000 * 4  # 0.78 would be possible with the final quantile known from the start


def test_a_value_that_is_not_finite_is_located():
    values = _stream(2, 5, 3, 7, plateau=False)
    values[3, 1, 4] = np.nan
    with pytest.raises(NotFiniteError) as caught:
        LargestValues(3, 2).update(values)
    assert (caught.value.image, caught.value.unit) == (3, 1)


def test_a_quantile_below_what_was_kept_is_refused():
    largest = LargestValues(1, 2)
    largest.update(_stream(3, 4, 1, 5, plateau=False))
    with pytest.raises(ValueError, match="below the values that were kept"):
        largest.quantile(QuantilePosition.of(0.5, 10_000))


@pytest.mark.parametrize(("fraction", "count"), [(1.5, 3), (-0.1, 3), (0.5, 0)])
def test_a_quantile_that_does_not_exist_is_refused(fraction, count):
    with pytest.raises(ValueError, match="no quantile"):
        QuantilePosition.of(fraction, count)
