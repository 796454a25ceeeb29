"""Objectives survive JSON, and nothing but objectives does."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from analysis.visualization.objective_cases import EVERY, numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from ortoscope_service.analysis.visualization.objective_json import (
    format_objective,
    objective_from_data,
    objective_to_data,
    parse_objective,
)
from ortoscope_service.analysis.visualization.objectives import (
    L1,
    L2,
    LEAVES,
    MAXIMUM_DEPTH,
    Alignment,
    Blur,
    BoundaryComplexity,
    Caricature,
    Channel,
    ChannelInterpolation,
    ClassLogit,
    ClassProbability,
    Constant,
    Difference,
    Direction,
    DirectionNeuron,
    Diversity,
    ForItem,
    Inversion,
    Layer,
    Neuron,
    Norm,
    Numbers,
    Objective,
    Picture,
    Product,
    RandomDirection,
    Scaled,
    Sum,
    TensorDirection,
    TotalVariation,
    WeightedChannels,
)
from ortoscope_service.errors import OrtoscopeError

floats = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**63), 2**63 - 1)
sources = st.text() | st.sampled_from(Picture)
sites = st.none() | st.tuples() | st.tuples(whole, whole)
arrays = st.lists(st.floats(width=32), max_size=6).map(Numbers) | st.tuples(st.integers(0, 3), st.integers(0, 90)).map(
    lambda shape: Numbers(np.random.default_rng(0).normal(size=(*shape, 20)))
)
leaves: st.SearchStrategy[Objective] = st.one_of(
    st.builds(Constant, floats),
    st.builds(Neuron, sources, whole, sites),
    st.builds(Channel, sources, whole),
    st.builds(Layer, sources),
    st.builds(ChannelInterpolation, sources, whole, sources, whole),
    st.builds(ClassLogit, whole | st.text()),
    st.builds(ClassProbability, whole | st.text()),
    st.builds(Direction, sources, arrays, floats),
    st.builds(WeightedChannels, sources, st.tuples(whole, whole), st.tuples(floats)),
    st.builds(RandomDirection, sources, whole, floats),
    st.builds(DirectionNeuron, sources, arrays, sites, floats),
    st.builds(TensorDirection, sources, arrays, floats),
    st.builds(Caricature, sources, arrays, floats),
    st.builds(Inversion, sources, arrays),
    st.builds(Diversity, sources),
    st.builds(Alignment, sources, floats),
    st.builds(L1, sources, floats),
    st.builds(L2, sources, floats, floats),
    st.builds(TotalVariation, sources),
    st.builds(Blur, sources),
    st.builds(BoundaryComplexity, sources, whole, floats),
    st.builds(Difference, sources, arrays, st.sampled_from(Norm)),
)
objectives = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: Sum(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: Product(tuple(parts))),
        st.builds(Scaled, floats, inner),
        st.builds(ForItem, whole, inner),
    ),
    max_leaves=6,
)
keys = [leaf.kind for leaf in LEAVES]
keys += ["sum", "product", "scaled", "weight", "for_item", "item", "constant", "tap", "picture", "unit", "vector"]
keys += ["shape", "float32", "site", "power", "label", "tensor", "units", "weights", "norm"]
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(objectives)
@settings(max_examples=300, deadline=None)
def test_objective_survives_json(objective: Objective) -> None:
    text = format_objective(objective)
    again = parse_objective(text)
    assert again == objective
    assert hash(again) == hash(objective)
    assert format_objective(again) == text
    assert parse_objective(text.encode()) == objective


@pytest.mark.parametrize("name", list(EVERY))
def test_tested_objectives_survive_json(name: str) -> None:
    assert parse_objective(format_objective(EVERY[name])) == EVERY[name]


@given(garbage)
@settings(max_examples=400, deadline=None)
def test_garbage_is_refused_with_a_reason_or_is_no_garbage(data: Any) -> None:
    try:
        objective = objective_from_data(data)
    except OrtoscopeError as error:
        assert error.reason in {"INVALID_OBJECTIVE", "OBJECTIVE_TOO_LARGE"}  # noqa: PT017 - or there is none
        assert error.field.startswith("objective")  # noqa: PT017
    else:
        assert objective_from_data(objective_to_data(objective)) == objective


@given(st.text() | st.binary())
@settings(max_examples=200, deadline=None)
def test_text_that_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        parse_objective(text)
    assert caught.value.reason in {"INVALID_JSON", "INVALID_OBJECTIVE"}


def test_json_reads_as_documented() -> None:
    text = """{"sum": [
        {"channel": {"tap": "mixed4a", "unit": 476}},
        {"scaled": {"weight": -0.05, "l1": {"picture": "image", "constant": 0.5}}},
        {"for_item": {"item": 1, "direction": {"tap": "mixed4a", "vector": [0.5, -1], "power": 2}}},
        {"constant": 1}
    ]}"""
    expected = Channel("mixed4a", 476) - 0.05 * L1(Picture.IMAGE, 0.5)
    assert parse_objective(text) == expected + ForItem(1, Direction("mixed4a", Numbers([0.5, -1]), 2)) + 1


def test_large_arrays_are_packed_and_small_ones_are_lists() -> None:
    large, small = numbers(4, 40, 40), numbers(2, 2)
    data = objective_to_data(TensorDirection("t", large))["tensor_direction"]["tensor"]
    assert data == {"shape": [4, 40, 40], "float32": base64.b64encode(large.array.astype("<f4").tobytes()).decode()}
    assert objective_to_data(TensorDirection("t", small))["tensor_direction"]["tensor"] == small.array.tolist()


CHANNEL = {"tap": "t", "unit": 1}

REFUSED: list[tuple[Any, str]] = [
    (None, "objective"),
    ([], "objective"),
    ({}, "objective"),
    ({"channel": CHANNEL, "layer": {"tap": "t"}}, "objective"),
    ({"chanel": CHANNEL}, "objective"),
    ({"channel": [1]}, "objective.channel"),
    ({"channel": {"tap": "t"}}, "objective.channel.unit"),
    ({"channel": {"tap": "t", "unit": True}}, "objective.channel.unit"),
    ({"channel": {"tap": "t", "unit": 1.0}}, "objective.channel.unit"),
    ({"channel": {"tap": "t", "unit": 2**63}}, "objective.channel.unit"),
    ({"channel": {"unit": 1}}, "objective.channel.tap"),
    ({"channel": {"tap": "t", "picture": "image", "unit": 1}}, "objective.channel.tap"),
    ({"channel": {"tap": 3, "unit": 1}}, "objective.channel.tap"),
    ({"channel": {"picture": "beta", "unit": 1}}, "objective.channel.picture"),
    ({"channel": {**CHANNEL, "weight": 1}}, "objective.channel"),
    ({"sum": CHANNEL}, "objective.sum"),
    ({"sum": [{"channel": CHANNEL}, {"product": [{"layer": {}}]}]}, "objective.sum[1].product[0].layer.tap"),
    ({"scaled": {"channel": CHANNEL}}, "objective.scaled.weight"),
    ({"scaled": {"weight": "1", "channel": CHANNEL}}, "objective.scaled.weight"),
    ({"scaled": {"weight": float("nan"), "channel": CHANNEL}}, "objective.scaled.weight"),
    ({"scaled": {"weight": 10**400, "channel": CHANNEL}}, "objective.scaled.weight"),
    ({"scaled": {"weight": 1}}, "objective.scaled"),
    ({"scaled": {"weight": 1, "channel": CHANNEL, "layer": {"tap": "t"}}}, "objective.scaled"),
    ({"for_item": {"item": 0.5, "channel": CHANNEL}}, "objective.for_item.item"),
    ({"constant": None}, "objective.constant"),
    ({"neuron": {**CHANNEL, "site": 3}}, "objective.neuron.site"),
    ({"neuron": {**CHANNEL, "site": [1, "2"]}}, "objective.neuron.site[1]"),
    ({"class_logit": {"label": None}}, "objective.class_logit.label"),
    ({"direction": {"tap": "t", "vector": "ab"}}, "objective.direction.vector"),
    ({"direction": {"tap": "t", "vector": [1, [2]]}}, "objective.direction.vector[0]"),
    ({"direction": {"tap": "t", "vector": [[1], [2, 3]]}}, "objective.direction.vector"),
    ({"direction": {"tap": "t", "vector": {"shape": [2]}}}, "objective.direction.vector"),
    ({"direction": {"tap": "t", "vector": {"shape": [2], "float32": "AAAA"}}}, "objective.direction.vector.float32"),
    ({"direction": {"tap": "t", "vector": {"shape": [1], "float32": "*"}}}, "objective.direction.vector.float32"),
    ({"direction": {"tap": "t", "vector": {"shape": [-1], "float32": ""}}}, "objective.direction.vector.shape"),
    ({"difference": {"tap": "t", "reference": [1], "norm": "l7"}}, "objective.difference.norm"),
]


@pytest.mark.parametrize(("data", "field"), REFUSED, ids=[str(index) for index in range(len(REFUSED))])
def test_data_that_is_no_objective_is_refused_by_the_field_at_fault(data: Any, field: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        objective_from_data(data)
    assert (caught.value.reason, caught.value.field) == ("INVALID_OBJECTIVE", field)
    assert "problem" in caught.value.metadata


def test_data_without_end_is_refused() -> None:
    data: dict[str, Any] = {"channel": CHANNEL}
    for _ in range(MAXIMUM_DEPTH):
        data = {"sum": [data]}
    with pytest.raises(OrtoscopeError) as caught:
        objective_from_data(data)
    assert caught.value.reason == "OBJECTIVE_TOO_LARGE"
    with pytest.raises(OrtoscopeError) as caught:
        objective_from_data({"sum": [{"channel": CHANNEL}] * 1000})
    assert caught.value.reason == "OBJECTIVE_TOO_LARGE"
    with pytest.raises(OrtoscopeError) as caught:
        parse_objective('{"sum":[' * 100_000)
    assert caught.value.reason == "INVALID_JSON"
    nested: list[Any] = [1]
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(OrtoscopeError) as caught:
        objective_from_data({"direction": {"tap": "t", "vector": nested}})
    assert caught.value.reason == "INVALID_OBJECTIVE"


def test_text_is_the_same_for_equal_objectives() -> None:
    assert format_objective(2 * Channel("t", 1)) == '{"scaled":{"channel":{"tap":"t","unit":1},"weight":2.0}}'
    assert json.loads(format_objective(Constant(1))) == {"constant": 1.0}
