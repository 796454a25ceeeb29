"""The service `ortoscope.v1.Blobs`."""

from collections.abc import Iterator

import grpc
from ortoscope.v1 import blobs_pb2, blobs_pb2_grpc

from ortoscope_service.api import resources
from ortoscope_service.api.calls import read_messages
from ortoscope_service.api.components import Components
from ortoscope_service.errors import Code, OrtoscopeError, invalid


class BlobsServicer(blobs_pb2_grpc.BlobsServicer):
    """Transfers blobs in chunks."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._blobs = components.store.blobs

    def ReadBlob(
        self, request: blobs_pb2.ReadBlobRequest, context: grpc.ServicerContext
    ) -> Iterator[blobs_pb2.ReadBlobResponse]:
        """Reads a blob, or a part of it, in chunks."""
        digest = resources.parse_blob(request.name, field="name")
        if request.limit < 0:
            raise invalid(
                "INVALID_LIMIT",
                f"limit is {request.limit}; it must be 0 (everything) or more.",
                field="limit",
                limit=request.limit,
            )
        cancellation = self._components.cancellation(context)
        for chunk in self._blobs.read(digest, request.offset, request.limit, field="name"):
            cancellation.raise_if_cancelled()
            yield blobs_pb2.ReadBlobResponse(data=chunk)

    def WriteBlob(
        self, request_iterator: Iterator[blobs_pb2.WriteBlobRequest], context: grpc.ServicerContext
    ) -> blobs_pb2.BlobStatus:
        """Writes a blob in chunks."""
        messages = read_messages(request_iterator, self._components.cancellation(context))
        first = next(messages, None)
        if first is None:
            raise invalid(
                "EMPTY_STREAM",
                "The stream holds no message; the first one must tell the name, size and offset.",
                field="name",
            )
        digest = resources.parse_blob(first.name, field="name")
        limit = self._components.limits.max_blob_bytes
        if first.size_bytes > limit:
            raise OrtoscopeError(
                Code.RESOURCE_EXHAUSTED,
                "BLOB_TOO_LARGE",
                f"The blob has {first.size_bytes:,} bytes, more than the limit max_blob_bytes of {limit:,}.",
                field="size_bytes",
                metadata={"size_bytes": str(first.size_bytes), "max_blob_bytes": str(limit)},
            )
        if not self._blobs.is_whole(digest):
            with self._blobs.write(digest, first.size_bytes, first.offset) as upload:
                upload.append(first.data)
                for message in messages:
                    upload.append(message.data)
        return self._status(digest)

    def QueryBlob(self, request: blobs_pb2.QueryBlobRequest, context: grpc.ServicerContext) -> blobs_pb2.BlobStatus:
        """Tells how much of a blob the server holds."""
        return self._status(resources.parse_blob(request.name, field="name"))

    def _status(self, digest: str) -> blobs_pb2.BlobStatus:
        status = self._blobs.status(digest)
        return blobs_pb2.BlobStatus(
            name=resources.blob(digest), committed_bytes=status.committed_bytes, complete=status.complete
        )
