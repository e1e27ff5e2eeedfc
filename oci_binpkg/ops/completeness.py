"""Whether the packages that a cache lists are there with all their parts, at a cost that few packages decide.

A listing names manifests, and says nothing of what they name. On a disk every package is looked at. Elsewhere a few
are, and the others only if one of those is incomplete: what takes a blob away (a cleaner, somebody by hand) seldom
takes one alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from oci_binpkg.cache.protocol import ReadableCache
from oci_binpkg.errors import AuthError, ContentError, DeniedError, NotFoundError
from oci_binpkg.log import Log
from oci_binpkg.parallel import in_turns

if TYPE_CHECKING:
    from oci_binpkg.installs.protocol import InstallRecord

_SAMPLE: Final = 5
_log: Final = Log("completeness")


def incomplete(cache: ReadableCache, places: Iterable[str], *, thorough: bool = False) -> dict[str, str]:
    """Return the tags or paths of packages without all their parts, each with the first part that is not there.

    With `thorough` all are looked at, wherever the cache is. What a login may not look at counts as there.
    """
    every = sorted(set(places))
    chosen = every if thorough or cache.is_local else every[:: max(1, len(every) // _SAMPLE)][:_SAMPLE]
    found = _looked_at(cache, chosen)
    if found and len(chosen) < len(every):
        _log.info("%s lacks parts of a package: all are looked at", cache.name)
        found |= _looked_at(cache, sorted({*every} - {*chosen}))
    return found


def _looked_at(cache: ReadableCache, places: Sequence[str]) -> dict[str, str]:
    def look(place: str) -> str:
        try:
            return cache.parts(place).absent
        except (NotFoundError, ContentError) as error:
            return error.message
        except (AuthError, DeniedError):
            return ""

    return {place: reason for place, reason in zip(places, in_turns(look, places), strict=True) if reason}


def unfinished(
    cache: ReadableCache, wanted: Sequence[InstallRecord], present: Mapping[str, str], others: Iterable[str] = ()
) -> frozenset[str]:
    """Return the hashes of packages whose images lack layers that are there now, or will be.

    `wanted` are dependencies first, `present` is hash and place of what the cache has; `others` (hashes) are not
    pushed. A package was stacked without what was absent when it was pushed. Caches without images have no such ones.
    """
    if cache.images is None:
        return frozenset()
    incoming = {record.spec.hash for record in wanted if record.spec.hash not in present} - {*others}
    shorts = {record.spec.short for record in wanted}
    found = set()
    for record in wanted:
        spec = record.spec
        if any(edge.hash in incoming for edge in spec.dependencies_of(("link", "run"))):
            incoming.add(spec.hash)
            found |= {spec.hash} & present.keys()
        elif cache.is_local and spec.hash in present:
            try:
                lacking = cache.parts(present[spec.hash]).lacking
            except (NotFoundError, ContentError):
                continue
            if shorts.intersection(lacking):
                incoming.add(spec.hash)
                found.add(spec.hash)
    return frozenset(found)
