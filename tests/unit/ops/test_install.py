"""From a cache into a tree: what stands there afterwards, and what does not when something is wrong."""

import errno
import json
import os
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.archive import extract
from oci_binpkg.archive import layer_cache as layercache
from oci_binpkg.archive import received as receiving
from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layer_cache import LayerCache
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import (
    BinpkgError,
    ContentError,
    InstallsError,
    NetworkError,
    NoMatchError,
    NotFoundError,
    QueryError,
    RelocationError,
)
from oci_binpkg.events import BytesPacked, Warned
from oci_binpkg.installs.spack import SpackInstalls
from oci_binpkg.model.arch import this_platform
from oci_binpkg.model.content import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Blob
from oci_binpkg.model.image import PackageLayer, compose
from oci_binpkg.model.manifest import Manifest
from oci_binpkg.model.query import Query
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.ops.install import Installed, InstallOptions, install, install_resolved
from oci_binpkg.ops.layer_packer import LayerPacker
from oci_binpkg.ops.push import PushOptions, push, push_image
from oci_binpkg.ops.selection import select
from oci_binpkg.ops.sources import Sources
from oci_binpkg.ops.upkeep import uninstall, verify_store
from oci_binpkg.signing.statement import Signed
from oci_binpkg.store.images import read_image
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.times import SYSTEM_TIME, Time
from tests.support.golden import GOLDEN
from tests.support.memory_store import MemoryStore
from tests.support.signers import Verifies
from tests.support.spack_trees import Sketch, spack_tree

SKETCHES = [
    Sketch("zlib", "1.3", files={"lib/z.pc": "prefix={prefix}\n", "lib/libz.so": b"z"}, explicit=False),
    Sketch("cfg", "1.0", files={"etc/cfg": "root={root}\n"}, explicit=False),
    Sketch(
        "app",
        "2.0",
        files={"bin/app": "#!/bin/sh\ncat {zlib}/lib/z.pc\n", "lib/z": "-> {zlib}/lib", "share/same": "plain\n"},
        depends=["zlib", ("cfg", ("run",))],
    ),
]


@pytest.fixture
def tree(tmp_path):
    return spack_tree(tmp_path / "old" / "store", SKETCHES)


@pytest.fixture
def cache(tree, tmp_path):
    return pushed(tree, tmp_path, MemoryStore("first"))


def pushed(tree, tmp_path, store, *, index=True, codec="gzip"):
    cache = OciCache(store, pause=lambda _: None)
    installs = tree.installs()
    packer = LayerPacker(
        installs, LayerCache(str(tmp_path / "layers"), 2**30, time=Time(now=lambda: 0.0)), Codec.parse(codec)
    )
    report = push(installs, select(installs, []), cache, packer, options=PushOptions(update_index=index))
    assert report.exit_code == 0
    return cache


def target(tmp_path, name="new") -> SpackInstalls:
    return SpackInstalls(str(tmp_path / name), create=True)


def installed(cache, installs, *queries, observer=None, timer=SYSTEM_TIME.clock, **options):
    sources = Sources(cache if isinstance(cache, list) else [cache], observer or (lambda _: None))
    parsed = [Query.parse(query) for query in queries or ("app",)]
    how = InstallOptions(time=Time(now=lambda: 1000.0, clock=timer), **options)
    return install(installs, sources, parsed, how, observer or (lambda _: None))


def outcomes(report):
    return {result.spec.name: result.outcome.value for result in report.packages}


def prefix_of(installs, name):
    return Path(next(record.prefix for record in installs.records() if record.spec.name == name))


def test_a_package_and_all_it_needs_are_installed_relocated_and_recorded(cache, tree, tmp_path):
    new = target(tmp_path)
    report = installed(cache, new)
    assert outcomes(report) == {"zlib": "installed", "cfg": "installed", "app": "installed"}
    app, zlib = prefix_of(new, "app"), prefix_of(new, "zlib")
    assert app.is_relative_to(tmp_path / "new")
    assert subprocess.run([app / "bin/app"], capture_output=True, text=True, check=True).stdout == f"prefix={zlib}\n"
    assert os.readlink(app / "lib/z") == f"{zlib}/lib"
    assert (prefix_of(new, "cfg") / "etc/cfg").read_text() == f"root={tmp_path}/new\n"
    records = {record.spec.name: record for record in SpackInstalls(str(tmp_path / "new")).records()}
    assert {name: record.explicit for name, record in records.items()} == {"app": True, "zlib": False, "cfg": False}
    assert records["app"].installation_time == 1000.0
    assert all(verified.is_good for verified in verify_store(new))
    assert [name for name in os.listdir(app.parent) if name.startswith(".")] == []
    assert (
        str(tree.root)
        not in subprocess.run(
            ["grep", "-r", "--exclude-dir=.spack", str(tree.root), tmp_path / "new"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    )


def test_old_prefixes_are_found_where_what_was_looked_for_is_no_part_of_them(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "common_part", lambda _: b"/some/where/else")
    new = target(tmp_path)
    installed(cache, new)
    assert (prefix_of(new, "app") / "bin/app").read_text() == f"#!/bin/sh\ncat {prefix_of(new, 'zlib')}/lib/z.pc\n"


@pytest.mark.parametrize("codec", ["gzip:1", "zstd"])
def test_every_compression_installs(tree, tmp_path, codec):
    cache = pushed(tree, tmp_path, MemoryStore("z"), codec=codec)
    assert installed(cache, target(tmp_path)).exit_code == 0


def test_what_is_there_is_left_alone_and_force_replaces_what_is_named(cache, tmp_path):
    new = target(tmp_path)
    installed(cache, new, "zlib")
    marker = prefix_of(new, "zlib") / "marker"
    marker.write_text("mine")
    assert outcomes(installed(cache, new)) == {"zlib": "present", "cfg": "installed", "app": "installed"}
    assert marker.exists()
    assert outcomes(installed(cache, new, "app", force=True))["zlib"] == "present"
    assert outcomes(installed(cache, new, "zlib", force=True)) == {"zlib": "installed"}
    assert not marker.exists()
    assert all(verified.is_good for verified in verify_store(new))


def test_a_whole_name_needs_no_index(cache, tree, tmp_path):
    spec = tree.spec("app")
    asked = []

    class Counting(MemoryStore):
        def resolve(self, reference):
            asked.append(reference)
            return super().resolve(reference)

    store = Counting("counting")
    counting = pushed(tree, tmp_path, store, index=False)
    asked.clear()
    report = installed(counting, target(tmp_path), f"app@=2.0/{spec.hash}")
    assert report.exit_code == 0
    assert "index.spack" not in asked
    assert asked[0] == PackageKey.of(spec).tag


def test_without_an_index_the_packages_are_read(tree, tmp_path):
    cache = pushed(tree, tmp_path, MemoryStore("plain"), index=False)
    assert installed(cache, target(tmp_path)).exit_code == 0


class Broken(MemoryStore):
    """Unless healthy, every layer (not the index) turns out to be damaged."""

    healthy = True

    def open(self, descriptor):
        if not self.healthy and "tar" in descriptor.media_type:
            with super().open(descriptor) as stream:
                if stream.read(2) == b"\x1f\x8b":
                    raise ContentError(f"{descriptor.digest} is damaged")
        return super().open(descriptor)


class Down(MemoryStore):
    def resolve(self, reference):
        raise NetworkError("nobody answers")

    def tags(self):
        raise NetworkError("nobody answers")


@pytest.mark.covers("B14")
def test_the_next_cache_serves_what_the_first_has_not_or_has_damaged(tree, cache, tmp_path):
    empty = OciCache(MemoryStore("empty"), pause=lambda _: None)
    damaged = pushed(tree, tmp_path, Broken("damaged"))
    damaged.store.healthy = False
    down = OciCache(Down("down"), pause=lambda _: None)
    events: list[Any] = []
    report = installed([down, empty, damaged, cache], target(tmp_path), observer=events.append)
    assert outcomes(report) == {"zlib": "installed", "cfg": "installed", "app": "installed"}
    for result in report.packages:
        assert result.cache == "first"
        assert result.passed_over[0].startswith("down: nobody answers")
        assert result.passed_over[1] == "empty does not have it"
        assert "damaged" in result.passed_over[2]
    warnings = [event.text for event in events if isinstance(event, Warned)]
    assert any("down is passed over" in text for text in warnings)


def test_caches_that_all_fail_are_an_error(tmp_path):
    with pytest.raises(NetworkError):
        installed(OciCache(Down("down"), pause=lambda _: None), target(tmp_path))


def test_a_damaged_package_fails_with_what_needs_it_and_leaves_nothing(tree, tmp_path):
    store = Broken("damaged")
    cache = pushed(tree, tmp_path, store)
    new = target(tmp_path)
    installed(cache, new, "cfg")
    store.healthy = False
    report = installed(cache, new)
    assert outcomes(report) == {"cfg": "present", "zlib": "failed", "app": "failed"}
    assert report.exit_code == 10
    assert [record.spec.name for record in new.records() if record.installed] == ["cfg"]
    folder = prefix_of(new, "cfg").parent
    assert sorted(os.listdir(folder)) == [prefix_of(new, "cfg").name]
    store.healthy = True
    assert installed(cache, new).exit_code == 0


@pytest.mark.covers("B44")
def test_a_missing_dependency_is_refused_or_left_out(tree, cache, tmp_path):
    cache.store.remove(PackageKey.of(tree.spec("zlib")).tag)
    new = target(tmp_path)
    with pytest.raises(NotFoundError, match="zlib@1"):
        installed(cache, new)
    assert not (tmp_path / "new").exists()
    events: list[Any] = []
    report = installed(cache, new, allow_missing=True, observer=events.append)
    assert outcomes(report) == {"zlib": "missing", "cfg": "installed", "app": "installed"}
    assert (prefix_of(new, "app") / "bin/app").read_text().count(str(tmp_path / "new")) == 1
    assert any("left out" in event.text for event in events if isinstance(event, Warned))


def test_a_root_that_is_missing_is_never_left_out(tree, cache, tmp_path):
    cache.store.remove(PackageKey.of(tree.spec("app")).tag)
    with pytest.raises(NotFoundError, match="app@2"):
        installed(cache, target(tmp_path), allow_missing=True)


def test_a_dry_run_writes_nothing(cache, tmp_path):
    report = installed(cache, target(tmp_path), dry_run=True)
    assert set(outcomes(report).values()) == {"planned"}
    assert not (tmp_path / "new").exists()


def test_queries_must_mean_one_package(cache, tmp_path):
    with pytest.raises(NoMatchError):
        installed(cache, target(tmp_path), "nothing")
    with pytest.raises(QueryError):
        install(target(tmp_path), Sources([cache]), [])


def test_an_interrupt_leaves_nothing_half_installed(cache, tmp_path):
    def interrupt(event):
        if isinstance(event, BytesPacked):
            raise KeyboardInterrupt

    new = target(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        installed(cache, new, observer=interrupt, jobs=1)
    found = [name for _, names, files in os.walk(tmp_path / "new") for name in (*names, *files)]
    assert not [name for name in found if "app" in name or "zlib" in name or name.startswith(".oci-binpkg")]
    assert installed(cache, new).exit_code == 0


def test_what_a_killed_process_left_is_swept_away(cache, tmp_path):
    new = target(tmp_path)
    folder = tmp_path / "new" / "linux-x86_64"
    (folder / ".oci-binpkg-dead-1" / "prefix").mkdir(parents=True)
    leftover = Path(new.prefix_for(next(iter(cache.read_index().packages()))))
    leftover.mkdir(parents=True)
    (leftover / "junk").write_text("from a kill between rename and record")
    (leftover / ".spack").mkdir()
    (leftover / ".spack" / "spec.json").write_text(json.dumps({"hash": leftover.name[-32:]}))
    assert installed(cache, new).exit_code == 0
    assert not (folder / ".oci-binpkg-dead-1").exists()
    assert not (leftover / "junk").exists()


def test_what_was_left_by_a_kill_at_the_very_end_is_swept_away_too(cache, tmp_path):
    new = target(tmp_path)
    installed(cache, new)
    left = tmp_path / "new" / "linux-x86_64" / ".oci-binpkg-dead-1"
    left.mkdir()
    assert set(outcomes(installed(cache, new)).values()) == {"present"}
    assert not left.exists()


@pytest.mark.parametrize("failing", ["the copy", "the move", "the record"])
def test_an_install_does_not_fail_for_a_layer_cache_that_is_full(cache, tmp_path, monkeypatch, failing):
    layers = LayerCache(str(tmp_path / "kept"), 2**30, time=Time(now=lambda: 0.0))

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class FullFile:
        write = full
        close = full

    events: list[Any] = []
    with monkeypatch.context() as patch:
        if failing == "the copy":
            patch.setattr(receiving, "open", lambda *_: FullFile(), raising=False)
        elif failing == "the move":
            patch.setattr(shutil, "move", full)
        else:
            patch.setattr(layercache, "encode_record", full)
        report = installed(cache, target(tmp_path), observer=events.append, layers=layers)
    assert report.exit_code == 0
    assert set(outcomes(report).values()) == {"installed"}
    assert all(each.is_good for each in verify_store(target(tmp_path)))
    warnings = [event.text for event in events if isinstance(event, Warned) and "layer cache" in event.text]
    assert len(warnings) == (0 if failing == "the copy" else 3)
    assert all("is not kept: layer cache" in text and "No space left" in text for text in warnings)
    assert not list((tmp_path / "new").rglob(".oci-binpkg-*"))


def test_another_process_that_was_faster_is_respected(cache, tmp_path):
    one, two = target(tmp_path), target(tmp_path)
    installed(cache, one)
    report = installed(cache, two)
    assert set(outcomes(report).values()) == {"present"}


def test_installing_and_pushing_again_gives_the_same_layers(cache, tree, tmp_path):
    layers = {
        result.spec.name: cache.find(PackageKey.of(result.spec)).layer.diff_id
        for result in installed(cache, target(tmp_path, "x")).packages
    }
    shutil.rmtree(tree.root)
    same = SpackInstalls(str(tree.root), create=True)
    assert installed(cache, same).exit_code == 0
    again = pushed(tree, tmp_path / "other", MemoryStore("again"))
    assert {name: again.find(PackageKey.of(tree.spec(name))).layer.diff_id for name in layers} == layers


def test_a_layer_installed_where_it_was_made_is_pushed_as_it_came(cache, tree, tmp_path):
    layers = LayerCache(str(tmp_path / "received"), 2**30, time=Time(now=lambda: 0.0))
    shutil.rmtree(tree.root)
    same = SpackInstalls(str(tree.root), create=True)
    report = installed(cache, same, layers=layers)
    came = {r.spec.name: cache.find(PackageKey.of(r.spec)).layer.blob.descriptor.digest for r in report.packages}
    packer = LayerPacker(same, layers, Codec.parse("gzip:9"))
    again = OciCache(MemoryStore("again"), pause=lambda _: None)
    pushed_again = push(same, select(same, []), again, packer)
    assert {result.spec.name: result.layer for result in pushed_again.packages} == came
    assert all(result.reused for result in pushed_again.packages)
    (prefix_of(same, "zlib") / "lib/libz.so").write_bytes(b"changed")
    record = same.record(tree.hashes["zlib"])
    assert record
    assert packer(record).layer.blob.descriptor.digest != came["zlib"]


def test_a_relocated_package_is_pushed_as_the_layer_it_came_as(cache, tree, tmp_path):
    layers = LayerCache(str(tmp_path / "received"), 2**30, time=Time(now=lambda: 0.0))
    new = target(tmp_path)
    report = installed(cache, new, layers=layers)
    came = {r.spec.name: cache.find(PackageKey.of(r.spec)).layer.blob.descriptor.digest for r in report.packages}
    again = OciCache(MemoryStore("again"), pause=lambda _: None)
    pushed_again = push(new, select(new, []), again, LayerPacker(new, layers, Codec.parse("gzip")))
    assert {result.spec.name: result.layer for result in pushed_again.packages} == came
    assert all(result.reused and not result.missing for result in pushed_again.packages)
    image = read_image(again.store, PackageKey.of(tree.spec("app")).tag)
    path = next(text for text in image.config.env if text.startswith("PATH="))
    assert path.startswith(f"PATH={tree.prefix('app')}/bin:")  # where its layer has it, not where it was relocated to


def test_uninstall_refuses_what_is_needed(cache, tmp_path):
    new = target(tmp_path)
    installed(cache, new)
    with pytest.raises(InstallsError, match="still needed by app@2"):
        uninstall(new, [Query.parse("zlib")])
    assert [spec.name for spec in uninstall(new, [Query.parse("app")])] == ["app"]
    assert not any("app" in name for name in os.listdir(tmp_path / "new" / "linux-x86_64"))
    installed(cache, new)
    removed = uninstall(new, [Query.parse("zlib")], dependents=True)
    assert [spec.name for spec in removed] == ["app", "zlib"]
    assert [record.spec.name for record in new.records() if record.installed] == ["cfg"]
    assert installed(cache, new).exit_code == 0


def test_verify_store_finds_what_changed(cache, tmp_path):
    new = target(tmp_path)
    installed(cache, new)
    (prefix_of(new, "zlib") / "lib/libz.so").write_bytes(b"Z")
    (prefix_of(new, "cfg") / ".spack/install_manifest.json").unlink()
    found = {verified.spec.name: verified for verified in verify_store(new)}
    assert [finding.path for finding in found["zlib"].findings] == ["lib/libz.so"]
    assert "install_manifest" in found["cfg"].unverifiable
    assert found["app"].is_good
    assert [verified.spec.name for verified in verify_store(new, [Query.parse("app")])] == ["app"]


@pytest.fixture
def short():
    """A folder whose name is short enough for constants in the golden binaries."""
    with tempfile.TemporaryDirectory(prefix="i", dir="/tmp") as folder:
        yield Path(folder)


def test_the_packages_of_an_image_are_installed(short):
    golden = OciCache(LayoutStore(str(GOLDEN / "oci-layout")), pause=lambda _: None)
    sources = Sources([golden])
    resolution = sources.resolve_image("both")
    assert sorted(root.short for root in resolution.roots) == ["greet@2.0/6fytamq", "greet@2.1/pciyz3m"]
    new = target(short, "n")
    report = install_resolved(new, sources, resolution, InstallOptions(allow_missing=True))
    assert sum(result.outcome is Installed.INSTALLED for result in report.packages) == 5
    with pytest.raises(BinpkgError):
        sources.resolve_image("index.spack")


class Opened(MemoryStore):
    """Remembers which content was asked for."""

    def __init__(self):
        super().__init__("counted")
        self.opened = set()

    def open(self, descriptor):
        self.opened.add(descriptor.digest)
        return super().open(descriptor)


def with_image(tree, tmp_path, store, *, index=True):
    """Push all packages, and an image of them."""
    cache = pushed(tree, tmp_path, store, index=index)
    installs = tree.installs()
    packer = LayerPacker(
        installs, LayerCache(str(tmp_path / "layers"), 2**30, time=Time(now=lambda: 0.0)), Codec.parse("gzip")
    )
    push_image(installs, select(installs, []), cache, packer, "all")
    return cache


def test_the_packages_of_our_own_image_are_told_by_it_and_the_index(tree, tmp_path):
    store = Opened()
    cache = with_image(tree, tmp_path, store)
    entries = {name: cache.find(PackageKey.of(tree.spec(name))) for name in tree.hashes}
    store.opened.clear()
    sources = Sources([cache])
    resolution = sources.resolve_image("all")
    assert not store.opened & {entry.manifest for entry in entries.values()}
    read = Sources([with_image(tree, tmp_path, MemoryStore("unlisted"), index=False)])
    assert read.resolve_image("all") == resolution
    for name, entry in entries.items():
        found = next(sources.candidates(tree.spec(name), [])).entry
        assert (found.key, found.document) == (entry.key, entry.document)
        assert (found.layer.diff_id, found.layer.blob.descriptor) == (
            entry.layer.diff_id,
            entry.layer.blob.descriptor,
        )
    report = install_resolved(target(tmp_path), sources, resolution)
    assert outcomes(report) == {"zlib": "installed", "cfg": "installed", "app": "installed"}


def test_where_signatures_count_every_package_of_an_image_is_looked_at(tree, tmp_path):
    store, looked = MemoryStore("signed"), []
    with_image(tree, tmp_path, store)

    def verify(_data, _signatures, what, accept):
        looked.append(what)
        return Signed("key")

    checked = OciCache(store, pause=lambda _: None, verifier=Verifies(judged=verify))
    Sources([checked]).resolve_image("all")
    assert len(looked) == len(tree.hashes) + 1  # the image itself, too


@pytest.mark.parametrize("index", ["damaged", "without a package", "without its spec"])
def test_an_index_that_does_not_tell_all_of_an_image_is_passed_over(tree, tmp_path, index):
    cache = with_image(tree, tmp_path, MemoryStore("poor"))
    kept = json.loads(cache.read_index().to_bytes())
    zlib = kept["database"]["installs"][tree.hashes["zlib"]]
    zlib["in_buildcache"] = False
    if index == "without its spec":
        del kept["database"]["installs"][tree.hashes["zlib"]]
    data = b"[]" if index == "damaged" else json.dumps(kept).encode()
    document, config = Blob.from_bytes(data, OCI_LAYER_GZIP), Blob.from_bytes(b"{}", OCI_CONFIG)
    cache.store.put(document)
    cache.store.put(config)
    manifest = Manifest(OCI_MANIFEST, config.descriptor, (document.descriptor,))
    cache.store.tag(Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST), "index.spack")
    fresh = OciCache(cache.store, pause=lambda _: None)
    sources = Sources([fresh])
    report = install_resolved(target(tmp_path), sources, sources.resolve_image("all"))
    assert outcomes(report) == {"zlib": "installed", "cfg": "installed", "app": "installed"}


def test_an_image_that_calls_a_layer_another_package_is_found_out(cache, tree, tmp_path):
    zlib, cfg = (cache.find(PackageKey.of(tree.spec(name))) for name in ("zlib", "cfg"))
    image = compose([PackageLayer("zlib", "1.3", zlib.key.hash, cfg.layer)], this_platform())
    cache.publish_image(image, "lie")
    sources = Sources([cache])
    report = install_resolved(target(tmp_path), sources, sources.resolve_image("lie"))
    assert outcomes(report) == {"zlib": "failed"}
    assert "holds another package" in report.packages[0].error.message


def test_packages_that_end_at_about_the_same_time_are_recorded_together(cache, tmp_path):
    writes = []
    new = SpackInstalls(str(tmp_path / "new"), create=True, new_verifier=lambda: writes.append(1) or "v")
    hours = count(step=3600.0)
    assert installed(cache, new, jobs=1, timer=lambda: float(next(hours))).exit_code == 0
    assert len(writes) <= 2  # the first package at once, the others when the last one is ready


@pytest.mark.covers("B45")
def test_a_constant_without_room_stops_the_package_and_says_what_would_fit(tmp_path):
    golden = OciCache(LayoutStore(str(GOLDEN / "oci-layout")), pause=lambda _: None)
    new = target(tmp_path, "a-much-longer-name-than-the-one-it-was-built-under")
    report = installed(golden, new, "greet@2.0", allow_missing=True)
    failed = next(result for result in report.packages if result.spec.name == "greetlib")
    assert isinstance(failed.error, RelocationError)
    assert "at most 17 bytes" in failed.error.hint
    assert outcomes(report)["greetcfg"] == "installed"
    assert not [path for path in Path(new.root).rglob("*greetlib*") if ".spack-db" not in path.parts]
    assert [record.spec.name for record in new.records() if record.installed] == ["greetcfg"]
    stale = installed(golden, new, "greet@2.0", allow_missing=True, allow_stale=True)
    remarks = [remark for result in stale.packages for remark in result.remarks]
    assert any("still holds" in remark for remark in remarks)


def test_a_record_that_is_a_link_does_not_lead_out_of_the_tree(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    files = {"etc/x": "{prefix}\n", ".spack/install_manifest.json": f"-> {victim}"}
    tree = spack_tree(tmp_path / "old" / "store", [Sketch("evil", files=files)])
    new = target(tmp_path)
    assert installed(pushed(tree, tmp_path, MemoryStore("evil")), new, "evil").exit_code == 0
    assert victim.read_text() == "precious"
    assert not (prefix_of(new, "evil") / ".spack/install_manifest.json").is_symlink()
    assert all(verified.is_good for verified in verify_store(new))


def test_scripts_with_long_interpreter_lines_get_our_sbang(tmp_path):
    script = "#!/bin/sh {root}/bin/sbang\n#!{prefix}/bin/interp -x\nanything\n"
    files = {"bin/script": script, "bin/interp": '#!/bin/sh\necho interp "$@"\n'}
    tree = spack_tree(tmp_path / "old" / "store", [Sketch("tool", files=files)])
    new = target(tmp_path)
    installed(pushed(tree, tmp_path, MemoryStore("tool")), new, "tool")
    done = subprocess.run([prefix_of(new, "tool") / "bin/script", "arg"], capture_output=True, text=True, check=False)
    prefix = prefix_of(new, "tool")
    assert (done.stdout, done.stderr) == (f"interp -x {prefix}/bin/script arg\n", "")
    assert os.access(tmp_path / "new" / "bin" / "sbang", os.X_OK)
