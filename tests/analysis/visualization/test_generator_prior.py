"""A learned prior: codes climb within their bounds, and a denoiser draws them to where codes are likely."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from ortoscope_service.analysis.visualization.loop import Recipe, Seed, visualize
from ortoscope_service.analysis.visualization.objectives import Channel
from ortoscope_service.analysis.visualization.optimizers import Adam
from ortoscope_service.analysis.visualization.parameterizations import Denoiser, GeneratorImage
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.loading import load_model
from ortoscope_service.models import zoo
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from serving import PREPROCESSING, add_model
from tiny_models import GraphBuilder, float_value, tiny_cnn

Array = npt.NDArray[Any]
CODE = 5


def generator() -> ir.Model:
    """tanh of a linear map from codes of 5 to pictures of 3 x 16 x 16."""
    g = GraphBuilder(3)
    g.node("Gemm", ["z", g.weight("w", (CODE, 768), CODE), g.bias("b", 768)], "flat")
    g.node("Reshape", ["flat", g.constant("shape", np.array([-1, 3, 16, 16]))], "shaped")
    g.node("Tanh", ["shaped"], "picture")
    proto = g.model([float_value("z", ["n", CODE])], [float_value("picture", ["n", 3, 16, 16])], opset=17)
    return load_model(proto.SerializeToString())


def affine(slope: float, offset: float, size: int = CODE, batch: str | int = "n") -> ir.Model:
    """What takes noise off codes from N(m, 1): slope · code + offset."""
    g = GraphBuilder(0)
    g.node("Mul", ["code", g.constant("slope", np.float32(slope))], "scaled")
    g.node("Add", ["scaled", g.constant("offset", np.float32(offset))], "denoised")
    proto = g.model([float_value("code", [batch, size])], [float_value("denoised", [batch, size])], opset=17)
    return load_model(proto.SerializeToString())


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return add_model(
        ModelRepository(tmp_path_factory.mktemp("models")), "tiny", tiny_cnn(), preprocessing=PREPROCESSING
    )


def climb(version: ModelVersion, parameterization: GeneratorImage, seeds: list[Seed], steps: int = 40) -> Any:
    program = Program(version, parameterization, (Channel("conv2", 3),))
    return visualize(program, Recipe(steps, Adam(0.1)), seeds)


def test_a_code_climbs_and_stays_within_its_bounds(version: ModelVersion) -> None:
    high = np.linspace(0.2, 1.5, CODE)
    result = climb(version, GeneratorImage(generator=generator(), code_bounds=(-high, high)), [Seed(1), Seed(2)])
    codes = result.parameters["parameter.code"]
    assert (np.abs(codes) <= high.astype(np.float32)).all()
    assert (result.history[-1] > result.history[0]).all()
    assert all(outcome.objective > result.history[0, item] for item, outcome in enumerate(result.outcomes))


def test_a_denoised_step_goes_that_part_of_the_way() -> None:
    codes = np.random.default_rng(0).standard_normal((3, CODE)).astype(np.float32)
    parameters = {"parameter.code": codes.copy()}
    denoiser = Denoiser(affine(0.5, 1.0), share=0.25)
    GeneratorImage(generator=generator(), denoiser=denoiser).project(parameters, 1)
    np.testing.assert_allclose(parameters["parameter.code"], codes + 0.25 * (0.5 * codes + 1 - codes), rtol=1e-6)


def test_bounds_hold_after_denoising() -> None:
    parameters = {"parameter.code": np.zeros((2, CODE), np.float32)}
    bounded = GeneratorImage(generator=generator(), code_bounds=(-1.0, 1.0), denoiser=Denoiser(affine(0, 9), share=1))
    bounded.project(parameters, 1)
    np.testing.assert_array_equal(parameters["parameter.code"], 1)


def test_a_denoiser_keeps_codes_likelier_than_the_climb_alone_would(version: ModelVersion) -> None:
    seeds = [Seed(1), Seed(2)]
    free = climb(version, GeneratorImage(generator=generator()), seeds)
    drawn = climb(version, GeneratorImage(generator=generator(), denoiser=Denoiser(affine(0.5, 0), share=0.1)), seeds)
    sizes = [np.square(result.parameters["parameter.code"]).mean(axis=1) for result in (free, drawn)]
    assert (sizes[1] < sizes[0]).all()
    assert (drawn.history[-1] > drawn.history[0]).all()


def test_an_item_is_denoised_the_same_whatever_its_neighbours(version: ModelVersion) -> None:
    parameterization = GeneratorImage(generator=generator(), denoiser=Denoiser(affine(0.5, 0.1), share=0.1))
    together = climb(version, parameterization, [Seed(1), Seed(2), Seed(3)], steps=6)
    alone = climb(version, parameterization, [Seed(2)], steps=6)
    np.testing.assert_array_equal(together.pictures[1], alone.pictures[0])


def test_the_denoiser_is_opened_by_whom_it_is_told() -> None:
    opened = []

    class Session:
        inputs = outputs = (type("Info", (), {"name": "code"}),)

        def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
            return {"code": feeds["code"] * 0}

    def open_it(graph: bytes) -> Any:
        opened.append(len(graph))
        return Session()

    codes = np.ones((2, CODE), np.float32)
    denoiser = Denoiser(affine(1, 0), share=0.5, open=open_it)
    denoiser.apply(codes)
    denoiser.apply(codes)
    assert len(opened) == 1
    np.testing.assert_array_equal(codes, 0.25)


@pytest.mark.parametrize(
    ("make", "reason", "words"),
    [
        (lambda: Denoiser(affine(1, 0), share=1.5), "INVALID_DENOISER", "0 to 1"),
        (lambda: Denoiser(affine(1, 0), share=math.nan), "INVALID_DENOISER", "0 to 1"),
        (lambda: Denoiser(affine(1, 0, batch=1)), "DENOISER_UNFIT", "no free batch"),
        (
            lambda: GeneratorImage(generator=generator(), denoiser=Denoiser(affine(1, 0, size=4))),
            "DENOISER_UNFIT",
            "generator's code",
        ),
    ],
)
def test_a_denoiser_that_does_not_fit_is_refused_before_any_work(make: Any, reason: str, words: str) -> None:
    with pytest.raises(OrtoscopeError, match=words) as caught:
        make()
    assert caught.value.reason == reason
    assert caught.value.field is not None
    assert caught.value.field.startswith("parameterization.denoiser")


def test_the_generator_of_the_zoo_is_small_and_makes_pictures_that_can_be_climbed(version: ModelVersion) -> None:
    content = zoo.build("scene-generator").model
    assert len(content) <= 5 * 2**20
    cleaner = load_model(zoo.build("scene-denoiser").model)
    parameterization = GeneratorImage(
        generator=load_model(content),
        code_bounds=(-2.5, 2.5),
        denoiser=Denoiser(cleaner, share=0.02),
    )
    assert parameterization.shape == (3, 128, 128)
    result = climb(version, parameterization, [Seed(0)], steps=12)
    assert result.history[-1, 0] > result.history[0, 0]
    assert (np.abs(result.parameters["parameter.code"]) <= 2.5).all()
    assert result.pictures.std() > 0.05
