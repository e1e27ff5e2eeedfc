"""Base images as OCI layouts on disk: one static busybox, and a whole Debian made by debootstrap."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support.real.components import command_path
from tests.support.real.process import clean_environment, remove_with_mounts, run_tool

_CHUNK = 1 << 20
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_BUSYBOX_LINKS = ("sh", "ls", "cat", "echo", "env", "id", "stat", "sha256sum", "readlink", "find", "true", "uname")
_SUITE = "bookworm"


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image in an OCI layout: `reference` is what skopeo and buildah take, `platform` its config's."""

    layout: Path
    tag: str
    architecture: str
    manifest_digest: str

    @property
    def reference(self) -> str:
        return f"oci:{self.layout}:{self.tag}"


def write_base_image(
    layout: Path, tar: IO[bytes], *, tag: str, architecture: str, env: Sequence[str] = (_PATH,), **config: Any
) -> BaseImage:
    """Make a one-layer image of an uncompressed tar. Keyword arguments go into the config's `config` object.

    Independent of the package under test on purpose: it uses the standard library alone.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    diff_id, layer = _compress(blobs, tar)
    document = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": list(env), **config},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "oci-binpkg tests"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _put(blobs, _CONFIG, document),
        "layers": [layer],
    }
    entry = _put(blobs, _MANIFEST, manifest) | {"annotations": {"org.opencontainers.image.ref.name": tag}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return BaseImage(layout, tag, architecture, entry["digest"])


def _put(blobs: Path, media_type: str, document: Mapping[str, Any]) -> dict[str, Any]:
    body = json.dumps(document, sort_keys=True).encode()
    digest = hashlib.sha256(body).hexdigest()
    (blobs / digest).write_bytes(body)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(body)}


def _compress(blobs: Path, tar: IO[bytes]) -> tuple[str, dict[str, Any]]:
    plain = hashlib.sha256()
    staged = blobs / "layer.partial"
    with staged.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as sink:
        while chunk := tar.read(_CHUNK):
            plain.update(chunk)
            sink.write(chunk)
    with staged.open("rb") as done:
        packed = hashlib.file_digest(done, "sha256").hexdigest()
    size = staged.stat().st_size
    staged.rename(blobs / packed)
    return f"sha256:{plain.hexdigest()}", {"mediaType": _LAYER, "digest": f"sha256:{packed}", "size": size}


def architecture() -> str:
    """This machine's architecture in the words of OCI."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def busybox_image(layout: Path, *, tag: str = "busybox") -> BaseImage:
    """An image of one static binary with links for its commonest applets, /tmp and a passwd file. Same bytes each time."""
    binary = Path(command_path("busybox")).read_bytes()
    if b"/ld-linux" in binary[:4096]:
        message = "busybox is linked dynamically; install busybox-static"
        raise FileNotFoundError(message)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("bin", "etc", "tmp"):
            tar.addfile(_member(name, tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755))
        _add_file(tar, "bin/busybox", binary, mode=0o755)
        _add_file(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", mode=0o644)
        for applet in _BUSYBOX_LINKS:
            link = _member(f"bin/{applet}", tarfile.SYMTYPE, mode=0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    sink.seek(0)
    return write_base_image(layout, sink, tag=tag, architecture=architecture(), Cmd=["/bin/sh"])


def _member(name: str, kind: bytes, *, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member


def _add_file(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int) -> None:
    member = _member(name, tarfile.REGTYPE, mode=mode)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def debian_image(cache: Path, *, suite: str = _SUITE) -> BaseImage:
    """A minimal Debian (glibc, coreutils) as one layer, made once by debootstrap and kept below `cache`.

    Takes about half a minute the first time. Needs root and the distribution's mirror.
    """
    cache.mkdir(parents=True, exist_ok=True)
    layout = cache / f"debian-{suite}-{architecture()}"
    with (cache / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (layout / "oci-layout").exists():
            _bootstrap(cache, layout, suite)
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return BaseImage(layout, suite, architecture(), manifest)


def _bootstrap(cache: Path, layout: Path, suite: str) -> None:
    # Not below /tmp: some machines mount that without devices, which debootstrap has to make.
    workdir = Path(tempfile.mkdtemp(prefix="debian-", dir=cache))
    try:
        root = workdir / "root"
        environment = clean_environment(workdir)
        run_tool([command_path("debootstrap"), "--variant=minbase", suite, str(root)], env=environment, seconds=600)
        with _tar_of(root) as tar:
            write_base_image(workdir / "layout", tar, tag=suite, architecture=architecture(), Cmd=["/bin/bash"])
        shutil.rmtree(layout, ignore_errors=True)
        (workdir / "layout").rename(layout)
    finally:
        remove_with_mounts(workdir)


@contextlib.contextmanager
def _tar_of(root: Path) -> Iterator[IO[bytes]]:
    """The tree as a tar stream: no devices (an engine brings its own) and no downloaded packages."""
    argv = [
        *(command_path("tar"), "--create", "--numeric-owner", "--sort=name", "--format=posix"),
        *("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", f"--directory={root}"),
        *("--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*"),
        *("--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*", "."),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield process.stdout
    if process.returncode != 0:
        message = f"tar of {root} ended with status {process.returncode}"
        raise RuntimeError(message)
