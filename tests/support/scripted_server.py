"""An HTTP server on loopback that answers from a script and writes down what it was asked.

It speaks HTTP/1.1 by hand, so that it can do what no well-behaved server does: cut, reset, stay silent, answer early.

    with ScriptedServer() as server:
        server.on("GET", "/v2/", Answer(500), Answer(200, body=b"{}"))     # the last answer is repeated
        ...
        assert [asked.method for asked in server.log] == ["GET", "GET"]
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Self

_TLS_GREETING = b"\x16"
"""The first byte of a TLS connection; servers of plain http answer it with 400."""


@dataclass(frozen=True)
class Answer:
    """One scripted answer.

    `headers` as a mapping or as pairs (for repeated headers). Content-Length is added unless a header gives one or
    `length` is False (then the end of the connection ends the body). `cut_after`: close after so many body bytes.
    `reset`: a TCP reset instead of an orderly close, before anything is sent unless `cut_after` is set. `drop`: close
    without answering. `silent`: never answer. `early`: answer after so many bytes of the request's body, without
    reading the rest. `drip`: wait so many seconds before each byte of the body. `close`: close after the answer. `status_line` replaces the first line, bytes and line end as
    given.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    length: bool = True
    cut_after: int | None = None
    reset: bool = False
    drop: bool = False
    silent: bool = False
    early: int | None = None
    close: bool = False
    drip: float = 0.0
    status_line: bytes = b""

    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.headers.items()) if isinstance(self.headers, Mapping) else self.headers


@dataclass(frozen=True)
class Asked:
    """One request as it arrived. `target` is path and query byte for byte; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.body).hexdigest()


Script = Answer | Callable[[Asked], Answer]


@dataclass
class _Route:
    answers: list[Script]
    used: int = 0

    def next(self) -> Script:
        answer = self.answers[min(self.used, len(self.answers) - 1)]
        self.used += 1
        return answer


@dataclass
class ScriptedServer:
    """Serves until the `with` block ends. Routes match the whole target first, then its path, then `*`; else 404."""

    tls: ssl.SSLContext | None = None
    log: list[Asked] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._routes: dict[tuple[str, str], _Route] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def on(self, method: str, target: str, *answers: Script) -> None:
        """Answer requests with `answers` in turn, the last one for ever."""
        with self._lock:
            self._routes[method, target] = _Route(list(answers))

    def asked(self, method: str = "", path: str = "") -> list[Asked]:
        """The requests so far, those of one method or path if given."""
        with self._lock:
            return [
                entry for entry in self.log if method in {"", entry.method} and path in {"", entry.path, entry.target}
            ]

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                number = self.connections
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        raw = connection
        try:
            connection.settimeout(20)
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection.makefile("rb") as stream:
                while self._one(connection, stream, number):
                    pass
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._open.discard(raw)
            with contextlib.suppress(OSError):
                connection.close()

    def _one(self, connection: socket.socket, stream: BufferedReader, number: int) -> bool:
        if stream.peek(1)[:1] == _TLS_GREETING:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        line = stream.readline()
        if not line:
            return False
        method, target, _ = line.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while (header := stream.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        route = self._route(method, target)
        length = int(headers.get("content-length", "0"))
        early = route.early if isinstance(route, Answer) else None
        body = stream.read(length if early is None else min(early, length))
        asked = Asked(method, target, headers, body, number)
        with self._lock:
            self.log.append(asked)
        answer = route if isinstance(route, Answer) else route(asked)
        return self._answer(connection, answer, asked)

    def _route(self, method: str, target: str) -> Script:
        with self._lock:
            for key in ((method, target), (method, target.partition("?")[0]), (method, "*"), ("*", "*")):
                if key in self._routes:
                    return self._routes[key].next()
        return Answer(404)

    def _answer(self, connection: socket.socket, answer: Answer, asked: Asked) -> bool:
        if answer.silent:
            self._stopped.wait(20)
            return False
        if answer.drop or (answer.reset and answer.cut_after is None):
            return self._hang_up(connection, reset=answer.reset)
        lines = [answer.status_line or f"HTTP/1.1 {answer.status} Scripted\r\n".encode()]
        pairs = answer.pairs()
        if answer.length and not any(name.lower() == "content-length" for name, _ in pairs) and answer.status != 204:
            pairs += (("Content-Length", str(len(answer.body))),)
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in pairs]
        body = b"" if asked.method == "HEAD" else answer.body[: answer.cut_after]
        connection.sendall(b"".join(lines) + b"\r\n" + (b"" if answer.drip else body))
        for byte in body if answer.drip else b"":
            self._stopped.wait(answer.drip)
            connection.sendall(bytes([byte]))
        if answer.cut_after is not None or not answer.length or answer.close or answer.early is not None:
            return self._hang_up(connection, reset=answer.reset)
        return True

    def _hang_up(self, connection: socket.socket, *, reset: bool) -> bool:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        return False
