import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ortoscope_service.runtime.memory import _cgroup_limit, available_memory, resident_bytes

MIB = 1024**2


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_available_memory_is_no_more_than_the_machine_has() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert 64 * MIB < available_memory() <= int(total.split()[1]) * 1024


@pytest.mark.parametrize(("text", "limit"), [("1073741824\n", 1024**3), ("max\n", None)])
def test_limit_of_control_groups_version_2(tmp_path: Path, text: str, limit: int | None) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/service/job\n")
    write(tmp_path / "sys/fs/cgroup/service/job/memory.max", text)
    assert _cgroup_limit(tmp_path) == limit


def test_the_tightest_limit_of_all_parents_holds(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/service/job\n")
    write(tmp_path / "sys/fs/cgroup/service/job/memory.max", "8000\n")
    write(tmp_path / "sys/fs/cgroup/service/memory.max", "3000\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", "max\n")
    assert _cgroup_limit(tmp_path) == 3000


def test_limit_of_control_groups_version_1_beside_version_2(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory/box/memory.limit_in_bytes", "5000\n")
    assert _cgroup_limit(tmp_path) == 5000


def test_no_control_groups_no_limit(tmp_path: Path) -> None:
    assert _cgroup_limit(tmp_path) is None


def test_memory_that_is_written_to_is_resident() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 64 * MIB) as block:  # not of what the allocator has at hand
        block.write(b"\1" * (64 * MIB))
        assert resident_bytes() - before > 48 * MIB
    assert resident_bytes(os.getpid()) > 48 * MIB


def test_a_process_that_is_gone_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert resident_bytes(process.pid) == 0


def test_beyond_the_limit_allocations_fail_and_the_process_goes_on() -> None:
    program = f"""
import resource
from ortoscope_service.runtime.memory import limit_data
limit_data({300 * MIB})
assert resource.getrlimit(resource.RLIMIT_DATA)[0] == {300 * MIB}
try:
    bytearray({400 * MIB})
except MemoryError:
    print(len(bytearray({50 * MIB})))
limit_data({600 * MIB})
print(len(bytearray({400 * MIB})))
resource.setrlimit(resource.RLIMIT_DATA, ({500 * MIB}, {500 * MIB}))
limit_data({900 * MIB})
print(resource.getrlimit(resource.RLIMIT_DATA)[0])
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert [int(line) // MIB for line in printed.stdout.split()] == [50, 400, 500]


FREEING = """
from ortoscope_service.runtime.memory import give_back, resident_bytes

# Blocks below glibc's threshold for mappings of their own, kept from the top of the heap by one that stays.
blocks = [b"\\1" * 100_000 for _ in range(1000)]
last = bytearray(1000)
del blocks
give_back()
before = resident_bytes()
blocks = [b"\\1" * 100_000 for _ in range(1000)]
peak = resident_bytes()
last += bytearray(1000)
del blocks
give_back()
print(before, peak, resident_bytes())
"""


def test_what_was_freed_is_given_back() -> None:
    # In a process of its own: in this one, other tests may have left enough free memory for all of it.
    ran = subprocess.run([sys.executable, "-c", FREEING], capture_output=True, text=True, check=True)
    before, peak, after = map(int, ran.stdout.split())
    assert peak - before > 80 * MIB
    assert after - before < 20 * MIB
