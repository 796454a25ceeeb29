"""What is told of a model's inputs, and the numbers that it is tried with."""

import numpy as np
import pytest
from onboarding_models import half_precision_model, two_input_model
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.loading import load_model
from ortoscope_service.models.onboarding.inputs import ImageGeometry, describe_inputs, random_feeds
from tiny_models import GraphBuilder, float_value, tiny_cnn, tiny_nhwc, tiny_transformer, tiny_vision_transformer


def model_of(shape, *, dtype=TensorProto.FLOAT):
    g = GraphBuilder(0)
    g.node("Identity", ["image"], "identity")
    value, out = (helper.make_tensor_value_info(name, dtype, list(shape)) for name in ("image", "identity"))
    return load_model(g.model([value], [out], opset=17).SerializeToString())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["n", 3, 32, 48], ImageGeometry("nchw", 3, 32, 48)),
        ([1, 1, 28, 28], ImageGeometry("nchw", 1, 28, 28)),
        (["n", 32, 48, 3], ImageGeometry("nhwc", 3, 32, 48)),
        (["n", 32, 48, 1], ImageGeometry("nhwc", 1, 32, 48)),
        (["n", 3, "h", "w"], ImageGeometry("nchw", 3, 224, 224)),
        (["n", "h", "w", 3], ImageGeometry("nhwc", 3, 224, 224)),
        (["n", 3, 32, 3], ImageGeometry("nchw", 3, 32, 3)),
        (["n", 4, 32, 32], None),
        (["n", 3, 4, 4], None),
        (["n", 3, 32], None),
        (["n", "c", "h", "w"], None),
    ],
)
def test_an_image_is_told_from_its_channel_axis(shape, expected):
    (spec,) = describe_inputs(model_of(shape))
    assert spec.image == (None if expected and expected.width < 8 else expected)


def test_channels_that_are_free_are_told_from_the_convolution():
    g = GraphBuilder(0)
    g.node("Conv", ["image", g.weight("w", (4, 3, 3, 3), 27)], "conv")
    model = g.model([float_value("image", ["n", "c", "h", "w"])], [float_value("conv", ["n", 4, "a", "b"])], opset=17)
    (spec,) = describe_inputs(load_model(model.SerializeToString()), size=(64, 96))
    assert spec.image == ImageGeometry("nchw", 3, 64, 96)


def test_only_float32_is_made_from_pictures():
    (spec,) = describe_inputs(load_model(half_precision_model().SerializeToString()))
    assert (spec.data_type, spec.image) == ("float16", None)
    (ids,) = describe_inputs(load_model(tiny_transformer().SerializeToString()))
    assert (ids.data_type, ids.shape, ids.image) == ("int64", (-1, 6), None)


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        (["n", 3, 32, 32], {"layout": "nhwc"}, "INVALID_LAYOUT"),
        (["n", 7], {"layout": "nchw"}, "INVALID_LAYOUT"),
        (["n", 3, 32, 32], {"size": (64, 64)}, "INVALID_SIZE"),
    ],
)
def test_a_layout_or_size_that_the_model_does_not_have_is_refused(shape, options, reason):
    with pytest.raises(OrtoscopeError) as caught:
        describe_inputs(model_of(shape), **options)
    assert caught.value.reason == reason


def test_a_layout_that_is_given_settles_what_both_could_be():
    both = model_of(["n", 3, 32, 3])
    (spec,) = describe_inputs(model_of(["n", 32, 32, 1]), layout="nhwc")
    assert spec.image == ImageGeometry("nhwc", 1, 32, 32)
    assert describe_inputs(both)[0].image is None  # an image three pixels wide is none


@pytest.mark.parametrize("build", [tiny_cnn, tiny_nhwc, tiny_transformer, tiny_vision_transformer])
def test_random_feeds_fit_the_inputs_and_differ_between_items(build):
    model = load_model(build().SerializeToString())
    inputs = describe_inputs(model)
    feeds = random_feeds(model, inputs, 3)
    for spec in inputs:
        array = feeds[spec.name]
        assert array.dtype == spec.data_type
        assert array.shape == (3, *spec.shape[1:])
        assert not np.array_equal(array[0], array[1])
        assert not np.array_equal(array[1], array[2])


def test_random_integers_stay_within_the_table_that_they_are_looked_up_in():
    model = load_model(tiny_transformer().SerializeToString())
    ids = random_feeds(model, describe_inputs(model), 200)["input_ids"]
    assert (ids.min(), ids.max()) == (0, 31)


def test_free_sides_of_an_image_get_its_size_and_every_input_the_batch():
    model = load_model(two_input_model().SerializeToString())
    feeds = random_feeds(model, describe_inputs(model, size=(20, 30)), 2)
    assert {name: array.shape for name, array in feeds.items()} == {"image": (2, 1, 20, 30), "condition": (2, 4)}
