"""Real architectures: the nine that the onnx package ships, with random weights, and the reference network."""

from pathlib import Path

import numpy as np
import pytest
import tiny_models
from ortoscope_service.graph.batch import make_batch_symbolic
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import expose, trunk
from ortoscope_service.graph.taps import Layout, find_taps
from ortoscope_service.runtime.sessions import Session, SessionConfig

REFERENCE = SessionConfig(optimization_level="disabled")

QUICK = {"densenet121", "inception_v1", "shufflenet", "squeezenet"}
ARCHITECTURES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in tiny_models.LIGHT_MODELS
]

TAP_COUNTS = {
    "bvlc_alexnet": 24,
    "densenet121": 668,
    "inception_v1": 143,
    "inception_v2": 371,
    "resnet50": 176,
    "shufflenet": 203,
    "squeezenet": 66,
    "vgg19": 46,
    "zfnet512": 22,
}
"""Nodes of each graph but those that make weights."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_taps_run_and_every_item_of_a_batch_has_its_own_values(name: str) -> None:
    proto = tiny_models.light_model(name)
    original = load_model(proto.SerializeToString())
    rewrite = make_batch_symbolic(original)
    assert rewrite.fixed_batch == 1
    taps = find_taps(rewrite.model)
    assert len(taps) == TAP_COUNTS[name]
    names = [tap.tensor for tap in taps]
    feeds = tiny_models.random_feeds(proto, 3)
    file = serialize(expose(rewrite.model, names))
    together = Session(file, REFERENCE).run(feeds)
    fixed = Session(serialize(expose(original, names)), REFERENCE)
    for item in range(3):
        alone = fixed.run({key: array[item : item + 1] for key, array in feeds.items()})
        for tap in taps:
            value = alone[tap.tensor]
            assert value.shape == (1, *tap.shape[1:])
            tolerance = 1e-5 * max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(
                together[tap.tensor][item], value[0], rtol=1e-4, atol=tolerance, err_msg=tap.tensor
            )
    spread = [float(np.std(value)) for value in together.values()]
    assert np.isfinite(spread).all()


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", pytest.param("resnet50", marks=pytest.mark.long)])
def test_trunks_of_real_architectures_give_the_values_of_the_whole(name: str) -> None:
    proto = tiny_models.light_model(name)
    model = make_batch_symbolic(load_model(proto.SerializeToString())).model
    taps = find_taps(model)
    chosen = taps[:: len(taps) // 12]
    feeds = tiny_models.random_feeds(proto, 2)
    whole = Session(serialize(expose(model, [tap.tensor for tap in chosen])), REFERENCE).run(feeds)
    for tap in chosen:
        part = serialize(trunk(model, [tap.tensor]))
        np.testing.assert_array_equal(
            Session(part, REFERENCE).run(feeds)[tap.tensor], whole[tap.tensor], err_msg=tap.tensor
        )
        optimized = Session(part).run(feeds)[tap.tensor]
        scale = float(np.abs(whole[tap.tensor]).max())
        np.testing.assert_allclose(optimized, whole[tap.tensor], rtol=1e-4, atol=1e-4 * scale, err_msg=tap.tensor)


@pytest.mark.parametrize("name", tiny_models.LIGHT_MODELS)
def test_weights_made_by_nodes_are_no_taps(name: str) -> None:
    """The files as shipped: every weight is a ConstantOfShape node, in DenseNet with an Unsqueeze behind it."""
    taps = find_taps(load_model(tiny_models.light_model_path(name)))
    assert len(taps) == TAP_COUNTS[name]
    assert {tap.operator for tap in taps}.isdisjoint({"ConstantOfShape", "Unsqueeze"})
    assert {tap.layout for tap in taps} <= {Layout.CHANNELS_FIRST, Layout.VECTOR}
    display_names = [tap.display_name for tap in taps]
    assert len(set(display_names)) == len(display_names)


def test_the_reference_network_is_cut_without_changing_a_value(reference_data: Path) -> None:
    model = load_model(reference_data / "models" / "efficientnet_lite0.onnx")
    names = ["add_530", "hardtanh_32", "getitem_144", "view"]
    feeds = {"image": np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)}
    whole = Session(serialize(expose(model, names)), REFERENCE).run(feeds)
    for name in names:
        part = Session(serialize(trunk(model, [name])), REFERENCE).run(feeds)
        np.testing.assert_array_equal(part[name], whole[name])
