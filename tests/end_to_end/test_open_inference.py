"""A stock tritonclient, in an environment of its own, against a running server; and our client beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_environment import ClientEnvironment, client_environment
from ortoscope_service.api.server import Server
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.repository import ModelRepository
from serving import PREPROCESSING, add_model, run_directly, serving
from tiny_models import random_feeds, tiny_cnn

# The environment is made once; packages come as fast as the network lets them.
pytestmark = pytest.mark.timeout(900)

HEAVY = ("torch", "onnx", "onnxruntime", "scipy", "umap", "pandas")


@pytest.fixture(scope="module")
def environment() -> ClientEnvironment:
    return client_environment()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("inference")
    add_model(ModelRepository(folder / "models"), "cnn", tiny_cnn(), preprocessing=PREPROCESSING)
    config = ServerConfig(models=folder / "models", store=folder / "store", listen="127.0.0.1:0")
    with serving(config) as (server, _):
        yield server


@pytest.fixture
def image(tmp_path: Path) -> tuple[np.ndarray, str]:
    """An input, and the file that holds it."""
    (values,) = random_feeds(tiny_cnn(), 3).values()
    np.save(tmp_path / "image.npy", values)
    return values, str(tmp_path / "image.npy")


TRITON = """
import json, sys
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1])
image = np.load(sys.argv[2])
metadata = client.get_model_metadata("cnn")

def infer(*names, **options):
    tensor = triton.InferInput("image", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    outputs = [triton.InferRequestedOutput(name) for name in names] or None
    return client.infer("cnn", [tensor], outputs=outputs, **options)

def refusal(call):
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]

result = infer("relu6", "logits", request_id="seven")
np.savez(sys.argv[3], relu6=result.as_numpy("relu6"), own=infer().as_numpy("logits"), logits=result.as_numpy("logits"))
print(json.dumps({
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model": client.is_model_ready("cnn"),
    "version": client.is_model_ready("cnn", "1"),
    "absent": client.is_model_ready("absent"),
    "server": client.get_server_metadata().name,
    "platform": metadata.platform,
    "inputs": [[i.name, i.datatype, list(i.shape)] for i in metadata.inputs],
    "outputs": [o.name for o in metadata.outputs],
    "id": result.get_response().id,
    "unknown": refusal(lambda: infer("relu7")),
    "unknown_model": refusal(lambda: client.get_model_metadata("absent")),
    "classification": refusal(lambda: client.infer("cnn", [], outputs=[
        triton.InferRequestedOutput("logits", class_count=3)])),
    "gzip": infer("relu6", compression_algorithm="gzip").as_numpy("relu6").tolist()
        == result.as_numpy("relu6").tolist(),
}))
"""


def test_a_stock_tritonclient_gets_a_hidden_layer_by_name(
    environment: ClientEnvironment, server: Server, image: tuple[np.ndarray, str], tmp_path: Path
) -> None:
    values, file = image
    told: dict[str, Any] = json.loads(environment.run(TRITON, server.address, file, str(tmp_path / "got.npz")))
    assert told["live"]
    assert told["ready"]
    assert told["model"]
    assert told["version"]
    assert told["absent"] is False
    assert told["server"] == "ortoscope"
    assert told["platform"] == "onnx_onnxv1"
    assert told["inputs"] == [["image", "FP32", [-1, 3, 16, 16]]]
    assert told["outputs"][0] == "logits"
    assert {"relu6", "conv1", "flat"} <= set(told["outputs"])
    assert told["id"] == "seven"
    assert told["gzip"]

    expected = run_directly(tiny_cnn(), ["relu6", "logits"], {"image": values})
    with np.load(tmp_path / "got.npz", allow_pickle=False) as got:
        np.testing.assert_allclose(got["relu6"], expected["relu6"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["own"], expected["logits"], rtol=1e-4, atol=1e-5)

    status, message = told["unknown"]
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "'relu7'" in message
    assert "'logits'" in message
    assert "'relu6'" in message
    assert told["unknown_model"][0] == "StatusCode.NOT_FOUND"
    assert told["classification"][0] in {"StatusCode.UNIMPLEMENTED", "StatusCode.INVALID_ARGUMENT"}


def test_the_client_pulls_in_nothing_heavy(environment: ClientEnvironment) -> None:
    script = (
        "import sys, ortoscope\n"
        "assert callable(ortoscope.connect)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    assert environment.run(script) == "[]\n"
    installed = f"from importlib.util import find_spec\nprint([n for n in {HEAVY!r} if find_spec(n)])\n"
    assert environment.run(installed) == "[]\n"


TOGETHER = """
import sys
import numpy as np
import {first}
import {second}
import ortoscope
import tritonclient.grpc as triton

image = np.load(sys.argv[2])
tensor = triton.InferInput("image", list(image.shape), "FP32")
tensor.set_data_from_numpy(image)
theirs = triton.InferenceServerClient(sys.argv[1]).infer("cnn", [tensor], outputs=[triton.InferRequestedOutput("flat")])
with ortoscope.connect(sys.argv[1]) as scope:
    ours = scope.model("cnn").activate(image, "flat")
np.testing.assert_array_equal(ours["flat"].values, theirs.as_numpy("flat"))
print("both")
"""


@pytest.mark.parametrize("modules", [("ortoscope", "tritonclient.grpc"), ("tritonclient.grpc", "ortoscope")])
def test_both_clients_work_in_one_process(
    environment: ClientEnvironment, server: Server, image: tuple[np.ndarray, str], modules: tuple[str, str]
) -> None:
    script = TOGETHER.format(first=modules[0], second=modules[1])
    assert environment.run(script, server.address, image[1]) == "both\n"
