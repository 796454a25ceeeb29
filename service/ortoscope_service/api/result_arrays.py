"""The arrays of results, kept for the next page."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ortoscope_service.jobs.artifacts import unpack_arrays
from ortoscope_service.jobs.blobs import BlobStore

_CAPACITY = 4


class ResultArrays:
    """Reads .npz blobs and keeps the last few: a list is paged through, and blobs never change.

    Args:
        blobs: Where they are.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Mapping[str, NDArray[Any]]] = OrderedDict()

    def get(self, digest: str) -> Mapping[str, NDArray[Any]]:
        """The arrays of a blob.

        Raises:
            OrtoscopeError: As `BlobStore.load` raises.
        """
        with self._lock:
            arrays = self._kept.get(digest)
        if arrays is None:
            arrays = unpack_arrays(self._blobs.load(digest))
        with self._lock:
            self._kept[digest] = arrays
            self._kept.move_to_end(digest)
            while len(self._kept) > _CAPACITY:
                self._kept.popitem(last=False)
        return arrays
