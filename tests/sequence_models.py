"""A character model whose cells are known in closed form, and a server with it, for the tests of text and tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from ortoscope_service.config import Limits, ServerConfig
from ortoscope_service.models.onboarding import prepare
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.models.zoo import character_lstm
from serving import add_model, serving
from tiny_models import GraphBuilder, float_value, tiny_mlp, tiny_transformer

CHARACTERS = tuple('\n ()"abcdefghijklmnopqrstuvwxyz.')
"""The vocabulary of `counting_lstm`."""

_SURE = 40.0
"""A gate's input at which a sigmoid is 0 or 1 in single precision, and a tanh -1 or 1."""

WEIGHTS = np.array([2.0, -1.0, 0.5, 0.0], np.float32)
"""What `linear` multiplies its features by."""

FEATURES = ("age", "income", "debt", "noise")
"""Names for the features of `linear`."""


def counting_weights() -> dict[str, np.ndarray]:
    """Two cells: the first counts open brackets; the second is 1 inside of quotations and -1 (at first 0) outside.

    First: i = f = 1, g = ±1 at a bracket and 0 elsewhere, so that c is the depth. Second: f = 1 and i = 0, but at a
    quotation mark f = 0, i = 1 and g = -1 if h, which is about 0.76 inside, is above 3/8, else 1. The output gates are
    open, so that h = tanh(c).
    """
    count, hidden = len(CHARACTERS), 2
    by_character = np.zeros((4, hidden, count), np.float32)  # gates in the order i, o, f, g
    recurrent = np.zeros((4, hidden, hidden), np.float32)
    bias = np.zeros((4, hidden), np.float32)
    bias[:3] = _SURE
    by_character[3, 0, CHARACTERS.index("(")] = _SURE
    by_character[3, 0, CHARACTERS.index(")")] = -_SURE
    quote = CHARACTERS.index('"')
    bias[0, 1] = -_SURE
    by_character[0, 1, quote] = 2 * _SURE
    by_character[2, 1, quote] = -2 * _SURE
    recurrent[3, 1, 1] = -8 * _SURE / 3
    bias[3, 1] = _SURE
    output = np.zeros((count, hidden), np.float32)
    return {
        "embedding": np.eye(count, dtype=np.float32),
        "input": by_character.reshape(4 * hidden, count),
        "recurrent": recurrent.reshape(4 * hidden, hidden),
        "bias": bias.ravel(),
        "output": output,
        "output_bias": np.zeros(count, np.float32),
    }


def depths(text: str) -> np.ndarray:
    """How many brackets are open behind each character."""
    return np.cumsum([(character == "(") - (character == ")") for character in text])


def quoted(text: str) -> np.ndarray:
    """1 from an opening quotation mark on, -1 from a closing one on, 0 before the first."""
    counts = np.cumsum([character == '"' for character in text])
    return np.where(counts == 0, 0, np.where(counts % 2, 1, -1))


def linear() -> onnx.ModelProto:
    """`features` (n, 4) times `WEIGHTS`, and the negative of that: `scores` (n, 2)."""
    g = GraphBuilder(0)
    weights = g.constant("weights", np.stack([WEIGHTS, -WEIGHTS], axis=1))
    g.node("MatMul", ["features", weights], "scores")
    return g.model([float_value("features", ["n", 4])], [float_value("scores", ["n", 2])], opset=17)


@contextmanager
def running_sequence_server(root: Path) -> Iterator[str]:
    """Serves `counter`, `text` (a transformer for six tokens), `linear` and `mlp`; yields the target."""
    repository = ModelRepository(root / "models")
    source = root / "counter.onnx"
    source.write_bytes(character_lstm.assemble(counting_weights()))
    prepare(source, repository, labels=CHARACTERS)
    add_model(repository, "text", tiny_transformer())
    add_model(repository, "linear", linear(), class_labels=("good", "bad"))
    add_model(repository, "mlp", tiny_mlp(), class_labels=())
    (root / "datasets").mkdir()
    config = ServerConfig(
        models=root / "models",
        datasets=root / "datasets",
        store=root / "store",
        listen="127.0.0.1:0",
        limits=Limits(max_items_per_request=8, max_message_bytes=4 * 1024**2),
    )
    with serving(config) as (server, _):
        yield server.address
