"""What the tasks of jobs came to: kept until their jobs have ended, so that nothing is done twice."""

import json
import sqlite3
from collections.abc import Iterable, Mapping

from ortoscope_service.jobs.artifacts import ArtifactStore
from ortoscope_service.jobs.database import Database
from ortoscope_service.jobs.operations import State
from ortoscope_service.jobs.tasks import Outcome

_NEEDED = f"""
SELECT job FROM operations AS operation WHERE state IN ('{State.QUEUED.value}', '{State.RUNNING.value}')
OR (state = '{State.FAILED.value}' AND NOT EXISTS (
    SELECT 1 FROM operations AS later
    WHERE later.job = operation.job AND later.sequence > operation.sequence AND later.state = '{State.SUCCEEDED.value}'
))
"""  # noqa: S608 - nothing in it comes from outside
"""Jobs for whose sake outcomes are kept. One that failed may be asked for again: when there is room on the disk, or
more time."""


KEPT_BYTES = 2 * 1024**3
"""Most bytes of artifacts that are kept beyond the jobs that made them; the oldest go first."""

_SURPLUS = """
SELECT key FROM (
    SELECT key, bytes, SUM(bytes) OVER (ORDER BY number DESC) AS kept FROM (
        SELECT key, rowid AS number, json_extract(outcome, '$.values.bytes') AS bytes FROM shards WHERE job = ''
    ) WHERE bytes IS NOT NULL
) WHERE kept > ?
"""
"""Of the outcomes beyond any job that say how many bytes their artifacts have, those that are too much."""


class ShardLog:
    """Outcomes of tasks by their keys. A key is a digest of everything that decides the outcome.

    Args:
        database: Where outcomes are recorded.
        artifacts: Where the artifacts are that they name. Those that no outcome names are deleted at once.
        kept_bytes: Most bytes of artifacts that are kept beyond the jobs that made them.
    """

    def __init__(self, database: Database, artifacts: ArtifactStore, kept_bytes: int = KEPT_BYTES) -> None:
        self._database = database
        self._artifacts = artifacts
        self._kept_bytes = kept_bytes
        self.sweep()

    def find(self, key: str) -> Outcome | None:
        """The outcome of a task; None if it was not done yet."""
        with self._database.transaction() as sql:
            row = sql.execute("SELECT outcome FROM shards WHERE key = ?", (key,)).fetchone()
        return None if row is None else Outcome.from_json(json.loads(row["outcome"]))

    def add(self, key: str, job: str, outcome: Outcome) -> None:
        """Records the outcome of a task.

        Args:
            key: The task's key.
            job: Digest of the job that it belongs to; empty for what is worth keeping beyond any job. If that has
                artifacts, its value `bytes` says how large they are.
            outcome: What came of it.
        """
        self.add_all({key: outcome}, job)

    def add_all(self, outcomes: Mapping[str, Outcome], job: str) -> None:
        """Records the outcomes of tasks, by their keys, all or none of them; `job` as for `add`."""
        with self._database.transaction() as sql:
            for key, outcome in outcomes.items():
                sql.execute("INSERT OR REPLACE INTO shards VALUES (?, ?, ?)", (key, job, json.dumps(outcome.to_json())))
                sql.executemany(
                    "INSERT OR IGNORE INTO shard_artifacts VALUES (?, ?)",
                    [(key, digest) for digest in outcome.artifacts.values()],
                )

    def forget_artifact(self, digest: str) -> None:
        """Forgets the outcomes that name an artifact, which is damaged, and deletes it: they will be computed again."""
        with self._database.transaction() as sql:
            sql.execute(
                "DELETE FROM shards WHERE key IN (SELECT shard FROM shard_artifacts WHERE digest = ?)", (digest,)
            )
        self._artifacts.delete(digest)

    def sweep(self) -> None:
        """Deletes what no outcome names: what a worker that died left half written, and what nobody waited for.

        To be called while no task is being done.
        """
        with self._database.transaction() as sql:
            known = _digests(sql.execute("SELECT DISTINCT digest FROM shard_artifacts"))
        self._artifacts.sweep(known)

    def collect(self) -> None:
        """Forgets the outcomes, and deletes the artifacts, of jobs that need them no more.

        Those are needed for which an operation waits or runs, or has failed and was not repeated with success since.
        Of what is kept beyond any job, the oldest goes once it is too much.
        """
        # Between the end of the transaction and the last artifact no outcome that names one of them is recorded.
        # Deleting the files may take minutes, for which nobody shall wait.
        with self._database.condition:
            with self._database.transaction() as sql:
                before = _digests(sql.execute("SELECT DISTINCT digest FROM shard_artifacts"))
                sql.execute(f"DELETE FROM shards WHERE job != '' AND job NOT IN ({_NEEDED})")  # noqa: S608 - as above
                sql.execute(f"DELETE FROM shards WHERE key IN ({_SURPLUS})", (self._kept_bytes,))  # noqa: S608
                after = _digests(sql.execute("SELECT DISTINCT digest FROM shard_artifacts"))
            withdrawn = [self._artifacts.withdraw(digest) for digest in before - after]
        for file in withdrawn:
            if file is not None:
                file.unlink(missing_ok=True)


def _digests(rows: Iterable[sqlite3.Row]) -> set[str]:
    return {str(row["digest"]) for row in rows}
