"""What the proxy does to whom: rules as values. A rule is a match and an action; all that match are obeyed together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs

Pairs = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Asked:
    """One request as it came. `target` is path and query byte for byte; names of `headers` are in lower case.

    `body` is kept only where it is short (manifests, forms); of longer ones only length and digest are known.
    """

    role: str
    method: str
    target: str
    headers: Mapping[str, str]
    origin: str = ""
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def parameters(self) -> dict[str, list[str]]:
        return parse_qs(self.query, keep_blank_values=True)

    @property
    def repository(self) -> str:
        found = re.match(r"/v2/(.+)/(?:blobs|manifests|tags|referrers)/", self.path)
        return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the proxy's own, or one of the server's on its way: then `body` is None until somebody sets it."""

    status: int = 200
    headers: Pairs = ()
    body: bytes | None = b""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def with_headers(self, **values: str | None) -> Answer:
        """Set headers (`_` in a name stands for `-`); None removes one."""
        return self.changed({name.replace("_", "-"): value for name, value in values.items()})

    def changed(self, values: Mapping[str, str | None]) -> Answer:
        """Set headers, or remove those whose value is None."""
        gone = {name.lower() for name in values}
        kept = tuple((name, value) for name, value in self.headers if name.lower() not in gone)
        new = tuple((name, value) for name, value in values.items() if value is not None)
        return Answer(self.status, kept + new, self.body)

    def with_status(self, status: int) -> Answer:
        return Answer(status, self.headers, self.body)

    def with_body(self, body: bytes) -> Answer:
        """Replace the body; its length follows."""
        return Answer(self.status, self.headers, body).changed({"Content-Length": None})


def refusal(status: int, code: str, message: str = "", headers: Pairs = (), detail: object = None) -> Answer:
    """Return an error in the form of the distribution specification."""
    error = {"code": code, "message": message or code.lower().replace("_", " "), "detail": detail}
    body = json.dumps({"errors": [error]}).encode()
    return Answer(status, (("Content-Type", "application/json"), *headers), body)


Reply = Callable[[Asked], Answer | None]
Edit = Callable[[Asked, Answer], Answer]


@dataclass(frozen=True, slots=True)
class Action:
    """What happens to a request that a rule strikes. Seconds and bytes; -1 is never.

    Before the request goes on:
    `delay` waits. `read_only` reads so many bytes of the request's body and no more, then answers or hangs up without
    asking the server. `prepare` does something first, such as deleting a blob behind the client's back. `answer` is
    given instead of asking the server; a function may return None to let the request pass. `target` changes path and
    query for the server. `forward=False` with neither: the request is swallowed.

    After the server answered (in this order):
    `status`, `edit`, `body` and `headers` (None removes) change the answer; `more` adds headers, also repeated ones.
    `silent` keeps the connection and says nothing. `drop` hangs up without a word. `sized=False` sends no
    Content-Length. `first_line` replaces the status line, bytes and line end as given. `drip` waits so long before
    each byte of the body. `cut_after` hangs up after so many bytes of it, or with `stall` says no more. `close` closes the
    connection afterwards.

    `reset` hangs up by a TCP reset instead of an orderly close.
    """

    delay: float = 0.0
    read_only: int = -1
    prepare: Callable[[Asked], None] | None = None
    answer: Answer | Reply | None = None
    target: Callable[[Asked], str] | None = None
    forward: bool = True
    drop: bool = False
    silent: bool = False
    status: int = 0
    headers: Mapping[str, str | None] = field(default_factory=dict)
    edit: Edit | None = None
    body: Callable[[bytes], bytes] | None = None
    more: Pairs = ()
    sized: bool = True
    first_line: bytes = b""
    drip: float = 0.0
    cut_after: int = -1
    stall: bool = False
    close: bool = False
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Strikes the requests from the `nth` matching one on, `times` of them (0: all).

    `method` is a regular expression for the whole method, `path` one that is searched for in path and query; `role`
    names the server it stands at ("" is any), `when` may look at the whole request. `why` says what this mimics.
    """

    action: Action
    method: str = ""
    path: str = ""
    nth: int = 1
    times: int = 1
    role: str = ""
    when: Callable[[Asked], bool] | None = None
    why: str = ""

    def fits(self, asked: Asked) -> bool:
        """Tell whether the rule is about this request, whichever one it is."""
        return (
            self.role in {"", asked.role}
            and (not self.method or re.fullmatch(self.method, asked.method) is not None)
            and (not self.path or re.search(self.path, asked.target) is not None)
            and (self.when is None or self.when(asked))
        )
