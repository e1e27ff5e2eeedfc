"""What a signature states beside the bytes that it covers: which package they are, and for which place it was made.

A signature over bytes alone is good wherever these bytes are put. So ours carry two OpenPGP notations, which the
signature covers: the package's tag, and the name of the repository or mirror. When it was made is part of every
signature. Programs without support for this verify the signature all the same, and Spack's clear-signed form stays as
it is. Signatures without notations (Spack's, and ours of earlier versions) are bound by their bytes alone. Source: RFC
4880, section 5.2.3.16 (notation data); GnuPG's option `sig-notation` and its status lines `NOTATION_*`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote_to_bytes

from oci_binpkg.errors import Hint, SignatureError, Step

if TYPE_CHECKING:
    from oci_binpkg.signing.gpg import Status

TAG_NOTATION: Final = "package@oci-binpkg.io"
PLACE_NOTATION: Final = "place@oci-binpkg.io"
_LONGEST: Final = 1024
_ANOTHER: Final = "somebody put it there; push the package again, or fetch it from another source"


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signature says: the tag that its bytes are for, and the name of the place. "" where it is silent."""

    tag: str = ""
    place: str = ""

    def options(self) -> list[str]:
        """Return the options that make gpg sign it, too."""
        said = ((TAG_NOTATION, self.tag), (PLACE_NOTATION, self.place))
        # gpg replaces %-sequences in a notation's value
        return [f"--sig-notation={name}={value.replace('%', '%%')}" for name, value in said if value]


NOTHING_SAID: Final = Statement()


@dataclass(frozen=True, slots=True)
class Signed:
    """A good signature: the fingerprint of its signer's primary key, when it was made, and what it states.

    `made` is in seconds since 1970, by the signer's clock.
    """

    signer: str
    made: int = 0
    statement: Statement = NOTHING_SAID


class Verifier(Protocol):
    """Decides which documents and manifests to believe."""

    @property
    def required(self) -> bool:
        """Whether signatures are required."""
        ...

    def opened(self, data: bytes, what: str) -> tuple[bytes, Signed | None]:
        """Return the document inside a message and who signed it, None without a signature that counts.

        Raises `ContentError` if the message must not be believed.
        """
        ...

    def judged(
        self, data: bytes, signatures: Iterable[bytes], what: str, *, accept: Callable[[Signed], object]
    ) -> Signed:
        """Return one of the signatures beside `data` that is good and that `accept` does not refuse by raising.

        Raises `SignatureError`. It is asked only where signatures are required.
        """
        ...


class Signer(Protocol):
    """Signs with one key what is published."""

    def clear(self, data: bytes, statement: Statement) -> bytes:
        """Return `data` as a clear-signed message that also covers `statement`. Raises `KeyringError`."""
        ...

    def beside(self, data: bytes, statement: Statement) -> bytes:
        """Return an armored signature over exactly these bytes, and over `statement`. Raises `KeyringError`."""
        ...

    def made(self, signed: Signed) -> bool:
        """Return whether a signature is by the key that this signs with."""
        ...


def _keep_quiet(_text: str) -> None:
    """Drop the warning."""


@dataclass(frozen=True, slots=True)
class Site:
    """The name of a cache in signatures.

    `name` is what statements made here say, "" for a path, which means something on one machine only. Signatures for
    the `accepted` places count here, too: its other addresses, and the origins configured for a copy; `strict`: no
    others do. `shown` is the cache's name in messages, and `warn` is called with signatures from elsewhere that count.
    """

    name: str = ""
    accepted: frozenset[str] = frozenset()
    strict: bool = False
    shown: str = "this cache"
    warn: Callable[[str], None] = _keep_quiet

    def statement(self, tag: str) -> Statement:
        """Return what a signature made here states about the bytes under a tag."""
        return Statement(tag, self.name)

    def check(self, signed: Signed, tag: str, what: str) -> None:
        """Raise `SignatureError` for a good signature of something else: another tag, or another place.

        Two addresses of one kind are two places. Addresses of different kinds may be one place (a bucket, and the web
        server before it) or a copy of it on disk: that is reported, unless the cache's origins are configured.
        """
        said = signed.statement
        if said.tag and said.tag != tag:
            raise SignatureError(f"{what}: the signature is for {said.tag}, not for {tag}", hint=_ANOTHER)
        if not said.place or said.place == self.name or said.place in self.accepted:
            return
        settle = f'say `origins = ["{said.place}"]` in its configuration'
        if self.strict or _kind(said.place) == _kind(self.name):
            raise SignatureError(
                f"{what}: the signature is for {said.place}, not for {self.shown}",
                hint=Hint(Step.SIGN_ANEW_FOR_COPY, settle=settle),
            )
        self.warn(
            f"{self.shown} holds packages that were signed for {said.place}; "
            f"if it is the same place or a copy, {settle}"
        )


ANY_SITE: Final = Site()
"""A cache that has no name."""


def stated(found: Sequence[Status], what: str) -> Statement:
    """Return what the notations in gpg's status lines of one signature state.

    gpg lists there those alone that the signature covers. Raises `SignatureError` if one of ours stands there twice, or
    is not short printable text.
    """
    values: dict[str, list[str]] = {}
    name = ""
    for status in found:
        if status.keyword == "NOTATION_NAME":
            name = " ".join(status.arguments)
            if name in values:
                raise SignatureError(f"{what}: the signature states {name} twice", hint="sign it again")
            values[name] = []
        elif status.keyword == "NOTATION_DATA" and name:
            values[name] += status.arguments
    return Statement(_value(values, TAG_NOTATION, what), _value(values, PLACE_NOTATION, what))


def _value(values: dict[str, list[str]], name: str, what: str) -> str:
    text = unquote_to_bytes("".join(values.get(name, ()))).decode("utf-8", "replace")
    if len(text) > _LONGEST or not text.isprintable() or "\ufffd" in text:
        raise SignatureError(f"{what}: what the signature states as {name} is not a short text", hint="sign it again")
    return text


def _kind(address: str) -> str:
    return address.partition("://")[0]
