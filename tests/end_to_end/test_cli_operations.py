"""The commands `ortoscope operations …`, and what else lets a command outlive a restart of the server."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import ortoscope
import pytest
from command_line import command, environment, run, run_json
from operations_server import OperationsServer, dissection, example_set

DAY = 86_400.0
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def server() -> OperationsServer:
    return OperationsServer()


@pytest.fixture
def target(server: OperationsServer) -> Iterator[str]:
    with server.serving() as address:
        yield address


class Terminal:
    """A command on a terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self._leader, follower = pty.openpty()
        self.process = subprocess.Popen(
            command(*arguments), stdin=follower, stdout=follower, stderr=follower,
            env=environment(TERM="xterm-256color", COLUMNS="80"),
        )  # fmt: skip
        os.close(follower)
        self.text = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)

    def until(self, condition: Callable[[str], object]) -> str:
        """Reads until what was written, control sequences left out, fulfils a condition."""
        deadline = time.monotonic() + 60
        while not condition(self.text):
            assert time.monotonic() < deadline, self.text
            if select.select([self._leader], [], [], 0.2)[0]:
                try:
                    chunk = os.read(self._leader, 65536)
                except OSError:  # the command has ended
                    assert condition(self.text), self.text
                    break
                self.text += CONTROL.sub("", chunk.decode()).replace("\r\n", "\n")
        return self.text

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())


@contextmanager
def piped(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """A command with pipes for its output and errors; it is gone in the end."""
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process, process.stdout, process.stderr
        finally:
            process.kill()


def test_list_shows_progress_what_is_left_and_age(server: OperationsServer, target: str) -> None:
    running = server.add(1, "running", done_items=320, total_items=591, seconds_left=40)
    ended = server.add(2, "succeeded", ended_ago=3 * DAY, done_items=5, total_items=5, verb="find-examples")
    lines = run("operations", "list", "--target", target).stdout.splitlines()
    assert lines[0].split() == [
        "operation", "what", "state", "done", "left", "age", "model", "tap", "dataset", "created",
    ]  # fmt: skip
    assert re.match(rf"{ended} +find-examples +succeeded +5/5 +3 d +m/1 +/features/0 +d +20", lines[1])
    assert re.match(rf"{running} +dissect +running +320/591 +40 s +60 min +m/1 +/features/0 +d +20", lines[2])
    assert len(run_json("operations", "list", "--json", "--target", target)["operations"]) == 2
    pending = run_json("operations", "list", "--pending", "--json", "--target", target)["operations"]
    assert [entry["name"] for entry in pending] == [running]
    assert pending[0]["metadata"]["estimated_time_left"] == "40s"
    shown = run("operations", "show", running, "--target", target).stdout
    assert "running, counting, 320 of 591 (54 %), about 40 s left\n" in shown


def test_a_list_fits_a_terminal_and_its_short_names_are_understood(server: OperationsServer, target: str) -> None:
    server.add(0x3F2A9C1D, "running", done_items=320, total_items=591, seconds_left=40)
    server.add(0x12345678, "failed", ended_ago=DAY)
    with Terminal("operations", "list", "--target", target) as terminal:
        text = terminal.until(lambda text: "3f2a9c1d" in text and text.endswith("\n"))
        assert terminal.process.wait(60) == 0
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["operation", "what", "state", "left", "age", "of"]
    row = next(line for line in lines if line.startswith("3f2a9c1d"))
    assert re.match(r"3f2a9c1d +dissect +running 54 % +40 s +60 min +m/1 /features/0 on d", row)
    assert run_json("operations", "show", "3f2a9c1d", "--json", "--target", target)["name"].startswith(
        "operations/3f2a"
    )
    missing = run("operations", "show", "beef", "--target", target, code=1)
    assert "UNKNOWN_OPERATION" in missing.stderr
    assert "`ortoscope operations list` lists them" in missing.stderr


def test_watch_shows_a_table_that_changes_and_cancels_nothing(server: OperationsServer, target: str) -> None:
    server.add(0x3F2A9C1D, "running", done_items=320, total_items=591, seconds_left=40)
    server.add(0x12345678, "succeeded", ended_ago=DAY)
    with Terminal("operations", "watch", "--target", target) as terminal:
        terminal.until(lambda text: "running 54 %" in text)
        server.add(0x4B4B4B4B, "queued")
        terminal.until(lambda text: "2 operations under way; Ctrl-C ends this view only" in text)
        server.add(0x3F2A9C1D, "succeeded", done_items=591, total_items=591, ended_ago=0)
        text = terminal.until(lambda text: re.search(r"3f2a9c1d +dissect +succeeded", text))
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(60) == 130
    assert "12345678" not in text  # it had ended before
    assert "Traceback" not in text
    assert not server.cancelled


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_watch_writes_a_line_for_every_change_into_a_pipe(
    options: tuple[str, ...], server: OperationsServer, target: str
) -> None:
    name = server.add(1, "running", done_items=320, total_items=591, seconds_left=40)
    with piped("operations", "watch", "--target", target, *options) as (process, output, _):
        lines = [output.readline()]
        server.add(1, "failed", done_items=320, total_items=591, ended_ago=0)
        lines.append(output.readline())
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 130
    if options:
        assert [json.loads(line)["metadata"]["state"] for line in lines] == ["STATE_RUNNING", "STATE_FAILED"]
    else:
        assert lines[0].endswith(
            f" {name} dissect m/1 /features/0 on d: running, counting, 320 of 591 (54 %), about 40 s left\n"
        )
        assert lines[1].endswith(f" {name} dissect m/1 /features/0 on d: failed, The label plane is damaged.\n")


def test_wait_attaches_by_name_and_tells_what_is_left(server: OperationsServer, target: str) -> None:
    server.add(0x3F2A9C1D, "running", done_items=320, total_items=591, seconds_left=40)
    with Terminal("operations", "wait", "3f2a", "--target", target) as terminal:
        text = terminal.until(lambda text: "320/591 about 40 s left" in text)
        server.add(0x3F2A9C1D, "failed", ended_ago=0)
        terminal.until(lambda text: "The label plane is damaged." in text)
        assert terminal.process.wait(60) == 1
    assert any(line.startswith("dissect: counting ━") for line in text.replace("\r", "\n").splitlines())


@pytest.mark.parametrize("words", [("operations", "wait", "3f2a"), ("operations", "watch")])
def test_a_restart_is_waited_for_and_told_on_stderr(words: tuple[str, ...], server: OperationsServer) -> None:
    server.add(0x3F2A9C1D, "running")
    with ExitStack() as first, ExitStack() as second:
        target = first.enter_context(server.serving())
        process, output, errors = second.enter_context(piped(*words, "--target", target, "--json"))
        (output if "watch" in words else errors).readline()
        first.close()
        lines = iter(errors.readline, "")
        assert any(f"no answer from {target}, asking again" in line for line in lines)
        server.add(0x3F2A9C1D, "succeeded", ended_ago=0, result=dissection(1))
        second.enter_context(server.serving(int(target.rpartition(":")[2])))
        last = json.loads(output.readline())
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert dissection(1).name in {last["name"], last.get("response", {}).get("name")}


def test_wait_finds_a_server_that_comes_only_later_and_gives_up_when_told(server: OperationsServer) -> None:
    server.add(0x3F2A9C1D, "succeeded", ended_ago=0, result=dissection(1))
    with server.serving() as target:
        port = int(target.rpartition(":")[2])
    words = ("operations", "wait", "3f2a", "--target", target)
    with piped(*words, "--json") as (process, output, errors):
        assert errors.readline() == f"no answer from {target}, asking again …\n"
        with server.serving(port):
            assert json.loads(output.readline())["name"] == dissection(1).name
            assert process.wait(60) == 0
    failed = run(*words, "--give-up-after", "0s", code=1)
    assert failed.stderr.startswith("ortoscope: No Ortoscope server answers")
    failed = run(*words, "--give-up-after", "0.1s", code=1)
    assert f"{target} did not answer for" in failed.stderr


def test_a_server_that_goes_away_while_the_report_is_fetched_is_waited_for(
    server: OperationsServer, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = server.add(1, "succeeded", ended_ago=0, result=dissection(1))
    attempts: list[Path] = []

    def save(self: ortoscope.Dissection, folder: Path, *, progress: bool) -> None:
        attempts.append(folder)
        if len(attempts) == 1:
            raise ortoscope.Unavailable("It restarts.", reason="SERVER_UNREACHABLE")

    monkeypatch.setattr(ortoscope.Dissection, "save", save)
    done = run("operations", "wait", name, "-o", tmp_path, "--json", "--target", target)
    assert attempts == [tmp_path, tmp_path]
    assert f"no answer from {target}, asking again …" in done.stderr
    assert json.loads(done.stdout)["name"] == dissection(1).name


def test_cancel_says_whether_it_came_too_late(server: OperationsServer, target: str) -> None:
    running, ended = server.add(1, "running"), server.add(2, "failed", ended_ago=0)
    assert run("operations", "cancel", running, "--target", target).stdout == f"{running}: asked to cancel\n"
    assert run("operations", "cancel", ended, "--target", target).stdout == f"{ended}: had ended: failed\n"


def test_clean_tells_what_goes_and_deletes_only_when_told_to(server: OperationsServer, target: str) -> None:
    old = server.add(1, "succeeded", ended_ago=8 * DAY, result=dissection(1))
    sets = server.add(2, "succeeded", ended_ago=8 * DAY, result=example_set(2))
    young = server.add(3, "failed", ended_ago=DAY)
    words = ("operations", "clean", "--older-than", "7d", "--target", target)
    assert "2 operations to delete" in run(*words, "--dry-run").stdout
    assert "say --yes" in run(*words, code=2).stderr
    assert len(server.operations) == 3
    data = run_json(*words, "--results", "--dry-run", "--json")
    assert data["dry_run"] is True
    assert {(entry["operation"]["name"], entry["result_deleted"]) for entry in data["operations"]} == {
        (old, True), (sets, True),
    }  # fmt: skip
    data = run_json(*words, "--results", "--yes", "--json")
    assert data["dry_run"] is False
    assert set(server.operations) == {young}
    assert not server.results
    assert run(*words, "--yes").stdout == "No operation ended more than 7d ago.\n"
    run("operations", "clean", "--older-than", "1h", "--state", "succeeded", "--yes", "--target", target)
    assert set(server.operations) == {young}
    done = run("operations", "clean", "--older-than", "1h", "--state", "failed", "--yes", "--target", target)
    assert "1 operation deleted" in done.stdout
    assert not server.operations


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 1)])
def test_clean_asks_on_a_terminal(answer: str, code: int, left: int, server: OperationsServer, target: str) -> None:
    server.add(1, "succeeded", ended_ago=8 * DAY, result=dissection(1))
    with Terminal("operations", "clean", "--older-than", "7d", "--target", target) as terminal:
        terminal.until(lambda text: "Delete 1 operation? [y/N]:" in text)
        terminal.type(answer)
        terminal.until(lambda text: ("1 operation deleted" if left == 0 else "Nothing was deleted.") in text)
        assert terminal.process.wait(60) == code
    assert len(server.operations) == left


@pytest.mark.parametrize(
    "arguments",
    [
        ["operations", "clean"],
        ["operations", "clean", "--older-than", "soon"],
        ["operations", "clean", "--older-than", "7d", "--state", "running"],
        ["operations", "wait", "1", "--give-up-after", "-1s"],
        ["dissect", "m", "--tap", "t", "--dataset", "d", "--time-limit", "0s"],
        ["examples", "m", "--tap", "t", "--dataset", "d", "--time-limit", "2 hours"],
    ],
)
def test_wrong_usage_ends_with_two(arguments: list[str], target: str) -> None:
    assert run(*arguments, "--target", target, code=2).stdout == ""


def test_help_teaches_with_examples() -> None:
    whole = run("operations", "--help").stdout
    for name in ("list", "watch", "show", "wait", "cancel", "delete", "clean"):
        assert re.search(rf"^. {name} ", whole, re.MULTILINE)
        assert re.search(
            rf"^ ortoscope (--target \S+ )?operations {name}", run("operations", name, "--help").stdout, re.MULTILINE
        )
    for name in ("dissect", "examples"):
        assert "--time-limit" in run(name, "--help").stdout
