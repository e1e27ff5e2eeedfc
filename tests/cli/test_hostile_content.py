"""What a user sees of a registry that sends something bad: a clear error, its exit code, and nothing left behind.

Each case is bad in one way and right in all others: every digest and size that names it fits.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.model.content import OCI_INDEX, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, Digest
from tests.support.command_line import Ended, binpkg
from tests.support.fake_registry import Answer, FakeRegistry, Profile
from tests.support.hostile_archives import END, directory, file, gz, hard_link, header, pax, record, symlink, zst
from tests.support.spack_trees import Sketch, spack_tree

CORRUPT = 10
MIB = 1024 * 1024
Json = dict[str, Any]


class Hostile:
    """A registry with the package zlib, whose parts can be exchanged for others."""

    def __init__(self, registry: FakeRegistry, place: Path) -> None:
        self.registry, self.place = registry, place
        self.cache = f"oci://{registry.host}/apps"
        self.repo = registry.repos["apps"]
        (self.tag,) = (tag for tag in self.repo.tags if tag.startswith("zlib-"))
        self.manifest: Json = json.loads(self.repo.manifests[self.repo.tags[self.tag]][1])
        self.config: Json = json.loads(self.repo.blobs[self.manifest["config"]["digest"]])
        self.canary = place / "canary"
        self.canary.mkdir()
        (self.canary / "file").write_bytes(b"alive")

    @property
    def tar(self) -> bytes:
        """The package's own layer without the end of the archive."""
        whole = gzip.decompress(self.repo.blobs[self.manifest["layers"][-1]["digest"]])
        with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
            last = archive.getmembers()[-1]
        return whole[: last.offset_data + -(-last.size // 512) * 512]

    @property
    def prefix(self) -> str:
        with tarfile.open(fileobj=io.BytesIO(self.tar + END)) as archive:
            (name,) = (name for name in archive.getnames() if name.endswith("/.spack/binary_distribution"))
        return name.removesuffix("/.spack/binary_distribution")

    def put_layer(self, layer: bytes, tar: bytes, media_type: str = OCI_LAYER_GZIP) -> None:
        """Let the package have another layer, and everything that names it fit."""
        digest = self.registry.add_blob("apps", layer)
        self.config["rootfs"]["diff_ids"][-1] = str(Digest.of(tar))
        self.config["binary_cache_checksum"]["hash"] = digest.removeprefix("sha256:")
        self.manifest["layers"][-1] |= {"digest": digest, "size": len(layer), "mediaType": media_type}
        self.put_config(json.dumps(self.config).encode())

    def put_config(self, config: bytes) -> None:
        digest = self.registry.add_blob("apps", config)
        self.manifest["config"] |= {"digest": digest, "size": len(config)}
        self.put_manifest(json.dumps(self.manifest).encode())

    def put_manifest(self, data: bytes, media_type: str = OCI_MANIFEST) -> None:
        self.registry.add_manifest("apps", media_type, data, self.tag)

    def install(self) -> Ended:
        return binpkg("install", "zlib", "--from", self.cache, "--store", self.place / "new")

    def refused(self, *words: str, code: int = CORRUPT) -> None:
        """Install: the error says why in few words, and neither a package nor anything beside it is there."""
        before = sorted(os.listdir(self.place))
        ended = self.install()
        assert ended.code == code, ended.err
        for word in words:
            assert word in ended.err
        assert len(ended.err) < 2000
        assert "Traceback" not in ended.err
        assert not set(ended.err) & {"\x1b", "\x9b", "\r", "\0"}
        new = self.place / "new"
        left = [path for path in new.rglob("*") if path.is_file() and ".spack-db" not in path.parts]
        assert [path for path in left if path.name not in {"locks", "prefix_lock"}] == []
        records = [json.loads(path.read_bytes()) for path in new.glob(".spack-db/index.json")]
        assert [one["database"]["installs"] for one in records if one["database"]["installs"]] == []
        assert sorted(set(os.listdir(self.place)) - {"new"}) == before
        assert (self.canary / "file").read_bytes() == b"alive"
        assert os.listdir(self.canary) == ["file"]


@pytest.fixture(scope="module")
def registry(isolated_session: None) -> Iterator[FakeRegistry]:
    # below a short root: names of up to a hundred bytes need no extended headers
    with tempfile.TemporaryDirectory(prefix="h", dir="/tmp") as root, FakeRegistry(profile=Profile()) as made:
        tree = spack_tree(Path(root, "s"), [Sketch("zlib", "1.3", files={"lib/z": b"z"})])
        pushed = binpkg("push", f"oci://{made.host}/apps", "--store", tree.root, "--update-index")
        assert pushed.code == 0, pushed.err
        yield made


@pytest.fixture
def hostile(registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    monkeypatch.setenv("OCI_BINPKG_RETRIES", "0")
    kept = copy.deepcopy(registry.repos["apps"])
    yield Hostile(registry, tmp_path)
    registry.repos["apps"] = kept
    registry.clear()


def test_what_is_not_changed_is_installed(hostile: Hostile) -> None:
    hostile.put_layer(gz(hostile.tar + END), hostile.tar + END)
    assert hostile.install().code == 0
    assert list((hostile.place / "new").rglob("lib/z"))


# ---- documents


def with_more(text: str) -> Callable[[bytes], bytes]:
    """Put members before the others of a document, as they stand."""
    return lambda data: b"{" + text.encode() + b"," + data[1:]


def with_members(**members: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | members).encode()


def with_layer(**members: Any) -> Callable[[bytes], bytes]:
    """Change the members of the last layer's descriptor."""

    def change(data: bytes) -> bytes:
        document = json.loads(data)
        document["layers"][-1] |= members
        return json.dumps(document).encode()

    return change


DOCUMENTS: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("B01", with_more('"layers": []'), "twice"),
    ("B01", with_more('"Layers": []'), "differ"),
    ("B02", lambda data: data.replace(b'"size": ', b'"size": NaN, "sizes": ', 1), "JSON"),
    ("B02", with_layer(size=12.0), "size"),
    ("B02", with_layer(size=True), "size"),
    ("B03", lambda data: data.decode().encode("utf-16"), "not valid JSON"),
    ("B03", lambda data: b"\xef\xbb\xbf" + data, "not valid JSON"),
    ("B03", with_more('"x": "\\ud800"'), "not valid JSON"),
    ("B04", with_more('"x": ' + "[" * 200_000 + "]" * 200_000), "nested too deeply"),
    ("B04", with_more('"x": ' + "9" * 5000), "not valid JSON"),
    ("B05", with_members(manifests=[]), "both an index and an image manifest"),
    ("B05", with_members(mediaType=OCI_INDEX), "mediaType"),
    ("B06", with_members(schemaVersion=1), "schemaVersion"),
    ("B06", with_members(config=None), "config"),
    ("B06", with_members(layers=None), "layers"),
    ("B07", with_layer(digest="sha256:../../../../canary/file"), "not a digest"),
    ("B07", with_layer(digest="md5:" + "0" * 32), "not a digest"),
    ("B07", with_layer(digest="x" * MIB), "not a digest"),
    ("B08", with_layer(size=-1), "size"),
    ("B08", with_layer(size=2**63), "size"),
    ("B08", with_layer(size=1), "offered"),
    ("B09", lambda data: data + b" " * (17 * MIB), "16777216"),
    ("B09", with_members(layers=[{}] * 100_000), "100000 entries"),
]


@pytest.mark.covers("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09")
@pytest.mark.parametrize(
    ("change", "reason"), [pytest.param(*case, id=f"{each}-{n}") for n, (each, *case) in enumerate(DOCUMENTS)]
)
def test_a_bad_manifest(hostile: Hostile, change: Callable[[bytes], bytes], reason: str) -> None:
    hostile.put_manifest(change(json.dumps(hostile.manifest).encode()))
    hostile.refused(reason)
    if reason == "layers":
        return  # an image without layers is copied as it is: whoever installs it is told
    copied = binpkg("copy", hostile.cache, f"oci-layout:{hostile.place}/copy")
    assert copied.code == CORRUPT, copied.err
    assert hostile.tag not in "".join(path.read_text() for path in (hostile.place / "copy").glob("index.json"))


CONFIGS: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("B01", with_more('"rootfs": {}'), "twice"),
    ("B03", lambda data: b"\xef\xbb\xbf" + data, "not valid JSON"),
    ("B13", lambda _: b"{}", "rootfs"),
    ("B13", with_members(rootfs={"type": "layers", "diff_ids": []}), "describes 0 layers"),
    ("B13", with_members(rootfs={"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}), "diff_id"),
    ("B13", with_members(spec=None), "spec"),
    ("B13", with_members(history=[{}, {}]), "history"),
    ("B44", with_members(spec={"_meta": {"version": 6}, "nodes": []}), "format 6"),
    ("B44", with_members(spec={"_meta": {"version": 5}, "nodes": [{"name": "zlib"}]}), "text is expected"),
]


@pytest.mark.covers("B01", "B03", "B13", "B44")
@pytest.mark.parametrize(
    ("change", "reason"), [pytest.param(*case, id=f"{each}-{n}") for n, (each, *case) in enumerate(CONFIGS)]
)
def test_a_bad_configuration(hostile: Hostile, change: Callable[[bytes], bytes], reason: str) -> None:
    hostile.put_config(change(json.dumps(hostile.config).encode()))
    hostile.refused(reason)


@pytest.mark.covers("B09", "B10")
@pytest.mark.parametrize("count", [0, 2])
def test_an_index_where_a_package_should_be(hostile: Hostile, count: int) -> None:
    """Nothing for any platform, or two for one: neither is guessed at."""
    entry = {"mediaType": OCI_MANIFEST, "platform": {"os": "linux", "architecture": "amd64"}, "size": 2}
    entries = [entry | {"digest": f"sha256:{n}" + "0" * 63} for n in range(count)]
    attestation = entry | {"digest": "sha256:" + "a" * 64, "platform": {"os": "unknown", "architecture": "unknown"}}
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, attestation]}
    hostile.put_manifest(json.dumps(document).encode(), OCI_INDEX)
    hostile.refused("is an index", code=8)


@pytest.mark.covers("B11")
def test_content_within_a_descriptor_and_other_places_for_it_are_not_used(hostile: Hostile) -> None:
    lies = {"data": "bGllcw==", "urls": ["file:///etc/passwd", f"http://{hostile.registry.host}/trap"]}
    hostile.manifest["layers"][-1] |= lies
    hostile.put_manifest(json.dumps(hostile.manifest).encode())
    assert hostile.install().code == 0
    assert [one.path for one in hostile.registry.log if "trap" in one.path] == []


# ---- layers


def added(*members: Callable[[str], bytes]) -> Callable[[Hostile], tuple[bytes, bytes, str]]:
    """Add members to the package's own tar; each is made from its prefix."""

    def layer(hostile: Hostile) -> tuple[bytes, bytes, str]:
        tar = hostile.tar + b"".join(member(hostile.prefix) for member in members) + END
        return gz(tar), tar, OCI_LAYER_GZIP

    return layer


def packed(pack: Callable[[bytes], bytes], media_type: str = OCI_LAYER_GZIP) -> Callable[[Hostile], Any]:
    """Pack the package's own tar in another way."""
    return lambda hostile: (pack(hostile.tar + END), hostile.tar + END, media_type)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if at + 1 else data[:-1] + bytes([data[-1] ^ 1])


LAYERS: list[tuple[str, Callable[[Hostile], tuple[bytes, bytes, str]], str]] = [
    ("B16", added(lambda p: file("/etc/evil")), "absolute"),
    ("B16", added(lambda p: file(f"{p}/../../evil")), "absolute, or has"),
    ("B17", added(lambda p: file(f"{p}-evil/x")), "outside of the prefix"),
    ("B18", added(lambda p: symlink(f"{p}/link", "../../../canary"), lambda p: file(f"{p}/link/evil")), "lies below"),
    ("B19", added(lambda p: hard_link(f"{p}/hard", "/etc/passwd")), "absolute"),
    ("B19", added(lambda p: hard_link(f"{p}/hard", f"{p}/missing")), "is no file before it"),
    ("B20", added(lambda p: header(f"{p}/device", b"4")), "a block device"),
    ("B20", added(lambda p: header(f"{p}/fifo", b"6")), "a FIFO"),
    ("B22", added(lambda p: pax(record("SCHILY.xattr.security.capability", b"\1")), lambda p: file(f"{p}/a")), "sets"),
    ("B22", added(lambda p: header("././@PaxHeader", b"x", size=200 * MIB)), "extended header of"),
    ("B23", added(lambda p: file(f"{p}/a"), lambda p: directory(f"{p}/a/")), "appears twice"),
    ("B24", packed(lambda tar: gz(tar[: -len(END)])), "ends too early"),
    ("B24", packed(lambda tar: gz(tar + b"more")), "goes on after"),
    ("B25", packed(lambda tar: flipped(gz(tar), -8)), "is damaged"),
    ("B25", packed(lambda tar: gz(tar) + b"garbage"), "goes on after"),
    ("B26", packed(lambda tar: zst(tar) + zst(b""), OCI_LAYER_ZSTD), "not a single zstd frame"),
    ("B26", packed(lambda tar: zst(tar)[:-3], OCI_LAYER_ZSTD), "cut short"),
    ("B27", added(lambda p: file(f"{p}/zeros", bytes(150 * MIB))), "grows more than"),
    ("B28", added(lambda p: header(f"{p}/a", size=b"\xff" * 12)), "size"),
    ("B28", added(lambda p: header(f"{p}/a", size=10 * MIB)), "ends too early"),
    ("B29", added(lambda p: file(f"{p}/.wh.lib", b"")), "whiteout"),
    ("B30", packed(lambda _: b"<!DOCTYPE html><html>log in</html>"), "is not gzip"),
    ("B30", packed(zst), "is not gzip"),
    ("B30", packed(lambda tar: b""), "is not gzip"),
]


@pytest.mark.covers("B16", "B17", "B18", "B19", "B20", "B22", "B23", "B24", "B25", "B26", "B27", "B28", "B29", "B30")
@pytest.mark.parametrize(
    ("make", "reason"), [pytest.param(*case, id=f"{each}-{n}") for n, (each, *case) in enumerate(LAYERS)]
)
def test_a_bad_layer(hostile: Hostile, make: Callable[[Hostile], tuple[bytes, bytes, str]], reason: str) -> None:
    hostile.put_layer(*make(hostile))
    hostile.refused(reason, "zlib")


@pytest.mark.covers("B21")
def test_modes_and_owners_of_others(hostile: Hostile) -> None:
    members = (
        file(f"{hostile.prefix}/bin/suid", b"#!/bin/sh\n", mode=0o6777, uid=12345),
        file(f"{hostile.prefix}/etc-shadow", b"x", mode=0o666, uid=0),
    )
    tar = hostile.tar + directory(f"{hostile.prefix}/bin", uid=12345) + b"".join(members) + END
    hostile.put_layer(gz(tar), tar)
    assert hostile.install().code == 0
    ((suid),) = (hostile.place / "new").rglob("bin/suid")
    found = [suid, suid.parent, suid.parents[1] / "etc-shadow"]
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in found] == ["0o755", "0o755", "0o644"]
    assert {path.stat().st_uid for path in found} == {os.getuid()}


# ---- what a user types and has on the disk


@pytest.mark.covers("B40")
@pytest.mark.parametrize("name", ["../../evil", "evil; touch started", "$(touch started)", "a b"])
def test_a_credential_helper_with_such_a_name_is_not_started(
    hostile: Hostile, isolated_home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    programs = hostile.place / "programs"
    (programs / "docker-credential-..").mkdir(parents=True)
    for path in (programs / "docker-credential-a b", hostile.place / "evil"):
        path.write_text(f"#!/bin/sh\ntouch {hostile.place}/started\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.chdir(hostile.place)
    file = isolated_home / ".docker" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"credHelpers": {hostile.registry.host: name}}))
    file.chmod(0o600)
    challenge = Answer(401, [("WWW-Authenticate", 'Basic realm="x"')])
    hostile.registry.fault("GET|HEAD", "/manifests/", times=0, answer=challenge)
    ended = binpkg("find", "--from", hostile.cache)
    assert ended.code == 22
    assert "has a name that no credential helper has" in ended.err
    assert f"{file}: credHelpers" in ended.err
    assert not (hostile.place / "started").exists()


@pytest.mark.covers("B41")
@pytest.mark.parametrize(
    "name",
    ["UPPER", "a/../b", "%2e%2e/b", "a//b", "-a", "apps:" + "x" * 129, "apps@sha256:00", "apps@md5:" + "0" * 32],
)
def test_a_name_that_no_repository_has_is_not_asked_for(hostile: Hostile, name: str) -> None:
    hostile.registry.log.clear()
    address = f"oci://{hostile.registry.host}/{name}"
    for command in (("find", "--from", address), ("inspect", address), ("copy", address, hostile.cache)):
        ended = binpkg(*command)
        assert ended.code == 2, ended.err
        assert ended.err.count("\n") >= 2, "and what to write instead"
    assert hostile.registry.log == []


@pytest.mark.covers("B46")
@pytest.mark.parametrize(
    "answer",
    [
        Answer.error(403, "DENIED", "\x1b[2Jhidden\r\n\u202e" + "y" * (10 * MIB)),
        Answer.error(403, "DENIED", "\x1b[2Jhidden\r\n\u202e" + "y" * 10_000),
        Answer.json(403, {"errors": "DENIED \x1b[31m"}),
        Answer.json(403, {"errors": [{"code": None, "message": None}, 7, "text"]}),
        Answer(403, [], b"\xff\xfe\x1b[2J"),
    ],
    ids=["huge", "long", "no list", "nothing", "no text"],
)
def test_what_a_server_says_of_an_error_is_shown_harmless(hostile: Hostile, answer: Answer) -> None:
    hostile.registry.fault("GET|HEAD", "/manifests/", times=0, answer=answer)
    hostile.refused("403", hostile.registry.host, code=23)
