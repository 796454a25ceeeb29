"""Gradients over gRPC: numbers against closed forms and central differences, and every refusal by name."""

import dataclasses
import datetime
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from gradient_models import (
    CLASSES,
    FEATURES,
    LABELS,
    Array,
    conv_classifier,
    dense_classifier,
    differences,
    in_double,
    softmax,
    weights,
)
from onnx import TensorProto, helper
from ortoscope.v1 import activations_pb2, gradients_pb2
from ortoscope.v1.activations_pb2 import ActivationInput
from ortoscope.v1.gradients_pb2 import AttributeClassesRequest, ClassReference, ComputeGradientRequest, Objective, Site
from ortoscope_service.analysis.attribution import tangent_graph
from ortoscope_service.analysis.gradients import backward_graph
from ortoscope_service.config import Limits, ServerConfig
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository
from pictures import encode, photo
from PIL import Image
from serving import Failure, Stubs, add_model, serving, slow_chain, to_array, to_tensor, two_inputs
from tiny_models import GraphBuilder, float_value

Refused = Callable[..., Failure]

PICTURES = Preprocessing("nchw", "rgb", (127.0,) * 3, (64.0, 128.0, 32.0), "squash", 6, 5, 6, "not verified: a test")
RNG = np.random.default_rng(3)
X = RNG.standard_normal((6, FEATURES)).astype(np.float32)
W = weights()
HIDDEN = X @ W["w1"] + W["b1"]
ACTIVE = np.maximum(HIDDEN, 0)
LOGITS = ACTIVE @ W["w2"] + W["b2"]
JACOBIAN = np.einsum("fh,nh,hc->nfc", W["w1"], HIDDEN > 0, W["w2"])
PIXELS = [np.asarray(photo(5, 6, seed=seed)) for seed in range(6)]


def lookup() -> Any:
    """`ids` int64 (n, 4) → `words` (n, 4, 3) → `mean` (n, 3) → `logits` (n, 5)."""
    g = GraphBuilder(0)
    g.node("Gather", [g.weight("table", (9, 3), 2), "ids"], "words", axis=0)
    g.node("ReduceMean", ["words", g.constant("axis", np.array([1], np.int64))], "mean", keepdims=0)
    g.node("Gemm", ["mean", g.weight("w", (3, 5), 3)], "logits")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 4])
    return g.model([ids], [float_value("logits", ["n", CLASSES])], opset=20)


def without_rule() -> Any:
    """A determinant, whose gradient nobody wrote: `x` (n, 2, 3, 3) → `det` (n, 2) → `logits` (n, 5)."""
    g = GraphBuilder(0)
    g.node("Det", ["x"], "det")
    g.node("Gemm", ["det", g.weight("w", (2, 5), 2)], "logits")
    return g.model([float_value("x", ["n", 2, 3, 3])], [float_value("logits", ["n", CLASSES])], opset=20)


def steps() -> Any:
    """Nothing varies continuously: `x` (n, 4) → `rounded` (Floor) → `logits` (n, 5)."""
    g = GraphBuilder(0)
    g.node("Floor", ["x"], "rounded")
    g.node("Gemm", ["rounded", g.weight("w", (4, 5), 4)], "logits")
    return g.model([float_value("x", ["n", 4])], [float_value("logits", ["n", CLASSES])], opset=20)


@pytest.fixture(scope="module")
def gradient_config(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    root = tmp_path_factory.mktemp("gradients")
    repository = ModelRepository(root / "models")
    add_model(repository, "dense", dense_classifier("Softmax"), class_labels=LABELS)
    add_model(repository, "bare", dense_classifier(), class_labels=())
    add_model(repository, "pictures", conv_classifier(channels=3), preprocessing=PICTURES)
    add_model(repository, "free", conv_classifier(channels=3, free_size=True))
    add_model(repository, "fixed", conv_classifier(4, channels=3), preprocessing=PICTURES, fixed_batch=4)
    add_model(repository, "two-inputs", two_inputs())
    add_model(repository, "lookup", lookup())
    add_model(repository, "without-rule", without_rule())
    add_model(repository, "steps", steps())
    add_model(repository, "slow", slow_chain(80))
    limits = Limits(max_items_per_request=10, max_attributions_per_request=60)
    return ServerConfig(
        models=root / "models",
        datasets=datasets,
        store=root / "store",
        listen="127.0.0.1:0",
        batch_size=4,
        limits=limits,
    )


@pytest.fixture(scope="module")
def server(gradient_config: ServerConfig) -> Iterator[Stubs]:
    with serving(gradient_config) as (_, stubs):
        yield stubs


def close(actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=3e-4, atol=3e-5)


def vectors(x: Array = X) -> list[ActivationInput]:
    return [ActivationInput(tensor=to_tensor(item)) for item in x]


def pictures(count: int = 6) -> list[ActivationInput]:
    return [ActivationInput(image=encode(Image.fromarray(pixels), "PNG")) for pixels in PIXELS[:count]]


def batch(count: int = 6) -> Array:
    """What the pictures become, by the definition of (pixel - mean) / std."""
    std = np.array([64, 128, 32], np.float32)
    images: Array = np.stack([((p.astype(np.float32) - 127) / std).transpose(2, 0, 1) for p in PIXELS[:count]])
    return images


def logit(class_: int | str) -> Objective:
    return Objective(class_logit=reference(class_))


def reference(class_: int | str) -> ClassReference:
    return ClassReference(label=class_) if isinstance(class_, str) else ClassReference(index=class_)


def request(**changes: Any) -> ComputeGradientRequest:
    fields: dict[str, Any] = {"model": "models/dense", "inputs": vectors(), "objective": logit(1)}
    return ComputeGradientRequest(**{**fields, **changes})


def attribution(**changes: Any) -> AttributeClassesRequest:
    fields: dict[str, Any] = {"model": "models/dense", "inputs": vectors(), "tap": "active"}
    return AttributeClassesRequest(**{**fields, **changes})


# ComputeGradient


def test_gradient_of_a_logit_at_the_input_has_its_closed_form(server: Stubs) -> None:
    for class_, index in ((1, 1), ("tabby", 1), ("zebra", 4)):
        response = server.gradients.ComputeGradient(request(objective=logit(class_)))
        close(to_array(response.values), LOGITS[:, index])
        (gradient,) = response.gradients
        close(to_array(gradient.gradient), JACOBIAN[:, :, index])
        assert (gradient.tensor, gradient.tap, gradient.display_name, gradient.unit_axis) == ("x", "", "x", 1)
        assert gradient.reduction == ComputeGradientRequest.REDUCTION_NONE
        assert response.tap == "models/dense/versions/1/taps/logits"
        assert (response.class_index, response.class_label) == (index, LABELS[index])
        assert list(response.relaxations) == []


@pytest.mark.parametrize("model", ["dense", "bare"])
def test_gradient_of_a_probability_has_its_closed_form_whether_the_model_computes_it_or_not(
    server: Stubs, model: str
) -> None:
    objective = Objective(class_probability=reference(2))
    response = server.gradients.ComputeGradient(request(model=f"models/{model}", objective=objective))
    p = softmax(LOGITS)
    close(to_array(response.values), p[:, 2])
    expected = p[:, 2:3] * (JACOBIAN[:, :, 2] - np.einsum("nc,nfc->nf", p, JACOBIAN))
    close(to_array(response.gradients[0].gradient), expected)
    assert response.tap.endswith("/taps/probabilities" if model == "dense" else "/taps/logits")


def test_gradients_for_pictures_are_by_the_input_after_preprocessing(server: Stubs) -> None:
    objective = Objective(channel_mean=Objective.ChannelMean(tap="relu2", unit=1))
    response = server.gradients.ComputeGradient(
        request(model="models/pictures", inputs=pictures(), objective=objective)
    )
    compute = in_double(conv_classifier(channels=3), "relu2")

    def mean(images: Array) -> Array:
        return compute({"image": images})["relu2"][:, 1].mean((1, 2))

    close(to_array(response.values), mean(batch()))
    close(to_array(response.gradients[0].gradient), differences(mean, batch(), step=1e-5))
    assert not response.HasField("class_index")
    assert response.provenance.preprocessing == PICTURES.describe()


def test_a_unit_at_a_site_is_differentiated_at_taps_on_the_way(server: Stubs) -> None:
    objective = Objective(unit=Objective.Unit(tap="relu2", unit=2, site=[1, -1]))
    response = server.gradients.ComputeGradient(
        request(model="models/pictures", inputs=pictures(), objective=objective, with_respect_to=["relu", "image"])
    )
    compute = in_double(conv_classifier(channels=3), "relu2")

    def unit(images: Array) -> Array:
        return compute({"image": images})["relu2"][:, 2, 1, 2]

    at_relu, at_image = response.gradients
    assert (at_relu.tensor, at_relu.tap, at_relu.unit_axis) == (
        "relu",
        "models/pictures/versions/1/taps/relu",
        1,
    )
    close(to_array(at_image.gradient), differences(unit, batch(), step=1e-5))
    # The tap's gradient is a window of the kernel where the unit is above 0, and nothing elsewhere.
    found = to_array(at_relu.gradient)
    kernel = next(t for t in conv_classifier(channels=3).graph.initializer if t.name == "k2")
    window = np.frombuffer(kernel.raw_data, np.float32).reshape(4, 3, 3, 3)[2]
    for item, value in enumerate(unit(batch())):
        expected = np.zeros((3, 6, 5), np.float32)
        if value > 0:
            expected[:, 1:4, 3:5] = window[:, :, :2]
        close(found[item], expected)


def test_a_cotangent_may_be_given_for_each_item_or_for_all(server: Stubs) -> None:
    each = RNG.standard_normal((len(X), CLASSES)).astype(np.float32)
    for numbers in (each, each[0]):
        objective = Objective(cotangent=Objective.Cotangent(tap="logits", tensor=to_tensor(numbers)))
        response = server.gradients.ComputeGradient(request(objective=objective))
        whole = np.broadcast_to(numbers, each.shape)
        close(to_array(response.values), (whole * LOGITS).sum(1))
        close(to_array(response.gradients[0].gradient), np.einsum("nc,nfc->nf", whole, JACOBIAN))


def test_reductions_are_the_gradient_times_the_value(server: Stubs) -> None:
    def reduced(reduction: Any, **changes: Any) -> tuple[Array, int]:
        (gradient,) = server.gradients.ComputeGradient(request(reduction=reduction, **changes)).gradients
        assert gradient.reduction == reduction
        return to_array(gradient.gradient), gradient.unit_axis

    times, _ = reduced(ComputeGradientRequest.REDUCTION_TIMES_VALUE)
    close(times, JACOBIAN[:, :, 1] * X)
    sums, axis = reduced(ComputeGradientRequest.REDUCTION_UNIT_SUMS)
    close(sums, JACOBIAN[:, :, 1] * X)
    assert axis == 1
    of_pictures = {"model": "models/pictures", "inputs": pictures()}
    plain, _ = reduced(ComputeGradientRequest.REDUCTION_NONE, **of_pictures)
    colours, axis = reduced(ComputeGradientRequest.REDUCTION_UNIT_SUMS, **of_pictures)
    close(colours, (plain * batch()).sum((2, 3)))
    assert axis == 1
    relu = in_double(conv_classifier(channels=3), "relu")({"image": batch()})["relu"]
    plain, _ = reduced(ComputeGradientRequest.REDUCTION_NONE, with_respect_to=["relu"], **of_pictures)
    units, _ = reduced(ComputeGradientRequest.REDUCTION_UNIT_SUMS, with_respect_to=["relu"], **of_pictures)
    close(units, (plain * relu).sum((2, 3)))


def test_all_floating_point_inputs_have_gradients(server: Stubs) -> None:
    left, right = (RNG.standard_normal((2, 4)).astype(np.float32) for _ in range(2))
    inputs = [
        ActivationInput(
            tensors=activations_pb2.NamedTensors(tensors={"left": to_tensor(left[i]), "right": to_tensor(right[i])})
        )
        for i in range(2)
    ]
    objective = Objective(unit=Objective.Unit(tap="sum", unit=3))
    response = server.gradients.ComputeGradient(request(model="models/two-inputs", inputs=inputs, objective=objective))
    one = np.array([0, 0, 0, 1], np.float32)
    assert [entry.tensor for entry in response.gradients] == ["left", "right"]
    close(to_array(response.gradients[0].gradient), one * (left > 0))
    close(to_array(response.gradients[1].gradient), np.tile(one, (2, 1)))
    # `half` needs one of them alone.
    objective = Objective(unit=Objective.Unit(tap="half", unit=3))
    response = server.gradients.ComputeGradient(request(model="models/two-inputs", inputs=inputs, objective=objective))
    assert [entry.tensor for entry in response.gradients] == ["left"]


def test_a_model_of_tokens_has_gradients_at_its_embedding(server: Stubs) -> None:
    ids = np.array([[1, 2, 3, 4], [8, 8, 0, 1]], np.int64)
    response = server.gradients.ComputeGradient(
        request(model="models/lookup", inputs=vectors(ids), objective=logit(0), with_respect_to=["words"])
    )
    gradient = to_array(response.gradients[0].gradient)
    assert gradient.shape == (2, 4, 3)
    close(gradient, np.broadcast_to(gradient[0, 0], gradient.shape))  # a mean treats all words alike


def test_a_fixed_batch_and_free_sizes_give_the_same_gradients(server: Stubs) -> None:
    tensors = [ActivationInput(tensor=to_tensor(image)) for image in batch()]
    objective = Objective(channel_mean=Objective.ChannelMean(tap="relu2", unit=1))
    expected, fixed, free = (
        server.gradients.ComputeGradient(request(model=f"models/{name}", inputs=tensors, objective=objective))
        for name in ("pictures", "fixed", "free")
    )
    for other in (fixed, free):
        close(to_array(other.values), to_array(expected.values))
        close(to_array(other.gradients[0].gradient), to_array(expected.gradients[0].gradient))


def test_an_input_that_is_not_a_number_spoils_its_own_item_alone(server: Stubs) -> None:
    spoiled = X.copy()
    spoiled[2] = np.nan
    response = server.gradients.ComputeGradient(request(inputs=vectors(spoiled)))
    others = [0, 1, 3, 4, 5]
    close(to_array(response.values)[others], LOGITS[others, 1])
    close(to_array(response.gradients[0].gradient)[others], JACOBIAN[others, :, 1])
    assert np.isnan(to_array(response.values)[2])


def test_a_graph_is_made_once_for_equal_calls(
    gradient_config: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counting(name: str, make: Any) -> Any:
        def count(*arguments: Any) -> Any:
            made.append(name)
            return make(*arguments)

        return count

    api = "ortoscope_service.api"
    monkeypatch.setattr(f"{api}.gradients.backward_graph", counting("backward", backward_graph))
    monkeypatch.setattr(f"{api}.class_attribution.tangent_graph", counting("tangent", tangent_graph))
    with serving(dataclasses.replace(gradient_config, store=tmp_path)) as (_, stubs):
        for class_ in (0, 1, 1):  # classes share a graph: they differ in the cotangent alone
            stubs.gradients.ComputeGradient(request(objective=logit(class_)))
        stubs.gradients.AttributeClasses(attribution())
        stubs.gradients.AttributeClasses(attribution(granularity=AttributeClassesRequest.GRANULARITY_UNITS))
        assert made == ["backward", "tangent"]
        stubs.gradients.ComputeGradient(request(with_respect_to=["hidden"]))
        stubs.gradients.ComputeGradient(request(objective=Objective(class_probability=reference(0))))
        stubs.gradients.AttributeClasses(attribution(score=AttributeClassesRequest.SCORE_PROBABILITY))
        assert made == ["backward", "tangent", "backward", "backward", "tangent"]


def test_provenance_is_complete_and_tells_computations_apart(server: Stubs) -> None:
    before = datetime.datetime.now(datetime.UTC)
    provenance = server.gradients.ComputeGradient(request()).provenance
    assert provenance.model == "models/dense/versions/1"
    assert provenance.model_digest.startswith("sha256:")
    assert (provenance.batch_size, provenance.items, provenance.preprocessing) == (4, 6, "")
    assert provenance.execution_provider == "CPUExecutionProvider"
    start = provenance.start_time.ToDatetime(datetime.UTC)
    assert before - datetime.timedelta(seconds=1) <= start <= provenance.end_time.ToDatetime(datetime.UTC)
    numbers = np.ones(CLASSES, np.float32)
    different: list[Any] = [
        request(),
        request(objective=logit(2)),
        request(objective=Objective(class_probability=reference(1))),
        request(objective=Objective(unit=Objective.Unit(tap="logits", unit=1))),
        request(objective=Objective(cotangent=Objective.Cotangent(tap="logits", tensor=to_tensor(numbers)))),
        request(objective=Objective(cotangent=Objective.Cotangent(tap="logits", tensor=to_tensor(2 * numbers)))),
        request(with_respect_to=["hidden"]),
        request(reduction=ComputeGradientRequest.REDUCTION_TIMES_VALUE),
    ]
    digests = [server.gradients.ComputeGradient(entry).provenance.spec_digest for entry in different]
    assert len(set(digests)) == len(digests)
    assert server.gradients.ComputeGradient(request(objective=logit("tabby"))).provenance.spec_digest == digests[0]
    attributions: list[Any] = [
        attribution(),
        attribution(granularity=AttributeClassesRequest.GRANULARITY_UNITS),
        attribution(granularity=AttributeClassesRequest.GRANULARITY_UNITS, units=[1]),
        attribution(score=AttributeClassesRequest.SCORE_PROBABILITY),
        attribution(tap="hidden"),
    ]
    digests += [server.gradients.AttributeClasses(entry).provenance.spec_digest for entry in attributions]
    assert len(set(digests)) == len(digests)


def test_relaxations_are_applied_and_named_in_a_fixed_order(server: Stubs) -> None:
    response = server.gradients.ComputeGradient(request(relaxations=["averaged_max_pool", "guided"]))
    assert list(response.relaxations) == ["guided", "averaged_max_pool"]
    passed = np.where((HIDDEN > 0) & (W["w2"][:, 1] > 0), W["w2"][:, 1], 0)
    close(to_array(response.gradients[0].gradient), passed @ W["w1"].T)
    exact = server.gradients.ComputeGradient(request())
    assert response.provenance.spec_digest != exact.provenance.spec_digest
    found = server.gradients.AttributeClasses(attribution(relaxations=["averaged_max_pool"]))
    assert list(found.relaxations) == ["averaged_max_pool"]
    close(to_array(found.totals), ACTIVE @ W["w2"])  # there is no pooling in this model


def cotangent(numbers: Array, tap: str = "logits") -> Objective:
    return Objective(cotangent=Objective.Cotangent(tap=tap, tensor=to_tensor(numbers)))


NAN = np.array([0, np.nan, 0, 0, 0], np.float32)
WORDS = vectors(np.array([[1, 2, 3, 4]], np.int64))
UNIT_SUMS = ComputeGradientRequest.REDUCTION_UNIT_SUMS


@pytest.mark.parametrize(
    ("changes", "code", "reason", "field"),
    [
        ({"model": "dense"}, "INVALID_ARGUMENT", "INVALID_NAME", "model"),
        ({"model": "models/nothing"}, "NOT_FOUND", "UNKNOWN_MODEL", "model"),
        ({"inputs": []}, "INVALID_ARGUMENT", "NO_INPUTS", "inputs"),
        ({"inputs": vectors(X[:, :3])}, "INVALID_ARGUMENT", "TENSOR_SHAPE", "inputs[0].tensor.shape"),
        ({"inputs": vectors(X) * 2}, "RESOURCE_EXHAUSTED", "TOO_MANY_ITEMS", "inputs"),
        ({"inputs": pictures(1)}, "FAILED_PRECONDITION", "MODEL_INPUT_NOT_IMAGE", "inputs[0].image"),
        ({"objective": None}, "INVALID_ARGUMENT", "NO_OBJECTIVE", "objective"),
        ({"objective": Objective()}, "INVALID_ARGUMENT", "NO_OBJECTIVE", "objective"),
        ({"objective": Objective(unit={"tap": "hiden"})}, "NOT_FOUND", "UNKNOWN_TAP", "objective.unit.tap"),
        (
            {"objective": Objective(unit={"tap": "hidden", "unit": 3})},
            "INVALID_ARGUMENT",
            "INVALID_UNIT",
            "objective.unit.unit",
        ),
        (
            {"objective": Objective(unit={"tap": "hidden", "unit": -1})},
            "INVALID_ARGUMENT",
            "INVALID_UNIT",
            "objective.unit.unit",
        ),
        (
            {"objective": Objective(unit={"tap": "hidden", "site": [0]})},
            "INVALID_ARGUMENT",
            "INVALID_SITE",
            "objective.unit.site",
        ),
        (
            {"objective": Objective(channel_mean={"tap": "x"})},
            "NOT_FOUND",
            "UNKNOWN_TAP",
            "objective.channel_mean.tap",
        ),
        (
            {"objective": Objective(channel_mean={"tap": "hidden", "unit": 2**40})},
            "INVALID_ARGUMENT",
            "INVALID_UNIT",
            "objective.channel_mean.unit",
        ),
        ({"objective": logit(CLASSES)}, "INVALID_ARGUMENT", "INVALID_CLASS", "objective.class_logit.index"),
        ({"objective": logit(-1)}, "INVALID_ARGUMENT", "INVALID_CLASS", "objective.class_logit.index"),
        ({"objective": logit("crane")}, "INVALID_ARGUMENT", "AMBIGUOUS_CLASS", "objective.class_logit.label"),
        ({"objective": logit("taby")}, "NOT_FOUND", "UNKNOWN_CLASS", "objective.class_logit.label"),
        (
            {"model": "models/bare", "objective": logit("tabby")},
            "NOT_FOUND",
            "UNKNOWN_CLASS",
            "objective.class_logit.label",
        ),
        (
            {"objective": Objective(class_probability=ClassReference())},
            "INVALID_ARGUMENT",
            "NO_CLASS",
            "objective.class_probability",
        ),
        (
            {"model": "models/slow", "objective": logit(0)},
            "FAILED_PRECONDITION",
            "NO_CLASSES",
            "objective.class_logit",
        ),
        (
            {"objective": cotangent(np.zeros(4, np.float32))},
            "INVALID_ARGUMENT",
            "TENSOR_SHAPE",
            "objective.cotangent.tensor.shape",
        ),
        (
            {"objective": cotangent(np.zeros((5, CLASSES), np.float32))},
            "INVALID_ARGUMENT",
            "TENSOR_SHAPE",
            "objective.cotangent.tensor.shape",
        ),
        (
            {"objective": cotangent(np.zeros((), np.float32))},
            "INVALID_ARGUMENT",
            "TENSOR_SHAPE",
            "objective.cotangent.tensor.shape",
        ),
        (
            {"objective": cotangent(np.zeros(CLASSES))},
            "INVALID_ARGUMENT",
            "TENSOR_TYPE",
            "objective.cotangent.tensor.data_type",
        ),
        (
            {"objective": cotangent(NAN)},
            "INVALID_ARGUMENT",
            "COTANGENT_NOT_FINITE",
            "objective.cotangent.tensor.data",
        ),
        (
            {
                "model": "models/free",
                "inputs": [ActivationInput(tensor=to_tensor(image)) for image in batch(1)],
                "objective": cotangent(np.zeros((4, 3, 2), np.float32), "relu2"),
            },
            "INVALID_ARGUMENT",
            "COTANGENT_SHAPE",
            "objective.cotangent.tensor.shape",
        ),
        (
            {
                "model": "models/free",
                "inputs": [ActivationInput(tensor=to_tensor(np.zeros((3, 0, 5), np.float32)))],
                "objective": Objective(channel_mean={"tap": "conv"}),
            },
            "FAILED_PRECONDITION",
            "MODEL_RUN_FAILED",
            "",
        ),
        ({"with_respect_to": ["y"]}, "NOT_FOUND", "UNKNOWN_TAP", "with_respect_to[0]"),
        ({"with_respect_to": ["x", "hidden", "x"]}, "INVALID_ARGUMENT", "DUPLICATE_TENSOR", "with_respect_to[2]"),
        ({"with_respect_to": ["x", "probabilities"]}, "INVALID_ARGUMENT", "TAP_INDEPENDENT", "with_respect_to[1]"),
        (
            {"model": "models/lookup", "inputs": WORDS, "with_respect_to": ["ids"]},
            "INVALID_ARGUMENT",
            "NOT_DIFFERENTIABLE",
            "with_respect_to[0]",
        ),
        (
            {"model": "models/lookup", "inputs": WORDS},
            "INVALID_ARGUMENT",
            "NO_FLOAT_INPUT",
            "objective.class_logit",
        ),
        ({"model": "models/steps"}, "INVALID_ARGUMENT", "TAP_INDEPENDENT", "objective.class_logit"),
        (
            {"model": "models/steps", "with_respect_to": ["x"]},
            "INVALID_ARGUMENT",
            "TAP_INDEPENDENT",
            "with_respect_to",
        ),
        (
            {"model": "models/without-rule", "inputs": vectors(np.zeros((1, 2, 3, 3), np.float32))},
            "UNIMPLEMENTED",
            "UNSUPPORTED_GRADIENT",
            "",
        ),
        ({"relaxations": ["guided", "smooth"]}, "INVALID_ARGUMENT", "UNKNOWN_RELAXATION", "relaxations"),
        ({"reduction": 77}, "INVALID_ARGUMENT", "INVALID_REDUCTION", "reduction"),
        (
            {
                "model": "models/slow",
                "inputs": [ActivationInput(tensor=to_tensor(np.zeros((1024, 1024), np.float32)))],
                "objective": Objective(unit={"tap": "product0", "site": [0]}),
                "reduction": UNIT_SUMS,
            },
            "FAILED_PRECONDITION",
            "UNITS_UNKNOWN",
            "reduction",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    server: Stubs, refused: Refused, changes: Mapping[str, Any], code: str, reason: str, field: str
) -> None:
    failure = refused(server.gradients.ComputeGradient, request(**changes))
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)
    assert len(failure.message) > 30


def test_an_operator_without_a_gradient_is_named(server: Stubs, refused: Refused) -> None:
    items = vectors(np.zeros((1, 2, 3, 3), np.float32))
    failure = refused(server.gradients.ComputeGradient, request(model="models/without-rule", inputs=items))
    assert failure.metadata["operator"] == "Det"
    assert "det_node" in failure.message
    # At a tensor behind it there is a gradient.
    server.gradients.ComputeGradient(request(model="models/without-rule", inputs=items, with_respect_to=["det"]))
    server.gradients.AttributeClasses(attribution(model="models/without-rule", inputs=items, tap="det"))


# AttributeClasses


def test_attribution_of_a_linear_layer_is_activation_times_weight(server: Stubs) -> None:
    response = server.gradients.AttributeClasses(
        attribution(granularity=AttributeClassesRequest.GRANULARITY_UNITS, top_classes=2)
    )
    close(to_array(response.attributions), ACTIVE[:, :, None] * W["w2"])
    close(to_array(response.totals), ACTIVE @ W["w2"])
    close(to_array(response.scores), LOGITS)
    assert to_array(response.units).tolist() == [0, 1, 2]
    assert not response.HasField("sites")
    assert (response.tap, response.display_name) == ("models/dense/versions/1/taps/active", "active")
    assert response.granularity == AttributeClassesRequest.GRANULARITY_UNITS
    assert response.score == AttributeClassesRequest.SCORE_LOGIT
    for item, top in enumerate(response.top_classes):
        order = np.argsort(-LOGITS[item])[:2]
        assert [entry.index for entry in top.classes] == order.tolist()
        assert [entry.label for entry in top.classes] == [LABELS[index] for index in order]
        close(np.array([entry.score for entry in top.classes]), LOGITS[item, order])
        close(np.array([entry.attribution for entry in top.classes]), (ACTIVE @ W["w2"])[item, order])


@pytest.mark.parametrize("model", ["dense", "bare"])
def test_probabilities_are_attributed_whether_the_model_computes_them_or_not(server: Stubs, model: str) -> None:
    response = server.gradients.AttributeClasses(
        attribution(model=f"models/{model}", score=AttributeClassesRequest.SCORE_PROBABILITY)
    )
    p, whole = softmax(LOGITS), ACTIVE @ W["w2"]
    close(to_array(response.scores), p)
    close(to_array(response.attributions)[:, 0], p * (whole - (p * whole).sum(1, keepdims=True)))
    assert response.score == AttributeClassesRequest.SCORE_PROBABILITY
    assert len(response.top_classes[0].classes) == CLASSES


def test_parts_of_a_map_add_up_and_agree_with_gradients(server: Stubs) -> None:
    of_pictures: dict[str, Any] = {"model": "models/pictures", "inputs": pictures(2)}

    def found(granularity: Any, **changes: Any) -> gradients_pb2.AttributeClassesResponse:
        response: gradients_pb2.AttributeClassesResponse = server.gradients.AttributeClasses(
            attribution(tap="relu2", granularity=granularity, **of_pictures, **changes)
        )
        return response

    whole = to_array(found(AttributeClassesRequest.GRANULARITY_WHOLE).attributions)
    units = found(AttributeClassesRequest.GRANULARITY_UNITS)
    sites = found(AttributeClassesRequest.GRANULARITY_SITES)
    assert whole.shape == (2, 1, CLASSES)
    for parts in (units, sites):
        close(to_array(parts.attributions).sum(1), whole[:, 0])
        close(to_array(parts.totals), whole[:, 0])
    assert to_array(sites.sites).tolist() == [[row, column] for row in range(3) for column in range(3)]
    some = found(AttributeClassesRequest.GRANULARITY_SITES, sites=[Site(index=[-1, 0]), Site(index=[1, 1])])
    assert to_array(some.sites).tolist() == [[2, 0], [1, 1]]
    close(to_array(some.attributions), to_array(sites.attributions)[:, [6, 4]])
    close(to_array(some.totals), whole[:, 0])
    some = found(AttributeClassesRequest.GRANULARITY_UNITS, units=[3, 0])
    close(to_array(some.attributions), to_array(units.attributions)[:, [3, 0]])
    for class_ in range(CLASSES):
        response = server.gradients.ComputeGradient(
            request(
                objective=logit(class_),
                with_respect_to=["relu2"],
                reduction=ComputeGradientRequest.REDUCTION_UNIT_SUMS,
                **of_pictures,
            )
        )
        close(to_array(response.gradients[0].gradient), to_array(units.attributions)[:, :, class_])


def test_a_fixed_batch_and_free_sizes_give_the_same_attributions(server: Stubs) -> None:
    tensors = [ActivationInput(tensor=to_tensor(image)) for image in batch(5)]
    expected, fixed, free = (
        server.gradients.AttributeClasses(
            attribution(
                model=f"models/{name}",
                tap="relu2",
                inputs=tensors,
                granularity=AttributeClassesRequest.GRANULARITY_SITES,
            )
        )
        for name in ("pictures", "fixed", "free")
    )
    for other in (fixed, free):
        close(to_array(other.attributions), to_array(expected.attributions))
        assert other.sites == expected.sites


@pytest.mark.parametrize(
    ("changes", "code", "reason", "field"),
    [
        ({"model": "models/nothing"}, "NOT_FOUND", "UNKNOWN_MODEL", "model"),
        ({"inputs": []}, "INVALID_ARGUMENT", "NO_INPUTS", "inputs"),
        ({"inputs": vectors(X[:, :3])}, "INVALID_ARGUMENT", "TENSOR_SHAPE", "inputs[0].tensor.shape"),
        ({"tap": ""}, "NOT_FOUND", "UNKNOWN_TAP", "tap"),
        ({"tap": "activ"}, "NOT_FOUND", "UNKNOWN_TAP", "tap"),
        ({"model": "models/lookup", "tap": "ids"}, "INVALID_ARGUMENT", "NOT_DIFFERENTIABLE", "tap"),
        ({"model": "models/slow", "tap": "product0"}, "FAILED_PRECONDITION", "NO_CLASSES", "model"),
        ({"tap": "logits"}, "INVALID_ARGUMENT", "NO_HEAD", "tap"),
        ({"tap": "probabilities"}, "INVALID_ARGUMENT", "NO_HEAD", "tap"),
        ({"granularity": 9}, "INVALID_ARGUMENT", "INVALID_GRANULARITY", "granularity"),
        ({"score": 9}, "INVALID_ARGUMENT", "INVALID_SCORE", "score"),
        ({"top_classes": -1}, "INVALID_ARGUMENT", "INVALID_TOP_CLASSES", "top_classes"),
        ({"units": [0]}, "INVALID_ARGUMENT", "UNEXPECTED_SELECTION", "units"),
        (
            {"sites": [Site(index=[0])], "granularity": AttributeClassesRequest.GRANULARITY_UNITS},
            "INVALID_ARGUMENT",
            "UNEXPECTED_SELECTION",
            "sites",
        ),
        (
            {"units": [0, 3], "granularity": AttributeClassesRequest.GRANULARITY_UNITS},
            "INVALID_ARGUMENT",
            "INVALID_UNIT",
            "units[1]",
        ),
        (
            {"sites": [Site(index=[0])], "granularity": AttributeClassesRequest.GRANULARITY_SITES},
            "INVALID_ARGUMENT",
            "INVALID_SITE",
            "sites[0].site",
        ),
        ({"relaxations": ["smooth"]}, "INVALID_ARGUMENT", "UNKNOWN_RELAXATION", "relaxations"),
        ({"relaxations": ["guided"]}, "INVALID_ARGUMENT", "RELAXATION_NOT_LINEAR", "relaxations"),
        (
            {
                "model": "models/pictures",
                "inputs": pictures(3),
                "tap": "conv",
                "granularity": AttributeClassesRequest.GRANULARITY_SITES,
            },
            "RESOURCE_EXHAUSTED",
            "TOO_MANY_ATTRIBUTIONS",
            "sites",
        ),
    ],
)
def test_attributions_that_do_not_fit_are_refused_by_name(
    server: Stubs, refused: Refused, changes: Mapping[str, Any], code: str, reason: str, field: str
) -> None:
    failure = refused(server.gradients.AttributeClasses, attribution(**changes))
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)
    assert len(failure.message) > 25


def test_the_limit_of_attributions_is_told_with_what_was_asked(server: Stubs, refused: Refused) -> None:
    changes = {"model": "models/pictures", "inputs": pictures(3), "tap": "conv"}
    sites = AttributeClassesRequest.GRANULARITY_SITES
    failure = refused(server.gradients.AttributeClasses, attribution(granularity=sites, **changes))
    assert failure.metadata == {"items": "3", "selections": "30", "max_attributions_per_request": "60"}
    server.gradients.AttributeClasses(attribution(granularity=sites, **{**changes, "inputs": pictures(2)}))


# Limits, deadlines, callers


def test_a_response_above_the_limit_is_refused_before_anything_runs(
    gradient_config: ServerConfig, tmp_path: Path, refused: Refused
) -> None:
    limits = dataclasses.replace(gradient_config.limits, max_message_bytes=3_000)
    with serving(dataclasses.replace(gradient_config, store=tmp_path, limits=limits)) as (_, stubs):
        of_pictures: dict[str, Any] = {"model": "models/pictures", "inputs": pictures(5)}
        failure = refused(stubs.gradients.ComputeGradient, request(with_respect_to=["conv", "relu"], **of_pictures))
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "RESPONSE_TOO_LARGE")
        assert failure.metadata == {"response_bytes": f"{5 * 2 * 3 * 6 * 5 * 4}", "max_message_bytes": "3000"}
        sums = ComputeGradientRequest.REDUCTION_UNIT_SUMS
        stubs.gradients.ComputeGradient(request(with_respect_to=["conv"], reduction=sums, **of_pictures))


def test_attributions_above_the_limit_of_a_response_are_refused(
    gradient_config: ServerConfig, tmp_path: Path, refused: Refused
) -> None:
    limits = dataclasses.replace(gradient_config.limits, max_message_bytes=1_200)
    with serving(dataclasses.replace(gradient_config, store=tmp_path, limits=limits)) as (_, stubs):
        units = AttributeClassesRequest.GRANULARITY_UNITS
        many = attribution(inputs=vectors(X[:1]), granularity=units, units=[0] * 60)
        failure = refused(stubs.gradients.AttributeClasses, many)
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "RESPONSE_TOO_LARGE")
        # The parts, the whole, and the scores themselves.
        assert failure.metadata["response_bytes"] == f"{62 * CLASSES * 4}"
        stubs.gradients.AttributeClasses(attribution(inputs=vectors(X[:1]), granularity=units))


SLOW = ComputeGradientRequest(
    model="models/slow",
    objective=Objective(unit=Objective.Unit(tap="product79", unit=0, site=[0])),
    inputs=[ActivationInput(tensor=to_tensor(np.eye(1024, dtype=np.float32)))],
)


def free_again(stubs: Stubs, within: float) -> float:
    """Seconds until a server with one place takes a call again."""
    began = time.monotonic()
    while True:
        try:
            stubs.gradients.ComputeGradient(request())
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
            assert time.monotonic() - began < within
            time.sleep(0.02)
        else:
            return time.monotonic() - began


def test_a_deadline_or_a_client_that_goes_away_stops_the_run(gradient_config: ServerConfig, tmp_path: Path) -> None:
    limits = dataclasses.replace(gradient_config.limits, max_concurrent_rpcs=1)
    with serving(dataclasses.replace(gradient_config, store=tmp_path, limits=limits)) as (_, stubs):
        stubs.gradients.ComputeGradient(request())
        with pytest.raises(grpc.RpcError) as caught:
            stubs.gradients.ComputeGradient(SLOW, timeout=2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert free_again(stubs, within=30) < 3  # making the session is not interrupted
        running = stubs.gradients.ComputeGradient.future(SLOW)
        time.sleep(0.5)
        assert not running.done()
        running.cancel()
        assert free_again(stubs, within=10) < 1


def test_many_callers_at_once_get_their_own_answers(server: Stubs) -> None:
    failures: list[BaseException] = []

    def call(item: int) -> None:
        try:
            for _ in range(5):
                response = server.gradients.ComputeGradient(request(inputs=vectors(X[item : item + 1])))
                close(to_array(response.gradients[0].gradient)[0], JACOBIAN[item, :, 1])
                found = server.gradients.AttributeClasses(attribution(inputs=vectors(X[item : item + 1])))
                close(to_array(found.totals)[0], (ACTIVE @ W["w2"])[item])
        except BaseException as error:  # noqa: BLE001 - told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=call, args=(item,)) for item in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_our_reference_of_the_preprocessing_is_what_pillow_reads() -> None:
    for item, pixels in zip(pictures(), PIXELS, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(item.image))), pixels)
