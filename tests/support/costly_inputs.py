"""Inputs of at most 1 MB, as they are transferred, that would cost a careless reader gigabytes or minutes. Made by code.

Each says which command is run on it. Files lie below `base/input`, nothing else does; servers send no more than that.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.costly_layouts import (
    HASH,
    PREFIX,
    ZSTD_LAYER,
    Json,
    Layout,
    Zeros,
    distribution,
    index_document,
    mirror,
    node,
    tar,
)
from tests.support.hostile_archives import zst
from tests.support.raw_servers import Behaviour

MIB = 1024 * 1024
LARGEST = MIB + 64 * 1024
"""What of an input counts as 1 MB: itself, and the few small documents around it."""
TINY = 900_000


@dataclass(frozen=True)
class Asked:
    """What is run on an input."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Costly:
    """`make` writes the input below a folder; with `server`, HOST in what it returns is that server's address."""

    name: str
    make: Callable[[Path], Asked]
    server: Behaviour | None = None


CASES: dict[str, Costly] = {}
Maker = Callable[[Path], Asked]


def case(name: str, *, server: Behaviour | None = None) -> Callable[[Maker], Maker]:
    def add(make: Maker) -> Maker:
        assert name not in CASES
        CASES[name] = Costly(name, make, server)
        return make

    return add


def repeated(piece: bytes, size: int = TINY) -> bytes:
    return piece * (size // len(piece))


# What is run on a cache -----------------------------------------------------------------------------------------------


def install(cache: str, base: Path, *more: str) -> Asked:
    return Asked(["install", "zlib", "--from", cache, "--store", str(base / "store"), "--no-check-signature", *more])


def show(cache: str, base: Path) -> Asked:
    return Asked(["show", f"/{HASH}", "--from", cache, "--no-check-signature"])


def download(cache: str, base: Path) -> Asked:
    return Asked(["download", f"/{HASH}", str(base / "files"), "--from", cache, "--no-check-signature"])


def copy(cache: str, base: Path) -> Asked:
    return Asked(["copy", cache, f"oci-layout:{base}/copied", "--no-check-signature"])


def save_specs(cache: str, base: Path) -> Asked:
    return Asked(["save-specs", "zlib", "--from", cache, "--output-dir", str(base / "specs")])


def find(cache: str, base: Path) -> Asked:
    return Asked(["find", "--from", cache])


def inspect(cache: str, base: Path) -> Asked:
    return Asked(["inspect", cache])


def inspect_image(cache: str, base: Path) -> Asked:
    return Asked(["inspect", f"{cache}:zlib-1.3-{HASH}.spack"])


def load(cache: str, base: Path) -> Asked:
    return Asked(["load", f"{cache}:zlib-1.3-{HASH}.spack"])


def update(cache: str, base: Path) -> Asked:
    return Asked(["index", "update", cache, "--no-check-signature"])


def check(cache: str, base: Path) -> Asked:
    return Asked(["index", "check", cache])


def rebuild(cache: str, base: Path) -> Asked:
    return Asked(["index", "rebuild", cache, "--no-check-signature"])


def search(cache: str, base: Path) -> Asked:
    (base / "config.toml").write_text(f'[caches.lab]\nurl = "{cache}"\n')
    return Asked(["search", "zlib"], {"OCI_BINPKG_CONFIG": str(base / "config.toml")})


On = Callable[[str, Path], Asked]


def layout_case(name: str, on: On, build: Callable[[Layout], object]) -> None:
    def make(base: Path) -> Asked:
        layout = Layout(base / "input")
        build(layout)
        if not (layout.path / "index.json").exists():
            layout.done()
        return on(layout.cache, base)

    CASES[name] = Costly(name, make)


# Documents of a layout ------------------------------------------------------------------------------------------------

JSON_BOMBS = {
    "lists": b"[" + repeated(b"[],") + b"[]]",
    "objects": b"[" + repeated(b"{},") + b"{}]",
    "nesting": repeated(b"[", 450_000) + repeated(b"]", 450_000),
    "digits": repeated(b"1"),
    "a fraction": b"1." + repeated(b"1"),
    "members": b"{" + b",".join(b'"%x":0' % number for number in range(90_000)) + b"}",
    "escapes": b'"' + repeated(rb"\u0061") + b'"',
}

for _name, _bomb in JSON_BOMBS.items():
    for _on in (find, inspect):
        layout_case(
            f"index.json of {_name}, {_on.__name__}",
            _on,
            lambda layout, bomb=_bomb: layout.done(b'{"schemaVersion":2,"manifests":' + bomb + b"}"),  # type: ignore[misc]
        )
    layout_case(
        f"a manifest with {_name}, install",
        install,
        lambda layout, bomb=_bomb: (  # type: ignore[misc]
            layout.index(index_document(node())),
            layout.tag(b'{"schemaVersion":2,"layers":' + bomb + b"}", f"zlib-1.3-{HASH}.spack"),
        ),
    )
    layout_case(
        f"a config with {_name}, show",
        show,
        lambda layout, bomb=_bomb: layout.package(config_bytes=b'{"architecture":"amd64","spec":' + bomb + b"}"),  # type: ignore[misc]
    )
    layout_case(
        f"an index with {_name}, update",
        update,
        lambda layout, bomb=_bomb: layout.package().index(b'{"database":{"version":"8","installs":' + bomb + b"}}"),  # type: ignore[misc]
    )

layout_case(
    "index.json with one name again and again, find",
    find,
    lambda layout: layout.done(
        json.dumps(
            {"schemaVersion": 2, "manifests": [{"annotations": {"org.opencontainers.image.ref.name": "a"}}] * 14_000}
        ).encode()
    ),
)
layout_case(
    "annotations by the ten thousand, install-image",
    inspect_image,
    lambda layout: layout.package(annotations={f"k{number}": "v" for number in range(50_000)}),
)
layout_case(
    "a manifest of 9,000 layers, inspect",
    inspect_image,
    lambda layout: layout.tag(
        json.dumps(
            {
                "schemaVersion": 2,
                "config": {"mediaType": "a/b", "digest": f"sha256:{'0' * 64}", "size": 1},
                "layers": [{"mediaType": "a/b", "digest": f"sha256:{'0' * 64}", "size": 1}] * 8_000,
            }
        ).encode(),
        f"zlib-1.3-{HASH}.spack",
    ),
)


# Specs ----------------------------------------------------------------------------------------------------------------


def hash_of(number: int) -> str:
    return f"{number:032d}".translate(str.maketrans("0189", "zyxw"))


def complete_graph(count: int) -> list[Json]:
    names = [("zlib", HASH), *((f"p{number}", hash_of(number)) for number in range(1, count))]
    return [node(name, key, needs=names[at + 1 :]) for at, (name, key) in enumerate(names)]


def chain_of(count: int) -> list[Json]:
    names = [("zlib", HASH), *((f"p{number}", hash_of(number)) for number in range(1, count))]
    return [node(name, key, needs=names[at + 1 : at + 2]) for at, (name, key) in enumerate(names)]


SPECS: dict[str, Callable[[], list[Json]]] = {
    "parameters": lambda: [node(parameters={f"v{number}": [] for number in range(60_000)})],
    "one parameter of many values": lambda: [node(parameters={"v": ["a"] * 200_000})],
    "every package needs every other": lambda: complete_graph(110),
    "a long chain": lambda: chain_of(2_000),
    "a version of many parts": lambda: [node(version=".".join(["1"] * 300_000))],
    "features": lambda: [
        node(
            arch={
                "platform": "linux",
                "platform_os": "debian12",
                "target": {
                    "name": "x86_64",
                    "vendor": "x",
                    "features": ["a"] * 200_000,
                    "generation": 0,
                    "parents": [],
                },
            }
        )
    ],
    "edges again and again": lambda: [node(needs=[("a", hash_of(1))] * 8_000), node("a", hash_of(1))],
}
for _name, _make in SPECS.items():
    for _on in (install, show, save_specs):
        layout_case(f"a spec: {_name}, {_on.__name__}", _on, lambda layout, make=_make: layout.package(nodes=make()))  # type: ignore[misc]
    for _on in (rebuild, search):
        layout_case(
            f"an index of a spec: {_name}, {_on.__name__}",
            _on,
            lambda layout, make=_make: layout.package().index(index_document(*make())),  # type: ignore[misc]
        )


# Indices --------------------------------------------------------------------------------------------------------------


def installs(*records: bytes) -> bytes:
    return b'{"database":{"version":"8","installs":{' + b",".join(records) + b"}}}"


INDICES = {
    "tiny records": lambda: installs(*(b'"%s":{}' % hash_of(number).encode() for number in range(25_000))),
    "records that are no objects": lambda: installs(*(b'"%d":1' % number for number in range(100_000))),
    "one key that does not end": lambda: b'{"database":{"version":"8","installs":{"' + repeated(b"a"),
    "blanks": lambda: b'{"database":' + repeated(b" ") + b'{"version":"8","installs":{}}}',
    "members": lambda: b"{" + b",".join(b'"%d":1' % number for number in range(90_000)) + b"}",
    "packages": lambda: index_document(*(node(f"p{number}", hash_of(number)) for number in range(2_200))),
    "markup": lambda: repeated(b"<a>"),
}
for _name, _data in INDICES.items():
    for _on in (search, update, check):
        layout_case(
            f"an index: {_name}, {_on.__name__}",
            _on,
            lambda layout, data=_data: layout.package().index(data()),  # type: ignore[misc]
        )


# Mirrors --------------------------------------------------------------------------------------------------------------


def mirror_case(name: str, on: On, **parts: Callable[[], Any]) -> None:
    def make(base: Path) -> Asked:
        return on(mirror(base / "input", **{part: value() for part, value in parts.items()}), base)

    CASES[name] = Costly(name, make)


def zipped(size: int, piece: bytes, head: bytes = b"", tail: bytes = b"") -> bytes:
    """The gzip form of a long text, cut to what 1 MB holds."""
    return gzip.compress(head + piece * (size // len(piece)) + tail, 6, mtime=0)


SIXTY = 60 * MIB
mirror_case(
    "a spec document that inflates to a gigabyte of blanks, install", install, spec=lambda: zipped(250 * MIB, b" ")
)
mirror_case("a spec document of lists, show", show, spec=lambda: zipped(SIXTY, b"[],", b'{"spec":[', b"[]]}"))
mirror_case(
    "a spec document of one text, download",
    download,
    spec=lambda: zipped(SIXTY, b"a", b'{"spec":"', '\U0001f600"}'.encode()),
)
mirror_case("a spec document of members, copy", copy, spec=lambda: zipped(SIXTY, b'"a":{},', b'{"spec":{', b'"b":1}}'))
mirror_case(
    "an index that inflates to blanks, search",
    search,
    index=lambda: zipped(250 * MIB, b" "),
    index_compression=lambda: "gzip",
)
mirror_case(
    "an index of records that inflates, search",
    search,
    index=lambda: gzip.compress(
        installs(*(b'"%s":{"spec":{"name":"a"}}' % hash_of(number).encode() for number in range(600_000))), mtime=0
    )[:MIB],
    index_compression=lambda: "gzip",
)
mirror_case(
    "an index of packages that inflates, search",
    search,
    index=lambda: gzip.compress(
        index_document(*(node(f"p{number}", hash_of(number)) for number in range(40_000))), mtime=0
    ),
    index_compression=lambda: "gzip",
)
mirror_case(
    "an index of one long text, update",
    update,
    index=lambda: zipped(250 * MIB, b"a", b'{"database":"'),
    index_compression=lambda: "gzip",
)
for _name, _bomb in JSON_BOMBS.items():
    mirror_case(
        f"a mirror's manifest of {_name}, install",
        install,
        manifest=lambda bomb=_bomb: b'{"version":3,"data":' + bomb + b"}",  # type: ignore[misc]
    )
mirror_case(
    "a clear-signed document of blank lines, show",
    show,
    wrap=lambda: (
        lambda data: (
            b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
            + b"\n" * TINY
            + b"-----BEGIN PGP SIGNATURE-----\n\n"
        )
    ),
)
mirror_case(
    "a clear-signed document of marks, show",
    show,
    wrap=lambda: lambda data: repeated(b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"),
)
mirror_case(
    "an armor of many lines, show",
    show,
    wrap=lambda: (
        lambda data: (
            b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
            + data
            + b"\n-----BEGIN PGP SIGNATURE-----\n\n"
            + repeated(b"A" * 76 + b"\n")
        )
    ),
)


@case("keys of a mirror, fetch")
def keys_listing(base: Path) -> Asked:
    cache = mirror(base / "input")
    folder = base / "input/v3/manifests/key"
    folder.mkdir(parents=True)
    (folder / "keys.manifest.json").write_bytes(b'{"version":3,"data":' + JSON_BOMBS["objects"] + b"}")
    return Asked(["keys", "fetch", cache])


@case("a key file, trust")
def key_file(base: Path) -> Asked:
    (base / "input").mkdir()
    (base / "input/key.asc").write_bytes(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + repeated(b"mQ" * 38 + b"\n"))
    return Asked(["keys", "trust", str(base / "input/key.asc")])


# Layers ---------------------------------------------------------------------------------------------------------------


def layer_case(name: str, layer: Callable[[], bytes], on: On = install, **more: Any) -> None:
    layout_case(f"a layer: {name}, {on.__name__}", on, lambda layout: layout.package(layer(), **more))


def documents(text: bytes | Zeros) -> Callable[[], bytes]:
    return lambda: tar({"bin/x": b"x"}, text)


def with_head(piece: bytes, size: int) -> Zeros:
    return Zeros(size, piece, distribution()[:-1] + b', "x": [')


layer_case("binary_distribution of 8 million texts", documents(with_head(b"a,", 16_000_000)))
layer_case("binary_distribution of one text", documents(with_head(b"a", 60 * MIB)))
layer_case("binary_distribution of a gigabyte", documents(Zeros(250 * MIB, b"a, ")))
layer_case(
    "binary_distribution of aliases",
    documents(
        "\n".join(["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]).encode()
    ),
)
layer_case("binary_distribution that is nested", documents(b"[" * 5_000_000))
layer_case("binary_distribution of comments", documents(Zeros(15 * MIB, b"# a\n")))
layer_case(
    "binary_distribution of 100,000 prefixes",
    lambda: tar(
        {"bin/x": b"/opt/old/p1/x " * 1000, "share/t": repeated(b"/opt/old/p77/y\n", 2 * MIB)},
        distribution(
            hash_to_prefix={HASH: PREFIX, **{hash_of(n): f"/opt/old/p{n}" for n in range(100_000)}},
            relocate_textfiles=["share/t"],
            relocate_binaries=["bin/x"],
        ),
    ),
)
layer_case(
    "binary_distribution of prefixes that share nothing",
    lambda: tar(
        {"bin/x": repeated(b"/1/2/3/4", 2 * MIB), "share/t": repeated(b"/", 2 * MIB)},
        distribution(
            hash_to_prefix={HASH: PREFIX, **{hash_of(n): f"/{n}" for n in range(100_000)}},
            relocate_textfiles=["share/t"],
            relocate_binaries=["bin/x"],
        ),
    ),
)
layer_case(
    "binary_distribution of prefixes within prefixes",
    lambda: tar(
        {"bin/x": repeated(b"/a" * 500 + b"\0", 2 * MIB), "share/t": repeated(b"/a" * 500 + b"\n", 2 * MIB)},
        distribution(
            hash_to_prefix={HASH: PREFIX, **{hash_of(n): "/a" * n for n in range(1, 1500)}},
            relocate_textfiles=["share/t"],
            relocate_binaries=["bin/x"],
        ),
    ),
)
layer_case(
    "binary_distribution that declares files that are not there",
    lambda: tar({"bin/x": b"x"}, distribution(relocate_textfiles=[f"a{n}" for n in range(300_000)])),
)
layer_case(
    "a record of files of 12 million lists",
    lambda: tar(
        {"bin/x": b"x", ".spack/install_manifest.json": Zeros(36_000_000, b"[],", b'{"a":{"b":[')}, distribution()
    ),
)
layer_case(
    "a record of files that are not there",
    lambda: tar(
        {
            "bin/x": b"x",
            ".spack/install_manifest.json": json.dumps({f"{PREFIX}/{n}": {"mode": 1} for n in range(100_000)}).encode(),
        },
        distribution(),
    ),
)
layer_case("a gigabyte of zeros", lambda: tar({"bin/x": Zeros(400 * MIB)}, distribution()))
layer_case("a gigabyte of zeros", lambda: tar({"bin/x": Zeros(400 * MIB)}, distribution()), download)
layer_case("a gigabyte of zeros", lambda: tar({"bin/x": Zeros(400 * MIB)}, distribution()), copy)
layer_case(
    "a text without line ends",
    lambda: tar(
        {"share/t": Zeros(300 * MIB, b"a" * 65536, PREFIX.encode())}, distribution(relocate_textfiles=["share/t"])
    ),
)
layer_case(
    "a text of mentions",
    lambda: tar({"share/t": Zeros(150 * MIB, PREFIX.encode() + b"/x ")}, distribution(relocate_textfiles=["share/t"])),
)
layer_case(
    "a text of glued mentions",
    lambda: tar({"share/t": Zeros(150 * MIB, PREFIX.encode())}, distribution(relocate_textfiles=["share/t"])),
)
layer_case(
    "a text in UTF-16",
    lambda: tar(
        {
            "share/t": Zeros(
                200 * MIB, "a".encode("utf-16-le") * 30000, "\ufeff".encode("utf-16-le") + PREFIX.encode("utf-16-le")
            )
        },
        distribution(),
    ),
)
layer_case(
    "a text in UTF-16 of mentions",
    lambda: tar(
        {"share/t": Zeros(100 * MIB, (PREFIX + "\n").encode("utf-16-le"), "\ufeff".encode("utf-16-le"))}, distribution()
    ),
)
layer_case(
    "an interpreter line without end",
    lambda: tar(
        {"bin/x": Zeros(200 * MIB, b"/a" * 30000, b"#!" + PREFIX.encode() + b"/bin/lua")},
        distribution(relocate_textfiles=["bin/x"]),
    ),
)
layer_case(
    "a file of strings",
    lambda: tar({"bin/x": Zeros(150 * MIB, PREFIX.encode() + b"\0")}, distribution(relocate_binaries=["bin/x"])),
    lambda cache, base: install(cache, Path("/tmp") / ("x" * 100)),
)
layer_case(
    "undeclared mentions in many files", lambda: tar({f"f{n}": PREFIX.encode() for n in range(8_000)}, distribution())
)
layer_case("members by the ten thousand", lambda: tar({f"d{n % 50}/f{n}": b"" for n in range(40_000)}, distribution()))
layer_case("deep members", lambda: tar({"/".join(["d"] * 90) + f"/f{n}": b"" for n in range(10_000)}, distribution()))
layer_case("long names", lambda: tar({f"{'/'.join(['n' * 200] * 15)}/{n}": b"" for n in range(4_000)}, distribution()))
layout_case(
    "a layer of zstd that inflates, install",
    install,
    lambda layout: layout.package(zst(b"\0" * (400 * MIB)), kind=ZSTD_LAYER),
)


def elf(dynamic: int = 0, segments: int = 1, sections: int = 0, body: bytes = b"") -> bytes:
    """A 64-bit shared object with so many headers; it need not make sense."""
    programs = 64 + 56 * segments
    header = (
        b"\x7fELF\2\1\1"
        + bytes(9)
        + struct.pack(
            "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, programs if sections else 0, 0, 64, 56, segments, 64, sections, 0
        )
    )
    end = programs + 64 * sections
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, end + 16 * dynamic + len(body), end + 16 * dynamic + len(body), 4096)
    dyn = struct.pack("<IIQQQQQQ", 2, 6, end, end, end, 16 * dynamic, 16 * dynamic, 8)
    table = (load + dyn)[: 56 * segments].ljust(56 * segments, b"\0")
    return header + table + bytes(64 * sections) + struct.pack("<QQ", 1, 1) * dynamic + body


def macho(commands: bytes, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<8I", 0xFEEDFACF, 0x01000007, 3, 6, count, len(commands), 0, 0) + commands + body


def rpath(text: bytes) -> bytes:
    size = -(-(12 + len(text) + 1) // 8) * 8
    return (struct.pack("<3I", 0x8000001C, size, 12) + text).ljust(size, b"\0")


MENTION = PREFIX.encode() + b"/lib\0"
BINARIES: dict[str, Callable[[], bytes | Zeros]] = {
    "ELF of many segments": lambda: elf(segments=60_000, body=MENTION),
    "ELF of many sections": lambda: elf(segments=2, sections=60_000, body=MENTION),
    "ELF of many dynamic entries": lambda: elf(dynamic=400_000, segments=2, body=MENTION),
    "ELF and much behind it": lambda: Zeros(250 * MIB, b"\0" * 65536, elf(segments=2, dynamic=3, body=MENTION)),
    "Mach-O of many commands": lambda: macho(rpath(PREFIX.encode()) * 30_000, 30_000),
    "Mach-O and much behind it": lambda: Zeros(250 * MIB, b"\0" * 65536, macho(rpath(PREFIX.encode()), 1)),
    "Mach-O of many slices": lambda: (
        (struct.pack(">2I", 0xCAFEBABE, 9) + struct.pack(">5I", 7, 3, 4096, 65536, 12) * 9).ljust(4096, b"\0")
        + MENTION * 4000
    ),
    "an archive of many members": lambda: (
        b"!<arch>\n" + (b"a/".ljust(48) + b"0".ljust(10) + b"`\n") * 200_000 + MENTION
    ),
    "an archive of mentions": lambda: Zeros(
        100 * MIB, MENTION, b"!<arch>\n" + b"a/".ljust(48) + b"104857532".ljust(10) + b"`\n"
    ),
}
for _name, _binary in BINARIES.items():
    layer_case(_name, lambda binary=_binary: tar({"lib/x": binary()}, distribution(relocate_binaries=["lib/x"])))  # type: ignore[misc]
layer_case(
    "an archive that is not declared", lambda: tar({"lib/x.a": BINARIES["an archive of mentions"]()}, distribution())
)
layer_case("one image and an engine", lambda: tar({"bin/x": Zeros(300 * MIB)}, distribution()), load)


# Trees ----------------------------------------------------------------------------------------------------------------


def tree_case(name: str, database: Callable[[], bytes], *arguments: str) -> None:
    def make(base: Path) -> Asked:
        folder = base / "input/.spack-db"
        folder.mkdir(parents=True)
        (folder / "index.json").write_bytes(database())
        given = {"TREE": str(base / "input"), "CACHE": f"oci-layout:{base}/made", "OUT": str(base / "out")}
        return Asked([given.get(argument, argument) for argument in arguments])

    CASES[name] = Costly(name, make)


def records(*nodes: Json, path: str = "/nowhere") -> bytes:
    found = {
        each["hash"]: {
            "spec": each,
            "path": path,
            "installed": True,
            "explicit": True,
            "ref_count": 0,
            "installation_time": 1.0,
        }
        for each in nodes
    }
    return json.dumps({"database": {"version": "8", "installs": found}}).encode()


DATABASES = {
    **{
        f"of {name}": (lambda bomb=bomb: b'{"database":{"version":"8","installs":' + bomb + b"}}")  # type: ignore[misc]
        for name, bomb in JSON_BOMBS.items()
    },
    "of a complete graph": lambda: records(*complete_graph(105)),
    "of a chain": lambda: records(*chain_of(1_800)),
    "of many packages": lambda: records(*(node(f"p{n}", hash_of(n)) for n in range(2_000))),
}
for _name, _database in DATABASES.items():
    tree_case(f"a database {_name}, find", _database, "find", "--store", "TREE")
    tree_case(f"a database {_name}, push", _database, "push", "CACHE", "--store", "TREE")
tree_case("a database of lists, verify-store", DATABASES["of lists"], "verify-store", "TREE")
tree_case(
    "a database of many packages, save-specs",
    DATABASES["of many packages"],
    "save-specs",
    "p1",
    "--store",
    "TREE",
    "--output-dir",
    "OUT",
)


def toml_case(name: str, text: Callable[[], str], *arguments: str) -> None:
    def make(base: Path) -> Asked:
        (base / "input/a/bin").mkdir(parents=True)
        (base / "input/packages.toml").write_text(text())
        given = {"TREE": str(base / "input"), "CACHE": f"oci-layout:{base}/made"}
        return Asked([given.get(argument, argument) for argument in arguments])

    CASES[f"packages.toml: {name}, {arguments[0]}"] = Costly(name, make)


TOML_HEAD = '[defaults]\narch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
PACKAGE = '[[package]]\nname = "{}"\nversion = "1"\nprefix = "a"\n'
TOMLS = {
    "a dotted key": lambda: ".".join("a" * 400_000) + " = 1\n",
    "a nested list": lambda: "a = " + "[" * 400_000,
    "nested tables": lambda: "a = " + "{a=" * 200_000,
    "digits": lambda: "a = " + "1" * 900_000,
    "a list of lists": lambda: "a = [" + "[]," * 300_000 + "]",
    "headers": lambda: "".join(f"[a.b{n}]\n" for n in range(70_000)),
    "headers in headers": lambda: "[" + ".".join("a" * 400_000) + "]\n",
    "keys below dotted keys": lambda: "".join(f"{'a.' * 100}b{n} = 1\n" for n in range(4_000)),
    "one text": lambda: 'a = "' + "\\u0061" * 150_000 + '"\n',
    "packages": lambda: TOML_HEAD + "".join(PACKAGE.format(f"p{n}") for n in range(15_000)),
    "one package that needs all": lambda: (
        TOML_HEAD
        + PACKAGE.format("z")
        + "depends = ["
        + ",".join(f'"p{n}"' for n in range(4_000))
        + "]\n"
        + "".join(PACKAGE.format(f"p{n}") for n in range(4_000))
    ),
    "a chain": lambda: (
        TOML_HEAD
        + "".join(PACKAGE.format(f"p{n}") + f'depends = ["p{n + 1}"]\n' for n in range(6_000))
        + PACKAGE.format("p6000")
    ),
}
for _name, _text in TOMLS.items():
    toml_case(_name, _text, "find", "--store", "TREE")
for _name in ("a dotted key", "a nested list", "digits"):
    toml_case(_name, TOMLS[_name], "push", "CACHE", "--store", "TREE")


# Configuration --------------------------------------------------------------------------------------------------------


def config_case(name: str, file: str, text: Callable[[], str], environment: str, *arguments: str) -> None:
    def make(base: Path) -> Asked:
        (base / "input").mkdir()
        (base / "input" / file).write_text(text())
        value = str(base / "input") if environment in ("SPACK_ENV", "DOCKER_CONFIG") else str(base / "input" / file)
        return Asked(list(arguments), {environment: value})

    CASES[name] = Costly(name, make)


for _name in ("a dotted key", "a nested list", "digits", "headers in headers"):
    config_case(f"a configuration: {_name}", "config.toml", TOMLS[_name], "OCI_BINPKG_CONFIG", "mirror", "list")
config_case(
    "a configuration of many caches",
    "config.toml",
    lambda: "".join(f'[caches.m{n}]\nurl = "file:///x"\n' for n in range(20_000)),
    "OCI_BINPKG_CONFIG",
    "mirror",
    "list",
)

YAMLS = {
    "texts": lambda: "spack: {x: [" + "a," * 450_000 + "a]}",
    "aliases": lambda: "\n".join(
        ["spack:", "  a0: &a0 [lol, lol]", *(f"  a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    ),
    "merges": lambda: "\n".join(
        ["spack:", "  a0: &a0 {k: v}", *(f"  a{n}: &a{n}\n    <<: [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    ),
    "nesting": lambda: "spack: " + "[" * 400_000,
    "a number of base sixty": lambda: "spack: 1" + ":1" * 400_000,
    "digits": lambda: "spack: " + "1" * 900_000,
    "blocks": lambda: "spack:\n" + "- " * 400_000,
    "anchors": lambda: "spack:\n" + "".join(f"- &a{n} b\n" for n in range(60_000)),
    "mirrors": lambda: "spack:\n  mirrors:\n" + "".join(f"    m{n}: https://m{n}.example\n" for n in range(20_000)),
    "includes": lambda: "spack:\n  include:\n" + "".join(f"  - /nowhere/{n}\n" for n in range(40_000)),
}
for _name, _yaml in YAMLS.items():
    config_case(f"spack.yaml: {_name}", "spack.yaml", _yaml, "SPACK_ENV", "mirror", "list")
for _name, _bomb in JSON_BOMBS.items():
    config_case(
        f"a credentials file of {_name}",
        "config.json",
        lambda bomb=_bomb: '{"auths":' + bomb.decode() + "}",  # type: ignore[misc]
        "DOCKER_CONFIG",
        "logout",
        "reg.example",
    )


# Queries --------------------------------------------------------------------------------------------------------------

QUERIES = {
    "a long name": "a" * 120_000,
    "dots": "a" + ".a" * 60_000,
    "versions": "a@" + "1.2:3," * 20_000 + "4",
    "a version of many parts": "a@" + "1." * 60_000 + "1",
    "variants": "a" + " +b" * 40_000,
    "dependencies": "a" + " ^b" * 40_000,
    "quotes": "a b='" + "\\'" * 60_000,
    "blanks": "a" + " " * 120_000 + "!",
    "commas": "a@" + "," * 120_000,
    "virtuals": "a ^" + "b," * 60_000 + "c=",
    "dashes": "a" + "-" * 120_000,
}
for _name, _query in QUERIES.items():
    layout_case(
        f"a query of {_name}",
        lambda cache, base, query=_query: Asked(["find", query, "--from", cache]),  # type: ignore[misc]
        lambda layout: layout.package().index(index_document(node())),
    )
for _name, _query in {
    "a long name": "a" * 100_000,
    "slashes": "a/" * 50_000,
    "colons": "a:" * 50_000,
    "dots and dashes": "a" + ".-" * 50_000,
}.items():

    @case(f"an address of {_name}")
    def _address(base: Path, text: str = _query) -> Asked:
        (base / "input").mkdir()
        return Asked(["find", "--from", f"oci://reg.example/{text}"])


# Answers of servers ---------------------------------------------------------------------------------------------------


def answers(head: bytes, body: bytes = b"{}", status: bytes = b"200 OK", *, endless: bytes = b"") -> Behaviour:
    length = b"" if endless or b"chunked" in head else b"Content-Length: %d\r\n" % len(body)
    return Behaviour(b"HTTP/1.1 " + status + b"\r\n" + head + length + b"\r\n" + body, endless)


JSON_TYPE = b"Content-Type: application/json\r\n"
SERVERS = {
    "Link of blanks": answers(JSON_TYPE + b"Link: <a>;x," + b" " * 60_000 + b"<\r\n", b'{"tags":["a","b"]}'),
    "Link of semicolons": answers(JSON_TYPE + b"Link: <a>" + b";x" * 30_000 + b"\r\n", b'{"tags":["a","b"]}'),
    "WWW-Authenticate of one word": answers(b"WWW-Authenticate: " + b"a" * 60_000 + b"(\r\n", status=b"401 No"),
    "WWW-Authenticate of quotes": answers(
        b"WWW-Authenticate: Bearer realm=" + b'"\\' * 30_000 + b"\r\n", status=b"401 No"
    ),
    "WWW-Authenticate again and again": answers(b"WWW-Authenticate: Basic realm=x\r\n" * 90, status=b"401 No"),
    "Warning of quotes": answers(JSON_TYPE + b"Warning: " + b'299 a "\\' * 7_000 + b"\r\n", b'{"tags":[]}'),
    "Retry-After of digits": answers(b"Retry-After: " + b"9" * 60_000 + b"\r\n", status=b"503 Later"),
    "Retry-After of words": answers(b"Retry-After: " + b"Mon, " * 12_000 + b"\r\n", status=b"503 Later"),
    "Date of blanks": answers(b"Date: Mon, 1" + b" " * 60_000 + b"x\r\nRetry-After: x\r\n", status=b"429 Later"),
    "Location of dots": answers(b"Location: /" + b"../" * 20_000 + b"\r\n", status=b"307 There"),
    "Location of a host": answers(b"Location: http://" + b"1." * 30_000 + b"\r\n", status=b"307 There"),
    "Content-Type of parameters": answers(b"Content-Type: a/b" + b";a" * 30_000 + b"\r\n", b'{"tags":["a"]}'),
    "Content-Length of digits": Behaviour(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 60_000 + b"\r\n\r\n{}"),
    "Set-Cookie of dates": answers((b"Set-Cookie: a=b; expires=" + b"1 " * 5_000 + b"\r\n") * 40, b'{"tags":["a"]}'),
    "a hundred long headers": answers(
        b"".join(b"X%d: %s\r\n" % (n, b"a" * 9_000) for n in range(90)), b'{"tags":["a"]}'
    ),
    "tags": answers(JSON_TYPE, b'{"tags":[' + repeated(b'"a",') + b'"b"]}'),
    "tags of objects": answers(JSON_TYPE, b'{"tags":' + JSON_BOMBS["objects"] + b"}"),
    "tags that are none": answers(JSON_TYPE, json.dumps({"tags": [f"!{n}" for n in range(70_000)]}).encode()),
    "an error that is nested": answers(JSON_TYPE, repeated(b"[", 60_000), b"400 Bad"),
    "an error of digits": answers(JSON_TYPE, b'{"errors":[' + b"1" * 60_000, b"400 Bad"),
    "an error of many problems": answers(JSON_TYPE, b'{"errors":[' + b"{}," * 20_000 + b"{}]}", b"400 Bad"),
    "an error of markup": answers(b"Content-Type: text/html\r\n", repeated(b"<a>"), b"500 Bad"),
    "chunk extensions": answers(b"Transfer-Encoding: chunked\r\n", (b"1;" + b"a" * 60_000 + b"\r\n{\r\n") * 15),
    "chunks of one byte": answers(b"Transfer-Encoding: chunked\r\n", b"1\r\n \r\n" * 150_000 + b"0\r\n\r\n"),
    "100 Continue without end": Behaviour(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "a header without end": Behaviour(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 4_000),
    "trailers without end": Behaviour(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: a\r\n" * 500
    ),
    "a body without end": answers(JSON_TYPE, b'{"tags":[', endless=b'"a",' * 1000),
}
for _name, _behaviour in SERVERS.items():

    @case(f"a server: {_name}", server=_behaviour)
    def _find(base: Path) -> Asked:
        (base / "input").mkdir()
        return Asked(["inspect", "oci+http://HOST/apps"], {"OCI_BINPKG_TIMEOUT": "4", "OCI_BINPKG_RETRIES": "0"})


_ALWAYS = (
    "a spec document of lists, show",
    "a layer: binary_distribution of 8 million texts, install",
    "a layer: a record of files of 12 million lists, install",
    "a layer: a text without line ends, install",
    "a layer: a text of mentions, install",
    "a layer: a text in UTF-16 of mentions, install",
    "an index: records that are no objects, update",
    "packages.toml: a dotted key, find",
    "spack.yaml: merges",
    "a server: Link of blanks",
    "a server: 100 Continue without end",
)
SAMPLE = tuple(dict.fromkeys((*_ALWAYS, *list(CASES)[::4])))
"""What is measured in every run of the tests; the rest is as the sample is, of the same kinds."""
