"""Text that a grammar makes: prose with quotations, and code-like lines with brackets, numbers and dates.

What a character model can only predict by remembering is in it on purpose: inside and outside of quotation marks stand
the same words, but commas only outside; brackets of three kinds are nested and closed in order, blocks are indented,
and prose is broken at the same column. The same seed gives the same text.

    python character_text.py --seed 7 --characters 3000 > sample.txt
"""

import argparse
import random
import re
import sys
from collections.abc import Iterator

VOCABULARY = ("\n", *(chr(code) for code in range(32, 127)))
"""The characters of the text: the line feed, then printable ASCII from the blank to the tilde."""

COLUMNS = 64
"""Lines of prose are broken so that none is longer."""


def _each(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_WORDS = _each("""
    river stone morning letter window garden silver quiet yellow winter bridge captain paper engine story little water
    under before the of and old new with every
""")
_NAMES = _each("""
    alpha beta count depth edge first grid height
""")
_MONTHS = _each("""
    January February March April May June July August September October November December
""")
_PAIRS = ("()", "[]", "{}")


def write_text(seed: int, characters: int) -> str:
    """At least so many characters of text, to the end of a block.

    Args:
        seed: Where all choices come from.
        characters: The least length.
    """
    rng = random.Random(seed)  # noqa: S311 - it writes stories, not keys
    written: list[str] = []
    length = 0
    while length < characters:
        block = "\n".join(_prose(rng) if rng.random() < 0.65 else _code(rng)) + "\n\n"
        written.append(block)
        length += len(block)
    return "".join(written)


def inside_quotes(text: str) -> list[bool]:
    """For each character whether it is quoted: from the opening quotation mark up to, but not with, the closing one."""
    inside, found = False, []
    for character in text:
        if character == '"':
            inside = not inside
        found.append(inside)
    return found


def bracket_depth(text: str) -> list[int]:
    """For each character how many brackets are open behind it, those in quotations among them."""
    depth, found = 0, []
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        found.append(depth)
    return found


def _prose(rng: random.Random) -> Iterator[str]:
    """A paragraph, its lines broken at `COLUMNS`."""
    line = ""
    for word in _story(rng).split(" "):
        if len(line) + 1 + len(word) > COLUMNS:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line


def _story(rng: random.Random) -> str:
    sentences = []
    for _ in range(rng.randint(2, 6)):
        parts = [_listed(rng, 3, 9)]
        if rng.random() < 0.85:
            parts.append(f'"{_words(rng, 3, 12)}"')
        if rng.random() < 0.25:
            parts.append(f"({_words(rng, 1, 5)})")
        if rng.random() < 0.2:
            parts.append(f"on {_date(rng)}")
        if rng.random() < 0.5:
            parts.append(_listed(rng, 2, 6))
        sentences.append(" ".join(parts) + rng.choice(".....,?!"))
    return " ".join(sentences)


def _words(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(rng.randint(least, most)))


def _listed(rng: random.Random, least: int, most: int) -> str:
    """Words with commas behind some of them."""
    return re.sub(" ", lambda _: ", " if rng.random() < 0.4 else " ", _words(rng, least, most))


def _date(rng: random.Random) -> str:
    year, month, day = rng.randint(1900, 2049), rng.randint(1, 12), rng.randint(1, 28)
    return f"{year}-{month:02d}-{day:02d}" if rng.random() < 0.5 else f"{day} {_MONTHS[month - 1]} {year}"


def _code(rng: random.Random, indent: int = 0) -> Iterator[str]:
    """Lines of a block; some open an indented one."""
    for _ in range(rng.randint(2, 5)):
        margin = "    " * indent
        draw = rng.random()
        if draw < 0.3 and indent < 3:
            yield f"{margin}{rng.choice(('if', 'while', 'for'))} {_expression(rng, 1)}:"
            yield from _code(rng, indent + 1)
        elif draw < 0.4:
            yield f"{margin}# {_words(rng, 2, 7)}"
        else:
            yield f"{margin}{rng.choice(_NAMES)} = {_expression(rng, 3)}"


def _expression(rng: random.Random, depth: int) -> str:
    draw = rng.random()
    if depth and draw < 0.5:
        pair = rng.choice(_PAIRS)
        inner = ", ".join(_expression(rng, depth - 1) for _ in range(rng.randint(1, 3)))
        return f"{rng.choice(_NAMES) if pair == '()' else ''}{pair[0]}{inner}{pair[1]}"
    if draw < 0.65:
        return f'"{_words(rng, 1, 5)}"'
    if draw < 0.8:
        return str(rng.choice((rng.randint(0, 9), rng.randint(10, 999), round(rng.random() * 10, 2))))
    if depth and draw < 0.9:
        return f"{rng.choice(_NAMES)} {rng.choice('+-*/<>')} {_expression(rng, depth - 1)}"
    return rng.choice(_NAMES)


def main() -> None:
    """Prints text."""
    parser = argparse.ArgumentParser(description="Text that a grammar makes.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--characters", type=int, default=3000)
    options = parser.parse_args()
    sys.stdout.write(write_text(options.seed, options.characters))


if __name__ == "__main__":
    main()
