"""A real gRPC server that holds one atlas drawn by formula, and answers as the service does where it is simple."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from atlas_pages import layer_of, level_of
from google.longrunning import operations_pb2
from operations_server import packed
from ortoscope.report.atlas.page import AtlasLayer
from ortoscope.v1 import atlases_pb2, blobs_pb2, datasets_pb2, models_pb2, visualization_pb2
from ortoscope.v1 import operations_pb2 as metadata_pb2
from PIL import Image
from scripted_server import Answer, fail, scripted

TAP = "models/net/versions/3/taps/blocks.10"
LABELS = ("cat", "dog", "orca", "shark, white", "ball")


def npz(arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


class AtlasServer:
    """What a server with an atlas of 5 classes and levels of 6 and 12 cells a side answers.

    Attributes:
        layer: The atlas's arrays and pictures, as the page takes them.
        asked: Every request, in the order of the calls.
        waits: What WaitOperation answers, one after the other; the last for ever.
    """

    def __init__(self) -> None:
        levels = [level_of(grid, classes=len(LABELS), size=32, crop_size=16) for grid in (6, 12)]
        for level in levels:
            level.cells["mean"] = np.ones((len(level.cells["row"]), 7), np.float32)  # type: ignore[index] # a dict
        self.layer: AtlasLayer = layer_of("blocks.10", levels, LABELS)
        self.blobs: dict[str, bytes] = {}
        self.asked: list[Any] = []
        self.atlas = atlases_pb2.Atlas()
        self.atlas.CopyFrom(self.layer.atlas)
        self.atlas.samples = self.keep(npz(self.layer.samples))
        self.atlas.frame = self.keep(npz({"landmarks": np.zeros((3, 7), np.float16)}))
        self.atlas.provenance.model_digest = "sha256:00"
        self.atlas.spec.seed = 5
        for level in self.layer.levels:
            self.atlas.levels.append(
                atlases_pb2.AtlasLevel(
                    grid=level.grid,
                    cell_count=len(level.cells["row"]),
                    largest_count=int(level.cells["count"].max()),
                    cells=self.keep(npz(level.cells)),
                    icon_size=level.icon_size,
                    icons=[self.keep(sheet) for sheet in level.icons],
                    icons_per_row=level.icons_per_row,
                    icons_per_sheet=level.icons_per_sheet,
                    crop_size=level.crop_size,
                    crops=[self.keep(sheet) for sheet in level.crops],
                    crops_per_row=level.crops_per_row,
                    crops_per_sheet=level.crops_per_sheet,
                )
            )
        self.waits: list[Any] = [self.operation(self.atlas)]
        self.there: list[Any] = [self.atlas]

    def keep(self, data: bytes) -> str:
        """Holds bytes as a blob and gives its name."""
        name = f"blobs/{hashlib.sha256(data).hexdigest()}"
        self.blobs[name] = data
        return name

    def operation(
        self, result: Any = None, stage: str = "climbing icons", verb: str = "build-atlas", **more: Any
    ) -> Any:
        """An operation; done if it has a result."""
        states = metadata_pb2.OperationMetadata
        metadata = metadata_pb2.OperationMetadata(
            verb=verb, target=TAP, dataset="datasets/scenes", stage=stage, done_items=1, total_items=2,
            state=states.STATE_RUNNING if result is None else states.STATE_SUCCEEDED,
        )  # fmt: skip
        if result is not None:
            more |= {"done": True, "response": packed(result)}
        return operations_pb2.Operation(name="operations/1", metadata=packed(metadata), **more)

    def answers(self) -> dict[str, Answer]:
        """The answers by the name of the rpc."""

        def told(answer: Answer) -> Answer:
            def tell(request: Any, context: grpc.ServicerContext) -> Any:
                self.asked.append(request)
                return answer(request, context)

            return tell

        made: dict[str, Answer] = {
            "GetAtlas": self._get,
            "ListAtlases": lambda request, context: atlases_pb2.ListAtlasesResponse(atlases=[self.atlas]),
            "DeleteAtlas": lambda request, context: operations_pb2.Operation(),
            "ListCells": lambda request, context: atlases_pb2.ListCellsResponse(cells=[self._cell(0), self._cell(3)]),
            "GetTile": self._tile,
            "BuildAtlas": lambda request, context: self.operation(stage="laying out"),
            "ProjectSamples": lambda request, context: self.operation(verb="project-samples"),
            "CompareAtlases": lambda request, context: self.operation(verb="compare-atlases"),
            "ProposePatches": lambda request, context: atlases_pb2.ProposePatchesResponse(
                proposals=[self._proposal(cell) for cell in (0, 3)]
            ),
            "WaitOperation": lambda request, context: self.waits.pop(0) if len(self.waits) > 1 else self.waits[0],
            "GetOperation": lambda request, context: self.waits[0],
            "CancelOperation": lambda request, context: operations_pb2.Operation(),
            "GetModelVersion": lambda request, context: models_pb2.ModelVersion(
                name="models/net/versions/3", inputs=[models_pb2.ModelInput(name="x", shape=[-1, 3, 8, 8])]
            ),
            "GetTap": lambda request, context: models_pb2.Tap(name=TAP, tensor="blocks.10", display_name="blocks.10"),
            "ListTaps": lambda request, context: models_pb2.ListTapsResponse(
                taps=[models_pb2.Tap(name=TAP, tensor="blocks.10", display_name="blocks.10")]
            ),
            "ListImages": lambda request, context: datasets_pb2.ListImagesResponse(
                images=[
                    datasets_pb2.Image(
                        name=f"datasets/scenes/images/{index}",
                        index=index,
                        path=f"photos/{index:03d}.jpg",
                        class_name=LABELS[index % 2],
                    )
                    for index in range(64)
                ]
            ),
            "TestPatch": self._test,
        }
        return {name: told(answer) for name, answer in made.items()} | {"ReadBlob": self._read}

    def _get(self, request: Any, context: grpc.ServicerContext) -> Any:
        found = self.there.pop(0) if len(self.there) > 1 else self.there[0]
        if found is None:
            fail(context, "NOT_FOUND", "no such atlas", reason="UNKNOWN_ATLAS")
        return found

    def _read(self, request: blobs_pb2.ReadBlobRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield blobs_pb2.ReadBlobResponse(data=self.blobs[request.name][request.offset :])

    def _tile(self, request: Any, context: grpc.ServicerContext) -> Any:
        file = io.BytesIO()
        Image.new("RGBA", (64, 32), (0, 0, 0, 0)).save(file, "PNG")
        return atlases_pb2.Tile(png=file.getvalue(), tiles=2)

    def _cell(self, index: int) -> atlases_pb2.Cell:
        cells = self.layer.levels[0].cells
        return atlases_pb2.Cell(
            index=index, row=int(cells["row"][index]), column=int(cells["column"][index]), count=4, dispersion=0.25,
            classes=[atlases_pb2.CellClass(index=4, label="ball", attribution=1.5)],
            nearest=[atlases_pb2.CellSample(image="datasets/scenes/images/1", site=[2, 3], position=[0.25, 0.5])],
            score=0.5, represents=True,
        )  # fmt: skip

    def _proposal(self, index: int) -> atlases_pb2.PatchProposal:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (20 * index, 0, 0)).save(file, "PNG")
        return atlases_pb2.PatchProposal(
            cell=self._cell(index), image="datasets/scenes/images/1", png=file.getvalue(), push=2.0 - index,
            crop=atlases_pb2.Region(left=0.25, top=0, right=0.5, bottom=0.25),
        )  # fmt: skip

    def _test(self, request: visualization_pb2.TestPatchRequest, context: grpc.ServicerContext) -> Any:
        """The second patch turns all pictures, the first as few as noise."""
        red = np.asarray(Image.open(io.BytesIO(request.patch.image)))[0, 0, 0]
        count = len(request.inputs)
        return visualization_pb2.TestPatchResponse(
            trials=[
                visualization_pb2.PatchTrial(
                    size=size, place=1, pictures=count, flips=count if red else 1, control_flip_rate=1 / count
                )
                for size in (0.2, 0.4)
            ]
        )


@contextmanager
def running_atlas_server() -> Iterator[tuple[str, AtlasServer]]:
    """Yields the target and what is served."""
    server = AtlasServer()
    with scripted(server.answers()) as target:
        yield target, server
