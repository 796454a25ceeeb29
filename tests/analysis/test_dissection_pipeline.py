"""A whole dissection, and the search for examples, against plain NumPy over ONNX Runtime's own outputs."""

import io
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from ortoscope_service.analysis.dissection.counting import ShardCounts, count_shard, merge_counts
from ortoscope_service.analysis.dissection.pipeline import DissectionResult, dissect, finish
from ortoscope_service.analysis.dissection.spec import DissectionSpec
from ortoscope_service.analysis.dissection.survey import ShardSurvey, survey_shard
from ortoscope_service.analysis.dissection.thresholds import bound_from, thresholds_from
from ortoscope_service.analysis.examples import ExamplesSpec, find_examples
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.analysis.shards import shard_positions
from ortoscope_service.datasets.broden import BrodenDataset
from ortoscope_service.datasets.broden_writer import BrodenWriter
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.taps import Tap, resolve_tap
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from pictures import encode, photo
from serving import PREPROCESSING, add_model
from tiny_models import tiny_cnn

IMAGES = 30
SIDE = 16
MASK = 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> BrodenDataset:
    root = tmp_path_factory.mktemp("datasets") / "small"
    rng = np.random.default_rng(3)
    with BrodenWriter(root, ("color", "object", "scene"), (MASK, MASK)) as writer:
        colors = [writer.label(name) for name in ("red-c", "blue-c")]
        things = [writer.label(name) for name in ("car", "tree")]
        writer.label("street-s")
        for index in range(IMAGES):
            labels: dict[str, list[object]] = {}
            if index % 3:
                labels["color"] = [rng.choice([0, *colors], (MASK, MASK))]
            if index % 2:
                labels["object"] = [rng.choice([0, 0, *things], (MASK, MASK))]
            if index % 5 == 0:
                labels["scene"] = ["street-s"]
            writer.add(f"{index}.png", encode(photo(SIDE, SIDE, seed=index), "PNG"), labels)
    return BrodenDataset(root)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    add_model(repository, "cnn", tiny_cnn(seed=1), preprocessing=PREPROCESSING)
    add_model(repository, "fixed", tiny_cnn(7, seed=1), preprocessing=PREPROCESSING, fixed_batch=7)
    crop = replace(PREPROCESSING, size_policy="crop", resize_short_side=SIDE + 2)
    add_model(repository, "crop", tiny_cnn(seed=1), preprocessing=crop)
    return repository


def taps_of(version: ModelVersion, axes: int) -> list[Tap]:
    return [tap for tap in version.manifest.taps if len(tap.site_axes) == axes]


def activations(version: ModelVersion, tap: Tap, dataset: BrodenDataset) -> np.ndarray:
    """(images, units, rows, columns) of the whole model with the tap as a further output, one image at a time."""
    model = onnx.load_from_string(version.model_bytes())
    if all(output.name != tap.tensor for output in model.graph.output):
        model.graph.output.append(onnx.ValueInfoProto(name=tap.tensor))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = []
    for index in range(len(dataset)):
        pixels = preprocess(dataset.read_image(index), PREPROCESSING)[None]
        values.append(session.run([tap.tensor], {session.get_inputs()[0].name: pixels})[0])
    stacked = np.concatenate(values)
    return stacked.reshape(*stacked.shape[:2], *(stacked.shape[2:] or (1, 1)))


def run(
    version: ModelVersion, tap: Tap, dataset: BrodenDataset, workspace: Path, spec: DissectionSpec, **changes: object
) -> DissectionResult:
    arguments = {"progress": lambda *_: None, "cancellation": Cancellation(), **changes}
    indices = dataset.select(())
    return dissect(
        version, tap, dataset, indices, spec, ExecutionConfig(batch_size=4), workspace=workspace, **arguments
    )


def expected_counts(
    maps: np.ndarray, threshold: np.ndarray, dataset: BrodenDataset
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intersection, activation pixels and concept pixels by whole boolean arrays."""
    concepts = dataset.concepts
    units = maps.shape[1]
    intersection = np.zeros((units, len(concepts.number)), np.int64)
    activation = np.zeros((units, len(concepts.category_name)), np.int64)
    pixels = np.zeros(len(concepts.number), np.int64)
    for index, image_maps in enumerate(maps):
        raised = image_maps.astype(np.float64)
        for axis in (1, 2):
            size = raised.shape[axis]
            source = np.clip((np.arange(MASK) + 0.5) * size / MASK - 0.5, 0, size - 1)
            lower = np.floor(source).astype(int)
            a = np.take(raised, lower, axis=axis)
            b = np.take(raised, np.minimum(lower + 1, size - 1), axis=axis)
            raised = a + (b - a) * (source - lower).reshape((-1, 1) if axis == 1 else (1, -1))
        mask = raised > threshold[:, None, None]
        labels = dataset.read_labels(index)
        holds = np.stack([(labels.planes == number).any(axis=0) for number in concepts.number])
        holds |= np.isin(concepts.number, labels.image_level)[:, None, None]
        pixels += holds.sum(axis=(1, 2))
        intersection += np.einsum("uyx,kyx->uk", mask.astype(np.int64), holds.astype(np.int64))
        for category in {concepts.category[k] for k in np.flatnonzero(holds.any(axis=(1, 2)))}:
            activation[:, category] += mask.sum(axis=(1, 2))
    return intersection, activation, pixels


@pytest.mark.parametrize("model", ["cnn", "fixed"])
@pytest.mark.parametrize("axes", [2, 0])
def test_a_dissection_equals_brute_force_over_all_activations(model, axes, repository, dataset, tmp_path):
    version = repository.get(model)
    tap = taps_of(version, axes)[0]
    result = run(version, tap, dataset, tmp_path, DissectionSpec(top_fraction=0.05))
    maps = activations(repository.get("cnn"), tap, dataset)
    sites = maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
    np.testing.assert_allclose(result.threshold, np.quantile(sites.astype(np.float64), 0.95, axis=1), rtol=1e-5)

    intersection, activation, pixels = expected_counts(maps, result.threshold, dataset)
    np.testing.assert_array_equal(result.concept_pixels, pixels)
    # A pixel that lies on the threshold within the runtime's last bits may change sides.
    assert np.abs(result.intersection - intersection).max() <= 2
    assert np.abs(result.activation_pixels - activation).max() <= 2
    assert activation.sum() > 100
    peaks = maps.max(axis=(2, 3))
    np.testing.assert_allclose(result.example_value, -np.sort(-peaks, axis=0)[:5].T, rtol=1e-5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("axes", [2, 0])
@pytest.mark.parametrize(("shards", "vanguard", "top_fraction"), [(1, 0, 0.05), (6, 2, 0.05), (IMAGES, 8, 0.3)])
def test_shards_give_the_result_of_one_pass_to_the_bit(axes, shards, vanguard, top_fraction, repository, dataset):
    version = repository.get("cnn")
    tap = taps_of(version, axes)[0]
    # Images run one by one, so that no sum depends on who else is in the batch.
    execution = ExecutionConfig(batch_size=1)
    spec = DissectionSpec(top_fraction)
    nothing = {"progress": lambda *_: None, "cancellation": Cancellation()}
    indices = dataset.select(())[::-1]
    positions = [shard_positions(IMAGES, shards, shard) for shard in range(shards)]
    surveys: dict[int, tuple[dict[str, np.ndarray], bytes]] = {}

    def survey(numbers: range, bound: np.ndarray | None) -> list[Callable[[], ShardSurvey]]:
        for shard in numbers:
            file = io.BytesIO()
            found = survey_shard(
                version, tap, dataset, indices[positions[shard]], spec, IMAGES, bound, execution, file, **nothing
            )
            surveys[shard] = found.to_arrays(), file.getvalue()
        return [lambda arrays=surveys[shard][0]: ShardSurvey.from_arrays(arrays) for shard in sorted(surveys)]

    first = survey(range(vanguard), None)
    bound = bound_from(first, spec, IMAGES) if first else None
    thresholds = thresholds_from(survey(range(vanguard, shards), bound), spec, IMAGES)
    if thresholds.incomplete.any():
        thresholds = thresholds_from(survey(range(vanguard, shards), thresholds.relaxed), spec, IMAGES)
    counts = []
    for shard in range(shards):
        arrays, maps = surveys[shard]
        file = io.BytesIO(maps)
        found = count_shard(
            ShardSurvey.from_arrays(arrays), file, dataset, indices[positions[shard]], thresholds, **nothing
        )
        counts.append(found.to_arrays())
    with tempfile.TemporaryDirectory() as workspace:
        expected = dissect(version, tap, dataset, indices, spec, execution, workspace=Path(workspace), **nothing)
    for order in (counts, counts[::-1]):
        merged = merge_counts([lambda arrays=arrays: ShardCounts.from_arrays(arrays) for arrays in order], thresholds)
        result = finish(thresholds, merged, dataset, IMAGES)
        for field in fields(DissectionResult):
            if field.compare:
                np.testing.assert_array_equal(getattr(result, field.name), getattr(expected, field.name))
    assert expected.intersection.sum() > 100
    assert expected.example_mask.any()


def test_given_thresholds_are_used_as_they_are(repository, dataset, tmp_path):
    version = repository.get("cnn")
    tap = taps_of(version, 2)[0]
    maps = activations(version, tap, dataset)
    given = maps.mean(axis=(0, 2, 3)).astype(np.float64)
    result = run(version, tap, dataset, tmp_path, DissectionSpec(thresholds=given))
    np.testing.assert_array_equal(result.threshold, given)
    intersection, _, _ = expected_counts(maps, given, dataset)
    assert np.abs(result.intersection - intersection).max() <= 2


def test_thresholds_that_are_not_one_per_unit_are_refused(repository, dataset, tmp_path):
    version = repository.get("cnn")
    with pytest.raises(OrtoscopeError) as caught:
        run(version, taps_of(version, 2)[0], dataset, tmp_path, DissectionSpec(thresholds=np.zeros(1)))
    assert caught.value.reason == "THRESHOLD_COUNT"


def test_examples_equal_a_sort_of_all_peaks_with_the_site_of_each(repository, dataset):
    version = repository.get("cnn")
    tap = taps_of(version, 2)[0]
    maps = activations(version, tap, dataset)
    found = find_examples(
        version, tap, dataset, dataset.select(()), ExamplesSpec(4, "max"), ExecutionConfig(batch_size=7),
        progress=lambda *_: None, cancellation=Cancellation(),
    )  # fmt: skip
    peaks = maps.max(axis=(2, 3))
    np.testing.assert_allclose(found.most_value, -np.sort(-peaks, axis=0)[:4].T, rtol=1e-5)
    np.testing.assert_allclose(found.least_value, np.sort(peaks, axis=0)[:4].T, rtol=1e-5)
    assert found.most_site is not None
    for unit in range(maps.shape[1]):
        for place, image in enumerate(found.most_image[unit]):
            row, column = found.most_site[unit, place]
            assert maps[image, unit, row, column] == pytest.approx(found.most_value[unit, place], rel=1e-5)


def test_labelled_images_that_the_model_would_see_in_part_are_refused(repository, dataset, tmp_path):
    version = repository.get("crop")
    tap = taps_of(version, 2)[0]
    whole = run(version, tap, dataset, tmp_path, DissectionSpec())  # images of the input's size pass untouched
    assert whole.images == IMAGES
    root = tmp_path / "wide"
    with BrodenWriter(root, ("color",), (MASK, MASK)) as writer:
        red = writer.label("red-c")
        picture = encode(photo(SIDE * 2, SIDE, seed=1), "PNG")
        writer.add("wide.png", picture, {"color": [np.full((MASK, MASK), red)]})
    with pytest.raises(OrtoscopeError) as caught:
        run(version, tap, BrodenDataset(root), tmp_path, DissectionSpec())
    assert (caught.value.reason, caught.value.metadata["image"]) == ("IMAGE_CROPPED", "wide.png")


def test_a_cancelled_dissection_stops_and_leaves_nothing_behind(repository, dataset, tmp_path):
    version = repository.get("cnn")
    cancellation = Cancellation()

    def progress(_stage: str, done: int, _total: int) -> None:
        if done >= 8:
            cancellation.cancel()

    with pytest.raises(OrtoscopeError) as caught:
        run(
            version, taps_of(version, 2)[0], dataset, tmp_path, DissectionSpec(),
            progress=progress, cancellation=cancellation,
        )  # fmt: skip
    assert caught.value.code is Code.CANCELLED
    assert not list(tmp_path.iterdir())


def test_activations_that_are_no_numbers_are_refused_with_image_and_unit(repository, dataset, tmp_path):
    broken = onnx.load_from_string(repository.get("cnn").model_bytes())
    weight = next(i for i in broken.graph.initializer if len(i.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[1] = np.inf
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    add_model(repository, "broken", broken, preprocessing=PREPROCESSING)
    version = repository.get("broken")
    tap = resolve_tap(version.manifest.taps, taps_of(version, 2)[0].tensor)
    with pytest.raises(OrtoscopeError) as caught:
        run(version, tap, dataset, tmp_path, DissectionSpec())
    assert caught.value.reason == "ACTIVATION_NOT_FINITE"
    assert caught.value.metadata["unit"] == "1"
