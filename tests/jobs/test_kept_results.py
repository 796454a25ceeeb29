"""Results that are kept: found again, forgotten in time, and never damaged."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ortoscope_service.jobs.store import Store


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    store = Store(root)
    yield store
    store.close()


def blob_file(root: Path, content: bytes) -> Path:
    digest = hashlib.sha256(content).hexdigest()
    (found,) = (path for path in (root / "blobs").rglob(f"*{digest[2:]}*") if path.is_file())
    return found


def test_what_was_kept_is_found_also_by_the_next_server(root: Path) -> None:
    store = Store(root)
    assert store.visualizations.find(key("a")) is None
    store.visualizations.keep(key("a"), b"content", 100)
    assert store.visualizations.find(key("a")) == b"content"
    store.close()
    again = Store(root)
    assert again.visualizations.find(key("a")) == b"content"
    again.close()


def test_the_newest_of_one_key_counts(store: Store) -> None:
    for content in (b"one", b"two", b"two"):
        store.visualizations.keep(key("a"), content, 100)
        assert store.visualizations.find(key("a")) == content


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_damaged_one_is_as_good_as_none_and_can_be_kept_anew(store: Store, root: Path, harm: str) -> None:
    store.visualizations.keep(key("a"), b"content", 100)
    file = blob_file(root, b"content")
    if harm == "damaged":
        file.chmod(0o600)
        file.write_bytes(b"contend")
    else:
        file.unlink()
    assert store.visualizations.find(key("a")) is None
    store.visualizations.keep(key("a"), b"content", 100)
    assert store.visualizations.find(key("a")) == b"content"


def test_the_oldest_go_where_there_are_too_many_bytes(store: Store) -> None:
    for name in "abcd":
        store.visualizations.keep(key(name), name.encode() * 10, 25)
    assert [store.visualizations.find(key(name)) is not None for name in "abcd"] == [False, False, True, True]
    store.visualizations.keep(key("e"), bytes(26), 25)  # larger than all that may be kept
    assert store.visualizations.find(key("e")) is None
    assert store.visualizations.find(key("d")) is not None


def test_one_that_is_older_than_the_retention_goes_with_its_blobs(store: Store) -> None:
    beside = b"start"
    store.visualizations.keep(key("a"), b"content", 100, {"start": beside})
    store.operations.add_uptime(10)
    store.visualizations.keep(key("b"), b"other", 100)
    store.visualizations.expire(11)
    assert store.visualizations.find(key("a")) == b"content"
    store.operations.add_uptime(5)
    store.visualizations.expire(11)
    assert store.visualizations.find(key("a")) is None
    assert store.visualizations.find(key("b")) == b"other"
    assert not store.blobs.status(hashlib.sha256(b"content").hexdigest()).complete
    assert not store.blobs.status(hashlib.sha256(beside).hexdigest()).complete


def test_equal_contents_of_two_keys_share_a_blob_until_both_are_gone(store: Store) -> None:
    for name in "ab":
        store.visualizations.keep(key(name), b"same", 100)
    store.visualizations.keep(key("a"), b"else", 100)
    assert store.visualizations.find(key("b")) == b"same"


def test_many_threads_may_keep_and_find(store: Store) -> None:
    def work(name: str) -> None:
        for _ in range(5):
            store.visualizations.keep(key(name), name.encode(), 1000)
            assert store.visualizations.find(key(name)) == name.encode()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store.visualizations.find(key(name)) for name in "abcd")
