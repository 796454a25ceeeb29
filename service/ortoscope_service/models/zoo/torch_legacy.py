"""Reads tensors from torch's legacy checkpoint format without torch, through an unpickler that can build nothing else.

The format (`torch.save(..., _use_new_zipfile_serialization=False)`, the default before torch 1.6) is a file of, one
after the other:

1. a pickle of the magic number 0x1950a86a20f9469cfc6c,
2. a pickle of the protocol version, 1001,
3. a pickle of facts on the writing machine: `{"protocol_version", "little_endian", "type_sizes"}`,
4. a pickle of the object, here `OrderedDict[str, tensor]`. A tensor is a call of `torch._utils._rebuild_tensor_v2`
   with (storage, offset, size, stride, requires_grad, hooks), offset and strides in elements. A storage is a
   persistent id `("storage", type, key, location, element count, view)`, its type a class such as
   `torch.FloatStorage`,
5. a pickle of the list of storage keys,
6. for every key in that order: the element count as 8 bytes, then the elements, raw, both little-endian.

A pickle is a program; this one may name the ordered dictionary, the tensor constructor and the two storage types, and
nothing else. Any other name ends the reading before anything is called.
"""

import collections
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ortoscope_service.errors import OrtoscopeError, invalid

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

_Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class _StorageType:
    """Stands for a class of torch that names an element type; cannot be called."""

    dtype: np.dtype[np.generic]


@dataclass(frozen=True)
class _Storage:
    """A run of elements that follows the pickles."""

    key: str
    dtype: np.dtype[np.generic]
    count: int


@dataclass(frozen=True)
class _TensorView:
    """A tensor before its storage is read: extents and strides in elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def resolve(self, elements: _Array) -> _Array:
        """The tensor as a contiguous array of its own; refuses a view that leaves its storage."""
        last = self.offset + sum((extent - 1) * step for extent, step in zip(self.size, self.stride, strict=True))
        if 0 in self.size:
            return np.empty(self.size, elements.dtype)
        if self.offset < 0 or min(self.stride, default=0) < 0 or last >= len(elements):
            raise _damaged("a tensor reaches beyond its storage")
        strides = tuple(step * elements.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(elements[self.offset :], self.size, strides, writeable=False).copy()


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, _requires_grad: object = False, _hooks: object = None
) -> _TensorView:
    well_typed = (
        isinstance(storage, _Storage)
        and isinstance(offset, int)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
        and len(size) == len(stride)
        and all(isinstance(number, int) and number >= 0 for number in (*size, *stride))
    )
    if not well_typed:
        raise _damaged("a tensor is described by values of the wrong type")
    return _TensorView(storage, offset, size, stride)  # type: ignore[arg-type]


_NAMES: Mapping[tuple[str, str], Callable[..., object] | _StorageType] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): _StorageType(np.dtype("<f4")),
    ("torch", "LongStorage"): _StorageType(np.dtype("<i8")),
}


class _TensorUnpickler(pickle.Unpickler):
    """Builds numbers, strings, tuples, lists, dictionaries and tensor views; refuses every other name."""

    def __init__(self, file: BinaryIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module_name: str, global_name: str, /) -> Callable[..., object] | _StorageType:
        try:
            return _NAMES[module_name, global_name]
        except KeyError:
            raise invalid(
                "CHECKPOINT_UNSAFE",
                f"The checkpoint names '{module_name}.{global_name}', which is no part of a state dictionary; it was "
                "not read any further. Do not trust its source.",
                name=f"{module_name}.{global_name}",
            ) from None

    def persistent_load(self, pid: object, /) -> _Storage:
        match pid:
            case ("storage", _StorageType(dtype), str(key), _, int(count), None) if count >= 0:
                return self._storages.setdefault(key, _Storage(key, dtype, count))
        raise _damaged("a storage is described by values of the wrong type")


def read_state_dict(path: Path) -> dict[str, _Array]:
    """Reads a state dictionary in torch's legacy format.

    Args:
        path: The checkpoint.

    Returns:
        Every tensor by its name: contiguous arrays, float32 or int64.

    Raises:
        OrtoscopeError: `CHECKPOINT_UNSAFE` if the pickle names anything that no state dictionary needs;
            `CHECKPOINT_UNREADABLE` if the file is truncated, damaged or in another format.
    """
    storages: dict[str, _Storage] = {}
    with path.open("rb") as file:
        try:
            magic, version, machine, state, keys = (_TensorUnpickler(file, storages).load() for _ in range(5))
        except OrtoscopeError:
            raise
        except Exception as error:
            raise _damaged("it does not begin with the five pickles of torch's legacy format") from error
        if (magic, version) != (MAGIC_NUMBER, PROTOCOL_VERSION):
            raise _damaged("its magic number is not that of torch's legacy format")
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise _damaged("it was not written on a little-endian machine")
        if not isinstance(keys, list) or set(keys) != set(storages):
            raise _damaged("its list of storages does not match its tensors")
        elements = {key: _read_storage(file, storages[key]) for key in keys}
    if not isinstance(state, dict):
        raise _damaged("it does not hold a dictionary")
    tensors = {}
    for name, view in state.items():
        if not isinstance(name, str) or not isinstance(view, _TensorView):
            raise _damaged("its dictionary does not map names to tensors")
        tensors[name] = view.resolve(elements[view.storage.key])
    return tensors


def _read_storage(file: BinaryIO, storage: _Storage) -> _Array:
    header = file.read(8)
    if len(header) < 8 or struct.unpack("<q", header) != (storage.count,):
        raise _damaged("a storage does not have the size that its tensor states")
    size = storage.count * storage.dtype.itemsize
    if size > os.fstat(file.fileno()).st_size - file.tell():
        raise _damaged("it ends in the middle of a storage")
    return np.frombuffer(file.read(size), storage.dtype)


def _damaged(what: str) -> OrtoscopeError:
    return invalid("CHECKPOINT_UNREADABLE", f"The checkpoint cannot be read: {what}. Install the package again.")
