"""Thresholds from a file: whatever table or array they were kept in."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ortoscope.errors import InvalidArgument

_NAMES = ("threshold", "thresholds")


def read_thresholds(path: Path) -> npt.NDArray[np.float64]:
    """Reads one threshold for each unit, in the order of the units.

    * .npz: the array `threshold` (as in dissection.npz) or `thresholds`, or the only array.
    * .npy: the array.
    * .csv: the column `threshold`, by the column `unit` where there is one (from 0, or from 1); without a header: the
      only column.

    Args:
        path: The file.

    Returns:
        (U,) float64.

    Raises:
        InvalidArgument: THRESHOLDS_UNREADABLE.
        OSError: The file cannot be read.
    """
    try:
        match path.suffix.lower():
            case ".npz":
                found: npt.ArrayLike = _from_npz(path)
            case ".npy":
                found = np.load(path, allow_pickle=False)
            case ".csv":
                found = _from_csv(path)
            case other:
                raise _unreadable(path, f"its ending is {other or 'missing'!r}, not .npz, .npy or .csv")
        thresholds = np.asarray(found, np.float64)
    except (ValueError, TypeError) as error:
        raise _unreadable(path, str(error)) from None
    if thresholds.ndim != 1 or not thresholds.size or not np.isfinite(thresholds).all():
        raise _unreadable(path, f"it holds an array of shape {thresholds.shape}; one finite number per unit is wanted")
    return thresholds


def _from_npz(path: Path) -> npt.NDArray[np.float64]:
    with np.load(path, allow_pickle=False) as archive:
        names = [name for name in _NAMES if name in archive.files] or archive.files
        if len(names) != 1:
            raise _unreadable(path, f"it holds {', '.join(archive.files) or 'nothing'}, but no array `threshold`")
        array: npt.NDArray[np.float64] = archive[names[0]]
    return array


def _from_csv(path: Path) -> list[float]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise _unreadable(path, "it is empty")
    head = [cell.strip().lower() for cell in rows[0]]
    column = next((head.index(name) for name in _NAMES if name in head), None)
    if column is None:
        if len(head) > 1:
            raise _unreadable(path, f"it has the columns {', '.join(rows[0])}, but no column `threshold`")
        return [float(row[0]) for row in rows]
    body = rows[1:]
    if any(len(row) <= column for row in body):
        raise _unreadable(path, "a row is shorter than the header")
    values = [float(row[column]) for row in body]
    if "unit" not in head:
        return values
    units = [int(row[head.index("unit")]) for row in body]
    if sorted(units) != list(range(min(units, default=0), min(units, default=0) + len(units))) or min(units) > 1:
        raise _unreadable(path, "its units are not 0, 1, 2, … (or 1, 2, 3, …), each once")
    return [value for _, value in sorted(zip(units, values, strict=True))]


def _unreadable(path: Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"No thresholds can be read from {str(path)!r}: {why}.",
        reason="THRESHOLDS_UNREADABLE",
        field="thresholds",
        metadata={"path": str(path)},
    )
