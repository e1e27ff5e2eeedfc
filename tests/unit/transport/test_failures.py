from __future__ import annotations

import itertools
import json
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import (
    AuthError,
    BinpkgError,
    CertificateError,
    DeniedError,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    ServerError,
)
from oci_binpkg.transport.failures import Attempted, parse_error_body, parse_warnings, retry_after
from oci_binpkg.transport.retry import Failure


def problems(*entries: object) -> bytes:
    return json.dumps({"errors": list(entries)}).encode()


@pytest.mark.covers("R43", "B46")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (problems({"code": "NAME_UNKNOWN", "message": "no such\nrepo"}), (("NAME_UNKNOWN", "no such repo"),)),
        (problems({"code": "toomanyrequests"}, {"code": "X"}), (("TOOMANYREQUESTS", ""), ("X", ""))),
        (problems({"code": None, "message": "why"}, {}, 3, "text"), (("", "why"), ("", "text"))),
        (problems({"code": "\x1b[31m", "message": "\x1b[31mred"}), (("", "[31mred"),)),
        (problems({"code": "A", "detail": "more"}), (("A", "more"),)),
        (problems({"code": "A", "detail": {"x": 1}}), (("A", ""),)),
        (b'{"errors": "nope", "message": "still told"}', (("", "still told"),)),
        (b'{"details": "incorrect username or password"}', (("", "incorrect username or password"),)),
        (b'{"error": "invalid_grant", "error_description": "old"}', (("INVALID_GRANT", "old"),)),
        (b"Too Many Requests (HAP429)", (("", "Too Many Requests (HAP429)"),)),
        (b'"just text"', (("", "just text"),)),
        (b"<html>502 Bad Gateway</html>", ()),
        (b"\xff\xfe", (("", "\ufffd\ufffd"),)),
        (b"", ()),
        (b"null", ()),
        (b"[" * 100_000, (("", "[" * 300),)),
    ],
)
def test_error_answers(body: bytes, expected: tuple[tuple[str, str], ...]) -> None:
    assert parse_error_body(body) == expected


@given(
    st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_any_error_answer_is_read(data: bytes) -> None:
    for code, message in parse_error_body(data):
        assert len(message) <= 300
        assert (code + message).isprintable()


def test_long_messages_and_many_errors_are_cut() -> None:
    found = parse_error_body(problems(*[{"code": "A", "message": "x" * 1000}] * 30))
    assert len(found) == 20
    assert len(found[0][1]) == 300


@pytest.mark.covers("F08", "F09")
def test_when_to_come_back() -> None:
    assert retry_after({"Retry-After": "7"}, now=0) == 7
    served = {"Retry-After": formatdate(5060, usegmt=True), "Date": formatdate(5000, usegmt=True)}
    assert retry_after(served, now=99) == 60, "the server's clock counts, not ours"
    assert retry_after({"Retry-After": formatdate(5060, usegmt=True)}, now=5000) == 60
    assert retry_after({"ratelimit-remaining": "0;w=21600"}, now=0) == 21600
    assert retry_after({"ratelimit-remaining": "12;w=21600"}, now=0) is None
    assert retry_after({}, now=0) is None


@pytest.mark.covers("R42")
def test_warnings_of_a_registry() -> None:
    header = '299 - "tag is \\"old\\"\x1b[1m", 199 - "misc", 299 example.com "second"'
    assert parse_warnings(header) == ('tag is "old" [1m', "second")
    assert parse_warnings("299 nonsense") == ()


def attempted(method: str = "GET", host: str = "reg.example", *, in_charge: bool = True) -> Attempted:
    return Attempted(
        "pull apps:x",
        method,
        host,
        "reg.example",
        in_charge,
        "repository:apps:pull",
        lambda text: text.replace("pw", "***"),
    )


def status(code: int, *pairs: tuple[str, str], method: str = "GET", wait: float | None = None, **kwargs) -> BinpkgError:
    return attempted(method, **kwargs).status_error(code, pairs, wait=wait, now=0.0, attempts=1, seconds=0.0)


@pytest.mark.covers("R43")
@pytest.mark.parametrize(
    ("code", "kind"),
    [(401, AuthError), (403, DeniedError), (404, NotFoundError), (429, RateLimitedError), (500, ServerError)],
)
def test_statuses_are_told_apart_and_say_what_next(code: int, kind: type[BinpkgError]) -> None:
    error = status(code, ("CODE", "text with pw"))
    assert type(error) is kind
    wanted = " (asked for repository:apps:pull)" if code in (401, 403) else ""
    assert error.message == f"pull apps:x: reg.example answered HTTP {code} CODE: text with ***{wanted}"
    assert error.hint


@pytest.mark.covers("R43")
def test_attempts_and_time_are_told() -> None:
    error = attempted().status_error(500, (), wait=None, now=0, attempts=6, seconds=12.34)
    assert error.message.endswith("answered HTTP 500 (after 6 attempts in 12.3 s)")


def test_a_storage_servers_refusal_is_not_about_the_login() -> None:
    error = status(403, host="cdn.example", in_charge=False)
    assert type(error) is ServerError
    assert "cdn.example (where reg.example sent us)" in error.message
    assert type(status(401, host="cdn.example", in_charge=False)) is ServerError


@pytest.mark.covers("R37", "F45")
def test_missing_repositories_and_quotas() -> None:
    assert "create the repository first" in status(404, ("NAME_UNKNOWN", ""), method="POST").hint
    assert "create" not in status(404, ("NAME_UNKNOWN", ""), method="GET").hint
    harbor = "adding 29 MiB of storage resource, which when updated to current usage of 152 MiB will exceed the configured upper limit of 10 MiB."
    for code, text in itertools.product((403, 413), ("Quota exceeded", harbor)):
        quota = status(code, ("DENIED", text), method="PUT")
        assert type(quota) is DeniedError
        assert "quota" in quota.hint
    assert type(status(413)) is ServerError


@pytest.mark.covers("F09")
def test_rate_limits_name_the_time() -> None:
    error = status(429, wait=3600.0)
    assert isinstance(error, RateLimitedError)
    assert error.seconds == 3600.0
    assert "1970-01-01 01:00:00 UTC" in error.hint
    assert status(429).hint
    assert "3000-01-01" in status(429, wait=1e12).hint


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(Failure.CERTIFICATE, CertificateError), (Failure.ENCODED, ServerError), (Failure.TIMEOUT, NetworkError)],
)
def test_failures_without_an_answer(failure: Failure, kind: type[BinpkgError]) -> None:
    error = attempted().failure_error(failure, "detail pw")
    assert type(error) is kind
    assert error.message == f"pull apps:x: reg.example: {failure.value} (detail ***)"


def test_protocol_errors_name_the_server() -> None:
    assert attempted().protocol_error("went astray", hint="do").message == "pull apps:x: reg.example went astray"
