"""Messages of the API as plain data."""

from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

# An Operation carries its metadata and response as Any, which turns into JSON only if the types inside are known.
from ortoscope.v1 import activations_pb2, atlases_pb2, dissections_pb2, visualization_pb2
from ortoscope.v1 import operations_pb2 as metadata_pb2

KNOWN_IN_ANY: tuple[type[Message], ...] = (
    metadata_pb2.OperationMetadata,
    dissections_pb2.Dissection,
    activations_pb2.ExampleSet,
    visualization_pb2.UnitSheet,
    atlases_pb2.Atlas,
    atlases_pb2.AtlasProjection,
    atlases_pb2.AtlasComparison,
    operations_pb2.Operation,
)
"""What an operation's Any fields may hold."""


RUN_FIELDS = ("start_time", "end_time")
"""Fields of a Provenance that tell of one run, not of its result."""


def to_json(message: Message, *, every_field: bool = False) -> dict[str, Any]:
    """The canonical proto3 JSON of a message, with the names as they are in the .proto (snake_case).

    Args:
        message: The message.
        every_field: Whether fields that hold their default value are given too.
    """
    data: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=every_field
    )
    return data


def provenance_record(name: str, spec: Message, provenance: Message) -> dict[str, Any]:
    """What `provenance.json` says: every field of the Provenance, and what was asked.

    What differs between two runs with the same result stands under `run`: the result's name and the times. Everything
    else is the same in both.

    Args:
        name: Resource name of the result.
        spec: What was asked, with every default filled in.
        provenance: The Provenance.
    """
    facts = to_json(provenance, every_field=True)
    run = {"result": name, **{field: facts[field] for field in RUN_FIELDS if field in facts}}
    return {**lasting(provenance), "spec": to_json(spec, every_field=True), "run": run}


def lasting(provenance: Message) -> dict[str, Any]:
    """Every field of a Provenance that two runs with the same result have in common."""
    return {name: value for name, value in to_json(provenance, every_field=True).items() if name not in RUN_FIELDS}


def to_datetime(timestamp: Timestamp) -> datetime | None:
    """A timestamp as an aware datetime in UTC; None if it is not set."""
    if not timestamp.seconds and not timestamp.nanos:
        return None
    return timestamp.ToDatetime(UTC)
