"""From words to values to operations: the search over all configured caches.

What speaks to caches is imported when one has to be asked: mostly the catalog is fresh, and the answer comes at once.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from oci_binpkg.cache.catalog_reading import IndexBytes
from oci_binpkg.cli.progress import printable, progress
from oci_binpkg.cli.settings import load_settings, stderr_is_terminal
from oci_binpkg.errors import UsageError
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.content import Digest
from oci_binpkg.model.query import Query
from oci_binpkg.ops.cataloging import CatalogMatch, Refresh, find_in_catalog


def search(queries: Sequence[str], *, ttl: float, offline: bool, all_arch: bool, json: bool) -> int:
    """List packages of all configured caches."""
    settings = load_settings()
    parsed = [Query.parse(text) for text in queries]
    # one of which two parts are configured is two caches
    caches = {
        name: f"{cache.fetch.url} {cache.fetch.view}".strip()
        for name, cache in settings.caches.items()
        if cache.fetch.url
    }
    if not caches:
        raise UsageError("no caches are configured", hint='write [caches.NAME] with url = "..." into the configuration')
    family = "" if all_arch else Arch("", "", os.uname().machine.lower()).go_architecture
    with ExitStack() as stack:
        observer = stack.enter_context(progress(live=stderr_is_terminal() and not json, color=settings.color))

        def read(name: str, known: Digest | None) -> IndexBytes | None:
            from oci_binpkg.cache.catalog_sources import index_bytes  # noqa: PLC0415
            from oci_binpkg.cli.wiring import Wiring  # noqa: PLC0415

            return index_bytes(Wiring(settings, observer).cache(name), known, settings.caches[name].fetch.view)

        refresh = Refresh(settings.catalog, caches, read, time.time, ttl, offline, observer)
        found = find_in_catalog(refresh, parsed, family=family)
    if json:
        sys.stdout.write(jsonlib.dumps([each.to_json() for each in found], indent=2, ensure_ascii=False) + "\n")
    else:
        _print(found)
    return 0


def _print(found: Sequence[CatalogMatch]) -> None:
    """Print packages, one a line: hash, name and version, caches, the rest of the spec."""
    rows = [(f"{each.spec.name}@{each.spec.version}", ",".join(each.caches), each.spec) for each in found]
    names = max((len(name) for name, _, _ in rows), default=0)
    caches = max((len(held) for _, held, _ in rows), default=0)
    for name, held, spec in rows:
        sys.stdout.write(printable(f"{spec.hash[:7]}  {name:{names}}  {held:{caches}}  {spec.describe()}") + "\n")
