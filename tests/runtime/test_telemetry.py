import os
import subprocess
import sys

PROGRAM = """
import builtins, os, sys

imported = builtins.__import__

def watch(name, *arguments, **keywords):
    if name.split(".")[0] == "onnxruntime" and "onnxruntime" not in sys.modules:
        print("telemetry disabled:", os.environ.get("ORT_DISABLE_TELEMETRY"))
    return imported(name, *arguments, **keywords)

builtins.__import__ = watch
import ortoscope_service.runtime.sessions
"""


def test_telemetry_is_off_before_onnxruntime_is_imported_even_if_the_environment_says_otherwise() -> None:
    for setting in ({}, {"ORT_DISABLE_TELEMETRY": "0"}):
        clean = {name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}}
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**clean, **setting}, capture_output=True, text=True, check=True
        )
        assert result.stdout.splitlines()[0] == "telemetry disabled: 1"
