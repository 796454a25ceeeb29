"""How the images of a job are cut into shards: fixed slices, the units of work, of retry and of resumption."""

import math

import numpy as np
from numpy.typing import NDArray

MOST_SHARDS = 10_000
"""A job of any size has no more: each costs a file or two and a line in the database."""

_FEWEST_SHARDS = 16
"""Small jobs have at least so many, if they have as many batches: for progress, and for several workers."""

_MOST_BATCHES = 8
"""Batches per shard where there are enough shards anyway: what a worker that dies loses is seconds."""


def shards_of(images: int, batch_size: int) -> int:
    """Number of shards for so many images; depends on nothing else, so that every run of a job has the same ones.

    Args:
        images: Number of images, at least 1.
        batch_size: Images per run of the model.
    """
    batches = min(max(1, images // (batch_size * _FEWEST_SHARDS)), _MOST_BATCHES)
    per_shard = max(batches * batch_size, -(-images // MOST_SHARDS))
    return -(-images // per_shard)


def shard_positions(images: int, shards: int, shard: int) -> NDArray[np.int64]:
    """(n,) int64, ascending: the positions of a shard's images in the order of the job.

    The images are taken in steps of the golden ratio of their number, and the shards are runs of that sequence. So any
    shard, and any run of shards, is spread evenly over all images, however they are sorted, and in step with no period
    that their order may have.

    Args:
        images: Number of images.
        shards: Number of shards.
        shard: Which of them, from 0.
    """
    begin, end = shard * images // shards, (shard + 1) * images // shards
    return np.sort(np.arange(begin, end, dtype=np.int64) * _step(images) % images)


def _step(images: int) -> int:
    """The whole number nearest to the golden section of `images` that has no divisor in common with it."""
    section = round(images * (math.sqrt(5) - 1) / 2)
    candidates = (section + sign * offset for offset in range(images + 1) for sign in (1, -1))
    return next(step for step in candidates if step > 0 and math.gcd(step, images) == 1)
