"""Gradients of recurrent layers, against the recurrence written down in NumPy (`reference_recurrence`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from finite_differences import check_derivatives, evaluate, node_model
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph import validation
from ortoscope_service.graph.backward import build_backward, build_tangent, recurrence
from ortoscope_service.graph.loading import load_model, serialize
from reference_recurrence import STEPS

Array = npt.NDArray[Any]

BATCH, INPUTS, UNITS = 2, 3, 2


@dataclass(frozen=True)
class Layer:
    """A recurrent layer to test: an operator with attributes, and which of its optional inputs are there."""

    operator: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    bias: bool = True
    initial: bool = True
    lengths: Sequence[int] | None = None
    peepholes: bool = False
    steps: int = 3
    free_steps: bool = False
    """Whether the number of steps is free in the model, beside the batch."""

    outputs: Sequence[str] = ("Y",)
    """Of Y, H and C, those that are present; their sum over directions and units, or so, is the model's output."""

    inputs: Sequence[str] = ("X",)
    """Further inputs of the model: of W, R, B, P, h0, c0; the others are constants."""

    @property
    def directions(self) -> int:
        return 2 if self.attributes.get("direction") == "bidirectional" else 1

    @property
    def batch_first(self) -> bool:
        return bool(self.attributes.get("layout"))

    def values(self, seed: int = 0) -> dict[str, Array]:
        """Random values of all inputs that are there."""
        rng = np.random.default_rng(seed)
        gates, states, count = STEPS[self.operator][1], STEPS[self.operator][2], self.directions
        state = (BATCH, count, UNITS) if self.batch_first else (count, BATCH, UNITS)
        shapes: dict[str, tuple[int, ...]] = {
            "X": (BATCH, self.steps, INPUTS) if self.batch_first else (self.steps, BATCH, INPUTS),
            "W": (count, gates * UNITS, INPUTS),
            "R": (count, gates * UNITS, UNITS),
        }
        if self.bias:
            shapes["B"] = (count, 2 * gates * UNITS)
        if self.initial:
            shapes |= dict.fromkeys(("h0", "c0")[:states], state)
        if self.peepholes:
            shapes["P"] = (count, 3 * UNITS)
        return {name: rng.standard_normal(shape) for name, shape in shapes.items()}

    def model(self, values: Mapping[str, Array], *, opset: int = 22) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """The layer as a model, in the type of the values, and what to feed it."""
        kind = values["X"].dtype
        feeds = {name: value for name, value in values.items() if name in {"X", *self.inputs}}
        constants = {name: value for name, value in values.items() if name not in feeds}
        names = [name if name in values else "" for name in ("X", "W", "R", "B", "lengths", "h0", "c0", "P")]
        if self.lengths is not None:
            constants["lengths"] = np.array(self.lengths, np.int32)
            names[4] = "lengths"
        if self.operator != "LSTM":
            names = names[:6]
        outputs = [name if name in self.outputs else "" for name in ("Y", "H", "C")[: 1 + STEPS[self.operator][2]]]
        node = helper.make_node(self.operator, names, outputs, name="layer", hidden_size=UNITS, **self.attributes)
        nodes, end = [node], self.outputs[0]
        if len(self.outputs) > 1:
            # Broadcasting makes the outputs, of different shapes, one sum in which no two have the same weight.
            for position, name in enumerate(self.outputs):
                constants[f"weight_{position}"] = np.array(1.0 + position, kind)
                nodes.append(helper.make_node("Mul", [name, f"weight_{position}"], [f"part_{position}"]))
            nodes.append(
                helper.make_node("Sum", [f"part_{position}" for position in range(len(self.outputs))], ["sum"])
            )
            end = "sum"
        steps: int | str = "steps" if self.free_steps else self.steps
        state = ["batch", self.directions, UNITS] if self.batch_first else [self.directions, "batch", UNITS]
        symbolic: dict[str, Sequence[int | str]] = {
            "X": ["batch", steps, INPUTS] if self.batch_first else [steps, "batch", INPUTS],
            "h0": state,
            "c0": state,
        }
        element = helper.np_dtype_to_tensor_dtype(kind)
        model = node_model(nodes, feeds, constants, opset=opset, output=end, output_type=element, symbolic=symbolic)
        return model, feeds


DIRECTIONS = ("forward", "reverse", "bidirectional")
STATE_INPUTS = ("X", "h0", "c0")

LAYERS: dict[str, Layer] = {
    **{
        f"{operator} {direction}": Layer(operator, {"direction": direction}, inputs=STATE_INPUTS)
        for operator in STEPS
        for direction in DIRECTIONS
    },
    **{f"{operator} plain": Layer(operator, bias=False, initial=False) for operator in STEPS},
    **{
        f"{operator} of lengths, {direction}": Layer(
            operator,
            {"direction": direction},
            lengths=(2, 3),
            inputs=STATE_INPUTS,
            outputs=("Y", "H", "C") if operator == "LSTM" else ("Y", "H"),
        )
        for operator in STEPS
        for direction in DIRECTIONS
    },
    **{f"{operator} clipped": Layer(operator, {"clip": 0.7}) for operator in STEPS},
    **{
        f"{operator} last state": Layer(operator, {"direction": "bidirectional"}, outputs=("H",), inputs=STATE_INPUTS)
        for operator in STEPS
    },
    "LSTM last cells": Layer("LSTM", outputs=("C",), inputs=STATE_INPUTS),
    "LSTM all outputs": Layer("LSTM", {"direction": "bidirectional"}, outputs=("Y", "H", "C"), inputs=STATE_INPUTS),
    "LSTM peepholes": Layer("LSTM", {"direction": "bidirectional"}, peepholes=True),
    "LSTM peepholes clipped": Layer("LSTM", {"clip": 0.6}, peepholes=True),
    "LSTM coupled": Layer("LSTM", {"input_forget": 1}),
    "LSTM coupled with peepholes": Layer("LSTM", {"input_forget": 1}, peepholes=True),
    "GRU linear before reset": Layer("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}),
    "GRU linear before reset, plain": Layer("GRU", {"linear_before_reset": 1}, bias=False, initial=False),
    "GRU linear before reset, clipped": Layer("GRU", {"linear_before_reset": 1, "clip": 0.5}),
    "LSTM activations": Layer(
        "LSTM",
        {
            "direction": "bidirectional",
            "activations": ["HardSigmoid", "Softsign", "Affine", "Sigmoid", "ScaledTanh", "LeakyRelu"],
            "activation_alpha": [0.3, 0.6, 0.9, 0.2],
            "activation_beta": [0.4, -0.3, 0.8],
        },
    ),
    "GRU activations": Layer(
        "GRU",
        {
            "direction": "bidirectional",
            "activations": ["Sigmoid", "Elu", "HardSigmoid", "Softplus"],
            "activation_alpha": [0.7, 0.3],
            "activation_beta": [0.4],
        },
    ),
    "GRU default parameters": Layer("GRU", {"activations": ["HardSigmoid", "LeakyRelu"]}),
    "RNN activations": Layer(
        "RNN",
        {"direction": "bidirectional", "activations": ["Relu", "ThresholdedRelu"], "activation_alpha": [0.1]},
    ),
    "RNN default parameters": Layer("RNN", {"direction": "bidirectional", "activations": ["LeakyRelu", "Elu"]}),
    "RNN affine": Layer("RNN", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}),
    **{
        f"{operator} of weights": Layer(
            operator, {"direction": "bidirectional"}, inputs=("X", "W", "R", "B", "P"), peepholes=operator == "LSTM"
        )
        for operator in STEPS
    },
    "GRU of weights, linear before reset": Layer("GRU", {"linear_before_reset": 1}, inputs=("X", "W", "R", "B")),
}
BATCH_FIRST = {
    f"{operator} batch first": Layer(
        operator, {"layout": 1, "direction": "bidirectional"}, lengths=(3, 2), inputs=STATE_INPUTS, outputs=("Y",)
    )
    for operator in STEPS
} | {"LSTM batch first, last cells": Layer("LSTM", {"layout": 1}, outputs=("C",), inputs=STATE_INPUTS)}
"""ONNX Runtime does not run these."""


QUICK = {
    *(f"{operator} bidirectional" for operator in STEPS),
    *(f"{operator} of lengths, reverse" for operator in STEPS),
    "RNN of weights",
    "LSTM peepholes clipped",
    "LSTM activations",
    "LSTM all outputs",
    "GRU linear before reset, clipped",
    "GRU batch first",
}
"""What is tested in every combination; the others are in some."""


def layers(*, all_unrolled: bool) -> pytest.MarkDecorator:
    """All layers, unrolled and scanned, as arguments of a test; most of the scanned ones only in long runs."""
    return pytest.mark.parametrize(
        ("layer", "free_steps"),
        [
            pytest.param(
                layer,
                free_steps,
                id=f"{name}, {'scanned' if free_steps else 'unrolled'}",
                marks=[] if name in QUICK or (all_unrolled and not free_steps) else [pytest.mark.long],
            )
            for name, layer in (LAYERS | (BATCH_FIRST if all_unrolled else {})).items()
            for free_steps in (False, True)
        ],
    )


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_the_recurrence_in_numpy_is_what_onnx_runtime_computes(layer: Layer) -> None:
    model, feeds = layer.model({name: value.astype(np.float32) for name, value in layer.values().items()})
    expected = run(model.SerializeToString(), feeds)
    for name, value in evaluate(model, feeds).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


@layers(all_unrolled=True)
def test_gradients_of_layers(layer: Layer, free_steps: bool) -> None:
    quick = layer in [LAYERS.get(name) for name in QUICK]
    layer = replace(layer, free_steps=free_steps)
    model, feeds = layer.model(layer.values())
    check_derivatives(model, feeds, directions=1, tangent=quick or free_steps)


@pytest.mark.parametrize("operator", STEPS)
def test_long_sequences_are_scanned_and_short_ones_unrolled(operator: str) -> None:
    for steps, scanned in ((recurrence.UNROLLED_STEPS, False), (recurrence.UNROLLED_STEPS + 1, True)):
        layer = Layer(operator, steps=steps)
        model, _ = layer.model(layer.values())
        operators = {node.op_type for node in build_backward(load_model(model.SerializeToString()), "Y").graph}
        assert ("Scan" in operators) == scanned


@pytest.mark.parametrize("operator", STEPS)
@pytest.mark.parametrize("steps", [1, 5])
def test_one_graph_serves_any_number_of_steps_and_items(operator: str, steps: int) -> None:
    layer = Layer(operator, {"direction": "bidirectional"}, free_steps=True, initial=False)
    model, _ = layer.model(layer.values())
    backward = serialize(build_backward(load_model(model.SerializeToString()), "Y"))
    rng = np.random.default_rng(1)
    x, cotangent = rng.standard_normal((steps, 3, INPUTS)), rng.standard_normal((steps, 2, 3, UNITS))
    whole = evaluate(backward, {"X": x, "cotangent": cotangent})["gradient.X"]
    for item in range(3):
        alone = evaluate(backward, {"X": x[:, [item]], "cotangent": cotangent[:, :, [item]]})["gradient.X"]
        np.testing.assert_allclose(whole[:, [item]], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_an_item_without_steps_has_no_gradient(operator: str) -> None:
    layer = Layer(operator, {"direction": "bidirectional"}, lengths=(0, 3), outputs=("H",), inputs=STATE_INPUTS)
    model, feeds = layer.model(layer.values())
    backward = serialize(build_backward(load_model(model.SerializeToString()), "H"))
    results = evaluate(backward, {**feeds, "cotangent": np.ones((2, BATCH, UNITS))})
    assert not results["gradient.X"][:, 0].any()
    assert not results["gradient.h0"][:, 0].any()
    assert results["gradient.h0"][:, 1].all()


def test_steps_behind_the_end_of_an_item_have_no_gradient() -> None:
    layer = Layer("LSTM", {"direction": "bidirectional"}, lengths=(2, 3), free_steps=True)
    model, feeds = layer.model(layer.values())
    backward = serialize(build_backward(load_model(model.SerializeToString()), "Y"))
    gradient = evaluate(backward, {**feeds, "cotangent": np.ones((3, 2, BATCH, UNITS))})["gradient.X"]
    assert not gradient[2:, 0].any()
    assert gradient[:2, 0].all()
    assert gradient[:, 1].all()


def test_lengths_that_are_all_of_the_steps_need_no_masks() -> None:
    layer = Layer("LSTM", lengths=(3, 3))
    model, _ = layer.model(layer.values())
    operators = [node.op_type for node in build_backward(load_model(model.SerializeToString()), "Y").graph]
    assert "Where" not in operators


@layers(all_unrolled=False)
def test_gradients_in_float32_by_onnx_runtime(layer: Layer, free_steps: bool) -> None:
    layer = replace(layer, free_steps=free_steps)
    values = layer.values()
    double, feeds = layer.model(values)
    single, _ = layer.model({name: value.astype(np.float32) for name, value in values.items()})
    tap = double.graph.output[0].name
    cotangent = np.random.default_rng(3).standard_normal(evaluate(double, feeds)[tap].shape)
    expected = evaluate(
        serialize(build_backward(load_model(double.SerializeToString()), tap)), {**feeds, "cotangent": cotangent}
    )
    backward = serialize(build_backward(load_model(single.SerializeToString()), tap))
    found = run(backward, {name: value.astype(np.float32) for name, value in {**feeds, "cotangent": cotangent}.items()})
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("opset", [7, 14, 22, validation.MAX_OPSET])
def test_layers_of_all_opsets(opset: int) -> None:
    layer = Layer("LSTM")
    model, feeds = layer.model(layer.values(), opset=opset)
    check_derivatives(model, feeds, directions=1)


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (Layer("LSTM", {"activations": ["Sigmoid", "Tanh", "Swish"]}), "'swish'"),
        (Layer("GRU", {"activations": ["Sigmoid", "Affine"]}), "without its alpha"),
        (Layer("RNN", {"activations": ["ThresholdedRelu"]}), "without its alpha"),
        (Layer("LSTM", {"activations": ["Sigmoid", "Tanh"]}), "2 activation functions"),
    ],
)
def test_layers_that_mean_different_things_to_different_runtimes_are_refused(layer: Layer, what: str) -> None:
    model, _ = layer.model(layer.values())
    with pytest.raises(OrtoscopeError) as caught:
        build_backward(load_model(model.SerializeToString()), "Y")
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"
    assert what in caught.value.message
    assert "'layer'" in caught.value.message


def test_a_layer_of_unknown_size_is_refused() -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b", "c"]) for name in ("X", "W", "R")]
    node = helper.make_node("GRU", ["X", "W", "R"], ["Y"], name="layer")
    output = helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph([node], "test", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    with pytest.raises(OrtoscopeError, match="number of units"):
        build_backward(load_model(model.SerializeToString()), "Y")


@pytest.mark.parametrize("free_steps", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_gradients_of_two_bidirectional_layers_and_a_classifier(operator: str, free_steps: bool) -> None:
    model = classifier(operator, free_steps=free_steps)
    feeds = {"tokens": np.random.default_rng(4).standard_normal((3, 3, 4))}
    check_derivatives(model, feeds, "logits", directions=1)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "logits"))
    tangent = serialize(build_tangent(load_model(model.SerializeToString()), "first"))
    cotangent = np.random.default_rng(5).standard_normal((3, 3))
    expected = evaluate(backward, {**feeds, "cotangent": cotangent})

    single = load_model(classifier(operator, free_steps=free_steps, kind=np.dtype(np.float32)).SerializeToString())
    small = {"tokens": feeds["tokens"].astype(np.float32)}
    found = run(serialize(build_backward(single, "logits")), {**small, "cotangent": cotangent.astype(np.float32)})
    np.testing.assert_allclose(found["gradient.tokens"], expected["gradient.tokens"], rtol=1e-3, atol=1e-5)

    # Two ways to the derivative of the logits along a direction of the first layer's output.
    first = evaluate(model_with_output(model, "first"), feeds)["first"]
    along = np.random.default_rng(6).standard_normal(first.shape)
    forward = evaluate(tangent, {**feeds, "tangent": along})["tangent.logits"]
    at_first = serialize(build_backward(load_model(model.SerializeToString()), "logits", with_respect_to=["first"]))
    gradient = evaluate(at_first, {**feeds, "cotangent": cotangent})["gradient.first"]
    assert np.sum(gradient * along) == pytest.approx(np.sum(cotangent * forward), rel=1e-9)
    run_tangent = serialize(build_tangent(single, "first"))
    small_forward = run(run_tangent, {**small, "tangent": along.astype(np.float32)})["tangent.logits"]
    np.testing.assert_allclose(small_forward, forward, rtol=1e-3, atol=1e-5)


def classifier(operator: str, *, free_steps: bool, kind: npt.DTypeLike = np.float64) -> onnx.ModelProto:
    """Two bidirectional layers as PyTorch exports them, batch first, and a classifier of the last states."""
    rng = np.random.default_rng(2)
    units, gates = 3, STEPS[operator][1]
    constants: dict[str, Array] = {"merged": np.array([0, 0, -1]), "whole": np.array([0, -1])}
    nodes = [helper.make_node("Transpose", ["tokens"], ["steps_0"], perm=[1, 0, 2])]
    width = 4
    for index, name in enumerate(("first", "second")):
        constants |= {
            f"W{index}": rng.standard_normal((2, gates * units, width)).astype(kind) * 0.7,
            f"R{index}": rng.standard_normal((2, gates * units, units)).astype(kind) * 0.7,
            f"B{index}": rng.standard_normal((2, 2 * gates * units)).astype(kind),
        }
        attributes = {"linear_before_reset": 1} if operator == "GRU" else {}
        layer_inputs = [f"steps_{index}", f"W{index}", f"R{index}", f"B{index}"]
        nodes += [
            helper.make_node(
                operator,
                layer_inputs,
                [f"Y{index}", f"H{index}"],
                hidden_size=units,
                direction="bidirectional",
                name=f"/{name}",
                **attributes,
            ),
            helper.make_node("Transpose", [f"Y{index}"], [f"apart_{index}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"apart_{index}", "merged"], [f"steps_{index + 1}"]),
        ]
        width = 2 * units
    constants |= {"weight": rng.standard_normal((2 * units, 3)).astype(kind), "bias": np.ones(3, kind)}
    nodes += [
        helper.make_node("Transpose", ["steps_1"], ["first"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["first"], ["first_again"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["H1"], ["last_apart"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["last_apart", "whole"], ["last"]),
        helper.make_node("MatMul", ["last", "weight"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
    ]
    next(node for node in nodes if node.name == "/second").input[0] = "first_again"
    order = [*nodes[:4], *nodes[7:9], *nodes[4:7], *nodes[9:]]
    feeds = {"tokens": np.zeros((3, 3, 4), kind)}
    shape: Sequence[int | str] = ["batch", "steps" if free_steps else 3, 4]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return node_model(order, feeds, constants, output="logits", output_type=element, symbolic={"tokens": shape})


def model_with_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, None))
    return copy


def run(model: bytes, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    values = session.run(None, {name: value for name, value in feeds.items() if name in taken})
    return dict(zip((value.name for value in session.get_outputs()), values, strict=True))
