"""Documents in which strangers wrote: each field of each, one at a time, with text that would drive a terminal.

    stage = Stage(folder)                  # a tree, a layout, mirrors of both layouts, settings, logins: all good
    for field in stage.fields("layout"):   # every member, every key and every item that its documents have
        with stage.hostile(field): ...     # the same, with this one changed; digests of everything else fit

The fields are found by walking through the documents, so that what is added to one is covered.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
import yaml

from tests.support.command_line import binpkg
from tests.support.fake_registry import Answer, FakeRegistry, Profile
from tests.support.spack_trees import Sketch, spack_tree

SIGN = "]0;pwned"
"""What stands behind the first escape: where it is visible, a text of strangers was shown."""
HOSTILE = "\x1b" + SIGN + "\x07\x1b[2J\x9b5m\x7f\r\n\t\u202e\u2066\u200f\u2028\x08"
WITH_SURROGATES = HOSTILE + "\ud800\udcff"
HOSTILE_WORDS = (HOSTILE, "\x9b5m\u202e\u2066\u200f\u2028")
"""Behind words of a command line; addresses with characters below the blank are refused at once."""

Place = tuple[str | int, ...]
Document = Any
_HASH = 32


@dataclass(frozen=True)
class Field:
    """A place in a document. `key`: it is the name of a member that is hostile, not its value."""

    source: str
    document: str
    path: Place
    key: bool = False

    def __str__(self) -> str:
        shown = ".".join(map(str, self.path))
        return f"{self.source}: {self.document}: {'key ' if self.key else ''}{shown}"


def places(document: Document, path: Place = ()) -> Iterator[tuple[Place, bool]]:
    """Yield every place of a document; of the items of a list, and of members named by hashes, those of one."""
    if isinstance(document, dict):
        hashes = [key for key in document if len(key) == _HASH and isinstance(document[key], dict)]
        chosen = [key for key in hashes if '"app"' in json.dumps(document[key])][-1:] or hashes[:1]
        for key, value in document.items():
            if key not in hashes or key in chosen:
                yield (*path, key), True
                yield from places(value, (*path, key))
    elif isinstance(document, list):
        if not document:
            yield (*path, 0), False
        for number, value in enumerate(document[:1]):
            yield from places(value, (*path, number))
    else:
        yield path, False


def changed(document: Document, path: Place, text: str, *, key: bool) -> Document:
    """Return a document with a hostile text at a place."""
    copy = json.loads(json.dumps(document))
    at = copy
    for step in path[:-1]:
        at = at[step]
    last = path[-1]
    if key:
        items = [(f"{name}{text}" if name == last else name, value) for name, value in at.items()]
        at.clear()
        at.update(items)
    elif isinstance(at, list) and not at:
        at.append(text)
    else:
        at[last] = f"{at[last]}{text}" if isinstance(at[last], str) else text
    return copy


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _encoded(document: Document) -> bytes:
    return json.dumps(document).encode()


Edit = Callable[[str, Document], Document]
"""Given the name of a document and what it says, what it shall say."""


class Layout:
    """An OCI layout with packages, an image and an index, of which every document can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = json.loads((folder / "index.json").read_bytes())
        self.marker = json.loads((folder / "oci-layout").read_bytes())
        self.manifests = {
            self._title(entry): json.loads(self._blob(entry["digest"])) for entry in self.index["manifests"]
        }
        self.configs = {
            title: json.loads(self._blob(each["config"]["digest"])) for title, each in self.manifests.items()
        }
        packages = json.loads(gzip_or_plain(self._blob(self.manifests["index"]["layers"][0]["digest"])))
        self.packages = packages

    def documents(self) -> Mapping[str, Document]:
        found = {"oci-layout": self.marker, "index.json": self.index, "packages": self.packages}
        for title in ("app", "image", "index"):
            found |= {f"manifest of {title}": self.manifests[title], f"config of {title}": self.configs[title]}
        return found

    def write(self, edit: Edit) -> None:
        """Write the layout anew; what names a changed document by its digest fits."""
        index = json.loads(json.dumps(self.index))
        for entry in index["manifests"]:
            title = self._title(entry)
            manifest = json.loads(json.dumps(self.manifests[title]))
            self._put(manifest["config"], _encoded(edit(f"config of {title}", self.configs[title])))
            if title == "index":
                data = _encoded(edit("packages", self.packages))
                packed = gzip.compress(data) if "gzip" in manifest["layers"][0]["mediaType"] else data
                self._put(manifest["layers"][0], packed)
            self._put(entry, _encoded(edit(f"manifest of {title}", manifest)))
        (self.folder / "index.json").write_bytes(_encoded(edit("index.json", index)))
        (self.folder / "oci-layout").write_bytes(_encoded(edit("oci-layout", self.marker)))

    def _title(self, entry: Mapping[str, Any]) -> str:
        tag = str(entry["annotations"]["org.opencontainers.image.ref.name"])
        return {"index.spack": "index", "both": "image"}.get(tag, tag.partition("-")[0])

    def _blob(self, digest: str) -> bytes:
        return (self.folder / "blobs" / digest.replace(":", "/")).read_bytes()

    def _put(self, descriptor: dict[str, Any], data: bytes) -> None:
        descriptor |= {"digest": f"sha256:{_digest(data)}", "size": len(data)}
        (self.folder / "blobs" / "sha256" / _digest(data)).write_bytes(data)


def gzip_or_plain(data: bytes) -> bytes:
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


class Mirror:
    """A mirror of layout 3."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {"index": next(folder.glob("v3/manifests/index/*.json"))}
        self.files |= {path.parent.name: path for path in folder.glob("v3/manifests/spec/*/*.json")}
        self.manifests = {title: json.loads(path.read_bytes()) for title, path in self.files.items()}
        self.layout = json.loads((folder / "v3/layout.json").read_bytes())
        self.contents = {
            title: json.loads(gzip_or_plain(self._blob(self._record(each)))) for title, each in self.manifests.items()
        }

    def documents(self) -> Mapping[str, Document]:
        found = {"layout.json": self.layout}
        for title in ("app", "index"):
            found |= {f"manifest of {title}": self.manifests[title], f"content of {title}": self.contents[title]}
        return found

    def write(self, edit: Edit) -> None:
        for title, path in self.files.items():
            manifest = json.loads(json.dumps(self.manifests[title]))
            record = self._record(manifest)
            data = _encoded(edit(f"content of {title}", self.contents[title]))
            packed = gzip.compress(data) if record["compression"] == "gzip" else data
            record |= {"checksum": _digest(packed), "contentLength": len(packed)}
            blob = self._place(record["checksum"])
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(packed)
            path.write_bytes(_encoded(edit(f"manifest of {title}", manifest)))
        (self.folder / "v3/layout.json").write_bytes(_encoded(edit("layout.json", self.layout)))

    def _record(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        return next(each for each in manifest["data"] if "tar" not in each["mediaType"])

    def _place(self, checksum: str) -> Path:
        return self.folder / "blobs/sha256" / checksum[:2] / checksum

    def _blob(self, record: Mapping[str, Any]) -> bytes:
        return self._place(record["checksum"]).read_bytes()


class Files:
    """Single files in JSON, TOML or YAML."""

    def __init__(self, *paths: Path) -> None:
        self.paths = {path.name: path for path in paths}
        self.contents = {name: self._read(path) for name, path in self.paths.items()}

    def documents(self) -> Mapping[str, Document]:
        return self.contents

    def write(self, edit: Edit) -> None:
        for name, path in self.paths.items():
            document = edit(name, self.contents[name])
            path.write_text(self._dumped(path, document))

    @staticmethod
    def _read(path: Path) -> Document:
        text = path.read_text()
        if path.suffix == ".toml":
            return tomlkit.parse(text).unwrap()
        return yaml.safe_load(text)

    @staticmethod
    def _dumped(path: Path, document: Document) -> str:
        if path.suffix == ".toml":
            return tomlkit.dumps(document)
        return json.dumps(document)  # which is YAML, too


Source = Layout | Mirror | Files


class Stage:
    """Everything that commands read, below a folder; `names` is what stands for the parts in command lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sketches = [
            Sketch("zlib", "1.3", files={"lib/z": b"z"}, variants={"shared": True}),
            Sketch(
                "app",
                "2.0",
                files={"bin/a": "#!/bin/sh\n# {zlib}\n"},
                depends=["zlib"],
                variants={"shared": True, "api": "v2", "cflags": ["-O2"], "flavours": ["a", "b"]},
                compiler=None,
            ),
        ]
        tree = spack_tree(folder / "source", sketches)
        _toml_tree(folder / "toml")
        self.names = {name: str(folder / name) for name in ("source", "toml", "new")} | {
            "tree": str(folder / "tree"),
            "layout": f"oci-layout:{folder}/layout",
            "good": f"oci-layout:{folder}/good",
            "mirror": f"file://{folder}/mirror",
            "target": f"oci-layout:{folder}/new/target",
        }
        done = [
            binpkg("push", self.names["layout"], "--store", tree.root, "--update-index", "--tag", "both"),
            binpkg("push", self.names["good"], "--store", tree.root, "--update-index", "--tag", "both"),
            binpkg("push", self.names["mirror"], "--store", tree.root, "--update-index", "--unsigned"),
            binpkg("push", self.names["target"], "--store", self.names["toml"]),
            binpkg("install", "app", "--from", self.names["good"], "--store", folder / "tree"),
        ]
        assert [each.code for each in done] == [0] * len(done), [each.err for each in done]
        (folder / "config.toml").write_text(
            f'spack_mirrors = "{folder}/mirrors.yaml"\njobs = 1\ncompression = "fast"\n'
            f'[caches.lab]\nurl = "{self.names["layout"]}"\n'
            f'[caches.files]\nfetch = "{self.names["mirror"]}"\npush = "{self.names["mirror"]}"\nsigned = false\n'
            'view = "stable"\nprofile = "p"\naccess_token_variable = "NOT_SET"\n'
            '[registries."registry.example"]\nca_file = "/nowhere/ca.pem"\nservers = ["http://10.0.0.5:9000"]\n'
        )
        (folder / "mirrors.yaml").write_text(
            f"mirrors:\n  theirs:\n    url: file://{folder}/mirror\n    signed: false\n    source: true\n"
            "    fetch:\n      url: oci://registry.example/x\n      access_pair:\n        id_variable: A\n        secret_variable: B\n"
        )
        kept = ["layout", "good", "mirror", "tree", "source", "toml", "config.toml", "mirrors.yaml"]
        self._kept = {name: folder.parent / "kept" / name for name in kept}
        for name, place in self._kept.items():
            _copy(folder / name, place)
        prefix = next((folder / "tree").rglob("app-2.0-*"))
        self.sources: dict[str, Source] = {
            "layout": Layout(folder / "layout"),
            "mirror": Mirror(folder / "mirror"),
            "tree": Files(
                folder / "tree/.spack-db/index.json",
                *(
                    prefix / ".spack" / name
                    for name in ("spec.json", "install_manifest.json")
                    if (prefix / ".spack" / name).exists()
                ),
            ),
            "toml": Files(folder / "toml/packages.toml"),
            "settings": Files(folder / "config.toml", folder / "mirrors.yaml"),
        }

    def fields(self, *sources: str) -> list[Field]:
        """Every field of some sources."""
        return [
            Field(source, name, path, key)
            for source in sources
            for name, document in self.sources[source].documents().items()
            for path, key in places(document)
        ]

    def restore(self, *names: str) -> None:
        """Make the parts of these names, which a command wrote to, what they were; and remove what it made."""
        shutil.rmtree(self.folder / "new", ignore_errors=True)
        for name in names:
            _copy(self._kept[name], self.folder / name)

    def restore_all(self) -> None:
        """Make everything what it was."""
        self.restore(*self._kept)

    def mend(self, field: Field) -> None:
        """Make a field good again."""
        self.sources[field.source].write(lambda _name, document: document)

    def spoil(self, field: Field) -> None:
        """Make one field hostile."""
        text = HOSTILE if field.source in {"toml", "settings"} else WITH_SURROGATES
        self.sources[field.source].write(
            lambda name, document: (
                changed(document, field.path, text, key=field.key) if name == field.document else document
            )
        )


@contextmanager
def rude_registry(layout: Path) -> Iterator[FakeRegistry]:
    """A registry that serves a layout, to whose answers faults can be added."""
    with FakeRegistry(profile=Profile()) as registry:
        assert binpkg("copy", f"oci-layout:{layout}", f"oci://{registry.host}/apps").code == 0
        registry.clear()
        yield registry


IN_HEADERS = "\x1b]0;pwned\x07\x9b5m"
_HEADERS = {
    "Warning": f'299 - "{IN_HEADERS}"',
    "WWW-Authenticate": f'Bearer realm="{IN_HEADERS}"',
    "Content-Type": f"application/{IN_HEADERS}",
    "Docker-Content-Digest": IN_HEADERS,
    "Location": f"http://127.0.0.1:1/{IN_HEADERS}",
    "Link": f'<{IN_HEADERS}>; rel="next"',
    "Retry-After": IN_HEADERS,
}


def _refusal(
    status: int, code: str = "DENIED", message: str = "no", detail: Any = None, *headers: tuple[str, str]
) -> Answer:
    problem = {"code": code, "message": message} | ({"detail": detail} if detail else {})
    return Answer(status, [("Content-Type", "application/json"), *headers], _encoded({"errors": [problem]}))


RUDE_ANSWERS: dict[str, dict[str, Any]] = {
    "message of an error": {"answer": _refusal(400, "UNSUPPORTED", WITH_SURROGATES)},
    "code of an error": {"answer": _refusal(400, WITH_SURROGATES)},
    "detail of an error": {"answer": _refusal(400, "NAME_INVALID", "no", WITH_SURROGATES)},
    "message of a refusal": {"answer": _refusal(403, "DENIED", WITH_SURROGATES)},
    "message of a fault": {"answer": _refusal(500, "UNKNOWN", WITH_SURROGATES)},
    "message of a limit": {
        "answer": _refusal(429, "TOOMANYREQUESTS", WITH_SURROGATES, None, ("Retry-After", "100000"))
    },
    "text instead of an error": {"answer": Answer(500, body=HOSTILE.encode())},
    "bytes instead of an error": {"answer": Answer(502, body=b"\x1b]0;pwned\x07\xff\x9b5m")},
    "members of a list": {
        "answer": Answer.json(200, {"name": "apps", "tags": [WITH_SURROGATES], "manifests": [{WITH_SURROGATES: 1}]})
    },
    "a question for a login": {
        "answer": _refusal(
            401, "UNAUTHORIZED", WITH_SURROGATES, None, ("WWW-Authenticate", f'Basic realm="{IN_HEADERS}"')
        )
    },
    **{f"header {name}": {"headers": {name: value}} for name, value in _HEADERS.items()},
}


def _toml_tree(folder: Path) -> None:
    for name in ("tool", "lib"):
        (folder / name / "bin").mkdir(parents=True)
        (folder / name / "bin" / name).write_text(name)
    (folder / "packages.toml").write_text(
        '[defaults]\narch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
        '[[package]]\nname = "lib"\nversion = "1"\nprefix = "lib"\n'
        '[[package]]\nname = "tool"\nversion = "2"\nprefix = "tool"\ndepends = ["lib"]\n'
        'variants = { shared = true, api = "v1" }\n'
    )


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
