"""Packages below a link of the base image, and below a directory that others may write to, in both engines."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import binpkg
from tests.support.real.base_images import architecture, write_base_image
from tests.support.real.engines import DockerEngine, PodmanEngine
from tests.support.real.process import command_path
from tests.support.real.registry import RealRegistry

pytestmark = pytest.mark.real

LOOK = "greet; cat /opt/vendor; stat -c '%a %u %n' /var /var/opt; readlink /opt; ls /opt | wc -l"
SEEN = ["greetings", "of the base", "750 0 /var", "1777 7 /var/opt", "var/opt", "2"]


def linked_base(folder: Path) -> str:
    """Make a base image of busybox in which /opt is a link to /var/opt."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, mode, owner in (("bin", 0o755, 0), ("var", 0o750, 0), ("var/opt", 0o1777, 7)):
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.uid = tarfile.DIRTYPE, mode, owner
            archive.addfile(info)
        for path, content, mode in (
            ("bin/busybox", Path(command_path("busybox")).read_bytes(), 0o755),
            ("var/opt/vendor", b"of the base\n", 0o644),
        ):
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
        for path, target in (("opt", "var/opt"), *((f"bin/{name}", "busybox") for name in LOOK_WITH)):
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    stream.seek(0)
    base = write_base_image(folder / "linked", stream, tag="base", architecture=architecture())
    return f"oci-layout:{base.layout}:{base.tag}"


LOOK_WITH = ("sh", "cat", "stat", "readlink", "ls", "wc")


@pytest.fixture(scope="module")
def image(plain_registry: RealRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of an image of a package below /opt, which is a link in its base."""
    folder = tmp_path_factory.mktemp("linked")
    store = Path("/opt/oci-binpkg-test-linked")
    program = store / "greet-1.0" / "bin" / "greet"
    program.parent.mkdir(parents=True)
    try:
        program.write_text("#!/bin/sh\necho greetings\n")
        program.chmod(0o755)
        (store / "packages.toml").write_text(
            '[defaults]\narch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
            '[[package]]\nname = "greet"\nversion = "1.0"\nprefix = "greet-1.0"\n'
        )
        ended = binpkg(
            *("image", f"oci+http://{plain_registry.host}/linked", "greet", "--store", store, "--tag", "all"),
            *("--base-image", linked_base(folder)),
        )
        assert ended.code == 0, ended.err
        assert "behind a link" in ended.err
        yield f"{plain_registry.host}/linked:all"
    finally:
        shutil.rmtree(store)


def test_docker_sees_the_base_as_it_was(image: str, docker: DockerEngine) -> None:
    docker.pull(image)
    assert docker.run(image, "sh", "-c", LOOK).splitlines() == SEEN


def test_podman_sees_the_base_as_it_was(image: str, podman: PodmanEngine) -> None:
    podman.pull(image)
    assert podman.run(image, "sh", "-c", LOOK).splitlines() == SEEN
