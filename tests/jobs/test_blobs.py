import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.artifacts import pack_arrays, unpack_arrays
from ortoscope_service.jobs.blobs import CHUNK_BYTES, BlobStore


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_put_is_read_back_under_its_digest(store: BlobStore) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 5)
    digest = store.put_bytes(data)
    assert digest == digest_of(data)
    assert store.load(digest) == data
    assert store.size(digest) == len(data)
    assert store.put_bytes(data) == digest


def test_a_part_is_read_from_an_offset_up_to_a_limit(store: BlobStore) -> None:
    data = os.urandom(CHUNK_BYTES + 100)
    digest = store.put_bytes(data)
    for offset, limit in ((0, 10), (CHUNK_BYTES - 5, 10), (7, 0), (len(data), 0), (len(data) - 1, 100)):
        expected = data[offset : offset + limit] if limit else data[offset:]
        assert b"".join(store.read(digest, offset, limit)) == expected
    for offset in (-1, len(data) + 1):
        with pytest.raises(OrtoscopeError) as caught:
            list(store.read(digest, offset))
        assert caught.value.code is Code.OUT_OF_RANGE


def test_an_unknown_blob_is_not_found_and_nothing_of_it_is_committed(store: BlobStore) -> None:
    digest = digest_of(b"unknown")
    assert store.status(digest).committed_bytes == 0
    assert not store.status(digest).complete
    with pytest.raises(OrtoscopeError) as caught:
        list(store.read(digest))
    assert caught.value.reason == "UNKNOWN_BLOB"
    assert caught.value.code is Code.NOT_FOUND


def test_a_blob_that_was_changed_on_disk_is_never_given_out(store: BlobStore, tmp_path: Path) -> None:
    digest = store.put_bytes(b"the truth")
    (path,) = (tmp_path / "blobs").rglob(digest)
    path.write_bytes(b"something")
    with pytest.raises(OrtoscopeError) as caught:
        list(store.read(digest))
    assert caught.value.code is Code.DATA_LOSS


@given(data=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_an_upload_in_any_pieces_with_any_breaks_gives_the_same_blob(
    data: bytes, cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("store")
    digest = digest_of(data)
    positions = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in zip(positions, [*positions[1:], len(data)], strict=True):
        store = BlobStore(root)  # as after a restart
        if store.status(digest).complete:
            break
        with store.write(digest, len(data), start) as upload:
            upload.append(data[start:end])
    assert BlobStore(root).load(digest) == data
    assert files_below(root) == [digest]


def test_an_upload_must_go_on_where_the_last_one_ended(store: BlobStore) -> None:
    digest = digest_of(b"0123456789")
    with store.write(digest, 10, 0) as upload:
        upload.append(b"01234")
    for offset in (0, 4, 6):
        with pytest.raises(OrtoscopeError) as caught:
            store.write(digest, 10, offset)
        assert caught.value.reason == "BLOB_OFFSET"
        assert caught.value.metadata["committed_bytes"] == "5"


def test_bytes_that_do_not_have_the_digest_are_discarded(store: BlobStore) -> None:
    digest = digest_of(b"right")
    with store.write(digest, 5, 0) as upload, pytest.raises(OrtoscopeError) as caught:
        upload.append(b"wrong")
    assert caught.value.reason == "BLOB_DIGEST"
    assert store.status(digest).committed_bytes == 0
    with store.write(digest, 5, 0) as upload:
        upload.append(b"right")
    assert store.load(digest) == b"right"


def test_more_bytes_than_announced_are_refused(store: BlobStore) -> None:
    digest = digest_of(b"12345")
    with store.write(digest, 5, 0) as upload:
        upload.append(b"123")
        with pytest.raises(OrtoscopeError) as caught:
            upload.append(b"456")
    assert caught.value.reason == "BLOB_TOO_LONG"
    assert store.status(digest).committed_bytes == 3


def test_a_wrong_announcement_does_not_stop_who_knows_the_size(store: BlobStore) -> None:
    digest = digest_of(b"12345")
    with store.write(digest, 100, 0) as upload:
        upload.append(b"1234567")
    with store.write(digest, 5, 0) as upload:
        upload.append(b"12345")
    assert store.load(digest) == b"12345"


def test_a_second_upload_takes_the_place_of_one_that_hangs(store: BlobStore) -> None:
    digest = digest_of(b"12345")
    with store.write(digest, 5, 0) as hanging:
        hanging.append(b"12")
        with store.write(digest, 5, 2) as resumed:
            with pytest.raises(OrtoscopeError) as caught:
                hanging.append(b"345")
            assert caught.value.code is Code.ABORTED
            resumed.append(b"345")
    assert store.load(digest) == b"12345"


@pytest.mark.parametrize("size", [0, -1])
def test_an_upload_without_a_size_is_refused(store: BlobStore, size: int) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        store.write(digest_of(b"x"), size, 0)
    assert caught.value.reason == "BLOB_SIZE"


def test_a_failed_write_leaves_nothing_behind(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        store.put_bytes(b"too much")
    assert files_below(tmp_path) == []


def test_leftovers_of_a_crash_are_swept_but_uploads_are_kept(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = digest_of(b"12345")
    with store.write(digest, 5, 0) as upload:
        upload.append(b"12")
    (tmp_path / "complete" / "temporary" / "torn").write_bytes(b"half a blob")
    assert BlobStore(tmp_path).status(digest).committed_bytes == 2
    assert files_below(tmp_path) == [digest]


def test_packed_arrays_come_back_and_their_bytes_depend_on_nothing_else() -> None:
    arrays = {
        "counts": np.arange(6, dtype=np.int64).reshape(2, 3),
        "names": np.array(["sky", "büyük"], np.str_),
        "none": np.array((), np.str_),
        "flags": np.array([True, False]),
    }
    packed = pack_arrays(arrays)
    assert pack_arrays({name: array.copy() for name, array in arrays.items()}) == packed
    unpacked = unpack_arrays(packed)
    assert unpacked.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(unpacked[name], array)
        assert unpacked[name].dtype == array.dtype


def test_a_damaged_blob_can_be_uploaded_again(store: BlobStore, tmp_path: Path) -> None:
    digest = store.put_bytes(b"the truth")
    assert store.is_whole(digest)
    (path,) = (tmp_path / "blobs").rglob(digest)
    path.write_bytes(b"a lie")
    assert not store.is_whole(digest)
    with store.write(digest, 9, 0) as upload:
        upload.append(b"the truth")
    assert store.is_whole(digest)
    assert store.load(digest) == b"the truth"
