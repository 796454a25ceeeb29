"""Finished results: a small message for each, and the blobs that hold its arrays."""

from collections.abc import Mapping
from dataclasses import dataclass

from ortoscope_service.errors import not_found
from ortoscope_service.jobs.blobs import BlobStore
from ortoscope_service.jobs.database import Database


@dataclass(frozen=True)
class Record:
    """A result."""

    sequence: int
    """Rises with every result of the store."""

    id: str
    """Its id."""

    message: bytes
    """The serialized message of the resource."""

    blobs: Mapping[str, str]
    """Digests of its blobs, by what they hold."""


class RecordStore:
    """The results of a store, by collection ("dissections", "exampleSets").

    A blob that results share is kept until the last of them is deleted.

    Args:
        database: Where they are recorded.
        blobs: Where their arrays are.
    """

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def add(self, collection: str, record_id: str, message: bytes, blobs: Mapping[str, str]) -> None:
        """Records a result whose blobs are stored already; call it in one transaction with storing them.

        Only so can no deletion of another result with equal arrays come in between and take the blobs away. A result of
        the same id is replaced in its place. Blobs that it alone named are kept as long as the new one: who has just
        been told of them may be reading.
        """
        with self._database.transaction() as sql:
            row = sql.execute(
                "SELECT sequence FROM records WHERE collection = ? AND id = ?", (collection, record_id)
            ).fetchone()
            named = dict(blobs)
            if row is None:
                sequence = sql.execute(
                    "INSERT INTO records (collection, id, message) VALUES (?, ?, ?)", (collection, record_id, message)
                ).lastrowid
            else:
                sequence = row["sequence"]
                sql.execute("UPDATE records SET message = ? WHERE sequence = ?", (message, sequence))
                before = sql.execute("SELECT digest FROM record_blobs WHERE record = ?", (sequence,)).fetchall()
                kept = {blob["digest"] for blob in before} - set(blobs.values())
                named |= {f"before.{digest}": digest for digest in kept}
                sql.execute("DELETE FROM record_blobs WHERE record = ?", (sequence,))
            sql.executemany(
                "INSERT INTO record_blobs VALUES (?, ?, ?)",
                [(sequence, role, digest) for role, digest in named.items()],
            )

    def get(self, collection: str, record_id: str, *, field: str = "name") -> Record:
        """A result.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_RESULT.
        """
        with self._database.transaction() as sql:
            row = sql.execute(
                "SELECT * FROM records WHERE collection = ? AND id = ?", (collection, record_id)
            ).fetchone()
            if row is None:
                raise not_found(
                    "UNKNOWN_RESULT",
                    f"There is no {collection}/{record_id} on this server; it may have been deleted.",
                    field=field,
                    result=f"{collection}/{record_id}",
                )
            blobs = sql.execute("SELECT role, digest FROM record_blobs WHERE record = ?", (row["sequence"],)).fetchall()
        return Record(row["sequence"], row["id"], row["message"], {b["role"]: b["digest"] for b in blobs})

    def list(self, collection: str, *, before: int | None = None, count: int) -> "list[tuple[int, bytes]]":
        """Sequence numbers and messages of the results of a collection, newest first.

        Args:
            collection: The collection.
            before: Only those with a smaller sequence number; all if None.
            count: Most results to return.
        """
        with self._database.transaction() as sql:
            rows = sql.execute(
                "SELECT sequence, message FROM records WHERE collection = ? AND sequence < ? "
                "ORDER BY sequence DESC LIMIT ?",
                (collection, before if before is not None else 2**62, count),
            ).fetchall()
        return [(row["sequence"], row["message"]) for row in rows]

    def delete(self, collection: str, record_id: str) -> None:
        """Deletes a result, and those of its blobs that no other result names.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_RESULT.
        """
        with self._database.condition:  # nothing is recorded between the end of the transaction and the last blob
            with self._database.transaction() as sql:
                record = self.get(collection, record_id)
                sql.execute("DELETE FROM records WHERE sequence = ?", (record.sequence,))
                unused = [
                    digest
                    for digest in record.blobs.values()
                    if not sql.execute("SELECT 1 FROM record_blobs WHERE digest = ?", (digest,)).fetchone()
                ]
            for digest in unused:
                self._blobs.delete(digest)
