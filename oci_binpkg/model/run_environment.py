"""What a package adds to the environment of what uses it: the variables that its recipe sets, beside its folders.

Values name prefixes by placeholders, so that they are true wherever the package lies: `{prefix}` is the package's own
prefix, `{prefix:HASH}` that of another package. A package of a cache is a stranger's: what it may set is in `accepted`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from oci_binpkg.errors import ContentError

ENVIRONMENT_KEY: Final = "io.oci-binpkg.environment"
"""Member of a package's configuration that Spack does not read: its changes, each a list of action, name and value."""
MOST_CHANGES: Final = 1000
MAX_VALUE: Final = 32 * 1024
MAX_TOTAL: Final = 256 * 1024
_MAX_NAME: Final = 255
_SHOWN: Final = 80
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PLACE: Final = re.compile(r"\{prefix(?::([a-z0-9]{1,64}))?\}", re.ASCII)
_INSIDE: Final = re.compile(r"\{prefix\}(/[^:{}]*)?", re.ASCII)
_DECIDING: Final = re.compile(
    r"LD_.*|DYLD_.*|LIBPATH|SHLIB_PATH|GLIBC_.*|GCONV_PATH|LOCPATH|NLSPATH|MALLOC_.*|NIX_.*"
    r"|BASH.*|ENV|SHELL.*|ZDOTDIR|PS[0-4]|PROMPT_COMMAND|IFS|CDPATH|GLOBIGNORE|FPATH|TERMINFO.*|TERMCAP"
    r"|HOME|USER|LOGNAME|HOSTNAME|HOSTALIASES|RESOLV_.*|RES_OPTIONS|LOCALDOMAIN|TMP|TEMP|TMPDIR|TZDIR|XDG_.*"
    r"|PYTHON(?!PATH$).*|PERL5?(OPT|DB|_.*)|PERL5DB.*|RUBYOPT|RUBYLIB|NODE_OPTIONS|.*JAVA_OPTIONS|JAVA_OPTS|JVM_.*"
    r"|GIT_.*|SSH_.*|GPG_.*|GNUPGHOME|SUDO_.*|DOCKER_.*|KUBE.*|AWS_.*|.*_PROXY"
    r"|SSL_.*|OPENSSL_.*|SSLKEYLOGFILE|.*_CA_BUNDLE|CURL_.*|REQUESTS_.*|PIP_.*|NPM_.*"
    r"|GCC_.*|COMPILER_PATH|CC|CXX|CPP|FC|F77|LD|AR|AS|MAKEFLAGS|MFLAGS|.*FLAGS"
    r"|EDITOR|VISUAL|PAGER|.*PAGER|LESS.*|BROWSER|SPACK_.*|OCI_BINPKG_.*",
    re.ASCII | re.IGNORECASE,
)
"""Variables that decide about programs of others: what they load, run or believe, and who they are."""


class Action(StrEnum):
    """What happens to a variable; `prepend_path` and `append_path` are about lists of paths between colons."""

    PREPEND = "prepend_path"
    APPEND = "append_path"
    SET = "set"
    UNSET = "unset"


@dataclass(frozen=True, slots=True)
class EnvironmentChange:
    """One change of a variable: by default, a path is put in front of those that are there."""

    variable: str
    value: str = ""
    action: Action = Action.PREPEND

    @property
    def problem(self) -> str:
        """What keeps it from standing in an environment, "" if nothing does."""
        if not _NAME.fullmatch(self.variable) or len(self.variable) > _MAX_NAME:
            return f"{self.variable[:_SHOWN]!r} is not the name of a variable"
        if len(self.value) > MAX_VALUE:
            return f"{self.variable}: a value of {len(self.value)} characters; at most {MAX_VALUE} are taken"
        if not self.value.replace("\t", " ").isprintable():
            return f"{self.variable}: a value with control characters"
        if self.action in (Action.PREPEND, Action.APPEND) and (not self.value or ":" in _PLACE.sub("", self.value)):
            return f"{self.variable}: {self.value[:_SHOWN]!r} is not one path"
        return ""

    @property
    def is_modest(self) -> bool:
        """Whether it decides over nothing but the package itself: what is believed of a package of a cache.

        A list may get folders of the package's own, other variables a value of their own; lists are never replaced.
        """
        if _DECIDING.fullmatch(self.variable):
            return False
        if self.action in (Action.PREPEND, Action.APPEND):
            return _INSIDE.fullmatch(self.value) is not None and ".." not in self.value.split("/")
        return not self.variable.upper().endswith(("PATH", "PATHS", "_DIRS"))


RunEnvironment = tuple[EnvironmentChange, ...]


def environment_document(changes: RunEnvironment) -> list[list[str]]:
    """Return the changes as JSON values, as they stand under `ENVIRONMENT_KEY`."""
    return [[change.action.value, change.variable, change.value] for change in changes]


def parse_environment(found: object, what: str) -> RunEnvironment:
    """Return what `environment_document` gave; nothing for None. Raises `ContentError`, also for too many."""
    if found is None:
        return ()
    if not isinstance(found, list) or len(found) > MOST_CHANGES:
        raise ContentError(f"{what}: a list of at most {MOST_CHANGES} changes is expected")
    changes = tuple(_change(each, f"{what}[{position}]") for position, each in enumerate(found))
    if sum(len(change.variable) + len(change.value) for change in changes) > MAX_TOTAL:
        raise ContentError(f"{what}: more than {MAX_TOTAL} characters")
    return changes


def _change(found: object, what: str) -> EnvironmentChange:
    if not isinstance(found, list) or [type(each) for each in found] != [str, str, str]:
        raise ContentError(f"{what}: a list of action, name and value is expected")
    action, variable, value = found
    if action not in set(Action):
        raise ContentError(f"{what}: {action[:_SHOWN]!r} is not {', '.join(Action)}")
    change = EnvironmentChange(variable, value, Action(action))
    if change.problem:
        raise ContentError(f"{what}: {change.problem}")
    return change


def accepted(changes: Iterable[EnvironmentChange]) -> tuple[RunEnvironment, tuple[str, ...]]:
    """Return what is believed of a package that came from a cache, and the names of the variables that are not."""
    listed = tuple(changes)
    kept = tuple(change for change in listed if change.is_modest)
    refused = dict.fromkeys(change.variable for change in listed if not change.is_modest)
    return kept, tuple(refused)


def with_placeholders(
    changes: Iterable[EnvironmentChange], prefix: str, others: Mapping[str, str]
) -> Iterator[EnvironmentChange]:
    """Yield changes whose values name prefixes by placeholders; `others` has prefixes of further packages by hash."""
    known = {path: f"{{prefix:{key}}}" for key, path in others.items() if path} | {prefix: "{prefix}"}
    paths = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    pattern = re.compile(rf"(?:{paths})(?=[/:;,\s\"']|$)")
    for change in changes:
        yield replace(change, value=pattern.sub(lambda match: known[match[0]], change.value))


def placed(
    changes: Iterable[EnvironmentChange], prefix: str, prefix_of: Callable[[str], str]
) -> Iterator[EnvironmentChange]:
    """Yield changes with paths in the place of placeholders; what names a package that is not there is left out.

    `prefix_of` returns the prefix of a hash, "" for one that is not there.
    """
    for change in changes:
        wanted = {match[1]: prefix_of(match[1]) if match[1] else prefix for match in _PLACE.finditer(change.value)}
        if all(wanted.values()):
            value = _PLACE.sub(lambda match, wanted=wanted: wanted[match[1]], change.value)  # type: ignore[misc]
            yield replace(change, value=value)
