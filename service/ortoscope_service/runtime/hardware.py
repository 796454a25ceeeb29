"""What this machine computes on."""

import functools
import platform
from pathlib import Path


@functools.cache
def processor() -> str:
    """Architecture and model of this machine's processor."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
            break
    return f"{platform.machine()} {model}".strip()
