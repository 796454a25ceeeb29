"""The manifest of a model version: what `prepare` found out about an ONNX file, kept beside it as TOML."""

import dataclasses
import datetime
import enum
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tomlkit

from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.taps import Tap

FORMAT = 1
"""Version of the file format; a manifest of another one is refused."""

PixelLayout = Literal["nchw", "nhwc"]
ColorOrder = Literal["rgb", "bgr", "gray"]
SizePolicy = Literal["squash", "crop"]
InputKind = Literal["image", "tensor"]
Channels = tuple[float, float, float]
"""One number for each of red, green and blue, on pixels 0..255."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of a model: resized, colours in order, then (pixel - mean) / std.

    Raises:
        OrtoscopeError: `INVALID_MEAN` or `INVALID_STD` if a number is not finite, a std is not above 0, or the three
            differ although the input is gray; `INVALID_SIZE` if the size is not positive, or a crop would be larger
            than the picture it is cut from.
    """

    layout: PixelLayout
    """Axes of the input: "nchw" or "nhwc"."""

    color_order: ColorOrder
    """Order of the colours; "gray" is one channel, luma as of ITU-R BT.601."""

    mean: Channels
    """Subtracted, red, green and blue (whatever the colour order), on pixels 0..255. Equal for gray."""

    std: Channels
    """Divides, likewise."""

    size_policy: SizePolicy
    """How a picture of another size is made to fit: "squash" resizes both sides at once, "crop" takes the centre."""

    height: int
    """Pixels."""

    width: int
    """Pixels."""

    resize_short_side: int
    """For "crop": the length that the shorter side of a square input's picture gets before the centre is taken."""

    verification: str
    """Where these values come from and how they were verified, in words."""

    def __post_init__(self) -> None:
        for name, values, valid in (
            ("mean", self.mean, all(math.isfinite(value) for value in self.mean)),
            ("std", self.std, all(math.isfinite(value) and value > 0 for value in self.std)),
        ):
            if not valid:
                raise invalid(
                    f"INVALID_{name.upper()}",
                    f"The {name} {_numbers(values)} is of no use: {_RULES[name]}.",
                    **{name: _numbers(values)},
                )
            if self.color_order == "gray" and len(set(values)) > 1:
                raise invalid(
                    f"INVALID_{name.upper()}",
                    f"The {name} {_numbers(values)} has different numbers for three colours, but the input is gray; "
                    "give one number.",
                    **{name: _numbers(values)},
                )
        if min(self.height, self.width) < 1:
            raise invalid("INVALID_SIZE", f"An input of {self.height} x {self.width} pixels holds no picture.")
        if self.size_policy == "crop" and self.resize_short_side < min(self.height, self.width):
            raise invalid(
                "INVALID_SIZE",
                f"The short side cannot be resized to {self.resize_short_side} pixels when "
                f"{self.height} x {self.width} are cut out of it; give at least {min(self.height, self.width)}.",
            )

    def describe(self) -> str:
        """One line for people: "RGB 224 x 224 (squash), (pixel - 127) / 128, channels first"."""
        axes = "channels first" if self.layout == "nchw" else "channels last"
        policy = "squash" if self.size_policy == "squash" else f"short side {self.resize_short_side}, centre crop"
        return (
            f"{self.color_order.upper()} {self.height} x {self.width} ({policy}), "
            f"(pixel - {_numbers(self.mean)}) / {_numbers(self.std)}, {axes}"
        )


_RULES = {"mean": "give finite numbers", "std": "give finite numbers above 0"}


def _numbers(values: Channels) -> str:
    shown = [f"{value:g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"


@dataclass(frozen=True)
class InputSpec:
    """An input of the model."""

    name: str
    """Name in the ONNX file."""

    kind: InputKind
    """Whether pictures can be given for it, or only the tensor itself."""

    data_type: str
    """NumPy name of the element type; "object" for strings."""

    shape: tuple[int, ...]
    """Extent of every axis; -1 where it is free."""

    preprocessing: Preprocessing | None
    """How a picture becomes this input; None unless `kind` is "image"."""


@dataclass(frozen=True)
class OutputSpec:
    """An output of the model."""

    name: str
    """Name in the ONNX file."""

    data_type: str
    """NumPy name of the element type; "object" for strings."""

    shape: tuple[int, ...]
    """Extent of every axis; -1 where it is free."""


@dataclass(frozen=True)
class GradientCheck:
    """How a backward graph compared with finite differences of the model."""

    outcome: Literal["passed", "inconclusive"]
    """Whether it agreed, or could not be told because no step was found at which the differences settle."""

    precision: Literal["float64", "float32"]
    """In what the model was computed for the differences."""

    along_gradient: float | None
    """Error along the graph's own gradient with a random half of its elements set to zero, root mean square over
    directions, relative to the derivative. None where the differences did not settle."""

    along_random: float | None
    """The same along normally distributed directions."""

    activation: float
    """Largest difference from the tap's value, relative to the largest value."""

    batch: float | None
    """How far gradients of items run apart are from those of the items run together, relative, root mean square. None
    for a model with a fixed batch."""


@dataclass(frozen=True)
class BackwardGraph:
    """A backward graph that is part of the model version."""

    tap: str
    """The tensor that it differentiates."""

    digest: str
    """"sha256:" and the hexadecimal digest of its ONNX file."""

    size_bytes: int
    """Size of its ONNX file."""

    relaxations: tuple[str, ...]
    """Names of the departures from the true gradient; none so far, since the check could not hold them to anything."""

    origin: Literal["built", "given"]
    """Whether it was built from the model, or exported by its user."""

    check: GradientCheck
    """How it compared with finite differences."""


@dataclass(frozen=True)
class Manifest:
    """Everything that is known of a model version without opening its ONNX file."""

    digest: str
    """"sha256:" and the hexadecimal digest of the ONNX file."""

    create_time: datetime.datetime
    """When the version was prepared, in UTC, whole seconds."""

    size_bytes: int
    """Size of the ONNX file."""

    opset: int
    """Version of the default operator set."""

    inputs: tuple[InputSpec, ...]
    """The inputs, in the model's order."""

    outputs: tuple[OutputSpec, ...]
    """The outputs, in the model's order."""

    fixed_batch: int
    """The batch size that the model is run at; 0 if any can be run."""

    taps: tuple[Tap, ...]
    """The taps, in the order in which the model computes them."""

    class_labels: tuple[str, ...]
    """Name of every class by its index; empty if not known."""

    notes: tuple[str, ...]
    """What `prepare` noticed that a user should know."""

    backward: tuple[BackwardGraph, ...] = ()
    """The backward graphs that are kept beside the model, at most one for a tap."""


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes a manifest as TOML (UTF-8)."""
    path.write_bytes(dump_manifest(manifest))


def dump_manifest(manifest: Manifest) -> bytes:
    """The TOML text of a manifest, UTF-8. The same manifest always gives the same bytes."""
    document = tomlkit.document()
    document.add(tomlkit.comment("Written by `ortoscope-server prepare`. A version is never changed: prepare another."))
    for name, value in {"format": FORMAT, **_plain(manifest)}.items():
        document.add(name, tomlkit.item(value))
    return tomlkit.dumps(document).encode()


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        OrtoscopeError: `MANIFEST_UNREADABLE` (DATA_LOSS) if the file is missing or not what `write_manifest` writes;
            `MANIFEST_FORMAT` (FAILED_PRECONDITION) if a newer version of this program wrote it.
    """
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _unreadable("it is not there or no TOML") from error
    written = document.pop("format", None)
    if written is None:
        raise _unreadable("it does not state its format")
    if written != FORMAT:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "MANIFEST_FORMAT",
            f"The manifest is of format {written}; this version reads format {FORMAT}. Prepare the model again.",
            metadata={"format": str(written)},
        )
    try:
        manifest = _typed(Manifest, document, "manifest")
    except OrtoscopeError as error:
        if error.reason == "MANIFEST_UNREADABLE":
            raise
        raise _unreadable(error.message) from error
    assert isinstance(manifest, Manifest)
    return manifest


def _plain(value: object) -> typing.Any:
    """Dataclasses as tables, tuples as arrays, enumerations as their values; None is left out."""
    if dataclasses.is_dataclass(value):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: _plain(item) for name, item in fields if item is not None}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return value


def _typed(expected: typing.Any, value: object, where: str) -> object:
    """The inverse of `_plain`: the value as `expected`, a type hint; refuses whatever does not fit."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is types.UnionType and value is not None:
        (expected,) = (option for option in arguments if option is not types.NoneType)
        return _typed(expected, value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        hints = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        if len(hints) == len(value):
            pairs = zip(hints, value, strict=True)
            return tuple(_typed(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(pairs))
    if dataclasses.is_dataclass(expected) and isinstance(value, dict):
        return _dataclass(typing.cast("type", expected), value, where)
    if isinstance(expected, type):
        if issubclass(expected, enum.Enum) and any(value == member.value for member in expected):
            return expected(value)
        if expected is float and type(value) in {int, float}:
            return float(typing.cast("float", value))
        if type(value) is expected:
            return value
    raise _unreadable(f"'{where}' does not have the type that it must have")


def _dataclass(expected: type, table: Mapping[str, object], where: str) -> object:
    hints = typing.get_type_hints(expected)
    defaults = {field.name for field in dataclasses.fields(expected) if field.default is not dataclasses.MISSING}
    unknown = sorted(table.keys() - hints.keys())
    if unknown:
        raise _unreadable(f"'{where}' has an unknown field '{unknown[0]}'")
    values = {}
    for name, hint in hints.items():
        if name in table:
            values[name] = _typed(hint, table[name], f"{where}.{name}")
        elif types.NoneType in typing.get_args(hint):
            values[name] = None
        elif name not in defaults:
            raise _unreadable(f"'{where}' lacks the field '{name}'")
    return expected(**values)


def _unreadable(what: str) -> OrtoscopeError:
    return OrtoscopeError(
        Code.DATA_LOSS,
        "MANIFEST_UNREADABLE",
        f"The manifest of a model version cannot be read: {what}. Remove the version and prepare the model again.",
        metadata={"detail": what},
    )
