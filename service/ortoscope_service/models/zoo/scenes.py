"""A generator of pictures and a denoiser of its codes, trained on rendered scenes by `training/scene_generator.py`.

Together they are a learned prior for feature visualization. The files lie beside this module.
"""

import importlib.resources

GENERATOR_FILE = "scene_generator.onnx"
DENOISER_FILE = "scene_denoiser.onnx"


def build_generator() -> bytes:
    """The ONNX file: input `code` (n, 128), about N(0, 1); output `picture` (n, 3, 128, 128) in (-1, 1), n free."""
    return _read(GENERATOR_FILE)


def build_denoiser() -> bytes:
    """The ONNX file: input `code` (n, 128); output `denoised`, what it was without noise, of the same shape, n free."""
    return _read(DENOISER_FILE)


def _read(name: str) -> bytes:
    return importlib.resources.files("ortoscope_service.models.zoo").joinpath(name).read_bytes()
