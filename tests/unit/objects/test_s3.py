"""Objects in a bucket, against an S3 server in this process."""

from __future__ import annotations

import builtins
import importlib
import io

import pytest

from oci_binpkg.errors import (
    AuthError,
    ContentError,
    DeniedError,
    NetworkError,
    NotFoundError,
    ServerError,
    UsageError,
)
from oci_binpkg.model.content import Blob
from oci_binpkg.objects.protocol import exists
from oci_binpkg.objects.s3 import S3Objects, S3Settings, open_s3
from tests.support.mirrors import s3_objects, s3_server

LARGE = bytes(range(256)) * 50_000


@pytest.fixture
def objects() -> S3Objects:
    return s3_objects()


def test_gives_back_what_was_written(objects: S3Objects) -> None:
    assert objects.name.endswith("/some/where")
    assert objects.write("a/b", b"some bytes") is True
    found = objects.read("a/b")
    assert found is not None
    assert found.data == b"some bytes"
    assert objects.read("a/b", known_etag=found.etag) is None
    objects.write("a/b", b"others")
    assert objects.read("a/b", known_etag=found.etag).data == b"others"
    with pytest.raises(ContentError, match="larger than 5 bytes"):
        objects.read("a/b", limit=5)


def test_streams_a_large_blob(objects: S3Objects) -> None:
    blob = Blob.from_bytes(LARGE)
    objects.write("large", blob)
    assert exists(objects, "large", size=len(LARGE))
    with objects.open("large") as stream:
        assert stream.read(10) == LARGE[:10]
        assert stream.read() == LARGE[10:]


def test_an_upload_that_breaks_off_leaves_nothing(objects: S3Objects) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 8_000_000:
                raise ContentError("bad")
            return super().read(size)

    with pytest.raises(ContentError, match="bad"):
        objects.write("large", Blob(Blob.from_bytes(LARGE).descriptor, lambda: Broken(LARGE)))
    assert not exists(objects, "large")
    assert list(objects.list("")) == []


def test_what_is_absent_is_not_found(objects: S3Objects) -> None:
    for act in (objects.read, objects.size, objects.remove):
        with pytest.raises(NotFoundError):
            act("absent")
    with pytest.raises(NotFoundError), objects.open("absent") as stream:
        stream.read()
    assert list(objects.list("absent")) == []


def test_writes_only_over_the_version_that_is_named(objects: S3Objects) -> None:
    assert objects.write("a", b"one", if_match="") is True
    assert objects.write("a", Blob.from_bytes(b"two"), if_match="") is False
    found = objects.read("a")
    assert found is not None
    assert objects.write("a", b"two", if_match=found.etag) is True
    assert objects.write("a", b"three", if_match=found.etag) is False
    assert objects.write("b", b"x", if_match=found.etag) is False
    assert objects.read("a").data == b"two"


def test_lists_and_removes(objects: S3Objects) -> None:
    for path in ("v3/b/2", "v3/a/1", "v3x"):
        objects.write(path, b"x")
    assert list(objects.list("v3")) == ["v3/a/1", "v3/b/2"]
    objects.remove("v3/a/1")
    assert list(objects.list("")) == ["v3/b/2", "v3x"]


def test_a_bucket_can_be_a_mirror_by_itself() -> None:
    objects = s3_objects(prefix="")
    objects.write("a", b"x")
    assert list(objects.list("")) == ["a"]
    assert objects.name.count("/") == 2


def test_a_bucket_that_is_not_there_is_named() -> None:
    objects = open_s3("absent-bucket", S3Settings(endpoint_url=s3_server(), region="us-east-1", key="k", secret="s"))
    with pytest.raises(NotFoundError, match="NoSuchBucket") as caught:
        objects.write("a", b"x")
    assert "create the bucket" in caught.value.hint


def test_a_server_that_is_not_there_is_a_network_error(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = open_s3("bucket", S3Settings(endpoint_url="http://127.0.0.1:9", region="us-east-1", key="k", secret="s"))
    objects._filesystem.retries = 1
    exceptions = importlib.import_module("botocore.exceptions")

    def unreachable(*args, **kwargs):
        raise exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9")

    monkeypatch.setattr(objects._filesystem, "call_s3", unreachable)
    with pytest.raises(NetworkError, match="EndpointConnectionError"):
        objects.read("a")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDenied", DeniedError),
        ("InvalidAccessKeyId", AuthError),
        ("SlowDown", ServerError),
        ("NoSuchKey", NotFoundError),
    ],
)
def test_answers_of_the_server_have_their_errors(
    objects: S3Objects, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception]
) -> None:
    exceptions = importlib.import_module("botocore.exceptions")

    def refused(*args, **kwargs):
        cause = exceptions.ClientError({"Error": {"Code": code, "Message": "no"}}, "HeadObject")
        raise OSError(5, "no") from cause

    monkeypatch.setattr(objects._filesystem, "call_s3", refused)
    with pytest.raises(kind, match=code):
        objects.size("a")


def test_denied_without_an_answer_is_denied(objects: S3Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args, **kwargs):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(objects._filesystem, "call_s3", refused)
    with pytest.raises(DeniedError):
        objects.size("a")


def test_no_login_is_an_error_that_says_what_to_do(objects: S3Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = importlib.import_module("botocore.exceptions")

    def nobody(*args, **kwargs):
        raise exceptions.NoCredentialsError

    monkeypatch.setattr(objects._filesystem, "call_s3", nobody)
    with pytest.raises(AuthError, match="no login"):
        objects.read("a")


def test_a_location_needs_a_bucket() -> None:
    with pytest.raises(UsageError, match="no bucket"):
        open_s3("s3://")


def test_without_s3fs_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, package: str | None = None) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UsageError, match="s3fs") as caught:
        open_s3("s3://bucket")
    assert "pip install 'oci-binpkg[s3]'" in caught.value.hint


def test_secrets_are_not_shown() -> None:
    assert "hidden" not in builtins.repr(S3Settings(key="hidden", secret="hidden", token="hidden"))
