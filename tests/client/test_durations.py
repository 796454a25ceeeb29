from datetime import timedelta

import ortoscope
import pytest
from ortoscope.durations import in_words, left_in_words, seconds_of, time_limit_message

DAY = 86_400


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("90s", 90), ("2h", 7200), ("7d", 7 * DAY), ("4w", 28 * DAY), ("1h30m", 5400), ("1.5 h", 5400),
        (" 1D 12H ", 1.5 * DAY),
        ("0s", 0), (timedelta(hours=2), 7200), (0.5, 0.5), (60, 60),
    ],
)  # fmt: skip
def test_a_length_of_time_is_read_as_people_write_it(given: timedelta | str | float, seconds: float) -> None:
    assert seconds_of(given, "x") == seconds


@pytest.mark.parametrize(
    "given", ["", "7", "soon", "h", "-1h", "1h-30m", "7 days", "99999999999w", timedelta(-1), -0.1, float("nan")]
)
def test_what_is_no_length_of_time_is_refused_with_an_example(given: timedelta | str | float) -> None:
    with pytest.raises(ortoscope.InvalidArgument, match=r"for older_than.*for example 90s") as caught:
        seconds_of(given, "older_than")
    assert (caught.value.reason, caught.value.field) == ("DURATION_INVALID", "older_than")


def test_a_time_limit_becomes_a_message_or_nothing() -> None:
    limit = time_limit_message("2h")
    assert limit is not None
    assert limit.ToTimedelta() == timedelta(hours=2)
    assert time_limit_message(None) is None
    for nothing in ("0s", 0, timedelta()):
        with pytest.raises(ortoscope.InvalidArgument, match="longer than nothing"):
            time_limit_message(nothing)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (39.7, "40 s"), (99.4, "99 s"), (99.6, "2 min"), (12 * 60, "12 min"), (99 * 60, "99 min"),
        (130 * 60, "2 h 10 min"), (3 * 3600, "3 h"), (9 * 3600 + 3590, "10 h"), (47 * 3600, "47 h"), (3 * DAY, "3 d"),
    ],
)  # fmt: skip
def test_a_length_of_time_is_told_as_exactly_as_people_need_it(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_what_is_left_is_never_nothing_while_it_runs() -> None:
    assert [left_in_words(seconds) for seconds in (None, 0.0, 40.2)] == ["", "about 1 s left", "about 40 s left"]
