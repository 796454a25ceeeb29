"""The record of every long-running operation: what was asked, how far it is, how it ended."""

import enum
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ortoscope_service.errors import Code, OrtoscopeError, error_from_json, error_to_json, not_found
from ortoscope_service.jobs.database import Database
from ortoscope_service.jobs.provenance import spec_digest
from ortoscope_service.jobs.requests import Request, RequestLog
from ortoscope_service.runtime.cancellation import Cancellation


class State(enum.Enum):
    """How far an operation is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def done(self) -> bool:
        """Whether it ended, in whatever way."""
        return self not in {State.QUEUED, State.RUNNING}


@dataclass(frozen=True)
class Operation:
    """An operation as it is recorded. Times are seconds since 1970."""

    sequence: int
    """Rises with every operation of the store."""

    id: str
    """Its id."""

    verb: str
    """What it does, for example "dissect"."""

    target: str
    """Resource name of what it works on."""

    dataset: str
    """Resource name of the dataset that it reads; may be empty."""

    state: State
    """How far it is."""

    stage: str
    """What it does at present, in words."""

    done_items: int
    """Items done."""

    total_items: int
    """Items in all; 0 while that is not known."""

    cancel_requested: bool
    """Whether it was asked to cancel."""

    create_time: float
    """When it was accepted."""

    start_time: float | None
    """When work on it began."""

    end_time: float | None
    """When it ended."""

    result: str | None
    """Resource name of its result, if it succeeded."""

    error: OrtoscopeError | None
    """How it failed, if it did."""

    spec: Mapping[str, Any]
    """What it was asked to do, as JSON; see `jobs.kinds`."""

    draft: bytes
    """The serialized message of its result, as far as that was known when it was asked for."""

    estimate: float | None
    """Seconds that it will still take, estimated when its progress was last recorded; None while nothing is known."""

    time_limit: float | None
    """Seconds from its acceptance to its deadline; None without one."""

    job: str
    """Digest of what it was asked to do: operations that were asked for the same have the same."""

    ended_at_uptime: float | None
    """The store's uptime when it ended."""

    @property
    def deadline(self) -> float | None:
        """When it ends with DEADLINE_EXCEEDED unless it is done, in seconds since 1970; None without a limit."""
        return None if self.time_limit is None else self.create_time + self.time_limit


@dataclass(frozen=True)
class NewOperation:
    """What is known of an operation when it is asked for."""

    id: str
    """A fresh id."""

    verb: str
    """What it does."""

    target: str
    """Resource name of what it works on."""

    dataset: str = ""
    """Resource name of the dataset that it reads."""

    request: Request = field(default_factory=Request)
    """The request that asks for it."""

    spec: Mapping[str, Any] = field(default_factory=dict)
    """What to do, as JSON."""

    draft: bytes = b""
    """The serialized message of its result, as far as it is known."""

    time_limit: float | None = None
    """Seconds that it may take from now, waiting included; None: as long as it takes."""


class OperationStore:
    """The operations of a store. Those that an earlier server was running wait for their turn again.

    Args:
        database: Where they are recorded.
        max_pending: Most operations that may wait or run at once.
    """

    def __init__(self, database: Database, max_pending: int = 100) -> None:
        self._database = database
        self._requests = RequestLog(database)
        self._max_pending = max_pending
        self._deadlines: dict[str, float] = {}
        with database.transaction() as sql:
            sql.execute(
                "UPDATE operations SET state = ?, estimate = NULL WHERE state = ?",
                (State.QUEUED.value, State.RUNNING.value),
            )
            for operation in self.pending():
                if operation.cancel_requested:
                    self.fail(operation.id, cancelled())
                elif operation.time_limit is not None:
                    # The clock may have jumped: no jump leaves more time than was asked for.
                    left = operation.create_time + operation.time_limit - time.time()
                    self._deadlines[operation.id] = time.monotonic() + min(operation.time_limit, left)

    def find(self, request: Request) -> Operation | None:
        """The operation that an earlier, equal request with this id was answered with; None if there was none.

        Raises:
            OrtoscopeError: INVALID_ARGUMENT, REQUEST_ID_REUSED: the earlier request was a different one.
        """
        with self._database.transaction():
            operation_id = self._requests.find(request)
            return None if operation_id is None else self.get(operation_id)

    def create(self, new: NewOperation) -> tuple[Operation, bool]:
        """Records a new operation, or finds the one that an equal request with the same id made.

        Returns:
            The operation, and whether it is new.

        Raises:
            OrtoscopeError: RESOURCE_EXHAUSTED, TOO_MANY_OPERATIONS; as `find` raises.
        """
        with self._database.transaction() as sql:
            existing = self.find(new.request)
            if existing is not None:
                return existing, False
            pending = self.count_pending()
            if pending >= self._max_pending:
                raise OrtoscopeError(
                    Code.RESOURCE_EXHAUSTED,
                    "TOO_MANY_OPERATIONS",
                    f"{pending} operations wait or run, as many as the limit max_pending_operations allows; wait for "
                    "one to end, or cancel one.",
                    metadata={"max_pending_operations": str(self._max_pending)},
                )
            sql.execute(
                "INSERT INTO operations (id, verb, target, dataset, state, create_time, spec, job, draft, time_limit) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    new.id,
                    new.verb,
                    new.target,
                    new.dataset,
                    State.QUEUED.value,
                    time.time(),
                    json.dumps(new.spec),
                    spec_digest({"verb": new.verb, **new.spec}),
                    new.draft,
                    new.time_limit,
                ),
            )
            self._requests.add(new.request, new.id)
            if new.time_limit is not None:
                self._deadlines[new.id] = time.monotonic() + new.time_limit
            return self.get(new.id), True

    def get(self, operation_id: str) -> Operation:
        """An operation.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_OPERATION.
        """
        with self._database.transaction() as sql:
            row = sql.execute("SELECT * FROM operations WHERE id = ?", (operation_id,)).fetchone()
        if row is None:
            raise not_found(
                "UNKNOWN_OPERATION",
                f"There is no operations/{operation_id} on this server; it may have been deleted.",
                field="name",
                operation=operation_id,
            )
        return _operation(row)

    def list(self, *, done: bool | None = None, before: int | None = None, count: int) -> Sequence[Operation]:
        """Operations, newest first.

        Args:
            done: Only those that ended (True) or that did not (False); all if None.
            before: Only those with a smaller sequence number; all if None.
            count: Most operations to return; -1 for all.
        """
        states = [state.value for state in State if done is None or state.done == done]
        places = ", ".join("?" * len(states))
        with self._database.transaction() as sql:
            rows = sql.execute(
                f"SELECT * FROM operations WHERE state IN ({places}) AND sequence < ? "  # noqa: S608 - places are "?"
                "ORDER BY sequence DESC LIMIT ?",
                (*states, before if before is not None else 2**62, count),
            ).fetchall()
        return [_operation(row) for row in rows]

    def pending(self) -> Sequence[Operation]:
        """All operations that wait or run, oldest first."""
        return self.list(done=False, count=-1)[::-1]

    def deadline(self, operation_id: str) -> float | None:
        """The moment on `time.monotonic()`'s clock at which an operation must have ended; None without a limit."""
        return self._deadlines.get(operation_id)

    def count_pending(self) -> int:
        """How many operations wait or run."""
        with self._database.transaction() as sql:
            states = (State.QUEUED.value, State.RUNNING.value)
            row = sql.execute("SELECT COUNT(*) FROM operations WHERE state IN (?, ?)", states).fetchone()
        count: int = row[0]
        return count

    def start(self, operation_id: str) -> bool:
        """Records that work begins; False if the operation ended (was cancelled or deleted) before."""
        with self._database.transaction() as sql:
            changed = sql.execute(
                "UPDATE operations SET state = ?, start_time = COALESCE(start_time, ?) WHERE id = ? AND state = ?",
                (State.RUNNING.value, time.time(), operation_id, State.QUEUED.value),
            )
            return changed.rowcount == 1

    def progress(
        self, operation_id: str, stage: str, done_items: int, total_items: int, estimate: float | None = None
    ) -> None:
        """Records how far an operation is, and how many seconds it will still take, if that can be told."""
        with self._database.transaction() as sql:
            sql.execute(
                "UPDATE operations SET stage = ?, done_items = ?, total_items = ?, estimate = ? "
                "WHERE id = ? AND state = ?",
                (stage, done_items, total_items, estimate, operation_id, State.RUNNING.value),
            )

    def succeed(self, operation_id: str, publish: Callable[[], str]) -> None:
        """Ends an operation with a result, in one transaction with recording it.

        Args:
            operation_id: The operation.
            publish: Records the result and returns its resource name.
        """
        with self._database.transaction():
            self._end(operation_id, State.SUCCEEDED, result=publish())

    def publish(self, record: Callable[[], str]) -> None:
        """Records a result of an operation that goes on, in one transaction with storing its blobs."""
        with self._database.transaction():
            record()

    def fail(self, operation_id: str, error: OrtoscopeError) -> None:
        """Ends an operation with an error; one of code CANCELLED ends it as cancelled."""
        state = State.CANCELLED if error.code is Code.CANCELLED else State.FAILED
        self._end(operation_id, state, error=json.dumps(error_to_json(error)))

    def end_waiting(self, operation_id: str, error: OrtoscopeError) -> None:
        """Ends an operation with an error if it still waits."""
        with self._database.transaction() as sql:
            row = sql.execute("SELECT state FROM operations WHERE id = ?", (operation_id,)).fetchone()
            if row is not None and row["state"] == State.QUEUED.value:
                self.fail(operation_id, error)

    def request_cancel(self, operation_id: str) -> Operation:
        """Records the wish to cancel; an operation that still waits ends at once. One that ended stays as it is.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_OPERATION.
        """
        with self._database.transaction() as sql:
            operation = self.get(operation_id)
            if not operation.state.done:
                sql.execute("UPDATE operations SET cancel_requested = 1 WHERE id = ?", (operation_id,))
            if operation.state is State.QUEUED:
                self.fail(operation_id, cancelled())
            return self.get(operation_id)

    def delete(self, operation_id: str) -> None:
        """Deletes the record of an operation that ended; its result stays.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_OPERATION; FAILED_PRECONDITION, OPERATION_RUNNING.
        """
        with self._database.transaction() as sql:
            if not self.get(operation_id).state.done:
                raise OrtoscopeError(
                    Code.FAILED_PRECONDITION,
                    "OPERATION_RUNNING",
                    f"operations/{operation_id} has not ended; cancel it first, or wait.",
                    field="name",
                    metadata={"operation": operation_id},
                )
            sql.execute("DELETE FROM operations WHERE id = ?", (operation_id,))
            self._requests.forget(operation_id)

    def expire(self, retention_seconds: float) -> Sequence[str]:
        """Deletes the records of operations that ended more than so many seconds of uptime ago; returns their ids.

        Age is counted in seconds that servers had the store open, so that a clock that jumps makes nothing old.
        """
        with self._database.transaction() as sql:
            rows = sql.execute(
                "SELECT id FROM operations WHERE ended_at_uptime < (SELECT seconds FROM uptime) - ?",
                (retention_seconds,),
            ).fetchall()
            expired = [str(row["id"]) for row in rows]
            for operation_id in expired:
                self.delete(operation_id)
        return expired

    def add_uptime(self, seconds: float) -> None:
        """Counts seconds that the store was open."""
        with self._database.transaction() as sql:
            sql.execute("UPDATE uptime SET seconds = seconds + ?", (seconds,))

    def wait(self, operation_id: str, timeout: float, cancellation: Cancellation | None = None) -> Operation:
        """Waits until an operation ended, `timeout` seconds passed, or the wait was cancelled; returns its state then.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_OPERATION; also if it is deleted meanwhile.
        """
        condition = self._database.condition
        deadline = time.monotonic() + timeout

        def wake() -> None:
            with condition:
                condition.notify_all()

        if cancellation is None:
            return self._wait_until(operation_id, deadline, lambda: False)
        with cancellation.on_cancel(wake):
            return self._wait_until(operation_id, deadline, lambda: cancellation.cancelled)

    def _wait_until(self, operation_id: str, deadline: float, given_up: Callable[[], bool]) -> Operation:
        condition = self._database.condition
        with condition:
            while True:
                operation = self.get(operation_id)
                remaining = deadline - time.monotonic()
                if operation.state.done or remaining <= 0 or given_up():
                    return operation
                condition.wait(remaining)

    def _end(self, operation_id: str, state: State, *, result: str | None = None, error: str | None = None) -> None:
        with self._database.transaction() as sql:
            sql.execute(
                "UPDATE operations SET state = ?, result = ?, error = ?, end_time = ?, estimate = NULL, "
                "ended_at_uptime = (SELECT seconds FROM uptime) WHERE id = ?",
                (state.value, result, error, time.time(), operation_id),
            )
        self._deadlines.pop(operation_id, None)
        with self._database.condition:
            self._database.condition.notify_all()


def cancelled() -> OrtoscopeError:
    """The error of an operation that was cancelled."""
    return OrtoscopeError(Code.CANCELLED, "CANCELLED", "The operation was cancelled.")


def deadline_exceeded() -> OrtoscopeError:
    """The error of an operation whose time limit passed."""
    return OrtoscopeError(
        Code.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        "The operation's time limit passed before it was done. Ask again with more time: what was done is kept for a "
        "while, and is not done again.",
    )


def _operation(row: Any) -> Operation:
    values = dict(row)
    values["state"] = State(values["state"])
    values["cancel_requested"] = bool(values["cancel_requested"])
    values["spec"] = json.loads(values["spec"])
    values["error"] = error_from_json(json.loads(values["error"])) if values["error"] else None
    return Operation(**values)
