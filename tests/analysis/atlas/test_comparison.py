"""Two layers in one frame, on pairs of layers whose relation is known, and against SciPy and brute force."""

from functools import cache

import numpy as np
import pytest
import scipy.spatial
from numpy.typing import NDArray
from ortoscope_service.analysis.atlas.comparison import Comparison, Side, compare, procrustes_distance
from ortoscope_service.analysis.atlas.grid import cell_ids
from ortoscope_service.analysis.atlas.layout import LayoutSettings, lay_out
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation

_SETTINGS = LayoutSettings(n_neighbors=15, n_epochs=60)
_UNITS, _SAMPLES, _HEAPS = 24, 900, 6
_HEAP = np.random.default_rng(1).integers(0, _HEAPS, _SAMPLES)


def _layer(seed: int = 2, heap: NDArray[np.int64] = _HEAP) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(3).normal(size=(_HEAPS, _UNITS))
    return np.maximum(centres[heap] + rng.normal(size=(len(heap), _UNITS)), 0).astype(np.float32)


def _side(activations: NDArray[np.float32]) -> Side:
    return Side(activations, lay_out(activations, _SETTINGS, 0).position, "cosine")


@cache
def _left() -> Side:
    return _side(_layer())


def _compare(right: Side, left: Side | None = None, grid: int = 12) -> Comparison:
    return compare(left or _left(), right, grid, _SETTINGS, 0)


def test_layer_equals_itself() -> None:
    found = _compare(_left())
    assert found.neighbourhood_agreement == 1
    assert found.procrustes_distance == pytest.approx(0, abs=1e-12)
    assert not found.shift.any()
    assert not found.change.any()
    assert not found.kind.any()
    assert np.array_equal(found.left_count, found.right_count)


def test_order_of_units_does_not_matter() -> None:
    order = np.random.default_rng(4).permutation(_UNITS)
    found = _compare(Side(_left().activations[:, order], _left().position, "cosine"))
    assert found.neighbourhood_agreement > 0.999
    assert found.shift.max() < 1e-3
    assert not found.kind.any()
    assert found.explained.min() > 0.999


def test_layers_that_have_nothing_in_common_agree_by_chance() -> None:
    other = _layer(5, np.random.default_rng(6).integers(0, _HEAPS, _SAMPLES))
    found = _compare(_side(other))
    chance = 15 / (_SAMPLES - 1)
    assert found.neighbourhood_agreement == pytest.approx(chance, abs=4 * np.sqrt(chance / (15 * _SAMPLES)))
    assert found.procrustes_distance > 0.95
    assert found.explained.max() < 0.02
    assert np.median(found.shift) > 0.1


def test_agreement_is_that_of_brute_force() -> None:
    other = _left().activations + 0.5 * np.random.default_rng(7).normal(size=(_SAMPLES, _UNITS)).astype(np.float32)
    found = _compare(Side(other, _left().position, "euclidean"))
    one = scipy.spatial.distance.cdist(_left().activations, _left().activations, "cosine")
    two = scipy.spatial.distance.cdist(other, other, "euclidean")
    for distances in (one, two):
        np.fill_diagonal(distances, np.inf)
    near = [np.argsort(distances, axis=1)[:, :15] for distances in (one, two)]
    shared = [len(np.intersect1d(a, b)) for a, b in zip(*near, strict=True)]
    assert found.neighbourhood_agreement == pytest.approx(np.mean(shared) / 15, abs=1e-3)


def test_heap_that_only_the_right_layer_tells_apart_appears_there() -> None:
    split = (_HEAP == 0) & (np.random.default_rng(8).random(_SAMPLES) < 0.5)
    right = _layer()
    right[split] = np.maximum(right[split] + 6 * np.random.default_rng(9).normal(size=_UNITS), 0).astype(np.float32)
    found = _compare(_side(right), grid=20)
    assert found.shift[split].min() > 3 * max(found.shift[~split].max(), 1e-3)
    appeared = found.row[found.kind == 2] * 20 + found.column[found.kind == 2]
    assert len(appeared)
    assert set(appeared) <= set(cell_ids(found.right[split], 20).tolist())
    assert not (found.kind == 1).any()


def test_swapped_sides_swap_what_appears_and_vanishes() -> None:
    right = _left().activations.copy()
    right[_HEAP == 0] += 4 * (np.arange(_UNITS) % 3 == 0)
    onward, backward = _compare(_side(right)), _compare(_left(), _side(right))
    assert onward.neighbourhood_agreement == pytest.approx(backward.neighbourhood_agreement, abs=1e-12)
    assert onward.procrustes_distance == pytest.approx(backward.procrustes_distance, abs=1e-12)
    assert np.array_equal(onward.explained, backward.explained[::-1])


def test_counts_change_and_kind_belong_together() -> None:
    found = _compare(_side(_layer(5, np.random.default_rng(6).integers(0, _HEAPS, _SAMPLES))))
    assert found.left_count.sum() == found.right_count.sum() == _SAMPLES
    for position, count in ((found.left, found.left_count), (found.right, found.right_count)):
        cells = np.bincount(cell_ids(position, 12), minlength=144)
        assert np.array_equal(cells[found.row * 12 + found.column], count)
    assert found.change == pytest.approx(np.log2((found.right_count + 0.5) / (found.left_count + 0.5)), abs=1e-6)
    assert (found.right_count[found.kind == 1] == 0).all()
    assert (found.left_count[found.kind == 2] == 0).all()
    assert {1, 2} <= set(found.kind.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_distance_of_layouts_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.random((50, 2))
    other = one @ rng.normal(size=(2, 2)) + 0.3 * rng.random((50, 2))
    assert procrustes_distance(one, other) == pytest.approx(scipy.spatial.procrustes(one, other)[2], abs=1e-12)


def test_distance_ignores_place_scale_turn_and_reflection() -> None:
    one = np.random.default_rng(0).random((30, 2))
    turn = np.array([[np.cos(1), np.sin(1)], [np.sin(1), -np.cos(1)]])
    assert procrustes_distance(one, 0.2 * one @ turn + 5) == pytest.approx(0, abs=1e-12)
    assert procrustes_distance(one, np.ones((30, 2))) == 1
    assert procrustes_distance(np.zeros((30, 2)), np.ones((30, 2))) == 0


def test_layers_of_other_widths_are_compared() -> None:
    wide = np.repeat(_left().activations, 2, axis=1)
    found = _compare(Side(wide, _left().position, "cosine"))
    assert found.neighbourhood_agreement > 0.999
    assert found.shift.max() < 0.01


def test_result_does_not_depend_on_threads() -> None:
    right = Side(_layer(5), _left().position, "cosine")
    one = _compare(right)
    two = compare(_left(), right, 12, _SETTINGS, 0, threads=2)
    for name, array in one.to_arrays().items():
        assert np.array_equal(array, two.to_arrays()[name]), name


def test_too_few_samples_are_refused() -> None:
    few = _left().some(np.arange(3))
    with pytest.raises(OrtoscopeError) as caught:
        _compare(few, few)
    assert caught.value.reason == "TOO_FEW_SHARED_SAMPLES"


def test_four_samples_are_enough() -> None:
    few = _left().some(np.arange(4))
    assert _compare(few, few).neighbourhood_agreement == 1


def test_cancellation_is_heeded() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(OrtoscopeError) as caught:
        compare(_left(), _left(), 12, _SETTINGS, 0, cancellation=cancellation)
    assert caught.value.reason == "CANCELLED"
