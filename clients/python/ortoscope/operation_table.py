"""Lists of operations."""

from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2

from ortoscope import resource_names
from ortoscope.durations import in_words
from ortoscope.operations import Operation, seconds_left
from ortoscope.rpcs import Rpcs
from ortoscope.tables import Column, Table


def list_request(*, done: bool | None) -> Any:
    """The request for operations that have ended, that have not, or all."""
    condition = "" if done is None else f"done={str(done).lower()}"
    return operations_pb2.ListOperationsRequest(name="operations", filter=condition)


def operation_table(rpcs: Rpcs, response: Any) -> Table[Operation[Any]]:
    """The operations of a ListOperationsResponse."""
    count = len(response.operations)
    return Table(
        (Operation[Any](rpcs, entry) for entry in response.operations),
        (
            Column("operation", lambda operation: operation.name),
            Column("what", lambda operation: operation.metadata.verb),
            Column("state", lambda operation: operation.state),
            Column("done", _amount, numeric=True),
            Column("left", _left, numeric=True),
            Column("age", age, numeric=True),
            Column(
                "model",
                lambda operation: resource_names.short_model(resource_names.version_of_tap(operation.metadata.target)),
            ),
            Column("tap", lambda operation: resource_names.short_tap(operation.metadata.target)),
            Column("dataset", lambda operation: resource_names.short_dataset(operation.metadata.dataset)),
            Column("created", lambda operation: operation.create_time and f"{operation.create_time:%Y-%m-%d %H:%M:%S}"),
        ),
        title=f"{count} operation{'' if count == 1 else 's'}",
        names=lambda operation: (operation.name,),
    )


def age(operation: Operation[Any]) -> str:
    """How long ago an operation was accepted, in words."""
    created = operation.create_time
    return "" if created is None else in_words(max(0.0, (datetime.now(UTC) - created).total_seconds()))


def _amount(operation: Operation[Any]) -> str:
    metadata = operation.metadata
    return f"{metadata.done_items}/{metadata.total_items}" if metadata.total_items else ""


def _left(operation: Operation[Any]) -> str:
    left = seconds_left(operation)
    return "" if left is None else in_words(max(1.0, left))
