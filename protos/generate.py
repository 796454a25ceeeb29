"""Generates the Python stubs of every .proto file: `python protos/generate.py [OUTPUT_ROOT]`.

The google/*.proto that ours import come from the installed googleapis-common-protos, assembled in a temporary
include folder where `operations_proto.proto` gets the name under which its descriptor is registered,
`operations.proto`. Stubs of `ortoscope.v1` land in the client package; those of the Open Inference Protocol land
inside the service alone, because a process may register `inference.*` only once and tritonclient does it too.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

import google.longrunning
import grpc_tools
from google.api import annotations_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
CLIENT = Path("clients/python")
OPEN_INFERENCE = Path("service/ortoscope_service/api/open_inference")


def assemble_google_protos(include: Path) -> None:
    """Copies the google/*.proto of the installed packages into the folder `include`."""
    google_root = Path(annotations_pb2.__file__).parent.parent
    for source in google_root.rglob("*.proto"):
        target = include / "google" / source.relative_to(google_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    operations = next(Path(entry) for entry in google.longrunning.__path__) / "operations_proto.proto"
    shutil.copy(operations, include / "google/longrunning/operations.proto")


def run_protoc(include: Path, output: Path, files: list[str]) -> None:
    """Runs protoc over `files` (relative to the protos folder), with typing stubs."""
    bundled = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{PROTOS}", f"-I{include}", f"-I{bundled}"]
    arguments += [f"--python_out={output}", f"--pyi_out={output}", f"--grpc_python_out={output}", *files]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")


def generate(output_root: Path) -> None:
    """Writes all stubs below `output_root`, at the places they have in the repository."""
    with tempfile.TemporaryDirectory() as temporary:
        include = Path(temporary)
        assemble_google_protos(include)
        client = output_root / CLIENT
        client.mkdir(parents=True, exist_ok=True)
        ours = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "ortoscope").rglob("*.proto"))
        run_protoc(include, client, ours)

        open_inference = output_root / OPEN_INFERENCE
        open_inference.mkdir(parents=True, exist_ok=True)
        staged = include / "staged"
        staged.mkdir()
        run_protoc(include, staged, ["inference/open_inference.proto"])
        for path in (staged / "inference").iterdir():
            text = path.read_text()
            # protoc writes imports by proto path; this package lives deeper.
            text = re.sub(r"^from inference import", "from ortoscope_service.api.open_inference import", text, flags=re.M)
            (open_inference / path.name).write_text(text)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
