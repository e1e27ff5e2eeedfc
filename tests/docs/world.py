"""The places that the documents speak of, made of fixtures, so that every example can be run as it is written.

A document says `oci://registry.example/apps`, `/opt/spack/opt`, `~/apps` or `https://mirror.example/apps`. A world puts a registry in this
process, the golden install tree, a home and a web server in their place: `to_world` rewrites a command before it is run,
`to_document` rewrites what it printed.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.docs.engine import greeting_engine
from tests.support.fake_registry import FakeRegistry
from tests.support.golden import STORE_ROOT, unpack_store
from tests.support.gpg_keys import Home, gpg_home
from tests.support.isolation import isolate
from tests.support.mirrors import MirrorServer
from tests.support.spack_trees import Sketch, spack_tree

DOCUMENTED_KEY = "4736BEAE4D40A00FB336279E63CF01CA5202F806"
SKETCHES = [
    Sketch("zlib", "1.3", files={"lib/libz.pc": "prefix={prefix}\n"}, variants={"shared": True}, explicit=False),
    Sketch("mpich", "4.2.0", files={"bin/mpiexec": "#!/bin/sh\n"}, explicit=False),
    Sketch("hdf5", "1.14.3", files={"lib/hdf5.pc": "{mpich}\n"}, depends=["mpich", "zlib"], variants={"mpi": True}),
    Sketch("python", "3.12.1", files={"bin/python3": "#!/bin/sh\n"}, depends=["zlib"]),
]
"""The packages that examples name beside the golden ones."""

FILES = {"greet.spdx.json": '{"spdxVersion": "SPDX-2.3"}\n', "report.txt": "fine\n", "log.txt": "line\n"}
"""The files in the home that examples attach."""


@dataclass
class World:
    """One set of places. `names` are what documents say and what stands for it here, the longest first."""

    root: Path
    registry: FakeRegistry
    gpg: Home | None = None
    names: list[tuple[str, str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.root / "home"

    def to_world(self, text: str) -> str:
        """Return a command or a document of configuration with the places of this world."""
        for documented, actual in self.names:
            text = text.replace(documented, actual)
        return text

    def to_document(self, text: str) -> str:
        """Return what a command printed with the places that documents speak of."""
        for documented, actual in self.names:
            text = text.replace(actual, documented)
        return text


def fill_store(store: Path) -> None:
    """Make an install tree of the golden packages, complete and recorded where it is, and of `SKETCHES`."""
    unpacked = unpack_store(store.parent / "unpacked")
    shutil.move(unpacked, store)
    shutil.rmtree(store.parent / "unpacked")
    _move_in(store)
    sketched = spack_tree(store.parent / "sketched", SKETCHES).root
    installs = {**_database(store, STORE_ROOT, store), **_database(sketched, str(sketched), store)}
    for prefix in sketched.glob("linux-x86_64/*"):
        shutil.move(prefix, store / "linux-x86_64" / prefix.name)
    for record in installs.values():
        if record["spec"]["name"] == "gcc-runtime":  # a package of the system's files, which the fixture leaves out
            library = Path(record["path"]) / "lib" / "libgcc_s.so.1"
            library.parent.mkdir(parents=True)
            library.write_bytes(b"the compiler's own library")
            (library.parents[1] / ".spack").mkdir()
            document = {"spec": {"_meta": {"version": 5}, "nodes": [record["spec"]]}}
            (library.parents[1] / ".spack" / "spec.json").write_text(json.dumps(document))
    index = {"database": {"version": "8", "installs": installs}}
    (store / ".spack-db" / "index.json").write_text(json.dumps(index))


def _move_in(store: Path) -> None:
    """Let the golden packages run where they are now: search paths count from the file, other paths from the tree."""
    beside = f"{STORE_ROOT}/linux-x86_64/"
    searched = re.compile(rf"{beside}(?=[^/\0:]+/lib[:\0])".encode())
    relative = b"$ORIGIN/../..".ljust(len(beside), b"/")
    for path in [path for path in store.glob("linux-x86_64/**/*") if ".spack" not in path.parts]:
        if path.is_symlink():
            target = os.readlink(path)
            path.unlink()
            path.symlink_to(target.replace(STORE_ROOT, str(store)))
        elif path.is_file():
            content = path.read_bytes()
            if content[:4] == b"\x7fELF":
                path.write_bytes(searched.sub(relative, content))
            elif b"\0" not in content:
                path.write_bytes(content.replace(STORE_ROOT.encode(), str(store).encode()))
    for record in store.glob("linux-x86_64/*/.spack/install_manifest.json"):
        record.unlink()  # of files as they were


def _database(tree: Path, recorded: str, store: Path) -> dict[str, Any]:
    text = (tree / ".spack-db" / "index.json").read_text().replace(recorded, str(store))
    installs: dict[str, Any] = json.loads(text)["database"]["installs"]
    return installs


def put_base_image(registry: FakeRegistry) -> None:
    """Put a small image for this example's platform under `debian:12`."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("etc/debian_version"), io.BytesIO())
    layer = gzip.compress(tar.getvalue(), mtime=0)
    diff_id = f"sha256:{hashlib.sha256(tar.getvalue()).hexdigest()}"
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    ).encode()
    kinds = {"config.v1+json": config, "layer.v1.tar+gzip": layer}
    descriptors = [
        {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": registry.add_blob("debian", data),
            "size": len(data),
        }
        for kind, data in kinds.items()
    ]
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": descriptors[0], "layers": descriptors[1:]}
    registry.add_manifest("debian", kind, json.dumps(manifest).encode(), "12")


@dataclass
class Parts:
    """What all worlds share, made when it is first asked for: an install tree, and a key."""

    folder: Path
    stack: contextlib.ExitStack

    @functools.cached_property
    def store(self) -> Path:
        fill_store(self.folder / "opt")
        return self.folder / "opt"

    @functools.cached_property
    def key(self) -> tuple[Home, str]:
        home = self.stack.enter_context(gpg_home())
        return home, home.make("ci")


@contextlib.contextmanager
def parts() -> Iterator[Parts]:
    """Give what worlds share; it is removed at the end."""
    # constants in the golden binaries leave little room for a longer prefix
    with contextlib.ExitStack() as stack:
        yield Parts(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="d", dir="/tmp"))), stack)


@contextlib.contextmanager
def world(shared: Parts, *, signing: bool = False) -> Iterator[World]:
    """Give a fresh world, be in its home, and see nothing of the user's."""
    with (
        tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
        FakeRegistry() as registry,
        MirrorServer(Path(folder) / "srv") as web,
        greeting_engine(Path(folder)) as engine,
    ):
        made = World(Path(folder), registry)
        made.home.mkdir()
        (made.root / "srv").mkdir()
        isolate(patch, made.home)
        for name, value in {
            "OCI_BINPKG_RETRIES": "0",
            "DOCKER_HOST": engine,
            "CONTAINER_HOST": engine,
            "TOKEN": "secret",
        }.items():
            patch.setenv(name, value)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.chdir(made.home)
        put_base_image(registry)
        for name, text in FILES.items():
            (made.home / name).write_text(text)
        names = {
            "https://mirror.example/apps": f"{web.url}/mirror",
            "https://mirror.example": web.url,
            "https://registry.example": registry.url,
            "registry.example": registry.host,
            "debian:12": f"{registry.host}/debian:12",
            "s3://bucket": f"file://{made.root}/bucket",
            "/srv/": f"{made.root}/srv/",
            "/opt/spack/opt": str(shared.store),
            "~/spack/opt": str(shared.store),
            "/home/me": str(made.home),
        }
        if signing:
            made.gpg, fingerprint = shared.key
            patch.setenv("GNUPGHOME", made.gpg.path)
            names[DOCUMENTED_KEY] = fingerprint
        made.names = sorted(names.items(), key=lambda pair: -len(pair[0]))
        yield made


def without_columns(line: str) -> str:
    """Return a line of output with single spaces, for the width of columns depends on the paths in them."""
    return re.sub(r" {2,}", "  ", line.rstrip())
