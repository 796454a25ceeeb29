"""The tables of a Broden folder: index.csv, category.csv, label.csv and one c_<category>.csv per category.

The format is that of the Broden data set (Bau, Zhou, Khosla, Oliva, Torralba: Network Dissection, CVPR 2017), as its
public readers take it. One parser serves the loader and the validator: every damage is a finding, errors are what the
loader refuses, and a table with an error is never handed on half read.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ortoscope_service.datasets.dataset import resolve_inside
from ortoscope_service.datasets.findings import Finding, Report, error, warning
from ortoscope_service.datasets.images import MAX_IMAGE_PIXELS

INDEX = "index.csv"
LABELS = "label.csv"
CATEGORIES = "category.csv"

MAX_LABEL_NUMBER = 65_535
"""The largest number that a label plane can hold (red + 256 times green)."""

FIXED_COLUMNS = ("image", "split", "ih", "iw", "sh", "sw")
"""The columns of index.csv before those of the categories."""

USUAL_SPLITS = ("train", "val", "test")
"""Splits that need no remark."""

MAX_PLANES = 6
"""Most label planes per image that gandissect's reader of the format can stack."""

_INTEGER = re.compile(r"[0-9]+")
_LABEL_CATEGORY = re.compile(r"([^(]+)\(([0-9]+)\)")


def table_of(category: str) -> str:
    """File name of a category's table of labels."""
    return f"c_{category}.csv"


@dataclass(frozen=True)
class Stated:
    """A real number as a table states it."""

    value: float
    """The number."""

    half_unit: float
    """Half of the last decimal place that was written: the rounding error it may carry."""


@dataclass(frozen=True)
class Category:
    """A row of category.csv: a kind of concept."""

    name: str
    first: int
    """The smallest label number in it."""
    last: int
    """The largest label number in it."""
    count: int
    """How many labels it has."""
    frequency: int
    """Sum of its labels' frequencies."""
    line: int


@dataclass(frozen=True)
class Label:
    """A row of label.csv: a concept."""

    number: int
    name: str
    categories: tuple[str, ...]
    """The categories that it says it occurs in; empty if the field is not of the form `name(count);…`."""
    frequency: int
    """Number of images with it."""
    coverage: Stated
    """Sum over images of the share of pixels with it."""
    line: int


@dataclass(frozen=True)
class CategoryLabel:
    """A row of a c_<category>.csv: a concept as it occurs in one category."""

    number: int
    name: str
    frequency: int
    """Number of images with it in this category."""
    coverage: Stated
    """Sum over images of the share of pixels with it in this category."""
    line: int


@dataclass(frozen=True)
class Item:
    """One entry of a category's field of index.csv: a label plane or an image-level label."""

    category: int
    """Index of the category."""
    plane: str
    """Path of a label plane relative to the dataset's folder; empty for an image-level label."""
    number: int
    """The image-level label; 0 for a plane."""


@dataclass(frozen=True)
class Row:
    """A row of index.csv: an image."""

    image: str
    """Path relative to the folder `images`."""
    split: str
    height: int
    """Height of the image in pixels."""
    width: int
    """Width of the image in pixels."""
    items: tuple[Item, ...]
    """Planes and image-level labels, by category, dominant first; without image-level 0, which means unlabelled."""
    line: int


@dataclass(frozen=True)
class BrodenTables:
    """The tables of a Broden folder: the rows of each that have no error of their own."""

    categories: tuple[Category, ...]
    """In the order of category.csv."""
    labels: dict[int, Label]
    """By number, ascending."""
    category_labels: tuple[dict[int, CategoryLabel], ...]
    """For each category its labels by number."""
    columns: tuple[str, ...]
    """The categories that `Item.category` counts: those of category.csv, or where that is broken the columns of
    index.csv."""
    rows: tuple[Row, ...]
    """In the order of index.csv."""
    mask_shape: tuple[int, int]
    """Height and width of all label planes."""
    broken: frozenset[str]
    """File names of the tables with an error."""


def read_tables(root: Path, report: Report) -> BrodenTables:
    """Reads all tables of a Broden folder.

    Args:
        root: The folder, resolved.
        report: Takes the findings.
    """
    broken: set[str] = set()

    def note(finding: Finding) -> None:
        if finding.severity == "error":
            broken.add(finding.path)
        report(finding)

    categories = _read_categories(root, note)
    labels = _read_labels(root, note)
    category_labels = tuple(_read_category_labels(root, category, note) for category in categories)
    columns = None if CATEGORIES in broken else tuple(category.name for category in categories)
    index = _IndexReader(root, columns, None if LABELS in broken else labels, note)
    rows = tuple(index.rows())
    return BrodenTables(categories, labels, category_labels, index.columns, rows, index.mask_shape, frozenset(broken))


def primary_category(number: int, category_labels: Sequence[dict[int, CategoryLabel]]) -> int:
    """Index of the category in which a label covers most; the last at a tie, or if it occurs in none."""
    coverage = [(table[number].coverage.value if number in table else 0.0) for table in category_labels]
    return max(range(len(coverage)), key=lambda i: (coverage[i], i))


class _Table:
    """The rows of a CSV file with a header; counts the errors in it."""

    def __init__(self, root: Path, name: str, columns: Sequence[str], report: Report) -> None:
        self.name = name
        self.errors = 0
        self._report = report
        self._text = self._read_text(root)
        self._rows = self._read_rows()
        self.header = self._read_header(columns)

    def error(self, reason: str, line: int, message: str) -> None:
        self.errors += 1
        self._report(error(reason, self.name, line, message))

    def warning(self, reason: str, line: int, message: str) -> None:
        self._report(warning(reason, self.name, line, message))

    def records(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Line and fields by column of each row; rows of another length than the header's are errors and left out."""
        for line, row in self._rows:
            if len(row) == len(self.header):
                yield line, dict(zip(self.header, row, strict=True))
            else:
                expected = len(self.header)
                message = f"The row has {len(row)} fields, the header {expected}. Quote fields that hold commas."
                self.error("TABLE_ROW", line, message)

    def integer(self, line: int, column: str, text: str) -> int:
        """A number of digits only; anything else is an error and read as 0."""
        if _INTEGER.fullmatch(text) and len(text) <= 18:
            return int(text)
        self.error("NOT_AN_INTEGER", line, f'{column} is "{_short(text)}"; write a whole number in digits only.')
        return 0

    def real(self, line: int, column: str, text: str) -> Stated:
        """A finite number >= 0; anything else is an error and read as 0, an exponent is a warning."""
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            message = f'{column} is "{_short(text)}"; write a number such as 12.345678.'
            self.error("NOT_A_NUMBER", line, message)
            return Stated(0.0, 0.0)
        mantissa, exponent_mark, exponent = text.strip().lower().partition("e")
        if exponent_mark:
            message = f'{column} is "{text}"; other readers take an exponent for text and fail. Write {value:f}.'
            self.warning("EXPONENT", line, message)
        decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
        return Stated(value, 0.5 * 10.0 ** min(-decimals, 300))

    def label_number(self, line: int, column: str, text: str) -> int:
        """A label number, 0 to 65535; anything else is an error and read as 0."""
        number = self.integer(line, column, text)
        if number > MAX_LABEL_NUMBER:
            message = (
                f"{column} is {number}; a label plane can hold numbers up to {MAX_LABEL_NUMBER}. Renumber the labels."
            )
            self.error("LABEL_RANGE", line, message)
            return 0
        return number

    def _read_text(self, root: Path) -> str:
        path = resolve_inside(root, self.name)
        if path is None:
            self.error("PATH_OUTSIDE", 0, "The table leads out of the dataset's folder. Put the file inside it.")
            return ""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self.error("TABLE_MISSING", 0, "The dataset lacks this table. Restore it.")
            return ""
        except OSError:
            self.error("TABLE_UNREADABLE", 0, "The table cannot be read. Check that it is a file and its permissions.")
            return ""
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as wrong:
            line = data.count(b"\n", 0, wrong.start) + 1
            self.error("TABLE_ENCODING", line, "The table is not UTF-8 text. Save it as UTF-8.")
            return ""

    def _read_rows(self) -> Iterator[tuple[int, list[str]]]:
        """First line and fields of each row that is not blank, up to the first that is malformed."""
        reader = csv.reader(io.StringIO(self._text, newline=""), strict=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as wrong:
                self.error("TABLE_MALFORMED", line, f"Not valid CSV: {wrong}. Check the quotes of this row.")
                return
            if row:
                yield line, row

    def _read_header(self, columns: Sequence[str]) -> list[str]:
        line, header = next(self._rows, (1, []))
        if self.errors:
            return []
        missing = [column for column in columns if column not in header]
        twice = sorted({column for column in header if header.count(column) > 1})
        if missing:
            message = f"The header lacks the column {', '.join(missing)}; it needs {','.join(columns)}."
            self.error("TABLE_HEADER", line, message)
        if twice:
            self.error("TABLE_HEADER", line, f"The header has the column {', '.join(twice)} twice. Remove one.")
        if self.errors:
            self._rows = iter(())
        return header


def _read_categories(root: Path, report: Report) -> tuple[Category, ...]:
    table = _Table(root, CATEGORIES, ("name", "first", "last", "count", "frequency"), report)
    categories: dict[str, Category] = {}
    for line, row in table.records():
        name = row["name"]
        if not name or name in FIXED_COLUMNS or any(c in name for c in "/\\\0;"):
            message = f'"{_short(name)}" cannot be the name of a category, which names a column and a file. Rename it.'
            table.error("CATEGORY_NAME", line, message)
            continue
        if name in categories:
            table.error("DUPLICATE_CATEGORY", line, f'Category "{name}" stands here twice. Remove one row.')
            continue
        numbers = (table.integer(line, column, row[column]) for column in ("first", "last", "count", "frequency"))
        first, last, count, frequency = numbers
        categories[name] = Category(name, first, last, count, frequency, line)
    if not categories and not table.errors:
        table.error("NO_CATEGORIES", 0, "The dataset has no category of labels. Add one row per category.")
    return tuple(categories.values())


def _read_labels(root: Path, report: Report) -> dict[int, Label]:
    table = _Table(root, LABELS, ("number", "name", "category", "frequency", "coverage"), report)
    labels: dict[int, Label] = {}
    for line, row in table.records():
        number = table.label_number(line, "number", row["number"])
        frequency = table.integer(line, "frequency", row["frequency"])
        coverage = table.real(line, "coverage", row["coverage"])
        if number == 0:
            if row["number"].strip("0") == "" and row["number"]:
                message = "Number 0 means unlabelled and cannot be a label; the row is ignored. Remove it."
                table.warning("LABEL_ZERO", line, message)
            continue
        if number in labels:
            message = f"Label {number} stands here twice (first in line {labels[number].line}). Renumber one."
            table.error("DUPLICATE_LABEL", line, message)
            continue
        matches = [_LABEL_CATEGORY.fullmatch(part) for part in row["category"].split(";")]
        categories = tuple(match[1] for match in matches if match) if all(matches) else ()
        labels[number] = Label(number, row["name"], categories, frequency, coverage, line)
    if not labels and not table.errors:
        table.error("NO_LABELS", 0, "The dataset has no label. Add one row per label.")
    return dict(sorted(labels.items()))


def _read_category_labels(root: Path, category: Category, report: Report) -> dict[int, CategoryLabel]:
    table = _Table(root, table_of(category.name), ("code", "number", "name", "frequency", "coverage"), report)
    labels: dict[int, CategoryLabel] = {}
    for line, row in table.records():
        table.integer(line, "code", row["code"])
        number = table.label_number(line, "number", row["number"])
        frequency = table.integer(line, "frequency", row["frequency"])
        coverage = table.real(line, "coverage", row["coverage"])
        if number in labels:
            message = f"Label {number} stands here twice (first in line {labels[number].line}). Remove one row."
            table.error("DUPLICATE_LABEL", line, message)
        elif number:
            labels[number] = CategoryLabel(number, row["name"], frequency, coverage, line)
    return labels


class _IndexReader:
    """Reads index.csv.

    Args:
        root: The folder, resolved.
        categories: The categories; None to take them from the header.
        labels: The labels, which image-level labels must be among; None to take any.
        report: Takes the findings.
    """

    def __init__(
        self, root: Path, categories: tuple[str, ...] | None, labels: dict[int, Label] | None, report: Report
    ) -> None:
        self._table = _Table(root, INDEX, (*FIXED_COLUMNS, *(categories or ())), report)
        others = tuple(column for column in self._table.header if column not in FIXED_COLUMNS)
        self.columns = others if categories is None else categories
        self.mask_shape = (0, 0)
        self._labels = labels
        self._lines: dict[str, int] = {}
        for column in others:
            if column not in self.columns:
                message = f'Column "{_short(column)}" is no category of category.csv and is ignored. Add it there.'
                self._table.warning("UNKNOWN_CATEGORY", 1, message)

    def rows(self) -> Iterator[Row]:
        """The rows without an error."""
        found = False
        for line, fields in self._table.records():
            found, errors = True, self._table.errors
            row = self._read_row(line, fields)
            if self._table.errors == errors:
                yield row
        if not found and not self._table.errors:
            self._table.error("DATASET_EMPTY", 0, "The dataset has no image. Add one row per image.")

    def _read_row(self, line: int, fields: dict[str, str]) -> Row:
        image, split = fields["image"], fields["split"]
        height, width, sh, sw = (self._table.integer(line, c, fields[c]) for c in ("ih", "iw", "sh", "sw"))
        self._judge_mask_size(line, image, (sh, sw))
        if not image:
            self._table.error("IMAGE_MISSING", line, "The row names no image. Fill in its path below images/.")
        elif image in self._lines:
            first = self._lines[image]
            message = (
                f'Image "{_short(image)}" stands here twice (first in line {first}) and counts twice. Remove one row.'
            )
            self._table.warning("DUPLICATE_IMAGE", line, message)
        self._lines.setdefault(image, line)
        if split not in USUAL_SPLITS:
            usual = ", ".join(USUAL_SPLITS)
            message = (
                f'Split "{_short(split)}" is none of {usual}; other readers leave its images out. Correct or accept it.'
            )
            self._table.warning("UNKNOWN_SPLIT", line, message)
        items = tuple(
            item
            for index, category in enumerate(self.columns)
            for item in self._read_items(line, index, category, fields[category])
        )
        planes = sum(bool(item.plane) for item in items)
        if planes > MAX_PLANES:
            message = f"{planes} label planes; some readers stack at most {MAX_PLANES}. Merge planes if they matter."
            self._table.warning("MANY_PLANES", line, message)
        return Row(image, split, height, width, items, line)

    def _judge_mask_size(self, line: int, image: str, shape: tuple[int, int]) -> None:
        sh, sw = shape
        if not 0 < sh * sw <= MAX_IMAGE_PIXELS:
            message = f"sh,sw of {_short(image)} is {sh},{sw}: no size of a label plane. Correct it."
            self._table.error("MASK_SIZE", line, message)
        elif self.mask_shape == (0, 0):
            self.mask_shape = shape
        elif shape != self.mask_shape:
            first = f"{self.mask_shape[0]},{self.mask_shape[1]}"
            message = (
                f"sh,sw of {_short(image)} is {sh},{sw}, that of the first row {first}; all must be equal. "
                "Rescale the label planes by nearest neighbour."
            )
            self._table.error("MASK_SIZE", line, message)

    def _read_items(self, line: int, index: int, category: str, text: str) -> Iterator[Item]:
        """The planes and image-level labels of one category's field."""
        for entry in (part.strip() for part in text.split(";")):
            if not _INTEGER.fullmatch(entry):
                if entry:
                    yield Item(index, f"images/{entry}", 0)
                continue
            number = self._table.label_number(line, category, entry)
            if number and self._labels is not None and number not in self._labels:
                message = f"Image-level label {number} ({category}) is not in label.csv. Add it there or correct it."
                self._table.error("UNKNOWN_LABEL", line, message)
            elif number:
                yield Item(index, "", number)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}…"
