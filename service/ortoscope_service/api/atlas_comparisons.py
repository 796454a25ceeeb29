"""The part of the service `ortoscope.v1.Atlases` that compares two atlases."""

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
from ortoscope_service.jobs.surveys import tap_spec

COLLECTION = "atlasComparisons"
DEFAULT_GRID = 20
SMALLEST_GRID, LARGEST_GRID = 2, 320


def atlas_comparison_publisher(store: Store) -> Publisher:
    """What stores finished comparisons."""
    return publisher(store, COLLECTION, atlases_pb2.AtlasComparison, _fill)


class AtlasComparisonsServicer(atlases_pb2_grpc.AtlasesServicer):
    """Compares two atlases, and shows what came of it."""

    def __init__(self, components: Components) -> None:
        self._components = components

    def CompareAtlases(
        self, request: atlases_pb2.CompareAtlasesRequest, context: grpc.ServicerContext
    ) -> operations_pb2.Operation:
        """Lays two atlases out in one frame, as an operation."""
        identity = repeated_request(request.request_id, request)
        submitted = find_submitted(self._components, identity)
        if submitted is not None:
            return submitted
        limit = time_limit_of(request)
        grid = _grid(request.grid)
        left = find_atlas(self._components, request.left, field="left")
        right = find_atlas(self._components, request.right, field="right")
        _check_comparable(left, right)
        given = left.spec
        subject = subject_of(self._components, left, given.dataset, given.splits, field="left")
        other = subject_of(self._components, right, given.dataset, given.splits, field="right")
        asked = atlases_pb2.CompareAtlasesRequest(left=left.name, right=right.name, grid=grid, seed=request.seed)
        sides = {"left": left, "right": right}
        wanted = {
            "right": tap_spec(other.version, other.tap, self._components.job_execution),
            "samples": {side: resources.parse_blob(atlas.samples, field=side) for side, atlas in sides.items()},
            "collection": {side: settings_of(atlas, "collection") for side, atlas in sides.items()},
            "metric": [settings_of(atlas, "layout")["metric"] for atlas in sides.values()],
            "layout": settings_of(left, "layout"),
            "grid": grid,
            "seed": request.seed,
            "sites_per_image": min(atlas.spec.sites_per_image or 1 for atlas in sides.values()),
            "sites_seed": given.seed,
        }
        draft = atlases_pb2.AtlasComparison(request=asked)
        return submit(self._components, identity, "compare-atlases", subject, given.splits, wanted, draft, limit)

    def GetAtlasComparison(
        self, request: atlases_pb2.GetAtlasComparisonRequest, context: grpc.ServicerContext
    ) -> atlases_pb2.AtlasComparison:
        """Gets a comparison."""
        identifier = resources.parse_atlas_comparison(request.name, field="name")
        record = self._components.store.records.get(COLLECTION, identifier)
        return atlases_pb2.AtlasComparison.FromString(record.message)


def _grid(given: int) -> int:
    """Cells along each side.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, INVALID_GRID.
    """
    if given and not SMALLEST_GRID <= given <= LARGEST_GRID:
        raise invalid(
            "INVALID_GRID",
            f"grid is {given}; it must be {SMALLEST_GRID} to {LARGEST_GRID}, or 0 for {DEFAULT_GRID}.",
            field="grid",
            grid=given,
        )
    return given or DEFAULT_GRID


def _check_comparable(left: atlases_pb2.Atlas, right: atlases_pb2.Atlas) -> None:
    """Refuses atlases that cannot have samples of the same images and sites.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION: ATLAS_APPENDED, ATLASES_DIFFER.
    """
    for field, atlas in (("left", left), ("right", right)):
        if atlas.spec.base_atlas:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "ATLAS_APPENDED",
                f"{atlas.name} has samples of more than one dataset, which cannot be matched. Compare atlases that "
                "were built without a base.",
                field=field,
                metadata={"atlas": atlas.name},
            )
    facts = [
        {
            "dataset": atlas.spec.dataset,
            "splits": ", ".join(sorted(atlas.spec.splits)) or "(all)",
            "seed": str(atlas.spec.seed),
        }
        for atlas in (left, right)
    ]
    for name, value in facts[0].items():
        if facts[1][name] != value:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "ATLASES_DIFFER",
                f"The atlases were built with another {name}, {value} and {facts[1][name]}, so they have no sites in "
                "common. Build both from the same dataset and splits with the same seed.",
                field="right",
                metadata={"what": name, "left": value, "right": facts[1][name]},
            )


def _fill(message: atlases_pb2.AtlasComparison, values: Mapping[str, Any], blobs: Mapping[str, str]) -> None:
    message.sample_count = values["samples"]
    message.neighbourhood_agreement = values["neighbourhood_agreement"]
    message.procrustes_distance = values["procrustes_distance"]
    message.arrays = blobs["arrays"]
