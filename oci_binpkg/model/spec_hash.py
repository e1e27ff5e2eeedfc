"""Whether a node has the hash that it claims.

A hash is made over the node: it names the contents of the node, its dependencies included, and nothing else may stand
under it. The rules, each of which was found to hold for what its writers wrote:

- Spack since 0.18 (spec formats 3 to 5): SHA-1 in base32 over the node's compact JSON, its members in their order and
  without `hash`. A spliced package keeps the last seven characters of the hash that it was built under (`build_spec`),
  so that its prefix can stand where the other's stood.
- `packages.toml`: SHA-256 in base32, cut to 32 characters, over the compact JSON with sorted keys.

- A node that was converted from format 4 to 5 keeps the hash of its old form, which follows from its annotations.

Other rules are not known here: formats 1 and 2 hash YAML, without build dependencies; a node that was converted to a
newer format in another way keeps the hash of its old form; Spack writes no `package_hash` into nodes from before 0.18.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

PACKAGES_NAMESPACE: Final = "packages"
"""The namespace of the packages that a `packages.toml` describes."""
HASH_LENGTH: Final = 32
_OLDEST_KNOWN: Final = 3
_CONVERTED: Final = 4
_SPLICED: Final = 7
_COMPACT: Final = json.JSONEncoder(separators=(",", ":"))
_SORTED: Final = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False)


class HashState(StrEnum):
    """What is known of a node's hash: it matches, no rule is known for such a node, or it does not match."""

    VERIFIED = "verified"
    UNKNOWN = "unverified"
    WRONG = "wrong"


def judge_hash(node: Mapping[str, Any], form: int) -> HashState:
    """Compare a node of spec format `form` with the hash that it claims."""
    return measured_hash(node, form)[0]


def measured_hash(node: Mapping[str, Any], form: int) -> tuple[HashState, int]:
    """Compare a node with its hash; return also the length of its JSON, 0 where no rule was applied."""
    claimed = node.get("hash")
    if not isinstance(claimed, str):
        return HashState.UNKNOWN, 0
    content = {key: value for key, value in node.items() if key != "hash"}
    if node.get("namespace") == PACKAGES_NAMESPACE and "package_hash" not in node:
        text = _SORTED.encode(content)
        return (HashState.VERIFIED if _packages_hash(text) == claimed else HashState.WRONG), len(text)
    if form >= _OLDEST_KNOWN:
        text = _COMPACT.encode(content)
        if _spack_hash(text, content) == claimed:
            return HashState.VERIFIED, len(text)
        original = _original_node(content)
        if original is not None and _spack_hash(_COMPACT.encode(original), original) == claimed:
            return HashState.VERIFIED, len(text)
    return (HashState.WRONG if _rule_is_known(node, form) else HashState.UNKNOWN), 0


def packages_hash(content: Mapping[str, Any]) -> str:
    """Return the hash of a package of a `packages.toml`; `content` is its node without `hash`."""
    return _packages_hash(_SORTED.encode(content))


def _packages_hash(text: str) -> str:
    return _base32(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())[:HASH_LENGTH]


def _spack_hash(text: str, content: Mapping[str, Any]) -> str:
    # the hash identifies, as Spack defines it; what is downloaded is verified by SHA-256
    found = _base32(hashlib.sha1(text.encode(), usedforsecurity=False).digest())
    built_as = content.get("build_spec")
    tail = built_as.get("hash") if isinstance(built_as, dict) else None
    return found[:-_SPLICED] + tail[-_SPLICED:] if isinstance(tail, str) else found


def _original_node(node: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a node as it was in format 4, before it was converted to format 5; None for any other."""
    annotations = node.get("annotations")
    if not isinstance(annotations, dict) or annotations.get("original_specfile_version") != _CONVERTED:
        return None
    text = annotations.get("compiler")
    name, _, version = text.partition("@=") if isinstance(text, str) else ("", "", "")
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key != "annotations":
            found[key] = value
        if key == "arch" and name:
            found["compiler"] = {"name": name, "version": version}
    return found


def _rule_is_known(node: Mapping[str, Any], form: int) -> bool:
    if form < _OLDEST_KNOWN or not isinstance(node.get("package_hash"), str):
        return False
    annotations = node.get("annotations")
    original = annotations.get("original_specfile_version", form) if isinstance(annotations, dict) else form
    return bool(original == form)


def _base32(digest: bytes) -> str:
    return base64.b32encode(digest).decode().rstrip("=").lower()
