"""Our side: builds the backward graphs, and answers `compare.py`; runs in the environment of this repository."""

import argparse
from pathlib import Path
from typing import Any

import numpy.typing as npt
import protocol
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.runtime.sessions import Session, SessionConfig

Array = npt.NDArray[Any]


def build(name: str, folder: Path) -> None:
    """Writes the forward model and the backward graph of a model that was exported."""
    model = load_model(folder / f"{name}.onnx")
    (folder / f"{name}.forward.onnx").write_bytes(serialize(trunk(model, ["logits"])))
    (folder / f"{name}.backward.onnx").write_bytes(serialize(build_backward(model, "logits")))


class Side:
    """The sessions of a model, each made when it is first needed.

    Args:
        name: The model's.
        folder: Where `build` wrote it.
        batch: Images in a batch.
        threads: Threads of a session.
    """

    def __init__(self, name: str, folder: Path, batch: int, threads: int) -> None:
        self._paths = {kind: folder / f"{name}.{kind}.onnx" for kind in ("forward", "backward")}
        self._config = SessionConfig(intra_op_threads=threads)
        self._sessions: dict[str, Session] = {}
        self._image, self._cotangent = protocol.example(batch)

    def prepare(self) -> None:
        """Makes the session of the backward graph."""
        self._session("backward")

    def forward(self) -> Array:
        """The logits alone."""
        return self._session("forward").run({"image": self._image}, keep_memory=True)["logits"]

    def backward(self) -> tuple[Array, Array]:
        """The logits, and the gradient of sum(logits * cotangent) at the image."""
        feeds = {"image": self._image, "cotangent": self._cotangent}
        results = self._session("backward").run(feeds, keep_memory=True)
        return results["activation"], results["gradient.image"]

    def _session(self, kind: str) -> Session:
        if kind not in self._sessions:
            self._sessions[kind] = Session(self._paths[kind].read_bytes(), self._config)
        return self._sessions[kind]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--build", action="store_true", help="write the graphs and end")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.build:
        build(arguments.name, arguments.folder)
        return
    protocol.serve(Side(arguments.name, arguments.folder, arguments.batch, arguments.threads))


if __name__ == "__main__":
    main()
