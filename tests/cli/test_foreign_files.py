"""What others may have put where a document belongs: it ends a command at once with one line, or is passed over."""

import fcntl
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command_line import Ended, binpkg
from tests.support.golden import GOLDEN
from tests.support.spack_trees import Sketch, Tree, spack_tree

pytestmark = pytest.mark.timeout(120)  # what waits for a writer waits for ever

SKETCHES = [
    Sketch("zlib", "1.3", files={"lib/libz.so": b"z"}),
    Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\necho {zlib}\n"}, depends=["zlib"]),
]
EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 10, 11, 14, 15}


@dataclass
class Site:
    """Everything that a user has: a tree, a layout, a mirror, an installed tree, a configuration."""

    base: Path
    home: Path
    tree: Tree

    @property
    def layout(self) -> Path:
        return self.base / "layout"

    @property
    def new(self) -> Path:
        return self.base / "new"

    def one(self, folder: Path, pattern: str) -> Path:
        return min(path for path in folder.glob(pattern) if path.is_file())


@pytest.fixture
def site(tmp_path: Path, isolated_home: Path) -> Site:
    tree = spack_tree(tmp_path / "store", SKETCHES)
    layout, mirror = f"oci-layout:{tmp_path}/layout", f"file://{tmp_path}/mirror"
    assert binpkg("push", layout, "--store", tree.root, "--update-index").code == 0
    assert binpkg("push", mirror, "--store", tree.root, "--update-index", "--unsigned").code == 0
    assert binpkg("install", "app", "--from", layout, "--store", tmp_path / "new").code == 0
    config = isolated_home / ".config" / "oci-binpkg" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[caches.lab]\nurl = "{layout}"\n[caches.files]\nurl = "{mirror}"\nsigned = false\n')
    assert binpkg("search", "--all-arch").code == 0
    (tmp_path / "toml").mkdir()
    shutil.copytree(tree.prefix("zlib"), tmp_path / "toml" / "zlib")
    (tmp_path / "toml" / "packages.toml").write_text(
        '[[package]]\nname = "zlib"\nversion = "1"\nprefix = "zlib"\n'
        'arch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
    )
    return Site(tmp_path, isolated_home, tree)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def _link_to_a_fifo(path: Path) -> None:
    fifo = path.parent / ".elsewhere"
    os.mkfifo(fifo)
    path.symlink_to(fifo)


FOREIGN: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "socket": _socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to a fifo": _link_to_a_fifo,
}

DOCUMENTS: dict[str, tuple[Callable[[Site], Path], Callable[[Site], list[object]]]] = {
    "index.json of a layout": (lambda s: s.layout / "index.json", lambda s: ["find", "--from", "lab"]),
    "oci-layout": (lambda s: s.layout / "oci-layout", lambda s: ["find", "--from", "lab"]),
    "oci-layout, written": (lambda s: s.layout / "oci-layout", lambda s: ["push", "lab", "--store", s.tree.root]),
    "blob of a layout": (lambda s: s.one(s.layout, "blobs/sha256/*"), lambda s: ["install", "app", "--from", "lab", "--store", s.base / "x"]),
    "lock of a layout": (lambda s: s.layout / "index.json.lock", lambda s: ["push", "lab", "--store", s.tree.root, "--update-index", "--force"]),
    "layout of a mirror": (lambda s: s.base / "mirror/v3/layout.json", lambda s: ["find", "--from", "files"]),
    "index of a mirror": (lambda s: s.one(s.base, "mirror/v3/manifests/index/*.json"), lambda s: ["find", "--from", "files"]),
    "index of a mirror, written": (lambda s: s.one(s.base, "mirror/v3/manifests/index/*.json"), lambda s: ["index", "update", "files"]),
    "package of a mirror": (lambda s: s.one(s.base, "mirror/v3/manifests/spec/app/*.json"), lambda s: ["install", "app", "--from", "files", "--store", s.base / "x"]),
    "blob of a mirror": (lambda s: s.one(s.base, "mirror/blobs/sha256/*/*"), lambda s: ["check", "--on", "files", "--thorough", "--store", s.tree.root]),
    "database": (lambda s: s.new / ".spack-db/index.json", lambda s: ["find", "--store", s.new]),
    "database, written": (lambda s: s.new / ".spack-db/index.json", lambda s: ["uninstall", "app", "--store", s.new]),
    "database, installed into": (lambda s: s.new / ".spack-db/index.json", lambda s: ["install", "app", "--from", "lab", "--store", s.new]),
    "lock of the database": (lambda s: s.new / ".spack-db/lock", lambda s: ["uninstall", "app", "--store", s.new]),
    "lock of prefixes": (lambda s: s.new / ".spack-db/prefix_lock", lambda s: ["uninstall", "app", "--store", s.new]),
    "verifier": (lambda s: s.new / ".spack-db/index_verifier", lambda s: ["uninstall", "app", "--store", s.new]),
    "record of files": (lambda s: s.one(s.new, "*/app-*/.spack/install_manifest.json"), lambda s: ["verify-store", s.new]),
    "a recorded file": (lambda s: s.one(s.new, "*/app-*/bin/app"), lambda s: ["verify-store", s.new]),
    "distribution": (lambda s: s.one(s.new, "*/app-*/.spack/binary_distribution"), lambda s: ["push", f"oci-layout:{s.base}/again", "--store", s.new]),
    "packages.toml": (lambda s: s.base / "toml/packages.toml", lambda s: ["push", f"oci-layout:{s.base}/again", "--store", s.base / "toml"]),
    "configuration": (lambda s: s.home / ".config/oci-binpkg/config.toml", lambda s: ["find", "--from", "lab"]),
    "configuration, changed": (lambda s: s.home / ".config/oci-binpkg/config.toml", lambda s: ["mirror", "remove", "lab"]),
    "lock of the configuration": (lambda s: s.home / ".config/oci-binpkg/config.toml.lock", lambda s: ["mirror", "remove", "lab"]),
    "mirrors of Spack": (lambda s: s.home / ".spack/mirrors.yaml", lambda s: ["mirror", "list"]),
    "logins, forgotten": (lambda s: s.home / ".docker/config.json", lambda s: ["logout", "registry.example"]),
    "catalog": (lambda s: s.home / ".cache/oci-binpkg/catalog.sqlite", lambda s: ["search", "--all-arch"]),
    "log of the catalog": (lambda s: s.home / ".cache/oci-binpkg/catalog.sqlite-wal", lambda s: ["search", "--all-arch"]),
    "lock of the catalog": (lambda s: s.home / ".cache/oci-binpkg/catalog.sqlite.lock", lambda s: ["search", "--all-arch"]),
    "layer that is kept": (lambda s: s.one(s.home, ".cache/oci-binpkg/layers/blobs/**/*"), lambda s: ["push", f"oci-layout:{s.base}/again", "--store", s.tree.root]),
    "record of a layer": (lambda s: s.one(s.home, ".cache/oci-binpkg/layers/records/*/*.json"), lambda s: ["push", f"oci-layout:{s.base}/again", "--store", s.tree.root]),
    "key file": (lambda s: s.base / "key.asc", lambda s: ["keys", "trust", s.base / "key.asc"]),
    "keyring": (lambda s: s.home / ".local/share/oci-binpkg/keyring/pubring.kbx", lambda s: ["keys", "list"]),
    "trust of the keyring": (lambda s: s.home / ".local/share/oci-binpkg/keyring/trustdb.gpg", lambda s: ["keys", "list"]),
    "saved spec": (lambda s: s.base / "out/app-2.0-{}.spec.json".format(s.tree.hashes["app"]), lambda s: ["save-specs", "app", "--from", "lab", "--output-dir", s.base / "out"]),
    "downloaded archive": (lambda s: s.base / "out/app-2.0-{}.tar.gz".format(s.tree.hashes["app"]), lambda s: ["download", "app", "--from", "lab", s.base / "out"]),
}  # fmt: skip
MADE_AGAIN = {"layer that is kept", "record of a layer", "distribution"}
"""What is only kept to save work is thrown away and made again."""


def put(path: Path, make: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path)


def told_in_one_line(ended: Ended) -> bool:
    return "Traceback" not in ended.err and len(ended.err) < 4000


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_no_file_ends_the_command_or_is_passed_over(site: Site, document: str) -> None:
    find, command = DOCUMENTS[document]
    path = find(site)
    for kind, make in FOREIGN.items():
        put(path, make)
        ended = binpkg(*command(site))
        assert ended.code in EXIT_CODES, (kind, ended)
        assert told_in_one_line(ended), (kind, ended.err)
        if document in MADE_AGAIN:
            assert ended.code == 0, (kind, ended.err)
            shutil.rmtree(site.base / "again", ignore_errors=True)
        elif ended.code:
            assert path.name in ended.err + ended.out, (kind, ended)
            assert not path.is_file() or kind in {"device", "link to a fifo"}
        (path.parent / ".elsewhere").unlink(missing_ok=True)


@pytest.mark.parametrize("document", ["database", "packages.toml", "index.json of a layout", "key file", "keyring", "configuration"])  # fmt: skip
def test_the_reason_and_the_next_step_are_told(site: Site, document: str) -> None:
    find, command = DOCUMENTS[document]
    put(find(site), os.mkfifo)
    ended = binpkg(*command(site))
    assert ended.code != 0
    assert "is a FIFO, not a regular file" in ended.err.lower().replace("fifo", "FIFO")
    assert len(ended.err.splitlines()) == 2  # what, and what to do


# folders that others may write


def others_may_write(path: Path) -> None:
    path.chmod(0o777)


def belongs_to_somebody(path: Path) -> None:
    if os.getuid() == 0:
        os.chown(path, 4711, -1)
    else:
        others_may_write(path)


@pytest.mark.parametrize("spoil", [others_may_write, belongs_to_somebody])
def test_layers_of_others_are_not_sent_on(site: Site, spoil: Callable[[Path], None]) -> None:
    kept = site.home / ".cache/oci-binpkg/layers"
    spoil(kept)
    before = sorted(str(path) for path in kept.rglob("*"))
    ended = binpkg("push", f"oci-layout:{site.base}/again", "--store", site.tree.root)
    assert ended.code == 0
    assert f"the layer cache {kept} is not used: it " in ended.err
    assert "shared = true" in ended.err
    assert sorted(str(path) for path in kept.rglob("*")) == before
    assert binpkg("install", "app", "--from", f"oci-layout:{site.base}/again", "--store", site.base / "x").code == 0


def test_nothing_stays_of_layers_that_were_not_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(site.base / "temporary"))
    (site.base / "temporary").mkdir()
    others_may_write(site.home / ".cache/oci-binpkg/layers")
    assert binpkg("push", f"oci-layout:{site.base}/again", "--store", site.tree.root).code == 0
    assert os.listdir(site.base / "temporary") == []


def test_our_folders_are_private(site: Site) -> None:
    for path in (".cache/oci-binpkg", ".cache/oci-binpkg/layers", ".cache/oci-binpkg/layers/blobs"):
        assert stat.S_IMODE((site.home / path).stat().st_mode) == 0o700


def forged(site: Site) -> bytes:
    """Let every kept layer of the cache be another one, with a record that fits."""
    layers = site.home / ".cache/oci-binpkg/layers"
    store = spack_tree(site.base / "evil", [Sketch("zlib", "1.3", files={"lib/libz.so": b"evil"}), SKETCHES[1]])
    other = site.base / "other"
    os.environ["OCI_BINPKG_LAYER_CACHE"] = str(other)
    try:
        assert binpkg("push", f"oci-layout:{site.base}/evil-layout", "--store", store.root).code == 0
    finally:
        del os.environ["OCI_BINPKG_LAYER_CACHE"]
    blob = max((path for path in other.glob("blobs/sha256/*/*")), key=lambda path: path.stat().st_size)
    record = next(path for path in other.glob("records/*/*.json") if blob.name in path.read_text())
    facts = dict(re.findall(r'"(digest|size|diff_id|uncompressed_size)": "?([a-z0-9:]+)', record.read_text()))
    target = layers / "blobs/sha256" / blob.name[:2] / blob.name
    target.parent.mkdir(exist_ok=True)
    shutil.copy(blob, target)
    for path in layers.glob("records/*/*.json"):
        text = path.read_text()
        for key, value in facts.items():
            text = re.sub(rf'("{key}": )("?)[a-z0-9:]+("?)', rf"\g<1>\g<2>{value}\g<3>", text, count=1)
        path.write_text(text)
    return blob.read_bytes()


def test_forged_layers_in_a_shared_cache_are_made_anew(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = forged(site)
    others_may_write(site.home / ".cache/oci-binpkg/layers")
    monkeypatch.setenv("OCI_BINPKG_SHARED", "1")
    ended = binpkg("push", f"oci-layout:{site.base}/again", "--store", site.tree.root)
    assert ended.code == 0, ended.err
    assert "is not used" not in ended.err
    contents = [path.read_bytes() for path in (site.base / "again/blobs/sha256").iterdir()]
    assert evil not in contents
    monkeypatch.delenv("OCI_BINPKG_SHARED")


def test_good_layers_in_a_shared_cache_are_used(site: Site) -> None:
    others_may_write(site.home / ".cache/oci-binpkg/layers")
    config = site.home / ".config/oci-binpkg/config.toml"
    config.write_text(f"shared = true\n{config.read_text()}")
    blobs = site.home / ".cache/oci-binpkg/layers/blobs"
    before = {path: path.stat().st_ino for path in blobs.rglob("*")}
    ended = binpkg("push", f"oci-layout:{site.base}/again", "--store", site.tree.root)
    assert ended.code == 0
    assert {path: path.stat().st_ino for path in blobs.rglob("*")} == before


@pytest.mark.parametrize("spoil", [others_may_write, belongs_to_somebody])
def test_a_catalog_of_others_says_nothing(site: Site, spoil: Callable[[Path], None]) -> None:
    folder = site.home / ".cache/oci-binpkg"
    spoil(folder)
    ended = binpkg("search", "--all-arch")
    assert (ended.code, len(ended.lines)) == (0, 2)
    assert "is not used: it " in ended.err
    offline = binpkg("search", "--all-arch", "--offline")
    assert "app" not in offline.out  # what is kept there is not believed


@pytest.mark.parametrize("spoil", [others_may_write, belongs_to_somebody])
def test_a_keyring_of_others_is_refused(site: Site, spoil: Callable[[Path], None]) -> None:
    home = site.home / ".local/share/oci-binpkg/keyring"
    home.mkdir(parents=True, mode=0o700)
    assert binpkg("keys", "list").code == 0
    spoil(home)
    for command in (["keys", "list"], ["find", "--from", f"file://{GOLDEN}/v3-signed", "--check-signature"]):
        ended = binpkg(*command)
        assert ended.code != 0
    ended = binpkg("keys", "list")
    assert ended.code == 15
    assert f"the keyring {home} is not used" in ended.err
    assert f"chmod 700 {home}" in ended.err


# locks


def test_readers_take_no_lock_and_write_nothing(site: Site) -> None:
    locks = [site.layout / "index.json.lock", site.new / ".spack-db/lock", site.new / ".spack-db/prefix_lock"]
    held = [os.open(path, os.O_RDWR | os.O_CREAT) for path in locks]
    for descriptor in held:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in site.base.rglob("*"))
    for command in (
        ["find", "--store", site.new],
        ["find", "--from", "lab"],
        ["find", "--from", "files"],
        ["show", "app", "--from", "lab"],
        ["inspect", f"oci-layout:{site.layout}"],
        ["verify-store", site.new],
        ["check", "--on", "lab", "--store", site.new],
    ):
        ended = binpkg(*command)
        assert ended.code == 0, (command, ended.err)
        assert "waiting" not in ended.err
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in site.base.rglob("*")) == before
    for descriptor in held:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("lock", "command"),
    [
        ("layout/index.json.lock", ["push", "lab", "--update-index", "--force", "--store", "{store}"]),
        ("new/.spack-db/lock", ["uninstall", "app", "--store", "{new}"]),
        ("new/.spack-db/prefix_lock", ["uninstall", "app", "--store", "{new}"]),
        ("new/.spack-db/lock", ["install", "app", "--force", "--from", "lab", "--store", "{new}"]),
        ("config", ["mirror", "remove", "lab"]),
        ("catalog", ["search", "--all-arch"]),
    ],
)
def test_the_wait_for_a_lock_ends_with_one_clear_line(
    site: Site, lock: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = {
        "config": site.home / ".config/oci-binpkg/config.toml.lock",
        "catalog": site.home / ".cache/oci-binpkg/catalog.sqlite.lock",
    }.get(lock, site.base / lock)
    code = "import fcntl,os,sys; f=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT); fcntl.flock(f,2); fcntl.lockf(f,2); print('held',flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setenv("OCI_BINPKG_LOCK_TIMEOUT", "0.2")
        ended = binpkg(*(word.format(store=site.tree.root, new=site.new) for word in command))
        holder.communicate("")
    assert ended.code != 0
    assert "another process has held this lock for 0.2 seconds" in ended.err + ended.out
    assert str(path) in ended.err + ended.out
    monkeypatch.delenv("OCI_BINPKG_LOCK_TIMEOUT")
    again = binpkg(*(word.format(store=site.tree.root, new=site.new) for word in command))
    assert again.code == 0, again.err


@pytest.mark.parametrize("value", ["0", "-1", "soon", "99999"])
def test_a_lock_timeout_is_a_number_of_seconds(site: Site, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCI_BINPKG_LOCK_TIMEOUT", value)
    ended = binpkg("find", "--from", "lab")
    assert ended.code == 2
    assert "OCI_BINPKG_LOCK_TIMEOUT" in ended.err


@pytest.mark.parametrize("value", ["maybe", "2", "on the whole"])
def test_shared_is_yes_or_no(site: Site, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCI_BINPKG_SHARED", value)
    ended = binpkg("find", "--from", "lab")
    assert ended.code == 2
    assert "OCI_BINPKG_SHARED" in ended.err
