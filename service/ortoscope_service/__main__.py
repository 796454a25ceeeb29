"""The command `ortoscope-server`: prepares models, validates and renders datasets, and serves.

The command is part of every installation; what it needs is in the extra `server`.
"""

import os
import sys

# ONNX Runtime reads this when it is imported, long before any of its own switches can be reached.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_REQUIRED = ("onnx", "onnx_ir", "onnxruntime", "numba", "tomlkit", "grpc_health", "grpc_reflection")


def main() -> None:
    """Runs the command line; says which extra is missing if the service is not installed."""
    from importlib.util import find_spec  # noqa: PLC0415 - stays cheap for `--help` in a base installation

    missing = [name for name in _REQUIRED if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"ortoscope-server needs {', '.join(missing)}, which this installation does not have.\n"
            "Install the service with: pip install 'ortoscope[server]' (or 'ortoscope[server-gpu]' for CUDA).\n"
        )
        raise SystemExit(1)
    from ortoscope_service.commands import app  # noqa: PLC0415 - imports ONNX Runtime

    app()


if __name__ == "__main__":
    main()
