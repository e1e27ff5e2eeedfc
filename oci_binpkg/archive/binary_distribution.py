"""The document `.spack/binary_distribution`: what the installer needs to know to relocate a layer.

Source: what Spack writes into its archives since layout version 2: YAML, one flow mapping on one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from oci_binpkg.errors import ContentError
from oci_binpkg.model.documents import all_text, list_of, object_of, text_of
from oci_binpkg.model.identifiers import MAX_PATH_BYTES, check_hash, check_path, is_path

MEMBER: Final = ".spack/binary_distribution"
"""Where the document stands, relative to the prefix."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Paths of 100,000 files take half of it."""
_SHOWN: Final = 200
_OTHER_FIELDS: Final = 6
_MOST_ROOTS: Final = 16
_LISTS: Final = ("relocate_binaries", "relocate_links", "relocate_textfiles")
_RAW_NAMES: Final = "raw_names"
_RELATIVE: Final = "its programs have relative rpaths, as Spack made them once: some may not find their libraries"
_PLAIN: Final = re.compile(r"[A-Za-z/_][A-Za-z0-9/_.+-]*", re.ASCII)
"""Text that is a plain scalar in YAML, unless it is one of the words below."""
_WORDS: Final = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_BREAK: Final = re.compile("[\n\r\x85\u2028\u2029]")
_KEY: Final = re.compile(r"(?=[0-9]*[g-w])[a-z2-7]{32}|[a-z]+(?:_[a-z]+)+|buildpath|spackprefix", re.ASCII)
"""A hash that YAML cannot take for a number, because its first letter stands in no number; or a name of ours."""


@dataclass(frozen=True, slots=True)
class Relocations:
    """Paths relative to the prefix, in archive order: binaries, links into known prefixes, text that mentions one."""

    binaries: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    textfiles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where a package was installed, which prefixes it may mention, and which of its files do.

    `buildpath` is the root of the install tree and `relative_prefix` the prefix relative to it; both are "" where that
    is not known. `hash_to_prefix` begins with the package itself. `hardlinks_deduped` false means that only the first
    name of each inode is listed, as older archives have it. `remarks` are about members that are not used.

    Five members are ours, present where they are not empty; Spack reads none of them. `raw_names` has those paths of
    the three lists that are no UTF-8, which YAML cannot hold, with `%` and two digits for each byte of that kind.
    `real_root` and `real_prefixes` (hash -> path) are where the root and the prefixes are with links resolved, if that
    is elsewhere. `other_prefixes` are further packages of the tree whose paths begin with one of the prefixes: hash ->
    path, name, version, platform, operating system, target. `other_roots` are paths of links that lead to the root, if
    files of the package name them.
    """

    sbang_install_path: str
    buildpath: str
    spackprefix: str
    relative_prefix: str
    hash_to_prefix: Mapping[str, str]
    relocate_binaries: tuple[str, ...] = ()
    relocate_links: tuple[str, ...] = ()
    relocate_textfiles: tuple[str, ...] = ()
    hardlinks_deduped: bool = True
    remarks: tuple[str, ...] = ()
    real_root: str = ""
    real_prefixes: Mapping[str, str] = field(default_factory=dict)
    other_prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    other_roots: tuple[str, ...] = ()

    @property
    def recorded_prefix(self) -> str:
        """`buildpath` and `relative_prefix` as one path, "" where they are not known."""
        return _below(self.buildpath, self.relative_prefix) if self.buildpath and self.relative_prefix else ""

    def prefix_of(self, package_hash: str) -> str:
        """Return the absolute path that the layer of a package has it at."""
        return self.hash_to_prefix.get(package_hash) or self.recorded_prefix

    def confirmed(self, prefix: str, what: str) -> Distribution:
        """Return the document as far as it agrees with the tar, whose members lie below `prefix`, an absolute path.

        The tar decides, for its files are what is installed. A root that does not lead to `prefix` is not used, which
        is remarked. Raises `ContentError` if nothing in the document names `prefix`, and for one with a colon or a
        control character.
        """
        check_path(prefix, what)
        recorded = self.recorded_prefix
        if recorded == prefix:
            return self
        if prefix.count("/") == 1:  # archives of layout 1 have the last component only
            known = [recorded] if recorded else [*self.hash_to_prefix.values()]
            if not known or any(each.endswith(prefix) for each in known):
                return self
        elif prefix in self.hash_to_prefix.values():
            if not self.relative_prefix and prefix.startswith(f"{self.buildpath}/"):
                return replace(self, relative_prefix=prefix.removeprefix(f"{self.buildpath}/"))
            remark = f"{MEMBER} names {(recorded or self.buildpath)[:_SHOWN]!r} as its prefix: not used"
            said = self.remarks if set(self.remarks) - {_RELATIVE} else (*self.remarks, remark)
            return replace(self, buildpath="", relative_prefix="", remarks=said)
        elif not recorded and not self.hash_to_prefix:
            return self
        raise ContentError(
            f"{what}: it speaks of {(recorded or 'other prefixes')[:_SHOWN]!r}, the layer has {prefix!r}"
        )

    @property
    def header(self) -> dict[str, Any]:
        """Everything but the lists of files: what is known before the prefix is read."""
        ours = {
            "real_root": self.real_root,
            "real_prefixes": dict(self.real_prefixes),
            "other_prefixes": {key: list(value) for key, value in self.other_prefixes.items()},
            "other_roots": list(self.other_roots),
        }
        return {
            "sbang_install_path": self.sbang_install_path,
            "buildpath": self.buildpath,
            "spackprefix": self.spackprefix,
            "relative_prefix": self.relative_prefix,
            "hardlinks_deduped": self.hardlinks_deduped,
            "hash_to_prefix": dict(self.hash_to_prefix),
            **{key: value for key, value in ours.items() if value},
        }

    @property
    def known_prefixes(self) -> tuple[str, ...]:
        """The paths that make a text file or a link one to relocate."""
        recorded = (*self.hash_to_prefix.values(), self.sbang_install_path, self.buildpath)
        others = (fields[0] for fields in self.other_prefixes.values())
        return (*recorded, *filter(None, (self.real_root, *self.real_prefixes.values(), *others, *self.other_roots)))

    def to_bytes(self, relocations: Relocations | None = None) -> bytes:
        """Encode as Spack does, with the lists of `relocations` if given; the links stand before the text files."""
        found = relocations or Relocations(self.relocate_binaries, self.relocate_links, self.relocate_textfiles)
        lists = dict(zip(_LISTS, (found.binaries, found.links, found.textfiles), strict=True))
        raw = {key: [quote(os.fsencode(path)) for path in paths if not is_text(path)] for key, paths in lists.items()}
        raw = {key: paths for key, paths in raw.items() if paths}
        document = self.header | {key: [path for path in paths if is_text(path)] for key, paths in lists.items()}
        document |= {_RAW_NAMES: raw} if raw else {}
        try:
            return f"{_flow(document)}\n".encode()
        except _IndentedError:
            return f"{_dumped(document)}\n".encode()

    @classmethod
    def parse(cls, data: bytes, what: str) -> Distribution:
        """Parse the document, also the older ones with `prefix_to_hash`. Raises `ContentError` naming `what`."""
        document = _load(data, what)
        prefixes = object_of(document, "hash_to_prefix", what, optional=True)
        if not prefixes and "prefix_to_hash" in document:
            inverse = object_of(document, "prefix_to_hash", what)
            prefixes = {_text(value, what): key for key, value in inverse.items()}
        all_text([*prefixes, *prefixes.values()], f"{what}.hash_to_prefix")
        for package_hash, prefix in prefixes.items():
            check_hash(package_hash, f"{what}.hash_to_prefix")
            check_path(prefix, f"{what}.hash_to_prefix.{package_hash}")
        root, relative, remarks = _root(document, what)
        if _is_true(document.get("relative_rpaths")):
            remarks += (_RELATIVE,)
        return cls(
            _absolute(document, "sbang_install_path", what),
            root,
            _absolute(document, "spackprefix", what),
            relative,
            prefixes,
            _paths(document, "relocate_binaries", what),
            _paths(document, "relocate_links", what),
            _paths(document, "relocate_textfiles", what),
            _is_true(document.get("hardlinks_deduped")),
            remarks,
            _absolute(document, "real_root", what),
            _real_prefixes(document, what),
            _other_prefixes(document, what),
            _other_roots(document, what),
        )


def _real_prefixes(document: Mapping[str, Any], what: str) -> dict[str, str]:
    where = f"{what}.real_prefixes"
    found = object_of(document, "real_prefixes", what, optional=True)
    all_text([*found, *found.values()], where)
    for package_hash, prefix in found.items():
        check_hash(package_hash, where)
        check_path(prefix, f"{where}.{package_hash}")
    return dict(found)


def _other_prefixes(document: Mapping[str, Any], what: str) -> dict[str, tuple[str, ...]]:
    where = f"{what}.other_prefixes"
    found = {}
    for package_hash, fields in object_of(document, "other_prefixes", what, optional=True).items():
        check_hash(package_hash, where)
        if not isinstance(fields, list) or len(fields) != _OTHER_FIELDS:
            raise ContentError(f"{where}.{package_hash[:_SHOWN]}: a list of {_OTHER_FIELDS} texts is expected")
        all_text(fields, f"{where}.{package_hash}")
        check_path(fields[0], f"{where}.{package_hash}")
        found[package_hash] = tuple(fields)
    return found


def is_text(path: str) -> bool:
    """Return whether a path is UTF-8; bytes that are not are half surrogates in it."""
    return path.isascii() or not any("\udc80" <= character <= "\udcff" for character in path)


def _other_roots(document: Mapping[str, Any], what: str) -> tuple[str, ...]:
    found = all_text(list_of(document, "other_roots", what, optional=True), f"{what}.other_roots")
    if len(found) > _MOST_ROOTS:
        raise ContentError(f"{what}.other_roots: {len(found)} paths; at most {_MOST_ROOTS} are accepted")
    for path in found:
        check_path(path, f"{what}.other_roots")
    return found


class _IndentedError(Exception):
    """A text has line breaks, and so is written differently in different places."""


def _flow(value: object) -> str:
    """Return what `yaml.dump` makes of a value on one line, a hundred times faster for the scalars that are common.

    Raises `_IndentedError`.
    """
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
            return value
        if _BREAK.search(value):
            raise _IndentedError
        return _dumped([value])[1:-1]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict) and all(map(_KEY.fullmatch, value)):
        return f"{{{', '.join(f'{key}: {_flow(each)}' for key, each in value.items())}}}"
    text = _dumped(value)
    if _BREAK.search(text):
        raise _IndentedError
    return text


def _dumped(value: object) -> str:
    import yaml  # noqa: PLC0415 - takes long to import, and most of what is written needs none of it

    text = yaml.dump(
        value,
        Dumper=yaml.SafeDumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=float("inf"),
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _load(data: bytes, what: str) -> dict[Any, Any]:
    if len(data) > MAX_BYTES:
        raise ContentError(f"{what}: {len(data)} bytes; at most {MAX_BYTES} are accepted")
    # not before it is needed, because yaml takes long to import
    from oci_binpkg.archive.yaml_events import YamlError, read_yaml  # noqa: PLC0415

    try:
        # every scalar is text: a file called `on` or a hash of digits stays what it is
        document = read_yaml(data)
    except YamlError as error:
        line = f" (line {error.line})" if error.line else ""
        raise ContentError(f"{what}: not valid YAML: {error.problem}{line}") from None
    if not isinstance(document, dict):
        raise ContentError(f"{what}: a mapping is expected, not {type(document).__name__}")
    return document


def _root(document: Mapping[str, Any], what: str) -> tuple[str, str, tuple[str, ...]]:
    """Return root and relative prefix, "" for both where they are no paths, and a remark that says so."""
    root = text_of(document, "buildpath", what, default="")
    relative = text_of(document, "relative_prefix", what, default="")
    root = root.rstrip("/") or root
    if not root or (is_path(root) and (not relative or is_path(_below(root, relative)))):
        return root, relative, ()
    return "", "", (f"{MEMBER} names {root[:_SHOWN]!r} and {relative[:_SHOWN]!r} as its prefix: not used",)


def _below(root: str, relative: str) -> str:
    """Return a path that is relative to a root, and outside of it where it begins with `..`, as `relpath` gives."""
    kept = root.rstrip("/").split("/")
    parts = relative.split("/")
    while parts[:1] == [".."] and len(kept) > 1:
        kept.pop()
        parts.pop(0)
    return "/".join([*kept, *parts])


def _absolute(document: Mapping[str, Any], key: str, what: str) -> str:
    """Return a path that is looked for in files and replaced there; "" where it is not known."""
    path = text_of(document, key, what, default="")
    if path and not (path.startswith("/") and path.isprintable() and len(path) <= MAX_PATH_BYTES):
        raise ContentError(f"{what}.{key}: {path[:_SHOWN]!r} is not an absolute path")
    return path


def _paths(document: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    """Return a list of paths within the prefix; "" or null, which older writers left, is an empty list."""
    raw = _raw_paths(document, key, what)
    if document.get(key) in ("", "null", "~"):
        return raw
    return raw + _within(all_text(list_of(document, key, what, optional=True), f"{what}.{key}"), f"{what}.{key}")


def _raw_paths(document: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    where = f"{what}.{_RAW_NAMES}"
    found = object_of(document, _RAW_NAMES, what, optional=True)
    paths = all_text(list_of(found, key, where, optional=True), f"{where}.{key}")
    return _within(tuple(os.fsdecode(unquote_to_bytes(path)) for path in paths), f"{where}.{key}")


def _within(paths: tuple[str, ...], where: str) -> tuple[str, ...]:
    for path in paths:
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise ContentError(f"{where}: {path[:200]!r} leads out of the prefix")
    return paths


def _is_true(value: object) -> bool:
    return value in ("true", "True", "TRUE")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ContentError(f"{what}.prefix_to_hash: text is expected, not {type(value).__name__}")
    return value
