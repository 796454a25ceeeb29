"""What the parity gate found out about graphs and execution providers, kept so that it is found out once."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class Circumstances:
    """Everything that a verdict depends on."""

    graph: str
    """Digest of the ONNX file, "sha256:…", which holds the model, what is computed of it, and the outputs."""

    provider: str
    """The execution provider that is asked for."""

    options: str
    """What it is told."""

    optimization_level: str
    """ONNX Runtime's graph optimizations."""

    threads: int
    """Threads within an operator."""

    onnxruntime: str
    """Version of ONNX Runtime."""

    device: str
    """What the provider computes on, with the version of its library, and the processor that it is compared with."""

    tolerance: float
    """The largest error that passes."""

    @property
    def key(self) -> str:
        """Digest of all of it, 64 hexadecimal digits."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class ParityReport:
    """How an execution provider compared with the CPU provider on a graph."""

    circumstances: Circumstances
    """What the verdict depends on."""

    passed: bool
    """Whether the provider may serve the graph."""

    used: str
    """The provider that the graph is served by."""

    reason: str
    """Why it did not pass, in words; empty if it did."""

    errors: dict[str, float | None]
    """For every output that was compared its largest error over the probes, root mean square relative to that of the
    CPU provider's values. None where nothing can be said: other shapes, or infinities or NaN at other places."""

    probes: int
    """How many sets of inputs were run."""

    def to_json(self) -> str:
        """The report as JSON, as it is kept."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1, allow_nan=False) + "\n"


class Verdicts:
    """Reports in a folder, one JSON file for each set of circumstances.

    Args:
        folder: The folder; made with the first report. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def find(self, circumstances: Circumstances) -> ParityReport | None:
        """The report for these circumstances; None if there is none, or none that can be read."""
        if self._folder is None:
            return None
        try:
            document = json.loads((self._folder / f"{circumstances.key}.json").read_bytes())
            return _report(document, circumstances)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("a verdict on parity cannot be read and is found out anew: %s", error)
            return None

    def keep(self, report: ParityReport) -> None:
        """Keeps a report: written beside its place, then renamed. What cannot be written is logged, and not kept."""
        if self._folder is None:
            return
        path = self._folder / f"{report.circumstances.key}.json"
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("x", encoding="utf-8") as file:
                file.write(report.to_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            _log.warning("a verdict on parity cannot be kept: %s", error)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _report(document: dict[str, Any], circumstances: Circumstances) -> ParityReport:
    """The report of a document; `ValueError`, `TypeError` or `KeyError` if it is none for these circumstances."""
    stated = json.loads(json.dumps(dataclasses.asdict(circumstances)))
    if document["format"] != _FORMAT or document["circumstances"] != stated:
        raise ValueError("it is of another format, or of other circumstances")
    passed, used, reason, errors, probes = (document[name] for name in ("passed", "used", "reason", "errors", "probes"))
    valid = (
        isinstance(passed, bool)
        and isinstance(used, str)
        and isinstance(reason, str)
        and isinstance(errors, dict)
        and all(value is None or isinstance(value, float) for value in errors.values())
        and isinstance(probes, int)
    )
    if not valid:
        raise ValueError("a field is not of its type")
    return ParityReport(circumstances, passed, used, reason, errors, probes)
