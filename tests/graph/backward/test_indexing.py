"""Operators that pick elements by their positions, and those that put elements there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from finite_differences import (
    check_affine,
    check_derivatives,
    check_single_precision,
    gradients_of,
    node_model,
    run_in_onnxruntime,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]
Names = Mapping[str, Sequence[int | str]]


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def check(
    nodes: onnx.NodeProto | list[onnx.NodeProto],
    feeds: Mapping[str, Array],
    constants: Mapping[str, Any] | None = None,
    names: Names | None = None,
    *,
    opset: int = 22,
) -> None:
    """All derivatives, with static shapes and with the names given, and in float32 by ONNX Runtime."""
    for symbolic in (None, names) if names else (None,):
        model = node_model(nodes, feeds, constants, symbolic=symbolic, opset=opset)
        check_derivatives(model, feeds, directions=1)
        check_single_precision(model, feeds)


def operators_of(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in build_backward(load_model(model.SerializeToString()), "y").graph]


SLICE = helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])
SLICES = [
    # starts, ends, axes, steps, of an operand (2, 3, 4, 5)
    ([1], [3], [2], [1]),
    ([0], [99], [3], [2]),
    ([1], [99], [3], [2]),
    ([1], [99], [-2], [3]),
    ([-1], [-99], [3], [-1]),
    ([3], [0], [3], [-2]),
    ([-1], [-100], [2], [-3]),
    ([99], [-100], [3], [-2]),
    ([1, 0, 4], [3, 99, -99], [1, 2, 3], [1, 3, -2]),
    ([0, 1], [99, 99], [3, 2], [2, 2]),
    ([5], [2], [3], [1]),
    ([2], [2], [3], [2]),
    ([-100], [2], [-1], [1]),
    ([0], [-1], [-2], [2]),
    ([0, 0], [99, 99], [1, 0], [1, 1]),
]


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_gradient_of_slice_is_zero_beside_what_was_taken(
    starts: list[int], ends: list[int], axes: list[int], steps: list[int]
) -> None:
    feeds, names = {"x": normal(2, 3, 4, 5)}, {"x": ["n", "c", "h", "w"]}
    fixed = {"axes": axes, "steps": steps}
    check(SLICE, feeds, {"starts": starts, "ends": ends, **fixed}, names)
    computed = {**feeds, "starts": np.array(starts, np.int32), "ends": np.array(ends, np.int32)}
    fixed = {name: np.array(value, np.int32) for name, value in fixed.items()}
    check(SLICE, computed, fixed, {**names, "starts": [len(starts)], "ends": [len(ends)]})


def test_slice_without_axes_begins_at_the_first() -> None:
    node = helper.make_node("Slice", ["x", "starts", "ends"], ["y"])
    check(node, {"x": normal(2, 3, 4)}, {"starts": [0, 1], "ends": [1, 2]}, {"x": ["n", "c", "w"]})


@settings(max_examples=40)
@given(
    extent=st.integers(1, 7),
    start=st.integers(-9, 9),
    end=st.integers(-9, 9),
    step=st.sampled_from([-3, -2, -1, 1, 2, 3]),
    axis=st.integers(0, 2),
    known=st.booleans(),
)
def test_any_slice_has_a_gradient(extent: int, start: int, end: int, step: int, axis: int, known: bool) -> None:
    # NumPy, and with it the reference evaluator, takes nothing from before the first element on backwards.
    assume(step > 0 or start >= -extent)
    shape: list[int] = [2, 2, 2]
    shape[axis] = extent
    feeds = {"x": normal(*shape)}
    constants = {"starts": [start], "ends": [end], "axes": [axis], "steps": [step]}
    model = node_model(SLICE, feeds, constants, symbolic=None if known else {"x": ["a", "b", "c"]})
    check_derivatives(model, feeds, directions=1)


@pytest.mark.parametrize("step", [-1, -3])
def test_slices_that_begin_before_the_first_element_and_go_backwards_take_that(step: int) -> None:
    feeds = {"x": normal(2, 5)}
    for start in (-7, -6, -5, -3):
        constants = {"starts": [start], "ends": [-99], "axes": [1], "steps": [step]}
        for symbolic in ([2, 5], ["n", "w"]):
            check_affine(node_model(SLICE, feeds, constants, symbolic={"x": symbolic}), feeds)


@pytest.mark.parametrize("step", [2, 3, -2])
def test_tangent_of_a_slice_with_steps_is_what_it_takes_of_the_tangent(step: int) -> None:
    # float32 and float64 take different ways.
    feeds = {"x": normal(2, 3, 8, 9)}
    ends = [99] if step > 0 else [-99]
    for axis in (2, 3):
        constants = {"starts": [1 if step > 0 else -2], "ends": ends, "axes": [axis], "steps": [step]}
        check_affine(node_model(SLICE, feeds, constants, symbolic={"x": ["n", 3, 8, 9]}), feeds)


def test_infinite_cotangents_of_a_slice_stay_where_they_belong() -> None:
    feeds = {"x": normal(2, 8).astype(np.float32)}
    constants = {"starts": [1], "ends": [8], "axes": [1], "steps": [2]}
    model = node_model(SLICE, feeds, constants, output_type=TensorProto.FLOAT)
    cotangent = np.zeros((2, 4), np.float32)
    cotangent[1, 2] = np.inf
    expected = np.zeros((2, 8))
    expected[1, 5] = np.inf
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    found = run_in_onnxruntime(backward, {**feeds, "cotangent": cotangent})["gradient.x"]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("computed", ["axes", "steps"])
def test_computed_axes_and_steps_of_a_slice_are_refused(computed: str) -> None:
    constants: dict[str, Any] = {"starts": [0], "ends": [2], "axes": [1], "steps": [1], "flat": [2, -1]}
    feeds = {"x": normal(2, 3), computed: np.array(constants.pop(computed))}
    sliced = helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["sliced"])
    model = node_model([sliced, helper.make_node("Reshape", ["sliced", "flat"], ["y"])], feeds, constants)
    with pytest.raises(OrtoscopeError, match=f"Slice with computed {computed}") as error:
        build_backward(load_model(model.SerializeToString()), "y")
    assert error.value.reason == "UNSUPPORTED_GRADIENT"


INDICES = [
    np.array(1),
    np.array(-1),
    np.array([0, 1]),
    np.array([-2, -1]),
    np.array([2, 0, 1]),
    np.array([2, 0]),
    np.array([1, -1]),
    np.array([1, -2, 1]),
    np.array([[0, 1, 1], [-1, 0, 2]]),
    np.array([0] * 9 + [2]),
    np.array([1], np.int32),
]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", INDICES, ids=str)
def test_gradient_of_gather_is_the_sum_over_copies(axis: int, indices: Array) -> None:
    node = helper.make_node("Gather", ["x", "indices"], ["y"], axis=axis)
    feeds, names = {"x": normal(3, 3, 3)}, {"x": ["a", "b", "c"]}
    check(node, feeds, {"indices": indices}, names)
    letters = [f"i{number}" for number in range(indices.ndim)]
    check(node, {**feeds, "indices": indices}, names={**names, "indices": letters})


def test_gather_of_nothing_has_a_gradient_of_zeros() -> None:
    node = helper.make_node("Gather", ["x", "indices"], ["y"], axis=1)
    check(node, {"x": normal(2, 3, 2)}, {"indices": np.array([], np.int64)}, {"x": ["a", "b", "c"]})


def test_copies_add_up_however_many_there_are_at_once() -> None:
    # ONNX Runtime's ScatterND with the reduction "add" loses updates of the same element here, for want of a lock.
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 4, 20000)
    feeds = {"x": np.zeros((4, 64), np.float32), "indices": indices}
    for op_type in ("Gather", "GatherND"):
        rows = indices if op_type == "Gather" else indices[:, None]
        model = node_model(
            helper.make_node(op_type, ["x", "indices"], ["y"]),
            {**feeds, "indices": rows},
            output_type=TensorProto.FLOAT,
        )
        backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
        ones = np.ones((20000, 64), np.float32)
        found = run_in_onnxruntime(backward, {**feeds, "indices": rows, "cotangent": ones})["gradient.x"]
        np.testing.assert_array_equal(found, np.repeat(np.bincount(indices)[:, None], 64, axis=1))


def test_neighbours_are_put_back_by_padding() -> None:
    for indices in (np.array(0), np.array(-1), np.array([1, 2]), np.array([-3, -2])):
        node = helper.make_node("Gather", ["x", "indices"], ["y"], axis=1)
        model = node_model(node, {"x": normal(2, 5, 3)}, {"indices": indices}, symbolic={"x": ["n", "t", 3]})
        assert {"Pad"} <= set(operators_of(model))
        assert not {"ScatterElements", "ScatterND"} & set(operators_of(model))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gradient_of_gather_elements_is_the_sum_over_copies(axis: int) -> None:
    node = helper.make_node("GatherElements", ["x", "indices"], ["y"], axis=axis)
    feeds, names = {"x": normal(2, 3, 4)}, {"x": ["a", "b", "c"]}
    indices = np.random.default_rng(0).integers(-2, 2, (2, 2, 2))
    check(node, feeds, {"indices": indices}, names)
    check(node, {**feeds, "indices": indices}, names={**names, "indices": ["d", "e", "f"]})


def test_gather_elements_of_a_long_axis_has_a_gradient() -> None:
    node = helper.make_node("GatherElements", ["x", "indices"], ["y"], axis=1)
    check(node, {"x": normal(2, 40, 2)}, {"indices": np.random.default_rng(0).integers(-40, 40, (2, 50, 2))})


@pytest.mark.parametrize(("batch", "depth"), [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1)])
def test_gradient_of_gather_nd_is_the_sum_over_copies(batch: int, depth: int) -> None:
    node = helper.make_node("GatherND", ["x", "indices"], ["y"], batch_dims=batch)
    feeds, names = {"x": normal(2, 3, 4)}, {"x": ["a", "b", "c"]}
    indices = np.random.default_rng(0).integers(-2, 2, (*(2, 3)[:batch], 4, depth))
    check(node, feeds, {"indices": indices}, names)
    check(node, {**feeds, "indices": indices}, names={**names, "indices": [*"ab"[:batch], "d", depth]})


DISTINCT = {
    "ScatterElements": np.array([[0, 1, 2, 3], [3, -2, 1, 0]]),
    "ScatterND": np.array([[0, 1], [-2, 3], [3, 0]]),
}
REPEATED = {
    "ScatterElements": np.array([[0, 0, 1, 0], [3, 2, -3, 3], [0, 0, 0, 0]]),
    "ScatterND": np.array([[0, 1], [2, 3], [0, 1]]),
}
UPDATES = {"ScatterElements": (4,), "ScatterND": (4, 2)}


def scatter(op_type: str, reduction: str) -> tuple[onnx.NodeProto, dict[str, Array], Array]:
    """A node, its floating-point inputs, and indices."""
    indices = (DISTINCT if reduction == "none" else REPEATED)[op_type]
    data = normal(4, *UPDATES[op_type])
    updates = normal(*(indices.shape if op_type == "ScatterElements" else (len(indices), 2))) * 1.5
    node = helper.make_node(op_type, ["x", "indices", "updates"], ["y"], reduction=reduction)
    return node, {"x": data, "updates": updates}, indices


@pytest.mark.parametrize("op_type", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize("reduction", ["none", "add", "max", "min"])
def test_scattered_updates_get_the_cotangent_of_their_place(op_type: str, reduction: str) -> None:
    node, feeds, indices = scatter(op_type, reduction)
    names: Names = {"x": ["a", *("b", "c")[: feeds["x"].ndim - 1]], "updates": ["k", "l"]}
    # ONNX Runtime adds up updates of one place in ScatterND without a lock, and so not always all of them.
    check(node, feeds, {"indices": indices}, names)
    check(node, {**feeds, "indices": indices}, names={**names, "indices": [*"pq"[:1], indices.shape[1]]})


@pytest.mark.parametrize("axis", [1, -1])
def test_scatter_elements_writes_along_any_axis(axis: int) -> None:
    node = helper.make_node("ScatterElements", ["x", "indices", "updates"], ["y"], axis=axis)
    check(node, {"x": normal(3, 4), "updates": normal(2, 2)}, {"indices": np.array([[0, 1], [-1, 0]])})


@pytest.mark.parametrize("op_type", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize("reduction", ["max", "min"])
def test_equal_candidates_of_a_scattered_extremum_share_its_gradient(op_type: str, reduction: str) -> None:
    node = helper.make_node(op_type, ["x", "indices", "updates"], ["y"], reduction=reduction)
    feeds = {"x": np.array([1.0, 5.0]), "updates": np.array([1.0, 1.0])}
    indices = np.array([0, 0]) if op_type == "ScatterElements" else np.array([[0], [0]])
    found = gradients_of(node_model(node, feeds, {"indices": indices}), feeds)
    np.testing.assert_allclose(found["x"], [1 / 3, 1])
    np.testing.assert_allclose(found["updates"], [1 / 3, 1 / 3])


@pytest.mark.parametrize("op_type", ["ScatterElements", "ScatterND"])
def test_products_of_scattered_updates_have_a_gradient_by_the_data_alone(op_type: str) -> None:
    node, feeds, indices = scatter(op_type, "mul")
    by_data = node_model(node, {"x": feeds["x"]}, {"updates": feeds["updates"], "indices": indices})
    check_derivatives(by_data, {"x": feeds["x"]})
    by_both = node_model(node, feeds, {"indices": indices})
    with pytest.raises(OrtoscopeError, match=f"{op_type} with the reduction 'mul' by its updates"):
        build_backward(load_model(by_both.SerializeToString()), "y")


def test_scatter_of_old_opsets_is_scatter_elements() -> None:
    # The reference evaluator has no Scatter, but it is linear, and ONNX Runtime has it.
    node = helper.make_node("Scatter", ["x", "indices", "updates"], ["y"], axis=0)
    feeds = {"x": normal(3, 3), "updates": normal(2, 3), "indices": np.array([[1, 0, 2], [0, 2, 1]])}
    for by in ("x", "updates"):
        check_affine(node_model(node, feeds, opset=10), feeds, by)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("largest", [0, 1])
def test_the_chosen_elements_get_the_gradient_of_top_k(axis: int, largest: int) -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "places"], axis=axis, largest=largest)
    feeds, names = {"x": normal(3, 4, 5)}, {"x": ["a", "b", "c"]}
    check(node, feeds, {"k": [2]}, names)
    check(node, {**feeds, "k": np.array([2])}, names={**names, "k": [1]})


@pytest.mark.parametrize("largest", [0, 1])
def test_unsorted_top_k_has_a_gradient(largest: int) -> None:
    # The order is the runtime's own, so that each side is held against itself.
    node = helper.make_node("TopK", ["x", "k"], ["y", "places"], largest=largest, sorted=0)
    feeds = {"x": normal(3, 9)}
    model = node_model(node, feeds, {"k": [4]})
    check_derivatives(model, feeds)
    single = {"x": feeds["x"].astype(np.float32)}
    model = node_model(node, single, {"k": [4]}, output_type=TensorProto.FLOAT)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    values = run_in_onnxruntime(model, single)["y"]
    found = run_in_onnxruntime(backward, {**single, "cotangent": values})["gradient.x"]
    np.testing.assert_array_equal(found, np.where(np.isin(single["x"], values), single["x"], 0))


def test_top_k_sorts_the_last_axis_by_default_and_takes_the_first_of_ties() -> None:
    feeds = {"x": np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])}
    model = node_model(helper.make_node("TopK", ["x", "k"], ["y", "places"]), feeds, {"k": [2]})
    found = gradients_of(model, feeds, np.array([[1.0, 2.0], [3.0, 4.0]]))["x"]
    np.testing.assert_array_equal(found, [[0, 1, 2, 0], [3, 4, 0, 0]])


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_gradient_of_compress_is_zero_where_elements_were_dropped(axis: int | None) -> None:
    node = helper.make_node("Compress", ["x", "condition"], ["y"], **({} if axis is None else {"axis": axis}))
    feeds, names = {"x": normal(2, 3, 4)}, {"x": ["a", "b", "c"]}
    check(node, feeds, {"condition": [False, True]}, names)
    check(node, {**feeds, "condition": np.array([True, False])}, names={**names, "condition": ["k"]})


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_values_of_one_hot_get_the_sums_over_their_places(axis: int) -> None:
    node = helper.make_node("OneHot", ["indices", "depth", "values"], ["y"], axis=axis)
    check(node, {"values": np.array([0.5, 2.0])}, {"indices": [[0, 2], [-1, 7]], "depth": 3})


def test_nothing_flows_to_the_indices_of_one_hot() -> None:
    nodes = [
        helper.make_node("OneHot", ["indices", "depth", "values"], ["hot"]),
        helper.make_node("Mul", ["hot", "x"], ["y"]),
    ]
    feeds = {"indices": np.array([0.0, 2.0], np.float32), "x": normal(2, 3)}
    constants = {"depth": 3, "values": np.array([0.0, 1.0])}
    found = gradients_of(node_model(nodes, feeds, constants), feeds)
    np.testing.assert_array_equal(found["indices"], [0, 0])


@pytest.mark.parametrize(("time", "batch"), [(0, 1), (1, 0)])
def test_reversed_sequences_are_reversed_again(time: int, batch: int) -> None:
    node = helper.make_node("ReverseSequence", ["x", "lengths"], ["y"], time_axis=time, batch_axis=batch)
    shape = (4, 2, 3) if time == 0 else (2, 4, 3)
    check(node, {"x": normal(*shape)}, {"lengths": [2, 4]}, {"x": ["a", "b", "c"]})


def test_slices_and_choices_of_old_opsets_have_the_same_gradients() -> None:
    feeds = {"x": normal(2, 3, 4)}
    sliced = helper.make_node("Slice", ["x"], ["y"], starts=[1, 0], ends=[2, 99], axes=[1, 2])
    check_derivatives(node_model(sliced, feeds, opset=9), feeds)
    chosen = helper.make_node("TopK", ["x"], ["y", "places"], axis=1, k=2)
    check_derivatives(node_model(chosen, feeds, opset=9), feeds)


HALF = [
    (helper.make_node("Slice", ["x", "a", "b", "axis", "step"], ["y"]), {"a": [1], "b": [5], "axis": [2], "step": [2]}),
    (helper.make_node("Gather", ["x", "a"], ["y"], axis=1), {"a": np.array([0] * 9 + [1])}),
    (helper.make_node("GatherElements", ["x", "a"], ["y"], axis=1), {"a": np.zeros((2, 3, 5), np.int64)}),
    (helper.make_node("GatherND", ["x", "a"], ["y"]), {"a": np.array([[0, 1], [0, 1], [1, 2]])}),
    (helper.make_node("TopK", ["x", "k"], ["y", "places"]), {"k": [2]}),
    (helper.make_node("Compress", ["x", "c"], ["y"], axis=1), {"c": [False, True, True]}),
]


@pytest.mark.parametrize(("node", "constants"), HALF)
def test_half_precision_gives_the_same_gradients(node: onnx.NodeProto, constants: Mapping[str, Any]) -> None:
    half = {"x": normal(2, 4, 5).astype(np.float16)}
    feeds = {"x": half["x"].astype(np.float64)}
    model = node_model(node, half, constants, output_type=TensorProto.FLOAT16)
    cotangent = normal(*run_in_onnxruntime(model, half)["y"].shape)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    found = run_in_onnxruntime(backward, {**half, "cotangent": cotangent.astype(np.float16)})["gradient.x"]
    assert found.dtype == np.float16
    expected = gradients_of(node_model(node, feeds, constants), feeds, cotangent)["x"]
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("node", "constants"), [case for case in HALF if case[0].op_type != "GatherND"])
def test_an_empty_batch_has_an_empty_gradient(node: onnx.NodeProto, constants: Mapping[str, Any]) -> None:
    if node.op_type == "GatherElements":
        constants = {"a": np.zeros((0, 3, 5), np.int64)}
    feeds = {"x": np.zeros((0, 4, 5), np.float32)}
    model = node_model(node, feeds, constants, symbolic={"x": ["n", 4, 5]}, output_type=TensorProto.FLOAT)
    value = run_in_onnxruntime(model, feeds)["y"]
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    assert run_in_onnxruntime(backward, {**feeds, "cotangent": value})["gradient.x"].shape == (0, 4, 5)
