"""Plain folders of images."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from ortoscope_service.datasets.findings import DatasetError
from ortoscope_service.datasets.folders import FolderDataset
from ortoscope_service.errors import Code, OrtoscopeError
from pictures import encode, photo
from PIL import Image


def put(root: Path, *names: str) -> None:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(seed=i), "PNG"))


def paths(dataset: FolderDataset) -> list[str]:
    return [dataset.path(i) for i in range(len(dataset))]


def test_a_subfolder_is_a_class_however_deep_its_images_lie(tmp_path: Path) -> None:
    put(tmp_path, "hen/2.png", "hen/deep/er/1.png", "dog/3.png")
    dataset = FolderDataset(tmp_path)
    assert paths(dataset) == ["dog/3.png", "hen/2.png", "hen/deep/er/1.png"]
    assert [dataset.class_name(i) for i in range(3)] == ["dog", "hen", "hen"]
    assert dataset.classes == ("dog", "hen")
    assert (dataset.kind, dataset.name) == ("folder", tmp_path.name)


def test_a_flat_folder_has_no_classes_and_no_splits(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a.png")
    dataset = FolderDataset(tmp_path)
    assert paths(dataset) == ["a.png", "b.png"]
    assert (dataset.classes, dict(dataset.splits)) == ((), {})
    assert [dataset.class_name(0), dataset.split(0)] == ["", ""]
    assert dataset.select([]).tolist() == [0, 1]
    with pytest.raises(OrtoscopeError, match="has: none") as refused:
        dataset.select(["train"])
    assert (refused.value.code, refused.value.reason) == (Code.INVALID_ARGUMENT, "UNKNOWN_SPLIT")


def test_images_stand_in_the_byte_order_of_their_paths(tmp_path: Path) -> None:
    names = ["Z.png", "a.png", "a/1.png", "a/10.png", "a/2.png", "ä.png", "b b/1.png"]
    put(tmp_path, *reversed(names))
    assert paths(FolderDataset(tmp_path)) == sorted(names, key=str.encode)


def test_other_files_and_hidden_ones_are_ignored(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a.png",
        "b.JPG",
        "c.webp",
        "d.JPEG",
        ".hidden.png",
        ".cache/e.png",
        "f.gif",
        "g.txt",
        "h",
        "png/.i.png",
    )
    assert paths(FolderDataset(tmp_path)) == ["a.png", "b.JPG", "c.webp", "d.JPEG"]


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "in/a.png", "out/secret.png")
    (tmp_path / "in/b.png").symlink_to("a.png")
    (tmp_path / "in/c.png").symlink_to(tmp_path / "out/secret.png")
    (tmp_path / "in/d.png").symlink_to("../out/secret.png")
    (tmp_path / "in/e.png").symlink_to("nowhere.png")
    (tmp_path / "in/f.png").symlink_to("f.png")
    (tmp_path / "in/class").symlink_to(tmp_path / "out")
    (tmp_path / "in/loop").symlink_to(".")
    assert paths(FolderDataset(tmp_path / "in")) == ["a.png", "b.png"]


def test_a_file_that_becomes_a_link_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, "in/a.png", "out/secret.png")
    dataset = FolderDataset(tmp_path / "in")
    (tmp_path / "in/a.png").unlink()
    (tmp_path / "in/a.png").symlink_to("../out/secret.png")
    with pytest.raises(DatasetError) as refused:
        dataset.read_bytes(0)
    assert refused.value.reason == "PATH_OUTSIDE"


def test_an_empty_folder_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    with pytest.raises(DatasetError) as refused:
        FolderDataset(tmp_path)
    assert (refused.value.code, refused.value.reason) == (Code.FAILED_PRECONDITION, "DATASET_EMPTY")


def test_images_are_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encode(photo(60, 40), "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(data)
    dataset = FolderDataset(tmp_path)
    assert dataset.read_bytes(0) == data
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert np.array_equal(np.asarray(dataset.read_image(0)), np.rot90(stored))


def test_a_damaged_image_is_refused_by_its_path(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    dataset = FolderDataset(tmp_path)
    dataset.read_image(0)
    with pytest.raises(DatasetError, match=r"^b\.png: ") as refused:
        dataset.read_image(1)
    assert (refused.value.code, refused.value.reason) == (Code.FAILED_PRECONDITION, "IMAGE_UNREADABLE")
    (tmp_path / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"^a\.png: ") as refused:
        dataset.read_image(0)
    assert refused.value.reason == "IMAGE_MISSING"


def test_a_name_that_is_not_utf8_is_shown_with_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        put(tmp_path, f"{name}/{name}.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    dataset = FolderDataset(tmp_path)
    assert paths(dataset) == [r"caf\xe9/caf\xe9.png"]
    assert dataset.classes == (r"caf\xe9",)
    assert dataset.read_image(0).size == (60, 40)
    assert dataset.digest().startswith("sha256:")


def test_the_digest_changes_with_names_and_contents_alone(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "c/b.png")
    digest = FolderDataset(tmp_path).digest()
    os.utime(tmp_path / "a.png", (0, 0))
    (tmp_path / "notes.txt").write_text("x")
    assert FolderDataset(tmp_path).digest() == digest
    lines = b""
    for name in ("a.png", "c/b.png"):
        data = (tmp_path / name).read_bytes()
        lines += f"{name}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}\n".encode()
    assert digest == f"sha256:{hashlib.sha256(lines).hexdigest()}"
    (tmp_path / "a.png").rename(tmp_path / "A.png")
    assert FolderDataset(tmp_path).digest() != digest


def test_a_dataset_is_stale_once_a_file_came_or_went(tmp_path: Path) -> None:
    put(tmp_path, "a/b/1.png")
    dataset = FolderDataset(tmp_path)
    assert not dataset.is_stale()
    put(tmp_path, "a/b/2.png")
    assert dataset.is_stale()
    dataset = FolderDataset(tmp_path)
    (tmp_path / "a/b/1.png").unlink()
    assert dataset.is_stale()
