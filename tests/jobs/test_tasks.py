"""What a worker answers when a task goes wrong before it began in earnest."""

import json
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from ortoscope_service.jobs import dissections
from ortoscope_service.jobs.kinds import software
from ortoscope_service.jobs.tasks import PERMITS, Environment, Task, TaskContext, permit_file, request_of, run_task

WORKER = f"process {os.getpid()} on {socket.gethostname()}"


def answer(environment: Environment) -> dict[str, Any]:
    request = request_of(environment, "a", "dissect", {}, Task("scan"), "sha256:0")
    return cast("dict[str, Any]", json.loads(run_task(request)))


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (tmp_path / PERMITS).mkdir()
    permit_file(tmp_path, "a").touch()
    return Environment(str(tmp_path), str(tmp_path / "models"), None, software())


def test_an_error_says_which_worker_it_came_to(environment: Environment) -> None:
    permit_file(Path(environment.store), "a").unlink()
    failed = answer(environment)
    assert (failed["error"]["reason"], failed["worker"]) == ("CANCELLED", WORKER)


def test_a_worker_with_other_software_says_what_both_have(environment: Environment) -> None:
    other = Environment(environment.store, environment.models, None, {**software(), "numpy": "0.1"})
    error = answer(other)["error"]
    assert error["reason"] == "WORKER_DIFFERS"
    assert "numpy 0.1" in error["message"]
    assert WORKER in error["message"]


@pytest.mark.parametrize("kind", [PermissionError(13, "denied", "secret"), OSError(30, "read-only", "secret")])
def test_a_worker_that_may_not_use_a_file_says_so_without_its_path(
    environment: Environment, kind: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_context: TaskContext) -> dict[str, Any]:
        raise kind

    monkeypatch.setitem(cast("dict[str, Any]", dissections.TASKS), "scan", denied)
    failed = answer(environment)
    assert failed["error"]["reason"] == "WORKER_DENIED"
    assert WORKER in failed["error"]["message"]
    assert "secret" not in json.dumps(failed)
