"""A model as the object of an experiment: how it responds to pictures under one convention or another."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.graph.axes import extents
from ortoscope_service.graph.constants import constant_array, float_attribute, int_attribute
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.onboarding.conventions import Convention
from ortoscope_service.models.onboarding.inputs import InputShape, batched_inputs, random_feeds
from ortoscope_service.models.onboarding.running import Arrays, Part
from ortoscope_service.models.preprocessing import normalize

BATCH_NORMALIZATIONS = 3
"""How many of a model's first batch normalizations are looked at: those nearest to the pixels."""

_BATCH = 8
_MANY_UNITS = 16
_LARGEST_DIVERGENCE = 100.0
_SMALLEST_PROBABILITY = 1e-30


@dataclass(frozen=True)
class BatchNormalization:
    """A batch normalization and the statistics of its input that were recorded in training."""

    tensor: str
    """Its input."""

    mean: npt.NDArray[np.float64]
    """(channels,)."""

    variance: npt.NDArray[np.float64]
    """(channels,)."""

    epsilon: float
    """Added to variances."""


@dataclass(frozen=True)
class Response:
    """What a model makes of pictures."""

    scores: npt.NDArray[np.float64]
    """(pictures, views, classes): logits; probabilities are brought back to logits. Of a model without classes: the
    mean over sites of its last tap with at least 16 units."""

    divergence: float | None
    """How far the inputs of the first batch normalizations are from the recorded statistics: mean over channels and
    layers of the Kullback-Leibler divergence between the normal distributions. None without batch normalizations."""

    permuted_divergence: float | None
    """The same with the recorded statistics of other channels: what statistics that mean nothing would give."""


class Subject:
    """A model with an image input.

    Args:
        model: The model.
        inputs: Its inputs; at least one is an image. All image inputs are given the same pictures, the others random
            numbers, the same for all pictures.
        taps: Its taps, at least one.
        preprocessing: Everything of the preprocessing but the convention.
        fixed_batch: The batch size that it is run at; 0 if any.
        classes: Number of classes, where the user's labels tell it.

    Attributes:
        class_output: Name of the output that holds the class scores; empty if there is none.
        batch_normalizations: Number of batch normalizations that are looked at.
    """

    def __init__(
        self,
        model: ir.Model,
        inputs: tuple[InputShape, ...],
        taps: Sequence[Tap],
        preprocessing: Preprocessing,
        fixed_batch: int,
        classes: int = 0,
    ) -> None:
        self._preprocessing = preprocessing
        self._images = [spec.name for spec in inputs if spec.image is not None]
        self._batch = fixed_batch or _BATCH
        self._fill = fixed_batch > 0
        self._batched = batched_inputs(model)
        self._others = {
            name: array[:1] if name in self._batched else array
            for name, array in random_feeds(model, inputs, 1).items()
            if name not in self._images
        }
        self._layers = tuple(_batch_normalizations(model))
        self.batch_normalizations = len(self._layers)
        self.class_output = class_output(model, classes)
        last = next((tap for tap in reversed(taps) if tap.unit_count >= _MANY_UNITS), taps[-1])
        self._scored = self.class_output or last.tensor
        self._unit_axis = 1 if self.class_output else last.unit_axis
        self._part = Part(model, list(dict.fromkeys([self._scored, *(layer.tensor for layer in self._layers)])))

    def respond(self, views: npt.NDArray[np.uint8], convention: Convention) -> Response:
        """Runs pictures through the model.

        Args:
            views: (pictures, views, height, width, 3) uint8, RGB.
            convention: How pixels become numbers.

        Raises:
            OrtoscopeError: If the model does not run.
        """
        preprocessing = replace(
            self._preprocessing, mean=convention.mean, std=convention.std, color_order=convention.color_order
        )
        pictures = views.reshape(-1, *views.shape[2:])
        scores = []
        moments = [_Moments() for _ in self._layers]
        for start in range(0, len(pictures), self._batch):
            batch = pictures[start : start + self._batch]
            values = self._part.run(self._feeds(normalize(batch, preprocessing)))
            scores.append(self._pooled(values[self._scored][: len(batch)]))
            for layer, sums in zip(self._layers, moments, strict=True):
                sums.add(values[layer.tensor][: len(batch)])
        logits = _as_logits(np.concatenate(scores)) if self.class_output else np.concatenate(scores)
        logits = logits.reshape(*views.shape[:2], -1)
        if not self._layers:
            return Response(logits, None, None)
        divergences = [_divergences(sums, layer) for sums, layer in zip(moments, self._layers, strict=True)]
        own, permuted = np.mean(divergences, axis=0)
        return Response(logits, float(own), float(permuted))

    def _feeds(self, pixels: npt.NDArray[np.float32]) -> Mapping[str, npt.NDArray[np.generic]]:
        """The pictures for the image inputs, the last repeated to fill a fixed batch."""
        if self._fill and len(pixels) < self._batch:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], self._batch - len(pixels), axis=0)])
        feeds: Arrays = dict.fromkeys(self._images, pixels)
        for name, array in self._others.items():
            feeds[name] = np.repeat(array, len(pixels), axis=0) if name in self._batched else array
        return feeds

    def _pooled(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        by_unit = np.moveaxis(values, self._unit_axis, 1).reshape(len(values), values.shape[self._unit_axis], -1)
        return np.asarray(by_unit.mean(axis=2, dtype=np.float64))


def class_output(model: ir.Model, classes: int = 0) -> str:
    """Name of the output that holds one score per class, (batch, classes) or (batch, classes, 1, 1); empty if none.

    Of several, one that nothing in the model reads further goes first, then the one with most classes. An embedding
    cannot be told from class scores by its shape; what is measured on it tells.

    Args:
        model: The model.
        classes: The number of classes, if it is known: no other output is taken then.
    """
    found: tuple[bool, int, str] | None = None
    for value in model.graph.outputs:
        shape = extents(value)
        if shape is None or len(shape) < 2 or any(extent != 1 for extent in shape[2:]) or not _is_float(value):
            continue
        size = shape[1] if isinstance(shape[1], int) else classes
        if size < 2 or (classes and size != classes):
            continue
        candidate = (not value.uses(), size, value.name or "")
        if found is None or candidate[:2] > found[:2]:
            found = candidate
    return found[2] if found else ""


def _is_float(value: ir.Value) -> bool:
    return value.dtype in {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}


def _batch_normalizations(model: ir.Model) -> Iterator[BatchNormalization]:
    """The first batch normalizations over images whose statistics are constants."""
    count = 0
    for node in model.graph:
        if node.op_type != "BatchNormalization" or int_attribute(node, "training_mode", 0):
            continue
        value = node.inputs[0]
        mean, variance = constant_array(node.inputs[3]), constant_array(node.inputs[4])
        shape = extents(value) if value is not None else None
        if value is None or value.name is None or mean is None or variance is None or not shape or len(shape) != 4:
            continue
        epsilon = float_attribute(node, "epsilon")
        yield BatchNormalization(
            value.name,
            mean.astype(np.float64),
            variance.astype(np.float64),
            1e-5 if epsilon is None else epsilon,
        )
        count += 1
        if count == BATCH_NORMALIZATIONS:
            return


class _Moments:
    """Sums over items and sites, per channel."""

    def __init__(self) -> None:
        self.count = 0
        self.sum: npt.NDArray[np.float64] | float = 0.0
        self.sum_of_squares: npt.NDArray[np.float64] | float = 0.0

    def add(self, values: npt.NDArray[np.generic]) -> None:
        exact = values.astype(np.float64)
        self.count += exact.size // exact.shape[1]
        self.sum = self.sum + exact.sum(axis=(0, 2, 3))
        self.sum_of_squares = self.sum_of_squares + np.square(exact).sum(axis=(0, 2, 3))


def _divergences(sums: _Moments, layer: BatchNormalization) -> tuple[float, float]:
    """Mean over channels of KL(observed, recorded); and with the recorded of every other channel instead of its own.

    Each term is cut off at a value that is hopeless already.
    """
    mean = np.asarray(sums.sum) / sums.count
    variance = np.maximum(np.asarray(sums.sum_of_squares) / sums.count - mean**2, 0)
    # With epsilon, as in the layer: channels that were silent in training then count for nothing.
    recorded, observed = np.maximum(layer.variance, 0) + layer.epsilon, variance + layer.epsilon
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        distance = np.square(mean[:, None] - layer.mean)
        divergence = 0.5 * (np.log(recorded / observed[:, None]) + (observed[:, None] + distance) / recorded - 1)
    divergence = np.nan_to_num(np.minimum(divergence, _LARGEST_DIVERGENCE), nan=_LARGEST_DIVERGENCE)
    own = np.trace(divergence)
    others = max(1, divergence.size - len(divergence))
    return float(own / len(divergence)), float((divergence.sum() - own) / others)


def _as_logits(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Class scores as logits: the logarithm of probabilities that sum to 1, the log-odds of those that do not."""
    if not np.isfinite(scores).all() or scores.min() < 0 or scores.max() > 1 + 1e-4:
        return scores
    if np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return np.log(np.maximum(scores, _SMALLEST_PROBABILITY))
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    return np.log(clipped / (1 - clipped))


def chance_peak(classes: int) -> float:
    """Expected largest of `classes` standard normal numbers (Blom 1958): the peak of scores that mean nothing."""
    return NormalDist().inv_cdf((classes - 0.375) / (classes + 0.25)) if classes > 1 else math.inf
