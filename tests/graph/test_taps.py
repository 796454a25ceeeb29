from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import expose
from ortoscope_service.graph.taps import Layout, Tap, find_taps, resolve_tap
from ortoscope_service.runtime.sessions import Session

EFFICIENTNET_BLOCKS = """
    getitem_6 getitem_15 add_140 getitem_33 add_236 getitem_51 add_332 add_383
    getitem_78 add_479 add_530 getitem_105 add_626 add_677 add_728 getitem_141
"""
"""Outputs of the 16 blocks in order, checked against PyTorch (the table beside the reference model)."""

BUILDERS = [
    tiny_models.tiny_cnn,
    tiny_models.tiny_nhwc,
    tiny_models.tiny_transformer,
    tiny_models.tiny_vision_transformer,
    tiny_models.tiny_mlp,
]


def taps_of(proto: onnx.ModelProto) -> dict[str, Tap]:
    return {tap.tensor: tap for tap in find_taps(load_model(proto.SerializeToString()))}


def graph(
    nodes: list[onnx.NodeProto],
    shape: list[int | str],
    *,
    opset: int = 17,
    constants: Mapping[str, object] | None = None,
    outputs: list[str] | None = None,
) -> onnx.ModelProto:
    """A model of one input `x`; its output, of any shape, is the last node's unless others are named."""
    names = outputs or [nodes[-1].output[0]]
    built = helper.make_graph(
        nodes,
        "test",
        [tiny_models.float_value("x", shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("builder", BUILDERS)
def test_every_tap_has_the_values_of_the_reference_evaluator(builder: Callable[[], onnx.ModelProto]) -> None:
    proto = builder()
    model = load_model(proto.SerializeToString())
    names = [tap.tensor for tap in find_taps(model)]
    feeds = tiny_models.random_feeds(proto, 2)
    exposed = serialize(expose(model, names))
    actual = Session(exposed).run(feeds)
    expected = ReferenceEvaluator(onnx.load_from_string(exposed)).run(names, feeds)
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("builder", BUILDERS)
def test_what_a_tap_says_of_its_tensor_is_true(builder: Callable[[], onnx.ModelProto]) -> None:
    proto = builder()
    model = load_model(proto.SerializeToString())
    taps = find_taps(model)
    feeds = tiny_models.random_feeds(proto, 3)
    values = Session(serialize(expose(model, [tap.tensor for tap in taps]))).run(feeds)
    for tap in taps:
        value = values[tap.tensor]
        assert value.dtype == tap.data_type
        assert value.shape == (3, *tap.shape[1:])
        assert value.shape[tap.unit_axis] == tap.unit_count
        assert sorted((0, tap.unit_axis, *tap.site_axes)) == list(range(value.ndim))
        assert list(tap.site_axes) == sorted(tap.site_axes)
        if tap.upper_limit is not None:
            assert value.max() <= tap.upper_limit


def test_channels_first() -> None:
    taps = taps_of(tiny_models.tiny_cnn())
    assert list(taps) == ["conv1", "bn1", "relu1", "conv2", "relu6", "depthwise", "add", "pooled", "flat", "logits"]
    assert taps["conv1"] == Tap(
        tensor="conv1",
        display_name="conv1",
        aliases=(),
        operator="Conv",
        node="conv1_node",
        data_type="float32",
        shape=(-1, 8, 16, 16),
        layout=Layout.CHANNELS_FIRST,
        unit_axis=1,
        site_axes=(2, 3),
        unit_count=8,
        pre_activation="",
        post_activation="",
        upper_limit=None,
    )
    assert (taps["flat"].layout, taps["flat"].unit_count, taps["flat"].site_axes) == (Layout.VECTOR, 12, ())
    assert taps["pooled"].site_axes == (2, 3)


def test_channels_last_by_data_flow() -> None:
    taps = taps_of(tiny_models.tiny_nhwc())
    first = [name for name, tap in taps.items() if tap.layout is Layout.CHANNELS_FIRST]
    last = [name for name, tap in taps.items() if tap.layout is Layout.CHANNELS_LAST]
    assert first == [
        "model/block1/conv/Conv2D__6:0",
        "model/block1/conv/Conv2D:0",
        "model/block1/relu/Relu:0",
        "model/block2/conv/Conv2D__9:0",
        "model/block2/conv/Conv2D:0",
    ]
    assert last == [
        "model/block1/pool:0",
        "model/block2/add:0",
        "model/block2/relu6/Minimum:0",
        "model/block2/relu6/Relu6:0",
        "model/block2/out:0",
    ]
    tap = taps["model/block2/out:0"]
    assert (tap.unit_axis, tap.site_axes, tap.unit_count) == (3, (1, 2), 12)
    assert taps["model/pool/Mean:0"].unit_count == 12


def test_tokens() -> None:
    for proto in (tiny_models.tiny_transformer(), tiny_models.tiny_vision_transformer()):
        taps = taps_of(proto)
        for name in ("norm1", "query", "residual1", "mlp1", "gelu", "residual2", "context_merged"):
            tap = taps[f"block0/{name}"]
            assert (tap.layout, tap.unit_axis, tap.site_axes) == (Layout.TOKENS, 2, (1,))
        assert taps["block0/gelu"].pre_activation == "block0/mlp1"
    patches = taps["patches"]
    assert (patches.layout, patches.unit_count) == (Layout.CHANNELS_FIRST, 24)
    assert (taps["patch_tokens"].layout, taps["patch_tokens"].unit_count) == (Layout.TOKENS, 24)


def test_features_within_heads_are_units_and_scores_have_heads() -> None:
    taps = taps_of(tiny_models.tiny_transformer())
    assert (taps["block0/value_heads"].unit_axis, taps["block0/value_heads"].unit_count) == (3, 8)
    assert (taps["block0/context"].unit_axis, taps["block0/context"].site_axes) == (3, (1, 2))
    assert (taps["block0/attention"].unit_axis, taps["block0/attention"].unit_count) == (1, 2)


def test_a_convolution_over_time_is_channels_first_though_of_rank_three() -> None:
    weight = np.ones((5, 4, 3), np.float32)
    taps = taps_of(graph([helper.make_node("Conv", ["x", "w"], ["y"])], ["n", 4, 20], constants={"w": weight}))
    assert (taps["y"].layout, taps["y"].unit_axis, taps["y"].shape) == (Layout.CHANNELS_FIRST, 1, (-1, 5, 18))


def test_images_with_colours_last_are_recognized_before_any_convolution() -> None:
    taps = taps_of(graph([helper.make_node("Sqrt", ["x"], ["y"])], ["n", 32, 32, 3]))
    assert (taps["y"].layout, taps["y"].unit_axis) == (Layout.CHANNELS_LAST, 3)


def test_a_grouped_shuffle_keeps_its_units() -> None:
    """ShuffleNet: (n, 12, h, w) → (n, 3, 4, h, w) → transposed → (n, 12, h, w)."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"]),
        helper.make_node("Reshape", ["conv", "split"], ["groups"]),
        helper.make_node("Transpose", ["groups"], ["shuffled"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["shuffled", "merge"], ["merged"]),
    ]
    constants = {
        "w": np.ones((12, 3, 1, 1), np.float32),
        "split": np.array([0, 3, 4, 8, 8]),
        "merge": np.array([0, 12, 8, 8]),
    }
    taps = taps_of(graph(nodes, ["n", 3, 8, 8], constants=constants))
    assert (taps["merged"].unit_axis, taps["merged"].unit_count) == (1, 12)
    assert (taps["groups"].layout, taps["groups"].unit_count) == (Layout.CHANNELS_FIRST, 3)


def test_einsum_units_come_from_the_weights() -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="btd,dhe->bteh")
    taps = taps_of(graph([node], ["n", 7, 6], constants={"w": np.ones((6, 2, 3), np.float32)}))
    assert (taps["y"].unit_axis, taps["y"].unit_count) == (3, 2)


def test_weights_integers_shapes_and_merged_items_are_no_taps() -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["w", "axis0"], ["weight"]),
        helper.make_node("Mul", ["x", "weight"], ["scaled"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["shape_float"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["x"], ["winner"], axis=1),
        helper.make_node("Reshape", ["scaled", "merge"], ["merged"]),
        helper.make_node("Transpose", ["scaled"], ["time_first"], perm=[1, 0, 2]),
        helper.make_node("ReduceMean", ["scaled"], ["over_items"], axes=[0], keepdims=0),
        helper.make_node("ReduceMean", ["scaled"], ["scalar_per_item"], axes=[1, 2], keepdims=0),
        helper.make_node("Reshape", ["merged", "unmerge"], ["y"]),
    ]
    constants = {
        "w": np.ones(4, np.float32),
        "axis0": np.array([0]),
        "merge": np.array([-1, 4]),
        "unmerge": np.array([-1, 7, 4]),
    }
    taps = taps_of(graph(nodes, ["n", 7, 4], constants=constants))
    assert list(taps) == ["scaled", "y"]
    assert (taps["y"].layout, taps["y"].unit_count) == (Layout.TOKENS, 4)


def test_masks_and_statistics_are_no_taps() -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s"], ["norm", "mean", "deviation"], axis=-1),
        helper.make_node("Dropout", ["norm"], ["y", "mask"]),
    ]
    assert list(taps_of(graph(nodes, ["n", 4], constants={"s": np.ones(4, np.float32)}))) == ["norm", "y"]


def test_intermediates_that_are_outputs_already_are_taps() -> None:
    model = load_model(tiny_models.tiny_cnn().SerializeToString())
    plain = find_taps(model)
    assert find_taps(load_model(serialize(expose(model, ["relu1", "add", "pooled"])))) == plain


def test_half_and_double_precision_are_taps() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["double"], ["y"], to=TensorProto.FLOAT),
    ]
    assert [tap.data_type for tap in taps_of(graph(nodes, ["n", 4])).values()] == ["float16", "float64", "float32"]


class TestActivationFunctions:
    @pytest.mark.parametrize(
        ("operator", "limit"),
        [
            ("Relu", None),
            ("LeakyRelu", None),
            ("Elu", None),
            ("Selu", None),
            ("Softplus", None),
            ("HardSwish", None),
            ("Mish", None),
            ("Gelu", None),
            ("Sigmoid", 1.0),
            ("HardSigmoid", 1.0),
            ("Softmax", 1.0),
            ("Tanh", 1.0),
            ("Softsign", 1.0),
            ("LogSoftmax", 0.0),
        ],
    )
    def test_one_operator(self, operator: str, limit: float | None) -> None:
        nodes = [helper.make_node("Neg", ["x"], ["before"]), helper.make_node(operator, ["before"], ["after"])]
        taps = taps_of(graph(nodes, ["n", 4], opset=20))
        assert (taps["before"].pre_activation, taps["before"].post_activation) == ("", "after")
        assert (taps["after"].pre_activation, taps["after"].post_activation) == ("before", "")
        assert taps["after"].upper_limit == limit

    def test_clip_with_attributes_of_old_opsets(self) -> None:
        nodes = [
            helper.make_node("Neg", ["x"], ["before"]),
            helper.make_node("Clip", ["before"], ["after"], min=0.0, max=6.0),
        ]
        assert taps_of(graph(nodes, ["n", 4], opset=10))["after"].upper_limit == 6

    def test_clip_with_constants_that_are_cast_or_computed_by_nodes(self) -> None:
        nodes = [
            helper.make_node("Constant", [], ["six"], value_int=6),
            helper.make_node("Cast", ["six"], ["limit"], to=TensorProto.FLOAT),
            helper.make_node("Neg", ["x"], ["before"]),
            helper.make_node("Clip", ["before", "", "limit"], ["after"]),
        ]
        taps = taps_of(graph(nodes, ["n", 4]))
        assert (taps["after"].upper_limit, taps["after"].pre_activation) == (6, "before")

    def test_relu6_written_as_two_clamps_is_one_function(self) -> None:
        taps = taps_of(tiny_models.tiny_nhwc())
        relu6 = taps["model/block2/relu6/Relu6:0"]
        assert (relu6.pre_activation, relu6.upper_limit) == ("model/block2/add:0", 6)
        assert taps["model/block2/add:0"].post_activation == relu6.tensor

    def test_a_limit_survives_what_only_moves_or_selects_values(self) -> None:
        nodes = [
            helper.make_node("Clip", ["x", "", "six"], ["clipped"]),
            helper.make_node("MaxPool", ["clipped"], ["pooled"], kernel_shape=[2, 2]),
            helper.make_node("Transpose", ["pooled"], ["last"], perm=[0, 2, 3, 1]),
            helper.make_node("Concat", ["last", "last"], ["twice"], axis=3),
            helper.make_node("Mul", ["twice", "two"], ["y"]),
        ]
        constants = {"six": np.float32(6), "two": np.float32(2)}
        taps = taps_of(graph(nodes, ["n", 8, 4, 4], constants=constants))
        limits = {name: tap.upper_limit for name, tap in taps.items()}
        assert limits == {"clipped": 6, "pooled": 6, "last": 6, "twice": 6, "y": None}

    def test_a_maximum_of_two_maps_is_no_activation_function(self) -> None:
        nodes = [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Max", ["x", "minus"], ["y"])]
        taps = taps_of(graph(nodes, ["n", 4]))
        assert (taps["y"].pre_activation, taps["minus"].post_activation) == ("", "")

    def test_silu_as_product_with_its_gate(self) -> None:
        nodes = [
            helper.make_node("Neg", ["x"], ["before"]),
            helper.make_node("Sigmoid", ["before"], ["gate"]),
            helper.make_node("Mul", ["before", "gate"], ["after"]),
        ]
        taps = taps_of(graph(nodes, ["n", 4]))
        assert (taps["before"].post_activation, taps["after"].pre_activation) == ("after", "before")
        assert taps["after"].upper_limit is None

    def test_squeeze_and_excitation_is_no_activation_function(self) -> None:
        nodes = [
            helper.make_node("Neg", ["x"], ["map"]),
            helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
            helper.make_node("Sigmoid", ["pooled"], ["gate"]),
            helper.make_node("Mul", ["map", "gate"], ["y"]),
        ]
        assert taps_of(graph(nodes, ["n", 8, 4, 4]))["y"].pre_activation == ""

    def test_a_square_is_no_activation_function(self) -> None:
        nodes = [helper.make_node("Neg", ["x"], ["z"]), helper.make_node("Mul", ["z", "z"], ["y"])]
        assert taps_of(graph(nodes, ["n", 4]))["y"].pre_activation == ""

    @pytest.mark.parametrize("half_first", [True, False])
    def test_gelu_by_erf(self, half_first: bool) -> None:
        nodes = [
            helper.make_node("Neg", ["x"], ["before"]),
            helper.make_node("Div", ["before", "root2"], ["scaled"]),
            helper.make_node("Erf", ["scaled"], ["erf"]),
            helper.make_node("Add", ["erf", "one"], ["plus"]),
        ]
        if half_first:
            nodes += [
                helper.make_node("Mul", ["before", "half"], ["halved"]),
                helper.make_node("Mul", ["halved", "plus"], ["after"]),
            ]
        else:
            nodes += [
                helper.make_node("Mul", ["before", "plus"], ["product"]),
                helper.make_node("Mul", ["product", "half"], ["after"]),
            ]
        constants = {"root2": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
        taps = taps_of(graph(nodes, ["n", 4], constants=constants))
        assert (taps["before"].post_activation, taps["after"].pre_activation) == ("after", "before")

    def test_gelu_by_tanh(self) -> None:
        nodes = [
            helper.make_node("Neg", ["x"], ["before"]),
            helper.make_node("Pow", ["before", "three"], ["cube"]),
            helper.make_node("Mul", ["cube", "c"], ["scaled_cube"]),
            helper.make_node("Add", ["before", "scaled_cube"], ["sum"]),
            helper.make_node("Mul", ["sum", "c"], ["inner"]),
            helper.make_node("Tanh", ["inner"], ["tanh"]),
            helper.make_node("Add", ["tanh", "one"], ["plus"]),
            helper.make_node("Mul", ["before", "half"], ["halved"]),
            helper.make_node("Mul", ["halved", "plus"], ["after"]),
        ]
        constants = {name: np.float32(v) for name, v in {"three": 3, "c": 0.8, "one": 1, "half": 0.5}.items()}
        taps = taps_of(graph(nodes, ["n", 4], constants=constants))
        assert (taps["before"].post_activation, taps["after"].pre_activation) == ("after", "before")

    def test_an_input_is_no_pre_activation_that_can_be_asked_for(self) -> None:
        assert taps_of(graph([helper.make_node("Relu", ["x"], ["y"])], ["n", 4]))["y"].pre_activation == ""


class TestNames:
    def scoped(self, *nodes: tuple[str, str, str, list[str]]) -> dict[str, str]:
        """Which tensor each name stands for, for Relu nodes (input, output, fx name, module scopes)."""
        built = []
        for before, after, leaf, scopes in nodes:
            node = helper.make_node("Relu", [before], [after])
            helper.set_model_props(node, {"pkg.torch.onnx.name_scopes": str(["", *scopes, leaf])})  # type: ignore[arg-type]
            built.append(node)
        taps = taps_of(graph(built, ["n", 4]))
        return {name: tap.tensor for tap in taps.values() for name in (tap.display_name, *tap.aliases)}

    def test_a_module_stands_for_the_tensor_that_leaves_it_last(self) -> None:
        names = self.scoped(
            ("x", "getitem", "bn", ["block.0", "block.0.bn"]),
            ("getitem", "relu", "relu", ["block.0", "block.0.act"]),
            ("relu", "add_3", "add_3", ["block.0"]),
            ("add_3", "view", "view", []),
        )
        assert names == {
            "block.0.bn": "getitem",
            "block.0.bn.bn": "getitem",
            "block.0.act": "relu",
            "block.0.act.relu": "relu",
            "block.0": "add_3",
            "block.0.add_3": "add_3",
            "view": "view",
        }

    def test_a_module_called_twice_has_numbered_names_and_its_own_is_the_last(self) -> None:
        names = self.scoped(
            ("x", "a", "conv", ["conv1"]),
            ("a", "b", "relu", ["act"]),
            ("b", "c", "conv_1", ["conv2"]),
            ("c", "d", "relu_1", ["act"]),
        )
        assert (names["act:1"], names["act:2"], names["act"]) == ("b", "d", "d")

    def test_the_reference_network_has_its_blocks_by_name(self, reference_data: Path) -> None:
        model = load_model(reference_data / "models" / "efficientnet_lite0.onnx")
        taps = find_taps(model)
        for index, tensor in enumerate(EFFICIENTNET_BLOCKS.split()):
            tap = resolve_tap(taps, f"_blocks.{index}")
            assert (tap.tensor, tap.display_name) == (tensor, f"_blocks.{index}")
        assert resolve_tap(taps, "_blocks.10").shape == (-1, 112, 14, 14)
        head = resolve_tap(taps, "hardtanh_32")
        assert (head.pre_activation, head.upper_limit, head.shape) == ("getitem_144", 6.0, (-1, 1280, 7, 7))
        assert resolve_tap(taps, "_bn1").tensor == "getitem_144"
        assert resolve_tap(taps, "getitem_144").post_activation == "hardtanh_32"
        assert (resolve_tap(taps, "view").layout, resolve_tap(taps, "view").unit_count) == (Layout.VECTOR, 1280)
        assert resolve_tap(taps, "logits").display_name == "_fc"

    @pytest.mark.parametrize(
        ("tensor", "display", "aliases"),
        [
            ("/features/0/Conv_output_0", "features.0", ("features", "features.0.Conv")),
            ("/layer1/layer1.0/conv1/Conv_output_0", "layer1.0", ("layer1", "layer1.0.conv1", "layer1.0.conv1.Conv")),
            ("/Add_output_0", "Add", ()),
            ("model/block1/conv/Conv2D:0", "model/block1/conv/Conv2D", ()),
            ("inception_3a/3x3_1", "inception_3a/3x3_1", ()),
            ("conv2d_7", "conv2d_7", ()),
            ("r4", "relu_1", ()),
            ("123", "relu_1", ()),
            ("onnx::Relu_45", "relu_1", ()),
            ("val_12", "relu_1", ()),
        ],
    )
    def test_names_of_exporters(self, tensor: str, display: str, aliases: tuple[str, ...]) -> None:
        nodes = [helper.make_node("Relu", ["x"], ["first"]), helper.make_node("Relu", ["first"], [tensor])]
        tap = taps_of(graph(nodes, ["n", 4]))[tensor]
        assert (tap.display_name, tap.aliases) == (display, aliases)

    def test_torchscript_containers_and_repeated_calls(self) -> None:
        tensors = [
            "/layer1/layer1.0/conv1/Conv_output_0",
            "/layer1/layer1.0/relu/Relu_output_0",
            "/layer1/layer1.0/Add_output_0",
            "/layer1/layer1.0/relu_1/Relu_output_0",
            "/layer1/layer1.1/conv1/Conv_output_0",
            "/avgpool/GlobalAveragePool_output_0",
        ]
        edges = zip(["x", *tensors], tensors, strict=False)
        nodes = [helper.make_node("Relu", [before], [after]) for before, after in edges]
        taps = list(taps_of(graph(nodes, ["n", 4])).values())
        expected = {
            "layer1.0.conv1": tensors[0],
            "layer1.0.relu": tensors[1],
            "layer1.0.Add": tensors[2],
            "layer1.0": tensors[3],
            "layer1.0.relu_1": tensors[3],
            "layer1.0.relu_1.Relu": tensors[3],
            "layer1": tensors[4],
            "layer1.1": tensors[4],
            "avgpool": tensors[5],
        }
        assert {name: resolve_tap(taps, name).tensor for name in expected} == expected

    def test_a_name_never_stands_for_two_tensors(self) -> None:
        nodes = [
            helper.make_node("Relu", ["x"], ["r1"]),
            helper.make_node("Relu", ["r1"], ["relu_0"]),
            helper.make_node("Relu", ["relu_0"], ["a:0"]),
            helper.make_node("Relu", ["a:0"], ["a:1"]),
            helper.make_node("Relu", ["a:1"], ["/m/Relu_output_0"]),
            helper.make_node("Relu", ["/m/Relu_output_0"], ["m"]),
        ]
        taps = taps_of(graph(nodes, ["n", 4]))
        assert {tensor: tap.display_name for tensor, tap in taps.items()} == {
            "r1": "r1",
            "relu_0": "relu_0",
            "a:0": "a",
            "a:1": "a:1",
            "/m/Relu_output_0": "m.Relu",
            "m": "m",
        }

    def test_damaged_scopes_are_ignored(self) -> None:
        for text in ("", "[", "{}", "[1, 2]", "[" * 500, "__import__('os')"):
            node = helper.make_node("Relu", ["x"], ["y7"])
            helper.set_model_props(node, {"pkg.torch.onnx.name_scopes": text})  # type: ignore[arg-type]
            assert taps_of(graph([node], ["n", 4]))["y7"].display_name == "relu_0"


class TestResolve:
    taps = find_taps(load_model(tiny_models.tiny_nhwc().SerializeToString()))

    def test_tensor_and_display_name_both_work(self) -> None:
        tensor = "model/block1/conv/Conv2D:0"
        assert resolve_tap(self.taps, tensor) is resolve_tap(self.taps, tensor.removesuffix(":0"))

    def test_an_unknown_name_is_answered_with_close_ones(self) -> None:
        with pytest.raises(OrtoscopeError) as caught:
            resolve_tap(self.taps, "model/block1/conv/Conv", field="taps[1].tap")
        error = caught.value
        assert (error.code, error.reason, error.field) == (Code.NOT_FOUND, "UNKNOWN_TAP", "taps[1].tap")
        assert "'model/block1/conv/Conv2D'" in error.message

    def test_a_name_like_no_other_is_answered_with_some_that_exist(self) -> None:
        with pytest.raises(OrtoscopeError, match="probabilities"):
            resolve_tap(self.taps, "%%%")
