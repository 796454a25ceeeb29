"""Where the page of an atlas, or of what changes in one, may be written: a folder or one file."""

from pathlib import Path

from ortoscope.files import PROVENANCE, check_result_folder

FILES = ("index.html", "data", "arrays", PROVENANCE)
"""The files and folders of a saved page."""

ATLAS, PROJECTION, COMPARISON = "atlas", "atlas projection", "atlas comparison"
"""What `provenance.json` says of the folder."""

_PAGES = {".html", ".htm"}


def is_page(path: Path) -> bool:
    """Whether a page is to be one file rather than a folder."""
    return path.suffix.lower() in _PAGES


def check_page(path: Path, kind: str) -> None:
    """Refuses a path that must not be written to, before any work is done.

    Raises:
        FailedPrecondition: As `check_result_folder`, for a folder.
        OSError: The folder cannot be made or read.
    """
    if not is_page(path):
        check_result_folder(path, kind, FILES)
