"""Large grids of cases: half of them in every run, all of them with the long tests."""

from collections import defaultdict
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_LARGE = 12


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every second case of a test with many as `long`: neighbours in a grid differ in little."""
    cases = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.path.is_relative_to(_HERE):
            cases[item.path, item.originalname].append(item)
    for grid in cases.values():
        if len(grid) > _LARGE:
            for item in grid[1::2]:
                item.add_marker(pytest.mark.long)
