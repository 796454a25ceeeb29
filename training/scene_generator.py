"""Trains a generator of pictures on rendered scenes, and a denoiser of its codes, and writes both as ONNX.

    python training/scene_generator.py SCENES OUTPUT

SCENES is a folder with pictures (`ortoscope-server render-scenes`, of any size); OUTPUT gets `scene_generator.onnx` and
`scene_denoiser.onnx`. See README.md beside this file.
"""

import argparse
import csv
import itertools
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

SIZE = 64
"""Height and width at which pictures are learned; the generator's are twice as large, enlarged linearly."""

CODE = 128
"""Numbers of a code."""

KL_WEIGHT = 0.03
"""Weight of the mean divergence of a code's numbers from N(0, 1), against the error of a pixel (`difference`)."""

NOISE = (0.1, 1.0)
"""Least and greatest standard deviation of the noise that the denoiser takes off."""


class Encoder(nn.Module):
    """From pictures (n, 3, 64, 64) in [0, 1] to mean and logarithm of the variance of a code, each (n, 128)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.mean = nn.Linear(96 * 16, CODE)
        self.log_variance = nn.Linear(96 * 16, CODE)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean, and logarithm of the variance."""
        found = self.layers(2 * pictures - 1)
        return self.mean(found), self.log_variance(found).clamp(-10, 4)


class Generator(nn.Module):
    """From codes (n, 128) to pictures (n, 3, 64, 64) in (-1, 1): nearest enlargements and convolutions.

    Transposed convolutions would print their pattern onto what is climbed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(CODE, 128 * 16)
        widths = (128, 96, 64, 40, 20)
        layers: list[nn.Module] = [nn.LeakyReLU(0.2)]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(20, 3, 3, padding=1), nn.Tanh())

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """The pictures."""
        return self.layers(self.first(code).reshape(-1, 128, 4, 4))


class Enlarged(nn.Module):
    """A generator whose pictures are enlarged twice, linearly."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """The pictures, (n, 3, 128, 128)."""
        return functional.interpolate(self.generator(code), scale_factor=2, mode="bilinear", align_corners=False)


class Denoiser(nn.Module):
    """From codes (n, 128) to likelier codes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(CODE, 256), nn.LeakyReLU(0.2), nn.Linear(256, 256), nn.LeakyReLU(0.2), nn.Linear(256, CODE)
        )

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """The codes."""
        return self.layers(code)


def read_pictures(folder: Path) -> torch.Tensor:
    """All pictures of a dataset at the size, (n, 3, 64, 64) uint8, in the order of its index."""
    with (folder / "index.csv").open(newline="") as file:
        paths = [folder / "images" / row["image"] for row in csv.DictReader(file)]
    found = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        if picture.size != (SIZE, SIZE):
            picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        found.append(np.moveaxis(np.asarray(picture), -1, 0))
    return torch.from_numpy(np.stack(found))


def difference(made: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """The mean error of a pixel, at three scales, and of the differences of neighbours."""
    total = torch.zeros(())
    for scale in (1, 4):
        a, b = (functional.avg_pool2d(values, scale) if scale > 1 else values for values in (made, pictures))
        total = total + (a - b).abs().mean()
    for axis in (2, 3):
        total = total + (made.diff(dim=axis) - pictures.diff(dim=axis)).abs().mean()
    return total


def train_generator(pictures: torch.Tensor, steps: int, batch: int, rate: float) -> tuple[Encoder, Generator]:
    """Trains the autoencoder; the learning rate falls along half a cosine."""
    encoder, generator = Encoder(), Generator()
    weights = [*encoder.parameters(), *generator.parameters()]
    optimizer = torch.optim.Adam(weights, rate, betas=(0.9, 0.99))
    began = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        chosen = pictures[torch.randint(len(pictures), (batch,))].float() / 255
        if step % 2:
            chosen = chosen.flip(3)
        mean, log_variance = encoder(chosen)
        made = generator(mean + torch.randn_like(mean) * (log_variance / 2).exp())
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        loss = difference((made + 1) / 2, chosen) + KL_WEIGHT * min(1.0, step / 500) * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 100 == 99:
            seconds = time.monotonic() - began
            tell(f"step {step + 1}, {seconds:.0f} s: loss {loss.item():.4f}, divergence {divergence.item():.4f}")
    return encoder.eval(), generator.eval()


def train_denoiser(encoder: Encoder, pictures: torch.Tensor, steps: int) -> Denoiser:
    """Trains the denoiser on codes of the pictures, drawn as the generator saw them."""
    with torch.no_grad():
        pairs = [encoder(pictures[start : start + 64].float() / 255) for start in range(0, len(pictures), 64)]
    means, log_variances = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    denoiser = Denoiser()
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps)
        chosen = torch.randint(len(means), (256,))
        codes = means[chosen] + torch.randn(256, CODE) * (log_variances[chosen] / 2).exp()
        low, high = NOISE
        noise = torch.randn(256, CODE) * (low + (high - low) * torch.rand(256, 1))
        loss = (denoiser(codes + noise) - codes).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    tell(f"denoiser: mean square {loss.item():.4f}; means of codes have a variance of {means.var().item():.3f}")
    return denoiser.eval()


def export(model: nn.Module, output: str, path: Path) -> None:
    """Writes a network from `code` (n, 128), n free, to its output."""
    exported = torch.onnx.export(
        model,
        (torch.randn(2, CODE),),
        dynamo=True,
        input_names=["code"],
        output_names=[output],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        verbose=False,
    )
    assert exported is not None
    exported.model.metadata_props.clear()
    for node in exported.model.graph:
        node.metadata_props.clear()
        node.doc_string = None
    exported.save(str(path), external_data=False)
    tell(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB")


def tell(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Trains and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    pictures = read_pictures(options.scenes)
    tell(f"{len(pictures)} pictures")
    encoder, generator = train_generator(pictures, options.steps, options.batch, options.rate)
    denoiser = train_denoiser(encoder, pictures, 4000)
    options.output.mkdir(parents=True, exist_ok=True)
    export(Enlarged(generator).eval(), "picture", options.output / "scene_generator.onnx")
    export(denoiser, "denoised", options.output / "scene_denoiser.onnx")


if __name__ == "__main__":
    main()
