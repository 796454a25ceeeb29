"""The commands `ortoscope visualize`, `presets` and `test-patch` against a real server."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ortoscope
import pytest
from browser import chromium, opened
from command_line import command, environment, run, run_json
from ortoscope.objectives import channel, class_logit, neuron
from ortoscope.picture_specs import read_spec
from pictures import encode, photo
from PIL import Image
from playwright.sync_api import Browser, expect
from visualization_server import SMALL, running_visualization_server

SHORT = ("--set", "size=16", "--set", "recipe.steps=12")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_visualization_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def model(target: str) -> Iterator[ortoscope.Model]:
    with ortoscope.connect(target) as scope:
        yield scope.model("cnn")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_a_picture_is_saved_and_makes_itself_again(target: str, model: ortoscope.Model, tmp_path: Path) -> None:
    path = tmp_path / "unit3.png"
    words = ("visualize", "cnn", "--tap", "relu1", "--unit", "3", "--seed", "2", *SHORT)
    done = run(*words, "-o", path, "--target", target)
    expected = model.visualize(channel("relu1", 3), seed=2, settings=SMALL)
    assert path.read_bytes() == expected[0].png
    lines = done.stdout.splitlines()
    assert lines[0] == "channel('relu1', 3)"
    assert lines[1] == expected.describe()
    assert lines[-1] == f"Saved {path}"
    assert "visualize: step" in done.stderr
    again = run("visualize", "--again", path, "-o", tmp_path / "again.png", "--target", target)
    assert f"The same bytes as {path}" in again.stdout
    assert (tmp_path / "again.png").read_bytes() == path.read_bytes()


def test_a_picture_that_is_not_the_same_again_says_so(target: str, tmp_path: Path) -> None:
    path = tmp_path / "unit.png"
    run("visualize", "cnn", "--tap", "relu1", "--unit", "1", *SHORT, "-o", path, "--target", target)
    with Image.open(path) as picture:
        from PIL import PngImagePlugin

        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("ortoscope:spec", json.dumps({**read_spec(path), "seed": 99}))
        picture.save(path, pnginfo=texts)
    done = run("visualize", "--again", path, "--target", target, code=1)
    assert f"Not the same bytes as {path}" in done.stdout


@pytest.mark.parametrize(
    ("options", "objective"),
    [
        (["--tap", "relu1", "--unit", "2", "--negative"], -channel("relu1", 2)),
        (["--tap", "relu1", "--unit", "2", "--neuron"], neuron("relu1", 2)),
        (["--tap", "relu1", "--unit", "2", "--neuron", "--site", "0,-1"], neuron("relu1", 2, (0, -1))),
        (["--class", "3"], class_logit(3)),
        (["--objective", "{file}"], channel("relu1", 3) - 0.5 * channel("relu1", 7)),
    ],
)
def test_options_choose_the_objective(
    target: str, model: ortoscope.Model, options: list[str], objective: ortoscope.VisualizationObjective, tmp_path: Path
) -> None:
    file = tmp_path / "objective.json"
    file.write_text(json.dumps((channel("relu1", 3) - 0.5 * channel("relu1", 7)).to_data()))
    words = [word.format(file=file) for word in options]
    path = tmp_path / "out.png"
    run("visualize", "cnn", *words, *SHORT, "-o", path, "--target", target)
    assert path.read_bytes() == model.visualize(objective, settings=SMALL)[0].png


def test_a_class_is_named_by_its_label(target: str, tmp_path: Path) -> None:
    words = ("visualize", "classes", "--class", "zebra", "--set", "size=48", "--set", "recipe.steps=3")
    shown = run(*words, "--preset", "robust", "--target", target).stdout
    assert shown.startswith("class_logit('zebra')\n")
    assert "Save it with -o OUT.png" in shown


def test_items_go_to_numbered_files_and_arrays_to_one(target: str, tmp_path: Path) -> None:
    words = ("visualize", "cnn", "--tap", "relu1", "--unit", "3", "--items", "2", *SHORT, "--target", target)
    shown = run(*words, "-o", tmp_path / "out.png").stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-1.png", "out-2.png"]
    assert re.search(r"^1: objective .*\n2: objective ", shown, re.MULTILINE)
    run(*words, "-o", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["values"].shape == (2, 3, 16, 16)
        assert arrays["history"].shape == (12, 2)


def test_what_the_time_budget_left_out_of_a_comparison_is_said(target: str) -> None:
    words = ("visualize", "cnn", "--tap", "relu1", "--unit", "5", "--set", "size=16", "--set", "recipe.steps=1100")
    compared = ("--compare", "photos", "--compare-seeds", "16", "--time-budget", "1s")
    shown = run(*words, *compared, "--target", target)
    assert re.search(r"The time was over before \d+ of the climbs from other seeds came to their end", shown.stderr)
    assert re.search(r"^least +", shown.stdout, re.MULTILINE)  # images are compared with in any case


def test_frames_are_an_animation_that_ends_with_the_picture(target: str, tmp_path: Path) -> None:
    words = ("visualize", "cnn", "--tap", "relu1", "--unit", "4", "--seed", "8", *SHORT, "--target", target)
    run(*words, "-o", tmp_path / "out.png", "--frames", tmp_path / "out.webp")
    with Image.open(tmp_path / "out.webp") as frames, Image.open(tmp_path / "out.png") as picture:
        assert frames.n_frames >= 2  # type: ignore[attr-defined]
        frames.seek(frames.n_frames - 1)  # type: ignore[attr-defined]
        last, final = (np.asarray(image.convert("RGB"), float) for image in (frames, picture))
    assert np.abs(last - final).mean() < 12  # WebP is lossy


def test_a_start_is_given_as_a_file_or_an_image_of_a_dataset(target: str, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(encode(photo(16, 16), "PNG"))
    words = ("visualize", "cnn", "--tap", "relu1", "--unit", "2", "--preset", "accentuate", *SHORT, "--target", target)
    for name in (str(tmp_path / "cat.png"), "datasets/photos/images/1"):
        run(*words, "--start", name, "-o", tmp_path / "out.png")
        assert "start" in read_spec(tmp_path / "out.png")
    failed = run(*words, code=1)
    assert "START_MISSING" in failed.stderr


def test_a_comparison_shows_the_images_at_either_end(target: str) -> None:
    words = ("visualize", "cnn", "--tap", "relu1", "--unit", "3", *SHORT, "--target", target)
    shown = run(*words, "--compare", "photos").stdout
    assert re.search(r"above \d+(\.\d+)? % of 5 images \(the largest of theirs is ", shown)
    assert len(re.findall(r"^most +\S+ +[ab]/\d.png$", shown, re.MULTILINE)) == 4
    assert len(re.findall(r"^least +\S+ +[ab]/\d.png$", shown, re.MULTILINE)) == 4


def test_several_units_go_to_a_folder_with_a_gallery(
    target: str, model: ortoscope.Model, browser: Browser, tmp_path: Path
) -> None:
    folder = tmp_path / "sheet"
    words = ("visualize", "cnn", "--tap", "relu1", "--units", "0-2,5", *SHORT, "--target", target)
    shown = run(*words, "--compare", "photos", "-o", folder).stdout
    assert "4 units of relu1 of cnn/1, 16 x 16 pixels each, preset lucid." in shown
    assert f"Report: {folder / 'gallery.html'}" in shown
    with np.load(folder / "pictures.npz") as arrays:
        assert arrays["unit"].tolist() == [0, 1, 2, 5]
        assert arrays["picture"].shape == (4, 16, 16, 3)
    with opened(browser, folder / "gallery.html") as page:
        expect(page.locator(".card")).to_have_count(4)
        first = page.locator("#unit-0")
        first.locator("canvas").nth(8).wait_for()
        assert first.locator(".found canvas[data-drawn]").count() == 1
        assert first.locator(".end canvas[data-drawn]").count() == 8
        assert page.locator(".shot.missing").count() == 0
        again = page.locator(".provenance pre").inner_text()
    assert (
        again
        == (
            "ortoscope visualize cnn/1 --tap relu1 --units 0-2,5 --preset lucid --set recipe.steps=12 --set size=16 "
            "--seed 0 -o sheet"
        )
        or "--set 'size=[16, 16]'" in again
    )
    assert "The same bytes as" in run("visualize", "--again", folder / "sheet.png", "--target", target).stdout
    data = run_json(
        "visualize", "cnn", "--tap", "relu1", "--unit", "1", "--unit", "5", *SHORT, "--json", "--target", target
    )
    assert data["spec"]["units"] == ["1", "5"]


def test_a_sheet_can_be_waited_for_later(target: str, tmp_path: Path) -> None:
    words = ("visualize", "cnn", "--tap", "relu1", "--units", "all", *SHORT, "--no-wait", "--target", target)
    name = run(*words).stdout.strip()
    shown = run("operations", "wait", name, "-o", tmp_path / "sheet", "--target", target).stdout
    assert "8 units of relu1" in shown
    assert (tmp_path / "sheet" / "gallery.html").exists()


def test_presets_are_listed_and_shown(target: str) -> None:
    shown = run("presets", "--target", target).stdout
    assert re.search(r"^lucid +\S.* 512 +at random ", shown, re.MULTILINE)
    assert re.search(r"^deepdream .* a picture ", shown, re.MULTILINE)
    one = run("presets", "maco", "--target", target).stdout
    assert one.startswith("maco: ")
    assert re.search(r"^  recipe.steps +256$", one, re.MULTILINE)
    data = run_json("presets", "lucid", "--json", "--target", target)
    assert data["presets"][0]["settings"]["recipe.steps"] == "512"
    assert "UNKNOWN_PRESET" in run("presets", "lucent", "--target", target, code=1).stderr


def test_a_patch_is_tested_over_a_folder(target: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encode(photo(20, 16, seed=seed), "PNG"))
    (folder / "notes.txt").write_text("no picture")
    (tmp_path / "patch.png").write_bytes(encode(photo(8, 8, seed=9), "PNG"))
    words = ("test-patch", "classes", "--patch", tmp_path / "patch.png", "--over", folder, "--target", target)
    shown = run(*words, "--size", "0.5", "--place", "top_left", "--place", "centre").stdout.splitlines()
    assert shown[0] == "3 pictures, and how many a patch changes"
    assert re.split(r"  +", shown[1].strip()) == [
        "size", "place", "pictures", "flips", "flip rate", "with noise", "probability", "noise's",
    ]  # fmt: skip
    assert [line.split()[0] for line in shown[2:]] == ["0.5", "0.5"]
    data = run_json(*words, "--class", "zebra", "--json")
    assert data["target"]["label"] == "Zebra"
    assert len(data["trials"]) == 16
    assert run(*words, "--place", "middle", code=2).stdout == ""
    (tmp_path / "empty").mkdir()
    assert run(*words[:4], "--over", tmp_path / "empty", "--target", target, code=2).stdout == ""


def test_an_interrupt_stops_the_climb(target: str) -> None:
    words = ("visualize", "cnn", "--tap", "relu1", "--unit", "0", "--set", "size=16", "--set", "recipe.steps=20000")
    with subprocess.Popen(
        command(*words, "--target", target), stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("visualize: ")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "Interrupted; the server stops." in rest
    began = time.monotonic()
    run("visualize", "cnn", "--tap", "relu1", "--unit", "0", *SHORT, "--seed", "123", "--target", target)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tap", "nope", "--unit", "0"], "UNKNOWN_TAP"),
        (["--tap", "relu1", "--unit", "8"], "INVALID_UNIT"),
        (["--class", "tabby"], "CLASS"),
        (["--tap", "relu1", "--unit", "0", "--preset", "lucent"], "UNKNOWN_PRESET"),
        (["--tap", "relu1", "--unit", "0", "--set", "recipe.step=2"], "UNKNOWN_SETTING"),
        (["--tap", "relu1", "--units", "6-9"], "INVALID_UNIT"),
    ],
)
def test_an_error_is_one_message(arguments: list[str], reason: str, target: str, tmp_path: Path) -> None:
    words = ["visualize", "cnn", *arguments, *SHORT, "--target", target]
    failed = run(*words, code=1)
    assert failed.stdout == ""
    assert reason in failed.stderr
    assert reason in run_json(*words, "--json", code=1)["error"]["reason"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--tap", "relu1"],
        ["--unit", "3"],
        ["--tap", "relu1", "--unit", "3", "--class", "1"],
        ["--tap", "relu1", "--unit", "3", "--units", "0-3"],
        ["--tap", "relu1", "--units", "3-0"],
        ["--tap", "relu1", "--units", "0,0"],
        ["--tap", "relu1", "--units", "x"],
        ["--tap", "relu1", "--unit", "1", "--unit", "1"],
        ["--tap", "relu1", "--unit", "1", "--unit", "2", "--items", "2"],
        ["--tap", "relu1", "--unit", "1", "--unit", "2", "-o", "out.png"],
        ["--tap", "relu1", "--unit", "1", "--site", "0,0"],
        ["--tap", "relu1", "--unit", "1", "--set", "size"],
        ["--tap", "relu1", "--unit", "1", "--set", "size=1", "--set", "size=2"],
        ["--tap", "relu1", "--unit", "1", "--no-wait"],
        ["--tap", "relu1", "--unit", "1", "-o", "out.jpg"],
        ["--tap", "relu1", "--unit", "1", "--frames", "out.gif"],
        ["--tap", "relu1", "--unit", "1", "--again", "out.png"],
        ["--objective", "missing.json"],
        ["--tap", "relu1", "--unit", "1", "--seed", "9223372036854775808"],
    ],
)
def test_wrong_usage_ends_with_two(options: list[str], target: str) -> None:
    assert run("visualize", "cnn", *options, "--target", target, code=2).stdout == ""


@pytest.mark.parametrize("content", ["{", '{"chanel": {}}', '{"constant": NaN}'])
def test_an_objective_that_cannot_be_read_is_wrong_usage(content: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "objective.json").write_text(content)
    words = ("visualize", "cnn", "--objective", tmp_path / "objective.json", "--target", target)
    assert "objective.json" in re.sub(r"[│\s]", "", run(*words, code=2).stderr)


def test_a_folder_with_other_files_is_refused_before_any_work(target: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    words = ("visualize", "cnn", "--tap", "relu1", "--units", "0-1", *SHORT, "-o", tmp_path, "--target", target)
    assert "FOLDER_NOT_EMPTY" in run(*words, code=1).stderr


def test_help_teaches_with_examples() -> None:
    for name in ("visualize", "presets", "test-patch"):
        shown = run(name, "--help").stdout
        assert len(re.findall(rf"^ ortoscope (?:{name}|visualize)", shown, re.MULTILINE)) >= 2
    assert "--again" in run("visualize", "--help").stdout
