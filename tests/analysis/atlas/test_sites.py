"""Sites that are drawn of an image: where they may lie, and that nothing but the seed and the image decides them."""

import numpy as np
import pytest
from ortoscope_service.analysis.atlas.sites import choose_sites, leading_tokens, sites_available, token_grid
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.repository import ModelRepository
from serving import add_model
from tiny_models import tiny_cnn, tiny_vision_transformer

DRAWS = 4000


def drawn(shape: tuple[int, ...], count: int = 1, **options: int) -> np.ndarray:
    return np.concatenate([choose_sites(image, shape, count, 5, **options) for image in range(DRAWS)])


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2).sum() / expected)


def test_every_site_but_the_edges_is_drawn_equally_often():
    sites = drawn((6, 8))
    counts = np.zeros((6, 8), int)
    np.add.at(counts, tuple(sites.T), 1)
    assert counts[0].sum() == counts[-1].sum() == counts[:, 0].sum() == counts[:, -1].sum() == 0
    assert chi_square(counts[1:-1, 1:-1]) < 23 + 5 * np.sqrt(2 * 23)  # 24 sites: mean and 5 standard deviations


def test_edges_stay_where_a_map_is_too_small_to_lose_them():
    assert set(drawn((2, 3))[:, 0]) == {0, 1}
    assert set(drawn((2, 3))[:, 1]) == {1}
    assert set(drawn((4, 4), edge=2)[:, 0]) == {0, 1, 2, 3}
    assert set(drawn((5, 5), edge=2)[:, 0]) == {2}


def test_the_seed_and_the_image_decide_and_nothing_else():
    sites = [choose_sites(7, (9, 9), 3, 1) for _ in range(2)]
    np.testing.assert_array_equal(*sites)
    others = [choose_sites(image, (30, 30), 3, seed) for image, seed in ((7, 1), (8, 1), (7, 2), (7, -2))]
    assert len({other.tobytes() for other in others}) == 4
    np.testing.assert_array_equal(choose_sites(7, (9, 9), 2, 1), sites[0][:2])


def test_all_sites_of_a_map_are_taken_once_if_all_are_asked_for():
    for image in range(20):
        sites = choose_sites(image, (5, 6), 12, 0)
        assert sites.dtype == np.int32
        assert {tuple(site) for site in sites.tolist()} == {
            (row, column) for row in (1, 2, 3) for column in (1, 2, 3, 4)
        }


def test_several_sites_of_an_image_favour_none():
    counts = np.zeros((5, 5), int)
    np.add.at(counts, tuple(drawn((5, 5), 4).T), 1)
    share = counts[1:-1, 1:-1] / DRAWS
    np.testing.assert_allclose(share, 4 / 9, atol=0.06)


@pytest.mark.parametrize("count", [1, 3])
def test_taps_of_other_sizes_get_the_same_places(count):
    for image in range(200):
        large, small = (choose_sites(image, (side, side), count, 3) for side in (28, 14))
        distance = np.abs((large + 0.5) / 28 - (small + 0.5) / 14).max()
        # Half a site of either, and what the edges of the two differ by.
        assert distance <= 0.5 / 28 + 0.5 / 14 + 1 / 14 - 1 / 28 + 1e-9


def test_tokens_of_a_square_of_patches_lie_where_a_map_without_edges_has_them():
    assert token_grid(16) == (4, 4)
    assert token_grid(15) is None
    assert token_grid(0) is None
    for image in range(50):
        rows = choose_sites(image, (4, 4), 2, 3, edge=0)
        tokens = choose_sites(image, (18,), 2, 3, first=1, last=1)
        np.testing.assert_array_equal(tokens[:, 0], 1 + rows[:, 0] * 4 + rows[:, 1])


def test_class_tokens_are_never_drawn_and_other_tokens_are():
    assert set(drawn((8,), first=2, last=1)[:, 0]) == {2, 3, 4, 5, 6}
    assert set(drawn((5,), first=1)[:, 0]) == {1, 2, 3, 4}


def test_a_tap_without_sites_has_one_sample_without_coordinates():
    assert choose_sites(3, (), 1, 0).shape == (1, 0)
    assert sites_available(()) == 1


@pytest.mark.parametrize(
    ("shape", "count", "options", "available"),
    [((), 2, {}, 1), ((5, 5), 10, {}, 9), ((5,), 5, {"first": 1}, 4), ((1,), 1, {"first": 1}, 0)],
)
def test_more_sites_than_there_are_is_an_error_that_says_how_many(shape, count, options, available):
    assert sites_available(shape, **options) == available
    with pytest.raises(OrtoscopeError) as caught:
        choose_sites(0, shape, count, 0, **options)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.reason == "TOO_MANY_SITES"
    assert caught.value.metadata["available"] == str(available)


@pytest.mark.parametrize("batch", ["n", 2])
def test_the_class_token_is_found_in_the_graph(tmp_path, batch):
    fixed = batch if isinstance(batch, int) else 0
    version = add_model(ModelRepository(tmp_path), "vit", tiny_vision_transformer(batch), fixed_batch=fixed)
    found = {
        name: leading_tokens(version, resolve_tap(version.manifest.taps, name))
        for name in ("patches", "patch_tokens", "tokens", "block0/residual2", "class_token", "logits")
    }
    assert found == {
        "patches": 0,
        "patch_tokens": 0,
        "tokens": 1,
        "block0/residual2": 1,
        "class_token": 0,
        "logits": 0,
    }


def test_a_network_without_tokens_has_no_class_token(tmp_path):
    version = add_model(ModelRepository(tmp_path), "cnn", tiny_cnn())
    assert {leading_tokens(version, tap) for tap in version.manifest.taps} == {0}
