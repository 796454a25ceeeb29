# ruff: noqa: N818 - the classes carry the names of google.rpc.Code, as those of google.api_core do
"""What a call can fail with.

Every failure is an `OrtoscopeError`; its subclasses are the codes of google.rpc.Code. The server sends a reason, the
field at fault and every value that the message mentions, so that a program need not parse the message.
"""

from collections.abc import Mapping
from typing import ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


class OrtoscopeError(Exception):
    """A failed call, or input that could not be sent.

    Attributes:
        code: The kind of failure, a name of google.rpc.Code such as "NOT_FOUND".
        reason: UPPER_SNAKE_CASE identifier, stable across releases, such as "UNKNOWN_TAP"; may be empty.
        message: What is wrong and what to do about it.
        field: The request field at fault, such as "taps[0].tap"; may be empty.
        metadata: The values that the message mentions, by name.
    """

    code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self, message: str, *, reason: str = "", field: str = "", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})

    def to_dict(self) -> dict[str, object]:
        """The error as plain data: code, reason, message, field and metadata."""
        return {
            "code": self.code,
            "reason": self.reason,
            "message": self.message,
            "field": self.field,
            "metadata": self.metadata,
        }


class Cancelled(OrtoscopeError):
    """The call or operation was cancelled."""

    code = "CANCELLED"


class InvalidArgument(OrtoscopeError):
    """The request is wrong in itself."""

    code = "INVALID_ARGUMENT"


class DeadlineExceeded(OrtoscopeError):
    """No answer came within the time allowed."""

    code = "DEADLINE_EXCEEDED"


class NotFound(OrtoscopeError):
    """There is nothing of that name."""

    code = "NOT_FOUND"


class AlreadyExists(OrtoscopeError):
    """There is something of that name already."""

    code = "ALREADY_EXISTS"


class PermissionDenied(OrtoscopeError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class ResourceExhausted(OrtoscopeError):
    """A limit was exceeded, or something is full."""

    code = "RESOURCE_EXHAUSTED"


class FailedPrecondition(OrtoscopeError):
    """The request is sound but what it refers to is not in a state to serve it."""

    code = "FAILED_PRECONDITION"


class Aborted(OrtoscopeError):
    """The work was broken off, for example by a restart of the server."""

    code = "ABORTED"


class OutOfRange(OrtoscopeError):
    """A position lies beyond the end."""

    code = "OUT_OF_RANGE"


class Unimplemented(OrtoscopeError):
    """The server does not know this call."""

    code = "UNIMPLEMENTED"


class Internal(OrtoscopeError):
    """The server failed; its log says why."""

    code = "INTERNAL"


class Unavailable(OrtoscopeError):
    """The server cannot be reached at present."""

    code = "UNAVAILABLE"


class DataLoss(OrtoscopeError):
    """Stored or transferred bytes are damaged."""

    code = "DATA_LOSS"


class Unauthenticated(OrtoscopeError):
    """The caller did not prove who it is."""

    code = "UNAUTHENTICATED"


_BY_NUMBER: dict[int, type[OrtoscopeError]] = {
    1: Cancelled,
    3: InvalidArgument,
    4: DeadlineExceeded,
    5: NotFound,
    6: AlreadyExists,
    7: PermissionDenied,
    8: ResourceExhausted,
    9: FailedPrecondition,
    10: Aborted,
    11: OutOfRange,
    12: Unimplemented,
    13: Internal,
    14: Unavailable,
    15: DataLoss,
    16: Unauthenticated,
}


def from_status(status: status_pb2.Status) -> OrtoscopeError:
    """The error that a google.rpc.Status describes, such as that of a failed operation."""
    reason, field, metadata = "", "", {}
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad_request = error_details_pb2.BadRequest()
            detail.Unpack(bad_request)
            if bad_request.field_violations:
                field = bad_request.field_violations[0].field
    kind = _BY_NUMBER.get(status.code, OrtoscopeError)
    return kind(status.message or kind.__doc__ or "", reason=reason, field=field, metadata=metadata)


def from_rpc_error(error: grpc.RpcError, target: str, timeout: float | None) -> OrtoscopeError:
    """The error that a failed call describes.

    Args:
        error: What gRPC raised; it is a `grpc.Call` too.
        target: The server as the user named it.
        timeout: The time that the call was given, in seconds.
    """
    assert isinstance(error, grpc.Call)
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):  # details that contradict the call, or are no google.rpc.Status
        status = None
    if status is not None:
        return from_status(status)
    return _without_details(error, target, timeout)


def _without_details(error: grpc.Call, target: str, timeout: float | None) -> OrtoscopeError:
    """The error for a status that gRPC itself made up: the server had no part in it."""
    code: grpc.StatusCode = error.code()
    details = error.details() or ""
    metadata = {"target": target, "details": details}
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(
            f"No Ortoscope server answers at {target}. Start one with `ortoscope-server serve --models DIR "
            f"--datasets DIR --store DIR --listen {target}`, or say where one runs (--target, ORTOSCOPE_TARGET, "
            f'ortoscope.connect("HOST:PORT")).{_tls_hint(details)}',
            reason="SERVER_UNREACHABLE",
            metadata=metadata,
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        given = f"within {timeout:g} s" if timeout is not None else "in time"
        return DeadlineExceeded(
            f"{target} did not answer {given}; give the call more time (ortoscope.connect(..., timeout=...)).",
            reason="DEADLINE_EXCEEDED",
            metadata=metadata,
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unimplemented(
            f"The server at {target} does not know this call: it is no Ortoscope server, or one of another version.",
            reason="UNKNOWN_CALL",
            metadata=metadata,
        )
    kind = _BY_NUMBER.get(int(code.value[0]), OrtoscopeError)
    return kind(details or f"The call to {target} failed with {code.name}.", metadata=metadata)


def _tls_hint(details: str) -> str:
    lowered = details.lower()
    if "ssl" in lowered or "tls" in lowered or "handshake" in lowered or "certificate" in lowered:
        return f" Something answers, but the two do not agree on TLS: {details}"
    return ""
