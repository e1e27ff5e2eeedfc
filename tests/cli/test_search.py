"""`search`: all configured caches at once."""

import pytest

from tests.support.command_line import binpkg
from tests.support.golden import GOLDEN
from tests.support.spack_trees import Sketch, spack_tree

OTHER = '[caches.other]\nurl = "oci-layout:/nowhere"\n'


@pytest.fixture
def configured(tmp_path, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text(
        f'[caches.images]\nurl = "oci-layout:{GOLDEN / "oci-layout"}"\n'
        f'[caches.files]\nurl = "file://{GOLDEN / "v3-unsigned"}"\n'
    )
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(config))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return config


def test_the_packages_of_all_caches_are_found_with_where_they_are(configured, tmp_path):
    ended = binpkg("search", "greet", "--all-arch")
    assert [line.split()[1:3] for line in ended.lines] == [["greet@2.0", "images,files"], ["greet@2.1", "images,files"]]
    assert ended.err == ""
    assert (tmp_path / "cache" / "oci-binpkg" / "catalog.sqlite").is_file()
    offline = binpkg("search", "greet@2.1", "--all-arch", "--offline", "--json")
    assert [(each["version"], each["caches"]) for each in offline.json] == [("2.1", ["images", "files"])]


def test_find_without_a_tree_searches_all_caches(configured):
    ended = binpkg("find", "greet", "--all-arch")
    assert ended.out == binpkg("search", "greet", "--all-arch").out
    assert [line.split()[1:3] for line in ended.lines] == [["greet@2.0", "images,files"], ["greet@2.1", "images,files"]]
    assert binpkg("find", "greet@2.1", "--all-arch", "--json").json[0]["caches"] == ["images", "files"]
    below = binpkg("find", "^greetlib@1.2", "--all-arch", "--ttl", "0")
    assert [line.split()[1] for line in below.lines] == ["greet@2.0"]


def test_find_with_a_tree_or_a_cache_asks_only_that(configured, tmp_path):
    tree = spack_tree(tmp_path / "store", [Sketch("zlib", "1.3")])
    assert [line.split()[1:3] for line in binpkg("find", "--store", tree.root).lines] == [["zlib@1.3", "explicit"]]
    assert {line.split()[2] for line in binpkg("find", "greet", "--from", "files").lines} == {"cached"}
    assert not (tmp_path / "cache" / "oci-binpkg" / "catalog.sqlite").exists()
    config = configured.read_text()
    configured.write_text(f'store = "{tree.root}"\n{config}')
    assert [line.split()[1] for line in binpkg("find").lines] == ["zlib@1.3"]
    assert len(binpkg("find", "greet", "--all-arch").lines) == 2


def test_find_in_one_cache_can_do_with_what_is_known_of_it(configured, tmp_path):
    (tmp_path / "layout").symlink_to(GOLDEN / "oci-layout")
    configured.write_text(f'[caches.images]\nurl = "oci-layout:{tmp_path / "layout"}"\n{OTHER}')
    first = binpkg("find", "greet", "--from", "images", "--ttl", "600", "--all-arch")
    assert (len(first.lines), first.err) == (2, "")
    (tmp_path / "layout").unlink()
    assert binpkg("find", "greet", "--from", "images", "--offline", "--all-arch").out == first.out
    never = binpkg("find", "greet", "--from", "other", "--offline", "--all-arch")
    assert never.code == 4
    assert "other was never read (run once without --offline)" in never.err
    assert "no package in other matches" in never.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--store", "tree", "--offline"], "--ttl, --offline and --all-arch are about caches"),
        (["--from", "oci-layout:somewhere", "--ttl", "5"], "oci-layout:somewhere is not a configured name"),
        (["--from", "nobody", "--offline"], "nobody is not a configured name"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(configured, words, said):
    ended = binpkg("find", "greet", *words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_without_a_tree_and_caches_find_says_what_is_missing(configured):
    configured.write_text("")
    ended = binpkg("find", "greet")
    assert ended.code == 2
    assert "--store" in ended.err
    assert "--from" in ended.err


def test_what_is_not_there_ends_with_4_and_names_what_is_near(configured):
    ended = binpkg("search", "gret", "--all-arch", "--json")
    assert (ended.code, ended.out) == (4, "")
    assert "did you mean greet" in ended.err


def test_without_caches_there_is_nothing_to_search(configured):
    configured.write_text("")
    ended = binpkg("search", "greet")
    assert ended.code == 2
    assert "no caches are configured" in ended.err
