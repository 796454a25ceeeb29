"""The service `ortoscope.v1.Atlases`: builds atlases, and shows their cells."""

import threading
from collections.abc import Mapping
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from ortoscope.v1 import atlases_pb2

from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.proposals import Proposal, propose_patches
from ortoscope_service.analysis.atlas.queries import DEFAULT_TOP, Order, Rectangle, query_cells
from ortoscope_service.analysis.atlas.settings import atlas_settings_map
from ortoscope_service.analysis.atlas.sheets import SheetLayout, Sheets, tile_count, tile_of
from ortoscope_service.analysis.classes import Classes, find_classes
from ortoscope_service.api import resources
from ortoscope_service.api.atlas_appending import appended_spec, base_job, check_same_tap
from ortoscope_service.api.atlas_comparisons import AtlasComparisonsServicer
from ortoscope_service.api.atlas_lookup import COLLECTION, find_atlas, subject_of
from ortoscope_service.api.atlas_messages import CellWriter, crop_of, dataset_of
from ortoscope_service.api.atlas_projections import AtlasProjectionsServicer
from ortoscope_service.api.atlas_requests import class_index, read_atlas_request
from ortoscope_service.api.components import Components, blaming
from ortoscope_service.api.operations import repeated_request
from ortoscope_service.api.result_arrays import ResultArrays
from ortoscope_service.api.submissions import find_submitted, publisher, submit, time_limit_of
from ortoscope_service.errors import Code, OrtoscopeError, invalid, not_found
from ortoscope_service.jobs.runner import Publisher
from ortoscope_service.jobs.store import Store

DEFAULT_TILE_CELLS = 10
DEFAULT_PROPOSALS = 10
MOST_PROPOSALS = 100

_ORDERS: Mapping[int, Order] = {
    atlases_pb2.ListCellsRequest.ORDER_UNSPECIFIED: Order.POSITION,
    atlases_pb2.ListCellsRequest.ORDER_POSITION: Order.POSITION,
    atlases_pb2.ListCellsRequest.ORDER_ATTRIBUTION: Order.ATTRIBUTION,
    atlases_pb2.ListCellsRequest.ORDER_COUNT: Order.COUNT,
}


def atlas_publisher(store: Store) -> Publisher:
    """What stores atlases, whether they are complete or not."""
    return publisher(store, COLLECTION, atlases_pb2.Atlas, _fill)


class AtlasesServicer(AtlasProjectionsServicer, AtlasComparisonsServicer):
    """Builds atlases, shows them, and works with them."""

    def __init__(self, components: Components) -> None:
        super().__init__(components)
        self._records = components.store.records
        self._arrays = ResultArrays(components.store.blobs)
        self._tiles = threading.Lock()
        self._sheets: tuple[str, Sheets] | None = None

    def BuildAtlas(
        self, request: atlases_pb2.BuildAtlasRequest, context: grpc.ServicerContext
    ) -> operations_pb2.Operation:
        """Builds an atlas, as an operation."""
        identity = repeated_request(request.request_id, request)
        submitted = find_submitted(self._components, identity)
        if submitted is not None:
            return submitted
        limit = time_limit_of(request)
        spec = request.spec
        if spec.base_atlas:
            spec = appended_spec(self._components, spec)
        asked = read_atlas_request(self._components, spec)
        draft = atlases_pb2.Atlas(spec=asked.message, settings=atlas_settings_map(asked.settings))
        if asked.classes is not None:
            draft.class_labels.extend(asked.classes.labels)
        verb, splits, job = "build-atlas", request.spec.splits, asked.job_spec()
        if spec.base_atlas:
            check_same_tap(self._components, asked.message)
            verb, job = "append-atlas", {**job, "base": base_job(self._components, asked.message)}
        return submit(self._components, identity, verb, asked.subject, splits, job, draft, limit)

    def GetAtlas(self, request: atlases_pb2.GetAtlasRequest, context: grpc.ServicerContext) -> atlases_pb2.Atlas:
        """Gets an atlas."""
        return find_atlas(self._components, request.name, field="name")

    def ListAtlases(
        self, request: atlases_pb2.ListAtlasesRequest, context: grpc.ServicerContext
    ) -> atlases_pb2.ListAtlasesResponse:
        """Lists the atlases, newest first."""
        page = self._components.page(request.page_size, request.page_token, "ListAtlases")
        found = self._records.list(COLLECTION, before=page.position, count=page.size + 1)
        shown = found[: page.size]
        return atlases_pb2.ListAtlasesResponse(
            atlases=[atlases_pb2.Atlas.FromString(message) for _, message in shown],
            next_page_token=page.token(shown[-1][0]) if len(found) > page.size else "",
        )

    def DeleteAtlas(self, request: atlases_pb2.DeleteAtlasRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Deletes an atlas."""
        identity = repeated_request(request.request_id, request)
        identifier = resources.parse_atlas(request.name, field="name")
        requests = self._components.store.requests
        if requests.find(identity) is None:
            self._check_at_rest(identifier)
            self._records.delete(COLLECTION, identifier)
            requests.add(identity, request.name)
        return empty_pb2.Empty()

    def ListCells(
        self, request: atlases_pb2.ListCellsRequest, context: grpc.ServicerContext
    ) -> atlases_pb2.ListCellsResponse:
        """Lists the cells of a level, or those of a region, class or text."""
        if request.order not in _ORDERS:
            raise invalid("INVALID_ORDER", f"There is no order {request.order}.", field="order", order=request.order)
        if request.top_classes < 0:
            raise invalid(
                "INVALID_COUNT",
                f"top_classes is {request.top_classes}; give a positive number, or 0 for {DEFAULT_TOP}.",
                field="top_classes",
                top_classes=request.top_classes,
            )
        scope = atlases_pb2.ListCellsRequest()
        scope.CopyFrom(request)
        scope.ClearField("page_size")
        scope.ClearField("page_token")
        decisive = scope.SerializeToString(deterministic=True).hex()
        page = self._components.page(request.page_size, request.page_token, "ListCells", decisive)
        atlas = find_atlas(self._components, request.parent, field="parent")
        cells = self._cells(atlas, _level(atlas, request.grid, field="grid"))
        region, top = None, request.top_classes or DEFAULT_TOP
        if request.HasField("region"):
            given = request.region
            region = Rectangle(given.left, given.top, given.right, given.bottom)
        wanted = getattr(request, "class")
        index = class_index(self._classes(atlas), wanted, field="class") if wanted else None
        found = query_cells(cells, atlas.class_labels, region, index, request.text, _ORDERS[request.order], top)
        start = page.position or 0
        shown = found[start : start + page.size].tolist()
        writer = CellWriter(atlas, cells, self._samples(atlas), top, with_means=request.with_means)
        return atlases_pb2.ListCellsResponse(
            cells=[writer.cell(cell) for cell in shown],
            next_page_token=page.token(start + len(shown)) if start + len(shown) < len(found) else "",
        )

    def GetTile(self, request: atlases_pb2.GetTileRequest, context: grpc.ServicerContext) -> atlases_pb2.Tile:
        """Gets the icons of a square of cells as one picture."""
        atlas = find_atlas(self._components, request.name, field="name")
        level = _level(atlas, request.grid, field="grid")
        if not level.icons:
            raise not_found(
                "NO_ICONS",
                f"The level {level.grid} of {atlas.name} has no icons"
                + (" yet." if atlas.state == atlases_pb2.Atlas.STATE_PARTIAL else ": it was built without."),
                field="grid",
                grid=level.grid,
            )
        count = request.cells or min(DEFAULT_TILE_CELLS, level.grid)
        cells = self._cells(atlas, level)
        with self._tiles:
            png = tile_of(
                self._icon_sheets(level), cells.row, cells.column, level.grid, count, (request.row, request.column)
            )
        return atlases_pb2.Tile(png=png, tiles=tile_count(level.grid, count))

    def ProposePatches(
        self, request: atlases_pb2.ProposePatchesRequest, context: grpc.ServicerContext
    ) -> atlases_pb2.ProposePatchesResponse:
        """Finds cells that may turn one class into another, and crops of real images in them."""
        if not 0 <= request.count <= MOST_PROPOSALS:
            raise invalid(
                "INVALID_COUNT",
                f"count is {request.count}; give 1 to {MOST_PROPOSALS}, or 0 for {DEFAULT_PROPOSALS}.",
                field="count",
                count=request.count,
            )
        atlas = find_atlas(self._components, request.atlas, field="atlas")
        cells, samples = self._cells(atlas, _level(atlas, request.grid, field="grid")), self._samples(atlas)
        if cells.attribution is None:
            proposals: tuple[Proposal, ...] = propose_patches(cells, 0, 1, 1, image=samples["image"])
        else:
            classes = self._classes(atlas)
            source, target = (
                class_index(classes, name, field=field)
                for name, field in ((request.source, "source"), (request.target, "target"))
            )
            count = request.count or DEFAULT_PROPOSALS
            proposals = propose_patches(cells, source, target, count, image=samples["image"])
        subjects = {
            name: subject_of(self._components, atlas, name, (), field="atlas")
            for name in {dataset_of(atlas, samples, proposal.sample) for proposal in proposals}
        }
        writer = CellWriter(atlas, cells, samples, DEFAULT_TOP)
        answer = atlases_pb2.ProposePatchesResponse()
        for proposal in proposals:
            image = int(samples["image"][proposal.sample])
            subject = subjects[dataset_of(atlas, samples, proposal.sample)]
            region, png = crop_of(subject, image, samples["site"][proposal.sample], samples["site_shape"])
            answer.proposals.add(
                cell=writer.cell(proposal.cell),
                image=str(resources.ImageName(subject.dataset_name, image)),
                crop=region,
                png=png,
                push=proposal.push,
            )
        return answer

    def _check_at_rest(self, identifier: str) -> None:
        """Refuses to delete what is being built."""
        try:
            operation = self._components.store.operations.get(identifier)
        except OrtoscopeError:
            return  # its record has expired
        if not operation.state.done:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "ATLAS_IN_PROGRESS",
                f"atlases/{identifier} is being built; cancel {resources.operation(identifier)} first.",
                field="name",
                metadata={"operation": resources.operation(identifier)},
            )

    def _cells(self, atlas: atlases_pb2.Atlas, level: atlases_pb2.AtlasLevel) -> Cells:
        return Cells.from_arrays(self._arrays.get(resources.parse_blob(level.cells, field="")))

    def _samples(self, atlas: atlases_pb2.Atlas) -> Mapping[str, Any]:
        return self._arrays.get(resources.parse_blob(atlas.samples, field=""))

    def _classes(self, atlas: atlases_pb2.Atlas) -> Classes:
        """The classes that an atlas speaks of."""
        name = resources.parse_tap(atlas.spec.tap, field="")
        version = self._components.model_version(name.model, field="parent")
        with blaming("parent"):
            return find_classes(version)

    def _icon_sheets(self, level: atlases_pb2.AtlasLevel) -> Sheets:
        """The sheets of a level; those used last are kept, as tiles are asked for one after the other."""
        key = " ".join(level.icons)
        if self._sheets is None or self._sheets[0] != key:
            load = self._components.store.blobs.load
            encoded = [load(resources.parse_blob(name, field="")) for name in level.icons]
            self._sheets = key, Sheets(SheetLayout(level.icon_size), encoded)
        return self._sheets[1]


def _level(atlas: atlases_pb2.Atlas, grid: int, *, field: str) -> atlases_pb2.AtlasLevel:
    """The level of a grid, or the finest one.

    Raises:
        OrtoscopeError: NOT_FOUND, UNKNOWN_LEVEL.
    """
    for level in reversed(atlas.levels):
        if grid in {0, level.grid}:
            return level
    grids = ", ".join(str(level.grid) for level in atlas.levels)
    raise not_found(
        "UNKNOWN_LEVEL",
        f"{atlas.name} has no level of {grid} x {grid} cells; it has {grids}.",
        field=field,
        grid=grid,
        grids=grids,
    )


def _fill(message: atlases_pb2.Atlas, values: Mapping[str, Any], blobs: Mapping[str, str]) -> None:
    message.state = atlases_pb2.Atlas.STATE_COMPLETE if values["complete"] else atlases_pb2.Atlas.STATE_PARTIAL
    message.sample_count, message.image_count = values["samples"], values["images"]
    message.zero_samples, message.duplicate_samples = values["zero"], values["duplicates"]
    message.unit_count = values["units"]
    if not values["attributed"]:
        del message.class_labels[:]
    quality = message.quality
    quality.trustworthiness, quality.neighbourhood_recall, quality.queries = values["quality"]
    message.remarks.extend(values["remarks"])
    message.samples, message.frame = blobs["samples"], blobs.get("frame", "")
    for number, told in enumerate(values["levels"]):
        level = message.levels.add(
            grid=told["grid"],
            cell_count=told["cells"],
            largest_count=told["largest"],
            cells=blobs[f"cells.{number}"],
            crops=[blobs[f"crops.{number}.{sheet}"] for sheet in range(told["crop_sheets"])],
            crop_size=told["crop_size"],
            crops_per_row=told["crops_per_row"],
            crops_per_sheet=told["crops_per_sheet"],
        )
        if "icon_sheets" in told:
            level.icons.extend(blobs[f"icons.{number}.{sheet}"] for sheet in range(told["icon_sheets"]))
            level.icon_size = told["icon_size"]
            level.icons_per_row, level.icons_per_sheet = told["icons_per_row"], told["icons_per_sheet"]
