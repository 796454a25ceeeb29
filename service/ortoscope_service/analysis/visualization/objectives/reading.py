"""What the leaves of an objective have in common: each reads one tap, or the picture."""

import abc
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ortoscope_service.analysis.visualization.objectives.algebra import Objective
from ortoscope_service.analysis.visualization.objectives.arrays import Numbers
from ortoscope_service.analysis.visualization.objectives.setting import Picture, Setting, Source
from ortoscope_service.errors import invalid
from ortoscope_service.graph.taps import Tap


def source_key(source: Source) -> str:
    """How the field is called that names what is read: "tap" or "picture"."""
    return "picture" if isinstance(source, Picture) else "tap"


def resolved(source: Source, setting: Setting, field: str) -> tuple[Source, ...]:
    """What is read, a tap by its tensor name; nothing else is checked."""
    return (source,) if isinstance(source, Picture) else (setting.tap(source, field).tensor,)


@dataclass(frozen=True)
class Reading(Objective):
    """An objective that reads one tap, or a part of the picture."""

    of: Source
    """What it reads."""

    @property
    def structure(self) -> Hashable:
        """Its kind and what it reads: all else is fed."""
        return (self.kind, self.of)

    def check(self, setting: Setting, field: str) -> None:
        """Refuses a tap that there is not, and whatever does not fit it."""
        at = f"{field}.{self.kind}"
        tap = setting.tap(self.of, f"{at}.{source_key(self.of)}")
        self.fit(tap, setting.item_shape(tap, f"{at}.{source_key(self.of)}"), setting, at)

    @abc.abstractmethod
    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:
        """Refuses what does not fit a tap of which one item has this shape; `at` is the path of its own fields."""

    def sources(self, setting: Setting, field: str) -> tuple[Source, ...]:
        """What it reads."""
        return resolved(self.of, setting, f"{field}.{self.kind}.{source_key(self.of)}")

    def shape(self, setting: Setting, name: str) -> tuple[Tap, tuple[int, ...]]:
        """The tap that it reads, and the shape of one item of that."""
        tap = setting.tap(self.of, name)
        return tap, setting.item_shape(tap, name)


def require_batch(setting: Setting, kind: str, field: str) -> None:
    """Refuses a batch of one where items are compared.

    Raises:
        OrtoscopeError: `BATCH_TOO_SMALL`.
    """
    if setting.batch < 2:
        raise invalid(
            "BATCH_TOO_SMALL",
            f"'{kind}' compares the items of a batch, but there is {setting.batch} alone; ask for 2 or more, or "
            "leave it out.",
            field=field,
            kind=kind,
            batch=setting.batch,
        )


def check_numbers(numbers: Numbers, shape: Sequence[int], tap: Tap, field: str) -> None:
    """Refuses an array of another shape, or with numbers that are not finite.

    Raises:
        OrtoscopeError: `INVALID_SHAPE`, `NOT_FINITE`.
    """
    if numbers.shape != tuple(shape):
        raise invalid(
            "INVALID_SHAPE",
            f"An array of the shape {list(numbers.shape)} was given for '{tap.display_name}', but {list(shape)} is "
            "needed, in its own layout without the batch.",
            field=field,
            shape=list(numbers.shape),
            expected=list(shape),
        )
    require_finite(numbers, field)


def require_finite(numbers: Numbers, field: str) -> None:
    """Refuses an array with numbers that are not finite.

    Raises:
        OrtoscopeError: `NOT_FINITE`.
    """
    bad = int((~np.isfinite(numbers.array)).sum())
    if bad:
        raise invalid(
            "NOT_FINITE",
            f"{bad} of the {numbers.array.size} numbers are not finite in single precision; replace them.",
            field=field,
            count=bad,
        )


def require_nonzero(numbers: Numbers, field: str) -> None:
    """Refuses an array of zeros, which has no direction.

    Raises:
        OrtoscopeError: `ZERO_DIRECTION`.
    """
    if not numbers.array.any():
        raise invalid(
            "ZERO_DIRECTION",
            "All numbers of the direction are 0, so there is nothing to go along; give one that is not.",
            field=field,
            shape=list(numbers.shape),
        )
