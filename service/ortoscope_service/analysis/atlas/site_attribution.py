"""How much single sites of a tap speak for each class: the attribution of Carter et al. 2019, all classes in one run.

The attribution of class c to the activation h at a site is h times d logit_c by d h: the derivative of the logits along
the map that holds h at the site and zero elsewhere (Olah et al. 2018). A tangent graph gives it for all classes at
once. Max pooling is relaxed, as in the article: its derivative is that of average pooling, since which of several sites
was the largest is an accident that says little of what they hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.activations import run_taps, units_first
from ortoscope_service.analysis.attribution import tangent_graph
from ortoscope_service.analysis.classes import find_classes
from ortoscope_service.analysis.execution import ExecutionConfig, kept_session
from ortoscope_service.analysis.gradients import Target
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import TANGENT, Relaxations, tangent_name
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import Session

Array = NDArray[Any]

RELAXATIONS = ("averaged_max_pool",)
"""What the article departs from the true derivative by."""

_NONE_TO_HAVE = frozenset({"NO_CLASSES", "NO_HEAD"})
"""Why a model has no attribution at a tap, which is no mistake."""


@dataclass(frozen=True)
class SiteAttribution:
    """Attributes the scores of all classes to single sites of a tap; `SiteAttribution.of` makes one."""

    tap: Tap
    """The tap."""

    session: Session
    """The tangent graph from the tap to the scores."""

    derivative: str
    """Its output that holds the derivatives of the scores."""

    classes_axis: int
    """The axis of the scores along which the classes lie."""

    labels: tuple[str, ...]
    """Name of every class by its index; empty if they are not known."""

    batch_size: int
    """How many sites are attributed to in one run."""

    fixed_batch: int
    """The batch size that the model is bound to; 0 if any can be run."""

    @classmethod
    def of(
        cls,
        version: ModelVersion,
        tap: Tap,
        execution: ExecutionConfig,
        relaxations: tuple[str, ...] = RELAXATIONS,
    ) -> "SiteAttribution | None":
        """That of a model's classes to a tap.

        Args:
            version: The model.
            tap: The tap.
            execution: How the model is run.
            relaxations: Names of departures from the true derivative.

        Returns:
            None if the model has no classes, or their scores are not computed from the tap.

        Raises:
            OrtoscopeError: As `tangent_graph` raises, such as `UNSUPPORTED_GRADIENT`; `UNKNOWN_RELAXATION`,
                `CONFLICTING_RELAXATIONS`, `RELAXATION_NOT_LINEAR`.
        """
        chosen = Relaxations.parse(relaxations)
        chosen.require_linear()
        try:
            classes = find_classes(version)
            target = Target.of_classes(classes, probability=False)
            session = kept_session(
                ("tangent", version.manifest.digest, *target.key, tap.tensor, chosen),
                lambda: tangent_graph(version, target, tap, chosen),
                execution,
            )
        except OrtoscopeError as error:
            if error.reason in _NONE_TO_HAVE:
                return None
            raise
        derivative = tangent_name(target.tap.tensor)
        fixed = version.manifest.fixed_batch
        return cls(tap, session, derivative, classes.axis, classes.labels, execution.batch_size, fixed)

    def attribute(
        self,
        activation: Array,
        item: NDArray[np.int64],
        site: NDArray[np.int32],
        feeds: Mapping[str, Array],
        cancellation: Cancellation | None = None,
    ) -> Array:
        """The attributions of all classes to chosen sites.

        Args:
            activation: The tap's value in its own layout, items first.
            item: (n,) int64: the item of each site.
            site: (n, site axes) int32.
            feeds: The inputs of the model, of which those are used that reach the scores past the tap.
            cancellation: Stops the runs.

        Returns:
            (n, classes), in the scores' type.

        Raises:
            OrtoscopeError: As `Session.run` raises.
        """
        tap = self.tap
        if not len(item):
            # One run tells how many classes there are.
            return self.attribute(activation, np.zeros(1, np.int64), np.zeros((1, site.shape[1]), np.int32), feeds)[:0]
        past = [info.name for info in self.session.inputs if info.name not in (TANGENT, tap.tensor)]
        found = []
        for start in range(0, len(item), self.batch_size):
            which, where = item[start : start + self.batch_size], site[start : start + self.batch_size]
            value = activation[which]
            tangent = np.zeros_like(value)
            index = (np.arange(len(which)), slice(None), *where.T)
            units_first(tangent, tap)[index] = units_first(value, tap)[index]
            given = {TANGENT: tangent, tap.tensor: value, **{name: feeds[name][which] for name in past}}
            derivative = run_taps(self.session, given, self.fixed_batch, cancellation, keep_memory=True)[
                self.derivative
            ]
            by_class = np.moveaxis(derivative, self.classes_axis, 1)
            found.append(by_class.reshape(len(which), by_class.shape[1]))
        return np.concatenate(found)
