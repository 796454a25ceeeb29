"""The command `ortoscope-server` as an operator runs it: a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import typer
from onboarding_models import saved, write_photos
from ortoscope_service.commands import _channels, _size, app
from ortoscope_service.config import Limits, ServerConfig
from ortoscope_service.errors import OrtoscopeError
from tiny_models import tiny_cnn
from typer.testing import CliRunner


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ortoscope_service", *map(str, arguments)]


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=240, cwd=cwd, env=environment, check=False
    )


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    write_photos(folder / "photos", 4)
    return saved(tiny_cnn(1), folder / "net.onnx")


def test_prepare_writes_a_version_and_reports(net: Path, tmp_path: Path) -> None:
    done = run("prepare", net, "--models", tmp_path, "--images", net.parent / "photos")
    assert done.returncode == 0, done.stderr
    assert "net/1  prepared" in done.stdout
    assert "NOT VERIFIED" in done.stdout
    assert "taps (10)" in done.stdout
    assert "warning: THE PREPROCESSING IS A GUESS" in done.stderr
    assert {path.name for path in (tmp_path / "net" / "1").iterdir()} == {"model.onnx", "manifest.toml"}


def test_json_is_one_object_on_stdout(net: Path, tmp_path: Path) -> None:
    arguments = (
        "--images",
        net.parent / "photos",
        "--mean",
        "127",
        "127.5",
        "128",
        "--std",
        "1,2,3",
        "--name",
        "other",
    )
    done = run("prepare", net, "--models", tmp_path, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert document["name"] == "models/other/versions/1"
    assert document["inputs"][0]["preprocessing"]["mean"] == [127, 127.5, 128]
    assert document["inputs"][0]["preprocessing"]["std"] == [1, 2, 3]


def test_an_error_is_one_line_with_the_remedy_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"garbage")
    done = run("prepare", tmp_path / "net.onnx", "--models", tmp_path / "models")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: This is not an ONNX model\..* \[NOT_ONNX\]", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


def test_expose_writes_an_onnx_file(net: Path, tmp_path: Path) -> None:
    done = run("expose", net, "--tap", "relu1", "--tap", "add", "-o", tmp_path / "out.onnx", "--json")
    assert json.loads(done.stdout) == {"taps": {"relu1": "relu1", "add": "add"}, "outputs": ["logits", "relu1", "add"]}
    assert [output.name for output in onnx.load(tmp_path / "out.onnx").graph.output] == ["logits", "relu1", "add"]


def test_backward_and_tangent_write_onnx_files_and_report(net: Path, tmp_path: Path) -> None:
    done = run("backward", net, "--tap", "relu1", "--at", "image", "-o", tmp_path / "backward.onnx")
    assert done.returncode == 0, done.stderr
    assert "backward graph of 'relu1'" in done.stdout
    assert re.search(r"gradient\.image +float32 +n x 3 x 16 x 16", done.stdout)
    assert "bound to 1, which was rewritten, verified" in done.stdout
    done = run("tangent", net, "--tap", "pooled", "-o", tmp_path / "tangent.onnx", "--json")
    document = json.loads(done.stdout)
    assert document["kind"] == "tangent"
    assert [output["name"] for output in document["outputs"]] == ["logits", "tangent.logits"]
    for name in ("backward.onnx", "tangent.onnx"):
        onnx.checker.check_model(onnx.load(tmp_path / name), full_check=True)


def test_a_relaxation_that_there_is_not_is_refused_with_those_that_there_are(net: Path, tmp_path: Path) -> None:
    done = run("backward", net, "--tap", "relu1", "--relax", "guide", "-o", tmp_path / "out.onnx")
    assert done.returncode == 2
    assert "guided" in done.stderr
    assert "[UNKNOWN_RELAXATION]" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_prepare_keeps_backward_graphs(net: Path, tmp_path: Path) -> None:
    common = ("prepare", net, "--models", tmp_path, "--images", net.parent / "photos", "--json")
    done = run(*common, "--backward", "relu1")
    assert done.returncode == 0, done.stderr
    (graph,) = json.loads(done.stdout)["backward"]
    assert (graph["tap"], graph["origin"], graph["check"]["outcome"]) == ("relu1", "built", "passed")
    stored = tmp_path / "net" / "1" / "backward" / "relu1.onnx"
    done = run(*common, "--backward-graph", f"relu1={stored}")
    assert json.loads(done.stdout)["backward"][0]["origin"] == "given"
    done = run(*common, "--backward-graph", "relu1")
    assert done.returncode == 2
    assert "[INVALID_BACKWARD_GRAPH]" in done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--backward"], [""]),
        (["--backward", "--json"], [""]),
        (["--backward", "relu1", "--backward"], ["relu1", ""]),
        (["--backward=relu1", "--backward", "add"], ["relu1", "add"]),
    ],
)
def test_backward_may_name_a_tap_or_none(given: list[str], expected: list[str]) -> None:
    command = typer.main.get_command(app).commands["prepare"]  # type: ignore[attr-defined]
    context = command.make_context("prepare", ["net.onnx", "--models", "models", *given])
    assert context.params["backward"] == expected


def test_the_zoo_lists_its_models_and_wants_to_know_where_one_goes() -> None:
    done = run("zoo", "--json")
    listed = {model["name"] for model in json.loads(done.stdout)["models"]}
    assert listed == {"efficientnet-lite0", "character-lstm", "scene-generator", "scene-denoiser"}
    assert run("zoo", "efficientnet-lite0").returncode == 2


def test_scenes_are_drawn_and_validated(tmp_path: Path) -> None:
    assert run("render-scenes", tmp_path / "scenes", "--count", 3).returncode == 0
    done = run("validate", tmp_path / "scenes", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"valid": True, "findings": []})
    (tmp_path / "scenes" / "category.csv").unlink()
    done = run("validate", tmp_path / "scenes", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert not document["valid"]
    assert {"severity", "reason", "path", "line", "message"} == set(document["findings"][0])
    assert "category.csv" in run("validate", tmp_path / "scenes").stdout


def test_serve_listens_until_it_is_told_to_stop(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    folders = ("--models", tmp_path / "models", "--store", tmp_path / "store")
    with subprocess.Popen(
        command("serve", *folders, "--listen", "127.0.0.1:0"), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert any("listening on 127.0.0.1:" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_serve_takes_the_limits_of_visualizations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ServerConfig] = []
    monkeypatch.setattr("ortoscope_service.api.server.serve", served.append)
    folders = ("--models", str(tmp_path), "--store", str(tmp_path / "store"))
    words = "--visualizations 3 --waiting-visualizations 7 --visualization-items 5 --visualization-pixels 1000"
    for options in ((), (*words.split(), "--visualization-steps", "40")):
        assert CliRunner().invoke(app, ["serve", *folders, *options]).exit_code == 0
    usual, changed = served
    assert usual == ServerConfig(tmp_path, tmp_path / "store", limits=Limits())
    assert changed.visualizations.at_once == 3
    limits = Limits(
        max_visualization_items=5,
        max_visualization_pixels=1000,
        max_visualization_steps=40,
        max_waiting_visualizations=7,
    )
    assert changed.limits == limits
    assert CliRunner().invoke(app, ["serve", *folders, "--visualizations", "0"]).exit_code == 2


def test_serve_refuses_what_it_must(tmp_path: Path) -> None:
    folders = ("--models", tmp_path, "--store", tmp_path / "store")
    exposed = run("serve", *folders, "--listen", "0.0.0.0:0")
    assert exposed.returncode == 2
    assert "insecure" in exposed.stderr
    half = run("serve", *folders, "--tls-key", tmp_path / "key.pem")
    assert half.returncode == 2
    assert "INCOMPLETE_TLS" in half.stderr


def test_help_teaches_and_every_option_and_argument_is_explained() -> None:
    text = run("--help").stdout
    for name in ("serve", "prepare", "expose", "backward", "tangent", "zoo", "render-scenes", "validate"):
        assert re.search(rf"\b{name}\b", text)
    assert "ortoscope-server zoo efficientnet-lite0 --models models" in text
    group = typer.main.get_command(app)
    for name, subcommand in group.commands.items():  # type: ignore[attr-defined]
        assert subcommand.help, name
        for parameter in subcommand.params:
            assert parameter.help, (name, parameter.name)


def test_no_command_imports_onnx_runtime_for_help() -> None:
    script = "import sys, ortoscope_service.commands; sys.exit('onnxruntime' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (["127"], (127, 127, 127)),
        (["-1.5e1"], (-15, -15, -15)),
        (["123.675,116.28,103.53"], (123.675, 116.28, 103.53)),
        (["123.675, 116.28 103.53"], (123.675, 116.28, 103.53)),
        (["1", "2", "3"], (1, 2, 3)),
    ],
)
def test_a_mean_is_one_number_or_three(given: list[str] | None, expected: tuple[float, ...] | None) -> None:
    assert _channels(given, "mean") == expected


@pytest.mark.parametrize("given", [["a"], ["1,2"], ["1", "2"], ["1,2,3,4"], ["1,,b"], [","]])
def test_anything_else_is_refused(given: list[str]) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        _channels(given, "std")
    assert caught.value.reason == "INVALID_STD"


@pytest.mark.parametrize(("given", "expected"), [("224", (224, 224)), ("240x320", (240, 320)), ("8X9", (8, 9))])
def test_a_size_is_one_number_or_two(given: str, expected: tuple[int, int]) -> None:
    assert _size(given) == expected


@pytest.mark.parametrize("given", ["", "0", "axb", "1x2x3", "-5", "2.5", "x"])
def test_any_other_size_is_refused(given: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        _size(given)
    assert caught.value.reason == "INVALID_SIZE"
