"""Atlases of a few classes: the samples that speak for them, and an axis that leads from one class to another.

Carter et al. 2019, "Activation Atlas", sections on class activation atlases.
"""

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.class_labels import largest_classes
from ortoscope_service.analysis.atlas.layout import LayoutSettings, lay_out
from ortoscope_service.analysis.atlas.parallel import Progress, silent
from ortoscope_service.runtime.cancellation import Cancellation

DEFAULT_TOP = 2000
"""Most samples of a class, where none is given (the article's)."""

CLIPPED_ABOVE = 99
"""The percentile of absolute differences of attribution that the ends of the axis stand for."""


class Selection(enum.Enum):
    """Which samples speak for a class."""

    WINNER = "winner"
    """Those whose largest attribution is to it."""

    TOP = "top"
    """Those with the largest positive attributions to it."""

    BOTH = "both"
    """Both, each sample once."""


def select_samples(
    attribution: NDArray[Any], classes: Sequence[int], mode: Selection, top: int = DEFAULT_TOP
) -> NDArray[np.int64]:
    """The samples that speak for any of some classes.

    Args:
        attribution: (N, K), any floating-point type.
        classes: Indices of classes.
        mode: How samples are chosen.
        top: Of `TOP`: most samples of each class; the lower index first at a tie.

    Returns:
        (n,) int64, ascending, each once; none if none speaks for them.
    """
    chosen = np.zeros(len(attribution), bool)
    if mode in (Selection.WINNER, Selection.BOTH):
        chosen |= np.isin(largest_classes(attribution, 1)[:, 0], classes)
    if mode in (Selection.TOP, Selection.BOTH):
        for index in classes:
            column = np.asarray(attribution[:, index], np.float32)
            order = np.argsort(-column, kind="stable")[:top]
            chosen[order[column[order] > 0]] = True
    return np.flatnonzero(chosen).astype(np.int64)


def class_axis(attribution: NDArray[Any], left: int, right: int) -> NDArray[np.float32]:
    """Where samples lie between two classes: 0 speaks for the left one, 1 for the right one, 0.5 for neither.

    The difference of the attributions, right - left, is divided by the 99th percentile of its absolute values and
    clipped to [-1, 1]; no difference lies at 0.5, the border of the middle columns of a grid of an even size.

    Args:
        attribution: (N, K), any floating-point type; N at least 1.
        left: Index of a class.
        right: Index of another.

    Returns:
        (N,) float32 in [0, 1].
    """
    difference = np.asarray(attribution[:, right], np.float64) - np.asarray(attribution[:, left], np.float64)
    scale = np.percentile(np.abs(difference), CLIPPED_ABOVE) or np.abs(difference).max()
    if not scale:
        return np.full(len(difference), 0.5, np.float32)
    return np.asarray((np.clip(difference / scale, -1, 1) + 1) / 2, np.float32)


def gradient_positions(
    activations: NDArray[Any],
    attribution: NDArray[Any],
    left: int,
    right: int,
    settings: LayoutSettings,
    seed: int,
    *,
    threads: int = 1,
    progress: Progress = silent,
    cancellation: Cancellation | None = None,
) -> NDArray[np.float32]:
    """Where samples are between two classes: x from the one to the other, y by a layout in one dimension.

    Args:
        activations: (N, C) float16 or float32; zero and equal vectors are best left out.
        attribution: (N, K), any floating-point type.
        left: Index of the class at x = 0.
        right: Index of the class at x = 1; see `class_axis`.
        settings: How y is laid out.
        seed: Decides all draws.
        threads: Threads to work in; how many does not change the result.
        progress: Told the stage and how far it is.
        cancellation: Stops the work.

    Returns:
        (N, 2) float32 in [0, 1].

    Raises:
        OrtoscopeError: As `lay_out` raises.
    """
    layout = lay_out(
        activations, settings, seed, flat=True, threads=threads, progress=progress, cancellation=cancellation
    )
    return np.stack([class_axis(attribution, left, right), layout.position[:, 0]], axis=1)
