"""The truth that gradients are held against: central differences of ONNX's reference evaluator in float64.

Nothing here uses the code under test but `build_backward` and `build_tangent` themselves.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from ortoscope_service.graph.backward import NO_RELAXATIONS, Relaxations, build_backward, build_tangent
from ortoscope_service.graph.loading import load_model, serialize
from reference_operators import CORRECTED
from reference_recurrence import RECURRENT

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


def node_model(
    node: onnx.NodeProto | Sequence[onnx.NodeProto],
    inputs: Arrays,
    constants: Arrays | None = None,
    *,
    opset: int = 22,
    output: str | None = None,
    output_type: int = TensorProto.DOUBLE,
    symbolic: Mapping[str, Sequence[int | str]] | None = None,
) -> onnx.ModelProto:
    """A model of one node, or of a few.

    Args:
        node: The nodes.
        inputs: Example values of the graph's inputs, which fix types and shapes.
        constants: Initializers.
        opset: Opset of the default domain.
        output: The tensor that is the model's output; by default the last node's first output.
        output_type: Its element type.
        symbolic: Shapes of inputs to declare instead of the examples', with names of free dimensions.
    """
    nodes = [node] if isinstance(node, onnx.NodeProto) else list(node)
    declared = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), (symbolic or {}).get(name, value.shape)
        )
        for name, value in inputs.items()
    ]
    end = output or nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "test",
        declared,
        [helper.make_tensor_value_info(end, output_type, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return inferred


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """ONNX's reference evaluator of a model, with the operators that it gets wrong corrected."""
    return ReferenceEvaluator(model, new_ops=[*CORRECTED, *RECURRENT])


def evaluate(model: onnx.ModelProto | bytes, feeds: Arrays) -> dict[str, Array]:
    """All outputs, by the reference evaluator."""
    proto = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
    taken = {value.name for value in proto.graph.input}
    values = evaluator(proto).run(None, {name: value for name, value in feeds.items() if name in taken})
    return dict(zip((value.name for value in proto.graph.output), values, strict=True))


def gradients_of(
    model: onnx.ModelProto,
    feeds: Arrays,
    cotangent: Array | None = None,
    *,
    relaxations: Relaxations = NO_RELAXATIONS,
) -> dict[str, Array]:
    """The gradient at every floating-point input of the first output's product with a cotangent, by default ones."""
    tap = model.graph.output[0].name
    backward = serialize(build_backward(load_model(model.SerializeToString()), tap, relaxations=relaxations))
    given = np.ones_like(evaluate(model, feeds)[tap]) if cotangent is None else cotangent
    results = evaluate(backward, {**feeds, "cotangent": given})
    return {name.removeprefix("gradient."): value for name, value in results.items() if name != "activation"}


def check_derivatives(
    model: onnx.ModelProto,
    feeds: Arrays,
    tap: str | None = None,
    *,
    tolerance: float = 1e-6,
    step: float = 1e-6,
    directions: int = 3,
    seed: int = 0,
    tangent: bool = True,
    relaxations: Relaxations = NO_RELAXATIONS,
) -> None:
    """Asserts that the backward and the tangent graph of a float64 model agree with central differences.

    For random directions v of all float inputs together and random cotangents c of the tap:
    <c, (f(x + h v) - f(x - h v)) / 2h> = <backward(c), v>, and the difference itself = tangent(v), both within
    `tolerance` relative to the size of the sums' terms. (The tangent graph starts at a tap, so every float input is
    copied by an Identity node first, and its tangents are added up.)

    Args:
        model: A model with float64 inputs; integer inputs are held fixed.
        feeds: Values of its inputs, away from kinks by more than `step` times a few.
        tap: The tensor to differentiate; by default the first output.
        tolerance: The largest relative error.
        step: The h of the central difference.
        directions: How many random pairs.
        seed: Of the random directions.
        tangent: Whether to check the tangent graph, too.
        relaxations: What to build the backward graph with.
    """
    tap = tap or model.graph.output[0].name
    rng = np.random.default_rng(seed)
    loaded = load_model(model.SerializeToString())
    backward = serialize(build_backward(loaded, tap, relaxations=relaxations))
    floats = [name for name, value in feeds.items() if value.dtype == np.float64]
    value = evaluate(_exposing(model, tap), feeds)[tap]
    for _ in range(directions):
        along = {name: rng.standard_normal(feeds[name].shape) for name in floats}
        difference = (_moved(model, tap, feeds, along, step) - _moved(model, tap, feeds, along, -step)) / (2 * step)
        cotangent = rng.standard_normal(value.shape)
        results = evaluate(backward, {**feeds, "cotangent": cotangent})
        np.testing.assert_allclose(results["activation"], value, rtol=1e-9, atol=1e-9)
        terms = [results[f"gradient.{name}"] * along[name] for name in floats]
        for name in floats:
            assert results[f"gradient.{name}"].shape == feeds[name].shape
            assert results[f"gradient.{name}"].dtype == np.float64
        truth, found = float(np.sum(cotangent * difference)), float(sum(np.sum(term) for term in terms))
        scale = max(
            float(np.sum(np.abs(cotangent * difference))), float(sum(np.sum(np.abs(term)) for term in terms)), 1e-3
        )
        assert abs(truth - found) <= tolerance * scale, f"backward: {found} instead of {truth} (terms up to {scale})"
        if tangent:
            total = np.zeros_like(difference)
            for name in floats:
                total = total + _tangent(model, tap, feeds, name, along[name])
            size = max(float(np.abs(difference).max(initial=0)), 1e-3)
            np.testing.assert_allclose(total, difference, rtol=0, atol=10 * tolerance * size, err_msg="tangent")


def check_single_precision(
    model: onnx.ModelProto,
    feeds: Arrays,
    tap: str | None = None,
    *,
    tolerance: float = 1e-5,
    seed: int = 0,
    relaxations: Relaxations = NO_RELAXATIONS,
) -> None:
    """Asserts that ONNX Runtime gets from the float32 backward graph what the reference evaluator gets in float64.

    Args:
        model: A float64 model; it is turned into one of float32.
        feeds: Values of its inputs, away from kinks by more than the precision of float32.
        tap: The tensor to differentiate; by default the first output.
        tolerance: The largest error, relative to the largest element of each result.
        seed: Of the random cotangent.
        relaxations: What to build the backward graphs with.
    """
    tap = tap or model.graph.output[0].name
    single = single_precision(model)
    rounded = {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in feeds.items()}
    double = {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in rounded.items()}
    shape = evaluate(_exposing(model, tap), double)[tap].shape
    cotangent = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    results = run_in_onnxruntime(
        serialize(build_backward(load_model(single.SerializeToString()), tap, relaxations=relaxations)),
        {**rounded, "cotangent": cotangent},
    )
    backward = build_backward(load_model(model.SerializeToString()), tap, relaxations=relaxations)
    expected = evaluate(serialize(backward), {**double, "cotangent": cotangent.astype(np.float64)})
    for name, value in expected.items():
        size = max(float(np.abs(value).max(initial=0)), 1e-3)
        assert results[name].dtype == np.float32
        np.testing.assert_allclose(results[name], value, rtol=0, atol=tolerance * size, err_msg=name)


def check_affine(model: onnx.ModelProto, feeds: Arrays, by: str = "x", *, tolerance: float = 1e-5) -> None:
    """Asserts that gradient and tangent of an affine model belong to the values that ONNX Runtime computes, in float32.

    The derivative of f(x) = Ax + b along v is f(v) - f(0), so nothing but the values themselves is needed: for
    operators on which ONNX Runtime and the reference evaluator disagree, the gradient must be that of what a client
    gets.

    Args:
        model: A float64 model; it is turned into one of float32.
        feeds: Values of its inputs.
        by: The input that the model is affine in.
        tolerance: The largest error, relative to the size of the sums' terms, or of the tangent's elements.
    """
    single, tap = single_precision(model), model.graph.output[0].name
    rounded = {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in feeds.items()}
    rng = np.random.default_rng(0)
    along = rng.standard_normal(rounded[by].shape).astype(np.float32)

    def value(x: Array) -> Array:
        return run_in_onnxruntime(single, {**rounded, by: x})[tap]

    difference = value(along) - value(np.zeros_like(along))
    cotangent = rng.standard_normal(difference.shape).astype(np.float32)
    loaded = load_model(single.SerializeToString())
    results = run_in_onnxruntime(
        serialize(build_backward(loaded, tap, with_respect_to=[by])), {**rounded, "cotangent": cotangent}
    )
    np.testing.assert_array_equal(results["activation"], value(rounded[by]))
    truth, found = cotangent * difference, results[f"gradient.{by}"] * along
    assert abs(truth.sum() - found.sum()) <= tolerance * max(np.abs(truth).sum(), np.abs(found).sum(), 1e-3)
    copying, start, _ = _copying(single, tap, by)
    tangent = build_tangent(load_model(copying.SerializeToString()), start)
    tangents = run_in_onnxruntime(serialize(tangent), {**rounded, "tangent": along})
    size = max(float(np.abs(difference).max(initial=0)), 1e-3)
    np.testing.assert_allclose(tangents[f"tangent.{tap}"], difference, rtol=0, atol=tolerance * size)


def single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with float32 wherever it has float64: in inputs, outputs, constants and casts."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in copy.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
    return copy


def run_in_onnxruntime(model: onnx.ModelProto | bytes, feeds: Arrays) -> dict[str, Array]:
    """All outputs, by ONNX Runtime on the CPU."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    values = session.run(None, {name: value for name, value in feeds.items() if name in taken})
    return dict(zip((value.name for value in session.get_outputs()), values, strict=True))


def _exposing(model: onnx.ModelProto, tap: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if tap not in {value.name for value in copy.graph.output}:
        copy.graph.output.append(helper.make_tensor_value_info(tap, TensorProto.DOUBLE, None))
    return copy


def _moved(model: onnx.ModelProto, tap: str, feeds: Arrays, along: Arrays, step: float) -> Array:
    moved = {name: np.asarray(value + step * along[name]) if name in along else value for name, value in feeds.items()}
    return evaluate(_exposing(model, tap), moved)[tap]


def _tangent(model: onnx.ModelProto, tap: str, feeds: Arrays, source: str, along: Array) -> Array:
    """The derivative of the tap along one input, by the tangent graph that starts at a copy of that input."""
    copying, start, uses = _copying(model, tap, source)
    loaded = load_model(copying.SerializeToString())
    if not uses:
        return np.zeros_like(evaluate(_exposing(model, tap), feeds)[tap])
    results = evaluate(serialize(build_tangent(loaded, start)), {**feeds, "tangent": along})
    return results[f"tangent.{tap}"]


def _copying(model: onnx.ModelProto, tap: str, source: str) -> tuple[onnx.ModelProto, str, int]:
    """The model with the tap as its output and a copy of an input in its place; the copy's name and number of uses."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    # A Loop's outputs have no shape but the declared one.
    declared = [value for value in model.graph.output if value.name == tap]
    copy.graph.output.extend(declared or [helper.make_tensor_value_info(tap, TensorProto.DOUBLE, None)])
    start = f"{source}_copied"
    uses = _redirect(copy.graph, source, start)
    copy.graph.node.insert(0, helper.make_node("Identity", [source], [start], name="copy_of_the_input"))
    return copy, start, uses


def _redirect(graph: onnx.GraphProto, source: str, target: str) -> int:
    """Gives all nodes, within subgraphs, too, one tensor in place of another; how often it was used."""
    uses = 0
    for node in graph.node:
        uses += list(node.input).count(source)
        node.input[:] = [target if name == source else name for name in node.input]
        uses += sum(_redirect(attribute.g, source, target) for attribute in node.attribute if attribute.HasField("g"))
    return uses
