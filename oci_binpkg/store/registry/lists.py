"""The lists of a registry, page by page: its tags, and what refers to a manifest.

The next page is where the `Link` header of an answer says (RFC 8288). Source: OCI distribution-spec 1.1 (listing tags,
listing referrers).
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from oci_binpkg.errors import ContentError, ServerError, UsageError
from oci_binpkg.model.content import OCI_INDEX, Descriptor, Digest
from oci_binpkg.model.documents import all_text, list_of, parse_json
from oci_binpkg.model.manifest import parse_listed
from oci_binpkg.model.reference import check_tag
from oci_binpkg.store.registry.api import Remote, origin_of, resolved, with_query
from oci_binpkg.transport.http import Response


def list_tags(remote: Remote) -> Iterator[str]:
    """Iterate over all tags, each once, page by page. An absent repository has none.

    Follows `Link` on the registry itself only; after a full page without one, or with one to another host, asks for
    what comes after the last tag. Ends at a page without news. Raises `ServerError` above the limits of the settings.
    """
    settings = remote.settings
    seen: set[str] = set()
    asked: set[str] = set()
    size = settings.page_size
    url = with_query(remote.url("tags/list"), n=str(size)) if size else remote.url("tags/list")
    while url and url not in asked:
        asked.add(url)
        with remote.send("GET", url, f"list the tags of {remote.name}", accept=frozenset({400, 404})) as response:
            if response.status == HTTPStatus.BAD_REQUEST and size and len(asked) == 1:
                url, size = remote.url("tags/list"), 0  # some registries refuse a page size they find too large
                continue
            page = _page(remote, response)
            following = _next(remote, response, page, size)
        fresh = [tag for tag in dict.fromkeys(page) if tag not in seen]
        seen.update(fresh)
        yield from (tag for tag in fresh if _is_tag(remote, tag))
        if len(asked) > settings.most_pages or len(seen) > settings.most_tags:
            raise ServerError(f"{remote.name}: the list of tags does not end ({len(seen)} tags in {len(asked)} pages)")
        url = following if fresh else ""


def _page(remote: Remote, response: Response) -> tuple[str, ...]:
    if response.status == HTTPStatus.NOT_FOUND:
        return ()
    what = f"tag list of {remote.name}"
    if response.status != HTTPStatus.OK:
        raise ServerError(f"{what}: the registry answers {response.status}")
    document = parse_json(response.read(remote.settings.page_limit), what, fold_case=False)
    return all_text(list_of(document, "tags", what, optional=True), what)  # null for a repository without tags


def _next(remote: Remote, response: Response, page: tuple[str, ...], size: int) -> str:
    """Return the address of the next page, "" if this is the last one."""
    if link := next_page(response.headers.get("Link", "")):
        url = resolved(response, link)
        if origin_of(url) == origin_of(remote.api):
            return url
        remote.warn(f"{remote.name}: the link to the next page of tags leads to another host; it is asked for here")
        return _after(remote, page, size)
    return _after(remote, page, size) if size and len(page) >= size else ""


def _after(remote: Remote, page: tuple[str, ...], size: int) -> str:
    return with_query(remote.url("tags/list"), n=str(size or len(page)), last=page[-1]) if page else ""


def _is_tag(remote: Remote, tag: str) -> bool:
    try:
        check_tag(tag)
    except UsageError:
        remote.warn(f"{remote.name}: an invalid tag is ignored: {tag[:140]!r}")
        return False
    return True


MAX_LINK: Final = 16 * 1024
"""Characters of the header that are looked at: an address and its parameters take a few hundred."""
_CLOSED_BY: Final = {"<": ">", '"': '"'}


def next_page(header: str) -> str:
    """Return the target of the first link to the next page, "" without one. Never raises.

    A link without parameters counts as one, and the target may stand without `<>`: some registries write it so.
    """
    for target, *parameters in _links(header[:MAX_LINK]):
        plain = target.strip()
        plain = plain[1:-1] if plain.startswith("<") and plain.endswith(">") else plain
        if plain and not any(mark in plain for mark in "<> \t") and (not any(parameters) or _is_next(parameters)):
            return plain
    return ""


def _is_next(parameters: list[str]) -> bool:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "rel" and "next" in value.strip().strip('"').lower().split():
            return True
    return False


def _links(text: str) -> Iterator[list[str]]:
    """Yield each link as its target and its parameters. What stands in `<>` or in quotes is not cut."""
    parts, start, closing, escaped = list[str](), 0, "", False
    for at, character in enumerate(text):
        if escaped:
            escaped = False
        elif closing:
            escaped = character == "\\" and closing == '"'
            closing = "" if character == closing else closing
        elif character in _CLOSED_BY:
            closing = _CLOSED_BY[character]
        elif character in ",;":
            parts.append(text[start:at])
            start = at + 1
            if character == ",":
                yield parts
                parts = []
    yield [*parts, text[start:]]


_UNSUPPORTED: Final = frozenset({400, 404, 405, 406, 501})
_MOST_PAGES: Final = 100
_MOST_ENTRIES: Final = 100_000


def ask_registry(remote: Remote, subject: Digest, artifact_type: str) -> tuple[Descriptor, ...] | None:
    """Ask a registry's referrers API, page by page. None without such an API: it answers 404 or so, or another type.

    The type "" stands for all.

    Another document than an index lists nothing. Raises `TransferError` for every other failure.
    """
    url = remote.url(f"referrers/{subject}")
    if artifact_type:
        url = with_query(url, artifactType=artifact_type)
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
