"""The process that holds the sessions for calls: what a session there does, and what is left when it dies."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import bad_models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime import host_process, remote_sessions
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.host_process import HostSettings
from ortoscope_service.runtime.memory import resident_bytes
from ortoscope_service.runtime.remote_sessions import ModelIdentity, RemoteSession, SessionHost
from ortoscope_service.runtime.sessions import Session, SessionConfig
from tiny_models import GraphBuilder, float_value, random_feeds, tiny_cnn

GIB = 1024**3
SETTINGS = HostSettings(memory_bytes=2 * GIB, session_memory_bytes=GIB)
CNN = tiny_cnn().SerializeToString()
X = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture
def host() -> Iterator[SessionHost]:
    made = SessionHost(SETTINGS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def lasting() -> Iterator[SessionHost]:
    """One that tests share which do it no harm."""
    made = SessionHost(SETTINGS)
    yield made
    made.close()


def session(
    host: SessionHost, model: bytes | onnx.ModelProto, cancellation: Cancellation | None = None, *, threads: int = 0
) -> RemoteSession:
    graph = model if isinstance(model, bytes) else model.SerializeToString()
    config = SessionConfig(intra_op_threads=threads)
    return host.session((graph, threads), lambda: graph, config, ModelIdentity("bad/3", "sha256:77"), cancellation)


def refusal(call: Callable[..., object], *arguments: Any, **keywords: Any) -> OrtoscopeError:
    with pytest.raises(OrtoscopeError) as caught:
        call(*arguments, **keywords)
    return caught.value


def after(seconds: float) -> Cancellation:
    return Cancellation(time.monotonic() + seconds)


def copying(data_type: int) -> onnx.ModelProto:
    """`y` = `x`, of any number of elements."""
    g = GraphBuilder(0)
    g.node("Identity", ["x"], "y")
    x, y = (helper.make_tensor_value_info(name, data_type, ["n"]) for name in "xy")
    return g.model([x], [y], opset=17)


def weighty(megabytes: int, seed: int) -> onnx.ModelProto:
    """A product with a matrix of so many megabytes."""
    g = GraphBuilder(seed)
    g.node("MatMul", ["x", g.weight("w", (4, megabytes * 2**16), 4)], "y")
    return g.model([float_value("x", ["n", 4])], [float_value("y", ["n", megabytes * 2**16])], opset=17)


class TestRunning:
    def test_results_are_those_of_a_session_in_this_process(self, lasting: SessionHost) -> None:
        feeds = random_feeds(tiny_cnn(), 3)
        here, there = Session(CNN), session(lasting, CNN)
        np.testing.assert_array_equal(there.run(feeds)["logits"], here.run(feeds)["logits"])
        assert (there.inputs, there.outputs) == (here.inputs, here.outputs)
        assert there.config == replace(here.config, arena=False)
        assert (there.providers, there.parity) == (here.providers, here.parity)
        assert lasting.pid not in {None, os.getpid()}

    @pytest.mark.parametrize("size", [0, 5, 3_000_000])
    @pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE", "INT64", "UINT8", "BOOL"])
    def test_numbers_of_every_type_and_amount_pass(self, lasting: SessionHost, kind: str, size: int) -> None:
        number = TensorProto.DataType.Value(kind)
        x = (np.arange(size) % 100).astype(helper.tensor_dtype_to_np_dtype(number))
        y = session(lasting, copying(number)).run({"x": x})["y"]
        np.testing.assert_array_equal(y, x, strict=True)

    def test_strings_pass(self, lasting: SessionHost) -> None:
        x = np.array(["", "é", "line\nbreak", "x" * 1000], object)
        assert session(lasting, copying(TensorProto.STRING)).run({"x": x})["y"].tolist() == x.tolist()

    @pytest.mark.parametrize(
        ("feeds", "reason"),
        [
            ({}, "MISSING_INPUT"),
            ({"image": np.zeros((1, 3, 16, 16))}, "INVALID_TENSOR"),
            ({"image": np.zeros((1, 3, 16, 16), np.float32), "more": np.zeros(1)}, "UNKNOWN_INPUT"),
        ],
    )
    def test_wrong_feeds_are_refused(self, lasting: SessionHost, feeds: dict[str, Any], reason: str) -> None:
        assert refusal(session(lasting, CNN).run, feeds).reason == reason

    def test_a_failure_of_the_model_arrives_with_all_that_it_tells(self, lasting: SessionHost) -> None:
        g = GraphBuilder(0)
        g.node("Reshape", ["x", g.constant("extents", np.array([1, 4]))], "y", name="the_reshape")
        model = g.model([float_value("x", ["n", 4])], [float_value("y", [1, 4])], opset=17)
        error = refusal(session(lasting, model).run, {"x": np.zeros((3, 4), np.float32)})
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "MODEL_RUN_FAILED")
        assert error.metadata == {"operator": "Reshape", "node": "the_reshape"}

    def test_what_is_no_model_is_refused_each_time(self, lasting: SessionHost) -> None:
        for _ in range(2):
            assert refusal(session, lasting, b"garbage").reason == "NOT_ONNX"

    def test_many_calls_at_once_each_get_their_own_result(self, lasting: SessionHost) -> None:
        shared = session(lasting, copying(TensorProto.FLOAT))

        def call(number: int) -> bool:
            x = np.full(10 ** (number % 7), number, np.float32)
            return np.array_equal(shared.run({"x": x})["y"], x)

        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(call, range(200)))

    def test_a_graph_is_made_and_opened_once(self, lasting: SessionHost) -> None:
        made: list[int] = []

        def make() -> bytes:
            made.append(1)
            time.sleep(0.05)
            return CNN

        def use(_: int) -> None:
            lasting.session("once", make, SessionConfig(), ModelIdentity("cnn/1", "sha256:1"))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(use, range(8)))
        assert len(made) == 1


class TestStopping:
    def test_an_endless_model_stops_soon_after_it_is_cancelled_and_its_host_lives_on(
        self, lasting: SessionHost
    ) -> None:
        endless, cnn = session(lasting, bad_models.endless()), session(lasting, CNN)
        pid = lasting.pid
        cancellation = Cancellation()
        threading.Timer(0.2, cancellation.cancel).start()
        began = time.monotonic()
        assert refusal(endless.run, X, cancellation).code is Code.CANCELLED
        assert time.monotonic() - began < 3
        assert refusal(endless.run, X, after(0.2)).code is Code.DEADLINE_EXCEEDED
        cnn.run(random_feeds(tiny_cnn(), 1))
        assert lasting.pid == pid

    def test_cancelling_one_call_leaves_the_others_alone(self, lasting: SessionHost) -> None:
        endless = session(lasting, bad_models.endless())
        first, second = Cancellation(), Cancellation()
        with ThreadPoolExecutor(2) as threads:
            calls = [threads.submit(refusal, endless.run, X, each) for each in (first, second)]
            first.cancel()
            assert calls[0].result(10).code is Code.CANCELLED
            assert not calls[1].done()
            second.cancel(Code.DEADLINE_EXCEEDED)
            assert calls[1].result(10).code is Code.DEADLINE_EXCEEDED

    def test_a_model_that_cannot_be_stopped_loses_its_process_and_nobody_else_their_call(
        self, host: SessionHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host_process, "STUCK_SECONDS", 0.5)
        stuck, other = session(host, bad_models.unstoppable()), session(host, bad_models.endless())
        pid = host.pid
        with ThreadPoolExecutor(1) as threads:
            waiting = Cancellation()
            call = threads.submit(refusal, other.run, X, waiting)
            time.sleep(0.2)
            began = time.monotonic()
            assert refusal(stuck.run, X, after(0.5)).code is Code.DEADLINE_EXCEEDED
            assert time.monotonic() - began < 10
            assert not call.done()
            waiting.cancel()
            assert call.result(10).code is Code.CANCELLED
        session(host, CNN).run(random_feeds(tiny_cnn(), 1))
        assert host.pid != pid

    def test_a_call_whose_deadline_passed_while_it_waited_starts_no_work(self, host: SessionHost) -> None:
        """It waits for another that makes the same session; the other fails, so that it would have to make it."""
        begun, release = threading.Event(), threading.Event()
        made: list[str] = []

        def slow() -> bytes:
            begun.set()
            release.wait(20)
            return b"garbage"

        def late() -> bytes:
            made.append("late")
            return CNN

        model = ModelIdentity("cnn/1", "sha256:1")
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(refusal, host.session, "key", slow, SessionConfig(), model)
            begun.wait(10)
            error = refusal(host.session, "key", late, SessionConfig(), model, after(0.2))
            release.set()
            assert first.result(30).reason == "NOT_ONNX"
        assert error.code is Code.DEADLINE_EXCEEDED
        assert made == []

    def test_a_call_whose_deadline_passed_before_it_came_starts_no_process(self, host: SessionHost) -> None:
        assert refusal(session, host, CNN, cancellation=after(-1)).code is Code.DEADLINE_EXCEEDED
        assert host.pid is None


class TestBadModels:
    @pytest.mark.parametrize("make", [bad_models.hungry, bad_models.hungry_at_loading])
    def test_a_model_that_asks_for_12_gb_is_told_so_by_name(
        self, lasting: SessionHost, make: Callable[[], onnx.ModelProto]
    ) -> None:
        cnn = session(lasting, CNN)
        pid = lasting.pid

        def use() -> None:
            session(lasting, make()).run(X)

        for _ in range(3):
            error = refusal(use)
            assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
            assert error.metadata["model"] == "bad/3"
        cnn.run(random_feeds(tiny_cnn(), 1))
        assert lasting.pid == pid

    def test_a_crash_costs_its_own_call_alone(self, host: SessionHost) -> None:
        crashing, cnn = session(host, bad_models.crashing()), session(host, CNN)
        slow = session(host, _some_seconds())
        feeds = random_feeds(tiny_cnn(), 1)
        expected = Session(CNN).run(feeds)["logits"]
        pid = host.pid
        with ThreadPoolExecutor(2) as threads:
            others: list[Future[Any]] = [threads.submit(slow.run, X) for _ in range(2)]
            time.sleep(0.3)
            error = refusal(crashing.run, X)
            np.testing.assert_array_equal(cnn.run(feeds)["logits"], expected)
            assert all(other.result(60)["y"].shape == (1, 4) for other in others)
        assert (error.code, error.reason) == (Code.UNAVAILABLE, "WORKER_DIED")
        assert error.metadata["model"] == "bad/3"
        assert "SIG" in error.metadata["how"]
        assert host.pid not in {None, pid}

    def test_a_model_that_crashed_in_two_calls_in_a_row_is_refused_by_digest_and_others_are_not(
        self, host: SessionHost
    ) -> None:
        crashing, cnn = session(host, bad_models.crashing()), session(host, CNN)
        assert [refusal(crashing.run, X).reason for _ in range(2)] == ["WORKER_DIED"] * 2
        pid = host.pid
        error = refusal(crashing.run, X)
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "MODEL_KILLS_WORKER")
        assert error.metadata["digest"] == "sha256:77"
        assert "sha256:77" in error.message
        cnn.run(random_feeds(tiny_cnn(), 1))
        assert host.pid is not None
        assert pid is None or host.pid == pid

    def test_a_model_that_crashed_once_can_hurt_nobody_but_itself_from_then_on(self, host: SessionHost) -> None:
        crashing, cnn = session(host, bad_models.crashing()), session(host, CNN)
        refusal(crashing.run, X)
        cnn.run(random_feeds(tiny_cnn(), 1))
        pid = host.pid
        refusal(crashing.run, X)
        assert host.pid == pid

    def test_a_refused_model_is_tried_again_after_a_while(
        self, host: SessionHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        crashing = session(host, bad_models.crashing())
        for _ in range(2):
            refusal(crashing.run, X)
        monkeypatch.setattr(remote_sessions, "REFUSED_SECONDS", 0.0)
        assert refusal(crashing.run, X).reason == "WORKER_DIED"

    def test_a_model_that_crashes_on_some_inputs_runs_on_others(self, host: SessionHost) -> None:
        model = _crashing_on_nothing()
        recurrent = session(host, model)
        assert refusal(recurrent.run, {"x": np.zeros((2, 0, 4), np.float32)}).reason == "WORKER_DIED"
        x = {"x": np.ones((2, 3, 4), np.float32)}
        expected = Session(model.SerializeToString()).run(x)["states"]
        np.testing.assert_array_equal(recurrent.run(x)["states"], expected)

    def test_a_result_that_takes_most_of_the_memory_is_refused(self, host: SessionHost) -> None:
        """It is there twice until it was fetched: once as the model made it, once as it is handed over."""
        g = GraphBuilder(0)
        g.node("ConstantOfShape", ["size"], "zeros")
        size = helper.make_tensor_value_info("size", TensorProto.INT64, [1])
        zeros = session(host, g.model([size], [float_value("zeros", ["n"])], opset=17))
        assert refusal(zeros.run, {"size": np.array([3 * GIB // 2 // 4])}).reason == "OUT_OF_MEMORY"
        assert zeros.run({"size": np.array([10**6])})["zeros"].size == 10**6


class TestLife:
    def test_a_killed_host_is_there_again_for_the_next_call(self, host: SessionHost) -> None:
        cnn = session(host, CNN)
        feeds = random_feeds(tiny_cnn(), 1)
        expected = cnn.run(feeds)["logits"]
        for _ in range(3):
            pid = host.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            # The first call may come before the death is noticed, and then runs alone.
            for _ in range(2):
                np.testing.assert_array_equal(cnn.run(feeds)["logits"], expected)
            assert host.pid not in {None, pid}

    def test_a_call_whose_host_is_killed_from_outside_is_answered_all_the_same(self, host: SessionHost) -> None:
        slow = session(host, _some_seconds())
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(slow.run, X)
            time.sleep(0.3)
            assert host.pid is not None
            os.kill(host.pid, signal.SIGKILL)
            assert call.result(60)["y"].shape == (1, 4)

    def test_closing_ends_the_process_and_what_it_does(self, host: SessionHost) -> None:
        endless = session(host, bad_models.endless())
        pid = host.pid
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(refusal, endless.run, X)
            time.sleep(0.2)
            host.close()
            assert call.result(10).reason == "SHUTTING_DOWN"
        assert not Path(f"/proc/{pid}").exists()
        assert refusal(endless.run, X).reason == "SHUTTING_DOWN"

    def test_a_host_that_cannot_start_is_an_error_and_not_a_wait_for_ever(self) -> None:
        broken = SessionHost(HostSettings(0, GIB, opener="no_such_module:nothing"))
        try:
            error = refusal(session, broken, CNN)
        finally:
            broken.close()
        assert (error.code, error.reason) == (Code.UNAVAILABLE, "WORKER_DIED")

    def test_the_host_goes_at_once_when_the_service_is_killed_even_within_an_operator(self, tmp_path: Path) -> None:
        program = tmp_path / "service.py"
        program.write_text(
            "import sys, numpy as np, bad_models\n"
            "from ortoscope_service.runtime.remote_sessions import *\n"
            "host = SessionHost(HostSettings(0, 10**9))\n"
            "graph = bad_models.unstoppable().SerializeToString()\n"
            "model = host.session('m', lambda: graph, SessionConfig(), ModelIdentity('m/1', 'd'))\n"
            "print(host.pid, flush=True)\n"
            "model.run({'x': np.ones((1, 4), np.float32)})\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment) as service:
            assert service.stdout is not None
            pid = int(service.stdout.readline())
            time.sleep(0.5)
            assert Path(f"/proc/{pid}").exists()
            service.kill()
        _wait(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())

    def test_the_host_has_no_file_of_the_service_open(self, host: SessionHost, tmp_path: Path) -> None:
        with (tmp_path / "secret").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            host.warm()
            session(host, CNN)
            opened = [str(entry.readlink()) for entry in Path(f"/proc/{host.pid}/fd").iterdir()]
        assert not [name for name in opened if "secret" in name]

    def test_nothing_is_told_to_anybody(self, lasting: SessionHost) -> None:
        session(lasting, CNN)
        environment = Path(f"/proc/{lasting.pid}/environ").read_bytes().split(b"\0")
        assert b"ORT_DISABLE_TELEMETRY=1" in environment


class TestMemory:
    def test_sessions_are_dropped_when_they_hold_more_than_they_may_and_made_again(self) -> None:
        """Five of 20 MB, each of which holds a packed copy of the matrix, too, where 100 MB may be kept."""
        graphs = [weighty(20, seed).SerializeToString() for seed in range(5)]
        host = SessionHost(HostSettings(2 * GIB, 100 * 2**20))
        try:
            small = session(host, CNN)
            feeds = random_feeds(tiny_cnn(), 1)
            expected = small.run(feeds)["logits"]
            pid = host.pid
            assert pid is not None
            start = _settled(pid)
            peaks = []
            for cycle in range(3):
                for graph in graphs:
                    assert session(host, graph).run(X)["y"].shape == (1, 20 * 2**16)
                peaks.append(_settled(pid))
                assert peaks[cycle] - start < 160 * 2**20
            assert peaks[2] - peaks[0] < 30 * 2**20
            np.testing.assert_array_equal(small.run(feeds)["logits"], expected)
            assert host.pid == pid
        finally:
            host.close()

    def test_a_session_larger_than_all_that_may_be_kept_is_served(self) -> None:
        host = SessionHost(HostSettings(2 * GIB, 2**20))
        try:
            large, other = session(host, weighty(10, 0)), session(host, weighty(10, 1))
            for _ in range(2):
                assert large.run(X)["y"].shape == other.run(X)["y"].shape == (1, 10 * 2**16)
        finally:
            host.close()

    def test_many_sessions_with_many_threads_fit_into_a_limit(self) -> None:
        """Forty times 32 threads: with the usual stacks of 8 MB they alone would be promised ten gigabytes."""
        host = SessionHost(HostSettings(2 * GIB, GIB))
        try:
            for number in range(40):
                graph = tiny_cnn(seed=number).SerializeToString()
                session(host, graph, threads=32).run(random_feeds(tiny_cnn(), 1))
        finally:
            host.close()

    def test_a_process_that_holds_too_much_is_ended_and_the_call_told_so(self) -> None:
        """Inputs are shared memory, of which a limit on allocations knows nothing."""
        model = bad_models.endless()
        model.graph.input.append(float_value("large", ["m"]))
        model.graph.node.append(helper.make_node("ReduceMax", ["large"], ["largest_of_all"], keepdims=0))
        model.graph.output.append(float_value("largest_of_all", []))
        host = SessionHost(HostSettings(GIB // 2, GIB // 4))
        try:
            large = session(host, model)
            feeds = {**X, "large": np.zeros(GIB // 2 // 4, np.float32)}
            error = refusal(large.run, feeds, after(20))
        finally:
            host.close()
        assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
        assert error.metadata["model"] == "bad/3"

    def test_memory_is_back_after_a_large_call_here_and_there(self, host: SessionHost) -> None:
        """Half a gigabyte of activations, and 200 MB of results."""
        copy, cnn = session(host, copying(TensorProto.FLOAT)), session(host, CNN)
        cnn.run(random_feeds(tiny_cnn(), 1))
        pid = host.pid
        assert pid is not None
        there, here = _settled(pid), resident_bytes()
        cnn.run({"image": np.zeros((20_000, 3, 16, 16), np.float32)})
        copy.run({"x": np.zeros(50_000_000, np.float32)})
        gc.collect()
        _wait(lambda: resident_bytes(pid) - there < 40 * 2**20)
        _wait(lambda: resident_bytes() - here < 40 * 2**20)

    def test_no_result_is_kept_once_its_caller_let_go_of_it(self, host: SessionHost) -> None:
        result = session(host, copying(TensorProto.FLOAT)).run({"x": np.zeros(1_000_000, np.float32)})["y"]
        mapped = result.base
        while isinstance(mapped, np.ndarray):
            mapped = mapped.base
        assert isinstance(mapped, memoryview)
        gone = weakref.ref(mapped.obj)
        del result, mapped
        gc.collect()
        _wait(lambda: gone() is None)


def _some_seconds() -> onnx.ModelProto:
    """A loop of so many turns that it takes about two seconds, and can be stopped."""
    model = bad_models.endless()
    (turns,) = (value for value in model.graph.initializer if value.name == "turns")
    turns.CopyFrom(onnx.numpy_helper.from_array(np.int64(600_000), "turns"))
    return model


def _crashing_on_nothing() -> onnx.ModelProto:
    """An LSTM, which crashes on a batch of nothing: `x` (steps, n, 4) → `states` (steps, 1, n, 3)."""
    g = GraphBuilder(0)
    g.node("LSTM", ["x", g.weight("w", (1, 12, 4), 4), g.weight("r", (1, 12, 3), 3)], "states", hidden_size=3)
    return g.model([float_value("x", ["s", "n", 4])], [float_value("states", ["s", 1, "n", 3])], opset=17)


def _settled(pid: int) -> int:
    """The resident memory of a process once it gave back what it does not need."""
    time.sleep(1.2)
    return resident_bytes(pid)


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
