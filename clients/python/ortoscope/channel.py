"""How the client reaches a server: targets, TLS, deadlines and retries."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import grpc

from ortoscope.errors import InvalidArgument

DEFAULT_TARGET = "127.0.0.1:50051"
"""Where `ortoscope-server serve` listens unless told otherwise."""

DEFAULT_TIMEOUT = 60.0
"""Seconds that a call may take which looks something up or starts an operation: long enough for a busy server, short
enough to notice one that hangs."""

_DEFAULT_PORT = 50051
_SCHEMES = {"grpc": (False, _DEFAULT_PORT), "grpcs": (True, _DEFAULT_PORT), "http": (False, 80), "https": (True, 443)}
_RESOLVERS = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
_LOOPBACK = re.compile(r"^(localhost|127(\.\d{1,3}){3}|\[::1\]|\[0:0:0:0:0:0:0:1\])$")


@dataclass(frozen=True)
class TLS:
    """How the server proves who it is, and the client too if the server asks for it."""

    ca: Path | str | bytes | None = None
    """PEM certificates to trust: a file or its contents. None: those that gRPC trusts by default."""

    certificate: Path | str | bytes | None = None
    """The client's PEM certificate chain, for mutual TLS: a file or its contents."""

    key: Path | str | bytes | None = None
    """The client's PEM private key, for mutual TLS: a file or its contents."""

    server_name: str = ""
    """The name to expect in the server's certificate, if it is not the host that is called."""


@dataclass(frozen=True)
class Timeouts:
    """How long each kind of call may take, in seconds."""

    call: float = DEFAULT_TIMEOUT
    """A call that looks something up or starts an operation."""

    compute: float = 600.0
    """A call that computes or reads much: Activate, ComputeGradient, ValidateDataset. Models on a CPU can take seconds
    per image."""

    transfer: float = 3600.0
    """A blob in one direction. A transfer that breaks off is taken up where it stopped."""

    stream: float = 86_400.0
    """A whole StreamActivations call, which lasts as long as the caller goes on reading, or a whole Visualize call,
    which waits for its turn and then tells all the time how far it is."""

    @classmethod
    def of(cls, timeout: "float | Timeouts") -> "Timeouts":
        """The timeouts as they are, or those in which looking something up may take `timeout` seconds."""
        if isinstance(timeout, Timeouts):
            return timeout
        defaults = cls()
        return cls(timeout, max(timeout, defaults.compute), max(timeout, defaults.transfer), defaults.stream)


@dataclass(frozen=True)
class Target:
    """Where a server is, in the form that gRPC takes."""

    address: str
    """For example "127.0.0.1:50051" or "unix:/run/ortoscope.sock"."""

    tls: bool
    """Whether the target's scheme asks for TLS."""

    local: bool
    """Whether it is on this machine, so that no proxy may stand in between."""


def parse_target(text: str) -> Target:
    """Reads a target as people write it.

    Taken are `HOST`, `HOST:PORT`, `[IPV6]:PORT` (port 50051 if there is none), the same behind `grpc://` or `http://`
    (no TLS) and `grpcs://` or `https://` (TLS), `unix:PATH`, and the other forms of gRPC's own naming (`dns:///…`).

    Args:
        text: The target.

    Raises:
        InvalidArgument: TARGET_INVALID.
    """
    target = text.strip()
    if target.startswith(_RESOLVERS):
        return Target(target, tls=False, local=target.startswith(("unix:", "unix-abstract:")))
    scheme, separator, rest = target.partition("://")
    tls, port = False, _DEFAULT_PORT
    if separator:
        if scheme.lower() not in _SCHEMES:
            raise _invalid_target(text, f"the scheme {scheme!r} is none of {', '.join(_SCHEMES)}")
        tls, port = _SCHEMES[scheme.lower()]
        target = rest.removesuffix("/")
    if "/" in target or not target or any(character.isspace() for character in target):
        raise _invalid_target(text, "it names no host")
    host = target
    if target.startswith("["):
        host, bracket, tail = target.partition("]")
        host += bracket
        if not bracket or (tail and not tail.startswith(":")):
            raise _invalid_target(text, "its brackets do not match")
        port = _port(text, tail[1:]) if tail else port
    elif target.count(":") == 1:
        host, _, tail = target.partition(":")
        host, port = host or "localhost", _port(text, tail)
    elif ":" in target:
        host = f"[{target}]"
    return Target(f"{host}:{port}", tls=tls, local=bool(_LOOPBACK.match(host)))


def open_channel(target: Target, tls: TLS | bool | None) -> grpc.Channel:
    """Opens a channel; it connects when the first call is made.

    Args:
        target: Where the server is.
        tls: True or a `TLS` for an encrypted channel, False for an open one; None does as the target's scheme says.

    Raises:
        InvalidArgument: A certificate or key cannot be read.
    """
    options: list[tuple[str, object]] = [
        # The server states and enforces its limits; a second one here would only be a worse error message.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", SERVICE_CONFIG),
        ("grpc.primary_user_agent", "ortoscope-python"),
        # A server that was away is back within seconds for those who wait for it; by default it may take two minutes.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    if target.local:
        options.append(("grpc.enable_http_proxy", 0))
    if tls is None:
        tls = target.tls
    if tls is False:
        return grpc.insecure_channel(target.address, options=options)
    settings = TLS() if tls is True else tls
    if settings.server_name:
        options.append(("grpc.ssl_target_name_override", settings.server_name))
    credentials = grpc.ssl_channel_credentials(_pem(settings.ca), _pem(settings.key), _pem(settings.certificate))
    return grpc.secure_channel(target.address, credentials, options=options)


_IDEMPOTENT = {
    "ortoscope.v1.Activations": (
        "Activate",
        "DeleteExampleSet",
        "FindExamples",
        "GetExampleSet",
        "ListExampleSets",
        "ListUnitExamples",
    ),
    "ortoscope.v1.Atlases": (
        "BuildAtlas",
        "CompareAtlases",
        "DeleteAtlas",
        "GetAtlas",
        "GetAtlasComparison",
        "GetAtlasProjection",
        "GetTile",
        "ListAtlases",
        "ListCells",
        "ProjectSamples",
        "ProposePatches",
    ),
    "ortoscope.v1.Blobs": ("QueryBlob",),
    "ortoscope.v1.Capabilities": ("GetCapabilities",),
    "ortoscope.v1.Datasets": (
        "GetDataset",
        "GetImage",
        "ListConcepts",
        "ListDatasets",
        "ListImages",
        "ValidateDataset",
    ),
    "ortoscope.v1.Dissections": (
        "CreateDissection",
        "DeleteDissection",
        "GetDissection",
        "ListDissections",
        "ListUnitLabels",
    ),
    "ortoscope.v1.Gradients": ("AttributeClasses", "ComputeGradient"),
    "ortoscope.v1.Models": (
        "GetModel",
        "GetModelVersion",
        "GetTap",
        "ListModelVersions",
        "ListModels",
        "ListTaps",
    ),
    "ortoscope.v1.Visualization": (
        "DeleteUnitSheet",
        "GetUnitSheet",
        "ListPresets",
        "ListUnitSheets",
        "TestPatch",
        "Visualize",
        "VisualizeUnits",
    ),
    "google.longrunning.Operations": ("CancelOperation", "GetOperation", "ListOperations", "WaitOperation"),
}
"""Calls that may be sent twice: they change nothing, or carry a request_id by which the server knows them again."""

SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in _IDEMPOTENT.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""gRPC's service config: which calls are tried again, and when."""


def _port(text: str, digits: str) -> int:
    if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits) <= 65535:
        raise _invalid_target(text, f"{digits!r} is no port")
    return int(digits)


def _invalid_target(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"{text!r} is no target: {why}. Write HOST:PORT, for example {DEFAULT_TARGET}, or https://HOST for TLS.",
        reason="TARGET_INVALID",
        field="target",
        metadata={"target": text},
    )


def _pem(source: Path | str | bytes | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"The certificate or key {str(source)!r} cannot be read: {error.strerror}.",
            reason="CERTIFICATE_UNREADABLE",
            field="tls",
            metadata={"path": str(source)},
        ) from None
