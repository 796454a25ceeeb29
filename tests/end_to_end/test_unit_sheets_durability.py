"""Whatever is killed while a unit sheet is made, its pictures are those that climbs in one process come to."""

import io
import json
import time
import uuid
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np
import onnx
from durability import FORMATIONS, Rig, Victim, deployment
from ortoscope.v1 import visualization_pb2, visualization_pb2_grpc
from ortoscope_service.analysis.visualization.png import read_spec, to_bytes
from ortoscope_service.analysis.visualization.settings import resolve_preset
from ortoscope_service.analysis.visualization.spec import prepare_units
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.sessions import SessionConfig
from serving import PREPROCESSING, add_model
from tiny_models import GraphBuilder, float_value
from tireless_calls import asked_for_again_until_answered, read, state_of

SETTINGS = {"size": "16", "recipe.steps": "80"}
UNITS = 96
SEED = 11


def network() -> onnx.ModelProto:
    """`image` (n, 3, 16, 16) → `units` (n, 96, 8, 8)."""
    g = GraphBuilder(4)
    g.node("Conv", ["image", g.weight("w", (UNITS, 3, 5, 5), 75)], "convolved", pads=[2] * 4, strides=[2, 2])
    g.node("Relu", ["convolved"], "units")
    return g.model([float_value("image", ["n", 3, 16, 16])], [float_value("units", ["n", UNITS, 8, 8])], opset=17)


def test_a_sheet_whose_worker_and_server_are_killed_is_what_one_process_makes(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "models", tmp_path / "datasets")
    rig.datasets.mkdir()
    version = add_model(ModelRepository(rig.models), "net", network(), preprocessing=PREPROCESSING)
    request = visualization_pb2.VisualizeUnitsRequest(
        spec=visualization_pb2.UnitSheetSpec(
            tap="models/net/taps/units", recipe=visualization_pb2.VisualizationRecipe(settings=SETTINGS, seed=SEED)
        ),
        request_id=str(uuid.uuid4()),
    )

    def submit(channel: grpc.Channel) -> Any:
        stub: Any = visualization_pb2_grpc.VisualizationStub(channel)  # type: ignore[no-untyped-call]
        return stub.VisualizeUnits(request)

    (formation,) = (one for one in FORMATIONS if one.workers == 2 and not one.cluster)
    with deployment(rig, formation, tmp_path) as deployed:
        name = asked_for_again_until_answered(deployed.address, submit).name
        victims = [Victim.WORKER, Victim.SERVER]
        while True:
            operation, metadata = state_of(deployed.address, name)
            if operation.done:
                break
            if victims and metadata.done_items >= 16 * (3 - len(victims)):
                deployed.strike(victims.pop(0), Random(0))
            time.sleep(0.01)
        assert victims == []
        assert not operation.HasField("error"), operation
        sheet = visualization_pb2.UnitSheet()
        assert operation.response.Unpack(sheet)
        with np.load(io.BytesIO(read(deployed.address, sheet.arrays)), allow_pickle=False) as file:
            pictures, objectives = file["picture"], file["objective"]
        assert read_spec(read(deployed.address, sheet.sheet)) == json.loads(sheet.spec_json)
        assert deployed.stop() == []

    preset = resolve_preset("lucid", SETTINGS)
    one_thread = SessionConfig(intra_op_threads=1)
    for first in range(0, UNITS, 32):
        units = range(first, first + 32)
        alone = prepare_units(version, "units", units, preset, seed=SEED, session=one_thread).run()
        assert pictures[first : first + 32].tobytes() == to_bytes(alone.pictures).tobytes()
        expected = np.array([outcome.objective for outcome in alone.outcomes], np.float32)
        assert objectives[first : first + 32].tobytes() == expected.tobytes()
