"""Settings: defaults, then the configuration file, then the environment, then flags. Read here and nowhere else.

The file is `config.toml` in the user's configuration folder (or `$OCI_BINPKG_CONFIG`):

    store = "/opt/spack/opt"            # the install tree where none is named
    compression = "balanced"
    pyc = true                          # compiled Python is current in layers
    jobs = 4
    retries = 5
    timeout = 60                        # seconds without an answer, or below 1 KiB/s
    lock_timeout = 120                  # seconds to wait for another process that holds a lock
    signing_key = "ci@example.org"      # signs where packages have to be signed and no key is named
    index_ttl = 600                     # seconds for which an index that was read is believed
    shared = true                       # the layer cache may be in a folder that other users write, too
    spack_mirrors = "/site/mirrors.yaml"  # instead of Spack's own files; "" for none
    [caches.lab]                        # a CACHE by name: see `caches`
    url = "oci://registry.example/lab"
    [registries."registry.example"]
    ca_file = "/etc/ssl/lab.pem"
    servers = ["http://10.0.0.5:9000"]  # where else it may send us: plain http, private networks, for uploads
    [trust]                             # which caches have to be signed: see `trust_policy`
    default = "require-signature"
    [layer_cache]
    path = "~/.cache/oci-binpkg/layers"
    max_size = "20 GiB"
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from oci_binpkg.config.caches import (
    CacheSettings,
    SpackMirrors,
    SpackPlaces,
    parse_caches,
)
from oci_binpkg.config.scene import home_in
from oci_binpkg.config.tables import MAX_BYTES, Kinds, check_table, tables
from oci_binpkg.config.trust_policy import TrustPolicy, parse_trust
from oci_binpkg.disk import read_regular
from oci_binpkg.errors import ContentError, UsageError
from oci_binpkg.events import Observer, Warned
from oci_binpkg.file_lock import LOCK_TIMEOUT, Patience
from oci_binpkg.model.toml_documents import parse_toml
from oci_binpkg.times import SYSTEM_TIME, Time

if TYPE_CHECKING:
    from oci_binpkg.transport.addresses import Origin
if TYPE_CHECKING:
    pass

GIB: Final = 1024**3
DEFAULT_LAYER_CACHE: Final = 20 * GIB
_UNITS: Final = {"": 1, "B": 1, "KIB": 1024, "MIB": 1024**2, "GIB": GIB, "KB": 10**3, "MB": 10**6, "GB": 10**9}
MAX_INDEX_TTL: Final = 31_536_000
MAX_FILE_BYTES: Final = 4 * 1024**2
_KEYS: Final[Mapping[str, Kinds]] = {
    "store": (str,),
    "compression": (str,),
    "pyc": (bool,),
    "jobs": (int,),
    "retries": (int,),
    "timeout": (int, float),
    "lock_timeout": (int, float),
    "shared": (bool,),
    "spack_prefix": (str,),
    "spack_mirrors": (str,),
    "caches": (dict,),
    "registries": (dict,),
    "layer_cache": (dict,),
    "trust": (dict,),
    "signing_key": (str,),
    "index_ttl": (int, float),
}
_REGISTRY: Final[Mapping[str, Kinds]] = {"ca_file": (str,), "servers": (list,)}
_CERTIFICATE_FOLDERS: Final = ("/etc/docker/certs.d", "/etc/containers/certs.d")


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the commands that are not on their command line. Paths are absolute, sizes in bytes.

    `upstreams` are the trees that Spack's `upstreams.yaml` names, the first that counts first. `spack_places` is where
    its other files are, None if they are not to be read. `remarks` are about the
    parts of Spack's configuration that were not read. `source_date` is the text of `SOURCE_DATE_EPOCH`.
    """

    store: str = ""
    compression: str = ""
    pyc: bool = True
    jobs: int = 0
    retries: int | None = None
    timeout: float | None = None
    lock_timeout: float = LOCK_TIMEOUT
    shared: bool = False
    signing_key: str = ""
    index_ttl: float | None = None
    spack_prefix: str = ""
    upstreams: tuple[str, ...] = ()
    spack_places: SpackPlaces | None = field(default=None, repr=False)
    config_file: str = ""
    caches: Mapping[str, CacheSettings] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    trust: TrustPolicy = field(default_factory=TrustPolicy)
    ca_files: Mapping[str, str] = field(default_factory=dict)
    servers: Mapping[str, tuple[Origin, ...]] = field(default_factory=dict)
    ca_file: str = ""
    layer_cache: str = ""
    keyring: str = ""
    catalog: str = ""
    layer_cache_size: int = DEFAULT_LAYER_CACHE
    docker_config: str = ""
    auth_file: str = ""
    runtime_dir: str = ""
    home: str = ""
    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""
    engine_sockets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    color: bool = True
    source_date: str = ""

    def ca_file_of(self, host: str) -> str:
        """Return the CA file for `host[:port]`: our own, one where docker and podman look, or the general one."""
        if host in self.ca_files:
            return self.ca_files[host]
        folders = (*_CERTIFICATE_FOLDERS, f"{self.home}/.config/containers/certs.d")
        candidates = (f"{folder}/{host}/ca.crt" for folder in folders)
        return next((path for path in candidates if os.path.isfile(path)), self.ca_file)


def load_settings(environment: Mapping[str, str] | None = None, *, file: str = "") -> Settings:
    """Read the configuration file and the environment. Raises `UsageError` naming file, key and what is allowed.

    `file` is read in place of the user's own configuration file.
    """
    env = _environment(environment, file)
    home = home_in(env)
    path = config_path(env)
    document = parse_config(_read(path, required=bool(env.get("OCI_BINPKG_CONFIG"))), path)
    spack_prefix = env.get("SPACK_ROOT") or document.get("spack_prefix", "")
    layer_cache = _table(document, "layer_cache", {"path": (str,), "max_size": (str, int)}, path)
    caches = env.get("XDG_CACHE_HOME") or f"{home}/.cache"
    runtime = env.get("XDG_RUNTIME_DIR", "")
    own = parse_caches(document, path, env)
    theirs = _spack_mirrors(document, SpackPlaces(home, spack_prefix, env))
    return Settings(
        store=env.get("OCI_BINPKG_STORE") or _path(document.get("store", ""), home),
        compression=env.get("OCI_BINPKG_COMPRESSION") or document.get("compression", ""),
        pyc=document.get("pyc", True),
        jobs=document.get("jobs", 0),
        retries=_count(env["OCI_BINPKG_RETRIES"]) if "OCI_BINPKG_RETRIES" in env else document.get("retries"),
        timeout=_seconds("timeout", env, document, path),
        lock_timeout=_seconds("lock_timeout", env, document, path) or LOCK_TIMEOUT,
        shared=_switch(env["OCI_BINPKG_SHARED"]) if env.get("OCI_BINPKG_SHARED") else document.get("shared", False),
        signing_key=document.get("signing_key", ""),
        index_ttl=_age(document.get("index_ttl"), path),
        spack_prefix=spack_prefix,
        upstreams=_spack_upstreams(document, SpackPlaces(home, spack_prefix, env)),
        spack_places=None if document.get("spack_mirrors") == "" else SpackPlaces(home, spack_prefix, env),
        config_file=path,
        caches={**theirs.caches, **own},
        remarks=tuple(theirs.remarks),
        trust=parse_trust(document, path, {**theirs.caches, **own}),
        ca_files=_ca_files(document, path, home),
        servers=_servers(document, path),
        ca_file=env.get("OCI_BINPKG_CA_FILE") or env.get("REQUESTS_CA_BUNDLE") or env.get("SSL_CERT_FILE") or "",
        layer_cache=env.get("OCI_BINPKG_LAYER_CACHE")
        or _path(layer_cache.get("path", ""), home)
        or f"{caches}/oci-binpkg/layers",
        catalog=f"{caches}/oci-binpkg/catalog.sqlite",
        keyring=f"{env.get('XDG_DATA_HOME') or f'{home}/.local/share'}/oci-binpkg/keyring",
        layer_cache_size=_size(layer_cache.get("max_size", DEFAULT_LAYER_CACHE), f"{path}: layer_cache.max_size"),
        docker_config=env.get("DOCKER_CONFIG") or f"{home}/.docker",
        auth_file=env.get("REGISTRY_AUTH_FILE", ""),
        runtime_dir=runtime,
        home=home,
        proxies=_proxies(env),
        no_proxy=env.get("no_proxy") or env.get("NO_PROXY") or "",
        engine_sockets=_sockets(env, runtime),
        color=not env.get("NO_COLOR"),
        source_date=env.get("SOURCE_DATE_EPOCH", ""),
    )


def config_path(environment: Mapping[str, str] | None = None) -> str:
    """Return the path of the configuration file, whether it exists or not."""
    env = _environment(environment)
    folder = env.get("XDG_CONFIG_HOME") or f"{home_in(env)}/.config"
    return env.get("OCI_BINPKG_CONFIG") or f"{folder}/oci-binpkg/config.toml"


def parse_config(data: bytes, path: str) -> dict[str, Any]:
    """Return the tables of a configuration file, whose own keys are checked. Raises `UsageError`."""
    try:
        document = parse_toml(data, path)
    except ContentError as error:
        raise UsageError(error.message) from error
    check_table(document, _KEYS, path, "")
    return document


def load_lock_timeout(environment: Mapping[str, str] | None = None, *, file: str = "") -> float:
    """Return how many seconds to wait for a lock; the rest of the configuration is not read."""
    env = _environment(environment, file)
    path = config_path(env)
    return _seconds("lock_timeout", env, parse_config(_read(path, required=False), path), path) or LOCK_TIMEOUT


def _environment(given: Mapping[str, str] | None, file: str = "") -> Mapping[str, str]:
    env = os.environ if given is None else given
    return {**env, "OCI_BINPKG_CONFIG": file} if file else env


def _read(path: str, *, required: bool) -> bytes:
    try:
        return read_regular(path, MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise UsageError(f"{path}: no such file", hint="OCI_BINPKG_CONFIG names it") from None
        return b""
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="OCI_BINPKG_CONFIG may name another file") from None


def _table(document: Mapping[str, Any], key: str, allowed: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    table = document.get(key, {})
    check_table(table, allowed, path, f"{key}.")
    return dict(table)


def _spack_mirrors(document: Mapping[str, Any], places: SpackPlaces) -> SpackMirrors:
    """Read the mirrors of Spack's own configuration, or of the file that takes its place."""
    named = document.get("spack_mirrors")
    if named == "" or (named is None and not any(os.path.lexists(path) for path in places.files_of("mirrors"))):
        return SpackMirrors({})
    from oci_binpkg.config.spack_mirrors import read_spack_mirrors  # noqa: PLC0415 - YAML takes long to import

    return read_spack_mirrors(places, _path(named or "", places.home))


def _spack_upstreams(document: Mapping[str, Any], places: SpackPlaces) -> tuple[str, ...]:
    """Return the trees that `upstreams.yaml` names in Spack's scopes. Raises `UsageError` naming file and key."""
    files = [path for folder in places.folders if os.path.lexists(path := f"{folder}/upstreams.yaml")]
    if not files or document.get("spack_mirrors") == "":
        return ()
    from oci_binpkg.config.spack_scopes import upstream_trees  # noqa: PLC0415 - YAML takes long to import

    return upstream_trees(files, places)


def _ca_files(document: Mapping[str, Any], path: str, home: str) -> dict[str, str]:
    registries = tables(document, "registries", _REGISTRY, path)
    return {host: _path(table["ca_file"], home) for host, table in registries.items() if "ca_file" in table}


def _servers(document: Mapping[str, Any], path: str) -> dict[str, tuple[Origin, ...]]:
    registries = tables(document, "registries", _REGISTRY, path)
    if not registries:
        return {}
    from oci_binpkg.transport.addresses import Origin, UnsafeAddressError  # noqa: PLC0415 - few name any

    found = {}
    for host, table in registries.items():
        try:
            found[host] = tuple(Origin.parse(url if isinstance(url, str) else "") for url in table.get("servers", ()))
        except UnsafeAddressError as error:
            what = f"{path}: registries.{host}.servers: one is no server: {error}"
            raise UsageError(what, hint="as https://storage.example or http://10.0.0.5:9000") from None
    return found


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise UsageError(f"OCI_BINPKG_RETRIES={text[:40]!r}: a number is expected", hint="0 to 9999")
    return int(text)


def _switch(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in values:
        raise UsageError(f"OCI_BINPKG_SHARED={text[:40]!r}: a yes or no is expected", hint="1 or 0")
    return values[text.lower()]


def _seconds(key: str, env: Mapping[str, str], document: Mapping[str, Any], path: str) -> float | None:
    variable = f"OCI_BINPKG_{key.upper()}"
    value = env.get(variable) or document.get(key)
    if value is None:
        return None
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not float(text):
        where = variable if env.get(variable) else f"{path}: {key}"
        raise UsageError(f"{where}: not a number of seconds: {text[:40]!r}", hint="0.001 to 9999")
    return float(text)


def _age(value: float | None, path: str) -> float | None:
    """Return for how many seconds an index is believed; 0 asks each time."""
    if value is not None and not 0 <= value <= MAX_INDEX_TTL:
        raise UsageError(f"{path}: index_ttl: {value} is no number of seconds", hint=f"0 to {MAX_INDEX_TTL}")
    return value


def _size(value: str | int, what: str) -> int:
    match = re.fullmatch(r"([0-9]{1,19}(?:\.[0-9]+)?)\s*([A-Za-z]*)", str(value).strip())
    if match is None or match[2].upper() not in _UNITS:
        raise UsageError(
            f"{what}: not a size: {str(value)[:40]!r}", hint="write a number with B, KiB, MiB, GiB, kB, MB or GB"
        )
    size = int(Decimal(match[1]) * _UNITS[match[2].upper()])
    if size > MAX_BYTES:
        raise UsageError(f"{what} is too large", hint=f"at most {MAX_BYTES} bytes")
    return size


def _path(text: str, home: str) -> str:
    if not text:
        return ""
    return os.path.abspath(f"{home}{text[1:]}" if text == "~" or text.startswith("~/") else text)


def _proxies(env: Mapping[str, str]) -> dict[str, str]:
    # HTTP_PROXY in capitals is left alone on purpose where a web server may set it from a Proxy header (httpoxy)
    found = {
        "http": env.get("http_proxy") or ("" if "REQUEST_METHOD" in env else env.get("HTTP_PROXY", "")),
        "https": env.get("https_proxy") or env.get("HTTPS_PROXY") or "",
    }
    fallback = env.get("all_proxy") or env.get("ALL_PROXY") or ""
    return {scheme: proxy or fallback for scheme, proxy in found.items() if proxy or fallback}


def _sockets(env: Mapping[str, str], runtime: str) -> dict[str, tuple[str, ...]]:
    docker = [env["DOCKER_HOST"]] if env.get("DOCKER_HOST") else ["unix:///var/run/docker.sock"]
    podman = [env["CONTAINER_HOST"]] if env.get("CONTAINER_HOST") else []
    if runtime:
        docker.append(f"unix://{runtime}/docker.sock")
        podman.append(f"unix://{runtime}/podman/podman.sock")
    podman.append("unix:///run/podman/podman.sock")
    return {"docker": tuple(docker), "podman": tuple(podman)}


def patience(timeout: float, observer: Observer, time: Time = SYSTEM_TIME) -> Patience:
    """Return a patience of so many seconds that reports what it waits for."""

    def tell(path: str) -> None:
        observer(Warned(f"waiting for another process that holds {path}"))

    return Patience(timeout, tell, time)
