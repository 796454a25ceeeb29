"""Results of calls that are kept for when the same is asked for again."""

import json
from collections.abc import Mapping
from typing import Any

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.blobs import BlobStore
from ortoscope_service.jobs.database import Database
from ortoscope_service.jobs.records import RecordStore

_CONTENT = "content"
_PAGE = 1000


class KeptResults:
    """Results by the digest of everything that decides them, in a collection of the store's records.

    Whatever happened to one (deleted, damaged) it is as if there were none. Age is counted in seconds that servers had
    the store open, as that of operations.

    Args:
        database: Where the uptime is recorded.
        records: Where they are recorded.
        blobs: Where their contents are.
        collection: The collection.
    """

    def __init__(self, database: Database, records: RecordStore, blobs: BlobStore, collection: str) -> None:
        self._database = database
        self._records = records
        self._blobs = blobs
        self._collection = collection

    def find(self, key: str) -> bytes | None:
        """A result; None if there is none, or none that is whole. A damaged one is deleted."""
        try:
            record = self._records.get(self._collection, key)
        except OrtoscopeError:
            return None
        digest = record.blobs[_CONTENT]
        try:
            return self._blobs.load(digest)
        except OrtoscopeError as error:
            if error.code not in {Code.NOT_FOUND, Code.DATA_LOSS}:
                raise
        self._delete(key)
        self._blobs.is_whole(digest)  # deletes it if another result holds on to the damaged blob
        return None

    def keep(self, key: str, content: bytes, most_bytes: int, beside: Mapping[str, bytes] | None = None) -> None:
        """Keeps a result; older ones go if there are more bytes of them than allowed.

        Args:
            key: What decides it: 64 hexadecimal digits.
            content: The result.
            most_bytes: Most bytes that results may have together; a larger one is not kept.
            beside: What shall live as long as it does, by what it is.

        Raises:
            OSError: The disk is full.
        """
        blobs = {_CONTENT: content, **(beside or {})}
        size = sum(len(data) for data in blobs.values())
        if size > most_bytes:
            return
        for data in blobs.values():  # what takes long, before others have to wait
            self._blobs.put_bytes(data)
        with self._database.transaction() as sql:
            self._delete(key)
            (uptime,) = sql.execute("SELECT seconds FROM uptime").fetchone()
            message = json.dumps({"key": key, "bytes": size, "uptime": uptime})
            # Again, for an equal blob may have been deleted with another result since.
            digests = {role: self._blobs.put_bytes(data) for role, data in blobs.items()}
            self._records.add(self._collection, key, message.encode(), digests)
        self._trim(most_bytes)

    def expire(self, retention_seconds: float) -> None:
        """Deletes the results that were made more than so many seconds of uptime ago."""
        with self._database.transaction() as sql:
            (uptime,) = sql.execute("SELECT seconds FROM uptime").fetchone()
        for kept in self._all():
            if kept["uptime"] < uptime - retention_seconds:
                self._delete(kept["key"])

    def _trim(self, most_bytes: int) -> None:
        total = 0
        for kept in self._all():
            total += kept["bytes"]
            if total > most_bytes:
                self._delete(kept["key"])

    def _all(self) -> list[dict[str, Any]]:
        """What is known of each, newest first."""
        found: list[dict[str, Any]] = []
        before: int | None = None
        while page := self._records.list(self._collection, before=before, count=_PAGE):
            found += [json.loads(message) for _, message in page]
            before = page[-1][0]
        return found

    def _delete(self, key: str) -> None:
        try:
            self._records.delete(self._collection, key)
        except OrtoscopeError as error:
            if error.code is not Code.NOT_FOUND:
                raise
