"""Mirrors that are down, slow, empty, read-only or lying: one directory behind each kind of address."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from oci_binpkg.objects.s3 import S3Objects, S3Settings, open_s3
from tests.support.fake_registry import Repo
from tests.support.golden import GOLDEN
from tests.support.mirrors import MirrorServer, s3_server
from tests.support.scripted_server import Answer, ScriptedServer

KINDS = ("file", "http", "s3")
SPEC = "v3/manifests/spec/greetcfg/greetcfg-0.9-*.spec.manifest.json"
INDEX = "v3/manifests/index/index.manifest.json"


def configure(home: Path, text: str) -> None:
    """Write our configuration file."""
    file = home / ".config" / "oci-binpkg" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def bucket_cache(home: Path, endpoint: str, bucket: str = "apps") -> str:
    """Configure the cache `lab` in a bucket, and return its name."""
    configure(home, f'[caches.lab]\nurl = "s3://{bucket}"\nendpoint_url = "{endpoint}"\n')
    return "lab"


def golden_copy(path: Path) -> Path:
    """A copy of the unsigned golden mirror."""
    return Path(shutil.copytree(GOLDEN / "v3-unsigned", path))


@contextmanager
def published(kind: str, directory: Path, home: Path) -> Iterator[tuple[str, str]]:
    """Put the files of a directory behind an address; yield what is typed and what messages call it."""
    if kind == "file":
        yield f"file://{directory}", f"file://{directory}"
    elif kind == "http":
        with MirrorServer(directory) as server:
            yield server.url, server.url
    else:
        bucket = f"apps-{uuid.uuid4().hex}"
        objects = S3Objects(bucket, "", _filesystem())
        objects._filesystem.call_s3("create_bucket", Bucket=bucket)
        for file in directory.rglob("*"):
            if file.is_file():
                objects.write(file.relative_to(directory).as_posix(), file.read_bytes())
        yield bucket_cache(home, s3_server(), bucket), f"s3://{bucket}"


@cache
def _filesystem() -> Any:
    """One client for all buckets: making one takes a third of a second."""
    settings = S3Settings(endpoint_url=s3_server(), region="us-east-1", key="key", secret="secret")
    return open_s3("s3://any", settings)._filesystem


def nobody() -> str:
    """`127.0.0.1:PORT` where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


# ---- lies: each changes the files of a mirror


def one(directory: Path, pattern: str) -> Path:
    """The one file of that pattern."""
    (found,) = directory.glob(pattern)
    return found


def records(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text())["data"]
    return found


def blob_of(directory: Path, manifest: Path, media_type: str) -> Path:
    """The blob of that type that a manifest names."""
    (digest,) = [record["checksum"] for record in records(manifest) if media_type in record["mediaType"]]
    return directory / "blobs" / "sha256" / digest[:2] / digest


def change_record(file: Path, media_type: str, **members: object) -> None:
    """Change what a manifest says of a blob."""
    document = json.loads(file.read_text())
    for record in document["data"]:
        if media_type in record["mediaType"]:
            record.update(members)
    file.write_text(json.dumps(document))


def flip(file: Path) -> None:
    """Change the last byte of a file."""
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


HTML = b"<!DOCTYPE html><html><body>Please log in to the network</body></html>"


def layer_blob(directory: Path) -> Path:
    return blob_of(directory, one(directory, SPEC), "install")


def spec_blob(directory: Path) -> Path:
    return blob_of(directory, one(directory, SPEC), "spec")


def index_blob(directory: Path) -> Path:
    return blob_of(directory, directory / INDEX, "db")


def restated(file: Path, media_type: str, directory: Path, data: bytes) -> None:
    """Put a blob of other content in place, and let the manifest name it rightly."""
    digest = hashlib.sha256(data).hexdigest()
    blob = directory / "blobs" / "sha256" / digest[:2] / digest
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(data)
    change_record(file, media_type, checksum=digest, contentLength=len(data))


def another_package(directory: Path) -> None:
    shutil.copyfile(one(directory, "v3/manifests/spec/greetlib/greetlib-1.3.0-*"), one(directory, SPEC))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


LIES: dict[str, Callable[[Path], object]] = {
    "layer of another content": lambda root: flip(layer_blob(root)),
    "layer cut": lambda root: cut(layer_blob(root)),
    "layer missing": lambda root: layer_blob(root).unlink(),
    "layer of another size": lambda root: change_record(one(root, SPEC), "install", contentLength=7),
    "layer that is no gzip": lambda root: restated(one(root, SPEC), "install", root, b"not gzip at all"),
    "spec of another content": lambda root: flip(spec_blob(root)),
    "spec missing": lambda root: spec_blob(root).unlink(),
    "spec that is no gzip": lambda root: restated(one(root, SPEC), "spec", root, b"not gzip at all"),
    "manifest of another package": another_package,
    "manifest cut": lambda root: cut(one(root, SPEC)),
    "manifest is HTML": lambda root: one(root, SPEC).write_bytes(HTML),
    "index of another content": lambda root: flip(index_blob(root)),
    "index missing": lambda root: index_blob(root).unlink(),
    "index manifest cut": lambda root: cut(root / INDEX),
    "index manifest is HTML": lambda root: (root / INDEX).write_bytes(HTML),
    "index is HTML": lambda root: restated(root / INDEX, "db", root, HTML),
    "index cut": lambda root: restated(root / INDEX, "db", root, index_blob(root).read_bytes()[:-20]),
}


# ---- servers that answer everything alike

AccessDenied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

ANSWERS: dict[str, Answer] = {
    "never answers": Answer(silent=True),
    "drips": Answer(200, b"{" + b" " * 40, drip=0.05),
    "hangs up": Answer(reset=True),
    "a web page": Answer(200, HTML, {"Content-Type": "text/html"}),
    "cut JSON": Answer(200, b'{"version": 3, "data": [', {"Content-Type": "application/json"}),
    "an unasked 304": Answer(304),
    "401": Answer(401),
    "403": Answer(403),
    "405": Answer(405),
    "500": Answer(500),
    "compressed unasked": Answer(200, gzip.compress(b"{}", mtime=0), {"Content-Encoding": "gzip"}),
    "a length too long": Answer(200, b'{"version": 3', {"Content-Length": "400"}, close=True, cut_after=13),
    "a length too short": Answer(
        200, b'{"version": 3, "data": []}', {"Content-Length": "13"}, close=True, cut_after=13
    ),
}


def s3_that_refuses_writes(server: ScriptedServer) -> None:
    """An empty bucket that may be read."""
    listing = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated></ListBucketResult>'
    for method in ("GET", "HEAD"):
        server.on(method, "/apps", Answer(200, listing))
        server.on(method, "*", Answer(404, b"<Error><Code>NoSuchKey</Code></Error>"))
    server.on("PUT", "*", Answer(403, AccessDenied))
    server.on("POST", "*", Answer(403, AccessDenied))


# ---- registries that lie


def _manifest(repo: Repo, package: str) -> tuple[str, dict[str, Any]]:
    (tag,) = [tag for tag in repo.tags if tag.startswith(package)]
    return tag, json.loads(repo.manifests[repo.tags[tag]][1])


def _layer(repo: Repo) -> str:
    return str(_manifest(repo, "app-")[1]["layers"][-1]["digest"])


def _config(repo: Repo) -> str:
    return str(_manifest(repo, "app-")[1]["config"]["digest"])


def _index(repo: Repo) -> str:
    return str(_manifest(repo, "index.spack")[1]["layers"][0]["digest"])


def _changed(repo: Repo, digest: str) -> None:
    repo.blobs[digest] = repo.blobs[digest][:-1] + bytes([repo.blobs[digest][-1] ^ 1])


def _retag(repo: Repo, package: str, other: str) -> None:
    repo.tags[_manifest(repo, package)[0]] = repo.tags[_manifest(repo, other)[0]]


def _cut_manifest(repo: Repo, package: str) -> None:
    tag, _ = _manifest(repo, package)
    kind, data = repo.manifests[repo.tags[tag]]
    repo.manifests[repo.tags[tag]] = (kind, data[:-20])


REGISTRY_LIES: dict[str, Callable[[Repo], object]] = {
    "layer of another content": lambda repo: _changed(repo, _layer(repo)),
    "layer cut": lambda repo: repo.blobs.update({_layer(repo): repo.blobs[_layer(repo)][:-20]}),
    "layer missing": lambda repo: repo.blobs.pop(_layer(repo)),
    "configuration of another content": lambda repo: _changed(repo, _config(repo)),
    "configuration missing": lambda repo: repo.blobs.pop(_config(repo)),
    "manifest of another package": lambda repo: _retag(repo, "app-", "zlib-"),
    "manifest cut": lambda repo: _cut_manifest(repo, "app-"),
    "index of another content": lambda repo: _changed(repo, _index(repo)),
    "index missing": lambda repo: repo.blobs.pop(_index(repo)),
    "index manifest cut": lambda repo: _cut_manifest(repo, "index.spack"),
    "index is a package": lambda repo: _retag(repo, "index.spack", "zlib-"),
}
