"""Generates the Python stubs of every .proto file, at the places they have in the repository.

    python protos/generate.py [OUTPUT_ROOT]    the stubs, below OUTPUT_ROOT (this repository if left out)
    python protos/generate.py --include DIR    only the google/*.proto that ours import, for tools such as buf

The google/*.proto come from the installed googleapis-common-protos, assembled in an include folder where
`operations_proto.proto` gets the name under which its descriptor is registered, `operations.proto`. Stubs of
`ortoscope.v1` land in the client package; those of the Open Inference Protocol land inside the service alone,
because a process may register `inference.*` only once and tritonclient does it too.
"""

import argparse
import re
import shutil
import tempfile
from pathlib import Path

import grpc_tools
from google.api import annotations_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
CLIENT = Path("clients/python")
OPEN_INFERENCE = Path("service/ortoscope_service/api/open_inference")


def assemble_google_protos(include: Path) -> None:
    """Makes `include`/google anew, of the google/*.proto of the installed packages."""
    shutil.rmtree(include / "google", ignore_errors=True)
    google_root = Path(annotations_pb2.__file__).parent.parent
    for source in google_root.rglob("*.proto"):
        target = include / "google" / source.relative_to(google_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    longrunning = include / "google/longrunning"
    (longrunning / "operations_proto.proto").replace(longrunning / "operations.proto")


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
            text = re.sub(r"(?m)^from inference import", "from ortoscope_service.api.open_inference import", text)
            (open_inference / path.name).write_text(text)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Generates the Python stubs of every .proto file.")
    parser.add_argument(
        "output_root", nargs="?", type=Path, default=ROOT, metavar="OUTPUT_ROOT", help="this repository"
    )
    parser.add_argument("--include", type=Path, metavar="DIR", help="write the google/*.proto instead")
    arguments = parser.parse_args()
    if arguments.include is not None:
        assemble_google_protos(arguments.include)
    else:
        generate(arguments.output_root)


if __name__ == "__main__":
    main()
