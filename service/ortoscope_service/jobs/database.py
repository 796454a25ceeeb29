"""The SQLite database of a store: one connection, one lock, short transactions."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE operations (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    verb TEXT NOT NULL,
    target TEXT NOT NULL,
    dataset TEXT NOT NULL,
    state TEXT NOT NULL,
    stage TEXT NOT NULL DEFAULT '',
    done_items INTEGER NOT NULL DEFAULT 0,
    total_items INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    create_time REAL NOT NULL,
    start_time REAL,
    end_time REAL,
    result TEXT,
    error TEXT
);
CREATE INDEX operations_by_state ON operations (state);
CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    outcome TEXT NOT NULL
);
CREATE INDEX requests_by_outcome ON requests (outcome);
CREATE TABLE records (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    message BLOB NOT NULL,
    UNIQUE (collection, id)
);
CREATE TABLE record_blobs (
    record INTEGER NOT NULL REFERENCES records (sequence) ON DELETE CASCADE,
    role TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (record, role)
);
CREATE INDEX record_blobs_by_digest ON record_blobs (digest);
"""


class UnknownVersionError(Exception):
    """The database was written by another version of the service."""


class Database:
    """A SQLite file on a local disk, in WAL mode; safe for use by many threads.

    Args:
        path: The file; made with its tables if it does not exist.

    Raises:
        sqlite3.DatabaseError: The file is no database.
        UnknownVersionError: It was written by another version of the service.
    """

    def __init__(self, path: Path) -> None:
        self.condition = threading.Condition(threading.RLock())
        """Held during every transaction; notified when an operation ends."""
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 10000"):
            self._connection.execute(f"PRAGMA {pragma}")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
        elif version != _SCHEMA_VERSION:
            self._connection.close()
            raise UnknownVersionError(f"it is of version {version}, this service reads version {_SCHEMA_VERSION}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Runs the body as one transaction, undone as a whole if it raises. Nested use joins the outer one."""
        with self.condition:
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite undoes the transaction by itself after some errors, a full disk among them.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Closes the file; unfinished transactions of other threads end first."""
        with self.condition:
            self._connection.close()
