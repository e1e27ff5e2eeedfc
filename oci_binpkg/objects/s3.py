"""Objects in a bucket: mirrors under `s3://`, through fsspec's s3fs (the extra `s3`)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, cast

from oci_binpkg.backoff import USUAL
from oci_binpkg.errors import (
    AuthError,
    BinpkgError,
    ContentError,
    DeniedError,
    Hint,
    NetworkError,
    NotFoundError,
    ServerError,
    Step,
    UsageError,
)
from oci_binpkg.model.content import Blob
from oci_binpkg.objects.protocol import MAX_DOCUMENT_BYTES, Object, checked_path, chunks
from oci_binpkg.transport.addresses import redact_url

_SLOW_BYTES: Final = 1024.0


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach S3. The usual configuration of the AWS tools stands for ""; `anonymous` sends no login.

    `connect_timeout` and `read_timeout` are in seconds, for each of the tries: one, and `retries` more. A
    body that broke off is asked for `body_retries` times more.
    """

    endpoint_url: str = ""
    profile: str = ""
    region: str = ""
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    anonymous: bool = False
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    retries: int = USUAL.retries
    body_retries: int = USUAL.body_retries
    ca_file: str = ""


def open_s3(location: str, settings: S3Settings | None = None) -> S3Objects:
    """Open `BUCKET[/PREFIX]`. Raises `UsageError` if s3fs is not installed, or for a location without a bucket."""
    settings = settings or S3Settings()
    bucket, _, prefix = location.removeprefix("s3://").strip("/").partition("/")
    if not bucket:
        raise UsageError(f"no bucket in {location[:200]!r}", hint="write s3://BUCKET/PREFIX")
    try:
        s3fs = importlib.import_module("s3fs")
    except ImportError:
        raise UsageError(
            f"s3://{bucket} needs the Python package s3fs, which is not installed",
            hint="pip install 'oci-binpkg[s3]'",
        ) from None
    session = importlib.import_module("aiobotocore.session").AioSession(profile=settings.profile or None)
    # there is no limit on the wait for a server's "go on"
    session.unregister("before-call.s3", importlib.import_module("botocore.handlers").add_expect_header)
    client = {"region_name": settings.region} if settings.region else {}
    if settings.ca_file:
        client["verify"] = settings.ca_file
    filesystem = s3fs.S3FileSystem(
        anon=settings.anonymous,
        endpoint_url=settings.endpoint_url or None,
        session=session,
        key=settings.key or None,
        secret=settings.secret or None,
        token=settings.token or None,
        client_kwargs=client,
        config_kwargs={
            "connect_timeout": settings.connect_timeout,
            "read_timeout": settings.read_timeout,
            "retries": {"mode": "standard", "total_max_attempts": settings.retries + 1},
            "http_session_cls": _without_redirects(),
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    # the client below retries requests; a body that broke off is asked for once more
    filesystem.retries = 1 + settings.body_retries
    return S3Objects(bucket, prefix, filesystem, endpoint=settings.endpoint_url, patience=settings.read_timeout)


def _without_redirects() -> type:
    """Return the client's HTTP session, but one that hands redirects back.

    Left to itself it follows them to any host, session token included. Those of S3 to another region are not lost: the
    client reads them and signs a new request.
    """
    base: Any = importlib.import_module("aiobotocore.httpsession").AIOHTTPSession

    class DirectSession(base):  # type: ignore[misc]
        async def _get_session(self, proxy_url: Any) -> Any:
            return _HandedBack(await super()._get_session(proxy_url))

    return DirectSession


@dataclass(frozen=True, slots=True)
class _HandedBack:
    """An aiohttp session that follows no redirects."""

    session: Any

    def request(self, *arguments: Any, **more: Any) -> Any:
        return self.session.request(*arguments, **{**more, "allow_redirects": False})


class S3Objects:
    """Objects below `prefix` in a bucket. `filesystem` is an `s3fs.S3FileSystem`, `endpoint` its URL, for messages.

    A document may take `patience` seconds, and one more for each KiB.

    An object becomes visible when its upload is complete; an upload that fails is aborted. Conditional writes are
    S3's own (`If-Match`, `If-None-Match`); a server that ignores these headers writes unconditionally.
    """

    def __init__(
        self, bucket: str, prefix: str, filesystem: Any, *, endpoint: str = "", patience: float = 60.0
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{checked_path(prefix)}/" if prefix else ""
        self._filesystem = filesystem
        self._patience = patience
        self._at = f" at {redact_url(endpoint)}" if endpoint else ""

    @property
    def name(self) -> str:
        """`s3://BUCKET/PREFIX`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, path: str, *, known_etag: str = "", limit: int = MAX_DOCUMENT_BYTES) -> Object | None:
        """Read an object whole; None if its version is `known_etag`."""
        condition = {"IfNoneMatch": known_etag} if known_etag else {}
        try:
            with self._mapped(f"read {path}"):
                answer = self._filesystem.call_s3("get_object", **self._address(path), **condition)
                body = self._body(answer, f"{self.name}/{path}", limit)
        except _UnchangedError:
            return None
        return Object(body, str(answer.get("ETag", "")))

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open an object; it is read ahead in blocks."""
        operation = f"read {path}"
        with self._mapped(operation):
            stream = self._filesystem.open(self._full(path), "rb", cache_type="readahead")
        with stream:
            yield cast("BinaryIO", _S3File(stream, self, operation))

    def size(self, path: str) -> int:
        """Return an object's size in bytes. Raises `NotFoundError`."""
        return self._look(path, f"look at {path}")[0]

    def write(self, path: str, content: Blob | bytes, *, if_match: str | None = None) -> bool:
        """Put an object in place; a large one in parts. Returns False if it is not the version `if_match`."""
        if if_match is None and isinstance(content, Blob):
            self._stream(path, content)
            return True
        data = content.read() if isinstance(content, Blob) else content
        condition = {} if if_match is None else ({"IfMatch": if_match} if if_match else {"IfNoneMatch": "*"})
        try:
            with self._mapped(f"write {path}"):
                self._filesystem.call_s3("put_object", **self._address(path), Body=data, **condition)
        except _ChangedError:
            return False
        except NotFoundError:
            if not if_match:
                raise
            return False  # the version that was to be replaced is gone
        return True

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the objects below a prefix, sorted."""
        base = f"{self._bucket}/{self._prefix}"
        start = base + (f"{prefix.strip('/')}/" if prefix.strip("/") else "")
        try:
            with self._mapped(f"list {prefix}"):
                found = self._filesystem.find(start.rstrip("/"))
        except NotFoundError:
            return iter(())
        return iter(sorted(key.removeprefix(base) for key in found if key.startswith(start)))

    def remove(self, path: str) -> None:
        """Remove an object. Raises `NotFoundError`."""
        self._look(path, f"remove {path}")
        with self._mapped(f"remove {path}"):
            self._filesystem.call_s3("delete_object", **self._address(path))

    def _body(self, answer: Any, what: str, limit: int) -> bytes:
        """Read the body of an answer, in the loop that s3fs runs."""
        if int(answer["ContentLength"]) > limit:
            answer["Body"].close()
            raise ContentError(f"{what} is larger than {limit} bytes")
        asyn = importlib.import_module("fsspec.asyn")
        seconds = self._patience + int(answer["ContentLength"]) / _SLOW_BYTES
        return bytes(asyn.sync(self._filesystem.loop, answer["Body"].read, timeout=seconds))

    def _stream(self, path: str, blob: Blob) -> None:
        with self._mapped(f"write {path}"):
            file = self._filesystem.open(self._full(path), "wb")
        try:
            for chunk in chunks(blob):
                with self._mapped(f"write {path}"):
                    file.write(chunk)
            with self._mapped(f"write {path}"):
                file.close()
        except BaseException:
            file.discard()
            # closing what was discarded would upload it after all
            file.closed = True
            raise

    def _look(self, path: str, operation: str) -> tuple[int, str]:
        with self._mapped(operation):
            answer = self._filesystem.call_s3("head_object", **self._address(path))
        return int(answer["ContentLength"]), str(answer.get("ETag", ""))

    def _address(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + checked_path(path)}

    def _full(self, path: str) -> str:
        return f"{self._bucket}/{self._prefix}{checked_path(path)}"

    @contextmanager
    def _mapped(self, operation: str) -> Iterator[None]:
        exceptions = importlib.import_module("botocore.exceptions")
        broken = importlib.import_module("aiohttp").ClientError
        try:
            yield
        except exceptions.NoCredentialsError:
            raise AuthError(
                f"{operation}: there is no login for {self.name}",
                hint=Hint(Step.SET_LOGIN),
            ) from None
        except (OSError, exceptions.BotoCoreError, exceptions.ClientError, broken) as error:
            raise self._explained(error, operation) from error

    def _explained(self, error: BaseException, operation: str) -> BinpkgError:
        """Return our error for one of s3fs, which wraps the client's and keeps it as its cause."""
        code = _code_of(error)
        if not code and isinstance(error, FileNotFoundError | PermissionError):
            code = "404" if isinstance(error, FileNotFoundError) else "403"
        message = f"{operation}: {self.name}{self._at}: "
        for codes, kind, hint in _ANSWERS:
            if code in codes:
                return kind(f"{message}answered {code}", hint=hint)
        if code:
            shaken = code.startswith("5") or code in _SERVER_SIDE
            hint = "the fault is on the server's side: try again later" if shaken else "check endpoint and bucket"
            return ServerError(f"{message}answered {code}", hint=hint)
        names = [type(each).__name__ for each in _causes(error)]
        for reason, kinds, hint in _FAILURES:
            if not kinds.isdisjoint(names):
                return NetworkError(f"{message}{reason} ({names[0]})", hint=hint)
        return NetworkError(f"{message}{names[0]}", hint="check the endpoint and the network")


class _ChangedError(ServerError):
    """The object is another than the one that was to be replaced."""


class _UnchangedError(ServerError):
    """The object is still the version that is known."""


_ANSWERS: Final[tuple[tuple[frozenset[str], type[BinpkgError], str], ...]] = (
    (frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}), _ChangedError, "try again"),
    (frozenset({"NotModified", "304"}), _UnchangedError, "something on the way answers what was not asked: avoid it"),
    (frozenset({"NoSuchKey", "404", "NotFound"}), NotFoundError, "check the name of the bucket and what follows it"),
    (frozenset({"NoSuchBucket"}), NotFoundError, "create the bucket, or check its name"),
    (
        frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "401"}),
        AuthError,
        "check `profile` and `access_key_id_variable` of the cache in the settings",
    ),
    (frozenset({"AccessDenied", "403", "AllAccessDisabled"}), DeniedError, "ask for permission on this bucket"),
)


@dataclass(frozen=True, slots=True)
class _S3File:
    """A file of s3fs whose failures are ours."""

    stream: Any
    objects: S3Objects
    operation: str

    def read(self, size: int = -1) -> bytes:
        """Read the next `size` bytes, all if negative."""
        with self.objects._mapped(self.operation):  # noqa: SLF001 - of the same module
            return bytes(self.stream.read(size))

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


_SERVER_SIDE: Final = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout"})
_LATER: Final = "try again later, or allow more time (`timeout` in the settings)"
# names rather than classes: those of three libraries, which are imported only where a bucket is used
_FAILURES: Final[tuple[tuple[str, frozenset[str], str], ...]] = (
    (
        "the host name does not exist",
        frozenset({"gaierror", "ClientConnectorDNSError"}),
        "check the spelling of the endpoint",
    ),
    (
        "no answer in time",
        frozenset({"ReadTimeoutError", "ConnectTimeoutError", "TimeoutError", "FSTimeoutError"}),
        _LATER,
    ),
    (
        "could not connect",
        frozenset({"EndpointConnectionError", "ConnectionRefusedError", "ClientConnectorError"}),
        "check the endpoint, and whether a proxy is needed",
    ),
    (
        "the connection was cut",
        frozenset({"ConnectionClosedError", "ClientPayloadError", "IncompleteReadError", "ServerDisconnectedError"}),
        "try again: the network or the server does not hold the connection",
    ),
    (
        "the answer is not that of S3",
        frozenset({"ResponseParserError"}),
        "check the endpoint: this may be another kind of server",
    ),
)


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    while error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__ or error
    return found


def _code_of(error: BaseException | None) -> str:
    """Return the code of S3's answer that an error, or what it was made from, carries; "" without an answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""
