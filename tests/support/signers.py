"""What signs and verifies for tests that are not about keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oci_binpkg.signing.statement import Signed, Statement


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is verified here")


@dataclass(frozen=True)
class Verifies:
    """Verifies as the test says."""

    opened: Callable[[bytes, str], tuple[bytes, Signed | None]] = _never
    judged: Callable[..., Signed] = _never
    required: bool = True


@dataclass(frozen=True)
class Signs:
    """Signs as the test says, and takes every good signature for its own."""

    sign: Callable[..., bytes]

    def clear(self, data: bytes, statement: Statement) -> bytes:
        return self.sign(data, statement=statement)

    def beside(self, data: bytes, statement: Statement) -> bytes:
        return self.sign(data, statement=statement)

    def made(self, signed: Signed) -> bool:
        return True
