"""Objectives of visualizations, which compose like numbers.

    from ortoscope.objectives import channel, class_logit, l1

    channel("mixed4a", 476) - 0.05 * l1(constant=0.5)
    -channel("mixed4a", 476)                              # what makes it small
    class_logit("tabby") * channel("mixed4a", 3)

A sum or difference, a product, and a number times an objective are objectives again; a number by itself stands for
`constant`. What is found makes the whole as large as it can be.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ortoscope.objective_json import objective_from_data, objective_to_data
from ortoscope.tensors import to_tensor
from ortoscope.v1 import gradients_pb2, tensors_pb2, visualization_pb2

_Message = visualization_pb2.VisualizationObjective

_NUMBERS_SHOWN = 6
"""The most numbers of an array that a repr lists."""


class Part(enum.Enum):
    """A part of what is optimised, for objectives that look at the picture itself."""

    IMAGE = "image"
    """Its colours, or the features of what is no picture."""

    ALPHA = "alpha"
    """Its opacity."""


class NamesTensor(Protocol):
    """What knows the name of its tensor, such as a `Tap`."""

    @property
    def tensor(self) -> str:
        """Name of the tensor in the ONNX file."""


Of: TypeAlias = str | NamesTensor | Part
"""What an objective reads: any name of a tap, a tap, or a part of the picture."""


class VisualizationObjective:
    """A number that is made as large as possible, for each picture; made by the functions of this module.

    Attributes:
        proto: The objective as the API takes it.
    """

    def __init__(self, proto: visualization_pb2.VisualizationObjective) -> None:
        self.proto = proto

    @classmethod
    def from_data(cls, data: object) -> "VisualizationObjective":
        """Reads what `json.loads` gives of an objective that is written as JSON, such as `{"layer": {"tap": "conv"}}`.

        Raises:
            InvalidArgument: INVALID_OBJECTIVE: a kind or field that there is not, is missing or of another type.
        """
        return cls(objective_from_data(data))

    def to_data(self) -> dict[str, Any]:
        """The objective as JSON data, in the form that `from_data` reads and the metadata of pictures have."""
        return objective_to_data(self.proto)

    def __add__(self, other: "VisualizationObjective | float") -> "VisualizationObjective":
        if other == 0:  # where the built-in sum begins
            return self
        terms = [term for part in (self, _operand(other)) for term in _parts(part.proto, "sum", "terms")]
        return VisualizationObjective(_Message(sum=_Message.Sum(terms=terms)))

    def __radd__(self, other: float) -> "VisualizationObjective":
        return self if other == 0 else _operand(other) + self

    def __sub__(self, other: "VisualizationObjective | float") -> "VisualizationObjective":
        return self + (-other)

    def __rsub__(self, other: float) -> "VisualizationObjective":
        return -self + other if other == 0 else _operand(other) - self

    def __mul__(self, other: "VisualizationObjective | float") -> "VisualizationObjective":
        if not isinstance(other, VisualizationObjective):
            return self._times(float(other))
        factors = [factor for part in (self, other) for factor in _parts(part.proto, "product", "factors")]
        return VisualizationObjective(_Message(product=_Message.Product(factors=factors)))

    def __rmul__(self, other: float) -> "VisualizationObjective":
        return self._times(float(other))

    def __truediv__(self, other: float) -> "VisualizationObjective":
        return self._times(1 / float(other))

    def __neg__(self) -> "VisualizationObjective":
        return self._times(-1.0)

    def __pos__(self) -> "VisualizationObjective":
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VisualizationObjective) and self.proto == other.proto

    def __hash__(self) -> int:
        return hash(self.proto.SerializeToString(deterministic=True))

    def __repr__(self) -> str:
        return _shown(self.proto)

    def _times(self, weight: float) -> "VisualizationObjective":
        inner = self.proto
        if inner.WhichOneof("kind") == "scaled":
            weight, inner = weight * inner.scaled.weight, inner.scaled.objective
        return VisualizationObjective(_Message(scaled=_Message.Scaled(weight=weight, objective=inner)))


def constant(value: float) -> VisualizationObjective:
    """The same number for every picture."""
    return VisualizationObjective(_Message(constant=value))


def for_item(item: int, objective: VisualizationObjective) -> VisualizationObjective:
    """An objective for one picture of the batch, counted from 0; 0 for all others."""
    return VisualizationObjective(_Message(for_item=_Message.ForItem(item=item, objective=objective.proto)))


def neuron(of: Of, unit: int, site: Sequence[int] | None = None) -> VisualizationObjective:
    """The activation of a unit at one site: by default the middle; a negative index counts from the end."""
    return VisualizationObjective(_Message(neuron=_Message.Neuron(of=_source(of), unit=unit, site=_site(site))))


def channel(of: Of, unit: int) -> VisualizationObjective:
    """The mean of a unit's activation over all sites."""
    return VisualizationObjective(_Message(channel=_Message.Channel(of=_source(of), unit=unit)))


def layer(of: Of) -> VisualizationObjective:
    """The mean square of all activations: more of whatever is there (DeepDream)."""
    return VisualizationObjective(_Message(layer=_Message.Layer(of=_source(of))))


def channel_interpolation(of: Of, unit: int, to_unit: int, to: Of | None = None) -> VisualizationObjective:
    """From one channel at the first picture of the batch to another one, of the same tap or of `to`, at the last."""
    end = of if to is None else to
    kind = _Message.ChannelInterpolation(of=_source(of), unit=unit, to=_source(end), to_unit=to_unit)
    return VisualizationObjective(_Message(channel_interpolation=kind))


def class_logit(class_: int | str) -> VisualizationObjective:
    """The score of a class, by its index or name, before the function that makes probabilities of scores."""
    return VisualizationObjective(_Message(class_logit=class_reference(class_)))


def class_probability(class_: int | str) -> VisualizationObjective:
    """The probability of a class, by its index or name."""
    return VisualizationObjective(_Message(class_probability=class_reference(class_)))


def direction(of: Of, vector: npt.ArrayLike, power: float = 0.0) -> VisualizationObjective:
    """A direction in the space of a tap's units: the mean over sites of v · a max(0.1, cos)^power.

    Args:
        of: The tap.
        vector: v, a number for each unit.
        power: The power of the cosine between v and a; 0: none.
    """
    kind = _Message.Direction(of=_source(of), vector=_tensor(vector, "vector"), power=power)
    return VisualizationObjective(_Message(direction=kind))


def direction_neuron(
    of: Of, vector: npt.ArrayLike, site: Sequence[int] | None = None, power: float = 0.0
) -> VisualizationObjective:
    """A direction at one site: by default the middle."""
    kind = _Message.DirectionNeuron(of=_source(of), vector=_tensor(vector, "vector"), site=_site(site), power=power)
    return VisualizationObjective(_Message(direction_neuron=kind))


def weighted_channels(of: Of, weights: Mapping[int, float]) -> VisualizationObjective:
    """The weighted sum of a few channels' means, such as `{3: 1.0, 7: -0.5}`."""
    kind = _Message.WeightedChannels(of=_source(of), units=list(weights), weights=list(weights.values()))
    return VisualizationObjective(_Message(weighted_channels=kind))


def random_direction(of: Of, seed: int, power: float = 0.0) -> VisualizationObjective:
    """A direction drawn at random."""
    kind = _Message.RandomDirection(of=_source(of), seed=seed, power=power)
    return VisualizationObjective(_Message(random_direction=kind))


def tensor_direction(of: Of, tensor: npt.ArrayLike, power: float = 0.0) -> VisualizationObjective:
    """A direction for each site of a patch in the middle: (units, rows, columns)."""
    kind = _Message.TensorDirection(of=_source(of), tensor=_tensor(tensor, "tensor"), power=power)
    return VisualizationObjective(_Message(tensor_direction=kind))


def caricature(of: Of, activation: npt.ArrayLike, power: float = 0.0) -> VisualizationObjective:
    """More of what a tap shows on another input: the dot product with its activation there, without a batch axis."""
    kind = _Message.Caricature(of=_source(of), activation=_tensor(activation, "activation"), power=power)
    return VisualizationObjective(_Message(caricature=kind))


def inversion(of: Of, activation: npt.ArrayLike) -> VisualizationObjective:
    """What a tap has kept of another input: minus the relative squared distance from its activation there."""
    kind = _Message.Inversion(of=_source(of), activation=_tensor(activation, "activation"))
    return VisualizationObjective(_Message(inversion=kind))


def diversity(of: Of) -> VisualizationObjective:
    """How alike the pictures of the batch are at a tap; with a negative weight it draws them apart."""
    return VisualizationObjective(_Message(diversity=_Message.Diversity(of=_source(of))))


def alignment(of: Of, decay: float | None = None) -> VisualizationObjective:
    """How alike neighbours in the batch are; `decay`, 2 by default, tells how fast it falls with the distance."""
    return VisualizationObjective(_Message(alignment=_Message.Alignment(of=_source(of), decay=decay)))


def l1(of: Of = Part.IMAGE, constant: float = 0.0) -> VisualizationObjective:
    """The sum of |x - constant|."""
    return VisualizationObjective(_Message(l1=_Message.L1(of=_source(of), constant=constant)))


def l2(of: Of = Part.IMAGE, constant: float = 0.0, epsilon: float | None = None) -> VisualizationObjective:
    """The root of epsilon (1e-6 by default) plus the sum of (x - constant)²."""
    return VisualizationObjective(_Message(l2=_Message.L2(of=_source(of), constant=constant, epsilon=epsilon)))


def total_variation(of: Of = Part.IMAGE) -> VisualizationObjective:
    """The sum of absolute differences between neighbours."""
    return VisualizationObjective(_Message(total_variation=_Message.TotalVariation(of=_source(of))))


def blur(of: Of = Part.IMAGE) -> VisualizationObjective:
    """Half the squared distance from itself blurred."""
    return VisualizationObjective(_Message(blur=_Message.Blur(of=_source(of))))


def boundary_complexity(
    of: Of = Part.IMAGE, width: int | None = None, constant: float | None = None
) -> VisualizationObjective:
    """How busy and colourful the frame of the picture is.

    Args:
        of: What is looked at.
        width: Width of the frame in pixels; 20 by default.
        constant: The colour that counts as empty; 0.5 by default.
    """
    kind = _Message.BoundaryComplexity(of=_source(of), width=width, constant=constant)
    return VisualizationObjective(_Message(boundary_complexity=kind))


def difference(of: Of, reference: npt.ArrayLike, norm: str = "rms") -> VisualizationObjective:
    """How far the picture is from a given one, or an activation from that on another input.

    Args:
        of: What is compared.
        reference: With what, without a batch axis.
        norm: "rms" (the root of the mean square), "mean_l1", "l2" or "max".

    Raises:
        InvalidArgument: INVALID_OBJECTIVE: there is no such norm.
    """
    made = {**_named(of), "reference": np.asarray(reference, np.float32).tolist(), "norm": norm}
    return VisualizationObjective.from_data({"difference": made})


def class_reference(class_: int | str) -> gradients_pb2.ClassReference:
    """A class by its index or name, as the API takes it."""
    if isinstance(class_, str):
        return gradients_pb2.ClassReference(label=class_)
    return gradients_pb2.ClassReference(index=int(class_))


def _operand(value: "VisualizationObjective | float") -> VisualizationObjective:
    return value if isinstance(value, VisualizationObjective) else constant(float(value))


def _parts(message: Any, kind: str, field: str) -> Sequence[Any]:
    """The terms of a sum, or the factors of a product; of everything else itself."""
    if message.WhichOneof("kind") == kind:
        parts: Sequence[Any] = getattr(getattr(message, kind), field)
        return parts
    return [message]


def _source(of: Of) -> Any:
    if isinstance(of, Part):
        return _Message.Source(picture=f"PICTURE_{of.name}")
    return _Message.Source(tap=of if isinstance(of, str) else of.tensor)


def _named(of: Of) -> dict[str, str]:
    if isinstance(of, Part):
        return {"picture": of.value}
    return {"tap": of if isinstance(of, str) else of.tensor}


def _site(site: Sequence[int] | None) -> Any:
    return None if site is None else _Message.SiteIndex(index=[int(index) for index in site])


def _tensor(numbers: npt.ArrayLike, field: str) -> tensors_pb2.Tensor:
    return to_tensor(np.ascontiguousarray(numbers, np.float32), field=field)


def _shown(message: Any) -> str:
    """An objective as it is written in Python."""
    kind = message.WhichOneof("kind")
    match kind:
        case None:
            return "VisualizationObjective()"
        case "constant":
            return f"constant({message.constant:g})"
        case "sum":
            return _shown_sum(message.sum.terms)
        case "product":
            return " * ".join(map(_shown_factor, message.product.factors)) or "constant(1)"
        case "scaled":
            inner = _shown_factor(message.scaled.objective)
            return f"-{inner}" if message.scaled.weight == -1 else f"{message.scaled.weight!r} * {inner}"
        case "for_item":
            return f"for_item({message.for_item.item}, {_shown(message.for_item.objective)})"
    return f"{kind}({', '.join(_arguments(kind, objective_to_data(message)[kind]))})"


def _shown_sum(terms: Sequence[Any]) -> str:
    text = ""
    for term in terms:
        shown = f"({_shown(term)})" if term.WhichOneof("kind") == "sum" else _shown(term)
        if not text:
            text = shown
        elif shown.startswith("-"):
            text += f" - {shown[1:]}"
        else:
            text += f" + {shown}"
    return text or "constant(0)"


def _shown_factor(message: Any) -> str:
    shown = _shown(message)
    return f"({shown})" if message.WhichOneof("kind") in {"sum", "scaled", "product"} else shown


def _arguments(kind: str, fields: Mapping[str, Any]) -> list[str]:
    rest = dict(fields)
    if kind == "weighted_channels":
        rest["weights"] = dict(zip(rest.pop("units"), rest["weights"], strict=True))
    words = []
    for name in ("tap", "picture", "unit", "label", "vector", "tensor", "activation", "reference", "weights"):
        if name in rest:
            value = rest.pop(name)
            words.append(f"Part.{value.upper()}" if name == "picture" else _shown_value(value))
    if "to_tap" in rest:
        rest["to"] = rest.pop("to_tap")
    words += [f"{name}={_shown_value(value)}" for name, value in rest.items()]
    return words


def _shown_value(value: object) -> str:
    if isinstance(value, list) and (len(value) > _NUMBERS_SHOWN or any(isinstance(part, list) for part in value)):
        return f"<{' x '.join(map(str, np.shape(value)))} numbers>"
    if isinstance(value, Mapping) and "shape" in value:
        return f"<{' x '.join(map(str, value['shape']))} numbers>"
    return repr(value)
