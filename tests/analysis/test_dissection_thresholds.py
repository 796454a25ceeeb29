"""Thresholds from the surveys of shards against numpy.quantile over all activations at once, on hostile data."""

import io
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortoscope_service.analysis.dissection.spec import DissectionSpec
from ortoscope_service.analysis.dissection.spool import read_maps
from ortoscope_service.analysis.dissection.survey import ShardSurvey, Surveyor
from ortoscope_service.analysis.dissection.thresholds import Thresholds, bound_from, thresholds_from, vanguard_of
from ortoscope_service.analysis.execution import ActivationBatch, Timings
from ortoscope_service.analysis.shards import shard_positions, shards_of
from ortoscope_service.errors import OrtoscopeError

BATCH = 4
IMAGES = 320
SITES = (3, 4)


@dataclass
class Surveyed:
    """What came of surveying all shards."""

    thresholds: Thresholds
    surveys: list[ShardSurvey]
    maps: list[bytes]
    bound: np.ndarray | None
    rounds: int
    """How often the shards behind the vanguard were surveyed."""

    @property
    def set_aside(self) -> int:
        return sum(len(survey.map_unit) for survey in self.surveys)


def survey_of(
    maps: np.ndarray, indices: np.ndarray, spec: DissectionSpec, bound: np.ndarray | None, batch: int = BATCH
) -> tuple[ShardSurvey, bytes]:
    """The survey of images `indices` of activations (images, units, rows, columns), through arrays and back."""
    file = io.BytesIO()
    surveyor: Surveyor | None = None
    for start in range(0, len(indices), batch):
        chosen = indices[start : start + batch]
        flat = maps[chosen].reshape(len(chosen), maps.shape[1], -1)
        given_batch = ActivationBatch(start, chosen, flat, maps.shape[2:])
        surveyor = surveyor or Surveyor(given_batch, len(indices), len(maps), spec, bound)
        surveyor.take(given_batch, file)
    assert surveyor is not None
    return ShardSurvey.from_arrays(surveyor.survey(Timings()).to_arrays()), file.getvalue()


def survey_all(maps: np.ndarray, spec: DissectionSpec, shards: int, vanguard: int) -> Surveyed:
    """Surveys all shards: the vanguard first, the others again as long as a unit is incomplete."""
    positions = [shard_positions(len(maps), shards, shard) for shard in range(shards)]
    first = [survey_of(maps, positions[shard], spec, None) for shard in range(vanguard)]
    bound = bound_from([lambda s=s: s for s, _ in first], spec, len(maps)) if first else None
    used = bound
    for rounds in range(1, 4):
        found = first + [survey_of(maps, positions[shard], spec, used) for shard in range(vanguard, shards)]
        surveys = [survey for survey, _ in found]
        thresholds = thresholds_from([lambda s=s: s for s in surveys], spec, len(maps))
        if not thresholds.incomplete.any():
            return Surveyed(thresholds, surveys, [data for _, data in found], bound, rounds)
        used = thresholds.relaxed
    raise AssertionError("a unit stays incomplete")


def hostile(seed: int) -> np.ndarray:
    """Activations (IMAGES, units, rows, columns) of units that do what a sample may be misled by."""
    rng = np.random.default_rng(seed)
    shape = (IMAGES, *SITES)
    image = np.arange(IMAGES)[:, None, None]
    normal = rng.standard_normal(shape)
    units = [
        normal,
        np.sort(normal.ravel()).reshape(shape),  # ascending over the images
        -np.sort(normal.ravel()).reshape(shape),
        np.zeros(shape),
        np.full(shape, -2.5),
        np.maximum(normal - 3.5, 0),  # dead but for a few values: fewer than decide the threshold
        np.minimum(np.maximum(normal * 4, 0), 6),  # a plateau at both ends
        rng.standard_cauchy(shape),
        np.where(rng.random((IMAGES, 1, 1)) < 0.01, 1.0 + np.abs(normal), 0.0),  # all on in a few images
        np.where(image % 20 < 2, 10.0 + normal, normal),  # large in shards 0 and 1 of 20 alone
        np.where(image % 20 == 7, 10.0 + normal, normal),  # large in one shard behind the vanguard
        np.where(image % 20 < 2, 1.0, 0.0) + np.zeros(shape),  # the same with ties
        np.round(normal * 2) / 2,  # few distinct values
        np.full(shape, -0.0) * np.sign(normal),  # zeros of both signs
    ]
    return np.stack(units, axis=1).astype(np.float32)


def check_against_the_whole(found: Surveyed, maps: np.ndarray, spec: DissectionSpec) -> None:
    rows = maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
    expected = np.quantile(rows.astype(np.float64), 1 - spec.top_fraction, axis=1)
    np.testing.assert_array_equal(found.thresholds.value, expected)
    np.testing.assert_array_equal(found.thresholds.minimum, rows.min(axis=1))
    np.testing.assert_array_equal(found.thresholds.maximum, rows.max(axis=1))
    peaks = maps.max(axis=(2, 3))
    order = np.argsort(-peaks, axis=0, kind="stable")[: spec.examples_per_unit].T
    np.testing.assert_array_equal(found.thresholds.example_image, order)
    shards = len(found.surveys)
    for shard, (survey, data) in enumerate(zip(found.surveys, found.maps, strict=True)):
        of_images = read_maps(io.BytesIO(data), survey, found.thresholds.value)
        for index, (units, of_image) in zip(shard_positions(len(maps), shards, shard), of_images, strict=True):
            np.testing.assert_array_equal(units, np.flatnonzero(peaks[index] > expected))
            np.testing.assert_array_equal(of_image, maps[index, units])


@pytest.mark.parametrize("top_fraction", [0.0, 0.005, 0.1, 1.0])
@pytest.mark.parametrize(("shards", "vanguard"), [(1, 0), (5, 0), (20, 2), (20, 4), (80, 16), (IMAGES, 64)])
def test_thresholds_are_numpys_quantiles_however_the_images_are_cut(shards, vanguard, top_fraction):
    maps = hostile(1)
    spec = DissectionSpec(top_fraction)
    check_against_the_whole(survey_all(maps, spec, shards, vanguard), maps, spec)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.randoms(use_true_random=False))
def test_they_are_also_when_the_images_come_in_another_order(seed, order):
    maps = hostile(seed)
    permutation = list(range(IMAGES))
    order.shuffle(permutation)
    maps = maps[permutation]
    spec = DissectionSpec(0.01)
    check_against_the_whole(survey_all(maps, spec, 20, 4), maps, spec)


def misleading():
    """Maps whose unit 0 responds to the images of the first two of twenty shards alone, a tenth of all."""
    maps = hostile(2)
    first = np.concatenate([shard_positions(IMAGES, 20, shard) for shard in range(2)])
    maps[:, 0] = hostile(3)[:, 0]
    maps[first, 0] += 10
    return maps


def test_units_of_which_the_vanguard_misled_are_found_and_repaired_in_one_more_round():
    maps, spec = misleading(), DissectionSpec(0.2)
    found = survey_all(maps, spec, 20, 2)
    assert found.rounds == 2
    assert found.bound is not None
    assert found.bound[0] > found.thresholds.value[0]
    check_against_the_whole(found, maps, spec)


def test_the_relaxed_bound_leaves_other_units_as_they_were():
    maps, spec = misleading(), DissectionSpec(0.2)
    positions = [shard_positions(IMAGES, 20, shard) for shard in range(20)]
    first = [survey_of(maps, positions[shard], spec, None)[0] for shard in range(2)]
    bound = bound_from([lambda s=s: s for s in first], spec, IMAGES)
    rest = [survey_of(maps, positions[shard], spec, bound)[0] for shard in range(2, 20)]
    thresholds = thresholds_from([lambda s=s: s for s in first + rest], spec, IMAGES)
    assert 0 < thresholds.incomplete.sum() < maps.shape[1] / 2
    assert np.isneginf(thresholds.relaxed[thresholds.incomplete]).all()
    np.testing.assert_array_equal(thresholds.relaxed[~thresholds.incomplete], bound[~thresholds.incomplete])
    again = Thresholds.from_arrays(thresholds.to_arrays())
    for name, array in vars(thresholds).items():
        np.testing.assert_array_equal(getattr(again, name), array)


def test_a_bound_saves_most_of_what_would_be_set_aside_and_kept():
    maps = np.random.default_rng(6).standard_normal((2000, 6, 3, 3)).astype(np.float32)
    spec = DissectionSpec(0.005)
    bounded, unbounded = survey_all(maps, spec, 100, 4), survey_all(maps, spec, 100, 0)
    assert bounded.rounds == 1
    assert bounded.set_aside < unbounded.set_aside / 3
    kept = [sum(len(survey.kept.value) for survey in found.surveys) for found in (bounded, unbounded)]
    assert kept[0] < kept[1] / 10
    np.testing.assert_array_equal(bounded.thresholds.value, unbounded.thresholds.value)


def test_the_bound_is_exceeded_by_several_times_the_share_and_in_several_images():
    images, sites = 128, 12
    maps = np.random.default_rng(8).standard_normal((images * 100, 3, *SITES)).astype(np.float32)
    maps[:, 2] = np.sort(np.abs(maps[:, 2]).reshape(len(maps), -1)[:, :1, None], axis=0)  # an image has one value
    shards = [survey_of(maps, shard_positions(len(maps), 200, shard), DissectionSpec(), None)[0] for shard in (0, 1)]
    seen = np.concatenate([maps[shard_positions(len(maps), 200, shard)] for shard in (0, 1)])
    assert len(seen) == images
    loaders = [lambda s=s: s for s in shards]
    few = bound_from(loaders, DissectionSpec(0.005), len(maps))
    above = (seen.transpose(1, 0, 2, 3).reshape(3, -1) > few[:, None]).sum(axis=1)
    assert (np.abs(above[:2] - 4 * 0.005 * images * sites) <= 2).all()
    assert above[2] == 15 * sites  # 16 images reach it
    many = bound_from(loaders, DissectionSpec(0.2), len(maps))
    above = (seen.transpose(1, 0, 2, 3).reshape(3, -1) > many[:, None]).mean(axis=1)
    assert (above > 0.2 + 3 * math.sqrt(0.2 / images)).all()
    assert (above < 0.5).all()


def test_thresholds_do_not_depend_on_what_fits_into_memory(monkeypatch):
    maps = hostile(4)
    spec = DissectionSpec(0.01)
    expected = survey_all(maps, spec, 20, 2).thresholds
    monkeypatch.setattr("ortoscope_service.analysis.dissection.thresholds._HELD_BYTES", 1000)
    found = survey_all(maps, spec, 20, 2).thresholds
    np.testing.assert_array_equal(found.value, expected.value)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_survey_does_not_depend_on_its_batches(batch):
    maps = hostile(5)
    spec = DissectionSpec(0.5)  # so that no floor rises, which lets more or fewer maps through by batch
    bound = np.full(maps.shape[1], 0.5, np.float32)
    expected, expected_maps = survey_of(maps, np.arange(40), spec, bound)
    found, found_maps = survey_of(maps, np.arange(40), spec, bound, batch)
    assert found_maps == expected_maps
    for name, array in expected.to_arrays().items():
        np.testing.assert_array_equal(found.to_arrays()[name], array)


def test_given_thresholds_keep_no_values_and_set_aside_what_exceeds_them():
    maps = hostile(7)
    given_thresholds = np.linspace(-0.5, 2.0, maps.shape[1])
    spec = DissectionSpec(thresholds=given_thresholds)
    found = survey_all(maps, spec, 20, 0)
    np.testing.assert_array_equal(found.thresholds.value, given_thresholds)
    assert sum(len(survey.kept.value) for survey in found.surveys) == 0
    assert found.set_aside == (maps.max(axis=(2, 3)) > given_thresholds).sum()
    np.testing.assert_array_equal(found.thresholds.minimum, maps.min(axis=(0, 2, 3)))


def test_a_shard_that_may_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr("ortoscope_service.analysis.dissection.survey.MAX_KEPT_BYTES", 1000)
    with pytest.raises(OrtoscopeError) as caught:
        survey_of(hostile(1), np.arange(40), DissectionSpec(), None)
    assert caught.value.reason == "THRESHOLDS_TOO_LARGE"


@given(images=st.integers(1, 3_000_000), batch_size=st.sampled_from([1, 4, 16, 64, 512]))
def test_the_vanguard_is_a_small_part_that_holds_enough_images_or_nothing(images, batch_size):
    shards = shards_of(images, batch_size)
    vanguard = vanguard_of(images, shards)
    assert vanguard == 0 or 4 * vanguard <= shards
    positions = [len(shard_positions(images, shards, shard)) for shard in range(vanguard)]
    assert vanguard == 0 or sum(positions) >= 64
    if images >= 1000 and batch_size <= 16:
        assert 2 <= vanguard <= max(4, shards // 10)
