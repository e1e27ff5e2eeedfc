"""What can go wrong between the fake registry and its clients."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from oci_binpkg.testing import Answer, Exchange, Handler

RESET: Final = "reset"
"""End the connection with RST."""

CLOSE: Final = "close"
"""End the connection in an orderly way (FIN)."""


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


class FaultyHandler(Handler):
    """Serves requests, unless a fault strikes."""

    def serve(self) -> None:
        """Serve one request."""
        exchange = self.arrived()
        fault: Fault | None = self.server.registry.begin(exchange)
        self.receive(exchange, fault.read if fault and (fault.before or fault.answer) else -1)
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
        unsized, cut = (fault.unsized, fault.cut) if fault else (False, -1)
        self.answer(answer, cut=cut, sized=not unsized)
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
