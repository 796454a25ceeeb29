"""Kills servers, workers, schedulers and supervisors while operations run, and compares what comes of them.

    python benchmarks/durability.py --runs 30 --seed 0

Each run is a dissection and a search for examples on a fresh store, by 1, 2 and 4 workers of the server's own and by a
cluster of 2 in turn. What is killed is started again as an operator's restart policy would. The exit code is 1 if any
file that `-o` writes differs from what one worker wrote undisturbed, or if a process or a file is left.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from durability import FORMATIONS, blows_of, make_rig, run


def main() -> int:
    """Does the runs; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="number of disturbed runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first; each run has the next one")
    parser.add_argument("--keep", type=Path, help="keep stores, logs and results of runs with faults in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return _runs(Path(temporary), options.runs, options.seed, options.keep)


def _runs(folder: Path, runs: int, seed: int, keep: Path | None) -> int:
    rig = make_rig(folder / "rig")
    reference = folder / "reference"
    undisturbed = run(rig, FORMATIONS[0], reference)
    if undisturbed.faults:
        sys.stdout.write(f"undisturbed: {'; '.join(undisturbed.faults)}\n")
        return 1
    sys.stdout.write(f"undisturbed, {FORMATIONS[0].name}: {undisturbed.seconds:.1f} s\n")
    began, failed = time.monotonic(), 0
    for number in range(seed, seed + runs):
        formation = FORMATIONS[number % len(FORMATIONS)]
        blows = blows_of(formation, number // len(FORMATIONS), undisturbed.seconds)
        done = run(rig, formation, folder / str(number), blows, reference / "results")
        outcome = "; ".join(done.faults) or "equal"
        sys.stdout.write(
            f"{number:4}  {formation.name:12}  {done.seconds:5.1f} s  {outcome}  [{', '.join(done.blows)}]\n"
        )
        sys.stdout.flush()
        if done.faults:
            failed += 1
            if keep is not None:
                shutil.copytree(folder / str(number), keep / str(number), dirs_exist_ok=True)
        shutil.rmtree(folder / str(number))
    sys.stdout.write(f"{runs - failed} of {runs} equal, in {time.monotonic() - began:.0f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
