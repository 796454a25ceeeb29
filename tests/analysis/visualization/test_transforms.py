"""Transforms: exact values, the distribution of draws, and derivatives against central differences in float64."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from gradient_models import differences
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.presets import PRESETS
from ortoscope_service.analysis.visualization.resampling import (
    canvas_for,
    folded,
    interpolation_matrices,
    turn,
)
from ortoscope_service.analysis.visualization.transforms import (
    GAIN,
    NOISE,
    SHIFT,
    Chain,
    ColourJitter,
    CropBoxes,
    Flip,
    Frames,
    Jitter,
    Noise,
    Pad,
    Rotate,
    Scale,
    Step,
    Tiles,
    Transforms,
)
from ortoscope_service.analysis.visualization.turning import move_back
from ortoscope_service.analysis.visualization.windows import OFFSETS, add_windows
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward, gradient_name
from ortoscope_service.graph.loading import serialize
from ortoscope_service.runtime.sessions import Session
from reference_operators import CORRECTED
from scipy import ndimage

Array = NDArray[Any]
LUCID = PRESETS["lucid"].chain


def in_double(model: ir.Model) -> Callable[[Mapping[str, Array]], Array]:
    """What a float32 graph computes, in float64, as ONNX's reference evaluator has it."""
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del proto.graph.value_info[:]
    evaluator = ReferenceEvaluator(proto, new_ops=CORRECTED)

    def compute(feeds: Mapping[str, Array]) -> Array:
        wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in feeds.items()}
        result: Array = evaluator.run(None, wide)[0]
        return result

    return compute


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, item)) for item in range(count)]


def graph_of(transforms: Transforms, channels: int) -> ir.Model:
    g = GraphWriter()
    image = g.input("image", [BATCH, channels, *transforms.image])
    return g.model({"seen": transforms.build(g, image, channels)})


def seen(transforms: Transforms, image: Array, feeds: Mapping[str, Array] | None = None, seed: int = 0) -> Array:
    """What the network sees of images (items, channels, height, width)."""
    session = Session(serialize(graph_of(transforms, image.shape[1])))
    drawn = feeds if feeds is not None else transforms.feeds(generators(len(image), seed), 0.0, image.shape[1])
    everything = {"image": image.astype(np.float32), **drawn}
    return session.run({info.name: everything[info.name] for info in session.inputs})["seen"]


def once(image: Array, *steps: Step, view: tuple[int, int] | None = None, **options: Any) -> Array:
    """The view of one picture of one channel."""
    transforms = Transforms(Chain(steps, **options), image.shape, view)
    return seen(transforms, image[None, None])[0, 0]


# Exact values: those of greentfrapp/lucent, tests/optvis/test_transform.py


def test_padding_with_a_constant_surrounds_the_picture_with_it() -> None:
    padded = once(np.ones((2, 2)), Pad(1))
    np.testing.assert_array_equal(padded, np.pad(np.ones((2, 2)), 1, constant_values=0.5))


def test_padding_with_a_colour_of_chance_surrounds_each_view_with_its_own() -> None:
    transforms = Transforms(Chain((Pad(2),), views=2, fill="uniform"), (4, 6))
    picture = np.random.default_rng(1).random((3, 3, 4, 6)).astype(np.float32)
    shown = seen(transforms, picture)
    np.testing.assert_array_equal(shown[:, :, 2:-2, 2:-2], np.repeat(picture, 2, axis=0))
    outside = np.ones((8, 10), np.bool_)
    outside[2:-2, 2:-2] = False
    colours = shown[:, :, 0, 0]
    np.testing.assert_array_equal(shown[:, :, outside], np.broadcast_to(colours[..., None], (6, 3, outside.sum())))
    assert len(np.unique(colours)) == 18
    assert 0 <= colours.min() < 0.3
    assert 0.7 < colours.max() <= 1


def test_a_colour_of_chance_fills_what_a_moved_picture_leaves_open() -> None:
    chain = Chain((Pad(6), Jitter(6), Scale((0.7, 1.1)), Rotate((-30.0, 12.0))), fill="uniform")
    transforms = Transforms(chain, (12, 16))
    feeds = transforms.feeds(generators(4), 0.0, 1)
    white, black = (seen(transforms, np.full((4, 1, 12, 16), colour), feeds) for colour in (1.0, 0.0))
    covered = white - black
    assert (covered == 0).any()
    assert covered.max() <= 1 + 1e-6
    for item in range(4):
        colour = black[item][covered[item] == 0][0]
        np.testing.assert_allclose(black[item], (1 - covered[item]) * colour, atol=1e-6)


def test_tiles_are_the_picture_rolled_and_cut_up() -> None:
    picture = np.arange(48.0, dtype=np.float32).reshape(8, 6)
    transforms = Transforms(Chain((Tiles(4),), views=4, edge="wrap"), (8, 6))
    rolls = set()
    for seed in range(20):
        shown = seen(transforms, picture[None, None], seed=seed)[:, 0]
        top, left = divmod(int(shown[0, 0, 0]), 6)
        rolls.add((top, left))
        rolled = np.roll(picture, (-top, -left), (0, 1))
        wide = np.concatenate([rolled, rolled], axis=1)
        expected = [wide[row : row + 4, column : column + 4] for row in (0, 4) for column in (0, 3)]
        np.testing.assert_array_equal(shown, expected)
    assert len(rolls) > 10


def test_tiles_must_come_first_and_be_as_many_as_views() -> None:
    for chain, field in (
        (Chain((Tiles(4),), views=3, edge="wrap"), "transforms.views"),
        (Chain((Tiles(4),), views=4), "transforms.edge"),
        (Chain((Tiles(9),), views=1, edge="wrap"), "transforms.steps[0]"),
        (Chain((Tiles(0),), views=1, edge="wrap"), "transforms.steps[0]"),
        (Chain((Pad(0), Tiles(4)), views=4, edge="wrap"), "transforms.steps[1]"),
    ):
        with pytest.raises(OrtoscopeError) as caught:
            chain.check((8, 6))
        assert (caught.value.reason, caught.value.field) == ("INVALID_TRANSFORM", field)


def test_padding_by_reflection_repeats_the_picture_without_its_edge() -> None:
    picture = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(once(picture, Pad(2), edge="reflect"), np.pad(picture, 2, mode="reflect"))


def test_padding_by_wrapping_repeats_the_picture() -> None:
    picture = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(once(picture, Pad(2), edge="wrap"), np.pad(picture, 2, mode="wrap"))


def test_reducing_a_picture_of_three_pixels_to_a_third_leaves_the_centre() -> None:
    expected = np.zeros((3, 3))
    expected[1, 1] = 1
    np.testing.assert_array_equal(once(np.ones((3, 3)), Scale((0.33,)), fill=0.0), expected)


def test_enlarging_one_pixel_gives_more_of_it() -> None:
    assert np.array_equal(once(np.ones((1, 1)), Scale((2.0,)), view=(1, 1)), np.ones((1, 1)))
    np.testing.assert_array_equal(once(np.ones((1, 1)), view=(2, 2)), np.ones((2, 2)))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_quarter_turn_brings_the_right_column_to_the_top(size: int) -> None:
    picture = np.random.default_rng(0).random((size, size)).astype(np.float32)
    np.testing.assert_array_equal(once(picture, Rotate((90.0,)), fill=0.0), np.rot90(picture))
    np.testing.assert_array_equal(once(picture, Rotate((-90.0,)), fill=0.0), np.rot90(picture, -1))
    np.testing.assert_array_equal(once(picture, Rotate((180.0,)), fill=0.0), np.rot90(picture, 2))


# Agreement with SciPy


@pytest.mark.parametrize("angle", [-35.0, -10.0, 3.0, 27.0, 45.0])
def test_a_turned_smooth_picture_is_that_of_scipy_to_within_a_pixel(angle: float) -> None:
    rows, columns = np.meshgrid(np.linspace(0, 3, 61), np.linspace(0, 2, 61), indexing="ij")
    picture = np.sin(rows) * np.cos(columns + 0.5 * rows)
    expected = ndimage.rotate(picture, angle, reshape=False, order=1)
    inner = np.s_[16:45, 16:45]
    slope = max(np.abs(difference).max() for difference in np.gradient(picture))
    assert np.abs(once(picture, Rotate((angle,)))[inner] - expected[inner]).max() < 1.6 * slope


def test_interpolation_is_that_of_scipy_inside_of_the_picture() -> None:
    rng = np.random.default_rng(1)
    signal, positions = rng.random(17), rng.uniform(0, 16, (3, 40))
    matrices = interpolation_matrices(positions, 17)
    np.testing.assert_allclose(
        matrices @ signal.astype(np.float32), [np.interp(p, range(17), signal) for p in positions], rtol=1e-5
    )


def test_reflected_and_wrapped_indices_are_those_of_numpy() -> None:
    index = np.arange(-9, 14)
    for size in (1, 2, 5):
        samples = np.arange(size)
        np.testing.assert_array_equal(folded(index, size, "wrap"), np.pad(samples, (9, 14 - size), mode="wrap"))
        np.testing.assert_array_equal(folded(index, size, "reflect"), np.pad(samples, (9, 14 - size), mode="reflect"))


def test_a_reducing_kernel_keeps_the_mean_of_a_fine_pattern() -> None:
    pattern = np.arange(64) % 2
    positions = (np.arange(8)[None] + 0.5) * 8 - 0.5
    plain, averaging = (interpolation_matrices(positions, 64, reach=reach)[0] @ pattern for reach in (1.0, 8.0))
    assert np.abs(averaging[1:-1] - 0.5).max() < 1e-6
    assert np.abs(plain - 0.5).max() < 1e-6  # between two pixels
    shifted = interpolation_matrices(positions - 0.5, 64)[0] @ pattern
    assert np.abs(shifted - 0.5).max() == 0.5  # on a pixel, where only the kernel that averages helps


# Turns move pixels


@pytest.mark.parametrize("view", [(7, 7), (6, 9), (140, 140)])
def test_a_turn_shows_no_pixel_twice_and_moves_each_back(view: tuple[int, int]) -> None:
    canvas = canvas_for(view, 45.0)
    for angle in (-45.0, -10.0, -0.3, 0.0, 7.5, 44.0):
        moved = turn(view, canvas, angle)
        assert len(set(moved.taken.tolist())) == view[0] * view[1]
        assert moved.taken.min() >= 0
        assert moved.taken.max() < canvas[0] * canvas[1]
        np.testing.assert_array_equal(moved.returned[moved.taken], np.arange(view[0] * view[1]))
        assert (moved.returned == view[0] * view[1]).sum() == canvas[0] * canvas[1] - view[0] * view[1]


def test_a_turn_by_nothing_shows_the_centre_of_the_canvas() -> None:
    view, canvas = (5, 8), canvas_for((5, 8), 30.0)
    top, left = (canvas[0] - 5) // 2, (canvas[1] - 8) // 2
    expected = np.arange(canvas[0] * canvas[1]).reshape(canvas)[top : top + 5, left : left + 8]
    np.testing.assert_array_equal(turn(view, canvas, 0.0).taken, expected.reshape(-1))


# Draws


def test_jitter_cuts_out_every_place_equally_often() -> None:
    picture = np.arange(36.0).reshape(6, 6)
    transforms = Transforms(Chain((Jitter(2),), views=225), (6, 6))
    views = seen(transforms, np.stack([picture[None]] * 4))[:, 0]
    corners, counts = np.unique(views[:, 0, 0], return_counts=True)
    np.testing.assert_array_equal(corners, [0, 1, 2, 6, 7, 8, 12, 13, 14])
    assert counts.min() > 60
    for view in views[:20]:
        row, column = divmod(int(view[0, 0]), 6)
        np.testing.assert_array_equal(view, picture[row : row + 4, column : column + 4])


def test_rolling_jitter_is_a_roll() -> None:
    picture = np.arange(20.0).reshape(4, 5)
    transforms = Transforms(Chain((Jitter(9, keep_size=True),), views=50, edge="wrap"), (4, 5))
    rolled = {np.roll(picture, (y, x), (0, 1)).tobytes() for y in range(4) for x in range(5)}
    views = seen(transforms, picture[None, None])[:, 0].astype(np.float64)
    assert {view.tobytes() for view in views} <= rolled
    assert len({view.tobytes() for view in views}) > 10


def test_flips_mirror_left_and_right_and_turn_the_other_way_round() -> None:
    picture = np.random.default_rng(2).random((6, 6)).astype(np.float32)
    np.testing.assert_array_equal(once(picture, Flip(1.0), fill=0.0), picture[:, ::-1])
    np.testing.assert_array_equal(once(picture, Rotate((90.0,)), Flip(1.0), fill=0.0), np.rot90(picture)[:, ::-1])
    np.testing.assert_array_equal(once(picture, Flip(1.0), Rotate((90.0,)), fill=0.0), np.rot90(picture[:, ::-1]))


def test_sides_and_centres_of_crops_are_distributed_as_documented() -> None:
    boxes = CropBoxes(0.5, 0.05)
    for progress, mean in ((0.0, 0.5), (0.5, 0.275), (1.0, 0.05)):
        frames = boxes.draw(Frames.whole((200, 300), 4000), np.random.default_rng(3), progress)
        sides = frames.size[:, 0] / 200
        np.testing.assert_array_equal(frames.size[:, 0], frames.size[:, 1])
        assert sides.min() >= 0.05
        assert sides.max() <= 1
        if progress < 1:
            assert abs(sides.mean() - mean) < 0.005
            assert abs(sides.std() - 0.05) < 0.005
        np.testing.assert_allclose(frames.shift.std(axis=0), (30, 45), rtol=0.05)


def test_even_crops_stay_within_their_range() -> None:
    frames = CropBoxes(0.25, 0.2, uniform=True).draw(Frames.whole((100, 100), 4000), np.random.default_rng(4), 0.7)
    sides = frames.size[:, 0] / 100
    assert sides.min() >= 0.2
    assert sides.max() <= 0.25
    assert abs(sides.mean() - 0.225) < 0.002


def test_a_crop_shows_its_box_zoomed() -> None:
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    transforms = Transforms(Chain((CropBoxes(0.5, 0.5, deviation=0, spread=0),)), (64, 64), (16, 16))
    view = seen(transforms, ramp[None, None])[0, 0]
    expected = np.interp(15.5 + 2 * np.arange(16) + 1, range(64), ramp[0])
    np.testing.assert_allclose(view, np.tile(expected, (16, 1)), atol=1e-6)


def test_noise_has_the_deviation_asked_for_and_fades() -> None:
    transforms = Transforms(Chain(noise=Noise(0.1, 0.3, last=0.5)), (64, 64))
    for progress, factor in ((0.0, 1.0), (1.0, 0.5)):
        drawn = transforms.feeds(generators(2), progress, 3)[NOISE]
        assert drawn.shape == (2, 3, 64, 64)
        assert abs(drawn.std() / (factor * np.hypot(0.1, 0.3 / np.sqrt(3))) - 1) < 0.02


def test_colours_are_scaled_about_gray_and_shifted() -> None:
    transforms = Transforms(Chain(colours=ColourJitter(1.0, 0.25), views=250), (1, 1))
    drawn = transforms.feeds(generators(1), 0.0, 3)
    gain, shift = drawn[GAIN], drawn[SHIFT]
    assert np.exp(-1) <= gain.min() < 0.4
    assert 2.6 < gain.max() <= np.exp(1)
    offset = shift - (0.5 - 0.5 * gain)
    assert np.abs(offset).max() <= 0.25 + 1e-6
    gray = seen(transforms, np.full((1, 3, 1, 1), 0.5), drawn)
    np.testing.assert_allclose(gray, 0.5 + offset, atol=1e-6)


def test_what_an_item_draws_does_not_depend_on_its_neighbours() -> None:
    transforms = Transforms(
        Chain((*LUCID.steps, Flip()), views=2, noise=Noise(0.1), colours=ColourJitter(0.5, 0.1)), (24, 20)
    )
    together = transforms.feeds(generators(3, 5), 0.3, 3)
    for item in range(3):
        alone = transforms.feeds([np.random.default_rng((5, item))], 0.3, 3)
        for name, array in alone.items():
            own = np.split(together[name], 3)[item]
            assert array.tobytes() == np.ascontiguousarray(own).tobytes(), name


def test_every_view_of_every_item_is_transformed_on_its_own() -> None:
    image = np.random.default_rng(6).random((2, 3, 20, 20))
    views = seen(Transforms(Chain(LUCID.steps, views=3), (20, 20)), image)
    assert views.shape == (6, 3, 32, 32)
    assert len({view.tobytes() for view in views}) == 6


@given(
    size=st.tuples(st.integers(1, 150), st.sampled_from([1, 7, 64, 96, 150])),
    side=st.floats(0.05, 1.0),
    spread=st.floats(0.0, 1.0),
    views=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_a_crop_is_the_same_whether_made_of_its_window_or_of_the_whole_picture(
    size: tuple[int, int], side: float, spread: float, views: int, seed: int
) -> None:
    chain = Chain((CropBoxes(side, side, deviation=0.3, spread=spread), Flip()), views=views, fill=0.25)
    transforms = Transforms(chain, size, (6, 5))
    image = np.random.default_rng(seed).random((2, 3, *size)).astype(np.float32)
    frames = transforms.draw([np.random.default_rng([seed, item]) for item in range(2)], 0.0)
    views_of = np.repeat(image.astype(np.float64), views, axis=0)
    matrices = []
    for axis in range(2):
        flip = np.where(frames.flipped, -1.0, 1.0) if axis else 1.0
        outputs = np.arange(transforms.size[axis]) - (transforms.size[axis] - 1) / 2
        positions = frames.shift[:, axis, None] + (frames.scale[:, axis] * flip)[:, None] * outputs
        matrices.append(
            interpolation_matrices(positions + (size[axis] - 1) / 2, size[axis], reach=frames.scale[:, axis])
        )
    expected = matrices[0][:, None] @ (views_of - 0.25) @ matrices[1][:, None].swapaxes(2, 3) + 0.25
    rngs = [np.random.default_rng([seed, item]) for item in range(2)]
    feeds = transforms.feeds(rngs, 0.0, 3)
    session = Session(serialize(graph_of(transforms, 3)))
    found = session.run({"image": image, **feeds})["seen"]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert feeds["transform.rows"].shape[-1] <= size[0]


def test_views_of_items_stay_in_order() -> None:
    image = np.stack([np.full((1, 4, 4), value) for value in (0.25, 0.75)])
    np.testing.assert_array_equal(seen(Transforms(Chain(views=2), (4, 4)), image)[:, 0, 0, 0], [0.25, 0.25, 0.75, 0.75])
    moved = seen(Transforms(Chain((Jitter(1),), views=2), (4, 4)), image)
    np.testing.assert_array_equal(moved[:, 0, 0, 0], [0.25, 0.25, 0.75, 0.75])


# Derivatives

CASES = {
    "lucid": (Chain(LUCID.steps), (9, 7), None),
    "reflected": (Chain((Pad(2), Scale((1.3,)), Rotate((20.0,))), edge="reflect"), (6, 5), None),
    "rolled": (Chain((Jitter(3, keep_size=True), Flip(1.0)), edge="wrap"), (5, 6), None),
    "crops": (Chain((CropBoxes(0.6, 0.6),), views=3), (8, 8), (5, 5)),
    "one crop": (Chain((CropBoxes(0.3, 0.3),)), (9, 12), (4, 4)),
    "turned crops": (Chain((CropBoxes(0.4, 0.4), Rotate((-30.0, 12.0)), Flip()), views=2), (8, 12), (5, 5)),
    "zoomed": (Chain((Pad(1), Jitter(1))), (5, 6), (7, 4)),
    "turned views": (Chain((Rotate((-30.0, 12.0)),), views=2), (6, 6), None),
    "disturbed": (Chain(noise=Noise(0.1), colours=ColourJitter(0.5, 0.2), views=2), (4, 4), None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_central_differences(name: str) -> None:
    chain, size, view = CASES[name]
    transforms = Transforms(chain, size, view)
    rng = np.random.default_rng(7)
    image = rng.random((2, 2, *size)).astype(np.float32)
    feeds = transforms.feeds(generators(2), 0.5, 2)
    forward = graph_of(transforms, 2)
    backward = build_backward(forward, "seen", with_respect_to=["image"])
    move_back(backward, transforms, 2)
    if transforms.windowed:
        add_windows(backward, size[1], chain.views)
        assert not any(node.op_type == "ScatterElements" for node in backward.graph)
    assert transforms.turns == any(info.name == "transform.returns" for info in backward.graph.inputs)
    session = Session(serialize(backward))
    cotangent = rng.standard_normal((2 * chain.views, 2, *transforms.size)).astype(np.float32)
    everything = {"image": image, "cotangent": cotangent, **feeds}
    gradient = session.run({info.name: everything[info.name] for info in session.inputs})[gradient_name("image")]
    compute = in_double(forward)
    names = {value.name for value in forward.graph.inputs}
    common = {OFFSETS: feeds[OFFSETS]} if transforms.windowed else {}
    for item in range(2):
        own = {key: np.split(array, 2)[item] for key, array in feeds.items() if key in names - set(common)}
        weights = np.split(cotangent, 2)[item]

        def objective(moved: Array, own: Mapping[str, Array] = own, weights: Array = weights) -> Array:
            repeated = {key: np.concatenate([array] * len(moved)) for key, array in own.items()}
            views = compute({"image": moved, **repeated, **common})
            grouped = views.reshape(len(moved), -1)
            products: Array = grouped @ weights.reshape(-1).astype(np.float64)
            return products

        expected = differences(objective, image[item : item + 1])
        np.testing.assert_allclose(gradient[item : item + 1], expected, rtol=1e-4, atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("chain", "field"),
    [
        (Chain((Pad(-1),)), "transforms.steps[0]"),
        (Chain((Pad(1), Jitter(20))), "transforms.steps[1]"),
        (Chain((Scale(()),)), "transforms.steps[0]"),
        (Chain((Scale((0.0,)),)), "transforms.steps[0]"),
        (Chain((Rotate((float("nan"),)),)), "transforms.steps[0]"),
        (Chain((Flip(1.5),)), "transforms.steps[0]"),
        (Chain((CropBoxes(0.0),)), "transforms.steps[0]"),
        (Chain(views=0), "transforms.views"),
        (Chain(fill=float("inf")), "transforms.fill"),
        (Chain(noise=Noise(-1.0)), "transforms"),
    ],
)
def test_numbers_of_no_use_are_refused_by_field(chain: Chain, field: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        Transforms(chain, (10, 10))
    assert caught.value.reason == "INVALID_TRANSFORM"
    assert caught.value.field == field
