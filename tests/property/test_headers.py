"""Link and Content-Range as anybody may write them: the list ends, the bytes are right, and nobody else is asked."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from hypothesis import example, given
from hypothesis import strategies as st

from oci_binpkg.errors import BinpkgError, ContentError
from oci_binpkg.model.content import OCI_INDEX, OCI_LAYER_GZIP, Blob
from oci_binpkg.model.reference import parse_repository
from oci_binpkg.store.registry.api import DEFAULTS, origin_of
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.times import Time
from oci_binpkg.transport.http import Request
from tests.support.examples import examples

HOST = "https://reg.example"
SETTINGS = replace(DEFAULTS, most_pages=5, held_back=0)


@dataclass
class Canned:
    """An answer; its headers are found in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    stream: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stream = io.BytesIO(self.body)

    def read(self, limit: int) -> bytes:
        if len(self.body) > limit:
            raise ContentError("too much")
        return self.body

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


@dataclass
class Client:
    """Answers every request by a function of it, and remembers them."""

    answer: Callable[[Request], Canned]
    asked: list[Request] = field(default_factory=list)

    def send(self, request: Request) -> Canned:
        self.asked.append(request)
        assert len(self.asked) < 100, "it does not end"
        return self.answer(request)


def store(client: Client) -> RegistryStore:
    return RegistryStore(
        client, parse_repository("reg.example/apps"), settings=SETTINGS, time=Time(clock=lambda: 0.0, sleep=lambda _: None, random=lambda: 0.5)
    )  # fmt: skip


addresses = st.sampled_from(
    ["/v2/apps/tags/list?last=b", "?n=2", "http://reg.example/x", "https://other.example/v2/", "//other.example", "//[", "file:///etc", "", "https://reg.example:99999/", "\\\\x"]
)  # fmt: skip
links = st.text(max_size=60) | st.builds(
    lambda begin, address, end, rest: f"{begin}{address}{end}{rest}",
    st.sampled_from(["<", "", "<<", ", <", "<x>;rel=prev, <"]),
    addresses | st.text(max_size=20),
    st.sampled_from([">", "", ">>"]),
    st.sampled_from(["; rel=next", ';rel="next"', ';rel="last"', "", ";;;rel", "; title=a; REL=Next, <"]),
)


@given(st.lists(links, min_size=1, max_size=8), st.lists(st.text("abc", max_size=2), max_size=4))
@example(["<//[>; rel=next"], ["a"])
def test_a_list_of_tags_ends_and_only_its_registry_is_asked(headers: list[str], tags: list[str]) -> None:
    def answer(request: Request) -> Canned:
        number = len(client.asked)
        names = [f"{tag}{number}" for tag in tags]
        link = headers[number % len(headers)]
        return Canned(200, {"Link": link}, json.dumps({"tags": names}).encode(), request.url)

    client = Client(answer)
    try:
        found = list(store(client).tags())
    except BinpkgError:
        found = []
    assert len(found) == len(set(found))
    assert {str(origin_of(request.url)) for request in client.asked} == {str(origin_of(HOST))}


@given(st.lists(links, min_size=1, max_size=8))
@example(["<//[>; rel=next"])
def test_a_list_of_referrers_ends_and_only_its_registry_is_asked(headers: list[str]) -> None:
    subject = Blob.from_bytes(b"it").descriptor

    def answer(request: Request) -> Canned:
        link = headers[len(client.asked) % len(headers)]
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
        return Canned(200, {"Content-Type": OCI_INDEX, "Link": link}, body, request.url)

    client = Client(answer)
    with contextlib.suppress(BinpkgError):
        store(client).referrers(subject.digest, "")
    assert {str(origin_of(request.url)) for request in client.asked} == {str(origin_of(HOST))}


CONTENT = bytes(range(251)) * 40
numbers = st.sampled_from([0, 1, 4000, 4001, len(CONTENT) - 1, len(CONTENT), 10**17]) | st.integers(-5, 20_000)
ranges = st.text(max_size=40) | st.builds(
    lambda unit, first, last, total: f"{unit}{first}-{last}/{total}",
    st.sampled_from(["bytes ", "bytes=", "Bytes ", "", "bytes  "]),
    numbers,
    numbers,
    numbers | st.just("*"),
)


@examples(200)
@given(ranges, st.sampled_from([200, 206, 416]), numbers, numbers, st.booleans())
@example("bytes 4000-10039/10040", 206, 4000, 10040, False)
@example("bytes 4000-10039/10040", 206, 0, 6040, False)
def test_what_comes_of_parts_is_the_content_or_an_error(
    header: str, status: int, first: int, last: int, many: bool
) -> None:
    """The first answer breaks off; what is said of the rest may be wrong, and so may the rest itself."""
    blob = Blob.from_bytes(CONTENT, OCI_LAYER_GZIP)
    part = CONTENT[max(0, first) : max(0, last)]

    def answer(request: Request) -> Canned:
        if "Range" not in request.headers:
            whole = len(client.asked) > 1
            body = CONTENT if whole else CONTENT[:4000]
            return Canned(200, {"Content-Length": str(len(CONTENT))}, body, request.url)
        kind = {"Content-Type": "multipart/byteranges; boundary=x"} if many else {}
        return Canned(status, {"Content-Range": header, **kind}, part, request.url)

    client = Client(answer)
    received = b""
    try:
        with store(client).open(blob.descriptor) as stream:
            while piece := stream.read(3000):
                received += piece
    except BinpkgError:
        assert CONTENT.startswith(received[:4000])
        assert received != CONTENT
    else:
        assert received == CONTENT
