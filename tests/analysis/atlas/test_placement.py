"""Samples placed in a layout: where the layout of all has them, and off the map what it has no place for."""

import dataclasses
import io

import numpy as np
import pytest
from ortoscope_service.analysis.atlas.layout import Layout, LayoutSettings, lay_out
from ortoscope_service.analysis.atlas.placement import Frame
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation


def roll(samples: int, seed: int = 0) -> np.ndarray:
    """Points of a bent sheet among 16 units."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0, 3, samples), rng.uniform(0, 2, samples)
    sheet = np.stack([np.cos(u), np.sin(u), v, 0.1 * np.sin(3 * v)], axis=1)
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(16, 4)))[0]
    return np.asarray(sheet @ basis.T + 0.01 * rng.normal(size=(samples, 16)), np.float32)


@pytest.fixture(scope="module")
def whole() -> Layout:
    return lay_out(roll(2000), LayoutSettings(n_neighbors=15, metric="euclidean", n_epochs=200), 0)


def test_held_out_samples_are_placed_where_the_layout_of_all_has_them(whole: Layout) -> None:
    values = roll(2000)
    landmark = np.sort(np.random.default_rng(1).choice(2000, 1000, replace=False))
    half = lay_out(values[landmark], LayoutSettings(n_neighbors=15, metric="euclidean", n_epochs=10), 0)
    frame = dataclasses.replace(half.frame, position=whole.position[landmark])
    held_out = np.setdiff1d(np.arange(2000), landmark)
    apart = np.linalg.norm(frame.place(values[held_out]).position - whole.position[held_out], axis=1)
    # Of the side of the square, in which landmarks are about 0.03 from each other. UMAP tears the sheet here and there,
    # and a sample at a tear may be placed at the other side of it.
    assert np.median(apart) < 0.01
    assert np.percentile(apart, 90) < 0.08


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("components", [0, 3])
def test_a_landmark_is_placed_where_it_is(metric: str, components: int) -> None:
    values = roll(300).astype(np.float16)
    settings = LayoutSettings(n_neighbors=10, metric=metric, n_epochs=20, components=components)  # type: ignore[arg-type]
    layout = lay_out(values, settings, 0)
    again = layout.frame.place(values)
    np.testing.assert_allclose(again.position, layout.position, atol=1e-6)
    assert not again.distance.any()
    assert not again.off_map.any()


def test_samples_beyond_the_landmarks_are_placed_and_landmarks_stay() -> None:
    values = roll(1500)
    settings = LayoutSettings(n_neighbors=15, metric="euclidean", n_epochs=100, landmarks=500)
    layout = lay_out(values, settings, 0, threads=2)
    assert len(layout.landmark) == 500
    assert np.array_equal(layout.position[layout.landmark], layout.frame.position)
    assert layout.position.shape == (1500, 2)
    placed = np.setdiff1d(np.arange(1500), layout.landmark)
    assert np.array_equal(layout.position[placed], layout.frame.place(values[placed]).position)


def test_about_one_in_a_hundred_of_the_same_kind_is_off_the_map_and_all_of_another(whole: Layout) -> None:
    alike = whole.frame.place(roll(4000, seed=9))
    assert 0.002 < alike.off_map.mean() < 0.03
    other = roll(100, seed=9) + 3 * np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
    found = whole.frame.place(other)
    assert found.off_map.all()
    assert (found.distance > whole.frame.limit).all()
    assert found.position.min() >= 0
    assert found.position.max() <= 1


def test_what_lies_outside_the_principal_axes_is_off_the_map_too() -> None:
    values = roll(600)
    settings = LayoutSettings(n_neighbors=15, metric="euclidean", n_epochs=5, components=4)
    frame = lay_out(values, settings, 0).frame
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(16, 4)))[0]
    away = np.linalg.svd(basis.T)[2][-1]
    assert frame.place((values[:50] + 5 * away).astype(np.float32)).off_map.all()


def test_distances_are_those_of_the_metric(whole: Layout) -> None:
    values, queries = roll(2000), roll(50, seed=3)
    true = np.linalg.norm(queries[:, None].astype(np.float64) - values, axis=2).min(axis=1)
    np.testing.assert_allclose(whole.frame.place(queries).distance, true, rtol=0.05, atol=2e-3)


def test_threads_and_blocks_change_nothing(whole: Layout) -> None:
    queries = roll(9000, seed=4)
    one, two = whole.frame.place(queries), whole.frame.place(queries, threads=2)
    assert one.position.tobytes() == two.position.tobytes()
    assert one.distance.tobytes() == two.distance.tobytes()


def test_a_frame_survives_a_file(whole: Layout) -> None:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **whole.frame.to_arrays())
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as arrays:
        again = Frame.from_arrays(arrays)
    queries = roll(100, seed=5)
    assert again.place(queries).position.tobytes() == whole.frame.place(queries).position.tobytes()
    assert again.limit == whole.frame.limit


def test_other_units_nothing_and_cancellation(whole: Layout) -> None:
    with pytest.raises(OrtoscopeError) as error:
        whole.frame.place(np.ones((3, 15), np.float32))
    assert error.value.reason == "SHAPE_MISMATCH"
    assert whole.frame.place(np.ones((0, 16), np.float32)).position.shape == (0, 2)
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(OrtoscopeError) as error:
        whole.frame.place(roll(10), cancellation=cancellation)
    assert error.value.code is Code.CANCELLED
