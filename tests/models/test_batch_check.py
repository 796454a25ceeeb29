"""The check that a batch is computed as its items are."""

import numpy as np
import pytest
from onboarding_models import mixing_model
from ortoscope_service.graph.batch import make_batch_symbolic
from ortoscope_service.graph.loading import load_model
from ortoscope_service.graph.taps import find_taps
from ortoscope_service.models.onboarding.activity import measure_activity
from ortoscope_service.models.onboarding.batch_check import ITEMS, check_batch
from ortoscope_service.models.onboarding.inputs import describe_inputs, random_feeds
from ortoscope_service.models.onboarding.running import groups
from tiny_models import GraphBuilder, float_value, tiny_cnn, tiny_nhwc, tiny_transformer, tiny_vision_transformer


def check(proto):
    original = load_model(proto.SerializeToString())
    rewrite = make_batch_symbolic(original)
    return check_batch(
        rewrite.model,
        find_taps(rewrite.model),
        random_feeds(rewrite.model, describe_inputs(rewrite.model), ITEMS),
        reference=original if rewrite.fixed_batch else None,
        reference_batch=rewrite.fixed_batch,
    )


@pytest.mark.parametrize("batch", ["n", 1, 2, 5])
@pytest.mark.parametrize("build", [tiny_cnn, tiny_nhwc, tiny_transformer, tiny_vision_transformer])
def test_every_layout_passes_at_every_batch(build, batch):
    outcome = check(build(batch))
    assert outcome.passed, outcome.detail
    assert outcome.largest_difference < 1e-5
    assert outcome.tensors >= len(find_taps(load_model(build(batch).SerializeToString())))


@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_items_that_depend_on_each_other_do_not_pass(batch):
    outcome = check(mixing_model(batch))
    assert not outcome.passed
    assert outcome.largest_difference > 0.01
    assert "when items are run apart" in outcome.detail


def test_a_batch_that_stands_in_a_computed_shape_does_not_pass():
    """Twice the batch stands in a Tile that no rewrite of constants can follow."""
    g = GraphBuilder(0)
    g.node("Flatten", ["image"], "flat")
    g.node("Reshape", ["flat", g.constant("whole", np.array([1, 768], np.int64))], "reshaped")
    g.node("Gemm", ["reshaped", g.weight("w", (768, 4), 768)], "out")
    proto = g.model([float_value("image", ["n", 3, 16, 16])], [float_value("out", [1, 4])], opset=17)
    outcome = check(proto)
    assert not outcome.passed
    assert "a run failed" in outcome.detail


def test_not_a_number_on_both_sides_is_no_difference():
    g = GraphBuilder(0)
    g.node("Sqrt", ["x"], "root")
    g.node("Log", ["root"], "log")
    assert check(g.model([float_value("x", ["n", 5])], [float_value("log", ["n", 5])], opset=17)).passed


def test_activity_counts_constant_units_and_names_taps_that_are_not_finite():
    g = GraphBuilder(0)
    g.node("Mul", ["x", g.constant("mask", np.array([1, 0, 1, 0, 0], np.float32))], "masked")
    g.node("Log", ["masked"], "log")
    model = load_model(
        g.model([float_value("x", ["n", 5])], [float_value("log", ["n", 5])], opset=17).SerializeToString()
    )
    x = np.array([[1, 1, 2, 1, 1], [2, 1, 3, 1, 1]], np.float32)
    activity = measure_activity(model, find_taps(model), {"x": x}, 2)
    assert (activity.units, activity.constant) == (10, 6)
    assert activity.not_finite == ("log",)


def test_groups_keep_the_order_and_split_what_is_large():
    model = load_model(tiny_cnn().SerializeToString())
    taps = find_taps(model)
    names = [tap.tensor for tap in taps]
    assert list(groups(names, taps, 3)) == [tuple(names)]
    split = list(groups(names, taps, 20_000))
    assert len(split) > 1
    assert [name for group in split for name in group] == names
