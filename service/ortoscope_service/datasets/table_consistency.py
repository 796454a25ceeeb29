"""Checks the tables of a Broden folder against each other: label.csv, category.csv and the c_<category>.csv."""

from collections.abc import Iterator

from ortoscope_service.datasets.broden_tables import (
    CATEGORIES,
    LABELS,
    BrodenTables,
    Category,
    CategoryLabel,
    Label,
    table_of,
)
from ortoscope_service.datasets.findings import Finding, warning

_INT16_MAX = 32_767


def find_contradictions(tables: BrodenTables) -> Iterator[Finding]:
    """Finds what one table says and another does not.

    Args:
        tables: Tables of which label.csv, category.csv and every c_<category>.csv are without errors.

    Yields:
        Warnings: LABEL_WITHOUT_CATEGORY, UNKNOWN_CATEGORY, UNLISTED_LABEL, NAME_MISMATCH, CATEGORY_SUMMARY, and
        LABEL_INT16 (once) for numbers that other readers overflow on.
    """
    for label in tables.labels.values():
        yield from _judge_label(label, tables)
    large = next((label for label in tables.labels.values() if label.number > _INT16_MAX), None)
    if large is not None:
        message = f"Label {large.number} is above {_INT16_MAX}, the most that other readers can hold. Renumber."
        yield warning("LABEL_INT16", LABELS, large.line, message)
    for category, listed in zip(tables.categories, tables.category_labels, strict=True):
        for entry in listed.values():
            yield from _judge_entry(entry, table_of(category.name), tables.labels.get(entry.number))
        yield from _judge_summary(category, listed)


def _judge_label(label: Label, tables: BrodenTables) -> Iterator[Finding]:
    if not any(label.number in listed for listed in tables.category_labels):
        message = (
            f'Label {label.number} "{label.name}" stands in no c_*.csv and falls to the last category, '
            f'"{tables.categories[-1].name}". Add it to the table of its category.'
        )
        yield warning("LABEL_WITHOUT_CATEGORY", LABELS, label.line, message)
        return
    if not label.categories:
        message = f'The category of label {label.number} "{label.name}" is not of the form name(count). Fill it in.'
        yield warning("LABEL_WITHOUT_CATEGORY", LABELS, label.line, message)
    listed_in = {
        category.name: label.number in tables.category_labels[i] for i, category in enumerate(tables.categories)
    }
    for name in label.categories:
        if name not in listed_in:
            message = (
                f'Label {label.number} is said to be of category "{name}", which category.csv lacks. Add it there.'
            )
            yield warning("UNKNOWN_CATEGORY", LABELS, label.line, message)
        elif not listed_in[name]:
            message = f"Label {label.number} is said to be of category {name}; {table_of(name)} lacks it. Add it there."
            yield warning("UNLISTED_LABEL", LABELS, label.line, message)


def _judge_entry(entry: CategoryLabel, table: str, label: Label | None) -> Iterator[Finding]:
    if label is None:
        message = f"Label {entry.number} is not in label.csv and is ignored. Add it there or remove this row."
        yield warning("UNLISTED_LABEL", table, entry.line, message)
    elif entry.name != label.name:
        message = f'Label {entry.number} is "{entry.name}" here, "{label.name}" in label.csv. Make them equal.'
        yield warning("NAME_MISMATCH", table, entry.line, message)


def _judge_summary(category: Category, listed: dict[int, CategoryLabel]) -> Iterator[Finding]:
    stated = category.first, category.last, category.count, category.frequency
    frequency = sum(entry.frequency for entry in listed.values())
    counted = min(listed, default=0), max(listed, default=0), len(listed), frequency
    if stated != counted:
        message = (
            f"first,last,count,frequency of {category.name} is {','.join(map(str, stated))}, "
            f"but {table_of(category.name)} gives {','.join(map(str, counted))}. Correct it."
        )
        yield warning("CATEGORY_SUMMARY", CATEGORIES, category.line, message)
