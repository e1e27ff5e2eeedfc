"""A registry in this process: the whole distribution API in memory, on a real socket, with faults by script.

    with FakeRegistry() as registry:
        repository = parse_repository(f"{registry.host}/apps", scheme="http")
        registry.fault("PUT", r"/blobs/uploads/", nth=1, after=RESET)      # stored, but the answer is lost
        ...
        assert [x.method for x in registry.log] == ["HEAD", "POST", "PUT", "HEAD"]

- Content: `registry.repos[name]` has `blobs` {digest: bytes}, `manifests` {digest: (media type, bytes)}, `tags` {tag:
  digest}; read and change them at will (`collect` plays the garbage collector). `registry.add_blob`, `add_manifest`.
- Log: `registry.log`, one `Exchange` per request in order of arrival, also for the token endpoint and the CDN (`server`).
- Faults: `registry.fault(...)` adds a rule, see `fake_wire.Fault`. The first rule that matches and still fires wins.
- Quirks: attributes of `Profile`, given to the constructor or set later on `registry.profile`.
- Login: `auth=Basic(...)` or `auth=Bearer(...)`; tokens die by `registry.expire_tokens()` or after `Bearer.uses` requests.
- Nothing sleeps, nothing reads a clock.
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
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, quote

from tests.support.fake_wire import CLOSE, RESET, Answer, Exchange, Fault, Server

__all__ = ["CLOSE", "RESET", "Answer", "Basic", "Bearer", "Exchange", "FakeRegistry", "Fault", "Profile", "Repo"]

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
    password: str = "secret"


@dataclass(frozen=True, slots=True)
class Bearer:
    """Every request needs a token of the endpoint /token, which gives pull to anyone and all to this user.

    `uses`: after so many requests a token is refused (0: never). `expires_in` is only what the endpoint says, None leaves it
    out. `refresh_token` is accepted, and given out, by POST.
    """

    user: str = "user"
    password: str = "secret"
    uses: int = 0
    expires_in: int | None = 300
    anonymous_pull: bool = False
    refresh_token: str = "refresh-token"
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
class _Token:
    scopes: frozenset[tuple[str, str]]
    uses: int = 0


class FakeRegistry:
    """The registry; a context manager that serves while it is entered."""

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
        self.tokens: dict[str, _Token] = {}
        self._faults: list[Fault] = []
        self._serial = 0
        self._signatures: set[str] = set()
        self._lock = threading.RLock()
        self._scheme = "https" if tls else "http"
        self._servers = [Server(self, "registry", tls), Server(self, "cdn", tls)]

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

    # ---- script

    def fault(self, method: str, path: str, **what: Any) -> Fault:
        """Add a fault and return it; its `fired` tells later how often it struck."""
        fault = Fault(method, path, **what)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget faults and log; content stays."""
        with self._lock:
            self._faults.clear()
            self.log.clear()

    def requests(self, method: str = ".*", path: str = "") -> list[Exchange]:
        """Return the logged requests that match."""
        return [x for x in list(self.log) if re.fullmatch(method, x.method) and re.search(path, x.target)]

    def expire_tokens(self) -> None:
        """Make every token given out so far invalid."""
        with self._lock:
            self.tokens.clear()

    # ---- content

    def repo(self, name: str) -> Repo:
        """Return a repository, made if need be."""
        with self._lock:
            return self.repos.setdefault(name, Repo())

    def add_blob(self, name: str, data: bytes) -> str:
        """Put a blob in place; return its digest."""
        digest = _sha256(data)
        self.repo(name).blobs[digest] = data
        return digest

    def add_manifest(self, name: str, media_type: str, data: bytes, *tags: str) -> str:
        """Put a manifest in place, and tags on it; return its digest."""
        digest = _sha256(data)
        repo = self.repo(name)
        repo.manifests[digest] = (media_type, data)
        repo.tags.update(dict.fromkeys(tags, digest))
        return digest

    def collect(self, name: str, digest: str) -> None:
        """Lose a blob or manifest, as garbage collection does."""
        self.repo(name).blobs.pop(digest, None)
        self.repo(name).manifests.pop(digest, None)

    # ---- one request

    def begin(self, exchange: Exchange) -> Fault | None:
        """Log a request and return the fault that strikes it, before its body is read."""
        with self._lock:
            self.log.append(exchange)
            return next((fault for fault in self._faults if fault.matches(exchange)), None)

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
        self.tokens[token] = _Token(frozenset(scopes))
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


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _digest_like(reference: str, data: bytes) -> str:
    """Return the digest of `data` by the algorithm of `reference` (sha256 for a tag)."""
    algorithm = "sha512" if reference.startswith("sha512:") else "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
