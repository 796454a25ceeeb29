import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.api.pages import DEFAULT_PAGE_SIZE, page_of, page_request
from ortoscope_service.errors import OrtoscopeError

SCOPE = ("ListTaps", "models/a")


@given(st.integers(0, 50), st.integers(1, 20))
def test_pages_together_are_the_whole_list(count: int, size: int) -> None:
    items = list(range(count))
    collected: list[int] = []
    token = ""
    while True:
        page = page_of(items, page_request(size, token, SCOPE, 1000))
        assert len(page.items) <= size
        collected += page.items
        token = page.next_page_token
        if not token:
            break
    assert collected == items


def test_size_zero_is_the_default_and_a_large_size_is_lowered() -> None:
    assert page_request(0, "", SCOPE, 1000).size == DEFAULT_PAGE_SIZE
    assert page_request(5000, "", SCOPE, 1000).size == 1000


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(OrtoscopeError) as caught:
        page_request(-1, "", SCOPE, 1000)
    assert caught.value.reason == "INVALID_PAGE_SIZE"
    assert caught.value.field == "page_size"


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_a_token_that_nobody_gave_is_refused(token: str) -> None:
    if not token:
        return
    with pytest.raises(OrtoscopeError) as caught:
        page_request(1, token, SCOPE, 1000)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_a_token_of_another_list_is_refused() -> None:
    token = page_request(1, "", SCOPE, 1000).token(7)
    assert page_request(1, token, SCOPE, 1000).position == 7
    for scope in (("ListTaps", "models/b"), ("ListModels", "models/a"), ("ListTapsmodels/a",)):
        with pytest.raises(OrtoscopeError):
            page_request(1, token, scope, 1000)
