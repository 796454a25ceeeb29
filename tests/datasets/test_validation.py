"""The validator: every damage gives exactly its finding, and the readers refuse exactly what it calls an error."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.datasets.broden import BrodenDataset
from ortoscope_service.datasets.findings import DatasetError
from ortoscope_service.datasets.folders import FolderDataset
from ortoscope_service.datasets.validation import Finding, validate
from pictures import encode, photo, refused_pictures
from PIL import Image
from small_broden import TABLES, plane_numbers, plane_picture, write_small_broden

Damage = Callable[[Path], None]
Expected = list[tuple[str, str, str, int]]


def changed(table: str, *changes: tuple[str, str]) -> Damage:
    """Replaces text that occurs once in a table."""

    def damage(root: Path) -> None:
        text = (root / table).read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (root / table).write_text(text, encoding="utf-8", newline="")

    return damage


def removed(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def written(name: str, content: bytes) -> Damage:
    def damage(root: Path) -> None:
        (root / name).write_bytes(content)

    return damage


def linked(name: str, target: str) -> Damage:
    def damage(root: Path) -> None:
        (root.parent / "outside.png").write_bytes(encode(photo(12, 8), "PNG"))
        (root / name).unlink()
        (root / name).symlink_to(target)

    return damage


def both(*damages: Damage) -> Damage:
    def damage(root: Path) -> None:
        for one in damages:
            one(root)

    return damage


def plane_with(pixel: tuple[int, int, int]) -> bytes:
    """The plane t/d_part with its first pixel changed."""
    rgb = np.asarray(plane_picture(plane_numbers("t/d_part"))).copy()
    rgb[0, 0] = pixel
    return encode(Image.fromarray(rgb), "PNG")


def renumbered_plane(name: str, old: int, new: int) -> bytes:
    numbers = plane_numbers(name)
    return encode(plane_picture(np.where(numbers == old, new, numbers)), "PNG")


PLANE = "images/t/d_part.png"
ONE_PLANE = plane_picture(plane_numbers("t/d_part"))
HEADER = "image,split,ih,iw,sh,sw,color,object,part,scene\n"

ERRORS: dict[str, tuple[Damage, Expected]] = {
    "index.csv is missing": (removed("index.csv"), [("error", "TABLE_MISSING", "index.csv", 0)]),
    "label.csv is missing": (removed("label.csv"), [("error", "TABLE_MISSING", "label.csv", 0)]),
    "category.csv is missing": (removed("category.csv"), [("error", "TABLE_MISSING", "category.csv", 0)]),
    "a category has no table": (removed("c_part.csv"), [("error", "TABLE_MISSING", "c_part.csv", 0)]),
    "a table is a folder": (
        both(removed("c_part.csv"), lambda root: (root / "c_part.csv").mkdir()),
        [("error", "TABLE_UNREADABLE", "c_part.csv", 0)],
    ),
    "a table leads out of the folder": (
        linked("c_part.csv", "../outside.png"), [("error", "PATH_OUTSIDE", "c_part.csv", 0)],
    ),
    "a table is empty": (written("label.csv", b""), [("error", "TABLE_HEADER", "label.csv", 1)]),
    "a table is not UTF-8": (
        written("label.csv", TABLES["label.csv"].encode().replace(b"wheel", b"wh\xe9el")),
        [("error", "TABLE_ENCODING", "label.csv", 7)],
    ),
    "a quote is not closed": (
        changed("label.csv", ("300,wheel", '300,"wheel')), [("error", "TABLE_MALFORMED", "label.csv", 7)],
    ),
    "a column is missing": (
        changed("label.csv", ("number,name,category,frequency", "number,name,category,freq")),
        [("error", "TABLE_HEADER", "label.csv", 1)],
    ),
    "a category has no column": (changed("index.csv", ("part,scene", "part,view")), [
        ("error", "TABLE_HEADER", "index.csv", 1), ("warning", "UNKNOWN_CATEGORY", "index.csv", 1)]),
    "a column stands twice": (changed("index.csv", ("ih,iw,sh,sw,color", "ih,iw,sh,sw,split")), [
        ("error", "TABLE_HEADER", "index.csv", 1), ("error", "TABLE_HEADER", "index.csv", 1)]),
    "a row is too short": (changed("index.csv", ("t/c.png,val,8,12,4,6,,,,", "t/c.png,val,8,12,4,6")), [
        ("error", "TABLE_ROW", "index.csv", 4)]),
    "a row is too long": (changed("label.csv", ("2,glass,object(2)", "2,glass,pane,object(2)")), [
        ("error", "TABLE_ROW", "label.csv", 3)]),
    "a size is not an integer": (changed("index.csv", ("t/c.png,val,8,", "t/c.png,val,8.0,")), [
        ("error", "NOT_AN_INTEGER", "index.csv", 4)]),
    "a label number is not an integer": (changed("c_part.csv", ("1,2,glass", "1,two,glass")), [
        ("error", "NOT_AN_INTEGER", "c_part.csv", 2)]),
    "a frequency is negative": (changed("label.csv", ("object(2);part(1),2,", "object(2);part(1),-2,")), [
        ("error", "NOT_AN_INTEGER", "label.csv", 3)]),
    "a coverage is not a number": (changed("c_part.csv", ("0.083333333333", "much")), [
        ("error", "NOT_A_NUMBER", "c_part.csv", 4)]),
    "a coverage is not finite": (changed("c_part.csv", ("0.083333333333", "inf")), [
        ("error", "NOT_A_NUMBER", "c_part.csv", 4)]),
    "a label number stands twice": (changed("label.csv", ("6,night-s", "5,night-s")), [
        ("error", "DUPLICATE_LABEL", "label.csv", 5)]),
    "a label number stands twice in a category": (changed("c_part.csv", ("3,300,wheel", "3,7,wheel")), [
        ("error", "DUPLICATE_LABEL", "c_part.csv", 4)]),
    "a label number is too large for a plane": (changed("label.csv", ("300,wheel", "65536,wheel")), [
        ("error", "LABEL_RANGE", "label.csv", 7)]),
    "a category stands twice": (changed("category.csv", ("part,2,300,3,3", "object,2,300,3,3")), [
        ("error", "DUPLICATE_CATEGORY", "category.csv", 4)]),
    "a category's name leads elsewhere": (changed("category.csv", ("part,2,300", "../part,2,300")), [
        ("error", "CATEGORY_NAME", "category.csv", 4)]),
    "there is no category": (written("category.csv", b"name,first,last,count,frequency\n"), [
        ("error", "NO_CATEGORIES", "category.csv", 0)]),
    "there is no label": (written("label.csv", b"number,name,category,frequency,coverage,syns\n"), [
        ("error", "NO_LABELS", "label.csv", 0)]),
    "there is no image": (written("index.csv", HEADER.encode()), [("error", "DATASET_EMPTY", "index.csv", 0)]),
    "a row names no image": (changed("index.csv", ("t/c.png,val", ",val")), [
        ("error", "IMAGE_MISSING", "index.csv", 4)]),
    "planes differ in size": (changed("index.csv", ("t/c.png,val,8,12,4,6", "t/c.png,val,8,12,5,6")), [
        ("error", "MASK_SIZE", "index.csv", 4)]),
    "planes have no size": (changed("index.csv", ("t/c.png,val,8,12,4,6", "t/c.png,val,8,12,0,6")), [
        ("error", "MASK_SIZE", "index.csv", 4)]),
    "an image-level label is unknown": (changed("index.csv", (",5;6\n", ",5;8\n")), [
        ("error", "UNKNOWN_LABEL", "index.csv", 5)]),
    "an image is missing": (removed("images/t/c.png"), [("error", "IMAGE_MISSING", "images/t/c.png", 0)]),
    "an image's folder is a file": (changed("index.csv", ("t/c.png,", "t/c.png/c.png,")), [
        ("error", "IMAGE_MISSING", "images/t/c.png/c.png", 0)]),
    "an image is a folder": (both(removed("images/t/c.png"), lambda root: (root / "images/t/c.png").mkdir()), [
        ("error", "IMAGE_MISSING", "images/t/c.png", 0)]),
    "an image leads out of the folder": (changed("index.csv", ("t/c.png,", "../../outside.png,")), [
        ("error", "PATH_OUTSIDE", "images/../../outside.png", 0)]),
    "an image's name is too long for a file": (changed("index.csv", ("t/c.png,", "t/" + "c" * 300 + ".png,")), [
        ("error", "IMAGE_UNREADABLE", "images/t/" + "c" * 300 + ".png", 0)]),
    "a link leads out of the folder": (linked("images/t/c.png", "../../../outside.png"), [
        ("error", "PATH_OUTSIDE", "images/t/c.png", 0)]),
    "an image has another size": (written("images/t/c.png", encode(photo(8, 12), "PNG")), [
        ("error", "IMAGE_SIZE", "images/t/c.png", 0)]),
    "a plane is missing": (removed(PLANE), [("error", "PLANE_MISSING", PLANE, 0)]),
    "a plane leads out of the folder": (linked(PLANE, "../../../outside.png"), [("error", "PATH_OUTSIDE", PLANE, 0)]),
    "a plane is truncated": (written(PLANE, encode(ONE_PLANE, "PNG")[:-30]), [("error", "PLANE_UNREADABLE", PLANE, 0)]),
    "a plane's header is truncated": (written(PLANE, encode(ONE_PLANE, "PNG")[:20]), [
        ("error", "PLANE_UNREADABLE", PLANE, 0)]),
    "a plane is no picture": (written(PLANE, b"7"), [("error", "PLANE_MODE", PLANE, 0)]),
    "a plane is gray": (written(PLANE, encode(ONE_PLANE.convert("L"), "PNG")), [("error", "PLANE_MODE", PLANE, 0)]),
    "a plane is a palette picture": (written(PLANE, encode(ONE_PLANE.quantize(), "PNG")), [
        ("error", "PLANE_MODE", PLANE, 0)]),
    "a plane has an alpha channel": (written(PLANE, encode(ONE_PLANE.convert("RGBA"), "PNG")), [
        ("error", "PLANE_MODE", PLANE, 0)]),
    "a plane is a JPEG": (written(PLANE, encode(ONE_PLANE, "JPEG")), [("error", "PLANE_MODE", PLANE, 0)]),
    "a plane has the image's size": (written(PLANE, encode(ONE_PLANE.resize((12, 8)), "PNG")), [
        ("error", "PLANE_SIZE", PLANE, 0)]),
    "a plane is turned": (written(PLANE, encode(ONE_PLANE.resize((4, 6)), "PNG")), [("error", "PLANE_SIZE", PLANE, 0)]),
    "a plane's blue is not 0": (written(PLANE, plane_with((0, 0, 1))), [("error", "PLANE_BLUE", PLANE, 0)]),
    "a plane has an unknown label": (written(PLANE, plane_with((3, 0, 0))), [("error", "UNKNOWN_LABEL", PLANE, 0)]),
    "a plane has a label above all": (written(PLANE, plane_with((255, 255, 0))), [
        ("error", "UNKNOWN_LABEL", PLANE, 0)]),
    **{
        f"an image is a refused picture: {kind}": (
            written("images/t/c.png", content), [("error", reason, "images/t/c.png", 0)]
        )
        for kind, (content, reason) in refused_pictures().items()
    },
}  # fmt: skip

WARNINGS: dict[str, tuple[Damage, Expected]] = {
    "a coverage is wrong": (changed("label.csv", ("2,1.500000", "2,1.500002")), [
        ("warning", "COVERAGE_MISMATCH", "label.csv", 2)]),
    "a category's coverage is wrong": (changed("c_part.csv", ("0.125000000000", "0.126000000000")), [
        ("warning", "COVERAGE_MISMATCH", "c_part.csv", 3)]),
    "a frequency is wrong": (changed("label.csv", ("red-c,color(2),2,", "red-c,color(2),3,")), [
        ("warning", "FREQUENCY_MISMATCH", "label.csv", 2)]),
    "a category's frequency is wrong": (
        both(
            changed("c_color.csv", ("red-c,2,", "red-c,3,")),
            changed("category.csv", ("color,1,1,1,2", "color,1,1,1,3")),
        ),
        [("warning", "FREQUENCY_MISMATCH", "c_color.csv", 2)]),
    "a category's summary is wrong": (changed("category.csv", ("part,2,300,3,3", "part,2,300,4,3")), [
        ("warning", "CATEGORY_SUMMARY", "category.csv", 4)]),
    "a number has an exponent": (changed("c_part.csv", ("0.083333333333", "8.3333333333e-02")), [
        ("warning", "EXPONENT", "c_part.csv", 4)]),
    "an image stands twice": (
        changed("index.csv", ("t/c.png,val,8,12,4,6,,,,\n", "t/c.png,val,8,12,4,6,,,,\n" * 2)),
        [("warning", "DUPLICATE_IMAGE", "index.csv", 5)]),
    "a split is unknown": (changed("index.csv", ("t/c.png,val", "t/c.png,validation")), [
        ("warning", "UNKNOWN_SPLIT", "index.csv", 4)]),
    "a split is empty": (changed("index.csv", ("t/c.png,val", "t/c.png,")), [
        ("warning", "UNKNOWN_SPLIT", "index.csv", 4)]),
    "a column is no category": (
        changed("index.csv", ("part,scene\n", "part,scene,mood\n"), ("_part_2.png,5\n", "_part_2.png,5,\n"),
                (",,,0\n", ",,,0,\n"), ("4,6,,,,\n", "4,6,,,,,\n"), ("5;6\n", "5;6,\n")),
        [("warning", "UNKNOWN_CATEGORY", "index.csv", 1)]),
    "a label is in no category": (
        both(
            changed("c_color.csv", ("1,1,red-c,2,1.500000000000\n", "")),
            changed("category.csv", ("color,1,1,1,2", "color,0,0,0,0")),
        ),
        [("warning", "LABEL_WITHOUT_CATEGORY", "label.csv", 2)]),
    "a label names no category": (changed("label.csv", ("red-c,color(2)", "red-c,color")), [
        ("warning", "LABEL_WITHOUT_CATEGORY", "label.csv", 2)]),
    "a label names an unknown category": (changed("label.csv", ("red-c,color(2)", "red-c,color(2);hue(1)")), [
        ("warning", "UNKNOWN_CATEGORY", "label.csv", 2)]),
    "a label is missing in one of its categories": (
        both(
            changed("c_part.csv", ("1,2,glass,1,0.041666666667\n", "")),
            changed("category.csv", ("part,2,300,3,3", "part,7,300,2,2")),
        ),
        [("warning", "UNLISTED_LABEL", "label.csv", 3)]),
    "images have a label in a category that no table mentions": (
        both(
            changed("c_part.csv", ("1,2,glass,1,0.041666666667\n", "")),
            changed("category.csv", ("part,2,300,3,3", "part,7,300,2,2")),
            changed("label.csv", ("object(2);part(1),2,0.416667", "object(2),2,0.416667")),
        ),
        [("warning", "UNLISTED_LABEL", "c_part.csv", 0)]),
    "a category lists an unknown label": (
        both(
            changed("c_part.csv", ("3,300,wheel", "4,301,bell,0,0.0\n3,300,wheel")),
            changed("category.csv", ("part,2,300,3,3", "part,2,301,4,3")),
        ),
        [("warning", "UNLISTED_LABEL", "c_part.csv", 4)]),
    "a label has two names": (changed("c_part.csv", ("300,wheel", "300,rim")), [
        ("warning", "NAME_MISMATCH", "c_part.csv", 4)]),
    "label 0 is listed": (changed("label.csv", ("1,red-c", "0,-,,0,0.0,\n1,red-c")), [
        ("warning", "LABEL_ZERO", "label.csv", 2)]),
    "a label is above 32767": (
        both(
            changed("label.csv", ("300,wheel", "40000,wheel")),
            changed("c_part.csv", ("300,wheel", "40000,wheel")),
            changed("category.csv", ("part,2,300,3,3", "part,2,40000,3,3")),
            written("images/s/a_part_1.png", renumbered_plane("s/a_part_1", 300, 40000)),
            written("images/s/a_part_2.png", renumbered_plane("s/a_part_2", 300, 40000)),
        ),
        [("warning", "LABEL_INT16", "label.csv", 7)]),
    "an image has more than six planes": (
        changed("index.csv", (",s/b_color.png,,,0", f",{';'.join(['s/b_color.png'] * 7)},,,0")),
        [("warning", "MANY_PLANES", "index.csv", 3)]),
}  # fmt: skip


def places(findings: list[Finding]) -> Expected:
    return [(finding.severity, finding.reason, finding.path, finding.line) for finding in findings]


def read_everything(root: Path) -> None:
    dataset = BrodenDataset(root)
    for i in range(len(dataset)):
        dataset.read_image(i)
        dataset.read_labels(i)


def test_a_sound_dataset_has_no_findings(tmp_path: Path) -> None:
    assert validate(write_small_broden(tmp_path / "small")) == []


@pytest.mark.parametrize("kind", ERRORS)
def test_damage_gives_exactly_its_error_and_the_reader_refuses_it(kind: str, tmp_path: Path) -> None:
    damage, expected = ERRORS[kind]
    root = write_small_broden(tmp_path / "small")
    damage(root)
    assert places(validate(root)) == expected
    with pytest.raises(DatasetError) as refused:
        read_everything(root)
    assert refused.value.reason == expected[0][1]
    assert refused.value.metadata == {"path": expected[0][2], "line": str(expected[0][3])}


@pytest.mark.parametrize("kind", WARNINGS)
def test_oddity_gives_exactly_its_warning_and_the_reader_tolerates_it(kind: str, tmp_path: Path) -> None:
    damage, expected = WARNINGS[kind]
    root = write_small_broden(tmp_path / "small")
    damage(root)
    assert places(validate(root)) == expected
    read_everything(root)


@pytest.mark.parametrize("kind", [*ERRORS, *WARNINGS])
def test_a_message_names_a_remedy_and_no_path_of_the_server(kind: str, tmp_path: Path) -> None:
    damage, _ = {**ERRORS, **WARNINGS}[kind]
    root = write_small_broden(tmp_path / "small")
    damage(root)
    for finding in validate(root):
        assert str(tmp_path) not in finding.message
        assert finding.message.endswith(".")
        assert len(finding.message) > 20


def test_every_damage_is_listed_errors_first(tmp_path: Path) -> None:
    root = write_small_broden(tmp_path / "small")
    changed("index.csv", ("t/c.png,val,8,", "t/c.png,validation,x,"))(root)
    removed(PLANE)(root)
    removed("images/s/a.jpg")(root)
    removed("c_scene.csv")(root)
    assert places(validate(root)) == [
        ("error", "TABLE_MISSING", "c_scene.csv", 0),
        ("error", "NOT_AN_INTEGER", "index.csv", 4),
        ("error", "IMAGE_MISSING", "images/s/a.jpg", 0),
        ("error", "PLANE_MISSING", PLANE, 0),
        ("warning", "UNKNOWN_SPLIT", "index.csv", 4),
    ]


def test_coverage_may_count_a_label_once_or_in_every_plane_and_frequency_likewise(tmp_path: Path) -> None:
    root = write_small_broden(tmp_path / "small")
    changed("label.csv", ("part(1),1,0.083333", "part(1),1,0.125000"), ("part(1),2,0.416667", "part(1),3,0.458333"))(
        root
    )
    changed("label.csv", ("object(1);part(1),2,0.125", "object(1);part(1),1,0.125"))(root)
    assert validate(root) == []


@given(
    table=st.sampled_from(sorted(TABLES)),
    position=st.integers(0, 700),
    removed_bytes=st.integers(0, 30),
    inserted=st.binary(max_size=6)
    | st.sampled_from([b",", b"\n", b'"', b";", b"0", b"999", b"e5", b"/", b"..", b"\0"]),
)
def test_whatever_happens_to_a_table_the_validator_answers(
    table: str, position: int, removed_bytes: int, inserted: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = write_small_broden(tmp_path_factory.mktemp("fuzz") / "small")
    data = (root / table).read_bytes()
    position %= len(data) + 1
    (root / table).write_bytes(data[:position] + inserted + data[position + removed_bytes :])
    errors = [finding for finding in validate(root) if finding.severity == "error"]
    reasons = {finding.reason for finding in errors}
    refused = ""
    try:
        read_everything(root)
    except DatasetError as error:
        refused = error.reason
    assert refused in reasons if reasons else refused == ""


def test_progress_counts_the_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    validate(write_small_broden(tmp_path / "small"), lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_folder_is_a_finding(tmp_path: Path) -> None:
    assert places(validate(tmp_path / "nothing")) == [("error", "DATASET_MISSING", "", 0)]
    (tmp_path / "file").write_text("x")
    assert places(validate(tmp_path / "file")) == [("error", "DATASET_MISSING", "", 0)]


def test_a_folder_of_images_is_checked_image_by_image(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.jpg", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(photo(), "PNG"))
    assert validate(tmp_path) == []
    (tmp_path / "a/4.webp").write_bytes(b"nothing")
    (tmp_path / "b/5.png").symlink_to("/dev/null")
    (tmp_path / "c").symlink_to("b")
    assert places(validate(tmp_path)) == [
        ("error", "IMAGE_UNREADABLE", "a/4.webp", 0),
        ("warning", "SYMLINK_SKIPPED", "c", 0),
        ("warning", "SYMLINK_SKIPPED", "b/5.png", 0),
    ]
    assert len(FolderDataset(tmp_path)) == 4


def test_a_folder_without_images_is_empty(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert places(validate(tmp_path)) == [("error", "DATASET_EMPTY", "", 0)]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "1.png").write_bytes(encode(photo(), "PNG"))
    (tmp_path / "a").chmod(0)
    assert places(validate(tmp_path)) == [("error", "FOLDER_UNREADABLE", "a", 0)]
    (tmp_path / "a").chmod(0o700)


def test_the_reference_data_have_no_findings(reference_data: Path) -> None:
    assert validate(reference_data / "minibroden224") == []
