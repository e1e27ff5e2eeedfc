"""The members of a tar, read strictly: what cannot be understood in one way only is refused.

Spack writes pax archives through Python's tarfile; ustar headers and GNU's long names are read as well. Sparse files,
devices, several volumes and everything else that a package cannot need are refused, and so is whatever two readers of
tar could take for different things.

Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, NoReturn

from oci_binpkg.archive.tar_input import BoundedInput, Limits
from oci_binpkg.errors import ContentError

Kind = Literal["file", "directory", "symlink", "hardlink"]

_BLOCK: Final = 512
_EMPTY: Final = bytes(_BLOCK)
_POSIX: Final = b"ustar\x0000"
_GNU: Final = b"ustar  \x00"
_KINDS: Final[dict[bytes, Kind]] = {
    b"0": "file",
    b"\0": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"5": "directory",
}
_EXTENDED: Final = frozenset((b"x", b"g", b"L", b"K"))
_OTHERS: Final = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"D": "a directory dump",
    b"M": "the rest of a file from another volume",
    b"N": "an old long name",
    b"S": "a sparse file",
    b"V": "a volume label",
    b"X": "an extended header of Solaris",
}
_OVERRIDES: Final = frozenset(("path", "linkpath", "size"))
_CHARSET: Final = "hdrcharset"
_RAW: Final = b"BINARY"
"""The character set of names that are bytes and no text; else all of pax is UTF-8."""
_NOT_COMPONENTS: Final = frozenset(("", ".", ".."))
WHITEOUT: Final = ".wh."
_MAX_TARGET: Final = 4095
"""Bytes of a link's target; Linux takes no more (PATH_MAX, with the NUL)."""
_MAX_GLOBAL_HEADERS: Final = 16
_SHOWN: Final = 200


class Member(NamedTuple):
    """A member of a tar. `name` is relative, without a slash at its end, and safe: no `.`, no `..`, nothing empty.

    Bytes that are no UTF-8 are half surrogates in `name` and `target`, as in paths of `os`.

    `target` is the name of another member for a hard link, and any text for a symbolic link. `closed` are the bits of
    group and others that a file or directory keeps to itself: 0, 0o007 or 0o077.
    """

    name: str
    kind: Kind
    size: int
    executable: bool
    target: str
    closed: int = 0


class _Header(NamedTuple):
    kind: bytes
    name: bytes
    size: int
    mode: int
    target: bytes


def read_members(source: BoundedInput, limits: Limits, what: str) -> Iterator[Member]:
    """Iterate over the members of a tar, and over what follows them to the end.

    Whoever wants the content of a file takes its `size` bytes from `source` before asking for the next member.

    Raises `ContentError` naming `what` and the member.
    """
    return iter(_MemberReader(source, limits, what))


class _MemberReader:
    def __init__(self, source: BoundedInput, limits: Limits, what: str) -> None:
        self._source = source
        self._limits = limits
        self._what = what
        self._name_bytes = self._members = self._globals = 0
        self._checked = ""
        """The directory of the last name, whose components are known to be good."""

    def __iter__(self) -> Iterator[Member]:
        extensions: dict[str, bytes] = {}
        while (block := self._source.exactly(_BLOCK)) != _EMPTY:
            header = self._header(block)
            if header.kind in _EXTENDED:
                self._extend(extensions, header)
                continue
            member = self._member(header, extensions)
            extensions.clear()
            end = self._source.position + _padded(member.size)
            yield member
            self._source.skip_to(end)
        if extensions:
            self._source.fail("ends with an extended header that belongs to no member")
        self._end()

    def _end(self) -> None:
        # an archive that ends with one empty block was cut, however well the compressed stream may end
        if self._source.exactly(_BLOCK) != _EMPTY or any(rest.strip(b"\0") for rest in self._source.rest()):
            self._source.fail("goes on after the end of its tar")

    def _header(self, block: bytes) -> _Header:
        kind, magic = block[156:157], block[257:265]
        expected = self._octal(block[148:156], "checksum")
        if sum(block) - sum(block[148:156]) + 8 * 0x20 != expected:
            self._source.fail(f"is damaged: the header before byte {self._source.position} of its tar is wrong")
        if magic not in (_POSIX, _GNU):
            self._source.fail("is not a tar of a kind that is known")
        name = block[:100].partition(b"\0")[0]
        if magic == _POSIX and (directory := block[345:500].partition(b"\0")[0]):
            name = directory + b"/" + name
        target = block[157:257].partition(b"\0")[0]
        return _Header(kind, name, self._size(block[124:136]), self._octal(block[100:108], "mode"), target)

    def _size(self, field: bytes) -> int:
        if not field[0] & 0x80:
            return self._octal(field, "size")
        # GNU writes sizes from 8 GiB on as binary numbers; 0xff begins a negative one
        size = int.from_bytes(field[1:], "big")
        if field[0] != 0x80 or size > self._limits.total_bytes:  # noqa: PLR2004 - the mark of a binary number
            self._source.fail("has a member of an impossible size")
        return size

    def _octal(self, field: bytes, meaning: str) -> int:
        digits = field.strip(b" \0")
        # int() alone would take signs, blanks and underscores
        if digits.strip(b"01234567"):
            self._source.fail(f"is damaged: a {meaning} in its tar is not a number")
        return int(digits or b"0", 8)

    def _extend(self, extensions: dict[str, bytes], header: _Header) -> None:
        """Read an extended header, whose data is small, into what it says about the next member."""
        kind = header.kind.decode()
        if header.size > self._limits.header_bytes:
            self._source.fail(f"has an extended header of {header.size} bytes; at most {self._limits.header_bytes}")
        data = self._source.exactly(_padded(header.size))[: header.size]
        if kind == "g":
            self._globals += 1
            if self._globals > _MAX_GLOBAL_HEADERS:
                self._source.fail(f"has more than {_MAX_GLOBAL_HEADERS} global headers")
            if _OVERRIDES & self._pax(data).keys():
                self._source.fail("has a global header that names or sizes all members")
            return
        if kind in extensions:
            self._source.fail("has two extended headers of a kind for one member")
        if kind == "x":
            records = self._pax(data)
            found = {key: value for key, value in records.items() if key in _OVERRIDES}
            if records.get(_CHARSET) != _RAW:
                self._check_text(found, header)
        else:
            found = {"path" if kind == "L" else "linkpath": data.removesuffix(b"\0")}
        if found.keys() & extensions.keys():
            self._source.fail("has two extended headers that contradict each other")
        extensions.update(found)
        extensions[kind] = b""

    def _check_text(self, found: dict[str, bytes], header: _Header) -> None:
        for key, value in found.items():
            try:
                value.decode("utf-8")
            except UnicodeDecodeError:
                what = "is a link whose target" if key == "linkpath" else "has a name that"
                shown = header.name if key == "linkpath" else value
                self._refuse(shown, f"{what} is not UTF-8, and does not say that it is bytes")

    def _pax(self, data: bytes) -> dict[str, bytes]:
        """Parse records of the form `LENGTH KEY=VALUE` with a newline at their end; LENGTH counts the whole record."""
        records: dict[str, bytes] = {}
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + 8)
            digits = data[at:space] if space > at else b""
            end = at + int(digits) if digits.isdigit() else 0
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if not space + 1 < end <= len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
                self._source.fail("is damaged: an extended header is not made of records")
            self._check_key(name := key.decode("utf-8", "replace"))
            if name in records:
                self._source.fail(f"says {name[:_SHOWN]!r} twice in an extended header")
            records[name] = value
            at = end
        return records

    def _check_key(self, key: str) -> None:
        if key.startswith("GNU.sparse."):
            self._source.fail("has a sparse file, which packages cannot have")
        # the attributes that give a program more rights than its caller has
        if key.startswith("security.") or ".xattr.security." in key:
            self._source.fail(f"sets the attribute {key[:_SHOWN]!r}, which packages may not")

    def _member(self, header: _Header, extensions: dict[str, bytes]) -> Member:
        raw, target, size = header.name, header.target, header.size
        if extensions:
            raw = self._override(raw, extensions.get("path"), header)
            target = self._override(target, extensions.get("linkpath"), header)
            size = self._override_size(size, extensions.get("size"), raw)
        kind = _KINDS.get(header.kind)
        if kind is None:
            what = _OTHERS.get(header.kind, f"of an unknown kind, {header.kind!r}")
            self._refuse(raw, f"is {what}, which packages cannot have")
        if kind == "directory":
            raw = raw.removesuffix(b"/")
        if size and kind != "file":
            self._refuse(raw, f"is a {kind} with data")
        name = self._name(raw, "")
        self._count(raw, target)
        link = self._target(kind, target, raw)
        if size > self._limits.total_bytes:
            self._refuse(raw, f"has {size} bytes; at most {self._limits.total_bytes} are accepted")
        return Member(name, kind, size, bool(header.mode & 0o100), link, _closed(header.mode))

    def _override(self, field: bytes, value: bytes | None, header: _Header) -> bytes:
        """Return the long form of a name whose short form begins it; programs that know no long form see that one."""
        if value is None:
            return field
        if not value or b"\0" in value:
            self._refuse(header.name, "has a name or target that is empty or holds a NUL")
        if value.startswith(field):
            return value
        # tarfile writes ? for what is not ASCII, Go leaves it out
        text = _text(value)
        if not any(text.encode("ascii", form).startswith(field) for form in ("replace", "ignore")):
            self._refuse(header.name, f"is called {value[:_SHOWN]!r} by its extended header")
        return value

    def _override_size(self, size: int, value: bytes | None, raw: bytes) -> int:
        if value is None:
            return size
        if not value.isdigit() or len(value) > 20:  # noqa: PLR2004 - more digits than 64 bits have
            self._refuse(raw, "has a size that is not a number")
        # for what the field cannot hold, tarfile writes 0
        if size not in (0, int(value)):
            self._refuse(raw, "has two sizes")
        return int(value)

    def _name(self, raw: bytes, role: str) -> str:
        if len(raw) > self._limits.path_bytes:
            self._refuse(raw, f"{role}has a name of {len(raw)} bytes; at most {self._limits.path_bytes}")
        name = _text(raw)
        directory, _, leaf = name.rpartition("/")
        if directory and directory == self._checked:
            self._check_parts([leaf], raw, role)
        else:
            parts = name.split("/")
            if len(parts) > self._limits.depth:
                self._refuse(raw, f"{role}lies more than {self._limits.depth} directories deep")
            self._check_parts(parts, raw, role)
            self._checked = directory
        return name

    def _check_parts(self, parts: list[str], raw: bytes, role: str) -> None:
        for part in parts:
            if part in _NOT_COMPONENTS:
                self._refuse(raw, f"{role}has a name that is absolute, or has `.`, `..` or nothing between slashes")
            if part.startswith(WHITEOUT):
                self._refuse(raw, f"{role}is a whiteout, which packages cannot have")
            if len(part) * 4 > self._limits.component_bytes and len(_bytes(part)) > self._limits.component_bytes:
                self._refuse(raw, f"{role}has a component of more than {self._limits.component_bytes} bytes")

    def _target(self, kind: Kind, target: bytes, raw: bytes) -> str:
        if kind == "hardlink":
            return self._name(target, "is a hard link whose target ")
        if kind != "symlink":
            return ""
        if not target or len(target) > _MAX_TARGET:
            self._refuse(raw, f"is a link whose target has {len(target)} bytes; 1 to {_MAX_TARGET} are possible")
        return _text(target)

    def _count(self, raw: bytes, target: bytes) -> None:
        self._members += 1
        self._name_bytes += len(raw) + len(target)
        if self._members > self._limits.members:
            self._source.fail(f"has more than {self._limits.members} members")
        further = self._members - self._limits.members_from
        if further > 0 and further * self._limits.member_bytes > self._source.arrived:
            self._source.fail(f"has {self._members} members in {self._source.arrived} bytes")
        if self._name_bytes > self._limits.name_bytes:
            self._source.fail(f"has more than {self._limits.name_bytes} bytes of names")

    def _refuse(self, raw: bytes, finding: str) -> NoReturn:
        shown = raw[:_SHOWN].decode("utf-8", "backslashreplace")
        raise ContentError(f"{self._what}: the member {shown!r} {finding}")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _closed(mode: int) -> int:
    """Return the bits that a mode withholds on purpose: its owner may read, and others (or the group, too) may not."""
    if not mode & 0o400 or mode & 0o005:
        return 0
    return 0o007 if mode & 0o050 else 0o077


def _padded(size: int) -> int:
    return size + -size % _BLOCK
