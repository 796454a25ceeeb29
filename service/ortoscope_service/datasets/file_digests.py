"""Digests of files, computed once per state of a file."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileState:
    """What changes when a file, or the list of a folder's files, does."""

    inode: int
    size: int
    modified: int
    """Time of the last modification, in nanoseconds."""
    changed: int
    """Time of the last change of the file's own record (its name, its permissions), in nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> "FileState | None":
        """The state of a file or folder now; None if it is not there."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class FileDigests:
    """SHA-256 digests of files, remembered by (path, size, time of modification). Safe for use by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, int, str]] = {}

    def file(self, path: Path) -> tuple[int, str]:
        """Size in bytes and hexadecimal SHA-256 of a file's contents.

        Raises:
            OSError: The file cannot be read.
        """
        key = os.fspath(path)
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            state = status.st_size, status.st_mtime_ns
            with self._lock:
                known = self._known.get(key)
            if known is not None and known[:2] == state:
                return known[0], known[2]
            digest = hashlib.sha256()
            size = 0
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        value = digest.hexdigest()
        with self._lock:
            self._known[key] = (*state, value)
        return size, value

    def tree(self, root: Path, names: Iterable[str], alive: Callable[[], None] = lambda: None) -> str:
        """One digest of many files: "sha256:" and the SHA-256 of one line per file, in the byte order of their names.

        A line is the name (relative to `root`, with slashes), a NUL, the size in decimal, a NUL, the hexadecimal
        SHA-256 of the contents, and a line feed.

        Args:
            root: The folder.
            names: The files.
            alive: Called before every file.

        Raises:
            OSError: A file cannot be read.
        """
        digest = hashlib.sha256()
        for name in sorted({os.fsencode(name) for name in names}):
            alive()
            size, contents = self.file(root / os.fsdecode(name))
            digest.update(b"%b\0%d\0%b\n" % (name, size, contents.encode()))
        return f"sha256:{digest.hexdigest()}"


def tree_signature(root: Path, names: Iterable[str], alive: Callable[[], None] = lambda: None) -> str:
    """What changes when any of many files does, found without reading them: a SHA-256 of their states.

    Args:
        root: The folder.
        names: The files, relative to it.
        alive: Called before every file.
    """
    digest = hashlib.sha256()
    for name in sorted({os.fsencode(name) for name in names}):
        alive()
        digest.update(b"%b\0%b\n" % (name, repr(FileState.of(root / os.fsdecode(name))).encode()))
    return digest.hexdigest()
