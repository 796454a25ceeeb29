"""Control groups of version 2 in a plain folder, as far as the service uses them."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from ortoscope_service.runtime import control_groups


class Kernel:
    """Does what the kernel does when files of control groups are written and groups are removed.

    This process is in the group of a service, whose processes are 10 and 11.

    Attributes:
        root: Stands for "/".
        service: The group of the service.
        delegated: The groups that are marked as delegated.
        ended: Numbers of processes that have ended and are still listed.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.service = root / "sys/fs/cgroup/system.slice/ortoscope.service"
        self.delegated: set[Path] = set()
        self.ended: set[str] = set()
        self.add(self.service)
        (self.service / "cgroup.procs").write_text("10\n11\n")
        (root / "proc/self").mkdir(parents=True)
        self.hold_server(self.service)

        def remove(group: Path) -> None:
            if self.processes(group):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            shutil.rmtree(group)

        monkeypatch.setattr(control_groups, "_write", self.write)
        monkeypatch.setattr(Path, "rmdir", remove)
        monkeypatch.setattr(os, "getxattr", self._attribute)

    def add(self, group: Path) -> None:
        """Makes the files of a group."""
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.controllers").write_text("cpu memory pids\n")
        (group / "cgroup.procs").touch()

    def hold_server(self, group: Path) -> None:
        """Lets this process find itself in a group."""
        path = group.relative_to(self.root / "sys/fs/cgroup")
        (self.root / "proc/self/cgroup").write_text(f"1:name=systemd:/elsewhere\n0::/{path}\n")

    def processes(self, group: Path) -> list[str]:
        """The processes of a group."""
        file = group / "cgroup.procs"
        return file.read_text().split() if file.exists() else []

    def write(self, file: Path, value: object) -> None:
        """Writes to a file of a group."""
        group = file.parent
        if not (group / "cgroup.procs").exists():
            self.add(group)
        if file.name == "cgroup.procs":
            for other in (self.root / "sys/fs/cgroup").rglob("cgroup.procs"):
                other.write_text("".join(f"{pid}\n" for pid in other.read_text().split() if pid != str(value)))
            if str(value) in self.ended:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            file.write_text(f"{file.read_text()}{value}\n")
        elif file.name == "cgroup.subtree_control" and self.processes(group):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        else:
            file.write_text(str(value))

    def _attribute(self, path: Path, name: str) -> bytes:
        if name == "user.delegate" and path in self.delegated:
            return b"1"
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
