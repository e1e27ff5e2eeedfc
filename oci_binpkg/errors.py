"""The errors a user can meet, each with its own exit code.

Two families matter to callers: `TransferError` (the bytes did not arrive; may be retried) and `ContentError` (the bytes
arrived and are wrong; retrying the same source is pointless). Everything else is a wrong request or a local problem.

Every message says what was attempted and on which thing; `hint` is the one next step.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

_SCARCE: Final = {
    errno.ENOMEM: "not enough memory",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open on this machine",
    errno.EAGAIN: "no more threads or processes can be started",
}
_SIGNS: Final = {
    "can't start new thread": errno.EAGAIN,
    "cannot allocate memory": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "insufficient memory": errno.ENOMEM,
    "failed to map segment": errno.ENOMEM,
    "too many open files": errno.EMFILE,
}
"""What the interpreter and libraries in C say, in small letters, when the machine has no more to give."""


class BinpkgError(Exception):
    """Base of all errors shown to a user. `exit_code` is stable and part of the interface."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", details: Sequence[str] = ()) -> None:
        message = "\n  ".join([message, *details])
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the message: where `details` were given, each is one. A line feed elsewhere is never ours."""
        below = "".join(f"\n  {detail}" for detail in self.details)
        return self.message.removesuffix(below), *self.details

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class PartialFailureError(BinpkgError):
    """Some items of a batch failed; the report names them."""

    exit_code = 1


class UsageError(BinpkgError):
    """A value given by the user cannot mean anything: a flag, a reference, a setting."""

    exit_code = 2


class QueryError(UsageError):
    """A package query that is not of the query language."""


class InstallsError(BinpkgError):
    """The install tree is missing, damaged, of an unknown version, or unreadable."""

    exit_code = 3


class NoMatchError(BinpkgError):
    """A query matches nothing."""

    exit_code = 4


class AmbiguousQueryError(BinpkgError):
    """A query matches several packages where one is needed."""

    exit_code = 5


class NotFoundError(BinpkgError):
    """The named content does not exist on the other side. The only error that means absent."""

    exit_code = 6


class BaseImageError(BinpkgError):
    """The base image cannot be used: absent, not an image, or not readable."""

    exit_code = 7


class PlatformError(BinpkgError):
    """No variant of an image for the architecture that is needed, or several."""

    exit_code = 8


class PackError(BinpkgError):
    """A prefix cannot be packed: a file changed, cannot be read, or has a name that tar cannot hold."""

    exit_code = 9


class ContentError(BinpkgError):
    """Bytes arrived and are wrong: digest, size, syntax or meaning. Never retried."""

    exit_code = 10


class LocalDiskError(BinpkgError):
    """A local file or directory cannot be written or read: full disk, permissions."""

    exit_code = 11


class EngineError(BinpkgError):
    """A container engine is absent, or refused what it was asked."""

    exit_code = 12


class RelocationError(BinpkgError):
    """A package cannot be moved to its new prefix: a constant in a binary has no room, or an old prefix is left.

    `longest_prefix` and `longest_root` are the lengths in bytes that would have fitted; None where that is not the
    reason.
    """

    exit_code = 13

    def __init__(
        self, message: str, *, hint: str = "", longest_prefix: int | None = None, longest_root: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.longest_prefix = longest_prefix
        self.longest_root = longest_root


class SignatureError(ContentError):
    """A signature that is required is absent, wrong, or made by nobody who is trusted. Never retried."""

    exit_code = 14


class KeyringError(BinpkgError):
    """gpg is absent, or cannot do what it was asked: no such key, no passphrase, a keyring it cannot use."""

    exit_code = 15


class OutputError(BinpkgError):
    """Standard output cannot be written: it is closed, or the disk below it is full. What was done stands."""

    exit_code = 16


class ResourceError(BinpkgError):
    """The machine, or a limit set for this command, has no more memory, open files or threads to give."""

    exit_code = 17


class InternalError(BinpkgError):
    """A fault of oci-binpkg itself; the message has its id."""

    exit_code = 70


class TransferError(BinpkgError):
    """The other side could not be asked, or did not answer properly."""

    exit_code = 20


class NetworkError(TransferError):
    """No usable answer: refused, reset, timed out, name unknown."""

    exit_code = 20


class CertificateError(TransferError):
    """The server's certificate cannot be trusted. Never retried, never replaced by plain http."""

    exit_code = 21


class AuthError(TransferError):
    """The server asks for a login that we do not have or that it does not accept (401)."""

    exit_code = 22


class DeniedError(TransferError):
    """The login is accepted but may not do this (403), or the thing may not be changed (immutable tag, quota)."""

    exit_code = 23


class RateLimitedError(TransferError):
    """The server asks us to come back later than we are ready to wait."""

    exit_code = 24

    def __init__(self, message: str, *, hint: str = "", seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.seconds = seconds


class ServerError(TransferError):
    """The server answered with an error of its own, or with something that is not the protocol."""

    exit_code = 25


class UnsupportedError(TransferError):
    """The server does not offer this operation (delete, catalog, ...)."""

    exit_code = 26


def scarce_resource(error: BaseException) -> ResourceError | None:
    """Return an exception of the interpreter as our error if it says that memory, files or threads are used up."""
    if isinstance(error, MemoryError):
        number: int | None = errno.ENOMEM
    elif isinstance(error, OSError) and error.errno in _SCARCE:
        number = error.errno
    else:
        text = str(error).lower()
        number = next((found for sign, found in _SIGNS.items() if sign in text), None)
    if number is None:
        return None
    return ResourceError(_SCARCE[number], hint="raise the limits (`ulimit -a` shows them), or use a smaller --jobs")


class DamagedError(ContentError):
    """Content that has not the size or digest it was promised with."""


PUSH_AGAIN: Final = "push the package again, or leave this cache out"
REBUILD: Final = "`oci-binpkg index rebuild` writes a new index, where this cache is written"
ASK_AGAIN: Final = "try again: the answer may have been cut off on the way"


class MissingBlobError(ContentError):
    """A manifest names a blob that is not there: damage, not absence."""


@contextmanager
def hinted(hint: str) -> Iterator[None]:
    """Say what to do about damage, unless the error has it already from somebody who knows more."""
    try:
        yield
    except ContentError as error:
        if not error.hint or isinstance(error, DamagedError):
            error.hint = hint
        raise
