"""A real server for the tests of the client: tiny models, a labelled dataset, folders of photographs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ortoscope_service.config import Limits, ServerConfig
from serving import serving, write_datasets, write_models


@contextmanager
def running_server(root: Path) -> Iterator[str]:
    """Serves models and datasets written below `root`; yields the target.

    Pages and requests are small, so that the client has to put them together.
    """
    write_models(root / "models")
    write_datasets(root / "datasets")
    config = ServerConfig(
        models=root / "models",
        datasets=root / "datasets",
        store=root / "store",
        listen="127.0.0.1:0",
        batch_size=4,
        limits=Limits(max_items_per_request=3, max_page_size=2, max_message_bytes=4 * 1024**2),
    )
    with serving(config) as (server, _):
        yield server.address
