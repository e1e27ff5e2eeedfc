"""The proxy itself: HTTP/1.1 by hand, because it must do what no well-behaved server does."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Self
from urllib.parse import urlsplit

from proxy.log import Log, Logged, fingerprint
from proxy.rules import Action, Answer, Asked, Rule

PIECE = 64 * 1024
KEPT = 5 * 1024 * 1024
LONGEST_HEAD = 128 * 1024
IDLE_SECONDS = 60.0
NO_BODY = frozenset({204, 304})
USUAL_PORT, USUAL_TLS_PORT = 80, 443
_TLS_GREETING = b"\x16"
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"})


class _HungUpError(Exception):
    """The connection is to be closed without another word."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class FaultProxy:
    """Stands at a free port of loopback (or `port`, `address`) before `upstream` ("" is none: then only rules answer).

    With `tls` it serves https. Several proxies may share a `log`; `role` tells them apart in it. Logins are not passed
    on where `keep_login` is false: then the rules check them and the server behind knows none.
    """

    def __init__(
        self,
        upstream: str = "",
        rules: Iterable[Rule] = (),
        *,
        role: str = "registry",
        log: Log | None = None,
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        keep_login: bool = True,
    ) -> None:
        self.upstream = upstream.rstrip("/")
        self.role = role
        self.log = log if log is not None else Log()
        self.keep_login = keep_login
        self.tls = tls
        self._rules: list[tuple[Rule, list[int]]] = [(rule, [0]) for rule in rules]
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._connections = 0
        self._cut = 0
        self._listener = socket.create_server((address, port), backlog=128)
        taken = self._listener.getsockname()[1]
        self.host = address if taken == (USUAL_TLS_PORT if tls else USUAL_PORT) else f"{address}:{taken}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"

    def add(self, *rules: Rule) -> Self:
        """Add rules behind those that are there."""
        with self._lock:
            self._rules += [(rule, [0]) for rule in rules]
        return self

    def clear(self) -> None:
        """Forget all rules and the log."""
        with self._lock:
            self._rules.clear()
        self.log.forget()

    def cut_connections(self, count: int) -> None:
        """Cut the next `count` connections after their first bytes: with TLS, in the middle of the handshake."""
        self._cut = count

    @property
    def connections(self) -> int:
        """How many connections were made so far."""
        return self._connections

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join(5)

    def hang_up(self) -> None:
        """Close all connections, as a server does that restarts."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        """Serve until `with` is left by another thread."""
        self._stopped.wait()

    def unstruck(self) -> list[Rule]:
        """Return the rules that are meant to strike so many times and have not struck at all."""
        with self._lock:
            return [rule for rule, count in self._rules if rule.times and count[0] < rule.nth]

    def actions_for(self, asked: Asked) -> list[tuple[Action, str]]:
        """Count a request with all rules that it fits, and return those that strike."""
        struck = []
        with self._lock:
            for rule, count in self._rules:
                if rule.fits(asked):
                    count[0] += 1
                    if count[0] >= rule.nth and (not rule.times or count[0] < rule.nth + rule.times):
                        struck.append((rule.action, rule.why))
        return struck

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        self._stopped.wait(seconds)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections += 1
                self._open.add(connection)
                number = self._connections
                cut, self._cut = self._cut > 0, max(0, self._cut - 1)
            threading.Thread(target=self._serve, args=(connection, number, cut), daemon=True).start()

    def _serve(self, raw: socket.socket, number: int, cut: bool) -> None:
        connection, reset = raw, False
        try:
            connection.settimeout(IDLE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if cut:
                raw.recv(16)
                return
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection.makefile("rb") as stream:
                while not self._stopped.is_set() and _Turn(self, connection, stream, number).serve():
                    pass
        except _HungUpError as end:
            reset = end.reset
        except (OSError, ValueError, http.client.HTTPException):
            pass  # the client went away, or speaks no HTTP
        finally:
            with self._lock:
                self._open.discard(raw)
            _close(connection, reset=reset)


def _close(connection: socket.socket, *, reset: bool) -> None:
    with contextlib.suppress(OSError):
        if reset:
            # lingering for no time turns the close into a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError):
        connection.close()


@dataclass
class _Turn:
    """One request and its answer."""

    proxy: FaultProxy
    connection: socket.socket
    stream: BufferedReader
    number: int
    hasher: hashlib._Hash = field(default_factory=hashlib.sha256)
    length: int = 0
    forwarded: bool = False
    logged: bool = False

    def serve(self) -> bool:
        """Serve one request; tell whether the connection may be used again."""
        if not self.proxy.url.startswith("https") and self.stream.peek(1)[:1] == _TLS_GREETING:
            self.connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        asked = self._read_head()
        if asked is None:
            return False
        struck = self.proxy.actions_for(asked)
        self.asked, self.actions = asked, [action for action, _ in struck]
        self.why = tuple(why for _, why in struck if why)
        return self._serve(asked)

    def _serve(self, asked: Asked) -> bool:
        if asked.headers.get("expect", "").lower() == "100-continue":
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        seconds = sum(action.delay for action in self.actions)
        if seconds:
            self.proxy.pause(seconds)
        limit = max((action.read_only for action in self.actions), default=-1)
        body = self._body(limit)
        if self._size() <= KEPT:
            asked.body = b"".join(body)
            body = iter([asked.body])
        elif limit >= 0:
            self._drain(body)
        for action in self.actions:
            if action.prepare is not None:
                action.prepare(asked)
        own = self._own_answer(asked)
        if own is not None:
            self._drain(body)
            return self._finish(own, iter(()), left_over=0 <= limit < self._size())
        if limit >= 0 or not self.proxy.upstream or any(not action.forward for action in self.actions):
            self._drain(body)
            return self._finish(Answer(502), iter(()), left_over=0 <= limit < self._size())
        return self._forward(asked, body)

    def _drain(self, body: Iterator[bytes]) -> None:
        for _ in body:
            pass

    # ---- the request

    def _read_head(self) -> Asked | None:
        line = self.stream.readline(LONGEST_HEAD)
        if not line.strip():
            return None
        method, target, _ = line.decode("latin-1").split(" ", 2)
        if "://" in target.partition("?")[0]:
            parts = urlsplit(target)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers: dict[str, str] = {}
        while text := self.stream.readline(LONGEST_HEAD).decode("latin-1").rstrip("\r\n"):
            name, _, value = text.partition(":")
            known = headers.get(name.lower())
            headers[name.lower()] = f"{known}, {value.strip()}" if known else value.strip()
        return Asked(self.proxy.role, method, target, headers, self.proxy.url)

    def _chunked(self) -> bool:
        return "chunked" in self.asked.headers.get("transfer-encoding", "").lower()

    def _size(self) -> int:
        return KEPT + 1 if self._chunked() else int(self.asked.headers.get("content-length", "0"))

    def _body(self, limit: int) -> Iterator[bytes]:
        """Yield the request's body, counted and hashed; `limit` bytes of it if that is not -1."""
        source = self._chunks() if self._chunked() else self._counted(self._size() if limit < 0 else limit)
        for piece in source:
            self.length += len(piece)
            self.hasher.update(piece)
            yield piece

    def _counted(self, left: int) -> Iterator[bytes]:
        left = min(left, self._size())
        while left:
            piece = self.stream.read1(min(PIECE, left))
            if not piece:
                self._log(0)
                raise _HungUpError
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.stream.readline(100).partition(b";")[0], 16):
            yield self.stream.read(size)
            self.stream.readline(100)
        self.stream.readline(100)

    # ---- the answer

    def _own_answer(self, asked: Asked) -> Answer | None:
        for action in self.actions:
            found = action.answer(asked) if callable(action.answer) else action.answer
            if found is not None:
                return found
        return None

    def _forward(self, asked: Asked, body: Iterator[bytes]) -> bool:
        parts = urlsplit(self.proxy.upstream)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        upstream = kind(parts.netloc, timeout=300)
        target = asked.target
        for action in self.actions:
            target = action.target(asked) if action.target else target
        try:
            upstream.putrequest(asked.method, parts.path + target, skip_host=True, skip_accept_encoding=True)
            upstream.putheader("Host", parts.netloc)
            for name, value in asked.headers.items():
                if name not in _HOP_BY_HOP and (name != "authorization" or self.proxy.keep_login):
                    upstream.putheader(name, value)
            if self._chunked():
                upstream.putheader("Transfer-Encoding", "chunked")
            upstream.endheaders()
            for piece in body:
                upstream.send(b"%x\r\n%s\r\n" % (len(piece), piece) if self._chunked() else piece)
            if self._chunked():
                upstream.send(b"0\r\n\r\n")
            self.forwarded = True
            response = upstream.getresponse()
            pairs = tuple((name, self._our(value)) for name, value in response.getheaders() if self._kept(name))
            pieces = iter(lambda: response.read1(PIECE), b"")
            return self._finish(Answer(response.status, pairs, None), pieces)
        except (ConnectionError, TimeoutError) as error:
            if self.logged:
                raise
            return self._finish(Answer(502, (), f"{self.proxy.upstream}: {error}\n".encode()), iter(()))
        finally:
            upstream.close()

    def _kept(self, name: str) -> bool:
        return name.lower() not in _HOP_BY_HOP

    def _our(self, value: str) -> str:
        """Return a header with the address of the server behind replaced by ours."""
        return value.replace(self.proxy.upstream + "/", self.proxy.url + "/")

    def _finish(self, answer: Answer, pieces: Iterator[bytes], *, left_over: bool = False) -> bool:
        """Change an answer as the actions want it, and send it. `left_over`: a part of the request was not read."""
        actions = self.actions
        reset = any(action.reset for action in actions)
        answer = self._changed(answer, pieces)
        if any(action.silent for action in actions):
            self._log(0)
            self._stay_silent()
        if any(action.drop for action in actions):
            self._log(0)
            raise _HungUpError(reset=reset)
        self._log(answer.status)
        cut = min((action.cut_after for action in actions if action.cut_after >= 0), default=-1)
        drip = max((action.drip for action in actions), default=0.0)
        sized = all(action.sized for action in actions)
        body = pieces if answer.body is None else iter([answer.body])
        self.connection.sendall(self._head(answer, sized=sized))
        if self.asked.method != "HEAD" and answer.status not in NO_BODY:
            self._send(body, cut, drip)
        if cut >= 0 and any(action.stall for action in actions):
            self._stay_silent()
        if cut >= 0 or reset or left_over:
            if left_over and not reset:
                self._linger()
            raise _HungUpError(reset=reset)
        unsized = answer.body is None and not answer.header("content-length") and self.asked.method != "HEAD"
        return sized and not unsized and not any(action.close for action in actions)

    def _changed(self, answer: Answer, pieces: Iterator[bytes]) -> Answer:
        for action in self.actions:
            answer = answer.with_status(action.status) if action.status else answer
            answer = action.edit(self.asked, answer) if action.edit else answer
            if action.body is not None:
                data = b"".join(pieces) if answer.body is None else answer.body
                length = answer.header("Content-Length") if self.asked.method == "HEAD" else None
                answer = answer.with_body(action.body(data))
                answer = answer.changed({"Content-Length": length}) if length else answer
            answer = answer.changed(action.headers) if action.headers else answer
            answer = Answer(answer.status, answer.headers + action.more, answer.body) if action.more else answer
        return answer

    def _head(self, answer: Answer, *, sized: bool) -> bytes:
        phrase = http.client.responses.get(answer.status, "Unknown")
        first = next((action.first_line for action in self.actions if action.first_line), b"")
        lines = [first or f"HTTP/1.1 {answer.status} {phrase}\r\n".encode()]
        headers = answer.headers
        if not sized:
            headers = tuple(pair for pair in headers if pair[0].lower() != "content-length")
        elif answer.body is not None and not answer.header("content-length") and answer.status not in NO_BODY:
            headers += (("Content-Length", str(len(answer.body))),)
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers]
        end = b"\n" if first.endswith(b"\n") and not first.endswith(b"\r\n") else b"\r\n"
        return b"".join(lines).replace(b"\r\n", end) + end

    def _send(self, body: Iterator[bytes], cut: int, drip: float) -> None:
        left = cut
        for piece in body:
            sent = piece if cut < 0 else piece[:left]
            left -= len(sent)
            if drip:
                for byte in sent:
                    self.proxy.pause(drip)
                    self.connection.sendall(bytes([byte]))
            else:
                self.connection.sendall(sent)
            if not left:
                return

    def _stay_silent(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.settimeout(IDLE_SECONDS)
            while self.stream.read(PIECE):
                pass
        raise _HungUpError

    def _linger(self) -> None:
        """Let an early answer arrive: closing with unread bytes would reset the connection and destroy it."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(2)
            while self.stream.read1(PIECE):
                pass

    def _log(self, status: int) -> None:
        self.logged = True
        asked = self.asked
        headers = {name: value for name, value in asked.headers.items() if name != "authorization"}
        login = fingerprint(asked.headers.get("authorization", ""))
        self.proxy.log.add(
            Logged(
                asked.role, asked.method, asked.path, asked.query, headers, login, self.length,
                self.hasher.hexdigest(), status, self.forwarded, self.number, time.monotonic(), self.why,
            )
        )  # fmt: skip
