"""Samples of activations laid out in the plane so that what the layer treats alike is close: UMAP, or t-SNE.

UMAP (McInnes et al. 2018) step by step: a graph of nearest neighbours, strengths of its edges, a first position, and
epochs of attraction and repulsion. Only some samples, the landmarks, are laid out where there are many; the others are
placed among them. The own engine gives the same bytes for a seed, whatever the number of threads; umap-learn's, kept
for the sake of reproduction, does so on one thread.
"""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse.csgraph
import scipy.sparse.linalg
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.fuzzy_graph import FuzzyGraph, curve_of, fuzzy_union, memberships
from ortoscope_service.analysis.atlas.layout_kernel import Forces, settle
from ortoscope_service.analysis.atlas.neighbours import Neighbours, nearest_neighbours
from ortoscope_service.analysis.atlas.parallel import Progress, Threads, pieces, silent, single_threaded_products
from ortoscope_service.analysis.atlas.placement import Frame
from ortoscope_service.analysis.atlas.scaling import equalized, into_unit_square
from ortoscope_service.analysis.atlas.space import METRICS, Float32Array, Metric, Space
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.runtime.cancellation import Cancellation

FEWEST_SAMPLES = 4
"""Samples below which there is no layout."""

_ROWS = 8192
"""Samples that are worked on at a time."""

_RNG = 0x61746C6173
"""Tells this module's random draws from those of others with the same seed."""


@dataclass(frozen=True)
class LayoutSettings:
    """How samples are laid out; names and defaults are those of umap-learn, but where said."""

    n_neighbors: int = 15
    """Nearest neighbours of each sample, itself among them: 2 to 500. Few show detail, many the whole."""

    min_dist: float = 0.05
    """How close samples may come, of `spread`: 0 to `spread`."""

    spread: float = 1.0
    """How far clusters are drawn apart: above 0, at most 10."""

    metric: Metric = "cosine"
    """Distance between activations: `cosine` or `euclidean`."""

    n_epochs: int = 0
    """Epochs: 1 to 10,000; 0 for 500 up to 10,000 samples and 200 beyond, as umap-learn."""

    negative_sample_rate: int = 5
    """Samples that repel for one that attracts: 0 to 100."""

    learning_rate: float = 1.0
    """The first step; it falls to 0: above 0, at most 100."""

    repulsion_strength: float = 1.0
    """Factor of the repulsion: 0 to 100."""

    set_op_mix_ratio: float = 1.0
    """1 joins two samples if either is a neighbour of the other, 0 if both are; 0 to 1."""

    local_connectivity: float = 1.0
    """Neighbours that are taken to be as close as can be: 0 to 100."""

    init: Literal["pca", "spectral", "random"] = "pca"
    """Where samples begin: at their first two principal coordinates; at the first eigenvectors of the graph's Laplacian
    (of a graph in one piece, else as `pca`); anywhere."""

    components: int = 64
    """Principal coordinates that neighbours are found by, with one more for what these leave out: 1 to 4,096, or 0 for
    all units. Few are fast, and leave out noise."""

    equalize: float = 0.7
    """How far the layout is evened out along its axes, so that it fills the grid: 0 to 1; 0 leaves it as it is, with
    both axes on one scale."""

    landmarks: int = 100_000
    """Samples that are laid out, drawn at random; the others are placed among them: 4 to 2,000,000."""

    method: Literal["umap", "tsne"] = "umap"
    """UMAP, or t-SNE by openTSNE, for up to some ten thousand samples."""

    perplexity: float = 50.0
    """Of t-SNE, whose neighbours are three times as many: 1 to 1,000."""

    engine: Literal["own", "umap-learn"] = "own"
    """What lays out for `umap`: this service, or umap-learn, slower."""

    def __post_init__(self) -> None:
        """Refuses what is out of range.

        Raises:
            OrtoscopeError: `INVALID_SETTING`, with the name of the field.
        """
        for name, lowest, highest in _RANGES:
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise _refused(name, value, f"give {lowest:,} to {highest:,}")
        for name, values in _CHOICES:
            if getattr(self, name) not in values:
                raise _refused(name, getattr(self, name), f"give one of {', '.join(values)}")
        if not 0 <= self.min_dist <= self.spread:
            raise _refused("min_dist", self.min_dist, f"give 0 to the spread, {self.spread:g}")

    def epochs(self, samples: int) -> int:
        """Epochs for so many samples."""
        if self.n_epochs:
            return self.n_epochs
        return 500 if samples <= 10_000 else 200


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("n_neighbors", 2, 500),
    ("spread", 1e-3, 10),
    ("n_epochs", 0, 10_000),
    ("negative_sample_rate", 0, 100),
    ("learning_rate", 1e-6, 100),
    ("repulsion_strength", 0, 100),
    ("set_op_mix_ratio", 0, 1),
    ("local_connectivity", 0, 100),
    ("components", 0, 4096),
    ("equalize", 0, 1),
    ("landmarks", FEWEST_SAMPLES, 2_000_000),
    ("perplexity", 1, 1000),
)

_CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("metric", METRICS),
    ("init", ("pca", "spectral", "random")),
    ("method", ("umap", "tsne")),
    ("engine", ("own", "umap-learn")),
)


@dataclass(frozen=True)
class Layout:
    """Where samples are."""

    position: Float32Array
    """(N, 2) float32 in [0, 1], x to the right and y down."""

    frame: Frame
    """What places further samples."""

    landmark: NDArray[np.int64]
    """(L,) int64, ascending: the samples that were laid out; the others were placed."""

    graph_recall: float
    """Share of the landmarks' nearest by principal coordinates that the layout knew: 1, or measured."""


def lay_out(
    activations: NDArray[Any],
    settings: LayoutSettings,
    seed: int,
    *,
    flat: bool = False,
    threads: int = 1,
    progress: Progress = silent,
    cancellation: Cancellation | None = None,
) -> Layout:
    """Lays out samples.

    Memory beyond the arguments: for L landmarks 4 L (components + 1) bytes, about 60 L n_neighbors for the graph, and
    the result.

    Args:
        activations: (N, C) float16 or float32; zero and equal vectors are best left out.
        settings: How.
        seed: Decides the landmarks and all draws, at least 0.
        flat: Lay out along x alone, by the own engine whatever the settings say; y is then 0.5 for all.
        threads: Threads to work in; how many does not change the result.
        progress: Told the stage and how far it is.
        cancellation: Heeded between blocks of samples and turns of an epoch.

    Raises:
        OrtoscopeError: `TOO_FEW_SAMPLES`, `ACTIVATIONS_EQUAL`, `ACTIVATIONS_NOT_FINITE`, `LAYOUT_LIBRARY_MISSING` (all
            FAILED_PRECONDITION); `CANCELLED`; `DEADLINE_EXCEEDED`.
    """
    count = len(activations)
    if count < FEWEST_SAMPLES:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "TOO_FEW_SAMPLES",
            f"There are {count} samples, and a layout needs at least {FEWEST_SAMPLES}; give more images, or more sites "
            "of each.",
            metadata={"samples": str(count), "least": str(FEWEST_SAMPLES)},
        )
    landmark = _landmarks(count, settings.landmarks, seed)
    with single_threaded_products(), Threads(threads, cancellation) as pool:
        space = Space.of(activations, landmark, settings.metric, settings.components, pool)
        width = space.axes.shape[1] + (not space.complete)
        coordinates = np.empty((len(landmark), width), np.float32)

        def prepare(piece: tuple[int, int]) -> None:
            part = slice(*piece)
            coordinates[part] = space.coordinates(space.vectors(activations[landmark[part]]))

        pool.run(prepare, pieces(len(landmark), _ROWS))
        neighbours = nearest_neighbours(
            coordinates, space, _neighbours_of(settings, len(landmark)), seed, pool, progress=progress
        )
        if flat:
            laid_out = _own(neighbours, coordinates, settings, seed, pool, progress, flat=True)
        elif settings.method == "tsne":
            laid_out = _tsne(neighbours, coordinates, settings, seed)
        elif settings.engine == "umap-learn":
            laid_out = _umap_learn(space.vectors(activations[landmark]), neighbours, settings, seed)
        else:
            laid_out = _own(neighbours, coordinates, settings, seed, pool, progress)
    even = settings.equalize > 0 and not flat
    position = equalized(laid_out, settings.equalize) if even else into_unit_square(laid_out)
    frame = Frame.of(space, coordinates, neighbours, position)
    if len(landmark) < count:
        placed = frame.place(activations, threads=threads, progress=progress, cancellation=cancellation)
        placed.position[landmark] = position
        position = placed.position
    return Layout(position, frame, landmark, neighbours.recall)


def _neighbours_of(settings: LayoutSettings, count: int) -> int:
    wanted = settings.n_neighbors if settings.method == "umap" else 1 + int(3 * settings.perplexity)
    return min(count, wanted)


def _landmarks(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """The samples to lay out, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, _RNG, 1]).choice(count, most, replace=False))


def _own(
    neighbours: Neighbours,
    coordinates: Float32Array,
    settings: LayoutSettings,
    seed: int,
    threads: Threads,
    progress: Progress,
    *,
    flat: bool = False,
) -> Float32Array:
    """UMAP by this service's own kernels."""
    strength = memberships(neighbours.distance, settings.local_connectivity, threads)
    graph = fuzzy_union(neighbours.index, strength, settings.set_op_mix_ratio)
    a, b = curve_of(settings.min_dist, settings.spread)
    first = _first_position(graph, coordinates, settings.init, seed)
    if flat:
        first[:, 1] = 0  # all forces act along the line between two samples, so none leads away from it
    return settle(
        graph,
        first,
        Forces(a, b, settings.repulsion_strength),
        settings.epochs(len(coordinates)),
        seed,
        threads,
        learning_rate=settings.learning_rate,
        negatives=settings.negative_sample_rate,
        progress=progress,
    )


def _first_position(graph: FuzzyGraph, coordinates: Float32Array, init: str, seed: int) -> Float32Array:
    """Where samples begin: (N, 2) float32 within -10 and 10, shaken a little so that no two are at one place."""
    rng = np.random.default_rng([seed, _RNG, 2])
    count = len(coordinates)
    if init == "random":
        return rng.uniform(-10, 10, (count, 2)).astype(np.float32)
    first = _spectral(graph, rng) if init == "spectral" else None
    if first is None:
        first = np.zeros((count, 2))
        width = min(2, coordinates.shape[1])
        first[:, :width] = _leading(coordinates)[:, :width]
    first *= 10 / max(np.abs(first).max(), 1e-30)
    return (first + rng.normal(scale=1e-4, size=first.shape)).astype(np.float32)


def _leading(coordinates: Float32Array) -> NDArray[np.float64]:
    """The first two principal coordinates; a complete space keeps the units' axes, so they are found here."""
    covariance = np.cov(coordinates.T, dtype=np.float64).reshape(coordinates.shape[1], -1)
    _, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
    leading: NDArray[np.float64] = coordinates.astype(np.float64) @ axes
    return leading


def _spectral(graph: FuzzyGraph, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """Two eigenvectors of the normalised Laplacian; None if the graph is in pieces or they are not found."""
    matrix = graph.matrix()
    count = matrix.shape[0]
    if count < 10 or scipy.sparse.csgraph.connected_components(matrix, directed=False, return_labels=False) > 1:
        return None
    scale = scipy.sparse.diags(1 / np.sqrt(np.asarray(matrix.sum(axis=1)).ravel()))
    normalised = (scale @ matrix @ scale).astype(np.float64)
    try:
        # The largest of the normalised graph are the smallest of its Laplacian, and found without inverting it.
        values, vectors = scipy.sparse.linalg.eigsh(
            normalised, 3, which="LA", v0=rng.standard_normal(count), tol=1e-4, maxiter=5 * count
        )
    except scipy.sparse.linalg.ArpackError:
        return None
    found: NDArray[np.float64] = vectors[:, np.argsort(values)[::-1][1:]]
    return found * np.where(found[np.abs(found).argmax(axis=0), np.arange(2)] < 0, -1, 1)


def _umap_learn(vectors: Float32Array, neighbours: Neighbours, settings: LayoutSettings, seed: int) -> Float32Array:
    """UMAP by umap-learn, from the same graph of neighbours."""
    umap = _library("umap", "umap-learn")
    count = len(vectors)
    if vectors.shape[1] == 1:
        # It takes two principal components of them, whatever they are.
        vectors = np.concatenate([vectors, np.zeros_like(vectors)], axis=1)
    reducer = umap.UMAP(
        n_neighbors=neighbours.index.shape[1],
        min_dist=settings.min_dist,
        spread=settings.spread,
        metric=settings.metric,
        n_epochs=settings.epochs(count),
        negative_sample_rate=settings.negative_sample_rate,
        learning_rate=settings.learning_rate,
        repulsion_strength=settings.repulsion_strength,
        set_op_mix_ratio=settings.set_op_mix_ratio,
        local_connectivity=settings.local_connectivity,
        init=settings.init,
        precomputed_knn=(neighbours.index, neighbours.distance),
        random_state=seed % 2**32,
        n_jobs=1,
    )
    with warnings.catch_warnings():
        # It warns that it cannot transform with such a graph, which it is not asked to.
        warnings.simplefilter("ignore")
        laid_out = reducer.fit_transform(vectors)
    return np.asarray(laid_out, np.float32)


def _tsne(neighbours: Neighbours, coordinates: Float32Array, settings: LayoutSettings, seed: int) -> Float32Array:
    """t-SNE by openTSNE, from the same kind of graph."""
    embedding = _library("openTSNE", "openTSNE").TSNEEmbedding
    affinity = _library("openTSNE.affinity", "openTSNE")
    nearest = _library("openTSNE.nearest_neighbors", "openTSNE")
    graph = nearest.PrecomputedNeighbors(
        neighbours.index[:, 1:].astype(np.int64), neighbours.distance[:, 1:].astype(np.float64)
    )
    perplexity = min(settings.perplexity, (neighbours.index.shape[1] - 1) / 3)
    affinities = affinity.PerplexityBasedNN(knn_index=graph, perplexity=perplexity, n_jobs=1)
    first = _leading(coordinates)
    if first.shape[1] < 2:
        first = np.concatenate([first, np.zeros_like(first)], axis=1)
    first *= 1e-4 / max(float(np.std(first[:, 0])), 1e-30)
    laid_out = embedding(first, affinities, n_jobs=1, random_state=seed % 2**32)
    laid_out = laid_out.optimize(n_iter=250, exaggeration=12, momentum=0.5)
    laid_out = laid_out.optimize(n_iter=settings.n_epochs or 500, momentum=0.8)
    return np.asarray(laid_out, np.float32)


def _library(module: str, package: str) -> Any:
    """A library that only some layouts need."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "LAYOUT_LIBRARY_MISSING",
            f"This layout needs {package}, which the server does not have; install it (`pip install {package}`), or "
            "choose the engine 'own' and the method 'umap'.",
            metadata={"package": package},
        ) from None


def _refused(name: str, value: object, remedy: str) -> OrtoscopeError:
    return invalid(
        "INVALID_SETTING",
        f"The setting '{name}' is {value}; {remedy}.",
        field=f"settings.layout.{name}",
        setting=f"layout.{name}",
        value=value,
    )
