"""The inner loops of the tally, compiled by Numba; plain loops because they skip most of their work."""

from typing import Any

import numba
import numpy as np

from ortoscope_service.statistics.order_statistics import LargestValues
from ortoscope_service.statistics.selection import RankSelection


@numba.njit(nogil=True, cache=True)
def mask_of(
    image_map: Any,
    threshold: float,
    row_lower: Any,
    row_upper: Any,
    row_weight: Any,
    column_upper: Any,
    column_weight: Any,
    column_start: Any,
    line: Any,
    pixel_row: Any,
    pixel_column: Any,
) -> int:
    """Lists the pixels where a map, raised bilinearly to the size of the label planes, is strictly above the threshold.

    Rows are interpolated first, then columns, each as a + (b - a) weight in float64. A stretch between two sites that
    are both at or below the threshold is skipped: a point between them is no larger than the larger one, in floating
    point too, because float32 values are far coarser than the rounding of this float64 formula.

    Args:
        image_map: (rows, columns) float32.
        threshold: The threshold.
        row_lower: As `upsampling.LinearAxis.lower` of the rows.
        row_upper: Likewise `upper`.
        row_weight: Likewise `weight`.
        column_upper: As `upsampling.LinearAxis.upper` of the columns.
        column_weight: Likewise `weight`.
        column_start: Likewise `start`.
        line: (columns,) float64, scratch.
        pixel_row: (pixels,) int64, receives the rows of the pixels.
        pixel_column: (pixels,) int64, receives their columns.

    Returns:
        How many pixels there are.
    """
    columns = image_map.shape[1]
    count = 0
    for row in range(len(row_lower)):
        above = image_map[row_lower[row]]
        below = image_map[row_upper[row]]
        weight = row_weight[row]
        any_above = False
        for column in range(columns):
            a = np.float64(above[column])
            value = a + (np.float64(below[column]) - a) * weight
            line[column] = value
            any_above = any_above or value > threshold
        if not any_above:
            continue
        for column in range(columns):
            begin = column_start[column]
            end = column_start[column + 1]
            if begin == end:
                continue
            left = line[column]
            right = line[column_upper[begin]]
            if left <= threshold and right <= threshold:
                continue
            for pixel in range(begin, end):
                if left + (right - left) * column_weight[pixel] > threshold:
                    pixel_row[count] = row
                    pixel_column[count] = pixel
                    count += 1
    return count


@numba.njit(nogil=True, cache=True)
def tally_image(
    maps: Any,
    units: Any,
    thresholds: Any,
    rows: Any,
    columns: Any,
    planes: Any,
    image_concepts: Any,
    categories: Any,
    image: int,
    example_image: Any,
    example_mask: Any,
    intersection: Any,
    activation_pixels: Any,
) -> None:
    """Adds one image to the counts.

    Args:
        maps: (maps, rows, columns) float32: the maps of this image that rise above their threshold.
        units: (maps,) int64: their units.
        thresholds: (units,) float64.
        rows: `lower`, `upper`, `weight`, `start` of the `LinearAxis` of the rows.
        columns: The same of the columns.
        planes: (planes, mask rows, mask columns) int32: 1 + index of the concept at each pixel, 0 for none; no
            concept occurs twice at a pixel.
        image_concepts: (n,) int64: indices of the concepts that the whole image is labelled with.
        categories: (n,) int64: indices of the categories that the image carries a label of.
        image: Index of the image.
        example_image: (units, examples) int64: images whose mask is to be kept.
        example_mask: (units, examples, bytes) uint8: receives those masks, packed like `numpy.packbits`.
        intersection: (units, concepts) int64, is added to.
        activation_pixels: (units, categories) int64, is added to.
    """
    mask_rows = len(rows[0])
    mask_columns = len(columns[0])
    line = np.empty(maps.shape[2], np.float64)
    pixel_row = np.empty(mask_rows * mask_columns, np.int64)
    pixel_column = np.empty(mask_rows * mask_columns, np.int64)
    for number in range(len(units)):
        unit = units[number]
        count = mask_of(
            maps[number],
            thresholds[unit],
            rows[0],
            rows[1],
            rows[2],
            columns[1],
            columns[2],
            columns[3],
            line,
            pixel_row,
            pixel_column,
        )
        for plane in range(planes.shape[0]):
            for pixel in range(count):
                concept = planes[plane, pixel_row[pixel], pixel_column[pixel]]
                if concept > 0:
                    intersection[unit, concept - 1] += 1
        for concept in image_concepts:
            intersection[unit, concept] += count
        for category in categories:
            activation_pixels[unit, category] += count
        for place in range(example_image.shape[1]):
            if example_image[unit, place] == image:
                for pixel in range(count):
                    position = pixel_row[pixel] * mask_columns + pixel_column[pixel]
                    example_mask[unit, place, position // 8] |= 128 >> (position % 8)


def compile_all() -> None:
    """Compiles every kernel of the service into the cache, so that no first request waits for it."""
    axis = (np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1), np.array([0, 1]))
    counts = np.zeros((1, 1), np.int64)
    tally_image(
        np.zeros((1, 1, 1), np.float32), np.zeros(1, np.int64), np.zeros(1), axis, axis,
        np.zeros((1, 1, 1), np.int32), np.zeros(1, np.int64), np.zeros(1, np.int64), 0,
        counts.copy(), np.zeros((1, 1, 1), np.uint8), counts.copy(), counts.copy(),
    )  # fmt: skip
    largest = LargestValues(1, 1)
    largest.update(np.zeros((1, 1, 1), np.float32))
    selection = RankSelection(1, 1)
    selection.add(largest.kept())
    selection.narrow()
