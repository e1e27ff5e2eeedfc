"""One file on disk: its kind, its relocation in place, and the search for old prefixes left in it.

Files are mapped into memory and changed where they are, so that all names of an inode see the change; the tree is a
staged one that is not in use yet. Only a file that grows is made longer; only text is copied as a whole.
"""

from __future__ import annotations

import codecs
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from mmap import ACCESS_READ, mmap
from typing import IO, Final

from oci_binpkg.disk import disk_refusal
from oci_binpkg.errors import ContentError
from oci_binpkg.relocate import ar, packed_scripts, text
from oci_binpkg.relocate.budget import Budget
from oci_binpkg.relocate.charsets import shapes
from oci_binpkg.relocate.compiled_python import relocate_constants, remaining_in_constants
from oci_binpkg.relocate.edits import Edited, Findings, RelocationFinding
from oci_binpkg.relocate.interpreter_lines import LONGEST_ON_LINUX, interpreter_line_is_too_long, with_sbang
from oci_binpkg.relocate.origins import MARKS, FileOrigin
from oci_binpkg.relocate.prefixes import PrefixMap
from oci_binpkg.relocate.scan import MAGIC_SIZE, FileKind, PrefixScanner, is_object_file
from oci_binpkg.relocate.strings import is_left, relocate_strings, remaining, wide_encoding_of

WHOLE: Final = 4 * 1024 * 1024
"""Texts up to this many bytes are read at once, longer ones in windows."""

_ELF: Final = b"\x7fELF"
_MARKS_PER_MENTION: Final = 8
"""Marks that stand in no path cost less than mentions do."""
_CHUNK: Final = 256 * 1024
_HEAD: Final = 4096
_NO_TEXT: Final = bytes({*range(0x20), 0x7F} - {*b"\b\t\n\v\f\r\x1b"})


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of one file. `refused`: reasons why it could not be changed; `remark`: what people should know.

    `further` counts findings beyond those kept, `unread` the old prefixes left where no program reads them.
    """

    changed: bool = False
    findings: tuple[RelocationFinding, ...] = ()
    refused: tuple[str, ...] = ()
    remark: str = ""
    further: int = 0
    unread: int = 0


def relocate_binary(
    path: str, mapping: PrefixMap, budget: Budget | None = None, origin: FileOrigin | None = None
) -> FileOutcome:
    """Relocate an ELF or Mach-O file; one that cannot be read as such is treated as bytes with strings in them.

    With `origin`, the place of the file, paths in it that start there are changed as well.
    """
    budget = budget or Budget()
    with opened(path) as descriptor:
        named = _names_any(descriptor, mapping, budget)
        if not named and not (origin is not None and _count(descriptor, MARKS, None)):
            return FileOutcome()  # most binaries: parsing them costs far more than a search through their bytes
        with _mapped(descriptor) as data:
            return _relocate_mapped(descriptor, data, mapping, budget, origin)


def _relocate_mapped(
    descriptor: int, data: mmap | bytes, mapping: PrefixMap, budget: Budget, origin: FileOrigin | None
) -> FileOutcome:
    try:
        if data[: len(_ELF)] == _ELF:
            from oci_binpkg.relocate.elf import relocate_elf  # noqa: PLC0415 - most packages need no ELF reader

            return _write(descriptor, relocate_elf(data, mapping, origin))
        if is_object_file(data[:MAGIC_SIZE]):
            return _relocate_macho(descriptor, data, mapping, budget, origin)
        remark = "declared a binary, but of no known format; only strings were changed"
    except ContentError as error:
        remark = f"only strings were changed: {error.message}"
    outcome = _write(descriptor, relocate_strings(data, mapping))
    return replace(outcome, remark=remark if outcome.changed else "")


def relocate_archive(path: str, mapping: PrefixMap, budget: Budget | None = None) -> FileOutcome:
    """Relocate the members of a static archive. Raises `ContentError` for a damaged one."""
    with opened(path) as descriptor, _mapped(descriptor) as data:
        _count(descriptor, mapping.old.needles, budget or Budget())
        return _write(descriptor, ar.relocate_archive(data, mapping))


def relocate_text(
    path: str, mapping: PrefixMap, budget: Budget | None = None, *, sbang: bytes = b"", whole: int = WHOLE
) -> FileOutcome:
    """Relocate a text file. With `sbang`, the path of that script, interpreter lines that become too long call it."""
    budget = budget or Budget()
    with opened(path) as descriptor:
        if os.fstat(descriptor).st_size > whole:
            changed = _rewrite(descriptor, mapping, budget, sbang)
        else:
            old = _content(descriptor)
            if begin := packed_scripts.data_behind(old):
                return _relocate_script(descriptor, old, begin, mapping, budget)
            _take(mapping, old, budget)
            new = mapping.replace_text(old, _shapes(old, mapping))
            if sbang and new != old:
                new = with_sbang(new, sbang)
            changed = new != old and _replace(descriptor, new)
        return _line_outcome(descriptor) if changed else FileOutcome()


def _line_outcome(descriptor: int) -> FileOutcome:
    """Return the outcome for a text that was changed: what starts with too long a line does not start."""
    head = os.pread(descriptor, _HEAD, 0)
    if os.fstat(descriptor).st_mode & 0o111 and interpreter_line_is_too_long(head, LONGEST_ON_LINUX):
        length = len(head.partition(b"\n")[0])
        reason = f"its interpreter line would have {length} bytes, and Linux reads {LONGEST_ON_LINUX}"
        return FileOutcome(changed=True, refused=(reason,))
    too_long = interpreter_line_is_too_long(head)
    return FileOutcome(changed=True, remark="its interpreter line is too long for some kernels" if too_long else "")


def relocate_undeclared(path: str, mapping: PrefixMap, budget: Budget | None = None) -> FileOutcome:
    """Relocate a text that no archiver takes for one that mentions a prefix, as it says `file://` or is in Shift-JIS.

    Texts have no control characters but those of lines. Of a script with other data behind it the script is changed.
    """
    budget = budget or Budget()
    with opened(path) as descriptor:
        size, head = os.fstat(descriptor).st_size, os.pread(descriptor, 2, 0)
        if size > (budget.whole_file if head == b"#!" else WHOLE):
            is_ours = _is_undeclared_text(_reader(descriptor), mapping)
            return FileOutcome(is_ours and _rewrite(descriptor, mapping, budget, b""))
        old = _content(descriptor)
        if begin := packed_scripts.data_behind(old):
            return _relocate_script(descriptor, old, begin, mapping, budget)
        if len(old.translate(None, _NO_TEXT)) != len(old) or (_is_plain(old) and next(mapping.old.mentions(old), None)):
            return FileOutcome()
        _take(mapping, old, budget)
        new = mapping.replace_text(old, _shapes(old, mapping))
        return FileOutcome(new != old and _replace(descriptor, new))


def _is_undeclared_text(read: Callable[[int], bytes], mapping: PrefixMap) -> bool:
    """Return whether a long file is text in UTF-8 that archivers do not declare, as it mentions no prefix as usual."""
    scan, decoder = PrefixScanner(mapping.old).start(), codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := read(_CHUNK):
            scan.feed(chunk)
            decoder.decode(chunk)
            if len(chunk.translate(None, _NO_TEXT)) != len(chunk):
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return scan.finish() is FileKind.OTHER


def _relocate_script(descriptor: int, content: bytes, begin: int, mapping: PrefixMap, budget: Budget) -> FileOutcome:
    _take(mapping, content[:begin], budget)
    new = packed_scripts.relocate_script(content, begin, mapping)
    outcome = FileOutcome()
    if new is not content:
        _replace(descriptor, new)
        outcome = _line_outcome(descriptor)
    if is_left(content[begin:], mapping):
        remark = "the data behind its script mention an old prefix and were left alone"
        return replace(outcome, remark=outcome.remark or remark)
    return outcome


def _is_plain(content: bytes) -> bool:
    """Return whether archivers take a text for one: it is UTF-8, or has no control characters of Latin-1."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return len(content.translate(None, bytes(range(0x7F, 0xA0)))) == len(content)
    return True


def relocate_wide_text(path: str, mapping: PrefixMap, budget: Budget | None = None, *, encoding: str) -> FileOutcome:
    """Relocate a text in UTF-16 or UTF-32. Raises `ContentError` for bytes that are not in this encoding."""
    with opened(path) as descriptor, tempfile.TemporaryFile() as copy:
        mark, read = text.wide_reader(_reader(descriptor), encoding)
        copy.write(mark)
        write = text.wide_writer(encoding, copy.write)
        changed = False
        for window in text.windows(read, mapping):
            (budget := budget or Budget()).take(len(window.mentions))
            changed |= bool(window.mentions)
            write(window.replaced())
        return FileOutcome(changed and _copy_back(copy, descriptor))


def relocate_compiled_python(path: str, mapping: PrefixMap, budget: Budget | None = None) -> FileOutcome:
    """Relocate the constants of a compiled Python file. Raises `ContentError` for one that cannot be read."""
    with opened(path) as descriptor:
        if os.fstat(descriptor).st_size > (budget or Budget()).whole_file:
            raise ContentError("a compiled Python file of which the layer had far fewer bytes")
        old = _content(descriptor)
        new = relocate_constants(old, mapping)
        return FileOutcome(new is not old and _replace(descriptor, new))


def left_in_binary(path: str, mapping: PrefixMap) -> list[int]:
    """Return where old prefixes are left in a file that `relocate_binary` changed."""
    with opened(path, os.O_RDONLY) as descriptor:
        if not _names_any(descriptor, mapping, None):
            return []
        with _mapped(descriptor) as data:
            try:
                if data[: len(_ELF)] == _ELF:
                    from oci_binpkg.relocate.elf import remaining_in_elf  # noqa: PLC0415 - as above

                    return list(remaining_in_elf(data, mapping))
                if is_object_file(data[:MAGIC_SIZE]):
                    from oci_binpkg.relocate.macho import remaining_in_macho  # noqa: PLC0415 - few have Mach-O files

                    return list(remaining_in_macho(bytes(data), mapping))
            except ContentError:
                pass
            return list(remaining(data, mapping))


def left_in_archive(path: str, mapping: PrefixMap) -> list[int]:
    """Return where old prefixes are left in the members of an archive."""
    with opened(path, os.O_RDONLY) as descriptor, _mapped(descriptor) as data:
        return list(ar.remaining_in_archive(data, mapping))


def left_in_compiled_python(path: str, mapping: PrefixMap) -> list[int]:
    """Return where old prefixes are left in the constants of a compiled Python file."""
    with opened(path, os.O_RDONLY) as descriptor:
        return list(remaining_in_constants(_content(descriptor), mapping))


def left_in_text(path: str, mapping: PrefixMap) -> list[int]:
    """Return [0] if an old prefix is left in a text file, or in the script that stands before other data."""
    with opened(path, os.O_RDONLY) as descriptor:
        is_long = os.fstat(descriptor).st_size > WHOLE
        script = os.pread(descriptor, packed_scripts.LONGEST_SCRIPT, 0) if is_long else _content(descriptor)
        behind = packed_scripts.data_behind(script)
        if behind or not is_long:
            script = script[: behind or len(script)]
            found = mapping.mentions(_shapes(script, mapping))
            return [0] if any(not mapping.is_new(script, each) for each in found) else []
        windows = text.windows(_reader(descriptor), mapping)
        return [0] if any(window.is_left(mapping) for window in windows) else []


def left_in_wide_text(path: str, mapping: PrefixMap, *, encoding: str) -> list[int]:
    """Return [0] if an old prefix is left in a text in UTF-16 or UTF-32."""
    with opened(path, os.O_RDONLY) as descriptor:
        found = text.windows(text.wide_reader(_reader(descriptor), encoding)[1], mapping)
        return [0] if any(window.is_left(mapping) for window in found) else []


@dataclass(frozen=True, slots=True)
class Mentioned:
    """The first bytes of a file, whether an old prefix stands in it, and the encoding if it is UTF-16 or UTF-32."""

    head: bytes
    anywhere: bool
    encoding: str = ""


def mentions(path: str, mapping: PrefixMap, budget: Budget | None = None) -> Mentioned:
    """Return whether an old prefix stands in a file, in whatever spelling and encoding."""
    budget = budget or Budget()
    with opened(path, os.O_RDONLY) as descriptor:
        head = os.pread(descriptor, MAGIC_SIZE, 0)
        encoding = text.wide_encoding(head)[1]
        if not _names_any(descriptor, mapping, budget):
            return Mentioned(head, anywhere=False)
        if encoding:
            return Mentioned(head, bool(_count(descriptor, mapping.old.spelled.wide_marks, None)), encoding)
        with _mapped(descriptor) as data:
            if not is_left(data, mapping):
                return Mentioned(head, anywhere=False)
            return Mentioned(head, anywhere=True, encoding=wide_encoding_of(data, mapping))


def _names_any(descriptor: int, mapping: PrefixMap, budget: Budget | None) -> bool:
    """Return whether an old prefix may stand in a file, in whatever spelling."""
    named = _count(descriptor, mapping.old.needles, budget)
    spelled = mapping.old.spelled
    marks = spelled.all_marks if mapping.bounded else spelled.wide_marks
    return bool(_count(descriptor, marks, budget, share=_MARKS_PER_MENTION) or named)


def _shapes(content: bytes, mapping: PrefixMap) -> bytes:
    """Return what a text looks like, character by character. That would hide paths beyond ASCII."""
    return shapes(content) if mapping.old.are_ascii else content


def _take(mapping: PrefixMap, content: bytes, budget: Budget) -> None:
    budget.take(mapping.old.count_in(content))
    if mapping.bounded:
        budget.take(sum(map(content.count, mapping.old.spelled.marks)) // _MARKS_PER_MENTION)


def _count(descriptor: int, needles: tuple[bytes, ...], budget: Budget | None, *, share: int = 1) -> int:
    """Count where any old prefix may stand in a file. Read in pieces: a mapped file would count as memory.

    Without a budget the count ends at the first; of it the count takes the share.
    """
    overlap = max(map(len, needles), default=1) - 1
    if os.fstat(descriptor).st_size <= _CHUNK:
        content = os.pread(descriptor, _CHUNK, 0)
        return _taken(sum(map(content.count, needles)), budget, share)
    # the end of each piece stays before the next one, so that nothing is copied but that
    piece = bytearray(overlap + _CHUNK)
    target = memoryview(piece)[overlap:]
    offset, found = 0, 0
    while count := os.preadv(descriptor, [target], offset):
        start, end = 0 if offset else overlap, overlap + count
        here = sum(piece.count(needle, start, end) for needle in needles)
        found += _taken(here, budget, share)
        if found and budget is None:
            break
        offset += count
        piece[:overlap] = piece[end - overlap : end]
    return found


def _taken(count: int, budget: Budget | None, share: int) -> int:
    if count and budget is not None:
        budget.take(count // share)
    return count


def _relocate_macho(
    descriptor: int, data: mmap | bytes, mapping: PrefixMap, budget: Budget, origin: FileOrigin | None
) -> FileOutcome:
    if len(data) > budget.whole_file:
        raise ContentError(f"a Mach-O file of {len(data)} bytes, of which the layer had far fewer")
    from oci_binpkg.relocate.macho import relocate_macho  # noqa: PLC0415 - few packages have Mach-O files

    edit = relocate_macho(bytes(data), mapping, origin)
    if edit.changed:
        _replace(descriptor, edit.data)
    kept = Findings()
    for finding in edit.findings:
        kept.add(finding)
    return FileOutcome(edit.changed, tuple(kept.kept), edit.refused, further=kept.further, unread=edit.unread)


def _write(descriptor: int, edited: Edited) -> FileOutcome:
    for patch in edited.patches:
        _write_at(descriptor, patch.data, patch.offset)
    return FileOutcome(bool(edited), edited.findings, further=edited.further, unread=edited.unread)


def _replace(descriptor: int, content: bytes) -> bool:
    _write_at(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))
    return True


def _rewrite(descriptor: int, mapping: PrefixMap, budget: Budget, sbang: bytes) -> bool:
    """Replace what a long text mentions, window by window."""
    changed = False
    with tempfile.TemporaryFile() as copy:
        for window in text.windows(_reader(descriptor), mapping):
            budget.take(len(window.mentions))
            replaced = window.replaced()
            if sbang and window.mentions and not copy.tell():
                replaced = with_sbang(replaced, sbang)
            changed |= bool(window.mentions)
            copy.write(replaced)
        return changed and _copy_back(copy, descriptor)


def _copy_back(copy: IO[bytes], descriptor: int) -> bool:
    end = copy.tell()
    copy.seek(0)
    at = 0
    while chunk := copy.read(_CHUNK):
        _write_at(descriptor, chunk, at)
        at += len(chunk)
    os.ftruncate(descriptor, end)
    return True


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _reader(descriptor: int) -> Callable[[int], bytes]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return lambda size: os.read(descriptor, size)


def _content(descriptor: int) -> bytes:
    read = _reader(descriptor)
    return b"".join(iter(lambda: read(_CHUNK), b""))


@contextmanager
def _mapped(descriptor: int) -> Iterator[mmap | bytes]:
    if not os.fstat(descriptor).st_size:
        yield b""
        return
    with mmap(descriptor, 0, access=ACCESS_READ) as data:
        yield data


@contextmanager
def opened(path: str, flags: int = os.O_RDWR) -> Iterator[int]:
    """Open a file that its owner may not write as well, never through a link. Raises `LocalDiskError`."""
    mode = None
    try:
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        except PermissionError:
            mode = os.lstat(path).st_mode & 0o7777
            os.chmod(path, mode | 0o600, follow_symlinks=True)
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
            if mode is not None:
                os.chmod(path, mode)
    except OSError as error:
        raise disk_refusal(
            f"cannot relocate {path}", error, hint="check the free space and the permissions there"
        ) from error
