"""The server: puts the servicers together, listens, and stops without dropping what is under way."""

import ipaddress
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from ortoscope.v1 import (
    activations_pb2,
    activations_pb2_grpc,
    atlases_pb2,
    atlases_pb2_grpc,
    blobs_pb2,
    blobs_pb2_grpc,
    capabilities_pb2,
    capabilities_pb2_grpc,
    datasets_pb2,
    datasets_pb2_grpc,
    dissections_pb2,
    dissections_pb2_grpc,
    gradients_pb2,
    gradients_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    visualization_pb2,
    visualization_pb2_grpc,
)

from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.api.activations import ActivationsServicer
from ortoscope_service.api.atlas_comparisons import atlas_comparison_publisher
from ortoscope_service.api.atlas_projections import atlas_projection_publisher
from ortoscope_service.api.atlases import AtlasesServicer, atlas_publisher
from ortoscope_service.api.blobs import BlobsServicer
from ortoscope_service.api.capabilities import CapabilitiesServicer
from ortoscope_service.api.components import Components
from ortoscope_service.api.datasets import DatasetsServicer
from ortoscope_service.api.dissections import DissectionsServicer, dissection_publisher
from ortoscope_service.api.examples import examples_publisher
from ortoscope_service.api.gradients import GradientsServicer
from ortoscope_service.api.interceptor import CallInterceptor
from ortoscope_service.api.metrics import Metrics, MetricsServer
from ortoscope_service.api.models import ModelsServicer
from ortoscope_service.api.open_inference import open_inference_pb2, open_inference_pb2_grpc
from ortoscope_service.api.open_inference_service import OpenInferenceServicer
from ortoscope_service.api.operations import OperationsServicer
from ortoscope_service.api.unit_sheets import unit_sheet_publisher
from ortoscope_service.api.visualization import VisualizationServicer
from ortoscope_service.config import ServerConfig, TlsFiles
from ortoscope_service.datasets.catalog import DatasetCatalog
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.crews import make_crew, worker_count, worker_memory
from ortoscope_service.jobs.kinds import software
from ortoscope_service.jobs.runner import JobRunner
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.surveys import PARITY
from ortoscope_service.jobs.tasks import Environment
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.host_process import HostSettings
from ortoscope_service.runtime.remote_sessions import SessionHost
from ortoscope_service.runtime.sessions import SessionConfig, check_installation, check_providers
from ortoscope_service.runtime.threads import available_threads

_SERVICERS: tuple[tuple[ServiceDescriptor, Callable[[Any, grpc.Server], None], Callable[[Components], object]], ...] = (
    (
        capabilities_pb2.DESCRIPTOR.services_by_name["Capabilities"],
        capabilities_pb2_grpc.add_CapabilitiesServicer_to_server,
        CapabilitiesServicer,
    ),
    (
        models_pb2.DESCRIPTOR.services_by_name["Models"],
        models_pb2_grpc.add_ModelsServicer_to_server,
        ModelsServicer,
    ),
    (
        datasets_pb2.DESCRIPTOR.services_by_name["Datasets"],
        datasets_pb2_grpc.add_DatasetsServicer_to_server,
        DatasetsServicer,
    ),
    (
        blobs_pb2.DESCRIPTOR.services_by_name["Blobs"],
        blobs_pb2_grpc.add_BlobsServicer_to_server,
        BlobsServicer,
    ),
    (
        activations_pb2.DESCRIPTOR.services_by_name["Activations"],
        activations_pb2_grpc.add_ActivationsServicer_to_server,
        ActivationsServicer,
    ),
    (
        gradients_pb2.DESCRIPTOR.services_by_name["Gradients"],
        gradients_pb2_grpc.add_GradientsServicer_to_server,
        GradientsServicer,
    ),
    (
        dissections_pb2.DESCRIPTOR.services_by_name["Dissections"],
        dissections_pb2_grpc.add_DissectionsServicer_to_server,
        DissectionsServicer,
    ),
    (
        visualization_pb2.DESCRIPTOR.services_by_name["Visualization"],
        visualization_pb2_grpc.add_VisualizationServicer_to_server,
        VisualizationServicer,
    ),
    (
        atlases_pb2.DESCRIPTOR.services_by_name["Atlases"],
        atlases_pb2_grpc.add_AtlasesServicer_to_server,
        AtlasesServicer,
    ),
    (
        operations_pb2.DESCRIPTOR.services_by_name["Operations"],
        operations_pb2_grpc.add_OperationsServicer_to_server,
        OperationsServicer,
    ),
    (
        open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
        OpenInferenceServicer,
    ),
)

SERVICES: tuple[str, ...] = tuple(descriptor.full_name for descriptor, _, _ in _SERVICERS)
"""Full names of the services, health and reflection left out."""

_SPARE_THREADS = 4
"""Threads beside those for calls that work: for health, reflection, and to refuse what is too much."""

_LAST_CALLS_SECONDS = 5.0
"""How long cancelled calls may take to notice."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_LOG = logging.getLogger(__name__)


class Server:
    """A running server; made by `make_server`.

    Attributes:
        host: The host that it listens on.
        port: The port that it listens on.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.host, wanted_port = _address(config.listen, "listen")
        _refuse_exposure(config, self.host, "listen")
        _refuse_missing(config.models, "models")
        if config.datasets is not None:
            _refuse_missing(config.datasets, "datasets")
        check_installation()
        check_providers((config.execution_provider,))
        threads = config.threads or available_threads()
        self._store = Store(config.store, config.limits.max_pending_operations)
        self._runner: JobRunner | None = None
        self._sessions = SessionHost(self._host_settings())
        self._metrics_server: MetricsServer | None = None
        self._stopped = threading.Event()
        try:
            self._runner = self._make_runner()
            components = Components(
                config=config,
                models=ModelRepository(config.models),
                datasets=DatasetCatalog(config.datasets),
                store=self._store,
                runner=self._runner,
                sessions=self._sessions,
                execution=self._execution(threads),
                job_execution=self._execution(config.jobs.threads),
            )
            metrics = self._start_metrics()
            self._calls = ThreadPoolExecutor(config.limits.max_concurrent_rpcs + _SPARE_THREADS, "calls")
            self._health = health.HealthServicer(experimental_thread_pool=ThreadPoolExecutor(1, "health"))
            self._grpc = self._make_grpc(components, metrics)
            self.port = _bind(self._grpc, self.host, wanted_port, config.tls)
            self._runner.start()
            self._grpc.start()
        except BaseException:
            if self._runner is not None:
                self._runner.stop(0.0)
            self._close()
            raise
        for service in ("", *SERVICES):
            self._health.set(service, _SERVING)
        _LOG.info("%d threads for computation", threads)

    @property
    def address(self) -> str:
        """HOST:PORT as a client takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def metrics_port(self) -> int | None:
        """Port of the metrics; None if they are not served."""
        return None if self._metrics_server is None else self._metrics_server.port

    def warm(self) -> None:
        """Starts what the first call would otherwise wait for."""
        self._sessions.warm()

    def stop(self, grace_seconds: float | None = None) -> bool:
        """Stops: reports NOT_SERVING, takes nothing new, and lets what is under way end for a while. Idempotent.

        What does not end by itself is cancelled, and given a few seconds more to notice.

        Args:
            grace_seconds: How long; the configured time by default.

        Returns:
            Whether every call ended; if not, a thread is still in one.
        """
        if self._stopped.is_set():
            return True
        self._stopped.set()
        grace = self.config.grace_seconds if grace_seconds is None else grace_seconds
        self._health.enter_graceful_shutdown()
        drained = self._grpc.stop(grace)
        assert self._runner is not None
        self._runner.stop(grace)
        drained.wait()
        last_calls = threading.Thread(target=self._calls.shutdown, daemon=True)
        last_calls.start()
        last_calls.join(_LAST_CALLS_SECONDS)
        self._close()
        return not last_calls.is_alive()

    def _close(self) -> None:
        if self._metrics_server is not None:
            self._metrics_server.stop()
        self._sessions.close()
        self._store.close()

    def _execution(self, threads: int) -> ExecutionConfig:
        provider, verdicts = self.config.execution_provider, self.config.store / PARITY
        return ExecutionConfig(
            self.config.batch_size, SessionConfig((provider,), intra_op_threads=threads, verdicts=verdicts)
        )

    def _host_settings(self) -> HostSettings:
        jobs = self.config.jobs
        share = worker_memory(jobs, worker_count(jobs, self.config.execution_provider))
        memory = self.config.call_memory_bytes or share
        return HostSettings(memory, self.config.session_memory_bytes or memory // 2)

    def _make_runner(self) -> JobRunner:
        config = self.config
        workers = worker_count(config.jobs, config.execution_provider)
        cores_left = config.jobs.cluster is None and workers * config.jobs.threads < available_threads()
        environment = Environment(
            store=str(config.store.resolve()),
            models=str(config.models.resolve()),
            datasets=None if config.datasets is None else str(config.datasets.resolve()),
            software=software(),
            read_ahead=workers if cores_left else 0,
            memory_bytes=worker_memory(config.jobs, workers)
            if config.jobs.cluster is None
            else config.jobs.memory_bytes,
            stall_seconds=config.jobs.stall_seconds,
        )
        return JobRunner(
            self._store,
            make_crew(config.jobs, config.execution_provider),
            environment,
            {
                "dissect": dissection_publisher(self._store),
                "find-examples": examples_publisher(self._store),
                "visualize-units": unit_sheet_publisher(self._store),
                "build-atlas": atlas_publisher(self._store),
                "append-atlas": atlas_publisher(self._store),
                "project-samples": atlas_projection_publisher(self._store),
                "compare-atlases": atlas_comparison_publisher(self._store),
            },
            config.limits.operation_retention_seconds,
            config.jobs.operations,
            self._stop_serving,
        )

    def _stop_serving(self) -> None:
        """Says that this server cannot do its work any more: whoever watches it may restart it."""
        for service in ("", *SERVICES):
            self._health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)

    def _start_metrics(self) -> Metrics | None:
        if not self.config.metrics_listen:
            return None
        host, port = _address(self.config.metrics_listen, "metrics_listen")
        _refuse_exposure(self.config, host, "metrics_listen")
        metrics = Metrics(self._store.operations.count_pending)
        try:
            self._metrics_server = metrics.serve(host, port)
        except OSError:
            raise _address_in_use(self.config.metrics_listen) from None
        return metrics

    def _make_grpc(self, components: Components, metrics: Metrics | None) -> grpc.Server:
        limits = self.config.limits
        server = grpc.server(
            self._calls,
            interceptors=[CallInterceptor(limits, metrics)],
            maximum_concurrent_rpcs=limits.max_concurrent_rpcs + _SPARE_THREADS,
            options=(
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                # Our own check comes first and names the limit; this one only has to let it through.
                ("grpc.max_send_message_length", limits.max_message_bytes),
                # Two servers on one port would each get some of the calls.
                ("grpc.so_reuseport", 0),
                # Notices clients whose machine vanished, and lets clients look after idle connections.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ),
        )
        for _, add, servicer in _SERVICERS:
            add(servicer(components), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server


def make_server(config: ServerConfig) -> Server:
    """Starts a server in this process. It serves when this returns.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: INVALID_ADDRESS; FAILED_PRECONDITION: INSECURE_LISTEN, ADDRESS_IN_USE,
            TLS_UNREADABLE, FOLDER_MISSING, STORE_UNUSABLE, STORE_IN_USE, CONFLICTING_ONNXRUNTIME, UNKNOWN_PROVIDER.
    """
    return Server(config)


def serve(config: ServerConfig) -> None:
    """Serves until SIGTERM or SIGINT comes, then stops gracefully; a second signal ends the process at once.

    Call it in the main thread.

    Raises:
        OrtoscopeError: As `make_server` raises.
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("ortoscope_service").setLevel(logging.INFO)
    asked_to_stop = threading.Event()

    def stop(_signal: int, _frame: object) -> None:
        asked_to_stop.set()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_DFL)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    server = make_server(config)
    server.warm()
    sys.stderr.write(f"listening on {server.address}\n")
    sys.stderr.flush()
    asked_to_stop.wait()
    if not server.stop():
        logging.shutdown()
        os._exit(0)  # the interpreter would wait for the thread, however long it takes


def _address(text: str, field: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; IPv6 hosts stand in brackets."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise OrtoscopeError(
            Code.INVALID_ARGUMENT,
            "INVALID_ADDRESS",
            f"'{text}' is no address of the form HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051.",
            field=field,
            metadata={"address": text},
        )
    return host, int(port)


def _refuse_exposure(config: ServerConfig, host: str, field: str) -> None:
    if config.insecure or _is_loopback(host) or (field == "listen" and config.tls is not None):
        return
    raise OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "INSECURE_LISTEN",
        f"{host} can be reached from other machines, and the connection would be neither encrypted nor authenticated. "
        "Give TLS files, listen on 127.0.0.1, or say --insecure if something else protects it.",
        field=field,
        metadata={"host": host},
    )


def _refuse_missing(folder: Path, field: str) -> None:
    """A mistyped folder would otherwise look like one without content."""
    if not folder.is_dir():
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "FOLDER_MISSING",
            f"The folder of {field} ('{folder.name}') does not exist or is no folder. Make it, or correct the option.",
            field=field,
            metadata={"folder": folder.name},
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(server: grpc.Server, host: str, port: int, tls: TlsFiles | None) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound: int = (
            server.add_insecure_port(address) if tls is None else server.add_secure_port(address, _credentials(tls))
        )
    except RuntimeError:
        bound = 0
    if not bound:
        raise _address_in_use(address)
    return bound


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    try:
        key, certificate = tls.private_key.read_bytes(), tls.certificate.read_bytes()
        authority = None if tls.client_authority is None else tls.client_authority.read_bytes()
    except OSError as error:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "TLS_UNREADABLE",
            f"A TLS file cannot be read ({error.strerror}); check the certificate, the key and the client authority.",
        ) from error
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authority, require_client_auth=authority is not None
    )


def _address_in_use(address: str) -> OrtoscopeError:
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "ADDRESS_IN_USE",
        f"The server cannot listen on {address}: another process does, the address is not one of this machine, or the "
        "TLS files are not valid. Choose another port, or 0 for any free one.",
        metadata={"address": address},
    )
