"""How the images of a job are cut into shards: fixed slices, the units of work, of retry and of resumption."""

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
    """(n,) int64, the positions of a shard's images in the order of the job: every `shards`-th from `shard` on.

    Strided, so that any few shards are a systematic sample of all images, even if those are sorted by class.

    Args:
        images: Number of images.
        shards: Number of shards.
        shard: Which of them, from 0.
    """
    return np.arange(shard, images, shards, dtype=np.int64)
