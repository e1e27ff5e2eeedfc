"""Compression of layers, both ways: gzip and zstd.

What is compressed here depends on content and codec alone: blocks of a fixed size go to any number of threads, and
neither that number nor the sizes of the pieces written show in the result. What is decompressed may come from anybody:
magic number and declared type must agree on the format, memory is bounded whatever the ratio, and a stream that is cut,
goes on after its end or has a wrong checksum is an error.

Sources: RFC 1951, 1952 and 8878; media types from the OCI image-spec 1.1 (layer.md) and Docker's manifest v2 schema 2.
"""

from __future__ import annotations

import io
import re
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, Final, Literal, NoReturn, Protocol, Self, cast

import deflate
import isal
import zstandard
from isal import isal_zlib

from oci_binpkg.archive.layer_frame import GZIP_HEADER, member
from oci_binpkg.errors import ContentError, UsageError
from oci_binpkg.model.content import DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, OCI_LAYER_ZSTD

BLOCK: Final = 1024 * 1024
_PIECE: Final = 256 * 1024
_LARGEST: Final = 1024 * 1024
"""The most bytes that gzip gives out at once: one whole member as we write them."""
_RAW: Final = -15
_ISAL_LEVELS: Final = {1: 1}
_LIBDEFLATE_LEVELS: Final = {2: 1, 3: 2, 4: 3, 5: 4, 6: 6, 7: 7, 8: 8, 9: 9}
_LEVELS: Final = {"gzip": (2, 9), "zstd": (5, 19)}
_NAMED: Final = {"gzip": {"fast": 1, "balanced": 2, "small": 9}, "zstd": {"fast": 1, "balanced": 5, "small": 12}}
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_ZSTD_PROBE: Final = 5
"""The magic number and the byte with the length of the frame header (RFC 8878, 3.1.1.1)."""
_MAX_ZSTD_WINDOW: Final = 128 * 1024 * 1024
"""What the zstd command accepts by default (RFC 8878 asks for 8 MiB at least)."""
_TEXT: Final = re.compile(r"(gzip|zstd)(?::(?:([0-9]{1,2})|(fast|balanced|small)))?|(fast|balanced|small)", re.ASCII)

_IGZIP_ERROR: Final = cast("type[Exception]", isal_zlib.error)

Family = Literal["oci", "docker"]
Sink = Callable[["bytes | bytearray"], Any]
_Block = bytes | bytearray | memoryview
_Deflate = Callable[[_Block], "bytes | bytearray"]


@dataclass(frozen=True, slots=True)
class Codec:
    """A compression and its level.

    gzip has levels 1 to 9: 1 is ISA-L's, 12 to 16 % larger than zlib at its level 6; from 2, the default, which is 5 to
    10 % larger, they are libdeflate's, whose bytes are the same on all processors. zstd has levels 1 to 19, 5 by
    default, and the same bytes everywhere too.
    """

    name: Literal["gzip", "zstd"]
    level: int

    @classmethod
    def parse(cls, text: str) -> Codec:
        """Parse `gzip`, `zstd`, `fast`, `balanced`, `small`, or `gzip:` or `zstd:` and a level or one of those names.

        The names alone are gzip's. Raises `UsageError`.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise UsageError(
                f"not a compression: {text[:100]!r}",
                hint="write fast, balanced or small (gzip), gzip:1 to gzip:9, zstd:1 to zstd:19, or zstd:small",
            )
        name: Literal["gzip", "zstd"] = "zstd" if match[1] == "zstd" else "gzip"
        default, highest = _LEVELS[name]
        level = int(match[2]) if match[2] else _NAMED[name].get(match[3] or match[4], default)
        if not 1 <= level <= highest:
            raise UsageError(f"{name} has no level {level}", hint=f"its levels are 1 to {highest}")
        return cls(name, level)

    def __str__(self) -> str:
        return f"{self.name}:{self.level}"

    def media_type(self, family: Family) -> str:
        """Return the type of a layer in OCI or Docker images. Raises `UsageError`: Docker's types have no zstd."""
        if self.name == "gzip":
            return OCI_LAYER_GZIP if family == "oci" else DOCKER_LAYER_GZIP
        if family == "docker":
            raise UsageError(
                "an image in Docker's format cannot have zstd layers", hint="use gzip, or a base image in OCI format"
            )
        return OCI_LAYER_ZSTD

    @property
    def cache_identity(self) -> str:
        """Everything the compressed bytes depend on besides the content: another release may compress otherwise."""
        if self.name == "zstd":
            library = "zstd-" + ".".join(map(str, zstandard.ZSTD_VERSION))
        elif self.level in _ISAL_LEVELS:
            library = f"isal-{isal.__version__}"
        else:
            library = f"libdeflate-{deflate.__version__}"
        return f"{self}:{library}:{BLOCK}:parts" if self.name == "gzip" else f"{self}:{library}:{BLOCK}"

    def compressor(self, sink: Sink, *, threads: int = 1) -> Compressor:
        """Begin a compressed stream that is written to `sink`, with `threads` threads besides the caller's."""
        threads = max(1, threads)
        if self.name == "zstd":
            return Compressor(_Zstd(sink, self.level, threads))
        return Compressor(_Gzip(sink, _deflate(self.level), threads))


class _BlockCompressor(Protocol):
    """Compresses blocks of the size `BLOCK`, and at the end a rest that is smaller and may be empty."""

    def write(self, block: _Block) -> None: ...

    def spare(self) -> bytearray:
        """Return a block of that size to be filled and written; the engine owns it again from then on."""
        ...

    has_parts: bool
    """Whether a stream may be cut into parts that all readers take for one."""

    def frame(self, rest: _Block, data: bytes | bytearray) -> None:
        """Compress a rest as if it were the end, then `data` as a part of its own."""
        ...

    def close(self, rest: _Block) -> None: ...

    def abort(self) -> None: ...


class Compressor:
    """A stream to write to, as a context: leaving it writes what is left and ends the stream, after an error stops it.

    What the sink raises is raised from `write` or from leaving the context.
    """

    def __init__(self, engine: _BlockCompressor) -> None:
        self._engine = engine
        self._pieces: list[bytes | bytearray] = []
        self._block: bytearray | None = None
        self._filled = 0

    def write(self, data: bytes | bytearray) -> None:
        """Compress the next bytes."""
        if self._block is None:
            # most layers are smaller than a block, which they need not have to themselves
            if self._filled + len(data) < BLOCK:
                self._pieces.append(data)
                self._filled += len(data)
                return
            self._block = self._engine.spare()
            memoryview(self._block)[: self._filled] = b"".join(self._pieces)
            self._pieces = []
        view = memoryview(data)
        while len(view) >= (missing := BLOCK - self._filled):
            memoryview(self._block)[self._filled :] = view[:missing]
            view = view[missing:]
            self._engine.write(self._block)
            self._block, self._filled = self._engine.spare(), 0
        memoryview(self._block)[self._filled : self._filled + len(view)] = view
        self._filled += len(view)

    def frame(self, data: bytes | bytearray) -> None:
        """Compress the next bytes, a few KiB at most; in gzip as a part of their own, as `layer_frame` says."""
        if not self._engine.has_parts:
            self.write(data)
            return
        self._engine.frame(self._rest, data)
        self._pieces, self._filled = [], 0

    @property
    def _rest(self) -> _Block:
        return b"".join(self._pieces) if self._block is None else memoryview(self._block)[: self._filled]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._engine.close(self._rest)
        finally:
            self._engine.abort()


class _Gzip:
    """Gzip members, one for each block, compressed side by side.

    Members that follow one another are one stream for every reader (RFC 1952, 2.2). What fits into a single block is
    compressed by the thread that closes the stream: most packages are that small, and starting threads costs more.
    """

    def __init__(self, sink: Sink, deflate: _Deflate, threads: int) -> None:
        self._sink = sink
        self._deflate = deflate
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._running: deque[tuple[_Block, Future[tuple[bytes | bytearray, bytes]]]] = deque()
        self._spare: list[bytearray] = []
        self._begun = False
        self.has_parts = True

    def write(self, block: _Block) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "deflate")
        self._running.append((block, self._pool.submit(self._compress, block)))
        while len(self._running) > self._threads + 1:
            self._take_first()

    def spare(self) -> bytearray:
        # fresh memory costs as much as copying does: the kernel gives it page by page
        return self._spare.pop() if self._spare else bytearray(BLOCK)

    def frame(self, rest: _Block, data: bytes | bytearray) -> None:
        while self._running:
            self._take_first()
        if rest:
            self._take(self._compress(rest))
        self._sink(member(data))
        self._begun = True

    def close(self, rest: _Block) -> None:
        while self._running:
            self._take_first()
        if rest or not (self._begun or self._pool):
            self._take(self._compress(rest))

    def abort(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _compress(self, block: _Block) -> tuple[bytes | bytearray, bytes]:
        return self._deflate(block), struct.pack("<II", isal_zlib.crc32(block), len(block))

    def _take_first(self) -> None:
        block, member = self._running.popleft()
        self._take(member.result())
        if isinstance(block, bytearray):
            self._spare.append(block)

    def _take(self, member: tuple[bytes | bytearray, bytes]) -> None:
        compressed, trailer = member
        if len(compressed) < _PIECE:
            self._sink(b"".join((GZIP_HEADER, compressed, trailer)))
            return
        for part in (GZIP_HEADER, compressed, trailer):
            self._sink(part)


class _Zstd:
    """One zstd frame with a checksum, compressed by threads of the library; how many does not show in the bytes.

    zstd gets the size of content that fits into a single block: it then chooses better, and needs no threads.
    """

    def __init__(self, sink: Sink, level: int, threads: int) -> None:
        self._sink = sink
        self._level = level
        self._threads = threads
        self.has_parts = False  # a second frame is one that some readers never see
        self._stream: zstandard.ZstdCompressionObj | None = None
        self._block: bytearray | None = None

    def write(self, block: _Block) -> None:
        if self._stream is None:
            self._stream = self._compressor(self._threads).compressobj()
        compressed = self._stream.compress(block)
        if compressed:
            self._sink(compressed)

    def spare(self) -> bytearray:
        # the library has copied the last one
        self._block = self._block or bytearray(BLOCK)
        return self._block

    def frame(self, rest: _Block, data: bytes | bytearray) -> None:
        raise NotImplementedError

    def close(self, rest: _Block) -> None:
        if self._stream is None:
            self._sink(self._compressor(0).compress(rest))
        else:
            self._sink(self._stream.compress(rest) + self._stream.flush())

    def abort(self) -> None:
        """Do nothing: only memory is held."""

    def _compressor(self, threads: int) -> zstandard.ZstdCompressor:
        return zstandard.ZstdCompressor(level=self._level, threads=threads, write_checksum=True)


def _deflate(level: int) -> _Deflate:
    """Return the function that compresses a block to raw deflate."""
    if level not in _ISAL_LEVELS:
        return partial(deflate.deflate_compress, compresslevel=_LIBDEFLATE_LEVELS[level])

    def fastest(block: _Block) -> bytes:
        stream = isal_zlib.compressobj(_ISAL_LEVELS[level], wbits=_RAW)
        return stream.compress(block) + stream.flush()

    return fastest


class Readable(Protocol):
    """What a compressed stream has to offer."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        ...


def decompressor(stream: Readable, what: str, *, media_type: str = "", several_frames: bool = False) -> BinaryIO:
    """Return a reader of what `stream` holds uncompressed, whether that is gzip, zstd or neither by its magic number.

    Reading raises `ContentError` naming `what` for a stream that is damaged, cut short or followed by something else;
    calling this does if the format is not the one that `media_type` declares (types that say nothing agree with all).
    Several gzip members are one stream (RFC 1952, 2.2); several zstd frames, as base layers for lazy pulling have them,
    only if `several_frames`. `stream` is not closed.
    """
    chunks = decompressed(stream, what, media_type=media_type, several_frames=several_frames)
    return cast("BinaryIO", io.BufferedReader(_ChunkStream(chunks), _PIECE))


def decompressed(stream: Readable, what: str, *, media_type: str = "", several_frames: bool = False) -> Iterator[bytes]:
    """Return the same as chunks as they come, none empty, at most 1 MiB each; after an error there are no more."""
    source = _Source(stream, what)
    magic = source.peek(len(_ZSTD_MAGIC))
    if magic.startswith(_GZIP_MAGIC):
        found, chunks = "gzip", _gunzip(source)
    elif magic == _ZSTD_MAGIC or _SKIPPABLE.fullmatch(magic):
        found, chunks = "zstd", _unzstd(source, several=several_frames)
    else:
        found, chunks = "tar", iter(source.some, b"")
    declared = next((name for name in ("gzip", "zstd", "tar") if media_type.endswith(name)), found)
    if declared != found:
        source.fail(f"is not {declared}, although it is declared as {media_type}")
    return chunks


class _ChunkStream(io.RawIOBase):
    """A readable stream made of chunks as they come."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._failure: ContentError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any, /) -> int:
        while not self._rest:
            if self._failure is not None:
                raise self._failure.again() from self._failure
            try:
                chunk = next(self._chunks, None)
            except ContentError as error:
                self._failure = error  # a generator that failed looks like one at its end
                raise
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Source:
    """Compressed bytes in pieces of the size that is needed."""

    def __init__(self, stream: Readable, what: str) -> None:
        self._stream = stream
        self._what = what
        self._buffer = b""
        self._at = 0

    def fail(self, finding: str) -> NoReturn:
        raise ContentError(f"{self._what}: the layer {finding}")

    def some(self) -> bytes:
        """Return a piece of any size, b"" at the end."""
        rest, self._buffer, self._at = self._buffer[self._at :], b"", 0
        return rest or self._stream.read(_PIECE)

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end, and leave them to be read."""
        while len(self._buffer) - self._at < size and (more := self._stream.read(_PIECE)):
            self._buffer, self._at = self._buffer[self._at :] + more, 0
        return self._buffer[self._at : self._at + size]

    def give_back(self, data: bytes) -> None:
        """Take back what was read too much."""
        self._buffer, self._at = data + self._buffer[self._at :], 0

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes, at most a few MiB."""
        data = self.peek(size)
        if len(data) < size:
            self.fail("is cut short")
        self._at += size
        return data


def _gunzip(source: _Source) -> Iterator[bytes]:
    while magic := source.peek(len(_GZIP_MAGIC)):
        if magic != _GZIP_MAGIC:
            source.fail("goes on after the end of its gzip stream")
        member = isal_zlib.decompressobj(wbits=16 - _RAW)
        data = b""
        while not member.eof:
            data = data or source.some()
            try:
                chunk = member.decompress(data, _LARGEST)
            except _IGZIP_ERROR as error:
                source.fail(f"is damaged: {error}")
            if not data and not chunk and not member.eof:
                source.fail("is cut short")
            data = member.unconsumed_tail
            if chunk:
                yield chunk
        source.give_back(member.unused_data)


def _unzstd(source: _Source, *, several: bool) -> Iterator[bytes]:
    first = True
    while magic := source.peek(len(_ZSTD_MAGIC)):
        if not several and not (first and magic == _ZSTD_MAGIC):
            source.fail("is not a single zstd frame")
        first = False
        if _SKIPPABLE.fullmatch(magic):
            left = int.from_bytes(source.exactly(8)[4:], "little")
            while left:
                left -= len(source.exactly(min(left, _PIECE)))
        elif magic == _ZSTD_MAGIC:
            yield from _frame(source)
        else:
            source.fail("goes on after the end of its zstd stream")


def _frame(source: _Source) -> Iterator[bytes]:
    """Decompress one frame, block by block: that bounds what a few bytes can grow to, and shows where the frame ends.

    A block gives 128 KiB at most (RFC 8878, 3.1.1.2.4).
    """
    try:
        header = source.exactly(zstandard.frame_header_size(source.peek(_ZSTD_PROBE)))
        parameters = zstandard.get_frame_parameters(header)
        if parameters.window_size > _MAX_ZSTD_WINDOW:
            source.fail(f"needs {parameters.window_size} bytes to decompress; at most {_MAX_ZSTD_WINDOW} are given")
        frame = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).decompressobj()
        frame.decompress(header)
        last = False
        while not last:
            block = source.exactly(3)
            last = bool(block[0] & 1)
            size = int.from_bytes(block, "little") >> 3
            repeated = block[0] >> 1 & 3 == 1
            if chunk := frame.decompress(block + source.exactly(1 if repeated else size)):
                yield chunk
        if parameters.has_checksum:
            frame.decompress(source.exactly(4))
        if not frame.eof:
            source.fail("is cut short")
    except zstandard.ZstdError as error:
        source.fail(f"is damaged: {error}")
