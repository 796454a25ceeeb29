"""Puts a report together: template, style, script and data in one file that fetches nothing."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ortoscope.report.pictures import Thumbnail

_ENVIRONMENT = Environment(
    loader=PackageLoader("ortoscope.report", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, script: str, data: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """A report as HTML.

    The page forbids itself to load anything, and to run any script but its own two.

    Args:
        template: Name of the template.
        script: Name of the script that belongs to it.
        data: What the script draws from.
        context: What the template shows.
    """
    scripts = [_resource("common.js"), _resource(script)]
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return _ENVIRONMENT.get_template(template).render(
        **context,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}",
        style=_resource("report.css"),
        scripts=scripts,
        data=embedded_json(data),
    )


def embedded_json(data: object) -> str:
    """JSON that can stand inside a <script> element, whatever the text in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def embedded_pictures(pictures: Mapping[int, Thumbnail]) -> dict[str, list[object]]:
    """Thumbnails by index: width, height, JPEG in base64, and the frame that the model sees where that is not all."""
    return {str(index): _embedded(thumbnail) for index, thumbnail in pictures.items()}


def significant(value: float, digits: int = 6) -> float:
    """A number rounded to so many significant digits, which is what a page shows at most."""
    return float(f"{value:.{digits}g}")


def _embedded(thumbnail: Thumbnail) -> list[object]:
    frame = thumbnail.frame
    edges = [frame.left, frame.top, frame.width, frame.height]
    packed: list[object] = [thumbnail.width, thumbnail.height, base64.b64encode(thumbnail.jpeg).decode()]
    return packed if edges == [0.0, 0.0, 1.0, 1.0] else [*packed, [round(edge, 4) for edge in edges]]


def _resource(name: str) -> str:
    return (files("ortoscope.report") / "templates" / name).read_text("utf-8")
