"""Octaves: their sizes, and what is carried from one to the next."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ortoscope_service.analysis.visualization.loop import Seed
from ortoscope_service.analysis.visualization.objectives import Layer
from ortoscope_service.analysis.visualization.octaves import octave_sizes, resized, visualize_octaves
from ortoscope_service.analysis.visualization.presets import PRESETS
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.analysis.visualization.resampling import Size
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.models.repository import ModelRepository
from PIL import Image
from serving import PREPROCESSING, add_model
from tiny_models import tiny_cnn

DREAM = PRESETS["deepdream"]
RNG = np.random.default_rng(0)


def test_sizes_go_up_to_the_pictures_by_the_scale() -> None:
    assert octave_sizes((224, 224), 4, 1.4) == [(82, 82), (114, 114), (160, 160), (224, 224)]
    assert octave_sizes((30, 20), 2, 2.0) == [(15, 10), (30, 20)]
    assert octave_sizes((7, 5), 1, 1.4) == [(7, 5)]


@pytest.mark.parametrize(("octaves", "scale"), [(0, 1.4), (17, 1.0), (2, 0.5), (3, 8.0), (2, float("nan"))])
def test_octaves_of_no_use_are_refused(octaves: int, scale: float) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        octave_sizes((20, 20), octaves, scale)
    assert (caught.value.reason, caught.value.field) == ("INVALID_OCTAVES", "octaves")


@pytest.mark.parametrize("size", [(40, 30), (17, 90), (9, 8)])
def test_resizing_is_that_of_pillow_away_from_the_border(size: Size) -> None:
    picture = np.cumsum(np.cumsum(RNG.standard_normal((40, 60)), 0), 1).astype(np.float32)
    expected = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
    inner = np.s_[2:-2, 2:-2]
    tolerance = 2e-3 * np.abs(picture).max()
    np.testing.assert_allclose(resized(picture[None], size)[0][inner], expected[inner], atol=tolerance)


def test_dreams_grow_over_octaves_and_without_steps_the_picture_stays(tmp_path: Path) -> None:
    version = add_model(ModelRepository(tmp_path), "tiny", tiny_cnn(), preprocessing=PREPROCESSING)
    start = RNG.uniform(0.3, 0.7, (2, 3, 28, 24)).astype(np.float32)
    seen: list[tuple[int, int]] = []

    def program_of(size: Size) -> Program:
        return Program(version, DREAM.picture(*size), (Layer("conv2"),), DREAM.chain)

    seeds = [Seed(0, 0), Seed(0, 1)]
    still = dataclasses.replace(DREAM.recipe, steps=0)
    same = visualize_octaves(program_of, still, seeds, start, octaves=3, scale=1.4)
    np.testing.assert_allclose(same.pictures, start, atol=1e-5)
    dreamt = visualize_octaves(
        program_of,
        DREAM.recipe,
        seeds,
        start,
        octaves=3,
        scale=1.4,
        progress=lambda octave, told: seen.append((octave, told.step)),
    )
    assert seen == [(octave, step) for octave in range(3) for step in range(1, 11)]
    for before, after in zip(same.outcomes, dreamt.outcomes, strict=True):
        assert after.objective > before.objective
