"""The part of the service `ortoscope.v1.Visualization` that makes and shows the pictures of many units."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from ortoscope.v1 import visualization_pb2, visualization_pb2_grpc

from ortoscope_service.analysis.visualization.parameterizations.choices import Generator
from ortoscope_service.analysis.visualization.png import canonical_json
from ortoscope_service.analysis.visualization.presets import Preset
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.analysis.visualization.settings import preset_settings, resolve_preset
from ortoscope_service.analysis.visualization.sheets import MOST_PIXELS, MOST_UNITS, at_once
from ortoscope_service.analysis.visualization.spec import Prepared, check_seed, takes_pictures
from ortoscope_service.api import resources
from ortoscope_service.api.capabilities import ortoscope_version
from ortoscope_service.api.components import Components, blaming, version_name
from ortoscope_service.api.operations import repeated_request
from ortoscope_service.api.submissions import find_submitted, publisher, submit_on_tap, time_limit_of
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.taps import Tap, resolve_tap
from ortoscope_service.jobs.provenance import execution_spec
from ortoscope_service.jobs.runner import Publisher
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.unit_climbs import UnitClimb, UnitKind, sheet_spec
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.sessions import onnxruntime_version

COLLECTION = "unitSheets"

_KINDS: Mapping[int, UnitKind] = {
    visualization_pb2.UnitSheetSpec.KIND_UNSPECIFIED: "channel",
    visualization_pb2.UnitSheetSpec.KIND_CHANNEL: "channel",
    visualization_pb2.UnitSheetSpec.KIND_NEURON: "neuron",
}
_NUMBERS: Mapping[UnitKind, visualization_pb2.UnitSheetSpec.Kind] = {
    "channel": visualization_pb2.UnitSheetSpec.KIND_CHANNEL,
    "neuron": visualization_pb2.UnitSheetSpec.KIND_NEURON,
}


def unit_sheet_publisher(store: Store) -> Publisher:
    """What stores finished unit sheets."""
    return publisher(store, COLLECTION, visualization_pb2.UnitSheet, _fill)


class UnitSheetsServicer(visualization_pb2_grpc.VisualizationServicer):
    """Visualizes many units, and shows the results."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._records = components.store.records

    def VisualizeUnits(
        self, request: visualization_pb2.VisualizeUnitsRequest, context: grpc.ServicerContext
    ) -> operations_pb2.Operation:
        """Visualizes many units of a tap, as an operation."""
        identity = repeated_request(request.request_id, request)
        submitted = find_submitted(self._components, identity)
        if submitted is not None:
            return submitted
        limit = time_limit_of(request)
        asked = self._read(request.spec)
        document = self._document(asked)
        draft = visualization_pb2.UnitSheet(spec=asked.message(), spec_json=canonical_json(document))
        job = sheet_spec(
            asked.version,
            asked.tap,
            asked.units,
            asked.climb,
            self._components.job_execution,
            asked.together,
            document,
        )
        tap = asked.tap_name
        return submit_on_tap(self._components, identity, "visualize-units", asked.version, tap, job, draft, limit)

    def GetUnitSheet(
        self, request: visualization_pb2.GetUnitSheetRequest, context: grpc.ServicerContext
    ) -> visualization_pb2.UnitSheet:
        """Gets a unit sheet."""
        identifier = resources.parse_unit_sheet(request.name, field="name")
        return visualization_pb2.UnitSheet.FromString(self._records.get(COLLECTION, identifier).message)

    def ListUnitSheets(
        self, request: visualization_pb2.ListUnitSheetsRequest, context: grpc.ServicerContext
    ) -> visualization_pb2.ListUnitSheetsResponse:
        """Lists the unit sheets, newest first."""
        page = self._components.page(request.page_size, request.page_token, "ListUnitSheets")
        found = self._records.list(COLLECTION, before=page.position, count=page.size + 1)
        shown = found[: page.size]
        return visualization_pb2.ListUnitSheetsResponse(
            unit_sheets=[visualization_pb2.UnitSheet.FromString(message) for _, message in shown],
            next_page_token=page.token(shown[-1][0]) if len(found) > page.size else "",
        )

    def DeleteUnitSheet(
        self, request: visualization_pb2.DeleteUnitSheetRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Deletes a unit sheet."""
        identity = repeated_request(request.request_id, request)
        identifier = resources.parse_unit_sheet(request.name, field="name")
        requests = self._components.store.requests
        if requests.find(identity) is None:
            self._records.delete(COLLECTION, identifier)
            requests.add(identity, request.name)
        return empty_pb2.Empty()

    def _read(self, spec: visualization_pb2.UnitSheetSpec) -> "_Asked":
        """What is asked for, after all checks that need no run of the model.

        Raises:
            OrtoscopeError: NOT_FOUND; INVALID_ARGUMENT; as `_units`, `_recipe` and `_prepared` raise.
        """
        name = resources.parse_tap(spec.tap, field="spec.tap")
        version = self._components.model_version(name.model, field="spec.tap")
        tap = resolve_tap(version.manifest.taps, name.tap, field="spec.tap")
        if spec.kind not in _KINDS:
            raise invalid("INVALID_KIND", f"There is no kind {spec.kind}.", field="spec.kind", kind=spec.kind)
        units = _units(tap, spec.units)
        preset, seed = self._recipe(version, spec.recipe)
        climb = UnitClimb(_KINDS[spec.kind], spec.negative, preset, seed)
        prepared = self._prepared(version, tap, units, climb)
        return _Asked(version, tap, units, replace(climb, preset=prepared.spec.preset), _together(prepared.program))

    def _document(self, asked: "_Asked") -> dict[str, Any]:
        """Everything that decides the pictures, as JSON data: what their metadata hold."""
        how = execution_spec(self._components.job_execution)
        del how["batch_size"]  # of no influence: units share batches as they come
        climb, settings = asked.climb, preset_settings(asked.climb.preset)
        document: dict[str, Any] = {
            "verb": "visualize-units",
            "model": str(version_name(asked.version)),
            "model_digest": asked.version.manifest.digest,
            "tap": asked.tap.tensor,
            "units": asked.units,
            "kind": climb.kind,
            "negative": climb.negative,
            "preset": climb.preset.name,
            "settings": {name: json.loads(text) for name, text in settings.items()},
            "seed": climb.seed,
            "software": {"ortoscope": ortoscope_version(), "onnxruntime": onnxruntime_version()},
            "execution": how,
        }
        generator = climb.preset.parameterization
        if isinstance(generator, Generator):
            model, _, number = generator.model.partition("/")
            document["generator_digest"] = self._components.models.get(model, int(number)).manifest.digest
        return document

    def _recipe(self, version: ModelVersion, given: visualization_pb2.VisualizationRecipe) -> tuple[Preset, int]:
        """The preset with its settings, and the seed.

        Raises:
            OrtoscopeError: As `resolve_preset` and `check_seed` raise; INVALID_ARGUMENT: TIME_BUDGET_NOT_SUPPORTED,
                START_MISSING, NOT_A_PICTURE, TOO_MANY_STEPS.
        """
        field = "spec.recipe"
        preset = resolve_preset(given.preset, given.settings, pictures=takes_pictures(version), field=field)
        with blaming(f"{field}.seed"):
            check_seed(given.seed)
        if given.HasField("time_budget"):
            raise invalid(
                "TIME_BUDGET_NOT_SUPPORTED",
                "A sheet's pictures must not depend on how fast the machine is, so their climbs cannot have a time "
                "budget; leave it out, set fewer steps (recipe.steps), or give the operation a time_limit.",
                field=f"{field}.time_budget",
            )
        if preset.needs_start:
            raise invalid(
                "START_MISSING",
                f"The preset '{preset.name}' starts from a picture, which a sheet cannot be given; choose another "
                "preset, or call Visualize for each unit.",
                field=f"{field}.preset",
                preset=preset.name,
            )
        if not preset.is_for_pictures:
            raise invalid(
                "NOT_A_PICTURE",
                f"What the preset '{preset.name}' makes is no picture, and a sheet is made of pictures; call Visualize "
                "for each unit.",
                field=f"{field}.preset",
                preset=preset.name,
            )
        steps = preset.recipe.steps * preset.recipe.attempts * preset.octaves
        most = self._components.limits.max_visualization_steps
        if steps > most:
            raise invalid(
                "TOO_MANY_STEPS",
                f"The attempts and octaves of a unit are {steps} steps, more than the limit max_visualization_steps, "
                f"{most}; set fewer.",
                field=f"{field}.settings.recipe.steps",
                steps=steps,
                max_visualization_steps=most,
            )
        return preset, given.seed

    def _prepared(self, version: ModelVersion, tap: Tap, units: Sequence[int], climb: UnitClimb) -> Prepared:
        """The climb of one unit, after all checks that need no run of the model.

        Raises:
            OrtoscopeError: As `prepare_units` and `Program.backward` raise; INVALID_ARGUMENT: COUPLED_UNITS,
                TOO_MANY_PIXELS.
        """
        try:
            session = self._components.job_execution.session
            prepared = climb.prepare(version, tap.tensor, [max(units)], session, self._components.models)
        except OrtoscopeError as error:
            error.field = _field_of(error.field)
            raise
        if prepared.program.couples_batch:
            raise invalid(
                "COUPLED_UNITS",
                "The parameterization is shared by the items of a batch, but a unit's picture must not depend on which "
                "others are asked for; choose another one.",
                field="spec.recipe.settings.parameterization",
            )
        _, height, width = prepared.program.parameterization.shape
        pixels = len(units) * height * width
        if pixels > MOST_PIXELS:
            raise invalid(
                "TOO_MANY_PIXELS",
                f"{len(units)} pictures of {height} x {width} are {pixels} pixels, more than the {MOST_PIXELS} that a "
                "sheet can have; ask for fewer units at once, or set a smaller size.",
                field="spec.units",
                pixels=pixels,
                maximum=MOST_PIXELS,
            )
        prepared.program.backward()  # refuses operators without a gradient
        return prepared


@dataclass(frozen=True)
class _Asked:
    """A request that was read and found to be in order."""

    version: ModelVersion
    """The model."""

    tap: Tap
    """Whose units."""

    units: list[int]
    """Which."""

    climb: UnitClimb
    """What is done with each; the version of a generator is filled in."""

    together: int
    """Most units that are climbed side by side."""

    @property
    def tap_name(self) -> resources.TapName:
        """The tap's resource name in full, by tensor and with the version."""
        return resources.TapName(version_name(self.version), self.tap.tensor)

    def message(self) -> visualization_pb2.UnitSheetSpec:
        """The specification with every default filled in and every name in full."""
        preset = self.climb.preset
        return visualization_pb2.UnitSheetSpec(
            tap=str(self.tap_name),
            units=self.units,
            kind=_NUMBERS[self.climb.kind],
            negative=self.climb.negative,
            recipe=visualization_pb2.VisualizationRecipe(
                preset=preset.name, settings=preset_settings(preset), seed=self.climb.seed
            ),
        )


def _fill(message: visualization_pb2.UnitSheet, values: Mapping[str, Any], blobs: Mapping[str, str]) -> None:
    message.height, message.width, message.columns = values["height"], values["width"], values["columns"]
    message.dead_units = values["dead"]
    message.arrays = blobs["arrays"]
    message.sheet = blobs.get("sheet", "")


def _field_of(inner: str) -> str:
    """The field of the request that holds what `prepare_units` refuses."""
    if inner.startswith("recipe"):
        return f"spec.{inner}"
    return "spec.tap" if inner.startswith(("objective", "model", "units")) else "spec.recipe.settings"


def _together(program: Program) -> int:
    """How many units are climbed side by side."""
    sizes = [program.parameterization.shape[-2:]]
    if program.transforms is not None:
        sizes.append(program.transforms.size)
    return at_once(max(height * width for height, width in sizes), program.chain.views)


def _units(tap: Tap, given: Sequence[int]) -> list[int]:
    """The units that are asked for, all if none is named.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: INVALID_UNIT, REPEATED_UNIT, TOO_MANY_UNITS; FAILED_PRECONDITION,
            UNITS_UNKNOWN.
    """
    field = "spec.units"
    if not given and tap.unit_count < 1:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "UNITS_UNKNOWN",
            f"The number of units of tap '{tap.display_name}' is not known before the model runs; name the units.",
            field=field,
            metadata={"tap": tap.tensor},
        )
    count = len(given) or tap.unit_count
    if count > MOST_UNITS:
        raise invalid(
            "TOO_MANY_UNITS",
            f"{count} units are more than the {MOST_UNITS} that a sheet can have; ask for them in several requests.",
            field=field,
            units=count,
            maximum=MOST_UNITS,
        )
    units = list(given) or list(range(count))
    wrong = next((unit for unit in units if unit < 0 or (tap.unit_count and unit >= tap.unit_count)), None)
    if wrong is not None:
        raise invalid(
            "INVALID_UNIT",
            f"There is no unit {wrong}: tap '{tap.display_name}' has {tap.unit_count or 'an unknown number of'} units, "
            "counted from 0.",
            field=field,
            unit=wrong,
            units=tap.unit_count,
        )
    if len(set(units)) < count:
        repeated = next(unit for unit in units if units.count(unit) > 1)
        raise invalid("REPEATED_UNIT", f"Unit {repeated} is named twice; name it once.", field=field, unit=repeated)
    return units
