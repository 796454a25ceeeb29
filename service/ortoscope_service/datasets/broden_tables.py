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
from ortoscope_service.datasets.findings import Report, error, warning
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
    """The tables of a Broden folder. A table that has an error, or depends on one that has, is None."""

    categories: tuple[Category, ...] | None
    """In the order of category.csv."""
    labels: dict[int, Label] | None
    """By number, ascending."""
    category_labels: tuple[dict[int, CategoryLabel] | None, ...]
    """For each category its labels by number."""
    rows: tuple[Row, ...] | None
    """In the order of index.csv."""
    mask_shape: tuple[int, int] | None
    """Height and width of all label planes."""


def read_tables(root: Path, report: Report) -> BrodenTables:
    """Reads all tables of a Broden folder.

    Args:
        root: The folder, resolved.
        report: Takes the findings.
    """
    categories = _read_categories(root, report)
    labels = _read_labels(root, report)
    category_labels = tuple(_read_category_labels(root, category, report) for category in categories or ())
    rows, mask_shape = None, None
    if categories is not None:
        rows, mask_shape = _read_index(root, [category.name for category in categories], labels, report)
    return BrodenTables(categories, labels, category_labels, rows, mask_shape)


def primary_category(number: int, category_labels: Sequence[dict[int, CategoryLabel]]) -> int:
    """Index of the category in which a label covers most; the last at a tie, or if it occurs in none."""
    coverage = [(table[number].coverage.value if number in table else 0.0) for table in category_labels]
    return max(range(len(coverage)), key=lambda i: (coverage[i], i))


class _Table:
    """The rows of a CSV file with a header; collects whether anything about them was an error."""

    def __init__(self, root: Path, name: str, columns: Sequence[str], report: Report) -> None:
        self.name = name
        self.broken = False
        self._report = report
        self._text = self._read_text(root)
        self._rows = self._read_rows()
        self.header = self._read_header(columns)

    def error(self, reason: str, line: int, message: str) -> None:
        self.broken = True
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
        if self.broken:
            return []
        missing = [column for column in columns if column not in header]
        twice = sorted({column for column in header if header.count(column) > 1})
        if missing:
            message = f"The header lacks the column {', '.join(missing)}; it needs {','.join(columns)}."
            self.error("TABLE_HEADER", line, message)
        if twice:
            self.error("TABLE_HEADER", line, f"The header has the column {', '.join(twice)} twice. Remove one.")
        if self.broken:
            self._rows = iter(())
        return header


def _read_categories(root: Path, report: Report) -> tuple[Category, ...] | None:
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
    if not categories and not table.broken:
        table.error("NO_CATEGORIES", 0, "The dataset has no category of labels. Add one row per category.")
    return None if table.broken else tuple(categories.values())


def _read_labels(root: Path, report: Report) -> dict[int, Label] | None:
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
    if not labels and not table.broken:
        table.error("NO_LABELS", 0, "The dataset has no label. Add one row per label.")
    return None if table.broken else dict(sorted(labels.items()))


def _read_category_labels(root: Path, category: Category, report: Report) -> dict[int, CategoryLabel] | None:
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
    return None if table.broken else labels


def _read_index(
    root: Path, categories: Sequence[str], labels: dict[int, Label] | None, report: Report
) -> tuple[tuple[Row, ...] | None, tuple[int, int] | None]:
    table = _Table(root, INDEX, (*FIXED_COLUMNS, *categories), report)
    for column in table.header:
        if column not in FIXED_COLUMNS and column not in categories and not table.broken:
            message = (
                f'Column "{_short(column)}" is no category of category.csv and is ignored. Add it there or drop it.'
            )
            table.warning("UNKNOWN_CATEGORY", 1, message)
    rows: list[Row] = []
    seen: dict[str, int] = {}
    mask_shape: tuple[int, int] | None = None
    for line, fields in table.records():
        height, width, sh, sw = (table.integer(line, c, fields[c]) for c in ("ih", "iw", "sh", "sw"))
        mask_shape = mask_shape or (sh, sw)
        image, split = fields["image"], fields["split"]
        if not 0 < sh * sw <= MAX_IMAGE_PIXELS:
            message = f"sh,sw of {_short(image)} is {sh},{sw}: no size of a label plane. Correct it."
            table.error("MASK_SIZE", line, message)
        elif (sh, sw) != mask_shape:
            message = (
                f"sh,sw of {_short(image)} is {sh},{sw}, that of the first row {mask_shape[0]},{mask_shape[1]}; "
                "all must be equal. Rescale the label planes by nearest neighbour."
            )
            table.error("MASK_SIZE", line, message)
        _judge_row(table, line, image, split, seen)
        items = tuple(_read_items(table, line, categories, fields, labels))
        rows.append(Row(image, split, height, width, items, line))
    if not rows and not table.broken:
        table.error("DATASET_EMPTY", 0, "The dataset has no image. Add one row per image.")
    return (None, None) if table.broken else (tuple(rows), mask_shape)


def _judge_row(table: _Table, line: int, image: str, split: str, seen: dict[str, int]) -> None:
    if not image:
        table.error("IMAGE_MISSING", line, "The row names no image. Fill in its path below the folder images.")
    elif image in seen:
        message = (
            f'Image "{_short(image)}" stands here twice (first in line {seen[image]}) and counts twice. Remove one row.'
        )
        table.warning("DUPLICATE_IMAGE", line, message)
    seen.setdefault(image, line)
    if split not in USUAL_SPLITS:
        usual = ", ".join(USUAL_SPLITS)
        message = (
            f'Split "{_short(split)}" is none of {usual}; other readers leave its images out. Correct or accept it.'
        )
        table.warning("UNKNOWN_SPLIT", line, message)


def _read_items(
    table: _Table, line: int, categories: Sequence[str], fields: dict[str, str], labels: dict[int, Label] | None
) -> Iterator[Item]:
    planes = 0
    for index, category in enumerate(categories):
        for text in (part.strip() for part in fields[category].split(";")):
            if not text:
                continue
            if not _INTEGER.fullmatch(text):
                planes += 1
                yield Item(index, f"images/{text}", 0)
                continue
            number = table.label_number(line, category, text)
            if number == 0:
                continue
            if labels is not None and number not in labels:
                message = f"Image-level label {number} ({category}) is not in label.csv. Add it there or correct it."
                table.error("UNKNOWN_LABEL", line, message)
            yield Item(index, "", number)
    if planes > MAX_PLANES:
        message = f"{planes} label planes; some readers stack at most {MAX_PLANES}. Merge planes if they matter."
        table.warning("MANY_PLANES", line, message)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}…"
