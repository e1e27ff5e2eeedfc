"""F44 to F46: manifests, tags, lists, the index, and a registry that is asked too much."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fault_bench import MANIFEST, TAG, TAGS, Action, Answer, Asked, FaultBench, digest_text, image, layer, refusal

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import ContentError, DeniedError, UnsupportedError
from oci_binpkg.model.content import Blob
from oci_binpkg.model.reference import Repository
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.transport.gate import GateLimits, HostGates
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.command_line import binpkg
from tests.support.golden import LAYOUT, package
from tests.support.mirrors import index_for, made_up
from tests.support.stores import put_image, small_image

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

INDEX = r"/manifests/index\.spack"


def an_image(bench: FaultBench, seed: int = 1) -> Blob:
    """Store an image's parts past the proxy; return its manifest, which is not stored."""
    one = layer(3000, seed)
    manifest, config = image(one, config=json.dumps({"seed": seed}).encode())
    bench.placed(one, config)
    return manifest


@pytest.mark.parametrize("how", [Action(drop=True, reset=True), Action(drop=True), Action(status=504)])
def test_F44_lost_answer_to_a_manifest(bench: FaultBench, how: Action) -> None:
    """A manifest is stored and the answer lost -> a look decides: one PUT."""
    manifest = an_image(bench)
    bench.on(how, "PUT", MANIFEST)
    bench.store().tag(manifest, "1.0")
    assert bench.methods(MANIFEST) == ["HEAD", "PUT", "HEAD", "HEAD"]
    (sent,) = bench.seen("PUT", MANIFEST)
    assert (sent.length, sent.sha256) == (manifest.descriptor.size, manifest.descriptor.digest.hex)


@pytest.mark.parametrize("status", [200, 201, 202])
def test_F44_other_success(bench: FaultBench, status: int) -> None:
    """200 or 202 to a manifest -> success. 201 with another digest -> an error: something else was stored."""
    manifest = an_image(bench)
    bench.on(Action(status=status), "PUT", MANIFEST)
    bench.store().tag(manifest, "1.0")
    bench.on(Action(headers={"Docker-Content-Digest": f"sha256:{'1' * 64}"}), "PUT", MANIFEST, times=0)
    with pytest.raises(ContentError, match="stored it as"):
        bench.store().tag(manifest, "2.0")
    assert len(bench.seen("PUT", MANIFEST)) == 2


def test_F44_late_to_show(bench: FaultBench) -> None:
    """A manifest that is not visible, and a tag that shows the old one, for two seconds -> looked for again; an index
    that was read back old is written until it is there.
    """
    cache = OciCache(bench.store(), pause=lambda _round: bench.time.sleep(1))
    cache.publish(made_up("zlib"))
    cache.merge_index(index_for(made_up("zlib")))
    old = bench.store().resolve("index.spack")
    with bench.store().open(old) as stream:
        data = stream.read()
    headers = (("Content-Type", old.media_type), ("Docker-Content-Digest", str(old.digest)))
    stale = {"after": False}
    bench.on(Action(prepare=lambda _asked: stale.update(after=True)), "PUT", INDEX)
    bench.on(Action(answer=Answer(200, headers, data)), "GET", INDEX, times=2, when=lambda _asked: stale["after"])
    bench.on(Action(answer=refusal(404, "MANIFEST_UNKNOWN")), "HEAD", "/manifests/sha256:", times=2)
    cache.publish(made_up("cmake"))
    cache.merge_index(index_for(made_up("cmake")))
    index = OciCache(bench.store(), pause=lambda _round: None).read_index()
    assert index is not None
    assert {spec.name for spec in index.packages()} == {"zlib", "cmake"}
    assert 2 <= sum(bench.time.slept) <= 10


@pytest.mark.parametrize(
    ("status", "code"), [(400, "TAG_INVALID"), (403, "DENIED"), (409, "CONFLICT"), (412, "PRECONDITION")]
)
@pytest.mark.parametrize("same", [True, False])
def test_F45_immutable_tag(bench: FaultBench, status: int, code: str, same: bool) -> None:
    """An immutable tag (400, 403, 409, 412): with the same content -> success; with other content -> a clear error, and
    the tag keeps what it has.
    """
    first, second = an_image(bench), an_image(bench, seed=2)
    store = bench.store()
    store.tag(first, "1.0")
    message = "The image tag '1.0' already exists and cannot be overwritten because the repository is immutable."
    bench.on(Action(answer=refusal(status, code, message)), "PUT", TAG, times=0)
    if same:
        bench.on(Action(answer=Answer(404)), "HEAD", TAG)
        store.tag(first, "1.0")
    else:
        with pytest.raises(DeniedError, match="the tag is immutable and points to") as caught:
            store.tag(second, "1.0")
        assert caught.value.hint
    assert store.resolve("1.0") == first.descriptor
    assert len(bench.seen("PUT", TAG)) == 2


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "digest="), ("PUT", MANIFEST), ("POST", "/blobs/uploads/")],
    ids=["blob", "tag", "post"],
)
@pytest.mark.parametrize("status", [403, 413])
def test_F45_quota(bench: FaultBench, status: int, method: str, path: str) -> None:
    """A quota that is used up, 403 or 413 -> a final error that says so, without another try."""
    bench.on(Action(answer=refusal(status, "DENIED", "adding 3 KiB exceeds the storage quota")), method, path, times=0)
    with pytest.raises(DeniedError, match="quota"):
        bench.pushed()
    assert len(bench.seen(method, path)) == 1
    assert bench.time.slept == []


def test_F45_no_delete(bench: FaultBench) -> None:
    """405 to DELETE -> "does not delete", and where to look."""
    store = bench.store()
    put_image(store, small_image(), "1.0")
    bench.on(Action(answer=refusal(405, "UNSUPPORTED")), "DELETE", times=0)
    with pytest.raises(UnsupportedError, match="does not delete"):
        store.remove("1.0")
    assert store.head("1.0") is not None


def tag_list(bench: FaultBench, kind: str) -> None:
    """Answer the tag list from 1,500 names, in the way of `kind`."""
    names = [f"v{n:04}" for n in range(1500)]

    def answer(asked: Asked) -> Answer | None:
        if kind == "null":
            return Answer(200, (), b'{"name": "x", "tags": null}')
        size, last = int(asked.parameters.get("n", ["100"])[0]), asked.parameters.get("last", [""])[0]
        if kind == "at most 1000" and size > 999:
            return refusal(400, "PAGINATION_NUMBER_INVALID")
        left = [name for name in names if name > last]
        page = left[: {"shrinking": max(1, len(left) // 2)}.get(kind, min(size, 400))]
        url = f"{asked.path}?n={size}&last={page[-1]}" if page else ""
        link = {
            "bare": f'{url}; rel="next"',
            "circle": f'<{asked.path}?n={size}>; rel="next"' if last else f'<{url}>; rel="next"',
            "elsewhere": f'<http://elsewhere.example{url}>; rel="next"',
        }.get(kind, f'<{url}>; rel="next"')
        headers = (("Link", link),) if len(page) < len(left) else ()
        return Answer(200, headers, json.dumps({"name": "x", "tags": page}).encode())

    bench.on(Action(answer=answer), "GET", TAGS, times=0)


@pytest.mark.parametrize(
    ("kind", "found", "asked"),
    [("null", 0, 1), ("plain", 1500, 4), ("shrinking", 1500, 12), ("bare", 1500, 4), ("at most 1000", 1500, 16),
     ("circle", 800, 2), ("elsewhere", 1500, 4)],
)  # fmt: skip
def test_F46_tag_lists(bench: FaultBench, kind: str, found: int, asked: int) -> None:
    """Tags that are null; 1,500 on pages, also shrinking ones; Link without <>; n above the registry's limit refused ->
    the complete list. Link in a circle -> stops. Link to another host -> nothing is sent there, the list goes on here.
    """
    tag_list(bench, kind)
    assert len(list(bench.store().tags())) == found
    assert len(bench.seen("GET", TAGS)) == asked
    assert len({one.target for one in bench.seen("GET", TAGS)}) == asked


def test_F46_gone_meanwhile(bench: FaultBench, tmp_path: Path) -> None:
    """A tag that is deleted while the index is made -> passed over and reported. A manifest that the index lists and
    that is not there -> named when it is wanted, no trouble for the other packages.
    """
    cache = f"oci://{bench.proxy.host}/{bench.name}"
    assert binpkg("copy", f"oci-layout:{LAYOUT}", cache).code == 0
    gone = package("greet-2.1").tag
    bench.on(Action(answer=refusal(404, "MANIFEST_UNKNOWN")), "GET|HEAD", f"/manifests/{gone}$", times=0)
    fixed = ("--from", cache, "--store", tmp_path / "s", "--allow-missing", "--dry-run")
    ended = binpkg("install", "greet@2.0", "greet@2.1", *fixed)
    assert ended.code == 6
    assert "greet@2.1/pciyz3m" in ended.err
    assert binpkg("install", "greet@2.0", *fixed).code == 0
    rebuilt = binpkg("index", "rebuild", cache)
    assert rebuilt.code == 1, "it says what it leaves out"
    assert f"{gone} is passed over" in rebuilt.err
    assert len(binpkg("find", "--from", cache).lines) == 4


def test_F46_two_writers(bench: FaultBench) -> None:
    """Another writer puts its index between our reading and our writing -> both entries are there in the end."""
    direct = RegistryHttpClient(bench.registry.url)
    bench.stack.callback(direct.close)
    repository = Repository("http", bench.registry.host, bench.name)

    def other_writer(_asked: Asked) -> None:
        other = OciCache(RegistryStore(direct, repository), pause=lambda _round: None)
        other.publish(made_up("cmake"))
        other.merge_index(index_for(made_up("cmake")))

    bench.on(Action(prepare=other_writer), "PUT", INDEX)
    cache = OciCache(bench.store(), pause=lambda _round: bench.time.sleep(1))
    cache.publish(made_up("zlib"))
    cache.merge_index(index_for(made_up("zlib")))
    index = OciCache(bench.store(), pause=lambda _round: None).read_index()
    assert index is not None
    assert {spec.name for spec in index.packages()} == {"zlib", "cmake"}
    assert len(bench.seen("PUT", INDEX)) == 2


def test_F46_storm(bench: FaultBench) -> None:
    """Forty workers and a registry that answers 503 above two requests at a time -> fewer requests at once, and all
    finish.
    """
    bench.published()
    inside: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def enter(asked: Asked) -> Answer | None:
        with lock:
            inside.append(id(asked))
            most.append(len(inside))
            crowd = len(inside) > 2
        bench.proxy.pause(0.01)
        return refusal(503, "UNAVAILABLE") if crowd else None

    def leave(asked: Asked, answer: Answer) -> Answer:
        with lock:
            inside.remove(id(asked))
        return answer

    bench.on(Action(answer=enter, edit=leave), "GET", MANIFEST, times=0)
    gates = HostGates(GateLimits(), bench.time.time)
    client = RegistryHttpClient(bench.proxy.url, time=replace(bench.time.time, random=lambda: 0.01), gates=gates)
    bench.stack.callback(client.close)

    def work(_number: int) -> str:
        with client.send(bench.get("/manifests/1.0")) as answer:
            return digest_text(answer.read(10_000))

    with ThreadPoolExecutor(40) as workers:
        assert len(set(workers.map(work, range(40)))) == 1
    assert max(most) <= 8
    assert gates.of(bench.proxy.host).limit < 8
    assert max(most[-10:]) <= 4
