"""A FIFO, device or socket in the place of a file with certificates ends in one line: OpenSSL would wait for it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.bad_mirrors import configure, nobody
from tests.support.command_line import binpkg


def made(kind: str, path: Path) -> Path:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    return path


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
@pytest.mark.parametrize("variable", ["OCI_BINPKG_CA_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "ca_file", "s3"])
def test_what_is_no_file_is_refused(isolated_home, monkeypatch, tmp_path, kind, variable):
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    path, host = made(kind, Path("it")), nobody()
    cache = f"https://{host}/apps"
    if variable == "ca_file":
        configure(isolated_home, f'[registries."{host}"]\nca_file = "{tmp_path}/it"\n')
    else:
        monkeypatch.setenv("SSL_CERT_FILE" if variable == "s3" else variable, str(path))
        cache = "s3://bucket/apps" if variable == "s3" else cache
    ended = binpkg("find", "--from", cache)
    assert ended.code == 2
    assert "not a file with certificates" in ended.err


def test_a_folder_and_a_file_are_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("OCI_BINPKG_RETRIES", "0")
    for path in (tmp_path, tmp_path / "file"):
        (tmp_path / "file").touch()
        monkeypatch.setenv("OCI_BINPKG_CA_FILE", str(path))
        assert binpkg("find", "--from", f"oci+http://{nobody()}/apps").code == 20
