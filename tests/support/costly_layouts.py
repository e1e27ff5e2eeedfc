"""Caches and trees made of nothing but the standard library, in which any document can be exchanged for any bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MIB = 1 << 20
Json = dict[str, Any]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
HASH = "z" * 32
PREFIX = "/opt/old/linux-x86_64/zlib-1"
ROOT = "/opt/old"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def node(name: str = "zlib", package_hash: str = HASH, needs: Sequence[tuple[str, str]] = (), **more: Any) -> Json:
    """A node of a spec document, of the newest form."""
    edges = [{"name": each, "hash": known, "parameters": {"deptypes": ["link", "run"], "virtuals": []}} for each, known in needs]  # fmt: skip
    return {
        "name": name,
        "version": "1.3",
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64"},
        "namespace": "builtin",
        "parameters": {"build_system": "generic"},
        **({"dependencies": edges} if edges else {}),
        "annotations": {"original_specfile_version": 5},
        **more,
        "hash": package_hash,
    }


def document(*nodes: Json) -> Json:
    return {"_meta": {"version": 5}, "nodes": list(nodes)}


def distribution(**more: Any) -> bytes:
    base = {"sbang_install_path": "", "buildpath": ROOT, "spackprefix": "/x", "relative_prefix": PREFIX[len(ROOT) + 1 :], "hardlinks_deduped": True}  # fmt: skip
    lists: dict[str, list[str]] = {"relocate_binaries": [], "relocate_links": [], "relocate_textfiles": []}
    return json.dumps({**base, "hash_to_prefix": {HASH: PREFIX}, **lists, **more}).encode()


class Zeros:
    """A file of so many times the same piece; it is never in memory as a whole."""

    def __init__(self, size: int, piece: bytes = b"\0" * 65536, head: bytes = b"") -> None:
        self.size, self._piece, self._head = size, piece * max(1, 65536 // len(piece)), head

    def stream(self) -> io.BufferedReader:
        return io.BufferedReader(_Repeated(self.size, self._piece, self._head))


class _Repeated(io.RawIOBase):
    def __init__(self, size: int, piece: bytes, head: bytes) -> None:
        self._left, self._piece, self._next = size, piece, head or piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._left, len(self._next))
        buffer[:count] = self._next[:count]
        self._next = self._next[count:] or self._piece
        self._left -= count
        return count


_DIFF_IDS: dict[str, str] = {}
"""By the digests of layers made here, so that what inflates to a gigabyte is not inflated for it."""


class _Digested:
    """What is written to a file goes through a digest, too."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def tar(files: Mapping[str, bytes | Zeros], document_bytes: bytes | Zeros, prefix: str = PREFIX) -> bytes:
    """A gzip layer of files below the prefix."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, mtime=0) as packed, tarfile.open(fileobj=(plain := _Digested(packed)), mode="w|", bufsize=MIB, copybufsize=MIB, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]  # fmt: skip
        done: set[str] = set()
        for name, data in {**files, ".spack/binary_distribution": document_bytes}.items():
            path = f"{prefix.strip('/')}/{name}"
            parts = path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in done:
                    done.add(folder)
                    member = tarfile.TarInfo(folder)
                    member.type, member.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(member)
            member = tarfile.TarInfo(path)
            member.mode, member.size = 0o755, data.size if isinstance(data, Zeros) else len(data)
            archive.addfile(member, data.stream() if isinstance(data, Zeros) else io.BytesIO(data))
    _DIFF_IDS[sha(out.getvalue())] = plain.digest.hexdigest()
    return out.getvalue()


class Layout:
    """An OCI layout of one package, zlib; everything it is made of may be given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Json] = []
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    @property
    def cache(self) -> str:
        return f"oci-layout:{self.path}"

    def blob(self, data: bytes, media_type: str) -> Json:
        (self.path / "blobs/sha256" / sha(data)).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{sha(data)}", "size": len(data)}

    def manifest(self, config: bytes, layers: Sequence[tuple[bytes, str]], tag: str, **more: Any) -> None:
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.blob(config, CONFIG), "layers": [self.blob(data, kind) for data, kind in layers], **more}  # fmt: skip
        self.tag(json.dumps(document).encode(), tag)

    def tag(self, manifest: bytes, tag: str) -> None:
        self.entries.append(
            {**self.blob(manifest, MANIFEST), "annotations": {"org.opencontainers.image.ref.name": tag}}
        )

    def package(
        self,
        layer: bytes | None = None,
        *,
        nodes: Sequence[Json] = (),
        config: Json | None = None,
        config_bytes: bytes | None = None,
        kind: str = LAYER,
        diff_id: str = "",
        **more: Any,
    ) -> Layout:
        layer = tar({"bin/x": b"#!/bin/sh\n"}, distribution()) if layer is None else layer
        diff_id = diff_id or (_diff_id(layer) if kind == LAYER else "0" * 64)
        whole = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
            "config": {"Env": ["PATH=/bin"]},
            "history": [{"created_by": "oci-binpkg", "comment": f"package /{HASH}"}],
            "spec": document(*(nodes or [node()])),
            "buildcache_layout_version": 3,
            "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": sha(layer)},
            **(config or {}),
        }
        data = json.dumps(whole).encode() if config_bytes is None else config_bytes
        self.manifest(data, [(layer, kind)], f"zlib-1.3-{HASH}.spack", **more)
        return self

    def index(self, data: bytes) -> Layout:
        self.manifest(b"{}", [(data, LAYER)], "index.spack")
        return self

    def done(self, index_json: bytes | None = None) -> str:
        whole = json.dumps({"schemaVersion": 2, "manifests": self.entries}).encode()
        (self.path / "index.json").write_bytes(whole if index_json is None else index_json)
        return self.cache


def _diff_id(layer: bytes) -> str:
    if known := _DIFF_IDS.get(sha(layer)):
        return known
    digest = hashlib.sha256()
    with gzip.GzipFile(fileobj=io.BytesIO(layer)) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def index_document(*nodes: Json) -> bytes:
    installs = {each["hash"]: {"spec": each, "ref_count": 0, "in_buildcache": True} for each in nodes}
    return json.dumps({"database": {"version": "8", "installs": installs}}).encode()


def mirror(path: Path, *, layer: bytes | None = None, spec: bytes | None = None, index: bytes | None = None, index_compression: str = "none", manifest: bytes | None = None, wrap: Any = lambda data: data) -> str:  # fmt: skip
    """A v3 mirror in a folder. `spec` and `index` as they lie there, `wrap` is given the manifest of the package."""

    def put(relative: str, data: bytes) -> None:
        (path / relative).parent.mkdir(parents=True, exist_ok=True)
        (path / relative).write_bytes(data)

    def manifest_of(*entries: tuple[str, str, bytes]) -> bytes:
        data = [{"contentLength": len(each), "mediaType": kind, "compression": compression, "checksumAlgorithm": "sha256", "checksum": sha(each)} for kind, compression, each in entries]  # fmt: skip
        return json.dumps({"version": 3, "data": data}, indent=0, separators=(",", ":")).encode()

    layer = tar({"bin/x": b"#!/bin/sh\n"}, distribution()) if layer is None else layer
    plain = json.dumps({"spec": document(node()), "buildcache_layout_version": 2}).encode()
    spec = gzip.compress(plain, mtime=0) if spec is None else spec
    index = index_document(node()) if index is None else index
    for data in (layer, spec, index):
        put(f"blobs/sha256/{sha(data)[:2]}/{sha(data)}", data)
    put("v3/layout.json", b'{"signing": "gpg"}')
    of_package = manifest_of(("application/vnd.spack.install.v2.tar+gzip", "gzip", layer), ("application/vnd.spack.spec.v5+json", "gzip", spec))  # fmt: skip
    put(
        f"v3/manifests/spec/zlib/zlib-1.3-{HASH}.spec.manifest.json", wrap(of_package if manifest is None else manifest)
    )
    put(
        "v3/manifests/index/index.manifest.json",
        manifest_of(("application/vnd.spack.db.v8+json", index_compression, index)),
    )
    return f"file://{path}"


def size_of(*paths: str | os.PathLike[str]) -> int:
    """The bytes of all files below."""
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for path in paths
        for folder, _, names in os.walk(path)
        for name in names
    )
