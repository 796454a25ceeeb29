"""Which requests were answered before, so that a repeated one changes nothing again (AIP-155)."""

from dataclasses import dataclass

from ortoscope_service.errors import invalid
from ortoscope_service.jobs.database import Database


@dataclass(frozen=True)
class Request:
    """A request that changes something."""

    id: str = ""
    """The UUID that the client gave it; empty if it gave none, and then no request is a repetition of it."""

    digest: str = ""
    """Digest of everything else in it, to tell a repetition from another request under the same id."""


class RequestLog:
    """The requests that were answered, and with what.

    Args:
        database: Where they are recorded.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, request: Request) -> str | None:
        """The outcome of an earlier, equal request with the same id; None if there was none.

        Raises:
            OrtoscopeError: INVALID_ARGUMENT, REQUEST_ID_REUSED: the earlier request was a different one.
        """
        if not request.id:
            return None
        with self._database.transaction() as sql:
            row = sql.execute("SELECT digest, outcome FROM requests WHERE id = ?", (request.id,)).fetchone()
        if row is None:
            return None
        if row["digest"] != request.digest:
            raise invalid(
                "REQUEST_ID_REUSED",
                f"request_id {request.id} came before with a different request; send a fresh UUID with each new one.",
                field="request_id",
                request_id=request.id,
            )
        outcome: str = row["outcome"]
        return outcome

    def add(self, request: Request, outcome: str) -> None:
        """Records what a request was answered with; call it in one transaction with doing what it asks."""
        if request.id:
            with self._database.transaction() as sql:
                sql.execute("INSERT INTO requests VALUES (?, ?, ?)", (request.id, request.digest, outcome))

    def forget(self, outcome: str) -> None:
        """Forgets the requests with an outcome that no longer exists."""
        with self._database.transaction() as sql:
            sql.execute("DELETE FROM requests WHERE outcome = ?", (outcome,))
