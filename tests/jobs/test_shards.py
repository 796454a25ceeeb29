import threading
from pathlib import Path

import pytest
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.artifacts import ArtifactStore
from ortoscope_service.jobs.database import Database
from ortoscope_service.jobs.operations import NewOperation, OperationStore, State
from ortoscope_service.jobs.shards import ShardLog
from ortoscope_service.jobs.tasks import Outcome


class Parts:
    def __init__(self, root: Path) -> None:
        self.database = Database(root / "operations.db")
        self.operations = OperationStore(self.database)
        self.artifacts = ArtifactStore(root / "shards")
        self.artifacts.make()
        self.log = ShardLog(self.database, self.artifacts)

    def operation(self, name: str, top_fraction: float) -> str:
        new = NewOperation(name, "dissect", "t", spec={"top_fraction": top_fraction})
        return self.operations.create(new)[0].job

    def outcome(self, data: bytes) -> Outcome:
        return Outcome({"maps": self.artifacts.put_bytes(data)}, {"items": 3}, 1.5, "cpu")

    def is_there(self, outcome: Outcome) -> bool:
        return self.artifacts.path(outcome.artifacts["maps"]).exists()


@pytest.fixture
def parts(tmp_path: Path) -> "Parts":
    return Parts(tmp_path)


def test_an_outcome_is_found_by_its_key_and_by_no_other(parts: Parts) -> None:
    outcome = parts.outcome(b"x")
    parts.log.add("key", parts.operation("a", 0.1), outcome)
    assert parts.log.find("key") == outcome
    assert parts.log.find("another") is None


def test_outcomes_go_when_the_last_operation_that_needs_them_has_ended(parts: Parts) -> None:
    job = parts.operation("a", 0.1)
    assert parts.operation("same", 0.1) == job
    outcome, other = parts.outcome(b"x"), parts.outcome(b"y")
    parts.log.add("key", job, outcome)
    parts.log.add("other", parts.operation("b", 0.2), other)
    parts.operations.start("a")
    parts.operations.succeed("a", lambda: "dissections/a")
    parts.log.collect()
    assert parts.log.find("key") == outcome
    parts.operations.request_cancel("same")
    parts.log.collect()
    assert parts.log.find("key") is None
    assert not parts.is_there(outcome)
    assert parts.log.find("other") == other
    assert parts.is_there(other)


def test_outcomes_of_a_failed_operation_wait_until_its_record_goes(parts: Parts) -> None:
    outcome = parts.outcome(b"x")
    parts.log.add("key", parts.operation("a", 0.1), outcome)
    parts.operations.fail("a", OrtoscopeError(Code.RESOURCE_EXHAUSTED, "DISK_FULL", "full"))
    parts.log.collect()
    assert parts.log.find("key") == outcome
    parts.operations.delete("a")
    parts.log.collect()
    assert parts.log.find("key") is None
    assert not parts.is_there(outcome)


def test_an_artifact_that_two_outcomes_share_goes_with_the_second(parts: Parts) -> None:
    outcome = parts.outcome(b"x")
    parts.log.add("key", parts.operation("a", 0.1), outcome)
    parts.log.add("other", parts.operation("b", 0.2), outcome)
    parts.operations.request_cancel("a")
    parts.log.collect()
    assert parts.is_there(outcome)
    parts.operations.request_cancel("b")
    parts.log.collect()
    assert not parts.is_there(outcome)


def test_nobody_waits_for_the_database_while_files_are_deleted(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.log.add("key", parts.operation("a", 0.1), parts.outcome(b"x"))
    parts.operations.request_cancel("a")
    unlink, found = Path.unlink, []

    def unlink_while_another_looks(path: Path, missing_ok: bool = False) -> None:
        other = threading.Thread(target=lambda: found.append(parts.operations.get("a").state), daemon=True)
        other.start()
        other.join(10)
        assert not other.is_alive()
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_while_another_looks)
    parts.log.collect()
    assert found == [State.CANCELLED]


def test_what_is_worth_more_than_its_job_outlives_it(parts: Parts) -> None:
    parts.log.add("key", "", Outcome({}, {"digest": "sha256:0"}))
    parts.log.collect()
    assert parts.log.find("key") is not None


def test_a_damaged_artifact_is_forgotten_by_all_who_name_it(parts: Parts) -> None:
    outcome = parts.outcome(b"x")
    parts.log.add("key", parts.operation("a", 0.1), outcome)
    parts.log.add("other", parts.operation("b", 0.2), outcome)
    parts.log.forget_artifact(outcome.artifacts["maps"])
    assert parts.log.find("key") is None
    assert parts.log.find("other") is None
    assert not parts.is_there(outcome)


def test_what_nobody_recorded_is_swept_at_the_start(parts: Parts, tmp_path: Path) -> None:
    known, orphan = parts.outcome(b"x"), parts.outcome(b"y")
    parts.log.add("key", parts.operation("a", 0.1), known)
    (tmp_path / "shards" / "temporary" / "torn").write_bytes(b"half")
    again = Parts(tmp_path)
    assert again.is_there(known)
    assert not again.is_there(orphan)
    assert list((tmp_path / "shards" / "temporary").iterdir()) == []


def test_of_what_is_kept_beyond_any_job_the_oldest_goes_once_it_is_too_much(parts: Parts) -> None:
    log = ShardLog(parts.database, parts.artifacts, kept_bytes=250)
    kept = [
        Outcome({"maps": parts.artifacts.put_bytes(bytes([number]) * 100)}, {"bytes": 100}, 1.0, "cpu")
        for number in range(4)
    ]
    log.add("small", "", Outcome({}, {"digest": "x"}, 1.0, "cpu"))
    for number, outcome in enumerate(kept):
        log.add(f"kept{number}", "", outcome)
    log.collect()
    assert [log.find(f"kept{number}") for number in range(4)] == [None, None, *kept[2:]]
    assert [parts.is_there(outcome) for outcome in kept] == [False, False, True, True]
    assert log.find("small") is not None
