"""What a user may say about a model when preparing it."""

from dataclasses import dataclass
from pathlib import Path

from ortoscope_service.errors import invalid
from ortoscope_service.models.manifest import Channels, ColorOrder, PixelLayout, Preprocessing, SizePolicy
from ortoscope_service.models.onboarding.conventions import Convention, conventions
from ortoscope_service.models.onboarding.inputs import ImageGeometry, InputShape

_SHORT_SIDE = 256 / 224
"""Short side over input side before the centre is cut out, as customary for ImageNet."""


@dataclass(frozen=True)
class Wishes:
    """What the user knows about a model, and how it shall be served."""

    labels: tuple[str, ...] = ()
    """Name of every class by its index."""

    mean: Channels | None = None
    """Subtracted, on RGB pixels 0..255. None: 0 if `std` is given, else the conventions are tried."""

    std: Channels | None = None
    """Divides. None: 1 if `mean` is given."""

    color_order: ColorOrder | None = None
    """Order of the colours. None: RGB if `mean` or `std` is given, else both are tried."""

    size_policy: SizePolicy = "squash"
    """How a picture of another size is made to fit."""

    resize_short_side: int | None = None
    """For "crop": length of the short side before the centre is taken; 256/224 of the input's side if None."""

    layout: PixelLayout | None = None
    """Axes of the image input; guessed from where the channels are if None."""

    size: tuple[int, int] | None = None
    """Height and width where the model leaves them free; 224 x 224 if None."""

    images: Path | None = None
    """Folder of pictures to verify on; the sample photos if None."""

    backward: tuple[str, ...] = ()
    """Taps whose backward graphs are built and kept; an empty name stands for all outputs that are taps."""

    backward_graphs: tuple[tuple[str, Path], ...] = ()
    """Taps and the user's own backward graphs of them."""


def given_convention(wishes: Wishes, channels: int) -> Convention | None:
    """The convention that the user gave, for a model of 1 or 3 channels; None if none was."""
    if wishes.mean is None and wishes.std is None:
        return None
    order: ColorOrder = "gray" if channels == 1 else wishes.color_order or "rgb"
    return Convention("as given", _floats(wishes.mean, 0.0), _floats(wishes.std, 1.0), order)


def _floats(given: Channels | None, default: float) -> Channels:
    red, green, blue = given or (default, default, default)
    return float(red), float(green), float(blue)


def convention_for(image: ImageGeometry, convention: Convention, wishes: Wishes) -> Convention:
    """The convention itself if it suits the input's number of channels; else what was given, or the most common."""
    if (convention.color_order == "gray") == (image.channels == 1):
        return convention
    return given_convention(wishes, image.channels) or conventions(image.channels)[0]


def preprocessing_for(image: ImageGeometry, convention: Convention, wishes: Wishes, verification: str) -> Preprocessing:
    """The preprocessing of an image input by a convention, with what the user wished besides."""
    short_side = wishes.resize_short_side or round(min(image.height, image.width) * _SHORT_SIDE)
    return Preprocessing(
        layout=image.layout,
        color_order=convention.color_order,
        mean=convention.mean,
        std=convention.std,
        size_policy=wishes.size_policy,
        height=image.height,
        width=image.width,
        resize_short_side=short_side,
        verification=verification,
    )


def check_wishes(inputs: tuple[InputShape, ...], wishes: Wishes) -> None:
    """Refuses wishes that cannot be granted, before anything is run.

    Raises:
        OrtoscopeError: `PREPROCESSING_WITHOUT_IMAGE`, `INVALID_COLOR_ORDER`; `INVALID_MEAN`, `INVALID_STD` and
            `INVALID_SIZE` of `Preprocessing`.
    """
    images = [spec.image for spec in inputs if spec.image is not None]
    stated = wishes.mean is not None or wishes.std is not None or wishes.color_order is not None
    if stated and not images:
        described = ", ".join(f"'{spec.name}' {spec.data_type} {list(spec.shape)}" for spec in inputs)
        raise invalid(
            "PREPROCESSING_WITHOUT_IMAGE",
            f"Mean, std or colour order were given, but no input holds an image; the inputs are: {described}.",
            inputs=described,
        )
    for image in images:
        if wishes.color_order is not None and (wishes.color_order == "gray") != (image.channels == 1):
            raise invalid(
                "INVALID_COLOR_ORDER",
                f"The colour order '{wishes.color_order}' does not suit an input of {image.channels} channels.",
                color_order=wishes.color_order,
                channels=image.channels,
            )
        preprocessing_for(image, given_convention(wishes, image.channels) or conventions(image.channels)[0], wishes, "")


def looks_scaled(wishes: Wishes) -> bool:
    """Whether mean and std seem to be meant for pixels 0..1, as torchvision states them."""
    numbers = [*(wishes.mean or ()), *(wishes.std or ())]
    return bool(numbers) and max(numbers) <= 1 and any(number not in {0.0, 1.0} for number in numbers)
