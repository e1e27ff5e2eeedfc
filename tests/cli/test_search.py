"""`search`: all configured caches at once."""

import pytest

from tests.support.command_line import binpkg
from tests.support.golden import GOLDEN


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


def test_what_is_not_there_ends_with_4_and_names_what_is_near(configured):
    ended = binpkg("search", "gret", "--all-arch", "--json")
    assert (ended.code, ended.out) == (4, "")
    assert "did you mean greet" in ended.err


def test_without_caches_there_is_nothing_to_search(configured):
    configured.write_text("")
    ended = binpkg("search", "greet")
    assert ended.code == 2
    assert "no caches are configured" in ended.err
