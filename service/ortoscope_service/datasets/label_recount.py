"""Counts anew, from the pixels, the frequencies and coverages that the tables of a Broden folder state."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ortoscope_service.datasets.broden_tables import (
    LABELS,
    BrodenTables,
    CategoryLabel,
    Label,
    Row,
    table_of,
)
from ortoscope_service.datasets.findings import Finding, warning

# Beyond the rounding of the decimals that were written: what single precision loses in summing.
_RELATIVE_TOLERANCE = 1e-6


class Recount:
    """Frequencies and coverages counted from the pixels of all images.

    Args:
        tables: Tables without errors.
    """

    def __init__(self, tables: BrodenTables) -> None:
        self._tables = tables
        self._plane_pixels = tables.mask_shape[0] * tables.mask_shape[1]
        self._everywhere = _Count()
        self._by_category = [_Count() for _ in tables.columns]

    def add(self, row: Row, planes: Sequence[npt.NDArray[np.int32]]) -> None:
        """Counts an image.

        Args:
            row: Its row of index.csv.
            planes: The planes among the row's items, in their order.
        """
        of_category = [item.category for item in row.items if item.plane]
        for category, count in enumerate(self._by_category):
            own = [plane for plane, c in zip(planes, of_category, strict=True) if c == category]
            whole = {item.number for item in row.items if item.number and item.category == category}
            count.add(own, whole, self._plane_pixels)
        self._everywhere.add(planes, {item.number for item in row.items if item.number}, self._plane_pixels)

    def find_mismatches(self) -> Iterator[Finding]:
        """Finds what the tables state and the pixels do not bear out.

        Yields:
            Warnings: FREQUENCY_MISMATCH, COVERAGE_MISMATCH, and for a label that images have in a category that lists
            it nowhere UNLISTED_LABEL.
        """
        tables = self._tables
        for label in tables.labels.values():
            # Writers add a label's frequencies in its categories up, or count each image once.
            added_up = sum(count.images[label.number] for count in self._by_category)
            yield from self._compare(LABELS, label, self._everywhere, {added_up, self._everywhere.images[label.number]})
        for category, listed, count in zip(tables.categories, tables.category_labels, self._by_category, strict=True):
            table = table_of(category.name)
            for entry in listed.values():
                yield from self._compare(table, entry, count, {count.images[entry.number]})
            for number in sorted(count.images.keys() - listed.keys()):
                if category.name not in tables.labels[number].categories:
                    message = f"Images have label {number} in category {category.name}; it is not listed here. Add it."
                    yield warning("UNLISTED_LABEL", table, 0, message)

    def _compare(
        self, table: str, stated: Label | CategoryLabel, count: "_Count", images: set[int]
    ) -> Iterator[Finding]:
        number = stated.number
        if stated.frequency not in images:
            message = f"Label {number} is said to be in {stated.frequency} images; it is in {min(images)}. Correct it."
            yield warning("FREQUENCY_MISMATCH", table, stated.line, message)
        counted = [pixels[number] / self._plane_pixels for pixels in (count.pixels, count.pixels_repeated)]
        tolerance = stated.coverage.half_unit + _RELATIVE_TOLERANCE * max(counted)
        if all(abs(stated.coverage.value - value) > tolerance for value in counted):
            message = f"Label {number} is said to cover {stated.coverage.value:f} images; it covers {counted[0]:f}."
            yield warning("COVERAGE_MISMATCH", table, stated.line, f"{message} Correct it.")


class _Count:
    """Images and pixels per label number, in one category or over all of them.

    Writers differ in what they do with a label that stands in two planes at one pixel, so both are counted: once per
    pixel, and as often as it stands there.
    """

    def __init__(self) -> None:
        self.images: Counter[int] = Counter()
        self.pixels: Counter[int] = Counter()
        self.pixels_repeated: Counter[int] = Counter()

    def add(self, planes: Sequence[npt.NDArray[np.int32]], whole: Iterable[int], plane_pixels: int) -> None:
        """Counts one image with its planes and the labels that cover it."""
        once: Counter[int] = Counter()
        for i, plane in enumerate(planes):
            self.pixels_repeated.update(_pixels_of(plane))
            said_already = np.zeros(plane.shape, np.bool_)
            for earlier in planes[:i]:
                said_already |= plane == earlier
            once.update(_pixels_of(plane[~said_already]))
        for number in whole:
            self.pixels_repeated[number] += plane_pixels
            once[number] = plane_pixels
        self.pixels.update(once)
        self.images.update(once.keys())


def _pixels_of(numbers: npt.NDArray[np.int32]) -> dict[int, int]:
    """Pixels per number, without 0."""
    values, counts = np.unique(numbers[numbers > 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
