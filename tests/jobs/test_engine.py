"""The engine, with an executor that does what a test tells it instead of working."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ortoscope_service.errors import Code, OrtoscopeError, error_to_json
from ortoscope_service.jobs.engine import Crew, Interrupted, Job, Stage, Together, run_job
from ortoscope_service.jobs.operations import NewOperation
from ortoscope_service.jobs.pool import WorkerDiedError
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.tasks import Environment, Outcome, Task, cause_file, permit_file
from ortoscope_service.runtime.cancellation import Cancellation

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def nothing(_request: Mapping[str, Any]) -> Mapping[str, Any]:
    return Outcome({}, {}, 0.01, "cpu").to_json()


def failing(error: OrtoscopeError) -> dict[str, Any]:
    return {"error": error_to_json(error), "worker": "process 1 on a machine"}


class ScriptedExecutor(Executor):
    """Answers each request at once by a function, in the thread that submits."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.most_at_once = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        request = json.loads(args[0])
        self.requests.append(request)
        future: Future[str] = Future()
        try:
            future.set_result(json.dumps(self.answer(request)))
        except BaseException as error:  # noqa: BLE001 - it is what the future holds
            future.set_exception(error)
        return future

    def tasks(self) -> list[str]:
        return [request["task"]["name"] for request in self.requests]


@dataclass
class Bench:
    """A store with one operation, and what is needed to run it as a job."""

    store: Store
    root: Path
    executor: ScriptedExecutor
    progress: list[tuple[str, int, int, float | None]] = field(default_factory=list)
    cancellation: Cancellation = field(default_factory=Cancellation)
    stopping: threading.Event = field(default_factory=threading.Event)
    workers: int = 2
    spec: dict[str, Any] = field(default_factory=dict)
    obstacle: str = ""

    def job(self, operation_id: str = "a") -> Job:
        try:
            operation = self.store.operations.get(operation_id)
        except OrtoscopeError:
            new = NewOperation(operation_id, "dissect", "models/m/versions/1/taps/t", spec=self.spec)
            operation, _ = self.store.operations.create(new)
        return Job(
            operation,
            Crew(self.executor, lambda: self.workers, lambda: self.obstacle),
            self.store.shards,
            self.store.artifacts,
            Environment(
                str(self.root),
                str(self.root / "models"),
                str(self.root / "datasets"),
                {"ortoscope": "1"},
                memory_bytes=1000,
                stall_seconds=7,
            ),
            lambda *told: self.progress.append(told),
            self.cancellation,
            self.stopping.is_set,
        )

    def run(self, drive: Callable[[Job], Any], operation_id: str = "a") -> Any:
        return run_job(self.job(operation_id), drive)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    store = Store(tmp_path)
    yield Bench(store, tmp_path, ScriptedExecutor(nothing))
    store.close()


def shards(count: int, items: int = 10) -> list[Task]:
    return [Task("survey", {"shard": number}, items=items) for number in range(count)]


def reason_of(bench: Bench, drive: Callable[[Job], Any]) -> OrtoscopeError:
    with pytest.raises(OrtoscopeError) as caught:
        bench.run(drive)
    return caught.value


def test_outcomes_come_in_the_order_of_the_tasks_whatever_order_they_end_in(bench: Bench) -> None:
    class Backwards(ScriptedExecutor):
        held: ClassVar[list[tuple[Future[str], str]]] = []

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            shard = json.loads(args[0])["task"]["arguments"]["shard"]
            future: Future[str] = Future()
            self.held.append((future, json.dumps(Outcome({}, {"shard": shard}).to_json())))
            if len(self.held) == 3 or shard == 8:
                for waiting, answer in reversed(self.held):
                    waiting.set_result(answer)
                self.held.clear()
            return future

    bench.executor = Backwards(nothing)
    outcomes = bench.run(lambda job: job.map("surveying", shards(9)))
    assert [outcome.values["shard"] for outcome in outcomes] == list(range(9))


def test_a_task_that_was_done_is_not_done_again_by_the_next_server(bench: Bench) -> None:
    def drive(job: Job) -> list[Outcome]:
        job.map("surveying", shards(3))
        return job.map("counting", [Task("count", {"shard": 0})])

    def dies_at_count(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request["task"]["name"] == "count":
            raise CancelledError
        return nothing(request)

    bench.executor.answer = dies_at_count
    stopper = threading.Timer(0.3, bench.stopping.set)
    stopper.start()
    with pytest.raises(Interrupted):
        bench.run(drive)
    assert bench.executor.tasks().count("survey") == 3
    bench.store.close()
    bench.store = Store(bench.root)
    bench.stopping.clear()
    bench.executor = ScriptedExecutor(nothing)
    bench.run(drive)
    assert bench.executor.tasks() == ["count"]


def test_another_spec_other_software_or_other_inputs_are_other_tasks(bench: Bench) -> None:
    bench.run(lambda job: job.run("x", Task("survey", {"shard": 0}, {"bound": "a"})))
    bench.run(lambda job: job.run("x", Task("survey", {"shard": 0}, {"bound": "a"})))
    assert len(bench.executor.requests) == 1
    bench.run(lambda job: job.run("x", Task("survey", {"shard": 0}, {"bound": "b"})))
    bench.spec = {"top_fraction": 0.01}
    bench.run(lambda job: job.run("x", Task("survey", {"shard": 0}, {"bound": "a"})), "another")
    assert len(bench.executor.requests) == 3


def test_what_looks_at_the_world_is_asked_every_time(bench: Bench) -> None:
    for _ in range(2):
        bench.run(lambda job: job.run("reading", Task("scan"), remember=False))
    assert bench.executor.tasks() == ["scan", "scan"]


def test_what_is_kept_beyond_a_job_answers_other_jobs(bench: Bench) -> None:
    task = Task("identify", {"dataset": "d", "signature": "s"})
    bench.run(lambda job: job.run("identifying", task, beyond_job=True))
    bench.store.operations.request_cancel("a")
    bench.store.shards.collect()
    bench.spec = {"other": True}
    bench.run(lambda job: job.run("identifying", task, beyond_job=True), "another")
    assert len(bench.executor.requests) == 1


def numbers(count: int) -> list[Task]:
    return [Task("number", {"numbers": [number]}, items=1) for number in range(count)]


def packed(tasks: Sequence[Task]) -> Task:
    return Task("number", {"numbers": [number for task in tasks for number in task.arguments["numbers"]]})


def split(whole: Outcome, tasks: Sequence[Task]) -> list[Outcome]:
    return [
        Outcome({}, {"square": whole.values["squares"][str(task.arguments["numbers"][0])]}, whole.seconds, "cpu")
        for task in tasks
    ]


def squares(request: Mapping[str, Any]) -> Mapping[str, Any]:
    found = {str(number): number**2 for number in request["task"]["arguments"]["numbers"]}
    return Outcome({}, {"squares": found}, 0.01, "cpu").to_json()


def groups(bench: Bench) -> list[list[int]]:
    return [request["task"]["arguments"]["numbers"] for request in bench.executor.requests]


def test_tasks_done_together_are_found_again_one_by_one(bench: Bench) -> None:
    bench.executor.answer = squares
    bench.workers = 1
    together = Together(3, packed, split)
    found = bench.run(lambda job: job.map("counting", numbers(7), beyond_job=True, together=together))
    assert [outcome.values["square"] for outcome in found] == [number**2 for number in range(7)]
    assert groups(bench) == [[0, 1, 2], [3, 4, 5], [6]]
    bench.executor.requests.clear()
    asked = [*numbers(9)[::-2], numbers(9)[7]]
    again = bench.run(lambda job: job.map("counting", asked, beyond_job=True, together=together), "another")
    assert [outcome.values["square"] for outcome in again] == [64, 36, 16, 4, 0, 49]
    assert groups(bench) == [[8, 7]]


def test_fewer_tasks_are_done_together_if_workers_would_have_nothing_to_do(bench: Bench) -> None:
    bench.executor.answer = squares
    bench.workers = 4
    bench.run(lambda job: job.map("counting", numbers(10), together=Together(16, packed, split)))
    assert groups(bench) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_a_worker_that_dies_costs_its_task_one_retry(bench: Bench) -> None:
    deaths = iter([WorkerDiedError("was killed by SIGKILL")])

    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request["task"]["arguments"]["shard"] == 1:
            for death in deaths:
                raise death
        return nothing(request)

    bench.executor.answer = answer
    assert len(bench.run(lambda job: job.map("surveying", shards(4)))) == 4
    assert len(bench.executor.requests) == 5


def test_a_poison_shard_fails_the_operation_with_the_model_and_the_cause(bench: Bench) -> None:
    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request["task"]["arguments"]["shard"] == 1:
            raise WorkerDiedError("was killed by SIGSEGV")
        return nothing(request)

    bench.executor.answer = answer
    error = reason_of(bench, lambda job: job.map("surveying", shards(4)))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "WORKER_DIED")
    for part in ("models/m/versions/1/taps/t", "survey, shard 1", "SIGSEGV", "2 times"):
        assert part in error.message
    assert error.metadata["how"] == "was killed by SIGSEGV"


@pytest.mark.parametrize(
    ("cause", "reason", "part"),
    [("STALLED", "SHARD_STALLED", "7 seconds"), ("OUT_OF_MEMORY", "OUT_OF_MEMORY", "1,000")],
)
def test_what_a_watchdog_left_tells_why_the_worker_ended(bench: Bench, cause: str, reason: str, part: str) -> None:
    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        cause_file(bench.root, "a", request["key"]).write_text(json.dumps({"cause": cause}))
        raise WorkerDiedError("ended with exit code 81")

    bench.executor.answer = answer
    error = reason_of(bench, lambda job: job.map("surveying", shards(1)))
    assert error.reason == reason
    assert part in error.message
    assert list((bench.root / "permits").iterdir()) == []


def test_memory_that_does_not_suffice_is_tried_twice_and_names_the_model(bench: Bench) -> None:
    bench.executor.answer = lambda _request: failing(OrtoscopeError(Code.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY", "x"))
    error = reason_of(bench, lambda job: job.map("surveying", shards(1)))
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
    assert "models/m/versions/1/taps/t" in error.message
    assert len(bench.executor.requests) == 2


def test_a_typed_error_of_a_task_ends_the_job_at_once(bench: Bench) -> None:
    error = OrtoscopeError(Code.FAILED_PRECONDITION, "ACTIVATION_NOT_FINITE", "unit 3", metadata={"unit": "3"})
    bench.executor.answer = lambda _request: failing(error)
    found = reason_of(bench, lambda job: job.map("surveying", shards(50)))
    assert (found.reason, found.metadata) == (error.reason, error.metadata)
    assert len(bench.executor.requests) <= 3


def test_a_lost_executor_costs_nothing_but_time(bench: Bench) -> None:
    losses = iter([CancelledError()] * 5)

    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        for one in losses:
            raise one
        return nothing(request)

    bench.executor.answer = answer
    assert len(bench.run(lambda job: job.map("surveying", shards(2)))) == 2


def test_a_damaged_artifact_is_computed_again_and_nothing_else_is(bench: Bench) -> None:
    store = bench.store.artifacts

    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        task = request["task"]
        if task["name"] == "survey":
            return Outcome({"maps": store.put_bytes(b"%d" % task["arguments"]["shard"])}, {}).to_json()
        for digest in task["inputs"].values():
            try:
                store.load(digest)
            except OrtoscopeError as error:
                return failing(error)
        return nothing(request)

    def drive(job: Job) -> Outcome:
        surveys = job.map("surveying", shards(3))
        if bench.executor.tasks().count("survey") == 3:
            path = store.path(surveys[1].artifacts["maps"])
            path.chmod(0o644)
            path.write_bytes(b"x")
        inputs = {str(number): survey.artifacts["maps"] for number, survey in enumerate(surveys)}
        return job.run("merging", Task("merge", {}, inputs))

    bench.executor.answer = answer
    bench.run(drive)
    assert bench.executor.tasks() == ["survey", "survey", "survey", "merge", "survey", "merge"]


def test_a_disk_that_damages_everything_is_given_up(bench: Bench) -> None:
    lost = OrtoscopeError(Code.DATA_LOSS, "ARTIFACT_DAMAGED", "x", metadata={"artifact": "0" * 64})
    bench.executor.answer = lambda _request: failing(lost)
    assert reason_of(bench, lambda job: job.run("merging", Task("merge"))).reason == "STORE_UNRELIABLE"


def test_cancelling_takes_the_permit_away_and_ends_the_job(bench: Bench) -> None:
    permit = permit_file(bench.root, "a")
    seen: list[bool] = []

    class Slow(ScriptedExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            seen.append(permit.exists())
            return Future()

    bench.executor = Slow(nothing)
    threading.Timer(0.2, bench.cancellation.cancel).start()
    error = reason_of(bench, lambda job: job.map("surveying", shards(5)))
    assert error.code is Code.CANCELLED
    assert seen == [True] * 3  # one more than there are workers
    assert not permit.exists()


def test_a_deadline_is_told_as_such_even_if_a_worker_says_first_that_it_was_stopped(bench: Bench) -> None:
    bench.cancellation = Cancellation(time.monotonic() + 0.05)

    def answer(_request: Mapping[str, Any]) -> Mapping[str, Any]:
        time.sleep(0.1)
        return {**failing(OrtoscopeError(Code.CANCELLED, "CANCELLED", "x")), "worker": "w"}

    bench.executor.answer = answer
    assert reason_of(bench, lambda job: job.map("surveying", shards(1))).code is Code.DEADLINE_EXCEEDED


def test_a_permit_that_someone_took_away_is_put_back_and_costs_nothing_else(bench: Bench) -> None:
    permit = permit_file(bench.root, "a")
    stopped = {**failing(OrtoscopeError(Code.CANCELLED, "CANCELLED", "x")), "worker": "w"}

    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if len(bench.executor.requests) == 2:
            permit.unlink()
        return nothing(request) if permit.exists() else stopped

    bench.executor.answer = answer
    assert len(bench.run(lambda job: job.map("surveying", shards(6)))) == 6


def test_a_deadline_ends_the_job_as_such(bench: Bench) -> None:
    bench.cancellation = Cancellation(time.monotonic() + 0.2)
    bench.executor.submit = lambda *_args, **_kwargs: Future()  # type: ignore[method-assign,assignment]
    assert reason_of(bench, lambda job: job.map("surveying", shards(5))).code is Code.DEADLINE_EXCEEDED


def test_progress_is_told_in_items_with_an_estimate_from_what_was_measured(bench: Bench) -> None:
    seconds = iter([2.0] * 100)
    bench.executor.answer = lambda _request: Outcome({}, {}, next(seconds)).to_json()

    def drive(job: Job) -> None:
        job.plan([Stage("surveying", 40, 1.0), Stage("counting", 40, 0.5)])
        job.map("surveying", shards(2))
        job.map("surveying", shards(4)[2:])
        job.map("counting", [Task("count", {"shard": number}, items=10) for number in range(4)])

    bench.run(drive)
    told = bench.progress
    assert told[0] == ("surveying", 0, 40, None)
    # Ten items take a worker two seconds; thirty are left, and forty at half the cost: ten seconds of work for two.
    assert told[1] == ("surveying", 10, 40, pytest.approx(5.0))
    assert told[-1] == ("counting", 40, 40, pytest.approx(0.0))
    assert [done for stage, done, _, _ in told if stage == "surveying"] == sorted(
        done for stage, done, _, _ in told if stage == "surveying"
    )


def test_stopping_lets_what_runs_end_and_begins_nothing(bench: Bench) -> None:
    futures: list[Future[str]] = []

    class Slow(ScriptedExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            futures.append(Future())
            if len(futures) <= bench.workers:
                futures[-1].set_running_or_notify_cancel()
            return futures[-1]

    bench.executor = Slow(nothing)

    def finish() -> None:
        bench.stopping.set()
        time.sleep(0.2)
        for future in futures[: bench.workers]:
            future.set_result(json.dumps(Outcome({}, {}).to_json()))

    threading.Timer(0.2, finish).start()
    with pytest.raises(Interrupted):
        bench.run(lambda job: job.map("surveying", shards(10)))
    assert [future.cancelled() for future in futures] == [False, False, True]
    bench.stopping.clear()
    bench.executor = ScriptedExecutor(nothing)
    bench.run(lambda job: job.map("surveying", shards(10)))
    assert len(bench.executor.requests) == 8


def test_what_all_work_waits_for_is_told_until_it_goes_on(bench: Bench) -> None:
    futures: list[Future[str]] = []

    class Deserted(ScriptedExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            futures.append(Future())
            futures[-1].set_running_or_notify_cancel()
            return futures[-1]

    def come() -> None:
        bench.obstacle = ""
        time.sleep(0.3)
        futures[0].set_result(json.dumps(Outcome({}, {}).to_json()))

    bench.executor = Deserted(nothing)
    bench.obstacle = "waiting for workers"
    threading.Timer(2.5, come).start()
    bench.run(lambda job: job.run("surveying", shards(1)[0]))
    assert [stage for stage, *_ in bench.progress] == ["surveying", "waiting for workers", "surveying", "surveying"]


@pytest.mark.parametrize(
    ("reason", "code", "what"),
    [
        ("STORE_LOST", Code.DATA_LOSS, "files of the store"),
        ("CANCELLED", Code.CANCELLED, "files of the store"),
        ("UNKNOWN_MODEL", Code.NOT_FOUND, "models"),
        ("UNKNOWN_DATASET", Code.NOT_FOUND, "datasets"),
    ],
)
def test_what_a_worker_does_not_find_though_it_is_there_is_not_shared_with_its_machine(
    bench: Bench, reason: str, code: Code, what: str
) -> None:
    bench.spec = {"model": "m", "version": 1, "dataset": "d"}
    for folder in ("models/m/1", "datasets/d"):
        (bench.root / folder).mkdir(parents=True)
    bench.executor.answer = lambda _: failing(OrtoscopeError(code, reason, "Not there."))
    error = reason_of(bench, lambda job: job.run("reading", Task("scan")))
    assert (error.reason, error.metadata["what"]) == ("FOLDER_NOT_SHARED", what)
    assert "process 1 on a machine" in error.message
    assert str(bench.root) not in error.message


def test_what_is_gone_for_the_server_too_is_said_to_be_gone(bench: Bench) -> None:
    bench.spec = {"model": "m", "version": 1, "dataset": "d"}
    bench.executor.answer = lambda _: failing(OrtoscopeError(Code.NOT_FOUND, "UNKNOWN_MODEL", "Not there."))
    assert reason_of(bench, lambda job: job.run("reading", Task("scan"))).reason == "UNKNOWN_MODEL"
