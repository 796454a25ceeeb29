"""The service `google.longrunning.Operations`, and operations as messages."""

import hashlib
import threading
from collections.abc import Mapping

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2, empty_pb2, timestamp_pb2
from google.protobuf.message import Message
from ortoscope.v1 import activations_pb2, atlases_pb2, dissections_pb2, visualization_pb2
from ortoscope.v1.operations_pb2 import OperationMetadata

from ortoscope_service.api import resources
from ortoscope_service.api.calls import seconds_left
from ortoscope_service.api.components import Components
from ortoscope_service.api.errors import to_status
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.jobs.operations import Operation, State
from ortoscope_service.jobs.records import RecordStore
from ortoscope_service.jobs.requests import Request

MAX_WAIT_SECONDS = 60.0
"""Longest time that WaitOperation holds a thread; it may return before the timeout (google.longrunning)."""

_CROWDED_WAIT_SECONDS = 0.25
"""How long it waits while many others do: long enough that asking again and again keeps nothing busy."""

_DONE_FILTERS: Mapping[str, bool | None] = {"": None, "done=true": True, "done=false": False}
_RESULT_TYPES: Mapping[str, type[Message]] = {
    "atlasComparisons": atlases_pb2.AtlasComparison,
    "atlasProjections": atlases_pb2.AtlasProjection,
    "atlases": atlases_pb2.Atlas,
    "dissections": dissections_pb2.Dissection,
    "exampleSets": activations_pb2.ExampleSet,
    "unitSheets": visualization_pb2.UnitSheet,
}
_STATES = {
    State.QUEUED: OperationMetadata.STATE_QUEUED,
    State.RUNNING: OperationMetadata.STATE_RUNNING,
    State.SUCCEEDED: OperationMetadata.STATE_SUCCEEDED,
    State.FAILED: OperationMetadata.STATE_FAILED,
    State.CANCELLED: OperationMetadata.STATE_CANCELLED,
}


class OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]  # it has no types
    """Lists, shows, awaits, cancels and deletes operations."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._operations = components.store.operations
        # Whoever waits holds a thread; half of them stay free for calls that work.
        self._waiters = threading.BoundedSemaphore(max(1, components.limits.max_concurrent_rpcs // 2))

    def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: grpc.ServicerContext
    ) -> operations_pb2.ListOperationsResponse:
        """Lists operations, newest first."""
        if request.name not in {"", "operations"}:
            raise invalid(
                "INVALID_NAME",
                f"name is '{request.name}'; operations have no parent: leave it empty.",
                field="name",
                name=request.name,
            )
        compact = "".join(request.filter.split())
        if compact not in _DONE_FILTERS:
            raise invalid(
                "INVALID_FILTER",
                f"filter is '{request.filter}'; it must be empty, done=true or done=false.",
                field="filter",
                filter=request.filter,
            )
        page = self._components.page(request.page_size, request.page_token, "ListOperations", compact)
        found = self._operations.list(done=_DONE_FILTERS[compact], before=page.position, count=page.size + 1)
        shown = found[: page.size]
        return operations_pb2.ListOperationsResponse(
            operations=[self._message(operation) for operation in shown],
            next_page_token=page.token(shown[-1].sequence) if len(found) > page.size else "",
        )

    def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: grpc.ServicerContext
    ) -> operations_pb2.Operation:
        """Gets the latest state of an operation."""
        return self._message(self._operations.get(resources.parse_operation(request.name, field="name")))

    def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: grpc.ServicerContext
    ) -> operations_pb2.Operation:
        """Waits until an operation is done, the timeout or the deadline is near, or a minute has passed."""
        operation_id = resources.parse_operation(request.name, field="name")
        left = seconds_left(context, self._components.limits.default_deadline_seconds)
        timeout = min(MAX_WAIT_SECONDS, left - min(0.5, 0.2 * left))  # the answer must arrive before the deadline
        if request.HasField("timeout"):
            requested = request.timeout.seconds + request.timeout.nanos / 1e9
            if requested < 0:
                raise invalid(
                    "INVALID_TIMEOUT",
                    f"timeout is {requested:g} seconds; it must not be negative.",
                    field="timeout",
                    timeout=requested,
                )
            timeout = min(timeout, requested)
        cancellation = self._components.cancellation(context)
        if not self._waiters.acquire(blocking=False):
            return self._message(self._operations.wait(operation_id, min(timeout, _CROWDED_WAIT_SECONDS), cancellation))
        try:
            return self._message(self._operations.wait(operation_id, timeout, cancellation))
        finally:
            self._waiters.release()

    def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Asks an operation to stop."""
        self._components.runner.cancel(resources.parse_operation(request.name, field="name"))
        return empty_pb2.Empty()

    def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Deletes the record of an operation that is done."""
        self._operations.delete(resources.parse_operation(request.name, field="name"))
        return empty_pb2.Empty()

    def _message(self, operation: Operation) -> operations_pb2.Operation:
        return operation_message(operation, self._components.store.records)


def operation_message(operation: Operation, records: RecordStore) -> operations_pb2.Operation:
    """An operation as google.longrunning has it. One whose result was deleted shows the error RESULT_DELETED."""
    message = operations_pb2.Operation(name=resources.operation(operation.id), done=operation.state.done)
    message.metadata.Pack(_metadata(operation))
    if operation.error is not None:
        message.error.CopyFrom(to_status(operation.error))
    elif operation.result is not None:
        try:
            message.response.Pack(_result(operation.result, records))
        except OrtoscopeError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            message.error.CopyFrom(to_status(_deleted(operation.result)))
    return message


def repeated_request(request_id: str, request: Message) -> Request:
    """What tells whether a request was answered before.

    Args:
        request_id: The id that the client gave it; may be empty.
        request: The whole request.

    Raises:
        OrtoscopeError: INVALID_REQUEST_ID.
    """
    text = request.DESCRIPTOR.full_name.encode() + b"\0" + request.SerializeToString(deterministic=True)
    return Request(resources.check_request_id(request_id), hashlib.sha256(text).hexdigest())


def timestamp(seconds: float | None) -> timestamp_pb2.Timestamp | None:
    """Seconds since 1970 as a message."""
    if seconds is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromNanoseconds(round(seconds * 1e6) * 1000)
    return message


def _metadata(operation: Operation) -> OperationMetadata:
    return OperationMetadata(
        verb=operation.verb,
        target=operation.target,
        dataset=operation.dataset,
        state=_STATES[operation.state],
        stage=operation.stage,
        done_items=operation.done_items,
        total_items=operation.total_items,
        cancel_requested=operation.cancel_requested,
        create_time=timestamp(operation.create_time),
        start_time=timestamp(operation.start_time),
        end_time=timestamp(operation.end_time),
        estimated_time_left=_duration(operation.estimate),
        deadline=timestamp(operation.deadline),
    )


def _duration(seconds: float | None) -> duration_pb2.Duration | None:
    if seconds is None:
        return None
    message = duration_pb2.Duration()
    message.FromMilliseconds(round(seconds * 1000))
    return message


def _result(name: str, records: RecordStore) -> Message:
    collection, identifier = resources.split_result(name)
    return _RESULT_TYPES[collection].FromString(records.get(collection, identifier).message)


def _deleted(name: str) -> OrtoscopeError:
    return OrtoscopeError(
        Code.NOT_FOUND,
        "RESULT_DELETED",
        f"The operation succeeded, but its result {name} was deleted since.",
        metadata={"result": name},
    )
