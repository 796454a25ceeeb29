"""Objectives to and from JSON: what comes over the wire, from files, and goes into the metadata of pictures.

Each objective is an object with one key, its kind, beside which stand weights and items:

    {"sum": [
        {"channel": {"tap": "mixed4a", "unit": 476}},
        {"scaled": {"weight": -0.05, "l1": {"picture": "image", "constant": 0.5}}},
        {"for_item": {"item": 1, "direction": {"tap": "mixed4a", "vector": [0.5, ...], "power": 2}}}
    ]}

A constant is `{"constant": 1}`. Fields with a default may be left out. Arrays are nested lists of numbers, or, as large
ones are written, `{"shape": [...], "float32": "<base64 of little-endian numbers>"}`. Nothing else is accepted: what is
misspelt is refused, not ignored. Whether an objective fits a model is for `objectives.check` to say.
"""

import base64
import binascii
import dataclasses
import enum
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

import numpy as np

from ortoscope_service.analysis.visualization.objectives import (
    LEAVES,
    MAXIMUM_DEPTH,
    MAXIMUM_SIZE,
    Constant,
    ForItem,
    Norm,
    Numbers,
    Objective,
    Picture,
    Product,
    Scaled,
    Source,
    Sum,
)
from ortoscope_service.errors import OrtoscopeError, invalid

_LONGEST_LIST = 4096
"""The most numbers of an array that are written as a list."""

_T = TypeVar("_T")
_KINDS = {leaf.kind: leaf for leaf in LEAVES}
_SOURCES = {"of": "", "to": "to_"}
"""Fields that say what is read, and how the keys for them begin."""


def parse_objective(text: str | bytes, *, field: str = "objective") -> Objective:
    """Reads an objective from JSON text.

    Args:
        text: The text, in UTF-8 if it is bytes.
        field: The path of the field that holds it, for errors.

    Raises:
        OrtoscopeError: `INVALID_JSON`, and as `objective_from_data` raises.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise invalid(
            "INVALID_JSON", f"The objective is no JSON text{place}; give one object in UTF-8.", field=field
        ) from error
    return objective_from_data(data, field=field)


def format_objective(objective: Objective) -> str:
    """Writes an objective as JSON text: equal objectives give equal text."""
    return json.dumps(objective_to_data(objective), sort_keys=True, allow_nan=False, separators=(",", ":"))


def objective_to_data(objective: Objective) -> dict[str, Any]:
    """An objective as JSON data: dictionaries, lists, strings and numbers."""
    match objective:
        case Constant(value):
            return {objective.kind: float(value)}
        case Sum(parts) | Product(parts):
            return {objective.kind: [objective_to_data(part) for part in parts]}
        case Scaled(weight, inner):
            return {objective.kind: {"weight": float(weight), **objective_to_data(inner)}}
        case ForItem(item, inner):
            return {objective.kind: {"item": int(item), **objective_to_data(inner)}}
    assert dataclasses.is_dataclass(objective)
    fields: dict[str, Any] = {}
    for own in dataclasses.fields(objective):
        value = getattr(objective, own.name)
        if own.name in _SOURCES:
            picture = isinstance(value, Picture)
            fields[_SOURCES[own.name] + ("picture" if picture else "tap")] = value.value if picture else value
        elif value is not None:
            fields[own.name] = _encoded(value)
    return {objective.kind: fields}


def objective_from_data(data: object, *, field: str = "objective") -> Objective:
    """Reads an objective from JSON data.

    Args:
        data: What `json.loads` gives.
        field: The path of the field that holds it, for errors.

    Raises:
        OrtoscopeError: `INVALID_OBJECTIVE`: a kind or field that there is not, is missing or of another type;
            `OBJECTIVE_TOO_LARGE`.
    """
    return _Reader().objective(data, field, 1)


class _Reader:
    """Reads one objective, and counts its parts."""

    def __init__(self) -> None:
        self._parts = 0

    def objective(self, data: object, field: str, depth: int) -> Objective:
        self._parts += 1
        if self._parts > MAXIMUM_SIZE or depth > MAXIMUM_DEPTH:
            raise invalid(
                "OBJECTIVE_TOO_LARGE",
                f"The objective has more than {MAXIMUM_SIZE} parts or more than {MAXIMUM_DEPTH} levels; write it with "
                "fewer.",
                field=field,
                largest_size=MAXIMUM_SIZE,
                largest_depth=MAXIMUM_DEPTH,
            )
        fields = _object(data, field)
        if len(fields) != 1:
            found = ", ".join(repr(key) for key in list(fields)[:5]) or "none"
            raise _refused(field, f"an objective has one key, its kind, but this one has {len(fields)}: {found}")
        ((kind, value),) = fields.items()
        at = f"{field}.{kind}" if kind in _ALL_KINDS else field
        if kind == Constant.kind:
            return Constant(_number(value, at))
        if kind == Sum.kind:
            return Sum(self._objectives(value, at, depth))
        if kind == Product.kind:
            return Product(self._objectives(value, at, depth))
        if kind == Scaled.kind:
            weight, inner = self._wrapped(value, "weight", _number, at, depth)
            return Scaled(weight, inner)
        if kind == ForItem.kind:
            item, inner = self._wrapped(value, "item", _integer, at, depth)
            return ForItem(item, inner)
        if kind not in _KINDS:
            raise _refused(field, f"there is no kind {_shown(kind)}; the kinds are {', '.join(_ALL_KINDS)}")
        return _leaf(_KINDS[kind], _object(value, at), at)

    def _objectives(self, data: object, at: str, depth: int) -> tuple[Objective, ...]:
        parts = enumerate(_list(data, at))
        return tuple(self.objective(part, f"{at}[{index}]", depth + 1) for index, part in parts)

    def _wrapped(
        self, data: object, key: str, read: Callable[[object, str], _T], at: str, depth: int
    ) -> tuple[_T, Objective]:
        fields = dict(_object(data, at))
        if key not in fields:
            raise _refused(f"{at}.{key}", "it is missing")
        return read(fields.pop(key), f"{at}.{key}"), self.objective(fields, at, depth + 1)


def _leaf(leaf: type[Objective], data: Mapping[str, object], at: str) -> Objective:
    assert dataclasses.is_dataclass(leaf)
    types, rest, given = get_type_hints(leaf), dict(data), {}
    for own in dataclasses.fields(leaf):
        if own.name in _SOURCES:
            given[own.name] = _source(rest, _SOURCES[own.name], at)
        elif own.name in rest:
            given[own.name] = _READERS[types[own.name]](rest.pop(own.name), f"{at}.{own.name}")
        elif own.default is dataclasses.MISSING:
            raise _refused(f"{at}.{own.name}", "it is missing")
    if rest:
        raise _refused(at, f"'{leaf.kind}' has no field {_shown(next(iter(rest)))}")
    made = leaf(**given)
    assert isinstance(made, Objective)
    return made


def _source(fields: dict[str, object], prefix: str, at: str) -> Source:
    keys = [key for key in (f"{prefix}tap", f"{prefix}picture") if key in fields]
    if len(keys) != 1:
        raise _refused(f"{at}.{prefix}tap", f"give either '{prefix}tap', a name, or '{prefix}picture'")
    (key,) = keys
    text = _text(fields.pop(key), f"{at}.{key}")
    return text if key.endswith("tap") else _choice(Picture)(text, f"{at}.{key}")


def _encoded(value: object) -> object:
    match value:
        case Numbers():
            return _encoded_numbers(value)
        case enum.Enum():
            return value.value
        case tuple():
            return [_encoded(one) for one in value]
        case str():
            return value
        case int() | np.integer():
            return int(value)
    assert isinstance(value, float)
    return float(value)


def _encoded_numbers(numbers: Numbers) -> object:
    array = numbers.array
    if array.size <= _LONGEST_LIST and array.size and np.isfinite(array).all():
        return array.tolist()
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode("ascii")}


def _numbers(data: object, field: str) -> Numbers:
    if isinstance(data, Mapping):
        return _packed_numbers(data, field)
    shape, flat = _flattened(data, field, 0)
    return Numbers(np.array(flat, np.float64).reshape(shape))


def _flattened(data: object, field: str, depth: int) -> tuple[tuple[int, ...], list[float]]:
    """The shape and the numbers of nested lists that are all equally long on each level."""
    if depth == 8:
        raise _refused(field, "it has more than 8 axes")
    entries = _list(data, field)
    if not any(isinstance(entry, list) for entry in entries):
        return (len(entries),), [_number(entry, f"{field}[{index}]") for index, entry in enumerate(entries)]
    parts = [_flattened(entry, f"{field}[{index}]", depth + 1) for index, entry in enumerate(entries)]
    if len({shape for shape, _ in parts}) != 1:
        raise _refused(field, "its lists are not all of one shape")
    return (len(parts), *parts[0][0]), [number for _, numbers in parts for number in numbers]


def _packed_numbers(data: Mapping[str, object], field: str) -> Numbers:
    if set(data) != {"shape", "float32"}:
        raise _refused(field, "give a nested list of numbers, or an object with the keys 'shape' and 'float32'")
    shape = _integers(data["shape"], f"{field}.shape")
    if len(shape) > 8 or any(size < 0 for size in shape):
        raise _refused(f"{field}.shape", "give at most 8 extents, none of them negative")
    try:
        content = base64.b64decode(_text(data["float32"], f"{field}.float32"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise _refused(f"{field}.float32", "it is not base64") from error
    if len(content) != 4 * math.prod(shape):
        raise _refused(
            f"{field}.float32", f"it holds {len(content)} bytes, but the shape needs {_shown(4 * math.prod(shape))}"
        )
    return Numbers(np.frombuffer(content, "<f4").reshape(shape))


def _object(data: object, field: str) -> Mapping[str, object]:
    if not isinstance(data, Mapping):
        raise _refused(field, f"{_shown(data)} is no object")
    return data


def _list(data: object, field: str) -> list[object]:
    if not isinstance(data, list):
        raise _refused(field, f"{_shown(data)} is no list")
    return data


def _text(data: object, field: str) -> str:
    if not isinstance(data, str):
        raise _refused(field, f"{_shown(data)} is no text")
    return data


def _number(data: object, field: str) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise _refused(field, f"{_shown(data)} is no number")
    try:
        number = float(data)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _refused(field, "it is no finite number")
    return number


def _integer(data: object, field: str) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise _refused(field, f"{_shown(data)} is no whole number")
    if not -(2**63) <= data < 2**63:
        raise _refused(field, "it does not fit in 64 bits")
    return data


def _integers(data: object, field: str) -> tuple[int, ...]:
    return tuple(_integer(entry, f"{field}[{index}]") for index, entry in enumerate(_list(data, field)))


def _optional_integers(data: object, field: str) -> tuple[int, ...] | None:
    return None if data is None else _integers(data, field)


def _label(data: object, field: str) -> int | str:
    return data if isinstance(data, str) else _integer(data, field)


def _choice(choices: type[enum.Enum]) -> Callable[[object, str], Any]:
    words = {choice.value: choice for choice in choices}

    def read(data: object, field: str) -> enum.Enum:
        if not isinstance(data, str) or data not in words:
            raise _refused(field, f"{_shown(data)} is none of {', '.join(words)}")
        return words[data]

    return read


def _shown(value: object) -> str:
    """A value for a message: foreign text is cut."""
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refused(field: str, why: str) -> OrtoscopeError:
    return invalid("INVALID_OBJECTIVE", f"The field '{field}' cannot be read: {why}.", field=field, problem=why)


_READERS: dict[Any, Callable[[object, str], Any]] = {
    int: _integer,
    float: _number,
    int | str: _label,
    tuple[int, ...] | None: _optional_integers,
    tuple[int, ...]: _integers,
    tuple[float, ...]: lambda data, field: tuple(
        _number(entry, f"{field}[{index}]") for index, entry in enumerate(_list(data, field))
    ),
    Numbers: _numbers,
    Norm: _choice(Norm),
}
"""How the types of fields are read."""

_ALL_KINDS = (Sum.kind, Scaled.kind, Product.kind, ForItem.kind, Constant.kind, *_KINDS)
