"""The one exception that crosses module borders: a typed error that names the field, the value and the remedy.

Every layer raises `OrtoscopeError`; only `ortoscope_service.api.errors` knows how it looks on the wire
(a gRPC status with google.rpc.ErrorInfo and, where a request field is at fault, google.rpc.BadRequest).
"""

import enum
from collections.abc import Mapping
from typing import Any


class Code(enum.Enum):
    """The kind of failure; names are those of google.rpc.Code."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    ABORTED = "ABORTED"
    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    DATA_LOSS = "DATA_LOSS"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


class OrtoscopeError(Exception):
    """A failure that the caller can understand and act on.

    Args:
        code: The kind of failure.
        reason: UPPER_SNAKE_CASE identifier, stable across releases (google.rpc.ErrorInfo.reason).
        message: One or two sentences: what is wrong, with the offending value, and what to do about it.
            Never contains paths of the server or text of foreign exceptions.
        field: The request field at fault, as a proto field path such as `taps[1].tap`; empty if none is.
        metadata: Every dynamic value of the message, by name (AIP-193).
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        message: str,
        *,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})


def invalid(reason: str, message: str, *, field: str = "", **metadata: object) -> OrtoscopeError:
    """An INVALID_ARGUMENT error; keyword arguments become its metadata."""
    return OrtoscopeError(
        Code.INVALID_ARGUMENT, reason, message, field=field, metadata={k: str(v) for k, v in metadata.items()}
    )


def not_found(reason: str, message: str, *, field: str = "", **metadata: object) -> OrtoscopeError:
    """A NOT_FOUND error; keyword arguments become its metadata."""
    return OrtoscopeError(
        Code.NOT_FOUND, reason, message, field=field, metadata={k: str(v) for k, v in metadata.items()}
    )


def error_to_json(error: OrtoscopeError) -> dict[str, Any]:
    """An error as JSON, to be kept or to travel between processes."""
    return {
        "code": error.code.value,
        "reason": error.reason,
        "message": error.message,
        "field": error.field,
        "metadata": error.metadata,
    }


def error_from_json(parts: Mapping[str, Any]) -> OrtoscopeError:
    """The error that `error_to_json` was given."""
    return OrtoscopeError(
        Code(parts["code"]), parts["reason"], parts["message"], field=parts["field"], metadata=parts["metadata"]
    )
