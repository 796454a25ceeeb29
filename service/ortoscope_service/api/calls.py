"""What a call brings with it besides its request: a deadline, a client that may go away, a stream of messages."""

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import grpc

from ortoscope_service.runtime.cancellation import Cancellation

# gRPC reports the lack of a deadline as one in the far future.
_NO_DEADLINE_SECONDS = 10 * 365 * 86400

Message = TypeVar("Message")


def seconds_left(context: grpc.ServicerContext, default_seconds: float) -> float:
    """Seconds until a call's deadline; `default_seconds` if it came without one."""
    remaining = context.time_remaining()
    return default_seconds if remaining is None or remaining > _NO_DEADLINE_SECONDS else float(remaining)


def bind_cancellation(context: grpc.ServicerContext, default_seconds: float) -> Cancellation:
    """A cancellation that is raised when the call ends, its client goes away, or its deadline passes.

    Args:
        context: The call.
        default_seconds: The deadline of a call that came without one.
    """
    cancellation = Cancellation(time.monotonic() + seconds_left(context, default_seconds))
    if not context.add_callback(cancellation.cancel):
        cancellation.cancel()
    return cancellation


def read_messages(messages: Iterator[Message], cancellation: Cancellation) -> Iterator[Message]:
    """Yields the messages of a client, reading each when it is asked for, and waiting no longer than the deadline.

    Raises:
        OrtoscopeError: CANCELLED or DEADLINE_EXCEEDED.
    """
    stopped: Future[Message | None] = Future()
    # gRPC's own iterator cannot be interrupted by a deadline that the server set; a thread may wait in it until the
    # call, which ends with this generator, ends it too.
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="messages")
    try:
        with cancellation.on_cancel(lambda: stopped.set_result(None)):
            while True:
                coming = reader.submit(next, messages, None)
                wait((coming, stopped), return_when=FIRST_COMPLETED)
                cancellation.raise_if_cancelled()
                message = coming.result()
                if message is None:
                    return
                yield message
    finally:
        reader.shutdown(wait=False)
