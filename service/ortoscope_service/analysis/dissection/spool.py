"""Reads the maps that the survey of a shard set aside."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.dissection.survey import ShardSurvey


class MapsSource(Protocol):
    """The file of maps that `survey_shard` wrote, at its beginning."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; fewer only at the end."""


def read_maps(
    maps_file: MapsSource, survey: ShardSurvey, thresholds: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yields for each image of the shard, in order, the maps that rise above their threshold.

    Args:
        maps_file: The maps.
        survey: Tells whose they are.
        thresholds: (U,) float64.

    Yields:
        Units, (n,) int64, and their maps, (n, rows, columns) float32.
    """
    rows, columns = survey.site_shape
    for image in range(survey.images):
        of_image = slice(survey.map_start[image], survey.map_start[image + 1])
        units = survey.map_unit[of_image].astype(np.int64)
        data = maps_file.read(len(units) * rows * columns * 4)
        maps = np.frombuffer(data, np.float32).reshape(len(units), rows, columns)
        above = survey.map_peak[of_image] > thresholds[units]
        yield units[above], maps[above]
