from __future__ import annotations

import json
from dataclasses import replace

import pytest

from oci_binpkg.errors import (
    AuthError,
    BinpkgError,
    ContentError,
    DeniedError,
    NetworkError,
    NotFoundError,
    ServerError,
    UnsupportedError,
    UsageError,
)
from oci_binpkg.model.content import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Blob, Descriptor
from oci_binpkg.model.manifest import Index
from oci_binpkg.model.reference import Repository
from oci_binpkg.store.protocol import Store
from oci_binpkg.store.registry.api import DEFAULTS, Refusal, Remote
from oci_binpkg.store.registry.repository import RegistryStore
from tests.support.fake_registry import CLOSE, RESET, Answer, Basic, Exchange
from tests.support.plain_http import PlainClient
from tests.support.registry_store import Bench, fetch, image, layer, placed

MANIFESTS = "/manifests/"


def published(bench: Bench, *tags: str, name: str = "apps") -> Blob:
    """Put an image into the registry behind the store's back."""
    one = layer()
    manifest, config = image(one)
    for blob in (one, config):
        placed(bench.registry, blob, name)
    return placed(bench.registry, manifest, name, *tags)


def pushed(bench: Bench, store: RegistryStore, tag: str = "1.0") -> Blob:
    one = layer()
    manifest, config = image(one)
    store.put(one)
    store.put(config)
    store.tag(manifest, tag)
    return manifest


def tags_of(bench: Bench, name: str = "apps") -> dict[str, str]:
    return bench.registry.repo(name).tags


def test_the_store_says_what_it_is(bench: Bench):
    store: Store = bench.store()
    assert store.name == f"{bench.registry.host}/apps"
    assert store.address == f"http://{bench.registry.host}/apps"


def test_docker_hub_is_asked_where_its_api_is():
    client = PlainClient()
    remote = Remote(client, Repository("https", "docker.io", "library/debian"), DEFAULTS, *[lambda *_: 0.0] * 4)  # type: ignore[arg-type]
    assert remote.url("tags/list") == "https://registry-1.docker.io/v2/library/debian/tags/list"
    assert remote.repository.origin == "https://docker.io"


# ---- resolve and open


@pytest.mark.covers("R19", "R20")
def test_R20_a_tag_is_resolved_to_its_own_digest_and_opened_without_another_request(bench: Bench):
    manifest = published(bench, "1.0")
    store = bench.store()
    found = store.resolve("1.0")
    assert found == manifest.descriptor
    assert fetch(store, found) == manifest.read()
    assert store.resolve(str(found.digest)) == found
    assert bench.methods() == ["GET"]
    accept = bench.registry.log[0].headers["accept"]
    assert accept.split(", ") == [
        OCI_MANIFEST,
        OCI_INDEX,
        DOCKER_MANIFEST,
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ]


def test_a_manifest_is_opened_by_its_descriptor_alone(bench: Bench):
    manifest = published(bench)
    assert fetch(bench.store(), manifest.descriptor) == manifest.read()
    with pytest.raises(ContentError, match="were promised"):
        fetch(bench.store(), replace(manifest.descriptor, size=3))


def test_only_so_many_manifests_are_remembered(bench: Bench):
    manifest, other = published(bench), image(layer(seed=2))[0]
    placed(bench.registry, other)
    store = bench.store(settings=replace(DEFAULTS, manifest_memory=manifest.descriptor.size + 10))
    for one in (manifest, manifest, other, manifest):
        fetch(store, one.descriptor)
    assert len(bench.methods()) == 3


@pytest.mark.parametrize("reference", ["1.0", f"sha256:{'0' * 64}"])
def test_what_is_not_there_is_not_found(bench: Bench, reference):
    bench.registry.repo("apps")
    with pytest.raises(NotFoundError):
        bench.store().resolve(reference)
    assert bench.store().head(reference) is None
    with pytest.raises(NotFoundError):
        bench.store("nowhere").resolve(reference)


@pytest.mark.covers("B07", "B41")
@pytest.mark.parametrize(
    "reference", ["", "../x", "a/b", "-x", "sha256:00", "sha256:" + "A" * 64, "md5:" + "0" * 32, "x" * 129]
)
def test_B07_a_reference_that_is_none_reaches_no_address(bench: Bench, reference):
    for ask in (bench.store().resolve, bench.store().head):
        with pytest.raises((UsageError, ContentError)):
            ask(reference)
    assert not bench.registry.log


@pytest.mark.covers("R20", "F26")
def test_F26_a_wrong_digest_header_on_a_tag_is_only_a_warning(bench: Bench):
    manifest = published(bench, "1.0")
    bench.registry.fault("GET", MANIFESTS, times=0, headers={"Docker-Content-Digest": f"sha256:{'1' * 64}"})
    store = bench.store()
    assert store.resolve("1.0") == manifest.descriptor
    store.resolve("1.0")
    assert len(bench.warnings()) == 1
    with pytest.raises(ContentError):
        bench.store().resolve(str(manifest.descriptor.digest))


@pytest.mark.covers("R20", "F16")
def test_F16_a_manifest_damaged_on_the_way_is_fetched_once_more(bench: Bench):
    manifest = published(bench, "1.0")
    digest = str(manifest.descriptor.digest)
    bench.registry.fault("GET", MANIFESTS, mutate=lambda body: body + b" ")
    assert bench.store().resolve(digest) == manifest.descriptor
    bench.registry.clear()
    bench.registry.fault("GET", MANIFESTS, times=0, mutate=lambda body: body + b" ")
    with pytest.raises(ContentError):
        bench.store().resolve(digest)
    assert len(bench.methods()) == 2


@pytest.mark.covers("R20", "F13")
@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_F13_a_manifest_cut_short_is_fetched_again(bench: Bench, end):
    manifest = published(bench, "1.0")
    bench.registry.fault("GET", MANIFESTS, times=2, cut=10, end=end)
    assert bench.store().resolve("1.0") == manifest.descriptor
    bench.registry.clear()
    bench.registry.fault("GET", MANIFESTS, times=0, cut=10, end=end)
    with pytest.raises(NetworkError):
        bench.store().resolve("1.0")
    assert len(bench.methods()) == 5


@pytest.mark.covers("R19", "F27")
@pytest.mark.parametrize(
    "told", [f"{OCI_MANIFEST}; charset=utf-8", "application/octet-stream", "text/plain", None, OCI_MANIFEST.upper()]
)
def test_F27_the_body_decides_where_the_content_type_says_little(bench: Bench, told):
    manifest = published(bench, "1.0")
    bench.registry.fault("GET", MANIFESTS, headers={"Content-Type": told})
    assert bench.store().resolve("1.0") == manifest.descriptor


@pytest.mark.covers("R19", "F27", "B05", "B06")
@pytest.mark.parametrize(
    ("told", "body"),
    [
        (DOCKER_MANIFEST, None),
        (OCI_INDEX, None),
        (OCI_MANIFEST, b'{"schemaVersion":1}'),
        (OCI_MANIFEST, b"<html>"),
        ("text/html", b"[]"),
        (OCI_MANIFEST, b'{"schemaVersion":2,"manifests":[],"layers":[]}'),
    ],
)
def test_B05_a_document_that_contradicts_itself_or_its_type_is_refused(bench: Bench, told, body):
    manifest = published(bench)
    bench.registry.add_manifest("apps", told, body or manifest.read(), "odd")
    with pytest.raises(ContentError):
        bench.store().resolve("odd")
    assert bench.methods() == ["GET"]


@pytest.mark.covers("R10", "B09")
def test_B09_a_manifest_without_end_is_not_read(bench: Bench):
    published(bench, "1.0")
    small = bench.store(settings=replace(DEFAULTS, pull_manifest_limit=100))
    with pytest.raises(ContentError, match="at most 100"):
        small.resolve("1.0")
    bench.registry.fault("GET", MANIFESTS, unsized=True)
    with pytest.raises(ContentError):
        small.resolve("1.0")


# ---- head


def test_head_tells_what_a_tag_names_without_fetching_it(bench: Bench):
    manifest = published(bench, "1.0")
    assert bench.store().head("1.0") == manifest.descriptor
    assert bench.store().head(str(manifest.descriptor.digest)) == manifest.descriptor
    assert bench.methods() == ["HEAD", "HEAD"]


@pytest.mark.covers("R21", "F25")
@pytest.mark.parametrize("missing", ["Docker-Content-Digest", "Content-Length", "Content-Type"])
def test_F25_a_head_that_says_too_little_is_followed_by_get(bench: Bench, missing):
    manifest = published(bench, "1.0")
    how = {"unsized": True} if missing == "Content-Length" else {"headers": {missing: None}}
    bench.registry.fault("HEAD", MANIFESTS, **how)
    assert bench.store().head("1.0") == manifest.descriptor
    assert bench.methods() == ["HEAD", "GET"]


@pytest.mark.covers("R21", "F33")
@pytest.mark.parametrize("status", [401, 403, 405, 501])
def test_R21_a_refused_head_is_followed_by_get(bench: Bench, status):
    manifest = published(bench, "1.0")
    bench.registry.fault("HEAD", MANIFESTS, times=0, answer=Answer(status))
    assert bench.store().head("1.0") == manifest.descriptor
    assert bench.store().head("2.0") is None
    assert bench.store().exists(manifest.descriptor)


def test_a_manifest_exists_if_its_size_and_digest_are_right(bench: Bench):
    manifest = published(bench)
    store = bench.store()
    assert not store.exists(replace(manifest.descriptor, size=1))
    bench.registry.fault("HEAD", MANIFESTS, headers={"Docker-Content-Digest": f"sha256:{'1' * 64}"})
    assert not store.exists(manifest.descriptor)
    assert store.exists(manifest.descriptor)


# ---- put and tag


@pytest.mark.covers("R27", "R34")
def test_R34_a_pushed_image_is_stored_byte_for_byte_and_confirmed(bench: Bench):
    store = bench.store()
    manifest = pushed(bench, store)
    digest = str(manifest.descriptor.digest)
    assert bench.registry.repo("apps").manifests[digest] == (OCI_MANIFEST, manifest.read())
    assert tags_of(bench) == {"1.0": digest}
    assert [exchange.method for exchange in bench.registry.requests(path=MANIFESTS)] == ["HEAD", "PUT", "HEAD"]
    assert fetch(store, store.resolve("1.0")) == manifest.read()


def test_a_manifest_is_put_by_its_digest(bench: Bench):
    store, one = bench.store(), layer()
    manifest, config = image(one)
    for blob in (one, config):
        store.put(blob)
    assert store.put(manifest) is True
    assert store.put(manifest) is False
    assert bench.registry.requests("PUT", MANIFESTS)[0].path.endswith(str(manifest.descriptor.digest))
    assert not tags_of(bench)
    index = Index(OCI_INDEX, (manifest.descriptor,))
    store.tag(Blob.from_bytes(index.to_bytes(), OCI_INDEX), "multi")
    assert store.resolve("multi").media_type == OCI_INDEX


@pytest.mark.covers("R36")
def test_R36_a_tag_that_is_right_is_left_alone(bench: Bench):
    manifest = published(bench, "1.0")
    bench.store().tag(manifest, "1.0")
    assert bench.methods() == ["HEAD"]


def test_only_manifests_get_tags_and_only_sound_ones(bench: Bench):
    with pytest.raises(ContentError):
        bench.store().tag(layer(), "1.0")
    with pytest.raises(UsageError):
        bench.store().tag(image()[0], "not a tag")
    good = image()[0]
    with pytest.raises(ContentError):
        bench.store().tag(Blob(good.descriptor, image(layer())[0].open), "1.0")
    assert "PUT" not in bench.methods()


@pytest.mark.covers("R10", "B09")
def test_B09_a_manifest_too_large_for_registries_is_not_sent(bench: Bench):
    with pytest.raises(ContentError):
        bench.store(settings=replace(DEFAULTS, push_manifest_limit=10)).tag(image()[0], "1.0")
    assert "PUT" not in bench.methods()


@pytest.mark.covers("R34", "F44")
@pytest.mark.parametrize("how", [{"after": RESET}, {"status": 500}, {"status": 504}])
@pytest.mark.parametrize("by_tag", [True, False])
def test_F44_a_stored_manifest_whose_answer_is_lost_is_found(bench: Bench, how, by_tag):
    manifest = published(bench)
    bench.registry.collect("apps", str(manifest.descriptor.digest))
    bench.registry.fault("PUT", MANIFESTS, **how)
    store = bench.store()
    if by_tag:
        store.tag(manifest, "1.0")
        assert tags_of(bench) == {"1.0": str(manifest.descriptor.digest)}
        assert len(bench.registry.requests("PUT", MANIFESTS)) == 1
    else:
        assert store.put(manifest)
    assert store.exists(manifest.descriptor)


@pytest.mark.covers("R34", "F44")
def test_F44_a_manifest_that_does_not_arrive_is_sent_four_times(bench: Bench):
    manifest = published(bench)
    bench.registry.fault("PUT", MANIFESTS, times=3, answer=Answer(502))
    bench.store().tag(manifest, "1.0")
    assert len(bench.registry.requests("PUT", MANIFESTS)) == 4
    bench.registry.clear()
    bench.registry.fault("PUT", MANIFESTS, times=0, answer=Answer(502))
    with pytest.raises(ServerError):
        bench.store().tag(manifest, "2.0")
    assert len(bench.registry.requests("PUT", MANIFESTS)) == 4


@pytest.mark.covers("R34", "F08")
def test_F08_a_busy_registry_gets_the_manifest_later(bench: Bench):
    manifest = published(bench)
    bench.registry.fault("PUT", MANIFESTS, answer=Answer(429, [("Retry-After", "7")]))
    bench.store().tag(manifest, "1.0")
    assert any(7 <= wait <= 7.7 for wait in bench.waits)


@pytest.mark.covers("R34", "F44")
@pytest.mark.parametrize("status", [200, 202])
def test_F44_other_successes_and_a_manifest_that_shows_late(bench: Bench, status):
    manifest = published(bench)
    bench.registry.fault("PUT", MANIFESTS, status=status)
    bench.registry.fault("HEAD", "sha256", times=2, answer=Answer(404))
    bench.store().tag(manifest, "1.0")
    assert len(bench.waits) == 2
    bench.registry.fault("HEAD", "sha256", times=0, answer=Answer(404))
    with pytest.raises(ServerError, match="does not have it"):
        bench.store().tag(manifest, "2.0")


@pytest.mark.covers("R34", "F44")
def test_F44_a_registry_that_stores_something_else_is_an_error(bench: Bench):
    manifest = published(bench)
    bench.registry.fault("PUT", MANIFESTS, headers={"Docker-Content-Digest": f"sha256:{'1' * 64}"})
    with pytest.raises(ContentError, match="stored it as"):
        bench.store().tag(manifest, "1.0")
    assert len(bench.registry.requests("PUT", MANIFESTS)) == 1


@pytest.mark.covers("F33")
def test_F33_a_tag_that_is_denied_and_not_listed_is_absent(bench: Bench):
    published(bench, "1.0")
    bench.registry.fault("GET", MANIFESTS, times=0, answer=Answer(403))
    with pytest.raises(NotFoundError):
        bench.store().resolve("2.0")
    with pytest.raises(DeniedError):
        bench.store().resolve("1.0")
    bench.registry.fault("GET", "/tags/list", times=0, answer=Answer(403))
    with pytest.raises(DeniedError):
        bench.store().resolve("2.0")


@pytest.mark.covers("R16", "F33")
def test_F33_one_may_push_what_one_may_not_read(bench: Bench):
    manifest = published(bench)
    bench.registry.fault("GET|HEAD", ".", times=0, answer=Answer(403))
    bench.store().tag(manifest, "1.0")
    assert tags_of(bench)


@pytest.mark.covers("R36", "F45")
def test_F45_an_immutable_tag_with_the_same_manifest_is_success(bench: Bench):
    manifest = published(bench, "1.0")
    bench.registry.profile.immutable_tags = True
    bench.registry.fault("HEAD", "/1.0", answer=Answer(404))
    bench.store().tag(manifest, "1.0")
    assert bench.registry.requests("PUT")[0].status == 400


@pytest.mark.covers("R36", "F45")
@pytest.mark.parametrize(
    "answer",
    [
        None,
        Answer(409),
        Answer(412),
        Answer.error(403, "DENIED", "tag is immutable"),
        Answer.error(400, "UNKNOWN", "the tag already exists"),
    ],
)
def test_F45_an_immutable_tag_with_another_manifest_is_a_clear_error(bench: Bench, answer):
    published(bench, "1.0")
    other, config = image()
    placed(bench.registry, config)
    bench.registry.profile.immutable_tags = True
    if answer:
        bench.registry.fault("PUT", MANIFESTS, answer=answer)
    with pytest.raises(DeniedError, match="the tag is immutable"):
        bench.store().tag(other, "1.0")
    assert len(bench.registry.requests("PUT")) == 1


@pytest.mark.covers("R37", "F45")
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer.error(403, "DENIED", "quota exceeded"), DeniedError),
        (Answer.error(413, "SIZE_INVALID"), DeniedError),
        (Answer.error(403, "DENIED"), DeniedError),
        (Answer.error(404, "NAME_UNKNOWN"), NotFoundError),
        (Answer.error(400, "MANIFEST_INVALID", "unknown media type"), ServerError),
        (Answer.error(415, "UNSUPPORTED"), ServerError),
    ],
)
@pytest.mark.parametrize("existing", [True, False])
def test_F45_other_refusals_of_a_manifest_are_final(bench: Bench, answer, kind, existing):
    published(bench, *(["1.0"] if existing else []))
    other, config = image()
    placed(bench.registry, config)
    bench.registry.fault("PUT", MANIFESTS, times=0, answer=answer)
    with pytest.raises(kind):
        bench.store().tag(other, "1.0")
    assert len(bench.registry.requests("PUT")) == 1


# ---- repair


@pytest.mark.covers("R35", "F43")
def test_F43_blobs_collected_after_the_look_are_really_sent_again(bench: Bench):
    one = layer()
    manifest, config = image(one)
    base = bench.store("base")
    placed(bench.registry, one, "base")
    for blob in (one, config):
        placed(bench.registry, blob)
    store = bench.store()
    assert store.put(replace(one, origin=base.address)) is False
    assert store.put(config) is False
    for blob in (one, config):
        bench.registry.collect("apps", str(blob.descriptor.digest))
    store.tag(manifest, "1.0")
    assert tags_of(bench) == {"1.0": str(manifest.descriptor.digest)}
    assert not bench.registry.requests("POST", "mount=")
    assert len(bench.registry.requests("PUT", "/uploads/")) == 2


@pytest.mark.covers("R35", "F43")
def test_F43_a_registry_whose_head_lies_gets_the_blob_it_names(bench: Bench):
    one = layer()
    manifest, config = image(one)
    store = bench.store()
    for blob in (one, config):
        store.put(blob)
    gone = Answer.error(404, "BLOB_UNKNOWN", "Manifest references unknown blob(s)", detail=str(one.descriptor.digest))
    bench.registry.fault("PUT", MANIFESTS, answer=gone)
    store.tag(manifest, "1.0")
    assert len(bench.registry.requests("PUT", "/uploads/")) == 3


@pytest.mark.covers("R35", "F43")
def test_F43_without_a_name_everything_is_sent_in_the_last_round(bench: Bench):
    store = bench.store()
    bench.registry.fault("PUT", MANIFESTS, times=2, answer=Answer.error(400, "MANIFEST_BLOB_UNKNOWN"))
    pushed(bench, store)
    assert len(bench.registry.requests("PUT", "/uploads/")) == 4
    assert [round(wait, 1) for wait in bench.waits] == [1.0, 1.0]


@pytest.mark.covers("R35", "F43")
def test_F43_endless_collection_is_an_error_after_two_rounds(bench: Bench):
    bench.registry.fault("PUT", MANIFESTS, times=0, answer=Answer.error(400, "MANIFEST_BLOB_UNKNOWN"))
    with pytest.raises(BinpkgError, match="MANIFEST_BLOB_UNKNOWN"):
        pushed(bench, bench.store())
    assert len(bench.registry.requests("PUT", MANIFESTS)) == 3


@pytest.mark.covers("R26", "R35", "F43")
def test_F43_what_nobody_has_any_more_is_named(bench: Bench):
    one = layer()
    manifest, config = image(one)
    placed(bench.registry, config)
    with pytest.raises(NotFoundError, match=str(one.descriptor.digest)):
        bench.store().tag(manifest, "1.0")
    asked: list[Descriptor] = []

    def repair(descriptor: Descriptor) -> Blob | None:
        asked.append(descriptor)
        return one

    bench.store(repair=repair).tag(manifest, "1.0")
    assert asked == [one.descriptor]
    assert tags_of(bench)


@pytest.mark.covers("R35", "F43")
def test_F43_a_collected_child_manifest_is_sent_again_with_what_it_needs(bench: Bench):
    store, one = bench.store(), layer()
    manifest, config = image(one)
    for blob in (one, config, manifest):
        store.put(blob)
        bench.registry.collect("apps", str(blob.descriptor.digest))
    index = Blob.from_bytes(Index(OCI_INDEX, (manifest.descriptor,)).to_bytes(), OCI_INDEX)
    store.tag(index, "multi")
    assert set(bench.registry.repo("apps").manifests) == {str(manifest.descriptor.digest), str(index.descriptor.digest)}


# ---- tags


def many(bench: Bench, count: int) -> list[str]:
    digest = str(published(bench).descriptor.digest)
    names = [f"t{number:05}" for number in range(count)]
    tags_of(bench).update(dict.fromkeys(names, digest))
    return names


@pytest.mark.covers("R39", "F46")
def test_F46_an_absent_repository_and_an_empty_one_have_no_tags(bench: Bench):
    assert list(bench.store("nowhere").tags()) == []
    bench.registry.repo("apps")
    assert list(bench.store().tags()) == []
    bench.registry.fault("GET", "/tags/", answer=Answer.json(200, {"name": "apps"}))
    assert list(bench.store().tags()) == []


@pytest.mark.covers("R39", "F46")
@pytest.mark.parametrize(
    "form",
    [
        '<{url}>; rel="next"',
        "<{url}>; rel=next",
        "<{url}>",
        "{url}",
        '{url}; rel="next"',
        '</v2/_catalog>; rel="first", <{url}>; rel="next"',
        '<http://{host}{url}>; title="x"; rel="next"',
        "",
        '<http://elsewhere.example{url}>; rel="next"',
        "<file://{url}>",
    ],
)
def test_F46_every_page_is_read_whatever_the_link_looks_like(bench: Bench, form):
    names = many(bench, 25)
    bench.registry.profile.link = form
    assert list(bench.store(settings=replace(DEFAULTS, page_size=10)).tags()) == names
    assert len(bench.methods()) == 3


@pytest.mark.covers("R39", "F46")
def test_F46_1500_tags_on_pages_that_shrink(bench: Bench):
    names = many(bench, 1500)
    bench.registry.profile.page_size = 300
    bench.registry.fault("GET", "last=", nth=2, prepare=lambda _: setattr(bench.registry.profile, "page_size", 70))
    assert list(bench.store().tags()) == names


@pytest.mark.covers("R39", "F46")
def test_F46_a_link_to_another_host_is_not_followed(bench: Bench):
    many(bench, 25)
    bench.registry.profile.link = f'<http://{bench.registry.cdn_host}{{url}}>; rel="next"'
    assert len(list(bench.store(settings=replace(DEFAULTS, page_size=10)).tags())) == 25
    assert {exchange.server for exchange in bench.registry.log} == {"registry"}
    assert len(bench.warnings()) == 1


@pytest.mark.covers("R39", "F46")
@pytest.mark.parametrize("target", ["/v2/apps/tags/list?n=10", "/v2/apps/tags/list?n=10&loop={}"])
def test_F46_a_link_that_leads_in_a_circle_ends_the_list(bench: Bench, target):
    names = many(bench, 5)
    serial = iter(range(1000))

    def loop(exchange: Exchange) -> Answer:
        return Answer.json(200, {"tags": names}, ("Link", f"<{target.format(next(serial))}>; rel=next"))

    bench.registry.fault("GET", "/tags/", times=0, answer=loop)
    assert list(bench.store(settings=replace(DEFAULTS, page_size=10)).tags()) == names
    assert len(bench.methods()) <= 2


@pytest.mark.covers("R39", "F46")
def test_F46_a_list_without_end_is_an_error(bench: Bench):
    serial = iter(range(10_000))

    def more(exchange: Exchange) -> Answer:
        number = next(serial)
        return Answer.json(200, {"tags": [f"t{number}"]}, ("Link", f"</v2/apps/tags/list?page={number}>"))

    bench.registry.fault("GET", "/tags/", times=0, answer=more)
    with pytest.raises(ServerError, match="does not end"):
        list(bench.store(settings=replace(DEFAULTS, most_pages=20)).tags())


@pytest.mark.covers("R39", "F46")
def test_F46_a_page_size_that_is_refused_is_left_out(bench: Bench):
    names = many(bench, 25)
    bench.registry.fault("GET", "n=1000", answer=Answer.error(400, "PAGINATION_NUMBER_INVALID"))
    bench.registry.profile.page_size = 10
    bench.registry.fault("GET", "/tags/", answer=bench.registry.respond)
    assert list(bench.store().tags()) == names


@pytest.mark.covers("R39", "B46")
def test_B46_a_tag_list_that_is_none_is_refused(bench: Bench):
    for body in (b"[]", b'{"tags":"x"}', b'{"tags":[1]}', b"<html>"):
        bench.registry.fault("GET", "/tags/", answer=Answer(200, [], body))
        with pytest.raises(ContentError):
            list(bench.store().tags())
    bench.registry.fault("GET", "/tags/", times=0, answer=Answer(400))
    with pytest.raises(ServerError):
        list(bench.store().tags())


@pytest.mark.covers("R39", "B41")
def test_B41_names_that_are_no_tags_are_passed_over(bench: Bench):
    bench.registry.fault("GET", "/tags/", answer=Answer.json(200, {"tags": ["good", "../bad", "bad tag", "good"]}))
    assert list(bench.store().tags()) == ["good"]
    assert len(bench.warnings()) == 2


def test_a_repository_that_vanishes_during_the_listing_ends_it(bench: Bench):
    names = many(bench, 25)
    bench.registry.fault("GET", "last=", answer=Answer.error(404, "NAME_UNKNOWN"))
    assert list(bench.store(settings=replace(DEFAULTS, page_size=10)).tags()) == names[:10]


def test_tags_that_may_not_be_listed_are_an_error(bench: Bench):
    bench.registry.auth = Basic()
    with pytest.raises(AuthError):
        list(bench.store().tags())


# ---- remove


@pytest.mark.covers("R40")
def test_R40_a_tag_is_removed_and_the_others_stay(bench: Bench):
    published(bench, "1.0", "latest")
    bench.store().remove("1.0")
    assert set(tags_of(bench)) == {"latest"}
    with pytest.raises(NotFoundError):
        bench.store().remove("1.0")


@pytest.mark.covers("R40")
def test_R40_where_tags_cannot_be_removed_the_manifest_is_if_nothing_else_names_it(bench: Bench):
    manifest = published(bench, "1.0", "latest")
    other = placed(bench.registry, image()[0], "apps", "other")
    bench.registry.profile.delete_tags = False
    store = bench.store()
    with pytest.raises(UnsupportedError, match="latest"):
        store.remove("1.0")
    assert set(tags_of(bench)) == {"1.0", "latest", "other"}
    del tags_of(bench)["latest"]
    store.remove("1.0")
    assert set(tags_of(bench)) == {"other"}
    assert not store.exists(manifest.descriptor)
    assert store.exists(other.descriptor)


@pytest.mark.covers("R40")
def test_R40_many_sharing_tags_are_not_all_named(bench: Bench):
    published(bench, *(f"t{number}" for number in range(9)))
    bench.registry.profile.delete_tags = False
    with pytest.raises(UnsupportedError, match="and 3 more"):
        bench.store().remove("t0")


@pytest.mark.covers("R40", "F45")
@pytest.mark.parametrize("status", [400, 405])
def test_F45_a_registry_that_deletes_nothing_says_so(bench: Bench, status):
    published(bench, "1.0")
    bench.registry.fault("DELETE", MANIFESTS, times=0, answer=Answer.error(status, "UNSUPPORTED"))
    with pytest.raises(UnsupportedError, match="does not delete"):
        bench.store().remove("1.0")
    assert set(tags_of(bench)) == {"1.0"}


# ---- after a push


@pytest.mark.covers("R26", "F44")
def test_R26_a_tag_just_pushed_may_take_a_moment_to_show(bench: Bench):
    store = bench.store()
    manifest = pushed(bench, store)
    bench.registry.fault("GET", "/1.0", times=2, answer=Answer(404))
    assert store.resolve("1.0") == manifest.descriptor
    assert len(bench.waits) == 2
    bench.registry.fault("GET", "sha256", answer=Answer(404))
    assert store.resolve(str(manifest.descriptor.digest)) == manifest.descriptor


@pytest.mark.covers("B46")
def test_B46_an_error_body_is_shown_cut_and_harmless():
    class Response:
        status = 500
        body = b""
        url = "https://reg.example/v2/"

        def read(self, limit: int) -> bytes:
            if len(self.body) > limit:
                raise ContentError("too much")
            return self.body

    def refusal(body: bytes) -> Refusal:
        response = Response()
        response.body = body
        return Refusal.of(response)  # type: ignore[arg-type]

    assert refusal(b"x" * 100_000).text == ""
    assert refusal(b'{"errors":{}}').codes == frozenset()
    assert refusal(b'{"errors":[{"code":null}]}').codes == frozenset()
    shown = refusal(json.dumps({"errors": [{"code": "DENIED", "message": "\x1b[31m\n" + "y" * 5000}]}).encode())
    assert shown.codes == {"DENIED"}
    assert shown.text.isprintable()
    assert len(shown.text) <= 300
