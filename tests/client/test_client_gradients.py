"""Gradients and attributions through the client, against a real server and closed forms."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import ortoscope
import pytest
from gradient_models import CLASSES, FEATURES, LABELS, Array, conv_classifier, in_double, weights
from gradient_server import running_gradient_server
from ortoscope import Objective
from ortoscope.channel import Timeouts
from ortoscope.rpcs import Rpcs
from ortoscope.v1 import gradients_pb2
from pictures import photo

RNG = np.random.default_rng(5)
X = RNG.standard_normal((7, FEATURES))  # more than a request may hold, in double precision
W = weights()
HIDDEN = X @ W["w1"] + W["b1"]
ACTIVE = np.maximum(HIDDEN, 0)
LOGITS = ACTIVE @ W["w2"] + W["b2"]
JACOBIAN = np.einsum("fh,nh,hc->nfc", W["w1"], HIDDEN > 0, W["w2"])
PIXELS = [np.asarray(photo(5, 6, seed=seed)) for seed in range(6)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_gradient_server(tmp_path_factory.mktemp("gradients")) as address:
        yield address


@pytest.fixture(scope="module")
def scope(target: str) -> Iterator[ortoscope.Ortoscope]:
    with ortoscope.connect(target) as connection:
        yield connection


@pytest.fixture(scope="module")
def dense(scope: ortoscope.Ortoscope) -> ortoscope.Model:
    return scope.model("dense")


@pytest.fixture(scope="module")
def pictures(scope: ortoscope.Ortoscope) -> ortoscope.Model:
    return scope.model("pictures")


def close(actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=3e-4, atol=3e-5)


def test_more_items_than_a_request_may_hold_come_back_in_order(dense: ortoscope.Model) -> None:
    found = dense.gradient(X, Objective.class_logit(2))
    assert list(found) == ["x"]
    close(found.only, JACOBIAN[:, :, 2])
    close(found.objective, LOGITS[:, 2])
    assert (found.class_index, found.class_label, found.relaxations) == (2, "crane", ())
    assert found.tap == "models/dense/versions/1/taps/logits"
    assert found.provenance.model == dense.name
    assert np.asarray(found["x"]).dtype == np.float32
    assert found["x"].unit_axis == 1


def test_a_class_is_named_by_its_index_or_any_part_of_its_label(dense: ortoscope.Model) -> None:
    expected = dense.gradient(X[:1], Objective.class_probability(1)).only
    assert np.array_equal(dense.gradient(X[:1], Objective.class_probability("Tabby cat")).only, expected)
    with pytest.raises(ortoscope.NotFound, match="'tabby'") as caught:
        dense.gradient(X[:1], Objective.class_logit("taby"))
    assert caught.value.reason == "UNKNOWN_CLASS"


def test_a_tap_differentiates_its_units(pictures: ortoscope.Model) -> None:
    tap = pictures.tap("relu2")
    mean = tap.gradient(PIXELS[0], unit=1)
    sites = [tap.gradient(PIXELS[0], unit=1, site=(row, column)).only for row in range(3) for column in range(3)]
    close(mean.only, np.mean(sites, axis=0))
    maps = tap.activate(PIXELS[0]).values
    close(mean.objective, maps[:, 1].mean((1, 2)))
    close(tap.gradient(PIXELS[0], unit=1, site=(-1, 0)).objective, maps[:, 1, 2, 0])


def test_a_cotangent_for_each_item_goes_with_its_item(dense: ortoscope.Model) -> None:
    numbers = RNG.standard_normal((len(X), CLASSES))
    found = dense.tap("logits").gradient(X, cotangent=numbers)
    close(found.only, np.einsum("nc,nfc->nf", numbers, JACOBIAN))
    close(found.objective, (numbers * LOGITS).sum(1))
    found = dense.gradient(X, Objective.cotangent("logits", numbers[0].tolist()))
    close(found.only, np.einsum("c,nfc->nf", numbers[0], JACOBIAN))
    with pytest.raises(ortoscope.InvalidArgument) as caught:
        dense.gradient(X, Objective.cotangent("logits", numbers[:, :2]))
    assert caught.value.reason == "TENSOR_SHAPE"


def test_large_cotangents_are_sent_in_as_many_requests_as_it_takes(
    scope: ortoscope.Ortoscope, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the server took 1,000 bytes at a time: two images of 90 floats with 36 numbers each are too much."""
    with grpc.insecure_channel(target) as channel:
        rpcs = Rpcs(channel, target, Timeouts())
        limited = type(rpcs.limits)()
        limited.CopyFrom(rpcs.limits)
        limited.max_message_bytes = 1000
        monkeypatch.setattr(rpcs, "limits", limited)
        sent: list[int] = []
        compute = rpcs.compute_gradient

        def counting(request: gradients_pb2.ComputeGradientRequest) -> gradients_pb2.ComputeGradientResponse:
            sent.append(len(request.inputs))
            assert request.ByteSize() < 1000
            return compute(request)

        monkeypatch.setattr(rpcs, "compute_gradient", counting)
        model = ortoscope.Model(rpcs, scope.model("pictures").proto)
        images = RNG.standard_normal((5, 3, 6, 5))
        numbers = RNG.standard_normal((5, 4, 3, 3))
        found = model.gradient(images, Objective.cotangent("relu2", numbers)).only
    assert sent == [1] * 5
    close(found, scope.model("pictures").gradient(images, Objective.cotangent("relu2", numbers)).only)


def test_gradients_are_named_as_they_were_asked_for(pictures: ortoscope.Model) -> None:
    found = pictures.gradient(PIXELS, Objective.class_logit(0), at=["relu2", pictures.tap("conv"), "image"])
    assert list(found) == ["relu2", "conv", "image"]
    assert found["conv"].values.shape == (6, 3, 6, 5)
    assert [entry.tap.rpartition("/")[2] for entry in found.values()] == ["relu2", "conv", ""]
    with pytest.raises(ortoscope.InvalidArgument, match="'relu2', 'conv', 'image'"):
        _ = found.only
    assert set(found.arrays()) == {"objective", "relu2", "conv", "image"}
    assert "TensorGradient at relu2 (none): (6, 4, 3, 3)" in repr(found)
    one = pictures.gradient(PIXELS, Objective.class_logit(0), at=pictures.tap("relu2"))
    assert np.array_equal(one.only, found["relu2"].values)


def test_reductions_multiply_and_sum(pictures: ortoscope.Model) -> None:
    objective = Objective.class_logit(3)
    gradient = pictures.gradient(PIXELS, objective, at="conv").only
    values = pictures.activate(PIXELS, "conv")["conv"].values
    times = pictures.gradient(PIXELS, objective, at="conv", reduce="times_value")
    close(times.only, gradient * values)
    sums = pictures.gradient(PIXELS, objective, at="conv", reduce="unit_sums")
    close(sums.only, (gradient * values).sum((2, 3)))
    assert (sums["conv"].reduce, sums["conv"].unit_axis) == ("unit_sums", 1)


def test_a_model_of_several_inputs_has_a_gradient_at_each(scope: ortoscope.Ortoscope) -> None:
    model = scope.model("two-inputs")
    found = model.gradient({"left": np.array([-1.0, 2, 3, 4]), "right": np.ones(4)}, Objective.unit("sum", 1))
    assert found["left"].values.tolist() == [[0, 1, 0, 0]]
    assert found["right"].values.tolist() == [[0, 1, 0, 0]]


def test_the_response_can_be_put_together_again(dense: ortoscope.Model) -> None:
    found = dense.gradient(X, Objective.class_logit(2))
    again = found.to_proto()
    assert again.class_index == 2
    assert np.frombuffer(again.gradients[0].gradient.data, "<f4").reshape(7, 4).tolist() == found.only.tolist()
    assert again.gradients[0].reduction == gradients_pb2.ComputeGradientRequest.REDUCTION_NONE
    assert not dense.tap("hidden").gradient(X, unit=0).to_proto().HasField("class_index")


def test_wrong_words_are_refused_before_anything_is_sent(dense: ortoscope.Model) -> None:
    tap = dense.tap("hidden")
    for reason, call in (
        ("REDUCE_UNKNOWN", lambda: dense.gradient(X, Objective.class_logit(0), reduce="mean")),  # type: ignore[arg-type]
        ("PER_UNKNOWN", lambda: tap.attribute(X, per="channel")),  # type: ignore[arg-type]
        ("OBJECTIVE_MISSING", lambda: tap.gradient(X)),
        ("OBJECTIVE_MISSING", lambda: tap.gradient(X, unit=0, cotangent=np.zeros(3))),
        ("NO_INPUTS", lambda: tap.gradient([], unit=0)),
        ("NO_INPUTS", lambda: tap.attribute([])),
    ):
        with pytest.raises(ortoscope.InvalidArgument) as caught:
            call()
        assert caught.value.reason == reason


def test_objectives_say_what_they_are() -> None:
    assert repr(Objective.unit("t", 3, (1, -2))) == "<Objective unit: tap='t', unit=3, site=[1, -2]>"
    assert repr(Objective.cotangent("t", np.zeros((2, 3)))) == "<Objective cotangent: tap='t', numbers=(2, 3)>"
    assert "tabby" in repr(Objective.class_logit("tabby"))


@pytest.mark.parametrize("per", ["whole", "unit", "site"])
def test_attributions_of_any_number_of_items_come_back_in_order(pictures: ortoscope.Model, per: Any) -> None:
    found = pictures.attribute(PIXELS, "relu2", per=per)
    parts = {"whole": 1, "unit": 4, "site": 9}[per]
    assert found.values.shape == (6, parts, CLASSES)
    close(found.values.sum(1), found.totals)
    alone = pictures.attribute(PIXELS[5], pictures.tap("relu2"), per=per)
    close(found.values[5:], alone.values)
    logits = pictures.activate(PIXELS, "logits")["logits"].values
    close(found.scores, logits)
    assert (found.units is None) == (per != "unit")
    assert (found.sites is None) == (per != "site")
    assert found.labels == LABELS


def test_attribution_of_a_linear_layer_is_activation_times_weight(dense: ortoscope.Model) -> None:
    found = dense.tap("active").attribute(X, per="unit", units=[2, 0])
    close(found.values, (ACTIVE[:, :, None] * W["w2"])[:, [2, 0]])
    assert found.units is not None
    assert found.units.tolist() == [2, 0]
    probabilities = dense.tap("active").attribute(X, probability=True)
    close(probabilities.scores.sum(1), np.ones(7))
    close(probabilities.totals.sum(1), np.zeros(7))
    assert probabilities.probability


def test_chosen_sites_are_those_of_all(pictures: ortoscope.Model) -> None:
    tap = pictures.tap("relu2")
    every = tap.attribute(PIXELS, per="site")
    some = tap.attribute(PIXELS, per="site", sites=[(0, -1), (1, 1)])
    assert some.sites is not None
    assert some.sites.tolist() == [[0, 2], [1, 1]]
    close(some.values, every.values[:, [2, 4]])


def test_the_table_shows_what_speaks_for_and_against_the_best_class(dense: ortoscope.Model) -> None:
    found = dense.tap("active").attribute(X, per="unit")
    for item in range(len(X)):
        best = int(LOGITS[item].argmax())
        rows = list(found.top(item, 2))
        own = (ACTIVE[:, :, None] * W["w2"])[item, :, best]
        order = np.argsort(-np.abs(own), kind="stable")[:2]
        assert [row.part for row in rows] == [(unit,) for unit in order]
        close(np.array([row.attribution for row in rows]), own[order])
        assert {(row.index, row.label) for row in rows} == {(best, LABELS[best])}
    assert [row.index for row in found.top(0, 1, classes=[4, 0])] == [4, 0]
    whole = dense.tap("active").attribute(X)
    assert [row.index for row in whole.top(0, 3)] == np.argsort(-LOGITS[0])[:3].tolist()
    assert "attribution" in whole._repr_html_()
    assert "5 classes to 3 parts (unit) of active, 7 inputs" in repr(found)
    again = found.to_proto(2)
    assert [entry.index for entry in again.top_classes[0].classes] == np.argsort(-LOGITS[0])[:2].tolist()
    assert set(found.arrays()) == {"attributions", "totals", "scores", "units"}


def test_gradients_of_pictures_are_those_of_the_model(pictures: ortoscope.Model) -> None:
    compute = in_double(conv_classifier(channels=3), "relu2")
    image = (PIXELS[0].astype(np.float64).transpose(2, 0, 1)[None] - 127) / 64
    step = 1e-5 * RNG.standard_normal(image.shape)
    moved = [compute({"image": image + sign * step})["relu2"][:, 1].mean() for sign in (1, -1)]
    gradient = pictures.tap("relu2").gradient(PIXELS[0], unit=1).only
    assert np.sum(gradient * step) == pytest.approx((moved[0] - moved[1]) / 2, rel=1e-3)
