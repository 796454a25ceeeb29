"""Runs a tap over the images of a dataset, batch after batch, decoding the next batch while the model runs."""

import contextlib
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.activations import run_taps, units_first
from ortoscope_service.analysis.reading import READER, Series
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import preprocess
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.caching import Cache, Made
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.parity import CPU, open_session
from ortoscope_service.runtime.sessions import RunnableSession, Session, SessionConfig

Progress = Callable[[str, int, int], None]
"""Called with the stage in words, the items done and the items in all."""

_SESSION_BYTES = 512 * 1024**2
"""Size of the graphs whose sessions are kept in this process; the last one is, however large."""

_SESSIONS: Cache[Session] = Cache(_SESSION_BYTES)
"""Sessions by what they compute: a worker does one shard after another of the same job, or of a few in turn."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How a model is run over many images; part of what decides the last bits of a result."""

    batch_size: int = 16
    """Images per run: enough to keep the processor busy, few enough for wide layers to stay in its cache."""

    session: SessionConfig = field(default_factory=SessionConfig)
    """Threads, execution provider and optimisation level."""

    read_ahead: bool = True
    """Whether what the next batch needs is read and decoded beside the model, in a thread of its own. It decides no
    number; where other processes keep every core busy already, it only takes turns with them."""

    def by(self, *sessions: RunnableSession) -> "ExecutionConfig":
        """The same with the execution providers that sessions run on: not always the one that was asked for."""
        providers = dict.fromkeys(session.config.providers[0] for session in sessions)
        return replace(self, session=replace(self.session, providers=tuple(providers) or self.session.providers))


@dataclass
class Timings:
    """Seconds spent on each part of a pass over a dataset."""

    decode: float = 0.0
    """Reading, decoding and preprocessing images (in a thread of its own, beside the model), and reading labels."""

    forward: float = 0.0
    """Running the trunk."""

    own: float = 0.0
    """What the analysis itself adds."""


@dataclass(frozen=True)
class ActivationBatch:
    """The maps of a tap on consecutive images."""

    start: int
    """Position of the first image in the order of the pass."""

    indices: NDArray[np.int64]
    """(images,) int64: the images' indices in the dataset."""

    maps: NDArray[np.float32]
    """(images, units, sites) float32, C-contiguous."""

    site_shape: tuple[int, ...]
    """Extent of each site axis."""


@dataclass(frozen=True)
class TapBatch:
    """What a tap holds on consecutive images, as the model computed it."""

    start: int
    """Position of the first image in the order of the pass."""

    indices: NDArray[np.int64]
    """(images,) int64: the images' indices in the dataset."""

    activation: NDArray[Any]
    """The tap's value, images first, in the tap's own layout and type."""

    feeds: Mapping[str, NDArray[Any]]
    """What the model was given."""


def tap_session(version: ModelVersion, tap: Tap, execution: ExecutionConfig) -> Session:
    """A session of the part of the model that computes `tap`."""
    return kept_session((version.manifest.digest, tap.tensor), lambda: version.trunk_bytes((tap.tensor,)), execution)


def kept_session(what: Hashable, graph: Callable[[], bytes], execution: ExecutionConfig) -> Session:
    """A session that is kept for the next shard of the same job, as far as there is room.

    Args:
        what: What distinguishes its graph from others, the model's digest among it.
        graph: Makes the ONNX file.
        execution: How it is run.
    """

    def make() -> Made[Session]:
        content = graph()
        return Made(open_session(content, execution.session), len(content))

    return _SESSIONS.get((what, execution.session), make)


def release_sessions() -> None:
    """Forgets the sessions that are kept, and with them their working memory: for a worker that has nothing to do."""
    _SESSIONS.clear()
    READER.forget()


def admitted(version: ModelVersion, tap: Tap, execution: ExecutionConfig) -> ExecutionConfig:
    """How the part of the model that computes `tap` is run: by the provider asked for if it passes the parity gate."""
    if execution.session.providers[0] == CPU:
        return execution
    return execution.by(tap_session(version, tap, execution))


def stream_maps(
    version: ModelVersion,
    tap: Tap,
    dataset: Dataset,
    indices: NDArray[np.int64],
    execution: ExecutionConfig,
    cancellation: Cancellation,
    timings: Timings | None = None,
    *,
    whole_images: bool = False,
    series: Series | None = None,
) -> Iterator[ActivationBatch]:
    """Yields the maps of `tap` on the images `indices` of the dataset, in that order.

    Args:
        version: The model.
        tap: Where to look.
        dataset: The images.
        indices: Which of them, (images,) int64.
        execution: How the model is run.
        cancellation: Stops the pass.
        timings: Receives where the time went.
        whole_images: Refuse images of which the model would see a part only, because maps are compared with labels of
            the whole.
        series: What this process will likely be asked for next.

    Raises:
        OrtoscopeError: MODEL_INPUT_NOT_IMAGE; IMAGE_CROPPED; an image that cannot be read (names it); CANCELLED.
    """
    batches = stream_tap(
        version,
        tap,
        dataset,
        indices,
        execution,
        cancellation,
        timings,
        whole_images=whole_images,
        series=series,
    )
    with contextlib.closing(batches):
        for batch in batches:
            maps = units_first(batch.activation, tap)
            flat = np.ascontiguousarray(maps.reshape(*maps.shape[:2], -1), dtype=np.float32)
            yield ActivationBatch(batch.start, batch.indices, flat, maps.shape[2:])


def stream_tap(
    version: ModelVersion,
    tap: Tap,
    dataset: Dataset,
    indices: NDArray[np.int64],
    execution: ExecutionConfig,
    cancellation: Cancellation,
    timings: Timings | None = None,
    *,
    whole_images: bool = False,
    series: Series | None = None,
) -> Generator[TapBatch]:
    """Yields what `tap` holds on the images `indices` of the dataset, in that order; as `stream_maps` does."""
    specification = version.image_input
    preprocessing = specification.preprocessing
    assert preprocessing is not None  # image_input raises otherwise
    timings = timings or Timings()

    def load(batch: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        began = time.perf_counter()
        images = [dataset.read_image(int(index)) for index in batch]
        if whole_images and preprocessing.size_policy == "crop":
            for index, image in zip(batch, images, strict=True):
                if image.size != (preprocessing.width, preprocessing.height):
                    raise _cropped(dataset.path(int(index)), image.size, preprocessing)
        pixels = [preprocess(image, preprocessing) for image in images]
        timings.decode += time.perf_counter() - began
        return pixels

    session = tap_session(version, tap, execution)
    reading = READER.read(
        ("pixels", version.manifest.digest, dataset, whole_images),
        indices,
        execution.batch_size,
        load,
        ahead=execution.read_ahead,
        series=series,
    )
    with contextlib.closing(reading):
        for number, (batch, pixels) in enumerate(reading):
            cancellation.raise_if_cancelled()
            began = time.perf_counter()
            feeds = {specification.name: np.stack(pixels)}
            activation = run_taps(
                session,
                feeds,
                version.manifest.fixed_batch,
                cancellation,
                keep_memory=True,
            )[tap.tensor]
            timings.forward += time.perf_counter() - began
            yield TapBatch(number * execution.batch_size, batch, activation, feeds)


def _cropped(path: str, size: tuple[int, int], preprocessing: Preprocessing) -> OrtoscopeError:
    """The error for a labelled image of which the model would see the centre only."""
    wanted = f"{preprocessing.width} x {preprocessing.height}"
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "IMAGE_CROPPED",
        f"Image '{path}' is {size[0]} x {size[1]}; the model's size policy would cut out its centre, but labels cover "
        f"the whole. Prepare the model with the size policy squash, or give images of {wanted}.",
        metadata={"image": path, "size": f"{size[0]} x {size[1]}", "wanted": wanted},
    )


def not_finite(dataset: Dataset, index: int, unit: int, tap: Tap) -> OrtoscopeError:
    """The error for an activation that is infinite or not a number."""
    path = dataset.path(index)
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "ACTIVATION_NOT_FINITE",
        f"Unit {unit} of tap '{tap.display_name}' is infinite or not a number on image '{path}'. "
        "Look at the model's input range, or leave the image out.",
        metadata={"unit": str(unit), "tap": tap.tensor, "image": path},
    )
