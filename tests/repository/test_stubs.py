"""The committed stubs are those of the protos, and the protos say what each rpc refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
STUB_FOLDERS = (
    Path("clients/python/ortoscope/v1"),
    Path("service/ortoscope_service/api/open_inference"),
)

# Numbers of descriptor.proto's fields in the paths of SourceCodeInfo.
SERVICE, METHOD = 6, 2


def generate(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, PROTOS / "generate.py", *arguments], check=True, timeout=120)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorSet:
    """Descriptors of all protos and of what they import, ours with their comments."""
    folder = tmp_path_factory.mktemp("descriptors")
    generate("--include", folder)
    output = folder / "all.binpb"
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{folder}"]
    command += ["--include_imports", "--include_source_info", f"--descriptor_set_out={output}", *sources]
    subprocess.run(command, check=True, timeout=120)
    return descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())


def rpc_comments(files: descriptor_pb2.FileDescriptorSet, package: str) -> dict[str, str]:
    """The comment above every rpc of a package, by `Service.Method`."""
    comments = {}
    for file in files.file:
        if file.package != package:
            continue
        above = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for i, service in enumerate(file.service):
            for j, method in enumerate(service.method):
                comments[f"{service.name}.{method.name}"] = above.get((SERVICE, i, METHOD, j), "")
    return comments


def test_committed_stubs_equal_a_fresh_generation(tmp_path: Path) -> None:
    generate(tmp_path)
    for folder in STUB_FOLDERS:
        fresh = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        committed = {path.name: path.read_bytes() for path in (ROOT / folder).glob("*_pb2*.py*")}
        assert fresh.keys() == committed.keys()
        stale = [name for name in fresh if fresh[name] != committed[name]]
        assert not stale, f"run `make protos`: {stale}"
    generated = {path.relative_to(tmp_path).parent for path in tmp_path.rglob("*_pb2*")}
    assert generated == set(STUB_FOLDERS)


def test_every_type_that_an_rpc_names_exists(files: descriptor_pb2.FileDescriptorSet) -> None:
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    rpcs = 0
    for file in files.file:
        for service in file.service if file.package in {"ortoscope.v1", "inference"} else ():
            for method in service.method:
                rpcs += 1
                pool.FindMessageTypeByName(method.input_type.lstrip("."))
                pool.FindMessageTypeByName(method.output_type.lstrip("."))
                long_running = method.output_type == ".google.longrunning.Operation"
                assert method.options.HasExtension(operations_pb2.operation_info) == long_running, method.name
                if long_running:
                    information = method.options.Extensions[operations_pb2.operation_info]
                    for name in (information.response_type, information.metadata_type):
                        pool.FindMessageTypeByName(name if "." in name else f"{file.package}.{name}")
    assert rpcs > 0


def test_every_rpc_says_which_errors_it_gives(files: descriptor_pb2.FileDescriptorSet) -> None:
    comments = rpc_comments(files, "ortoscope.v1")
    assert comments
    silent = [
        name
        for name, comment in comments.items()
        if "\n Errors:" not in f"\n{comment}" and not name.startswith("Capabilities.")
    ]
    assert not silent


def test_an_rpc_without_a_comment_is_seen(files: descriptor_pb2.FileDescriptorSet) -> None:
    bare = descriptor_pb2.FileDescriptorSet.FromString(files.SerializeToString())
    for file in bare.file:
        file.ClearField("source_code_info")
    assert set(rpc_comments(bare, "ortoscope.v1").values()) == {""}
