"""What is wrong with a dataset, said once for both of its readers: the loader stops, the validator lists."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ortoscope_service.errors import Code, OrtoscopeError


@dataclass(frozen=True)
class Finding:
    """Something wrong with a dataset, or worth knowing."""

    severity: Literal["error", "warning"]
    """"error": the dataset, or the image concerned, is refused. "warning": it is read, but may not mean what one
    expects."""

    reason: str
    """UPPER_SNAKE_CASE identifier of the kind of damage."""

    path: str
    """The file, relative to the dataset's folder; empty for the folder itself."""

    line: int
    """Line of the file, from 1; 0 where that has no meaning."""

    message: str
    """What is wrong, with the offending value, and what to do."""

    @property
    def place(self) -> str:
        """File and line, as a compiler writes them."""
        return f"{self.path}:{self.line}" if self.line else self.path


class DatasetError(OrtoscopeError):
    """What a reader raises: FAILED_PRECONDITION, with the reason of the finding.

    Args:
        finding: What is wrong.
    """

    def __init__(self, finding: Finding) -> None:
        message = f"{finding.place}: {finding.message}" if finding.path else finding.message
        metadata = {"path": finding.path, "line": str(finding.line)}
        super().__init__(Code.FAILED_PRECONDITION, finding.reason, message, metadata=metadata)
        self.finding = finding


Report = Callable[[Finding], None]
"""Takes each finding as it is made: `list.append` to collect them, `stop_at_errors` to refuse the first error."""


def stop_at_errors(finding: Finding) -> None:
    """Lets warnings pass.

    Raises:
        DatasetError: The finding is an error.
    """
    if finding.severity == "error":
        raise DatasetError(finding)


def error(reason: str, path: str, line: int, message: str) -> Finding:
    """A finding for which the dataset, or the image concerned, is refused."""
    return Finding("error", reason, path, line, message)


def warning(reason: str, path: str, line: int, message: str) -> Finding:
    """A finding in spite of which the dataset is read."""
    return Finding("warning", reason, path, line, message)
