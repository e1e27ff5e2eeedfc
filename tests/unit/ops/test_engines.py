"""Loading into and running in a container engine, against a small Docker API on a socket and a client of our own."""

from __future__ import annotations

import io
import json
import os
import socketserver
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import docker
import pytest

from oci_binpkg.errors import ContentError, EngineError, LocalDiskError, UsageError
from oci_binpkg.model.content import OCI_LAYER_ZSTD, Blob, Digest
from oci_binpkg.model.image import Image, Layer
from oci_binpkg.ops.engines import ContainerEngine, connect, has_image, load, run
from oci_binpkg.ops.run_options import RunOptions
from tests.support.blobs import file_blob
from tests.support.stores import image_of_layers, layer_of, small_image

IMAGE = small_image()
NAME = "docker.io/library/greet:1"


class DockerApi(BaseHTTPRequestHandler):
    """Just enough of the Docker API: version, load, inspect."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"

    def do_GET(self) -> None:
        self.server.requests.append(f"GET {self.path}")
        if self.path == "/version":
            self.answer(200, {"ApiVersion": "1.41"})
        elif "/images/" in self.path:
            found = self.server.inspected
            self.answer(200 if found else 404, {"Id": found} if found else {"message": "No such image"})

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        self.server.chunks = list(iter(self.chunk, b""))
        self.server.loaded = b"".join(self.server.chunks)
        if self.server.status != 200:
            self.answer(self.server.status, {"message": "\x1b[31mserver is broken"})
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self.server.events:
            data = json.dumps(event).encode() + b"\r\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def answer(self, status: int, document: Any) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str) -> None:
        super().__init__(path, DockerApi)
        self.requests: list[str] = []
        self.events: list[Any] = [{"stream": f"Loaded image: {NAME}\n"}]
        self.inspected = str(IMAGE.config.descriptor.digest)
        self.status = 200
        self.loaded = b""
        self.chunks: list[bytes] = []

    def handle_error(self, *_: Any) -> None:
        pass  # a client that gives up is part of the tests


@pytest.fixture
def server() -> Iterator[Server]:
    # pytest's own paths are too long for a socket
    with tempfile.TemporaryDirectory(prefix="engine-") as directory, Server(f"{directory}/docker.sock") as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def engine(server: Server) -> Iterator[ContainerEngine]:
    found = connect("docker", [str(server.server_address)], timeout=10)
    yield found
    found.client.close()


# finding an engine


def test_connects_to_the_first_that_is_a_socket(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.sock").write_text("")
    path = str(server.server_address)
    engine = connect("podman", [f"unix://{tmp_path}/absent.sock", str(tmp_path / "file.sock"), f"unix://{path}"])
    assert engine.address == f"unix://{path}"
    assert str(engine) == f"podman at unix://{path}"
    engine.client.close()


def test_says_where_no_engine_was_found(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"no podman engine: no socket at {tmp_path}/a.sock, /b/c") as caught:
        connect("podman", [f"{tmp_path}/a.sock", "unix:///b/c"])
    assert caught.value.exit_code == 12
    assert "start the engine" in caught.value.hint
    with pytest.raises(EngineError, match="any place"):
        connect("docker", [])


def test_says_that_an_engine_does_not_answer() -> None:
    with pytest.raises(EngineError, match=r"docker at tcp://127\.0\.0\.1:1 does not answer"):
        connect("docker", ["tcp://127.0.0.1:1"], timeout=2)


@pytest.mark.covers("B39")
def test_a_login_file_that_the_sdk_cannot_read_is_no_crash(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"reg.example": "junk"}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(EngineError):
        connect("docker", [str(server.server_address)])


@pytest.mark.parametrize("what", ["fifo", "zero", "folder", "large"])
def test_a_login_file_that_is_none_is_not_given_to_the_sdk(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tmp_path / "config.json"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "large":
        path.write_bytes(b" " * ((4 << 20) + 1))
    else:
        path.symlink_to("/dev/zero")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(EngineError, match=r"config\.json: "):
        connect("docker", [str(server.server_address)])


# loading


def test_loads_an_archive_that_old_and_new_engines_understand(server: Server, engine: ContainerEngine) -> None:
    assert load(engine, IMAGE, "greet:1") == str(IMAGE.config.descriptor.digest)
    with tarfile.open(fileobj=io.BytesIO(server.loaded)) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
    (entry,) = json.loads(files["manifest.json"])
    assert entry["RepoTags"] == [NAME]
    assert files[entry["Config"]] == IMAGE.config.read()
    assert [files[path] for path in entry["Layers"]] == [layer.blob.read() for layer in IMAGE.layers]
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (described,) = json.loads(files["index.json"])["manifests"]
    assert described["annotations"]["io.containerd.image.name"] == NAME
    assert described["annotations"]["org.opencontainers.image.ref.name"] == "1"
    assert files["blobs/" + described["digest"].replace(":", "/")] == IMAGE.manifest.read()


def test_the_archive_is_the_same_every_time(server: Server, engine: ContainerEngine) -> None:
    load(engine, IMAGE, "greet:1")
    first = server.loaded
    load(engine, IMAGE, "greet:1")
    assert server.loaded == first
    assert first.endswith(bytes(1024))
    assert len(first) % 512 == 0


def test_streams_layers_in_pieces_and_each_once(server: Server, engine: ContainerEngine) -> None:
    large = b"x" * (3 * 1024 * 1024 + 5)
    blob = Blob.from_bytes(large)
    layer = Layer(blob, Digest.of(large))
    image = image_of_layers(layer, layer_of({"a": b"b"}), layer)
    server.inspected = str(image.config.descriptor.digest).removeprefix("sha256:")
    assert load(engine, image, "greet:1") == str(image.config.descriptor.digest)
    assert max(len(chunk) for chunk in server.chunks) <= 1024 * 1024
    assert len(server.loaded) < len(large) + 20_000
    with tarfile.open(fileobj=io.BytesIO(server.loaded)) as archive:
        (entry,) = json.loads(archive.extractfile("manifest.json").read())
    assert len(entry["Layers"]) == 3


def test_accepts_an_engine_that_names_images_by_manifest(server: Server, engine: ContainerEngine) -> None:
    server.inspected = str(IMAGE.manifest.descriptor.digest)
    assert load(engine, IMAGE, "greet:1") == server.inspected


@pytest.mark.parametrize(
    "event",
    [
        {"error": "no space left\x1b[0m", "errorDetail": {"message": "no space left"}},
        {"errorDetail": {"message": "no space left"}},
        {"errorDetail": "no space left"},
    ],
)
def test_an_error_inside_the_answer_is_an_error(server: Server, engine: ContainerEngine, event: Any) -> None:
    server.events = [{"status": "Loading layer"}, event]
    with pytest.raises(EngineError, match=f"refused {NAME}: no space left") as caught:
        load(engine, IMAGE, "greet:1")
    assert "\x1b" not in caught.value.message


def test_an_answer_that_is_no_object_is_an_error(server: Server, engine: ContainerEngine) -> None:
    server.events = [["surprise"]]
    with pytest.raises(EngineError, match="unexpected answer"):
        load(engine, IMAGE, "greet:1")


def test_a_refused_request_is_an_error(server: Server, engine: ContainerEngine) -> None:
    server.status = 500
    with pytest.raises(EngineError, match=f"did not load {NAME}: .*server is broken") as caught:
        load(engine, IMAGE, "greet:1")
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, b"{}"),
        (500, b"[]"),
        (404, b'"no"'),
        (409, b'{"message": null, "x": 1}'),
        (200, b"[]"),
        (200, b'{"x": 1}'),
        (200, b"null"),
        (200, b"<html>"),
    ],
)
def test_what_does_not_speak_the_protocol_is_an_error(
    server: Server, engine: ContainerEngine, monkeypatch: pytest.MonkeyPatch, status: int, answer: bytes
) -> None:
    def odd(self: DockerApi) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    monkeypatch.setattr(DockerApi, "do_GET", odd)
    with pytest.raises(EngineError):
        load(engine, IMAGE, NAME)
    with pytest.raises(EngineError):
        connect("docker", [engine.address])


def test_another_image_under_the_name_is_an_error(server: Server, engine: ContainerEngine) -> None:
    server.inspected = str(Digest.of(b"other"))
    with pytest.raises(EngineError, match="not the image that was loaded"):
        load(engine, IMAGE, "greet:1")
    server.inspected = ""
    with pytest.raises(EngineError, match="No such image"):
        load(engine, IMAGE, "greet:1")


def test_zstd_layers_explain_a_refusal(server: Server, engine: ContainerEngine) -> None:
    blob = IMAGE.layers[0].blob
    zstd = Blob(replace(blob.descriptor, media_type=OCI_LAYER_ZSTD), blob.open)
    image = Image(IMAGE.manifest, IMAGE.config, (Layer(zstd, IMAGE.layers[0].diff_id),))
    server.events = [{"error": "unexpected EOF"}]
    with pytest.raises(EngineError) as caught:
        load(engine, image, "greet:1")
    assert "zstd" in caught.value.hint


def test_layers_are_verified_on_their_way(engine: ContainerEngine, tmp_path: Path) -> None:
    layer = IMAGE.layers[0]
    wrong = Blob(layer.blob.descriptor, lambda: io.BytesIO(b"x" * layer.blob.descriptor.size))
    with pytest.raises(ContentError, match="has digest"):
        load(engine, Image(IMAGE.manifest, IMAGE.config, (Layer(wrong, layer.diff_id),)), "greet:1")
    gone = file_blob(str(tmp_path / "gone"), layer.blob.descriptor)
    with pytest.raises(LocalDiskError, match="gone"):
        load(engine, Image(IMAGE.manifest, IMAGE.config, (Layer(gone, layer.diff_id),)), "greet:1")


def test_knows_what_the_engine_has_already(server: Server, engine: ContainerEngine) -> None:
    digest = IMAGE.config.descriptor.digest
    assert has_image(engine, "greet:1", digest) == str(digest)
    assert has_image(engine, "greet:1", Digest.of(b"other")) == ""
    server.inspected = ""
    assert has_image(engine, "greet:1", digest) == ""
    server.shutdown()
    server.server_close()
    engine.client.close()
    Path(str(server.server_address)).unlink()
    with pytest.raises(EngineError, match="did not look up greet:1"):
        has_image(engine, "greet:1", digest)


@pytest.mark.parametrize("name", ["Greet:1", "greet:-", f"greet@{Digest.of(b'x')}", "u:p@h/x"])
def test_a_name_that_an_engine_cannot_hold_is_refused(engine: ContainerEngine, server: Server, name: str) -> None:
    with pytest.raises(UsageError):
        load(engine, IMAGE, name)
    assert not any(request.startswith("POST") for request in server.requests)


# running


class Output:
    """The attached output of a container: pairs of stdout and stderr. Ends when the container is killed, if told to."""

    def __init__(self, pairs: list[tuple[bytes | None, bytes | None]], until: threading.Event | None = None) -> None:
        self.pairs = pairs
        self.until = until
        self.closed = False

    def __iter__(self) -> Iterator[tuple[bytes | None, bytes | None]]:
        yield from self.pairs
        if self.until is not None:
            self.until.wait(10)

    def close(self) -> None:
        self.closed = True


class Client:
    """Answers as `docker.APIClient` does and remembers what it was asked."""

    def __init__(self, output: Output, **failures: Exception) -> None:
        self.output = output
        self.failures = failures
        self.calls: list[str] = []
        self.created: dict[str, Any] = {}
        self.bridge = [{"Name": "bridge"}]
        self.killed = output.until or threading.Event()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failures:
            raise self.failures[name]

    def networks(self, names: list[str]) -> list[dict[str, str]]:
        return self.bridge

    def create_host_config(self, **keywords: Any) -> dict[str, Any]:
        return keywords

    def create_container(self, image: str, command: Any, **keywords: Any) -> dict[str, str]:
        self._call("create")
        self.created = {"image": image, "command": command, **keywords}
        return {"Id": "c0ffee"}

    def attach(self, container: str, **_: Any) -> Output:
        self._call("attach")
        return self.output

    def start(self, container: str) -> None:
        self._call("start")

    def wait(self, container: str) -> dict[str, Any]:
        self._call("wait")
        return {"StatusCode": 137 if self.killed.is_set() else 3}

    def kill(self, container: str) -> None:
        self._call("kill")
        self.killed.set()

    def remove_container(self, container: str, **keywords: Any) -> None:
        self._call("remove")
        assert keywords == {"v": True, "force": True}


def test_runs_a_command_passes_its_output_on_and_removes_it() -> None:
    client = Client(Output([(b"out ", None), (None, b"err"), (b"more", None)]))
    out, err = io.BytesIO(), io.BytesIO()
    code = run(
        ContainerEngine("docker", "unix:///x", client),
        "greet:1",
        RunOptions(
            ["greet", "--loud"],
            entrypoint="/bin/sh",
            environment={"A": "b"},
            volumes=["/:/mnt/host:ro"],
            user="1000:100",
            workdir="/srv",
            limits={"nofile": 1024},
        ),
        stdout=out,
        stderr=err,
    )
    assert code == 3
    assert (out.getvalue(), err.getvalue()) == (b"out more", b"err")
    assert client.calls == ["create", "attach", "start", "wait", "remove"]
    assert client.created == {
        "image": "greet:1",
        "command": ["greet", "--loud"],
        "environment": {"A": "b"},
        "host_config": {
            "network_mode": None,
            "ulimits": [docker.types.Ulimit(name="nofile", soft=1024, hard=1024)],
            "binds": ["/:/mnt/host:ro"],
        },
        "user": "1000:100",
        "working_dir": "/srv",
        "entrypoint": ["/bin/sh"],
    }
    assert client.output.closed


@pytest.mark.parametrize(
    ("kind", "bridge", "network", "mode"),
    [
        ("docker", True, "", None),
        ("docker", False, "", "none"),
        ("docker", True, "none", "none"),
        ("podman", False, "", None),
        ("podman", False, "host", "host"),
    ],
)
def test_the_network(kind: Any, bridge: bool, network: str, mode: str | None) -> None:
    client = Client(Output([]))
    client.bridge = client.bridge if bridge else []
    run(
        ContainerEngine(kind, "unix:///x", client),
        "x",
        RunOptions(network=network),
        stdout=io.BytesIO(),
        stderr=io.BytesIO(),
    )
    assert client.created["host_config"]["network_mode"] == mode
    assert client.created["command"] is None


def test_a_container_that_does_not_end_is_killed_and_removed() -> None:
    client = Client(Output([(b"a", None)], threading.Event()))
    with pytest.raises(EngineError, match=r"did not end within 0\.01 seconds"):
        run(
            ContainerEngine("docker", "unix:///x", client),
            "x",
            RunOptions(),
            stdout=io.BytesIO(),
            stderr=io.BytesIO(),
            timeout=0.01,
        )
    assert client.calls == ["create", "attach", "start", "kill", "wait", "remove"]


def test_a_container_that_ends_in_time_is_not_killed() -> None:
    client = Client(Output([]))
    assert (
        run(
            ContainerEngine("docker", "unix:///x", client),
            "x",
            RunOptions(),
            stdout=io.BytesIO(),
            stderr=io.BytesIO(),
            timeout=60,
        )
        == 3
    )
    assert "kill" not in client.calls


def test_what_does_not_start_is_removed_and_reported() -> None:
    failure = docker.errors.APIError("404 Client Error", explanation='exec: "greet": not found\x07')
    client = Client(Output([]), start=failure, remove=OSError("gone"))
    with pytest.raises(EngineError, match=r'did not run x: exec: "greet": not found$'):
        run(ContainerEngine("docker", "unix:///x", client), "x", RunOptions(), stdout=io.BytesIO(), stderr=io.BytesIO())
    assert client.calls[-1] == "remove"
    assert client.output.closed


def test_an_image_that_is_not_there_is_reported() -> None:
    client = Client(Output([]), create=docker.errors.ImageNotFound("404", explanation="No such image: x"))
    with pytest.raises(EngineError, match="No such image: x"):
        run(ContainerEngine("podman", "unix:///x", client), "x", RunOptions(), stdout=io.BytesIO(), stderr=io.BytesIO())
    assert client.calls == ["create"]


def test_output_that_nobody_takes_ends_the_container() -> None:
    class Closed(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    client = Client(Output([(b"a", None)]))
    with pytest.raises(LocalDiskError, match="Broken pipe"):
        run(ContainerEngine("docker", "unix:///x", client), "x", RunOptions(), stdout=Closed(), stderr=io.BytesIO())
    assert client.calls[-1] == "remove"
