"""A registry for tests: the distribution API in memory, in this process, on a real socket. No server is needed.

    from oci_binpkg import Client
    from oci_binpkg.testing import FakeRegistry

    with FakeRegistry() as registry:
        Client().push(f"oci+http://{registry.host}/apps", "/opt/spack/opt", ["greet"])
        assert "greet-2.0-..." in registry.tags("apps")

`FakeRegistry` with its `host`, `url`, `repositories`, `tags`, `expire_tokens`, and its arguments `auth` (`Basic`,
`Bearer`) and `profile` (`Profile`) are public. Everything is kept in memory, and nothing reads a clock.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Final, Protocol, Self
from urllib.parse import parse_qs, quote, urlsplit

__all__ = ["Basic", "Bearer", "FakeRegistry", "Profile"]

_NAME: Final = r"[a-z0-9._/-]+"
_ROUTES: Final = (
    ("uploads", re.compile(rf"/v2/({_NAME})/blobs/uploads/")),
    ("session", re.compile(rf"/v2/({_NAME})/blobs/uploads/([0-9a-z-]+)")),
    ("blob", re.compile(rf"/v2/({_NAME})/blobs/([a-z0-9]+:[0-9a-f]+)")),
    ("manifest", re.compile(rf"/v2/({_NAME})/manifests/([^/]+)")),
    ("tags", re.compile(rf"/v2/({_NAME})/tags/list")),
    ("referrers", re.compile(rf"/v2/({_NAME})/referrers/([a-z0-9]+:[0-9a-f]+)")),
    ("ping", re.compile(r"/v2/?()")),
)


@dataclass(slots=True)
class Profile:
    """How this registry differs from a plain one."""

    delete_enabled: bool = True
    delete_tags: bool = True
    """False: DELETE of a tag answers 400, of a digest works (distribution)."""
    mount_enabled: bool = True
    ranges: bool = True
    create_on_push: bool = True
    """False: a push to a repository that is not in `repos` answers 404 NAME_UNKNOWN (ECR)."""
    check_references: bool = True
    immutable_tags: bool = False
    digest_header: bool = True
    chunk_min_length: str = ""
    page_size: int = 0
    """Most tags on one page; 0: as many as are asked for."""
    link: str = '<{url}>; rel="next"'
    """Form of the Link header; {url} is path and query, {host} this server. "" sends none."""
    cdn: bool = False
    """Redirect blob reads to another port with a signed address."""
    cdn_single_use: bool = False
    session_location: str = "/v2/{name}/blobs/uploads/{id}?_state=a%2Fb+c&empty="


@dataclass(frozen=True, slots=True)
class Basic:
    """Every request needs this user and password."""

    user: str = "user"
    password: str = "secret"  # noqa: S105 - of a registry for tests


@dataclass(frozen=True, slots=True)
class Bearer:
    """Every request needs a token of the endpoint /token, which gives pull to anyone and all to this user.

    `uses`: after so many requests a token is refused (0: never). `expires_in` is only what the endpoint says, None
    leaves it out. `refresh_token` is accepted, and given out, by POST.
    """

    user: str = "user"
    password: str = "secret"  # noqa: S105 - of a registry for tests
    uses: int = 0
    expires_in: int | None = 300
    anonymous_pull: bool = False
    refresh_token: str = "refresh-token"  # noqa: S105 - likewise
    key: str = "token"
    """`token` or `access_token`: the member that holds the token."""


@dataclass(slots=True)
class Repo:
    """The content of one repository."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Session:
    name: str
    data: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _GivenToken:
    scopes: frozenset[tuple[str, str]]
    uses: int = 0


@dataclass(slots=True)
class Answer:
    """A response. `headers` may repeat a name; Content-Length is added unless it stands there or the body has none."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    @classmethod
    def json(cls, status: int, document: object, *headers: tuple[str, str]) -> Answer:
        """Answer with a JSON document."""
        return cls(status, [("Content-Type", "application/json"), *headers], json.dumps(document).encode())

    @classmethod
    def error(
        cls, status: int, code: str, message: str = "", *headers: tuple[str, str], detail: object = None
    ) -> Answer:
        """Answer with the specification's error document."""
        entry: dict[str, Any] = {"code": code, "message": message or code.lower().replace("_", " ")}
        if detail is not None:
            entry["detail"] = detail
        return cls.json(status, {"errors": [entry]}, *headers)


@dataclass(slots=True)
class Exchange:
    """One request as it arrived and the status it got: 0 if the connection was cut instead."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """Names in lower case."""
    server: str = "registry"
    """`registry` or `cdn`."""
    body: bytes = field(default=b"", repr=False)
    length: int = 0
    """Body bytes that were received (fewer than announced if the connection was cut on purpose)."""
    sha256: str = ""
    status: int = 0

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def argument(self, name: str) -> str:
        """Return one member of the query, decoded, "" if it is absent."""
        return parse_qs(self.query, keep_blank_values=True).get(name, [""])[0]


class Backend(Protocol):
    """What a server serves."""

    def begin(self, exchange: Exchange) -> Any:
        """Log a request before its body is read."""
        ...

    def respond(self, exchange: Exchange) -> Answer:
        """Do the work of a request."""
        ...


class Server(ThreadingHTTPServer):
    """One socket of the registry; each connection has a thread of its own."""

    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def __init__(self, registry: Backend, role: str, tls: ssl.SSLContext | None, handler: type[Handler]) -> None:
        self.registry = registry
        self.role = role
        self._started = False
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), handler)
        if tls is not None:
            # the handshake belongs to the connection's own thread, not to the one that accepts
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def start(self) -> None:
        """Serve, once."""
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()

    def stop(self) -> None:
        """End serving and free the port."""
        if self._started:
            self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients hang up on purpose here."""


class Handler(BaseHTTPRequestHandler):
    """Serves the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Keep quiet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.serve
        raise AttributeError(name)

    def serve(self) -> None:
        """Serve one request."""
        exchange = self.arrived()
        self.server.registry.begin(exchange)
        self.receive(exchange)
        answer = self.server.registry.respond(exchange)
        exchange.status = answer.status
        self.answer(answer)

    def arrived(self) -> Exchange:
        """Return the request, its body not read yet."""
        parts = urlsplit(self.path)
        headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        return Exchange(self.command, parts.path, parts.query, headers, self.server.role)

    def receive(self, exchange: Exchange, limit: int = -1) -> None:
        """Read the body, or so many bytes of it."""
        announced = exchange.headers.get("content-length", "0")
        if exchange.headers.get("transfer-encoding", "").lower() == "chunked":
            exchange.body = self._chunked()
        else:
            exchange.body = self.rfile.read(int(announced) if limit < 0 else min(limit, int(announced)))
        exchange.length = len(exchange.body)
        exchange.sha256 = hashlib.sha256(exchange.body).hexdigest()

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, answer: Answer, *, cut: int = -1, sized: bool = True) -> None:
        """Send an answer; its body up to `cut` bytes, and without its length if it is not `sized`."""
        names = {name.lower() for name, _ in answer.headers}
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if "content-length" not in names and sized and answer.status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(answer.body)))
        if not sized or cut >= 0:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD" and answer.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.wfile.write(answer.body if cut < 0 else answer.body[:cut])
        self.wfile.flush()


class FakeRegistry:
    """The registry; a context manager that serves while it is entered.

    `repos` holds the content by repository, `log` one `Exchange` for each request in order of arrival.
    """

    handler: ClassVar[type[Handler]] = Handler

    def __init__(
        self,
        *,
        auth: Basic | Bearer | None = None,
        profile: Profile | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.auth = auth
        self.profile = profile or Profile()
        self.repos: dict[str, Repo] = {}
        self.sessions: dict[str, _Session] = {}
        self.log: list[Exchange] = []
        self.tokens: dict[str, _GivenToken] = {}
        self._serial = 0
        self._signatures: set[str] = set()
        self._lock = threading.RLock()
        self._scheme = "https" if tls else "http"
        self._servers = [Server(self, role, tls, self.handler) for role in ("registry", "cdn")]

    # ---- life

    def __enter__(self) -> Self:
        self._servers[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.stop()

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._servers[0].server_port}"

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"{self._scheme}://{self.host}"

    @property
    def cdn_host(self) -> str:
        """Where blob reads are redirected to with `Profile.cdn`. Serves from when it is first asked for."""
        self._servers[1].start()
        return f"127.0.0.1:{self._servers[1].server_port}"

    # ---- content

    @property
    def repositories(self) -> list[str]:
        """The names of the repositories, in order."""
        with self._lock:
            return sorted(self.repos)

    def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository, in order; none if there is no such repository."""
        with self._lock:
            return sorted(self.repos[repository].tags) if repository in self.repos else []

    def expire_tokens(self) -> None:
        """Make every token given out so far invalid."""
        with self._lock:
            self.tokens.clear()

    def repo(self, name: str) -> Repo:
        """Return a repository, made if need be."""
        with self._lock:
            return self.repos.setdefault(name, Repo())

    # ---- one request

    def begin(self, exchange: Exchange) -> Any:
        """Log a request before its body is read."""
        with self._lock:
            self.log.append(exchange)

    def respond(self, exchange: Exchange) -> Answer:
        """Do the work of a request."""
        with self._lock:
            if exchange.server == "cdn":
                return self._cdn(exchange)
            if exchange.path == "/token":
                return self._token(exchange)
            for kind, pattern in _ROUTES:
                match = pattern.fullmatch(exchange.path)
                if match:
                    return self._refused(exchange, match[1]) or getattr(self, f"_{kind}")(exchange, *match.groups())
            return Answer.error(404, "NOT_FOUND")

    # ---- login

    def _refused(self, exchange: Exchange, name: str) -> Answer | None:
        if self.auth is None:
            return None
        given = exchange.headers.get("authorization", "")
        if isinstance(self.auth, Basic):
            if given == _basic(self.auth.user, self.auth.password):
                return None
            return Answer.error(401, "UNAUTHORIZED", "", ("WWW-Authenticate", 'Basic realm="fake"'))
        action = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(exchange.method, "push")
        if action == "delete" and "/blobs/uploads/" in exchange.path:
            action = "push"
        token = self.tokens.get(given.removeprefix("Bearer ")) if given.startswith("Bearer ") else None
        if token is not None:
            token.uses += 1
            fresh = not self.auth.uses or token.uses <= self.auth.uses
            if fresh and (not name or (name, action) in token.scopes):
                return None
        scope = f',scope="repository:{name}:{"pull" if action == "pull" else f"pull,{action}"}"' if name else ""
        challenge = f'Bearer realm="{self.url}/token",service="fake"{scope}'
        if token is not None and (name, action) not in token.scopes:
            challenge += ',error="insufficient_scope"'
        return Answer.error(401, "UNAUTHORIZED", "", ("WWW-Authenticate", challenge))

    def _token(self, exchange: Exchange) -> Answer:
        auth = self.auth
        if not isinstance(auth, Bearer):
            return Answer.error(404, "NOT_FOUND")
        known = exchange.headers.get("authorization", "") == _basic(auth.user, auth.password)
        arguments = parse_qs(exchange.query)
        if exchange.method == "POST":
            arguments = parse_qs(exchange.body.decode())
            known = arguments.get("refresh_token") == [auth.refresh_token] or (
                arguments.get("username"),
                arguments.get("password"),
            ) == ([auth.user], [auth.password])
        if not known and ("authorization" in exchange.headers or exchange.method == "POST"):
            return Answer.error(401, "UNAUTHORIZED")
        allowed = {"pull", "push", "delete"} if known else {"pull"} if auth.anonymous_pull else set()
        wanted = [part.split(":", 2) for scope in arguments.get("scope", []) for part in scope.split()]
        scopes = {(name, action) for _, name, actions in wanted for action in actions.split(",") if action in allowed}
        self._serial += 1
        token = f"token-{self._serial}"
        self.tokens[token] = _GivenToken(frozenset(scopes))
        document: dict[str, Any] = {auth.key: token}
        if auth.expires_in is not None:
            document["expires_in"] = auth.expires_in
        return Answer.json(200, document)

    # ---- blobs

    def _ping(self, _exchange: Exchange, _name: str) -> Answer:
        return Answer.json(200, {}, ("Docker-Distribution-API-Version", "registry/2.0"))

    def _blob(self, exchange: Exchange, name: str, digest: str) -> Answer:
        repo = self.repos.get(name, Repo())
        if exchange.method == "DELETE":
            if not self.profile.delete_enabled:
                return Answer.error(405, "UNSUPPORTED")
            return Answer(202) if repo.blobs.pop(digest, None) is not None else Answer.error(404, "BLOB_UNKNOWN")
        data = repo.blobs.get(digest)
        if data is None:
            return Answer.error(404, "BLOB_UNKNOWN" if name in self.repos else "NAME_UNKNOWN")
        if self.profile.cdn:
            self._serial += 1
            signature = f"sig-{self._serial}"
            self._signatures.add(signature)
            target = f"{self._scheme}://{self.cdn_host}/cdn/{name}/{digest}?X-Signature={signature}"
            return Answer(307, [("Location", target)])
        return self._content(exchange, digest, data)

    def _content(self, exchange: Exchange, digest: str, data: bytes) -> Answer:
        headers = [("Content-Type", "application/octet-stream"), ("Accept-Ranges", "bytes")]
        if self.profile.digest_header:
            headers.append(("Docker-Content-Digest", digest))
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", exchange.headers.get("range", ""))
        if match is None or not self.profile.ranges:
            return Answer(200, headers, data)
        first = int(match[1])
        last = min(int(match[2] or len(data) - 1), len(data) - 1)
        if first > last:
            return Answer(416, [("Content-Range", f"bytes */{len(data)}")])
        return Answer(206, [*headers, ("Content-Range", f"bytes {first}-{last}/{len(data)}")], data[first : last + 1])

    def _cdn(self, exchange: Exchange) -> Answer:
        match = re.fullmatch(rf"/cdn/({_NAME})/([a-z0-9]+:[0-9a-f]+)", exchange.path)
        signature = exchange.argument("X-Signature")
        if match is None or signature not in self._signatures:
            return Answer(403, [("Content-Type", "application/xml")], b"<Error><Code>AccessDenied</Code></Error>")
        if self.profile.cdn_single_use:
            self._signatures.discard(signature)
        data = self.repos.get(match[1], Repo()).blobs.get(match[2])
        return Answer(404) if data is None else self._content(exchange, match[2], data)

    def _uploads(self, exchange: Exchange, name: str) -> Answer:
        if exchange.method != "POST":
            return Answer.error(405, "UNSUPPORTED")
        if name not in self.repos and not self.profile.create_on_push:
            return Answer.error(404, "NAME_UNKNOWN", "repository name not known to registry")
        repo = self.repo(name)
        mount, source = exchange.argument("mount"), exchange.argument("from")
        if mount and self.profile.mount_enabled:
            data = self.repos.get(source, Repo()).blobs.get(mount)
            if data is not None:
                repo.blobs[mount] = data
                return Answer(201, [("Location", f"/v2/{name}/blobs/{mount}"), ("Docker-Content-Digest", mount)])
        self._serial += 1
        identity = f"session-{self._serial}"
        self.sessions[identity] = _Session(name)
        headers = [("Location", self._location(name, identity)), ("Range", "0-0")]
        if self.profile.chunk_min_length:
            headers.append(("OCI-Chunk-Min-Length", self.profile.chunk_min_length))
        return Answer(202, headers)

    def _location(self, name: str, identity: str) -> str:
        return self.profile.session_location.format(name=name, id=identity)

    def _session(self, exchange: Exchange, name: str, identity: str) -> Answer:
        session = self.sessions.get(identity)
        if session is None or session.name != name:
            return Answer.error(404, "BLOB_UPLOAD_UNKNOWN")
        location = ("Location", self._location(name, identity))
        if exchange.method == "DELETE":
            del self.sessions[identity]
            return Answer(204)
        if exchange.method == "GET":
            return Answer(204, [location, ("Range", f"0-{max(0, len(session.data) - 1)}")])
        if exchange.method == "PATCH":
            return self._append(exchange, session, location)
        if exchange.method == "PUT":
            return self._commit(exchange, session, identity)
        return Answer.error(405, "UNSUPPORTED")

    def _append(self, exchange: Exchange, session: _Session, location: tuple[str, str]) -> Answer:
        match = re.fullmatch(r"([0-9]+)-([0-9]+)", exchange.headers.get("content-range", ""))
        if match and (int(match[1]) != len(session.data) or int(match[2]) - int(match[1]) + 1 != exchange.length):
            return Answer(416, [location, ("Range", f"0-{max(0, len(session.data) - 1)}")])
        session.data += exchange.body
        return Answer(202, [location, ("Range", f"0-{len(session.data) - 1}")])

    def _commit(self, exchange: Exchange, session: _Session, identity: str) -> Answer:
        digest = exchange.argument("digest")
        data = bytes(session.data) + exchange.body
        del self.sessions[identity]
        if digest != _digest_like(digest, data):
            return Answer.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.repo(session.name).blobs[digest] = data
        headers = [("Location", f"/v2/{session.name}/blobs/{digest}")]
        if self.profile.digest_header:
            headers.append(("Docker-Content-Digest", digest))
        return Answer(201, headers)

    # ---- manifests and tags

    def _manifest(self, exchange: Exchange, name: str, reference: str) -> Answer:
        if exchange.method == "PUT":
            return self._put_manifest(exchange, name, reference)
        repo = self.repos.get(name)
        if repo is None:
            return Answer.error(404, "NAME_UNKNOWN")
        digest = reference if ":" in reference else repo.tags.get(reference, "")
        if digest not in repo.manifests:
            return Answer.error(404, "MANIFEST_UNKNOWN")
        if exchange.method == "DELETE":
            return self._delete_manifest(repo, reference)
        media_type, data = repo.manifests[digest]
        headers = [("Content-Type", media_type)]
        if self.profile.digest_header:
            headers.append(("Docker-Content-Digest", digest))
        return Answer(200, headers, data)

    def _delete_manifest(self, repo: Repo, reference: str) -> Answer:
        if not self.profile.delete_enabled:
            return Answer.error(405, "UNSUPPORTED")
        if ":" not in reference:
            if not self.profile.delete_tags:
                return Answer.error(400, "UNSUPPORTED")
            del repo.tags[reference]
            return Answer(202)
        del repo.manifests[reference]
        for tag in [tag for tag, digest in repo.tags.items() if digest == reference]:
            del repo.tags[tag]
        return Answer(202)

    def _put_manifest(self, exchange: Exchange, name: str, reference: str) -> Answer:
        if name not in self.repos and not self.profile.create_on_push:
            return Answer.error(404, "NAME_UNKNOWN", "repository name not known to registry")
        repo = self.repo(name)
        digest = _digest_like(reference, exchange.body)
        if ":" in reference and reference != digest:
            return Answer.error(400, "DIGEST_INVALID")
        document = json.loads(exchange.body)
        if document.get("mediaType", exchange.headers.get("content-type")) != exchange.headers.get("content-type"):
            return Answer.error(400, "MANIFEST_INVALID", "mediaType differs from Content-Type")
        missing = self._missing(repo, document) if self.profile.check_references else []
        if missing:
            return Answer.error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", detail={"digest": missing[0]})
        if ":" not in reference:
            if self.profile.immutable_tags and reference in repo.tags:
                return Answer.error(400, "TAG_INVALID", "the tag is immutable and already exists")
            repo.tags[reference] = digest
        repo.manifests[digest] = (exchange.headers["content-type"], exchange.body)
        headers = [("Location", f"/v2/{name}/manifests/{digest}")]
        if self.profile.digest_header:
            headers.append(("Docker-Content-Digest", digest))
        return Answer(201, headers)

    def _missing(self, repo: Repo, document: Mapping[str, Any]) -> list[str]:
        parts = [part["digest"] for part in (document.get("config"), *document.get("layers", ())) if part]
        children = [child["digest"] for child in document.get("manifests", ())]
        return [d for d in parts if d not in repo.blobs] + [d for d in children if d not in repo.manifests]

    def _tags(self, exchange: Exchange, name: str) -> Answer:
        repo = self.repos.get(name)
        if repo is None:
            return Answer.error(404, "NAME_UNKNOWN")
        last = exchange.argument("last")
        tags = [tag for tag in sorted(repo.tags) if tag > last]
        asked = int(exchange.argument("n") or len(tags))
        size = min(asked, self.profile.page_size or asked)
        headers = []
        if size < len(tags) and self.profile.link:
            url = f"/v2/{name}/tags/list?n={asked}&last={quote(tags[size - 1]) if size else ''}"
            headers.append(("Link", self.profile.link.format(url=url, host=self.host)))
        return Answer.json(200, {"name": name, "tags": tags[:size] or None}, *headers)

    def _referrers(self, _exchange: Exchange, name: str, digest: str) -> Answer:
        found = []
        for own, (media_type, data) in self.repos.get(name, Repo()).manifests.items():
            document = json.loads(data)
            if document.get("subject", {}).get("digest") == digest:
                entry = {"mediaType": media_type, "digest": own, "size": len(data)}
                found.append(entry | {key: document[key] for key in ("annotations",) if key in document})
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": found}
        answer = Answer.json(200, index)
        answer.headers = [("Content-Type", "application/vnd.oci.image.index.v1+json")]
        return answer


def sha256(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _digest_like(reference: str, data: bytes) -> str:
    """Return the digest of `data` by the algorithm of `reference` (sha256 for a tag)."""
    algorithm = "sha512" if reference.startswith("sha512:") else "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
