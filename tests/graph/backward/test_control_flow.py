"""Gradients of Scan, Loop and If, whatever their bodies and branches read, carry and capture."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from finite_differences import check_derivatives, evaluate
from onnx import parser
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import Relaxations, build_backward, registry
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]

SHAPES: Mapping[str, tuple[int, ...]] = {"x": (4, 2, 3), "s": (2, 3), "w": (3,), "m": (3, 3)}
"""Of the inputs of the models here; the axes of x are step, item and feature."""

DECLARED = {"x": "double[t, n, 3] x", "s": "double[n, 3] s", "w": "double[3] w", "m": "double[3, 3] m"}

SCANS: Mapping[str, str] = {
    "captured weights": """
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
            p = Mul(h, w)  q = Add(p, v)  k = Tanh(q)  o = Mul(k, h)
        }> (s, x)""",
    "captured matrix, last state alone": """
        y, stack = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
            p = MatMul(h, m)  q = Add(p, v)  k = Tanh(q)  o = Identity(k)
        }> (s, x)""",
    "both kinds of outputs": """
        last, stack = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
            p = Mul(h, v)  k = Sin(p)  o = Mul(k, v)
        }> (s, x)
        y = Mul(last, stack)""",
    "backwards": """
        last, y = Scan <num_scan_inputs = 1, scan_input_directions = [1], scan_output_directions = [1],
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
            p = Mul(h, w)  q = Add(p, v)  k = Tanh(q)  o = Mul(k, h)
        }> (s, x)""",
    "read forwards, written backwards": """
        last, y = Scan <num_scan_inputs = 1, scan_output_directions = [1],
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
            p = Mul(h, v)  k = Tanh(p)  o = Exp(k)
        }> (s, x)""",
    "other axes": """
        axes = Constant <value = int64[1] {2}> ()  first = ReduceSum <keepdims = 0> (x, axes)
        last, y = Scan <num_scan_inputs = 1, scan_input_axes = [2], scan_output_axes = [1],
            body = b (double[t, n] h, double[t, n] v) => (double[t, n] k, double[t, n] o) {
            p = Mul(h, v)  q = Sin(p)  k = Add(q, v)  o = Mul(k, q)
        }> (first, x)""",
    "last axis, counted from the end": """
        axes = Constant <value = int64[1] {2}> ()  first = ReduceSum <keepdims = 0> (x, axes)
        last, y = Scan <num_scan_inputs = 1, scan_input_axes = [-1], scan_output_axes = [-1],
            scan_input_directions = [1],
            body = b (double[t, n] h, double[t, n] v) => (double[t, n] k, double[t, n] o) {
            p = Mul(h, v)  k = Sin(p)  o = Mul(k, v)
        }> (first, x)""",
    "two sequences, of which one is read twice": """
        doubled = Add(x, x)
        last, y = Scan <num_scan_inputs = 3, scan_input_directions = [0, 1, 0],
            body = b (double[n, 3] h, double[n, 3] u, double[n, 3] v, double[n, 3] z)
                => (double[n, 3] k, double[n, 3] o) {
            p = Mul(h, u)  q = Mul(p, v)  k = Sin(q)  o = Add(k, z)
        }> (s, x, x, doubled)""",
    "a state of integers": """
        zero = Constant <value = int64[1] {0}> ()
        count, last, y = Scan <num_scan_inputs = 1,
            body = b (int64[1] i, double[n, 3] h, double[n, 3] v) => (int64[1] j, double[n, 3] k, double[n, 3] o) {
            unit = Constant <value = int64[1] {1}> ()  j = Add(i, unit)  f = CastLike(j, v)
            p = Mul(v, f)  q = Sin(p)  k = Mul(q, h)  o = Add(k, p)
        }> (zero, s, x)""",
    "initializers and constants of its own": """
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o)
                <double[3, 3] own = {1, 2, 3, 0, 1, 0, 2, 1, 0}> {
            half = Constant <value = double[1] {0.5}> ()  scaled = Mul(own, half)  turned = Transpose(scaled)
            p = MatMul(h, turned)  q = Add(p, v)  k = Tanh(q)  o = Mul(k, half)
        }> (s, x)""",
    "a state that never changes, and one that is forgotten": """
        kept, last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] a, double[n, 3] h, double[n, 3] v)
                => (double[n, 3] a_again, double[n, 3] k, double[n, 3] o) {
            a_again = Identity(a)  k = Sin(v)  p = Mul(a, h)  o = Mul(p, v)
        }> (s, s, x)""",
    "states that change places": """
        half = Constant <value = double[1] {0.5}> ()
        other = Mul(s, half)
        a, b, y = Scan <num_scan_inputs = 1,
            body = inner (double[n, 3] g, double[n, 3] h, double[n, 3] v)
                => (double[n, 3] g2, double[n, 3] h2, double[n, 3] o) {
            g2 = Mul(h, v)  h2 = Identity(g)  o = Mul(g, v)
        }> (s, other, x)""",
    "an output that is a slice": """
        last, stack = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] v2) {
            k = Mul(h, v)  v2 = Identity(v)
        }> (s, x)
        y = Mul(stack, last)""",
    "shapes of other ranks": """
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n] o) {
            axes = Constant <value = int64[1] {1}> ()  total = ReduceSum <keepdims = 0> (v, axes)
            column = Unsqueeze(total, axes)  p = Mul(h, column)  k = Tanh(p)  o = Exp(total)
        }> (s, x)""",
    "parts of a state": """
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 2] o) {
            sizes = Constant <value = int64[2] {1, 2}> ()  p, o = Split <axis = 1> (h, sizes)
            q = Sin(o)  r = Concat <axis = 1> (q, p)  k = Add(r, v)
        }> (s, x)""",
    "a layer in a scan": """
        zero = Constant <value = int64[1] {0}> ()
        weights = Unsqueeze(m, zero)
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[1, n, 3] o) {
            pair = Unsqueeze(v, zero)  state = Unsqueeze(h, zero)
            every, o = RNN <hidden_size = 3> (pair, weights, weights, , , state)  k = Squeeze(o, zero)
        }> (s, x)""",
    "a scan in a scan": """
        total = ReduceSum <keepdims = 0> (s)
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[3, n] o) {
            start = ReduceSum <keepdims = 0> (h, one)
            unused, o = Scan <num_scan_inputs = 1, scan_input_axes = [1],
                body = inner (double[n] a, double[n] c) => (double[n] a2, double[n] e) {
                d = Mul(a, c)  f = Add(d, total)  a2 = Tanh(f)  e = Mul(a2, a)
            }> (start, v)
            p = Mul(h, v)  k = Add(p, w)
        }> (s, x)""",
}
LOOPS: Mapping[str, str] = {
    "a number of times": """
        trips = Constant <value = int64 {3}> ()
        last, stack = Loop <body = b (int64 i, bool c, double[n, 3] h) => (bool c2, double[n, 3] k, double[n, 3] o) {
            c2 = Identity(c)  p = Sin(h)  k = Mul(p, w)  o = Mul(k, h)
        }> (trips, , s)
        y = Mul(last, stack)""",
    "until a condition fails": """
        limit = Constant <value = double {60}> ()
        yes = Constant <value = bool {1}> ()
        y = Loop <body = b (int64 i, bool c, double[n, 3] h) => (bool c2, double[n, 3] k) {
            p = Mul(h, h)  q = Add(p, h)  k = Add(q, w)  norm = ReduceL1 <keepdims = 0> (k)  c2 = Less(norm, limit)
        }> (, yes, s)""",
    "linear, so that nothing has to be known of a step": """
        trips = Constant <value = int64 {3}> ()
        y = Loop <body = b (int64 i, bool c, double[n, 3] h) => (bool c2, double[n, 3] k) {
            c2 = Identity(c)  k = Add(h, h)
        }> (trips, , s)""",
    "its step counts": """
        trips = Constant <value = int64 {3}> ()
        y = Loop <body = b (int64 i, bool c, double[n, 3] h) => (bool c2, double[n, 3] k) {
            c2 = Identity(c)  f = CastLike(i, h)  p = Mul(h, f)  q = Sin(p)  k = Add(q, h)
        }> (trips, , s)""",
    "steps of a captured sequence": """
        shape = Shape <start = 0, end = 1> (x)
        trips = Squeeze(shape)
        y, stack = Loop <body = b (int64 i, bool c, double[n, 3] h) => (bool c2, double[n, 3] k, double[n, 3] o) {
            c2 = Identity(c)  v = Gather <axis = 0> (x, i)  p = Mul(h, v)  k = Sin(p)  o = Identity(v)
        }> (trips, , s)""",
    "no times": """
        trips = Constant <value = int64 {0}> ()
        h = Loop <body = b (int64 i, bool c, double[n, 3] h0) => (bool c2, double[n, 3] k) {
            c2 = Identity(c)  k = Add(h0, w)
        }> (trips, , s)
        y = Mul(h, s)""",
    "without states": """
        trips = Constant <value = int64 {2}> ()
        yes = Constant <value = bool {1}> ()
        y = Loop <body = b (int64 i, bool c) => (bool c2, double[n, 3] o) {
            c2 = Identity(c)  v = Gather <axis = 0> (x, i)  o = Mul(v, w)
        }> (trips, yes)""",
}
IFS: Mapping[str, str] = {
    **{
        f"the branch '{branch}'": f"""
        condition = Constant <value = bool {{{int(branch == "then")}}}> ()
        a, b = If <then_branch = first () => (double[n, 3] p, double[n, 3] q) {{
            p = Mul(s, w)  r = Sin(s)  q = Mul(r, p)
        }}, else_branch = second () => (double[n, 3] p2, double[n, 3] q2) {{
            p2 = Exp(s)  q2 = Identity(s)
        }}> (condition)
        y = Mul(a, b)"""
        for branch in ("then", "else")
    },
    "a condition that is computed": """
        total = ReduceSum <keepdims = 0> (s)
        zero = Constant <value = double {0}> ()
        condition = Less(total, zero)
        y = If <then_branch = first () => (double[n, 3] p) { p = Mul(s, w) },
            else_branch = second () => (double[n, 3] p2) { p2 = Tanh(s) }> (condition)""",
    "an if in an if": """
        yes = Constant <value = bool {1}> ()
        y = If <then_branch = first () => (double[n, 3] p) {
            r = Sin(s)
            p = If <then_branch = inner () => (double[n, 3] q) { q = Mul(r, w) },
                else_branch = other () => (double[n, 3] q2) { q2 = Identity(r) }> (yes)
        }, else_branch = second () => (double[n, 3] p2) { p2 = Tanh(s) }> (yes)""",
    "an if in a scan": """
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
            total = ReduceSum <keepdims = 0> (v)  zero = Constant <value = double {0}> ()  positive = Less(zero, total)
            k = If <then_branch = first () => (double[n, 3] p) { r = Mul(h, v)  q = Tanh(r)  p = Mul(q, w) },
                else_branch = second () => (double[n, 3] p2) { p2 = Sin(h) }> (positive)
            o = Mul(k, v)
        }> (s, x)""",
    "a scan in an if": """
        yes = Constant <value = bool {1}> ()
        y = If <then_branch = first () => (double[t, n, 3] p) {
            last, p = Scan <num_scan_inputs = 1,
                body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
                q = Mul(h, v)  k = Tanh(q)  o = Mul(k, w)
            }> (s, x)
        }, else_branch = second () => (double[t, n, 3] p2) { p2 = Identity(x) }> (yes)""",
    "a loop in an if in a loop": """
        trips = Constant <value = int64 {2}> ()
        yes = Constant <value = bool {1}> ()
        y = Loop <body = b (int64 i, bool c, double[n, 3] h) => (bool c2, double[n, 3] k) {
            c2 = Identity(c)
            k = If <then_branch = first () => (double[n, 3] p) {
                p = Loop <body = inner (int64 i2, bool d, double[n, 3] g) => (bool d2, double[n, 3] g2) {
                    d2 = Identity(d)  e = Mul(g, w)  f = Sin(e)  g2 = Mul(f, h)
                }> (trips, , s)
            }, else_branch = second () => (double[n, 3] p2) { p2 = Tanh(s) }> (yes)
        }> (trips, , s)""",
    "a layer in an if": """
        yes = Constant <value = bool {1}> ()
        axes = Constant <value = int64[1] {0}> ()
        weights = Unsqueeze(m, axes)
        y = If <then_branch = first () => (double[t, 1, n, 3] p) { p = RNN <hidden_size = 3> (x, weights, weights) },
            else_branch = second () => (double[t, 1, n, 3] p2) { p2 = Unsqueeze(x, one) }> (yes)""",
    "operators that are functions": """
        yes = Constant <value = bool {1}> ()
        y = If <then_branch = first () => (double[n, 3] p) { q = HardSwish(s)  p = Mul(q, w) },
            else_branch = second () => (double[n, 3] p2) { p2 = Celu(s) }> (yes)""",
}


ALL: Mapping[str, str] = {
    f"{kind}: {name}": text
    for kind, group in (("scan", SCANS), ("loop", LOOPS), ("if", IFS))
    for name, text in group.items()
}


def feeds_of(body: str, seed: int = 0) -> dict[str, Array]:
    """Random values of those of the inputs x, s, w and m that a body names."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items() if re.search(rf"\b{name}\b", body)}


def build(body: str, kind: str = "double") -> onnx.ModelProto:
    """A model of the inputs that its nodes name, with the output y."""
    feeds = feeds_of(body)
    inputs = ", ".join(DECLARED[name] for name in feeds)
    text = f"""<ir_version: 10, opset_import: ["": 22]>
        test ({inputs}) => (double y) <int64[1] one = {{1}}> {{ {body} }}"""
    double = parser.parse_model(text)
    extents = ", ".join(f"d{axis}" for axis in range(evaluate(double, feeds)["y"].ndim))
    return parser.parse_model(text.replace("(double y)", f"(double[{extents}] y)").replace("double", kind))


@pytest.mark.parametrize("body", ALL.values(), ids=ALL.keys())
def test_gradients_through_control_flow(body: str) -> None:
    check_derivatives(build(body), feeds_of(body), directions=1)


RUNNABLE = {name: body for name, body in ALL.items() if body != LOOPS["no times"]}
"""ONNX Runtime runs no Scan over nothing."""


@pytest.mark.parametrize("body", RUNNABLE.values(), ids=RUNNABLE.keys())
def test_gradients_through_control_flow_in_float32_by_onnx_runtime(body: str) -> None:
    feeds = feeds_of(body)
    double, single = build(body), build(body, "float")
    value = evaluate(double, feeds)["y"]
    np.testing.assert_allclose(run(single.SerializeToString(), feeds)["y"], value, rtol=1e-4, atol=1e-5)
    given = {**feeds, "cotangent": np.random.default_rng(1).standard_normal(value.shape)}
    expected = evaluate(serialize(build_backward(load_model(double.SerializeToString()), "y")), given)
    found = run(serialize(build_backward(load_model(single.SerializeToString()), "y")), given)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


INSIDE = {
    "scan": """
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
            a = Sin(w)  k = Identity(v)  o = Add(a, v)
        }> (s, x)""",
    "loop": """
        trips = Constant <value = int64 {2}> ()
        y = Loop <body = b (int64 i, bool c, double[n, 3] h) => (bool c2, double[n, 3] k) {
            c2 = Identity(c)  a = Sin(w)  k = Add(a, h)
        }> (trips, , s)""",
    "if": """
        yes = Constant <value = bool {1}> ()
        y = If <then_branch = first () => (double[3] p) { p = Sin(w) },
            else_branch = second () => (double[3] p2) { p2 = Identity(w) }> (yes)""",
    "if in an if": """
        yes = Constant <value = bool {1}> ()
        y = If <then_branch = first () => (double[3] p) {
            p = If <then_branch = third () => (double[3] q) { q = Sin(w) },
                else_branch = fourth () => (double[3] q2) { q2 = Identity(w) }> (yes)
        }, else_branch = second () => (double[3] p2) { p2 = Identity(w) }> (yes)""",
}
"""Here w is nothing but captured, and goes through a Sin."""


@pytest.mark.parametrize("body", INSIDE.values(), ids=INSIDE.keys())
def test_a_captured_value_is_found_inside(body: str) -> None:
    gradient = gradient_of(body, "w")
    np.testing.assert_allclose(
        gradient / np.cos(feeds_of(body)["w"]), np.full(3, gradient[0] / np.cos(feeds_of(body)["w"][0]))
    )
    assert gradient.all()


@pytest.mark.parametrize("body", INSIDE.values(), ids=INSIDE.keys())
def test_an_operator_without_a_rule_is_found_inside(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry._RULES, "Sin")
    with pytest.raises(OrtoscopeError) as caught:
        build_backward(load_model(build(body).SerializeToString()), "y", with_respect_to=["w"])
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"
    assert caught.value.metadata["operator"] == "Sin"


@pytest.mark.parametrize("body", INSIDE.values(), ids=INSIDE.keys())
def test_the_nodes_around_a_loop_or_branch_are_found_without_their_rules(
    body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for operator in ("Scan", "Loop", "If"):
        monkeypatch.delitem(registry._RULES, operator)
    with pytest.raises(OrtoscopeError) as caught:
        build_backward(load_model(build(body).SerializeToString()), "y", with_respect_to=["w"])
    assert caught.value.metadata["operator"] in {"Scan", "Loop", "If"}


def test_a_random_branch_is_refused() -> None:
    body = """
        yes = Constant <value = bool {1}> ()
        y = If <then_branch = first () => (double[n, 3] p) { r = RandomNormalLike(s)  p = Mul(s, r) },
            else_branch = second () => (double[n, 3] p2) { p2 = Identity(s) }> (yes)"""
    with pytest.raises(OrtoscopeError, match="RandomNormalLike in a branch"):
        build_backward(load_model(build(body).SerializeToString()), "y")


def test_a_random_loop_is_not_run_twice() -> None:
    body = """
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
            r = RandomNormalLike(v)  p = Mul(h, r)  k = Identity(h)  o = Mul(p, v)
        }> (s, x)"""
    feeds = feeds_of(body)
    model = serialize(build_backward(load_model(build(body).SerializeToString()), "y"))
    ones = np.ones(SHAPES["x"])
    results = evaluate(model, {**feeds, "cotangent": ones})
    np.testing.assert_allclose(results["gradient.x"] * feeds["x"], results["activation"])


def test_what_a_loop_does_not_change_is_not_handed_out() -> None:
    model = build_backward(load_model(build(SCANS["initializers and constants of its own"]).SerializeToString()), "y")
    forward, backward = (node for node in model.graph if node.op_type == "Scan")
    # Beside the state and the stack, the state after each step is all that the gradient needs.
    assert len(forward.outputs) == 3
    inside = [node.op_type for scan in (forward, backward) for node in scan.attributes["body"].as_graph()]
    assert "Transpose" not in inside


@pytest.mark.parametrize(
    "body",
    [
        """
        last, y = Scan <num_scan_inputs = 1,
            body = b (double[n, 3] h, double[n, 3] v) => (double[n, 3] k, double[n, 3] o) {
            k = Identity(h)  p = Exp(v)  o = Relu(p)
        }> (s, x)""",
        """
        yes = Constant <value = bool {1}> ()
        y = If <then_branch = first () => (double[t, n, 3] p) { q = Exp(x)  p = Relu(q) },
            else_branch = second () => (double[t, n, 3] p2) { p2 = Identity(x) }> (yes)""",
    ],
    ids=["scan", "if"],
)
def test_relaxations_hold_inside(body: str) -> None:
    feeds = feeds_of(body)
    model = load_model(build(body).SerializeToString())
    backward = serialize(
        build_backward(model, "y", with_respect_to=["x"], relaxations=Relaxations.parse(["deconvolution"]))
    )
    cotangent = np.where(np.arange(24).reshape(SHAPES["x"]) % 2, -1.0, 1.0)
    gradient = evaluate(backward, {**feeds, "cotangent": cotangent})["gradient.x"]
    np.testing.assert_allclose(gradient, np.where(cotangent > 0, np.exp(feeds["x"]), 0))


@pytest.mark.parametrize("body", [SCANS["initializers and constants of its own"], IFS["an if in a scan"]])
def test_the_model_itself_stays_as_it_is(body: str) -> None:
    model = load_model(build(body).SerializeToString())
    before = serialize(model)
    build_backward(model, "y")
    assert serialize(model) == before


def gradient_of(body: str, name: str) -> Array:
    feeds = feeds_of(body)
    model = build(body)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y", with_respect_to=[name]))
    cotangent = np.ones(evaluate(model, feeds)["y"].shape)
    return evaluate(backward, {**feeds, "cotangent": cotangent})[f"gradient.{name}"]


def run(model: bytes, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs, in float32, by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    taken = [value.name for value in session.get_inputs()]
    values = session.run(None, {name: feeds[name].astype(np.float32) for name in taken})
    return dict(zip((value.name for value in session.get_outputs()), values, strict=True))
