"""A scripted server that holds operations as a test wants them: in any state, of any age, away for a while."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2
from google.protobuf.message import Message
from ortoscope.v1 import activations_pb2, dissections_pb2, visualization_pb2
from ortoscope.v1.operations_pb2 import OperationMetadata
from scripted_server import fail, scripted, status

TAP = "models/m/versions/1/taps/%2Ffeatures%2F0"


def identifier(number: int) -> str:
    """32 hexadecimal digits that begin with those of the number."""
    return f"{number:08x}" + "0" * 24


def packed(message: Message) -> any_pb2.Any:
    """The message as an Any."""
    result = any_pb2.Any()
    result.Pack(message)
    return result


class OperationsServer:
    """Operations and their results, and the answers of a server that holds them: methods with the names of rpcs.

    Attributes:
        operations: The operations by name, oldest first.
        results: Names of the results that there are.
        cancelled: Names of the operations that were asked to cancel.
        requests: The requests that started operations.
    """

    def __init__(self) -> None:
        self.operations: dict[str, Any] = {}
        self.results: set[str] = set()
        self.cancelled: list[str] = []
        self.requests: list[Any] = []

    def add(
        self,
        number: int,
        state: str,
        *,
        done_items: int = 0,
        total_items: int = 0,
        seconds_left: float | None = None,
        ended_ago: float | None = None,
        result: Message | None = None,
        verb: str = "dissect",
    ) -> str:
        """Adds an operation, or replaces it, and gives its name.

        Args:
            number: Decides its name.
            state: One of "queued", "running", "succeeded", "failed" and "cancelled".
            done_items: Items done.
            total_items: Items in all.
            seconds_left: The estimate.
            ended_ago: Seconds since it ended; it was created an hour before that.
            result: What it made.
            verb: What it does.
        """
        name = f"operations/{identifier(number)}"
        state_number: Any = OperationMetadata.State.Value(f"STATE_{state.upper()}")
        metadata = OperationMetadata(
            verb=verb, target=TAP, dataset="datasets/d", state=state_number,
            stage="counting" if state == "running" else "", done_items=done_items, total_items=total_items,
        )  # fmt: skip
        metadata.create_time.FromSeconds(int(time.time() - (ended_ago or 0) - 3600))
        if ended_ago is not None:
            metadata.end_time.FromSeconds(int(time.time() - ended_ago))
        if seconds_left is not None:
            metadata.estimated_time_left.FromMilliseconds(round(seconds_left * 1000))
        operation = operations_pb2.Operation(
            name=name, metadata=packed(metadata), done=state not in {"queued", "running"}
        )
        if state == "failed":
            operation.error.CopyFrom(status(9, "The label plane is damaged.", reason="LABEL_PLANE"))
        if result is not None:
            operation.response.CopyFrom(packed(result))
            self.results.add(result.name)
        self.operations[name] = operation
        return name

    @contextmanager
    def serving(self, port: int = 0) -> Iterator[str]:
        """Serves them; yields the target."""
        answers = {name: getattr(self, name) for name in vars(OperationsServer) if name[0].isupper()}
        with scripted(answers, port) as target:
            yield target

    def ListOperations(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        wanted = {"": None, "done=true": True, "done=false": False}[request.filter]
        found = [one for one in reversed(self.operations.values()) if wanted is None or one.done == wanted]
        return operations_pb2.ListOperationsResponse(operations=found)

    def GetOperation(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if request.name not in self.operations:
            fail(context, "NOT_FOUND", "There is no such operation.", reason="UNKNOWN_OPERATION")
        return self.operations[request.name]

    def WaitOperation(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        end = time.monotonic() + request.timeout.ToTimedelta().total_seconds()
        while not self.operations[request.name].done and time.monotonic() < end and context.is_active():
            time.sleep(0.02)
        return self.operations[request.name]

    def CancelOperation(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.cancelled.append(request.name)
        return empty_pb2.Empty()

    def DeleteOperation(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if self.operations.pop(request.name, None) is None:
            fail(context, "NOT_FOUND", "There is no such operation.", reason="UNKNOWN_OPERATION")
        return empty_pb2.Empty()

    def DeleteDissection(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._delete_result(request.name, "dissections/", context)

    def DeleteExampleSet(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._delete_result(request.name, "exampleSets/", context)

    def DeleteUnitSheet(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._delete_result(request.name, "unitSheets/", context)

    def _delete_result(self, name: str, collection: str, context: grpc.ServicerContext) -> Any:
        if name not in self.results or not name.startswith(collection):
            fail(context, "NOT_FOUND", "There is no such result.", reason="UNKNOWN_RESULT")
        self.results.remove(name)
        return empty_pb2.Empty()

    def CreateDissection(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.requests.append(request)
        return self.operations[self.add(0xFFFF, "queued")]

    def FindExamples(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.requests.append(request)
        return self.operations[self.add(0xFFFE, "queued", verb="find-examples")]


def dissection(number: int) -> dissections_pb2.Dissection:
    """A dissection by that name and nothing more."""
    return dissections_pb2.Dissection(name=f"dissections/{identifier(number)}")


def example_set(number: int) -> activations_pb2.ExampleSet:
    """An example set by that name and nothing more."""
    return activations_pb2.ExampleSet(name=f"exampleSets/{identifier(number)}")


def unit_sheet(number: int) -> visualization_pb2.UnitSheet:
    """A unit sheet by that name and nothing more."""
    return visualization_pb2.UnitSheet(name=f"unitSheets/{identifier(number)}")
