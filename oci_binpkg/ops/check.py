"""Which packages of a tree the caches lack, for pipelines."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from oci_binpkg.cache.protocol import ReadableCache
from oci_binpkg.disk import disk_errors, make_folder, replace_file
from oci_binpkg.errors import ContentError, NotFoundError
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec import Spec
from oci_binpkg.ops.completeness import incomplete
from oci_binpkg.parallel import READERS


@dataclass(frozen=True, slots=True)
class Rebuilds:
    """The packages that a cache lacks, or has without all of their content, each with the reason.

    `cache` is its configured name, else its address; `url` is the address.
    """

    cache: str
    url: str
    lacking: tuple[tuple[Spec, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form that Spack's pipelines read."""
        return {
            "mirrorName": self.cache,
            "mirrorUrl": self.url,
            "rebuildSpecs": [{"short_spec": spec.short, "hash": spec.hash} for spec, _ in self.lacking],
        }


def check(cache: ReadableCache, name: str, url: str, specs: Sequence[Spec], *, thorough: bool = False) -> Rebuilds:
    """Return the packages that the cache lacks, or has without all their parts; with `thorough` all bytes are read.

    One listing, and a look at the parts of all packages on a disk, of a few elsewhere (all, if one of them is damaged).
    Where signatures are required, each package is looked at: an unsigned one counts as absent.
    """
    present = cache.hashes()
    reasons = {spec.hash: "absent" for spec in specs if spec.hash not in present}
    places = {present[spec.hash]: spec.hash for spec in specs if spec.hash in present}
    reasons |= {places[place]: reason for place, reason in incomplete(cache, places, thorough=thorough).items()}
    if thorough or cache.proves_listing:
        there = [spec for spec in specs if spec.hash not in reasons]
        with ThreadPoolExecutor(READERS) as readers:
            found = readers.map(lambda spec: _why_incomplete(cache, spec, thorough=thorough), there)
            for spec, reason in zip(there, found, strict=True):
                if reason:
                    reasons[spec.hash] = reason
    return Rebuilds(name, url, tuple((spec, reasons[spec.hash]) for spec in specs if spec.hash in reasons))


def write_answers(answers: Sequence[Rebuilds], path: str) -> None:
    """Write the document that Spack's pipelines read. Raises `LocalDiskError`.

    An object with the caches that lack something, each under its address.
    """
    text = json.dumps({answer.url: answer.to_json() for answer in answers if answer.lacking}, indent=2) + "\n"
    with disk_errors(path, "written"):
        make_folder(os.path.dirname(path))
    replace_file(path, text.encode())


def _why_incomplete(cache: ReadableCache, spec: Spec, *, thorough: bool) -> str:
    try:
        found = cache.find(PackageKey.of(spec))
        if thorough:
            for _ in found.layer.blob.chunks(found.layer.blob.descriptor.size):
                pass
    except (NotFoundError, ContentError) as error:
        return error.message
    return ""
