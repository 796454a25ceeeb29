"""Convolutions and transposed convolutions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from finite_differences import (
    check_derivatives,
    check_single_precision,
    node_model,
    run_in_onnxruntime,
    single_precision,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]

DIMENSIONS = (1, 2, 3)


@dataclass(frozen=True)
class Case:
    """A node, the shapes of its operands and whether extents of the data are to be free dimensions."""

    op_type: str
    data: tuple[int, ...]
    weight: tuple[int, ...]
    attributes: Mapping[str, Any]
    symbolic: bool = False
    biased: bool = True

    def model(self, *, weight_is_input: bool = False) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """The model and values of its inputs."""
        rng = np.random.default_rng(sum(self.data))
        group = self.attributes.get("group", 1)
        outputs = self.weight[0] if self.op_type == "Conv" else self.weight[1] * group
        feeds = {"x": rng.standard_normal(self.data)}
        rest = {"w": rng.standard_normal(self.weight)}
        if self.biased:
            rest["b"] = rng.standard_normal(outputs)
        node = helper.make_node(self.op_type, ["x", *rest], ["y"], **self.attributes)
        free = {"x": ["n", self.data[1], *(f"d{axis}" for axis in range(len(self.data) - 2))]} if self.symbolic else {}
        if weight_is_input:
            return node_model(node, {**feeds, **rest}, symbolic=free), {**feeds, **rest}
        return node_model(node, feeds, rest, symbolic=free), feeds


def conv(data: Sequence[int], weight: Sequence[int], **attributes: Any) -> Case:
    return Case("Conv", tuple(data), tuple(weight), attributes)


def conv_transpose(data: Sequence[int], weight: Sequence[int], **attributes: Any) -> Case:
    return Case("ConvTranspose", tuple(data), tuple(weight), attributes)


@st.composite
def convolutions(draw: st.DrawFn, op_type: str) -> Case:
    """Any geometry of one to three axes."""
    spatial = draw(st.sampled_from(DIMENSIONS))

    def by_axis(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=spatial, max_size=spatial))

    extents, kernel, strides = by_axis(1, 7), by_axis(1, 3), by_axis(1, 3)
    group = draw(st.sampled_from([1, 1, 2, 3]))
    data, inner = group * draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    weight = [group * inner, data // group, *kernel] if op_type == "Conv" else [data, inner, *kernel]
    attributes: dict[str, Any] = {"group": group, "strides": strides, "kernel_shape": kernel}
    mode = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    dilations = [1] * spatial
    if mode == "NOTSET":
        attributes["pads"] = by_axis(0, 3) + by_axis(0, 3)
    else:
        attributes["auto_pad"] = mode
    if not mode.startswith("SAME"):
        attributes["dilations"] = dilations = by_axis(1, 2)
    reaches = [dilation * (taps - 1) + 1 for dilation, taps in zip(dilations, kernel, strict=True)]
    pads = attributes.get("pads", [0] * (2 * spatial))
    if op_type == "ConvTranspose":
        if mode.startswith("SAME"):
            assume(all(reach >= stride for reach, stride in zip(reaches, strides, strict=True)))
        elif draw(st.booleans()):
            attributes["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in strides]
        for axis, (size, reach, stride) in enumerate(zip(extents, reaches, strides, strict=True)):
            assume(stride * (size - 1) + reach > pads[axis] + pads[axis + spatial])
    elif not mode.startswith("SAME"):
        for axis, (size, reach) in enumerate(zip(extents, reaches, strict=True)):
            assume(size + pads[axis] + pads[axis + spatial] >= reach)
    shape = (draw(st.integers(1, 2)), data, *extents)
    return Case(op_type, shape, tuple(weight), attributes, draw(st.booleans()), draw(st.booleans()))


@settings(max_examples=100, deadline=None)
@given(case=convolutions("Conv"))
def test_gradient_of_a_convolution_of_any_geometry(case: Case) -> None:
    check_derivatives(*case.model(), directions=1)


@settings(max_examples=30, deadline=None)
@given(case=convolutions("Conv"))
def test_gradient_at_weights_and_bias_of_a_convolution(case: Case) -> None:
    check_derivatives(*case.model(weight_is_input=True), directions=1, tangent=not case.symbolic)


@settings(max_examples=100, deadline=None)
@given(case=convolutions("ConvTranspose"))
def test_gradient_of_a_transposed_convolution_of_any_geometry(case: Case) -> None:
    check_derivatives(*case.model(), directions=1)


@settings(max_examples=30, deadline=None)
@given(case=convolutions("ConvTranspose"))
def test_gradient_at_weights_and_bias_of_a_transposed_convolution(case: Case) -> None:
    check_derivatives(*case.model(weight_is_input=True), directions=1, tangent=not case.symbolic)


@settings(max_examples=30, deadline=None)
@given(case=st.one_of(convolutions("Conv"), convolutions("ConvTranspose")))
def test_onnxruntime_agrees_in_single_precision(case: Case) -> None:
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
def test_gradient_of_convolutions_as_networks_have_them(case: Case, symbolic: bool) -> None:
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
def test_geometry_that_onnxruntime_refuses_is_refused(case: Case, named: str) -> None:
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
