import io
import re

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


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_SECONDS", 0.0)
    stream = io.StringIO()
    with display("dissect", stream=stream) as show:
        for done in (1, 2, 2, 3):
            show("activating", done, 0)
    assert stream.getvalue().splitlines() == [f"dissect: activating, {done}" for done in (1, 2, 3)]


def test_a_terminal_gets_a_bar_with_the_time_left_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    with display("dissect", stream=stream) as show:
        show("activating", 50, 100)
        show("counting", 10, 100)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "dissect: counting" in plain
    assert "10/100" in plain
    assert "left" in plain
    assert stream.getvalue().rstrip("\n").endswith("\x1b[2K")  # the line of the bar is erased


@pytest.mark.parametrize(
    ("given", "text"),
    [(("", 0, 0), "waiting"), (("counting", 5, 0), "counting, 5"), (("counting", 1, 3), "counting, 1 of 3 (33 %)")],
)
def test_progress_in_words(given: tuple[str, int, int], text: str) -> None:
    assert text_of(*given) == text


def test_a_function_is_told_and_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    with shown(lambda stage, done, total: seen.append((stage, done, total)), "x") as show:
        show("a", 1, 2)
    with shown(False, "x") as show:
        assert show is silent
        show("a", 1, 2)
    assert seen == [("a", 1, 2)]
    assert capsys.readouterr() == ("", "")
