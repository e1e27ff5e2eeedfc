"""Where settings come from, and what a mistake in the file looks like."""

import pytest

from oci_binpkg.cli.terminal import stderr_is_terminal
from oci_binpkg.config.caches import CacheEndpoint
from oci_binpkg.config.settings import GIB, load_settings
from oci_binpkg.connections import Connections, s3_settings
from oci_binpkg.errors import UsageError
from oci_binpkg.events import ignore
from oci_binpkg.model.reference import parse_repository
from oci_binpkg.transport.addresses import Origin, UnsafeAddressError


def settings(tmp_path, text="", **env):
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_settings({"HOME": "/home/me", "OCI_BINPKG_CONFIG": str(file), **env})


def test_defaults_need_nothing():
    found = load_settings({"HOME": "/nowhere"})
    assert found.layer_cache == "/nowhere/.cache/oci-binpkg/layers"
    assert found.layer_cache_size == 20 * GIB
    assert found.docker_config == "/nowhere/.docker"
    assert found.engine_sockets["docker"] == ("unix:///var/run/docker.sock",)
    assert found.color
    assert found.retries is None


def test_the_file_is_read(tmp_path):
    found = settings(
        tmp_path,
        """
        store = "~/apps"
        jobs = 3
        retries = 0
        [caches.lab]
        url = "oci://registry.example/lab"
        [registries."registry.example"]
        ca_file = "~/lab.pem"
        [layer_cache]
        path = "/big/layers"
        max_size = "1.5 GiB"
        """,
    )
    assert found.store == "/home/me/apps"
    assert (found.jobs, found.retries) == (3, 0)
    assert found.caches["lab"].fetch_url == "oci://registry.example/lab"
    assert found.ca_file_of("registry.example") == "/home/me/lab.pem"
    assert (found.layer_cache, found.layer_cache_size) == ("/big/layers", int(1.5 * GIB))


def test_how_long_to_wait_reaches_every_kind_of_server(tmp_path):
    assert settings(tmp_path, "").timeout is None
    assert settings(tmp_path, "timeout = 5").timeout == 5.0
    found = settings(tmp_path, "timeout = 5", OCI_BINPKG_TIMEOUT="0.5")
    limits = Connections(found, ignore).transport("h", plain=False).timeouts
    assert (limits.connect, limits.idle, limits.slow_window) == (0.5, 0.5, 0.5)
    bucket = s3_settings(CacheEndpoint("s3://b"), found)
    assert (bucket.connect_timeout, bucket.read_timeout) == (0.5, 0.5)
    with pytest.raises(UsageError, match="OCI_BINPKG_TIMEOUT: not a number of seconds: 'soon'"):
        settings(tmp_path, "", OCI_BINPKG_TIMEOUT="soon")


def test_the_environment_wins(tmp_path):
    found = settings(
        tmp_path,
        'store = "/a"\nretries = 3',
        OCI_BINPKG_STORE="/b",
        OCI_BINPKG_RETRIES="7",
        NO_COLOR="1",
        XDG_RUNTIME_DIR="/run/user/1",
        DOCKER_HOST="tcp://127.0.0.1:2375",
        CONTAINER_HOST="unix:///p.sock",
        https_proxy="http://proxy:1",
        ALL_PROXY="http://all:2",
        NO_PROXY="a,b",
    )
    assert (found.store, found.retries, found.color) == ("/b", 7, False)
    assert found.engine_sockets["docker"][0] == "tcp://127.0.0.1:2375"
    assert found.engine_sockets["podman"][0] == "unix:///p.sock"
    assert found.proxies == {"https": "http://proxy:1", "http": "http://all:2"}
    assert found.no_proxy == "a,b"


def test_a_proxy_header_of_a_web_server_is_not_taken_for_a_setting():
    assert load_settings({"HOME": "/x", "HTTP_PROXY": "http://evil", "REQUEST_METHOD": "GET"}).proxies == {}


def test_certificates_are_found_where_podman_looks(tmp_path):
    folder = tmp_path / ".config" / "containers" / "certs.d" / "registry.example:5000"
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_text("x")
    found = load_settings({"HOME": str(tmp_path), "SSL_CERT_FILE": "/all.pem"})
    assert found.ca_file_of("registry.example:5000") == str(folder / "ca.crt")
    assert found.ca_file_of("other") == "/all.pem"


@pytest.mark.covers("F41", "R09")
def test_servers_that_a_registry_may_send_us_to(tmp_path):
    text = '[registries."reg.example"]\nservers = ["http://10.0.0.5:9000", "https://Store.example:443/"]\n'
    connections = Connections(settings(tmp_path, text), ignore)
    store = connections.registry(parse_repository("reg.example/apps"))
    assert store._remote.settings.upload_origins == {"http://10.0.0.5:9000", "https://store.example"}
    home = Origin.parse("http://reg.example")
    named = connections.transport("reg.example", plain=False).neighbours
    assert str(named.check_target("http://10.0.0.5:9000/x", home, home)) == "http://10.0.0.5:9000"
    others = connections.transport("other.example", plain=False).neighbours
    for neighbours, url in ((others, "http://10.0.0.5:9000/x"), (named, "http://10.0.0.5:9001/x")):
        with pytest.raises(UnsafeAddressError):
            neighbours.check_target(url, home, home)


@pytest.mark.covers("B42")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[registries.h]\nservers = 'https://h'", "registries.h.servers must be a list, not text"),
        ("[registries.h]\nservers = ['h:9000']", "registries.h.servers: one is no server"),
        ("[registries.h]\nservers = [1]", "registries.h.servers: one is no server"),
        ("[registries.h]\nservers = ['https://me:hush@h']", "registries.h.servers: one is no server: it holds a login"),
        ("stor = 1", "unknown key 'stor'"),
        ("store = 1", "store must be text, not a number"),
        ("jobs = true", "jobs must be a number"),
        ("jobs = -1", "must not be negative"),
        ("[caches]\nlab = 1", "caches.lab must be a table"),
        ("[caches.lab]", "has no url"),
        ("[caches.lab]\nurl = 1", "caches.lab.url must be text"),
        ("[caches.lab]\nuri = 'x'", "unknown key 'caches.lab.uri'"),
        ("[caches.'a b']\nurl = 'x'", "cannot be the name of a cache"),
        ("[layer_cache]\nmax_size = 'much'", "not a size: 'much'"),
        ("[layer_cache]\nmax_size = '5 XB'", "not a size"),
        ("store = ", "not valid TOML"),
        ("store = 1979-05-27", "store must be text, not date"),
        ("jobs = 10001", "jobs is too large\n  at most 10000"),
        ("retries = 99999999999999999999999999", "retries is too large"),
        ("timeout = 0", "timeout: not a number of seconds: '0'"),
        ("timeout = 1e9", "timeout: not a number of seconds: '1000000000.0'"),
        ("timeout = nan", "timeout: not a number of seconds: 'nan'"),
        ("timeout = '5'", "timeout must be a number or a fraction, not text"),
        ("retries = " + "9" * 5000, "a number too large"),
        ("[layer_cache]\nmax_size = 9223372036854775808", "layer_cache.max_size is too large"),
        ("[layer_cache]\nmax_size = '9999999999 GiB'", "layer_cache.max_size is too large"),
        ("[layer_cache]\nmax_size = '" + "9" * 5000 + "'", "not a size"),
        ("a = " + "[" * 100_000, "not valid TOML"),
        ("#" * (4 * 1024**2 + 1), "larger than 4194304 bytes"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path, text, message):
    with pytest.raises(UsageError, match=r"config\.toml") as caught:
        settings(tmp_path, text)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"store = '\xff'")
    with pytest.raises(UsageError, match=r"config\.toml: not valid TOML: not UTF-8"):
        load_settings({"HOME": "/x", "OCI_BINPKG_CONFIG": str(tmp_path / "config.toml")})


def test_a_file_that_is_named_must_exist(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load_settings({"HOME": "/x", "OCI_BINPKG_CONFIG": str(tmp_path / "absent.toml")})
    with pytest.raises(UsageError, match="directory"):
        load_settings({"HOME": "/x", "OCI_BINPKG_CONFIG": str(tmp_path)})


@pytest.mark.parametrize("text", ["many", "-1", "9" * 5000, ""])
def test_a_number_in_the_environment_must_be_one(text):
    with pytest.raises(UsageError, match="OCI_BINPKG_RETRIES"):
        load_settings({"HOME": "/x", "OCI_BINPKG_RETRIES": text})


def test_a_test_is_no_terminal():
    assert stderr_is_terminal() in (True, False)
