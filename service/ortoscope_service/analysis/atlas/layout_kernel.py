"""The moves of UMAP's layout, so that threads neither race nor change the result.

umap-learn goes through the edges in turn and moves both ends at once, which threads can only do by racing. Here each
sample is moved by one thread, by all that acts on it in an epoch, from where the others are. As in umap-learn an edge
of strength w acts in w / max w of the epochs, its attraction on an end is that of both directions, and each time some
samples drawn at random repel. Samples move in `_TURNS` turns, so that most see where the others have already moved to;
within a turn they see the others of that turn where they were. Draws are hashes of the seed, the epoch and the sample.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.fuzzy_graph import FuzzyGraph
from ortoscope_service.analysis.atlas.parallel import Piece, Progress, Threads, pieces, silent
from ortoscope_service.analysis.atlas.space import Float32Array

_TURNS = 16
"""Turns of an epoch."""

_PIECE = 2048
"""Most samples that one thread moves at a time."""

_LANES = 16
"""Repelling samples that are computed at once, whatever the processor; so the order of the sums is the same on all."""

_MATH = {"reassoc", "contract", "nsz", "nnan", "ninf"}
"""Liberties of the compiler with floating-point numbers, of which none is infinite or not a number here."""

_RNG = 0x6C61796F7574
"""Tells this module's random draws from those of others with the same seed."""


@dataclass(frozen=True)
class Forces:
    """How samples attract and repel, by the curve 1 / (1 + a d^2b) of their distance d."""

    a: float
    """Of the curve."""

    b: float
    """Of the curve."""

    repulsion: float = 1.0
    """Factor of the repulsion, gamma."""


def settle(
    graph: FuzzyGraph,
    position: Float32Array,
    forces: Forces,
    epochs: int,
    seed: int,
    threads: Threads,
    *,
    learning_rate: float = 1.0,
    negatives: int = 5,
    progress: Progress = silent,
) -> Float32Array:
    """Moves samples until strong neighbours are close and others are not.

    Args:
        graph: The graph.
        position: (N, 2) float32, where to begin.
        forces: The forces.
        epochs: Epochs; the step falls from `learning_rate` to 0 over them.
        seed: Decides the turns and the repelling samples.
        threads: Threads to work in; how many does not change the result.
        learning_rate: The first step.
        negatives: Repelling samples for each time an edge acts.
        progress: Told the epochs done.

    Returns:
        (N, 2) float32.

    Raises:
        OrtoscopeError: `CANCELLED` or `DEADLINE_EXCEEDED`.
    """
    count = len(position)
    order = np.random.default_rng([seed, _RNG, 0]).permutation(count)
    start, neighbour, strength = _reordered(graph, order, epochs)
    # Coordinates apart, so that those of several samples are gathered at once.
    moving = np.ascontiguousarray(position[order].T)
    moved = moving.copy()
    curve = np.array([forces.a, forces.b, forces.repulsion], np.float32)
    turns = pieces(count, -(-count // _TURNS))
    key = np.random.default_rng([seed, _RNG, 1]).integers(2**32, dtype=np.uint32)

    for epoch in range(epochs):
        step = learning_rate * (1 - epoch / epochs)

        def move(piece: Piece, epoch: int = epoch, step: float = step) -> None:
            _move(*piece, start, neighbour, strength, moving, moved, curve, epoch, step, negatives, key)

        for begin, end in turns:
            # As many for each thread, all of a size: none waits for another at the end of a turn.
            rounds = -(-(end - begin) // (_PIECE * threads.count))
            size = -(-(end - begin) // (rounds * threads.count))
            threads.run(move, [(begin + first, begin + last) for first, last in pieces(end - begin, size)])
            moving[:, begin:end] = moved[:, begin:end]
        progress("layout", epoch + 1, epochs)
    settled = np.empty_like(position)
    settled[order] = moving.T
    return settled


def _reordered(
    graph: FuzzyGraph, order: NDArray[np.int64], epochs: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], Float32Array]:
    """The graph with samples in another order, strengths as shares of the largest; edges that never act left out."""
    share = graph.strength / graph.strength.max(initial=np.float32(1e-30))
    acting = share * np.float32(epochs) >= 1
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    before = np.concatenate([[0], np.cumsum(acting)])[graph.start]
    degree = np.diff(before)[order]
    start = np.concatenate([[0], np.cumsum(degree)])
    neighbour = np.empty(start[-1], np.int32)
    strength = np.empty(start[-1], np.float32)
    _copy_rows(order, graph.start, graph.neighbour, share, acting, place, start, neighbour, strength)
    return start, neighbour, strength


@numba.njit(nogil=True, cache=True)
def _copy_rows(
    order: Any, from_start: Any, from_neighbour: Any, share: Any, acting: Any, place: Any, start: Any, neighbour: Any,
    strength: Any,
) -> None:  # fmt: skip
    """Copies the acting edges of each sample to where the sample is in the new order."""
    for row in range(len(order)):
        target = start[row]
        for edge in range(from_start[order[row]], from_start[order[row] + 1]):
            if acting[edge]:
                neighbour[target] = place[from_neighbour[edge]]
                strength[target] = share[edge]
                target += 1


@numba.njit(nogil=True, cache=True)
def _mixed(value: Any) -> Any:
    """A hash of 32 bits (Wellons 2018, "lowbias32"): every bit of it depends on every bit of the value."""
    value = np.uint32(value ^ (value >> np.uint32(16)))
    value = np.uint32(value * np.uint32(0x7FEB352D))
    value = np.uint32(value ^ (value >> np.uint32(15)))
    value = np.uint32(value * np.uint32(0x846CA68B))
    return np.uint32(value ^ (value >> np.uint32(16)))


@numba.njit(nogil=True, cache=True, fastmath=_MATH, error_model="numpy")
def _power(base: Any, exponent: Any) -> Any:
    """A power of a number of at least 0, right to 3e-4, without a call or a branch: 2^(exponent log2 base); float32.

    Both functions are polynomials within a factor of two, the logarithm about 1.5 and the power from 0 to 1.
    """
    bits = np.float32(base).view(np.int32)
    whole = np.float32(np.int32((bits >> np.int32(23)) - np.int32(127)))
    part = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32) - np.float32(1.5)
    fifth = np.float32(-0.0712442) + part * np.float32(0.0379969)
    third = np.float32(-0.3205989) + part * (np.float32(0.1424884) + part * fifth)
    logarithm = whole + (np.float32(0.5849625) + part * (np.float32(0.9617967) + part * third))
    power = max(logarithm * exponent, np.float32(-126))
    whole = np.floor(power)
    part = np.float32(power - whole)
    third = np.float32(0.2402265) + part * (
        np.float32(0.0555041) + part * (np.float32(0.0096181) + part * np.float32(0.0013333))
    )
    scale = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(scale * (np.float32(1) + part * (np.float32(0.6931472) + part * third)))


@numba.njit(nogil=True, cache=True, fastmath=_MATH, error_model="numpy")
def _clipped(value: Any) -> Any:
    """A number kept within -4 and 4, as UMAP does with each part of a move."""
    return min(max(np.float32(value), np.float32(-4)), np.float32(4))


@numba.njit(nogil=True, cache=True, fastmath=_MATH, error_model="numpy")
def _repelled(position: Any, x: Any, y: Any, draws: int, state: Any, curve: Any) -> Any:
    """How far samples drawn at random push a place, (right, down) float32; one at the very place does not push."""
    xs = position[0]
    ys = position[1]
    count = np.uint64(len(xs))
    a = curve[0]
    b = curve[1]
    strength = np.float32(2) * b * curve[2]
    total_right = np.float32(0)
    total_down = np.float32(0)
    for begin in range(0, draws, _LANES):
        for lane in range(_LANES):
            draw = np.int32(begin + lane)
            drawn = _mixed(np.uint32(state + np.uint32(np.uint32(draw) * np.uint32(0x9E3779B9))))
            other = (np.uint64(drawn) * count) >> np.uint64(32)
            right = np.float32(x - xs[other])
            down = np.float32(y - ys[other])
            squared = np.float32(right * right + down * down)
            falling = (np.float32(0.001) + squared) * (np.float32(1) + a * _power(squared, b))
            # The last lanes may be more than are drawn.
            force = np.float32(strength / falling) * np.float32(draw < draws)
            total_right += _clipped(force * right)
            total_down += _clipped(force * down)
    return total_right, total_down


@numba.njit(nogil=True, cache=True, fastmath=_MATH, error_model="numpy")
def _move(
    begin: int, end: int, start: Any, neighbour: Any, strength: Any, position: Any, moved: Any, curve: Any,
    epoch: int, step: float, negatives: int, key: Any,
) -> None:  # fmt: skip
    """Moves the samples of a piece for an epoch, along its edges one after the other.

    What repels acts after each edge in umap-learn, here after as many as give `_LANES` repelling samples: more at once
    would repel more strongly, for a push takes a sample away from the next one.

    Args:
        begin: The first sample.
        end: The one after the last.
        start: (N + 1,) int64, the edges of each sample.
        neighbour: (E,) int32, their other ends.
        strength: (E,) float32, share of epochs in which they act.
        position: (2, N) float32, where all are.
        moved: (2, N) float32, receives where those of the piece are then.
        curve: (3,) float32: the a, b and repulsion of `Forces`.
        epoch: Number of the epoch, from 0.
        step: Factor of every move.
        negatives: Repelling samples for each time an edge acts.
        key: Hash of the seed, uint32.
    """
    alpha = np.float32(step)
    twice = np.float32(2 * step)
    now = np.float32(epoch)
    then = np.float32(epoch + 1)
    a = curve[0]
    b = curve[1]
    factor = np.float32(2) * a * b
    together = max(1, _LANES // max(1, negatives))
    turn = _mixed(np.uint32(key + np.uint32(np.uint32(epoch) * np.uint32(0x85EBCA6B))))
    for sample in range(begin, end):
        x = position[0, sample]
        y = position[1, sample]
        acting = 0
        state = _mixed(np.uint32(turn ^ np.uint32(sample)))
        for edge in range(start[sample], start[sample + 1]):
            share = strength[edge]
            if np.int32(then * share) == np.int32(now * share):
                continue
            acting += 1
            other = neighbour[edge]
            right = np.float32(x - position[0, other])
            down = np.float32(y - position[1, other])
            squared = np.float32(right * right + down * down)
            if squared > 0:
                power = _power(squared, b)
                force = factor * power / (squared * (np.float32(1) + a * power))
                x -= twice * _clipped(force * right)
                y -= twice * _clipped(force * down)
            if acting == together:
                right, down = _repelled(position, x, y, acting * negatives, state, curve)
                x += alpha * right
                y += alpha * down
                state = _mixed(np.uint32(state + np.uint32(1)))
                acting = 0
        right, down = _repelled(position, x, y, acting * negatives, state, curve)
        moved[0, sample] = x + alpha * right
        moved[1, sample] = y + alpha * down
