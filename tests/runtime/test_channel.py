import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ortoscope_service.errors import Code, OrtoscopeError, error_from_json, error_to_json
from ortoscope_service.runtime.channel import Array, Channel, ChannelError, Message


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket, Channel]]:
    """A channel, the socket of the other end, and a channel on that."""
    near, far = socket.socketpair()
    channel, other = Channel(near), Channel(far)
    yield channel, far, other
    channel.close()
    other.close()


def passed(ends: tuple[Channel, socket.socket, Channel], arrays: list[Array]) -> list[Array]:
    channel, _, other = ends
    sender = threading.Thread(target=channel.send, args=({"text": "é"}, arrays))
    sender.start()
    message = other.receive()
    sender.join()
    assert message is not None
    assert message.body == {"text": "é"}
    return message.arrays


@pytest.mark.parametrize("repeat", [1, 100_000])
def test_arrays_of_every_kind_arrive_as_they_were_sent(ends, repeat: int) -> None:
    numbers = [
        np.arange(6).reshape(2, 3).astype(kind) for kind in ("?", "u1", "i1", "i8", "u4", "f2", "f4", "f8", ">f4", "c8")
    ]
    others = [
        np.float32(7).reshape(()),
        np.zeros((3, 0, 2), np.float16),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(20)[::3],
        np.array([["", "é\0"], ["long" * 50, "\ud800"]], object),
        np.tile(np.float32(1.5), repeat),
    ]
    received = passed(ends, numbers + others)
    for sent, got in zip(numbers + others, received, strict=True):
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent, strict=True)


def test_what_arrives_can_be_written_to_and_changes_nothing_at_the_sender(ends) -> None:
    sent = np.zeros(1_000_000, np.float32)
    (got,) = passed(ends, [sent])
    got += 1
    assert got.sum() == 1_000_000
    assert sent.sum() == 0


def test_descriptors_are_not_used_up(ends) -> None:
    passed(ends, [np.zeros(10**6)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        passed(ends, [np.zeros(10**6)])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_messages_of_several_threads_do_not_mix(ends) -> None:
    channel, _, other = ends
    sizes = [3, 10**5, 7, 2 * 10**5]
    threads = [
        threading.Thread(
            target=lambda n=n: [channel.send({"size": n}, [np.full(n, n)]) for _ in range(10)],  # type: ignore[misc]
        )
        for n in sizes
    ]
    for thread in threads:
        thread.start()
    for _ in range(10 * len(sizes)):
        message = other.receive()
        assert message is not None
        np.testing.assert_array_equal(message.arrays[0], np.full(message.body["size"], message.body["size"]))
    for thread in threads:
        thread.join()


def test_the_end_of_the_other_side_is_the_end_of_messages(ends) -> None:
    channel, _, other = ends
    channel.close()
    assert other.receive() is None
    with pytest.raises(BrokenPipeError):
        other.send({})


def test_what_is_no_message_is_refused(ends) -> None:
    channel, far, _ = ends
    far.sendall(struct.pack("<IQ", 3, 0) + b"[1}")
    with pytest.raises(ChannelError):
        channel.receive()


@pytest.mark.parametrize(
    "described", ["[['O8',[1],0,8]]", "[['<f4',[3],0,8]]", "[['<f4',[2],100,8]]", "[['O',[1],0,8]]"]
)
def test_arrays_that_are_not_there_or_no_numbers_are_refused(ends, described: str) -> None:
    channel, far, _ = ends
    text = f"[{{}},{described}]".replace("'", '"').encode()
    far.sendall(struct.pack("<IQ", len(text), 8) + text + bytes(8))
    with pytest.raises(ChannelError):
        channel.receive()


def test_memory_that_the_sender_could_still_take_away_is_refused(ends) -> None:
    channel, far, _ = ends
    descriptor = os.memfd_create("unsealed")
    os.ftruncate(descriptor, 10**6)
    text = b'[{},[["<f4",[250000],0,1000000]]]'
    socket.send_fds(far, [struct.pack("<IQ", len(text), 10**6) + text], [descriptor])
    os.close(descriptor)
    with pytest.raises(ChannelError, match="sealed"):
        channel.receive()


def test_errors_keep_all_their_fields() -> None:
    error = OrtoscopeError(Code.NOT_FOUND, "REASON", "What.", field="taps[1]", metadata={"tap": "é"})
    again = error_from_json(error_to_json(error))
    assert (again.code, again.reason, again.message, again.field, again.metadata) == (
        error.code,
        error.reason,
        error.message,
        error.field,
        error.metadata,
    )


def test_a_message_without_arrays_is_a_message(ends) -> None:
    channel, _, other = ends
    channel.send({"id": 1})
    assert other.receive() == Message({"id": 1}, [])
