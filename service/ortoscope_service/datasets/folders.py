"""Plain folders of images: a subfolder is a class; without subfolders there are no classes."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ortoscope_service.datasets.dataset import Dataset, displayable, resolve_inside
from ortoscope_service.datasets.file_digests import FileDigests, FileState
from ortoscope_service.datasets.findings import Finding, Report, error, stop_at_errors, warning

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
"""Suffixes of image files, compared in lower case; every other file is ignored."""


@dataclass(frozen=True)
class FolderListing:
    """What a walk through a folder found."""

    images: tuple[str, ...]
    """Relative paths of the image files, with slashes, in the byte order of the paths."""

    folders: Mapping[str, FileState | None]
    """State of every folder walked, just before it was, by relative path, "." first."""


def list_images(root: Path, report: Report) -> FolderListing:
    """Walks a folder and everything below it.

    Hidden files and folders (a leading dot) and files without an image suffix are ignored. A symbolic link to a file
    inside the folder is an image like any other; links to folders are not followed, and links that lead out of the
    folder are refused: both are left out and reported as warnings (SYMLINK_SKIPPED).

    Args:
        root: The folder, resolved.
        report: Takes the findings: FOLDER_UNREADABLE, SYMLINK_SKIPPED and, without a single image, DATASET_EMPTY.
    """
    images: list[str] = []
    folders: dict[str, FileState | None] = {}
    pending = ["."]
    while pending:
        folder = pending.pop()
        folders[folder] = FileState.of(root / folder)
        for relative, entry in _entries(root, folder, report):
            if entry.is_symlink():
                finding = _judge_link(root, relative, entry)
                if finding is not None:
                    report(finding)
                    continue
            if entry.is_dir():
                pending.append(relative)
            elif entry.is_file() and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                images.append(relative)
    if not images:
        report(
            error(
                "DATASET_EMPTY",
                "",
                0,
                "The folder holds no image. Put JPEG, PNG or WebP files into it; symbolic links that lead out of the "
                "folder do not count.",
            )
        )
    return FolderListing(tuple(sorted(images, key=os.fsencode)), folders)


def _entries(root: Path, folder: str, report: Report) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Relative path and entry of everything in a folder that is not hidden."""
    try:
        with os.scandir(root / folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError:
        message = "The folder cannot be read. Check its permissions."
        report(error("FOLDER_UNREADABLE", "" if folder == "." else displayable(folder), 0, message))
        return
    for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
        yield (entry.name if folder == "." else f"{folder}/{entry.name}"), entry


def _judge_link(root: Path, relative: str, entry: "os.DirEntry[str]") -> Finding | None:
    """Why a symbolic link is left out; None if it is not."""
    shown = displayable(relative)
    if resolve_inside(root, relative) is None:
        message = "The symbolic link leads out of the dataset's folder and is left out. Copy the file instead."
        return warning("SYMLINK_SKIPPED", shown, 0, message)
    if entry.is_dir():
        message = "The symbolic link leads to a folder and is not followed. Move the folder here instead."
        return warning("SYMLINK_SKIPPED", shown, 0, message)
    return None


class FolderDataset(Dataset):
    """Images in a folder.

    The images are those that `list_images` finds, in the byte order of their paths. The class of an image is the
    first folder of its path, however deep the image lies below it; an image directly in the dataset's folder has none.
    There are no splits.

    Args:
        root: The folder.
        name: The dataset's name; the folder's by default.
        file_digests: Digests of files already known.

    Raises:
        DatasetError: FAILED_PRECONDITION: DATASET_EMPTY or FOLDER_UNREADABLE.
    """

    kind: Literal["broden", "folder"] = "folder"

    def __init__(self, root: Path, name: str | None = None, file_digests: FileDigests | None = None) -> None:
        super().__init__(root, root.name if name is None else name, file_digests)
        listing = list_images(self._root, stop_at_errors)
        self._images = listing.images
        self._folders = listing.folders
        self._classes = tuple(sorted({_class_of(path) for path in self._images} - {""}, key=lambda name: name.encode()))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def is_stale(self) -> bool:
        """Whether a file was added to or removed from any of its folders since it was opened."""
        return any(FileState.of(self._root / name) != state for name, state in self._folders.items())

    def path(self, index: int) -> str:
        """Path of an image relative to the dataset's folder, with slashes."""
        return displayable(self._file(index))

    def class_name(self, index: int) -> str:
        """The first folder of an image's path; empty if it lies directly in the dataset's folder."""
        return _class_of(self._file(index))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in their byte order; empty if the folder is flat."""
        return self._classes

    def _file(self, index: int) -> str:
        self._check(index)
        return self._images[index]

    def _files(self) -> Iterable[str]:
        return self._images


def _class_of(path: str) -> str:
    first, slash, _ = path.partition("/")
    return displayable(first) if slash else ""
