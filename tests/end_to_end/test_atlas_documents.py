"""The guide, the notebook and the commands about atlases run as they stand, against a server with a small model."""

import base64
import io
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ortoscope
import pytest
from command_line import command, environment, run, run_json
from gradient_models import LABELS
from ortoscope.v1 import atlases_pb2
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository
from pictures import encode, photo
from PIL import Image
from serving import add_model, serving
from visualization_server import stand_in

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "activation-atlas.md"
NOTEBOOK = ROOT / "docs" / "notebooks" / "activation-atlas.ipynb"
TARGET = "localhost:50051"
QUICK = ("--set", "icons.size=32", "--set", "icons.steps=8", "--set", "icons.attempts=1", "--set", "icons.warm_steps=4")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serves `stand_in` as `efficientnet-lite0`, and some pictures as `rendered-scenes`."""
    root = tmp_path_factory.mktemp("atlases")
    preprocessing = Preprocessing(
        "nchw", "rgb", (127.0,) * 3, (128.0,) * 3, "squash", 32, 32, 32, "not verified: a test"
    )
    repository = ModelRepository(root / "models")
    add_model(repository, "efficientnet-lite0", stand_in(), preprocessing=preprocessing, class_labels=LABELS)
    folder = root / "datasets" / "rendered-scenes"
    folder.mkdir(parents=True)
    for number in range(24):
        (folder / f"{number:02d}.png").write_bytes(encode(photo(40, 32, seed=number), "PNG"))
    config = ServerConfig(
        models=root / "models", datasets=root / "datasets", store=root / "store", listen="127.0.0.1:0"
    )
    with serving(config) as (server, _):
        yield server.address


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.long
def test_the_python_examples_of_the_guide_run_as_they_stand(target: str, folder: Path) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(block.replace(TARGET, target), GUIDE.name, "exec"), names)
    names["scope"].close()
    assert {path.name for path in folder.iterdir()} >= {"atlas", "map.png", "drift.html"}
    assert (folder / "atlas" / "index.html").stat().st_size > 10_000


def test_the_guide_names_every_group_of_settings_and_every_preset() -> None:
    from ortoscope_service.analysis.atlas.settings import PRESETS, AtlasSettings

    text = GUIDE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == set(PRESETS)
    assert set(re.findall(r"^\| `(\w+)\.\*` \|", text, re.MULTILINE)) == set(AtlasSettings.__dataclass_fields__)
    for group, name in re.findall(r"`(layout|icons|grid|collection)\.(\w+)`", text):
        assert hasattr(getattr(AtlasSettings(), group), name)


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
    assert len(pictures) >= 4
    for encoded in pictures:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert min(picture.size) >= 200
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 2
    assert shown[-1]["text/plain"] == "'atlas.html'"


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_the_command_builds_a_page_and_what_it_says_of_itself_makes_it_again(target: str, folder: Path) -> None:
    words = ("atlas", "efficientnet-lite0", "--tap", "blocks.10", "--dataset", "rendered-scenes", "--sites", "8")
    done = run(*words, "--grid", "4,8", *QUICK, "-o", "atlas", "--target", target)
    assert "trustworthiness" in done.stdout
    assert {path.name for path in (folder / "atlas").iterdir()} == {"index.html", "data", "arrays", "provenance.json"}
    record = json.loads((folder / "atlas" / "provenance.json").read_bytes())
    again = run_json(*words, "--grid", "4,8", *QUICK, "-o", "again.html", "--json", "--target", target)
    assert again["name"] != record["run"]["result"]
    with ortoscope.connect(target) as scope:
        first, second = scope.atlas(record["run"]["result"]).proto, scope.atlas(again["name"]).proto
        assert first.levels == second.levels  # blobs are named by their bytes
        assert first.samples == second.samples
        assert first.state == atlases_pb2.Atlas.STATE_COMPLETE
        cells = run("atlas", "cells", first.name, "--grid", "4", "--top", "3", "--target", target).stdout
        assert len(cells.splitlines()) == 5
        seen = scope.atlas(first.name).samples.top_class
        assert seen is not None
        source, aim = int(seen[0]), int(seen[0] + 1) % len(first.class_labels)
        words = ("atlas", "patches", first.name, "--source", str(source), "--class", str(aim), "--size", "0.3")
        searched = run_json(*words, "--json", "--target", target)
        assert all(len(finding["trials"]) == 4 for finding in searched["findings"])  # a corner each
        assert searched["trials"] == 4 * len(searched["findings"])
        run("atlas", "delete", second.name, "--target", target)
        assert first.name in run("atlas", "list", "--target", target).stdout
        with pytest.raises(ortoscope.NotFound):
            scope.atlas(second.name)


def test_an_atlas_without_icons_shows_crops_and_can_be_projected_into(target: str, folder: Path) -> None:
    done = run_json(
        "atlas", "efficientnet-lite0", "--tap", "blocks.10", "--dataset", "rendered-scenes", "--sites", "8",
        "--no-icons", "--grid", "5", "-o", "crops.html", "--json", "--target", target,
    )  # fmt: skip
    assert "icons" not in done["levels"][0]
    assert (folder / "crops.html").stat().st_size > 10_000
    drift = run_json(
        "atlas", "project", done["name"], "--dataset", "rendered-scenes", "-o", "drift", "--json", "--target", target
    )  # fmt: skip
    assert int(drift["sample_count"]) == 24 * 8
    assert (folder / "drift" / "arrays" / "projection.npz").exists()
    same = run_json("atlas", "compare", done["name"], done["name"], "-o", "same.html", "--json", "--target", target)
    assert same["neighbourhood_agreement"] == 1.0


def test_after_an_interrupt_the_finished_level_stays_and_can_be_looked_at(target: str, folder: Path) -> None:
    words = ["atlas", "efficientnet-lite0", "--tap", "blocks.10", "--dataset", "rendered-scenes", "--sites", "8"]
    slow = ["--grid", "4", "--set", "icons.size=64", "--set", "icons.steps=2000", "--seed", "11", "--target", target]
    process = subprocess.Popen(
        command(*words, *slow), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Level 4 x 4"):
            break
    assert line.endswith("cells are there with real crops.\n")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "was asked to cancel" in said
    found = re.search(r"What is finished stays: levels 4 \(crops only\) of (atlases/\w+)\.", said)
    assert found is not None
    done = run_json("atlas", "save", found[1], "-o", "partial.html", "--json", "--target", target)
    assert done["atlases"][0]["state"] == "STATE_PARTIAL"
    assert (folder / "partial.html").stat().st_size > 10_000
