"""Clean-up of the operations that ended long ago."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeAlias, get_args
from uuid import uuid4

from ortoscope.durations import Duration, in_words, seconds_of
from ortoscope.errors import InvalidArgument, NotFound
from ortoscope.operation_table import list_request, operation_table
from ortoscope.operations import Operation, result_name
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.v1 import activations_pb2, atlases_pb2, dissections_pb2, visualization_pb2

EndState: TypeAlias = Literal["succeeded", "failed", "cancelled"]
"""How an operation can end."""

END_STATES: tuple[EndState, ...] = get_args(EndState)
"""All of them."""

_DISSECTIONS = "dissections/"
_UNIT_SHEETS = "unitSheets/"
_ATLASES = "atlases/"
_WITHOUT_DELETION = ("atlasProjections/", "atlasComparisons/")
"""Results that the API has no method to delete."""


@dataclass(frozen=True)
class Cleaned:
    """An operation whose record is deleted, or would be."""

    operation: Operation[Any]
    """The operation as it was last recorded."""

    result: str
    """Resource name of its result; empty if it has none."""

    result_deleted: bool
    """Whether the result is deleted with it."""

    @property
    def age(self) -> float:
        """Seconds since the operation ended, by the server's end time and this machine's clock."""
        return _age(self.operation)


def ended_before(
    rpcs: Rpcs, older_than: Duration, *, states: Collection[EndState] = END_STATES, results: bool = False
) -> Table[Cleaned]:
    """What a clean-up would delete.

    A result that a younger operation made as well is kept with that one.

    Args:
        rpcs: The calls.
        older_than: How long ago an operation must have ended, by the server's end time and this machine's clock.
        states: Only operations that ended so.
        results: Whether their results are to go, too.

    Raises:
        InvalidArgument: DURATION_INVALID, STATE_UNKNOWN.
        OrtoscopeError: As Operations.ListOperations.
    """
    seconds = seconds_of(older_than, "older_than")
    if unknown := sorted(set(states) - set(END_STATES)):
        raise InvalidArgument(
            f"{unknown[0]!r} is no state in which operations end: choose from {', '.join(END_STATES)}.",
            reason="STATE_UNKNOWN",
            field="states",
            metadata={"state": unknown[0]},
        )
    every = operation_table(rpcs, all_pages(rpcs.list_operations, list_request(done=None)))
    old = [operation for operation in every if operation.state in states and _age(operation) > seconds]
    names = {operation.name for operation in old}
    kept = {result_name(operation.proto) for operation in every if operation.name not in names}
    return _table(
        Cleaned(operation, result, results and _is_deletable(result) and result not in kept)
        for operation, result in ((operation, result_name(operation.proto)) for operation in old)
    )


def delete(rpcs: Rpcs, found: Iterable[Cleaned]) -> None:
    """Deletes the records of operations, and the results that go with them.

    A result goes before its operation's record, so that a clean-up that was broken off can be done again. What is gone
    already is no error.

    Raises:
        OrtoscopeError: As Operations.DeleteOperation, Dissections.DeleteDissection, Activations.DeleteExampleSet and
            Visualization.DeleteUnitSheet, Atlases.DeleteAtlas.
    """
    for cleaned in found:
        if cleaned.result_deleted:
            _unless_gone(partial(_delete_result, rpcs, cleaned.result))
        _unless_gone(cleaned.operation.delete)


def _delete_result(rpcs: Rpcs, name: str) -> None:
    request_id = str(uuid4())
    if name.startswith(_DISSECTIONS):
        rpcs.delete_dissection(dissections_pb2.DeleteDissectionRequest(name=name, request_id=request_id))
    elif name.startswith(_UNIT_SHEETS):
        rpcs.delete_unit_sheet(visualization_pb2.DeleteUnitSheetRequest(name=name, request_id=request_id))
    elif name.startswith(_ATLASES):
        rpcs.delete_atlas(atlases_pb2.DeleteAtlasRequest(name=name, request_id=request_id))
    else:
        rpcs.delete_example_set(activations_pb2.DeleteExampleSetRequest(name=name, request_id=request_id))


def _is_deletable(result: str) -> bool:
    return bool(result) and not result.startswith(_WITHOUT_DELETION)


def _unless_gone(call: Callable[[], object]) -> None:
    try:
        call()
    except NotFound:
        return


def _age(operation: Operation[Any]) -> float:
    """Seconds since an operation ended; below 0 if it has not."""
    ended = operation.end_time
    return -1.0 if ended is None else (datetime.now(UTC) - ended).total_seconds()


def _table(found: Iterable[Cleaned]) -> Table[Cleaned]:
    rows = tuple(found)
    return Table(
        rows,
        (
            Column("operation", lambda cleaned: cleaned.operation.name),
            Column("what", lambda cleaned: cleaned.operation.metadata.verb),
            Column("state", lambda cleaned: cleaned.operation.state),
            Column("ended", lambda cleaned: f"{in_words(max(0.0, cleaned.age))} ago"),
            Column("result", lambda cleaned: cleaned.result),
            Column("deleted with it", lambda cleaned: cleaned.result_deleted),
        ),
        title=f"{len(rows)} operation{'' if len(rows) == 1 else 's'}",
        names=lambda cleaned: (cleaned.operation.name, cleaned.result),
    )
