"""Arithmetic and functions of single elements."""

import numpy as np
import pytest
from finite_differences import check_derivatives, node_model
from onnx import helper


def test_x():
    rng = np.random.default_rng(0)
    for op in ["Add", "Mul"]:
        for sa, sb in [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2, 3)), ((1,2,3),(2,1))]:
            f = {"a": rng.standard_normal(sa), "b": rng.standard_normal(sb)}
            m = node_model(helper.make_node(op, ["a", "b"], ["y"]), f)
            check_derivatives(m, f)
            m = node_model(helper.make_node(op, ["a", "b"], ["y"]), f, symbolic={"a": ["n%d" % i for i in range(len(sa))], "b": ["m%d" % i for i in range(len(sb))]})
            check_derivatives(m, f)
    f = {"a": rng.standard_normal((2, 3))}
    m = node_model([helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Exp", ["r"], ["e"]), helper.make_node("Mul", ["e", "r"], ["y"]), ], f)
    check_derivatives(m, f)
    m = node_model([helper.make_node("LayerNormalization", ["a","s","b"], ["r"])], f, {"s": np.ones(3), "b":np.ones(3)})
