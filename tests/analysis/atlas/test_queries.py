"""Cells of a region, a class or a word, on a level made by hand and against plain loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.grid import GridSettings, cells_of
from ortoscope_service.analysis.atlas.queries import Order, Rectangle, query_cells
from ortoscope_service.errors import OrtoscopeError

LABELS = ("great white shark", "Grey Whale", "baseball", "snorkel")


def level(*, attributed: bool = True) -> Cells:
    random = np.random.default_rng(5)
    return cells_of(
        random.random((200, 3)).astype(np.float32),
        np.arange(200),
        random.random((200, 2)).astype(np.float32),
        6,
        GridSettings(),
        attribution=random.normal(size=(200, 4)).astype(np.float32) if attributed else None,
    )


LEVEL = level()
EDGES = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.7, 1.0])


@given(
    edges=st.none() | st.tuples(EDGES, EDGES, EDGES, EDGES),
    class_index=st.none() | st.integers(0, 3),
    text=st.sampled_from(["", "WHALE", "shark", "a", "cat"]),
    order=st.sampled_from(Order),
    top=st.integers(1, 5),
)
def test_filters_and_orders_are_those_of_plain_loops(
    edges: Any, class_index: int | None, text: str, order: Order, top: int
) -> None:
    if order is Order.ATTRIBUTION and class_index is None:
        return
    region = edges and Rectangle(
        *np.sort(edges[::2])[[0]], *np.sort(edges[1::2])[[0]], max(edges[::2]), max(edges[1::2])
    )
    kept = []
    for cell in range(len(LEVEL)):
        x, y = (LEVEL.column[cell] + 0.5) / 6, (LEVEL.row[cell] + 0.5) / 6
        values = LEVEL.attribution[cell]
        named = [LABELS[c].lower() for c in np.argsort(-values, kind="stable")[:top]]
        inside = region is None or (region.left <= x <= region.right and region.top <= y <= region.bottom)
        speaks = class_index is None or values[class_index] > 0
        if inside and speaks and (not text or any(text.lower() in label for label in named)):
            kept.append(cell)
    keys = {
        Order.POSITION: lambda cell: cell,
        Order.COUNT: lambda cell: (-LEVEL.count[cell], cell),
        Order.ATTRIBUTION: lambda cell: (-LEVEL.attribution[cell, class_index], cell),
    }
    assert query_cells(LEVEL, LABELS, region, class_index, text, order, top).tolist() == sorted(kept, key=keys[order])


def test_without_attribution_no_class_and_no_word_is_found() -> None:
    silent = level(attributed=False)
    assert len(query_cells(silent, (), None, None, "", Order.POSITION)) == len(silent)
    assert not len(query_cells(silent, (), None, 0, "", Order.ATTRIBUTION))
    assert not len(query_cells(silent, LABELS, None, None, "whale", Order.POSITION))


def test_an_order_by_attribution_needs_a_class() -> None:
    with pytest.raises(OrtoscopeError) as caught:
        query_cells(LEVEL, LABELS, None, None, "", Order.ATTRIBUTION)
    assert caught.value.reason == "ORDER_WITHOUT_CLASS"


@pytest.mark.parametrize(
    ("edges", "field"), [((0.5, 0, 0.4, 1), "right"), ((0, 1, 1, 0), "bottom"), ((np.nan, 0, 1, 1), "right")]
)
def test_edges_in_the_wrong_order_are_refused(edges: Any, field: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        Rectangle(*edges)
    assert (caught.value.reason, caught.value.field) == ("INVALID_REGION", f"region.{field}")


def test_labels_that_are_missing_are_no_error() -> None:
    cells = Cells.from_arrays(LEVEL.to_arrays())
    assert not len(query_cells(cells, LABELS[:1], None, None, "whale", Order.POSITION))
