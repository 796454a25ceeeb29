"""The part of the service `ortoscope.v1.Atlases` that places other images in an atlas."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.longrunning import operations_pb2
from ortoscope.v1 import atlases_pb2, atlases_pb2_grpc

from ortoscope_service.api import resources
from ortoscope_service.api.atlas_lookup import find_atlas, settings_of, subject_of
from ortoscope_service.api.components import Components
from ortoscope_service.api.operations import repeated_request
from ortoscope_service.api.submissions import find_submitted, publisher, submit, time_limit_of
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.jobs.runner import Publisher
from ortoscope_service.jobs.store import Store

COLLECTION = "atlasProjections"


def atlas_projection_publisher(store: Store) -> Publisher:
    """What stores finished projections."""
    return publisher(store, COLLECTION, atlases_pb2.AtlasProjection, _fill)


class AtlasProjectionsServicer(atlases_pb2_grpc.AtlasesServicer):
    """Places other images in an atlas, and shows what came of it."""

    def __init__(self, components: Components) -> None:
        self._components = components

    def ProjectSamples(
        self, request: atlases_pb2.ProjectSamplesRequest, context: grpc.ServicerContext
    ) -> operations_pb2.Operation:
        """Places the activations of other images in an atlas, as an operation."""
        identity = repeated_request(request.request_id, request)
        submitted = find_submitted(self._components, identity)
        if submitted is not None:
            return submitted
        limit = time_limit_of(request)
        atlas = find_atlas(self._components, request.atlas, field="atlas")
        _check_projectable(atlas)
        sites = _sites(request.sites_per_image) or atlas.spec.sites_per_image or 1
        subject = subject_of(self._components, atlas, request.dataset, request.splits, field="atlas")
        asked = atlases_pb2.ProjectSamplesRequest(
            atlas=atlas.name,
            dataset=str(subject.dataset_name),
            splits=request.splits,
            sites_per_image=sites,
            seed=request.seed,
        )
        wanted = {
            "atlas": atlas.name,
            "frame": resources.parse_blob(atlas.frame, field="atlas"),
            "samples": resources.parse_blob(atlas.samples, field="atlas"),
            "levels": [[level.grid, resources.parse_blob(level.cells, field="atlas")] for level in atlas.levels],
            "sites_per_image": sites,
            "collection": settings_of(atlas, "collection"),
            "seed": request.seed,
        }
        draft = atlases_pb2.AtlasProjection(request=asked)
        return submit(self._components, identity, "project-samples", subject, request.splits, wanted, draft, limit)

    def GetAtlasProjection(
        self, request: atlases_pb2.GetAtlasProjectionRequest, context: grpc.ServicerContext
    ) -> atlases_pb2.AtlasProjection:
        """Gets a projection."""
        identifier = resources.parse_atlas_projection(request.name, field="name")
        record = self._components.store.records.get(COLLECTION, identifier)
        return atlases_pb2.AtlasProjection.FromString(record.message)


def _sites(given: int) -> int:
    """The sites of each image that were asked for; 0 for what the atlas has.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, INVALID_SITES.
    """
    if given < 0:
        raise invalid(
            "INVALID_SITES",
            f"sites_per_image is {given}; it must be positive, or 0 for as many as the atlas has.",
            field="sites_per_image",
            sites_per_image=given,
        )
    return given


def _check_projectable(atlas: atlases_pb2.Atlas) -> None:
    """Refuses an atlas that images of all kinds have no place in.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION: ATLAS_OF_CLASSES, ATLAS_WITHOUT_FRAME.
    """
    if atlas.spec.class_filter.classes or atlas.spec.HasField("class_gradient"):
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "ATLAS_OF_CLASSES",
            f"{atlas.name} holds samples of some classes only, so that all others would seem to have drifted. Project "
            "into an atlas of all samples.",
            field="atlas",
            metadata={"atlas": atlas.name},
        )
    if not atlas.frame or not atlas.levels:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "ATLAS_WITHOUT_FRAME",
            f"{atlas.name} has no frame or no level to place samples in. Wait until it is built, or build it again.",
            field="atlas",
            metadata={"atlas": atlas.name},
        )


def _fill(message: atlases_pb2.AtlasProjection, values: Mapping[str, Any], blobs: Mapping[str, str]) -> None:
    message.sample_count = values["samples"]
    message.off_map_rate, message.off_map_low, message.off_map_high = values["off_map"]
    message.changed_cells = values["changed_cells"]
    message.arrays = blobs["arrays"]
