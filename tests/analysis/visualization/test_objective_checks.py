"""Objectives that cannot be maximised are refused before any work, by the field that is at fault."""

import dataclasses

import numpy as np
import pytest
from analysis.visualization.objective_cases import EVERY, network, numbers, setting_of
from ortoscope_service.analysis.visualization.objectives import (
    L1,
    L2,
    MAXIMUM_DEPTH,
    MAXIMUM_SIZE,
    Alignment,
    Blur,
    BoundaryComplexity,
    Caricature,
    Channel,
    ChannelInterpolation,
    ClassLogit,
    ClassProbability,
    Constant,
    Difference,
    Direction,
    DirectionNeuron,
    Diversity,
    ForItem,
    Inversion,
    Layer,
    Neuron,
    Numbers,
    Objective,
    Picture,
    Product,
    RandomDirection,
    Scaled,
    Setting,
    Sum,
    TensorDirection,
    TotalVariation,
    WeightedChannels,
    check,
)
from ortoscope_service.errors import Code, OrtoscopeError

GOOD = Channel("first", 0)
NAN, INFINITY = float("nan"), float("inf")


def refusal(objective: Objective, setting: Setting) -> OrtoscopeError:
    with pytest.raises(OrtoscopeError) as caught:
        check(objective, setting)
    return caught.value


REFUSED: list[tuple[Objective, str, str]] = [
    (GOOD - Channel("first", 4), "INVALID_UNIT", "objective.sum[1].scaled.channel.unit"),
    (Channel("first", -1), "INVALID_UNIT", "objective.channel.unit"),
    (Neuron("tokens", 4), "INVALID_UNIT", "objective.neuron.unit"),
    (Neuron("first", 0, (5, 0)), "INVALID_SITE", "objective.neuron.site"),
    (Neuron("first", 0, (0,)), "INVALID_SITE", "objective.neuron.site"),
    (Neuron("pooled", 0, (0,)), "INVALID_SITE", "objective.neuron.site"),
    (DirectionNeuron("last", numbers(4), (0, 8)), "INVALID_SITE", "objective.direction_neuron.site"),
    (Layer("frist"), "UNKNOWN_TAP", "objective.layer.tap"),
    (GOOD * ForItem(1, Layer("frist")), "UNKNOWN_TAP", "objective.product[1].for_item.layer.tap"),
    (Sum(()), "EMPTY_OBJECTIVE", "objective.sum"),
    (Sum((GOOD, Product(()))), "EMPTY_OBJECTIVE", "objective.sum[1].product"),
    (Scaled(NAN, GOOD), "NOT_FINITE", "objective.scaled.weight"),
    (Scaled(1e39, GOOD), "NOT_FINITE", "objective.scaled.weight"),
    (GOOD + INFINITY, "NOT_FINITE", "objective.sum[1].constant"),
    (GOOD + ForItem(3, GOOD), "INVALID_ITEM", "objective.sum[1].for_item.item"),
    (GOOD + ForItem(-1, GOOD), "INVALID_ITEM", "objective.sum[1].for_item.item"),
    (Direction("first", numbers(3)), "INVALID_SHAPE", "objective.direction.vector"),
    (Direction("first", numbers(4, 1)), "INVALID_SHAPE", "objective.direction.vector"),
    (Direction("first", Numbers([0, 1, NAN, 2])), "NOT_FINITE", "objective.direction.vector"),
    (Direction("first", Numbers([0, 1, 1e39, 2])), "NOT_FINITE", "objective.direction.vector"),
    (Direction("first", Numbers(np.zeros(4))), "ZERO_DIRECTION", "objective.direction.vector"),
    (Direction("first", numbers(4), -1.0), "INVALID_POWER", "objective.direction.power"),
    (Direction("first", numbers(4), NAN), "NOT_FINITE", "objective.direction.power"),
    (RandomDirection("first", -1), "INVALID_SEED", "objective.random_direction.seed"),
    (WeightedChannels("first", (0, 4), (1.0, 1.0)), "INVALID_UNIT", "objective.weighted_channels.units[1]"),
    (WeightedChannels("first", (0, 0), (1.0, 1.0)), "DUPLICATE_UNIT", "objective.weighted_channels.units[1]"),
    (WeightedChannels("first", (0, 1), (1.0,)), "INVALID_SHAPE", "objective.weighted_channels.weights"),
    (WeightedChannels("first", (0, 1), (1.0, NAN)), "NOT_FINITE", "objective.weighted_channels.weights[1]"),
    (WeightedChannels("first", (), ()), "ZERO_DIRECTION", "objective.weighted_channels.weights"),
    (TensorDirection("first", numbers(4, 6, 1)), "INVALID_SHAPE", "objective.tensor_direction.tensor"),
    (TensorDirection("last", numbers(4, 2, 2)), "INVALID_SHAPE", "objective.tensor_direction.tensor"),
    (TensorDirection("first", numbers(4, 2)), "INVALID_SHAPE", "objective.tensor_direction.tensor"),
    (TensorDirection("first", Numbers(np.zeros((4, 0, 2)))), "INVALID_SHAPE", "objective.tensor_direction.tensor"),
    (Caricature("first", numbers(4, 5, 7)), "INVALID_SHAPE", "objective.caricature.activation"),
    (Caricature("first", Numbers(np.zeros((4, 5, 8)))), "ZERO_DIRECTION", "objective.caricature.activation"),
    (Inversion("tokens", numbers(4, 40)), "INVALID_SHAPE", "objective.inversion.activation"),
    (ClassLogit(4), "INVALID_CLASS", "objective.class_logit.label"),
    (ClassProbability(-1), "INVALID_CLASS", "objective.class_probability.label"),
    (ClassLogit("whale"), "UNKNOWN_CLASS", "objective.class_logit.label"),
    (ChannelInterpolation("first", 4, "last", 0), "INVALID_UNIT", "objective.channel_interpolation.unit"),
    (ChannelInterpolation("first", 0, "last", 4), "INVALID_UNIT", "objective.channel_interpolation.to_unit"),
    (ChannelInterpolation("first", 0, "lost", 0), "UNKNOWN_TAP", "objective.channel_interpolation.to_tap"),
    (GOOD - L1(Picture.IMAGE, NAN), "NOT_FINITE", "objective.sum[1].scaled.l1.constant"),
    (L2(Picture.IMAGE, 0.0, 0.0), "INVALID_CONSTANT", "objective.l2.epsilon"),
    (L2(Picture.IMAGE, 0.0, 1e-60), "INVALID_CONSTANT", "objective.l2.epsilon"),
    (TotalVariation("pooled"), "NO_SITES", "objective.total_variation.tap"),
    (Blur("first"), "NOT_A_PICTURE", "objective.blur.tap"),
    (BoundaryComplexity(Picture.IMAGE, 0), "INVALID_CONSTANT", "objective.boundary_complexity.width"),
    (Difference(Picture.IMAGE, numbers(3, 8, 5)), "INVALID_SHAPE", "objective.difference.reference"),
    (Alignment("first", 0.5), "INVALID_CONSTANT", "objective.alignment.decay"),
    (Constant(1.0), "ITEM_WITHOUT_OBJECTIVE", "objective"),
    (Scaled(0.0, GOOD), "ITEM_WITHOUT_OBJECTIVE", "objective"),
    (ForItem(0, GOOD) + ForItem(2, GOOD), "ITEM_WITHOUT_OBJECTIVE", "objective"),
    (ForItem(0, GOOD) * ForItem(1, GOOD), "ITEM_WITHOUT_OBJECTIVE", "objective"),
    (ForItem(0, ForItem(1, GOOD)), "ITEM_WITHOUT_OBJECTIVE", "objective"),
    (Product(tuple(ForItem(item, GOOD) for item in range(3))), "ITEM_WITHOUT_OBJECTIVE", "objective"),
    (GOOD * 0, "ITEM_WITHOUT_OBJECTIVE", "objective"),
    (GOOD * Constant(0.0), "ITEM_WITHOUT_OBJECTIVE", "objective"),
]


@pytest.mark.parametrize(
    ("objective", "reason", "field"), REFUSED, ids=[f"{reason}-{field}" for _, reason, field in REFUSED]
)
def test_objective_that_does_not_fit_is_refused(objective: Objective, reason: str, field: str) -> None:
    error = refusal(objective, setting_of(network(), 3))
    assert (error.reason, error.field) == (reason, field)
    assert error.metadata
    assert error.code is (Code.NOT_FOUND if reason.startswith("UNKNOWN") else Code.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    "objective", [Diversity("first"), Alignment("first"), ChannelInterpolation("first", 0, "last", 1)]
)
def test_comparison_of_items_needs_two(objective: Objective) -> None:
    error = refusal(GOOD + objective, setting_of(network(), 1))
    assert (error.reason, error.field) == ("BATCH_TOO_SMALL", f"objective.sum[1].{objective.kind}")


def test_class_of_a_model_without_classes_is_refused() -> None:
    setting = dataclasses.replace(setting_of(network(), 1), classes=None)
    error = refusal(ClassLogit(0), setting)
    assert (error.reason, error.field, error.code) == (
        "NO_CLASSES",
        "objective.class_logit",
        Code.FAILED_PRECONDITION,
    )


def test_opacity_of_a_picture_without_any_is_refused() -> None:
    setting = dataclasses.replace(setting_of(network(), 1), alpha=False)
    error = refusal(GOOD * (1 - Channel(Picture.ALPHA, 0)), setting)
    assert (error.reason, error.field) == ("NO_ALPHA", "objective.product[1].sum[1].scaled.channel.picture")


def test_blur_of_features_is_refused() -> None:
    setting = dataclasses.replace(setting_of(network(), 1), image=(12,), alpha=False)
    assert refusal(Blur(Picture.IMAGE), setting).reason == "NOT_A_PICTURE"
    check(L2(Picture.IMAGE), setting)


def test_tap_of_unknown_or_empty_shape_is_refused() -> None:
    setting = setting_of(network(), 1)
    tap = next(tap for tap in setting.taps if tap.tensor == "first")
    unknown = dataclasses.replace(setting, taps=[dataclasses.replace(tap, shape=(-1, 4, -1, 8))])
    error = refusal(Neuron("first", 0), unknown)
    assert (error.reason, error.code) == ("TAP_SHAPE_UNKNOWN", Code.FAILED_PRECONDITION)
    check(Neuron("first", 0), dataclasses.replace(unknown, shapes={"first": (4, 5, 8)}))
    empty = dataclasses.replace(unknown, shapes={"first": (4, 0, 8)})
    assert refusal(Neuron("first", 0), empty).reason == "EMPTY_TAP"


def test_objective_without_end_is_refused() -> None:
    setting = setting_of(network(), 1)
    deep: Objective = GOOD
    for _ in range(MAXIMUM_DEPTH - 1):
        deep = Product((deep,))
    check(deep, setting)
    assert refusal(Product((deep,)), setting).reason == "OBJECTIVE_TOO_LARGE"
    wide = Sum((GOOD,) * (MAXIMUM_SIZE - 1))
    check(wide, setting)
    assert refusal(wide + GOOD, setting).reason == "OBJECTIVE_TOO_LARGE"
    for _ in range(5000):
        deep = Product((deep,))
    assert refusal(deep, setting).reason == "OBJECTIVE_TOO_LARGE"


@pytest.mark.parametrize("name", list(EVERY))
def test_objective_that_fits_passes(name: str) -> None:
    check(EVERY[name], setting_of(network(), 3))
