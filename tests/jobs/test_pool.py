import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import pytest
import worker_tasks
from control_group_kernel import Kernel
from ortoscope_service.jobs.calls import WorkerDiedError, WorkerTaskError
from ortoscope_service.jobs.pool import WorkerPool
from ortoscope_service.runtime.control_groups import MemoryGroups
from shared_memory import fill_shared_memory

PATIENCE = 30
"""Seconds after which something that takes a fraction of one has failed, even on a busy machine."""


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """One worker."""
    with WorkerPool(1) as pool:
        yield pool


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def death(future: "Future[Any]") -> WorkerDiedError:
    error = future.exception(PATIENCE)
    assert isinstance(error, WorkerDiedError), error
    return error


def test_a_result_comes_back_as_json(pool: WorkerPool) -> None:
    future = pool.submit(worker_tasks.echo, 1, "ä", [None, True], key={"b": 2.5})
    assert future.result(PATIENCE) == [[1, "ä", [None, True]], {"key": {"b": 2.5}}]


def test_one_worker_takes_tasks_in_order(pool: WorkerPool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    wait([pool.submit(worker_tasks.append, str(log), str(index)) for index in range(20)], PATIENCE)
    assert log.read_text().split() == [str(index) for index in range(20)]
    assert len(pool.pids()) == 1


def test_twenty_tasks_on_three_workers_each_run_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with WorkerPool(3) as pool:
        futures = [pool.submit(worker_tasks.append, str(log), str(index), 0.1) for index in range(20)]
        pids = {future.result(PATIENCE) for future in futures}
        assert pids <= set(pool.pids())
    assert len(pids) <= 3
    assert sorted(map(int, log.read_text().split())) == list(range(20))


def test_workers_work_at_the_same_time(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in "abc"]
    with WorkerPool(3) as pool:
        futures = [pool.submit(worker_tasks.meet, file, files, PATIENCE) for file in files]
        assert all(future.result(PATIENCE) for future in futures)


def test_no_process_starts_before_there_is_work_nor_more_than_there_is_work() -> None:
    with WorkerPool(3) as pool:
        assert pool.pids() == []
        first = pool.submit(worker_tasks.process_number).result(PATIENCE)
        until(lambda: len(pool._free) == 3)
        assert pool.submit(worker_tasks.process_number).result(PATIENCE) == first
        assert pool.pids() == [first]


def test_warm_starts_all_workers() -> None:
    with WorkerPool(2) as pool:
        pool.warm()
        until(lambda: len(pool.pids()) == 2)
        assert pool.submit(worker_tasks.process_number).result(PATIENCE) in pool.pids()


def test_megabytes_go_both_ways(pool: WorkerPool) -> None:
    text = "ö" * 1_000_000
    assert pool.submit(worker_tasks.echo, text).result(PATIENCE) == [[text], {}]
    assert len(pool.submit(worker_tasks.text_of, 10_000_000).result(PATIENCE)) == 10_000_000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_that_ends_a_worker_fails_its_task_alone(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with WorkerPool(2) as pool:
        before = pool.submit(worker_tasks.append, str(log), "before", 1.0)
        deadly = pool.submit(worker_tasks.raise_signal, int(number))
        after = [pool.submit(worker_tasks.append, str(log), "after") for _ in range(4)]
        assert death(deadly).how == f"was killed by {number.name}"
        assert death(deadly).exit_code == -number
        assert before.result(PATIENCE)
        assert all(future.result(PATIENCE) for future in after)
    assert sorted(log.read_text().split()) == ["after"] * 4 + ["before"]


def test_a_worker_killed_from_outside_is_replaced(pool: WorkerPool, tmp_path: Path) -> None:
    started = tmp_path / "started"
    busy = pool.submit(worker_tasks.sleep_in_c, str(started), 60)
    until(lambda: started.exists() and started.read_text())
    os.kill(int(started.read_text()), signal.SIGKILL)
    assert death(busy).exit_code == -signal.SIGKILL
    assert pool.submit(worker_tasks.process_number).result(PATIENCE) != int(started.read_text())


def test_a_worker_that_dies_idle_costs_no_task(pool: WorkerPool) -> None:
    for _ in range(5):
        pid = pool.submit(worker_tasks.process_number).result(PATIENCE)
        os.kill(pid, signal.SIGKILL)
        assert pool.submit(worker_tasks.process_number).result(PATIENCE) != pid


def test_a_worker_that_ends_itself_tells_its_exit_code(pool: WorkerPool) -> None:
    ended = death(pool.submit(worker_tasks.end_process, 81))
    assert (ended.how, ended.exit_code) == ("ended with exit code 81", 81)
    assert pool.submit(worker_tasks.echo).result(PATIENCE) == [[], {}]


@pytest.mark.parametrize("stopped", [True, False])
def test_a_worker_that_is_stopped_or_hangs_is_killed(stopped: bool, tmp_path: Path) -> None:
    started = tmp_path / "started"
    with WorkerPool(1, silence_seconds=2.5) as pool:
        if stopped:
            silent = pool.submit(worker_tasks.raise_signal, int(signal.SIGSTOP))
        else:
            silent = pool.submit(worker_tasks.sleep_with_the_lock, str(started), 60)
        assert death(silent).how == "did not answer for 2.5 seconds and was killed"
        assert pool.submit(worker_tasks.echo).result(PATIENCE) == [[], {}]


def test_a_worker_that_is_busy_for_longer_than_the_silence_allowed_is_not_killed() -> None:
    with WorkerPool(1, silence_seconds=3.0, niceness=0) as pool:
        assert pool.submit(worker_tasks.sleep, 4.5).result(PATIENCE) is None


def message(text: str) -> str:
    """A message of the channel: the lengths of the JSON and of the arrays, and the JSON."""
    return chr(len(text)) + "\0" * 11 + text


@pytest.mark.parametrize(
    "nonsense",
    [
        "x" * 100,
        message("[[]]"),
        message("[[],[]]"),
        message('[{"state":"ready"},[]]'),
        message('[{"state":"done","answer":[]},[]]'),
        message('[{"state":"done","answer":"{}"},[]]'),
        message(f'[{{}},[["<f4",[1],{10**30},4]]]'),
    ],
)
def test_a_worker_that_sends_nonsense_is_killed(pool: WorkerPool, nonsense: str) -> None:
    taken_over = death(pool.submit(worker_tasks.claim_to_be_done, nonsense))
    assert taken_over.how.startswith("gave an answer that ")
    assert taken_over.how.endswith((" and was killed", " and was ended"))
    assert pool.submit(worker_tasks.echo).result(PATIENCE) == [[], {}]


def test_a_worker_that_cannot_start_fails_its_task(
    pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('this installation is broken')")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        futures = [pool.submit(worker_tasks.echo, index) for index in range(2)]
        for future in futures:
            assert death(future).how == "ended with exit code 1 before it was ready"
            assert death(future).exit_code == 1
    assert pool.submit(worker_tasks.echo).result(PATIENCE) == [[], {}]


def test_a_program_that_is_not_there_fails_its_task(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        failed = death(pool.submit(worker_tasks.echo))
    assert (failed.how, failed.exit_code) == ("could not be started", None)
    assert pool.submit(worker_tasks.echo).result(PATIENCE) == [[], {}]


def test_allocating_more_than_allowed_fails_the_task_and_spares_the_worker() -> None:
    with WorkerPool(1, memory_bytes=400 * 1024**2) as pool:
        pid = pool.submit(worker_tasks.process_number).result(PATIENCE)
        error = pool.submit(worker_tasks.allocate, 500 * 1024**2).exception(PATIENCE)
        assert isinstance(error, WorkerTaskError)
        assert str(error) == "MemoryError"
        assert pool.submit(worker_tasks.process_number).result(PATIENCE) == pid


def test_of_an_exception_no_more_than_its_type_comes_back(pool: WorkerPool) -> None:
    error = pool.submit(worker_tasks.fail, "/a/path/of/the/server").exception(PATIENCE)
    assert isinstance(error, WorkerTaskError)
    assert str(error) == "FileNotFoundError"


def test_a_result_that_is_no_json_fails_its_task(pool: WorkerPool) -> None:
    error = pool.submit(worker_tasks.something_else).exception(PATIENCE)
    assert isinstance(error, WorkerTaskError)
    assert str(error) == "TypeError"


@pytest.mark.parametrize("argument", [b"bytes", object(), float("nan"), {1, 2}])
def test_arguments_that_are_no_json_are_refused(pool: WorkerPool, argument: object) -> None:
    with pytest.raises(TypeError):
        pool.submit(worker_tasks.echo, argument)


def test_functions_that_a_worker_cannot_import_are_refused(pool: WorkerPool) -> None:
    def inner() -> None: ...

    for function in (inner, lambda: None, threading.Lock().acquire):
        with pytest.raises(TypeError, match="top level of a module"):
            pool.submit(function)


def test_a_queued_task_can_be_cancelled_and_a_running_one_cannot(pool: WorkerPool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = pool.submit(worker_tasks.append, str(log), "first", 0.5)
    queued = [pool.submit(worker_tasks.append, str(log), str(index)) for index in range(3)]
    until(log.exists)
    assert not running.cancel()
    assert queued[1].cancel()
    wait(queued, PATIENCE)
    assert log.read_text().split() == ["first", "0", "2"]


def test_shutdown_finishes_what_was_submitted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = WorkerPool(2)
    futures = [pool.submit(worker_tasks.append, str(log), str(index), 0.1) for index in range(6)]
    until(pool.pids)
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert len(log.read_text().split()) == 6
    assert pool.pids() == []
    assert not any(is_alive(future.result()) for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(worker_tasks.echo)


def test_shutdown_that_does_not_wait_still_finishes_what_was_submitted(tmp_path: Path) -> None:
    pool = WorkerPool(1)
    futures = [pool.submit(worker_tasks.append, str(tmp_path / "log"), str(index)) for index in range(3)]
    pool.shutdown(wait=False)
    assert all(future.result(PATIENCE) for future in futures)
    pool.shutdown()


def test_shutdown_cancels_what_waits_and_kills_what_does_not_end_in_time(tmp_path: Path) -> None:
    started = tmp_path / "started"
    pool = WorkerPool(1, grace_seconds=0.2)
    running = pool.submit(worker_tasks.sleep_in_c, str(started), 60)
    queued = pool.submit(worker_tasks.echo)
    until(lambda: started.exists() and started.read_text())
    pool.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        queued.result(0)
    assert death(running).exit_code == -signal.SIGKILL
    assert not is_alive(int(started.read_text()))


def test_shutdown_lets_a_task_end_that_ends_in_time(tmp_path: Path) -> None:
    pool = WorkerPool(1, grace_seconds=PATIENCE)
    running = pool.submit(worker_tasks.append, str(tmp_path / "log"), "", 0.5)
    until((tmp_path / "log").exists)
    pool.shutdown(cancel_futures=True)
    assert running.result(0)


def test_a_process_that_retires_is_replaced_after_its_task(pool: WorkerPool) -> None:
    retired = pool.submit(worker_tasks.done_and_gone).result(PATIENCE)
    assert pool.submit(worker_tasks.process_number).result(PATIENCE) != retired
    until(lambda: not is_alive(retired))


def test_an_idle_worker_ends_and_the_next_task_gets_another() -> None:
    with WorkerPool(1, idle_seconds=0.2) as pool:
        first = pool.submit(worker_tasks.process_number).result(PATIENCE)
        until(lambda: not pool.pids() and not is_alive(first))
        assert pool.submit(worker_tasks.process_number).result(PATIENCE) != first


def test_what_a_task_prints_disturbs_nothing(pool: WorkerPool) -> None:
    assert pool.submit(worker_tasks.print_something).result(PATIENCE) == "printed"


def test_a_worker_inherits_no_files_and_runs_at_lower_priority(tmp_path: Path) -> None:
    left, right = socket.socketpair()
    with (tmp_path / "secret").open("w") as file, left, right, WorkerPool(1, niceness=3) as pool:
        os.set_inheritable(file.fileno(), True)
        os.set_inheritable(left.fileno(), True)
        found = pool.submit(worker_tasks.surroundings).result(PATIENCE)
        own = f"socket:[{os.fstat(left.fileno()).st_ino}]"
    assert found["nice"] == min(19, os.nice(0) + 3)
    assert found["telemetry"] == "1"
    assert found["interrupt_ignored"]
    assert not {str(tmp_path / "secret"), own} & set(found["files"])


def test_ctrl_c_in_the_terminal_does_not_reach_a_worker(pool: WorkerPool) -> None:
    pid = pool.submit(worker_tasks.process_number).result(PATIENCE)
    assert os.getpgid(pid) == pid != os.getpgrp()
    os.kill(pid, signal.SIGINT)
    assert pool.submit(worker_tasks.process_number).result(PATIENCE) == pid


def test_a_worker_is_in_a_group_of_its_own_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(tmp_path, monkeypatch)
    groups = MemoryGroups(kernel.service)
    monkeypatch.setattr(MemoryGroups, "take_over", lambda: groups)
    with WorkerPool(1, memory_bytes=400 * 1024**2) as pool:
        pid = pool.submit(worker_tasks.process_number).result(PATIENCE)
        (group,) = kernel.service.glob("ortoscope-worker-*")
        assert kernel.processes(group) == [str(pid)]
        assert (group / "memory.max").read_text() == str(400 * 1024**2)
        (group / "cgroup.procs").write_text("")
        (group / "memory.events").write_text("oom 1\noom_kill 1\n")
        killed = death(pool.submit(worker_tasks.raise_signal, int(signal.SIGKILL)))
        assert (killed.how, killed.out_of_memory) == ("was killed because it exceeded its memory", True)
        other = death(pool.submit(worker_tasks.raise_signal, int(signal.SIGKILL)))
        assert (other.how, other.out_of_memory) == ("was killed by SIGKILL", False)
        assert not group.exists()


@pytest.mark.skipif(
    MemoryGroups.find_delegated() is None,
    reason="no control group is delegated to the tests, as by systemd-run --user --scope -p Delegate=yes",
)
def test_the_kernel_ends_a_worker_whose_group_exceeds_its_memory() -> None:
    with WorkerPool(1, memory_bytes=400 * 1024**2) as pool:
        killed = death(pool.submit(fill_shared_memory, 600 * 1024**2))
        assert (killed.how, killed.out_of_memory) == ("was killed because it exceeded its memory", True)
        assert killed.exit_code == -signal.SIGKILL
        assert pool.submit(worker_tasks.echo).result(PATIENCE) == [[], {}]


SERVER = """
import sys, time
import worker_tasks
from ortoscope_service.jobs.pool import WorkerPool
pool = WorkerPool(2)
pool.submit(worker_tasks.sleep_in_c, sys.argv[1], 60)
pool.submit(worker_tasks.sleep_with_the_lock, sys.argv[2], 60)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_server_whatever_they_do(number: signal.Signals, tmp_path: Path) -> None:
    started = [tmp_path / "first", tmp_path / "second"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", SERVER, *map(str, started)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as server:
        until(lambda: all(file.exists() and file.read_text() for file in started))
        pids = [int(file.read_text()) for file in started]
        assert all(map(is_alive, pids))
        server.send_signal(number)
        server.wait(PATIENCE)
    ended_at = time.monotonic()
    until(lambda: not any(map(is_alive, pids)))
    assert time.monotonic() - ended_at < 2
