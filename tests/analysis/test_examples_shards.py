"""Examples found shard by shard against those found in one go."""

import math
from dataclasses import fields

import numpy as np
import pytest
from ortoscope_service.analysis.examples import (
    Examples,
    ExamplesSpec,
    ShardRanking,
    find_examples,
    merge_rankings,
    rank_shard,
)
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.analysis.shards import MOST_SHARDS, shard_positions, shards_of
from ortoscope_service.datasets.broden import BrodenDataset
from ortoscope_service.datasets.broden_writer import BrodenWriter
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from pictures import encode, photo
from serving import PREPROCESSING, add_model
from tiny_models import tiny_cnn

IMAGES = 23
# Images run one by one, so that no sum depends on who else is in the batch.
EXECUTION = ExecutionConfig(batch_size=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> BrodenDataset:
    root = tmp_path_factory.mktemp("datasets") / "small"
    with BrodenWriter(root, ("color",), (8, 8)) as writer:
        red = writer.label("red-c")
        for index in range(IMAGES):
            # Every third picture is the same, for ties between shards.
            picture = encode(photo(16, 16, seed=index if index % 3 else 0), "PNG")
            writer.add(f"{index}.png", picture, {"color": [np.full((8, 8), red)]})
    return BrodenDataset(root)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    add_model(repository, "cnn", tiny_cnn(seed=1), preprocessing=PREPROCESSING)
    return repository.get("cnn")


def assert_equal(found: Examples, expected: Examples) -> None:
    for field in fields(Examples):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


@pytest.mark.parametrize("reduction", ["max", "mean", "min"])
@pytest.mark.parametrize("shards", [1, 4, IMAGES])
def test_merged_rankings_of_shards_are_the_ranking_of_all_images_to_the_bit(version, dataset, reduction, shards):
    tap = next(tap for tap in version.manifest.taps if len(tap.site_axes) == 2)
    spec = ExamplesSpec(5, reduction)
    nothing = {"progress": lambda *_: None, "cancellation": Cancellation()}
    expected = find_examples(version, tap, dataset, np.arange(IMAGES), spec, EXECUTION, **nothing)
    stored = [
        rank_shard(
            version, tap, dataset, shard_positions(IMAGES, shards, shard), spec, EXECUTION, **nothing
        ).to_arrays()
        for shard in range(shards)
    ]
    for order in (stored, stored[::-1]):
        loaders = [lambda arrays=arrays: ShardRanking.from_arrays(arrays) for arrays in order]
        assert_equal(merge_rankings(loaders, spec), expected)


@pytest.mark.parametrize("images", [1, 5, 255, 256, 1000, 63_305, 10_000_000])
@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_shards_hold_every_image_once_and_are_even(images, batch_size):
    shards = shards_of(images, batch_size)
    assert 1 <= shards <= min(images, MOST_SHARDS)
    sizes = [len(range(shard, images, shards)) for shard in range(shards)]
    assert max(sizes) - min(sizes) <= 1
    if images < 10_000:
        every = np.concatenate([shard_positions(images, shards, shard) for shard in range(shards)])
        np.testing.assert_array_equal(np.sort(every), np.arange(images))


@pytest.mark.parametrize(("images", "shards"), [(1000, 21), (960, 20), (10_007, 79), (63_305, 495)])
def test_a_few_shards_are_a_fair_sample_of_whatever_order_the_images_have(images: int, shards: int) -> None:
    positions = np.concatenate([shard_positions(images, shards, shard) for shard in (0, 1)])
    share = len(positions) / images
    for parts in (4, 10, 16):  # sorted by class
        counts = np.bincount(positions * parts // images, minlength=parts)
        assert abs(counts - images * share / parts).max() <= 4  # two rows at the edges of a part, two shards of each
    for period in (2, 3, 7, 10, 16, 20, 21, 79):  # classes by turns
        counts = np.bincount(positions % period, minlength=period)
        expected = len(positions) / period
        assert abs(counts - expected).max() <= 4 * math.sqrt(expected)  # as a random sample
