"""Which classes cells are labelled with, against sorting every row in full."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from ortoscope_service.analysis.atlas import class_labels
from ortoscope_service.analysis.atlas.class_labels import largest_classes

SMALL_SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


@given(
    values=hnp.arrays(np.float32, SMALL_SHAPES, elements=st.integers(-2, 2).map(float)),
    count=st.integers(1, 10),
    wide=st.booleans(),
)
def test_the_largest_come_first_and_of_equals_the_lower_index(
    values: NDArray[np.float32], count: int, wide: bool
) -> None:
    expected = [sorted(range(len(row)), key=lambda i: (-row[i], i))[:count] for row in values.tolist()]
    given_values = values if wide else values.astype(np.float16)
    assert largest_classes(given_values, count).tolist() == expected


def test_many_rows_are_read_in_blocks_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=(101, 7)).astype(np.float16)
    whole = largest_classes(values, 3)
    monkeypatch.setattr(class_labels, "_NUMBERS_AT_ONCE", 70)
    np.testing.assert_array_equal(largest_classes(values, 3), whole)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_without_cells_or_classes_there_is_nothing_to_name(shape: tuple[int, ...]) -> None:
    assert largest_classes(np.zeros(shape, np.float32), 5).shape == (shape[0], min(5, shape[1]))
