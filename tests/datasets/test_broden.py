"""Reading Broden folders: every rule of the format, on a dataset written by hand and on reference data."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ortoscope_service.datasets.broden import BrodenDataset
from ortoscope_service.datasets.findings import DatasetError
from ortoscope_service.errors import Code, OrtoscopeError
from pictures import encode, photo
from PIL import Image
from small_broden import TABLES, plane_numbers, plane_picture, write_small_broden


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_small_broden(tmp_path / "small")


def edit(root: Path, table: str, old: str, new: str) -> None:
    text = (root / table).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (root / table).write_text(text.replace(old, new), encoding="utf-8", newline="")


def pixels_of(dataset: BrodenDataset, index: int) -> dict[int, set[tuple[int, int]]]:
    """The set of pixels that every label of an image has."""
    labels = dataset.read_labels(index)
    everywhere = set(np.ndindex(dataset.mask_shape))
    found = {int(number): everywhere for number in labels.image_level}
    for plane in labels.planes:
        for number in set(plane.ravel().tolist()) - {0}:
            pixels = {(int(y), int(x)) for y, x in zip(*np.nonzero(plane == number), strict=True)}
            assert not pixels & found.get(number, set())
            found[number] = found.get(number, set()) | pixels
    return found


def test_rows_are_images_in_the_order_of_the_index(root: Path) -> None:
    dataset = BrodenDataset(root)
    assert (dataset.name, dataset.kind, len(dataset), dataset.mask_shape) == ("small", "broden", 4, (4, 6))
    assert [dataset.path(i) for i in range(4)] == ["s/a.jpg", "s/b.jpg", "t/c.png", "t/d.webp"]
    assert [dataset.split(i) for i in range(4)] == ["train", "train", "val", "val"]
    assert dataset.classes == ()
    assert [dataset.class_name(i) for i in range(4)] == [""] * 4


def test_splits_select_images(root: Path) -> None:
    dataset = BrodenDataset(root)
    assert dict(dataset.splits) == {"train": 2, "val": 2}
    assert dataset.select([]).tolist() == [0, 1, 2, 3]
    assert dataset.select(["val"]).tolist() == [2, 3]
    assert dataset.select(["val", "train"]).tolist() == [0, 1, 2, 3]
    assert dataset.select([]).dtype == np.int64
    with pytest.raises(OrtoscopeError, match="train, val") as refused:
        dataset.select(["test"])
    assert refused.value.reason == "UNKNOWN_SPLIT"


def test_concepts_are_the_labels_by_number_in_their_primary_category(root: Path) -> None:
    concepts = BrodenDataset(root).concepts
    assert concepts.number.tolist() == [1, 2, 5, 6, 7, 300]
    assert concepts.name == ("red-c", "glass", "beach-s", "night-s", 'door, "oak"', "wheel")
    assert concepts.category_name == ("color", "object", "part", "scene")
    # glass covers more as object than as part; door ties between object and part, and the last wins.
    assert concepts.category.tolist() == [0, 1, 3, 3, 2, 2]
    assert concepts.frequency.tolist() == [2, 2, 2, 1, 2, 1]


def test_a_label_counts_once_per_pixel_over_planes_and_image_level_labels(root: Path) -> None:
    dataset = BrodenDataset(root)
    everywhere = set(np.ndindex(4, 6))
    assert pixels_of(dataset, 0) == {
        1: {(y, x) for y in (0, 1) for x in range(6)},
        2: {(0, 0), (0, 1), (1, 0), (1, 1)},
        300: {(0, 0), (0, 1)},
        5: everywhere,
    }
    assert pixels_of(dataset, 3) == {
        1: everywhere,
        2: {(1, 2), (1, 3), (1, 4), (1, 5), (2, 2), (2, 3)},
        7: {(3, 0), (3, 1), (3, 2)},
        5: everywhere,
        6: everywhere,
    }


def test_label_0_and_a_plane_of_zeros_label_nothing(root: Path) -> None:
    labels = BrodenDataset(root).read_labels(1)
    assert labels.planes.shape == (0, 4, 6)
    assert labels.image_level.shape == (0,)


def test_an_image_without_any_label_is_an_image(root: Path) -> None:
    dataset = BrodenDataset(root)
    labels = dataset.read_labels(2)
    assert labels.planes.shape == (0, 4, 6)
    assert labels.image_level.size == 0
    assert dataset.read_image(2).size == (12, 8)


def test_labels_have_the_promised_types(root: Path) -> None:
    labels = BrodenDataset(root).read_labels(0)
    assert labels.planes.dtype == np.int32
    assert labels.image_level.dtype == np.int32
    assert (labels.planes.max(axis=(1, 2)) > 0).all()


def test_an_image_level_label_drops_the_same_label_of_a_plane(root: Path) -> None:
    edit(root, "index.csv", "s/a_color.png,", "s/a_color.png;1;1,")
    labels = BrodenDataset(root).read_labels(0)
    assert labels.image_level.tolist() == [1, 5]
    assert not (labels.planes == 1).any()


def test_a_number_above_255_is_red_plus_256_times_green(root: Path) -> None:
    stored = np.asarray(Image.open(root / "images/s/a_part_1.png"))
    assert stored[0, 0].tolist() == [44, 1, 0]
    assert 300 in BrodenDataset(root).read_labels(0).planes


def test_a_label_in_no_category_table_falls_to_the_last_category(root: Path) -> None:
    edit(root, "c_color.csv", "1,1,red-c,2,1.500000000000\n", "")
    assert BrodenDataset(root).concepts.category.tolist()[0] == 3


def test_coverage_with_an_exponent_is_a_number(root: Path) -> None:
    edit(root, "c_part.csv", "0.041666666667", "4.3e-1")
    assert BrodenDataset(root).concepts.category.tolist()[1] == 2


def test_tables_may_begin_with_a_byte_order_mark_and_end_lines_as_on_windows(root: Path) -> None:
    plain = BrodenDataset(root)
    for table in TABLES:
        data = (root / table).read_bytes()
        (root / table).write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n") + b"\r\n")
    marked = BrodenDataset(root)
    assert marked.concepts.name == plain.concepts.name
    assert [pixels_of(marked, i) for i in range(4)] == [pixels_of(plain, i) for i in range(4)]


def test_columns_are_found_by_name(root: Path) -> None:
    plain = BrodenDataset(root)
    rows = [line.split(",") for line in TABLES["index.csv"].splitlines()]
    order = [9, 1, 0, 5, 4, 3, 2, 8, 7, 6]
    (root / "index.csv").write_text("".join(",".join(row[i] for i in order) + "\n" for row in rows))
    turned = BrodenDataset(root)
    assert turned.concepts.category_name == plain.concepts.category_name
    assert [pixels_of(turned, i) for i in range(4)] == [pixels_of(plain, i) for i in range(4)]


def test_a_row_with_planes_of_another_size_is_named(root: Path) -> None:
    edit(root, "index.csv", "t/d.webp,val,8,12,4,6", "t/d.webp,val,8,12,4,7")
    with pytest.raises(DatasetError, match=r"index\.csv:5: .*t/d\.webp is 4,7.*4,6") as refused:
        BrodenDataset(root)
    assert (refused.value.code, refused.value.reason) == (Code.FAILED_PRECONDITION, "MASK_SIZE")


def test_images_are_read_as_stored(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(photo(12, 8), "JPEG", exif=exif)
    (root / "images/s/a.jpg").write_bytes(data)
    dataset = BrodenDataset(root)
    assert dataset.read_bytes(0) == data
    assert dataset.read_image(0).size == (12, 8)


def test_more_than_six_planes_are_read(root: Path) -> None:
    names = []
    for i in range(8):
        numbers = np.zeros((4, 6), int)
        numbers.flat[i] = 2
        names.append(f"s/b_object_{i + 1}.png")
        (root / "images" / names[-1]).write_bytes(encode(plane_picture(numbers), "PNG"))
    edit(root, "index.csv", "s/b_color.png,,,0", f"s/b_color.png,{';'.join(names)},,0")
    assert pixels_of(BrodenDataset(root), 1) == {2: {(i // 6, i % 6) for i in range(8)}}


@pytest.mark.parametrize("index", [-1, 4])
def test_an_index_beyond_the_images_is_not_found(root: Path, index: int) -> None:
    dataset = BrodenDataset(root)
    calls: list[Callable[[int], object]] = [
        dataset.path, dataset.split, dataset.class_name, dataset.read_bytes, dataset.read_image, dataset.read_labels,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(OrtoscopeError) as refused:
            call(index)
        assert (refused.value.code, refused.value.reason) == (Code.NOT_FOUND, "UNKNOWN_IMAGE")


def test_the_digest_is_that_of_the_names_sizes_and_contents_of_its_files(root: Path) -> None:
    dataset = BrodenDataset(root)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    whole = hashlib.sha256()
    for name, path in sorted((path.relative_to(root).as_posix().encode(), path) for path in files):
        data = path.read_bytes()
        whole.update(name + b"\0" + str(len(data)).encode() + b"\0")
        whole.update(hashlib.sha256(data).hexdigest().encode() + b"\n")
    digest = dataset.digest()
    assert digest == f"sha256:{whole.hexdigest()}"
    (root / "unrelated.txt").write_text("notes")
    assert dataset.digest() == digest
    (root / "images/s/a_object.png").write_bytes(encode(plane_picture(plane_numbers("t/d_part")), "PNG"))
    assert dataset.digest() != digest
    (root / "images/t/d_part.png").unlink()
    with pytest.raises(DatasetError, match=r"images/t/d_part\.png") as refused:
        dataset.digest()
    assert refused.value.reason == "FILE_UNREADABLE"


def test_the_reference_data_have_the_pixel_counts_and_categories_of_the_reference_tables(reference_data: Path) -> None:
    dataset = BrodenDataset(reference_data / "minibroden224")
    tables = np.load(reference_data / "reference" / "efficientnet_lite0_minibroden224_head_exact.npz")
    pixels = np.zeros(141, np.int64)
    for i in range(len(dataset)):
        labels = dataset.read_labels(i)
        pixels += np.bincount(labels.planes.ravel(), minlength=141)
        pixels[labels.image_level] += 112 * 112
    assert len(dataset) == 220
    assert dict(dataset.splits) == {"train": 153, "val": 67}
    assert np.array_equal(dataset.concepts.number, tables["label_numbers"][1:])
    assert dataset.concepts.name == tuple(tables["label_names"][1:])
    assert dataset.concepts.category_name == tuple(tables["category_names"])
    assert np.array_equal(dataset.concepts.category, tables["label_category"][1:])
    assert np.array_equal(pixels[1:], tables["G"][1:])
