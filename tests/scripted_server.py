"""A real gRPC server whose answers a test writes down: for what a sound server never does, or does not do twice."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from ortoscope.v1 import (
    activations_pb2,
    atlases_pb2,
    blobs_pb2,
    capabilities_pb2,
    datasets_pb2,
    dissections_pb2,
    gradients_pb2,
    models_pb2,
    visualization_pb2,
)

FILES = (
    activations_pb2,
    atlases_pb2,
    blobs_pb2,
    capabilities_pb2,
    datasets_pb2,
    dissections_pb2,
    gradients_pb2,
    models_pb2,
    operations_pb2,
    visualization_pb2,
)
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every rpc of the API by its path."""

Answer = Callable[[Any, grpc.ServicerContext], Any]


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = answers

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        method, answer = METHODS.get(details.method), self.answers.get(details.method.rpartition("/")[2])
        if method is None or answer is None:
            return None
        request = message_factory.GetMessageClass(method.input_type)
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make = kinds[method.client_streaming, method.server_streaming]
        return make(answer, request.FromString, lambda message: message.SerializeToString())


@contextmanager
def scripted(answers: Mapping[str, Answer], port: int = 0) -> Iterator[str]:
    """Serves the answers, by the name of the rpc; yields the target. GetCapabilities has an answer if none is given.

    A port is given where a server comes back to where it was.
    """
    given = {"GetCapabilities": lambda request, context: capabilities_pb2.ServerCapabilities(), **answers}
    server = grpc.server(ThreadPoolExecutor(4), handlers=[_Handler(given)])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def status(
    code: int, message: str, *, reason: str = "", field: str = "", metadata: Mapping[str, str] | None = None
) -> status_pb2.Status:
    """A google.rpc.Status with details as the service sends them."""
    details = []
    for detail in (
        error_details_pb2.ErrorInfo(reason=reason, domain="ortoscope", metadata=dict(metadata or {}))
        if reason
        else None,
        error_details_pb2.BadRequest(field_violations=[{"field": field, "description": message}]) if field else None,
    ):
        if detail is not None:
            packed = any_pb2.Any()
            packed.Pack(detail)
            details.append(packed)
    return status_pb2.Status(code=code, message=message, details=details)


def fail(context: grpc.ServicerContext, code: str, message: str, **details: Any) -> None:
    """Ends a call with a status that has details."""
    context.abort_with_status(rpc_status.to_status(status(code_pb2.Code.Value(code), message, **details)))
