"""The rendered dataset as a whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ortoscope_service.datasets.broden import BrodenDataset
from ortoscope_service.datasets.rendered_scenes import CATEGORIES, pictures, render_scenes
from ortoscope_service.datasets.rendered_scenes.palette import NAMES, SHADES
from ortoscope_service.datasets.rendered_scenes.pictures import Picture, draw_picture
from ortoscope_service.datasets.rendered_scenes.places import PLACES
from ortoscope_service.datasets.rendered_scenes.shapes import SHAPES
from ortoscope_service.datasets.rendered_scenes.textures import TEXTURES
from ortoscope_service.datasets.rendered_scenes.things import THINGS
from ortoscope_service.datasets.validation import validate
from ortoscope_service.errors import Code, OrtoscopeError

SMALL = 64


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("rendered") / "scenes"
    render_scenes(output, count=20, seed=3, size=SMALL)
    return output


@pytest.fixture(scope="module")
def drawn() -> list[Picture]:
    """Enough pictures that every subject is drawn at least once."""
    return [draw_picture(i, 0, SMALL) for i in range(120)]


def shown(picture: Picture, category: str) -> set[str]:
    numbers = {int(n) for plane in picture.planes.get(category, []) for n in np.unique(plane)} - {0}
    return {picture.names[n] for n in numbers} | {picture.image_level.get(category, "")} - {""}


def test_the_dataset_is_valid_and_has_the_promised_form(rendered: Path) -> None:
    assert validate(rendered) == []
    dataset = BrodenDataset(rendered)
    assert len(dataset) == 20
    assert dataset.mask_shape == (SMALL // 2, SMALL // 2)
    assert dataset.concepts.category_name == CATEGORIES
    assert all(dataset.read_image(i).size == (SMALL, SMALL) for i in range(20))
    assert {dataset.path(i).split("/")[0] for i in range(20)} == {"scenes", "textures", "things", "shapes"}
    assert dict(dataset.splits).keys() == {"train", "val"}
    assert set(dataset.concepts.category.tolist()) == set(range(6))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(rendered: Path, tmp_path: Path) -> None:
    render_scenes(tmp_path / "again", count=20, seed=3, size=SMALL)
    files = sorted(path.relative_to(rendered) for path in rendered.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    assert all((rendered / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    assert BrodenDataset(tmp_path / "again").digest() == BrodenDataset(rendered).digest()
    render_scenes(tmp_path / "other", count=20, seed=4, size=SMALL)
    assert BrodenDataset(tmp_path / "other").digest() != BrodenDataset(rendered).digest()


def test_a_picture_does_not_depend_on_the_count(rendered: Path, tmp_path: Path) -> None:
    render_scenes(tmp_path / "few", count=5, seed=3, size=SMALL)
    for path in (tmp_path / "few" / "images").rglob("*.jpg"):
        assert path.read_bytes() == (rendered / path.relative_to(tmp_path / "few")).read_bytes()
    assert validate(tmp_path / "few") == []


def test_every_subject_is_drawn_and_labelled(drawn: list[Picture]) -> None:
    subjects = {"scene": [f"{name}-s" for name in PLACES], "texture": TEXTURES, "object": THINGS, "shape": SHAPES}
    for category, names in subjects.items():
        assert set(names) <= set().union(*(shown(picture, category) for picture in drawn))
    assert set().union(*(shown(picture, "color") for picture in drawn)) == {f"{name}-c" for name in NAMES}


def test_a_picture_shows_what_its_path_says(drawn: list[Picture]) -> None:
    category = {"scenes": "scene", "textures": "texture", "things": "object", "shapes": "shape"}
    for picture in drawn:
        kind, name = picture.path.rpartition("_")[0].split("/")
        name = f"{name}-s" if kind == "scenes" else name.replace("_", " ")
        assert name in shown(picture, category[kind])


def test_parts_lie_on_things_and_their_parts_on_parts(drawn: list[Picture]) -> None:
    levels = 0
    for picture in drawn:
        nothing = np.zeros((SMALL // 2, SMALL // 2), np.int32)
        (thing,) = picture.planes.get("object", [nothing])
        parts = picture.planes.get("part", [])
        for upper, lower in zip([thing, *parts], parts, strict=False):
            assert not (lower[upper == 0] > 0).any()
        levels = max(levels, len(parts))
    assert levels == 2


def test_every_pixel_has_a_colour_except_at_night(drawn: list[Picture]) -> None:
    for picture in drawn:
        if picture.image_level.get("scene") == "night-s":
            assert "color" not in picture.planes
        else:
            assert (picture.planes["color"][0] > 0).all()


def test_colours_look_like_their_names(drawn: list[Picture]) -> None:
    """The paints of plain shapes, averaged, are nearest to a shade of their own name or a neighbour of it."""
    neighbours = {
        "grey": {"white", "black"}, "white": {"grey", "pink"}, "black": {"grey"}, "orange": {"brown", "yellow", "red"},
        "brown": {"orange", "black"}, "pink": {"white"}, "red": {"orange"}, "yellow": {"orange"},
    }  # fmt: skip
    shades = [(name, np.array(rgb)) for name, several in SHADES.items() for rgb in several]
    checked = 0
    for picture in (picture for picture in drawn if picture.path.startswith("shapes/")):
        (plane,) = picture.planes["color"]
        blocks = picture.pixels.reshape(SMALL // 2, 2, SMALL // 2, 2, 3).mean((1, 3))
        for n in np.unique(plane):
            if (plane == n).sum() > 80:
                mean = blocks[plane == n].mean(0)
                nearest = min(shades, key=lambda shade: float(np.abs(shade[1] - mean).sum()))[0]
                name = picture.names[n].removesuffix("-c")
                assert nearest in {name} | neighbours.get(name, set())
                checked += 1
    assert checked > 20


def test_progress_counts_the_pictures(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    render_scenes(tmp_path / "d", count=3, size=32, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_what_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_scenes(tmp_path / "d", count=3, size=32, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_any_other_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    render_scenes(tmp_path / "empty", count=1, size=32)
    before = sorted((tmp_path / "empty").rglob("*"))
    with pytest.raises(OrtoscopeError) as refused:
        render_scenes(tmp_path / "empty", count=1, size=32)
    assert (refused.value.code, refused.value.reason) == (Code.ALREADY_EXISTS, "DATASET_EXISTS")
    assert sorted((tmp_path / "empty").rglob("*")) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(OrtoscopeError):
        render_scenes(tmp_path / "file", count=1, size=32)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"count": 0}, "INVALID_COUNT"),
        ({"count": pictures.MAX_COUNT + 1}, "INVALID_COUNT"),
        ({"seed": -1}, "INVALID_SEED"),
        ({"size": 30}, "INVALID_SIZE"),
        ({"size": 225}, "INVALID_SIZE"),
        ({"size": 2048}, "INVALID_SIZE"),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(OrtoscopeError) as refused:
        render_scenes(tmp_path / "d", **options)
    assert (refused.value.code, refused.value.reason) == (Code.INVALID_ARGUMENT, reason)
    assert refused.value.field == next(iter(options))
