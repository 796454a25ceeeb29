"""What the servicers of a server share."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.api import resources
from ortoscope_service.api.calls import bind_cancellation
from ortoscope_service.api.pages import PageRequest, page_request
from ortoscope_service.config import Limits, ServerConfig
from ortoscope_service.datasets.catalog import DatasetCatalog
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.runner import JobRunner
from ortoscope_service.jobs.store import Store
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.remote_sessions import ModelIdentity, RemoteSession, SessionHost

_BLAMABLE = frozenset({Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION})


@dataclass(frozen=True)
class Components:
    """What the servicers of a server share."""

    config: ServerConfig
    """How the server is set up."""

    models: ModelRepository
    """The models."""

    datasets: DatasetCatalog
    """The datasets."""

    store: Store
    """Operations, results and blobs."""

    runner: JobRunner
    """Runs operations."""

    sessions: SessionHost
    """Sessions for calls, in a process of their own."""

    execution: ExecutionConfig
    """How models are run in calls, threads resolved."""

    job_execution: ExecutionConfig
    """How models are run in operations, threads resolved."""

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.config.limits

    def cancellation(self, context: grpc.ServicerContext) -> Cancellation:
        """The cancellation of a call, with the server's deadline if it came without one."""
        return bind_cancellation(context, self.limits.default_deadline_seconds)

    def page(self, page_size: int, page_token: str, *scope: str) -> PageRequest:
        """The page that a request asks for; `scope` is the method and every argument that decides the list."""
        return page_request(page_size, page_token, scope, self.limits.max_page_size)

    def model_version(self, name: resources.ModelName, *, field: str) -> ModelVersion:
        """The model version of a name.

        Raises:
            OrtoscopeError: NOT_FOUND.
        """
        with blaming(field):
            return self.models.get(name.model, name.version)

    def dataset(self, name: resources.DatasetName, *, field: str) -> Dataset:
        """The dataset of a name.

        Raises:
            OrtoscopeError: NOT_FOUND; FAILED_PRECONDITION if it cannot be read.
        """
        with blaming(field):
            return self.datasets.get(name.dataset)

    def session(self, version: ModelVersion, tensors: Sequence[str], cancellation: Cancellation) -> RemoteSession:
        """A session of the part of a model that computes some tensors; equal sets share one."""
        needed = tuple(sorted(set(tensors)))
        return self.derived_session(version, needed, lambda: version.trunk_bytes(needed), cancellation)

    def derived_session(
        self, version: ModelVersion, key: Hashable, make: Callable[[], bytes], cancellation: Cancellation
    ) -> RemoteSession:
        """A session of a graph that is made from a model, past the parity gate; equal keys share one.

        Args:
            version: The model.
            key: Everything else that the graph depends on.
            make: Makes the graph, as an ONNX file; called again if the session had to go in between.
            cancellation: Ends the wait for it.

        Raises:
            OrtoscopeError: As `SessionHost.session` raises.
        """
        config = self.execution.session
        digest = version.manifest.digest
        model = ModelIdentity(f"{version.model}/{version.version}", digest)
        return self.sessions.session((digest, key, config), make, config, model, cancellation)


def version_name(version: ModelVersion) -> resources.ModelName:
    """The resource name of a model version."""
    return resources.ModelName(version.model, version.version)


@contextmanager
def blaming(field: str) -> Iterator[None]:
    """Errors of the body that a request field can be at fault for name `field`."""
    try:
        yield
    except OrtoscopeError as error:
        if error.code in _BLAMABLE:
            error.field = field
        raise
