"""Why a scheduler cannot be reached, in words for whoever runs the cluster.

Dask tries again and again, and says that it "timed out" in the end, or nothing at all.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from typing import TYPE_CHECKING

from ortoscope_service.config import ClusterConfig

if TYPE_CHECKING:
    from distributed.security import Security

_ANSWER_SECONDS = 3.0
"""A scheduler that says nothing for so long does not answer."""

_REMIND_SECONDS = 60.0
"""How often trouble is logged that lasts."""

_DISTRUST = {9: "its certificate is not valid yet", 10: "its certificate has expired"}
"""What is wrong with a certificate, by OpenSSL's codes X509_V_ERR_CERT_NOT_YET_VALID and …_HAS_EXPIRED."""

_log = logging.getLogger(__name__)


async def trouble_with(config: ClusterConfig, security: "Security") -> str:
    """Connects with the scheduler for a moment.

    Args:
        config: The cluster.
        security: As `cluster_security.security_of` makes it of that.

    Returns:
        Why the scheduler cannot be reached at present, as a sentence without its full stop; empty if it can.
    """
    host, _, port = config.address.partition("://")[2].rpartition(":")
    context: ssl.SSLContext | None = security.get_connection_args("client").get("ssl_context")
    if config.certificate is None:
        context, closed, silent = None, "it closed the connection", "it does not answer; it may want tls://"
    else:
        closed, silent = "it refused the certificate that it was shown, or speaks no TLS", "it does not answer"
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
            try:
                # A scheduler speaks first. That it refused a certificate shows now, when the handshake is over.
                heard = await reader.read(1)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        return "" if heard else closed
    except ssl.SSLCertVerificationError as error:
        return _DISTRUST.get(error.verify_code, "its certificate is not one of the authority given here")
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return closed
    except socket.gaierror:
        return "its host name is not known here"
    except ConnectionRefusedError:
        return "nobody listens there"
    except TimeoutError:
        return silent
    except OSError:
        return "there is no way to it"


class TroubleLog:
    """Logs trouble with a cluster when it begins or changes, and every minute while it lasts.

    Args:
        address: The scheduler.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._logged = ""
        self._logged_at = 0.0

    def tell(self, trouble: str) -> None:
        """Takes note of how it stands.

        Args:
            trouble: As `trouble_with` returns it.
        """
        now = time.monotonic()
        if trouble and (trouble != self._logged or now - self._logged_at >= _REMIND_SECONDS):
            _log.warning("waiting for the cluster at %s: %s", self._address, trouble)
            self._logged_at = now
        self._logged = trouble
