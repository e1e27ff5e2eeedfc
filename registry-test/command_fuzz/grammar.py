"""Makes recipes: which world, what is wrong in it, what is run. The same seed and number make the same recipe."""

from __future__ import annotations

import random
from typing import Any

from command_fuzz import edits, verbs
from command_fuzz.sandbox import STORE
from command_fuzz.values import PATHS, PLACE, PORT, SECRET, TEXTS, URLS, hostile
from command_fuzz.worlds import CACHES, Maker, Recipe, make

NODE_PORT = 65535
MOSTLY = 0.9
CONFIGURATION = ("config.toml", "mirrors.yaml", "include.yaml", "more.yaml", "spack.yaml", "docker", "answers")
TREE = ("database", "packages.toml", "spec.json", "install_manifest")
WEIGHTS = {"node": 5, "members": 4, "distribution": 3, "index": 3, "database": 3, "config": 2, "manifest": 2}
"""How often a kind of document is edited; 1 for all others."""
STORIES: tuple[tuple[str, ...], ...] = (
    ("install", "verify-store", "uninstall"),
    ("install", "find", "install"),
    ("install", "push"),
    ("install-image", "uninstall"),
    ("push", "push", "index check"),
    ("copy", "install"),
    ("search", "find"),
    ("find", "search", "install"),
    ("index rebuild", "index check"),
    ("push", "inspect"),
    ("install", "uninstall"),
)


def recipe(seed: int, number: int) -> Recipe:
    """Make the recipe of a case."""
    rng = random.Random(f"{seed}:{number}")
    chosen = _verbs(rng)
    shape = _shape(rng)
    if set(chosen) & set(verbs.OF_IMAGES) and rng.random() < MOSTLY:
        shape["cache"] = rng.choice(("layout", "registry"))
    made: Recipe = {"case": f"{seed}:{number}", "shape": shape}
    world = make(Maker({"shape": shape}, PLACE, NODE_PORT))
    groups = [verbs.VERBS[verb].reads for verb in chosen]
    made["edits"] = _edits(rng, world.documents, groups)
    made["calls"] = [verbs.call(rng, verb, shape["cache"], shape["tree"]) for verb in chosen]
    if rng.random() < 0.2:
        made["files"] = [_file(rng, sorted(world.files), len(chosen))]
    if rng.random() < 0.1:
        made["calls"][rng.randrange(len(chosen))]["process"] = True
    return made


def _verbs(rng: random.Random) -> list[str]:
    if rng.random() < 0.15:
        return list(rng.choice(STORIES))
    names = list(verbs.commands())
    return rng.choices(names, [verbs.VERBS[name].weight for name in names])


def _shape(rng: random.Random) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "cache": rng.choice(CACHES),
        "form": rng.choice((5, 5, 5, 5, 4, 4, 3, 2, 1)),
        "database": rng.choice(("8", "8", "8", "7", "6", "5")),
        "count": rng.choice((1, 2, 3, 3)),
        "compression": rng.choice(("gzip", "gzip", "gzip", "zstd", "none")),
        "content": rng.choice(("text", "text", "elf", "utf16", "plain")),
        "hashes": rng.choice(("right", "right", "made up")),
        "tree": rng.choice(("spack", "spack", "toml")),
        "store": rng.choice(("tree", "new")),
    }
    if shape["cache"] == "v2":
        shape["form"] = rng.choice((4, 4, 3, 2, 1))
    for name, share in (("spliced", 0.1), ("external", 0.1)):
        if rng.random() < share:
            shape[name] = True
    if rng.random() < 0.15:
        shape["index"] = False
    if rng.random() < 0.1:
        shape["signed"] = True
    if rng.random() < 0.15:
        shape["signed_name"] = rng.random() < 0.5
    if shape["cache"] in ("registry", "web") and rng.random() < 0.35:
        shape["answers"] = [_answer(rng) for _ in range(rng.choice((1, 1, 2)))]
    return shape


def _edits(rng: random.Random, documents: list[tuple[str, int, Any]], groups: list[str]) -> list[dict[str, Any]]:
    """Make edits; a second one is often of the same document."""
    found: list[dict[str, Any]] = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4, 6))):
        again = found and rng.random() < 0.3
        known = [each for each in documents if again and each[:2] == (found[-1]["kind"], found[-1]["number"])]
        found.append(edits.made_up(rng, *known[0]) if known else _edit(rng, documents, rng.choice(groups)))
    return found


def _edit(rng: random.Random, documents: list[tuple[str, int, Any]], group: str) -> dict[str, Any]:
    """Make an edit of a document that a verb of this group reads, or at times of any other."""
    if rng.random() < 0.1:
        group = rng.choice(("config", "tree", "cache"))
    named = {"config": CONFIGURATION, "tree": TREE}.get(group, ())
    fitting = [each for each in documents if (each[0] in named if named else each[0] not in (*CONFIGURATION, *TREE))]
    kinds = sorted({each[0] for each in fitting})
    kind = rng.choices(kinds, [WEIGHTS.get(each, 1) for each in kinds])[0]
    _, number, document = rng.choice([each for each in fitting if each[0] == kind])
    if kind == "members" and rng.random() < 0.5:
        return _member(rng, number, document)
    if kind == "layer" and rng.random() < 0.1:
        piece = rng.choice(("\0", "{}", "a" * 64))
        return {"kind": kind, "number": number, "do": "bomb", "value": piece, "count": rng.choice((64, 512))}
    return edits.made_up(rng, kind, number, document)


def _member(rng: random.Random, number: int, listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Put a member into a tar that nobody should send."""
    at = listed[-1]["name"].removesuffix("/.spack/binary_distribution")
    name = rng.choice(
        (f"{at}/new", f"{at}/bin/tool", f"{at}/link/x", f"{at}/lib", f"{at}/../x", at, f"{at}/.spack/spec.json")
    )
    kind = rng.choice(
        ("file", "file", "link", "link", "hard", "dir", "fifo", "char", "block", "sparse", "global", "odd")
    )
    member: dict[str, Any] = {"name": name, "type": kind, "mode": rng.choice((0o644, 0o755, 0o4755, 0, 0o7777))}
    if rng.random() < 0.3:
        member["name"] = rng.choice(PATHS)
    if kind in ("link", "hard"):
        member["target"] = rng.choice((*PATHS, f"{at}/bin/tool", f"/{at}/bin", "tool", "../..", "/"))
    elif kind == "file":
        member["data"] = rng.choice((f"#!/{'x' * 200}\n", f"#!/{at}/bin/x\n", "{}", "", *TEXTS))
    if rng.random() < 0.2:
        key = rng.choice(
            ("path", "linkpath", "size", "mtime", "uid", "GNU.sparse.name", "hdrcharset", "comment", "mode")
        )
        member["pax"] = {key: hostile(rng, ("path",))}
    if rng.random() < 0.15:
        member["size"] = rng.choice((1, 511, 10**6, 8**10, {"$raw": "99999999999"}, {"$raw": "-1"}, {"$raw": "zz"}))
    where = rng.choice((0, len(listed) // 2, len(listed) - 1))
    return {"kind": "members", "number": number, "do": "insert", "path": [where], "value": member}


def _file(rng: random.Random, paths: list[str], calls: int) -> dict[str, Any]:
    """Put something else in the place of a file, before one of the calls."""
    others = (STORE, f"{STORE}/linux-x86_64", f"{STORE}/.spack-db", f"{STORE}/.spack-db/lock", f"{STORE}/bin", "layers")
    more = ("cachehome/oci-binpkg", "cachehome/oci-binpkg/catalog.sqlite", "data/oci-binpkg/keyring", "target", "out/x")
    later = ("layers/*/*/*", "layers/*/*", f"{STORE}/linux-x86_64/*/.spack/*", "cachehome/oci-binpkg/*", "target/*")
    path = rng.choice((rng.choice(paths), rng.choice(paths), rng.choice(others), rng.choice(more), rng.choice(later)))
    made: dict[str, Any] = {"path": path, "before": rng.randrange(calls)}
    made["as"] = rng.choice(
        ("fifo", "link", "loop", "folder", "closed", "gone", "socket", "bytes", "bytes", "dangling")
    )
    if made["as"] == "bytes":
        made["value"] = rng.choice((*edits.PAGES, *TEXTS))
    if made["as"] == "link":
        made["target"] = rng.choice((f"{PLACE}/victim", f"{PLACE}/victim/kept", f"{PLACE}/fifo", "/dev/zero", "."))
    return made


def _answer(rng: random.Random) -> dict[str, Any]:
    """Make an answer that no server should give."""
    rule: dict[str, Any] = {
        "match": rng.choice(("/v2/", "manifests", "blobs", "tags/list", "referrers", "spack", "cache", "json"))
    }
    rule["status"] = rng.choice(
        (200, 200, 201, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 405, 416, 429, 500, 503, 999)
    )
    rule["headers"] = [rng.choice(_headers(rng)) for _ in range(rng.choice((0, 1, 1, 2)))]
    rule["body"] = rng.choice(_BODIES)
    if rng.random() < 0.1:
        rule["drip"] = rng.choice(("head", "continue"))
    if rng.random() < 0.3:
        rule["times"] = rng.choice((1, 2))
    return rule


def _headers(rng: random.Random) -> list[list[Any]]:
    text = rng.choice(TEXTS).replace("\n", " ").replace("\r", " ")
    place = rng.choice((*URLS, "/v2/apps/blobs/x", f"http://127.0.0.1:{PORT}/x", "//x", "?" * 9000))
    return [
        ["Location", place.replace("\n", "").replace("\r", "")],
        [
            "Link",
            rng.choice(
                (
                    f"<{place}>; rel=next".replace("\n", ""),
                    "<" * 60_000,
                    "<,;" * 20_000,
                    '</v2/apps/tags/list?last=x>; rel="next"',
                )
            ),
        ],
        [
            "WWW-Authenticate",
            rng.choice(
                (f'Bearer realm="http://127.0.0.1:{PORT}/token",service="{text}"', "Basic", "Bearer " + 'a="' * 9000)
            ),
        ],
        ["Docker-Content-Digest", rng.choice(("sha256:" + "0" * 64, text, "x" * 70_000))],
        ["Content-Type", rng.choice((text, "text/html", "a" * 70_000, "application/json;" * 5000))],
        ["Content-Length", rng.choice(("0", "99999999999999", "-1", "1e9", "9" * 5000, "7, 7"))],
        ["Content-Encoding", rng.choice(("gzip", "br", "gzip, gzip", text))],
        ["Transfer-Encoding", rng.choice(("chunked", "gzip, chunked", "x"))],
        ["Retry-After", rng.choice(("0", "1e9", "-1", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT", text))],
        ["Range", text],
        ["ETag", rng.choice((text, '"' + "x" * 70_000 + '"', 'W/"x"'))],
        ["Set-Cookie", f"a={SECRET}"],
        [rng.choice(("X", text or "X")), "y" * rng.choice((1, 70_000))],
    ]


_BODIES: tuple[Any, ...] = (
    "",
    "{}",
    "[]",
    "null",
    *TEXTS[:20],
    '{"errors":[{"code":"DENIED","message":"\\u001b[8mhidden\\u202e","detail":{"a":[1]}}]}',
    '{"errors":{"a":1}}',
    '{"tags":["\\u001b]0;title\\u0007","a/b","index.spack",null,5]}',
    '{"name":"apps","tags":null}',
    '{"token":"\\n","access_token":5,"expires_in":"x"}',
    '{"token":"s3cret-Wr4pped-in-A-t0ken\\r\\nX: y"}',
    '{"schemaVersion":2,"manifests":[]}',
    {"$long": ["[", 200_000]},
    {"$long": ["x", 1_000_000]},
    "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "zz\r\nhello",
)
