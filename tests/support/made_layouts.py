"""Image layouts with packages that say anything, made of the standard library alone: digests and sizes always fit."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = ("cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
Node = dict[str, Any]


def compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def spack_hash(node: Mapping[str, Any]) -> str:
    """The hash that Spack gives to a node."""
    content = {key: value for key, value in node.items() if key != "hash"}
    return base64.b32encode(hashlib.sha1(compact(content)).digest()).decode().lower()


def hashed(node: Node) -> Node:
    """The node with the hash that is its own."""
    return {**node, "hash": spack_hash(node)}


def node(name: str = "tool", version: str = "1.3", *, needs: Sequence[Node] = (), **members: Any) -> Node:
    """A node as Spack writes it, with its hash; `members` replace or add members before it is hashed."""
    made: Node = {
        "name": name,
        "version": version,
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64"},
        "namespace": "builtin",
        "parameters": {"build_system": "generic", **{flag: [] for flag in FLAGS}},
        "package_hash": "p" * 52 + "====",
    }
    if needs:
        made["dependencies"] = [
            {"name": n["name"], "hash": n["hash"], "parameters": {"deptypes": ["link", "run"], "virtuals": []}}
            for n in needs
        ]
    made["annotations"] = {"original_specfile_version": 5}
    return hashed(made | members)


def unverified(made: Node, package_hash: str) -> Node:
    """The node under a hash that no known rule gives: one that could be from before Spack wrote `package_hash`."""
    return {key: value for key, value in made.items() if key != "package_hash"} | {"hash": package_hash}


def lying(made: Node, **members: Any) -> Node:
    """The node with other members under its old hash."""
    return {**made, **members, "hash": made["hash"]}


@dataclass
class Package:
    """A package: its node, those that it depends on, its files (bytes, or the target of a link), where it was made."""

    node: Node
    others: Sequence[Node] = ()
    files: Mapping[str, bytes | str] = field(default_factory=lambda: {"bin/tool": b"#!/bin/sh\necho hi\n"})
    root: str = "/opt/old"
    prefix: str = ""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    distribution: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return self.prefix or f"{self.root}/linux-x86_64/{self.node['name']}-1-{self.node['hash']}"

    @property
    def tag(self) -> str:
        text = f"{self.node['name']}-{self.node['version']}-{self.node['hash']}.spack"
        return "".join(char if char.isascii() and (char.isalnum() or char in "_.-") else "_" for char in text)

    def document(self) -> dict[str, Any]:
        return {"_meta": {"version": 5}, "nodes": [self.node, *self.others]}

    def binary_distribution(self) -> bytes:
        return json.dumps(
            {
                "sbang_install_path": f"{self.root}/bin/sbang",
                "buildpath": self.root,
                "spackprefix": "/opt/spack",
                "relative_prefix": self.place.removeprefix(self.root).lstrip("/"),
                "hardlinks_deduped": True,
                "hash_to_prefix": {self.node["hash"]: self.place, **self.prefixes},
                "relocate_binaries": [],
                "relocate_links": [],
                "relocate_textfiles": [],
                **self.distribution,
            }
        ).encode()

    def tar(self) -> bytes:
        out = io.BytesIO()
        made: set[str] = set()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in {**self.files, ".spack/binary_distribution": self.binary_distribution()}.items():
                path = f"{self.place}/{name}".strip("/")
                _folders(archive, path, made)
                member = tarfile.TarInfo(path)
                member.mode = 0o755
                if isinstance(content, str):
                    member.type, member.linkname = tarfile.SYMTYPE, content
                    archive.addfile(member)
                else:
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return out.getvalue()


class Layout:
    """An image layout that is written by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    @property
    def name(self) -> str:
        return f"oci-layout:{self.path}"

    def blob(self, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def tagged(self, tag: str, config: bytes, layer: bytes) -> dict[str, Any]:
        manifest = compact(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, **self.blob(config)},
                "layers": [{"mediaType": LAYER, **self.blob(layer)}],
            }
        )
        described = {"mediaType": MANIFEST, **self.blob(manifest)}
        self.entries.append({**described, "annotations": {"org.opencontainers.image.ref.name": tag}})
        self.write()
        return described

    def write(self) -> None:
        (self.path / "index.json").write_bytes(compact({"schemaVersion": 2, "manifests": self.entries}))

    def add(self, package: Package, **members: Any) -> dict[str, Any]:
        tar = package.tar()
        layer = gzip.compress(tar, mtime=0)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
            "config": {"Env": ["PATH=/bin"]},
            "history": [{"created_by": "oci-binpkg", "comment": f"package /{package.node['hash']}"}],
            "spec": package.document(),
            "buildcache_layout_version": 3,
            "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": hashlib.sha256(layer).hexdigest()},
        }
        return self.tagged(package.tag, compact(config | members), layer)

    def index(self, packages: Sequence[Package], also: Sequence[Node] = ()) -> None:
        """Write an index of these packages, and of all nodes that they bring, and of others."""
        listed = {n["hash"]: n for n in also}
        installs = {key: {"spec": n, "ref_count": 0, "in_buildcache": False} for key, n in listed.items()}
        for package in packages:
            for n in package.others:
                installs.setdefault(n["hash"], {"spec": n, "ref_count": 0, "in_buildcache": False})
        for package in packages:
            record = {"spec": package.node, "ref_count": 0, "in_buildcache": True}
            installs[package.node["hash"]] = record
        self.tagged("index.spack", b"{}", compact({"database": {"version": "8", "installs": installs}}))


def layout(path: Path, packages: Sequence[Package], *, index: Sequence[Package] | None = None) -> Layout:
    """A layout of packages with an index over them, or over what `index` says instead."""
    made = Layout(path)
    for package in packages:
        made.add(package)
    made.index(packages if index is None else index)
    return made


def _folders(archive: tarfile.TarFile, path: str, made: set[str]) -> None:
    parts = path.split("/")
    for end in range(1, len(parts)):
        folder = "/".join(parts[:end])
        if folder not in made:
            made.add(folder)
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
