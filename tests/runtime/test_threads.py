import os
from pathlib import Path

import pytest
from ortoscope_service.runtime.threads import _cgroup_quota, available_threads


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_at_least_one_thread_and_no_more_than_the_affinity() -> None:
    assert 1 <= available_threads() <= len(os.sched_getaffinity(0))


def test_affinity_limits_the_threads() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(("text", "quota"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("50000 100000\n", 0.5)])
def test_quota_of_control_groups_version_2(tmp_path: Path, text: str, quota: float | None) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/service/job\n")
    write(tmp_path / "sys/fs/cgroup/service/job/cpu.max", text)
    assert _cgroup_quota(tmp_path) == quota


def test_the_tightest_quota_of_all_parents_holds(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/service/job\n")
    write(tmp_path / "sys/fs/cgroup/service/job/cpu.max", "800000 100000\n")
    write(tmp_path / "sys/fs/cgroup/service/cpu.max", "300000 100000\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert _cgroup_quota(tmp_path) == 3


@pytest.mark.parametrize(("microseconds", "quota"), [("250000\n", 2.5), ("-1\n", None)])
def test_quota_of_control_groups_version_1(tmp_path: Path, microseconds: str, quota: float | None) -> None:
    write(tmp_path / "proc/self/cgroup", "5:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/\n")
    write(tmp_path / "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", microseconds)
    write(tmp_path / "sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n")
    assert _cgroup_quota(tmp_path) == quota


def test_no_control_groups_no_quota(tmp_path: Path) -> None:
    assert _cgroup_quota(tmp_path) is None
