"""Whatever is killed while operations run, their results are the same to the byte.

These are a dozen runs; `python benchmarks/durability.py` does as many as one likes.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
from durability import FORMATIONS, Formation, Rig, blows_of, make_rig, run

ONE, TWO, FOUR, CLUSTER = FORMATIONS

DISTURBED = [
    *((ONE, seed) for seed in (0, 3, 4)),
    *((TWO, seed) for seed in (1, 2, 6)),
    *((FOUR, seed) for seed in (3, 6)),
    *((CLUSTER, seed) for seed in (4, 6, 7, 9)),
]
"""Formations and seeds: every victim, and every moment, at least once."""


@dataclass(frozen=True)
class Undisturbed:
    """What a single worker does when nothing happens."""

    rig: Rig
    """What was worked on."""

    results: Path
    """The results."""

    seconds: float
    """How long it took."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    rig = make_rig(folder / "rig")
    done = run(rig, ONE, folder / "run")
    assert done.faults == ()
    assert {path.name for path in (folder / "run" / "results").iterdir()} == {"0", "1"}
    return Undisturbed(rig, folder / "run" / "results", done.seconds)


@pytest.mark.parametrize("formation", [TWO, FOUR, CLUSTER], ids=lambda formation: formation.name)
def test_all_formations_give_the_same_bytes(undisturbed: Undisturbed, formation: Formation, tmp_path: Path) -> None:
    assert run(undisturbed.rig, formation, tmp_path / "run", (), undisturbed.results).faults == ()


@pytest.mark.parametrize(("formation", "seed"), DISTURBED, ids=lambda value: getattr(value, "name", str(value)))
def test_whatever_is_killed_both_operations_finish_with_the_same_bytes(
    undisturbed: Undisturbed, formation: Formation, seed: int, tmp_path: Path
) -> None:
    blows = blows_of(formation, seed, undisturbed.seconds)
    done = run(undisturbed.rig, formation, tmp_path / "run", blows, undisturbed.results)
    assert done.faults == (), done.blows
