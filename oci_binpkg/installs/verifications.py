"""What was verified of the packages that came from caches: a document beside the database of an install tree.

One line a package: which manifest and layer it came from, from which cache, whose signature was verified or why none
was. It lies outside of the prefixes, so that a package that is pushed again is the same bytes, and Spack, which knows
nothing of it, never writes it: packages that Spack built in the tree, and those from before this document, have no line
and count as their owner's own.

A line belongs to one install: it holds the installation time that the database has for it. Where the database knows a
later one, somebody else installed the package anew, and the line says nothing. Where it knows an earlier one, an
install was interrupted, and the contents of the prefix are unknown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from oci_binpkg.disk import read_regular, replace_file
from oci_binpkg.installs.protocol import InstallRecord

FILE: Final = ".spack-db/oci-binpkg-verified.jsonl"
MAX_BYTES: Final = 256 * 1024 * 1024
_START: Final = b'{"hash":"'
_NOT_ASKED: Final = "signatures were not asked for"
_DAMAGED: Final = "what was verified cannot be read any more"
_UNFINISHED: Final = "an install of it did not come to its end"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was verified of a package that was installed.

    `manifest` and `layer` are digests, `cache` is the name of the cache that it came from. `signer` is the fingerprint
    of the key whose signature was good, "" if none was asked for, and then `reason` says why; `signed_at` is when it
    was made, by the signer's clock. `node_hash` is `verified` or `unverified`: whether the spec's hash was compared
    with the spec. `environment` is what the package adds to the environment, as JSON, "" where the cache did not say.
    Times are in seconds since 1970.
    """

    hash: str
    installation_time: float
    cache: str = ""
    manifest: str = ""
    layer: str = ""
    signer: str = ""
    signed_at: int = 0
    reason: str = _NOT_ASKED
    node_hash: str = ""
    environment: str = ""

    def signed(self, signer: str, made: int) -> Verification:
        """Return the same with a signature that was good."""
        return replace(self, signer=signer, signed_at=made, reason="")

    @property
    def is_signed(self) -> bool:
        """Whether somebody's signature was verified."""
        return bool(self.signer)

    def describe(self) -> str:
        """Return what people read."""
        who = f"signed by {self.signer}" if self.signer else f"not signed: {self.reason}"
        return f"{who}; from {self.cache}" if self.cache else who

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "signed_by": self.signer or None,
            "signed_at": self.signed_at or None,
            "unsigned_because": None if self.signer else self.reason,
            "spec_hash": self.node_hash or None,
            "cache": self.cache,
            "manifest": self.manifest or None,
            "layer": self.layer or None,
            "verified_at": self.installation_time,
        }


_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    **{each.name: str for each in fields(Verification)},
    "installation_time": (int, float),
    "signed_at": int,
}


class Verifications:
    """The document of one tree, as it is when it is made. Raises nothing: a tree without it has none."""

    def __init__(self, root: str) -> None:
        self._lines = _read(root)

    def of(self, record: InstallRecord) -> Verification | None:
        """Return what was verified of a package, None if it is its owner's own."""
        package_hash = record.spec.hash
        if self._lines is None:
            return Verification(package_hash, record.installation_time, reason=_DAMAGED)
        line = self._lines.get(package_hash)
        if line is None:
            return None
        found = _parsed(line)
        if found is None or found.hash != package_hash:
            return Verification(package_hash, record.installation_time, reason=_DAMAGED)
        if found.installation_time == record.installation_time:
            return found
        if found.installation_time < record.installation_time:
            return None
        return replace(found, signer="", signed_at=0, reason=_UNFINISHED)

    def vouch(self, records: Iterable[InstallRecord], manifest: str, signer: str) -> bool:
        """Return whether one of the packages came from a manifest with a signature by a key that was good then."""
        found = (self.of(record) for record in records)
        return any(one is not None and one.manifest == manifest and one.signer == signer for one in found)


def change(root: str, added: Iterable[Verification], removed: Collection[str] = ()) -> None:
    """Add lines to the document of a tree, or remove some; to be called with the lock of its database held.

    Raises `LocalDiskError`.
    """
    new = {each.hash: _line(each) for each in added}
    lines = dict(_read(root) or {})
    if not new and not any(each in lines for each in removed):
        return
    lines |= new
    for each in removed:
        lines.pop(each, None)
    replace_file(os.path.join(root, FILE), b"".join(line + b"\n" for line in lines.values()))


def _read(root: str) -> Mapping[str, bytes] | None:
    """Return the lines by hash, none without a document; None if it cannot be read."""
    try:
        data = read_regular(os.path.join(root, FILE), MAX_BYTES, follow=False)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError:
        return None
    begin = len(_START)
    return {
        line[begin : line.find(b'"', begin)].decode("ascii", "replace"): line
        for line in data.split(b"\n")
        if line.startswith(_START)
    }


def _line(verification: Verification) -> bytes:
    # `hash` is the first member: a line is found without being parsed
    members = {name: getattr(verification, name) for name in _TYPES}
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def _parsed(line: bytes) -> Verification | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("hash"), str):
        return None
    known = {key: value for key, value in document.items() if key in _TYPES}
    if any(not isinstance(value, _TYPES[key]) or isinstance(value, bool) for key, value in known.items()):
        return None
    return Verification(**known) if "installation_time" in known else None
