"""A folder with `packages.toml`: prefixes that no Spack made become packages like any other."""

from pathlib import Path

import pytest

from oci_binpkg.errors import InstallsError
from oci_binpkg.installs.packages_toml import PrefixInstalls
from oci_binpkg.model.query import Query, one
from oci_binpkg.model.spec import Arch
from oci_binpkg.model.spec_document import parse_spec_document, spec_document

HEAD = '[defaults]\narch = {platform = "linux", os = "debian12", target = "zen4"}\n'
TWO = """
[[package]]
name = "app"
version = "2.0"
prefix = "app"
depends = ["zlib", {name = "cfg@0.9", types = ["run", "build"]}]
variants = {shared = true, api = "v2", languages = ["c", "cxx"], cflags = ["-O2"]}

[[package]]
name = "zlib"
version = "1.3.1"
prefix = "zlib"
explicit = false

[[package]]
name = "cfg"
version = "0.9"
prefix = "ABSOLUTE"
arch = {platform = "linux", os = "any", target = "aarch64"}
"""


def folder(root: Path, text: str, *, head: str = HEAD) -> PrefixInstalls:
    for name in ("app", "zlib", "cfg", "a", "b", "c"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "packages.toml").write_text(head + text.replace("ABSOLUTE", str(root / "cfg")))
    return PrefixInstalls(str(root))


def table(name: str, prefix: str = "", *, version: str = "1", depends: str = "[]", more: str = "") -> str:
    return f'[[package]]\nname = "{name}"\nversion = "{version}"\nprefix = "{prefix or name}"\ndepends = {depends}\n{more}\n'


def test_packages_have_specs_like_spacks(tmp_path: Path) -> None:
    installs = folder(tmp_path, TWO)
    app, zlib, cfg = (record.spec for record in installs.records())
    assert (
        app.describe() == "app@=2.0 cflags=-O2 +shared api=v2 languages:=c,cxx platform=linux os=debian12 target=zen4"
    )
    assert [(edge.name, edge.types) for edge in app.dependencies] == [
        ("cfg", ("build", "run")),
        ("zlib", ("link", "run")),
    ]
    assert app.namespace == "packages"
    assert cfg.arch == Arch("linux", "any", "aarch64")
    assert len({app.hash, zlib.hash, cfg.hash}) == 3
    assert all(len(spec.hash) == 32 for spec in (app, zlib, cfg))
    assert [spec.name for spec in installs.graph.closure([app])] == ["zlib", "cfg", "app"]
    document = spec_document(app, installs.graph)
    assert document["spec"]["_meta"] == {"version": 5}
    assert parse_spec_document(document, "x").root == app


def test_records_say_where_packages_are(tmp_path: Path) -> None:
    installs = folder(tmp_path, TWO)
    app, zlib, cfg = installs.records()
    assert (app.prefix, zlib.prefix, cfg.prefix) == (
        str(tmp_path / "app"),
        str(tmp_path / "zlib"),
        str(tmp_path / "cfg"),
    )
    assert (app.explicit, zlib.explicit) == (True, False)
    assert all(record.is_present and record.installed for record in installs.records())
    assert installs.record(app.spec.hash) == app
    assert installs.record("none") is None
    assert installs.prefix_for(app.spec) == app.prefix
    assert (installs.root, installs.spack_prefix, installs.sbang_path) == (
        str(tmp_path),
        str(tmp_path),
        f"{tmp_path}/bin/sbang",
    )
    assert PrefixInstalls(str(tmp_path), spack_prefix="/opt/spack").spack_prefix == "/opt/spack"


def test_hashes_are_the_same_everywhere_and_follow_dependencies(tmp_path: Path) -> None:
    here = folder(tmp_path / "one", TWO)
    there = folder(tmp_path / "two", TWO)
    changed = folder(tmp_path / "three", TWO.replace("1.3.1", "1.3.2"))
    assert [r.spec.hash for r in here.records()] == [r.spec.hash for r in there.records()]
    before, after = ({r.spec.name: r.spec.hash for r in each.records()} for each in (here, changed))
    assert before["cfg"] == after["cfg"]
    assert before["zlib"] != after["zlib"]
    assert before["app"] != after["app"]
    assert before == {"app": before["app"], "zlib": before["zlib"], "cfg": before["cfg"]}
    assert before["zlib"] == "3s2mrszhhg2mgq54qctft7by4cn5serx"


def test_a_hash_tells_packages_of_one_name_and_version_apart(tmp_path: Path) -> None:
    twins = table("a", more="variants = {build = '1'}") + table("a", "b", more="variants = {build = '2'}")
    first, second = folder(tmp_path, twins).records()
    for wanted in (first, second):
        for text in (f"a/{wanted.spec.hash[:8]}", f"/{wanted.spec.hash}", f"a@1/{wanted.spec.hash[:8]}"):
            installs = folder(tmp_path, table("c", depends=f'["{text}"]') + twins)
            c = one(Query.parse("c"), installs.graph.values(), installs.graph)
            assert c.dependencies[0].hash == wanted.spec.hash


def test_versions_tell_packages_of_one_name_apart(tmp_path: Path) -> None:
    installs = folder(tmp_path, table("a", version="1") + table("a", "b", version="2") + table("c", depends='["a@2"]'))
    assert installs.graph[installs.records()[2].spec.dependencies[0].hash].version == "2"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "packages.toml: no [[package]] table"),
        ("[[package]", "packages.toml: not valid TOML"),
        ("other = 1", "[defaults]: unknown key 'other'"),
        ("[other]", "packages.toml: unknown key 'other'\n  allowed are defaults, package"),
        ("[[package]]\nversion = '1'", "[[package]] 1: prefix: is missing"),
        (table("a").replace('name = "a"', ""), "[[package]] 1: name: is missing"),
        (table("a").replace('"1"', "1.10"), "[[package]] 1 (a): version: a text in quotes is expected"),
        (table("a", version="1/2"), "(a): version: '1/2' is not allowed"),
        (table("a.b", "a"), "(a.b): name: 'a.b' is not allowed\n  allowed are A-Z a-z 0-9 _ -"),
        (table("a", "nowhere"), "nowhere is not a directory\n  a relative prefix is relative to"),
        (
            table("a", more="colour = 'blue'"),
            "[[package]] 1 (a): unknown key 'colour'\n  allowed are name, version, prefix",
        ),
        (table("a", more="explicit = 1"), "(a): explicit: true or false is expected"),
        (table("a", more="arch = 'x86_64'"), "(a): arch: a table is expected"),
        (table("a", more="arch = {platform = 'linux', os = 'x'}"), "(a): arch: target: is missing"),
        (table("a", more="arch = {cpu = 'zen'}"), "(a): arch: unknown key 'cpu'\n  allowed are platform, os, target"),
        (table("a", more="variants = []"), "(a): variants: a table is expected"),
        (table("a", more="variants = {n = 3}"), "(a): variants.n: true, false, a text or a list of texts"),
        (table("a", more="variants = {cflags = '-O2'}"), "(a): variants.cflags: a list of texts is expected"),
        (table("a", more="variants = {os = 'x'}"), "(a): variants: 'os' cannot be the name of a variant"),
        (table("a", depends='"b"'), "(a): depends: a list is expected"),
        (table("a", depends="[3]"), "(a): depends[0]: a table is expected"),
        (table("a", depends='[{name = "b", kind = "x"}]'), "depends[0]: unknown key 'kind'\n  allowed are name, types"),
        (table("a", depends='[{name = "b", types = ["use"]}]'), "types: a list of build, link, run, test is expected"),
        (table("a", depends='["@1"]'), "depends[0]: '@1' names no package\n  write NAME, NAME@VERSION or NAME/HASH"),
        (table("a", depends='["b"]'), "(a): depends[0]: no package 'b' in this file\n  it has a"),
        (table("a", depends='["a/zzzz"]'), "no package 'a/zzzz' in this file"),
        (table("a", version="1") + table("a", "b", version="2") + table("c", depends='["a"]'), "'a' can mean a@1/"),
        (table("a") + table("a", "b"), "[[package]] 2 (a): describes the same package as"),
        (table("a") + table("b", "a"), "[[package]] 2 (b): prefix: "),
        (
            table("a", depends='["b"]') + table("b", depends='["c"]') + table("c", depends='["b"]'),
            "in a circle: b -> c -> b",
        ),
        (table("a", depends='["a"]'), "in a circle: a -> a"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InstallsError) as caught:
        folder(tmp_path, text)
    assert complaint in str(caught.value)
    assert str(tmp_path / "packages.toml") in caught.value.message


def test_an_architecture_has_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(InstallsError, match=r"arch is missing, also in \[defaults\]"):
        folder(tmp_path, table("a"), head="")


def test_a_short_hash_may_not_mean_two(tmp_path: Path) -> None:
    builds = "".join(table("a", f"p{i}", more=f"variants = {{build = '{i}'}}") for i in range(40))
    for i in range(40):
        (tmp_path / f"p{i}").mkdir(parents=True)
    letters = [record.spec.hash[0] for record in folder(tmp_path, builds).records()]
    letter = next(each for each in letters if letters.count(each) > 1)
    with pytest.raises(InstallsError, match=f"'a/{letter}' can mean a@1/"):
        folder(tmp_path, table("c", depends=f'["a/{letter}"]') + builds)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "packages.toml").mkdir()
    with pytest.raises(InstallsError, match=r"packages\.toml: cannot be read"):
        PrefixInstalls(str(tmp_path))


def test_nothing_is_installed_into_it(tmp_path: Path) -> None:
    installs = folder(tmp_path, TWO)
    for verb in ("add", "remove", "locked", "changing"):
        assert not hasattr(installs, verb)
    other = folder(tmp_path / "other", table("a")).records()[0].spec
    assert installs.prefix_for(other) == f"{tmp_path}/a-1-{other.hash}"
