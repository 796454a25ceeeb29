"""What atlas jobs read of published atlases."""

from pathlib import Path

import numpy as np
import pytest
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.jobs.artifacts import pack_arrays
from ortoscope_service.jobs.atlas_inputs import published_arrays
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.tasks import Environment, TaskContext
from ortoscope_service.runtime.cancellation import Cancellation


def _context(folder: Path) -> TaskContext:
    environment = Environment(str(folder / "store"), str(folder), None, {})
    request = {"operation": "0" * 32, "spec": {}, "task": {"arguments": {}, "inputs": {}}}
    return TaskContext(request, environment, Cancellation(), lambda: None)


def test_arrays_are_those_of_the_blob(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = store.blobs.put_bytes(pack_arrays({"count": np.arange(3)}))
    np.testing.assert_array_equal(published_arrays(_context(tmp_path), digest)["count"], np.arange(3))
    store.close()


@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_blob_that_is_lost_is_told_as_that(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path / "store")
    digest = store.blobs.put_bytes(pack_arrays({"count": np.arange(3)}))
    (file,) = (path for path in (tmp_path / "store" / "blobs").rglob(f"*{digest[2:]}*") if path.is_file())
    if how == "deleted":
        file.unlink()
    else:
        file.chmod(0o600)
        file.write_bytes(b"other")
    with pytest.raises(OrtoscopeError) as caught:
        published_arrays(_context(tmp_path), digest)
    assert caught.value.reason == "ATLAS_LOST"
    store.close()
