import hashlib

import pytest
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.jobs.provenance import execution_spec, spec_digest


def test_a_specification_is_digested_as_canonical_json() -> None:
    expected = hashlib.sha256('{"a":[1,0.1,null],"b":"é"}'.encode()).hexdigest()
    assert spec_digest({"b": "é", "a": [1, 0.1, None]}) == f"sha256:{expected}"


def test_every_number_counts_to_its_last_bit() -> None:
    assert spec_digest({"threshold": 0.1}) != spec_digest({"threshold": 0.1 + 2**-56})


def test_what_is_no_number_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="JSON"):
        spec_digest({"threshold": float("nan")})


def test_all_of_the_execution_is_part_of_a_specification() -> None:
    assert execution_spec(ExecutionConfig()).keys() == {
        "batch_size",
        "providers",
        "optimization_level",
        "intra_op_threads",
    }
