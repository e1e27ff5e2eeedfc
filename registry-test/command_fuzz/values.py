"""Values nobody should write into a document, and how they are written there all the same.

A value is JSON, so that a case can be kept as a text file. What JSON cannot hold, or should not repeat five thousand
times, is an object with one key: `$long` (text, count), `$deep` (opening, count, closing), `$wide` (element, count),
`$raw` (put down as it stands), `$pairs` (an object whose keys may come twice). `{PLACE}` and `{PORT}` in a text stand
for the sandbox and for the port of its server.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

PLACE, PORT = "{PLACE}", "{PORT}"
HIDDEN = "\x1b[8mhidden"
TITLE = "\x1b]0;title\x07"
SECRET = "s3cret-Wr4pped-in-A-t0ken"

PATHS = (
    *("..", ".", "", "/", "//", "../victim", "../../victim", "../../../victim", "../../../../victim"),
    *("x/../../../../victim", "a/./b", "./victim", "victim/", f"{PLACE}/victim", f"{PLACE}/victim/kept"),
    *(f"..{PLACE}/victim", f"../../../../../../../..{PLACE}/victim", f"{PLACE}/deep/er/store/../../../victim"),
    *("~", "~/x", "$HOME/x", "${HOME}", ".spack-db", ".spack", ".spack-db/index.json", ".git", ".tmp-x", "-rf", "--"),
    *("%2e%2e/%2e%2e/victim", "%00", "..\\..\\victim", "C:\\x", f"{PLACE}/victim:/usr/bin", ":", "a:b", "x" * 256),
    *("/proc/self/environ", "/dev/stdin", "/dev/full", f"file://{PLACE}/victim", "a\0b", "a\nb", "\ud800", "é"),
    *(f"{PLACE}/loop", f"{PLACE}/fifo", f"{PLACE}/link-to-victim", f"{PLACE}/link-to-victim/kept", "bin", "lib64"),
)
TEXTS = (
    *("", " ", "\0", "\n", "\r", "\t", "a\nb", "a\r\nb", "x\ny: z", "\x7f", "\x85", "\x9b31m", "\u2028", "\ufeff"),
    *(HIDDEN, TITLE, "\x1b", "\u202eevil", "\u2066x\u2069", "\u200b", "\ud800", "\udcff", "a\ud800b", "🙂", "é" * 80),
    *("[bold]x[/bold]", "[/]", "[/nope]", "[link=http://x]y", "%s%n", "{0}", "{", "${x}", "$(id)", "`id`", "'", '"'),
    *("\\", "null", "true", "~", "yes", "-", "--json", "-h", "@", "/", "^", "%", "=", "a=b", "a b", "*", "?", "[", "!"),
    *(
        "0",
        "-1",
        "1e999",
        "0x10",
        "٣",
        "\uff21",
        "\u0131",
        "İ",
        "ß",
        "NaN",
        "<b>",
        "&amp;",
        "#",
        ";",
        "|",
        ">",
        "\\u0000",
    ),
)
VERSIONS = ("1.0", "=1", "1:2", ":", "1,2", "develop", "git.abc=1", "1..2", ".", "-", "1/2", "1=2", "@", "99999999999")
NAMES = ("zlib", "app", "cfg", "a/b", "-x", ".x", "x" * 300, "x.spack", "index", "Zlib", "app@1", "\uff41pp", "con")
HASHES = ("z" * 31, "z" * 33, "Z" * 32, "0" * 32, "b" * 32, "../" * 10, "x", "", "a" * 65, "a" * 64, "sha1:" + "a" * 32)
DIGESTS = (
    *("sha256:" + "0" * 64, "sha256:" + "A" * 64, "sha256:../../../victim", "sha256:", "md5:" + "0" * 32, "0" * 64),
    *("sha512:" + "0" * 128, "sha256:" + "0" * 63, "sha256:" + "0" * 64 + "\n", ":", "sha256", "../../victim"),
)
MEDIA_TYPES = (
    *("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.index.v1+json", "text/html"),
    *(
        "application/vnd.oci.empty.v1+json",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "x",
        "a/b;c",
    ),
    *("application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.distribution.manifest.v1+json", "a/b\n"),
    *("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar", "/"),
)
URLS = (
    *(f"file://{PLACE}/victim", f"http://user:word@127.0.0.1:{PORT}/apps", "oci://[::1", "oci://", "http://", "s3://"),
    *(
        "oci://127.0.0.1:99999/x",
        f"oci+http://127.0.0.1:{PORT}/../x",
        f"oci-layout:{PLACE}/victim",
        "oci-layout:",
        "://",
    ),
    *(f"http://127.0.0.1:{PORT}/a\r\nX: y", "javascript:alert(1)", f"https://127.0.0.1:{PORT}/x", "file://host/x"),
    *(
        f"oci+http://127.0.0.1:{PORT}/apps:latest",
        f"oci-layout:{PLACE}/cache:index.spack",
        "lab",
        "lab:tag",
        "file:///",
    ),
)
NUMBERS = (
    *(0, -1, 1, 7, 255, 65536, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 1.5, -0.0, 1e308),
    *({"$raw": "1e999"}, {"$raw": "-1e999"}, {"$raw": "NaN"}, {"$raw": "Infinity"}, {"$raw": "1" * 30}, {"$raw": "01"}),
    *({"$raw": "1" * 4400}, {"$raw": "0x1"}, {"$raw": "1e5"}, {"$raw": "1.0"}),
)
OTHERS: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], {"": ""}, [None], ["x"], {"a": {"b": []}}, [1, "x", None], {"hash": "x"}, 0, ""),
    *(
        {"$pairs": [["a", 1], ["a", 2]]},
        {"$pairs": [["name", "x"], ["name", "y"]]},
        {"__proto__": {}},
        [{}],
        [["a"] * 3],
    ),
)
LARGE = (
    *({"$long": ["9", 5000]}, {"$long": ["1.", 3000]}, {"$long": ["a", 70_000]}, {"$long": ["../", 2000]}),
    *({"$long": ["\u202e", 3000]}, {"$long": ["a\n", 9000]}, {"$long": ["(", 20_000]}, {"$long": ["-", 1_000_000]}),
    *({"$deep": ["[", 900, "]"]}, {"$deep": ["[", 100_000, "]"]}, {"$deep": ['{"a":', 5000, "}"]}),
    *({"$wide": [[], 300_000]}, {"$wide": ["", 300_000]}, {"$wide": [{}, 200_000]}, {"$wide": [0, 500_000]}),
    *({"$wide": ["x/y", 20_000]}, {"$wide": [None, 2]}),
)
BY_KEY: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("version", "compiler"), VERSIONS),
    **dict.fromkeys(("name", "namespace", "virtuals"), NAMES),
    **dict.fromkeys(("hash", "build_hash", "full_hash", "package_hash", "hash_to_prefix"), HASHES),
    **dict.fromkeys(("digest", "checksum", "diff_ids", "checksumAlgorithm", "hash_algorithm"), DIGESTS),
    **dict.fromkeys(("mediaType", "compression", "artifactType"), MEDIA_TYPES),
    **dict.fromkeys(("url", "fetch", "push", "endpoint_url", "servers", "include"), URLS),
    **dict.fromkeys(("size", "contentLength", "schemaVersion", "ref_count", "installation_time", "mode"), NUMBERS),
    **dict.fromkeys(("platform", "target", "platform_os", "path", "prefix", "buildpath", "relative_prefix"), PATHS),
    **dict.fromkeys(("sbang_install_path", "spackprefix", "relocate_binaries", "relocate_links", "link"), PATHS),
    **dict.fromkeys(("relocate_textfiles", "root", "view", "profile", "patches"), PATHS),
}
_MARKS = ("$long", "$deep", "$wide", "$raw", "$pairs")


def hostile(rng: random.Random, keys: tuple[str | int, ...]) -> Any:
    """Choose a value for the place that the keys lead to: what is of use there more often than anything else."""
    names = [key for key in keys if isinstance(key, str)]
    fitting = next((BY_KEY[name] for name in reversed(names) if name in BY_KEY), PATHS)
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(fitting)
    if kind < 0.9:
        return rng.choice(rng.choice((PATHS, TEXTS, TEXTS, NUMBERS, OTHERS, OTHERS, HASHES, URLS, VERSIONS)))
    return rng.choice(LARGE)


def mark_of(value: object) -> str:
    """Return the mark of a value that stands for something else, "" for one that is what it is."""
    if isinstance(value, dict) and len(value) == 1:
        return next((mark for mark in _MARKS if mark in value), "")
    return ""


def encode(value: Any) -> str:
    """Write a value as JSON, or as what stands for it."""
    mark = mark_of(value)
    if mark:
        return _marked(mark, value[mark])
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(key))}:{encode(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encode, value)) + "]"
    return json.dumps(value)


def _marked(mark: str, given: Any) -> str:
    if mark == "$long":
        return json.dumps(given[0] * given[1])
    if mark == "$deep":
        return str(given[0]) * given[1] + ("1" if given[0] != "[" else "") + str(given[2]) * given[1]
    if mark == "$wide":
        return "[" + ",".join([encode(given[0])] * given[1]) + "]"
    if mark == "$raw":
        return str(given)
    return "{" + ",".join(f"{json.dumps(str(key))}:{encode(each)}" for key, each in given) + "}"


def text_of(value: Any) -> str:
    """Return a value where only text can stand: in the name of a file, on a command line."""
    if isinstance(value, str):
        return value
    return str(value["$long"][0] * value["$long"][1]) if mark_of(value) == "$long" else encode(value)


def to_bytes(text: str) -> bytes:
    """Encode text in which surrogates may stand: one half of a byte that is no UTF-8, or a half character."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def filled(value: Any, place: str, port: int) -> Any:
    """Return a value in which `{PLACE}` and `{PORT}` are replaced."""
    if isinstance(value, str):
        return value.replace(PLACE, place).replace(PORT, str(port))
    if isinstance(value, list):
        return [filled(each, place, port) for each in value]
    if isinstance(value, dict):
        return {filled(key, place, port): filled(each, place, port) for key, each in value.items()}
    return value
