"""Handles of the server's long-running operations."""

import time
from collections.abc import Callable
from datetime import datetime
from html import escape
from typing import Any, Generic, TypeVar, cast

from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration

from ortoscope import resource_names
from ortoscope.errors import DeadlineExceeded, FailedPrecondition, OrtoscopeError, Unimplemented, from_status
from ortoscope.messages import to_datetime
from ortoscope.progress import Progress, shown, text_of
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.v1 import activations_pb2, dissections_pb2
from ortoscope.v1 import operations_pb2 as metadata_pb2

T_co = TypeVar("T_co", covariant=True)

_FIRST_POLL_SECONDS = 0.2
_LAST_POLL_SECONDS = 2.0
"""How long the server is asked to wait for the end before it tells of its progress: short at first, so that short
work ends promptly and is seen to move."""


_PAUSE_SECONDS = 0.5
"""Longest pause before a server is asked again that did not wait as long as it was asked to."""


class Operation(Generic[T_co]):
    """Work that the server does on its own: it outlives the client, the connection and a restart of the client.

    Attributes:
        proto: The google.longrunning.Operation as the server last sent it; `refresh` asks anew.
    """

    def __init__(self, rpcs: Rpcs, proto: Any) -> None:
        self._rpcs = rpcs
        self.proto = proto

    @property
    def name(self) -> str:
        """Resource name, `operations/{operation}`."""
        return str(self.proto.name)

    @property
    def done(self) -> bool:
        """Whether it had ended when it was last asked."""
        return bool(self.proto.done)

    @property
    def metadata(self) -> metadata_pb2.OperationMetadata:
        """What it does and how far it is, as last asked."""
        metadata = metadata_pb2.OperationMetadata()
        self.proto.metadata.Unpack(metadata)
        return metadata

    @property
    def state(self) -> str:
        """One of "queued", "running", "succeeded", "failed" and "cancelled"."""
        return metadata_pb2.OperationMetadata.State.Name(self.metadata.state).removeprefix("STATE_").lower()

    @property
    def create_time(self) -> datetime | None:
        """When it was accepted."""
        return to_datetime(self.metadata.create_time)

    @property
    def error(self) -> OrtoscopeError | None:
        """Why it failed, if it did."""
        return from_status(self.proto.error) if self.proto.HasField("error") else None

    def refresh(self) -> "Operation[T_co]":
        """Asks the server how far it is."""
        self.proto = self._rpcs.get_operation(operations_pb2.GetOperationRequest(name=self.name))
        return self

    def wait(self, timeout: float | None = None, *, progress: bool | Progress = False) -> "Operation[T_co]":
        """Waits until it has ended, in whatever way.

        An interrupt (Ctrl-C) ends the waiting, not the operation.

        Args:
            timeout: Most seconds to wait; None: as long as it takes.
            progress: True shows progress on stderr or in the notebook; a function is told of it.

        Raises:
            DeadlineExceeded: It had not ended in time; it goes on.
            OrtoscopeError: As Operations.WaitOperation.
        """
        with shown(progress, self.metadata.verb or self.name) as show:
            return self._wait(timeout, show)

    def result(self, timeout: float | None = None, *, progress: bool | Progress = False) -> T_co:
        """Waits until it has ended, and gives what it made.

        Args:
            timeout: As for `wait`.
            progress: As for `wait`.

        Raises:
            OrtoscopeError: Why it failed, or as `wait`.
        """
        self.wait(timeout, progress=progress)
        error = self.error
        if error is not None:
            raise error
        return cast("T_co", result_of(self._rpcs, self.proto))

    def cancel(self) -> None:
        """Asks the server to stop it; it then ends with the error CANCELLED. One that has ended stays as it is."""
        self._rpcs.cancel_operation(operations_pb2.CancelOperationRequest(name=self.name))

    def delete(self) -> None:
        """Removes the record of it; its result, if it has one, is kept."""
        self._rpcs.delete_operation(operations_pb2.DeleteOperationRequest(name=self.name))

    def _wait(self, timeout: float | None, show: Progress) -> "Operation[T_co]":
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = _FIRST_POLL_SECONDS
        while True:
            metadata = self.metadata
            show(metadata.stage or self.state, metadata.done_items, metadata.total_items)
            if self.done:
                return self
            left = poll if deadline is None else min(poll, deadline - time.monotonic())
            if left <= 0:
                raise DeadlineExceeded(
                    f"{self.name} had not ended after {timeout:g} s; it goes on.",
                    reason="OPERATION_NOT_DONE",
                    metadata={"operation": self.name},
                )
            duration = Duration()
            duration.FromMilliseconds(max(1, round(left * 1000)))
            request = operations_pb2.WaitOperationRequest(name=self.name, timeout=duration)
            asked = time.monotonic()
            self.proto = self._rpcs.wait_operation(request)
            if not self.done:  # a server with many waiting answers sooner than it was asked to
                time.sleep(max(0.0, min(left - (time.monotonic() - asked), _PAUSE_SECONDS)))
            poll = min(poll * 1.5, _LAST_POLL_SECONDS)

    def describe(self) -> str:
        """What it does, how far it is, and why it failed if it did, in lines."""
        metadata = self.metadata
        lines = [
            f"{self.name}: {metadata.verb} {self._about()}",
            f"{self.state}, {text_of(metadata.stage, metadata.done_items, metadata.total_items)}",
        ]
        times = (("created", metadata.create_time), ("started", metadata.start_time), ("ended", metadata.end_time))
        lines += [f"{name} {time:%Y-%m-%d %H:%M:%S} UTC" for name, stamp in times if (time := to_datetime(stamp))]
        if metadata.cancel_requested and not self.done:
            lines.append("it was asked to cancel")
        if self.error is not None:
            lines.append(f"error {self.error.code} {self.error.reason}: {self.error.message}".replace("  ", " "))
        return "\n".join(lines)

    def __repr__(self) -> str:
        metadata = self.metadata
        amount = text_of(metadata.stage, metadata.done_items, metadata.total_items)
        return f"<Operation {self.name}: {metadata.verb} {self._about()}, {self.state}, {amount}>"

    def _repr_html_(self) -> str:
        metadata = self.metadata
        amount = text_of(metadata.stage, metadata.done_items, metadata.total_items)
        bar = f'<progress max="{metadata.total_items or 1}" value="{metadata.done_items}"></progress> '
        what = escape(f"{metadata.verb} {self._about()}: {self.state}, {amount}")
        return f"<p><code>{escape(self.name)}</code><br>{bar}{what}</p>"

    def _about(self) -> str:
        metadata = self.metadata
        model = resource_names.short_model(resource_names.version_of_tap(metadata.target))
        dataset = resource_names.short_dataset(metadata.dataset)
        return f"{model} {resource_names.short_tap(metadata.target)}" + (f" on {dataset}" if dataset else "")


def result_of(rpcs: Rpcs, operation: Any) -> Any:
    """What a finished operation made: a Dissection or an ExampleSet.

    Raises:
        FailedPrecondition: OPERATION_WITHOUT_RESULT: the result was deleted.
        Unimplemented: RESULT_TYPE_UNKNOWN: the server is newer than this client.
    """
    # Imported here, because what they define starts operations in turn.
    # Both import this module.
    from ortoscope.dissections import Dissection  # noqa: PLC0415
    from ortoscope.examples import ExampleSet  # noqa: PLC0415

    makers: dict[Any, Callable[[Rpcs, Any], object]] = {
        dissections_pb2.Dissection: Dissection,
        activations_pb2.ExampleSet: ExampleSet,
    }
    response = operation.response
    for kind, make in makers.items():
        if response.Is(kind.DESCRIPTOR):
            message = kind()
            response.Unpack(message)
            return make(rpcs, message)
    if not response.type_url:
        raise FailedPrecondition(
            f"{operation.name} no longer has a result; it was deleted.",
            reason="OPERATION_WITHOUT_RESULT",
            metadata={"operation": operation.name},
        )
    raise Unimplemented(
        f"{operation.name} made a {response.type_url}, which this client does not know; install a newer one.",
        reason="RESULT_TYPE_UNKNOWN",
        metadata={"type": response.type_url},
    )


def list_operations(rpcs: Rpcs, *, done: bool | None = None) -> Table[Operation[Any]]:
    """Lists the server's operations.

    Args:
        rpcs: The calls.
        done: Only those that have ended, or only those that have not; None: all.
    """
    response = all_pages(rpcs.list_operations, list_request(done=done))
    return operation_table(rpcs, response)


def list_request(*, done: bool | None) -> Any:
    """The request for operations that have ended, that have not, or all."""
    condition = "" if done is None else f"done={str(done).lower()}"
    return operations_pb2.ListOperationsRequest(name="operations", filter=condition)


def operation_table(rpcs: Rpcs, response: Any) -> Table[Operation[Any]]:
    """The operations of a ListOperationsResponse."""

    def amount(operation: Operation[Any]) -> str:
        metadata = operation.metadata
        return f"{metadata.done_items}/{metadata.total_items}" if metadata.total_items else ""

    return Table(
        (Operation[Any](rpcs, entry) for entry in response.operations),
        (
            Column("operation", lambda operation: operation.name),
            Column("what", lambda operation: operation.metadata.verb),
            Column("state", lambda operation: operation.state),
            Column("done", amount, numeric=True),
            Column(
                "model",
                lambda operation: resource_names.short_model(resource_names.version_of_tap(operation.metadata.target)),
            ),
            Column("tap", lambda operation: resource_names.short_tap(operation.metadata.target)),
            Column("dataset", lambda operation: resource_names.short_dataset(operation.metadata.dataset)),
            Column("created", lambda operation: operation.create_time and f"{operation.create_time:%Y-%m-%d %H:%M:%S}"),
        ),
        title=f"{len(response.operations)} operation{'' if len(response.operations) == 1 else 's'}",
        names=lambda operation: (operation.name,),
    )
