"""From a checked request to a recorded operation whose result is stored and named."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from ortoscope_service.api import resources
from ortoscope_service.api.components import Components
from ortoscope_service.api.operations import operation_message
from ortoscope_service.api.subjects import Subject
from ortoscope_service.jobs.operations import NewOperation
from ortoscope_service.jobs.requests import Request
from ortoscope_service.jobs.runner import JobContext
from ortoscope_service.jobs.surveys import Survey


@dataclass(frozen=True)
class FinishedResult:
    """A result that is ready to be stored."""

    blobs: Mapping[str, bytes]
    """Its blobs, by what they hold."""

    describe: Callable[[str, Mapping[str, str]], Message]
    """Makes the resource's message of its name and the names of its blobs."""


def find_submitted(components: Components, request: Request) -> operations_pb2.Operation | None:
    """The operation that an equal request with the same id was answered with before; None if there was none.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, REQUEST_ID_REUSED.
    """
    operation = components.store.operations.find(request)
    return None if operation is None else operation_message(operation, components.store.records)


def submit(
    components: Components,
    request: Request,
    verb: str,
    subject: Subject,
    collection: str,
    work: Callable[[JobContext], FinishedResult],
) -> operations_pb2.Operation:
    """Records an operation and queues its work. Its result gets the id of the operation.

    Args:
        components: Store and runner.
        request: The request, to answer a repetition alike.
        verb: What the operation does.
        subject: What it works on.
        collection: Collection of the result.
        work: Does it.

    Raises:
        OrtoscopeError: RESOURCE_EXHAUSTED, TOO_MANY_OPERATIONS; INVALID_ARGUMENT, REQUEST_ID_REUSED.
    """
    store = components.store
    new = NewOperation(resources.new_id(), verb, str(subject.tap_name), str(subject.dataset_name), request)
    operation, created = store.operations.create(new)

    def do(context: JobContext) -> Callable[[], str]:
        finished = work(context)
        name = f"{collection}/{operation.id}"
        digests = {role: store.blobs.put_bytes(data) for role, data in finished.blobs.items()}
        message = finished.describe(name, {role: resources.blob(digest) for role, digest in digests.items()})

        def publish() -> str:
            for data in finished.blobs.values():
                store.blobs.put_bytes(data)  # an equal blob may have been deleted with another result since
            store.records.add(collection, operation.id, message.SerializeToString(), digests)
            return name

        return publish

    if created:
        components.runner.submit(operation.id, do)
    return operation_message(operation, store.records)


def survey_of(components: Components, subject: Subject, splits: tuple[str, ...]) -> Survey:
    """The pass over the images that the job of a subject makes."""
    return Survey(
        version=subject.version,
        tap=subject.tap,
        dataset=subject.dataset,
        dataset_name=str(subject.dataset_name),
        splits=splits,
        indices=subject.indices,
        execution=components.execution,
    )
