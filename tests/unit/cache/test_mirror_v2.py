"""Mirrors of layout v2: read, with an index or without, and never written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.cache.mirror import MirrorCache
from oci_binpkg.cache.mirror_v2 import MirrorV2Cache
from oci_binpkg.cache.open import Opener, Trust, parse_location
from oci_binpkg.errors import ContentError, NotFoundError, SignatureError, UnsupportedError
from oci_binpkg.events import Event, Warned
from oci_binpkg.model.content import Digest
from oci_binpkg.model.image import known_diff_id
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.signing.judge import BELIEVING, UNSIGNED
from tests.support.golden import GOLDEN
from tests.support.memory_store import MemoryStore
from tests.support.mirrors import MirrorServer, layer_bytes

GREET = PackageKey("greet", "2.0", "ycy3s262xlda5gbfvt67yi5tvhln2yrh")
STEM = "linux-debian12-x86_64-gcc-12.2.0-greet-2.0-ycy3s262xlda5gbfvt67yi5tvhln2yrh"


def mirror(directory: Path) -> MirrorV2Cache:
    return MirrorV2Cache(FileObjects(str(directory)), verifier=BELIEVING)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    target = tmp_path / "mirror"
    shutil.copytree(GOLDEN / "v2-unsigned", target, copy_function=shutil.copyfile)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755)
    return target


@pytest.mark.parametrize("name", ["v2-unsigned", "v2-signed"])
@pytest.mark.parametrize("over_http", [False, True])
def test_every_golden_package_is_found_and_its_archive_is_right(name: str, over_http: bool) -> None:
    with MirrorServer(GOLDEN / name) as server, server.objects() as objects:
        cache = MirrorV2Cache(objects, verifier=BELIEVING) if over_http else mirror(GOLDEN / name)
        hashes = cache.hashes()
        assert len(hashes) == 5
        for package_hash, path in hashes.items():
            entry = cache.entry(path)
            assert entry.key.hash == package_hash
            found = cache.find(entry.key)
            assert found.layer.blob.descriptor == entry.layer.blob.descriptor
            assert Digest.of(layer_bytes(found.layer)) == entry.layer.blob.descriptor.digest
            assert known_diff_id(entry.layer) is None
        index = cache.read_index()
        assert index is not None
        assert {spec.hash for spec in index.packages()} == set(hashes)
        assert cache.read_index(index.digest) is None


def test_finding_by_the_index_asks_for_what_it_needs_only() -> None:
    with MirrorServer(GOLDEN / "v2-unsigned") as server, server.objects() as objects:
        cache = MirrorV2Cache(objects, verifier=UNSIGNED)
        cache.find(GREET)
        cache.find(GREET)
        paths = [path for _, path, status in server.log if status == 200]
        assert paths.count("build_cache/index.json") == 1
        assert len(paths) == 5


def test_signed_packages_go_through_the_verifier() -> None:
    with pytest.raises(SignatureError, match="is signed"):
        MirrorV2Cache(FileObjects(str(GOLDEN / "v2-signed"))).find(GREET)


def test_without_an_index_packages_are_found_by_listing(copy: Path) -> None:
    (copy / "build_cache" / "index.json").unlink()
    (copy / "build_cache" / "index.json.hash").unlink()
    cache = mirror(copy)
    with pytest.raises(NotFoundError):
        cache.read_index()
    assert cache.find(GREET).key == GREET
    with pytest.raises(NotFoundError, match=r"greet@2\.0/zzzzzzz"):
        cache.find(PackageKey("greet", "2.0", "z" * 32))
    with MirrorServer(copy) as server, server.objects() as objects:
        for act in (lambda cache: cache.find(GREET), lambda cache: cache.hashes()):
            with pytest.raises((UnsupportedError, NotFoundError)):
                act(MirrorV2Cache(objects))
        with pytest.raises(UnsupportedError, match="cannot list"):
            MirrorV2Cache(objects).find(GREET)


def test_an_index_that_does_not_know_the_package_is_not_the_last_word(copy: Path) -> None:
    path = copy / "build_cache" / "index.json"
    document = json.loads(path.read_bytes())
    del document["database"]["installs"][GREET.hash]
    path.write_text(json.dumps(document))
    assert mirror(copy).find(GREET).key == GREET
    with MirrorServer(copy) as server, server.objects() as objects, pytest.raises(NotFoundError, match=r"greet@2\.0"):
        MirrorV2Cache(objects).find(GREET)


def test_an_index_that_knows_a_package_that_is_gone_is_not_the_last_word(copy: Path) -> None:
    (copy / "build_cache" / f"{STEM}.spec.json").unlink()
    with pytest.raises(NotFoundError, match=r"greet@2\.0"):
        mirror(copy).find(GREET)


@pytest.mark.parametrize("text", [None, "0" * 64, "nonsense", "\udcff", "x" * 5000])
def test_a_hash_file_that_is_missing_stale_or_garbage_does_no_harm(copy: Path, text: str | None) -> None:
    path = copy / "build_cache" / "index.json.hash"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    cache = mirror(copy)
    index = cache.read_index()
    assert index is not None
    assert len(index.records) == 6
    assert cache.read_index(index.digest) is None
    assert cache.read_index(Digest.of(b"another")) is index


def test_a_fresh_hash_file_saves_the_download() -> None:
    with MirrorServer(GOLDEN / "v2-unsigned") as server, server.objects() as objects:
        known = Digest("sha256", (GOLDEN / "v2-unsigned/build_cache/index.json.hash").read_text().strip())
        assert MirrorV2Cache(objects).read_index(known) is None
        assert [path for _, path, _ in server.log] == ["build_cache/index.json.hash"]


def changed(copy: Path, **members: object) -> None:
    path = copy / "build_cache" / f"{STEM}.spec.json"
    document = json.loads(path.read_bytes()) | members
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"buildcache_layout_version": 1}, "layout 1; 2 is understood"),
        ({"buildcache_layout_version": None}, "layout 0; 2 is understood"),
        ({"binary_cache_checksum": None}, "binary_cache_checksum: an object"),
        ({"binary_cache_checksum": {"hash_algorithm": "sha256", "hash": "../x"}}, "not a digest"),
    ],
)
def test_what_is_no_package_of_this_layout_is_refused(copy: Path, members: dict[str, object], message: str) -> None:
    changed(copy, **members)
    with pytest.raises(ContentError, match=message):
        mirror(copy).find(GREET)


def test_another_checksum_is_found_out(copy: Path) -> None:
    changed(copy, binary_cache_checksum={"hash_algorithm": "sha256", "hash": "0" * 64})
    with pytest.raises(ContentError):
        layer_bytes(mirror(copy).find(GREET).layer)


def test_an_archive_that_is_gone_is_damage_not_absence(copy: Path) -> None:
    next(copy.rglob(f"{STEM}.spack")).unlink()
    with pytest.raises(ContentError, match="its archive is not there"):
        mirror(copy).find(GREET)


@pytest.mark.covers("B14")
def test_another_package_under_the_name_is_refused(copy: Path) -> None:
    folder = copy / "build_cache"
    other = next(folder.glob("*greetcfg*.spec.json"))
    (folder / f"{STEM}.spec.json").write_bytes(other.read_bytes())
    with pytest.raises(ContentError, match="another package"):
        mirror(copy).find(GREET)
    moved = folder / f"odd-name-{other.name.rpartition('-')[2]}"
    other.rename(moved)
    with pytest.raises(ContentError, match="the file's name is not that of greetcfg"):
        mirror(copy).entry(f"build_cache/{moved.name}")


def test_specs_without_a_compiler_are_found_by_listing(copy: Path) -> None:
    path = copy / "build_cache" / "index.json"
    document = json.loads(path.read_bytes())
    del document["database"]["installs"][GREET.hash]["spec"]["compiler"]
    path.write_text(json.dumps(document))
    assert mirror(copy).find(GREET).key == GREET


def test_says_once_that_the_layout_is_old() -> None:
    events: list[Event] = []
    cache = MirrorV2Cache(FileObjects(str(GOLDEN / "v2-unsigned")), observer=events.append)
    cache.read_index()
    cache.hashes()
    cache.find(GREET)
    assert len(events) == 1
    assert isinstance(events[0], Warned)
    assert "old layout 2" in events[0].text


def test_nothing_of_it_is_written_layout_3_goes_beside_it() -> None:
    def open_objects(url: str) -> FileObjects:
        return FileObjects(url.removeprefix("file://"))

    said: list[Any] = []
    opener = Opener(lambda _: MemoryStore(), lambda _: False, open_objects, lambda _: None, said.append)
    location, trust = parse_location(f"file://{GOLDEN}/v2-unsigned"), Trust(BELIEVING)
    assert isinstance(opener.writable(location, trust), MirrorCache)
    assert [event.text for event in said] == [f"{location.url} has the old layout 2: layout 3 is written beside it"]
    read = opener.cache(location, trust)
    for verb in ("publish", "upload", "merge_index", "remove"):
        assert not hasattr(read, verb)
