"""Prometheus metrics of a server, in a registry of its own."""

import threading
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """Counts calls and shows how many operations are pending.

    Args:
        pending_operations: Tells how many operations wait or run.
    """

    def __init__(self, pending_operations: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._calls = Counter(
            "ortoscope_calls", "Calls that ended, by method and status.", ("method", "code"), registry=self._registry
        )
        self._seconds = Histogram(
            "ortoscope_call_seconds",
            "Duration of calls in seconds, by method.",
            ("method",),
            registry=self._registry,
            buckets=_SECONDS,
        )
        pending = Gauge("ortoscope_pending_operations", "Operations that wait or run.", registry=self._registry)
        pending.set_function(lambda: float(pending_operations()))

    def observe(self, method: str, code: str, seconds: float) -> None:
        """Counts a call that ended."""
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)

    def serve(self, host: str, port: int) -> "MetricsServer":
        """Serves the metrics over HTTP, in a thread of its own.

        Raises:
            OSError: The address cannot be had.
        """
        return MetricsServer(*start_http_server(port, host, self._registry))


class MetricsServer:
    """A running HTTP server of metrics; made by `Metrics.serve`.

    Attributes:
        port: Its port.
    """

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self.port: int = server.server_port
        self._server = server
        self._thread = thread

    def stop(self) -> None:
        """Stops it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
