"""Gradients of units and classes, as arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ortoscope import resource_names
from ortoscope.activations import batches
from ortoscope.errors import InvalidArgument
from ortoscope.inputs import Inputs
from ortoscope.rpcs import Rpcs
from ortoscope.tensors import dtype_of, to_array, to_tensor
from ortoscope.v1 import gradients_pb2, models_pb2, provenance_pb2

Array: TypeAlias = npt.NDArray[Any]

GradientReduce: TypeAlias = Literal["none", "times_value", "unit_sums"]
"""What is computed from a gradient: itself, its product with the tensor's own value, or that summed over the sites."""

_REDUCTIONS: Mapping[str, gradients_pb2.ComputeGradientRequest.Reduction] = {
    "none": gradients_pb2.ComputeGradientRequest.REDUCTION_NONE,
    "times_value": gradients_pb2.ComputeGradientRequest.REDUCTION_TIMES_VALUE,
    "unit_sums": gradients_pb2.ComputeGradientRequest.REDUCTION_UNIT_SUMS,
}


class Objective:
    """A number that a network computes for each input, to be differentiated; made by one of its class methods.

    Attributes:
        proto: The objective as the API takes it; without its numbers for a cotangent.
        numbers: The numbers of a cotangent, else None.
    """

    def __init__(self, proto: gradients_pb2.Objective, numbers: Array | None = None) -> None:
        self.proto = proto
        self.numbers = numbers

    @classmethod
    def unit(cls, tap: str, unit: int, site: Sequence[int] = ()) -> "Objective":
        """The activation of a unit at one site; no site for a tap without any, negative counts from the end."""
        indices = [int(index) for index in site]
        return cls(gradients_pb2.Objective(unit=gradients_pb2.Objective.Unit(tap=tap, unit=unit, site=indices)))

    @classmethod
    def channel_mean(cls, tap: str, unit: int) -> "Objective":
        """The mean of a unit's activation over all sites."""
        return cls(gradients_pb2.Objective(channel_mean=gradients_pb2.Objective.ChannelMean(tap=tap, unit=unit)))

    @classmethod
    def class_logit(cls, class_: int | str) -> "Objective":
        """The score of a class, by its index or name, before the function that makes probabilities of scores."""
        return cls(gradients_pb2.Objective(class_logit=_class_reference(class_)))

    @classmethod
    def class_probability(cls, class_: int | str) -> "Objective":
        """The probability of a class, by its index or name."""
        return cls(gradients_pb2.Objective(class_probability=_class_reference(class_)))

    @classmethod
    def cotangent(cls, tap: str, numbers: npt.ArrayLike) -> "Objective":
        """The sum over all elements of a tap of the activation times a given number.

        Args:
            tap: Any name of the tap.
            numbers: Shaped like the tap, one for each input along the first axis; or like the tap without its first
                axis, for all inputs alike.
        """
        proto = gradients_pb2.Objective(cotangent=gradients_pb2.Objective.Cotangent(tap=tap))
        return cls(proto, np.asarray(numbers))

    def __repr__(self) -> str:
        kind = str(self.proto.WhichOneof("kind"))
        fields = getattr(self.proto, kind)
        shown = [f"{field.name}={value!r}" for field, value in fields.ListFields()]
        if self.numbers is not None:
            shown.append(f"numbers={self.numbers.shape}")
        return f"<Objective {kind}: {', '.join(shown)}>"


@dataclass(frozen=True, eq=False)
class TensorGradient:
    """The gradient of an objective at one tensor; `numpy.asarray` of it is `values`."""

    tensor: str
    """Name of the tensor in the ONNX file."""

    tap: str
    """Resource name of the tap; empty for an input of the model."""

    display_name: str
    """The name of the tap or input to show people."""

    reduce: GradientReduce
    """What was computed from the gradient."""

    values: Array
    """The gradient; the first axis runs over the inputs. Shaped like the tensor, or (inputs, units) for "unit_sums".
    At an input of the model it is by what the model takes, after preprocessing."""

    unit_axis: int
    """The axis of `values` that runs over the units, or over the colours of a picture; 0 if that is not known."""

    @classmethod
    def from_proto(cls, proto: gradients_pb2.TensorGradient) -> "TensorGradient":
        """Reads the server's message."""
        reduce: GradientReduce = next(
            (name for name in get_args(GradientReduce) if _REDUCTIONS[name] == proto.reduction), "none"
        )
        values = to_array(proto.gradient)
        return cls(proto.tensor, proto.tap, proto.display_name, reduce, values, proto.unit_axis)

    def to_proto(self) -> gradients_pb2.TensorGradient:
        """The gradient as the API's message."""
        return gradients_pb2.TensorGradient(
            tensor=self.tensor,
            tap=self.tap,
            display_name=self.display_name,
            reduction=_REDUCTIONS[self.reduce],
            gradient=to_tensor(self.values),
            unit_axis=self.unit_axis,
        )

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<TensorGradient at {self.display_name} ({self.reduce}): {self.values.shape} {self.values.dtype}>"


class Gradients(Mapping[str, TensorGradient]):
    """The gradients of an objective by the name that each was asked for with, or of the model's input.

    Attributes:
        objective: (inputs,): the objective itself.
        tap: Resource name of the tap that the objective was computed from.
        class_index: For a class, its index; else None.
        class_label: For a class, its name if it is known.
        relaxations: The relaxations that were applied.
        provenance: What they were computed from.
    """

    def __init__(
        self, gradients: Mapping[str, TensorGradient], objective: Array, proto: gradients_pb2.ComputeGradientResponse
    ) -> None:
        self._gradients = dict(gradients)
        self.objective = objective
        self.tap = proto.tap
        self.class_index = proto.class_index if proto.HasField("class_index") else None
        self.class_label = proto.class_label
        self.relaxations = tuple(proto.relaxations)
        self.provenance: provenance_pb2.Provenance = proto.provenance

    def __getitem__(self, name: str) -> TensorGradient:
        return self._gradients[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._gradients)

    def __len__(self) -> int:
        return len(self._gradients)

    @property
    def only(self) -> Array:
        """The array, if there is one gradient alone.

        Raises:
            InvalidArgument: SEVERAL_GRADIENTS.
        """
        if len(self._gradients) != 1:
            raise InvalidArgument(
                f"There are {len(self._gradients)} gradients; choose one of {', '.join(map(repr, self._gradients))}.",
                reason="SEVERAL_GRADIENTS",
                metadata={"gradients": ", ".join(self._gradients)},
            )
        return next(iter(self._gradients.values())).values

    def arrays(self) -> dict[str, Array]:
        """All arrays by name, as `numpy.savez` takes them: the gradients by theirs, and `objective`."""
        return {"objective": self.objective, **{name: entry.values for name, entry in self._gradients.items()}}

    def to_proto(self) -> gradients_pb2.ComputeGradientResponse:
        """The gradients as the response that would hold them all."""
        return gradients_pb2.ComputeGradientResponse(
            values=to_tensor(self.objective),
            gradients=[entry.to_proto() for entry in self._gradients.values()],
            tap=self.tap,
            class_index=self.class_index,
            class_label=self.class_label,
            relaxations=self.relaxations,
            provenance=self.provenance,
        )

    def __repr__(self) -> str:
        return f"<Gradients {', '.join(map(repr, self._gradients.values()))}>"


def compute(
    rpcs: Rpcs,
    model: models_pb2.ModelVersion,
    inputs: Inputs,
    objective: Objective,
    *,
    at: Sequence[str] = (),
    reduce: GradientReduce = "none",
    relax: Sequence[str] = (),
) -> Gradients:
    """Computes the gradients of an objective, in as many requests as the server's limits call for.

    Args:
        rpcs: The calls.
        model: The model version.
        inputs: One item or many.
        objective: What is differentiated.
        at: Names of inputs or taps at which the gradient is taken; all floating-point inputs if empty.
        reduce: What is computed from the gradient.
        relax: Names of relaxations.

    Raises:
        OrtoscopeError: As Gradients.ComputeGradient, and as `to_item`; REDUCTION_UNKNOWN.
    """
    check_choice(reduce, get_args(GradientReduce), "reduce")
    request = gradients_pb2.ComputeGradientRequest(
        model=model.name,
        objective=objective.proto,
        with_respect_to=at,
        reduction=_REDUCTIONS[reduce],
        relaxations=relax,
    )
    numbers, per_item = _numbers(rpcs, model, objective)
    held = 0 if numbers is None else numbers.nbytes
    item_bytes = held // max(len(numbers), 1) if numbers is not None and per_item else 0
    responses = []
    sent = 0
    for batch in batches(
        rpcs,
        model,
        inputs,
        rpcs.limits.max_items_per_request or 1,
        request_bytes=0 if per_item else held,
        item_bytes=item_bytes,
    ):
        del request.inputs[:]
        request.inputs.extend(batch)
        if numbers is not None:
            part = numbers[sent : sent + len(batch)] if per_item else numbers
            request.objective.cotangent.tensor.CopyFrom(to_tensor(part, field="objective"))
        responses.append(rpcs.compute_gradient(request))
        sent += len(batch)
    if not responses:  # the server says best what is wrong with no inputs
        responses = [rpcs.compute_gradient(request)]
    return _joined_gradients(responses, at)


def _class_reference(class_: int | str) -> gradients_pb2.ClassReference:
    if isinstance(class_, str):
        return gradients_pb2.ClassReference(label=class_)
    return gradients_pb2.ClassReference(index=int(class_))


def check_choice(value: str, choices: Sequence[str], field: str) -> None:
    """Refuses a word that is not one of those there are: <FIELD>_UNKNOWN."""
    if value not in choices:
        raise InvalidArgument(
            f"{value!r} is nothing to choose for {field}: it is one of {', '.join(choices)}.",
            reason=f"{field.upper()}_UNKNOWN",
            field=field,
            metadata={field: str(value)},
        )


def _numbers(rpcs: Rpcs, model: models_pb2.ModelVersion, objective: Objective) -> tuple[Array | None, bool]:
    """The numbers of a cotangent in the tap's type, and whether there are some for each item."""
    numbers = objective.numbers
    if numbers is None:
        return None, False
    name = resource_names.tap(model.name, objective.proto.cotangent.tap)
    tap = rpcs.get_tap(models_pb2.GetTapRequest(name=name))
    wanted = dtype_of(tap.data_type)
    if wanted is not None and np.can_cast(numbers.dtype, wanted, "same_kind"):
        numbers = numbers.astype(wanted, copy=False)
    return numbers, numbers.ndim == len(tap.shape)


def _joined_gradients(responses: Sequence[gradients_pb2.ComputeGradientResponse], names: Sequence[str]) -> Gradients:
    first = [TensorGradient.from_proto(entry) for entry in responses[0].gradients]
    gradients = {
        name: replace(
            entry, values=np.concatenate([to_array(response.gradients[number].gradient) for response in responses])
        )
        for number, (name, entry) in enumerate(zip(names or [e.display_name for e in first], first, strict=True))
    }
    objective = np.concatenate([to_array(response.values) for response in responses])
    return Gradients(gradients, objective, responses[0])
