"""From the items of a request to the arrays that a model is fed with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortoscope.v1.activations_pb2 import ActivationInput
from ortoscope.v1.tensors_pb2 import Tensor
from PIL import Image

from ortoscope_service.api import resources
from ortoscope_service.api.components import Components, blaming
from ortoscope_service.api.tensors import from_tensor
from ortoscope_service.datasets.images import MAX_IMAGE_BYTES, decode_image
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.models.manifest import InputSpec
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation

Item = Mapping[str, NDArray[Any]]
"""One item of a batch: an array for each input of the model, without the batch axis."""

_PICTURES = frozenset({"image", "blob", "dataset_image"})


def has_pictures(inputs: Sequence[ActivationInput]) -> bool:
    """Whether some of the items are pictures, which the server preprocesses."""
    return any(item.WhichOneof("content") in _PICTURES for item in inputs)


def read_inputs(
    components: Components,
    version: ModelVersion,
    inputs: Sequence[ActivationInput],
    cancellation: Cancellation,
    *,
    field: str = "inputs",
) -> dict[str, NDArray[Any]]:
    """Decodes, preprocesses, checks and stacks the items of a request.

    Args:
        components: Datasets, blobs and limits.
        version: The model that they are for.
        inputs: The items.
        cancellation: Stops the work.
        field: The field that holds them.

    Returns:
        For each input of the model, all items along the first axis.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: NO_INPUTS, EMPTY_INPUT, what is wrong with a picture or tensor;
            RESOURCE_EXHAUSTED: TOO_MANY_ITEMS; NOT_FOUND; FAILED_PRECONDITION: MODEL_INPUT_NOT_IMAGE.
    """
    if not inputs:
        raise invalid("NO_INPUTS", "There are no inputs; give at least one item.", field=field)
    limit = components.limits.max_items_per_request
    if len(inputs) > limit:
        raise OrtoscopeError(
            Code.RESOURCE_EXHAUSTED,
            "TOO_MANY_ITEMS",
            f"{len(inputs)} items were sent, more than the limit max_items_per_request of {limit}; send fewer at a "
            "time, or use StreamActivations.",
            field=field,
            metadata={"items": str(len(inputs)), "max_items_per_request": str(limit)},
        )
    items: list[Item] = []
    for number, item in enumerate(inputs):
        cancellation.raise_if_cancelled()
        items.append(_read(components, version, item, f"{field}[{number}]"))
        _check_equal_shapes(items[0], items[-1], f"{field}[{number}]")
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def read_picture(components: Components, item: ActivationInput, *, field: str) -> Image.Image:
    """The picture that an item holds or names.

    Args:
        components: Datasets and blobs.
        item: An item with `image`, `blob` or `dataset_image`.
        field: The path of that one.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: IMAGE_TOO_LARGE, INVALID_NAME, what is wrong with a picture; NOT_FOUND.
    """
    match item.WhichOneof("content"):
        case "image":
            return decode_image(item.image, field=field)
        case "blob":
            digest = resources.parse_blob(item.blob, field=field)
            blobs = components.store.blobs
            size = blobs.size(digest, field=field)
            if size > MAX_IMAGE_BYTES:
                raise invalid(
                    "IMAGE_TOO_LARGE",
                    f"The blob has {size:,} bytes; pictures of at most {MAX_IMAGE_BYTES:,} are read. Make it smaller.",
                    field=field,
                    bytes=size,
                    max_bytes=MAX_IMAGE_BYTES,
                )
            return decode_image(blobs.load(digest, field=field), field=field)
        case _:
            name = resources.parse_image(item.dataset_image, field=field)
            dataset = components.dataset(name.dataset, field=field)
            with blaming(field):
                return dataset.read_image(name.index)


def _read(components: Components, version: ModelVersion, item: ActivationInput, field: str) -> Item:
    kind = item.WhichOneof("content")
    if kind is None:
        raise invalid(
            "EMPTY_INPUT", "The item holds neither a picture nor a tensor nor the name of either.", field=field
        )
    if kind == "tensors":
        return _read_tensors(version, item, f"{field}.tensors.tensors")
    specification = _only_input(version, f"{field}.{kind}")
    if kind == "tensor":
        return {specification.name: _read_tensor(specification, item.tensor, f"{field}.tensor")}
    with blaming(f"{field}.{kind}"):
        preprocessing = version.image_input.preprocessing
    assert preprocessing is not None  # image_input raises otherwise
    return {specification.name: preprocess(read_picture(components, item, field=f"{field}.{kind}"), preprocessing)}


def _read_tensors(version: ModelVersion, item: ActivationInput, field: str) -> Item:
    specifications = {specification.name: specification for specification in version.manifest.inputs}
    given = item.tensors.tensors
    names = ", ".join(sorted(specifications))
    for name in given:
        if name not in specifications:
            raise invalid(
                "UNKNOWN_INPUT",
                f"The model has no input '{name}'; it has {names}.",
                field=field,
                input=name,
                inputs=names,
            )
    for name in specifications:
        if name not in given:
            raise invalid(
                "MISSING_INPUT",
                f"There is no tensor for the input '{name}'; the model needs {names}.",
                field=field,
                input=name,
                inputs=names,
            )
    return {
        name: _read_tensor(specification, given[name], f"{field}[{name}]")
        for name, specification in specifications.items()
    }


def _read_tensor(specification: InputSpec, tensor: Tensor, field: str) -> NDArray[Any]:
    return from_tensor(tensor, specification.data_type, specification.shape[1:], field=field)


def _only_input(version: ModelVersion, field: str) -> InputSpec:
    inputs = version.manifest.inputs
    if len(inputs) != 1:
        names = ", ".join(specification.name for specification in inputs)
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "MODEL_INPUT_COUNT",
            f"The model has {len(inputs)} inputs ({names}); give each item as `tensors`, with one for every input.",
            field=field,
            metadata={"inputs": names},
        )
    return inputs[0]


def _check_equal_shapes(first: Item, item: Item, field: str) -> None:
    for name, array in item.items():
        if array.shape != first[name].shape:
            raise invalid(
                "UNEQUAL_SHAPES",
                f"The item has shape {list(array.shape)} for input '{name}', the first one {list(first[name].shape)}; "
                "all items of a request must have the same shape.",
                field=field,
                input=name,
                shape=list(array.shape),
                expected=list(first[name].shape),
            )
