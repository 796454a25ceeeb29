"""The onnx package's own test cases, one small model for each use of each operator of the standard."""

from collections import Counter

import pytest
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.batch import make_batch_symbolic
from ortoscope_service.graph.loading import load_model
from ortoscope_service.graph.slicing import head, trunk
from ortoscope_service.graph.taps import find_taps, resolve_tap


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_every_standard_operator_is_handled_or_refused_with_a_reason() -> None:
    from onnx.backend.test.case.node import collect_testcases

    outcomes: Counter[str] = Counter()
    for case in collect_testcases(None):
        if case.model is None:
            continue
        try:
            model = load_model(case.model.SerializeToString())
        except OrtoscopeError as error:
            outcomes[error.reason] += 1
            continue
        outcomes["loaded"] += 1
        for version in (model, make_batch_symbolic(model).model):
            taps = find_taps(version)
            for tap in taps:
                assert resolve_tap(taps, tap.display_name) is tap
                trunk(version, [tap.tensor])
                head(version, tap.tensor)
    assert set(outcomes) <= {
        "loaded",
        "UNSUPPORTED_IR_VERSION",
        "UNSUPPORTED_OPSET",
        "UNSUPPORTED_TYPE",
        "CUSTOM_OPERATOR",
    }
    assert outcomes["loaded"] > 1000
