"""Worlds: a cache, an install tree, configuration and logins, made of a recipe's shape and edits.

A recipe is JSON: `shape` says which valid world it is, `edits` what is wrong with its documents, `files` what stands in
the place of files, `calls` what is run. The same recipe makes the same bytes at the same place.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from command_fuzz import edits, packages
from command_fuzz.packages import Package, member
from command_fuzz.values import SECRET, filled, text_of, to_bytes

Recipe = dict[str, Any]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CACHES = ("layout", "layout", "registry", "v3", "v3", "v2", "web")
CALM = {
    "cache": "layout",
    "form": 5,
    "database": "8",
    "count": 3,
    "compression": "gzip",
    "tree": "spack",
    "signed": False,
}
LAYOUT_FILE = "oci-layout"


@dataclass
class World:
    """What a recipe is made of: files by path, and every document as it was before its edits."""

    files: dict[str, bytes] = field(default_factory=dict)
    documents: list[tuple[str, int, Any]] = field(default_factory=list)


def unsigned(data: bytes, detached: bool) -> bytes:
    """Return what has the form of a signature and is none."""
    armor = b"-----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END PGP SIGNATURE-----\n"
    return armor if detached else b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + data + b"\n" + armor


@dataclass
class Maker:
    """Makes documents and lets the edits of a recipe happen to them. Digests are over what came of it."""

    recipe: Recipe
    place: str
    port: int
    sign: Callable[[bytes, bool], bytes] = unsigned
    world: World = field(default_factory=World)

    @property
    def shape(self) -> dict[str, Any]:
        return {**CALM, **self.recipe.get("shape", {})}

    def shaped(self, kind: str, document: Any) -> Any:
        """Return a document with the edits of its members made, not yet encoded."""
        number = sum(each == kind for each, _, _ in self.world.documents)
        document = filled(document, self.place, self.port)
        self.world.documents.append((kind, number, copy.deepcopy(document)))
        for edit in self._edits(kind, number):
            document = edits.with_members(document, edit)
        return document

    def encoded(self, kind: str, document: Any, encode: Callable[[Any], bytes] = edits.encoded) -> bytes:
        """Return a document with all its edits made, encoded."""
        document = self.shaped(kind, document)
        number = sum(each == kind for each, _, _ in self.world.documents) - 1
        return self.broken(kind, number, encode(document))

    def broken(self, kind: str, number: int, data: bytes) -> bytes:
        """Return a file with the edits of its bytes made."""
        for edit in self._edits(kind, number):
            data = edits.with_bytes(data, edit)
        return data

    def text(self, kind: str, data: bytes) -> bytes:
        """Return a file that is no document, with the edits of its bytes made."""
        return self.encoded(kind, None, lambda _: data)

    def file(self, path: str, data: bytes) -> bytes:
        """Put a file into the world, unless an edit made its path one that cannot be."""
        self.world.files[path] = data
        return data

    def _edits(self, kind: str, number: int) -> list[dict[str, Any]]:
        found = self.recipe.get("edits", ())
        mine = [each for each in found if each["kind"] == kind and each["number"] == number]
        return [filled(each, self.place, self.port) for each in mine]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make(maker: Maker) -> World:
    """Make the whole world of a recipe."""
    found = made_packages(maker)
    kind = maker.shape["cache"]
    if kind in ("layout", "registry"):
        layout(maker, found)
    elif kind == "v2":
        old_mirror(maker, found)
    else:
        mirror(maker, found)
    if maker.shape["tree"] == "toml":
        described_tree(maker)
    else:
        spack_tree(maker)
    configuration(maker)
    maker.file("served/answers.json", maker.encoded("answers", maker.shape.get("answers", [])))
    return maker.world


def made_packages(maker: Maker) -> list[Package]:
    """Make the packages, dependencies first: a library, what is run, and what needs both."""
    form, shape = maker.shape["form"], maker.shape
    found: list[Package] = []
    for title in ("zlib", "cfg", "app")[-shape["count"] :]:
        needs = found[:] if title == "app" else []
        more: dict[str, Any] = {}
        others: list[Any] = []
        if title == "app" and shape.get("spliced"):
            built = packages.node("built", form, [])
            more["build_spec"], others = {"name": "built", "hash": built["hash"]}, [built]
        if title == "cfg" and shape.get("external"):
            more["external"] = {"path": "/usr", "module": None, "extra_attributes": {}}
        node = maker.shaped("node", packages.node(title, form, needs, **more))
        rightly = shape.get("hashes") == "right" and isinstance(node, dict) and "hash" in node
        if rightly and not any(
            e["kind"] == "node" and e.get("path") == ["hash"] for e in maker.recipe.get("edits", ())
        ):
            node["hash"] = packages.hash_of(node)
        found.append(Package(title, node, needs, others))
    return found


def layer_of(maker: Maker, package: Package) -> tuple[bytes, bytes]:
    """Return the tar and the layer of a package."""
    spec = edits.encoded(packages.document_of(package, maker.shape["form"])).decode()
    content = packages.content_of(maker.shape.get("content", "text"), package)
    said = maker.encoded("distribution", packages.distribution(package))
    listed = packages.members(package, spec, content)
    at = f"{package.prefix.strip('/')}/.spack/binary_distribution"
    listed.append({"name": at, "type": "file", "mode": 0o644, "data": said.decode("utf-8", "surrogateescape")})
    described = maker.shaped("members", listed)
    tar = maker.encoded("tar", None, lambda _: packages.tar_of(described))
    return tar, maker.encoded("layer", None, lambda _: packages.packed(tar, maker.shape["compression"]))


def config_of(maker: Maker, package: Package, tar: bytes, layer: bytes) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin:/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(tar)}"]},
        "history": [{"created_by": "oci-binpkg", "comment": f"package /{package.hash}"}],
        **packages.document_of(package, maker.shape["form"]),
        "buildcache_layout_version": 3,
        "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": sha(layer)},
    }
    return maker.encoded("config", document)


def database_of(maker: Maker, found: list[Package], *, tree: bool = False) -> dict[str, Any]:
    """Return the document of an index, or of a tree."""
    installs: dict[str, Any] = {}
    for package in found:
        facts: dict[str, Any] = {"ref_count": 0, "in_buildcache": True}
        if tree:
            facts = {"path": f"{maker.place}/tree/linux-x86_64/{package.title}", "installed": True, "ref_count": 1}
            facts |= {"explicit": package.title == "app", "installation_time": 1.0, "deprecated_for": None}
        installs[package.hash] = {"spec": package.node, **facts}
    return {"database": {"version": maker.shape["database"], "installs": installs}}


def safe(text: str) -> str:
    """Return a text that can be the name of one file here."""
    return "".join(each if (each.isalnum() and each.isascii()) or each in "_.+-" else "_" for each in text)[-150:]


def layout(maker: Maker, found: list[Package]) -> None:
    """Make an OCI layout in `cache`, which is also what the registry serves."""

    def blob(data: bytes) -> dict[str, Any]:
        maker.file(f"cache/blobs/sha256/{sha(data)}", data)
        return {"digest": f"sha256:{sha(data)}", "size": len(data)}

    def image(kind: str, config: bytes, layer: bytes, tag: str, **more: Any) -> None:
        suffix = {"gzip": "+gzip", "zstd": "+zstd"}.get(maker.shape["compression"], "")
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **blob(config)},
            "layers": [{"mediaType": LAYER + suffix, **blob(layer)}],
            **more,
        }
        entry = {"mediaType": MANIFEST, **blob(maker.encoded(kind, document))}
        entries.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        if maker.shape["signed"] and kind == "manifest":
            attach(entry)

    def attach(subject: dict[str, Any]) -> None:
        armored = maker.sign(maker.world.files[f"cache/blobs/sha256/{subject['digest'][7:]}"], True)
        artifact = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.oci-binpkg.signature.v1",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", **blob(b"{}")},
            "layers": [{"mediaType": "application/pgp-signature", **blob(maker.text("signature", armored))}],
            "subject": subject,
        }
        listed = {"mediaType": MANIFEST, **blob(maker.encoded("artifact", artifact))}
        listed["artifactType"] = artifact["artifactType"]
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [listed]}
        found = {"mediaType": index["mediaType"], **blob(maker.encoded("referrers", index))}
        tag = subject["digest"].replace(":", "-")
        entries.append({**found, "annotations": {"org.opencontainers.image.ref.name": tag}})

    entries: list[dict[str, Any]] = []
    for package in found:
        tar, layer = layer_of(maker, package)
        tag = safe(f"{package.name}-{package.version}-{package.hash}")[-100:] + ".spack"
        image("manifest", config_of(maker, package, tar, layer), layer, tag)
        if package is found[-1]:
            entries.append({**entries[-1], "annotations": {"org.opencontainers.image.ref.name": "both"}})
    if maker.shape.get("index", True):
        image("index-manifest", b"{}", maker.encoded("index", database_of(maker, found)), "index.spack")
    maker.file("cache/index.json", maker.encoded("index.json", {"schemaVersion": 2, "manifests": entries}))
    maker.file(f"cache/{LAYOUT_FILE}", maker.encoded(LAYOUT_FILE, {"imageLayoutVersion": "1.0.0"}))


def mirror(maker: Maker, found: list[Package]) -> None:
    """Make a mirror of layout 3 in `cache`."""

    def record(media_type: str, compression: str, data: bytes) -> dict[str, Any]:
        maker.file(f"cache/blobs/sha256/{sha(data)[:2]}/{sha(data)}", data)
        facts = {"checksumAlgorithm": "sha256", "checksum": sha(data), "compression": compression}
        return {"contentLength": len(data), "mediaType": media_type, **facts}

    def manifest(kind: str, path: str, *records: dict[str, Any], signed: bool = False) -> None:
        data = maker.encoded(kind, {"version": 3, "data": list(records)}, lambda each: edits.encoded(each) + b"\n")
        data = maker.sign(data, False) if signed else data
        maker.file(f"cache/{path}", maker.text("signed-manifest", data) if signed else data)

    maker.file("cache/v3/layout.json", maker.encoded("layout.json", {"signing": "gpg"}))
    for package in found:
        _, layer = layer_of(maker, package)
        spec = {**packages.document_of(package, maker.shape["form"]), "buildcache_layout_version": 2}
        document = packages.packed(maker.encoded("spec", spec), "gzip")
        name, stem = safe(package.name), safe(f"{package.name}-{package.version}-{package.hash}")
        records = record("application/vnd.spack.install.v2.tar+gzip", maker.shape["compression"], layer)
        both = (records, record("application/vnd.spack.spec.v5+json", "gzip", document))
        path = f"v3/manifests/spec/{name}/{stem}.spec.manifest.json"
        manifest("spec-manifest", path, *both, signed=maker.shape["signed"])
    if maker.shape.get("index", True):
        index = maker.encoded("index", database_of(maker, found))
        listed = record("application/vnd.spack.db.v8+json", "none", index)
        for path in ("v3/manifests/index/", "v3/manifests/index/part/"):
            manifest("index-manifest", f"{path}index.manifest.json", listed)
    keys = maker.encoded("keyindex", {"keys": {"A" * 40: {}}})
    manifest(
        "keys", "v3/manifests/key/keys.manifest.json", record("application/vnd.spack.keyindex.v1+json", "none", keys)
    )
    key = record("application/pgp-keys", "none", maker.encoded("key", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAA==\n"))
    manifest("key-manifest", f"v3/manifests/key/{'A' * 40}.key.manifest.json", key)


def old_mirror(maker: Maker, found: list[Package]) -> None:
    """Make a mirror of layout 2 in `cache`."""
    arch = "linux-debian12-x86_64"
    for package in found:
        _, layer = layer_of(maker, package)
        named = safe(f"{package.name}-{package.version}")
        stem = f"{arch}-gcc-12.2.0-{named}-{safe(package.hash)}"
        facts = {
            "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": sha(layer)},
            "buildcache_layout_version": 2,
        }
        spec = maker.encoded("spec", {**packages.document_of(package, maker.shape["form"]), **facts})
        signed = maker.shape["signed"]
        data = maker.text("signed-manifest", maker.sign(spec, False)) if signed else spec
        maker.file(f"cache/build_cache/{stem}.spec.json{'.sig' if signed else ''}", data)
        maker.file(f"cache/build_cache/{arch}/gcc-12.2.0/{named}/{stem}.spack", layer)
    index = maker.encoded("index", database_of(maker, found))
    maker.file("cache/build_cache/index.json", index)
    maker.file("cache/build_cache/index.json.hash", maker.encoded("index.hash", sha(index)))
    maker.file("cache/build_cache/_pgp/index.json", maker.encoded("keyindex", {"keys": {"A" * 40: {}}}))
    maker.file(f"cache/build_cache/_pgp/{'A' * 40}.pub", maker.encoded("key", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"))


def spack_tree(maker: Maker) -> None:
    """Make an install tree in `tree`, whose prefixes are there."""
    form = packages.SPECFILE[maker.shape["database"]]
    found: list[Package] = []
    for title in ("zlib", "cfg", "app"):
        found.append(Package(title, packages.node(title, form, found[:] if title == "app" else []), found[:]))
        at = f"tree/linux-x86_64/{title}"
        maker.file(f"{at}/bin/tool", f"#!/bin/sh\necho {maker.place}/{at}\n".encode())
        spec = packages.document_of(found[-1], form)
        maker.file(f"{at}/.spack/spec.json", maker.encoded("spec.json", spec))
        facts = {f"{maker.place}/{at}/bin/tool": {"mode": 33188, "owner": 0, "group": 0, "hash": "x", "time": 1.0}}
        maker.file(f"{at}/.spack/install_manifest.json", maker.encoded("install_manifest", facts))
    maker.file("tree/.spack-db/index.json", maker.encoded("database", database_of(maker, found, tree=True)))


def described_tree(maker: Maker) -> None:
    """Make a folder with a `packages.toml` in `tree`."""
    arch = {"platform": "linux", "os": "debian12", "target": "x86_64"}
    tables: list[dict[str, Any]] = []
    for title in ("zlib", "cfg", "app"):
        depends = ["zlib", {"name": "cfg@1.0", "types": ["run"]}] if title == "app" else []
        variants = {"shared": True, "api": "v2", "cflags": ["-O2"]}
        tables.append({"name": title, "version": "1.0", "prefix": title, "depends": depends, "variants": variants})
        maker.file(f"tree/{title}/bin/tool", b"#!/bin/sh\necho tool\n")
    document = {"defaults": {"arch": arch}, "package": tables}
    maker.file("tree/packages.toml", maker.encoded("packages.toml", document, toml))


def configuration(maker: Maker) -> None:
    """Make the configuration, Spack's, and the logins."""
    cache = address(maker.shape["cache"], maker.place, maker.port)
    config: dict[str, Any] = {
        "timeout": 2,
        "retries": 0,
        "caches": {"lab": {"url": cache, "insecure": True}, "target": {"url": f"oci-layout:{maker.place}/target"}},
        "registries": {"registry.example": {"servers": ["http://127.0.0.1:1"]}},
        "layer_cache": {"max_size": "1 GiB"},
    }
    if "signed_name" in maker.shape:
        config["caches"]["lab"]["signed"] = maker.shape["signed_name"]
    maker.file("config/oci-binpkg/config.toml", maker.encoded("config.toml", config, toml))
    pair = ["someone", SECRET]
    mirrors = {
        "mirrors": {
            "spare": {"url": f"file://{maker.place}/cache", "signed": False, "access_pair": pair},
            "sources": {"url": "https://mirror.example", "binary": False},
            "inside": {"url": f"https://someone:{SECRET}@mirror.example/x"},
        }
    }
    maker.file("home/.spack/mirrors.yaml", maker.encoded("mirrors.yaml", mirrors))
    maker.file("home/.spack/include.yaml", maker.encoded("include.yaml", {"include": [f"{maker.place}/home/more"]}))
    more = {"mirrors": {"more": {"fetch": {"url": f"file://{maker.place}/cache"}, "push": cache}}}
    maker.file("home/more/mirrors.yaml", maker.encoded("more.yaml", more))
    active = {"spack": {"specs": ["app"], "include": [], "mirrors": {"active": cache}}}
    maker.file("env/spack.yaml", maker.encoded("spack.yaml", active))
    login = base64.b64encode(f"someone:{SECRET}".encode()).decode()
    logins = {"auths": {f"127.0.0.1:{maker.port}": {"auth": login}, "registry.example": {"auth": login}}}
    maker.file("docker/config.json", maker.encoded("docker", logins))


def address(kind: str, place: str, port: int) -> str:
    """Return where the cache of a world is."""
    return {
        "registry": f"oci+http://127.0.0.1:{port}/apps",
        "web": f"http://127.0.0.1:{port}/cache",
        "layout": f"oci-layout:{place}/cache",
    }.get(kind, f"file://{place}/cache")


def toml(document: Any) -> bytes:
    """Encode as TOML; what TOML cannot hold becomes something that is not TOML."""
    if not isinstance(document, dict):
        return edits.encoded(document)
    lines = [f"{_key(key)} = {_inline(value)}\n" for key, value in document.items() if not isinstance(value, list)]
    for key, value in document.items():
        if isinstance(value, list):
            lines += [f"[[{_key(key)}]]\n" + "".join(_lines(each)) for each in value]
    return to_bytes("".join(lines))


def _lines(table: Any) -> list[str]:
    return [f"{_key(key)} = {_inline(value)}\n" for key, value in table.items()] if isinstance(table, dict) else ["x"]


def _key(key: object) -> str:
    return str(key) if str(key).isidentifier() and str(key).isascii() else json.dumps(str(key), ensure_ascii=False)


def _inline(value: Any) -> str:
    if packages.mark_of(value):
        return edits.encode(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def written(world: World, place: str) -> None:
    """Write the files of a world."""
    for path, data in world.files.items():
        whole = os.path.join(place, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "wb") as file:
            file.write(data)
        if path.endswith("/bin/tool"):
            os.chmod(whole, 0o755)


def described(world: World) -> str:
    """Return how large a world is, for people."""
    return f"{len(world.files)} files, {sum(map(len, world.files.values()))} bytes, {text_of(len(world.documents))} documents"


__all__ = ["Maker", "Recipe", "World", "address", "make", "member", "written"]
