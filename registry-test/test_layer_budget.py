"""Images of more packages than an engine mounts layers: built, read by others' tools, and run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.command_line import Ended, binpkg
from tests.support.real.base_images import BaseImage
from tests.support.real.engines import DockerEngine, PodmanEngine
from tests.support.real.registry import RealRegistry

pytestmark = pytest.mark.real

COUNTS = (150, 500)
Tool = Callable[..., CompletedProcess[str]]


def tree_of(folder: Path, count: int) -> Path:
    """Make a tree of packages, each with a program that calls that of the one before."""
    text = ['[defaults]\narch = { platform = "linux", os = "debian12", target = "x86_64" }\n']
    for number in range(count):
        program = folder / f"tool{number}-1.0" / "bin" / f"tool{number}"
        program.parent.mkdir(parents=True)
        below = f"tool{number - 1} | wc -l" if number % 25 else "echo end"
        program.write_text(f"#!/bin/sh\n# {'x' * (number % 7 * 100)}\necho {number}; {below}\n")
        program.chmod(0o755)
        needs = f'depends = ["tool{number - 1}"]\n' if number else ""
        text.append(f'[[package]]\nname = "tool{number}"\nversion = "1.0"\nprefix = "tool{number}-1.0"\n{needs}')
    (folder / "packages.toml").write_text("\n".join(text))
    return folder


@pytest.fixture(scope="module")
def images(
    plain_registry: RealRegistry, debian_base: BaseImage, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Ended]:
    """An image of each number of packages on Debian, in the repository `budget`."""
    base = f"oci-layout:{debian_base.layout}:{debian_base.tag}"
    made = {}
    for count in COUNTS:
        store = tree_of(tmp_path_factory.mktemp(f"tools{count}"), count)
        made[count] = binpkg(
            *("image", f"oci+http://{plain_registry.host}/budget", f"tool{count - 1}", "--store", store),
            *("--tag", f"n{count}", "--base-image", base, "--json"),
        )
        assert made[count].code == 0, made[count].err
    return made


@pytest.mark.parametrize("count", COUNTS)
def test_docker_runs_images_of_many_packages(
    images: dict[int, Ended], docker: DockerEngine, plain_registry: RealRegistry, count: int
) -> None:
    name = f"{plain_registry.host}/budget:n{count}"
    docker.pull(name)
    assert docker.run(name, f"tool{count - 1}").splitlines() == [str(count - 1), "2"]
    assert docker.run(name, "sh", "-c", "for n in $(seq 0 149); do command -v tool$n; done").count("\n") >= 149


def test_podman_runs_an_image_of_many_packages(
    images: dict[int, Ended], podman: PodmanEngine, plain_registry: RealRegistry
) -> None:
    name = f"{plain_registry.host}/budget:n500"
    podman.pull(name)
    assert podman.run(name, "tool499").splitlines() == ["499", "2"]


def test_other_tools_read_merged_layers(
    images: dict[int, Ended], skopeo: Tool, umoci: Tool, plain_registry: RealRegistry, tmp_path: Path
) -> None:
    source = f"docker://{plain_registry.host}/budget:n150"
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", source).stdout)
    assert len(inspected["Layers"]) <= 100
    skopeo("copy", "--src-tls-verify=false", source, f"oci:{tmp_path}/layout:all")
    umoci("unpack", "--image", f"{tmp_path}/layout:all", f"{tmp_path}/bundle")
    found = {path.name for path in (tmp_path / "bundle" / "rootfs").glob("**/tool*-1.0/bin/tool*")}
    assert len(found) == 150
