"""`ortoscope-server expose`: an ONNX file whose chosen intermediates are outputs, for any runtime to read."""

import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import expose
from ortoscope_service.graph.taps import find_taps, resolve_tap
from ortoscope_service.models.onboarding.inputs import describe_outputs


@dataclass(frozen=True)
class Exposed:
    """What was written."""

    tensors: tuple[str, ...]
    """The tensor of each tap that was asked for."""

    outputs: tuple[str, ...]
    """All outputs of the file, the model's own first."""


def expose_file(source: Path, taps: Sequence[str], output: Path) -> Exposed:
    """Writes a model again, with taps as further outputs. A file that is there already is replaced as a whole.

    Args:
        source: The ONNX file.
        taps: Names of taps, or of any other tensor of the main graph.
        output: Where to write.

    Raises:
        OrtoscopeError: As `load_model` and `resolve_tap` raise; `OUTPUT_NOT_WRITABLE` (FAILED_PRECONDITION).
    """
    model = load_model(source)
    tensors = find_tensors(model, taps)
    exposed = expose(model, tensors)
    replace_file(output, serialize(exposed))
    return Exposed(tensors, tuple(spec.name for spec in describe_outputs(exposed)))


def find_tensors(model: ir.Model, names: Sequence[str]) -> tuple[str, ...]:
    """The tensor of each name: any that a node of the main graph makes by its own, a tap by any of its names.

    Raises:
        OrtoscopeError: As `resolve_tap` raises.
    """
    known = find_taps(model)
    plain = {value.name for node in model.graph for value in node.outputs}
    return tuple(name if name in plain else resolve_tap(known, name).tensor for name in names)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file in full beside its place, then renames it there.

    Raises:
        OrtoscopeError: `OUTPUT_NOT_WRITABLE` (FAILED_PRECONDITION).
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "OUTPUT_NOT_WRITABLE",
            f"'{path.name}' cannot be written ({os.strerror(error.errno or 0)}); give another place with --output.",
            metadata={"file": path.name},
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
