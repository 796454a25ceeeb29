"""Faithfulness of a layout against scikit-learn's trustworthiness and against ranking all pairs."""

import numpy as np
import pytest
from ortoscope_service.analysis.atlas.quality import layout_quality
from ortoscope_service.analysis.atlas.space import Metric

manifold = pytest.importorskip("sklearn.manifold")


def subject(samples: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(size=(samples, 12)) + rng.normal(size=12), 0).astype(np.float32)
    return values, (values[:, :2] + 0.2 * rng.normal(size=(samples, 2))).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 5, 15])
def test_with_every_sample_as_query_it_is_the_trustworthiness_of_scikit_learn(metric: Metric, k: int) -> None:
    values, position = subject(300)
    expected = manifold.trustworthiness(values.astype(np.float64), position, n_neighbors=k, metric=metric)
    found = layout_quality(values, position, 0, k=k, metric=metric)
    # Two distances that float32 cannot tell apart change a rank by one, the value by about 1e-5.
    assert found.trustworthiness == pytest.approx(expected, abs=1e-4)
    assert (found.queries, found.k) == (300, k)


def test_recall_is_the_share_of_common_neighbours() -> None:
    values, position = subject(200)

    def nearest(rows: np.ndarray) -> np.ndarray:
        apart = np.linalg.norm(rows[:, None].astype(np.float64) - rows, axis=2)
        np.fill_diagonal(apart, np.inf)
        return np.asarray(np.argsort(apart, axis=1)[:, :15])

    pairs = zip(nearest(values), nearest(position), strict=True)
    expected = np.mean([len(set(a) & set(b)) / 15 for a, b in pairs])
    found = layout_quality(values, position, 0, metric="euclidean")
    assert found.neighbourhood_recall == pytest.approx(expected, abs=1e-12)


def test_a_layout_that_is_the_data_is_perfect() -> None:
    position = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    found = layout_quality(position.astype(np.float32), position, 0, metric="euclidean")
    assert (found.trustworthiness, found.neighbourhood_recall) == (1, 1)


def test_queries_are_a_sample_and_threads_change_nothing() -> None:
    values, position = subject(9000)
    one = layout_quality(values, position, 3, queries=400)
    assert one.queries == 400
    assert one == layout_quality(values, position, 3, queries=400, threads=2)
    other = layout_quality(values, position, 4, queries=400)
    assert other.trustworthiness == pytest.approx(one.trustworthiness, abs=0.02)
    assert other != one


def test_few_samples_are_measured_with_fewer_neighbours() -> None:
    values, position = subject(4)
    found = layout_quality(values, position, 0)
    assert found.k == 1
    assert 0 <= found.trustworthiness <= 1


def test_equal_positions_are_defined() -> None:
    values, _ = subject(60)
    found = layout_quality(values, np.full((60, 2), 0.5, np.float32), 0)
    assert found.trustworthiness < 0.9
