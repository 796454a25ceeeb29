"""Relaxations: deliberate departures from the true gradient, chosen by name and recorded in the graph."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from ortoscope_service.errors import invalid
from ortoscope_service.graph.backward.registry import Rule, rule_for
from ortoscope_service.graph.backward.rules import relaxed

_RULES: Mapping[str, Mapping[str, Rule]] = {
    "redirected_relu": relaxed.REDIRECTED_RELU,
    "guided": relaxed.GUIDED,
    "deconvolution": relaxed.DECONVOLUTION,
    "averaged_max_pool": relaxed.AVERAGED_MAX_POOL,
    "l2_max_pool": relaxed.L2_MAX_POOL,
}
RELAXATIONS = tuple(_RULES)
"""All names."""

_NOT_LINEAR = frozenset({"redirected_relu", "guided", "deconvolution"})
"""Relaxations whose gradient depends on the cotangent's sign."""


@dataclass(frozen=True)
class Relaxations:
    """A choice of relaxations; `Relaxations.parse` makes one."""

    names: tuple[str, ...] = ()
    """Names in the order of `RELAXATIONS`."""

    @classmethod
    def parse(cls, names: Iterable[str], *, field: str = "relaxations") -> "Relaxations":
        """Checks names.

        Raises:
            OrtoscopeError: `UNKNOWN_RELAXATION`; `CONFLICTING_RELAXATIONS`: two for the same operator.
        """
        chosen = set(names)
        unknown = sorted(chosen - set(RELAXATIONS))
        if unknown:
            raise invalid(
                "UNKNOWN_RELAXATION",
                f"There is no relaxation {unknown[0]!r}; there are {', '.join(RELAXATIONS)}.",
                field=field,
                relaxation=unknown[0],
            )
        of_operator: dict[str, str] = {}
        for name in RELAXATIONS:
            if name not in chosen:
                continue
            for operator in _RULES[name]:
                if operator in of_operator:
                    raise invalid(
                        "CONFLICTING_RELAXATIONS",
                        f"The relaxations {of_operator[operator]!r} and {name!r} both change the gradient of "
                        f"{operator}; choose one.",
                        field=field,
                        relaxations=f"{of_operator[operator]}, {name}",
                    )
                of_operator[operator] = name
        return cls(tuple(name for name in RELAXATIONS if name in chosen))

    def rule_for(self, node: ir.Node) -> Rule | None:
        """The rule of a node's operator under these relaxations."""
        if not node.domain and node.op_type in self._overrides:
            return self._overrides[node.op_type]
        return rule_for(node)

    @property
    def early_gates(self) -> bool:
        """Whether all activation functions keep their own rules."""
        return not _NOT_LINEAR.intersection(self.names)

    def require_linear(self) -> None:
        """Refuses relaxations that have no transpose.

        Raises:
            OrtoscopeError: `RELAXATION_NOT_LINEAR`.
        """
        for name in self.names:
            if name in _NOT_LINEAR:
                raise invalid(
                    "RELAXATION_NOT_LINEAR",
                    f"The relaxation {name!r} looks at the sign of what comes back from the tap, so that it has no "
                    "forward direction; it works for backward graphs alone.",
                    relaxation=name,
                )

    @cached_property
    def _overrides(self) -> dict[str, Rule]:
        return {operator: rule for name in self.names for operator, rule in _RULES[name].items()}


NO_RELAXATIONS = Relaxations()
