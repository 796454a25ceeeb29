import io
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.longrunning import operations_pb2
from ortoscope.v1 import blobs_pb2, visualization_pb2
from ortoscope.v1.operations_pb2 import OperationMetadata
from ortoscope.v1.visualization_pb2 import UnitSheet, UnitSheetSpec, VisualizedItem, VisualizeUnitsRequest
from ortoscope_service.analysis.visualization.png import read_spec
from ortoscope_service.api import unit_sheets
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.repository import ModelRepository
from PIL import Image
from serving import PREPROCESSING, Failure, Stubs, add_model, failure_of_status, serving
from tiny_models import GraphBuilder, float_value

Refused = Callable[..., Failure]

SMALL = {"size": "16", "recipe.steps": "4"}


@pytest.fixture
def visualization(stubs: Stubs) -> Any:
    return stubs.visualization


def request_of(**spec: Any) -> VisualizeUnitsRequest:
    recipe = {"settings": SMALL, **spec.pop("recipe", {})}
    return VisualizeUnitsRequest(
        spec=UnitSheetSpec(**{"tap": "models/cnn/taps/relu6", "units": [1, 4], **spec, "recipe": recipe})
    )


def sheet_of(stubs: Stubs, visualization: Any, **spec: Any) -> UnitSheet:
    operation = stubs.wait(visualization.VisualizeUnits(request_of(**spec)))
    assert not operation.HasField("error"), operation
    sheet = UnitSheet()
    assert operation.response.Unpack(sheet)
    metadata = OperationMetadata()
    assert operation.metadata.Unpack(metadata)
    assert (metadata.verb, metadata.target, metadata.dataset) == ("visualize-units", sheet.spec.tap, "")
    assert (metadata.done_items, metadata.total_items) == (sheet.provenance.items,) * 2
    assert sheet.name.removeprefix("unitSheets/") == operation.name.removeprefix("operations/")
    return sheet


def blob(stubs: Stubs, name: str) -> bytes:
    return b"".join(chunk.data for chunk in stubs.blobs.ReadBlob(blobs_pb2.ReadBlobRequest(name=name)))


def arrays_of(stubs: Stubs, sheet: UnitSheet) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(blob(stubs, sheet.arrays)), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_a_sheet_has_the_pictures_of_the_units_in_the_order_of_the_request(stubs: Stubs, visualization: Any) -> None:
    sheet = sheet_of(stubs, visualization, units=[4, 11, 0])
    arrays = arrays_of(stubs, sheet)
    assert arrays.keys() == {"unit", "picture", "objective", "end", "steps", "attempt", "redirected_steps"}
    assert arrays["unit"].tolist() == [4, 11, 0]
    assert (sheet.height, sheet.width, sheet.columns, sheet.dead_units) == (16, 16, 2, 0)
    assert arrays["picture"].shape == (3, 16, 16, 3)
    assert set(arrays["end"].tolist()) <= {VisualizedItem.END_STEPS}
    with Image.open(io.BytesIO(blob(stubs, sheet.sheet))) as image:
        shown = np.asarray(image)
    np.testing.assert_array_equal(shown[:16, 16:], arrays["picture"][1])
    np.testing.assert_array_equal(shown[16:, :16], arrays["picture"][2])


def test_a_sheet_tells_what_was_asked_with_every_default_filled_in(stubs: Stubs, visualization: Any) -> None:
    sheet = sheet_of(stubs, visualization, tap="models/cnn/taps/relu1", units=[], recipe={"seed": 7})
    assert sheet.spec.tap == "models/cnn/versions/2/taps/relu1"
    assert list(sheet.spec.units) == list(range(8))
    assert sheet.spec.kind == UnitSheetSpec.KIND_CHANNEL
    recipe = sheet.spec.recipe
    assert (recipe.preset, recipe.seed) == ("lucid", 7)
    assert recipe.settings["size"] == "16"
    assert recipe.settings["recipe.redirect_steps"] == "128"
    spec = json.loads(sheet.spec_json)
    assert read_spec(blob(stubs, sheet.sheet)) == spec
    assert (spec["verb"], spec["tap"], spec["seed"], spec["units"]) == ("visualize-units", "relu1", 7, list(range(8)))
    assert sheet_of(stubs, visualization, **_again(sheet)).arrays == sheet.arrays


def _again(sheet: UnitSheet) -> dict[str, Any]:
    """The request that a sheet's own specification makes."""
    recipe = sheet.spec.recipe
    return {
        "tap": sheet.spec.tap,
        "units": sheet.spec.units,
        "kind": sheet.spec.kind,
        "recipe": {"preset": recipe.preset, "settings": dict(recipe.settings), "seed": recipe.seed},
    }


def test_provenance_tells_the_model_the_units_and_no_dataset(
    stubs: Stubs, visualization: Any, models: ModelRepository
) -> None:
    provenance = sheet_of(stubs, visualization).provenance
    assert provenance.model == "models/cnn/versions/2"
    assert provenance.model_digest == models.get("cnn", 2).manifest.digest
    assert (provenance.items, provenance.dataset, provenance.dataset_digest) == (2, "", "")
    assert provenance.execution_provider == "CPUExecutionProvider"
    assert provenance.spec_digest.startswith("sha256:")
    assert provenance.start_time.ToNanoseconds() < provenance.end_time.ToNanoseconds()


def test_a_units_bytes_are_the_same_in_every_sheet(stubs: Stubs, visualization: Any) -> None:
    whole = arrays_of(stubs, sheet_of(stubs, visualization, units=[], recipe={"seed": 5}))
    part = arrays_of(stubs, sheet_of(stubs, visualization, units=[9, 2], recipe={"seed": 5}))
    for name, array in part.items():
        assert array.tobytes() == whole[name][[9, 2]].tobytes()
    other = arrays_of(stubs, sheet_of(stubs, visualization, units=[9, 2], recipe={"seed": 6}))
    assert not np.array_equal(other["picture"], part["picture"])


def test_the_negative_of_a_unit_is_another_picture_with_a_smaller_activation(stubs: Stubs, visualization: Any) -> None:
    longer = {"settings": {**SMALL, "recipe.steps": "20"}}
    most = arrays_of(stubs, sheet_of(stubs, visualization, tap="models/cnn/taps/conv2", units=[3], recipe=longer))
    least = arrays_of(
        stubs, sheet_of(stubs, visualization, tap="models/cnn/taps/conv2", units=[3], negative=True, recipe=longer)
    )
    assert -least["objective"][0] < most["objective"][0]


def test_a_repeated_request_is_answered_with_the_same_operation(
    stubs: Stubs, visualization: Any, refused: Refused
) -> None:
    request = request_of()
    request.request_id = str(uuid.uuid4())
    first = visualization.VisualizeUnits(request)
    assert visualization.VisualizeUnits(request).name == first.name
    request.spec.negative = True
    assert refused(visualization.VisualizeUnits, request).reason == "REQUEST_ID_REUSED"
    stubs.wait(first)


def test_sheets_are_found_again_newest_first_and_deleted(stubs: Stubs, visualization: Any, refused: Refused) -> None:
    older, newer = sheet_of(stubs, visualization), sheet_of(stubs, visualization, units=[3])
    assert visualization.GetUnitSheet(visualization_pb2.GetUnitSheetRequest(name=older.name)) == older
    first = visualization.ListUnitSheets(visualization_pb2.ListUnitSheetsRequest(page_size=1))
    assert list(first.unit_sheets) == [newer]
    second = visualization.ListUnitSheets(
        visualization_pb2.ListUnitSheetsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert list(second.unit_sheets) == [older]
    request = visualization_pb2.DeleteUnitSheetRequest(name=newer.name, request_id=str(uuid.uuid4()))
    visualization.DeleteUnitSheet(request)
    visualization.DeleteUnitSheet(request)  # a repetition succeeds again
    get = visualization_pb2.GetUnitSheetRequest(name=newer.name)
    assert refused(visualization.GetUnitSheet, get).code == "NOT_FOUND"
    operation = operations_pb2.GetOperationRequest(name=newer.name.replace("unitSheets", "operations"))
    assert failure_of_status(stubs.operations.GetOperation(operation).error).reason == "RESULT_DELETED"
    assert refused(visualization.GetUnitSheet, visualization_pb2.GetUnitSheetRequest(name="unitSheets/x")).reason == (
        "INVALID_NAME"
    )


def test_a_sheet_that_is_cancelled_ends_soon(stubs: Stubs, visualization: Any) -> None:
    request = request_of(units=range(12), recipe={"settings": {"size": "16", "recipe.steps": "20000"}})
    operation = visualization.VisualizeUnits(request)
    deadline = time.monotonic() + 30
    metadata = OperationMetadata()
    while metadata.state != OperationMetadata.STATE_RUNNING and time.monotonic() < deadline:
        operation = stubs.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
        operation.metadata.Unpack(metadata)
        time.sleep(0.02)
    time.sleep(0.3)
    began = time.monotonic()
    stubs.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    assert failure_of_status(stubs.wait(operation).error).code == "CANCELLED"
    assert time.monotonic() - began < 2


def test_a_time_limit_ends_a_sheet(stubs: Stubs, visualization: Any) -> None:
    request = request_of(units=range(12), recipe={"settings": {"size": "16", "recipe.steps": "20000"}})
    request.time_limit.FromMilliseconds(500)
    assert failure_of_status(stubs.wait(visualization.VisualizeUnits(request)).error).code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    ("spec", "code", "reason", "field"),
    [
        ({"tap": "models/cnn"}, "INVALID_ARGUMENT", "INVALID_NAME", "spec.tap"),
        ({"tap": "models/nothing/taps/x"}, "NOT_FOUND", "UNKNOWN_MODEL", "spec.tap"),
        ({"tap": "models/cnn/versions/9/taps/flat"}, "NOT_FOUND", "UNKNOWN_VERSION", "spec.tap"),
        ({"tap": "models/cnn/taps/relu7"}, "NOT_FOUND", "UNKNOWN_TAP", "spec.tap"),
        ({"units": [12]}, "INVALID_ARGUMENT", "INVALID_UNIT", "spec.units"),
        ({"units": [0, -1]}, "INVALID_ARGUMENT", "INVALID_UNIT", "spec.units"),
        ({"units": [3, 1, 3]}, "INVALID_ARGUMENT", "REPEATED_UNIT", "spec.units"),
        ({"units": range(4097)}, "INVALID_ARGUMENT", "TOO_MANY_UNITS", "spec.units"),
        ({"kind": 9}, "INVALID_ARGUMENT", "INVALID_KIND", "spec.kind"),
        ({"recipe": {"preset": "lucyd"}}, "NOT_FOUND", "UNKNOWN_PRESET", "spec.recipe.preset"),
        (
            {"recipe": {"settings": {"sise": "3"}}},
            "INVALID_ARGUMENT",
            "UNKNOWN_SETTING",
            "spec.recipe.settings.sise",
        ),
        (
            {"recipe": {"settings": {"size": '"big"'}}},
            "INVALID_ARGUMENT",
            "INVALID_SETTING",
            "spec.recipe.settings.size",
        ),
        ({"recipe": {"preset": "deepdream"}}, "INVALID_ARGUMENT", "START_MISSING", "spec.recipe.preset"),
        ({"recipe": {"preset": "vector", "settings": {}}}, "INVALID_ARGUMENT", "NOT_A_PICTURE", "spec.recipe.preset"),
        ({"recipe": {"seed": -1}}, "INVALID_ARGUMENT", "INVALID_SEED", "spec.recipe.seed"),
        (
            {"recipe": {"time_budget": {"seconds": 1}}},
            "INVALID_ARGUMENT",
            "TIME_BUDGET_NOT_SUPPORTED",
            "spec.recipe.time_budget",
        ),
        (
            {"recipe": {"settings": {"recipe.steps": "20000", "recipe.attempts": "2"}}},
            "INVALID_ARGUMENT",
            "TOO_MANY_STEPS",
            "spec.recipe.settings.recipe.steps",
        ),
        (
            {"recipe": {"settings": {"parameterization": '{"lowres": {"sets": 1}}'}}},
            "INVALID_ARGUMENT",
            "COUPLED_UNITS",
            "spec.recipe.settings.parameterization",
        ),
        (
            {"recipe": {"settings": {"parameterization": '{"generator": {"model": "none"}}'}}},
            "NOT_FOUND",
            "UNKNOWN_MODEL",
            "spec.recipe.settings.parameterization.model",
        ),
        ({"tap": "models/mlp/taps/{mlp}", "units": [0]}, "INVALID_ARGUMENT", "NOT_A_PICTURE", "spec.recipe.preset"),
    ],
)
def test_what_cannot_be_visualized_is_refused_at_once(
    visualization: Any,
    refused: Refused,
    models: ModelRepository,
    spec: dict[str, Any],
    code: str,
    reason: str,
    field: str,
) -> None:
    if "{mlp}" in spec.get("tap", ""):
        tap = models.get("mlp", None).manifest.taps[0].tensor
        spec = {**spec, "tap": f"models/mlp/taps/{tap}", "recipe": {"settings": {}}}
    failure = refused(visualization.VisualizeUnits, request_of(**spec))
    assert (failure.code, failure.reason, failure.field) == (code, reason, field), failure.message


def test_pictures_that_are_too_large_together_are_refused(
    visualization: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_sheets, "MOST_PIXELS", 2 * 16 * 16 - 1)
    failure = refused(visualization.VisualizeUnits, request_of())
    assert (failure.code, failure.reason, failure.field) == ("INVALID_ARGUMENT", "TOO_MANY_PIXELS", "spec.units")


@pytest.mark.parametrize(
    ("operator", "code", "reason", "field"),
    [
        ("Det", "UNIMPLEMENTED", "UNSUPPORTED_GRADIENT", ""),
        ("Floor", "FAILED_PRECONDITION", "TAP_UNREACHABLE", "spec.tap"),
    ],
)
def test_a_tap_that_nothing_can_be_climbed_at_is_refused_at_once(
    tmp_path: Path, refused: Refused, operator: str, code: str, reason: str, field: str
) -> None:
    g = GraphBuilder(0)
    g.node(operator, ["image"], "tap")
    shape: list[int | str] = ["n", 3] if operator == "Det" else ["n", 3, 16, 16]
    model = g.model([float_value("image", ["n", 3, 16, 16])], [float_value("tap", shape)], opset=17)
    add_model(ModelRepository(tmp_path / "models"), "bad", model, preprocessing=PREPROCESSING)
    with serving(ServerConfig(tmp_path / "models", tmp_path / "store", listen="127.0.0.1:0")) as (_, stubs):
        failure = refused(stubs.visualization.VisualizeUnits, request_of(tap="models/bad/taps/tap", units=[1]))
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)
