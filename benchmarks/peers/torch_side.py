"""The PyTorch side: exports the models, and answers `compare.py`; runs in the environment of requirements.txt."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import protocol
import torch
import torchvision
from torch import nn


def _efficientnet_lite0() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 - the one model that needs another package

    return EfficientNet.from_name("efficientnet-lite0")


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return functools.partial(getattr(torchvision.models, name), weights=None, **options)


DEFINITIONS: dict[str, Callable[[], nn.Module]] = {
    "googlenet": _torchvision("googlenet", aux_logits=False, init_weights=True),
    "resnet50": _torchvision("resnet50"),
    "squeezenet1_1": _torchvision("squeezenet1_1"),
    "shufflenet_v2_x1_0": _torchvision("shufflenet_v2_x1_0"),
    "densenet121": _torchvision("densenet121"),
    "mobilenet_v2": _torchvision("mobilenet_v2"),
    "efficientnet_lite0": _efficientnet_lite0,
    "alexnet": _torchvision("alexnet"),
    "vgg16": _torchvision("vgg16"),
    "vit_b_16": _torchvision("vit_b_16"),
}


def _settle(model: nn.Module) -> None:
    """Gives a new model what training would: statistics of its own activations, and a last layer that is not zero.

    With the statistics that layers begin with, activations of a deep network fade to denormal numbers.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    model.train()
    with torch.no_grad():
        model(torch.randn(16, 3, protocol.SIZE, protocol.SIZE))


def export(name: str, folder: Path) -> None:
    """Makes a model with random weights and writes both its state and its ONNX file."""
    torch.manual_seed(0)
    model = DEFINITIONS[name]()
    _settle(model)
    model.eval()
    image = torch.randn(2, 3, protocol.SIZE, protocol.SIZE)
    exported = torch.onnx.export(
        model,
        (image,),
        dynamo=True,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert exported is not None
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / f"{name}.pt")
    exported.save(str(folder / f"{name}.onnx"))


def load(name: str, folder: Path) -> nn.Module:
    """The model that was exported, frozen."""
    model = DEFINITIONS[name]()
    model.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    return model.eval().requires_grad_(False)


class Side:
    """A model in memory, and its steps.

    Args:
        name: One of `DEFINITIONS`.
        folder: Where `export` wrote it.
        kind: "eager", "channels_last" (eager, with channels last in memory), "compile", or "double".
        batch: Images in a batch.
    """

    def __init__(self, name: str, folder: Path, kind: str, batch: int) -> None:
        data_type = torch.float64 if kind == "double" else torch.float32
        layout = torch.channels_last if kind == "channels_last" else torch.contiguous_format
        self.model: Callable[[torch.Tensor], torch.Tensor] = load(name, folder).to(data_type, memory_format=layout)
        image, cotangent = (torch.from_numpy(array).to(data_type) for array in protocol.example(batch))
        self.image = image.to(memory_format=layout).requires_grad_()
        self.cotangent = cotangent
        if kind == "compile":
            self.model = torch.compile(self.model)

    def prepare(self) -> None:
        """Nothing is left to load."""

    def forward(self) -> torch.Tensor:
        """The logits alone."""
        with torch.no_grad():
            return self.model(self.image)

    def backward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits, and the gradient of sum(logits * cotangent) at the image."""
        logits = self.model(self.image)
        (gradient,) = torch.autograd.grad((logits * self.cotangent).sum(), self.image)
        return logits.detach(), gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=DEFINITIONS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--export", action="store_true", help="write the model and end")
    parser.add_argument("--kind", choices=("eager", "channels_last", "compile", "double"), default="eager")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.export:
        export(arguments.name, arguments.folder)
        return
    protocol.serve(Side(arguments.name, arguments.folder, arguments.kind, arguments.batch))


if __name__ == "__main__":
    main()
