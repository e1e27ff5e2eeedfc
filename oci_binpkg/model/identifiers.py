"""What the fields of a spec may hold: they become parts of paths, tags, queries and lines on a terminal.

Source: the names that Spack allows (package names, `os` and `target` words, versions with the forms of git references),
bounded in length, since a component of a path holds 255 bytes.
"""

from __future__ import annotations

import re
from typing import Final

from oci_binpkg.errors import ContentError

MAX_BYTES: Final = 255
"""The longest component of a path on common file systems, and more than any tag of a registry holds."""
MAX_VALUE_BYTES: Final = 64 * 1024
MAX_PATH_BYTES: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)
_HASH: Final = re.compile(r"[a-z0-9]{1,64}", re.ASCII)
_PLAIN_VERSION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~-]*", re.ASCII)
_PARENTS: Final = ("", ".", "..")
_SHOWN: Final = 80


def is_name(text: str) -> bool:
    """Whether a text can be the name of a package, a namespace, a platform, an operating system or a target."""
    return len(text) <= MAX_BYTES and _NAME.fullmatch(text) is not None


def is_hash(text: str) -> bool:
    """Whether a text has the form of a package's hash."""
    return _HASH.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether a text can be a version: printable, without blanks, one component of a path.

    A version that was taken from git (`git.feature/x=1.2`) may have slashes between the parts of its reference.
    """
    if len(text) <= MAX_BYTES and _PLAIN_VERSION.fullmatch(text):
        return True
    if not text.isprintable() or " " in text or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return False
    parts = text.removeprefix("git.").split("/") if text.startswith("git.") else [text]
    return not any(part in _PARENTS for part in parts) and (len(parts) > 1 or "/" not in text)


def is_path(text: str) -> bool:
    """Whether a text is an absolute, normalised path that can stand in a list of paths: printable, without a colon."""
    return (
        text.startswith("/")
        and not text.startswith("//")
        and text.isprintable()
        and ":" not in text
        and len(text) <= MAX_PATH_BYTES
        and not any(part in _PARENTS for part in text.split("/")[1:])
    )


def check_name(text: str, what: str) -> str:
    """Return a name. Raises `ContentError` naming the field `what`."""
    return text if is_name(text) else _refuse(text, what)


def check_hash(text: str, what: str) -> str:
    """Return a hash. Raises `ContentError`."""
    return text if is_hash(text) else _refuse(text, what)


def check_version(text: str, what: str) -> str:
    """Return a version. Raises `ContentError`."""
    return text if is_version(text) else _refuse(text, what)


def check_path(text: str, what: str) -> str:
    """Return an absolute, normalised path that can stand in a list of paths. Raises `ContentError`."""
    return text if is_path(text) else _refuse(text, what)


def check_value(text: str, what: str) -> str:
    """Return a value of a variant, a flag, or another text that is shown but never part of a path.

    Raises `ContentError` for control characters (a tab is allowed: flags may hold one) and for very long texts.
    """
    if len(text) > MAX_VALUE_BYTES or not (text.isprintable() or text.replace("\t", " ").isprintable()):
        _refuse(text, what)
    return text


def _refuse(text: str, what: str) -> str:
    shown = f"{text[:_SHOWN]!r}{'...' if len(text) > _SHOWN else ''}"
    raise ContentError(f"{what}: {shown} is not allowed here")
