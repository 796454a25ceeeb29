"""How the images of a job are cut into shards: fixed slices, the units of work, of retry and of resumption."""

import numpy as np
from numpy.typing import NDArray

MOST_SHARDS = 10_000
"""A job of any size has no more: each costs a file or two and a line in the database."""

_FEW_SHARDS = 16
"""Jobs that are not large have so many, if they have as many batches: for progress, and for 2, 4 or 8 workers alike."""

_MOST_BATCHES = 8
"""Batches per shard where there are enough shards anyway: what a worker that dies loses is seconds."""


def shards_of(images: int, batch_size: int) -> int:
    """Number of shards for so many images; depends on nothing else, so that every run of a job has the same ones.

    Args:
        images: Number of images, at least 1.
        batch_size: Images per run of the model.
    """
    batches = -(-images // batch_size)
    return min(batches, max(_FEW_SHARDS, -(-batches // _MOST_BATCHES)), MOST_SHARDS)


def shard_positions(images: int, shards: int, shard: int) -> NDArray[np.int64]:
    """(n,) int64, ascending: the positions of a shard's images in the order of the job.

    Of every `shards` successive images each shard has one, which one is drawn by lot (a rotation for each such row, the
    same in every run). So any few shards are a fair sample of all images, whether those are sorted by class or have
    classes that take turns.

    Args:
        images: Number of images.
        shards: Number of shards.
        shard: Which of them, from 0.
    """
    rows, rest = divmod(images, shards)
    row = np.arange(rows + (shard < rest), dtype=np.int64)
    width = np.where(row < rows, shards, rest)
    return row * shards + (shard + _lot(row) % width) % width


def _lot(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number below 2^31 for each number, as if drawn at random: SplitMix64 (Steele et al. 2014), the upper half."""
    with np.errstate(over="ignore"):
        mixed = (number.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(33)).astype(np.int64)
