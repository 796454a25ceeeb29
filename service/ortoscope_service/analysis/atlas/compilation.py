"""Compiles the loops of atlases ahead of time."""

import numpy as np

from ortoscope_service.analysis.atlas.layout import LayoutSettings, lay_out
from ortoscope_service.analysis.atlas.quality import layout_quality


def compile_all() -> None:
    """Compiles every kernel of the layout into Numba's cache, so that no first atlas waits for it, by a small one."""
    samples = np.random.default_rng(0).random((64, 8), np.float32)
    for given in (samples, samples.astype(np.float16)):
        layout = lay_out(given, LayoutSettings(n_neighbors=8, n_epochs=2, components=4, landmarks=48), 0)
        layout_quality(given, layout.position, 0, queries=8, k=4)
