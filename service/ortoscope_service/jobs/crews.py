"""Who does the work of operations: processes on this machine, or a cluster."""

from ortoscope_service.config import JobsConfig
from ortoscope_service.jobs.engine import Crew
from ortoscope_service.jobs.pool import WorkerPool
from ortoscope_service.runtime.memory import available_memory
from ortoscope_service.runtime.parity import CPU
from ortoscope_service.runtime.threads import available_threads

_LEAST_WORKER_BYTES = 1024**3
"""Memory below which one worker fewer is better: libraries, a model, a batch and a shard's maps need most of it."""

_SILENCE_SECONDS = 120.0
"""A worker that gives no sign of life at all for so long is killed: serializing a model of two gigabytes blocks Python
for twenty seconds on an idle machine."""

_SHARE = 0.8
"""Share of the memory that workers and calls divide among them; the rest is for the server itself and the system."""


def make_crew(config: JobsConfig, provider: str) -> Crew:
    """The crew that a configuration asks for. No process starts before there is work.

    Args:
        config: Who shall do the work.
        provider: The execution provider that they use.

    Raises:
        OrtoscopeError: As `cluster.ClusterExecutor` raises.
    """
    if config.cluster is not None:
        from ortoscope_service.jobs.cluster import ClusterExecutor  # noqa: PLC0415 - needs the extra `cluster`

        executor = ClusterExecutor(config.cluster)
        return Crew(executor, executor.workers, executor.obstacle)
    workers = worker_count(config, provider)
    pool = WorkerPool(
        workers,
        memory_bytes=worker_memory(config, workers),
        niceness=config.niceness,
        silence_seconds=_SILENCE_SECONDS,
        grace_seconds=0.0,  # the runner has waited already
    )
    return Crew(pool, lambda: workers)


def worker_count(config: JobsConfig, provider: str) -> int:
    """Number of worker processes on this machine."""
    if config.workers:
        return config.workers
    wanted = available_threads() if provider == CPU else 1
    return max(1, min(wanted, int(available_memory() * _SHARE) // _LEAST_WORKER_BYTES - 1))


def worker_memory(config: JobsConfig, workers: int) -> int:
    """Most memory of a worker, in bytes."""
    return config.memory_bytes or int(available_memory() * _SHARE) // (workers + 1)
