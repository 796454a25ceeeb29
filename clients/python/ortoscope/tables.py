"""Lists that show themselves as tables, in a terminal and in a notebook."""

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

Row = TypeVar("Row")

_MAX_ROWS_SHOWN = 200
"""Rows that a notebook shows; enough for the taps of most networks, few enough to scroll past."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table."""

    title: str
    """Its heading."""

    value: Callable[[Row], object]
    """The value of a row; shown by `str`, floats with four digits."""

    numeric: bool = False
    """Whether it is aligned to the right."""


class Table(Sequence[Row], Generic[Row]):
    """A sequence of rows that shows itself as a table; `table.records()` is what a pandas.DataFrame takes.

    Args:
        rows: The rows.
        columns: What is shown of each.
        title: A line above the table.
        names: All names of a row: `find` looks in them too, and `table[name]` finds a row by any of them.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        columns: Sequence[Column[Row]],
        *,
        title: str,
        names: Callable[[Row], Iterable[str]] | None = None,
    ) -> None:
        self._rows = tuple(rows)
        self.columns = tuple(columns)
        self.title = title
        self._whole_title = title
        self._names = names

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @overload
    def __getitem__(self, index: int | str) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Table[Row]": ...
    def __getitem__(self, index: int | slice | str) -> "Row | Table[Row]":
        if isinstance(index, slice):
            return self._with(self._rows[index])
        if isinstance(index, int):
            return self._rows[index]
        for row in self._rows:
            if index in self._names_of(row):
                return row
        raise KeyError(f"{index!r} is in no row; table.find({index!r}) looks for parts of names")

    def find(self, text: str) -> "Table[Row]":
        """The rows in which `text` occurs, in a cell or in any name of the row; upper and lower case are the same."""
        wanted = text.casefold()
        return self._with(
            row
            for row in self._rows
            if any(wanted in part.casefold() for part in (*self._names_of(row), *self._cells(row)))
        )

    def records(self) -> list[dict[str, object]]:
        """The rows as dictionaries by column title."""
        return [{column.title: column.value(row) for column in self.columns} for row in self._rows]

    def text(self) -> str:
        """The table as text: aligned columns, nothing shortened."""
        heads = [column.title for column in self.columns]
        lines = [heads, *(self._cells(row) for row in self._rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column.numeric else cell.ljust(width)
                for cell, width, column in zip(line, widths, self.columns, strict=True)
            ).rstrip()
            for line in lines
        )

    def cells(self) -> list[list[str]]:
        """What is shown, row by row."""
        return [self._cells(row) for row in self._rows]

    def __repr__(self) -> str:
        return f"{self.title}\n{self.text()}"

    def _repr_html_(self) -> str:
        def line(tag: str, cells: Iterable[str]) -> str:
            return (
                "<tr>"
                + "".join(
                    f'<{tag} style="text-align:{"right" if column.numeric else "left"}">{html.escape(cell)}</{tag}>'
                    for cell, column in zip(cells, self.columns, strict=True)
                )
                + "</tr>"
            )

        head = line("th", (column.title for column in self.columns))
        body = "".join(line("td", self._cells(row)) for row in self._rows[:_MAX_ROWS_SHOWN])
        hidden = len(self._rows) - _MAX_ROWS_SHOWN
        more = f"<p>… and {hidden} more; see <code>.find(text)</code></p>" if hidden > 0 else ""
        return f"<p>{html.escape(self.title)}</p><table><thead>{head}</thead><tbody>{body}</tbody></table>{more}"

    def _with(self, rows: Iterable[Row]) -> "Table[Row]":
        kept = tuple(rows)
        part = Table(kept, self.columns, title=f"{self._whole_title} ({len(kept)} shown)", names=self._names)
        part._whole_title = self._whole_title
        return part

    def _names_of(self, row: Row) -> Iterable[str]:
        return self._names(row) if self._names else ()

    def _cells(self, row: Row) -> list[str]:
        return [_shown(column.value(row)) for column in self.columns]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(item) for item in value)
    return "" if value is None else str(value)
