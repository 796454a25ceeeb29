"""Recipes of others under their names: what is optimised, how it is transformed, and how it is climbed.

Figures are those of the sources. Where a source's pictures have another range than [0, 1], noises and shifts are
divided by its width. Every field can be replaced (`dataclasses.replace`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ortoscope_service.analysis.visualization.loop import Recipe
from ortoscope_service.analysis.visualization.optimizers import Adam, Nadam, Schedule, Sgd
from ortoscope_service.analysis.visualization.parameterizations.choices import (
    Choice,
    Fourier,
    ImageChoice,
    Maco,
    Pixel,
    Vector,
)
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization
from ortoscope_service.analysis.visualization.parameterizations.pixel import Bound
from ortoscope_service.analysis.visualization.resampling import Size
from ortoscope_service.analysis.visualization.transforms import (
    Chain,
    ColourJitter,
    CropBoxes,
    Jitter,
    Noise,
    Pad,
    Rotate,
    Scale,
)
from ortoscope_service.errors import not_found

_NORMALISED = 0.226
"""Mean standard deviation of ImageNet's colours in [0, 1]: one unit of a normalised input."""

_WIDE_TURN = Rotate((*range(-20, 21), *range(-10, 11), *range(-5, 6), *(0,) * 5))


@dataclass(frozen=True)
class Preset:
    """A recipe under a name."""

    name: str
    """The name."""

    summary: str
    """What it is for, in a sentence."""

    source: str
    """Where its figures come from, and what differs from that."""

    size: Size
    """Height and width of the picture; of no meaning for a generator, whose output has one, and for vectors."""

    chain: Chain
    """The transforms."""

    recipe: Recipe
    """The climb."""

    parameterization: Choice = field(default_factory=Fourier)
    """What is optimised."""

    view: Size | None = None
    """Size of what the model is shown; by default as `Program` has it."""

    needs_start: bool = False
    """Whether it starts from a picture that is given."""

    cosine_power: float = 0.0
    """The power of the cosine in direction objectives that have none of their own."""

    total_variation: float = 0.0
    """The weight of the picture's total variation in the objective, with a minus sign."""

    octaves: int = 1
    """How many times the whole climb is made, each time on a larger picture."""

    octave_scale: float = 1.4
    """By what factor the picture is enlarged from one octave to the next."""

    bound: Bound | None = None
    """How far the picture may go from the one that it starts from."""

    @property
    def is_for_pictures(self) -> bool:
        """Whether what it optimises is a picture."""
        return not isinstance(self.parameterization, Vector)

    def picture(self, height: int = 0, width: int = 0, channels: int = 3) -> ImageParameterization:
        """The parameterization of pictures, by default of the preset's own size.

        Raises:
            OrtoscopeError: As the parameterization raises.
        """
        assert isinstance(self.parameterization, ImageChoice)
        return self.parameterization.picture(height or self.size[0], width or self.size[1], channels)


_LUCID = Chain(
    (
        Pad(12),
        Jitter(8),
        Scale(tuple(1 + (number - 5) / 50 for number in range(11))),
        Rotate((*range(-10, 11), *(0,) * 5)),
        Jitter(4),
    )
)

_COLOURS = Pixel(squash="clip", decorrelate=False)
"""The picture itself."""

_ALL = (
    Preset(
        "lucid",
        "The standard: textures and parts of objects, for channels of any layer.",
        "tensorflow/lucid render.py and transform.py (standard_transforms), Olah et al. 2017. Transforms are drawn for "
        "each item, and the network's input keeps its size; Lucid's varies with the scale.",
        (128, 128),
        _LUCID,
        Recipe(512, Adam(0.05)),
    ),
    Preset(
        "lucid-fast",
        "Fewer steps, each on the mean of sixteen views.",
        "tensorflow/lucid recipes/feature_visualization: 128 steps, 16 parallel transforms.",
        (128, 128),
        Chain(_LUCID.steps, views=16),
        Recipe(128, Adam(0.05)),
    ),
    Preset(
        "atlas-icon",
        "Icons of directions for an activation atlas, the best of three starts.",
        "tensorflow/lucid recipes/activation_atlas: 96 px, 128 steps, num_attempts 3, cossim_pow 2.",
        (96, 96),
        Chain(
            (
                Pad(16),
                *(Jitter(pixels) for pixels in (4, 4, 8, 8, 8)),
                Scale(tuple(0.998**number for number in range(20, 40))),
                _WIDE_TURN,
                Jitter(2),
            )
        ),
        Recipe(128, Adam(0.05), attempts=3),
        cosine_power=2,
    ),
    Preset(
        "robust",
        "Strong transforms, for networks on which the standard gives noise.",
        "pytorch/captum optim-wip TransformationRobustness and openai/CLIP-featurevis; Adam 0.025, 512 steps.",
        (224, 224),
        Chain(
            (
                Pad(2),
                *(Jitter(4),) * 10,
                Scale(
                    (
                        *(0.995**number for number in range(-5, 80)),
                        *(0.998**number for number in range(20, 40)),
                        *(0.998**number for number in range(20, 40)),
                    )
                ),
                _WIDE_TURN,
                Jitter(2),
            )
        ),
        Recipe(512, Adam(0.025)),
    ),
    Preset(
        "maco",
        "Natural spectrum, phases only: for deep layers of modern networks.",
        "deel-ai/xplique maco.py, Fel et al. 2023 (arXiv 2306.06805): 256 steps of 32 crops, Nadam 1.0; noise 0.08 and "
        "uniform 0.04 on (-1, 1). The spectrum is f^-1.5 unless one is given.",
        (512, 512),
        Chain((CropBoxes(0.5, 0.05),), views=32, noise=Noise(0.04, 0.02)),
        Recipe(256, Nadam(1.0)),
        Maco(),
    ),
    Preset(
        "maco-hires",
        "The same, large, with few crops.",
        "serre-lab/Horama v0.3: 1280 px, 1000 steps of 6 crops of 0.20 to 0.25 (its code draws 0.25 to 0.30), noise "
        "0.05 on (-2.5, 2.5).",
        (1280, 1280),
        Chain((CropBoxes(0.25, 0.20, uniform=True),), views=6, noise=Noise(0.01, 0.005)),
        Recipe(1000, Nadam(1.0)),
        Maco(),
    ),
    Preset(
        "accentuate",
        "A given picture, with what the unit sees in it made stronger.",
        "chrishamblin7/faccent: 16 crops of 0.05 to 0.99, noise 0.02, Adam 0.05. The number of steps is ours.",
        (224, 224),
        Chain((CropBoxes(0.99, 0.05, uniform=True),), views=16, noise=Noise(0.02)),
        Recipe(128, Adam(0.05)),
        needs_start=True,
    ),
    Preset(
        "deepdream",
        "A given picture, dreamt further.",
        "google/deepdream (2015): 4 octaves by 1.4, 10 steps of 1.5 / mean |g| on pixels 0..255, rolled by 32.",
        (224, 224),
        Chain((Jitter(32, keep_size=True),), edge="wrap"),
        Recipe(10, Sgd(1.5 / 255)),
        _COLOURS,
        needs_start=True,
        octaves=4,
    ),
    Preset(
        "vit",
        "For vision transformers.",
        "hamidkazemi22/vit-visualization, Ghiasi et al. 2022: Adam 0.1 (0.5, 0.99), 400 steps, cosine; 8 views with "
        "colour jitter and noise 0.5 that falls to 0, jitter 32 by rolling, total variation 5e-4. Rate, noise and "
        "shift are of normalised inputs.",
        (224, 224),
        Chain(
            (Jitter(32, keep_size=True),),
            views=8,
            edge="wrap",
            noise=Noise(0.5 * _NORMALISED, last=0),
            colours=ColourJitter(1.0, _NORMALISED),
        ),
        Recipe(400, Adam(0.1 * _NORMALISED, 0.5, 0.99, schedule=Schedule("cosine", 400))),
        _COLOURS,
        total_variation=5e-4,
    ),
    Preset(
        "classic",
        "Pixels, blurred now and then: what pictures looked like before Lucid.",
        "yosinski/deep-visualization-toolbox, third recipe of Yosinski et al. 2015: decay 1e-4, blur 1.0 every 4, 1000 "
        "steps. Steps are along the normalised gradient instead of its rate of 100.",
        (224, 224),
        Chain(),
        Recipe(1000, Sgd(1.5 / 255, decay=1e-4)),
        Pixel(squash="clip", decorrelate=False, blur_sigma=1.0),
    ),
    Preset(
        "adversarial",
        "A given picture, changed less than eyes see.",
        "Gradient ascent on pixels without transforms (Szegedy et al. 2014), kept within 8/255 of each pixel as Madry "
        "et al. 2018 do. Steps of Adam, 1/255 long, are ours.",
        (224, 224),
        Chain(),
        Recipe(100, Adam(1 / 255)),
        _COLOURS,
        needs_start=True,
        bound=Bound("linf", 8 / 255),
    ),
    Preset(
        "vector",
        "For models that take no pictures: rows of a table, sequences of vectors.",
        "Gradient ascent between bounds, in units of each feature. The figures are ours.",
        (1, 1),
        Chain(),
        Recipe(256, Adam(0.05)),
        Vector(),
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})
"""All presets by name."""


def find_preset(name: str, *, field: str = "preset") -> Preset:
    """The preset of a name.

    Raises:
        OrtoscopeError: `UNKNOWN_PRESET` (NOT_FOUND).
    """
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise not_found(
            "UNKNOWN_PRESET", f"There is no preset {name!r}; there are {known}.", field=field, preset=name, known=known
        )
    return PRESETS[name]
