"""The spec of a unit sheet, and what workers do for it."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.analysis.visualization.loop import End
from ortoscope_service.analysis.visualization.png import CHANNELS, encode_image
from ortoscope_service.analysis.visualization.presets import Preset
from ortoscope_service.analysis.visualization.program import SessionOpener, own_sessions
from ortoscope_service.analysis.visualization.settings import preset_from_data, preset_to_data
from ortoscope_service.analysis.visualization.sheets import (
    END_NUMBERS,
    UnitPicture,
    broken_picture,
    columns_of,
    sheet_of,
    stacked,
    unit_pictures,
)
from ortoscope_service.analysis.visualization.spec import Prepared, prepare_units
from ortoscope_service.errors import OrtoscopeError, error_to_json
from ortoscope_service.graph.taps import Tap
from ortoscope_service.jobs import surveys
from ortoscope_service.jobs.tasks import TaskContext
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import RunnableSession, SessionConfig

UnitKind = Literal["channel", "neuron"]
"""Which number of a unit is climbed: the mean over all sites, or the middle site."""

_NOT_FINITE = "OBJECTIVE_NOT_FINITE"


@dataclass(frozen=True)
class UnitClimb:
    """What is done with each unit of a sheet."""

    kind: UnitKind
    """Which number of the unit is climbed."""

    negative: bool
    """Whether its negative is."""

    preset: Preset
    """How."""

    seed: int
    """Where randomness comes from."""

    def prepare(
        self,
        version: ModelVersion,
        tap: str,
        units: Sequence[int],
        session: SessionConfig,
        models: ModelRepository,
        opener: SessionOpener | None = None,
    ) -> Prepared:
        """The climb of some units side by side.

        Args:
            version: The model.
            tap: Whose units.
            units: Which.
            session: How graphs are run.
            models: Where a generator is, if the preset has one.
            opener: Where sessions come from; by default this process.

        Raises:
            OrtoscopeError: As `prepare_units` raises.
        """
        return prepare_units(
            version,
            tap,
            units,
            self.preset,
            seed=self.seed,
            kind=self.kind,
            negative=self.negative,
            models=models,
            session=session,
            open=opener,
        )


def sheet_spec(
    version: ModelVersion,
    tap: Tap,
    units: Sequence[int],
    climb: UnitClimb,
    execution: ExecutionConfig,
    together: int,
    document: Mapping[str, Any],
) -> dict[str, Any]:
    """The spec of the job.

    Args:
        version: The model.
        tap: Whose units.
        units: Which of them, each once.
        climb: What is done with each.
        execution: How graphs shall be run, threads resolved.
        together: Most units that are climbed side by side; decides nothing but time.
        document: What the metadata of the sheet shall tell, as JSON; of this, `generator_digest` decides too.
    """
    return {
        **surveys.tap_spec(version, tap, execution),
        "units": list(units),
        "kind": climb.kind,
        "negative": climb.negative,
        "preset": preset_to_data(climb.preset),
        "seed": climb.seed,
        "generator_digest": document.get("generator_digest", ""),
        "inputs": _inputs(version),
        "at_once": together,
        "document": dict(document),
    }


def climb(context: TaskContext) -> dict[str, Any]:
    """Task: the pictures of some units, side by side in one batch."""
    opened, spec = surveys.open_tap(context), context.spec
    units: list[int] = context.arguments["units"]
    how = UnitClimb(spec["kind"], spec["negative"], preset_from_data(spec["preset"]), spec["seed"])
    used: set[str] = set()
    session = opened.execution.session
    prepared = how.prepare(opened.version, spec["tap"], units, session, context.models, _telling(session, used))
    kept: dict[str, dict[str, Any]] = {}
    for unit, (picture, error) in zip(units, _climbed(prepared, context), strict=True):
        arrays = picture.to_arrays()
        context.put(str(unit), arrays)
        kept[str(unit)] = {
            "bytes": sum(array.nbytes for array in arrays.values()),
            "error": None if error is None else error_to_json(error),
        }
    return {"units": kept, "providers": sorted(used)}


def _telling(config: SessionConfig, used: set[str]) -> SessionOpener:
    """Opens sessions in this process; notes the execution providers that they run on, not always the one asked for."""
    own = own_sessions(config)

    def opened(key: Hashable, make: Callable[[], bytes], cancellation: Cancellation | None) -> RunnableSession:
        session = own(key, make, cancellation)
        used.add(session.config.providers[0])
        return session

    return opened


def _climbed(prepared: Prepared, context: TaskContext) -> list[tuple[UnitPicture, OrtoscopeError | None]]:
    """What each unit came to, and why it came to nothing."""
    try:
        found = prepared.run(progress=lambda *_: context.alive(), cancellation=context.cancellation)
    except OrtoscopeError as error:
        if error.reason != _NOT_FINITE:
            raise
        # It is raised only if all units of the batch fail: which units share it must make no difference.
        channels, height, width = prepared.program.parameterization.shape
        return [(broken_picture(height, width, channels), error)] * len(prepared.program.objectives)
    return list(zip(unit_pictures(found), [outcome.error for outcome in found.outcomes], strict=True))


def merge(context: TaskContext) -> dict[str, Any]:
    """Task: the arrays of all units, and the sheet."""
    units = context.spec["units"]
    arrays = stacked(units, [context.arrays(str(number)) for number in range(len(units))])
    count, height, width, channels = arrays["picture"].shape
    columns = columns_of(count, height, width) if channels in CHANNELS else 0
    context.put("arrays", arrays)
    context.alive()
    if columns:
        sheet = encode_image(sheet_of(arrays["picture"], columns), context.spec["document"])
        with context.writer("sheet") as file:
            file.write(sheet)
    return {
        "height": height,
        "width": width,
        "columns": columns,
        "dead": int((arrays["end"] == END_NUMBERS[End.DEAD]).sum()),
    }


def _inputs(version: ModelVersion) -> list[dict[str, Any]]:
    """What the manifest says of the model's inputs, as far as it decides what the model is shown."""
    found = []
    for given in version.manifest.inputs:
        described = dataclasses.asdict(given)
        if given.preprocessing is not None:
            del described["preprocessing"]["verification"]
        found.append(described)
    return found
