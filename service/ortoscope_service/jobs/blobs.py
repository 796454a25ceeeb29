"""What clients read and write: results of operations, and uploads, each under the digest of its contents."""

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ortoscope_service.errors import Code, OrtoscopeError, invalid, not_found
from ortoscope_service.jobs.artifacts import ArtifactStore, digest_of_file

CHUNK_BYTES = 1024**2
"""Bytes per chunk of a blob that is read: large enough to amortise a message, small enough to hold many of."""

_EMPTY = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class BlobStatus:
    """How much of a blob there is."""

    committed_bytes: int
    """Bytes held."""

    complete: bool
    """Whether the blob is whole and its digest was checked."""


class BlobStore:
    """Blobs below a folder: complete ones in `complete/`, uploads under way in `partial/`.

    Args:
        root: The folder; made if it does not exist. Only one process may use it at a time.
    """

    def __init__(self, root: Path) -> None:
        self._complete = ArtifactStore(root / "complete")
        self._complete.make()
        self._complete.sweep()
        self._partial = root / "partial"
        self._partial.mkdir(exist_ok=True)
        # One lock for every first digit: hashing a large upload must not stop all others.
        self._locks = {digit: threading.Lock() for digit in "0123456789abcdef"}
        self._writers: dict[str, BlobWriter] = {}

    def put_bytes(self, data: bytes) -> str:
        """Stores `data` and returns its digest, 64 hexadecimal digits.

        Raises:
            OSError: The disk is full; nothing of the blob is left behind.
        """
        return self._complete.put_bytes(data)

    def status(self, digest: str) -> BlobStatus:
        """How much of a blob there is; nothing of an unknown one."""
        for path, complete in ((self._complete.path(digest), True), (self._partial / digest, False)):
            try:
                return BlobStatus(path.stat().st_size, complete)
            except FileNotFoundError:
                continue
        return BlobStatus(0, complete=False)

    def size(self, digest: str, *, field: str = "") -> int:
        """Size of a complete blob in bytes.

        Raises:
            OrtoscopeError: UNKNOWN_BLOB.
        """
        status = self.status(digest)
        if not status.complete:
            raise _unknown(digest, field)
        return status.committed_bytes

    def is_whole(self, digest: str) -> bool:
        """Whether a blob is complete and undamaged; a damaged one is deleted, so that it can be written again."""
        try:
            with self._complete.open(digest):
                return True
        except OrtoscopeError as error:
            if error.reason == "ARTIFACT_DAMAGED":
                self._complete.delete(digest)
            return False

    def read(self, digest: str, offset: int = 0, limit: int = 0, *, field: str = "") -> Iterator[bytes]:
        """Yields a blob, or a part of it, in chunks, after checking the digest of the whole.

        Args:
            digest: The blob.
            offset: First byte wanted.
            limit: Most bytes wanted; 0 for all.
            field: The request field to blame if there is no such blob.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_BLOB; OUT_OF_RANGE, BLOB_OFFSET; DATA_LOSS, BLOB_DAMAGED.
        """
        try:
            file = self._complete.path(digest).open("rb")
        except FileNotFoundError:
            raise _unknown(digest, field) from None
        with file:
            if digest_of_file(file) != digest:
                raise OrtoscopeError(
                    Code.DATA_LOSS,
                    "BLOB_DAMAGED",
                    f"The stored bytes of blobs/{digest} no longer have that digest: the server's disk or someone on "
                    "its machine changed them. Compute or upload it again.",
                    metadata={"blob": digest},
                )
            size = file.tell()
            if not 0 <= offset <= size:
                raise OrtoscopeError(
                    Code.OUT_OF_RANGE,
                    "BLOB_OFFSET",
                    f"offset {offset} does not lie in blobs/{digest}, which has {size} bytes.",
                    field="offset",
                    metadata={"offset": str(offset), "size_bytes": str(size)},
                )
            file.seek(offset)
            remaining = min(limit, size - offset) if limit else size - offset
            while remaining > 0:
                chunk = file.read(min(CHUNK_BYTES, remaining))
                remaining -= len(chunk)
                yield chunk

    def load(self, digest: str, *, field: str = "") -> bytes:
        """The contents of a blob.

        Raises:
            OrtoscopeError: As `read` raises.
        """
        return b"".join(self.read(digest, field=field))

    def write(self, digest: str, size: int, offset: int) -> "BlobWriter":
        """Begins or resumes the upload of a blob that is not complete.

        The upload takes the place of any other one of the same blob: that of a client whose connection broke may not
        have noticed yet.

        Raises:
            OrtoscopeError: INVALID_ARGUMENT: BLOB_SIZE, BLOB_OFFSET.
        """
        if size < 0 or (size == 0 and digest != _EMPTY):
            raise invalid(
                "BLOB_SIZE",
                f"size_bytes is {size}; the first message must tell the size of the whole blob.",
                field="size_bytes",
                size_bytes=size,
            )
        with self._locks[digest[0]]:
            committed = self.status(digest).committed_bytes
            if committed > size:  # someone announced another size for the same digest
                (self._partial / digest).unlink()
                committed = 0
            if offset != committed:
                raise invalid(
                    "BLOB_OFFSET",
                    f"offset is {offset}, but {committed} bytes of blobs/{digest} are committed; go on from there.",
                    field="offset",
                    offset=offset,
                    committed_bytes=committed,
                )
            writer = BlobWriter(self, digest, size)
            self._writers[digest] = writer
            return writer

    def delete(self, digest: str) -> None:
        """Deletes a complete blob, if there is one."""
        self._complete.delete(digest)

    def _append(self, writer: "BlobWriter", data: bytes) -> None:
        with self._locks[writer.digest[0]]:
            if self._writers.get(writer.digest) is not writer:
                raise OrtoscopeError(
                    Code.ABORTED,
                    "BLOB_TAKEN_OVER",
                    f"Another call took over the upload of blobs/{writer.digest}; query how much of it is committed.",
                    metadata={"blob": writer.digest},
                )
            path = self._partial / writer.digest
            with path.open("ab", buffering=0) as file:
                committed = file.tell()
                if committed + len(data) > writer.size:
                    raise invalid(
                        "BLOB_TOO_LONG",
                        f"More bytes came than the {writer.size} that were announced for blobs/{writer.digest}.",
                        field="data",
                        size_bytes=writer.size,
                    )
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                if committed + len(data) < writer.size:
                    return
                os.fsync(file.fileno())
            with path.open("rb") as readable:
                digest = digest_of_file(readable)
            if digest != writer.digest:
                path.unlink()
                raise invalid(
                    "BLOB_DIGEST",
                    f"The {writer.size} bytes have the digest {digest}, not that of blobs/{writer.digest}; they were "
                    "discarded.",
                    field="name",
                    digest=digest,
                    blob=writer.digest,
                )
            self._complete.publish(path, digest)

    def _release(self, writer: "BlobWriter") -> None:
        with self._locks[writer.digest[0]]:
            if self._writers.get(writer.digest) is writer:
                del self._writers[writer.digest]


class BlobWriter:
    """An upload; made by `BlobStore.write`. Use as a context manager.

    What was appended stays if the upload breaks off, so that it can be resumed.
    """

    def __init__(self, store: BlobStore, digest: str, size: int) -> None:
        self.digest = digest
        self.size = size
        self._store = store

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._store._release(self)

    def append(self, data: bytes) -> None:
        """Appends bytes; the blob is complete once there are as many as announced.

        Raises:
            OrtoscopeError: INVALID_ARGUMENT: BLOB_TOO_LONG; BLOB_DIGEST (the bytes are discarded). ABORTED:
                BLOB_TAKEN_OVER.
            OSError: The disk is full; what fitted stays.
        """
        self._store._append(self, data)


def _unknown(digest: str, field: str) -> OrtoscopeError:
    return not_found("UNKNOWN_BLOB", f"There is no complete blobs/{digest} on this server.", field=field, blob=digest)
