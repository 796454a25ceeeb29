"""The largest values of a stream, and where a quantile lies, against sorts of the whole stream at once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.statistics.order_statistics import KeptValues, LargestValues, NotFiniteError, QuantilePosition


def _stream(seed: int, images: int, units: int, sites: int, plateau: bool) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((images, units, sites)).astype(np.float32)
    if plateau:  # as ReLU6 does: many equal values at both ends
        values = np.clip(values * 4, 0, 6)
    return values


def _by_unit(values: np.ndarray) -> np.ndarray:
    return values.transpose(1, 0, 2).reshape(values.shape[1], -1)


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 40),
    sites=st.integers(1, 60),
    depth=st.integers(1, 500),
    plateau=st.booleans(),
    batch=st.integers(1, 9),
    quantile=st.sampled_from([None, 0.0, 0.3, 0.9, 1.0]),
)
def test_kept_and_counted_values_are_all_that_reach_the_floor(seed, images, sites, depth, plateau, batch, quantile):
    values = _stream(seed, images, 3, sites, plateau)
    rows = _by_unit(values)
    bound = None if quantile is None else np.quantile(rows, quantile, axis=1, method="higher").astype(np.float32)
    largest = LargestValues(3, depth, bound)
    for start in range(0, images, batch):
        part = values[start : start + batch]
        np.testing.assert_array_equal(largest.update(part), part.max(axis=2))
    kept = largest.kept()
    for unit, row in enumerate(rows):
        found = np.sort(kept.value[kept.start[unit] : kept.start[unit + 1]])
        equal = np.full(kept.equal[unit], kept.floor[unit], np.float32)
        reach = np.sort(row[row >= kept.floor[unit]])
        np.testing.assert_array_equal(np.sort(np.concatenate((equal, found))), reach)
        assert len(found) <= depth
        if bound is not None:
            assert kept.floor[unit] >= bound[unit]
        # Nothing but the bound or `depth` larger values lifts the floor.
        if kept.floor[unit] > (-np.inf if bound is None else bound[unit]):
            assert len(reach) >= depth
    np.testing.assert_array_equal(largest.minimum, rows.min(axis=1))
    np.testing.assert_array_equal(largest.maximum, rows.max(axis=1))


@given(
    values=st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=30),
    fraction=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.995, 1.0]),
)
def test_a_position_between_order_statistics_is_numpys_quantile_to_the_last_bit(values, fraction):
    position = QuantilePosition.of(fraction, len(values))
    ordered = np.sort(np.array(values, np.float64))
    lower, upper = ordered[-position.depth], ordered[min(len(values) - 1, len(values) - position.depth + 1)]
    found = position.between(np.array([lower]), np.array([upper]))
    np.testing.assert_array_equal(found, [np.quantile(ordered, fraction)])


def test_memory_follows_what_is_kept_and_stays_within_what_was_announced():
    values = _stream(4, 400, 2, 25, plateau=False)
    bounded = LargestValues(2, 10_000, np.full(2, 2, np.float32))
    unbounded = LargestValues(2, 10_000)
    for start in range(0, 400, 10):
        bounded.update(values[start : start + 10])
        unbounded.update(values[start : start + 10])
    assert bounded._kept.nbytes < unbounded._kept.nbytes / 5
    announced = LargestValues.bytes_needed(2, 10_000, 400 * 25)
    assert announced == 2 * (400 * 25 + 1) * 4  # every value and a place to spare: fewer than twice the depth
    assert unbounded._kept.nbytes <= announced * 1.5


def test_arrays_hold_all_of_it():
    largest = LargestValues(3, 4)
    largest.update(_stream(5, 6, 3, 7, plateau=True))
    kept = largest.kept()
    again = KeptValues.from_arrays(kept.to_arrays())
    for name, array in vars(kept).items():
        np.testing.assert_array_equal(getattr(again, name), array)


def test_floor_only_rises_and_lets_maps_be_dropped():
    values = _stream(1, 2000, 4, 50, plateau=False)
    position = QuantilePosition.of(0.995, 2000 * 50)
    largest = LargestValues(4, position.depth)
    floors, dropped = [], 0
    for start in range(0, 2000, 10):
        peak = largest.update(values[start : start + 10])
        floors.append(largest.floor.copy())
        dropped += int((peak <= largest.floor).sum())
    assert all((later >= earlier).all() for earlier, later in pairwise(floors))
    assert (np.array(floors) <= np.quantile(_by_unit(values), 0.995, axis=1)).all()
    assert dropped > 0.35 * 2000 * 4  # 0.78 would be possible with the final quantile known from the start


def test_a_value_that_is_not_finite_is_located():
    values = _stream(2, 5, 3, 7, plateau=False)
    values[3, 1, 4] = np.nan
    with pytest.raises(NotFiniteError) as caught:
        LargestValues(3, 2).update(values)
    assert (caught.value.image, caught.value.unit) == (3, 1)


@pytest.mark.parametrize(("fraction", "count"), [(1.5, 3), (-0.1, 3), (0.5, 0)])
def test_a_quantile_that_does_not_exist_is_refused(fraction, count):
    with pytest.raises(ValueError, match="no quantile"):
        QuantilePosition.of(fraction, count)
