from __future__ import annotations

from dataclasses import replace

import pytest

from oci_binpkg.backoff import Backoff
from oci_binpkg.errors import ContentError, NetworkError, NotFoundError, ServerError
from oci_binpkg.model.content import Blob, Descriptor, Digest
from oci_binpkg.store.registry.api import DEFAULTS
from tests.support.fake_registry import CLOSE, RESET, Answer, Exchange
from tests.support.registry_store import KIB, Bench, fetch, layer, placed

LARGE = 900 * KIB
STREAMING = replace(DEFAULTS, held_back=0)
BLOB_PATH = "/blobs/sha256"


def flipped(at: int):
    return lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.covers("R23")
@pytest.mark.parametrize("size", [0, 1, 70_000, LARGE])
@pytest.mark.parametrize("settings", [DEFAULTS, STREAMING])
@pytest.mark.parametrize("piece", [-1, 1000])
def test_a_blob_is_read_as_it_was_stored(bench: Bench, size, settings, piece):
    blob = placed(bench.registry, layer(size))
    assert fetch(bench.store(settings=settings), blob.descriptor, piece) == blob.read()
    assert bench.methods() == ["GET"]


def test_a_missing_blob_is_noticed_when_it_is_opened(bench: Bench):
    with pytest.raises(NotFoundError), bench.store().open(layer().descriptor):
        pytest.fail("opened")
    assert not bench.waits


def test_a_stream_that_is_not_read_to_its_end_asks_nothing_more(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    with bench.store(settings=STREAMING).open(blob.descriptor) as stream:
        assert stream.read(10) == blob.read()[:10]
    with bench.store().open(blob.descriptor):
        pass
    assert bench.methods() == ["GET", "GET"]


@pytest.mark.covers("R24", "F13")
@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("settings", [DEFAULTS, STREAMING])
def test_F13_a_short_body_is_resumed_where_it_ended(bench: Bench, end, settings):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, cut=400 * KIB, end=end)
    assert fetch(bench.store(settings=settings), blob.descriptor) == blob.read()
    ranges = [exchange.headers.get("range", "") for exchange in bench.registry.log]
    assert ranges[0] == ""
    if end == CLOSE:  # a reset may take bytes with it that were received but not read
        assert ranges[1] == f"bytes={400 * KIB}-{LARGE - 1}"
    assert len(ranges) == 2
    assert len(bench.waits) == 1
    assert 0.5 <= bench.waits[0] <= 1


@pytest.mark.covers("R24", "F14")
def test_F14_a_short_body_without_a_length_is_noticed_and_resumed(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, cut=300 * KIB, unsized=True)
    assert fetch(bench.store(), blob.descriptor) == blob.read()
    assert bench.registry.log[1].headers["range"] == f"bytes={300 * KIB}-{LARGE - 1}"


@pytest.mark.covers("R24", "F13")
def test_F13_resumption_goes_on_while_it_makes_progress(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    settings = replace(DEFAULTS, resume_progress=100 * KIB, backoff=Backoff(resume_failures=2))
    bench.registry.fault("GET", BLOB_PATH, cut=120 * KIB, times=0, unsized=True)
    assert fetch(bench.store(settings=settings), blob.descriptor) == blob.read()
    assert len(bench.methods()) == 8


@pytest.mark.covers("R24", "F13")
def test_F13_without_progress_it_ends_after_five_attempts_and_growing_waits(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, cut=1000, times=0, unsized=True)
    with pytest.raises(NetworkError, match="broken off at byte 5000 of 921600 after 5 attempts"):
        fetch(bench.store(), blob.descriptor)
    assert len(bench.methods()) == 5
    assert bench.waits == sorted(bench.waits)


def test_no_failure_is_forgiven_where_none_is_allowed(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, cut=1000)
    with pytest.raises(NetworkError):
        fetch(bench.store(settings=replace(DEFAULTS, backoff=Backoff(resume_failures=0))), blob.descriptor)
    assert bench.methods() == ["GET"]


@pytest.mark.covers("R23", "F15")
@pytest.mark.parametrize(
    "how", [{"unsized": True, "mutate": lambda body: body + b"more"}, {"mutate": lambda body: body + b"x"}]
)
def test_F15_too_many_bytes_are_fetched_once_more_and_then_refused(bench: Bench, how):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, **how)
    assert fetch(bench.store(), blob.descriptor) == blob.read()
    bench.registry.clear()
    bench.registry.fault("GET", BLOB_PATH, times=0, **how)
    with pytest.raises(ContentError):
        fetch(bench.store(settings=STREAMING), blob.descriptor)
    assert bench.methods() == ["GET", "GET"]


@pytest.mark.covers("R23", "F15")
def test_F15_a_wrong_length_is_refused_before_a_byte_is_given_out(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    small = replace(blob.descriptor, size=LARGE - 1)
    with (
        bench.store(settings=STREAMING).open(small) as stream,
        pytest.raises(ContentError, match="921600 bytes are offered"),
    ):
        stream.read(1)
    assert bench.methods() == ["GET", "GET"]


@pytest.mark.covers("R24", "F16")
@pytest.mark.parametrize(("settings", "at"), [(DEFAULTS, 5), (DEFAULTS, LARGE - 1), (STREAMING, LARGE - 1)])
def test_F16_one_damaged_transfer_is_made_good(bench: Bench, settings, at):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, mutate=flipped(at))
    assert fetch(bench.store(settings=settings), blob.descriptor) == blob.read()
    assert [exchange.headers.get("range") for exchange in bench.registry.log] == [None, None]
    assert "fetched once more" in bench.warnings()[0]


@pytest.mark.covers("R24", "F16")
@pytest.mark.parametrize("settings", [DEFAULTS, STREAMING])
def test_F16_content_that_stays_wrong_is_refused_before_its_end(bench: Bench, settings):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, times=0, mutate=flipped(5))
    got = bytearray()

    def read_all() -> None:
        with bench.store(settings=settings).open(blob.descriptor) as stream:
            while chunk := stream.read(1000):
                got.extend(chunk)

    with pytest.raises(ContentError, match="does not have this digest"):
        read_all()
    assert len(got) < LARGE
    assert len(bench.methods()) == 2


@pytest.mark.covers("R24", "F16")
def test_F16_damage_in_what_was_given_out_is_a_failed_transfer_not_bad_content(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, mutate=flipped(5))
    with pytest.raises(NetworkError, match="damaged on the way"):
        fetch(bench.store(settings=STREAMING), blob.descriptor)
    assert fetch(bench.store(settings=STREAMING), blob.descriptor) == blob.read()


@pytest.mark.covers("R24", "F17")
def test_F17_a_full_answer_to_a_range_is_used_from_the_right_byte_on(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.profile.ranges = False
    bench.registry.fault("GET", BLOB_PATH, cut=300 * KIB, unsized=True)
    assert fetch(bench.store(settings=STREAMING), blob.descriptor) == blob.read()
    assert len(bench.methods()) == 2


WRONG_PARTS = [
    {"headers": {"Content-Range": f"bytes 0-{LARGE - 1}/{LARGE}"}},
    {"headers": {"Content-Range": f"bytes {300 * KIB}-{LARGE - 2}/{LARGE}"}},
    {"headers": {"Content-Range": f"bytes {300 * KIB}-{LARGE - 1}/{LARGE + 1}"}},
    {"headers": {"Content-Range": f"bytes {300 * KIB}-{LARGE - 1}/*"}},
    {"headers": {"Content-Range": None}},
    {"more": (("Content-Range", f"bytes {300 * KIB}-{LARGE - 1}/{LARGE}"),)},
    {"headers": {"Content-Type": "multipart/byteranges; boundary=x"}},
]


@pytest.mark.covers("R24", "F18")
@pytest.mark.parametrize("wrong", WRONG_PARTS)
def test_F18_a_part_other_than_the_asked_one_is_never_spliced_in(bench: Bench, wrong):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, cut=300 * KIB, unsized=True)
    bench.registry.fault(
        "GET", BLOB_PATH, times=0, mutate=lambda body: body if len(body) == LARGE else b"?" * len(body), **wrong
    )
    assert fetch(bench.store(), blob.descriptor) == blob.read()
    assert [bool(exchange.headers.get("range")) for exchange in bench.registry.log] == [False, True, False]


@pytest.mark.covers("R24", "F18")
def test_F18_a_part_shorter_than_its_header_says_is_fetched_anew(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, cut=300 * KIB, unsized=True)
    bench.registry.fault("GET", BLOB_PATH, mutate=lambda body: body[:-1])
    assert fetch(bench.store(), blob.descriptor) == blob.read()


@pytest.mark.covers("R24", "F19")
def test_F19_a_server_that_refuses_every_range_is_asked_for_the_whole(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))

    def refuse(exchange: Exchange) -> Answer:
        return Answer(416) if "range" in exchange.headers else bench.registry.respond(exchange)

    bench.registry.fault("GET", BLOB_PATH, cut=300 * KIB, unsized=True)
    bench.registry.fault("GET", BLOB_PATH, times=0, answer=refuse)
    assert fetch(bench.store(), blob.descriptor) == blob.read()
    assert [exchange.status for exchange in bench.registry.log] == [200, 416, 200]


@pytest.mark.covers("R08", "F20")
def test_F20_each_resumption_gets_a_new_signed_address(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.profile.cdn = bench.registry.profile.cdn_single_use = True
    bench.registry.fault("GET", "/cdn/", cut=300 * KIB, unsized=True)
    assert fetch(bench.store(), blob.descriptor) == blob.read()
    assert [exchange.server for exchange in bench.registry.log] == ["registry", "cdn", "registry", "cdn"]


def test_a_success_that_is_none_is_not_read(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, status=206)
    with pytest.raises(ServerError, match="answered 206"):
        fetch(bench.store(), blob.descriptor)


def test_a_connection_that_breaks_after_the_last_byte_does_not_matter(bench: Bench):
    blob = placed(bench.registry, layer(LARGE))
    bench.registry.fault("GET", BLOB_PATH, unsized=True)
    assert fetch(bench.store(), blob.descriptor) == blob.read()
    assert bench.methods() == ["GET"]


@pytest.mark.covers("R26")
def test_R26_what_was_just_pushed_may_take_a_moment_to_show(bench: Bench):
    store, blob = bench.store(), layer()
    store.put(blob)
    bench.registry.fault("GET", BLOB_PATH, times=2, answer=Answer.error(404, "BLOB_UNKNOWN"))
    assert fetch(store, blob.descriptor) == blob.read()
    assert len(bench.waits) == 2
    bench.registry.fault("GET", BLOB_PATH, times=0, answer=Answer.error(404, "BLOB_UNKNOWN"))
    with pytest.raises(NotFoundError):
        fetch(store, blob.descriptor)


def test_sha512_content_is_verified_too(bench: Bench):
    import hashlib

    data = layer().read()
    digest = Digest("sha512", hashlib.sha512(data).hexdigest())
    bench.registry.repo("apps").blobs[str(digest)] = data
    assert fetch(bench.store(), Descriptor("x/y", digest, len(data))) == data
    wrong = Blob.from_bytes(b"other")
    bench.registry.repo("apps").blobs[str(wrong.descriptor.digest)] = b"OTHER"
    with pytest.raises(ContentError):
        fetch(bench.store(), wrong.descriptor)
