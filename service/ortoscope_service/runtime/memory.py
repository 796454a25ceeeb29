"""How much memory this process may use, how much it does use, and how to keep it within limits."""

import contextlib
import ctypes
import functools
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

from ortoscope_service.runtime.control_groups import control_groups

_LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}
"""By the version of control groups."""


def available_memory() -> int:
    """The memory that this process may use, in bytes.

    The smaller of the machine's memory and the limits of the control groups (version 1 or 2, own group and every
    parent). What others use at the moment is not taken off.
    """
    limit = _cgroup_limit(Path("/"))
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return physical if limit is None else min(physical, limit)


def resident_bytes(pid: int | None = None) -> int:
    """The physical memory that a process holds, in bytes; mapped files and shared memory count.

    Args:
        pid: The process; None for this one.

    Returns:
        The bytes; 0 if there is no such process, or the system does not tell.
    """
    try:
        statm = Path("/proc", "self" if pid is None else str(pid), "statm").read_bytes()
        return int(statm.split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def limit_data(limit_bytes: int) -> None:
    """Limits the memory that this process may allocate: beyond it allocations fail, and the process goes on.

    Counts what was promised, used or not: heap, anonymous private memory, the stacks of threads. Mapped files and
    shared memory do not count.

    Args:
        limit_bytes: The limit; a lower one that is already in force and cannot be raised stays.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def give_back() -> None:
    """Gives memory that was freed back to the system, where the C library keeps it and can be asked for it (glibc)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda pad: int(trim(pad))


def _cgroup_limit(root: Path) -> int | None:
    """Bytes granted by the process's control groups, or None without a limit; `root` holds /proc and /sys."""
    return min(_cgroup_limits(root), default=None)


def _cgroup_limits(root: Path) -> Iterator[int]:
    for group in control_groups("memory", root):
        # No number: "max", there is no limit.
        with contextlib.suppress(OSError, ValueError):
            yield int((group.folder / _LIMIT_FILES[group.version]).read_text(encoding="utf-8"))
