"""Trains the zoo's character model: an LSTM that predicts the next character (Karpathy, Johnson, Fei-Fei 2015).

    pip install -r requirements.txt
    python character_model.py --out ../service/ortoscope_service/models/zoo/character_lstm.npz

The network: x = E[token]; z = W x + R h + b; i, o, f = sigmoid(z), g = tanh(z); c = f c + i g; h = o tanh(c);
logits = V h + d. Gates stand in the order of ONNX's LSTM: i, o, f, g. It is trained by backpropagation through time,
cut off after `STEPS` characters, with Adam, on text from `character_text`: streams side by side, whose state is
carried from one stretch to the next. The same seed and the same build of NumPy give the same weights.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from character_text import VOCABULARY, write_text
from numpy.typing import NDArray

HIDDEN = 64
EMBEDDING = 24
STREAMS = 64
STEPS = 96
RATE = 4e-3
LAST_RATE = 2e-4
CLIP = 1.0
"""Longest gradient of all weights together; a longer one is shortened to that."""

Array = NDArray[Any]
Weights = dict[str, Array]
State = tuple[Array, Array]


def initial_weights(rng: np.random.Generator) -> Weights:
    """Uniform within 1/sqrt(fan-in); the forget gate opens with a bias of 1 (Gers et al. 2000)."""

    def uniform(*shape: int) -> Array:
        limit = 1 / math.sqrt(shape[-1])
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    bias = np.zeros(4 * HIDDEN, np.float32)
    bias[2 * HIDDEN : 3 * HIDDEN] = 1
    return {
        "embedding": rng.standard_normal((len(VOCABULARY), EMBEDDING)).astype(np.float32) * np.float32(0.3),
        "input": uniform(4 * HIDDEN, EMBEDDING),
        "recurrent": uniform(4 * HIDDEN, HIDDEN),
        "bias": bias,
        "output": uniform(len(VOCABULARY), HIDDEN),
        "output_bias": np.zeros(len(VOCABULARY), np.float32),
    }


def loss_and_gradient(weights: Weights, tokens: Array, following: Array, state: State) -> tuple[float, Weights, State]:
    """The mean cross-entropy of the following characters in nats, its gradient by the weights, and the last state.

    Args:
        weights: The weights.
        tokens: (steps, streams) indices.
        following: (steps, streams) the indices that are to be predicted.
        state: h and c before the first step, (streams, HIDDEN).
    """
    steps, streams = tokens.shape
    hidden = weights["recurrent"].shape[1]
    dtype = weights["recurrent"].dtype
    rows = weights["embedding"] @ weights["input"].T + weights["bias"]
    z = rows[tokens]
    gates = np.empty_like(z)
    outputs, cells = (np.empty((steps + 1, streams, hidden), dtype) for _ in range(2))
    outputs[0], cells[0] = state
    squashed = np.empty((steps, streams, hidden), dtype)
    recurrent = np.ascontiguousarray(weights["recurrent"].T)
    for t in range(steps):
        z[t] += outputs[t] @ recurrent
        gates[t, :, : 3 * hidden] = 0.5 * (1 + np.tanh(0.5 * z[t, :, : 3 * hidden]))
        gates[t, :, 3 * hidden :] = np.tanh(z[t, :, 3 * hidden :])
        i, o, f, g = np.split(gates[t], 4, axis=1)
        cells[t + 1] = f * cells[t] + i * g
        squashed[t] = np.tanh(cells[t + 1])
        outputs[t + 1] = o * squashed[t]

    flat = outputs[1:].reshape(-1, hidden)
    logits = flat @ weights["output"].T + weights["output_bias"]
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    picked = np.arange(flat.shape[0]), following.ravel()
    loss = float(-np.log(np.maximum(probabilities[picked], 1e-30)).mean())
    by_logit = probabilities
    by_logit[picked] -= 1
    by_logit /= len(by_logit)

    by_output = (by_logit @ weights["output"]).reshape(steps, streams, hidden)
    by_z = np.empty_like(z)
    by_h, by_c = np.zeros((streams, hidden), dtype), np.zeros((streams, hidden), dtype)
    for t in reversed(range(steps)):
        i, o, f, g = np.split(gates[t], 4, axis=1)
        by_h = by_output[t] + by_h
        by_c = by_c + by_h * o * (1 - squashed[t] ** 2)
        by_z[t] = np.concatenate(
            [
                by_c * g * i * (1 - i),
                by_h * squashed[t] * o * (1 - o),
                by_c * cells[t] * f * (1 - f),
                by_c * i * (1 - g**2),
            ],
            axis=1,
        )
        by_h, by_c = by_z[t] @ weights["recurrent"], by_c * f

    flat_z = by_z.reshape(-1, 4 * hidden)
    chosen = np.zeros((flat_z.shape[0], len(weights["embedding"])), dtype)
    chosen[np.arange(len(chosen)), tokens.ravel()] = 1
    by_row = chosen.T @ flat_z
    gradient = {
        "embedding": by_row @ weights["input"],
        "input": by_row.T @ weights["embedding"],
        "recurrent": flat_z.T @ outputs[:-1].reshape(-1, hidden),
        "bias": flat_z.sum(axis=0),
        "output": by_logit.T @ flat,
        "output_bias": by_logit.sum(axis=0),
    }
    return loss, gradient, (outputs[-1], cells[-1])


class Adam:
    """Adam (Kingma & Ba 2015) with a gradient clipped by its length."""

    def __init__(self, weights: Weights) -> None:
        self._first = {name: np.zeros_like(array) for name, array in weights.items()}
        self._second = {name: np.zeros_like(array) for name, array in weights.items()}
        self._count = 0

    def step(self, weights: Weights, gradient: Mapping[str, Array], rate: float) -> None:
        """Changes the weights in place."""
        self._count += 1
        length = math.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in gradient.values()))
        factor = np.float32(min(1.0, CLIP / max(length, 1e-12)))
        for name, array in gradient.items():
            g = array * factor
            self._first[name] += np.float32(0.1) * (g - self._first[name])
            self._second[name] += np.float32(0.01) * (g * g - self._second[name])
            first = self._first[name] / (1 - 0.9**self._count)
            second = self._second[name] / (1 - 0.99**self._count)
            weights[name] -= (rate * first / (np.sqrt(second) + 1e-8)).astype(np.float32)


def stretches(text: str) -> Iterator[tuple[Array, Array, bool]]:
    """Stretches of `STREAMS` streams without end: tokens, what follows, and whether the streams begin anew."""
    index = {character: number for number, character in enumerate(VOCABULARY)}
    tokens = np.array([index[character] for character in text], np.int64)
    length = len(tokens) // STREAMS
    streams = tokens[: length * STREAMS].reshape(STREAMS, length).T
    while True:
        for start in range(0, length - STEPS - 1, STEPS):
            yield streams[start : start + STEPS], streams[start + 1 : start + STEPS + 1], start == 0


def train(*, seed: int, updates: int, characters: int) -> Weights:
    """The weights after so many updates."""
    weights = initial_weights(np.random.default_rng(seed))
    optimizer = Adam(weights)
    rest = np.zeros((STREAMS, HIDDEN), np.float32)
    state: State = (rest, rest)
    started, mean = time.monotonic(), math.log(len(VOCABULARY))
    for number, (tokens, following, anew) in zip(range(updates), stretches(write_text(seed, characters)), strict=False):
        if anew:
            state = (rest, rest)
        loss, gradient, state = loss_and_gradient(weights, tokens, following, state)
        fall = 0.5 * (1 + math.cos(math.pi * number / updates))
        optimizer.step(weights, gradient, LAST_RATE + (RATE - LAST_RATE) * fall)
        mean += 0.02 * (loss - mean)
        if number % 100 == 99:
            seconds = time.monotonic() - started
            sys.stderr.write(f"{number + 1} updates, {seconds:.0f} s: {mean / math.log(2):.3f} bits per character\n")
    return weights


def main() -> None:
    """Trains and writes the weights."""
    parser = argparse.ArgumentParser(description="Trains the zoo's character model.")
    parser.add_argument("--out", type=Path, required=True, help="The .npz file to write.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=5000)
    parser.add_argument("--characters", type=int, default=4_000_000, help="Length of the text.")
    options = parser.parse_args()
    weights = train(seed=options.seed, updates=options.updates, characters=options.characters)
    np.savez(options.out, **weights)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
