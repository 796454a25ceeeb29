"""Maps set aside on disk between the pass of the model and the tally."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray


class Spool:
    """An unnamed temporary file of maps in the order of the images; it is gone with its context, or its process.

    Args:
        folder: Where to put it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._units: list[NDArray[np.int64]] = []

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def bytes_used(self) -> int:
        """Size of the file."""
        return self._file.tell()

    def append(self, units: NDArray[np.int64], maps: NDArray[np.float32]) -> None:
        """Adds the next image: its `units` (n,) int64 and their `maps` (n, sites) float32.

        Raises:
            OSError: The disk is full.
        """
        self._file.write(maps.tobytes())
        self._units.append(units)

    def images(self, site_shape: tuple[int, int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yields for each image, in order, its units (n,) int64 and their maps (n, rows, columns) float32."""
        self._file.flush()
        self._file.seek(0)
        rows, columns = site_shape
        for units in self._units:
            data = self._file.read(len(units) * rows * columns * 4)
            yield units, np.frombuffer(data, np.float32).reshape(len(units), rows, columns)
