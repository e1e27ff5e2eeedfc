"""Single habits of registries. Each function returns a function from the stage (what stands where) to rules."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.client
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from proxy.rules import Action, Answer, Asked, Rule, refusal
from proxy.tokens import Tokens

BLOB = r"/blobs/sha256:"
UPLOAD = r"/blobs/uploads/"
COMMIT = r"[?&]digest="
MANIFEST = r"/manifests/"
TAG = r"/manifests/(?!sha256:)"
TAGS = r"/tags/list"
_SESSION = "/uploads/"


@dataclass(slots=True)
class Stage:
    """What stands where while a profile is played.

    `wait`: the seconds that a Retry-After asks for, where the real registry asks for a minute. `page`: tags on a page,
    where the real one has 50 or more. `repositories`: those that exist, where they must be made by hand; None: all.
    `clock`, in seconds: by which what is signed ends.
    """

    upstream: str
    url: str = ""
    storage: str = ""
    tokens: Tokens | None = None
    wait: int = 60
    page: int = 50
    repositories: Collection[str] | None = None
    clock: Callable[[], float] = time.monotonic
    signed: dict[str, int] = field(default_factory=dict)

    def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any, bytes]:
        """Ask the server behind, past all rules."""
        parts = urlsplit(self.upstream)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=60)
        try:
            connection.request(method, parts.path + target, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


Quirk = Callable[[Stage], tuple[Rule, ...]]


def _fresh(make: Callable[..., Quirk]) -> Callable[..., Quirk]:
    """Let what a quirk remembers begin anew with each stage."""

    @functools.wraps(make)
    def later(*args: Any, **kwargs: Any) -> Quirk:
        def rules(stage: Stage) -> tuple[Rule, ...]:
            return make(*args, **kwargs)(stage)

        return rules

    return later


def rule(action: Action, method: str = "", path: str = "", **more: Any) -> Quirk:
    """Return one rule as it is."""
    return lambda _stage: (Rule(action, method, path, **more),)


def once(status: int, code: str, message: str, method: str, path: str, *, nth: int = 1, times: int = 1) -> Quirk:
    """Refuse, without asking the server behind, and behave the next time."""
    return rule(Action(answer=refusal(status, code, message)), method, path, nth=nth, times=times)


def always(status: int, code: str, message: str, method: str, path: str) -> Quirk:
    """Refuse whenever that is asked."""
    return once(status, code, message, method, path, times=0)


def when(test: Callable[[Asked], bool], answer: Answer, method: str = "", path: str = "") -> Quirk:
    """Give an answer to the requests that look so."""
    return rule(Action(answer=answer), method, path, when=test, times=0)


# ---- limits


@_fresh
def pull_quota(limit: int, window: int) -> Quirk:
    """Count GET of manifests and tell what is left; HEAD tells it too and counts for nothing."""
    used = [0]

    def count(asked: Asked, answer: Answer) -> Answer:
        used[0] += asked.method == "GET" and answer.status == 200
        left = max(0, limit - used[0])
        return answer.changed(
            {"ratelimit-limit": f"{limit};w={window}", "ratelimit-remaining": f"{left};w={window}"}
        )  # fmt: skip

    exhausted = refusal(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
    return lambda _stage: (
        Rule(Action(answer=lambda asked: exhausted if used[0] >= limit else None), "GET", MANIFEST, times=0),
        Rule(Action(edit=count), "GET|HEAD", MANIFEST, times=0),
    )


def busy_text(*, nth: int) -> Quirk:
    """Answer 429 in plain text, once with bare line feeds."""

    def rules(stage: Stage) -> tuple[Rule, ...]:
        headers = (("Content-Type", "text/plain"), ("Retry-After", str(stage.wait)))
        answer = Answer(429, headers, b"Too Many Requests (HAP429).\n")
        return (Rule(Action(answer=answer, first_line=b"HTTP/1.1 429 Too Many Requests\n", close=True), "GET|HEAD",
                     MANIFEST, nth=nth),)  # fmt: skip

    return rules


@_fresh
def storage_quota(limit: int) -> Quirk:
    """Take only so many bytes of blobs, and say when they are used up what was to be added to what."""
    used, begun = [0], dict[str, int]()

    def of(asked: Asked) -> int:
        return int(asked.headers.get("content-length", "0")) + begun.get(asked.path, 0)

    def begin(asked: Asked, answer: Answer) -> Answer:
        last = answer.header("Range").partition("-")[2]
        begun[asked.path] = int(last) + 1 if last.isdigit() else 0
        return answer

    def check(asked: Asked) -> Answer | None:
        size = of(asked)
        text = (
            f"adding {size} B of storage resource, which when updated to current usage of {used[0]} B will exceed the"
        )
        over = used[0] + size > limit
        return refusal(403, "DENIED", f"{text} configured upper limit of {limit} B.") if over else None

    def count(asked: Asked, answer: Answer) -> Answer:
        used[0] += of(asked) if answer.status == 201 else 0
        return answer

    return lambda _stage: (
        Rule(Action(edit=begin), "PATCH", UPLOAD, times=0),
        Rule(Action(answer=check, edit=count), "PUT", COMMIT, times=0),
    )


@_fresh
def crowded(times: int = 3) -> Quirk:
    """Fail with 500 when manifests are pushed side by side."""
    inside: set[int] = set()
    failed, lock = [0], threading.Lock()

    def enter(asked: Asked) -> Answer | None:
        with lock:
            inside.add(id(asked))
            fail = len(inside) > 1 and failed[0] < times
            failed[0] += fail
        time.sleep(0.05)
        return refusal(500, "UNKNOWN", "internal server error") if fail else None

    def leave(asked: Asked, answer: Answer) -> Answer:
        with lock:
            inside.discard(id(asked))
        return answer

    return rule(Action(answer=enter, edit=leave), "PUT", MANIFEST, times=0)


# ---- logins and cookies


def login_ends(method: str, path: str, *, nth: int) -> Quirk:
    """Let all tokens be over when the request, body and all, has arrived."""

    def rules(stage: Stage) -> tuple[Rule, ...]:
        tokens = stage.tokens
        assert tokens is not None
        return (Rule(Action(prepare=lambda _asked: tokens.forget()), method, path, nth=nth),)

    return rules


def session_cookie(name: str, code: str, message: str) -> Quirk:
    """Set a cookie, and refuse whoever sends it back."""

    def refuse(asked: Asked) -> bool:
        return "cookie" in asked.headers

    return lambda _stage: (
        Rule(Action(answer=refusal(403, code, message)), when=refuse, times=0),
        Rule(Action(more=(("Set-Cookie", f"{name}={secrets.token_hex(16)}; Path=/; HttpOnly"),)), times=0),
    )


# ---- reading


def blobs_elsewhere(*, head: int = 0, uses: int = 0, seconds: float = 300.0) -> Quirk:
    """Send readers of blobs to storage by a signed address, which takes no login and ends after `seconds`.

    `head`: the storage's answer to HEAD, because the signature is for GET. `uses`: how often an address may be used (0:
    as often as one likes).
    """

    def rules(stage: Stage) -> tuple[Rule, ...]:
        def redirect(asked: Asked) -> Answer | None:
            if stage.ask("HEAD", asked.path)[0] != 200:
                return None
            until = stage.clock() + seconds
            signature = secrets.token_hex(16)
            stage.signed[f"{signature} {until}"] = 0
            query = f"expires={until}&sig={signature}"
            return Answer(307, (("Location", f"{stage.storage}/storage{asked.path}?{query}"),))

        def guard(asked: Asked) -> Answer | None:
            until = asked.parameters.get("expires", ["0"])[0]
            signature = f"{asked.parameters.get('sig', [''])[0]} {until}"
            if "authorization" in asked.headers or "cookie" in asked.headers:
                return Answer(400, (), b"<Error><Code>InvalidAuthenticationInfo</Code></Error>")
            if asked.method == "HEAD" and head:
                return Answer(head)
            if signature not in stage.signed or 0 < uses <= stage.signed[signature]:
                return Answer(403, (), b"<Error><Code>AuthenticationFailed</Code></Error>")
            if float(until) <= stage.clock():
                return Answer(
                    403, (), b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
                )
            stage.signed[signature] += 1
            return None

        return (
            Rule(Action(answer=redirect), "GET|HEAD", BLOB, role="registry", times=0),
            Rule(Action(answer=guard, target=lambda asked: asked.path.removeprefix("/storage")), role="storage",
                 times=0),
        )  # fmt: skip

    return rules


def absent_is_denied(code: str, message: str) -> Quirk:
    """Say 403 where a manifest is not there."""

    def edit(_asked: Asked, answer: Answer) -> Answer:
        return refusal(403, code, message) if answer.status == 404 else answer

    return rule(Action(edit=edit), "GET|HEAD", MANIFEST, times=0)


def tag_pages(*, opaque: bool = False, bare_nth: int = 0) -> Quirk:
    """Give tags on small pages. `opaque`: the next one is known by a long word; link `bare_nth` is without <>."""

    def rules(stage: Stage) -> tuple[Rule, ...]:
        links = [0]

        def answer(asked: Asked) -> Answer | None:
            status, _, body = stage.ask("GET", asked.path)
            if status != 200:
                return None
            document = json.loads(body)
            word = asked.parameters.get("next_page", [""])[0]
            last = base64.urlsafe_b64decode(word).decode().strip() if word else asked.parameters.get("last", [""])[0]
            left = sorted(tag for tag in document["tags"] or () if tag > last)
            page = left[: min(stage.page, int(asked.parameters.get("n", [stage.page])[0]))]
            shown = Answer(200, (("Content-Type", "application/json"),), json.dumps(document | {"tags": page}).encode())
            if not page or page == left:
                return shown
            links[0] += 1
            word = base64.urlsafe_b64encode(page[-1].ljust(300).encode()).decode()
            url = f"{asked.path}?n={len(page)}&" + (f"next_page={quote(word)}" if opaque else f"last={quote(page[-1])}")
            return shown.with_headers(Link=f'{url}; rel="next"' if links[0] == bare_nth else f'<{url}>; rel="next"')

        return (Rule(Action(answer=answer), "GET", TAGS, times=0),)

    return rules


def no_tags_is_null() -> Quirk:
    """Write `null` for the tags of a repository that has none."""

    def body(data: bytes) -> bytes:
        try:
            document = json.loads(data)
        except ValueError:
            return data
        return json.dumps(document | {"tags": None}).encode() if document.get("tags") == [] else data

    return rule(Action(body=body), "GET", TAGS, times=0)


# ---- pushing manifests


def _document(asked: Asked) -> dict[str, Any]:
    try:
        document = json.loads(asked.body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def manifest_types(status: int, configs: Collection[str], layers: Collection[str] | None, *, artifacts: bool) -> Quirk:
    """Take manifests with listed types only, and only under the type that stands in them."""

    def check(asked: Asked) -> Answer | None:
        document = _document(asked)
        kind = document.get("config", {}).get("mediaType")
        others = [one["mediaType"] for one in document.get("layers", []) if layers and one["mediaType"] not in layers]
        if document.get("mediaType", asked.headers.get("content-type")) != asked.headers.get("content-type"):
            return refusal(400, "MANIFEST_INVALID", "mediaType in manifest does not match Content-Type")
        if kind is not None and kind not in configs:
            return refusal(status, "MANIFEST_INVALID", f"unknown media type: {kind}")
        if others:
            return refusal(status, "MANIFEST_INVALID", f"unknown media type: {others[0]}")
        if not artifacts and document.get("artifactType"):
            return refusal(status, "MANIFEST_INVALID", f"unknown media type: {document['artifactType']}")
        return None

    return rule(Action(answer=check), "PUT", MANIFEST, times=0)


def immutable(status: int, code: str, message: str, *, even_same: bool = False, but: str = "") -> Quirk:
    """Refuse to write a tag that is there. `but`: tags for which this is switched off, as a regular expression."""

    def rules(stage: Stage) -> tuple[Rule, ...]:
        def check(asked: Asked) -> Answer | None:
            tag = asked.path.rpartition("/")[2]
            if but and re.fullmatch(but, tag):
                return None
            found, headers, _ = stage.ask("HEAD", asked.path, {"Accept": asked.headers.get("content-type", "*/*")})
            same = headers.get("Docker-Content-Digest") == f"sha256:{hashlib.sha256(asked.body).hexdigest()}"
            refused = found == 200 and (even_same or not same)
            return refusal(status, code, message.format(tag=tag)) if refused else None

        return (Rule(Action(answer=check), "PUT", TAG, times=0),)

    return rules


def collects_garbage(*, nth: int, status: int = 0, code: str = "", ghost: bool = False) -> Quirk:
    """Lose a layer just before its manifest arrives. `ghost`: HEAD goes on to see it until it is sent again."""

    def rules(stage: Stage) -> tuple[Rule, ...]:
        lost: set[str] = set()

        def collect(asked: Asked) -> None:
            parts = _document(asked).get("layers")
            if not parts:
                return
            digest = parts[-1]["digest"]
            stage.ask("DELETE", f"/v2/{asked.repository}/blobs/{digest}")
            lost.add(digest)

        def reword(_asked: Asked, answer: Answer) -> Answer:
            if answer.status not in {400, 404} or not code:
                return answer
            return refusal(status, code, f"Manifest references unknown blob(s): {', '.join(sorted(lost))}")

        def see(asked: Asked) -> Answer | None:
            digest = asked.path.rpartition("/")[2]
            return Answer(200, (("Docker-Content-Digest", digest),)) if digest in lost else None

        def found(asked: Asked) -> None:
            lost.difference_update(asked.parameters.get("digest", []))

        made: tuple[Rule, ...] = (Rule(Action(prepare=collect, edit=reword), "PUT", MANIFEST, nth=nth),)
        if ghost:
            made += (
                Rule(Action(prepare=found), "PUT", COMMIT, times=0),
                Rule(Action(answer=see), "HEAD", BLOB, times=0),
            )
        return made

    return rules


# ---- pushing blobs


def made_by_hand() -> Quirk:
    """Know only the repositories that were created before."""

    def rules(stage: Stage) -> tuple[Rule, ...]:
        def check(asked: Asked) -> Answer | None:
            known = stage.repositories is None or not asked.repository or asked.repository in stage.repositories
            text = f"The repository with name '{asked.repository}' does not exist in the registry"
            return None if known else refusal(404, "NAME_UNKNOWN", text)

        return (Rule(Action(answer=check), times=0),)

    return rules


def mount_refused(test: Callable[[Asked], bool], status: int, code: str) -> Quirk:
    """Refuse the mounts that look so."""
    return when(lambda asked: "mount" in asked.parameters and test(asked), refusal(status, code), "POST", UPLOAD)


@_fresh
def mounts_on_head() -> Quirk:
    """Find a blob of any repository in every other one, and link it there by the mere question."""
    homes: dict[str, str] = {}

    def rules(stage: Stage) -> tuple[Rule, ...]:
        def look(asked: Asked) -> None:
            digest = asked.path.rpartition("/")[2]
            home = homes.get(digest)
            if home and home != asked.repository:
                stage.ask("POST", f"/v2/{asked.repository}/blobs/uploads/?mount={digest}&from={quote(home, safe='')}")

        def stored(asked: Asked, answer: Answer) -> Answer:
            if answer.status == 201:
                homes[asked.parameters["digest"][0]] = asked.repository
            return answer

        return (
            Rule(Action(edit=stored), "PUT", COMMIT, times=0),
            Rule(Action(prepare=look), "HEAD", BLOB, times=0),
        )

    return rules


def opaque_uploads(prefix: str, *, length: int = 1500) -> Quirk:
    """Give upload addresses that say nothing and are very long."""

    def edit(asked: Asked, answer: Answer) -> Answer:
        location = answer.header("Location")
        if _SESSION not in location or answer.status not in (202, 204):
            return answer
        parts = urlsplit(location)
        word = base64.urlsafe_b64encode(f"{parts.path}?{parts.query}".encode()).decode()
        filler = secrets.token_urlsafe(length)
        return answer.with_headers(Location=f"{asked.origin}{prefix}{word}?upload_id={filler}&force_redirect=")

    def target(asked: Asked) -> str:
        inner = base64.urlsafe_b64decode(asked.path.removeprefix(prefix)).decode()
        digest = parse_qs(asked.query).get("digest", [""])[0]
        return inner + (f"{'&' if '?' in inner else '?'}digest={digest}" if digest else "")

    return lambda _stage: (
        Rule(Action(edit=edit), "POST|PATCH|GET", times=0),
        Rule(Action(target=target), path=f"^{prefix}", times=0),
    )


def upload_location(change: Callable[[str], str]) -> Quirk:
    """Write the Location of an upload in another way."""

    def edit(asked: Asked, answer: Answer) -> Answer:
        location = answer.header("Location")
        return answer.with_headers(Location=change(location)) if _SESSION in location else answer

    return rule(Action(edit=edit), "POST|PATCH|GET", UPLOAD, times=0)


def usual_port_written_out() -> Quirk:
    """Give upload addresses with the port in them, also where it is the usual one of https."""

    def change(url: str) -> str:
        parts = urlsplit(url)
        usual = {"https": 443, "http": 80}.get(parts.scheme)
        return parts._replace(netloc=f"{parts.netloc}:{usual}").geturl() if usual and not parts.port else url

    return upload_location(change)


@_fresh
def patched_first() -> Quirk:
    """Know an upload session only once a PATCH was sent to it: a PUT with the whole body finds nothing."""
    patched: set[str] = set()

    def check(asked: Asked) -> Answer | None:
        session = asked.path.rpartition("/")[2]
        if asked.method == "PATCH":
            patched.add(session)
            return None
        new = session not in patched and asked.headers.get("content-length", "0") != "0"
        return Answer(404, (("Content-Type", "text/html"),), b"<html>404 Not Found</html>") if new else None

    return rule(Action(answer=check), "PATCH|PUT", UPLOAD, times=0)


def upload_range(text: str, method: str = "POST", status: int = 0) -> Quirk:
    """Say something of its own in the Range header of an upload's answers that are no refusals."""

    def edit(_asked: Asked, answer: Answer) -> Answer:
        if answer.status not in (201, 202, 204):
            return answer
        return answer.with_status(status or answer.status).with_headers(Range=text)

    return rule(Action(edit=edit), method, UPLOAD, times=0)


def patch_range_of_last_chunk() -> Quirk:
    """Describe the chunk that came last instead of all that is there."""

    def edit(asked: Asked, answer: Answer) -> Answer:
        sent = asked.headers.get("content-range", "")
        return answer.with_headers(Range=sent) if sent and answer.status == 202 else answer

    return rule(Action(edit=edit), "PATCH", UPLOAD, times=0)


def large_chunks_refused(limit: int) -> Quirk:
    """Refuse chunks above a size with a status that means something else."""

    def large(asked: Asked) -> bool:
        return "content-range" in asked.headers and int(asked.headers.get("content-length", "0")) > limit

    return when(large, refusal(416, "UNSUPPORTED", "request body is too large"), "PATCH", UPLOAD)


@_fresh
def one_stream() -> Quirk:
    """Take one PATCH without Content-Range for each upload."""
    seen: set[str] = set()

    def check(asked: Asked) -> Answer | None:
        if "content-range" in asked.headers:
            return None
        session = asked.path.rpartition("/")[2]
        known = session in seen
        seen.add(session)
        return (
            refusal(416, "BLOB_UPLOAD_INVALID", "Stream uploads after first write are not allowed") if known else None
        )

    return rule(Action(answer=check), "PATCH", UPLOAD, times=0)


@_fresh
def parts(least: int, most: int) -> Quirk:
    """Take chunks as parts of a size from `least` (but for the last) to `most`; one sent again is refused in words of
    its own.
    """
    ends: dict[str, int] = {}
    short: set[str] = set()

    def refused(text: str) -> Answer:
        return refusal(400, "BLOB_UPLOAD_INVALID", text)

    def check(asked: Asked) -> Answer | None:
        session = asked.path.rpartition("/")[2]
        first, _, last = asked.headers.get("content-range", "").partition("-")
        if not (first.isdigit() and last.isdigit()):
            return None
        end, size = ends.get(session, 0), int(last) + 1 - int(first)
        if int(first) != end:
            return refused(f"First byte of the layer part is {first} instead of {end}")
        if session in short:
            return refused(f"All layer parts except the last part should be at least {least} bytes")
        if size > most:
            return refused(f"The layer part exceeds the maximum size of {most} bytes")
        ends[session] = int(last) + 1
        short.update([session] if size < least else [])
        return None

    return rule(Action(answer=check), "PATCH", UPLOAD, times=0)
