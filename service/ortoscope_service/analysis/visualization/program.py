"""One step of a visualization as one graph: parameters → picture → transforms → model → objective, and its gradient.

Two graphs belong to a visualization. The *step* graph is differentiated; the *clean* graph shows the model the picture
as it is, and gives the picture and its objective. Sessions are kept by the structure of what they compute: another
unit, direction or draw is another feed.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ortoscope_service.analysis.classes import Classes
from ortoscope_service.analysis.visualization import objectives
from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.model_input import ModelInput
from ortoscope_service.analysis.visualization.objectives import Canvas, Objective, Picture, Setting
from ortoscope_service.analysis.visualization.parameterizations.alpha import BACKGROUND, AlphaBlend
from ortoscope_service.analysis.visualization.parameterizations.base import Parameterization, Parameters
from ortoscope_service.analysis.visualization.resampling import Size
from ortoscope_service.analysis.visualization.transforms import Chain, Transforms
from ortoscope_service.analysis.visualization.turning import move_back
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.backward import (
    ACTIVATION,
    COTANGENT,
    NO_RELAXATIONS,
    Relaxations,
    build_backward,
    gradient_name,
)
from ortoscope_service.graph.loading import serialize
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.caching import Cache, Made
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.parity import open_session
from ortoscope_service.runtime.sessions import Session, SessionConfig

Array = NDArray[Any]

OBJECTIVE = "objective"
"""The output that holds the objective of each item; the names of what it is fed begin with it."""

PICTURE = "picture"
"""The output of the clean graph that holds the pictures."""

REDIRECTED = Relaxations.parse(["redirected_relu"])
"""Lets a gradient through where a sample has none: a start for units that nothing excites yet."""

_GRAY = 0.5
_SESSION_BYTES = 512 * 1024**2
_SESSIONS: Cache[Session] = Cache(_SESSION_BYTES)


def release_sessions() -> None:
    """Forgets the sessions that are kept, and with them their working memory."""
    _SESSIONS.clear()


@dataclass(frozen=True)
class Program:
    """What is optimised, shown to which model, and what is wanted of it; for any number of items side by side.

    Raises:
        OrtoscopeError: As `ModelInput.of` and `Chain.check` raise; `CHANNELS_MISMATCH`; `NOT_A_PICTURE`: transforms of
            what is no picture; `MIXED_OBJECTIVES`: objectives that do not share a graph; `COUPLED_VIEWS`: an objective
            over the batch with several views of each item; `VIEWS_NOT_SUPPORTED` and `SIZE_NOT_SUPPORTED`
            (FAILED_PRECONDITION): the model is bound to a batch, or does not run at the size asked for.
    """

    version: ModelVersion
    """The model."""

    parameterization: Parameterization
    """What makes pictures, or vectors, of parameters."""

    objectives: tuple[Objective, ...]
    """What is maximised: one for all items, or one for each, all of one structure."""

    chain: Chain = field(default_factory=Chain)
    """The transforms."""

    view: Size | None = None
    """Size of what the model is shown; by default that of the transformed picture where the model runs at it, else the
    size that the model states. Crops are zoomed to the latter."""

    classes: Classes | None = None
    """The classes of the model, for objectives that name one."""

    session: SessionConfig = field(default_factory=SessionConfig)
    """How graphs are run."""

    def __post_init__(self) -> None:
        self._check_objectives()
        self._check_views()
        _ = self.transforms, self.clean_transforms

    @property
    def objective(self) -> Objective:
        """The one that stands for all: it has their structure."""
        return self.objectives[0]

    @property
    def couples_batch(self) -> bool:
        """Whether items depend on each other."""
        return self.objective.couples_batch or self.parameterization.couples_batch

    @property
    def is_picture(self) -> bool:
        """Whether what is optimised is a picture."""
        return len(self.parameterization.shape) == _PICTURE_AXES

    @cached_property
    def model_input(self) -> ModelInput:
        """The part of the model that is needed."""
        setting = Setting(self.version.manifest.taps, self.item_shape, 1, self.classes, self._blend is not None)
        found = ModelInput.of(self.version, objectives.taps(self.objective, setting))
        if self.is_picture:
            found.require_channels(self.item_shape[0])
        return found

    @cached_property
    def transforms(self) -> Transforms | None:
        """The transforms at this size; None for what is no picture."""
        if not self.is_picture:
            return None
        asked = Transforms(self.chain, self._image, self.view)
        if self.view is None and self.chain.crops and self.model_input.size is not None:
            return replace(asked, view=self.model_input.size)
        return self._fitting(asked)

    @cached_property
    def clean_transforms(self) -> Transforms | None:
        """No transforms, at the picture's own size where the model runs at that."""
        return self._fitting(Transforms(Chain(), self._image)) if self.is_picture else None

    @property
    def item_shape(self) -> tuple[int, ...]:
        """The shape of one item without its opacity."""
        first, *rest = self.parameterization.shape
        return (first - 1 if self._blend is not None else first, *rest)

    @property
    def fixed_batch(self) -> int:
        """The number of items that a run must have; 0 if it may have any."""
        return self.version.manifest.fixed_batch

    @property
    def structure(self) -> Hashable:
        """What decides the nodes of the step graph."""
        return (
            self.version.manifest.digest,
            self.parameterization.structure,
            self.objective.structure,
            self.model_input.tensors,
            self.transforms.structure if self.transforms is not None else None,
        )

    def check(self, batch: int) -> None:
        """Refuses what does not fit together, before any work.

        Raises:
            OrtoscopeError: As `objectives.check` raises; `BATCH_NOT_SUPPORTED` (FAILED_PRECONDITION): the model is
                bound to another batch; `ITEMS_MISMATCH`: there are neither one nor as many objectives as items.
        """
        if self.fixed_batch not in {0, batch}:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "BATCH_NOT_SUPPORTED",
                f"The model only runs on batches of {self.fixed_batch}, not of {batch}; give it as many items.",
                metadata={"batch": str(batch), "fixed_batch": str(self.fixed_batch)},
            )
        if len(self.objectives) not in {1, batch}:
            raise invalid(
                "ITEMS_MISMATCH",
                f"There are {len(self.objectives)} objectives for {batch} items; give one for all, or one for each.",
                field=OBJECTIVE,
                objectives=len(self.objectives),
                items=batch,
            )
        for transforms in (self.transforms, self.clean_transforms):
            alone = len(self.objectives) > 1
            for number, objective in enumerate(self.objectives):
                setting = self.setting(1 if alone else batch, transforms)
                objectives.check(objective, setting, field=f"{OBJECTIVE}[{number}]" if alone else OBJECTIVE)

    def setting(self, batch: int, transforms: Transforms | None) -> Setting:
        """What objectives are told."""
        item = self.item_shape if transforms is None else self.model_input.shape_of(transforms.size)
        shapes = self.model_input.tap_shapes(item) or {}
        taps, alpha = self.version.manifest.taps, self._blend is not None
        return Setting(taps, self.item_shape, batch, self.classes, alpha, shapes)

    def forward(self, transforms: Transforms | None, *, picture: bool) -> ir.Model:
        """The graph from parameters to the objective, and with `picture` to the pictures as well."""
        g = GraphWriter()
        made = self.parameterization.build(g)
        made.shape = ir.Shape([BATCH, *self.parameterization.shape])
        colours, parts = made, {Picture.IMAGE: made}
        if self._blend is not None:
            channels = self.item_shape[0]
            parts = {
                Picture.IMAGE: g.slice(made, 1, 0, channels),
                Picture.ALPHA: g.slice(made, 1, channels, channels + 1),
            }
            colours = self._blend.build(g, made)
        items: int | str = BATCH
        views = 1
        seen = colours
        if transforms is not None:
            items, views = transforms.items, transforms.chain.views
            seen = transforms.build(g, colours, self.item_shape[0])
        values: dict[str | Picture, ir.Value] = {}
        shown = self.item_shape if transforms is None else (self.item_shape[0], *transforms.size)
        values.update(self.model_input.build(g, seen, self.fixed_batch or items, shown))
        for part, value in parts.items():
            planes = 1 if part is Picture.ALPHA else self.item_shape[0]
            values[part] = _for_views(g, value, (planes, *self.item_shape[1:]), views)
        with g.batch_named(str(items)):
            objective = self.objective.build(Canvas(g, self.setting(1, transforms), values), OBJECTIVE)
        if views > 1:
            objective = g.mean(g.reshape(objective, [-1, views]), [1])
        return g.model({OBJECTIVE: objective, **({PICTURE: made} if picture else {})})

    def backward(self, relaxations: Relaxations = NO_RELAXATIONS) -> ir.Model:
        """The step graph with its gradient by the parameters."""
        forward = self.forward(self.transforms, picture=False)
        names = list(self.parameterization.parameter_shapes)
        backward = build_backward(forward, OBJECTIVE, with_respect_to=names, relaxations=relaxations)
        move_back(backward, self.transforms, self.item_shape[0])
        return backward

    def feeds(self, batch: int, transforms: Transforms | None) -> dict[str, Array]:
        """What a graph is given besides the parameters, the same at every step.

        What belongs to the objective is repeated for each view.
        """
        setting = self.setting(batch, transforms)
        if len(self.objectives) > 1:
            feeds = objectives.packed_feeds(self.objectives, setting, name=OBJECTIVE)
        else:
            feeds = self.objective.feeds(setting, OBJECTIVE)
        views = transforms.chain.views if transforms is not None else 1
        if views > 1:
            feeds = {name: np.repeat(array, views, axis=0) for name, array in feeds.items()}
        return {**feeds, **self.parameterization.feeds(batch)}

    def draw(self, rngs: Sequence[np.random.Generator], progress: float) -> dict[str, Array]:
        """What the step graph is given at one step: the transforms of each item, and what lies behind its picture.

        Args:
            rngs: Where an item's draws come from.
            progress: From 0 at the first step to 1 at the last.
        """
        feeds: dict[str, Array] = {}
        if self.transforms is not None:
            feeds.update(self.transforms.feeds(rngs, progress, self.item_shape[0]))
        if self._blend is not None:
            feeds.update(self._blend.feeds(rngs))
        return feeds

    def run_step(
        self,
        batch: int,
        feeds: Mapping[str, Array],
        parameters: Parameters,
        relaxations: Relaxations = NO_RELAXATIONS,
        cancellation: Cancellation | None = None,
        *,
        keep_memory: bool = True,
    ) -> tuple[NDArray[np.float32], Parameters]:
        """The objective of each item with these transforms, and the gradient of their sum by each parameter."""
        session = self._session(("step", self.structure, relaxations.names), lambda: self.backward(relaxations))
        everything = {**feeds, **parameters, COTANGENT: np.ones(batch, np.float32)}
        given = {info.name: everything[info.name] for info in session.inputs}
        outputs = session.run(given, cancellation, keep_memory=keep_memory)
        return outputs[ACTIVATION], {name: outputs[gradient_name(name)] for name in parameters}

    def run_clean(
        self,
        batch: int,
        feeds: Mapping[str, Array],
        parameters: Parameters,
        cancellation: Cancellation | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The objective of each item as it is, on gray where it is not opaque, and what the parameters stand for.

        Args:
            batch: Items.
            feeds: Of the clean transforms, from `feeds`.
            parameters: Where to.
            cancellation: Stops the run.
        """
        size = self.clean_transforms.size if self.clean_transforms is not None else None
        session = self._session(
            ("clean", self.structure, size), lambda: self.forward(self.clean_transforms, picture=True)
        )
        everything = {**feeds, **parameters, BACKGROUND: np.full((batch, *self.item_shape), _GRAY, np.float32)}
        if self.clean_transforms is not None:
            everything.update(self.clean_transforms.feeds([_NOTHING_DRAWN] * batch, 0.0, self.item_shape[0]))
        outputs = session.run({info.name: everything[info.name] for info in session.inputs}, cancellation)
        return outputs[OBJECTIVE], outputs[PICTURE]

    @cached_property
    def _blend(self) -> AlphaBlend | None:
        """What lays a picture with opacity over another; None if it has none."""
        if not getattr(self.parameterization, "alpha", False):
            return None
        planes, height, width = self.parameterization.shape
        return AlphaBlend(height=height, width=width, channels=planes - 1)

    @property
    def _image(self) -> Size:
        _, height, width = self.parameterization.shape
        return height, width

    def _session(self, key: Hashable, build: Callable[[], ir.Model]) -> Session:
        def make() -> Made[Session]:
            graph = serialize(build())
            return Made(open_session(graph, self.session), len(graph))

        return _SESSIONS.get((key, self.session), make)

    def _fitting(self, asked: Transforms) -> Transforms:
        """The transforms with a view at which the model runs."""
        found = self.model_input
        if found.tap_shapes(found.shape_of(asked.size)) is not None:
            return asked
        if asked.view is None and found.size is not None:
            return replace(asked, view=found.size)
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "SIZE_NOT_SUPPORTED",
            f"The model cannot be shown pictures of {asked.size[0]} x {asked.size[1]}: its operators do not go "
            "together at that size. Leave the size out to show it what its file states.",
            field="view",
            metadata={"size": f"{asked.size[0]} x {asked.size[1]}"},
        )

    def _check_objectives(self) -> None:
        several = len(self.objectives) > 1
        if len({objective.structure for objective in self.objectives}) != 1 or (several and self.couples_batch):
            raise invalid(
                "MIXED_OBJECTIVES",
                f"The {len(self.objectives)} objectives of a batch must be of one structure, and none defined over the "
                "batch; optimise others in batches of their own.",
                field=OBJECTIVE,
                objectives=len(self.objectives),
            )

    def _check_views(self) -> None:
        views = self.chain.views
        if not self.is_picture and self.chain != Chain():
            raise invalid(
                "NOT_A_PICTURE",
                "What is optimised is no picture, so it cannot be transformed; leave the transforms out.",
                field="transforms",
            )
        if views > 1 and self.objective.couples_batch:
            raise invalid(
                "COUPLED_VIEWS",
                f"The objective is defined over the batch, which {views} views of each item would mix up; use one.",
                field="transforms.views",
                views=views,
            )
        if views > 1 and self.fixed_batch:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "VIEWS_NOT_SUPPORTED",
                f"The model only runs on batches of {self.fixed_batch}, so items cannot have {views} views; use one "
                "view, or prepare the model with a free batch.",
                field="transforms.views",
                metadata={"fixed_batch": str(self.fixed_batch), "views": str(views)},
            )


_PICTURE_AXES = 3
_NOTHING_DRAWN = np.random.default_rng(0)
"""For what has nothing random."""


def _for_views(g: GraphWriter, value: ir.Value, shape: Sequence[int], views: int) -> ir.Value:
    """Each item, of this shape, once for each of its views."""
    if views == 1:
        return value
    copies = g.op("Expand", [g.unsqueeze(value, [1]), g.constant([1, views, *(1 for _ in shape)])])
    return g.reshape(copies, [-1, *shape])
