"""What the documents show of `docker run` is what Docker shows: the consoles with it, against a real registry and engine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Shown, blocks, commands_of
from tests.support.command_line import binpkg
from tests.support.golden import LACKS_A_DEPENDENCY, STORE_ROOT
from tests.support.real.base_images import BaseImage
from tests.support.real.engines import DockerEngine
from tests.support.real.registry import RealRegistry

pytestmark = pytest.mark.real

DOCUMENTS = ("README.md", "docs/guides/containers.md")


def consoles(document: str) -> list[list[Shown]]:
    """Return the commands of each console that runs an image, up to that command."""
    found = []
    for block in blocks((ROOT / document).read_text(encoding="utf-8")):
        shown = list(commands_of(block.text)) if block.kind == "console" else []
        runs = [number for number, each in enumerate(shown) if each.command.startswith("docker run ")]
        found += [shown[: number + 1] for number in runs]
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_docker_shows_what_the_document_says(
    document: str,
    login_registry: RealRegistry,
    docker: DockerEngine,
    debian_base: BaseImage,
    golden_store_at_prefix: Path,
    users: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OCI_BINPKG_CA_FILE", str(login_registry.ca_file))
    docker.login(login_registry.host, "alice", users["alice"])
    places = {
        "registry.example": login_registry.host,
        "debian:12": f"oci-layout:{debian_base.layout}:{debian_base.tag}",
        "/opt/spack/opt": str(golden_store_at_prefix),
    }
    assert consoles(document)
    login = binpkg("login", login_registry.host, "-u", "alice", "--password-stdin", stdin=users["alice"])
    assert login.code == 0, login.err
    for shown in (each for console in consoles(document) for each in console):
        words = shlex.split(re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], shown.command))
        if words[:2] == ["docker", "run"]:
            printed = docker.run(words[2], *words[3:]).replace(STORE_ROOT, "/opt/spack/opt")
            assert printed.splitlines() == shown.expected.splitlines()
        elif words[1] != "login":
            ended = binpkg(*words[1:])
            assert ended.code == (LACKS_A_DEPENDENCY if words[1] in {"push", "image"} else 0), ended.err
