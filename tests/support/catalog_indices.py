"""Indices for the catalog, from short descriptions, and caches that count how often they are asked."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from oci_binpkg.index.document import IndexDocument
from oci_binpkg.model.content import Digest
from tests.support.opened_index import open_index


def hash_of(name: str) -> str:
    """Return the hash of a package by its name in the tests."""
    return base64.b32encode(hashlib.sha1(name.encode(), usedforsecurity=False).digest()).decode().lower()


def node(name: str, version: str = "1.0", *needs: str, target: str = "x86_64", **members: Any) -> dict[str, Any]:
    """Return a node; its hash is that of `NAME@VERSION`, and so is what it needs named."""
    return {
        "name": name,
        "version": version,
        "arch": {"platform": "linux", "platform_os": "debian12", "target": target},
        "namespace": "builtin",
        "parameters": {"shared": True},
        "dependencies": [
            {
                "name": each.partition("@")[0],
                "hash": hash_of(each),
                "parameters": {"deptypes": ["link"], "virtuals": []},
            }
            for each in needs
        ],
        "hash": hash_of(f"{name}@{version}"),
        **members,
    }


def index(*nodes: dict[str, Any], only_needed: tuple[dict[str, Any], ...] = (), version: str = "8") -> bytes:
    """Return an index of packages in a cache, and of nodes that are only needed by them."""
    installs = {each["hash"]: {"spec": each, "ref_count": 1, "in_buildcache": True} for each in nodes}
    installs |= {each["hash"]: {"spec": each, "ref_count": 1, "in_buildcache": False} for each in only_needed}
    return json.dumps({"database": {"version": version, "installs": installs}}).encode()


@dataclass
class Caches:
    """What each cache answers: bytes, or an error that it raises."""

    answers: dict[str, bytes | Exception]
    asked: list[tuple[str, Digest | None]] = field(default_factory=list)

    def read(self, name: str, known: Digest | None) -> IndexDocument | None:
        """Read the index of a cache."""
        self.asked.append((name, known))
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        digest = Digest.of(answer)
        return None if digest == known else open_index(answer, f"the index of {name}")

    @property
    def names(self) -> list[str]:
        """Return which caches were asked, in order, and start anew."""
        names = [name for name, _ in self.asked]
        self.asked.clear()
        return names
