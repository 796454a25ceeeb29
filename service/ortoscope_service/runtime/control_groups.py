"""Linux control groups: those that this process is in, and groups of its own that limit the memory of its workers."""

import contextlib
import itertools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_DELEGATED = "user.delegate"
"""Extended attribute of a group by which its manager tells that it is left to those who run in it. systemd sets it for
units with Delegate=yes. That a group can be written to says nothing: whoever is root can write to all of them."""

_SERVER = "ortoscope-server"
_WORKER = "ortoscope-worker-"
_MOVES = 10
"""How often it is tried to move all processes: each time new ones may have been started."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ControlGroup:
    """A control group that limits this process."""

    folder: Path
    """Where its files are. Some may be missing: the root of all has no limits, and containers do not see parents."""

    version: int
    """1 or 2: decides how the files are called."""


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[ControlGroup]:
    """The control groups that limit this process: its own, and all of their parents.

    Args:
        controller: What is limited: "cpu" or "memory".
        root: The folder that holds /proc and /sys.
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if not controllers:
            mount, version = root / "sys/fs/cgroup", 2
        elif controller in controllers.split(","):
            mount, version = root / "sys/fs/cgroup" / controller, 1
        else:
            continue
        group = PurePosixPath(path).relative_to("/")
        for ancestor in (group, *group.parents):
            yield ControlGroup(mount / ancestor, version)


class MemoryGroup:
    """A control group whose processes may use only so much memory; files that they read and shared memory count.

    The kernel first drops what it can read again; if that is not enough, it kills.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def join(self, pid: int) -> bool:
        """Moves a process into the group.

        Returns:
            Whether that worked out: it may have ended, and is not limited otherwise.
        """
        try:
            _write(self._folder / "cgroup.procs", pid)
        except OSError as error:
            _log.warning("process %d did not get into a control group: %s", pid, error.strerror)
            return False
        return True

    def killed(self) -> bool:
        """Whether the kernel killed a process of the group because its memory did not suffice."""
        try:
            events = (self._folder / "memory.events").read_text(encoding="ascii").splitlines()
        except OSError:
            return False
        return any(name == "oom_kill" and int(count) > 0 for name, count in map(str.split, events))

    def remove(self) -> None:
        """Removes the group. One that still has processes stays."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


class MemoryGroups:
    """Makes memory groups side by side below one that is delegated to this process; see `take_over`.

    Args:
        folder: The folder of the delegated group.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    @staticmethod
    def find_delegated(root: Path = Path("/")) -> Path | None:
        """The control group of this process, or its parent, if it is delegated and can be written to (version 2 only).

        Args:
            root: The folder that holds /proc and /sys.

        Returns:
            Its folder.
        """
        own = [group.folder for group in control_groups("memory", root) if group.version == 2][:2]
        return next((folder for folder in own if _is_delegated(folder)), None)

    @classmethod
    def take_over(cls, root: Path = Path("/")) -> "MemoryGroups | None":
        """Takes over the group that `find_delegated` finds.

        A group that has limited groups in it can have no processes. So those of the process's own group, which are
        all of the same service, move into a group within it.

        Args:
            root: The folder that holds /proc and /sys.

        Returns:
            None if it finds none, or the kernel refuses something.
        """
        folder = cls.find_delegated(root)
        if folder is None:
            return None
        try:
            if "memory" not in (folder / "cgroup.controllers").read_text(encoding="ascii").split():
                return None
            _move_processes(folder, folder / _SERVER)
            _write(folder / "cgroup.subtree_control", "+memory")
        except OSError as error:
            _log.warning("the delegated control group cannot be used: %s", error.strerror)
            return None
        # Of servers that were killed. One that is in use has processes, and cannot be removed.
        for stale in folder.glob(f"{_WORKER}*"):
            MemoryGroup(stale).remove()
        return cls(folder)

    def make(self, limit_bytes: int) -> MemoryGroup | None:
        """Makes a group.

        Args:
            limit_bytes: Most memory of all of its processes together. They do not swap.

        Returns:
            None if the kernel refuses.
        """
        folder = self._folder / f"{_WORKER}{os.getpid()}-{next(self._numbers)}"
        group = MemoryGroup(folder)
        try:
            folder.mkdir()
            _write(folder / "memory.max", limit_bytes)
        except OSError as error:
            _log.warning("there is no control group for a worker: %s", error.strerror)
            group.remove()
            return None
        with contextlib.suppress(OSError):  # a kernel without swap
            _write(folder / "memory.swap.max", 0)
        return group


def _is_delegated(folder: Path) -> bool:
    try:
        # In a container, what holds its control group is often mounted for reading only.
        return os.getxattr(folder, _DELEGATED) == b"1" and os.access(folder, os.W_OK)
    except (OSError, AttributeError):  # no such attribute or file; a system without them
        return False


def _move_processes(source: Path, target: Path) -> None:
    """Moves all processes from a group to another, which is made if need be.

    Raises:
        OSError: That is not allowed.
    """
    for _ in range(_MOVES):
        pids = (source / "cgroup.procs").read_text(encoding="ascii").split()
        if not pids:
            return
        target.mkdir(exist_ok=True)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                _write(target / "cgroup.procs", pid)


def _write(file: Path, value: object) -> None:
    """Writes to a file of a control group, which takes each write for a command of its own."""
    with file.open("w", encoding="ascii") as opened:
        opened.write(str(value))
