"""The zoo's character model: how it is trained, what it learned, and that its cells are seen."""

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import ortoscope
import pytest
from ortoscope.text import TextActivations, activations_of_text
from ortoscope_service.config import ServerConfig
from ortoscope_service.models import zoo
from ortoscope_service.models.onboarding import prepare_zoo
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.models.zoo import character_lstm
from serving import serving

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    """A script of the folder `training`, which is no package."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "training" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


text = script("character_text")
training = script("character_model")


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    with np.load(Path(character_lstm.__file__).with_name("character_lstm.npz")) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def held_out() -> str:
    """Text that was not trained on."""
    return str(text.write_text(seed=12345, characters=6000))


@pytest.fixture(scope="module")
def states(held_out: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextActivations]:
    """The model's cells on it, asked of a real server."""
    root = tmp_path_factory.mktemp("zoo")
    report = prepare_zoo("character-lstm", ModelRepository(root / "models"))
    assert {"lstm.hidden", "lstm.cell"} <= {tap.tensor for tap in report.version.manifest.taps}
    (root / "datasets").mkdir()
    config = ServerConfig(
        models=root / "models", datasets=root / "datasets", store=root / "store", listen="127.0.0.1:0"
    )
    with serving(config) as (server, _), ortoscope.connect(server.address) as scope:
        model = scope.model("character-lstm")
        yield activations_of_text(scope.rpcs, model.proto, model.tap("lstm.cell").proto, held_out)


def encoded(content: str) -> np.ndarray:
    return np.array([text.VOCABULARY.index(character) for character in content])


def logits(weights: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(character_lstm.assemble(weights), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"tokens": tokens})
    return np.asarray(found)


def bits(scores: np.ndarray, following: np.ndarray) -> float:
    """The mean cross-entropy of the following tokens."""
    scores = scores.astype(np.float64)
    normal = np.log(np.exp(scores - scores.max(-1, keepdims=True)).sum(-1)) + scores.max(-1)
    picked = np.take_along_axis(scores, following[..., None], -1)[..., 0]
    return float((normal - picked).mean() / math.log(2))


def test_the_text_has_only_characters_of_the_vocabulary_and_closes_what_it_opens() -> None:
    content = text.write_text(seed=1, characters=20_000)
    assert set(content) <= set(text.VOCABULARY) == set(character_lstm.CHARACTERS)
    assert content == text.write_text(seed=1, characters=20_000) != text.write_text(seed=2, characters=20_000)
    for paragraph in content.split("\n\n"):
        assert paragraph.count('"') % 2 == 0
        assert not text.bracket_depth(paragraph + " ")[-1]
    assert max(text.bracket_depth(content)) > 2
    assert text.inside_quotes('a"b"c') == [False, True, True, False, False]


def test_the_gradient_of_the_training_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "HIDDEN", 3)
    rng = np.random.default_rng(0)
    weights = {name: array.astype(np.float64) for name, array in training.initial_weights(rng).items()}
    tokens, following = rng.integers(0, len(text.VOCABULARY), (2, 5, 2))
    state = (rng.normal(size=(2, 3)), rng.normal(size=(2, 3)))
    _, gradient, _ = training.loss_and_gradient(weights, tokens, following, state)
    for name, array in weights.items():
        direction, step = rng.normal(size=array.shape), 1e-6
        ends = []
        for sign in (1, -1):
            moved: dict[str, Any] = {**weights, name: array + sign * step * direction}
            ends.append(training.loss_and_gradient(moved, tokens, following, state)[0])
        assert (gradient[name] * direction).sum() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6), name


def test_the_onnx_graph_computes_what_was_trained(weights: dict[str, np.ndarray], held_out: str) -> None:
    tokens = encoded(held_out[:401])
    streams = np.stack([tokens[:200], tokens[200:400]])
    following = np.stack([tokens[1:201], tokens[201:401]])
    rest = np.zeros((2, training.HIDDEN), np.float32)
    loss, _, _ = training.loss_and_gradient(weights, streams.T, following.T, (rest, rest))
    assert bits(logits(weights, streams), following) == pytest.approx(loss / math.log(2), rel=1e-4)


def test_the_file_is_small_and_valid(weights: dict[str, np.ndarray]) -> None:
    built = zoo.build("character-lstm")
    onnx.checker.check_model(onnx.load_from_string(built.model), full_check=True)
    assert built.preprocessing is None
    assert built.labels == character_lstm.CHARACTERS
    assert Path(character_lstm.__file__).with_name("character_lstm.npz").stat().st_size < 300_000
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in weights.values())


def test_it_predicts_text_that_it_has_not_seen(weights: dict[str, np.ndarray], held_out: str) -> None:
    tokens = encoded(held_out)
    counts = np.bincount(tokens)
    shares = counts[counts > 0] / counts.sum()
    without_context = -(shares * np.log2(shares)).sum()
    assert bits(logits(weights, tokens[None, :-1]), tokens[None, 1:]) < 0.45 * without_context


def prose_of(content: str) -> np.ndarray:
    """For each character whether it is prose: its paragraph assigns nothing."""
    found: list[bool] = []
    for paragraph in content.split("\n\n"):
        found += [" = " not in paragraph] * (len(paragraph) + 2)
    return np.array(found[: len(content)])


def columns_of(content: str) -> np.ndarray:
    """The place of each character in its line."""
    return np.concatenate([np.arange(len(line)) for line in content.splitlines(keepends=True)])


def best_following(states: TextActivations, signal: np.ndarray, places: np.ndarray) -> float:
    """The largest absolute correlation of a unit with a signal at some places."""
    return max(abs(float(np.corrcoef(values[places], signal[places])[0, 1])) for values in states.values.T)


def test_a_cell_knows_in_the_middle_of_words_whether_they_are_quoted(states: TextActivations, held_out: str) -> None:
    inside = np.array(text.inside_quotes(held_out))
    marks = np.flatnonzero([character == '"' for character in held_out])
    far = np.abs(np.arange(len(held_out))[:, None] - marks).min(axis=1) > 5
    letters = np.array([character.isalpha() for character in held_out])
    assert best_following(states, inside, letters & far & prose_of(held_out)) > 0.8


def test_a_cell_counts_the_columns_of_prose(states: TextActivations, held_out: str) -> None:
    assert best_following(states, columns_of(held_out), prose_of(held_out)) > 0.8
