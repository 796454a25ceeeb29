"""Samples of a class, and the axis between two, on attributions where the answer is known."""

import numpy as np
import pytest
from ortoscope_service.analysis.atlas.class_atlas import Selection, class_axis, gradient_positions, select_samples
from ortoscope_service.analysis.atlas.layout import LayoutSettings, lay_out

ATTRIBUTION = np.array(
    [
        [3, 1, 0],  # 0: winner 0
        [2, 5, 0],  # 1: winner 1
        [1, 1, 9],  # 2: winner 2
        [-1, -2, -3],  # 3: winner 0, though negative
        [2, 3, 1],  # 4: winner 1
        [0, 0, 0],  # 5: winner 0 at a tie
    ],
    np.float16,
)


@pytest.mark.parametrize(
    ("classes", "mode", "top", "expected"),
    [
        ([0], Selection.WINNER, 1, [0, 3, 5]),
        ([1, 2], Selection.WINNER, 1, [1, 2, 4]),
        ([0], Selection.TOP, 2, [0, 1]),
        ([0], Selection.TOP, 100, [0, 1, 2, 4]),
        ([0, 2], Selection.TOP, 1, [0, 2]),
        ([0], Selection.BOTH, 2, [0, 1, 3, 5]),
        ([], Selection.BOTH, 2, []),
    ],
)
def test_samples_of_classes_come_once_each_and_in_order(
    classes: list[int], mode: Selection, top: int, expected: object
) -> None:
    chosen = select_samples(ATTRIBUTION, classes, mode, top)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == expected


def test_the_axis_leads_from_left_to_right_with_no_difference_in_the_middle() -> None:
    difference = np.linspace(-2, 2, 401)
    attribution = np.stack([np.zeros(401), difference], axis=1).astype(np.float32)
    axis = class_axis(attribution, 0, 1)
    assert axis[200] == 0.5
    assert (np.diff(axis) >= 0).all()
    scale = np.percentile(np.abs(difference), 99)
    inside = np.abs(difference) < scale
    np.testing.assert_allclose(axis[inside], (difference[inside] / scale + 1) / 2, rtol=1e-5)
    assert set(axis[~inside].tolist()) == {0, 1}
    np.testing.assert_allclose(class_axis(attribution, 1, 0), 1 - axis, atol=1e-6)


def test_classes_that_differ_nowhere_or_hardly_anywhere_still_have_an_axis() -> None:
    same = np.ones((5, 2), np.float32)
    assert class_axis(same, 0, 1).tolist() == [0.5] * 5
    rare = np.zeros((1000, 2), np.float32)
    rare[0, 1] = 4
    assert class_axis(rare, 0, 1)[:2].tolist() == [1, 0.5]


def test_two_kinds_of_samples_lie_apart_along_y_and_by_their_class_along_x() -> None:
    random = np.random.default_rng(0)
    kinds = np.repeat([[0, 0, 5, 0], [5, 0, 0, 0]], 60, axis=0)
    activations = np.abs(kinds + random.normal(scale=0.5, size=kinds.shape)).astype(np.float16)
    attribution = random.normal(size=(120, 3)).astype(np.float16)
    settings = LayoutSettings(n_neighbors=10, n_epochs=50)
    position = gradient_positions(activations, attribution, 2, 0, settings, 7)
    assert position.dtype == np.float32
    assert ((position >= 0) & (position <= 1)).all()
    np.testing.assert_array_equal(position[:, 0], class_axis(attribution, 2, 0))
    first, second = position[:60, 1], position[60:, 1]
    assert first.max() < second.min() or second.max() < first.min()
    np.testing.assert_array_equal(gradient_positions(activations, attribution, 2, 0, settings, 7, threads=2), position)


def test_a_flat_layout_stays_on_its_line() -> None:
    activations = np.random.default_rng(1).random((80, 6)).astype(np.float32)
    position = lay_out(activations, LayoutSettings(n_neighbors=8, n_epochs=30), 0, flat=True).position
    assert set(position[:, 1].tolist()) == {0.5}
    assert len(np.unique(position[:, 0])) == 80
