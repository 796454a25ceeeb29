"""Matrix products."""

import itertools
import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.elementwise import affine
from ortoscope_service.graph.backward.sizes import extent, listed
from ortoscope_service.graph.constants import float_attribute, int_attribute, string_attribute


@rule("Gemm")
def gemm(call: Call) -> Gradients:
    """By a it is alpha g bᵀ, by b alpha aᵀ g, transposed as the operand is; c gets beta g, summed to its shape."""
    b, g, alpha = call.b, call.g, float_attribute(call.node, "alpha")
    left, right = call.x, call.input(1)
    left_turned, right_turned = (int_attribute(call.node, name, 0) for name in ("transA", "transB"))
    gradients: dict[int, ir.Value] = {}
    if 0 in call.wanted:
        operands = (right, g, right_turned, 1) if left_turned else (g, right, 0, 1 - right_turned)
        gradients[0] = _product(b, *operands, alpha)
    if 1 in call.wanted:
        operands = (g, left, 1, left_turned) if right_turned else (left, g, 1 - left_turned, 0)
        gradients[1] = _product(b, *operands, alpha)
    if 2 in call.wanted:
        beta = float_attribute(call.node, "beta")
        gradients[2] = affine(b, b.sum_to(g, call.input(2), source=call.y), 1.0 if beta is None else beta)
    return gradients


def _product(
    b: Builder, left: ir.Value, right: ir.Value, left_turned: int, right_turned: int, alpha: float | None = None
) -> ir.Value:
    """The product of two matrices, either of them transposed on the way, which costs nothing."""
    return b.op("Gemm", left, right, transA=left_turned or None, transB=right_turned or None, alpha=alpha)


@rule("MatMul")
def mat_mul(call: Call) -> Gradients:
    """By a it is g bᵀ, by b it is aᵀ g, each summed over the batch axes that were broadcast; vectors are matrices."""
    b = call.b
    left, right, g = _as_matrices(call)
    gradients: dict[int, ir.Value] = {}
    if 0 in call.wanted:
        gradients[0] = _by_left(b, left, right, g)
    if 1 in call.wanted:
        gradients[1] = _by_right(b, left, right, g)
    return {position: b.reshape_like(gradient, call.input(position)) for position, gradient in gradients.items()}


def _as_matrices(call: Call) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Operands and cotangent with the axes of extent 1 that `MatMul` lends to vectors."""
    b, left, right, g = call.b, call.x, call.input(1), call.g
    if rank(right) == 1:
        right, g = _unsqueezed(b, right, 1), _unsqueezed(b, g, rank(g))
    if rank(left) == 1:
        left, g = _unsqueezed(b, left, 0), _unsqueezed(b, g, rank(g) - 1)
    return left, right, g


def _by_left(b: Builder, left: ir.Value, right: ir.Value, g: ir.Value) -> ir.Value:
    if rank(left) == rank(right) == 2:
        product = _product(b, g, right, 0, 1)
        product.shape = left.shape
        return product
    product = b.op("MatMul", g, _turned(b, right))
    _set_shape(product, g, left)
    return b.sum_to(product, left)


def _by_right(b: Builder, left: ir.Value, right: ir.Value, g: ir.Value) -> ir.Value:
    if rank(right) == 2:
        # One product of tall matrices adds up over the batch, which many small ones and a sum would do slowly.
        product = _product(b, _rows(b, left), _rows(b, g), 1, 0)
        product.shape = right.shape
        return product
    product = b.op("MatMul", _turned(b, left), g)
    _set_shape(product, g, right)
    return b.sum_to(product, right)


def _set_shape(product: ir.Value, batch: ir.Value, matrix: ir.Value) -> None:
    """Describes matrices like those of one value in the batch of another."""
    assert batch.shape is not None
    assert matrix.shape is not None
    product.shape = ir.Shape([*batch.shape[:-2], *matrix.shape[-2:]])


def _unsqueezed(b: Builder, value: ir.Value, axis: int) -> ir.Value:
    """A value with an axis of extent 1 more."""
    more = b.op("Unsqueeze", value, b.ints([axis]))
    assert value.shape is not None
    more.shape = ir.Shape([*value.shape[:axis], 1, *value.shape[axis:]])
    return more


def _rows(b: Builder, value: ir.Value) -> ir.Value:
    """All rows of a batch of matrices as one matrix."""
    return value if rank(value) == 2 else b.op("Flatten", value, axis=rank(value) - 1)


def _turned(b: Builder, value: ir.Value) -> ir.Value:
    """Every matrix transposed."""
    axes = list(range(rank(value)))
    return b.op("Transpose", value, perm=[*axes[:-2], axes[-1], axes[-2]])


@rule("Einsum")
def einsum(call: Call) -> Gradients:
    """Every operand gets the sum of products of the cotangent and the other operands over the letters it lacks.

    A letter that stands only in the operand's own term is repeated; one that it has twice is spread on the diagonal.
    """
    operands = [call.input(position) for position in range(len(call.node.inputs))]
    terms, result = _terms(call, operands)
    extents = _extents_of_letters([*terms, result], [*operands, call.y])
    for letter, size in zip(result, call.y.shape or (), strict=True):
        if size == 1 and extents[letter] != 1:
            raise call.refuse(f"with the letter {letter!r} for axes of different extents")
    gradients = {}
    for position in sorted(call.wanted):
        gradient = _by_operand(call, operands, [*terms, result], position)
        gradient.shape = ir.Shape([extents[letter] for letter in terms[position]])
        gradients[position] = call.b.sum_to(gradient, operands[position])
    return gradients


def _by_operand(call: Call, operands: Sequence[ir.Value], terms: Sequence[str], position: int) -> ir.Value:
    """What one operand gets; the last of the terms is the result's."""
    b, operand, own = call.b, operands[position], ""
    factors = [call.g, *operands[:position], *operands[position + 1 :]]
    given = [terms[-1], *terms[:position], *terms[position + 1 : -1]]
    unused = _unused_letters(terms)
    for axis, letter in enumerate(terms[position]):
        if letter in own:
            own += next(unused)
            given.append(letter + own[-1])
            factors.append(_identity(b, operand, axis))
            continue
        own += letter
        if not any(letter in term for term in given):
            given.append(letter)
            factors.append(b.op("Expand", b.number(1, operand), listed(b, [extent(b, operand, axis)])))
    return b.op("Einsum", *factors, equation=f"{','.join(given)}->{own}")


def _terms(call: Call, operands: Sequence[ir.Value]) -> tuple[list[str], str]:
    """The equation's terms and its result, an ellipsis replaced by letters, of which the last are common to all."""
    equation = string_attribute(call.node, "equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    hidden = [
        rank(operand) - len(term.replace("...", "")) if "..." in term else 0
        for term, operand in zip(terms, operands, strict=True)
    ]
    letters = "".join(itertools.islice(_unused_letters([equation]), max(hidden)))
    if not arrow:
        counts = Counter(left.replace(",", "").replace(".", ""))
        result = "..." + "".join(sorted(letter for letter, count in counts.items() if count == 1))
    named = [term.replace("...", letters[len(letters) - count :]) for term, count in zip(terms, hidden, strict=True)]
    return named, result.replace("...", letters)


def _unused_letters(terms: Sequence[str]) -> Iterator[str]:
    return (letter for letter in string.ascii_letters if not any(letter in term for term in terms))


def _extents_of_letters(terms: Sequence[str], values: Sequence[ir.Value]) -> Mapping[str, int | str | None]:
    """What is known of the extent of each letter; operands may have extent 1 instead."""
    found: dict[str, set[int | str | None]] = defaultdict(set)
    for term, value in zip(terms, values, strict=True):
        assert value.shape is not None
        for letter, size in zip(term, value.shape, strict=True):
            found[letter].add(size if isinstance(size, int) else size.value)
    longer = {letter: sizes - {1} or {1} for letter, sizes in found.items()}
    return {letter: sizes.pop() if len(sizes) == 1 else None for letter, sizes in longer.items()}


def _identity(b: Builder, operand: ir.Value, axis: int) -> ir.Value:
    """The identity matrix with the extent of an axis."""
    size = extent(b, operand, axis)
    if isinstance(size, int):
        return b.constant(np.eye(size), data_type(operand))
    return b.op("EyeLike", b.op("Expand", b.number(0, operand), listed(b, [size, size])))
