"""Runs a job: its tasks on an executor, each done once, whatever dies in between."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ortoscope_service.errors import Code, OrtoscopeError, error_from_json
from ortoscope_service.jobs.artifacts import ArtifactStore
from ortoscope_service.jobs.operations import Operation
from ortoscope_service.jobs.pool import WorkerDiedError
from ortoscope_service.jobs.provenance import spec_digest
from ortoscope_service.jobs.shards import ShardLog
from ortoscope_service.jobs.tasks import Environment, Outcome, Task, cause_file, permit_file, request_of, run_task
from ortoscope_service.jobs.watchdog import OUT_OF_MEMORY, STALLED
from ortoscope_service.runtime.cancellation import Cancellation

ATTEMPTS = 2
"""How often a task is tried that ends its worker. What ends two is the task's own fault, or its model's."""

_POLL_SECONDS = 0.1
_OBSTACLE_SECONDS = 2.0
"""An obstacle is spoken of when nothing was done for so long: most are over sooner."""

_REPAIRS = 20
"""How often a job begins again because artifacts of its own were damaged. Each time, all that is whole is kept."""

_REPAIRABLE = frozenset({"ARTIFACT_MISSING", "ARTIFACT_DAMAGED"})
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818 - it is no error: the server stops, the operation goes on another time
    """The server stops before the job is done."""


@dataclass(frozen=True)
class Crew:
    """Who does the work."""

    executor: Executor
    """Takes tasks."""

    workers: Callable[[], int]
    """Tells how many tasks are worked on at once, at least 1."""

    obstacle: Callable[[], str] = str
    """Tells what all work waits for at present, in words; empty if it goes on."""


Report = Callable[[str, int, int, float | None], None]
"""Called with the stage in words, the items done, the items in all, and the seconds that the job will still take."""


@dataclass(frozen=True)
class Stage:
    """A part of a job that takes time."""

    name: str
    """What is done, in words."""

    items: int
    """Items that it goes through."""

    cost: float
    """Time per item beside that of other stages, for the estimate as long as nothing was measured."""


@dataclass(frozen=True)
class Together:
    """How a worker does several tasks at once, where that is faster. Each is recorded, and found again, for itself."""

    most: int
    """Most tasks at once. Fewer are taken if there are not enough for all workers: the number must decide nothing."""

    pack: Callable[[Sequence[Task]], Task]
    """The task that does all of some tasks; of a single one, that one."""

    split: Callable[[Outcome, Sequence[Task]], Sequence[Outcome]]
    """The outcome of each of them."""


_SINGLY = Together(1, lambda tasks: tasks[0], lambda outcome, _: [outcome])


class Job:
    """A job under way; what its driver, a function of `jobs.kinds`, works with.

    Args:
        operation: The operation that it is.
        crew: Does the tasks.
        shards: Outcomes of tasks that were done before.
        artifacts: What they wrote.
        environment: Where workers find everything.
        report: Told of progress.
        cancellation: Raised when the operation is cancelled or its deadline passes.
        stopping: Whether the server stops.
        publish: Records a result before the job is done; the one at the end replaces it.

    Attributes:
        verb: What it does.
        spec: What to do.
        software: Versions that decide the bits of a result, by name.
        processors: Kinds of processors that did any of it.
    """

    def __init__(
        self,
        operation: Operation,
        crew: Crew,
        shards: ShardLog,
        artifacts: ArtifactStore,
        environment: Environment,
        report: Report,
        cancellation: Cancellation,
        stopping: Callable[[], bool],
        publish: Callable[["Job", Outcome], None] = lambda _job, _outcome: None,
    ) -> None:
        self.verb = operation.verb
        self.spec: Mapping[str, Any] = operation.spec
        self.software = environment.software
        self.processors: set[str] = set()
        self._operation = operation
        self._crew = crew
        self._shards = shards
        self._artifacts = artifacts
        self._environment = environment
        self._store = Path(environment.store)
        self._report = report
        self._cancellation = cancellation
        self._stopping = stopping
        self._publish = publish
        self._course = _Course()

    def publish(self, outcome: Outcome) -> None:
        """Records a result that is worth having though there is more to come: it stays if the job ends before that.

        Raises:
            OrtoscopeError: As `ArtifactStore.open` raises.
            OSError: The disk is full.
        """
        self._publish(self, outcome)

    def plan(self, stages: Sequence[Stage]) -> None:
        """Says what is to come, for progress and the estimate of the time left."""
        self._course = _Course(stages)

    def load(self, digest: str) -> bytes:
        """The contents of an artifact, to be published.

        Raises:
            OrtoscopeError: As `ArtifactStore.open` raises.
        """
        return self._artifacts.load(digest)

    def run(self, stage: str, task: Task, *, remember: bool = True, beyond_job: bool = False) -> Outcome:
        """Does one task.

        Args:
            stage: What is done, in words.
            task: The task.
            remember: Whether it may be answered from what was done before. No: it looks at what may have changed.
            beyond_job: Whether its outcome is worth keeping when the job has ended, because it depends on nothing but
                the arguments and inputs of the task.

        Raises:
            OrtoscopeError: As `map` raises.
        """
        (outcome,) = self.map(stage, [task], remember=remember, beyond_job=beyond_job)
        return outcome

    def map(
        self,
        stage: str,
        tasks: Sequence[Task],
        *,
        remember: bool = True,
        beyond_job: bool = False,
        together: Together = _SINGLY,
    ) -> list[Outcome]:
        """Does tasks, several at once; those that were done before are not done again.

        Args:
            stage: What is done, in words.
            tasks: The tasks.
            remember: As for `run`.
            beyond_job: As for `run`.
            together: How a worker does several of them at once; by default it does one.

        Returns:
            Their outcomes, in the order of the tasks.

        Raises:
            OrtoscopeError: What a task raised; SHARD_STALLED, WORKER_DIED or OUT_OF_MEMORY of one that ended its
                worker twice; CANCELLED, DEADLINE_EXCEEDED.
            Interrupted: The server stops.
        """
        if not tasks:
            return []
        keys = [self._key(task, beyond_job=beyond_job) for task in tasks]
        outcomes: list[Outcome | None] = [self._shards.find(key) if remember else None for key in keys]
        missing = [index for index, outcome in enumerate(outcomes) if outcome is None]
        self._course.skip(stage, sum(task.items for task in tasks) - sum(tasks[index].items for index in missing))
        self._tell(stage)
        most = max(1, min(together.most, -(-len(missing) // self._crew.workers())))
        groups = [missing[start : start + most] for start in range(0, len(missing), most)]
        packed = [together.pack([tasks[index] for index in group]) for group in groups]
        packed_keys = [
            keys[group[0]] if len(group) == 1 else self._key(task, beyond_job=beyond_job)
            for group, task in zip(groups, packed, strict=True)
        ]
        with contextlib.closing(_Batch(self, stage, packed, packed_keys)) as batch:
            for number, whole in batch.outcomes(range(len(groups))):
                parts = together.split(whole, [tasks[index] for index in groups[number]])
                done = dict(zip(groups[number], parts, strict=True))
                recorded = {keys[index]: outcome for index, outcome in done.items()}
                self._shards.add_all(recorded, "" if beyond_job else self._operation.job)
                for index, outcome in done.items():
                    outcomes[index] = outcome
                    self._course.add(stage, tasks[index].items, outcome.seconds)
                self._tell(stage)
        finished = [outcome for outcome in outcomes if outcome is not None]
        self.processors.update(outcome.processor for outcome in finished)
        return finished

    def _tell(self, stage: str, obstacle: str = "") -> None:
        done, total = self._course.of(stage)
        left = None if obstacle else self._course.seconds_left(self._crew.workers())
        self._report(obstacle or stage, done, total, left)

    def _key(self, task: Task, *, beyond_job: bool) -> str:
        decisive: dict[str, object] = {"task": task.name, "arguments": task.arguments, "inputs": task.inputs}
        if not beyond_job:
            decisive |= {"verb": self._operation.verb, "spec": self.spec, "software": self._environment.software}
        return spec_digest(decisive)

    def _submit(self, task: Task, key: str) -> "Future[str]":
        request = request_of(self._environment, self._operation.id, self._operation.verb, self.spec, task, key)
        return self._crew.executor.submit(run_task, request)

    def _renew_permit(self) -> None:
        """Puts the permit back, should someone else have taken it away."""
        permit = permit_file(self._store, self._operation.id)
        if not permit.exists():
            _log.warning("the permit of operation %s was taken away, and is put back", self._operation.id)
            permit.touch()

    def _take_cause(self, key: str) -> str:
        """Why a worker ended itself, if it did; empty if something else ended it."""
        file = cause_file(self._store, self._operation.id, key)
        try:
            cause = str(json.loads(file.read_text(encoding="utf-8"))["cause"])
        except (OSError, ValueError, KeyError):
            return ""
        file.unlink(missing_ok=True)
        return cause


class _Batch:
    """Tasks of one job that are being done."""

    def __init__(self, job: Job, stage: str, tasks: Sequence[Task], keys: Sequence[str]) -> None:
        self._job = job
        self._stage = stage
        self._tasks = tasks
        self._keys = keys
        self._attempts: dict[int, int] = {}
        self._running: dict[Future[str], int] = {}
        self._advanced_at = time.monotonic()
        self._obstacle = ""

    def outcomes(self, wanted: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
        """Yields the outcomes of tasks as they come, each with its index."""
        waiting = list(reversed(wanted))
        while waiting or self._running:
            self._job._cancellation.raise_if_cancelled()
            stopping = self._job._stopping()
            if stopping:
                self._take_back()
                if not self._running:
                    raise Interrupted
            # One more than there are workers, so that none waits; no more, so that jobs take turns.
            while waiting and not stopping and len(self._running) <= self._job._crew.workers():
                index = waiting.pop()
                self._running[self._job._submit(self._tasks[index], self._keys[index])] = index
            ended, _ = wait(self._running, _POLL_SECONDS, FIRST_COMPLETED)
            self._look_for_obstacle(advanced=bool(ended))
            for future in ended:
                index = self._running.pop(future)
                outcome = self._outcome(future, index)
                if outcome is None:
                    waiting.append(index)
                else:
                    yield index, outcome

    def close(self) -> None:
        """Takes back what is not being done yet. What is goes on; its outcome is lost, or found by the next attempt."""
        self._take_back()

    def _take_back(self) -> None:
        self._running = {future: index for future, index in self._running.items() if not future.cancel()}

    def _look_for_obstacle(self, *, advanced: bool) -> None:
        """Tells what the work waits for if nothing is done for a while, and when it goes on."""
        now = time.monotonic()
        if advanced:
            self._advanced_at = now
        obstacle = self._job._crew.obstacle() if now - self._advanced_at >= _OBSTACLE_SECONDS else ""
        if obstacle != self._obstacle:
            self._obstacle = obstacle
            self._job._tell(self._stage, obstacle)

    def _outcome(self, future: "Future[str]", index: int) -> Outcome | None:
        """What came of a task; None if it must be submitted again.

        Raises:
            OrtoscopeError: What the task raised, or how it ended its worker for the last time.
        """
        try:
            answer = json.loads(future.result())
        except CancelledError:
            # Not ours: we take no future back that we wait for. The executor was shut down, or lost its scheduler.
            time.sleep(_POLL_SECONDS)
            return None
        except WorkerDiedError as death:
            if self._job._stopping():
                return None
            failure = self._died(index, death)
        else:
            if "error" not in answer:
                return Outcome.from_json(answer)
            failure = self._failed(index, error_from_json(answer["error"]), answer["worker"])
        self._attempts[index] = self._attempts.get(index, 0) + 1
        if self._attempts[index] >= ATTEMPTS:
            raise failure
        _log.warning("trying %s again: %s", self._tasks[index].label, failure.message)
        return None

    def _failed(self, index: int, error: OrtoscopeError, worker: str) -> OrtoscopeError:
        """What an error means that a task may be tried again after.

        Raises:
            OrtoscopeError: There is no use in that.
        """
        if error.reason == "OUT_OF_MEMORY":
            return self._out_of_memory(index)
        # A task that was told to stop says that it was cancelled; why is known here alone.
        self._job._cancellation.raise_if_cancelled()
        failure = self._unseen(error, worker) or error
        if error.code is not Code.CANCELLED:
            raise failure
        self._job._renew_permit()
        return failure

    def _unseen(self, failure: OrtoscopeError, worker: str) -> OrtoscopeError | None:
        """What it means that a worker does not find what is there: its machine does not see it. None if it is gone."""
        environment, spec = self._job._environment, self._job.spec
        permit = permit_file(self._job._store, self._job._operation.id)
        match failure.reason:
            case "STORE_LOST" | "CANCELLED":
                what, there = "files of the store", permit
            case "UNKNOWN_MODEL" | "UNKNOWN_VERSION":
                what, there = "models", Path(environment.models, spec["model"], str(spec["version"]))
            case "UNKNOWN_DATASET":
                what, there = "datasets", Path(environment.datasets or "", spec["dataset"])
            case _:
                return None
        if not there.exists():
            return None
        return OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "FOLDER_NOT_SHARED",
            f"The {what} that a worker ({worker}) sees are not the server's. Let every machine of the cluster see the "
            "store, the models and the datasets of the server at the same paths, and ask again.",
            metadata={"what": what, "worker": worker},
        )

    def _died(self, index: int, death: WorkerDiedError) -> OrtoscopeError:
        cause = self._job._take_cause(self._keys[index])
        if cause == OUT_OF_MEMORY or death.out_of_memory:
            return self._out_of_memory(index)
        if cause == STALLED:
            seconds = f"{self._job._environment.stall_seconds:g}"
            return self._failure(
                Code.FAILED_PRECONDITION,
                "SHARD_STALLED",
                index,
                f"gave no sign of life for {seconds} seconds",
                "The model may run for ever, or be too slow for the limit --stall-seconds",
                stall_seconds=seconds,
            )
        return self._failure(
            Code.FAILED_PRECONDITION,
            "WORKER_DIED",
            index,
            f"ended its worker, which {death.how}",
            "ONNX Runtime may have failed on the model, or someone killed its process",
            how=death.how,
        )

    def _out_of_memory(self, index: int) -> OrtoscopeError:
        limit = self._job._environment.memory_bytes
        allowed = f"the {limit:,} bytes that a worker may have" if limit else "the memory that there is"
        return self._failure(
            Code.RESOURCE_EXHAUSTED,
            "OUT_OF_MEMORY",
            index,
            f"needed more than {allowed}",
            "Give the server more memory (--worker-memory), a smaller --batch-size, or take another tap",
            memory_bytes=str(limit),
        )

    def _failure(self, code: Code, reason: str, index: int, what: str, remedy: str, **metadata: str) -> OrtoscopeError:
        operation, task = self._job._operation, self._tasks[index]
        return OrtoscopeError(
            code,
            reason,
            f"{operation.target}: the task '{task.label}' {what}, {ATTEMPTS} times. {remedy}.",
            metadata={"target": operation.target, "task": task.label, **metadata},
        )


def run_job(job: Job, drive: Callable[[Job], Result]) -> Result:
    """Runs a job from beginning to end.

    Args:
        job: The job.
        drive: Orders its tasks and makes something of their outcomes.

    Returns:
        What `drive` returns.

    Raises:
        OrtoscopeError: As `Job.map` raises.
        Interrupted: The server stops.
    """
    permit = permit_file(job._store, job._operation.id)
    permit.touch()
    try:
        with job._cancellation.on_cancel(lambda: permit.unlink(missing_ok=True)):
            return _repaired(job, drive)
    finally:
        permit.unlink(missing_ok=True)


def _repaired(job: Job, drive: Callable[[Job], Result]) -> Result:
    """Drives a job; if an artifact of its own is damaged, forgets that and begins again with what is whole."""
    for _ in range(_REPAIRS):
        try:
            return drive(job)
        except OrtoscopeError as error:
            if error.reason not in _REPAIRABLE:
                raise
            _log.warning("computing again what artifact %s held", error.metadata["artifact"])
            job._shards.forget_artifact(error.metadata["artifact"])
    raise OrtoscopeError(
        Code.DATA_LOSS,
        "STORE_UNRELIABLE",
        f"Artifacts of the operation were damaged {_REPAIRS} times while it ran. Check the disk of the server's store.",
    )


class _Course:
    """How far a job is, and how long it will still take: from its stages, and what was measured of them."""

    def __init__(self, stages: Sequence[Stage] = ()) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._done = dict.fromkeys(self._stages, 0)
        self._shown = (0, 0)
        self._measured_items = dict.fromkeys(self._stages, 0)
        self._measured_seconds = dict.fromkeys(self._stages, 0.0)

    def skip(self, stage: str, items: int) -> None:
        """Takes note of items that were done before."""
        if stage in self._stages:
            self._done[stage] += items

    def add(self, stage: str, items: int, seconds: float) -> None:
        """Takes note of items that were done just now, and how long that took one worker."""
        if stage in self._stages:
            self._done[stage] += items
            self._measured_items[stage] += items
            self._measured_seconds[stage] += seconds

    def of(self, stage: str) -> tuple[int, int]:
        """Items done, and items in all, of a stage; of the one before for work that was not planned as a stage."""
        if stage in self._stages:
            self._shown = self._done[stage], self._stages[stage].items
        return self._shown

    def seconds_left(self, workers: int) -> float | None:
        """Seconds until the job is done by so many workers; None while nothing was measured."""
        cost = sum(stage.cost * self._measured_items[name] for name, stage in self._stages.items())
        if not cost:
            return None
        per_cost = sum(self._measured_seconds.values()) / cost
        left = 0.0
        for name, stage in self._stages.items():
            items = self._measured_items[name]
            per_item = self._measured_seconds[name] / items if items else per_cost * stage.cost
            left += max(0, stage.items - self._done[name]) * per_item
        return left / workers
