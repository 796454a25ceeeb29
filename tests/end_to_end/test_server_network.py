"""The server needs no network and sends nothing: ONNX Runtime's telemetry is off, in continuous integration or not."""

import ipaddress
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ortoscope.v1.activations_pb2 import ActivateRequest, ActivationInput, TapSelection
from ortoscope_service.models.repository import ModelRepository
from pictures import encode, photo
from server_process import server_process
from serving import PREPROCESSING, add_model, write_datasets
from tiny_models import tiny_cnn

ROOT = Path(__file__).resolve().parents[2]
REQUEST = ActivateRequest(
    model="models/cnn", taps=[TapSelection(tap="flat")], inputs=[ActivationInput(image=encode(photo(), "PNG"))]
)


def bare_environment() -> dict[str, str]:
    """The environment of a user: neither continuous integration nor anything that the tests set."""
    unset = {"CI", "GITHUB_ACTIONS", "BUILD_NUMBER", "TF_BUILD", "ORT_DISABLE_TELEMETRY"}
    return {name: value for name, value in os.environ.items() if name not in unset}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    add_model(ModelRepository(folder / "models"), "cnn", tiny_cnn(), preprocessing=PREPROCESSING)
    write_datasets(folder / "datasets")
    return folder


def remote_addresses(pid: int) -> set[str]:
    """Addresses other than loopback ones that the sockets of a process are bound or connected to."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        path = Path(f"/proc/{pid}/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[9] not in inodes:
                continue
            for address in fields[1:3]:
                words = bytes.fromhex(address.partition(":")[0])
                swapped = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                ip = ipaddress.ip_address(swapped)
                mapped = getattr(ip, "ipv4_mapped", None) or ip
                if not mapped.is_loopback and not mapped.is_unspecified:
                    found.add(f"{table} {mapped}")
    return found


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="sockets are looked up in /proc")
def test_a_server_at_work_opens_no_socket_beyond_this_machine(folder: Path, tmp_path: Path) -> None:
    with server_process(folder / "models", folder / "datasets", tmp_path, environment=bare_environment()) as server:
        stubs = server.stubs()
        seen: set[str] = set()
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            stubs.activations.Activate(REQUEST)
            seen |= remote_addresses(server.process.pid)
            time.sleep(0.01)
        assert seen == set()


def test_telemetry_is_off_in_the_process_that_runs_models() -> None:
    script = (
        "import ctypes\n"
        "import ortoscope_service.api.server\n"
        "getenv = ctypes.CDLL(None).getenv\n"
        "getenv.restype = ctypes.c_char_p\n"
        "print(getenv(b'ORT_DISABLE_TELEMETRY').decode())\n"
    )
    for given in ({}, {"ORT_DISABLE_TELEMETRY": "0"}):
        output = subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={**bare_environment(), **given},
        ).stdout
        assert output == "1\n"


def test_a_server_works_where_there_is_no_network_at_all(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "without_network.py"
    script.write_text(
        """
import fcntl, socket, struct, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
with socket.socket() as control:  # a new network namespace has a loopback device that is down
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))
from serving import serving
from test_server_network import REQUEST
from ortoscope_service.config import ServerConfig
folder, store = Path(sys.argv[2]), Path(sys.argv[3])
config = ServerConfig(folder / "models", store, folder / "datasets", listen="127.0.0.1:0")
with serving(config) as (_, stubs):
    assert stubs.activations.Activate(REQUEST).taps
print("served")
"""
    )
    isolated = ["unshare", "--net", "--map-root-user"]
    try:
        subprocess.run([*isolated, "true"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("network namespaces are not permitted here")
    environment = {**bare_environment(), "PYTHONPATH": str(Path(__file__).parent)}
    arguments = [sys.executable, str(script), str(ROOT / "tests"), str(folder), str(tmp_path / "store")]
    finished = subprocess.run(
        [*isolated, *arguments], check=False, capture_output=True, text=True, env=environment, timeout=120
    )
    assert finished.stdout == "served\n", finished.stderr
