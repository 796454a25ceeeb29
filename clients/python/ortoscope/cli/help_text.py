"""Help texts that look right at any width: prose flows, examples keep their lines."""

import inspect
import textwrap

_WIDTH = 78
"""Columns of an example's line: what a terminal of 80 shows beside the margins."""

_INDENT = "    "


def flowing(text: str) -> str:
    """A docstring as help: each paragraph of prose becomes one line, for the terminal to break where it ends.

    A paragraph of commands (its first line begins with `ortoscope`) or of indented or bracketed lines keeps its lines.
    A command too long for a narrow terminal goes on in the next line behind a backslash, as a shell takes it.
    """
    return "\n\n".join(map(_paragraph, inspect.cleandoc(text).split("\n\n")))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if text.startswith("ortoscope"):
        return "\n".join(map(_command, lines))
    if text.startswith(("{", "[")) or any(line.startswith(" ") for line in lines):
        return text
    return " ".join(lines)


def _command(line: str) -> str:
    """A command; broken before options, which stay with their values."""
    if len(line) <= _WIDTH:
        return line
    kept_together = line.replace(" ", "\0").replace("\0-", " -")
    parts = textwrap.wrap(
        kept_together,
        _WIDTH - len(" \\"),
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return " \\\n".join(parts).replace("\0", " ")
