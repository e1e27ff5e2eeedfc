"""What Spack itself says a package adds to the environment: `spack load --sh`, asked once for many and remembered.

The output is that of a whole closure. A value belongs to the package whose prefix it names; one that names none belongs
to the package that was asked for.
Source: Spack's `spack load --sh /HASH`: one `export NAME=VALUE;` or `unset NAME;` a line, quoted as for a shell.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from oci_binpkg.disk import read_regular, replace_file
from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.events import Observer, Warned
from oci_binpkg.installs.protocol import InstallRecord
from oci_binpkg.log import Log
from oci_binpkg.model.documents import canonical_json
from oci_binpkg.model.run_environment import (
    Action,
    EnvironmentChange,
    RunEnvironment,
    environment_document,
    parse_environment,
    with_placeholders,
)

_MAX_OUTPUT: Final = 16 * 1024 * 1024
_MAX_REMEMBERED: Final = 1024 * 1024
_SECONDS: Final = 120.0
_MOST_AT_ONCE: Final = 500
_MOST_FAILURES: Final = 3
_LISTS: Final = ("PATH", "PATHS", "DIRS")
_log: Final = Log("environment")


@dataclass(frozen=True, slots=True)
class AskedSpack:
    """A Spack program, and the folder that remembers its answers ("": none does)."""

    program: str
    folder: str = ""

    def output(self, hashes: Sequence[str]) -> str:
        """Return what `spack load --sh` prints. Raises `OSError`, `subprocess.SubprocessError`, `ValueError`."""
        arguments = [self.program, "load", "--sh", *(f"/{each}" for each in hashes)]
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=True)
        if len(done.stdout) > _MAX_OUTPUT:
            raise ValueError("too much output")
        return done.stdout.decode("utf-8")


class SpackEnvironments:
    """Asks Spack for packages and their closures; `closure` returns a record with all that it needs to run."""

    def __init__(
        self, spack: AskedSpack, closure: Callable[[InstallRecord], Sequence[InstallRecord]], observer: Observer
    ) -> None:
        self._spack = spack
        self._closure = closure
        self._observer = observer
        self._answers = spack.output
        self._failures = 0

    def ask(self, records: Iterable[InstallRecord]) -> Mapping[str, RunEnvironment]:
        """Return what Spack says of packages, by hash; of those that it does not know, nothing."""
        found: dict[str, RunEnvironment] = {}
        asked = {record.spec.hash: record for record in records}
        for package_hash, record in asked.items():
            if (known := self._remembered(record)) is not None:
                found[package_hash] = known
        closures = {key: self._closure(record) for key, record in asked.items() if key not in found}
        for group in _groups(closures):
            for package_hash, changes in self._asked(group, closures).items():
                if package_hash in asked and package_hash not in found:
                    found[package_hash] = changes
                    self._remember(asked[package_hash], changes)
        return found

    def _asked(
        self, group: Sequence[str], closures: Mapping[str, Sequence[InstallRecord]]
    ) -> Mapping[str, RunEnvironment]:
        """Ask for several packages at once; where an answer cannot be told apart, for each of them."""
        records = {record.spec.hash: record for key in group for record in closures[key]}
        if self._failures >= _MOST_FAILURES:
            return {}  # it is the Spack of another tree
        try:
            owned, others = _owners(self._answers(group), records)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            if len(group) > 1 and isinstance(error, subprocess.CalledProcessError):
                return self._each(group, closures)
            self._tell(error)
            return {}
        if others and len(group) > 1:
            return self._each(group, closures)
        found = {key: (*owned.get(key, ()), *(others if key in group else ())) for key in records}
        prefixes = {key: record.prefix for key, record in records.items()}
        return {key: tuple(with_placeholders(changes, records[key].prefix, prefixes)) for key, changes in found.items()}

    def _each(
        self, group: Sequence[str], closures: Mapping[str, Sequence[InstallRecord]]
    ) -> Mapping[str, RunEnvironment]:
        found: dict[str, RunEnvironment] = {}
        for key in group:
            for package_hash, changes in self._asked([key], closures).items():
                found[package_hash] = changes if package_hash == key else found.get(package_hash, changes)
        return found

    def _tell(self, error: Exception) -> None:
        _log.info("%s load failed: %s", self._spack.program, type(error).__name__)
        self._failures += 1
        if self._failures == 1:
            self._observer(
                Warned(f"{self._spack.program} does not tell what packages add to the environment: images lack that")
            )

    def _path(self, record: InstallRecord) -> str:
        folder = self._spack.folder
        return os.path.join(folder, f"{record.spec.hash}.json") if folder else ""

    def _remembered(self, record: InstallRecord) -> RunEnvironment | None:
        path = self._path(record)
        try:
            document = json.loads(read_regular(path, _MAX_REMEMBERED)) if path else None
            if isinstance(document, dict) and document.get("prefix") == record.prefix:
                return parse_environment(document.get("changes"), path)
        except (OSError, ValueError, RecursionError, ContentError):
            pass
        return None

    def _remember(self, record: InstallRecord, changes: RunEnvironment) -> None:
        if path := self._path(record):
            document = {"prefix": record.prefix, "changes": environment_document(changes)}
            with suppress(OSError, LocalDiskError):
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                replace_file(path, canonical_json(document))


def _groups(closures: Mapping[str, Sequence[InstallRecord]]) -> Iterator[list[str]]:
    """Yield packages to be asked for at once: none that another one needs, no two packages of one name."""
    needed = {r.spec.hash for key, closure in closures.items() for r in closure if r.spec.hash != key}
    groups: list[tuple[list[str], dict[str, str]]] = []
    for key, closure in closures.items():
        if key in needed:
            continue
        names = {record.spec.name: record.spec.hash for record in closure}
        for members, known in groups:
            if len(members) < _MOST_AT_ONCE and all(known.get(name, each) == each for name, each in names.items()):
                members.append(key)
                known.update(names)
                break
        else:
            groups.append(([key], names))
    yield from (members for members, _ in groups)


def _owners(
    output: str, records: Mapping[str, InstallRecord]
) -> tuple[dict[str, RunEnvironment], tuple[EnvironmentChange, ...]]:
    """Return the changes in an output by the package whose prefix they name, and those that name none."""
    owned: dict[str, RunEnvironment] = {}
    others: list[EnvironmentChange] = []
    for change in _parsed(output):
        owner = next((key for key, record in records.items() if _is_in(change.value, record.prefix)), None)
        if owner is not None:
            owned[owner] = (*owned.get(owner, ()), change)
        elif change.action is not Action.PREPEND:
            others.append(change)  # a path of nobody is what was there before, or an external's
    return owned, tuple(others)


def _parsed(output: str) -> Iterator[EnvironmentChange]:
    for line in output.splitlines():
        try:
            words = shlex.split(line.strip().removesuffix(";"))
        except ValueError:
            continue
        if words[:1] not in (["export"], ["unset"]) or len(words) != len(("export", "NAME=VALUE")):
            continue
        name, equal, value = words[1].partition("=")
        if name.startswith("SPACK_") or name == "_" or bool(equal) != (words[0] == "export"):
            continue
        if not equal:
            changes = [EnvironmentChange(name, "", Action.UNSET)]
        elif name.endswith(_LISTS) or (":/" in value and value.startswith("/")):
            # the first path comes last, so that it is in front
            changes = [EnvironmentChange(name, path) for path in reversed(value.split(":")) if path]
        else:
            changes = [EnvironmentChange(name, value, Action.SET)]
        yield from (change for change in changes if not change.problem)


def _is_in(value: str, prefix: str) -> bool:
    return bool(prefix) and (value == prefix or f"{prefix}/" in value)
