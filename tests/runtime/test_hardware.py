from ortoscope_service.runtime.hardware import processor


def test_the_processor_has_a_name() -> None:
    assert processor() == processor() != ""
