"""How an `OrtoscopeError` looks on the wire: a google.rpc.Status with typed details."""

from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ortoscope_service.errors import Code, OrtoscopeError

DOMAIN = "ortoscope"
"""The domain of every google.rpc.ErrorInfo."""

# Headers of more than 8 KB make gRPC fail the call in their stead. Beyond ASCII, the message takes three bytes for one;
# and it is sent twice, the second time within the details, in base64.
_MESSAGE_BYTES = 1200
_DESCRIPTION_BYTES = 300
_VALUE_BYTES = 200
_METADATA_BYTES = 1000

_RESOURCES = {
    "UNKNOWN_MODEL": ("ortoscope.v1/Model", "model"),
    "UNKNOWN_VERSION": ("ortoscope.v1/ModelVersion", "version"),
    "UNKNOWN_TAP": ("ortoscope.v1/Tap", "tap"),
    "UNKNOWN_DATASET": ("ortoscope.v1/Dataset", "dataset"),
    "UNKNOWN_IMAGE": ("ortoscope.v1/Image", "image"),
    "UNKNOWN_PRESET": ("ortoscope.v1/Preset", "preset"),
    "UNKNOWN_BLOB": ("ortoscope.v1/Blob", "blob"),
    "UNKNOWN_OPERATION": ("google.longrunning/Operation", "operation"),
    "UNKNOWN_RESULT": ("ortoscope.v1/Result", "result"),
}

_RETRY_SECONDS = {
    "TOO_MANY_CALLS": 1,
    "TOO_MANY_OPERATIONS": 10,
    "TOO_MANY_VISUALIZATIONS": 10,
    "WORKER_DIED": 1,
    "WORKER_UNREACHABLE": 1,
    "MODEL_KILLS_WORKER": 60,
}


def to_status(error: OrtoscopeError) -> status_pb2.Status:
    """The status of an error.

    It holds ErrorInfo always, BadRequest where a request field is at fault, ResourceInfo for what was not found, and
    RetryInfo where the same call can succeed later.

    The message can be understood alone, because many clients drop the details. Both are clipped to what fits into
    the headers of a response.
    """
    message = clip(error.message, _MESSAGE_BYTES)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code.value), message=message)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_clipped(error.metadata))
    )
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=clip(error.field, _VALUE_BYTES), description=clip(error.message, _DESCRIPTION_BYTES)
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.code is Code.NOT_FOUND and error.reason in _RESOURCES:
        resource_type, key = _RESOURCES[error.reason]
        name = clip(error.metadata.get(key, ""), _VALUE_BYTES)
        status.details.add().Pack(error_details_pb2.ResourceInfo(resource_type=resource_type, resource_name=name))
    if error.reason in _RETRY_SECONDS:
        delay = duration_pb2.Duration(seconds=_RETRY_SECONDS[error.reason])
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def clip(text: str, limit: int) -> str:
    """`text` as valid Unicode of at most `limit` bytes of UTF-8, with an ellipsis where something was cut off."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode("utf-8")
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"


def _clipped(metadata: dict[str, str]) -> dict[str, str]:
    clipped: dict[str, str] = {}
    room = _METADATA_BYTES
    for key, value in metadata.items():
        short = clip(value, min(_VALUE_BYTES, max(room - len(key), 3)))
        room -= len(key) + len(short.encode())
        if room < 0:
            break
        clipped[key] = short
    return clipped
