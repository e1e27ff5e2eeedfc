"""Throw-away certificates, made with the openssl command: an authority and a server certificate for loopback."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.real.components import command_path
from tests.support.real.process import clean_environment, run_tool

_SERVER_EXTENSIONS = """\
basicConstraints=CA:FALSE
extendedKeyUsage=serverAuth
subjectAltName=DNS:localhost,IP:127.0.0.1
"""


@dataclass(frozen=True, slots=True)
class Authority:
    """A self-signed authority in a directory, and what it signed.

    `trust_directory` holds only the authority's certificate as `ca.crt`, the shape that `--cert-dir` of skopeo and
    podman asks for.
    """

    directory: Path

    @property
    def ca_file(self) -> Path:
        return self.directory / "trust" / "ca.crt"

    @property
    def trust_directory(self) -> Path:
        return self.directory / "trust"

    @property
    def ca_key(self) -> Path:
        return self.directory / "ca.key"

    @property
    def server_certificate(self) -> Path:
        return self.directory / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.directory / "server.key"

    def sign(self, message: bytes) -> bytes:
        """RSA PKCS#1 v1.5 over SHA-256 with the authority's key: what JWT calls RS256."""
        argv = [command_path("openssl"), "dgst", "-sha256", "-sign", str(self.ca_key)]
        return subprocess.run(argv, input=message, check=True, capture_output=True, timeout=30).stdout

    def certificate_der(self) -> str:
        """The authority's certificate as base64 DER, one line: an element of a JWT's x5c."""
        body = [line for line in self.ca_file.read_text().splitlines() if not line.startswith("-----")]
        return base64.b64encode(base64.b64decode("".join(body))).decode()


def make_authority(directory: Path) -> Authority:
    """Make a new authority and one server certificate for localhost and 127.0.0.1, valid for two days."""
    authority = Authority(directory)
    authority.trust_directory.mkdir(parents=True)
    extensions = directory / "server.ext"
    extensions.write_text(_SERVER_EXTENSIONS)
    request = directory / "server.csr"
    _openssl(
        directory,
        *(
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-sha256",
            "-days",
            "2",
            "-subj",
            "/CN=oci-binpkg test authority",
        ),
        *("-keyout", str(authority.ca_key), "-out", str(authority.ca_file)),
    )
    _openssl(
        directory,
        *("req", "-newkey", "rsa:2048", "-nodes", "-sha256", "-subj", "/CN=localhost"),
        *("-keyout", str(authority.server_key), "-out", str(request)),
    )
    _openssl(
        directory,
        *("x509", "-req", "-sha256", "-days", "2", "-in", str(request), "-extfile", str(extensions)),
        *("-CA", str(authority.ca_file), "-CAkey", str(authority.ca_key), "-CAcreateserial"),
        *("-out", str(authority.server_certificate)),
    )
    return authority


def _openssl(directory: Path, *arguments: str) -> None:
    run_tool([command_path("openssl"), *arguments], env=clean_environment(directory))
