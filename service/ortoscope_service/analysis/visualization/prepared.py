"""A visualization that can be made, and what its objective says of given inputs."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.visualization.loop import Progress, Seed, Visualization, visualize
from ortoscope_service.analysis.visualization.octaves import resized, visualize_octaves
from ortoscope_service.analysis.visualization.parameterizations.base import Parameterization, Parameters
from ortoscope_service.analysis.visualization.parameterizations.choices import Pixel
from ortoscope_service.analysis.visualization.parameterizations.vectors import VectorParameterization
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.analysis.visualization.resampling import Size
from ortoscope_service.analysis.visualization.specification import VisualizationSpec
from ortoscope_service.analysis.visualization.transforms import Chain
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.runtime.cancellation import Cancellation

Array = NDArray[Any]

_AT_ONCE = 32
"""Pictures that are evaluated at once."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A visualization that can be made. May be used from several threads."""

    spec: VisualizationSpec
    """The specification, its start's digest and its generator's version filled in. Where every item has an objective of
    its own, that of the first."""

    octaves: tuple[Program, ...]
    """The program of each octave, the smallest first."""

    seeds: tuple[Seed, ...]
    """Where the randomness of each item comes from."""

    start: NDArray[np.float32] | None
    """What all items start from, at the size of the last octave; None for a random start."""

    @property
    def program(self) -> Program:
        """That of the last octave."""
        return self.octaves[-1]

    @property
    def clean_size(self) -> Size | None:
        """Height and width of the clean picture as the model is shown it; None for what is no picture."""
        transforms = self.program.clean_transforms
        return transforms.size if transforms is not None else None

    def run(
        self,
        *,
        seeds: Sequence[Seed] | None = None,
        budget_seconds: float | None = None,
        progress: Callable[[int, Progress], None] | None = None,
        picture_every: int = 0,
        cancellation: Cancellation | None = None,
    ) -> Visualization:
        """Makes it.

        Args:
            seeds: One for each item; by default those of the specification.
            budget_seconds: When to stop and give what there is.
            progress: Called after every step with the octave, from 0.
            picture_every: After how many steps `progress` also gets the clean objective and the picture; 0: never.
            cancellation: Stops within a step.

        Raises:
            OrtoscopeError: As `visualize` raises.
        """
        own = tuple(seeds) if seeds is not None else self.seeds
        recipe = self.spec.preset.recipe
        if len(self.octaves) > 1:
            programs = {_size_of(program): program for program in self.octaves}
            return visualize_octaves(
                programs.__getitem__,
                recipe,
                own,
                None if self.start is None else np.repeat(self.start[None], len(own), axis=0),
                size=_size_of(self.program),
                octaves=len(self.octaves),
                scale=self.spec.preset.octave_scale,
                budget_seconds=budget_seconds,
                progress=progress,
                picture_every=picture_every,
                cancellation=cancellation,
            )
        return visualize(
            self.program,
            recipe,
            own,
            start=self._start_parameters(len(own)),
            budget_seconds=budget_seconds,
            progress=None if progress is None else lambda told: progress(0, told),
            picture_every=picture_every,
            cancellation=cancellation,
        )

    def evaluate(self, pictures: Array, cancellation: Cancellation | None = None) -> NDArray[np.float32]:
        """The objective of given inputs as they are, total variation and cosines of the preset included.

        Args:
            pictures: (n, channels, height, width) in [0, 1], of any size; or (n, ...) as the model's input takes them.
            cancellation: Stops between and within runs.

        Returns:
            (n,).

        Raises:
            OrtoscopeError: `COUPLED_OBJECTIVE` (FAILED_PRECONDITION): the objective is defined over a batch, or there
                is another one for each item, and there are not as many pictures as items; `INVALID_PICTURE`.
        """
        viewer, values = self._shown(pictures)
        bound_to_items = viewer.couples_batch or len(viewer.objectives) > 1
        if bound_to_items and len(values) != len(self.seeds):
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "COUPLED_OBJECTIVE",
                f"The objective is defined over its batch of {len(self.seeds)} items, so that it has no value for "
                f"{len(values)} pictures; give as many, or choose an objective of single pictures.",
                field="objective",
                metadata={"items": str(len(self.seeds)), "pictures": str(len(values))},
            )
        step = len(values) if bound_to_items else _AT_ONCE
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(values), max(1, step)):
            part = values[start : start + step]
            feeds = viewer.feeds(len(part), viewer.clean_transforms)
            found.append(viewer.run_clean(len(part), feeds, _seen(viewer, part), cancellation)[0])
        return np.concatenate(found)

    def activations(self, pictures: Array, cancellation: Cancellation | None = None) -> dict[str, NDArray[np.float32]]:
        """What the taps that the objective reads answer to given inputs, averaged over their sites.

        Args:
            pictures: As `evaluate` takes them.
            cancellation: Stops between and within runs.

        Returns:
            (n, units) by tensor; empty if the objective reads no tap.

        Raises:
            OrtoscopeError: `INVALID_PICTURE`.
        """
        viewer, values = self._shown(pictures)
        parts: dict[str, list[NDArray[np.float32]]] = {}
        for start in range(0, len(values), _AT_ONCE):
            part = values[start : start + _AT_ONCE]
            for tensor, found in viewer.run_observing(len(part), _seen(viewer, part), cancellation).items():
                parts.setdefault(tensor, []).append(found)
        return {tensor: np.concatenate(found) for tensor, found in parts.items()}

    def _shown(self, pictures: Array) -> tuple[Program, NDArray[np.float32]]:
        """Inputs as parameters, and the program for them.

        Pictures of the size that is made go the way of the result; all others are shown as the model takes them, at
        the size of clean pictures. They are opaque where an opacity is made.
        """
        shape = self.program.item_shape
        values = np.asarray(pictures, np.float32)
        if self.clean_size is None:
            if values.shape[1:] != shape:
                raise _not_shown(values, shape)
            return self._vector_viewer, values
        if values.ndim != 4 or values.shape[1] not in {shape[0], shape[0] + 1}:
            raise _not_shown(values, shape)
        own = values.shape[2:] == shape[1:]
        values = values if own else resized(values, self.clean_size)
        if not self._has_alpha:
            values = values[:, : shape[0]]
        elif values.shape[1] == shape[0]:
            values = np.concatenate([values, np.ones_like(values[:, :1])], axis=1)
        return self._own_viewer if own else self._clean_viewer, values

    @property
    def _has_alpha(self) -> bool:
        return self.program.parameterization.shape[0] > self.program.item_shape[0]

    @cached_property
    def _vector_viewer(self) -> Program:
        return self._viewer_of(VectorParameterization(shape_of_item=self.program.item_shape))

    @cached_property
    def _own_viewer(self) -> Program:
        return self._picture_viewer((self.program.item_shape[1], self.program.item_shape[2]))

    @cached_property
    def _clean_viewer(self) -> Program:
        assert self.clean_size is not None
        return self._picture_viewer(self.clean_size)

    def _picture_viewer(self, size: Size) -> Program:
        channels = self.program.item_shape[0]
        pixels = Pixel(squash="clip", decorrelate=False, alpha=self._has_alpha)
        return self._viewer_of(pixels.picture(*size, channels))

    def _viewer_of(self, parameterization: Parameterization) -> Program:
        """The program whose parameters are the input itself, without transforms."""
        return dataclasses.replace(self.program, parameterization=parameterization, chain=Chain(), view=None)

    def _start_parameters(self, items: int) -> Parameters | None:
        if self.start is None:
            return None
        return self.program.parameterization.inverse(np.repeat(self.start[None], items, axis=0))


def _size_of(program: Program) -> Size:
    _, height, width = program.parameterization.shape
    return height, width


def _seen(viewer: Program, values: NDArray[np.float32]) -> Parameters:
    return dict.fromkeys(viewer.parameterization.parameter_shapes, values)


def _not_shown(values: NDArray[np.float32], shape: Sequence[int]) -> OrtoscopeError:
    return invalid(
        "INVALID_PICTURE",
        f"Inputs of the shape {values.shape[1:]} were given; the objective is evaluated on {tuple(shape)}, pictures of "
        "any height and width.",
        field="pictures",
        given=values.shape[1:],
        expected=tuple(shape),
    )
