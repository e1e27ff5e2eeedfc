"""Which packages of an image share a layer, where there may be fewer layers than packages. Pure.

The largest layers stay alone: outside of them lie few bytes, and they keep the digest that they have in the cache. The
others are put together by how many packages lie below them and by a hash of their name: a package that comes, goes or
changes moves no other one. What is decided depends on the packages alone, not on their order or on a machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from oci_binpkg.errors import UsageError
from oci_binpkg.model.image import MAX_ENGINE_LAYERS

DEFAULT_LAYERS: Final = 100
"""Leaves room for whoever builds upon the image: engines take 125."""
_FEWEST: Final = 2
_MOST_SHARED: Final = 16
_CLASSES: Final = 4


@dataclass(frozen=True, slots=True)
class Stacked:
    """A package to be stacked: the bytes of its layer, and one more than the longest chain of packages below it.

    One that stays `alone` shares no layer in any case.
    """

    hash: str
    name: str
    size: int
    height: int
    alone: bool = False


def check_layers(wanted: int) -> int:
    """Return how many layers an image may have, the usual number for 0. Raises `UsageError` for too few or too many."""
    if wanted and not _FEWEST <= wanted <= MAX_ENGINE_LAYERS:
        raise UsageError(
            f"an image of at most {wanted} layers: {_FEWEST} to {MAX_ENGINE_LAYERS} can be asked for",
            hint=f"Docker runs {MAX_ENGINE_LAYERS} layers, those of the base image included",
        )
    return wanted or DEFAULT_LAYERS


def room_above(below: int, wanted: int) -> int:
    """Return how many layers are left for packages above a base of so many. Raises `UsageError` if none is left."""
    if below >= wanted - 1:
        raise UsageError(
            f"the base image has {below} layers, and the image may have {wanted}: none is left for packages",
            hint="allow more layers, or choose a base image of fewer",
        )
    return wanted - below


def plan_layers(packages: Sequence[Stacked], room: int) -> list[list[str]]:
    """Return the hashes of the packages of each layer, bottom first; as many layers as packages if there is room.

    Within a layer, packages are sorted by name and hash.
    """
    if len(packages) <= room:
        return [[each.hash] for each in packages]
    shared = min(_MOST_SHARED, max(1, room // _CLASSES))
    by_size = sorted(packages, key=lambda each: (not each.alone, -each.size, each.hash))
    alone = max(room - shared, sum(each.alone for each in packages))
    units = [[each] for each in by_size[:alone]]
    tail: dict[tuple[int, int], list[Stacked]] = {}
    for each in by_size[alone:]:
        tail.setdefault(_place(each, shared), []).append(each)
    units += tail.values()
    return [[each.hash for each in sorted(unit, key=_named)] for unit in sorted(units, key=_order)]


def _place(package: Stacked, shared: int) -> tuple[int, int]:
    """Return the class of a package by its height, and its part of that class by its name."""
    height = min(_CLASSES - 1, package.height.bit_length() - 1)
    if shared < _CLASSES:
        return max(0, height - (_CLASSES - shared)), 0
    number = int.from_bytes(hashlib.sha256(package.name.encode()).digest()[:8], "big")
    return height, number % (shared // _CLASSES)


def _named(package: Stacked) -> tuple[str, str]:
    return package.name, package.hash


def _order(unit: Iterable[Stacked]) -> tuple[int, tuple[str, str]]:
    return max(each.height for each in unit), min(_named(each) for each in unit)
