"""Matrix products: Gemm, MatMul and Einsum."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from finite_differences import check_derivatives, check_single_precision, gradients_of, node_model, run_in_onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def normal(shape: Sequence[int], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def operands(*shapes: Shape) -> dict[str, Array]:
    return {name: normal(shape, seed) for seed, (name, shape) in enumerate(zip("abcdefg", shapes, strict=False))}


def all_free(feeds: Mapping[str, Array]) -> dict[str, list[str]]:
    """Shapes of inputs with a free dimension for every axis."""
    return {name: [f"{name}{axis}" for axis in range(value.ndim)] for name, value in feeds.items()}


MATRICES = [
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((6, 1, 2, 3), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
    ((6, 5, 2, 3), (6, 1, 3, 4)),
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((6, 5, 2, 3), (3,)),
    ((1, 1), (1, 1)),
]


@pytest.mark.parametrize(("left", "right"), MATRICES)
def test_gradient_of_products_of_any_rank(left: Shape, right: Shape) -> None:
    node, feeds = helper.make_node("MatMul", ["a", "b"], ["y"]), operands(left, right)
    check_derivatives(node_model(node, feeds), feeds, directions=2)
    check_derivatives(node_model(node, feeds, symbolic=all_free(feeds)), feeds, directions=1)
    check_single_precision(node_model(node, feeds), feeds)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_gradient_of_products_with_any_broadcasting(data: st.DataObject) -> None:
    batch = data.draw(st.lists(st.integers(1, 3), max_size=3))
    rows, inner, columns = (data.draw(st.integers(1, 3)) for _ in range(3))
    shapes = []
    for matrix in ((rows, inner), (inner, columns)):
        own = batch[data.draw(st.integers(0, len(batch))) :]
        shapes.append((*(1 if data.draw(st.booleans()) else size for size in own), *matrix))
    feeds = operands(*shapes)
    symbolic = all_free(feeds) if data.draw(st.booleans()) else None
    model = node_model(helper.make_node("MatMul", ["a", "b"], ["y"]), feeds, symbolic=symbolic)
    check_derivatives(model, feeds, directions=1, tangent=data.draw(st.booleans()))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 2, 3), (2, 2, 0)])
def test_gradient_of_an_empty_product_is_zero_or_empty(shape: Shape) -> None:
    # In ONNX Runtime, for onnx.reference cannot flatten what is empty.
    feeds = {name: value.astype(np.float32) for name, value in operands(shape, (shape[-1], 4)).items()}
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    model = node_model(node, feeds, symbolic=all_free(feeds), output_type=TensorProto.FLOAT)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    cotangent = np.ones((*shape[:-1], 4), np.float32)
    results = run_in_onnxruntime(backward, {**feeds, "cotangent": cotangent})
    for name, value in feeds.items():
        expected = np.zeros_like(value)
        np.testing.assert_array_equal(results[f"gradient.{name}"], expected, strict=True)


@pytest.mark.parametrize("symbolic", [["n", 7, 3], ["n", "m", 3]])
def test_gradient_by_the_input_of_a_layer(symbolic: list[int | str]) -> None:
    feeds, weights = {"x": normal((2, 7, 3))}, {"w": normal((3, 4), 1)}
    model = node_model(helper.make_node("MatMul", ["x", "w"], ["y"]), feeds, weights, symbolic={"x": symbolic})
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


def test_gradient_by_an_input_needs_one_product_and_no_shapes() -> None:
    feeds, weights = {"x": normal((2, 7, 3))}, {"w": normal((3, 4), 1)}
    model = node_model(helper.make_node("MatMul", ["x", "w"], ["y"]), feeds, weights, symbolic={"x": ["n", 7, 3]})
    backward = build_backward(load_model(model.SerializeToString()), "y")
    assert sorted(node.op_type for node in backward.graph) == ["MatMul", "MatMul", "Transpose"]


GEMM_BIASES = [(2, 4), (1, 4), (2, 1), (4,), (1,), (), None]


@pytest.mark.parametrize("bias", GEMM_BIASES)
@pytest.mark.parametrize("left_turned", [0, 1])
@pytest.mark.parametrize("right_turned", [0, 1])
def test_gradient_of_gemm(bias: Shape | None, left_turned: int, right_turned: int) -> None:
    shapes = [(3, 2) if left_turned else (2, 3), (4, 3) if right_turned else (3, 4), *([] if bias is None else [bias])]
    feeds = operands(*shapes)
    node = helper.make_node("Gemm", list(feeds), ["y"], transA=left_turned, transB=right_turned, alpha=0.5, beta=-2.0)
    check_derivatives(node_model(node, feeds), feeds, directions=2)
    check_derivatives(node_model(node, feeds, symbolic=all_free(feeds)), feeds, directions=1, tangent=False)
    check_single_precision(node_model(node, feeds), feeds)


@pytest.mark.parametrize("opset", [9, 11, 13, 23])
def test_gradient_of_gemm_by_default_in_all_opsets(opset: int) -> None:
    feeds, weights = {"x": normal((2, 3))}, {"w": normal((3, 4), 1), "c": normal((4,), 2)}
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"])
    check_derivatives(node_model(node, feeds, weights, opset=opset, symbolic={"x": ["n", 3]}), feeds)


def test_gradient_of_gemm_with_factors_of_zero() -> None:
    feeds = operands((2, 3), (3, 4), (4,))
    node = helper.make_node("Gemm", list(feeds), ["y"], alpha=0.0, beta=0.0)
    assert all(np.all(value == 0) for value in gradients_of(node_model(node, feeds), feeds).values())


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_half_precision_stays_half_precision(op_type: str) -> None:
    feeds = {name: value.astype(np.float16) for name, value in operands((2, 3), (3, 4)).items()}
    model = node_model(helper.make_node(op_type, ["a", "b"], ["y"]), feeds, output_type=TensorProto.FLOAT16)
    assert {value.dtype for value in gradients_of(model, feeds).values()} == {np.dtype(np.float16)}


EQUATIONS: list[tuple[str, list[Shape]]] = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ba,cb", [(2, 3), (4, 2)]),
    (" i j , j -> i ", [(2, 3), (3,)]),
    ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("ij->ji", [(2, 3)]),
    ("ij->j", [(2, 3)]),
    ("ij->", [(2, 3)]),
    ("ij,k->k", [(2, 3), (4,)]),
    ("i,i->", [(3,), (3,)]),
    ("i,j->ij", [(3,), (4,)]),
    ("i,i,i->i", [(3,), (3,), (3,)]),
    ("ij,kj,kl,l->i", [(2, 3), (4, 3), (4, 5), (5,)]),
    (",", [(), ()]),
    ("ij,->ij", [(2, 3), ()]),
    ("ii", [(3, 3)]),
    ("ii->i", [(3, 3)]),
    ("iij->j", [(3, 3, 2)]),
    ("iii->i", [(3, 3, 3)]),
    ("ijji->", [(2, 3, 3, 2)]),
    ("iij,jj->i", [(3, 3, 2), (2, 2)]),
    ("...->...", [(2, 3)]),
    ("...ij->...ji", [(2, 3, 4, 5)]),
    ("...ij,jk", [(5, 2, 3), (3, 4)]),
    ("...ij,...jk->...ik", [(5, 2, 3), (5, 3, 4)]),
    ("i...j,j...->...i", [(2, 5, 3), (3, 5)]),
    ("aB,Bc->ac", [(2, 3), (3, 4)]),
]


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS)
def test_gradient_of_any_equation(equation: str, shapes: list[Shape]) -> None:
    feeds = operands(*shapes)
    node = helper.make_node("Einsum", list(feeds), ["y"], equation=equation)
    check_derivatives(node_model(node, feeds), feeds, directions=2)
    check_derivatives(node_model(node, feeds, symbolic=all_free(feeds)), feeds, directions=1)
    check_single_precision(node_model(node, feeds), feeds)


def test_gradient_where_an_ellipsis_broadcasts() -> None:
    # With known extents alone: ONNX infers that of the first operand where it does not know the other.
    feeds = operands((1, 4, 3), (2, 1, 3))
    model = node_model(helper.make_node("Einsum", ["a", "b"], ["y"], equation="...i,...i->..."), feeds)
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


def test_gradient_by_one_operand_of_an_equation() -> None:
    feeds, constants = {"x": normal((2, 5, 3))}, {"w": normal((4, 3), 1), "v": normal((4,), 2)}
    node = helper.make_node("Einsum", ["w", "x", "v"], ["y"], equation="hi,nti,h->nth")
    model = node_model(node, feeds, constants, symbolic={"x": ["n", "t", 3]})
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


def test_axes_of_different_extents_under_one_letter_are_refused() -> None:
    # ONNX forbids it, and infers the extent of the first operand; NumPy and ONNX Runtime broadcast.
    feeds = operands((1, 3), (2, 3))
    model = node_model(helper.make_node("Einsum", ["a", "b"], ["y"], equation="ij,ij->ij"), feeds)
    with pytest.raises(OrtoscopeError, match="letter 'i'") as caught:
        build_backward(load_model(model.SerializeToString()), "y")
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"
