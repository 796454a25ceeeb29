"""Writes datasets in the folder layout of Broden, so that other readers of that format take them too."""

import csv
import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from ortoscope_service.datasets.broden_tables import (
    CATEGORIES,
    FIXED_COLUMNS,
    INDEX,
    LABELS,
    MAX_LABEL_NUMBER,
    MAX_PLANES,
    table_of,
)
from ortoscope_service.datasets.image_headers import read_header
from ortoscope_service.datasets.label_planes import encode_plane

TRAIN_SHARE = 0.7
"""Share of the images that goes to the split "train" where the caller names no split."""


@dataclass
class _Count:
    """Of one label: the number of images and the pixels over all of them."""

    images: int = 0
    pixels: int = 0


@dataclass(frozen=True)
class _Written:
    """An image that was added: everything about its row of index.csv but the label numbers."""

    path: str
    split: str
    height: int
    width: int
    items: Mapping[str, Sequence[bytes | int]] = field(default_factory=dict)
    """By category, compressed planes of provisional numbers and image-level labels as provisional numbers."""


class BrodenWriter:
    """Writes a folder in Broden's format; a context manager that writes the tables when it ends without an exception.

    Labels have provisional numbers, given by `label`, while images are added. At the end they are numbered from 1 by
    falling frequency (number of images; equal ones in the order of `label`), as in Broden, and labels that no pixel
    has are left out. Rows stand in the order of the MD5 hash of the image's path taken as a fraction of 1, which is
    also the rule of the split: up to 0.7 "train", above "val".

    What other readers need is kept: planes of one size, numbers without exponents, a table for every category, at
    most six planes per image. index.csv is written last, so that a folder that was left half written is no dataset.

    Example:
        with BrodenWriter(folder, ["color", "scene"], (112, 112)) as writer:
            red = writer.label("red-c")
            writer.add("a/0.jpg", jpeg, {"color": [np.full((112, 112), red)], "scene": ["beach-s"]})

    Args:
        root: The folder; made if it does not exist.
        categories: Names of the categories, in order.
        mask_shape: Height and width of all label planes, in pixels.

    Raises:
        ValueError: The folder holds an index.csv already, or a category's name is not fit for a column and a file.
    """

    def __init__(self, root: Path, categories: Sequence[str], mask_shape: tuple[int, int]) -> None:
        if (root / INDEX).exists():
            raise ValueError(f"{root} holds a dataset already; choose an empty folder")
        if not categories or len(set(categories)) != len(categories):
            raise ValueError("categories must be distinct, and at least one")
        for name in categories:
            if not name or name in FIXED_COLUMNS or any(character in name for character in "/\\\0;()"):
                raise ValueError(f"{name!r} cannot be the name of a category")
        self._root = root
        self._categories = tuple(categories)
        self._mask_shape = mask_shape
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._images: dict[str, _Written] = {}
        self._files: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()

    def label(self, name: str) -> int:
        """The provisional number, from 1, of a label; the same for the same name.

        Raises:
            ValueError: There are 65535 labels already.
        """
        if name not in self._numbers:
            if len(self._names) == MAX_LABEL_NUMBER:
                raise ValueError(f"a label plane can tell at most {MAX_LABEL_NUMBER} labels apart")
            self._names.append(name)
            self._numbers[name] = len(self._names)
        return self._numbers[name]

    def add(
        self,
        path: str,
        image: bytes,
        labels: Mapping[str, Sequence[npt.NDArray[np.integer] | str]],
        *,
        split: str = "",
    ) -> None:
        """Adds an image.

        Args:
            path: Path of the image below the folder `images`, with slashes, ending in the suffix of its format.
            image: The encoded picture, JPEG, PNG or WebP.
            labels: By category what is annotated, dominant first: planes of provisional numbers, (sh, sw), and names of
                image-level labels. A category that is left out was not annotated.
            split: Split of the image; empty for the rule above.

        Raises:
            ValueError: The path was added before or leads out of the folder; a category or a number is unknown; a plane
                has the wrong shape; there are more than six planes; `image` is no picture.
        """
        header = read_header(image)
        if header is None:
            raise ValueError(f"{path}: not a JPEG, PNG or WebP picture")
        parts = PurePosixPath(path).parts
        if str(PurePosixPath(path)) != path or parts[0] in ("/", ".") or ".." in parts or ";" in path or "\0" in path:
            raise ValueError(f"{path!r} is no path below a folder")
        unknown = set(labels) - set(self._categories)
        if unknown:
            raise ValueError(f"{path}: no such category: {', '.join(sorted(unknown))}")
        items = {category: [self._compress(path, item) for item in labels[category]] for category in labels}
        planes = [name for category in items for name in _names(path, category, items[category])]
        if len(planes) > MAX_PLANES:
            raise ValueError(f"{path}: more than {MAX_PLANES} label planes, which other readers cannot stack")
        taken = self._files.intersection([path, *planes])
        if taken:
            raise ValueError(f"{path}: {taken.pop()} was written for another image; choose another path")
        self._files.update([path, *planes])
        file = self._root / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
        split = split or ("train" if _fraction(path) <= TRAIN_SHARE else "val")
        self._images[path] = _Written(path, split, header.height, header.width, items)

    def _compress(self, path: str, item: npt.NDArray[np.integer] | str) -> bytes | int:
        if isinstance(item, str):
            return self.label(item)
        if item.shape != self._mask_shape:
            raise ValueError(f"{path}: a label plane has shape {item.shape}, the dataset {self._mask_shape}")
        if item.size and not 0 <= item.min() <= item.max() <= len(self._names):
            raise ValueError(f"{path}: a label plane holds a number that `label` did not give")
        return zlib.compress(item.astype(np.uint16).tobytes(), 1)

    def _plane(self, compressed: bytes) -> npt.NDArray[np.uint16]:
        return np.frombuffer(zlib.decompress(compressed), np.uint16).reshape(self._mask_shape)

    def _finish(self) -> None:
        by_category, total = self._count()
        order = sorted(total, key=lambda provisional: (-total[provisional].images, provisional))
        number = np.zeros(len(self._names) + 1, np.int64)
        number[order] = np.arange(1, len(order) + 1)
        rows = [self._write_planes(image, number) for image in sorted(self._images.values(), key=_hash_order)]
        self._write_labels(order, by_category, total, number)
        self._write_table(INDEX, [*FIXED_COLUMNS, *self._categories], rows)

    def _count(self) -> tuple[dict[str, dict[int, _Count]], dict[int, _Count]]:
        """Images and pixels per provisional number, by category and in all; a label counts once per pixel."""
        by_category: dict[str, dict[int, _Count]] = {category: {} for category in self._categories}
        total: dict[int, _Count] = {}
        for image in self._images.values():
            everywhere: list[bytes | int] = []
            for category, items in image.items.items():
                everywhere.extend(items)
                self._tally(items, by_category[category])
            self._tally(everywhere, total)
        return by_category, total

    def _tally(self, items: Sequence[bytes | int], counts: dict[int, _Count]) -> None:
        pixels = int(np.prod(self._mask_shape))
        whole = {item for item in items if isinstance(item, int)}
        planes = [self._plane(item) for item in items if isinstance(item, bytes)]
        covered = dict.fromkeys(whole, pixels)
        for number in {int(n) for plane in planes for n in np.unique(plane)} - whole - {0}:
            covered[number] = int(np.any([plane == number for plane in planes], axis=0).sum())
        for number, count in covered.items():
            entry = counts.setdefault(number, _Count())
            entry.images += 1
            entry.pixels += count

    def _write_planes(self, image: _Written, number: npt.NDArray[np.int64]) -> list[str]:
        """Writes the planes of an image; returns its row of index.csv."""
        fields = []
        for category in self._categories:
            items = image.items.get(category, ())
            names = iter(_names(image.path, category, items))
            entries = []
            for item in items:
                if isinstance(item, int):
                    entries.append(str(number[item]))
                    continue
                name = next(names)
                (self._root / "images" / name).write_bytes(encode_plane(number[self._plane(item)]))
                entries.append(name)
            fields.append(";".join(entries))
        size = [str(n) for n in (image.height, image.width, *self._mask_shape)]
        return [image.path, image.split, *size, *fields]

    def _write_labels(
        self,
        order: Sequence[int],
        by_category: Mapping[str, Mapping[int, _Count]],
        total: Mapping[int, _Count],
        number: npt.NDArray[np.int64],
    ) -> None:
        pixels = float(np.prod(self._mask_shape))
        label_rows, category_rows = [], []
        for provisional in order:
            in_categories = [
                (by_category[c][provisional].images, c) for c in self._categories if provisional in by_category[c]
            ]
            in_categories.sort(key=lambda entry: -entry[0])
            said = ";".join(f"{category}({images})" for images, category in in_categories)
            count = total[provisional]
            coverage = f"{count.pixels / pixels:.6f}"
            name = self._names[provisional - 1]
            label_rows.append([str(number[provisional]), name, said, str(count.images), coverage, ""])
        for category in self._categories:
            counts = by_category[category]
            members = sorted(counts, key=lambda provisional: (-counts[provisional].images, number[provisional]))
            rows = [
                [
                    str(code),
                    str(number[provisional]),
                    self._names[provisional - 1],
                    str(counts[provisional].images),
                    f"{counts[provisional].pixels / pixels:.12f}",
                ]
                for code, provisional in enumerate(members, 1)
            ]
            self._write_table(table_of(category), ["code", "number", "name", "frequency", "coverage"], rows)
            numbers = [int(number[provisional]) for provisional in members] or [0]
            frequency = sum(count.images for count in counts.values())
            row = [category, min(numbers), max(numbers), len(members), frequency]
            category_rows.append([str(entry) for entry in row])
        self._write_table(LABELS, ["number", "name", "category", "frequency", "coverage", "syns"], label_rows)
        self._write_table(CATEGORIES, ["name", "first", "last", "count", "frequency"], category_rows)

    def _write_table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        stream = io.StringIO(newline="")
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
        self._root.mkdir(parents=True, exist_ok=True)
        (self._root / name).write_text(stream.getvalue(), encoding="utf-8", newline="")


def _names(path: str, category: str, items: Sequence[bytes | int]) -> list[str]:
    """Paths of an image's label planes in a category, below the folder `images`."""
    planes = sum(isinstance(item, bytes) for item in items)
    stem = f"{path.removesuffix(PurePosixPath(path).suffix)}_{category}"
    return [f"{stem}.png"] if planes == 1 else [f"{stem}_{n}.png" for n in range(1, planes + 1)]


def _fraction(path: str) -> float:
    """The MD5 hash of an image's path as a fraction of 1; a rule of order, no protection against anything."""
    digest = hashlib.md5(path.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") / 2.0**128


def _hash_order(image: _Written) -> tuple[float, str]:
    return _fraction(image.path), image.path
