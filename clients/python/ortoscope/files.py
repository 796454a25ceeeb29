"""Writing result folders: whole files or none, and never over somebody else's."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ortoscope.errors import FailedPrecondition

PROVENANCE = "provenance.json"
"""The file by which a result folder is known; it says what kind of result the folder holds."""


def check_result_folder(folder: Path, kind: str, names: Sequence[str]) -> None:
    """Refuses a folder into which a result must not be written; asked before hours of work, not after.

    A result may go into a folder that does not exist, is empty, or holds an older result of the same kind and nothing
    else.

    Args:
        folder: The folder.
        kind: The kind of result, such as "dissection".
        names: The files that such a result consists of.

    Raises:
        FailedPrecondition: FOLDER_NOT_EMPTY, FOLDER_OF_OTHER_RESULT, NOT_A_FOLDER.
        OSError: The folder cannot be made or read.
    """
    if folder.exists() and not folder.is_dir():
        raise FailedPrecondition(
            f"{str(folder)!r} is a file; name a folder for the result.",
            reason="NOT_A_FOLDER",
            metadata={"folder": str(folder)},
        )
    folder.mkdir(parents=True, exist_ok=True)
    present = sorted(entry.name for entry in folder.iterdir())
    if not present:
        return
    foreign = [name for name in present if name not in names]
    if foreign or PROVENANCE not in present:
        raise FailedPrecondition(
            f"The folder {str(folder)!r} holds other files ({', '.join((foreign or present)[:3])}"
            f"{', …' if len(foreign or present) > 3 else ''}); choose a new or empty folder.",
            reason="FOLDER_NOT_EMPTY",
            metadata={"folder": str(folder)},
        )
    found = _kind_of(folder / PROVENANCE)
    if found != kind:
        raise FailedPrecondition(
            f"The folder {str(folder)!r} holds {_with_article(found)}, not {_with_article(kind)}; choose another one.",
            reason="FOLDER_OF_OTHER_RESULT",
            metadata={"folder": str(folder), "kind": found},
        )


def write_result(
    folder: Path,
    kind: str,
    contents: Mapping[str, bytes],
    provenance: Mapping[str, Any],
    beside: Sequence[str] = (),
) -> None:
    """Writes the files of a result and a `provenance.json` that tells their digests.

    Every file appears whole under its name, or not at all.

    Args:
        folder: The folder; `check_result_folder` must accept it.
        kind: The kind of result.
        contents: The files by name, without `provenance.json`; a name may begin with that of a folder.
        provenance: What the result was computed from; `kind` and `files` are added.
        beside: Further files and folders that belong to such a result, and that something else writes.

    Raises:
        FailedPrecondition: As `check_result_folder`.
        OSError: The disk is full, or the folder cannot be written to.
    """
    check_result_folder(folder, kind, [*(name.partition("/")[0] for name in contents), PROVENANCE, *beside])
    digests = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in contents.items()}
    record = {"kind": kind, **provenance, "files": digests}
    # The record comes first: it is what makes the folder ours, should the rest not be written.
    write_file(folder / PROVENANCE, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
    for name, data in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_file(folder / name, data)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file so that it appears whole under its name, or not at all.

    Raises:
        OSError: The disk is full, or the folder cannot be written to.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes a file that only its owner can read; a result is as readable as any other file.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _kind_of(record: Path) -> str:
    try:
        data = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return "another file of that name"
    kind = data.get("kind") if isinstance(data, dict) else None
    return kind if isinstance(kind, str) else "another file of that name"


def _with_article(kind: str) -> str:
    if kind.startswith("another"):
        return kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
