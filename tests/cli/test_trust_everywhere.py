"""Every command on every kind of cache that has to be signed, with a stranger's package in it: none hands it out.

A new command fails here until it stands in `VERBS`, with how it would have to ask a cache for a package, or in
`READ_NO_PACKAGE`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from oci_binpkg.cli.app import app
from tests.support.command_line import Ended, binpkg
from tests.support.engine_socket import EngineSocket, engine_socket
from tests.support.signed_caches import home, index_at, is_signed, ran
from tests.support.stranger import EVIL, KINDS, Kind, Place, find_evil, inside, place

__all__ = ["home"]  # a fixture

READ_NO_PACKAGE = {
    *("keys list", "keys fetch", "keys trust", "keys untrust", "keys publish"),  # keys alone
    *("mirror add", "mirror set", "mirror list", "mirror remove", "login", "logout", "version"),  # settings alone
    *("uninstall", "verify-store"),  # trees alone
}


@dataclass(frozen=True)
class Asked:
    """The cache as a command is told it, where results would go, and the engine that would get images."""

    cache: str
    place: Place
    out: Path
    engine: EngineSocket

    @property
    def keeps_images(self) -> bool:
        return not self.place.kind.startswith("mirror")

    @property
    def is_read_only(self) -> bool:
        return self.place.kind == "mirror of layout 2"

    def new(self, name: str) -> str:
        return f"oci-layout:{self.out}/{name}"


def refused(ended: Ended, asked: Asked, *codes: int) -> None:
    """A command ended with one of these codes (14, if none is named), and said nothing of the package."""
    assert ended.code in (codes or (14,)), f"exit {ended.code}\n{ended.out}\n{ended.err}"
    assert asked.place.hash not in ended.out
    assert "Traceback" not in ended.err


def image_codes(asked: Asked) -> tuple[int, ...]:
    """Mirrors keep no images: a wrong address."""
    return (14,) if asked.keeps_images else (2,)


def find(asked: Asked) -> None:
    refused(binpkg("find", "app", "--from", asked.cache), asked)
    listed = binpkg("find", "--from", asked.cache)
    assert asked.place.hash[:7] not in listed.out


def search(asked: Asked) -> None:
    for words in (["search", "app"], ["search"], ["search", "app", "--offline"]):
        ended = binpkg(*words, "--all-arch")
        assert ended.code in (4, 14) or not ended.out, ended.out
        assert asked.place.hash[:7] not in ended.out
    assert "not signed" in ended.err


def show(asked: Asked) -> None:
    refused(binpkg("show", "app", "--from", asked.cache, "--json"), asked)
    refused(binpkg("show", f"/{asked.place.hash}", "--from", asked.cache), asked)
    refused(binpkg("show", f"app@2.0/{asked.place.hash}", "--from", asked.cache), asked)


def inspect(asked: Asked) -> None:
    refused(binpkg("inspect", f"{asked.cache}:prod", "--json"), asked, *image_codes(asked))
    ended = binpkg("inspect", asked.cache, "--json")
    assert ended.code in image_codes(asked)
    assert not any(digest in ended.out for digest in asked.place.evil_blobs())


def load(asked: Asked) -> None:
    refused(binpkg("load", f"{asked.cache}:prod", "--engine", "podman"), asked, *image_codes(asked))


def run(asked: Asked) -> None:
    refused(binpkg("run", f"{asked.cache}:prod", "--engine", "podman", "--", "a"), asked, *image_codes(asked))


def install(asked: Asked) -> None:
    for query in ("app", f"app@2.0/{asked.place.hash}"):
        refused(
            binpkg("install", query, "--from", asked.cache, "--store", asked.out / "install", "--json"), asked, 14, 1
        )
    planned = binpkg("install", "app", "--from", asked.cache, "--store", asked.out / "install", "--dry-run")
    assert "would" not in planned.err or planned.code == 0  # a plan installs nothing


def install_image(asked: Asked) -> None:
    ended = binpkg("install-image", f"{asked.cache}:prod", "--store", asked.out / "install-image")
    refused(ended, asked, *image_codes(asked))


def download(asked: Asked) -> None:
    for query in ("app", f"app@2.0/{asked.place.hash}"):
        refused(binpkg("download", query, "--from", asked.cache, asked.out / "download"), asked)


def save_specs(asked: Asked) -> None:
    refused(binpkg("save-specs", "app", "--from", asked.cache, "--output-dir", asked.out / "specs"), asked)


def check(asked: Asked) -> None:
    tree = asked.place.tree.root
    for more in ([], ["--thorough"]):
        ended = binpkg("check", "app", "--store", tree, "--on", asked.cache, *more)
        assert ended.code == 1, ended.err
        (line,) = (line for line in ended.lines if "app@2.0" in line)
        assert "absent" not in line


def copy(asked: Asked) -> None:
    for target, more in ((asked.new("copy"), ()), (f"file://{asked.out}/mirror", ("--unsigned",))):
        for words in (["app", *more], more):
            ended = binpkg("copy", asked.cache, target, *words)
            assert ended.code in (14, 1), ended.err
            assert not [line for line in ended.lines if line.startswith("copied") and asked.place.hash in line]
        assert "app" not in binpkg("find", "--from", target, "--no-check-signature").out


def push(asked: Asked) -> None:
    place, tree = asked.place, asked.place.tree.root
    elsewhere = asked.new("elsewhere")
    ended = binpkg("push", elsewhere, "app", "--store", tree, "--skip-present-in", asked.cache, "--json")
    assert {each["name"]: each["outcome"] for each in ended.json["packages"]}["app"] == "pushed"
    if asked.keeps_images:
        base = binpkg("push", asked.new("based"), "--store", tree, "--base-image", f"{place.address}:prod")
        refused(base, asked)
    if asked.is_read_only:
        return
    again = binpkg("push", asked.cache, "app", "--store", tree, "--key", place.key, "--update-index", "--json")
    assert {each["name"]: each["outcome"] for each in again.json["packages"]}["app"] == "pushed", again.err
    ran("install", "app", "--from", asked.cache, "--store", asked.out / "good")
    assert b"good" in inside(asked.out / "good")


def image(asked: Asked) -> None:
    words = ["image", asked.cache, "app", "--tag", "made", "--store", asked.place.tree.root, "--key", asked.place.key]
    ended = binpkg(*words)
    if not asked.keeps_images:
        assert ended.code == 2
        return
    assert ended.code == 0, ended.err
    shown = ran("inspect", f"{asked.cache}:made", "--json").out
    assert not any(digest in shown for digest in asked.place.evil_blobs())


def index_update(asked: Asked) -> None:
    _indexed(asked, "update")


def index_rebuild(asked: Asked) -> None:
    _indexed(asked, "rebuild")


def _indexed(asked: Asked, action: str) -> None:
    """The index that is signed afterwards, if any is, does not list the package."""
    place = asked.place
    ended = binpkg("index", action, asked.cache, "--key", place.key, "--json")
    assert place.hash not in (ended.json["unlisted"] if ended.code == 0 else [])
    if not asked.is_read_only and is_signed(place.address, index_at(place.address)):
        assert "app" not in ran("find", "--from", asked.cache).out


def index_check(asked: Asked) -> None:
    ended = binpkg("index", "check", asked.cache)
    assert "signed by" not in ended.out
    refused(binpkg("index", "check", asked.cache, "--check-signature"), asked)


def artifacts_list(asked: Asked) -> None:
    refused(binpkg("artifacts", "list", asked.cache, "prod", "--json"), asked, *image_codes(asked))


def artifacts_get(asked: Asked) -> None:
    refused(binpkg("artifacts", "get", asked.cache, "prod", asked.out / "files"), asked, *image_codes(asked), 6)


def attach(asked: Asked) -> None:
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "file").write_text("x")
    done = binpkg("attach", asked.cache, "prod", asked.out / "file", "--type", "text/plain")
    refused(done, asked, *image_codes(asked), 2)  # where packages are signed, files are


VERBS: dict[str, Callable[[Asked], None]] = {
    "find": find,
    "search": search,
    "show": show,
    "inspect": inspect,
    "load": load,
    "run": run,
    "install": install,
    "install-image": install_image,
    "download": download,
    "save-specs": save_specs,
    "check": check,
    "copy": copy,
    "artifacts list": artifacts_list,
    "artifacts get": artifacts_get,
    "attach": attach,
    "index check": index_check,
    "index update": index_update,
    "index rebuild": index_rebuild,
    "image": image,
    "push": push,  # last: it puts things right
}


def commands(command: Any, name: str = "") -> Iterator[str]:
    """The names of all commands, as they are typed."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name
        return
    for each, one in inner.items():
        yield from commands(one, f"{name} {each}".strip())


def test_every_command_is_walked_over_or_said_to_read_no_package() -> None:
    known = set(commands(typer.main.get_command(app)))
    assert len(known) > 25
    assert known == VERBS.keys() | READ_NO_PACKAGE
    assert not VERBS.keys() & READ_NO_PACKAGE


def says_signed(way: str, found: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """Configure that the cache is signed, and return how commands are told the cache."""
    lines = [f'[caches.lab]\nurl = "{found.address}"']
    if way == "scope":
        prefix = found.address.rpartition("/")[0].removeprefix("oci://")
        lines.append(f'[trust.scopes."{prefix}"]\nkeys = ["{found.key}"]')
    else:
        lines.append("signed = true")
    config = found.folder / "config.toml"
    config.write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("OCI_BINPKG_CONFIG", str(config))
    return "lab" if way == "name" else found.address


WAYS = {"name": ("name", False), "address": ("address", False), "scope": ("scope", False), "tampered": ("scope", True)}
SHORTER = {
    "registry": ("name", "tampered"),
    "mirror": ("address", "tampered"),
    "mirror of layout 2": ("scope", "tampered"),
}
"""The way of requiring signatures decides before the kind of cache: all ways with a layout, some with each other kind."""


@pytest.mark.parametrize(
    ("kind", "way", "moved"),
    [pytest.param(kind, *WAYS[way], id=f"{kind}-{way}") for kind in KINDS for way in SHORTER.get(kind, WAYS)],
)
def test_no_command_hands_out_what_nobody_signed(
    kind: Kind, way: str, moved: bool, home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_BINPKG_RETRIES", "0")
    out = tmp_path / "out"
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as short,
        engine_socket(Path(short)) as engine,
        place(kind, tmp_path, home, moved=moved) as found,
    ):
        monkeypatch.setenv("CONTAINER_HOST", engine.address)
        asked = Asked(says_signed(way, found, monkeypatch), found, out, engine)
        wrong = {}
        for name, verb in VERBS.items():
            try:
                verb(asked)
                assert EVIL not in inside(out)
                assert not engine.taken
            except AssertionError as error:
                wrong[name] = str(error)
        assert not wrong, "\n\n".join(f"{name}: {reason}" for name, reason in wrong.items())


def test_the_walk_would_notice_what_is_handed_out(home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody says that the cache is signed, the same commands hand the stranger's package out."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as short,
        engine_socket(Path(short)) as engine,
        place("layout", tmp_path, home, moved=False) as found,
    ):
        monkeypatch.setenv("CONTAINER_HOST", engine.address)
        asked = Asked(found.address, found, tmp_path / "out", engine)
        for verb in (find, show, inspect, load, install, install_image, download, save_specs, check, copy):
            with pytest.raises((AssertionError, ValueError)):
                verb(asked)
        assert EVIL in inside(tmp_path / "out")
        assert find_evil(asked.new("copy"), tmp_path)
        assert engine.taken
