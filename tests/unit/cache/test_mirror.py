"""Mirrors of layout v3: what Spack wrote is read, what we write is what Spack writes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from oci_binpkg.backoff import USUAL, configured
from oci_binpkg.cache.mirror import MirrorCache
from oci_binpkg.cache.mirror_keys import published_keys
from oci_binpkg.cache.mirror_manifest import INDEX_TYPE, blob_path, index_path, package_path
from oci_binpkg.cache.mirror_v2 import MirrorV2Cache
from oci_binpkg.cache.protocol import CacheEntry
from oci_binpkg.cli.hints import words
from oci_binpkg.errors import ContentError, NetworkError, NotFoundError, SignatureError, TransferError, UsageError
from oci_binpkg.index.document import index_of
from oci_binpkg.model.content import OCI_LAYER_ZSTD, Blob, Descriptor, Digest
from oci_binpkg.model.image import UNKNOWN_DIFF_ID, Layer, known_diff_id
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec_document import parse_spec_document
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.signing.clearsign import stripped
from oci_binpkg.signing.judge import BELIEVING
from oci_binpkg.signing.keyring import Keyring
from oci_binpkg.signing.sign import read_clearsigned
from oci_binpkg.signing.statement import NOTHING_SAID, Statement
from tests.support import golden
from tests.support.golden import GOLDEN
from tests.support.mirrors import (
    MirrorServer,
    file_mirror,
    golden_records,
    index_for,
    layer_bytes,
    made_up,
)
from tests.support.signers import Signs, Verifies

GREET = PackageKey("greet", "2.0", "6fytamqgzio2shuhlaie55hiv2m2stdw")


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize(("mirror", "count"), [("v3-unsigned", 5), ("v3-signed", 5), ("v3-padded", 3)])
def test_every_golden_package_is_found_and_its_archive_is_right(mirror: str, count: int) -> None:
    cache = file_mirror(GOLDEN / mirror, verifier=BELIEVING)
    hashes = cache.hashes()
    assert len(hashes) == count
    for package_hash, path in hashes.items():
        entry = cache.entry(path)
        assert entry.key.hash == package_hash
        assert cache.find(entry.key).document.root == entry.document.root
        data = layer_bytes(entry.layer)
        assert [Digest.of(data).hex, len(data)] == [
            golden_records(mirror, path)[0]["checksum"],
            golden_records(mirror, path)[0]["contentLength"],
        ]
        assert known_diff_id(entry.layer) is None
    index = cache.read_index()
    assert index is not None
    assert {spec.hash for spec in index.packages()} == set(hashes)
    assert cache.read_index(index.digest) is None


def test_the_index_of_a_mirror_is_that_of_the_registry() -> None:
    (checksum,) = (record["checksum"] for record in golden_records("v3-unsigned", index_path()))
    registry = json.loads(golden.read_blob(golden.tags()["index.spack"]))["layers"][0]["digest"]
    index = file_mirror(GOLDEN / "v3-unsigned").read_index()
    assert index is not None
    assert str(index.digest) == f"sha256:{checksum}"
    assert set(index.records) == set(json.loads(golden.read_blob(registry))["database"]["installs"])


def test_signed_packages_go_through_the_verifier() -> None:
    with pytest.raises(SignatureError, match="is signed"):
        file_mirror(GOLDEN / "v3-signed").find(GREET)
    asked: list[str] = []

    def verify(data: bytes, what: str) -> tuple[bytes, None]:
        asked.append(what)
        return stripped(data, what)

    cache = file_mirror(GOLDEN / "v3-signed", verifier=Verifies(verify))
    assert cache.find(GREET).key == GREET
    assert asked == [f"{cache.name}/{package_path(GREET)}"]


@pytest.mark.parametrize("layout", ["v3", "v2"])
def test_golden_signatures_are_good_by_the_key_that_is_published_beside_them(tmp_path: Path, layout: str) -> None:
    objects = FileObjects(str(GOLDEN / f"{layout}-signed"))
    with Keyring(str(tmp_path / "keys")) as keyring:
        verifier = Verifies(partial(read_clearsigned, keyring=keyring))
        cache = (
            MirrorCache(objects, verifier=verifier, pause=lambda _: None)
            if layout == "v3"
            else MirrorV2Cache(objects, verifier=verifier)
        )
        paths = sorted(cache.hashes().values())
        with pytest.raises(SignatureError):
            cache.entry(paths[0])
        for key in published_keys(objects).values():
            keyring.trust(key)
        assert len([cache.entry(path) for path in paths]) == 5


def from_registry(name: str) -> CacheEntry:
    """A golden package as it stands in the registry, with the layer that Spack made."""
    package = golden.package(name)
    document = parse_spec_document({"spec": package.config["spec"]}, name)
    described = package.manifest["layers"][-1]
    digest = Digest.parse(described["digest"])
    blob = Blob(
        Descriptor(described["mediaType"], digest, described["size"]),
        lambda: io.BytesIO(golden.read_blob(str(digest))),
    )
    return CacheEntry(PackageKey.of(document.root), document, Layer(blob, Digest.parse(package.diff_id)))


def test_a_mirror_of_the_golden_packages_is_spacks_own_file_for_file(tmp_path: Path) -> None:
    cache = file_mirror(tmp_path)
    entries = [from_registry(name) for name in golden.PACKAGES]
    for entry in entries:
        cache.publish(entry)
    theirs = {path: data for path, data in tree(GOLDEN / "v3-unsigned").items() if path in tree(tmp_path)}
    assert tree(tmp_path) == theirs
    assert len(theirs) == 1 + 3 * 5
    cache.merge_index(index_of((entry.document.root, entry.document.graph) for entry in entries))
    ours = cache.read_index()
    index = file_mirror(GOLDEN / "v3-unsigned").read_index()
    assert ours is not None
    assert index is not None
    assert set(ours.records) == set(index.records)
    assert {spec.hash for spec in ours.packages()} == {spec.hash for spec in index.packages()}
    (written,) = golden_records(str(tmp_path), index_path())
    assert (written["mediaType"], written["compression"]) == (INDEX_TYPE, "none")


def test_a_mirror_copied_with_its_index_is_the_same_mirror(tmp_path: Path) -> None:
    source, target = file_mirror(GOLDEN / "v3-unsigned"), file_mirror(tmp_path)
    for path in source.hashes().values():
        target.publish(source.entry(path))
    index = source.read_index()
    assert index is not None
    target.merge_index(index)
    assert tree(tmp_path) == tree(GOLDEN / "v3-unsigned")


def sign(data: bytes, *, statement: Statement = NOTHING_SAID) -> bytes:
    template = (GOLDEN / "v3-signed" / package_path(GREET)).read_bytes()
    head, _, rest = template.partition(b"{")
    return head + data + b"\n" + rest[rest.index(b"-----BEGIN PGP SIGNATURE") :]


def test_a_signing_cache_signs_manifests_and_signs_what_was_not(tmp_path: Path) -> None:
    entry = from_registry("greet-2.0")
    plain = file_mirror(tmp_path).publish(entry)
    signing = file_mirror(tmp_path, signer=Signs(sign), verifier=BELIEVING)
    signed = signing.publish(entry)
    assert signed != plain
    data = (tmp_path / package_path(GREET)).read_bytes()
    assert Digest.of(data) == signed
    assert data == (GOLDEN / "v3-signed" / package_path(GREET)).read_bytes()
    assert signing.publish(entry) == signed
    # who does not sign leaves the signature on what already says the same
    assert file_mirror(tmp_path).publish(entry) == signed


def test_a_signature_that_is_not_believed_is_replaced(tmp_path: Path) -> None:
    def distrusting(data: bytes, what: str) -> tuple[bytes, None]:
        raise SignatureError("not one of ours")

    entry = from_registry("greet-2.0")
    file_mirror(tmp_path, signer=Signs(sign), verifier=BELIEVING).publish(entry)
    signed: list[bytes] = []

    def remembering(data: bytes, *, statement: Statement) -> bytes:
        signed.append(data)
        return sign(data)

    file_mirror(tmp_path, signer=Signs(remembering), verifier=Verifies(distrusting)).publish(entry)
    assert len(signed) == 1


@pytest.mark.parametrize("fails_at", range(4))
def test_an_interrupted_push_leaves_nothing_that_passes_for_a_package(tmp_path: Path, fails_at: int) -> None:
    class Dying(FileObjects):
        writes = 0

        def write(self, path: str, content: Blob | bytes, *, if_match: str | None = None) -> bool:
            if self.writes == fails_at:
                raise NetworkError("gone")
            self.writes += 1
            return super().write(path, content, if_match=if_match)

    entry = made_up("zlib")
    with pytest.raises(NetworkError):
        MirrorCache(Dying(str(tmp_path)), pause=lambda _: None).publish(entry)
    cache = file_mirror(tmp_path)
    assert cache.hashes() == {}
    with pytest.raises(NotFoundError):
        cache.find(entry.key)
    cache.publish(entry)
    assert cache.find(entry.key).key == entry.key


def changed(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture
def pushed(tmp_path: Path) -> tuple[MirrorCache, CacheEntry, Path]:
    cache, entry = file_mirror(tmp_path), made_up("zlib")
    cache.publish(entry)
    return cache, entry, tmp_path / package_path(entry.key)


@pytest.mark.covers("B14")
def test_another_package_under_the_name_is_refused(pushed: tuple[MirrorCache, CacheEntry, Path]) -> None:
    cache, entry, path = pushed
    other = made_up("curl")
    cache.publish(other)
    path.write_bytes((path.parents[1] / "curl" / Path(package_path(other.key)).name).read_bytes())
    with pytest.raises(ContentError, match="another package"):
        cache.find(entry.key)
    with pytest.raises(ContentError, match="another package"):
        cache.entry(package_path(entry.key))


def test_an_entry_knows_the_digest_of_its_manifest(pushed: tuple[MirrorCache, CacheEntry, Path]) -> None:
    cache, entry, path = pushed
    assert cache.find(entry.key).manifest == cache.publish(entry) == Digest.of(path.read_bytes())


def test_a_damaged_spec_is_refused(pushed: tuple[MirrorCache, CacheEntry, Path], tmp_path: Path) -> None:
    cache, entry, path = pushed
    record = json.loads(path.read_bytes())["data"][1]
    blob = tmp_path / blob_path(Digest("sha256", record["checksum"]))
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + b"?")
    with pytest.raises(ContentError, match=record["checksum"]):
        cache.find(entry.key)
    blob.unlink()
    with pytest.raises(ContentError, match="the spec is not there"):
        cache.find(entry.key)


def test_an_archive_that_is_not_gzip_is_refused(pushed: tuple[MirrorCache, CacheEntry, Path]) -> None:
    cache, entry, path = pushed
    changed(path, lambda document: document["data"][0].update(compression="none"))
    with pytest.raises(ContentError, match="not compressed with gzip"):
        cache.find(entry.key)


def test_a_manifest_without_an_archive_is_refused(pushed: tuple[MirrorCache, CacheEntry, Path]) -> None:
    cache, entry, path = pushed
    changed(path, lambda document: document["data"].pop(0))
    with pytest.raises(ContentError, match=r"0 blobs of type application/vnd\.spack\.install"):
        cache.find(entry.key)


def test_a_damaged_manifest_is_written_again(pushed: tuple[MirrorCache, CacheEntry, Path]) -> None:
    cache, entry, path = pushed
    good = path.read_bytes()
    path.write_bytes(b"garbage")
    cache.publish(entry)
    assert path.read_bytes() == good
    path.write_bytes(b"-----BEGIN PGP SIGNED MESSAGE-----\nbut not really\n")
    cache.publish(entry)
    assert path.read_bytes() == good


def test_a_zstd_layer_is_not_for_a_mirror(tmp_path: Path) -> None:
    entry = made_up("zlib")
    blob = replace(entry.layer.blob, descriptor=replace(entry.layer.blob.descriptor, media_type=OCI_LAYER_ZSTD))
    with pytest.raises(UsageError, match="gzip layers") as caught:
        file_mirror(tmp_path).publish(replace(entry, layer=replace(entry.layer, blob=blob)))
    assert "--compression gzip" in words(caught.value.hint)


def test_views_have_indices_of_their_own(tmp_path: Path) -> None:
    whole, part = file_mirror(tmp_path), file_mirror(tmp_path, view="ci")
    whole.merge_index(index_for(made_up("zlib")))
    with pytest.raises(NotFoundError):
        part.read_index()
    part.merge_index(index_for(made_up("curl")))
    assert (tmp_path / "v3/manifests/index/ci/index.manifest.json").exists()
    assert [spec.name for spec in whole.read_index().packages()] == ["zlib"]
    assert set(whole.hashes()) == set()


@pytest.mark.covers("B14")
def test_an_index_whose_blob_is_gone_is_damage_not_absence(tmp_path: Path) -> None:
    cache = file_mirror(tmp_path)
    cache.merge_index(index_for(made_up("zlib")))
    (record,) = golden_records(str(tmp_path), index_path())
    (tmp_path / blob_path(Digest("sha256", record["checksum"]))).unlink()
    with pytest.raises(ContentError, match=r"the index of .* is not there"):
        file_mirror(tmp_path).read_index()


def test_an_index_is_replaced_whatever_state_it_is_in(tmp_path: Path) -> None:
    cache = file_mirror(tmp_path)
    cache.merge_index(index_for(made_up("zlib"), made_up("curl")))
    for damage in (lambda path: None, lambda path: path.write_bytes(b"garbage"), lambda path: path.unlink()):
        damage(tmp_path / index_path())
        assert cache.merge_index(index_for(made_up("curl")), replace=True) is True
        assert [spec.name for spec in cache.read_index().packages()] == ["curl"]


def test_writers_that_only_read_back_find_out_in_the_last_round(tmp_path: Path) -> None:
    cache = MirrorCache(Rival(str(tmp_path), USUAL.merge_rounds, conditions=True), pause=lambda _: None)
    wanted = index_for(made_up("rival", "0"))
    assert cache.merge_index(wanted)


def test_a_known_index_costs_a_request_that_carries_nothing(tmp_path: Path) -> None:
    writer = file_mirror(tmp_path)
    writer.merge_index(index_for(made_up("zlib")))
    with MirrorServer(tmp_path) as server, server.objects() as objects:
        cache = MirrorCache(objects, pause=lambda _: None)
        index = cache.read_index()
        assert index is not None
        assert cache.read_index(index.digest) is None
        assert [status for _, _, status in server.log] == [200, 200, 304]
        writer.merge_index(index_for(made_up("curl")))
        assert cache.read_index(index.digest) is not None


def test_a_web_server_without_an_index_says_so(tmp_path: Path) -> None:
    file_mirror(tmp_path).publish(made_up("zlib"))
    with MirrorServer(tmp_path) as server, server.objects() as objects:
        cache = MirrorCache(objects, pause=lambda _: None)
        assert cache.find(made_up("zlib").key) is not None
        with pytest.raises(NotFoundError):
            cache.hashes()


class Rival(FileObjects):
    """Another writer replaces the index just before each of our writes, `times` times."""

    def __init__(self, root: str, times: int, *, conditions: bool = True) -> None:
        super().__init__(root)
        self.times = times
        self.conditions = conditions

    def write(self, path: str, content: Blob | bytes, *, if_match: str | None = None) -> bool:
        rival, ours = MirrorCache(FileObjects(self._root), pause=lambda _: None), path == index_path()
        if ours and self.times and self.conditions:
            self.times -= 1
            rival.merge_index(index_for(made_up("rival", str(self.times))))
        written = super().write(path, content, if_match=if_match if self.conditions else None)
        if ours and self.times and not self.conditions:
            # a writer that read before we wrote, on a server that knows no conditions
            self.times -= 1
            (Path(self._root) / path).unlink()
            rival.merge_index(index_for(made_up("rival", str(self.times))))
        return written


@pytest.mark.parametrize("conditions", [True, False])
def test_two_writers_end_with_both_entries(tmp_path: Path, conditions: bool) -> None:
    rounds: list[int] = []
    cache = MirrorCache(Rival(str(tmp_path), 2, conditions=conditions), pause=rounds.append)
    assert cache.merge_index(index_for(made_up("zlib")))
    assert {"zlib", "rival"} <= {spec.name for spec in cache.read_index().packages()}
    assert rounds == [0, 1]


@pytest.mark.parametrize("conditions", [True, False])
def test_without_retries_an_index_is_merged_once(tmp_path: Path, conditions: bool) -> None:
    rival = Rival(str(tmp_path), 1000, conditions=conditions)
    with pytest.raises(TransferError, match="replaced by other writers 1 times"):
        MirrorCache(rival, pause=lambda _: None, backoff=configured(0)).merge_index(index_for(made_up("zlib")))
    assert rival.times == 999


def test_an_endless_rival_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    cache = MirrorCache(Rival(str(tmp_path), 1000), pause=lambda _: None)
    with pytest.raises(TransferError, match="replaced by other writers") as caught:
        cache.merge_index(index_for(made_up("zlib")))
    assert "again" in caught.value.hint


def test_a_package_that_is_not_in_the_index_is_removed_all_the_same(tmp_path: Path) -> None:
    cache, entry = file_mirror(tmp_path), made_up("zlib")
    cache.publish(entry)
    cache.remove(entry.key)
    assert cache.hashes() == {}
    with pytest.raises(NotFoundError):
        cache.read_index()


def test_the_files_of_a_mirror_can_be_had_for_its_keys(tmp_path: Path) -> None:
    assert file_mirror(tmp_path).objects.name == f"file://{tmp_path}"
    assert str(UNKNOWN_DIFF_ID) == f"sha256:{'0' * 64}"
