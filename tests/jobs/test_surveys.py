from dataclasses import replace

import pytest
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.surveys import _check_provider
from ortoscope_service.runtime.sessions import SessionConfig


def test_a_worker_that_can_only_use_another_provider_than_the_result_names_is_refused() -> None:
    wanted = ExecutionConfig(session=SessionConfig(("OpenVINOExecutionProvider",)))
    _check_provider(replace(wanted, read_ahead=False), wanted)
    with pytest.raises(OrtoscopeError) as caught:
        _check_provider(ExecutionConfig(session=SessionConfig(("CPUExecutionProvider",))), wanted)
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "PROVIDERS_DISAGREE")
    assert "OpenVINOExecutionProvider" in caught.value.message
