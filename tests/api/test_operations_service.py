import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2
from ortoscope.v1.activations_pb2 import ExamplesSpec, FindExamplesRequest
from ortoscope.v1.operations_pb2 import OperationMetadata
from ortoscope_service.config import JobsConfig, ServerConfig
from ortoscope_service.models.repository import ModelRepository
from pictures import encode, photo
from serving import (
    GRAY_512,
    PREPROCESSING,
    Failure,
    Stubs,
    add_model,
    failure_of_status,
    serving,
    slow_image_chain,
    write_datasets,
)
from tiny_models import tiny_cnn

Refused = Callable[..., Failure]

ONE_AT_A_TIME = JobsConfig(workers=1, operations=1)


def metadata(operation: Any) -> OperationMetadata:
    message = OperationMetadata()
    assert operation.metadata.Unpack(message)
    return message


def request(model: str = "cnn", tap: str = "flat", **changes: Any) -> FindExamplesRequest:
    spec = ExamplesSpec(tap=f"models/{model}/taps/{tap}", dataset="datasets/photos", count=1)
    return FindExamplesRequest(spec=spec, **changes)


@pytest.fixture(scope="module")
def slow_config(config: ServerConfig, tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    """Images take so long through the model `slow` that an operation over them does not end by itself."""
    folder = tmp_path_factory.mktemp("slow")
    repository = ModelRepository(folder / "models")
    add_model(repository, "slow", slow_image_chain(1500), preprocessing=GRAY_512)
    add_model(repository, "cnn", tiny_cnn(), preprocessing=PREPROCESSING)
    return replace(config, models=folder / "models", datasets=write_datasets(folder / "datasets"))


@pytest.fixture
def slow(slow_config: ServerConfig, tmp_path: Path) -> Iterator[Stubs]:
    limits = replace(slow_config.limits, max_pending_operations=3, max_concurrent_rpcs=4)
    with serving(replace(slow_config, store=tmp_path, limits=limits, jobs=ONE_AT_A_TIME)) as (_, stubs):
        yield stubs


def endless(stubs: Stubs) -> Any:
    """A running operation that does not end by itself."""
    operation = stubs.activations.FindExamples(request("slow", "product1499"))
    deadline = time.monotonic() + 30
    while metadata(operation).state != OperationMetadata.STATE_RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        operation = get(stubs, operation)
    return operation


def get(stubs: Stubs, operation: Any) -> Any:
    return stubs.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))


def test_an_operation_is_recorded_from_acceptance_to_end(stubs: Stubs) -> None:
    accepted = stubs.activations.FindExamples(request())
    assert accepted.name.startswith("operations/")
    first = metadata(accepted)
    assert first.create_time.seconds
    done = stubs.wait(accepted)
    last = metadata(done)
    assert last.state == OperationMetadata.STATE_SUCCEEDED
    assert last.target == "models/cnn/versions/2/taps/flat"
    assert last.create_time == first.create_time
    assert last.create_time.ToNanoseconds() <= last.start_time.ToNanoseconds() <= last.end_time.ToNanoseconds()
    assert last.stage
    assert (last.done_items, last.total_items) == (5, 5)
    assert get(stubs, accepted) == done


def test_a_repeated_request_returns_the_same_operation_and_runs_once(stubs: Stubs, refused: Refused) -> None:
    with_id = request(request_id=str(uuid.uuid4()))
    first = stubs.activations.FindExamples(with_id)
    again = stubs.activations.FindExamples(with_id)
    assert again.name == first.name
    stubs.wait(first)
    assert stubs.activations.FindExamples(with_id) == stubs.wait(first)
    with_id.spec.count = 2
    failure = refused(stubs.activations.FindExamples, with_id)
    assert (failure.code, failure.reason, failure.field) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "request_id")
    assert stubs.activations.FindExamples(request()).name != first.name


def test_a_request_id_that_is_no_uuid_is_refused(stubs: Stubs, refused: Refused) -> None:
    failure = refused(stubs.activations.FindExamples, request(request_id="1"))
    assert (failure.reason, failure.field) == ("INVALID_REQUEST_ID", "request_id")


def test_many_repetitions_at_once_make_one_operation(stubs: Stubs) -> None:
    with_id = request(request_id=str(uuid.uuid4()))
    with ThreadPoolExecutor(8) as pool:
        names = {operation.name for operation in pool.map(stubs.activations.FindExamples, [with_id] * 8)}
    assert len(names) == 1


def test_operations_are_listed_newest_first_filtered_and_paged(stubs: Stubs) -> None:
    made = [stubs.wait(stubs.activations.FindExamples(request())).name for _ in range(3)]
    listed = stubs.operations.ListOperations(operations_pb2.ListOperationsRequest(page_size=2))
    assert [operation.name for operation in listed.operations] == made[:0:-1]
    rest = stubs.operations.ListOperations(
        operations_pb2.ListOperationsRequest(page_size=2, page_token=listed.next_page_token)
    )
    assert rest.operations[0].name == made[0]
    for text in ("done=true", "done = true", ""):
        done = stubs.operations.ListOperations(operations_pb2.ListOperationsRequest(name="operations", filter=text))
        assert {operation.name for operation in done.operations} >= set(made)
    pending = stubs.operations.ListOperations(operations_pb2.ListOperationsRequest(filter="done=false"))
    assert not {operation.name for operation in pending.operations} & set(made)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"filter": "verb=dissect"}, "filter"),
        ({"name": "models/cnn"}, "name"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "x"}, "page_token"),
    ],
)
def test_lists_that_there_are_not_are_refused(
    stubs: Stubs, refused: Refused, fields: dict[str, Any], field: str
) -> None:
    failure = refused(stubs.operations.ListOperations, operations_pb2.ListOperationsRequest(**fields))
    assert (failure.code, failure.field) == ("INVALID_ARGUMENT", field)


def test_operations_that_there_are_not_are_not_found(stubs: Stubs, refused: Refused) -> None:
    for rpc, make in (
        (stubs.operations.GetOperation, operations_pb2.GetOperationRequest),
        (stubs.operations.WaitOperation, operations_pb2.WaitOperationRequest),
        (stubs.operations.CancelOperation, operations_pb2.CancelOperationRequest),
        (stubs.operations.DeleteOperation, operations_pb2.DeleteOperationRequest),
    ):
        unknown = refused(rpc, make(name=f"operations/{uuid.uuid4().hex}"))
        assert (unknown.code, unknown.reason) == ("NOT_FOUND", "UNKNOWN_OPERATION")
        assert refused(rpc, make(name="operations/../../etc")).code == "INVALID_ARGUMENT"


def test_only_operations_that_ended_can_be_deleted(slow: Stubs, refused: Refused) -> None:
    running = endless(slow)
    delete = operations_pb2.DeleteOperationRequest(name=running.name)
    failure = refused(slow.operations.DeleteOperation, delete)
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "OPERATION_RUNNING")
    slow.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=running.name))
    slow.wait(running)
    slow.operations.DeleteOperation(delete)
    assert refused(slow.operations.DeleteOperation, delete).code == "NOT_FOUND"


def test_cancelling_stops_the_model_in_the_middle_of_a_run(slow: Stubs) -> None:
    running = endless(slow)
    began = time.monotonic()
    slow.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=running.name))
    ended = slow.wait(running)
    assert time.monotonic() - began < 3
    assert failure_of_status(ended.error).code == "CANCELLED"
    state = metadata(ended)
    assert state.state == OperationMetadata.STATE_CANCELLED
    assert state.cancel_requested
    slow.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=running.name))  # no effect any more
    assert get(slow, running) == ended


def test_cancelling_what_waits_ends_it_at_once(slow: Stubs) -> None:
    endless(slow)
    waiting = slow.activations.FindExamples(request())
    assert metadata(waiting).state == OperationMetadata.STATE_QUEUED
    slow.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=waiting.name))
    assert failure_of_status(get(slow, waiting).error).code == "CANCELLED"


def test_more_operations_than_the_limit_are_refused(slow: Stubs, refused: Refused) -> None:
    endless(slow)
    for _ in range(2):
        slow.activations.FindExamples(request())
    failure = refused(slow.activations.FindExamples, request())
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_OPERATIONS")
    assert failure.metadata == {"max_pending_operations": "3"}


def test_waiting_honours_the_timeout_and_the_deadline(slow: Stubs, refused: Refused) -> None:
    running = endless(slow)
    wait = operations_pb2.WaitOperationRequest(name=running.name)
    began = time.monotonic()
    wait.timeout.CopyFrom(duration_pb2.Duration(nanos=300_000_000))
    assert not slow.operations.WaitOperation(wait).done
    assert 0.2 < time.monotonic() - began < 2
    began = time.monotonic()
    wait.ClearField("timeout")
    assert not slow.operations.WaitOperation(wait, timeout=2).done  # answered before the deadline
    assert 1 < time.monotonic() - began < 2
    wait.timeout.CopyFrom(duration_pb2.Duration(seconds=-1))
    assert refused(slow.operations.WaitOperation, wait).field == "timeout"


def test_waiting_ends_with_the_operation(slow: Stubs) -> None:
    running = endless(slow)
    cancel = operations_pb2.CancelOperationRequest(name=running.name)
    timer = threading.Timer(0.5, slow.operations.CancelOperation, (cancel,))
    timer.start()
    began = time.monotonic()
    ended = slow.operations.WaitOperation(operations_pb2.WaitOperationRequest(name=running.name), timeout=30)
    assert ended.done
    assert time.monotonic() - began < 5
    timer.join()


def test_those_who_wait_leave_room_for_others(slow: Stubs) -> None:
    running = endless(slow)
    wait = operations_pb2.WaitOperationRequest(name=running.name)
    # There are four places; two may be held by waiting, and whoever comes third gets the present state at once.
    waiting = [slow.operations.WaitOperation.future(wait, timeout=20) for _ in range(2)]
    time.sleep(0.5)
    began = time.monotonic()
    assert not slow.operations.WaitOperation(wait, timeout=20).done
    assert time.monotonic() - began < 2
    assert not get(slow, running).done
    for call in waiting:
        assert not call.done()
        call.cancel()


def test_a_waiting_client_that_goes_away_frees_its_place(slow: Stubs) -> None:
    running = endless(slow)
    wait = operations_pb2.WaitOperationRequest(name=running.name)
    for _ in range(6):
        call = slow.operations.WaitOperation.future(wait, timeout=20)
        time.sleep(0.1)
        call.cancel()
    time.sleep(0.5)
    began = time.monotonic()
    assert not slow.operations.WaitOperation(wait, timeout=2).done
    assert time.monotonic() - began > 1  # it waited, so there was a place


def test_operations_survive_a_restart_of_the_server(slow_config: ServerConfig, tmp_path: Path) -> None:
    stored = replace(slow_config, store=tmp_path)
    with serving(stored) as (_, stubs):
        done = stubs.wait(stubs.activations.FindExamples(request()))
        running = endless(stubs)
        waiting = stubs.activations.FindExamples(request())
    with serving(stored) as (_, stubs):
        assert get(stubs, done) == done
        assert stubs.wait(waiting).HasField("response")
        assert not get(stubs, running).done
        assert metadata(get(stubs, running)).create_time == metadata(running).create_time
        stubs.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=running.name))
        assert failure_of_status(stubs.wait(running).error).code == "CANCELLED"


def test_an_operation_over_a_changing_dataset_fails_rather_than_lies(slow_config: ServerConfig, tmp_path: Path) -> None:
    folder = write_datasets(tmp_path / "datasets")
    with serving(replace(slow_config, datasets=folder, store=tmp_path / "store")) as (_, stubs):
        endless_one = endless(stubs)
        waiting = stubs.activations.FindExamples(request())
        stubs.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=endless_one.name))
        assert stubs.wait(waiting).HasField("response")
        images = [encode(photo(40, 30, seed=seed), "PNG") for seed in range(200)]
        for number, data in enumerate(images):
            (folder / "photos" / "a" / f"more{number}.png").write_bytes(data)
        stop = threading.Event()

        def disturb() -> None:
            target = folder / "photos" / "b" / "4.png"
            for data in images * 100:
                if stop.wait(0.005):
                    return
                target.write_bytes(data)

        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        try:
            operation = stubs.wait(stubs.activations.FindExamples(request()))
        finally:
            stop.set()
            disturbing.join()
        assert failure_of_status(operation.error).code == "FAILED_PRECONDITION"


def test_an_activation_that_is_no_number_fails_the_operation_and_names_image_and_unit(
    slow_config: ServerConfig, tmp_path: Path
) -> None:
    wild = tiny_cnn()
    for tensor in wild.graph.initializer:
        if tensor.name == "conv2.bias":
            values = np.frombuffer(tensor.raw_data, np.float32).copy()
            values[7] = np.nan
            tensor.raw_data = values.tobytes()
    add_model(ModelRepository(tmp_path / "models"), "wild", wild, preprocessing=PREPROCESSING)
    with serving(replace(slow_config, models=tmp_path / "models", store=tmp_path / "store")) as (_, stubs):
        failure = failure_of_status(stubs.wait(stubs.activations.FindExamples(request("wild", "conv2"))).error)
        assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "ACTIVATION_NOT_FINITE")
        assert failure.metadata["unit"] == "7"
        assert failure.metadata["image"] == "a/0.png"


def test_the_code_of_a_call_and_its_status_agree(stubs: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stubs.operations.GetOperation(operations_pb2.GetOperationRequest(name="x"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
