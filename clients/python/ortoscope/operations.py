"""Handles of the server's long-running operations."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from html import escape
from typing import Any, Generic, TypeVar, cast

from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration

from ortoscope import resource_names
from ortoscope.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    OrtoscopeError,
    Unavailable,
    Unimplemented,
    from_status,
)
from ortoscope.messages import to_datetime
from ortoscope.patience import GIVE_UP_AFTER, Patience
from ortoscope.progress import Display, Progress, shown, text_of
from ortoscope.rpcs import Rpcs
from ortoscope.v1 import activations_pb2, atlases_pb2, dissections_pb2, visualization_pb2
from ortoscope.v1 import operations_pb2 as metadata_pb2

T_co = TypeVar("T_co", covariant=True)

_FIRST_POLL_SECONDS = 0.2
_LAST_POLL_SECONDS = 2.0
"""How long the server is asked to wait for the end before it tells of its progress: short at first, so that short
work ends promptly and is seen to move."""


_PAUSE_SECONDS = 0.5
"""Longest pause before a server is asked again that did not wait as long as it was asked to."""


class Operation(Generic[T_co]):
    """Work that the server does on its own: it outlives the client, the connection and a restart of the server.

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
    def start_time(self) -> datetime | None:
        """When work on it began."""
        return to_datetime(self.metadata.start_time)

    @property
    def end_time(self) -> datetime | None:
        """When it ended."""
        return to_datetime(self.metadata.end_time)

    @property
    def deadline(self) -> datetime | None:
        """When it ends with DEADLINE_EXCEEDED unless it is done; None without a time limit."""
        return to_datetime(self.metadata.deadline)

    @property
    def estimated_time_left(self) -> timedelta | None:
        """How much longer it will run, as the server last estimated; None while nothing is known."""
        metadata = self.metadata
        if not metadata.HasField("estimated_time_left"):
            return None
        left: timedelta = metadata.estimated_time_left.ToTimedelta()
        return left

    @property
    def error(self) -> OrtoscopeError | None:
        """Why it failed, if it did."""
        return from_status(self.proto.error) if self.proto.HasField("error") else None

    def refresh(self) -> "Operation[T_co]":
        """Asks the server how far it is."""
        self.proto = self._rpcs.get_operation(operations_pb2.GetOperationRequest(name=self.name))
        return self

    def wait(
        self, timeout: float | None = None, *, progress: bool | Progress = False, give_up_after: float = GIVE_UP_AFTER
    ) -> "Operation[T_co]":
        """Waits until it has ended, in whatever way.

        A server that does not answer is asked again: it may be restarting, and the operation outlives that. An
        interrupt (Ctrl-C) ends the waiting, not the operation.

        Args:
            timeout: Most seconds to wait; None: as long as it takes.
            progress: True shows progress on stderr or in the notebook; a function is told of it.
            give_up_after: Seconds without any answer after which to give up; 0: at once.

        Raises:
            DeadlineExceeded: OPERATION_NOT_DONE: it had not ended in time; it goes on.
            Unavailable: SERVER_UNREACHABLE: the server did not answer for too long.
            OrtoscopeError: As Operations.WaitOperation.
        """
        with shown(progress, self.metadata.verb or self.name) as show:
            return self._wait(timeout, show, Patience(self._rpcs.target, give_up_after))

    def result(
        self, timeout: float | None = None, *, progress: bool | Progress = False, give_up_after: float = GIVE_UP_AFTER
    ) -> T_co:
        """Waits until it has ended, and gives what it made.

        Args:
            timeout: As for `wait`.
            progress: As for `wait`.
            give_up_after: As for `wait`.

        Raises:
            OrtoscopeError: Why it failed, or as `wait`.
        """
        self.wait(timeout, progress=progress, give_up_after=give_up_after)
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

    def _wait(self, timeout: float | None, show: Display, patience: Patience) -> "Operation[T_co]":
        until = None if timeout is None else time.monotonic() + timeout
        poll = _FIRST_POLL_SECONDS
        while True:
            metadata = self.metadata
            show(metadata.stage or self.state, metadata.done_items, metadata.total_items, seconds_left(self))
            if self.done:
                return self
            left = poll if until is None else min(poll, until - time.monotonic())
            if left <= 0:
                raise DeadlineExceeded(
                    f"{self.name} had not ended after {timeout:g} s; it goes on.",
                    reason="OPERATION_NOT_DONE",
                    metadata={"operation": self.name},
                )
            asked = time.monotonic()
            call = partial(self._rpcs.wait_operation, self._wait_request(left))
            try:
                self.proto = patience.ask(call, lambda words: show(words, 0, 0), until=until)
            except Unavailable:
                if until is None or time.monotonic() < until:
                    raise
                continue
            if not self.done:  # a server with many waiting answers sooner than it was asked to
                time.sleep(max(0.0, min(left - (time.monotonic() - asked), _PAUSE_SECONDS)))
            poll = min(poll * 1.5, _LAST_POLL_SECONDS)

    def _wait_request(self, seconds: float) -> Any:
        duration = Duration()
        duration.FromMilliseconds(max(1, round(seconds * 1000)))
        return operations_pb2.WaitOperationRequest(name=self.name, timeout=duration)

    def describe(self) -> str:
        """What it does, how far it is, how long it will still take, and why it failed if it did, in lines."""
        metadata = self.metadata
        lines = [f"{self.name}: {metadata.verb} {subject(self)}", f"{self.state}, {self._progress()}"]
        times = (
            ("created", self.create_time),
            ("started", self.start_time),
            ("ended", self.end_time),
            ("must end by", self.deadline),
        )
        lines += [f"{name} {moment:%Y-%m-%d %H:%M:%S} UTC" for name, moment in times if moment]
        if metadata.cancel_requested and not self.done:
            lines.append("it was asked to cancel")
        if self.error is not None:
            lines.append(f"error {self.error.code} {self.error.reason}: {self.error.message}".replace("  ", " "))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Operation {self.name}: {self.metadata.verb} {subject(self)}, {self.state}, {self._progress()}>"

    def _repr_html_(self) -> str:
        metadata = self.metadata
        bar = f'<progress max="{metadata.total_items or 1}" value="{metadata.done_items}"></progress> '
        what = escape(f"{metadata.verb} {subject(self)}: {self.state}, {self._progress()}")
        return f"<p><code>{escape(self.name)}</code><br>{bar}{what}</p>"

    def _progress(self) -> str:
        metadata = self.metadata
        if self.done:  # the stage that it ended in says nothing any more
            return text_of("", metadata.done_items, metadata.total_items) if metadata.total_items else "nothing done"
        return text_of(metadata.stage, metadata.done_items, metadata.total_items, seconds_left(self))


def seconds_left(operation: Operation[Any]) -> float | None:
    """How many seconds an operation will still take, as the server last estimated."""
    left = operation.estimated_time_left
    return None if left is None else left.total_seconds()


def subject(operation: Operation[Any]) -> str:
    """What an operation works on, as people write it: model, tap and dataset."""
    metadata = operation.metadata
    model = resource_names.short_model(resource_names.version_of_tap(metadata.target))
    dataset = resource_names.short_dataset(metadata.dataset)
    return f"{model} {resource_names.short_tap(metadata.target)}" + (f" on {dataset}" if dataset else "")


_RESULTS = (
    dissections_pb2.Dissection,
    activations_pb2.ExampleSet,
    visualization_pb2.UnitSheet,
    atlases_pb2.Atlas,
    atlases_pb2.AtlasProjection,
    atlases_pb2.AtlasComparison,
)
"""What operations make."""


def result_name(operation: Any) -> str:
    """Resource name of what a google.longrunning.Operation made; empty if it made nothing that this client knows."""
    for kind in _RESULTS:
        if operation.response.Is(kind.DESCRIPTOR):
            message: Any = kind()
            operation.response.Unpack(message)
            return str(message.name)
    return ""


def result_of(rpcs: Rpcs, operation: Any) -> Any:
    """What a finished operation made: a Dissection, ExampleSet, UnitSheet, Atlas, AtlasProjection or AtlasComparison.

    Raises:
        FailedPrecondition: OPERATION_WITHOUT_RESULT: the result was deleted.
        Unimplemented: RESULT_TYPE_UNKNOWN: the server is newer than this client.
    """
    # Imported here, because what they define starts operations in turn.
    # Both import this module.
    from ortoscope.atlas_changes import AtlasComparison, AtlasProjection  # noqa: PLC0415
    from ortoscope.atlases import Atlas  # noqa: PLC0415
    from ortoscope.dissections import Dissection  # noqa: PLC0415
    from ortoscope.examples import ExampleSet  # noqa: PLC0415
    from ortoscope.unit_sheets import UnitSheet  # noqa: PLC0415

    makers: dict[Any, Callable[[Rpcs, Any], object]] = {
        dissections_pb2.Dissection: Dissection,
        activations_pb2.ExampleSet: ExampleSet,
        visualization_pb2.UnitSheet: UnitSheet,
        atlases_pb2.Atlas: Atlas,
        atlases_pb2.AtlasProjection: AtlasProjection,
        atlases_pb2.AtlasComparison: AtlasComparison,
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
