"""Keeps images within the number of layers that engines run: packages beyond it share layers, joined here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Final, Protocol

from oci_binpkg.archive.layer_cache import CachedLayer, LayerCache
from oci_binpkg.archive.merged_layer import MergedPart, merge_layers
from oci_binpkg.log import Log
from oci_binpkg.model.content import OCI_LAYER_GZIP
from oci_binpkg.model.image import (
    MAX_ENGINE_LAYERS,
    BaseImage,
    Body,
    Layer,
    PackageLayer,
    RestoringLayer,
    SharedLayer,
    Unit,
)
from oci_binpkg.model.layer_plan import DEFAULT_LAYERS, Stacked, plan_layers, room_above
from oci_binpkg.model.spec import RUNTIME, SpecGraph

_JOINED_AT_ONCE: Final = 4
_FEWEST: Final = 2
_log: Final = Log("layers")


class Joiner(Protocol):
    """Makes one layer of several packages."""

    def __call__(self, parts: Sequence[MergedPart], /) -> tuple[Layer, tuple[Body, ...]]:
        """Return the layer, and where the packages lie in it."""
        ...


class LayerJoiner:
    """Joins layers in the layer cache: the same packages are joined once."""

    def __init__(self, cache: LayerCache) -> None:
        self._cache = cache
        self._joined: dict[str, CachedLayer] = {}
        self._lock = Lock()

    def __call__(self, parts: Sequence[MergedPart]) -> tuple[Layer, tuple[Body, ...]]:
        """Return the layer of several packages. Raises `ContentError` for a damaged one, `LocalDiskError`."""
        text = "\n".join(f"{each.hash} {each.prefix} {each.layer.blob.descriptor.digest}" for each in parts)
        key = hashlib.sha256(f"merged\n{text}".encode()).hexdigest()
        with self._lock:
            cached = self._joined.get(key)
        if cached is None:
            cached, reused = self._cache.build(key, key, partial(merge_layers, parts))
            how = "taken from the layer cache" if reused else "joined"
            _log.info("a layer of %d packages is %s (%s, %d bytes)", len(parts), how, cached.digest, cached.size)
            with self._lock:
                self._joined[key] = cached
        return self._cache.layer_of(cached, OCI_LAYER_GZIP), cached.bodies


class LayerBudget:
    """Decides which packages of an image share a layer; `most` layers, those of the base included, 0 as usual."""

    def __init__(self, graph: SpecGraph, most: int, joiner: Joiner | None) -> None:
        self._graph = graph
        self._most = most
        self._joiner = joiner
        self._heights: dict[str, int] = {}

    def room(self, base: BaseImage | None) -> int:
        """Return how many layers are left for packages. Raises `UsageError` if none is left."""
        below = len(base.layers) if base else 0
        usual = DEFAULT_LAYERS if below < DEFAULT_LAYERS - 1 else MAX_ENGINE_LAYERS
        return room_above(below, self._most or usual)

    def units(
        self,
        packages: Sequence[PackageLayer],
        prefixes: Mapping[str, str],
        base: BaseImage | None,
        *,
        keep_last: bool = False,
        reserved: int = 0,
        restoring: Layer | None = None,
    ) -> list[Unit]:
        """Return the layers of an image, bottom first; with `keep_last` the last package's stays the last, and alone.

        `restoring` comes after all others but that one. `prefixes` says where each package's layer has it, by hash. So
        many are `reserved` for layers of other things.
        """
        further: list[Unit] = [RestoringLayer(restoring)] if restoring else []
        room = max(_FEWEST, self.room(base) - reserved - len(further))
        last = list(packages[-1:]) if keep_last else []
        others = packages[: len(packages) - len(last)]
        if self._joiner is None or len(packages) <= room:
            return [*others, *further, *last]
        walled = _nested(prefixes)
        stacked = [
            Stacked(each.hash, each.name, each.layer.blob.descriptor.size, self._height(each.hash), each.hash in walled)
            for each in others
        ]
        known = {each.hash: each for each in others}
        planned = [[known[key] for key in unit] for unit in plan_layers(stacked, room - len(last))]
        with ThreadPoolExecutor(_JOINED_AT_ONCE, "join") as joining:
            return [*joining.map(partial(self._unit, prefixes), planned), *further, *last]

    def _unit(self, prefixes: Mapping[str, str], packages: Sequence[PackageLayer]) -> PackageLayer | SharedLayer:
        if len(packages) == 1 or self._joiner is None:
            return packages[0]
        layer, bodies = self._joiner([MergedPart(each.hash, prefixes[each.hash], each.layer) for each in packages])
        return SharedLayer(layer, tuple(packages), bodies).described()

    def _height(self, package_hash: str) -> int:
        """Return one more than the longest chain of packages below one; externals do not count."""
        if package_hash not in self._heights:
            for spec in self._graph.closure([self._graph[package_hash]]):
                below = (self._heights.get(child.hash, 0) for child in self._graph.children(spec, RUNTIME))
                self._heights[spec.hash] = 1 + max(below, default=0)
        return self._heights[package_hash]


def _nested(prefixes: Mapping[str, str]) -> set[str]:
    """Return the packages whose prefix lies in that of another, and those others: together they repeat paths."""
    found: set[str] = set()
    around: list[tuple[str, str]] = []
    for prefix, package_hash in sorted((prefix.split("/"), key) for key, prefix in prefixes.items()):
        text = "/".join(prefix)
        while around and not f"{text}/".startswith(f"{around[-1][0]}/"):
            around.pop()
        if around:
            found |= {package_hash, *(key for _, key in around)}
        around.append((text, package_hash))
    return found
