"""Atlases, and what changes in them, as pages to explore."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ortoscope.arrays import all_arrays
from ortoscope.atlas_changes import AtlasComparison, AtlasProjection
from ortoscope.atlas_files import ATLAS, COMPARISON, FILES, PROJECTION, check_page, is_page
from ortoscope.atlas_levels import Level
from ortoscope.atlas_requests import command_of
from ortoscope.atlases import Atlas, get_atlas
from ortoscope.errors import NotFound
from ortoscope.files import write_result
from ortoscope.messages import lasting, provenance_record
from ortoscope.progress import Progress, shown
from ortoscope.report.atlas.exports import write_dzi, write_parquet
from ortoscope.report.atlas.overlays import comparison_layer, projection_overlays
from ortoscope.report.atlas.page import AtlasLayer, AtlasPage, LayerLevel, Overlay, write_page
from ortoscope.report.sources import paths_of, tap_of
from ortoscope.rpcs import Rpcs


def save_atlas(rpcs: Rpcs, atlas: Atlas, path: Path, progress: bool | Progress) -> Path:
    """Writes an atlas as a page; see `Atlas.save`."""
    check_page(path, ATLAS)
    with shown(progress, "report") as show:
        layer = layer_of(rpcs, atlas, show)
        page = AtlasPage(
            title=f"{layer.name} of {atlas.model}",
            layers=[layer],
            provenance=lasting(atlas.provenance),
            command=command_of(atlas.proto.spec),
        )
        arrays = {"samples.npz": atlas.samples_file}
        arrays |= {f"cells-{level.grid}.npz": level.file for level in atlas.levels}
        record = provenance_record(atlas.name, atlas.proto.spec, atlas.provenance)
        return _write(page, path, ATLAS, arrays, record, show)


def save_atlases(rpcs: Rpcs, atlases: Sequence[Atlas], path: Path, progress: bool | Progress) -> Path:
    """Writes several atlases as the layers of one page, which can be looked at side by side.

    A folder gets the page and its data, and no arrays.

    Raises:
        OrtoscopeError: As `Atlas.save`.
        OSError: The disk is full, or the folder cannot be written to.
    """
    if len(atlases) == 1:
        return save_atlas(rpcs, atlases[0], path, progress)
    check_page(path, ATLAS)
    with shown(progress, "report") as show:
        layers = [layer_of(rpcs, atlas, show) for atlas in atlases]
        models = sorted({atlas.model for atlas in atlases})
        names = [
            layer if len(models) == 1 else f"{atlas.model} {layer}"
            for layer, atlas in zip((layer.name for layer in layers), atlases, strict=True)
        ]
        page = AtlasPage(
            title=f"{len(atlases)} layers of {', '.join(models)}",
            layers=[_named(layer, name) for layer, name in zip(layers, names, strict=True)],
            provenance=lasting(atlases[0].provenance),
        )
        record = provenance_record(atlases[0].name, atlases[0].proto.spec, atlases[0].provenance)
        return _write(page, path, ATLAS, {}, {**record, "atlases": [atlas.name for atlas in atlases]}, show)


def save_projection(rpcs: Rpcs, projection: AtlasProjection, path: Path, progress: bool | Progress) -> Path:
    """Writes a projection as a page; see `AtlasProjection.save`."""
    check_page(path, PROJECTION)
    atlas = get_atlas(rpcs, projection.atlas)
    grids = set(projection.grids)
    with shown(progress, "report") as show:
        layer = layer_of(
            rpcs,
            atlas,
            show,
            lambda level: projection_overlays(projection.arrays, level.grid) if level.grid in grids else (),
        )
        page = AtlasPage(
            title=f"{projection.dataset} in {layer.name} of {atlas.model}",
            layers=[layer],
            provenance=lasting(projection.provenance),
            colour=_first_overlay(layer),
        )
        record = provenance_record(projection.name, projection.proto.request, projection.provenance)
        return _write(page, path, PROJECTION, {"projection.npz": projection.file}, record, show)


def save_comparison(rpcs: Rpcs, comparison: AtlasComparison, path: Path, progress: bool | Progress) -> Path:
    """Writes a comparison as a page; see `AtlasComparison.save`."""
    check_page(path, COMPARISON)
    with shown(progress, "report") as show:
        layers = [comparison_layer("Both", comparison.proto, comparison.arrays, comparison.proto.request.grid or _GRID)]
        for side, name in (("left", comparison.left), ("right", comparison.right)):
            try:
                atlas = get_atlas(rpcs, name)
            except NotFound:
                continue
            layer = layer_of(rpcs, atlas, show)
            layers.append(_named(layer, f"{side}: {atlas.model} {layer.name}"))
        page = AtlasPage(
            title="Two atlases in one frame",
            layers=layers,
            provenance=lasting(comparison.provenance),
            colour=_first_overlay(layers[0]),
        )
        record = provenance_record(comparison.name, comparison.proto.request, comparison.provenance)
        return _write(page, path, COMPARISON, {"comparison.npz": comparison.file}, record, show)


def export_parquet(rpcs: Rpcs, atlas: Atlas, path: Path, *, progress: bool | Progress = False) -> Path:
    """Writes the samples of an atlas as Parquet, which embedding-atlas opens.

    Raises:
        FailedPrecondition: PACKAGE_MISSING: pyarrow is not installed.
        OrtoscopeError: As the calls that fetch what is written.
        OSError: The file cannot be written.
    """
    with shown(progress, "export") as show:
        return write_parquet(layer_of(rpcs, atlas, show), path)


def export_dzi(atlas: Atlas, path: Path, *, grid: int = 0, progress: bool | Progress = False) -> Path:
    """Writes the icons of a level as a deep-zoom picture.

    Raises:
        NotFound: LEVEL_MISSING.
        InvalidArgument: ICONS_MISSING.
        OrtoscopeError: As the calls that fetch what is written.
        OSError: The files cannot be written.
    """
    with shown(progress, "export") as show:
        return write_dzi(_level(atlas.level(grid), (), show), path)


_GRID = 20
"""Cells along each side of the joint grid, unless somebody says otherwise."""


def layer_of(
    rpcs: Rpcs, atlas: Atlas, show: Progress, overlays: Callable[[Level], Sequence[Overlay]] | None = None
) -> AtlasLayer:
    """An atlas as a layer of a page: everything that the page shows is fetched.

    Args:
        rpcs: The calls.
        atlas: The atlas.
        show: Told how far it is.
        overlays: Further values of a level's cells; None: there are none.
    """
    samples = all_arrays(atlas.samples_file)
    levels = [_level(level, overlays(level) if overlays else (), show) for level in atlas.levels]
    shown_samples = {int(index) for level in levels for index in level.cells["nearest"].ravel() if index >= 0}
    images = {int(samples["image"][index]) for index in shown_samples}
    return AtlasLayer(
        name=tap_of(rpcs, atlas.proto.spec.tap).display_name,
        atlas=atlas.proto,
        levels=levels,
        samples=samples,
        image_paths=paths_of(rpcs, atlas.proto.spec.dataset, images),
    )


def _level(level: Level, overlays: Sequence[Overlay], show: Progress) -> LayerLevel:
    proto = level.proto
    return LayerLevel(
        grid=level.grid,
        cells=level.arrays_by_name,
        icon_size=proto.icon_size,
        icons=level.icons.encoded(show),
        icons_per_row=proto.icons_per_row,
        icons_per_sheet=proto.icons_per_sheet,
        crop_size=proto.crop_size,
        crops=level.crops.encoded(show),
        crops_per_row=proto.crops_per_row,
        crops_per_sheet=proto.crops_per_sheet,
        overlays=overlays,
    )


def _first_overlay(layer: AtlasLayer) -> str:
    return next((overlay.name for level in layer.levels for overlay in level.overlays), "")


def _named(layer: AtlasLayer, name: str) -> AtlasLayer:
    return replace(layer, name=name)


def _write(
    page: AtlasPage, path: Path, kind: str, arrays: Mapping[str, bytes], record: Mapping[str, object], show: Progress
) -> Path:
    show("writing the report", 0, 0)
    if is_page(path):
        return write_page(page, path)
    contents = {f"arrays/{name}": data for name, data in arrays.items()}
    write_result(path, kind, contents, record, beside=FILES)
    return write_page(page, path)
