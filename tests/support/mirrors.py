"""Mirrors for tests: a web server with versions over a directory, made-up packages, and a fresh cache of every kind."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from oci_binpkg.cache.mirror import MirrorCache
from oci_binpkg.cache.mirror_manifest import blob_path
from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.protocol import CacheEntry, WritableCache
from oci_binpkg.index.document import IndexDocument, index_of
from oci_binpkg.model.content import Digest, Platform
from oci_binpkg.model.image import Layer, PackageLayer, PackageSpec, compose
from oci_binpkg.model.reference import PackageKey
from oci_binpkg.model.spec_document import parse_spec_document
from oci_binpkg.objects.directory import FileObjects
from oci_binpkg.objects.fsspec import FsspecObjects, open_fsspec
from oci_binpkg.objects.s3 import S3Objects, S3Settings, open_s3
from oci_binpkg.objects.web import HttpObjects
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.times import Time
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.golden import GOLDEN
from tests.support.memory_store import MemoryStore
from tests.support.stores import layer_of


def package_hash(name: str, version: str = "1.0") -> str:
    """The hash of a made-up package: always the same, and of the form that Spack's have."""
    digits = hashlib.sha256(f"{name}@{version}".encode()).hexdigest()
    return re.sub("[0189]", "x", digits)[:32]


def made_up(name: str, version: str = "1.0", *, needs: tuple[str, ...] = (), text: str = "") -> CacheEntry:
    """A package with a layer of its own. What it `needs` are packages of version 1.0 without needs."""
    names = [(name, version, needs), *((each, "1.0", ()) for each in needs)]
    nodes = [_node(*each) for each in names]
    document = parse_spec_document({"spec": {"_meta": {"version": 5}, "nodes": nodes}}, "made up")
    layer = layer_of({f"opt/{name}-{version}/text": (text or name).encode()})
    key = PackageKey.of(document.root)
    spec = PackageSpec({"_meta": {"version": 5}, "nodes": nodes}, name)
    image = compose([PackageLayer(name, version, key.hash, layer)], Platform("linux", "amd64"), spec=spec)
    return CacheEntry(key, document, layer, image)


def _node(name: str, version: str, needs: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64"},
        "dependencies": [
            {"name": each, "hash": package_hash(each), "parameters": {"deptypes": ["link"], "virtuals": []}}
            for each in needs
        ],
        "hash": package_hash(name, version),
    }


def index_for(*entries: CacheEntry) -> IndexDocument:
    """The index over these packages."""
    return index_of((entry.document.root, entry.document.graph) for entry in entries)


def golden_manifests(mirror: str) -> dict[str, bytes]:
    """The package manifests of a golden mirror: path -> bytes."""
    root = GOLDEN / mirror
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.glob("v3/manifests/spec/*/*")}


def golden_records(mirror: str, path: str) -> list[dict[str, Any]]:
    """What a golden manifest names, signed or not."""
    text = (GOLDEN / mirror / path).read_text()
    records: list[dict[str, Any]] = json.loads(text[text.index("{") : text.rindex("}") + 1])["data"]
    return records


@dataclass
class MirrorServer:
    """A web server over a directory, which answers `If-None-Match` and `Range`.

    `log` has method, path and status of every request. `cuts` are bodies to break off: path -> after how many bytes,
    one for each request. `headers` are sent with every answer. `versions` and `ranges` switch ETag and Range off; `on_cut` is called after each cut.
    """

    directory: Path
    log: list[tuple[str, str, int]] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    versions: bool = True
    ranges: bool = True
    lengths: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    on_cut: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def objects(self, folder: str = "") -> Iterator[HttpObjects]:
        """Objects over a client that does not wait."""
        waits: list[float] = []
        with RegistryHttpClient(
            self.url, time=Time(clock=lambda: sum(waits), sleep=waits.append, random=lambda: 0.5, now=lambda: 0.0)
        ) as client:
            yield HttpObjects(f"{self.url}/{folder}", client)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        mirror, path = self.server.mirror, self.path.lstrip("/")
        file = mirror.directory / path
        if not file.is_file():
            self._answer(404, path, b"", {})
            return
        data = file.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"ETag": etag} if mirror.versions else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if mirror.versions and self.headers.get("If-None-Match") == etag:
            self._answer(304, path, b"", headers)
        elif wanted and mirror.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._answer(206, path, data[start:], headers)
        else:
            self._answer(200, path, data, headers)

    def _answer(self, status: int, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        mirror = self.server.mirror
        mirror.log.append((self.command, path, status))
        self.send_response_only(status)
        sized = {"Content-Length": str(len(body))} if mirror.lengths else {"Connection": "close"}
        for name, value in (sized | dict(headers) | mirror.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD" or status == 304:
            return
        cut = mirror.cuts[path].pop(0) if mirror.cuts.get(path) else len(body)
        self.wfile.write(body[:cut])
        if cut < len(body):
            mirror.on_cut()
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, mirror: MirrorServer) -> None:
        self.mirror = mirror
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients hang up on purpose here."""


@cache
def s3_server() -> str:
    """The address of an S3 server that ends with this process; starting one takes half a second.

    From then on all clients share what they read of the service's description, which takes longer than their requests.
    """
    import botocore.session
    from botocore.loaders import create_loader
    from moto.server import ThreadedMotoServer

    setattr(botocore.session, "create_loader", cache(create_loader))  # noqa: B010 - its stubs do not know the name

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def s3_objects(prefix: str = "some/where") -> S3Objects:
    """Objects in a fresh bucket."""
    bucket = f"mirror-{uuid.uuid4().hex}"
    settings = S3Settings(endpoint_url=s3_server(), region="us-east-1", key="key", secret="secret")
    objects = open_s3(f"s3://{bucket}/{prefix}", settings)
    objects._filesystem.call_s3("create_bucket", Bucket=bucket)
    return objects


class Split:
    """One cache to write to and another to read from."""

    def __init__(self, written: MirrorCache, read: MirrorCache) -> None:
        self.name, self.verifies, self.proves_listing = read.name, read.verifies, read.proves_listing
        self.images, self.has_views, self.upload_growing = None, read.has_views, None
        self.hashes, self.find, self.entry = read.hashes, read.find, read.entry
        self.read_index, self.is_local = read.read_index, read.is_local
        self.blobs, self.holds, self.parts = read.blobs, read.holds, read.parts
        self.upload, self.publish, self.merge_index = written.upload, written.publish, written.merge_index
        self.batch, self.remove, self.mend = written.batch, written.remove, written.mend
        self.index_signature = read.index_signature


@dataclass(frozen=True)
class CacheCase:
    """A fresh cache and what can be asked of it.

    `again()` opens another one on the same place. `damage(digest, data)` puts other bytes in a blob's place. `lists`:
    packages are listed without an index. `removes`: they can be removed.
    """

    cache: WritableCache
    again: Callable[[], WritableCache]
    damage: Callable[[Digest, bytes], None]
    lists: bool = True
    removes: bool = True


CacheFactory = Callable[[Path], AbstractContextManager[CacheCase]]


def patient(_round: int) -> None:
    """Do not wait for other writers."""


@contextmanager
def memory_cache(path: Path) -> Iterator[CacheCase]:
    store = MemoryStore(f"memory:{path.name}")
    cache = OciCache(store, pause=patient)
    yield CacheCase(cache, lambda: cache, store._content.__setitem__, removes=False)


@contextmanager
def layout_cache(path: Path) -> Iterator[CacheCase]:
    directory = path / "layout"

    def again() -> OciCache:
        return OciCache(LayoutStore(str(directory)), pause=patient)

    def damage(digest: Digest, data: bytes) -> None:
        (directory / "blobs" / digest.algorithm / digest.hex).write_bytes(data)

    yield CacheCase(again(), again, damage, removes=False)


def file_mirror(directory: Path, *, pause: Callable[[int], None] = patient, **options: Any) -> MirrorCache:
    return MirrorCache(FileObjects(str(directory)), pause=pause, **options)


def damage_in(directory: Path) -> Callable[[Digest, bytes], None]:
    def damage(digest: Digest, data: bytes) -> None:
        (directory / blob_path(digest)).write_bytes(data)

    return damage


@contextmanager
def file_cache(path: Path) -> Iterator[CacheCase]:
    directory = path / "mirror"
    yield CacheCase(file_mirror(directory), lambda: file_mirror(directory), damage_in(directory))


@contextmanager
def http_cache(path: Path) -> Iterator[CacheCase]:
    directory = path / "mirror"
    with MirrorServer(directory) as server, server.objects() as objects:

        def again() -> Split:
            return Split(file_mirror(directory), MirrorCache(objects, pause=patient))

        yield CacheCase(again(), again, damage_in(directory), lists=False)


@contextmanager
def s3_cache(path: Path) -> Iterator[CacheCase]:
    objects = s3_objects()

    def again() -> MirrorCache:
        return MirrorCache(objects, pause=patient)

    def damage(digest: Digest, data: bytes) -> None:
        objects.write(blob_path(digest), data)

    yield CacheCase(again(), again, damage)


@contextmanager
def fsspec_cache(path: Path) -> Iterator[CacheCase]:
    """In fsspec's memory."""
    objects = open_fsspec(f"memory://{uuid.uuid4().hex}/apps")

    def again() -> MirrorCache:
        return MirrorCache(objects, pause=patient)

    def damage(digest: Digest, data: bytes) -> None:
        objects.write(blob_path(digest), data)

    yield CacheCase(again(), again, damage)


@contextmanager
def fsspec_directory_cache(path: Path) -> Iterator[CacheCase]:
    """In a directory, as fsspec sees it."""
    from fsspec.implementations.local import LocalFileSystem

    directory = path / "mirror"
    objects = FsspecObjects(f"local://{directory}", lambda: (LocalFileSystem(), str(directory)))

    def again() -> MirrorCache:
        return MirrorCache(objects, pause=patient)

    yield CacheCase(again(), again, damage_in(directory))


# a kind of cache joins the contract by adding its factory here
CACHE_FACTORIES: dict[str, CacheFactory] = {
    "oci memory": memory_cache,
    "oci layout": layout_cache,
    "mirror file": file_cache,
    "mirror http": http_cache,
    "mirror s3": s3_cache,
    "mirror fsspec": fsspec_cache,
    "mirror fsspec directory": fsspec_directory_cache,
}


def layer_bytes(layer: Layer) -> bytes:
    """The bytes of a layer, as they come."""
    with layer.blob.open() as stream:
        return stream.read()
