"""The golden data: real output of Spack, read without any code of the package under test."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
GOLDEN = FIXTURES / "golden"
LAYOUT = GOLDEN / "oci-layout"
STORE_ARCHIVE = GOLDEN / "store.tar.gz"
STORE_ROOT = "/opt/golden/store"
SPACK_PREFIX = "/opt/spack"
REF_NAME = "org.opencontainers.image.ref.name"
PACKAGES = ("greet-2.0", "greet-2.1", "greetcfg-0.9", "greetlib-1.2.0", "greetlib-1.3.0")


def unpack_store(directory: Path) -> Path:
    """Unpack the install tree below `directory`, and return its root: the copy of /opt/golden/store."""
    unpack(STORE_ARCHIVE, directory)
    return directory / STORE_ROOT.lstrip("/")


def unpack(archive: Path, directory: Path) -> list[str]:
    """Unpack an archive of ours as it is, and return the names of its members."""
    with tarfile.open(archive) as opened:
        # the keyword `filter` came with Python 3.11.4; earlier ones know neither it nor this attribute
        opened.extraction_filter = lambda member, _path: member
        opened.extractall(directory)
        return opened.getnames()


def read_blob(digest: str) -> bytes:
    """Return a blob or manifest of the golden layout by its digest."""
    return (LAYOUT / "blobs" / digest.replace(":", "/")).read_bytes()


@cache
def tags() -> dict[str, str]:
    """Return tag -> digest of the manifest: the five packages, `both` and `index.spack`."""
    document = json.loads((LAYOUT / "index.json").read_bytes())
    return {entry["annotations"][REF_NAME]: entry["digest"] for entry in document["manifests"]}


@dataclass(frozen=True)
class GoldenPackage:
    """A package as Spack pushed it. `recorded` is the prefix it was built in."""

    tag: str
    manifest: dict[str, Any]
    config: dict[str, Any]
    recorded: str
    tar: bytes

    @property
    def name(self) -> str:
        """`greet-2.1`"""
        return self.tag.rsplit("-", 1)[0]

    @property
    def hash(self) -> str:
        """The 32 characters of the spec's hash."""
        return self.tag.removesuffix(".spack").rsplit("-", 1)[1]

    @property
    def diff_id(self) -> str:
        """The digest of the tar, as `sha256:...`."""
        return str(self.config["rootfs"]["diff_ids"][-1])

    @property
    def layer_digest(self) -> str:
        """The digest of the compressed layer, as `sha256:...`."""
        return str(self.manifest["layers"][-1]["digest"])

    @property
    def distribution(self) -> bytes:
        """The document `.spack/binary_distribution` of the layer."""
        with tarfile.open(fileobj=io.BytesIO(self.tar)) as archive:
            member = archive.extractfile(archive.getmembers()[-1])
            assert member is not None
            return member.read()

    def prefix_in(self, store: Path) -> Path:
        """Return the prefix in a copy of the store."""
        return store / Path(self.recorded).relative_to(STORE_ROOT)


@cache
def package(name: str) -> GoldenPackage:
    """Return one of `PACKAGES`."""
    (tag,) = (tag for tag in tags() if tag.startswith(f"{name}-"))
    manifest = json.loads(read_blob(tags()[tag]))
    config = json.loads(read_blob(manifest["config"]["digest"]))
    tar = gzip.decompress(read_blob(manifest["layers"][-1]["digest"]))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        last = archive.getmembers()[-1].name
    return GoldenPackage(tag, manifest, config, "/" + last.removesuffix("/.spack/binary_distribution"), tar)


def packages() -> list[GoldenPackage]:
    """Return all five packages."""
    return [package(name) for name in PACKAGES]


LACKS_A_DEPENDENCY = 1
"""The exit code of a push of the golden tree: its gcc-runtime was never packed, and the rest is pushed all the same."""
