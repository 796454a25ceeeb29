"""Lengths of time as people write and read them: `2h30m`, "about 40 s"."""

import math
import re
from datetime import timedelta
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration as DurationMessage

from ortoscope.errors import InvalidArgument

Duration: TypeAlias = timedelta | str | float
"""A length of time: a timedelta, seconds, or text such as "7d", "12h" or "1h30m"."""

_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = r"(\d+(?:\.\d+)?)\s*([smhdw])"
_TEXT = re.compile(rf"\s*(?:{_PART}\s*)+")
_LARGEST_SECONDS = 315_576_000_000.0
"""The largest google.protobuf.Duration: about 10,000 years."""


def seconds_of(duration: Duration, field: str) -> float:
    """A length of time in seconds.

    Args:
        duration: A timedelta, a number of seconds, or text: numbers with the units s, m, h, d and w.
        field: What it is, for the error.

    Raises:
        InvalidArgument: DURATION_INVALID.
    """
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        if not _TEXT.fullmatch(duration.lower()):
            raise _invalid(duration, field, "write a number and one of the units s, m, h, d and w")
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(_PART, duration.lower()))
    else:
        seconds = float(duration)
    if not math.isfinite(seconds) or not 0 <= seconds <= _LARGEST_SECONDS:
        raise _invalid(duration, field, "it must be neither negative nor longer than 10,000 years")
    return seconds


def time_limit_message(duration: Duration | None) -> DurationMessage | None:
    """A time limit as the API takes it; None if there is none.

    Raises:
        InvalidArgument: DURATION_INVALID; a limit of no time at all is refused too.
    """
    if duration is None:
        return None
    milliseconds = round(seconds_of(duration, "time_limit") * 1000)
    if not milliseconds:
        raise _invalid(duration, "time_limit", "it must be longer than nothing")
    message = DurationMessage()
    message.FromMilliseconds(milliseconds)
    return message


def in_words(seconds: float) -> str:
    """A length of time, rounded to what a person needs to know: "40 s", "12 min", "2 h 10 min", "3 d"."""
    if seconds < 99.5:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 10:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    if seconds < 48 * 3600:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86_400)} d"


def left_in_words(seconds: float | None) -> str:
    """How much longer something takes: "about 40 s left"; empty if that is not known."""
    return "" if seconds is None else f"about {in_words(max(1.0, seconds))} left"


def _invalid(duration: Duration, field: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"{str(duration)!r} is no length of time for {field}: {why}, for example 90s, 12h, 1h30m or 7d.",
        reason="DURATION_INVALID",
        field=field,
        metadata={"duration": str(duration)},
    )
