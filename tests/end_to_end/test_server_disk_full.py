"""A disk that is full, played by a limit on the size of files that the running server may write."""

import hashlib
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2
from ortoscope.v1 import activations_pb2, blobs_pb2
from ortoscope.v1.activations_pb2 import (
    ActivateRequest,
    ActivationInput,
    ExamplesSpec,
    FindExamplesRequest,
    TapSelection,
)
from ortoscope.v1.atlases_pb2 import Atlas, AtlasSpec, BuildAtlasRequest, ListAtlasesRequest
from ortoscope.v1.operations_pb2 import OperationMetadata
from ortoscope_service.models.repository import ModelRepository
from pictures import encode, photo
from server_process import ServerProcess, server_process
from serving import (
    GRAY_512,
    PREPROCESSING,
    Stubs,
    add_model,
    failure_of,
    failure_of_status,
    slow_image_chain,
    write_datasets,
)
from small_atlases import write_photos
from tiny_models import tiny_cnn

KILOBYTE = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    repository = ModelRepository(folder / "models")
    add_model(repository, "cnn", tiny_cnn(), preprocessing=PREPROCESSING)
    add_model(repository, "slow", slow_image_chain(60), preprocessing=replace(GRAY_512, std=(255.0 * 512,) * 3))
    write_photos(write_datasets(folder / "datasets") / "many", 60)
    with server_process(folder / "models", folder / "datasets", folder / "store") as server:
        yield server


@pytest.fixture
def stubs(server: ServerProcess) -> Iterator[Stubs]:
    yield server.stubs()
    set_room(server, None)


def set_room(server: ServerProcess, size: int | None) -> None:
    """Sets the largest size of a file, for the server and its workers."""
    for process in (server.process.pid, *server.workers()):
        _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def chunks(data: bytes, offset: int) -> Iterator[blobs_pb2.WriteBlobRequest]:
    name = f"blobs/{hashlib.sha256(data).hexdigest()}"
    yield blobs_pb2.WriteBlobRequest(name=name, size_bytes=len(data), offset=offset)
    for start in range(offset, len(data), 100 * KILOBYTE):
        yield blobs_pb2.WriteBlobRequest(data=data[start : start + 100 * KILOBYTE])


def activate(stubs: Stubs) -> Any:
    return stubs.activations.Activate(
        ActivateRequest(
            model="models/cnn",
            taps=[TapSelection(tap="flat")],
            inputs=[ActivationInput(image=encode(photo(), "PNG"))],
        )
    )


def find_examples(stubs: Stubs, model: str = "cnn", tap: str = "relu6") -> Any:
    """An operation whose result takes more than half a megabyte."""
    spec = ExamplesSpec(tap=f"models/{model}/taps/{tap}", dataset="datasets/photos", count=1000)
    return stubs.activations.FindExamples(FindExamplesRequest(spec=spec))


def test_an_upload_fails_typed_and_goes_on_when_there_is_room(server: ServerProcess, stubs: Stubs) -> None:
    data = os.urandom(3000 * KILOBYTE)
    set_room(server, 1050 * KILOBYTE)
    with pytest.raises(grpc.RpcError) as caught:
        stubs.blobs.WriteBlob(chunks(data, 0))
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
    assert activate(stubs).taps
    name = f"blobs/{hashlib.sha256(data).hexdigest()}"
    status = stubs.blobs.QueryBlob(blobs_pb2.QueryBlobRequest(name=name))
    assert 1000 * KILOBYTE <= status.committed_bytes <= 1050 * KILOBYTE
    assert not status.complete
    set_room(server, None)
    assert stubs.blobs.WriteBlob(chunks(data, status.committed_bytes)).complete
    read = b"".join(chunk.data for chunk in stubs.blobs.ReadBlob(blobs_pb2.ReadBlobRequest(name=name)))
    assert read == data


def test_an_operation_whose_result_does_not_fit_fails_typed_and_leaves_nothing(
    server: ServerProcess, stubs: Stubs, folder: Path
) -> None:
    def files() -> set[Path]:
        return {path for path in (folder / "store" / "blobs").rglob("*") if path.is_file()}

    before = files()
    set_room(server, 500 * KILOBYTE)
    operation = stubs.wait(find_examples(stubs))
    failure = failure_of_status(operation.error)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
    assert files() == before
    assert list((folder / "store" / "permits").iterdir()) == []
    assert activate(stubs).taps
    set_room(server, None)
    example_set = activations_pb2.ExampleSet()
    assert stubs.wait(find_examples(stubs)).response.Unpack(example_set)


def test_an_atlas_whose_samples_do_not_fit_fails_typed_and_leaves_nothing(
    server: ServerProcess, stubs: Stubs, folder: Path
) -> None:
    spec = AtlasSpec(
        tap="models/cnn/taps/relu1", dataset="datasets/many", sites_per_image=196, grids=[4], without_icons=True
    )
    spec.settings["layout.n_epochs"] = "2"

    def files() -> set[Path]:
        return {path for path in (folder / "store" / "blobs").rglob("*") if path.is_file()}

    before = files()
    set_room(server, 500 * KILOBYTE)
    operation = stubs.wait(stubs.atlases.BuildAtlas(BuildAtlasRequest(spec=spec)))
    failure = failure_of_status(operation.error)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
    assert files() == before
    assert not stubs.atlases.ListAtlases(ListAtlasesRequest()).atlases
    set_room(server, None)
    atlas = Atlas()
    assert stubs.wait(stubs.atlases.BuildAtlas(BuildAtlasRequest(spec=spec))).response.Unpack(atlas)
    assert atlas.sample_count > 10_000


def test_an_operation_that_cannot_even_be_recorded_is_refused_typed(server: ServerProcess, stubs: Stubs) -> None:
    set_room(server, 1 * KILOBYTE)
    with pytest.raises(grpc.RpcError) as caught:
        find_examples(stubs)
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
    assert activate(stubs).taps
    set_room(server, None)
    assert stubs.wait(find_examples(stubs)).HasField("response")


def test_an_operation_that_cannot_record_its_end_does_so_when_there_is_room(
    server: ServerProcess, stubs: Stubs
) -> None:
    operation = find_examples(stubs, model="slow", tap="product59")
    get = operations_pb2.GetOperationRequest(name=operation.name)
    metadata = OperationMetadata()
    while metadata.state != OperationMetadata.STATE_RUNNING:
        operation.metadata.Unpack(metadata)
        operation = stubs.operations.GetOperation(get)
    set_room(server, 1 * KILOBYTE)
    deadline = time.monotonic() + 60
    while not any("too full to record" in line for line in server.stderr):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not stubs.operations.GetOperation(get).done  # it is still told, as it was last recorded
    set_room(server, None)
    failure = failure_of_status(stubs.wait(operation).error)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
    assert stubs.wait(find_examples(stubs)).HasField("response")
