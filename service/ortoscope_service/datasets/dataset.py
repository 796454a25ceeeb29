"""What every dataset is: an ordered list of images with splits and classes, some of them with labelled pixels."""

import abc
import functools
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope_service.datasets.file_digests import FileDigests, tree_signature
from ortoscope_service.datasets.findings import DatasetError, error
from ortoscope_service.datasets.images import MAX_IMAGE_BYTES, decode_image
from ortoscope_service.errors import OrtoscopeError, invalid, not_found


def resolve_inside(root: Path, relative: str) -> Path | None:
    """The file that a dataset's own text names, or None if that leads out of the dataset's folder.

    Args:
        root: The dataset's folder, resolved.
        relative: A path as written in the dataset: absolute paths, "..", NUL characters and symbolic links are what
            a malicious one would hold.
    """
    try:
        resolved = (root / relative).resolve()
    except (OSError, RuntimeError, ValueError):
        return None
    return resolved if resolved.is_relative_to(root) else None


def read_inside(root: Path, relative: str, what: str) -> bytes:
    """The contents of a picture file that a dataset's own text names.

    Args:
        root: The dataset's folder, resolved.
        relative: The path as written in the dataset, relative to `root`.
        what: IMAGE or PLANE, the beginning of the reasons.

    Raises:
        DatasetError: PATH_OUTSIDE, IMAGE_MISSING or PLANE_MISSING, IMAGE_UNREADABLE or PLANE_UNREADABLE,
            IMAGE_TOO_LARGE.
    """
    path = resolve_inside(root, relative)
    if path is None:
        raise _refusal("PATH_OUTSIDE", relative, "The path leads out of the dataset's folder. Put the file inside it.")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(f"{what}_MISSING", relative, "This is no file. Put a picture there.")
        if status.st_size > MAX_IMAGE_BYTES:
            message = f"The file has {status.st_size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read. Make it smaller."
            raise _refusal("IMAGE_TOO_LARGE", relative, message)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as missing:
        message = "There is no such file. Add it, or drop its row."
        raise _refusal(f"{what}_MISSING", relative, message) from missing
    except OSError as unreadable:
        message = "The file cannot be read. Check its name, its permissions and the disk."
        raise _refusal(f"{what}_UNREADABLE", relative, message) from unreadable


def _refusal(reason: str, relative: str, message: str) -> DatasetError:
    return DatasetError(error(reason, displayable(relative), 0, message))


def decode_inside(data: bytes, relative: str, *, orient: bool = True) -> Image.Image:
    """`images.decode_image` for a picture of a dataset.

    Raises:
        DatasetError: With the reasons of `images.decode_image` and the file named.
    """
    try:
        return decode_image(data, orient=orient)
    except OrtoscopeError as refused:
        raise _refusal(refused.reason, relative, refused.message) from refused


def displayable(path: str) -> str:
    """A file name as valid text: bytes that are not UTF-8 are written as backslash escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Dataset(abc.ABC):
    """An ordered list of images. Safe for use by many threads.

    Every method that takes an index raises OrtoscopeError NOT_FOUND, UNKNOWN_IMAGE for one that there is not.
    """

    kind: Literal["broden", "folder"]
    """The form in which it is kept."""

    def __init__(self, root: Path, name: str, file_digests: FileDigests | None = None) -> None:
        self.name = name
        self._root = root.resolve()
        self._file_digests = file_digests or FileDigests()

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abc.abstractmethod
    def _file(self, index: int) -> str:
        """Path of an image's file relative to the dataset's folder, with slashes, as the file system has it."""

    @abc.abstractmethod
    def _files(self) -> Iterable[str]:
        """Relative paths of all files that the dataset consists of."""

    @abc.abstractmethod
    def is_stale(self) -> bool:
        """Whether its list of images, or what is said of them, may have changed since it was opened."""

    @abc.abstractmethod
    def path(self, index: int) -> str:
        """Path of an image relative to the dataset's folder of images, with slashes."""

    def split(self, index: int) -> str:
        """Split of an image, for example "train"; empty if it has none."""
        self._check(index)
        return ""

    def class_name(self, index: int) -> str:
        """Class of an image; empty if it has none."""
        self._check(index)
        return ""

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of images in each split that occurs, by name, in order of first occurrence; without the empty one."""
        return self._splits

    @functools.cached_property
    def _splits(self) -> Mapping[str, int]:
        counts = Counter(self.split(i) for i in range(len(self)))
        counts.pop("", None)
        return MappingProxyType(dict(counts))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order; empty without classes."""
        return ()

    def select(self, splits: Sequence[str]) -> npt.NDArray[np.int64]:
        """Indices of the images of some splits.

        Args:
            splits: Names of splits; none means every image.

        Returns:
            Indices in ascending order, int64.

        Raises:
            OrtoscopeError: INVALID_ARGUMENT, UNKNOWN_SPLIT.
        """
        for split in splits:
            if split not in self.splits:
                known = ", ".join(self.splits) or "none"
                raise invalid(
                    "UNKNOWN_SPLIT",
                    f'Dataset "{self.name}" has no split "{split}"; it has: {known}.',
                    field="splits",
                    dataset=self.name,
                    split=split,
                )
        if not splits:
            return np.arange(len(self), dtype=np.int64)
        wanted = frozenset(splits)
        return np.array([i for i in range(len(self)) if self.split(i) in wanted], np.int64)

    def read_bytes(self, index: int) -> bytes:
        """The bytes of an image's file, as they are.

        Raises:
            DatasetError: FAILED_PRECONDITION: IMAGE_MISSING, IMAGE_UNREADABLE, IMAGE_TOO_LARGE, PATH_OUTSIDE.
        """
        self._check(index)
        return read_inside(self._root, self._file(index), "IMAGE")

    def read_image(self, index: int) -> Image.Image:
        """An image, RGB with 8 bits per channel, upright by its EXIF orientation.

        Raises:
            DatasetError: FAILED_PRECONDITION, with the reasons of `read_bytes` and of `images.decode_image`.
        """
        return decode_inside(self.read_bytes(index), self._file(index))

    def signature(self, alive: Callable[[], None] = lambda: None) -> str:
        """What changes when any file of the dataset does; found without reading them, so it says nothing of contents.

        Args:
            alive: Called before every file.
        """
        return tree_signature(self._root, self._files(), alive)

    def digest(self, alive: Callable[[], None] = lambda: None) -> str:
        """The dataset's identity: "sha256:" and a digest of the names and contents of all files that it consists of.

        See `FileDigests.tree` for the rule. A file is read again only after its size or time of modification changed.

        Args:
            alive: Called before every file.

        Raises:
            DatasetError: FAILED_PRECONDITION, FILE_UNREADABLE: a file is missing or cannot be read.
        """
        try:
            return self._file_digests.tree(self._root, self._files(), alive)
        except OSError as unreadable:
            name = os.path.relpath(unreadable.filename, self._root) if unreadable.filename else ""
            message = "The file is missing or cannot be read, so the dataset has no digest. Validate the dataset."
            raise _refusal("FILE_UNREADABLE", name, message) from unreadable

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise not_found(
                "UNKNOWN_IMAGE",
                f'Dataset "{self.name}" has no image {index}; it has {len(self)}, numbered from 0.',
                dataset=self.name,
                image=index,
            )


@dataclass(frozen=True)
class ConceptTable:
    """The K concepts of a labelled dataset, by ascending number."""

    number: npt.NDArray[np.int64]
    """(K,) the number that stands for the concept in label planes, from 1."""

    name: tuple[str, ...]
    """(K) names, as the dataset has them."""

    category: npt.NDArray[np.int64]
    """(K,) index into `category_name` of the primary category: the one in which the concept covers most."""

    category_name: tuple[str, ...]
    """Names of the categories, in the dataset's order."""

    frequency: npt.NDArray[np.int64]
    """(K,) number of images with the concept, as the dataset states it."""


@dataclass(frozen=True)
class ImageLabels:
    """The labels of one image, each counted at most once per pixel."""

    planes: npt.NDArray[np.int32]
    """(P, sh, sw) label numbers, 0 where there is none; P may be 0. No number stands twice at a pixel, no plane is
    empty, and no number is also in `image_level`."""

    image_level: npt.NDArray[np.int32]
    """(L,) distinct numbers > 0, ascending, of labels that cover every pixel; L may be 0."""


class LabelledDataset(Dataset):
    """A dataset whose pixels are labelled with concepts."""

    @property
    @abc.abstractmethod
    def concepts(self) -> ConceptTable:
        """The concepts that occur in its labels."""

    @property
    @abc.abstractmethod
    def mask_shape(self) -> tuple[int, int]:
        """Height and width of all label planes, in pixels."""

    @abc.abstractmethod
    def read_labels(self, index: int) -> ImageLabels:
        """The labels of an image.

        Raises:
            DatasetError: FAILED_PRECONDITION: a label plane is missing or damaged.
        """
