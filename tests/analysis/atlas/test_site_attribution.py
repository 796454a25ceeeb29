"""Attribution of classes to single sites against closed forms and central differences in float64."""

import numpy as np
import pytest
from gradient_models import conv_classifier, differences, in_double
from ortoscope_service.analysis.activations import run_taps
from ortoscope_service.analysis.atlas.site_attribution import SiteAttribution
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.sessions import Session
from serving import add_model
from tiny_models import GraphBuilder, float_value, tiny_cnn, tiny_nhwc, tiny_vision_transformer

RNG = np.random.default_rng(11)
EXECUTION = ExecutionConfig(batch_size=4)


def attributed(version: ModelVersion, name: str, feeds, item, site, **options) -> np.ndarray:
    tap = resolve_tap(version.manifest.taps, name)
    attribution = SiteAttribution.of(version, tap, EXECUTION, **options)
    assert attribution is not None
    activation = run_taps(Session(version.trunk_bytes((tap.tensor,))), feeds, version.manifest.fixed_batch)[tap.tensor]
    return attribution.attribute(activation, np.array(item), np.array(site, np.int32), feeds)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def test_before_average_pooling_and_a_dense_layer_it_is_the_weights_times_the_activation(tmp_path):
    model = tiny_cnn(seed=2)
    version = add_model(ModelRepository(tmp_path), "cnn", model)
    images = RNG.standard_normal((3, 3, 16, 16)).astype(np.float32)
    maps = in_double(model, "add")({"image": images})["add"]
    (weight,) = (t for t in model.graph.initializer if t.name == "fc.weight")
    w = np.frombuffer(weight.raw_data, np.float32).reshape(10, 12).astype(np.float64)
    item = np.repeat(np.arange(3), 3)
    site = np.array([(1, 1), (2, 6), (7, 0)] * 3)
    h = maps[item, :, site[:, 0], site[:, 1]]
    close(attributed(version, "add", {"image": images}, item, site), h @ w.T / 64)


def test_the_sites_of_a_channels_last_tap_sum_to_the_score_without_its_bias(tmp_path):
    model = tiny_nhwc(seed=1)
    version = add_model(ModelRepository(tmp_path), "nhwc", model)
    images = RNG.standard_normal((1, 16, 16, 3)).astype(np.float32)
    site = np.stack(np.indices((8, 8)), -1).reshape(-1, 2)
    found = attributed(version, "model/block2/out:0", {"input_1:0": images}, np.zeros(64, int), site)
    scores = in_double(model, "model/dense/MatMul:0")({"input_1:0": images})["model/dense/MatMul:0"]
    close(found.sum(0), scores[0])
    assert (np.abs(found).sum(1) > 0).all()


@pytest.mark.parametrize("batch", ["n", 2])
def test_it_is_the_derivative_along_the_site_with_a_skip_past_the_tap(tmp_path, batch):
    model = conv_classifier(batch)
    fixed = batch if isinstance(batch, int) else 0
    version = add_model(ModelRepository(tmp_path), "conv", model, fixed_batch=fixed)
    images = RNG.standard_normal((2, 2, 6, 5)).astype(np.float32)
    item, site = np.array([0, 1, 1, 0, 0]), np.array([(0, 0), (3, 2), (5, 4), (2, 2), (1, 3)])
    found = attributed(version, "relu", {"image": images}, item, site)
    double = in_double(model, "relu")({"image": images})["relu"]
    head = in_double(_head_of_conv_classifier(), "logits")
    for number, (which, (row, column)) in enumerate(zip(item, site, strict=True)):
        mask = np.zeros_like(double[which])
        mask[:, row, column] = double[which, :, row, column]

        def scores(step: np.ndarray, which=which, mask=mask) -> np.ndarray:
            relu = double[which] + step[:, :, None, None] * mask
            return head({"relu": relu, "image": images[which : which + 1].astype(np.float64)})["logits"]

        slopes = [differences(lambda step, k=k: scores(step)[:, k], np.zeros((1, 1)))[0, 0] for k in range(5)]
        close(found[number], np.array(slopes))


def _head_of_conv_classifier():
    """What `conv_classifier` computes from `relu` and the image."""
    whole = conv_classifier()
    del whole.graph.node[:2]
    whole.graph.input.append(float_value("relu", ["n", 3, 6, 5]))
    return whole


def max_pool_classifier():
    """`image` → `relu` (n, 3, 8, 8) → MaxPool 2 x 2 → `logits` (n, 10)."""
    g = GraphBuilder(4)
    g.node("Conv", ["image", g.weight("k", (3, 3, 3, 3), 27)], "conv", pads=[1, 1, 1, 1])
    g.node("Relu", ["conv"], "relu")
    g.node("MaxPool", ["relu"], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    g.node("Flatten", ["pooled"], "flat")
    g.node("Gemm", ["flat", g.weight("w", (48, 10), 48)], "logits")
    return g.model([float_value("image", ["n", 3, 8, 8])], [float_value("logits", ["n", 10])], opset=17)


def test_max_pooling_is_relaxed_to_average_pooling(tmp_path):
    model = max_pool_classifier()
    version = add_model(ModelRepository(tmp_path), "pool", model)
    images = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
    maps = in_double(model, "relu")({"image": images})["relu"]
    (weight,) = (t for t in model.graph.initializer if t.name == "w")
    w = np.frombuffer(weight.raw_data, np.float32).reshape(3, 4, 4, 10).astype(np.float64)
    item, site = np.array([0, 0, 1]), np.array([(0, 0), (3, 6), (7, 7)])
    h = maps[item, :, site[:, 0], site[:, 1]]
    windows = w[:, site[:, 0] // 2, site[:, 1] // 2]
    close(attributed(version, "relu", {"image": images}, item, site), np.einsum("nu,unk->nk", h, windows) / 4)
    largest = maps[item, :, site[:, 0], site[:, 1]] == np.stack(
        [
            maps[i, :, r - r % 2 : r - r % 2 + 2, c - c % 2 : c - c % 2 + 2].max((1, 2))
            for i, (r, c) in zip(item, site, strict=True)
        ]
    )
    exact = attributed(version, "relu", {"image": images}, item, site, relaxations=())
    close(exact, np.einsum("nu,nu,unk->nk", h, largest, windows))


def test_tokens_are_attributed_one_by_one(tmp_path):
    model = tiny_vision_transformer(seed=3)
    version = add_model(ModelRepository(tmp_path), "vit", model)
    images = RNG.standard_normal((2, 3, 16, 16)).astype(np.float32)
    # The logits are computed from the class token alone, so that only it counts at the last tap.
    found = attributed(version, "block0/residual2", {"image": images}, [0, 0, 1], [[0], [5], [0]])
    logits = in_double(model, "logits")({"image": images})["logits"]
    (bias,) = (t for t in model.graph.initializer if t.name == "head.bias")
    b = np.frombuffer(bias.raw_data, np.float32).astype(np.float64)
    close(found, np.stack([logits[0] - b, np.zeros(10), logits[1] - b]))


def test_a_tap_without_sites_is_attributed_to_as_a_whole(tmp_path):
    model = tiny_cnn(seed=2)
    version = add_model(ModelRepository(tmp_path), "cnn", model)
    images = RNG.standard_normal((6, 3, 16, 16)).astype(np.float32)
    found = attributed(version, "flat", {"image": images}, np.arange(6), np.empty((6, 0)))
    (bias,) = (t for t in model.graph.initializer if t.name == "fc.bias")
    close(found, in_double(model, "logits")({"image": images})["logits"] - np.frombuffer(bias.raw_data, np.float32))
    assert attributed(version, "flat", {"image": images}, [], np.empty((0, 0))).shape == (0, 10)


def test_there_is_none_for_a_model_without_classes_or_a_tap_beside_the_way_to_them(tmp_path):
    repository = ModelRepository(tmp_path)
    version = add_model(repository, "cnn", tiny_cnn())
    logits = resolve_tap(version.manifest.taps, "logits")
    assert SiteAttribution.of(version, logits, EXECUTION) is None
    g = GraphBuilder(0)
    g.node("Conv", ["image", g.weight("k", (3, 3, 3, 3), 27)], "conv", pads=[1, 1, 1, 1])
    g.node("Relu", ["conv"], "relu")
    model = g.model([float_value("image", ["n", 3, 8, 8])], [float_value("relu", ["n", 3, 8, 8])], opset=17)
    version = add_model(repository, "maps", model)
    assert SiteAttribution.of(version, resolve_tap(version.manifest.taps, "conv"), EXECUTION) is None


def test_relaxations_are_checked(tmp_path):
    version = add_model(ModelRepository(tmp_path), "cnn", tiny_cnn())
    tap = resolve_tap(version.manifest.taps, "add")
    for names, reason in ((("averaged",), "UNKNOWN_RELAXATION"), (("guided",), "RELAXATION_NOT_LINEAR")):
        with pytest.raises(OrtoscopeError) as caught:
            SiteAttribution.of(version, tap, EXECUTION, names)
        assert caught.value.reason == reason
