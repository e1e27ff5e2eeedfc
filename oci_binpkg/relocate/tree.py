"""A staged tree: old prefixes -> new prefixes in everything that its archive declares, and a second look afterwards.

What Spack leaves stale is changed as well: static archives, texts in UTF-16 and compiled Python, found by a search
through all other files. Files of other kinds that mention an old prefix (pickles, compressed data, ...) are reported
and left alone. `.spack/` is a record of the build and is never changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError, RelocationError
from oci_binpkg.relocate import ar, files
from oci_binpkg.relocate.budget import Budget
from oci_binpkg.relocate.compiled_python import is_cache
from oci_binpkg.relocate.edits import RelocationReport, Remark, StaleString, stale_error
from oci_binpkg.relocate.files import FileOutcome
from oci_binpkg.relocate.origins import FileOrigin
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.strings import is_left

METADATA: Final = ".spack"
_UNREAD: Final = "keep the old path in debug information and the like, which no program loads"
_TEMPORARY: Final = ".relocated-link"

Left = Callable[[str, PrefixMap], list[int]]


def relocate_tree(
    directory: str,
    mapping: PrefixMap,
    *,
    binaries: Collection[str] = (),
    textfiles: Collection[str] = (),
    clean: Collection[str] = frozenset(),
    final_prefix: str = "",
    old_prefix: str = "",
    root: str = "",
    sbang: str = "",
    allow_stale: bool | Sequence[str] = False,
    budget: Budget | None = None,
) -> RelocationReport:
    """Relocate the tree at `directory`, which is going to be at `final_prefix` in the install root `root`.

    `binaries` and `textfiles` are the paths that the archive declares, relative to the tree; a file that has several
    names is changed once, whichever of them is listed. `clean` are files that are known to mention no old prefix and
    not to be UTF-16: they are not read. All absolute links into an old prefix are changed, and with `old_prefix`, where
    the tree was, relative ones that lead out of it. `sbang` is the path of that
    script in the new root: it is put before interpreter lines that become too long.

    `allow_stale` are patterns of files that may keep old prefixes, matched against the path in the tree, or against
    the name of the file if they hold no slash; True allows it for all.

    Raises `RelocationError` if a constant of another file cannot be changed, or if an old prefix is left in
    anything that should have been changed, or if more is to be done than `budget` allows; then the tree is half done
    and of no use. Raises `LocalDiskError`.
    """
    work = _Work(directory, mapping, os.fsencode(sbang), set(binaries), set(textfiles), clean, budget or Budget())
    work.places = (os.fsencode(old_prefix), os.fsencode(final_prefix)) if old_prefix and final_prefix else (b"", b"")
    work.run()
    stale = tuple(sorted(work.stale, key=lambda one: (one.path, one.finding.offset)))
    kept = tuple(one for one in stale if one.finding.is_stale)
    may_stay = _may_stay(allow_stale)
    if refused := [one for one in work.refused if not may_stay(one.path)]:
        raise _refused(refused, final_prefix or directory)
    if stopping := tuple(one for one in kept if not may_stay(one.path)):
        further = sum(count for path, count in work.further.items() if not may_stay(path))
        raise stale_error(stopping, prefix=final_prefix, root=root, further=further)
    work.look_again(final_prefix or directory)
    reported = (*work.remarks, *work.refused)
    return RelocationReport(
        tuple(sorted(work.changed)),
        kept,
        tuple(one for one in stale if not one.finding.is_stale),
        tuple(sorted(reported, key=lambda remark: remark.path)),
    )


@dataclass(slots=True)
class _Work:
    directory: str
    mapping: PrefixMap
    sbang: bytes
    binaries: set[str]
    textfiles: set[str]
    clean: Collection[str]
    budget: Budget
    places: tuple[bytes, bytes] = (b"", b"")
    changed: set[str] = field(default_factory=set)
    stale: list[StaleString] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    refused: list[Remark] = field(default_factory=list)
    again: list[tuple[str, Left]] = field(default_factory=list)
    further: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        if not self.mapping:
            return
        links, regular = _entries(self.directory)
        for path in links:
            self._relocate_link(path)
        found = {path for names in regular for path in names}
        self.remarks += [Remark(path, "declared, and not there") for path in sorted(self.binaries - found - {*links})]
        self.remarks += [Remark(path, "declared, and not there") for path in sorted(self.textfiles - found - {*links})]
        shifted = self._is_shifted()
        for names in regular:
            if not any(name in self.clean for name in names) or (shifted and self.binaries.intersection(names)):
                self._relocate_file(names)

    def look_again(self, prefix: str) -> None:
        """Search everything that was to be changed. Raises `RelocationError` if an old prefix is left."""
        known = {(one.path, one.finding.offset) for one in self.stale} | {(one.path, 0) for one in self.refused}
        refused = {one.path for one in self.refused}
        for path, left_in in self.again:
            left = [at for at in left_in(self._full(path), self.mapping) if (path, at) not in known]
            # of findings that were only counted the places are not known
            if len(left) > self.further.get(path, 0) and path not in refused:
                raise RelocationError(
                    f"{prefix}: an old prefix is left in {path} at byte {left[0]} after its relocation",
                    hint="report this file: it is of a kind that is not relocated as it should be",
                )

    def _relocate_file(self, names: tuple[str, ...]) -> None:
        """Relocate one inode by its first declared name; the work and the report go by that."""
        binary = next((name for name in names if name in self.binaries), None)
        textual = next((name for name in names if name in self.textfiles), None)
        if binary is not None:
            self._note(
                names,
                binary,
                files.relocate_binary(self._full(binary), self.mapping, self.budget, self._origin(binary)),
                files.left_in_binary,
            )
        elif textual is not None:
            relocate = partial(files.relocate_text, sbang=self.sbang)
            self._attempt(names, textual, relocate, files.left_in_text)
        else:
            self._search(names)

    def _search(self, names: tuple[str, ...]) -> None:
        path = names[0]
        found = files.mentions(self._full(path), self.mapping, self.budget)
        if not found.anywhere:
            return
        if found.head == ar.MAGIC:
            self._attempt(names, path, files.relocate_archive, files.left_in_archive)
        elif is_cache(path):
            self._attempt(names, path, files.relocate_compiled_python, files.left_in_compiled_python)
        elif found.encoding:
            relocate = partial(files.relocate_wide_text, encoding=found.encoding)
            self._attempt(names, path, relocate, partial(files.left_in_wide_text, encoding=found.encoding))
        elif (
            found.head != ar.THIN_MAGIC
            and (outcome := files.relocate_undeclared(self._full(path), self.mapping, self.budget)).changed
        ):
            self._note(names, path, outcome, files.left_in_text)
        else:
            self.remarks.append(_left_alone(path, found.head))

    def _attempt(
        self,
        names: tuple[str, ...],
        path: str,
        relocate: Callable[[str, PrefixMap, Budget], FileOutcome],
        left_in: Left,
    ) -> None:
        try:
            outcome = relocate(self._full(path), self.mapping, self.budget)
        except ContentError as error:
            what, kind = "mentions", "mention"
            if is_cache(path):
                what, kind = "compiled Python that mentions", "of compiled Python mention"
            reason = f"{what} an old prefix and was left alone: {error.message}"
            self.remarks.append(Remark(path, reason, f"{kind} an old prefix and were left alone"))
        else:
            self._note(names, path, outcome, left_in)

    def _note(self, names: tuple[str, ...], path: str, outcome: FileOutcome, left_in: Left) -> None:
        self.changed |= set(names) if outcome.changed else set()
        self.stale += [StaleString(path, finding) for finding in outcome.findings]
        self.refused += [Remark(path, reason) for reason in outcome.refused]
        self.remarks += [Remark(path, outcome.remark)] if outcome.remark else []
        if outcome.unread:
            self.remarks.append(Remark(path, _unread(outcome.unread), _UNREAD))
        if outcome.further:
            self.further[path] = outcome.further
            reason = f"{outcome.further} more strings in it are of that kind"
            self.remarks.append(Remark(path, reason, "have more strings of that kind"))
        self.again.append((path, left_in))

    def _relocate_link(self, path: str) -> None:
        full = self._full(path)
        try:
            target = os.readlink(full)
            moved = self._moved_link(path, target)
            if moved == target:
                return
            temporary = os.path.join(os.path.dirname(full), _TEMPORARY)
            os.symlink(moved, temporary)  # of a tree that has no name of its own yet: it is synced as one
            os.replace(temporary, full)
        except OSError as error:
            raise disk_refusal(
                f"cannot relocate the link {full}",
                error,
                hint="check the free space and the permissions there",
            ) from error
        self.changed.add(path)
        self.again.append((path, _left_in_link))

    def _is_shifted(self) -> bool:
        """Return whether another prefix lies elsewhere now as seen from this one, so that paths between them change."""
        old_place, new_place = self.places
        return bool(old_place) and any(
            os.path.relpath(old, old_place) != os.path.relpath(new, new_place)
            for old, new in self.mapping.pairs
            if old not in self.mapping.roots
        )

    def _origin(self, path: str) -> FileOrigin | None:
        if not self.places[0]:
            return None
        old, new = (os.path.join(place, os.fsencode(os.path.dirname(path))).rstrip(b"/") for place in self.places)
        return FileOrigin(old, new)

    def _moved_link(self, path: str, target: str) -> str:
        """Return the target in the new place; relative ones within the tree stay as they are."""
        inner = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if target.startswith("/") or not self.places[0] or inner.partition("/")[0] != os.pardir:
            return self.mapping.replace_link(target)
        old, new = (os.path.join(place, os.fsencode(os.path.dirname(path))).rstrip(b"/") for place in self.places)
        return os.fsdecode(self.mapping.replace_relative(os.fsencode(target), old, new))

    def _full(self, path: str) -> str:
        return os.path.join(self.directory, path)


def _entries(directory: str) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the links, and the names of each regular file, relative to the tree, sorted; `.spack` is left out.

    Nothing is reached through a link, so a declared path cannot lead out of the tree.
    """
    links: list[str] = []
    regular: dict[tuple[int, int], list[str]] = {}
    for path, status in _walk(directory):
        if stat.S_ISLNK(status.st_mode):
            links.append(path)
        elif stat.S_ISREG(status.st_mode):
            regular.setdefault((status.st_dev, status.st_ino), []).append(path)
    return sorted(links), sorted(tuple(sorted(names)) for names in regular.values())


def _walk(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    pending = [""]
    while pending:
        relative = pending.pop()
        try:
            with os.scandir(os.path.join(directory, relative)) as found:
                entries = [(os.path.join(relative, entry.name), entry.stat(follow_symlinks=False)) for entry in found]
        except OSError as error:
            raise disk_refusal(f"cannot read {error.filename or directory}", error) from error
        for path, status in entries:
            if path == METADATA:
                continue
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
            else:
                yield path, status


def _left_in_link(path: str, mapping: PrefixMap) -> list[int]:
    target = os.readlink(path)
    return [0] if mapping.replace_link(target) != target and is_left(os.fsencode(target), mapping) else []


def _left_alone(path: str, head: bytes) -> Remark:
    if head == ar.THIN_MAGIC:
        reason = "a thin archive that mentions an old prefix; the files it names are elsewhere"
        return Remark(path, reason, "are thin archives that mention an old prefix")
    reason = "mentions an old prefix, and is not declared to be relocated"
    return Remark(path, reason, "mention an old prefix, and are not declared to be relocated")


def _may_stay(allow_stale: bool | Sequence[str]) -> Callable[[str], bool]:
    """Return whether a file, by its path in the tree, may keep old prefixes."""
    patterns = ("*" if allow_stale else "",) if isinstance(allow_stale, bool) else tuple(allow_stale)

    def allowed(path: str) -> bool:
        name = path.rpartition("/")[2]
        return any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)

    return allowed


def _unread(count: int) -> str:
    what = "string in it keeps" if count == 1 else "strings in it keep"
    return f"{count} {what} the old path, in debug information and the like, which no program loads"


def _refused(refused: list[Remark], prefix: str) -> RelocationError:
    first = refused[0]
    return RelocationError(
        f"{prefix}: {first.path} cannot be relocated: {first.reason}",
        hint="install to a shorter path, or allow stale files if nothing uses them",
    )
