"""Convolutions and transposed convolutions."""

from dataclasses import replace

import numpy as np
import pytest
from finite_differences import (
    check_derivatives,
    check_single_precision,
    node_model,
    run_in_onnxruntime,
    single_precision,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize
from window_cases import Convolution, conv, conv_transpose, convolutions


@settings(max_examples=100, deadline=None)
@given(case=convolutions("Conv"))
def test_gradient_of_a_convolution_of_any_geometry(case: Convolution) -> None:
    check_derivatives(*case.model(), directions=1)


@settings(max_examples=30, deadline=None)
@given(case=convolutions("Conv"))
def test_gradient_at_weights_and_bias_of_a_convolution(case: Convolution) -> None:
    check_derivatives(*case.model(weight_is_input=True), directions=1, tangent=not case.symbolic)


@settings(max_examples=100, deadline=None)
@given(case=convolutions("ConvTranspose"))
def test_gradient_of_a_transposed_convolution_of_any_geometry(case: Convolution) -> None:
    check_derivatives(*case.model(), directions=1)


@settings(max_examples=30, deadline=None)
@given(case=convolutions("ConvTranspose"))
def test_gradient_at_weights_and_bias_of_a_transposed_convolution(case: Convolution) -> None:
    check_derivatives(*case.model(weight_is_input=True), directions=1, tangent=not case.symbolic)


@settings(max_examples=30, deadline=None)
@given(case=st.one_of(convolutions("Conv"), convolutions("ConvTranspose")))
def test_onnxruntime_agrees_in_single_precision(case: Convolution) -> None:
    check_single_precision(*case.model())


@pytest.mark.parametrize(
    "case",
    [
        conv((2, 3, 9), (4, 3, 3), strides=[2], pads=[1, 1]),
        conv((2, 3, 8, 8), (8, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
        conv((2, 3, 12, 12), (4, 3, 7, 7), strides=[2, 2], pads=[3, 3, 3, 3]),
        conv((1, 40, 6, 6), (8, 40, 3, 3), strides=[2, 2], pads=[0, 0, 1, 1]),
        conv((2, 4, 7, 7), (6, 4, 1, 1), strides=[2, 2]),
        conv((2, 8, 7, 9), (8, 1, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], group=8),
        conv((2, 8, 7, 9), (16, 1, 5, 5), strides=[2, 2], pads=[2, 2, 2, 2], group=8),
        conv((2, 8, 7, 9), (8, 4, 3, 3), strides=[2, 1], pads=[1, 1, 1, 1], group=2),
        conv((2, 8, 9, 9), (4, 8, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2]),
        conv((1, 2, 5, 6, 7), (4, 2, 3, 3, 3), strides=[1, 2, 2], pads=[1, 1, 1, 1, 1, 1]),
    ],
    ids=lambda case: "x".join(map(str, (*case.data, 0, *case.weight))),
)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_gradient_of_convolutions_as_networks_have_them(case: Convolution, symbolic: bool) -> None:
    case = replace(case, symbolic=symbolic)
    check_derivatives(*case.model(), directions=1)
    check_single_precision(*case.model())


@pytest.mark.parametrize("mode", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_gradient_of_a_transposed_convolution_with_an_output_shape(mode: str, symbolic: bool) -> None:
    case = conv_transpose((2, 3, 4, 5), (3, 2, 4, 3), strides=[3, 2], output_shape=[12, 10], auto_pad=mode)
    case = replace(case, symbolic=symbolic)
    check_derivatives(*case.model(), directions=1)
    check_single_precision(*case.model())


def test_gradient_of_weights_that_are_computed_from_the_input() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4))
    nodes = [
        helper.make_node("Slice", ["x", "starts", "ends"], ["corner"]),
        helper.make_node("Exp", ["corner"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 0, 0], strides=[2, 1]),
    ]
    constants = {"starts": np.array([0, 0, 1, 1]), "ends": np.array([1, 3, 3, 3])}
    check_derivatives(node_model(nodes, {"x": x}, constants), {"x": x})


def test_weights_are_not_in_the_file_twice() -> None:
    x, w = np.ones((1, 32, 8, 8)), np.ones((32, 32, 3, 3))
    for strides in ([1, 1], [2, 2]):
        model = node_model(helper.make_node("Conv", ["x", "w"], ["y"], strides=strides), {"x": x}, {"w": w})
        backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
        assert len(backward) < 1.2 * w.nbytes


def test_gradient_of_no_images_is_none() -> None:
    model, feeds = replace(conv((1, 3, 8, 8), (8, 3, 3, 3), strides=[2, 2]), symbolic=True).model()
    empty = {"x": feeds["x"][:0].astype(np.float32)}
    backward = serialize(build_backward(load_model(single_precision(model).SerializeToString()), "y"))
    results = run_in_onnxruntime(backward, {**empty, "cotangent": np.zeros((0, 8, 3, 3), np.float32)})
    assert results["gradient.x"].shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("case", "named"),
    [
        (conv((1, 1, 9), (1, 1, 3), dilations=[2], auto_pad="SAME_UPPER"), "SAME_UPPER"),
        (conv_transpose((1, 1, 4), (1, 1, 1), strides=[2], auto_pad="SAME_LOWER"), "output larger"),
        (conv_transpose((1, 1, 4), (1, 1, 2), strides=[1], dilations=[2], output_padding=[1]), "output_padding"),
    ],
    ids=["dilated-same", "gaps", "output-padding"],
)
def test_geometry_that_onnxruntime_refuses_is_refused(case: Convolution, named: str) -> None:
    model, _ = case.model()
    with pytest.raises(OrtoscopeError, match=named) as caught:
        build_backward(load_model(model.SerializeToString()), "y")
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"


def test_weights_of_unknown_shape_are_refused() -> None:
    feeds = {"x": np.ones((1, 2, 5)), "w": np.ones((3, 2, 3))}
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = node_model(node, feeds, symbolic={"w": ["m", 2, 3]})
    with pytest.raises(OrtoscopeError, match="shape is not known"):
        build_backward(load_model(model.SerializeToString()), "y")
