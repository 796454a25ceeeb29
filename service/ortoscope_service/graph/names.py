"""Names that people can use for the tensors of a graph, from what exporters leave behind.

torch.export (dynamo) writes each node's module path into its metadata (`pkg.torch.onnx.name_scopes`), TorchScript into
the names of tensors (`/features/0/Conv_output_0`), tf2onnx keeps TensorFlow's (`model/conv/Conv2D:0`).
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"
_TORCHSCRIPT = re.compile(r"^/(?P<path>.+/)?(?P<leaf>[^/]+?)_output_(?P<index>\d+)$")
_TENSORFLOW = re.compile(r"^(?P<path>.+):\d+$")
_MEANINGLESS = re.compile(
    r"^(?:%?\d+|[A-Za-z]_?\d+|onnx::\w+|(?:val|var|tmp|tensor|node|out|output|value|result)_?\d*)$"
)


@dataclass(frozen=True)
class Names:
    """Names of one tensor. Within a model, no name stands for two tensors."""

    display: str
    """The name to show."""

    aliases: tuple[str, ...]
    """Further names, without the display name and the tensor's own."""


@dataclass(frozen=True)
class _Scope:
    """Where in the exporter's module tree a tensor was made."""

    modules: tuple[str, ...]
    """Full paths of the modules around it, outermost first: ("_blocks.0", "_blocks.0._bn2")."""

    leaf: str
    """Name of the operation within the innermost module; empty if unknown."""


def name_tensors(values: Sequence[ir.Value], graph: ir.Graph) -> Mapping[ir.Value, Names]:
    """Names for some tensors of a graph.

    A module's path stands for the last tensor that leaves the module. If the module was called several times (or
    returns several tensors computed apart from each other), its path stands for the last and `path:1`, `path:2`, …
    for each in order. A tensor inside a module is `path.operation`. Names that mean nothing (numbers, `r4`) give way
    to the operator and its count in topological order, `relu_12`; others stay as they are.

    Args:
        values: The tensors to name, in topological order.
        graph: Their graph.

    Returns:
        Names of each of `values`. Where two tensors would share a name, the first candidate gets it and the other
        shows another of its names, in the end its tensor name.
    """
    scopes = {value: scope for value in values if (scope := _scope(value)) is not None}
    module_names = _module_names(values, scopes)
    counted = _operator_counts(graph)
    taken: dict[str, ir.Value] = {name: value for value in graph_values(graph) if (name := value.name)}
    candidates: dict[ir.Value, list[str]] = {}
    for value in values:
        own = [*module_names.get(value, ()), *_own_names(value, scopes.get(value))]
        if not own and _MEANINGLESS.match(value.name or ""):
            own = [counted[value]]
        candidates[value] = list(dict.fromkeys(own))
    granted: dict[ir.Value, list[str]] = {value: [] for value in values}
    for value in values:
        for name in candidates[value]:
            if taken.setdefault(name, value) is value:
                granted[value].append(name)
    return {value: _as_names(value, granted[value]) for value in values}


def graph_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values of the main graph: inputs, initializers, then outputs of nodes in order."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _as_names(value: ir.Value, granted: Sequence[str]) -> Names:
    display = granted[0] if granted else value.name or ""
    return Names(display, tuple(name for name in granted[1:] if name != value.name))


def _scope(value: ir.Value) -> _Scope | None:
    node = value.producer()
    assert node is not None
    if _SCOPES in node.metadata_props:
        return _dynamo_scope(node.metadata_props[_SCOPES])
    name = value.name or ""
    if match := _TORCHSCRIPT.match(name):
        suffix = "" if match["index"] == "0" else f"_{match['index']}"
        return _Scope(_joined_paths((match["path"] or "").split("/")), match["leaf"] + suffix)
    return None


def _dynamo_scope(text: str) -> _Scope | None:
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(scopes, list) or not scopes or not all(isinstance(scope, str) for scope in scopes):
        return None
    return _Scope(tuple(dict.fromkeys(scope for scope in scopes[:-1] if scope)), scopes[-1])


def _joined_paths(components: Iterable[str]) -> tuple[str, ...]:
    """Full module paths from TorchScript's components, where a container's child repeats its name: layer1/layer1.0."""
    paths: list[str] = []
    parent = ""
    for component in components:
        if not component:
            continue
        if paths and component.startswith(parent + "."):
            paths.append(paths[-1] + component.removeprefix(parent))
        else:
            paths.append(f"{paths[-1]}.{component}" if paths else component)
        parent = component
    return tuple(paths)


def _own_names(value: ir.Value, scope: _Scope | None) -> Iterator[str]:
    """Names of the tensor itself, best first."""
    if scope is not None and scope.leaf:
        yield ".".join([*scope.modules[-1:], scope.leaf])
    elif scope is None and (match := _TENSORFLOW.match(value.name or "")):
        yield match["path"]


def _module_names(values: Sequence[ir.Value], scopes: Mapping[ir.Value, _Scope]) -> Mapping[ir.Value, list[str]]:
    """Module paths for the tensors that leave modules, outermost module first.

    Only a sequence at the top gives way to its last member, so that a listing reads layer1.0, layer1.1, layer2.0.
    """
    members: dict[str, list[ir.Value]] = defaultdict(list)
    for value in values:
        if value in scopes:
            for module in scopes[value].modules:
                members[module].append(value)
    names: dict[ir.Value, list[str]] = defaultdict(list)
    for module in sorted(members, key=lambda path: (path.count("."), path)):
        last_of_calls = _last_of_calls(members[module])
        if len(last_of_calls) > 1:
            for call, value in enumerate(last_of_calls, start=1):
                names[value].append(f"{module}:{call}")
        names[last_of_calls[-1]].append(module)
    for paths in names.values():
        if len(paths) > 1 and "." not in paths[0] and re.fullmatch(re.escape(paths[0]) + r"\.\d+", paths[1]):
            paths[:2] = paths[1], paths[0]
    return names


def _last_of_calls(members: Sequence[ir.Value]) -> list[ir.Value]:
    """The last tensor of each connected part of a module's tensors, in order.

    A module's second call does not take a tensor of its first one, except through other modules.
    """
    part_of: dict[ir.Value, int] = {}
    last: dict[int, ir.Value] = {}
    for number, value in enumerate(members):
        node = value.producer()
        assert node is not None
        joined = {part_of[used] for used in node.inputs if used is not None and used in part_of}
        joined |= {part_of[sibling] for sibling in node.outputs if sibling in part_of}
        for other, part in part_of.items():
            if part in joined:
                part_of[other] = number
        for part in joined:
            del last[part]
        part_of[value] = number
        last[number] = value
    return [last[number] for number in sorted(last)]


def _operator_counts(graph: ir.Graph) -> Mapping[ir.Value, str]:
    """Operator and how many of its kind came before, `relu_12`; further outputs of a node are `split_0_1` and so on."""
    counts: Counter[str] = Counter()
    names: dict[ir.Value, str] = {}
    for node in graph:
        operator = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.op_type).lower()
        for index, output in enumerate(node.outputs):
            names[output] = f"{operator}_{counts[operator]}" + (f"_{index}" if index else "")
        counts[operator] += 1
    return names
