"""How every verb is called. The verbs and their options come from the command line itself.

A verb without an entry in `VERBS` is an error, so that a new one is fuzzed from its first day; an option without an
entry in `WORDS` gets any text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import click
import typer

from command_fuzz.sandbox import STORE
from command_fuzz.values import HASHES, LARGE, NAMES, PATHS, PLACE, PORT, TEXTS, URLS, VERSIONS, text_of
from command_fuzz.worlds import address
from oci_binpkg.cli.app import app


@dataclass(frozen=True)
class Verb:
    """What a verb may write (`writes` are areas of the place), and which documents it reads: of a cache, of a tree."""

    writes: tuple[str, ...] = ()
    reads: str = "cache"
    given: tuple[str, ...] = ()
    weight: int = 2


CACHES_AREA, STORES_AREA = ("cache", "target"), (STORE, "tree")
VERBS: Mapping[str, Verb] = {
    "push": Verb(CACHES_AREA, "tree", ("store",), 4),
    "image": Verb(CACHES_AREA, "tree", ("store",)),
    "find": Verb(weight=4),
    "show": Verb(weight=3),
    "inspect": Verb(weight=3),
    "load": Verb(),
    "run": Verb(),
    "install": Verb(STORES_AREA, given=("store",), weight=14),
    "install-image": Verb(STORES_AREA, given=("store",), weight=5),
    "uninstall": Verb(STORES_AREA, "tree", ("store",), 3),
    "verify-store": Verb((), "tree", weight=3),
    "download": Verb(("out",), given=("destination",), weight=2),
    "login": Verb(("docker",), "config", weight=1),
    "logout": Verb(("docker",), "config", weight=1),
    "index update": Verb(CACHES_AREA, weight=3),
    "index rebuild": Verb(CACHES_AREA),
    "index check": Verb(),
    "keys list": Verb((), "config", weight=1),
    "keys fetch": Verb(),
    "keys trust": Verb(weight=1),
    "keys untrust": Verb((), "config", weight=1),
    "keys publish": Verb(CACHES_AREA, weight=1),
    "mirror add": Verb(("config",), "config", weight=1),
    "mirror set": Verb(("config",), "config", weight=1),
    "mirror list": Verb((), "config", weight=2),
    "mirror remove": Verb(("config",), "config", weight=1),
    "attach": Verb(CACHES_AREA, weight=1),
    "artifacts list": Verb(weight=1),
    "artifacts get": Verb(("out",), given=("destination",), weight=1),
    "copy": Verb(CACHES_AREA, weight=6),
    "check": Verb(("out",), "tree", ("store", "on")),
    "search": Verb(weight=3),
    "save-specs": Verb(("out",), given=("destination",)),
    "version": Verb((), "config", weight=1),
}
OF_IMAGES = ("image", "inspect", "load", "run", "install-image")
"""What works on registries and layouts alone."""
ALWAYS = ("cachehome", "layers", "tmp", "data", "state", "run")
"""What every verb may write: caches, the keyring, what is temporary (and gone afterwards), reports of crashes."""


@dataclass(frozen=True)
class Chooser:
    """Chooses words for one call."""

    rng: random.Random
    verb: str
    cache: str
    tree: str

    def query(self) -> str:
        rng = self.rng
        usual = (
            "app",
            "app",
            "app",
            "zlib",
            "app@1.0",
            "app@1:",
            "zlib +shared",
            "app^zlib",
            "%gcc",
            "app api=v2",
            "@1.0",
        )
        if rng.random() < 0.94:
            return rng.choice(usual)
        name = rng.choice(NAMES)
        wild = (
            name,
            f"{name}@{rng.choice(VERSIONS)}",
            f"/{rng.choice(HASHES)}",
            text_of(rng.choice(LARGE[:8])),
            rng.choice(TEXTS),
        )
        return rng.choice(wild)

    def readable(self) -> str:
        known = address(self.cache, PLACE, 0).replace(":0/", f":{PORT}/")
        return self.rng.choice([known] * 12 + ["lab", "lab", f"oci-layout:{PLACE}/target"])

    def writable(self) -> str:
        targets = [f"oci-layout:{PLACE}/target", f"file://{PLACE}/target", "target", "lab", self.readable()]
        return self.rng.choice(targets)

    def any_text(self) -> str:
        value = text_of(self.rng.choice((*PATHS, *TEXTS, *URLS, *NAMES)))
        return value.replace("\0", "")


def _store(choose: Chooser) -> str:
    new = choose.verb in ("install", "install-image") and (choose.tree == "toml" or choose.rng.random() < 0.8)
    return f"{PLACE}/{STORE}" if new else f"{PLACE}/tree"


_FINGERPRINT = "A" * 40
WORDS: Mapping[str, Callable[[Chooser], str]] = {
    "cache": Chooser.readable,
    "queries": Chooser.query,
    "query": Chooser.query,
    "store": _store,
    "base_image": lambda choose: f"{choose.readable()}:both",
    "tag": lambda choose: choose.rng.choice(("both", "latest", "index.spack")),
    "only": lambda choose: choose.rng.choice(("package", "dependencies")),
    "skip_present_in": Chooser.readable,
    "compression": lambda choose: choose.rng.choice(("fast", "balanced", "zstd", "gzip:1")),
    "jobs": lambda choose: choose.rng.choice(("1", "2")),
    "entrypoint": lambda choose: choose.rng.choice(("sh", '["sh"]', "sh -c 'x'")),
    "cmd": lambda _: "tool",
    "env": lambda _: "A=B",
    "label": lambda _: "a.b=c",
    "user": lambda _: "1000:1000",
    "workdir": lambda _: "/srv",
    "from_cache": Chooser.readable,
    "image_name": lambda choose: f"{choose.readable()}:both",
    "engine": lambda choose: choose.rng.choice(("docker", "podman")),
    "command": lambda _: "tool",
    "network": lambda _: "none",
    "ulimit": lambda _: "nofile=1024",
    "subject": lambda choose: choose.rng.choice((choose.query(), "both", "sha256:" + "a" * 64)),
    "files": lambda _: f"{PLACE}/served/answers.json",
    "artifact_type": lambda _: "text/plain",
    "annotation": lambda _: "a=b",
    "digest": lambda _: "sha256:" + "a" * 64,
    "volume": lambda _: f"{PLACE}/out:/mnt",
    "destination": lambda _: f"{PLACE}/out",
    "output": lambda _: f"{PLACE}/out/answer.json",
    "on": Chooser.readable,
    "host": lambda choose: choose.rng.choice((f"127.0.0.1:{PORT}", "registry.example", "127.0.0.1:1")),
    "username": lambda _: "someone",
    "mirror": Chooser.readable,
    "mirrors": Chooser.readable,
    "source": lambda choose: choose.rng.choice((_FINGERPRINT, f"{PLACE}/served/answers.json", choose.readable())),
    "target": Chooser.writable,
    "fingerprint": lambda _: _FINGERPRINT,
    "key": lambda choose: choose.rng.choice((_FINGERPRINT, "nobody@example.org")),
    "ttl": lambda choose: choose.rng.choice(("0", "600")),
    "name": lambda choose: choose.rng.choice(("lab", "target", "new")),
    "url": Chooser.readable,
    "fetch": Chooser.readable,
    "push": Chooser.readable,
    "view": lambda choose: choose.rng.choice(("part", "new")),
    "endpoint_url": lambda _: f"http://127.0.0.1:{PORT}",
    "profile": lambda _: "lab",
    **dict.fromkeys(
        ("access_key_id_variable", "access_key_secret_variable", "access_token_variable"), lambda _: "LAB_TOKEN"
    ),
}


@cache
def commands() -> Mapping[str, click.Command]:
    """Return every verb of the command line by its words. Raises `LookupError` for one that nobody says how to call."""
    found = dict(_below(typer.main.get_command(app), ()))
    if found.keys() != VERBS.keys():
        raise LookupError(f"say in {__name__} how these are called: {sorted(found.keys() ^ VERBS.keys())}")
    return found


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, each in command.commands.items():
            yield from _below(each, (*words, name))
    else:
        yield " ".join(words), command


def call(rng: random.Random, verb: str, cache_kind: str, tree_kind: str) -> dict[str, Any]:
    """Make a call of a verb: its words, and what it may write."""
    choose, command = Chooser(rng, verb, cache_kind, tree_kind), commands()[verb]
    options: list[str] = []
    arguments: list[str] = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            arguments += _argument(choose, verb, parameter)
        else:
            options += _option(choose, verb, parameter)
    words = [*verb.split(), *options, *arguments]
    made: dict[str, Any] = {"words": words, "writes": _areas(verb, words)}
    if verb in ("login", "keys trust") or rng.random() < 0.02:
        made["stdin"] = rng.choice(("password\n", "", "y\n", rng.choice(TEXTS)))
    if rng.random() < 0.2:
        made["terminal"] = True
    return made


def _argument(choose: Chooser, verb: str, parameter: Any) -> list[str]:
    if parameter.nargs == -1:
        count = choose.rng.choice((1, 1, 2)) if parameter.required else choose.rng.choice((0, 0, 1, 2))
    else:
        count = 1 if parameter.required or parameter.name in VERBS[verb].given else choose.rng.choice((0, 1))
    if parameter.name == "cache" and verb in ("push", "image", "keys publish"):
        return [choose.writable()]
    return [_word(choose, parameter.name) for _ in range(count)]


def _option(choose: Chooser, verb: str, parameter: Any) -> list[str]:
    rng = choose.rng
    wanted = parameter.required or parameter.name in VERBS[verb].given
    if parameter.name in ("help", "install_completion", "show_completion"):
        return []
    if parameter.is_flag:
        flags = [*parameter.opts, *parameter.secondary_opts]
        flags = flags[-1:] if parameter.name == "check_signature" and rng.random() < _CALM else flags
        return [rng.choice(flags)] if rng.random() < _LIKELY.get(parameter.name, 0.1) else []
    if not wanted and rng.random() > _LIKELY.get(parameter.name, 0.05):
        return []
    return [parameter.opts[0], _word(choose, parameter.name)]


_CALM = 0.8
_LIKELY: Mapping[str, float] = {"from_cache": 0.6, "json": 0.25, "unsigned": 0.9, "key": 0.02, "check_signature": 0.7}


def _word(choose: Chooser, name: str) -> str:
    if name in WORDS and choose.rng.random() > 0.02:
        return WORDS[name](choose)
    return choose.any_text()


def _areas(verb: str, words: list[str]) -> list[str]:
    """Return what this call may write: of what its verb may, that which is named."""
    text = " ".join(words)
    named = {"cache": ("/cache", ":" + PORT, "lab", "spare", "active", "more"), "target": ("target",), STORE: (STORE,)}
    if "--dry-run" in words:
        return [*ALWAYS]
    found = [area for area in VERBS[verb].writes if any(each in text for each in named.get(area, ("",)))]
    return [*ALWAYS, *found]
