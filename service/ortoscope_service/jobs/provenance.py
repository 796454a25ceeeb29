"""What a result was computed from and how."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.runtime.sessions import SessionConfig


@dataclass(frozen=True)
class Computation:
    """What a result was computed from and how, besides the model and the versions of the software."""

    execution: ExecutionConfig
    """How the model was run, threads resolved."""

    spec_digest: str
    """Digest of everything that decides the numbers."""

    preprocessing: str
    """How pictures became the model's input, in words; empty if none did."""

    items: int
    """Number of images, or other items."""

    start_time: float
    """When it began, in seconds since 1970."""

    end_time: float
    """When it ended."""

    dataset: str = ""
    """Resource name of the dataset."""

    dataset_digest: str = ""
    """Digest of the dataset."""


def spec_digest(spec: Mapping[str, object]) -> str:
    """The digest of a specification as canonical JSON (sorted keys, no spaces, shortest exact numbers): "sha256:…"."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def execution_spec(execution: ExecutionConfig) -> dict[str, object]:
    """The part of a specification that says how the model is run."""
    return {
        "batch_size": execution.batch_size,
        "providers": list(execution.session.providers),
        "optimization_level": execution.session.optimization_level,
        "intra_op_threads": execution.session.intra_op_threads,
    }


def execution_from_spec(spec: Mapping[str, Any], verdicts: Path | None, read_ahead: bool = True) -> ExecutionConfig:
    """How the model is run, as `execution_spec` was given it.

    Args:
        spec: What `execution_spec` made.
        verdicts: Folder in which the parity gate keeps what it found out, if it does.
        read_ahead: Whether reading and decoding has a thread of its own.
    """
    session = SessionConfig(
        providers=tuple(spec["providers"]),
        intra_op_threads=spec["intra_op_threads"],
        optimization_level=spec["optimization_level"],
        verdicts=verdicts,
    )
    return ExecutionConfig(spec["batch_size"], session, read_ahead)
