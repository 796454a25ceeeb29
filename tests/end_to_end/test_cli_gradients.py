"""The commands `ortoscope gradient` and `ortoscope attribute` against a real server."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ortoscope
import pytest
from command_line import run, run_json
from gradient_models import LABELS
from gradient_server import running_gradient_server
from pictures import encode, photo
from PIL import Image


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_gradient_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "cat.png"
    path.write_bytes(encode(photo(20, 16), "PNG"))
    return str(path)


@pytest.fixture(scope="module")
def model(target: str) -> Iterator[ortoscope.Model]:
    with ortoscope.connect(target) as scope:
        yield scope.model("pictures")


def test_gradient_prints_a_table_and_saves_arrays(
    target: str, picture: str, model: ortoscope.Model, tmp_path: Path
) -> None:
    path = tmp_path / "gradient.npz"
    shown = run(
        "gradient", "pictures", picture, "datasets/photos/images/0", "--class", "tabby", "-o", path, "--target", target
    ).stdout
    expected = model.gradient([picture, "datasets/photos/images/0"], ortoscope.Objective.class_logit(1))
    with np.load(path) as arrays:
        assert np.array_equal(arrays["image"], expected.only)
        assert np.array_equal(arrays["objective"], expected.objective)
    lines = shown.splitlines()
    assert lines[0] == "Gradient of the logit of class 1 (tabby, tabby cat)"
    assert re.split(r"  +", lines[1]) == ["image", "value", "gradient at", "length", "largest"]
    for line, value, gradient in zip(lines[2:4], expected.objective, expected.only, strict=True):
        cells = line.split()
        assert [float(cells[1]), float(cells[3]), float(cells[4])] == pytest.approx(
            [value, np.linalg.norm(gradient), np.abs(gradient).max()], rel=1e-3
        )
    assert lines[4] == f"Saved objective, image to {path}"


@pytest.mark.parametrize(
    ("options", "objective"),
    [
        (["--tap", "relu2", "--unit", "2"], ortoscope.Objective.channel_mean("relu2", 2)),
        (["--tap", "relu2", "--unit", "2", "--site", "1,-1"], ortoscope.Objective.unit("relu2", 2, (1, -1))),
        (["--class", "0", "--probability"], ortoscope.Objective.class_probability(0)),
        (["--class", "ZEBRA"], ortoscope.Objective.class_logit(4)),
    ],
)
def test_options_choose_the_objective(
    target: str, picture: str, model: ortoscope.Model, options: list[str], objective: ortoscope.Objective
) -> None:
    data = run_json("gradient", "pictures", picture, *options, "--json", "--target", target)
    sent = np.frombuffer(base64.b64decode(data["gradients"][0]["gradient"]["data"]), "<f4")
    assert np.array_equal(sent.reshape(1, 3, 6, 5), model.gradient(picture, objective).only)


def test_gradients_at_taps_times_their_value(target: str, picture: str, model: ortoscope.Model, tmp_path: Path) -> None:
    path = tmp_path / "gradient.npz"
    words = ("gradient", "pictures", picture, "--class", "0", "--at", "conv", "--at", "relu2", "--times-input")
    shown = run(*words, "-o", path, "--target", target).stdout
    expected = model.gradient(picture, ortoscope.Objective.class_logit(0), at=["conv", "relu2"], reduce="times_value")
    with np.load(path) as arrays:
        assert set(arrays.files) == {"objective", "conv", "relu2"}
        assert np.array_equal(arrays["relu2"], expected["relu2"].values)
    assert [line.split()[2] for line in shown.splitlines()[2:4]] == ["conv", "relu2"]


@pytest.mark.parametrize("options", [[], ["--signed"], ["--at", "relu"]])
def test_a_picture_shows_image_and_gradient_side_by_side(
    target: str, picture: str, options: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "saliency.png"
    words = ("gradient", "pictures", picture, "datasets/photos/images/1", "--tap", "conv2", "--unit", "0")
    shown = run(*words, *options, "-o", path, "--target", target).stdout
    assert f"Saved the picture to {path}" in shown
    with Image.open(path) as drawn:
        side = (5 * 75, 6 * 75)
        assert (drawn.format, drawn.size) == ("PNG", (2 * side[0] + 8, 2 * side[1] + 8))
        pixels = np.asarray(drawn).astype(int)
    seen = pixels[: side[1], : side[0]]
    assert seen.std() > 10
    heat = pixels[: side[1], side[0] + 8 :]
    assert len(np.unique(heat.reshape(-1, 3), axis=0)) > 3


def test_an_array_has_a_heat_map_alone(target: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((3, 6, 5)))
    words = ("gradient", "pictures", tmp_path / "x.npy", "--class", "0", "-o", tmp_path / "a.png")
    run(*words, "--target", target)
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size == (5 * 75, 6 * 75)


def test_attribute_shows_classes_of_the_whole_tap(target: str, picture: str, model: ortoscope.Model) -> None:
    words = ("attribute", "pictures", picture, "--tap", "relu2", "--top", "3")
    lines = run(*words, "--target", target).stdout.splitlines()
    found = model.attribute(picture, "relu2")
    assert lines[0] == f"{picture} · relu2"
    assert lines[1].split() == ["class", "name", "logit", "attribution"]
    best = found.best_classes(0, 3)
    assert [int(line.split()[0]) for line in lines[2:]] == best
    for line, index in zip(lines[2:], best, strict=True):
        assert LABELS[index] in line
        assert float(line.split()[-1]) == pytest.approx(found.totals[0, index], rel=1e-3)


def test_attribute_shows_units_and_sites_of_the_best_classes(
    target: str, picture: str, model: ortoscope.Model, tmp_path: Path
) -> None:
    words = ("attribute", "pictures", picture, picture, "--tap", "relu2", "--classes", "2", "--top", "2")
    lines = run(*words, "--per", "unit", "-o", tmp_path / "a.npz", "--target", target).stdout.splitlines()
    found = model.attribute(picture, "relu2", per="unit")
    assert lines[1].split() == ["class", "name", "logit", "unit", "attribution"]
    expected = [row for index in found.best_classes(0, 2) for row in found.top(0, 2, [index])]
    assert [int(line.split()[-2]) for line in lines[2:6]] == [row.part[0] for row in expected]
    assert len(lines) == 13
    assert lines[-1] == f"Saved attributions, totals, scores, units to {tmp_path / 'a.npz'}"
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["attributions"].shape == (2, 4, 5)
        assert np.allclose(arrays["attributions"][0], found.values[0], atol=1e-5)
    data = run_json(*words, "--per", "site", "--probability", "--json", "--target", target)
    assert data["granularity"] == "GRANULARITY_SITES"
    assert data["score"] == "SCORE_PROBABILITY"
    assert [len(entry["classes"]) for entry in data["top_classes"]] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["gradient", "pictures", "{picture}", "--class", "taby"], "UNKNOWN_CLASS"),
        (["gradient", "pictures", "{picture}", "--class", "crane"], "AMBIGUOUS_CLASS"),
        (["gradient", "pictures", "{picture}", "--tap", "nope", "--unit", "0"], "UNKNOWN_TAP"),
        (["gradient", "pictures", "{picture}", "--tap", "relu2", "--unit", "9"], "INVALID_UNIT"),
        (["gradient", "pictures", "{picture}", "--class", "0", "--relax", "smooth"], "UNKNOWN_RELAXATION"),
        (["gradient", "pictures", "{picture}", "--class", "0", "--at", "pooled", "-o", "{folder}/a.png"], "GRADIENT_"),
        (["attribute", "pictures", "{picture}", "--tap", "logits"], "NO_HEAD"),
        (["attribute", "pictures", "{picture}", "--tap", "relu2", "--relax", "guided"], "RELAXATION_NOT_LINEAR"),
    ],
)  # fmt: skip
def test_an_error_is_one_message(arguments: list[str], reason: str, target: str, picture: str, tmp_path: Path) -> None:
    words = [word.format(picture=picture, folder=tmp_path) for word in arguments]
    failed = run(*words, "--target", target, code=1)
    assert failed.stdout == ""
    assert reason in failed.stderr
    error = run_json(*words, "--json", "--target", target, code=1)["error"]
    assert error["reason"].startswith(reason)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--tap", "relu2"],
        ["--tap", "relu2", "--unit", "0", "--class", "1"],
        ["--class", "1", "--site", "0,0"],
        ["--class", "1", "--unit", "0"],
        ["--tap", "relu2", "--unit", "0", "--probability"],
        ["--tap", "relu2", "--unit", "0", "--site", "x"],
        ["--class", "1", "-o", "gradient.jpg"],
        ["--class", "1", "--at", "conv", "--at", "relu2", "-o", "gradient.png"],
    ],
)
def test_wrong_usage_ends_with_two(options: list[str], target: str, picture: str) -> None:
    assert run("gradient", "pictures", picture, *options, "--target", target, code=2).stdout == ""


def test_help_teaches_with_examples() -> None:
    for name in ("gradient", "attribute"):
        shown = run(name, "--help").stdout
        assert len(re.findall(rf"^ ortoscope {name} [^\[]", shown, re.MULTILINE)) >= 3
    assert "99th percentile" in " ".join(run("gradient", "--help").stdout.split())
