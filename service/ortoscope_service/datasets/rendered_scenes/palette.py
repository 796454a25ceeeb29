"""The eleven basic colours (Berlin and Kay 1969), the colour concepts of Broden."""

from dataclasses import dataclass

import numpy as np

# Typical shades of each, as sRGB from 0 to 255.
SHADES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((24, 24, 26), (34, 32, 36)),
    "blue": ((35, 85, 200), (60, 120, 215), (30, 55, 150)),
    "brown": ((115, 72, 40), (140, 92, 55), (92, 60, 38)),
    "green": ((50, 140, 50), (90, 160, 60), (30, 105, 55)),
    "grey": ((128, 128, 130), (155, 155, 155), (105, 108, 112)),
    "orange": ((238, 125, 25), (245, 145, 45)),
    "pink": ((240, 150, 185), (245, 175, 195)),
    "purple": ((125, 55, 160), (150, 85, 185)),
    "red": ((200, 28, 32), (225, 45, 45), (165, 22, 30)),
    "white": ((244, 244, 242), (235, 236, 238)),
    "yellow": ((245, 210, 45), (250, 225, 85)),
}

NAMES = tuple(SHADES)


@dataclass(frozen=True)
class Colour:
    """A paint: its name and its sRGB values from 0 to 1."""

    name: str
    rgb: tuple[float, float, float]


def colour(name: str, rng: np.random.Generator, rgb: tuple[int, int, int] | None = None) -> Colour:
    """A paint of a named colour, a little different each time: of one of its typical shades, or of `rgb` (0 to 255)."""
    shades = SHADES[name]
    base = np.array(rgb if rgb is not None else shades[rng.integers(len(shades))], np.float64) / 255
    varied = np.clip(base * rng.uniform(0.93, 1.06) + rng.normal(0, 0.012, 3), 0, 1)
    return Colour(name, (float(varied[0]), float(varied[1]), float(varied[2])))


def pick(rng: np.random.Generator, *names: str) -> Colour:
    """A paint of one of several colours; of any if none is named."""
    chosen = names or NAMES
    return colour(chosen[rng.integers(len(chosen))], rng)
