"""From a picture to the tensor that a model was trained on."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope_service.models.manifest import Preprocessing


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """The input that a model takes for a picture, without the batch axis.

    1. A picture of exactly the input's size passes untouched; any other is fitted by the size policy (`fit`).
    2. Colours are brought into order; gray is luma, 0.299 R + 0.587 G + 0.114 B, rounded.
    3. (pixel - mean) / std, in float32, on pixels 0..255.

    Args:
        image: An RGB picture.
        preprocessing: What the model expects.

    Returns:
        (channels, height, width) or (height, width, channels), by the layout; float32, C-contiguous.
    """
    fitted = fit(image, preprocessing)
    return normalize(np.asarray(fitted.convert("RGB")), preprocessing)


def fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The picture at the input's size.

    "squash" resizes width and height at once, bilinear with antialiasing. "crop" resizes, bicubic with antialiasing,
    so that the picture just covers the input enlarged by `resize_short_side / min(height, width)` (for a square
    input: so that the short side is `resize_short_side`), and takes the centre; the long side and the offset are
    rounded as torchvision's `Resize` and `CenterCrop` do.
    """
    height, width = preprocessing.height, preprocessing.width
    if image.size == (width, height):
        return image
    size, (left, top) = fitted_frame(image.size, preprocessing)
    if preprocessing.size_policy == "squash":
        return image.resize(size, Image.Resampling.BILINEAR)
    resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + width, top + height))


def fitted_frame(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the input lies in a picture that `fit` brings to its size.

    Args:
        size: Width and height of the picture, in pixels.
        preprocessing: What the model expects.

    Returns:
        Width and height that the whole picture is resized to, and the left and upper edge of the input in that.
    """
    height, width = preprocessing.height, preprocessing.width
    if size == (width, height) or preprocessing.size_policy == "squash":
        return (width, height), (0, 0)
    enlargement = preprocessing.resize_short_side / min(height, width)
    cover = (round(width * enlargement), round(height * enlargement))
    if cover[0] * size[1] >= cover[1] * size[0]:  # the width is what limits
        resized = (cover[0], max(height, int(cover[0] * size[1] / size[0])))
    else:
        resized = (max(width, int(cover[1] * size[0] / size[1])), cover[1])
    return resized, (round((resized[0] - width) / 2), round((resized[1] - height) / 2))


def normalize(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Colour order, (pixel - mean) / std and layout of pictures that have the input's size already.

    Args:
        pixels: (..., height, width, 3) uint8, RGB.
        preprocessing: What the model expects.

    Returns:
        (..., channels, height, width) or (..., height, width, channels) float32, C-contiguous.
    """
    channels_last = preprocessing.layout == "nhwc"
    if preprocessing.color_order == "gray":
        # Pillow's integers for ITU-R BT.601, so that a gray picture keeps its values.
        luma = (pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 0x8000) >> 16
        values = (luma.astype(np.float32) - np.float32(preprocessing.mean[0])) / np.float32(preprocessing.std[0])
        return np.expand_dims(values, -1 if channels_last else -3)
    step = -1 if preprocessing.color_order == "bgr" else 1
    ordered = pixels[..., ::step]
    mean, std = (np.array(numbers[::step], np.float32) for numbers in (preprocessing.mean, preprocessing.std))
    if channels_last:
        return (ordered.astype(np.float32, order="C") - mean) / std
    # Colours apart while they are bytes, which move fast; each colour is then one long run.
    values = np.ascontiguousarray(np.moveaxis(ordered, -1, -3)).astype(np.float32)
    values -= mean[:, np.newaxis, np.newaxis]
    values /= std[:, np.newaxis, np.newaxis]
    return values
