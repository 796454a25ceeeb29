"""Resource names: the only place where they are parsed and made.

A name is a path of collections and ids. Names of datasets and taps may hold any character and are percent-encoded;
every other id has a fixed alphabet. Whatever does not match exactly is refused, so that no part of a name can reach
the file system or the database in any other form.
"""

import re
import uuid
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from ortoscope_service.errors import OrtoscopeError, invalid
from ortoscope_service.models.repository import is_model_id

_POSITIVE = re.compile(r"[1-9][0-9]{0,8}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")
_HEX_32 = re.compile(r"[0-9a-f]{32}")
_HEX_64 = re.compile(r"[0-9a-f]{64}")
_ENCODED = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+")
_REQUEST_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class ModelName:
    """`models/{model}` or `models/{model}/versions/{version}`."""

    model: str
    """Id of the model."""

    version: int | None = None
    """Number of the version; None for the newest."""

    def __str__(self) -> str:
        if self.version is None:
            return f"models/{self.model}"
        return f"models/{self.model}/versions/{self.version}"


@dataclass(frozen=True)
class TapName:
    """`models/{model}[/versions/{version}]/taps/{tap}`."""

    model: ModelName
    """The model version, or the model for the newest."""

    tap: str
    """Any name of the tap, as it is."""

    def __str__(self) -> str:
        return f"{self.model}/taps/{_encode(self.tap)}"


@dataclass(frozen=True)
class DatasetName:
    """`datasets/{dataset}`."""

    dataset: str
    """Name of the dataset's folder, as it is."""

    def __str__(self) -> str:
        return f"datasets/{_encode(self.dataset)}"


@dataclass(frozen=True)
class ImageName:
    """`datasets/{dataset}/images/{index}`."""

    dataset: DatasetName
    """The dataset."""

    index: int
    """Index of the image, from 0."""

    def __str__(self) -> str:
        return f"{self.dataset}/images/{self.index}"


def parse_model(name: str, *, field: str) -> ModelName:
    """Parses `models/{model}`.

    Raises:
        OrtoscopeError: INVALID_NAME, as every parser here raises.
    """
    match _segments(name):
        case ["models", model] if is_model_id(model):
            return ModelName(model)
    raise _refusal(name, "models/{model}", field)


def parse_model_version(name: str, *, field: str) -> ModelName:
    """Parses `models/{model}/versions/{version}`, or `models/{model}` for the newest."""
    match _segments(name):
        case ["models", model] if is_model_id(model):
            return ModelName(model)
        case ["models", model, "versions", version] if is_model_id(model) and _POSITIVE.fullmatch(version):
            return ModelName(model, int(version))
    raise _refusal(name, "models/{model} or models/{model}/versions/{version}", field)


def parse_tap(name: str, *, field: str) -> TapName:
    """Parses `models/{model}/versions/{version}/taps/{tap}`, or `models/{model}/taps/{tap}` for the newest version."""
    segments = _segments(name)
    if len(segments) >= 4 and segments[-2] == "taps":
        tap = _decode(segments[-1])
        if tap is not None:
            model = parse_model_version("/".join(segments[:-2]), field=field)
            return TapName(model, tap)
    raise _refusal(name, "models/{model}/versions/{version}/taps/{tap} with the tap percent-encoded", field)


def parse_dataset(name: str, *, field: str) -> DatasetName:
    """Parses `datasets/{dataset}`."""
    match _segments(name):
        case ["datasets", encoded] if (dataset := _folder(encoded)) is not None:
            return DatasetName(dataset)
    raise _refusal(name, "datasets/{dataset} with the dataset percent-encoded", field)


def parse_image(name: str, *, field: str) -> ImageName:
    """Parses `datasets/{dataset}/images/{index}`."""
    match _segments(name):
        case ["datasets", encoded, "images", index] if (dataset := _folder(encoded)) is not None and _INDEX.fullmatch(
            index
        ):
            return ImageName(DatasetName(dataset), int(index))
    raise _refusal(name, "datasets/{dataset}/images/{index}", field)


def parse_blob(name: str, *, field: str) -> str:
    """Parses `blobs/{sha256}` to the 64 hexadecimal digits."""
    return _single(name, "blobs", _HEX_64, "blobs/{sha256} with 64 lower-case hexadecimal digits", field)


def parse_operation(name: str, *, field: str) -> str:
    """Parses `operations/{operation}` to its id."""
    return _single(name, "operations", _HEX_32, "operations/{operation}", field)


def parse_dissection(name: str, *, field: str) -> str:
    """Parses `dissections/{dissection}` to its id."""
    return _single(name, "dissections", _HEX_32, "dissections/{dissection}", field)


def parse_example_set(name: str, *, field: str) -> str:
    """Parses `exampleSets/{example_set}` to its id."""
    return _single(name, "exampleSets", _HEX_32, "exampleSets/{example_set}", field)


def parse_unit_sheet(name: str, *, field: str) -> str:
    """Parses `unitSheets/{unit_sheet}` to its id."""
    return _single(name, "unitSheets", _HEX_32, "unitSheets/{unit_sheet}", field)


def parse_atlas(name: str, *, field: str) -> str:
    """Parses `atlases/{atlas}` to its id."""
    return _single(name, "atlases", _HEX_32, "atlases/{atlas}", field)


def parse_atlas_projection(name: str, *, field: str) -> str:
    """Parses `atlasProjections/{atlas_projection}` to its id."""
    return _single(name, "atlasProjections", _HEX_32, "atlasProjections/{atlas_projection}", field)


def parse_atlas_comparison(name: str, *, field: str) -> str:
    """Parses `atlasComparisons/{atlas_comparison}` to its id."""
    return _single(name, "atlasComparisons", _HEX_32, "atlasComparisons/{atlas_comparison}", field)


def blob(digest: str) -> str:
    """`blobs/{sha256}`."""
    return f"blobs/{digest}"


def operation(identifier: str) -> str:
    """`operations/{operation}`."""
    return f"operations/{identifier}"


def dissection(identifier: str) -> str:
    """`dissections/{dissection}`."""
    return f"dissections/{identifier}"


def example_set(identifier: str) -> str:
    """`exampleSets/{example_set}`."""
    return f"exampleSets/{identifier}"


def unit_sheet(identifier: str) -> str:
    """`unitSheets/{unit_sheet}`."""
    return f"unitSheets/{identifier}"


def split_result(name: str) -> tuple[str, str]:
    """Collection and id of a result's name that this server made itself."""
    collection, _, identifier = name.partition("/")
    return collection, identifier


def new_id() -> str:
    """A fresh id of an operation or result: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def parse_version(text: str) -> int | None:
    """The number of a version as the Open Inference Protocol writes it; None if it is none."""
    return int(text) if _POSITIVE.fullmatch(text) else None


def check_request_id(request_id: str) -> str:
    """The request id in lower case, or empty if there is none.

    Raises:
        OrtoscopeError: INVALID_REQUEST_ID if it is no UUID.
    """
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        raise invalid(
            "INVALID_REQUEST_ID",
            f"request_id {_shown(request_id)} is no UUID; leave it empty or send a fresh UUID such as "
            "123e4567-e89b-42d3-a456-426614174000.",
            field="request_id",
            request_id=request_id,
        )
    return request_id.lower()


def _segments(name: str) -> list[str]:
    return name.split("/")


def _single(name: str, collection: str, alphabet: re.Pattern[str], pattern: str, field: str) -> str:
    match _segments(name):
        case [first, identifier] if first == collection and alphabet.fullmatch(identifier):
            return identifier
    raise _refusal(name, pattern, field)


def _encode(text: str) -> str:
    """Percent-encodes everything but unreserved characters (RFC 3986); `.` and `..` too, which paths give a meaning."""
    if text in {".", ".."}:
        return text.replace(".", "%2E")
    return quote(text, safe="")


def _decode(segment: str) -> str | None:
    """What a percent-encoded segment stands for; None if it is empty, not well-formed or not UTF-8."""
    if not _ENCODED.fullmatch(segment):
        return None
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _folder(segment: str) -> str | None:
    """The folder name that a segment stands for; None if it could lead anywhere but to a child of its parent."""
    name = _decode(segment)
    if name is None or name in {".", ".."} or any(c in name for c in "/\\\0"):
        return None
    return name


def _shown(name: str) -> str:
    return f"'{name}'" if len(name) <= 200 else f"'{name[:200]}…'"


def _refusal(name: str, pattern: str, field: str) -> OrtoscopeError:
    return invalid("INVALID_NAME", f"{_shown(name)} is not a name of the form {pattern}.", field=field, name=name)
