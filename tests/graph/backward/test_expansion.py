"""Operators that are functions of simpler ones, and what becomes of every operator of the standard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from finite_differences import (
    check_derivatives,
    check_single_precision,
    evaluate,
    gradients_of,
    node_model,
    run_in_onnxruntime,
)
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.axes import RECURRENT
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.expansion import expand_functions
from ortoscope_service.graph.backward.registry import ZERO_DERIVATIVE, operators, rule_for
from ortoscope_service.graph.backward.walker import differentiate
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

NEWEST = onnx.defs.onnx_opset_version()

FLOATS = tuple(f"tensor({name})" for name in ("float", "float16", "double", "bfloat16"))
"""Types as schemas name them."""

REFUSED = frozenset(
    {
        "BitCast",
        "ConcatFromSequence",
        "DFT",
        "DeformConv",
        "DequantizeLinear",
        "Det",
        "MaxRoiPool",
        "MelWeightMatrix",
        "Optional",
        "OptionalGetElement",
        "RoiAlign",
        "STFT",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceErase",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
        "TensorScatter",
        "Unique",
    }
)
"""Operators that make floating-point numbers of floating-point numbers and have no gradient here."""


def normal(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Normal values, other than those that cotangents are made of."""
    return np.random.default_rng(100 + seed).standard_normal(shape)


@dataclass(frozen=True)
class Case:
    """A use of an operator that is expanded."""

    op_type: str
    feeds: Arrays
    constants: Arrays = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 22
    outputs: tuple[str, ...] = ("y",)
    inputs: tuple[str, ...] = ()
    """Names in order, with empty ones for inputs that are absent; by default those of the feeds, then the constants."""

    step: float = 1e-6
    """Larger where the standard says that intermediates are in single precision."""

    tolerance: float = 1e-6
    runs: bool = True
    """Whether ONNX Runtime runs it."""

    def __str__(self) -> str:
        return " ".join([self.op_type, *map(str, self.attributes.values())])

    def model(self, **options: Any) -> onnx.ModelProto:
        """A model of nothing but the operator."""
        names = self.inputs or (*self.feeds, *self.constants)
        node = helper.make_node(self.op_type, names, self.outputs, **self.attributes)
        return node_model(node, self.feeds, self.constants, opset=self.opset, output="y", **options)


LABELS = np.array([[1, 2], [0, 3], [3, 1]])
SCORES = {"x": normal((3, 4, 2)), "labels": LABELS}
HEADS = {"q_num_heads": 2, "kv_num_heads": 2}
TOKENS = {name: normal((2, 6, 8), seed) for seed, name in enumerate("qkv")}
STATE = {"state": normal((2, 2, 4, 4), 3)}
DECAY, BETA = {"decay": -np.abs(normal((2, 6, 8), 4))}, {"beta": np.abs(normal((2, 6, 2), 5))}
SIGNAL = {"x": normal((2, 4, 8)), "w": normal((4, 1, 3), 1)}
SINGLE = {"step": 1e-2, "tolerance": 1e-3, "runs": False}
LINEAR = {"opset": 27, "outputs": ("y", "present"), **SINGLE}

CASES = [
    Case("CausalConvWithState", SIGNAL, opset=27, outputs=("y", "present"), runs=False),
    Case(
        "CausalConvWithState",
        {**SIGNAL, "b": normal((4,)), "past": normal((2, 4, 2))},
        {},
        {"activation": "silu"},
        **LINEAR,
    ),
    Case("CenterCropPad", {"x": normal((4, 5, 3))}, {"shape": np.array([6, 2, 3])}),
    Case("CenterCropPad", {"x": normal((4, 5, 3))}, {"shape": np.array([6, 2])}, {"axes": [1, 0]}),
    Case("LinearAttention", TOKENS, {}, {**HEADS, "update_rule": "linear"}, **LINEAR),
    Case("LinearAttention", {**TOKENS, **STATE, **DECAY}, {}, {**HEADS, "update_rule": "gated"}, **LINEAR),
    Case(
        "LinearAttention",
        {**TOKENS, **STATE, **BETA},
        {},
        {**HEADS, "update_rule": "delta"},
        inputs=("q", "k", "v", "state", "", "beta"),
        **LINEAR,
    ),
    Case(
        "LinearAttention", {**TOKENS, **STATE, **DECAY, **BETA}, {}, {**HEADS, "update_rule": "gated_delta"}, **LINEAR
    ),
    Case("NegativeLogLikelihoodLoss", SCORES),
    Case(
        "NegativeLogLikelihoodLoss", {**SCORES, "w": np.abs(normal((4,)))}, {}, {"reduction": "mean", "ignore_index": 2}
    ),
    Case("NegativeLogLikelihoodLoss", SCORES, {}, {"reduction": "none"}, opset=13),
    Case("SoftmaxCrossEntropyLoss", SCORES, {}, {"ignore_index": 0}),
    Case("SoftmaxCrossEntropyLoss", {**SCORES, "w": np.abs(normal((4,)))}, {}, {"reduction": "sum"}, opset=12),
    Case("SoftmaxCrossEntropyLoss", SCORES, {}, {"reduction": "none"}, outputs=("loss", "y")),
    Case("SwiGLU", {"x": normal((2, 6)), "b": normal((2, 6), 1)}, opset=28, runs=False),
    Case("SwiGLU", {"x": normal((2, 6)), "b": normal((2, 6), 1)}, {}, {"alpha": 1.7}, opset=28, runs=False),
]

BY_THEMSELVES = frozenset({"Attention", "DynamicQuantizeLinear"})
"""Expanded operators with tests of their own."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_of_a_function(case: Case) -> None:
    model = case.model()
    check_derivatives(model, case.feeds, directions=2, step=case.step, tolerance=case.tolerance)
    if case.runs:
        check_single_precision(model, case.feeds)


def test_gradient_of_the_scale_of_dynamic_quantization() -> None:
    x = np.array([[1, 2, -3], [0.5, 4, 0]], np.float32)
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    model = node_model(node, {"x": x}, output="scale", output_type=TensorProto.FLOAT)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "scale"))
    found = run_in_onnxruntime(backward, {"x": x, "cotangent": np.array(2, np.float32)})["gradient.x"]
    # The scale is the range over 255.
    np.testing.assert_allclose(found, np.array([[0, 0, -2], [0, 2, 0]]) / 255, rtol=1e-6)


def has_floats(parameters: Sequence[Any]) -> bool:
    """Whether any of an operator's inputs, or outputs, can be floating-point numbers, or something that holds them."""
    return any(float_type in text for parameter in parameters for text in parameter.types for float_type in FLOATS)


def test_every_operator_has_a_gradient_or_is_refused() -> None:
    functions, others = set(), set()
    schema: Any
    for schema in onnx.defs.get_all_schemas():
        if schema.domain or schema.deprecated or not (has_floats(schema.inputs) and has_floats(schema.outputs)):
            continue
        if schema.name in operators() | ZERO_DERIVATIVE:
            continue
        is_function = schema.has_function or schema.has_context_dependent_function
        (functions if is_function and schema.name not in REFUSED else others).add(schema.name)
    assert others == REFUSED
    assert functions == {case.op_type for case in CASES} | BY_THEMSELVES


def test_no_operator_is_of_two_kinds() -> None:
    assert not operators() & ZERO_DERIVATIVE
    assert not operators() & REFUSED
    assert not ZERO_DERIVATIVE & REFUSED


@pytest.mark.parametrize("op_type", sorted(REFUSED))
def test_operators_without_a_gradient_are_refused(op_type: str) -> None:
    x, g = (ir.Value(name=name, shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT)) for name in "xg")
    node = ir.Node("", op_type, [x], name="culprit")
    node.outputs[0].type = x.type
    with pytest.raises(OrtoscopeError, match=f"gradient of {op_type} is not supported") as caught:
        differentiate([node], {node.outputs[0]: g}, [x], Builder(set(), ""), rule_for)
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"
    assert caught.value.metadata["node"] == "culprit"


def expanded(case: Case) -> tuple[ir.Model, ir.Value]:
    """A model in which the operator is doubled, and whatever in its expansion has no rule; and the double of `y`."""
    model = load_model(case.model().SerializeToString())
    builder = Builder(set(), "new/", model.graph.inputs)
    equals = expand_functions(
        model.graph, builder, lambda node: node.op_type != case.op_type and rule_for(node) is not None
    )
    (double,) = (equal for own, equal in equals.items() if own.name == "y")
    return model, double


MASK = np.random.default_rng(5).random((6, 6)) > 0.6
"""Some rows are empty."""

WITH_RULES = [
    Case("Attention", TOKENS, {}, {**HEADS, "is_causal": 1, "softcap": 3.0}, opset=23),
    Case("Attention", {**TOKENS, "mask": MASK}, {}, HEADS, opset=24),
    Case("Attention", {**TOKENS, "mask": np.where(MASK, 0.5, -np.inf)}, {}, {**HEADS, "is_causal": 1}, opset=25),
    Case(
        "GroupNormalization", {"x": normal((2, 4, 3)), **{name: normal((4,)) for name in "st"}}, {}, {"num_groups": 2}
    ),
    Case("LayerNormalization", {"x": normal((2, 4, 3)), "s": normal((3,))}),
    Case("RMSNormalization", {"x": normal((2, 4, 3)), "s": normal((3,))}, opset=23),
]
"""Further functions, which are expanded no more, or in another way than the standard's."""


@pytest.mark.parametrize("case", CASES + WITH_RULES, ids=str)
def test_an_expansion_equals_the_operator(case: Case) -> None:
    model, double = expanded(case)
    (y,) = model.graph.outputs
    double.name = "double"
    model.graph.outputs.append(double)
    results = evaluate(serialize(model), case.feeds)
    assert y.name == "y"
    # Many functions compute in single precision by their definition.
    np.testing.assert_allclose(results["double"], results["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_expansions_are_in_operators_with_rules_and_names_of_their_own(case: Case) -> None:
    graph = expanded(case)[0].graph
    nodes = list(ir.traversal.RecursiveGraphIterator(graph))
    functions = {case.op_type, "NegativeLogLikelihoodLoss"}
    assert {node.op_type for node in nodes} - operators() - ZERO_DERIVATIVE - functions <= {"Constant"}
    names = [node.name for node in nodes if node.name]
    assert len(set(names)) == len(names)
    values = [output.name for node in nodes for output in node.outputs if output.name]
    assert len(set(values)) == len(values)
    assert not any(attribute.is_ref() for node in nodes for attribute in node.attributes.values())


def test_two_uses_of_a_function_do_not_meet() -> None:
    feeds = {"x": normal((2, 6))}
    nodes = [
        helper.make_node("SwiGLU", ["x", "x"], ["h"], name="first"),
        helper.make_node("SwiGLU", ["h", "x"], ["y"], name="second"),
    ]
    check_derivatives(node_model(nodes, feeds, opset=28), feeds)


def test_the_native_node_stays_in_the_forward_pass_and_the_rest_of_the_function_falls_away() -> None:
    case = Case("SoftmaxCrossEntropyLoss", SCORES)
    graph = build_backward(load_model(case.model().SerializeToString()), "y").graph
    activation = graph.outputs[0].producer()
    assert activation is not None
    assert activation.op_type == "SoftmaxCrossEntropyLoss"
    operators_left = [node.op_type for node in graph]
    assert "NegativeLogLikelihoodLoss" not in operators_left
    assert "ReduceMean" not in operators_left


@pytest.mark.parametrize("opset", [12, 13, 18, 20, 22, 24, NEWEST])
def test_the_function_is_that_of_the_opset(opset: int) -> None:
    # Axes of reductions and splits became inputs in between.
    case = Case("SoftmaxCrossEntropyLoss", SCORES, {}, {"reduction": "sum"}, opset=opset)
    check_derivatives(case.model(), case.feeds, directions=1)


def test_attributes_that_are_left_out_have_their_defaults() -> None:
    short, full = (
        Case("SwiGLU", {"x": normal((2, 6)), "b": normal((2, 6), 1)}, {}, attributes, opset=28)
        for attributes in ({}, {"alpha": 1.0})
    )
    left, right = (gradients_of(case.model(), case.feeds) for case in (short, full))
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name])


@pytest.mark.parametrize(("data_type", "dtype"), [(TensorProto.FLOAT16, np.float16), (TensorProto.FLOAT, np.float32)])
def test_functions_are_expanded_in_their_own_precision(data_type: int, dtype: type[np.floating[Any]]) -> None:
    feeds = {"x": normal((3, 4, 2)).astype(dtype), "labels": LABELS}
    case = Case("SoftmaxCrossEntropyLoss", feeds)
    model = case.model(output_type=data_type)
    assert gradients_of(model, feeds)["x"].dtype == dtype
    double = {"x": feeds["x"].astype(np.float64), "labels": LABELS}
    expected = gradients_of(Case("SoftmaxCrossEntropyLoss", double).model(), double)["x"]
    np.testing.assert_allclose(gradients_of(model, feeds)["x"], expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("takes", [True, False])
def test_functions_within_branches_are_expanded(takes: bool) -> None:
    def branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, [4, 2])]
        )

    cropped = branch("then", [helper.make_node("CenterCropPad", ["x", "shape"], ["then.y"], name="crop")])
    doubled = branch(
        "else",
        [
            helper.make_node("Add", ["h", "h"], ["sum"], name="add"),
            helper.make_node("CenterCropPad", ["sum", "shape"], ["else.y"], name="other_crop"),
        ],
    )
    feeds = {"x": normal((3, 5)).astype(np.float32), "takes": np.array(takes)}
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["h"], name="square"),
        helper.make_node("If", ["takes"], ["y"], name="if", then_branch=cropped, else_branch=doubled),
    ]
    model = node_model(nodes, feeds, {"shape": np.array([4, 2])}, output_type=TensorProto.FLOAT)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    g = normal((4, 2), 1).astype(np.float32)
    expected = np.zeros((3, 5), np.float32)
    expected[:, 1:3] = g[:3] * (1 if takes else 4 * feeds["x"][:, 1:3])
    for run in (evaluate, run_in_onnxruntime):
        found = run(backward, {**feeds, "cotangent": g})["gradient.x"]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_functions_of_sequences_are_refused() -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["i"], ["o"], name="inner")],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2, 3])],
    )
    feeds = {"x": normal((2, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["all"], name="construct"),
        helper.make_node("SequenceMap", ["all"], ["mapped"], name="map", body=body),
        helper.make_node("SequenceAt", ["mapped", "place"], ["y"], name="pick"),
    ]
    model = node_model(nodes, feeds, {"place": np.array(0)}, output_type=TensorProto.FLOAT)
    with pytest.raises(OrtoscopeError) as caught:
        build_backward(load_model(model.SerializeToString()), "y")
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"


def test_recurrent_layers_are_expanded_though_they_have_a_rule_that_refuses() -> None:
    assert operators() >= RECURRENT
