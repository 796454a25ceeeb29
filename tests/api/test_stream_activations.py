import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from ortoscope.v1.activations_pb2 import (
    ActivateRequest,
    ActivationInput,
    StreamActivationsRequest,
    StreamActivationsResponse,
    TapSelection,
)
from ortoscope_service.config import ServerConfig
from pictures import encode, photo
from serving import Failure, Stubs, serving, to_array

Refused = Callable[..., Failure]
TAPS = [TapSelection(tap="relu6"), TapSelection(tap="flat", reduction=TapSelection.REDUCTION_MEAN)]
CONFIG = StreamActivationsRequest(config=StreamActivationsRequest.Config(model="models/cnn", taps=TAPS))


def inputs(*seeds: int) -> list[ActivationInput]:
    return [ActivationInput(image=encode(photo(20, 30, seed=seed), "PNG")) for seed in seeds]


def batch(tag: str, *seeds: int) -> StreamActivationsRequest:
    return StreamActivationsRequest(batch=StreamActivationsRequest.Batch(inputs=inputs(*seeds), tag=tag))


def test_a_stream_gives_what_activate_gives_in_order(stubs: Stubs) -> None:
    messages = [CONFIG, batch("a", 0, 1), batch("b", 2), batch("c", 3, 4, 5, 6, 7)]
    responses = list(stubs.activations.StreamActivations(iter(messages)))
    assert [response.tag for response in responses] == ["a", "b", "c"]
    assert [response.HasField("provenance") for response in responses] == [True, False, False]
    assert responses[0].provenance.model == "models/cnn/versions/2"
    for response, message in zip(responses, messages[1:], strict=True):
        request = ActivateRequest(model="models/cnn", taps=TAPS, inputs=message.batch.inputs)
        for got, expected in zip(response.taps, stubs.activations.Activate(request).taps, strict=True):
            assert got.tap == expected.tap
            np.testing.assert_array_equal(to_array(got.values), to_array(expected.values))


def test_a_stream_without_batches_ends_without_answers(stubs: Stubs) -> None:
    assert list(stubs.activations.StreamActivations(iter([CONFIG]))) == []
    assert list(stubs.activations.StreamActivations(iter([]))) == []


@pytest.mark.parametrize(
    ("messages", "code", "reason", "field"),
    [
        ([batch("a", 0)], "INVALID_ARGUMENT", "UNEXPECTED_MESSAGE", "config"),
        ([StreamActivationsRequest()], "INVALID_ARGUMENT", "UNEXPECTED_MESSAGE", "config"),
        ([CONFIG, CONFIG], "INVALID_ARGUMENT", "UNEXPECTED_MESSAGE", "batch"),
        ([CONFIG, StreamActivationsRequest()], "INVALID_ARGUMENT", "UNEXPECTED_MESSAGE", "batch"),
        ([CONFIG, batch("a")], "INVALID_ARGUMENT", "NO_INPUTS", "batch.inputs"),
        ([CONFIG, batch("a", *range(11))], "RESOURCE_EXHAUSTED", "TOO_MANY_ITEMS", "batch.inputs"),
        (
            [StreamActivationsRequest(config=StreamActivationsRequest.Config(model="models/nothing", taps=TAPS))],
            "NOT_FOUND",
            "UNKNOWN_MODEL",
            "config.model",
        ),
        (
            [StreamActivationsRequest(config=StreamActivationsRequest.Config(model="models/cnn"))],
            "INVALID_ARGUMENT",
            "NO_TAPS",
            "config.taps",
        ),
        (
            [
                StreamActivationsRequest(
                    config=StreamActivationsRequest.Config(model="models/cnn", taps=[TapSelection(tap="x")])
                )
            ],
            "NOT_FOUND",
            "UNKNOWN_TAP",
            "config.taps[0].tap",
        ),
    ],
)
def test_what_does_not_fit_ends_the_stream(
    stubs: Stubs, refused: Refused, messages: list[StreamActivationsRequest], code: str, reason: str, field: str
) -> None:
    failure = refused(stubs.activations.StreamActivations, iter(messages))
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)


def test_answers_before_an_error_arrive(stubs: Stubs) -> None:
    bad = StreamActivationsRequest(
        batch=StreamActivationsRequest.Batch(inputs=[*inputs(0), ActivationInput(image=b"no image")])
    )
    responses = stubs.activations.StreamActivations(iter([CONFIG, batch("good", 0), bad]))
    assert next(responses).tag == "good"
    with pytest.raises(grpc.RpcError) as caught:
        next(responses)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_batch_is_answered_before_the_next_is_sent(stubs: Stubs) -> None:
    to_send: queue.Queue[StreamActivationsRequest | None] = queue.Queue()
    responses = stubs.activations.StreamActivations(iter(to_send.get, None), timeout=30)
    to_send.put(CONFIG)
    for number in range(3):
        to_send.put(batch(str(number), number))
        assert next(responses).tag == str(number)
    to_send.put(None)
    assert list(responses) == []


def test_a_client_that_does_not_read_is_held_back(stubs: Stubs) -> None:
    """What is under way stays within a few windows of flow control, far below what the client would like to send."""
    large = StreamActivationsRequest(
        config=StreamActivationsRequest.Config(model="models/cnn", taps=[TapSelection(tap="conv1"), *TAPS])
    )
    sent: list[int] = []
    total = 6000

    def messages() -> Iterator[StreamActivationsRequest]:
        yield large
        message = batch("x", *range(10))
        for number in range(total):
            sent.append(number)
            yield message

    responses = stubs.activations.StreamActivations(messages())
    assert isinstance(next(responses), StreamActivationsResponse)
    before = -1
    while before != len(sent):
        before = len(sent)
        time.sleep(1)
    assert before < total
    for _ in range(200):
        next(responses)
    time.sleep(1)
    assert len(sent) > before
    responses.cancel()


def test_a_client_that_leaves_frees_its_place(config: ServerConfig, tmp_path: Path) -> None:
    small = replace(config, store=tmp_path, limits=replace(config.limits, max_concurrent_rpcs=1))
    silence = threading.Event()

    def falls_silent() -> Iterator[Any]:
        yield CONFIG
        yield batch("a", 0)
        silence.wait(30)

    with serving(small) as (_, stubs):
        responses = stubs.activations.StreamActivations(falls_silent())
        next(responses)
        request = ActivateRequest(model="models/cnn", taps=TAPS, inputs=inputs(0))
        with pytest.raises(grpc.RpcError) as caught:
            stubs.activations.Activate(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        responses.cancel()
        time.sleep(0.9)
        stubs.activations.Activate(request)
        silence.set()
