"""The front door: what a script gets without a shell."""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.client import Client
from oci_binpkg.config.settings import Settings, load_settings
from oci_binpkg.errors import AuthError, EngineError, LocalDiskError, NoMatchError, QueryError, UsageError
from oci_binpkg.events import PackageFinished, Warned
from oci_binpkg.model.query import Query
from oci_binpkg.model.reference import Reference, Repository
from oci_binpkg.ops.install import Installed
from oci_binpkg.ops.push_report import PushOutcome
from oci_binpkg.transport.credentials import Credential
from tests.support.fake_registry import Basic, FakeRegistry
from tests.support.spack_trees import Sketch, spack_tree


@pytest.fixture
def settings(tmp_path):
    return load_settings({"HOME": str(tmp_path / "home")})


@pytest.fixture
def tree(tmp_path):
    spack_tree(
        tmp_path / "opt", [Sketch("zlib", "1.3", files={"lib/libz.so": b"z"}), Sketch("greet", "2.0", depends=["zlib"])]
    )
    return tmp_path / "opt"


@pytest.fixture(params=["layout", "registry"])
def cache(request, tmp_path):
    if request.param == "layout":
        yield f"oci-layout:{tmp_path}/cache"
        return
    with FakeRegistry() as registry:
        yield f"oci+http://{registry.host}/apps"


def test_the_script_of_a_reader(settings, tree, cache, tmp_path):
    client = Client(config=settings)
    report = client.push(cache, str(tree), ["greet@2.0"], update_index=True)
    assert report.exit_code == 0
    assert report.index_written
    assert [each.spec.name for each in report.by(PushOutcome.PUSHED)] == ["zlib", "greet"]
    found = [(package.name, package.version, len(package.hash)) for package in client.find("zlib", cache=cache)]
    assert found == [("zlib", "1.3", 32)]
    installed = client.install(cache, ["greet"], root=tmp_path / "apps")
    assert [each.spec.name for each in installed.by(Installed.INSTALLED)] == ["zlib", "greet"]
    assert sorted(each.name for each in client.find(store=tmp_path / "apps")) == ["greet", "zlib"]
    assert all(each.is_good for each in client.verify_store(tmp_path / "apps"))


def test_a_search_without_matches_is_an_empty_list_unless_it_must_match(settings, tree, cache):
    client = Client(config=settings)
    client.push(cache, tree, ["greet"], update_index=True)
    for place in ({"cache": cache}, {"store": tree}):
        assert client.find("zlip", **place) == []
        with pytest.raises(NoMatchError, match="zlib"):
            client.find("zlip", must_match=True, **place)


def test_values_are_taken_as_well_as_text(settings, tree, tmp_path):
    with FakeRegistry() as registry:
        repository = Repository("http", registry.host, "apps")
        client = Client(config=settings)
        client.push(repository, tree, Query.parse("greet"), tag="both", update_index=True)
        assert [each.name for each in client.find(Query.parse("greet"), cache=repository)] == ["greet"]
        found = client.inspect(Reference(repository, "both"))
        assert isinstance(found, list)
        (image,) = found
        assert image.layers
        assert client.install([repository], "greet", root=tmp_path / "apps").exit_code == 0
        assert [spec.name for spec in client.uninstall(tmp_path / "apps", "greet")] == ["greet"]


def test_one_image_of_several_packages(settings, tree, tmp_path):
    client, cache = Client(config=settings), f"oci-layout:{tmp_path}/cache"
    report = client.image(
        cache,
        tree,
        ["greet", "zlib"],
        tag="both",
        entrypoint="greet --all",
        cmd=["x y"],
        env={"A": "b"},
        label={"l": "m"},
    )
    found = client.inspect(f"{cache}:both")
    assert isinstance(found, list)
    (image,) = found
    assert len(image.layers) == report.image.layers == 2
    assert image.descriptor.digest == report.image.digest
    started = image.started
    assert (started["Entrypoint"], started["Cmd"], started["Labels"]["l"]) == (["greet", "--all"], ["x y"], "m")
    assert "A=b" in started["Env"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda client, tree: client.find("greet"), UsageError, "no install tree named"),
        (lambda client, tree: client.find("greet@@", store=tree), QueryError, "greet@@"),
        (lambda client, tree: client.find(store=tree, cache="oci-layout:x"), UsageError, "a cache or a tree"),
        (lambda client, tree: client.push("nowhere", tree), UsageError, "no cache named 'nowhere'"),
        (lambda client, tree: client.push("oci-layout:x", tree, only="half"), UsageError, "package or dependencies"),
        (lambda client, tree: client.load("oci-layout:x"), UsageError, "a tag is missing"),
        (lambda client, tree: client.load("oci-layout:x:y", engine="rocket"), UsageError, "docker or podman"),
        (lambda client, tree: client.image("oci-layout:x", tree, tag="t", entrypoint="a '"), UsageError, "entrypoint"),
        (lambda client, tree: client.image("oci-layout:x", tree, tag="t", user="\udcff"), UsageError, "user: a text"),
        (lambda client, tree: client.search("greet"), UsageError, "no caches are configured"),
        (lambda client, tree: client.search("greet", cache="lab"), UsageError, "no caches are configured"),
        (lambda client, tree: client.mirror_set("lab"), UsageError, "lab"),
        (lambda client, tree: client.keys_trust("/no/such/key"), LocalDiskError, "/no/such/key"),
        (lambda client, tree: client.index_check("oci-layout:x", view="stable"), UsageError, "has no views"),
    ],
)
def test_an_error_names_no_option_of_the_command_line(settings, tree, call, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        call(Client(config=settings), tree)
    assert not re.search(r"--[a-z]|oci-binpkg ", f"{caught.value.message} {caught.value.hint}")


def test_a_configuration_file_is_read_and_written(tmp_path, tree):
    file = tmp_path / "own.toml"
    client = Client(config=file)
    assert client.mirror_add("lab", url=f"oci-layout:{tmp_path}/cache", signed=False) == str(file)
    assert client.mirror_set("lab", view="", push=f"oci-layout:{tmp_path}/new") == str(file)
    (cache,) = Client(config=file).mirror_list()
    assert (cache.name, cache.signed, cache.push_url) == ("lab", False, f"oci-layout:{tmp_path}/new")
    client = Client(config=str(file))
    client.push("lab", tree)
    assert (tmp_path / "new" / "oci-layout").exists()
    client.mirror_remove("lab")
    assert Client(config=file).mirror_list() == []


def test_a_configuration_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        _ = Client(config=tmp_path / "absent.toml").settings


def test_all_configured_caches_are_searched(tmp_path, tree, monkeypatch):
    file = tmp_path / "own.toml"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    client = Client(config=file)
    client.mirror_add("lab", url=f"oci-layout:{tmp_path}/cache")
    client.push("lab", tree, update_index=True)
    client = Client(config=file)
    found = client.search("zlib", all_arch=True)
    assert [(each.name, each.version, each.caches) for each in found] == [("zlib", "1.3", ("lab",))]
    assert client.search("zlib", cache="lab", offline=True, all_arch=True)[0].hash == found[0].hash


def test_a_login_of_the_caller_goes_before_files(settings, tree, tmp_path):
    with FakeRegistry(auth=Basic("ci", "hush")) as registry:
        cache = f"oci+http://{registry.host}/apps"
        with pytest.raises(AuthError):
            Client(config=settings).push(cache, tree)
        client = Client(config=settings, credentials={registry.host: Credential("ci", "hush")})
        assert client.push(cache, tree).exit_code == 0
        assert client.logout(registry.host)
        assert client.login(registry.host, "ci", "hush", plain_http=True).startswith(str(tmp_path))
        assert Client(config=settings).push(cache, tree).by(PushOutcome.SKIPPED)


def test_events_of_a_verb_reach_the_observer(settings, tree, tmp_path):
    seen: list[Any] = []
    with Client(config=settings, observer=seen.append) as client:
        client.push(f"oci-layout:{tmp_path}/cache", tree)
    finished = {event.key for event in seen if isinstance(event, PackageFinished)}
    assert finished == {package.hash for package in Client(config=settings).find(store=tree)}


def test_layers_are_kept_where_the_caller_says(settings, tree, tmp_path):
    client = Client(config=settings, layer_cache=tmp_path / "layers")
    assert not any(each.reused for each in client.push(f"oci-layout:{tmp_path}/one", tree).packages)
    assert all(each.reused for each in client.push(f"oci-layout:{tmp_path}/two", tree).packages)
    assert any((tmp_path / "layers").rglob("*"))


def test_a_layer_cache_that_others_may_write_is_replaced_for_as_long_as_the_client_lives(settings, tree, tmp_path):
    folder = tmp_path / "layers"
    folder.mkdir()
    folder.chmod(0o777)
    seen: list[Any] = []
    with Client(config=settings, layer_cache=folder, observer=seen.append) as client:
        client.push(f"oci-layout:{tmp_path}/one", tree)
        assert all(each.reused for each in client.push(f"oci-layout:{tmp_path}/two", tree).packages)
        (other,) = {path for path in Path(tempfile.gettempdir()).glob("oci-binpkg-layers-*") if any(path.rglob("*"))}
    assert not other.exists()
    assert not any(folder.iterdir())
    assert any(isinstance(event, Warned) and "is not used" in event.text for event in seen)


def test_what_caches_lack_and_specs_in_files(settings, tree, tmp_path):
    client, cache = Client(config=settings), f"oci-layout:{tmp_path}/cache"
    client.push(cache, tree, "zlib", update_index=True)
    (answer,) = client.check(cache, tree)
    assert [spec.name for spec, _ in answer.lacking] == ["greet"]
    (saved,) = client.save_specs("zlib", tmp_path / "specs", cache=cache)
    assert Path(saved.path).is_file()
    assert [each.hash for each in client.find(saved.query, cache=cache)] == [saved.spec.hash]
    assert client.show(saved.query, cache=cache).spec == saved.spec
    (fetched,) = client.download([cache], "zlib", tmp_path / "files")
    assert Path(fetched.archive).stat().st_size
    (report,) = client.index_check(cache)
    assert report.is_true
    client.push(cache, tree, skip_present_in=cache)
    assert client.index_update(cache)[0].written
    assert client.index_rebuild(cache)[0].packages == 2
    copied = client.copy(cache, f"oci-layout:{tmp_path}/copy", "greet")
    assert copied.exit_code == 0
    assert client.install_image(f"{cache}:{client.show('greet', cache=cache).entry.key.tag}", root=tmp_path / "x").by(
        Installed.INSTALLED
    )


def test_a_verb_can_be_called_from_several_threads(settings, tree, tmp_path):
    client, cache = Client(config=settings), f"oci-layout:{tmp_path}/cache"
    client.push(cache, tree, update_index=True)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: [each.name for each in client.find(cache=cache)], range(8)))
    assert found == [["greet", "zlib"]] * 8


def test_bare_settings_see_nothing_of_the_users_and_leave_nothing_behind(tree, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(tmp_path / "no-such-file"))
    with Client(config=Settings(jobs=1)) as client:
        assert client.settings.jobs == 1
        kept = Path(client.settings.layer_cache)
        client.push(f"oci-layout:{tmp_path}/cache", tree)
        assert any(kept.rglob("*"))
        assert client.keys_list() == []
        with pytest.raises(EngineError):
            client.load(f"oci-layout:{tmp_path}/cache:{client.find(cache=f'oci-layout:{tmp_path}/cache')[0].name}")
    assert not kept.exists()
    assert not any((tmp_path / "here").iterdir())
    assert not any((tmp_path / "home").iterdir())
