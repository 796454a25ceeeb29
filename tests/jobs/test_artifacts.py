import errno
import hashlib
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.artifacts import ArtifactStore, pack_arrays, read_arrays


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    made = ArtifactStore(tmp_path / "shards")
    made.make()
    return made


def test_what_is_written_in_pieces_is_read_back_under_the_digest_of_all(store: ArtifactStore) -> None:
    pieces = [os.urandom(1000) for _ in range(3)]
    with store.writer() as writer:
        for piece in pieces:
            writer.write(piece)
    assert writer.digest == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert store.load(writer.digest) == b"".join(pieces)
    assert store.put_bytes(b"".join(pieces)) == writer.digest


def test_nothing_is_left_of_an_artifact_whose_writing_failed(store: ArtifactStore, tmp_path: Path) -> None:
    def fail() -> None:
        with store.writer() as writer:
            writer.write(b"half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [path for path in (tmp_path / "shards").rglob("*") if path.is_file()] == []


def test_arrays_are_stored_as_they_are_packed(store: ArtifactStore) -> None:
    arrays = {"rows": np.arange(12, dtype=np.float16).reshape(3, 4), "name": np.array("a"), "none": np.empty((0, 2))}
    digest = store.put_arrays(arrays)
    assert store.load(digest) == pack_arrays(arrays)
    assert store.put_arrays(arrays) == digest
    with store.open(digest) as file:
        found = read_arrays(file)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_nothing_is_left_of_arrays_that_do_not_fit(store: ArtifactStore, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            store.put_arrays({"rows": np.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in (tmp_path / "shards").rglob("*") if path.is_file()] == []


def test_two_stores_on_one_folder_may_write_the_same(store: ArtifactStore, tmp_path: Path) -> None:
    other = ArtifactStore(tmp_path / "shards")
    with store.writer() as first, other.writer() as second:
        first.write(b"same")
        second.write(b"same")
    assert first.digest == second.digest
    assert other.load(first.digest) == b"same"


@pytest.mark.parametrize("content", [b"", b"the truth!", b"the lie"])
def test_a_changed_artifact_is_never_given_out(store: ArtifactStore, content: bytes) -> None:
    digest = store.put_bytes(b"the truth")
    store.path(digest).write_bytes(content)
    with pytest.raises(OrtoscopeError) as caught:
        store.load(digest)
    assert (caught.value.code, caught.value.reason) == (Code.DATA_LOSS, "ARTIFACT_DAMAGED")
    assert caught.value.metadata["artifact"] == digest


def test_a_missing_artifact_is_told_from_a_missing_store(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.put_bytes(b"x")
    store.delete(digest)
    with pytest.raises(OrtoscopeError) as caught:
        store.load(digest)
    assert caught.value.reason == "ARTIFACT_MISSING"
    shutil.rmtree(tmp_path / "shards")
    for attempt in (lambda: store.load(digest), lambda: store.put_bytes(b"y")):
        with pytest.raises(OrtoscopeError) as caught:
            attempt()
        assert (caught.value.code, caught.value.reason) == (Code.DATA_LOSS, "STORE_LOST")
    assert not (tmp_path / "shards").exists()
