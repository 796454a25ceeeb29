"""Arrays of numbers that can stand in frozen dataclasses: they compare and hash by what they hold."""

from typing import Any

import numpy as np
import numpy.typing as npt


class Numbers:
    """An array of float32 that does not change.

    Attributes:
        array: The array, read-only.

    Args:
        array: Numbers of any shape; they are copied.
    """

    __slots__ = ("array",)

    array: npt.NDArray[np.float32]

    def __init__(self, array: npt.ArrayLike) -> None:
        with np.errstate(over="ignore"):
            copy = np.array(array, dtype="<f4", order="C")
        copy.setflags(write=False)
        object.__setattr__(self, "array", copy)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of Numbers cannot be set")

    def __reduce__(self) -> tuple[Any, ...]:
        return Numbers, (np.asarray(self.array),)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""
        return self.array.shape

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Numbers):
            return NotImplemented
        return self.shape == other.shape and self.array.tobytes() == other.array.tobytes()

    def __hash__(self) -> int:
        return hash((self.shape, self.array.tobytes()))

    def __repr__(self) -> str:
        return f"Numbers(shape={self.shape})"
