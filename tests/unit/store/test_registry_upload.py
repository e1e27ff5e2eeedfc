from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

import pytest

from oci_binpkg.backoff import Backoff
from oci_binpkg.errors import (
    BinpkgError,
    ContentError,
    DeniedError,
    LocalDiskError,
    NotFoundError,
    RateLimitedError,
    ServerError,
)
from oci_binpkg.events import BytesSent, Retrying
from oci_binpkg.model.content import Blob
from oci_binpkg.store.registry.api import DEFAULTS, RegistrySettings
from tests.support.blobs import file_blob
from tests.support.fake_registry import CLOSE, RESET, Answer, Basic, Exchange
from tests.support.registry_store import KIB, Bench, content, layer, placed

UPLOADS = "/blobs/uploads/"
SESSION = "/blobs/uploads/session"
ONE_UNIT = replace(DEFAULTS, backoff=Backoff(unit_delays=()))


def stored(bench: Bench, name: str = "apps") -> dict[str, bytes]:
    return bench.registry.repo(name).blobs


def holds(bench: Bench, blob: Blob, name: str = "apps") -> bool:
    return stored(bench, name).get(str(blob.descriptor.digest)) == blob.read()


# ---- the plain way


@pytest.mark.covers("R28", "R30")
@pytest.mark.parametrize("size", [0, 1, 700 * KIB])
def test_R30_a_blob_is_sent_with_one_put(bench: Bench, size):
    blob = layer(size)
    assert bench.store().put(blob) is True
    assert holds(bench, blob)
    assert bench.methods() == ["HEAD", "POST", "PUT"]
    _, post, put = bench.registry.log
    assert post.headers["content-length"] == "0"
    assert put.headers["content-length"] == str(size)
    assert "content-range" not in put.headers
    assert "transfer-encoding" not in put.headers


@pytest.mark.covers("R28")
def test_R28_what_is_there_is_not_sent_and_asked_for_once(bench: Bench):
    blob = placed(bench.registry, layer())
    store = bench.store()
    assert store.put(blob) is False
    assert store.put(blob) is False
    assert store.exists(blob.descriptor)
    assert bench.methods() == ["HEAD"]
    store.forget(blob.descriptor.digest)
    bench.registry.collect("apps", str(blob.descriptor.digest))
    assert not store.exists(blob.descriptor)
    store.forget()
    assert store.put(blob) is True


@pytest.mark.covers("R28")
def test_R28_content_of_another_size_is_not_there(bench: Bench):
    blob = placed(bench.registry, layer())
    bench.registry.fault("HEAD", "/blobs/", headers={"Content-Length": "5"})
    assert not bench.store().exists(blob.descriptor)


@pytest.mark.covers("R21", "F23")
@pytest.mark.parametrize("status", [401, 403, 405, 501])
@pytest.mark.parametrize("ranges", [True, False])
def test_F23_where_head_is_refused_get_tells(bench: Bench, status, ranges):
    blob, absent = placed(bench.registry, layer()), layer(seed=2)
    bench.registry.profile.ranges = ranges
    bench.registry.fault("HEAD", "/blobs/", times=0, answer=Answer(status))
    store = bench.store()
    assert store.exists(blob.descriptor)
    assert not store.exists(absent.descriptor)
    assert not store.exists(replace(blob.descriptor, digest=absent.descriptor.digest))
    store.forget()
    assert not store.exists(replace(blob.descriptor, size=7))


@pytest.mark.covers("R21", "F23")
def test_F23_head_refused_by_the_storage_behind_a_redirect(bench: Bench):
    blob = placed(bench.registry, layer())
    bench.registry.profile.cdn = True
    bench.registry.fault("HEAD", "/cdn/", answer=Answer(403))
    assert bench.store().exists(blob.descriptor)


@pytest.mark.covers("R16", "F33")
@pytest.mark.parametrize("status", [401, 403])
def test_F33_a_push_goes_on_where_reading_is_denied(bench: Bench, status):
    bench.registry.fault("HEAD|GET", "/blobs/sha256", times=0, answer=Answer.error(status, "DENIED"))
    blob = layer()
    assert bench.store().put(blob)
    assert holds(bench, blob)
    with pytest.raises(BinpkgError):
        bench.store().exists(blob.descriptor)


def test_a_repository_that_is_not_there_holds_nothing(bench: Bench):
    assert not bench.store("nowhere").exists(layer().descriptor)


@pytest.mark.covers("R37", "F33")
def test_R37_a_registry_that_creates_no_repositories_says_so(bench: Bench):
    bench.registry.profile.create_on_push = False
    with pytest.raises(NotFoundError) as caught:
        bench.store().put(layer())
    assert "create the repository first" in caught.value.hint
    assert bench.methods() == ["HEAD", "POST"]


@pytest.mark.covers("R37", "F45")
@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("status", [403, 413])
@pytest.mark.parametrize(
    "said", ["adding 5 GiB exceeds the quota", "will exceed the configured upper limit of 10.0 MiB."]
)
def test_F45_a_full_quota_is_final(bench: Bench, method, status, said):
    bench.registry.fault(method, UPLOADS, times=0, answer=Answer.error(status, "DENIED", said))
    with pytest.raises(DeniedError) as caught:
        bench.store().put(layer())
    assert "quota" in caught.value.hint
    assert len(bench.registry.requests(method)) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413])
def test_a_refused_session_is_an_error_naming_what_the_registry_said(bench: Bench, status):
    bench.registry.fault("POST", UPLOADS, answer=Answer.error(status, "DENIED", "no \x1b[31mway"))
    with pytest.raises(BinpkgError, match=rf"answers {status} \(DENIED: no \[31mway\)"):
        bench.store().put(layer())


# ---- where the upload goes


@pytest.mark.covers("R30", "F41")
@pytest.mark.parametrize(
    "form",
    [
        "/v2/{name}/blobs/uploads/{id}",
        "/v2/{name}/blobs/uploads/{id}?x=1&x=2&empty=",
        "/v2/{name}/blobs/uploads/{id}?path=a%2Fb%2fc+d&sig=%3D~",
        "{id}?relative=1",
        "./{id}",
        "//{host}/v2/{name}/blobs/uploads/{id}?authority=1",
        "http://{host}/v2/{name}/blobs/uploads/{id}?absolute=%20#fragment",
    ],
)
def test_F41_the_location_is_followed_and_its_query_kept_byte_for_byte(bench: Bench, form):
    bench.registry.profile.session_location = form.replace("{host}", bench.registry.host)
    blob = layer()
    bench.store().put(blob)
    assert holds(bench, blob)
    query = form.partition("?")[2].partition("#")[0]
    added = f"digest=sha256%3A{blob.descriptor.digest.hex}"
    assert bench.registry.log[-1].query == (f"{query}&{added}" if query else added)


@pytest.mark.covers("R30", "F41")
@pytest.mark.parametrize(
    ("headers", "more"),
    [
        ({"Location": None}, ()),
        ({"Location": ""}, ()),
        ({}, (("Location", "/v2/other"),)),
        ({"Location": "http://[half"}, ()),
        ({"Location": "file:///etc/passwd"}, ()),
        ({"Location": "http://user:pass@127.0.0.1/x"}, ()),
    ],
)
def test_F41_a_location_that_is_none_is_an_error(bench: Bench, headers, more):
    bench.registry.fault("POST", UPLOADS, headers=headers, more=more)
    with pytest.raises(ServerError):
        bench.store().put(layer())
    assert bench.methods() == ["HEAD", "POST"]


@pytest.mark.covers("R09", "F41")
def test_F41_another_origin_gets_the_upload_only_if_that_is_allowed(bench: Bench):
    blob = layer()
    bench.registry.profile.session_location = f"http://{bench.registry.cdn_host}/elsewhere/{{id}}"
    with pytest.raises(ServerError) as caught:
        bench.store().put(blob)
    assert bench.registry.cdn_host in caught.value.message
    assert not [exchange for exchange in bench.registry.log if exchange.server == "cdn"]
    bench.registry.fault("PUT", "/elsewhere/", answer=Answer(201))
    allowed = replace(DEFAULTS, upload_origins=frozenset({f"http://{bench.registry.cdn_host}"}))
    assert bench.store(settings=allowed).put(blob)
    assert bench.registry.log[-1].sha256 == blob.descriptor.digest.hex


# ---- a broken upload


@pytest.mark.covers("R32", "F35")
@pytest.mark.parametrize("how", [{"after": RESET}, {"after": CLOSE}, {"status": 504}, {"status": 500}])
def test_F35_blob_stored_but_answer_lost(bench: Bench, how):
    blob = layer()
    bench.registry.fault("PUT", SESSION, **how)
    assert bench.store().put(blob) is True
    assert holds(bench, blob)
    assert bench.methods() == ["HEAD", "POST", "PUT", "HEAD"]


@pytest.mark.covers("R32", "F35")
def test_F35_a_slow_commit_is_waited_for(bench: Bench):
    blob = layer()
    late = bench.registry.fault("HEAD", "/blobs/", nth=2, times=2, answer=Answer(404))
    bench.registry.fault("PUT", SESSION, after=RESET)
    assert bench.store().put(blob) is True
    assert late.fired == 2
    assert bench.waits == [1.0, 4.0]
    assert len(bench.registry.requests("PUT")) == 1


@pytest.mark.covers("R32", "R33", "F34")
def test_F34_a_body_cut_short_is_sent_again_in_a_new_session(bench: Bench):
    blob = layer(8000 * KIB)
    bench.registry.fault("PUT", SESSION, before=RESET, read=1000)
    assert bench.store().put(blob) is True
    assert holds(bench, blob)
    assert bench.methods() == ["HEAD", "POST", "PUT", "HEAD", "DELETE", "POST", "PUT"]
    first, second = bench.registry.requests("PUT")
    assert first.path != second.path
    assert second.length == blob.descriptor.size
    assert not bench.registry.sessions
    assert [wait for wait in bench.waits if 0.8 <= wait <= 1.2]
    sent = [event.count for event in bench.events if isinstance(event, BytesSent)]
    assert sum(sent) == blob.descriptor.size
    assert min(sent) < 0


@pytest.mark.covers("R32", "F36")
def test_F36_a_session_reported_gone_although_the_blob_is_stored(bench: Bench):
    blob = layer()
    bench.registry.fault(
        "PUT",
        SESSION,
        answer=lambda exchange: (bench.registry.respond(exchange), Answer.error(404, "BLOB_UPLOAD_UNKNOWN"))[1],
    )
    assert bench.store().put(blob) is True
    assert bench.methods() == ["HEAD", "POST", "PUT", "HEAD"]


@pytest.mark.covers("R32", "F37")
@pytest.mark.parametrize(
    "answer",
    [
        Answer.error(404, "BLOB_UPLOAD_UNKNOWN"),
        Answer(404),
        Answer(410),
        Answer(416),
        Answer.error(400, "BLOB_UPLOAD_INVALID"),
        Answer.error(400, "DIGEST_INVALID"),
        Answer(500),
        Answer(202),
    ],
)
def test_F37_a_lost_session_is_replaced_up_to_three_times(bench: Bench, answer):
    blob = layer()
    bench.registry.fault("PUT", SESSION, times=3, answer=answer)
    assert bench.store().put(blob) is True
    assert len(bench.registry.requests("POST")) == 4
    assert [event.attempt for event in bench.events if isinstance(event, Retrying)] == [1, 2, 3]
    bench.registry.clear()
    bench.registry.collect("apps", str(blob.descriptor.digest))
    bench.registry.fault("PUT", SESSION, times=0, answer=answer)
    with pytest.raises(ServerError, match="4 attempts"):
        bench.store().put(blob)
    assert len(bench.registry.requests("PUT")) == 4


def test_a_single_attempt_is_enough_where_no_more_are_wanted(bench: Bench):
    bench.registry.fault("PUT", SESSION, times=0, answer=Answer(500))
    with pytest.raises(ServerError):
        bench.store(settings=ONE_UNIT).put(layer())
    assert len(bench.registry.requests("PUT")) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer.error(405, "UNSUPPORTED"),
        Answer.error(400, "NAME_INVALID"),
        Answer(403),
        Answer.error(404, "NAME_UNKNOWN"),
    ],
)
def test_a_refusal_that_cannot_change_is_not_repeated(bench: Bench, answer):
    bench.registry.fault("PUT", SESSION, times=0, answer=answer)
    with pytest.raises(BinpkgError):
        bench.store().put(layer())
    assert len(bench.registry.requests("PUT")) == 1
    assert bench.registry.requests("DELETE", UPLOADS)


@pytest.mark.covers("R33")
@pytest.mark.parametrize(
    "how", [{"answer": Answer(405)}, {"answer": Answer(500)}, {"answer": Answer(418)}, {"before": RESET}]
)
def test_R33_how_giving_back_a_session_ends_does_not_matter(bench: Bench, how):
    bench.registry.fault("PUT", SESSION, answer=Answer(500))
    bench.registry.fault("DELETE", SESSION, times=0, **how)
    assert bench.store().put(layer())


@pytest.mark.covers("F08")
def test_F08_a_busy_registry_is_given_the_time_it_asks_for(bench: Bench):
    bench.registry.fault("PUT", SESSION, answer=Answer(429, [("Retry-After", "30")]))
    assert bench.store().put(layer())
    assert any(30 <= wait <= 33 for wait in bench.waits)


@pytest.mark.covers("F09")
def test_F09_hours_are_not_waited_for(bench: Bench):
    bench.registry.fault("PUT", SESSION, times=0, answer=Answer(429, [("Retry-After", "21600")]))
    with pytest.raises(RateLimitedError) as caught:
        bench.store().put(layer())
    assert caught.value.seconds == 21600
    assert sum(bench.waits) < 10


@pytest.mark.covers("R15", "F30")
def test_F30_a_login_refused_in_the_end_gives_the_session_back(bench: Bench):
    bench.registry.fault("PUT", SESSION, times=0, answer=Answer(401))
    with pytest.raises(BinpkgError):
        bench.store().put(layer())
    assert bench.methods()[-1] == "DELETE"


# ---- the source


def test_a_source_that_changed_is_never_stored(bench: Bench):
    good = layer()
    for data in (b"?" + good.read()[1:], good.read()[:-1], good.read() + b"x"):
        blob = Blob(good.descriptor, lambda data=data: io.BytesIO(data))  # type: ignore[misc]
        with pytest.raises(ContentError):
            bench.store().put(blob)
    assert not stored(bench)


def test_a_source_that_cannot_be_read_is_a_local_fault(bench: Bench, tmp_path):
    gone = file_blob(str(tmp_path / "gone"), layer().descriptor)

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    for blob in (gone, Blob(layer().descriptor, Broken)):
        with pytest.raises(LocalDiskError):
            bench.store().put(blob)
    assert len(bench.registry.requests("PUT")) <= 2


def test_the_source_is_opened_anew_for_each_attempt(bench: Bench):
    opened = []

    @contextmanager
    def source() -> Iterator[BinaryIO]:
        opened.append(1)
        yield io.BytesIO(content(3000))

    bench.registry.fault("PUT", SESSION, times=2, answer=Answer(502))
    assert bench.store().put(Blob(layer().descriptor, source))
    assert len(opened) == 3


# ---- mounting


@pytest.mark.covers("R29", "F42")
def test_F42_a_blob_of_the_same_registry_is_mounted(bench: Bench):
    base = bench.store("base")
    blob = replace(placed(bench.registry, layer(), "base"), origin=base.address)
    assert bench.store().put(blob) is False
    assert bench.methods() == ["HEAD", "POST", "HEAD"]
    assert holds(bench, blob)
    assert bench.registry.log[1].argument("from") == "base"
    assert bench.registry.log[1].argument("mount") == str(blob.descriptor.digest)


@pytest.mark.covers("R29")
def test_R29_a_mount_asks_for_both_repositories():
    from tests.support.fake_registry import FakeRegistry
    from tests.support.plain_http import PlainClient

    with FakeRegistry() as registry:
        client = PlainClient()
        bench = Bench(registry, client)
        blob = replace(placed(registry, layer(), "base"), origin=bench.store("base").address)
        bench.store().put(blob)
        assert client.sent[1].scopes == ("repository:apps:pull,push", "repository:base:pull")


@pytest.mark.covers("R29", "F42")
def test_F42_a_mount_that_is_declined_goes_on_with_its_session(bench: Bench):
    bench.registry.profile.mount_enabled = False
    blob = replace(placed(bench.registry, layer(), "base"), origin=bench.store("base").address)
    assert bench.store().put(blob) is True
    assert bench.methods() == ["HEAD", "POST", "PUT"]


@pytest.mark.covers("R29", "F42")
@pytest.mark.parametrize("status", [201, 400, 401, 403, 404, 405, 429, 500])
def test_F42_a_mount_that_fails_becomes_a_plain_upload(bench: Bench, status):
    blob = replace(placed(bench.registry, layer(), "base"), origin=bench.store("base").address)
    bench.registry.fault("POST", "mount=", answer=Answer(status))
    assert bench.store().put(blob) is True
    assert holds(bench, blob)
    assert [exchange.query for exchange in bench.registry.requests("POST")][1] == ""


@pytest.mark.covers("R29")
@pytest.mark.parametrize("origin", ["https://elsewhere.example/base", "http://127.0.0.1:1/base", "", "own"])
def test_R29_nothing_is_mounted_from_elsewhere(bench: Bench, origin):
    store = bench.store()
    assert store.put(replace(layer(), origin=store.address if origin == "own" else origin))
    assert not bench.registry.log[1].query


# ---- chunks


def chunked(size: int = 100 * KIB, **more) -> RegistrySettings:
    return replace(DEFAULTS, chunk_size=size, smallest_chunk=10 * KIB, **more)


def offsets(bench: Bench) -> list[str]:
    return [exchange.headers["content-range"] for exchange in bench.registry.requests("PATCH")]


@pytest.mark.covers("R31")
@pytest.mark.parametrize("size", [0, 1, 250 * KIB, 300 * KIB])
def test_R31_chunks_on_request(bench: Bench, size):
    blob = layer(size)
    assert bench.store(settings=chunked()).put(blob) is True
    assert holds(bench, blob)
    starts = range(0, size, 100 * KIB)
    assert offsets(bench) == [f"{start}-{min(start + 100 * KIB, size) - 1}" for start in starts]
    assert bench.registry.log[-1].length == 0


def _unknown_before_a_patch(bench: Bench) -> None:
    """Let the registry not find a session that got no PATCH, and not say what it did not find."""

    def judge(exchange: Exchange) -> Answer:
        return bench.registry.respond(exchange) if exchange.length == 0 else Answer(404, body=b"<html>Not Found</html>")

    bench.registry.fault("PUT", SESSION, times=0, answer=judge)


@pytest.mark.covers("R31", "F37")
def test_F37_a_session_that_is_unknown_gets_a_patch_first_and_so_do_all_after_it(bench: Bench):
    blobs = [layer(25 * KIB, seed) for seed in (1, 2)]
    _unknown_before_a_patch(bench)
    store = bench.store(settings=replace(DEFAULTS, fallback_chunk=20 * KIB))
    for blob in blobs:
        assert store.put(blob)
        assert holds(bench, blob)
    assert [exchange.length for exchange in bench.registry.requests("PUT")] == [25 * KIB, 0, 0]
    assert len(bench.waits) == 1


@pytest.mark.covers("F37")
def test_F37_where_chunks_are_no_help_the_first_error_is_told(bench: Bench):
    _unknown_before_a_patch(bench)
    bench.registry.fault("PATCH", SESSION, times=0, answer=Answer.error(405, "UNSUPPORTED", "no chunks here"))
    with pytest.raises(ServerError, match="the upload session is gone"):
        bench.store().put(layer(25 * KIB))
    assert len(bench.registry.requests("PATCH")) == 1


@pytest.mark.covers("R31", "F07", "F40")
def test_F40_a_blob_too_large_for_one_piece_is_sent_in_chunks(bench: Bench):
    blob = layer(500 * KIB)
    bench.registry.fault("PUT", SESSION, answer=Answer(413))
    assert bench.store(settings=replace(DEFAULTS, fallback_chunk=200 * KIB)).put(blob)
    assert holds(bench, blob)
    assert len(offsets(bench)) == 3
    assert not bench.waits


@pytest.mark.covers("R31", "F40")
@pytest.mark.parametrize(
    "answer",
    [
        Answer(413),
        Answer.error(416, "SIZE_INVALID", "request body is too large"),
        Answer.error(400, "BLOB_UPLOAD_INVALID", "the part exceeds the maximum size"),
    ],
)
def test_F40_chunks_shrink_until_they_are_taken(bench: Bench, answer):
    blob = layer(300 * KIB)

    def judge(exchange: Exchange) -> Answer:
        return answer if exchange.length > 30 * KIB else bench.registry.respond(exchange)

    bench.registry.fault("PATCH", SESSION, times=0, answer=judge)
    assert bench.store(settings=chunked()).put(blob)
    assert holds(bench, blob)
    assert {exchange.length for exchange in bench.registry.requests("PATCH")} == {100 * KIB, 50 * KIB, 25 * KIB}
    bench.registry.clear()
    bench.registry.fault("PATCH", SESSION, times=0, answer=answer)
    with pytest.raises(BinpkgError):
        bench.store(settings=chunked()).put(layer(300 * KIB, seed=2))
    assert len(offsets(bench)) == 4
    assert bench.methods()[-1] == "DELETE"


@pytest.mark.covers("R31", "F40")
@pytest.mark.parametrize(
    ("least", "first"),
    [
        ("150000", 150000),
        ("0", 102400),
        ("-1", 102400),
        ("x", 102400),
        ("9223372036854775807", 102400),
        ("9" * 40, 102400),
    ],
)
def test_F40_the_least_chunk_is_obeyed_if_it_makes_sense(bench: Bench, least, first):
    bench.registry.profile.chunk_min_length = least
    blob = layer(300 * KIB)
    assert bench.store(settings=chunked(largest_chunk=200 * KIB)).put(blob)
    assert holds(bench, blob)
    assert bench.registry.requests("PATCH")[0].length == first


@pytest.mark.covers("R31", "F39")
@pytest.mark.parametrize("status", [201, 202, 204])
@pytest.mark.parametrize("text", [None, "0-0", "0--1", "bytes=0-102399", "0-102399", "102400-204799", "junk"])
def test_F39_a_range_that_makes_no_sense_does_not_disturb(bench: Bench, status, text):
    blob = layer(250 * KIB)
    bench.registry.fault("PATCH", SESSION, times=0, status=status, headers={"Range": text})
    assert bench.store(settings=chunked()).put(blob)
    assert holds(bench, blob)
    assert len(offsets(bench)) == 3


@pytest.mark.covers("R31", "F39")
def test_F39_a_registry_that_takes_part_of_a_chunk_gets_the_rest(bench: Bench):
    blob = layer(250 * KIB)

    def half(exchange: Exchange) -> Answer:
        exchange.body = exchange.body[: 60 * KIB]
        del exchange.headers["content-range"]
        return bench.registry.respond(exchange)

    bench.registry.fault("PATCH", SESSION, nth=2, answer=half)
    assert bench.store(settings=chunked()).put(blob)
    assert holds(bench, blob)


@pytest.mark.covers("R31", "F39")
def test_F39_a_range_that_lies_is_not_believed_twice(bench: Bench):
    blob = layer(250 * KIB)
    bench.registry.fault("PATCH", SESSION, times=0, headers={"Range": "0-9"})
    bench.registry.fault("PUT", "digest=", answer=Answer.error(400, "DIGEST_INVALID"))
    assert bench.store(settings=chunked()).put(blob)
    assert holds(bench, blob)
    assert [text.partition("-")[0] for text in offsets(bench)[-3:]] == ["0", "102400", "204800"]


@pytest.mark.covers("R31", "F39")
def test_R31_each_new_location_is_followed_and_an_absent_one_changes_nothing(bench: Bench):
    blob = layer(250 * KIB)
    serial = iter(range(100))

    def moved(exchange: Exchange) -> Answer:
        answer = bench.registry.respond(exchange)
        answer.headers = [("Location", f"{exchange.path}?state={next(serial)}")]
        return answer

    bench.registry.fault("PATCH", SESSION, times=2, answer=moved)
    bench.registry.fault("PATCH", SESSION, headers={"Location": None})
    assert bench.store(settings=chunked()).put(blob)
    assert [exchange.query for exchange in bench.registry.requests("PATCH")][1:] == ["state=0", "state=1"]
    assert bench.registry.log[-1].query.startswith("state=1&digest=")


@pytest.mark.covers("R31", "R32", "F38")
@pytest.mark.parametrize("how", [{"after": RESET}, {"status": 500}])
@pytest.mark.parametrize("nth", [1, 2])
def test_F38_a_chunk_stored_without_an_answer_is_not_sent_twice(bench: Bench, how, nth):
    blob = layer(250 * KIB)
    bench.registry.fault("PATCH", SESSION, nth=nth, **how)
    assert bench.store(settings=chunked()).put(blob)
    assert holds(bench, blob)
    assert len(offsets(bench)) == 3
    assert len(bench.registry.requests("GET", SESSION)) == 1


@pytest.mark.covers("R31", "F38")
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("how", [{"before": RESET}, {"answer": Answer(503)}])
def test_F38_a_chunk_that_was_lost_is_sent_again_in_the_same_session(bench: Bench, how, nth):
    blob = layer(250 * KIB)
    bench.registry.fault("PATCH", SESSION, nth=nth, times=2, **how)
    assert bench.store(settings=chunked()).put(blob)
    assert holds(bench, blob)
    assert len(offsets(bench)) == 5
    assert len(bench.registry.requests("POST")) == 1


@pytest.mark.covers("R31", "F38")
@pytest.mark.parametrize(
    "status_answer", [Answer(404), Answer(405), Answer(500), Answer(204, [("Range", "0-5")]), Answer(204)]
)
def test_F38_without_a_usable_state_the_upload_starts_anew(bench: Bench, status_answer):
    blob = layer(250 * KIB)
    bench.registry.fault("PATCH", SESSION, nth=2, after=RESET)
    bench.registry.fault("GET", SESSION, times=0, answer=status_answer)
    assert bench.store(settings=chunked()).put(blob)
    assert holds(bench, blob)
    assert len(bench.registry.requests("POST")) == 2


@pytest.mark.covers("R31", "F38")
def test_F38_a_chunk_out_of_order_is_settled_by_asking(bench: Bench):
    blob = layer(250 * KIB)
    bench.registry.fault("PATCH", SESSION, nth=2, answer=Answer(416))
    assert bench.store(settings=chunked()).put(blob)
    assert holds(bench, blob)
    assert len(bench.registry.requests("POST")) == 1


@pytest.mark.covers("R31", "F38")
def test_F38_a_chunk_that_never_arrives_ends_the_session_and_then_the_upload(bench: Bench):
    bench.registry.fault("PATCH", SESSION, times=0, answer=Answer(500))
    with pytest.raises(ServerError):
        bench.store(settings=chunked(backoff=Backoff(unit_delays=(1.0,), chunk_tries=2))).put(layer(250 * KIB))
    assert len(bench.registry.requests("POST")) == 2
    assert len(offsets(bench)) == 4


@pytest.mark.covers("R31", "F37")
def test_F37_a_session_lost_between_chunks_is_replaced(bench: Bench):
    blob = layer(250 * KIB)
    bench.registry.fault("PATCH", SESSION, nth=2, answer=Answer.error(404, "BLOB_UPLOAD_UNKNOWN"))
    assert bench.store(settings=chunked()).put(blob)
    assert holds(bench, blob)
    assert len(bench.registry.requests("POST")) == 2


def test_a_chunk_refused_for_good_ends_the_upload(bench: Bench):
    bench.registry.fault("PATCH", SESSION, answer=Answer.error(405, "UNSUPPORTED"))
    with pytest.raises(ServerError):
        bench.store(settings=chunked()).put(layer(250 * KIB))
    assert bench.methods()[-1] == "DELETE"


# ---- threads


def test_threads_that_put_the_same_blob_send_it_once(bench: Bench):
    blob, store = layer(200 * KIB), bench.store()
    together = threading.Barrier(4)

    def put() -> bool:
        together.wait(10)
        return store.put(blob)

    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(put) for _ in range(4)]]
    assert sorted(results) == [False, False, False, True]
    assert len(bench.registry.requests("PUT")) == 1


def test_after_a_failed_upload_the_next_thread_tries_itself(bench: Bench):
    blob, store = layer(), bench.store(settings=ONE_UNIT)
    bench.registry.fault("PUT", SESSION, answer=Answer(500))
    with pytest.raises(ServerError):
        store.put(blob)
    assert store.put(blob)


def test_a_login_that_is_not_given_is_an_error_of_its_own(bench: Bench):
    bench.registry.auth = Basic()
    with pytest.raises(BinpkgError) as caught:
        bench.store().put(layer())
    assert caught.value.exit_code == 22
