import datetime
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from ortoscope.v1 import activations_pb2, blobs_pb2, tensors_pb2
from ortoscope.v1.activations_pb2 import ActivateRequest, ActivationInput, TapSelection
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.threads import available_threads
from pictures import encode, photo, png_of_size
from PIL import Image
from serving import PREPROCESSING, Failure, Stubs, run_directly, serving, to_array, to_tensor, two_inputs
from tiny_models import random_feeds, tiny_cnn, tiny_transformer

Refused = Callable[..., Failure]


def assert_close(actual: NDArray[Any], expected: NDArray[Any]) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def pictures(count: int) -> list[bytes]:
    return [encode(photo(20, 30, seed=seed), "PNG") for seed in range(count)]


def picture_batch(images: list[bytes]) -> NDArray[np.float32]:
    """What the pictures become, by the definition of "squash" and (pixel - mean) / std."""
    import io

    batch = []
    for data in images:
        resized = Image.open(io.BytesIO(data)).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
        batch.append((np.asarray(resized, np.float32).transpose(2, 0, 1) - 127) / 128)
    return np.stack(batch)


def activate(stubs: Stubs, model: str, taps: list[Any], inputs: list[Any]) -> list[activations_pb2.TapActivations]:
    return list(stubs.activations.Activate(ActivateRequest(model=model, taps=taps, inputs=inputs)).taps)


def test_whole_maps_of_several_taps_equal_the_model_run_directly(stubs: Stubs) -> None:
    images = pictures(6)  # more than one run of the model at batch size 4
    names = ["relu6", "conv1", "flat", "logits"]
    got = activate(
        stubs, "models/cnn", [TapSelection(tap=name) for name in names], [ActivationInput(image=i) for i in images]
    )
    expected = run_directly(tiny_cnn(seed=2), names, {"image": picture_batch(images)})
    assert [tap.tap for tap in got] == [f"models/cnn/versions/2/taps/{name}" for name in names]
    for tap, name in zip(got, names, strict=True):
        assert tap.reduction == TapSelection.REDUCTION_NONE
        assert tap.unit_axis == 1
        assert not tap.HasField("units")
        assert not tap.HasField("sites")
        assert_close(to_array(tap.values), expected[name])


def test_a_version_that_is_named_is_the_one_that_runs(stubs: Stubs) -> None:
    image = pictures(1)
    (got,) = activate(stubs, "models/cnn/versions/1", [TapSelection(tap="flat")], [ActivationInput(image=image[0])])
    expected = run_directly(tiny_cnn(seed=1), ["flat"], {"image": picture_batch(image)})["flat"]
    assert_close(to_array(got.values), expected)
    assert got.tap == "models/cnn/versions/1/taps/flat"


def test_reductions_are_what_they_say(stubs: Stubs) -> None:
    image = pictures(3)
    whole = run_directly(tiny_cnn(seed=2), ["relu6"], {"image": picture_batch(image)})["relu6"]
    flat = whole.reshape(3, 12, -1)

    def reduced(reduction: Any, **options: Any) -> activations_pb2.TapActivations:
        selection = TapSelection(tap="relu6", reduction=reduction, **options)
        (got,) = activate(stubs, "models/cnn", [selection], [ActivationInput(image=data) for data in image])
        assert (got.reduction, got.unit_axis) == (reduction, 1)
        return got

    mean = reduced(TapSelection.REDUCTION_MEAN)
    assert_close(to_array(mean.values), flat.mean(axis=2))
    assert not mean.HasField("sites")

    largest = reduced(TapSelection.REDUCTION_MAX)
    assert_close(to_array(largest.values), flat.max(axis=2))
    sites = to_array(largest.sites)
    assert sites.shape == (3, 12, 2)
    assert sites.dtype == np.int64
    rows, units = np.ogrid[:3, :12]
    assert_close(whole[rows, units, sites[..., 0], sites[..., 1]], flat.max(axis=2))

    assert_close(to_array(reduced(TapSelection.REDUCTION_SITE, site=[2, -1]).values), whole[:, :, 2, 7])

    top = reduced(TapSelection.REDUCTION_TOP_UNITS, top_units=3)
    values, units_of_values = to_array(top.values), to_array(top.units)
    assert values.shape == units_of_values.shape == (3, 3)
    assert_close(values, -np.sort(-flat.max(axis=2), axis=1)[:, :3])
    assert_close(np.take_along_axis(flat.max(axis=2), units_of_values, axis=1), values)
    assert to_array(top.sites).shape == (3, 3, 2)
    assert to_array(reduced(TapSelection.REDUCTION_TOP_UNITS).values).shape == (3, 10)


def test_a_vector_has_no_sites(stubs: Stubs) -> None:
    selection = TapSelection(tap="flat", reduction=TapSelection.REDUCTION_MAX)
    (got,) = activate(stubs, "models/cnn", [selection], [ActivationInput(image=pictures(1)[0])])
    assert to_array(got.values).shape == (1, 12)
    assert not got.HasField("sites")


def test_a_fixed_batch_gives_the_same_values_for_any_number_of_items(stubs: Stubs) -> None:
    image = pictures(5)
    inputs = [ActivationInput(image=data) for data in image]
    (free,) = activate(stubs, "models/cnn/versions/2", [TapSelection(tap="add")], inputs)
    (fixed,) = activate(stubs, "models/fixed", [TapSelection(tap="add")], inputs)
    assert_close(to_array(fixed.values), to_array(free.values))


def test_tensors_of_tokens_are_taken_as_they_are(stubs: Stubs) -> None:
    model = tiny_transformer()
    feeds = random_feeds(model, 3)
    inputs = [ActivationInput(tensor=to_tensor(item)) for item in feeds["input_ids"]]
    names = ["block0/gelu", "block0/residual2"]
    got = activate(stubs, "models/text", [TapSelection(tap=name) for name in names], inputs)
    expected = run_directly(model, names, feeds)
    for tap, name in zip(got, names, strict=True):
        assert tap.unit_axis == 2
        assert_close(to_array(tap.values), expected[name])


def test_a_model_with_several_inputs_takes_them_by_name(stubs: Stubs) -> None:
    feeds = random_feeds(two_inputs(), 2)
    inputs = [
        ActivationInput(
            tensors=activations_pb2.NamedTensors(tensors={name: to_tensor(value[i]) for name, value in feeds.items()})
        )
        for i in range(2)
    ]
    got = activate(stubs, "models/two-inputs", [TapSelection(tap="half"), TapSelection(tap="sum")], inputs)
    np.testing.assert_array_equal(to_array(got[0].values), np.maximum(feeds["left"], 0))
    np.testing.assert_array_equal(to_array(got[1].values), np.maximum(feeds["left"], 0) + feeds["right"])
    (half,) = activate(stubs, "models/two-inputs", [TapSelection(tap="half")], inputs)  # a trunk without `right`
    np.testing.assert_array_equal(to_array(half.values), to_array(got[0].values))


def test_pictures_come_as_bytes_blobs_images_of_datasets_or_tensors_alike(stubs: Stubs, datasets: Path) -> None:
    data = (datasets / "photos" / "b" / "3.png").read_bytes()
    name = f"blobs/{hashlib.sha256(data).hexdigest()}"
    stubs.blobs.WriteBlob(iter([blobs_pb2.WriteBlobRequest(name=name, size_bytes=len(data), data=data)]))
    inputs = [
        ActivationInput(image=data),
        ActivationInput(blob=name),
        ActivationInput(dataset_image="datasets/photos/images/3"),
        ActivationInput(tensor=to_tensor(picture_batch([data])[0])),
    ]
    (got,) = activate(stubs, "models/cnn", [TapSelection(tap="relu1")], inputs)
    values = to_array(got.values)
    for value in values[1:]:
        assert_close(value, values[0])


def test_provenance_is_complete(stubs: Stubs, models: ModelRepository) -> None:
    before = datetime.datetime.now(datetime.UTC)
    request = ActivateRequest(
        model="models/cnn", taps=[TapSelection(tap="flat")], inputs=[ActivationInput(image=pictures(1)[0])]
    )
    provenance = stubs.activations.Activate(request).provenance
    assert provenance.model == "models/cnn/versions/2"
    assert provenance.model_digest == models.get("cnn", 2).manifest.digest
    assert provenance.spec_digest.startswith("sha256:")
    assert provenance.ortoscope_version
    assert provenance.onnxruntime_version
    assert provenance.execution_provider == "CPUExecutionProvider"
    assert provenance.optimization_level == "all"
    assert provenance.intra_op_threads == available_threads()
    assert (provenance.batch_size, provenance.items) == (4, 1)
    assert provenance.preprocessing == PREPROCESSING.describe()
    assert provenance.processor
    start = provenance.start_time.ToDatetime(datetime.UTC)
    end = provenance.end_time.ToDatetime(datetime.UTC)
    assert before - datetime.timedelta(seconds=1) <= start <= end
    again = stubs.activations.Activate(request).provenance
    assert again.spec_digest == provenance.spec_digest
    request.taps[0].tap = "conv1"
    assert stubs.activations.Activate(request).provenance.spec_digest != provenance.spec_digest


def request(**changes: Any) -> ActivateRequest:
    fields: dict[str, Any] = {
        "model": "models/cnn",
        "taps": [TapSelection(tap="flat")],
        "inputs": [ActivationInput(image=pictures(1)[0])],
    }
    return ActivateRequest(**{**fields, **changes})


PIXELS = np.zeros((3, 16, 16), np.float32)
SHORT = tensors_pb2.Tensor(data_type=tensors_pb2.DATA_TYPE_FLOAT32, shape=[3, 16, 16], data=b"1234")


@pytest.mark.parametrize(
    ("changes", "code", "reason", "field"),
    [
        ({"model": "cnn"}, "INVALID_ARGUMENT", "INVALID_NAME", "model"),
        ({"model": "models/nothing"}, "NOT_FOUND", "UNKNOWN_MODEL", "model"),
        ({"model": "models/cnn/versions/9"}, "NOT_FOUND", "UNKNOWN_VERSION", "model"),
        ({"taps": []}, "INVALID_ARGUMENT", "NO_TAPS", "taps"),
        ({"taps": [TapSelection(tap="flap")]}, "NOT_FOUND", "UNKNOWN_TAP", "taps[0].tap"),
        (
            {"taps": [TapSelection(tap="flat"), TapSelection(tap="conv1"), TapSelection(tap="flat")]},
            "INVALID_ARGUMENT",
            "DUPLICATE_TAP",
            "taps[2].tap",
        ),
        (
            {"taps": [TapSelection(tap="flat", reduction=77)]},  # type: ignore[arg-type]
            "INVALID_ARGUMENT",
            "INVALID_REDUCTION",
            "taps[0].reduction",
        ),
        (
            {"taps": [TapSelection(tap="conv1", reduction=TapSelection.REDUCTION_SITE, site=[0, 16])]},
            "INVALID_ARGUMENT",
            "INVALID_SITE",
            "taps[0].site",
        ),
        (
            {"taps": [TapSelection(tap="conv1", reduction=TapSelection.REDUCTION_SITE)]},
            "INVALID_ARGUMENT",
            "INVALID_SITE",
            "taps[0].site",
        ),
        (
            {"taps": [TapSelection(tap="conv1", reduction=TapSelection.REDUCTION_TOP_UNITS, top_units=-1)]},
            "INVALID_ARGUMENT",
            "INVALID_TOP_UNITS",
            "taps[0].top_units",
        ),
        ({"inputs": []}, "INVALID_ARGUMENT", "NO_INPUTS", "inputs"),
        ({"inputs": [ActivationInput()]}, "INVALID_ARGUMENT", "EMPTY_INPUT", "inputs[0]"),
        ({"inputs": [ActivationInput(image=b"")] * 11}, "RESOURCE_EXHAUSTED", "TOO_MANY_ITEMS", "inputs"),
        ({"inputs": [ActivationInput(image=b"")]}, "INVALID_ARGUMENT", "IMAGE_UNREADABLE", "inputs[0].image"),
        ({"inputs": [ActivationInput(image=b"no image")]}, "INVALID_ARGUMENT", "IMAGE_UNREADABLE", "inputs[0].image"),
        (
            {"inputs": [ActivationInput(image=pictures(1)[0]), ActivationInput(image=png_of_size(20_000, 20_000))]},
            "INVALID_ARGUMENT",
            "IMAGE_TOO_LARGE",
            "inputs[1].image",
        ),
        (
            {"inputs": [ActivationInput(image=encode(photo().convert("CMYK"), "JPEG"))]},
            "INVALID_ARGUMENT",
            "IMAGE_MODE",
            "inputs[0].image",
        ),
        (
            {"inputs": [ActivationInput(image=encode(Image.new("I;16", (8, 8)), "PNG"))]},
            "INVALID_ARGUMENT",
            "IMAGE_MODE",
            "inputs[0].image",
        ),
        (
            {"inputs": [ActivationInput(image=encode(photo(), "GIF"))]},
            "INVALID_ARGUMENT",
            "IMAGE_FORMAT",
            "inputs[0].image",
        ),
        (
            {
                "inputs": [
                    ActivationInput(
                        image=encode(photo(), "WEBP", save_all=True, append_images=[photo(seed=1)], duration=9)
                    )
                ]
            },
            "INVALID_ARGUMENT",
            "IMAGE_ANIMATED",
            "inputs[0].image",
        ),
        ({"inputs": [ActivationInput(blob="blobs/x")]}, "INVALID_ARGUMENT", "INVALID_NAME", "inputs[0].blob"),
        ({"inputs": [ActivationInput(blob=f"blobs/{'0' * 64}")]}, "NOT_FOUND", "UNKNOWN_BLOB", "inputs[0].blob"),
        (
            {"inputs": [ActivationInput(dataset_image="datasets/photos/images/99")]},
            "NOT_FOUND",
            "UNKNOWN_IMAGE",
            "inputs[0].dataset_image",
        ),
        (
            {"inputs": [ActivationInput(dataset_image="datasets/nothing/images/0")]},
            "NOT_FOUND",
            "UNKNOWN_DATASET",
            "inputs[0].dataset_image",
        ),
        (
            {"inputs": [ActivationInput(dataset_image="datasets/broken/images/0")]},
            "FAILED_PRECONDITION",
            "DATASET_UNREADABLE",
            "inputs[0].dataset_image",
        ),
        (
            {"inputs": [ActivationInput(tensor=to_tensor(PIXELS.astype(np.float64)))]},
            "INVALID_ARGUMENT",
            "TENSOR_TYPE",
            "inputs[0].tensor.data_type",
        ),
        (
            {"inputs": [ActivationInput(tensor=to_tensor(PIXELS[:2]))]},
            "INVALID_ARGUMENT",
            "TENSOR_SHAPE",
            "inputs[0].tensor.shape",
        ),
        (
            {"inputs": [ActivationInput(tensor=to_tensor(PIXELS[None]))]},
            "INVALID_ARGUMENT",
            "TENSOR_SHAPE",
            "inputs[0].tensor.shape",
        ),
        ({"inputs": [ActivationInput(tensor=SHORT)]}, "INVALID_ARGUMENT", "TENSOR_SIZE", "inputs[0].tensor.data"),
        (
            {"inputs": [ActivationInput(tensors={"tensors": {"picture": to_tensor(PIXELS)}})]},
            "INVALID_ARGUMENT",
            "UNKNOWN_INPUT",
            "inputs[0].tensors.tensors",
        ),
        (
            {"model": "models/two-inputs", "taps": [TapSelection(tap="sum")]},
            "FAILED_PRECONDITION",
            "MODEL_INPUT_COUNT",
            "inputs[0].image",
        ),
        (
            {
                "model": "models/two-inputs",
                "taps": [TapSelection(tap="sum")],
                "inputs": [ActivationInput(tensors={"tensors": {"left": to_tensor(np.zeros(4, np.float32))}})],
            },
            "INVALID_ARGUMENT",
            "MISSING_INPUT",
            "inputs[0].tensors.tensors",
        ),
        (
            {"model": "models/text", "taps": [TapSelection(tap="block0/gelu")]},
            "FAILED_PRECONDITION",
            "MODEL_INPUT_NOT_IMAGE",
            "inputs[0].image",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    stubs: Stubs, refused: Refused, changes: Mapping[str, Any], code: str, reason: str, field: str
) -> None:
    failure = refused(stubs.activations.Activate, request(**changes))
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)
    assert failure.message


@pytest.mark.parametrize(
    "shape", [[-1, 16, 16], [2**62, 2**62, 4], [0, 16, 16], [3] * 500, [2**31, 2**31], [-3, -16, 16]]
)
def test_absurd_shapes_allocate_nothing(stubs: Stubs, refused: Refused, shape: list[int]) -> None:
    bad = tensors_pb2.Tensor(data_type=tensors_pb2.DATA_TYPE_FLOAT32, shape=shape, data=b"")
    failure = refused(stubs.activations.Activate, request(inputs=[ActivationInput(tensor=bad)]))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "TENSOR_SHAPE")


def test_tokens_outside_the_vocabulary_are_the_callers_fault_and_the_server_goes_on(
    stubs: Stubs, refused: Refused
) -> None:
    wild = to_tensor(np.full(6, 10**9, np.int64))
    taps = [TapSelection(tap="block0/gelu")]
    failure = refused(
        stubs.activations.Activate, request(model="models/text", taps=taps, inputs=[ActivationInput(tensor=wild)])
    )
    assert failure.code in {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}
    stubs.activations.Activate(request())


def test_a_response_above_the_limit_is_refused_before_anything_runs(
    config: ServerConfig, tmp_path: Path, refused: Refused
) -> None:
    small = replace(config, store=tmp_path, limits=replace(config.limits, max_message_bytes=20_000))
    with serving(small) as (_, stubs):
        # The item is no picture, but the size is looked at first.
        failure = refused(
            stubs.activations.Activate,
            request(taps=[TapSelection(tap="conv1")], inputs=[ActivationInput(image=b"x")] * 3),
        )
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "RESPONSE_TOO_LARGE")
        assert failure.metadata == {"response_bytes": f"{3 * 8 * 16 * 16 * 4}", "max_message_bytes": "20000"}
        assert "20,000" in failure.message
        stubs.activations.Activate(request(inputs=[ActivationInput(image=pictures(1)[0])] * 3))


def test_a_request_above_the_limit_is_refused(config: ServerConfig, tmp_path: Path) -> None:
    small = replace(config, store=tmp_path, limits=replace(config.limits, max_message_bytes=20_000))
    with serving(small) as (_, stubs):
        with pytest.raises(grpc.RpcError) as caught:
            stubs.activations.Activate(request(inputs=[ActivationInput(image=bytes(30_000))]))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            stubs.activations.Activate(
                request(inputs=[ActivationInput(image=bytes(10_000_000))]), compression=grpc.Compression.Gzip
            )
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stubs.activations.Activate(request())


SLOW = ActivateRequest(
    model="models/slow",
    taps=[TapSelection(tap="product399", reduction=TapSelection.REDUCTION_MAX)],
    inputs=[ActivationInput(tensor=to_tensor(np.eye(1024, dtype=np.float32)))],
)


def start_slow_call(stubs: Stubs) -> Any:
    """A call under way on a server with one place, past the making of its session."""
    running = stubs.activations.Activate.future(SLOW)
    time.sleep(1.5)
    assert not running.done()
    return running


def free_again(stubs: Stubs, within: float) -> float:
    """Seconds until a server with one place takes a call again."""
    began = time.monotonic()
    while True:
        try:
            stubs.activations.Activate(request())
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
            assert time.monotonic() - began < within
            time.sleep(0.02)
        else:
            return time.monotonic() - began


@pytest.fixture
def one_place(config: ServerConfig, tmp_path: Path) -> ServerConfig:
    return replace(config, store=tmp_path, limits=replace(config.limits, max_concurrent_rpcs=1))


def test_a_client_that_goes_away_frees_its_place_within_a_second(one_place: ServerConfig, refused: Refused) -> None:
    with serving(one_place) as (_, stubs):
        stubs.activations.Activate(request())  # its session is ready
        running = start_slow_call(stubs)
        failure = refused(stubs.activations.Activate, request())
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
        assert failure.metadata == {"max_concurrent_rpcs": "1"}
        running.cancel()
        assert free_again(stubs, within=10) < 1


def test_a_client_whose_connection_breaks_frees_its_place_within_a_second(one_place: ServerConfig) -> None:
    with serving(one_place) as (server, stubs):
        stubs.activations.Activate(request())
        channel = grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
        start_slow_call(Stubs(channel))
        channel.close()
        assert free_again(stubs, within=10) < 1


def test_a_deadline_stops_the_model_and_frees_the_place(one_place: ServerConfig) -> None:
    with serving(one_place) as (_, stubs):
        stubs.activations.Activate(request())
        with pytest.raises(grpc.RpcError) as caught:
            stubs.activations.Activate(SLOW, timeout=1.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert free_again(stubs, within=10) < 1


def test_the_server_sets_a_deadline_where_the_client_sets_none(one_place: ServerConfig, refused: Refused) -> None:
    limits = replace(one_place.limits, default_deadline_seconds=1)
    with serving(replace(one_place, limits=limits)) as (_, stubs):
        with pytest.raises(grpc.RpcError) as caught:
            stubs.activations.Activate(SLOW)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert free_again(stubs, within=10) < 1


def test_many_callers_at_once_get_their_own_answers(stubs: Stubs) -> None:
    images = pictures(8)
    expected = run_directly(tiny_cnn(seed=2), ["flat"], {"image": picture_batch(images)})["flat"]
    failures: list[BaseException] = []

    def call(number: int) -> None:
        try:
            for _ in range(5):
                (got,) = activate(
                    stubs, "models/cnn", [TapSelection(tap="flat")], [ActivationInput(image=images[number])]
                )
                assert_close(to_array(got.values)[0], expected[number])
        except BaseException as error:  # noqa: BLE001 - told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_our_reference_of_the_preprocessing_is_that_of_the_service() -> None:
    data = pictures(1)[0]
    import io

    np.testing.assert_array_equal(
        preprocess(Image.open(io.BytesIO(data)).convert("RGB"), PREPROCESSING), picture_batch([data])[0]
    )
