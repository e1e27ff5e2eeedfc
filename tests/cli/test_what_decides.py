"""What a package says of itself decides - and, of where it is, what its tar has - over all that others say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Ended, binpkg
from tests.support.made_layouts import Layout, Node, Package, hashed, layout, lying, node, unverified

Json = dict[str, Any]
PREFIX = "/opt/old/x/tool"


def variant(hardened: bool, letter: str, *, text: bytes = b"") -> Package:
    made = unverified(node("tls", "3", parameters={"hardened": hardened}), letter * 32)
    return Package(made, files={"bin/tls": text or (b"HARD" if hardened else b"SOFT")})


def installed(store: Path, name: str) -> list[Path]:
    return sorted(store.glob(f"linux-*/{name}-*"))


def database(store: Path) -> Json:
    return json.loads((store / ".spack-db/index.json").read_bytes())["database"]["installs"]


def refused(ended: Ended, store: Path, *codes: int) -> None:
    assert ended.code in (codes or (10,)), ended.err
    assert "Traceback" not in ended.err
    assert not list(store.rglob("bin/*"))


LIES: dict[str, Json] = {
    "variants": {"parameters": {"hardened": True}},
    "version": {"version": "4"},
    "operating system": {"arch": {"platform": "linux", "platform_os": "debian11", "target": "x86_64"}},
    "target": {"arch": {"platform": "linux", "platform_os": "debian12", "target": "zen4"}},
    "dependencies": {"dependencies": [{"name": "x", "hash": "a" * 32, "parameters": {"deptypes": ["build"], "virtuals": []}}]},
    "external": {"external": {"path": "/usr", "module": None, "extra_attributes": {}}},
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_index_that_says_another_thing_than_the_package_does_not_decide(lie: Json, tmp_path: Path) -> None:
    soft = variant(hardened=False, letter="s")
    listed = Package({**soft.node, **lie})
    cache = layout(tmp_path / "layout", [soft], index=[listed])
    ended = binpkg("install", "tls", "--from", cache.name, "--store", tmp_path / "store")
    refused(ended, tmp_path / "store", 6, 10)
    assert "another package" in ended.err or "does not have it" in ended.err


def test_the_variant_that_was_asked_for_is_the_one_that_is_installed(tmp_path: Path) -> None:
    soft, hard = variant(hardened=False, letter="s"), variant(hardened=True, letter="h")
    swapped = [
        Package({**soft.node, "parameters": {"hardened": True}}),
        Package({**hard.node, "parameters": {"hardened": False}}),
    ]
    cache = layout(tmp_path / "layout", [soft, hard], index=swapped)
    for words in (("install", "tls +hardened"), ("install", "tls ~hardened")):
        ended = binpkg(*words, "--from", cache.name, "--store", tmp_path / "store")
        refused(ended, tmp_path / "store")


def test_the_next_cache_is_asked_where_the_first_one_lies(tmp_path: Path) -> None:
    good = variant(hardened=True, letter="h")
    bad = Package({**good.node, "parameters": {"hardened": False}}, files={"bin/tls": b"SOFT"})
    liar = layout(tmp_path / "liar", [bad], index=[good])
    honest = layout(tmp_path / "honest", [good])
    froms = ("--from", liar.name, "--from", honest.name)
    ended = binpkg("install", "tls +hardened", *froms, "--store", tmp_path / "store")
    assert ended.code == 0, ended.err
    (prefix,) = installed(tmp_path / "store", "tls")
    assert (prefix / "bin/tls").read_bytes() == b"HARD"


def test_dependencies_are_those_of_the_package_not_those_of_the_index(tmp_path: Path) -> None:
    lib, other = node("lib"), node("other")
    app = node("app", needs=[lib])
    packages = [Package(app, [lib]), Package(lib), Package(other)]
    listed = lying(app, dependencies=node("app", needs=[other])["dependencies"])
    cache = layout(tmp_path / "layout", packages, index=[Package(listed, [other]), *packages[1:]])
    ended = binpkg("install", "app", "--from", cache.name, "--store", tmp_path / "store")
    refused(ended, tmp_path / "store")


def test_a_dependency_is_what_its_dependent_was_built_with(tmp_path: Path) -> None:
    lib = unverified(node("lib"), "h" * 32)
    app = node("app", needs=[lib])
    evil = Package({**lib, "parameters": {"backdoor": True}})
    cache = layout(tmp_path / "layout", [Package(app, [lib]), evil])
    ended = binpkg("install", "app", "--from", cache.name, "--store", tmp_path / "store")
    refused(ended, tmp_path / "store")


def external(made: Node, path: Path | str) -> Node:
    return {**made, "external": {"path": str(path), "module": None, "extra_attributes": {}}}


def test_an_external_of_a_package_is_not_recorded_as_installed_here(tmp_path: Path) -> None:
    gcc = hashed(external(node("gcc", "12"), "/usr"))
    cache = layout(tmp_path / "layout", [Package(node("tool", needs=[gcc]), [gcc])])
    assert binpkg("install", "tool", "--from", cache.name, "--store", tmp_path / "store").code == 0
    record = database(tmp_path / "store")[gcc["hash"]]
    assert (record["installed"], record["path"]) == (False, None)
    assert "gcc" not in binpkg("find", "--store", tmp_path / "store").out
    assert binpkg("uninstall", "tool", "--store", tmp_path / "store").code == 0
    assert database(tmp_path / "store") == {}


def test_a_package_described_as_external_by_another_is_installed_all_the_same(tmp_path: Path) -> None:
    lib = unverified(node("lib"), "h" * 32)
    evil = tmp_path / "evil"
    (evil / "lib").mkdir(parents=True)
    (evil / "lib/text").write_text("the attacker's")
    lie = external(lib, evil)
    lying_cache = layout(tmp_path / "liar", [Package(unverified(node("game", needs=[lie]), "g" * 32), [lie])])
    text = f"{PREFIX}lib/lib/text"
    app = Package(
        node("app", needs=[lib]),
        [lib],
        files={"bin/app": f"cat {text}\n".encode()},
        prefixes={"h" * 32: f"{PREFIX}lib"},
        distribution={"relocate_textfiles": ["bin/app"]},
    )
    good = layout(tmp_path / "good", [app, Package(lib, prefix=f"{PREFIX}lib", files={"lib/text": b"the real one"})])
    store = tmp_path / "store"
    assert binpkg("install", "game", "--from", lying_cache.name, "--store", store).code == 0
    ended = binpkg("install", "app", "--from", good.name, "--store", store)
    assert ended.code == 0, ended.err
    (prefix,) = installed(store, "lib")
    assert (prefix / "lib/text").read_text() == "the real one"
    (prefix,) = installed(store, "app")
    assert str(evil) not in (prefix / "bin/app").read_text()
    assert database(store)["h" * 32]["spec"] == lib
    assert (evil / "lib/text").read_text() == "the attacker's"


def test_what_another_package_said_of_a_dependency_gives_way_to_what_it_is(tmp_path: Path) -> None:
    lib = unverified(node("lib"), "h" * 32)
    lie = {**lib, "version": "6.6.6", "dependencies": node("x", needs=[node("y")])["dependencies"]}
    first = Package(unverified(node("game", needs=[lie]), "g" * 32), [lie, node("y")])
    store = tmp_path / "store"
    cache = layout(tmp_path / "one", [first])
    assert binpkg("install", "game", "--from", cache.name, "--store", store, "--allow-missing").code == 0
    cache = layout(tmp_path / "two", [Package(lib)])
    assert binpkg("install", "lib", "--from", cache.name, "--store", store).code == 0
    records = database(store)
    assert records["h" * 32]["spec"] == lib
    assert records[node("y")["hash"]]["ref_count"] == 0


ROOTS: dict[str, tuple[Json, str]] = {
    "a colon": ({"buildpath": "/x:/tmp/evil/bin:/y", "relative_prefix": "z"}, "not used"),
    "a line feed": ({"buildpath": "/x\n/y", "relative_prefix": "z"}, "not used"),
    "another place": ({"buildpath": "/tmp/evil", "relative_prefix": "z"}, "not used"),
    "a relative path": ({"buildpath": "tmp/evil", "relative_prefix": "z"}, "not used"),
    "a way that leads back": ({"buildpath": "/tmp/evil", "relative_prefix": "../../opt/old/x/tool"}, ""),
    "a way that leads elsewhere": ({"buildpath": "/tmp/evil", "relative_prefix": "../../opt/old/x"}, "not used"),
    "a way inside": ({"buildpath": "/tmp/evil", "relative_prefix": "a/../../opt/old/x/tool"}, "not used"),
    "too far up": ({"buildpath": "/tmp/evil", "relative_prefix": "../../../opt/old/x/tool"}, "not used"),
    "nothing": ({"buildpath": "", "relative_prefix": ""}, ""),
    "no relative prefix": ({"relative_prefix": ""}, ""),
}


@pytest.mark.parametrize(("members", "said"), ROOTS.values(), ids=ROOTS)
def test_the_path_of_an_image_comes_from_where_the_layer_has_its_files(
    members: Json, said: str, tmp_path: Path
) -> None:
    cache = layout(tmp_path / "layout", [Package(node(), prefix=PREFIX, distribution=members)])
    ended = binpkg("install", "tool", "--from", cache.name, "--store", tmp_path / "store")
    assert ended.code == 0, ended.err
    assert said in ended.err + ended.out
    mine = tmp_path / "mine"
    pushed = binpkg("push", f"oci-layout:{mine}", "tool", "--store", tmp_path / "store", "--tag", "mine")
    assert pushed.code == 0, pushed.err
    assert environment(mine, "mine")["PATH"].split(":")[0] in (
        f"{PREFIX}/bin",
        str(installed(tmp_path / "store", "tool")[0] / "bin"),
    )
    assert "evil" not in str(environment(mine, "mine"))


def environment(path: Path, tag: str) -> dict[str, str]:
    entries = json.loads((path / "index.json").read_bytes())["manifests"]
    (entry,) = (e for e in entries if e["annotations"]["org.opencontainers.image.ref.name"] == tag)
    manifest = json.loads((path / "blobs" / entry["digest"].replace(":", "/")).read_bytes())
    config = json.loads((path / "blobs" / manifest["config"]["digest"].replace(":", "/")).read_bytes())
    return dict(text.split("=", 1) for text in config["config"]["Env"])


DAMAGE: dict[str, Json] = {
    "its own prefix is another": {"hash_to_prefix": {node()["hash"]: "/opt/other/tool"}},
    "its own prefix leads back": {"hash_to_prefix": {node()["hash"]: "/opt/old/x/y/../tool"}},
    "its own prefix is relative": {"hash_to_prefix": {node()["hash"]: "opt/old/x/tool"}},
    "a prefix with a colon": {"hash_to_prefix": {node()["hash"]: PREFIX, "a" * 32: "/a:/b"}},
    "a prefix with an escape": {"hash_to_prefix": {node()["hash"]: PREFIX, "a" * 32: "/a\x1b[2J"}},
    "a hash that is none": {"hash_to_prefix": {node()["hash"]: PREFIX, "../x": "/a"}},
    "nothing names its prefix": {"hash_to_prefix": {"a" * 32: "/opt/b"}, "buildpath": "/opt", "relative_prefix": "c"},
    "sbang that is no path": {"sbang_install_path": "x\ny"},
}


@pytest.mark.parametrize("members", DAMAGE.values(), ids=DAMAGE)
def test_a_document_that_disagrees_with_the_tar_is_damage_and_the_next_cache_is_asked(
    members: Json, tmp_path: Path
) -> None:
    bad = layout(tmp_path / "bad", [Package(node(), prefix=PREFIX, distribution=members)])
    refused(binpkg("install", "tool", "--from", bad.name, "--store", tmp_path / "store"), tmp_path / "store")
    good = layout(tmp_path / "good", [Package(node(), prefix=PREFIX)])
    froms = ("--from", bad.name, "--from", good.name)
    ended = binpkg("install", "tool", *froms, "--store", tmp_path / "store")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    "prefix", ["/opt/a:/b/tool", "/opt/a\n/tool", "/opt/\x1b[2J/tool", "/opt/\u202e/tool"], ids=ascii
)
def test_a_layer_whose_files_are_in_such_a_place_is_refused(prefix: str, tmp_path: Path) -> None:
    package = Package(
        node(), prefix=prefix, distribution={"hash_to_prefix": {}, "buildpath": "", "relative_prefix": ""}
    )
    cache = layout(tmp_path / "layout", [package])
    refused(binpkg("install", "tool", "--from", cache.name, "--store", tmp_path / "store"), tmp_path / "store")
    mirror = binpkg("copy", cache.name, f"file://{tmp_path}/mirror", "--unsigned")
    assert mirror.code == 0, mirror.err
    copied = binpkg("copy", f"file://{tmp_path}/mirror", f"oci-layout:{tmp_path}/images", "--no-check-signature")
    assert copied.code in (1, 10), copied.err
    assert "Traceback" not in copied.err


@pytest.mark.parametrize("verb", ["install", "push"])
def test_a_root_with_a_colon_is_refused(verb: str, tmp_path: Path) -> None:
    cache = layout(tmp_path / "layout", [Package(node())])
    root = tmp_path / "a:b"
    root.mkdir()
    words = ("install", "tool", "--from", cache.name) if verb == "install" else ("push", f"oci-layout:{tmp_path}/new")
    ended = binpkg(*words, "--store", root)
    assert ended.code == (13 if verb == "install" else 2)
    assert "colon" in ended.err


def test_the_prefix_in_the_environment_of_a_stored_image_is_not_believed_as_it_is(tmp_path: Path) -> None:
    lib = node("lib")
    shared = Layout(tmp_path / "shared")
    package = Package(lib)
    config = {"config": {"Env": ["PATH=/tmp/evil/bin:/bin", "CMAKE_PREFIX_PATH=/tmp/evil"]}}
    shared.add(package, **config)
    store = tmp_path / "store"
    cache = layout(tmp_path / "all", [package, Package(node("app", needs=[lib]), [lib])])
    assert binpkg("install", "app", "--from", cache.name, "--store", store).code == 0
    pushed = binpkg("push", shared.name, "app", "--only", "package", "--store", store, "--tag", "mine")
    assert pushed.code == 0, pushed.err
    assert "evil" not in str(environment(shared.path, "mine"))
