"""Pictures that tell how they were made: specifications in their metadata, and the requests that make them again."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ortoscope.errors import InvalidArgument
from ortoscope.inputs import Input
from ortoscope.objectives import VisualizationObjective
from ortoscope.visualization import Visualization
from ortoscope.visualizing import Request

SPEC_KEYWORD = "ortoscope:spec"
"""The text in a PNG's metadata that holds the whole specification."""


@dataclass(frozen=True)
class MadeAgain:
    """A picture that was made again from its own metadata."""

    visualization: Visualization
    """What came of it."""

    item: int | None
    """Which of its items has the same bytes as the file; None: none has."""

    @property
    def same(self) -> bool:
        """Whether the file was made again byte for byte."""
        return self.item is not None


def read_spec(source: str | Path | bytes) -> dict[str, Any]:
    """The whole specification in the metadata of a picture that a server made.

    Raises:
        InvalidArgument: SPEC_MISSING: it is no PNG, or one from elsewhere.
        OSError: The file cannot be read.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            opened.load()  # texts may stand behind the pixels
            spec = json.loads(getattr(opened, "text", {})[SPEC_KEYWORD])
    except (OSError, SyntaxError, ValueError, KeyError, RecursionError):
        spec = None
    if not isinstance(spec, dict):
        name = "The picture" if isinstance(source, bytes) else repr(str(source))
        raise InvalidArgument(
            f"{name} does not tell how it was made: its metadata have no '{SPEC_KEYWORD}'. Take the PNG as the server "
            "made it; other programs drop metadata when they save.",
            reason="SPEC_MISSING",
            field="png",
        )
    return spec


def request_of(spec: Mapping[str, Any], start: Input | None = None) -> Request:
    """The request that a picture's specification describes.

    Args:
        spec: As `read_spec` gives it.
        start: What it started from, if the specification does not say where that is to be had.

    Raises:
        InvalidArgument: SPEC_UNKNOWN: it lacks a part, or is that of another kind of picture; START_NEEDED.
    """
    known = spec.get("start")
    if start is None and isinstance(known, Mapping):
        start = known.get("blob") or known.get("dataset_image")
        if start is None:
            raise InvalidArgument(
                "The picture was climbed from numbers that its metadata do not hold; give them as the start.",
                reason="START_NEEDED",
                field="start",
                metadata={"digest": str(known.get("digest", ""))},
            )
    items = spec.get("items")
    if not isinstance(items, int) or not 0 <= items < 2**31 or "objective" not in spec:
        raise spec_unknown(spec)
    preset, settings, seed = recipe_of(spec)
    objective = VisualizationObjective.from_data(spec["objective"])
    return Request(objective, preset, settings, seed, items, start)


def recipe_of(spec: Mapping[str, Any]) -> tuple[str, dict[str, object], int]:
    """Preset, settings and seed of a specification.

    Raises:
        InvalidArgument: SPEC_UNKNOWN.
    """
    preset, settings, seed = spec.get("preset"), spec.get("settings"), spec.get("seed")
    if not isinstance(preset, str) or not isinstance(settings, dict):
        raise spec_unknown(spec)
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise spec_unknown(spec)
    return preset, settings, seed


def spec_unknown(spec: Mapping[str, Any]) -> InvalidArgument:
    """The error for a specification that lacks a part, or is that of something else."""
    return InvalidArgument(
        "The picture's metadata do not say all that is needed to make it again; it may be of another version.",
        reason="SPEC_UNKNOWN",
        field="png",
        metadata={"verb": str(spec.get("verb", ""))},
    )
