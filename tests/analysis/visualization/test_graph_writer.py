"""Writing graphs, and models among their nodes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from gradient_models import conv_classifier
from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.runtime.sessions import Session

RNG = np.random.default_rng(0)


def test_nodes_compute_what_their_names_say() -> None:
    g = GraphWriter()
    x = g.input("x", [BATCH, 3, 4])
    outputs = {
        "sum": g.add(x, x, g.constant(1.0)),
        "difference": g.subtract(x, g.constant([1.0, 2.0, 3.0, 4.0])),
        "product": g.multiply(x, x, x),
        "quotient": g.divide(x, g.constant(np.float32(4))),
        "matmul": g.matmul(x, g.transpose(x, [0, 2, 1])),
        "mean": g.mean(x, [1]),
        "total": g.total(x, [1, 2], keepdims=True),
        "reshape": g.reshape(x, [0, -1]),
        "part": g.slice(x, 2, 3, 0, -2),
        "joined": g.concat([x, g.unsqueeze(g.squeeze(g.slice(x, 1, 0, 1), [1]), [1])], axis=1),
    }
    session = Session(serialize(g.model(outputs)))
    given = RNG.random((2, 3, 4), np.float32)
    found = session.run({"x": given})
    expected = {
        "sum": 2 * given + 1,
        "difference": given - [1, 2, 3, 4],
        "product": given**3,
        "quotient": given / 4,
        "matmul": given @ given.swapaxes(1, 2),
        "mean": given.mean(axis=1),
        "total": given.sum(axis=(1, 2), keepdims=True),
        "reshape": given.reshape(2, 12),
        "part": given[:, :, 3:0:-2],
        "joined": np.concatenate([given, given[:, :1]], axis=1),
    }
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, err_msg=name)


def test_numbers_of_python_become_single_precision_and_arrays_keep_their_type() -> None:
    g = GraphWriter()
    kinds = [g.constant(value).dtype for value in (0.5, [1.0, 2.0], 3, [1, 2], np.zeros(2), np.float16(1))]
    assert [kind.numpy().name for kind in kinds if kind is not None] == [
        "float32",
        "float32",
        "int64",
        "int64",
        "float64",
        "float16",
    ]


def test_equal_constants_are_one() -> None:
    g = GraphWriter()
    assert g.constant([1, 2]) is g.constant([1, 2])
    assert g.constant([1, 2]) is not g.constant([1.0, 2.0])


def test_an_inlined_model_computes_what_it_does_alone_twice_over_and_at_another_size() -> None:
    proto = conv_classifier(channels=3)
    model = load_model(proto.SerializeToString())
    g = GraphWriter()
    image = g.input("image", [BATCH, 3, 9, 8])
    first = g.inline(model, {"image": image})["logits"]
    second = g.inline(model, {"image": g.multiply(image, g.constant(0.5))})["logits"]
    session = Session(serialize(g.model({"logits": first, "half": second})))
    given = RNG.random((2, 3, 9, 8), np.float32)
    found = session.run({"image": given})
    for value in (*proto.graph.input, *proto.graph.output):
        del value.type.tensor_type.shape.dim[2:]
    free = onnx.ModelProto.FromString(proto.SerializeToString())
    alone = onnx.reference.ReferenceEvaluator(free)
    for name, scale in (("logits", 1.0), ("half", 0.5)):
        (expected,) = alone.run(None, {"image": given * np.float32(scale)})
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)


def test_inlining_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = load_model(conv_classifier(channels=3).SerializeToString())
    before = serialize(model)
    g = GraphWriter()
    g.model(g.inline(model, {"image": g.input("image", [BATCH, 3, 12, 12])}))
    assert serialize(model) == before


def test_a_name_cannot_be_given_twice() -> None:
    g = GraphWriter()
    x = g.input("x", [2])
    with pytest.raises(ValueError, match="'x'"):
        g.input("x", [2])
    with pytest.raises(ValueError, match="'x'"):
        g.model({"x": g.add(x, x)})
    with pytest.raises(ValueError, match="'image'"):
        GraphWriter().inline(load_model(conv_classifier().SerializeToString()), {})


def test_inputs_within_a_named_batch_have_another_first_axis() -> None:
    g = GraphWriter()
    with g.batch_named("views"):
        inner = g.input("inner", [BATCH, 2])
    outer = g.input("outer", [BATCH, 2])
    assert [str(value.shape[0]) for value in (inner, outer) if value.shape is not None] == ["views", BATCH]
