"""Icons of cells: what an activation atlas shows for the mean activation of a cell (Carter et al. 2019).

An icon is a picture whose activation at the tap's centre goes along the cell's mean v, by gradient ascent on

    x·y · max(0.1, cos(x, y))ᵖ,   x = h F, y = v F   (`IconSpace`)

in the coordinates of the atlas, whitened ones unless told otherwise. That is the article's (h·v)ⁿ⁺¹ / (|h| |v|)ⁿ in its
true form; the released code's angle term is hardly ever in force (`LucidDirectionNeuron`).

Its *score* is that cosine for the finished picture, of 8 bits and without transforms. An icon *represents* its cell if
it gets about as close to the mean as real samples of the cell do. A cell of a finer level can start from the parameters
of its parent's icon, and then needs fewer steps.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.icon_space import IconSpace
from ortoscope_service.analysis.atlas.sites import leading_tokens, token_grid
from ortoscope_service.analysis.visualization.completion import completed
from ortoscope_service.analysis.visualization.loop import End, Progress, Seed, visualize
from ortoscope_service.analysis.visualization.objectives import (
    DirectionCosine,
    LucidDirectionNeuron,
    Numbers,
    Objective,
    WhitenedDirectionNeuron,
)
from ortoscope_service.analysis.visualization.parameterizations.base import Parameters
from ortoscope_service.analysis.visualization.png import to_bytes
from ortoscope_service.analysis.visualization.prepared import Prepared
from ortoscope_service.analysis.visualization.presets import Preset
from ortoscope_service.analysis.visualization.program import SessionOpener
from ortoscope_service.analysis.visualization.settings import resolve_preset
from ortoscope_service.analysis.visualization.sheets import END_NUMBERS
from ortoscope_service.analysis.visualization.spec import MOST_ITEMS, check_seed, prepare_each
from ortoscope_service.errors import OrtoscopeError, invalid
from ortoscope_service.graph.taps import Layout, resolve_tap
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import SessionConfig

PRESET = "atlas-icon"
"""The recipe of icons where none is named."""

IconObjective = Literal["direction", "lucid_compat"]

_AT_ONCE = 8
_PIXELS_AT_ONCE = _AT_ONCE * 80 * 80
"""Of EfficientNet-Lite0, a step of an icon costs least in batches of 8: a third less than alone."""

_SESSION = SessionConfig()


@dataclass(frozen=True)
class IconSettings:
    """How icons are made.

    Raises:
        OrtoscopeError: `INVALID_SETTING`: a number is of no use.
    """

    size: int = 80
    """Height and width in pixels."""

    objective: IconObjective = "direction"
    """`direction`: the true form. `lucid_compat`: what the code released with the article climbs."""

    whiten: bool = True
    """Whether directions, angles and scores are those of whitened activations."""

    shrinkage: float | None = None
    """Of the second moment before it is inverted, in [0, 1]; None lets the samples decide, 0 is the released code."""

    cosine_power: float = 2.0
    """p: how much the angle counts against the strength."""

    steps: int = 384
    """Steps of an icon that starts from noise."""

    attempts: int = 2
    """Starts that are tried where an icon starts from noise; the one with the highest objective is kept."""

    warm_steps: int = 160
    """Steps of an icon that starts from its parent's."""

    share_above: float = 0.95
    """Cosine of the means of neighbouring cells, in the coordinates that are climbed, above which they share an icon; 1
    for never."""

    represents_above: float = 0.75
    """What part of the cosine of real samples an icon must reach to represent its cell."""

    def __post_init__(self) -> None:
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("size", self.size, 1, 2048),
            ("cosine_power", self.cosine_power, 0, 100),
            ("steps", self.steps, 1, 20_000),
            ("attempts", self.attempts, 1, 16),
            ("warm_steps", self.warm_steps, 1, 20_000),
            ("share_above", self.share_above, 0, 1),
            ("represents_above", self.represents_above, 0, 10),
            ("shrinkage", self.shrinkage or 0, 0, 1),
        )
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise invalid(
                    "INVALID_SETTING",
                    f"The setting 'icons.{name}' is {value:g}; give {low:g} to {high:g}.",
                    field=f"settings.icons.{name}",
                    setting=f"icons.{name}",
                    value=value,
                )
        if self.objective not in {"direction", "lucid_compat"}:
            raise invalid(
                "INVALID_SETTING",
                f"The setting 'icons.objective' is {self.objective!r}; give 'direction' or 'lucid_compat'.",
                field="settings.icons.objective",
                setting="icons.objective",
                value=self.objective,
            )


class Placed(Protocol):
    """Cells on a grid, in their order: `Cells` is."""

    @property
    def row(self) -> NDArray[np.int32]:
        """(M,) from the top."""

    @property
    def column(self) -> NDArray[np.int32]:
        """(M,) from the left."""

    @property
    def count(self) -> NDArray[np.int64]:
        """(M,) samples."""


def icon_preset(
    settings: IconSettings,
    name: str = "",
    changes: Mapping[str, str] | None = None,
    *,
    field: str = "icons",
) -> Preset:
    """How the icons of a level without a parent are climbed.

    Args:
        settings: Where size, power, steps and attempts come from unless they are changed.
        name: The preset of visualizations; `atlas-icon` if empty.
        changes: Settings of that preset with values in JSON, as `resolve_preset` takes them.
        field: The path of the field that holds name and settings, for errors.

    Raises:
        OrtoscopeError: As `resolve_preset` raises.
    """
    given = {
        "size": str(settings.size),
        "cosine_power": repr(float(settings.cosine_power)),
        "recipe.steps": str(settings.steps),
        "recipe.attempts": str(settings.attempts),
    }
    return resolve_preset(name or PRESET, {**given, **(changes or {})}, field=field)


def icons_at_once(preset: Preset) -> int:
    """How many icons are best climbed side by side: it decides nothing but time."""
    pixels = preset.size[0] * preset.size[1] * preset.chain.views
    return max(1, min(_AT_ONCE, _PIXELS_AT_ONCE // pixels))


def shared_icons(
    means: NDArray[Any], cells: Placed, *, space: IconSpace, settings: IconSettings = IconSettings()
) -> NDArray[np.int32]:
    """Which cell's icon each cell shows.

    Cells are visited by falling number of samples, the first in order among equals. One that has no icon yet keeps its
    own, and lends it to those of its eight neighbours that have none and whose mean is along its own. So a cell is
    never farther from the direction of its icon than the settings say, however long a row of alike cells is.

    Args:
        means: (M, C), the mean activations.
        cells: Where they are.
        space: In which cosines are taken.
        settings: `share_above`.

    Returns:
        (M,) int32: the index of a cell that shows its own; itself where it does.
    """
    owner = np.full(len(means), -1, np.int32)
    places = {place: index for index, place in enumerate(zip(cells.row.tolist(), cells.column.tolist(), strict=True))}
    coordinates = space.coordinates(means)
    lengths = np.linalg.norm(coordinates, axis=1, keepdims=True)
    directions = np.divide(coordinates, lengths, out=np.zeros_like(coordinates), where=lengths > 0)
    for index in np.argsort(-cells.count, kind="stable").tolist():
        if owner[index] >= 0:
            continue
        owner[index] = index
        if settings.share_above >= 1:
            continue
        row, column = int(cells.row[index]), int(cells.column[index])
        around = (places.get((row + down, column + right), -1) for down in (-1, 0, 1) for right in (-1, 0, 1))
        free = [other for other in around if other >= 0 and owner[other] < 0]
        alike = directions[free] @ directions[index] > settings.share_above
        owner[np.array(free, np.int64)[alike]] = index
    return owner


@dataclass(frozen=True, eq=False)
class Icons:
    """The icons of a batch of m cells."""

    picture: NDArray[np.uint8]
    """(m, height, width, 3) uint8; black where the climb ended with a number that is none."""

    parameters: Parameters
    """What the pictures are made of, (m, ...) float32 each; an icon of 80 x 80 pixels has 19,680 numbers."""

    score: NDArray[np.float32]
    """(m,) float32: the cosine of `IconSpace` between the activation that the picture causes and the cell's mean."""

    represents: NDArray[np.bool_]
    """(m,) bool: whether that is at least `represents_above` of what real samples of the cell reach."""

    end: tuple[End, ...]
    """Why each climb ended."""

    steps: NDArray[np.int32]
    """(m,) int32: steps made in the attempt that was kept."""

    @classmethod
    def joined(cls, parts: Sequence["Icons"]) -> "Icons":
        """The icons of several batches, one or more, as those of one.

        Args:
            parts: In order; all with the same parameters, or the result has none.
        """
        names = set.intersection(*(set(part.parameters) for part in parts))
        return cls(
            np.concatenate([part.picture for part in parts]),
            {name: np.concatenate([part.parameters[name] for part in parts]) for name in sorted(names)},
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.represents for part in parts]),
            tuple(end for part in parts for end in part.end),
            np.concatenate([part.steps for part in parts]),
        )

    def starts(self, rows: NDArray[Any]) -> Parameters:
        """What the icons of children start from.

        Args:
            rows: (n,) integers: which of these icons is the parent of each; -1 for none.

        Returns:
            For `IconBatch.run`. Not a number, which stands for noise, where there is no parent, or it has an icon that
            does not represent it: from one that was stuck, children hardly get away.
        """
        good = (rows >= 0) & self.represents[rows]
        mask = {name: good.reshape(-1, *(1 for _ in tensor.shape[1:])) for name, tensor in self.parameters.items()}
        return {
            name: np.where(mask[name], tensor[rows], np.float32(np.nan)) for name, tensor in self.parameters.items()
        }

    def to_arrays(self, *, parameters: bool = True) -> dict[str, NDArray[Any]]:
        """As arrays: `picture`, `score`, `represents`, `end` (m,) uint8 (`END_NUMBERS`), `steps`, and `parameter.NAME`.

        Args:
            parameters: Whether the parameters are among them: as float16, 39,360 bytes for an icon of 80 x 80 pixels.
                As a start that is all they need.
        """
        kept = {f"parameter.{name}": tensor.astype(np.float16) for name, tensor in self.parameters.items()}
        return {
            "picture": self.picture,
            "score": self.score,
            "represents": self.represents,
            "end": np.array([END_NUMBERS[end] for end in self.end], np.uint8),
            "steps": self.steps,
            **(kept if parameters else {}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Icons":
        """What `to_arrays` was made of; parameters as float32, those of a half."""
        ends = {number: end for end, number in END_NUMBERS.items()}
        prefix = "parameter."
        return cls(
            arrays["picture"],
            {
                name.removeprefix(prefix): np.asarray(tensor, np.float32)
                for name, tensor in arrays.items()
                if name.startswith(prefix)
            },
            arrays["score"],
            arrays["represents"],
            tuple(ends[int(number)] for number in arrays["end"]),
            arrays["steps"],
        )


@dataclass(frozen=True, eq=False)
class IconBatch:
    """Icons that can be made, side by side."""

    prepared: Prepared
    """The climb, an objective and a seed for each icon."""

    judge: Prepared
    """The same with the cosine for the objective."""

    typical: NDArray[np.float64]
    """(m,) float64: what real samples of each cell reach."""

    settings: IconSettings
    """How they are made."""

    @classmethod
    def prepare(
        cls,
        version: ModelVersion,
        tap: str,
        means: NDArray[Any],
        cells: Sequence[int],
        preset: Preset | None = None,
        seed: int = 0,
        settings: IconSettings = IconSettings(),
        *,
        space: IconSpace,
        session: SessionConfig = _SESSION,
        models: ModelRepository | None = None,
        open: SessionOpener | None = None,  # noqa: A002 - it opens
    ) -> "IconBatch":
        """Brings a model and the means of some cells together; nothing is run yet.

        Args:
            version: The model.
            tap: Any name of the tap.
            means: (m, C) the mean activation of each cell, as it is; at most `MOST_ITEMS`.
            cells: A number for each cell, from 0: with the seed, where its randomness comes from.
            preset: How, from `icon_preset`; that of the settings if None. Its size, power, steps and attempts are in
                force, not those of the settings.
            seed: Where randomness comes from.
            settings: How.
            space: Of the atlas's samples.
            session: How graphs are run.
            models: Where a generator is looked up, if the preset has one.
            open: Where sessions come from; by default this process.

        Raises:
            OrtoscopeError: `ITEMS_OUT_OF_RANGE`, `INVALID_SEED`; as `spec.prepare_each` raises, such as `UNKNOWN_TAP`,
                `ZERO_DIRECTION`, `NOT_FINITE`, `PRESET_NEEDS_PICTURES`.
        """
        check_seed(seed)
        if not 1 <= len(means) == len(cells) <= MOST_ITEMS:
            raise invalid(
                "ITEMS_OUT_OF_RANGE",
                f"{len(means)} means of {len(cells)} cells cannot be made into icons at once; give as many of both, 1 "
                f"to {MOST_ITEMS}.",
                field="cells",
                items=len(means),
                largest=MOST_ITEMS,
            )
        how = preset if preset is not None else icon_preset(settings)
        directions = [Numbers(mean) for mean in means]
        factor = None if space.factor is None else Numbers(space.factor)
        site = _middle(version, tap)
        wanted = [
            completed(_objective(tap, direction, site, factor, how.cosine_power, settings.objective), how)
            for direction in directions
        ]
        seeds = [Seed(seed, int(cell)) for cell in cells]
        # What the preset adds is in the objectives already.
        climb = dataclasses.replace(how, cosine_power=0.0, total_variation=0.0)
        prepared = prepare_each(version, wanted, seeds, climb, models=models, session=session, open=open)
        cosines = tuple(DirectionCosine(tap, direction, site, factor=factor) for direction in directions)
        judging = dataclasses.replace(prepared.program, objectives=cosines)
        judge = dataclasses.replace(prepared, octaves=(judging,))
        return cls(prepared, judge, space.typical(means), settings)

    def run(
        self,
        start: Mapping[str, NDArray[Any]] | None = None,
        steps: int = 0,
        progress: Callable[[Progress], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Icons:
        """Makes the icons. An icon depends on its mean, start and seed alone, not on its batch.

        Args:
            start: Parameters to start from, a row for each icon, such as `Icons.starts` of the level before; a row that
                is not finite stands for the noise that the icon would start from by itself. None: all from noise.
            steps: How many; 0 for those of the preset, and with a start `IconSettings.warm_steps`.
            progress: Called after every step.
            cancellation: Stops within a step.

        Raises:
            OrtoscopeError: `INVALID_START`; as `visualize` raises. That a climb met a number that is none is in its
                `end`.
        """
        recipe = self.prepared.spec.preset.recipe
        if start is None:
            recipe = dataclasses.replace(recipe, steps=steps or recipe.steps)
        else:
            recipe = dataclasses.replace(recipe, steps=steps or self.settings.warm_steps, attempts=1)
        try:
            made = visualize(
                self.prepared.program,
                recipe,
                self.prepared.seeds,
                start=None if start is None else self._checked(start),
                progress=progress,
                cancellation=cancellation,
            )
        except OrtoscopeError as error:
            if error.reason != "OBJECTIVE_NOT_FINITE":
                raise
            return self._failed()
        ends = tuple(outcome.end for outcome in made.outcomes)
        pictures = self._pictures(made.pictures, np.array([end is End.NOT_FINITE for end in ends]))
        score = self._score(pictures, cancellation)
        enough = score >= self.settings.represents_above * self.typical
        return Icons(
            pictures,
            made.parameters,
            score,
            enough & np.array([end is not End.NOT_FINITE for end in ends]),
            ends,
            np.array([outcome.steps for outcome in made.outcomes], np.int32),
        )

    def _checked(self, start: Mapping[str, NDArray[Any]]) -> Parameters:
        shapes = self.prepared.program.parameterization.parameter_shapes
        expected = {name: (len(self.typical), *shape) for name, shape in shapes.items()}
        given = {name: tensor.shape for name, tensor in start.items()}
        if given != expected:
            raise invalid(
                "INVALID_START",
                f"The parameters to start from have the shapes {given}; these icons take {expected}. Start from icons "
                "of the same size and parameterization.",
                field="start",
                given=given,
                expected=expected,
            )
        generators = [seed.generators(0)[0] for seed in self.prepared.seeds]
        noise = self.prepared.program.parameterization.initial(generators, len(generators))
        filled = {}
        for name, tensor in start.items():
            values = np.asarray(tensor, np.float32)
            known = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            filled[name] = np.where(known.reshape(-1, *(1 for _ in values.shape[1:])), values, noise[name])
        return filled

    def _pictures(self, made: NDArray[np.float32], broken: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(m, planes, height, width) → (m, height, width, 3), on gray where a picture is not opaque."""
        channels = self.prepared.program.item_shape[0]
        colours = made[:, :channels]
        if made.shape[1] > channels:
            colours = 0.5 + (colours - 0.5) * made[:, channels:]
        colours = np.where(broken[:, None, None, None], np.float32(0), colours)
        pictures = np.stack([to_bytes(picture) for picture in colours])
        return np.repeat(pictures, 3, axis=3) if channels == 1 else pictures

    def _score(self, pictures: NDArray[np.uint8], cancellation: Cancellation | None) -> NDArray[np.float32]:
        channels = self.prepared.program.item_shape[0]
        shown = np.moveaxis(pictures[..., :channels], 3, 1).astype(np.float32) / 255
        return np.nan_to_num(self.judge.evaluate(shown, cancellation), nan=0.0, posinf=0.0, neginf=0.0)

    def _failed(self) -> Icons:
        """Icons none of which could be made."""
        shapes = self.prepared.program.parameterization.parameter_shapes
        count, (_, height, width) = len(self.typical), self.prepared.program.item_shape
        return Icons(
            np.zeros((count, height, width, 3), np.uint8),
            {name: np.zeros((count, *shape), np.float32) for name, shape in shapes.items()},
            np.zeros(count, np.float32),
            np.zeros(count, np.bool_),
            (End.NOT_FINITE,) * count,
            np.zeros(count, np.int32),
        )


def _middle(version: ModelVersion, name: str) -> tuple[int, ...] | None:
    """The site that an icon is climbed at; None for the one that objectives take by themselves, the middle of a map.

    The middle one of a row of tokens lies at the edge of the picture where these go row by row over it.

    Raises:
        OrtoscopeError: As `resolve_tap` raises.
    """
    tap = resolve_tap(version.manifest.taps, name)
    if tap.layout is not Layout.TOKENS or len(tap.site_axes) != 1:
        return None
    tokens, first = tap.shape[tap.site_axes[0]], leading_tokens(version, tap)
    grid = token_grid(tokens - first) if tokens > first else None
    if grid is None:
        return None
    return (first + grid[0] // 2 * grid[1] + grid[1] // 2,)


def _objective(
    tap: str,
    direction: Numbers,
    site: tuple[int, ...] | None,
    factor: Numbers | None,
    power: float,
    objective: IconObjective,
) -> Objective:
    """What an icon climbs."""
    if objective == "direction":
        return WhitenedDirectionNeuron(tap, _unit(direction), site, power, factor)
    whitened = direction.array.astype(np.float64)
    if factor is not None:
        root = factor.array.astype(np.float64)
        whitened = whitened @ root @ root
    return LucidDirectionNeuron(tap, Numbers(whitened), site, power)


def _unit(direction: Numbers) -> Numbers:
    """The direction of length 1, so that how steep the climb is does not depend on how long a mean is."""
    length = math.sqrt(float(np.square(direction.array, dtype=np.float64).sum()))
    return Numbers(direction.array / length) if length and math.isfinite(length) else direction
