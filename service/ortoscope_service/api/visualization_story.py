"""What a call of Visualize tells on its way: the climb itself, then what the verdict on it takes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ortoscope_service.analysis.visualization.loop import Progress


@dataclass(frozen=True)
class Told:
    """A step, and where it stands in all that there is to climb."""

    attempt: int
    """The attempt, from 1."""

    attempts: int
    """Attempts in all."""

    octave: int
    """The octave, from 1."""

    octaves: int
    """Octaves in all."""

    progress: Progress
    """The step."""

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        arrays = self.progress.objective, self.progress.clean, self.progress.picture
        return sum(0 if array is None else array.nbytes for array in arrays)


class Story:
    """Puts the steps of a call in a row in which attempts and octaves only ever go up.

    Climbs from other seeds follow the one that gives the picture as further attempts, or as further octaves where there
    are several of those, since all attempts of an octave come before the next one. While images are evaluated, which
    makes no steps, the last step is told again.

    Args:
        attempts: Attempts of one climb, in each octave.
        octaves: Octaves of one climb.
        seeds: Climbs from other seeds.
        tell: Is told everything.
    """

    def __init__(self, attempts: int, octaves: int, seeds: int, tell: Callable[[Told], None]) -> None:
        self._attempts = attempts
        self._octaves = octaves
        self._climbs = 1 + seeds
        self._tell = tell
        self._last: Told | None = None

    def step(self, octave: int, progress: Progress) -> None:
        """A step of the climb that gives the picture, in an octave from 0."""
        self.step_of(0, octave, progress)

    def step_of(self, climb: int, octave: int, progress: Progress) -> None:
        """A step of a climb: 0 gives the picture, those from 1 start from other seeds."""
        several = self._octaves > 1
        told = Told(
            attempt=progress.attempt + 1 + (0 if several else climb * self._attempts),
            attempts=self._attempts * (1 if several else self._climbs),
            octave=octave + 1 + (climb * self._octaves if several else 0),
            octaves=self._octaves * (self._climbs if several else 1),
            progress=progress,
        )
        self._last = replace(told, progress=replace(progress, clean=None, picture=None))
        self._tell(told)

    def sign_of_life(self, _stage: str, _done: int, _total: int) -> None:
        """Something was done that is no step."""
        if self._last is not None:
            self._tell(self._last)
