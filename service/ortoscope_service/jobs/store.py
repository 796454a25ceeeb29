"""A server's folder for everything that must outlive it: operations, results, blobs."""

import fcntl
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.artifacts import ArtifactStore, store_lost
from ortoscope_service.jobs.blobs import BlobStore
from ortoscope_service.jobs.database import Database, UnknownVersionError
from ortoscope_service.jobs.failures import as_ortoscope_error, is_disk_full
from ortoscope_service.jobs.kept_results import KeptResults
from ortoscope_service.jobs.operations import OperationStore
from ortoscope_service.jobs.records import RecordStore
from ortoscope_service.jobs.requests import RequestLog
from ortoscope_service.jobs.shards import ShardLog
from ortoscope_service.jobs.tasks import ARTIFACTS, PERMITS


class Store:
    """An opened store, held by one server alone until it is closed.

    Args:
        root: The folder, on a local disk; made if it does not exist.
        max_pending_operations: Most operations that may wait or run at once.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION: STORE_IN_USE: another server holds it; STORE_UNUSABLE: it cannot be
            written, or another version of the service made it. RESOURCE_EXHAUSTED, DISK_FULL.
    """

    def __init__(self, root: Path, max_pending_operations: int = 100) -> None:
        with _usable():
            root.mkdir(parents=True, exist_ok=True)
            self._lock = StoreLock(root / "server.lock")
            self._open(root, max_pending_operations)

    def _open(self, root: Path, max_pending_operations: int) -> None:
        try:
            self._database = Database(root / "operations.db")
            self.blobs = BlobStore(root / "blobs")
            self.artifacts = ArtifactStore(root / ARTIFACTS)
            self.artifacts.make()
            _empty(root / PERMITS)
            self.requests = RequestLog(self._database)
            self.operations = OperationStore(self._database, max_pending_operations)
            self.records = RecordStore(self._database, self.blobs)
            self.visualizations = KeptResults(self._database, self.records, self.blobs, "visualizations")
            self.shards = ShardLog(self._database, self.artifacts)
        except BaseException:
            self._lock.release()
            raise

    def check(self) -> None:
        """Refuses a store that was deleted or replaced since it was opened.

        Raises:
            OrtoscopeError: DATA_LOSS, STORE_LOST.
        """
        if not self._database.is_there():
            raise store_lost()

    def close(self) -> None:
        """Closes the database and lets others have the store."""
        self._database.close()
        self._lock.release()


def _empty(folder: Path) -> None:
    """Makes an empty folder, whatever an earlier server left in it."""
    folder.mkdir(exist_ok=True)
    for leftover in folder.iterdir():
        leftover.unlink(missing_ok=True)


@contextmanager
def _usable() -> Iterator[None]:
    """Turns what prevents a store from being opened into typed errors."""
    try:
        yield
    except (OSError, sqlite3.Error, UnknownVersionError) as error:
        if is_disk_full(error):
            raise as_ortoscope_error(error) from error
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "STORE_UNUSABLE",
            f"The store cannot be opened: {cause}. Check the folder and its permissions, or choose another one.",
            metadata={"cause": str(cause)},
        ) from error


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
