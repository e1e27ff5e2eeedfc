"""Judges signatures by the keys that count in one cache.

gpg's modules are imported when a signature is verified: most commands verify none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Never, TypeVar

from oci_binpkg.errors import SignatureError, UsageError
from oci_binpkg.model.content import Digest

if TYPE_CHECKING:
    from oci_binpkg.signing.gpg import Gpg
    from oci_binpkg.signing.keyring import Keyring, Trusted
    from oci_binpkg.signing.statement import Signed

_T = TypeVar("_T")


class CountingKeys:
    """The trusted keys that count in one cache.

    Those in `named`; None: all that are trusted, but those that are `reserved` for other caches. The keyring is opened
    when it is needed.
    """

    def __init__(self, keyring: Callable[[], Keyring], named: frozenset[str] | None, reserved: frozenset[str]) -> None:
        self._open = keyring
        self._named = named
        self._reserved = reserved

    @cached_property
    def _keyring(self) -> Keyring:
        return self._open()

    def reader(self) -> Gpg:
        """Return gpg on our keyring."""
        return self._keyring.reader()

    def fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of those of our keyring that count here."""
        return _counting(self._keyring.fingerprints(), self._named, self._reserved)

    def key_ids(self) -> frozenset[str]:
        """Return how signatures may name the keys that the reader knows, also those that do not count here."""
        return self._keyring.key_ids()


def _counting(found: frozenset[str], named: frozenset[str] | None, reserved: frozenset[str]) -> frozenset[str]:
    return found & named if named is not None else found - reserved


def check_counts(own: Trusted, key: str, named: frozenset[str] | None, reserved: frozenset[str], cache: str) -> None:
    """Raise `UsageError` for a key to sign with whose signatures do not count in this cache."""
    if not _counting(own.fingerprints(), named, reserved):
        raise UsageError(
            f"the key {key}: signatures by it do not count for {cache}, says [trust]",
            hint="name the key in the keys of that cache's scope, or sign with one that is named there",
        )


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges signatures by keyrings, one after the other: what one of them believes counts.

    `remembers(digest, key)` returns whether a manifest was verified here before with a signature by a key.
    """

    keyrings: Sequence[Trusted]
    remembers: Callable[[Digest, str], bool] = lambda _digest, _signer: False

    @property
    def required(self) -> bool:
        """Always True."""
        return True

    def opened(self, data: bytes, what: str) -> tuple[bytes, Signed | None]:
        """Return the document inside a clear-signed one, and who signed it. Raises `SignatureError`."""
        from oci_binpkg.signing.sign import read_clearsigned  # noqa: PLC0415 - see above

        return self._first(lambda keyring: read_clearsigned(data, what, keyring, known=self._known(data)))

    def judged(
        self, data: bytes, signatures: Iterable[bytes], what: str, *, accept: Callable[[Signed], object]
    ) -> Signed:
        """Return a good signature of a manifest that `accept` does not refuse. Raises `SignatureError`."""
        from oci_binpkg.signing.sign import verify_any  # noqa: PLC0415 - see above

        # one keyring reads only as many of them as it has to
        listed = signatures if len(self.keyrings) == 1 else list(signatures)
        return self._first(
            lambda keyring: verify_any(data, listed, what, keyring, accept=accept, known=self._known(data))
        )

    def _known(self, data: bytes) -> Callable[[Signed], bool]:
        return lambda signed: self.remembers(Digest.of(data), signed.signer)

    def _first(self, judge: Callable[[Trusted], _T]) -> _T:
        """Return the answer of the first keyring that accepts it, or raise the error of the first keyring."""
        failure: SignatureError | None = None
        for keyring in self.keyrings:
            try:
                return judge(keyring)
            except SignatureError as error:
                failure = failure or error
        assert failure is not None  # there is always the keyring of trusted keys
        raise failure.again() from failure


@dataclass(frozen=True, slots=True)
class Unasked:
    """Requires no signatures: accepts all documents, or, with `refuses`, only unsigned ones."""

    refuses: bool = False
    required: bool = False

    def opened(self, data: bytes, what: str) -> tuple[bytes, None]:
        """Return the document. Raises `SignatureError` for a signed one that is refused."""
        from oci_binpkg.signing.clearsign import plain, stripped  # noqa: PLC0415 - see above

        return (plain if self.refuses else stripped)(data, what)

    def judged(
        self, data: bytes, signatures: Iterable[bytes], what: str, *, accept: Callable[[Signed], object]
    ) -> Never:
        """Raise `SignatureError`: no key counts."""
        del data, signatures, accept
        raise SignatureError(f"{what}: no keys are known to check signatures with")


BELIEVING: Final = Unasked()
"""Accepts documents with any signature or none."""
UNSIGNED: Final = Unasked(refuses=True)
"""Accepts only unsigned documents."""
