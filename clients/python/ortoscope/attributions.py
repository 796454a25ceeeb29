"""Which parts of a layer speak for and against each class, as arrays and as a table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ortoscope.activations import batches
from ortoscope.gradients import check_choice
from ortoscope.inputs import Inputs
from ortoscope.rpcs import Rpcs
from ortoscope.tables import Column, Table
from ortoscope.tensors import to_array, to_tensor
from ortoscope.v1 import gradients_pb2, models_pb2, provenance_pb2

Array: TypeAlias = npt.NDArray[Any]

Per: TypeAlias = Literal["whole", "unit", "site"]
"""Which parts of a tap have attributions of their own."""

_GRANULARITIES: Mapping[str, gradients_pb2.AttributeClassesRequest.Granularity] = {
    "whole": gradients_pb2.AttributeClassesRequest.GRANULARITY_WHOLE,
    "unit": gradients_pb2.AttributeClassesRequest.GRANULARITY_UNITS,
    "site": gradients_pb2.AttributeClassesRequest.GRANULARITY_SITES,
}


@dataclass(frozen=True)
class ClassAttribution:
    """What of a class's score a part of a tap accounts for."""

    index: int
    """Index of the class."""

    label: str
    """Its name; empty if it is not known."""

    score: float
    """Its score."""

    part: tuple[int, ...]
    """The unit, or the site; empty for the whole tap."""

    attribution: float
    """The attribution of the score to the part."""


@dataclass(frozen=True, eq=False)
class Attributions:
    """The attributions of all classes' scores to a tap or to parts of it: activation times gradient, summed."""

    tap: str
    """Resource name of the tap."""

    display_name: str
    """The name of the tap to show people."""

    per: Per
    """What the parts are."""

    values: Array
    """(inputs, parts, classes)."""

    units: npt.NDArray[np.int64] | None
    """For "unit": the unit of each part, (parts,)."""

    sites: npt.NDArray[np.int64] | None
    """For "site": the site of each part, (parts, site axes)."""

    totals: Array
    """(inputs, classes): the attribution to the whole tap."""

    scores: Array
    """(inputs, classes): the scores themselves."""

    probability: bool
    """Whether scores are probabilities rather than logits."""

    labels: tuple[str, ...]
    """Name of every class by its index; empty if they are not known."""

    relaxations: tuple[str, ...]
    """The relaxations that were applied."""

    provenance: provenance_pb2.Provenance
    """What they were computed from."""

    @classmethod
    def from_proto(cls, proto: gradients_pb2.AttributeClassesResponse, labels: Sequence[str] = ()) -> "Attributions":
        """Reads the server's message; `labels` are the names of the model's classes."""
        per: Per = next((name for name in get_args(Per) if _GRANULARITIES[name] == proto.granularity), "whole")
        return cls(
            tap=proto.tap,
            display_name=proto.display_name,
            per=per,
            values=to_array(proto.attributions),
            units=to_array(proto.units) if proto.HasField("units") else None,
            sites=to_array(proto.sites) if proto.HasField("sites") else None,
            totals=to_array(proto.totals),
            scores=to_array(proto.scores),
            probability=proto.score == gradients_pb2.AttributeClassesRequest.SCORE_PROBABILITY,
            labels=tuple(labels),
            relaxations=tuple(proto.relaxations),
            provenance=proto.provenance,
        )

    def to_proto(self, top_classes: int = 5) -> gradients_pb2.AttributeClassesResponse:
        """The attributions as the response that would hold them all."""
        return gradients_pb2.AttributeClassesResponse(
            tap=self.tap,
            display_name=self.display_name,
            granularity=_GRANULARITIES[self.per],
            attributions=to_tensor(self.values),
            units=None if self.units is None else to_tensor(self.units),
            sites=None if self.sites is None else to_tensor(self.sites),
            totals=to_tensor(self.totals),
            scores=to_tensor(self.scores),
            score=(
                gradients_pb2.AttributeClassesRequest.SCORE_PROBABILITY
                if self.probability
                else gradients_pb2.AttributeClassesRequest.SCORE_LOGIT
            ),
            top_classes=[self._top_classes(item, top_classes) for item in range(len(self.scores))],
            relaxations=self.relaxations,
            provenance=self.provenance,
        )

    def arrays(self) -> dict[str, Array]:
        """All arrays by name, as `numpy.savez` takes them."""
        arrays = {"attributions": self.values, "totals": self.totals, "scores": self.scores}
        if self.units is not None:
            arrays["units"] = self.units
        if self.sites is not None:
            arrays["sites"] = self.sites
        return arrays

    def label(self, index: int) -> str:
        """The name of a class; empty if it is not known."""
        return self.labels[index] if index < len(self.labels) else ""

    def best_classes(self, item: int = 0, count: int = 5) -> list[int]:
        """The classes with the highest scores on an input, the lower index first at a tie."""
        order: list[int] = np.argsort(-self.scores[item], kind="stable")[:count].tolist()
        return order

    def top(self, item: int = 0, count: int = 5, classes: Sequence[int] = ()) -> Table[ClassAttribution]:
        """What speaks for and against classes on an input.

        Args:
            item: The input, from 0.
            count: How many parts to show of each class: those with the largest absolute attribution.
            classes: Indices of classes; by default the one with the highest score, or for "whole" the best `count`.
        """
        chosen = list(classes) or self.best_classes(item, count if self.per == "whole" else 1)
        rows = [row for index in chosen for row in self._rows(item, index, count)]
        columns: list[Column[ClassAttribution]] = [
            Column("class", lambda row: row.index, numeric=True),
            Column("name", lambda row: row.label),
            Column("probability" if self.probability else "logit", lambda row: row.score, numeric=True),
            Column(self.per, lambda row: row.part, numeric=True),
            Column("attribution", lambda row: row.attribution, numeric=True),
        ]
        if self.per == "whole":
            del columns[3]
        if not any(row.label for row in rows):
            del columns[1]
        return Table(rows, columns, title=f"classes and {self.display_name}")

    def _rows(self, item: int, index: int, count: int) -> Iterator[ClassAttribution]:
        found = self.values[item, :, index]
        for part in np.argsort(-np.abs(found), kind="stable")[:count]:
            where: tuple[int, ...] = ()
            if self.units is not None:
                where = (int(self.units[part]),)
            elif self.sites is not None:
                where = tuple(self.sites[part].tolist())
            score, attribution = float(self.scores[item, index]), float(found[part])
            yield ClassAttribution(index, self.label(index), score, where, attribution)

    def _top_classes(self, item: int, count: int) -> gradients_pb2.TopClasses:
        return gradients_pb2.TopClasses(
            classes=[
                gradients_pb2.ClassScore(
                    index=index,
                    label=self.label(index),
                    score=self.scores[item, index],
                    attribution=self.totals[item, index],
                )
                for index in self.best_classes(item, count)
            ]
        )

    def __repr__(self) -> str:
        items, parts, classes = self.values.shape
        return (
            f"<Attributions of {classes} classes to {parts} parts ({self.per}) of {self.display_name}, {items} inputs>"
        )

    def _repr_html_(self) -> str:
        return self.top()._repr_html_()


def attribute(
    rpcs: Rpcs,
    model: models_pb2.ModelVersion,
    tap: models_pb2.Tap,
    inputs: Inputs,
    *,
    per: Per = "whole",
    units: Sequence[int] = (),
    sites: Sequence[Sequence[int]] = (),
    probability: bool = False,
    relax: Sequence[str] = (),
) -> Attributions:
    """Attributes the scores of all classes to a tap, in as many requests as the server's limits call for.

    Args:
        rpcs: The calls.
        model: The model version.
        tap: The tap.
        inputs: One item or many.
        per: Which parts of the tap have attributions of their own.
        units: For "unit": which; all if empty.
        sites: For "site": which; all if empty.
        probability: Whether probabilities are attributed rather than logits.
        relax: Names of relaxations.

    Raises:
        OrtoscopeError: As Gradients.AttributeClasses, and as `to_item`; PER_UNKNOWN.
    """
    check_choice(per, get_args(Per), "per")
    score = gradients_pb2.AttributeClassesRequest.SCORE_LOGIT
    if probability:
        score = gradients_pb2.AttributeClassesRequest.SCORE_PROBABILITY
    request = gradients_pb2.AttributeClassesRequest(
        model=model.name,
        tap=tap.tensor,
        granularity=_GRANULARITIES[per],
        units=[int(unit) for unit in units],
        sites=[gradients_pb2.Site(index=[int(index) for index in site]) for site in sites],
        score=score,
        relaxations=relax,
    )
    parts = len(units) or len(sites) or _part_count(tap, per)
    limit = rpcs.limits.max_attributions_per_request
    most = min(rpcs.limits.max_items_per_request or 1, max(1, limit // max(parts, 1)) if limit else 1)
    responses = []
    for batch in batches(rpcs, model, inputs, most):
        del request.inputs[:]
        request.inputs.extend(batch)
        responses.append(rpcs.attribute_classes(request))
    if not responses:  # the server says best what is wrong with no inputs
        responses = [rpcs.attribute_classes(request)]
    read = [Attributions.from_proto(response, model.class_labels) for response in responses]
    return replace(
        read[0],
        values=np.concatenate([part.values for part in read]),
        totals=np.concatenate([part.totals for part in read]),
        scores=np.concatenate([part.scores for part in read]),
    )


def _part_count(tap: models_pb2.Tap, per: Per) -> int:
    """How many parts a tap has; 1 where that is not known before the model runs."""
    if per == "whole":
        return 1
    extents = [tap.unit_count] if per == "unit" else [tap.shape[axis] for axis in tap.site_axes]
    return math.prod(extents) if min(extents, default=1) > 0 else 1
