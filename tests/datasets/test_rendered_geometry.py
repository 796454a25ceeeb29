"""The geometry of rendered scenes, against areas and tests of points known from elsewhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.datasets.rendered_scenes import geometry as g
from ortoscope_service.datasets.rendered_scenes.canvas import Canvas, Surface
from ortoscope_service.datasets.rendered_scenes.light import dimmed, toward
from ortoscope_service.datasets.rendered_scenes.palette import Colour

WHITE, RED, BLUE = (
    Colour("white", (1.0, 1.0, 1.0)),
    Colour("red", (1.0, 0.0, 0.0)),
    Colour("blue", (0.0, 0.0, 1.0)),
)
coordinates = st.floats(-10, 234, allow_nan=False, width=32)


def mask(canvas: Canvas, plane: str, name: str) -> np.ndarray:
    return np.equal(canvas.labels[plane], canvas.names.index(name))


def painted(region: g.Region | None, size: int = 224) -> Canvas:
    canvas = Canvas(size)
    canvas.paint(region, Surface(WHITE), {"shape": "shape"})
    return canvas


def star_area(outer: float, inner: float, tips: int) -> float:
    return tips * outer * inner * math.sin(math.pi / tips)


AREAS = {
    "circle": (g.circle(112, 100, 70), math.pi * 70**2),
    "small circle": (g.circle(51.3, 60.7, 20), math.pi * 20**2),
    "ellipse": (g.ellipse(110, 112, 80, 40, 0.7), math.pi * 80 * 40),
    "box": (g.box(20, 32, 190, 146), 170 * 114),
    "rounded box": (g.box(20, 30, 190, 150, 20), 170 * 120 - (4 - math.pi) * 20**2),
    "ring": (g.ring(112, 112, 70, 15), math.pi * (85**2 - 55**2)),
    "triangle": (g.polygon([(20, 20), (200, 60), (60, 190)]), abs(180 * 170 - 40 * 40) / 2),
    "star": (g.star(112, 112, 100, 45, 5), star_area(100, 45, 5)),
    "hexagon": (g.regular(112, 112, 90, 6), 6 * 90 * 90 * math.sin(math.pi / 3) / 2),
    "line": (g.line([(40, 60), (180, 160)], 12), 24 * math.hypot(140, 100) + math.pi * 12**2),
    "union": (g.union(g.box(20, 20, 120, 120), g.box(70, 70, 200, 200)), 100**2 + 130**2 - 50**2),
    "difference": (g.difference(g.circle(112, 112, 90), g.circle(112, 112, 50)), math.pi * (90**2 - 50**2)),
    "intersection": (g.intersection(g.box(20, 20, 120, 120), g.box(70, 70, 200, 200)), 50**2),
    "lens": (
        g.intersection(g.circle(92, 112, 60), g.circle(132, 112, 60)),
        2 * (60**2 * math.acos(1 / 3) - 20 * math.sqrt(3200)),
    ),
    "turned and mirrored square": (g.Frame(112, 112, 50, 0.6, True).place(g.box(-1, -1, 1, 1)), 100**2),
    "cut off": (g.circle(0, 0, 100), math.pi * 100**2 / 4),
    "half plane": (g.below(lambda x: 0 * x + 60), 224 * 164),
}  # fmt: skip


@pytest.mark.parametrize("name", AREAS)
def test_the_mask_of_a_region_has_its_area(name: str) -> None:
    region, area = AREAS[name]
    assert mask(painted(region), "shape", "shape").sum() * 4 == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("name", AREAS)
def test_the_picture_of_a_region_has_its_area_too(name: str) -> None:
    region, area = AREAS[name]
    assert painted(region).pixels[..., 0].sum() == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("name", AREAS)
def test_no_point_outside_the_bounds_is_inside(name: str) -> None:
    region, _ = AREAS[name]
    y, x = np.mgrid[-60:284:1.5, -60:284:1.5].astype(np.float32)
    x0, y0, x1, y1 = region.bounds
    inside = region.distance(x, y) < 0
    assert not (inside & ((x < x0) | (x > x1) | (y < y0) | (y > y1))).any()
    assert region.distance(x, y).dtype == np.float32


def winds_around(points: list[tuple[float, float]], x: float, y: float) -> bool:
    """The even-odd rule by exact crossings of a ray to the right."""
    inside = False
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside


@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7, unique=True))
def test_a_mask_pixel_shows_what_lies_at_the_corner_that_its_four_picture_pixels_share(
    points: list[tuple[float, float]],
) -> None:
    canvas = painted(g.polygon(points), size=32)
    found = mask(canvas, "shape", "shape") if "shape" in canvas.names else np.zeros((16, 16), bool)
    for i in range(16):
        for j in range(16):
            # Mask pixel (i, j) covers picture pixels 2i, 2i + 1: they share the corner 2i + 1, times 224 / 32.
            x, y = (2 * j + 1) * 7.0, (2 * i + 1) * 7.0
            near = any(
                abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) < 1e-2 * (1 + math.hypot(bx - ax, by - ay))
                for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True)
            )
            assert near or found[i, j] == winds_around(points, x, y)


@pytest.mark.parametrize("size", [32, 64, 224, 448])
def test_masks_and_pictures_agree_away_from_the_edge(size: int) -> None:
    region = g.star(112, 112, 100, 45, 5)
    canvas = painted(region, size)
    blocks = canvas.pixels[..., 0].reshape(size // 2, 2, size // 2, 2)
    shown = mask(canvas, "shape", "shape")
    assert (blocks.min((1, 3)) == 1)[shown].mean() > 0.5
    assert not (blocks.max((1, 3)) == 0)[shown].any()
    assert not (blocks.min((1, 3)) == 1)[~shown].any()


@given(
    x=coordinates, y=coordinates, scale=st.floats(0.5, 100), angle=st.floats(-7, 7), mirrored=st.booleans(),
    u=st.floats(-3, 3), v=st.floats(-3, 3), inner=st.floats(-7, 7),
)  # fmt: skip
def test_a_frame_takes_points_there_and_back(
    x: float, y: float, scale: float, angle: float, mirrored: bool, u: float, v: float, inner: float
) -> None:
    frame = g.Frame(x, y, scale, angle, mirrored)
    for one in (frame, frame.inner(0.3, -0.2, 0.5, inner)):
        px, py = (np.array([value], np.float64) for value in one.point(u, v))
        back_u, back_v = one.local(px, py)  # type: ignore[arg-type]
        assert (back_u[0], back_v[0]) == (pytest.approx(u, abs=1e-6), pytest.approx(v, abs=1e-6))
    # A point of the inner frame is the same point whether one goes by way of the outer frame or not.
    nested = frame.inner(0.3, -0.2, 0.5, inner)
    a = 0.3 + 0.5 * (math.cos(inner) * u - math.sin(inner) * v)
    b = -0.2 + 0.5 * (math.sin(inner) * u + math.cos(inner) * v)
    assert math.dist(nested.point(u, v), frame.point(a, b)) < 1e-6


def test_what_lies_on_top_decides_every_label() -> None:
    canvas = Canvas(64)
    canvas.paint(None, Surface(BLUE), {"object": "sky", "texture": "striped"})
    canvas.paint(g.box(0, 0, 112, 224), Surface(RED), {"object": "house", "part": "roof"})
    canvas.paint(g.box(56, 0, 224, 112), Surface(WHITE), {"object": "cloud"})
    quarter = slice(0, 16), slice(16, 32)
    left = slice(16, 32), slice(0, 16)
    for plane, name in {"color": "white-c", "object": "cloud", "part": "", "texture": ""}.items():
        assert mask(canvas, plane, name)[quarter].all()
    for plane, name in {"color": "red-c", "object": "house", "part": "roof", "texture": ""}.items():
        assert mask(canvas, plane, name)[left].all()
    for plane, name in {"color": "blue-c", "object": "sky", "part": "", "texture": "striped"}.items():
        assert mask(canvas, plane, name)[16:, 16:].all()


def test_light_changes_colours_and_no_label() -> None:
    canvas = painted(g.circle(112, 112, 60))
    before = {plane: labels.copy() for plane, labels in canvas.labels.items()}
    pixels = canvas.pixels.copy()
    canvas.shade(g.circle(112, 112, 30), dimmed(0.5), softness=5)
    canvas.shade(None, toward((0.0, 0.0, 1.0), 0.5))
    assert not np.array_equal(pixels, canvas.pixels)
    assert all(np.array_equal(before[plane], canvas.labels[plane]) for plane in before)


def test_the_second_paint_is_labelled_where_the_pattern_is_negative() -> None:
    canvas = Canvas(224)
    canvas.paint(None, Surface(RED, second=BLUE, pattern=lambda x, y: x - np.float32(80)))
    blue = mask(canvas, "color", "blue-c")
    assert blue[:, :40].all()
    assert not blue[:, 40:].any()
    assert np.array_equal(canvas.render()[0, [78, 82]], [[0, 0, 255], [255, 0, 0]])


@pytest.mark.parametrize("size", [0, 15, 33, -2])
def test_a_picture_has_an_even_size(size: int) -> None:
    with pytest.raises(ValueError, match="even"):
        Canvas(size)
