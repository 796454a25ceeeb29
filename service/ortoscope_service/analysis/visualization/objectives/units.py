"""Objectives of single units: neurons, channels, classes, and a whole layer at once."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.activations import checked_site
from ortoscope_service.analysis.classes import Classes
from ortoscope_service.analysis.gradients import check_unit, site_shape
from ortoscope_service.analysis.visualization.objectives.algebra import Objective
from ortoscope_service.analysis.visualization.objectives.reading import Reading, require_batch, resolved, source_key
from ortoscope_service.analysis.visualization.objectives.setting import Array, Canvas, Setting, Source
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.taps import Tap


def chosen_site(site: tuple[int, ...] | None, shape: Sequence[int], tap: Tap) -> tuple[int, ...]:
    """A site with indices from the start: the one that is given, or the centre of the map.

    The centre is extent // 2 along each axis, which is the element at bottom right of the middle ones where the extent
    is even: Lucid's choice, but taken from the axis that is meant, so that it holds for maps that are not square.
    """
    extents = site_shape(shape, tap)
    if site is None:
        return tuple(extent // 2 for extent in extents)
    return tuple(index % extent for index, extent in zip(site, extents, strict=True))


def flat_indices(site: tuple[int, ...], units: Sequence[int], shape: Sequence[int], tap: Tap) -> Array:
    """Where units of one site lie among all elements of an item, in the tap's own layout."""
    sites = iter(site)
    index = [np.asarray(units if axis == tap.unit_axis else next(sites), np.int64) for axis in range(1, len(shape) + 1)]
    return np.asarray(np.ravel_multi_index(tuple(np.broadcast_arrays(*index)), tuple(shape)), np.int64)


@dataclass(frozen=True)
class Neuron(Reading):
    """a[unit, site]: the activation of a unit at one site (Lucid's `neuron`, whose x is the row)."""

    kind = "neuron"

    unit: int
    """The unit, from 0."""

    site: tuple[int, ...] | None = None
    """The index along each site axis, (row, column) of a map, negative from the end; None is the centre."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses a unit or site that there is not: `INVALID_UNIT`, `INVALID_SITE`."""
        check_unit(self.unit, shape, tap, field=f"{at}.unit")
        if self.site is not None:
            checked_site(self.site, site_shape(shape, tap), tap, at)

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Picks one element."""
        value, _ = canvas.read(self.of, name)
        return canvas.picked(canvas.flat(value), canvas.feed(f"{name}.{self.kind}.index", 1, integers=True))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """Where it lies."""
        tap, shape = self.shape(setting, name)
        index = flat_indices(chosen_site(self.site, shape, tap), [self.unit], shape, tap)
        return {f"{name}.{self.kind}.index": setting.repeated(index)}


@dataclass(frozen=True)
class Channel(Reading):
    """The mean over sites s of a[unit, s] (Lucid's `channel`, whose value is the mean over the batch of ours).

    Of `Picture.ALPHA`, unit 0 is the mean opacity.
    """

    kind = "channel"

    unit: int
    """The unit, from 0."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses a unit that there is not: `INVALID_UNIT`."""
        check_unit(self.unit, shape, tap, field=f"{at}.unit")

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Averages over sites, and picks one of the means."""
        value, tap = canvas.read(self.of, name)
        index = canvas.feed(f"{name}.{self.kind}.unit", 1, integers=True)
        return canvas.picked(canvas.site_means(value, tap), index)

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The unit."""
        return {f"{name}.{self.kind}.unit": setting.repeated([self.unit])}


@dataclass(frozen=True)
class Layer(Reading):
    """The mean of a² over all units and sites: whatever is there already, more of it (DeepDream, Mordvintsev 2015)."""

    kind = "layer"

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:
        """Fits every tap."""

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Averages the squares."""
        value, _ = canvas.read(self.of, name)
        return canvas.mean(canvas.g.multiply(value, value))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:  # noqa: ARG002
        """Nothing."""
        return {}


@dataclass(frozen=True)
class ChannelInterpolation(Reading):
    """(1 - w) · mean a[unit] + w · mean b[to_unit], w = i / (batch - 1) for item i: from one channel to another.

    The sum over the batch is Lucid's `channel_interpolate`.
    """

    kind = "channel_interpolation"

    unit: int
    """The unit that the first item shows alone."""

    to: Source
    """Where the other unit is."""

    to_unit: int
    """The unit that the last item shows alone."""

    @property
    def structure(self) -> Hashable:
        """The two things that are read."""
        return (self.kind, self.of, self.to)

    @property
    def couples_batch(self) -> bool:
        """What an item gets depends on its place."""
        return True

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:
        """Refuses units that there are not, and a batch of one: `INVALID_UNIT`, `BATCH_TOO_SMALL`."""
        require_batch(setting, self.kind, at)
        check_unit(self.unit, shape, tap, field=f"{at}.unit")
        other = setting.tap(self.to, f"{at}.to_{source_key(self.to)}")
        shape = setting.item_shape(other, f"{at}.to_{source_key(self.to)}")
        check_unit(self.to_unit, shape, other, field=f"{at}.to_unit")

    def sources(self, setting: Setting, field: str) -> tuple[Source, ...]:
        """The two."""
        at = f"{field}.{self.kind}.to_{source_key(self.to)}"
        return (*super().sources(setting, field), *resolved(self.to, setting, at))

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Mixes two channels."""
        g, at = canvas.g, f"{name}.{self.kind}"
        weight = canvas.feed(f"{at}.weight")
        channels = []
        for source, unit in ((self.of, f"{at}.unit"), (self.to, f"{at}.to_unit")):
            value, tap = canvas.read(source, name)
            channels.append(canvas.picked(canvas.site_means(value, tap), canvas.feed(unit, 1, integers=True)))
        rest = g.subtract(canvas.constant(1), weight)
        return g.add(g.multiply(rest, channels[0]), g.multiply(weight, channels[1]))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The units, and the weight of each item."""
        at = f"{name}.{self.kind}"
        return {
            f"{at}.weight": np.linspace(0, 1, setting.batch, dtype=setting.data_type),
            f"{at}.unit": setting.repeated([self.unit]),
            f"{at}.to_unit": setting.repeated([self.to_unit]),
        }


@dataclass(frozen=True)
class _Class(Objective):
    label: int | str
    """The class: its index, or its name (a whole label, or a part of one between commas, in any case)."""

    @property
    def structure(self) -> Hashable:
        """Its kind: where a model has its classes is the model's."""
        return (self.kind,)

    def check(self, setting: Setting, field: str) -> None:
        """Refuses a class that there is not: `NO_CLASSES`, `UNKNOWN_CLASS`, `AMBIGUOUS_CLASS`, `INVALID_CLASS`."""
        at = f"{field}.{self.kind}"
        if setting.classes is None:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "NO_CLASSES",
                f"The model is no classifier, so it has no class {self.label!r}. Choose a unit of one of its taps "
                "instead.",
                field=at,
                metadata={"label": str(self.label)},
            )
        index, count = self._index(setting.classes, f"{at}.label"), self._count(setting)
        if not 0 <= index < count:
            raise invalid(
                "INVALID_CLASS",
                f"The model has no class {index}; its {count} classes are counted from 0.",
                field=f"{at}.label",
                label=index,
                classes=count,
            )

    def sources(self, setting: Setting, field: str) -> tuple[Source, ...]:  # noqa: ARG002
        """The scores, or the probabilities."""
        return (self._tap(_classes(setting)).tensor,)

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The index of the class."""
        index = self._index(_classes(setting), f"{name}.{self.kind}.label")
        return {f"{name}.{self.kind}.index": setting.repeated([index])}

    def _tap(self, classes: Classes) -> Tap:
        return classes.logits

    def _index(self, classes: Classes, field: str) -> int:
        return classes.find(self.label, field=field) if isinstance(self.label, str) else self.label

    def _count(self, setting: Setting) -> int:
        classes = _classes(setting)
        tap = setting.tap(self._tap(classes).tensor, "")
        return setting.item_shape(tap, "")[tap.unit_axis - 1]

    def _rows(self, canvas: Canvas, name: str) -> ir.Value:
        """The number of each class, (batch, class): there is one site at most."""
        value, tap = canvas.read(self._tap(_classes(canvas.setting)).tensor, name)
        return canvas.g.squeeze(value, tap.site_axes) if tap.site_axes else value

    def _index_feed(self, canvas: Canvas, name: str) -> ir.Value:
        return canvas.feed(f"{name}.{self.kind}.index", 1, integers=True)


@dataclass(frozen=True)
class ClassLogit(_Class):
    """The score of a class before the softmax (Lucid's `class_logit`, which sums over the batch)."""

    kind = "class_logit"

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Picks one of the scores."""
        return canvas.picked(self._rows(canvas, name), self._index_feed(canvas, name))


@dataclass(frozen=True)
class ClassProbability(_Class):
    """The probability of a class: the model's own if it computes any, else the softmax of the scores.

    It also pushes other classes down, and its gradient vanishes where it is nearly 0 or 1 (Simonyan et al. 2013 use the
    score for this reason).
    """

    kind = "class_probability"

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Picks one of the probabilities."""
        rows = self._rows(canvas, name)
        if _classes(canvas.setting).probabilities is None:
            rows = canvas.g.op("Softmax", [rows], axis=1)
        return canvas.picked(rows, self._index_feed(canvas, name))

    def _tap(self, classes: Classes) -> Tap:
        return classes.logits if classes.probabilities is None else classes.probabilities


def _classes(setting: Setting) -> Classes:
    assert setting.classes is not None
    return setting.classes
