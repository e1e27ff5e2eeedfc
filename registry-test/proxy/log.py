"""What the proxy saw: one line a request, with nothing secret in it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

_SECRET_PARAMETERS = re.compile(r"(?i)\b(sig|token|password|refresh_token)=[^&]*")


@dataclass(frozen=True, slots=True)
class Logged:
    """One request. `length` and `sha256` are of the body as far as it arrived; `status` 0: nothing was answered.

    `authorization` is the scheme and a fingerprint, so that two can be compared and none is known. `forwarded`: the
    server behind was asked. `struck` says what the rules that applied mimic. `connection` numbers connections from 1.
    """

    role: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    authorization: str
    length: int
    sha256: str
    status: int
    forwarded: bool
    connection: int
    at: float
    struck: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    def as_json(self) -> str:
        """The line as it is written to a file, for people: signed queries are hidden."""
        shown = asdict(self)
        shown["query"] = _SECRET_PARAMETERS.sub(r"\1=***", self.query)
        return json.dumps(shown)


def fingerprint(authorization: str) -> str:
    """Return `Bearer 1a2b3c4d` for an Authorization header, "" for none."""
    if not authorization:
        return ""
    scheme, _, value = authorization.partition(" ")
    return f"{scheme} {hashlib.sha256(value.encode()).hexdigest()[:8]}"


@dataclass
class Log:
    """The requests so far, in the order in which their answers began. Thread-safe; several servers may share one."""

    entries: list[Logged] = field(default_factory=list)
    watch: Callable[[Logged], None] | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, entry: Logged) -> None:
        with self._lock:
            self.entries.append(entry)
            if self.watch is not None:
                self.watch(entry)

    def forget(self) -> None:
        with self._lock:
            self.entries.clear()

    def seen(self, method: str = "", path: str = "", *, role: str = "") -> list[Logged]:
        """Return the requests of a method, whose path and query hold the pattern `path`, at the server `role`."""
        with self._lock:
            return [
                entry
                for entry in self.entries
                if (not method or re.fullmatch(method, entry.method))
                and (not path or re.search(path, entry.target))
                and role in {"", entry.role}
            ]

    def methods(self, path: str = "", *, role: str = "") -> list[str]:
        """Return the methods of such requests, in order."""
        return [entry.method for entry in self.seen("", path, role=role)]
