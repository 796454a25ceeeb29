"""What calls on models that crash, hunger or never end do to the caller, to other callers, and to the server."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bad_models
import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from ortoscope.v1.activations_pb2 import ActivateRequest, ActivationInput, StreamActivationsRequest, TapSelection
from ortoscope.v1.gradients_pb2 import AttributeClassesRequest, ComputeGradientRequest, Objective
from ortoscope_service.api.open_inference import open_inference_pb2
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from serving import Failure, Stubs, add_model, failure_of, run_directly, serving, to_array, to_tensor
from tiny_models import random_feeds, tiny_cnn

X = np.array([[1, -2, 3, -4]], np.float32)
CNN = tiny_cnn(seed=1)
IMAGE = random_feeds(CNN, 1)
MODELS = {
    "crashing": bad_models.crashing(),
    "hungry": bad_models.hungry(2**45),
    "hungry-at-loading": bad_models.hungry_at_loading(2**45),
    "endless": bad_models.endless(),
}


@dataclass(frozen=True)
class Running:
    """A server with bad models and a good one, of its own for each test."""

    stubs: Stubs
    versions: dict[str, ModelVersion]

    def activate(self, model: str, tap: str = "y", seconds: float = 30) -> Any:
        item = ActivationInput(tensor=to_tensor(X[0]))
        request = ActivateRequest(model=f"models/{model}", taps=[TapSelection(tap=tap)], inputs=[item])
        return self.stubs.activations.Activate(request, timeout=seconds)

    def infer(self, model: str) -> Any:
        request = open_inference_pb2.ModelInferRequest(model_name=model, raw_input_contents=[X.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=X.shape)
        return self.stubs.inference.ModelInfer(request, timeout=30)

    def stream(self, model: str) -> Any:
        config = StreamActivationsRequest.Config(model=f"models/{model}", taps=[TapSelection(tap="y")])
        batch = StreamActivationsRequest.Batch(inputs=[ActivationInput(tensor=to_tensor(X[0]))])
        first, item = StreamActivationsRequest(config=config), StreamActivationsRequest(batch=batch)
        return list(self.stubs.activations.StreamActivations(iter([first, item]), timeout=30))

    def cnn(self) -> None:
        """Calls the good model, and compares."""
        item = ActivationInput(tensor=to_tensor(IMAGE["image"][0]))
        request = ActivateRequest(model="models/cnn", taps=[TapSelection(tap="logits")], inputs=[item])
        (tap,) = self.stubs.activations.Activate(request, timeout=30).taps
        expected = run_directly(CNN, ["logits"], IMAGE)["logits"]
        np.testing.assert_allclose(to_array(tap.values), expected, rtol=1e-4, atol=1e-5)

    def healthy(self) -> bool:
        answer = self.stubs.health.Check(health_pb2.HealthCheckRequest(), timeout=2)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    repository = ModelRepository(tmp_path / "models")
    versions = {name: add_model(repository, name, model) for name, model in {**MODELS, "cnn": CNN}.items()}
    with serving(ServerConfig(tmp_path / "models", tmp_path / "store", listen="127.0.0.1:0")) as (_, stubs):
        yield Running(stubs, versions)


def failure(call: Callable[..., object], *arguments: Any, **keywords: Any) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **keywords)
    return failure_of(caught.value)


def children() -> set[int]:
    """Process ids of the session hosts of this process."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            host = b"session_host" in (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == os.getpid() and host:
            found.add(int(folder.name))
    return found


@pytest.mark.parametrize("way", ["activate", "infer", "stream"])
def test_a_crash_is_a_typed_error_that_names_the_model_and_the_server_goes_on(running: Running, way: str) -> None:
    running.cnn()
    found = failure(getattr(running, way), "crashing")
    assert (found.code, found.reason) == ("UNAVAILABLE", "WORKER_DIED")
    assert found.metadata["model"] == "crashing/1"
    assert "SIG" in found.metadata["how"]
    assert running.healthy()
    running.cnn()


def test_calls_that_were_under_way_with_a_crash_are_answered(running: Running) -> None:
    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(failure, running.activate, "endless", seconds=4) for _ in range(2)]
        good = [threads.submit(running.cnn) for _ in range(6)]
        assert failure(running.activate, "crashing").reason == "WORKER_DIED"
        for call in good:
            call.result(30)
        # They would run for ever: what ends them is their own deadline, which the client itself may be first to see.
        for each in others:
            assert each.exception(30) is not None or each.result().code == "DEADLINE_EXCEEDED"
    assert running.healthy()


def test_a_model_that_crashes_again_is_refused_by_name_and_digest(running: Running) -> None:
    reasons = [failure(running.activate, "crashing").reason for _ in range(3)]
    assert reasons == ["WORKER_DIED", "WORKER_DIED", "MODEL_KILLS_WORKER"]
    found = failure(running.activate, "crashing")
    assert found.code == "FAILED_PRECONDITION"
    assert found.metadata["model"] == "crashing/1"
    assert found.metadata["digest"] == running.versions["crashing"].manifest.digest
    assert running.activate("crashing", tap="safe").taps


@pytest.mark.parametrize("model", ["hungry", "hungry-at-loading"])
def test_a_model_that_asks_for_too_much_memory_is_told_so_by_name(running: Running, model: str) -> None:
    for _ in range(3):
        found = failure(running.activate, model)
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY")
        assert found.metadata["model"] == f"{model}/1"
    running.cnn()


def test_an_endless_model_holds_nobody_up_and_ends_at_its_deadline(running: Running) -> None:
    running.cnn()
    with ThreadPoolExecutor(1) as threads:
        endless = threads.submit(running.activate, "endless", seconds=3)
        time.sleep(0.5)
        began = time.monotonic()
        running.cnn()
        assert time.monotonic() - began < 2
        error = endless.exception(30)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_gradients_and_attributions_run_there_too(running: Running) -> None:
    before = children()
    item = ActivationInput(tensor=to_tensor(IMAGE["image"][0]))
    objective = Objective(unit=Objective.Unit(tap="conv1", unit=0, site=[1, 1]))
    request = ComputeGradientRequest(model="models/cnn", inputs=[item], objective=objective)
    assert running.stubs.gradients.ComputeGradient(request, timeout=30).gradients
    (host,) = children() - before
    os.kill(host, signal.SIGKILL)
    attribution = AttributeClassesRequest(model="models/cnn", inputs=[item], tap="relu1")
    assert running.stubs.gradients.AttributeClasses(attribution, timeout=30).attributions.data
    assert running.stubs.gradients.ComputeGradient(request, timeout=30).gradients


def test_the_front_end_holds_no_session_and_a_stopped_server_leaves_no_process(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "models")
    add_model(repository, "endless", bad_models.endless())
    before = children()
    config = ServerConfig(tmp_path / "models", tmp_path / "store", listen="127.0.0.1:0")
    with serving(config) as (_, stubs):
        running = Running(stubs, {})
        running.activate("endless", tap="safe")
        (host,) = children() - before
        used = time.process_time()
        with pytest.raises(grpc.RpcError):
            running.activate("endless", seconds=2)
        assert time.process_time() - used < 1
        assert children() - before == {host}
    assert children() == before
