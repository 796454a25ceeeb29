"""Atlases as a server publishes them, made without one: what the rpcs that work with an atlas need of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ortoscope.v1 import atlases_pb2
from ortoscope_service.analysis.atlas.collection import CollectionSettings, Samples, collect_shard, merge_samples
from ortoscope_service.analysis.atlas.grid import GridSettings, cells_of
from ortoscope_service.analysis.atlas.layout import LayoutSettings, lay_out
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.api.resources import ModelName, TapName
from ortoscope_service.datasets.catalog import DatasetCatalog
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.jobs.artifacts import pack_arrays
from ortoscope_service.jobs.store import Store
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import SessionConfig
from pictures import encode, photo

LAYOUT = LayoutSettings(n_neighbors=8, n_epochs=30, components=0)


def write_photos(folder: Path, count: int, first_seed: int = 0, *, dark: bool = False) -> None:
    """Writes small noisy pictures; dark ones are those of a camera that lets little light in."""
    folder.mkdir(parents=True)
    for number in range(count):
        picture = photo(20, 20, seed=first_seed + number)
        if dark:
            picture = picture.point(lambda value: value // 4)
        (folder / f"{number:03}.png").write_bytes(encode(picture, "PNG"))


def samples_of(version: ModelVersion, tap: str, datasets: Path, dataset: str, sites: int, seed: int) -> Samples:
    """The samples that an atlas takes of all images of a dataset."""
    found = collect_shard(
        version,
        resolve_tap(version.manifest.taps, tap),
        opened := DatasetCatalog(datasets).get(dataset),
        opened.select(()),
        sites,
        CollectionSettings(),
        seed,
        ExecutionConfig(4, SessionConfig(intra_op_threads=1)),
        progress=lambda *_: None,
        cancellation=Cancellation(),
    )
    return merge_samples([lambda: found])


def publish_atlas(
    store_folder: Path,
    version: ModelVersion,
    tap: str,
    datasets: Path,
    dataset: str,
    *,
    identifier: str,
    sites: int = 1,
    seed: int = 0,
    grids: Sequence[int] = (4, 8),
    changes: Mapping[str, Any] | None = None,
) -> atlases_pb2.Atlas:
    """Puts an atlas without icons into the store of a server that does not run.

    Args:
        store_folder: The store.
        version: The model.
        tap: Any name of the tap.
        datasets: The folder of datasets.
        dataset: Name of the dataset.
        identifier: 32 hexadecimal digits that the atlas is named by.
        sites: Sites of each image.
        seed: Of sites and layout.
        grids: Of the levels.
        changes: Fields that its record says otherwise than it is: `frame`, or those of its spec.
    """
    samples = samples_of(version, tap, datasets, dataset, sites, seed)
    rows, image = samples.activation[samples.distinct], samples.image[samples.distinct]
    layout = lay_out(rows, LAYOUT, seed)
    tensor = resolve_tap(version.manifest.taps, tap).tensor
    atlas = atlases_pb2.Atlas(
        name=f"atlases/{identifier}",
        spec=atlases_pb2.AtlasSpec(
            tap=str(TapName(ModelName(version.model, version.version), tensor)),
            dataset=f"datasets/{dataset}",
            sites_per_image=sites,
            grids=grids,
            seed=seed,
        ),
        state=atlases_pb2.Atlas.STATE_COMPLETE,
        sample_count=len(rows),
        unit_count=rows.shape[1],
    )
    for part, settings in (("collection", CollectionSettings()), ("layout", LAYOUT)):
        for name, value in asdict(settings).items():
            atlas.settings[f"{part}.{name}"] = json.dumps(value)
    store = Store(store_folder)
    blobs: dict[str, str] = {}

    def put(role: str, arrays: dict[str, np.ndarray]) -> str:
        blobs[role] = store.blobs.put_bytes(pack_arrays(arrays))
        return f"blobs/{blobs[role]}"

    site = samples.site[samples.distinct]
    atlas.samples = put("samples", {"image": image, "site": site, "position": layout.position})
    atlas.frame = put("frame", layout.frame.to_arrays())
    for grid in grids:
        cells = cells_of(rows, image, layout.position, grid, GridSettings())
        atlas.levels.add(grid=grid, cell_count=len(cells), cells=put(f"cells-{grid}", cells.to_arrays()))
    for name, value in (changes or {}).items():
        other = atlases_pb2.Atlas(**{name: value} if name == "frame" else {"spec": {name: value}})
        atlas.frame = "" if name == "frame" else atlas.frame
        atlas.MergeFrom(other)
    store.records.add("atlases", identifier, atlas.SerializeToString(), blobs)
    store.close()
    return atlas
