"""Certificates that sign themselves, good ones and bad ones."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_AUTHORITY = """
[ca]
default_ca = authority
[authority]
database = {directory}/index.txt
serial = {directory}/serial
default_md = sha256
policy = any
[any]
commonName = supplied
[names]
subjectAltName = IP:127.0.0.1
"""


@dataclass(frozen=True)
class Certificates:
    """Self-signed certificates, each its own authority."""

    directory: Path

    def make(self, name: str, subject: str = "IP:127.0.0.1,DNS:localhost") -> Path:
        path = self.directory / f"{name}.pem"
        if not path.exists():
            self._request(path, "-x509", "-days", "2", "-addext", f"subjectAltName={subject}")
        return path

    def make_expired(self) -> Path:
        """A certificate of 2020: `openssl req` cannot make one, `openssl ca` can."""
        path = self.directory / "expired.pem"
        configuration = self.directory / "ca.cnf"
        configuration.write_text(_AUTHORITY.format(directory=self.directory))
        (self.directory / "index.txt").touch()
        (self.directory / "serial").write_text("01")
        self._request(Path(f"{path}.csr"), "-new")
        command = [
            "openssl",
            "ca",
            "-selfsign",
            "-batch",
            "-notext",
            "-config",
            str(configuration),
            "-in",
            f"{path}.csr",
        ]
        command += ["-keyfile", f"{path}.csr.key", "-out", str(path), "-outdir", str(self.directory)]
        command += ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-extensions", "names"]
        subprocess.run(command, check=True, capture_output=True)
        Path(f"{path}.csr.key").rename(f"{path}.key")
        return path

    def _request(self, path: Path, *options: str) -> None:
        command = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"]
        command += ["/CN=test", "-keyout", f"{path}.key", "-out", str(path), *options]
        subprocess.run(command, check=True, capture_output=True)

    def context(self, path: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path, f"{path}.key")
        return context
