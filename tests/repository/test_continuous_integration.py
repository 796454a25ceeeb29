"""The Makefile's environment and what .ci/run makes of skipped tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"bench", "clean", "demo", "help", "lint", "protos", "test", "test-long"}


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, check=False, capture_output=True, text=True, timeout=60, env=environment
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what the Makefile looks at."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def stamp(checkout: Path, target: str) -> Path:
    """Makes the stamp that `make target` would leave, as if it had installed."""
    found = re.search(r"touch (\.venv/\S+)", make(checkout, "-n", target).stdout)
    assert found
    path = checkout / found[1]
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"^make (\S+)", make(ROOT).stdout, flags=re.MULTILINE)
    assert set(listed) == TARGETS


@pytest.mark.parametrize("target", ["demo", "test", "lint"])
def test_a_second_run_installs_nothing(checkout: Path, target: str) -> None:
    assert "pip install" in make(checkout, "-n", target).stdout
    stamp(checkout, target)
    assert "pip install" not in make(checkout, "-n", target).stdout


def test_the_environment_for_tests_serves_the_demo_but_not_the_other_way_round(checkout: Path) -> None:
    made = stamp(checkout, "test")
    assert "pip install" not in make(checkout, "-n", "demo").stdout
    made.unlink()
    made.parent.rmdir()
    stamp(checkout, "demo")
    assert "[server,cluster,demo,dev]" in make(checkout, "-n", "test").stdout


def test_a_changed_pyproject_is_installed_again(checkout: Path) -> None:
    stamp(checkout, "test")
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# another line\n")
    assert "pip install" in make(checkout, "-n", "test").stdout


def test_a_python_that_does_not_fit_is_named_with_the_remedy(checkout: Path) -> None:
    finished = make(checkout, "PYTHON=false", "demo")
    assert finished.returncode != 0
    assert "needs Python 3.11 or newer" in finished.stderr
    assert "make PYTHON=" in finished.stderr
    assert not (checkout / ".venv").exists()


def junit(folder: Path, *reasons: str) -> Path:
    """A JUnit report as pytest writes it, of one test that passed and one that was skipped for each reason."""
    module = folder / "test_made_up.py"
    tests = [f"@pytest.mark.skip(reason={reason!r})\ndef test_{i}(): pass\n" for i, reason in enumerate(reasons)]
    module.write_text("\n".join(["import pytest", "def test_passes(): pass", *tests]))
    report = folder / "junit.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "-c", os.devnull, f"--rootdir={folder}", module],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return report


def unexpected_skips(report: Path, *, reference_data: bool) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ORTOSCOPE_REFERENCE_DATA"}
    if reference_data:
        environment["ORTOSCOPE_REFERENCE_DATA"] = str(report.parent)
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / "unexpected_skips.py", report],
        check=False, capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip


def test_a_run_without_skips_is_accepted(tmp_path: Path) -> None:
    assert unexpected_skips(junit(tmp_path), reference_data=True).returncode == 0


def test_a_skip_for_want_of_a_tool_fails_the_run(tmp_path: Path) -> None:
    reasons = ["no Chromium", "tritonclient cannot be installed", "flaky"]
    finished = unexpected_skips(junit(tmp_path, *reasons), reference_data=True)
    assert finished.returncode != 0
    assert all(f"test_{i}: {reason}" in finished.stderr for i, reason in enumerate(reasons))


def test_reference_data_may_be_missing_only_where_none_are_given(tmp_path: Path) -> None:
    report = junit(tmp_path, "ORTOSCOPE_REFERENCE_DATA names no folder of reference data")
    assert unexpected_skips(report, reference_data=False).returncode == 0
    assert unexpected_skips(report, reference_data=True).returncode != 0


def test_the_script_of_continuous_integration_is_valid_and_executable() -> None:
    script = ROOT / ".ci" / "run"
    subprocess.run(["bash", "-n", script], check=True, timeout=60)
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
