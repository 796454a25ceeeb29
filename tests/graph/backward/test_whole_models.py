"""Gradients of whole networks, against central differences in float64 by ONNX's reference evaluator.

Compared are derivatives along normal directions v, <gradient, v>. Errors are relative to the root mean square of such
derivatives, which is about the length of the gradient: a part that is wrong shows however small its share in the sum.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tiny_models
import whole_models
from finite_differences import Arrays, evaluator
from onnx import TensorProto, helper, numpy_helper
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.batch import make_batch_symbolic
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.models import zoo
from ortoscope_service.runtime.sessions import Session

Array = npt.NDArray[Any]

DIRECTIONS = 3
ATTEMPTS = 8
INPUTS = 4
"""Directions that are compared at one input, how many are tried to find so many without a kink, and how many inputs."""

AGREEMENT = 3e-7
"""How well the differences at a step and at half of it must agree; then no kink lies within and rounding is small."""


@dataclass(frozen=True)
class Network:
    """A network to differentiate."""

    name: str
    build: Callable[[], onnx.ModelProto]
    tap: str
    """The logits, or what else the network ends with before a squashing function."""

    batch: int = 2
    """Items in the batch that is compared; 1 where the file has that batch."""

    seed: int = 0
    """Of the first input that is tried."""

    contrast: float = 1
    """Of the input. Deep networks change little with theirs, so that neighbours that a pool compares are all but equal
    and rounding decides between them; a larger one separates them."""

    step: float = 1e-7
    """Of the central differences. Where little changes with the input, rounding asks for a larger one."""

    patch: int = 224
    """Size of the square of a picture that directions move: the fewer pixels, the fewer units cross a kink."""


@dataclass(frozen=True)
class Subject:
    """A network with its backward graph."""

    network: Network
    forward: onnx.ModelProto
    backward: bytes

    def feeds(self, batch: int, seed: int) -> dict[str, Array]:
        """An input of normal values."""
        feeds = tiny_models.random_feeds(self.forward, batch, seed=seed)
        scale = np.float32(self.network.contrast)
        return {name: value * scale if value.dtype == np.float32 else value for name, value in feeds.items()}


@dataclass(frozen=True)
class Truth:
    """Derivatives of <cotangent, tap> at a point along directions."""

    feeds: Arrays
    cotangent: Array
    directions: Sequence[Arrays]
    derivatives: Array

    def error(self, gradients: Arrays) -> float:
        """The largest relative error of the derivatives that gradients at the inputs give."""
        found = [
            sum(np.vdot(gradients[f"gradient.{name}"].astype(np.float64), part) for name, part in along.items())
            for along in self.directions
        ]
        return float(np.abs(np.array(found) - self.derivatives).max() / _size(self.derivatives))


def _light(name: str, tap: str, **options: Any) -> Network:
    return Network(name, lambda: tiny_models.light_model(name), tap, batch=1, **options)


def _zoo() -> onnx.ModelProto:
    return onnx.ModelProto.FromString(zoo.build("efficientnet-lite0").model)


QUICK = (
    _light("squeezenet", "r65"),
    Network("vision transformer", tiny_models.tiny_vision_transformer, "logits"),
    Network("ConvNeXt", whole_models.small_convnext, "logits"),
    Network("U-Net", whole_models.small_unet, "scores"),
    Network("DCGAN generator", whole_models.small_generator, "picture"),
    Network("LSTM", lambda: whole_models.small_recurrent("LSTM"), "scores"),
    Network("GRU", lambda: whole_models.small_recurrent("GRU"), "scores"),
    Network("tabular", whole_models.small_tabular, "scores"),
)
LONG = (
    _light("bvlc_alexnet", "r24"),
    _light("densenet121", "fc6_1", step=1e-5, patch=12),
    _light("inception_v1", "r143"),
    _light("inception_v2", "r507", contrast=10, step=2e-6),
    _light("resnet50", "r174"),
    _light("shufflenet", "r201", step=1e-6),
    _light("vgg19", "r46", seed=1),
    _light("zfnet512", "r20"),
    Network("EfficientNet-Lite0, zoo", _zoo, "logits", batch=1),
)
SHARED = "EfficientNet-Lite0, shared"


@pytest.fixture(
    scope="module",
    params=[*QUICK, *(pytest.param(network, marks=pytest.mark.long) for network in (*LONG, SHARED))],
    ids=lambda network: network if isinstance(network, str) else network.name,
)
def subject(request: pytest.FixtureRequest) -> Subject:
    network = request.param
    if network == SHARED:
        data: Path = request.getfixturevalue("reference_data")
        network = Network(SHARED, lambda: onnx.load(data / "models" / "efficientnet_lite0.onnx"), "logits", batch=1)
    forward = network.build()
    model = make_batch_symbolic(load_model(forward.SerializeToString())).model
    return Subject(network, forward, serialize(build_backward(model, network.tap)))


@pytest.fixture(scope="module")
def truths(subject: Subject) -> Callable[[], Iterator[Truth]]:
    """Truths at one input after the other; each is computed once, when a test first asks for it."""
    source, found = _truths(subject), list[Truth]()

    def replay() -> Iterator[Truth]:
        for index in itertools.count():
            if index == len(found):
                truth = next(source, None)
                if truth is None:
                    return
                found.append(truth)
            yield found[index]

    return replay


def _truths(subject: Subject) -> Iterator[Truth]:
    """Central differences at the inputs that have enough directions without a kink."""
    network = subject.network
    model = in_float64(subject.forward)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(network.tap, TensorProto.DOUBLE, None))
    reference = evaluator(model)

    def tap(feeds: Arrays) -> Array:
        (value,) = reference.run(None, dict(feeds))
        return np.asarray(value)

    for seed in range(network.seed, network.seed + INPUTS):
        rng = np.random.default_rng(1000 + seed)
        feeds = {name: _wide(value) for name, value in subject.feeds(network.batch, seed).items()}
        floats = [name for name, value in feeds.items() if value.dtype == np.float64]
        cotangent = rng.standard_normal(tap(feeds).shape, dtype=np.float32).astype(np.float64)
        directions: list[Arrays] = []
        differences: list[list[float]] = []
        for _ in range(ATTEMPTS):
            along = {name: _direction(feeds[name].shape, network.patch, rng) for name in floats}
            directions.append(along)
            steps = (network.step, network.step / 2)
            differences.append([_difference(tap, feeds, along, cotangent, step) for step in steps])
            whole, half = np.array(differences).T
            smooth = np.flatnonzero(np.abs(whole - half) <= AGREEMENT * _size(half))
            if len(smooth) == DIRECTIONS:
                yield Truth(feeds, cotangent, [directions[index] for index in smooth], half[smooth])
                break


def _direction(shape: Sequence[int], patch: int, rng: np.random.Generator) -> Array:
    """Normal numbers; of a picture only within a square of this size, zeros around it."""
    direction = rng.standard_normal(shape)
    if len(shape) == 4:
        inside = np.zeros(shape[2:], bool)
        top, left = (rng.integers(0, max(size - patch, 0) + 1) for size in shape[2:])
        inside[top : top + patch, left : left + patch] = True
        direction *= inside
    return direction


def _difference(tap: Callable[[Arrays], Array], feeds: Arrays, along: Arrays, cotangent: Array, step: float) -> float:
    """The derivative along a direction, by a central difference."""
    up, down = (
        tap({name: value + sign * step * along[name] if name in along else value for name, value in feeds.items()})
        for sign in (1, -1)
    )
    return float(np.vdot(cotangent, up - down) / (2 * step))


def _size(derivatives: Array) -> float:
    return float(np.sqrt(np.mean(derivatives**2)))


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _narrow(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype == np.float64 else value


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with float64 in place of float32: inputs, outputs, weights, constants and casts, in subgraphs, too."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph in _graphs(wide.graph):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        for tensor in graph.initializer:
            _widen(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _widen(attribute.t)
                if attribute.name in {"to", "dtype"} and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.DOUBLE
    return wide


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def test_float32_gradient_in_onnx_runtime_gives_the_derivative(
    subject: Subject, truths: Callable[[], Iterator[Truth]]
) -> None:
    session = Session(subject.backward)
    errors = []
    for truth in truths():
        feeds = {name: _narrow(value) for name, value in truth.feeds.items()}
        errors.append(truth.error(session.run({**feeds, "cotangent": _narrow(truth.cotangent)})))
        if errors[-1] <= 1e-3:
            return
    # Rounding puts a unit on the other side of its kink at some input or other. A rule that is wrong fails at all.
    pytest.fail(f"errors of {errors}")


def test_gradient_in_float64_gives_the_derivative(subject: Subject, truths: Callable[[], Iterator[Truth]]) -> None:
    truth = next(truths())
    backward = in_float64(onnx.ModelProto.FromString(subject.backward))
    values = evaluator(backward).run(None, {**truth.feeds, "cotangent": truth.cotangent})
    results = dict(zip((value.name for value in backward.graph.output), values, strict=True))
    assert truth.error(results) <= 1e-6


def test_items_of_a_batch_are_independent_at_any_batch_size(subject: Subject) -> None:
    session = Session(subject.backward)
    feeds = subject.feeds(3, seed=5)
    shape = session.run({**subject.feeds(1, seed=0), "cotangent": _ones(session, 1)})["activation"].shape
    cotangent = np.random.default_rng(6).standard_normal((3, *shape[1:]), dtype=np.float32)
    together = session.run({**feeds, "cotangent": cotangent})
    others = {name: np.concatenate([subject.feeds(1, seed=7)[name], value[1:]]) for name, value in feeds.items()}
    beside_others = session.run({**others, "cotangent": np.concatenate([2 * cotangent[:1], cotangent[1:]])})
    gradients = [name for name in together if name.startswith("gradient.")]
    assert gradients
    for name in gradients:
        assert np.isfinite(together[name]).all()
        assert not np.array_equal(beside_others[name][0], together[name][0])
        np.testing.assert_array_equal(beside_others[name][1:], together[name][1:], err_msg=name)
    for item in range(3):
        alone = session.run({name: value[item : item + 1] for name, value in {**feeds, "cotangent": cotangent}.items()})
        for name in gradients:
            # Sums in another order may fall on the other side of a kink.
            difference = np.linalg.norm(alone[name][0] - together[name][item])
            assert difference <= 1e-2 * np.linalg.norm(together[name][item])


def _ones(session: Session, batch: int) -> Array:
    (cotangent,) = (info for info in session.inputs if info.name == "cotangent")
    return np.ones((batch, *cotangent.shape[1:]), np.float32)


def test_graph_is_valid_and_holds_standard_operators_and_its_weights_once(subject: Subject) -> None:
    backward = onnx.ModelProto.FromString(subject.backward)
    onnx.checker.check_model(backward, full_check=True)
    assert {imported.domain for imported in backward.opset_import} == {""}
    assert not backward.functions
    for graph in _graphs(backward.graph):
        assert all(node.domain == "" for node in graph.node)
    assert _weights(backward) <= 1.05 * _weights(subject.forward) + 4096


def _weights(model: onnx.ModelProto) -> int:
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
