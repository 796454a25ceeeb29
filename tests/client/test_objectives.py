"""Objectives in Python: they compose like numbers, say what they are, and are the ones that the service knows."""

import dataclasses
from typing import Any

import numpy as np
import ortoscope
import pytest
from ortoscope import objectives
from ortoscope.objectives import (
    Part,
    VisualizationObjective,
    alignment,
    blur,
    boundary_complexity,
    caricature,
    channel,
    channel_interpolation,
    class_logit,
    class_probability,
    constant,
    difference,
    direction,
    direction_neuron,
    diversity,
    for_item,
    inversion,
    l1,
    l2,
    layer,
    neuron,
    random_direction,
    tensor_direction,
    total_variation,
    weighted_channels,
)
from ortoscope.v1 import visualization_pb2
from ortoscope_service.analysis.visualization import objective_json
from ortoscope_service.analysis.visualization import objectives as service
from ortoscope_service.api.visualization_objectives import read_objective

A, B, C = channel("t", 3), channel("t", 7), layer("u")

EVERY_LEAF = {
    "neuron": neuron("t", 3, (1, -1)),
    "channel": A,
    "layer": C,
    "channel_interpolation": channel_interpolation("t", 1, 2, "u"),
    "class_logit": class_logit("tabby"),
    "class_probability": class_probability(281),
    "direction": direction("t", [0.5, -1, 2], 2),
    "direction_neuron": direction_neuron("t", np.arange(3), (0, 1), 1),
    "weighted_channels": weighted_channels("t", {3: 1, 7: -0.5}),
    "random_direction": random_direction("t", 5, 0.5),
    "tensor_direction": tensor_direction("t", np.ones((2, 3, 4))),
    "caricature": caricature("t", np.ones((2, 3, 4)), 1),
    "inversion": inversion("t", np.ones((2, 3, 4))),
    "diversity": diversity("t"),
    "alignment": alignment("t", 1.5),
    "l1": l1(constant=0.5),
    "l2": l2(Part.ALPHA, 0.25, 1e-3),
    "total_variation": total_variation(),
    "blur": blur(),
    "boundary_complexity": boundary_complexity(width=8, constant=0.25),
    "difference": difference(Part.IMAGE, np.zeros((3, 2, 2)), "max"),
}


def terms(made: VisualizationObjective) -> list[Any]:
    return made.to_data()["sum"]


def test_sums_and_weights_make_one_flat_sum() -> None:
    made = A - 0.5 * B + C / 4 - 2
    assert terms(made) == [
        {"channel": {"tap": "t", "unit": 3}},
        {"scaled": {"weight": -0.5, "channel": {"tap": "t", "unit": 7}}},
        {"scaled": {"weight": 0.25, "layer": {"tap": "u"}}},
        {"constant": -2.0},
    ]
    assert sum([A, B, C]) == A + B + C == A + (B + C)


def test_products_are_flat_and_weights_multiply() -> None:
    assert (A * B * C).to_data()["product"] == [part.to_data() for part in (A, B, C)]
    assert 2 * (3 * A) == 6 * A
    negative = -A
    assert -negative == 1.0 * A
    assert -A == -1 * A
    assert +A is A
    assert constant(1) + -A == 1 - A
    assert -A == 0 - A


def test_equal_objectives_are_equal_and_have_one_hash() -> None:
    assert {A - B, channel("t", 3) + -1 * channel("t", 7)} == {A - B}
    assert A != B
    assert A != "t"


def test_what_knows_its_tensor_stands_for_a_tap() -> None:
    tap = ortoscope.Tap(None, ortoscope.v1.models_pb2.Tap(tensor="t"), None)  # type: ignore[arg-type]
    assert channel(tap, 3) == A
    assert tap.unit(3).channel == A
    assert tap.unit(3).neuron == neuron("t", 3)


@pytest.mark.parametrize(
    "made",
    [
        A - 0.5 * B,
        -A,
        (A + B) * C,
        2 * (A + B),
        A * (-0.5 * B),
        for_item(1, A - B) + for_item(0, C),
        neuron("t", 3),
        neuron("t", 3, (1, -1)),
        channel_interpolation("t", 1, 2, "u"),
        class_logit("tabby"),
        direction("t", [0.5, 1], 2),
        weighted_channels("t", {3: 1, 7: -0.5}),
        l1(constant=0.5),
        total_variation(Part.ALPHA),
        1.5 - A,
    ],
)
def test_a_repr_is_the_expression_itself(made: VisualizationObjective) -> None:
    assert eval(repr(made), vars(objectives)) == made


def test_a_repr_does_not_list_large_arrays() -> None:
    assert repr(direction("t", np.ones(100))) == "direction('t', <100 numbers>, power=0.0)"
    assert repr(inversion("t", np.ones((100, 10, 10)))) == "inversion('t', <100 x 10 x 10 numbers>)"


def test_every_kind_of_the_service_and_of_the_api_has_a_function() -> None:
    leaves = {leaf.kind for leaf in service.LEAVES}
    assert set(EVERY_LEAF) == leaves
    wrappers = {kind.kind for kind in (service.Sum, service.Scaled, service.Product, service.ForItem, service.Constant)}
    kinds = {field.name for field in visualization_pb2.VisualizationObjective.DESCRIPTOR.fields}
    assert kinds == leaves | wrappers
    assert all(callable(getattr(objectives, kind)) for kind in leaves)


@pytest.mark.parametrize("kind", EVERY_LEAF)
def test_the_service_reads_what_is_sent_as_it_reads_the_json(kind: str) -> None:
    """The message and the JSON come to one and the same objective, whose JSON gives the message back."""
    made = for_item(1, EVERY_LEAF[kind]) - 2 * C
    read = read_objective(made.proto)
    assert read == objective_json.objective_from_data(made.to_data())
    assert read_objective(VisualizationObjective.from_data(objective_json.objective_to_data(read)).proto) == read
    assert VisualizationObjective.from_data(made.to_data()) == made


@pytest.mark.parametrize("kind", EVERY_LEAF)
def test_what_is_left_out_has_the_default_of_the_service(kind: str) -> None:
    leaf = next(leaf for leaf in service.LEAVES if leaf.kind == kind)
    assert dataclasses.is_dataclass(leaf)
    optional = {own.name for own in dataclasses.fields(leaf) if own.default is not dataclasses.MISSING}
    data = EVERY_LEAF[kind].to_data()
    needed = {kind: {name: value for name, value in data[kind].items() if name not in optional}}
    assert read_objective(VisualizationObjective.from_data(needed).proto) == objective_json.objective_from_data(needed)


def test_large_arrays_are_packed_and_read_again() -> None:
    numbers = np.random.default_rng(0).standard_normal((64, 9, 9)).astype(np.float32)
    data = inversion("t", numbers).to_data()
    assert set(data["inversion"]["activation"]) == {"shape", "float32"}
    assert VisualizationObjective.from_data(data) == inversion("t", numbers)


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        ({}, "objective", "has 0"),
        ([], "objective", "no object"),
        ({"chanel": {}}, "objective", "there is no kind 'chanel'"),
        ({"channel": {"tap": "t"}}, "objective.channel.unit", "missing"),
        ({"channel": {"tap": "t", "unit": 1.5}}, "objective.channel.unit", "no whole number"),
        ({"channel": {"tap": "t", "unit": True}}, "objective.channel.unit", "no whole number"),
        ({"channel": {"tap": "t", "unit": 1, "sight": 2}}, "objective.channel", "no field 'sight'"),
        ({"channel": {"unit": 1}}, "objective.channel.tap", "either 'tap'"),
        ({"l1": {"picture": "sound"}}, "objective.l1.picture", "none of image, alpha"),
        ({"scaled": {"channel": {"tap": "t", "unit": 1}}}, "objective.scaled.weight", "missing"),
        ({"sum": [{"layer": {"tap": "t"}}, {"layer": {}}]}, "objective.sum[1].layer.tap", "either"),
        ({"sum": {}}, "objective.sum", "no list"),
        ({"constant": float("nan")}, "objective.constant", "no finite number"),
        ({"direction": {"tap": "t", "vector": [[1], [1, 2]]}}, "objective.direction.vector", "nested list"),
        (
            {"direction": {"tap": "t", "vector": {"shape": [2], "float32": "AA=="}}},
            "objective.direction.vector.",
            "fit",
        ),
        ({"difference": {"tap": "t", "reference": [1], "norm": "z"}}, "objective.difference.norm", "none of rms"),
        ({"class_logit": {"index": 3}}, "objective.class_logit", "one field"),
        ({"class_logit": {"label": None}}, "objective.class_logit.label", "no whole number"),
    ],
)
def test_what_is_misspelt_is_refused(data: object, field: str, words: str) -> None:
    with pytest.raises(ortoscope.InvalidArgument, match=words) as caught:
        VisualizationObjective.from_data(data)
    assert caught.value.reason == "INVALID_OBJECTIVE"
    assert caught.value.field.startswith(field)


def test_an_endless_nest_is_refused() -> None:
    data: object = {"layer": {"tap": "t"}}
    for _ in range(200):
        data = {"sum": [data]}
    with pytest.raises(ortoscope.InvalidArgument, match="levels"):
        VisualizationObjective.from_data(data)
