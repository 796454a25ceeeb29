"""GridSample.

The reference evaluator computes grids and coordinates in float32, so that differences by them are noise: the truth is
`reference_operators.GridSample` and `AffineGrid`, in float64, which are held against ONNX Runtime's values here.
"""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from finite_differences import (
    check_derivatives,
    check_single_precision,
    evaluate,
    gradients_of,
    node_model,
    run_in_onnxruntime,
)
from onnx import helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]
PLANE = (("x", (2, 3, 4, 5)), ("grid", (2, 3, 2, 2)))
VOLUME = (("x", (2, 2, 3, 2, 4)), ("grid", (2, 1, 2, 3, 3)))
PADDINGS = ["zeros", "border", "reflection"]


def inputs(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Array]:
    """An image, and a grid that reaches well beyond it."""
    rng = np.random.default_rng(1)
    (image, extents), (grid, samples) = shapes
    return {image: rng.standard_normal(extents), grid: rng.uniform(-1.7, 1.7, samples)}


def model(feeds: dict[str, Array], symbolic: Any = None, opset: int = 22, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], **attributes)
    output_type = helper.np_dtype_to_tensor_dtype(feeds["x"].dtype)
    return node_model(node, feeds, symbolic=symbolic, opset=opset, output_type=output_type)


CASES = [
    pytest.param(
        shapes,
        mode,
        padding,
        aligned,
        marks=[pytest.mark.long] if (shapes is VOLUME) + (mode == "cubic") + aligned > 1 else [],
    )
    for shapes, mode, padding, aligned in itertools.product(
        (PLANE, VOLUME), ("nearest", "linear", "cubic"), PADDINGS, (0, 1)
    )
    # ONNX Runtime has no cubic sampling of volumes.
    if shapes is PLANE or mode != "cubic"
]


@pytest.mark.parametrize(("shapes", "mode", "padding", "aligned"), CASES)
def test_samples_have_gradients_by_image_and_grid(shapes: Any, mode: str, padding: str, aligned: int) -> None:
    feeds = inputs(shapes)
    sampled = model(feeds, mode=mode, padding_mode=padding, align_corners=aligned)
    np.testing.assert_allclose(run_in_onnxruntime(sampled, feeds)["y"], evaluate(sampled, feeds)["y"], atol=1e-12)
    check_derivatives(sampled, feeds, directions=1)
    check_single_precision(sampled, feeds, tolerance=3e-5)


@pytest.mark.parametrize("padding", PADDINGS)
def test_extents_may_be_unknown(padding: str) -> None:
    feeds = inputs(PLANE)
    names = {"x": ["n", "c", "h", "w"], "grid": ["n", "p", "q", 2]}
    check_derivatives(model(feeds, names, mode="linear", padding_mode=padding), feeds, directions=1)
    check_single_precision(model(feeds, names, mode="cubic", padding_mode=padding), feeds, tolerance=3e-5)


def test_cubic_samples_of_a_volume_have_gradients() -> None:
    feeds = inputs(VOLUME)
    check_derivatives(model(feeds, mode="cubic"), feeds, directions=1, tangent=False)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", PADDINGS)
def test_an_image_of_one_pixel_has_gradients(aligned: int, padding: str) -> None:
    feeds = {"x": np.array([[[[2.0]]]]), "grid": np.random.default_rng(0).uniform(-1.7, 1.7, (1, 3, 3, 2))}
    check_derivatives(model(feeds, mode="linear", padding_mode=padding, align_corners=aligned), feeds, directions=1)


def test_weights_at_a_pixel_have_the_slope_to_the_right() -> None:
    # As PyTorch: the left of two neighbouring taps is the one that rounding down gives.
    feeds = {"x": np.array([[[[1.0, 2.0, 5.0]]]]), "grid": np.array([[[[0.0, 0.0]]]])}
    found = gradients_of(model(feeds, mode="linear", align_corners=1, padding_mode="border"), feeds)
    np.testing.assert_allclose(found["grid"], [[[[3.0, 0.0]]]])
    np.testing.assert_allclose(found["x"], [[[[0.0, 1.0, 0.0]]]])


@pytest.mark.parametrize(("padding", "beyond"), [("border", 0.0), ("reflection", -3.0)])
def test_a_coordinate_that_padding_holds_or_turns_at_the_border_has_no_slope_there(padding: str, beyond: float) -> None:
    feeds = {"x": np.array([[[[1.0, 2.0, 5.0]]]]), "grid": np.array([[[[-1.0, 0.0], [1.0, 0.0], [1.5, 0.0]]]])}
    found = gradients_of(model(feeds, mode="linear", align_corners=1, padding_mode=padding), feeds)
    np.testing.assert_allclose(found["grid"][..., 0], [[[0, 0, beyond]]])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("place", [np.nan, np.inf, -1e30])
def test_places_that_are_nowhere_break_nothing_else(padding: str, place: float) -> None:
    feeds = {name: value.astype(np.float32) for name, value in inputs(PLANE).items()}
    sampled = model(feeds, mode="linear", padding_mode=padding)
    backward = serialize(build_backward(load_model(sampled.SerializeToString()), "y"))
    cotangent = np.ones((2, 3, 3, 2), np.float32)
    before = run_in_onnxruntime(backward, {**feeds, "cotangent": cotangent})
    feeds["grid"][1, 2, 1] = place
    after = run_in_onnxruntime(backward, {**feeds, "cotangent": cotangent})
    np.testing.assert_array_equal(after["gradient.x"][0], before["gradient.x"][0])
    np.testing.assert_array_equal(after["gradient.grid"][0], before["gradient.grid"][0])


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_old_names_of_the_modes_mean_the_same(mode: str) -> None:
    feeds = inputs(PLANE)
    check_derivatives(model(feeds, opset=16, mode=mode, padding_mode="border"), feeds, directions=1)


def test_half_precision_gives_the_same_gradients() -> None:
    half = {name: value.astype(np.float16) for name, value in inputs(PLANE).items()}
    double = {name: value.astype(np.float64) for name, value in half.items()}
    sampled = model(half)
    backward = serialize(build_backward(load_model(sampled.SerializeToString()), "y"))
    cotangent = np.random.default_rng(0).standard_normal((2, 3, 3, 2)).astype(np.float16)
    found = run_in_onnxruntime(backward, {**half, "cotangent": cotangent})
    expected = gradients_of(model(double), double, cotangent.astype(np.float64))
    for name, value in expected.items():
        assert found[f"gradient.{name}"].dtype == np.float16
        np.testing.assert_allclose(found[f"gradient.{name}"], value, rtol=2e-2, atol=2e-2)


def test_images_and_grids_of_different_precision_are_refused() -> None:
    feeds = inputs(PLANE)
    mixed = model({"x": feeds["x"], "grid": feeds["grid"].astype(np.float32)})
    with pytest.raises(OrtoscopeError, match="GridSample with an image and a grid of different precision") as error:
        build_backward(load_model(mixed.SerializeToString()), "y")
    assert error.value.reason == "UNSUPPORTED_GRADIENT"


@pytest.mark.parametrize("aligned", [0, 1])
def test_a_spatial_transformer_has_gradients_by_its_matrix(aligned: int) -> None:
    nodes = [
        helper.make_node("AffineGrid", ["matrix", "size"], ["grid"], align_corners=aligned),
        helper.make_node("GridSample", ["x", "grid"], ["y"], align_corners=aligned),
    ]
    feeds = {"matrix": np.random.default_rng(0).normal(0, 0.5, (2, 2, 3)), "x": inputs(PLANE)["x"]}
    names = {"matrix": ["n", 2, 3], "x": ["n", 3, 4, 5]}
    sampled = node_model(nodes, feeds, {"size": [2, 3, 3, 4]}, symbolic=names)
    np.testing.assert_allclose(run_in_onnxruntime(sampled, feeds)["y"], evaluate(sampled, feeds)["y"], atol=1e-12)
    check_derivatives(sampled, feeds, directions=1)
    check_single_precision(sampled, feeds)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("size", [[2, 3, 4, 5], [2, 3, 2, 4, 3]])
def test_affine_grids_have_the_gradient_of_a_product(aligned: int, size: list[int]) -> None:
    axes = len(size) - 2
    feeds = {"matrix": np.random.default_rng(0).standard_normal((2, axes, axes + 1))}
    node = helper.make_node("AffineGrid", ["matrix", "size"], ["y"], align_corners=aligned)
    for inner, constants, names in (
        (feeds, {"size": size}, {"matrix": ["n", axes, axes + 1]}),
        ({**feeds, "size": np.array(size)}, {}, {"matrix": ["n", axes, axes + 1], "size": [axes + 2]}),
    ):
        grids = node_model(node, inner, constants, symbolic=names)
        check_derivatives(grids, inner, directions=1)
        check_single_precision(grids, inner)
