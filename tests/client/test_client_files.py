"""Result folders: whole files or none, and never over somebody else's."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from ortoscope.errors import FailedPrecondition
from ortoscope.files import check_result_folder, write_file, write_result

NAMES = ("tally.csv", "provenance.json")


def write(folder: Path, kind: str = "dissection", content: bytes = b"unit\n") -> None:
    write_result(folder, kind, {"tally.csv": content}, {"model": "models/m"})


def test_a_result_tells_its_kind_and_the_digest_of_every_file(tmp_path: Path) -> None:
    write(tmp_path / "new" / "folder")
    record = json.loads((tmp_path / "new" / "folder" / "provenance.json").read_text())
    assert record == {
        "kind": "dissection",
        "model": "models/m",
        "files": {"tally.csv": f"sha256:{hashlib.sha256(b'unit' + bytes([10])).hexdigest()}"},
    }
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["provenance.json", "tally.csv"]


def test_an_older_result_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, content=b"old")
    write(tmp_path, content=b"new")
    assert (tmp_path / "tally.csv").read_bytes() == b"new"


@pytest.mark.parametrize("present", ["notes.txt", ".hidden", "tally.csv"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("mine")
    with pytest.raises(FailedPrecondition, match=f"holds other files .*{present}.*choose a new or empty folder"):
        write(tmp_path)
    assert (tmp_path / present).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_result_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path, kind="example set")
    with pytest.raises(FailedPrecondition, match="holds an example set, not a dissection; choose another one"):
        check_result_folder(tmp_path, "dissection", NAMES)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": 3}', "\xff"])
def test_a_provenance_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "provenance.json").write_text(text, encoding="latin-1")
    with pytest.raises(FailedPrecondition, match="another file of that name"):
        check_result_folder(tmp_path, "dissection", NAMES)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FailedPrecondition, match="is a file; name a folder"):
        check_result_folder(tmp_path / "out", "dissection", NAMES)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_file(tmp_path / "a", b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a")}
    assert len(modes) == 1
