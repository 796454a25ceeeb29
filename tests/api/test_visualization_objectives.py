"""Objectives over the wire: what a request says is what is climbed, and errors name the request's own fields."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ortoscope.v1.gradients_pb2 import ClassReference
from ortoscope.v1.visualization_pb2 import VisualizationObjective
from ortoscope_service.analysis.visualization.objectives import (
    L2,
    LEAVES,
    BoundaryComplexity,
    Channel,
    ClassLogit,
    ClassProbability,
    Constant,
    Difference,
    Direction,
    DirectionNeuron,
    ForItem,
    Neuron,
    Norm,
    Numbers,
    Objective,
    Picture,
    Product,
    Scaled,
    Sum,
    WeightedChannels,
)
from ortoscope_service.api.visualization_objectives import blaming_fields_of, read_objective, request_field
from ortoscope_service.errors import OrtoscopeError, invalid
from serving import to_tensor

O = VisualizationObjective  # noqa: E741 - short, for trees
KINDS = {field.name: field for field in O.DESCRIPTOR.oneofs_by_name["kind"].fields}
COMBINED = {Constant.kind, Sum.kind, Product.kind, Scaled.kind, ForItem.kind}
CLASSES = (ClassLogit, ClassProbability)
UNKNOWN: Any = 9
VECTOR = np.array([0.25, -1, 3e-9], np.float32)


def tap(name: str) -> O.Source:
    return O.Source(tap=name)


def channel(unit: int = 3) -> VisualizationObjective:
    return O(channel=O.Channel(of=tap("a"), unit=unit))


def test_every_kind_is_in_the_messages_and_no_other() -> None:
    assert set(KINDS) == COMBINED | {leaf.kind for leaf in LEAVES}


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.kind)
def test_every_leaf_has_the_fields_of_its_message(leaf: Any) -> None:
    message: Any = KINDS[leaf.kind].message_type
    if message is ClassReference.DESCRIPTOR:
        assert leaf in CLASSES
        return
    assert [field.name for field in message.fields] == [field.name for field in dataclasses.fields(leaf)]


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf not in CLASSES], ids=lambda leaf: leaf.kind)
def test_fields_that_a_message_leaves_out_take_the_defaults_of_the_leaf(leaf: Any) -> None:
    message: Any = KINDS[leaf.kind].message_type
    given: dict[str, Any] = {}
    for field in message.fields:
        if field.name in {"of", "to"}:
            given[field.name] = tap("a")
        elif field.message_type is not None and field.message_type.name == "Tensor":
            given[field.name] = to_tensor(VECTOR)
    read = read_objective(O(**{leaf.kind: getattr(O, message.name)(**given)}))
    for own in dataclasses.fields(leaf):
        if own.default is not dataclasses.MISSING:
            assert getattr(read, own.name) == own.default, own.name


def cases() -> Iterator[tuple[VisualizationObjective, Objective]]:
    yield channel(), Channel("a", 3)
    yield O(constant=-2.5), Constant(-2.5)
    yield O(sum=O.Sum(terms=[channel(1), channel(2)])), Sum((Channel("a", 1), Channel("a", 2)))
    yield O(product=O.Product(factors=[channel(1), O(constant=0)])), Product((Channel("a", 1), Constant(0.0)))
    yield O(scaled=O.Scaled(weight=-0.5, objective=channel(0))), Scaled(-0.5, Channel("a", 0))
    yield O(scaled=O.Scaled(objective=channel(0))), Scaled(0.0, Channel("a", 0))
    yield O(for_item=O.ForItem(item=4, objective=channel(0))), ForItem(4, Channel("a", 0))
    yield O(neuron=O.Neuron(of=tap("a"), unit=7)), Neuron("a", 7)
    yield O(neuron=O.Neuron(of=tap("a"), unit=7, site=O.SiteIndex(index=[1, -2]))), Neuron("a", 7, (1, -2))
    yield O(class_logit=ClassReference(index=0)), ClassLogit(0)
    yield O(class_probability=ClassReference(label="tabby")), ClassProbability("tabby")
    yield (
        O(direction=O.Direction(of=tap("a"), vector=to_tensor(VECTOR), power=2)),
        Direction("a", Numbers(VECTOR), 2.0),
    )
    yield (
        O(direction_neuron=O.DirectionNeuron(of=tap("a"), vector=to_tensor(VECTOR), site=O.SiteIndex(index=[0]))),
        DirectionNeuron("a", Numbers(VECTOR), (0,)),
    )
    yield (
        O(weighted_channels=O.WeightedChannels(of=tap("a"), units=[3, 1], weights=[0.5, -1])),
        WeightedChannels("a", (3, 1), (0.5, -1.0)),
    )
    image = O.Source(picture=O.Source.PICTURE_IMAGE)
    yield O(l2=O.L2(of=image, constant=0.5)), L2(Picture.IMAGE, 0.5)
    yield O(l2=O.L2(of=image, epsilon=0)), L2(Picture.IMAGE, 0.0, 0.0)
    yield O(boundary_complexity=O.BoundaryComplexity(of=image, width=4)), BoundaryComplexity(Picture.IMAGE, 4)
    yield (
        O(difference=O.Difference(of=image, reference=to_tensor(VECTOR), norm=O.Difference.NORM_MAX)),
        Difference(Picture.IMAGE, Numbers(VECTOR), Norm.MAX),
    )
    alpha = O.Source(picture=O.Source.PICTURE_ALPHA)
    yield O(channel=O.Channel(of=alpha)), Channel(Picture.ALPHA, 0)


@pytest.mark.parametrize(("message", "expected"), list(cases()))
def test_a_message_is_read_as_the_objective_that_it_says(message: VisualizationObjective, expected: Objective) -> None:
    assert read_objective(message) == expected


def test_every_norm_and_every_part_of_the_picture_can_be_said() -> None:
    words = {value.name.removeprefix("NORM_").lower() for value in O.Difference.Norm.DESCRIPTOR.values}
    assert words - {"unspecified"} == {norm.value for norm in Norm}
    parts = {value.name.removeprefix("PICTURE_").lower() for value in O.Source.Picture.DESCRIPTOR.values}
    assert parts - {"unspecified"} == {picture.value for picture in Picture}


def deep(levels: int) -> VisualizationObjective:
    found = channel()
    for _ in range(levels):
        found = O(scaled=O.Scaled(weight=1, objective=found))
    return found


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        (O(), "NO_OBJECTIVE", "objective"),
        (O(sum=O.Sum(terms=[channel(), O()])), "NO_OBJECTIVE", "objective.sum.terms[1]"),
        (O(scaled=O.Scaled(weight=2)), "NO_OBJECTIVE", "objective.scaled.objective"),
        (O(layer=O.Layer()), "NO_SOURCE", "objective.layer.of.tap"),
        (
            O(layer=O.Layer(of=O.Source(picture=O.Source.PICTURE_UNSPECIFIED))),
            "NO_SOURCE",
            "objective.layer.of.picture",
        ),
        (O(layer=O.Layer(of=O.Source(picture=UNKNOWN))), "INVALID_OBJECTIVE", "objective.layer.of.picture"),
        (
            O(channel_interpolation=O.ChannelInterpolation(of=tap("a"))),
            "NO_SOURCE",
            "objective.channel_interpolation.to.tap",
        ),
        (O(class_logit=ClassReference()), "NO_CLASS", "objective.class_logit"),
        (O(direction=O.Direction(of=tap("a"))), "NO_TENSOR", "objective.direction.vector"),
        (
            O(direction=O.Direction(of=tap("a"), vector=to_tensor(VECTOR.astype(np.float64)))),
            "TENSOR_TYPE",
            "objective.direction.vector.data_type",
        ),
        (O(constant=float("nan")), "INVALID_OBJECTIVE", "objective.constant"),
        (
            O(sum=O.Sum(terms=[O(scaled=O.Scaled(weight=float("inf"), objective=channel()))])),
            "INVALID_OBJECTIVE",
            "objective.sum.terms[0].scaled.weight",
        ),
        (
            O(weighted_channels=O.WeightedChannels(of=tap("a"), units=[1], weights=[float("nan")])),
            "INVALID_OBJECTIVE",
            "objective.weighted_channels.weights[0]",
        ),
        (deep(40), "OBJECTIVE_TOO_LARGE", "objective" + ".scaled.objective" * 32),
        (
            O(sum=O.Sum(terms=[channel()] * 600)),
            "OBJECTIVE_TOO_LARGE",
            "objective.sum.terms[511]",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(message: VisualizationObjective, reason: str, field: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        read_objective(message)
    assert (caught.value.reason, caught.value.field) == (reason, field)


TREE = O(
    sum=O.Sum(
        terms=[
            channel(),
            O(scaled=O.Scaled(weight=1, objective=O(class_logit=ClassReference(index=3)))),
            O(product=O.Product(factors=[O(for_item=O.ForItem(objective=channel())), channel()])),
            O(class_logit=ClassReference(label="cat")),
        ]
    )
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("objective", "objective"),
        ("objective.sum[0].channel.unit", "objective.sum.terms[0].channel.unit"),
        ("objective.sum[0].channel.tap", "objective.sum.terms[0].channel.of.tap"),
        ("objective.sum[1].scaled.weight", "objective.sum.terms[1].scaled.weight"),
        ("objective.sum[1].scaled.class_logit.label", "objective.sum.terms[1].scaled.objective.class_logit.index"),
        ("objective.sum[3].class_logit.label", "objective.sum.terms[3].class_logit.label"),
        (
            "objective.sum[2].product[0].for_item.channel.picture",
            "objective.sum.terms[2].product.factors[0].for_item.objective.channel.of.picture",
        ),
        ("objective.sum[2].product[0].for_item.item", "objective.sum.terms[2].product.factors[0].for_item.item"),
        ("objective.sum[2].product", "objective.sum.terms[2].product"),
        ("objective.sum.terms[0].channel.of.tap", "objective.sum.terms[0].channel.of.tap"),
        ("recipe.settings.size", "recipe.settings.size"),
        ("objectives", "objectives"),
        ("", ""),
    ],
)
def test_fields_of_json_are_told_as_those_of_the_request(path: str, expected: str) -> None:
    assert request_field(path, TREE) == expected


def test_two_sources_are_told_apart() -> None:
    message = O(channel_interpolation=O.ChannelInterpolation(of=tap("a"), to=tap("b")))
    for path, expected in (("tap", "of.tap"), ("to_tap", "to.tap"), ("to_unit", "to_unit")):
        found = request_field(f"objective.channel_interpolation.{path}", message)
        assert found == f"objective.channel_interpolation.{expected}"


def test_errors_of_others_name_the_field_of_the_request() -> None:
    with pytest.raises(OrtoscopeError) as caught, blaming_fields_of(TREE):
        raise invalid("INVALID_UNIT", "no such unit", field="objective.sum[0].channel.unit")
    assert caught.value.field == "objective.sum.terms[0].channel.unit"
