from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from ortoscope_service.config import Limits, ServerConfig
from ortoscope_service.models.repository import ModelRepository
from serving import Failure, Stubs, failure_of, serving, write_datasets, write_models


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder of the test server."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def models(models_folder: Path) -> ModelRepository:
    """The models of the test server."""
    return write_models(models_folder)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datasets folder of the test server."""
    return write_datasets(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session")
def config(
    models_folder: Path, models: ModelRepository, datasets: Path, tmp_path_factory: pytest.TempPathFactory
) -> ServerConfig:
    """The configuration of the test server."""
    return ServerConfig(
        models=models_folder,
        datasets=datasets,
        store=tmp_path_factory.mktemp("store"),
        listen="127.0.0.1:0",
        batch_size=4,
        limits=Limits(max_items_per_request=10, max_blob_bytes=10_000_000),
    )


@pytest.fixture(scope="session")
def stubs(config: ServerConfig) -> Iterator[Stubs]:
    """Stubs of a server that all tests share: they must not depend on what others store in it."""
    with serving(config) as (_, stubs):
        yield stubs


@pytest.fixture
def refused() -> Callable[..., Failure]:
    """Calls an rpc that must be refused; gives the status."""

    def read(rpc: Callable[..., Any], request: Any) -> Any:
        answer = rpc(request, timeout=30)
        return list(answer) if hasattr(answer, "__next__") else answer

    def call(rpc: Callable[..., Any], request: Any) -> Failure:
        with pytest.raises(grpc.RpcError) as caught:
            read(rpc, request)
        return failure_of(caught.value)

    return call
