import io
import re
import time
from typing import Any

import ortoscope.progress as module
import pytest
from ortoscope.progress import display, shown, silent, text_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_at_every_new_stage_and_at_its_end() -> None:
    stream = io.StringIO()
    with display("dissect", stream=stream) as show:
        for done in range(101):
            show("activating", done, 100)
        for done in range(0, 101, 50):
            show("counting", done, 100)
    assert stream.getvalue().splitlines() == [
        "dissect: activating, 0 of 100 (0 %)",
        "dissect: activating, 100 of 100 (100 %)",
        "dissect: counting, 0 of 100 (0 %)",
        "dissect: counting, 100 of 100 (100 %)",
    ]


def test_a_log_tells_how_long_the_server_will_still_take() -> None:
    stream = io.StringIO()
    with display("dissect", stream=stream) as show:
        show("activating", 320, 591, 40.0)
    assert stream.getvalue() == "dissect: activating, 320 of 591 (54 %), about 40 s left\n"


def test_a_terminal_tells_its_own_guess_where_the_server_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with display("report", stream=stream) as show:
        for done in range(4):
            show("fetching images", done, 100)
            time.sleep(0.05)
        show("fetching images", 4, 100)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert re.search(r"4/100 about \d+ s left", plain)


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_SECONDS", 0.0)
    stream = io.StringIO()
    with display("dissect", stream=stream) as show:
        for done in (1, 2, 2, 3):
            show("activating", done, 0)
    assert stream.getvalue().splitlines() == [f"dissect: activating, {done}" for done in (1, 2, 3)]


def test_a_terminal_gets_a_bar_with_the_time_left_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with display("dissect", stream=stream) as show:
        show("activating", 50, 100)
        show("counting", 320, 591, 39.7)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    bar = re.search(r"dissect: counting ━[^\r]* 320/591 about 40 s left", plain)
    assert bar is not None
    assert len(bar[0]) <= 80
    assert stream.getvalue().rstrip("\n").endswith("\x1b[2K")  # the line of the bar is erased


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("", 0, 0), "waiting"),
        (("counting", 5, 0), "counting, 5"),
        (("counting", 1, 3), "counting, 1 of 3 (33 %)"),
        (("counting", 1, 3, 7500.0), "counting, 1 of 3 (33 %), about 2 h 5 min left"),
        (("counting", 1, 3, 0.2), "counting, 1 of 3 (33 %), about 1 s left"),
    ],
)
def test_progress_in_words(given: tuple[Any, ...], text: str) -> None:
    assert text_of(*given) == text


def test_a_function_is_told_and_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    with shown(lambda stage, done, total: seen.append((stage, done, total)), "x") as show:
        show("a", 1, 2, 3.0)
    with shown(False, "x") as show:
        assert show is silent
        show("a", 1, 2, 3.0)
    assert seen == [("a", 1, 2)]
    assert capsys.readouterr() == ("", "")
