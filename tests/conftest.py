"""What every test may use: the reference data, Hypothesis settings, and the switch for long tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

ROOT = Path(__file__).resolve().parent.parent

# Both are read when the library is imported, which a test does later than this file.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".cache" / "numba"))

# Examples take as long as the machine is busy; in continuous integration a failure must come back with the commit.
settings.register_profile(
    "ortoscope",
    deadline=None,
    derandomize="CI" in os.environ,
    database=None if "CI" in os.environ else DirectoryBasedExampleDatabase(ROOT / ".cache" / "hypothesis"),
    print_blob=True,
)
settings.load_profile("ortoscope")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--long`."""
    parser.addoption("--long", action="store_true", help="run the tests marked `long`, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the tests marked `long` unless `--long` is given."""
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of the reference data: models, photographs, labelled images, tables of results."""
    folder = os.environ.get("ORTOSCOPE_REFERENCE_DATA")
    if not folder:
        pytest.skip("ORTOSCOPE_REFERENCE_DATA names no folder of reference data")
    return Path(folder)
