"""Values of objectives, held against captum's golden values and against NumPy's account of each formula."""

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from analysis.visualization.objective_cases import (
    ALONE,
    COUPLED,
    EVERY,
    IMAGE,
    Array,
    Compiled,
    network,
    numbers,
    pictures,
    pointwise,
    setting_of,
)
from finite_differences import evaluate
from ortoscope_service.analysis.visualization.objectives import (
    L1,
    L2,
    LEAVES,
    Alignment,
    Channel,
    ChannelInterpolation,
    ClassLogit,
    ClassProbability,
    Constant,
    Direction,
    DirectionNeuron,
    Diversity,
    ForItem,
    Layer,
    Neuron,
    Numbers,
    Objective,
    Picture,
    Product,
    RandomDirection,
    Scaled,
    Sum,
    TensorDirection,
    TotalVariation,
    WeightedChannels,
    packed_feeds,
    taps,
)

ONES = Numbers(np.ones(2))


def value_of(objective: Objective, batch: int, *, own_probabilities: bool = True) -> Array:
    setting = setting_of(network(), batch, own_probabilities=own_probabilities)
    compiled = Compiled(network(), objective, setting)
    return compiled.value({**pictures(batch), **objective.feeds(setting, "objective")})


def activations(batch: int) -> dict[str, Array]:
    """By tensor, with the units on the second axis and all sites on the last."""
    model = network()
    names = ("first", "last", "tokens", "pooled", "scores", "probabilities")
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, None) for n in names)
    found = evaluate(whole, {"x": pictures(batch)["image"]})
    last = {name: found[name].reshape(batch, -1, 4).transpose(0, 2, 1) for name in ("last", "tokens")}
    return {**{name: value.reshape(batch, 4, -1) for name, value in found.items()}, **last}


def dot_cossim(x: Array, v: Array, power: float) -> Array:
    """Lucid's `_dot_cossim` along the second axis."""
    dot = (x * v).sum(1)
    lengths = (1e-4 + np.sqrt((x * x).sum(1))) * (1e-4 + np.sqrt((v * v).sum(1)))
    return dot * np.maximum(0.1, dot / lengths) ** power


GOLDEN: list[tuple[Objective, int, float]] = [
    (Channel("layer", 0), 1, 1.3),
    (Channel("layer", 1), 1, 1.3),
    (Neuron("layer", 0), 1, 1.3),
    (Layer("layer"), 1, 1.3**2),
    (TotalVariation("layer"), 1, 0.0),
    (L1("layer"), 1, 2.6),
    (L2("layer"), 1, (2 * 1.3**2) ** 0.5),
    (-Diversity("layer"), 2, -1.0),
    (ChannelInterpolation("layer", 0, "layer", 1), 2, 2.6),
    (Alignment("layer"), 2, 0.0),
    (Direction("layer", ONES), 1, 2.6),
    (DirectionNeuron("layer", ONES), 1, 2.6),
    (TensorDirection("layer", Numbers(np.ones((2, 1, 1)))), 1, 2.6),
    (WeightedChannels("layer", (0, 1), (1.0, 1.0)), 1, 2.6),
    (-Channel("layer", 0), 1, -1.3),
    (Channel("layer", 0) + Channel("layer", 1) + 1, 1, 3.6),
    (Channel("layer", 0) - Channel("layer", 1) - 1, 1, -1.0),
    (Channel("layer", 0) * 10, 1, 13.0),
    (Channel("layer", 0) / 10, 1, 0.13),
    (Channel("layer", 0) * Channel("layer", 0), 1, 1.3**2),
]
"""Captum's `tests/optim/core/test_loss.py`, an image of ones."""

SUMMED = (ChannelInterpolation, Alignment)
"""Of which the sum over the batch is what captum and Lucid state; of the others it is the mean."""


@pytest.mark.parametrize(("objective", "batch", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_captums_golden_losses_on_a_pointwise_network(objective: Objective, batch: int, golden: float) -> None:
    model = pointwise()
    size = 2 if isinstance(objective, TotalVariation) else 1
    setting = setting_of(model, batch, image=(3, size, size))
    feeds = {"image": np.ones((batch, 3, size, size), np.float32), **objective.feeds(setting, "objective")}
    feeds["alpha"] = np.ones((batch, 1, size, size), np.float32)
    found = Compiled(model, objective, setting).in_onnxruntime(feeds)["activation"]
    total = found.sum() if isinstance(objective, SUMMED) else found.mean()
    np.testing.assert_allclose(total, golden, atol=2e-6)


V = numbers(4).array.astype(np.float64)[None, :, None]
B = numbers(4, 5, 8).array.astype(np.float64)
START = numbers(*IMAGE).array.astype(np.float64)
SITE = 2 * 8 + 4  # the centre of 5 x 8, at bottom right of the middle

TRUTH: dict[str, Callable[[dict[str, Array], Array, Array], Array]] = {
    "neuron": lambda a, image, alpha: a["first"][:, 2, SITE],
    "neuron of channels last": lambda a, image, alpha: a["last"][:, 1, 4 * 8 + 6],
    "neuron of tokens": lambda a, image, alpha: a["tokens"][:, 3, 11],
    "neuron of a vector": lambda a, image, alpha: a["pooled"][:, 1, 0],
    "channel": lambda a, image, alpha: a["first"][:, 1].mean(1),
    "channel of channels last": lambda a, image, alpha: a["first"][:, 1].mean(1),
    "channel of tokens": lambda a, image, alpha: a["tokens"][:, 1].mean(1),
    "channel of a vector": lambda a, image, alpha: a["scores"][:, 1, 0],
    "channel of the picture": lambda a, image, alpha: image[:, 2].mean((1, 2)),
    "mean alpha": lambda a, image, alpha: alpha.mean((1, 2, 3)),
    "layer": lambda a, image, alpha: (a["tokens"] ** 2).mean((1, 2)),
    "class logit": lambda a, image, alpha: a["scores"][:, 2, 0],
    "class by name": lambda a, image, alpha: a["scores"][:, 1, 0],
    "class probability": lambda a, image, alpha: a["probabilities"][:, 3, 0],
    "direction": lambda a, image, alpha: dot_cossim(a["first"], V, 0).mean(1),
    "direction by angle": lambda a, image, alpha: dot_cossim(a["first"], V, 2).mean(1),
    "direction of channels last by angle": lambda a, image, alpha: dot_cossim(a["last"], V, 1.5).mean(1),
    "direction of tokens by angle": lambda a, image, alpha: dot_cossim(a["tokens"], V, 2).mean(1),
    "direction of a vector by angle": lambda a, image, alpha: dot_cossim(a["pooled"], V, 3).mean(1),
    "weighted channels": lambda a, image, alpha: (0.5 * a["first"][:, 3] - 2 * a["first"][:, 0]).mean(1),
    "random direction": lambda a, image, alpha: dot_cossim(a["last"], drawn(5), 0).mean(1),
    "random direction by angle": lambda a, image, alpha: dot_cossim(a["last"], drawn(5), 2).mean(1),
    "direction neuron": lambda a, image, alpha: dot_cossim(a["last"], V, 0)[:, 7],
    "direction neuron by angle": lambda a, image, alpha: dot_cossim(a["first"], V, 2)[:, SITE],
    "tensor direction": lambda a, image, alpha: patched(a["first"], numbers(4, 3, 2).array, 0),
    "tensor direction by angle": lambda a, image, alpha: patched(
        a["last"], numbers(2, 3, 4).array.transpose(2, 0, 1), 2
    ),
    "caricature": lambda a, image, alpha: (a["first"].reshape(len(image), -1) * B.reshape(-1)).sum(1),
    "inversion": lambda a, image, alpha: (
        -((a["first"].reshape(len(image), -1) - B.reshape(-1)) ** 2).sum(1) / (B**2).sum()
    ),
    "l1": lambda a, image, alpha: np.abs(image - 0.5).sum((1, 2, 3)),
    "l1 of a tap": lambda a, image, alpha: np.abs(a["first"]).sum((1, 2)),
    "l2": lambda a, image, alpha: np.sqrt(1e-6 + ((image - 0.5) ** 2).sum((1, 2, 3))),
    "l2 of a tap": lambda a, image, alpha: np.sqrt(0.01 + ((a["last"] - 0.1) ** 2).sum((1, 2))),
    "total variation": lambda a, image, alpha: variation(image),
    "total variation of channels last": lambda a, image, alpha: variation(a["first"].reshape(-1, 4, 5, 8)),
    "total variation of tokens": lambda a, image, alpha: np.abs(np.diff(a["tokens"], axis=2)).sum((1, 2)),
    "mean absolute difference": lambda a, image, alpha: np.abs(a["first"] - B.reshape(4, 40)).mean((1, 2)),
    "root mean square difference": lambda a, image, alpha: np.sqrt(((image - START) ** 2).mean((1, 2, 3))),
    "euclidean difference": lambda a, image, alpha: np.sqrt(((image - START) ** 2).sum((1, 2, 3))),
    "largest difference": lambda a, image, alpha: np.abs(image - START).max((1, 2, 3)),
    "sum": lambda a, image, alpha: a["first"][:, 1].mean(1) + 2 * a["first"][:, 0].mean(1) - 3,
    "product": lambda a, image, alpha: (
        a["first"][:, 1].mean(1) * (1 - alpha.mean((1, 2, 3))) * a["tokens"][:, 2].mean(1)
    ),
    "negation": lambda a, image, alpha: -a["first"][:, 0, SITE],
}


def drawn(seed: int) -> Array:
    vector = np.random.default_rng(seed).standard_normal(4)
    return (vector / np.sqrt((vector**2).sum()))[None, :, None]


def patched(a: Array, patch: Array, power: float) -> Array:
    """Lucid's `tensor_direction`: cropped at the centre, with the patch (unit, row, column)."""
    rows, columns = patch.shape[1:]
    top, left = (5 - rows) // 2, (8 - columns) // 2
    crop = a.reshape(-1, 4, 5, 8)[:, :, top : top + rows, left : left + columns]
    return dot_cossim(crop.reshape(len(a), 4, -1), patch.reshape(1, 4, -1).astype(np.float64), power).mean(1)


def variation(x: Array) -> Array:
    """TensorFlow's `tf.image.total_variation`."""
    return np.abs(np.diff(x, axis=2)).sum((1, 2, 3)) + np.abs(np.diff(x, axis=3)).sum((1, 2, 3))


@pytest.mark.parametrize("name", list(TRUTH))
def test_value_is_that_of_the_formula(name: str) -> None:
    parts = pictures(2)
    truth = TRUTH[name](activations(2), parts["image"], parts["alpha"])
    np.testing.assert_allclose(value_of(ALONE[name], 2), truth, rtol=1e-7)


def test_caricature_weighs_by_the_cosine_over_all_units_and_sites() -> None:
    a = activations(2)["tokens"].transpose(0, 2, 1).reshape(2, -1)
    b = numbers(40, 4).array.reshape(-1).astype(np.float64)
    cosine = a @ b / (1e-6 + np.linalg.norm(a, axis=1)) / (1e-6 + np.linalg.norm(b))
    truth = a @ b * np.maximum(0.1, cosine) ** 2
    np.testing.assert_allclose(value_of(ALONE["caricature by angle"], 2), truth, rtol=1e-9)


def test_boundary_complexity_counts_the_frame_alone() -> None:
    setting = setting_of(network(), 1)
    objective = ALONE["boundary complexity"]
    compiled = Compiled(network(), objective, setting)
    feeds = {**pictures(1), **objective.feeds(setting, "objective")}
    kernel = np.full((5, 5), 0.5)
    kernel[1:4, 1:4] = 1
    image, truth = feeds["image"][0], 0.0
    for channel, row, column in np.ndindex(*IMAGE):
        if row in {0, 4} or column in {0, 7}:
            inside = [
                (kernel[i, j], image[channel, row + i - 2, column + j - 2])
                for i, j in np.ndindex(5, 5)
                if 0 <= row + i - 2 < 5 and 0 <= column + j - 2 < 8
            ]
            blurred = sum(weight * pixel for weight, pixel in inside) / sum(weight for weight, _ in inside)
            truth += (blurred - image[channel, row, column]) ** 2 + 0.8 * (image[channel, row, column] - 0.5) ** 2
    np.testing.assert_allclose(compiled.value(feeds), [truth], rtol=1e-9)


@pytest.mark.parametrize("name", ["diversity", "diversity of channels last", "diversity of tokens"])
def test_mean_of_diversity_is_lucids(name: str) -> None:
    objective = COUPLED[name]
    assert isinstance(objective, Diversity)
    a = activations(3)[str(objective.of)]
    grams = [one @ one.T for one in a]
    grams = [gram / np.sqrt((gram**2).sum()) for gram in grams]
    pairs = [(grams[i] * grams[j]).sum() for i in range(3) for j in range(3) if i != j]
    np.testing.assert_allclose(value_of(objective, 3).mean(), sum(pairs) / 3, rtol=1e-9)


def test_sum_of_alignment_is_lucids() -> None:
    a, truth = activations(7)["first"], 0.0
    for distance in (1, 2, 3, 4):
        for item in range(7 - distance):
            truth -= ((a[item] - a[item + distance]) ** 2).mean() / 2.0**distance
    np.testing.assert_allclose(value_of(Alignment("first"), 7).sum(), truth, rtol=1e-9)


def test_interpolation_goes_from_one_channel_to_the_other() -> None:
    a = activations(5)
    one, other = a["first"][:, 0].mean(1), a["tokens"][:, 3].mean(1)
    weights = np.array([0, 0.25, 0.5, 0.75, 1])
    found = value_of(COUPLED["channel interpolation"], 5)
    np.testing.assert_allclose(found, (1 - weights) * one + weights * other, rtol=1e-9)


def test_objective_for_an_item_is_nothing_for_the_others() -> None:
    a = activations(3)["first"]
    found = value_of(ForItem(1, Channel("first", 0)) + ForItem(0, -Neuron("first", 2)) + ForItem(2, Layer("first")), 3)
    truth = [-a[0, 2, SITE], a[1, 0].mean(), (a[2] ** 2).mean()]
    np.testing.assert_allclose(found, truth, rtol=1e-9)


@pytest.mark.parametrize("name", list(ALONE))
def test_item_does_not_depend_on_what_shares_its_batch(name: str) -> None:
    objective = ALONE[name]
    assert not objective.couples_batch
    setting = setting_of(network("float32"), 3)
    compiled = Compiled(network("float32"), objective, setting)
    feeds = {**pictures(3, "float32"), **objective.feeds(setting, "objective")}
    together = compiled.in_onnxruntime(feeds)
    others = {key: value.copy() for key, value in feeds.items()}
    for part in ("image", "alpha"):
        others[part][[0, 2]] = np.float32(1e30) if part == "image" else np.nan
    with np.errstate(all="ignore"):
        beside = compiled.in_onnxruntime(others)
    for output, value in together.items():
        np.testing.assert_array_equal(beside[output][1], value[1], err_msg=output)


@pytest.mark.parametrize("name", list(COUPLED))
def test_objective_over_the_batch_says_so(name: str) -> None:
    assert COUPLED[name].couples_batch
    assert (2 * COUPLED[name] - Channel("first", 0)).couples_batch


@pytest.mark.parametrize("name", list(EVERY))
def test_what_is_fed_is_what_the_graph_takes(name: str) -> None:
    setting = setting_of(network("float32"), 3)
    feeds = EVERY[name].feeds(setting, "objective")
    inputs = Compiled(network("float32"), EVERY[name], setting).inputs
    assert set(feeds) == set(inputs)
    for key, value in feeds.items():
        dtype, shape = inputs[key]
        assert value.dtype == dtype
        assert value.shape == tuple(size if isinstance(size, int) else 3 for size in shape)


VARIANTS: list[tuple[Objective, ...]] = [
    (Channel("first", 0), Channel("first", 3), Channel("first", 2)),
    (Neuron("last", 0), Neuron("last", 3, (1, 1)), Neuron("last", 2, (-1, 0))),
    (ClassLogit(0), ClassLogit("shark"), ClassLogit(3)),
    (Direction("first", numbers(4)), RandomDirection("first", 1), WeightedChannels("first", (2,), (1.0,))),
    (
        Direction("first", numbers(4), 1.0),
        RandomDirection("first", 1, 2.0),
        Direction("first", numbers(4, seed=2), 0.5),
    ),
    (
        TensorDirection("first", numbers(4, 1, 1), 2.0),
        TensorDirection("first", numbers(4, 5, 8), 1.0),
        TensorDirection("first", numbers(4, 2, 2), 2.0),
    ),
    tuple(weight * Channel("first", 1) - L1(Picture.IMAGE, weight / 9) for weight in (1.0, -2.0, 3.0)),
]


@pytest.mark.parametrize("objectives", VARIANTS, ids=lambda variants: type(variants[0]).__name__)
def test_objectives_of_one_structure_share_a_graph_and_a_batch(objectives: tuple[Objective, ...]) -> None:
    assert len({objective.structure for objective in objectives}) == 1
    setting, parts = setting_of(network(), 3), pictures(3)
    graphs = [Compiled(network(), objective, setting) for objective in objectives]
    assert len({graph.proto.SerializeToString() for graph in graphs}) == 1
    found = graphs[0].value({**parts, **packed_feeds(objectives, setting)})
    for item, objective in enumerate(objectives):
        alone = graphs[0].value({**parts, **objective.feeds(setting, "objective")})
        assert found[item] == alone[item]


def test_structures_of_different_graphs_differ() -> None:
    apart: list[Objective] = [
        *(objective for name, objective in EVERY.items() if name not in {"class by name", "weighted channels"}),
        Sum((Channel("first", 1),)),
        Product((Channel("first", 1),)),
        Scaled(2.0, Channel("first", 1)),
        Scaled(1.0, Scaled(1.0, Channel("first", 1))),
    ]
    for one, other in itertools.combinations(apart, 2):
        if one.structure == other.structure:
            assert type(one) is type(other) or {type(one), type(other)} <= {Direction, RandomDirection, Scaled}


def test_every_kind_of_leaf_is_tested() -> None:
    def kinds(objective: Objective) -> set[type[Objective]]:
        return {type(objective)}.union(*(kinds(child) for child in objective.children))

    assert set(LEAVES) <= set().union(*(kinds(objective) for objective in EVERY.values()))


def test_taps_are_what_the_objective_reads_by_tensor_name() -> None:
    setting = setting_of(network(), 2)
    objective = (
        ClassProbability(3) * Channel("tokens", 0) + ChannelInterpolation("last", 0, "first", 1) - L1(Picture.IMAGE)
    )
    assert taps(objective, setting) == ("probabilities", "tokens", "last", "first")
    assert taps(Constant(1.0) + L1(Picture.ALPHA), setting) == ()


def test_expressions_read_as_their_formulas() -> None:
    a, b, c = Channel("t", 0), Channel("t", 1), Channel("t", 2)
    assert a + b + c == Sum((a, b, c))
    assert a - 0.5 * b == Sum((a, Scaled(-0.5, b)))
    assert 1 - a == Sum((Constant(1.0), Scaled(-1.0, a)))
    assert a * b * c == Product((a, b, c))
    assert a * 2 == 2 * a == Scaled(2.0, a)
    assert -a == Scaled(-1.0, a)
    assert a / 4 == Scaled(0.25, a)
    assert sum([a, b]) == Sum((Constant(0.0), a, b))


def test_arrays_compare_and_hash_by_what_they_hold() -> None:
    assert Direction("t", Numbers([1, 2])) == Direction("t", Numbers(np.array([1.0, 2.0])))
    assert hash(Direction("t", Numbers([1, 2]))) == hash(Direction("t", Numbers([1.0, 2.0])))
    assert Direction("t", Numbers([1, 2])) != Direction("t", Numbers([[1, 2]]))
    given = np.ones(2, np.float32)
    kept = Numbers(given)
    given[:] = 7
    np.testing.assert_array_equal(kept.array, 1)
    with pytest.raises(ValueError, match="read-only"):
        kept.array[0] = 2
