"""Models, their versions and their taps."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from ortoscope import (
    activations,
    attributions,
    dissections,
    examples,
    gradients,
    objectives,
    patches,
    resource_names,
    tabular,
    unit_sheets,
    visualizing,
)
from ortoscope.activations import Activations, Reduce, Selection, TapActivations
from ortoscope.atlas_requests import ClassMode, spec_message
from ortoscope.atlases import Atlas, start_atlas
from ortoscope.attributions import Attributions, Per
from ortoscope.climbing import Climb
from ortoscope.datasets import Dataset, name_of
from ortoscope.dissections import Dissection
from ortoscope.durations import Duration
from ortoscope.errors import InvalidArgument
from ortoscope.examples import ExampleSet, Rank
from ortoscope.gradients import GradientReduce, Gradients, Objective
from ortoscope.inputs import Input, Inputs
from ortoscope.messages import to_datetime
from ortoscope.objectives import VisualizationObjective
from ortoscope.operations import Operation
from ortoscope.patches import PatchTest, Place
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.tabular import FeatureTable, OptimalInput
from ortoscope.tensors import dtype_of
from ortoscope.text import (
    CONTEXT,
    LENGTH,
    TextActivations,
    Vocabulary,
    activations_of_text,
    activations_of_tokens,
)
from ortoscope.unit_sheets import UnitNumber, UnitSheet
from ortoscope.v1 import models_pb2
from ortoscope.visualization import Comparison, Visualization
from ortoscope.visualizing import OnProgress, Request


@dataclass(frozen=True)
class ModelEntry:
    """A model in the list of models."""

    name: str
    """Its name as people write it."""

    latest_version: str
    """Its newest version, as `name/version`."""

    version_count: int
    """Number of versions."""


class Tap:
    """An intermediate tensor of a model version.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, rpcs: Rpcs, proto: models_pb2.Tap, model: models_pb2.ModelVersion) -> None:
        self._rpcs = rpcs
        self._model = model
        self.proto = proto

    @property
    def name(self) -> str:
        """Resource name, `models/{model}/versions/{version}/taps/{tap}`."""
        return self.proto.name

    @property
    def tensor(self) -> str:
        """Name of the tensor in the ONNX file."""
        return self.proto.tensor

    @property
    def display_name(self) -> str:
        """The name to show people."""
        return self.proto.display_name

    @property
    def aliases(self) -> tuple[str, ...]:
        """Further names of the tap."""
        return tuple(self.proto.aliases)

    @property
    def operator(self) -> str:
        """Operator that made the tensor."""
        return self.proto.operator

    @property
    def node(self) -> str:
        """Name of the node that made it; may be empty."""
        return self.proto.node

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Element type; None if it is not stated."""
        return dtype_of(self.proto.data_type)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis; -1 where it is free (the batch) or not known."""
        return tuple(self.proto.shape)

    @property
    def layout(self) -> str:
        """How the axes are arranged: "vector", "channels_first", "channels_last" or "tokens"."""
        return models_pb2.Tap.Layout.Name(self.proto.layout).removeprefix("LAYOUT_").lower()

    @property
    def unit_axis(self) -> int:
        """The axis along which the units lie."""
        return self.proto.unit_axis

    @property
    def site_axes(self) -> tuple[int, ...]:
        """The axes that make up the sites; empty for a vector."""
        return tuple(self.proto.site_axes)

    @property
    def unit_count(self) -> int:
        """Number of units; 0 if it is not known before the model runs."""
        return self.proto.unit_count

    @property
    def pre_activation(self) -> str:
        """If an activation function made this tensor: the tensor it was applied to."""
        return self.proto.pre_activation

    @property
    def post_activation(self) -> str:
        """If an activation function is applied to this tensor: the result's tensor."""
        return self.proto.post_activation

    @property
    def upper_limit(self) -> float | None:
        """The largest value that the operator can give, if there is one."""
        return self.proto.upper_limit if self.proto.HasField("upper_limit") else None

    def activate(
        self, inputs: Inputs, *, reduce: Reduce = "none", site: Sequence[int] = (), top: int = 10
    ) -> TapActivations:
        """Computes the activations of this tap; see `Model.activate`."""
        selection = Selection(self.tensor, reduce, site, top)
        return activations.activate(self._rpcs, self._model, inputs, [selection])[self.tensor]

    def gradient(
        self,
        inputs: Inputs,
        unit: int | None = None,
        *,
        site: Sequence[int] = (),
        cotangent: npt.ArrayLike | None = None,
        at: "str | Tap | Iterable[str | Tap]" = (),
        reduce: GradientReduce = "none",
        relax: Sequence[str] = (),
    ) -> Gradients:
        """Computes the gradient of a unit of this tap, or a vector-Jacobian product with it.

        Args:
            inputs: As for `Model.activate`.
            unit: The unit whose activation is differentiated: at `site`, else its mean over all sites.
            site: The index along each site axis; negative counts from the end.
            cotangent: Instead of a unit: a number for each element of the tap, for all inputs alike or for each.
            at: As for `Model.gradient`.
            reduce: As for `Model.gradient`.
            relax: As for `Model.gradient`.

        Raises:
            OrtoscopeError: As Gradients.ComputeGradient; OBJECTIVE_MISSING: neither a unit nor a cotangent, or both.
        """
        if (unit is None) == (cotangent is None):
            raise InvalidArgument(
                "Give either a unit or a cotangent: what is differentiated?", reason="OBJECTIVE_MISSING", field="unit"
            )
        if unit is None:
            objective = Objective.cotangent(self.tensor, np.asarray(cotangent))
        elif len(site):
            objective = Objective.unit(self.tensor, unit, site)
        else:
            objective = Objective.channel_mean(self.tensor, unit)
        return gradients.compute(
            self._rpcs, self._model, inputs, objective, at=_tap_names(at), reduce=reduce, relax=relax
        )

    def attribute(
        self,
        inputs: Inputs,
        *,
        per: Per = "whole",
        units: Sequence[int] = (),
        sites: Sequence[Sequence[int]] = (),
        probability: bool = False,
        relax: Sequence[str] = (),
    ) -> Attributions:
        """Attributes the scores of all classes to this tap or to parts of it: activation times gradient, summed.

        Attributions to all units, or to all sites, add up to that to the whole tap.

        Args:
            inputs: As for `Model.activate`.
            per: Which parts have attributions of their own: "whole" (one for the tap), "unit" or "site".
            units: For "unit": these; all if empty.
            sites: For "site": these, each with its index along each site axis; all if empty.
            probability: Whether probabilities are attributed rather than logits.
            relax: Names of relaxations: "averaged_max_pool" or "l2_max_pool".

        Raises:
            OrtoscopeError: As Gradients.AttributeClasses.
            OSError: A file cannot be read.
        """
        return attributions.attribute(
            self._rpcs,
            self._model,
            self.proto,
            inputs,
            per=per,
            units=units,
            sites=sites,
            probability=probability,
            relax=relax,
        )

    def examples(
        self,
        dataset: str | Dataset,
        *,
        count: int = 0,
        rank: Rank = "max",
        splits: Sequence[str] = (),
        time_limit: Duration | None = None,
    ) -> Operation[ExampleSet]:
        """Starts the search for the images of a dataset that activate each unit most and least.

        Args:
            dataset: The dataset or its name.
            count: Images per unit at either end; 0 stands for 10.
            rank: The number that images are ranked by: a unit's largest value, mean or smallest value over all sites.
            splits: Only images of these splits; all if empty.
            time_limit: Longest time from now to the end, waiting included: a timedelta, seconds, or text such as "2h";
                it then ends with DEADLINE_EXCEEDED. None: as long as it takes.

        Returns:
            The operation; its `result()` is an `ExampleSet`.

        Raises:
            OrtoscopeError: As Activations.FindExamples.
        """
        name = name_of(dataset)
        return examples.start_examples(
            self._rpcs, self.name, name, count=count, rank=rank, splits=splits, time_limit=time_limit
        )

    def dissect(
        self,
        dataset: str | Dataset,
        *,
        top_fraction: float = 0.0,
        thresholds: Sequence[float] | npt.NDArray[np.floating] | None = None,
        iou_threshold: float = 0.0,
        splits: Sequence[str] = (),
        examples_per_unit: int = 0,
        time_limit: Duration | None = None,
    ) -> Operation[Dissection]:
        """Starts a dissection: which labelled concept each unit detects (Bau, Zhou et al. 2017).

        Args:
            dataset: The labelled dataset or its name.
            top_fraction: The share of a unit's activations that lies above its threshold; 0 stands for 0.005.
            thresholds: (U,) thresholds to use instead, one for each unit.
            iou_threshold: The IoU above which a unit counts as a detector; 0 stands for 0.04.
            splits: Only images of these splits; all if empty.
            examples_per_unit: Top images kept for each unit, with their masks; 0 stands for 5.
            time_limit: Longest time from now to the end, waiting included: a timedelta, seconds, or text such as "2h";
                it then ends with DEADLINE_EXCEEDED. None: as long as it takes.

        Returns:
            The operation; its `result()` is a `Dissection`.

        Raises:
            OrtoscopeError: As Dissections.CreateDissection.
        """
        return dissections.start_dissection(
            self._rpcs,
            self.name,
            name_of(dataset),
            top_fraction=top_fraction,
            thresholds=thresholds,
            iou_threshold=iou_threshold,
            splits=splits,
            examples_per_unit=examples_per_unit,
            time_limit=time_limit,
        )

    def atlas(
        self,
        dataset: str | Dataset,
        *,
        grids: Sequence[int] = (),
        sites_per_image: int = 0,
        preset: str = "",
        settings: Mapping[str, object] | None = None,
        icons: bool = True,
        icon_preset: str = "",
        icon_settings: Mapping[str, object] | None = None,
        attribution: bool = True,
        classes: Sequence[int | str] = (),
        class_mode: ClassMode = "winner",
        class_top: int = 0,
        gradient: Sequence[int | str] = (),
        base: str | Atlas = "",
        splits: Sequence[str] = (),
        seed: int = 0,
        time_limit: Duration | None = None,
        request_id: str = "",
    ) -> Operation[Atlas]:
        """Starts an activation atlas of this tap (Carter et al. 2019): the whole layer as a map.

        The atlas is there as soon as its first level is (`scope.atlas(operation.name)`), and stays if the operation is
        cancelled after that.

        Args:
            dataset: The dataset or its name.
            grids: Cells along each side, a number for each level, ascending; 20 if empty.
            sites_per_image: Sites taken of each image; 0 stands for 1.
            preset: A published set of parameters: "ortoscope" (if empty), "distill", "notebook" or "recipe".
            settings: Settings that differ from it by dotted name, such as {"layout.n_neighbors": 30}.
            icons: Whether cells get icons; without, the atlas shows real crops only, and is there much sooner.
            icon_preset: How icons are climbed; the preset "atlas-icon" if empty.
            icon_settings: Settings of `Model.visualize` that differ from it.
            attribution: Whether samples are attributed to classes, where the model has some.
            classes: Only samples that speak for one of these classes (class atlas), by index or label.
            class_mode: Which samples speak for a class: "winner" (it is their largest attribution), "top" (the largest
                attributions to it) or "both".
            class_top: For "top" and "both": most samples of a class; 0 stands for 2000.
            gradient: Two classes, at the left and at the right (two-class gradient atlas).
            base: An atlas in whose frame the images are placed, together with its own: appends to it.
            splits: Only images of these splits; all if empty.
            seed: Where randomness comes from: sites, layout and icons.
            time_limit: Longest time from now to the end, waiting included, as for `dissect`.
            request_id: A UUID by which the server knows the request again and gives the same operation; a new one if
                empty.

        Returns:
            The operation; its `result()` is an `Atlas`.

        Raises:
            OrtoscopeError: As Atlases.BuildAtlas; MODE_UNKNOWN, GRADIENT_INVALID, SETTING_NOT_JSON.
        """
        spec = spec_message(
            self.name,
            name_of(dataset),
            splits=splits,
            sites_per_image=sites_per_image,
            grids=grids,
            preset=preset,
            settings=settings,
            icons=icons,
            icon_preset=icon_preset,
            icon_settings=icon_settings,
            attribution=attribution,
            classes=classes,
            class_mode=class_mode,
            class_top=class_top,
            gradient=gradient,
            base=base.name if isinstance(base, Atlas) else base,
            seed=seed,
        )
        return start_atlas(self._rpcs, spec, time_limit=time_limit, request_id=request_id)

    def text(
        self,
        content: str,
        *,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        replace: str = "",
        length: int = LENGTH,
        context: int = CONTEXT,
    ) -> TextActivations:
        """Computes the activations of this tap at each character of a text.

        Args:
            content: The text.
            vocabulary: The character of each token; the model's class labels if None.
            replace: The character that stands in for those that the vocabulary lacks; none if empty.
            length: Tokens that a model of free length is given at once.
            context: How many of them come before what is told, so that the model knows what was before.

        Raises:
            OrtoscopeError: As Activations.Activate; CHARACTER_UNKNOWN, VOCABULARY_MISSING, INPUT_NOT_TOKENS,
                TAP_NOT_PER_POSITION, TEXT_TOO_SHORT.
        """
        return activations_of_text(
            self._rpcs,
            self._model,
            self.proto,
            content,
            vocabulary=vocabulary,
            replace=replace,
            length=length,
            context=context,
        )

    def tokens(
        self, tokens: npt.ArrayLike, pieces: Sequence[str], *, length: int = LENGTH, context: int = CONTEXT
    ) -> TextActivations:
        """Computes the activations of this tap at each token, for models whose tokens are more than a character.

        Args:
            tokens: (positions,) integers, from the model's own tokenizer.
            pieces: The piece of text that each token stands for.
            length: As for `text`.
            context: As for `text`.

        Raises:
            OrtoscopeError: As for `text`; PIECES_MISMATCH.
        """
        return activations_of_tokens(
            self._rpcs, self._model, self.proto, tokens, pieces, length=length, context=context
        )

    def unit(self, unit: int) -> "Unit":
        """A unit of this tap, to be visualized; units are counted from 0."""
        return Unit(self, unit)

    def visualize(
        self,
        unit: int,
        *,
        negative: bool = False,
        neuron: bool = False,
        preset: str = "",
        settings: Mapping[str, object] | None = None,
        seed: int = 0,
        items: int = 1,
        start: Input | None = None,
        comparison: str | Comparison | None = None,
        time_budget: Duration | None = None,
        preview_every: int = 0,
        progress: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Visualization:
        """Makes a picture of what a unit looks for.

        Args:
            unit: The unit, from 0.
            negative: Whether its activation is made small instead of large.
            neuron: Whether the middle site is climbed instead of the mean over all sites.
            preset: As for `Model.visualize`, and so are all others.
            settings: As for `Model.visualize`.
            seed: As for `Model.visualize`.
            items: As for `Model.visualize`.
            start: As for `Model.visualize`.
            comparison: As for `Model.visualize`.
            time_budget: As for `Model.visualize`.
            preview_every: As for `Model.visualize`.
            progress: As for `Model.visualize`.
            on_progress: As for `Model.visualize`.

        Raises:
            OrtoscopeError: As Visualization.Visualize.
            OSError: A file cannot be read.
        """
        found = (objectives.neuron if neuron else objectives.channel)(self, unit)
        wanted = Request(
            -found if negative else found, preset, settings, seed, items, start, comparison, time_budget, preview_every
        )
        message = visualizing.to_message(self._rpcs, self._model, wanted)
        return visualizing.visualize(self._rpcs, message, progress=progress, on_progress=on_progress)

    def visualize_units(
        self,
        units: Sequence[int] = (),
        *,
        kind: UnitNumber = "channel",
        negative: bool = False,
        preset: str = "",
        settings: Mapping[str, object] | None = None,
        seed: int = 0,
        time_limit: Duration | None = None,
    ) -> Operation[UnitSheet]:
        """Starts the visualization of many units: a sheet of pictures.

        A unit's picture has the same bytes whichever units are asked for with it.

        Args:
            units: The units, from 0; all if empty.
            kind: Which number of a unit is climbed: "channel" (its mean over all sites) or "neuron" (the middle site).
            negative: Whether it is made small instead of large.
            preset: As for `Model.visualize`.
            settings: As for `Model.visualize`.
            seed: As for `Model.visualize`.
            time_limit: Longest time from now to the end, waiting included, as for `dissect`.

        Returns:
            The operation; its `result()` is a `UnitSheet`.

        Raises:
            OrtoscopeError: As Visualization.VisualizeUnits.
        """
        recipe = visualizing.recipe_message(preset, settings, seed, None)
        return unit_sheets.start_unit_sheet(
            self._rpcs, self.name, units, kind=kind, negative=negative, recipe=recipe, time_limit=time_limit
        )

    def __repr__(self) -> str:
        units = f"{self.unit_count} units" if self.unit_count else "units not known"
        shape = " x ".join("?" if extent < 0 else str(extent) for extent in self.shape)
        return f"<Tap {self.display_name} ({self.operator}, tensor {self.tensor}): {units}, {self.layout}, {shape}>"


@dataclass(frozen=True, eq=False)
class Unit:
    """A unit of a tap."""

    tap: Tap
    """The tap."""

    unit: int
    """Its number, from 0."""

    @property
    def channel(self) -> VisualizationObjective:
        """The mean of its activation over all sites, as an objective."""
        return objectives.channel(self.tap, self.unit)

    @property
    def neuron(self) -> VisualizationObjective:
        """Its activation at the middle site, as an objective."""
        return objectives.neuron(self.tap, self.unit)

    def visualize(
        self,
        *,
        negative: bool = False,
        neuron: bool = False,
        preset: str = "",
        settings: Mapping[str, object] | None = None,
        seed: int = 0,
        items: int = 1,
        start: Input | None = None,
        comparison: str | Comparison | None = None,
        time_budget: Duration | None = None,
        preview_every: int = 0,
        progress: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Visualization:
        """Makes a picture of what it looks for; see `Tap.visualize`."""
        return self.tap.visualize(
            self.unit,
            negative=negative,
            neuron=neuron,
            preset=preset,
            settings=settings,
            seed=seed,
            items=items,
            start=start,
            comparison=comparison,
            time_budget=time_budget,
            preview_every=preview_every,
            progress=progress,
            on_progress=on_progress,
        )


class Model:
    """A version of a model.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, rpcs: Rpcs, proto: models_pb2.ModelVersion) -> None:
        self._rpcs = rpcs
        self.proto = proto

    @property
    def name(self) -> str:
        """Resource name, `models/{model}/versions/{version}`."""
        return self.proto.name

    @property
    def id(self) -> str:
        """The version as people write it, `name/version`."""
        return resource_names.short_model(self.proto.name)

    @property
    def digest(self) -> str:
        """The digest of the ONNX file, with "sha256:" before it."""
        return self.proto.digest

    @property
    def create_time(self) -> datetime | None:
        """When it was prepared."""
        return to_datetime(self.proto.create_time)

    @property
    def inputs(self) -> tuple[models_pb2.ModelInput, ...]:
        """The inputs: name, kind, shape, and how a picture becomes it."""
        return tuple(self.proto.inputs)

    @property
    def outputs(self) -> tuple[models_pb2.ModelOutput, ...]:
        """The outputs: name and shape."""
        return tuple(self.proto.outputs)

    @property
    def fixed_batch(self) -> int:
        """The batch size that the file is bound to; 0 if any batch can be run."""
        return self.proto.fixed_batch

    @property
    def class_labels(self) -> tuple[str, ...]:
        """Name of every class by its index, if known."""
        return tuple(self.proto.class_labels)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed when it was prepared."""
        return tuple(self.proto.notes)

    def versions(self) -> "Table[Model]":
        """Lists all versions of this model, newest first."""
        parent = "/".join(self.name.split("/")[:2])
        response = all_pages(self._rpcs.list_model_versions, models_pb2.ListModelVersionsRequest(parent=parent))
        return Table(
            (Model(self._rpcs, entry) for entry in response.model_versions),
            (
                Column("version", lambda model: model.id),
                Column("created", lambda model: model.create_time and f"{model.create_time:%Y-%m-%d %H:%M}"),
                Column("taps", lambda model: model.proto.tap_count, numeric=True),
                Column("bytes", lambda model: model.proto.size_bytes, numeric=True),
                Column("digest", lambda model: model.digest),
            ),
            title=f"{len(response.model_versions)} versions of {parent.removeprefix('models/')}",
            names=lambda model: (model.id, model.name),
        )

    def taps(self) -> Table[Tap]:
        """Lists the taps in the order in which the model computes them; `.find(text)` looks in all their names."""
        response = all_pages(self._rpcs.list_taps, models_pb2.ListTapsRequest(parent=self.name))
        return tap_table((Tap(self._rpcs, entry, self.proto) for entry in response.taps), self.id)

    def tap(self, name: str) -> Tap:
        """Gets a tap by any of its names.

        Raises:
            NotFound: UNKNOWN_TAP; the message has the closest names.
        """
        request = models_pb2.GetTapRequest(name=resource_names.tap(self.name, name))
        return Tap(self._rpcs, self._rpcs.get_tap(request), self.proto)

    def activate(
        self,
        inputs: Inputs,
        taps: "str | Tap | Selection | Iterable[str | Tap | Selection]",
        *,
        reduce: Reduce = "none",
        site: Sequence[int] = (),
        top: int = 10,
    ) -> Activations:
        """Computes the activations of taps on given inputs.

        What is too much for one request is sent in several.

        Args:
            inputs: One item or many. An item is the path of a picture (or of a .npy file), its bytes, a PIL image, an
                image of a dataset, a NumPy array (uint8 of height, width, 3: a picture; anything else: the model's
                input as it stands, without the batch axis), or, for a model with several inputs, a mapping from
                their names to arrays. An array with a batch axis is many items.
            taps: Any names of taps; a `Selection` has a reduction of its own.
            reduce: What is computed from a map: "none" (the whole map), "mean", "max", "site" or "top".
            site: For "site": the index along each site axis; negative counts from the end.
            top: For "top": how many units.

        Returns:
            By the name asked for, the arrays of each tap; their first axis runs over the inputs.

        Raises:
            OrtoscopeError: As Activations.Activate.
            OSError: A file cannot be read.
        """
        return activations.activate(self._rpcs, self.proto, inputs, _selections(taps, reduce, site, top))

    def stream(
        self,
        inputs: Inputs,
        taps: "str | Tap | Selection | Iterable[str | Tap | Selection]",
        *,
        reduce: Reduce = "none",
        site: Sequence[int] = (),
        top: int = 10,
        batch_size: int = 16,
        window: int = 2,
    ) -> Iterator[Activations]:
        """Computes the activations of any number of inputs, in order, in bounded memory.

        Inputs are taken from an iterator only as answers are read: at most `window` batches are on their way.

        Args:
            inputs: As for `activate`; usually a generator.
            taps: As for `activate`.
            reduce: As for `activate`.
            site: As for `activate`.
            top: As for `activate`.
            batch_size: Most inputs that are computed and answered together.
            window: Most batches sent and not yet answered.

        Yields:
            The activations of the next `batch_size` inputs.

        Raises:
            OrtoscopeError: As Activations.StreamActivations.
            OSError: A file cannot be read.
        """
        selections = _selections(taps, reduce, site, top)
        return activations.stream(self._rpcs, self.proto, inputs, selections, batch_size=batch_size, window=window)

    def gradient(
        self,
        inputs: Inputs,
        objective: Objective,
        *,
        at: "str | Tap | Iterable[str | Tap]" = (),
        reduce: GradientReduce = "none",
        relax: Sequence[str] = (),
    ) -> Gradients:
        """Computes the gradient of an objective at the model's inputs or at taps on the way.

        What is too much for one request is sent in several. Gradients at an input are by what the model takes, after
        preprocessing.

        Args:
            inputs: As for `activate`.
            objective: What is differentiated, such as `Objective.class_logit("tabby")`.
            at: Names of inputs or taps; by default all floating-point inputs.
            reduce: What is computed from the gradient: "none" (the gradient), "times_value" (its product with the
                tensor's own value, element by element) or "unit_sums" (that summed over the sites: (inputs, units)).
            relax: Names of relaxations, deliberate departures from the true gradient, such as "guided".

        Returns:
            By the name asked for, the gradients; their first axis runs over the inputs.

        Raises:
            OrtoscopeError: As Gradients.ComputeGradient.
            OSError: A file cannot be read.
        """
        return gradients.compute(
            self._rpcs, self.proto, inputs, objective, at=_tap_names(at), reduce=reduce, relax=relax
        )

    def optimal_input(
        self,
        objective: Objective,
        data: FeatureTable,
        *,
        negative: bool = False,
        within: tuple[float, float] = (0.0, 1.0),
        bounds: Mapping[str, tuple[float, float]] | None = None,
        steps: int = tabular.STEPS,
        starts: int = tabular.STARTS,
        seed: int = 0,
    ) -> OptimalInput:
        """Finds the row of features that makes an objective large, for a model of tables; each feature between bounds.

        Args:
            objective: The class or unit, such as `Objective.class_logit("default")`.
            data: Rows of data: bounds are quantiles of them, and the result is told beside their distribution.
            negative: Whether it is made small instead.
            within: The quantiles of the data that are the bounds; (0, 1) are its extremes.
            bounds: Other bounds for some features, by name.
            steps: Steps of the climb.
            starts: Starts around the medians, of which the best end is kept.
            seed: Where the starts come from.

        Raises:
            OrtoscopeError: As Visualization.Visualize and Gradients.ComputeGradient; INPUT_NOT_FEATURES,
                FEATURES_MISMATCH, BOUNDS_UNFIT, FEATURE_UNKNOWN, OBJECTIVE_UNSUPPORTED.
        """
        return tabular.optimal_input(
            self._rpcs,
            self.proto,
            objective,
            data,
            negative=negative,
            within=within,
            bounds=bounds,
            steps=steps,
            starts=starts,
            seed=seed,
        )

    def attribute(
        self,
        inputs: Inputs,
        tap: str | Tap,
        *,
        per: Per = "whole",
        units: Sequence[int] = (),
        sites: Sequence[Sequence[int]] = (),
        probability: bool = False,
        relax: Sequence[str] = (),
    ) -> Attributions:
        """Attributes the scores of all classes to a tap or to parts of it; see `Tap.attribute`."""
        found = tap if isinstance(tap, Tap) else self.tap(tap)
        return found.attribute(inputs, per=per, units=units, sites=sites, probability=probability, relax=relax)

    def visualize(
        self,
        objective: VisualizationObjective,
        *,
        preset: str = "",
        settings: Mapping[str, object] | None = None,
        seed: int = 0,
        items: int = 1,
        start: Input | None = None,
        comparison: str | Comparison | None = None,
        time_budget: Duration | None = None,
        preview_every: int = 0,
        progress: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Visualization:
        """Makes pictures, or other inputs, that make an objective as large as can be.

        The same request again is answered at once, with the same bytes. An interrupt (Ctrl-C) ends the work.

        Args:
            objective: What is climbed, made with `ortoscope.objectives`: `channel("t", 3) - 0.5 * channel("t", 7)`.
            preset: Name of a recipe, as `presets()` of the connection lists them; by default "lucid", or "vector" for
                a model that takes no pictures.
            settings: Settings of the preset that are changed, such as `{"recipe.steps": 256, "size": 192}`.
            seed: Where randomness comes from.
            items: Pictures made at once, each from a start of its own.
            start: The input that the climb starts from, as for `activate`; at random by default.
            comparison: The name of a dataset, or a `Comparison`: each item then has a verdict.
            time_budget: Longest time to climb; what was reached by then is the result, and is not kept.
            preview_every: Every so many steps `on_progress` gets previews and the objective on the clean picture.
            progress: Whether progress is shown on stderr or in the notebook.
            on_progress: Is told of every step that the server tells of.

        Raises:
            OrtoscopeError: As Visualization.Visualize.
            OSError: A file cannot be read.
        """
        wanted = Request(objective, preset, settings, seed, items, start, comparison, time_budget, preview_every)
        message = visualizing.to_message(self._rpcs, self.proto, wanted)
        return visualizing.visualize(self._rpcs, message, progress=progress, on_progress=on_progress)

    def stream_visualization(
        self,
        objective: VisualizationObjective,
        *,
        preset: str = "",
        settings: Mapping[str, object] | None = None,
        seed: int = 0,
        items: int = 1,
        start: Input | None = None,
        comparison: str | Comparison | None = None,
        time_budget: Duration | None = None,
        preview_every: int = 0,
    ) -> Generator[Climb | Visualization]:
        """Does what `visualize` does, and yields how far it is, and at the end the `Visualization`.

        Closing the iterator ends the work on the server within a step.

        Args:
            objective: As for `visualize`, and so are all others.
            preset: As for `visualize`.
            settings: As for `visualize`.
            seed: As for `visualize`.
            items: As for `visualize`.
            start: As for `visualize`.
            comparison: As for `visualize`.
            time_budget: As for `visualize`.
            preview_every: Every so many steps there are previews and the objective on the clean picture.

        Raises:
            OrtoscopeError: As Visualization.Visualize.
            OSError: A file cannot be read.
        """
        wanted = Request(objective, preset, settings, seed, items, start, comparison, time_budget, preview_every)
        return visualizing.stream(self._rpcs, visualizing.to_message(self._rpcs, self.proto, wanted))

    def test_patch(
        self,
        patch: Input,
        inputs: Inputs,
        *,
        sizes: Sequence[float] = (),
        places: Sequence[Place] = (),
        target: int | str | None = None,
        controls: int = 0,
        seed: int = 0,
    ) -> PatchTest:
        """Pastes a patch over pictures and counts whose class changes, beside controls of noise.

        A patch tells what the network takes for a class only as far as noise of the same size and colours does less.

        Args:
            patch: The patch, a picture.
            inputs: The pictures that it is pasted over, as for `activate`.
            sizes: Widths of the patch as shares of the picture's shorter side; 0.1, 0.2, 0.3 and 0.4 if empty.
            places: "top_left", "top_right", "bottom_left", "bottom_right" or "centre"; the four corners if empty.
            target: The class that the patch shall bring about, by index or name; any change counts if None.
            controls: Controls of noise for each trial, the patch's pixels shuffled; 0 stands for 4.
            seed: Where the draws come from.

        Raises:
            OrtoscopeError: As Visualization.TestPatch.
            OSError: A file cannot be read.
        """
        return patches.run_patch_test(
            self._rpcs,
            self.proto,
            patch,
            inputs,
            sizes=sizes,
            places=places,
            target=target,
            controls=controls,
            seed=seed,
        )

    def __repr__(self) -> str:
        inputs = ", ".join(f"{entry.name} {_shape(entry.shape)}" for entry in self.inputs)
        return f"<Model {self.id}: {self.proto.tap_count} taps, input {inputs}, opset {self.proto.opset}>"


def model_table(response: models_pb2.ListModelsResponse) -> Table[ModelEntry]:
    """The models of a ListModelsResponse."""
    return Table(
        (
            ModelEntry(
                resource_names.short_model(entry.name),
                resource_names.short_model(entry.latest_version),
                entry.version_count,
            )
            for entry in response.models
        ),
        (
            Column("model", lambda entry: entry.name),
            Column("newest", lambda entry: entry.latest_version),
            Column("versions", lambda entry: entry.version_count, numeric=True),
        ),
        title=f"{len(response.models)} model{'' if len(response.models) == 1 else 's'}",
        names=lambda entry: (entry.name, f"models/{entry.name}"),
    )


def tap_table(taps: Iterable[Tap], model: str) -> Table[Tap]:
    """The taps of a model version as a table."""
    rows = tuple(taps)
    return Table(
        rows,
        (
            Column("tap", lambda tap: tap.display_name),
            Column("operator", lambda tap: tap.operator),
            Column("units", lambda tap: tap.unit_count or "?", numeric=True),
            Column("shape", lambda tap: _shape(tap.shape)),
            Column("layout", lambda tap: tap.layout),
            Column("at most", lambda tap: tap.upper_limit, numeric=True),
            Column("tensor", lambda tap: tap.tensor),
            Column("also", lambda tap: tap.aliases),
        ),
        title=f"{len(rows)} taps of {model}",
        names=lambda tap: (tap.display_name, tap.tensor, tap.name, *tap.aliases),
    )


def _selections(
    taps: "str | Tap | Selection | Iterable[str | Tap | Selection]", reduce: Reduce, site: Sequence[int], top: int
) -> list[Selection]:
    each = [taps] if isinstance(taps, (str, Tap, Selection)) else list(taps)
    return [
        tap
        if isinstance(tap, Selection)
        else Selection(tap.display_name if isinstance(tap, Tap) else tap, reduce, site, top)
        for tap in each
    ]


def _tap_names(taps: "str | Tap | Iterable[str | Tap]") -> list[str]:
    each = [taps] if isinstance(taps, (str, Tap)) else list(taps)
    return [tap.display_name if isinstance(tap, Tap) else tap for tap in each]


def _shape(shape: Iterable[int]) -> str:
    return " x ".join("?" if extent < 0 else str(extent) for extent in shape)
