"""The pages of a registry's tag list."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

from oci_binpkg.errors import ServerError, UsageError
from oci_binpkg.model.documents import all_text, list_of, parse_json
from oci_binpkg.model.reference import check_tag
from oci_binpkg.store.registry.api import Remote, origin_of, resolved, with_query
from oci_binpkg.transport.http import Response
from oci_binpkg.transport.links import next_page


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
