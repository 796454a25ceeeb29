"""`prepare` from file to version: batches, inputs, labels, sizes, errors, reports."""

import json

import numpy as np
import onnx
import pytest
from onboarding_models import half_precision_model, mixing_model, saved, two_input_model, write_photos
from onnx import helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.manifest import InputSpec
from ortoscope_service.models.onboarding import prepare
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.sessions import Session
from tiny_models import (
    LIGHT_MODELS,
    GraphBuilder,
    float_value,
    light_model,
    random_feeds,
    tiny_cnn,
    tiny_nhwc,
    tiny_transformer,
    tiny_vision_transformer,
)
from whole_models import small_recurrent


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "models")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, 4)
    return folder


def values_of(model: onnx.ModelProto, tensors: list[str], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a model as ONNX Runtime computes them, one item at a time, without any code of ours."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)
    session = Session(exposed.SerializeToString())
    items = [session.run({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(3)]
    return {name: np.concatenate([item[name] for item in items]) for name in tensors}


@pytest.mark.parametrize("build", [tiny_cnn, tiny_nhwc, tiny_transformer, tiny_vision_transformer])
def test_every_tap_of_the_prepared_model_has_the_values_of_the_file_at_batch_3(build, repository, photos, tmp_path):
    model = build(1)
    version = prepare(saved(model, tmp_path / "net.onnx"), repository, images=photos).version
    assert version.manifest.fixed_batch == 0
    tensors = tuple(tap.tensor for tap in version.manifest.taps)
    feeds = random_feeds(model, 3)
    ours = Session(version.trunk_bytes(tensors)).run(feeds)
    expected = values_of(model, list(tensors), feeds)
    for name in tensors:
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-4, atol=1e-5)


def _prepare_light(name, repository, photos, tmp_path):
    source = saved(light_model(name), tmp_path / f"light_{name}.onnx")
    report = prepare(source, repository, images=photos)
    manifest = report.version.manifest
    assert report.version.model == f"light_{name}"
    assert manifest.fixed_batch == 0, report.batch
    assert manifest.inputs[0].shape == (-1, 3, 224, 224)
    assert manifest.inputs[0].kind == "image"
    assert manifest.opset == 9
    assert len(manifest.taps) > 20
    assert report.verdict is not None
    assert report.verdict.status == "not verified", report.verdict.text


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_light_architectures_are_prepared(name, repository, photos, tmp_path):
    _prepare_light(name, repository, photos, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(LIGHT_MODELS) - {"squeezenet", "shufflenet"}))
def test_all_light_architectures_are_prepared(name, repository, photos, tmp_path):
    _prepare_light(name, repository, photos, tmp_path)


def test_a_file_with_a_free_batch_is_kept_byte_by_byte(repository, photos, tmp_path):
    source = saved(tiny_cnn(), tmp_path / "net.onnx")
    report = prepare(source, repository, images=photos)
    assert report.version.model_bytes() == source.read_bytes()
    assert report.source_digest == report.version.manifest.digest
    assert "free, as in the file; verified" in report.batch


def test_a_file_with_external_data_becomes_one_file(repository, photos, tmp_path):
    model = tiny_cnn()
    onnx.save(tiny_cnn(), tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    version = prepare(tmp_path / "net.onnx", repository, images=photos).version
    (tmp_path / "weights.bin").unlink()
    feeds = random_feeds(model, 2)
    np.testing.assert_allclose(
        Session(version.model_bytes()).run(feeds)["logits"],
        Session(model.SerializeToString()).run(feeds)["logits"],
        rtol=1e-5,
    )


@pytest.mark.parametrize(("batch", "served"), [("n", 1), (1, 1), (2, 2)])
def test_a_model_whose_items_depend_on_each_other_is_served_at_its_own_batch(
    batch, served, repository, photos, tmp_path
):
    source = saved(mixing_model(batch), tmp_path / "net.onnx")
    report = prepare(source, repository, images=photos)
    assert report.version.manifest.fixed_batch == served
    assert report.version.model_bytes() == source.read_bytes()
    assert any(f"IN BATCHES OF {served}" in warning for warning in report.warnings)
    assert report.version.manifest.taps


def test_preparing_the_same_again_returns_the_version_that_is_there(repository, photos, tmp_path):
    source = saved(tiny_cnn(1), tmp_path / "net.onnx")
    first = prepare(source, repository, images=photos)
    again = prepare(source, repository, images=photos)
    other = prepare(source, repository, images=photos, size_policy="crop")
    assert (first.added, again.added, other.added) == (True, False, True)
    assert [report.version.version for report in (first, again, other)] == [1, 1, 2]
    assert "nothing was added" in again.render()


def test_gray_images_of_free_size_beside_another_input(repository, photos, tmp_path):
    report = prepare(saved(two_input_model(), tmp_path / "net.onnx"), repository, images=photos, size=(20, 30))
    image, condition = report.version.manifest.inputs
    assert image.preprocessing is not None
    assert (image.preprocessing.color_order, image.preprocessing.height, image.preprocessing.width) == ("gray", 20, 30)
    assert image.shape == (-1, 1, -1, -1)
    assert condition == InputSpec("condition", "tensor", "float32", (-1, 4), None)
    with pytest.raises(OrtoscopeError):
        _ = report.version.image_input


def test_a_model_without_images_has_no_preprocessing(repository, tmp_path):
    report = prepare(saved(tiny_transformer(), tmp_path / "net.onnx"), repository)
    assert report.verdict is None
    assert report.version.manifest.inputs == (InputSpec("input_ids", "tensor", "int64", (-1, 6), None),)
    assert "preprocessing" not in report.render()


@pytest.mark.parametrize("steps", [4, "steps"])
def test_states_of_recurrent_layers_after_every_step_are_taps(steps, repository, tmp_path):
    proto = small_recurrent("LSTM", "n", steps)
    version = prepare(saved(proto, tmp_path / "net.onnx"), repository, size=None).version
    assert {"layer1_node.hidden", "layer1_node.cell", "layer2_node.cell"} <= {
        tap.tensor for tap in version.manifest.taps
    }
    sequence = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    states = Session(version.trunk_bytes(("layer2_node.hidden", "layer2_node.cell"))).run({"sequence": sequence})
    assert states["layer2_node.cell"].shape == (3, 4, 6)
    # What the layer itself gives after a shorter sequence is its state after that step.
    exposed = onnx.ModelProto()
    exposed.CopyFrom(small_recurrent("LSTM", "n", "steps"))
    exposed.graph.node[-4].output.append("layer2/c")
    assert exposed.graph.node[-4].op_type == "LSTM"
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("layer2/h", "layer2/c"))
    session = Session(exposed.SerializeToString())
    for step in range(4):
        last = session.run({"sequence": sequence[:, : step + 1]})
        np.testing.assert_allclose(states["layer2_node.cell"][:, step], last["layer2/c"][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(states["layer2_node.hidden"][:, step], last["layer2/h"][0], rtol=1e-5, atol=1e-6)


def test_an_image_of_another_type_is_a_tensor_with_a_note(repository, tmp_path):
    report = prepare(saved(half_precision_model(), tmp_path / "net.onnx"), repository)
    assert report.version.manifest.inputs[0].kind == "tensor"
    assert any("float16" in note for note in report.version.manifest.notes)


def test_a_model_exported_with_its_intermediates_as_outputs_is_taken_as_it_is(repository, photos, tmp_path):
    model = tiny_cnn()
    model.graph.output.extend([float_value("relu1", ["n", 8, 16, 16]), float_value("add", ["n", 12, 8, 8])])
    source = saved(model, tmp_path / "net.onnx")
    version = prepare(source, repository, images=photos).version
    assert version.model_bytes() == source.read_bytes()
    assert [output.name for output in version.manifest.outputs] == ["logits", "relu1", "add"]
    for output in version.manifest.outputs:
        assert resolve_tap(version.manifest.taps, output.name).tensor == output.name


@pytest.mark.parametrize("mean", [127, 127.0])
def test_the_users_numbers_reach_the_manifest(mean, repository, photos, tmp_path):
    version = prepare(
        saved(tiny_nhwc(), tmp_path / "My Net.onnx"),
        repository,
        labels=[f"class {index}" for index in range(10)],
        mean=(mean, mean, mean),
        std=(128, 128, 128),
        color_order="bgr",
        size_policy="crop",
        resize_short_side=20,
        images=photos,
    ).version
    preprocessing = version.image_input.preprocessing
    assert version.model == "my-net"
    assert preprocessing is not None
    assert preprocessing.describe() == "BGR 16 x 16 (short side 20, centre crop), (pixel - 127) / 128, channels last"
    assert version.manifest.class_labels[9] == "class 9"


def test_only_a_std_means_no_mean(repository, photos, tmp_path):
    report = prepare(saved(tiny_cnn(), tmp_path / "net.onnx"), repository, std=(255, 255, 255), images=photos)
    preprocessing = report.version.image_input.preprocessing
    assert preprocessing is not None
    assert (preprocessing.mean, preprocessing.std) == ((0, 0, 0), (255, 255, 255))


def labels_file(tmp_path, content: bytes):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("count", [1, 9, 11])
def test_labels_that_are_not_as_many_as_the_classes_are_refused_with_both_numbers(count, repository, photos, tmp_path):
    path = labels_file(tmp_path, b"name\n" * count)
    with pytest.raises(OrtoscopeError, match=rf"{count} labels.*10 classes") as caught:
        prepare(saved(tiny_cnn(), tmp_path / "net.onnx"), repository, labels=path, images=photos)
    assert caught.value.reason == "LABEL_COUNT"
    assert caught.value.metadata == {"labels": str(count), "classes": "10"}
    assert repository.names() == []


@pytest.mark.parametrize("content", [b"name\n" * 10, b"name\r\n" * 10 + b"\n\n", "\ufeff".encode() + b"name\n" * 10])
def test_labels_are_lines_of_text_of_any_system(content, repository, photos, tmp_path):
    path = labels_file(tmp_path, content)
    report = prepare(saved(tiny_cnn(), tmp_path / "net.onnx"), repository, labels=path, images=photos)
    assert report.version.manifest.class_labels == ("name",) * 10
    assert {prediction.class_label for prediction in report.predictions} == {"name"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "LABELS_UNREADABLE"), (b"\xff\xfe\x00", "LABELS_UNREADABLE"), (None, "LABELS_FILE_NOT_FOUND")],
)
def test_a_labels_file_that_is_no_text_or_not_there_is_refused(content, reason, repository, tmp_path):
    path = tmp_path / "labels.txt" if content is None else labels_file(tmp_path, content)
    with pytest.raises(OrtoscopeError) as caught:
        prepare(saved(tiny_cnn(), tmp_path / "net.onnx"), repository, labels=path)
    assert caught.value.reason == reason
    assert str(tmp_path) not in caught.value.message


def test_labels_of_a_segmentation_are_counted_along_its_channels(repository, photos, tmp_path):
    g = GraphBuilder(0)
    g.node("Conv", ["image", g.weight("w", (5, 3, 3, 3), 27)], "mask")
    source = saved(
        g.model([float_value("image", ["n", 3, 16, 16])], [float_value("mask", ["n", 5, 14, 14])], opset=17),
        tmp_path / "net.onnx",
    )
    assert prepare(source, repository, labels=list("abcde"), images=photos).version.manifest.class_labels
    with pytest.raises(OrtoscopeError, match=r"4 labels.*\[-1, 5, 14, 14\]"):
        prepare(source, repository, labels=list("abcd"), images=photos)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mean": (float("nan"), 0, 0)}, "INVALID_MEAN"),
        ({"std": (0, 1, 1)}, "INVALID_STD"),
        ({"size": (64, 64)}, "INVALID_SIZE"),
        ({"size_policy": "crop", "resize_short_side": 8}, "INVALID_SIZE"),
        ({"layout": "nhwc"}, "INVALID_LAYOUT"),
        ({"color_order": "gray"}, "INVALID_COLOR_ORDER"),
        ({"name": "../net"}, "INVALID_MODEL_NAME"),
    ],
)
def test_wishes_that_cannot_be_granted_are_refused(options, reason, repository, photos, tmp_path):
    with pytest.raises(OrtoscopeError) as caught:
        prepare(saved(tiny_cnn(), tmp_path / "net.onnx"), repository, images=photos, **options)
    assert caught.value.reason == reason
    assert repository.names() == []


def test_preprocessing_for_a_model_without_images_is_refused(repository, tmp_path):
    with pytest.raises(OrtoscopeError) as caught:
        prepare(saved(tiny_transformer(), tmp_path / "net.onnx"), repository, mean=(0, 0, 0))
    assert caught.value.reason == "PREPROCESSING_WITHOUT_IMAGE"


def _edited(edit) -> bytes:
    model = tiny_cnn()
    edit(model)
    return model.SerializeToString()


def _external(model) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")


def _customized(model) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


BROKEN = {
    "NOT_ONNX": [b"", b"not a model", tiny_cnn().SerializeToString()[:-100]],
    "DUPLICATE_OUTPUT": [_edited(lambda m: m.graph.output.append(m.graph.output[0]))],
    "MISSING_OUTPUT": [_edited(lambda m: m.graph.ClearField("output"))],
    "UNSUPPORTED_OPSET": [_edited(lambda m: setattr(m.opset_import[0], "version", 99))],
    "CUSTOM_OPERATOR": [_edited(_customized)],
    "EXTERNAL_DATA_UNSAFE": [_edited(_external)],
}


@pytest.mark.parametrize(
    ("reason", "content"), [(reason, content) for reason, contents in BROKEN.items() for content in contents]
)
def test_a_file_that_cannot_be_served_is_refused_and_nothing_is_written(reason, content, repository, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(OrtoscopeError) as caught:
        prepare(path, repository)
    assert caught.value.reason == reason
    assert not (tmp_path / "models").exists()


def test_an_output_without_a_type_is_typed_by_inference(repository, photos, tmp_path):
    model = tiny_cnn()
    model.graph.output[0].ClearField("type")
    version = prepare(saved(model, tmp_path / "net.onnx"), repository, images=photos).version
    assert version.manifest.outputs[0].shape == (-1, 10)


def test_a_model_without_taps_is_refused(repository, tmp_path):
    g = GraphBuilder(0)
    g.node("Shape", ["x"], "shape")
    out = helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [2])
    source = saved(g.model([float_value("x", ["n", 4])], [out], opset=17), tmp_path / "net.onnx")
    with pytest.raises(OrtoscopeError) as caught:
        prepare(source, repository)
    assert caught.value.reason == "NO_TAPS"


def test_the_report_tells_everything_as_text_and_as_json(repository, photos, tmp_path):
    report = prepare(saved(tiny_cnn(1), tmp_path / "net.onnx"), repository, images=photos)
    text = report.render()
    for expected in ("net/1  prepared", "opset      17", "free; the file was bound to 1", "NOT VERIFIED", "taps (10)"):
        assert expected in text
    for tap in report.version.manifest.taps:
        assert tap.display_name in text
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["name"] == "models/net/versions/1"
    assert document["preprocessing_status"] == "not verified"
    assert document["inputs"][0]["preprocessing"]["verification"].startswith("not verified")
    assert len(document["taps"]) == 10
    assert document["taps"][0]["layout"] == "channels_first"
    assert document["warnings"]
