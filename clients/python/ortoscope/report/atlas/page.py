"""The atlas as a page to explore: one HTML file, or a folder whose finer levels are loaded when they are looked at.

Both forms hold the same resources, texts by key: the cells of a level (JSON), its sheets of pictures and its columns of
class attribution (base64). A file holds them in elements of its own; a folder as `data/KEY.js`, scripts that hand over
the text. Pictures are handed over in that way too, as a browser lets a page that was opened from the disk show pictures
beside it, but neither read nor save a drawing that has some in it.
"""

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from ortoscope import resource_names
from ortoscope.errors import FailedPrecondition, InvalidArgument
from ortoscope.report.atlas.packing import Columns, level_text, sheet_text
from ortoscope.report.page import embedded_json
from ortoscope.v1 import atlases_pb2

LARGEST_FILE = 40_000_000
"""Bytes of a page in one file, at most: a browser takes seconds and several times its size in memory to open it."""

FILE_COLUMNS = 8_000_000
"""Bytes of a page in one file, at most, that tell the attribution of every class in every cell."""

SCRIPTS = ("store.js", "state.js", "colours.js", "pane.js", "card.js", "panels.js", "main.js")
"""The scripts of the page, in the order in which they run."""

_DATA = "data"

_ENVIRONMENT = Environment(
    loader=PackageLoader("ortoscope.report.atlas", "viewer"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, eq=False)
class Overlay:
    """A value of each cell that the page can colour the map by, beside those that every level has."""

    name: str
    """What people choose it by; overlays of one name on several levels are the same quantity."""

    values: NDArray[Any]
    """(M,) numbers; NaN where there is none. With `categories`: (M,) indices of them."""

    diverging: bool = False
    """Whether 0 is in the middle, and the colours tell the sides apart."""

    description: str = ""
    """What it is, in a sentence."""

    categories: Sequence[str] = ()
    """The names of the values, if they are not numbers on a scale."""


@dataclass(frozen=True, eq=False)
class LayerLevel:
    """A grid over a layer. Only `row`, `column` and `count` of the cells are necessary."""

    grid: int
    """Cells along each side."""

    cells: Mapping[str, NDArray[Any]]
    """The arrays of `AtlasLevel.cells`."""

    icon_size: int = 0
    """Pixels along each side of an icon."""

    icons: Sequence[bytes] = ()
    """The sheets with the icons, in the order of the cells; none while there are no icons."""

    icons_per_row: int = 0
    """Icons on a row of a sheet."""

    icons_per_sheet: int = 0
    """Icons on a full sheet."""

    crop_size: int = 0
    """Pixels along each side of a crop."""

    crops: Sequence[bytes] = ()
    """The sheets with crops of real images, to whose places `cells["crop"]` points."""

    crops_per_row: int = 0
    """Crops on a row of a sheet."""

    crops_per_sheet: int = 0
    """Crops on a full sheet."""

    overlays: Sequence[Overlay] = ()
    """Further values of the cells."""


@dataclass(frozen=True, eq=False)
class AtlasLayer:
    """A layer of the page: an atlas, or what an atlas was compared with."""

    name: str
    """What people know it by."""

    atlas: atlases_pb2.Atlas
    """What was asked and how faithful the layout is."""

    levels: Sequence[LayerLevel]
    """Its levels, coarse to fine."""

    class_labels: Sequence[str] = ()
    """The labels of the classes, by index; those of the atlas if empty."""

    samples: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """The arrays of `Atlas.samples`; `image` of it tells which image a crop is from."""

    image_paths: Mapping[int, str] = field(default_factory=dict)
    """The files of images, by index."""

    @property
    def labels(self) -> Sequence[str]:
        """The labels of the classes, by index."""
        return self.class_labels or list(self.atlas.class_labels)


@dataclass(frozen=True, eq=False)
class AtlasPage:
    """What a page shows."""

    title: str
    """Its heading."""

    layers: Sequence[AtlasLayer]
    """The layers, in the order in which they are offered; the first is shown first."""

    provenance: Mapping[str, object] = field(default_factory=dict)
    """What it was computed from, by name, as `ortoscope.messages.lasting` gives it."""

    command: str = ""
    """The command that makes it again."""

    colour: str = ""
    """The name of the overlay that the map is coloured by at first; empty for none."""


def write_page(page: AtlasPage, path: str | Path) -> Path:
    """Writes a page.

    Args:
        page: What it shows.
        path: `NAME.html` for one file; any other name is that of a folder, which is made if need be. The page is the
            folder's `index.html`; older data files of a page in the same folder are removed.

    Returns:
        The file to open.

    Raises:
        InvalidArgument: PAGE_EMPTY, there is no layer, or one without cells; CELLS_MALFORMED, arrays of a level do not
            fit together; PAGE_TOO_LARGE, one file would be larger than `LARGEST_FILE`.
        FailedPrecondition: NOT_A_FOLDER, the folder is a file.
        OSError: It cannot be written.
    """
    for layer in page.layers:
        if not any(len(level.cells["row"]) for level in layer.levels):
            raise InvalidArgument(
                f"The layer {layer.name!r} has no cells to show; wait until the atlas has its first level.",
                reason="PAGE_EMPTY",
                field="layers",
                metadata={"layer": layer.name},
            )
    if not page.layers:
        raise InvalidArgument("A page needs at least one layer.", reason="PAGE_EMPTY", field="layers")
    target = Path(path)
    return _write_file(page, target) if target.suffix.lower() in {".html", ".htm"} else _write_folder(page, target)


def render_page(page: AtlasPage) -> str:
    """A page as one HTML file, whatever its size."""
    parts = _Parts.of(page, FILE_COLUMNS)
    return _html(page, parts, dict(parts.resources()), folder=False)


def _write_file(page: AtlasPage, target: Path) -> Path:
    parts = _Parts.of(page, FILE_COLUMNS)
    resources: dict[str, str] = {}
    size = 0
    for key, text in parts.resources():
        resources[key] = text
        size += len(text)
        if size > LARGEST_FILE:
            raise _too_large(page, target)
    content = _html(page, parts, resources, folder=False).encode()
    if len(content) > LARGEST_FILE:
        raise _too_large(page, target)
    _write(target, content)
    return target


def _write_folder(page: AtlasPage, target: Path) -> Path:
    if target.exists() and not target.is_dir():
        raise FailedPrecondition(
            f"{str(target)!r} is a file; name a folder for the page, or a file that ends in .html.",
            reason="NOT_A_FOLDER",
            metadata={"folder": str(target)},
        )
    data = target / _DATA
    data.mkdir(parents=True, exist_ok=True)
    parts = _Parts.of(page, None)
    at_once: dict[str, str] = {}
    names = set()
    for key, text in parts.resources():
        if key in parts.first:
            at_once[key] = text
        else:
            names.add(f"{key}.js")
            _write(data / f"{key}.js", f'Atlas.put("{key}",{embedded_json(text)});\n'.encode())
    _write(target / "index.html", _html(page, parts, at_once, folder=True).encode())
    for stale in data.glob("l*-g*.js"):
        if stale.name not in names:
            stale.unlink()
    return target / "index.html"


def _too_large(page: AtlasPage, target: Path) -> InvalidArgument:
    folder = target.with_suffix("")
    return InvalidArgument(
        f"As one file the page would be larger than {LARGEST_FILE / 1e6:.0f} MB, more than browsers open with ease: "
        f"write it into a folder ({folder.name!r} instead of {target.name!r}), leave out the finest level or a layer, "
        "or make smaller icons.",
        reason="PAGE_TOO_LARGE",
        field="path",
        metadata={"layers": str(len(page.layers)), "max_bytes": str(LARGEST_FILE)},
    )


@dataclass(frozen=True, eq=False)
class _Parts:
    """A page taken apart: its manifest, and how its resources are made."""

    manifest: dict[str, Any]
    levels: Sequence[tuple[str, AtlasLayer, LayerLevel, Columns | None]]
    first: frozenset[str]
    """The resources of the first screen, which are in the HTML file of either form."""

    @classmethod
    def of(cls, page: AtlasPage, budget: int | None) -> "_Parts":
        """Takes a page apart.

        Args:
            page: The page.
            budget: Bytes for columns of attribution; the coarsest levels come first. None: all are there.
        """
        levels = [
            (f"l{number}-g{level.grid}", layer, level)
            for number, layer in enumerate(page.layers)
            for level in sorted(layer.levels, key=lambda level: level.grid)
            if len(level.cells["row"])
        ]
        chosen: dict[str, Columns | None] = {}
        left = float("inf") if budget is None else float(budget)
        for key, _, level in sorted(levels, key=lambda entry: entry[2].grid):
            columns = Columns.of(level.cells)
            if columns is not None and columns.size <= left:
                left -= columns.size
                chosen[key] = columns
            else:
                chosen[key] = None
        layers: list[dict[str, Any]] = [_layer(layer) for layer in page.layers]
        first: set[str] = set()
        for key, _, level in levels:
            entry = layers[int(key[1:].partition("-")[0])]
            if not entry["levels"]:
                first |= {key, *(name for name, _ in _sheets(key, level, "icons" if level.icons else "crops"))}
            entry["levels"].append(_level(key, level, chosen[key]))
        manifest = {"title": page.title, "layers": layers, "colour": page.colour}
        return cls(manifest, [(key, layer, level, chosen[key]) for key, layer, level in levels], frozenset(first))

    def resources(self) -> Iterator[tuple[str, str]]:
        """Every resource and its text, those of the first screen first."""
        everything = sorted(self._all(), key=lambda entry: entry[0] not in self.first)
        for key, make in everything:
            yield key, make()

    def _all(self) -> Iterator[tuple[str, Any]]:
        for key, layer, level, columns in self.levels:
            yield key, lambda layer=layer, level=level, columns=columns: level_text(layer, level, columns)
            for kind in ("icons", "crops"):
                for name, sheet in _sheets(key, level, kind):
                    yield name, lambda sheet=sheet: sheet_text(sheet)
            if columns is not None:
                for block in range(columns.blocks):
                    yield f"{key}-a{block}", lambda columns=columns, block=block: columns.text(block)


def _sheets(key: str, level: LayerLevel, kind: str) -> Iterator[tuple[str, bytes]]:
    for number, sheet in enumerate(level.icons if kind == "icons" else level.crops):
        yield f"{key}-{kind[0]}{number}", sheet


def _layer(layer: AtlasLayer) -> dict[str, Any]:
    atlas = layer.atlas
    quality = atlas.quality
    return {
        "name": layer.name,
        "tap": resource_names.short_tap(atlas.spec.tap),
        "model": resource_names.short_model(resource_names.version_of_tap(atlas.spec.tap)),
        "dataset": resource_names.short_dataset(atlas.spec.dataset) if atlas.spec.dataset else "",
        "samples": atlas.sample_count,
        "images": atlas.image_count,
        "units": atlas.unit_count,
        "zero": atlas.zero_samples,
        "duplicates": atlas.duplicate_samples,
        "partial": atlas.state == atlases_pb2.Atlas.STATE_PARTIAL,
        "quality": [round(quality.trustworthiness, 3), round(quality.neighbourhood_recall, 3), quality.queries],
        "remarks": list(atlas.remarks),
        "classes": list(layer.labels),
        "levels": [],
    }


def _level(key: str, level: LayerLevel, columns: Columns | None) -> dict[str, Any]:
    return {
        "key": key,
        "grid": level.grid,
        "cells": len(level.cells["row"]),
        "icons": _sprites(key, level, "icons", level.icon_size, level.icons_per_row, level.icons_per_sheet),
        "crops": _sprites(key, level, "crops", level.crop_size, level.crops_per_row, level.crops_per_sheet),
        "columns": None if columns is None else columns.block,
        "overlays": [
            {
                "name": overlay.name,
                "diverging": overlay.diverging,
                "description": overlay.description,
                "categories": list(overlay.categories),
            }
            for overlay in level.overlays
        ],
    }


def _sprites(key: str, level: LayerLevel, kind: str, size: int, per_row: int, per_sheet: int) -> dict[str, Any] | None:
    keys = [name for name, _ in _sheets(key, level, kind)]
    return {"size": size, "perRow": per_row, "perSheet": per_sheet, "keys": keys} if keys else None


def _html(page: AtlasPage, parts: _Parts, resources: Mapping[str, str], *, folder: bool) -> str:
    scripts = [_resource(name) for name in SCRIPTS]
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    beside = " 'self' file:" if folder else ""
    return _ENVIRONMENT.get_template("viewer.html.j2").render(
        title=page.title,
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes}{beside}",
        style=_resource("viewer.css"),
        scripts=scripts,
        manifest=embedded_json({**parts.manifest, "folder": folder}),
        first=[(key, resources[key]) for key in resources if key in parts.first],
        later=[(key, resources[key]) for key in resources if key not in parts.first],
        provenance={str(name): value for name, value in page.provenance.items()},
        settings=_settings(page),
        command=page.command,
    )


def _settings(page: AtlasPage) -> dict[str, str]:
    """The settings of the first layer, in JSON as the server tells them."""
    return {name: json.dumps(json.loads(value)) for name, value in sorted(page.layers[0].atlas.settings.items())}


def _resource(name: str) -> str:
    return (files("ortoscope.report.atlas") / "viewer" / name).read_text("utf-8")


def _write(path: Path, content: bytes) -> None:
    """Writes a file that appears whole under its name, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".page-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
