"""Immutable files under the digest of their contents, shared by all processes that work on a store."""

import hashlib
import io
import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.errors import Code, OrtoscopeError

_TEMPORARY = "temporary"


class ArtifactWriter:
    """An artifact that is being written; made by `ArtifactStore.writer`.

    Attributes:
        digest: Its digest, 64 hexadecimal digits; known when the context was left.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.digest = ""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Appends bytes.

        Raises:
            OSError: The disk is full.
        """
        self._hash.update(data)
        return self._file.write(data)

    def _finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self.digest = self._hash.hexdigest()


class ArtifactStore:
    """Artifacts below a folder, which several processes may use at once.

    An artifact becomes visible by a rename after it was synced to disk: there is no moment at which half of one can be
    read. What the disk or someone else did to it since is found when it is read. Two processes that write the same
    artifact do no harm: the second replaces the first by equal bytes.

    Args:
        root: The folder. It is not made here, so that a process that outlives a deleted store does not bring back a
            piece of it: `make` makes it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / _TEMPORARY

    def make(self) -> None:
        """Makes the folder."""
        self._temporary.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where an artifact is, or would be."""
        return self._root / digest[:2] / digest

    def put_bytes(self, data: bytes) -> str:
        """Stores `data` and returns its digest, 64 hexadecimal digits. An artifact that was damaged is replaced.

        Raises:
            OrtoscopeError: DATA_LOSS, STORE_LOST: the folder is gone.
            OSError: The disk is full; nothing is left behind.
        """
        digest = hashlib.sha256(data).hexdigest()
        if not _holds(self.path(digest), data):
            with self.writer() as writer:
                writer.write(data)
        return digest

    @contextmanager
    def writer(self) -> Iterator[ArtifactWriter]:
        """Writes an artifact piece by piece; it is there when the context is left, and nothing of it after an error.

        Raises:
            OrtoscopeError: DATA_LOSS, STORE_LOST: the folder is gone.
            OSError: The disk is full.
        """
        with self._half_written() as temporary:
            with temporary.open("xb") as file:
                writer = ArtifactWriter(file)
                yield writer
                writer._finish()
            self.publish(temporary, writer.digest)

    def put_arrays(self, arrays: dict[str, NDArray[Any]]) -> str:
        """Stores what `pack_arrays` makes and returns its digest; the file is never in memory as a whole.

        Raises:
            OrtoscopeError: DATA_LOSS, STORE_LOST: the folder is gone.
            OSError: The disk is full; nothing is left behind.
        """
        with self._half_written() as temporary:
            with temporary.open("x+b") as file:
                np.savez(file, **cast("dict[str, Any]", arrays))
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = digest_of_file(file)
            self.publish(temporary, digest)
        return digest

    @contextmanager
    def _half_written(self) -> Iterator[Path]:
        """A path for what is not yet an artifact; no file is left there."""
        temporary = self._temporary / uuid.uuid4().hex
        try:
            yield temporary
        except FileNotFoundError as error:
            if not self._temporary.is_dir():
                raise store_lost() from error
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def publish(self, file: Path, digest: str) -> None:
        """Gives a file that is synced and has this digest its final place."""
        target = self.path(digest)
        target.parent.mkdir(exist_ok=True)
        file.replace(target)
        _sync_folder(target.parent)

    @contextmanager
    def open(self, digest: str) -> Iterator[io.BufferedReader]:
        """An artifact, to be read, after its digest was checked.

        Raises:
            OrtoscopeError: DATA_LOSS: ARTIFACT_MISSING, ARTIFACT_DAMAGED.
        """
        try:
            file = self.path(digest).open("rb")
        except FileNotFoundError:
            if not self._temporary.is_dir():
                raise store_lost() from None
            raise _lost("ARTIFACT_MISSING", "is no longer there", digest) from None
        with file:
            if digest_of_file(file) != digest:
                raise _lost("ARTIFACT_DAMAGED", "no longer has the bytes that were written", digest)
            file.seek(0)
            yield file

    def load(self, digest: str) -> bytes:
        """The contents of an artifact.

        Raises:
            OrtoscopeError: As `open` raises.
        """
        with self.open(digest) as file:
            return file.read()

    def delete(self, digest: str) -> None:
        """Deletes an artifact, if there is one."""
        self.path(digest).unlink(missing_ok=True)

    def withdraw(self, digest: str) -> Path | None:
        """Takes an artifact out of the store, which takes no time, however large it is.

        Returns:
            The file, which is to be deleted; None if there is nothing left to delete.
        """
        withdrawn = self._temporary / uuid.uuid4().hex
        try:
            self.path(digest).replace(withdrawn)
        except OSError:
            # It is not there, or the disk has no room for another name: then deleting it makes room.
            self.delete(digest)
            return None
        return withdrawn

    def sweep(self, keep: Collection[str] | None = None) -> None:
        """Deletes what was left half written, and, if `keep` is given, all artifacts but those."""
        for leftover in self._temporary.iterdir():
            leftover.unlink(missing_ok=True)
        if keep is None:
            return
        for path in self._root.glob("??/*"):
            if path.name not in keep:
                path.unlink(missing_ok=True)


def pack_arrays(arrays: dict[str, NDArray[Any]]) -> bytes:
    """The arrays as an .npz file whose bytes depend on nothing but them: NumPy writes a fixed date into it."""
    buffer = io.BytesIO()
    np.savez(buffer, **cast("dict[str, Any]", arrays))
    return buffer.getvalue()


def unpack_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file."""
    return read_arrays(io.BytesIO(data))


def read_arrays(file: BinaryIO) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file that is open."""
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def digest_of_file(file: io.BufferedIOBase) -> str:
    """The SHA-256 of the rest of a file, 64 hexadecimal digits."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def store_lost() -> OrtoscopeError:
    """The error for a store whose folder was deleted or replaced while a server used it."""
    return OrtoscopeError(
        Code.DATA_LOSS,
        "STORE_LOST",
        "The server's store was deleted or replaced while the server ran. Its operator must start it again, with the "
        "store put back or an empty one.",
    )


def _holds(file: Path, data: bytes) -> bool:
    """Whether a file is there and has these contents."""
    try:
        return file.stat().st_size == len(data) and file.read_bytes() == data
    except FileNotFoundError:
        return False


def _lost(reason: str, how: str, digest: str) -> OrtoscopeError:
    return OrtoscopeError(
        Code.DATA_LOSS,
        reason,
        f"The artifact {digest} {how}: the server's disk or someone on its machine changed it. Ask again.",
        metadata={"artifact": digest},
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
