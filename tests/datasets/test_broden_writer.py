"""Writing Broden folders: what is written is read back, by our reader and by the rules of the others."""

import csv
import hashlib
import io
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.datasets.broden import BrodenDataset, BrodenWriter
from ortoscope_service.datasets.validation import validate
from pictures import encode, photo
from PIL import Image

SHAPE = (3, 5)
CATEGORIES = ("color", "object", "part", "scene")
NAMES = ("red-c", "glass", 'door, "oak"', "Straße", "beach-s", "dot", "wheel; rim")
JPEG = encode(photo(10, 6), "JPEG")

# An image is, per category, a list of items: a plane as indices into NAMES (-1: none), or an image-level label.
planes = st.lists(st.integers(-1, len(NAMES) - 1), min_size=15, max_size=15)
items = st.lists(planes | st.sampled_from(NAMES), max_size=2)
pictures = st.dictionaries(st.sampled_from(CATEGORIES), items, max_size=3)


def expected_pixels(picture: dict[str, list[list[int] | str]], categories: set[str]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for category in categories & picture.keys():
        for item in picture[category]:
            if isinstance(item, str):
                found[item] = set(range(15))
                continue
            for pixel, index in enumerate(item):
                if index >= 0:
                    found.setdefault(NAMES[index], set()).add(pixel)
    return found


def write(root: Path, dataset: list[dict[str, list[list[int] | str]]]) -> None:
    with BrodenWriter(root, CATEGORIES, SHAPE) as writer:
        for i, picture in enumerate(dataset):
            labels = {
                category: [
                    item
                    if isinstance(item, str)
                    else np.array([writer.label(NAMES[n]) if n >= 0 else 0 for n in item]).reshape(SHAPE)
                    for item in entries
                ]
                for category, entries in picture.items()
            }
            writer.add(f"folder/{i}.jpg", JPEG, labels)


@given(st.lists(pictures, min_size=1, max_size=6).filter(lambda d: any(expected_pixels(p, set(CATEGORIES)) for p in d)))
def test_what_is_written_is_read_back(dataset: list[dict[str, list[list[int] | str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "written"
        write(root, dataset)
        assert validate(root) == []
        read = BrodenDataset(root)
        truth = [expected_pixels(picture, set(CATEGORIES)) for picture in dataset]
        concepts = read.concepts
        name_of = dict(zip(concepts.number.tolist(), concepts.name, strict=True))
        for i in range(len(read)):
            number = int(Path(read.path(i)).stem)
            labels = read.read_labels(i)
            found = {name_of[n]: set(range(15)) for n in labels.image_level.tolist()}
            for plane in labels.planes:
                for pixel, n in enumerate(plane.ravel().tolist()):
                    if n:
                        assert pixel not in found.setdefault(name_of[n], set())
                        found[name_of[n]].add(pixel)
            assert found == truth[number]
        frequency = {name: sum(name in image for image in truth) for name in name_of.values()}
        assert dict(zip(concepts.name, concepts.frequency.tolist(), strict=True)) == frequency
        assert concepts.number.tolist() == list(range(1, len(name_of) + 1))
        assert sorted(frequency.values(), reverse=True) == concepts.frequency.tolist()
        for name, category in zip(concepts.name, concepts.category.tolist(), strict=True):
            coverage = [
                sum(len(expected_pixels(picture, {c}).get(name, ())) for picture in dataset) for c in CATEGORIES
            ]
            assert category == max(range(4), key=lambda c: (coverage[c], c))


@given(st.lists(pictures, min_size=1, max_size=4).filter(lambda d: any(expected_pixels(p, set(CATEGORIES)) for p in d)))
def test_what_is_written_keeps_the_rules_of_other_readers(dataset: list[dict[str, list[list[int] | str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "written"
        write(root, dataset)
        texts = {path.name: path.read_text(encoding="utf-8") for path in root.glob("*.csv")}
        tables = {name: list(csv.DictReader(io.StringIO(text, newline=""))) for name, text in texts.items()}
        assert tables.keys() == {"index.csv", "label.csv", "category.csv", *(f"c_{name}.csv" for name in CATEGORIES)}
        for table in tables.values():
            for row in table:
                for column in {
                    "ih",
                    "iw",
                    "sh",
                    "sw",
                    "number",
                    "code",
                    "frequency",
                    "first",
                    "last",
                    "count",
                } & row.keys():
                    assert re.match(r"^\d+$", row[column])
                assert re.match(r"^\d+\.\d*$", row.get("coverage", "1."))
        for label in tables["label.csv"]:
            for part in label["category"].split(";"):
                assert re.match(r"^([^(]*)\(([^)]*)\)$", part)
        fixed = ["image", "split", "ih", "iw", "sh", "sw"]
        assert list(tables["index.csv"][0]) == [*fixed, *CATEGORIES]
        for row in tables["index.csv"]:
            fields = [item for category in CATEGORIES for item in row[category].split(";") if item]
            paths = [item for item in fields if not re.match(r"^\d+$", item)]
            assert len(paths) <= 6
            for path in paths:
                rgb = np.asarray(Image.open(io.BytesIO((root / "images" / path).read_bytes())))
                assert (rgb.shape, rgb.dtype.name) == ((3, 5, 3), "uint8")
                assert (rgb[:, :, 2] == 0).all()
                assert (rgb[:, :, 0].astype(int) + rgb[:, :, 1].astype(int) * 256).max() <= len(tables["label.csv"])
        for category in CATEGORIES:
            codes = [int(row["code"]) for row in tables[f"c_{category}.csv"]]
            assert codes == list(range(1, len(codes) + 1))


def test_rows_and_splits_follow_the_hash_of_the_path(tmp_path: Path) -> None:
    paths = [f"x/{i}.jpg" for i in range(200)]
    with BrodenWriter(tmp_path / "d", ["scene"], SHAPE) as writer:
        for path in paths:
            writer.add(path, JPEG, {"scene": ["beach-s"]})
    fraction = {path: int(hashlib.md5(path.encode()).hexdigest(), 16) / 16**32 for path in paths}
    read = BrodenDataset(tmp_path / "d")
    assert [read.path(i) for i in range(200)] == sorted(paths, key=fraction.__getitem__)
    assert all(read.split(i) == ("train" if fraction[read.path(i)] <= 0.7 else "val") for i in range(200))
    assert 0.6 < read.splits["train"] / 200 < 0.8


def test_numbers_above_255_survive(tmp_path: Path) -> None:
    with BrodenWriter(tmp_path / "d", ["object"], (20, 30)) as writer:
        numbers = np.array([writer.label(f"label {i}") for i in range(600)]).reshape(20, 30)
        writer.add("0.jpg", JPEG, {"object": [numbers]})
    read = BrodenDataset(tmp_path / "d")
    assert np.array_equal(read.read_labels(0).planes[0], numbers)


def test_an_unfinished_folder_is_no_dataset(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with BrodenWriter(tmp_path / "d", ["object"], SHAPE) as writer:
            writer.add("0.jpg", JPEG, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert (tmp_path / "d" / "images" / "0.jpg").exists()
    assert not (tmp_path / "d" / "index.csv").exists()


def test_what_would_give_a_broken_folder_is_refused(tmp_path: Path) -> None:
    with BrodenWriter(tmp_path / "d", ["object"], SHAPE) as writer:
        glass = writer.label("glass")
        plane = np.full(SHAPE, glass)
        writer.add("a/0.jpg", JPEG, {"object": [plane]})
        refused: list[tuple[str, bytes, dict[str, list[np.ndarray | str]]]] = [
            ("a/0.jpg", JPEG, {}),
            ("a/0.png", JPEG, {"object": [plane]}),
            ("a/0_object.png", encode(photo(10, 6), "PNG"), {}),
            ("../0.jpg", JPEG, {}),
            ("/0.jpg", JPEG, {}),
            ("a//1.jpg", JPEG, {}),
            ("a;1.jpg", JPEG, {}),
            ("", JPEG, {}),
            ("1.jpg", b"nothing", {}),
            ("1.jpg", JPEG, {"part": [plane]}),
            ("1.jpg", JPEG, {"object": [plane.T]}),
            ("1.jpg", JPEG, {"object": [plane + 1]}),
            ("1.jpg", JPEG, {"object": [plane - 2]}),
            ("1.jpg", JPEG, {"object": [plane] * 7}),
        ]
        for path, image, labels in refused:
            with pytest.raises(ValueError, match=r"."):
                writer.add(path, image, labels)
    assert validate(tmp_path / "d") == []
    with pytest.raises(ValueError, match="holds a dataset already"):
        BrodenWriter(tmp_path / "d", ["object"], SHAPE)
    for categories in ([], ["a", "a"], ["image"], ["a/b"], [""]):
        with pytest.raises(ValueError, match="categor"):
            BrodenWriter(tmp_path / "e", categories, SHAPE)
