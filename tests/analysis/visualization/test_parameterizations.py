"""Parameterizations against NumPy's transforms, published formulas, and central differences in float64."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from finite_differences import check_derivatives, check_single_precision, run_in_onnxruntime
from onnx import TensorProto, numpy_helper
from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.optimizers import Adam, Nadam, Optimizer
from ortoscope_service.analysis.visualization.parameterizations import (
    AlphaBlend,
    CppnImage,
    FourierImage,
    GeneratorImage,
    ImageParameterization,
    LaplacianImage,
    LowresImage,
    MacoImage,
    Parameterization,
    Parameters,
    PixelImage,
    SumImage,
    VectorParameterization,
    aligned,
    colour,
    fitted_magnitude,
    measure_magnitude,
    random_picture,
    spectra,
)
from ortoscope_service.analysis.visualization.parameterizations.lowres import centre_aligned, corner_aligned
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize
from tiny_models import GraphBuilder, float_value

Array = npt.NDArray[Any]

# Lucid's normalised matrix, multiplied from the right: as its sources print it.
LUCID_COLOURS = np.array(
    [
        [0.56282858, 0.58447583, 0.58447583],
        [0.19482528, 0.0, -0.19482528],
        [0.04329451, -0.10823626, 0.06494176],
    ]
)


def generator_model(*, layout: str = "nchw", batch: str | int = "n") -> ir.Model:
    """tanh of a linear map from codes of 5 to pictures of 3 x 4 x 6."""
    g = GraphBuilder(3)
    g.node("Gemm", ["z", g.weight("w", (5, 72), 5), g.bias("b", 72)], "flat")
    shape = [-1, 3, 4, 6] if layout == "nchw" else [-1, 4, 6, 3]
    g.node("Reshape", ["flat", g.constant("shape", np.array(shape))], "shaped")
    g.node("Tanh", ["shaped"], "picture")
    proto = g.model([float_value("z", [batch, 5])], [float_value("picture", [batch, *shape[1:]])], opset=17)
    return load_model(proto.SerializeToString())


def bounded_vector() -> VectorParameterization:
    return VectorParameterization(
        shape_of_item=(2, 3),
        low=np.array([-1.0, -np.inf, 2.0]),
        high=np.array([1.0, np.inf, 2.0]),
        centre=np.array([0.5, 10.0, 2.0]),
        scale=np.array([2.0, 100.0, 0.0]),
    )


SIZE: dict[str, Any] = {"height": 6, "width": 8}
ODD: dict[str, Any] = {"height": 5, "width": 7}
KINDS: dict[str, Callable[[], Parameterization]] = {
    "pixel": lambda: PixelImage(**SIZE),
    "pixel, clipped": lambda: PixelImage(**SIZE, squash="clip"),
    "fourier": lambda: FourierImage(**SIZE),
    "fourier, odd": lambda: FourierImage(**ODD),
    "fourier, two stages": lambda: FourierImage(height=24, width=5, channels=1),
    "fourier, alpha": lambda: FourierImage(**ODD, alpha=True),
    "fourier, five channels": lambda: FourierImage(**SIZE, channels=5),
    "laplacian": lambda: LaplacianImage(height=9, width=8),
    "lowres": lambda: LowresImage(**SIZE, rows=3, columns=4),
    "lowres, shared": lambda: LowresImage(**SIZE, rows=6, columns=2, sets=2),
    "aligned": lambda: aligned(FourierImage(**SIZE), [(1, 4), (2, 2)]),
    "cppn": lambda: CppnImage(**ODD, hidden=4, layers=2),
    "maco": lambda: MacoImage(**ODD),
    "generator": lambda: GeneratorImage(generator=generator_model()),
    "generator, nhwc": lambda: GeneratorImage(generator=generator_model(layout="nhwc"), layout="nhwc"),
    "vector": bounded_vector,
}
APART = [name for name, make in KINDS.items() if not make().couples_batch]


def model_of(parameterization: Parameterization) -> ir.Model:
    g = GraphWriter()
    return g.model({"picture": parameterization.build(g)})


def in_double(model: ir.Model) -> onnx.ModelProto:
    """The same model with float64 in the place of float32."""
    proto = onnx.ModelProto.FromString(serialize(model))
    del proto.graph.value_info[:]
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    return inferred


def render(parameterization: Parameterization, parameters: Mapping[str, Array], batch: int = 1) -> Array:
    feeds = {**parameters, **parameterization.feeds(batch)}
    return run_in_onnxruntime(serialize(model_of(parameterization)), feeds)["picture"]


class Climber:
    """Optimises a parameterization in ONNX Runtime, uphill an objective that `write` appends."""

    def __init__(self, parameterization: Parameterization, write: Callable[[GraphWriter, ir.Value], ir.Value]) -> None:
        self.parameterization = parameterization
        g = GraphWriter()
        picture = parameterization.build(g)
        model = g.model({"objective": write(g, picture), "picture": picture})
        backward = build_backward(model, "objective", with_respect_to=list(parameterization.parameter_shapes))
        self.session = onnxruntime.InferenceSession(serialize(backward), providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_outputs()]

    def climb(self, start: Parameters, optimizer: Optimizer, steps: int, feeds: Mapping[str, Array]) -> list[Array]:
        batch = len(next(iter(feeds.values())))
        given = {**self.parameterization.feeds(batch), **feeds, "cotangent": np.ones(batch, np.float32)}
        taken = {value.name for value in self.session.get_inputs()}
        values = []
        state = optimizer.start(start)
        for step in range(1, steps + 1):
            inputs = {name: value for name, value in {**given, **state.parameters}.items() if name in taken}
            found = dict(zip(self.names, self.session.run(None, inputs), strict=True))
            values.append(found["activation"])
            gradients = {name: found[f"gradient.{name}"] for name in state.parameters}
            state.step(found["activation"], gradients)
            self.parameterization.project(state.parameters, step)
        return values


def closeness(shape: tuple[int, ...]) -> Callable[[GraphWriter, ir.Value], ir.Value]:
    """Minus the mean squared distance to the input `target`."""

    def write(g: GraphWriter, picture: ir.Value) -> ir.Value:
        distance = g.subtract(picture, g.input("target", [BATCH, *shape]))
        return g.op("Neg", [g.mean(g.multiply(distance, distance), list(range(1, len(shape) + 1)))])

    return write


def photo(height: int, width: int, channels: int = 3) -> Array:
    """A disc with an edge in front of a slope of colours, and a little grain; (1, channels, height, width)."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slopes = [0.2 + 0.6 * (x if channel % 2 else y) for channel in range(channels)]
    picture = np.where((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.08, 0.85 - 0.5 * np.array(slopes), slopes)
    noisy: Array = np.clip(picture + rng.normal(0, 0.02, picture.shape), 0, 1)[None].astype(np.float32)
    return noisy


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_central_differences(kind: str) -> None:
    parameterization = KINDS[kind]()
    rng = np.random.default_rng(1)
    start = parameterization.initial(rng, 2)
    feeds = {name: value + rng.normal(0, 0.1, value.shape) for name, value in start.items()}
    feeds.update({name: value.astype(np.float64) for name, value in parameterization.feeds(2).items()})
    model = in_double(model_of(parameterization))
    check_derivatives(model, feeds, tangent=False)
    check_single_precision(model, feeds, tolerance=1e-4)


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (1, 6),
        (5, 1),
        (6, 8),
        (5, 7),
        (7, 6),
        (24, 9),
        (64, 48),
        (67, 33),
        (160, 12),
        (4, 1024),
        (5, 1050),
        (6, 1031),
        (48, 1280),
    ],
)
def test_the_inverse_transform_is_that_of_numpy(size: tuple[int, int]) -> None:
    height, width = size
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((2, 3, 2, height, width // 2 + 1)).astype(np.float32)
    g = GraphWriter()
    spectrum = g.input("spectrum", [BATCH, *parts.shape[1:]])
    model = g.model({"pixels": spectra.inverse_transform(g, spectrum, 3, height, width)})
    found = run_in_onnxruntime(serialize(model), {"spectrum": parts})["pixels"]
    expected = np.fft.irfft2(parts[:, :, 0] + 1j * parts[:, :, 1].astype(np.float64), s=size)
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(1, np.abs(expected).max()), rtol=0)


@pytest.mark.parametrize(("height", "expected"), [(160, (10, 16)), (1280, (32, 40)), (67, (1, 67)), (6, (1, 6))])
def test_a_transform_has_two_stages_where_they_save_work(height: int, expected: tuple[int, int]) -> None:
    assert spectra.factors(height) == expected


@pytest.mark.parametrize("size", [(6, 8), (40, 24)])
def test_a_fourier_picture_is_that_of_lucids_formula(size: tuple[int, int]) -> None:
    height, width = size
    parameterization = FourierImage(height=height, width=width)
    parameters = parameterization.initial(np.random.default_rng(2), 1)
    c = 50 * parameters["parameter.spectrum"][0].astype(np.float64)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[: width // 2 + 1]
    scale = 1 / np.maximum(np.sqrt(fx * fx + fy * fy), 1 / max(width, height)) * np.sqrt(width * height)
    t = np.fft.irfft2(scale * (c[:, 0] + 1j * c[:, 1]), s=size).transpose(1, 2, 0) / 4
    expected = 1 / (1 + np.exp(-(t @ LUCID_COLOURS)))
    found = render(parameterization, {"parameter.spectrum": c[None].astype(np.float32)})
    np.testing.assert_allclose(found[0].transpose(1, 2, 0), expected, atol=2e-5)


@pytest.mark.parametrize(
    "parameterization",
    [
        PixelImage(height=24, width=32),
        PixelImage(height=24, width=32, squash="clip"),
        FourierImage(height=24, width=32),
        FourierImage(height=23, width=31),
        FourierImage(height=24, width=32, channels=4),
        LaplacianImage(height=24, width=32),
        LowresImage(height=24, width=32, rows=24, columns=32),
        aligned(FourierImage(height=24, width=32)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_picture_is_fitted_in_a_thousand_steps(parameterization: ImageParameterization) -> None:
    target = photo(parameterization.height, parameterization.width, parameterization.channels)
    start = parameterization.initial(np.random.default_rng(0), 1)
    Climber(parameterization, closeness(parameterization.shape)).climb(start, Adam(0.05), 1000, {"target": target})
    assert np.abs(render(parameterization, start) - target).mean() < 0.01


def test_a_pattern_network_learns_xor_in_200_steps() -> None:
    parameterization = CppnImage(height=16, width=16, channels=1)

    def write(g: GraphWriter, picture: ir.Value) -> ir.Value:
        wrong = g.subtract(g.input("xor", [BATCH, 1, 16, 16]), picture)
        mask = np.zeros((16, 16), np.float32)
        mask[::15, ::15] = 1
        return g.op("Neg", [g.total(g.multiply(wrong, wrong, g.constant(mask)), [1, 2, 3])])

    xor = np.zeros((3, 1, 16, 16), np.float32)
    xor[:, 0, 0, 0] = xor[:, 0, -1, -1] = 1
    start = parameterization.initial(np.random.default_rng(0), 3)
    Climber(parameterization, write).climb(start, Adam(0.01), 200, {"xor": xor})
    corners = render(parameterization, start)[:, 0, ::15, ::15]
    learnt = (corners[:, [0, 1], [0, 1]] > 0.99).all(axis=1) & (corners[:, [0, 1], [1, 0]] < 0.01).all(axis=1)
    assert learnt.any(), corners


def test_a_pattern_network_is_that_of_its_formula_at_any_size() -> None:
    small = CppnImage(height=5, width=9, hidden=4, layers=2)
    parameters = small.initial(np.random.default_rng(0), 2)
    parameters["parameter.weight_2"] = np.random.default_rng(1).standard_normal((2, 3, 8)).astype(np.float32)
    half = math.sqrt(3)
    for item in range(2):
        for row, column in ((0, 0), (2, 4), (4, 8), (1, 6)):
            # Twice as many pixels along the width as along the height, apart by the same distance.
            value = np.array([-half + column * half / 4, -half / 2 + row * half / 4])
            for layer in range(2):
                weight, bias = (parameters[f"parameter.{kind}_{layer}"][item] for kind in ("weight", "bias"))
                angle = np.arctan(weight @ value + bias[:, 0])
                value = np.concatenate([angle / 0.67, angle**2 / 0.6])
            canvas = parameters["parameter.weight_2"][item] @ value + parameters["parameter.bias_2"][item][:, 0]
            pixel = render(small, parameters)[item, :, row, column]
            np.testing.assert_allclose(pixel, 1 / (1 + np.exp(-canvas)), atol=1e-5)
    large = render(replace(small, height=9, width=17), parameters)
    np.testing.assert_allclose(large[:, :, ::2, ::2], render(small, parameters), atol=1e-5)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        PixelImage,
        lambda **size: PixelImage(**size, squash="clip"),
        FourierImage,
        LaplacianImage,
        lambda **size: LowresImage(**size, rows=size["height"], columns=size["width"]),
        lambda **size: aligned(FourierImage(**size), [(1, 4), (2, 3)]),
    ],
    ids=["pixel", "clipped", "fourier", "laplacian", "lowres", "aligned"],
)
@pytest.mark.parametrize("size", [(24, 40), (11, 13)])
def test_a_start_picture_comes_back(
    make: Callable[..., ImageParameterization], size: tuple[int, int], alpha: bool
) -> None:
    parameterization = make(height=size[0], width=size[1], alpha=alpha)
    pictures = np.concatenate([photo(*size), np.round(photo(*size))])
    back = render(parameterization, parameterization.inverse(pictures), 2)
    assert np.abs(back[:, :3] - pictures).max() < 4e-3
    if alpha:
        np.testing.assert_allclose(back[:, 3], 1, atol=4e-3)
        given = np.concatenate([pictures, pictures[:, :1]], axis=1)
        back = render(parameterization, parameterization.inverse(given), 2)
        assert np.abs(back - given).max() < 4e-3


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_bytes(kind: str) -> None:
    one, other, third = (KINDS[kind]().initial(np.random.default_rng(seed), 2) for seed in (7, 7, 8))
    assert all(one[name].tobytes() == other[name].tobytes() and one[name].dtype == np.float32 for name in one)
    assert any(one[name].tobytes() != third[name].tobytes() for name in one)


@pytest.mark.parametrize("kind", APART)
def test_an_item_does_not_depend_on_its_neighbours(kind: str) -> None:
    parameterization = KINDS[kind]()
    many = parameterization.initial(np.random.default_rng(3), 5)
    few = parameterization.initial(np.random.default_rng(3), 2)
    listed = parameterization.initial(np.random.default_rng(3).spawn(5)[1:2], 1)
    for name, value in many.items():
        assert value[:2].tobytes() == few[name].tobytes()
        assert value[1:2].tobytes() == listed[name].tobytes()
    session = onnxruntime.InferenceSession(
        serialize(build_backward(model_of(parameterization), "picture", with_respect_to=list(many))),
        providers=["CPUExecutionProvider"],
    )
    cotangent = np.random.default_rng(0).standard_normal((5, *parameterization.shape)).astype(np.float32)
    together = session.run(None, {**many, **parameterization.feeds(5), "cotangent": cotangent})
    for item in (0, 4):
        alone = {name: value[item : item + 1] for name, value in many.items()}
        own = session.run(None, {**alone, **parameterization.feeds(1), "cotangent": cotangent[item : item + 1]})
        assert all(
            part.tobytes() == whole[item : item + 1].tobytes() for part, whole in zip(own, together, strict=True)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_those_that_are_said(kind: str) -> None:
    parameterization = KINDS[kind]()
    start = parameterization.initial(np.random.default_rng(0), 3)
    assert list(start) == list(parameterization.parameter_shapes)
    for name, shape in parameterization.parameter_shapes.items():
        assert start[name].shape[1:] == shape
        assert parameterization.couples_batch or len(start[name]) == 3
    assert render(parameterization, start, 3).shape == (3, *parameterization.shape)


def test_structures_tell_graphs_apart() -> None:
    structures = [make().structure for make in KINDS.values()]
    assert len(set(structures)) == len(KINDS)
    assert {make().structure for make in KINDS.values()} == set(structures)
    assert FourierImage(**SIZE, sd=1.0).structure == FourierImage(**SIZE).structure
    assert FourierImage(**SIZE, decay_power=1.5).structure != FourierImage(**SIZE).structure
    magnitude = np.ones((3, 6, 5))
    assert MacoImage(**SIZE, magnitude=magnitude).structure == MacoImage(**SIZE).structure


def test_the_start_has_the_deviation_that_is_said() -> None:
    spectrum = FourierImage(height=64, width=64).initial(np.random.default_rng(0), 2)["parameter.spectrum"]
    assert spectrum.std() == pytest.approx(0.01, rel=0.02)
    network = CppnImage(height=4, width=4, hidden=64, layers=3).initial(np.random.default_rng(0), 2)
    weight = network["parameter.weight_2"]
    assert weight.std() == pytest.approx(math.sqrt(1 / 128), rel=0.03)
    assert np.abs(weight).max() <= 2 * math.sqrt(1 / 128) / 0.8796
    assert not network["parameter.weight_3"].any()


# Alpha


def test_the_alpha_channel_has_no_colour() -> None:
    parameterization = PixelImage(**SIZE, alpha=True)
    canvas = np.random.default_rng(0).standard_normal((1, 4, 6, 8)).astype(np.float32)
    picture = render(parameterization, {"parameter.pixels": canvas})
    np.testing.assert_allclose(picture[:, 3], 1 / (1 + np.exp(-canvas[:, 3])), atol=1e-6)
    opaque = render(PixelImage(**SIZE), {"parameter.pixels": canvas[:, :3]})
    np.testing.assert_allclose(picture[:, :3], opaque, atol=1e-6)


def test_a_blend_shows_the_background_where_the_picture_is_transparent() -> None:
    blend = AlphaBlend(height=5, width=7)
    rng = np.random.default_rng(0)
    pictures = rng.uniform(size=(2, 4, 5, 7))
    feeds = {name: value.astype(np.float64) for name, value in blend.feeds(rng.spawn(2)).items()}
    g = GraphWriter()
    model = in_double(g.model({"blended": blend.build(g, g.input("picture", [BATCH, 4, 5, 7]))}))
    opacity, behind = pictures[:, 3:], feeds["background"]
    single = {name: value.astype(np.float32) for name, value in {**feeds, "picture": pictures}.items()}
    g = GraphWriter()
    found = run_in_onnxruntime(
        serialize(g.model({"blended": blend.build(g, g.input("picture", [BATCH, 4, 5, 7]))})), single
    )
    np.testing.assert_allclose(found["blended"], opacity * pictures[:, :3] + (1 - opacity) * behind, atol=1e-6)
    check_derivatives(model, {**feeds, "picture": pictures}, tangent=False)


def test_a_random_picture_is_what_a_fourier_parameterization_starts_with() -> None:
    drawn = np.stack([random_picture(rng, 3, 32, 32) for rng in np.random.default_rng(0).spawn(40)])
    parameterization = FourierImage(height=32, width=32)
    started = render(parameterization, parameterization.initial(np.random.default_rng(1), 40), 40)
    assert drawn.std() == pytest.approx(started.std(), rel=0.1)
    assert drawn.dtype == np.float32


# Grids


def test_grids_are_interpolated_between_the_centres_of_their_cells() -> None:
    np.testing.assert_allclose(centre_aligned(4, 2) @ [0, 1], [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(centre_aligned(6, 2) @ [0, 3], [0, 0, 1, 2, 3, 3], atol=1e-6)
    np.testing.assert_array_equal(centre_aligned(5, 5), np.eye(5))
    np.testing.assert_allclose(corner_aligned(5, 2) @ [0, 4], [0, 1, 2, 3, 4])


def test_items_with_common_grids_go_from_the_first_to_the_last() -> None:
    parameterization = LowresImage(**SIZE, rows=2, columns=2, sets=2, decorrelate=False)
    assert parameterization.couples_batch
    grid = np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype(np.float32)
    pictures = colour.logit(render(parameterization, {"parameter.grid": grid}, 5))
    own = colour.logit(render(replace(parameterization, sets=None), {"parameter.grid": grid}, 2))
    for item in range(5):
        np.testing.assert_allclose(pictures[item], own[0] + item / 4 * (own[1] - own[0]), atol=1e-4)


def test_a_common_grid_is_the_same_in_all_items() -> None:
    parameterization = LowresImage(**SIZE, rows=2, columns=2, sets=1)
    pictures = render(parameterization, parameterization.initial(np.random.default_rng(0), 4), 4)
    assert all((picture == pictures[0]).all() for picture in pictures)


# MACO


def test_a_maco_picture_is_that_of_its_formula() -> None:
    magnitude = np.random.default_rng(0).uniform(1, 2, (3, 6, 5))
    parameterization = MacoImage(**SIZE, magnitude=magnitude)
    phase = parameterization.initial(np.random.default_rng(1), 1)["parameter.phase"][0].astype(np.float64)
    p = (phase - phase.mean()) / (phase.std() + 1e-5)
    z = np.fft.irfft2(magnitude * np.cos(p) + 1j * magnitude * np.sin(p), s=(6, 8))
    z = (z - z.mean()) / (z.std() + 1e-5)
    expected = 1 / (1 + np.exp(-(z.transpose(1, 2, 0) @ LUCID_COLOURS)))
    found = render(parameterization, {"parameter.phase": phase[None].astype(np.float32)})
    np.testing.assert_allclose(found[0].transpose(1, 2, 0), expected, atol=1e-5)


def test_steps_leave_the_magnitude_of_maco_as_it_is() -> None:
    magnitude = np.random.default_rng(0).uniform(1, 2, (3, 12, 8))
    parameterization = MacoImage(height=12, width=15, magnitude=magnitude)
    start = parameterization.initial(np.random.default_rng(1), 1)
    before = render(parameterization, start)
    target = photo(12, 15)
    values = Climber(parameterization, closeness((3, 12, 15))).climb(start, Nadam(), 30, {"target": target})
    after = render(parameterization, start)
    assert np.abs(after - before).max() > 0.1
    assert values[-1] > values[0]
    for picture in (before, after):
        canvas = np.log(picture / (1 - picture.astype(np.float64)))[0]
        z = np.einsum("io,ihw->ohw", np.linalg.inv(LUCID_COLOURS), canvas)
        found = np.abs(np.fft.rfft2(z))
        # In the first column only the frequencies up to the middle are free: the others are their mirror images.
        ratio = (found / magnitude)[:, :, 1:]
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=2e-3)


def test_the_magnitude_of_a_dataset_is_the_mean_in_decorrelated_colours() -> None:
    pictures = [photo(6, 8)[0], photo(6, 8)[0][:, ::-1] ** 2]
    expected = np.zeros((3, 6, 5))
    for picture in pictures:
        for channel in range(3):
            plane = np.einsum("c,chw->hw", np.linalg.inv(LUCID_COLOURS)[:, channel], picture)
            expected[channel] += np.abs(np.fft.rfft2(plane)) / 2
    np.testing.assert_allclose(measure_magnitude(pictures), expected, rtol=1e-4)
    with pytest.raises(OrtoscopeError, match="one shape"):
        measure_magnitude([photo(6, 8)[0], photo(6, 7)[0]])
    with pytest.raises(OrtoscopeError, match="at least one"):
        measure_magnitude([])


@pytest.mark.parametrize("size", [(64, 64), (50, 81), (17, 200)])
def test_a_magnitude_at_another_size_keeps_its_frequencies(size: tuple[int, int]) -> None:
    law = 1 / (0.1 + spectra.frequencies(128, 128))
    fitted = fitted_magnitude(np.stack([law, 2 * law]), *size)
    expected = 1 / (0.1 + spectra.frequencies(*size))
    np.testing.assert_allclose(fitted, np.stack([expected, 2 * expected]), rtol=0.01)


def test_without_a_spectrum_magnitudes_follow_a_power_law() -> None:
    (magnitude,) = MacoImage(height=32, width=48).feeds(1).values()
    assert magnitude.shape == (3, 32, 25)
    # Frequency 4/32 down against 2/32 down, and 12/48 across against 6/48 across.
    assert magnitude[0, 2, 0] / magnitude[0, 4, 0] == pytest.approx(2**1.5, rel=1e-5)
    assert magnitude[2, 0, 6] / magnitude[2, 0, 12] == pytest.approx(2**1.5, rel=1e-5)


# Colours


def test_the_matrix_of_colours_is_lucids() -> None:
    np.testing.assert_allclose(np.array(colour.IMAGENET).T, LUCID_COLOURS, atol=1e-7)


def test_measured_colours_have_the_covariance_of_the_pictures() -> None:
    mixing = np.array([[2.0, 0.5], [0.5, 1.0]])
    pixels = mixing @ np.random.default_rng(0).standard_normal((2, 40000))
    measured = np.array(
        colour.measure([pixels[:, :15000].reshape(2, 100, 150), pixels[:, 15000:].reshape(2, 250, 100)])
    )
    np.testing.assert_allclose(measured, mixing / np.linalg.norm(mixing, axis=0).max(), atol=0.02)
    decorrelated = colour.decorrelate(pixels.reshape(2, 200, 200), colour.as_rows(measured)).reshape(2, -1)
    covariance = np.cov(decorrelated)
    assert abs(covariance[0, 1]) < 1e-6 * covariance[0, 0]


def test_other_channels_can_have_their_own_correlation() -> None:
    matrix = ((1.0, 0.0), (0.5, 0.5))
    parameterization = PixelImage(**SIZE, channels=2, correlation=matrix)
    canvas = np.random.default_rng(0).standard_normal((1, 2, 6, 8)).astype(np.float32)
    expected = np.stack([canvas[:, 0], (canvas[:, 0] + canvas[:, 1]) / 2], axis=1)
    np.testing.assert_allclose(
        render(parameterization, {"parameter.pixels": canvas}), 1 / (1 + np.exp(-expected)), atol=1e-6
    )


# Generators and vectors


def test_a_generator_prior_is_the_generator_in_the_range_of_pictures() -> None:
    codes = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    outputs = run_in_onnxruntime(serialize(generator_model()), {"z": codes})["picture"]
    found = render(GeneratorImage(generator=generator_model()), {"parameter.code": codes})
    np.testing.assert_allclose(found, (outputs + 1) / 2, atol=1e-6)
    narrow = render(GeneratorImage(generator=generator_model(), output_range=(0, 0.5)), {"parameter.code": codes})
    np.testing.assert_allclose(narrow, np.clip(outputs * 2, 0, 1), atol=1e-6)
    last = render(GeneratorImage(generator=generator_model(layout="nhwc"), layout="nhwc"), {"parameter.code": codes})
    assert last.shape == (2, 3, 4, 6)


def test_codes_stay_within_their_bounds() -> None:
    bounds = (np.zeros(5), np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    parameterization = GeneratorImage(generator=generator_model(), code_bounds=bounds)
    start = parameterization.initial(np.random.default_rng(0), 2)
    climber = Climber(parameterization, lambda g, picture: g.mean(picture, [1, 2, 3]))
    climber.climb(start, Adam(1.0), 5, {"unused": np.zeros(2)})
    code = start["parameter.code"]
    assert (code >= 0).all()
    assert (code <= bounds[1].astype(np.float32)).all()


def test_a_generator_that_does_not_fit_is_refused_before_any_work() -> None:
    fixed = GraphBuilder(0)
    fixed.node("Add", ["a", "b"], "c")
    two = fixed.model([float_value("a", ["n", 4]), float_value("b", ["n", 4])], [float_value("c", ["n", 4])], opset=17)
    for model, words in (
        (load_model(two.SerializeToString()), "2 inputs"),
        (generator_model(batch=1), "fixed batch of 1"),
    ):
        with pytest.raises(OrtoscopeError, match=words) as caught:
            GeneratorImage(generator=model)
        assert caught.value.reason == "GENERATOR_UNFIT"
    with pytest.raises(OrtoscopeError, match="below white"):
        GeneratorImage(generator=generator_model(), output_range=(1, -1))


def test_a_feature_reaches_its_bound_and_stays_there() -> None:
    parameterization = bounded_vector()
    start = parameterization.initial(np.random.default_rng(0), 1)
    Climber(parameterization, lambda g, value: g.total(value, [1, 2])).climb(
        start, Adam(0.05), 40, {"unused": np.zeros(1)}
    )
    values = render(parameterization, start)
    np.testing.assert_array_equal(values[0, :, 0], 1)
    assert (values[0, :, 1] > 100).all()
    np.testing.assert_array_equal(values[0, :, 2], 2)


def test_vectors_start_from_data() -> None:
    samples = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    parameterization = VectorParameterization.of_samples(samples)
    given = np.array([[3.0, 5.0], [9.0, 7.0]])
    back = render(parameterization, parameterization.inverse(given), 2)
    np.testing.assert_allclose(back, [[3, 5], [4, 5]], atol=1e-6)
    middle = VectorParameterization.within(np.array([0.0, -2.0]), np.array([4.0, 2.0]), shape=(5, 2))
    np.testing.assert_allclose(render(middle, {"parameter.vector": np.ones((1, 5, 2), np.float32)})[0, 0], [4, 2])


# Refusals


@pytest.mark.parametrize(
    ("make", "reason", "field"),
    [
        (lambda: PixelImage(height=0, width=4), "INVALID_SIZE", "height"),
        (lambda: PixelImage(height=4, width=4, channels=-1), "INVALID_SIZE", "channels"),
        (lambda: PixelImage(**SIZE, correlation=((1.0,),)), "INVALID_CORRELATION", "correlation"),
        (lambda: LaplacianImage(height=4, width=9, levels=4), "INVALID_LEVELS", "levels"),
        (lambda: LowresImage(**SIZE, rows=7, columns=2), "INVALID_GRID", "rows"),
        (lambda: LowresImage(**SIZE, rows=2, columns=2, sets=0), "INVALID_GRID", "sets"),
        (lambda: SumImage(**SIZE, parts=(PixelImage(**SIZE), PixelImage(**SIZE))), "INVALID_PARTS", "parts"),
        (lambda: CppnImage(**SIZE, hidden=0), "INVALID_NETWORK", "hidden"),
        (lambda: MacoImage(**SIZE, alpha=True), "ALPHA_NOT_AVAILABLE", "alpha"),
        (lambda: MacoImage(**SIZE, magnitude=np.ones((3, 6, 6))), "INVALID_MAGNITUDE", "magnitude"),
        (lambda: MacoImage(**SIZE, magnitude=np.zeros((3, 6, 5))), "INVALID_MAGNITUDE", "magnitude"),
        (lambda: VectorParameterization(shape_of_item=()), "INVALID_SIZE", "shape"),
        (lambda: VectorParameterization(shape_of_item=(2,), low=np.zeros(3)), "INVALID_BOUNDS", "low"),
        (lambda: VectorParameterization(shape_of_item=(2,), low=1.0, high=0.0, centre=0.5), "INVALID_BOUNDS", "low"),
        (lambda: VectorParameterization(shape_of_item=(2,), scale=-1.0), "INVALID_BOUNDS", "scale"),
        (lambda: PixelImage(**SIZE).inverse(np.zeros((1, 3, 8, 6))), "INVALID_PICTURE", "start"),
        (lambda: PixelImage(**SIZE).inverse(np.full((1, 3, 6, 8), 255)), "INVALID_PICTURE", "start"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(make: Callable[[], object], reason: str, field: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        make()
    assert (caught.value.reason, caught.value.field) == (reason, f"parameterization.{field}")


@pytest.mark.parametrize("kind", ["cppn", "maco", "generator"])
def test_kinds_that_cannot_hold_every_picture_have_no_inverse(kind: str) -> None:
    parameterization = KINDS[kind]()
    with pytest.raises(OrtoscopeError) as caught:
        parameterization.inverse(np.full((1, *parameterization.shape), 0.5))
    assert caught.value.reason == "NO_INVERSE"


def test_a_clipped_picture_stays_in_range_and_is_blurred_when_it_is_time() -> None:
    parameterization = PixelImage(height=9, width=9, channels=1, squash="clip", blur_sigma=1.0, blur_every=2)
    pixels = np.zeros((1, 1, 9, 9), np.float32)
    pixels[0, 0, 4, 4] = 2
    parameters = {"parameter.pixels": pixels}
    parameterization.project(parameters, 1)
    assert pixels.sum() == pixels.max() == 1
    parameterization.project(parameters, 2)
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    expected = np.outer(weights, weights) / weights.sum() ** 2
    np.testing.assert_allclose(pixels[0, 0], expected, atol=1e-5)
