"""Hidden and cell states of recurrent layers as tensors, against the recurrence written down in NumPy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from finite_differences import check_derivatives, evaluate, node_model
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward, build_tangent
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.recurrent_states import expose_states
from ortoscope_service.graph.slicing import expose, trunk
from ortoscope_service.graph.taps import Layout, find_taps
from reference_recurrence import STEPS, run_layer

Array = npt.NDArray[Any]

STEP_COUNT, BATCH, INPUTS, UNITS = 5, 3, 2, 4
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def layer(
    operator: str,
    direction: str = "forward",
    *,
    free_steps: bool = False,
    lengths: Sequence[int] | None = None,
    outputs: Sequence[str] = ("Y",),
    name: str = "layer",
    kind: npt.DTypeLike = np.float64,
    opset: int = 22,
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, Array], dict[str, Array]]:
    """A model of one layer, what to feed it, and its weights by the names of the operator's inputs."""
    rng = np.random.default_rng(0)
    gates, count = STEPS[operator][1], DIRECTIONS[direction]
    weights = {
        "W": rng.standard_normal((count, gates * UNITS, INPUTS)).astype(kind),
        "R": rng.standard_normal((count, gates * UNITS, UNITS)).astype(kind),
        "B": rng.standard_normal((count, 2 * gates * UNITS)).astype(kind),
    }
    if lengths is not None:
        weights["lengths"] = np.array(lengths, np.int32)
    feeds = {"X": rng.standard_normal((STEP_COUNT, BATCH, INPUTS)).astype(kind)}
    node = helper.make_node(
        operator,
        ["X", *weights],
        list(outputs),
        name=name,
        hidden_size=UNITS,
        direction=direction,
        **attributes,
    )
    # The first axis of an input is the batch, for taps.
    turn = helper.make_node("Transpose", ["batched"], ["X"], perm=[0, 1, 2] if attributes.get("layout") else [1, 0, 2])
    feeds = {"batched": feeds["X"].transpose(1, 0, 2)}
    shape: Sequence[int | str] = ["batch", "steps" if free_steps else STEP_COUNT, INPUTS]
    model = node_model(
        [turn, node],
        feeds,
        weights,
        opset=opset,
        output=outputs[-1],
        output_type=helper.np_dtype_to_tensor_dtype(np.dtype(kind)),
        symbolic={"batched": shape},
    )
    return model, feeds, weights


def truth(
    operator: str, direction: str, feeds: Mapping[str, Array], weights: Mapping[str, Array], **shifts: Array
) -> dict[str, Array]:
    """States (batch, step, unit) by name, and the outputs Y, H and C; `shifts` are added to states after each step."""
    count = DIRECTIONS[direction]
    numbered = {
        number: shifts[state].reshape(BATCH, STEP_COUNT, count, UNITS).transpose(1, 2, 0, 3)
        for number, state in enumerate(("hidden", "cell"))
        if state in shifts
    }
    inputs = [feeds["batched"].transpose(1, 0, 2), *weights.values()]
    records = run_layer(operator, inputs, {"direction": direction}, numbered)
    every, last = records[: len(records) // 2], records[len(records) // 2 :]
    states = {
        f"layer.{state}": record.transpose(2, 0, 1, 3).reshape(BATCH, STEP_COUNT, count * UNITS)
        for state, record in zip(("hidden", "cell"), every, strict=False)
    }
    return {**states, "Y": every[0], **dict(zip(("H", "C"), last, strict=False))}


def states_of(operator: str) -> list[str]:
    return ["layer.hidden", "layer.cell"] if operator == "LSTM" else ["layer.hidden"]


@pytest.mark.parametrize("lengths", [None, (5, 2, 4)], ids=["whole", "lengths"])
@pytest.mark.parametrize("free_steps", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("operator", STEPS)
def test_states_are_those_of_the_recurrence(
    operator: str, direction: str, free_steps: bool, lengths: Sequence[int] | None
) -> None:
    model, feeds, weights = layer(operator, direction, free_steps=free_steps, lengths=lengths, kind=np.float32)
    names = states_of(operator)
    exposed = trunk(expose_states(load_model(model.SerializeToString())), names)
    expected = truth(operator, direction, feeds, weights)
    for name, value in run(serialize(exposed), feeds).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("free_steps", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("operator", STEPS)
def test_states_are_the_only_new_taps(operator: str, direction: str, free_steps: bool) -> None:
    model = load_model(layer(operator, direction, free_steps=free_steps)[0].SerializeToString())
    before = {tap.tensor for tap in find_taps(model)}
    taps = {tap.tensor: tap for tap in find_taps(expose_states(model)) if tap.tensor not in before}
    assert list(taps) == states_of(operator)
    for name, tap in taps.items():
        assert tap.display_name == name
        assert tap.layout is Layout.TOKENS
        assert (tap.unit_axis, tap.site_axes) == (2, (1,))
        assert tap.shape == (-1, -1 if free_steps else STEP_COUNT, DIRECTIONS[direction] * UNITS)


@pytest.mark.parametrize("state", ["hidden", "cell"])
def test_gradients_of_states_by_the_input(state: str) -> None:
    model, feeds, _ = layer("LSTM", "bidirectional", free_steps=True)
    exposed = expose(expose_states(load_model(model.SerializeToString())), [f"layer.{state}"])
    check_derivatives(onnx.load_from_string(serialize(exposed)), feeds, f"layer.{state}", directions=1)


@pytest.mark.parametrize("lengths", [None, (5, 2, 4)], ids=["whole", "lengths"])
@pytest.mark.parametrize(
    ("operator", "state"), [("LSTM", "cell"), ("LSTM", "hidden"), ("GRU", "hidden"), ("RNN", "hidden")]
)
def test_gradients_at_a_connected_state_count_later_steps(
    operator: str, state: str, lengths: Sequence[int] | None
) -> None:
    model, feeds, weights = layer(operator, "bidirectional", lengths=lengths, outputs=("Y", "H"))
    name, rng = f"layer.{state}", np.random.default_rng(1)
    connected = expose_states(load_model(model.SerializeToString()), connected=[name])
    plain = truth(operator, "bidirectional", feeds, weights)
    along = rng.standard_normal(plain[name].shape)
    h = 1e-6
    difference = (
        truth(operator, "bidirectional", feeds, weights, **{state: h * along})["H"]
        - truth(operator, "bidirectional", feeds, weights, **{state: -h * along})["H"]
    ) / (2 * h)
    cotangent = rng.standard_normal(difference.shape)
    backward = build_backward(connected, "H", with_respect_to=[name])
    found = evaluate(serialize(backward), {**feeds, "cotangent": cotangent})
    np.testing.assert_allclose(found["activation"], plain["H"], rtol=1e-12)
    assert np.sum(found[f"gradient.{name}"] * along) == pytest.approx(np.sum(cotangent * difference), rel=1e-6)
    tangent = evaluate(serialize(build_tangent(connected, name)), {**feeds, "tangent": along})
    np.testing.assert_allclose(tangent["tangent.H"], difference, rtol=1e-6, atol=1e-7)


def test_a_connected_model_computes_what_the_model_does_and_keeps_its_names() -> None:
    model, feeds, weights = layer("LSTM", "bidirectional", outputs=("Y", "H", "C"), kind=np.float32)
    for name in ("Y", "H"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    loaded = load_model(model.SerializeToString())
    connected = expose_states(loaded, connected=["layer.cell", "layer.hidden"])
    assert [value.name for value in connected.graph.outputs] == ["C", "Y", "H"]
    expected = truth("LSTM", "bidirectional", feeds, weights)
    for name, value in run(serialize(connected), feeds).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(OrtoscopeError) as caught:
        build_backward(expose_states(loaded), "H", with_respect_to=["layer.cell"])
    assert caught.value.reason == "UNKNOWN_TENSOR"


def test_gradients_by_the_input_are_the_same_with_connected_states() -> None:
    model, feeds, _ = layer("LSTM", "bidirectional", outputs=("Y", "H"))
    loaded = load_model(model.SerializeToString())
    given = {**feeds, "cotangent": np.random.default_rng(2).standard_normal((2, BATCH, UNITS))}
    connected = expose_states(loaded, connected=["layer.cell", "layer.hidden"])
    plain, other = (
        evaluate(serialize(build_backward(each, "H")), given)["gradient.batched"] for each in (loaded, connected)
    )
    np.testing.assert_allclose(other, plain, rtol=1e-9, atol=1e-12)


def test_states_of_a_layer_whose_sequence_nobody_takes() -> None:
    model, feeds, weights = layer("GRU", outputs=("", "H"))
    exposed = trunk(expose_states(load_model(model.SerializeToString())), ["layer.hidden", "H"])
    expected = truth("GRU", "forward", feeds, weights)
    for name, value in evaluate(serialize(exposed), feeds).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10)


def test_states_of_a_layer_with_the_batch_first() -> None:
    model, feeds, weights = layer("LSTM", "bidirectional", layout=1)
    exposed = trunk(expose_states(load_model(model.SerializeToString())), ["layer.hidden", "layer.cell"])
    expected = truth("LSTM", "bidirectional", feeds, weights)
    for name, value in evaluate(serialize(exposed), feeds).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10)


def test_layers_without_names_are_counted() -> None:
    model, _, _ = layer("LSTM", name="")
    names = {tap.tensor for tap in find_taps(expose_states(load_model(model.SerializeToString())))}
    assert {"lstm_0.hidden", "lstm_0.cell"} <= names


def test_states_make_way_for_tensors_of_their_names() -> None:
    model, feeds, weights = layer("LSTM")
    model.graph.node.append(helper.make_node("Identity", ["X"], ["layer.cell"]))
    model.graph.output.append(helper.make_tensor_value_info("layer.cell", TensorProto.DOUBLE, None))
    exposed = trunk(expose_states(load_model(model.SerializeToString())), ["layer.cell_1"])
    expected = truth("LSTM", "forward", feeds, weights)["layer.cell"]
    np.testing.assert_allclose(evaluate(serialize(exposed), feeds)["layer.cell_1"], expected, rtol=1e-10)


def test_states_of_an_old_model() -> None:
    model, feeds, weights = layer("LSTM", opset=9)
    exposed = trunk(expose_states(load_model(model.SerializeToString())), ["layer.cell"])
    expected = truth("LSTM", "forward", feeds, weights)["layer.cell"]
    np.testing.assert_allclose(evaluate(serialize(exposed), feeds)["layer.cell"], expected, rtol=1e-10)


def test_a_state_that_is_not_there_cannot_be_connected() -> None:
    model, _, _ = layer("GRU")
    with pytest.raises(OrtoscopeError, match=r"'layer\.hidden'") as caught:
        expose_states(load_model(model.SerializeToString()), connected=["layer.cell"])
    assert caught.value.reason == "UNKNOWN_STATE"


def test_exposing_leaves_the_model_alone() -> None:
    model = load_model(layer("LSTM", outputs=("", "H"))[0].SerializeToString())
    before = serialize(model)
    expose_states(model, connected=["layer.cell"])
    assert serialize(model) == before


def run(model: bytes, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return dict(zip((value.name for value in session.get_outputs()), session.run(None, dict(feeds)), strict=True))
