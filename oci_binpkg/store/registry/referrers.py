"""The list that a registry itself keeps of what refers to a manifest.

Source: OCI distribution-spec 1.1 (listing referrers).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import OCI_INDEX, Descriptor, Digest
from oci_binpkg.model.manifest import parse_listed
from oci_binpkg.store.registry.api import Remote, origin_of, resolved, with_query
from oci_binpkg.transport.links import next_page

_UNSUPPORTED: Final = frozenset({400, 404, 405, 406, 501})
_MOST_PAGES: Final = 100
_MOST_ENTRIES: Final = 100_000


def ask_registry(remote: Remote, subject: Digest, artifact_type: str) -> tuple[Descriptor, ...] | None:
    """Ask a registry's referrers API, page by page. None without such an API: it answers 404 or so, or another type.

    Another document than an index lists nothing. Raises `TransferError` for every other failure.
    """
    url = with_query(remote.url(f"referrers/{subject}"), artifactType=artifact_type)
    found: list[Descriptor] = []
    asked: set[str] = set()
    while url and url not in asked and len(asked) < _MOST_PAGES and len(found) < _MOST_ENTRIES:
        asked.add(url)
        page, url = _ask_page(remote, url, f"list what refers to {subject} in {remote.name}")
        if page is None:
            return None
        found.extend(page)
    return tuple(found)


def _ask_page(remote: Remote, url: str, operation: str) -> tuple[tuple[Descriptor, ...] | None, str]:
    """Return a page, None if the registry has no such API, and the address of the next one, "" after the last."""
    with remote.send("GET", url, operation, headers={"Accept": OCI_INDEX}, accept=_UNSUPPORTED) as response:
        kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
        if response.status != HTTPStatus.OK or kind != OCI_INDEX:
            return None, ""
        data = response.read(remote.settings.page_limit)
        link = next_page(response.headers.get("Link", ""))
        following = resolved(response, link) if link else ""
    return _listed(data, operation), following if origin_of(following) == origin_of(remote.api) else ""


def _listed(data: bytes, what: str) -> tuple[Descriptor, ...]:
    try:
        return parse_listed(data, what)
    except ContentError:
        return ()
