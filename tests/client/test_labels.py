"""tally.csv against brute force, and against the reference tables."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope.arrays import DissectionArrays
from ortoscope.labels import best_concepts, scores_of, shown_name, tally_csv


def arrays_of(seed: int, units: int = 5, concepts: int = 7, categories: int = 3) -> DissectionArrays:
    """Counts at random that fit together; about half of the pairs share no pixel, and ties are frequent."""
    rng = np.random.default_rng(seed)
    category = rng.integers(0, categories, concepts)
    truth = rng.integers(50, 60, concepts)
    intersection = rng.integers(0, 4, (units, concepts)) * rng.integers(0, 2, (units, concepts))
    activation = rng.integers(30, 33, (units, categories))
    union = activation[:, category] + truth - intersection
    return DissectionArrays(
        threshold=rng.standard_normal(units),
        activation_pixels=activation,
        concept_pixels=truth,
        intersection=intersection,
        iou=intersection / union,
        concept_number=np.arange(1, concepts + 1),
        concept_name=np.array([f"name, {c}" for c in range(concepts)]),
        concept_category=category,
        category_name=np.array([f"cat{k}" for k in range(categories)]),
        saturated=np.zeros(units, bool),
        constant=np.zeros(units, bool),
    )


@given(st.integers(0, 500))
def test_the_table_holds_the_best_label_of_every_category(seed: int) -> None:
    arrays = arrays_of(seed)
    rows = list(csv.DictReader(io.StringIO(tally_csv(arrays))))
    assert sorted(int(row["unit"]) for row in rows) == [1, 2, 3, 4, 5]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        unit = int(row["unit"]) - 1
        assert float(row["score"]) == arrays.iou[unit].max()
        for k, category in enumerate(arrays.category_name):
            found = [c for c in range(7) if arrays.concept_category[c] == k and arrays.iou[unit, c] > 0]
            assert int(row[f"{category}-activation"]) == arrays.activation_pixels[unit, k]
            if not found:
                assert row[f"{category}-label"] == ""
                assert float(row[f"{category}-iou"]) == int(row[f"{category}-intersect"]) == 0
                continue
            best = max(found, key=lambda c: (arrays.iou[unit, c], -c))
            assert row[f"{category}-label"] == f"name, {best}"
            truth, intersect = int(row[f"{category}-truth"]), int(row[f"{category}-intersect"])
            union = int(row[f"{category}-activation"]) + truth - intersect
            assert float(row[f"{category}-iou"]) == intersect / union  # it recomputes exactly
        if row["label"]:
            assert row["label"] == row[f"{row['category']}-label"]
            assert row["score"] == row[f"{row['category']}-iou"]


def test_the_columns_are_those_of_netdissect() -> None:
    header = tally_csv(arrays_of(0, categories=2)).splitlines()[0]
    assert header == (
        "unit,category,label,score,cat0-label,cat0-truth,cat0-activation,cat0-intersect,cat0-iou,"
        "cat1-label,cat1-truth,cat1-activation,cat1-intersect,cat1-iou"
    )


def test_no_number_has_an_exponent() -> None:
    arrays = arrays_of(1)
    arrays.iou[:] = 1.25e-7
    assert "0.000000125" in tally_csv(arrays)
    assert "e-" not in tally_csv(arrays)


def test_ties_go_to_the_first_concept_and_the_lower_unit() -> None:
    arrays = arrays_of(2)
    arrays.iou[:] = 0.25
    assert best_concepts(arrays).tolist() == [0] * 5
    rows = list(csv.DictReader(io.StringIO(tally_csv(arrays))))
    assert [row["unit"] for row in rows] == ["1", "2", "3", "4", "5"]


def test_a_unit_without_any_overlap_has_no_label() -> None:
    arrays = arrays_of(3)
    arrays.iou[2] = 0
    best = best_concepts(arrays)
    assert best[2] == -1
    assert scores_of(arrays, best)[2] == 0
    row = next(row for row in csv.DictReader(io.StringIO(tally_csv(arrays))) if row["unit"] == "3")
    assert (row["category"], row["label"], float(row["score"])) == ("", "", 0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("red-c", "red"), ("ski_resort-s", "ski resort"), ("door", "door"), ("-c", "-c"), ("mid-sized", "mid-sized")],
)
def test_names_are_shown_without_the_suffixes_of_broden(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_best_labels_are_those_of_the_reference_table(reference_data: Path) -> None:
    stem = str(reference_data / "reference" / "efficientnet_lite0_minibroden224_block10_exact")
    with np.load(f"{stem}.npz") as table:
        arrays = DissectionArrays(
            threshold=table["thresholds"],
            activation_pixels=table["A"],
            concept_pixels=table["G"][1:],
            intersection=table["I"][:, 1:],
            iou=table["IoU"][:, 1:],
            concept_number=table["label_numbers"][1:],
            concept_name=table["label_names"][1:],
            concept_category=table["label_category"][1:],
            category_name=table["category_names"],
            saturated=np.zeros(112, bool),
            constant=np.zeros(112, bool),
        )
    with Path(f"{stem}.csv").open(newline="") as file:
        expected = {int(row["unit"]): row for row in csv.DictReader(file)}
    rows = list(csv.DictReader(io.StringIO(tally_csv(arrays))))
    assert len(rows) == len(expected) == 112
    for row in rows:
        wanted = expected[int(row["unit"]) - 1]
        assert (row["label"], row["category"]) == (wanted["label"], wanted["category"])
        assert float(row["score"]) == pytest.approx(float(wanted["iou"]), rel=1e-6)
