"""Objectives of visualizations to and from JSON: what files hold, and the metadata of pictures.

Each objective is an object with one key, its kind, beside which stand weights and items:

    {"sum": [
        {"channel": {"tap": "mixed4a", "unit": 476}},
        {"scaled": {"weight": -0.05, "l1": {"picture": "image", "constant": 0.5}}},
        {"for_item": {"item": 1, "direction": {"tap": "mixed4a", "vector": [0.5, ...], "power": 2}}}
    ]}

The kinds and fields are those of the API's message, by its descriptor. Arrays are nested lists of numbers, or
`{"shape": [...], "float32": "<base64 of little-endian numbers>"}`. What is misspelt is refused, not ignored; whether an
objective fits a model is for the server to say.
"""

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from google.api import field_behavior_pb2
from google.protobuf.descriptor import FieldDescriptor

from ortoscope.errors import InvalidArgument
from ortoscope.tensors import to_array, to_tensor
from ortoscope.v1 import tensors_pb2, visualization_pb2

_Message = visualization_pb2.VisualizationObjective

_LONGEST_LIST = 4096
"""The most numbers of an array that are written as a list."""

_DEEPEST = 100
"""Levels after which reading gives up; the server takes fewer."""

_KINDS = tuple(field.name for field in _Message.DESCRIPTOR.oneofs_by_name["kind"].fields)
_WHOLE = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32}


def objective_to_data(message: visualization_pb2.VisualizationObjective) -> dict[str, Any]:
    """An objective as JSON data: dictionaries, lists, strings and numbers."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return {}
    value = getattr(message, kind)
    match kind:
        case "constant":
            return {kind: float(value)}
        case "sum" | "product":
            return {kind: [objective_to_data(part) for part in _parts(value)]}
        case "scaled":
            return {kind: {"weight": float(value.weight), **objective_to_data(value.objective)}}
        case "for_item":
            return {kind: {"item": int(value.item), **objective_to_data(value.objective)}}
        case "class_logit" | "class_probability":
            return {kind: {"label": value.label if value.WhichOneof("reference") == "label" else int(value.index)}}
    return {kind: _leaf_to_data(value)}


def objective_from_data(data: object, *, field: str = "objective") -> visualization_pb2.VisualizationObjective:
    """Reads an objective from JSON data.

    Args:
        data: What `json.loads` gives.
        field: What to call it in an error.

    Raises:
        InvalidArgument: INVALID_OBJECTIVE: a kind or field that there is not, is missing or of another type.
    """
    made: visualization_pb2.VisualizationObjective = _read(data, field, 1)
    return made


def _read(data: object, field: str, depth: int) -> Any:
    fields = _object(data, field)
    if depth > _DEEPEST:
        raise _refused(field, f"it has more than {_DEEPEST} levels")
    if len(fields) != 1:
        found = ", ".join(repr(key) for key in list(fields)[:5]) or "none"
        raise _refused(field, f"an objective has one key, its kind, but this one has {len(fields)}: {found}")
    ((kind, value),) = fields.items()
    if kind not in _KINDS:
        raise _refused(field, f"there is no kind {kind!r}; the kinds are {', '.join(_KINDS)}")
    at = f"{field}.{kind}"
    match kind:
        case "constant":
            return _Message(constant=_number(value, at))
        case "sum":
            return _Message(sum=_Message.Sum(terms=_read_all(value, at, depth)))
        case "product":
            return _Message(product=_Message.Product(factors=_read_all(value, at, depth)))
        case "scaled":
            weight, inner = _read_wrapped(value, "weight", at, depth)
            return _Message(scaled=_Message.Scaled(weight=_number(weight, f"{at}.weight"), objective=inner))
        case "for_item":
            item, inner = _read_wrapped(value, "item", at, depth)
            return _Message(for_item=_Message.ForItem(item=_integer(item, f"{at}.item"), objective=inner))
    made = _Message()
    part = getattr(made, kind)
    part.SetInParent()
    if kind in {"class_logit", "class_probability"}:
        _read_class(part, _object(value, at), at)
    else:
        _read_leaf(part, _object(value, at), at)
    return made


def _read_all(data: object, at: str, depth: int) -> list[Any]:
    return [_read(part, f"{at}[{number}]", depth + 1) for number, part in enumerate(_list(data, at))]


def _read_wrapped(data: object, key: str, at: str, depth: int) -> tuple[object, Any]:
    fields = dict(_object(data, at))
    if key not in fields:
        raise _refused(f"{at}.{key}", "it is missing")
    return fields.pop(key), _read(fields, at, depth + 1)


def _read_class(reference: Any, fields: Mapping[str, object], at: str) -> None:
    if set(fields) != {"label"}:
        raise _refused(at, "a class has one field, 'label': its name or its index")
    label = fields["label"]
    if isinstance(label, str):
        reference.label = label
    else:
        reference.index = _integer(label, f"{at}.label")


def _leaf_to_data(message: Any) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name):
            continue
        match _type_of(field):
            case "Source":
                data.update(_source_to_data(value, _prefix(field)))
            case "SiteIndex":
                data[field.name] = [int(index) for index in value.index]
            case "Tensor":
                data[field.name] = _numbers_to_data(to_array(value))
            case "enum":
                if value:
                    data[field.name] = _word_of(field, value)
            case _:
                data[field.name] = list(value) if field.is_repeated else value
    return data


def _read_leaf(message: Any, data: Mapping[str, object], at: str) -> None:
    rest = dict(data)
    for field in message.DESCRIPTOR.fields:
        where = f"{at}.{field.name}"
        if _type_of(field) == "Source":
            _read_source(getattr(message, field.name), rest, _prefix(field), at)
            continue
        if field.name not in rest:
            if _is_needed(field):
                raise _refused(where, "it is missing")
            continue
        value = rest.pop(field.name)
        match _type_of(field):
            case "SiteIndex":
                if value is not None:
                    site = getattr(message, field.name)
                    site.SetInParent()
                    site.index.extend(_integer(entry, where) for entry in _list(value, where))
            case "Tensor":
                getattr(message, field.name).CopyFrom(_read_numbers(value, where))
            case "enum":
                setattr(message, field.name, _number_of(field, value, where))
            case _ if field.is_repeated:
                read = _integer if field.cpp_type in _WHOLE else _number
                getattr(message, field.name).extend(read(entry, where) for entry in _list(value, where))
            case _:
                read = _integer if field.cpp_type in _WHOLE else _number
                setattr(message, field.name, read(value, where))
    if rest:
        raise _refused(at, f"there is no field {next(iter(rest))!r}")


def _type_of(field: FieldDescriptor) -> str:
    """Name of the message that a field holds, "enum", or "scalar"."""
    if field.message_type is not None:
        return str(field.message_type.name)
    return "enum" if field.enum_type is not None else "scalar"


def _is_needed(field: FieldDescriptor) -> bool:
    """Whether a field must be given: what the API calls required, whole numbers without a default, and lists."""
    if field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]:
        return True
    return bool(field.is_repeated) or (not field.has_presence and field.cpp_type in _WHOLE)


def _prefix(field: FieldDescriptor) -> str:
    """How the keys of a source begin: `tap` for what is read, `to_tap` for what is read for the last."""
    return "" if field.name == "of" else f"{field.name}_"


def _source_to_data(source: Any, prefix: str) -> dict[str, str]:
    if source.WhichOneof("source") == "picture":
        name = _Message.Source.Picture.Name(source.picture)
        return {f"{prefix}picture": name.removeprefix("PICTURE_").lower()}
    return {f"{prefix}tap": source.tap}


def _read_source(source: Any, fields: dict[str, object], prefix: str, at: str) -> None:
    keys = [key for key in (f"{prefix}tap", f"{prefix}picture") if key in fields]
    if len(keys) != 1:
        raise _refused(f"{at}.{prefix}tap", f"give either '{prefix}tap', a name, or '{prefix}picture'")
    text = fields.pop(keys[0])
    if not isinstance(text, str):
        raise _refused(f"{at}.{keys[0]}", f"{text!r} is no text")
    if keys[0].endswith("tap"):
        source.tap = text
        return
    words = [name.removeprefix("PICTURE_").lower() for name in _Message.Source.Picture.keys()[1:]]
    if text not in words:
        raise _refused(f"{at}.{keys[0]}", f"{text!r} is none of {', '.join(words)}")
    source.picture = _Message.Source.Picture.Value(f"PICTURE_{text.upper()}")


def _word_of(field: FieldDescriptor, number: int) -> str:
    assert field.enum_type is not None
    return str(field.enum_type.values_by_number[number].name).removeprefix(f"{field.name.upper()}_").lower()


def _number_of(field: FieldDescriptor, value: object, at: str) -> int:
    assert field.enum_type is not None
    numbers = {_word_of(field, entry.number): entry.number for entry in field.enum_type.values if entry.number}
    if not isinstance(value, str) or value not in numbers:
        raise _refused(at, f"{value!r} is none of {', '.join(numbers)}")
    return numbers[value]


def _numbers_to_data(array: npt.NDArray[Any]) -> object:
    if array.size <= _LONGEST_LIST and array.size and np.isfinite(array).all():
        return array.tolist()
    packed = base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")
    return {"shape": list(array.shape), "float32": packed}


def _read_numbers(data: object, at: str) -> tensors_pb2.Tensor:
    if isinstance(data, Mapping):
        return to_tensor(_unpacked(data, at))
    try:
        array = np.array(_list(data, at), np.float32)
    except (ValueError, TypeError) as error:
        raise _refused(at, "it is no nested list of numbers, all lists of a level equally long") from error
    return to_tensor(array)


def _unpacked(data: Mapping[str, object], at: str) -> npt.NDArray[np.float32]:
    if set(data) != {"shape", "float32"} or not isinstance(data["float32"], str):
        raise _refused(at, "give a nested list of numbers, or an object with the keys 'shape' and 'float32'")
    shape = tuple(_integer(entry, f"{at}.shape") for entry in _list(data["shape"], f"{at}.shape"))
    try:
        content = base64.b64decode(data["float32"], validate=True)
    except (ValueError, binascii.Error) as error:
        raise _refused(f"{at}.float32", "it is not base64") from error
    if min(shape, default=0) < 0 or len(content) != 4 * math.prod(shape):
        raise _refused(f"{at}.float32", f"it holds {len(content)} bytes, which do not fit the shape {shape}")
    return np.frombuffer(content, "<f4").reshape(shape)


def _parts(message: Any) -> Any:
    """The parts of a sum or product."""
    return getattr(message, message.DESCRIPTOR.fields[0].name)


def _object(data: object, field: str) -> Mapping[str, object]:
    if not isinstance(data, Mapping):
        raise _refused(field, f"{_cut(data)} is no object")
    return data


def _list(data: object, field: str) -> list[object]:
    if not isinstance(data, list):
        raise _refused(field, f"{_cut(data)} is no list")
    return data


def _number(data: object, field: str) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float) or not math.isfinite(data):
        raise _refused(field, f"{_cut(data)} is no finite number")
    return float(data)


def _integer(data: object, field: str) -> int:
    if isinstance(data, bool) or not isinstance(data, int) or not -(2**63) <= data < 2**63:
        raise _refused(field, f"{_cut(data)} is no whole number of 64 bits")
    return data


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refused(field: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"The field '{field}' cannot be read: {why}.",
        reason="INVALID_OBJECTIVE",
        field=field,
        metadata={"problem": why},
    )
