"""The public keys whose signatures count: a keyring of our own, apart from the user's.

A key gets in here by `trust` alone. A key that lies on the mirror whose packages it signs is not trusted for that;
`inspect` shows it before the decision.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Protocol, Self

from oci_binpkg.disk import (
    NotRegularError,
    disk_errors,
    disk_refusal,
    foreign_writers,
    open_file,
    open_regular,
    private_folder,
    sync_tree,
)
from oci_binpkg.errors import ContentError, Hint, KeyringError, NotFoundError, Step, UsageError
from oci_binpkg.model.content import read_whole
from oci_binpkg.signing.gpg import Gpg, Run, run_program, words

MAX_KEY_BYTES: Final = 1024 * 1024
_FINGERPRINT: Final = re.compile(r"(?:[0-9A-F]{40}|[0-9A-F]{64})", re.ASCII)
_SHOWN_KEYS: Final = 5
_VERSION_4_DIGITS: Final = 40
_FILES: Final = ("pubring.kbx", "pubring.gpg", "trustdb.gpg")
_ESCAPE: Final = re.compile(r"\\x([0-9a-f]{2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Key:
    """A public key. Times in seconds since 1970; `expires` is None without an end.

    `trusted`: it is in our keyring. `expired` and `revoked` are gpg's present judgement; `signs`: its owner means it,
    or a subkey that is usable, to sign data. The user ids are what its owner claims, made printable. `subkeys` are the
    fingerprints of its subkeys, whatever they are for.
    """

    fingerprint: str
    user_ids: tuple[str, ...]
    created: int
    expires: int | None
    trusted: bool
    revoked: bool
    expired: bool
    signs: bool
    subkeys: tuple[str, ...] = ()


class Trusted(Protocol):
    """Keys whose signatures count."""

    def reader(self) -> Gpg:
        """Return gpg on a keyring that has them, for verifying."""
        ...

    def fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of those that count."""
        ...

    def key_ids(self) -> frozenset[str]:
        """Return how signatures may name the keys that the reader knows: fingerprints and key ids, of subkeys too."""
        ...


class Keyring:
    """The trusted keys in the directory `home`, which is created (for its owner only) when it is first needed.

    Secret keys for signing are the user's own, or with `own_secrets` those in `home`. Thread-safe. A context manager:
    `close` ends the agents that signing from `home` started. `timeout` is in seconds, for one call of gpg.
    """

    def __init__(
        self,
        home: str,
        *,
        gpg: str = "gpg",
        run: Run = run_program,
        timeout: float = 60.0,
        own_secrets: bool = False,
    ) -> None:
        self._gpg = Gpg(os.path.abspath(home), gpg, run, timeout)
        self._signer = self._gpg if own_secrets else Gpg("", gpg, run, timeout)
        self._lock = threading.Lock()
        self._listed: list[Key] | None = None
        self._signed = False

    @property
    def home(self) -> str:
        """The directory, absolute."""
        return self._gpg.home

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the agents that were started for `home`, if any."""
        if self._signed:
            self._gpg.end_agents()
            self._signed = False

    def reader(self) -> Gpg:
        """Return gpg on this keyring, for verifying."""
        self._prepare()
        return self._gpg

    def signer(self) -> Gpg:
        """Return gpg on the keyring with the secret keys, for signing."""
        if self._signer is self._gpg:
            self._prepare()
            self._signed = True
        return self._signer

    def keys(self) -> list[Key]:
        """Return the trusted keys by fingerprint; none if there is no keyring yet."""
        if not os.path.isdir(self.home):
            return []
        listing = self.reader().checked("--with-colons", "--list-keys", task=f"list the keys in {self.home}")
        return sorted(_parsed(listing, trusted=True), key=lambda key: key.fingerprint)

    def fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of the trusted keys that are not revoked. Asked of gpg once, and after a change."""
        return frozenset(key.fingerprint for key in self._known_keys() if not key.revoked)

    def key_ids(self) -> frozenset[str]:
        """Return how signatures may name the keys, also those that are revoked: gpg says so then."""
        return names_of(self._known_keys())

    def _known_keys(self) -> list[Key]:
        with self._lock:
            if self._listed is None:
                self._listed = self.keys()
            return self._listed

    def inspect(self, key_bytes: bytes, what: str = "the key file") -> list[Key]:
        """Return the keys in a file, armored or not, without taking any of them in.

        Raises `ContentError` if it holds none, a secret one, or more than a megabyte.
        """
        if len(key_bytes) > MAX_KEY_BYTES:
            raise ContentError(f"{what}: {len(key_bytes)} bytes; at most {MAX_KEY_BYTES} are read as keys")
        outcome = self.reader().call("--with-colons", "--show-keys", stdin=key_bytes)
        if any(line.startswith((b"sec:", b"ssb:")) for line in outcome.stdout.split(b"\n")):
            raise ContentError(f"{what} holds a secret key", hint=Hint(Step.EXPORT_PUBLIC_KEY))
        trusted = self._present()
        keys = [replace(key, trusted=key.fingerprint in trusted) for key in _parsed(outcome.stdout, trusted=False)]
        if outcome.code != 0 or not keys:
            raise ContentError(f"{what} holds no public key: {words(outcome)}", hint=Hint(Step.DESCRIBE_KEY_FILE))
        return keys

    def trust(self, key_bytes: bytes, what: str = "the key file") -> tuple[str, ...]:
        """Take all keys of a file in, or what is new in them (user ids, dates, revocations). Returns the fingerprints.

        From then on their signatures count. Raises `ContentError` as `inspect` does.
        """
        found = tuple(key.fingerprint for key in self.inspect(key_bytes, what))
        with self._changing():
            self._gpg.checked("--import-options", "import-clean", "--import", task=f"import {what}", stdin=key_bytes)
        missing = set(found) - self._present()
        if missing:
            raise ContentError(f"{what}: gpg does not take in {', '.join(sorted(missing))}")
        return found

    def untrust(self, fingerprint: str) -> None:
        """Remove a key. Raises `NotFoundError` if it is not there, `KeyringError` if its secret half is here too."""
        wanted = self._known(fingerprint)
        with self._changing():
            self._gpg.checked("--yes", "--delete-keys", wanted, task=f"remove the key {wanted}")

    def export_signer(self, key: str) -> bytes:
        """Return the public half of a key that signs, armored; `key` as in signing.

        Raises `KeyringError` if it names no key, or several.
        """
        data = self.signer().checked("--armor", "--export", "--", check_key_name(key), task=f"export the key {key}")
        if not data:
            raise KeyringError(f"there is no key {key!r}", hint=Hint(Step.NAME_SIGNING_KEY))
        found = [one.fingerprint for one in self.inspect(data, f"the key {key}")]
        if len(found) > 1:
            raise KeyringError(f"{key!r} names several keys: {', '.join(found)}", hint="name one by its fingerprint")
        return data

    def own(self, key: str) -> OwnKeys:
        """Return the signer's own keys as keys that count: what one signed oneself is accepted."""
        return OwnKeys(self.signer(), check_key_name(key))

    def secret_key(self, key: str) -> Key:
        """Return the one secret key that `key` names and that may sign.

        Raises `KeyringError` if no key fits, and with their fingerprints if several do: gpg would take any.
        """
        found = list(self.own(key).keys())
        usable = [one for one in found if one.signs and not (one.revoked or one.expired)]
        if len(usable) > 1:
            names = ", ".join(f"{one.fingerprint} ({'; '.join(one.user_ids[:1])})" for one in usable[:_SHOWN_KEYS])
            raise KeyringError(f"{key!r} names several keys: {names}", hint="name one by its fingerprint")
        return (usable or found)[0]

    def only_secret_key(self) -> str:
        """Return the fingerprint of the only secret key that may sign, "" if no key may sign, or several may."""
        outcome = self.signer().call("--with-colons", "--list-secret-keys", agent=True)
        found = [k for k in _parsed(outcome.stdout, trusted=True) if k.signs and not (k.revoked or k.expired)]
        return found[0].fingerprint if len(found) == 1 and outcome.code == 0 else ""

    def _present(self) -> set[str]:
        return {key.fingerprint for key in self.keys()}

    def _known(self, fingerprint: str) -> str:
        wanted = parse_fingerprint(fingerprint)
        if wanted not in self._present():
            raise NotFoundError(f"no trusted key {wanted} in {self.home}", hint="list the trusted keys")
        return wanted

    def _prepare(self) -> None:
        try:
            private_folder(self.home)
            if reason := foreign_writers(self.home, os.getuid()):
                raise KeyringError(
                    f"the keyring {self.home} is not used: it {reason}, who could make keys count",
                    hint=f"look at what is in it, then make it yours alone: chown it, chmod 700 {self.home}",
                )
            for name in _FILES:
                with suppress(FileNotFoundError):
                    os.close(open_regular(os.path.join(self.home, name)))
        except NotRegularError as error:
            raise KeyringError(
                f"{error.filename}: {error.strerror}", hint="remove it, then trust keys again"
            ) from error
        except OSError as error:
            raise disk_refusal(f"cannot create the keyring {self.home}", error) from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Forget what is known about the keyring after a change, even one that failed half way."""
        try:
            yield
            # gpg syncs nothing
            with disk_errors(self.home, "written"):
                sync_tree(self.home)
        finally:
            with self._lock:
                self._listed = None


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The secret keys that a name means, of which signatures are made."""

    gpg: Gpg
    key: str

    def reader(self) -> Gpg:
        """Return gpg on the keyring with the secret keys."""
        return self.gpg

    def fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of their primary keys. Raises `KeyringError` if there are none."""
        return frozenset(key.fingerprint for key in self.keys())

    def key_ids(self) -> frozenset[str]:
        """Return how signatures may name these keys. Raises `KeyringError` if there are none."""
        return names_of(self.keys())

    def keys(self) -> list[Key]:
        """Return them. Raises `KeyringError` if there are none."""
        listing = self.gpg.checked(
            "--with-colons", "--list-secret-keys", "--", self.key, task=f"find the key {self.key!r}", agent=True
        )
        return list(_parsed(listing, trusted=True))


def read_key_file(path: str) -> bytes:
    """Return the bytes of a key file, at most one more than a key file may have. Raises `LocalDiskError`."""
    try:
        # a shell's `<(...)` and `-` are not regular files: /dev/fd/63, /dev/stdin
        with open(path, "rb") if path.startswith("/dev/") else open_file(os.path.expanduser(path)) as file:
            return read_whole(file, MAX_KEY_BYTES + 1)
    except OSError as error:
        raise disk_refusal(f"{path}", error, hint=Hint(Step.NAME_KEY_FILE)) from None


def names_of(keys: Iterable[Key]) -> frozenset[str]:
    """Return fingerprints and key ids of keys and of their subkeys, as signatures name them.

    A key id is the end of a fingerprint, of a key of version 5 its beginning.
    """
    fingerprints = {one for key in keys for one in (key.fingerprint, *key.subkeys)}
    ids = {one[-16:] if len(one) == _VERSION_4_DIGITS else one[:16] for one in fingerprints}
    return frozenset(fingerprints | ids)


def parse_fingerprint(text: str) -> str:
    """Return a whole fingerprint in upper case without blanks. Raises `UsageError`: short ids can be forged."""
    found = re.sub(r"[ :]", "", text).upper().removeprefix("0X")
    if not _FINGERPRINT.fullmatch(found):
        raise UsageError(
            f"not a fingerprint: {text[:100]!r}", hint="write all 40 digits; a short id may belong to several keys"
        )
    return found


def check_key_name(key: str) -> str:
    """Return what names a signing key, a fingerprint or part of a user id. Raises `UsageError` for an invalid name."""
    if not key.strip() or not key.isprintable() or key.startswith("-"):
        raise UsageError(f"not the name of a key: {key[:100]!r}", hint="write its fingerprint, or its e-mail address")
    return key


def _parsed(listing: bytes, *, trusted: bool) -> Iterator[Key]:
    """Read gpg's colon format: `pub` or `sec` begins a key, the first `fpr` after it is the primary key's."""
    current: Key | None = None
    for line in listing.decode("utf-8", "replace").split("\n"):
        fields = [*line.split(":"), *[""] * 12]
        if fields[0] in ("pub", "sec"):
            if current is not None:
                yield current
            validity, abilities = fields[1], fields[11]
            # a capital letter speaks for the whole key; D: disabled
            signs = "S" in abilities and "D" not in abilities
            expires = int(fields[6]) if fields[6].isdecimal() else None
            created = int(fields[5]) if fields[5].isdecimal() else 0
            current = Key("", (), created, expires, trusted, validity == "r", validity == "e", signs)
        elif current is not None and fields[0] == "fpr" and not current.fingerprint:
            current = replace(current, fingerprint=fields[9])
        elif current is not None and fields[0] == "fpr":
            current = replace(current, subkeys=(*current.subkeys, fields[9]))
        elif current is not None and fields[0] == "uid":
            current = replace(current, user_ids=(*current.user_ids, _printable(fields[9])))
    if current is not None:
        yield current


def _printable(text: str) -> str:
    plain = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return "".join(character if character.isprintable() else "?" for character in plain)[:200]
