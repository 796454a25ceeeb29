"""`expose`: taps as outputs of an ordinary ONNX file."""

import numpy as np
import onnx
import pytest
from onboarding_models import saved
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.models.onboarding import expose_file
from ortoscope_service.runtime.sessions import Session
from tiny_models import random_feeds, tiny_cnn, tiny_nhwc


def test_taps_become_outputs_with_the_values_that_they_have_inside(tmp_path):
    model = tiny_cnn()
    exposed = expose_file(saved(model, tmp_path / "net.onnx"), ["relu1", "add", "relu1"], tmp_path / "out.onnx")
    assert exposed.tensors == ("relu1", "add", "relu1")
    assert exposed.outputs == ("logits", "relu1", "add")
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written, full_check=True)
    feeds = random_feeds(model, 2)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("relu1", "add"))
    expected = Session(model.SerializeToString()).run(feeds)
    for name, values in Session(written.SerializeToString()).run(feeds).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)


def test_any_name_of_a_tap_will_do(tmp_path):
    source = saved(tiny_nhwc(), tmp_path / "net.onnx")
    exposed = expose_file(source, ["model/block2/add", "model/block2/add:0"], tmp_path / "out.onnx")
    assert exposed.tensors == ("model/block2/add:0",) * 2


def test_an_unknown_tap_writes_nothing(tmp_path):
    source = saved(tiny_cnn(), tmp_path / "net.onnx")
    with pytest.raises(OrtoscopeError, match="relu1") as caught:
        expose_file(source, ["relu"], tmp_path / "out.onnx")
    assert caught.value.reason == "UNKNOWN_TAP"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_file_may_be_written_over_itself_and_leaves_nothing_beside_it(tmp_path):
    source = saved(tiny_cnn(), tmp_path / "net.onnx")
    expose_file(source, ["relu1"], source)
    assert [output.name for output in onnx.load(source).graph.output] == ["logits", "relu1"]
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_place_that_cannot_be_written_is_said_so(tmp_path):
    source = saved(tiny_cnn(), tmp_path / "net.onnx")
    for output in (tmp_path / "nowhere" / "out.onnx", tmp_path):
        with pytest.raises(OrtoscopeError) as caught:
            expose_file(source, ["relu1"], output)
        assert caught.value.reason == "OUTPUT_NOT_WRITABLE"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
