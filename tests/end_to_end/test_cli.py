"""The command `ortoscope` as a user runs it: a process of its own against a real server."""

import base64
import csv
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ortoscope
import pytest
from client_server import running_server
from command_line import command, environment, run, run_json
from ortoscope.cli.app import app
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository
from pictures import encode, photo
from serving import add_model
from tiny_models import GraphBuilder, float_value

LABELS = ("--dataset", "labelled")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def target(folder: Path) -> Iterator[str]:
    with running_server(folder) as address:
        yield address


@pytest.fixture(scope="module")
def tap(target: str) -> str:
    """The name of a map."""
    with ortoscope.connect(target) as scope:
        return next(tap.tensor for tap in scope.model("cnn").taps() if len(tap.site_axes) == 2)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "cat.png"
    path.write_bytes(encode(photo(20, 16), "PNG"))
    return str(path)


@pytest.mark.parametrize(
    "order",
    [
        ["--target", "{}", "--json", "models"],
        ["models", "--target", "{}", "--json"],
        ["--json", "models", "--target", "{}"],
        ["--target", "{}", "operations", "--json", "list"],
        ["operations", "--target", "{}", "list", "--json"],
        ["--json", "operations", "list", "--target", "{}"],
    ],
)
def test_target_and_json_stand_before_or_after_the_command(order: list[str], target: str) -> None:
    data = run_json(*[word.format(target) for word in order])
    assert data.keys() <= {"models", "operations"}


def test_the_target_may_come_from_the_environment_and_an_option_comes_first(target: str) -> None:
    assert run_json("models", "--json", ORTOSCOPE_TARGET=target)["models"]
    assert run_json("--target", target, "models", "--json", ORTOSCOPE_TARGET="127.0.0.1:1")["models"]
    assert run_json("models", "--target", target, "--json", ORTOSCOPE_TARGET="127.0.0.1:1")["models"]


def test_lists_are_whole_responses_with_all_pages(target: str, tap: str) -> None:
    models = run_json("models", "--json", "--target", target)
    assert [entry["name"] for entry in models["models"]] == [
        f"models/{name}" for name in ("cnn", "fixed", "mlp", "slow", "text", "two-inputs")
    ]
    assert models["models"][0]["latest_version"] == "models/cnn/versions/2"
    assert "next_page_token" not in models
    for name in ("cnn", "cnn/2", "models/cnn/versions/2"):
        taps = run_json("taps", name, "--json", "--target", target)["taps"]
        assert tap in {entry["tensor"] for entry in taps}
        assert all(entry["name"].startswith("models/cnn/versions/2/taps/") for entry in taps)
    datasets = run_json("datasets", "--json", "--target", target)
    assert len(datasets["datasets"]) == 3
    assert datasets["unreadable"] == ["datasets/broken"]


def test_tables_are_readable_and_nothing_is_cut_off_in_a_pipe(target: str, tap: str) -> None:
    assert re.search(r"^cnn +cnn/2 +2$", run("models", "--target", target).stdout, re.MULTILINE)
    taps = run("taps", "cnn", "--target", target, COLUMNS="20").stdout
    assert tap in taps
    assert "…" not in taps
    found = run("taps", "cnn", "--find", tap, "--target", target).stdout
    assert 1 < len(found.splitlines()) <= len(taps.splitlines())
    nothing = run("taps", "cnn", "--find", "xyzzy", "--target", target)
    assert "has 'xyzzy' in a name" in nothing.stderr
    datasets = run("datasets", "--target", target)
    assert re.search(r"^labelled +broden +4 +6 +color, object, part, scene", datasets.stdout, re.MULTILINE)
    assert "`ortoscope validate broken` tells why" in datasets.stderr


def test_capabilities_show_every_limit(target: str) -> None:
    shown = run("capabilities", "--target", target).stdout
    assert re.search(r"^max items per request +3$", shown, re.MULTILINE)
    assert run_json("capabilities", "--json", "--target", target)["limits"]["max_items_per_request"] == 3


def test_activate_shows_units_and_saves_arrays(target: str, tap: str, picture: str, tmp_path: Path) -> None:
    where = ("--target", target, "--tap", tap)
    data = run_json("activate", "cnn", picture, *where, "--top", "2", "--json")
    units = np.frombuffer(base64.b64decode(data["taps"][0]["units"]["data"]), "<i8")
    table = run("activate", "cnn", picture, *where, "--top", "2").stdout
    rows = [line.split() for line in table.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == units.tolist()
    for reduction in ("none", "mean", "max"):
        path = tmp_path / f"{reduction}.npz"
        shown = run("activate", "cnn", picture, picture, *where, "--reduce", reduction, "-o", path, "--top", "2").stdout
        assert f"Saved {tap}" in shown
        with np.load(path) as arrays:
            assert len(arrays[tap]) == 2
        assert shown.count("cat.png") == 2
        first = shown.splitlines()[2].split()
        assert reduction == "mean" or int(first[0]) == units[0]
    with np.load(tmp_path / "none.npz") as maps:
        values = maps[tap]
    site = run_json("activate", "cnn", picture, *where, "--reduce", "site", "--site", "1,-1", "--json")
    sent = np.frombuffer(base64.b64decode(site["taps"][0]["values"]["data"]), "<f4")
    assert np.allclose(sent, values[0, :, 1, -1], rtol=1e-4, atol=1e-6)


def test_activate_names_classes_where_a_tap_is_an_output(target: str) -> None:
    with ortoscope.connect(target) as scope:
        output = scope.model("cnn").outputs[0].name
    shown = run(
        "activate", "cnn", "datasets/photos/images/0", "--tap", output, "--target", target, "--top", "10"
    ).stdout
    assert shown.splitlines()[1].split() == ["unit", "class", "value"]
    assert re.search(r"^ +1 +one ", shown, re.MULTILINE)


def test_validate_fails_if_there_are_errors(target: str) -> None:
    report = run("validate", "broken", "--target", target, code=1).stdout
    assert "not valid" in report
    assert "TABLE_" in report
    data = run_json("validate", "broken", "--json", "--target", target, code=1)
    assert data["finding_count"] == "3"
    assert run_json("validate", "labelled", "--json", "--target", target)["valid"] is True


def test_dissect_writes_the_report_folder(target: str, tap: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("dissect", "cnn", "--tap", tap, *LABELS, "--top-fraction", "0.2", "-o", out, "--target", target)
    assert {path.name for path in out.iterdir()} == {"tally.csv", "dissection.npz", "provenance.json", "index.html"}
    assert re.search(r"^\d+ of \d+ units of .* detect \d+ concepts \(IoU > 0.04\)", done.stdout)
    assert f"Report: {out / 'index.html'}" in done.stdout
    assert "dissect: " in done.stderr
    with np.load(out / "dissection.npz") as arrays, (out / "tally.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
        assert len(rows) == len(arrays["iou"])
        for row in rows:
            unit = int(row["unit"]) - 1
            assert float(row["score"]) == arrays["iou"][unit].max()
    again = tmp_path / "again"
    data = run_json(
        "dissect", "cnn/2", "--tap", tap, *LABELS, "--thresholds", out / "dissection.npz", "-o", again, "--json",
        "--target", target,
    )  # fmt: skip
    assert data["given_thresholds"] is True
    with np.load(out / "dissection.npz") as first, np.load(again / "dissection.npz") as second:
        assert all(np.array_equal(first[name], second[name]) for name in first.files if name != "constant")
    # The same folder again is a newer result of the same kind.
    run("dissect", "cnn", "--tap", tap, *LABELS, "-o", out, "--target", target)


def test_examples_writes_the_report_folder(target: str, tap: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = run_json(
        "examples", "cnn", "--tap", tap, "--dataset", "photos", "--count", "2", "--rank", "min", "-o", out, "--json",
        "--target", target,
    )  # fmt: skip
    assert data["name"].startswith("exampleSets/")
    assert data["spec"]["reduction"] == "REDUCTION_MIN"
    assert {path.name for path in out.iterdir()} == {"examples.npz", "provenance.json", "index.html"}
    with np.load(out / "examples.npz") as arrays:
        assert arrays["most_image"].shape[1] == 2


@pytest.mark.parametrize(("verb", "files"), [("dissect", 4), ("examples", 3)])
def test_wait_writes_what_the_command_would_have(verb: str, files: int, target: str, tap: str, tmp_path: Path) -> None:
    started = run_json(verb, "cnn", "--tap", tap, *LABELS, "--no-wait", "--json", "--target", target)
    assert started["name"].startswith("operations/")
    done = run("operations", "wait", started["name"], "-o", tmp_path / "out", "--target", target)
    assert len(list((tmp_path / "out").iterdir())) == files
    assert "Report: " in done.stdout
    not_waiting = run(verb, "cnn", "--tap", tap, *LABELS, "--no-wait", "-o", tmp_path / "later", "--target", target)
    named = not_waiting.stdout
    assert re.fullmatch(r"operations/\S+\n", named)
    assert f"later: ortoscope operations wait {named.strip()} -o" in not_waiting.stderr
    assert not (tmp_path / "later").exists()
    shown = run_json("operations", "wait", named.strip().removeprefix("operations/"), "--json", "--target", target)
    assert shown["name"].startswith(("dissections/", "exampleSets/"))
    listed = run_json("operations", "list", "--json", "--target", target)
    assert {started["name"], named.strip()} <= {entry["name"] for entry in listed["operations"]}
    assert named.strip() in run("operations", "list", "--target", target).stdout
    assert "succeeded" in run("operations", "show", named.strip(), "--target", target).stdout
    assert run_json("operations", "show", named.strip(), "--json", "--target", target)["done"] is True
    assert run_json("operations", "delete", named.strip(), "--json", "--target", target) == {}
    missing = run("operations", "show", named.strip(), "--target", target, code=1)
    assert "`ortoscope operations list` lists them" in missing.stderr


def test_a_folder_that_must_not_be_written_is_refused_before_any_work(target: str, tap: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    before = len(run_json("operations", "list", "--json", "--target", target).get("operations", []))
    refused = run("dissect", "cnn", "--tap", tap, *LABELS, "-o", tmp_path, "--target", target, code=1)
    assert "thesis.tex" in refused.stderr
    assert "choose a new or empty folder" in refused.stderr
    assert len(run_json("operations", "list", "--json", "--target", target).get("operations", [])) == before
    started = run("dissect", "cnn", "--tap", tap, *LABELS, "--no-wait", "--target", target).stdout.strip()
    refused = run("operations", "wait", started, "-o", tmp_path, "--target", target, code=1)
    assert "choose a new or empty folder" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("arguments", "reason", "advice"),
    [
        (["taps", "nope"], "UNKNOWN_MODEL", "`ortoscope models` lists them"),
        (["taps", "cnn/99"], "UNKNOWN_VERSION", ""),
        (["taps", "a/b/c"], "MODEL_NAME_INVALID", "NAME/VERSION"),
        (["dissect", "cnn", "--tap", "nope", *LABELS], "UNKNOWN_TAP", "`ortoscope taps MODEL --find TEXT`"),
        (["activate", "cnn", "{picture}", "--tap", "nope"], "UNKNOWN_TAP", ""),
        (["activate", "cnn", "nowhere.png", "--tap", "{tap}"], "FILE_ERROR", "nowhere.png"),
        (["activate", "cnn", __file__, "--tap", "{tap}"], "IMAGE_", ""),
        (["activate", "cnn", "{picture}", "--tap", "{tap}", "--reduce", "site"], "SITE_MISSING", "site=(3, 4)"),
        (["dissect", "cnn", "--tap", "{tap}", "--dataset", "nope"], "UNKNOWN_DATASET", "`ortoscope datasets`"),
        (["dissect", "cnn", "--tap", "{tap}", "--dataset", "photos"], "DATASET_NOT_LABELLED", "pixel labels"),
        (["dissect", "cnn", "--tap", "{tap}", "--dataset", "broken"], "DATASET_UNREADABLE", "`ortoscope validate"),
        (["dissect", "cnn", "--tap", "{tap}", *LABELS, "--thresholds", "{picture}"], "THRESHOLDS_UNREADABLE", ".npz"),
        (["dissect", "cnn", "--tap", "{tap}", *LABELS, "--split", "nope"], "UNKNOWN_SPLIT", ""),
        (["operations", "show", "0" * 32], "UNKNOWN_OPERATION", "`ortoscope operations list`"),
    ],
)
def test_an_error_is_one_message_with_what_to_do_next(
    arguments: list[str], reason: str, advice: str, target: str, tap: str, picture: str
) -> None:
    words = [word.format(tap=tap, picture=picture) for word in arguments]
    failed = run(*words, "--target", target, code=1)
    assert failed.stdout == ""
    assert failed.stderr.splitlines()[0].startswith("ortoscope: ") or "dissect" in failed.stderr
    assert reason in failed.stderr
    assert advice in failed.stderr
    error = run_json(*words, "--target", target, "--json", code=1)["error"]
    assert error["reason"].startswith(reason)
    assert error["message"]
    assert re.fullmatch("[A-Z_]+", error["code"])


def test_no_server_is_an_error_that_says_how_to_start_one() -> None:
    failed = run("models", "--target", "127.0.0.1:1", code=1)
    assert "ortoscope-server serve --models DIR --datasets DIR --store DIR --listen 127.0.0.1:1" in failed.stderr
    assert run_json("models", "--json", "--target", "127.0.0.1:1", code=1)["error"]["code"] == "UNAVAILABLE"
    assert run_json("models", "--json", "--target", "a b", code=1)["error"]["reason"] == "TARGET_INVALID"


@pytest.mark.parametrize(
    "arguments",
    [["taps"], ["nope"], ["dissect", "cnn"], ["activate", "cnn", "a", "--tap", "t", "--reduce", "median"],
     ["activate", "cnn", "a", "--tap", "t", "--site", "x"], ["models", "--nope"]],
)  # fmt: skip
def test_wrong_usage_ends_with_two(arguments: list[str], target: str) -> None:
    assert run(*arguments, ORTOSCOPE_TARGET=target, code=2).stdout == ""


def test_help_teaches_with_examples() -> None:
    whole = run("--help").stdout
    for entry in app.registered_commands:
        assert entry.callback is not None
        assert str(entry.name or entry.callback.__name__) in whole
    for name in ("dissect", "examples", "activate", "taps"):
        assert re.search(rf"^ ortoscope {name} [^\[]", run(name, "--help").stdout, re.MULTILINE)
    assert "goes on" in run("operations", "wait", "--help").stdout
    assert run("--version").stdout == f"ortoscope {ortoscope.__version__}\n"


def test_the_installed_command_runs_in_a_process_of_its_own(target: str) -> None:
    installed = Path(sys.executable).with_name("ortoscope")
    done = subprocess.run(
        [installed, "models", "--json"],
        check=True, capture_output=True, text=True, timeout=60, env=environment(ORTOSCOPE_TARGET=target),
    )  # fmt: skip
    assert len(json.loads(done.stdout)["models"]) >= 6
    assert done.stderr == ""


def test_a_broken_pipe_is_quiet(target: str) -> None:
    process = subprocess.Popen(
        command("taps", "slow", "--target", target), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
    process.stderr.close()


@pytest.fixture(scope="module")
def slow_tap(folder: Path, target: str) -> str:
    """A tap of a model of pictures that takes a while, so that there is time to interrupt."""
    g = GraphBuilder(0)
    size, channels = 64, 64
    rng = np.random.default_rng(0)
    first = g.constant("first", rng.standard_normal((channels, 3, 3, 3)).astype(np.float32) / 6)
    inner = g.constant("inner", rng.standard_normal((channels, channels, 3, 3)).astype(np.float32) / 40)
    value = g.node("Conv", ["image", first], "conv", pads=[1, 1, 1, 1])
    for number in range(300):
        value = g.node("Conv", [value, inner], f"conv{number}", pads=[1, 1, 1, 1])
    inputs = [float_value("image", ["n", 3, size, size])]
    model = g.model(inputs, [float_value(value, ["n", channels, size, size])], opset=17)
    preprocessing = Preprocessing("nchw", "rgb", (127.0,) * 3, (128.0,) * 3, "squash", size, size, 18, "a test")
    add_model(ModelRepository(folder / "models"), "sluggish", model, preprocessing=preprocessing)
    return value


def interrupted(target: str, *arguments: str) -> tuple[int, str, str]:
    """Runs a command and sends it SIGINT once it shows progress."""
    process = subprocess.Popen(
        command(*arguments, "--target", target),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stderr is not None
    lines = [process.stderr.readline()]
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, rest = process.communicate(timeout=60)
    return process.returncode, output, "".join(lines) + rest


def state_of(target: str, name: str) -> str:
    with ortoscope.connect(target) as scope:
        return scope.operation(name).wait(timeout=60).state


def test_an_interrupt_cancels_the_operation_that_the_command_started(target: str, slow_tap: str) -> None:
    words = ("examples", "sluggish", "--tap", slow_tap, "--dataset", "photos")
    code, output, errors = interrupted(target, *words, "--json")
    assert code == 130
    assert "Traceback" not in errors
    assert "was asked to cancel operations/" in errors
    error = json.loads(output)["error"]
    assert (error["code"], error["reason"]) == ("CANCELLED", "INTERRUPTED")
    assert state_of(target, error["metadata"]["operation"]) == "cancelled"


def test_an_interrupted_wait_leaves_the_operation_running(target: str, slow_tap: str) -> None:
    words = ("examples", "sluggish", "--tap", slow_tap, "--dataset", "photos")
    name = run(*words, "--no-wait", "--target", target).stdout.strip()
    code, output, errors = interrupted(target, "operations", "wait", name)
    assert (code, output) == (130, "")
    assert f"The operation goes on: ortoscope operations wait {name} -o DIR" in errors
    with ortoscope.connect(target) as scope:
        assert scope.operation(name).state in {"running", "queued"}
    assert "asked to cancel" in run("operations", "cancel", name, "--target", target).stdout
    assert state_of(target, name) == "cancelled"
    failed = run("operations", "wait", name, "--target", target, code=1)
    assert "cancelled" in failed.stderr


def test_a_terminal_shows_a_bar_and_a_table(target: str, tap: str, tmp_path: Path) -> None:
    """On a terminal: colours, a bar that is taken away again, and the result."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command("dissect", "cnn", "--tap", tap, *LABELS, "-o", tmp_path / "out", "--target", target),
        stdout=follower, stderr=follower, stdin=follower, env=environment(TERM="xterm-256color"),
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while select.select([leader], [], [], 60)[0]:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(leader)
    assert process.wait(60) == 0
    assert b"\x1b[2K" in seen
    plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", seen).decode()
    assert "dissect: " in plain
    assert "threshold" in plain
    assert "Report: " in plain
