import ssl
from pathlib import Path

import pytest
from ortoscope.channel import DEFAULT_TIMEOUT, TLS, Timeouts, open_channel, parse_target
from ortoscope.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("localhost", "localhost:50051"),
        (" gpu-box:9000 ", "gpu-box:9000"),
        (":9000", "localhost:9000"),
        ("grpc://gpu-box", "gpu-box:50051"),
        ("http://gpu-box:9000/", "gpu-box:9000"),
        ("http://gpu-box", "gpu-box:80"),
        ("[::1]:9000", "[::1]:9000"),
        ("[::1]", "[::1]:50051"),
        ("fe80::1", "[fe80::1]:50051"),
        ("unix:/run/ortoscope.sock", "unix:/run/ortoscope.sock"),
        ("dns:///gpu-box:9000", "dns:///gpu-box:9000"),
    ],
)
def test_a_target_is_read_as_people_write_it(text: str, address: str) -> None:
    target = parse_target(text)
    assert (target.address, target.tls) == (address, False)


@pytest.mark.parametrize(
    ("text", "address"),
    [("https://look.example", "look.example:443"), ("grpcs://look.example:9000", "look.example:9000")],
)
def test_a_secure_scheme_asks_for_tls(text: str, address: str) -> None:
    target = parse_target(text)
    assert (target.address, target.tls) == (address, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "ftp://host",
        "host:port",
        "host:0",
        "host:70000",
        "host:-1",
        "host/path",
        "https://",
        "[::1",
        "two words:1",
    ],
)
def test_what_is_no_target_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"127\.0\.0\.1:50051") as caught:
        parse_target(text)
    assert (caught.value.reason, caught.value.field) == ("TARGET_INVALID", "target")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.1.2.3:1", True),
        ("[::1]:1", True),
        ("unix:/a", True),
        ("127.evil.example:1", False),
        ("gpu-box:1", False),
    ],
)
def test_only_this_machine_is_called_past_a_proxy(text: str, local: bool) -> None:
    assert parse_target(text).local is local


def test_one_number_is_the_time_of_short_calls_and_never_shortens_the_others() -> None:
    assert Timeouts.of(DEFAULT_TIMEOUT) == Timeouts()
    assert Timeouts.of(5) == Timeouts(call=5)
    assert Timeouts.of(1000) == Timeouts(call=1000, compute=1000)
    assert Timeouts.of(Timeouts(compute=1)) == Timeouts(compute=1)


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    with pytest.raises(InvalidArgument, match=r"ca\.pem.*No such file") as caught:
        open_channel(parse_target("https://localhost"), TLS(ca=missing))
    assert caught.value.reason == "CERTIFICATE_UNREADABLE"


def test_tls_may_be_asked_for_in_every_way() -> None:
    pem = ssl.DER_cert_to_PEM_cert(b"\x30\x00").encode()
    for tls in (True, TLS(), TLS(ca=pem, server_name="look.example"), None):
        open_channel(parse_target("https://localhost:1"), tls).close()
    open_channel(parse_target("https://localhost:1"), False).close()
