import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
from onnx import TensorProto, helper, numpy_helper
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import (
    Session,
    SessionConfig,
    TensorInfo,
    check_installation,
    onnxruntime_version,
)
from ortoscope_service.runtime.threads import available_threads

CNN = tiny_models.tiny_cnn().SerializeToString()


def refusal(call: Callable[..., object], *arguments: Any, **keywords: Any) -> OrtoscopeError:
    with pytest.raises(OrtoscopeError) as caught:
        call(*arguments, **keywords)
    return caught.value


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, object] | None = None,
) -> bytes:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def endless() -> bytes:
    """Loop that adds 1 to x, 2^40 times."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Add", ["state", "one"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            tiny_models.float_value("state", [1]),
        ],
        [helper.make_tensor_value_info("c_out", TensorProto.BOOL, []), tiny_models.float_value("next", [1])],
    )
    return model(
        [helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body)],
        [tiny_models.float_value("x", [1])],
        [tiny_models.float_value("y", [1])],
        {"trips": np.int64(2**40), "go": np.bool_(True), "one": np.ones(1, np.float32)},
    )


def resident_bytes() -> int:
    status = Path("/proc/self/statm").read_text(encoding="utf-8").split()
    return int(status[1]) * 4096


def test_inputs_outputs_and_config_are_told() -> None:
    session = Session(CNN)
    assert session.inputs == (TensorInfo("image", "float32", (-1, 3, 16, 16)),)
    assert session.outputs == (TensorInfo("logits", "float32", (-1, 10)),)
    assert session.providers == ("CPUExecutionProvider",)
    assert session.config == replace(SessionConfig(), intra_op_threads=available_threads())
    assert Session(CNN, SessionConfig(intra_op_threads=1)).config.intra_op_threads == 1
    assert onnxruntime_version() == onnxruntime.__version__


def test_results_are_those_of_onnxruntime() -> None:
    feeds = tiny_models.random_feeds(tiny_models.tiny_cnn(), 3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_threads()
    (expected,) = onnxruntime.InferenceSession(CNN, options, providers=["CPUExecutionProvider"]).run(None, feeds)
    result = Session(CNN).run(feeds)
    assert list(result) == ["logits"]
    np.testing.assert_array_equal(result["logits"], expected)


@pytest.mark.parametrize("level", ["disabled", "basic", "extended", "all"])
def test_every_optimization_level_computes_the_same_within_rounding(level: str) -> None:
    feeds = tiny_models.random_feeds(tiny_models.tiny_cnn(), 2)
    expected = Session(CNN, SessionConfig(optimization_level="disabled")).run(feeds)["logits"]
    actual = Session(CNN, SessionConfig(optimization_level=level)).run(feeds)["logits"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_wrong_configurations_are_refused() -> None:
    assert refusal(Session, CNN, SessionConfig(optimization_level="fastest")).reason == "UNKNOWN_OPTIMIZATION_LEVEL"
    assert refusal(Session, CNN, SessionConfig(intra_op_threads=-1)).reason == "INVALID_THREADS"
    assert refusal(Session, CNN, SessionConfig(providers=())).reason == "UNKNOWN_PROVIDER"


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "NonsenseExecutionProvider"])
def test_a_provider_that_is_not_there_is_refused_and_not_replaced_by_the_cpu(provider: str) -> None:
    error = refusal(Session, CNN, SessionConfig(providers=(provider, "CPUExecutionProvider")))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "UNKNOWN_PROVIDER")
    assert provider in error.message
    assert "CPUExecutionProvider" in error.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"garbage", "NOT_ONNX"),
        (b"", "MODEL_NOT_LOADABLE"),
        (
            model(
                [helper.make_node("Nonsense", ["x"], ["y"])],
                [tiny_models.float_value("x", [1])],
                [tiny_models.float_value("y", [1])],
            ),
            "MODEL_NOT_LOADABLE",
        ),
        (
            model(
                [helper.make_node("Conv", ["x", "w"], ["y"])],
                [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1, 1, 3, 3])],
                [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
                {"w": np.ones((1, 1, 3, 3))},
            ),
            "OPERATOR_NOT_IMPLEMENTED",
        ),
    ],
)
def test_models_that_cannot_be_loaded_have_their_reason_and_the_log_the_details(
    data: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = refusal(Session, data)
    assert error.reason == reason
    assert "onnxruntime_src" not in error.message
    assert "ONNXRuntimeError" not in error.message
    assert "ONNX Runtime refused a model" in caplog.text


IMAGE = np.zeros((1, 3, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ({}, "MISSING_INPUT"),
        ({"image": IMAGE, "other": IMAGE}, "UNKNOWN_INPUT"),
        ({"image": IMAGE.astype(np.float64)}, "INVALID_TENSOR"),
        ({"image": IMAGE[0]}, "INVALID_TENSOR"),
        ({"image": IMAGE[:, :, :15]}, "INVALID_TENSOR"),
    ],
)
def test_wrong_feeds_are_refused_before_they_reach_onnxruntime(feeds: dict[str, np.ndarray], reason: str) -> None:
    error = refusal(Session(CNN).run, feeds)
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, reason)
    assert "'image'" in error.message


def test_a_wrong_shape_is_told_beside_the_right_one() -> None:
    error = refusal(Session(CNN).run, {"image": IMAGE[:, :, :15].astype(np.uint8)})
    assert error.metadata == {
        "input": "image",
        "expected_type": "float32",
        "expected_shape": "(any, 3, 16, 16)",
        "given_type": "uint8",
        "given_shape": "(1, 3, 15, 16)",
    }


def test_odd_arrays_of_the_right_kind_are_taken() -> None:
    feeds = tiny_models.random_feeds(tiny_models.tiny_cnn(), 2)
    expected = Session(CNN).run(feeds)["logits"]
    strided = np.repeat(feeds["image"], 2, axis=0)[::2]
    swapped = feeds["image"].astype(">f4")
    for image in (strided, swapped, np.asfortranarray(feeds["image"])):
        np.testing.assert_array_equal(Session(CNN).run({"image": image})["logits"], expected)


def test_an_empty_batch_and_numbers_that_are_none_pass() -> None:
    assert Session(CNN).run({"image": np.zeros((0, 3, 16, 16), np.float32)})["logits"].shape == (0, 10)
    assert np.isnan(Session(CNN).run({"image": np.full_like(IMAGE, np.nan)})["logits"]).any()


def test_scalars_and_all_common_types_go_in_and_out() -> None:
    types = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL, "u": TensorProto.UINT8}
    data = model(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in types],
        [helper.make_tensor_value_info(name, element, []) for name, element in types.items()],
        [helper.make_tensor_value_info(f"{name}_out", element, []) for name, element in types.items()],
    )
    feeds = {"f": np.array(1.5, np.float32), "i": np.array(7), "b": np.array(True), "u": np.array(9, np.uint8)}
    results = Session(data).run(feeds)
    for name, value in feeds.items():
        assert results[f"{name}_out"].dtype == value.dtype
        assert results[f"{name}_out"] == value


def test_sequences_are_refused_at_loading() -> None:
    data = model(
        [helper.make_node("SequenceConstruct", ["x"], ["s"])],
        [tiny_models.float_value("x", [1])],
        [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)],
    )
    assert refusal(Session, data).reason == "UNSUPPORTED_TYPE"


def test_a_run_that_fails_names_the_node_and_leaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    data = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="the_reshape")],
        [tiny_models.float_value("x", ["n", 4])],
        [tiny_models.float_value("y", [1, 4])],
        {"shape": np.array([1, 4])},
    )
    session = Session(data)
    session.run({"x": np.zeros((1, 4), np.float32)})
    error = refusal(session.run, {"x": np.zeros((3, 4), np.float32)})
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "MODEL_RUN_FAILED")
    assert error.metadata == {"operator": "Reshape", "node": "the_reshape"}
    assert "onnxruntime" not in error.message
    assert "onnxruntime" in caplog.text


def test_asking_for_too_much_memory_is_resource_exhaustion_and_the_session_lives_on() -> None:
    data = model(
        [helper.make_node("ConstantOfShape", ["size"], ["y"])],
        [helper.make_tensor_value_info("size", TensorProto.INT64, [1])],
        [tiny_models.float_value("y", ["n"])],
    )
    session = Session(data)
    error = refusal(session.run, {"size": np.array([2**45])})
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
    assert session.run({"size": np.array([3])})["y"].shape == (3,)


class TestCancelling:
    def test_a_run_stops_soon_after_it_is_cancelled(self) -> None:
        session = Session(endless())
        cancellation = Cancellation()
        canceller = threading.Timer(0.1, cancellation.cancel)
        canceller.start()
        start = time.monotonic()
        error = refusal(session.run, {"x": np.zeros(1, np.float32)}, cancellation)
        assert error.code is Code.CANCELLED
        assert time.monotonic() - start < 5
        canceller.join()

    def test_a_run_stops_at_its_deadline(self) -> None:
        error = refusal(Session(endless()).run, {"x": np.zeros(1, np.float32)}, Cancellation(time.monotonic() + 0.1))
        assert error.code is Code.DEADLINE_EXCEEDED

    def test_nothing_is_run_once_cancelled(self) -> None:
        cancellation = Cancellation()
        cancellation.cancel()
        assert refusal(Session(endless()).run, {"x": np.zeros(1, np.float32)}, cancellation).code is Code.CANCELLED

    def test_nothing_is_loaded_once_cancelled(self) -> None:
        cancellation = Cancellation(time.monotonic() - 1)
        assert refusal(Session, CNN, cancellation=cancellation).code is Code.DEADLINE_EXCEEDED

    def test_a_session_runs_again_after_it_was_stopped(self) -> None:
        session = Session(CNN)
        cancellation = Cancellation()
        cancellation.cancel()
        refusal(session.run, {"image": IMAGE}, cancellation)
        assert session.run({"image": IMAGE}, Cancellation())["logits"].shape == (1, 10)

    def test_cancelling_one_run_leaves_the_others_alone(self) -> None:
        session = Session(endless())
        first, second = Cancellation(), Cancellation()
        codes: list[Code] = []

        def run(cancellation: Cancellation) -> None:
            codes.append(refusal(session.run, {"x": np.zeros(1, np.float32)}, cancellation).code)

        threads = [threading.Thread(target=run, args=(one,)) for one in (first, second)]
        for thread in threads:
            thread.start()
        first.cancel()
        threads[0].join(10)
        assert codes == [Code.CANCELLED]
        assert threads[1].is_alive()
        second.cancel(Code.DEADLINE_EXCEEDED)
        threads[1].join(10)
        assert codes == [Code.CANCELLED, Code.DEADLINE_EXCEEDED]


def test_one_session_serves_several_threads_with_equal_results() -> None:
    session = Session(CNN)
    feeds = tiny_models.random_feeds(tiny_models.tiny_cnn(), 4)
    expected = session.run(feeds)["logits"]
    differing: list[int] = []

    def work() -> None:
        differing.extend(i for i in range(20) if not np.array_equal(session.run(feeds)["logits"], expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differing == []


def test_memory_goes_back_after_a_run_unless_it_is_kept() -> None:
    """The working memory of a batch of 4000 is some 90 MB."""
    session = Session(CNN, SessionConfig(intra_op_threads=1))
    session.run({"image": IMAGE})
    feeds = {"image": np.zeros((4000, 3, 16, 16), np.float32)}
    before = resident_bytes()
    session.run(feeds, keep_memory=True)
    assert resident_bytes() - before > 60e6
    session.run(feeds)
    assert resident_bytes() - before < 20e6


class TestInstallation:
    def install(self, folder: Path, *names: str) -> list[str]:
        for name in names:
            info = folder / f"{name.replace('-', '_')}-1.31.1.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
        return [str(folder)]

    def test_this_environment_is_sound(self) -> None:
        check_installation()

    @pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
    def test_one_distribution_is_sound(self, tmp_path: Path, name: str) -> None:
        check_installation(self.install(tmp_path, name, "onnx", "numpy"))

    def test_two_distributions_over_each_other_are_refused_by_name(self, tmp_path: Path) -> None:
        error = refusal(check_installation, self.install(tmp_path, "onnxruntime", "onnxruntime-gpu"))
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "CONFLICTING_ONNXRUNTIME")
        assert error.metadata == {"distributions": "onnxruntime, onnxruntime-gpu"}


def test_nothing_of_onnxruntime_is_printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    refusal(Session(endless()).run, {"x": np.zeros(1, np.float32)}, Cancellation(time.monotonic() + 0.05))
    refusal(Session, b"garbage")
    Session(tiny_models.light_model("squeezenet").SerializeToString())
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
