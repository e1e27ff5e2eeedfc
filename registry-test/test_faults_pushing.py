"""F34 to F43: uploads. Each test says: the fault -> what comes of it."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_bench import (
    BLOB,
    COMMIT,
    MANIFEST,
    MIB,
    UPLOAD,
    USER,
    Action,
    Answer,
    Asked,
    FaultBench,
    Rule,
    image,
    layer,
    refusal,
)
from proxy import quirks
from proxy.quirks import Stage

from oci_binpkg.errors import BinpkgError, ServerError
from oci_binpkg.model.content import Blob
from oci_binpkg.transport.tuning import Timeouts
from tests.support.command_line import binpkg
from tests.support.real.components import RealParts
from tests.support.self_signed import Certificates
from tests.support.spack_trees import Sketch, spack_tree

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

CHUNK = 100_000
LOST = Action(drop=True)
RESET = Action(forward=False, drop=True, reset=True)


def bodies(bench: FaultBench, method: str = "PUT", path: str = COMMIT) -> list[tuple[int, str]]:
    """Length and digest of the bodies of an upload, in order."""
    return [(one.length, one.sha256) for one in bench.seen(method, path)]


def whole(blob: Blob) -> tuple[int, str]:
    return blob.descriptor.size, blob.descriptor.digest.hex


def test_F34_reset_in_the_body(bench: FaultBench) -> None:
    """A reset in the middle of the body -> HEAD, a new session, the whole blob again; memory stays flat."""
    blob = layer(32 * MIB)
    bench.on(Action(forward=False, drop=True, reset=True, read_only=20 * MIB), "PUT", COMMIT)
    store = bench.store()
    tracemalloc.start()
    try:
        assert store.put(blob)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bench.methods() == ["HEAD", "POST", "PUT", "HEAD", "DELETE", "POST", "PUT"]
    assert bodies(bench)[1] == whole(blob)
    assert peak < 8 * MIB


@pytest.mark.parametrize("how", ["closed", "reset", "timeout", "504"])
def test_F35_lost_answer(bench: FaultBench, how: str) -> None:
    """The blob is stored and the answer lost: connection closed, reset, no answer in time, 504 -> HEAD finds it; one
    PUT in all.
    """
    blob = layer(70_000)
    action = {
        "closed": LOST,
        "reset": Action(drop=True, reset=True),
        "timeout": Action(silent=True),
        "504": Action(status=504),
    }[how]
    bench.on(action, "PUT", COMMIT)
    client = bench.client(timeouts=Timeouts(commit=0.3, idle=5))
    assert bench.store(client=client).put(blob)
    assert bench.methods() == ["HEAD", "POST", "PUT", "HEAD"]
    assert bodies(bench) == [whole(blob)]
    assert bench.holds(blob)


@pytest.mark.parametrize("stored", [True, False])
def test_F36_commit_fails(bench: FaultBench, stored: bool) -> None:
    """The commit fails with BLOB_UPLOAD_UNKNOWN although the blob is there -> success. With BLOB_UNKNOWN, and it is not
    there -> a new session with the whole blob.
    """
    blob = layer(70_000)
    answer = refusal(404, "BLOB_UPLOAD_UNKNOWN" if stored else "BLOB_UNKNOWN")
    bench.on(Action(edit=lambda _asked, _answer: answer) if stored else Action(answer=answer), "PUT", COMMIT)
    assert bench.store().put(blob)
    assert bodies(bench) == [whole(blob)] * (1 if stored else 2)
    assert len(bench.seen("POST", UPLOAD)) == (1 if stored else 2)
    assert bench.holds(blob)


@pytest.mark.parametrize(
    "answer", [refusal(404, "BLOB_UPLOAD_UNKNOWN"), Answer(416), refusal(400, "BLOB_UPLOAD_INVALID")]
)
@pytest.mark.parametrize("n", [3, 4])
def test_F37_lost_session(bench: FaultBench, answer: Answer, n: int) -> None:
    """The session is gone, 416, BLOB_UPLOAD_INVALID, up to three times -> a new session each time; the fourth time an
    error that counts the attempts.
    """
    blob = layer(70_000)
    bench.on(Action(answer=answer), "PUT", COMMIT, times=n)
    if n == 4:
        with pytest.raises(ServerError, match="4 attempts"):
            bench.store().put(blob)
    else:
        assert bench.store().put(blob)
        assert bench.holds(blob)
    assert len(bench.seen("POST", UPLOAD)) == 4
    assert bodies(bench) == [whole(blob)] * 4
    assert len(bench.time.slept) == 3


@pytest.mark.parametrize("how", [Action(drop=True, reset=True), Action(status=500)])
@pytest.mark.parametrize("status_api", [True, False])
def test_F38_chunk_stored(bench: FaultBench, how: Action, status_api: bool) -> None:
    """A chunk is stored and its answer is 500 or a reset -> the state is asked for and the upload goes on behind it, no
    byte twice. Without an answer about the state -> a new session.
    """
    blob = layer(350_000)
    bench.on(how, "PATCH", UPLOAD, nth=2)
    newest: list[Answer] = []

    def remember(_asked: Asked, answer: Answer) -> Answer:
        newest[:] = [answer]
        return answer

    def state(_asked: Asked) -> Answer:
        # the Distribution registry before 3.0 tells the state wrong, and cancels the upload
        told = newest[0]
        return Answer(204, (("Location", told.header("Location")), ("Range", told.header("Range"))))

    bench.on(Action(edit=remember), "PATCH", UPLOAD, times=0)
    bench.on(Action(answer=state if status_api else refusal(405, "UNSUPPORTED")), "GET", UPLOAD, times=0)
    assert bench.store(chunk_size=CHUNK).put(blob)
    ranges = [one.headers["content-range"] for one in bench.seen("PATCH")]
    wanted = ["0-99999", "100000-199999", "200000-299999", "300000-349999"]
    assert ranges == (wanted if status_api else wanted[:2] + wanted)
    assert len(bench.seen("GET", UPLOAD)) == 1
    assert bench.holds(blob)


@pytest.mark.parametrize("status", [201, 204])
@pytest.mark.parametrize("told", ["0-0", "0--1", "bytes=", "bytes=0-9", None, "last chunk", "first chunk"])
def test_F39_odd_ranges(bench: FaultBench, status: int, told: str | None) -> None:
    """PATCH answers 201 or 204, with a Range that is stale, only of the last chunk, missing, `0-0`, `0--1`,
    `bytes=0-N` -> finishes with the right content in as many requests as without; a Range that lies -> a second session
    that goes by its own count.
    """
    blob = layer(350_000)
    if told == "last chunk":
        for rule in quirks.patch_range_of_last_chunk()(Stage("")):
            bench.proxy.add(rule)
        bench.on(Action(status=status), "PATCH", UPLOAD, times=0)
    elif told == "bytes=":
        bench.on(
            Action(edit=lambda _asked, answer: answer.with_headers(Range="bytes=" + answer.header("Range"))),
            "PATCH", UPLOAD, times=0,
        )  # fmt: skip
        bench.on(Action(status=status), "PATCH", UPLOAD, times=0)
    else:
        text = f"0-{CHUNK - 1}" if told == "first chunk" else told
        bench.on(Action(headers={"Range": text}, status=status), "PATCH", UPLOAD, times=0)
    assert bench.store(chunk_size=CHUNK).put(blob)
    assert bench.holds(blob)
    assert len(bench.seen("POST", UPLOAD)) == (2 if told == "bytes=0-9" else 1)
    assert len(bench.seen("PATCH", UPLOAD)) == (9 if told == "bytes=0-9" else 4)


@pytest.mark.parametrize("answer", [Answer(413), refusal(416, "UNSUPPORTED", "request body is too large")])
def test_F40_large_chunks(bench: FaultBench, answer: Answer) -> None:
    """A chunk is too large: 413, or 416 that says so -> halved until it is taken."""
    blob = layer(350_000)
    large = {"times": 0, "when": lambda asked: int(asked.headers["content-length"]) > CHUNK}
    bench.on(Action(answer=answer), "PATCH", UPLOAD, **large)
    assert bench.store(chunk_size=4 * CHUNK, smallest_chunk=1000).put(blob)
    assert [one.length for one in bench.seen("PATCH")] == [350_000, 200_000, CHUNK, CHUNK, CHUNK, 50_000]
    assert bench.holds(blob)


@pytest.mark.parametrize(
    ("least", "first"),
    [(str(5 * MIB), 5 * MIB), ("0", CHUNK), ("-1", CHUNK), ("x", CHUNK), ("9223372036854775807", CHUNK)],
)
def test_F40_least_chunk(bench: FaultBench, least: str, first: int) -> None:
    """OCI-Chunk-Min-Length of 5 MiB -> obeyed. 0, -1, `x`, 2^63-1 -> passed over, and no such memory is taken."""
    blob = layer(6 * MIB) if first > CHUNK else layer(250_000)
    bench.on(Action(headers={"OCI-Chunk-Min-Length": least}), "POST", UPLOAD, times=0)
    store = bench.store(chunk_size=CHUNK)
    tracemalloc.start()
    try:
        assert store.put(blob)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()
    assert bench.seen("PATCH")[0].length == first
    assert bench.holds(blob)


QUERY = "x=1&x=2&empty=&p=%2F%2b+%7e"


@pytest.mark.parametrize(
    ("change", "right"),
    [
        (lambda path, query, host: f"{path.rpartition('/')[2]}?{query}", True),
        (lambda path, query, host: f"//{host}{path}?{query}", True),
        (lambda path, query, host: f"{path}?{query}", True),
        (lambda path, query, host: f"http://{host}{path}?{query}#part", True),
        (lambda path, query, host: None, False),
        (lambda path, query, host: f"{path}?{query}, http://{host}/other", False),
        (lambda path, query, host: "file:///etc/passwd", False),
    ],
    ids=["relative", "no scheme", "path", "fragment", "missing", "two", "file"],
)
def test_F41_locations(bench: FaultBench, change: Callable[[str, str, str], str | None], right: bool) -> None:
    """Location without a slash, without a scheme, with a query of `x=1&x=2&empty=`, %2F and + -> resolved, and the query
    kept byte for byte. Missing, two, or no address -> an error, and nothing is sent.
    """
    blob = layer(70_000)

    def edit(_asked: Asked, answer: Answer) -> Answer:
        path, _, query = answer.header("Location").removeprefix(bench.proxy.url).partition("?")
        return answer.changed({"Location": change(path, f"{QUERY}&{query}", bench.proxy.host)})

    bench.on(Action(edit=edit), "POST", UPLOAD, times=0)
    if right:
        assert bench.store().put(blob)
        (sent,) = bench.seen("PUT", COMMIT)
        assert sent.query.startswith(f"{QUERY}&_state=")
        assert sent.query.endswith(f"&digest={str(blob.descriptor.digest).replace(':', '%3A')}")
    else:
        with pytest.raises(ServerError, match="upload"):
            bench.store().put(blob)
        assert bench.seen("PUT") == []


@pytest.mark.parametrize("allowed", [True, False])
def test_F41_location_elsewhere(bench: FaultBench, allowed: bool) -> None:
    """Location at another origin -> the upload goes there only if that is allowed, and without Authorization."""
    blob = layer(70_000)
    bench.ask_for_tokens()
    other = bench.another("elsewhere", bench.registry.url)
    bench.on(
        Action(edit=lambda _asked, answer: answer.with_headers(
            Location=answer.header("Location").replace(bench.proxy.url, other.url))),
        "POST", UPLOAD, times=0,
    )  # fmt: skip
    origins = frozenset({other.url}) if allowed else frozenset()
    store = bench.store(client=bench.client(credential=USER), upload_origins=origins)
    if allowed:
        assert store.put(blob)
        assert bench.holds(blob)
        assert [one.authorization for one in bench.seen(role="elsewhere")] == [""]
    else:
        with pytest.raises(ServerError, match="sends uploads to"):
            store.put(blob)
        assert bench.seen(role="elsewhere") == []
    assert all(one.authorization for one in bench.seen("POST", UPLOAD, "registry")[1:])


def test_F41_location_elsewhere_that_is_configured(bench: FaultBench, isolated_home: Path, tmp_path: Path) -> None:
    """Location at another origin that `servers` names in the configuration -> pushed there, without Authorization."""
    other = bench.another("elsewhere", bench.registry.url)
    bench.on(Action(edit=lambda _asked, answer: answer.with_headers(
        Location=answer.header("Location").replace(bench.proxy.url, other.url))), "POST", UPLOAD, times=0)  # fmt: skip
    config = isolated_home / ".config" / "oci-binpkg" / "config.toml"
    config.parent.mkdir(parents=True)
    tree = spack_tree(tmp_path / "tree", [Sketch("zlib", "1.3", files={"lib/z": b"z"})]).root
    for servers, code in (("", 25), (f'servers = ["{other.url}"]\n', 0)):
        config.write_text(f'[registries."{bench.proxy.host}"]\n{servers}')
        ended = binpkg("push", f"oci://{bench.proxy.host}/{bench.name}", "--store", tree)
        assert ended.code == code, ended.err
    assert {one.authorization for one in bench.seen(role="elsewhere")} == {""}
    assert len(bench.seen("PUT", COMMIT, "elsewhere")) == 2


def test_F41_location_with_the_usual_port(bench: FaultBench, parts: RealParts, certificates: Certificates) -> None:
    """`:443` added to a registry at https://HOST -> the same origin: the upload goes there, with its Authorization."""
    blob = layer(70_000)
    # an address of this machine that nobody else uses
    address = ".".join(["127", *(str(random.randrange(1, 255)) for _ in range(3))])
    certificate = certificates.make("port-443", f"IP:{address}")
    try:
        bench.proxy = bench.another(
            "registry", bench.registry.url, tls=certificates.context(certificate), address=address, port=443
        )
    except PermissionError:
        parts.give_up("port 443", "needs root")
    bench.ask_for_tokens(anonymous=frozenset())
    locations: list[str] = []

    def edit(_asked: Asked, answer: Answer) -> Answer:
        locations.append(answer.header("Location").replace(address, f"{address}:443"))
        return answer.with_headers(Location=locations[-1])

    bench.on(Action(edit=edit), "POST", UPLOAD, times=0, when=lambda asked: "authorization" in asked.headers)
    client = bench.client(credential=USER, ca_file=str(certificate))
    assert bench.store(client=client).put(blob)
    assert locations[0].startswith(f"https://{address}:443/v2/")
    (sent,) = bench.seen("PUT", COMMIT)
    assert sent.authorization.startswith("Bearer ")
    assert bodies(bench) == [whole(blob)]
    assert bench.holds(blob)


@pytest.mark.parametrize("kind", ["201", "201 absent", "202", "400", "401", "403", "404", "405", "500"])
def test_F42_mounts(bench: FaultBench, kind: str) -> None:
    """A mount answered 201 -> done after a look. 201 and the blob is not there -> uploaded. 202 -> the session is used.
    400, 401, 403, 404, 405, 500 -> a plain upload.
    """
    source = f"{bench.name}-source"
    blob = layer(70_000)
    bench.placed(blob, name=source)
    here = Blob(blob.descriptor, blob.open, f"{bench.repository(source).address}")
    mount = {"method": "POST", "path": "mount="}
    if kind == "201 absent":
        bench.on(Action(answer=Answer(201, (("Location", f"/v2/{bench.name}/blobs/x"),))), **mount)
    elif kind == "202":
        bench.on(Action(target=lambda asked: asked.path), **mount)
    elif kind != "201":
        bench.on(Action(answer=refusal(int(kind), "DENIED")), **mount)
    assert bench.store().put(here) is (kind != "201")
    assert bench.holds(blob)
    assert bodies(bench) == ([] if kind == "201" else [whole(blob)])
    plain = [one for one in bench.seen("POST", UPLOAD) if not one.query]
    assert len(plain) == (0 if kind in {"201", "202"} else 1)
    assert len(bench.seen(**mount)) == 1


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("endless", [False, True])
def test_F43_collected(bench: FaultBench, status: int, endless: bool) -> None:
    """HEAD says present, the blob is collected, the manifest is refused with MANIFEST_BLOB_UNKNOWN -> its real bytes are
    sent again and the manifest put again; endlessly -> an error after two rounds.
    """
    one = layer(70_000)
    manifest, config = image(one)
    bench.placed(one, config)
    stage = Stage(bench.registry.url)
    for rule in quirks.collects_garbage(nth=1, status=status, code="MANIFEST_BLOB_UNKNOWN")(stage):
        bench.proxy.add(Rule(rule.action, rule.method, rule.path, times=0 if endless else 1))
    store = bench.store()
    assert not store.put(one)
    assert not store.put(config)
    if endless:
        with pytest.raises(BinpkgError, match="MANIFEST_BLOB_UNKNOWN"):
            store.tag(manifest, "1.0")
    else:
        store.tag(manifest, "1.0")
        assert bench.registry.get(f"/v2/{bench.name}/blobs/{one.descriptor.digest}") == 200
    rounds = 2 if endless else 1
    assert len(bench.seen("PUT", MANIFEST)) == rounds + 1
    assert bodies(bench) == [whole(one)] * rounds
    assert not bench.seen("POST", "mount=")
    assert bench.seen("HEAD", BLOB)
