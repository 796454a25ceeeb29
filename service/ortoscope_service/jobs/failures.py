"""Turns whatever went wrong into an error that may leave the service."""

import errno
import logging
import sqlite3
import uuid

from ortoscope_service.errors import Code, OrtoscopeError

_LOG = logging.getLogger(__name__)
_DISK_FULL_ERRNO = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})
_DISK_FULL_SQLITE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})


def as_ortoscope_error(error: BaseException) -> OrtoscopeError:
    """The error to tell of `error`.

    An OrtoscopeError stays as it is; a full disk becomes DISK_FULL and exhausted memory OUT_OF_MEMORY, both
    RESOURCE_EXHAUSTED. Anything else becomes INTERNAL with an id: its text may hold paths and data, so it is
    written, with the traceback, to the log alone.
    """
    if isinstance(error, OrtoscopeError):
        return error
    if is_disk_full(error):
        return OrtoscopeError(
            Code.RESOURCE_EXHAUSTED,
            "DISK_FULL",
            "The server's disk is full, so nothing was stored. Ask its operator to free space, or delete results that "
            "are not needed any more, then try again.",
        )
    if isinstance(error, MemoryError):
        return OrtoscopeError(
            Code.RESOURCE_EXHAUSTED,
            "OUT_OF_MEMORY",
            "The server has not enough memory for this. Ask for fewer items at a time.",
        )
    error_id = uuid.uuid4().hex
    _LOG.error("internal error %s", error_id, exc_info=error)
    return OrtoscopeError(
        Code.INTERNAL,
        "INTERNAL",
        f"The server failed in a way that it does not expect; its log tells more under error id {error_id}.",
        metadata={"error_id": error_id},
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` says that the disk, a quota or the largest file size is exhausted."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL_ERRNO
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in _DISK_FULL_SQLITE
