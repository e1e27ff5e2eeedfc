"""Edits: what makes a valid document a hostile one. Each is JSON: `{"kind", "number", "do", ...}`.

`kind` and `number` name a document of a world. An edit of its members has a `path` (keys and positions); one of its
bytes has a `share`, which is where in the file it happens. An edit whose place is not there (another one came first)
does nothing.
"""

from __future__ import annotations

import copy
import gzip
import random
import zlib
from collections.abc import Iterator
from typing import Any

from command_fuzz.values import BY_KEY, TEXTS, encode, hostile, mark_of, text_of, to_bytes

MEMBER_EDITS = ("set", "set", "set", "set", "delete", "double", "rename", "repeat", "insert", "wrap")
BYTE_EDITS = ("cut", "append", "flip", "replace", "insert-bytes", "bom", "utf16", "gzip", "twice", "empty", "blanks")
PAGES = (
    "<!DOCTYPE html><html>Please log in</html>",
    "{}",
    "[]",
    "null",
    "\0",
    "{",
    "a: &a [x]\nb: [*a, *a]\n",
    "--- !!python/object/apply:os.system ['touch {PLACE}/victim/owned']\n",
    "? {a: b}\n: c\n",
    "<<: *x\n",
    "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{}\n-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n",
)


def places(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of everything in a document; what stands for something else is one thing."""
    if mark_of(document):
        return
    entries = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


def made_up(rng: random.Random, kind: str, number: int, document: Any) -> dict[str, Any]:
    """Make an edit of a document."""
    found = list(places(document))
    if not found or rng.random() < 0.08:
        return {"kind": kind, "number": number, **_of_bytes(rng)}
    telling = [path for path in found if path[-1] in BY_KEY]
    path, do = rng.choice(telling if telling and rng.random() < 0.5 else found), rng.choice(MEMBER_EDITS)
    edit: dict[str, Any] = {"kind": kind, "number": number, "do": do, "path": list(path)}
    if do in ("set", "double", "insert"):
        edit["value"] = hostile(rng, path)
    if do == "rename":
        edit["key"] = rng.choice(TEXTS) if rng.random() < 0.5 else text_of(hostile(rng, path))
    if do == "repeat":
        edit["count"] = rng.choice((2, 3, 50, 3000))
    return edit


def _of_bytes(rng: random.Random) -> dict[str, Any]:
    edit: dict[str, Any] = {"do": rng.choice(BYTE_EDITS), "share": round(rng.random(), 4)}
    if edit["do"] in ("append", "replace", "insert-bytes"):
        edit["value"] = rng.choice(PAGES) if rng.random() < 0.6 else rng.choice(TEXTS)
    return edit


def with_members(document: Any, edit: dict[str, Any]) -> Any:
    """Return a document with an edit of its members made."""
    if "path" not in edit:
        return document
    document = copy.deepcopy(document)
    *way, last = edit["path"]
    holder = document
    for key in way:
        if not _has(holder, key):
            return document
        holder = holder[key]
    if _has(holder, last):
        _change(holder, last, edit)
    return document


def _has(holder: Any, key: Any) -> bool:
    if isinstance(holder, dict):
        return key in holder
    return isinstance(holder, list) and isinstance(key, int) and key < len(holder)


def _change(holder: Any, key: Any, edit: dict[str, Any]) -> None:
    do, value = edit["do"], edit.get("value")
    if do == "set":
        holder[key] = value
    elif do == "delete":
        del holder[key]
    elif do == "wrap":
        holder[key] = [holder[key]]
    elif isinstance(holder, list):
        if do == "insert":
            holder.insert(key, value)
        elif do == "repeat":
            holder[key : key + 1] = [holder[key]] * edit["count"]
    elif do == "rename":
        holder[edit["key"]] = holder.pop(key)
    elif do == "insert":
        holder[text_of(value)] = holder[key]
    elif do == "double":
        pairs = [[each, holder[each]] for each in holder]
        holder.clear()
        holder["$pairs"] = [*pairs, [key, value]]


def with_bytes(data: bytes, edit: dict[str, Any]) -> bytes:
    """Return a file with an edit of its bytes made."""
    if "path" in edit:
        return data
    at = int(len(data) * edit.get("share", 0))
    value = to_bytes(text_of(edit.get("value", "")))
    do = edit["do"]
    if do == "flip":
        return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] if data else data
    if do == "bomb":
        return _bomb(edit["value"], edit["count"])
    changed = {
        "cut": lambda: data[:at],
        "append": lambda: data + value,
        "replace": lambda: value,
        "insert-bytes": lambda: data[:at] + value + data[at:],
        "bom": lambda: b"\xef\xbb\xbf" + data,
        "utf16": lambda: data.decode("utf-8", "replace").encode("utf-16"),
        "gzip": lambda: gzip.compress(data, mtime=0),
        "twice": lambda: data + data,
        "empty": lambda: b"",
        "blanks": lambda: b" " * 1_000_000 + data,
    }
    return changed[do]()


def _bomb(piece: str, count: int) -> bytes:
    """Compress a piece again and again, without ever holding all of it."""
    packer = zlib.compressobj(9, wbits=31)
    data, out = to_bytes(piece) * (1 << 16), []
    out = [packer.compress(data) for _ in range(count)]
    return b"".join([*out, packer.flush()])


def encoded(document: Any) -> bytes:
    """Encode a document: as JSON, or as it is where it is no document but text."""
    return to_bytes(document) if isinstance(document, str) else encode(document).encode()
