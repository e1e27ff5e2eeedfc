"""The command line over install trees and OCI layouts: what a user types and what a user sees."""

import json
from dataclasses import replace

import pytest

from oci_binpkg.model.content import OCI_MANIFEST, Blob
from oci_binpkg.model.manifest import Manifest
from oci_binpkg.store.layout import LayoutStore
from tests.support.command_line import binpkg
from tests.support.golden import GOLDEN
from tests.support.spack_trees import Sketch, spack_tree
from tests.support.stores import put_image, small_image

LAYOUT = f"oci-layout:{GOLDEN / 'oci-layout'}"
COMMANDS = ["push", "image", "find", "show", "inspect", "load", "run", "login", "logout", "version"]


@pytest.fixture
def tree(tmp_path):
    sketches = [
        Sketch("zlib", "1.3", files={"lib/libz.so": b"z" * 100}, explicit=False),
        Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\necho {zlib}\n"}, depends=["zlib"]),
        Sketch("app", "1.0"),
    ][:2]
    return spack_tree(tmp_path / "store", sketches)


@pytest.fixture
def cache(tmp_path):
    return f"oci-layout:{tmp_path / 'cache'}"


def test_version():
    assert binpkg("version").out.startswith("oci-binpkg 0.")
    assert "version" in binpkg("version", "--json").json


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(command):
    ended = binpkg(command, "-h")
    assert ended.code == 0
    assert f"\n    oci-binpkg {command}" in ended.out


def test_push_then_find_show_and_inspect(tree, cache):
    pushed = binpkg("push", cache, "--store", tree.root, "--update-index")
    assert pushed.code == 0, pushed.err
    assert "2 pushed, 0 skipped" in pushed.err
    assert "index updated" in pushed.err
    assert [line.split()[0] for line in pushed.lines] == ["pushed", "pushed"]
    found = binpkg("find", "--from", cache)
    assert [line.split()[1] for line in found.lines] == ["app@2.0", "zlib@1.3"]
    shown = binpkg("show", "app", "--from", cache)
    assert f"tag      app-2.0-{tree.hashes['app']}.spack" in shown.out
    assert "zlib@1.3/" in shown.out
    inspected = binpkg("inspect", cache)
    assert "packages (2)" in inspected.out
    image = binpkg("inspect", f"{cache}:app-2.0-{tree.hashes['app']}.spack")
    assert "└─ 2 layers" in image.out
    assert image.lines[-1].endswith("app@2.0")


def test_pushing_again_skips_and_a_second_cache_compresses_nothing(tree, cache, tmp_path):
    binpkg("push", cache, "--store", tree.root)
    again = binpkg("push", cache, "--store", tree.root)
    assert (again.code, again.out) == (0, "")
    assert "0 pushed, 2 skipped (already there)" in again.err
    other = binpkg("push", f"{cache}-2", "--store", tree.root)
    assert "2 not compressed again" in other.err


def test_push_prints_one_json_document(tree, cache):
    report = binpkg("push", cache, "--store", tree.root, "--json", "--tag", "all").json
    assert {package["name"]: package["outcome"] for package in report["packages"]} == {
        "app": "pushed",
        "zlib": "pushed",
    }
    assert all(package["digest"].startswith("sha256:") and package["size"] for package in report["packages"])
    assert report["image"]["layers"] == 2
    assert report["bytes_sent"] == sum(package["size"] for package in report["packages"])


def test_a_dry_run_says_what_it_would_do(tree, cache, tmp_path):
    ended = binpkg("push", cache, "--store", tree.root, "--dry-run")
    assert ended.code == 0
    assert "2 would be pushed" in ended.err
    assert not (tmp_path / "cache").exists()


def test_a_failed_package_gives_an_exit_code_and_its_reason(tree, cache):
    import os

    os.mkfifo(tree.prefix("zlib") / "pipe")  # skipped, no failure
    (tree.prefix("zlib") / ".wh.caf").write_text("x")
    ended = binpkg("push", cache, "--store", tree.root)
    assert ended.code == 9  # nothing was pushed, and all for one reason
    assert "2 failed" in ended.err
    assert "caf" in ended.out
    report = binpkg("push", cache, "--store", tree.root, "--json")
    assert {package["exit_code"] for package in report.json["packages"]} == {9, 1}


def test_image_sets_how_a_container_starts(tree, cache):
    ended = binpkg(
        *("image", cache, "app", "--store", tree.root, "--tag", "app"),
        *("--entrypoint", "app --fast", "--cmd", '["a b"]', "--env", "MODE=x=y", "--label", "team=hpc"),
        *("--user", "1000", "--workdir", "/data"),
    )
    assert ended.code == 0, ended.err
    (info,) = binpkg("inspect", f"{cache}:app", "--json").json
    config = info["config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["app", "--fast"], ["a b"])
    assert "MODE=x=y" in config["Env"]
    assert (config["Labels"]["team"], config["User"], config["WorkingDir"]) == ("hpc", "1000", "/data")
    assert [layer["package"] for layer in info["layers"]] == ["zlib@1.3", "app@2.0"]


def test_a_base_image_from_a_layout(tree, cache, tmp_path):
    binpkg("image", f"oci-layout:{tmp_path / 'base'}", "zlib", "--store", tree.root, "--tag", "latest")
    ended = binpkg(
        "push", cache, "app", "--store", tree.root, "--base-image", f"oci-layout:{tmp_path / 'base'}", "--json"
    )
    assert ended.code == 0, ended.err
    tag = next(package["tag"] for package in ended.json["packages"] if package["name"] == "app")
    (info,) = binpkg("inspect", f"{cache}:{tag}", "--json").json
    assert len(info["layers"]) == 2  # the base has zlib already


@pytest.mark.parametrize("compression", ["gzip:1", "gzip:9", "zstd", "zstd:9"])
def test_compression_can_be_chosen(tree, cache, compression):
    ended = binpkg("push", cache, "zlib", "--store", tree.root, "--compression", compression, "--json")
    assert ended.code == 0, ended.err
    (info,) = binpkg("inspect", f"{cache}:{ended.json['packages'][0]['tag']}", "--json").json
    assert info["layers"][0]["media_type"].endswith(compression.split(":")[0])


def test_find_in_a_tree_and_in_the_golden_cache(tree):
    assert [row["name"] for row in binpkg("find", "--store", tree.root, "--json").json] == ["app", "zlib"]
    assert [line.split()[1] for line in binpkg("find", "greet@2", "--from", LAYOUT).lines] == ["greet@2.0", "greet@2.1"]
    document = binpkg("show", "greet@2.0", "--from", LAYOUT, "--json").json
    assert document["hash"] == "6fytamqgzio2shuhlaie55hiv2m2stdw"
    assert "greet-2.1" in binpkg("inspect", f"{LAYOUT}:both").out


def test_settings_give_a_default_store_and_names_for_caches(tree, cache, tmp_path, monkeypatch):
    file = tmp_path / "config.toml"
    file.write_text(f'store = "{tree.root}"\n[caches.lab]\nurl = "{cache}"\n')
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(file))
    assert binpkg("push", "lab").code == 0
    assert len(binpkg("find", "--from", "lab").lines) == 2
    tag = next(iter(LayoutStore(str(tmp_path / "cache")).tags()))
    assert binpkg("inspect", f"lab:{tag}").code == 0
    unknown = binpkg("find", "--from", "other")
    assert unknown.code == 2
    assert "configured names: lab" in unknown.err


def test_a_folder_with_packages_toml(tmp_path, cache):
    folder = tmp_path / "apps"
    (folder / "tool-1.0" / "bin").mkdir(parents=True)
    (folder / "tool-1.0" / "bin" / "tool").write_text("#!/bin/sh\n")
    (folder / "packages.toml").write_text(
        '[defaults]\narch = {platform="linux", os="debian12", target="x86_64"}\n'
        '[[package]]\nname = "tool"\nversion = "1.0"\nprefix = "tool-1.0"\n'
    )
    assert binpkg("push", cache, "--store", folder).code == 0
    assert binpkg("find", "--from", cache).lines[0].split()[1] == "tool@1.0"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["push"], 2, "CACHE"),
        (["push", "{cache}", "--store", "{store}", "--bogus"], 2, "--bogus"),
        (["push", "somewhere", "--store", "{store}"], 2, "no cache named 'somewhere'"),
        (["push", "xyz://host/x", "--store", "{store}"], 2, "not a cache"),
        (["push", "oci://Bad_Host/app", "--store", "{store}"], 2, "not a registry host"),
        (["push", "{cache}:tag", "--store", "{store}"], 2, "names an image"),
        (["push", "{cache}"], 2, "no install tree named"),
        (["push", "{cache}", "--store", "{store}", "--only", "all"], 2, "package or dependencies"),
        (["push", "{cache}", "--store", "{store}", "--compression", "lzma"], 2, "lzma"),
        (["push", "{cache}", "--store", "{store}", "--tag", ".bad"], 2, "not a tag"),
        (["push", "{cache}", "zlib@@2", "--store", "{store}"], 2, "zlib@@2"),
        (["push", "{cache}", "--store", "{store}/nothing"], 3, "nothing"),
        (["push", "{cache}", "zlob", "--store", "{store}"], 4, "zlib"),
        (["show", "greet", "--from", LAYOUT], 5, "greet@2.1"),
        (["inspect", "oci-layout:/nowhere"], 6, "/nowhere"),
        (["inspect", LAYOUT + ":absent"], 6, "absent"),
        (["push", "{cache}", "--store", "{store}", "--base-image", LAYOUT + ":absent"], 7, "base image"),
        (["inspect", LAYOUT + ":index.spack"], 10, "no image"),
        (["load", LAYOUT + ":both", "--engine", "docker"], 12, "docker"),
        (["run", LAYOUT], 2, "a tag is missing"),
        (
            ["run", LAYOUT + ":both", "--engine", "lxc"],
            2,
            "one of docker, podman, namespace, bwrap, ch-run, chroot, or auto",
        ),
        (["load", LAYOUT + ":both", "--engine", "namespace"], 2, "docker or podman"),
        (["run", LAYOUT + ":both", "--volume", "nothing:x"], 2, "write DIR:PATH"),
        (["run", LAYOUT + ":both", "--user", "a b"], 2, "not a user"),
        (["run", LAYOUT + ":both", "--workdir", "a"], 2, "not an absolute path"),
        (["run", LAYOUT + ":both", "--engine", "namespace", "--network", "x"], 2, "no network 'x'"),
        (["find", "--store", "x", "--from", LAYOUT], 2, "exclude each other"),
        (["find", "--from", "oci://127.0.0.1:1/app"], 20, "127.0.0.1:1"),
        (["image", "{cache}", "app", "--store", "{store}", "--tag", "t", "--env", "X"], 2, "--env 'X'"),
        (["image", "{cache}", "app", "--store", "{store}", "--tag", "t", "--cmd", "[1]"], 2, "--cmd"),
        (["image", "{cache}", "app", "--store", "{store}", "--tag", "t", "--cmd", "'"], 2, "--cmd"),
        (["login", "registry.example", "--password-stdin"], 2, "--username"),
        (["login", "registry.example"], 2, "no terminal"),
        (["login", "bad host", "-u", "me", "--password-stdin"], 2, "not a registry host"),
    ],
)
def test_what_is_wrong_gives_one_clear_error_and_its_own_exit_code(tree, cache, arguments, code, text):
    words = [word.format(cache=cache, store=tree.root) for word in arguments]
    ended = binpkg(*words)
    assert ended.code == code, ended.err
    assert ended.err.startswith("oci-binpkg: ") or code == 1
    assert text in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_an_architecture_the_base_lacks_has_its_own_exit_code(tmp_path, cache):
    arm = spack_tree(tmp_path / "arm", [Sketch("tool", target="aarch64")])
    binpkg("image", f"oci-layout:{tmp_path / 'base'}", "tool", "--store", arm.root, "--tag", "latest")
    x86 = spack_tree(tmp_path / "x86", [Sketch("tool")])
    ended = binpkg(
        "image", cache, "tool", "--store", x86.root, "--tag", "t", "--base-image", f"oci-layout:{tmp_path / 'base'}"
    )
    assert ended.code == 8, ended.err
    assert "linux/arm64" in ended.err


def test_escapes_from_elsewhere_do_not_reach_the_terminal(tmp_path, tree, cache):
    binpkg("image", cache, "app", "--store", tree.root, "--tag", "t", "--cmd", '["\\u001b[31mred"]')
    assert "\x1b" not in binpkg("inspect", f"{cache}:t").out


def test_json_of_find_is_valid_when_nothing_matches(tree):
    assert json.loads(binpkg("find", "nothing", "--store", tree.root, "--json").out) == []


@pytest.mark.covers("B12")
def test_what_others_write_into_an_image_is_shown_harmless_and_names_no_file(tmp_path, monkeypatch):
    """A title like a path, colours of a terminal and lines of their own, in annotations, history and description."""
    wild = "../../etc/x\x1b[31m\r\nroot \x9b2J" + "y" * 2**20
    base = small_image()
    config = json.loads(base.config.read())
    config |= {"history": [{"created_by": wild}] * 2, "spec": {"nodes": []}}
    changed = Blob.from_bytes(json.dumps(config).encode(), base.config.descriptor.media_type)
    titled = [
        replace(each.blob.descriptor, annotations={"org.opencontainers.image.title": wild}) for each in base.layers
    ]
    notes = {"org.opencontainers.image.description": wild}
    manifest = Manifest(OCI_MANIFEST, changed.descriptor, tuple(titled), notes)
    blob = Blob.from_bytes(manifest.to_bytes(), OCI_MANIFEST)
    store = LayoutStore(str(tmp_path / "cache"))
    put_image(store, replace(base, config=changed, manifest=blob), "wild")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for form in ([], ["--json"]):
        shown = binpkg("inspect", f"oci-layout:{tmp_path / 'cache'}:wild", *form)
        assert shown.code == 0, shown.err
        assert not set(shown.out + shown.err) & {"\x1b", "\x9b", "\r"}
        if not form:
            assert all(len(line) < 1000 for line in shown.lines)
            assert not any(line.startswith("root") for line in shown.lines)
    copied = binpkg("copy", f"oci-layout:{tmp_path / 'cache'}:wild", f"oci-layout:{tmp_path / 'copy'}")
    assert "\x1b" not in copied.out + copied.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("cache", "copy")) == ["empty"]
