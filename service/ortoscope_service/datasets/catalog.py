"""The datasets that a server offers: each folder in its datasets folder, by name."""

import difflib
import os
import threading
from pathlib import Path

from ortoscope_service.datasets.broden import BrodenDataset
from ortoscope_service.datasets.broden_tables import CATEGORIES, INDEX, LABELS
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.datasets.file_digests import FileDigests
from ortoscope_service.datasets.findings import DatasetError
from ortoscope_service.datasets.folders import FolderDataset
from ortoscope_service.errors import Code, OrtoscopeError, not_found


class DatasetCatalog:
    """Finds datasets by name and opens each once, again only after it changed. Safe for use by many threads.

    A folder that holds an index.csv is read as Broden (so is one that lacks only that of Broden's tables), any other as
    plain images. Hidden folders and names that are not UTF-8 are left out. A dataset's own folder may be a symbolic
    link that the operator put there; links inside it must stay inside.

    Args:
        root: The datasets folder; None for a server without datasets.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._file_digests = FileDigests()
        self._lock = threading.Lock()
        self._opened: dict[str, tuple[Path, Dataset]] = {}

    def names(self) -> list[str]:
        """Names of the datasets in the byte order of their UTF-8; also of those that cannot be read."""
        return sorted(self._folders(), key=lambda name: name.encode())

    def root_of(self, name: str) -> Path:
        """The folder of a dataset.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_DATASET.
        """
        folders = self._folders()
        if name not in folders:
            known = sorted(folders)
            near = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or known[:10]
            hint = f"There are: {', '.join(near)}." if near else "The server has no datasets."
            raise not_found("UNKNOWN_DATASET", f'There is no dataset "{name}". {hint}', dataset=name)
        return folders[name]

    def get(self, name: str) -> Dataset:
        """Opens a dataset.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_DATASET. FAILED_PRECONDITION, DATASET_UNREADABLE: a table is missing or
                damaged, or there is no image; metadata `cause`, `path` and `line` are those of the validator's finding.
        """
        root = self.root_of(name).resolve()
        with self._lock:
            opened_root, opened = self._opened.get(name, (None, None))
        if opened is not None and opened_root == root and not opened.is_stale():
            return opened
        try:
            dataset = self._open(root, name)
        except DatasetError as damage:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "DATASET_UNREADABLE",
                f'Dataset "{name}" cannot be read: {damage.message} Validate it for everything that is wrong.',
                metadata={"dataset": name, "cause": damage.reason, **damage.metadata},
            ) from damage
        with self._lock:
            self._opened[name] = root, dataset
        return dataset

    def _open(self, root: Path, name: str) -> Dataset:
        if is_broden(root):
            return BrodenDataset(root, name, self._file_digests)
        return FolderDataset(root, name, self._file_digests)

    def _folders(self) -> dict[str, Path]:
        if self._root is None:
            return {}
        try:
            with os.scandir(self._root) as scan:
                entries = [entry for entry in scan if entry.is_dir() and not entry.name.startswith(".")]
        except OSError:
            return {}
        return {entry.name: Path(entry.path) for entry in entries if _is_text(entry.name)}


def is_broden(root: Path) -> bool:
    """Whether a folder is meant to be in Broden's layout: it holds index.csv, or both label.csv and category.csv."""
    return (root / INDEX).exists() or ((root / LABELS).exists() and (root / CATEGORIES).exists())


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
