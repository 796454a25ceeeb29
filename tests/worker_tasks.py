"""What tests let workers do."""

import ctypes
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

from ortoscope_service.jobs import worker


def echo(*args: Any, **kwargs: Any) -> list[Any]:
    return [list(args), kwargs]


def process_number() -> int:
    return os.getpid()


def append(path: str, line: str, seconds: float = 0.0) -> int:
    """Writes down that it was called, takes its time, and tells by whom it was called."""
    with Path(path).open("a") as file:
        file.write(line + "\n")
    time.sleep(seconds)
    return os.getpid()


def meet(own: str, all_of_them: list[str], seconds: float) -> bool:
    """Waits until all who meet are there."""
    Path(own).touch()
    deadline = time.monotonic() + seconds
    while not all(Path(file).exists() for file in all_of_them):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def sleep_in_c(started: str, seconds: int) -> None:
    """Stays in a library for so long, which lets other threads run."""
    Path(started).write_text(str(os.getpid()))
    ctypes.CDLL(None).sleep(seconds)


def sleep_with_the_lock(started: str, seconds: int) -> None:
    """Stays in a library for so long, which lets no other thread run."""
    Path(started).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(seconds)


def raise_signal(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    signal.pause()
    raise AssertionError


def end_process(code: int) -> NoReturn:
    os._exit(code)


def fail(text: str) -> NoReturn:
    raise FileNotFoundError(text)


def allocate(size: int) -> int:
    return len(bytearray(size))


def text_of(size: int) -> str:
    return "x" * size


def something_else() -> object:
    return object()


def done_and_gone() -> int:
    worker.retire()
    return os.getpid()


def print_something() -> str:
    os.write(1, b"this is no message\n")
    return "printed"


def surroundings() -> dict[str, Any]:
    """What a worker finds itself in."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(link.readlink()))
        except FileNotFoundError:
            continue  # the one that lists them
    return {
        "nice": os.nice(0),
        "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY"),
        "interrupt_ignored": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "files": targets,
    }


def claim_to_be_done(nonsense: str) -> None:
    """Sends to the server what no worker sends; stands for one that a model has taken over."""
    for link in Path("/proc/self/fd").iterdir():
        try:
            if not str(link.readlink()).startswith("socket:"):
                continue
        except FileNotFoundError:
            continue
        with socket.socket(fileno=os.dup(int(link.name))) as connection:
            connection.sendall(nonsense.encode())
    time.sleep(60)
