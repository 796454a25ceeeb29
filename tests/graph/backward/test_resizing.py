"""Resize, and Upsample of old opsets.

ONNX Runtime and the reference evaluator compute different values in some modes, most of all where the scales do not
give a whole number of elements. The gradient must be that of either. So it is held against both: against differences
of the reference evaluator in float64, and against what ONNX Runtime itself computes in float32, Resize being affine.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from finite_differences import check_affine, check_derivatives, gradients_of, node_model, run_in_onnxruntime
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]

MODES = ["nearest", "linear", "cubic"]
COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
SCALES = [(2.0, 2.0), (3.0, 1.0), (1.7, 0.6), (0.3, 3.0), (1.01, 0.99), (0.334, 2.25)]
ALL_SCALES = [pytest.param(SCALES[2:3], id="one"), pytest.param(SCALES, id="all", marks=pytest.mark.long)]
NAMES = {"x": ["n", "c", "h", "w"]}


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def scaled(shape: Sequence[int], scales: Sequence[float], names: Any = None, **attributes: Any) -> onnx.ModelProto:
    """A Resize by constant scales, of all axes or of those in the attribute."""
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)
    return node_model(node, {"x": normal(*shape)}, {"scales": np.array(scales, np.float32)}, symbolic=names)


def sized(shape: Sequence[int], sizes: Sequence[int], names: Any = None, **attributes: Any) -> onnx.ModelProto:
    """A Resize to constant sizes, of all axes or of those in the attribute."""
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    return node_model(node, {"x": normal(*shape)}, {"sizes": sizes}, symbolic=names)


def check(model: onnx.ModelProto, *shape: int) -> None:
    feeds = {"x": normal(*shape)}
    check_derivatives(model, feeds, directions=1)
    check_affine(model, feeds)


def operators_of(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in build_backward(load_model(model.SerializeToString()), "y").graph}


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("choice", ALL_SCALES)
def test_nearest_has_a_gradient_however_it_rounds(
    coordinates: str, rounding: str, choice: list[tuple[float, float]]
) -> None:
    modes = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    for scales in choice:
        check_derivatives(scaled((1, 2, 4, 5), (1, 1, *scales), **modes), {"x": normal(1, 2, 4, 5)}, directions=1)
        check_affine(scaled((1, 2, 9, 10), (1, 1, *scales), NAMES, **modes), {"x": normal(1, 2, 9, 10)})


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("choice", ALL_SCALES)
def test_interpolation_has_the_gradient_of_its_matrix(
    coordinates: str, mode: str, antialias: int, choice: list[tuple[float, float]]
) -> None:
    modes = {"mode": mode, "coordinate_transformation_mode": coordinates, "antialias": antialias}
    for scales in choice:
        check_derivatives(scaled((1, 2, 4, 5), (1, 1, *scales), **modes), {"x": normal(1, 2, 4, 5)}, directions=1)
        check_affine(scaled((1, 2, 9, 10), (1, 1, *scales), NAMES, **modes), {"x": normal(1, 2, 9, 10)})


@pytest.mark.parametrize(("mode", "antialias"), [("linear", 1), ("cubic", 0), ("cubic", 1)])
@pytest.mark.parametrize("choice", ALL_SCALES)
def test_weights_outside_may_be_left_out(mode: str, antialias: int, choice: list[tuple[float, float]]) -> None:
    attributes = {"mode": mode, "antialias": antialias, "exclude_outside": 1, "cubic_coeff_a": -0.5}
    for scales in choice:
        check(scaled((1, 2, 4, 5), (1, 1, *scales), **attributes), 1, 2, 4, 5)


@pytest.mark.parametrize("mode", MODES)
def test_sizes_and_scales_may_be_computed(mode: str) -> None:
    feeds = {"x": normal(1, 2, 4, 5)}
    by_size = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode)
    sizes = {**feeds, "sizes": np.array([1, 2, 7, 3])}
    model = node_model(by_size, sizes, symbolic={**NAMES, "sizes": [4]})
    check_derivatives(model, sizes, directions=1)
    check_affine(model, sizes)
    # From integers, so that nothing is asked for by the scales.
    nodes = [
        helper.make_node("Cast", ["tenths"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["number", "ten"], ["scales"]),
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode),
    ]
    scales = {**feeds, "tenths": np.array([10, 10, 17, 6])}
    model = node_model(nodes, scales, {"ten": np.float32(10)}, symbolic={**NAMES, "tenths": [4]})
    check_derivatives(model, scales, directions=1)
    check_affine(model, scales)


@pytest.mark.parametrize("mode", MODES)
def test_only_the_axes_given_are_resized(mode: str) -> None:
    shape = (1, 2, 4, 5)
    check(sized(shape, [7, 3], NAMES, mode=mode, axes=[2, 3]), *shape)
    check(scaled(shape, [0.6, 2], NAMES, mode=mode, axes=[3, 2]), *shape)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("sizes", [[7, 3], [8, 10], [9, 20]])
def test_proportions_may_be_kept(mode: str, policy: str, sizes: list[int]) -> None:
    shape = (1, 2, 4, 5)
    check(sized(shape, sizes, mode=mode, axes=[2, 3], keep_aspect_ratio_policy=policy), *shape)


def test_proportions_of_unknown_extents_are_refused() -> None:
    model = sized((1, 2, 4, 5), [7, 3], NAMES, mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger")
    with pytest.raises(OrtoscopeError, match="Resize with the policy 'not_larger'") as error:
        build_backward(load_model(model.SerializeToString()), "y")
    assert error.value.reason == "UNSUPPORTED_GRADIENT"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axes", [None, [3, 2]])
@pytest.mark.parametrize("sizes", [[7, 6], [4, 5]])
def test_a_region_is_resized_and_nothing_comes_from_outside(
    mode: str, axes: list[int] | None, sizes: list[int]
) -> None:
    # With the input's own extents ONNX Runtime copies it, whatever the region is; the gradient is then that of a copy.
    region = [0.1, -0.2, 0.9, 1.3] if axes else [0, 0, 0.1, -0.2, 1, 1, 0.9, 1.3]
    node = helper.make_node(
        "Resize",
        ["x", "region", "", "sizes"],
        ["y"],
        mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=10.0,
        **({"axes": axes} if axes else {}),
    )
    constants = {"region": np.array(region, np.float32), "sizes": sizes[::-1] if axes else [1, 2, *sizes]}
    feeds = {"x": normal(1, 2, 4, 5)}
    for names in (None, NAMES):
        model = node_model(node, feeds, constants, symbolic=names)
        check_derivatives(model, feeds, directions=1)
        check_affine(model, feeds)


def test_gradients_by_region_or_scales_are_zero_for_the_nearest_and_refused_otherwise() -> None:
    feeds = {"x": normal(1, 2, 4, 5), "scales": np.array([1, 1, 1.7, 0.6], np.float32)}
    for mode in MODES:
        model = node_model(helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode), feeds)
        if mode == "nearest":
            assert operators_of(model)
            continue
        with pytest.raises(OrtoscopeError, match="Resize by its scales or region"):
            build_backward(load_model(model.SerializeToString()), "y")


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        ((2, 3), (2, 2.3)),
        ((2, 3), (2, 3)),
        ((2, 3, 4), (1, 1, 2)),
        ((1, 2, 3), (1, 2, 2)),
        ((1, 2, 2, 3, 4), (1, 1, 2, 2, 1.5)),
        ((1, 2, 2, 3, 4), (1, 1, 2, 2, 1)),
        ((2, 2, 3, 4), (2, 1, 1, 3)),
    ],
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_any_number_of_axes_is_resized(shape: tuple[int, ...], scales: tuple[float, ...], mode: str) -> None:
    for names in ({"x": [*"abcde"[: len(shape)]]}, {"x": ["n", *shape[1:]]}):
        model = scaled(shape, scales, names, mode=mode)
        check_derivatives(model, {"x": normal(*shape)}, directions=1)
        if mode == "nearest" or scales[:2] == (1, 1) or len(shape) == 2:
            check_affine(model, {"x": normal(*shape)})


@pytest.mark.parametrize("names", [["n", 2, 4, 5], ["n", 2, "h", "w"]])
def test_blocks_of_the_nearest_are_summed_by_a_convolution(names: list[int | str]) -> None:
    attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    model = scaled((1, 2, 4, 5), (1, 1, 3, 2), {"x": names}, mode="nearest", **attributes)
    check(model, 1, 2, 4, 5)
    assert operators_of(model) == {"Conv", "Resize"}


@pytest.mark.parametrize("coordinates", [name for name in COORDINATES if name != "align_corners"])
@pytest.mark.parametrize("scales", [(2, 2), (3, 1), (1, 5), (4, 3)])
def test_linear_enlarging_by_a_whole_factor_is_undone_by_a_convolution(
    coordinates: str, scales: tuple[int, int]
) -> None:
    shape = (1, 1, 33, 34)
    attributes = {"mode": "linear", "coordinate_transformation_mode": coordinates}
    model = scaled(shape, (1, 1, *scales), {"x": ["n", 1, 33, 34]}, **attributes)
    assert "Conv" in operators_of(model)
    check(model, *shape)


def test_sizes_put_together_of_other_shapes_leave_batch_and_channels_alone() -> None:
    # As a feature pyramid has it: the coarse map takes the extents of the fine one.
    nodes = [
        helper.make_node("Shape", ["x"], ["own"]),
        helper.make_node("Slice", ["own", "zero", "two"], ["front"]),
        helper.make_node("Shape", ["fine"], ["others"]),
        helper.make_node("Slice", ["others", "two", "four"], ["back"]),
        helper.make_node("Concat", ["front", "back"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["large"], mode="linear"),
        helper.make_node("Add", ["large", "fine"], ["y"]),
    ]
    feeds = {"x": normal(2, 3, 4, 5), "fine": normal(2, 3, 7, 9)}
    constants = {"zero": [0], "two": [2], "four": [4]}
    names = {"x": ["n", 3, "h", "w"], "fine": ["n", 3, "H", "W"]}
    model = node_model(nodes, feeds, constants, symbolic=names)
    check_derivatives(model, feeds, directions=1)
    graph = build_backward(load_model(model.SerializeToString()), "y", with_respect_to=["x"]).graph
    # One product for each spatial axis, none for the others.
    assert [node.op_type for node in graph].count("MatMul") == 2


def test_the_gradient_belongs_to_the_runtime_also_where_it_copies() -> None:
    # 1.01 and 0.99 times five elements are five: ONNX Runtime copies if that holds for all axes, and only then.
    for scales in ((1.01, 1.01), (1.01, 0.99)):
        for names in (None, NAMES):
            model = scaled((1, 2, 5, 5), (1, 1, *scales), names, mode="cubic")
            check_affine(model, {"x": normal(1, 2, 5, 5)})


@pytest.mark.parametrize(("op_type", "opset"), [("Upsample", 9), ("Resize", 10)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2, 2), (1.7, 2.3), (0.6, 0.5), (0.6, 1.7)])
def test_resizing_of_old_opsets_keeps_its_values_and_has_their_gradient(
    op_type: str, opset: int, mode: str, scales: tuple[float, float]
) -> None:
    # The reference evaluator has neither of the two but for the simplest scales.
    if op_type == "Upsample" and min(scales) < 1:
        scales = (scales[0] * 2, scales[1] * 2)
    feeds = {"x": normal(2, 3, 7, 8)}
    node = helper.make_node(op_type, ["x", "scales"], ["y"], mode=mode)
    given = np.array([1, 1, *scales], np.float32)
    check_affine(node_model(node, feeds, {"scales": given}, opset=opset), feeds)
    inputs = {**feeds, "scales": given}
    check_affine(node_model(node, inputs, opset=opset, symbolic={"x": ["n", 3, 7, 8], "scales": [4]}), inputs)


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_gives_the_same_gradients(mode: str) -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode)
    feeds = {"x": normal(1, 2, 4, 5)}
    half = {"x": feeds["x"].astype(np.float16)}
    scales = {"scales": np.array([1, 1, 2, 1.5], np.float32)}
    model = node_model(node, half, scales, output_type=TensorProto.FLOAT16)
    cotangent = normal(1, 2, 8, 7)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    found = run_in_onnxruntime(backward, {**half, "cotangent": cotangent.astype(np.float16)})["gradient.x"]
    assert found.dtype == np.float16
    expected = gradients_of(node_model(node, feeds, scales), feeds, cotangent)["x"]
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2, 2), (1.7, 0.6)])
def test_an_empty_batch_has_an_empty_gradient(mode: str, scales: tuple[float, float]) -> None:
    feeds = {"x": np.zeros((0, 2, 4, 5), np.float32)}
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode)
    constants = {"scales": np.array([1, 1, *scales], np.float32)}
    model = node_model(node, feeds, constants, symbolic={"x": ["n", 2, 4, 5]}, output_type=TensorProto.FLOAT)
    value = run_in_onnxruntime(model, feeds)["y"]
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    assert run_in_onnxruntime(backward, {**feeds, "cotangent": value})["gradient.x"].shape == (0, 2, 4, 5)
