"""A server's folder for everything that must outlive it: operations, results, blobs."""

import fcntl
import os
import socket
from pathlib import Path

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.artifacts import BlobStore
from ortoscope_service.jobs.database import Database
from ortoscope_service.jobs.operations import OperationStore
from ortoscope_service.jobs.records import RecordStore
from ortoscope_service.jobs.requests import RequestLog


class Store:
    """An opened store, held by one server alone until it is closed.

    Args:
        root: The folder, on a local disk; made if it does not exist.
        max_pending_operations: Most operations that may wait or run at once.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, STORE_IN_USE: another server holds it.
    """

    def __init__(self, root: Path, max_pending_operations: int = 100) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.workspace = root / "work"
        self._lock = StoreLock(root / "server.lock")
        try:
            self._database = Database(root / "operations.db")
            self.blobs = BlobStore(root / "blobs")
            self.requests = RequestLog(self._database)
            self.operations = OperationStore(self._database, max_pending_operations)
            self.records = RecordStore(self._database, self.blobs)
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Closes the database and lets others have the store."""
        self._database.close()
        self._lock.release()


class StoreLock:
    """The operating system's lock on a file: it ends with its holder, however that ends.

    Args:
        path: The file; it tells who holds it.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, STORE_IN_USE.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._descriptor, 200).decode("utf-8", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "STORE_IN_USE",
                f"The store is held by another server ({holder}). Stop that one, or give this one a store of its own.",
                metadata={"holder": holder},
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the lock up."""
        os.close(self._descriptor)
