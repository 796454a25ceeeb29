"""Gradients and class attribution against closed forms, and against central differences in float64."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
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
from ortoscope_service.analysis.activations import run_taps
from ortoscope_service.analysis.attribution import (
    Attributions,
    Granularity,
    Parts,
    attribute_classes,
    tangent_graph,
)
from ortoscope_service.analysis.classes import Classes, find_classes
from ortoscope_service.analysis.gradients import (
    ChannelMeanObjective,
    CotangentObjective,
    GradientReduction,
    Objective,
    Source,
    Target,
    UnitObjective,
    backward_graph,
    compute_gradients,
    reduce_gradient,
)
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import NO_RELAXATIONS, Relaxations
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.manifest import InputSpec
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.sessions import Session
from serving import add_model
from tiny_models import GraphBuilder, float_value

RNG = np.random.default_rng(7)
X = RNG.standard_normal((6, FEATURES)).astype(np.float32)
IMAGES = RNG.standard_normal((3, 2, 6, 5)).astype(np.float32)
W = weights()
HIDDEN = X @ W["w1"] + W["b1"]
ACTIVE = np.maximum(HIDDEN, 0)
LOGITS = ACTIVE @ W["w2"] + W["b2"]
# Derivative of each logit by the input, (items, features, classes).
JACOBIAN = np.einsum("fh,nh,hc->nfc", W["w1"], HIDDEN > 0, W["w2"])


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path)


def close(actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-5)


def gradient_of(
    version: ModelVersion,
    objective: Objective,
    feeds: Mapping[str, Array],
    at: Sequence[str] = (),
    relaxations: Relaxations = NO_RELAXATIONS,
) -> tuple[Array, dict[str, Array]]:
    """The objective and its gradients on all items at once."""
    sources = [Source.of_tap(resolve_tap(version.manifest.taps, name)) for name in at]
    items = len(next(iter(feeds.values())))
    tap = objective.target.tap
    shape = tap.shape[1:]
    if min(shape) < 0:
        needed = Session(version.trunk_bytes((tap.tensor,)))
        shape = needed.run(feeds)[tap.tensor].shape[1:]
    objective.check(shape)
    session = Session(backward_graph(version, objective.target, sources, relaxations))
    return compute_gradients(session, objective, feeds, slice(0, items), shape, version.manifest.fixed_batch)


def class_objective(version: ModelVersion, index: int, *, probability: bool = False) -> UnitObjective:
    target = Target.of_classes(find_classes(version), probability=probability)
    return UnitObjective(target, index, (0,) * len(target.tap.site_axes))


def target_of(version: ModelVersion, name: str) -> Target:
    return Target(resolve_tap(version.manifest.taps, name))


def attribution_of(
    version: ModelVersion,
    tap: str,
    feeds: Mapping[str, Array],
    granularity: Granularity = Granularity.WHOLE,
    *,
    units: Sequence[int] = (),
    sites: Sequence[tuple[int, ...]] = (),
    probability: bool = False,
    batch_size: int = 4,
    relaxations: Relaxations = NO_RELAXATIONS,
) -> Attributions:
    """The attributions of all classes on all items."""
    resolved = resolve_tap(version.manifest.taps, tap)
    classes = find_classes(version)
    target = Target.of_classes(classes, probability=probability)
    fixed = version.manifest.fixed_batch
    activation = run_taps(Session(version.trunk_bytes((tap,))), feeds, fixed)[tap]
    parts = Parts(resolved, granularity, tuple(units), tuple(sites))
    assert parts.count(activation.shape[1:]) == len(parts.chosen(activation.shape[1:]).indices())
    session = Session(tangent_graph(version, target, resolved, relaxations))
    chosen = parts.chosen(activation.shape[1:])
    return attribute_classes(session, chosen, classes.axis, activation, feeds, max(batch_size, fixed), fixed)


# Objectives


def test_gradient_of_a_hidden_unit_is_its_row_of_weights(repository: ModelRepository) -> None:
    version = add_model(repository, "m", dense_classifier())
    value, gradients = gradient_of(version, UnitObjective(target_of(version, "hidden"), 2, ()), {"x": X})
    close(value, HIDDEN[:, 2])
    close(gradients["x"], np.tile(W["w1"][:, 2], (len(X), 1)))


def test_gradient_of_a_logit_is_the_product_of_weights_where_relu_is_open(repository: ModelRepository) -> None:
    version = add_model(repository, "m", dense_classifier())
    for index in range(CLASSES):
        value, gradients = gradient_of(version, class_objective(version, index), {"x": X})
        close(value, LOGITS[:, index])
        close(gradients["x"], JACOBIAN[:, :, index])


@pytest.mark.parametrize("opset", [11, 20])
@pytest.mark.parametrize("end", ["", "Softmax", "LogSoftmax"])
def test_gradient_of_a_probability_is_that_of_the_softmax(repository: ModelRepository, end: str, opset: int) -> None:
    version = add_model(repository, "m", dense_classifier(end, opset=opset))
    p = softmax(LOGITS)
    value, gradients = gradient_of(version, class_objective(version, 3, probability=True), {"x": X})
    close(value, p[:, 3])
    close(gradients["x"], p[:, 3:4] * (JACOBIAN[:, :, 3] - np.einsum("nc,nfc->nf", p, JACOBIAN)))


def test_a_sigmoid_at_the_end_makes_probabilities_of_single_classes(repository: ModelRepository) -> None:
    version = add_model(repository, "m", dense_classifier("Sigmoid"))
    p = 1 / (1 + np.exp(-LOGITS))
    value, gradients = gradient_of(version, class_objective(version, 1, probability=True), {"x": X})
    close(value, p[:, 1])
    close(gradients["x"], (p * (1 - p))[:, 1:2] * JACOBIAN[:, :, 1])


@pytest.mark.parametrize("end", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_the_logit_is_what_the_last_function_is_applied_to(repository: ModelRepository, end: str) -> None:
    version = add_model(repository, "m", dense_classifier(end))
    value, gradients = gradient_of(version, class_objective(version, 4), {"x": X})
    close(value, LOGITS[:, 4])
    close(gradients["x"], JACOBIAN[:, :, 4])


def test_gradient_of_a_cotangent_is_the_vector_jacobian_product(repository: ModelRepository) -> None:
    version = add_model(repository, "m", dense_classifier())
    for numbers in (RNG.standard_normal((len(X), CLASSES)), RNG.standard_normal(CLASSES)):
        objective = CotangentObjective(target_of(version, "logits"), numbers.astype(np.float32))
        value, gradients = gradient_of(version, objective, {"x": X})
        each = np.broadcast_to(numbers, (len(X), CLASSES))
        close(value, (each * LOGITS).sum(1))
        close(gradients["x"], np.einsum("nc,nfc->nf", each, JACOBIAN))


def test_gradients_of_a_convolutional_net_equal_central_differences(repository: ModelRepository) -> None:
    model = conv_classifier()
    version = add_model(repository, "m", model)
    compute = in_double(model, "relu2", "logits")
    objectives: list[tuple[Objective, Any]] = [
        (UnitObjective(target_of(version, "relu2"), 1, (1, -1)), lambda out: out["relu2"][:, 1, 1, 2]),
        (ChannelMeanObjective(target_of(version, "relu2"), 3), lambda out: out["relu2"][:, 3].mean((1, 2))),
        (class_objective(version, 2), lambda out: out["logits"][:, 2]),
        (class_objective(version, 0, probability=True), lambda out: softmax(out["logits"])[:, 0]),
    ]
    for objective, truth in objectives:
        value, gradients = gradient_of(version, objective, {"image": IMAGES})
        close(value, truth(compute({"image": IMAGES})))
        # `truth` is called at once: it is that of this round.
        expected = differences(lambda batch: truth(compute({"image": batch})), IMAGES)  # noqa: B023
        close(gradients["image"], expected)


def test_the_gradient_at_a_tap_is_that_of_the_part_behind_it(repository: ModelRepository) -> None:
    model = conv_classifier()
    version = add_model(repository, "m", model)
    _, gradients = gradient_of(version, class_objective(version, 2), {"image": IMAGES}, ["relu2", "conv", "pooled"])
    assert list(gradients) == ["relu2", "conv", "pooled"]
    w = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")
    close(gradients["pooled"], np.tile(w[:, 2], (3, 1)))
    close(gradients["relu2"], np.broadcast_to(w[:, 2][:, None, None] / 9, (3, 4, 3, 3)))
    behind = in_double(_behind(model, "conv"), "logits")
    conv = in_double(model, "conv")({"image": IMAGES})["conv"]
    for item in range(3):
        image = IMAGES[item : item + 1]

        def logit(batch: Array, image: Array = image) -> Array:
            return behind({"conv": batch, "image": np.repeat(image, len(batch), 0)})["logits"][:, 2]

        close(gradients["conv"][item : item + 1], differences(logit, conv[item : item + 1]))


def _behind(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """The model with one of its tensors as an input, made by hand rather than by our slicing."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    kept = [node for node in cut.graph.node if tensor not in node.output]
    del cut.graph.node[:]
    cut.graph.node.extend(kept)
    cut.graph.input.append(float_value(tensor, ["n", "c", "h", "w"]))
    return cut


def test_sites_that_are_known_only_at_run_time_make_no_difference(repository: ModelRepository) -> None:
    fixed = add_model(repository, "fixed", conv_classifier())
    free = add_model(repository, "free", conv_classifier(free_size=True))
    for make in (
        lambda version: UnitObjective(target_of(version, "relu2"), 1, (1, -1)),
        lambda version: ChannelMeanObjective(target_of(version, "relu2"), 3),
    ):
        (value, gradients), (other, others) = (
            gradient_of(version, make(version), {"image": IMAGES}) for version in (fixed, free)
        )
        close(other, value)
        close(others["image"], gradients["image"])


def test_items_do_not_influence_each_other(repository: ModelRepository) -> None:
    version = add_model(repository, "m", conv_classifier())
    objective = class_objective(version, 1, probability=True)
    _, together = gradient_of(version, objective, {"image": IMAGES})
    for item in range(3):
        _, alone = gradient_of(version, objective, {"image": IMAGES[item : item + 1]})
        close(alone["image"], together["image"][item : item + 1])


def test_a_fixed_batch_gives_the_same_gradients_for_any_number_of_items(repository: ModelRepository) -> None:
    free = add_model(repository, "free", conv_classifier())
    fixed = add_model(repository, "fixed", conv_classifier(2), fixed_batch=2)
    _, expected = gradient_of(free, class_objective(free, 1), {"image": IMAGES})
    _, got = gradient_of(fixed, class_objective(fixed, 1), {"image": IMAGES})
    close(got["image"], expected["image"])
    close(
        attribution_of(fixed, "relu2", {"image": IMAGES}, Granularity.UNITS).attributions,
        attribution_of(free, "relu2", {"image": IMAGES}, Granularity.UNITS).attributions,
    )


def test_some_items_of_a_request_get_their_own_cotangents(repository: ModelRepository) -> None:
    version = add_model(repository, "m", dense_classifier())
    numbers = RNG.standard_normal((len(X), CLASSES)).astype(np.float32)
    objective = CotangentObjective(target_of(version, "logits"), numbers)
    session = Session(backward_graph(version, objective.target, [], NO_RELAXATIONS))
    value, gradients = compute_gradients(session, objective, {"x": X}, slice(2, 5), (CLASSES,))
    close(value, (numbers * LOGITS).sum(1)[2:5])
    close(gradients["x"], np.einsum("nc,nfc->nf", numbers, JACOBIAN)[2:5])


def test_an_input_that_is_not_a_number_gives_gradients_of_its_own_item_alone(repository: ModelRepository) -> None:
    version = add_model(repository, "m", dense_classifier())
    spoiled = X.copy()
    spoiled[1, 0] = np.nan
    value, gradients = gradient_of(version, class_objective(version, 0), {"x": spoiled})
    others = [item for item in range(len(X)) if item != 1]
    close(value[others], LOGITS[others, 0])
    close(gradients["x"][others], JACOBIAN[others, :, 0])


def test_an_infinite_activation_that_does_not_count_spoils_no_objective(repository: ModelRepository) -> None:
    version = add_model(repository, "m", dense_classifier())
    activation = np.array([[1, np.inf, 3, 4, 5]], np.float32)
    numbers = np.array([1, 0, 1, 0, 0], np.float32)
    target = target_of(version, "logits")
    assert CotangentObjective(target, numbers).value(slice(0, 1), activation) == [4]
    assert UnitObjective(target, 2, ()).value(slice(0, 1), activation) == [3]


def outside(version: ModelVersion) -> dict[str, tuple[Objective, str, str]]:
    """Objectives that do not fit `relu2`, (4, 3, 3), with the reason and the field at fault."""
    target = target_of(version, "relu2")
    spoiled = np.zeros((4, 3, 3), np.float32)
    spoiled[2, 0, 1] = np.inf
    return {
        "unit": (UnitObjective(target, 4, (0, 0), field="o"), "INVALID_UNIT", "o.unit"),
        "negative unit": (UnitObjective(target, -1, (0, 0), field="o"), "INVALID_UNIT", "o.unit"),
        "site": (UnitObjective(target, 0, (3, 0), field="o"), "INVALID_SITE", "o.site"),
        "no site": (UnitObjective(target, 0, (), field="o"), "INVALID_SITE", "o.site"),
        "mean of no unit": (ChannelMeanObjective(target, 9, field="o"), "INVALID_UNIT", "o.unit"),
        "shape": (
            CotangentObjective(target, np.zeros((4, 3, 2), np.float32), field="o"),
            "COTANGENT_SHAPE",
            "o.tensor.shape",
        ),
        "infinity": (CotangentObjective(target, spoiled, field="o"), "COTANGENT_NOT_FINITE", "o.tensor.data"),
    }


@pytest.mark.parametrize("case", ["unit", "negative unit", "site", "no site", "mean of no unit", "shape", "infinity"])
def test_an_objective_outside_the_tap_is_refused(repository: ModelRepository, case: str) -> None:
    version = add_model(repository, "m", conv_classifier())
    objective, reason, field = outside(version)[case]
    with pytest.raises(OrtoscopeError) as caught:
        objective.check((4, 3, 3))
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_the_mean_over_no_sites_is_refused(repository: ModelRepository) -> None:
    version = add_model(repository, "m", conv_classifier(free_size=True))
    with pytest.raises(OrtoscopeError) as caught:
        ChannelMeanObjective(target_of(version, "relu2"), 0).check((4, 0, 3))
    assert caught.value.reason == "EMPTY_TAP"


def renamed(model: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    """The model with one of its tensors under another name."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in model.graph.input:
        value.name = new if value.name == old else value.name
    return model


@pytest.mark.parametrize("name", ["activation", "cotangent", "tangent", "gradient.x"])
def test_a_tensor_called_like_one_of_a_backward_graph_is_told_apart(repository: ModelRepository, name: str) -> None:
    version = add_model(repository, "m", renamed(dense_classifier(), "hidden", name))
    _, gradients = gradient_of(version, class_objective(version, 3), {"x": X})
    close(gradients["x"], JACOBIAN[:, :, 3])
    _, gradients = gradient_of(version, class_objective(version, 3), {"x": X}, [name])
    close(gradients[name], np.where(HIDDEN > 0, W["w2"][:, 3], 0))
    value, _ = gradient_of(version, UnitObjective(target_of(version, name), 1, ()), {"x": X})
    close(value, HIDDEN[:, 1])


@pytest.mark.parametrize("name", ["activation", "cotangent"])
def test_an_input_called_like_one_of_a_backward_graph_is_refused(repository: ModelRepository, name: str) -> None:
    version = add_model(repository, "m", renamed(dense_classifier(), "x", name))
    with pytest.raises(OrtoscopeError, match="Rename it") as caught:
        gradient_of(version, class_objective(version, 3), {name: X})
    assert caught.value.reason == "RESERVED_NAME"


# Reductions


def test_reductions_multiply_by_the_value_and_sum_over_sites(repository: ModelRepository) -> None:
    version = add_model(repository, "m", conv_classifier())
    source = Source.of_tap(resolve_tap(version.manifest.taps, "relu2"))
    gradient, value = (RNG.standard_normal((2, 4, 3, 3)).astype(np.float32) for _ in range(2))
    assert reduce_gradient(gradient, None, source, GradientReduction.NONE) is gradient
    close(reduce_gradient(gradient, value, source, GradientReduction.TIMES_VALUE), gradient * value)
    sums = reduce_gradient(gradient, value, source, GradientReduction.UNIT_SUMS)
    close(sums, (gradient * value).sum((2, 3)))
    assert sums.dtype == np.float32
    last = dataclasses.replace(source, unit_axis=3)
    close(reduce_gradient(gradient, value, last, GradientReduction.UNIT_SUMS), (gradient * value).sum((1, 2)))


@pytest.mark.parametrize(("shape", "axis"), [((-1, 4), 1), ((-1, 4, 5), 0), ((-1,), 0)])
def test_the_units_of_an_input_are_known_for_vectors_alone(shape: tuple[int, ...], axis: int) -> None:
    assert Source.of_input(InputSpec("x", "tensor", "float32", shape, None)).unit_axis == axis


# Attribution


def test_attribution_of_a_linear_layer_is_activation_times_weight(repository: ModelRepository) -> None:
    version = add_model(repository, "m", dense_classifier("Softmax"))
    found = attribution_of(version, "active", {"x": X}, Granularity.UNITS)
    close(found.attributions, ACTIVE[:, :, None] * W["w2"])
    close(found.totals, ACTIVE @ W["w2"])
    close(found.scores, LOGITS)


@pytest.mark.parametrize("end", ["", "Softmax", "LogSoftmax"])
def test_attribution_of_probabilities_is_that_of_the_softmax(repository: ModelRepository, end: str) -> None:
    version = add_model(repository, "m", dense_classifier(end))
    found = attribution_of(version, "active", {"x": X}, Granularity.UNITS, probability=True)
    p = softmax(LOGITS)
    by_logits = ACTIVE[:, :, None] * W["w2"]
    expected = p[:, None] * (by_logits - np.einsum("nc,nhc->nh", p, by_logits)[:, :, None])
    close(found.attributions, expected)
    close(found.scores, p)
    close(found.totals.sum(1), np.zeros(len(X)))  # probabilities add up to 1, whatever changes


@pytest.mark.parametrize("probability", [False, True])
def test_attribution_equals_central_differences_along_the_activation(
    repository: ModelRepository, probability: bool
) -> None:
    model = conv_classifier()
    version = add_model(repository, "m", model)
    conv = in_double(model, "conv")({"image": IMAGES})["conv"]
    behind = in_double(_behind(model, "conv"), "logits")

    def scores(moved: Array) -> Array:
        logits = behind({"conv": moved, "image": IMAGES})["logits"]
        return softmax(logits) if probability else logits

    def along(direction: Array, step: float = 1e-6) -> Array:
        return (scores(conv + step * direction) - scores(conv - step * direction)) / (2 * step)

    whole = attribution_of(version, "conv", {"image": IMAGES}, probability=probability)
    close(whole.attributions[:, 0], along(conv))
    by_unit = attribution_of(
        version, "conv", {"image": IMAGES}, Granularity.UNITS, units=(2, 0), probability=probability
    )
    for number, unit in enumerate((2, 0)):
        only = np.zeros_like(conv)
        only[:, unit] = conv[:, unit]
        close(by_unit.attributions[:, number], along(only))
    by_site = attribution_of(
        version, "conv", {"image": IMAGES}, Granularity.SITES, sites=((0, 4), (-1, -2)), probability=probability
    )
    for number, (row, column) in enumerate(((0, 4), (5, 3))):
        only = np.zeros_like(conv)
        only[:, :, row, column] = conv[:, :, row, column]
        close(by_site.attributions[:, number], along(only))


@pytest.mark.parametrize("tap", ["conv", "relu", "relu2"])
@pytest.mark.parametrize("granularity", [Granularity.UNITS, Granularity.SITES])
def test_attributions_to_all_parts_add_up_to_that_to_the_whole(
    repository: ModelRepository, tap: str, granularity: Granularity
) -> None:
    version = add_model(repository, "m", conv_classifier())
    whole = attribution_of(version, tap, {"image": IMAGES})
    parts = attribution_of(version, tap, {"image": IMAGES}, granularity)
    assert whole.attributions.shape == (3, 1, CLASSES)
    close(parts.attributions.sum(1), whole.attributions[:, 0])
    close(parts.totals, whole.totals)
    close(whole.totals, whole.attributions[:, 0])
    close(parts.scores, whole.scores)


def test_attribution_is_the_sum_of_activation_times_gradient(repository: ModelRepository) -> None:
    model = conv_classifier()
    version = add_model(repository, "m", model)
    relu = in_double(model, "relu")({"image": IMAGES})["relu"]
    for probability in (False, True):
        found = attribution_of(
            version, "relu", {"image": IMAGES}, Granularity.UNITS, probability=probability
        ).attributions
        for index in range(CLASSES):
            objective = class_objective(version, index, probability=probability)
            _, gradients = gradient_of(version, objective, {"image": IMAGES}, ["relu"])
            close(found[:, :, index], (gradients["relu"] * relu).sum((2, 3)))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_size_of_a_batch_changes_no_attribution(repository: ModelRepository, batch_size: int) -> None:
    version = add_model(repository, "m", conv_classifier())
    expected = attribution_of(version, "relu2", {"image": IMAGES}, Granularity.SITES, batch_size=7)
    found = attribution_of(version, "relu2", {"image": IMAGES}, Granularity.SITES, batch_size=batch_size)
    close(found.attributions, expected.attributions)
    close(found.scores, expected.scores)
    for item in range(3):
        alone = attribution_of(version, "relu2", {"image": IMAGES[item : item + 1]}, Granularity.SITES)
        close(alone.attributions[0], expected.attributions[item])


def test_sites_run_row_by_row_and_are_counted_from_the_front(repository: ModelRepository) -> None:
    tap = resolve_tap(add_model(repository, "m", conv_classifier()).manifest.taps, "relu2")
    assert Parts(tap, Granularity.SITES).chosen((4, 2, 2)).sites == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert Parts(tap, Granularity.SITES, sites=((-1, -2), (1, 0))).chosen((4, 2, 2)).sites == ((1, 0), (1, 0))


@pytest.mark.parametrize(
    ("granularity", "chosen", "reason", "field"),
    [
        (Granularity.UNITS, {"units": (0, 4)}, "INVALID_UNIT", "units[1]"),
        (Granularity.SITES, {"sites": ((0, 0), (3, 0))}, "INVALID_SITE", "sites[1].site"),
        (Granularity.SITES, {"sites": ((0,),)}, "INVALID_SITE", "sites[0].site"),
    ],
)
def test_a_part_outside_the_tap_is_refused(
    repository: ModelRepository, granularity: Granularity, chosen: Any, reason: str, field: str
) -> None:
    tap = resolve_tap(add_model(repository, "m", conv_classifier()).manifest.taps, "relu2")
    with pytest.raises(OrtoscopeError) as caught:
        Parts(tap, granularity, **chosen).chosen((4, 3, 3))
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_tap_that_no_class_depends_on_is_refused(repository: ModelRepository) -> None:
    version = add_model(repository, "m", dense_classifier("Softmax"))
    for tap in ("logits", "probabilities"):
        with pytest.raises(OrtoscopeError) as caught:
            attribution_of(version, tap, {"x": X})
        assert caught.value.reason == "NO_HEAD"
    close(
        attribution_of(version, "logits", {"x": X}, probability=True).scores,
        softmax(LOGITS),
    )


# Classes


def classes_of(version: ModelVersion) -> Classes:
    return dataclasses.replace(find_classes(version), labels=LABELS)


def test_a_class_is_found_by_its_label_or_a_part_of_it_in_any_case(repository: ModelRepository) -> None:
    classes = classes_of(add_model(repository, "m", dense_classifier()))
    for label, index in (("tench, Tinca tinca", 0), ("Tinca tinca", 0), ("TABBY", 1), ("tabby cat", 1), ("zebra", 4)):
        assert classes.find(label, field="f") == index
    assert [classes.label(index) for index in (1, 7)] == ["tabby, tabby cat", ""]


def test_an_ambiguous_or_unknown_label_is_refused_with_those_there_are(repository: ModelRepository) -> None:
    classes = classes_of(add_model(repository, "m", dense_classifier()))
    with pytest.raises(OrtoscopeError, match="2 'crane', 3 'crane'") as caught:
        classes.find("crane", field="f")
    assert (caught.value.reason, caught.value.field) == ("AMBIGUOUS_CLASS", "f")
    with pytest.raises(OrtoscopeError, match="Close names: 'tabby'") as caught:
        classes.find("taby", field="f")
    assert (caught.value.code.value, caught.value.reason) == ("NOT_FOUND", "UNKNOWN_CLASS")
    with pytest.raises(OrtoscopeError, match="give the index instead"):
        dataclasses.replace(classes, labels=()).find("tabby", field="f")


def _with_end(*nodes: tuple[str, dict[str, Any]], shape: Sequence[int | str]) -> onnx.ModelProto:
    """`dense_classifier` with further nodes at its end, the last of which gives the output `end`."""
    g = GraphBuilder(0)
    for name, numbers in weights().items():
        g.constant(name, numbers)
    g.node("Gemm", ["x", "w1", "b1"], "hidden")
    value = g.node("Gemm", ["hidden", "w2", "b2"], "logits")
    for number, (operator, attributes) in enumerate(nodes):
        inputs = [value]
        if operator in {"Unsqueeze", "Squeeze"}:
            inputs.append(g.constant(f"axes{number}", np.array([2, 3], np.int64)))
        value = g.node(operator, inputs, "end" if number == len(nodes) - 1 else f"end{number}", **attributes)
    return g.model([float_value("x", ["n", FEATURES])], [float_value("end", shape)], opset=20)


SOFTMAX = ("Softmax", {"axis": 1})
UNSQUEEZE: tuple[str, dict[str, Any]] = ("Unsqueeze", {})


@pytest.mark.parametrize(
    ("nodes", "shape", "logits", "probabilities"),
    [
        ((SOFTMAX, ("Identity", {})), ["n", CLASSES], "logits", "end0"),
        ((SOFTMAX, UNSQUEEZE), ["n", CLASSES, 1, 1], "logits", "end0"),
        ((UNSQUEEZE, SOFTMAX), ["n", CLASSES, 1, 1], "end0", "end"),
        ((UNSQUEEZE, SOFTMAX, ("Flatten", {})), ["n", CLASSES], "end0", "end1"),
        ((("LogSoftmax", {}), ("Identity", {})), ["n", CLASSES], "logits", None),
        ((("Tanh", {}),), ["n", CLASSES], "end", None),
        ((("Relu", {}),), ["n", CLASSES], "end", None),
    ],
)
def test_scores_are_found_behind_what_only_moves_them(
    repository: ModelRepository, nodes: Any, shape: Any, logits: str, probabilities: str | None
) -> None:
    version = add_model(repository, "m", _with_end(*nodes, shape=shape))
    found = find_classes(version)
    assert found.logits.tensor == logits
    assert (found.probabilities.tensor if found.probabilities else None) == probabilities
    value, _ = gradient_of(version, class_objective(version, 3), {"x": X})
    scores = (X @ W["w1"] + W["b1"]) @ W["w2"] + W["b2"]
    if logits != "end":
        close(value, scores[:, 3])
        value, _ = gradient_of(version, class_objective(version, 3, probability=True), {"x": X})
        close(value, softmax(scores)[:, 3])


def test_a_softmax_over_another_axis_makes_no_probabilities_of_classes(repository: ModelRepository) -> None:
    model = _with_end(UNSQUEEZE, ("Softmax", {"axis": 2}), shape=["n", CLASSES, 1, 1])
    found = find_classes(add_model(repository, "m", model))
    assert (found.logits.tensor, found.probabilities) == ("end", None)


def test_a_model_without_classes_is_told_apart(repository: ModelRepository) -> None:
    g = GraphBuilder(0)
    g.node("Conv", ["image", g.weight("k", (3, 2, 3, 3), 18)], "map", pads=[1, 1, 1, 1])
    model = g.model([float_value("image", ["n", 2, 6, 5])], [float_value("map", ["n", 3, 6, 5])], opset=20)
    with pytest.raises(OrtoscopeError, match="m/1") as caught:
        find_classes(add_model(repository, "m", model))
    assert (caught.value.code.value, caught.value.reason) == ("FAILED_PRECONDITION", "NO_CLASSES")


# Relaxations


def max_pool_classifier() -> onnx.ModelProto:
    """`image` (n, 2, 6, 4) → `relu` → `pool` (MaxPool 2 x 2: (n, 2, 3, 2)) → `mean` (n, 2) → `logits` (n, 5)."""
    g = GraphBuilder(0)
    g.node("Relu", ["image"], "relu")
    g.node("MaxPool", ["relu"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    g.node("ReduceMean", ["pool", g.constant("axes", np.array([2, 3], np.int64))], "mean", keepdims=0)
    g.node("MatMul", ["mean", g.weight("w", (2, 5), 2)], "logits")
    return g.model([float_value("image", ["n", 2, 6, 4])], [float_value("logits", ["n", CLASSES])], opset=20)


def test_averaged_max_pooling_attributes_to_all_of_a_window_alike(repository: ModelRepository) -> None:
    model = max_pool_classifier()
    version = add_model(repository, "m", model)
    images = RNG.standard_normal((3, 2, 6, 4)).astype(np.float32)
    relaxations = Relaxations.parse(["averaged_max_pool"])
    w = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w"))
    relu = np.maximum(images, 0)
    # Each element has a quarter of its window, and each of the six windows a sixth of the mean.
    expected = relu.sum((2, 3))[:, :, None] * w / 24
    found = attribution_of(version, "relu", {"image": images}, Granularity.UNITS, relaxations=relaxations)
    close(found.attributions, expected)
    close(found.scores, relu.reshape(3, 2, 3, 2, 2, 2).max((3, 5)).mean((2, 3)) @ w)
    exact = attribution_of(version, "relu", {"image": images}, Granularity.UNITS)
    close(exact.totals, exact.scores)  # without a bias, the layers are linear where nothing changes its place
    _, gradients = gradient_of(version, class_objective(version, 2), {"image": images}, ["relu"], relaxations)
    close(gradients["relu"], np.broadcast_to(w[:, 2, None, None] / 24, images.shape))


def test_guided_gradients_pass_where_both_the_unit_and_its_gradient_are_above_zero(
    repository: ModelRepository,
) -> None:
    version = add_model(repository, "m", dense_classifier())
    value, gradients = gradient_of(
        version, class_objective(version, 1), {"x": X}, relaxations=Relaxations.parse(["guided"])
    )
    close(value, LOGITS[:, 1])
    passed = np.where((HIDDEN > 0) & (W["w2"][:, 1] > 0), W["w2"][:, 1], 0)
    close(gradients["x"], passed @ W["w1"].T)
