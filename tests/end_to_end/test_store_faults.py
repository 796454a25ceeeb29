"""What happens to a store while a server works on it: it is full, deleted, damaged, or the clock jumps."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import durability
import grpc
import pytest
from durability import Deployment, Formation, Rig, deployment, differences, fetch, make_rig, run, submit
from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from ortoscope.v1 import blobs_pb2
from ortoscope.v1.activations_pb2 import ExamplesSpec, FindExamplesRequest, GetExampleSetRequest, ListExampleSetsRequest
from ortoscope.v1.dissections_pb2 import CreateDissectionRequest, Dissection, DissectionSpec
from ortoscope.v1.operations_pb2 import OperationMetadata
from serving import Failure, Stubs, failure_of, failure_of_status

TWO = Formation("2 workers", 2)
MEGABYTE = 1000**2
TEN_YEARS = 10 * 365.25 * 86400
_CLOCK = """
import pathlib, time
_file, _true = pathlib.Path(__file__).with_name("offset"), time.time
time.time = lambda: _true() + float(_file.read_text())
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return make_rig(tmp_path_factory.mktemp("rig"))


@pytest.fixture(scope="module")
def reference(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert run(rig, TWO, folder).faults == ()
    return folder / "results"


@contextmanager
def stubs_of(deployed: Deployment) -> Iterator[Stubs]:
    with grpc.insecure_channel(deployed.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Stubs(channel)


def tap() -> str:
    return f"models/{durability.MODEL}/versions/1/taps/{durability.TAP}"


def dissect(stubs: Stubs, limit: float | None = None) -> Any:
    request = CreateDissectionRequest(spec=DissectionSpec(tap=tap(), dataset=f"datasets/{durability.DATASET}"))
    if limit is not None:
        request.time_limit.CopyFrom(Duration(nanos=round(limit % 1 * 1e9), seconds=int(limit)))
    return stubs.dissections.CreateDissection(request)


def find_examples(stubs: Stubs) -> Any:
    spec = ExamplesSpec(tap=tap(), dataset=f"datasets/{durability.DATASET}", count=3)
    return stubs.activations.FindExamples(FindExamplesRequest(spec=spec))


def get(stubs: Stubs, operation: Any) -> Any:
    return stubs.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))


def metadata_of(operation: Any) -> OperationMetadata:
    metadata = OperationMetadata()
    operation.metadata.Unpack(metadata)
    return metadata


def failure_when(call: Callable[[], Any]) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return failure_of(caught.value)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.005)


def artifacts(store: Path) -> list[Path]:
    return [path for path in (store / "shards").glob("??/*") if path.is_file()]


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, in memory; skips the test where none may be mounted."""
    folder.mkdir(parents=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={megabytes * MEGABYTE}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mounting, check=False, capture_output=True).returncode:
        pytest.skip("this process may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_fails_the_operation_typed_and_what_was_done_is_not_done_again(
    rig: Rig, reference: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "store", 40) as disk, deployment(rig, TWO, tmp_path) as deployed:
        with stubs_of(deployed) as stubs:
            kept = stubs.wait(find_examples(stubs))
            until(lambda: not artifacts(disk))
            ballast = disk / "ballast"
            operation = dissect(stubs)
            until(lambda: len(artifacts(disk)) > 10)
            fill(ballast)
            until(lambda: get(stubs, operation).done or "too full to record" in deployed.log())
            name = next(iter(stubs.activations.ListExampleSets(ListExampleSetsRequest()).example_sets)).name
            assert stubs.activations.GetExampleSet(GetExampleSetRequest(name=name)).unit_count
            ballast.unlink()
            failure = failure_of_status(stubs.wait(operation).error)
            assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
            again = dissect(stubs)
            until(lambda: metadata_of(get(stubs, again)).stage == "activating")
            assert metadata_of(get(stubs, again)).done_items > 0
            assert stubs.wait(again).HasField("response")
        assert fetch(deployed.address, [again.name, kept.name], tmp_path / "results") == []
        assert deployed.leftovers() == []
        assert deployed.stop() == []
    assert differences(reference, tmp_path / "results") == []


def fill(ballast: Path) -> None:
    """Writes to a file until there is no room."""
    with ballast.open("wb", buffering=0) as file:
        for size in (MEGABYTE, 1000, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def test_a_store_that_is_deleted_is_told_and_nothing_hangs(rig: Rig, tmp_path: Path) -> None:
    with deployment(rig, TWO, tmp_path) as deployed, stubs_of(deployed) as stubs:
        operation = dissect(stubs)
        until(lambda: len(artifacts(deployed.store)) > 5)
        while deployed.store.exists():  # workers write into it while it is deleted
            shutil.rmtree(deployed.store, ignore_errors=True)
        for call in (
            lambda: get(stubs, operation),
            lambda: stubs.wait(operation),
            lambda: dissect(stubs),
            lambda: find_examples(stubs),
        ):
            failure = failure_when(call)
            assert (failure.code, failure.reason) == ("DATA_LOSS", "STORE_LOST")
        health = health_pb2.HealthCheckRequest()
        until(lambda: stubs.health.Check(health).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        assert deployed.stop() == []
        assert not deployed.store.exists()


def test_a_shard_that_is_damaged_while_the_operation_runs_is_computed_again(
    rig: Rig, reference: Path, tmp_path: Path
) -> None:
    with deployment(rig, TWO, tmp_path) as deployed:
        names = submit(deployed.address)
        for number in (3, 12, 30):
            until(lambda number=number: len(artifacts(deployed.store)) > number)
            damage(artifacts(deployed.store)[number // 2])
        (deployed.store / "shards" / "temporary" / "left-by-a-worker-that-died").write_bytes(b"half")
        assert fetch(deployed.address, names, tmp_path / "results") == []
        assert "computing again what artifact" in deployed.log()
        assert deployed.leftovers() == []
        assert deployed.stop() == []
    assert differences(reference, tmp_path / "results") == []


def damage(file: Path) -> None:
    """Changes a byte of a file in place."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 1]))


def test_a_result_that_is_damaged_is_never_given_out(rig: Rig, tmp_path: Path) -> None:
    with deployment(rig, TWO, tmp_path) as deployed, stubs_of(deployed) as stubs:
        dissection = Dissection()
        assert stubs.wait(dissect(stubs)).response.Unpack(dissection)
        digest = dissection.arrays.removeprefix("blobs/")
        (file,) = deployed.store.joinpath("blobs").rglob(digest)
        damage(file)
        failure = failure_when(lambda: list(stubs.blobs.ReadBlob(blobs_pb2.ReadBlobRequest(name=dissection.arrays))))
        assert (failure.code, failure.reason) == ("DATA_LOSS", "BLOB_DAMAGED")
        # Asked for once more, it is computed once more.
        assert stubs.wait(dissect(stubs)).HasField("response")
        assert list(stubs.blobs.ReadBlob(blobs_pb2.ReadBlobRequest(name=dissection.arrays)))
        assert deployed.stop() == []


def test_a_clock_that_jumps_ends_and_forgets_nothing(rig: Rig, reference: Path, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(_CLOCK)

    def jump(seconds: float) -> None:
        (clock / "new").write_text(str(seconds))
        (clock / "new").replace(clock / "offset")

    jump(0)
    with deployment(rig, TWO, tmp_path, {"PYTHONPATH": str(clock)}) as deployed:
        with stubs_of(deployed) as stubs:
            examples = stubs.wait(find_examples(stubs))
            until(lambda: not artifacts(deployed.store))
            dissection = dissect(stubs, limit=3600)
            until(lambda: len(artifacts(deployed.store)) > 4)
            for offset in (TEN_YEARS, -TEN_YEARS, TEN_YEARS):
                jump(offset)
                time.sleep(0.5)
            assert stubs.wait(dissection).HasField("response")
            until(lambda: not artifacts(deployed.store))  # from which the next one would be answered at once
            began = time.monotonic()
            overdue = dissect(stubs, limit=0.2)  # less than any dissection takes
            jump(-TEN_YEARS)
            assert failure_of_status(stubs.wait(overdue).error).reason == "DEADLINE_EXCEEDED"
            assert 0.15 < time.monotonic() - began < 10
            time.sleep(1.1)  # a round of housekeeping
            listed = stubs.operations.ListOperations(operations_pb2.ListOperationsRequest()).operations
            assert [operation.name for operation in listed] == [overdue.name, dissection.name, examples.name]
        assert fetch(deployed.address, [dissection.name, examples.name], tmp_path / "results") == []
        assert deployed.stop() == []
    assert differences(reference, tmp_path / "results") == []
