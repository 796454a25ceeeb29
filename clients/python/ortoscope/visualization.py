"""Visualizations: pictures, or other inputs, that make an objective large, and what is to be thought of them."""

import base64
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope import resource_names
from ortoscope.errors import InvalidArgument
from ortoscope.files import write_file
from ortoscope.tensors import to_array
from ortoscope.v1 import provenance_pb2, visualization_pb2

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """What a picture is compared with, for a verdict."""

    dataset: str
    """The dataset, on whose images the objective is evaluated as on the picture."""

    images: int = 256
    """At most so many images, spread evenly."""

    examples: int = 4
    """Real examples told of either end."""

    seeds: int = 0
    """Climbs from other seeds that the picture is compared with."""

    def to_proto(self) -> visualization_pb2.Comparison:
        """The comparison as the API takes it."""
        return visualization_pb2.Comparison(
            dataset=resource_names.dataset(self.dataset), images=self.images, examples=self.examples, seeds=self.seeds
        )


@dataclass(frozen=True)
class ScoredImage:
    """An image and the objective on it."""

    image: str
    """Resource name of the image."""

    path: str
    """Its path in the dataset."""

    objective: float
    """The objective."""

    @property
    def index(self) -> int:
        """The image's index in the dataset."""
        return int(self.image.rpartition("/")[2])


@dataclass(frozen=True)
class Verdict:
    """How a picture compares with real ones, and with pictures from other seeds."""

    images: int
    """Images that the objective was evaluated on."""

    percentile: float
    """Share of them, in percent, whose objective is below the picture's."""

    quantiles: tuple[float, ...]
    """The objective on the images at 0, 25, 50, 75, 95 and 100 percent."""

    most: tuple[ScoredImage, ...]
    """The images with the largest objective, descending."""

    least: tuple[ScoredImage, ...]
    """Those with the smallest, ascending."""

    seed_objectives: tuple[float, ...]
    """The objective that climbs from other seeds came to; fewer than were asked for if the time budget ended before."""

    seed_agreement: float
    """How alike the pictures of all seeds are to the model, from -1 to 1; 0 without other seeds."""

    @classmethod
    def from_proto(cls, proto: visualization_pb2.Verdict) -> "Verdict":
        """Reads the server's message."""
        return cls(
            images=proto.images,
            percentile=proto.percentile,
            quantiles=tuple(proto.quantiles),
            most=tuple(ScoredImage(entry.image, entry.path, entry.objective) for entry in proto.most),
            least=tuple(ScoredImage(entry.image, entry.path, entry.objective) for entry in proto.least),
            seed_objectives=tuple(proto.seed_objectives),
            seed_agreement=proto.seed_agreement,
        )

    def describe(self) -> str:
        """The verdict in words."""
        largest = f" (the largest of theirs is {self.quantiles[-1]:.4g})" if self.quantiles else ""
        words = f"above {self.percentile:.4g} % of {self.images} images{largest}"
        if self.seed_objectives:
            others = ", ".join(f"{value:.4g}" for value in self.seed_objectives)
            words += f"; other seeds came to {others}, and agree with it to {self.seed_agreement:.2f}"
        return words


@dataclass(frozen=True, eq=False)
class VisualizedItem:
    """One picture of a visualization; shows itself in a notebook."""

    png: bytes
    """A PNG of 8 bits whose metadata hold the whole specification; empty if it is no picture."""

    values: Array
    """What was found: (channels, height, width) in [0, 1] for a picture, else as the model takes it."""

    objective: float
    """The objective on the clean picture."""

    end: str
    """Why the climb ended: "steps" (all were made), "converged", "plateau", "budget", "dead" or "not_finite"."""

    steps: int
    """Steps made in the attempt that was kept."""

    attempt: int
    """The attempt that was kept, from 1."""

    redirected_steps: int
    """Steps in which the gradient was redirected, because there was none."""

    attempts: tuple[float, ...]
    """The objective that each attempt came to."""

    verdict: Verdict | None
    """What is to be thought of it; None without a comparison."""

    @classmethod
    def from_proto(cls, proto: visualization_pb2.VisualizedItem) -> "VisualizedItem":
        """Reads the server's message."""
        return cls(
            png=proto.png,
            values=to_array(proto.values),
            objective=proto.objective,
            end=end_word(proto.end),
            steps=proto.steps,
            attempt=proto.attempt,
            redirected_steps=proto.redirected_steps,
            attempts=tuple(proto.attempts),
            verdict=Verdict.from_proto(proto.verdict) if proto.HasField("verdict") else None,
        )

    def image(self) -> Image.Image:
        """The picture as a PIL image.

        Raises:
            InvalidArgument: NOT_A_PICTURE: it is a vector or a sequence; see `values`.
        """
        if not self.png:
            raise not_a_picture(self.values.shape)
        with Image.open(io.BytesIO(self.png)) as opened:
            opened.load()
            return opened.copy()

    def describe(self) -> str:
        """What it came to, in words."""
        words = f"objective {self.objective:.4g}, {_ENDS.get(self.end, self.end)} after {self.steps} steps"
        if len(self.attempts) > 1:
            words += f", attempt {self.attempt} of {len(self.attempts)}"
        if self.redirected_steps:
            words += f", {self.redirected_steps} of them redirected"
        return f"{words}; {self.verdict.describe()}" if self.verdict else words

    def _repr_png_(self) -> bytes | None:
        return self.png or None

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.values.shape))
        return f"<VisualizedItem {shape}: {self.describe()}>"


class Visualization(Sequence[VisualizedItem]):
    """The result of a visualization: a sequence of its items, which shows itself in a notebook.

    Attributes:
        proto: The message as the server sent it.
        items: The items.
    """

    def __init__(self, proto: visualization_pb2.VisualizationResult) -> None:
        self.proto = proto
        self.items = tuple(VisualizedItem.from_proto(item) for item in proto.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[VisualizedItem]:
        return iter(self.items)

    @cached_property
    def history(self) -> Array:
        """(steps, items) float32: the objective at each step, with its transforms; not a number after an end."""
        return to_array(self.proto.history)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The request in full, every default filled in: what the metadata of the pictures hold too."""
        data: dict[str, Any] = json.loads(self.proto.spec_json)
        return data

    @property
    def cached(self) -> bool:
        """Whether the server had computed it before."""
        return self.proto.cached

    @property
    def provenance(self) -> provenance_pb2.Provenance:
        """What it was computed from."""
        return self.proto.provenance

    @property
    def objective(self) -> npt.NDArray[np.float32]:
        """(items,): the objective on the clean pictures."""
        return np.array([item.objective for item in self.items], np.float32)

    @property
    def is_picture(self) -> bool:
        """Whether the items are pictures, rather than vectors or sequences."""
        return all(item.png for item in self.items)

    def image(self) -> Image.Image:
        """The picture as a PIL image; several side by side.

        Raises:
            InvalidArgument: NOT_A_PICTURE.
        """
        return side_by_side([item.image() for item in self.items])

    def arrays(self) -> dict[str, Array]:
        """All arrays by name, as `numpy.savez` takes them: `values`, `objective`, `history`."""
        values = np.stack([item.values for item in self.items]) if self.items else np.zeros(0, np.float32)
        return {"values": values, "objective": self.objective, "history": self.history}

    def save(self, path: str | Path) -> list[Path]:
        """Writes it to files.

        Args:
            path: FILE.png: the picture as the server made it, which `visualization_from_png` makes again; of several
                items each, as FILE-1.png and so on. FILE.npz: all arrays.

        Returns:
            The files.

        Raises:
            InvalidArgument: NOT_A_PICTURE, or FILE_TYPE_UNKNOWN.
            OSError: A file cannot be written.
        """
        target = Path(path)
        match target.suffix.lower():
            case ".npz":
                buffer = io.BytesIO()
                np.savez_compressed(buffer, **self.arrays())  # type: ignore[arg-type] # the stub thinks of its flag
                write_file(target, buffer.getvalue())
                return [target]
            case ".png":
                for item in self.items:
                    if not item.png:
                        raise not_a_picture(item.values.shape)
                files = numbered(target, len(self.items))
                for file, item in zip(files, self.items, strict=True):
                    write_file(file, item.png)
                return files
        raise InvalidArgument(
            f"{str(path)!r} ends neither in .png nor in .npz.",
            reason="FILE_TYPE_UNKNOWN",
            field="path",
            metadata={"path": str(path)},
        )

    def describe(self) -> str:
        """What each item came to, in lines."""
        if len(self.items) == 1:
            return self.items[0].describe()
        return "\n".join(f"{number}: {item.describe()}" for number, item in enumerate(self.items, 1))

    def __repr__(self) -> str:
        return f"<Visualization: {self.describe()}>"

    def _repr_png_(self) -> bytes | None:
        if not self.items or not self.is_picture:
            return None
        buffer = io.BytesIO()
        self.image().save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        return "".join(_figure(item) for item in self.items)


def side_by_side(pictures: Sequence[Image.Image], columns: int = 0, gap: int = 2) -> Image.Image:
    """Pictures of one size in rows, on white.

    Args:
        pictures: The pictures.
        columns: How many in a row; 0: about as many as there are rows.
        gap: Pixels between two.
    """
    if len(pictures) == 1:
        return pictures[0]
    across = columns or math.ceil(math.sqrt(len(pictures)))
    down = math.ceil(len(pictures) / across)
    width, height = pictures[0].width + gap, pictures[0].height + gap
    whole = Image.new("RGB", (across * width - gap, down * height - gap), (255, 255, 255))
    for number, picture in enumerate(pictures):
        whole.paste(picture.convert("RGB"), (number % across * width, number // across * height))
    return whole


def numbered(path: Path, count: int) -> list[Path]:
    """Names of files for so many items: the path itself for one, else FILE-1.png and so on."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]


def end_word(number: int) -> str:
    """Why a climb ended, as a word: "steps", "converged", "plateau", "budget", "dead", "not_finite"."""
    try:
        name = visualization_pb2.VisualizedItem.End.Name(number)
    except ValueError:
        return "unknown"
    word = name.removeprefix("END_").lower()
    return "unknown" if word == "unspecified" else word


def not_a_picture(shape: Sequence[int]) -> InvalidArgument:
    """The error for what has no picture."""
    return InvalidArgument(
        f"What was found has the shape {tuple(shape)} and is no picture; save it as .npz.",
        reason="NOT_A_PICTURE",
        metadata={"shape": str(tuple(shape))},
    )


_ENDS = {
    "steps": "all steps made",
    "converged": "at a maximum",
    "plateau": "on a plateau",
    "budget": "the time was over",
    "dead": "no gradient reaches the input",
    "not_finite": "no longer a finite number",
}


def _figure(item: VisualizedItem) -> str:
    caption = f'<figcaption style="font-size:85%;max-width:30em">{escape(item.describe())}</figcaption>'
    if not item.png:
        shape = " x ".join(map(str, item.values.shape))
        return f"<figure><code>{shape} numbers</code>{caption}</figure>"
    source = base64.b64encode(item.png).decode("ascii")
    style = "display:inline-block;margin:0 8px 8px 0;vertical-align:top"
    return f'<figure style="{style}"><img src="data:image/png;base64,{source}" alt="">{caption}</figure>'
