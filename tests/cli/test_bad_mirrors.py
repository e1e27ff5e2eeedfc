"""Mirrors and registries that are down, slow, empty, read-only or lying: what a user is told, word for word.

What is expected stands in `bad_mirrors.txt`, by kind of mirror and what is wrong with it. There, `MIRROR` is the
mirror, `HOST` its host and port, `PATH` its directory, `STORE` the install tree, `DIGEST` any digest, `SIZE` any size.
"""

import errno
import os
import re
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.bad_mirrors import (
    ANSWERS,
    KINDS,
    LIES,
    REGISTRY_LIES,
    bucket_cache,
    golden_copy,
    nobody,
    published,
    s3_that_refuses_writes,
)
from tests.support.command_line import binpkg
from tests.support.fake_registry import Answer, FakeRegistry
from tests.support.scripted_server import ScriptedServer
from tests.support.spack_trees import Sketch, spack_tree

EXPECTED = Path(__file__).with_name("bad_mirrors.txt")
ANY = "--no-check-signature"
SLOW = ("never answers", "drips")


@cache
def expected():
    """What stands in the file: "KIND WRONG: VERB" -> exit code and text."""
    found: dict[Any, Any] = {}
    for titles, text in re.findall(r"^((?:== .*\n)+)((?:(?!== ).*\n)+)", EXPECTED.read_text(), re.MULTILINE):
        found |= dict.fromkeys(titles.removeprefix("== ").rstrip("\n").split("\n== "), text.strip("\n"))
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name, value in {
        "OCI_BINPKG_RETRIES": "0",
        "OCI_BINPKG_TIMEOUT": "20",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def short():
    """A folder whose name is short enough for constants in the golden binaries."""
    with tempfile.TemporaryDirectory(prefix="i", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def tree(tmp_path):
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z"}, explicit=False),
        Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\necho {prefix}\n"}, depends=["zlib"]),
    ]
    return spack_tree(tmp_path / "store", sketches)


def plain(text, address, host, store):
    """Text without what differs from run to run."""
    path = address.removeprefix("file://") if address.startswith("file://") else ""
    for old, new in ((address, "MIRROR"), (path, "PATH"), (host, "HOST"), (str(store), "STORE")):
        text = text.replace(old, new) if old else text
    text = re.sub(r"127\.0\.0\.1:[0-9]+", "HOST", text)
    text = re.sub(r"[0-9]+ bytes in [0-9.]+ s", "N bytes in N s", text)
    text = re.sub(r"\b[0-9]+ (bytes )?are (offered|wanted)", r"N \1are \2", text)
    text = re.sub(r"column [0-9]+ \(char [0-9]+\)", "column N (char N)", text)
    text = re.sub(r"PATH/blobs/sha256/[0-9a-f]{2}(?=:)", "PATH/blobs/XX", text)
    text = re.sub(r"blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}", "blobs/DIGEST", text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", text)
    text = re.sub(r"\b[0-9]+(\.[0-9])? (B|kB|KiB)\b", "SIZE", text)
    text = re.sub(r"\s+SIZE\s+", "  SIZE  ", text)
    # which of two is the first, and how fast it was, nobody knows before
    text = re.sub(r"^\[[0-9]+/[0-9]+\] ", "", text, flags=re.MULTILINE)
    return re.sub(r"  SIZE  SIZE/s [0-9]+ s$", "", text, flags=re.MULTILINE)


class Told:
    """Runs commands against one bad mirror, and collects what they say."""

    def __init__(self, title, address, shown, store, host=""):
        self.title, self.address, self.shown, self.store, self.host = title, address, shown, store, host
        self.found = {}

    def run(self, verb, *more):
        flags = {
            "find": ["find", "--from", self.address],
            "install": ["install", *more, "--from", self.address, "--store", self.store, ANY],
            "push": ["push", self.address, *more, "--unsigned", "--update-index"],
            "index update": ["index", "update", self.address],
        }[verb]
        ended = binpkg(*flags)
        text = plain(ended.out + ended.err, self.shown, self.host, self.store).rstrip("\n")
        lines = [f"exit {ended.code}", *(line.rstrip() for line in text.splitlines())]
        self.found[f"{self.title}: {verb}"] = "\n".join(lines)
        return ended

    def check(self):
        """Everything is as expected, and every failure names the mirror and says what to do next."""
        # packages are dealt with side by side: the lines about one may come before or behind those about another
        lines = {title: sorted(text.splitlines()) for title, text in self.found.items()}
        assert lines == {title: sorted(expected().get(title, "").splitlines()) for title in self.found}
        for title, text in self.found.items():
            if text.startswith("exit 0"):
                continue
            assert re.search("MIRROR|HOST|PATH", text), title
            assert re.search(r"^ {2,4}[\w`]", text, re.MULTILINE), f"{title}: no next step"
        self.nothing_is_half_done()

    def nothing_is_half_done(self):
        """What failed has no prefix, and nothing is left of where it was made."""
        if self.store.exists():
            left = [path for path in self.store.rglob("*") if path.is_dir() and re.match("[.](tmp|stag)", path.name)]
            assert left == []
            failed = any(": install" in title and not text.startswith("exit 0") for title, text in self.found.items())
            assert not failed or not list(self.store.glob("*/greet*")) + list(self.store.glob("*/app-*"))


VERBS = ("find", "install", "index update", "push")


def run_all(told, tree, package="greetcfg", verbs=VERBS):
    more = {"install": [package], "push": ["zlib", "--store", tree.root]}
    for verb in verbs:
        told.run(verb, *more.get(verb, []))
    told.check()


def remote(kind, host, home) -> tuple[str, str]:
    """What is typed for a server of that kind, and what messages call it."""
    addresses = {"http": f"http://{host}/m", "registry": f"oci+http://{host}/apps"}
    names = {"http": f"http://{host}/m", "registry": f"{host}/apps", "s3": "s3://apps"}
    return addresses.get(kind) or bucket_cache(home, f"http://{host}"), names[kind]


def temporary_files(directory):
    return [path for path in directory.rglob("*") if path.name.startswith(".tmp-")]


@pytest.mark.parametrize("kind", ["http", "s3", "registry"])
def test_nobody_listens(kind, isolated_home, short, tree):
    host = nobody()
    run_all(Told(f"{kind} that is down", *remote(kind, host, isolated_home), short / "n", host), tree)


@pytest.mark.parametrize("kind", ["http", "s3", "registry"])
def test_nobody_has_that_name(kind, isolated_home, short, tree, monkeypatch):
    def unknown(*_args, **_more):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    host = "mirror.invalid"
    run_all(Told(f"{kind} of an unknown name", *remote(kind, host, isolated_home), short / "n", host), tree)


@pytest.mark.parametrize("there", [True, False], ids=["empty", "missing"])
def test_a_directory_without_anything(there, tmp_path, short, tree):
    mirror = tmp_path / "m"
    if there:
        mirror.mkdir()
    title = "file that is empty" if there else "file that is missing"
    run_all(Told(title, f"file://{mirror}", f"file://{mirror}", short / "n"), tree)


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_a_server_without_anything(kind, tmp_path, isolated_home, short, tree):
    (tmp_path / "m").mkdir()
    with published(kind, tmp_path / "m", isolated_home) as (address, shown):
        run_all(Told(f"{kind} that is empty", address, shown, short / "n"), tree)


def test_a_registry_without_anything(short, tree):
    with FakeRegistry() as registry:
        address, shown = f"oci+http://{registry.host}/apps", f"{registry.host}/apps"
        run_all(Told("registry that is empty", address, shown, short / "n", registry.host), tree)


@pytest.mark.parametrize("wrong", ANSWERS)
@pytest.mark.parametrize("kind", ["http", "s3", "registry"])
def test_a_server_whose_answers_are_all_wrong(kind, wrong, isolated_home, short, tree, monkeypatch):
    with ScriptedServer() as server:
        server.on("*", "*", ANSWERS[wrong])
        if wrong in SLOW:
            monkeypatch.setenv("OCI_BINPKG_TIMEOUT", "0.3")
        title = f"{kind} {wrong}" if wrong in (*SLOW, "hangs up") else f"{kind} answers with {wrong}"
        run_all(Told(title, *remote(kind, server.host, isolated_home), short / "n", server.host), tree)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mirror_that_lies(kind, lie, tmp_path, isolated_home, short, tree):
    mirror = golden_copy(tmp_path / "m")
    LIES[lie](mirror)
    with published(kind, mirror, isolated_home) as (address, shown):
        # each command takes long in a bucket: there, those that the lie is about
        verbs = VERBS if kind != "s3" else ("find", "push") if "index" in lie else ("install",)
        run_all(Told(f"{kind}, {lie}", address, shown, short / "n"), tree, verbs=verbs)
    assert temporary_files(mirror) == []


@pytest.mark.parametrize("lie", REGISTRY_LIES)
def test_a_registry_that_lies(lie, short, tree):
    with FakeRegistry() as registry:
        address, shown = f"oci+http://{registry.host}/apps", f"{registry.host}/apps"
        assert binpkg("push", address, "--store", tree.root, "--update-index").code == 0
        REGISTRY_LIES[lie](registry.repos["apps"])
        run_all(Told(f"registry, {lie}", address, shown, short / "n", registry.host), tree, "app")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_a_directory_that_cannot_be_written(number, tmp_path, short, tree, monkeypatch):
    mirror = golden_copy(tmp_path / "m")
    before = sorted(mirror.rglob("*"))
    mkdir = os.mkdir

    def refuse(path, *args, **more):
        if str(path).startswith(str(mirror)):
            raise OSError(number, os.strerror(number), path)
        mkdir(path, *args, **more)

    monkeypatch.setattr(os, "mkdir", refuse)
    title = f"file that answers {errno.errorcode[number]}"
    told = Told(title, f"file://{mirror}", f"file://{mirror}", short / "n")
    told.run("push", "zlib", "--store", tree.root)
    assert sorted(mirror.rglob("*")) == before
    told.check()


def test_a_file_in_the_place_of_a_folder(tmp_path, short, tree):
    mirror = tmp_path / "m"
    mirror.mkdir()
    (mirror / "blobs").write_bytes(b"")
    told = Told("file with a file for a folder", f"file://{mirror}", f"file://{mirror}", short / "n")
    told.run("push", "zlib", "--store", tree.root)
    assert temporary_files(mirror) == []
    told.check()


def test_a_web_server_is_only_read(tmp_path, isolated_home, short, tree):
    mirror = golden_copy(tmp_path / "m")
    with published("http", mirror, isolated_home) as (address, shown):
        told = Told("http that is sound", address, shown, short / "n")
        told.run("push", "zlib", "--store", tree.root)
        told.run("index update")
        told.check()


def test_a_bucket_that_may_not_be_written(isolated_home, short, tree):
    with ScriptedServer() as server:
        s3_that_refuses_writes(server)
        told = Told("s3 that refuses writes", *remote("s3", server.host, isolated_home), short / "n", server.host)
        told.run("push", "zlib", "--store", tree.root)
        told.check()


@pytest.mark.parametrize(("status", "code"), [(403, "DENIED"), (405, "UNSUPPORTED")])
def test_a_registry_that_may_not_be_written(status, code, short, tree):
    with FakeRegistry() as registry:
        for method in ("POST", "PUT"):
            registry.fault(method, "", times=0, answer=Answer.error(status, code))
        address, shown = f"oci+http://{registry.host}/apps", f"{registry.host}/apps"
        told = Told(f"registry that answers writes with {status}", address, shown, short / "n", registry.host)
        told.run("push", "zlib", "--store", tree.root)
        told.check()
        assert not registry.repos.get("apps") or not registry.repos["apps"].tags


def test_an_etag_that_never_changes_hides_nothing(tmp_path, isolated_home):
    """Versions are asked for within one run only: the next one reads what is there."""
    mirror = golden_copy(tmp_path / "m")
    with published("http", mirror, isolated_home) as (address, _):
        before = binpkg("find", "--from", address)
        (mirror / "v3/manifests/index/index.manifest.json").unlink()
        assert binpkg("find", "--from", address).code == 6
    assert before.code == 0


def test_of_several_mirrors_the_bad_ones_are_told_and_passed_over(tmp_path, short):
    good, bad = golden_copy(tmp_path / "good"), nobody()
    ended = binpkg(
        "install", "greetcfg", "--from", f"http://{bad}/m", "--from", f"file://{good}", "--store", short / "n", ANY
    )
    assert ended.code == 0, ended.err
    assert f"http://{bad}/m is passed over" in ended.err
    assert "could not connect" in ended.err
