"""The SQLite database of a store: one connection, one lock, short transactions."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ortoscope_service.jobs.artifacts import store_lost

_SCHEMA_VERSION = 2
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

# From each version to the next; a new database takes all of these steps after the first schema.
_MIGRATIONS = {
    1: """
ALTER TABLE operations ADD COLUMN spec TEXT NOT NULL DEFAULT '{}';
ALTER TABLE operations ADD COLUMN draft BLOB NOT NULL DEFAULT x'';
ALTER TABLE operations ADD COLUMN estimate REAL;
ALTER TABLE operations ADD COLUMN time_limit REAL;
ALTER TABLE operations ADD COLUMN ended_at_uptime REAL;
ALTER TABLE operations ADD COLUMN job TEXT NOT NULL DEFAULT '';
CREATE INDEX operations_by_job ON operations (job);
UPDATE operations SET ended_at_uptime = 0;
UPDATE operations SET state = 'failed', end_time = create_time, error = '{"code": "ABORTED", "reason":
"SERVER_UPGRADED", "field": "", "metadata": {}, "message":
"A newer version of the server cannot go on with this. Ask again."}'
WHERE state IN ('queued', 'running');
CREATE TABLE shards (
    key TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    outcome TEXT NOT NULL
);
CREATE INDEX shards_by_job ON shards (job);
CREATE TABLE shard_artifacts (
    shard TEXT NOT NULL REFERENCES shards (key) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    PRIMARY KEY (shard, digest)
);
CREATE INDEX shard_artifacts_by_digest ON shard_artifacts (digest);
CREATE TABLE uptime (seconds REAL NOT NULL);
INSERT INTO uptime VALUES (0);
""",
}


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
        if version > _SCHEMA_VERSION:
            self._connection.close()
            raise UnknownVersionError(f"it is of version {version}, this service reads version {_SCHEMA_VERSION}")
        if version < _SCHEMA_VERSION:
            steps = [_SCHEMA] if version == 0 else []
            steps += [_MIGRATIONS[number] for number in range(max(1, version), _SCHEMA_VERSION)]
            script = "".join(steps)
            self._connection.executescript(f"BEGIN; {script} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
        self._path = path
        self._inode = path.stat().st_ino

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Runs the body as one transaction, undone as a whole if it raises. Nested use joins the outer one.

        Raises:
            OrtoscopeError: DATA_LOSS, STORE_LOST: the file was deleted or replaced; SQLite would go on writing to what
                no one can ever read again.
        """
        with self.condition:
            if self._connection.in_transaction:
                yield self._connection
                return
            if not self.is_there():
                raise store_lost()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite undoes the transaction by itself after some errors, a full disk among them.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def is_there(self) -> bool:
        """Whether the file that was opened is still the one under its name."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Closes the file; unfinished transactions of other threads end first."""
        with self.condition:
            self._connection.close()
