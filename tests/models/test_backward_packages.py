"""Backward graphs in a model package: built or given, held against finite differences, kept, and read again."""

import dataclasses

import gradient_models
import numpy as np
import onnx
import pytest
from gradient_models import conv_classifier, dense_classifier, differences, in_double
from model_packages import package
from onboarding_models import mixing_model, saved
from onnx import TensorProto, helper, numpy_helper
from ortoscope_service.analysis.gradients import Source, Target, backward_graph, kept_graph
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.backward import NO_RELAXATIONS, Relaxations
from ortoscope_service.graph.loading import load_model
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.manifest import BackwardGraph, GradientCheck
from ortoscope_service.models.onboarding import backward_check, prepare
from ortoscope_service.models.repository import ModelRepository, backward_file_name, digest_of
from ortoscope_service.runtime.sessions import Session
from tiny_models import GraphBuilder, float_value

CHECK = GradientCheck("passed", "float64", 1e-7, 1e-7, 0.0, 0.0)


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "models")


@pytest.fixture
def classifier(tmp_path):
    return saved(dense_classifier(), tmp_path / "dense.onnx")


def dense_backward(
    *, factor: float = 1.0, shift: float = 0.0, keep: int = gradient_models.FEATURES, batch: int | str = "n"
) -> onnx.ModelProto:
    """What a training framework would export for `logits` of `dense_classifier`, written down by hand.

    Args:
        factor: Of the gradient.
        shift: Of the activation.
        keep: How many of the four elements of each item's gradient are there; the others are zero.
        batch: The batch.
    """
    g = GraphBuilder(0)
    given = gradient_models.weights()
    for name, value in given.items():
        g.constant(name, value)
    mask = np.zeros(gradient_models.FEATURES, np.float32)
    mask[:keep] = factor
    g.node("Gemm", ["x", "w1", "b1"], "hidden")
    g.node("Relu", ["hidden"], "active")
    g.node("Gemm", ["active", "w2", "b2"], "logits")
    g.node("Add", ["logits", g.constant("shift", np.float32(shift))], "activation")
    g.node("MatMul", ["cotangent", g.constant("w2t", given["w2"].T.copy())], "at_active")
    g.node("Greater", ["hidden", g.constant("zero", np.float32(0))], "open")
    g.node("Where", ["open", "at_active", "zero"], "at_hidden")
    g.node("MatMul", ["at_hidden", g.constant("w1t", given["w1"].T.copy())], "at_x")
    g.node("Mul", ["at_x", g.constant("mask", mask)], "gradient.x")
    inputs = [float_value("x", [batch, gradient_models.FEATURES]), float_value("cotangent", [batch, 5])]
    outputs = [float_value("activation", [batch, 5]), float_value("gradient.x", [batch, gradient_models.FEATURES])]
    return g.model(inputs, outputs, opset=20)


def refused(call, *arguments, **options) -> OrtoscopeError:
    with pytest.raises(OrtoscopeError) as caught:
        call(*arguments, **options)
    return caught.value


def test_a_built_graph_becomes_part_of_the_version(repository, tmp_path):
    model = conv_classifier(1)
    report = prepare(saved(model, tmp_path / "net.onnx"), repository, backward=["relu2"])
    version = ModelRepository(repository._root).get("net")
    (entry,) = version.manifest.backward
    content = version.backward_bytes("relu2")
    assert content == (repository._root / "net" / "1" / "backward" / "relu2.onnx").read_bytes()
    assert (entry.tap, entry.origin, entry.relaxations) == ("relu2", "built", ())
    assert (entry.digest, entry.size_bytes) == (digest_of(content), len(content))
    assert (entry.check.outcome, entry.check.precision) == ("passed", "float64")
    assert max(entry.check.along_gradient, entry.check.along_random) < 1e-5
    assert version.backward_bytes("relu") is None
    assert version.backward_bytes("relu2", ("guided",)) is None
    assert "relu2  built " in report.render()
    assert report.to_json()["backward"][0]["tap"] == "relu2"


def test_the_gradient_of_a_stored_graph_is_that_of_the_model_at_any_batch(repository, tmp_path):
    model = conv_classifier(1)
    content = prepare(saved(model, tmp_path / "net.onnx"), repository, backward=["relu2"]).version.backward_bytes(
        "relu2"
    )
    assert content is not None
    rng = np.random.default_rng(3)
    image = rng.standard_normal((2, 2, 6, 5)).astype(np.float32)
    cotangent = rng.standard_normal((2, 4, 3, 3)).astype(np.float32)
    found = Session(content).run({"image": image, "cotangent": cotangent})["gradient.image"]
    tap = in_double(conv_classifier(), "relu2")
    for item in range(2):
        weight = cotangent[item].astype(np.float64)
        expected = differences(
            lambda x, w=weight: (tap({"image": x})["relu2"] * w).sum(axis=(1, 2, 3)), image[item : item + 1]
        )
        np.testing.assert_allclose(found[item], expected[0], rtol=1e-4, atol=1e-5)


def test_all_outputs_are_meant_where_no_tap_is_named(repository, tmp_path):
    g = GraphBuilder(0)
    g.node("MatMul", ["x", g.weight("w", (3, 4), 3)], "scores")
    g.node("Relu", ["scores"], "positive")
    model = g.model([float_value("x", ["n", 3])], [float_value("positive", ["n", 4])], opset=20)
    report = prepare(saved(model, tmp_path / "net.onnx"), repository, backward=["", "scores"])
    assert [graph.tap for graph in report.version.manifest.backward] == ["positive", "scores"]


def test_preparing_the_same_again_adds_nothing(repository, tmp_path):
    file = saved(conv_classifier(), tmp_path / "net.onnx")
    assert prepare(file, repository, backward=["relu"]).added
    assert not prepare(file, repository, backward=["relu"]).added
    assert prepare(file, repository).version.version == 2


def test_a_graph_of_ones_own_is_kept_if_it_is_true(repository, classifier, tmp_path):
    own = saved(dense_backward(), tmp_path / "own.onnx")
    version = prepare(classifier, repository, backward_graphs=[("logits", own)]).version
    (entry,) = version.manifest.backward
    assert (entry.origin, entry.check.outcome) == ("given", "passed")
    point = {"x": np.ones((2, 4), np.float32), "cotangent": np.ones((2, 5), np.float32)}
    content = version.backward_bytes("logits")
    assert content is not None
    for name, value in Session(own.read_bytes()).run(point).items():
        np.testing.assert_array_equal(Session(content).run(point)[name], value)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("wrong", "what", "error"),
    [
        ({"factor": 1.05}, "the derivative along its own gradient", 0.05),
        ({"factor": -1.0}, "the derivative along its own gradient", 2.0),
        ({"keep": 3}, "the derivative along random directions", None),
        ({"keep": 0}, "the derivative along random directions", 1.0),
        ({"shift": 0.1}, "`activation` at ", None),
    ],
)
def test_a_wrong_graph_is_refused_with_the_figures(
    wrong, what, error, large, repository, classifier, tmp_path, monkeypatch
):
    if large:  # differences of ONNX Runtime in float32
        monkeypatch.setattr(backward_check, "_FEW_NUMBERS", 0)
    own = saved(dense_backward(**wrong), tmp_path / "own.onnx")
    caught = refused(prepare, classifier, repository, backward_graphs=[("logits", own)])
    assert (caught.code, caught.reason) == (Code.INVALID_ARGUMENT, "BACKWARD_GRAPH_WRONG")
    assert what in caught.message
    figures = {name: float(caught.metadata[name]) for name in ("found", "expected", "relative_error", "tolerance")}
    assert figures["relative_error"] > figures["tolerance"]
    assert figures["found"] != figures["expected"]
    if error is not None:
        # The error is relative to the larger of the two.
        assert figures["relative_error"] == pytest.approx(error / max(1, abs(wrong.get("factor", 1))), rel=0.1)
    assert repository.names() == []


def test_a_true_graph_passes_in_float32_too(repository, classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(backward_check, "_FEW_NUMBERS", 0)
    own = saved(dense_backward(), tmp_path / "own.onnx")
    (entry,) = prepare(classifier, repository, backward_graphs=[("logits", own)]).version.manifest.backward
    assert (entry.check.outcome, entry.check.precision) == ("passed", "float32")
    assert entry.check.along_gradient < 1e-2
    assert entry.check.along_random < 1e-2


def test_a_graph_that_mixes_items_is_refused(repository, classifier, tmp_path):
    own = dense_backward()
    for node in own.graph.node:
        if node.output[0] == "gradient.x":
            node.output[0] = "alone"
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    own.graph.initializer.append(axes)
    own.graph.node.append(helper.make_node("ReduceMean", ["alone", "axes"], ["mean"], keepdims=1))
    own.graph.node.append(helper.make_node("Mean", ["alone", "mean"], ["gradient.x"]))
    caught = refused(prepare, classifier, repository, backward_graphs=[("logits", saved(own, tmp_path / "own.onnx"))])
    assert caught.reason == "BACKWARD_GRAPH_WRONG"
    assert "in a batch of 3" in caught.message


def renamed(model: onnx.ModelProto, old: str, new: str) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def of_another_type(model: onnx.ModelProto) -> None:
    renamed(model, "activation", "single")
    model.graph.node.append(helper.make_node("Cast", ["single"], ["activation"], to=TensorProto.DOUBLE))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("activation", TensorProto.DOUBLE, ["n", 5]))


def flat(model: onnx.ModelProto) -> None:
    renamed(model, "gradient.x", "square")
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "flat"))
    model.graph.node.append(helper.make_node("Reshape", ["square", "flat"], ["gradient.x"]))
    model.graph.output[1].CopyFrom(float_value("gradient.x", ["elements"]))


def of_another_domain(model: onnx.ModelProto) -> None:
    renamed(model, "activation", "plain")
    model.graph.node.append(helper.make_node("Scaler", ["plain"], ["activation"], domain="ai.onnx.ml", scale=[1.0]))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))


@pytest.mark.parametrize(
    ("reason", "spoil", "says"),
    [
        ("INPUTS", lambda m: renamed(m, "cotangent", "seed"), "lacks the inputs 'cotangent' and has the inputs 'seed'"),
        ("OUTPUTS", lambda m: renamed(m, "gradient.x", "grad"), "must be 'activation', 'gradient.x'"),
        ("TYPE", of_another_type, "'activation' of type DOUBLE, but 'logits' is of type FLOAT"),
        ("SHAPE", flat, "'gradient.x' of shape [elements], but 'x' has [n, 4]"),
        ("DOMAIN", of_another_domain, "'ai.onnx.ml'"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_refused_for_its_own_reason(
    reason, spoil, says, repository, classifier, tmp_path
):
    own = dense_backward()
    spoil(own)
    caught = refused(prepare, classifier, repository, backward_graphs=[("logits", saved(own, tmp_path / "own.onnx"))])
    assert (caught.code, caught.reason) == (Code.INVALID_ARGUMENT, f"BACKWARD_GRAPH_{reason}")
    assert says in caught.message
    assert "'logits'" in caught.message
    assert repository.names() == []


def test_a_graph_that_is_bound_to_a_batch_is_refused(repository, classifier, tmp_path):
    own = saved(dense_backward(batch=1), tmp_path / "own.onnx")
    caught = refused(prepare, classifier, repository, backward_graphs=[("logits", own)])
    assert caught.reason == "BACKWARD_GRAPH_BATCH"
    assert "dynamic" in caught.message


def test_a_graph_that_does_not_run_on_one_item_is_refused(repository, classifier, tmp_path):
    own = dense_backward()
    renamed(own, "gradient.x", "rows")
    for name, shape, source, result in (
        ("threes", [-1, 12], "rows", "by_three"),
        ("ones", [-1, 4], "by_three", "gradient.x"),
    ):
        own.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
        own.graph.node.append(helper.make_node("Reshape", [source, name], [result]))
    own.graph.output[1].CopyFrom(float_value("gradient.x", ["n", 4]))
    caught = refused(prepare, classifier, repository, backward_graphs=[("logits", saved(own, tmp_path / "own.onnx"))])
    assert (caught.reason, caught.metadata["cause"]) == ("BACKWARD_GRAPH_FAILED", "MODEL_RUN_FAILED")


def test_what_is_no_onnx_or_no_tap_is_said_so(repository, classifier, tmp_path):
    (tmp_path / "own.onnx").write_bytes(b"garbage")
    own = tmp_path / "own.onnx"
    assert refused(prepare, classifier, repository, backward_graphs=[("logits", own)]).reason == "NOT_ONNX"
    assert refused(prepare, classifier, repository, backward_graphs=[("logit", own)]).reason == "UNKNOWN_TAP"
    twice = {"backward": ["logits"], "backward_graphs": [("logits", own)]}
    assert refused(prepare, classifier, repository, **twice).reason == "DUPLICATE_BACKWARD_GRAPH"


def silent(*, open_at: float) -> onnx.ModelProto:
    """`x` (n, 3) → `dead` = Relu(x - open_at)."""
    g = GraphBuilder(0)
    g.node("Sub", ["x", g.constant("level", np.float32(open_at))], "below")
    g.node("Relu", ["below"], "dead")
    return g.model([float_value("x", ["n", 3])], [float_value("dead", ["n", 3])], opset=20)


def test_a_gradient_that_is_zero_proves_nothing(repository, tmp_path):
    file = saved(silent(open_at=1e6), tmp_path / "net.onnx")
    report = prepare(file, repository, backward=["dead"])
    (entry,) = report.version.manifest.backward
    assert entry.check.outcome == "inconclusive"
    assert any("NOT VERIFIED" in warning for warning in report.warnings)
    content = report.version.backward_bytes("dead")
    own = tmp_path / "own.onnx"
    own.write_bytes(content)
    caught = refused(prepare, file, repository, backward_graphs=[("dead", own)])
    assert (caught.code, caught.reason) == (Code.FAILED_PRECONDITION, "BACKWARD_GRAPH_UNVERIFIED")


def test_the_graph_of_a_model_with_a_fixed_batch_has_that_batch(repository, tmp_path):
    version = prepare(saved(mixing_model(2), tmp_path / "net.onnx"), repository, backward=["centred"]).version
    assert version.manifest.fixed_batch == 2
    (entry,) = version.manifest.backward
    assert entry.check.outcome == "passed"
    assert entry.check.batch is None
    content = version.backward_bytes("centred")
    assert content is not None
    graph = load_model(content).graph
    assert [value.shape[0] for value in graph.inputs if value.shape is not None] == [2, 2]


def test_half_precision_is_held_to_what_it_can_do(repository, tmp_path):
    rng = np.random.default_rng(0)
    g = GraphBuilder(0)
    g.node("MatMul", ["x", g.constant("w", rng.standard_normal((6, 4)).astype(np.float16))], "scores")
    g.node("Relu", ["scores"], "positive")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, ["n", s]) for n, s in (("x", 6), ("positive", 4))]
    file = saved(g.model(values[:1], values[1:], opset=20), tmp_path / "net.onnx")
    (entry,) = prepare(file, repository, backward=["positive"]).version.manifest.backward
    assert entry.check.outcome == "passed"
    assert entry.check.along_gradient < 1e-2


def with_graphs(**graphs: bytes):
    content, manifest = package()
    entries = tuple(
        BackwardGraph(tap, digest_of(graph), len(graph), (), "given", CHECK) for tap, graph in graphs.items()
    )
    return content, dataclasses.replace(manifest, backward=entries), graphs


@pytest.mark.parametrize("tap", ["/features/0/Conv_output_0", "..", ".", "a=b c%2F\\", "é🔬", "x" * 400, "é" * 100])
def test_a_tap_may_have_any_name(repository, tap):
    version = repository.add("tiny", *with_graphs(**{tap: b"graph", "other": b"other"}))
    assert version.backward_bytes(tap) == b"graph"
    folder = repository._root / "tiny" / "1" / "backward"
    assert {file.name for file in folder.iterdir()} == {"other.onnx", backward_file_name(tap)}
    assert (folder / backward_file_name(tap)).stat().st_mode & 0o777 == 0o444


def test_long_names_do_not_collide():
    names = {backward_file_name("x" * 400), backward_file_name("x" * 401), backward_file_name("x" * 249)}
    assert len(names) == 3
    assert max(map(len, names)) <= 255


def test_graphs_other_than_those_of_the_manifest_are_not_added(repository):
    content, manifest, _ = with_graphs(add=b"graph")
    for graphs in (None, {}, {"add": b"graph "}, {"relu1": b"graph"}, {"add": b"graph", "relu1": b"graph"}):
        assert refused(repository.add, "tiny", content, manifest, graphs).reason == "DIGEST_MISMATCH"
    assert repository.names() == []


@pytest.mark.parametrize("damage", ["changed", "gone", "linked"])
def test_a_damaged_graph_is_data_loss(repository, damage, tmp_path):
    version = repository.add("tiny", *with_graphs(add=b"graph"))
    file = repository._root / "tiny" / "1" / "backward" / "add.onnx"
    file.unlink()
    if damage == "changed":
        file.write_bytes(b"grapH")
    elif damage == "linked":
        (tmp_path / "outside.onnx").write_bytes(b"graph")
        file.symlink_to(tmp_path / "outside.onnx")
    caught = refused(version.backward_bytes, "add")
    assert (caught.code, caught.reason) == (Code.DATA_LOSS, "MODEL_CORRUPT")
    assert "tap 'add'" in caught.message
    assert str(repository._root) not in caught.message
    assert version.model_bytes()


def test_gradients_are_computed_by_the_graph_that_is_kept(repository, classifier, tmp_path):
    own = saved(dense_backward(), tmp_path / "own.onnx")
    version = prepare(classifier, repository, backward_graphs=[("logits", own)]).version
    logits, hidden = (resolve_tap(version.manifest.taps, name) for name in ("logits", "hidden"))
    kept = version.backward_bytes("logits")
    assert backward_graph(version, Target(logits), (), NO_RELAXATIONS) == kept
    assert kept_graph(version, Target(logits), (), NO_RELAXATIONS) == version.manifest.backward[0]
    inside = Source.of_tap(hidden)
    for target, sources, relaxations in (
        (Target(hidden), (), NO_RELAXATIONS),
        (Target(logits, softmax=True), (), NO_RELAXATIONS),
        (Target(logits), (inside,), NO_RELAXATIONS),
        (Target(logits), (), Relaxations(("guided",))),
    ):
        assert kept_graph(version, target, sources, relaxations) is None
