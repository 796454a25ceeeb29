"""Samples of an atlas: what is collected, how it is kept, and that shards make no difference."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from gradient_models import in_double
from ortoscope_service.analysis.atlas import collection
from ortoscope_service.analysis.atlas.collection import (
    CollectionSettings,
    Samples,
    ShardSamples,
    collect_shard,
    duplicates,
    merge_samples,
)
from ortoscope_service.analysis.atlas.site_attribution import SiteAttribution
from ortoscope_service.analysis.atlas.sites import choose_sites
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.analysis.shards import shard_positions
from ortoscope_service.datasets.folders import FolderDataset
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.jobs.artifacts import pack_arrays, unpack_arrays
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from pictures import encode, photo
from serving import PREPROCESSING, add_model
from tiny_models import GraphBuilder, float_value, tiny_cnn, tiny_nhwc, tiny_vision_transformer

IMAGES = 11
# Images run one by one, so that no sum depends on who else is in the batch.
EXECUTION = ExecutionConfig(batch_size=1)
RNG = np.random.default_rng(3)


def write_images(root: Path, seeds: list[int]) -> FolderDataset:
    root.mkdir()
    for number, seed in enumerate(seeds):
        (root / f"{number:02}.png").write_bytes(encode(photo(16, 16, seed=seed), "PNG"))
    return FolderDataset(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> FolderDataset:
    # Every third picture is the same.
    return write_images(
        tmp_path_factory.mktemp("datasets") / "small", [index if index % 3 else 0 for index in range(IMAGES)]
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    return add_model(repository, "cnn", tiny_cnn(seed=1), preprocessing=PREPROCESSING)


def collect(
    version: ModelVersion,
    dataset: FolderDataset,
    tap: str,
    indices: np.ndarray | None = None,
    *,
    sites: int = 1,
    seed: int = 4,
    settings: CollectionSettings | None = None,
    attributed: bool = False,
    execution: ExecutionConfig = EXECUTION,
    cancellation: Cancellation | None = None,
    progress=lambda *_: None,
) -> ShardSamples:
    resolved = resolve_tap(version.manifest.taps, tap)
    return collect_shard(
        version,
        resolved,
        dataset,
        np.arange(len(dataset)) if indices is None else indices,
        sites,
        settings or CollectionSettings(),
        seed,
        execution,
        attribution=SiteAttribution.of(version, resolved, execution) if attributed else None,
        progress=progress,
        cancellation=cancellation or Cancellation(),
    )


def pixels(dataset: FolderDataset, preprocessing: Preprocessing = PREPROCESSING) -> np.ndarray:
    return np.stack([preprocess(dataset.read_image(index), preprocessing) for index in range(len(dataset))])


def merged(*shards: ShardSamples, **options) -> Samples:
    return merge_samples([lambda shard=shard: shard for shard in shards], **options)


def shard_of(activation: np.ndarray, image: list[int] | None = None, attribution=None) -> ShardSamples:
    count = len(activation)
    images = np.arange(count) if image is None else np.array(image)
    return ShardSamples(activation, images, np.zeros((count, 2), np.int32), (4, 4), attribution)


# What is collected


@pytest.mark.parametrize("batch_size", [1, 4])
def test_samples_are_what_the_tap_holds_at_the_sites_drawn(version, dataset, batch_size):
    told = []
    shard = collect(
        version,
        dataset,
        "add",
        np.array([8, 2, 5, 0, 7]),
        sites=3,
        execution=ExecutionConfig(batch_size=batch_size),
        progress=lambda *said: told.append(said),
    )
    maps = in_double(tiny_cnn(seed=1), "add")({"image": pixels(dataset)})["add"]
    assert shard.activation.dtype == np.float16
    assert shard.site_shape == (8, 8)
    np.testing.assert_array_equal(shard.image, np.repeat([8, 2, 5, 0, 7], 3))
    np.testing.assert_array_equal(
        shard.site, np.concatenate([choose_sites(image, (8, 8), 3, 4) for image in (8, 2, 5, 0, 7)])
    )
    expected = maps[shard.image, :, shard.site[:, 0], shard.site[:, 1]]
    np.testing.assert_allclose(shard.activation, expected, rtol=2**-10, atol=1e-4)
    assert told[0] == ("collecting", 0, 5)
    assert told[-1] == ("collecting", 5, 5)


def test_attributions_are_those_of_the_sites(version, dataset):
    shard = collect(version, dataset, "add", sites=2, attributed=True)
    # Average pooling and a dense layer follow: the weights times the activation, over 64 sites.
    (weight,) = (tensor for tensor in tiny_cnn(seed=1).graph.initializer if tensor.name == "fc.weight")
    w = onnx.numpy_helper.to_array(weight).astype(np.float64)
    maps = in_double(tiny_cnn(seed=1), "add")({"image": pixels(dataset)})["add"]
    expected = maps[shard.image, :, shard.site[:, 0], shard.site[:, 1]] @ w.T / 64
    assert shard.attribution.dtype == np.float16
    np.testing.assert_allclose(shard.attribution, expected, rtol=2e-3, atol=1e-4)


def test_a_channels_last_tap_is_read_where_its_units_lie(tmp_path, dataset):
    preprocessing = Preprocessing("nhwc", *[getattr(PREPROCESSING, name) for name in _REST])
    version = add_model(ModelRepository(tmp_path), "nhwc", tiny_nhwc(), preprocessing=preprocessing)
    shard = collect(version, dataset, "model/block2/out:0", attributed=True)
    maps = in_double(tiny_nhwc(), "model/block2/out:0")({"input_1:0": pixels(dataset, preprocessing)})
    rows = maps["model/block2/out:0"][shard.image, shard.site[:, 0], shard.site[:, 1]]
    np.testing.assert_allclose(shard.activation, rows, rtol=2**-10, atol=1e-4)
    assert shard.attribution.shape == (IMAGES, 10)


_REST = ("color_order", "mean", "std", "size_policy", "height", "width", "resize_short_side", "verification")


def test_of_tokens_the_class_token_is_left_out_unless_it_is_wanted(tmp_path, dataset):
    version = add_model(ModelRepository(tmp_path), "vit", tiny_vision_transformer(), preprocessing=PREPROCESSING)
    tokens = in_double(tiny_vision_transformer(), "tokens")({"image": pixels(dataset)})["tokens"]
    for settings, least, available in (
        (CollectionSettings(), 1, 16),
        (CollectionSettings(class_tokens=0), 0, 17),
        (CollectionSettings(class_tokens=3), 3, 14),
    ):
        shard = collect(version, dataset, "tokens", sites=available, settings=settings)
        assert shard.site_shape == (17,)
        assert shard.site.min() == least
        np.testing.assert_allclose(shard.activation, tokens[shard.image, shard.site[:, 0]], rtol=2**-10, atol=1e-4)


def test_a_vector_is_one_sample_of_an_image_and_no_more(version, dataset):
    shard = collect(version, dataset, "flat", attributed=True)
    assert shard.site.shape == (IMAGES, 0)
    assert shard.site_shape == ()
    assert shard.activation.shape == (IMAGES, 12)
    with pytest.raises(OrtoscopeError) as caught:
        collect(version, dataset, "flat", sites=2)
    assert caught.value.reason == "TOO_MANY_SITES"


def test_samples_of_unusual_length_are_left_out_if_asked_for(tmp_path, dataset):
    version = add_model(ModelRepository(tmp_path), "vit", tiny_vision_transformer(), preprocessing=PREPROCESSING)
    tokens = in_double(tiny_vision_transformer(), "tokens")({"image": pixels(dataset)})["tokens"][:, 1:]
    lengths = np.linalg.norm(tokens, axis=2)
    everything = collect(version, dataset, "tokens", sites=16)
    shard = collect(version, dataset, "tokens", sites=16, settings=CollectionSettings(outlier_norm=1.1))
    within = lengths <= 1.1 * np.median(lengths, axis=1, keepdims=True)
    kept = within[everything.image, everything.site[:, 0] - 1]
    assert 0 < shard.outliers == (~kept).sum()
    np.testing.assert_array_equal(shard.activation, everything.activation[kept])
    np.testing.assert_array_equal(shard.site, everything.site[kept])
    assert everything.outliers == 0


def test_a_batch_whose_samples_are_all_left_out_leaves_none(tmp_path, dataset):
    version = add_model(ModelRepository(tmp_path), "cnn", tiny_cnn(seed=1), preprocessing=PREPROCESSING)
    shards = [
        collect(version, dataset, "add", settings=CollectionSettings(outlier_norm=1.0001), attributed=True, seed=seed)
        for seed in range(4)
    ]
    for shard in shards:
        assert len(shard.activation) == len(shard.attribution) == len(shard.site) == len(shard.image)
        assert len(shard.image) + shard.outliers == IMAGES
    assert any(shard.outliers for shard in shards)


# How it is kept


def scaled(tmp_path: Path, *factors: float) -> ModelVersion:
    """`conv` (n, 4, 16, 16) → one after another times each factor: `out`."""
    g = GraphBuilder(2)
    value = g.node("Conv", ["image", g.weight("k", (4, 3, 1, 1), 3), g.bias("b", 4)], "conv")
    for number, factor in enumerate(factors):
        last = number + 1 == len(factors)
        value = g.node(
            "Mul", [value, g.constant(f"f{number}", np.float32(factor))], "out" if last else f"scaled{number}"
        )
    size = [float_value("image", ["n", 3, 16, 16])], [float_value("out", ["n", 4, 16, 16])]
    return add_model(ModelRepository(tmp_path), "scaled", g.model(*size, opset=17), preprocessing=PREPROCESSING)


@pytest.mark.parametrize("factor", [1e6, 1e-7])
def test_what_half_precision_cannot_hold_is_kept_whole(tmp_path, dataset, factor):
    shard = collect(scaled(tmp_path, factor), dataset, "out")
    model = scaled(tmp_path / "double", 1.0)
    plain = collect(model, dataset, "out")
    assert shard.activation.dtype == np.float32
    assert plain.activation.dtype == np.float16
    np.testing.assert_allclose(shard.activation / np.float32(factor), plain.activation.astype(np.float32), rtol=1e-3)


def test_rows_are_rounded_one_by_one_so_that_shards_make_no_difference():
    rows = RNG.standard_normal((6, 8)).astype(np.float32)
    rows[2] *= 1e5
    rows[3] *= 1e-8
    rows[4] = -0.0
    together = collection._halved(rows)
    alone = [collection._halved(row[None]) for row in rows]
    assert together.dtype == np.float32
    assert [row.dtype for row in alone] == [np.float16, np.float16, np.float32, np.float32, np.float16, np.float16]
    np.testing.assert_array_equal(together, np.concatenate([row.astype(np.float32) for row in alone]))
    np.testing.assert_array_equal(together[2:4], rows[2:4])
    assert not np.signbit(together[4]).any()
    error = np.linalg.norm(together.astype(np.float64) - rows, axis=1)
    assert (error <= 2.0**-10 * np.linalg.norm(rows, axis=1)).all()


def test_a_shard_survives_being_stored(version, dataset):
    for attributed in (False, True):
        shard = collect(version, dataset, "add", sites=2, attributed=attributed)
        again = ShardSamples.from_arrays(unpack_arrays(pack_arrays(shard.to_arrays())))
        assert_equal(again.to_arrays(), shard.to_arrays())
        assert again.site_shape == shard.site_shape


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype, name
        assert array.tobytes() == expected[name].tobytes(), name


# Merging


def arrays_of(samples: Samples) -> dict[str, np.ndarray]:
    names = ("activation", "image", "site", "attribution", "zero", "duplicate_of")
    return {**{name: getattr(samples, name) for name in names}, **samples.moments.to_arrays()}


@pytest.mark.parametrize("shards", [2, 5, IMAGES])
def test_shards_merge_to_the_bytes_of_all_images_in_one_go(version, dataset, shards):
    options = {"sites": 3, "attributed": True}
    expected = arrays_of(merged(collect(version, dataset, "add", **options)))
    parts = [
        collect(version, dataset, "add", shard_positions(IMAGES, shards, number), **options) for number in range(shards)
    ]
    assert (np.diff(expected["image"]) >= 0).all()
    assert_equal(arrays_of(merged(*parts)), expected)
    assert_equal(arrays_of(merged(*parts[::-1])), expected)


def test_a_shard_that_needs_single_precision_widens_the_others():
    whole = (RNG.standard_normal((6, 5)) * [[1], [1], [1], [1e6], [1], [1]]).astype(np.float32)
    stored = [shard_of(collection._halved(whole[rows]), rows) for rows in ([0, 2, 4], [1, 3, 5])]
    assert [shard.activation.dtype for shard in stored] == [np.float16, np.float32]
    samples = merged(*stored)
    assert_equal(arrays_of_plain(samples), arrays_of_plain(merged(shard_of(collection._halved(whole)))))
    assert samples.activation.dtype == np.float32


def arrays_of_plain(samples: Samples) -> dict[str, np.ndarray]:
    return {"activation": samples.activation, "image": samples.image, **samples.moments.to_arrays()}


def test_equal_and_zero_samples_are_told(version, dataset):
    rows = np.array([[0, 0], [1, 2], [1, 2], [0, 0], [2, 1], [1, 2], [2, 1]], np.float16)
    samples = merged(shard_of(rows[1::2], [1, 3, 5]), shard_of(rows[::2], [0, 2, 4, 6]))
    np.testing.assert_array_equal(samples.zero, [True, False, False, True, False, False, False])
    np.testing.assert_array_equal(samples.duplicate_of, [-1, -1, 1, -1, -1, 1, 4])
    np.testing.assert_array_equal(samples.distinct, [1, 4])
    wide = rows.astype(np.float64)
    assert samples.moments.count == 7
    np.testing.assert_allclose(samples.moments.total, wide.sum(0))
    np.testing.assert_allclose(samples.moments.products, wide.T @ wide)


@pytest.mark.parametrize("collide", [False, True])
def test_equal_rows_are_found_as_by_comparing_all_pairs(monkeypatch, collide):
    rows = RNG.integers(0, 3, (300, 4)).astype(np.float16)
    if collide:
        constant = hashlib.blake2b(b"", digest_size=8)
        monkeypatch.setattr(collection.hashlib, "blake2b", lambda *_, **__: constant)
    expected = [next(j for j in range(i + 1) if (rows[j] == rows[i]).all()) for i in range(len(rows))]
    expected = [-1 if first == number else first for number, first in enumerate(expected)]
    np.testing.assert_array_equal(duplicates(rows), expected)


def test_merging_takes_the_memory_of_the_result_and_of_one_shard():
    shards, rows, units, classes = 8, 1000, 64, 256
    shard_bytes = rows * (units + classes) * 2

    def load(number: int) -> ShardSamples:
        generator = np.random.default_rng(number)
        activation = generator.random((rows, units), np.float32).astype(np.float16)
        attribution = np.full((rows, classes), number, np.float16)
        return shard_of(activation, list(range(number, shards * rows, shards)), attribution)

    tracemalloc.start()
    try:
        samples = merge_samples([lambda number=number: load(number) for number in range(shards)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # And the blocks of sums, the indices and the list of images of this test.
    assert peak < (shards + 1) * shard_bytes + 4 * 1024**2
    np.testing.assert_array_equal(samples.attribution[:, 0], np.arange(shards * rows) % shards)


def test_attributions_can_be_left_out_of_the_merge():
    shard = shard_of(np.ones((2, 3), np.float16), attribution=np.ones((2, 4), np.float16))
    assert merged(shard).attribution.shape == (2, 4)
    assert merged(shard, with_attribution=False).attribution is None


def test_a_merge_of_no_samples_is_empty():
    samples = merged(shard_of(np.empty((0, 3), np.float16)))
    assert samples.activation.shape == (0, 3)
    assert len(samples.distinct) == len(samples.zero) == samples.moments.count == 0


# What can go wrong


def test_three_images_and_images_that_are_all_equal(tmp_path, version):
    few = merged(collect(version, write_images(tmp_path / "few", [1, 2, 3]), "add", attributed=True))
    assert len(few.distinct) == 3
    equal = collect(version, write_images(tmp_path / "equal", [5] * 4), "flat", attributed=True)
    samples = merged(equal)
    np.testing.assert_array_equal(samples.duplicate_of, [-1, 0, 0, 0])
    np.testing.assert_array_equal(samples.distinct, [0])


@pytest.mark.parametrize("classes", [1, 2])
def test_two_classes_are_attributed_to_and_a_single_score_is_no_class(tmp_path, dataset, classes):
    g = GraphBuilder(5)
    g.node("Conv", ["image", g.weight("k", (4, 3, 3, 3), 27)], "conv")
    g.node("GlobalAveragePool", ["conv"], "pooled")
    g.node("Flatten", ["pooled"], "flat")
    g.node("Gemm", ["flat", g.weight("w", (4, classes), 4)], "logits")
    model = g.model([float_value("image", ["n", 3, 16, 16])], [float_value("logits", ["n", classes])], opset=17)
    version = add_model(ModelRepository(tmp_path), "few", model, preprocessing=PREPROCESSING, class_labels=())
    shard = collect(version, dataset, "conv", attributed=True)
    assert len(shard.activation) == IMAGES
    assert (shard.attribution is None) == (classes == 1)


def test_an_image_that_vanishes_on_the_way_is_named(tmp_path, version):
    dataset = write_images(tmp_path / "vanishing", list(range(6)))
    (tmp_path / "vanishing" / "04.png").unlink()
    with pytest.raises(OrtoscopeError) as caught:
        collect(version, dataset, "add")
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.reason == "IMAGE_MISSING"
    assert "04.png" in caught.value.message


def test_an_activation_that_is_not_finite_names_unit_and_image(tmp_path, dataset):
    with pytest.raises(OrtoscopeError) as caught:
        collect(scaled(tmp_path, 1e30, 1e30), dataset, "out")
    assert caught.value.reason == "ACTIVATION_NOT_FINITE"
    assert caught.value.metadata["image"] == "00.png"


def test_an_attribution_that_is_not_finite_names_class_and_image(tmp_path, dataset):
    g = GraphBuilder(5)
    g.node("Conv", ["image", g.weight("k", (4, 3, 3, 3), 27)], "conv")
    g.node("GlobalAveragePool", ["conv"], "pooled")
    g.node("Flatten", ["pooled"], "flat")
    g.node("Gemm", ["flat", g.weight("w", (4, 2), 4)], "small")
    g.node("Mul", ["small", g.constant("f", np.float32(1e38))], "large")
    g.node("Mul", ["large", g.constant("f2", np.float32(1e38))], "logits")
    model = g.model([float_value("image", ["n", 3, 16, 16])], [float_value("logits", ["n", 2])], opset=17)
    version = add_model(ModelRepository(tmp_path), "large", model, preprocessing=PREPROCESSING)
    with pytest.raises(OrtoscopeError) as caught:
        collect(version, dataset, "conv", attributed=True)
    assert caught.value.reason == "ATTRIBUTION_NOT_FINITE"
    assert caught.value.metadata["image"] == "00.png"


def test_a_pass_that_is_cancelled_ends(version, dataset):
    cancellation = Cancellation()

    def progress(_stage: str, done: int, _all: int) -> None:
        if done == 2:
            cancellation.cancel()

    with pytest.raises(OrtoscopeError) as caught:
        collect(version, dataset, "add", cancellation=cancellation, progress=progress)
    assert caught.value.code is Code.CANCELLED
    with pytest.raises(OrtoscopeError) as caught:
        merged(shard_of(np.ones((2, 3), np.float16)), cancellation=cancellation)
    assert caught.value.code is Code.CANCELLED


@pytest.mark.parametrize(
    "given", [{"edge": -1}, {"class_tokens": -2}, {"outlier_norm": 0.5}, {"outlier_norm": float("inf")}]
)
def test_settings_out_of_range_are_refused_by_name(given):
    with pytest.raises(OrtoscopeError) as caught:
        CollectionSettings(**given)
    assert caught.value.reason == "INVALID_SETTING"
    assert caught.value.metadata["setting"] == f"collection.{next(iter(given))}"
