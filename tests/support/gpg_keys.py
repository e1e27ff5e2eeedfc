"""Real keys made by gpg for the tests, of every kind that must be refused, and one that is right.

Each directory is short-lived and its path short, for an agent's socket lies in it; the agents are ended with it.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from oci_binpkg.signing.gpg import ProgramResult, Run

BORN = "20200101T000000"
"""When keys are made that have expired since; gpg's clock runs on from there while it makes one."""
PAST = "20200101T060000"
"""A time at which such a key could sign."""

TEXT = b'{\n"package":"greet",\n"hash":"6fytamqgzio2shuhlaie55hiv2m2stdw"\n}\n'


@dataclass(frozen=True)
class Home:
    """A GNUPGHOME with secret keys."""

    path: str

    def gpg(self, *arguments: str, stdin: bytes = b"", at: str = "", ok: bool = True, passphrase: str = "") -> bytes:
        """Run gpg here, at a time of the past if `at` is given."""
        time = ("--faked-system-time", at) if at else ()
        secret = ("--pinentry-mode", "loopback", "--passphrase", passphrase)
        command = [
            "gpg",
            "--homedir",
            self.path,
            "--batch",
            "--no-tty",
            "--yes",
            "--quiet",
            *secret,
            *time,
            *arguments,
        ]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
        assert not ok or done.returncode == 0, done.stderr.decode()
        return done.stdout

    def make(
        self,
        name: str,
        *,
        kind: str = "ed25519",
        usage: str = "sign,cert",
        expires: str = "0",
        at: str = "",
        passphrase: str = "",
    ) -> str:
        """Make a key and return its fingerprint."""
        mail = f"{name} <{name}@example.org>"
        self.gpg("--quick-gen-key", mail, kind, usage, expires, at=at, passphrase=passphrase)
        listing = self.gpg("--with-colons", "--list-keys", f"{name}@example.org").decode()
        return next(line.split(":")[9] for line in listing.split("\n") if line.startswith("fpr"))

    def public(self, key: str) -> bytes:
        return self.gpg("--armor", "--export", key)

    def secret(self, key: str) -> bytes:
        return self.gpg("--armor", "--export-secret-keys", key)

    def clear(self, text: bytes, key: str, *options: str, at: str = "") -> bytes:
        return self.gpg("--local-user", key, *options, "--output", "-", "--clearsign", stdin=text, at=at)

    def detached(self, data: bytes, key: str, *options: str, at: str = "") -> bytes:
        return self.gpg("--local-user", key, "--armor", *options, "--output", "-", "--detach-sign", stdin=data, at=at)

    def revoke(self, key: str) -> None:
        """Revoke a key with the certificate that gpg made beside it."""
        path = Path(self.path, "openpgp-revocs.d", f"{key}.rev")
        self.gpg("--import", stdin=path.read_bytes().replace(b"\n:-----", b"\n-----"))

    def end(self) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", self.path, "--kill", "all"], check=False, capture_output=True, timeout=30
        )


@contextmanager
def gpg_home() -> Iterator[Home]:
    """Give a fresh GNUPGHOME; afterwards its agents and it are gone."""
    path = tempfile.mkdtemp(prefix="gh-", dir="/tmp")
    Path(path, "gpg-agent.conf").write_text("s2k-count 65536\n")  # else a second goes into finding a good number
    home = Home(path)
    try:
        yield home
    finally:
        home.end()
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Keys:
    """The keys' fingerprints, all in one home; `documents` are what they signed while they could, by the key's name."""

    home: Home
    good: str
    other: str
    expired: str
    revoked: str
    retired: str
    """Made for signing, and later declared to be for certifying alone."""
    old: str
    """Made in the past and good until now, with two subkeys that sign, one of them expired."""
    documents: Mapping[str, bytes]


@pytest.fixture(scope="session")
def gpg_keys() -> Iterator[Keys]:
    """The keys of the session."""
    with gpg_home() as home:
        good, other, revoked, retired = (home.make(name) for name in ("good", "other", "revoked", "retired"))
        expired, old = home.make("expired", expires="1d", at=BORN), home.make("old", at=BORN)
        documents = {
            "expired": home.clear(TEXT, expired, at=PAST),
            "revoked": home.clear(TEXT, revoked),
            "retired": home.clear(TEXT, retired),
            "expired signature": home.clear(TEXT, old, "--default-sig-expire", "1d", at=PAST),
        }
        home.gpg("--quick-add-key", old, "ed25519", "sign", "1d", at=PAST)
        home.gpg("--quick-add-key", old, "ed25519", "sign", "0", at=PAST)
        home.revoke(revoked)
        home.gpg("--command-fd", "0", "--edit-key", retired, stdin=b"key 0\nchange-usage\nS\nQ\nsave\n", ok=False)
        yield Keys(home, good, other, expired, revoked, retired, old, documents)


def recorded() -> tuple[list[list[str]], Run]:
    """Return a list, and a way to run programs that runs none and notes there what was to be run."""
    calls: list[list[str]] = []

    def run(arguments: Sequence[str], stdin: bytes, timeout: float) -> ProgramResult:
        calls.append(list(arguments))
        return ProgramResult(2, b"", b"")

    return calls, run
