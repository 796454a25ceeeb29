"""Pages of lists: sizes, and tokens that only the list that gave them takes back (AIP-158)."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ortoscope_service.errors import invalid

DEFAULT_PAGE_SIZE = 100
"""Results on a page if the request leaves it open."""

_CHECK_BYTES = 9
_POSITION_DIGITS = 18

T = TypeVar("T")


@dataclass(frozen=True)
class PageRequest:
    """Which page of which list is wanted."""

    scope: str
    """The list: its method and every argument that decides what is in it."""

    size: int
    """Most results on the page, at least 1."""

    position: int | None
    """Where the page begins, as `token` was given it; None for the first page."""

    def token(self, position: int) -> str:
        """The token of the page that begins at `position`, a natural number."""
        text = str(position)
        return base64.urlsafe_b64encode(_check(self.scope, text) + text.encode()).decode()


@dataclass(frozen=True)
class Page(Generic[T]):
    """A page of a list."""

    items: Sequence[T]
    """What is on it."""

    next_page_token: str
    """Token of the next page; empty on the last."""


def page_request(page_size: int, page_token: str, scope: Sequence[str], max_page_size: int) -> PageRequest:
    """Reads the page arguments of a request.

    Args:
        page_size: 0 stands for DEFAULT_PAGE_SIZE; what is above `max_page_size` is lowered to it.
        page_token: Empty for the first page.
        scope: The method and every argument that decides what is in the list.
        max_page_size: The limit.

    Raises:
        OrtoscopeError: INVALID_PAGE_SIZE if the size is negative; INVALID_PAGE_TOKEN if the token was not given by
            this list.
    """
    if page_size < 0:
        raise invalid(
            "INVALID_PAGE_SIZE",
            f"page_size is {page_size}; it must be 0 (the server chooses) or more.",
            field="page_size",
            page_size=page_size,
        )
    joined = "\0".join(scope)
    size = min(page_size or DEFAULT_PAGE_SIZE, max_page_size)
    return PageRequest(joined, size, _position(page_token, joined) if page_token else None)


def page_of(items: Sequence[T], request: PageRequest) -> Page[T]:
    """The page of a list that is held whole."""
    start = request.position or 0
    end = start + request.size
    return Page(items[start:end], request.token(end) if end < len(items) else "")


def _position(token: str, scope: str) -> int:
    try:
        decoded = base64.b64decode(token, altchars=b"-_", validate=True)
        text = decoded[_CHECK_BYTES:].decode("ascii")
        if decoded[:_CHECK_BYTES] == _check(scope, text) and text.isdecimal() and len(text) <= _POSITION_DIGITS:
            return int(text)
    except (binascii.Error, ValueError):
        pass
    raise invalid(
        "INVALID_PAGE_TOKEN",
        "page_token is not one that this method gave for these arguments; leave it empty for the first page, then send "
        "next_page_token of the page before.",
        field="page_token",
    )


def _check(scope: str, position: str) -> bytes:
    """Ties a position to its list. No secret: a forged token gains nothing, a mistaken one is found."""
    return hashlib.sha256(f"{scope}\0{position}".encode()).digest()[:_CHECK_BYTES]
