"""Valid packages in every spec format: nodes, spec documents, what a layer says of its prefix, and tars."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

from command_fuzz.values import mark_of, text_of, to_bytes
from tests.support import elf_files as elf
from tests.support import hostile_archives as tars

OLD_ROOT = "/opt/old" + "/__spack_path_placeholder__" * 3
"""Long enough that a package fits wherever it is put."""
FLAGS = ("cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs")
SPECFILE = {"8": 5, "7": 4, "6": 3, "5": 3}
KINDS = {
    "file": b"0",
    "hard": b"1",
    "link": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
    "cont": b"7",
    "sparse": b"S",
    "volume": b"V",
    "pax": b"x",
    "global": b"g",
    "longname": b"L",
    "longlink": b"K",
    "odd": b"Z",
}


@dataclass
class Package:
    """A package on its way: its node may be anything after it was edited."""

    title: str
    node: Any
    needs: list[Package] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)

    @property
    def hash(self) -> str:
        return member(self.node, "hash", member(self.node, "full_hash", "x" * 32))

    @property
    def name(self) -> str:
        return member(self.node, "name", self.title)

    @property
    def version(self) -> str:
        return member(self.node, "version", "1.0")

    @property
    def prefix(self) -> str:
        """Where it was built."""
        return f"{OLD_ROOT}/linux-x86_64/{self.title}-1.0-{'h' * 32}"

    def nodes(self) -> list[Any]:
        """Return the nodes of its document: itself first."""
        found = {id(self.node): self.node}
        for each in self.needs:
            found |= {id(node): node for node in each.nodes()}
        return [*found.values(), *self.others]


def member(document: Any, key: str, otherwise: str) -> str:
    """Return a member as text, whatever has become of the document."""
    if mark_of(document) == "$pairs":
        document = dict(document["$pairs"])
    value = document.get(key, otherwise) if isinstance(document, dict) else otherwise
    return text_of(value)


def node(title: str, form: int, needs: Sequence[Package], **more: Any) -> dict[str, Any]:
    """Return a valid node of a spec format, its hash last."""
    parameters: dict[str, Any] = {
        "build_system": "generic",
        "shared": True,
        "api": "v2",
        **{flag: [] for flag in FLAGS},
    }
    document: dict[str, Any] = {
        "name": title,
        "version": "1.0",
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64"},
        "namespace": "builtin",
        "parameters": parameters,
    }
    if form <= 4:
        document["compiler"] = {"name": "gcc", "version": "12.2.0"}
    if needs:
        edges = [_edge(each, form) for each in needs]
        document["dependencies"] = dict(edges) if form == 1 else [{"name": name, **edge} for name, edge in edges]
    if form == 5:
        document["annotations"] = {"original_specfile_version": 5}
    document |= more
    if form == 2:
        document["full_hash"] = document["build_hash"] = hash_of(document)
    document["hash"] = hash_of(document)
    return document


def _edge(needed: Package, form: int) -> tuple[str, dict[str, Any]]:
    types = ["run"] if needed.title == "cfg" else ["build", "link"]
    if form <= 3:
        return needed.name, {"build_hash" if form == 2 else "hash": needed.hash, "type": types}
    return needed.name, {"hash": needed.hash, "parameters": {"deptypes": types, "virtuals": []}}


def hash_of(document: Any) -> str:
    """Return the hash that a node should have: of its compact JSON without the hash."""
    if not isinstance(document, dict):
        return "x" * 32
    content = {key: value for key, value in document.items() if key != "hash"}
    text = json.dumps(content, separators=(",", ":")).encode()
    return base64.b32encode(hashlib.sha1(text, usedforsecurity=False).digest()).decode().lower()


def document_of(package: Package, form: int) -> dict[str, Any]:
    """Return the member `spec` of a spec document."""
    nodes = package.nodes()
    if form == 1:
        return {"spec": [{member(each, "name", "x"): each} for each in nodes]}
    return {"spec": {"_meta": {"version": form}, "nodes": nodes}}


def distribution(package: Package) -> dict[str, Any]:
    """Return what `.spack/binary_distribution` says."""
    prefixes = {each.hash: each.prefix for each in (package, *package.needs)}
    return {
        "sbang_install_path": f"{OLD_ROOT}/bin/sbang",
        "buildpath": OLD_ROOT,
        "spackprefix": "/opt/spack",
        "relative_prefix": package.prefix.removeprefix(f"{OLD_ROOT}/"),
        "hardlinks_deduped": True,
        "hash_to_prefix": prefixes,
        "relocate_binaries": ["lib/libx.so"],
        "relocate_links": ["bin/absolute"],
        "relocate_textfiles": ["bin/tool"],
    }


def members(package: Package, spec: Any, content: str) -> list[dict[str, Any]]:
    """Return the members of a layer, without what stands in `.spack/binary_distribution`. Names are whole."""
    at = package.prefix.strip("/")
    parts = at.split("/")
    script = f"#!/bin/sh\necho {package.prefix}/share {package.title}\n"
    found: list[dict[str, Any]] = [
        {"name": "/".join(parts[: depth + 1]), "type": "dir", "mode": 0o755} for depth in range(len(parts))
    ]
    found += [
        {"name": f"{at}/bin", "type": "dir", "mode": 0o755},
        {"name": f"{at}/bin/absolute", "type": "link", "target": f"{package.prefix}/bin/tool"},
        {"name": f"{at}/bin/relative", "type": "link", "target": "tool"},
        {"name": f"{at}/bin/tool", "type": "file", "mode": 0o755, "data": script},
        {"name": f"{at}/bin/twin", "type": "hard", "target": f"{at}/bin/tool"},
        {"name": f"{at}/lib", "type": "dir", "mode": 0o755},
        {"name": f"{at}/lib/libx.so", "type": "file", "mode": 0o755, "data": content},
        {"name": f"{at}/.spack", "type": "dir", "mode": 0o755},
        {"name": f"{at}/.spack/install_manifest.json", "type": "file", "mode": 0o644, "data": "{}"},
        {"name": f"{at}/.spack/spec.json", "type": "file", "mode": 0o644, "data": spec},
    ]
    return found


def content_of(kind: str, package: Package) -> str:
    """Return the text of a library: `elf`, or something with the prefix in it."""
    if kind == "elf":
        old = package.prefix.encode()
        names = [(elf.NEEDED, b"libc.so.6"), (elf.RUNPATH, old + b"/lib:/usr/lib"), (elf.SONAME, b"libx.so")]
        return elf.ElfFile(64, "<", interpreter=b"/lib/ld.so", names=names, symbols=[b"x"]).build().decode("latin-1")
    return {"text": f"x={package.prefix}/lib\n" * 3, "utf16": f"\0{package.prefix}\0" * 4}.get(kind, "plain\n")


def tar_of(described: Any) -> bytes:
    """Make a tar of members, each an object; whatever is in there that cannot be a member is left out."""
    listed = described if isinstance(described, list) else [described]
    return b"".join(_member(each) for each in listed if isinstance(each, dict) and not mark_of(each)) + tars.END


def _member(each: dict[str, Any]) -> bytes:
    kind = KINDS.get(text_of(each.get("type", "file")), b"0")
    data = each.get("data", "")
    # the bytes of a binary are kept as latin-1, so that they stay text
    content = (
        data.encode("latin-1") if isinstance(data, str) and data.startswith("\x7fELF") else to_bytes(text_of(data))
    )
    if kind not in b"0xgLKS7Z":
        content = b""
    head = b""
    records = each.get("pax")
    if isinstance(records, dict):
        head = tars.pax(*(tars.record(to_bytes(key), to_bytes(text_of(value))) for key, value in records.items()))
    name, target = to_bytes(text_of(each.get("name", ""))), to_bytes(text_of(each.get("target", "")))
    if len(name) > 100 or b"\0" in name:
        head += tars.gnu_long(name)
    if len(target) > 100:
        head += tars.gnu_long(target, b"K")
    mode = each.get("mode", 0o644)
    size = each.get("size", len(content))
    block = tars.header(
        name,
        kind,
        size=size if isinstance(size, int) and 0 <= size < 8**11 else to_bytes(text_of(size))[:12].ljust(12, b"\0"),
        mode=mode if isinstance(mode, int) and 0 <= mode < 8**7 else to_bytes(text_of(mode))[:8].ljust(8, b"\0"),
        target=target,
    )
    return head + block + tars.padded(content)


def packed(tar: bytes, compression: str) -> bytes:
    """Compress a layer."""
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=3).compress(tar)
    return gzip.compress(tar, 6, mtime=0) if compression == "gzip" else tar
