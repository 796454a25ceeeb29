from collections.abc import Callable
from pathlib import Path

import pytest
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.blobs import BlobStore
from ortoscope_service.jobs.database import Database
from ortoscope_service.jobs.records import RecordStore


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def records(open_database: Callable[[], Database], blobs: BlobStore) -> RecordStore:
    return RecordStore(open_database(), blobs)


def test_a_result_comes_back_with_its_blobs(records: RecordStore) -> None:
    records.add("dissections", "a", b"message", {"arrays": "1" * 64, "examples": "2" * 64})
    record = records.get("dissections", "a")
    assert record.message == b"message"
    assert record.blobs == {"arrays": "1" * 64, "examples": "2" * 64}
    with pytest.raises(OrtoscopeError) as caught:
        records.get("exampleSets", "a", field="parent")
    assert (caught.value.code, caught.value.reason, caught.value.field) == (
        Code.NOT_FOUND,
        "UNKNOWN_RESULT",
        "parent",
    )


def test_results_are_listed_newest_first_by_collection(records: RecordStore) -> None:
    for name in "abc":
        records.add("dissections", name, name.encode(), {})
    records.add("exampleSets", "x", b"x", {})
    listed = records.list("dissections", count=2)
    assert [message for _, message in listed] == [b"c", b"b"]
    assert [message for _, message in records.list("dissections", before=listed[-1][0], count=2)] == [b"a"]


def test_a_blob_is_deleted_with_the_last_result_that_names_it(records: RecordStore, blobs: BlobStore) -> None:
    shared, own = blobs.put_bytes(b"shared"), blobs.put_bytes(b"own")
    records.add("dissections", "a", b"", {"arrays": shared, "examples": own})
    records.add("dissections", "b", b"", {"arrays": shared})
    records.delete("dissections", "a")
    assert blobs.status(shared).complete
    assert not blobs.status(own).complete
    records.delete("dissections", "b")
    assert not blobs.status(shared).complete
    with pytest.raises(OrtoscopeError):
        records.delete("dissections", "b")


def test_a_result_is_replaced_in_its_place_and_takes_the_blobs_of_both_with_it(
    records: RecordStore, blobs: BlobStore
) -> None:
    first, both, second = (blobs.put_bytes(text) for text in (b"first", b"both", b"second"))
    records.add("atlases", "a", b"partial", {"cells": first, "samples": both})
    records.add("atlases", "b", b"another", {})
    records.add("atlases", "a", b"complete", {"cells": second, "samples": both})
    assert [message for _, message in records.list("atlases", count=9)] == [b"another", b"complete"]
    record = records.get("atlases", "a")
    assert (record.blobs["cells"], record.blobs["samples"]) == (second, both)
    assert blobs.status(first).complete  # who was told of it may be reading
    records.delete("atlases", "a")
    assert not any(blobs.status(digest).complete for digest in (first, both, second))
