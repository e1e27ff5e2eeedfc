"""Reading of TOML that may come from somebody else: its mistakes are reported, and no line of it costs too much."""

from __future__ import annotations

import tomllib
from typing import Any, Final

from oci_binpkg.errors import ContentError

MOST_DOTS: Final = 500
"""Dots in one line. The library's work grows with the square of the parts of a dotted key, which stands in one line."""


def parse_toml(data: bytes, what: str) -> dict[str, Any]:
    """Parse a TOML document. Raises `ContentError` naming `what`; the words about syntax are the parser's own."""
    try:
        if any(line.count(b".") > MOST_DOTS for line in data.split(b"\n")):
            raise ContentError(f"{what}: not valid TOML: more than {MOST_DOTS} dots in one line")
        return tomllib.loads(data.decode())
    except RecursionError:
        raise ContentError(f"{what}: not valid TOML: nested too deeply") from None
    except ValueError as error:
        # the parser raises other errors only for numbers without end
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "not UTF-8, or a number too large"
        raise ContentError(f"{what}: not valid TOML: {reason}") from None
