"""The connection to a server, and what can be found there."""

import io
from pathlib import Path
from types import TracebackType
from typing import Any

from ortoscope import blobs, resource_names
from ortoscope.atlas_changes import AtlasComparison, AtlasProjection
from ortoscope.atlases import Atlas, atlas_table, get_atlas
from ortoscope.capabilities import Capabilities
from ortoscope.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT, TLS, Timeouts, open_channel, parse_target
from ortoscope.datasets import Dataset, DatasetTable, ValidationReport, validate
from ortoscope.dissections import Dissection
from ortoscope.examples import ExampleSet
from ortoscope.files import write_file
from ortoscope.inputs import Input
from ortoscope.models import Model, ModelEntry, model_table
from ortoscope.operation_collection import Operations
from ortoscope.operations import Operation
from ortoscope.picture_specs import MadeAgain, read_spec, request_of
from ortoscope.presets import Preset, list_presets
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.unit_sheets import UnitSheet, unit_sheet_table
from ortoscope.v1 import (
    activations_pb2,
    atlases_pb2,
    capabilities_pb2,
    datasets_pb2,
    dissections_pb2,
    models_pb2,
    visualization_pb2,
)
from ortoscope.visualizing import OnProgress, to_message, visualize


def connect(
    target: str = DEFAULT_TARGET, *, tls: TLS | bool | None = None, timeout: float | Timeouts = DEFAULT_TIMEOUT
) -> "Ortoscope":
    """Connects to a server.

    The server is called at once, so that a wrong target fails here and not later.

    Args:
        target: HOST, HOST:PORT (port 50051 if there is none), the same behind https:// for TLS, or unix:PATH.
        tls: True, or a `TLS` that says whom to trust, for an encrypted connection; None does as the target says.
        timeout: How many seconds a call may take, or a `Timeouts` for each kind of call.

    Returns:
        The connection; a context manager.

    Raises:
        Unavailable: SERVER_UNREACHABLE; the message says how to start a server.
        InvalidArgument: The target or a certificate cannot be read.
    """
    channel = open_channel(parse_target(target), tls)
    scope = Ortoscope(Rpcs(channel, target, Timeouts.of(timeout)))
    try:
        scope.capabilities()
    except BaseException:
        scope.close()
        raise
    return scope


class Ortoscope:
    """A connection to a server; made by `connect`.

    Attributes:
        rpcs: Every rpc of the API as one method, for programs that want the messages as they are.
    """

    def __init__(self, rpcs: Rpcs) -> None:
        self.rpcs = rpcs

    @property
    def target(self) -> str:
        """The server as it was named."""
        return self.rpcs.target

    def capabilities(self) -> Capabilities:
        """Gets the server's versions and limits."""
        return Capabilities.from_proto(self.rpcs.get_capabilities(capabilities_pb2.GetCapabilitiesRequest()))

    def models(self) -> Table[ModelEntry]:
        """Lists the models."""
        return model_table(all_pages(self.rpcs.list_models, models_pb2.ListModelsRequest()))

    def model(self, name: str | ModelEntry) -> Model:
        """Gets a model version.

        Args:
            name: `name` (its newest version), `name/version`, or the resource name.

        Raises:
            NotFound: UNKNOWN_MODEL or UNKNOWN_VERSION; the message lists some that there are.
        """
        text = name.name if isinstance(name, ModelEntry) else name
        request = models_pb2.GetModelVersionRequest(name=resource_names.model_version(text))
        return Model(self.rpcs, self.rpcs.get_model_version(request))

    def datasets(self) -> DatasetTable:
        """Lists the datasets."""
        return DatasetTable(self.rpcs, all_pages(self.rpcs.list_datasets, datasets_pb2.ListDatasetsRequest()))

    def dataset(self, name: str) -> Dataset:
        """Gets a dataset by its name or resource name.

        Raises:
            NotFound: UNKNOWN_DATASET; the message lists some that there are.
            FailedPrecondition: The folder cannot be read as a dataset; `validate` tells why.
        """
        request = datasets_pb2.GetDatasetRequest(name=resource_names.dataset(name))
        return Dataset(self.rpcs, self.rpcs.get_dataset(request))

    def validate(self, dataset: str, *, max_findings: int = 0) -> ValidationReport:
        """Lets the server read every file of a dataset, readable or not, and tell what is wrong.

        Args:
            dataset: Its name or resource name.
            max_findings: Most findings to return; 0 leaves it to the server.
        """
        return validate(self.rpcs, resource_names.dataset(dataset), max_findings=max_findings)

    @property
    def operations(self) -> Operations:
        """The operations: calling it lists them, its methods get, wait for, cancel, delete and clean them up."""
        return Operations(self.rpcs)

    def operation(self, name: str) -> Operation[Any]:
        """Gets an operation by its name; also one that another client started.

        Raises:
            NotFound: UNKNOWN_OPERATION.
        """
        return self.operations.get(name)

    def dissections(self) -> Table[Dissection]:
        """Lists the dissections that the server keeps, newest first."""
        response = all_pages(self.rpcs.list_dissections, dissections_pb2.ListDissectionsRequest())
        return Table(
            (Dissection(self.rpcs, entry) for entry in response.dissections),
            (
                Column("dissection", lambda dissection: dissection.name),
                Column("model", lambda dissection: dissection.model),
                Column("tap", lambda dissection: dissection.tap),
                Column("dataset", lambda dissection: dissection.dataset),
                Column("units", lambda dissection: dissection.proto.unit_count, numeric=True),
                Column("detectors", lambda dissection: dissection.best_label.detectors, numeric=True),
            ),
            title=f"{len(response.dissections)} dissections",
            names=lambda dissection: (dissection.name,),
        )

    def dissection(self, name: str) -> Dissection:
        """Gets a dissection by its resource name."""
        return Dissection(self.rpcs, self.rpcs.get_dissection(dissections_pb2.GetDissectionRequest(name=name)))

    def example_sets(self) -> Table[ExampleSet]:
        """Lists the example sets that the server keeps, newest first."""
        response = all_pages(self.rpcs.list_example_sets, activations_pb2.ListExampleSetsRequest())
        return Table(
            (ExampleSet(self.rpcs, entry) for entry in response.example_sets),
            (
                Column("example set", lambda examples: examples.name),
                Column("model", lambda examples: examples.model),
                Column("tap", lambda examples: examples.tap),
                Column("dataset", lambda examples: examples.dataset),
                Column("units", lambda examples: examples.proto.unit_count, numeric=True),
            ),
            title=f"{len(response.example_sets)} example sets",
            names=lambda examples: (examples.name,),
        )

    def example_set(self, name: str) -> ExampleSet:
        """Gets an example set by its resource name."""
        return ExampleSet(self.rpcs, self.rpcs.get_example_set(activations_pb2.GetExampleSetRequest(name=name)))

    def presets(self) -> Table[Preset]:
        """Lists the presets for visualizations; `presets()["lucid"].settings` has every setting that can be changed."""
        return list_presets(self.rpcs)

    def unit_sheets(self) -> Table[UnitSheet]:
        """Lists the unit sheets that the server keeps, newest first."""
        return unit_sheet_table(
            self.rpcs, all_pages(self.rpcs.list_unit_sheets, visualization_pb2.ListUnitSheetsRequest())
        )

    def unit_sheet(self, name: str) -> UnitSheet:
        """Gets a unit sheet by its resource name."""
        request = visualization_pb2.GetUnitSheetRequest(name=resource_names.unit_sheet(name))
        return UnitSheet(self.rpcs, self.rpcs.get_unit_sheet(request))

    def atlases(self) -> Table[Atlas]:
        """Lists the activation atlases that the server keeps, newest first."""
        return atlas_table(self.rpcs, all_pages(self.rpcs.list_atlases, atlases_pb2.ListAtlasesRequest()))

    def atlas(self, name: str) -> Atlas:
        """Gets an atlas by its name; also one that is still being built, with what is there of it."""
        return get_atlas(self.rpcs, name)

    def atlas_projection(self, name: str) -> AtlasProjection:
        """Gets a projection of images into an atlas by its name."""
        request = atlases_pb2.GetAtlasProjectionRequest(name=resource_names.atlas_projection(name))
        return AtlasProjection(self.rpcs, self.rpcs.get_atlas_projection(request))

    def atlas_comparison(self, name: str) -> AtlasComparison:
        """Gets a comparison of two atlases by its name."""
        request = atlases_pb2.GetAtlasComparisonRequest(name=resource_names.atlas_comparison(name))
        return AtlasComparison(self.rpcs, self.rpcs.get_atlas_comparison(request))

    def visualization_from_png(
        self,
        png: str | Path | bytes,
        *,
        start: Input | None = None,
        progress: bool = False,
        on_progress: OnProgress | None = None,
    ) -> MadeAgain:
        """Makes a picture again from what its own metadata say, and compares the two.

        The same server, on the same type of processor with the same versions, gives the same bytes; on another one
        the pictures are alike.

        Args:
            png: The picture as a server made it: a file or its bytes.
            start: What it started from, if its metadata do not say where that is to be had.
            progress: As for `Model.visualize`.
            on_progress: As for `Model.visualize`.

        Raises:
            InvalidArgument: SPEC_MISSING, SPEC_UNKNOWN, START_NEEDED.
            OrtoscopeError: As Visualization.Visualize.
            OSError: The file cannot be read.
        """
        data = png if isinstance(png, bytes) else Path(png).read_bytes()
        spec = read_spec(data)
        wanted = request_of(spec, start)
        model = self.model(str(spec.get("model", "")))
        found = visualize(
            self.rpcs, to_message(self.rpcs, model.proto, wanted), progress=progress, on_progress=on_progress
        )
        same = [number for number, item in enumerate(found) if item.png == data]
        return MadeAgain(found, same[0] if same else None)

    def upload(self, source: str | Path | bytes) -> str:
        """Sends a file or bytes to the server and gives the blob's name, which can be given to `activate`.

        A transfer that breaks off is taken up where it stopped; what the server holds already is not sent again.

        Raises:
            OrtoscopeError: As Blobs.WriteBlob.
            OSError: The file cannot be read.
        """
        return blobs.upload(self.rpcs, source if isinstance(source, bytes) else Path(source))

    def download(self, blob: str, path: str | Path | None = None) -> bytes:
        """Gets the bytes of a blob, checked against its digest; writes them to a file, if one is named.

        A transfer that breaks off is taken up where it stopped.

        Raises:
            NotFound: There is no such blob.
            DataLoss: BLOB_DAMAGED.
        """
        sink = io.BytesIO()
        blobs.download(self.rpcs, blob, sink)
        if path is not None:
            write_file(Path(path), sink.getvalue())
        return sink.getvalue()

    def close(self) -> None:
        """Closes the connection. Operations go on."""
        self.rpcs.close()

    def __enter__(self) -> "Ortoscope":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Ortoscope at {self.target}>"
