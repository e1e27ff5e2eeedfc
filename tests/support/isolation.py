"""An environment in which a test can neither read nor change anything of the user's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_PREFIXES = ("OCI_BINPKG_", "AWS_", "SPACK_")
_REMOVED = (
    *("REGISTRY_AUTH_FILE", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"),
    *("CONTAINER_HOST", "CONTAINERS_CONF", "NETRC", "GNUPGHOME", "SOURCE_DATE_EPOCH"),
    *("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES"),
)
_DIRECTORIES = {
    "HOME": "",
    "XDG_CONFIG_HOME": ".config",
    "XDG_CACHE_HOME": ".cache",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
    "XDG_RUNTIME_DIR": "run",
    "DOCKER_CONFIG": ".docker",
    "SPACK_SYSTEM_CONFIG_PATH": ".no-system-wide-spack",
}


def isolate(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Point every per-user directory below `home` and forget logins, proxies, trust and display settings."""
    for name in list(os.environ):
        if name in _REMOVED or name.startswith(_PREFIXES):
            patch.delenv(name)
    for name, below in _DIRECTORIES.items():
        patch.setenv(name, str(home / below))


@pytest.fixture(scope="session", autouse=True)
def isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures that live longer than one test."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("session-home"))
        yield


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Names of homes that nobody has had; `mktemp` would list all earlier ones for each."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def isolated_home(isolated_session: None, homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of this one test: empty, and nobody else's."""
    home = next(homes)
    home.mkdir(mode=0o700)
    isolate(monkeypatch, home)
    return home
