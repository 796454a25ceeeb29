"""What happens to every call of our services: admission, decoding, errors, limits, metrics."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from ortoscope_service.api.errors import to_status
from ortoscope_service.api.metrics import Metrics
from ortoscope_service.config import Limits
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.jobs.failures import as_ortoscope_error

OUR_SERVICES = ("/ortoscope.v1.", "/google.longrunning.", "/inference.")
"""What the methods of our services begin with. Health and reflection are left alone: they answer under any load."""


class CallInterceptor(grpc.ServerInterceptor):
    """Admits calls up to a limit, and turns every exception of a handler into a status with details.

    Messages are decoded and encoded here, so that garbage is the client's error rather than ours, and a response
    above the limit is refused with the limit's name.

    Args:
        limits: The limits in force.
        metrics: Counts calls; None to count nothing.
    """

    def __init__(self, limits: Limits, metrics: Metrics | None = None) -> None:
        self._limits = limits
        self._metrics = metrics
        self._places = threading.BoundedSemaphore(limits.max_concurrent_rpcs)

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Wraps the handlers of our services."""
        handler = continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith(OUR_SERVICES):
            return handler
        return self._wrapped(handler, method)

    def _wrapped(self, handler: Any, method: str) -> "grpc.RpcMethodHandler[Any, Any]":
        behavior = getattr(handler, _KINDS[handler.request_streaming, handler.response_streaming])

        def received(request: Any) -> Any:
            if handler.request_streaming:
                return (self._decode(handler, data) for data in request)
            return self._decode(handler, request)

        def unary(request: Any, context: grpc.ServicerContext) -> bytes:
            with self._call(method, context):
                return self._encode(handler, behavior(received(request), context))

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._call(method, context):
                for response in behavior(received(request), context):
                    yield self._encode(handler, response)

        make = getattr(grpc, _KINDS[handler.request_streaming, handler.response_streaming] + "_rpc_method_handler")
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(stream if handler.response_streaming else unary)
        return wrapped

    @contextmanager
    def _call(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        began = time.perf_counter()
        code = "CANCELLED"
        admitted = self._places.acquire(blocking=False)
        try:
            if not admitted:
                raise self._too_many_calls()
            yield
            code = "OK"
        except grpc.RpcError:
            raise  # the client is gone; there is nobody to tell
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, the client gets a status
            failure = as_ortoscope_error(error)
            code = failure.code.value
            context.abort_with_status(rpc_status.to_status(to_status(failure)))
        finally:
            if admitted:
                self._places.release()
            if self._metrics is not None:
                self._metrics.observe(method, code, time.perf_counter() - began)

    def _decode(self, handler: Any, data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError:
            raise invalid(
                "MALFORMED_REQUEST", "The request is no message of the type that this method takes."
            ) from None

    def _encode(self, handler: Any, response: Any) -> bytes:
        data: bytes = handler.response_serializer(response)
        if len(data) > self._limits.max_message_bytes:
            raise response_too_large(len(data), self._limits.max_message_bytes)
        return data

    def _too_many_calls(self) -> OrtoscopeError:
        limit = self._limits.max_concurrent_rpcs
        return OrtoscopeError(
            Code.RESOURCE_EXHAUSTED,
            "TOO_MANY_CALLS",
            f"{limit} calls are being worked on, as many as the limit max_concurrent_rpcs allows; try again soon.",
            metadata={"max_concurrent_rpcs": str(limit)},
        )


def response_too_large(size: int, limit: int) -> OrtoscopeError:
    """The error for a response above the message limit."""
    return OrtoscopeError(
        Code.RESOURCE_EXHAUSTED,
        "RESPONSE_TOO_LARGE",
        f"The response would have {size:,} bytes, more than the limit max_message_bytes of {limit:,}. Ask for fewer "
        "items at a time, for fewer taps, for a reduction, or for a smaller page.",
        metadata={"response_bytes": str(size), "max_message_bytes": str(limit)},
    )


_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
