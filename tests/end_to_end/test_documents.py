"""Every Python example of the README and the guides runs, in order, against a real server with the zoo's model."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ortoscope_service.api.server import make_server
from ortoscope_service.config import ServerConfig
from ortoscope_service.datasets.rendered_scenes import render_scenes
from ortoscope_service.models.onboarding import prepare_zoo
from ortoscope_service.models.repository import ModelRepository
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TARGET = "localhost:50051"


def python_blocks(document: str) -> list[str]:
    """The Python examples of a document, without those for programs that are not part of this project's environment."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [block for block in blocks if "tritonclient" not in block]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("skimage", reason="the zoo's weights come with the extra `demo`")
    root = tmp_path_factory.mktemp("documents")
    prepare_zoo("efficientnet-lite0", ModelRepository(root / "models"))
    render_scenes(root / "datasets" / "rendered-scenes", count=24)
    config = ServerConfig(
        models=root / "models", datasets=root / "datasets", store=root / "store", listen="127.0.0.1:0"
    )
    server = make_server(config)
    yield server.address
    server.stop(1.0)


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_the_python_examples_run_as_they_stand(document: str, target: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("cat.jpg", "dog.jpg")):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(name)
    blocks = python_blocks(document)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        assert "localhost" not in block or TARGET in block
        exec(compile(block.replace(TARGET, target), f"{document}", "exec"), names)
    scope = names["scope"]
    scope.close()  # type: ignore[attr-defined]
    assert {"tally.csv", "dissection.npz", "provenance.json", "index.html"} <= {
        path.name for path in Path("report").iterdir()
    }
