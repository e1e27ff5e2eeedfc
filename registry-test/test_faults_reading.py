"""F13 to F27: bodies, ranges, redirects and headers on the way back. Each test says: the fault -> what comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_bench import (
    BLOB,
    MANIFEST,
    MIB,
    USER,
    Action,
    Answer,
    Asked,
    FaultBench,
    Rule,
    digest_text,
    fetch,
    layer,
)
from proxy.quirks import Stage, blobs_elsewhere
from proxy.server import FaultProxy

from oci_binpkg.errors import ContentError, ServerError
from oci_binpkg.model.content import OCI_INDEX, OCI_MANIFEST
from oci_binpkg.transport.retry import RetryPolicy
from tests.support.command_line import binpkg
from tests.support.golden import LAYOUT
from tests.support.self_signed import Certificates

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

SIZE = 5 * MIB
LARGE = layer(SIZE)


def ranges(bench: FaultBench) -> list[str | None]:
    """The Range of every request for the blob, in order."""
    return [one.headers.get("range") for one in bench.seen("GET", BLOB, "registry")]


def flipped(data: bytes, at: int = 1000) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def storage_of(bench: FaultBench, **options: int) -> FaultProxy:
    """Let blobs be at another address, by signed URLs."""
    storage = bench.another("storage", bench.registry.url)
    for rule in blobs_elsewhere(**options)(Stage(bench.registry.url, bench.proxy.url, storage.url)):
        (storage if rule.role == "storage" else bench.proxy).add(rule)
    return storage


def test_F13_short_body(bench: FaultBench) -> None:
    """A body shorter than its Content-Length, again and again -> resumed by closed ranges from where it broke off; what
    was received is not asked for again.
    """
    bench.placed(LARGE)
    for nth in (1, 2, 3):
        bench.on(Action(cut_after=MIB), "GET", BLOB, nth=nth)
    assert fetch(bench.store(), LARGE.descriptor) == LARGE.read()
    assert ranges(bench) == [None, *(f"bytes={n * MIB}-{SIZE - 1}" for n in (1, 2, 3))]


def test_F14_short_body_without_length(bench: FaultBench) -> None:
    """A short body whose end is only the end of the connection -> the size tells, and it is resumed."""
    bench.placed(LARGE)
    bench.on(Action(sized=False, cut_after=2 * MIB), "GET", BLOB)
    assert fetch(bench.store(), LARGE.descriptor) == LARGE.read()
    assert ranges(bench) == [None, f"bytes={2 * MIB}-{SIZE - 1}"]


@pytest.mark.parametrize("sized", [True, False])
def test_F15_long_body(bench: FaultBench, sized: bool) -> None:
    """A body longer than the descriptor says, or a Content-Length that is not the size -> not read beyond the size;
    fetched once more, then an integrity error.
    """
    bench.placed(LARGE)
    bench.on(Action(body=lambda data: data + bytes(10 * MIB), sized=sized), "GET", BLOB, times=0)
    with pytest.raises(ContentError, match=r"offered|more than"):
        fetch(bench.store(), LARGE.descriptor)
    assert ranges(bench) == [None, None]
    assert len(bench.warnings()) == 1


def test_F16_flipped_byte(bench: FaultBench, tmp_path: Path, isolated_home: Path) -> None:
    """One flipped byte, once -> fetched once more and right. Always -> a digest error, and nothing is unpacked, kept or
    installed.
    """
    bench.placed(LARGE)
    bench.on(Action(body=flipped), "GET", BLOB)
    assert digest_text(fetch(bench.store(held_back=8 * MIB), LARGE.descriptor)) == str(LARGE.descriptor.digest)
    assert ranges(bench) == [None, None]
    cache = f"oci://{bench.proxy.host}/{bench.name}-golden"
    assert binpkg("copy", f"oci-layout:{LAYOUT}", cache).code == 0
    bench.log.forget()
    wanted = {"times": 0, "when": lambda asked: "golden" in asked.path}
    bench.on(Action(body=lambda data: flipped(data, 20) if data[:2] == b"\x1f\x8b" else data), "GET", BLOB, **wanted)
    ended = binpkg("install", "greetlib@1.3.0", "--from", cache, "--store", tmp_path / "s", "--allow-missing")
    assert ended.code == 10, ended.err
    assert "digest" in ended.out + ended.err
    assert not list((tmp_path / "s").rglob("greet*"))
    assert not list(isolated_home.rglob("*.tar*"))


def test_F17_range_ignored(bench: FaultBench) -> None:
    """A Range answered 200 with the whole -> read on from the right byte, or from the start; the digest is right."""
    bench.placed(LARGE)
    bench.on(Action(cut_after=2 * MIB), "GET", BLOB)

    def whole(_asked: Asked, answer: Answer) -> Answer:
        return answer.with_status(200).with_body(LARGE.read()).changed({"Content-Range": None})

    bench.on(Action(edit=whole), "GET", BLOB, nth=2)
    assert fetch(bench.store(), LARGE.descriptor) == LARGE.read()
    assert len(ranges(bench)) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"Content-Range": f"bytes 1-{SIZE - 1}/{SIZE}"},
        {"Content-Range": f"bytes {2 * MIB}-{SIZE - 2}/{SIZE}"},
        {"Content-Range": f"bytes {2 * MIB}-{SIZE - 1}/{SIZE + 1}"},
        {"Content-Range": f"bytes {2 * MIB}-{SIZE - 1}/{SIZE}, bytes 0-1/2"},
        {"Content-Range": None},
        {"Content-Type": "multipart/byteranges; boundary=x"},
    ],
)
def test_F18_wrong_part(bench: FaultBench, wrong: dict[str, str | None]) -> None:
    """206 with another first, last or total byte, two Content-Range headers, none, or several parts -> never spliced
    in: fetched from the start without Range.
    """
    bench.placed(LARGE)
    bench.on(Action(cut_after=2 * MIB), "GET", BLOB)
    bench.on(Action(headers=wrong, body=lambda data: bytes(len(data))), "GET", BLOB, nth=2)
    assert fetch(bench.store(), LARGE.descriptor) == LARGE.read()
    assert ranges(bench) == [None, f"bytes={2 * MIB}-{SIZE - 1}", None]


@pytest.mark.parametrize("all_ranges", [False, True])
def test_F19_range_refused(bench: FaultBench, all_ranges: bool) -> None:
    """416 to an open range and 206 to a closed one -> only closed ones are asked. 416 to all -> without Range."""
    bench.placed(LARGE)
    bench.on(Action(cut_after=2 * MIB), "GET", BLOB)
    refused = Action(answer=Answer(416))
    bench.on(refused, "GET", BLOB, times=0, when=lambda asked: asked.headers.get("range", "").endswith("-"))
    if all_ranges:
        bench.on(refused, "GET", BLOB, times=0, when=lambda asked: "range" in asked.headers)
    assert fetch(bench.store(), LARGE.descriptor) == LARGE.read()
    closed = f"bytes={2 * MIB}-{SIZE - 1}"
    assert ranges(bench) == ([None, closed, None] if all_ranges else [None, closed])


def test_F20_signed_url_once(bench: FaultBench) -> None:
    """A signed address that is good for one request -> each resumption asks the registry for a new one."""
    bench.placed(LARGE)
    storage = storage_of(bench, uses=1)
    for nth in (1, 2):
        storage.add(Rule(Action(cut_after=MIB), "GET", nth=nth))
    assert fetch(bench.store(), LARGE.descriptor) == LARGE.read()
    assert ranges(bench) == [None, f"bytes={MIB}-{SIZE - 1}", f"bytes={2 * MIB}-{SIZE - 1}"]
    signatures = {one.query for one in bench.seen(role="storage")}
    assert len(signatures) == len(bench.seen(role="storage")) == 3


@pytest.mark.parametrize("tls", [("http", "http"), ("https", "https"), ("https", "http"), ("http", "https")])
def test_F21_redirect_elsewhere(bench: FaultBench, certificates: Certificates, tls: tuple[str, str]) -> None:
    """A redirect to another port or host -> followed without Authorization and without cookies; from https to http it
    is refused and the other server not asked.
    """
    certificate = certificates.make("good")
    contexts = [certificates.context(certificate) if scheme == "https" else None for scheme in tls]
    bench.placed(LARGE)
    bench.proxy = bench.another("registry", bench.registry.url, tls=contexts[0])
    bench.proxy.keep_login = False
    bench.ask_for_tokens()
    storage = bench.another("storage", bench.registry.url, tls=contexts[1])
    bench.on(Action(more=(("Set-Cookie", "session=1; Path=/; Domain=127.0.0.1"),)), times=0)
    blob = f"/v2/{bench.name}/blobs/{LARGE.descriptor.digest}"
    bench.on(Action(answer=Answer(307, (("Location", f"{storage.url}{blob}"),))), "GET", BLOB, times=0)
    store = bench.store(client=bench.client(credential=USER, ca_file=str(certificate)))
    if tls == ("https", "http"):
        with pytest.raises(ServerError, match="from https to plain http"):
            fetch(store, LARGE.descriptor)
        assert bench.seen(role="storage") == []
    else:
        assert fetch(store, LARGE.descriptor) == LARGE.read()
        (asked,) = bench.seen(role="storage")
        assert asked.authorization == ""
        assert "cookie" not in asked.headers
    assert bench.seen("GET", BLOB, "registry")[-1].authorization.startswith("Bearer ")
    assert all("cookie" not in one.headers for one in bench.seen())


@pytest.mark.parametrize(
    "target", ["loop", "chain", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "", "ftp://x/y"]
)
def test_F22_bad_redirect(bench: FaultBench, target: str) -> None:
    """A redirect in a circle, eleven in a row, to an internal address, to a file, to nowhere -> refused with a clear
    error after few requests.
    """
    count = iter(range(11))

    def answer(asked: Asked) -> Answer:
        where = {"loop": asked.target, "chain": f"{asked.path}?hop={next(count, 11)}"}.get(target, target)
        return Answer(307, (("Location", where),))

    bench.on(Action(answer=answer), "GET", BLOB, times=0)
    with pytest.raises(ServerError, match=r"refused|redirected more than 5 times|307"):
        fetch(bench.store(), LARGE.descriptor)
    assert len(bench.seen()) == (6 if target in {"loop", "chain"} else 1)
    assert bench.time.slept == []


@pytest.mark.parametrize("status", [403, 405])
def test_F23_head_of_storage(bench: FaultBench, status: int) -> None:
    """HEAD is sent on to storage that refuses it -> one byte by GET tells, and nothing is uploaded again."""
    bench.placed(LARGE)
    storage_of(bench, head=status)
    assert bench.store().put(LARGE) is False
    assert [one.method for one in bench.seen(role="storage")] == ["HEAD", "GET"]
    assert bench.seen("GET", BLOB, "registry")[0].headers["range"] == "bytes=0-0"
    assert bench.seen("POST|PUT") == []


def test_F24_content_encoding(bench: FaultBench) -> None:
    """A proxy on the way puts `Content-Encoding: gzip` on a blob -> the attempt fails and is made again, with
    identity; if it stays, an error that names a proxy as the likely cause.
    """
    bench.placed(LARGE)
    bench.on(Action(headers={"Content-Encoding": "gzip", "Via": "1.1 cache.example"}), "GET", BLOB)
    assert fetch(bench.store(), LARGE.descriptor) == LARGE.read()
    bench.on(Action(headers={"Content-Encoding": "gzip", "Via": "1.1 cache.example"}), "GET", BLOB, times=0)
    with pytest.raises(ServerError, match=r"via 1\.1 cache\.example") as caught:
        fetch(bench.store(client=bench.client(retry=RetryPolicy(retries=1))), LARGE.descriptor)
    assert "proxy" in caught.value.hint
    assert len(ranges(bench)) == 4
    assert {one.headers["accept-encoding"] for one in bench.seen()} == {"identity"}


@pytest.mark.parametrize("gone", ["Docker-Content-Digest", "Content-Length", "Content-Type"])
def test_F25_silent_head(bench: FaultBench, gone: str) -> None:
    """HEAD of a manifest without digest, length or type -> GET, and the digest of what came."""
    _, manifest = bench.published()
    action = Action(headers={gone: None}) if gone != "Content-Length" else Action(sized=False)
    bench.on(action, "HEAD", MANIFEST, times=0)
    assert bench.store().head("1.0") == manifest.descriptor
    assert bench.methods(MANIFEST) == ["HEAD", "GET"]


def test_F26_wrong_digest_header(bench: FaultBench) -> None:
    """A tag's manifest with the digest of something else in the header -> a warning; the digest of the bytes counts."""
    _, manifest = bench.published()
    bench.on(Action(headers={"Docker-Content-Digest": f"sha256:{'1' * 64}"}), "GET", MANIFEST)
    assert bench.store().resolve("1.0") == manifest.descriptor
    assert "wrong digest" in bench.warnings()[0]


@pytest.mark.parametrize(
    ("told", "right"),
    [
        (f"{OCI_MANIFEST}; charset=utf-8", True),
        ("application/octet-stream", True),
        ("text/plain", True),
        (OCI_INDEX, False),
    ],
)
def test_F27_content_type(bench: FaultBench, told: str, right: bool) -> None:
    """Content-Type with parameters -> accepted; one that says nothing -> the document's own `mediaType` decides; one
    that contradicts it -> refused.
    """
    _, manifest = bench.published()
    bench.on(Action(headers={"Content-Type": told}), "GET", MANIFEST, times=0)
    if right:
        assert bench.store().resolve("1.0") == manifest.descriptor
    else:
        with pytest.raises(ContentError):
            bench.store().resolve("1.0")
    assert len(bench.seen()) == 1
