"""Which caches are asked where none is named, how silent ones are reported, and what pipelines read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import binpkg
from tests.support.fake_registry import FakeRegistry
from tests.support.spack_trees import Sketch, spack_tree

DEAD = "oci+http://127.0.0.1:1/apps"


@pytest.fixture
def tree(tmp_path: Path) -> Any:
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z"}),
        Sketch("app", "2.0", files={"bin/a": b"a"}, depends=["zlib"]),
    ]
    return spack_tree(tmp_path / "store", sketches)


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes the configured caches: name and address."""
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.setenv("OCI_BINPKG_RETRIES", "0")

    def write(**caches: str) -> None:
        text = "".join(f'[caches.{name}]\nurl = "{url}"\nsigned = false\n' for name, url in caches.items())
        (tmp_path / "config.toml").write_text(text)

    write()
    return write


@pytest.fixture
def full(tree: Any, tmp_path: Path) -> str:
    """A layout with all packages of the tree, and an index."""
    cache = f"oci-layout:{tmp_path}/full"
    assert binpkg("push", cache, "--store", tree.root, "--update-index").code == 0
    return cache


@pytest.mark.covers("P08")
@pytest.mark.parametrize("command", ["search", "find"])
def test_no_cache_that_answers_is_an_error_that_names_all_of_them(configure: Any, command: str) -> None:
    configure(one=DEAD, two="https://127.0.0.1:1/mirror")
    for words in ([command, "app", "--all-arch"], [command]):
        ended = binpkg(*words)
        assert ended.code == 20, ended.err
        assert ended.out == ""
        assert "no cache could be read" in ended.err
        assert all(f"  {name}: " in ended.err for name in ("one", "two"))
    # a moment later nothing is asked again, and the answer is the same
    assert binpkg(command, "app").code == 20
    assert binpkg(command, "app", "--offline").code == 4


@pytest.mark.covers("P08")
def test_the_only_cache_that_fails_fails_with_its_own_error(configure: Any, full: str, tmp_path: Path) -> None:
    configure(one=f"{full}-broken")
    shutil.copytree(tmp_path / "full", tmp_path / "full-broken")
    index = json.loads((tmp_path / "full-broken" / "index.json").read_text())
    (entry,) = [each for each in index["manifests"] if "index.spack" in str(each)]
    (tmp_path / "full-broken/blobs" / entry["digest"].replace(":", "/")).write_bytes(b"{}")
    assert binpkg("search", "app", "--all-arch").code == 10


@pytest.mark.covers("P08")
def test_the_others_answer_for_a_cache_that_does_not(configure: Any, full: str) -> None:
    configure(dead=DEAD, full=full)
    ended = binpkg("search", "app", "--all-arch")
    assert (ended.code, len(ended.lines)) == (0, 1)
    assert "warning: dead could not be read" in ended.err
    lacking = binpkg("search", "nothing", "--all-arch")
    assert lacking.code == 4
    assert "in the caches that answered" in lacking.err
    # what is not only a search says so, too
    for words in (["install", "nothing", "--store", "x"], ["download", "nothing"], ["show", "nothing"]):
        ended = binpkg(*words)
        assert ended.code == 4, ended.err
        assert "in the caches that answered" in ended.err
        assert "127.0.0.1" in ended.err


@pytest.mark.covers("P08")
def test_what_was_read_before_still_answers_with_a_warning(configure: Any, full: str, tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        cache = f"oci+http://{registry.host}/apps"
        assert binpkg("copy", full, cache).code == 0
        configure(one=cache)
        assert binpkg("search", "app", "--all-arch").code == 0
    known = binpkg("search", "app", "--all-arch", "--ttl", "0")
    assert known.code == 0
    assert "could not be read; its entries are those of" in known.err
    assert binpkg("search", "other", "--all-arch", "--ttl", "0").code == 20


def read_as_pipelines_do(path: Path) -> dict[str, list[str]]:
    """Read the document of a check as Spack describes it; return what each mirror has to build, by its name.

    An object: under the URL of each mirror that lacks something, `mirrorName`, `mirrorUrl` (the same URL) and
    `rebuildSpecs`, a list of objects with `short_spec` and the 32 characters of `hash`.
    """
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    found = {}
    for url, entry in document.items():
        assert set(entry) == {"mirrorName", "mirrorUrl", "rebuildSpecs"}
        assert entry["mirrorUrl"] == url
        assert entry["rebuildSpecs"]
        for spec in entry["rebuildSpecs"]:
            assert set(spec) == {"short_spec", "hash"}
            assert len(spec["hash"]) == 32
            assert spec["hash"][:7] in spec["short_spec"]
        found[entry["mirrorName"]] = [spec["short_spec"].partition("@")[0] for spec in entry["rebuildSpecs"]]
    return found


@pytest.mark.covers("P09")
def test_the_document_of_a_check_is_what_pipelines_read(configure: Any, tree: Any, full: str, tmp_path: Path) -> None:
    empty, part = f"oci-layout:{tmp_path}/empty", f"file://{tmp_path}/part"
    assert binpkg("push", part, "zlib", "--store", tree.root, "--unsigned").code == 0
    configure(full=full, part=part)
    wanted = ["--store", tree.root, "--output", tmp_path / "rebuilds.json"]
    assert binpkg("check", "--on", "part", "--on", "full", "--on", empty, *wanted).code == 1
    assert read_as_pipelines_do(tmp_path / "rebuilds.json") == {"part": ["app"], empty: ["zlib", "app"]}
    assert set(json.loads((tmp_path / "rebuilds.json").read_text())) == {part, empty}
    # where nothing is lacking, the document is an empty object
    assert binpkg("check", "--on", "full", *wanted).code == 0
    assert json.loads((tmp_path / "rebuilds.json").read_text()) == {}
    assert binpkg("check", "none", "--on", "full", *wanted).code == 4


@pytest.mark.covers("P12")
@pytest.mark.parametrize("tagged", [False, True])
def test_a_named_package_that_is_gone_is_no_success(tree: Any, tmp_path: Path, tagged: bool) -> None:
    shutil.rmtree(tree.prefix("app"))
    cache = f"oci-layout:{tmp_path}/cache"
    named = binpkg("push", cache, "app", "zlib", "--store", tree.root, *(["--tag", "both"] if tagged else []))
    assert named.code == 3, named.err
    assert "app@2.0" in named.err
    assert str(tree.prefix("app")) in named.err
    assert not (tmp_path / "cache").exists()
    assert binpkg("image", cache, "app", "--store", tree.root, "--tag", "one").code == 3
    # what it needs can be pushed still, and so can all that is there
    assert binpkg("push", cache, "app", "--only", "dependencies", "--store", tree.root).code == 0
    everything = binpkg("push", f"{cache}-all", "--store", tree.root, "--json")
    assert everything.code == 0, everything.err
    assert {each["name"] for each in everything.json["packages"]} == {"zlib"}


@pytest.mark.covers("P14")
def test_without_a_name_all_configured_caches_are_asked(configure: Any, tree: Any, full: str, tmp_path: Path) -> None:
    part = f"oci-layout:{tmp_path}/part"
    assert binpkg("push", part, "zlib", "--store", tree.root, "--update-index").code == 0
    configure(part=part, full=full)
    installed = binpkg("install", "app", "--store", tmp_path / "apps", "--json")
    assert installed.code == 0, installed.err
    assert {each["name"]: each["cache"] for each in installed.json["packages"]} == {
        "zlib": f"oci-layout:{tmp_path}/part",
        "app": f"oci-layout:{tmp_path}/full",
    }
    fetched = binpkg("download", "app", tmp_path / "files", "--json")
    assert fetched.json[0]["cache"] == full
    assert fetched.json[0]["passed_over"] == [f"{part} does not have it"]
    shown = binpkg("show", "app", "--json")
    assert shown.json["cache"] == full
    lacking = binpkg("check", "--store", tree.root, "--json")
    assert {each["mirrorName"]: len(each["rebuildSpecs"]) for each in lacking.json} == {"part": 1, "full": 0}


@pytest.mark.covers("P14")
def test_a_cache_that_is_known_to_have_it_is_asked_first(configure: Any, tree: Any, full: str) -> None:
    with FakeRegistry() as registry:
        empty = f"oci+http://{registry.host}/empty"
        assert binpkg("push", empty, "zlib", "--store", tree.root, "--update-index").code == 0
        configure(empty=empty, full=full)
        assert binpkg("search", "app", "--all-arch").code == 0
        (found,) = binpkg("find", "app", "--from", full, "--json").json
        exact = f"app@2.0/{found['hash']}"
        registry.clear()
        assert binpkg("show", exact, "--json").json["cache"] == full
        assert registry.requests() == []


@pytest.mark.covers("P14")
def test_an_absence_is_asked_for_once(configure: Any, tree: Any, full: str, tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        empty = f"oci+http://{registry.host}/empty"
        assert binpkg("push", empty, "zlib", "--store", tree.root, "--update-index").code == 0
        (found,) = binpkg("find", "app", "--from", full, "--json").json
        registry.clear()
        ended = binpkg("download", f"app@2.0/{found['hash']}", tmp_path / "x", "--from", empty, "--from", full)
        assert ended.code == 0, ended.err
        assert len(registry.requests(path=f"/manifests/app-2.0-{found['hash']}")) == 1
        assert "passed over: " in ended.err


@pytest.mark.covers("P14")
def test_a_cache_that_fails_is_named_and_the_next_one_serves(configure: Any, full: str, tmp_path: Path) -> None:
    configure(dead=DEAD, full=full)
    installed = binpkg("install", "app", "--store", tmp_path / "apps")
    assert installed.code == 0, installed.err
    assert "127.0.0.1:1" in installed.err
    fetched = binpkg("download", "app", tmp_path / "files", "--json")
    assert "127.0.0.1:1" in fetched.json[0]["passed_over"][0]


@pytest.mark.covers("P14")
def test_without_any_cache_the_next_step_is_told(configure: Any, tree: Any, tmp_path: Path) -> None:
    configure()
    for words in (
        ["install", "app", "--store", tmp_path / "apps"],
        ["download", "app"],
        ["show", "app"],
        ["check", "--store", tree.root],
    ):
        ended = binpkg(*words)
        assert ended.code == 2
        assert "mirror add" in ended.err
