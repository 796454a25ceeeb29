"""Parameterizations as plain data: everything about them but the size of what they make, which is known last."""

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ortoscope_service.analysis.visualization.objectives.arrays import Numbers
from ortoscope_service.analysis.visualization.parameterizations.cppn import CppnImage
from ortoscope_service.analysis.visualization.parameterizations.fourier import FourierImage
from ortoscope_service.analysis.visualization.parameterizations.generator import GeneratorImage
from ortoscope_service.analysis.visualization.parameterizations.laplacian import LaplacianImage
from ortoscope_service.analysis.visualization.parameterizations.lowres import LowresImage, aligned
from ortoscope_service.analysis.visualization.parameterizations.maco import DECAY_POWER, MacoImage, fitted_magnitude
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization
from ortoscope_service.analysis.visualization.parameterizations.pixel import PixelImage
from ortoscope_service.analysis.visualization.parameterizations.vectors import VectorParameterization
from ortoscope_service.errors import invalid
from ortoscope_service.models.repository import ModelVersion


class Choice(abc.ABC):
    """A kind of parameterization with its settings."""

    kind: ClassVar[str]
    """The word for it in JSON."""

    has_size: ClassVar[bool] = False
    """Whether it makes pictures of the size that is asked for."""


class ImageChoice(Choice):
    """A kind of parameterization that makes pictures of any size and number of channels."""

    has_size = True

    @abc.abstractmethod
    def picture(self, height: int, width: int, channels: int) -> ImageParameterization:
        """The parameterization for a size.

        Raises:
            OrtoscopeError: As the parameterization raises.
        """

    def _fields(self) -> dict[str, Any]:
        assert dataclasses.is_dataclass(self)
        return {own.name: getattr(self, own.name) for own in dataclasses.fields(self)}


@dataclass(frozen=True)
class Pixel(ImageChoice):
    """The pixels themselves (`PixelImage`)."""

    kind = "pixel"

    sd: float = 0.01
    """Standard deviation of the start."""

    squash: Literal["sigmoid", "clip"] = "sigmoid"
    """What keeps the picture in [0, 1]: a sigmoid, or cutting off after each step."""

    blur_sigma: float = 0.0
    """Width in pixels of a Gaussian blur of the parameters; 0 is none."""

    blur_every: int = 4
    """After how many steps each blur comes."""

    decorrelate: bool = True
    """Whether channels are given their natural correlation; with "clip" they are not."""

    alpha: bool = False
    """Whether the picture has an opacity."""

    def picture(self, height: int, width: int, channels: int) -> ImageParameterization:
        """A `PixelImage`; refuses a blur of no width or period: `INVALID_BLUR`."""
        if not 0 <= self.blur_sigma <= min(height, width) or self.blur_every < 1:
            raise invalid(
                "INVALID_BLUR",
                f"A blur of {self.blur_sigma:g} pixels after every {self.blur_every} steps cannot be made; give a "
                f"width of 0 to {min(height, width)} pixels, and 1 step or more.",
                field="parameterization.blur_sigma",
                blur_sigma=self.blur_sigma,
                blur_every=self.blur_every,
            )
        return PixelImage(height=height, width=width, channels=channels, **self._fields())


@dataclass(frozen=True)
class Fourier(ImageChoice):
    """Scaled Fourier coefficients (`FourierImage`)."""

    kind = "fourier"

    sd: float = 0.01
    """Standard deviation of real and imaginary parts at the start."""

    decay_power: float = 1.0
    """How fast amplitudes fall with frequency."""

    decorrelate: bool = True
    """Whether channels are given their natural correlation."""

    alpha: bool = False
    """Whether the picture has an opacity."""

    def picture(self, height: int, width: int, channels: int) -> ImageParameterization:
        """A `FourierImage`."""
        return FourierImage(height=height, width=width, channels=channels, **self._fields())


@dataclass(frozen=True)
class Laplacian(ImageChoice):
    """A pyramid of grids (`LaplacianImage`)."""

    kind = "laplacian"

    levels: int = 4
    """Grids."""

    sd: float = 0.01
    """Standard deviation of each grid at the start."""

    decorrelate: bool = True
    """Whether channels are given their natural correlation."""

    alpha: bool = False
    """Whether the picture has an opacity."""

    def picture(self, height: int, width: int, channels: int) -> ImageParameterization:
        """A `LaplacianImage`."""
        return LaplacianImage(height=height, width=width, channels=channels, **self._fields())


@dataclass(frozen=True)
class Lowres(ImageChoice):
    """A coarse grid, interpolated (`LowresImage`)."""

    kind = "lowres"

    rows: int = 16
    """Cells of the grid from top to bottom, at most as many as pixels."""

    columns: int = 16
    """Cells of the grid from left to right."""

    sets: int | None = None
    """How many grids the items of a batch share; none: each has its own."""

    sd: float = 0.01
    """Standard deviation of the start."""

    decorrelate: bool = True
    """Whether channels are given their natural correlation."""

    alpha: bool = False
    """Whether the picture has an opacity."""

    def picture(self, height: int, width: int, channels: int) -> ImageParameterization:
        """A `LowresImage`."""
        return LowresImage(height=height, width=width, channels=channels, **self._fields())


@dataclass(frozen=True)
class Aligned(ImageChoice):
    """Fourier coefficients of each item, and coarse grids that items share (`lowres.aligned`)."""

    kind = "aligned"

    sd: float = 0.01
    """Standard deviation of all parts at the start."""

    decay_power: float = 1.0
    """How fast the amplitudes of what items have for themselves fall with frequency."""

    decorrelate: bool = True
    """Whether channels are given their natural correlation."""

    alpha: bool = False
    """Whether the picture has an opacity."""

    def picture(self, height: int, width: int, channels: int) -> ImageParameterization:
        """A sum of a `FourierImage` and Lucid's shared grids."""
        return aligned(FourierImage(height=height, width=width, channels=channels, **self._fields()), sd=self.sd)


@dataclass(frozen=True)
class Cppn(ImageChoice):
    """A network from coordinates to colours (`CppnImage`)."""

    kind = "cppn"

    hidden: int = 24
    """Units of each layer."""

    layers: int = 8
    """Layers before the last one."""

    bias_sd: float = 0.1
    """Standard deviation of biases at the start."""

    decorrelate: bool = False
    """Whether channels are given their natural correlation."""

    alpha: bool = False
    """Whether the picture has an opacity."""

    def picture(self, height: int, width: int, channels: int) -> ImageParameterization:
        """A `CppnImage`."""
        return CppnImage(height=height, width=width, channels=channels, **self._fields())


@dataclass(frozen=True)
class Maco(ImageChoice):
    """Phases alone, at a fixed spectrum (`MacoImage`)."""

    kind = "maco"

    decay_power: float = DECAY_POWER
    """How fast amplitudes fall with frequency, where no magnitude is given."""

    magnitude: Numbers | None = None
    """Measured magnitudes, (channels, rows, columns) of `measure_magnitude`; brought to the picture's size."""

    decorrelate: bool = True
    """Whether channels are given their natural correlation."""

    def picture(self, height: int, width: int, channels: int) -> ImageParameterization:
        """A `MacoImage`."""
        fields = self._fields()
        if self.magnitude is not None:
            given = np.asarray(self.magnitude.array, np.float64)
            fits = given.ndim != 3 or given.shape[1:] == (height, width // 2 + 1) or min(given.shape) < 2
            fields["magnitude"] = given if fits else fitted_magnitude(given, height, width)
        return MacoImage(height=height, width=width, channels=channels, **fields)


@dataclass(frozen=True)
class Generator(Choice):
    """The code of a generator network in the model repository (`GeneratorImage`)."""

    kind = "generator"

    model: str = ""
    """The model's id, with `/` and a version, or without for the newest."""

    low: float = -1.0
    """What the generator gives for black."""

    high: float = 1.0
    """What the generator gives for white."""

    layout: Literal["nchw", "nhwc"] = "nchw"
    """Where its output has the channels."""

    sd: float = 1.0
    """Standard deviation of the code at the start."""

    code_low: Numbers | None = None
    """The least code, one number or one for each element; none: no bound."""

    code_high: Numbers | None = None
    """The greatest code."""

    denoiser: str = ""
    """The id of a model that denoises codes, named as `model` is; none: the bounds alone."""

    denoiser_share: float = 0.01
    """What part of the way to the denoised code is gone after each step."""

    def of(self, version: ModelVersion) -> GeneratorImage:
        """The parameterization by a generator, without a denoiser.

        Raises:
            OrtoscopeError: As `GeneratorImage` raises, and `INVALID_BOUNDS`.
        """
        bounds = None
        if self.code_low is not None or self.code_high is not None:
            low, high = _array(self.code_low, -np.inf), _array(self.code_high, np.inf)
            shape = version.manifest.inputs[0].shape[1:]
            for name, array in (("code_low", low), ("code_high", high)):
                _check_broadcast(array.shape, shape, f"parameterization.{name}")
            bounds = low, high
        return GeneratorImage(
            generator=version.load(),
            output_range=(self.low, self.high),
            layout=self.layout,
            sd=self.sd,
            code_bounds=bounds,
        )


@dataclass(frozen=True)
class Vector(Choice):
    """Numbers within bounds of their own, for models that take no pictures (`VectorParameterization`)."""

    kind = "vector"

    low: Numbers | None = None
    """The least value, one number or one for each feature; none: no bound."""

    high: Numbers | None = None
    """The greatest value."""

    centre: Numbers | None = None
    """Where features start from; none: the middle between both bounds, or the bound that there is, or 0."""

    scale: Numbers | None = None
    """The unit of each feature; none: half the distance of the bounds, or 1."""

    sd: float = 0.01
    """Standard deviation of the start, in units of `scale`."""

    def of(self, shape: tuple[int, ...]) -> VectorParameterization:
        """The parameterization for items of a shape.

        Raises:
            OrtoscopeError: As `VectorParameterization` raises.
        """
        for name in ("low", "high", "centre", "scale"):
            given = getattr(self, name)
            if given is not None:
                _check_broadcast(given.shape, shape, f"parameterization.{name}")
        low, high = _array(self.low, -np.inf), _array(self.high, np.inf)
        between = self.low is not None and self.high is not None
        return VectorParameterization(
            shape_of_item=shape,
            low=low,
            high=high,
            centre=_array(self.centre, (low + high) / 2 if between else np.clip(0.0, low, high)),
            scale=_array(self.scale, np.abs(high - low) / 2 if between else 1.0),
            sd=self.sd,
        )


CHOICES: tuple[type[Choice], ...] = (Fourier, Pixel, Laplacian, Lowres, Aligned, Cppn, Maco, Generator, Vector)
"""Every kind of parameterization."""


def _array(numbers: Numbers | None, default: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(default if numbers is None else numbers.array, np.float64)


def _check_broadcast(given: tuple[int, ...], shape: tuple[int, ...], field: str) -> None:
    try:
        fits = np.broadcast_shapes(given, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise invalid(
            "INVALID_BOUNDS",
            f"Numbers of the shape {list(given)} do not fit an item of {list(shape)}; give one number, or one for each "
            "element.",
            field=field,
            given=list(given),
            expected=list(shape),
        )
