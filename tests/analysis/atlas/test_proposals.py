"""Patches that may make a shark of a whale, on an atlas made by hand."""

import numpy as np
import pytest
from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.proposals import propose_patches
from ortoscope_service.errors import Code, OrtoscopeError

WHALE, SHARK, BASEBALL, SNORKEL = range(4)

ATTRIBUTION = np.array(
    [
        [9, 1, 0, 0],  # 0: a whale
        [1, 9, 0, 0],  # 1: a shark
        [-1, 5, 8, 0],  # 2: a baseball, with a shark's teeth: push 6
        [2, 3, 0, 7],  # 3: a snorkel, push 1
        [3, 1, 0, 7],  # 4: pushes the whale
        [-9, -1, 1, 0],  # 5: against both, the shark less so; speaks for no shark
        [0, 6, 9, 0],  # 6: push 6 again
    ],
    np.float32,
)
IMAGE = np.array([0, 1, 2, 2, 3, 4, 5, 2])


@pytest.fixture
def cells() -> Cells:
    count = len(ATTRIBUTION)
    nearest = np.full((count, 4), -1, np.int64)
    nearest[:, 0] = [0, 1, 2, 4, 5, 6, 3]
    nearest[6, 1] = 7  # the same image as 3
    nearest[3, 1] = 5
    numbers = np.arange(count, dtype=np.int32)
    return Cells(
        grid=8,
        row=numbers,
        column=numbers,
        count=numbers + np.int64(1),
        mean=np.ones((count, 2), np.float32),
        dispersion=np.zeros(count, np.float32),
        nearest=nearest,
        crop=np.full((count, 4), -1, np.int32),
        parent=np.full(count, -1, np.int32),
        attribution=ATTRIBUTION,
    )


def test_only_cells_labelled_neither_that_push_the_target_are_proposed(cells: Cells) -> None:
    proposals = propose_patches(cells, WHALE, SHARK, 10, image=IMAGE)
    assert [(p.cell, p.push) for p in proposals] == [(2, 6), (6, 6), (3, 1)]
    assert [p.cell for p in propose_patches(cells, SHARK, WHALE, 10, image=IMAGE)] == [4]
    assert [p.cell for p in propose_patches(cells, WHALE, SHARK, 1, image=IMAGE)] == [2]


def test_a_further_image_is_shown_where_the_cell_has_one(cells: Cells) -> None:
    # Samples 2, 3 and 7 are all of image 2: cell 6 has no other, until it is given one.
    assert [p.sample for p in propose_patches(cells, WHALE, SHARK, 10, image=IMAGE)] == [2, 3, 4]
    others = IMAGE.copy()
    others[7] = 9
    assert [p.sample for p in propose_patches(cells, WHALE, SHARK, 10, image=others)] == [2, 7, 4]


def test_an_atlas_that_says_nothing_of_classes_has_no_proposals(cells: Cells) -> None:
    silent = Cells.from_arrays({name: array for name, array in cells.to_arrays().items() if name != "attribution"})
    with pytest.raises(OrtoscopeError) as caught:
        propose_patches(silent, WHALE, SHARK, 10, image=IMAGE)
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "NO_ATTRIBUTION")


def test_a_class_cannot_be_made_of_itself(cells: Cells) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        propose_patches(cells, SHARK, SHARK, 10, image=IMAGE)
    assert (caught.value.reason, caught.value.field) == ("SAME_CLASS", "target")
