import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from certificates import HAS_OPENSSL, make_authority, make_certificate
from google.longrunning import operations_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ortoscope.v1 import models_pb2
from ortoscope.v1.activations_pb2 import (
    ActivateRequest,
    ActivationInput,
    ExamplesSpec,
    FindExamplesRequest,
    TapSelection,
)
from ortoscope_service.api.server import SERVICES, make_server
from ortoscope_service.config import ServerConfig
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.models.repository import ModelRepository
from server_process import server_process
from serving import (
    GRAY_512,
    PREPROCESSING,
    Stubs,
    add_model,
    failure_of,
    failure_of_status,
    serving,
    slow_chain,
    slow_image_chain,
    to_tensor,
    write_datasets,
)
from tiny_models import tiny_cnn

LIST = models_pb2.ListModelsRequest()
NODES = 120


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    repository = ModelRepository(folder)
    add_model(repository, "cnn", tiny_cnn(), preprocessing=PREPROCESSING)
    add_model(repository, "slow", slow_chain(NODES))
    add_model(repository, "endless", slow_image_chain(1500), preprocessing=GRAY_512)
    return folder


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_datasets(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def config(models: Path, datasets: Path, tmp_path: Path) -> ServerConfig:
    return ServerConfig(models=models, datasets=datasets, store=tmp_path / "store", listen="127.0.0.1:0")


def slow_request() -> ActivateRequest:
    return ActivateRequest(
        model="models/slow",
        taps=[TapSelection(tap=f"product{NODES - 1}", reduction=TapSelection.REDUCTION_MAX)],
        inputs=[ActivationInput(tensor=to_tensor(np.eye(1024, dtype=np.float32)))],
    )


def examples(model: str, tap: str) -> FindExamplesRequest:
    return FindExamplesRequest(spec=ExamplesSpec(tap=f"models/{model}/taps/{tap}", dataset="datasets/photos", count=1))


def health(stubs: Stubs, service: str = "") -> Any:
    return stubs.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_asked_to_stop_finishes_what_is_under_way_and_exits_with_0(
    models: Path, datasets: Path, tmp_path: Path, name: signal.Signals
) -> None:
    with server_process(models, datasets, tmp_path, grace_seconds=30) as server:
        stubs = server.stubs()
        assert health(stubs) == health_pb2.HealthCheckResponse.SERVING
        watch = stubs.health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stubs.models.ListModels(LIST)
        call = stubs.activations.Activate.future(slow_request(), timeout=60)
        time.sleep(1)
        assert not call.done(), "the call must take longer"
        server.process.send_signal(name)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert len(call.result().taps) == 1
        assert server.wait() == 0
        with pytest.raises(grpc.RpcError) as caught:
            stubs.models.ListModels(LIST, timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not any("Traceback" in line for line in server.stderr), server.stderr


def test_what_does_not_end_within_the_grace_is_cut_short(models: Path, datasets: Path, tmp_path: Path) -> None:
    with server_process(models, datasets, tmp_path, grace_seconds=0.5) as server:
        stubs = server.stubs()
        operation = stubs.activations.FindExamples(examples("endless", "product1499"))
        time.sleep(2)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - began < 8
    with server_process(models, datasets, tmp_path) as server:
        stubs = server.stubs()
        kept = stubs.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
        assert not kept.done
        stubs.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
        assert failure_of_status(stubs.wait(kept).error).code == "CANCELLED"


def test_operations_survive_a_killed_server(models: Path, datasets: Path, tmp_path: Path) -> None:
    with server_process(models, datasets, tmp_path) as server:
        stubs = server.stubs()
        done = stubs.wait(stubs.activations.FindExamples(examples("cnn", "flat")))
        running = stubs.activations.FindExamples(examples("endless", "product1499"))
        waiting = stubs.activations.FindExamples(examples("cnn", "flat"))
        server.process.kill()
        server.wait()
    with server_process(models, datasets, tmp_path) as server:
        stubs = server.stubs()
        get = stubs.operations.GetOperation
        assert get(operations_pb2.GetOperationRequest(name=done.name)) == done
        assert stubs.wait(waiting).HasField("response")
        assert not get(operations_pb2.GetOperationRequest(name=running.name)).done


def test_clients_killed_in_the_middle_leave_the_server_serving(models: Path, datasets: Path, tmp_path: Path) -> None:
    script = (
        "import sys, grpc\n"
        "channel = grpc.insecure_channel(sys.argv[1])\n"
        "call = channel.unary_unary('/ortoscope.v1.Activations/Activate')\n"
        "call(sys.stdin.buffer.read())\n"
    )
    with server_process(models, datasets, tmp_path) as server:
        clients = []
        for _ in range(3):
            client = subprocess.Popen([sys.executable, "-c", script, server.address], stdin=subprocess.PIPE)
            assert client.stdin is not None
            client.stdin.write(slow_request().SerializeToString())
            client.stdin.close()
            clients.append(client)
        time.sleep(2)
        for client in clients:
            client.kill()
            client.wait()
        assert server.stubs().models.ListModels(LIST, timeout=10).models
        assert server.process.poll() is None


def test_a_second_server_on_a_store_is_refused_and_told_who_holds_it(config: ServerConfig) -> None:
    with serving(config) as (_, stubs):
        with pytest.raises(OrtoscopeError) as caught:
            make_server(config)
        assert caught.value.reason == "STORE_IN_USE"
        assert stubs.models.ListModels(LIST).models
    with serving(config) as (_, stubs):
        assert stubs.models.ListModels(LIST).models


def test_a_port_that_is_taken_is_refused_and_the_store_given_up(config: ServerConfig, tmp_path: Path) -> None:
    with serving(config) as (server, _):
        other = replace(config, store=tmp_path / "other", listen=server.address)
        for _attempt in range(2):
            with pytest.raises(OrtoscopeError) as caught:
                make_server(other)
            assert caught.value.reason == "ADDRESS_IN_USE"


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.1:x", ":50051", "127.0.0.1:70000", ""])
def test_what_is_no_address_is_refused(config: ServerConfig, listen: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        make_server(replace(config, listen=listen))
    assert caught.value.reason == "INVALID_ADDRESS"


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "example.org:0"])
def test_plain_text_beyond_this_machine_must_be_asked_for(config: ServerConfig, listen: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        make_server(replace(config, listen=listen))
    assert caught.value.reason == "INSECURE_LISTEN"
    with pytest.raises(OrtoscopeError) as caught:
        make_server(replace(config, metrics_listen=listen))
    assert caught.value.reason == "INSECURE_LISTEN"


def test_a_folder_that_does_not_exist_is_refused(config: ServerConfig, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for mistyped in (replace(config, models=absent), replace(config, datasets=absent)):
        with pytest.raises(OrtoscopeError) as caught:
            make_server(mistyped)
        assert caught.value.reason == "FOLDER_MISSING"
        assert str(tmp_path) not in caught.value.message


def test_an_execution_provider_that_is_not_installed_is_refused_at_the_start(config: ServerConfig) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        make_server(replace(config, execution_provider="NoSuchExecutionProvider"))
    assert caught.value.reason == "UNKNOWN_PROVIDER"
    assert "CPUExecutionProvider" in caught.value.message


def test_plain_text_beyond_this_machine_is_possible(config: ServerConfig) -> None:
    with serving(replace(config, listen="0.0.0.0:0", insecure=True)) as (_, stubs):
        assert stubs.models.ListModels(LIST).models


def test_every_service_is_healthy_and_reflected(config: ServerConfig) -> None:
    with serving(config) as (_, stubs):
        for service in ("", *SERVICES):
            assert health(stubs, service) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health(stubs, "unknown.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
        request = reflection_pb2.ServerReflectionRequest
        answers = reflection.ServerReflectionInfo(
            iter([request(list_services=""), *(request(file_containing_symbol=name) for name in SERVICES)])
        )
        listed = {service.name for service in next(answers).list_services_response.service}
        assert listed == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        for answer in answers:
            assert answer.file_descriptor_response.file_descriptor_proto


def test_health_answers_when_every_place_is_taken(config: ServerConfig) -> None:
    crowded = replace(config, limits=replace(config.limits, max_concurrent_rpcs=2))
    with serving(crowded) as (_, stubs):
        calls = [stubs.activations.Activate.future(slow_request()) for _ in range(2)]
        time.sleep(1)
        with pytest.raises(grpc.RpcError) as caught:
            stubs.models.ListModels(LIST)
        assert failure_of(caught.value).reason == "TOO_MANY_CALLS"
        assert health(stubs) == health_pb2.HealthCheckResponse.SERVING
        for call in calls:
            call.cancel()


def test_a_burst_of_calls_is_served_or_refused_but_never_lost(config: ServerConfig) -> None:
    crowded = replace(config, limits=replace(config.limits, max_concurrent_rpcs=4))

    def call(stubs: Stubs) -> str:
        try:
            stubs.models.ListModels(LIST, timeout=30)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    with serving(crowded) as (_, stubs), ThreadPoolExecutor(32) as pool:
        outcomes = list(pool.map(call, [stubs] * 400))
        assert set(outcomes) <= {"OK", "RESOURCE_EXHAUSTED"}
        assert "OK" in outcomes
        assert call(stubs) == "OK"


def test_metrics_count_calls_by_method_and_status(config: ServerConfig) -> None:
    with serving(replace(config, metrics_listen="127.0.0.1:0")) as (server, stubs):
        for _ in range(3):
            stubs.models.ListModels(LIST)
        with pytest.raises(grpc.RpcError):
            stubs.models.GetModel(models_pb2.GetModelRequest(name="models/nothing"))
        with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as response:
            text = response.read().decode()
        assert 'ortoscope_calls_total{code="OK",method="/ortoscope.v1.Models/ListModels"} 3.0' in text
        assert 'ortoscope_calls_total{code="NOT_FOUND",method="/ortoscope.v1.Models/GetModel"} 1.0' in text
        assert 'ortoscope_call_seconds_count{method="/ortoscope.v1.Models/ListModels"} 3.0' in text
        assert "ortoscope_pending_operations 0.0" in text


def test_metrics_are_off_unless_asked_for(config: ServerConfig) -> None:
    with serving(config) as (server, _):
        assert server.metrics_port is None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server certificate for localhost and a client certificate."""
    if not HAS_OPENSSL:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder, "ca")
    make_certificate(folder, "localhost", "ca", "subjectAltName=DNS:localhost")
    make_certificate(folder, "client", "ca", "extendedKeyUsage=clientAuth")
    return folder


def secure_stubs(port: int, certificates: Path, *, client: bool) -> Iterator[Stubs]:
    pair = [(certificates / f"client.{end}").read_bytes() if client else None for end in ("key", "crt")]
    credentials = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes(), *pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
        yield Stubs(channel)


def test_tls_serves_clients_that_trust_the_authority(config: ServerConfig, certificates: Path) -> None:
    from ortoscope_service.config import TlsFiles

    tls = TlsFiles(certificates / "localhost.crt", certificates / "localhost.key")
    with serving(replace(config, tls=tls)) as (server, plain):
        for stubs in secure_stubs(server.port, certificates, client=False):
            assert stubs.models.ListModels(LIST, timeout=10).models
        with pytest.raises(grpc.RpcError) as caught:
            plain.models.ListModels(LIST, timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_refuses_clients_without_a_certificate(config: ServerConfig, certificates: Path) -> None:
    from ortoscope_service.config import TlsFiles

    tls = TlsFiles(certificates / "localhost.crt", certificates / "localhost.key", certificates / "ca.crt")
    with serving(replace(config, tls=tls)) as (server, _):
        for stubs in secure_stubs(server.port, certificates, client=True):
            assert stubs.models.ListModels(LIST, timeout=10).models
        for stubs in secure_stubs(server.port, certificates, client=False):
            with pytest.raises(grpc.RpcError) as caught:
                stubs.models.ListModels(LIST, timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_files_that_cannot_be_read_are_refused_without_their_path(config: ServerConfig, tmp_path: Path) -> None:
    from ortoscope_service.config import TlsFiles

    with pytest.raises(OrtoscopeError) as caught:
        make_server(replace(config, tls=TlsFiles(tmp_path / "no.crt", tmp_path / "no.key")))
    assert caught.value.reason == "TLS_UNREADABLE"
    assert str(tmp_path) not in caught.value.message


def test_a_server_that_stopped_leaves_no_thread_behind(config: ServerConfig) -> None:
    before = set(threading.enumerate())
    with serving(replace(config, metrics_listen="127.0.0.1:0")) as (_, stubs):
        stubs.models.ListModels(LIST)
        stubs.wait(stubs.activations.FindExamples(examples("cnn", "flat")))
    deadline = time.monotonic() + 10
    while left := {t for t in set(threading.enumerate()) - before if t.name.startswith(("operations", "messages"))}:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
