"""The graph of neighbours against comparing all pairs in float64."""

from typing import Any

import numpy as np
import pytest
from ortoscope_service.analysis.atlas.neighbours import Neighbours, nearest_among, nearest_neighbours
from ortoscope_service.analysis.atlas.parallel import Threads
from ortoscope_service.analysis.atlas.space import Metric, Space


def distances(values: np.ndarray, metric: str) -> np.ndarray:
    """All pairs' distances in float64, (N, N)."""
    rows = values.astype(np.float64)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(1 - rows @ rows.T)
    return np.asarray(np.linalg.norm(rows[:, None] - rows[None], axis=2))


def graph(
    values: np.ndarray, k: int, metric: Metric, *, components: int = 0, threads: int = 1, **arguments: Any
) -> Neighbours:
    with Threads(threads) as pool:
        space = Space.of(values, np.arange(len(values)), metric, components, pool)
        vectors = space.vectors(values)
        return nearest_neighbours(space.coordinates(vectors), space, k, 0, pool, **arguments)


def relu(samples: int, units: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(12, units))
    return np.maximum(centre[rng.integers(12, size=samples)] + 0.5 * rng.normal(size=(samples, units)), 0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_every_neighbour_is_the_true_one(metric: Metric, kind: type[np.floating[Any]]) -> None:
    values = relu(1500, 24).astype(kind)
    found = graph(values, 20, metric, threads=2)
    true = distances(values, metric)
    np.fill_diagonal(true, -1)
    expected = np.argsort(true, axis=1, kind="stable")[:, :20]
    assert np.array_equal(found.index, expected)
    own = np.take_along_axis(true, expected, 1)
    own[:, 0] = 0
    np.testing.assert_allclose(found.distance, own, rtol=2e-4, atol=1e-6)
    assert found.recall == 1


def test_one_and_two_threads_give_the_same_bytes() -> None:
    values = relu(3000, 40).astype(np.float32)
    for most in (3000, 500):
        one, two = (graph(values, 15, "cosine", components=8, threads=n, exact_up_to=most) for n in (1, 2))
        assert one.index.tobytes() == two.index.tobytes()
        assert one.distance.tobytes() == two.distance.tobytes()
        assert one.recall == two.recall


def test_samples_in_another_order_have_the_same_neighbours() -> None:
    values = relu(700, 16).astype(np.float32)
    order = np.random.default_rng(3).permutation(700)
    plain, permuted = graph(values, 10, "cosine"), graph(values[order], 10, "cosine")
    assert np.array_equal(order[permuted.index], plain.index[order])


def test_cells_find_nearly_all_where_there_are_too_many_samples_to_compare_all_pairs() -> None:
    values = relu(30_000, 12).astype(np.float32)
    found = graph(values, 10, "euclidean", exact_up_to=1000, threads=2)
    assert 0.97 < found.recall <= 1
    rows = np.random.default_rng(0).choice(30_000, 100, replace=False)
    true = np.linalg.norm(values[rows, None].astype(np.float64) - values, axis=2)
    expected = np.argsort(true, axis=1)[:, :10]
    hits = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.index[rows], expected, strict=True)])
    assert found.recall == pytest.approx(hits, abs=0.02)


def test_a_sample_with_equals_is_still_its_own_first_neighbour() -> None:
    values = np.repeat(relu(10, 6), 8, axis=0).astype(np.float32)
    found = graph(values, 5, "cosine")
    assert np.array_equal(found.index[:, 0], np.arange(80))
    assert (found.index // 8 == np.arange(80)[:, None] // 8).all()
    assert all(len(set(row)) == 5 for row in found.index.tolist())
    assert not found.distance.any()


def test_all_of_few_samples_are_neighbours() -> None:
    values = relu(5, 7).astype(np.float32)
    assert np.array_equal(np.sort(graph(values, 5, "euclidean", components=2).index, axis=1), [range(5)] * 5)


def test_nearest_among_others_is_what_comparing_all_pairs_gives() -> None:
    rng = np.random.default_rng(0)
    queries, points = rng.normal(size=(70, 5)).astype(np.float32), rng.normal(size=(200, 5)).astype(np.float32)
    with Threads(2) as pool:
        index, squared = nearest_among(queries, points, 7, pool)
    true = np.square(queries[:, None].astype(np.float64) - points).sum(axis=2)
    assert np.array_equal(index, np.argsort(true, axis=1)[:, :7])
    np.testing.assert_allclose(squared, np.sort(true, axis=1)[:, :7], rtol=1e-5)


def test_coordinates_never_lengthen_a_distance() -> None:
    values = relu(200, 20).astype(np.float32)
    with Threads(1) as pool:
        space = Space.of(values, np.arange(200), "cosine", 5, pool)
    vectors = space.vectors(values)
    coordinates = space.coordinates(vectors)
    assert coordinates.shape == (200, 6)
    true = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    assert (np.linalg.norm(coordinates[:, None] - coordinates, axis=2) <= true + 1e-4).all()
