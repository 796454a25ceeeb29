"""What units do at each position of a text, on a recurrent network whose cells are known in closed form."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ortoscope
import pytest
from ortoscope.errors import FailedPrecondition, InvalidArgument
from ortoscope.report.text import render_text, shown_units
from ortoscope.text import (
    TextActivations,
    Vocabulary,
    activations_of_text,
    activations_of_tokens,
)
from ortoscope.v1 import provenance_pb2
from sequence_models import CHARACTERS, depths, quoted, running_sequence_server

TEXT = 'he said "a (small) story" and ((left)).\nno more "words" here.\n'


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ortoscope.Ortoscope]:
    with running_sequence_server(tmp_path_factory.mktemp("server")) as target, ortoscope.connect(target) as connection:
        yield connection


def read(scope: ortoscope.Ortoscope, tap: str, text: str = TEXT, **options: Any) -> TextActivations:
    model = scope.model("counter")
    return activations_of_text(scope.rpcs, model.proto, model.tap(tap).proto, text, **options)


def made_up(values: np.ndarray, text: str) -> TextActivations:
    return TextActivations(tuple(text), values.astype(np.float32), "m/1", "models/m/versions/1/taps/t", "t",
                           provenance_pb2.Provenance())  # fmt: skip


def test_cells_are_told_after_each_character(scope: ortoscope.Ortoscope) -> None:
    found = read(scope, "lstm.cell")
    assert found.text == TEXT
    assert found.values.shape == (len(TEXT), 2)
    np.testing.assert_allclose(found.unit(0), depths(TEXT), atol=1e-6)
    np.testing.assert_allclose(found.unit(1), quoted(TEXT), atol=1e-6)
    assert (found.model, found.display_name) == ("counter/1", "lstm.cell")


def test_hidden_states_are_those_of_the_cells(scope: ortoscope.Ortoscope) -> None:
    np.testing.assert_allclose(read(scope, "lstm.hidden").values, np.tanh(read(scope, "lstm.cell").values), atol=1e-6)


@pytest.mark.parametrize(("length", "context"), [(63, 0), (20, 7), (20, 19), (1, 0), (7, 3), (1000, 10)])
def test_stretches_join_without_a_seam(scope: ortoscope.Ortoscope, length: int, context: int) -> None:
    found = read(scope, "embedding", length=length, context=context)
    assert "".join(CHARACTERS[token] for token in found.values.argmax(axis=1)) == TEXT


def test_what_came_before_a_stretch_is_its_context(scope: ortoscope.Ortoscope) -> None:
    text = "ab(c)d" * 20
    whole = read(scope, "lstm.cell", text).values[:, 0]
    assert np.array_equal(whole, depths(text))
    # Each stretch begins at a multiple of six, where no bracket is open, so that its own count is the right one.
    assert np.array_equal(read(scope, "lstm.cell", text, length=18, context=6).values[:, 0], whole)
    assert not np.array_equal(read(scope, "lstm.cell", text, length=16, context=0).values[:, 0], whole)


def test_the_unit_that_follows_a_signal_is_found(scope: ortoscope.Ortoscope) -> None:
    found = read(scope, "lstm.cell")
    inside = quoted(TEXT) == 1
    follows = found.following(inside)
    expected = [np.corrcoef(values, inside)[0, 1] for values in (depths(TEXT), quoted(TEXT))]
    np.testing.assert_allclose(follows, expected, atol=1e-6)
    assert follows.argmax() == 1


def test_a_unit_that_is_constant_follows_nothing() -> None:
    assert made_up(np.ones((3, 1)), "abc").following([0, 1, 0]).tolist() == [0]


def test_extracts_are_the_highest_peaks_apart_from_each_other(scope: ortoscope.Ortoscope) -> None:
    found = read(scope, "lstm.cell")
    first, second = found.extracts(0, count=2, around=4)
    assert (first.position, first.value) == (TEXT.index("((") + 1, 2)
    assert first.text == TEXT[first.start : first.stop] == "nd ((left"
    assert (second.value, TEXT[second.position]) == (1, "(")
    assert abs(second.position - first.position) > 4
    (least,) = found.extracts(1, count=1, around=0, least=True)
    assert (least.value, least.position) == (-1, TEXT.index('" and'))


def test_extracts_skip_what_is_no_number() -> None:
    found = made_up(np.array([[1.0], [np.nan], [3.0]]), "abc")
    assert [extract.position for extract in found.extracts(0, around=0)] == [2, 0]


def test_characters_that_the_vocabulary_lacks_are_named(scope: ortoscope.Ortoscope) -> None:
    with pytest.raises(InvalidArgument, match=r"'Q' \(line 2, column 3\)") as caught:
        read(scope, "lstm.cell", "abc\nabQ")
    assert caught.value.reason == "CHARACTER_UNKNOWN"
    assert caught.value.metadata == {"character": "Q", "line": "2", "column": "3"}
    assert read(scope, "embedding", "aQ", replace=".").values[1].argmax() == CHARACTERS.index(".")
    with pytest.raises(InvalidArgument, match="neither has it"):
        read(scope, "lstm.cell", "aQ", replace="!")


def test_a_model_of_a_stated_length_is_given_that(scope: ortoscope.Ortoscope) -> None:
    model = scope.model("text")
    tap, tokens = model.tap("words").proto, np.arange(15) % 32
    found = activations_of_tokens(scope.rpcs, model.proto, tap, tokens, [f"<{token}>" for token in tokens])
    table = model.activate(np.arange(6)[None].repeat(1, 0), "words")["words"].values[0]
    np.testing.assert_array_equal(found.values[:6], table)
    assert found.values.shape == (15, 16)
    assert found.text.startswith("<0><1>")
    with pytest.raises(InvalidArgument, match="give a longer one") as caught:
        activations_of_tokens(scope.rpcs, model.proto, tap, tokens[:5], "abcde")
    assert caught.value.reason == "TEXT_TOO_SHORT"


def test_what_does_not_fit_is_refused(scope: ortoscope.Ortoscope) -> None:
    text, linear = scope.model("text"), scope.model("linear")
    tokens = np.zeros(6, np.int64)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("TAP_NOT_PER_POSITION", lambda: activations_of_tokens(
            scope.rpcs, text.proto, text.tap("logits").proto, tokens, "abcdef")),
        ("INPUT_NOT_TOKENS", lambda: activations_of_tokens(
            scope.rpcs, linear.proto, linear.tap("scores").proto, tokens, "abcdef")),
        ("VOCABULARY_MISSING", lambda: activations_of_text(
            scope.rpcs, text.proto, text.tap("words").proto, "abcdef")),
        ("TEXT_MISSING", lambda: read(scope, "lstm.cell", "")),
        ("LENGTH_UNFIT", lambda: read(scope, "lstm.cell", length=10, context=10)),
        ("UNIT_UNKNOWN", lambda: read(scope, "lstm.cell").unit(2)),
        ("SIGNAL_MISMATCH", lambda: read(scope, "lstm.cell").following([1, 2])),
        ("PIECES_MISMATCH", lambda: made_up(np.zeros((2, 1)), "abc")),
        ("VOCABULARY_UNFIT", lambda: Vocabulary(("ab", "c"))),
        ("VOCABULARY_UNFIT", lambda: Vocabulary(("a", "a"))),
        ("VOCABULARY_UNFIT", lambda: Vocabulary(())),
    ]  # fmt: skip
    for reason, call in cases:
        with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
            call()
        assert caught.value.reason == reason
        assert caught.value.message.endswith(".")


@pytest.mark.parametrize(
    ("content", "characters"),
    [('["a", "\\n"]', ("a", "\n")), ('{"b": 0, "a": 1}', ("b", "a")), ('{"b": "0", "a": "1"}', ("b", "a"))],
)
def test_a_vocabulary_is_read_from_json(tmp_path: Path, content: str, characters: tuple[str, ...]) -> None:
    (tmp_path / "vocabulary.json").write_text(content)
    assert Vocabulary.read(tmp_path / "vocabulary.json").characters == characters


@pytest.mark.parametrize("content", ["nonsense", "3", "[1, 2]", '{"a": 1, "b": 1}', '{"a": 1, "b": 2}'])
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(InvalidArgument) as caught:
        Vocabulary.read(tmp_path / "vocabulary.json")
    assert caught.value.reason == "VOCABULARY_UNREADABLE"


def test_a_page_that_cannot_hold_all_units_has_those_that_vary_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ortoscope.report.text.MAXIMUM_VALUES", 9)
    found = made_up(np.outer(np.arange(4), [1, 3, 2, 5]), "abcd")
    assert shown_units(found, None) == [1, 3]
    assert shown_units(found, 0) == [0, 3]
    assert "2 of 4 units" in render_text(found, 0)


def test_text_cannot_break_out_of_the_page() -> None:
    hostile = "</script><script>window.hacked = 1</script>"
    page = render_text(made_up(np.zeros((len(hostile), 1)), hostile), mark='"><b>')
    assert "<script>window" not in page
    assert json.dumps(hostile)[:9] not in page.replace("\\u003c", "")
    assert '"><b>' not in page
