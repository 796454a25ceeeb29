"""One step of a visualization as one graph: parameters → picture → transforms → model → objective, and its gradient.

Two graphs belong to a visualization. The *step* graph is differentiated; the *clean* graph shows the model the picture
as it is, and gives the picture and its objective. Sessions are kept by the structure of what they compute: another
unit, direction or draw is another feed.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ortoscope_service.analysis.classes import Classes
from ortoscope_service.analysis.visualization import objectives
from ortoscope_service.analysis.visualization.batching import Batching
from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.model_input import ModelInput
from ortoscope_service.analysis.visualization.objectives import Canvas, Objective, Picture, Setting
from ortoscope_service.analysis.visualization.parameterizations.alpha import BACKGROUND, AlphaBlend
from ortoscope_service.analysis.visualization.parameterizations.base import Parameterization, Parameters
from ortoscope_service.analysis.visualization.resampling import Size
from ortoscope_service.analysis.visualization.transforms import Chain, Transforms
from ortoscope_service.analysis.visualization.turning import move_back
from ortoscope_service.analysis.visualization.windows import add_windows
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.backward import (
    ACTIVATION,
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
from ortoscope_service.runtime.sessions import RunnableSession, Session, SessionConfig

Array = NDArray[Any]

OBJECTIVE = "objective"
"""The output that holds the objective of each item; the names of what it is fed begin with it."""

_MEAN = "mean."
"""How the outputs of the observing graph begin."""

PICTURE = "picture"
"""The output of the clean graph that holds the pictures."""

REDIRECTED = Relaxations.parse(["redirected_relu"])
"""Lets a gradient through where a sample has none: a start for units that nothing excites yet."""

_GRAY = 0.5

_PIXELS_OF_A_RUN = 2**21
"""Pixels of all views that a model is shown at once: 42 of 224 x 224. More are hardly faster, and take memory."""

_UNLIMITED = 2**31
_SESSION_BYTES = 512 * 1024**2
_SESSIONS: Cache[Session] = Cache(_SESSION_BYTES)


SessionOpener = Callable[[Hashable, Callable[[], bytes], Cancellation | None], RunnableSession]
"""Gives the session of a graph: by its key, that of equal graphs, and what makes the ONNX file where there is none yet.
The last argument ends the wait for it."""


def own_sessions(config: SessionConfig) -> SessionOpener:
    """Sessions in this process, of which those used last are kept."""

    def open_own(key: Hashable, make: Callable[[], bytes], cancellation: Cancellation | None) -> RunnableSession:
        def made() -> Made[Session]:
            graph = make()
            return Made(open_session(graph, config), len(graph))

        return _SESSIONS.get((key, config), made, cancellation=cancellation)

    return open_own


def release_sessions() -> None:
    """Forgets the sessions that are kept, and with them their working memory."""
    _SESSIONS.clear()


@dataclass(frozen=True)
class Program:
    """What is optimised, shown to which model, and what is wanted of it; for any number of items side by side.

    Raises:
        OrtoscopeError: As `ModelInput.of` and `Chain.check` raise; `CHANNELS_MISMATCH`; `NOT_A_PICTURE`: transforms of
            what is no picture; `MIXED_OBJECTIVES`: objectives that do not share a graph; `COUPLED_VIEWS`: an objective
            over the batch with several views of each item; `SIZE_NOT_SUPPORTED` (FAILED_PRECONDITION): the model does
            not run at the size asked for.
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

    open: SessionOpener | None = field(default=None, compare=False)
    """Where sessions come from; by default `own_sessions`."""

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
                bound to another batch, and items that depend on each other cannot be shown to it in several;
                `ITEMS_MISMATCH`: there are neither one nor as many objectives as items.
        """
        if self.couples_batch and self.fixed_batch not in {0, batch * self.chain.views}:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "BATCH_NOT_SUPPORTED",
                f"The model only runs on batches of {self.fixed_batch}, and these {batch} items depend on each other; "
                f"make it {self.fixed_batch} items of one view, or choose an objective and a parameterization without "
                "that.",
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
        made, parts, values = self._shown(g, transforms)
        items, views = (transforms.items, transforms.chain.views) if transforms is not None else (BATCH, 1)
        for part, value in parts.items():
            planes = 1 if part is Picture.ALPHA else self.item_shape[0]
            values[part] = _for_views(g, value, (planes, *self.item_shape[1:]), views)
        with g.batch_named(items):
            objective = self.objective.build(Canvas(g, self.setting(1, transforms), values), OBJECTIVE)
        if views > 1:
            objective = g.mean(g.reshape(objective, [-1, views]), [1])
        return g.model({OBJECTIVE: objective, **({PICTURE: made} if picture else {})})

    def observing(self) -> ir.Model:
        """The graph from parameters to the mean over sites of each tap that the objective reads, on clean pictures.

        Outputs are called as the tensors are, (items, units) each.
        """
        g = GraphWriter()
        _, _, values = self._shown(g, self.clean_transforms)
        canvas = Canvas(g, self.setting(1, self.clean_transforms), values)
        outputs = {}
        for tensor in self.model_input.tensors:
            value, tap = canvas.read(tensor, OBJECTIVE)
            outputs[tensor] = g.op("Identity", [canvas.site_means(value, tap)])
        return g.model({f"{_MEAN}{number}": value for number, value in enumerate(outputs.values())})

    def _shown(
        self, g: GraphWriter, transforms: Transforms | None
    ) -> tuple[ir.Value, dict[Picture, ir.Value], dict[str | Picture, ir.Value]]:
        """Appends all that lies before the objective: what the parameters stand for, its parts, and the taps."""
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
        seen, shown, missing = colours, self.item_shape, 0.0
        if transforms is not None:
            items, shown = transforms.items, (self.item_shape[0], *transforms.size)
            seen, missing = transforms.build_but_constant(g, colours, self.item_shape[0])
        values: dict[str | Picture, ir.Value] = {}
        values.update(self.model_input.build(g, seen, self.fixed_batch or items, shown, plus=missing))
        return made, parts, values

    def backward(self, relaxations: Relaxations = NO_RELAXATIONS) -> ir.Model:
        """The step graph with its gradient by the parameters."""
        transforms = self.graph_transforms
        forward = self.forward(transforms, picture=False)
        names = list(self.parameterization.parameter_shapes)
        backward = build_backward(forward, OBJECTIVE, with_respect_to=names, relaxations=relaxations)
        move_back(backward, transforms, self.item_shape[0])
        if transforms is not None and transforms.windowed:
            add_windows(backward, transforms.image[1], transforms.chain.views)
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
        session = self.open_graph(("step", relaxations.names), lambda: self.backward(relaxations), cancellation)
        names = [info.name for info in session.inputs]
        values = np.zeros(batch, np.float32)
        gradients = {name: np.zeros_like(tensor) for name, tensor in parameters.items()}
        for items, given in self.step_runs(names, batch, feeds, parameters):
            outputs = session.run(given, cancellation, keep_memory=keep_memory)
            if self._batching.in_one(batch):
                return outputs[ACTIVATION], {name: outputs[gradient_name(name)] for name in parameters}
            self._batching.gather(items, outputs[ACTIVATION], values)
            for name, gradient in gradients.items():
                self._batching.gather(items, outputs[gradient_name(name)], gradient)
        return values, gradients

    def step_runs(
        self, names: Sequence[str], batch: int, feeds: Mapping[str, Array], parameters: Parameters
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, Array]]]:
        """The feeds of each run that a step takes, as `Batching.runs` has it."""
        return self._batching.runs(names, batch, feeds, parameters)

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
        session = self.open_graph(
            ("clean", self._clean_size), lambda: self.forward(self.clean_transforms, picture=True), cancellation
        )
        found = self._run_clean(session, batch, {**feeds, **self._clean_feeds(batch)}, parameters, cancellation)
        return found[OBJECTIVE], found[PICTURE]

    def run_observing(
        self, batch: int, parameters: Parameters, cancellation: Cancellation | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """The mean over sites of each unit of the taps that the objective reads, (items, units), on clean pictures.

        Args:
            batch: Items.
            parameters: What the pictures are made of.
            cancellation: Stops the run.

        Returns:
            By tensor; empty if the objective reads none.
        """
        if not self.model_input.tensors:
            return {}
        session = self.open_graph(("observing", self._clean_size), self.observing, cancellation)
        feeds = {**self.parameterization.feeds(batch), **self._clean_feeds(batch)}
        found = self._run_clean(session, batch, feeds, parameters, cancellation)
        return {tensor: found[f"{_MEAN}{number}"] for number, tensor in enumerate(self.model_input.tensors)}

    def open_graph(
        self, key: Hashable, build: Callable[[], ir.Model], cancellation: Cancellation | None = None
    ) -> RunnableSession:
        """The session of a graph of this program; the key says which."""
        opener = self.open or own_sessions(self.session)
        return opener((key, self.structure), lambda: serialize(build()), cancellation)

    @cached_property
    def graph_transforms(self) -> Transforms | None:
        """The transforms in the step graph: where runs are of a fixed batch, every view is an item of its own."""
        if self.transforms is None or not self._batching.fixed:
            return self.transforms
        return replace(self.transforms, chain=replace(self.transforms.chain, views=1))

    @cached_property
    def _batching(self) -> Batching:
        return self._batching_of(self.transforms, self.chain.views)

    def _batching_of(self, transforms: Transforms | None, views: int) -> Batching:
        # Items that depend on each other go into one run, which `check` has seen to fit.
        pixels = math.prod(transforms.size) if transforms is not None else 1
        most = _UNLIMITED if self.couples_batch else max(1, _PIXELS_OF_A_RUN // (pixels * views))
        return Batching(0 if self.couples_batch else self.fixed_batch, most, views, OBJECTIVE)

    @property
    def _clean_size(self) -> Size | None:
        return self.clean_transforms.size if self.clean_transforms is not None else None

    def _clean_feeds(self, batch: int) -> dict[str, Array]:
        feeds: dict[str, Array] = {}
        if self._blend is not None:
            feeds[BACKGROUND] = np.full((batch, *self.item_shape), _GRAY, np.float32)
        if self.clean_transforms is not None:
            feeds.update(self.clean_transforms.feeds([_NOTHING_DRAWN] * batch, 0.0, self.item_shape[0]))
        return feeds

    def _run_clean(
        self,
        session: RunnableSession,
        batch: int,
        feeds: Mapping[str, Array],
        parameters: Parameters,
        cancellation: Cancellation | None,
    ) -> dict[str, Array]:
        names = [info.name for info in session.inputs]
        batching = self._batching_of(self.clean_transforms, 1)
        parts: dict[str, list[Array]] = {}
        for items, given in batching.runs(names, batch, feeds, parameters):
            for name, value in session.run(given, cancellation).items():
                parts.setdefault(name, []).append(value[: len(items)])
        return {name: values[0] if len(values) == 1 else np.concatenate(values) for name, values in parts.items()}

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


_PICTURE_AXES = 3
_NOTHING_DRAWN = np.random.default_rng(0)
"""For what has nothing random."""


def _for_views(g: GraphWriter, value: ir.Value, shape: Sequence[int], views: int) -> ir.Value:
    """Each item, of this shape, once for each of its views."""
    if views == 1:
        return value
    copies = g.op("Expand", [g.unsqueeze(value, [1]), g.constant([1, views, *(1 for _ in shape)])])
    return g.reshape(copies, [-1, *shape])
