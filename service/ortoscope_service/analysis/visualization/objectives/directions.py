"""Objectives along directions of a tap's units, and against whole activations of another image.

With a power p, the dot product of an activation x with a direction v is weighted by their angle, as in Lucid's
`_dot_cossim`:

    x·v · max(0.1, cos)ᵖ,    cos = x·v / (ε + |x|) / (ε + |v|),    ε = 1e-4

p = 0 is the plain dot product. A larger p asks for the direction itself rather than for a strong activation that has a
part along it (2 for icons of an activation atlas, Carter et al. 2019).
"""

import abc
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.activations import checked_site
from ortoscope_service.analysis.gradients import check_unit, site_shape
from ortoscope_service.analysis.visualization.objectives.algebra import check_finite
from ortoscope_service.analysis.visualization.objectives.arrays import Numbers
from ortoscope_service.analysis.visualization.objectives.reading import (
    Reading,
    check_numbers,
    require_finite,
    require_nonzero,
)
from ortoscope_service.analysis.visualization.objectives.setting import Array, Canvas, Setting
from ortoscope_service.analysis.visualization.objectives.units import chosen_site, flat_indices
from ortoscope_service.errors import invalid
from ortoscope_service.graph.taps import Tap

_FLOOR = 0.1
_EPSILON = 1e-4
_WHOLE_EPSILON = 1e-6


def weighted_by_angle(
    canvas: Canvas, x: ir.Value, v: ir.Value, axis: int, power: ir.Value, epsilon: float = _EPSILON
) -> ir.Value:
    """The dot product along an axis times max(0.1, cosine)ᵖ; the axis goes."""
    g = canvas.g
    dot, small = g.total(g.multiply(x, v), [axis]), canvas.constant(epsilon)
    lengths = [g.add(canvas.norm(value, axis), small) for value in (x, v)]
    cosine = g.divide(g.divide(dot, lengths[0]), lengths[1])
    return g.multiply(dot, angle_floor(canvas, cosine, power))


def angle_floor(canvas: Canvas, cosine: ir.Value, power: ir.Value) -> ir.Value:
    """max(0.1, cosine)ᵖ: what an activation across the direction, or at zero, still counts, so that it can turn."""
    return canvas.g.op("Pow", [canvas.g.op("Max", [cosine, canvas.constant(_FLOOR)]), power])


@dataclass(frozen=True)
class _Vector(Reading):
    """The mean over sites s of a vector's product with a[:, s]: only what is fed differs between the subclasses."""

    word = "direction"
    """The word for it in names of inputs: they are the same, so that all share a session."""

    @property
    def structure(self) -> Hashable:
        """What is read, and whether angles count."""
        return (self.word, self.of, self._power() != 0)

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The dot product of the mean; with angles, the mean of the weighted products."""
        g, at = canvas.g, f"{name}.{self.word}"
        value, tap = canvas.read(self.of, name)
        _, shape = self.shape(canvas.setting, name)
        units = shape[tap.unit_axis - 1]
        vector = canvas.feed(f"{at}.vector", units)
        if not self._power():
            return g.total(g.multiply(canvas.site_means(value, tap), vector), [1])
        beside = list(tap.site_axes)
        spread = g.unsqueeze(vector, beside) if beside else vector
        power = canvas.feed(f"{at}.power", *(1 for _ in beside))
        return canvas.mean(weighted_by_angle(canvas, value, spread, tap.unit_axis, power))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The vector and the power."""
        at = f"{name}.{self.word}"
        tap, shape = self.shape(setting, name)
        fed = {f"{at}.vector": setting.repeated(self._vector(shape[tap.unit_axis - 1]))}
        if self._power():
            fed[f"{at}.power"] = setting.repeated(np.full([1] * len(tap.site_axes), self._power(), np.float64))
        return fed

    def _power(self) -> float:
        return 0.0

    @abc.abstractmethod
    def _vector(self, units: int) -> Array:
        """The vector, (unit,)."""


@dataclass(frozen=True)
class Direction(_Vector):
    """The mean over sites s of v·a[:, s] · max(0.1, cos)ᵖ (Lucid's `direction`, its value averaged over the batch)."""

    kind = "direction"

    vector: Numbers
    """v, one number for each unit."""

    power: float = 0.0
    """p."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses a vector or power that does not fit."""
        _check_vector(self.vector, tap, shape, at)
        _check_power(self.power, at)

    def _power(self) -> float:
        return self.power

    def _vector(self, units: int) -> Array:  # noqa: ARG002 - it has one number for each
        return self.vector.array


@dataclass(frozen=True)
class WeightedChannels(_Vector):
    """Σ over the named units u of w[u] · mean a[u] (Captum's `ActivationWeights`): a direction, most of which is 0."""

    kind = "weighted_channels"

    units: tuple[int, ...]
    """The units, each once."""

    weights: tuple[float, ...]
    """The weight of each."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses units that there are not or that come twice, and weights that do not fit them or are all 0."""
        for index, unit in enumerate(self.units):
            check_unit(unit, shape, tap, field=f"{at}.units[{index}]")
            if unit in self.units[:index]:
                raise invalid(
                    "DUPLICATE_UNIT",
                    f"Unit {unit} is named twice; name it once, with the sum of its weights.",
                    field=f"{at}.units[{index}]",
                    unit=unit,
                )
        for index, weight in enumerate(self.weights):
            check_finite(weight, f"{at}.weights[{index}]")
        weights = Numbers(self.weights)
        check_numbers(weights, (len(self.units),), tap, f"{at}.weights")
        require_nonzero(weights, f"{at}.weights")

    def _vector(self, units: int) -> Array:
        vector = np.zeros(units)
        vector[list(self.units)] = self.weights
        return vector


@dataclass(frozen=True)
class RandomDirection(_Vector):
    """The direction of a vector drawn at random: n / |n| with n ~ N(0, 1) for each unit, by NumPy's generator.

    Random directions are as telling as units in some networks (Szegedy et al. 2013), less so in others (Olah et al.
    2017); this is how to look.
    """

    kind = "random_direction"

    seed: int
    """Of the draw; another seed, another direction."""

    power: float = 0.0
    """p."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses a negative seed, and a power that is not one: `INVALID_SEED`, `INVALID_POWER`."""
        if self.seed < 0:
            raise invalid(
                "INVALID_SEED",
                f"The seed {self.seed} is negative; give one from 0 on.",
                field=f"{at}.seed",
                seed=self.seed,
            )
        _check_power(self.power, at)

    def _power(self) -> float:
        return self.power

    def _vector(self, units: int) -> Array:
        drawn = np.random.default_rng(self.seed).standard_normal(units)
        return np.asarray(drawn / np.linalg.norm(drawn))


@dataclass(frozen=True)
class DirectionNeuron(Reading):
    """v·a[:, site] · max(0.1, cos)ᵖ at one site (Lucid's `direction_neuron`)."""

    kind = "direction_neuron"

    vector: Numbers
    """v, one number for each unit."""

    site: tuple[int, ...] | None = None
    """The index along each site axis, (row, column) of a map, negative from the end; None is the centre."""

    power: float = 0.0
    """p."""

    @property
    def structure(self) -> Hashable:
        """What is read, and whether angles count."""
        return (self.kind, self.of, self.power != 0)

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses a vector, site or power that does not fit."""
        _check_vector(self.vector, tap, shape, at)
        _check_power(self.power, at)
        if self.site is not None:
            checked_site(self.site, site_shape(shape, tap), tap, at)

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Picks all units of one site, and weighs them."""
        here, vector = self._met(canvas, name)
        if not self.power:
            return canvas.g.total(canvas.g.multiply(here, vector), [1])
        return weighted_by_angle(canvas, here, vector, 1, canvas.feed(f"{name}.{self.kind}.power"))

    def _met(self, canvas: Canvas, name: str) -> tuple[ir.Value, ir.Value]:
        """The activation at the site and the vector, (batch, unit) each."""
        at = f"{name}.{self.kind}"
        value, tap = canvas.read(self.of, name)
        _, shape = self.shape(canvas.setting, name)
        units = shape[tap.unit_axis - 1]
        index = canvas.feed(f"{at}.index", units, integers=True)
        here = canvas.g.op("GatherElements", [canvas.flat(value), index], axis=1)
        return here, canvas.feed(f"{at}.vector", units)

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The vector, where it is to be met, and the power."""
        at = f"{name}.{self.kind}"
        tap, shape = self.shape(setting, name)
        site = chosen_site(self.site, shape, tap)
        index = flat_indices(site, range(shape[tap.unit_axis - 1]), shape, tap)
        fed = {f"{at}.index": setting.repeated(index), f"{at}.vector": setting.repeated(self.vector.array)}
        if self.power:
            fed[f"{at}.power"] = setting.repeated(float(self.power))
        return fed


@dataclass(frozen=True)
class TensorDirection(Reading):
    """The mean over sites s of a patch of v[:, s]·a[:, s] · max(0.1, cos)ᵖ (Lucid's `tensor_direction`).

    The patch lies at the centre of the map: it begins at (extent - own extent) // 2 along each site axis.
    """

    kind = "tensor_direction"

    tensor: Numbers
    """v, in the tap's own layout without the batch, as large as the map or smaller."""

    power: float = 0.0
    """p."""

    @property
    def structure(self) -> Hashable:
        """What is read, and whether angles count; the patch is fed with zeros around it."""
        return (self.kind, self.of, self.power != 0)

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses a patch that is larger than the map or has another number of units: `INVALID_SHAPE`."""
        own = self.tensor.shape
        fits = len(own) == len(shape) and all(
            size == whole if axis == tap.unit_axis else 0 < size <= whole
            for axis, (size, whole) in enumerate(zip(own, shape, strict=True), start=1)
        )
        if not fits:
            raise invalid(
                "INVALID_SHAPE",
                f"A direction of the shape {list(own)} does not lie within tap '{tap.display_name}', whose shape is "
                f"{list(shape)}: give its number of units along axis {tap.unit_axis - 1}, and not more sites.",
                field=f"{at}.tensor",
                shape=list(own),
                expected=list(shape),
            )
        require_finite(self.tensor, f"{at}.tensor")
        require_nonzero(self.tensor, f"{at}.tensor")
        _check_power(self.power, at)

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The weighted product with the patch at every site, of which those around it give 0."""
        g, at = canvas.g, f"{name}.{self.kind}"
        value, tap = canvas.read(self.of, name)
        _, shape = self.shape(canvas.setting, name)
        tensor, part = canvas.feed(f"{at}.tensor", *shape), canvas.feed(f"{at}.part")
        if not self.power:
            return g.multiply(canvas.total(g.multiply(value, tensor)), part)
        power = canvas.feed(f"{at}.power", *(1 for _ in tap.site_axes))
        products = weighted_by_angle(canvas, value, tensor, tap.unit_axis, power)
        return g.multiply(canvas.total(products), part)

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The patch in its place, one over the number of its sites, and the power."""
        at = f"{name}.{self.kind}"
        tap, shape = self.shape(setting, name)
        own = self.tensor.shape
        whole = np.zeros(shape, np.float32)
        starts = [(outer - inner) // 2 for outer, inner in zip(shape, own, strict=True)]
        whole[tuple(slice(start, start + size) for start, size in zip(starts, own, strict=True))] = self.tensor.array
        fed = {
            f"{at}.tensor": setting.repeated(whole),
            f"{at}.part": setting.repeated(1 / math.prod(site_shape(own, tap))),
        }
        if self.power:
            fed[f"{at}.power"] = setting.repeated(np.full([1] * len(tap.site_axes), self.power, np.float64))
        return fed


@dataclass(frozen=True)
class Caricature(Reading):
    """a·b · max(0.1, cos)ᵖ over all units and sites, b the activation on another image: what it shows, exaggerated.

    Lucid's `recipes/caricature.py` (ε = 1e-6), but with the cosine itself: there it lacks the division by |b|, so that
    the floor of 0.1 hardly ever counts.
    """

    kind = "caricature"

    activation: Numbers
    """b, in the tap's own layout without the batch."""

    power: float = 0.0
    """p."""

    @property
    def structure(self) -> Hashable:
        """What is read, and whether angles count."""
        return (self.kind, self.of, self.power != 0)

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses an activation or power that does not fit."""
        check_numbers(self.activation, shape, tap, f"{at}.activation")
        require_nonzero(self.activation, f"{at}.activation")
        _check_power(self.power, at)

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The weighted product."""
        g, at = canvas.g, f"{name}.{self.kind}"
        value, _ = canvas.read(self.of, name)
        own = canvas.flat(value)
        other = canvas.feed(f"{at}.activation", self.activation.array.size)
        if not self.power:
            return g.total(g.multiply(own, other), [1])
        return weighted_by_angle(canvas, own, other, 1, canvas.feed(f"{at}.power"), _WHOLE_EPSILON)

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The activation and the power."""
        at = f"{name}.{self.kind}"
        fed = {f"{at}.activation": setting.repeated(self.activation.array.reshape(-1))}
        if self.power:
            fed[f"{at}.power"] = setting.repeated(float(self.power))
        return fed


@dataclass(frozen=True)
class Inversion(Reading):
    """-Σ (a - b)² / Σ b² over all units and sites, b the activation on another image: what a tap has kept of that.

    The Euclidean loss of Mahendran and Vedaldi (2015), to be maximised; best with a regulariser beside it.
    """

    kind = "inversion"

    activation: Numbers
    """b, in the tap's own layout without the batch."""

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:  # noqa: ARG002
        """Refuses an activation that does not fit."""
        check_numbers(self.activation, shape, tap, f"{at}.activation")
        require_nonzero(self.activation, f"{at}.activation")

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The sum of squares, times what is fed."""
        g, at = canvas.g, f"{name}.{self.kind}"
        value, _ = canvas.read(self.of, name)
        own = canvas.flat(value)
        difference = g.subtract(own, canvas.feed(f"{at}.activation", self.activation.array.size))
        return g.multiply(canvas.feed(f"{at}.factor"), g.total(g.multiply(difference, difference), [1]))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The activation, and minus one over its square."""
        at = f"{name}.{self.kind}"
        flat = self.activation.array.reshape(-1)
        squares = float(np.square(flat, dtype=np.float64).sum())
        return {f"{at}.activation": setting.repeated(flat), f"{at}.factor": setting.repeated(-1 / squares)}


def _check_vector(vector: Numbers, tap: Tap, shape: Sequence[int], at: str) -> None:
    check_numbers(vector, (shape[tap.unit_axis - 1],), tap, f"{at}.vector")
    require_nonzero(vector, f"{at}.vector")


def _check_power(power: float, at: str) -> None:
    check_finite(power, f"{at}.power")
    if power < 0:
        raise invalid(
            "INVALID_POWER",
            f"The power {power} of the cosine is negative, which would ask for other directions than the one given; "
            "give 0 or more, and a negative weight for the opposite side.",
            field=f"{at}.power",
            power=power,
        )
