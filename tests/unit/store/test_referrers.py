"""Artifacts that refer to a manifest: through the registry's own list, and under the tag where it has none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.backoff import USUAL, configured
from oci_binpkg.errors import ContentError, NotFoundError, ServerError, TransferError
from oci_binpkg.model.content import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Blob, Descriptor, Digest
from oci_binpkg.model.manifest import Index, Manifest, parse_manifest
from oci_binpkg.store.images import blob_of
from oci_binpkg.store.protocol import Store
from oci_binpkg.store.referrers import (
    PGP_SIGNATURE,
    SIGNATURE_ARTIFACT,
    artifact_of,
    attach,
    attach_signature,
    fallback_tag,
    read_artifact,
    referrers,
    signatures,
)
from oci_binpkg.store.registry.lists import ask_registry
from oci_binpkg.store.registry.repository import RegistryStore
from tests.support.fake_registry import Answer
from tests.support.memory_store import MemoryStore
from tests.support.registry_store import Bench
from tests.support.stores import STORE_FACTORIES, put_image, small_image

OTHER_TYPE = "application/vnd.example.sbom"
ARMORED = b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n"
LISTED = r"/referrers/"


class Registry(RegistryStore):
    """A registry store that asks the registry's own list."""

    def referrers(self, subject: Digest, artifact_type: str) -> tuple[Descriptor, ...] | None:
        return ask_registry(self._remote, subject, artifact_type)


@pytest.fixture(params=sorted(STORE_FACTORIES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with STORE_FACTORIES[request.param](tmp_path) as case:
        yield case.store


@pytest.fixture
def registry(bench: Bench) -> Registry:
    plain = bench.store()
    remote = plain._remote
    return Registry(
        remote.client,
        remote.repository,
        time=remote.time,
        observer=remote.observe,
    )


def never(_round: int) -> None:
    raise AssertionError("nobody else writes here")


def sign(store: Store, subject: Descriptor, armored: bytes = ARMORED) -> Descriptor:
    return attach_signature(store, subject, armored, pause=never)


def sbom(text: bytes = b"sbom") -> Blob:
    return Blob.from_bytes(text, "text/plain")


def tagged(store: Store, subject: Descriptor) -> Index:
    descriptor = store.resolve(fallback_tag(subject.digest))
    found = parse_manifest(blob_of(store, descriptor).read(), "list", media_type=descriptor.media_type)
    assert isinstance(found, Index)
    return found


def entry(artifact: Blob, artifact_type: str = SIGNATURE_ARTIFACT) -> Descriptor:
    return replace(artifact.descriptor, extra={"artifactType": artifact_type})


# ---- any store


def test_a_signature_is_found_from_the_manifest_it_is_attached_to(store):
    subject = put_image(store, small_image(), "greet")
    attached = sign(store, subject)
    assert [one.digest for one in referrers(store, subject, SIGNATURE_ARTIFACT)] == [attached.digest]
    assert signatures(store, subject) == [ARMORED]


def test_a_manifest_without_a_signature_has_none(store):
    subject = put_image(store, small_image(), "greet")
    assert referrers(store, subject, SIGNATURE_ARTIFACT) == []
    assert signatures(store, subject) == []


def test_the_same_signature_again_changes_nothing(store):
    subject = put_image(store, small_image(), "greet")
    first = sign(store, subject)
    before = store.resolve(fallback_tag(subject.digest)) if fallback_tag(subject.digest) in store.tags() else None
    assert sign(store, subject) == first
    assert before is None or store.resolve(fallback_tag(subject.digest)) == before
    assert len(referrers(store, subject, SIGNATURE_ARTIFACT)) == 1


def test_several_signatures_and_artifacts_of_other_types_stand_side_by_side(store):
    subject = put_image(store, small_image(), "greet")
    other = put_image(store, small_image("other"), "other")
    sign(store, subject)
    sign(store, subject, ARMORED + b"\n")
    sign(store, other, b"of the other")
    note = attach(store, subject, OTHER_TYPE, sbom(), pause=never)
    assert sorted(signatures(store, subject)) == sorted([ARMORED, ARMORED + b"\n"])
    assert signatures(store, other) == [b"of the other"]
    assert [one.digest for one in referrers(store, subject, OTHER_TYPE)] == [note.digest]
    assert read_artifact(store, note, subject, OTHER_TYPE) == b"sbom"


def test_an_artifact_is_a_manifest_of_the_specifications_form():
    subject = small_image().manifest.descriptor
    artifact = artifact_of(
        replace(subject, annotations={"a": "b"}), SIGNATURE_ARTIFACT, Blob.from_bytes(ARMORED, PGP_SIGNATURE)
    )
    assert artifact.descriptor.media_type == OCI_MANIFEST
    assert json.loads(artifact.read()) == {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.oci-binpkg.signature.v1",
        "config": {"mediaType": OCI_EMPTY, "digest": str(Digest.of(b"{}")), "size": 2},
        "layers": [{"mediaType": "application/pgp-signature", "digest": str(Digest.of(ARMORED)), "size": len(ARMORED)}],
        "subject": {"mediaType": subject.media_type, "digest": str(subject.digest), "size": subject.size},
    }


def test_the_tag_is_made_of_the_subjects_digest():
    assert fallback_tag(Digest("sha256", "a" * 64)) == f"sha256-{'a' * 64}"
    assert fallback_tag(Digest("sha512", "b" * 128)) == f"sha512-{'b' * 64}"


# ---- the list under the tag


@pytest.mark.covers("R41")
def test_the_list_under_the_tag_is_an_index_with_the_artifacts_types():
    store = MemoryStore()
    subject = put_image(store, small_image())
    attached = sign(store, subject)
    (listed,) = tagged(store, subject).manifests
    assert (listed.digest, listed.extra) == (attached.digest, {"artifactType": SIGNATURE_ARTIFACT})


@pytest.mark.covers("R41")
def test_what_other_tools_listed_is_kept():
    store = MemoryStore()
    subject = put_image(store, small_image())
    theirs = Descriptor(OCI_MANIFEST, Digest.of(b"x"), 1, None, {"org": "x"}, {"artifactType": "a/b", "data": "eA=="})
    index = Index(OCI_INDEX, (theirs,), {"note": "x"}, {"unknown": [1]})
    store.tag(Blob.from_bytes(index.to_bytes(), OCI_INDEX), fallback_tag(subject.digest))
    sign(store, subject)
    found = tagged(store, subject)
    assert found.manifests[0] == theirs
    assert (found.annotations, found.extra) == ({"note": "x"}, {"unknown": [1]})
    assert signatures(store, subject) == [ARMORED]


@pytest.mark.covers("R41")
@pytest.mark.parametrize(("data", "media_type"), [(b"nonsense", OCI_INDEX), (b'{"schemaVersion":2}', OCI_INDEX)])
def test_an_invalid_list_is_none_and_is_not_written_over(data, media_type):
    store = MemoryStore()
    subject = put_image(store, small_image())
    store.tag(Blob.from_bytes(data, media_type), fallback_tag(subject.digest))
    assert referrers(store, subject, SIGNATURE_ARTIFACT) == []
    with pytest.raises(ContentError):
        sign(store, subject)
    assert blob_of(store, store.resolve(fallback_tag(subject.digest))).read() == data


@pytest.mark.covers("R41")
def test_a_tag_that_is_an_image_is_no_list():
    store = MemoryStore()
    subject = put_image(store, small_image())
    put_image(store, small_image("other"), fallback_tag(subject.digest))
    assert referrers(store, subject, SIGNATURE_ARTIFACT) == []
    with pytest.raises(ContentError, match="is not a list of what refers to"):
        sign(store, subject)


class Contended(MemoryStore):
    """Another writer replaces the list right after it was written, `times` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.theirs = Blob.from_bytes(Index(OCI_INDEX, ()).to_bytes(), OCI_INDEX)

    def tag(self, manifest: Blob, tag: str) -> None:
        super().tag(manifest, tag)
        if tag.startswith("sha256-") and self.times:
            self.times -= 1
            super().tag(self.theirs, tag)


def test_an_entry_that_another_writer_lost_is_written_again():
    rounds: list[Any] = []
    store = Contended(3)
    subject = put_image(store, small_image())
    attach_signature(store, subject, ARMORED, pause=rounds.append)
    assert rounds == [0, 1, 2]
    assert signatures(store, subject) == [ARMORED]


def test_without_retries_a_list_is_written_once():
    store = Contended(100)
    subject = put_image(store, small_image())
    with pytest.raises(TransferError, match="replaced by other writers 1 times"):
        attach_signature(store, subject, ARMORED, pause=lambda _: None, rounds=configured(0).list_rounds)
    assert store.times == 99


def test_a_list_that_others_replace_every_time_is_an_error_with_a_next_step():
    rounds: list[Any] = []
    store = Contended(100)
    subject = put_image(store, small_image())
    with pytest.raises(TransferError, match="replaced by other writers") as caught:
        attach_signature(store, subject, ARMORED, pause=rounds.append)
    assert len(rounds) == USUAL.list_rounds
    assert "again" in caught.value.hint
    store.times = 0
    sign(store, subject)
    assert signatures(store, subject) == [ARMORED]


# ---- artifacts that are not what they are listed as


def listed_artifact(store: Store, subject: Descriptor, artifact: Blob, artifact_type: str = SIGNATURE_ARTIFACT) -> None:
    """List an artifact for a subject, whatever it is."""
    store.put(artifact)
    index = Index(OCI_INDEX, (entry(artifact, artifact_type),))
    store.tag(Blob.from_bytes(index.to_bytes(), OCI_INDEX), fallback_tag(subject.digest))


@pytest.mark.covers("B35")
def test_a_signature_of_another_manifest_listed_for_this_one_is_passed_over():
    store = MemoryStore()
    subject, other = put_image(store, small_image()), put_image(store, small_image("other"))
    theirs = artifact_of(other, SIGNATURE_ARTIFACT, Blob.from_bytes(ARMORED, PGP_SIGNATURE))
    store.put(Blob.from_bytes(ARMORED, PGP_SIGNATURE))
    listed_artifact(store, subject, theirs)
    assert signatures(store, subject) == []
    with pytest.raises(ContentError, match=f"refers to {other.digest}, not to {subject.digest}"):
        read_artifact(store, theirs.descriptor, subject, SIGNATURE_ARTIFACT)


def test_artifacts_of_another_form_are_passed_over():
    store = MemoryStore()
    subject = put_image(store, small_image())
    content = Blob.from_bytes(ARMORED, PGP_SIGNATURE)
    good = artifact_of(subject, SIGNATURE_ARTIFACT, content)
    document = parse_manifest(good.read(), "artifact")
    assert isinstance(document, Manifest)
    forms = {
        "pieces of content": replace(document, layers=(content.descriptor, content.descriptor)),
        "not of type": replace(document, extra=document.extra | {"artifactType": OTHER_TYPE}),  # type: ignore[operator]
        "a descriptor is expected": replace(document, extra={"artifactType": SIGNATURE_ARTIFACT}),
    }
    for reason, form in forms.items():
        artifact = Blob.from_bytes(form.to_bytes(), OCI_MANIFEST)
        listed_artifact(store, subject, artifact)
        assert signatures(store, subject) == []
        with pytest.raises(ContentError, match=reason):
            read_artifact(store, artifact.descriptor, subject, SIGNATURE_ARTIFACT)


def test_an_index_is_no_artifact():
    store = MemoryStore()
    subject = put_image(store, small_image())
    index = Blob.from_bytes(Index(OCI_INDEX, ()).to_bytes(), OCI_INDEX)
    store.put(index)
    with pytest.raises(ContentError, match="is an index"):
        read_artifact(store, index.descriptor, subject, SIGNATURE_ARTIFACT)


def test_a_signature_whose_content_is_lost_does_not_hide_the_others():
    store = MemoryStore()
    subject = put_image(store, small_image())
    attach(store, subject, SIGNATURE_ARTIFACT, Blob.from_bytes(b"lost", PGP_SIGNATURE), pause=never)
    sign(store, subject)
    del store._content[Digest.of(b"lost")]
    assert signatures(store, subject) == [ARMORED]


@pytest.mark.covers("B38")
def test_a_huge_signature_is_not_read_and_many_are_not_either():
    store = MemoryStore()
    subject = put_image(store, small_image())
    attached = attach(store, subject, SIGNATURE_ARTIFACT, sbom(bytes(100_000)), pause=never)
    assert signatures(store, subject) == []
    with pytest.raises(ContentError, match="at most 65536"):
        read_artifact(store, attached, subject, SIGNATURE_ARTIFACT)
    for number in range(20):
        content = Blob.from_bytes(f"signature {number}".encode(), PGP_SIGNATURE)
        attach(store, subject, SIGNATURE_ARTIFACT, content, pause=never)
    assert len(signatures(store, subject, most=5)) == 4


# ---- the registry's own list


@pytest.mark.covers("R41")
def test_a_registry_that_lists_needs_no_tag(registry, bench):
    subject = put_image(registry, small_image(), "greet")
    sign(registry, subject)
    assert signatures(registry, subject) == [ARMORED]
    assert list(registry.tags()) == ["greet"]
    assert bench.registry.requests("GET", LISTED)[0].argument("artifactType") == SIGNATURE_ARTIFACT


@pytest.mark.covers("R41")
@pytest.mark.parametrize(
    "answer",
    [
        Answer.error(404, "NOT_FOUND"),
        Answer.error(400, "UNSUPPORTED"),
        Answer.error(405, "UNSUPPORTED"),
        Answer(406),
        Answer.json(200, {"schemaVersion": 2, "manifests": []}),
        Answer(200, [("Content-Type", "text/html")], b"<html>"),
    ],
    ids=["404", "400", "405", "406", "other type", "html"],
)
def test_without_such_a_list_the_tag_is_used(registry, bench, answer):
    bench.registry.fault("GET", LISTED, times=0, answer=answer)
    subject = put_image(registry, small_image(), "greet")
    sign(registry, subject)
    assert signatures(registry, subject) == [ARMORED]
    assert sorted(registry.tags()) == ["greet", fallback_tag(subject.digest)]


@pytest.mark.covers("R41")
@pytest.mark.parametrize("lists", [True, False])
def test_where_only_images_are_taken_the_signature_travels_as_one(registry, bench, lists):
    refused = Answer.error(400, "MANIFEST_INVALID", "unknown media type")
    bench.registry.fault("PUT", "/manifests/", nth=2, answer=refused)
    if not lists:
        bench.registry.fault("GET", LISTED, answer=Answer.error(404, "NOT_FOUND"), times=0)
    subject = put_image(registry, small_image(), "greet")
    artifact = sign(registry, subject)
    assert signatures(registry, subject) == [ARMORED]
    assert referrers(registry, subject, OTHER_TYPE) == []
    manifest = parse_manifest(blob_of(registry, artifact).read(), "it", media_type=OCI_MANIFEST)
    assert manifest.config.media_type == OCI_CONFIG
    assert "artifactType" not in manifest.extra


def test_an_invalid_list_of_the_registry_is_none(registry, bench):
    subject = put_image(registry, small_image(), "greet")
    bench.registry.fault("GET", LISTED, times=0, mutate=lambda _: b"nonsense")
    assert referrers(registry, subject, SIGNATURE_ARTIFACT) == []


@pytest.mark.covers("R41")
def test_a_list_that_lags_behind_or_leaves_ours_out_is_made_good_by_the_tag(registry, bench):
    empty = Answer(200, [("Content-Type", OCI_INDEX)], Index(OCI_INDEX, ()).to_bytes())
    bench.registry.fault("GET", LISTED, times=0, answer=empty)
    subject = put_image(registry, small_image(), "greet")
    sign(registry, subject)
    assert signatures(registry, subject) == [ARMORED]


def test_a_broken_registry_is_an_error_and_not_an_empty_list(registry, bench):
    subject = put_image(registry, small_image(), "greet")
    bench.registry.fault("GET", LISTED, times=0, answer=Answer(500))
    with pytest.raises(ServerError):
        referrers(registry, subject, SIGNATURE_ARTIFACT)


def test_entries_without_a_type_are_asked_themselves(registry):
    subject = put_image(registry, small_image(), "greet")
    sign(registry, subject)
    note = attach(registry, subject, OTHER_TYPE, sbom(), pause=never)
    assert signatures(registry, subject) == [ARMORED]
    assert [one.digest for one in referrers(registry, subject, OTHER_TYPE)] == [note.digest]


def test_listed_artifacts_that_are_gone_are_passed_over(registry, bench):
    subject = put_image(registry, small_image(), "greet")
    gone = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"gone")), "size": 4}
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [gone, {**gone, "mediaType": "a/b"}]}
    bench.registry.fault(
        "GET", LISTED, times=0, answer=Answer(200, [("Content-Type", OCI_INDEX)], json.dumps(document).encode())
    )
    assert referrers(registry, subject, SIGNATURE_ARTIFACT) == []


def paged(registry: Registry, bench: Bench, subject: Descriptor, link: str) -> None:
    """Two pages: the first is empty and leads to the second, which is the registry's answer."""
    first = Answer(200, [("Content-Type", OCI_INDEX), ("Link", link)], Index(OCI_INDEX, ()).to_bytes())
    bench.registry.fault("GET", LISTED + r".*artifactType", times=0, answer=first)


def test_all_pages_are_read(registry, bench):
    subject = put_image(registry, small_image(), "greet")
    sign(registry, subject)
    paged(registry, bench, subject, f'</v2/apps/referrers/{subject.digest}?page=2>; rel="next"')
    assert signatures(registry, subject) == [ARMORED]


@pytest.mark.parametrize(
    "link", ['<http://127.0.0.2:1/v2/x>; rel="next"', '<?artifactType=x&n=1>; rel="next"', "nonsense"]
)
def test_pages_elsewhere_or_without_end_are_not_followed(registry, bench, link):
    subject = put_image(registry, small_image(), "greet")
    sign(registry, subject)
    paged(registry, bench, subject, link)
    assert referrers(registry, subject, SIGNATURE_ARTIFACT) == []


def test_a_subject_that_is_not_there_has_no_artifacts(registry):
    assert referrers(registry, small_image().manifest.descriptor, SIGNATURE_ARTIFACT) == []
    with pytest.raises(NotFoundError):
        registry.resolve(fallback_tag(small_image().manifest.descriptor.digest))
