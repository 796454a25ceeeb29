"""From what people type to resource names, and back.

People write `name`, `name/version` or the full resource name; the server knows only the last. Names that may hold any
character (taps, datasets) are percent-encoded in a resource name.
"""

import re
from urllib.parse import quote, unquote

from ortoscope.errors import InvalidArgument

_BLOB = re.compile(r"^blobs/([0-9a-f]{64})$")


def model_version(text: str) -> str:
    """`m`, `m/1`, `models/m` or `models/m/versions/1` → `models/m` (the newest) or `models/m/versions/1`.

    Raises:
        InvalidArgument: MODEL_NAME_INVALID.
    """
    match text.split("/"):
        case ["models", model] if model:
            return f"models/{model}"
        case ["models", model, "versions", version] if model and version:
            return text
        case [model] if model:
            return f"models/{model}"
        case [model, version] if model and version:
            return f"models/{model}/versions/{version}"
    raise InvalidArgument(
        f"{text!r} names no model: write NAME (its newest version), NAME/VERSION or models/NAME/versions/VERSION.",
        reason="MODEL_NAME_INVALID",
        field="model",
        metadata={"model": text},
    )


def short_model(name: str) -> str:
    """`models/m/versions/1` → `m/1`, as people write it."""
    match name.split("/"):
        case ["models", model, "versions", version, *_]:
            return f"{model}/{version}"
        case ["models", model]:
            return model
    return name


def tap(version: str, text: str) -> str:
    """The resource name of a tap of a model version; `text` is any of its names, or its resource name already."""
    if text.startswith("models/") and "/taps/" in text:
        return text
    return f"{version}/taps/{quote(text, safe='')}"


def short_tap(name: str) -> str:
    """The tensor name in a tap's resource name."""
    return unquote(name.rpartition("/taps/")[2]) if "/taps/" in name else name


def version_of_tap(name: str) -> str:
    """The resource name of the model version that a tap belongs to."""
    return name.partition("/taps/")[0]


def dataset(text: str) -> str:
    """`d` or `datasets/d` → `datasets/d`, percent-encoded where it is not already.

    Raises:
        InvalidArgument: DATASET_NAME_INVALID.
    """
    plain = unquote(text.removeprefix("datasets/")) if text.startswith("datasets/") else text
    if not plain or "/" in plain:
        raise InvalidArgument(
            f"{text!r} names no dataset: write NAME or datasets/NAME.",
            reason="DATASET_NAME_INVALID",
            field="dataset",
            metadata={"dataset": text},
        )
    return f"datasets/{quote(plain, safe='')}"


def short_dataset(name: str) -> str:
    """`datasets/d` → `d`, decoded."""
    return unquote(name.removeprefix("datasets/").partition("/")[0])


def image(dataset_name: str, index: int) -> str:
    """The resource name of an image of a dataset."""
    return f"{dataset_name}/images/{index}"


def is_image(text: str) -> bool:
    """Whether `text` is the resource name of an image of a dataset."""
    match text.split("/"):
        case ["datasets", name, "images", index]:
            return bool(name) and index.isascii() and index.isdigit()
    return False


def operation(text: str) -> str:
    """`o` or `operations/o` → `operations/o`."""
    return text if text.startswith("operations/") else f"operations/{text}"


def unit_sheet(text: str) -> str:
    """`s` or `unitSheets/s` → `unitSheets/s`."""
    return text if text.startswith("unitSheets/") else f"unitSheets/{text}"


def atlas(text: str) -> str:
    """`a` or `atlases/a` → `atlases/a`."""
    return text if text.startswith("atlases/") else f"atlases/{text}"


def atlas_projection(text: str) -> str:
    """`p` or `atlasProjections/p` → `atlasProjections/p`."""
    return text if text.startswith("atlasProjections/") else f"atlasProjections/{text}"


def atlas_comparison(text: str) -> str:
    """`c` or `atlasComparisons/c` → `atlasComparisons/c`."""
    return text if text.startswith("atlasComparisons/") else f"atlasComparisons/{text}"


def is_blob(text: str) -> bool:
    """Whether `text` is the resource name of a blob."""
    return _BLOB.match(text) is not None


def blob_digest(text: str) -> str:
    """`blobs/{sha256}` → the 64 hexadecimal digits.

    Raises:
        InvalidArgument: BLOB_NAME_INVALID.
    """
    match = _BLOB.match(text)
    if match is None:
        raise InvalidArgument(
            f"{text!r} names no blob: write blobs/ and the 64 hexadecimal digits of a sha256.",
            reason="BLOB_NAME_INVALID",
            field="name",
            metadata={"name": text},
        )
    return match[1]
