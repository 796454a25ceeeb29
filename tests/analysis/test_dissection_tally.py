"""The tally against brute force over whole maps and boolean arrays, and its bilinear rule against SciPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortoscope_service.analysis.dissection.tally import Tally
from ortoscope_service.analysis.dissection.upsampling import LinearAxis
from ortoscope_service.datasets.dataset import ConceptTable, ImageLabels
from scipy.ndimage import map_coordinates

CONCEPTS = ConceptTable(
    number=np.array([2, 3, 7, 9, 11]),
    name=("red", "blue", "car", "wheel", "street"),
    category=np.array([0, 0, 1, 2, 3]),
    category_name=("color", "object", "part", "scene"),
    frequency=np.ones(5, np.int64),
)


def raised(image_map: np.ndarray, mask_shape: tuple[int, int]) -> np.ndarray:
    """The whole map by the definition: half-pixel centres, edges replicated, float64, rows first, as a + (b - a) f."""
    result = image_map.astype(np.float64)
    for axis, output in enumerate(mask_shape):
        size = result.shape[axis]
        source = np.clip((np.arange(output) + 0.5) * size / output - 0.5, 0, size - 1)
        lower = np.floor(source).astype(int)
        a = np.take(result, lower, axis=axis)
        b = np.take(result, np.minimum(lower + 1, size - 1), axis=axis)
        result = a + (b - a) * np.expand_dims(source - lower, 1 - axis)
    return result


@given(sites=st.tuples(st.integers(1, 9), st.integers(1, 9)), mask=st.tuples(st.integers(1, 24), st.integers(1, 24)))
def test_the_definition_is_scipys_linear_interpolation(sites, mask):
    image_map = np.random.default_rng(0).standard_normal(sites)
    axes = [np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1) for n, m in zip(sites, mask, strict=True)]
    expected = map_coordinates(image_map, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(raised(image_map, mask), expected, atol=1e-12)


def _labels(rng: np.random.Generator, shape: tuple[int, int]) -> ImageLabels:
    planes = np.stack(
        (
            rng.choice(np.array([0, 2, 3], np.int32), shape),
            rng.choice(np.array([0, 7], np.int32), shape),
            rng.choice(np.array([0, 0, 9], np.int32), shape),
        )
    )[: rng.integers(0, 4)]
    return ImageLabels(planes, np.array([11] if rng.random() < 0.5 else [], np.int32))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 100_000),
    sites=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    mask=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    quantised=st.booleans(),
)
def test_counts_equal_brute_force_on_any_shapes(seed, sites, mask, quantised):
    rng = np.random.default_rng(seed)
    units, images = 4, 3
    maps = rng.standard_normal((images, units, *sites)).astype(np.float32)
    if quantised:  # thresholds that values reach exactly: strictly greater must hold
        maps = np.round(maps * 2) / 2
    thresholds = np.round(rng.standard_normal(units) * 2) / 2
    examples = np.argsort(-maps.max(axis=(2, 3)), axis=0, kind="stable")[:2].T
    tally = Tally(thresholds, sites, mask, CONCEPTS, np.ascontiguousarray(examples))
    all_labels = [_labels(rng, mask) for _ in range(images)]

    intersection = np.zeros((units, 5), np.int64)
    activation = np.zeros((units, 4), np.int64)
    concept_pixels = np.zeros(5, np.int64)
    masks = np.zeros((images, units, *mask), bool)
    for image, labels in enumerate(all_labels):
        tally.add(image, labels, np.arange(units), maps[image])
        holds = np.stack([(labels.planes == number).any(axis=0) for number in CONCEPTS.number])
        holds |= np.isin(CONCEPTS.number, labels.image_level)[:, None, None]
        concept_pixels += holds.sum(axis=(1, 2))
        present = {CONCEPTS.category[k] for k in range(5) if holds[k].any()}
        for unit in range(units):
            masks[image, unit] = raised(maps[image, unit], mask) > thresholds[unit]
            intersection[unit] += (holds & masks[image, unit]).sum(axis=(1, 2))
            for category in present:
                activation[unit, category] += masks[image, unit].sum()

    np.testing.assert_array_equal(tally.concept_pixels, concept_pixels)
    np.testing.assert_array_equal(tally.intersection, intersection)
    np.testing.assert_array_equal(tally.activation_pixels, activation)
    kept = np.unpackbits(tally.example_mask, axis=2, count=mask[0] * mask[1]).reshape(units, 2, *mask)
    for unit in range(units):
        for place in range(2):
            np.testing.assert_array_equal(kept[unit, place], masks[examples[unit, place], unit])


def test_a_plateau_at_the_threshold_stays_outside_the_mask():
    """Interpolating between 6 and 6 must give 6, not 6.0000005."""
    maps = np.full((1, 7, 7), 6, np.float32)
    tally = Tally(np.array([6.0]), (7, 7), (112, 112), CONCEPTS, np.zeros((1, 1), np.int64))
    tally.add(0, ImageLabels(np.full((1, 112, 112), 7, np.int32), np.zeros(0, np.int32)), np.array([0]), maps)
    assert tally.intersection.sum() == 0


def test_leaving_out_units_that_stay_below_their_threshold_changes_nothing():
    rng = np.random.default_rng(5)
    maps = rng.standard_normal((6, 5, 5)).astype(np.float32)
    thresholds = np.full(6, 1.8)
    labels = _labels(rng, (20, 20))
    example = np.zeros((6, 1), np.int64)
    whole, part = (Tally(thresholds, (5, 5), (20, 20), CONCEPTS, example) for _ in range(2))
    whole.add(0, labels, np.arange(6), maps)
    above = np.flatnonzero(maps.max(axis=(1, 2)) > 1.8)
    assert 0 < len(above) < 6
    part.add(0, labels, above, maps[above])
    np.testing.assert_array_equal(whole.intersection, part.intersection)
    np.testing.assert_array_equal(whole.activation_pixels, part.activation_pixels)


@pytest.mark.parametrize(("size", "output"), [(7, 112), (14, 112), (1, 5), (5, 5), (9, 4), (13, 113)])
def test_axis_positions_are_half_pixel_centres(size, output):
    axis = LinearAxis.of(size, output)
    position = axis.lower + axis.weight
    expected = np.clip((np.arange(output) + 0.5) * size / output - 0.5, 0, size - 1)
    np.testing.assert_allclose(position, expected, atol=1e-12)
    for j in range(size):
        np.testing.assert_array_equal(np.flatnonzero(axis.lower == j), np.arange(axis.start[j], axis.start[j + 1]))
