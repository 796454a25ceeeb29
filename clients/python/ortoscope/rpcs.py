# mypy: disable-error-code="no-any-return"
# The generated stubs have no types: the signatures below are where they are stated.
"""Every rpc of the API as one typed method: with a deadline, and with typed errors in place of gRPC's.

This is the face for programs that want the messages as they are; everything else in the client is built on it.
"""

from collections.abc import Callable, Generator, Iterator
from functools import cached_property
from typing import Any, TypeVar

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from ortoscope.channel import Timeouts
from ortoscope.errors import FailedPrecondition, OrtoscopeError, from_rpc_error
from ortoscope.v1 import (
    activations_pb2,
    activations_pb2_grpc,
    atlases_pb2,
    atlases_pb2_grpc,
    blobs_pb2,
    blobs_pb2_grpc,
    capabilities_pb2,
    capabilities_pb2_grpc,
    datasets_pb2,
    datasets_pb2_grpc,
    dissections_pb2,
    dissections_pb2_grpc,
    gradients_pb2,
    gradients_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    visualization_pb2,
    visualization_pb2_grpc,
)

R = TypeVar("R")


class Rpcs:
    """The calls. Every one raises `OrtoscopeError`; its docstring is in the proto.

    Args:
        channel: An open channel.
        target: The server as the user named it, for messages.
        timeouts: How long calls may take.
    """

    def __init__(self, channel: grpc.Channel, target: str, timeouts: Timeouts) -> None:
        def stub(kind: Callable[..., Any]) -> Any:
            return kind(channel)

        self.target = target
        self.timeouts = timeouts
        self._channel = channel
        self._closed = False
        self._activations = stub(activations_pb2_grpc.ActivationsStub)
        self._atlases = stub(atlases_pb2_grpc.AtlasesStub)
        self._blobs = stub(blobs_pb2_grpc.BlobsStub)
        self._capabilities = stub(capabilities_pb2_grpc.CapabilitiesStub)
        self._datasets = stub(datasets_pb2_grpc.DatasetsStub)
        self._dissections = stub(dissections_pb2_grpc.DissectionsStub)
        self._gradients = stub(gradients_pb2_grpc.GradientsStub)
        self._models = stub(models_pb2_grpc.ModelsStub)
        self._operations = stub(operations_pb2_grpc.OperationsStub)
        self._visualization = stub(visualization_pb2_grpc.VisualizationStub)

    @cached_property
    def limits(self) -> capabilities_pb2.Limits:
        """The server's limits, asked for once."""
        return self.get_capabilities(capabilities_pb2.GetCapabilitiesRequest()).limits

    # Capabilities

    def get_capabilities(self, request: capabilities_pb2.GetCapabilitiesRequest) -> capabilities_pb2.ServerCapabilities:
        """Capabilities.GetCapabilities."""
        return self._unary(self._capabilities.GetCapabilities, request, self.timeouts.call)

    # Models

    def list_models(self, request: models_pb2.ListModelsRequest) -> models_pb2.ListModelsResponse:
        """Models.ListModels."""
        return self._unary(self._models.ListModels, request, self.timeouts.call)

    def get_model(self, request: models_pb2.GetModelRequest) -> models_pb2.Model:
        """Models.GetModel."""
        return self._unary(self._models.GetModel, request, self.timeouts.call)

    def list_model_versions(self, request: models_pb2.ListModelVersionsRequest) -> models_pb2.ListModelVersionsResponse:
        """Models.ListModelVersions."""
        return self._unary(self._models.ListModelVersions, request, self.timeouts.call)

    def get_model_version(self, request: models_pb2.GetModelVersionRequest) -> models_pb2.ModelVersion:
        """Models.GetModelVersion."""
        return self._unary(self._models.GetModelVersion, request, self.timeouts.call)

    def list_taps(self, request: models_pb2.ListTapsRequest) -> models_pb2.ListTapsResponse:
        """Models.ListTaps."""
        return self._unary(self._models.ListTaps, request, self.timeouts.call)

    def get_tap(self, request: models_pb2.GetTapRequest) -> models_pb2.Tap:
        """Models.GetTap."""
        return self._unary(self._models.GetTap, request, self.timeouts.call)

    # Datasets

    def list_datasets(self, request: datasets_pb2.ListDatasetsRequest) -> datasets_pb2.ListDatasetsResponse:
        """Datasets.ListDatasets."""
        return self._unary(self._datasets.ListDatasets, request, self.timeouts.call)

    def get_dataset(self, request: datasets_pb2.GetDatasetRequest) -> datasets_pb2.Dataset:
        """Datasets.GetDataset."""
        return self._unary(self._datasets.GetDataset, request, self.timeouts.call)

    def validate_dataset(self, request: datasets_pb2.ValidateDatasetRequest) -> datasets_pb2.ValidateDatasetResponse:
        """Datasets.ValidateDataset."""
        return self._unary(self._datasets.ValidateDataset, request, self.timeouts.compute)

    def list_concepts(self, request: datasets_pb2.ListConceptsRequest) -> datasets_pb2.ListConceptsResponse:
        """Datasets.ListConcepts."""
        return self._unary(self._datasets.ListConcepts, request, self.timeouts.call)

    def list_images(self, request: datasets_pb2.ListImagesRequest) -> datasets_pb2.ListImagesResponse:
        """Datasets.ListImages."""
        return self._unary(self._datasets.ListImages, request, self.timeouts.call)

    def get_image(self, request: datasets_pb2.GetImageRequest) -> datasets_pb2.ImageContent:
        """Datasets.GetImage."""
        return self._unary(self._datasets.GetImage, request, self.timeouts.call)

    # Blobs

    def read_blob(self, request: blobs_pb2.ReadBlobRequest) -> Iterator[blobs_pb2.ReadBlobResponse]:
        """Blobs.ReadBlob; errors are raised while the chunks are read."""
        timeout = self.timeouts.transfer
        self._refuse_if_closed()
        call = self._blobs.ReadBlob(request, timeout=timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._error(error, timeout) from None
        finally:
            call.cancel()

    def write_blob(self, requests: Iterator[blobs_pb2.WriteBlobRequest]) -> blobs_pb2.BlobStatus:
        """Blobs.WriteBlob."""
        return self._unary(self._blobs.WriteBlob, requests, self.timeouts.transfer)

    def query_blob(self, request: blobs_pb2.QueryBlobRequest) -> blobs_pb2.BlobStatus:
        """Blobs.QueryBlob."""
        return self._unary(self._blobs.QueryBlob, request, self.timeouts.call)

    # Activations

    def activate(self, request: activations_pb2.ActivateRequest) -> activations_pb2.ActivateResponse:
        """Activations.Activate."""
        return self._unary(self._activations.Activate, request, self.timeouts.compute)

    def stream_activations(
        self, requests: Iterator[activations_pb2.StreamActivationsRequest]
    ) -> Generator[activations_pb2.StreamActivationsResponse]:
        """Activations.StreamActivations; closing the iterator ends the call."""
        timeout = self.timeouts.stream
        self._refuse_if_closed()
        call = self._activations.StreamActivations(requests, timeout=timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._error(error, timeout) from None
        finally:
            call.cancel()

    def find_examples(self, request: activations_pb2.FindExamplesRequest) -> operations_pb2.Operation:
        """Activations.FindExamples."""
        return self._unary(self._activations.FindExamples, request, self.timeouts.call)

    def get_example_set(self, request: activations_pb2.GetExampleSetRequest) -> activations_pb2.ExampleSet:
        """Activations.GetExampleSet."""
        return self._unary(self._activations.GetExampleSet, request, self.timeouts.call)

    def list_example_sets(
        self, request: activations_pb2.ListExampleSetsRequest
    ) -> activations_pb2.ListExampleSetsResponse:
        """Activations.ListExampleSets."""
        return self._unary(self._activations.ListExampleSets, request, self.timeouts.call)

    def delete_example_set(self, request: activations_pb2.DeleteExampleSetRequest) -> empty_pb2.Empty:
        """Activations.DeleteExampleSet."""
        return self._unary(self._activations.DeleteExampleSet, request, self.timeouts.call)

    def list_unit_examples(
        self, request: activations_pb2.ListUnitExamplesRequest
    ) -> activations_pb2.ListUnitExamplesResponse:
        """Activations.ListUnitExamples."""
        return self._unary(self._activations.ListUnitExamples, request, self.timeouts.call)

    # Gradients

    def compute_gradient(self, request: gradients_pb2.ComputeGradientRequest) -> gradients_pb2.ComputeGradientResponse:
        """Gradients.ComputeGradient."""
        return self._unary(self._gradients.ComputeGradient, request, self.timeouts.compute)

    def attribute_classes(
        self, request: gradients_pb2.AttributeClassesRequest
    ) -> gradients_pb2.AttributeClassesResponse:
        """Gradients.AttributeClasses."""
        return self._unary(self._gradients.AttributeClasses, request, self.timeouts.compute)

    # Dissections

    def create_dissection(self, request: dissections_pb2.CreateDissectionRequest) -> operations_pb2.Operation:
        """Dissections.CreateDissection."""
        return self._unary(self._dissections.CreateDissection, request, self.timeouts.call)

    def get_dissection(self, request: dissections_pb2.GetDissectionRequest) -> dissections_pb2.Dissection:
        """Dissections.GetDissection."""
        return self._unary(self._dissections.GetDissection, request, self.timeouts.call)

    def list_dissections(
        self, request: dissections_pb2.ListDissectionsRequest
    ) -> dissections_pb2.ListDissectionsResponse:
        """Dissections.ListDissections."""
        return self._unary(self._dissections.ListDissections, request, self.timeouts.call)

    def delete_dissection(self, request: dissections_pb2.DeleteDissectionRequest) -> empty_pb2.Empty:
        """Dissections.DeleteDissection."""
        return self._unary(self._dissections.DeleteDissection, request, self.timeouts.call)

    def list_unit_labels(
        self, request: dissections_pb2.ListUnitLabelsRequest
    ) -> dissections_pb2.ListUnitLabelsResponse:
        """Dissections.ListUnitLabels."""
        return self._unary(self._dissections.ListUnitLabels, request, self.timeouts.call)

    # Visualization

    def visualize(self, request: visualization_pb2.VisualizeRequest) -> Generator[visualization_pb2.VisualizeResponse]:
        """Visualization.Visualize; closing the iterator ends the call, and the work with it."""
        timeout = self.timeouts.stream
        self._refuse_if_closed()
        call = self._visualization.Visualize(request, timeout=timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._error(error, timeout) from None
        finally:
            call.cancel()

    def visualize_units(self, request: visualization_pb2.VisualizeUnitsRequest) -> operations_pb2.Operation:
        """Visualization.VisualizeUnits."""
        return self._unary(self._visualization.VisualizeUnits, request, self.timeouts.call)

    def get_unit_sheet(self, request: visualization_pb2.GetUnitSheetRequest) -> visualization_pb2.UnitSheet:
        """Visualization.GetUnitSheet."""
        return self._unary(self._visualization.GetUnitSheet, request, self.timeouts.call)

    def list_unit_sheets(
        self, request: visualization_pb2.ListUnitSheetsRequest
    ) -> visualization_pb2.ListUnitSheetsResponse:
        """Visualization.ListUnitSheets."""
        return self._unary(self._visualization.ListUnitSheets, request, self.timeouts.call)

    def delete_unit_sheet(self, request: visualization_pb2.DeleteUnitSheetRequest) -> empty_pb2.Empty:
        """Visualization.DeleteUnitSheet."""
        return self._unary(self._visualization.DeleteUnitSheet, request, self.timeouts.call)

    def list_presets(self, request: visualization_pb2.ListPresetsRequest) -> visualization_pb2.ListPresetsResponse:
        """Visualization.ListPresets."""
        return self._unary(self._visualization.ListPresets, request, self.timeouts.call)

    def test_patch(self, request: visualization_pb2.TestPatchRequest) -> visualization_pb2.TestPatchResponse:
        """Visualization.TestPatch."""
        return self._unary(self._visualization.TestPatch, request, self.timeouts.compute)

    # Atlases

    def build_atlas(self, request: atlases_pb2.BuildAtlasRequest) -> operations_pb2.Operation:
        """Atlases.BuildAtlas."""
        return self._unary(self._atlases.BuildAtlas, request, self.timeouts.call)

    def get_atlas(self, request: atlases_pb2.GetAtlasRequest) -> atlases_pb2.Atlas:
        """Atlases.GetAtlas."""
        return self._unary(self._atlases.GetAtlas, request, self.timeouts.call)

    def list_atlases(self, request: atlases_pb2.ListAtlasesRequest) -> atlases_pb2.ListAtlasesResponse:
        """Atlases.ListAtlases."""
        return self._unary(self._atlases.ListAtlases, request, self.timeouts.call)

    def delete_atlas(self, request: atlases_pb2.DeleteAtlasRequest) -> empty_pb2.Empty:
        """Atlases.DeleteAtlas."""
        return self._unary(self._atlases.DeleteAtlas, request, self.timeouts.call)

    def list_cells(self, request: atlases_pb2.ListCellsRequest) -> atlases_pb2.ListCellsResponse:
        """Atlases.ListCells."""
        return self._unary(self._atlases.ListCells, request, self.timeouts.call)

    def get_tile(self, request: atlases_pb2.GetTileRequest) -> atlases_pb2.Tile:
        """Atlases.GetTile."""
        return self._unary(self._atlases.GetTile, request, self.timeouts.call)

    def project_samples(self, request: atlases_pb2.ProjectSamplesRequest) -> operations_pb2.Operation:
        """Atlases.ProjectSamples."""
        return self._unary(self._atlases.ProjectSamples, request, self.timeouts.call)

    def get_atlas_projection(self, request: atlases_pb2.GetAtlasProjectionRequest) -> atlases_pb2.AtlasProjection:
        """Atlases.GetAtlasProjection."""
        return self._unary(self._atlases.GetAtlasProjection, request, self.timeouts.call)

    def compare_atlases(self, request: atlases_pb2.CompareAtlasesRequest) -> operations_pb2.Operation:
        """Atlases.CompareAtlases."""
        return self._unary(self._atlases.CompareAtlases, request, self.timeouts.call)

    def get_atlas_comparison(self, request: atlases_pb2.GetAtlasComparisonRequest) -> atlases_pb2.AtlasComparison:
        """Atlases.GetAtlasComparison."""
        return self._unary(self._atlases.GetAtlasComparison, request, self.timeouts.call)

    def propose_patches(self, request: atlases_pb2.ProposePatchesRequest) -> atlases_pb2.ProposePatchesResponse:
        """Atlases.ProposePatches."""
        return self._unary(self._atlases.ProposePatches, request, self.timeouts.call)

    # google.longrunning.Operations

    def list_operations(self, request: operations_pb2.ListOperationsRequest) -> operations_pb2.ListOperationsResponse:
        """Operations.ListOperations."""
        return self._unary(self._operations.ListOperations, request, self.timeouts.call)

    def get_operation(self, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        """Operations.GetOperation."""
        return self._unary(self._operations.GetOperation, request, self.timeouts.call)

    def wait_operation(self, request: operations_pb2.WaitOperationRequest) -> operations_pb2.Operation:
        """Operations.WaitOperation; the request's own timeout comes on top of the deadline."""
        waiting = float(request.timeout.ToTimedelta().total_seconds())
        return self._unary(self._operations.WaitOperation, request, waiting + self.timeouts.call)

    def cancel_operation(self, request: operations_pb2.CancelOperationRequest) -> empty_pb2.Empty:
        """Operations.CancelOperation."""
        return self._unary(self._operations.CancelOperation, request, self.timeouts.call)

    def delete_operation(self, request: operations_pb2.DeleteOperationRequest) -> empty_pb2.Empty:
        """Operations.DeleteOperation."""
        return self._unary(self._operations.DeleteOperation, request, self.timeouts.call)

    def close(self) -> None:
        """Closes the channel; every further call is refused."""
        self._closed = True
        self._channel.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise FailedPrecondition(
                f"The connection to {self.target} was closed; connect again, or stay inside its `with` block.",
                reason="CONNECTION_CLOSED",
            )

    def _unary(self, method: Callable[..., Any], request: object, timeout: float) -> Any:
        self._refuse_if_closed()
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise self._error(error, timeout) from None

    def _error(self, error: grpc.RpcError, timeout: float) -> OrtoscopeError:
        return from_rpc_error(error, self.target, timeout)


def all_pages(method: Callable[[Any], R], request: Message) -> R:
    """Calls a list method until its last page and merges the pages into one response.

    Args:
        method: The call, one of `Rpcs`.
        request: Its request; `page_token` is overwritten.
    """
    paged: Any = request
    merged: Any = method(paged)
    page: Any = merged
    while page.next_page_token:
        paged.page_token = page.next_page_token
        page = method(paged)
        merged.MergeFrom(page)
        if not page.next_page_token:
            merged.next_page_token = ""  # merging keeps a value over an empty one
    result: R = merged
    return result
