"""Parameterizations: what is optimised, and how it becomes what a model is shown."""

from ortoscope_service.analysis.visualization.parameterizations.alpha import AlphaBlend, random_picture
from ortoscope_service.analysis.visualization.parameterizations.base import Parameterization, Parameters, Random
from ortoscope_service.analysis.visualization.parameterizations.cppn import CppnImage
from ortoscope_service.analysis.visualization.parameterizations.fourier import FourierImage
from ortoscope_service.analysis.visualization.parameterizations.generator import Denoiser, GeneratorImage
from ortoscope_service.analysis.visualization.parameterizations.laplacian import LaplacianImage
from ortoscope_service.analysis.visualization.parameterizations.lowres import LowresImage, SumImage, aligned
from ortoscope_service.analysis.visualization.parameterizations.maco import (
    MacoImage,
    fitted_magnitude,
    measure_magnitude,
)
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization
from ortoscope_service.analysis.visualization.parameterizations.pixel import PixelImage
from ortoscope_service.analysis.visualization.parameterizations.vectors import VectorParameterization

__all__ = [
    "AlphaBlend",
    "CppnImage",
    "Denoiser",
    "FourierImage",
    "GeneratorImage",
    "ImageParameterization",
    "LaplacianImage",
    "LowresImage",
    "MacoImage",
    "Parameterization",
    "Parameters",
    "PixelImage",
    "Random",
    "SumImage",
    "VectorParameterization",
    "aligned",
    "fitted_magnitude",
    "measure_magnitude",
    "random_picture",
]
