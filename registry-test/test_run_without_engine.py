"""Images run without Docker and Podman: by the kernel alone, by bubblewrap, by Charliecloud, by root's chroot."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from oci_binpkg import Client
from oci_binpkg.errors import EngineError
from tests.support.command_line import binpkg
from tests.support.golden import LACKS_A_DEPENDENCY
from tests.support.real.base_images import BaseImage
from tests.support.real.components import RealParts, find_command
from tests.support.real.engines import DockerEngine

pytestmark = pytest.mark.real

WAYS = ("namespace", "bwrap", "chroot") if os.geteuid() == 0 else ("namespace", "bwrap", "ch-run")
NOBODY = 65534
NAME = "greet-2.1-pciyz3mcnwsea3kxfvomliqdagbtq7g5"
GREETING = f"from /opt/golden/store/linux-x86_64/{NAME}\nHELLO, world (lib 1.3.0)\n"


@pytest.fixture(scope="module")
def images(debian_base: BaseImage, golden_store_at_prefix: Path, workroot: Path, parts: RealParts) -> str:
    """A layout with the golden packages on Debian (tag `greet`), for everybody to read."""
    parts.require("bubblewrap", "charliecloud")
    layout = workroot / "without-engine"
    base = f"oci-layout:{debian_base.layout}:{debian_base.tag}"
    ended = binpkg(
        *("image", f"oci-layout:{layout}", "greet@2.1", "--store", golden_store_at_prefix, "--tag", "greet"),
        *("--cmd", "greet", "--base-image", base, "--env", "COLOUR=green"),
    )
    assert ended.code == LACKS_A_DEPENDENCY, ended.err
    return f"oci-layout:{layout}:greet"


@pytest.mark.parametrize("way", WAYS)
def test_each_way_runs_the_program_and_returns_its_code(
    images: str, way: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert binpkg("run", images, "--engine", way).code == 0
    assert binpkg("run", images, "--engine", way, "--", "sh", "-c", "exit 7").code == 7


def output(images: str, way: str, *command: str, **options: object) -> tuple[int, str]:
    with open(f"/proc/self/fd/{os.memfd_create('out')}", "w+b") as out:
        code = Client().run(images, command, engine=way, stdout=out, **options)  # type: ignore[arg-type]
        out.seek(0)
        return code, out.read().decode()


@pytest.mark.parametrize("way", WAYS)
def test_what_the_program_sees(images: str, way: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("from outside")
    assert output(images, way) == (0, GREETING)
    assert output(
        images, way, "sh", "-c", "echo $COLOUR $SIZE $HOME; pwd; id -u", env={"SIZE": "3"}, workdir="/srv"
    ) == (
        0,
        "green 3 /root\n/srv\n0\n",
    )
    code, text = output(images, way, "cat", "/mnt/x/given", volume=[f"{tmp_path}:/mnt/x"])
    assert (code, text) == (0, "from outside")
    assert (
        output(images, way, "sh", "-c", "test -r /dev/null && test -e /proc/self/status && touch /tmp/x && echo fine")[
            1
        ]
        == "fine\n"
    )


@pytest.mark.parametrize("way", ["namespace", "bwrap", "chroot"])
def test_users_and_networks(images: str, way: str) -> None:
    assert output(images, way, "id", "-un", user="daemon") == (0, "daemon\n")
    assert output(images, way, "id", "-u", user="1234:99") == (0, "1234\n")
    interfaces = output(images, way, "sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '", network="none")[
        1
    ]
    assert interfaces.split() == ["lo"]
    with pytest.raises(EngineError, match="no user 'nobody-here'"):
        output(images, way, "id", user="nobody-here")


@pytest.mark.parametrize("way", WAYS)
def test_the_machine_cannot_be_changed_from_inside(images: str, way: str) -> None:
    look = "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/mm; do test -w $f && echo $f; done"
    assert output(images, way, "sh", "-c", f"{look}; true") == (0, "")
    again = "mount -o remount,rw /proc/sys || umount /proc/sys || mount -t proc proc /mnt"
    assert output(images, way, "sh", "-c", again)[0] != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="about root alone")
def test_root_does_not_run_strangers_by_what_shows_them_the_machine(images: str) -> None:
    with pytest.raises(EngineError, match="as root it would let the image change this machine"):
        output(images, "ch-run")


def test_what_is_written_is_gone_and_the_layers_stay(images: str, tmp_path: Path) -> None:
    change = "echo changed > /etc/debian_version; rm -rf /usr/share/doc; touch /new"
    assert output(images, "namespace", "sh", "-c", change)[0] == 0
    look = "cat /etc/debian_version; ls -d /usr/share/doc; ls /new 2>&1 | grep -c cannot"
    assert "changed" not in output(images, "namespace", "sh", "-c", look)[1]
    assert output(images, "namespace", "sh", "-c", look)[1].endswith("/usr/share/doc\n1\n")
    assert output(images, "bwrap", "sh", "-c", "echo x > /etc/debian_version")[0] != 0


def test_a_volume_that_is_only_read(images: str, tmp_path: Path) -> None:
    for way in ("namespace", "bwrap"):
        assert output(images, way, "touch", "/mnt/x", volume=[f"{tmp_path}:/mnt:ro"])[0] != 0
        assert output(images, way, "touch", "/mnt/y", volume=[f"{tmp_path}:/mnt"])[0] == 0
    assert os.listdir(tmp_path) == ["y"]


@pytest.mark.parametrize("way", ["namespace", "chroot"])
def test_a_program_that_is_not_there_and_one_that_cannot_start(images: str, way: str) -> None:
    with pytest.raises(EngineError, match="has no program 'nothing'"):
        output(images, way, "nothing")
    with pytest.raises(EngineError, match="cannot be started: program: Permission denied"):
        output(images, way, "/etc/passwd")


def test_a_program_without_its_loader_is_explained(golden_store_at_prefix: Path, tmp_path: Path) -> None:
    layout = f"oci-layout:{tmp_path}/bare"
    ended = binpkg("image", layout, "greet@2.1", "--store", golden_store_at_prefix, "--tag", "bare")
    assert ended.code == LACKS_A_DEPENDENCY, ended.err
    program = f"/opt/golden/store/linux-x86_64/{NAME}/bin/greet"
    ended = binpkg("run", f"{layout}:bare", "--engine", "namespace", "--", program)
    assert ended.code == 12
    assert "what it needs to start is not" in ended.err
    assert "base image" in ended.err


def test_the_engine_and_the_kernel_agree(images: str, docker: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker.url)
    limits = {"nofile": 1024, "nproc": 1024}
    for command in ((), ("sh", "-c", "pwd; echo $COLOUR $PATH; id; exit 3")):
        assert output(images, "docker", *command, ulimit=limits) == output(images, "namespace", *command, ulimit=limits)


@pytest.fixture
def started(images: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    processes = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "oci_binpkg", "run", images, "--engine", "namespace", *words]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def mounts_and_children(word: str) -> list[str]:
    """The command lines of processes that hold a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if word in line and "pytest" not in line:
            found.append(line)
    return found


def test_input_reaches_the_program(started: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = started("--", "cat")
    assert process.communicate(b"hello", timeout=60)[0] == b"hello"


def test_a_signal_ends_the_program(started: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = started("--", "sh", "-c", "trap 'echo ended; exit 9' TERM; echo ready; while :; do sleep 0.1; done")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 9
    assert process.stdout.read() == b"ended\n"


def test_nothing_is_left_of_a_run_that_is_killed(started: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = started("--", "sh", "-c", "echo ready; exec sleep 98765")
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.stdout.read()  # to the end: the last process that could write is gone
    assert mounts_and_children("sleep 98765") == []
    assert "unpacked/staging" not in Path("/proc/self/mounts").read_text()


def needed(name: str, found: dict[str, Distribution]) -> dict[str, Distribution]:
    """What a package needs to work, without its extras."""
    for text in requires(name) or ():
        requirement = Requirement(text)
        if requirement.name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[requirement.name] = distribution(requirement.name)
            needed(requirement.name, found)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's place")
def test_an_ordinary_user_needs_nothing_more(images: str, tmp_path: Path, workroot: Path) -> None:
    """Debian's Python, because a checkout below a home that is closed cannot be read by others."""
    packages = tmp_path / "python"
    shutil.copytree(Path(__file__).parents[1] / "oci_binpkg", packages / "oci_binpkg")
    for library in needed("oci-binpkg", {}).values():
        for file in library.files or ():
            if ".." not in file.parts and file.suffix != ".pth":
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(library.locate_file(file)), packages / file)
    home = tmp_path / "home"
    home.mkdir()
    for path in (tmp_path, *tmp_path.parents[:3], workroot):
        os.chmod(path, 0o755)
    os.chown(home, NOBODY, NOBODY)
    script = f"""
import os, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
os.execve({find_command("python3")!r}, ["python3", "-m", "oci_binpkg", "run", {images!r}, *sys.argv[1:]], os.environ)
"""
    environment = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(packages),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for way in ("namespace", "bwrap", "ch-run"):
        done = subprocess.run(
            [sys.executable, "-c", script, "--engine", way],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stdout) == (0, GREETING), (way, done.stderr)
    done = subprocess.run(
        [sys.executable, "-c", script, "--engine", "chroot"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 12
    assert "only root may" in done.stderr
