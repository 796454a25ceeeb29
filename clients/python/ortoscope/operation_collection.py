"""The operations of a server, as `scope.operations`."""

import re
from collections.abc import Collection
from typing import Any

from google.longrunning import operations_pb2

from ortoscope import cleaning, resource_names
from ortoscope.cleaning import END_STATES, Cleaned, EndState
from ortoscope.durations import Duration
from ortoscope.errors import InvalidArgument, NotFound
from ortoscope.operation_table import list_request, operation_table
from ortoscope.operations import Operation
from ortoscope.patience import GIVE_UP_AFTER, Patience
from ortoscope.progress import Progress, shown
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Table

_BEGINNING = re.compile(r"[0-9a-f]{4,31}")
"""The beginning of an operation's id: four digits are enough to tell a few hundred apart, and to be no accident."""


class Operations:
    """The operations of a server. Calling it lists them, as `list` does.

    Wherever an operation is named, the beginning of its id will do, from four characters on, if only one begins so.
    """

    def __init__(self, rpcs: Rpcs) -> None:
        self._rpcs = rpcs

    def __call__(self, *, done: bool | None = None) -> Table[Operation[Any]]:
        """Lists the operations; see `list`."""
        return self.list(done=done)

    def list(self, *, done: bool | None = None) -> Table[Operation[Any]]:
        """Lists the operations, newest first.

        Args:
            done: Only those that have ended, or only those that have not; None: all.
        """
        return operation_table(self._rpcs, all_pages(self._rpcs.list_operations, list_request(done=done)))

    def get(self, name: str) -> Operation[Any]:
        """Gets an operation by its name; also one that another client started.

        Raises:
            NotFound: UNKNOWN_OPERATION.
            InvalidArgument: OPERATION_AMBIGUOUS: several begin so.
        """
        full = resource_names.operation(name)
        if _BEGINNING.fullmatch(full.removeprefix("operations/")):
            return self._beginning_with(full)
        return Operation(self._rpcs, self._rpcs.get_operation(operations_pb2.GetOperationRequest(name=full)))

    def wait(
        self,
        name: str,
        timeout: float | None = None,
        *,
        progress: bool | Progress = False,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> Operation[Any]:
        """Waits until an operation has ended, in whatever way; its `result()` is then there at once.

        Args:
            name: The operation.
            timeout: As for `Operation.wait`.
            progress: As for `Operation.wait`.
            give_up_after: As for `Operation.wait`.

        Raises:
            OrtoscopeError: As `get` and `Operation.wait`.
        """
        with shown(progress, name) as show:
            patience = Patience(self._rpcs.target, give_up_after)
            operation = patience.ask(lambda: self.get(name), lambda words: show(words, 0, 0))
        return operation.wait(timeout, progress=progress, give_up_after=give_up_after)

    def cancel(self, name: str) -> None:
        """Asks the server to stop an operation; one that has ended stays as it is.

        Raises:
            OrtoscopeError: As `get` and Operations.CancelOperation.
        """
        self.get(name).cancel()

    def delete(self, name: str) -> None:
        """Removes the record of an operation that has ended; its result, if it has one, is kept.

        Raises:
            OrtoscopeError: As `get` and Operations.DeleteOperation.
        """
        self.get(name).delete()

    def clean(
        self,
        older_than: Duration,
        states: Collection[EndState] = END_STATES,
        *,
        results: bool = False,
        dry_run: bool = False,
    ) -> Table[Cleaned]:
        """Removes the records of operations that ended long ago.

        Args:
            older_than: How long ago, by the server's end time and this machine's clock: a timedelta, seconds, or text
                such as "7d" or "12h".
            states: Only operations that ended so: "succeeded", "failed", "cancelled".
            results: Whether what they made is deleted, too, unless a younger operation made it as well.
            dry_run: Only tells what would be deleted.

        Returns:
            What was deleted.

        Raises:
            InvalidArgument: DURATION_INVALID, STATE_UNKNOWN.
            OrtoscopeError: As Operations.ListOperations, Operations.DeleteOperation, Dissections.DeleteDissection and
                Activations.DeleteExampleSet.
        """
        found = cleaning.ended_before(self._rpcs, older_than, states=states, results=results)
        if not dry_run:
            cleaning.delete(self._rpcs, found)
        return found

    def _beginning_with(self, beginning: str) -> Operation[Any]:
        found = [operation for operation in self.list() if operation.name.startswith(beginning)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound(
                f"There is no operation whose name begins with {beginning!r}.",
                reason="UNKNOWN_OPERATION",
                field="name",
                metadata={"name": beginning},
            )
        names = ", ".join(operation.name for operation in found[:3]) + (", …" if len(found) > 3 else "")
        raise InvalidArgument(
            f"{len(found)} operations begin with {beginning!r}: {names}. Write more of it.",
            reason="OPERATION_AMBIGUOUS",
            field="name",
            metadata={"name": beginning},
        )

    def __repr__(self) -> str:
        return f"<Operations at {self._rpcs.target}: call it to list them>"
