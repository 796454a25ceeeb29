"""Transfers that break off are taken up where they stopped; damage is noticed."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ortoscope
import pytest
from ortoscope import blobs
from ortoscope.v1 import blobs_pb2
from scripted_server import fail, scripted

CONTENT = bytes(range(256)) * 5000
NAME = f"blobs/{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_PAUSE_SECONDS", 0.001)


class Reader:
    """Answers ReadBlob and breaks off after every `portion` bytes."""

    def __init__(self, portion: int, content: bytes = CONTENT) -> None:
        self.portion, self.content = portion, content
        self.offsets: list[int] = []

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self.offsets.append(request.offset)
        rest = self.content[request.offset :]
        for start in range(0, min(self.portion, len(rest)), 1000):
            yield blobs_pb2.ReadBlobResponse(data=rest[start : min(start + 1000, self.portion)])
        if len(rest) > self.portion:
            fail(context, "UNAVAILABLE", "the connection broke")


def test_a_broken_download_goes_on_from_the_bytes_that_came() -> None:
    reader = Reader(500_000)
    with scripted({"ReadBlob": reader}) as target, ortoscope.connect(target) as scope:
        assert scope.download(NAME) == CONTENT
    assert reader.offsets == [0, 500_000, 1_000_000]


def test_a_download_that_never_moves_is_given_up() -> None:
    reader = Reader(0)
    with (
        scripted({"ReadBlob": reader}) as target,
        ortoscope.connect(target) as scope,
        pytest.raises(ortoscope.Unavailable, match="the connection broke"),
    ):
        scope.download(NAME)
    assert reader.offsets == [0] * 5


def test_damage_on_the_way_is_noticed_and_nothing_is_written(tmp_path: Path) -> None:
    reader = Reader(len(CONTENT), content=CONTENT[:-1] + b"?")
    with (
        scripted({"ReadBlob": reader}) as target,
        ortoscope.connect(target) as scope,
        pytest.raises(ortoscope.DataLoss) as caught,
    ):
        scope.download(NAME, tmp_path / "blob")
    assert caught.value.reason == "BLOB_DAMAGED"
    assert not list(tmp_path.iterdir())


def test_what_is_no_blob_name_is_not_asked_for() -> None:
    with scripted({}) as target, ortoscope.connect(target) as scope:
        for name in ("blobs/abc", "abc", "blobs/" + "A" * 64):
            with pytest.raises(ortoscope.InvalidArgument, match="names no blob"):
                scope.download(name)


class Writer:
    """Answers QueryBlob and WriteBlob; the first `breaks` writes break off after `portion` bytes, which are kept."""

    def __init__(self, breaks: int, portion: int) -> None:
        self.breaks, self.portion = breaks, portion
        self.held = b""
        self.offsets: list[int] = []

    def status(self) -> blobs_pb2.BlobStatus:
        return blobs_pb2.BlobStatus(name=NAME, committed_bytes=len(self.held), complete=len(self.held) == len(CONTENT))

    def query(self, request: Any, context: grpc.ServicerContext) -> blobs_pb2.BlobStatus:
        assert request.name == NAME
        return self.status()

    def write(self, requests: Iterator[Any], context: grpc.ServicerContext) -> blobs_pb2.BlobStatus:
        taken = 0
        for number, request in enumerate(requests):
            if number == 0:
                assert (request.name, request.size_bytes, request.offset) == (NAME, len(CONTENT), len(self.held))
                self.offsets.append(request.offset)
            room = self.portion - taken if self.breaks else len(request.data)
            self.held += request.data[:room]
            taken += len(request.data[:room])
            if self.breaks and taken == self.portion:
                self.breaks -= 1
                fail(context, "UNAVAILABLE", "the connection broke")
        return self.status()


def test_a_broken_upload_goes_on_from_what_the_server_holds(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    writer = Writer(breaks=2, portion=300_000)
    answers = {"QueryBlob": writer.query, "WriteBlob": writer.write}
    with scripted(answers) as target, ortoscope.connect(target) as scope:
        assert scope.upload(tmp_path / "file") == NAME
        assert scope.upload(CONTENT) == NAME
    assert writer.held == CONTENT
    assert writer.offsets == [0, 300_000, 600_000]


def test_an_upload_beside_another_of_the_same_blob_waits_for_its_bytes() -> None:
    writer = Writer(breaks=0, portion=0)

    def aborted_once(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        if not writer.held:
            writer.held = CONTENT[:1000]  # the other call's
            fail(context, "ABORTED", "another call writes this blob", reason="BLOB_OFFSET")
        return writer.write(requests, context)

    answers = {"QueryBlob": writer.query, "WriteBlob": aborted_once}
    with scripted(answers) as target, ortoscope.connect(target) as scope:
        assert scope.upload(CONTENT) == NAME
    assert writer.held == CONTENT


def test_an_upload_that_never_moves_is_given_up() -> None:
    writer = Writer(breaks=99, portion=0)
    answers = {"QueryBlob": writer.query, "WriteBlob": writer.write}
    with scripted(answers) as target, ortoscope.connect(target) as scope, pytest.raises(ortoscope.Unavailable):
        scope.upload(CONTENT)
    assert 1 < len(writer.offsets) <= 6


def test_a_real_server_keeps_and_gives_what_it_was_sent(scope: ortoscope.Ortoscope, tmp_path: Path) -> None:
    name = scope.upload(CONTENT)
    assert name == NAME
    assert scope.download(name, tmp_path / "copy") == CONTENT
    assert (tmp_path / "copy").read_bytes() == CONTENT
    sink = io.BytesIO()
    assert blobs.download(scope.rpcs, name, sink) == len(CONTENT)
    assert scope.upload(b"") == f"blobs/{hashlib.sha256().hexdigest()}"
