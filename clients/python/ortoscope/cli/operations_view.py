"""Operations as a table for a terminal of 80 columns."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from ortoscope.cleaning import Cleaned
from ortoscope.durations import in_words
from ortoscope.operation_table import age
from ortoscope.operations import Operation, seconds_left, subject

_ID_SHOWN = 8
"""Characters of an id: enough to name it to another command, few enough to leave room."""

_STYLES = {"running": "bold", "succeeded": "green", "failed": "red", "cancelled": "dim"}


def drawn(operations: Iterable[Operation[Any]]) -> RichTable:
    """The operations: short names, no rules, so that what they work on has room."""
    table = _table()
    for title in ("operation", "what", "state"):
        table.add_column(title, no_wrap=True)
    for title in ("left", "age"):
        table.add_column(title, no_wrap=True, justify="right")
    table.add_column("of", overflow="fold")
    for operation in operations:
        left = seconds_left(operation)
        table.add_row(
            _short(operation),
            operation.metadata.verb,
            Text(state_in_words(operation), _STYLES.get(operation.state, "")),
            "" if left is None else in_words(max(1.0, left)),
            age(operation),
            Text(subject(operation)),
        )
    return table


def drawn_cleaning(found: Iterable[Cleaned]) -> RichTable:
    """What a clean-up deletes."""
    table = _table()
    for title in ("operation", "what", "state", "ended", "its result"):
        table.add_column(title, no_wrap=True)
    for cleaned in found:
        operation = cleaned.operation
        fate = "deleted" if cleaned.result_deleted else "kept"
        table.add_row(
            _short(operation),
            operation.metadata.verb,
            operation.state,
            f"{in_words(max(0.0, cleaned.age))} ago",
            fate if cleaned.result else "none",
        )
    return table


def state_in_words(operation: Operation[Any]) -> str:
    """What an operation is doing and how far it is: "running 54 %", "queued", "cancelling 12 %", "failed"."""
    if operation.done:
        return operation.state
    metadata = operation.metadata
    words = "cancelling" if metadata.cancel_requested else operation.state
    return f"{words} {100 * metadata.done_items // metadata.total_items} %" if metadata.total_items else words


def _table() -> RichTable:
    return RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _short(operation: Operation[Any]) -> str:
    return operation.name.removeprefix("operations/")[:_ID_SHOWN]
