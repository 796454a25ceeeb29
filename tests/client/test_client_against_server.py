"""The client against the real service: every call once, and the numbers against ONNX Runtime run directly."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import ortoscope
import pytest
from ortoscope.channel import Timeouts
from ortoscope.rpcs import Rpcs
from ortoscope.v1 import models_pb2
from pictures import encode, photo
from PIL import Image
from scripted_server import METHODS
from tiny_models import tiny_cnn, tiny_mlp

SIZE = 16
PHOTOS = [np.asarray(photo(SIZE, SIZE, seed=seed)) for seed in range(8)]


def run_directly(tensor: str, pixels: list[np.ndarray]) -> np.ndarray:
    """The values of a tensor of the newest `cnn`, from ONNX Runtime itself."""
    model = tiny_cnn(seed=2)
    if tensor not in {output.name for output in model.graph.output}:
        model.graph.output.add().name = tensor
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = np.stack([(np.asarray(p, np.float32) - 127) / 128 for p in pixels]).transpose(0, 3, 1, 2)
    return np.asarray(session.run([tensor], {"image": batch})[0])


@pytest.fixture(scope="module")
def model(scope: ortoscope.Ortoscope) -> ortoscope.Model:
    return scope.model("cnn")


@pytest.fixture(scope="module")
def tap(model: ortoscope.Model) -> ortoscope.Tap:
    """A map of the convolutional model."""
    return next(tap for tap in model.taps() if len(tap.site_axes) == 2)


def test_capabilities_are_the_servers(scope: ortoscope.Ortoscope) -> None:
    found = scope.capabilities()
    assert found.ortoscope_version == ortoscope.__version__
    assert found.onnxruntime_version == onnxruntime.__version__
    assert found.limits.max_items_per_request == 3
    assert repr(scope) == f"<Ortoscope at {scope.target}>"


def test_models_of_several_pages_are_one_table(scope: ortoscope.Ortoscope) -> None:
    models = scope.models()
    assert [entry.name for entry in models] == ["cnn", "fixed", "mlp", "slow", "text", "two-inputs"]
    assert models["cnn"].latest_version == "cnn/2"
    assert scope.model(models["cnn"]).id == "cnn/2"


def test_a_model_is_found_by_any_of_its_names(scope: ortoscope.Ortoscope) -> None:
    names = ("cnn", "cnn/2", "models/cnn", "models/cnn/versions/2")
    assert {scope.model(name).name for name in names} == {"models/cnn/versions/2"}
    assert scope.model("cnn/1").digest != scope.model("cnn/2").digest
    assert [version.id for version in scope.model("cnn/1").versions()] == ["cnn/2", "cnn/1"]


def test_a_model_describes_itself(model: ortoscope.Model) -> None:
    assert model.inputs[0].preprocessing.width == SIZE
    assert model.outputs
    assert model.fixed_batch == 0
    assert model.class_labels == ("zero", "one")
    assert model.notes == ("made for a test",)
    assert model.create_time is not None
    assert model.create_time.isoformat() == "2026-01-02T03:04:05+00:00"
    assert repr(model).startswith("<Model cnn/2: ")


def test_taps_are_found_by_parts_of_any_name(model: ortoscope.Model) -> None:
    taps = model.taps()
    assert len(taps) == model.proto.tap_count
    for tap in taps:
        for name in (tap.tensor, tap.display_name, tap.name, *tap.aliases):
            assert model.tap(name).name == tap.name
            assert tap in taps.find(name[1:]) or tap in taps.find(name)
    assert "<table>" in taps._repr_html_()


def test_a_tap_describes_itself(tap: ortoscope.Tap) -> None:
    assert tap.layout == "channels_first"
    assert tap.unit_axis == 1
    assert tap.site_axes == (2, 3)
    assert tap.unit_count == tap.shape[1]
    assert tap.dtype == np.float32
    assert tap.tensor in repr(tap)


def test_an_unknown_tap_is_refused_with_close_names(model: ortoscope.Model, tap: ortoscope.Tap) -> None:
    with pytest.raises(ortoscope.NotFound, match=tap.tensor) as caught:
        model.tap(tap.tensor + "x")
    assert caught.value.reason == "UNKNOWN_TAP"


@pytest.mark.parametrize("form", ["array", "pil", "bytes", "path", "tensor"])
def test_activations_equal_onnx_runtime_whatever_form_an_image_has(
    model: ortoscope.Model, tap: ortoscope.Tap, form: str, tmp_path: Path
) -> None:
    pixels = PHOTOS[0]
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(pixels), "PNG"))
    given: Any = {
        "array": pixels,
        "pil": Image.fromarray(pixels),
        "bytes": path.read_bytes(),
        "path": str(path),
        "tensor": (pixels.astype(np.float64).transpose(2, 0, 1) - 127) / 128,
    }[form]
    found = model.activate(given, tap.tensor)
    assert np.allclose(found[tap.tensor].values, run_directly(tap.tensor, [pixels]), rtol=1e-4, atol=1e-5)
    assert found.provenance.model == model.name


def test_more_items_than_a_request_may_hold_come_back_in_order(model: ortoscope.Model, tap: ortoscope.Tap) -> None:
    expected = run_directly(tap.tensor, PHOTOS)
    for given in (PHOTOS, np.stack(PHOTOS), iter(PHOTOS)):
        values = tap.activate(given, reduce="none").values
        assert np.allclose(values, expected, rtol=1e-4, atol=1e-5)
    assert np.asarray(model.activate(PHOTOS, tap)[tap.display_name]).shape == expected.shape


def test_reductions_are_those_of_the_map(model: ortoscope.Model, tap: ortoscope.Tap) -> None:
    maps = run_directly(tap.tensor, PHOTOS[:4])
    flat = maps.reshape(*maps.shape[:2], -1)
    mean = tap.activate(PHOTOS[:4], reduce="mean")
    assert np.allclose(mean.values, flat.mean(-1), rtol=1e-4, atol=1e-5)
    assert (mean.sites, mean.units, mean.reduce, mean.unit_axis) == (None, None, "mean", 1)
    largest = tap.activate(PHOTOS[:4], reduce="max")
    assert np.allclose(largest.values, flat.max(-1), rtol=1e-4, atol=1e-5)
    assert largest.sites is not None
    rows, columns = largest.sites[..., 0], largest.sites[..., 1]
    items, units = np.indices(largest.values.shape)
    assert np.allclose(maps[items, units, rows, columns], largest.values, rtol=1e-4, atol=1e-5)
    site = tap.activate(PHOTOS[:4], reduce="site", site=(1, -1))
    assert np.allclose(site.values, maps[:, :, 1, -1], rtol=1e-4, atol=1e-5)
    top = tap.activate(PHOTOS[:4], reduce="top", top=2)
    assert top.units is not None
    assert np.array_equal(top.units, np.argsort(-flat.max(-1), axis=1, kind="stable")[:, :2])


def test_several_taps_may_have_reductions_of_their_own(model: ortoscope.Model, tap: ortoscope.Tap) -> None:
    other = model.taps()[-1]
    found = model.activate(PHOTOS[:1], [ortoscope.Selection(tap.tensor, "max"), other], reduce="mean")
    assert list(found) == [tap.tensor, other.display_name]
    assert [entry.reduce for entry in found.values()] == ["max", "mean"]
    assert set(found.arrays()) == {tap.tensor, f"{tap.tensor}.sites", other.display_name}
    assert "TapActivations" in repr(found)
    again = found.to_proto()
    assert np.array_equal(np.frombuffer(again.taps[0].values.data, "<f4").reshape(1, -1), found[tap.tensor].values)


def test_wrong_selections_are_refused_before_anything_is_sent(model: ortoscope.Model, tap: ortoscope.Tap) -> None:
    with pytest.raises(ortoscope.InvalidArgument, match="none, mean, max, site, top"):
        model.activate(PHOTOS[0], tap, reduce="median")  # type: ignore[arg-type]
    with pytest.raises(ortoscope.InvalidArgument, match="needs a site"):
        model.activate(PHOTOS[0], tap, reduce="site")
    with pytest.raises(ortoscope.InvalidArgument) as caught:
        model.activate([], tap)
    assert caught.value.reason == "NO_INPUTS"


def test_a_model_of_vectors_takes_arrays(scope: ortoscope.Ortoscope) -> None:
    network = tiny_mlp()
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    features = session.get_inputs()[0].shape[1]
    vectors = np.random.default_rng(0).standard_normal((5, features))
    output = network.graph.output[0].name
    expected = np.asarray(session.run([output], {session.get_inputs()[0].name: vectors.astype(np.float32)})[0])
    found = scope.model("mlp").activate(vectors, output)[output]
    assert np.allclose(found.values, expected, rtol=1e-4, atol=1e-5)


def test_a_model_of_two_inputs_takes_them_by_name(scope: ortoscope.Ortoscope) -> None:
    left, right = np.array([-1.0, 2, -3, 4]), np.ones(4)
    found = scope.model("two-inputs").activate({"left": left, "right": right}, ["sum", "half"])
    assert found["half"].values.tolist() == [[0, 2, 0, 4]]
    assert found["sum"].values.tolist() == [[1, 3, 1, 5]]


def test_a_picture_too_large_for_a_message_goes_as_a_blob(
    scope: ortoscope.Ortoscope, model: ortoscope.Model, tap: ortoscope.Tap
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8)
    assert len(encode(Image.fromarray(noise), "PNG")) > scope.capabilities().limits.max_message_bytes
    assert tap.activate([PHOTOS[0], noise, PHOTOS[1]], reduce="max").values.shape == (3, tap.unit_count)


def test_a_stream_gives_what_single_requests_give(model: ortoscope.Model, tap: ortoscope.Tap) -> None:
    expected = run_directly(tap.tensor, PHOTOS)
    batches = list(model.stream(iter(PHOTOS), tap.tensor, batch_size=2))
    assert [len(batch[tap.tensor].values) for batch in batches] == [2, 2, 2, 2]
    values = np.concatenate([batch[tap.tensor].values for batch in batches])
    assert np.allclose(values, expected, rtol=1e-4, atol=1e-5)
    assert all(batch.provenance.model == model.name for batch in batches)


def test_a_stream_takes_no_more_than_it_has_answers_for(model: ortoscope.Model, tap: ortoscope.Tap) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield PHOTOS[taken % 8]

    stream = model.stream(endless(), tap.tensor, reduce="max", batch_size=2, window=2)
    for answered in range(1, 20):
        next(stream)
        # Answered, on their way (at most two batches), and the one that shows where a batch ends.
        assert taken <= 2 * (answered + 2) + 1
    threads = threading.active_count()
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= threads


def test_an_error_in_a_stream_is_the_servers_or_the_iterators_own(model: ortoscope.Model, tap: ortoscope.Tap) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield PHOTOS[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(model.stream(broken(), tap.tensor))
    with pytest.raises(ortoscope.InvalidArgument) as caught:
        list(model.stream([PHOTOS[0], b"no picture"], tap.tensor, batch_size=1))
    assert caught.value.reason.startswith("IMAGE_")
    with pytest.raises(ortoscope.NotFound):
        list(model.stream([PHOTOS[0]], "nope"))


def test_datasets_describe_themselves(scope: ortoscope.Ortoscope) -> None:
    datasets = scope.datasets()
    assert datasets.unreadable == ("broken",)
    assert {dataset.id for dataset in datasets} == {"labelled", "photos", "été 100%"}
    labelled = scope.dataset("labelled")
    assert (labelled.kind, len(labelled), labelled.mask_shape) == ("broden", 4, (4, 6))
    assert labelled.categories == ("color", "object", "part", "scene")
    assert labelled.splits == {"train": 2, "val": 2}
    assert datasets["photos"].classes == ("a", "b")
    assert "6 concepts" in repr(labelled)
    assert datasets["datasets/labelled"].name == labelled.name


def test_images_and_concepts_of_several_pages_are_one_table(scope: ortoscope.Ortoscope) -> None:
    labelled = scope.dataset("labelled")
    assert [entry.path for entry in labelled.images()] == ["s/a.jpg", "s/b.jpg", "t/c.png", "t/d.webp"]
    assert [concept.number for concept in labelled.concepts()] == [1, 2, 5, 6, 7, 300]
    assert labelled.concepts()["beach-s"].category == "scene"
    with pytest.raises(ortoscope.FailedPrecondition):
        scope.dataset("photos").concepts()


def test_a_picture_shows_itself(scope: ortoscope.Ortoscope, tmp_path: Path) -> None:
    dataset = scope.dataset("été 100%")
    picture = dataset.image(0)
    assert (picture.width, picture.height, picture.media_type) == (300, 200, "image/jpeg")
    assert picture._repr_jpeg_() == picture.data
    assert picture._repr_png_() is None
    assert picture.to_numpy().shape == (200, 300, 3)
    picture.save(tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == picture.data
    small = dataset.image(-1, max_side=30)
    assert (small.width, small.height) == (30, 20)
    png = scope.dataset("photos")[0]
    assert png._repr_png_() == png.data
    webp = scope.dataset("labelled").image(3)
    assert webp.media_type == "image/webp"
    shown = webp._repr_png_()
    assert shown is not None
    with Image.open(io.BytesIO(shown)) as picture_shown:
        assert (picture_shown.format, picture_shown.size) == ("PNG", (webp.width, webp.height))
    assert [image.name for image in scope.dataset("photos")] == [f"datasets/photos/images/{i}" for i in range(5)]
    with pytest.raises(IndexError):
        dataset[1]


def test_an_image_of_a_dataset_can_be_put_into_a_model(
    scope: ortoscope.Ortoscope, tap: ortoscope.Tap, model: ortoscope.Model
) -> None:
    photos = scope.dataset("photos")
    expected = tap.activate(photos[1].data, reduce="max").values
    for given in (photos[1], photos.images()[1], "datasets/photos/images/1"):
        assert np.array_equal(tap.activate(given, reduce="max").values, expected)


def test_a_broken_dataset_is_reported(scope: ortoscope.Ortoscope) -> None:
    report = scope.validate("broken")
    assert not report.valid
    assert (report.finding_count, len(report)) == (3, 2)
    assert "3 findings, the first 2" in report.title
    assert report[0].severity == "error"
    assert "not valid" in repr(report)
    assert scope.dataset("labelled").validate().valid
    with pytest.raises(ortoscope.FailedPrecondition):
        scope.dataset("broken")


@pytest.fixture(scope="module")
def dissection(tap: ortoscope.Tap) -> ortoscope.Dissection:
    return tap.dissect("labelled", top_fraction=0.2).result(timeout=60)


def test_a_dissection_has_its_arrays(dissection: ortoscope.Dissection, tap: ortoscope.Tap) -> None:
    units, concepts, categories = tap.unit_count, 6, 4
    assert dissection.iou.shape == dissection.intersection.shape == (units, concepts)
    assert dissection.threshold.shape == dissection.saturated.shape == dissection.constant.shape == (units,)
    assert dissection.activation_pixels.shape == (units, categories)
    assert dissection.concept_pixels.shape == dissection.concept_number.shape == (concepts,)
    assert dissection.concept_name.tolist()[0] == "red-c"
    assert dissection.category_name.tolist() == ["color", "object", "part", "scene"]
    assert dissection.concept_category.shape == (concepts,)
    assert dissection.proto.provenance.items == 4
    assert dissection.top_images.masks(0).shape[1:] == (4, 6)
    union = dissection.activation_pixels[:, dissection.concept_category] + dissection.concept_pixels
    union = union - dissection.intersection
    assert np.allclose(dissection.iou, dissection.intersection / np.maximum(union, 1))


def test_labels_are_the_best_concepts_of_the_arrays(dissection: ortoscope.Dissection) -> None:
    labels = dissection.labels()
    assert [label.unit for label in labels] == list(range(len(dissection.iou)))
    for label in labels:
        assert label.iou == dissection.iou[label.unit].max()
        assert label.threshold == dissection.threshold[label.unit]
        if label.concept:
            best = dissection.iou[label.unit].argmax()
            assert label.concept == dissection.concept_name[best]
            assert label.category == dissection.category_name[dissection.concept_category[best]]
    falling = [label.iou for label in dissection.labels("iou")]
    assert falling == sorted(falling, reverse=True)
    detectors = dissection.detectors()
    assert len(detectors) == dissection.best_label.detectors
    assert all(label.iou > 0.04 for label in detectors)
    with pytest.raises(ortoscope.InvalidArgument):
        dissection.labels("name")  # type: ignore[arg-type]
    assert "<table>" in dissection._repr_html_()


def test_given_thresholds_are_used(tap: ortoscope.Tap, dissection: ortoscope.Dissection) -> None:
    again = tap.dissect("labelled", thresholds=dissection.threshold).result(timeout=60)
    assert again.proto.given_thresholds
    assert np.array_equal(again.intersection, dissection.intersection)
    with pytest.raises(ortoscope.InvalidArgument) as caught:
        tap.dissect("labelled", thresholds=[1.0, 2.0]).result(timeout=60)
    assert caught.value.reason == "THRESHOLD_COUNT"


def test_a_saved_dissection_holds_the_servers_bytes(
    scope: ortoscope.Ortoscope, dissection: ortoscope.Dissection, tmp_path: Path
) -> None:
    told: list[str] = []
    page = dissection.save(tmp_path / "out", progress=lambda stage, done, total: told.append(stage))
    assert page == tmp_path / "out" / "index.html"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "tally.csv", "dissection.npz", "provenance.json", "index.html",
    }  # fmt: skip
    assert (tmp_path / "out" / "dissection.npz").read_bytes() == scope.download(dissection.proto.arrays)
    with np.load(tmp_path / "out" / "dissection.npz") as arrays:
        assert {
            "threshold", "activation_pixels", "concept_pixels", "intersection", "iou", "concept_number", "concept_name",
            "concept_category", "category_name",
        } <= set(arrays.files)  # fmt: skip
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert record["model_digest"] == dissection.provenance.model_digest
    assert set(record["run"]) == {"result", "start_time", "end_time"}
    assert record["run"]["result"] == dissection.name
    assert record["spec"]["top_fraction"] == 0.2
    assert set(told) == {"fetching images", "writing the report"}
    dissection.save(tmp_path / "out")


def test_two_runs_write_the_same_files_but_for_what_is_of_the_run(
    dissection: ortoscope.Dissection, examples: ortoscope.ExampleSet, tap: ortoscope.Tap, tmp_path: Path
) -> None:
    dissection.save(tmp_path / "dissection" / "1")
    tap.dissect("labelled", top_fraction=0.2).result(timeout=60).save(tmp_path / "dissection" / "2")
    examples.save(tmp_path / "examples" / "1")
    tap.examples("photos", count=3).result(timeout=60).save(tmp_path / "examples" / "2")
    for kind in ("dissection", "examples"):
        one, other = tmp_path / kind / "1", tmp_path / kind / "2"
        assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
        for path in one.iterdir():
            if path.name != "provenance.json":
                assert path.read_bytes() == (other / path.name).read_bytes(), path.name
        first, second = (json.loads((folder / "provenance.json").read_text()) for folder in (one, other))
        assert first.pop("run") != second.pop("run")
        assert first == second


def test_results_are_listed_and_found_again(scope: ortoscope.Ortoscope, dissection: ortoscope.Dissection) -> None:
    assert dissection.name in {entry.name for entry in scope.dissections()}
    found = scope.dissection(dissection.name)
    assert np.array_equal(found.iou, dissection.iou)
    assert repr(found) == repr(dissection)


def test_a_deleted_example_set_is_gone(scope: ortoscope.Ortoscope, tap: ortoscope.Tap) -> None:
    examples = tap.examples("photos", count=1).result(60)
    examples.delete()
    assert all(left.name != examples.name for left in scope.example_sets())


def test_a_deleted_dissection_is_gone(scope: ortoscope.Ortoscope, tap: ortoscope.Tap) -> None:
    operation = tap.dissect("labelled")
    dissection = operation.result(timeout=60)
    dissection.delete()
    with pytest.raises(ortoscope.NotFound):
        scope.dissection(dissection.name)
    with pytest.raises(ortoscope.OrtoscopeError):
        scope.operation(operation.name).result(timeout=60).labels()


@pytest.fixture(scope="module")
def examples(tap: ortoscope.Tap) -> ortoscope.ExampleSet:
    return tap.examples("photos", count=3).result(timeout=60)


def test_examples_are_those_of_the_activations(
    scope: ortoscope.Ortoscope, examples: ortoscope.ExampleSet, tap: ortoscope.Tap
) -> None:
    largest = tap.activate(list(scope.dataset("photos")), reduce="max").values
    order = np.argsort(-largest, axis=0, kind="stable")
    assert np.array_equal(examples.arrays.most_image, order[:3].T)
    assert np.allclose(examples.arrays.most_value, np.take_along_axis(largest, order[:3], 0).T, rtol=1e-4, atol=1e-6)
    assert examples.arrays.most_site is not None
    for unit, most, sites in zip(examples.units, examples.arrays.most_image, examples.arrays.most_site, strict=True):
        assert [example.index for example in unit.most] == most.tolist()
        assert [list(example.site) for example in unit.most] == sites.tolist()
        assert all(0 < fraction < 1 for example in unit.most for fraction in example.position)
        assert unit.most[0].path.startswith(("a/", "b/"))


def test_a_saved_example_set_holds_the_servers_bytes(
    scope: ortoscope.Ortoscope, examples: ortoscope.ExampleSet, tmp_path: Path
) -> None:
    examples.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"examples.npz", "provenance.json", "index.html"}
    assert (tmp_path / "examples.npz").read_bytes() == scope.download(examples.proto.arrays)
    assert examples.name in {entry.name for entry in scope.example_sets()}
    assert repr(scope.example_set(examples.name)) == repr(examples)
    assert "<table>" in examples._repr_html_()
    with pytest.raises(ortoscope.InvalidArgument, match="max, mean, min"):
        scope.model("cnn").taps()[0].examples("photos", rank="median")  # type: ignore[arg-type]


def test_operations_are_listed_shown_and_deleted(scope: ortoscope.Ortoscope, tap: ortoscope.Tap) -> None:
    seen = []
    operation = tap.examples("photos")
    assert operation.wait(timeout=60, progress=lambda *told: seen.append(told)) is operation
    assert seen[-1][1:] == (5, 5)
    assert (operation.done, operation.state, operation.error) == (True, "succeeded", None)
    assert operation.metadata.verb == "find-examples"
    assert operation.name in {entry.name for entry in scope.operations(done=True)}
    assert operation.name not in {entry.name for entry in scope.operations(done=False)}
    assert "succeeded" in scope.operation(operation.name.removeprefix("operations/")).describe()
    assert "succeeded" in operation._repr_html_()
    assert "photos" in repr(operation)
    operation.delete()
    with pytest.raises(ortoscope.NotFound):
        operation.refresh()


def test_a_failed_operation_tells_why(scope: ortoscope.Ortoscope) -> None:
    tap = scope.model("mlp").taps()[0]
    with pytest.raises(ortoscope.FailedPrecondition) as caught:
        tap.examples("photos").result(timeout=60)
    assert caught.value.reason == "MODEL_INPUT_NOT_IMAGE"


def test_every_rpc_of_the_api_was_called_through_the_client(target: str, tmp_path: Path) -> None:
    """Drives the public objects once more, counting the calls: no rpc lacks an object that uses it."""
    called: set[str] = set()

    class CountingChannel:
        def __getattr__(self, kind: str) -> Any:
            def stub(path: str, *arguments: Any, **options: Any) -> Any:
                call = getattr(plain, kind)(path, *arguments, **options)

                def counted(*arguments: Any, **options: Any) -> Any:
                    called.add(path)
                    return call(*arguments, **options)

                return counted

            return stub

    with grpc.insecure_channel(target) as plain:
        counting: Any = CountingChannel()
        rpcs = Rpcs(counting, target, Timeouts())
        scope = ortoscope.Ortoscope(rpcs)
        scope.capabilities(), scope.models(), scope.datasets(), scope.validate("labelled")
        model = scope.model("cnn")
        model.versions(), model.taps()
        tap = model.tap(next(tap.tensor for tap in model.taps() if len(tap.site_axes) == 2))
        tap.activate(PHOTOS[0])
        list(model.stream(PHOTOS[:1], tap))
        tap.gradient(PHOTOS[0], unit=0)
        model.attribute(PHOTOS[0], "pooled")
        dataset = scope.dataset("labelled")
        dataset.images(), dataset.concepts(), dataset.image(0)
        scope.download(scope.upload(b"bytes"))
        operation = tap.dissect(dataset)
        found = scope.dissection(operation.result(timeout=60).name)
        found.labels(), scope.dissections()
        examples = scope.example_set(tap.examples(dataset).result(timeout=60).name)
        examples.save(tmp_path / "examples")
        scope.example_sets()
        found.delete(), examples.delete()
        short = {"size": 16, "recipe.steps": 1}
        scope.presets()
        tap.unit(0).visualize(settings=short)
        sheet = scope.unit_sheet(tap.visualize_units([0], settings=short).result(timeout=60).name)
        scope.unit_sheets(), sheet.delete()
        model.test_patch(PHOTOS[0], PHOTOS[:1], sizes=[0.5], places=["centre"], controls=1)
        quick = {"layout.n_epochs": 5, "icons.size": 16, "icons.steps": 1, "icons.attempts": 1}
        atlas = tap.atlas(dataset, grids=[2], sites_per_image=8, settings=quick).result(timeout=60)
        scope.atlases(), scope.atlas(atlas.name).cells(), atlas.tile(2), atlas.propose_patches(0, 1)
        scope.atlas_projection(atlas.project(dataset).result(timeout=60).name)
        scope.atlas_comparison(atlas.compare(atlas, grid=2).result(timeout=60).name)
        atlas.delete()
        scope.operations()
        scope.operation(operation.name).cancel()
        operation.delete()
        rpcs.get_model(
            models_pb2.GetModelRequest(name="models/cnn")
        )  # what a Model lacks of it, the list of models has
    assert called == set(METHODS)


def test_a_closed_connection_says_so_to_whoever_still_holds_something_of_it(scope: ortoscope.Ortoscope) -> None:
    with ortoscope.connect(scope.target) as other:
        model = other.model("cnn")
    with pytest.raises(ortoscope.FailedPrecondition, match="connect again") as caught:
        model.taps()
    assert caught.value.reason == "CONNECTION_CLOSED"
    with pytest.raises(ortoscope.FailedPrecondition):
        next(model.stream([np.zeros((3, 16, 16), np.float32)], "relu1"))
