"""The guide and the notebook about feature visualization run as they stand, against a server with a small model."""

import base64
import io
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pictures import encode, photo
from PIL import Image
from visualization_server import running_guides_server

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "feature-visualization.md"
NOTEBOOK = ROOT / "docs" / "notebooks" / "feature-visualization.ipynb"
TARGET = "localhost:50051"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_guides_server(tmp_path_factory.mktemp("guides")) as address:
        yield address


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the pictures that the guide names."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("cat.jpg", "dog.jpg")):
        picture = photo(40, 32, seed=number)
        (tmp_path / name).write_bytes(encode(picture, "JPEG"))
    return tmp_path


def test_the_python_examples_of_the_guide_run_as_they_stand(target: str, folder: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block.replace(TARGET, target), GUIDE.name, "exec"), names)
    names["scope"].close()
    assert names["again"].same
    assert {path.name for path in folder.iterdir()} >= {"unit3.png", "unit5.png", "sheet"}


def test_the_guide_knows_every_preset_and_every_objective(target: str) -> None:
    import ortoscope
    from ortoscope.v1 import visualization_pb2

    text = GUIDE.read_text(encoding="utf-8")
    with ortoscope.connect(target) as scope:
        presets = {preset.name for preset in scope.presets()}
    table = text.partition("## How it is climbed")[2].partition("`source` of each")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == presets
    kinds = {field.name for field in visualization_pb2.VisualizationObjective.DESCRIPTOR.fields}
    objectives = text.partition("| function |")[2].partition("## How it is climbed")[0]
    named = set(re.findall(r"`(\w+)", objectives))
    assert kinds - {"sum", "product", "scaled"} <= named


@pytest.mark.filterwarnings("ignore")  # of the notebook's own machinery
def test_the_notebook_runs_and_its_pictures_show_themselves(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient")
    if find_spec("ipykernel") is None:
        pytest.skip("notebooks need a kernel")
    import nbformat

    monkeypatch.setenv("ORTOSCOPE_TARGET", target)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [
        output.data
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type in {"execute_result", "display_data"}
    ]
    pictures = [data["image/png"] for data in shown if "image/png" in data]
    assert len(pictures) >= 7
    for encoded in pictures:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert min(picture.size) >= 64
    assert any("data:image/png" in data.get("text/html", "") for data in shown)
    assert shown[-1]["text/plain"] == "True"


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
