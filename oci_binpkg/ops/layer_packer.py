"""From a package of an install tree to its layer, through the layer cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from functools import partial
from typing import Final

from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.codec import Codec
from oci_binpkg.archive.layer import FOLLOWED_FROM, Follow, LayerFile, diff_id_of, pack_layer
from oci_binpkg.archive.layer_cache import CachedLayer, LayerCache, layer_key, tree_fingerprint
from oci_binpkg.archive.python_caches import PythonCaches
from oci_binpkg.archive.received import received
from oci_binpkg.archive.tar_writer import write_tar
from oci_binpkg.errors import ContentError, Hint, InstallsError, Step, UsageError
from oci_binpkg.events import BytesPacked, Observer, Warned, ignore
from oci_binpkg.installs.install_manifest import read_manifest
from oci_binpkg.installs.protocol import InstallRecord, InstallTree
from oci_binpkg.installs.root_links import links_to, named_in
from oci_binpkg.log import Log
from oci_binpkg.model.content import OCI_LAYER_GZIP
from oci_binpkg.ops.stack import PackedPackage
from oci_binpkg.relocate.scan import PrefixScanner

_SHORT_HASH: Final = 7
_log: Final = Log("layers")


class LayerPacker:
    """Makes layers of the packages of one tree; a package whose files did not change is not compressed twice.

    A package is compressed by `threads` threads; its bytes are the same for any number of them. With `pyc` compiled
    Python is current in a layer; without, compiled files go into it as they are, as Spack packs them.
    """

    def __init__(
        self,
        installs: InstallTree,
        cache: LayerCache,
        codec: Codec,
        *,
        threads: int = 1,
        observer: Observer = ignore,
        followed_from: int = FOLLOWED_FROM,
        pyc: bool = True,
    ) -> None:
        self._installs = installs
        self._cache = cache
        self._codec = codec
        self._threads = threads
        self._observer = observer
        self._followed_from = followed_from
        self._pyc = pyc

    def require_gzip(self, mirror: str) -> None:
        """Raise `UsageError` if the layers are not gzip: mirrors hold no others, which is better said at once."""
        if self._codec.media_type("oci") != OCI_LAYER_GZIP:
            raise UsageError(
                f"{mirror} holds gzip layers, and {self._codec.name} makes others", hint=Hint(Step.GZIP_FOR_MIRROR)
            )

    def __call__(self, record: InstallRecord, follow: Follow | None = None) -> PackedPackage:
        """Return the layer of a package. Raises `PackError` and `LocalDiskError`.

        `follow` gets a layer that becomes large while it is made. A package that was installed here from a cache,
        unchanged, is the layer that it came as.
        """
        caches = PythonCaches(record.prefix, partial(_recorded, record.prefix)) if self._pyc else None
        fingerprint = tree_fingerprint(record.prefix, caches)
        if not self._cache.shared:  # nothing here shows whether a layer is what once came
            came = received(self._cache, record.spec.hash, record.prefix, self._codec.name, fingerprint)
            if came is not None:
                _log.info("%s is sent on as it came from a cache (%s)", record.spec.short, came[0].digest)
                return self._packed(record, came[0], came[1], reused=True)
        distribution = distribution_of(self._installs, record)
        key = layer_key(record.spec.hash, record.prefix, self._codec, distribution, current_python=self._pyc)
        cached, reused = self._cache.build(
            key,
            fingerprint,
            partial(self._pack, record, distribution, caches, follow),
            accept=partial(self._holds_the_tree, record, distribution, caches) if self._cache.shared else None,
        )
        how = "taken from the layer cache" if reused else "packed: the layer cache does not hold it"
        _log.info("%s is %s (%s, %d bytes)", record.spec.short, how, cached.digest, cached.size)
        if cached.summary.skipped:
            self._observer(
                Warned(f"{record.spec.short}: left out, as no layer holds such files: {_few(cached.summary.skipped)}")
            )
        if cached.summary.weakened:
            self._observer(
                Warned(
                    f"{record.spec.short}: set-user-ID, set-group-ID and capabilities do not travel: "
                    f"{_few(cached.summary.weakened)}"
                )
            )
        return self._packed(record, cached, distribution, reused=reused)

    def _packed(
        self, record: InstallRecord, cached: CachedLayer, distribution: Distribution, *, reused: bool
    ) -> PackedPackage:
        layer = self._cache.layer_of(cached, self._codec.media_type("oci"), fresh=not reused)
        prefix = distribution.prefix_of(record.spec.hash)
        release = partial(self._cache.release, cached)
        sbang = distribution.sbang_install_path
        return PackedPackage(layer, reused, release, prefix, distribution.hash_to_prefix, sbang)

    def _holds_the_tree(
        self, record: InstallRecord, distribution: Distribution, caches: PythonCaches | None, cached: CachedLayer
    ) -> bool:
        """Return whether a layer that others may have written holds the files of a package, as they are here."""
        digest = hashlib.sha256()
        classifier = PrefixScanner(distribution.known_prefixes)
        write_tar(record.prefix, digest.update, distribution=distribution, classifier=classifier, caches=caches)
        if digest.hexdigest() != cached.diff_id.hex:
            return False
        media_type = self._codec.media_type("oci")
        try:
            with self._cache.layer_of(cached, media_type).blob.open() as stream:
                what = f"the layer of {record.spec.short} in the layer cache"
                return diff_id_of(stream, what, media_type=media_type, limit=cached.uncompressed_size) == cached.diff_id
        except ContentError:
            return False

    def _pack(
        self,
        record: InstallRecord,
        distribution: Distribution,
        caches: PythonCaches | None,
        follow: Follow | None,
        path: str,
    ) -> LayerFile:
        return pack_layer(
            record.prefix,
            path,
            self._codec,
            distribution=distribution,
            classifier=PrefixScanner(distribution.known_prefixes),
            threads=self._threads,
            on_bytes=lambda count: self._observer(BytesPacked(record.spec.hash, count)),
            follow=follow,
            followed_from=self._followed_from,
            caches=caches,
        )


def _recorded(prefix: str) -> Collection[str] | None:
    """Return the paths that the record of a prefix has, relative to it; None if there is no good record."""
    try:
        return {path[len(prefix) + 1 :] or "." for path in read_manifest(prefix) if f"{path}/".startswith(f"{prefix}/")}
    except InstallsError:
        return None


def distribution_of(installs: InstallTree, record: InstallRecord) -> Distribution:
    """Return the head of a package's `.spack/binary_distribution`: where it is, and what its files may mention."""
    prefixes = {s.hash: installs.prefix_for(s) for s in installs.graph.relocation_order(record.spec)}
    real_root = os.path.realpath(installs.root)
    return Distribution(
        sbang_install_path=installs.sbang_path,
        buildpath=installs.root,
        spackprefix=installs.spack_prefix,
        relative_prefix="" if record.prefix == installs.root else os.path.relpath(record.prefix, installs.root),
        hash_to_prefix=prefixes,
        real_root=real_root if real_root != installs.root else "",
        real_prefixes={key: real for key, path in prefixes.items() if (real := os.path.realpath(path)) != path},
        other_prefixes=_neighbours(installs, prefixes),
        other_roots=named_in(record.prefix, links_to(installs.root)),
    )


def _neighbours(installs: InstallTree, prefixes: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the packages whose paths begin with one of `prefixes`, as `tool-data` does with `tool`: files name them.

    Prefixes that end with a hash begin no other one.
    """
    begins = tuple(path for key, path in prefixes.items() if key[:_SHORT_HASH] not in path.rpartition("/")[2])
    if not begins:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for each in installs.records():
        spec, prefix = each.spec, each.prefix
        if spec.hash not in prefixes and prefix.startswith(begins) and prefix not in begins:
            found[spec.hash] = (prefix, spec.name, spec.version, spec.arch.platform, spec.arch.os, spec.arch.target)
    return found


def _few(paths: tuple[str, ...]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if paths[3:] else "")
