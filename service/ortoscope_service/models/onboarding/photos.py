"""Real pictures to verify a guess on: those of a folder, or the few photographs that the demo's packages bring."""

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ortoscope_service.errors import invalid
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import fit

SAMPLE_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "camera.png")
"""Photographs of things and beings that scikit-image ships as files."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_PHOTOS = 24
"""Most pictures of a folder that are used, evenly spread over its sorted names."""

_FEW = 8
"""Up to so many pictures, each is looked at in two views, which steadies what is measured on it."""


@dataclass(frozen=True)
class Photos:
    """Pictures, decoded."""

    origin: str
    """Where they are from, in words: "6 sample photos"."""

    names: tuple[str, ...]
    """File names."""

    images: tuple[Image.Image, ...]
    """RGB pictures."""

    skipped: tuple[str, ...] = ()
    """Names of files that could not be read."""

    def views(self, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
        """Every picture at the input's size: whole, and if there are few, also its centre, mirrored.

        Returns:
            (pictures, views, height, width, 3) uint8, RGB.
        """
        stack = []
        for image in self.images:
            views = [np.asarray(fit(image, preprocessing))]
            if len(self.images) <= _FEW:
                views.append(np.asarray(fit(ImageOps.mirror(_centre(image)), preprocessing)))
            stack.append(np.stack(views))
        return np.stack(stack)


def photos_of_folder(folder: Path) -> Photos:
    """Up to `MAX_PHOTOS` pictures of a folder and those below it.

    Raises:
        OrtoscopeError: `NO_IMAGES` if there is none that can be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(paths) > MAX_PHOTOS:
        paths = [paths[i * len(paths) // MAX_PHOTOS] for i in range(MAX_PHOTOS)]
    photos = _read(paths, "of the folder given")
    if photos is None:
        raise invalid(
            "NO_IMAGES",
            f"The folder '{folder.name}' given with --images holds no JPEG, PNG or WebP picture that can be read; "
            "give another, or leave --images out.",
            folder=folder.name,
        )
    return photos


def sample_photos() -> Photos | None:
    """The photographs of an installed scikit-image, found without importing it; None if there are fewer than three."""
    specification = importlib.util.find_spec("skimage")
    if specification is None or specification.origin is None:
        return None
    folder = Path(specification.origin).parent / "data"
    paths = [folder / name for name in SAMPLE_PHOTOS if (folder / name).is_file()]
    return _read(paths, "that scikit-image brings") if len(paths) >= 3 else None


def shuffled(views: npt.NDArray[np.uint8], seed: int = 0) -> npt.NDArray[np.uint8]:
    """The same pictures with their patches (a fourteenth of the side) in random order: all texture, no thing.

    Args:
        views: (..., height, width, 3) uint8.
        seed: Of the order.
    """
    height, width = views.shape[-3:-1]
    size = max(1, min(height, width) // 14)
    rows, columns = height // size, width // size
    flat = views.reshape(-1, height, width, 3).copy()
    rng = np.random.default_rng(seed)
    for view in flat:
        whole = view[: rows * size, : columns * size]
        patches = whole.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(rows * columns, size, size, 3)
        patches = patches[rng.permutation(rows * columns)].reshape(rows, columns, size, size, 3)
        whole[...] = patches.swapaxes(1, 2).reshape(whole.shape)
    return flat.reshape(views.shape)


def _centre(image: Image.Image) -> Image.Image:
    """The middle four fifths of the width and height."""
    margin_x, margin_y = image.width // 10, image.height // 10
    return image.crop((margin_x, margin_y, image.width - margin_x, image.height - margin_y))


def _read(paths: Sequence[Path], whence: str) -> Photos | None:
    names, images, skipped = [], [], []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            skipped.append(path.name)
            continue
        names.append(path.name)
        images.append(upright)
    if not images:
        return None
    return Photos(f"{len(images)} photos {whence}", tuple(names), tuple(images), tuple(skipped))
