"""Convolutions and pools of any geometry, as models of one node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from finite_differences import node_model
from hypothesis import assume
from hypothesis import strategies as st
from onnx import helper
from reference_operators import Geometry

Array = npt.NDArray[Any]

DIMENSIONS = (1, 2, 3)


@dataclass(frozen=True)
class Convolution:
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


def conv(data: Sequence[int], weight: Sequence[int], **attributes: Any) -> Convolution:
    return Convolution("Conv", tuple(data), tuple(weight), attributes)


def conv_transpose(data: Sequence[int], weight: Sequence[int], **attributes: Any) -> Convolution:
    return Convolution("ConvTranspose", tuple(data), tuple(weight), attributes)


@st.composite
def convolutions(draw: st.DrawFn, op_type: str) -> Convolution:
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
    return Convolution(op_type, shape, tuple(weight), attributes, draw(st.booleans()), draw(st.booleans()))


@dataclass(frozen=True)
class Pool:
    """A pool, the shape of its input and whether extents are to be free dimensions."""

    op_type: str
    shape: tuple[int, ...]
    attributes: Mapping[str, Any]
    symbolic: bool = False

    def model(self, values: Array) -> onnx.ModelProto:
        """The model, for inputs of the type of `values`."""
        free = ["n", self.shape[1], *(f"d{axis}" for axis in range(len(self.shape) - 2))]
        return node_model(
            helper.make_node(self.op_type, ["x"], ["y"], **self.attributes),
            {"x": values},
            symbolic={"x": free} if self.symbolic else {},
            output_type=helper.np_dtype_to_tensor_dtype(values.dtype),
            # ONNX Runtime has no GlobalLpPool of opset 22; before that, ONNX infers wrong shapes in `ceil_mode`.
            opset=21 if self.op_type == "GlobalLpPool" else 22,
        )

    def distinct(self) -> Array:
        """Values that differ by 1 at least, in random order."""
        return np.random.default_rng(0).permutation(int(np.prod(self.shape))).reshape(self.shape) + 0.25

    def gradient_to_first(self, x: Array, cotangent: Array) -> Array:
        """What a max pool's gradient is to be: tap by tap, the first one that reads the maximum takes it."""
        names = ("strides", "dilations", "pads", "auto_pad", "ceil_mode")
        given = (self.attributes.get(name) for name in names)
        windows = Geometry.of_pool(self.shape[2:], self.attributes["kernel_shape"], *given)
        places = np.stack(list(windows.taps(np.arange(x.size, dtype=float).reshape(x.shape), -1)))
        values = np.stack(list(windows.taps(x.astype(float), np.nan)))
        first = np.argmax((values == np.nanmax(values, axis=0)) & (places >= 0), axis=0)
        chosen = np.take_along_axis(places, first[None], 0)[0].astype(int)
        gradient = np.zeros(x.size)
        np.add.at(gradient, chosen.ravel(), cotangent.ravel())
        return gradient.reshape(x.shape)


@st.composite
def pools(draw: st.DrawFn, *op_types: str) -> Pool:
    """Any geometry of one to three axes that ONNX Runtime accepts and does by the standard."""
    op_type, spatial = draw(st.sampled_from(op_types)), draw(st.sampled_from([1, 2, 2, 2, 3]))

    def by_axis(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=spatial, max_size=spatial))

    extents, kernel, strides = by_axis(1, 8), by_axis(1, 3), by_axis(1, 3)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    mode = draw(st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    pads, dilations = [0] * (2 * spatial), [1] * spatial
    if mode.startswith("SAME"):
        assume(all(taps >= stride for taps, stride in zip(kernel, strides, strict=True)))
    elif draw(st.booleans()):
        attributes["dilations"] = dilations = by_axis(1, 2)
    if mode == "NOTSET":
        attributes["pads"] = pads = [draw(st.integers(0, taps - 1)) for taps in (*kernel, *kernel)]
        attributes["ceil_mode"] = draw(st.integers(0, 1))
    else:
        attributes["auto_pad"] = mode
    for axis, (size, taps, dilation) in enumerate(zip(extents, kernel, dilations, strict=True)):
        reach = dilation * (taps - 1) + 1
        assume(mode.startswith("SAME") or size + pads[axis] + pads[axis + spatial] >= reach)
        # A dilated window between two positions of padding would hold nothing.
        assume(dilation == 1 or size >= dilation)
    if op_type == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    if op_type == "LpPool":
        attributes["p"] = draw(st.integers(1, 3))
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4])), *extents)
    return Pool(op_type, shape, attributes, draw(st.booleans()))
