"""Placing samples in an atlas and telling drift, against SciPy's statistics and simulations whose truth is known."""

from functools import cache

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from ortoscope_service.analysis.atlas.grid import cell_ids
from ortoscope_service.analysis.atlas.layout import Layout, LayoutSettings, lay_out
from ortoscope_service.analysis.atlas.projection import (
    LevelCells,
    Projection,
    density_ratios,
    project,
    wilson,
)
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation

_CENTRES = 2 * np.random.default_rng(5).normal(size=(10, 24))
_SAMPLES = 2500


def _mixture(count: int, seed: int, share_of_first: float = 0.1) -> NDArray[np.float32]:
    """Samples of ten heaps, of which the first has another share."""
    rng = np.random.default_rng(seed)
    rest = (1 - share_of_first) / (len(_CENTRES) - 1)
    heap = rng.choice(len(_CENTRES), count, p=[share_of_first] + [rest] * (len(_CENTRES) - 1))
    return (_CENTRES[heap] + rng.normal(size=(count, _CENTRES.shape[1]))).astype(np.float32)


@cache
def _atlas(seed: int = 0) -> Layout:
    settings = LayoutSettings(n_neighbors=15, n_epochs=60, components=0)
    return lay_out(_mixture(_SAMPLES, 100 + seed), settings, seed)


def _level(layout: Layout, grid: int) -> LevelCells:
    row, column = np.divmod(np.unique(cell_ids(layout.position, grid)), grid)
    return LevelCells(grid, row.astype(np.int32), column.astype(np.int32))


def _project(samples: NDArray[np.float32], atlas: Layout, *grids: int) -> Projection:
    return project(
        samples, np.arange(len(samples)), atlas.frame, _landmarks(atlas), [_level(atlas, grid) for grid in grids], 0
    )


def _landmarks(atlas: Layout) -> NDArray[np.int64]:
    """Each landmark is of an image of its own."""
    return np.arange(len(atlas.landmark))


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (1, 10), (37, 500), (500, 500), (1, 1)])
def test_share_and_interval_are_those_of_scipy(hits: int, trials: int) -> None:
    found = wilson(hits, trials)
    expected = scipy.stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert (found.rate, found.low, found.high) == pytest.approx((hits / trials, expected.low, expected.high), abs=1e-12)


def test_density_interval_and_test_are_the_exact_conditional_ones_of_scipy() -> None:
    count, reference = np.array([0, 3, 40, 5, 7]), np.array([8, 0, 35, 5, 90])
    found = density_ratios(count, 200, reference, 300)
    for cell, (first, second) in enumerate(zip(count.tolist(), reference.tolist(), strict=True)):
        exact = scipy.stats.binomtest(first, first + second).proportion_ci(method="exact")
        low, high = (1.5 * end / (1 - end) if end < 1 else np.inf for end in (exact.low, exact.high))
        assert (found.low[cell], found.high[cell]) == pytest.approx((low, high))
        tails = [
            scipy.stats.binomtest(first, first + second, 200 / 500, alternative=side).pvalue
            for side in ("less", "greater")
        ]
        assert found.p[cell] == pytest.approx(min(1.0, 2 * min(tails)))
    assert found.ratio[1] == np.inf
    assert found.ratio[[0, 2, 3]] == pytest.approx([0, 40 / 35 * 1.5, 1.5])


def test_cell_that_neither_has_tells_nothing() -> None:
    found = density_ratios(np.array([0]), 10, np.array([0]), 10)
    assert np.isnan(found.ratio[0])
    assert (found.low[0], found.high[0], found.p[0], found.changed[0]) == (0, np.inf, 1, False)


def test_test_rejects_exactly_where_the_interval_excludes_one() -> None:
    rng = np.random.default_rng(1)
    count, reference = rng.integers(0, 60, 2000), rng.integers(0, 60, 2000)
    found = density_ratios(count, 1234, reference, 987)
    assert np.array_equal(found.p < 0.05, (found.low > 1) | (found.high < 1))


@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.2])
def test_interval_holds_the_true_ratio_in_at_least_95_of_100_cases(ratio: float, share: float) -> None:
    rng, cases = np.random.default_rng(2), 4000
    reference = rng.binomial(3000, share, cases)
    count = rng.binomial(2000, ratio * share, cases)
    found = density_ratios(count, 2000, reference, 3000)
    held = np.mean((found.low <= ratio) & (ratio <= found.high))
    assert held >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / cases)


def test_correction_for_many_cells_is_that_of_benjamini_and_hochberg() -> None:
    rng = np.random.default_rng(3)
    count, reference = rng.poisson(np.where(np.arange(200) < 20, 60, 20)), rng.poisson(20, 200)
    found = density_ratios(count, 4000, reference, 4000)
    order = np.argsort(found.p)
    passed = np.flatnonzero(found.p[order] <= 0.05 * np.arange(1, 201) / 200)
    expected = np.zeros(200, bool)
    expected[order[: passed[-1] + 1]] = True
    assert np.array_equal(found.changed, expected)
    assert found.changed[:20].sum() >= 15


def test_samples_of_the_atlas_itself_have_the_density_of_the_atlas() -> None:
    found = _project(_mixture(_SAMPLES, 100), _atlas(), 10, 20)
    assert np.array_equal(found.position, _atlas().position)
    assert not found.distance.any()
    for level in found.levels:
        assert np.array_equal(level.count, level.reference)
        assert level.count.sum() == _SAMPLES
        filled = level.count > 0
        assert (level.density.ratio[filled] == 1).all()
    assert found.changed_cells == 0


def test_without_drift_false_alarms_are_as_rare_as_stated() -> None:
    rejected, cells, alarms, off_map = 0, 0, 0, []
    for seed in range(6):
        found = _project(_mixture(2000, 200 + seed), _atlas(seed % 3), 10, 20, 40)
        off_map.append(found.off_map.mean())
        for level in found.levels:
            told = level.count + level.reference >= 12
            rejected += int((level.density.p[told] < 0.05).sum())
            cells += int(told.sum())
            alarms += bool(level.density.changed.any())
    assert cells > 500
    assert rejected / cells <= 0.05
    assert alarms <= 2  # of 18 levels, of which one in 20 may have any
    assert 0.005 < np.mean(off_map) < 0.02


def test_samples_of_one_image_that_are_alike_do_not_look_like_drift() -> None:
    sites, settings = 6, LayoutSettings(n_neighbors=15, n_epochs=60, components=0)
    image = np.repeat(np.arange(300), sites)
    rejected, told, off_map = 0, 0, []
    for seed in range(4):
        rng = np.random.default_rng(500 + seed)
        own, new = (
            _mixture(300, 500 + 10 * seed + set_)[image] + 0.3 * rng.normal(size=(len(image), 24)).astype(np.float32)
            for set_ in range(2)
        )
        atlas = lay_out(own, settings, seed)
        found = project(new, image, atlas.frame, image, [_level(atlas, grid) for grid in (5, 10)], 0)
        itself = project(own, image, atlas.frame, image, [_level(atlas, 10)], 0)
        assert np.array_equal(itself.levels[0].count, itself.levels[0].reference)
        off_map.append(found.off_map_rate)
        for level in found.levels:
            enough = level.count + level.reference >= 12 * sites
            rejected += int((level.density.p[enough] < 0.05).sum())
            told += int(enough.sum())
    assert told > 100
    assert rejected / told <= 0.06
    assert np.mean([rate.rate for rate in off_map]) < 0.03
    assert all(rate.low <= 0.01 <= rate.high for rate in off_map)


def test_design_effect_divides_counts_in_interval_and_test() -> None:
    count, reference = np.array([12, 30]), np.array([24, 6])
    plain = density_ratios(count // 6, 50, reference // 6, 60)
    clustered = density_ratios(count, 300, reference, 360, np.full(2, 6.0))
    for name in ("ratio", "low", "high", "p"):
        assert getattr(clustered, name) == pytest.approx(getattr(plain, name))
    rates = wilson(5, 40), wilson(30, 240, 6.0)
    assert (rates[0].low, rates[0].high) == pytest.approx((rates[1].low, rates[1].high))


def test_a_heap_that_grew_is_found_and_its_growth_is_in_the_interval() -> None:
    atlas, samples = _atlas(), _mixture(3000, 300, share_of_first=0.2)
    (level,) = _project(samples, atlas, 10).levels
    first = _mixture(_SAMPLES, 100)
    nearest_heap = np.argmin(((first[:, None] - _CENTRES) ** 2).sum(axis=2), axis=1)
    cells = _level(atlas, 10)
    at = cells.row * 10 + cells.column
    inside = np.isin(at, np.unique(cell_ids(atlas.position[nearest_heap == 0], 10)))
    pure = inside & ~np.isin(at, np.unique(cell_ids(atlas.position[nearest_heap != 0], 10)))
    assert pure.any()
    full = pure & (level.reference >= 50)
    assert full.any()
    assert level.density.changed[full].all()
    assert (level.density.low[full] > 1).all()
    # The heap's share doubled; each of its cells tells that within its interval, but for one in twenty.
    assert np.mean((level.density.low[pure] <= 2) & (level.density.high[pure] >= 2)) >= 0.75
    # All others shrank to 8/9 of their share, which no interval may deny by excluding it from above.
    other = ~inside & (level.reference >= 50)
    assert not (level.density.low[other] > 1).any()


def test_samples_of_another_kind_are_off_the_map() -> None:
    strange = np.random.default_rng(9).normal(size=(400, 24)).astype(np.float32)
    found = _project(strange, _atlas(), 10)
    assert found.off_map_rate.rate > 0.5
    assert found.off_map_rate.low < found.off_map.mean() == found.off_map_rate.rate <= found.off_map_rate.high


def test_result_is_the_same_with_more_threads_and_in_any_order() -> None:
    samples = _mixture(1500, 400)
    cells = [_level(_atlas(), 20)]
    image, landmarks = np.arange(1500), _landmarks(_atlas())
    one = project(samples, image, _atlas().frame, landmarks, cells, 0)
    two = project(samples[::-1].copy(), image[::-1], _atlas().frame, landmarks, cells, 0, threads=2)
    assert np.array_equal(one.position, two.position[::-1])
    assert np.array_equal(one.levels[0].count, two.levels[0].count)
    names = {f"cells_20_{name}" for name in ("count", "reference", "ratio", "low", "high", "p", "changed")}
    assert set(one.to_arrays()) == {"position", "off_map", "distance", "references"} | names


def test_nothing_to_place_is_refused() -> None:
    with pytest.raises(OrtoscopeError) as caught:
        _project(np.empty((0, 24), np.float32), _atlas(), 10)
    assert caught.value.reason == "NO_SAMPLES"


def test_samples_of_another_tap_are_refused() -> None:
    with pytest.raises(OrtoscopeError) as caught:
        _project(np.ones((3, 7), np.float32), _atlas(), 10)
    assert caught.value.reason == "SHAPE_MISMATCH"


def test_cancellation_is_heeded() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(OrtoscopeError) as caught:
        project(_mixture(10, 0), np.arange(10), _atlas().frame, _landmarks(_atlas()), [], 0, cancellation=cancellation)
    assert caught.value.reason == "CANCELLED"
