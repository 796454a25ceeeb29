"""Reductions of activations against loops over the definition, in every layout."""

import dataclasses

import numpy as np
import pytest
from ortoscope_service.analysis.activations import Reduction, Selection, reduce_activation
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.taps import Layout, Tap

FIRST = Tap(
    tensor="t", display_name="t", aliases=(), operator="Conv", node="", data_type="float32", shape=(-1, 3, 4, 5),
    layout=Layout.CHANNELS_FIRST, unit_axis=1, site_axes=(2, 3), unit_count=3, pre_activation="", post_activation="",
    upper_limit=None,
)  # fmt: skip
LAYOUTS = {
    "channels_first": (FIRST, (2, 3, 4, 5)),
    "channels_last": (
        dataclasses.replace(FIRST, layout=Layout.CHANNELS_LAST, unit_axis=3, site_axes=(1, 2)),
        (2, 4, 5, 3),
    ),
    "tokens": (dataclasses.replace(FIRST, layout=Layout.TOKENS, unit_axis=2, site_axes=(1,)), (2, 6, 3)),
    "vector": (dataclasses.replace(FIRST, layout=Layout.VECTOR, unit_axis=1, site_axes=()), (2, 3)),
}


@pytest.fixture(params=LAYOUTS)
def case(request):
    tap, shape = LAYOUTS[request.param]
    # Few distinct values, so that ties occur.
    return tap, np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)


def _map(activation: np.ndarray, tap: Tap, item: int, unit: int) -> np.ndarray:
    return np.take(activation[item], unit, axis=tap.unit_axis - 1)


def test_mean_and_max_equal_the_definition(case):
    tap, activation = case
    mean = reduce_activation(activation, Selection(tap, Reduction.MEAN))
    largest = reduce_activation(activation, Selection(tap, Reduction.MAX))
    for item in range(2):
        for unit in range(3):
            sites = _map(activation, tap, item, unit)
            assert mean.values[item, unit] == pytest.approx(sites.mean())
            assert largest.values[item, unit] == sites.max()
            if sites.ndim:
                assert largest.sites is not None
                assert tuple(largest.sites[item, unit]) == np.unravel_index(sites.argmax(), sites.shape)
    assert (largest.sites is None) == (tap.layout is Layout.VECTOR)


def test_site_takes_one_value_of_each_unit_and_counts_from_the_end_if_negative(case):
    tap, activation = case
    site = tuple(-1 for _ in tap.site_axes)
    reduced = reduce_activation(activation, Selection(tap, Reduction.SITE, site=site))
    for item in range(2):
        for unit in range(3):
            assert reduced.values[item, unit] == _map(activation, tap, item, unit)[site]


def test_top_units_are_those_with_the_largest_values_lowest_first_at_a_tie(case):
    tap, activation = case
    reduced = reduce_activation(activation, Selection(tap, Reduction.TOP_UNITS, top_units=2))
    assert reduced.units is not None
    for item in range(2):
        peaks = [_map(activation, tap, item, unit).max() for unit in range(3)]
        order = sorted(range(3), key=lambda unit: (-peaks[unit], unit))[:2]
        assert reduced.units[item].tolist() == order
        assert reduced.values[item].tolist() == [peaks[unit] for unit in order]


def test_none_is_the_activation_itself_in_its_own_layout(case):
    tap, activation = case
    reduced = reduce_activation(activation, Selection(tap))
    assert reduced.values is activation
    assert reduced.unit_axis == tap.unit_axis


@pytest.mark.parametrize("site", [(4, 0), (0,), (0, -6), ()])
def test_a_site_outside_the_map_is_refused_with_the_maps_extent(site):
    activation = np.zeros((1, 3, 4, 5), np.float32)
    with pytest.raises(OrtoscopeError, match=r"whose sites are \[4, 5\]") as caught:
        reduce_activation(activation, Selection(FIRST, Reduction.SITE, site=site), field="taps[1]")
    assert (caught.value.reason, caught.value.field) == ("INVALID_SITE", "taps[1].site")


def test_asking_for_no_units_is_refused():
    with pytest.raises(OrtoscopeError) as caught:
        reduce_activation(np.zeros((1, 3, 4, 5)), Selection(FIRST, Reduction.TOP_UNITS, top_units=0))
    assert caught.value.reason == "INVALID_TOP_UNITS"


def test_the_mean_of_half_precision_neither_overflows_nor_loses_digits():
    activation = np.full((1, 3, 200, 200), 1000.5, np.float16)
    reduced = reduce_activation(activation, Selection(FIRST, Reduction.MEAN))
    assert reduced.values.dtype == np.float16
    np.testing.assert_array_equal(reduced.values, np.float16(1000.5))
