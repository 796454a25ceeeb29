"""From a checked request to a recorded operation, and from its outcome to a result that is stored and named."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from ortoscope.v1.provenance_pb2 import Provenance

from ortoscope_service.api import resources
from ortoscope_service.api.components import Components
from ortoscope_service.api.operations import operation_message
from ortoscope_service.api.provenance import provenance_message
from ortoscope_service.api.subjects import Subject
from ortoscope_service.errors import invalid
from ortoscope_service.jobs.operations import NewOperation
from ortoscope_service.jobs.provenance import Computation, execution_from_spec
from ortoscope_service.jobs.requests import Request
from ortoscope_service.jobs.runner import Finished, Publisher
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.surveys import survey_spec
from ortoscope_service.models.repository import ModelVersion

MessageType = TypeVar("MessageType", bound=Message)


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
    splits: Sequence[str],
    spec: Mapping[str, Any],
    draft: Any,
    time_limit: float | None,
) -> operations_pb2.Operation:
    """Records an operation over the images of a dataset and queues its work.

    Args:
        components: As for `submit_on_tap`.
        request: Likewise.
        verb: Likewise.
        subject: What it works on.
        splits: The splits that were asked for.
        spec: What to compute besides that, as for `submit_on_tap`.
        draft: As for `submit_on_tap`.
        time_limit: Likewise.

    Raises:
        OrtoscopeError: As `submit_on_tap` raises.
    """
    execution, dataset = components.job_execution, subject.dataset_name
    whole = {**survey_spec(subject.version, subject.tap, dataset.dataset, splits, execution), **spec}
    return submit_on_tap(
        components, request, verb, subject.version, subject.tap_name, whole, draft, time_limit, dataset=str(dataset)
    )


def submit_on_tap(
    components: Components,
    request: Request,
    verb: str,
    version: ModelVersion,
    tap: resources.TapName,
    spec: Mapping[str, Any],
    draft: Any,
    time_limit: float | None,
    *,
    dataset: str = "",
) -> operations_pb2.Operation:
    """Records an operation on a tap and queues its work. Its result gets the id of the operation.

    Args:
        components: Store and runner.
        request: The request, to answer a repetition alike.
        verb: What the operation does.
        version: The model.
        tap: The tap's resource name in full.
        spec: What to compute, as JSON, for the drivers and tasks of `jobs.kinds`.
        draft: The message of the result, without what is to be computed; its provenance is filled in as far as it is
            known.
        time_limit: Seconds that it may take; None: as long as it takes.
        dataset: Resource name of the dataset that it reads, if it reads one.

    Raises:
        OrtoscopeError: RESOURCE_EXHAUSTED, TOO_MANY_OPERATIONS; INVALID_ARGUMENT, REQUEST_ID_REUSED.
    """
    store = components.store
    inputs = version.manifest.inputs
    described = [given.preprocessing.describe() for given in inputs if given.preprocessing is not None]
    computation = Computation(
        components.job_execution,
        spec_digest="",
        preprocessing=", ".join(described),
        items=0,
        start_time=0.0,
        end_time=0.0,
        dataset=dataset,
    )
    draft.provenance.CopyFrom(provenance_message(version, computation))
    new = NewOperation(
        resources.new_id(),
        verb,
        str(tap),
        dataset,
        request,
        spec,
        draft.SerializeToString(deterministic=True),
        time_limit,
    )
    operation, created = store.operations.create(new)
    if created:
        components.runner.submit(operation.id)
    return operation_message(operation, store.records)


def publisher(
    store: Store,
    collection: str,
    message_type: type[MessageType],
    fill: Callable[[MessageType, Mapping[str, Any], Mapping[str, str]], None],
) -> Publisher:
    """What stores the results of a kind of operation.

    Args:
        store: Where.
        collection: Collection of the results.
        message_type: The type of their messages.
        fill: Puts what was computed into the message: its values, and the names of its blobs by role.
    """

    def publish(finished: Finished) -> Callable[[], str]:
        operation = finished.operation
        name = f"{collection}/{operation.id}"
        contents = {role: finished.load(digest) for role, digest in finished.outcome.artifacts.items()}
        digests = {role: store.blobs.put_bytes(data) for role, data in contents.items()}
        message: Any = message_type.FromString(operation.draft)
        message.name = name
        _complete(message.provenance, finished)
        fill(message, finished.outcome.values, {role: resources.blob(digest) for role, digest in digests.items()})

        def record() -> str:
            for data in contents.values():
                store.blobs.put_bytes(data)  # an equal blob may have been deleted with another result since
            store.records.add(collection, operation.id, message.SerializeToString(), digests)
            return name

        return record

    return publish


def time_limit_of(request: Any) -> float | None:
    """The time limit of a request in seconds; None without one.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, INVALID_TIME_LIMIT.
    """
    if not request.HasField("time_limit"):
        return None
    limit: Duration = request.time_limit
    seconds = limit.seconds + limit.nanos / 1e9
    if seconds <= 0:
        raise invalid(
            "INVALID_TIME_LIMIT",
            f"time_limit is {seconds:g} seconds; it must be positive, or absent for no limit.",
            field="time_limit",
            time_limit=seconds,
        )
    return seconds


def _complete(provenance: Provenance, finished: Finished) -> None:
    """Adds what became known while the work was done."""
    values = finished.outcome.values
    session = execution_from_spec(values["execution"], verdicts=None).session
    provenance.dataset_digest = values["dataset_digest"]
    provenance.spec_digest = values["spec_digest"]
    provenance.execution_provider = ", ".join(session.providers)
    provenance.items = values["items"]
    provenance.processor = finished.processors
    began = finished.operation.start_time
    assert began is not None  # it ran
    provenance.start_time.FromNanoseconds(round(began * 1e6) * 1000)
    provenance.end_time.FromNanoseconds(round(time.time() * 1e6) * 1000)
