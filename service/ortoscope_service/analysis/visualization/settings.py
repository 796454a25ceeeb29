"""Presets by name with settings changed: dotted names over the fields of a preset, values in JSON.

`recipe.steps` is a number, `chain.steps` a list of transforms such as `[{"pad": {"pixels": 12}}, {"flip": {}}]`. Where
one of several kinds can stand, the name itself sets the kind, `"pixel"` or `{"pixel": {"squash": "clip"}}`, and longer
names the fields of the kind that is in force: `parameterization.squash`, `recipe.optimizer.learning_rate`. What may be
absent is `null`, or is made of its defaults when one of its fields is set: `chain.noise.normal`.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from ortoscope_service.analysis.visualization.movements import CropBoxes, Flip, Jitter, Pad, Rotate, Scale, Step, Tiles
from ortoscope_service.analysis.visualization.octaves import octave_sizes
from ortoscope_service.analysis.visualization.optimizers import Adam, Lbfgs, Nadam, Optimizer, Sgd
from ortoscope_service.analysis.visualization.parameterizations.choices import CHOICES, Choice, Cppn, Lowres
from ortoscope_service.analysis.visualization.plain_data import (
    Codec,
    Unreadable,
    closest,
    default_of,
    joined,
    only_entry,
    optional,
    settable,
    shown,
)
from ortoscope_service.analysis.visualization.presets import PRESETS, Preset, find_preset
from ortoscope_service.errors import OrtoscopeError, invalid

LARGEST_SIDE = 2048
"""Pixels of the longer side of a picture."""

FOR_PICTURES = "lucid"
"""The preset of pictures where none is named."""

FOR_VECTORS = "vector"
"""The preset where none is named and what the model takes is no picture."""

_CODEC = Codec(
    {
        Step: {
            "pad": Pad,
            "jitter": Jitter,
            "scale": Scale,
            "rotate": Rotate,
            "flip": Flip,
            "crop_boxes": CropBoxes,
            "tiles": Tiles,
        },
        Optimizer: {"adam": Adam, "nadam": Nadam, "sgd": Sgd, "lbfgs": Lbfgs},
        Choice: {choice.kind: choice for choice in CHOICES},
    }
)

_MOST: tuple[tuple[type, str, int], ...] = (
    (Cppn, "hidden", 256),
    (Cppn, "layers", 64),
    (Lowres, "sets", 64),
    (Lbfgs, "history", 100),
)
"""The greatest values of what would take memory without limit."""

_TOLD = ("name", "summary", "source")
"""Fields that are no settings."""

_SIZES = ("size", "view")
"""Fields that may be one number, for a square."""

_NAMES = [name for name in settable(Preset) if name not in _TOLD]

_HINTS = get_type_hints(Preset)


def resolve_preset(name: str, settings: Mapping[str, str], *, pictures: bool = True, field: str = "recipe") -> Preset:
    """A preset with some settings changed.

    Args:
        name: Its name; `lucid` if empty, or `vector` for what is no picture.
        settings: By dotted name, values in JSON.
        pictures: Whether the model takes pictures, for the default.
        field: The path of the field that holds both, for errors.

    Raises:
        OrtoscopeError: `UNKNOWN_PRESET` (NOT_FOUND), `UNKNOWN_SETTING`, `INVALID_SETTING`; as the parts of a preset
            raise: `INVALID_RECIPE`, `INVALID_OPTIMIZER`, `INVALID_SCHEDULE`, `INVALID_BOUND`; as `check_preset` raises.
    """
    preset = find_preset(name or (FOR_PICTURES if pictures else FOR_VECTORS), field=f"{field}.preset")
    data = _write(preset)
    for setting in sorted(settings, key=lambda dotted: (dotted.count("."), dotted)):
        value = _parsed(settings[setting], f"{field}.settings.{setting}")
        if setting in _SIZES:
            value = _as_size(value)
        data = _assigned(data, setting, value, field)
    changed = _read(data, preset, f"{field}.settings")
    check_preset(changed, field=f"{field}.settings")
    return changed


def preset_settings(preset: Preset) -> dict[str, str]:
    """Every setting of a preset with its value in JSON; `resolve_preset` with all of them gives an equal preset."""
    found = {}
    for name in _NAMES:
        value = getattr(preset, name)
        if name in _SIZES and value is not None and value[0] == value[1]:
            found[name] = str(value[0])
        else:
            found.update(_flattened(_HINTS[name], value, name))
    return {name: found[name] for name in sorted(found)}


def preset_to_data(preset: Preset) -> dict[str, Any]:
    """A preset as JSON data, every field but what its name tells: `summary` and `source`."""
    return {"name": preset.name, **_write(preset)}


def preset_from_data(data: object, *, field: str = "preset") -> Preset:
    """The preset that `preset_to_data` was given.

    Raises:
        OrtoscopeError: As `resolve_preset` raises.
    """
    if not isinstance(data, Mapping):
        raise _refused(field, "it is no object")
    name = data.get("name")
    if not isinstance(name, str):
        raise _refused(f"{field}.name", "it is no text")
    missing = next((setting for setting in _NAMES if setting not in data), None)
    if missing is not None:
        raise _refused(f"{field}.{missing}", "it is missing")
    known = PRESETS.get(name, dataclasses.replace(PRESETS[FOR_PICTURES], name=name, summary="", source=""))
    preset = _read({setting: value for setting, value in data.items() if setting != "name"}, known, field)
    check_preset(preset, field=field)
    return preset


def check_preset(preset: Preset, *, field: str) -> None:
    """Refuses numbers beyond the limits, whatever the model.

    Raises:
        OrtoscopeError: `SIZE_OUT_OF_RANGE`; `INVALID_SETTING`; `INVALID_OCTAVES`; for pictures of a size of their own
            `INVALID_TRANSFORM`.
    """
    for name, size in (("size", preset.size), ("view", preset.view)):
        if size is not None and not 1 <= min(size) <= max(size) <= LARGEST_SIDE:
            raise invalid(
                "SIZE_OUT_OF_RANGE",
                f"The setting '{name}' is {size[0]} x {size[1]}; give 1 to {LARGEST_SIDE} pixels a side.",
                field=f"{field}.{name}",
                height=size[0],
                width=size[1],
                largest=LARGEST_SIDE,
            )
    for name, weight in (("cosine_power", preset.cosine_power), ("total_variation", preset.total_variation)):
        if weight < 0:
            raise _refused(f"{field}.{name}", f"{weight:g} is negative")
    for kind, name, most in _MOST:
        for at, part in (("parameterization", preset.parameterization), ("recipe.optimizer", preset.recipe.optimizer)):
            number = getattr(part, name) if isinstance(part, kind) else None
            if number is not None and number > most:
                raise _refused(f"{field}.{at}.{name}", f"{number} is more than {most}")
    with _at(field):
        octave_sizes(preset.size, preset.octaves, preset.octave_scale)
        if preset.parameterization.has_size:
            preset.chain.check(preset.size, field="chain")


def _write(preset: Preset) -> dict[str, Any]:
    return {name: _CODEC.write(_HINTS[name], getattr(preset, name)) for name in _NAMES}


def _read(data: Mapping[str, Any], base: Preset, field: str) -> Preset:
    unknown = next((name for name in data if name not in _NAMES), None)
    if unknown is not None:
        raise _unknown(str(unknown), _NAMES, field)
    try:
        with _at(field):
            values = {name: _CODEC.read(_HINTS[name], value, name) for name, value in data.items()}
            return dataclasses.replace(base, **values)
    except Unreadable as error:
        raise _refused(joined(field, error.path), error.why) from error


class _at:  # noqa: N801 - used like a function
    """Errors of the body name the field within this one."""

    def __init__(self, field: str) -> None:
        self._field = field

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OrtoscopeError):
            inner = error.field.removeprefix("transforms.").removeprefix("parameterization.")
            inner = f"recipe.{inner}" if inner.startswith("optimizer") else inner
            error.field = joined(self._field, inner) if inner else self._field


def _parsed(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(field, "the value is no JSON; write words in double quotes") from error


def _as_size(value: Any) -> Any:
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


def _assigned(data: dict[str, Any], setting: str, value: Any, field: str) -> dict[str, Any]:
    """The data of a preset with one setting changed."""
    first, *rest = setting.split(".")
    if first not in _NAMES:
        raise _unknown(setting, _all_names(data), f"{field}.settings")
    try:
        changed = _changed(_HINTS[first], data[first], rest, value)
        if changed is _NOWHERE:
            raise _unknown(setting, _all_names(data), f"{field}.settings")
        # Refused here, it names the setting as it was given; whether all fit together is seen when all are there.
        with contextlib.suppress(OrtoscopeError):
            _CODEC.read(_HINTS[first], changed, first)
    except Unreadable as error:
        raise _refused(f"{field}.settings.{setting}", error.why, path=error.path) from error
    return {**data, first: changed}


_NOWHERE = object()
"""There is no such setting."""


def _changed(expected: Any, data: Any, names: list[str], value: Any) -> Any:
    """Data of a type with what the names lead to replaced; `_NOWHERE` if they lead nowhere."""
    inner = optional(expected)
    if inner is not None:
        if not names:
            return value
        return _changed(inner, data if data is not None else {}, names, value)
    if expected in _CODEC.kinds:
        word, fields = only_entry({data: {}} if isinstance(data, str) else data, "")
        if not names:
            return data if value == word else value
        if word not in _CODEC.kinds[expected]:
            return _NOWHERE
        changed = _changed(_CODEC.kinds[expected][word], fields, names, value)
        return _NOWHERE if changed is _NOWHERE else {word: changed}
    if not names:
        return value
    if not dataclasses.is_dataclass(expected) or names[0] not in settable(expected):  # type: ignore[arg-type] # a dataclass
        return _NOWHERE
    if not isinstance(data, Mapping):
        raise Unreadable("", f"{shown(data)} is no object")
    hints = get_type_hints(expected)
    own = data[names[0]] if names[0] in data else _CODEC.write(hints[names[0]], default_of(expected, names[0]))
    changed = _changed(hints[names[0]], own, names[1:], value)
    return _NOWHERE if changed is _NOWHERE else {**data, names[0]: changed}


def _flattened(expected: Any, value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The settings below one, with their values."""
    inner = optional(expected)
    if inner is not None and value is not None:
        yield from _flattened(inner, value, name)
        return
    if expected in _CODEC.kinds:
        yield name, json.dumps(_CODEC.word(value))
        expected = type(value)
    if value is not None and dataclasses.is_dataclass(expected):
        hints = get_type_hints(expected)
        for own in settable(expected):  # type: ignore[arg-type] # a dataclass
            yield from _flattened(hints[own], getattr(value, own), f"{name}.{own}")
        return
    yield name, json.dumps(_CODEC.write(expected, value), allow_nan=False)


def _all_names(data: Mapping[str, Any]) -> list[str]:
    preset = _read(data, PRESETS[FOR_PICTURES], "settings")
    return list(preset_settings(preset))


def _unknown(setting: str, names: list[str], field: str) -> OrtoscopeError:
    hint = closest(setting, names)
    return invalid(
        "UNKNOWN_SETTING",
        f"There is no setting '{setting[:80]}'; {hint}.",
        field=f"{field}.{setting[:80]}",
        setting=setting[:80],
        hint=hint,
    )


def _refused(field: str, why: str, *, path: str = "") -> OrtoscopeError:
    name = field.partition("settings.")[2] or field
    place = f"'{path}' in the setting" if path and path != name else "The setting"
    return invalid("INVALID_SETTING", f"{place} '{name}' cannot be read: {why}.", field=field, problem=why)
