"""Calls of a server that is killed and started again meanwhile."""

import time
from collections.abc import Callable
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from ortoscope.v1 import blobs_pb2, blobs_pb2_grpc
from ortoscope.v1.operations_pb2 import OperationMetadata


def asked_for_again_until_answered(address: str, call: Callable[[grpc.Channel], Any]) -> Any:
    """The answer to a call of a server that may be away for a while."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                return call(channel)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def state_of(address: str, name: str) -> tuple[Any, OperationMetadata]:
    """An operation, and how far it is."""

    def call(channel: grpc.Channel) -> Any:
        stub: Any = operations_pb2_grpc.OperationsStub(channel)
        return stub.GetOperation(operations_pb2.GetOperationRequest(name=name))

    operation = asked_for_again_until_answered(address, call)
    metadata = OperationMetadata()
    operation.metadata.Unpack(metadata)
    return operation, metadata


def read(address: str, name: str) -> bytes:
    """The contents of a blob."""

    def call(channel: grpc.Channel) -> bytes:
        stub: Any = blobs_pb2_grpc.BlobsStub(channel)  # type: ignore[no-untyped-call]
        return b"".join(chunk.data for chunk in stub.ReadBlob(blobs_pb2.ReadBlobRequest(name=name)))

    return bytes(asked_for_again_until_answered(address, call))
