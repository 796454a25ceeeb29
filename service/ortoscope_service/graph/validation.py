"""The rules of a model that `loading.load_model` enforces, one function each; all raise `OrtoscopeError`."""

import math
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from ortoscope_service.errors import invalid

MIN_OPSET, MAX_OPSET = 7, onnx.defs.onnx_opset_version()
"""Versions of the default operator set: from the oldest that ONNX Runtime runs to the newest that the installed onnx
knows. One that is too new for the installed ONNX Runtime is refused when a session is made."""

MIN_IR_VERSION, MAX_IR_VERSION = 3, int(onnx.IR_VERSION)
"""Versions of the file format; before 3 there were no operator set versions."""

_STANDARD_DOMAINS = frozenset({"", "ai.onnx.ml"})


def check_versions(proto: onnx.ModelProto) -> None:
    """`UNSUPPORTED_IR_VERSION`, `UNSUPPORTED_OPSET`."""
    if not MIN_IR_VERSION <= proto.ir_version <= MAX_IR_VERSION:
        raise invalid(
            "UNSUPPORTED_IR_VERSION",
            f"The file has IR version {proto.ir_version}; supported are {MIN_IR_VERSION} to {MAX_IR_VERSION}. "
            "Export it with another version of the exporter.",
            ir_version=proto.ir_version,
        )
    for opset in proto.opset_import:
        if opset.domain in {"", "ai.onnx"} and not MIN_OPSET <= opset.version <= MAX_OPSET:
            raise invalid(
                "UNSUPPORTED_OPSET",
                f"The model uses opset {opset.version}; supported are {MIN_OPSET} to {MAX_OPSET}. Export it with one "
                "of these, or convert it with onnx.version_converter.",
                opset=opset.version,
            )


def check_tensors(proto: onnx.ModelProto) -> None:
    """`INVALID_WEIGHTS`: a constant does not hold as many numbers as its shape says. `SPARSE_INITIALIZER`."""
    for graph in _graphs(proto.graph):
        if graph.sparse_initializer:
            raise invalid("SPARSE_INITIALIZER", "The model has sparse initializers; export it with dense weights.")
    for tensor in tensors(proto):
        if not _is_complete(tensor):
            raise invalid(
                "INVALID_WEIGHTS",
                f"The constant {tensor.name!r} does not hold the data that its shape {list(tensor.dims)} promises. "
                "The file is damaged; export it again.",
                tensor=tensor.name,
            )


def check_names(graph: onnx.GraphProto) -> None:
    """`DUPLICATE_TENSOR`, `UNDEFINED_TENSOR`, `MISSING_OUTPUT`, `DUPLICATE_OUTPUT`."""
    _check_scope(graph, frozenset())
    if not graph.output:
        raise invalid("MISSING_OUTPUT", "The model has no outputs; export it with at least one.")
    seen: set[str] = set()
    for output in graph.output:
        if output.name in seen:
            raise invalid(
                "DUPLICATE_OUTPUT",
                f"The model lists the output {output.name!r} twice; list it once.",
                output=output.name,
            )
        seen.add(output.name)


def check_operators(model: ir.Model) -> None:
    """`CUSTOM_OPERATOR`, `UNKNOWN_OPERATOR`: every node must be of the ONNX standard."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        where = {"domain": node.domain, "op": node.op_type, "node": node.name or ""}
        if node.domain not in _STANDARD_DOMAINS:
            raise invalid(
                "CUSTOM_OPERATOR",
                f"The node {node.name!r} is the custom operator {node.domain}::{node.op_type}, whose meaning the file "
                "does not define. Export the model with standard ONNX operators only.",
                **where,
            )
        opset = model.graph.opset_imports.get(node.domain)
        if opset is None or not _is_defined(node.op_type, opset, node.domain):
            raise invalid(
                "UNKNOWN_OPERATOR",
                f"The node {node.name!r} is of operator {node.op_type!r}, which does not exist in opset {opset} of "
                f"{node.domain or 'ai.onnx'}. Export the model again with an opset that has it.",
                opset=opset,
                **where,
            )


def sort(graph: ir.Graph) -> None:
    """Puts the nodes into topological order, in place; `CYCLE` if there is none."""
    position = {node: index for index, node in enumerate(ir.traversal.RecursiveGraphIterator(graph))}
    in_order = all(
        producer is None or position[producer] < position[node]
        for node in position
        for value in node.inputs
        if value is not None
        for producer in (value.producer(),)
    )
    if in_order:
        return
    try:
        graph.sort()
    except ValueError as error:
        raise invalid(
            "CYCLE", "The graph has a cycle: some tensor depends on itself. Export the model again."
        ) from error


def check_types(graph: ir.Graph) -> None:
    """`UNTYPED_INPUT`, `UNTYPED_OUTPUT`, `UNSUPPORTED_TYPE`: inputs and outputs must be dense tensors."""
    for role, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            if value.type is None or value.dtype in {None, ir.DataType.UNDEFINED}:
                raise invalid(
                    f"UNTYPED_{role.upper()}",
                    f"The data type of the {role} {value.name!r} is neither stated nor can it be inferred; state it.",
                    tensor=value.name,
                )
            if not isinstance(value.type, ir.TensorType):
                raise invalid(
                    "UNSUPPORTED_TYPE",
                    f"The {role} {value.name!r} is a sequence, map, optional or sparse tensor; inputs and outputs must "
                    "be dense tensors (a classifier of scikit-learn: export it with zipmap=False).",
                    tensor=value.name,
                )


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All constants of a model: initializers and attributes, in subgraphs and functions too."""
    for graph in _graphs(proto.graph):
        yield from graph.initializer
        for node in graph.node:
            yield from _attribute_tensors(node)
    for function in proto.functions:
        for node in function.node:
            yield from _attribute_tensors(node)
            for subgraph in _subgraphs(node):
                for graph in _graphs(subgraph):
                    yield from graph.initializer
                    for inner in graph.node:
                        yield from _attribute_tensors(inner)


def byte_count(tensor: onnx.TensorProto) -> int:
    """Bytes that the tensor's shape and type call for.

    Raises:
        ValueError: The type is unknown or has no fixed size, or an extent is negative.
    """
    if any(size < 0 for size in tensor.dims):
        raise ValueError("negative extent")
    return -(-math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth // 8)


def _is_complete(tensor: onnx.TensorProto) -> bool:
    if any(size < 0 for size in tensor.dims):
        return False
    count = math.prod(tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        return len(tensor.string_data) == count
    try:
        expected = byte_count(tensor)
    except (ValueError, TypeError):
        return False
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data) == expected
    if tensor.data_type in {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}:
        count *= 2
    if ir.DataType(tensor.data_type).bitwidth < 8:
        count = expected
    field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    return len(getattr(tensor, field)) == count


def _check_scope(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    """Every tensor is defined once and every use has a definition, in this graph or one around it."""
    inputs = [value.name for value in graph.input]
    produced = [name for node in graph.node for name in node.output if name]
    initialized = [tensor.name for tensor in graph.initializer if tensor.name not in set(inputs)]
    defined: set[str] = set()
    for name in (*inputs, *initialized, *produced):
        if name in defined:
            raise invalid(
                "DUPLICATE_TENSOR",
                f"Two nodes, inputs or constants of the model are called {name!r}; names of tensors must be unique.",
                tensor=name,
            )
        defined.add(name)
    visible = outer | defined
    for node in graph.node:
        for name in node.input:
            if name and name not in visible:
                raise invalid(
                    "UNDEFINED_TENSOR",
                    f"The {node.op_type} node {node.name!r} takes the tensor {name!r}, which nothing produces.",
                    tensor=name,
                    node=node.name,
                )
        for subgraph in _subgraphs(node):
            _check_scope(subgraph, visible)
    for output in graph.output:
        if output.name not in visible:
            raise invalid(
                "MISSING_OUTPUT",
                f"The output {output.name!r} is not a tensor of the model.",
                output=output.name,
            )


def _is_defined(operator: str, opset: int, domain: str) -> bool:
    try:
        return not onnx.defs.get_schema(operator, opset, domain).deprecated
    except onnx.defs.SchemaError:
        return False


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for subgraph in _subgraphs(node):
            yield from _graphs(subgraph)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
