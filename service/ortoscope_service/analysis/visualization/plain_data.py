"""Frozen dataclasses as JSON data and back, by their types: nothing misspelt is accepted, nothing is left out."""

import base64
import binascii
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from ortoscope_service.analysis.visualization.objectives.arrays import Numbers

_LONGEST_LIST = 4096
"""The most numbers of an array that are written as a list."""

_MOST_AXES = 8

_NUMBERS_KEYS = {"shape", "float32"}


class Unreadable(Exception):  # noqa: N818 - it becomes the error of whoever reads
    """Data that do not fit a type.

    Args:
        path: Of the value within the data, such as `steps[2].pad.pixels`; empty for the whole.
        why: What is wrong, in words, with what to give instead.

    Attributes:
        path: As given.
        why: As given.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


Kinds = Mapping[type, Mapping[str, type]]
"""By abstract class, the dataclasses that may stand for it, by their words."""


@dataclasses.dataclass(frozen=True)
class Codec:
    """Writes and reads bool, int, float, str, Literal, `X | None`, tuples, `Numbers`, and dataclasses of these.

    Where a field's type is an abstract class, the value is an object with one key, the word of the class, which holds
    its fields: `{"adam": {"learning_rate": 0.05}}`. Fields with a default may be left out.
    """

    kinds: Kinds
    """The classes that have words."""

    def word(self, value: object) -> str:
        """The word of a value's class."""
        for classes in self.kinds.values():
            for word, kind in classes.items():
                if type(value) is kind:
                    return word
        raise TypeError(f"{type(value).__name__} has no word")

    def write(self, expected: Any, value: object) -> Any:
        """A value of a type as JSON data."""
        if value is None:
            return None
        if isinstance(value, Numbers):
            return _write_numbers(value)
        inner = optional(expected)
        if inner is not None:
            return self.write(inner, value)
        if isinstance(value, tuple):
            return [self.write(_entry_type(expected, index), entry) for index, entry in enumerate(value)]
        if expected in self.kinds:
            return {self.word(value): self.write(type(value), value)}
        if dataclasses.is_dataclass(value):
            hints = get_type_hints(type(value))
            return {name: self.write(hints[name], getattr(value, name)) for name in settable(type(value))}
        if expected is float:
            return float(typing.cast("float", value))
        return value

    def read(self, expected: Any, data: object, path: str = "") -> Any:
        """A value of a type from JSON data.

        Raises:
            Unreadable: It is not one.
            OrtoscopeError: As the dataclasses raise.
        """
        inner = optional(expected)
        if inner is not None:
            return None if data is None else self.read(inner, data, path)
        if expected is Numbers:
            return _read_numbers(data, path)
        if get_origin(expected) is tuple:
            return self._tuple(expected, data, path)
        if get_origin(expected) is Literal:
            return _choice(get_args(expected), data, path)
        if get_origin(expected) in {Union, types.UnionType}:
            return self._union(expected, data, path)
        if expected in self.kinds:
            return self._kind(expected, data, path)
        if dataclasses.is_dataclass(expected):
            return self._fields(typing.cast("type", expected), data, path)
        return _SCALARS[expected](data, path)

    def _union(self, expected: Any, data: object, path: str) -> Any:
        problems = []
        for one in get_args(expected):
            try:
                return self.read(one, data, path)
            except Unreadable as error:
                problems.append(error.why)
        raise Unreadable(path, "; ".join(dict.fromkeys(problems)))

    def _tuple(self, expected: Any, data: object, path: str) -> tuple[Any, ...]:
        if not isinstance(data, list):
            raise Unreadable(path, f"{shown(data)} is no list")
        arguments = get_args(expected)
        if arguments[-1] is not Ellipsis and len(arguments) != len(data):
            raise Unreadable(path, f"it has {len(data)} entries; give {len(arguments)}")
        return tuple(self.read(_entry_type(expected, index), one, f"{path}[{index}]") for index, one in enumerate(data))

    def _kind(self, expected: type, data: object, path: str) -> Any:
        classes = self.kinds[expected]
        word, fields = (data, {}) if isinstance(data, str) else only_entry(data, path)
        if word not in classes:
            raise Unreadable(path, f"there is no {shown(word)}; {closest(str(word), classes)}")
        return self.read(classes[word], fields, joined(path, word))

    def _fields(self, expected: type, data: object, path: str) -> Any:
        if not isinstance(data, Mapping):
            raise Unreadable(path, f"{shown(data)} is no object")
        hints, names = get_type_hints(expected), settable(expected)
        unknown = next((key for key in data if key not in names), None)
        if unknown is not None:
            raise Unreadable(path, f"there is no field {shown(unknown)}; {closest(str(unknown), names)}")
        given = {name: self.read(hints[name], data[name], joined(path, name)) for name in names if name in data}
        missing = next((name for name in required(expected) if name not in data), None)
        if missing is not None:
            raise Unreadable(joined(path, missing), "it is missing")
        return expected(**given)


def settable(kind: type) -> list[str]:
    """The names of a dataclass's fields that its constructor takes."""
    return [own.name for own in dataclasses.fields(kind) if own.init]


def required(kind: type) -> list[str]:
    """Those without a default."""
    missing = dataclasses.MISSING
    fields = (own for own in dataclasses.fields(kind) if own.init)
    return [own.name for own in fields if own.default is missing and own.default_factory is missing]


def default_of(kind: Any, name: str) -> Any:
    """The default of a dataclass's field; None if it has none."""
    missing = dataclasses.MISSING
    own = next(own for own in dataclasses.fields(kind) if own.name == name)
    if own.default_factory is not missing:
        return own.default_factory()
    return None if own.default is missing else own.default


def optional(expected: Any) -> Any:
    """X of a type `X | None`; None for any other type."""
    if get_origin(expected) not in {Union, types.UnionType} or type(None) not in get_args(expected):
        return None
    rest = tuple(one for one in get_args(expected) if one is not type(None))
    return Union[rest] if len(rest) > 1 else rest[0]  # noqa: UP007 - made of a tuple


def closest(word: str, words: typing.Iterable[str]) -> str:
    """A phrase that names the words most like a given one, or all of a few."""
    known = list(words)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"close names: {', '.join(close)}"
    return f"there are {', '.join(known)}" if known else "it has none"


def joined(path: str, name: str) -> str:
    """A path one name longer."""
    return f"{path}.{name}" if path else name


def shown(value: object) -> str:
    """A value for a message: foreign text is cut."""
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def only_entry(data: object, path: str) -> tuple[Any, Any]:
    """The key and the value of an object that has one.

    Raises:
        Unreadable: It has another number of them, or is none.
    """
    if not isinstance(data, Mapping) or len(data) != 1:
        raise Unreadable(path, "give a name, or an object whose one key is the name and whose value holds its fields")
    ((word, fields),) = data.items()
    return word, fields


def _entry_type(expected: Any, index: int) -> Any:
    arguments = get_args(expected)
    return arguments[0] if arguments[-1] is Ellipsis else arguments[index]


def _choice(words: tuple[Any, ...], data: object, path: str) -> Any:
    if data not in words or isinstance(data, bool):
        raise Unreadable(path, f"{shown(data)} is none of {', '.join(map(str, words))}")
    return data


def _truth(data: object, path: str) -> bool:
    if not isinstance(data, bool):
        raise Unreadable(path, f"{shown(data)} is neither true nor false")
    return data


def _text(data: object, path: str) -> str:
    if not isinstance(data, str):
        raise Unreadable(path, f"{shown(data)} is no text")
    return data


def _integer(data: object, path: str) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise Unreadable(path, f"{shown(data)} is no whole number")
    if not -(2**63) <= data < 2**63:
        raise Unreadable(path, "it does not fit in 64 bits")
    return data


def _number(data: object, path: str) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise Unreadable(path, f"{shown(data)} is no number")
    try:
        number = float(data)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unreadable(path, "it is no finite number")
    return number


_SCALARS: Mapping[Any, Any] = {bool: _truth, str: _text, int: _integer, float: _number}


def _write_numbers(numbers: Numbers) -> object:
    array = numbers.array
    if array.size <= _LONGEST_LIST and array.size and np.isfinite(array).all():
        return array.tolist()
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode("ascii")}


def _read_numbers(data: object, path: str) -> Numbers:
    if isinstance(data, Mapping):
        return _packed_numbers(data, path)
    shape, flat = _flattened(data, path, 0)
    return Numbers(np.array(flat, np.float64).reshape(shape))


def _flattened(data: object, path: str, depth: int) -> tuple[tuple[int, ...], list[float]]:
    """The shape and the numbers of nested lists that are all equally long on each level."""
    if not isinstance(data, list):
        return (), [_number(data, path)]
    if depth == _MOST_AXES:
        raise Unreadable(path, f"it has more than {_MOST_AXES} axes")
    parts = [_flattened(entry, f"{path}[{index}]", depth + 1) for index, entry in enumerate(data)]
    if len({shape for shape, _ in parts}) != 1:
        raise Unreadable(path, "its lists are empty, or not all of one shape")
    return (len(parts), *parts[0][0]), [number for _, numbers in parts for number in numbers]


def _packed_numbers(data: Mapping[Any, object], path: str) -> Numbers:
    if set(data) != _NUMBERS_KEYS:
        raise Unreadable(path, "give a number, a nested list of numbers, or an object with 'shape' and 'float32'")
    shape = Codec({}).read(tuple[int, ...], data["shape"], f"{path}.shape")
    if len(shape) > _MOST_AXES or any(size < 0 for size in shape):
        raise Unreadable(f"{path}.shape", f"give at most {_MOST_AXES} extents, none of them negative")
    try:
        content = base64.b64decode(_text(data["float32"], f"{path}.float32"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise Unreadable(f"{path}.float32", "it is not base64") from error
    if len(content) != 4 * math.prod(shape):
        raise Unreadable(f"{path}.float32", f"it holds {len(content)} bytes; the shape needs {4 * math.prod(shape)}")
    return Numbers(np.frombuffer(content, "<f4").reshape(shape))
