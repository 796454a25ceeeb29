"""Who may be in a cluster: addresses and certificates are checked before anything listens or connects.

Whoever reaches a scheduler of Dask's runs code on it and on all its workers. So a cluster speaks mutual TLS, or listens
on loopback only. The authority must be the cluster's own: Dask takes any certificate that it signed, for any role.
"""

import ipaddress
import re
from typing import TYPE_CHECKING

from ortoscope_service.config import ClusterConfig
from ortoscope_service.errors import Code, OrtoscopeError

if TYPE_CHECKING:
    from distributed.security import Security

_ADDRESS = re.compile(r"(?P<scheme>tls|tcp)://(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/\[\]@]+):(?P<port>\d{1,5})")


def security_of(config: ClusterConfig) -> "Security":
    """What Dask needs to know of the certificates, which are read once to see that they can be.

    Raises:
        OrtoscopeError: As `_check`; CLUSTER_NOT_INSTALLED, CLUSTER_TLS_UNREADABLE.
    """
    _check(config)
    try:
        from distributed.security import Security  # noqa: PLC0415 - of the extra `cluster`
    except ImportError:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "CLUSTER_NOT_INSTALLED",
            "A cluster needs Dask, which this installation does not have. Install it with: "
            "pip install 'ortoscope[server,cluster]'.",
            field="cluster",
        ) from None
    if config.certificate is None:
        return Security(require_encryption=False)
    files = {
        "ca_file": config.authority, "client_cert": config.certificate, "client_key": config.private_key,
    }  # fmt: skip
    try:
        security = Security(require_encryption=True, **{f"tls_{name}": str(file) for name, file in files.items()})
        security.get_connection_args("client")
    except (OSError, ValueError):
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "CLUSTER_TLS_UNREADABLE",
            "The certificate, the key or the authority of the cluster cannot be read, or do not belong together. All "
            "are PEM files; the key has no passphrase.",
            field="cluster",
        ) from None
    return security


def _check(config: ClusterConfig) -> None:
    """Refuses what is no cluster, or one that strangers could use.

    Raises:
        OrtoscopeError: INVALID_CLUSTER_ADDRESS, CLUSTER_TLS_INCOMPLETE, INSECURE_CLUSTER.
    """
    address = config.address

    def error(code: Code, reason: str, message: str) -> OrtoscopeError:
        return OrtoscopeError(code, reason, message, field="cluster", metadata={"address": address})

    found = _ADDRESS.fullmatch(address)
    if not found or not 0 < int(found["port"]) < 65536:
        raise error(
            Code.INVALID_ARGUMENT,
            "INVALID_CLUSTER_ADDRESS",
            f"'{address}' is no address of a cluster. Give tls://HOST:PORT, or tcp://HOST:PORT on this machine.",
        )
    files = (config.certificate, config.private_key, config.authority)
    if found["scheme"] == "tls":
        if None in files:
            raise error(
                Code.INVALID_ARGUMENT,
                "CLUSTER_TLS_INCOMPLETE",
                f"{address} needs three files: a certificate, its key, and the authority of the cluster. Give those "
                "that are missing.",
            )
        return
    if files != (None, None, None):
        raise error(
            Code.INVALID_ARGUMENT,
            "INVALID_CLUSTER_ADDRESS",
            f"{address} makes no use of the certificate, key or authority that are given. Write tls://, or leave them "
            "out.",
        )
    if not config.allow_plain_tcp and not _is_loopback(found["host"]):
        raise error(
            Code.FAILED_PRECONDITION,
            "INSECURE_CLUSTER",
            f"{address} would be plain text that other machines can reach, and whoever reaches the scheduler of a "
            "cluster runs code on all its machines. Use tls:// with certificates, or allow plain TCP explicitly.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
