from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.transport.addresses import (
    Neighbours,
    Origin,
    UnsafeAddressError,
    is_internal,
    printable,
    proxy_for,
    redact_text,
    redact_url,
    request_target,
)

HTTPS = Origin.parse("https://reg.example")
HTTP = Origin.parse("http://reg.example:5000")
LOOPBACK = Origin.parse("http://127.0.0.1:5000")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://Reg.Example/v2/", "https://reg.example"),
        ("https://reg.example:443/v2/", "https://reg.example"),
        ("HTTP://reg.example:443", "http://reg.example:443"),
        ("http://[::1]:80/x", "http://[::1]"),
    ],
)
def test_origins(url: str, shown: str) -> None:
    assert str(Origin.parse(url)) == shown


@pytest.mark.covers("F22", "F41")
@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://reg.example/",
        "//reg.example/",
        "/v2/",
        "",
        "https://",
        "https://user:secret@reg.example/",
        "https://reg.example:99999/",
        "https://reg.example:x/",
        "https://[::1/",
        "https://reg.example/a b",
        "https://reg.example/\r\nX: y",
        "https://r\u00e9g.example/",
        "https://a.example/, https://b.example/",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UnsafeAddressError) as caught:
        Origin.parse(url)
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_an_origin_or_refused(url: str) -> None:
    with suppress(UnsafeAddressError):
        Origin.parse(url)
    redact_url(url)


@pytest.mark.covers("R09")
@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "x.localhost", "localhost.", "127.1", "0x7f000001", "2130706433", "0177.0.0.1"),
        *("10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "::1", "[::1]", "fe80::1%eth0"),
        *("fd00::1", "::", "::ffff:10.0.0.1", "0"),
    ],
)
def test_internal_addresses(host: str) -> None:
    assert is_internal(host)


@pytest.mark.parametrize("host", ["reg.example", "8.8.8.8", "2606:4700::1111", "10.example.com", "cafe", "999.1.1.1"])
def test_other_hosts(host: str) -> None:
    assert not is_internal(host)


@pytest.mark.covers("R07", "R08", "R09", "F21", "F22")
@pytest.mark.parametrize(
    ("home", "previous", "url", "reason"),
    [
        (HTTPS, HTTPS, "https://cdn.example/blob", None),
        (HTTPS, HTTPS, "https://reg.example/other", None),
        (HTTPS, HTTPS, "http://reg.example/blob", "from https to plain http"),
        (HTTPS, HTTPS, "https://169.254.169.254/latest", "inside this machine"),
        (HTTPS, HTTPS, "https://127.0.0.1/", "inside this machine"),
        (HTTPS, HTTPS, "https://store.internal/", None),
        (HTTP, HTTP, "http://reg.example:9000/blob", None),
        (HTTP, HTTP, "http://cdn.example/blob", "plain http to another host"),
        (HTTP, HTTP, "http://named.example/blob", None),
        (HTTP, HTTP, "http://10.0.0.1/blob", "plain http to another host"),
        (HTTP, HTTP, "http://10.0.0.9:9000/blob", None),
        (HTTP, HTTPS, "http://named.example/blob", "from https to plain http"),
        (HTTP, HTTP, "http://127.0.0.1/blob", "inside this machine"),
        (LOOPBACK, LOOPBACK, "http://127.0.0.1:6000/blob", None),
        (LOOPBACK, LOOPBACK, "http://localhost:6000/blob", None),
        (LOOPBACK, LOOPBACK, "https://10.0.0.1/blob", "inside this machine"),
    ],
)
def test_where_a_registry_may_send_us(home: Origin, previous: Origin, url: str, reason: str | None) -> None:
    neighbours = Neighbours(
        insecure=frozenset({"named.example", "10.0.0.9:9000"}), internal=frozenset({"10.0.0.9", "store.internal"})
    )
    if reason is None:
        assert neighbours.check_target(url, home, previous) == Origin.parse(url)
    else:
        with pytest.raises(UnsafeAddressError, match=reason):
            neighbours.check_target(url, home, previous)


@pytest.mark.covers("R18", "F28")
@pytest.mark.parametrize(
    ("registry", "realm", "allowed"),
    [
        (HTTPS, "https://auth.example/token", True),
        (HTTPS, "http://auth.example/token", False),
        (HTTPS, "https://10.0.0.1/token", False),
        (HTTPS, "", False),
        (HTTP, "http://auth.example/token", True),
        (LOOPBACK, "http://127.0.0.1:5001/token", True),
        (LOOPBACK, "http://192.168.1.1/token", False),
    ],
)
def test_where_passwords_may_go(registry: Origin, realm: str, allowed: bool) -> None:
    if allowed:
        assert Neighbours().check_realm(realm, registry) == Origin.parse(realm)
    else:
        with pytest.raises(UnsafeAddressError):
            Neighbours().check_realm(realm, registry)


@pytest.mark.covers("F41")
@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://h/a%2Fb%2fc?x=1&x=2&empty=&p=a+b", "/a%2Fb%2fc?x=1&x=2&empty=&p=a+b"),
        ("https://h", "/"),
        ("https://h?x=1", "/?x=1"),
        ("https://h//double?u=http://a/b", "//double?u=http://a/b"),
        ("https://h/a#fragment", "/a"),
    ],
)
def test_targets_are_sent_as_written(url: str, target: str) -> None:
    assert request_target(url) == target


@pytest.mark.covers("R05")
@pytest.mark.parametrize(
    ("url", "no_proxy", "proxy"),
    [
        ("https://reg.example", (), "http://proxy:1"),
        ("http://reg.example", (), "http://all:2"),
        ("https://127.0.0.1:5000", (), ""),
        ("https://localhost:5000", (), ""),
        ("https://reg.example", ("*",), ""),
        ("https://reg.example", ("other.example", "", "reg.example"), ""),
        ("https://a.reg.example", (".reg.example",), ""),
        ("https://a.reg.example", ("reg.example",), ""),
        ("https://areg.example", ("reg.example",), "http://proxy:1"),
        ("https://a.reg.example", ("*.Reg.example ",), ""),
        ("https://reg.example", ("reg.example:8443",), "http://proxy:1"),
        ("https://reg.example:8443", ("reg.example:8443",), ""),
        ("https://10.1.2.3", ("10.0.0.0/8",), ""),
        ("https://reg.example", ("10.0.0.0/8", "nonsense/x"), "http://proxy:1"),
    ],
)
def test_proxies(url: str, no_proxy: tuple[str, ...], proxy: str) -> None:
    proxies = {"https": "http://proxy:1", "all": "http://all:2"}
    assert proxy_for(Origin.parse(url), proxies.items(), no_proxy) == proxy


@pytest.mark.covers("R11")
def test_signed_addresses_are_shown_without_their_signature() -> None:
    url = "https://u:pw@store.example/blob?X-Amz-Signature=abc&digest=sha256:1&n="
    assert redact_url(url) == "https://store.example/blob?X-Amz-Signature=***&digest=sha256:1&n="
    assert redact_url("https://store.example/?opaque") == "https://store.example/?opaque=***"
    assert redact_url("https://store.example/?&&") == "https://store.example/?***"
    assert redact_url("https://[::1") == "<unreadable address>"


@pytest.mark.covers("R11")
def test_texts_are_shown_without_secrets() -> None:
    text = "hunter2 at https://s.example/x?sig=1 with Authorization: Bearer abcdefgh.ijk; ab"
    shown = redact_text(text, ["hunter2", "ab", ""])
    assert shown == "*** at https://s.example/x?sig=*** with Authorization: Bearer ***; ab"


@pytest.mark.covers("B46", "R43")
def test_texts_are_shown_on_one_line_without_escapes() -> None:
    assert printable("a\x1b[31mb\n\tc\u202ed") == "a [31mb c d"
    assert len(printable("x" * 10_000_000)) == 300


def test_lists_of_hosts_name_host_or_host_and_port() -> None:
    assert HTTP.named_in({"reg.example"})
    assert HTTP.named_in({"reg.example:5000"})
    assert HTTPS.named_in({"reg.example:443"})
    assert not HTTPS.named_in({"reg.example:5000"})
