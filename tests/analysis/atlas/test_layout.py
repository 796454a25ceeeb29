"""Layouts of manifolds that are known, of samples that are few or equal, and the same bytes for the same seed."""

import importlib
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from ortoscope_service.analysis.atlas import layout_kernel
from ortoscope_service.analysis.atlas.fuzzy_graph import curve_of, fuzzy_union, memberships
from ortoscope_service.analysis.atlas.layout import Layout, LayoutSettings, lay_out
from ortoscope_service.analysis.atlas.parallel import Threads
from ortoscope_service.analysis.atlas.quality import layout_quality
from ortoscope_service.analysis.atlas.scaling import equalized, into_unit_square
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation


def clusters(samples: int, count: int = 6, units: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Samples about some centres, and which each is of."""
    rng = np.random.default_rng(0)
    owner = rng.integers(count, size=samples)
    centre = 4 * rng.normal(size=(count, units))
    return (centre[owner] + rng.normal(size=(samples, units))).astype(np.float32), owner


def turned(values: np.ndarray, units: int = 24) -> np.ndarray:
    """Values in a space of more units, every distance kept."""
    basis = np.linalg.qr(np.random.default_rng(7).normal(size=(units, units)))[0][:, : values.shape[1]]
    return np.asarray(values @ basis.T, np.float32)


def nearest(position: np.ndarray) -> np.ndarray:
    """The nearest other sample of each in the plane, by comparing all pairs."""
    apart = np.linalg.norm(position[:, None].astype(np.float64) - position, axis=2)
    np.fill_diagonal(apart, np.inf)
    return np.asarray(apart.argmin(axis=1))


def laid_out(values: np.ndarray, seed: int = 0, threads: int = 1, **settings: Any) -> Layout:
    return lay_out(values, LayoutSettings(**settings), seed, threads=threads)


def test_samples_of_a_cluster_have_neighbours_of_it() -> None:
    values, owner = clusters(600)
    for metric in ("cosine", "euclidean"):
        position = laid_out(values, n_neighbors=15, metric=metric, n_epochs=200).position
        assert (owner[nearest(position)] == owner).mean() > 0.99
        assert position.shape == (600, 2)
        assert position.dtype == np.float32
        assert position.min() >= 0
        assert position.max() <= 1


@pytest.mark.parametrize("init", ["pca", "spectral", "random"])
def test_a_circle_stays_in_order(init: str) -> None:
    angle = np.sort(np.random.default_rng(0).uniform(0, 2 * np.pi, 500))
    values = turned(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    position = laid_out(values, n_neighbors=15, metric="euclidean", init=init, n_epochs=300, components=8).position
    ahead = np.abs(nearest(position) - np.arange(500))
    assert (np.minimum(ahead, 500 - ahead) <= 15).mean() > 0.99


def test_a_swiss_roll_keeps_its_neighbourhoods() -> None:
    rng = np.random.default_rng(0)
    turn, height = rng.uniform(1.5 * np.pi, 4.5 * np.pi, 1500), rng.uniform(0, 20, 1500)
    values = turned(np.stack([turn * np.cos(turn), height, turn * np.sin(turn)], axis=1))
    position = laid_out(values, n_neighbors=15, metric="euclidean", n_epochs=200).position
    found = layout_quality(values, position, 0, metric="euclidean")
    assert found.trustworthiness > 0.98
    assert found.neighbourhood_recall > 0.5
    # Neighbours in the plane are so along the roll, not from one turn to the next.
    assert (np.abs(turn[nearest(position)] - turn) < 1).mean() > 0.97


@pytest.mark.parametrize("settings", [{}, {"landmarks": 300}, {"init": "spectral", "metric": "euclidean"}])
def test_the_same_seed_gives_the_same_bytes_with_one_and_two_threads(settings: dict[str, Any]) -> None:
    values, _ = clusters(900)
    values = values.astype(np.float16)
    settings = {"n_neighbors": 10, "n_epochs": 30, "components": 6, **settings}
    one, two = (laid_out(values, 5, threads, **settings) for threads in (1, 2))
    assert one.position.tobytes() == two.position.tobytes()
    assert all(a.tobytes() == two.frame.to_arrays()[name].tobytes() for name, a in one.frame.to_arrays().items())
    assert laid_out(values, 6, **settings).position.tobytes() != one.position.tobytes()


def test_float16_activations_are_laid_out_as_the_same_numbers_in_float32() -> None:
    values = clusters(200)[0].astype(np.float16)
    narrow, wide = (laid_out(v, n_epochs=20).position for v in (values, values.astype(np.float32)))
    assert narrow.tobytes() == wide.tobytes()


@pytest.mark.long
def test_neighbourhoods_are_kept_as_well_as_by_umap_learn() -> None:
    pytest.importorskip("umap")
    values = np.maximum(clusters(1200, 20)[0], 0)
    settings: dict[str, Any] = {"n_neighbors": 15, "n_epochs": 200}
    own, theirs = (
        layout_quality(values, laid_out(values, engine=engine, **settings).position, 0)
        for engine in ("own", "umap-learn")
    )
    assert own.trustworthiness > theirs.trustworthiness - 0.01
    assert own.neighbourhood_recall > theirs.neighbourhood_recall - 0.02


@pytest.mark.long
def test_umap_learn_gives_the_same_bytes_for_a_seed() -> None:
    pytest.importorskip("umap")
    values, owner = clusters(200)
    settings = {"engine": "umap-learn", "n_neighbors": 10, "n_epochs": 50}
    one, two = (laid_out(values, 3, threads, **settings) for threads in (1, 2))
    assert one.position.tobytes() == two.position.tobytes()
    assert (owner[nearest(one.position)] == owner).mean() > 0.95


def test_t_sne_separates_clusters_the_same_way_each_time() -> None:
    pytest.importorskip("openTSNE")
    values, owner = clusters(250)
    settings = {"method": "tsne", "perplexity": 15.0, "n_epochs": 150}
    one, two = (laid_out(values, 3, threads, **settings) for threads in (1, 2))
    assert one.position.tobytes() == two.position.tobytes()
    assert (owner[nearest(one.position)] == owner).mean() > 0.95


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        if name in ("umap", "openTSNE"):
            raise ImportError(name)
        return found(name)

    found = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", missing)
    umap, tsne = LayoutSettings(engine="umap-learn"), LayoutSettings(method="tsne")
    for settings, package in ((umap, "umap-learn"), (tsne, "openTSNE")):
        with pytest.raises(OrtoscopeError) as error:
            lay_out(clusters(20)[0], settings, 0)
        assert error.value.reason == "LAYOUT_LIBRARY_MISSING"
        assert error.value.code is Code.FAILED_PRECONDITION
        assert package in error.value.message


@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_too_few_samples_are_refused(samples: int) -> None:
    with pytest.raises(OrtoscopeError) as error:
        laid_out(np.eye(4, dtype=np.float32)[:samples])
    assert error.value.reason == "TOO_FEW_SAMPLES"
    assert error.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("samples", [4, 5, 10, 49])
@pytest.mark.parametrize("units", [1, 2, 40])
@pytest.mark.parametrize("init", ["pca", "spectral"])
def test_fewer_samples_than_neighbours_are_laid_out(samples: int, units: int, metric: str, init: str) -> None:
    values = np.random.default_rng(samples).normal(size=(samples, units)).astype(np.float16)
    values[0] = 0
    found = laid_out(values, metric=metric, init=init, n_epochs=50)
    assert np.isfinite(found.position).all()
    assert len(np.unique(found.position, axis=0)) == samples


@pytest.mark.parametrize("settings", [{"engine": "umap-learn"}, {"method": "tsne"}])
@pytest.mark.parametrize("samples", [4, 10])
@pytest.mark.parametrize("units", [1, 20])
def test_libraries_lay_out_few_samples_too(samples: int, units: int, settings: dict[str, Any]) -> None:
    pytest.importorskip("umap")
    pytest.importorskip("openTSNE")
    values = np.random.default_rng(samples).normal(size=(samples, units)).astype(np.float32)
    found = laid_out(values, metric="euclidean", n_epochs=20, **settings)
    assert np.isfinite(found.position).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equal_activations_are_refused(metric: str) -> None:
    values = np.tile(np.array([[0.1, 3.3, 7.7]], np.float32), (30, 1))
    with pytest.raises(OrtoscopeError) as error:
        laid_out(values, metric=metric)
    assert error.value.reason == "ACTIVATIONS_EQUAL"


def test_multiples_of_one_vector_are_equal_for_cosine_alone() -> None:
    values = np.array([[1.0, 2.0]], np.float32) * np.arange(1, 31, dtype=np.float32)[:, None]
    with pytest.raises(OrtoscopeError, match="equal"):
        laid_out(values)
    assert np.isfinite(laid_out(values, metric="euclidean", n_epochs=10).position).all()


def test_zero_and_equal_vectors_among_others_are_laid_out() -> None:
    values = clusters(200)[0]
    values[:40] = 0
    values[50:100] = values[50]
    assert np.isfinite(laid_out(values, n_neighbors=10, n_epochs=50).position).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("landmarks", [100, 50])
def test_what_is_not_finite_is_refused(value: float, landmarks: int) -> None:
    values = clusters(100)[0]
    values[:, 5] = value
    with pytest.raises(OrtoscopeError) as error:
        laid_out(values, landmarks=landmarks)
    assert error.value.reason == "ACTIVATIONS_NOT_FINITE"


def test_numbers_at_the_ends_of_their_range_are_laid_out() -> None:
    values, owner = clusters(200)
    for scale in (1e-30, 1e30):
        position = laid_out((values * scale).astype(np.float32), n_neighbors=10, n_epochs=100).position
        assert (owner[nearest(position)] == owner).mean() > 0.95


def test_a_cancelled_layout_stops() -> None:
    cancellation = Cancellation()

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "layout" and done == 3:
            cancellation.cancel()

    with pytest.raises(OrtoscopeError) as error:
        lay_out(clusters(100)[0], LayoutSettings(), 0, progress=progress, cancellation=cancellation)
    assert error.value.code is Code.CANCELLED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_neighbors", 1), ("min_dist", -0.1), ("min_dist", 2.0), ("spread", 0.0), ("metric", "manhattan"),
        ("n_epochs", -1), ("learning_rate", 0.0), ("set_op_mix_ratio", 1.1), ("init", "tswspectral"), ("landmarks", 3),
        ("method", "pacmap"), ("perplexity", 0.5), ("engine", "cuml"), ("components", -1),
        ("repulsion_strength", float("nan")),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OrtoscopeError) as error:
        LayoutSettings(**{name: value})
    assert error.value.reason == "INVALID_SETTING"
    assert error.value.field == f"settings.layout.{name}"


def test_epochs_are_those_of_umap_learn_unless_given() -> None:
    assert [LayoutSettings().epochs(n) for n in (10_000, 10_001)] == [500, 200]
    assert LayoutSettings(n_epochs=7).epochs(99) == 7


def test_strengths_sum_to_the_logarithm_of_the_neighbours() -> None:
    distance = np.sort(np.random.default_rng(0).uniform(0.1, 1, (50, 16)), axis=1).astype(np.float32)
    distance[:, 0] = 0
    with Threads(1) as pool:
        strength = memberships(distance, 1.0, pool)
    assert not strength[:, 0].any()
    assert (strength[:, 1] == 1).all()
    np.testing.assert_allclose(strength.sum(axis=1), np.log2(16), atol=2e-5)


def test_strengths_and_their_union_are_those_of_umap_learn() -> None:
    umap = pytest.importorskip("umap.umap_")
    values = clusters(300)[0]
    apart = np.linalg.norm(values[:, None] - values, axis=2)
    index = np.argsort(apart, axis=1)[:, :12].astype(np.int32)
    distance = np.take_along_axis(apart, index, 1).astype(np.float32)
    distance[:, 0] = 0
    for mix, local in ((1.0, 1.0), (0.3, 2.5)):
        expected = umap.fuzzy_simplicial_set(
            values, 12, np.random.RandomState(0), "euclidean", knn_indices=index, knn_dists=distance,
            set_op_mix_ratio=mix, local_connectivity=local,
        )[0]  # fmt: skip
        with Threads(1) as pool:
            graph = fuzzy_union(index, memberships(distance, local, pool), mix)
        difference = abs(scipy.sparse.csr_matrix(expected) - graph.matrix())
        assert difference.max() < 2e-5


def test_a_union_leaves_its_arguments_as_they_were() -> None:
    index = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0]], np.int32)
    strength = np.array([[0, 1, 0.5], [0, 1, 0.25], [0, 1, 0]], np.float32)
    before = index.copy(), strength.copy()
    graph = fuzzy_union(index, strength, 1.0)
    expected = [[0, 1, 0.5], [1, 0, 1], [0.5, 1, 0]]
    np.testing.assert_allclose(graph.matrix().toarray(), np.array(expected))
    assert np.array_equal(index, before[0])
    assert np.array_equal(strength, before[1])


def test_the_curve_is_that_of_umap_learn() -> None:
    umap = pytest.importorskip("umap.umap_")
    for min_dist, spread in ((0.05, 1.0), (0.01, 1.0), (0.5, 2.0)):
        expected = np.asarray(umap.find_ab_params(spread, min_dist))
        np.testing.assert_allclose(curve_of(min_dist, spread), expected, rtol=1e-6)


def test_the_power_is_right_to_a_few_ten_thousandths() -> None:
    base = np.exp2(np.random.default_rng(0).uniform(-40, 30, 3000)).astype(np.float32)
    for exponent in (0.3, 0.85, 1.9):
        found = np.array([layout_kernel._power(x, np.float32(exponent)) for x in base])
        np.testing.assert_allclose(found, base.astype(np.float64) ** exponent, rtol=1e-3)
    assert layout_kernel._power(np.float32(0), np.float32(0.85)) < 1e-30


@pytest.mark.parametrize("apart", [0.05, 0.5, 3.0, 20.0])
def test_an_edge_pulls_by_the_gradient_of_the_logarithm_of_the_curve(apart: float) -> None:
    a, b, rate = 1.7, 0.85, 0.01
    position = np.array([[1.0, 2.0], [1.0 + 0.6 * apart, 2.0 + 0.8 * apart]], np.float32)
    graph = fuzzy_union(np.array([[0, 1], [1, 0]], np.int32), np.array([[0, 1], [0, 1]], np.float32), 1.0)
    with Threads(1) as pool:
        moved = layout_kernel.settle(
            graph, position, layout_kernel.Forces(a, b), 1, 0, pool, learning_rate=rate, negatives=0
        )

    def slope(distance: float) -> float:
        def logarithm(d: float) -> float:
            return float(np.log(1 / (1 + a * d ** (2 * b))))

        return (logarithm(distance + 1e-5) - logarithm(distance - 1e-5)) / 2e-5

    # One moves, both directions of the edge pulling; then the other does, from where the first is by then.
    first = 2 * rate * slope(apart)
    second = 2 * rate * slope(apart + first)
    steps = np.linalg.norm(moved - position, axis=1)
    np.testing.assert_allclose(np.sort(steps), np.sort([-first, -second]), rtol=2e-3, atol=2e-6)
    assert np.linalg.norm(moved[0] - moved[1]) < apart


def test_repulsion_is_that_of_samples_drawn_uniformly() -> None:
    rng = np.random.default_rng(0)
    position = rng.normal(size=(2, 50)).astype(np.float32) * 3
    a, b = 1.7, 0.85
    curve = np.array([a, b, 1.0], np.float32)
    draws = 200_000
    found = np.array(layout_kernel._repelled(position, np.float32(0.3), np.float32(-0.2), draws, np.uint32(99), curve))
    difference = np.array([0.3, -0.2])[:, None] - position.astype(np.float64)
    squared = np.sum(difference**2, axis=0)
    push = np.clip(2 * b / ((0.001 + squared) * (1 + a * squared**b)) * difference, -4, 4)
    error = push.std(axis=1) / np.sqrt(draws)
    assert (np.abs(found / draws - push.mean(axis=1)) < 5 * error + 1e-3 * np.abs(push).mean(axis=1)).all()


def test_outliers_neither_squash_the_rest_nor_are_cut_off() -> None:
    rng = np.random.default_rng(0)
    body = rng.uniform(-1, 1, (2000, 2)).astype(np.float32)
    far = np.array([[1e4, 0], [2e4, 0], [0, -500]], np.float32)
    position = into_unit_square(np.concatenate([body, far]))
    inside, outside = position[:2000], position[2000:]
    assert np.ptp(inside, axis=0).min() > 0.8
    assert position.min() >= 0
    assert position.max() <= 1
    assert inside[:, 0].max() < outside[0, 0] < outside[1, 0] <= 1
    assert outside[2, 1] < inside[:, 1].min()
    assert 0.4 < outside[0, 1] < 0.6


def test_without_outliers_scaling_keeps_the_shape_and_fills_the_square() -> None:
    given = np.random.default_rng(0).uniform(-1, 1, (500, 2)).astype(np.float32) * [30, 10]
    position = into_unit_square(given.astype(np.float32))
    assert position[:, 0].min() == 0
    assert position[:, 0].max() == 1
    np.testing.assert_allclose(position, (given - given.min(axis=0)) / np.ptp(given[:, 0]) + position.min(axis=0),
                               atol=1e-6)  # fmt: skip
    assert position[:, 1].min() + position[:, 1].max() == pytest.approx(1, abs=1e-6)
    assert (into_unit_square(np.ones((5, 2), np.float32)) == 0.5).all()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_evening_out_keeps_the_order_along_each_axis_and_uses_the_whole_square(share: float) -> None:
    rng = np.random.default_rng(3)
    # Axes of the layout are those of the square, the longer one first, with a group far off.
    given = np.concatenate([rng.normal(size=(300, 2)) * (4, 1), rng.normal(size=(20, 2)) * 0.1 + (60, 0)])
    position = equalized(given.astype(np.float32), share)
    assert (position.min(axis=0) == 0).all()
    assert (position.max(axis=0) == 1).all()
    turned = position if np.corrcoef(position[:, 0], given[:, 0])[0, 1] > 0 else 1 - position
    along = np.argsort(given[:, 0].astype(np.float32), kind="stable")
    # The group far off tilts the principal axes a little.
    assert scipy.stats.spearmanr(turned[along, 0], np.arange(320)).statistic > 0.999
    if share == 1:
        np.testing.assert_allclose(np.sort(position[:, 1]), np.linspace(0, 1, 320), atol=1e-6)


def test_evening_out_leaves_what_is_alike_alike() -> None:
    assert (equalized(np.ones((5, 2), np.float32), 0.7) == 0.5).all()
    row = np.stack([np.array([0, 0, 1, 5], np.float32), np.zeros(4, np.float32)], axis=1)
    position = equalized(row, 0.7)
    assert position[0, 0] == position[1, 0] < position[2, 0] < position[3, 0]
    assert (position[:, 1] == 0.5).all()
