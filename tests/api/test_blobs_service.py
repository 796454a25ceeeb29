import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from ortoscope.v1 import blobs_pb2
from ortoscope_service.config import ServerConfig
from serving import Failure, Stubs, failure_of, serving

Refused = Callable[..., Failure]


def blob_name(data: bytes) -> str:
    return f"blobs/{hashlib.sha256(data).hexdigest()}"


def chunks(data: bytes, offset: int = 0, size: int = 300_000) -> Iterator[blobs_pb2.WriteBlobRequest]:
    first = {"name": blob_name(data), "size_bytes": len(data), "offset": offset}
    for start in range(offset, len(data), size):
        yield blobs_pb2.WriteBlobRequest(data=data[start : start + size], **first)  # type: ignore[arg-type]
        first = {}


def read(stubs: Stubs, name: str, offset: int = 0, limit: int = 0) -> bytes:
    request = blobs_pb2.ReadBlobRequest(name=name, offset=offset, limit=limit)
    return b"".join(chunk.data for chunk in stubs.blobs.ReadBlob(request))


def test_a_blob_that_is_written_is_read_back(stubs: Stubs) -> None:
    data = os.urandom(3_000_000)
    status = stubs.blobs.WriteBlob(chunks(data))
    assert (status.name, status.committed_bytes, status.complete) == (blob_name(data), len(data), True)
    assert read(stubs, blob_name(data)) == data
    assert read(stubs, blob_name(data), 1_500_000, 10) == data[1_500_000:1_500_010]
    assert read(stubs, blob_name(data), len(data)) == b""
    assert stubs.blobs.QueryBlob(blobs_pb2.QueryBlobRequest(name=blob_name(data))) == status


def test_a_complete_blob_is_not_taken_again(stubs: Stubs) -> None:
    data = b"complete"
    stubs.blobs.WriteBlob(chunks(data))
    began = time.monotonic()

    def first_message_only() -> Iterator[blobs_pb2.WriteBlobRequest]:
        yield blobs_pb2.WriteBlobRequest(name=blob_name(data), size_bytes=len(data))
        time.sleep(5)

    assert stubs.blobs.WriteBlob(first_message_only()).complete
    assert time.monotonic() - began < 4


def test_an_upload_that_breaks_off_is_resumed(stubs: Stubs) -> None:
    data = os.urandom(1_000_000)
    name = blob_name(data)

    def breaks_off() -> Iterator[blobs_pb2.WriteBlobRequest]:
        messages = chunks(data)
        yield next(messages)
        yield next(messages)
        while stubs.blobs.QueryBlob(blobs_pb2.QueryBlobRequest(name=name)).committed_bytes < 600_000:
            time.sleep(0.01)
        raise RuntimeError

    with pytest.raises(grpc.RpcError):
        stubs.blobs.WriteBlob(breaks_off())
    status = stubs.blobs.QueryBlob(blobs_pb2.QueryBlobRequest(name=name))
    assert (status.committed_bytes, status.complete) == (600_000, False)
    assert stubs.blobs.WriteBlob(chunks(data, 600_000)).complete
    assert read(stubs, name) == data


def test_an_end_before_the_size_is_no_error_but_not_complete(stubs: Stubs) -> None:
    data = os.urandom(100)
    status = stubs.blobs.WriteBlob(
        iter([blobs_pb2.WriteBlobRequest(name=blob_name(data), size_bytes=100, data=data[:40])])
    )
    assert (status.committed_bytes, status.complete) == (40, False)
    status = stubs.blobs.WriteBlob(chunks(data, 40))
    assert status.complete


def test_an_empty_blob_is_a_blob(stubs: Stubs) -> None:
    assert stubs.blobs.WriteBlob(iter([blobs_pb2.WriteBlobRequest(name=blob_name(b""))])).complete
    assert read(stubs, blob_name(b"")) == b""


def test_an_unknown_blob_is_committed_to_zero_bytes(stubs: Stubs) -> None:
    status = stubs.blobs.QueryBlob(blobs_pb2.QueryBlobRequest(name=blob_name(b"never sent")))
    assert (status.committed_bytes, status.complete) == (0, False)


@pytest.mark.parametrize(
    ("messages", "code", "reason", "field"),
    [
        ([], "INVALID_ARGUMENT", "EMPTY_STREAM", "name"),
        ([{}], "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ([{"name": "blobs/../../x", "size_bytes": 1}], "INVALID_ARGUMENT", "INVALID_NAME", "name"),
        ([{"name": blob_name(b"a")}], "INVALID_ARGUMENT", "BLOB_SIZE", "size_bytes"),
        ([{"name": blob_name(b"a"), "size_bytes": -1}], "INVALID_ARGUMENT", "BLOB_SIZE", "size_bytes"),
        ([{"name": blob_name(b"a"), "size_bytes": 1, "offset": 1}], "INVALID_ARGUMENT", "BLOB_OFFSET", "offset"),
        ([{"name": blob_name(b"a"), "size_bytes": 1, "offset": -1}], "INVALID_ARGUMENT", "BLOB_OFFSET", "offset"),
        (
            [{"name": blob_name(b"a"), "size_bytes": 1}, {"data": b"ab"}],
            "INVALID_ARGUMENT",
            "BLOB_TOO_LONG",
            "data",
        ),
        ([{"name": blob_name(b"a"), "size_bytes": 1, "data": b"b"}], "INVALID_ARGUMENT", "BLOB_DIGEST", "name"),
        (
            [{"name": blob_name(b"a"), "size_bytes": 10_000_001}],
            "RESOURCE_EXHAUSTED",
            "BLOB_TOO_LARGE",
            "size_bytes",
        ),
    ],
)
def test_bad_uploads_are_refused_and_leave_nothing(
    stubs: Stubs, refused: Refused, messages: list[dict[str, object]], code: str, reason: str, field: str
) -> None:
    failure = refused(
        stubs.blobs.WriteBlob,
        iter([blobs_pb2.WriteBlobRequest(**message) for message in messages]),  # type: ignore[arg-type]
    )
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)
    status = stubs.blobs.QueryBlob(blobs_pb2.QueryBlobRequest(name=blob_name(b"a")))
    assert (status.committed_bytes, status.complete) == (0, False)


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        ({"name": "blobs/x"}, "INVALID_ARGUMENT", "INVALID_NAME"),
        ({"name": blob_name(b"present"), "limit": -1}, "INVALID_ARGUMENT", "INVALID_LIMIT"),
        ({"name": blob_name(b"absent")}, "NOT_FOUND", "UNKNOWN_BLOB"),
        ({"name": blob_name(b"present"), "offset": -1}, "OUT_OF_RANGE", "BLOB_OFFSET"),
        ({"name": blob_name(b"present"), "offset": 8}, "OUT_OF_RANGE", "BLOB_OFFSET"),
    ],
)
def test_bad_reads_are_refused(
    stubs: Stubs, refused: Refused, request_: dict[str, object], code: str, reason: str
) -> None:
    stubs.blobs.WriteBlob(chunks(b"present"))
    failure = refused(stubs.blobs.ReadBlob, blobs_pb2.ReadBlobRequest(**request_))  # type: ignore[arg-type]
    assert (failure.code, failure.reason) == (code, reason)


def test_a_query_for_what_is_no_blob_name_is_refused(stubs: Stubs, refused: Refused) -> None:
    assert refused(stubs.blobs.QueryBlob, blobs_pb2.QueryBlobRequest(name="blobs/A")).reason == "INVALID_NAME"


def test_a_blob_that_was_changed_on_disk_is_data_loss(stubs: Stubs, refused: Refused, config: ServerConfig) -> None:
    data = b"to be changed"
    stubs.blobs.WriteBlob(chunks(data))
    (path,) = config.store.rglob(blob_name(data).removeprefix("blobs/"))
    path.write_bytes(b"changed by me")
    failure = refused(stubs.blobs.ReadBlob, blobs_pb2.ReadBlobRequest(name=blob_name(data)))
    assert (failure.code, failure.reason) == ("DATA_LOSS", "BLOB_DAMAGED")
    path.unlink()


def test_a_stream_that_falls_silent_ends_at_the_deadline_of_the_server(config: ServerConfig, tmp_path: Path) -> None:
    from dataclasses import replace

    limits = replace(config.limits, default_deadline_seconds=1)
    quick = replace(config, store=tmp_path, limits=limits)
    silence = threading.Event()

    def falls_silent() -> Iterator[blobs_pb2.WriteBlobRequest]:
        yield blobs_pb2.WriteBlobRequest(name=blob_name(b"1234"), size_bytes=4, data=b"12")
        silence.wait(30)

    with serving(quick) as (_, stubs):
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            stubs.blobs.WriteBlob(falls_silent())
        silence.set()
        assert failure_of(caught.value).code == "DEADLINE_EXCEEDED"
        assert time.monotonic() - began < 10
        status = stubs.blobs.QueryBlob(blobs_pb2.QueryBlobRequest(name=blob_name(b"1234")))
        assert status.committed_bytes == 2
