"""The wire side of the fake registry: requests, answers, what can go wrong between them, and the server."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, urlsplit

RESET: Final = "reset"
"""End the connection with RST."""

CLOSE: Final = "close"
"""End the connection in an orderly way (FIN)."""


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


@dataclass(slots=True)
class Fault:
    """What goes wrong, and when. Rules match a method (regular expression) and path with query (searched).

    When: matching requests are counted from 1; the fault fires from number `nth` on, `times` times (0: always).

    Before the work (the registry does nothing):
      `before`      RESET or CLOSE without an answer, as soon as `read` bytes of the request's body are in (-1: all of them)
      `answer`      an `Answer`, or a function from the `Exchange` to one, instead of the registry's
    Then, on whatever answer there is:
      `prepare`     called with the Exchange before the work is done: a place to change the registry's content
      `after`       RESET or CLOSE instead of the answer: the work is done and nobody hears of it
      `status`      another status on the registry's own answer
      `headers`     headers that replace those of the same name; a value of None removes
      `more`        headers added, also to one of the same name
      `mutate`      a function on the body; Content-Length follows unless `headers` fixes it
      `cut`         only so many bytes of the body, then `end` (CLOSE or RESET)
      `unsized`     no Content-Length: the end of the connection ends the body
    """

    method: str
    path: str
    nth: int = 1
    times: int = 1
    before: str = ""
    read: int = -1
    answer: Answer | Callable[[Exchange], Answer] | None = None
    prepare: Callable[[Exchange], object] | None = None
    after: str = ""
    status: int = 0
    headers: Mapping[str, str | None] = field(default_factory=dict)
    more: tuple[tuple[str, str], ...] = ()
    mutate: Callable[[bytes], bytes] | None = None
    cut: int = -1
    end: str = CLOSE
    unsized: bool = False
    seen: int = 0
    fired: int = 0

    def matches(self, exchange: Exchange) -> bool:
        """Count a matching request and tell whether the fault fires on it."""
        if not re.fullmatch(self.method, exchange.method) or not re.search(self.path, exchange.target):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times and self.fired >= self.times):
            return False
        self.fired += 1
        return True

    def bend(self, answer: Answer) -> Answer:
        """Return the registry's answer as this fault leaves it."""
        gone = {name.lower() for name in self.headers}
        headers = [(name, value) for name, value in answer.headers if name.lower() not in gone]
        headers += [(name, value) for name, value in self.headers.items() if value is not None]
        body = self.mutate(answer.body) if self.mutate else answer.body
        return Answer(self.status or answer.status, [*headers, *self.more], body)


class Backend(Protocol):
    """What a server serves."""

    def begin(self, exchange: Exchange) -> Fault | None:
        """Log a request and return the fault that strikes it, before its body is read."""
        ...

    def respond(self, exchange: Exchange) -> Answer:
        """Do the work of a request."""
        ...


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def __init__(self, registry: Backend, role: str, tls: ssl.SSLContext | None) -> None:
        self.registry = registry
        self.role = role
        self._started = False
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Keep quiet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        exchange = Exchange(self.command, parts.path, parts.query, headers, self.server.role)
        fault = self.server.registry.begin(exchange)
        self._receive(exchange, fault.read if fault and (fault.before or fault.answer) else -1)
        if fault and fault.before:
            self._hang_up(fault.before)
            return
        if fault and fault.prepare:
            fault.prepare(exchange)
        if fault and fault.answer is not None:
            answer = fault.answer(exchange) if callable(fault.answer) else fault.answer
        else:
            answer = self.server.registry.respond(exchange)
        if fault and fault.after:
            self._hang_up(fault.after)
            return
        if fault:
            answer = fault.bend(answer)
            if fault.read >= 0:
                self.close_connection = True  # what is left of the body would pass for the next request
        exchange.status = answer.status
        self._answer(answer, fault)

    def _receive(self, exchange: Exchange, limit: int) -> None:
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

    def _answer(self, answer: Answer, fault: Fault | None) -> None:
        names = {name.lower() for name, _ in answer.headers}
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        unsized = fault is not None and fault.unsized
        if "content-length" not in names and not unsized and answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        cut = fault.cut if fault else -1
        if unsized or cut >= 0:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD" and answer.status not in (204, 304):
            self.wfile.write(answer.body if cut < 0 else answer.body[:cut])
        self.wfile.flush()
        if unsized or cut >= 0:
            self._hang_up(fault.end if fault else CLOSE)

    def _hang_up(self, how: str) -> None:
        self.close_connection = True
        if how == RESET:
            # lingering for no time turns the close into a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_WR)
