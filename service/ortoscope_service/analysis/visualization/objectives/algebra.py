"""Objectives as data, and what can be done with them: sums, products, weights, and one item of a batch alone.

An objective gives one number for each item of a batch, which the optimiser makes as large as it can; what shall be
small has a negative weight. Expressions read as their formulas:

    Channel("mixed4a", 476) - 0.5 * Channel("mixed4a", 460) - 0.05 * L1(Picture.IMAGE, constant=0.5)

What is differentiated is the sum over the items. Lucid (`optvis/objectives.py`) adds up numbers of which some are means
over the batch, others sums; the leaves say how theirs compares.
"""

import abc
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.visualization.objectives.setting import Array, Canvas, Picture, Setting, Source
from ortoscope_service.errors import invalid

MAXIMUM_SIZE = 512
"""The most nodes that the tree of an objective may have."""

MAXIMUM_DEPTH = 32
"""The most levels that the tree of an objective may have."""

_LARGEST = float(np.finfo(np.float32).max)


class Objective(abc.ABC):
    """A number for each item of a batch, to be maximised. Subclasses are frozen dataclasses.

    `build` and `feeds` take a name, with which the names of the graph's inputs begin; `check` and `sources` take the
    path of the field that holds the objective, for errors. All of them but `check` rely on `check` having passed.
    """

    kind: ClassVar[str]
    """The word for it in JSON, in the paths of fields and in names of inputs."""

    @property
    @abc.abstractmethod
    def structure(self) -> Hashable:
        """What decides the nodes for a given model and size: objectives with equal ones share a session."""

    @property
    def couples_batch(self) -> bool:
        """Whether it is defined over a batch as a whole: what an item gets depends on its place or on the others."""
        return any(child.couples_batch for child in self.children)

    @property
    def children(self) -> tuple["Objective", ...]:
        """The objectives that it is made of."""
        return ()

    @abc.abstractmethod
    def check(self, setting: Setting, field: str) -> None:
        """Refuses an objective that does not fit, with an OrtoscopeError that names the field."""

    @abc.abstractmethod
    def sources(self, setting: Setting, field: str) -> tuple[Source, ...]:
        """What it reads: taps by tensor name, and parts of the picture."""

    @abc.abstractmethod
    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Appends its nodes; returns the number of each item, (batch,)."""

    @abc.abstractmethod
    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """What the inputs that `build` adds are given, items along the first axis."""

    def vanishes(self, item: int) -> bool:  # noqa: ARG002 - the same for all items, here
        """Whether it is 0 for an item, whatever is drawn."""
        return False

    def moves(self, item: int) -> bool:  # noqa: ARG002 - the same for all items, here
        """Whether it depends on what is drawn for an item."""
        return True

    def __add__(self, other: "Objective | float") -> "Objective":
        return Sum((*_terms(self), *_terms(_as_objective(other))))

    def __radd__(self, other: float) -> "Objective":
        return _as_objective(other) + self

    def __neg__(self) -> "Objective":
        return _scaled(-1.0, self)

    def __sub__(self, other: "Objective | float") -> "Objective":
        return self + -_as_objective(other)

    def __rsub__(self, other: float) -> "Objective":
        return _as_objective(other) + -self

    def __mul__(self, other: "Objective | float") -> "Objective":
        if isinstance(other, Objective):
            return Product((*_factors(self), *_factors(other)))
        return _scaled(float(other), self)

    def __rmul__(self, other: float) -> "Objective":
        return self * other

    def __truediv__(self, other: float) -> "Objective":
        return _scaled(1 / other, self)


@dataclass(frozen=True)
class Constant(Objective):
    """The same number for every item: the 1 of `objective * (1 - Channel(Picture.ALPHA, 0))`."""

    kind = "constant"

    value: float
    """The number."""

    @property
    def structure(self) -> Hashable:
        """Only that it is there: the number is fed."""
        return (self.kind,)

    def check(self, setting: Setting, field: str) -> None:  # noqa: ARG002 - fits any setting
        """Refuses what is not a finite number: `NOT_FINITE`."""
        check_finite(self.value, f"{field}.{self.kind}")

    def sources(self, setting: Setting, field: str) -> tuple[Source, ...]:  # noqa: ARG002
        """Nothing."""
        return ()

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The number that is fed."""
        return canvas.feed(f"{name}.{self.kind}")

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The number."""
        return {f"{name}.{self.kind}": setting.repeated(float(self.value))}

    def vanishes(self, item: int) -> bool:  # noqa: ARG002
        """Whether the number is 0."""
        return self.value == 0

    def moves(self, item: int) -> bool:  # noqa: ARG002
        """It does not."""
        return False


@dataclass(frozen=True)
class Sum(Objective):
    """The sum of objectives, item by item."""

    kind = "sum"

    terms: tuple[Objective, ...]
    """What is added up."""

    @property
    def structure(self) -> Hashable:
        """Those of the terms."""
        return (self.kind, *(term.structure for term in self.terms))

    @property
    def children(self) -> tuple[Objective, ...]:
        """The terms."""
        return self.terms

    def check(self, setting: Setting, field: str) -> None:
        """Refuses a sum of nothing: `EMPTY_OBJECTIVE`."""
        _check_parts(self, setting, field)

    def sources(self, setting: Setting, field: str) -> tuple[Source, ...]:
        """Those of the terms."""
        return _sources_of_parts(self, setting, field)

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Adds the terms up, in order."""
        return canvas.g.add(*_built_parts(self, canvas, name))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """Those of the terms."""
        return _feeds_of_parts(self, setting, name)

    def vanishes(self, item: int) -> bool:
        """Whether all terms are 0."""
        return all(term.vanishes(item) for term in self.terms)

    def moves(self, item: int) -> bool:
        """Whether any term does."""
        return any(term.moves(item) for term in self.terms)


@dataclass(frozen=True)
class Product(Objective):
    """The product of objectives, item by item; Lucid multiplies what it has averaged over the batch."""

    kind = "product"

    factors: tuple[Objective, ...]
    """What is multiplied."""

    @property
    def structure(self) -> Hashable:
        """Those of the factors."""
        return (self.kind, *(factor.structure for factor in self.factors))

    @property
    def children(self) -> tuple[Objective, ...]:
        """The factors."""
        return self.factors

    def check(self, setting: Setting, field: str) -> None:
        """Refuses a product of nothing: `EMPTY_OBJECTIVE`."""
        _check_parts(self, setting, field)

    def sources(self, setting: Setting, field: str) -> tuple[Source, ...]:
        """Those of the factors."""
        return _sources_of_parts(self, setting, field)

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Multiplies the factors, in order."""
        return canvas.g.multiply(*_built_parts(self, canvas, name))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """Those of the factors."""
        return _feeds_of_parts(self, setting, name)

    def vanishes(self, item: int) -> bool:
        """Whether any factor is 0."""
        return any(factor.vanishes(item) for factor in self.factors)

    def moves(self, item: int) -> bool:
        """Whether any factor does and none is 0."""
        return not self.vanishes(item) and any(factor.moves(item) for factor in self.factors)


@dataclass(frozen=True)
class Scaled(Objective):
    """An objective times a weight. A negative weight makes it small instead of large."""

    kind = "scaled"

    weight: float
    """The weight."""

    objective: Objective
    """What is weighted."""

    @property
    def structure(self) -> Hashable:
        """That of the objective: the weight is fed."""
        return (self.kind, self.objective.structure)

    @property
    def children(self) -> tuple[Objective, ...]:
        """The objective."""
        return (self.objective,)

    def check(self, setting: Setting, field: str) -> None:
        """Refuses a weight that is not a finite number: `NOT_FINITE`."""
        check_finite(self.weight, f"{field}.{self.kind}.weight")
        self.objective.check(setting, f"{field}.{self.kind}")

    def sources(self, setting: Setting, field: str) -> tuple[Source, ...]:
        """Those of the objective."""
        return self.objective.sources(setting, f"{field}.{self.kind}")

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Multiplies by the weight."""
        inner = self.objective.build(canvas, f"{name}.{self.kind}")
        return canvas.g.multiply(inner, canvas.feed(f"{name}.{self.kind}.weight"))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """The weight, and what the objective needs."""
        weight = {f"{name}.{self.kind}.weight": setting.repeated(float(self.weight))}
        return {**self.objective.feeds(setting, f"{name}.{self.kind}"), **weight}

    def vanishes(self, item: int) -> bool:
        """Whether the weight or the objective is 0."""
        return self.weight == 0 or self.objective.vanishes(item)

    def moves(self, item: int) -> bool:
        """Whether the objective does and counts."""
        return self.weight != 0 and self.objective.moves(item)


@dataclass(frozen=True)
class ForItem(Objective):
    """An objective for one item of the batch, 0 for the others: Lucid's argument `batch`.

    Lucid's `channel(l, n, batch=1) - channel(l, n, batch=0)` is `ForItem(1, c) - ForItem(0, c)`.
    """

    kind = "for_item"

    item: int
    """The item, from 0."""

    objective: Objective
    """What it shall be for that item."""

    @property
    def structure(self) -> Hashable:
        """That of the objective: which item is fed."""
        return (self.kind, self.objective.structure)

    @property
    def couples_batch(self) -> bool:
        """It names a place in the batch."""
        return True

    @property
    def children(self) -> tuple[Objective, ...]:
        """The objective."""
        return (self.objective,)

    def check(self, setting: Setting, field: str) -> None:
        """Refuses an item beyond the batch: `INVALID_ITEM`."""
        if not 0 <= self.item < setting.batch:
            raise invalid(
                "INVALID_ITEM",
                f"There is no item {self.item} in a batch of {setting.batch}; items are counted from 0. Make the batch "
                "larger, or name another item.",
                field=f"{field}.{self.kind}.item",
                item=self.item,
                batch=setting.batch,
            )
        self.objective.check(setting, f"{field}.{self.kind}")

    def sources(self, setting: Setting, field: str) -> tuple[Source, ...]:
        """Those of the objective."""
        return self.objective.sources(setting, f"{field}.{self.kind}")

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Takes the objective where the item is meant, 0 elsewhere: not even a NaN comes from another item."""
        inner = self.objective.build(canvas, f"{name}.{self.kind}")
        chosen = canvas.g.op("Equal", [canvas.feed(f"{name}.{self.kind}.chosen", integers=True), canvas.g.constant(1)])
        return canvas.g.op("Where", [chosen, inner, canvas.constant(0)])

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """1 for the item, 0 for the others, and what the objective needs."""
        chosen = (np.arange(setting.batch) == self.item).astype(np.int64)
        inner = self.objective.feeds(setting, f"{name}.{self.kind}")
        return {**inner, f"{name}.{self.kind}.chosen": chosen}

    def vanishes(self, item: int) -> bool:
        """Whether it is for another item."""
        return item != self.item or self.objective.vanishes(item)

    def moves(self, item: int) -> bool:
        """Whether it is for this item, and the objective depends on it."""
        return item == self.item and self.objective.moves(item)


def check(objective: Objective, setting: Setting, *, field: str = "objective") -> None:
    """Refuses an objective that cannot be maximised in a setting, before any work.

    Args:
        objective: The objective.
        setting: The model, the picture and the batch.
        field: The path of the field that holds it; fields within it are named like
            `objective.sum[1].scaled.channel.unit`.

    Raises:
        OrtoscopeError: `OBJECTIVE_TOO_LARGE`; `ITEM_WITHOUT_OBJECTIVE`: for an item of the batch the objective is a
            constant, so nothing would be drawn for it; and as the parts say: `EMPTY_OBJECTIVE`, `NOT_FINITE`,
            `INVALID_ITEM`, `UNKNOWN_TAP` (NOT_FOUND), `INVALID_UNIT`, `INVALID_SITE`, `EMPTY_TAP`,
            `TAP_SHAPE_UNKNOWN` (FAILED_PRECONDITION), `NO_ALPHA`, `INVALID_POWER`, `INVALID_SHAPE`, `ZERO_DIRECTION`,
            `DUPLICATE_UNIT`, `INVALID_SEED`, `NO_CLASSES` (FAILED_PRECONDITION), `UNKNOWN_CLASS` (NOT_FOUND),
            `AMBIGUOUS_CLASS`, `INVALID_CLASS`, `BATCH_TOO_SMALL`, `NO_SITES`, `NOT_A_PICTURE`, `INVALID_CONSTANT`.
    """
    _check_size(objective, field)
    objective.check(setting, field)
    idle = next((item for item in range(setting.batch) if not objective.moves(item)), None)
    if idle is not None:
        raise invalid(
            "ITEM_WITHOUT_OBJECTIVE",
            f"Item {idle} of the batch of {setting.batch} has nothing to maximise: for it the objective is a constant. "
            "Add a term for this item, or make the batch smaller.",
            field=field,
            item=idle,
            batch=setting.batch,
        )


def taps(objective: Objective, setting: Setting, *, field: str = "objective") -> tuple[str, ...]:
    """The tensors of the model that an objective reads, each once, in the order of the objective."""
    found = objective.sources(setting, field)
    return tuple(dict.fromkeys(source for source in found if not isinstance(source, Picture)))


def packed_feeds(objectives: Sequence[Objective], setting: Setting, *, name: str = "objective") -> dict[str, Array]:
    """What is fed when every item of a batch has an objective of its own.

    Args:
        objectives: One for each item, all of one structure and none that couples the batch.
        setting: The model, the picture and the batch, which is as large as there are objectives.
        name: The name that `build` was given.

    Returns:
        Arrays as `feeds` gives them.
    """
    assert len(objectives) == setting.batch
    assert len({objective.structure for objective in objectives}) == 1
    assert not any(objective.couples_batch for objective in objectives)
    alone = replace(setting, batch=1)
    items = [objective.feeds(alone, name) for objective in objectives]
    return {key: np.concatenate([item[key] for item in items]) for key in items[0]}


def walk(objective: Objective) -> Iterator[tuple[int, Objective]]:
    """Every node of an objective's tree with its depth, the root's being 1."""
    waiting = [(1, objective)]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node
        waiting.extend((depth + 1, child) for child in reversed(node.children))


def check_finite(number: float, field: str) -> None:
    """Refuses what is not a finite number of float32.

    Raises:
        OrtoscopeError: `NOT_FINITE`.
    """
    if not math.isfinite(number) or abs(number) > _LARGEST:
        raise invalid(
            "NOT_FINITE",
            f"{number} is not a finite number of single precision; give one between -3.4e38 and 3.4e38.",
            field=field,
            number=number,
        )


def _check_size(objective: Objective, field: str) -> None:
    for count, (depth, _) in enumerate(walk(objective), start=1):
        if count > MAXIMUM_SIZE or depth > MAXIMUM_DEPTH:
            raise invalid(
                "OBJECTIVE_TOO_LARGE",
                f"The objective has more than {MAXIMUM_SIZE} parts or more than {MAXIMUM_DEPTH} levels; write it with "
                "fewer, such as one weighted sum over channels for many channels of a tap.",
                field=field,
                largest_size=MAXIMUM_SIZE,
                largest_depth=MAXIMUM_DEPTH,
            )


def _as_objective(value: "Objective | float") -> Objective:
    return value if isinstance(value, Objective) else Constant(float(value))


def _scaled(weight: float, objective: Objective) -> Objective:
    if isinstance(objective, Scaled):
        return Scaled(weight * objective.weight, objective.objective)
    return Scaled(weight, objective)


def _terms(objective: Objective) -> tuple[Objective, ...]:
    return objective.terms if isinstance(objective, Sum) else (objective,)


def _factors(objective: Objective) -> tuple[Objective, ...]:
    return objective.factors if isinstance(objective, Product) else (objective,)


def _check_parts(whole: Objective, setting: Setting, field: str) -> None:
    if not whole.children:
        raise invalid(
            "EMPTY_OBJECTIVE",
            f"A {whole.kind} of no objectives has no meaning; give at least one.",
            field=f"{field}.{whole.kind}",
            kind=whole.kind,
        )
    for index, part in enumerate(whole.children):
        part.check(setting, f"{field}.{whole.kind}[{index}]")


def _sources_of_parts(whole: Objective, setting: Setting, field: str) -> tuple[Source, ...]:
    return tuple(
        source
        for index, part in enumerate(whole.children)
        for source in part.sources(setting, f"{field}.{whole.kind}[{index}]")
    )


def _built_parts(whole: Objective, canvas: Canvas, name: str) -> list[ir.Value]:
    return [part.build(canvas, f"{name}.{whole.kind}[{index}]") for index, part in enumerate(whole.children)]


def _feeds_of_parts(whole: Objective, setting: Setting, name: str) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for index, part in enumerate(whole.children):
        found.update(part.feeds(setting, f"{name}.{whole.kind}[{index}]"))
    return found
