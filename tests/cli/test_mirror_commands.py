"""`oci-binpkg mirror`: names for caches, in a file that people edit too."""

import os
import stat
import threading

import pytest

from tests.support.command_line import binpkg
from tests.support.fake_registry import Basic, Bearer, FakeRegistry
from tests.support.mirrors import s3_objects, s3_server
from tests.support.spack_trees import Sketch, spack_tree

EDITED_BY_HAND = """\
# the lab's settings
jobs = 4          # quiet nights

[caches.old]
url = "oci://registry.example/old"  # until spring

[registries."registry.example"]
ca_file = "/lab.pem"

[caches.new]      # ours
push = "oci://registry.example/incoming"
url = "oci://registry.example/new"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OCI_BINPKG_CONFIG", "XDG_CONFIG_HOME", "SPACK_ROOT", "SPACK_USER_CONFIG_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def config(home):
    path = home / ".config" / "oci-binpkg" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def ran(*arguments):
    ended = binpkg("mirror", *arguments)
    assert ended.code == 0, ended.err
    return ended


def refused(*arguments):
    ended = binpkg("mirror", *arguments)
    assert ended.code == 2, ended.out
    return ended.err


@pytest.mark.parametrize("command", ["add", "list", "set", "remove"])
def test_every_command_has_an_example(command):
    ended = binpkg("mirror", command, "-h")
    assert ended.code == 0
    assert f"\n    oci-binpkg mirror {command}" in ended.out


def test_the_first_mirror_makes_the_file(home):
    added = ran("add", "lab", "oci://registry.example/apps")
    path = home / ".config" / "oci-binpkg" / "config.toml"
    assert added.out == f"added  lab  to {path}\n"
    assert path.read_text() == '[caches.lab]\nurl = "oci://registry.example/apps"\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ran("list").out == f"lab  oci://registry.example/apps  -  {path}\n"


def test_a_file_that_the_environment_names_need_not_exist(home, monkeypatch):
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(home / "deep" / "my.toml"))
    ran("add", "lab", "oci-layout:/srv/cache")
    assert (home / "deep" / "my.toml").exists()


def test_everything_can_be_said(config, monkeypatch):
    ran(
        *("add", "lab", "s3://bucket/apps", "--fetch", "https://h/apps", "--push", "s3://bucket/in", "--unsigned"),
        *("--view", "stable", "--endpoint-url", "https://s3.example", "--profile", "p"),
        *("--access-key-id-variable", "LAB_ID", "--access-key-secret-variable", "LAB_SECRET"),
        *("--access-token-variable", "LAB_TOKEN", "--signed-index"),
    )
    monkeypatch.setenv("LAB_ID", "me")
    monkeypatch.setenv("LAB_SECRET", "hush")
    listed = ran("list", "--json")
    (lab,) = listed.json
    assert "hush" not in listed.out + config.read_text()
    assert lab == {
        "name": "lab",
        "fetch": {
            "url": "https://h/apps",
            "view": "stable",
            "endpoint_url": "https://s3.example",
            "profile": "p",
            "has_login": True,
            "unset_variables": ["LAB_TOKEN"],
        },
        "push": {**lab["fetch"], "url": "s3://bucket/in"},
        "signed": False,
        "signed_index": True,
        "file": str(config),
        "merged_files": [],
    }
    line = ran("list").lines[0]
    assert "fetch https://h/apps, push s3://bucket/in" in line
    assert "unsigned, signed index, view stable, profile p, LAB_TOKEN not set" in line


def test_what_people_wrote_stays(config):
    config.write_text(EDITED_BY_HAND)
    config.chmod(0o640)
    ran("set", "new", "--url", "oci://registry.example/newer", "--signed")
    ran("add", "third", "oci-layout:/srv/third")
    ran("set", "new", "--push", "")
    ran("remove", "old")
    text = config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    for line in EDITED_BY_HAND.splitlines():
        if line and "old" not in line and "incoming" not in line and "newer" not in line and '/new"' not in line:
            assert line in text.splitlines()
    assert "old" not in text
    assert "incoming" not in text
    names = {each["name"]: (each["push"]["url"], each["signed"]) for each in ran("list", "--json").json}
    assert names == {"new": ("oci://registry.example/newer", True), "third": ("oci-layout:/srv/third", None)}


@pytest.mark.parametrize(
    "text",
    [
        'caches = {lab = {url = "oci://h/x"}}\n',
        'caches.lab.url = "oci://h/x"\njobs = 1\n',
        '[caches]\nlab = {url = "oci://h/x"}\n[layer_cache]\n',
        '[caches.lab]\r\nurl = "oci://h/x"\r\n# end\r\n',
        'jobs = 1\n[caches.lab]\nurl = "oci://h/x"',
    ],
)
def test_every_way_to_write_a_table_is_understood(config, text):
    config.write_bytes(text.encode())
    ran("set", "lab", "--view", "v")
    ran("add", "more", "oci://h/y")
    ran("remove", "lab")
    assert [each["name"] for each in ran("list", "--json").json] == ["more"]
    ran("remove", "more")
    ran("add", "more", "oci://h/y")
    assert len(ran("list").lines) == 1


def test_a_link_stays_one_and_what_does_not_change_is_not_written(config, home):
    (home / "dotfiles.toml").write_text('[caches.lab]\nurl = "oci://h/x"\n')
    config.symlink_to(home / "dotfiles.toml")
    before = os.stat(config)
    ran("set", "lab", "--url", "oci://h/x")
    assert os.stat(config).st_ino == before.st_ino
    ran("set", "lab", "--url", "oci://h/y")
    assert config.is_symlink()
    assert "oci://h/y" in (home / "dotfiles.toml").read_text()


def test_writers_at_the_same_time_lose_nothing(config):
    from oci_binpkg.config.editing import change_cache

    def add(number):
        change_cache(str(config), f"m{number}", lambda table: table.update(url=f"oci://h.example/m{number}"))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran("list").lines) == 8
    assert sorted(os.listdir(config.parent)) == ["config.toml", "config.toml.lock"]


def test_names_of_spack_are_listed_with_their_file_and_are_spacks_to_change(config, home):
    spack = home / ".spack" / "mirrors.yaml"
    spack.parent.mkdir()
    spack.write_text("mirrors:\n  theirs: {url: 's3://b/x', access_pair: [me, hush]}\n  odd: 'https://me:hush@h/x'\n")
    listed = ran("list")
    assert "hush" not in listed.out + ran("list", "--json").out
    assert [line.split()[0] for line in listed.lines] == ["odd", "theirs"]
    assert all(line.endswith(str(spack)) for line in listed.lines)
    for command in (["remove", "theirs"], ["set", "theirs", "--view", "v"]):
        assert f"theirs comes from {spack}, which is Spack's" in refused(*command)
    ran("add", "theirs", "oci://h/ours")
    assert str(config) in ran("list").lines[1]


def test_no_names_is_no_error(home):
    assert ran("list").out == ""
    assert ran("list", "--json").json == []


@pytest.mark.covers("B42")
def test_plain_http_is_taken_where_it_is_said_and_not_once_that_is_taken_back(config):
    ran("add", "lab", "http://h/x", "--insecure")
    before = config.read_text()
    assert "insecure = true" in before
    assert "caches.lab.url: plain http" in refused("set", "lab", "--no-insecure")
    assert config.read_text() == before


@pytest.mark.covers("B42")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "lab", "oci://h/y"], "there is a cache lab already\n  `oci-binpkg mirror set lab`"),
        (["add", "a b", "oci://h/y"], "cannot be the name of a cache"),
        (["add", "oci-layout", "oci://h/y"], "cannot be the name of a cache"),
        (["add", "more", "http://h/y"], "more.url: plain http"),
        (["set", "lab", "--push", "http://h/y"], "lab.push: plain http"),
        (["add", "more", "xyz://h/y"], "not a cache: 'xyz://h/y'"),
        (["add", "more", "oci://h/y:tag"], "names an image, a cache is expected"),
        (["add", "more", ""], "more has no url"),
        (["add", "more", "oci://me:hush@h/y"], "an address holds no login"),
        (["add", "more", "s3://b", "--endpoint-url", "h"], "endpoint_url must be a URL"),
        (["add", "more", "s3://b", "--access-key-id-variable", "ID"], "go together"),
        (["add", "more", "s3://b", "--access-token-variable", "hush/+="], "not the name of an environment variable"),
        (["set", "lab"], "no change of lab is given"),
        (["set", "lab", "--url", ""], "lab would be left without an address"),
        (["set", "lab", "--url", "", "--view", "v"], "lab has no url"),
        (["set", "absent", "--view", "v"], "no cache is named 'absent'"),
        (["remove", "absent"], "no cache is named 'absent'"),
    ],
)
def test_a_mistake_writes_nothing_and_shows_no_secret(config, arguments, message):
    text = '[caches.lab]\nurl = "oci://h/x"\n'
    config.write_text(text)
    told = refused(*arguments)
    assert message in told
    assert "hush" not in told
    assert config.read_text() == text


@pytest.mark.parametrize("text", ["caches = 1", "[caches.lab", "[caches.lab]\nuri = 'x'", "stor = 1"])
def test_a_file_that_is_wrong_already_is_left_alone(config, text):
    config.write_text(text)
    assert str(config) in refused("add", "more", "oci://h/y")
    assert config.read_text() == text


def test_a_place_that_cannot_be_written_is_named(home):
    (home / ".config").write_text("a file")
    ended = binpkg("mirror", "add", "lab", "oci://h/x")
    assert ended.code == 11
    assert "config.toml cannot be changed" in ended.err


def test_packages_travel_through_an_unsigned_mirror_by_name(home, tmp_path):
    tree = spack_tree(tmp_path / "store", [Sketch("tool", "1.0", files={"bin/tool": b"t"})])
    # what is written is read elsewhere, as behind a web server
    served, written = tmp_path / "served", tmp_path / "written"
    written.mkdir()
    served.symlink_to(written)
    ran("add", "lab", f"file://{served}", "--push", f"file://{written}", "--unsigned")
    pushed = binpkg("push", "lab", "tool", "--store", tree.root, "--update-index")
    assert pushed.code == 0, pushed.err
    assert "tool@1.0" in binpkg("find", "--from", "lab").out
    # the name is what makes it unsigned: by its address it is not trusted
    assert binpkg("show", "tool", "--from", f"file://{served}").code == 14
    assert binpkg("show", "tool", "--from", "lab").code == 0
    assert binpkg("show", "tool", "--from", "lab", "--check-signature").code == 14
    assert binpkg("index", "check", "lab").code == 0


@pytest.mark.parametrize("auth", [Basic("me", "hush"), Bearer("me", "hush")], ids=["basic", "bearer"])
def test_a_registry_is_logged_in_to_with_what_the_variables_hold(home, tmp_path, monkeypatch, auth):
    monkeypatch.setenv("OCI_BINPKG_RETRIES", "0")
    tree = spack_tree(tmp_path / "store", [Sketch("tool", "1.0", files={"bin/tool": b"t"})])
    login = ("--access-key-id-variable", "LAB_ID", "--access-key-secret-variable", "LAB_SECRET")
    with FakeRegistry(auth=auth) as registry:
        ran("add", "lab", f"oci://{registry.host}/apps", *login)
        ended = binpkg("push", "lab", "--store", tree.root)
        assert ended.code == 2
        assert "variables that are not set: LAB_ID, LAB_SECRET" in ended.err
        monkeypatch.setenv("LAB_ID", "me")
        monkeypatch.setenv("LAB_SECRET", "hush")
        pushed = binpkg("push", "lab", "--store", tree.root, "--update-index")
        assert pushed.code == 0, pushed.err
        assert "tool@1.0" in binpkg("find", "--from", "lab").out
        # the name is what has the login, the address alone has none
        assert binpkg("find", "--from", f"oci://{registry.host}/apps").code == 22
        assert "hush" not in pushed.out + pushed.err


def test_a_login_in_spacks_file_is_used_and_never_shown(home, tmp_path):
    tree = spack_tree(tmp_path / "store", [Sketch("tool", "1.0", files={"bin/tool": b"t"})])
    (home / ".spack").mkdir()
    with FakeRegistry(auth=Basic("me", "hush")) as registry:
        entry = f"{{url: 'oci+http://{registry.host}/apps', access_pair: [me, hush]}}"
        (home / ".spack" / "mirrors.yaml").write_text(f"mirrors:\n  lab: {entry}\n")
        ended = [binpkg("push", "lab", "--store", tree.root), binpkg("mirror", "list"), binpkg("inspect", "lab")]
    assert [each.code for each in ended] == [0, 0, 0]
    assert "hush" not in "".join(each.out + each.err for each in ended)


def test_a_bucket_is_reached_as_its_name_says(home, tmp_path, monkeypatch):
    tree = spack_tree(tmp_path / "store", [Sketch("tool", "1.0", files={"bin/tool": b"t"})])
    bucket = s3_objects("apps").name
    monkeypatch.setenv("LAB_ID", "key")
    monkeypatch.setenv("LAB_SECRET", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    ran(
        *("add", "lab", bucket, "--unsigned", "--endpoint-url", s3_server()),
        *("--access-key-id-variable", "LAB_ID", "--access-key-secret-variable", "LAB_SECRET"),
    )
    pushed = binpkg("push", "lab", "tool", "--store", tree.root, "--update-index")
    assert pushed.code == 0, pushed.err
    assert "tool@1.0" in binpkg("find", "--from", "lab").out
