"""Operations on models that crash, exhaust or occupy the process which runs them: they cost themselves only."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bad_models
import grpc
import numpy as np
import onnx
import pytest
from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from onnx import helper, numpy_helper
from ortoscope.v1.activations_pb2 import ExampleSet, ExamplesSpec, FindExamplesRequest
from ortoscope.v1.operations_pb2 import OperationMetadata
from ortoscope_service.jobs.watchdog import STUCK_SECONDS
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.memory import resident_bytes
from server_process import ServerProcess, server_process
from serving import GRAY_512, PREPROCESSING, Stubs, add_model, failure_of_status, slow_image_chain, write_datasets
from tiny_models import float_value, tiny_cnn

GRAY_2 = Preprocessing("nchw", "gray", (127.0,) * 3, (128.0,) * 3, "squash", 2, 2, 2, "not verified: a test")
WORKER_MEMORY = "2G"
STALL_SECONDS = 2
FIRST_STAGE = "reading the list of images"
LONG_CHAIN = 1500
"""Nodes of a model that takes much longer than any test waits for."""


def of_pictures(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of `x` (n, 4) as one of gray pictures of 2 x 2 pixels."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 4]), "four_features"))
    graph.node.insert(0, helper.make_node("Reshape", ["picture", "four_features"], ["x"], name="flatten"))
    del graph.input[:]
    graph.input.append(float_value("picture", ["n", 1, 2, 2]))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad-models")
    repository = ModelRepository(folder / "models")
    add_model(repository, "good", tiny_cnn(), preprocessing=PREPROCESSING)
    for bad in ("crashing", "hungry", "hungry_at_loading", "endless", "unstoppable"):
        add_model(repository, bad, of_pictures(getattr(bad_models, bad)()), preprocessing=GRAY_2)
    add_model(repository, "slow", slow_image_chain(LONG_CHAIN), preprocessing=GRAY_512)
    write_datasets(folder / "datasets")
    return folder


@contextmanager
def server_of(folder: Path, *arguments: str) -> Iterator[ServerProcess]:
    common = ("--worker-memory", WORKER_MEMORY, "--threads", "1")
    store = folder / "-".join(arguments)
    with server_process(folder / "models", folder / "datasets", store, arguments=[*common, *arguments]) as server:
        yield server


@pytest.fixture(scope="module")
def two_workers(folder: Path) -> Iterator[ServerProcess]:
    with server_of(folder, "--workers", "2", "--stall-seconds", str(STALL_SECONDS)) as server:
        yield server


@pytest.fixture(scope="module")
def one_worker(folder: Path) -> Iterator[ServerProcess]:
    with server_of(folder, "--workers", "1") as server:
        yield server


def find_examples(stubs: Stubs, model: str, tap: str, count: int = 1, seconds: float | None = None) -> Any:
    """An operation on a tap of a model; `count` tells one from another whose work is done already."""
    request = FindExamplesRequest(
        spec=ExamplesSpec(tap=f"models/{model}/taps/{tap}", dataset="datasets/photos", count=count)
    )
    if seconds is not None:
        limit = Duration()
        limit.FromMilliseconds(round(1000 * seconds))
        request.time_limit.CopyFrom(limit)
    return stubs.activations.FindExamples(request)


def metadata_of(stubs: Stubs, operation: Any) -> OperationMetadata:
    metadata = OperationMetadata()
    current = stubs.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
    current.metadata.Unpack(metadata)
    return metadata


def state_of(stubs: Stubs, operation: Any) -> int:
    return metadata_of(stubs, operation).state


def cancel(stubs: Stubs, operation: Any) -> None:
    stubs.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come to hold"
        time.sleep(0.01)


def until_stage(stubs: Stubs, operation: Any, stage: str) -> None:
    until(lambda: metadata_of(stubs, operation).stage == stage)


def succeeded(operation: Any) -> bool:
    return bool(operation.response.Unpack(ExampleSet()))


def held_memory(server: ServerProcess) -> int:
    """Resident bytes of the server and its workers."""
    return sum(map(resident_bytes, [server.process.pid, *server.workers()]))


@contextmanager
def always_serving(server: ServerProcess) -> Iterator[None]:
    """Asks for the server's health all the time: it must say that it serves, and at once."""
    stubs, over = server.stubs(), threading.Event()
    answers: set[str] = set()

    def ask() -> None:
        while not over.wait(0.05):
            try:
                answer = stubs.health.Check(health_pb2.HealthCheckRequest(), timeout=5)
                answers.add(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
            except grpc.RpcError as error:
                answers.add(str(error.code()))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert answers == {"SERVING"}


@pytest.mark.parametrize(
    ("model", "code", "reason", "says"),
    [
        ("crashing", "FAILED_PRECONDITION", "WORKER_DIED", "was killed by SIG"),
        ("hungry", "RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "2,147,483,648 bytes"),
        ("hungry_at_loading", "RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "2,147,483,648 bytes"),
        ("endless", "FAILED_PRECONDITION", "SHARD_STALLED", f"no sign of life for {STALL_SECONDS} seconds"),
    ],
)
def test_a_model_that_harms_its_worker_fails_its_own_operation_only(
    two_workers: ServerProcess, model: str, code: str, reason: str, says: str
) -> None:
    stubs = two_workers.stubs()
    assert succeeded(stubs.wait(find_examples(stubs, "good", "relu6")))
    before = held_memory(two_workers)
    with always_serving(two_workers):
        bad = find_examples(stubs, model, "y")
        good = find_examples(stubs, "good", "add")
        failure = failure_of_status(stubs.wait(bad).error)
        assert succeeded(stubs.wait(good))
        afterwards = find_examples(stubs, "good", "conv2")
        assert succeeded(stubs.wait(afterwards))
    assert (failure.code, failure.reason) == (code, reason)
    assert failure.metadata["target"] == f"models/{model}/versions/1/taps/y"
    assert failure.message.startswith(f"models/{model}/versions/1/taps/y: the task 'rank, shard 0' ")
    assert says in failure.message
    assert held_memory(two_workers) < before + 300e6


def test_cancelling_frees_the_worker_within_a_second_or_so(one_worker: ServerProcess) -> None:
    stubs = one_worker.stubs()
    slow = find_examples(stubs, "slow", f"product{LONG_CHAIN - 1}")
    until_stage(stubs, slow, "activating")
    time.sleep(0.5)
    worker = one_worker.workers()
    waiting = find_examples(stubs, "good", "relu6")
    assert metadata_of(stubs, waiting).stage in {"", FIRST_STAGE}
    began = time.monotonic()
    cancel(stubs, slow)
    # Another stage begins when the worker, the only one, has done the first task.
    until(lambda: metadata_of(stubs, waiting).stage not in {"", FIRST_STAGE})
    assert time.monotonic() - began < 3
    assert failure_of_status(stubs.wait(slow).error).reason == "CANCELLED"
    assert succeeded(stubs.wait(waiting))
    assert one_worker.workers() == worker


def test_a_worker_that_cannot_be_interrupted_ends_itself_and_is_replaced(one_worker: ServerProcess) -> None:
    stubs = one_worker.stubs()
    assert succeeded(stubs.wait(find_examples(stubs, "good", "conv1")))
    (worker,) = one_worker.workers()
    before = resident_bytes(worker)
    stuck = find_examples(stubs, "unstoppable", "y")
    until(lambda: resident_bytes(worker) > before + 100e6)  # it has the matrix that it multiplies
    time.sleep(0.2)
    waiting = find_examples(stubs, "good", "relu1")
    with always_serving(one_worker):
        began = time.monotonic()
        cancel(stubs, stuck)
        until(lambda: state_of(stubs, stuck) == OperationMetadata.STATE_CANCELLED, 3)
        until(lambda: worker not in one_worker.workers(), 15)
        assert time.monotonic() - began > STUCK_SECONDS
        assert succeeded(stubs.wait(waiting))
    assert failure_of_status(stubs.wait(stuck).error).reason == "CANCELLED"


def test_a_deadline_that_passes_in_the_queue_never_starts_work(one_worker: ServerProcess) -> None:
    stubs = one_worker.stubs()
    slow = [find_examples(stubs, "slow", f"product{LONG_CHAIN - 1}", count) for count in range(1, 5)]
    until_stage(stubs, slow[0], "activating")
    late = find_examples(stubs, "good", "flat", seconds=0.5)
    failure = failure_of_status(stubs.wait(late).error)
    assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    metadata = metadata_of(stubs, late)
    assert not metadata.HasField("start_time")
    assert not metadata.stage
    for operation in slow:
        cancel(stubs, operation)
    assert succeeded(stubs.wait(find_examples(stubs, "good", "flat")))


def test_an_operation_whose_time_limit_passes_while_it_runs_says_so(one_worker: ServerProcess) -> None:
    stubs = one_worker.stubs()
    for count in range(1, 6):
        late = find_examples(stubs, "slow", f"product{LONG_CHAIN - 1}", count, seconds=0.4 + 0.03 * count)
        failure = failure_of_status(stubs.wait(late).error)
        assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        assert metadata_of(stubs, late).HasField("start_time")
