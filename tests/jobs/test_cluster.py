"""Tasks on a Dask cluster of real processes: results, deaths, TLS, and a scheduler that goes and comes."""

import math
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from certificates import HAS_OPENSSL
from dask_cluster import (
    DaskCluster,
    dask_cluster,
    die,
    die_once,
    done_and_gone,
    echo,
    environment,
    eventually,
    fail,
    free_port,
    make_certificates,
    member,
    niceness_and_threads,
    pid,
    square_slowly,
    wait_for_flag,
)  # fmt: skip
from ortoscope_service.config import ClusterConfig
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.calls import WorkerDiedError, WorkerTaskError
from ortoscope_service.jobs.cluster import ClusterExecutor, ClusterLostError, ClusterState
from ortoscope_service.jobs.cluster_members import run_cluster_scheduler, run_cluster_worker


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not HAS_OPENSSL:
        pytest.skip("openssl is not installed")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def cluster(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers, with TLS; every test leaves it able to work."""
    with dask_cluster(2, certificates, tmp_path_factory.mktemp("cluster") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def shared(cluster: DaskCluster) -> Iterator[ClusterExecutor]:
    executor = ClusterExecutor(cluster.config)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def executor(shared: ClusterExecutor) -> ClusterExecutor:
    """Both workers are there, and nothing else is to be done."""
    eventually(lambda: shared.state() == ClusterState(connected=True, workers=2, running=0, waiting=0))
    return shared


def start(executor: ClusterExecutor, folder: Path, name: str) -> "tuple[Future[Any], int]":
    """A task that runs until `folder/flag` is there, and the process that it runs in."""
    sign = folder / name
    future = executor.submit(wait_for_flag, str(sign), str(folder / "flag"))
    eventually(lambda: sign.exists() and sign.read_text() != "")
    return future, int(sign.read_text())


def gone(process: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_results_come_back_as_the_json_that_they_are(executor: ClusterExecutor) -> None:
    values: list[object] = [None, True, 3, 0.1, "ü\n", [1, [2]], {"a": {"b": []}}, "x" * 3_000_000]
    assert [future.result(60) for future in [executor.submit(echo, value) for value in values]] == values
    assert executor.submit(echo, value="named").result(60) == "named"


def test_equal_calls_are_all_made(executor: ClusterExecutor, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    futures = [executor.submit(die_once, str(sign)) for _ in range(2)]
    wait(futures, 60)
    assert sorted(future.exception() is None for future in futures) == [False, True]


def test_what_a_function_raises_is_known_by_its_type_alone(executor: ClusterExecutor) -> None:
    with pytest.raises(WorkerTaskError, match="ValueError") as caught:
        executor.submit(fail, "secret").result(60)
    assert "secret" not in str(caught.value)


def test_only_json_and_what_a_worker_can_import_is_taken(executor: ClusterExecutor) -> None:
    with pytest.raises(TypeError):
        executor.submit(echo, object())
    with pytest.raises(TypeError, match="JSON"):
        executor.submit(echo, math.nan)
    with pytest.raises(TypeError, match="top level"):
        executor.submit(lambda: 1)
    with pytest.raises(TypeError, match="top level"):
        executor.submit(Path("x").exists)


def test_workers_have_one_thread_a_low_priority_and_no_telemetry(executor: ClusterExecutor) -> None:
    niceness, threads = executor.submit(niceness_and_threads).result(60)
    assert (niceness, threads) == (min(os.nice(0) + 10, 19), 1)
    assert executor.submit(environment, "ORT_DISABLE_TELEMETRY").result(60) == "1"


def test_a_task_waits_here_until_a_worker_is_free_and_can_be_taken_back(
    executor: ClusterExecutor, tmp_path: Path
) -> None:
    running = [start(executor, tmp_path, f"sign{number}")[0] for number in range(2)]
    waiting = [executor.submit(echo, number) for number in range(3)]
    assert all(future.running() for future in running)
    assert not any(future.cancel() for future in running)
    assert executor.state().waiting == 3
    assert waiting[1].cancel()
    assert not any(future.done() for future in (waiting[0], waiting[2]))
    (tmp_path / "flag").touch()
    assert [future.result(60) for future in (*running, waiting[0], waiting[2])] == ["stopped", "stopped", 0, 2]


def test_a_worker_that_is_killed_costs_its_own_task_only_and_comes_back(
    executor: ClusterExecutor, tmp_path: Path
) -> None:
    (victim, process), (other, _) = (start(executor, tmp_path, f"sign{number}") for number in range(2))
    waiting = [executor.submit(echo, number) for number in range(4)]
    os.kill(process, signal.SIGKILL)
    with pytest.raises(WorkerDiedError):
        victim.result(60)
    eventually(lambda: executor.state().workers == 2)
    assert [future.result(60) for future in waiting] == [0, 1, 2, 3]
    (tmp_path / "flag").touch()
    assert other.result(60) == "stopped"


def test_a_task_that_always_ends_its_worker_ends_one_each_time_it_is_submitted(
    executor: ClusterExecutor, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    for attempts in (1, 2):
        with pytest.raises(WorkerDiedError):
            executor.submit(die, str(sign)).result(60)
        assert len(sign.read_text().split()) == attempts
    assert executor.submit(echo, "next").result(60) == "next"


def test_a_worker_that_retires_delivers_its_result_and_takes_no_other_task(
    executor: ClusterExecutor, tmp_path: Path
) -> None:
    other, _ = start(executor, tmp_path, "sign")
    text = "x" * 3_000_000
    retiring = [executor.submit(done_and_gone, text) for _ in range(2)]
    # Only the workers that come in their places can do these: the other is busy.
    after = [executor.submit(pid) for _ in range(2)]
    results = [future.result(60) for future in retiring]
    assert [result[0] for result in results] == [text] * 2
    processes = [result[1] for result in results]
    assert len(set(processes)) == 2
    assert not {future.result(60) for future in after} & set(processes)
    for process in processes:
        eventually(partial(gone, process), 10)
    (tmp_path / "flag").touch()
    assert other.result(60) == "stopped"


def test_a_lost_scheduler_loses_what_it_had_and_nothing_that_waits(
    cluster: DaskCluster, executor: ClusterExecutor, tmp_path: Path
) -> None:
    lost = [start(executor, tmp_path, f"sign{number}") for number in range(2)]
    waiting = executor.submit(echo, "waited")
    cluster.kill_scheduler()
    for future, process in lost:
        with pytest.raises(ClusterLostError):
            future.result(30)
        assert not future.cancelled()
        # What nobody waits for any more does not keep the worker from others.
        eventually(partial(gone, process), 10)
    eventually(lambda: not executor.state().connected)
    assert executor.workers() == 1
    submitted_without = executor.submit(echo, "submitted without")
    cluster.start_scheduler()
    assert (waiting.result(90), submitted_without.result(90)) == ("waited", "submitted without")
    eventually(lambda: executor.state().workers == 2)


@pytest.mark.parametrize("certificate", [None, "stranger"])
def test_whoever_has_no_certificate_of_the_authority_is_not_let_in(
    cluster: DaskCluster, executor: ClusterExecutor, certificates: Path, certificate: str | None
) -> None:
    context = ssl.create_default_context(cafile=certificates / "member-authority.crt")
    context.check_hostname = False
    if certificate is not None:
        context.load_cert_chain(certificates / f"{certificate}.crt", certificates / f"{certificate}.key")
    port = int(cluster.config.address.rpartition(":")[2])
    # In TLS 1.3 a client learns that its certificate was refused when it reads.
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
        context.wrap_socket(plain) as wrapped,
    ):
        wrapped.recv(1)


def test_a_certificate_of_another_authority_connects_with_nothing(
    cluster: DaskCluster, executor: ClusterExecutor, certificates: Path
) -> None:
    another = certificates / "stranger-authority.crt"
    by_another = replace(
        cluster.config, certificate=certificates / "stranger.crt", private_key=certificates / "stranger.key"
    )
    plain = ClusterConfig(cluster.config.address.replace("tls", "tcp"))
    # One whom the scheduler does not believe, one who does not believe the scheduler, and one who does not ask.
    configs = [by_another, replace(cluster.config, authority=another), plain]
    outsiders = [ClusterExecutor(config) for config in configs]
    futures = [outsider.submit(echo, 1) for outsider in outsiders]
    assert not wait(futures, 2).done
    assert not any(outsider.state().connected for outsider in outsiders)
    for outsider in outsiders:
        outsider.shutdown()
    for future in futures:
        with pytest.raises(ClusterLostError):
            future.result(0)
    assert executor.submit(echo, "in").result(60) == "in"


def test_workers_end_with_what_started_them_even_if_that_is_killed(certificates: Path, tmp_path: Path) -> None:
    with dask_cluster(1, None, tmp_path / "log") as plain, ClusterExecutor(plain.config) as executor:
        future, process = start(executor, tmp_path, "sign")
        plain.kill_workers_supervisor()
        with pytest.raises(WorkerDiedError):
            future.result(30)
        eventually(lambda: gone(process), 10)
        plain.start_workers(1)
        again = executor.submit(pid).result(60)
        assert plain.stop_workers() == 0
        eventually(lambda: gone(again), 10)


def test_shutdown_is_quick_without_a_scheduler_and_tells_those_who_wait() -> None:
    executor = ClusterExecutor(ClusterConfig(f"tcp://127.0.0.1:{free_port()}"))
    first, second = executor.submit(echo, 1), executor.submit(echo, 2)
    assert executor.state().waiting == 2
    assert executor.workers() == 1
    assert second.cancel()
    began = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - began < 5
    with pytest.raises(ClusterLostError):
        first.result(0)
    with pytest.raises(CancelledError):
        second.result(0)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(echo, 3)


def test_shutdown_waits_for_what_was_submitted(cluster: DaskCluster, executor: ClusterExecutor) -> None:
    with ClusterExecutor(cluster.config) as own:
        eventually(lambda: own.state().workers == 2)
        futures = [own.submit(echo, number) for number in range(5)]
    assert [future.result(0) for future in futures] == list(range(5))


def test_shutdown_that_cancels_does_not_wait_long_for_what_runs(
    cluster: DaskCluster, executor: ClusterExecutor, tmp_path: Path
) -> None:
    own = ClusterExecutor(cluster.config, grace_seconds=0.2)
    running = [start(own, tmp_path, f"sign{number}")[0] for number in range(2)]
    waiting = own.submit(echo, 1)
    began = time.monotonic()
    own.shutdown(cancel_futures=True)
    assert time.monotonic() - began < 5
    assert waiting.cancelled()
    for future in running:
        with pytest.raises(ClusterLostError):
            future.result(0)
    (tmp_path / "flag").touch()
    assert executor.submit(echo, "free again").result(60) == "free again"


def test_many_threads_may_submit_at_once(executor: ClusterExecutor) -> None:
    with ThreadPoolExecutor(8) as threads:
        futures = list(threads.map(lambda number: executor.submit(echo, number), range(60)))
    assert [future.result(60) for future in futures] == list(range(60))


TLS_FILES = (Path("a.crt"), Path("a.key"), Path("ca.crt"))


@pytest.mark.parametrize(
    ("config", "code", "reason"),
    [
        (ClusterConfig("localhost:8786"), Code.INVALID_ARGUMENT, "INVALID_CLUSTER_ADDRESS"),
        (ClusterConfig("http://127.0.0.1:8786"), Code.INVALID_ARGUMENT, "INVALID_CLUSTER_ADDRESS"),
        (ClusterConfig("tcp://127.0.0.1"), Code.INVALID_ARGUMENT, "INVALID_CLUSTER_ADDRESS"),
        (ClusterConfig("tcp://127.0.0.1:65536"), Code.INVALID_ARGUMENT, "INVALID_CLUSTER_ADDRESS"),
        (ClusterConfig("tls://host:1/path", *TLS_FILES), Code.INVALID_ARGUMENT, "INVALID_CLUSTER_ADDRESS"),
        (ClusterConfig("tcp://127.0.0.1:8786", *TLS_FILES), Code.INVALID_ARGUMENT, "INVALID_CLUSTER_ADDRESS"),
        (ClusterConfig("tls://host:8786", *TLS_FILES[:2]), Code.INVALID_ARGUMENT, "CLUSTER_TLS_INCOMPLETE"),
        (ClusterConfig("tls://host:8786"), Code.INVALID_ARGUMENT, "CLUSTER_TLS_INCOMPLETE"),
        (ClusterConfig("tcp://0.0.0.0:8786"), Code.FAILED_PRECONDITION, "INSECURE_CLUSTER"),
        (ClusterConfig("tcp://scheduler:8786"), Code.FAILED_PRECONDITION, "INSECURE_CLUSTER"),
        (ClusterConfig("tcp://localhost.example:8786"), Code.FAILED_PRECONDITION, "INSECURE_CLUSTER"),
        (ClusterConfig("tcp://[2001:db8::1]:8786"), Code.FAILED_PRECONDITION, "INSECURE_CLUSTER"),
    ],
)
def test_a_cluster_that_is_none_or_that_strangers_could_use_is_refused_by_all_who_would_join(
    config: ClusterConfig, code: Code, reason: str
) -> None:
    for join in (ClusterExecutor, run_cluster_scheduler, run_cluster_worker):
        with pytest.raises(OrtoscopeError) as caught:
            join(config)
        assert (caught.value.code, caught.value.reason) == (code, reason)
        assert config.address in caught.value.message


@pytest.mark.parametrize(
    "config",
    [
        ClusterConfig("tcp://127.3.2.1:1"),
        ClusterConfig("tcp://localhost:1"),
        ClusterConfig("tcp://[::1]:1"),
        ClusterConfig("tcp://192.0.2.1:1", allow_plain_tcp=True),
    ],
)
def test_plain_text_stays_on_this_machine_unless_it_is_allowed(config: ClusterConfig) -> None:
    ClusterExecutor(config).shutdown()


def test_files_that_are_no_certificates_are_refused_without_their_path(certificates: Path, tmp_path: Path) -> None:
    good = member("tls://127.0.0.1:1", certificates)
    (tmp_path / "empty").touch()
    for wrong in (tmp_path / "missing", tmp_path / "empty", certificates / "stranger.key"):
        with pytest.raises(OrtoscopeError) as caught:
            ClusterExecutor(replace(good, private_key=wrong))
        assert caught.value.reason == "CLUSTER_TLS_UNREADABLE"
        assert str(wrong.parent) not in caught.value.message


def test_an_installation_without_dask_names_the_extra() -> None:
    program = (
        "import sys\n"
        "sys.modules['distributed'] = None\n"
        "from ortoscope_service.config import ClusterConfig\n"
        "from ortoscope_service.errors import OrtoscopeError\n"
        "from ortoscope_service.jobs.cluster import ClusterExecutor\n"
        "try:\n    ClusterExecutor(ClusterConfig('tcp://127.0.0.1:1'))\n"
        "except OrtoscopeError as error:\n    print(error.reason, error.message)\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert "CLUSTER_NOT_INSTALLED" in shown.stdout
    assert "ortoscope[server,cluster]" in shown.stdout


@pytest.mark.long
def test_a_scheduler_that_hangs_is_taken_for_dead(certificates: Path, tmp_path: Path) -> None:
    with dask_cluster(1, certificates, tmp_path / "log") as hanging:
        executor = ClusterExecutor(hanging.config)
        future, _ = start(executor, tmp_path, "sign")
        hanging.pause_scheduler()
        with pytest.raises(ClusterLostError):
            future.result(60)
        hanging.resume_scheduler()
        (tmp_path / "flag").touch()
        assert executor.submit(echo, "again").result(60) == "again"
        executor.shutdown()


@pytest.mark.long
def test_everything_gets_done_while_workers_and_schedulers_are_killed(certificates: Path, tmp_path: Path) -> None:
    draws = random.Random(0)
    with dask_cluster(3, certificates, tmp_path / "log") as restless:
        executor = ClusterExecutor(restless.config)
        submitted = {executor.submit(square_slowly, number): number for number in range(60)}
        results: dict[int, int] = {}
        kill_at = math.inf
        kills = {"scheduler": 0, "worker": 0}
        while submitted:
            for future in wait(submitted, 0.1, FIRST_COMPLETED).done:
                number = submitted.pop(future)
                try:
                    square, process = future.result()
                except (ClusterLostError, WorkerDiedError):
                    submitted[executor.submit(square_slowly, number)] = number
                else:
                    results[number] = square
                    kill_at = min(kill_at, time.monotonic() + draws.uniform(0.1, 2))
            if time.monotonic() > kill_at and len(results) < 50:
                if draws.random() < 0.4:
                    kills["scheduler"] += 1
                    restless.kill_scheduler()
                    restless.start_scheduler()
                else:
                    kills["worker"] += 1
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                kill_at = math.inf
        executor.shutdown()
    assert results == {number: number * number for number in range(60)}
    assert min(kills.values()) >= 2
