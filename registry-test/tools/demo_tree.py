"""Make what the demo publishes: three small packages that know where they are, and a base image of this machine's shell.

`demo_tree.py packages DIR` writes the packages, scripts that hold the absolute paths of one another, as a build would
leave them. `demo_tree.py base DIR` writes an OCI layout with the tag `host`: `/bin/sh` and the libraries that it needs.
Python's standard library alone.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}
PACKAGES = """
[defaults]
arch = {{platform = "{platform}", os = "any", target = "{machine}"}}

[[package]]
name = "greetcfg"
version = "0.9"
prefix = "greetcfg-0.9"

[[package]]
name = "greetlib"
version = "1.3.0"
prefix = "greetlib-1.3.0"
depends = ["greetcfg"]

[[package]]
name = "greet"
version = "2.1"
prefix = "greet-2.1"
depends = ["greetlib", {{name = "greetcfg", types = ["run"]}}]
"""
FILES = {
    "greetcfg-0.9/etc/greet.conf": "who=world\n",
    "greetlib-1.3.0/share/greet.sh": 'version=1.3.0\n. {root}/greetcfg-0.9/etc/greet.conf\nsay() {{ echo "HELLO, $who (lib $version)"; }}\n',
    "greet-2.1/bin/greet": '#!/bin/sh\n. {root}/greetlib-1.3.0/share/greet.sh\necho "from {root}/greet-2.1"\nsay\n',
}


def packages(root: Path) -> None:
    """Write the packages and their `packages.toml` into a new folder."""
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    system = platform.system().lower()
    root.mkdir(parents=True)
    (root / "packages.toml").write_text(PACKAGES.format(platform=system, machine=machine))
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text(text.format(root=root.resolve()))
    (root / "greet-2.1/bin/greet").chmod(0o755)


def shell() -> Iterator[tuple[str, bytes]]:
    """Yield paths and bytes: the shell, its loader and its libraries, as the loader of this machine finds them."""
    path = os.path.realpath("/bin/sh")
    yield "bin/sh", Path(path).read_bytes()
    listed = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
    for library in sorted(set(re.findall(r"(/\S+) \(0x", listed))):
        yield library.lstrip("/"), Path(library).read_bytes()


def base(layout: Path) -> None:
    """Write an OCI layout with one image of one layer."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("tmp", "etc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        for name, data in shell():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    tar_bytes = stream.getvalue()
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(media_type: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    oci = "application/vnd.oci.image"
    layer = put(f"{oci}.layer.v1.tar+gzip", gzip.compress(tar_bytes, 6, mtime=0))
    machine = MACHINES.get(platform.machine(), platform.machine())
    diff_ids = [f"sha256:{hashlib.sha256(tar_bytes).hexdigest()}"]
    document = {"architecture": machine, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = put(f"{oci}.config.v1+json", json.dumps(document).encode())
    manifest = {"schemaVersion": 2, "mediaType": f"{oci}.manifest.v1+json", "config": config, "layers": [layer]}
    entry = put(f"{oci}.manifest.v1+json", json.dumps(manifest).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": "host"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


if __name__ == "__main__":
    {"packages": packages, "base": base}[sys.argv[1]](Path(sys.argv[2]))
