"""A base installation imports the client, and the client only what a base installation brings."""

import ast
import subprocess
import sys
from pathlib import Path

import ortoscope
import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "scipy", "umap", "pandas", "ortoscope_service", "IPython")


def modules_after(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after a statement."""
    program = f"import sys; {statement}; print(chr(10).join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import ortoscope",
        "import ortoscope; ortoscope.connect",
        "import ortoscope.cli.app",
        "import ortoscope.report.page",
    ],
)
def test_the_client_imports_nothing_heavy(statement: str) -> None:
    assert not modules_after(statement) & set(HEAVY)


def test_import_ortoscope_loads_none_of_its_modules() -> None:
    assert not {name for name in modules_after("import ortoscope") if name.startswith("ortoscope.")}


def test_the_messages_load_nothing_else_of_the_client() -> None:
    loaded = {name for name in modules_after("import ortoscope.v1.models_pb2") if name.startswith("ortoscope")}
    assert loaded <= {"ortoscope", "ortoscope.v1"} | {name for name in loaded if name.startswith("ortoscope.v1.")}


def test_asking_for_numbers_loads_no_template_engine() -> None:
    assert "jinja2" not in modules_after("import ortoscope; ortoscope.Dissection; ortoscope.connect")


def test_every_public_name_is_there_and_typed() -> None:
    for name in ortoscope.__all__:
        assert getattr(ortoscope, name).__name__ == name
    tree = ast.parse(Path(ortoscope.__file__).read_text())
    typed = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ortoscope.")
        for alias in node.names
    }
    assert typed == set(ortoscope.__all__)
    assert set(ortoscope.__all__) <= set(dir(ortoscope))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'dissection'"):
        ortoscope.dissection  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert ortoscope.__version__ == version("ortoscope")
