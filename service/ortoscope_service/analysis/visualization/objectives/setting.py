"""What objectives are computed on: the picture, the taps of a model, its classes, and a batch of items."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.classes import Classes
from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.taps import Layout, Tap, resolve_tap

Array = npt.NDArray[Any]


class Picture(enum.Enum):
    """A part of what the parameterization gives, before transforms and before the model's input range."""

    IMAGE = "image"
    """The colours, (batch, colour, row, column) in [0, 1]; for models of vectors (batch, feature)."""

    ALPHA = "alpha"
    """The opacity, (batch, 1, row, column) in [0, 1]."""


Source = str | Picture
"""What an objective reads: a tap by its name, or the picture."""

_LAYOUTS = {1: (Layout.VECTOR, 1), 2: (Layout.TOKENS, 2), 3: (Layout.CHANNELS_FIRST, 1)}


@dataclass(frozen=True)
class Setting:
    """Everything that must be known of the model and the batch to check an objective, to build and to feed it."""

    taps: Sequence[Tap]
    """The model's taps."""

    image: tuple[int, ...]
    """Shape of one picture without its opacity: (colours, rows, columns), (tokens, features) or (features,)."""

    batch: int = 1
    """How many items are optimised side by side."""

    classes: Classes | None = None
    """The model's classes; None if it is no classifier."""

    alpha: bool = False
    """Whether the parameterization gives an opacity, too."""

    shapes: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    """By tensor, the shape of one item of a tap at this size of the model's input, for taps whose own `shape` leaves
    extents free."""

    data_type: str = "float32"
    """NumPy name of the type in which objectives are computed; "float64" for checks against finite differences."""

    def tap(self, source: Source, field: str) -> Tap:
        """The description of what an objective reads, with its extents as far as they are known.

        Args:
            source: A tap by its tensor name, display name or alias, or the picture, which is described as a tap.
            field: The field that holds the name, for the error.

        Raises:
            OrtoscopeError: `UNKNOWN_TAP` (NOT_FOUND); `NO_ALPHA`: the picture has no opacity.
        """
        if isinstance(source, Picture):
            return self._picture(source, field)
        tap = resolve_tap(self.taps, source, field=field)
        shape = self.shapes.get(tap.tensor)
        if shape is None:
            return tap
        whole = (tap.shape[0], *shape)
        return dataclasses.replace(tap, shape=whole, unit_count=max(0, whole[tap.unit_axis]))

    def item_shape(self, tap: Tap, field: str) -> tuple[int, ...]:
        """The shape of one item of a tap from `tap`.

        Args:
            tap: The tap.
            field: The field that holds its name, for the error.

        Raises:
            OrtoscopeError: `EMPTY_TAP`: it has no element; `TAP_SHAPE_UNKNOWN` (FAILED_PRECONDITION).
        """
        shape = tap.shape[1:]
        if 0 in shape:
            raise invalid(
                "EMPTY_TAP",
                f"Tap '{tap.display_name}' has no element at this size: its shape is {list(shape)}. Make the picture "
                "larger, or choose an earlier tap.",
                field=field,
                tap=tap.display_name,
                shape=list(shape),
            )
        if any(size < 0 for size in shape):
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "TAP_SHAPE_UNKNOWN",
                f"The shape of tap '{tap.display_name}' is not known before the model runs ({list(shape)}, -1 is "
                "free), so no place in it can be named; choose another tap.",
                field=field,
                metadata={"tap": tap.display_name, "shape": str(list(shape))},
            )
        return shape

    def repeated(self, array: npt.ArrayLike) -> Array:
        """One item's data as the same data for every item, in the type of the computation; integers stay int64."""
        one = np.asarray(array)
        data_type = np.dtype(np.int64) if one.dtype.kind in "iu" else np.dtype(self.data_type)
        return np.repeat(one[None].astype(data_type), self.batch, axis=0)

    def _picture(self, part: Picture, field: str) -> Tap:
        shape = self.image
        if part is Picture.ALPHA:
            if not self.alpha:
                raise invalid(
                    "NO_ALPHA",
                    "The picture has no opacity that an objective could read; choose a parameterization with alpha, "
                    "or leave the term out.",
                    field=field,
                )
            shape = (1, *self.image[1:])
        layout, unit_axis = _LAYOUTS[len(shape)]
        return Tap(
            tensor=part.value,
            display_name=part.value,
            aliases=(),
            operator="",
            node="",
            data_type=self.data_type,
            shape=(-1, *shape),
            layout=layout,
            unit_axis=unit_axis,
            site_axes=tuple(axis for axis in range(1, len(shape) + 1) if axis != unit_axis),
            unit_count=shape[unit_axis - 1],
            pre_activation="",
            post_activation="",
            upper_limit=1.0,
        )


@dataclass(frozen=True)
class Canvas:
    """Where an objective writes its nodes."""

    g: GraphWriter
    """The graph."""

    setting: Setting
    """What the graph's values are; the batch size is free in the nodes."""

    values: Mapping[Source, ir.Value]
    """The values that `sources` asks for: taps by tensor name, and parts of the picture."""

    def read(self, source: Source, name: str) -> tuple[ir.Value, Tap]:
        """The value of what an objective reads, in the type of the computation, and its description."""
        tap = self.setting.tap(source, name)
        value = self.values[source if isinstance(source, Picture) else tap.tensor]
        if tap.data_type != self.setting.data_type:
            value = self.g.op("Cast", [value], to=ir.DataType.from_numpy(np.dtype(self.setting.data_type)))
        return value, tap

    def feed(self, name: str, *shape: int | str, integers: bool = False) -> ir.Value:
        """An input of the graph that holds one thing of this shape for every item."""
        return self.g.input(name, (BATCH, *shape), np.int64 if integers else np.dtype(self.setting.data_type))

    def constant(self, array: npt.ArrayLike) -> ir.Value:
        """A constant in the type of the computation."""
        return self.g.constant(np.asarray(array, np.dtype(self.setting.data_type)))

    def flat(self, value: ir.Value) -> ir.Value:
        """All elements of an item in one row, (batch, elements)."""
        return self.g.op("Flatten", [value], axis=1)

    def total(self, value: ir.Value) -> ir.Value:
        """The sum over all elements of each item, (batch,)."""
        return self.g.total(self.flat(value), [1])

    def mean(self, value: ir.Value) -> ir.Value:
        """The mean over all elements of each item, (batch,)."""
        return self.g.mean(self.flat(value), [1])

    def site_means(self, value: ir.Value, tap: Tap) -> ir.Value:
        """The mean of each unit over all sites, (batch, unit)."""
        return self.g.mean(value, tap.site_axes) if tap.site_axes else value

    def picked(self, rows: ir.Value, index: ir.Value) -> ir.Value:
        """One element of each item's row, (batch,): from (batch, elements) at the index (batch, 1).

        Elements that are not picked leave no trace, whatever they are, and the index may differ between items.
        """
        return self.g.squeeze(self.g.op("GatherElements", [rows, index], axis=1), [1])

    def norm(self, value: ir.Value, axis: int) -> ir.Value:
        """The Euclidean norm along an axis, which goes; its gradient at 0 is 0, not NaN."""
        return self.g.op("ReduceL2", [value, self.g.constant([axis])], keepdims=0)
