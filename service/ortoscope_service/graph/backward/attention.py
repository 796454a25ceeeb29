"""Attention in operators that have rules, written down for its gradient.

A node stays in the forward graph, where its own kernel is fast; for differentiation it is doubled by what is written
here (`expansion`). The function that the standard gives computes the same, but its gradient would make several needless
passes over the attention weights, and be NaN where all keys are masked: there the output is 0, and so is the gradient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank
from ortoscope_service.graph.backward.sizes import Size, extent, listed, minus
from ortoscope_service.graph.constants import float_attribute, int_attribute

Dimension = int | ir.SymbolicDim | None

_NO_KEY = -np.inf
"""What the standard adds to the scores of a masked key."""


@dataclass(frozen=True)
class _Attention:
    """A node and its operands by head."""

    node: ir.Node
    query: ir.Value
    """(batch, query head, query, unit)."""

    key: ir.Value
    """(batch, key head, key, unit), past keys before the others."""

    value: ir.Value
    """(batch, key head, key, value unit)."""

    def optional(self, position: int) -> ir.Value | None:
        """An input that may be absent."""
        return self.node.inputs[position] if position < len(self.node.inputs) else None


def expand(node: ir.Node, b: Builder) -> list[ir.Value]:
    """Emits what an Attention node computes.

    Args:
        node: The node.
        b: Where to emit.

    Returns:
        Values that equal the node's outputs.
    """
    attention = _read(node, b)
    scores = _scores(attention, b)
    capped = _capped(node, b, scores)
    bias = _bias(attention, b)
    alive = _alive(b, bias, scores) if bias is not None and _may_mask_all(attention) else None
    if bias is not None and alive is not None:
        bias = b.op("Max", bias, b.number(-float(data_type(bias).max) / 2, bias))
    biased = capped if bias is None else _shaped(b.op("Add", capped, bias), _shape(scores))
    weights = _softmax(node, b, biased)
    y = _product(b, weights, attention.value)
    if alive is not None:
        y = _shaped(b.op("Mul", y, alive), _shape(y))
    stages = [scores, capped, biased, weights if alive is None else b.op("Mul", weights, alive)]
    stage = stages[int_attribute(node, "qk_matmul_output_mode", 0)]
    return [_joined(node, b, y), attention.key, attention.value, stage]


def _read(node: ir.Node, b: Builder) -> _Attention:
    query, key, value = (value for value in node.inputs[:3] if value is not None)
    query = _by_head(b, query, int_attribute(node, "q_num_heads", 0))
    key, value = (_by_head(b, operand, int_attribute(node, "kv_num_heads", 0)) for operand in (key, value))
    past_key, past_value = (node.inputs[position] if position < len(node.inputs) else None for position in (4, 5))
    if past_key is not None and past_value is not None:
        key, value = _appended(b, past_key, key), _appended(b, past_value, value)
    return _Attention(node, query, key, value)


def _by_head(b: Builder, operand: ir.Value, heads: int) -> ir.Value:
    """(batch, token, head · unit) as (batch, head, token, unit)."""
    if rank(operand) == 4:
        return operand
    batch, tokens, width = _shape(operand)
    units = width // heads if isinstance(width, int) else None
    apart = b.op("Reshape", operand, b.ints([0, 0, heads, -1 if units is None else units]))
    _shaped(apart, [batch, tokens, heads, units])
    return _shaped(b.op("Transpose", apart, perm=[0, 2, 1, 3]), [batch, heads, tokens, units])


def _joined(node: ir.Node, b: Builder, y: ir.Value) -> ir.Value:
    """The inverse of `_by_head`, for an output that the node has in that form."""
    query = node.inputs[0]
    assert query is not None
    if rank(query) == 4:
        return y
    batch, heads, tokens, units = _shape(y)
    turned = _shaped(b.op("Transpose", y, perm=[0, 2, 1, 3]), [batch, tokens, heads, units])
    width = heads * units if isinstance(heads, int) and isinstance(units, int) else None
    return _shaped(b.op("Reshape", turned, b.ints([0, 0, -1 if width is None else width])), [batch, tokens, width])


def _appended(b: Builder, past: ir.Value, present: ir.Value) -> ir.Value:
    before, after = _shape(past)[2], _shape(present)[2]
    tokens = before + after if isinstance(before, int) and isinstance(after, int) else None
    batch, heads, _, units = _shape(present)
    return _shaped(b.op("Concat", past, present, axis=2), [batch, heads, tokens, units])


def _scores(attention: _Attention, b: Builder) -> ir.Value:
    """The scaled products of queries and keys."""
    query = _shaped(b.op("Mul", attention.query, _scale(attention, b)), _shape(attention.query))
    batch, heads, tokens, units = _shape(attention.key)
    turned = _shaped(b.op("Transpose", attention.key, perm=[0, 1, 3, 2]), [batch, heads, units, tokens])
    return _product(b, query, turned)


def _scale(attention: _Attention, b: Builder) -> ir.Value:
    given, units = float_attribute(attention.node, "scale"), extent(b, attention.query, 3)
    if given is not None:
        return b.number(given, attention.query)
    if isinstance(units, int):
        return b.number(1 / math.sqrt(units), attention.query)
    return b.op("Reciprocal", b.op("Sqrt", b.op("Cast", units, to=data_type(attention.query))))


def _product(b: Builder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Matrix products by head. Where several heads on the left share one on the right, their rows are put together."""
    batch, heads, rows, inner = _shape(left)
    _, shared_heads, _, columns = _shape(right)
    if _is_same(heads, shared_heads):
        return _shaped(b.op("MatMul", left, right), [batch, heads, rows, columns])
    all_rows = None
    if isinstance(heads, int) and isinstance(shared_heads, int) and isinstance(rows, int):
        all_rows = heads // shared_heads * rows
    sizes = [extent(b, left, 0), extent(b, right, 1), -1 if all_rows is None else all_rows, extent(b, left, 3)]
    together = b.op("Reshape", left, listed(b, sizes), allowzero=1)
    _shaped(together, [batch, shared_heads, all_rows, inner])
    product = _shaped(b.op("MatMul", together, right), [batch, shared_heads, all_rows, columns])
    sizes = [*(extent(b, left, axis) for axis in range(3)), extent(b, right, 3)]
    return _shaped(b.op("Reshape", product, listed(b, sizes), allowzero=1), [batch, heads, rows, columns])


def _is_same(one: Dimension, other: Dimension) -> bool:
    """Whether two extents are known to be the same."""
    first, second = (size.value if isinstance(size, ir.SymbolicDim) else size for size in (one, other))
    return first is not None and first == second


def _capped(node: ir.Node, b: Builder, scores: ir.Value) -> ir.Value:
    cap = float_attribute(node, "softcap")
    if not cap:
        return scores
    limit = b.number(cap, scores)
    capped = b.op("Mul", b.op("Tanh", b.op("Div", scores, limit)), limit)
    return _shaped(capped, _shape(scores))


def _softmax(node: ir.Node, b: Builder, scores: ir.Value) -> ir.Value:
    precision = ir.DataType(int_attribute(node, "softmax_precision", data_type(scores)))
    if precision == data_type(scores):
        return _shaped(b.op("Softmax", scores, axis=-1), _shape(scores))
    cast = _shaped(b.op("Cast", scores, to=precision), _shape(scores))
    weights = _shaped(b.op("Softmax", cast, axis=-1), _shape(scores))
    return _shaped(b.op("Cast", weights, to=data_type(scores)), _shape(scores))


def _bias(attention: _Attention, b: Builder) -> ir.Value | None:
    """What is added to the scores, -inf where a key is masked, of a shape that broadcasts to theirs."""
    mask, terms = attention.optional(3), []
    if mask is not None:
        terms.append(_long(attention, b, _additive(b, mask, attention.query)))
    visible = _visible(attention, b)
    if visible is not None:
        terms.append(_additive(b, visible, attention.query))
    return b.op("Add", *terms) if len(terms) == 2 else next(iter(terms), None)


def _additive(b: Builder, mask: ir.Value, like: ir.Value) -> ir.Value:
    """A mask as a number to add."""
    if data_type(mask) != ir.DataType.BOOL:
        return mask
    return b.op("Where", mask, b.number(0, like), b.number(_NO_KEY, like))


def _long(attention: _Attention, b: Builder, mask: ir.Value) -> ir.Value:
    """A mask with a column for every key; the last ones may be missing, and are masked."""
    given = attention.optional(3)
    assert given is not None
    missing = minus(b, extent(b, attention.key, 2), extent(b, given, rank(given) - 1))
    if isinstance(missing, int) and missing == 0:
        return mask
    return b.op("Pad", mask, listed(b, [0, missing]), b.number(_NO_KEY, mask), b.ints([-1]))


def _visible(attention: _Attention, b: Builder) -> ir.Value | None:
    """Which keys a query sees by its position, and which are no padding; None if all."""
    node = attention.node
    left, right = (int_attribute(node, f"{side}_window_size", -1) for side in ("left", "right"))
    if int_attribute(node, "is_causal", 0):
        right = 0
    count = attention.optional(6)
    columns = _numbers(b, extent(b, attention.key, 2))
    seen = []
    if count is not None:
        count = b.op("Unsqueeze", count, b.ints([1, 2, 3]))
        seen.append(b.op("Less", columns, count))
    if max(left, right) >= 0:
        rows = b.op("Unsqueeze", _numbers(b, extent(b, attention.query, 2)), b.ints([1]))
        place = b.op("Add", rows, _offset(attention, b))
        if right >= 0:
            seen.append(b.op("LessOrEqual", columns, b.op("Add", place, b.constant(right))))
        if left >= 0:
            seen.append(b.op("GreaterOrEqual", columns, b.op("Sub", place, b.constant(left))))
    visible = None
    for condition in seen:
        visible = condition if visible is None else b.op("And", visible, condition)
    return visible


def _offset(attention: _Attention, b: Builder) -> ir.Value:
    """How many keys are before the first query's own."""
    past, count = attention.optional(4), attention.optional(6)
    if past is not None:
        return listed(b, [extent(b, past, 2)])
    if count is not None:
        return b.op("Sub", b.op("Unsqueeze", count, b.ints([1, 2, 3])), listed(b, [extent(b, attention.query, 2)]))
    return b.ints([0])


def _may_mask_all(attention: _Attention) -> bool:
    """Whether a query may see no key at all; by causality alone it sees the first."""
    return any(attention.optional(position) is not None for position in (3, 6)) or any(
        int_attribute(attention.node, f"{side}_window_size", -1) >= 0 for side in ("left", "right")
    )


def _alive(b: Builder, bias: ir.Value, like: ir.Value) -> ir.Value:
    """1 where a query sees a key, else 0."""
    largest = b.op("ReduceMax", bias, b.ints([-1]), keepdims=1)
    return b.op("Cast", b.op("Greater", largest, b.number(_NO_KEY, bias)), to=data_type(like))


def _numbers(b: Builder, count: Size) -> ir.Value:
    """The integers from 0 on."""
    if isinstance(count, int):
        return b.ints(range(count))
    return b.op("Range", b.constant(0), b.op("Squeeze", count), b.constant(1))


def _shape(value: ir.Value) -> Sequence[Dimension]:
    assert value.shape is not None, f"{value.name} has no rank"
    return list(value.shape)


def _shaped(value: ir.Value, shape: Sequence[Dimension]) -> ir.Value:
    """The value itself, with a shape that ONNX's inference would not find in full."""
    value.shape = ir.Shape(shape)
    return value
