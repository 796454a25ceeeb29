"""Arithmetic and functions of single elements."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from finite_differences import (
    check_derivatives,
    check_single_precision,
    gradients_of,
    node_model,
    run_in_onnxruntime,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]

UNARY = {
    "Abs": (-2, 2),
    "Acos": (-0.9, 0.9),
    "Acosh": (1.1, 3),
    "Asin": (-0.9, 0.9),
    "Asinh": (-2, 2),
    "Atan": (-2, 2),
    "Atanh": (-0.9, 0.9),
    "Cos": (-4, 4),
    "Cosh": (-2, 2),
    "Dropout": (-2, 2),
    "Erf": (-2, 2),
    "Exp": (-2, 2),
    "Identity": (-2, 2),
    "Log": (0.2, 3),
    "Neg": (-2, 2),
    "Reciprocal": (0.3, 2),
    "Sin": (-4, 4),
    "Sinh": (-2, 2),
    "Sqrt": (0.2, 3),
    "Tan": (-1.2, 1.2),
}
"""Functions of one operand, and where to test them."""

FROM, TO = 0.3, 2.0
"""Where operators of several operands are tested, but for their signs."""


def unary(op_type: str, shape: Sequence[int], *, seed: int = 0) -> tuple[onnx.NodeProto, dict[str, Array]]:
    feeds = {"x": np.random.default_rng(seed).uniform(*UNARY[op_type], shape)}
    return helper.make_node(op_type, ["x"], ["y"]), feeds


@pytest.mark.parametrize("op_type", UNARY)
def test_functions_of_one_operand_have_their_derivative(op_type: str) -> None:
    node, feeds = unary(op_type, (3, 4))
    check_derivatives(node_model(node, feeds), feeds)
    check_derivatives(node_model(node, feeds, symbolic={"x": ["n", 4]}), feeds, directions=1)
    check_single_precision(node_model(node, feeds), feeds)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 1, 3, 1, 2)])
def test_any_rank_will_do(shape: tuple[int, ...]) -> None:
    for op_type in ("Sqrt", "Erf", "Atan"):
        node, feeds = unary(op_type, shape)
        check_derivatives(node_model(node, feeds), feeds, directions=1)


BINARY = ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "Mod"]


def operands(shapes: Sequence[Sequence[int]], *, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(FROM, TO, shape) for name, shape in zip("abcd", shapes, strict=False)}


def several(op_type: str, feeds: Mapping[str, Array], **attributes: int) -> onnx.NodeProto:
    return helper.make_node(op_type, list(feeds), ["y"], **({"fmod": 1} if op_type == "Mod" else {}), **attributes)


@pytest.mark.parametrize("op_type", BINARY)
@settings(max_examples=12)
@given(
    shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0),
    symbolic=st.sets(st.sampled_from("ab")),
    seed=st.integers(0, 1000),
)
def test_broadcasting_is_undone(op_type: str, shapes: Any, symbolic: set[str], seed: int) -> None:
    feeds = operands(shapes.input_shapes, seed=seed)
    free = {name: [f"{name}{axis}" for axis in range(feeds[name].ndim)] for name in symbolic}
    model = node_model(several(op_type, feeds), feeds, symbolic=free)
    # Operands are seldom closer to each other, or to a multiple of each other, than the shorter step.
    step = 1e-8 if op_type in {"Max", "Min", "Mod"} else 1e-6
    check_derivatives(model, feeds, directions=1, step=step, tolerance=2e-6)


@pytest.mark.parametrize("op_type", BINARY)
@pytest.mark.parametrize("wanted", ["a", "b"])
def test_one_operand_may_be_constant(op_type: str, wanted: str) -> None:
    feeds = operands([(2, 3), (3,)])
    varied = {wanted: feeds[wanted]}
    constants = {name: value for name, value in feeds.items() if name != wanted}
    check_derivatives(node_model(several(op_type, feeds), varied, constants), varied)


@pytest.mark.parametrize("op_type", BINARY)
def test_two_operands_in_single_precision(op_type: str) -> None:
    feeds = operands([(2, 1, 3), (4, 1)])
    check_single_precision(node_model(several(op_type, feeds), feeds), feeds)


@pytest.mark.parametrize("op_type", ["Max", "Min", "Mean", "Sum"])
@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (3,), (2, 1)], [(), (1, 3), (4, 1, 1), (2, 1)]])
def test_any_number_of_operands_will_do(op_type: str, shapes: list[tuple[int, ...]]) -> None:
    feeds = operands(shapes)
    check_derivatives(node_model(several(op_type, feeds), feeds), feeds)
    check_single_precision(node_model(several(op_type, feeds), feeds), feeds)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum"])
def test_both_operands_may_be_the_same(op_type: str) -> None:
    feeds = {"a": np.random.default_rng(0).uniform(FROM, TO, (2, 3))}
    check_derivatives(node_model(helper.make_node(op_type, ["a", "a"], ["y"]), feeds), feeds)


@pytest.mark.parametrize("op_type", ["Max", "Min"])
def test_equal_operands_share_evenly(op_type: str) -> None:
    feeds = {"a": np.array([1.0, 1, 2, np.inf]), "b": np.array([1.0, 2, 1, np.inf])}
    found = gradients_of(node_model(several(op_type, feeds), feeds), feeds)
    first = [0.5, 0, 1, 0.5] if op_type == "Max" else [0.5, 1, 0, 0.5]
    np.testing.assert_array_equal(found["a"], first)
    np.testing.assert_array_equal(found["b"], 1 - np.array(first))


def test_of_three_equal_operands_the_last_gets_half() -> None:
    feeds = dict.fromkeys("abc", np.array([1.0]))
    found = gradients_of(node_model(several("Max", feeds), feeds), feeds)
    assert [found[name].item() for name in "abc"] == [0.25, 0.25, 0.5]


@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_constant_number_is_a_bound_at_which_nothing_passes(swapped: bool, shape: tuple[int, ...]) -> None:
    feeds, six = {"x": np.array([5.0, 6, 7])}, {"six": np.full(shape, 6.0)}
    names = ["six", "x"] if swapped else ["x", "six"]
    for op_type, expected in (("Max", [0, 0, 1]), ("Min", [1, 0, 0])):
        model = node_model(helper.make_node(op_type, names, ["y"]), feeds, six)
        if len(shape) <= 1:
            np.testing.assert_array_equal(gradients_of(model, feeds)["x"], expected)
        else:
            # The operand gets new axes: it is no activation function.
            np.testing.assert_array_equal(gradients_of(model, feeds)["x"], [expected[0], 0.5, expected[2]])


@pytest.mark.parametrize("exponent", [-2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_powers_with_a_constant_exponent(exponent: float, shape: tuple[int, ...]) -> None:
    feeds = operands([(2, 3)])
    model = node_model(helper.make_node("Pow", ["a", "e"], ["y"]), feeds, {"e": np.full(shape, exponent, np.float64)})
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float32])
def test_the_exponent_may_have_another_type(kind: type) -> None:
    feeds: dict[str, Array] = {**operands([(2, 3)]), "e": np.array([2, 3, -1]).astype(kind)}
    node = helper.make_node("Pow", ["a", "e"], ["y"])
    found = gradients_of(node_model(node, feeds), feeds)
    exponent = feeds["e"].astype(np.float64)
    np.testing.assert_allclose(found["a"], exponent * feeds["a"] ** (exponent - 1), rtol=1e-12)
    if kind is np.float32:
        expected = (feeds["a"] ** exponent * np.log(feeds["a"])).sum(axis=0)
        assert found["e"].dtype == np.float32
        np.testing.assert_allclose(found["e"], expected, rtol=1e-6)
    constant = node_model(node, {"a": feeds["a"]}, {"e": feeds["e"]})
    np.testing.assert_allclose(gradients_of(constant, feeds)["a"], found["a"], rtol=1e-12)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_powers_at_zero_and_of_negative_bases_are_as_in_pytorch() -> None:
    feeds = {"a": np.array([0.0, 0, 0, 0, -2, -2]), "e": np.array([0.0, 1, 2, 0.5, 0, 2])}
    found = gradients_of(node_model(helper.make_node("Pow", ["a", "e"], ["y"]), feeds), feeds)
    np.testing.assert_array_equal(found["a"], [0, 1, 0, np.inf, 0, -4])
    np.testing.assert_array_equal(found["e"], [0, 0, 0, 0, np.nan, np.nan])


AT_ZERO = [("Abs", 0.0), ("Sqrt", np.inf), ("Log", np.inf), ("Reciprocal", -np.inf)]


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("op_type", "expected"), AT_ZERO)
def test_derivatives_at_zero_are_as_in_pytorch(op_type: str, expected: float) -> None:
    feeds = {"x": np.zeros(1)}
    assert gradients_of(node_model(helper.make_node(op_type, ["x"], ["y"]), feeds), feeds)["x"] == expected


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders_of_either_sign(fmod: int) -> None:
    feeds = {"a": np.array([5.3, -5.3, 5.3, -5.3]), "b": np.array([2.1, 2.1, -2.1, -2.1])}
    check_derivatives(node_model(helper.make_node("Mod", ["a", "b"], ["y"], fmod=fmod), feeds), feeds)


@pytest.mark.parametrize("shapes", [[(2, 3), (2, 3), (2, 3)], [(3,), (2, 1), (1, 3)], [(2, 1), (), (4, 1, 3)]])
def test_where_sends_the_cotangent_to_the_operand_chosen(shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    condition = {"condition": rng.random(shapes[0]) > 0.5}
    feeds: dict[str, Array] = {**condition, **operands(shapes[1:])}
    check_derivatives(node_model(helper.make_node("Where", list(feeds), ["y"]), feeds), feeds)
    check_single_precision(node_model(helper.make_node("Where", list(feeds), ["y"]), feeds), feeds)


def test_where_keeps_what_is_not_finite_out_of_the_other_operand() -> None:
    feeds = {"c": np.array([True, False]), "a": np.ones(2), "b": np.ones(2)}
    model = node_model(helper.make_node("Where", list(feeds), ["y"]), feeds)
    found = gradients_of(model, feeds, np.array([np.inf, np.nan]))
    np.testing.assert_array_equal(found["a"], [np.inf, 0])
    np.testing.assert_array_equal(found["b"], [0, np.nan])


@pytest.mark.parametrize("between", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_casts_between_floating_point_types_pass_the_cotangent(between: int) -> None:
    feeds = {"x": np.array([0.5, -1.25, 3])}
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=between),
        helper.make_node("CastLike", ["narrow", "x"], ["wide"]),
        helper.make_node("Mul", ["wide", "x"], ["y"]),
    ]
    found = gradients_of(node_model(nodes, feeds), feeds)["x"]
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, 2 * feeds["x"])


def test_casts_to_integers_stop_the_gradient() -> None:
    feeds = {"x": np.array([0.5, -1.25, 3])}
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["constant"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["constant", "x"], ["y"]),
    ]
    np.testing.assert_array_equal(gradients_of(node_model(nodes, feeds), feeds)["x"], [0, -1, 3])


@pytest.mark.parametrize("opset", [7, 11, 13, 22])
def test_dropout_drops_nothing_outside_of_training(opset: int) -> None:
    feeds = {"x": np.array([0.5, -1.25, 3])}
    node = helper.make_node("Dropout", ["x"], ["y", "mask"], **({"ratio": 0.3} if opset < 12 else {}))
    np.testing.assert_array_equal(gradients_of(node_model(node, feeds, opset=opset), feeds)["x"], 1)


@pytest.mark.parametrize("constant", [True, False])
def test_dropout_in_training_is_refused(constant: bool) -> None:
    feeds: dict[str, Array] = {"x": np.ones(3), "training": np.array(True)}
    constants = {"ratio": np.array(0.5)}
    if constant:
        constants["training"] = feeds.pop("training")
    model = node_model(helper.make_node("Dropout", ["x", "ratio", "training"], ["y"]), feeds, constants)
    with pytest.raises(OrtoscopeError, match="Dropout with a training_mode that is not a constant false"):
        build_backward(load_model(model.SerializeToString()), "y")


@pytest.mark.parametrize("upper", [0, 1, None])
@pytest.mark.parametrize("k", [-1, 0, 2, None])
def test_a_triangle_passes_what_is_in_it(upper: int | None, k: int | None) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 4))}
    constants = {} if k is None else {"k": np.array(k)}
    node = helper.make_node("Trilu", ["x", *constants], ["y"], **({} if upper is None else {"upper": upper}))
    model = node_model(node, feeds, constants, symbolic={"x": ["n", "rows", 4]})
    check_derivatives(model, feeds, directions=1)
    check_single_precision(model, feeds)


@pytest.mark.parametrize("op_type", ["Mul", "Div", "Max", "Sqrt", "Pow"])
def test_half_precision_stays_half_precision(op_type: str) -> None:
    feeds = operands([(2, 3)] if op_type == "Sqrt" else [(2, 3), (3,)])
    double = node_model(several(op_type, feeds), feeds)
    halves = {name: value.astype(np.float16) for name, value in feeds.items()}
    model = node_model(several(op_type, halves), halves, output_type=TensorProto.FLOAT16)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    found = run_in_onnxruntime(backward, {**halves, "cotangent": np.ones((2, 3), np.float16)})
    for name, expected in gradients_of(double, feeds).items():
        assert found[f"gradient.{name}"].dtype == np.float16
        np.testing.assert_allclose(found[f"gradient.{name}"], expected, rtol=1e-2, atol=1e-2)
