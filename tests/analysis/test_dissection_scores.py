"""IoU, labels and both countings of detectors, against values worked out by hand."""

import numpy as np
from ortoscope_service.analysis.dissection.scores import (
    best_concepts,
    count_by_best_label,
    count_per_category,
    intersection_over_union,
)

# Three units, four concepts in two categories.
CATEGORY = np.array([0, 0, 1, 1])
IOU = np.array([[0.10, 0.05, 0.20, 0.00], [0.00, 0.00, 0.00, 0.00], [0.30, 0.01, 0.30, 0.02]])


def test_iou_takes_the_activation_pixels_of_the_concepts_own_category():
    intersection = np.array([[2, 0, 6]])
    activation = np.array([[10, 20]])
    concepts = np.array([4, 0, 6])
    iou = intersection_over_union(intersection, activation, concepts, np.array([0, 0, 1]))
    np.testing.assert_allclose(iou, [[2 / (10 + 4 - 2), 0 / 10, 6 / 20]])


def test_an_empty_union_gives_zero():
    zero = np.zeros((1, 1), np.int64)
    assert intersection_over_union(zero, zero, zero[0], zero[0]) == 0


def test_best_label_is_the_first_at_a_tie_and_none_if_all_are_zero():
    assert best_concepts(IOU).tolist() == [2, -1, 0]


def test_best_label_counting_counts_each_unit_once():
    count = count_by_best_label(IOU, CATEGORY, 2, 0.04)
    assert (count.detectors, count.unique_detectors) == (2, 2)
    assert count.by_category == ((1, 1), (1, 1))


def test_per_category_counting_counts_a_unit_in_every_category_it_detects():
    count = count_per_category(IOU, CATEGORY, 2, 0.04)
    assert count.by_category == ((2, 1), (2, 1))
    assert (count.detectors, count.unique_detectors) == (4, 2)


def test_a_score_that_equals_the_threshold_is_no_detector():
    assert count_by_best_label(IOU, CATEGORY, 2, 0.30).detectors == 0
    assert count_per_category(IOU, CATEGORY, 2, 0.30).detectors == 0


def test_no_concepts_give_no_detectors():
    none = np.zeros((3, 0))
    assert count_by_best_label(none, np.zeros(0, np.int64), 0, 0.04).detectors == 0
    assert count_per_category(none, np.zeros(0, np.int64), 1, 0.04).by_category == ((0, 0),)
