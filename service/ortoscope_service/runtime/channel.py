"""Messages between two processes: JSON over a socket, and arrays in memory that both can see.

A message is a header of fixed size, a JSON object, and arrays. Small arrays follow the JSON; larger ones are written
once into an anonymous file in memory, whose descriptor travels with the header, and which the receiver maps. The file
is sealed before: nobody can shrink it below whoever reads, nor change it under their eyes.

Nothing is unpickled, so that neither side can make the other run anything.
"""

import contextlib
import fcntl
import json
import mmap
import os
import re
import socket
import struct
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_HEADER = struct.Struct("<IQ")
"""Bytes of the JSON object, bytes of the arrays."""

_INLINE_BYTES = 128 * 1024
"""Arrays of no more than this in all follow the JSON: a descriptor and a mapping cost more than their copies."""

_ALIGNMENT = 64
"""Where arrays begin: what vector instructions like best."""

_MOST_JSON = 256 * 1024**2
_NUMBERS = re.compile(r"[<>=|][biufcSU]\d+")
_STRINGS = "O"


class ChannelError(Exception):
    """The other side sent what is no message."""


@dataclass(frozen=True)
class Message:
    """What was received."""

    body: dict[str, Any]
    """The JSON object."""

    arrays: list[Array]
    """The arrays."""


class Channel:
    """One end of a connection. Any thread may send; one receives.

    Args:
        connection: A connected stream socket of the local machine. The channel owns it.
        writable: Whether large arrays that are received may be written to, which counts as memory that was promised.
    """

    def __init__(self, connection: socket.socket, *, writable: bool = True) -> None:
        self._connection = connection
        self._access = mmap.ACCESS_COPY if writable else mmap.ACCESS_READ
        self._sending = threading.Lock()

    def send(self, body: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Sends a message.

        Args:
            body: A JSON object.
            arrays: Numbers of any kind, or strings as objects; in any memory layout.

        Raises:
            OSError: The other side is gone, or there is no memory for the arrays.
        """
        chunks = [_to_bytes(array) for array in arrays]
        offsets, size = _layout([chunk.nbytes for chunk in chunks])
        described = [
            [array.dtype.str[1:] if array.dtype == object else array.dtype.str, list(array.shape), offset, chunk.nbytes]
            for array, offset, chunk in zip(arrays, offsets, chunks, strict=True)
        ]
        text = json.dumps([body, described], separators=(",", ":")).encode()
        header = _HEADER.pack(len(text), size)
        if size <= _INLINE_BYTES:
            payload = bytearray(size)
            for offset, chunk in zip(offsets, chunks, strict=True):
                payload[offset : offset + chunk.nbytes] = chunk.data
            with self._sending:
                self._connection.sendall(b"".join((header, text, payload)))
            return
        descriptor = _file_of(chunks, offsets, size)
        try:
            with self._sending:
                socket.send_fds(self._connection, [header], [descriptor])
                self._connection.sendall(text)
        finally:
            os.close(descriptor)

    def receive(self) -> Message | None:
        """The next message; None if the other side is gone.

        Raises:
            ChannelError: What came is no message.
        """
        descriptors: list[int] = []
        try:
            header = self._exactly(_HEADER.size, descriptors)
            if header is None:
                return None
            length, size = _HEADER.unpack(header)
            if length > _MOST_JSON or (size > _INLINE_BYTES) != (len(descriptors) == 1):
                raise ChannelError("the header makes no sense")
            text = self._exactly(length)
            if text is None:
                return None
            if descriptors:
                payload: Any = _mapped(descriptors[0], size, self._access)
            else:
                payload = self._exactly(size)
                if payload is None:
                    return None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        try:
            body, described = json.loads(text)
            return Message(body, [_from_bytes(payload, *parts) for parts in described])
        except (ValueError, TypeError) as error:
            raise ChannelError("the content makes no sense") from error

    def close(self) -> None:
        """Ends the connection; a thread that waits in `receive` gets None."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _exactly(self, size: int, descriptors: list[int] | None = None) -> bytearray | None:
        """So many bytes; None at the end of the connection. Descriptors that come along are put into the list."""
        buffer = bytearray(size)
        view = memoryview(buffer)
        done = 0
        while done < size:
            try:
                if descriptors is not None and done == 0:
                    data, received, _, _ = socket.recv_fds(self._connection, size, 1, _CLOSE_ON_EXEC)
                    descriptors += received
                    view[: len(data)] = data
                    count = len(data)
                else:
                    count = self._connection.recv_into(view[done:])
            except OSError:
                return None
            if count == 0:
                return None
            done += count
        return buffer


_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def _to_bytes(array: Array) -> NDArray[np.uint8]:
    """The elements of an array in order, strings as a list in JSON."""
    if array.dtype == object:
        return np.frombuffer(json.dumps([str(element) for element in array.reshape(-1)]).encode(), np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _from_bytes(payload: Any, dtype: str, shape: list[int], offset: int, size: int) -> Array:
    if dtype == _STRINGS:
        texts = json.loads(bytes(memoryview(payload)[offset : offset + size]))
        strings = np.empty(len(texts), object)
        strings[:] = texts
        return strings.reshape(shape)
    if not _NUMBERS.fullmatch(dtype):
        raise ValueError(f"{dtype} is no type of an array")
    kind = np.dtype(dtype)
    if size == 0:
        return np.empty(shape, kind)
    return np.frombuffer(payload, kind, size // kind.itemsize, offset).reshape(shape)


def _layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where arrays of these sizes begin, one behind the other, and the size of all."""
    offsets, end = [], 0
    for size in sizes:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        offsets.append(start)
        end = start + size
    return offsets, end


def _file_of(chunks: Sequence[NDArray[np.uint8]], offsets: Sequence[int], size: int) -> int:
    """Descriptor of an anonymous file that holds the chunks at their offsets."""
    descriptor = _anonymous_file()
    try:
        os.ftruncate(descriptor, size)
        for chunk, offset in zip(chunks, offsets, strict=True):
            written = 0
            while written < chunk.nbytes:
                written += os.pwrite(descriptor, chunk[written:].data, offset + written)
        if _SEALS:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


if hasattr(os, "memfd_create"):
    _SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

    def _anonymous_file() -> int:
        return os.memfd_create("ortoscope", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
else:  # systems other than Linux
    _SEALS = 0

    def _anonymous_file() -> int:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def _mapped(descriptor: int, size: int, access: int) -> mmap.mmap:
    """The content of an anonymous file; what is written to it stays in this process."""
    if _SEALS and fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ChannelError("the arrays are not sealed")
    try:
        return mmap.mmap(descriptor, size, access=access)
    except (OSError, ValueError) as error:
        raise ChannelError("the arrays are not there") from error
