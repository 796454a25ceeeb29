"""Top-k against a plain sort of everything."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.statistics.top_k import TopK


def _expected(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and values of the k largest of each unit by Python's sort: value descending, item ascending."""
    items, best = [], []
    for column in values.T:
        order = sorted(range(len(column)), key=lambda i: (-column[i], i))[:k]
        items.append(order + [-1] * (k - len(order)))
        best.append([column[i] for i in order] + [-np.inf] * (k - len(order)))
    return np.array(items), np.array(best, np.float32)


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 50),
    k=st.integers(1, 12),
    batch=st.integers(1, 20),
    reverse=st.booleans(),
)
def test_equals_a_sort_of_everything_in_whatever_order_items_come(seed, images, k, batch, reverse):
    # Few distinct values: ties must go to the lower item.
    values = np.random.default_rng(seed).integers(0, 5, (images, 3)).astype(np.float32)
    top = TopK(3, k)
    starts = list(range(0, images, batch))
    for start in reversed(starts) if reverse else starts:
        part = values[start : start + batch]
        top.update(part, np.arange(start, start + len(part)), np.full(part.shape, 7 + start))
    items, best = _expected(values, k)
    np.testing.assert_array_equal(top.item, items)
    np.testing.assert_array_equal(top.value, best)
    np.testing.assert_array_equal(top.site[items >= 0], 7 + items[items >= 0] // batch * batch)


@given(seed=st.integers(0, 10_000), cut=st.integers(0, 30), k=st.integers(1, 8))
def test_merging_two_halves_equals_one_stream(seed, cut, k):
    values = np.random.default_rng(seed).integers(0, 5, (30, 4)).astype(np.float32)
    left, right = TopK(4, k), TopK(4, k)
    left.update(values[:cut], np.arange(cut))
    right.update(values[cut:], np.arange(cut, 30))
    merged = TopK.from_arrays(right.to_arrays())
    merged.merge(left)
    items, best = _expected(values, k)
    np.testing.assert_array_equal(merged.item, items)
    np.testing.assert_array_equal(merged.value, best)


def test_a_real_item_of_value_minus_infinity_precedes_an_empty_place():
    top = TopK(1, 2)
    top.update(np.array([[-np.inf]], np.float32), np.array([4]))
    assert top.item.tolist() == [[4, -1]]
