"""`backward` and `tangent`: gradient graphs as ordinary ONNX files."""

import numpy as np
import onnx
import pytest
from gradient_models import conv_classifier, differences, in_double
from onboarding_models import mixing_model, saved
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.models.onboarding import backward_file, tangent_file
from tiny_models import GraphBuilder, float_value, tiny_nhwc


def run(path, feeds):
    """What ONNX's own evaluator makes of a file, so that nothing of ours is needed to use it."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    values = ReferenceEvaluator(model).run(None, feeds)
    return dict(zip((output.name for output in model.graph.output), values, strict=True))


def two_layers(batch: int | str = "n") -> onnx.ModelProto:
    """`x` (n, 3) → `hidden` = x a → `active` = Relu → `scores` = active b (n, 2); a, b are constants."""
    g = GraphBuilder(0)
    g.node("MatMul", ["x", g.weight("a", (3, 4), 3)], "hidden")
    g.node("Relu", ["hidden"], "active")
    g.node("MatMul", ["active", g.weight("b", (4, 2), 4)], "scores")
    return g.model([float_value("x", [batch, 3])], [float_value("scores", [batch, 2])], opset=20)


def weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer if t.name == name)


def test_a_backward_file_gives_the_gradient_at_any_batch(tmp_path):
    written = backward_file(saved(conv_classifier(1), tmp_path / "net.onnx"), "pooled", tmp_path / "out.onnx")
    assert [spec.name for spec in written.inputs] == ["image", "cotangent"]
    assert [spec.name for spec in written.outputs] == ["activation", "gradient.image"]
    assert {spec.shape[0] for spec in (*written.inputs, *written.outputs)} == {-1}
    assert "bound to 1, which was rewritten, verified" in written.batch
    rng = np.random.default_rng(1)
    image, cotangent = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 2, 6, 5), (2, 4)))
    found = run(tmp_path / "out.onnx", {"image": image, "cotangent": cotangent})
    tap = in_double(conv_classifier(), "pooled")
    np.testing.assert_allclose(found["activation"], tap({"image": image})["pooled"], rtol=1e-4, atol=1e-5)
    for item in range(2):
        expected = differences(
            lambda x, c=cotangent[item]: tap({"image": x})["pooled"] @ c.astype(np.float64), image[item : item + 1]
        )
        np.testing.assert_allclose(found["gradient.image"][item], expected[0], rtol=1e-3, atol=1e-5)


def test_a_tangent_file_moves_the_outputs_as_the_rest_of_the_model_does(tmp_path):
    model = two_layers(1)
    written = tangent_file(saved(model, tmp_path / "net.onnx"), "hidden", tmp_path / "out.onnx")
    assert [spec.name for spec in written.inputs] == ["x", "tangent"]
    x = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    tangent = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    found = run(tmp_path / "out.onnx", {"x": x, "tangent": tangent})
    hidden = x @ weight(model, "a")
    np.testing.assert_allclose(found["scores"], np.maximum(hidden, 0) @ weight(model, "b"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found["tangent.scores"], ((hidden > 0) * tangent) @ weight(model, "b"), rtol=1e-5, atol=1e-6
    )


def test_the_gradient_may_be_taken_at_taps_and_inputs_by_any_name(tmp_path):
    source = saved(tiny_nhwc(), tmp_path / "net.onnx")
    at = ["model/block1/pool", "input_1:0", "model/block1/relu/Relu:0"]
    written = backward_file(source, "model/block2/add", tmp_path / "out.onnx", at=at)
    assert written.tensor == "model/block2/add:0"
    tensors = ("input_1:0", "model/block1/pool:0", "model/block1/relu/Relu:0")
    assert [spec.name for spec in written.outputs] == ["activation", *(f"gradient.{name}" for name in tensors)]


def test_the_report_says_how_large_the_graph_is_and_how_much_of_it_weights(tmp_path):
    source = saved(two_layers(), tmp_path / "net.onnx")
    written = backward_file(source, "scores", tmp_path / "out.onnx")
    assert written.forward.nodes == 3
    assert written.forward.weight_bytes == 4 * (3 * 4 + 4 * 2)
    assert written.size.size_bytes == (tmp_path / "out.onnx").stat().st_size
    assert written.size.nodes == len(onnx.load(tmp_path / "out.onnx").graph.node)
    assert written.forward.weight_bytes <= written.size.weight_bytes <= written.size.size_bytes
    text = written.render()
    for line in (
        f"nodes        {written.size.nodes:,} (forward graph: 3)",
        "batch        as in the file",
        "none: the true",
    ):
        assert line in text


def test_relaxations_are_recorded(tmp_path):
    source = saved(two_layers(), tmp_path / "net.onnx")
    written = backward_file(source, "scores", tmp_path / "out.onnx", relax=["guided"])
    assert written.relaxations == ("guided",)
    assert "relaxations  guided" in written.render()
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "out.onnx").metadata_props}
    assert properties["ortoscope.relaxations"] == "guided"


def test_where_a_free_batch_is_not_sound_the_graph_keeps_that_of_the_file(tmp_path):
    written = backward_file(saved(mixing_model(2), tmp_path / "net.onnx"), "centred", tmp_path / "out.onnx")
    assert {spec.shape[0] for spec in (*written.inputs, *written.outputs)} == {2}
    assert written.batch.startswith("2, as in the file: a free batch did not pass the check")


@pytest.mark.parametrize(
    ("tap", "options", "reason"),
    [
        ("score", {}, "UNKNOWN_TAP"),
        ("active", {"at": ["scores"]}, "UNKNOWN_TENSOR"),
        ("active", {"at": ["hiden"]}, "UNKNOWN_TAP"),
        ("active", {"relax": ["guided", "deconvolution"]}, "CONFLICTING_RELAXATIONS"),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(tap, options, reason, tmp_path):
    source = saved(two_layers(), tmp_path / "net.onnx")
    with pytest.raises(OrtoscopeError) as caught:
        backward_file(source, tap, tmp_path / "out.onnx", **options)
    assert caught.value.reason == reason
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_an_operator_without_a_gradient_is_named(tmp_path):
    model = two_layers()
    model.graph.node[1].CopyFrom(helper.make_node("Det", ["hidden"], ["active"], name="the_node"))
    square = helper.make_node("Reshape", ["hidden", "shape"], ["square"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 2], np.int64), "shape"))
    model.graph.node[1].input[0] = "square"
    model.graph.node.insert(1, square)
    del model.graph.node[3:]
    model.graph.output[0].CopyFrom(float_value("active", ["n"]))
    with pytest.raises(OrtoscopeError, match="Det") as caught:
        backward_file(saved(model, tmp_path / "net.onnx"), "active", tmp_path / "out.onnx")
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"
    assert "the_node" in caught.value.message
