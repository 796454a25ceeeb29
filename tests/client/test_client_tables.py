from dataclasses import dataclass

import pytest
from ortoscope.tables import Column, Table


@dataclass
class Fruit:
    name: str
    weight: float
    ripe: bool = False
    kinds: tuple[str, ...] = ()


ROWS = (Fruit("apple", 150.26, True, ("elstar", "boskop")), Fruit("<b>pear</b>", 1e-7), Fruit("fig", 3.0))
TABLE = Table(
    ROWS,
    (
        Column("fruit", lambda fruit: fruit.name),
        Column("weight", lambda fruit: fruit.weight, numeric=True),
        Column("ripe", lambda fruit: fruit.ripe),
    ),
    title="3 fruits",
    names=lambda fruit: (fruit.name, *fruit.kinds),
)


def test_a_table_is_a_sequence_of_its_rows() -> None:
    assert tuple(TABLE) == ROWS
    assert len(TABLE) == 3
    assert TABLE[-1] is ROWS[2]
    assert tuple(TABLE[1:]) == ROWS[1:]
    assert ROWS[0] in TABLE


def test_a_row_is_found_by_any_of_its_names() -> None:
    assert TABLE["boskop"] is ROWS[0]
    with pytest.raises(KeyError, match="find"):
        TABLE["bosk"]


def test_find_looks_for_parts_in_names_and_cells_whatever_their_case() -> None:
    assert tuple(TABLE.find("BOSK")) == (ROWS[0],)
    assert tuple(TABLE.find("150")) == (ROWS[0],)
    assert tuple(TABLE.find("p")) == ROWS[:2]
    assert not TABLE.find("plum")
    assert TABLE.find("p").title == "3 fruits (2 shown)"
    assert TABLE.find("p")[:1].title == "3 fruits (1 shown)"


def test_text_is_aligned_and_whole() -> None:
    assert TABLE.text().splitlines() == [
        "fruit        weight  ripe",
        "apple         150.3  yes",
        "<b>pear</b>   1e-07",
        "fig               3",
    ]
    assert repr(TABLE).startswith("3 fruits\nfruit")


def test_a_notebook_shows_text_as_text() -> None:
    page = TABLE._repr_html_()
    assert "&lt;b&gt;pear&lt;/b&gt;" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 4


def test_a_long_table_tells_how_much_a_notebook_leaves_out() -> None:
    long = Table([Fruit(str(i), i) for i in range(250)], TABLE.columns, title="many")
    assert "and 50 more" in long._repr_html_()
    assert len(long.text().splitlines()) == 251


def test_records_hold_the_values_themselves() -> None:
    assert TABLE.records()[0] == {"fruit": "apple", "weight": 150.26, "ripe": True}
