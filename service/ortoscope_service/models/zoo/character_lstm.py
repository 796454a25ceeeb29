"""A small character model as an ONNX graph: an LSTM that predicts the next character of text.

Karpathy, Johnson, Fei-Fei 2015 ("Visualizing and Understanding Recurrent Networks") found cells in such models that
follow quotations, brackets and the length of a line. This one stands in for theirs: 64 cells, trained by
`training/character_model.py` on text of `training/character_text.py`, which a grammar makes. The weights lie beside
this module.
"""

from collections.abc import Mapping
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.tape

OPSET = 20
IR_VERSION = 10
LAYER = "lstm"
"""Name of the recurrent node; its states become the taps `lstm.hidden` and `lstm.cell`."""

CHARACTERS = ("\n", *(chr(code) for code in range(32, 127)))
"""The character of each token: the line feed, then printable ASCII from the blank to the tilde."""

_WEIGHTS = "character_lstm.npz"


def build() -> bytes:
    """The ONNX file: input `tokens` (n, length) int64, output `logits` (n, length, 96), n and length free."""
    with (files(__package__) / _WEIGHTS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return assemble({name: arrays[name] for name in arrays.files})


def assemble(weights: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """The ONNX file of the network with these weights.

    Args:
        weights: `embedding` (characters, e), `input` (4 h, e), `recurrent` (4 h, h) and `bias` (4 h,) with the gates in
            the order input, output, forget, cell; `output` (characters, h), `output_bias` (characters,).
    """
    count, hidden = weights["output"].shape
    tape = onnx_ir.tape.Tape()

    def constant(name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> ir.Value:
        return tape.initializer(ir.tensor(np.ascontiguousarray(value, dtype), name=name))

    def operator(kind: str, inputs: list[ir.Value], name: str, **attributes: int | list[int]) -> ir.Value:
        return tape.op(kind, inputs, attributes=attributes, name=name, output=ir.Value(name=f"/{name}/{kind}_output_0"))

    tokens = ir.val("tokens", ir.DataType.INT64, ("n", "length"))
    embedded = operator("Gather", [constant("embedding.weight", weights["embedding"]), tokens], "embedding", axis=0)
    by_step = operator("Transpose", [embedded], "by_step", perm=[1, 0, 2])
    bias = np.concatenate([weights["bias"], np.zeros_like(weights["bias"])])
    steps = operator(
        "LSTM",
        [
            by_step,
            constant(f"{LAYER}.input", weights["input"][None]),
            constant(f"{LAYER}.recurrent", weights["recurrent"][None]),
            constant(f"{LAYER}.bias", bias[None]),
        ],
        LAYER,
        hidden_size=hidden,
    )
    alone = operator("Squeeze", [steps, constant("direction", [1], np.int64)], "alone")
    by_item = operator("Transpose", [alone], "by_item", perm=[1, 0, 2])
    scores = operator("MatMul", [by_item, constant("output.weight", weights["output"].T)], "scores")
    logits = operator("Add", [scores, constant("output.bias", weights["output_bias"])], "logits")
    logits.name, logits.type = "logits", ir.TensorType(ir.DataType.FLOAT)
    logits.shape = ir.Shape(("n", "length", count))
    graph = ir.Graph(
        [tokens],
        [logits],
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": OPSET},
        name="character_lstm",
    )
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="ortoscope")
    return ir.to_proto(model).SerializeToString(deterministic=True)
