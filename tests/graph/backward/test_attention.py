"""Attention, rotary embeddings, and transformer blocks that are made of them."""

from collections.abc import Mapping, Sequence
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
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Shape = tuple[int, ...]

BATCH, QUERIES, KEYS, UNITS, VALUE_UNITS = 2, 4, 6, 5, 7


def normal(shape: Sequence[int], seed: int = 0) -> Array:
    """Normal values, other than those that cotangents are made of."""
    return np.random.default_rng(100 + seed).standard_normal(shape)


def by_head(query_heads: int = 3, key_heads: int = 3) -> Arrays:
    """Operands of rank 4."""
    return {
        "q": normal((BATCH, query_heads, QUERIES, UNITS)),
        "k": normal((BATCH, key_heads, KEYS, UNITS), 1),
        "v": normal((BATCH, key_heads, KEYS, VALUE_UNITS), 2),
    }


def joined(query_heads: int = 2, key_heads: int = 2) -> Arrays:
    """Operands of rank 3."""
    return {
        name: np.swapaxes(value, 1, 2).reshape(BATCH, value.shape[2], -1)
        for name, value in by_head(query_heads, key_heads).items()
    }


def free_batch(feeds: Mapping[str, Array]) -> dict[str, list[int | str]]:
    """A free batch and free numbers of queries and keys in those inputs that have a batch."""
    free: dict[str, list[int | str]] = {}
    for name in ("q", "k", "v"):
        shape: list[int | str] = list(feeds[name].shape)
        shape[0], shape[-2] = "n", "queries" if name == "q" else "keys"
        free[name] = shape
    return free


def attention(feeds: Mapping[str, Array], **attributes: Any) -> onnx.NodeProto:
    positions = ["q", "k", "v", "mask", "past_key", "past_value", "count"]
    names = [name if name in feeds else "" for name in positions]
    while not names[-1]:
        names.pop()
    return helper.make_node("Attention", names, ["y"], **attributes)


def check(node: onnx.NodeProto, feeds: Mapping[str, Array], opset: int = 24, *, runs: bool = True) -> None:
    """Static and free shapes, and float32 in ONNX Runtime if that runs the node."""
    model = node_model(node, feeds, opset=opset)
    check_derivatives(model, feeds, directions=2)
    check_derivatives(node_model(node, feeds, opset=opset, symbolic=free_batch(feeds)), feeds, directions=1)
    if runs:
        check_single_precision(model, feeds)


ATTRIBUTES: list[dict[str, Any]] = [
    {},
    {"is_causal": 1},
    {"scale": 0.3, "softcap": 2.0},
    {"softmax_precision": TensorProto.DOUBLE, "is_causal": 1},
]


@pytest.mark.parametrize("attributes", ATTRIBUTES)
@pytest.mark.parametrize("opset", [23, 24, 25])
def test_gradient_of_attention_by_head(opset: int, attributes: dict[str, Any]) -> None:
    feeds = by_head()
    check(attention(feeds, **attributes), feeds, opset, runs="softmax_precision" not in attributes)


@pytest.mark.parametrize("attributes", ATTRIBUTES[:3])
@pytest.mark.parametrize(("query_heads", "key_heads"), [(2, 2), (4, 2), (3, 1)])
def test_gradient_of_attention_of_joined_heads(query_heads: int, key_heads: int, attributes: dict[str, Any]) -> None:
    feeds = joined(query_heads, key_heads)
    check(attention(feeds, q_num_heads=query_heads, kv_num_heads=key_heads, **attributes), feeds)


@pytest.mark.parametrize(("query_heads", "key_heads"), [(4, 2), (3, 1)])
def test_gradient_where_query_heads_share_key_heads(query_heads: int, key_heads: int) -> None:
    feeds = {**by_head(query_heads, key_heads), "mask": normal((QUERIES, KEYS), 3)}
    check(attention(feeds), feeds)


@pytest.mark.parametrize("shape", [(QUERIES, KEYS), (3, QUERIES, KEYS), (BATCH, 1, QUERIES, KEYS)])
@pytest.mark.parametrize("causal", [0, 1])
def test_gradient_by_an_additive_mask(shape: Shape, causal: int) -> None:
    feeds = {**by_head(), "mask": normal(shape, 3)}
    check(attention(feeds, is_causal=causal), feeds)


def test_gradient_by_a_mask_that_is_the_same_for_all_queries() -> None:
    # Without causality, for which onnx.reference takes the mask's rows for the queries; ONNX Runtime wants all rows.
    feeds = {**by_head(), "mask": normal((BATCH, 3, 1, KEYS), 3)}
    check(attention(feeds), feeds, runs=False)


def boolean_mask() -> Array:
    """Every query sees something."""
    mask = np.random.default_rng(5).random((QUERIES, KEYS)) > 0.5
    mask[:, 0] = True
    return mask


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("opset", [23, 24])
def test_gradient_with_a_boolean_mask(opset: int, causal: int) -> None:
    feeds = {**by_head(), "mask": boolean_mask()}
    check(attention(feeds, is_causal=causal), feeds, opset)


@pytest.mark.parametrize("additive", [False, True])
def test_keys_beyond_a_short_mask_are_masked(additive: bool) -> None:
    mask = boolean_mask()[:, :4]
    feeds = {**by_head(), "mask": np.where(mask, 0.5, -np.inf) if additive else mask}
    node = attention(feeds)
    gradients = gradients_of(node_model(node, feeds, opset=24), feeds)
    assert np.all(gradients["k"][:, :, 4:] == 0)
    full = np.pad(mask, ((0, 0), (0, 2)))
    whole = {**feeds, "mask": np.where(full, 0.5, -np.inf) if additive else full}
    expected = gradients_of(node_model(node, whole, opset=24), whole)
    for name in "qkv":
        np.testing.assert_allclose(gradients[name], expected[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("opset", [23, 25])
def test_a_query_that_sees_nothing_has_no_gradient_and_gives_none(opset: int, additive: bool) -> None:
    mask = boolean_mask()
    mask[1] = False
    feeds = {**by_head(), "mask": np.where(mask, 0.5, -np.inf) if additive else mask}
    model = node_model(attention(feeds), feeds, opset=opset)
    g = normal((BATCH, 3, QUERIES, VALUE_UNITS), 7)
    gradients = gradients_of(model, feeds, g)
    assert all(np.all(np.isfinite(value)) for value in gradients.values())
    assert np.all(gradients["q"][:, :, 1] == 0)
    # As if the query were not there.
    others = [0, 2, 3]
    rest = {**feeds, "q": feeds["q"][:, :, others], "mask": feeds["mask"][others]}
    expected = gradients_of(node_model(attention(rest), rest, opset=opset), rest, g[:, :, others])
    for name in "kv":
        np.testing.assert_allclose(gradients[name], expected[name], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradients["q"][:, :, others], expected["q"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("causal", [0, 1])
def test_gradient_by_past_keys_and_values(causal: int) -> None:
    feeds = {**by_head(), "past_key": normal((BATCH, 3, 2, UNITS), 3)}
    feeds["past_value"] = normal((BATCH, 3, 2, VALUE_UNITS), 4)
    # ONNX Runtime wants the present keys and values to be outputs, too.
    check(attention(feeds, is_causal=causal), feeds, runs=False)


@pytest.mark.parametrize(("output", "tap"), [(1, "present_key"), (2, "present_value")])
def test_gradient_of_the_present(output: int, tap: str) -> None:
    feeds = {**by_head(), "past_key": normal((BATCH, 3, 2, UNITS), 3)}
    feeds["past_value"] = normal((BATCH, 3, 2, VALUE_UNITS), 4)
    node = attention(feeds)
    node.output.extend(["present_key", "present_value"])
    model = node_model(node, feeds, opset=24, output=node.output[output])
    gradients = gradients_of(model, feeds)
    concerned = {"present_key": {"k", "past_key"}, "present_value": {"v", "past_value"}}[tap]
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, np.full_like(feeds[name], float(name in concerned)))


# Where it is asked for the products, onnx.reference gives them capped.
@pytest.mark.parametrize(("mode", "cap"), [(0, 0.0), (1, 2.0), (2, 2.0), (3, 2.0)])
def test_gradient_of_the_attention_weights_at_every_stage(mode: int, cap: float) -> None:
    feeds = {**by_head(), "mask": normal((QUERIES, KEYS), 3)}
    node = attention(feeds, softcap=cap, qk_matmul_output_mode=mode)
    node.output.extend(["", "", "weights"])
    check_derivatives(node_model(node, feeds, opset=24, output="weights"), feeds)


@pytest.mark.parametrize("causal", [0, 1])
def test_padding_keys_get_no_gradient(causal: int) -> None:
    feeds = {**by_head(), "count": np.array([6, 5])}
    node = attention(feeds, is_causal=causal)
    model = node_model(node, feeds, opset=25)
    check_derivatives(model, feeds)
    gradients = gradients_of(model, feeds)
    assert np.all(gradients["k"][1, :, 5:] == 0)
    assert np.all(gradients["v"][1, :, 5:] == 0)
    assert np.all(gradients["v"][0] != 0)


@pytest.mark.parametrize(("left", "right", "causal"), [(1, -1, 0), (-1, 1, 0), (2, 1, 0), (2, 1, 1)])
def test_gradient_within_a_window(left: int, right: int, causal: int) -> None:
    feeds = by_head()
    node = attention(feeds, left_window_size=left, right_window_size=right, is_causal=causal)
    check(node, feeds, 25, runs=False)


def test_half_precision_stays_half_precision() -> None:
    feeds = {name: value.astype(np.float16) for name, value in by_head().items()}
    mask = boolean_mask()
    mask[1] = False
    feeds["mask"] = mask
    model = node_model(attention(feeds), feeds, opset=23, output_type=TensorProto.FLOAT16)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    g = normal((BATCH, 3, QUERIES, VALUE_UNITS), 7).astype(np.float16)
    found = run_in_onnxruntime(backward, {**feeds, "cotangent": g})
    double = {name: value.astype(np.float64) if name != "mask" else value for name, value in feeds.items()}
    expected = gradients_of(node_model(attention(feeds), double, opset=23), double, g.astype(np.float64))
    for name in "qkv":
        assert found[f"gradient.{name}"].dtype == np.float16
        np.testing.assert_allclose(found[f"gradient.{name}"], expected[name], rtol=0, atol=2e-2)


@pytest.mark.parametrize("query_heads", [3, 6])
def test_numbers_of_heads_and_units_may_be_free(query_heads: int) -> None:
    feeds = by_head(query_heads, 3)
    names = {
        "q": ["n", "heads", "queries", "units"],
        "k": ["n", "shared", "keys", "units"],
        "v": ["n", "shared", "keys", "values"],
    }
    check_derivatives(node_model(attention(feeds), feeds, opset=24, symbolic=names), feeds, directions=1)


ROTATIONS = [
    ({"x": (2, 3, 4, 6)}, (2, 4, 3), {}),
    ({"x": (2, 3, 4, 6)}, (2, 4, 3), {"interleaved": 1}),
    ({"x": (2, 4, 12)}, (2, 4, 3), {"num_heads": 2}),
    ({"x": (2, 3, 4, 6)}, (2, 4, 2), {"rotary_embedding_dim": 4}),
]


@pytest.mark.parametrize(("inputs", "table", "attributes"), ROTATIONS)
def test_gradient_of_rotary_embedding(inputs: dict[str, Shape], table: Shape, attributes: dict[str, int]) -> None:
    feeds = {name: normal(shape) for name, shape in inputs.items()}
    constants = {"cos": normal(table, 1), "sin": normal(table, 2)}
    node = helper.make_node("RotaryEmbedding", ["x", *constants], ["y"], **attributes)
    model = node_model(node, feeds, constants, opset=23)
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


def test_gradient_of_rotary_embedding_at_given_positions() -> None:
    feeds = {"x": normal((2, 3, 4, 6)), "places": np.array([[0, 1, 2, 3], [4, 5, 7, 7]])}
    angles = normal((8, 3), 1)
    constants = {"cos": np.cos(angles), "sin": np.sin(angles)}
    node = helper.make_node("RotaryEmbedding", ["x", *constants, "places"], ["y"])
    model = node_model(node, feeds, constants, opset=23, symbolic={"x": ["n", 3, "t", 6], "places": ["n", "t"]})
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


def test_rotary_embedding_has_no_gradient_by_its_tables() -> None:
    feeds = {"x": normal((2, 3, 4, 6)), "cos": normal((2, 4, 3), 1), "sin": normal((2, 4, 3), 2)}
    model = node_model(helper.make_node("RotaryEmbedding", list(feeds), ["y"]), feeds, opset=23)
    loaded = load_model(model.SerializeToString())
    with pytest.raises(OrtoscopeError, match="tables of cosines") as caught:
        build_backward(loaded, "y")
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"
    backward = serialize(build_backward(loaded, "y", with_respect_to=["x"]))
    g = normal((2, 3, 4, 6), 3)
    assert evaluate(backward, {**feeds, "cotangent": g})["gradient.x"].shape == (2, 3, 4, 6)


WIDTH, HEADS = 8, 2


def linear(nodes: list[onnx.NodeProto], constants: Arrays, x: str, name: str, width: int, seed: int) -> str:
    source = WIDTH if name != "down" else 2 * WIDTH
    constants[f"{name}.w"] = normal((source, width), seed) / np.sqrt(source)
    constants[f"{name}.b"] = normal((width,), seed + 1)
    nodes.append(helper.make_node("MatMul", [x, f"{name}.w"], [f"{name}.product"]))
    nodes.append(helper.make_node("Add", [f"{name}.product", f"{name}.b"], [name]))
    return name


def encoder_block(*, written_out: bool) -> tuple[list[onnx.NodeProto], Arrays]:
    """A transformer's block before its residual sums: `x` (n, t, 8) → `y`.

    Args:
        written_out: Whether normalization, attention and Gelu are written in basic operators, as old exporters do, or
            as operators of their own, with root mean squares and rotary embeddings.
    """
    nodes: list[onnx.NodeProto] = []
    constants: Arrays = {name: normal((WIDTH,), 20 + seed) for seed, name in enumerate(("s1", "t1", "s2", "t2"))}
    constants.update(apart=np.array([0, 0, HEADS, -1]), together=np.array([0, 0, WIDTH]), last=np.array([-1]))
    constants.update(scale=np.array(2.0), root=np.array(np.sqrt(2)), half=np.array(0.5), one=np.array(1.0))

    def op(op_type: str, *inputs: str, to: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, inputs, [to], **attributes))
        return to

    def norm(x: str, index: int) -> str:
        if written_out:
            return op("LayerNormalization", x, f"s{index}", f"t{index}", to=f"norm{index}")
        return op("RMSNormalization", x, f"s{index}", to=f"norm{index}")

    normed = norm("x", 1)
    q, k, v = (linear(nodes, constants, normed, name, WIDTH, seed) for name, seed in (("q", 1), ("k", 3), ("v", 5)))
    if written_out:
        heads = {}
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            op("Reshape", name, "apart", to=f"{name}.apart")
            heads[name] = op("Transpose", f"{name}.apart", to=f"{name}.head", perm=order)
        op("MatMul", heads["q"], heads["k"], to="products")
        op("Div", "products", "scale", to="scores")
        op("Softmax", "scores", to="weights", axis=-1)
        op("MatMul", "weights", heads["v"], to="mixed")
        op("Transpose", "mixed", to="mixed.turned", perm=[0, 2, 1, 3])
        op("Reshape", "mixed.turned", "together", to="attended")
    else:
        angles = np.outer(np.arange(16), [1.0, 0.1])
        constants.update(cos=np.cos(angles), sin=np.sin(angles))
        turned = [
            op("RotaryEmbedding", name, "cos", "sin", "places", to=f"{name}.turned", num_heads=HEADS) for name in (q, k)
        ]
        op("Attention", *turned, v, to="attended", q_num_heads=HEADS, kv_num_heads=HEADS, is_causal=1)
    op("Add", "x", linear(nodes, constants, "attended", "out", WIDTH, 7), to="middle")
    hidden = linear(nodes, constants, norm("middle", 2), "up", 2 * WIDTH, 9)
    if written_out:
        op("Div", hidden, "root", to="up.scaled")
        op("Erf", "up.scaled", to="up.erf")
        op("Add", "up.erf", "one", to="up.shifted")
        op("Mul", hidden, "up.shifted", to="up.gated")
        op("Mul", "up.gated", "half", to="active")
    else:
        op("Gelu", hidden, to="active")
    op("Add", "middle", linear(nodes, constants, "active", "down", WIDTH, 11), to="y")
    return nodes, constants


@pytest.mark.parametrize("opset", [17, 22])
def test_gradient_of_an_encoder_block_in_basic_operators(opset: int) -> None:
    nodes, constants = encoder_block(written_out=True)
    feeds = {"x": normal((2, 5, WIDTH))}
    for symbolic in (None, {"x": ["n", 5, WIDTH]}, {"x": ["n", "t", WIDTH]}):
        model = node_model(nodes, feeds, constants, opset=opset, symbolic=symbolic)
        check_derivatives(model, feeds, directions=1)
        check_single_precision(model, feeds)


def test_gradient_of_an_encoder_block_in_operators_of_its_own() -> None:
    nodes, constants = encoder_block(written_out=False)
    feeds = {"x": normal((2, 5, WIDTH)), "places": np.tile(np.arange(5), (2, 1))}
    for names in (["n", 5], ["n", "t"]):
        symbolic: dict[str, Sequence[int | str]] = {"x": [*names, WIDTH], "places": names}
        model = node_model(nodes, feeds, constants, opset=23, symbolic=symbolic)
        check_derivatives(model, feeds, directions=1)
        check_single_precision(model, feeds)
