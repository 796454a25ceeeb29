"""Help texts: what flows, what keeps its lines, and that commands fit into 80 columns."""

import shlex

import pytest
from ortoscope.cli.app import app
from ortoscope.cli.help_text import flowing
from ortoscope.cli.operations import operations_app
from typer.models import CommandInfo

COMMANDS = [*app.registered_commands, *operations_app.registered_commands]


def test_prose_becomes_one_line_and_lists_of_commands_and_data_keep_theirs() -> None:
    text = """What it does.

    Two lines
    of prose.

    ortoscope models
    ortoscope taps NAME

    {"sum": [1,
             2]}
    """
    assert flowing(text).split("\n\n") == [
        "What it does.",
        "Two lines of prose.",
        "ortoscope models\nortoscope taps NAME",
        '{"sum": [1,\n         2]}',
    ]


def test_a_long_command_goes_on_behind_a_backslash_and_options_stay_with_their_values() -> None:
    command = (
        "ortoscope visualize efficientnet-lite0 --tap blocks.4 --unit 9 --preset deepdream --start cat.jpg -o x.png"
    )
    assert flowing(command).splitlines() == [
        "ortoscope visualize efficientnet-lite0 --tap blocks.4 --unit 9 \\",
        "    --preset deepdream --start cat.jpg -o x.png",
    ]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name or command.callback.__name__)
def test_commands_of_a_help_text_fit_into_80_columns_and_are_still_the_commands(command: CommandInfo) -> None:
    assert command.help is not None
    assert command.callback is not None
    assert command.callback.__doc__ is not None
    paragraphs = command.help.split("\n\n")
    shown = [paragraph for paragraph in paragraphs if "\n" in paragraph or paragraph.startswith("ortoscope")]
    assert all(len(line) <= 78 for paragraph in shown for line in paragraph.splitlines())
    written = [" ".join(line.split()) for line in command.callback.__doc__.splitlines()]
    for paragraph in shown:
        if paragraph.startswith("ortoscope"):
            for line in paragraph.replace("\\\n", " ").splitlines():
                assert " ".join(line.split()) in written
                assert shlex.split(line, comments=True)[0] in {"ortoscope", "ortoscope-server"}
