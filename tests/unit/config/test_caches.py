"""Caches by name: our own tables and Spack's mirrors.yaml, in every form that Spack documents."""

import os
import pwd
from typing import Any

import pytest

from oci_binpkg.cache_opener import AskedTrust, CacheOpener, ConfiguredLocation
from oci_binpkg.cli.hints import words
from oci_binpkg.config.caches import Access, CacheEndpoint, has_login, shown
from oci_binpkg.config.settings import Settings, load_settings
from oci_binpkg.connections import Connections, fsspec_options, s3_settings
from oci_binpkg.errors import UsageError
from oci_binpkg.events import ignore
from oci_binpkg.objects.directory import FileObjects


@pytest.fixture
def home(tmp_path):
    (tmp_path / ".spack").mkdir()
    (tmp_path / ".config" / "oci-binpkg").mkdir(parents=True)
    return tmp_path


def own(home, text):
    (home / ".config" / "oci-binpkg" / "config.toml").write_text(text)


def spack(home, text, file=".spack/mirrors.yaml"):
    path = home / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def caches(home, **env):
    return load_settings({"HOME": str(home), "SPACK_SYSTEM_CONFIG_PATH": f"{home}/system", **env}).caches


def one(home, text, **env):
    """The mirror `lab` of a mirrors.yaml whose entry is `text`."""
    spack(home, f"mirrors:\n  lab: {text}\n")
    return caches(home, **env)["lab"]


def mistake(home, text, **env):
    with pytest.raises(UsageError, match=r"mirrors\.yaml") as caught:
        one(home, text, **env)
    return str(caught.value)


def test_our_own_table_says_everything(home):
    own(
        home,
        """
        [caches.lab]
        url = "s3://bucket/apps"
        push = "s3://bucket/incoming"
        signed = false
        view = "stable"
        endpoint_url = "https://s3.example:9000"
        profile = "lab"
        access_key_id_variable = "LAB_ID"
        access_key_secret_variable = "LAB_SECRET"
        access_token_variable = "LAB_TOKEN"
        """,
    )
    lab = caches(home, LAB_ID="me", LAB_SECRET="hush", LAB_TOKEN="coin")["lab"]
    assert (lab.fetch_url, lab.push_url, lab.signed) == ("s3://bucket/apps", "s3://bucket/incoming", False)
    settings = s3_settings(lab.fetch)
    assert (settings.endpoint_url, settings.profile) == ("https://s3.example:9000", "lab")
    assert (settings.key, settings.secret, settings.token) == ("me", "hush", "coin")
    assert lab.fetch.view == lab.push.view == "stable"
    assert lab.origin_file == str(home / ".config" / "oci-binpkg" / "config.toml")
    for secret in ("hush", "coin"):
        assert secret not in repr(lab)


def test_reading_and_writing_may_be_all_there_is(home):
    own(home, '[caches.a]\nfetch = "oci://h/r"\n[caches.b]\npush = "oci://h/w"\n')
    found = caches(home)
    assert found["a"].endpoint(writing=False).url == "oci://h/r"
    with pytest.raises(UsageError, match="no address to write to"):
        found["a"].endpoint(writing=True)
    with pytest.raises(UsageError, match="no address to read from"):
        found["b"].endpoint(writing=False)


def test_a_login_without_its_variables_stops_writing_and_not_reading(home):
    own(
        home,
        '[caches.lab]\nurl = "s3://b/x"\naccess_key_id_variable = "ID"\naccess_key_secret_variable = "SECRET"\n',
    )
    lab = caches(home, ID="me")["lab"]
    assert lab.endpoint(writing=False).url == "s3://b/x"
    assert s3_settings(lab.fetch).key == ""
    with pytest.raises(UsageError, match=r"variables that are not set: SECRET\n"):
        lab.endpoint(writing=True)


@pytest.mark.covers("B42")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[caches.lab]\nuri = 'oci://h/x'", "unknown key 'caches.lab.uri'\n  allowed: url, fetch, push, signed"),
        ("[caches.lab]\nurl = ['x']", "caches.lab.url must be text, not a list"),
        ("[caches.lab]\nurl = 'oci://h/x'\nsigned = 'no'", "caches.lab.signed must be true or false, not text"),
        ("[caches.lab]\nurl = 'oci://h/x'\nsigned = 1", "caches.lab.signed must be true or false, not a number"),
        ("[caches.lab]\nsigned = true", "caches.lab has no url"),
        ("[caches.lab]\nurl = ''", "caches.lab has no url"),
        ("[caches.lab]\nurl = 'x'\n[caches.lab]\nurl = 'y'", "not valid TOML"),
        ("[caches.oci-layout]\nurl = 'x'", "'oci-layout' cannot be the name of a cache"),
        ("[caches.lab]\nurl = 'http://h/x'", "caches.lab.url: plain http"),
        ("[caches.lab]\nurl = 'https://h/x'\npush = 'HTTP://h:80'", "caches.lab.push: plain http"),
        ("[caches.lab]\nurl = 'http://127.0.0.1.evil.example/x'", "insecure = true"),
        ("[caches.lab]\nurl = 'http://h/x'\ninsecure = 'yes'", "caches.lab.insecure must be true or false"),
        ("[caches.lab]\nurl = 's3://me:hush@b/x'", "caches.lab.url: an address holds no login"),
        ("[caches.lab]\nurl = 's3://b'\nendpoint_url = 'https://me:hush@h'", "endpoint_url: an address holds no login"),
        ("[caches.lab]\nurl = 's3://b'\nendpoint_url = 'h:9000'", "caches.lab.endpoint_url must be a URL"),
        ("[caches.lab]\nurl = 's3://b'\nendpoint_url = 'https://h:x'", "caches.lab.endpoint_url must be a URL"),
        ("[caches.lab]\nurl = 's3://b'\naccess_key_id_variable = 'ID'", "go together"),
        (
            "[caches.lab]\nurl = 's3://b'\naccess_token_variable = 'hush+='",
            "caches.lab.access_token_variable is not the name of an environment variable",
        ),
        ("spack_mirrors = 1", "spack_mirrors must be text"),
    ],
)
def test_a_mistake_in_our_file_names_file_and_key_and_no_secret(home, text, message):
    own(home, text)
    with pytest.raises(UsageError, match=r"config\.toml") as caught:
        caches(home)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.covers("B42")
@pytest.mark.parametrize(
    "text",
    [
        "url = 'http://h/x'\ninsecure = true",
        "url = 'http://127.0.0.1:8080/x'",
        "url = 'http://localhost/x'",
        "url = 'http://[::1]:80/x'",
        "url = 'oci+http://h:5000/x'",
    ],
)
def test_plain_http_that_is_meant_is_taken(home, text):
    own(home, f"[caches.lab]\n{text}\n")
    assert "http://" in caches(home)["lab"].fetch_url


@pytest.mark.parametrize(
    ("text", "fetch", "push"),
    [
        ("https://h/m", "https://h/m", "https://h/m"),
        ("{url: 's3://b/m'}", "s3://b/m", "s3://b/m"),
        ("{url: 'https://h/m', push: 's3://b/m'}", "https://h/m", "s3://b/m"),
        ("{fetch: 'https://h/m', push: {url: 's3://b/m'}}", "https://h/m", "s3://b/m"),
        ("{fetch: {url: 'https://h/m'}}", "https://h/m", ""),
        ("{pull: 'https://h/m', push: 's3://b/m'}", "https://h/m", "s3://b/m"),
        (
            "{url: 'oci://h.example/m', source: false, autopush: true, new_key: 1}",
            "oci://h.example/m",
            "oci://h.example/m",
        ),
        ("{url: 'https://h/m', fetch: {view: v}}", "https://h/m", "https://h/m"),
        ("{url: 'https://h/m', push: null}", "https://h/m", "https://h/m"),
        ("oci://h.example/m", "oci://h.example/m", "oci://h.example/m"),
        ("oci+http://h:5000/m", "oci+http://h:5000/m", "oci+http://h:5000/m"),
        ("{fetch: {url: 'https://h/m'}, push: {url: 's3://b/m', profile: p}}", "https://h/m", "s3://b/m"),
        ("{url: 'https://h/m', binary: true, source: false, signed: true}", "https://h/m", "https://h/m"),
        ("{url: 'https://h/m', view: v, autopush: false}", "https://h/m", "https://h/m"),
        ("{'url:': 'https://h/m', 'push:': {'url:': 's3://b'}}", "https://h/m", "s3://b"),
        ("{fetch: mirror, push: {url: ../m}}", "file://{home}/.spack/mirror", "file://{home}/m"),
    ],
)
def test_spacks_forms_of_addresses(home, text, fetch, push):
    lab = one(home, text)
    assert (lab.fetch_url, lab.push_url) == (fetch.format(home=home), push.format(home=home))
    assert lab.origin_file == str(home / ".spack" / "mirrors.yaml")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/srv/mirror", "file:///srv/mirror"),
        ("~/mirror", "file://{home}/mirror"),
        ("mirror", "file://{home}/.spack/mirror"),
        ("../my mirror", "file://{home}/my%20mirror"),
        ("$spack/mirror", "file:///opt/spack/mirror"),
        ("${WHERE}/$UNKNOWN", "file:///data/$UNKNOWN".replace("$", "%24")),
        ("${SPACK}/m", "file:///opt/spack/m"),
        ("$env/m", "file:///envs/e/m"),
        ("/srv/$user/m", "file:///srv/{user}/m"),
        ("$spack_home/m", "file://{home}/m"),
        ("$user_cache_path/m", "file://{home}/.spack/m"),
        ("/srv/$platform", "file:///srv/linux"),
        ("file://$spack/m", "file:///opt/spack/m"),
        ("file://~/m", "file://{home}/m"),
        ("file:///srv/m", "file:///srv/m"),
    ],
)
def test_a_path_in_spacks_file_is_what_spack_takes_it_for(home, text, url):
    lab = one(home, f'"{text}"', SPACK_ROOT="/opt/spack", WHERE="/data", SPACK_ENV="/envs/e")
    assert lab.fetch_url == url.format(home=home, user=pwd.getpwuid(os.geteuid()).pw_name)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("[me, hush]", ("me", "hush")),
        ("{id: me, secret: hush}", ("me", "hush")),
        ("{id: me, secret_variable: SECRET}", ("me", "from env")),
        ("{id_variable: ID, secret_variable: SECRET}", ("id from env", "from env")),
        ("[null, null]", ("", "")),
    ],
)
def test_spacks_forms_of_logins(home, pair, expected):
    lab = one(home, f"{{url: 's3://b', access_pair: {pair}}}", ID="id from env", SECRET="from env")
    assert (lab.push.access.key_id, lab.push.access.secret) == expected
    assert lab.push.access.unset == ()


def test_spacks_tokens_and_the_variables_that_are_not_set(home):
    assert one(home, "{url: 's3://b', access_token: coin}").fetch.access.token == "coin"
    named = "{url: 's3://b', access_token_variable: T, access_pair: {id: me, secret_variable: S}}"
    assert one(home, named, T="t", S="s").fetch.access.token == "t"
    assert one(home, named).fetch.access.unset == ("S", "T")


def test_what_is_said_of_a_direction_goes_first(home):
    lab = one(
        home,
        "{url: 's3://b', profile: both, endpoint_url: 'https://a', view: x, signed: false, access_pair: [me, hush],"
        " push: {url: 's3://c', profile: mine, endpoint_url: 'https://b', view: y, access_pair: [you, hush]}}",
    )
    assert (lab.fetch.profile, lab.fetch.endpoint_url, lab.fetch.view) == ("both", "https://a", "x")
    assert (lab.push.profile, lab.push.endpoint_url, lab.push.view) == ("mine", "https://b", "y")
    assert (lab.fetch.access.key_id, lab.push.access.key_id) == ("me", "you")
    assert lab.signed is False


def test_a_registry_is_not_signed_for_spack_whatever_is_said(home):
    assert one(home, "{url: 'oci://h/x', signed: true}").signed is None


def test_mirrors_of_sources_are_left_out(home):
    spack(home, "mirrors:\n  src: {url: 'https://h', binary: false}\n  bin: {url: 'https://h', binary: true}\n")
    assert list(caches(home)) == ["bin"]


def test_which_file_wins(home):
    for number, file in enumerate(
        [".spack/linux/mirrors.yaml", ".spack/mirrors.yaml", "root/etc/spack/mirrors.yaml"], start=1
    ):
        names = "".join(f"  m{n}: https://from{number}\n" for n in range(number + 1))
        spack(home, f"mirrors:\n{names}", file)
    own(home, '[caches.m0]\nurl = "https://ours"\n')
    found = caches(home, SPACK_ROOT=str(home / "root"))
    urls = {name: cache.fetch_url for name, cache in sorted(found.items())}
    assert urls == {"m0": "https://ours", "m1": "https://from1", "m2": "https://from2", "m3": "https://from3"}
    assert list(caches(home, SPACK_DISABLE_LOCAL_CONFIG="1")) == ["m0"]


def test_the_users_folder_may_be_elsewhere_and_two_colons_end_the_search(home):
    spack(home, "mirrors::\n  only: https://h\n", "elsewhere/mirrors.yaml")
    spack(home, "mirrors:\n  more: https://h\n", "root/etc/spack/mirrors.yaml")
    env = {"SPACK_USER_CONFIG_PATH": str(home / "elsewhere"), "SPACK_ROOT": str(home / "root")}
    assert list(caches(home, **env)) == ["only"]


def test_spacks_file_can_be_named_or_left_alone(home):
    spack(home, "mirrors:\n  theirs: https://h\n")
    named = spack(home, "mirrors:\n  site: https://h\n", "site.yaml")
    own(home, 'spack_mirrors = "~/site.yaml"')
    assert {name: cache.origin_file for name, cache in caches(home).items()} == {"site": named}
    own(home, 'spack_mirrors = ""')
    assert caches(home) == {}
    own(home, 'spack_mirrors = "/absent.yaml"')
    with pytest.raises(UsageError, match="no such file"):
        caches(home)


@pytest.mark.parametrize("text", ["", "mirrors:\n", "mirrors: {}\n", "# nothing\n"])
def test_an_empty_file_has_no_mirrors(home, text):
    spack(home, text)
    assert caches(home) == {}


@pytest.mark.covers("B42")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "mirrors.lab must be a URL or a mapping, not a number"),
        ("{url: 3}", "mirrors.lab.url must be text, not a number"),
        ("{url: 'https://h', signed: 'yes'}", "mirrors.lab.signed must be true or false, not text"),
        ("{url: 'https://h', push: [a]}", "mirrors.lab.push must be a URL or a mapping, not a list"),
        ("{url: 'https://h', push: {profile: 1}}", "mirrors.lab.push.profile must be text, not a number"),
        ("{signed: true}", "mirrors.lab has no url"),
        ("{url: 's3://b', access_pair: [hush]}", "mirrors.lab.access_pair must be a list of two texts"),
        ("{url: 's3://b', access_pair: [hush, 1]}", "mirrors.lab.access_pair must be a list of two texts"),
        ("{url: 's3://b', access_pair: hush}", "mirrors.lab.access_pair must be a list of two texts, or a mapping"),
        ("{url: 's3://b', access_pair: {id: me}}", "mirrors.lab.access_pair lacks an id or a secret"),
        (
            "{url: 's3://b', access_pair: {id: me, secret_variable: 'hush='}}",
            "mirrors.lab.access_pair.secret_variable is not the name of an environment variable",
        ),
        ("{url: 's3://b', access_token_variable: 'hush='}", "mirrors.lab.access_token_variable is not the name"),
        ("{url: 'hush", "not valid YAML"),
        ("https://h\n  lab: https://g", "line 3: the key 'lab' comes twice"),
        ("{url: https://h, url: https://g}", "the key 'url' comes twice"),
        ("{? [a, b] : c}", "comes twice or is no text"),
        ("!!python/object:os.system {}", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_a_mistake_in_spacks_file_names_file_and_key_and_no_secret(home, text, message):
    found = mistake(home, text)
    assert message in found
    assert "hush" not in found


@pytest.mark.covers("B42")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "a mapping with the key mirrors is expected"),
        ("mirrors: [a]", "mirrors must be a mapping, not a list"),
        ("# " + "x" * (4 * 1024**2), "larger than"),
    ],
)
def test_a_file_that_holds_something_else(home, text, message):
    spack(home, text)
    with pytest.raises(UsageError, match=message):
        caches(home)


def test_a_folder_in_the_place_of_the_file(home):
    (home / ".spack" / "mirrors.yaml").mkdir()
    with pytest.raises(UsageError, match=r"mirrors\.yaml: Is a directory"):
        caches(home)


def test_a_url_is_shown_without_its_login():
    assert shown("https://me:hush@h/x") == "https://***@h/x"
    assert shown("https://h/x@y") == "https://h/x@y"
    assert shown("oci-layout:/a@b") == "oci-layout:/a@b"


def wiring(home, events=None, **env):
    return CacheOpener(load_settings({"HOME": str(home), **env}), events.append if events is not None else ignore)


def test_a_name_stands_for_where_it_is_read_or_written(home):
    own(home, '[caches.lab]\nurl = "oci://h/read"\npush = "oci://h/write"\n')
    spack(home, "mirrors:\n  a name: https://h/m\n")
    found = wiring(home)
    assert found.location("lab").text == "oci://h/read"
    assert found.location("lab:tag").reference == "tag"
    assert found.location("lab", writing=True).text == "oci://h/write"
    assert found.location("a name").url == "https://h/m"
    assert found.location("oci-layout:/x").path == "/x"
    with pytest.raises(UsageError, match="no cache named 'other'\n  configured names: a name, lab"):
        found.location("other")


def test_an_address_that_nobody_understands_names_its_file(home):
    one(home, "xyz://bucket/x")
    with pytest.raises(UsageError, match=r"mirrors\.yaml: lab: not a cache: 'xyz://bucket/x'"):
        wiring(home).location("lab")


def test_a_missing_login_is_told_once_when_reading(home):
    one(home, "{url: 's3://b', access_token_variable: TOKEN}")
    events: list[Any] = []
    found = wiring(home, events)
    found.location("lab")
    found.location("lab")
    assert ["TOKEN; it is read without a login" in event.text for event in events] == [True]


def test_a_view_and_a_login_reach_the_cache(home, monkeypatch):
    own(home, f'[caches.lab]\nurl = "file://{home}/m"\nview = "stable"\nprofile = "p"\n')
    opened = []

    def objects(_self, url, endpoint):
        opened.append((url, endpoint.profile))
        return FileObjects(url.removeprefix("file://"))

    monkeypatch.setattr(Connections, "objects", objects)
    found = wiring(home)
    location = found.location("lab")
    assert isinstance(location, ConfiguredLocation)
    assert location.view == "stable"
    assert "stable" in found.cache("lab")._index
    assert opened == [(f"file://{home}/m", "p")]


@pytest.mark.parametrize(
    ("signed", "flags", "message"),
    [
        ("false", AskedTrust(), ""),
        ("false", AskedTrust(unsigned=True), ""),
        ("true", AskedTrust(), "add --key KEY"),
        ("true", AskedTrust(unsigned=True), ""),
    ],
)
@pytest.mark.parametrize("url", ["file://{home}/m", "oci-layout:{home}/l"])
def test_whether_a_cache_is_signed_need_not_be_said_each_time(home, url, signed, flags, message):
    own(home, f'[caches.lab]\nurl = "{url.format(home=home)}"\nsigned = {signed}\n')
    verbs = [wiring(home).target, *([wiring(home).images] if url.startswith("oci") else [])]
    for verb in verbs:
        if message:
            with pytest.raises(UsageError) as caught:
                verb("lab", flags)
            assert message in words(caught.value.hint)
        else:
            assert verb("lab", flags)


def test_each_login_has_a_client_of_its_own_and_goes_before_files():
    connections = Connections(Settings(home="/nowhere", docker_config="/nowhere"), ignore)
    mine = CacheEndpoint(access=Access("me", "hush"))
    token = CacheEndpoint(access=Access(token="coin"))
    keychain = connections._keychain_with("registry.example", mine.access)
    assert keychain.find("registry.example", "apps").username == "me"
    assert keychain.find("elsewhere.example") is None
    assert connections._keychain_with("h", token.access).find("h").registry_token == "coin"
    clients = {connections._client("https://h", endpoint.access) for endpoint in (mine, mine, token, CacheEndpoint())}
    assert len(clients) == 3


def test_plain_http_elsewhere_is_told_once():
    events: list[Any] = []
    connections = Connections(Settings(home="/nowhere", docker_config="/nowhere"), events.append)
    for url in ("http://127.0.0.1:1/m", "https://h/m", "http://h/m", "http://h/m"):
        connections.objects(url)
    assert [event.text.split()[0] for event in events] == ["http://h/m"]


def test_a_login_is_not_sent_in_clear(monkeypatch):
    connections = Connections(Settings(home="/nowhere", docker_config="/nowhere"), ignore)
    known = []
    client = connections._client
    monkeypatch.setattr(
        connections, "_client", lambda origin, access: known.append(access.is_known) or client(origin, access)
    )
    for url in ("https://h/m", "http://h/m", "http://localhost:1/m"):
        connections.objects(url, CacheEndpoint(url, access=Access("me", "hush")))
    assert known == [True, False, True]


def test_what_fsspec_is_told_of_a_login():
    pair = Access("me", "hush")
    assert fsspec_options("sftp", CacheEndpoint(access=pair)) == {"username": "me", "password": "hush"}
    assert fsspec_options("az", CacheEndpoint(access=pair)) == {"account_name": "me", "account_key": "hush"}
    assert fsspec_options("gs", CacheEndpoint(endpoint_url="https://h")) == {"endpoint_url": "https://h"}
    for scheme, access in (("gs", pair), ("sftp", Access(token="hush"))):
        with pytest.raises(UsageError, match=f"{scheme}:// takes no such login") as caught:
            fsspec_options(scheme, CacheEndpoint(access=access))
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("sftp://me@h/x", False),
        ("abfs://box@account.example/x", False),
        ("sftp://me:hush@h/x", True),
        ("https://me@h/x", True),
        ("s3://me@b", True),
    ],
)
def test_what_counts_as_a_login_in_an_address(url, has):
    assert has_login(url) is has
