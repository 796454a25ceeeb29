"""What a backward graph costs beside the forward pass: `python benchmarks/backward_overhead.py [MODEL ...]`.

Subjects: the architectures that the onnx package ships, with random weights, and the zoo's EfficientNet-Lite0. For each
the ratio of (forward and backward in one run of the backward graph) to (forward to the same tap, the logits), both in
sessions of the same options in the same process, in alternation; the figures are medians over the runs.

With `--profile` ONNX Runtime's own profiles of both are written as well, and where they say the time goes is printed.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.batch import make_batch_symbolic
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.models import zoo
from ortoscope_service.runtime import sessions
from ortoscope_service.runtime.sessions import Session, SessionConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from tiny_models import light_model

Feeds = dict[str, npt.NDArray[Any]]


def _light(name: str) -> Callable[[], bytes]:
    return lambda: light_model(name).SerializeToString()


MODELS: dict[str, Callable[[], bytes]] = {
    "alexnet": _light("bvlc_alexnet"),
    "vgg19": _light("vgg19"),
    "inception_v1": _light("inception_v1"),
    "resnet50": _light("resnet50"),
    "squeezenet": _light("squeezenet"),
    "shufflenet": _light("shufflenet"),
    "densenet121": _light("densenet121"),
    "efficientnet_lite0": lambda: zoo.build("efficientnet-lite0").model,
}

NOTHING_BUT_FORM = frozenset({"Identity", "Flatten", "Reshape", "Softmax", "Squeeze"})
"""Operators after which, or at which, the logits are looked for from the end of a model backwards."""


@dataclass(frozen=True)
class Subject:
    """A model, ready to be timed."""

    tap: str
    """The logits."""

    forward: bytes
    """The model up to the tap."""

    backward: bytes
    """Its backward graph."""

    build_seconds: float
    """What building the backward graph took."""

    feeds: Feeds
    """An input of normal values, and a cotangent."""

    @property
    def forward_feeds(self) -> Feeds:
        """The feeds of the forward model."""
        return {name: value for name, value in self.feeds.items() if name != "cotangent"}


def logits(model: ir.Model) -> str:
    """The tensor before the final Softmax; the output where there is none."""
    value = output = model.graph.outputs[0]
    while (node := value.producer()) is not None and node.op_type in NOTHING_BUT_FORM:
        source = node.inputs[0]
        assert source is not None
        if node.op_type == "Softmax":
            return source.name or ""
        value = source
    return output.name or ""


def subject(name: str, batch: int) -> Subject:
    """Builds a model and its backward graph.

    Raises:
        OrtoscopeError: There is no gradient for one of its operators.
    """
    model = make_batch_symbolic(load_model(MODELS[name]())).model
    tap = logits(model)
    began = time.perf_counter()
    backward = build_backward(model, tap)
    build_seconds = time.perf_counter() - began
    rng = np.random.default_rng(0)
    feeds: Feeds = {}
    for value in backward.graph.inputs:
        assert value.shape is not None
        shape = [size if isinstance(size, int) else batch for size in value.shape]
        feeds[value.name or ""] = rng.standard_normal(shape, dtype=np.float32)
    return Subject(tap, serialize(trunk(model, [tap])), serialize(backward), build_seconds, feeds)


def seconds(session: Session, feeds: Feeds) -> float:
    """Of one run."""
    began = time.perf_counter()
    session.run(feeds, keep_memory=True)
    return time.perf_counter() - began


def measure(given: Subject, config: SessionConfig, rounds: int) -> tuple[float, float]:
    """Median seconds of the forward model and of the backward graph."""
    forward, backward = Session(given.forward, config), Session(given.backward, config)
    for _ in range(2):
        seconds(forward, given.forward_feeds)
        seconds(backward, given.feeds)
    times = [(seconds(forward, given.forward_feeds), seconds(backward, given.feeds)) for _ in range(rounds)]
    return statistics.median(f for f, _ in times), statistics.median(b for _, b in times)


@dataclass(frozen=True)
class NodeTime:
    """What a node took, as ONNX Runtime says."""

    name: str
    operator: str
    milliseconds: float
    """The median over the runs."""

    shapes: str
    """Of its inputs and outputs."""


def profile(model: bytes, feeds: Feeds, config: SessionConfig, rounds: int, path: Path) -> list[NodeTime]:
    """Runs a model under ONNX Runtime's profiler, which writes its file at `path`, and reads that."""
    # The very options that are timed, which a Session keeps to itself.
    options = sessions._session_options(sessions._resolve(config))
    options.enable_profiling = True
    options.profile_file_prefix = str(path)
    session = onnxruntime.InferenceSession(model, options, providers=list(config.providers))
    for _ in range(rounds + 1):
        session.run(None, feeds)
    written = Path(session.end_profiling()).replace(path)
    events = json.loads(written.read_text())
    times: dict[str, list[float]] = defaultdict(list)
    described: dict[str, tuple[str, str]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times[name].append(event["dur"] / 1000)
            arguments = event["args"]
            shapes = " → ".join(_shapes(arguments.get(f"{side}_type_shape", [])) for side in ("input", "output"))
            described[name] = (arguments["op_name"], shapes)
    # The first run of all fetches memory.
    return [NodeTime(name, *_place(described[name], times[name][1:])) for name in times]


def _place(described: tuple[str, str], times: list[float]) -> tuple[str, float, str]:
    operator, shapes = described
    return operator, statistics.median(times) if times else math.nan, shapes


def _shapes(values: list[dict[str, list[int]]]) -> str:
    return " ".join("x".join(map(str, shape)) or "scalar" for value in values for shape in value.values())


def breakdown(forward: list[NodeTime], backward: list[NodeTime], top: int) -> Iterator[str]:
    """Lines: the time of each operator in both, and the slowest nodes of the backward graph."""
    kinds = {node.operator for node in (*forward, *backward)}
    rows = []
    for kind in kinds:
        own = [[node.milliseconds for node in nodes if node.operator == kind] for nodes in (forward, backward)]
        rows.append((sum(own[1]), sum(own[0]), kind, len(own[0]), len(own[1])))
    whole = sum(row[0] for row in rows)
    yield f"    {'operator':<22}{'forward':>16}{'backward graph':>22}{'share':>8}"
    for later, before, kind, few, many in sorted(rows, reverse=True):
        yield f"    {kind:<22}{before:>9.2f} ms x{few:<4}{later:>13.2f} ms x{many:<4}{later / whole:>7.1%}"
    yield f"    {'sum of kernels':<22}{sum(row[1] for row in rows):>9.2f} ms{whole:>18.2f} ms"
    yield "    slowest nodes of the backward graph:"
    for node in sorted(backward, key=lambda node: -node.milliseconds)[:top]:
        yield f"    {node.milliseconds:>8.2f} ms  {node.operator:<20} {node.name}  {node.shapes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"some of: {', '.join(MODELS)}; by default all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0, help="of a session; 0 = all that are available")
    parser.add_argument(
        "--profile", nargs="?", const=".cache/profiles", metavar="FOLDER", help="where to write profiles"
    )
    parser.add_argument("--top", type=int, default=15, help="how many of the slowest nodes are printed of a profile")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - set(MODELS))
    if unknown:
        parser.error(f"there is no model {unknown[0]!r}; choose from {', '.join(MODELS)}")
    config = SessionConfig(intra_op_threads=arguments.threads)
    print(f"batch {arguments.batch}, medians of {arguments.rounds} runs, ONNX Runtime {sessions.onnxruntime_version()}")
    print("| model | tap | forward | forward + backward | ratio | built in |")
    print("|---|---|---|---|---|---|")
    ratios = []
    for name in arguments.models or MODELS:
        try:
            given = subject(name, arguments.batch)
        except OrtoscopeError as error:
            print(f"| {name} | no gradient: {error.metadata.get('operator', error.message)} | | | | |", flush=True)
            continue
        forward, backward = measure(given, config, arguments.rounds)
        ratios.append(backward / forward)
        print(
            f"| {name} | {given.tap} | {forward * 1e3:.1f} ms | {backward * 1e3:.1f} ms "
            f"| **{ratios[-1]:.2f} x** | {given.build_seconds:.1f} s |",
            flush=True,
        )
        if arguments.profile:
            folder = Path(arguments.profile)
            folder.mkdir(parents=True, exist_ok=True)
            before, after = (
                profile(model, feeds, config, arguments.rounds, folder / f"{name}.{kind}.json")
                for kind, model, feeds in (
                    ("forward", given.forward, given.forward_feeds),
                    ("backward", given.backward, given.feeds),
                )
            )
            print("\n".join(breakdown(before, after, arguments.top)), flush=True)
    if ratios:
        print(f"geometric mean {statistics.geometric_mean(ratios):.2f} x, largest {max(ratios):.2f} x")


if __name__ == "__main__":
    main()
