"""Which provider computed a result: the one that the server prefers, or the CPU's where that one fails the gate.

ONNX Runtime's package for the CPU holds one further provider, which has no kernel for any operator of our models: as it
is, it fails the gate. A stand-in that computes on the CPU passes it.
"""

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ortoscope.v1.activations_pb2 import (
    ActivateRequest,
    ActivationInput,
    ExampleSet,
    ExamplesSpec,
    FindExamplesRequest,
    TapSelection,
)
from ortoscope.v1.gradients_pb2 import ComputeGradientRequest, Objective
from ortoscope_service.api import server
from ortoscope_service.config import ServerConfig
from ortoscope_service.runtime.host_process import HostSettings
from ortoscope_service.runtime.parity import CPU
from pictures import encode, photo
from serving import Stubs, serving
from stand_in_provider import LOG_VARIABLE, OPENER

PREFERRED = "AzureExecutionProvider"


@pytest.fixture
def preferring(config: ServerConfig, tmp_path: Path) -> ServerConfig:
    return replace(config, store=tmp_path / "store", execution_provider=PREFERRED)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of the providers that sessions were made on, one on a line."""
    log = tmp_path / "made"
    monkeypatch.setenv(LOG_VARIABLE, str(log))
    monkeypatch.setattr(server, "HostSettings", functools.partial(HostSettings, opener=OPENER))
    # Workers are processes of their own, which import this when they start.
    customization = tmp_path / "site" / "sitecustomize.py"
    customization.parent.mkdir()
    customization.write_text(
        "from ortoscope_service.analysis import execution\n"
        "from ortoscope_service.runtime.cancellation import Cancellation\n"
        "from stand_in_provider import open_with_stand_in\n"
        "execution.open_session = lambda graph, config: open_with_stand_in(graph, config, Cancellation())\n"
    )
    monkeypatch.syspath_prepend(str(customization.parent))
    return log


def pictures() -> list[ActivationInput]:
    return [ActivationInput(image=encode(photo(16, 16), "PNG"))]


def activate(stubs: Stubs) -> Any:
    request = ActivateRequest(model="models/cnn", taps=[TapSelection(tap="relu1")], inputs=pictures())
    return stubs.activations.Activate(request)


def gradient(stubs: Stubs) -> Any:
    objective = Objective(unit=Objective.Unit(tap="conv1", unit=0, site=[1, 1]))
    request = ComputeGradientRequest(model="models/cnn", inputs=pictures(), objective=objective)
    return stubs.gradients.ComputeGradient(request)


def examples(stubs: Stubs) -> ExampleSet:
    spec = ExamplesSpec(tap="models/cnn/taps/relu1", dataset="datasets/photos", count=1)
    operation = stubs.wait(stubs.activations.FindExamples(FindExamplesRequest(spec=spec)))
    found = ExampleSet()
    assert operation.response.Unpack(found), operation
    return found


def verdicts(config: ServerConfig) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in (config.store / "parity").iterdir()]


@pytest.mark.parametrize("call", [activate, gradient, examples])
def test_a_provider_that_cannot_run_a_graph_is_replaced_and_the_result_says_so(call, preferring) -> None:
    with serving(preferring) as (_, stubs):
        answer = call(stubs)
    assert answer.provenance.execution_provider == CPU
    (verdict,) = verdicts(preferring)
    assert (verdict["passed"], verdict["used"]) == (False, CPU)
    assert verdict["circumstances"]["provider"] == PREFERRED
    assert "cannot" in verdict["reason"]


@pytest.mark.parametrize("call", [activate, gradient, examples])
def test_a_provider_that_passes_is_the_one_that_the_result_names(call, preferring, stand_in) -> None:
    with serving(preferring) as (_, stubs):
        answer = call(stubs)
    assert answer.provenance.execution_provider == PREFERRED
    (verdict,) = verdicts(preferring)
    assert (verdict["passed"], verdict["used"]) == (True, PREFERRED)
    assert PREFERRED in stand_in.read_text().splitlines()


def test_a_verdict_outlives_the_server(preferring, stand_in) -> None:
    for _ in range(2):
        with serving(preferring) as (_, stubs):
            activate(stubs)
    made = stand_in.read_text().splitlines()
    assert made.count(CPU) == 1
    assert made.count(PREFERRED) == 2


def test_the_provider_decides_the_numbers_and_so_is_part_of_the_specification(preferring, stubs, stand_in) -> None:
    with serving(preferring) as (_, others):
        digests = {activate(each).provenance.spec_digest for each in (stubs, others)}
    assert len(digests) == 2
