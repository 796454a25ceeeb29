from pathlib import Path

import pytest
from control_group_kernel import Kernel
from ortoscope_service.runtime.control_groups import ControlGroup, MemoryGroups, control_groups


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


def worker_groups(kernel: Kernel) -> list[Path]:
    return sorted(kernel.service.glob("ortoscope-worker-*"))


def test_the_groups_of_a_process_are_its_own_and_all_parents_of_both_versions(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n0::/a/b\n")
    mount = tmp_path / "sys/fs/cgroup"
    two = [ControlGroup(mount / path, 2) for path in ("a/b", "a", "")]
    for controller in ("memory", "cpu"):
        one = [ControlGroup(mount / controller / path, 1) for path in ("box", "")]
        assert list(control_groups(controller, tmp_path)) == [*one, *two]
    assert list(control_groups("cpu", tmp_path / "nothing")) == []


def test_a_group_that_is_not_delegated_is_left_alone(kernel: Kernel) -> None:
    assert MemoryGroups.take_over(kernel.root) is None
    assert kernel.processes(kernel.service) == ["10", "11"]
    assert not [path for path in kernel.service.iterdir() if path.is_dir()]


def test_a_delegated_group_makes_room_for_groups_of_workers(kernel: Kernel) -> None:
    kernel.delegated = {kernel.service}
    kernel.ended = {"11"}
    groups = MemoryGroups.take_over(kernel.root)
    assert groups is not None
    assert kernel.processes(kernel.service) == []
    assert kernel.processes(kernel.service / "ortoscope-server") == ["10"]
    assert (kernel.service / "cgroup.subtree_control").read_text() == "+memory"

    first, second = groups.make(1000), groups.make(2000)
    assert first is not None
    assert second is not None
    folders = worker_groups(kernel)
    assert [(folder / "memory.max").read_text() for folder in folders] == ["1000", "2000"]
    assert [(folder / "memory.swap.max").read_text() for folder in folders] == ["0", "0"]
    assert first.join(20)
    assert kernel.processes(folders[0]) == ["20"]
    first.remove()
    second.remove()
    assert worker_groups(kernel) == folders[:1], "one that has processes stays"


def test_a_server_whose_parent_is_delegated_stays_where_it_is(kernel: Kernel) -> None:
    own = kernel.service / "main"
    kernel.add(own)
    for pid in (10, 11):
        kernel.write(own / "cgroup.procs", pid)
    kernel.hold_server(own)
    kernel.delegated = {kernel.service}
    assert MemoryGroups.take_over(kernel.root) is not None
    assert kernel.processes(own) == ["10", "11"]


def test_groups_of_servers_that_were_killed_are_removed(kernel: Kernel) -> None:
    kernel.delegated = {kernel.service}
    used, stale = (kernel.service / f"ortoscope-worker-{name}" for name in ("7-0", "7-1"))
    kernel.add(used)
    kernel.add(stale)
    kernel.write(used / "cgroup.procs", 30)
    assert MemoryGroups.take_over(kernel.root) is not None
    assert worker_groups(kernel) == [used]


def test_without_the_controller_of_memory_nothing_is_moved(kernel: Kernel) -> None:
    kernel.delegated = {kernel.service}
    (kernel.service / "cgroup.controllers").write_text("cpu pids\n")
    assert MemoryGroups.take_over(kernel.root) is None
    assert kernel.processes(kernel.service) == ["10", "11"]


def test_what_the_kernel_refuses_leaves_workers_without_groups(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.delegated = {kernel.service}
    groups = MemoryGroups.take_over(kernel.root)
    assert groups is not None
    group = groups.make(1000)
    assert group is not None
    kernel.ended = {"20"}
    assert not group.join(20)

    def refuse(_file: Path, _value: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ortoscope_service.runtime.control_groups._write", refuse)
    assert MemoryGroups.take_over(kernel.root) is None
    before = worker_groups(kernel)
    assert groups.make(1000) is None
    assert worker_groups(kernel) == before


@pytest.mark.parametrize(
    ("events", "killed"),
    [
        ("low 0\nhigh 0\nmax 41\noom 1\noom_kill 1\noom_group_kill 0\n", True),
        ("low 0\nhigh 0\nmax 41\noom 0\noom_kill 0\noom_group_kill 0\n", False),
    ],
)
def test_a_process_that_the_kernel_killed_for_its_memory_is_told_from_others(
    kernel: Kernel, events: str, killed: bool
) -> None:
    kernel.delegated = {kernel.service}
    groups = MemoryGroups.take_over(kernel.root)
    assert groups is not None
    group = groups.make(1000)
    assert group is not None
    assert not group.killed()
    (worker_groups(kernel)[0] / "memory.events").write_text(events)
    assert group.killed() == killed


def test_a_delegated_group_that_cannot_be_written_to_is_left_alone(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.delegated = {kernel.service}
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    assert MemoryGroups.find_delegated(kernel.root) is None
