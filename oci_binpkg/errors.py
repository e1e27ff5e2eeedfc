"""The errors a user can meet, each with its own exit code.

Two families matter to callers: `TransferError` (the bytes did not arrive; may be retried) and `ContentError` (the bytes
arrived and are wrong; retrying the same source is pointless). Everything else is a wrong request or a local problem.

Every message says what was attempted and on which thing; `hint` is the one next step. What a program may want to know
of a failure are fields (`Fields`). An error never changes: `within` makes a new one that says more, and `again` a new
one for an error that was kept, each to be raised `from` the old one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Literal, Self, TypedDict, Unpack

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


class Step(Enum):
    """A next step that a front end words in its own way. The value is what a script reads: it names no flag."""

    ACCEPT_OLDER = "allow older builds if the older one is meant"
    ADD_OWN_CACHE = "change it there, or add a cache {name} of your own in its place"
    ALLOW_MISSING = "name another cache, or allow dependencies to be missing"
    ALLOW_PLAIN_HTTP = "write https://, or say insecure = true if it is meant"
    ANOTHER_CACHE = "name another cache"
    ANY_ARCHITECTURE = "other architectures have it: {found}"
    ASK_AGAIN = "try again: the answer may have been cut off on the way"
    ASK_FOR_ARCH = "ask for the architecture {arch} if it is meant"
    ASK_ONLINE = "read it once over the network"
    BASE_WITH_LOADER = "choose a base image that has it"
    BUILD_ANEW = "images of packages that are there are built anew only if that is forced"
    CHECK_ADDRESS_OR_REBUILD_INDEX = "check the address, or rebuild the index where the mirror is written"
    COPY_CACHE = "copy it to a new cache, and push there"
    DESCRIBE_KEY_FILE = "a key file holds public keys as gpg exports them"
    EXPORT_PUBLIC_KEY = "export the public key alone"
    FETCH_KEYS = "look at the keys that {mirror} publishes"
    FIND_IN_INDEX = "an index of packages? list its packages"
    GZIP_FOR_MIRROR = "use gzip for a mirror"
    INSPECT_IMAGE = "inspect it as an image"
    KEEP_RULE_READING = 'check signatures, or give that cache a scope of its own there with rule = "accept-unsigned"'
    KEEP_RULE_WRITING = 'sign it, or give that cache a scope of its own there with rule = "accept-unsigned"'
    LIST_ARTIFACTS = "list the artifacts that there are"
    LIST_CACHES = "list the names of the caches"
    LIST_CATALOG = "list what there is in the catalog"
    LIST_INSTALLED = "list what is installed, and name packages of it"
    LIST_KEYS = "write all 40 digits, as in the list of trusted keys"
    LIST_PACKAGES = "list what there is"
    LIST_PACKAGES_IN_CACHE = "list what there is in the cache"
    LIST_TAGS = "name one of the tags of {cache}"
    LOG_IN = "log in to {host}"
    LOG_IN_APART = "log in to the host to give credentials; a digest is sha256: and 64 digits of 0-9 a-f"
    LOG_IN_OR_CHECK_NAME = "log in to {host}, or check the name of the repository"
    LOG_IN_OR_CONFIGURE = "log in to the host, or name a login for this cache in the configuration"
    MAKE_VIEW = "update the view: that makes it"
    NAME_ARTIFACT = "name its type, or its digest"
    NAME_CACHE = "name a cache, or give caches names in the configuration"
    NAME_DEPENDENTS = "name these too, or let dependents be removed"
    NAME_KEY_FILE = "name a key file, or a mirror that publishes the key"
    NAME_PACKAGES = "name the packages"
    NAME_SIGNING_KEY = "name one of the secret keys that gpg lists"
    NAME_TREE = "name the folder of the tree, or set store in the configuration"
    NAME_USABLE_SIGNING_KEY = "name a secret key that may sign and has not expired"
    NAME_VIEW = "name the view"
    NO_VIEW = "name no view"
    PUSH_AGAIN = "push the package again, or leave this cache out"
    PUSH_AND_REBUILD = "push the package again, and then rebuild the index of the cache"
    PUSH_TO_SAME_CACHE = "push its packages to the same cache"
    REBUILD_INDEX = "rebuild the index from the packages, where this cache is written"
    REBUILD_SIGNED_INDEX = "rebuild the index from the packages and sign it"
    REBUILD_UNSIGNED = "see the warnings for why; if they are not signed, leave signatures unchecked"
    REINSTALL = "install it again by force, {packages}; or accept what is present"
    REMOVE_CACHE = "remove the cache {name} instead"
    REMOVE_FIRST = "remove the package /{hash}, then install again"
    SEARCH_OFFLINE = "search what was read before, or look at the addresses of the caches"
    SET_ASIDE = "move it away, or install by force: it then gets another name beside the package"
    SET_CACHE = "change {name}, or choose another name"
    SET_LOGIN = "name a login of the cache in the settings (`profile` or `access_key_id_variable`)"
    SET_SOMETHING = "give at least one key"
    SIGN_ANEW_FOR_COPY = "if this cache is a copy of that one, {settle}, or copy it anew and sign it"
    SIGN_INDEX = "name a key to sign it with"
    SIGN_INDEX_OR_ACCEPT = "name a key to sign it with, or do not ask for a signed index"
    SIGN_PACKAGES = "name a key to sign them with, or say that they stay unsigned"
    SIGN_WITH_SHA512 = "sign it again with the hash algorithm SHA512"
    START_ENGINE = "start the engine, or name its socket"
    UPDATE_INDEX = "update the index"
    UPDATE_INDEX_AGAIN = "the packages themselves are there; update the index to enter them"
    UPDATE_INDEX_ON_PUSH = "update the index when something is pushed"
    USE_LESS = "raise the limits (`ulimit -a` shows them), or use fewer jobs"
    VOUCH_OR_NAME = "check its signature, which vouches for the hash, or name the package as NAME@VERSION/HASH"
    WITH_REBUILT_SIGNED_INDEX = "{first}; or rebuild the index from the packages and sign it"


class Hint(str):
    """A `Step` with what it is about, as a value: it reads as the step's neutral words and still knows the step.

    `values` fill the words: `Hint(Step.LOG_IN, host="registry.example")`. A next step without a command or a flag of
    its own is plain text and needs no `Hint`.
    """

    __slots__ = ("step", "values")
    step: Step
    values: Mapping[str, str]

    def __new__(cls, step: Step, **values: str) -> Self:
        """Return the hint. Raises `KeyError` if the words of the step need a value that is not given."""
        hint = super().__new__(cls, step.value.format(**values))
        hint.step = step
        hint.values = MappingProxyType(values)
        return hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how a copy is made, in this process or another."""
        return _hint_of, (self.step, dict(self.values))


def _hint_of(step: Step, values: Mapping[str, str]) -> Hint:
    return Hint(step, **values)


Side = Literal["source", "target"]


class Fields(TypedDict, total=False):
    """What an error may know of the failure, each given by keyword and read as a property.

    `operation`: what was attempted, as "fetch manifest 1.0 of registry.example/apps". `side`: which side of a copy
    failed. `host`: who answered or should have, with its port. `status` and `codes`: the HTTP status and the error
    codes of the distribution specification that the host answered with. `digest`: the content that it is about,
    "sha256:...". `path`: the local file or folder.
    """

    operation: str
    side: Side
    host: str
    status: int
    codes: tuple[str, ...]
    digest: str
    path: str


class BinpkgError(Exception):
    """Base of all errors shown to a user. `exit_code` is stable and part of the interface.

    `hint` is the next step, "" if none is known; a `Hint` where a front end has words of its own for it. `details` are
    lines below the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", details: Sequence[str] = (), **fields: Unpack[Fields]) -> None:
        super().__init__("\n  ".join([message, *details]))
        self._first = message
        self._hint = hint
        self._details = tuple(details)
        self._fields: Fields = fields

    @property
    def message(self) -> str:
        """The message, with the details below it."""
        return "\n  ".join(self.lines)

    @property
    def hint(self) -> str:
        """The next step: plain words, or a `Hint`."""
        return self._hint

    @property
    def details(self) -> tuple[str, ...]:
        """The lines below the message."""
        return self._details

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the message: where `details` were given, each is one. A line feed elsewhere is never ours."""
        return self._first, *self._details

    @property
    def fields(self) -> Fields:
        """The fields that are known."""
        return self._fields.copy()

    @property
    def operation(self) -> str | None:
        """What was attempted."""
        return self._fields.get("operation")

    @property
    def side(self) -> Side | None:
        """The side of a copy that failed."""
        return self._fields.get("side")

    @property
    def host(self) -> str | None:
        """The host that answered or should have."""
        return self._fields.get("host")

    @property
    def status(self) -> int | None:
        """The HTTP status."""
        return self._fields.get("status")

    @property
    def codes(self) -> tuple[str, ...]:
        """The error codes in the answer, in upper case."""
        return self._fields.get("codes", ())

    @property
    def digest(self) -> str | None:
        """The digest of the content that it is about."""
        return self._fields.get("digest")

    @property
    def path(self) -> str | None:
        """The local file or folder that it is about."""
        return self._fields.get("path")

    def within(self, context: str = "", after: str = "", *, hint: str | None = None, **fields: Unpack[Fields]) -> Self:
        """Return a new error of the same class that says more, to be raised `from` this one.

        `context` stands before the message ("base image debian" before ": not found"), `after` behind it. `hint` takes
        the place of the old one unless it is None; `fields` join those that are known.
        """
        first = (f"{context}: " if context else "") + self._first + (f" {after}" if after else "")
        step = self._hint if hint is None else hint
        new = type(self).__new__(type(self))  # a subclass may ask for more than a message when it is made
        new.__dict__ |= self.__dict__ | {"_first": first, "_hint": step, "_fields": {**self._fields, **fields}}
        new.args = (new.message,)
        return new

    def again(self) -> Self:
        """Return a new error that says the same: one that was kept is raised from, never itself, a second time."""
        return self.within()

    def to_json(self) -> dict[str, Any]:
        """Return the error for a JSON document: message, exit code, and under `error_fields` the known fields."""
        fields: dict[str, Any] = {**self._fields}
        if self.hint:
            fields["hint"] = str(self.hint)
        if isinstance(self.hint, Hint):
            fields["step"] = self.hint.step.name.lower()
        return {"error": self.message, "exit_code": self.exit_code} | ({"error_fields": fields} if fields else {})

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
        self,
        message: str,
        *,
        hint: str = "",
        longest_prefix: int | None = None,
        longest_root: int | None = None,
        **fields: Unpack[Fields],
    ) -> None:
        super().__init__(message, hint=hint, **fields)
        self.longest_prefix = longest_prefix
        self.longest_root = longest_root


class SignatureError(ContentError):
    """A signature that is required is absent, wrong, or not by a trusted key. Never retried."""

    exit_code = 14


class KeyringError(BinpkgError):
    """gpg is absent, or cannot do what it was asked: no such key, no passphrase, a keyring it cannot use."""

    exit_code = 15


class OutputError(BinpkgError):
    """Standard output cannot be written: it is closed, or the disk below it is full. What was done stands."""

    exit_code = 16


class ResourceError(BinpkgError):
    """Memory, open files or threads are used up, on the machine or by a limit for this command."""

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

    def __init__(self, message: str, *, hint: str = "", seconds: float | None = None, **fields: Unpack[Fields]) -> None:
        super().__init__(message, hint=hint, **fields)
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
    return ResourceError(_SCARCE[number], hint=Hint(Step.USE_LESS))


class DamagedError(ContentError):
    """Content whose size or digest is not the promised one."""


class MissingBlobError(ContentError):
    """A manifest names a blob that is not there: damage, not absence."""


PUSH_AGAIN: Final = Hint(Step.PUSH_AGAIN)
REBUILD: Final = Hint(Step.REBUILD_INDEX)
ASK_AGAIN: Final = Hint(Step.ASK_AGAIN)


@contextmanager
def hinted(hint: str) -> Iterator[None]:
    """Give an error about damage its next step, unless its raiser gave one."""
    try:
        yield
    except ContentError as error:
        if error.hint and not isinstance(error, DamagedError):
            raise
        raise error.within(hint=hint) from error
