"""Pooling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    single_precision,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize
from reference_operators import Geometry

Array = npt.NDArray[Any]


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


@settings(max_examples=120, deadline=None)
@given(pool=pools("MaxPool"))
def test_gradient_of_a_max_pool_of_any_geometry(pool: Pool) -> None:
    x = pool.distinct()
    check_derivatives(pool.model(x), {"x": x}, directions=1)


@settings(max_examples=120, deadline=None)
@given(pool=pools("AveragePool", "LpPool"))
def test_gradient_of_an_average_and_a_norm_pool_of_any_geometry(pool: Pool) -> None:
    x = pool.distinct() / 20 * np.where(pool.distinct() % 2 < 1, 1, -1)
    check_derivatives(pool.model(x), {"x": x}, directions=1)


@settings(max_examples=150, deadline=None)
@given(pool=pools("MaxPool"), levels=st.integers(1, 3), lowest=st.sampled_from([-3, 0]), seed=st.integers(0, 99))
def test_gradient_of_a_max_pool_goes_to_the_first_of_ties(pool: Pool, levels: int, lowest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = lowest + rng.integers(0, levels, pool.shape).astype(float)
    model = pool.model(x)
    cotangent = rng.integers(1, 100, evaluate(model, {"x": x})["y"].shape).astype(float)
    expected = pool.gradient_to_first(x, cotangent)
    np.testing.assert_array_equal(gradients_of(model, {"x": x}, cotangent)["x"], expected)
    single = build_backward(load_model(single_precision(model).SerializeToString()), "y")
    feeds = {"x": x.astype(np.float32), "cotangent": cotangent.astype(np.float32)}
    np.testing.assert_array_equal(run_in_onnxruntime(serialize(single), feeds)["gradient.x"], expected)


@settings(max_examples=80, deadline=None)
@given(pool=pools("MaxPool", "AveragePool", "LpPool"))
def test_onnxruntime_agrees_in_single_precision(pool: Pool) -> None:
    x = pool.distinct() / 20 - 1
    check_single_precision(pool.model(x), {"x": x})
