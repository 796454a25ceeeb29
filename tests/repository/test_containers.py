"""Dockerfile, .dockerignore and docker-compose.yml keep what they promise, as far as that shows without an engine."""

import fnmatch
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from dask_cluster import eventually, free_port
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments, continuation lines joined and comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    parsed = []
    for line in joined.splitlines():
        instruction, _, arguments = line.partition(" ")
        assert instruction in INSTRUCTIONS, f"not an instruction of a Dockerfile: {line}"
        parsed.append((instruction, arguments.strip()))
    return parsed


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    return instructions((ROOT / "Dockerfile").read_text())


@pytest.fixture(scope="module")
def final_stage(dockerfile: list[tuple[str, str]]) -> list[tuple[str, str]]:
    last = max(i for i, (instruction, _) in enumerate(dockerfile) if instruction == "FROM")
    return dockerfile[last:]


def only(stage: list[tuple[str, str]], instruction: str) -> str:
    (found,) = (arguments for name, arguments in stage if name == instruction)
    return found


def test_no_instruction_before_the_first_from_but_arg(dockerfile: list[tuple[str, str]]) -> None:
    first = [instruction for instruction, _ in dockerfile].index("FROM")
    assert {instruction for instruction, _ in dockerfile[:first]} <= {"ARG"}


def test_every_copied_path_exists_and_is_not_ignored(dockerfile: list[tuple[str, str]]) -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    copied = [arguments.split() for name, arguments in dockerfile if name == "COPY"]
    sources = [source for words in copied if not words[0].startswith("--from") for source in words[:-1]]
    assert {"pyproject.toml", "clients", "service"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        verdicts = [line for line in ignored if fnmatch.fnmatch(source, line.lstrip("!"))]
        assert verdicts[-1].startswith("!"), f"{source} is not sent to the builder"


def test_the_image_runs_as_a_user_without_rights(final_stage: list[tuple[str, str]]) -> None:
    names = [name for name, _ in final_stage]
    assert only(final_stage, "USER") == "10001:10001"
    assert names.index("USER") < names.index("ENTRYPOINT")
    # Files are made by root before; what follows USER runs as the user who owns the volumes.
    assert all(name != "COPY" for name in names[names.index("USER") :])


def test_the_image_sends_nothing_and_writes_only_to_volumes(final_stage: list[tuple[str, str]]) -> None:
    variables = dict(word.split("=", 1) for word in only(final_stage, "ENV").split())
    assert variables["ORT_DISABLE_TELEMETRY"] == "1"
    volumes = json.loads(only(final_stage, "VOLUME"))
    assert {"/models", "/datasets", "/store", variables["NUMBA_CACHE_DIR"]} == set(volumes)


def test_the_kernels_are_compiled_into_the_volume_before_it_is_declared(
    final_stage: list[tuple[str, str]],
) -> None:
    names = [name for name, _ in final_stage]
    (warm_up,) = (i for i, (name, arguments) in enumerate(final_stage) if name == "RUN" and "compile_all" in arguments)
    # A layer after VOLUME that writes to it is lost.
    assert names.index("USER") < warm_up < names.index("VOLUME")


def missing_options(command: list[str]) -> list[str]:
    """The options of a command line that the command of `ortoscope-server` does not have."""
    name, *words = command
    shown = subprocess.run(
        [sys.executable, "-m", "ortoscope_service", name, "--help"],
        check=True, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [option for option in options if not re.search(rf"{option}(?![\w-])", plain)]


def test_the_command_of_the_image_is_one_that_the_server_has(final_stage: list[tuple[str, str]]) -> None:
    assert json.loads(only(final_stage, "ENTRYPOINT")) == ["ortoscope-server"]
    command = json.loads(only(final_stage, "CMD"))
    assert command[0] == "serve"
    assert missing_options(command) == []


@contextmanager
def health_server(status: "health_pb2.HealthCheckResponse.ServingStatus") -> Iterator[str]:
    """A gRPC server that reports `status` for itself as a whole; yields its address."""
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        servicer = health.HealthServicer()
        servicer.set("", status)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize(("status", "healthy"), [("SERVING", True), ("NOT_SERVING", False)])
def test_the_health_check_tells_a_serving_server_from_one_that_is_not(
    final_stage: list[tuple[str, str]], status: str, *, healthy: bool
) -> None:
    options, _, command = only(final_stage, "HEALTHCHECK").partition(" CMD ")
    assert {"--interval", "--timeout", "--start-period"} <= set(re.findall(r"--[a-z-]+", options))
    python, *arguments, target = json.loads(command)
    assert python == "python"
    assert target == "127.0.0.1:50051"
    value = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
    with health_server(value) as address:
        finished = subprocess.run([sys.executable, *arguments, address], check=False, timeout=60)
    assert (finished.returncode == 0) == healthy


def test_the_health_check_fails_where_nobody_listens(final_stage: list[tuple[str, str]]) -> None:
    _, *arguments, _ = json.loads(only(final_stage, "HEALTHCHECK").partition(" CMD ")[2])
    finished = subprocess.run([sys.executable, *arguments, "127.0.0.1:1"], check=False, timeout=60, capture_output=True)
    assert finished.returncode != 0


def compose_command() -> list[str]:
    """The command that Compose has here."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            answer = subprocess.run([*command, "version"], check=False, capture_output=True, timeout=60)
            if answer.returncode == 0:
                return command
    pytest.skip("neither `docker compose` nor `docker-compose` is installed")


def services(*profiles: str) -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml as Compose understands them, by name."""
    return composed(*profiles)["services"]


@functools.cache
def composed(*profiles: str) -> dict[str, Any]:
    """docker-compose.yml as Compose understands it. Old versions show the services of all profiles."""
    chosen = [argument for profile in profiles for argument in ("--profile", profile)]
    shown = subprocess.run(
        [*compose_command(), "-f", ROOT / "docker-compose.yml", *chosen, "config"],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    return yaml.safe_load(shown)


def published(service: dict[str, Any]) -> list[str]:
    """The addresses on the host that a service is reached at."""
    ports = service.get("ports", [])
    return [port.split(":")[0] if isinstance(port, str) else port.get("host_ip", "") for port in ports]


def paths(service: dict[str, Any]) -> dict[str, str]:
    """What is mounted in a service, by its path there."""
    volumes = [volume.split(":") if isinstance(volume, str) else None for volume in service["volumes"]]
    if None in volumes:
        return {volume["target"]: volume["source"] for volume in service["volumes"]}
    return {volume[1]: volume[0] for volume in volumes if volume is not None}


@pytest.mark.parametrize(
    ("profile", "names"),
    [("", {"ortoscope"}), ("gpu", {"gpu"}), ("cluster", {"cluster", "scheduler", "worker"})],
)
def test_compose_accepts_the_file_and_every_service_stays_locked_down(profile: str, names: set[str]) -> None:
    found = services(*filter(None, [profile]))
    assert names <= found.keys()
    for name, service in found.items():
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "stop_grace_period" in service, name
        assert set(published(service)) <= {"127.0.0.1"}, name


@pytest.mark.parametrize("name", ["cluster", "scheduler", "worker"])
def test_the_members_of_the_cluster_are_told_what_their_commands_take(name: str) -> None:
    command = services("cluster")[name]["command"]
    assert command[0] == {"cluster": "serve", "scheduler": "cluster-scheduler", "worker": "cluster-worker"}[name]
    assert missing_options(command) == []
    given = dict(word.removeprefix("--").partition("=")[::2] for word in command[1:])
    host = "0.0.0.0" if name == "scheduler" else "scheduler"
    assert given["cluster"] == f"tls://{host}:8786"
    files = {given["cluster-certificate"], given["cluster-key"], given["cluster-authority"]}
    assert len(files) == 3
    assert {str(Path(file).parent) for file in files} <= paths(services("cluster")[name]).keys()


def test_the_members_of_the_cluster_are_reached_by_each_other_alone() -> None:
    found = services("cluster")
    assert composed("cluster")["networks"]["members"]["internal"] is True
    assert "members" in found["cluster"]["networks"]
    for name in ("scheduler", "worker"):
        assert set(found[name]["networks"]) == {"members"}
        assert published(found[name]) == []


def test_workers_of_the_cluster_find_everything_where_the_service_says_it_is(
    final_stage: list[tuple[str, str]],
) -> None:
    found = services("cluster")
    worker, service = paths(found["worker"]), paths(found["cluster"])
    assert {path: service[path] for path in worker} == worker
    assert {"/models", "/datasets", "/store"} <= worker.keys()
    assert found["worker"]["image"] == found["cluster"]["image"]
    # What the image is told to serve is what the service of the cluster is told, its members apart.
    words = [word for word in json.loads(only(final_stage, "CMD")) if word.startswith("--")]
    assert set(words) <= {word.partition("=")[0] for word in found["cluster"]["command"]}


@pytest.mark.parametrize("running", [True, False])
def test_the_health_check_of_the_scheduler_tells_whether_it_runs(*, running: bool) -> None:
    kind, python, *arguments, probe = services("cluster")["scheduler"]["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")
    assert probe.count("127.0.0.1:8787") == 1
    with dask_scheduler() if running else nullcontext("127.0.0.1:1") as address:
        command = [sys.executable, *arguments, probe.replace("127.0.0.1:8787", address)]
        finished = subprocess.run(command, check=False, timeout=60, capture_output=True)
    assert (finished.returncode == 0) == running


@contextmanager
def dask_scheduler() -> Iterator[str]:
    """A scheduler; yields where it tells its health."""
    health = f"127.0.0.1:{free_port()}"
    program = (
        "from ortoscope_service.config import ClusterConfig\n"
        "from ortoscope_service.jobs.cluster_members import run_cluster_scheduler\n"
        f"run_cluster_scheduler(ClusterConfig('tcp://127.0.0.1:{free_port()}'), health='{health}')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as scheduler:
        try:
            eventually(lambda: is_open(health))
            yield health
        finally:
            scheduler.kill()


def is_open(address: str) -> bool:
    """Whether something listens."""
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
