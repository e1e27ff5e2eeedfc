"""The signature of an index: whether it is required, and who made it.

An index is a table of contents: packages are verified when they are read. So an index that nobody
signed is read, unless a signed one is asked for; a signature that is there and not good is always a reason to stop. A
signature is over the bytes of the index's manifest, which names the index by its digest: whoever replaces the index
without signing leaves one without a signature, never one with another's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from oci_binpkg.errors import Hint, SignatureError, Step, UsageError

if TYPE_CHECKING:
    from oci_binpkg.signing.keyring import Trusted
    from oci_binpkg.signing.statement import Signed

_T = TypeVar("_T")
_REBUILD: Final = Hint(Step.REBUILD_SIGNED_INDEX)


@dataclass(frozen=True, slots=True)
class IndexSignature:
    """Who signed an index: the fingerprint of a key that counts, or "" and the `problem` with what is there.

    Both are "" for an index that is not signed.
    """

    signer: str = ""
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {"signed_by": self.signer or None, "problem": self.problem or None}


NOT_SIGNED: Final = IndexSignature()


def _keep_quiet(_text: str, _hint: str) -> None:
    """Drop the warning."""


@dataclass(frozen=True, slots=True)
class IndexTrust:
    """What is required of the signature of an index.

    `check`: one that is there must be good, by a key in one of the `keyrings`. `require`: one must be there. `warn`
    gets a text and a hint when an index has to be written without the signature that was asked for. `prove`: the
    packages that an unsigned index lists are verified before they are reported.
    """

    keyrings: Sequence[Trusted] = ()
    check: bool = False
    require: bool = False
    warn: Callable[[str, str], None] = _keep_quiet
    prove: bool = False

    def opened(self, data: bytes, what: str, accept: Callable[[Signed], object] = lambda _: None) -> tuple[bytes, str]:
        """Return the document inside a mirror's index manifest, and its signer, "" without a signature that counts.

        Raises `SignatureError` if it must not be believed, also where `accept` raises it of a good signature.
        """
        from oci_binpkg.signing.clearsign import is_clearsigned, split  # noqa: PLC0415 - as in `judged`
        from oci_binpkg.signing.sign import read_clearsigned  # noqa: PLC0415

        if not is_clearsigned(data):
            if self.require:
                raise missing(what)
            return data, ""
        if not self.asks:
            return split(data, what)[0], ""
        text, signed = self._first(lambda keyring: read_clearsigned(data, what, keyring), what)
        accept(signed)
        return text, signed.signer

    def judged(
        self,
        data: bytes,
        signatures: Sequence[bytes],
        what: str,
        accept: Callable[[Signed], object] = lambda _: None,
    ) -> str:
        """Return the signer of an index manifest in a registry, "" if it is not signed.

        Raises `SignatureError` if it must not be believed, also where `accept` raises it of all that are good.
        """
        if not signatures:
            if self.require:
                raise missing(what)
            return ""
        from oci_binpkg.signing.sign import verify_any  # noqa: PLC0415 - most indices are not signed

        return self._first(lambda keyring: verify_any(data, signatures, what, keyring, accept=accept), what).signer

    def check_writer(self, what: str, *, signs: bool) -> None:
        """Raise `UsageError` if an index that has to be signed is about to be written without a key."""
        if self.require and not signs:
            raise UsageError(f"{what} has to be signed", hint=Hint(Step.SIGN_INDEX_OR_ACCEPT))

    @property
    def asks(self) -> bool:
        """Whether signatures are looked at."""
        return self.check or self.require

    def _first(self, judge: Callable[[Trusted], _T], what: str) -> _T:
        """Return the answer of the first keyring that accepts it, or raise the error of the first keyring."""
        failure = None
        for keyring in self.keyrings:
            try:
                return judge(keyring)
            except SignatureError as error:
                failure = failure or error
        failure = failure or SignatureError(f"{what} is signed, and no keys are known to check that with")
        hint = Hint(Step.WITH_REBUILT_SIGNED_INDEX, first=failure.hint) if failure.hint else _REBUILD
        raise failure.within(hint=hint) from failure


BELIEVED: Final = IndexTrust()
"""Signatures are not looked at."""


def looked_at(judge: Callable[[], str]) -> IndexSignature:
    """Return a signature's signer, or the problem with it; `judge` returns the signer or raises `SignatureError`."""
    try:
        return IndexSignature(signer=judge())
    except SignatureError as error:
        return IndexSignature(problem=error.message)


def missing(what: str) -> SignatureError:
    """Return the error for an index that should be signed and is not."""
    return SignatureError(f"{what} is not signed, and a signed index is asked for", hint=_REBUILD)


def unvouched(name: str) -> tuple[str, Hint]:
    """Return the warning and its hint for a merge without a signature, which would vouch for what others entered."""
    return (
        f"the index of {name} was not signed, and the new one is not signed either: it lists what others entered",
        _REBUILD,
    )
