"""What no file of the repository may hold."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The folder of the reference data is told by ORTOSCOPE_REFERENCE_DATA; one file knows where it lies beside a checkout.
MAY_NAME_THE_REFERENCE_FOLDER = ".ci/run"
MACHINE_PATHS = re.compile(r"(?<![\w.~])/(?:home|Users|root|work)/[\w.]|(?<![\w.])/tmp/w/")
REFERENCE_FOLDER = re.compile(r"\.\./shared|/shared/data")
# Whatever a browser fetches by itself when it opens a page.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc\s*=\s*["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref\s*=\s*["']?(?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|url\(\s*["']?(?:https?:)?//""",
    re.IGNORECASE,
)


def text_files() -> dict[str, str]:
    """Every text file that belongs to the repository, by its path in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, timeout=60,
    ).stdout  # fmt: skip
    found = {}
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if not path.is_file() or path == Path(__file__).resolve():
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            found[name] = content.decode()
    return found


def lines_with(pattern: re.Pattern[str], files: dict[str, str]) -> list[str]:
    """Where a pattern occurs: `path:line: text`."""
    return [
        f"{name}:{number}: {line.strip()[:160]}"
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    found = text_files()
    assert {"pyproject.toml", "Makefile", ".ci/run"} <= found.keys()
    return found


def test_no_file_names_a_path_of_one_machine(files: dict[str, str]) -> None:
    assert not lines_with(MACHINE_PATHS, files)


def test_only_continuous_integration_knows_where_the_reference_data_lie(files: dict[str, str]) -> None:
    others = {name: text for name, text in files.items() if name != MAY_NAME_THE_REFERENCE_FOLDER}
    assert not lines_with(REFERENCE_FOLDER, others)


def test_no_page_fetches_anything(files: dict[str, str]) -> None:
    assert not lines_with(FETCHED, files)


def test_no_file_is_larger_than_a_reader_would_expect(files: dict[str, str]) -> None:
    large = {name: len(text) for name, text in files.items() if len(text) > 400_000}
    assert not large


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATHS, 'MODELS = "/home/someone/models"'),
        (MACHINE_PATHS, "cd /work/checkout"),
        (MACHINE_PATHS, "open('/root/.cache/x')"),
        (REFERENCE_FOLDER, "DATA = ROOT / '../shared/data'"),
        (FETCHED, '<script src="https://cdn.example/d3.js"></script>'),
        (FETCHED, "<link rel=stylesheet href=//fonts.example/css>"),
        (FETCHED, "src: url('https://fonts.example/a.woff2')"),
    ],
)
def test_each_pattern_finds_what_it_is_for(pattern: re.Pattern[str], text: str) -> None:
    assert lines_with(pattern, {"made_up": text})


@pytest.mark.parametrize(
    "text",
    ["--root/models", "https://host/home/page", "../work/x", "<a href='https://arxiv.org/abs/1704.05796'>paper</a>"],
)
def test_the_patterns_leave_other_text_alone(text: str) -> None:
    assert not any(lines_with(pattern, {"made_up": text}) for pattern in (MACHINE_PATHS, REFERENCE_FOLDER, FETCHED))
