"""Transfer of blobs: in chunks, taken up again where they broke off, checked against the digest in the name."""

import hashlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ortoscope import resource_names
from ortoscope.errors import Aborted, DataLoss, OrtoscopeError, Unavailable
from ortoscope.rpcs import Rpcs
from ortoscope.v1 import blobs_pb2

_CHUNK_BYTES = 1024 * 1024
"""Large enough that a chunk costs little beside its bytes, small enough for any message limit."""

_ATTEMPTS = 5
"""How often in a row a transfer may break off without having moved a byte."""

_PAUSE_SECONDS = 0.2
"""Before the first new attempt; doubled at each further one."""


def download(rpcs: Rpcs, name: str, sink: BinaryIO) -> int:
    """Writes a blob to a file object.

    Args:
        rpcs: The calls.
        name: Resource name, `blobs/{sha256}`.
        sink: Where the bytes go; written from its present position on.

    Returns:
        The number of bytes.

    Raises:
        DataLoss: BLOB_DAMAGED: the bytes do not have the digest of the name.
        OrtoscopeError: As Blobs.ReadBlob; Unavailable after five attempts in a row that moved nothing.
    """
    expected = resource_names.blob_digest(name)
    digest, held, failures = hashlib.sha256(), 0, 0
    while True:
        before = held
        try:
            for chunk in rpcs.read_blob(blobs_pb2.ReadBlobRequest(name=name, offset=held)):
                sink.write(chunk.data)
                digest.update(chunk.data)
                held += len(chunk.data)
            break
        except Unavailable:
            failures = failures + 1 if held == before else 0
            _pause_or_raise(failures)
    if digest.hexdigest() != expected:
        raise DataLoss(
            f"The {held} bytes received for {name} do not have that digest; they were damaged on the way or on the "
            "server.",
            reason="BLOB_DAMAGED",
            metadata={"name": name, "digest": digest.hexdigest()},
        )
    return held


def download_bytes(rpcs: Rpcs, name: str) -> bytes:
    """A blob's bytes; see `download`."""
    sink = io.BytesIO()
    download(rpcs, name, sink)
    return sink.getvalue()


def upload(rpcs: Rpcs, source: bytes | Path) -> str:
    """Sends a file or bytes to the server, which keeps them under their digest.

    What the server holds already is not sent again.

    Args:
        rpcs: The calls.
        source: The bytes, or the file that holds them.

    Returns:
        Resource name, `blobs/{sha256}`.

    Raises:
        OrtoscopeError: As Blobs.WriteBlob; Unavailable after five attempts in a row that moved nothing.
        OSError: The file cannot be read.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        name = f"blobs/{hashlib.file_digest(file, 'sha256').hexdigest()}"
        size = file.seek(0, io.SEEK_END)
        committed, failures = -1, 0
        while True:
            try:
                status = rpcs.query_blob(blobs_pb2.QueryBlobRequest(name=name))
                if not status.complete:
                    failures = 0 if status.committed_bytes > committed else failures + 1
                    committed = status.committed_bytes
                    status = rpcs.write_blob(_chunks(file, name, size, committed))
                if status.complete:
                    return name
                failures += 1
                lost: OrtoscopeError = DataLoss(
                    f"The server took {name} but does not hold it whole ({status.committed_bytes} of {size} bytes).",
                    reason="BLOB_INCOMPLETE",
                    metadata={"name": name},
                )
            except (Aborted, Unavailable) as error:  # aborted: another call goes on with the same blob
                failures += 1
                lost = error
            _pause_or_raise(failures, lost)


def _chunks(file: BinaryIO, name: str, size: int, offset: int) -> Iterator[blobs_pb2.WriteBlobRequest]:
    file.seek(offset)
    yield blobs_pb2.WriteBlobRequest(name=name, size_bytes=size, offset=offset, data=file.read(_CHUNK_BYTES))
    while data := file.read(_CHUNK_BYTES):
        yield blobs_pb2.WriteBlobRequest(data=data)


def _pause_or_raise(failures: int, error: OrtoscopeError | None = None) -> None:
    if failures >= _ATTEMPTS:
        if error is not None:
            raise error
        raise  # noqa: PLE0704 - called from an except block
    time.sleep(_PAUSE_SECONDS * 2**failures)
