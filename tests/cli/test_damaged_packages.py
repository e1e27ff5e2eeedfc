"""A damaged package spoils itself alone: the others are found, shown, copied and installed, and somebody says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Ended, binpkg
from tests.support.made_layouts import Layout, Package, hashed, layout, lying, node, unverified

Json = dict[str, Any]
GOOD = Package(node("good", "1.0"))


def damaged_nodes() -> dict[str, Json]:
    """Nodes that no reader may use, each under the hash that is its own where it has one."""
    evil = node("evil", "2.0")
    other = {**evil, "name": "bad-edge"}
    return {
        "version of thousands of digits": hashed({**evil, "version": "9" * 5000}),
        "flags of another type": hashed({**evil, "parameters": {"cflags": 5}}),
        "parameters of another type": hashed({**evil, "parameters": {"x": {"y": 1}}}),
        "platform that leads out": hashed({**evil, "arch": {**evil["arch"], "platform": "/etc"}}),
        "hidden platform": hashed({**evil, "arch": {**evil["arch"], "platform": ".spack"}}),
        "target that leads out": hashed({**evil, "arch": {**evil["arch"], "target": "db/../.."}}),
        "line feed": hashed({**evil, "version": "1\nwarning: all is well"}),
        "edge that is not one": hashed({**other, "dependencies": [{"name": "../x", "hash": "a" * 32}]}),
        "edges of another type": hashed({**other, "dependencies": {"x": 7}}),
        "namespace of another type": hashed({**evil, "namespace": 7}),
        "no version": {key: value for key, value in evil.items() if key != "version"},
    }


CASES = damaged_nodes()


def sound(ended: Ended) -> Ended:
    assert "Traceback" not in ended.err
    assert ended.code == 0, ended.err
    return ended


def tag_of(made: Json) -> str:
    return f"{made['name']}-2.0-{made['hash']}.spack"


def with_damage(path: Path, made: Json) -> Layout:
    """A layout with a sound package and a damaged one, both in the index and under tags."""
    cache = Layout(path)
    cache.add(GOOD)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
    spec = {"_meta": {"version": 5}, "nodes": [made]}
    checksum = {"hash_algorithm": "sha256", "hash": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
    document = {**config, "spec": spec, "buildcache_layout_version": 3, "binary_cache_checksum": checksum}
    cache.tagged(tag_of(made), json.dumps(document).encode(), b"{}")
    cache.index([GOOD], also=())
    listed = {GOOD.node["hash"]: GOOD.node, made["hash"]: made}
    installs = {key: {"spec": n, "ref_count": 0, "in_buildcache": True} for key, n in listed.items()}
    cache.entries = [e for e in cache.entries if e["annotations"]["org.opencontainers.image.ref.name"] != "index.spack"]
    cache.tagged("index.spack", b"{}", json.dumps({"database": {"version": "8", "installs": installs}}).encode())
    return cache


@pytest.mark.parametrize("made", CASES.values(), ids=CASES)
def test_find_show_install_and_search_go_on_and_say_which(made: Json, tmp_path: Path) -> None:
    cache = with_damage(tmp_path / "layout", made)
    which = made["hash"][:7]
    for words in (("find", "--from", cache.name), ("find", "@:1.5", "--from", cache.name)):
        found = sound(binpkg(*words))
        assert [line.split()[1] for line in found.lines] == ["good@1.0"]
        assert which in found.err
    assert "good@1.0" in sound(binpkg("show", "good", "--from", cache.name)).out
    evil = binpkg("show", f"/{made['hash']}", "--from", cache.name)
    assert evil.code in (4, 10)
    assert which in evil.err
    assert "Traceback" not in evil.err
    sound(binpkg("install", "good", "--from", cache.name, "--store", tmp_path / "store"))
    sound(binpkg("mirror", "add", "shared", cache.name))
    found = sound(binpkg("find"))
    assert "good@1.0" in found.out
    assert which in found.err
    assert "good@1.0" in sound(binpkg("search", "good")).out


@pytest.mark.parametrize("made", CASES.values(), ids=CASES)
def test_index_and_copy_go_on_and_say_which(made: Json, tmp_path: Path) -> None:
    cache = with_damage(tmp_path / "layout", made)
    which = made["hash"][:7]
    copied = binpkg("copy", cache.name, f"oci-layout:{tmp_path}/copy", "good")
    assert "good@1.0" in sound(binpkg("find", "--from", f"oci-layout:{tmp_path}/copy")).out, copied.err
    everything = binpkg("copy", cache.name, f"file://{tmp_path}/mirror", "--unsigned")
    assert "Traceback" not in everything.err
    assert which in everything.err
    assert "good@1.0" in sound(binpkg("find", "--from", f"file://{tmp_path}/mirror")).out
    rebuilt = binpkg("index", "rebuild", cache.name)
    assert "Traceback" not in rebuilt.err
    assert which in rebuilt.err
    again = sound(binpkg("find", "--from", cache.name))
    assert "good@1.0" in again.out
    assert which not in again.err


def test_a_record_under_anothers_hash_is_left_out_of_the_index(tmp_path: Path) -> None:
    cache = with_damage(tmp_path / "layout", {**node("evil", "2.0"), "hash": "e" * 32})
    listed = {GOOD.node["hash"]: GOOD.node, "f" * 32: node("evil", "2.0"), "g" * 32: 7, "h" * 32: {"name": "x"}}
    installs = {key: {"spec": n, "in_buildcache": True} for key, n in listed.items()}
    cache.entries = cache.entries[:1]
    cache.tagged("index.spack", b"{}", json.dumps({"database": {"version": "8", "installs": installs}}).encode())
    found = sound(binpkg("find", "--from", cache.name))
    assert [line.split()[1] for line in found.lines] == ["good@1.0"]
    for which in ("fffffff", "ggggggg", "hhhhhhh"):
        assert f"/{which} is damaged and left out" in found.err


def test_a_thousand_damaged_packages_are_not_a_thousand_lines(tmp_path: Path) -> None:
    many = [hashed({**node("evil", f"{n}.0"), "namespace": 7}) for n in range(1000)]
    installs = {n["hash"]: {"spec": n, "in_buildcache": True} for n in [GOOD.node, *many]}
    cache = Layout(tmp_path / "layout")
    cache.add(GOOD)
    cache.tagged("index.spack", b"{}", json.dumps({"database": {"version": "8", "installs": installs}}).encode())
    found = sound(binpkg("find", "--from", cache.name))
    assert "good@1.0" in found.out
    assert 20 <= len(found.err.splitlines()) <= 22
    assert "more packages are damaged" in found.err


def test_packages_that_depend_on_each_other_in_an_index_do_not_stop_a_copy(tmp_path: Path) -> None:
    one, two = node("one"), node("two")
    edge = {"parameters": {"deptypes": ["link"], "virtuals": []}}
    one |= {"dependencies": [{"name": "two", "hash": two["hash"], **edge}]}
    two |= {"dependencies": [{"name": "one", "hash": one["hash"], **edge}]}
    cache = Layout(tmp_path / "layout")
    cache.add(GOOD)
    cache.index([GOOD, Package(one), Package(two)])
    copied = binpkg("copy", cache.name, f"file://{tmp_path}/mirror", "--unsigned")
    assert "in a circle" in copied.err
    assert "good@1.0" in sound(binpkg("find", "--from", f"file://{tmp_path}/mirror")).out


def test_a_package_under_the_hash_of_another_is_not_installed(tmp_path: Path) -> None:
    lie = Package(lying(node("good", "1.0"), version="99.0"))
    cache = layout(tmp_path / "layout", [lie])
    ended = binpkg("install", "good", "--from", cache.name, "--store", tmp_path / "store")
    assert ended.code == 10
    assert "claims the hash" in ended.err
    assert not list((tmp_path / "store").glob("linux-*"))


def test_a_package_of_an_unknown_rule_is_installed_and_somebody_says_so(tmp_path: Path) -> None:
    old = Package(unverified(node("old", "1.0"), "z" * 32))
    cache = layout(tmp_path / "layout", [old])
    ended = sound(binpkg("install", "old", "--from", cache.name, "--store", tmp_path / "store"))
    assert "old@1.0/zzzzzzz" in ended.err
    assert "cannot be verified" in ended.err
    pinned = binpkg("install", "/" + "z" * 32, "--from", cache.name, "--store", tmp_path / "other")
    assert pinned.code == 10
    assert "names it by nothing but" in pinned.err or "cannot be verified" in pinned.err
