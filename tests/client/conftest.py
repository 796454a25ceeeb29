from collections.abc import Iterator

import ortoscope
import pytest
from client_server import running_server


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The target of a real server."""
    with running_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="session")
def scope(target: str) -> Iterator[ortoscope.Ortoscope]:
    """A connection to a real server."""
    with ortoscope.connect(target) as connection:
        yield connection
