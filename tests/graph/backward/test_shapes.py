"""Operators that regroup, permute, repeat, join, part and pad."""

import itertools
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
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]
Names = Mapping[str, Sequence[int | str]]

PADS = [
    [0, 1, 2, 3, 1, 0, 1, 2],
    [0, 0, 1, 1, 0, 0, 1, 1],
    [0, 0, 0, 2, 0, 0, 2, 1],
    [0, 0, 2, 0, 0, 0, 0, 3],
]
NEGATIVE_PADS = [[0, -1, 1, -2, 0, 0, -1, 1], [0, 0, -1, 0, 0, 0, -2, -4], [0, -1, 0, 3, 0, 1, 0, -1]]
MODES = ["constant", "edge", "reflect", "wrap"]


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def check(
    nodes: onnx.NodeProto | list[onnx.NodeProto],
    feeds: Mapping[str, Array],
    constants: Mapping[str, Any] | None = None,
    names: Names | None = None,
    *,
    opset: int = 22,
    in_onnxruntime: bool = True,
) -> None:
    """All derivatives, with static shapes and with the names given, and in float32 by ONNX Runtime."""
    for symbolic in (None, names) if names else (None,):
        model = node_model(nodes, feeds, constants, symbolic=symbolic, opset=opset)
        check_derivatives(model, feeds, directions=1)
        if in_onnxruntime:
            check_single_precision(model, feeds)


def operators_of(model: onnx.ModelProto, tap: str, *, by: Sequence[str] = ()) -> list[str]:
    return [
        node.op_type for node in build_backward(load_model(model.SerializeToString()), tap, with_respect_to=by).graph
    ]


@pytest.mark.parametrize(
    ("shape", "allowzero"),
    [([6, 4], 0), ([-1], 0), ([0, -1], 0), ([4, 0, -1], 0), ([2, 1, 3, 1, 4], 1), ([0, 0, 2, 2], 0)],
)
def test_reshape_is_undone(shape: list[int], allowzero: int) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=allowzero)
    check(node, {"x": normal(2, 3, 4)}, {"shape": shape}, {"x": ["n", 3, 4]})


def test_reshape_to_a_computed_shape_is_undone() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["whole"]),
        helper.make_node("Slice", ["whole", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    check(nodes, {"x": normal(2, 3, 4)}, {"zero": [0], "one": [1], "rest": [-1]}, {"x": ["n", "c", "w"]})


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_flatten_is_undone(axis: int) -> None:
    node = helper.make_node("Flatten", ["x"], ["y"], axis=axis)
    check(node, {"x": normal(2, 3, 4)}, names={"x": ["n", "c", 4]})


@pytest.mark.parametrize("axes", [[1], [-1], [1, 3], None])
def test_squeeze_is_undone(axes: list[int] | None) -> None:
    node = helper.make_node("Squeeze", ["x", "axes"] if axes else ["x"], ["y"])
    names: Names = {"x": ["n", 1, "w", 1]} if axes else {}
    check(node, {"x": normal(2, 1, 3, 1)}, {"axes": axes} if axes else None, names)


@pytest.mark.parametrize("axes", [[0], [-1], [0, 2, 4], [-1, 1]])
def test_unsqueeze_is_undone(axes: list[int]) -> None:
    check(helper.make_node("Unsqueeze", ["x", "axes"], ["y"]), {"x": normal(2, 3)}, {"axes": axes}, {"x": ["n", "c"]})


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_transpose_is_undone_by_the_inverse_order(order: tuple[int, ...]) -> None:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=order)
    check(node, {"x": normal(2, 3, 4)}, names={"x": ["n", "c", "w"]})


def test_transpose_reverses_the_axes_by_default() -> None:
    check(helper.make_node("Transpose", ["x"], ["y"]), {"x": normal(2, 3, 4)}, names={"x": ["n", "c", "w"]})


@pytest.mark.parametrize(
    ("shape", "names", "order"),
    [
        ((2, 2, 3, 4, 5), ["n", 2, 3, 4, 5], [0, 2, 1, 3, 4]),
        ((2, 2, 3, 4, 5), ["n", 2, 3, "h", "w"], [0, 2, 1, 3, 4]),
        ((2, 3, 4, 20), [2, 3, 4, "w"], [2, 0, 1, 3]),
        ((2, 3, 2, 2, 16), ["n", 3, 2, 2, 16], [0, 3, 1, 2, 4]),
    ],
)
def test_transpose_of_blocks_is_undone(shape: tuple[int, ...], names: list[int | str], order: list[int]) -> None:
    # Channel shuffles are of this kind; whole blocks are moved at once, with another operator than Transpose.
    node = helper.make_node("Transpose", ["x"], ["y"], perm=order)
    check(node, {"x": normal(*shape)}, names={"x": names})
    assert operators_of(node_model(node, {"x": normal(*shape)}, symbolic={"x": names}), "y").count("Transpose") == 1


@pytest.mark.parametrize(
    ("shape", "target"), [((3, 1), [2, 1, 4]), ((1,), [3]), ((), [2, 2]), ((2, 3), [1, 1]), ((1, 3), [2, 3])]
)
def test_gradient_of_expand_is_the_sum_over_copies(shape: tuple[int, ...], target: list[int]) -> None:
    check(helper.make_node("Expand", ["x", "shape"], ["y"]), {"x": normal(*shape)}, {"shape": target})


def test_expand_to_a_computed_shape_has_a_gradient() -> None:
    feeds = {"x": normal(3, 1), "shape": np.array([2, 3, 4])}
    check(helper.make_node("Expand", ["x", "shape"], ["y"]), feeds, names={"x": ["n", "m"], "shape": [3]})


@pytest.mark.parametrize("repeats", [[1, 2, 3], [1, 1, 1], [2, 2, 2], [3, 1, 1]])
def test_gradient_of_tile_is_the_sum_over_copies(repeats: list[int]) -> None:
    node = helper.make_node("Tile", ["x", "repeats"], ["y"])
    check(node, {"x": normal(2, 3, 4)}, {"repeats": repeats}, {"x": ["n", "c", "w"]})
    check(node, {"x": normal(2, 3, 4), "repeats": np.array(repeats)}, names={"x": ["n", "c", "w"], "repeats": [3]})


@pytest.mark.parametrize("axis", [1, -2])
def test_concat_gives_every_input_its_part(axis: int) -> None:
    nodes = [
        # One input goes in twice.
        helper.make_node("Identity", ["a"], ["copy"]),
        helper.make_node("Concat", ["copy", "b", "copy"], ["y"], axis=axis),
    ]
    feeds = {"a": normal(2, 3, 4), "b": normal(2, 5, 4)}
    check(nodes, feeds, names={"a": ["n", 3, 4], "b": ["n", 5, 4]})
    check(nodes, feeds, names={"a": ["n", "k", 4], "b": ["n", "l", 4]})


def test_gradient_of_concat_cuts_out_only_what_is_wanted() -> None:
    feeds = {name: normal(2, 3) for name in "abc"}
    model = node_model(helper.make_node("Concat", ["a", "b", "c"], ["y"], axis=1), feeds)
    assert operators_of(model, "y", by=["b"]) == ["Concat", "Slice"]


@settings(max_examples=20)
@given(extents=st.lists(st.integers(0, 4), min_size=1, max_size=5), axis=st.integers(-3, 2))
def test_concat_and_split_are_each_others_transpose(extents: list[int], axis: int) -> None:
    shape = [2, 3, 2]
    feeds = {
        f"x{index}": normal(*shape[: axis % 3], size, *shape[axis % 3 + 1 :]) for index, size in enumerate(extents)
    }
    check_derivatives(node_model(helper.make_node("Concat", [*feeds], ["y"], axis=axis), feeds), feeds, directions=1)
    shape[axis] = sum(extents)
    parts = [f"part{index}" for index in range(len(extents))]
    nodes = [
        helper.make_node("Split", ["x", "extents"], parts, axis=axis),
        helper.make_node("Concat", [*reversed(parts)], ["y"], axis=axis),
    ]
    whole = {"x": normal(*shape)}
    check_derivatives(node_model(nodes, whole, {"extents": extents}), whole, directions=1)


@pytest.mark.parametrize("used", [["p"], ["q"], ["r"], ["p", "q"], ["r", "p"], ["q", "r"]])
@pytest.mark.parametrize("kind", ["equal", "uneven", "given"])
def test_parts_of_a_split_that_are_not_used_have_no_gradient(used: list[str], kind: str) -> None:
    extent = {"equal": 6, "uneven": 7, "given": 6}[kind]
    inputs = ["x", "extents"] if kind == "given" else ["x"]
    nodes = [
        helper.make_node("Split", inputs, ["p", "q", "r"], axis=1, **({} if kind == "given" else {"num_outputs": 3})),
        helper.make_node("Concat", used, ["y"], axis=1),
    ]
    constants = {"extents": [3, 1, 2]} if kind == "given" else None
    check(nodes, {"x": normal(2, extent, 2)}, constants, {"x": ["n", "c", "w"]})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_is_undone(mode: str) -> None:
    node = helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)
    check(node, {"x": normal(2, 12, 2, 3)}, names={"x": ["n", 12, "h", "w"]})
    check(node, {"x": normal(1, 8, 4, 5)}, names={"x": ["n", 8, 4, 5]})


def test_space_to_depth_is_undone() -> None:
    node = helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2)
    check(node, {"x": normal(2, 3, 4, 6)}, names={"x": ["n", "c", "h", "w"]})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", PADS)
def test_copies_that_padding_added_are_summed_and_the_rest_is_cut_off(mode: str, pads: list[int]) -> None:
    node = helper.make_node("Pad", ["x", "pads"], ["y"], mode=mode)
    feeds = {"x": normal(2, 4, 6, 7)}
    if mode == "reflect":
        # ONNX Runtime reflects once, and no axis here but the last is longer than its padding.
        pads = [0, 1, 2, pads[3], 0, 0, *pads[6:]]
    check(node, feeds, {"pads": pads}, {"x": ["n", "c", "h", "w"]})
    check(node, {**feeds, "pads": np.array(pads)}, names={"x": ["n", "c", "h", "w"], "pads": [8]})


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [[2, 2], [3, 1], [0, 3], [3, 3], [7, 9]])
def test_padding_may_be_longer_than_what_it_copies(mode: str, pads: list[int]) -> None:
    # The reference evaluator reflects and wraps as often as needed; ONNX Runtime refuses to.
    node = helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], mode=mode)
    feeds = {"x": normal(2, 4)}
    check(node, feeds, {"pads": pads, "axes": [-1]}, {"x": ["n", "w"]}, in_onnxruntime=max(pads) < 4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", NEGATIVE_PADS)
def test_what_negative_padding_cut_off_has_no_gradient(mode: str, pads: list[int]) -> None:
    feeds = {"x": normal(2, 3, 4, 5)}
    node = helper.make_node("Pad", ["x", "pads"], ["y"], mode=mode)
    check(node, feeds, {"pads": pads})
    check_affine(node_model(node, feeds, {"pads": pads}, symbolic={"x": ["n", 3, 4, 5]}), feeds)
    if mode == "constant":
        check(node, {**feeds, "pads": np.array(pads)}, names={"x": ["n", "c", "h", "w"], "pads": [8]})


def test_the_constant_of_a_padding_gets_the_sum_over_it() -> None:
    feeds = {"x": normal(2, 3, 4), "value": np.array(1.5)}
    for pads in ([0, 1, 2, 1, 0, 3], [0, -1, 2, 0, 1, -1], [0] * 6):
        node = helper.make_node("Pad", ["x", "pads", "value"], ["y"])
        check(node, feeds, {"pads": pads}, {"x": ["n", "c", "w"], "value": []})
    node = helper.make_node("Pad", ["x", "pads", "value", "axes"], ["y"])
    check(node, feeds, {"pads": [1, 2], "axes": [-2]}, {"x": ["n", "c", "w"], "value": []})


@settings(max_examples=25)
@given(
    mode=st.sampled_from(MODES),
    extent=st.integers(1, 9),
    before=st.integers(0, 5),
    after=st.integers(0, 5),
    known=st.booleans(),
)
def test_padding_by_any_amount_has_a_gradient(mode: str, extent: int, before: int, after: int, known: bool) -> None:
    feeds = {"x": normal(2, extent, 2)}
    node = helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], mode=mode)
    symbolic = None if known else {"x": [2, "n", 2]}
    model = node_model(node, feeds, {"pads": [before, after], "axes": [1]}, symbolic=symbolic)
    check_derivatives(model, feeds, directions=1)


def test_computed_axes_of_a_padding_are_refused() -> None:
    feeds = {"x": normal(2, 3), "axes": np.array([1])}
    nodes = [
        helper.make_node("Pad", ["x", "pads", "", "axes"], ["padded"]),
        helper.make_node("Reshape", ["padded", "flat"], ["y"]),
    ]
    model = node_model(nodes, feeds, {"pads": [1, 1], "flat": [2, -1]})
    with pytest.raises(OrtoscopeError, match="Pad with computed axes") as error:
        build_backward(load_model(model.SerializeToString()), "y")
    assert error.value.reason == "UNSUPPORTED_GRADIENT"


@pytest.mark.parametrize(
    ("columns", "image", "block", "attributes"),
    [
        ((2, 6, 12), [5, 5], [2, 3], {}),
        ((2, 6, 30), [5, 5], [2, 3], {"pads": [1, 1, 1, 1]}),
        ((1, 4, 4), [5, 6], [2, 2], {"strides": [2, 3]}),
        ((1, 8, 6), [5, 6], [2, 2], {"strides": [2, 3], "dilations": [1, 2], "pads": [0, 1, 1, 0]}),
        ((1, 8, 8), [3, 3, 3], [2, 2, 2], {}),
        ((1, 4, 3), [5], [2], {"strides": [2], "pads": [0, 1]}),
    ],
)
def test_columns_get_the_gradient_of_the_places_they_were_put_to(
    columns: tuple[int, ...], image: list[int], block: list[int], attributes: dict[str, list[int]]
) -> None:
    node = helper.make_node("Col2Im", ["x", "image", "block"], ["y"], **attributes)
    check(node, {"x": normal(*columns)}, {"image": image, "block": block}, {"x": ["n", *columns[1:]]})


@pytest.mark.parametrize("target", [[2, 2], [5, 7], [3, 9]])
def test_centre_crop_and_pad_is_undone(target: list[int]) -> None:
    node = helper.make_node("CenterCropPad", ["x", "target"], ["y"], axes=[1, -1])
    check(node, {"x": normal(2, 4, 5)}, {"target": target}, {"x": ["n", "h", "w"]})


OLD = [
    (helper.make_node("Squeeze", ["x"], ["y"], axes=[1]), (2, 1, 4)),
    (helper.make_node("Unsqueeze", ["x"], ["y"], axes=[0, 2]), (2, 4)),
    (helper.make_node("Pad", ["x"], ["y"], pads=[0, 1, 2, 0, 1, 0], mode="reflect"), (2, 3, 4)),
    (helper.make_node("Pad", ["x"], ["y"], pads=[0, 1, 2, 0, 1, 0], value=1.5), (2, 3, 4)),
    (helper.make_node("Split", ["x"], ["y", "rest"], axis=1, split=[1, 2]), (2, 3)),
    (helper.make_node("Split", ["x"], ["rest", "y"], axis=1), (2, 4)),
    (helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2), (1, 8, 2, 3)),
    (helper.make_node("Flatten", ["x"], ["y"]), (2, 3, 4)),
]


@pytest.mark.parametrize(("node", "shape"), OLD)
@pytest.mark.parametrize("opset", [9, 10])
def test_old_forms_with_attributes_have_the_same_gradients(
    node: onnx.NodeProto, shape: tuple[int, ...], opset: int
) -> None:
    feeds = {"x": normal(*shape)}
    model = node_model(node, feeds, opset=opset, output="y")
    check_derivatives(model, feeds, directions=1)


CASES = [
    (helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 1]), {}),
    (helper.make_node("Concat", ["x", "x"], ["y"], axis=1), {}),
    (helper.make_node("Tile", ["x", "repeats"], ["y"]), {"repeats": [1, 2, 3]}),
    (helper.make_node("Pad", ["x", "pads"], ["y"], mode="reflect"), {"pads": [0, 1, 2, 0, 1, 0]}),
    (helper.make_node("Pad", ["x", "pads"], ["y"]), {"pads": [0, 1, 2, 0, 1, 0]}),
    (helper.make_node("Expand", ["x", "shape"], ["y"]), {"shape": [2, 1, 1, 1]}),
    (helper.make_node("Reshape", ["x", "shape"], ["y"]), {"shape": [0, 20]}),
]


@pytest.mark.parametrize(("node", "constants"), CASES)
def test_an_empty_batch_has_an_empty_gradient(node: onnx.NodeProto, constants: Mapping[str, Any]) -> None:
    feeds = {"x": np.zeros((0, 4, 5), np.float32)}
    model = node_model(node, feeds, constants, symbolic={"x": ["n", 4, 5]}, output_type=TensorProto.FLOAT)
    value = run_in_onnxruntime(model, feeds)["y"]
    results = run_in_onnxruntime(
        serialize(build_backward(load_model(model.SerializeToString()), "y")), {**feeds, "cotangent": value}
    )
    assert results["gradient.x"].shape == (0, 4, 5)


@pytest.mark.parametrize(("node", "constants"), CASES)
def test_half_precision_gives_the_same_gradients(node: onnx.NodeProto, constants: Mapping[str, Any]) -> None:
    feeds = {"x": normal(2, 4, 5)}
    half = {"x": feeds["x"].astype(np.float16)}
    model = node_model(node, half, constants, output_type=TensorProto.FLOAT16)
    cotangent = normal(*run_in_onnxruntime(model, half)["y"].shape)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    found = run_in_onnxruntime(backward, {**half, "cotangent": cotangent.astype(np.float16)})["gradient.x"]
    assert found.dtype == np.float16
    expected = gradients_of(node_model(node, feeds, constants), feeds, cotangent)["x"]
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_infinite_cotangents_stay_where_they_belong() -> None:
    feeds = {"x": normal(2, 6)}
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="constant"),
        helper.make_node("Concat", ["padded", "x"], ["y"], axis=1),
    ]
    model = node_model(nodes, feeds, {"pads": [0, 1, 0, 1]})
    cotangent = np.zeros((2, 14))
    cotangent[0, 3] = np.inf
    expected = np.zeros((2, 6))
    expected[0, 2] = np.inf
    np.testing.assert_array_equal(gradients_of(model, feeds, cotangent)["x"], expected)
