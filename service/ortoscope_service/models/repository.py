"""The model repository: immutable versions on disk, found by listing, checked by digest, added by one rename.

Layout: `<root>/<model>/<version>/{model.onnx, manifest.toml, backward/<tap>.onnx}`. A version is a positive integer
without leading zeros, a tap's name is percent-encoded. A version is written into a folder whose name starts with a dot,
flushed to the disk, and renamed: a reader, in this or another process, sees all of it or nothing.

Names that come from outside are compared with those in the listing and never become part of a path. Links that lead
out of the repository are not followed.
"""

import contextlib
import dataclasses
import difflib
import errno
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from ortoscope_service.errors import Code, OrtoscopeError, invalid, not_found
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.models.manifest import BackwardGraph, InputSpec, Manifest, dump_manifest, read_manifest

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.toml"
BACKWARD_FOLDER = "backward"

_MODEL_ID = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_INCOMING = ".incoming-"
_ABANDONED_SECONDS = 24 * 3600
_LONGEST_FILE_NAME = 255
"""Bytes, on the file systems in use."""


def is_model_id(text: str) -> bool:
    """Whether a text can be the id of a model: 1 to 63 of a-z 0-9 . _ -, beginning and ending with a-z 0-9."""
    return _MODEL_ID.fullmatch(text) is not None


def model_id_of(file_name: str) -> str:
    """The id of a model that is named after its file; raises `INVALID_MODEL_NAME` if nothing of the name can stay."""
    stem = file_name.removesuffix(".onnx").lower()
    candidate = re.sub(r"[^a-z0-9._]+", "-", stem)[:63].strip("._-")
    if not candidate:
        raise invalid(
            "INVALID_MODEL_NAME", f"No model name can be made of the file name '{file_name}'; give one with --name."
        )
    return candidate


def digest_of(content: bytes) -> str:
    """The SHA-256 digest of the content, "sha256:" and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def backward_file_name(tap: str) -> str:
    """The file that holds the backward graph of a tap: its percent-encoding, or its digest where that is too long."""
    name = f"{urllib.parse.quote(tap, safe='')}.onnx"
    return name if len(name) <= _LONGEST_FILE_NAME else f"{hashlib.sha256(tap.encode()).hexdigest()}.onnx"


class ModelVersion:
    """A version of a model. Made by `ModelRepository`; may be used from several threads.

    Attributes:
        model: Id of the model.
        version: Number of the version.
        manifest: What is known of it.
    """

    def __init__(self, model: str, version: int, manifest: Manifest, file: Path, loaded: "_LoadedModels") -> None:
        self.model = model
        self.version = version
        self.manifest = manifest
        self._file = file
        self._loaded = loaded

    def load(self) -> ir.Model:
        """The model. The same object for all callers: it must not be changed.

        Raises:
            OrtoscopeError: As `model_bytes` and `load_model` raise.
        """
        return self._loaded.get(self)

    def model_bytes(self) -> bytes:
        """The ONNX file.

        Raises:
            OrtoscopeError: `MODEL_CORRUPT` (DATA_LOSS) if it is not what the manifest says.
        """
        return self._read(self._file, self.manifest.digest, "The ONNX file")

    def backward_bytes(self, tap: str, relaxations: Sequence[str] = ()) -> bytes | None:
        """The backward graph of a tap that is part of this version, as an ONNX file; None if none is.

        Its inputs are those of the model that the tap is computed from, and `cotangent`; its outputs are `activation`
        and `gradient.<input>` for every float input among them. It was checked against finite differences when the
        version was prepared: `manifest.backward` has the figures.

        Args:
            tap: The tensor.
            relaxations: Names of the departures from the true gradient that it must have.

        Raises:
            OrtoscopeError: `MODEL_CORRUPT` (DATA_LOSS) if it is not what the manifest says.
        """
        graph = self.find_backward(tap, relaxations)
        if graph is None:
            return None
        file = self._file.parent / BACKWARD_FOLDER / backward_file_name(tap)
        return self._read(file, graph.digest, f"The backward graph of tap '{tap}'")

    def find_backward(self, tap: str, relaxations: Sequence[str] = ()) -> BackwardGraph | None:
        """What the manifest says of the backward graph of a tap; None if this version has none.

        Args:
            tap: The tensor.
            relaxations: Names of the departures from the true gradient that it must have.
        """
        wanted = set(relaxations)
        return next((g for g in self.manifest.backward if g.tap == tap and set(g.relaxations) == wanted), None)

    def trunk_bytes(self, tensors: tuple[str, ...]) -> bytes:
        """The part of the model that computes `tensors`, as an ONNX file with exactly these outputs, in this order.

        Raises:
            OrtoscopeError: As `load` and `ortoscope_service.graph.slicing.trunk` raise.
        """
        return serialize(trunk(self.load(), tensors))

    @property
    def image_input(self) -> InputSpec:
        """The input that takes a picture.

        Raises:
            OrtoscopeError: `MODEL_INPUT_NOT_IMAGE` (FAILED_PRECONDITION) unless the model's only input is an image.
        """
        inputs = self.manifest.inputs
        if len(inputs) == 1 and inputs[0].kind == "image":
            return inputs[0]
        described = ", ".join(f"'{spec.name}' ({spec.kind}, {spec.data_type})" for spec in inputs)
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "MODEL_INPUT_NOT_IMAGE",
            f"Model '{self.model}/{self.version}' cannot be run on pictures alone; its inputs are: {described}. "
            "Give its tensors instead.",
            metadata={"model": self.model, "version": str(self.version), "inputs": described},
        )

    def _read(self, file: Path, digest: str, what: str) -> bytes:
        """A file of this version, if it has the digest that the manifest states."""
        try:
            content = file.read_bytes() if _inside(file, self._file.parents[2]) else None
        except OSError as error:
            raise self._corrupt(what, "cannot be read") from error
        if content is None:
            raise self._corrupt(what, "is not there")
        if digest_of(content) != digest:
            raise self._corrupt(what, "is not the one that was prepared: its digest differs from the manifest's")
        return content

    def _corrupt(self, what: str, how: str) -> OrtoscopeError:
        return OrtoscopeError(
            Code.DATA_LOSS,
            "MODEL_CORRUPT",
            f"{what} of model '{self.model}/{self.version}' {how}. Remove the version and prepare it again.",
            metadata={"model": self.model, "version": str(self.version)},
        )


class _LoadedModels:
    """The models used last, ready in memory; each is loaded by one thread while the others that want it wait."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._models: OrderedDict[str, ir.Model] = OrderedDict()
        self._loading: dict[str, threading.Lock] = {}

    def get(self, version: ModelVersion) -> ir.Model:
        key = version.manifest.digest
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                if key in self._models:
                    self._models.move_to_end(key)
                    return self._models[key]
            model = load_model(version.model_bytes())
            with self._lock:
                self._models[key] = model
                while len(self._models) > self._capacity:
                    self._models.popitem(last=False)
            return model


class ModelRepository:
    """All versions of all models below a folder. What other processes add is seen at once.

    Args:
        root: The folder. It need not exist before the first version is added.
        loaded_models: How many models are kept ready in memory.
    """

    def __init__(self, root: Path, *, loaded_models: int = 4) -> None:
        self._root = root.resolve()
        self._loaded = _LoadedModels(loaded_models)
        self._lock = threading.Lock()
        self._versions: dict[tuple[str, int], tuple[tuple[int, ...], ModelVersion]] = {}

    def names(self) -> list[str]:
        """The ids of all models that have a version, sorted."""
        return sorted(name for name, folder in self._model_folders() if any(_version_folders(folder, self._root)))

    def versions(self, model: str) -> list[int]:
        """The versions of a model, newest first.

        Raises:
            OrtoscopeError: `UNKNOWN_MODEL`.
        """
        return sorted((number for number, _ in self._folders_of(model)), reverse=True)

    def get(self, model: str, version: int | None = None) -> ModelVersion:
        """Looks up a version; the newest if `version` is None. Unchanged versions are the same object every time.

        Raises:
            OrtoscopeError: `UNKNOWN_MODEL`, `UNKNOWN_VERSION`; as `read_manifest` raises.
        """
        folders = dict(self._folders_of(model))
        number = max(folders) if version is None else version
        try:
            manifest_file = folders[number] / MANIFEST_FILE
            status = manifest_file.stat()
        except (KeyError, FileNotFoundError) as error:
            known = ", ".join(str(known) for known in sorted(folders, reverse=True)[:10])
            raise not_found(
                "UNKNOWN_VERSION",
                f"Model '{model}' has no version {number}; its newest versions: {known}.",
                model=model,
                version=number,
                known=known,
            ) from error
        signature = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            cached = self._versions.get((model, number))
            if cached is not None and cached[0] == signature:
                return cached[1]
        found = ModelVersion(model, number, read_manifest(manifest_file), folders[number] / MODEL_FILE, self._loaded)
        with self._lock:
            current = self._versions.setdefault((model, number), (signature, found))
            if current[0] != signature:
                current = self._versions[model, number] = (signature, found)
        return current[1]

    def add(
        self, model: str, model_bytes: bytes, manifest: Manifest, backward: Mapping[str, bytes] | None = None
    ) -> ModelVersion:
        """Adds a version, one above the highest that there is.

        Adding what is there already (the same bytes and the same manifest but for its time) adds nothing.

        Args:
            model: Id of the model, which may be new.
            model_bytes: The ONNX file, self-contained.
            manifest: What is known of it.
            backward: The backward graphs that the manifest states, by tap.

        Returns:
            The new version, or the one that is there already.

        Raises:
            OrtoscopeError: `INVALID_MODEL_NAME`, `DIGEST_MISMATCH`, `MODEL_OUTSIDE_REPOSITORY`; `DISK_FULL`
                (RESOURCE_EXHAUSTED), `REPOSITORY_NOT_WRITABLE` (FAILED_PRECONDITION).
        """
        if not is_model_id(model):
            raise invalid(
                "INVALID_MODEL_NAME",
                f"'{model}' cannot be the name of a model; use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning and "
                "ending with a letter or digit.",
                name=model,
            )
        if (digest_of(model_bytes), len(model_bytes)) != (manifest.digest, manifest.size_bytes):
            raise invalid("DIGEST_MISMATCH", "The manifest states the digest or size of another ONNX file.")
        graphs = {tap: (digest_of(content), len(content)) for tap, content in (backward or {}).items()}
        if graphs != {graph.tap: (graph.digest, graph.size_bytes) for graph in manifest.backward}:
            raise invalid("DIGEST_MISMATCH", "The manifest states digests or sizes of other backward graphs.")
        existing = self._same(model, manifest)
        if existing is not None:
            return existing
        with _writing():
            self._root.mkdir(parents=True, exist_ok=True)
            self._sweep()
            home = self._home_of(model)
            incoming = self._root / f"{_INCOMING}{secrets.token_hex(8)}"
            incoming.mkdir()
            try:
                _write_file(incoming / MODEL_FILE, model_bytes)
                _write_file(incoming / MANIFEST_FILE, dump_manifest(manifest))
                if backward:
                    _write_backward(incoming / BACKWARD_FOLDER, backward)
                _flush_folder(incoming)
                number = _publish(incoming, home)
            except BaseException:
                shutil.rmtree(incoming, ignore_errors=True)
                raise
        return self.get(model, number)

    def _same(self, model: str, manifest: Manifest) -> ModelVersion | None:
        """The newest version with this content and this manifest, whenever it was prepared."""
        try:
            numbers = self.versions(model)
        except OrtoscopeError:
            return None
        for number in numbers:
            try:
                version = self.get(model, number)
            except OrtoscopeError:
                continue
            if dataclasses.replace(version.manifest, create_time=manifest.create_time) == manifest:
                return version
        return None

    def _home_of(self, model: str) -> Path:
        """The model's folder, made if it is not there; `model` is a valid id."""
        for name, folder in self._model_folders():
            if name == model:
                return folder
        home = self._root / model
        try:
            home.mkdir()
        except FileExistsError:  # made by another process meanwhile, or no folder of this repository
            if not _inside(home, self._root) or not home.is_dir():
                raise OrtoscopeError(
                    Code.FAILED_PRECONDITION,
                    "MODEL_OUTSIDE_REPOSITORY",
                    f"What the repository holds under the name '{model}' is no folder of its own; remove it, or give "
                    "another name.",
                    metadata={"name": model},
                ) from None
        return home

    def _sweep(self) -> None:
        """Removes what processes that were killed have left unfinished a day ago or earlier."""
        for entry in os.scandir(self._root):
            if entry.name.startswith(_INCOMING) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_SECONDS:
                        shutil.rmtree(entry.path, ignore_errors=True)

    def _folders_of(self, model: str) -> list[tuple[int, Path]]:
        for name, folder in self._model_folders():
            if name == model:
                found = list(_version_folders(folder, self._root))
                if found:
                    return found
        names = self.names()
        close = difflib.get_close_matches(model, names, n=3, cutoff=0.5) or names[:10]
        known = ", ".join(f"'{name}'" for name in close)
        there_is = f"there is {known}" if known else "there are none; add one with `ortoscope-server prepare`"
        raise not_found("UNKNOWN_MODEL", f"There is no model '{model}'; {there_is}.", model=model, known=known)

    def _model_folders(self) -> Iterator[tuple[str, Path]]:
        for entry in _entries(self._root):
            if is_model_id(entry.name) and _inside(Path(entry.path), self._root) and entry.is_dir():
                yield entry.name, Path(entry.path)


def _version_folders(home: Path, root: Path) -> Iterator[tuple[int, Path]]:
    for entry in _entries(home):
        if _VERSION.fullmatch(entry.name) is None:
            continue
        files = [Path(entry.path) / name for name in (MODEL_FILE, MANIFEST_FILE)]
        if all(_inside(file, root) and file.is_file() for file in files):
            yield int(entry.name), Path(entry.path)


def _entries(folder: Path) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _inside(path: Path, root: Path) -> bool:
    """Whether a path, all links followed, is below the repository's folder."""
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # gone, or a loop of links
        return False


def _publish(incoming: Path, home: Path) -> int:
    """Renames a finished folder to the next free version of the model."""
    taken = [int(entry.name) for entry in _entries(home) if _VERSION.fullmatch(entry.name)]
    number = max(taken, default=0) + 1
    while True:
        try:
            incoming.rename(home / str(number))
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                raise
            number += 1  # another process was faster
        else:
            _flush_folder(home)
            _flush_folder(home.parent)
            return number


def _write_backward(folder: Path, backward: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for tap, content in backward.items():
        _write_file(folder / backward_file_name(tap), content)
    _flush_folder(folder)


def _write_file(path: Path, content: bytes) -> None:
    """Writes a file that nobody changes any more, and waits until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Turns the system's refusals to write into typed errors."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise OrtoscopeError(
                Code.RESOURCE_EXHAUSTED,
                "DISK_FULL",
                "The disk of the model repository is full; nothing was added. Make room and try again.",
            ) from error
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "REPOSITORY_NOT_WRITABLE",
            f"The model repository cannot be written ({os.strerror(error.errno or 0)}); check the folder and its "
            "permissions.",
            metadata={"errno": errno.errorcode.get(error.errno or 0, "")},
        ) from error
