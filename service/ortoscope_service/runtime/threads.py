"""How many threads this process may really use."""

import os
from pathlib import Path

from ortoscope_service.runtime.control_groups import control_groups


def available_threads() -> int:
    """The number of threads that can run at once in this process.

    The smaller of the CPU affinity and the CPU quota of the control group (version 1 or 2, own group or any parent;
    rounded down, because threads beyond the quota stall all others at every barrier), at least 1. ONNX Runtime's own
    default is the number of physical cores of the machine, which in a container costs a factor of 2 to 3.
    """
    quota = _cgroup_quota(Path("/"))
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """CPUs granted by the process's control groups, or None without a limit; `root` holds /proc and /sys."""
    readers = {1: _quota_v1, 2: _quota_v2}
    quotas = [readers[group.version](group.folder) for group in control_groups("cpu", root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period = int((group / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if quota <= 0 or period <= 0 else quota / period
