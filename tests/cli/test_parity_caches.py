"""What Spack's users expect of caches, as whole commands: keys, parts that are gone, tags, indices of empty caches."""

import hashlib
import json
import shutil

import pytest

from oci_binpkg.cache.mirror_keys import publish_keys, published_keys
from oci_binpkg.model.content import OCI_CONFIG, OCI_INDEX, Blob, Descriptor, Platform
from oci_binpkg.model.manifest import Index, Manifest, parse_manifest
from oci_binpkg.model.reference import INDEX_TAG
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.store.images import blob_of, read_image
from oci_binpkg.store.layout import LayoutStore
from tests.support.command_line import binpkg
from tests.support.fake_registry import FakeRegistry
from tests.support.golden import GOLDEN
from tests.support.signed_caches import home, ran
from tests.support.spack_trees import Sketch, spack_tree

__all__ = ["home"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z"}, explicit=False),
        Sketch("app", "2.0", files={"bin/a": b"a"}, depends=["zlib"]),
    ]
    return spack_tree(tmp_path_factory.mktemp("tree") / "store", sketches)


def layout_of(cache):
    return LayoutStore(cache.removeprefix("oci-layout:"))


def tag_of(cache, name):
    (tag,) = (tag for tag in layout_of(cache).tags() if tag.startswith(f"{name}-"))
    return tag


def indexed(cache):
    return sorted(each["name"] for each in ran("find", "--from", cache, "--json").json)


# P05


@pytest.mark.covers("P05")
def test_packages_that_are_there_unsigned_are_signed_and_their_layers_stay(tree, home, tmp_path):
    home.make("ci")
    for cache in (f"file://{tmp_path}/mirror", f"oci-layout:{tmp_path}/layout"):
        ran("push", cache, "--store", tree.root, "--unsigned")
        again = ran("push", cache, "--store", tree.root, "--key", "ci@example.org", "--json").json
        assert [(each["outcome"], each["sent"]) for each in again["packages"]] == [("pushed", False)] * 2
        once_more = ran("push", cache, "--store", tree.root, "--key", "ci@example.org", "--json").json
        assert {each["outcome"] for each in once_more["packages"]} == {"skipped"}


@pytest.mark.covers("P05")
def test_a_name_that_fits_several_keys_lists_them_and_nothing_is_packed(tree, home, tmp_path):
    keys = [home.make("ci-one"), home.make("ci-two")]
    ended = binpkg("push", f"file://{tmp_path}/mirror", "--store", tree.root, "--key", "example.org")
    assert ended.code == 15
    assert all(key in ended.err for key in keys)
    assert not (tmp_path / "mirror").exists()


@pytest.mark.covers("P05")
def test_a_key_that_cannot_sign_is_found_out_before_anything_is_packed(tree, home, tmp_path):
    home.make("ci")
    ended = binpkg("push", f"oci-layout:{tmp_path}/layout", "--store", tree.root, "--key", "nobody@example.org")
    assert ended.code == 15
    assert not (tmp_path / "layout").exists()


@pytest.mark.covers("P05")
def test_the_only_secret_key_is_taken_and_named(tree, home, tmp_path):
    key = home.make("ci")
    pushed = ran("push", f"file://{tmp_path}/mirror", "--store", tree.root)
    assert key in pushed.err
    manifests = list((tmp_path / "mirror/v3/manifests/spec").rglob("*.json"))
    assert [path for path in manifests if b"BEGIN PGP SIGNED MESSAGE" not in path.read_bytes()] == []
    home.make("other")
    refused = binpkg("push", f"file://{tmp_path}/second", "--store", tree.root)
    assert (refused.code, (tmp_path / "second").exists()) == (2, False)
    config = tmp_path / "config.toml"
    config.write_text(f'signing_key = "{key}"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCI_BINPKG_CONFIG", str(config))
        ran("push", f"file://{tmp_path}/second", "--store", tree.root)
    assert (tmp_path / "second/v3/manifests/key" / f"{key}.key.manifest.json").exists()


# P06


@pytest.mark.covers("P06")
@pytest.mark.parametrize("kind", ["layout", "mirror"])
def test_a_package_without_its_layer_is_not_there_and_a_push_sends_exactly_that_layer(tree, tmp_path, kind):
    cache = f"oci-layout:{tmp_path}/cache" if kind == "layout" else f"file://{tmp_path}/cache"
    ran("push", cache, "--store", tree.root, "--unsigned")
    before = {path: path.read_bytes() for path in (tmp_path / "cache/blobs").rglob("*") if path.is_file()}
    layers = [path for path, data in before.items() if data[:2] == b"\x1f\x8b" and b"nodes" not in data]
    lost = max(layers, key=lambda path: len(before[path]))
    lost.unlink()
    lacking = binpkg("check", "--store", tree.root, "--on", cache, "--json", "--no-check-signature")
    assert lacking.code == 1
    assert len(lacking.json[0]["rebuildSpecs"]) == 1
    again = ran("push", cache, "--store", tree.root, "--unsigned", "--json").json
    assert [each["sent"] for each in again["packages"] if each["outcome"] == "pushed"] == [True]
    assert lost.read_bytes() == before[lost]


@pytest.mark.covers("P06")
def test_packages_that_are_there_cost_few_requests_however_many_they_are(tmp_path):
    many = [Sketch(f"p{number}", "1.0", files={"f": b"%d" % number}) for number in range(60)]
    tree = spack_tree(tmp_path / "store", many)
    with FakeRegistry() as registry:
        cache = f"oci://{registry.host}/apps"
        ran("push", cache, "--store", tree.root)
        registry.clear()
        assert "60 skipped" in ran("push", cache, "--store", tree.root).err
        assert len(registry.log) < 25
        registry.clear()
        ran("check", "--store", tree.root, "--on", cache)
        assert len(registry.log) < 25
        ran("check", "--store", tree.root, "--on", cache, "--thorough")
        assert len({each.path for each in registry.log if "/manifests/" in each.path}) >= 60


@pytest.mark.covers("P06")
@pytest.mark.parametrize("steps", ["one push", "two pushes"])
def test_an_image_that_can_be_completed_is_completed(tree, tmp_path, steps):
    cache = f"oci-layout:{tmp_path}/cache"
    ran("push", cache, "app", "--only", "package", "--store", tree.root)
    assert len(read_image(layout_of(cache), tag_of(cache, "app")).manifest.layers) == 1
    if steps == "two pushes":
        ran("push", cache, "zlib", "--store", tree.root)
    ran("push", cache, "--store", tree.root)
    assert len(read_image(layout_of(cache), tag_of(cache, "app")).manifest.layers) == 2
    assert "2 skipped" in ran("push", cache, "--store", tree.root).err


@pytest.mark.covers("P06")
def test_an_image_in_a_registry_is_completed_when_its_dependency_comes(tree):
    with FakeRegistry() as registry:
        cache = f"oci://{registry.host}/apps"
        ran("push", cache, "app", "--only", "package", "--store", tree.root)
        assert "2 pushed" in ran("push", cache, "--store", tree.root).err


# P07


@pytest.mark.covers("P07")
def test_several_keys_are_published_on_several_mirrors_and_a_new_one_gets_its_layout(home, tmp_path):
    keys = sorted([home.make("ci"), home.make("night")])
    mirrors = [f"file://{tmp_path}/{name}" for name in ("a", "b")]
    ran("keys", "publish", *mirrors, "--key", "ci@example.org", "--key", "night@example.org")
    for name in ("a", "b"):
        assert sorted(published_keys(FileObjects(str(tmp_path / name)))) == keys
        assert json.loads((tmp_path / name / "v3/layout.json").read_bytes()) == {"signing": "gpg"}


@pytest.mark.covers("P07")
def test_a_mirror_of_layout_2_stays_readable_when_a_key_is_published(home, tmp_path):
    shutil.copytree(GOLDEN / "v2-signed", tmp_path / "m")
    before = indexed_without_signatures(f"file://{tmp_path}/m")
    key = home.make("ci")
    ran("keys", "publish", f"file://{tmp_path}/m", "--key", key)
    assert not (tmp_path / "m/v3").exists()
    assert indexed_without_signatures(f"file://{tmp_path}/m") == before
    listed = json.loads((tmp_path / "m/build_cache/_pgp/index.json").read_bytes())["keys"]
    assert key in listed
    assert len(listed) > 1


def indexed_without_signatures(cache):
    return [each["hash"] for each in ran("find", "--from", cache, "--json", "--no-check-signature").json]


@pytest.mark.covers("P07")
def test_a_listed_key_that_is_missing_stops_no_other_and_the_list_is_made_of_what_is_there(tmp_path):
    objects = FileObjects(str(tmp_path))
    publish_keys(objects, {"A" * 40: b"a", "B" * 40: b"b"})
    (tmp_path / "v3/manifests/key" / f"{'A' * 40}.key.manifest.json").unlink()
    assert published_keys(objects) == {"B" * 40: b"b"}
    (tmp_path / "v3/manifests/key/keys.manifest.json").unlink()
    publish_keys(objects, {"C" * 40: b"c"})
    assert published_keys(objects) == {"B" * 40: b"b", "C" * 40: b"c"}


@pytest.mark.covers("P07")
def test_a_signed_push_publishes_the_public_key_unless_told_not_to(tree, home, tmp_path):
    key = home.make("ci")
    ran("push", f"file://{tmp_path}/a", "--store", tree.root, "--key", key)
    assert list(published_keys(FileObjects(str(tmp_path / "a")))) == [key]
    ran("push", f"file://{tmp_path}/b", "--store", tree.root, "--key", key, "--no-publish-key")
    assert published_keys(FileObjects(str(tmp_path / "b"))) == {}


# P10


def with_config(cache, name, **members):
    """Give the package `name` of a layout a configuration with other members."""
    store = layout_of(cache)
    image = read_image(store, tag_of(cache, name))
    document = {**json.loads(image.config_bytes), **members}
    config = Blob.from_bytes(json.dumps(document).encode(), OCI_CONFIG)
    manifest = Manifest(image.descriptor.media_type, config.descriptor, image.manifest.layers)
    store.put(config)
    store.tag(Blob.from_bytes(manifest.to_bytes(), image.descriptor.media_type), tag_of(cache, name))


@pytest.mark.covers("P10")
def test_a_package_of_a_newer_layout_is_left_to_the_next_cache_and_never_installed(tree, tmp_path):
    new, old = f"oci-layout:{tmp_path}/new", f"oci-layout:{tmp_path}/old"
    for cache in (new, old):
        ran("push", cache, "--store", tree.root, "--update-index")
    with_config(new, "zlib", buildcache_layout_version=4)
    alone = binpkg("install", "zlib", "--from", new, "--store", tmp_path / "one")
    assert alone.code != 0
    assert "layout 4" in alone.out + alone.err
    assert not list((tmp_path / "one").glob("*/zlib*"))
    for number, query in enumerate(("zlib", f"zlib@1.3/{tree.hashes['zlib']}")):
        both = ran("install", query, "--from", new, "--from", old, "--store", tmp_path / f"two{number}")
        assert both.err.count("layout 4") == 1


@pytest.mark.covers("P10")
@pytest.mark.parametrize(
    "tag", ["index.spack", "mine.spack", f"sha256-{'a' * 64}", f"sha256-{'a' * 64}.sig", f"sha512-{'0' * 64}"]
)
def test_tags_with_a_meaning_are_refused_for_images(tree, tmp_path, tag):
    cache = f"oci-layout:{tmp_path}/cache"
    for command in (("push", cache), ("image", cache, "app")):
        ended = binpkg(*command, "--store", tree.root, "--tag", tag)
        assert ended.code == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.covers("P10")
def test_an_index_tag_that_is_an_image_for_several_platforms_stops_no_update(tree, tmp_path):
    cache = f"oci-layout:{tmp_path}/cache"
    ran("push", cache, "zlib", "--store", tree.root)
    store = layout_of(cache)
    child = store.resolve(tag_of(cache, "zlib"))
    entry = Descriptor(child.media_type, child.digest, child.size, Platform("linux", "amd64"))
    store.tag(Blob.from_bytes(Index(OCI_INDEX, (entry,)).to_bytes(), OCI_INDEX), INDEX_TAG)
    ran("push", cache, "--store", tree.root, "--update-index")
    assert indexed(cache) == ["app", "zlib"]


# P17


@pytest.mark.covers("P17")
@pytest.mark.parametrize("command", ["rebuild", "update"])
def test_an_empty_cache_gets_an_empty_index(tmp_path, command):
    for cache in (f"oci-layout:{tmp_path}/layout", f"file://{tmp_path}/mirror"):
        ended = ran("index", command, cache)
        assert "empty" in ended.err
    manifest = (tmp_path / "mirror/v3/manifests/index/index.manifest.json").read_bytes()
    digest = json.loads(manifest)["data"][0]["checksum"]
    document = json.loads((tmp_path / "mirror/blobs/sha256" / digest[:2] / digest).read_bytes())
    assert document["database"] == {"version": "8", "installs": {}}
    store = LayoutStore(str(tmp_path / "layout"))
    assert read_index_text(store) == document


def read_index_text(store):
    manifest = parse_manifest(blob_of(store, store.resolve(INDEX_TAG)).read(), "the index")
    return json.loads(blob_of(store, manifest.layers[0]).read())


@pytest.mark.covers("P17")
def test_how_long_an_index_is_believed_is_configured(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(tmp_path / "config.toml"))
    cache = f"oci-layout:{tmp_path}/cache"
    found = {}
    for ttl in (600, 0):
        (tmp_path / "config.toml").write_text(f'index_ttl = {ttl}\n[caches.lab]\nurl = "{cache}"\n')
        if ttl:
            ran("push", cache, "zlib", "--store", tree.root, "--update-index")
            ran("search", "--all-arch")
            ran("push", cache, "--store", tree.root, "--update-index")
        found[ttl] = sorted(each["name"] for each in ran("search", "--all-arch", "--json").json)
    assert found == {600: ["zlib"], 0: ["app", "zlib"]}


# P26


@pytest.mark.covers("P26")
@pytest.mark.parametrize("kind", ["mirror", "layout"])
def test_the_index_also_gets_what_others_pushed_without_entering_it(tree, tmp_path, kind):
    cache = f"file://{tmp_path}/cache" if kind == "mirror" else f"oci-layout:{tmp_path}/cache"
    ran("push", cache, "zlib", "--store", tree.root, "--unsigned")
    ran("push", cache, "app", "--only", "package", "--store", tree.root, "--unsigned", "--update-index")
    listed = ran("find", "--from", cache, "--json", "--no-check-signature").json
    assert sorted(each["name"] for each in listed) == ["app", "zlib"]


@pytest.mark.covers("P26")
def test_a_signed_index_stays_signed_when_a_package_is_only_pushed_anew(tree, home, tmp_path):
    cache = f"file://{tmp_path}/cache"
    home.make("ci")
    ran("push", cache, "--store", tree.root, "--key", "ci", "--update-index")
    index = tmp_path / "cache/v3/manifests/index/index.manifest.json"
    signed = index.read_bytes()
    assert b"BEGIN PGP SIGNED MESSAGE" in signed
    ran("push", cache, "zlib", "--store", tree.root, "--key", "ci", "--force", "--update-index")
    ran("push", cache, "zlib", "--store", tree.root, "--unsigned", "--force", "--update-index")
    assert index.read_bytes() == signed


@pytest.mark.covers("P26")
def test_what_a_mirror_does_not_know_is_not_shown():
    mirror, layout = f"file://{GOLDEN}/v3-unsigned", f"oci-layout:{GOLDEN}/oci-layout"
    shown = ran("show", "greetlib@1.2.0", "--from", mirror, "--no-check-signature")
    assert "diff_id" not in shown.out
    assert "0 layers" not in shown.out
    assert "diff_id" in ran("show", "greetlib@1.2.0", "--from", layout).out
    assert "image_layers" not in ran("show", "greetlib@1.2.0", "--from", mirror, "--no-check-signature", "--json").json


# P28


@pytest.mark.covers("P28")
def test_a_dependency_that_is_gone_makes_the_push_end_with_1_and_the_rest_is_there(tmp_path):
    tree = spack_tree(tmp_path / "store", [Sketch("zlib", explicit=False), Sketch("app", depends=["zlib"])])
    shutil.rmtree(tree.prefix("zlib"))
    for cache in (f"oci-layout:{tmp_path}/layout", f"file://{tmp_path}/mirror"):
        ended = binpkg("push", cache, "--store", tree.root, "--unsigned", "--json")
        assert ended.code == 1
        assert {each["name"]: each["outcome"] for each in ended.json["packages"]} == {"zlib": "gone", "app": "pushed"}
    assert tag_of(f"oci-layout:{tmp_path}/layout", "app")


@pytest.mark.covers("P28")
def test_a_mirror_whose_last_package_was_removed_gets_an_empty_index(tree, tmp_path):
    cache = f"file://{tmp_path}/cache"
    ran("push", cache, "--store", tree.root, "--unsigned", "--update-index")
    shutil.rmtree(tmp_path / "cache/v3/manifests/spec")
    assert binpkg("index", "rebuild", cache, "--no-check-signature").code == 1  # what was listed is gone
    assert ran("find", "--from", cache, "--json", "--no-check-signature").json == []


# P29


@pytest.mark.covers("P29")
def test_a_mirror_refuses_zstd_once_and_before_anything_is_packed(tree, tmp_path):
    ended = binpkg(
        "push", f"file://{tmp_path}/cache", "--store", tree.root, "--unsigned", "--compression", "zstd", "--json"
    )
    assert ended.code == 2
    assert ended.err.count("holds gzip layers") == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.covers("P29")
def test_layers_for_a_registry_are_gzip_unless_told_otherwise(tree, tmp_path):
    media = {}
    for compression in ("", "zstd"):
        cache = f"oci-layout:{tmp_path}/cache{compression}"
        ran("push", cache, "zlib", "--store", tree.root, *(["--compression", compression] if compression else []))
        media[compression] = read_image(layout_of(cache), tag_of(cache, "zlib")).manifest.layers[0].media_type
    assert media[""].endswith("+gzip")
    assert media["zstd"].endswith("+zstd")


# P15


@pytest.fixture
def both(tree, tmp_path):
    """A mirror of layout 2 that was pushed to."""
    shutil.copytree(GOLDEN / "v2-unsigned", tmp_path / "m")
    cache = f"file://{tmp_path}/m"
    pushed = ran("push", cache, "--store", tree.root, "--unsigned", "--update-index")
    assert "layout 3 is written beside it" in pushed.err
    return cache


@pytest.mark.covers("P15")
def test_a_push_to_layout_2_writes_layout_3_beside_it_and_both_are_read(both, tmp_path):
    listed = {each["name"] for each in ran("find", "--from", both, "--json", "--no-check-signature").json}
    assert {"app", "zlib", "greet", "greetlib", "greetcfg"} <= listed
    for query in ("app", "greetcfg"):
        ran("install", query, "--from", both, "--store", tmp_path / "new", "--no-check-signature", "--allow-missing")
    for index in (tmp_path / "m/v3/manifests/index/index.manifest.json", tmp_path / "m/build_cache/index.json"):
        index.unlink()
    again = {each["name"] for each in ran("find", "--from", both, "--json", "--no-check-signature").json}
    assert {"app", "zlib", "greet", "greetlib", "greetcfg"} <= again


@pytest.mark.covers("P15")
def test_the_index_of_layout_3_names_nothing_of_layout_2(both, tmp_path):
    for command in ("update", "rebuild"):
        ran("index", command, both, "--no-check-signature")
        shutil.move(tmp_path / "m/build_cache", tmp_path / "aside")
        listed = sorted(each["name"] for each in ran("find", "--from", both, "--json", "--no-check-signature").json)
        shutil.move(tmp_path / "aside", tmp_path / "m/build_cache")
        assert listed == ["app", "zlib"]


@pytest.mark.covers("P15")
def test_keys_of_both_layouts_are_seen(home, tmp_path):
    shutil.copytree(GOLDEN / "v2-signed", tmp_path / "m")
    old = set(published_keys(FileObjects(str(tmp_path / "m"))))
    (tmp_path / "m/v3").mkdir()
    (tmp_path / "m/v3/layout.json").write_text('{"signing": "gpg"}')
    new = home.make("ci")
    ran("keys", "publish", f"file://{tmp_path}/m", "--key", new)
    assert {each["fingerprint"] for each in ran("keys", "fetch", f"file://{tmp_path}/m", "--json").json} == {*old, new}


@pytest.mark.covers("P15")
def test_what_both_layouts_have_is_taken_from_layout_3(tmp_path):
    shutil.copytree(GOLDEN / "v2-unsigned", tmp_path / "m")
    cache = f"file://{tmp_path}/m"
    ran("copy", f"file://{GOLDEN}/v2-unsigned", cache, "greetcfg", "--no-check-signature", "--unsigned")
    shown = ran("show", "greetcfg", "--from", cache, "--no-check-signature", "--json").json
    manifests = [path.read_bytes() for path in (tmp_path / "m/v3/manifests/spec/greetcfg").iterdir()]
    assert shown["digest"] in [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in manifests]
