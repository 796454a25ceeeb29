"""What a user may put into a model, as the API's items: paths, bytes, pictures, arrays."""

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ortoscope import resource_names
from ortoscope.datasets import ImageEntry, Picture
from ortoscope.errors import InvalidArgument
from ortoscope.tensors import dtype_of, to_tensor
from ortoscope.v1 import activations_pb2, models_pb2

Array: TypeAlias = npt.NDArray[Any]

Input: TypeAlias = str | Path | bytes | Image.Image | Array | Picture | ImageEntry | Mapping[str, Array]
"""One item: the path of a picture; its bytes; a PIL image; a NumPy array; an image of a dataset (also by its resource
name, `datasets/{dataset}/images/{index}`); for a model with several inputs a mapping from their names to arrays."""

Inputs: TypeAlias = Input | Iterable[Input]
"""One item or many."""


def items_of(inputs: Inputs, model: models_pb2.ModelVersion) -> Iterator[Input]:
    """Tells one item from many.

    An array is many items if it has the model's batch axis: for pictures (uint8) four axes, otherwise as many as
    the model's input.
    """
    if isinstance(inputs, np.ndarray):
        many = inputs.ndim == 4 if _is_picture(inputs, model) else inputs.ndim == _rank(model)
        yield from inputs if many else (inputs,)
    elif isinstance(inputs, (str, Path, bytes, Image.Image, Picture, ImageEntry, Mapping)):
        yield inputs
    else:
        yield from inputs


def to_item(value: Input, model: models_pb2.ModelVersion, *, field: str) -> activations_pb2.ActivationInput:
    """One item as the API takes it.

    A uint8 array of (height, width) or (height, width, 1, 3 or 4) is a picture, for a model that takes pictures; every
    other array is the model's input as it stands, without the batch axis, converted to the input's type if that
    keeps its kind (float64 to float32, but not float to int).

    Args:
        value: The item.
        model: The model that it is for.
        field: What to call it in an error.

    Raises:
        InvalidArgument: INPUT_TYPE, IMAGE_MODE, INPUTS_UNKNOWN, DATA_TYPE_UNSUPPORTED.
        OSError: A file cannot be read.
    """
    item = activations_pb2.ActivationInput
    match value:
        case bytes():
            return item(image=value)
        case ImageEntry() | Picture():
            return item(dataset_image=value.name)
        case str() if resource_names.is_blob(value):
            return item(blob=value)
        case str() if resource_names.is_image(value):
            return item(dataset_image=value)
        case str() | Path():
            path = Path(value)
            return _array_item(_load(path), model, field) if path.suffix == ".npy" else item(image=path.read_bytes())
        case Image.Image():
            return item(image=encode_picture(value, field=field))
        case np.ndarray():
            return _array_item(value, model, field)
        case Mapping():
            return item(tensors=_named_tensors(value, model, field))
    raise InvalidArgument(
        f"{field} is a {type(value).__name__}; give a path, bytes, a PIL image, a NumPy array, or an image of a "
        "dataset.",
        reason="INPUT_TYPE",
        field=field,
        metadata={"type": type(value).__name__},
    )


def encode_picture(image: Image.Image, *, field: str = "image") -> bytes:
    """A PIL image as PNG, upright.

    Raises:
        InvalidArgument: IMAGE_MODE: its colours (CMYK, 16 bits, float, …) have no one meaning in 8-bit RGB.
    """
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode not in {"L", "LA", "RGB", "RGBA"}:
        raise InvalidArgument(
            f"{field} has the colour mode {image.mode}; convert it to 8-bit RGB first (image.convert('RGB')), in the "
            "way that is right for its colours.",
            reason="IMAGE_MODE",
            field=field,
            metadata={"mode": image.mode},
        )
    buffer = io.BytesIO()
    ImageOps.exif_transpose(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _load(path: Path) -> Array:
    try:
        array: Array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InvalidArgument(
            f"{str(path)!r} is no NumPy array: {error}.",
            reason="ARRAY_UNREADABLE",
            field="inputs",
            metadata={"path": str(path)},
        ) from None
    return array


def _array_item(array: Array, model: models_pb2.ModelVersion, field: str) -> activations_pb2.ActivationInput:
    if _is_picture(array, model):
        picture = Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
        return activations_pb2.ActivationInput(image=encode_picture(picture, field=field))
    wanted = dtype_of(model.inputs[0].data_type) if len(model.inputs) == 1 else None
    return activations_pb2.ActivationInput(tensor=to_tensor(_cast(array, wanted), field=field))


def _named_tensors(
    arrays: Mapping[str, Array], model: models_pb2.ModelVersion, field: str
) -> activations_pb2.NamedTensors:
    types = {entry.name: dtype_of(entry.data_type) for entry in model.inputs}
    unknown = sorted(set(arrays) - set(types))
    if unknown:
        raise InvalidArgument(
            f"{field} has {', '.join(map(repr, unknown))}, but the inputs of {model.name} are {', '.join(types)}.",
            reason="INPUTS_UNKNOWN",
            field=field,
            metadata={"inputs": ", ".join(types)},
        )
    return activations_pb2.NamedTensors(
        tensors={name: to_tensor(_cast(array, types[name]), field=field) for name, array in arrays.items()}
    )


def _cast(array: Array, wanted: "np.dtype[Any] | None") -> Array:
    if wanted is None or array.dtype == wanted or not np.can_cast(array.dtype, wanted, "same_kind"):
        return array
    return array.astype(wanted)


def _is_picture(array: Array, model: models_pb2.ModelVersion) -> bool:
    takes_pictures = any(entry.kind == models_pb2.ModelInput.KIND_IMAGE for entry in model.inputs)
    shaped = array.ndim == 2 or (array.ndim in {3, 4} and array.shape[-1] in {1, 3, 4})
    return takes_pictures and array.dtype == np.uint8 and shaped


def _rank(model: models_pb2.ModelVersion) -> int:
    return len(model.inputs[0].shape) if model.inputs else 0
