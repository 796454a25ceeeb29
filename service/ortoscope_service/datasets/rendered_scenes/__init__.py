"""Rendered scenes: a labelled dataset drawn from nothing, for demonstrations and tests, with exact labels.

`pictures` decides what each picture shows. `places` draws scenes, `things` what stands in them, part by part,
`textures` and `shapes` what their names say; `palette`, `noise` and `light` make paint look like the world. All paint
on a `canvas`, which keeps the labels; its regions are those of `geometry`.
"""

from ortoscope_service.datasets.rendered_scenes.pictures import CATEGORIES, render_scenes

__all__ = ["CATEGORIES", "render_scenes"]
