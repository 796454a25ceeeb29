"""Finding datasets by name."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ortoscope_service.datasets.catalog import DatasetCatalog
from ortoscope_service.errors import Code, OrtoscopeError
from pictures import encode, photo
from small_broden import write_small_broden


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "datasets"
    write_small_broden(root / "small")
    for name in ("photos/a.png", "Ünïcode, 100 %/class/b.png", ".hidden/c.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(encode(photo(), "PNG"))
    (root / "README.md").write_text("not a dataset")
    (root / "empty").mkdir()
    return root


def test_every_folder_is_a_dataset_by_its_name(root: Path) -> None:
    catalog = DatasetCatalog(root)
    assert catalog.names() == ["empty", "photos", "small", "Ünïcode, 100 %"]
    assert [catalog.get(name).kind for name in ("photos", "small", "Ünïcode, 100 %")] == ["folder", "broden", "folder"]
    assert [catalog.get(name).name for name in ("photos", "small")] == ["photos", "small"]
    assert catalog.root_of("photos") == root / "photos"


@pytest.mark.parametrize(
    "name",
    [
        "smal",
        "",
        ".",
        "..",
        "../datasets/small",
        "small/",
        "small/images",
        "/",
        ".hidden",
        "README.md",
        "a\0b",
        "\ud800",
    ],
)
def test_a_name_is_looked_up_and_never_followed(root: Path, name: str) -> None:
    catalog = DatasetCatalog(root)
    for call in (catalog.get, catalog.root_of):
        with pytest.raises(OrtoscopeError) as refused:
            call(name)
        assert (refused.value.code, refused.value.reason) == (Code.NOT_FOUND, "UNKNOWN_DATASET")
        assert "small" in refused.value.message
        assert str(root) not in refused.value.message


@pytest.mark.parametrize("missing", [None, "nothing"])
def test_a_server_may_have_no_datasets(tmp_path: Path, missing: str | None) -> None:
    catalog = DatasetCatalog(None if missing is None else tmp_path / missing)
    assert catalog.names() == []
    with pytest.raises(OrtoscopeError, match="no datasets"):
        catalog.get("small")


def test_a_folder_that_is_no_dataset_is_refused_with_the_cause(root: Path) -> None:
    catalog = DatasetCatalog(root)
    with pytest.raises(OrtoscopeError) as refused:
        catalog.get("empty")
    assert (refused.value.code, refused.value.reason) == (Code.FAILED_PRECONDITION, "DATASET_UNREADABLE")
    assert refused.value.metadata["cause"] == "DATASET_EMPTY"
    (root / "small" / "c_part.csv").unlink()
    with pytest.raises(OrtoscopeError, match=r"c_part\.csv") as refused:
        catalog.get("small")
    assert refused.value.metadata == {"dataset": "small", "cause": "TABLE_MISSING", "path": "c_part.csv", "line": "0"}


@pytest.mark.parametrize("table", ["index.csv", "label.csv", "category.csv"])
def test_broden_without_one_of_its_tables_is_not_taken_for_a_folder_of_images(root: Path, table: str) -> None:
    (root / "small" / table).unlink()
    with pytest.raises(OrtoscopeError) as refused:
        DatasetCatalog(root).get("small")
    assert refused.value.metadata["path"] == table


def test_a_dataset_is_opened_once_until_it_changes(root: Path) -> None:
    catalog = DatasetCatalog(root)
    small, photos = catalog.get("small"), catalog.get("photos")
    assert catalog.get("small") is small
    assert catalog.get("photos") is photos
    index = root / "small" / "index.csv"
    index.write_text(index.read_text().replace("t/c.png,val", "t/c.png,test"))
    assert catalog.get("small").split(2) == "test"
    (root / "photos/b.png").write_bytes(encode(photo(), "PNG"))
    assert len(catalog.get("photos")) == 2


def test_a_dataset_comes_and_goes_with_its_folder(root: Path) -> None:
    catalog = DatasetCatalog(root)
    catalog.get("photos")
    (root / "photos").rename(root / "pictures")
    assert catalog.get("pictures").name == "pictures"
    with pytest.raises(OrtoscopeError, match="no dataset"):
        catalog.get("photos")


def test_another_folder_of_the_same_name_is_opened_anew(root: Path) -> None:
    catalog = DatasetCatalog(root)
    assert catalog.get("photos").kind == "folder"
    (root / "photos").rename(root / "old")
    (root / "small").rename(root / "photos")
    assert catalog.get("photos").kind == "broden"


def test_images_that_become_labelled_are_read_as_labelled(root: Path, tmp_path: Path) -> None:
    catalog = DatasetCatalog(root)
    (root / "small/index.csv").rename(tmp_path / "index.csv")
    (root / "small/label.csv").rename(tmp_path / "label.csv")
    assert catalog.get("small").kind == "folder"
    (tmp_path / "index.csv").rename(root / "small/index.csv")
    (tmp_path / "label.csv").rename(root / "small/label.csv")
    assert catalog.get("small").kind == "broden"


def test_a_dataset_may_be_a_link_that_the_operator_made(root: Path, tmp_path: Path) -> None:
    (root / "small").rename(tmp_path / "elsewhere")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    linked = DatasetCatalog(root).get("linked")
    assert (linked.name, linked.kind) == ("linked", "broden")
    assert linked.read_image(0).size == (12, 8)


def test_a_link_that_is_pointed_elsewhere_is_opened_anew(root: Path) -> None:
    catalog = DatasetCatalog(root)
    (root / "current").symlink_to("small")
    assert catalog.get("current").kind == "broden"
    (root / "current").unlink()
    (root / "current").symlink_to("photos")
    assert catalog.get("current").kind == "folder"


def test_a_folder_whose_name_is_not_utf8_is_left_out(root: Path) -> None:
    try:
        (root / os.fsdecode(b"caf\xe9")).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert DatasetCatalog(root).names() == ["empty", "photos", "small", "Ünïcode, 100 %"]


def test_contents_are_hashed_once_also_when_a_dataset_is_opened_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = DatasetCatalog(root)
    digest = catalog.get("photos").digest()
    before = (root / "photos/a.png").stat()
    (root / "photos/a.png").write_bytes(b"x" * before.st_size)
    os.utime(root / "photos/a.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert catalog.get("photos").digest() == digest
    os.utime(root / "photos/a.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert catalog.get("photos").digest() != digest


def test_many_threads_may_ask_at_once(root: Path) -> None:
    catalog = DatasetCatalog(root)
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: catalog.get("small").digest(), range(64)))
    assert len(digests) == 1
