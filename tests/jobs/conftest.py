from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ortoscope_service.jobs.database import Database

OpenDatabase = Callable[[], Database]


@pytest.fixture
def open_database(tmp_path: Path) -> Iterator[OpenDatabase]:
    """Opens one and the same database as often as it is called; closes all of it in the end."""
    opened: list[Database] = []

    def open_one() -> Database:
        opened.append(Database(tmp_path / "operations.db"))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()
