import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.store import Store


def test_a_second_server_is_refused_and_told_who_holds_the_store(tmp_path: Path) -> None:
    first = Store(tmp_path)
    with pytest.raises(OrtoscopeError) as caught:
        Store(tmp_path)
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "STORE_IN_USE")
    assert str(os.getpid()) in caught.value.message
    assert socket.gethostname() in caught.value.message
    first.close()
    Store(tmp_path).close()


def test_the_lock_of_a_killed_process_does_not_outlive_it(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from ortoscope_service.jobs.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    Store(tmp_path).close()


def test_a_store_that_cannot_be_opened_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "operations.db").write_bytes(b"no database" * 1000)
    for root in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "garbage"):
        for _attempt in range(2):  # the lock is given up
            with pytest.raises(OrtoscopeError) as caught:
                Store(root)
            assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "STORE_UNUSABLE")
            assert str(tmp_path) not in caught.value.message
