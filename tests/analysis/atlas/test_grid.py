"""The cells of a level, against counting, averaging and comparing sample by sample."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.analysis.atlas import grid as grid_module
from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.grid import GridSettings, cell_ids, cells_of, sample_weights
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation

GRIDS = st.integers(2, 320)


def edge(k: int, grid: int) -> float:
    """The float64 closest to k / grid."""
    return float(Fraction(k, grid))


@given(grid=GRIDS, data=st.data())
def test_an_edge_belongs_to_the_bin_that_begins_there_and_one_to_the_last(grid: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, grid))
    at = edge(k, grid)
    before, after = np.nextafter(at, -1), np.nextafter(at, 2)
    assert cell_ids([[at, 0.0]], grid).tolist() == [min(k, grid - 1)]
    if k:
        assert cell_ids([[before, 0.0]], grid).tolist() == [k - 1]
    if k < grid:
        assert cell_ids([[after, 0.0]], grid).tolist() == [k]


@given(
    points=st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 2), min_size=1, max_size=30),
    grid=GRIDS,
)
def test_every_sample_is_in_exactly_one_cell_and_that_one_surrounds_it(
    points: list[tuple[float, float]], grid: int
) -> None:
    ids = cell_ids(np.array(points, np.float32), grid)
    for (x, y), cell in zip(points, ids.tolist(), strict=True):
        for at, k in ((x, cell % grid), (y, cell // grid)):
            assert edge(k, grid) <= at
            assert at < edge(k + 1, grid) or (at == 1 and k == grid - 1)


@given(points=st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=30), grid=st.integers(2, 160))
def test_a_level_of_twice_the_cells_halves_each(points: list[tuple[float, float]], grid: int) -> None:
    coarse, fine = cell_ids(points, grid), cell_ids(points, 2 * grid)
    halved = (fine // (2 * grid) // 2) * grid + fine % (2 * grid) // 2
    np.testing.assert_array_equal(coarse, halved)


@pytest.mark.parametrize("outside", [-1e-9, 1.0001, np.nan, np.inf])
def test_positions_outside_of_the_layout_are_refused(outside: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        cell_ids([[0.5, outside]], 10)


def made_up(seed: int, count: int = 300, units: int = 5, classes: int = 4) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "activations": (random.gamma(0.5, size=(count, units)) * 3).astype(np.float16),
        "image": random.integers(0, count // 3, count),
        "position": random.random((count, 2)).astype(np.float32) ** 2,
        "weight": random.integers(1, 4, count),
        "attribution": random.normal(size=(count, classes)).astype(np.float16),
    }


def cells_one_by_one(samples: dict[str, Any], grid: int, least: int) -> list[dict[str, Any]]:
    """What the contract says of each cell, with plain loops in float64."""
    cells = []
    x, y = np.floor(samples["position"].astype(np.float64) * grid).T.astype(int)
    for row in range(grid):
        for column in range(grid):
            inside = [n for n in range(len(x)) if (y[n], x[n]) == (row, column)]
            count = sum(int(samples["weight"][n]) for n in inside)
            if not inside or count < least:
                continue
            weights = samples["weight"][inside].astype(np.float64)
            rows = samples["activations"][inside].astype(np.float64)
            mean = (rows * weights[:, None]).sum(axis=0) / count
            cosine = rows @ mean / np.linalg.norm(rows, axis=1) / np.linalg.norm(mean)
            attribution = samples["attribution"][inside].astype(np.float64)
            ranked = sorted(zip(-cosine, inside, strict=True))
            images, chosen = set(), []
            for _, n in ranked:
                if samples["image"][n] not in images:
                    images.add(samples["image"][n])
                    chosen.append(n)
            chosen = chosen[:4]
            chosen += [n for _, n in ranked if n not in chosen][: 4 - len(chosen)]
            winners = {}
            for n, line in zip(inside, attribution, strict=True):
                winners[int(line.argmax())] = winners.get(int(line.argmax()), 0) + int(samples["weight"][n])
            cells.append(
                {
                    "place": (row, column),
                    "count": count,
                    "mean": mean,
                    "dispersion": 1 - (cosine * weights).sum() / count,
                    "nearest": sorted(chosen, key=[n for _, n in ranked].index) + [-1] * (4 - len(chosen)),
                    "attribution": (attribution * weights[:, None]).sum(axis=0) / count,
                    "winners": winners,
                }
            )
    return cells


@pytest.mark.parametrize(("grid", "least"), [(2, 1), (7, 1), (7, 9), (20, 2)])
def test_cells_are_those_found_sample_by_sample(grid: int, least: int) -> None:
    samples = made_up(grid)
    cells = cells_of(grid=grid, settings=GridSettings(min_density=least), **samples)
    expected = cells_one_by_one(samples, grid, least)
    assert list(zip(cells.row.tolist(), cells.column.tolist(), strict=True)) == [cell["place"] for cell in expected]
    assert cells.count.tolist() == [cell["count"] for cell in expected]
    np.testing.assert_allclose(cells.mean, [cell["mean"] for cell in expected], rtol=1e-6)
    np.testing.assert_allclose(cells.dispersion, [cell["dispersion"] for cell in expected], atol=1e-6)
    np.testing.assert_allclose(cells.attribution, [cell["attribution"] for cell in expected], atol=1e-6)
    np.testing.assert_array_equal(cells.nearest, [cell["nearest"] for cell in expected])
    winners = [
        (number, kind, cell["winners"][kind])
        for number, cell in enumerate(expected)
        for kind in sorted(cell["winners"])
    ]
    assert list(zip(cells.winner_cell, cells.winner_class, cells.winner_count, strict=True)) == winners


def test_small_blocks_give_the_same_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = made_up(1)
    whole = cells_of(grid=6, settings=GridSettings(), **samples)
    monkeypatch.setattr(grid_module, "_NUMBERS_AT_ONCE", 35)
    parts = cells_of(grid=6, settings=GridSettings(), **samples)
    for name, array in whole.to_arrays().items():
        np.testing.assert_allclose(parts.to_arrays()[name], array, rtol=1e-6, err_msg=name)


def test_a_weight_is_as_good_as_that_many_samples() -> None:
    samples = made_up(2)
    weighted = cells_of(grid=5, settings=GridSettings(), **samples)
    repeated = {
        name: np.repeat(array, samples["weight"], axis=0) for name, array in samples.items() if name != "weight"
    }
    each = cells_of(grid=5, settings=GridSettings(), **repeated)
    for name in ("row", "column", "count", "winner_cell", "winner_class", "winner_count"):
        np.testing.assert_array_equal(getattr(weighted, name), getattr(each, name))
    for name in ("mean", "dispersion", "attribution"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(each, name), atol=1e-6)


def test_duplicates_weigh_with_the_first_of_them() -> None:
    duplicate_of = np.array([-1, -1, 0, 1, 0, -1])
    assert sample_weights(np.array([0, 1, 5]), duplicate_of).tolist() == [3, 2, 1]
    assert sample_weights(np.array([1, 5]), duplicate_of).tolist() == [2, 1]


def test_samples_of_one_direction_have_no_dispersion_and_opposite_ones_the_most() -> None:
    direction = np.array([3, 4], np.float32)
    activations = np.stack([direction, 2 * direction, direction, -direction])
    position = np.array([[0.1, 0.1], [0.2, 0.2], [0.9, 0.9], [0.8, 0.9]], np.float32)
    cells = cells_of(activations, np.arange(4), position, 2, GridSettings())
    np.testing.assert_allclose(cells.dispersion, [0, 1], atol=1e-7)
    np.testing.assert_allclose(cells.mean, [1.5 * direction, [0, 0]])
    assert cells.attribution is None
    assert cells.winner_cell is None


def test_the_nearest_are_of_different_images_as_far_as_possible() -> None:
    angles = np.radians([0, 1, -2, 4, -6, 9])
    activations = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    position = np.full((6, 2), 0.1, np.float32)
    cells = cells_of(activations, np.array([5, 5, 5, 7, 7, 7]), position, 2, GridSettings())
    # The mean lies at 1 degree: closest are samples 1, 0, then 2 and 3, of which 3 is of another image than 1.
    mean = np.degrees(np.arctan2(*activations.mean(axis=0)[::-1]))
    by_distance = np.argsort(np.abs(np.degrees(angles) - mean), kind="stable").tolist()
    first_of = [next(n for n in by_distance if n < 3), next(n for n in by_distance if n >= 3)]
    assert set(first_of) <= set(cells.nearest[0].tolist())
    assert len(set(cells.nearest[0].tolist())) == 4


@pytest.mark.parametrize("grids", [(4, 8), (3, 7), (20, 40), (2, 5)])
def test_the_parent_holds_the_centre_or_is_the_closest(grids: tuple[int, int]) -> None:
    samples = made_up(sum(grids), count=120)
    coarse = cells_of(grid=grids[0], settings=GridSettings(min_density=5), **samples)
    fine = cells_of(grid=grids[1], settings=GridSettings(), parent=coarse, **samples)
    assert coarse.parent.tolist() == [-1] * len(coarse)
    for row, column, parent in zip(fine.row.tolist(), fine.column.tolist(), fine.parent.tolist(), strict=True):
        centre = [Fraction(2 * k + 1, 2 * grids[1]) for k in (row, column)]
        holding = [int(at * grids[0]) for at in centre]
        distances = []
        for number, place in enumerate(zip(coarse.row.tolist(), coarse.column.tolist(), strict=True)):
            if list(place) == holding:
                assert parent == number
                break
            away = [at - Fraction(2 * k + 1, 2 * grids[0]) for at, k in zip(centre, place, strict=True)]
            distances.append((away[0] ** 2 + away[1] ** 2, number))
        else:
            assert parent == min(distances)[1]


def test_cells_travel_as_arrays_under_the_names_of_the_contract() -> None:
    cells = cells_of(grid=4, settings=GridSettings(), **made_up(9))
    arrays = cells.to_arrays()
    named = "row column count mean dispersion nearest crop parent attribution winner_cell winner_class winner_count"
    assert set(arrays) == {"grid", *named.split()}
    types = {
        name: str(arrays[name].dtype) for name in ("row", "count", "mean", "dispersion", "nearest", "crop", "parent")
    }
    assert types == {
        "row": "int32",
        "count": "int64",
        "mean": "float32",
        "dispersion": "float32",
        "nearest": "int64",
        "crop": "int32",
        "parent": "int32",
    }
    back = Cells.from_arrays(arrays)
    assert back.grid == 4
    assert back.score is None
    for name, array in back.to_arrays().items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_grid_whose_cells_are_all_too_thin_is_refused() -> None:
    with pytest.raises(OrtoscopeError) as caught:
        cells_of(grid=20, settings=GridSettings(min_density=1000), **made_up(4))
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "NO_CELLS")
    assert caught.value.metadata == {"grid": "20", "min_density": "1000"}


def test_cells_can_be_cancelled() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(OrtoscopeError) as caught:
        cells_of(grid=4, settings=GridSettings(), cancellation=cancellation, **made_up(4))
    assert caught.value.code is Code.CANCELLED


@pytest.mark.parametrize(
    "wrong", [{"min_density": 0}, {"crop_size": 8}, {"crop_size": 257}, {"most_crops": -1}, {"quality": 101}]
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        GridSettings(**wrong)
    (name,) = wrong
    assert (caught.value.reason, caught.value.field) == ("INVALID_SETTING", f"settings.grid.{name}")
