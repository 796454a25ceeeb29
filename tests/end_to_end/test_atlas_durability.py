"""Whatever is killed while an atlas is built, it is that built undisturbed; cancelled, it is a coarser one."""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import grpc
import onnx
import pytest
from durability import FORMATIONS, Deployment, Rig, Victim, deployment
from google.longrunning import operations_pb2, operations_pb2_grpc
from ortoscope.v1 import atlases_pb2, atlases_pb2_grpc
from ortoscope.v1.atlases_pb2 import Atlas, AtlasSpec, BuildAtlasRequest
from ortoscope_service.models.repository import ModelRepository
from serving import PREPROCESSING, add_model
from small_atlases import write_photos
from tiny_models import GraphBuilder, float_value
from tireless_calls import asked_for_again_until_answered, read, state_of

SETTINGS = {
    "layout.n_neighbors": "8",
    "layout.n_epochs": "30",
    "icons.size": "16",
    "icons.steps": "50",
    "icons.attempts": "1",
    "icons.warm_steps": "30",
    "icons.share_above": "1",
    "grid.crop_size": "16",
}


def network() -> onnx.ModelProto:
    """`image` (n, 3, 16, 16) → `units` (n, 24, 8, 8)."""
    g = GraphBuilder(4)
    g.node("Conv", ["image", g.weight("w", (24, 3, 5, 5), 75)], "convolved", pads=[2] * 4, strides=[2, 2])
    g.node("Relu", ["convolved"], "units")
    return g.model([float_value("image", ["n", 3, 16, 16])], [float_value("units", ["n", 24, 8, 8])], opset=17)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    folder = tmp_path_factory.mktemp("rig")
    made = Rig(folder / "models", folder / "datasets")
    add_model(ModelRepository(made.models), "net", network(), preprocessing=PREPROCESSING)
    write_photos(made.datasets / "photos", 40)
    return made


def submitted(address: str, grids: Sequence[int]) -> str:
    """The name of an operation that builds an atlas."""
    spec = AtlasSpec(
        tap="models/net/taps/units", dataset="datasets/photos", sites_per_image=3, grids=grids, settings=SETTINGS
    )
    request = BuildAtlasRequest(spec=spec, request_id=str(uuid.uuid4()))

    def call(channel: grpc.Channel) -> Any:
        stub: Any = atlases_pb2_grpc.AtlasesStub(channel)  # type: ignore[no-untyped-call]
        return stub.BuildAtlas(request)

    return str(asked_for_again_until_answered(address, call).name)


def finished(deployed: Deployment, name: str, victims: Sequence[Victim] = ()) -> Atlas:
    """The atlas that an operation comes to; meanwhile, whoever shall be killed is, as soon as anything is drawn."""
    waiting = list(victims)
    while True:
        operation, metadata = state_of(deployed.address, name)
        if operation.done:
            break
        if waiting and metadata.stage == "drawing icons" and metadata.done_items >= 8 * (3 - len(waiting)):
            deployed.strike(waiting.pop(0), Random(0))
        time.sleep(0.01)
    assert waiting == []
    assert not operation.HasField("error"), operation
    atlas = Atlas()
    assert operation.response.Unpack(atlas)
    return atlas


def test_an_atlas_whose_worker_and_server_are_killed_is_that_of_one_worker(rig: Rig, tmp_path: Path) -> None:
    one, two = (next(kind for kind in FORMATIONS if kind.workers == count and not kind.cluster) for count in (1, 2))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    with deployment(rig, one, tmp_path / "one") as deployed:
        expected = finished(deployed, submitted(deployed.address, [4, 9]))
        assert deployed.stop() == []
    with deployment(rig, two, tmp_path / "two") as deployed:
        victims = [Victim.WORKER, Victim.SERVER]
        found = finished(deployed, submitted(deployed.address, [4, 9]), victims)
        for name in (found.samples, found.frame, *found.levels[1].icons, found.levels[1].cells):
            assert read(deployed.address, name)
        assert deployed.stop() == []
    # Blobs are named by their contents.
    assert (found.samples, found.frame) == (expected.samples, expected.frame)
    assert list(found.levels) == list(expected.levels)


def test_an_atlas_that_is_cancelled_keeps_the_levels_that_are_there(rig: Rig, tmp_path: Path) -> None:
    (formation,) = (one for one in FORMATIONS if one.workers == 1 and not one.cluster)
    with deployment(rig, formation, tmp_path) as deployed, grpc.insecure_channel(deployed.address) as channel:
        operations: Any = operations_pb2_grpc.OperationsStub(channel)
        atlases: Any = atlases_pb2_grpc.AtlasesStub(channel)  # type: ignore[no-untyped-call]
        operation = submitted(deployed.address, [3, 6, 12])
        name = operation.replace("operations", "atlases")
        atlas = Atlas()
        while not (atlas.levels and atlas.levels[0].icons):
            assert not state_of(deployed.address, operation)[0].done
            there = atlases.ListAtlases(atlases_pb2.ListAtlasesRequest()).atlases
            atlas = there[0] if there else atlas
            time.sleep(0.02)
        assert (atlas.name, atlas.state) == (name, Atlas.STATE_PARTIAL)
        with pytest.raises(grpc.RpcError) as refused:
            atlases.DeleteAtlas(atlases_pb2.DeleteAtlasRequest(name=name))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation))
        while not (ended := state_of(deployed.address, operation)[0]).done:
            time.sleep(0.02)
        assert ended.error.code == grpc.StatusCode.CANCELLED.value[0]
        kept = atlases.GetAtlas(atlases_pb2.GetAtlasRequest(name=name))
        assert kept.state == Atlas.STATE_PARTIAL
        assert [level.grid for level in kept.levels] == [3, 6, 12]
        assert kept.levels[0].icons
        assert not kept.levels[2].icons
        assert atlases.GetTile(atlases_pb2.GetTileRequest(name=name, grid=3)).png
        for level in kept.levels:
            listed = atlases.ListCells(atlases_pb2.ListCellsRequest(parent=name, grid=level.grid, page_size=200)).cells
            assert len(listed) == level.cell_count
            for blob in (level.cells, *level.icons, *level.crops):
                assert read(deployed.address, blob)
        atlases.DeleteAtlas(atlases_pb2.DeleteAtlasRequest(name=name))
        with pytest.raises(grpc.RpcError) as gone:
            atlases.GetAtlas(atlases_pb2.GetAtlasRequest(name=name))
        assert gone.value.code() is grpc.StatusCode.NOT_FOUND
        assert deployed.stop() == []
