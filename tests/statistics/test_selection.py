"""Order statistics from parts against a sort of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.statistics.order_statistics import KeptValues, LargestValues, QuantilePosition
from ortoscope_service.statistics.selection import RankSelection


def _select(parts: list[KeptValues], units: int, rank: int) -> RankSelection:
    selection = RankSelection(units, rank)
    passes = 0
    while not selection.done:
        for part in parts:
            selection.add(part)
        selection.narrow()
        passes += 1
    assert passes == 4
    return selection


def _part(values: np.ndarray, floor: float = -np.inf, equal: int = 0) -> KeptValues:
    """One unit's values."""
    return KeptValues(
        values.astype(np.float32), np.array([0, len(values)]), np.array([floor], np.float32), np.array([equal])
    )


_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
_FEW = st.sampled_from([-1.5, -0.0, 0.0, 1.0, 1.0000001, 6.0, -1e-45, 1e-45, 3.4e38, -3.4e38])


@given(
    values=st.lists(st.one_of(_FLOATS, _FEW), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    data=st.data(),
)
def test_a_rank_and_its_neighbour_are_those_of_the_sorted_whole(values, cuts, data):
    array = np.array(values, np.float32)
    rank = data.draw(st.integers(1, len(values)))
    selection = _select([_part(part) for part in np.split(array, sorted(cuts))], 1, rank)
    ordered = np.sort(array)[::-1]
    assert selection.value[0] == ordered[rank - 1]
    assert selection.larger[0] == ordered[max(rank - 2, 0)]


@given(seed=st.integers(0, 10_000), equal=st.integers(0, 20), rank=st.integers(1, 30))
def test_values_that_were_counted_count_as_if_they_were_there(seed, equal, rank):
    values = np.round(np.random.default_rng(seed).normal(0, 2, 20)).astype(np.float32)
    whole = np.concatenate((values, np.full(equal, -1, np.float32)))
    selection = _select([_part(values, -1, equal)], 1, rank)
    ordered = np.sort(whole)[::-1]
    if rank > len(ordered):
        assert np.isneginf(selection.value[0])
    else:
        assert selection.value[0] == ordered[rank - 1]
        assert selection.larger[0] == ordered[max(rank - 2, 0)]


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 40),
    sites=st.integers(1, 30),
    fraction=st.sampled_from([0.0, 0.5, 0.9, 0.995, 1.0]),
    plateau=st.booleans(),
    shards=st.integers(1, 6),
)
def test_quantiles_of_shards_equal_numpys_of_the_whole_to_the_last_bit(seed, images, sites, fraction, plateau, shards):
    values = np.random.default_rng(seed).standard_normal((images, 3, sites)).astype(np.float32)
    if plateau:
        values = np.clip(values * 4, 0, 6)
    position = QuantilePosition.of(fraction, images * sites)
    parts = []
    for shard in range(shards):
        largest = LargestValues(3, position.depth)
        largest.update(values[shard::shards])
        parts.append(largest.kept())
    selection = _select(parts[::-1], 3, position.depth)
    found = position.between(selection.value.astype(np.float64), selection.larger.astype(np.float64))
    expected = np.quantile(values.transpose(1, 0, 2).reshape(3, -1).astype(np.float64), fraction, axis=1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rank", [1, 5])
def test_units_without_enough_values_have_none_and_disturb_no_other(rank):
    part = KeptValues(
        np.arange(6, dtype=np.float32), np.array([0, 0, 6]), np.full(2, -np.inf, np.float32), np.zeros(2, np.int64)
    )
    selection = _select([part], 2, rank)
    assert np.isneginf(selection.value[0])
    assert selection.value[1] == 6 - rank
