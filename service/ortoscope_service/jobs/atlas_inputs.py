"""What the tasks of several atlas jobs read: arrays of published atlases, and samples of shards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.collection import CollectionSettings, Samples, ShardSamples, collect_shard
from ortoscope_service.analysis.atlas.collection import merge_samples as merge_shards
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs import surveys
from ortoscope_service.jobs.artifacts import ArtifactStore, unpack_arrays
from ortoscope_service.jobs.tasks import TaskContext
from ortoscope_service.runtime.cancellation import Cancellation

_BLOBS = Path("blobs") / "complete"
"""Where in the store blobs are, for reading."""

_GONE = frozenset({"ARTIFACT_MISSING", "ARTIFACT_DAMAGED"})


class Lively(Cancellation):
    """The flag of a task that takes each look at it for a sign of life.

    It is for what calculates and waits for nothing: who waits looks at the flag too, and shall be found out.

    Args:
        context: The task.
    """

    def __init__(self, context: TaskContext) -> None:
        super().__init__()
        self._context = context

    def raise_if_cancelled(self) -> None:
        """Does nothing while the task may go on.

        Raises:
            OrtoscopeError: As `Cancellation.raise_if_cancelled` raises.
        """
        self._context.alive()
        self._context.cancellation.raise_if_cancelled()


def published_arrays(context: TaskContext, digest: str) -> dict[str, NDArray[Any]]:
    """The arrays of a blob that an atlas has published.

    Args:
        context: The task.
        digest: The blob's, 64 hexadecimal digits.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, ATLAS_LOST: it was deleted, or is damaged.
    """
    return unpack_arrays(published_bytes(context, digest))


def published_bytes(context: TaskContext, digest: str) -> bytes:
    """The contents of a blob that an atlas has published.

    Args:
        context: The task.
        digest: The blob's, 64 hexadecimal digits.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, ATLAS_LOST: it was deleted, or is damaged.
    """
    context.alive()
    try:
        return ArtifactStore(Path(context.environment.store) / _BLOBS).load(digest)
    except OrtoscopeError as error:
        if error.reason not in _GONE:
            raise
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "ATLAS_LOST",
            "An atlas that the operation works with was deleted meanwhile, or its arrays are damaged. Build it again, "
            "and ask again.",
            metadata={"blob": digest},
        ) from None


def collect(context: TaskContext, settings: CollectionSettings, sites_per_image: int, seed: int) -> None:
    """Takes the samples of the task's shard, without attribution, and stores them as its artifact `samples`.

    Raises:
        OrtoscopeError: As `surveys.open_survey` and `collect_shard` raise.
    """
    survey = surveys.open_survey(context)
    found = collect_shard(
        survey.version,
        survey.tap,
        survey.dataset,
        survey.shard(context),
        sites_per_image,
        settings,
        seed,
        survey.execution,
        progress=context.progress,
        cancellation=context.cancellation,
        series=survey.series(context),
    )
    context.put("samples", found.to_arrays())


def merge_samples(context: TaskContext, prefix: str = "", *, with_attribution: bool = False) -> Samples:
    """The samples of all shards that a task reads.

    Args:
        context: The task; its inputs have the samples of each shard under `prefix` and the shard's number.
        prefix: Comes before the number.
        with_attribution: Whether attributions are wanted too, if there are any.

    Raises:
        OrtoscopeError: As `TaskContext.arrays` and `collection.merge_samples` raise.
    """

    def loader(role: str) -> Callable[[], ShardSamples]:
        return lambda: ShardSamples.from_arrays(context.arrays(role))

    roles = sorted(
        (role for role in context.inputs if role.startswith(prefix) and role.removeprefix(prefix).isdecimal()),
        key=lambda role: int(role.removeprefix(prefix)),
    )
    return merge_shards(
        [loader(role) for role in roles], with_attribution=with_attribution, cancellation=Lively(context)
    )
