"""The loop of a visualization: steps uphill, with draws that each item makes for itself, until one of several ends."""

import enum
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.visualization.diagnosis import find_culprit, not_finite
from ortoscope_service.analysis.visualization.optimizers import Adam, Lbfgs, Optimizer, State
from ortoscope_service.analysis.visualization.parameterizations.base import Parameters
from ortoscope_service.analysis.visualization.program import REDIRECTED, Program
from ortoscope_service.errors import OrtoscopeError, invalid
from ortoscope_service.runtime.cancellation import Cancellation

Array = NDArray[Any]
Flags = NDArray[np.bool_]

MOST_STEPS = 20_000
MOST_ATTEMPTS = 16

_PATIENCE = 16
"""Steps without any gradient, redirected or not, after which an item is dead: other draws might have shown it more."""


class End(enum.Enum):
    """Why the optimization of an item ended."""

    STEPS = "steps"
    """All steps were made."""

    CONVERGED = "converged"
    """The optimizer found a maximum."""

    PLATEAU = "plateau"
    """The objective did not rise any more."""

    BUDGET = "budget"
    """The time was over."""

    DEAD = "dead"
    """Nothing that is shown to the unit moves it: no gradient reaches the parameters, redirected or not."""

    NOT_FINITE = "not_finite"
    """The objective or its gradient became infinite or not a number."""


@dataclass(frozen=True)
class Plateau:
    """When an item is done early: its mean objective over `window` steps is hardly above that of the window before."""

    window: int = 64
    """Steps."""

    tolerance: float = 0.01
    """What counts as a rise, relative to the size of the mean before."""

    def reached(self, history: NDArray[np.float32]) -> Flags:
        """Whether each item is done, (items,), from its objectives (steps, items)."""
        if len(history) < 2 * self.window:
            return np.zeros(history.shape[1], np.bool_)
        now = history[-self.window :].mean(axis=0, dtype=np.float64)
        before = history[-2 * self.window : -self.window].mean(axis=0, dtype=np.float64)
        flags: Flags = now - before <= self.tolerance * np.abs(before)
        return flags


@dataclass(frozen=True)
class Recipe:
    """How an objective is climbed.

    Raises:
        OrtoscopeError: `INVALID_RECIPE`: a number is of no use.
    """

    steps: int = 512
    """Steps of each attempt."""

    optimizer: Optimizer = field(default_factory=Adam)
    """What makes steps of gradients."""

    attempts: int = 1
    """How many starts are tried for each item; the one with the highest objective on its clean picture is kept."""

    redirect_steps: int = 128
    """In how many of the first steps an item without any gradient gets a redirected one. Lucid stops after 16, which
    is too few for a unit that only pictures far from gray excite; items that have a gradient are never redirected."""

    plateau: Plateau | None = None
    """When an item is done early; None: never."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("steps", self.steps, 0, MOST_STEPS),
            ("attempts", self.attempts, 1, MOST_ATTEMPTS),
            ("redirect_steps", self.redirect_steps, 0, MOST_STEPS),
        ):
            if not low <= value <= high:
                raise invalid(
                    "INVALID_RECIPE", f"{name} is {value}; give {low} to {high}.", field=f"recipe.{name}", value=value
                )
        if self.plateau is not None and (self.plateau.window < 1 or not np.isfinite(self.plateau.tolerance)):
            raise invalid(
                "INVALID_RECIPE",
                f"A plateau of {self.plateau.window} steps, tolerance {self.plateau.tolerance}, cannot be told; give a "
                "positive number of steps and a finite tolerance.",
                field="recipe.plateau",
                window=self.plateau.window,
            )


@dataclass(frozen=True)
class Seed:
    """Where the randomness of one item comes from. Neighbours in the batch do not matter."""

    seed: int
    """A number of the caller's choice, from 0."""

    item: int = 0
    """Which of the items under that seed."""

    def generators(self, attempt: int) -> tuple[np.random.Generator, np.random.Generator]:
        """The generator of the start, and that of the transforms."""
        start, transforms = np.random.SeedSequence(self.seed, spawn_key=(self.item, attempt)).spawn(2)
        return np.random.default_rng(start), np.random.default_rng(transforms)


@dataclass(frozen=True)
class Progress:
    """What there is to tell after a step."""

    attempt: int
    """From 0."""

    step: int
    """Steps made in this attempt, from 1."""

    steps: int
    """Steps of an attempt."""

    objective: NDArray[np.float32]
    """(items,): with the transforms of this step, before it was made."""

    clean: NDArray[np.float32] | None
    """(items,): without transforms, after the step; only every so many steps."""

    picture: NDArray[np.float32] | None
    """(items, ...): what the parameters stand for, likewise."""


@dataclass(frozen=True)
class Outcome:
    """How the optimization of an item went, in the attempt that was kept."""

    end: End
    """Why it ended."""

    steps: int
    """Steps made."""

    attempt: int
    """Which attempt was kept."""

    redirected: int
    """In how many steps its gradient had to be redirected."""

    objective: float
    """On the clean picture; minus infinity if that is not a number."""

    attempts: tuple[float, ...]
    """The same for each attempt that was made."""

    error: OrtoscopeError | None = None
    """For NOT_FINITE: what was not, and where."""


@dataclass(frozen=True)
class Visualization:
    """The result of a loop."""

    pictures: NDArray[np.float32]
    """(items, ...): what the parameters stand for; pictures are (channels, height, width) in [0, 1]."""

    outcomes: tuple[Outcome, ...]
    """For each item."""

    history: NDArray[np.float32]
    """(steps, items): the objective at each step, with its transforms, in the attempt that was kept; not a number where
    an item had ended."""

    parameters: Parameters
    """Where the pictures come from."""


def visualize(
    program: Program,
    recipe: Recipe,
    seeds: Sequence[Seed],
    *,
    start: Parameters | None = None,
    budget_seconds: float | None = None,
    progress: Callable[[Progress], None] | None = None,
    picture_every: int = 0,
    cancellation: Cancellation | None = None,
) -> Visualization:
    """Optimises a batch of items.

    An item's result does not depend on its neighbours, unless the objective or the parameterization says that it
    couples the batch; then the best attempt is chosen for the batch as a whole.

    Args:
        program: What is optimised.
        recipe: How.
        seeds: One for each item.
        start: Parameters to start from instead of random ones, of which a copy is made.
        budget_seconds: When to stop and give what there is.
        progress: Called after every step.
        picture_every: After how many steps `progress` also gets the clean objective and the picture; 0: never.
        cancellation: Stops the loop, within a step.

    Raises:
        OrtoscopeError: As `Program.check` raises; `CANCELLED` or `DEADLINE_EXCEEDED`. That an item's objective is not
            finite is in its outcome; it is raised if no item has another.
    """
    program.check(len(seeds))
    loop = _Loop(program, recipe, seeds, start, progress, picture_every, cancellation or Cancellation())
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    kept: _Attempt | None = None
    scores: list[NDArray[np.float32]] = []
    for number in range(recipe.attempts):
        attempt = loop.attempt(number, deadline)
        scores.append(attempt.score.copy())
        kept = attempt if kept is None else kept.best(attempt, together=program.couples_batch)
        if deadline is not None and time.monotonic() >= deadline:
            break
    assert kept is not None
    outcomes = tuple(
        Outcome(
            kept.ends[item],
            int(kept.steps[item]),
            int(kept.numbers[item]),
            int(kept.redirected[item]),
            float(kept.score[item]),
            tuple(float(score[item]) for score in scores),
            kept.errors[item],
        )
        for item in range(len(seeds))
    )
    errors = [outcome.error for outcome in outcomes]
    if errors and errors[0] is not None and all(errors):
        raise errors[0]
    return Visualization(kept.pictures, outcomes, kept.history[: int(kept.steps.max(initial=0))], kept.parameters)


@dataclass
class _Attempt:
    """What an attempt came to; each field has an entry per item (`history` along its second axis)."""

    pictures: NDArray[np.float32]
    score: NDArray[np.float32]
    history: NDArray[np.float32]
    parameters: Parameters
    steps: NDArray[np.int64]
    numbers: NDArray[np.int64]
    redirected: NDArray[np.int64]
    ends: list[End]
    errors: list[OrtoscopeError | None]

    def best(self, other: "_Attempt", *, together: bool) -> "_Attempt":
        """The better of the two, item by item or for the batch as a whole."""
        if together:
            return other if other.score.sum() > self.score.sum() else self
        for item in np.flatnonzero(other.score > self.score):
            self.pictures[item], self.score[item] = other.pictures[item], other.score[item]
            self.history[:, item] = other.history[:, item]
            for name, tensor in self.parameters.items():
                tensor[item] = other.parameters[name][item]
            self.steps[item], self.numbers[item] = other.steps[item], other.numbers[item]
            self.redirected[item] = other.redirected[item]
            self.ends[item], self.errors[item] = other.ends[item], other.errors[item]
        return self


@dataclass
class _Loop:
    program: Program
    recipe: Recipe
    seeds: Sequence[Seed]
    start: Parameters | None
    progress: Callable[[Progress], None] | None
    picture_every: int
    cancellation: Cancellation

    def attempt(self, number: int, deadline: float | None) -> _Attempt:
        """One optimization from one start."""
        program, batch = self.program, len(self.seeds)
        generators = [seed.generators(number) for seed in self.seeds]
        if self.start is not None:
            parameters = {name: np.array(tensor, np.float32) for name, tensor in self.start.items()}
        else:
            parameters = program.parameterization.initial([first for first, _ in generators], batch)
        with self.recipe.optimizer.start(parameters, program.parameterization.bounds) as state:
            run = _Run(self, number, state, [second for _, second in generators], deadline)
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="draws") as drawer:
                run.climb(drawer)
            self.cancellation.raise_if_cancelled()
            score, pictures = run.look()
        return _Attempt(
            pictures,
            np.where(np.isfinite(score), score, -np.inf).astype(np.float32),
            run.history,
            run.state.parameters,
            run.steps,
            np.full(batch, number),
            run.redirected,
            [end or End.STEPS for end in run.ends],
            run.errors,
        )


class _Run:
    """The steps of one attempt."""

    def __init__(
        self,
        loop: _Loop,
        number: int,
        state: State,
        rngs: Sequence[np.random.Generator],
        deadline: float | None,
    ) -> None:
        batch = len(loop.seeds)
        self.state = state
        self.history = np.full((loop.recipe.steps, batch), np.nan, np.float32)
        self.steps = np.zeros(batch, np.int64)
        self.redirected = np.zeros(batch, np.int64)
        self.ends: list[End | None] = [None] * batch
        self.errors: list[OrtoscopeError | None] = [None] * batch
        self._loop = loop
        self._program = loop.program
        self._recipe = loop.recipe
        self._number = number
        self._rngs = rngs
        self._deadline = deadline
        self._batch = batch
        # Items whose parameters are apart can be looked at, and stopped, one by one; others only together.
        rows = {len(tensor) for tensor in state.parameters.values()}
        self._apart = rows == {batch} and not self._program.couples_batch
        self._still = np.zeros(batch, np.int64)
        self._feeds = self._program.feeds(batch, self._program.transforms)
        self._clean_feeds = self._program.feeds(batch, self._program.clean_transforms)
        self._held: Mapping[str, Array] | None = None

    def climb(self, drawer: Executor) -> None:
        """Makes the steps; what each needs is drawn while the one before it is computed."""
        steps = self._recipe.steps
        coming = drawer.submit(self._draw, 1)
        for step in range(1, steps + 1):
            self._loop.cancellation.raise_if_cancelled()
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._end(np.ones(self._batch, np.bool_), End.BUDGET)
            if self._idle().all():
                return
            drawn = coming.result()
            if step < steps:
                coming = drawer.submit(self._draw, step + 1)
            self._step(step, {**self._feeds, **drawn})

    def look(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The clean objective and the pictures."""
        return self._program.run_clean(self._batch, self._clean_feeds, self.state.parameters, self._loop.cancellation)

    def _step(self, step: int, drawn: Mapping[str, Array]) -> None:
        last = step == self._recipe.steps
        parameters = self.state.parameters
        values, gradients = self._program.run_step(
            self._batch, drawn, parameters, cancellation=self._loop.cancellation, keep_memory=not last
        )
        idle = self._idle()
        largest = self._largest(gradients)
        if step <= self._recipe.redirect_steps and not ((largest != 0) | idle).all():
            self._redirect(drawn, gradients, (largest == 0) & ~idle)
            largest = self._largest(gradients)
        broken = ~np.isfinite(values) | ~np.isfinite(largest)
        for item in np.flatnonzero(broken & ~idle):
            self.errors[item] = not_finite(step, int(item), self._culprit(int(item), drawn))
        self._end(broken, End.NOT_FINITE)
        self._still = np.where(largest != 0, 0, self._still + 1)
        self._end(self._still >= _PATIENCE, End.DEAD)
        going = ~self._idle()
        self.history[step - 1, going] = values[going]
        self.steps[going] = step
        self._move(step, values, gradients, going)
        if self._recipe.plateau is not None:
            self._end(self._recipe.plateau.reached(self.history[:step]) & going, End.PLATEAU)
        self._tell(step, values)

    def _draw(self, step: int) -> Mapping[str, Array]:
        """What is drawn for a step; a line search must not see the draws change."""
        share = (step - 1) / max(1, self._recipe.steps - 1)
        if not isinstance(self._recipe.optimizer, Lbfgs):
            return self._program.draw(self._rngs, share)
        if self._held is None:
            self._held = self._program.draw(self._rngs, share)
        return self._held

    def _redirect(self, drawn: Mapping[str, Array], gradients: Parameters, dead: Flags) -> None:
        """Gives items without any gradient that of redirected rectifiers; others keep theirs."""
        _, others = self._program.run_step(
            self._batch, drawn, self.state.parameters, REDIRECTED, self._loop.cancellation
        )
        for name, gradient in gradients.items():
            if self._apart:
                gradient[dead] = others[name][dead]
            else:
                gradient[...] = others[name]
        self.redirected[dead] += 1

    def _move(self, step: int, values: Array, gradients: Parameters, going: Flags) -> None:
        """Makes a step with the items that still go, and leaves the others where they are."""
        parameters = self.state.parameters
        resting = {}
        if not going.all():
            if not self._apart:
                return
            resting = {name: tensor[~going].copy() for name, tensor in parameters.items()}
            for gradient in gradients.values():
                gradient[~going] = 0
        self.state.step(values, gradients)
        self._program.parameterization.project(self.state.parameters, step)
        for name, tensor in resting.items():
            self.state.parameters[name][~going] = tensor
        self._end(np.broadcast_to(self.state.finished, going.shape) & going, End.CONVERGED)

    def _tell(self, step: int, values: NDArray[np.float32]) -> None:
        if self._loop.progress is None:
            return
        clean, picture = None, None
        if self._loop.picture_every and step % self._loop.picture_every == 0:
            clean, picture = self.look()
        self._loop.progress(Progress(self._number, step, self._recipe.steps, values, clean, picture))

    def _culprit(self, item: int, drawn: Mapping[str, Array]) -> Any:
        """The node at fault, from the failing item alone where that can be."""
        parameters = self.state.parameters
        if not self._apart:
            return find_culprit(self._program, self._batch, drawn, parameters)
        alone = {name: self._of(item, name, array) for name, array in drawn.items()}
        own = {name: tensor[item : item + 1] for name, tensor in parameters.items()}
        return find_culprit(self._program, 1, alone, own)

    def _of(self, item: int, name: str, array: Array) -> Array:
        """An item's part of a feed."""
        views = self._program.chain.views
        if len(array) == self._batch and not (name.startswith("parameter")):
            return array[item : item + 1]
        return array[item * views : (item + 1) * views] if len(array) == self._batch * views else array

    def _largest(self, gradients: Parameters) -> NDArray[np.float32]:
        """The largest magnitude in each item's gradient, NaN if it has one; of all items where they are not apart."""
        rows = self._batch if self._apart else 1
        largest = np.zeros(rows, np.float32)
        for gradient in gradients.values():
            row = gradient.reshape(rows, -1)
            largest = np.maximum(largest, np.maximum(row.max(axis=1), -row.min(axis=1)))
        return np.broadcast_to(largest, (self._batch,))

    def _idle(self) -> Flags:
        return np.array([end is not None for end in self.ends], np.bool_)

    def _end(self, flags: Flags, end: End) -> None:
        """Ends items, or all of them where they are not apart."""
        if not self._apart:
            flags = np.full(self._batch, bool(flags.all() if end in {End.PLATEAU, End.CONVERGED} else flags.any()))
        for item in np.flatnonzero(flags):
            self.ends[item] = self.ends[item] or end
