"""From a specification to a visualization that can be made: everything is checked before any model runs."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.classes import Classes, find_classes
from ortoscope_service.analysis.visualization import objectives
from ortoscope_service.analysis.visualization.completion import completed, names_class
from ortoscope_service.analysis.visualization.loop import Seed
from ortoscope_service.analysis.visualization.model_input import ModelInput
from ortoscope_service.analysis.visualization.objectives import (
    Channel,
    Neuron,
    Objective,
    Setting,
)
from ortoscope_service.analysis.visualization.octaves import octave_sizes, resized
from ortoscope_service.analysis.visualization.parameterizations.base import Parameterization
from ortoscope_service.analysis.visualization.parameterizations.choices import Generator, ImageChoice, Pixel, Vector
from ortoscope_service.analysis.visualization.parameterizations.cppn import CppnImage
from ortoscope_service.analysis.visualization.parameterizations.generator import Denoiser
from ortoscope_service.analysis.visualization.parameterizations.pixel import PixelImage
from ortoscope_service.analysis.visualization.prepared import Prepared
from ortoscope_service.analysis.visualization.presets import Preset
from ortoscope_service.analysis.visualization.program import Program, SessionOpener, own_sessions
from ortoscope_service.analysis.visualization.resampling import Size
from ortoscope_service.analysis.visualization.settings import check_preset
from ortoscope_service.analysis.visualization.specification import VisualizationSpec, digest_of_start
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.models.manifest import InputSpec
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.sessions import SessionConfig

Array = NDArray[Any]

__all__ = [
    "MOST_ITEMS",
    "Prepared",
    "UnitKind",
    "VisualizationSpec",
    "check_seed",
    "digest_of_start",
    "prepare",
    "prepare_each",
    "prepare_units",
    "takes_pictures",
]

MOST_ITEMS = 64
"""Items of a batch."""

MOST_PIXELS = 2**24
"""Pixels of all pictures of a batch."""

MOST_PIXELS_SHOWN = 2**25
"""Pixels of all views of all pictures of a batch, as the model is shown them at a step."""

MOST_PIXELS_TOGETHER = 2**23
"""The same for items that depend on each other, and for those of one item: what one run must hold."""

MOST_PIXELS_DRAWN = 2**28
"""Pixels of all layers of a pattern-producing network, for all pictures of a batch."""

UnitKind = Literal["channel", "neuron"]
"""Which number of a unit is climbed: the mean over all sites, or the middle one."""

_SESSION = SessionConfig()


def takes_pictures(version: ModelVersion) -> bool:
    """Whether a model's first input takes pictures, which decides the preset where none is named."""
    return bool(version.manifest.inputs) and _is_picture(version.manifest.inputs[0])


def prepare(
    version: ModelVersion,
    spec: VisualizationSpec,
    *,
    models: ModelRepository | None = None,
    classes: Classes | None = None,
    start: Array | None = None,
    session: SessionConfig = _SESSION,
    open: SessionOpener | None = None,  # noqa: A002 - it opens
) -> "Prepared":
    """Brings a model and a specification together.

    Args:
        version: The model.
        spec: What to do.
        models: Where a generator is looked up.
        classes: The model's classes; found where the objective names one.
        start: What all items start from: (channels, height, width) in [0, 1], of any size, or what the model's input
            takes.
        session: How graphs are run.
        open: Where sessions come from; by default this process keeps them.

    Raises:
        OrtoscopeError: `ITEMS_OUT_OF_RANGE`, `INVALID_SEED`, `VISUALIZATION_TOO_LARGE`; `START_MISSING`,
            `START_MISMATCH`, `INVALID_PICTURE`, `INVALID_START`, `NO_INVERSE` (UNIMPLEMENTED);
            `BOUND_NOT_AVAILABLE`; `PRESET_NEEDS_PICTURES`, `PRESET_NEEDS_VECTORS`; `INPUT_NOT_CONTINUOUS`,
            `INPUT_SHAPE_FREE`, `GENERATOR_MISMATCH` (FAILED_PRECONDITION); `GENERATOR_MISSING`; `UNKNOWN_MODEL`
            (NOT_FOUND) for a generator; as `Program`, `Program.check`, `ModelInput.of` and `find_classes` raise.
    """
    check_seed(spec.seed)
    if not 1 <= spec.items <= MOST_ITEMS:
        raise invalid(
            "ITEMS_OUT_OF_RANGE",
            f"{spec.items} items cannot be made at once; give 1 to {MOST_ITEMS}.",
            field="items",
            items=spec.items,
            largest=MOST_ITEMS,
        )
    seeds = tuple(Seed(spec.seed, item) for item in range(spec.items))
    subject = _Subject(version, models, classes, session, open)
    return subject.prepared(spec, (spec.objective,), seeds, start)


def prepare_units(
    version: ModelVersion,
    tap: str,
    units: Sequence[int],
    preset: Preset,
    seed: int = 0,
    *,
    kind: UnitKind = "channel",
    negative: bool = False,
    models: ModelRepository | None = None,
    session: SessionConfig = _SESSION,
    open: SessionOpener | None = None,  # noqa: A002 - it opens
) -> "Prepared":
    """Brings a model and some units of a tap together: an item for each, seeded by the unit.

    Args:
        version: The model.
        tap: Any name of the tap.
        units: The units, at most `MOST_ITEMS`.
        preset: How.
        seed: Where randomness comes from, with the unit.
        kind: Whether the mean over all sites is climbed, or the middle site.
        negative: Whether the negative is climbed.
        models: Where a generator is looked up.
        session: How graphs are run.
        open: Where sessions come from.

    Raises:
        OrtoscopeError: As `prepare` raises.
    """
    check_seed(seed)
    if not 1 <= len(units) <= MOST_ITEMS:
        raise invalid(
            "ITEMS_OUT_OF_RANGE",
            f"{len(units)} units cannot be made at once; give 1 to {MOST_ITEMS}.",
            field="units",
            items=len(units),
            largest=MOST_ITEMS,
        )
    made: list[Objective] = [Channel(tap, unit) if kind == "channel" else Neuron(tap, unit) for unit in units]
    wanted = tuple(-one if negative else one for one in made)
    seeds = tuple(Seed(seed, unit) for unit in units)
    return prepare_each(version, wanted, seeds, preset, models=models, session=session, open=open)


def prepare_each(
    version: ModelVersion,
    wanted: Sequence[Objective],
    seeds: Sequence[Seed],
    preset: Preset,
    *,
    models: ModelRepository | None = None,
    session: SessionConfig = _SESSION,
    open: SessionOpener | None = None,  # noqa: A002 - it opens
) -> "Prepared":
    """Brings a model and a batch together whose items have an objective and a seed each.

    Args:
        version: The model.
        wanted: The objective of each item, all of one structure; 1 to `MOST_ITEMS`.
        seeds: The seed of each, of one caller's number.
        preset: How.
        models: Where a generator is looked up.
        session: How graphs are run.
        open: Where sessions come from.

    Raises:
        OrtoscopeError: As `prepare` raises.
    """
    spec = VisualizationSpec(wanted[0], preset, seeds[0].seed, len(wanted))
    return _Subject(version, models, None, session, open).prepared(spec, wanted, tuple(seeds), None)


@dataclass(frozen=True)
class _Subject:
    """A model, and where what belongs to it comes from."""

    version: ModelVersion
    models: ModelRepository | None
    classes: Classes | None
    session: SessionConfig
    open: SessionOpener | None

    def prepared(
        self, spec: VisualizationSpec, wanted: Sequence[Objective], seeds: tuple[Seed, ...], start: Array | None
    ) -> Prepared:
        """The visualization, after all checks; what is wrong names a field of a request."""
        with _naming_settings():
            return self._prepared(spec, wanted, seeds, start)

    def _prepared(
        self, spec: VisualizationSpec, wanted: Sequence[Objective], seeds: tuple[Seed, ...], start: Array | None
    ) -> Prepared:
        preset = spec.preset
        check_preset(preset, field=_SETTINGS)
        given = self.input_of(wanted[0], preset)
        digest = self._checked_start(spec, start, pictures=_is_picture(given))
        spec = dataclasses.replace(spec, start_digest=digest, preset=self._with_version(preset))
        complete = tuple(completed(one, preset) for one in wanted)
        classes = self._classes_for(spec.objective)
        sizes = self._sizes(spec.preset)
        origins = [None if start is None else _at_size(start, size, pictures=_is_picture(given)) for size in sizes]
        programs = tuple(
            self._program(spec.preset, given, complete, classes, size, origin)
            for size, origin in zip(sizes, origins, strict=True)
        )
        for program in programs:
            _check_size(program, len(seeds))
            program.check(len(seeds))
            self._check_start_fits(program, start, several=len(programs) > 1)
        return Prepared(spec, programs, seeds, origins[-1])

    def _program(
        self,
        preset: Preset,
        given: InputSpec,
        wanted: tuple[Objective, ...],
        classes: Classes | None,
        size: Size,
        origin: Array | None,
    ) -> Program:
        own = self._parameterization(preset, given, size, origin)
        try:
            return Program(
                self.version, own, wanted, preset.chain, preset.view, classes, self.session, self.open
            )  # fmt: skip
        except OrtoscopeError as error:
            if error.reason != "CHANNELS_MISMATCH" or not isinstance(preset.parameterization, Generator):
                raise
            why = f"its pictures have {own.shape[0]} channels, the model takes {error.metadata['expected']}"
            raise _mismatch(self.version, why) from error

    def input_of(self, objective: Objective, preset: Preset) -> InputSpec:
        """The input that is optimised, which must take what the preset makes."""
        setting = Setting(self.version.manifest.taps, (3, 1, 1), 1, self._classes_for(objective), alpha=True)
        given = ModelInput.of(self.version, objectives.taps(objective, setting)).spec
        what = f"The input '{given.name}' takes {given.data_type} {list(given.shape)}"
        if not given.data_type.startswith("float"):
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "INPUT_NOT_CONTINUOUS",
                f"{what}, which cannot be changed by small amounts; visualize a model that begins behind it, such as "
                "with embeddings of tokens.",
                field="model",
                metadata={"input": given.name, "type": given.data_type},
            )
        if preset.is_for_pictures and not _is_picture(given):
            raise invalid(
                "PRESET_NEEDS_PICTURES",
                f"{what}, but the preset '{preset.name}' makes pictures; use 'vector', or another one with its "
                "parameterization.",
                field="recipe.preset",
                preset=preset.name,
                input=given.name,
            )
        if not preset.is_for_pictures and _is_picture(given):
            raise invalid(
                "PRESET_NEEDS_VECTORS",
                f"{what}, which are pictures, but the preset '{preset.name}' makes vectors; use 'lucid', for example.",
                field="recipe.preset",
                preset=preset.name,
                input=given.name,
            )
        return given

    def _classes_for(self, objective: Objective) -> Classes | None:
        return self.classes or (find_classes(self.version) if names_class(objective) else None)

    def _checked_start(self, spec: VisualizationSpec, start: Array | None, *, pictures: bool) -> str:
        """The digest of the start, which must be there if anything asks for it."""
        preset = spec.preset
        if start is None:
            asked = "bound" if preset.bound is not None else "specification" if spec.start_digest else ""
            if preset.needs_start or asked:
                who = f"Its {asked}" if asked else f"The preset '{preset.name}'"
                raise invalid(
                    "START_MISSING",
                    f"{who} needs an input to start from, and none was given; give one as 'start'.",
                    field="start",
                    preset=preset.name,
                )
            return ""
        if pictures and not (start.ndim == 3 and start.size and np.isfinite(start).all()):
            raise invalid(
                "INVALID_PICTURE",
                f"The input to start from has the shape {start.shape}, or is not finite; give a picture (channels, "
                "height, width) in [0, 1].",
                field="start",
                given=start.shape,
            )
        digest = digest_of_start(start)
        if spec.start_digest not in {"", digest}:
            raise invalid(
                "START_MISMATCH",
                "The input to start from is another one than the specification was made with; give that, or leave the "
                "digest out.",
                field="start",
                expected=spec.start_digest,
                given=digest,
            )
        return digest

    def _with_version(self, preset: Preset) -> Preset:
        """The preset with the versions of its generator and denoiser filled in."""
        choice = preset.parameterization
        if not isinstance(choice, Generator):
            return preset
        complete = dataclasses.replace(
            choice,
            model=_full_name(self._named(choice.model, "model")),
            denoiser=_full_name(self._named(choice.denoiser, "denoiser")) if choice.denoiser else "",
        )
        return dataclasses.replace(preset, parameterization=complete)

    def _named(self, name: str, field: str) -> ModelVersion:
        """The version of a model of the repository by `id` or `id/version`."""
        model, _, number = name.removeprefix("models/").replace("/versions/", "/").partition("/")
        at = f"{_SETTINGS}.parameterization.{field}"
        if not model or self.models is None or (number and not number.isdecimal()):
            raise invalid(
                "GENERATOR_MISSING",
                f"{name!r} is no name of a model, which a generator needs as its {field}; give the model's id, or id "
                "and version as 'id/2'.",
                field=at,
                model=name,
            )
        try:
            return self.models.get(model, int(number) if number else None)
        except OrtoscopeError as error:
            error.field = at
            raise

    def _generator_image(self, choice: Generator) -> Parameterization:
        version = self._named(choice.model, "model")
        try:
            made = choice.of(version)
        except OrtoscopeError as error:
            if error.reason != "GENERATOR_UNFIT":
                raise
            raise _mismatch(self.version, error.metadata.get("why", "it makes no pictures")) from error
        if not choice.denoiser:
            return made
        cleaner = self._named(choice.denoiser, "denoiser")
        opener = self.open or own_sessions(self.session)
        key = "denoiser", cleaner.manifest.digest
        denoiser = Denoiser(cleaner.load(), choice.denoiser_share, lambda graph: opener(key, lambda: graph, None))
        return dataclasses.replace(made, denoiser=denoiser)

    def _sizes(self, preset: Preset) -> list[Size]:
        if isinstance(preset.parameterization, ImageChoice):
            return octave_sizes(preset.size, preset.octaves, preset.octave_scale)
        if preset.octaves > 1:
            raise invalid(
                "INVALID_OCTAVES",
                f"A {preset.parameterization.kind} has no sizes to go through in {preset.octaves} octaves; use one.",
                field="octaves",
                octaves=preset.octaves,
            )
        return [preset.size]

    def _parameterization(self, preset: Preset, given: InputSpec, size: Size, origin: Array | None) -> Parameterization:
        choice = preset.parameterization
        if preset.bound is not None and not (isinstance(choice, Pixel) and choice.squash == "clip"):
            raise invalid(
                "BOUND_NOT_AVAILABLE",
                f"A bound holds for pixels with squash 'clip', whose parameters are the picture, not for "
                f"'{choice.kind}'; change the parameterization, or leave the bound out.",
                field="bound",
                parameterization=choice.kind,
            )
        if isinstance(choice, Generator):
            return self._generator_image(choice)
        if isinstance(choice, Vector):
            return choice.of(_vector_shape(given))
        assert isinstance(choice, ImageChoice)
        made = choice.picture(*size, _channels_of(given))
        if preset.bound is not None and isinstance(made, PixelImage) and origin is not None:
            (pixels,) = made.inverse(origin[None]).values()
            return dataclasses.replace(made, bound=preset.bound, origin=pixels[0])
        return made

    def _check_start_fits(self, program: Program, start: Array | None, *, several: bool) -> None:
        if start is None and not several:
            return
        if program.is_picture:
            channels = program.item_shape[0] if start is None else start.shape[0]
            shown = np.full((1, channels, *program.item_shape[1:]), 0.5)
            if start is not None:
                shown = _at_size(start, program.item_shape[1:], pictures=True)[None]
            program.parameterization.inverse(shown)
        elif start is not None and start.shape != program.item_shape:
            raise invalid(
                "INVALID_START",
                f"The input to start from has the shape {start.shape}; the model takes {program.item_shape}.",
                field="start",
                given=start.shape,
                expected=program.item_shape,
            )


_SETTINGS = "recipe.settings"
"""The field of a request that holds settings."""

_SETTINGS_BY_PART = {
    "parameterization": "parameterization",
    "transforms": "chain",
    "view": "view",
    "bound": "bound",
    "octaves": "octaves",
}
"""Fields that the parts of a visualization name in errors, as settings."""


@contextmanager
def _naming_settings() -> Iterator[None]:
    """Errors of the body that name a part name the setting of the request that it comes from."""
    try:
        yield
    except OrtoscopeError as error:
        first, dot, rest = error.field.partition(".")
        if error.field == "parameterization.start":
            error.field = "start"
        elif first in _SETTINGS_BY_PART:
            error.field = f"{_SETTINGS}.{_SETTINGS_BY_PART[first]}{dot}{rest}"
        raise


def check_seed(seed: int) -> None:
    """Refuses what is no seed.

    Raises:
        OrtoscopeError: `INVALID_SEED`.
    """
    if not 0 <= seed < 2**63:
        raise invalid("INVALID_SEED", f"The seed {seed} is out of range; give one from 0 on.", field="seed", seed=seed)


def _is_picture(given: InputSpec) -> bool:
    return given.preprocessing is not None or (len(given.shape) == 4 and given.data_type.startswith("float"))


def _channels_of(given: InputSpec) -> int:
    if given.preprocessing is not None:
        return 1 if given.preprocessing.color_order == "gray" else 3
    return given.shape[1] if given.shape[1] > 0 else 3


def _vector_shape(given: InputSpec) -> tuple[int, ...]:
    shape = given.shape[1:]
    if min(shape, default=1) < 1:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "INPUT_SHAPE_FREE",
            f"The input '{given.name}' has free extents besides the batch, {list(given.shape)}; prepare the model with "
            "fixed ones.",
            field="model",
            metadata={"input": given.name, "shape": str(list(given.shape))},
        )
    return shape


def _full_name(version: ModelVersion) -> str:
    return f"{version.model}/{version.version}"


def _mismatch(version: ModelVersion, why: str) -> OrtoscopeError:
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "GENERATOR_MISMATCH",
        f"The output of the generator does not fit the model '{version.model}': {why}. Use another generator.",
        field=f"{_SETTINGS}.parameterization.model",
        metadata={"model": version.model, "why": why},
    )


def _check_size(program: Program, items: int) -> None:
    """Refuses more than memory holds."""
    if not program.is_picture or program.transforms is None:
        return
    pixels = program.item_shape[1] * program.item_shape[2]
    shown = program.chain.views * program.transforms.size[0] * program.transforms.size[1]
    together = shown * (items if program.couples_batch else 1)
    network = program.parameterization
    layers = 2 * network.hidden * network.layers if isinstance(network, CppnImage) else 0
    for what, count, largest in (
        ("the pictures", items * pixels, MOST_PIXELS),
        ("the layers that draw them", items * pixels * layers, MOST_PIXELS_DRAWN),
        ("all views of them", items * shown, MOST_PIXELS_SHOWN),
        ("what one run must hold", together, MOST_PIXELS_TOGETHER),
    ):
        if count > largest:
            raise invalid(
                "VISUALIZATION_TOO_LARGE",
                f"With {items} items {what} have {count} pixels, more than {largest}; use fewer items or views, or a "
                "smaller size.",
                field="items",
                pixels=count,
                largest=largest,
                items=items,
            )


def _at_size(start: Array, size: Sequence[int], *, pictures: bool) -> NDArray[np.float32]:
    values = np.asarray(start, np.float32)
    return resized(values, (size[0], size[1])) if pictures else values
